"""A proposal as files: a parameter file with what differs from the defaults and why, and a calibration to fill in."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np

from mss_models.files import write_atomically
from mss_perception import calibration
from mss_perception.calibration import Calibration
from mss_perception.camera import Camera
from mss_perception.config import Config
from mss_perception.proposal import NOMINAL_VIEW_DEG, Proposal


def config_text(proposal: Proposal, source: str) -> str:
    """A ROS 2 parameter file with what differs from the defaults, each line with its reason."""
    defaults = {name: value for name, value, _ in Config.of_inputs(proposal.config.inputs).parameters()}
    defaults["inputs"] = list(Config().inputs)
    lines = [f"# Parameters of mss_perception for {' '.join(source.split())}: only what differs from the defaults.",
             "# Every parameter with its meaning and range: docs/parameters.md. See also docs/calibration.md.",
             "/**:", "  ros__parameters:"]
    section = ""
    for name, value, _ in proposal.config.parameters():
        if name in defaults and value == defaults[name]:
            continue
        owner, _, last = name.rpartition(".")
        if owner != section:
            lines.append(f"    {owner}:")
            section = owner
        reason = " ".join(proposal.reasons.get(name, "").split())
        lines.append(f"    {'  ' if owner else ''}{last}: {json.dumps(value)}" + (f"     # {reason}" if reason else ""))
    if len(lines) == 4:
        lines[-1] += " {}      # the defaults fit"
    return "\n".join(lines) + "\n"


def calibration_text(proposal: Proposal, known: Calibration) -> str:
    """A calibration file: what is known from the present one, nominal cameras marked as guesses, gaps as comments."""
    lines = ["# Calibration of mss_perception; docs/calibration.md says how to get each value.", "cameras:"]
    for name, camera in known.cameras.items():
        lines.append(_camera_line(name, camera))
    for name, camera in proposal.guesses.items():
        lines += [f"  # That of {proposal.same_as[name]}: its images have the frame and size of those of {name}."] \
            if name in proposal.same_as else [
                f"  # GUESS: only the size of {name} is known. A pinhole of {NOMINAL_VIEW_DEG:g} degrees across is",
                "  # assumed, without distortion; results are geometrically wrong until it is calibrated."]
        lines.append(_camera_line(name, camera))
    lines.append("extrinsics:       # T_parent_child: where child is in parent; metres, quaternion x y z w")
    for parent, child, T in known.extrinsics:
        lines.append(f"  - {{parent: {json.dumps(parent)}, child: {json.dumps(child)}, "
                     f"matrix: {json.dumps(np.asarray(T).ravel().tolist())}}}")
    for parent, child in proposal.gaps:
        lines += ["  # MISSING: measure it, write it here and take the # away",
                  f"  # - {{parent: {json.dumps(parent)}, child: {json.dumps(child)}, translation: [0, 0, 0], "
                  "rotation: [0, 0, 0, 1]}"]
    return "\n".join(lines) + "\n"


def _camera_line(name: str, camera: Camera) -> str:
    return (f"  {name}: {{frame_id: {json.dumps(camera.frame_id)}, width: {camera.width}, height: {camera.height}, "
            f"distortion_model: {camera.model},\n    K: {json.dumps(camera.K.ravel().tolist())}, "
            f"D: {json.dumps(list(camera.D))}}}")


def write(path: Path, proposal: Proposal, source: str) -> list[Path]:
    """Write the configuration and, when it needs one, a calibration file beside it. Returns what was written.

    Raises FileExistsError rather than overwriting anything, and OSError.
    """
    files = {}
    if proposal.guesses or proposal.gaps:
        given = proposal.config.calibration_file
        beside = path.with_name(path.stem + "_calibration.yaml")
        files[beside] = calibration_text(proposal, calibration.load(given) if given else Calibration())
        proposal.set("calibration_file", str(beside.resolve()), "fill in what is marked there")
    files[path] = config_text(proposal, source)
    if there := [one for one in files if one.exists()]:
        raise FileExistsError(errno.EEXIST, "exists already; name another file", str(there[0]))
    for file, text in files.items():
        write_atomically(file, text)
    return list(files)
