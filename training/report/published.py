"""Published values, to print beside ours: mIoU in percent, an absent class counting 0.

Where a table's printed mean is not the mean of its row, the printed one stands here, and the note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ROBUSTSEG = "RobustSeg"
CHARM = "CHARM, AAAI 2026"
EQUISEG = "EQUISeg"
ANY2SEG = "Any2Seg, ECCV 2024"
BENCHMARK = "Liao et al., CVPRW 2025"

_ORDER = ("rgb", "depth", "event", "lidar", "rgb+depth", "rgb+event", "rgb+lidar", "depth+event", "depth+lidar",
          "event+lidar", "rgb+depth+event", "rgb+depth+lidar", "rgb+event+lidar", "depth+event+lidar",
          "rgb+depth+event+lidar")  # the columns of RobustSeg's table 1 and of Any2Seg's table 3
_MUSES_ORDER = ("rgb", "event", "lidar", "rgb+event", "rgb+lidar", "event+lidar", "rgb+event+lidar")


@dataclass(frozen=True)
class Published:
    """A row of a table. values: figure -> percent; subsets: any-modal's by subset."""

    data: str
    method: str
    backbone: str
    source: str
    values: Mapping[str, float]
    subsets: Mapping[str, float] = field(default_factory=dict)


def _any(data, method, backbone, source, average, top1=None, last1=None, row=()) -> Published:
    values = {"average": average, "top1": top1, "last1": last1}
    order = _ORDER if len(row) == len(_ORDER) else _MUSES_ORDER
    return Published(data, method, backbone, source, {name: one for name, one in values.items() if one is not None},
                     dict(zip(order, row, strict=True)) if row else {})


