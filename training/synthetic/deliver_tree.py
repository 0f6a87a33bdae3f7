"""Drives as a DELIVER tree: what the sensors measured, as the images that the sensor lanes make of it.

    ROOT/{img,depth,hha,lidar,radar,event,semantic}/<weather>/<split>/MAP_<k>_point<i>[_<case>]/NNNNNN_{rgb,...}_front.png
    ROOT/encodings.json   folder (rgb for img) -> Encoding of its images
    ROOT/recording.json   per split: seed, size, frames, weathers, cases, share of each class

A frame's rgb image is written last, so a sequence is whole when all its rgb images are there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from mss_models.files import write_atomically
from mss_models.labels import LABEL_SETS
from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_ENCODINGS
from training.datasets.deliver import CASES, NORMAL, SPLITS, SUFFIXES
from training.synthetic.drive import Drive
from training.synthetic.lanes import Lanes
from training.synthetic.recorder import START_NS, Recorder
from training.synthetic.rig import MS, Rig

WORLD = 2  # rises when the same seed gives other pictures, so that no tree is continued with another world's
FRAMES_PER_STREET = 4
SPACING_NS = 1_200 * MS  # between frames of a street: 8 to 15 metres
ENCODINGS = {**DEFAULT_ENCODINGS, "hha": DELIVER_ENCODINGS["depth"]}
_FIRST_NS = 200 * MS  # the first frame's sweep and event window lie behind it
_LABELS = LABEL_SETS["deliver"]
_FOLDERS = {"semantic": None, "lidar": "lidar", "radar": "radar", "event": "event", "depth": "depth", "hha": "hha",
            "img": "rgb"}  # folder -> lane, in the order of writing


class RecordingError(ValueError):
    """The folder holds another recording than the one asked for. The message names what differs."""


@dataclass(frozen=True)
class Sequence:
    """One street of a split: its number, weather, case and how many frames it gives."""

    split: str
    number: int
    weather: str
    case: str
    frames: int
    size: int
    seed: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """No two splits, and no two streets of one, share these."""
        return self.seed, SPLITS.index(self.split), self.number

    def folder(self, root: Path, kind: str) -> Path:
        case = "" if self.case == NORMAL else f"_{self.case}"
        return root / kind / self.weather / self.split / f"MAP_{self.number % 10 + 1}_point{self.number}{case}"

    def file(self, root: Path, kind: str, frame: int) -> Path:
        return self.folder(root, kind) / f"{frame:06d}_{SUFFIXES[kind]}_front.png"

    def holds(self, root: Path, frame: int) -> bool:
        """Whether all files of a frame are there."""
        return all(self.file(root, kind, frame).is_file() for kind in SUFFIXES)

    def complete(self, root: Path) -> bool:
        return all(self.holds(root, frame) for frame in range(self.frames))


def plan(
    split: str, frames: int, weathers: list[str], size: int, seed: int, cases: list[str] | None = None
) -> list[Sequence]:
    """The sequences of a split that has `frames` frames; weathers take turns street by street, cases round by round.

    cases None: as in DELIVER, every third round has corner cases, and each weather another one than the others."""
    counts = [min(FRAMES_PER_STREET, frames - first) for first in range(0, frames, FRAMES_PER_STREET)]
    return [
        Sequence(
            split, number, weathers[number % len(weathers)], _case(*divmod(number, len(weathers)), cases), count, size,
            seed)
        for number, count in enumerate(counts)
    ]


def _case(turn: int, weather: int, cases: list[str] | None) -> str:
    if cases is not None:
        return cases[(turn + weather) % len(cases)]
    return CASES[(turn // 3 + weather) % len(CASES)] if turn % 3 == 1 else NORMAL


@lru_cache(maxsize=2)
def _lanes(size: int, events_coarse: bool) -> Lanes:
    return Lanes(Rig.of_size(size, events_coarse), DEFAULT_ENCODINGS)


def record(sequence: Sequence, root: Path) -> int:
    """Render and write one sequence; returns its number of frames. Frames that are there already stay."""
    lanes = _lanes(sequence.size, sequence.case == "eventlowres")
    duration = (_FIRST_NS + FRAMES_PER_STREET * SPACING_NS) * 1e-9
    drive = Drive(sequence.seeds, sequence.weather, duration)
    recorder = Recorder(drive, lanes.rig, sequence.seeds, sequence.case)
    for kind in _FOLDERS:
        sequence.folder(root, kind).mkdir(parents=True, exist_ok=True)
    for frame in range(sequence.frames):
        if sequence.holds(root, frame):
            continue
        images, labels = lanes.frame(recorder, START_NS + _FIRST_NS + frame * SPACING_NS)
        raw = np.where(labels == _LABELS.ignore_id, np.uint8(255), labels + np.uint8(1))  # as DELIVER's files: id + 1
        for kind, lane in _FOLDERS.items():
            image = raw if lane is None else cv2.cvtColor(images[lane], cv2.COLOR_RGB2BGR)
            _write_png(sequence.file(root, kind, frame), image)
    return sequence.frames


def _write_png(path: Path, image: np.ndarray) -> None:
    done, content = cv2.imencode(".png", image)
    if not done:
        raise RuntimeError(f"OpenCV could not encode {path}")
    write_atomically(path, content.tobytes())


def begin(root: Path, planned: dict[str, list[Sequence]]) -> None:
    """Write the two JSON files, before any frame. Raises RecordingError when `root` holds something else."""
    encodings = {name: one.to_dict() for name, one in ENCODINGS.items()}
    known = _read(root / "recording.json")
    if known is not None and _read(root / "encodings.json") != json.loads(json.dumps(encodings)):
        raise RecordingError(f"{root} was recorded with other encodings; give an empty folder")
    known = known or {}
    for split, sequences in planned.items():
        entry = _describe(sequences)
        there = {key: value for key, value in known.get(split, entry).items() if key in entry}
        if there != entry:
            differing = [
                f"{key} = {there.get(key)} there, {entry[key]} asked" for key in entry if there.get(key) != entry[key]
            ]
            raise RecordingError(f"{root} holds another recording of split {split}: {'; '.join(differing)}")
        known.setdefault(split, entry)
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(root / "encodings.json", json.dumps(encodings, indent=1))
    write_atomically(root / "recording.json", json.dumps(known, indent=1))


def finish(root: Path, planned: dict[str, list[Sequence]]) -> dict[str, dict[str, float]]:
    """Count the labels of the splits, add the shares to recording.json and return them: split -> class -> share."""
    record = _read(root / "recording.json")
    for split, sequences in planned.items():
        counts = np.zeros(256, np.int64)
        for sequence in sequences:
            for frame in range(sequence.frames):
                path = sequence.file(root, "semantic", frame)
                raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
                if raw is None:
                    raise RecordingError(f"{path} cannot be read; remove it, and the same command records it again")
                counts += np.bincount(raw.ravel(), minlength=256)
        total = max(1, counts[1 : len(_LABELS) + 1].sum())
        record[split]["class_shares"] = {
            name: round(float(counts[index + 1] / total), 6) for index, name in enumerate(_LABELS.names)
        }
    write_atomically(root / "recording.json", json.dumps(record, indent=1))
    return {split: record[split]["class_shares"] for split in planned}


def _describe(sequences: list[Sequence]) -> dict:
    first = asdict(sequences[0])
    return {
        "generator": "training.synthesize",
        "world": WORLD,
        "seed": first["seed"],
        "size": first["size"],
        "frames": sum(sequence.frames for sequence in sequences),
        "streets": len(sequences),
        "weathers": sorted({sequence.weather for sequence in sequences}),
        "cases": sorted({sequence.case for sequence in sequences}),
        "spacing_sec": SPACING_NS * 1e-9,
    }


def _read(path: Path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise RecordingError(f"{path} is damaged ({error}); give an empty folder") from error
