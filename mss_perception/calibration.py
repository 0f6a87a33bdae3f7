"""The calibration file: intrinsics and mounting of every sensor, for when no camera_info or tf brings them.

    cameras:
      rgb: {frame_id: camera_optical, width: 640, height: 480, distortion_model: plumb_bob,
            K: [500, 0, 319.5, 0, 500, 239.5, 0, 0, 1], D: [-0.1, 0.02, 0, 0, 0]}
    extrinsics:       # T_parent_child: where child is in parent; metres, quaternion x y z w
      - {parent: base_link, child: camera_optical, translation: [1.5, 0, 1.4], rotation: [-0.5, 0.5, -0.5, 0.5]}

`distortion_model` and `D` may be left out (none); `matrix: [16 numbers]` may stand for translation and rotation.
Cameras are named as their inputs; those of other names, which other nodes may use, are left alone. A `/` before a
frame, as in ROS 1, is left away.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from mss_models.files import write_atomically
from mss_perception import rigid, yaml_file
from mss_perception.camera import ALIASES, DISTORTION_MODELS, Camera, CameraError
from mss_perception.parameters import shown

ORTHONORMAL = 1e-3      # largest error of a rotation matrix: written with four digits; the nearest rotation is taken


class CalibrationError(ValueError):
    """A calibration file cannot be used. The message names the file, the entry and what would be right."""


@dataclass
class Calibration:
    """cameras: input name -> Camera. extrinsics: (parent, child, T_parent_child (4, 4)), each child once, no loops."""

    cameras: dict[str, Camera] = field(default_factory=dict)
    extrinsics: list[tuple[str, str, np.ndarray]] = field(default_factory=list)

    def foreign(self, inputs: Iterable[str]) -> list[str]:
        """What to tell of each camera that is of none of these inputs; other nodes may share the file."""
        inputs = list(inputs)
        close = {name: difflib.get_close_matches(name, inputs, n=1) for name in self.cameras if name not in inputs}
        return [f"camera {name!r} of calibration_file is not used: it is none of the inputs {', '.join(inputs)}"
                + (f"; meant {meant[0]}?" if meant else "") for name, meant in close.items()]


def load(path: str | Path) -> Calibration:
    """Read a calibration file. Raises CalibrationError."""
    try:
        content = yaml_file.load(path, "calibration")
    except yaml_file.YamlError as error:
        raise CalibrationError(str(error)) from error
    if not isinstance(content, Mapping) or not set(content) <= {"cameras", "extrinsics"}:
        raise CalibrationError(f"calibration {path} must be a mapping with 'cameras' and 'extrinsics'"
                               + (f"; it has {', '.join(content)}" if isinstance(content, Mapping) else ""))
    cameras, extrinsics = content.get("cameras") or {}, content.get("extrinsics") or []
    if not isinstance(cameras, Mapping) or not isinstance(extrinsics, list):
        raise CalibrationError(f"calibration {path}: 'cameras' must be a mapping and 'extrinsics' a list")
    result = Calibration()
    for name, entry in cameras.items():
        where = f"calibration {path}, camera {name!r}"
        result.cameras[name] = _camera(entry, where)
    for number, entry in enumerate(extrinsics):
        result.extrinsics.append(_mounting(entry, f"calibration {path}, extrinsics[{number}]"))
    _check_tree([(parent, child) for parent, child, _ in result.extrinsics], f"calibration {path}")
    return result


def _check_tree(edges: Sequence[tuple[str, str]], where: str) -> None:
    children = Counter(child for _, child in edges)
    if twice := sorted(child for child, count in children.items() if count > 1):
        raise CalibrationError(f"{where}: frame {', '.join(twice)} has more than one parent")
    parent_of, rooted = {child: parent for parent, child in edges}, set()
    for frame in children:
        above: dict[str, None] = {}     # in order
        while frame in parent_of and frame not in above and frame not in rooted:
            above[frame] = None
            frame = parent_of[frame]
        if frame in above:
            loop = list(above)[list(above).index(frame):]
            raise CalibrationError(f"{where}: frame {frame!r} is above itself: " + " in ".join([*loop, frame]))
        rooted |= above.keys()


def save(path: str | Path, calibration: Calibration) -> None:
    """Write what `load` reads. Raises OSError."""
    content = {
        "cameras": {name: {"frame_id": one.frame_id, "width": one.width, "height": one.height,
                           "distortion_model": one.model, "K": one.K.ravel().tolist(), "D": list(one.D)}
                    for name, one in calibration.cameras.items()},
        "extrinsics": [{"parent": parent, "child": child, "matrix": np.asarray(T, np.float64).ravel().tolist()}
                       for parent, child, T in calibration.extrinsics],
    }
    write_atomically(Path(path), yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120))


def _camera(entry, where: str) -> Camera:
    _check_keys(entry, {"frame_id", "width", "height", "K"}, {"distortion_model", "D"}, where)
    model, D = entry.get("distortion_model", "none"), _numbers(entry.get("D") or [], None, where, "D").tolist()
    if not isinstance(model, str):
        raise CalibrationError(f"{where}: distortion_model = {shown(model)} must be a name")
    if any(D) and "distortion_model" not in entry:
        raise CalibrationError(f"{where}: D is given without a distortion_model; one of "
                               + ", ".join(name for name, counts in DISTORTION_MODELS.items() if any(counts)))
    try:
        return Camera(_pixels(entry, "width", where), _pixels(entry, "height", where),
                      _numbers(entry["K"], 9, where, "K").reshape(3, 3), ALIASES.get(model, model), tuple(D),
                      _frame(entry, "frame_id", where))
    except CameraError as error:
        raise CalibrationError(f"{where}: {error}") from error


def _mounting(entry, where: str) -> tuple[str, str, np.ndarray]:
    if isinstance(entry, Mapping) and "matrix" in entry:
        _check_keys(entry, {"parent", "child", "matrix"}, set(), where)
        T = _numbers(entry["matrix"], 16, where, "matrix").reshape(4, 4)
        R = T[:3, :3]
        if np.abs(T[3] - [0, 0, 0, 1]).max() > 1e-9 or np.abs(R @ R.T - np.eye(3)).max() > ORTHONORMAL:
            raise CalibrationError(f"{where}: matrix is no rigid transform; its rotation must be orthonormal and its "
                                   "last row 0 0 0 1")
        if np.linalg.det(R) < 0:
            raise CalibrationError(f"{where}: matrix mirrors (its determinant is -1): the axes of {entry['child']!r} "
                                   "are not right-handed; is one sign or column wrong?")
        U, _, V = np.linalg.svd(R)
        T[:3, :3] = U @ V       # the nearest rotation
    else:
        _check_keys(entry, {"parent", "child", "translation", "rotation"}, set(), where)
        quaternion = _numbers(entry["rotation"], 4, where, "rotation")
        if abs(np.linalg.norm(quaternion) - 1) > 0.01:
            raise CalibrationError(f"{where}: rotation {quaternion.tolist()} must be a unit quaternion x y z w")
        T = rigid.matrix(_numbers(entry["translation"], 3, where, "translation"), quaternion)
    return _frame(entry, "parent", where), _frame(entry, "child", where), T


def _check_keys(entry, needed: set[str], optional: set[str], where: str) -> None:
    if not isinstance(entry, Mapping) or not needed <= set(entry) <= needed | optional:
        there = ", ".join(sorted(entry)) if isinstance(entry, Mapping) else shown(entry)
        raise CalibrationError(f"{where} must have {', '.join(sorted(needed))}"
                               + (f" and may have {', '.join(sorted(optional))}" if optional else "")
                               + f"; it has {there}")


def _frame(entry: Mapping, key: str, where: str) -> str:
    frame = entry[key]
    if not isinstance(frame, str) or not frame.strip("/"):
        raise CalibrationError(f"{where}: {key} = {shown(frame)} must be the name of a frame")
    return frame.lstrip("/")


def _pixels(entry: Mapping, key: str, where: str) -> int:
    value = _numbers(entry[key], 1, where, key)[0]
    if value != round(value):
        raise CalibrationError(f"{where}: {key} = {shown(entry[key])} must be whole pixels")
    return int(value)


def _numbers(values, count: int | None, where: str, key: str) -> np.ndarray:
    """(count,) float64 of numbers or rows of numbers; any count for None."""
    flat = []
    for row in values if isinstance(values, list) else [values]:
        flat += row if isinstance(row, list) else [row]
    # No text: numpy would read "5" as 5, and one of ten digits as ten numbers.
    good = all(type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value) for value in flat)
    if not good or count not in (None, len(flat)):
        raise CalibrationError(f"{where}: {key} = {shown(values)} must be {'' if count is None else f'{count} '}finite "
                               f"number{'s' * (count != 1)}")
    return np.array(flat, np.float64)
