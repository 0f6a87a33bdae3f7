"""What every data set gives: frames with their conditions, `Sample`s, encodings, labels. A subclass for each layout."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mss_models.labels import LabelSet
from mss_models.modality import Encoding, canonical_order
from training.datasets.memory import memory_bytes
from training.datasets.sample import DatasetError, Sample


@dataclass(frozen=True)
class Frame:
    """One frame. `name` identifies it; `weather` and `case` are its conditions, '' where the data set tells none.

    images: modality -> the file that its image is made of. labels: the file of its labels. more: further files that
    decide what the images are (a second channel, a calibration).
    """

    name: str
    weather: str
    case: str
    images: Mapping[str, Path] = field(default_factory=dict)
    labels: Path = Path()
    more: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images.values(), self.labels, *self.more)


class Dataset:
    """A split of a data set: a sequence of `Sample`s, whose names and conditions are in `frames`.

    A subclass says in NAME, LABELS, MODALITIES, SPLITS, WEATHERS, CASES and VARIANTS what there is, finds the frames
    (`_find`) and reads them (`_image`, `_labels`). It has, of the split that is open:
    root, split, variant; modalities, in canonical order; encodings, one for each of them; labels, the LabelSet; frames.

    modalities: None for all that the data set has. variant: one of VARIANTS, ways to read the same data that lead to
    other figures; '' takes the one that gives `encodings` (those that a checkpoint learned), or else the usual one.
    weathers, cases: keep only those. limit: keep that many frames, evenly spread over the split. cache: hold decoded
    frames in memory; 'auto': if all of them take at most a quarter of the memory that this process may use. strict:
    look at once whether every file is there.

    Raises DatasetError for a missing folder, split or file at construction, and for a damaged file, images of different
    sizes or labels out of range at reading; the message names the file. ModalityError for an unknown modality.
    """

    NAME = ""
    LABELS: LabelSet
    MODALITIES: tuple[str, ...] = ()
    SPLITS: tuple[str, ...] = ("train", "val", "test")
    WEATHERS: tuple[str, ...] = ()
    CASES: tuple[str, ...] = ()
    VARIANTS: tuple[str, ...] = ()

    def __init__(self, root: str | Path, split: str, modalities: Iterable[str] | None = None, *, variant: str = "",
                 encodings: Mapping[str, Encoding] | None = None, weathers: Iterable[str] | None = None,
                 cases: Iterable[str] | None = None, limit: int | None = None, cache: bool | str = False,
                 strict: bool = True) -> None:
        self.root, self.split = Path(root), split
        self.labels, self.variant = self.LABELS, variant
        self.modalities = canonical_order(self._available() if modalities is None else modalities)
        weathers = _chosen("weather", weathers, self.WEATHERS)
        cases = _chosen("case", cases, self.CASES)
        if split not in self.SPLITS:
            raise DatasetError(f"split {split!r} is unknown; choose from {', '.join(self.SPLITS)}")
        if variant not in ("", *self.VARIANTS):
            raise DatasetError(f"{self.NAME} has no variant {variant!r}; choose from "
                               + (", ".join(self.VARIANTS) or "none: leave it out"))
        if unknown := [one for one in self.modalities if one not in self.MODALITIES]:
            raise DatasetError(f"modality {unknown[0]!r} is not part of {self.NAME}; it has "
                               f"{', '.join(self.MODALITIES)}")
        if limit is not None and limit < 1:
            raise DatasetError(f"limit = {limit}; at least one frame is needed")
        self.encodings: dict[str, Encoding] = self._prepare(dict(encodings or {}))
        frames = [one for one in self._find() if one.weather in weathers and one.case in cases]
        if not frames:
            raise DatasetError(f"{self.root}: split {split} has no frame of weather {'/'.join(weathers)} "
                               f"and case {'/'.join(cases)}")
        if limit is not None and limit < len(frames):
            frames = [frames[i * len(frames) // limit] for i in range(limit)]
        if strict:
            self._check_files(frames)
        self.frames: tuple[Frame, ...] = tuple(frames)
        self._cache: dict[int, Sample] = {}
        self.cached = self._decoded_bytes() <= 0.25 * memory_bytes() if cache == "auto" else bool(cache)

    # ------------------------------------------------------------------------------------------- what a subclass says

    def _available(self) -> Iterable[str]:
        """The modalities when none are asked for."""
        return self.MODALITIES

    def _prepare(self, wanted: dict[str, Encoding]) -> dict[str, Encoding]:
        """Settle `variant`; the encodings of the modalities, `wanted` where there is a choice."""
        raise NotImplementedError

    def _find(self) -> list[Frame]:
        """All frames of the split, in order; DatasetError where there are none."""
        raise NotImplementedError

    def _image(self, frame: Frame, modality: str, size: tuple[int, int]) -> np.ndarray:
        """uint8 (H, W, 3); size: (H, W) of the frame's labels."""
        raise NotImplementedError

    def _labels(self, frame: Frame) -> np.ndarray:
        """uint8 (H, W) class ids or 255."""
        raise NotImplementedError

    @property
    def card(self) -> dict:
        """How the data came to be, for the card of what is trained on it."""
        return {"dataset": self.NAME} | ({"variant": self.variant} if self.variant else {})

    def remarks(self) -> list[str]:
        """What a person should know of this split and no figure shows."""
        return []

    # ----------------------------------------------------------------------------------------------- what everybody has

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        if not self.cached:
            return self._read(self.frames[index])
        if index not in self._cache:  # two threads may both read a frame; both results are equal
            self._cache[index] = self._read(self.frames[index])
        return self._cache[index]

    def read_labels(self, index: int) -> np.ndarray:
        """The labels of one frame alone, uint8 (H, W): class ids or 255."""
        if index in self._cache:
            return self._cache[index].labels
        return self.labels_of(self.frames[index])

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the first frame: what a network is made for."""
        height, width = self.read_labels(0).shape
        return height, width

    def fingerprint(self) -> str:
        """12 hex digits of the frames' names, the sizes of their files in bytes, the encodings and the variant."""
        return self._digest({"files": [[str(path.relative_to(self.root)), path.stat().st_size]
                                       for frame in self.frames for path in frame.files]})

    def origin(self) -> str:
        """As the fingerprint, but the same wherever our own world was recorded: of how, instead of the files' sizes.

        One seed gives the same labels on every machine. The images' last bits depend on the kind of processor (rays are
        cast with its own approximations), and with them the sizes of the compressed files.
        """
        recorded = self.card.get(self.split)
        if not isinstance(recorded, dict) or "world" not in recorded:
            return self.fingerprint()
        return self._digest({"recorded": {key: value for key, value in recorded.items() if key != "class_shares"}})

    def _digest(self, more: dict) -> str:
        content = {"encodings": {name: one.to_dict() for name, one in self.encodings.items()}, "variant": self.variant,
                   "frames": [one.name for one in self.frames], **more}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def preload(self, threads: int = 2, progress=lambda iterable, total: iterable) -> None:
        """Reads every frame into the cache now. `progress` may wrap the iteration, as tqdm does."""
        with ThreadPoolExecutor(threads) as pool:
            for _ in progress(pool.map(self.__getitem__, range(len(self))), total=len(self)):
                pass

    def _decoded_bytes(self) -> int:
        height, width = self.image_size
        return len(self) * height * width * (3 * len(self.modalities) + 1)

    def _check_files(self, frames: list[Frame]) -> None:
        missing = [path for one in frames for path in one.files if not path.is_file()]
        if missing:
            folders = Counter(path.relative_to(self.root).parts[0] for path in missing)
            counts = ", ".join(f"{count} in {folder}/" for folder, count in folders.items())
            raise DatasetError(f"{missing[0]}: no such file; of {len(frames)} frames of split {self.split}, "
                               f"files are missing: {counts}")

    def _read(self, frame: Frame) -> Sample:
        labels = self.labels_of(frame)
        labels.flags.writeable = False
        return Sample(frame.name, {name: self.image_of(frame, name, labels.shape) for name in self.modalities}, labels)

    def labels_of(self, frame: Frame) -> np.ndarray:
        """The labels of a frame of this split, read now."""
        return self._labels(frame)

    def missing_in(self, frame: Frame) -> frozenset[str]:
        """The modalities whose sensor gave nothing for a frame."""
        return frozenset()

    def image_of(self, frame: Frame, modality: str, size: tuple[int, int]) -> np.ndarray:
        """One image of a frame of this split, read now, uint8 (H, W, 3), read-only. size: (H, W) of its labels."""
        image = self._image(frame, modality, size)
        if image.shape[:2] != size:
            raise DatasetError(f"{frame.images.get(modality, frame.name)}: {size_text(image)} pixels, but its labels "
                               f"have {size[1]} x {size[0]}")
        image.flags.writeable = False
        return image


def check_ids(labels: np.ndarray, num_classes: int, path: Path) -> np.ndarray:
    """uint8 labels of ids 0..num_classes-1 and 255, as they are. Raises DatasetError for others."""
    if (bad := (labels >= num_classes) & (labels != 255)).any():
        raise DatasetError(f"{path}: label ids {np.unique(labels[bad]).tolist()} are out of range; "
                           f"0..{num_classes - 1} are classes, 255 is ignored")
    return labels


def size_text(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def _chosen(what: str, chosen: Iterable[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if chosen is None:
        return known or ("",)
    chosen = tuple(chosen)
    if unknown := set(chosen) - set(known):
        raise DatasetError(f"{what} {sorted(unknown)} is unknown; "
                           + (f"choose from {', '.join(known)}" if known else f"the data set tells no {what}"))
    return chosen
