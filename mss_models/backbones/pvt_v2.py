"""Pyramid Vision Transformer v2 (Wang et al., Computational Visual Media 2022, arXiv 2106.13797), table 1.

The same form as MiT, with wider MLPs in the first two stages.
"""

from __future__ import annotations

import dataclasses

from mss_models.backbones.mit import MIT_VARIANTS, MiTVariant

PVT_V2_VARIANTS: dict[str, MiTVariant] = {
    f"PVTv2-{name}": dataclasses.replace(variant, ratios=(4, 4, 4, 4) if name == "B5" else (8, 8, 4, 4))
    for name, variant in MIT_VARIANTS.items()}
