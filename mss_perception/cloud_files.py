"""Labelled points as PCD and PLY files, for viewers and for other programs.

Open3D writes them where it is installed. Elsewhere the few lines below do: both formats are a text header and then the
points one after the other (Point Cloud Library, "The PCD file format", version 0.7; G. Turk, "The PLY Polygon File
Format", 1994).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mss_models.files import write_atomically
from mss_models.labels import LabelSet

try:
    import open3d
except (ImportError, OSError):      # it is large, not made for every Python, and needs the system's graphics libraries
    open3d = None

SUFFIXES = (".pcd", ".ply")

POSITION = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
MEANING = [("label", "u1"), ("confidence", "u1")]
PCD_POINT = np.dtype([*POSITION, ("rgb", "<u4"), *MEANING])
PLY_POINT = np.dtype([*POSITION, ("red", "u1"), ("green", "u1"), ("blue", "u1"), *MEANING])
PCD_TYPES = {"<f4": "F", "<u4": "F", "|u1": "U"}        # rgb is the bits of 0x00RRGGBB in a float, as PCL has it
PLY_TYPES = {"<f4": "float", "|u1": "uchar"}


def write_points(path: str | Path, points: Mapping[str, np.ndarray], labels: LabelSet) -> None:
    """Write the columns of pipeline.Output.points, coloured by class, as binary PCD or PLY, whichever the suffix says.

    points: x, y, z (N,) float32 metres; label, confidence (N,) uint8. The file has these fields and the class's colour:
    rgb in PCD, red, green and blue in PLY. Raises ValueError for another suffix, OSError when it cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"points file {path} must end in {' or '.join(SUFFIXES)}")
    colours = labels.colorize(np.asarray(points["label"], np.uint8))
    if open3d is not None and len(colours):         # Open3D writes no file without points
        _write_with_open3d(path, points, colours)
        return
    records = np.empty(len(colours), PCD_POINT if path.suffix == ".pcd" else PLY_POINT)
    for name in ("x", "y", "z", "label", "confidence"):
        records[name] = points[name]
    if path.suffix == ".pcd":
        red, green, blue = colours.astype(np.uint32).T
        records["rgb"] = red << 16 | green << 8 | blue
    else:
        records["red"], records["green"], records["blue"] = colours.T
    header = _pcd_header if path.suffix == ".pcd" else _ply_header
    write_atomically(path, header(len(records)).encode() + records.tobytes())


def _write_with_open3d(path: Path, points: Mapping[str, np.ndarray], colours: np.ndarray) -> None:
    cloud = open3d.t.geometry.PointCloud(np.stack([points[name] for name in "xyz"], -1).astype(np.float32))
    cloud.point["colors"] = colours
    for name in ("label", "confidence"):
        cloud.point[name] = np.asarray(points[name], np.uint8)[:, None]     # (N, 1)
    if not open3d.t.io.write_point_cloud(str(path), cloud):
        raise OSError(f"Open3D cannot write {path}")


def _pcd_header(count: int) -> str:
    kinds = [PCD_POINT[name] for name in PCD_POINT.names]
    lines = {"VERSION": 0.7, "FIELDS": " ".join(PCD_POINT.names), "SIZE": " ".join(str(one.itemsize) for one in kinds),
             "TYPE": " ".join(PCD_TYPES[one.str] for one in kinds), "COUNT": " ".join("1" for _ in kinds),
             "WIDTH": count, "HEIGHT": 1, "VIEWPOINT": "0 0 0 1 0 0 0", "POINTS": count, "DATA": "binary"}
    return "# .PCD v0.7 - Point Cloud Data file format\n" + "".join(f"{key} {value}\n" for key, value in lines.items())


def _ply_header(count: int) -> str:
    properties = "".join(f"property {PLY_TYPES[PLY_POINT[name].str]} {name}\n" for name in PLY_POINT.names)
    return f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n"
