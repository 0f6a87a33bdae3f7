"""Backbones: every one maps (B, 3, H, W) to four feature maps and declares their `channels` and `strides`."""

from __future__ import annotations

from mss_models.backbones.mit import MIT_VARIANTS, NVLABS_EPS, MiT

BACKBONES: tuple[str, ...] = tuple(MIT_VARIANTS)


def create_backbone(name: str, drop_path: float = 0.1) -> MiT:
    """The backbone of that name with random weights. Raises ValueError listing the names."""
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is unknown; known: {', '.join(BACKBONES)}")
    return create_mit(name, drop_path)


def create_mit(name: str, drop_path: float = 0.1, eps: float = NVLABS_EPS) -> MiT:
    """A backbone whose stages a system runs one by one. Raises ValueError listing the names that can."""
    if name not in MIT_VARIANTS:
        raise ValueError(f"backbone {name!r} cannot be used here; known: {', '.join(MIT_VARIANTS)}")
    return MiT(MIT_VARIANTS[name], drop_path, eps)
