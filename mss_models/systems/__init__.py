"""The systems, one file per paper."""

from __future__ import annotations

from mss_models.system import System
from mss_models.systems.cmnext import CMNeXt
from mss_models.systems.segformer_mean import SegFormerMean
from mss_models.systems.stitchfusion import StitchFusion

SYSTEMS: dict[str, type[System]] = {
    "segformer_mean": SegFormerMean,
    "cmnext": CMNeXt,
    "stitchfusion": StitchFusion,
}
