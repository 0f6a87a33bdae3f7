"""Backbones: every one maps (B, 3, H, W) to four feature maps and declares their `channels` and `strides`."""

from __future__ import annotations

from mss_models.backbones.mit import MIT_VARIANTS, NVLABS_EPS, MiT, MiTVariant
from mss_models.backbones.pvt_v2 import PVT_V2_VARIANTS
from mss_models.backbones.swin import SWIN_VARIANTS, Swin

MIT_FORMS: dict[str, MiTVariant] = MIT_VARIANTS | PVT_V2_VARIANTS
BACKBONES: tuple[str, ...] = (*MIT_FORMS, *SWIN_VARIANTS)


def create_backbone(name: str, drop_path: float = 0.1) -> MiT | Swin:
    """The backbone of that name with random weights. Raises ValueError listing the names."""
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is unknown; known: {', '.join(BACKBONES)}")
    return Swin(SWIN_VARIANTS[name], drop_path) if name in SWIN_VARIANTS else MiT(MIT_FORMS[name], drop_path)


def create_mit(name: str, drop_path: float = 0.1, eps: float = NVLABS_EPS) -> MiT:
    """A backbone of MiT's form, for a system that works inside its stages. Raises ValueError listing the names."""
    if name not in MIT_FORMS:
        raise ValueError(f"backbone {name!r} is unknown or none that this system can work in; known: "
                         f"{', '.join(MIT_FORMS)}")
    return MiT(MIT_FORMS[name], drop_path, eps)