# Any modal subset, modalities marked absent.
ANY_MODAL = (
    _any("DELIVER", "CMNeXt", "B0", f"{ROBUSTSEG}, table 1", 34.09, row=(
        17.55, 44.69, 4.98, 5.56, 60.19, 18.49, 17.93, 45.21, 45.65, 4.97, 60.28, 60.54, 18.69, 46.01, 60.59)),
    _any("DELIVER", "CMNeXt", "B0", f"{CHARM}, table 1", 22.05, 59.18, 0.37),
    _any("DELIVER", "SegFormer-mean", "B0", f"{ROBUSTSEG}, table 1", 39.36, row=(
        33.08, 51.69, 1.64, 1.57, 61.84, 32.66, 32.50, 51.83, 51.84, 1.57, 61.90, 61.93, 32.53, 51.87, 61.92)),
    _any("DELIVER", "MAGIC", "B0", f"{ROBUSTSEG}, table 1", 40.49, 63.40, 0.26, row=(
        32.60, 55.06, 0.52, 0.39, 63.32, 33.02, 33.12, 55.16, 55.17, 0.26, 63.37, 63.36, 33.32, 55.26, 63.40)),
    _any("DELIVER", "AnySeg", "B0", f"{ROBUSTSEG}, table 1 (its row averages 47.51, which CHARM prints)", 47.13, 59.72,
         21.74, row=(48.17, 51.14, 21.74, 22.66, 59.58, 48.91, 49.43, 52.18, 51.38, 27.57, 59.45, 59.72, 49.49, 51.89,
                     59.41)),
    _any("DELIVER", "RobustSeg", "B0", f"{ROBUSTSEG}, table 1 (its row averages 49.80)", 49.89, row=(
        48.80, 53.99, 23.96, 26.06, 62.60, 49.49, 50.58, 55.36, 54.04, 32.13, 62.08, 62.13, 50.63, 55.04, 60.16)),
    _any("DELIVER", "CHARM", "B0", f"{CHARM}, table 1", 50.97, 64.03, 26.47),
    *(_any("DELIVER", f"CHARM, {variant}", "B0", f"{CHARM}, table 2", *values) for variant, *values in (
        ("(a) addition", 33.95, 63.17, 2.30), ("(b) CoL", 41.53, 62.50, 3.28), ("(c) CoL, MPU", 45.23, 63.97, 15.89),
        ("(d) CoL, InE", 48.76, 62.78, 24.40))),
    *(_any("DELIVER", f"CHARM, {sampling} sampling", "B0", f"{CHARM}, table 3", *values) for sampling, *values in (
        ("softmax", 46.80, 64.03, 16.45), ("uniform", 48.22, 63.88, 23.36), ("softmin", 50.97, 64.04, 26.47))),
    _any("DELIVER", "CMNeXt", "B2", f"{ANY2SEG}, table 3 (its row averages 25.15, which CHARM prints)", 25.25, 66.43,
         0.72, row=(3.76, 0.81, 1.00, 0.72, 50.33, 13.23, 18.22, 21.48, 3.83, 2.86, 66.24, 66.43, 15.75, 46.29, 66.30)),
    _any("DELIVER", "MAGIC", "B2", f"{CHARM}, table 1", 44.66, 67.66, 0.27),
    _any("DELIVER", "Any2Seg", "B2", f"{ANY2SEG}, table 3", 45.04, 68.25, 0.31, row=(
        39.02, 60.11, 2.07, 0.31, 68.21, 39.11, 39.04, 60.92, 60.15, 1.99, 68.24, 68.22, 39.06, 60.95, 68.25)),
    _any("DELIVER", "CHARM", "B2", f"{CHARM}, table 1", 54.96, 68.43, 28.76),
    _any("MUSES", "CMX", "B0", f"{ROBUSTSEG}, table 4", 19.30, row=(2.52, 2.35, 3.01, 41.15, 41.25, 2.56, 42.27)),
    _any("MUSES", "CMNeXt", "B0", f"{ROBUSTSEG}, table 4", 10.80, 46.66, 2.64, row=(
        3.50, 2.77, 2.64, 6.63, 10.28, 3.14, 46.66)),
    _any("MUSES", "MAGIC", "B0", f"{ROBUSTSEG}, table 4", 33.34, 49.05, 2.68, row=(
        43.22, 2.68, 22.95, 43.51, 49.05, 22.98, 49.02)),
    _any("MUSES", "Any2Seg", "B0", f"{ROBUSTSEG}, table 4", 33.86, 50.00, 3.17, row=(
        44.40, 3.17, 22.33, 44.51, 49.96, 22.63, 50.00)),
    _any("MUSES", "AnySeg", "B0", f"{ROBUSTSEG}, table 4", 40.23, 51.25, 19.57, row=(
        46.01, 19.57, 32.13, 46.29, 51.25, 35.21, 51.14)),
    _any("MUSES", "RobustSeg", "B0", f"{ROBUSTSEG}, table 4", 41.21, row=(
        46.63, 22.86, 34.08, 46.93, 51.05, 36.32, 50.63)),
    _any("MUSES", "CHARM", "B0", f"{CHARM}, table 1", 42.19, 52.31, 22.31),
    _any("MUSES", "CMNeXt", "B2", f"{CHARM}, table 1", 33.14, 58.28, 1.23),
    _any("MUSES", "MAGIC", "B2", f"{CHARM}, table 1", 36.19, 55.36, 3.34),
    _any("MUSES", "CHARM", "B2", f"{CHARM}, table 1", 46.18, 59.36, 25.28),
    _any("MCubeS", "CMNeXt", "B0", f"{CHARM}, table 1", 14.35, 40.94, 0.46),
    _any("MCubeS", "MAGIC", "B0", f"{CHARM}, table 1", 34.56, 47.85, 0.55),
    _any("MCubeS", "CHARM", "B0", f"{CHARM}, table 1", 39.05, 48.24, 28.37),
    _any("MCubeS", "CMNeXt", "B2", f"{CHARM}, table 1", 25.17, 51.54, 1.54),
    _any("MCubeS", "MAGIC", "B2", f"{CHARM}, table 1", 38.00, 53.01, 0.32),
    _any("MCubeS", "CHARM", "B2", f"{CHARM}, table 1", 46.58, 54.33, 38.50),
)

_R2 = ("emm", "emm_e0.2", "rmm0.5", "rmm0.5_e0.2", "nm_low", "robustseg_mean")
_BOTH = (*_R2, "rmm0.75", "rmm0.25", "nm_mid", "nm_high")
_EQUISEG = ("clean", "emm", "emm_e0.1", "rmm0.5", "rmm0.5_e0.1", "nm_low", "nm_mid", "equiseg_robustness")


def _robust(data, method, backbone, source, names, *values) -> Published:
    return Published(data, method, backbone, source,
                     {name: one for name, one in zip(names, values, strict=True) if one is not None})


