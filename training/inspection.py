"""What a data set holds and what is wrong with it, in figures: the work behind `python -m training.inspect`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from training.datasets.dataset import Dataset, Frame
from training.datasets.sample import DatasetError


@dataclass
class Looked:
    """One frame as found. sums: modality -> (pixels, sum, sum of squares (3,), pixels that hold something), of 0..1.

    classes: pixels of every id 0..255, None when its labels cannot be read. picture: a digest of the camera's file.
    """

    frame: Frame
    size: tuple[int, int] | None = None
    classes: np.ndarray | None = None
    sums: dict[str, tuple[int, np.ndarray, np.ndarray, int]] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    picture: str = ""
    problems: list[str] = field(default_factory=list)


def look_at(dataset: Dataset, frame: Frame) -> Looked:
    """Reads everything of one frame; what cannot be read becomes a problem, one for each file."""
    found = Looked(frame, missing=dataset.missing_in(frame))
    gone = [path for path in frame.files if not path.is_file()]
    found.problems += [f"{path}: no such file" for path in gone]
    if frame.labels in gone:
        return found
    try:
        labels = dataset.labels_of(frame)
    except DatasetError as error:
        found.problems.append(str(error))
        return found
    found.size, found.classes = labels.shape, np.bincount(labels.ravel(), minlength=256)
    for name in dataset.modalities:
        if frame.images.get(name) in gone or name in found.missing:
            continue
        try:
            image = dataset.image_of(frame, name, labels.shape)
        except DatasetError as error:
            if not any(str(path) in str(error) for path in gone):
                found.problems.append(str(error))
            continue
        mean, deviation = (np.asarray(one)[:3, 0] / 255 for one in cv2.meanStdDev(image))
        pixels = image.shape[0] * image.shape[1]
        filled = int(np.count_nonzero((image != dataset.encodings[name].nothing).any(2)))
        found.sums[name] = pixels, mean * pixels, (deviation**2 + mean**2) * pixels, filled
    if (path := frame.images.get("rgb")) and path not in gone:
        found.picture = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def look_through(dataset: Dataset, threads: int = 2,
                 progress: Callable[[Iterable, int], Iterable] = lambda frames, total: frames) -> list[Looked]:
    """look_at every frame, in order. `progress` may wrap the iteration, as tqdm does."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(progress(pool.map(lambda frame: look_at(dataset, frame), dataset.frames), len(dataset)))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def orphans(dataset: Dataset) -> list[str]:
    """A line for each folder of this split with files that belong to no frame, because the camera's picture is gone.

    For data sets whose splits are folders, opened without limit or filters.
    """
    known: dict[str, set[Path]] = {}
    for frame in dataset.frames:
        for path in (*frame.images.values(), frame.labels):
            if (pattern := _pattern(dataset, frame, path)) is not None:
                known.setdefault(pattern, set()).add(path)
    lines = []
    for pattern, paths in known.items():
        if left := sorted(set(dataset.root.glob(pattern)) - paths):
            lines.append(f"{left[0]}: belongs to no frame, for there is no picture of the camera"
                         + (f"; so do {len(left) - 1} more in {pattern}" if len(left) > 1 else ""))
    return lines


def _pattern(dataset: Dataset, frame: Frame, path: Path) -> str | None:
    """Matches this and all other files of its kind in the split; None where the split is no folder."""
    parts = path.relative_to(dataset.root).parts
    if dataset.split not in parts[:-1]:
        return None
    at = parts.index(dataset.split)
    before = ["*" if part == frame.weather else part for part in parts[:at]]
    return "/".join([*before, dataset.split, *["*"] * (len(parts) - at - 2), f"*{path.suffix}"])


