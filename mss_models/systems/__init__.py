"""The systems, one file per paper."""

from __future__ import annotations

from mss_models.system import System
from mss_models.systems.any2seg import Any2Seg
from mss_models.systems.anyseg import AnySeg
from mss_models.systems.charm import CHARM
from mss_models.systems.cmnext import CMNeXt
from mss_models.systems.equiseg import EQUISeg
from mss_models.systems.geminifusion import GeminiFusion
from mss_models.systems.magic import MAGIC
from mss_models.systems.magic_plus import MAGICPlusPlus
from mss_models.systems.robustseg import RobustSeg
from mss_models.systems.segformer_mean import SegFormerMean
from mss_models.systems.stitchfusion import StitchFusion

SYSTEMS: dict[str, type[System]] = {
    "segformer_mean": SegFormerMean,
    "cmnext": CMNeXt,
    "stitchfusion": StitchFusion,
    "magic": MAGIC,
    "magic_plus": MAGICPlusPlus,
    "any2seg": Any2Seg,
    "anyseg": AnySeg,
    "robustseg": RobustSeg,
    "equiseg": EQUISeg,
    "charm": CHARM,
    "geminifusion": GeminiFusion,
}