# EMM, RMM (rate 0.5 where none is named) and NM.
ROBUSTNESS = (
    *(_robust("DELIVER", *row[:2], f"{ROBUSTSEG}, table 2; {BENCHMARK}", _BOTH, *row[2:]) for row in (
        ("CMNeXt", "B2", 37.90, 54.46, 47.49, 58.85, 35.23, 46.79, 42.17, 53.61, 16.37, 2.31),
        ("GeminiFusion", "B2", 37.07, 54.33, 42.41, 57.30, 5.52, 39.33, 39.78, 49.74, 4.14, 3.30),
        ("MAGIC", "B2", 44.97, 58.66, 48.19, 59.53, 24.03, 47.08, 45.30, 51.61, 13.31, 3.98),
        ("MAGIC++", "B2", 44.85, 59.18, 49.31, 60.50, 33.12, 49.39, 47.06, 53.92, 18.31, 8.70),
        ("StitchFusion", "B2", 41.98, 58.02, 48.33, 60.58, 24.91, 46.76, 45.16, 53.10, 17.11, 9.25))),
    *(_robust("DELIVER", *row[:2], f"{ROBUSTSEG}, table 2", _R2, *row[2:]) for row in (
        ("SegFormer-mean", "B0", 39.06, 53.12, 39.69, 53.48, 1.78, 37.43),
        ("RobustSeg", "B0", 49.72, 58.04, 51.81, 58.44, 32.13, 50.03))),
    *(_robust("DELIVER", f"EQUISeg{variant}", "B0", f"{EQUISEG}, table {number}", ("clean", "emm"), *values)
      for variant, number, *values in (
          ("", 2, 63.26, 44.77), (", mean for the SQ-Hub", 2, 62.57, 42.83), (", no cross-attention", 2, 61.92, 39.36),
          (", no addition", 2, 58.69, 38.61), (", no SGM", 3, None, 41.54), (", no prototypes", 3, None, 39.84),
          (", cosine pairing", 3, None, 43.11), (", lambda 1", 3, None, 43.46), (", lambda 40", 3, None, 44.39),
          (", lambda 80", 3, None, 44.53))),
    _robust("DELIVER", "EQUISeg", "B2", f"{EQUISEG}, table 1", _EQUISEG, 67.90, 48.22, 65.75, 50.96, 64.64, 34.87,
            19.13, 50.21),
    _robust("MUSES", "EQUISeg", "B0 or B2", f"{EQUISEG}, table 1 (its text names both backbones)", _EQUISEG, 50.26,
            35.63, 45.06, 38.61, 47.63, 20.47, 12.62, 35.75),
    _robust("MCubeS", "CMNeXt", "B2", f"{ROBUSTSEG}, table 3 (its row averages 40.10)", _R2, 40.67, 46.03, 40.25, 46.85,
            26.70, 39.97),
    *(_robust("MCubeS", *row[:2], f"{ROBUSTSEG}, table 3", _R2, *row[2:]) for row in (
        ("MAGIC", "B2", 42.61, 47.05, 42.25, 46.98, 23.88, 40.55),
        ("MMSFormer", "B4", 30.03, 43.12, 42.49, 47.87, 36.96, 40.10),
        ("SegFormer-mean", "B2", 37.44, 47.11, 39.33, 47.15, 24.78, 39.16),
        ("RobustSeg", "B2", 44.56, 47.75, 43.03, 47.28, 31.82, 42.89))),
)


DATA = {"deliver": "DELIVER", "muses": "MUSES", "mcubes": "MCubeS"}  # label set -> data set


# Data set -> the splits, with their variants of reading, that the published figures are of; on MCubeS it is the test
# split, which the published code calls "val" (training/datasets/mcubes.py).
SCORED = {"DELIVER": {"val": ("hha", "cafuser")}, "MUSES": {"val": ("published",)},
          "MCubeS": {"test": ("own", "published"), "val": ("published",)}}


def is_published_data(metrics: Mapping) -> bool:
    """Whether an evaluation's data are a public data set rather than a recording in the same layout."""
    return metrics["recording"].get("dataset") == DATA.get(metrics["label_set"])


def differences(metrics: Mapping) -> list[str]:
    """In what an evaluation on a public data set is not like the published ones; [] where figures may be compared."""
    splits = SCORED[DATA[metrics["label_set"]]]
    split, variant, found = metrics["split"], metrics["recording"].get("variant", ""), []
    if split not in splits or variant not in {one for known in splits.values() for one in known}:
        wanted = " or ".join(f"{one} in variant {' or '.join(known)}" for one, known in splits.items())
        found.append(f"split {split} in variant {variant or 'unknown'} (published: {wanted})")
    elif variant not in splits[split]:
        found.append(f"split {split} in variant {variant} (published: {split} in variant {' or '.join(splits[split])})")
    if metrics["frames"] != metrics["frames_in_split"]:
        found.append(f"{metrics['frames']} of its {metrics['frames_in_split']} frames")
    side, at = metrics["short_side"], metrics["score_at"]
    if variant == "published" and metrics["label_set"] == "muses":  # images and labels are 1024 x 1024
        side, at = side or 1024, "network" if side in (None, 1024) else at
    if side != 1024:
        found.append(f"short side {side or 'as it is'} (published: 1024)")
    if at != "network":
        found.append(f"scored at the {at}' size (published: the network's)")
    if metrics["window"]:
        found.append(f"sliding windows of {metrics['window']} (published: whole images)")
    return found