def describe(dataset: Dataset, frames: list[Looked]) -> dict:
    """One split as JSON: frames, conditions, sizes, classes, and mean and std of each modality on the scale 0..1.

    share: of the labelled pixels. filled: share of the pixels that hold something. Statistics are over all pixels, as
    an Encoding's mean and std are; frames that cannot be read are left out.
    """
    sizes = Counter(f"{one.size[1]} x {one.size[0]}" for one in frames if one.size)
    pixels = sum((one.classes for one in frames if one.classes is not None), np.zeros(256, int))
    labelled = int(pixels[: len(dataset.labels)].sum())
    classes = {}
    for number, name in enumerate(dataset.labels.names):
        holding = sum(one.classes is not None and bool(one.classes[number]) for one in frames)
        classes[name] = {"pixels": int(pixels[number]), "share": round(int(pixels[number]) / max(labelled, 1), 6),
                         "frames": int(holding)}
    conditions = Counter(condition(one.frame) for one in frames)
    return {
        "frames": len(frames), "variant": dataset.variant, "conditions": dict(sorted(conditions.items())),
        "sizes": dict(sizes.most_common()), "classes": classes,
        "ignored": round(1 - labelled / max(int(pixels.sum()), 1), 6),
        "modalities": {name: _statistics(dataset, name, frames) for name in dataset.modalities},
    }


def _statistics(dataset: Dataset, name: str, frames: list[Looked]) -> dict:
    sums = [one.sums[name] for one in frames if name in one.sums]
    pixels = max(sum(one[0] for one in sums), 1)
    mean = sum((one[1] for one in sums), np.zeros(3)) / pixels
    square = sum((one[2] for one in sums), np.zeros(3)) / pixels
    return {"encoding": dataset.encodings[name].name, "read": len(sums),
            "mean": [round(float(one), 5) for one in mean],
            "std": [round(float(one), 5) for one in np.sqrt(np.maximum(square - mean**2, 0))],
            "filled": round(sum(one[3] for one in sums) / pixels, 5),
            "blank": sum(one[3] == 0 for one in sums),
            "missing": sum(name in one.missing for one in frames)}


def condition(frame: Frame) -> str:
    """'rain/motionblur'; 'all' where a data set tells no conditions."""
    return "/".join(part for part in (frame.weather, frame.case) if part) or "all"


def problems_of(splits: dict[str, list[Looked]]) -> list[str]:
    """What is broken: unreadable or missing files, odd sizes, and pictures that are in two splits."""
    problems = [text for frames in splits.values() for one in frames for text in one.problems]
    for split, frames in splits.items():
        sizes = Counter(one.size for one in frames if one.size)
        if len(sizes) > 1:
            usual = sizes.most_common(1)[0][0]
            problems += [f"{one.frame.name}: {one.size[1]} x {one.size[0]} pixels, where most frames of split {split} "
                         f"have {usual[1]} x {usual[0]}" for one in frames if one.size and one.size != usual]
    return problems + [text for text, across in _repeated(splits) if across]


def _repeated(splits: dict[str, list[Looked]]) -> list[tuple[str, bool]]:
    """What is said of every picture that is there before, and whether it is in two splits."""
    seen: dict[str, tuple[str, str]] = {}
    found = []
    for split, frames in splits.items():
        for one in frames:
            before, name = seen.setdefault(one.picture, (split, one.frame.name)) if one.picture else ("", "")
            if one.picture and (before, name) != (split, one.frame.name):
                found.append((f"{one.frame.name} of split {split}: the same picture as {name} of split {before}",
                              before != split))
    return found


def notes_of(described: dict[str, dict], splits: dict[str, list[Looked]], published: dict[str, int] | None,
             whole: bool) -> list[str]:
    """What is worth knowing and need not be wrong. published: frames that the public data set has by split."""
    notes = []
    for split, one in described.items():
        if absent := [name for name, entry in one["classes"].items() if not entry["pixels"]]:
            notes.append(f"split {split}: {len(absent)} of {len(one['classes'])} classes do not occur: "
                         + ", ".join(absent))
        looked = [frame for frame in splits[split] if frame.classes is not None]
        if bare := [frame.frame.name for frame in looked if not frame.classes[: len(one["classes"])].any()]:
            notes.append(f"split {split}: {len(bare)} of {one['frames']} frames have no labelled pixel; the first: "
                         + bare[0])
        for name, entry in one["modalities"].items():
            for what in ("blank", "missing"):
                if entry[what]:
                    notes.append(f"split {split}: {name} is {what} in {entry[what]} of {one['frames']} frames")
        if whole and published and split in published and published[split] != one["frames"]:
            notes.append(f"split {split} has {one['frames']} frames; the public data set has {published[split]}")
    twice = [text for text, across in _repeated(splits) if not across]
    return notes + [f"{len(twice)} pictures are twice in their split; the first: {twice[0]}"] if twice else notes
