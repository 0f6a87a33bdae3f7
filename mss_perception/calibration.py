"""The calibration file: intrinsics and mounting of every sensor, for when no camera_info or tf brings them.

    cameras:
      rgb: {frame_id: camera_optical, width: 640, height: 480, distortion_model: plumb_bob,
            K: [500, 0, 319.5, 0, 500, 239.5, 0, 0, 1], D: [-0.1, 0.02, 0, 0, 0]}
    extrinsics:       # T_parent_child: where child is in parent; metres, quaternion x y z w
      - {parent: base_link, child: camera_optical, translation: [1.5, 0, 1.4], rotation: [-0.5, 0.5, -0.5, 0.5]}

`distortion_model` and `D` may be left out (none); `matrix: [16 numbers]` may stand for translation and rotation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from mss_perception import rigid
from mss_perception.camera import ALIASES, Camera, CameraError


class CalibrationError(ValueError):
    """A calibration file cannot be used. The message names the file, the entry and what would be right."""


@dataclass
class Calibration:
    """cameras: input name -> Camera. extrinsics: (parent, child, T_parent_child (4, 4)), each child once."""

    cameras: dict[str, Camera] = field(default_factory=dict)
    extrinsics: list[tuple[str, str, np.ndarray]] = field(default_factory=list)


def load(path: str | Path) -> Calibration:
    """Read a calibration file. Raises CalibrationError."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise CalibrationError(f"cannot read calibration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CalibrationError(f"calibration {path} is not YAML: {error}") from error
    if not isinstance(content, Mapping) or not set(content) <= {"cameras", "extrinsics"}:
        raise CalibrationError(f"calibration {path} must be a mapping with 'cameras' and 'extrinsics'")
    cameras, extrinsics = content.get("cameras") or {}, content.get("extrinsics") or []
    if not isinstance(cameras, Mapping) or not isinstance(extrinsics, Sequence):
        raise CalibrationError(f"calibration {path}: 'cameras' must be a mapping and 'extrinsics' a list")
    result = Calibration()
    for name, entry in cameras.items():
        result.cameras[str(name)] = _camera(entry, f"calibration {path}, camera {name!r}")
    for number, entry in enumerate(extrinsics):
        result.extrinsics.append(_mounting(entry, f"calibration {path}, extrinsics[{number}]"))
    children = [child for _, child, _ in result.extrinsics]
    if twice := sorted({child for child in children if children.count(child) > 1}):
        raise CalibrationError(f"calibration {path}: frame {', '.join(twice)} has more than one parent")
    return result


def save(path: str | Path, calibration: Calibration) -> None:
    """Write what `load` reads."""
    content = {
        "cameras": {name: {"frame_id": one.frame_id, "width": one.width, "height": one.height,
                           "distortion_model": one.model, "K": one.K.ravel().tolist(), "D": list(one.D)}
                    for name, one in calibration.cameras.items()},
        "extrinsics": [{"parent": parent, "child": child, "matrix": np.asarray(T, np.float64).ravel().tolist()}
                       for parent, child, T in calibration.extrinsics],
    }
    Path(path).write_text(yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120))


def _camera(entry, where: str) -> Camera:
    _check_keys(entry, {"frame_id", "width", "height", "K"}, {"distortion_model", "D"}, where)
    model = ALIASES.get(entry.get("distortion_model", "none"), entry.get("distortion_model", "none"))
    try:
        return Camera(int(entry["width"]), int(entry["height"]), _numbers(entry["K"], 9, where, "K").reshape(3, 3),
                      model, tuple(entry.get("D") or ()), str(entry["frame_id"]))
    except (CameraError, TypeError, ValueError) as error:
        raise CalibrationError(f"{where}: {error}") from error


def _mounting(entry, where: str) -> tuple[str, str, np.ndarray]:
    if isinstance(entry, Mapping) and "matrix" in entry:
        _check_keys(entry, {"parent", "child", "matrix"}, set(), where)
        T = _numbers(entry["matrix"], 16, where, "matrix").reshape(4, 4)
        if np.abs(T[3] - [0, 0, 0, 1]).max() > 1e-9 or np.abs(T[:3, :3] @ T[:3, :3].T - np.eye(3)).max() > 1e-3:
            raise CalibrationError(f"{where}: matrix is no rigid transform; its rotation must be orthonormal and its "
                                   "last row 0 0 0 1")
    else:
        _check_keys(entry, {"parent", "child", "translation", "rotation"}, set(), where)
        quaternion = _numbers(entry["rotation"], 4, where, "rotation")
        if abs(np.linalg.norm(quaternion) - 1) > 0.01:
            raise CalibrationError(f"{where}: rotation {quaternion.tolist()} must be a unit quaternion x y z w")
        T = rigid.matrix(_numbers(entry["translation"], 3, where, "translation"), quaternion)
    return str(entry["parent"]), str(entry["child"]), T


def _check_keys(entry, needed: set[str], optional: set[str], where: str) -> None:
    if not isinstance(entry, Mapping) or not needed <= set(entry) <= needed | optional:
        there = sorted(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
        raise CalibrationError(f"{where} must have {', '.join(sorted(needed))}"
                               + (f" and may have {', '.join(sorted(optional))}" if optional else "")
                               + f"; it has {there}")


def _numbers(values, count: int, where: str, key: str) -> np.ndarray:
    try:
        array = np.asarray(values, np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{where}: {key} = {values!r} must be {count} numbers") from error
    if array.size != count or not np.isfinite(array).all():
        raise CalibrationError(f"{where}: {key} = {values!r} must be {count} finite numbers")
    return array
