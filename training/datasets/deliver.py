"""The DELIVER layout: the public data set's and our own recordings'.

    ROOT/{img,depth,hha,lidar,event,semantic}/{cloud,fog,night,rain,sun}/{train,val,test}/
        MAP_x_pointy[_case]/NNNNNN_{rgb,depth,lidar,event,semantic}_front.png

Layout and conversions as in jamycheung/DELIVER, semseg/datasets/deliver.py. Our own recordings add to ROOT
`encodings.json` (modality -> Encoding; without it the images are taken for the published ones) and `recording.json`
(command and seeds, copied into the card of what is trained on it).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mss_models.labels import LABEL_SETS
from mss_models.modality import DELIVER_ENCODINGS, DELIVER_MODALITIES, Encoding, canonical_order
from training.datasets.memory import memory_bytes
from training.datasets.sample import DatasetError, Sample, read_png, three_channels

SPLITS = ("train", "val", "test")
WEATHERS = ("cloud", "fog", "night", "rain", "sun")
CASES = ("motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres")
NORMAL = "normal"  # the case of a sequence folder without a case suffix

# folder and file suffix of each modality; hha files keep the suffix of depth
SUFFIXES = {"img": "rgb", "depth": "depth", "hha": "depth", "lidar": "lidar", "event": "event", "semantic": "semantic"}
# of the public data set, by folder: its depth is HHA unless told otherwise
PUBLISHED_ENCODINGS = {**DELIVER_ENCODINGS, "hha": DELIVER_ENCODINGS["depth"],
                       "depth": Encoding("depth", "deliver_depth")}


@dataclass(frozen=True)
class Frame:
    """One frame's files. `name` is its place under img/ and identifies it; `case` is NORMAL or one of CASES."""

    name: str
    weather: str
    case: str
    images: dict[str, Path]
    labels: Path


class Deliver:
    """A split of a DELIVER tree: a sequence of `Sample`s with the frames' paths and conditions in `frames`.

    depth_encoding: 'hha' or 'metric', the folder that modality `depth` is read from; None: what `encodings.json`
    names, else 'hha' as the published models use. `weathers` and `cases` keep only those (NORMAL is a case).
    `limit` keeps that many frames, evenly spread over the split. `cache` holds decoded frames in memory as uint8;
    'auto': if all of them take at most a quarter of the memory that this process may use.

    Raises DatasetError for a missing folder, split or sibling file at construction, and for a damaged file, images
    of different sizes or labels out of range at reading; the message names the file.
    """

    labels = LABEL_SETS["deliver"]

    def __init__(self, root: str | Path, split: str, modalities: Iterable[str] = DELIVER_MODALITIES, *,
                 depth_encoding: str | None = None, weathers: Iterable[str] | None = None,
                 cases: Iterable[str] | None = None, limit: int | None = None, cache: bool | str = False) -> None:
        self.root, self.split, self.modalities = find_root(Path(root)), split, canonical_order(modalities)
        weathers = _chosen("weather", weathers, WEATHERS)
        cases = _chosen("case", cases, (NORMAL, *CASES))
        if split not in SPLITS:
            raise DatasetError(f"split {split!r} is unknown; choose from {', '.join(SPLITS)}")
        self._folders, self.encodings = _folders_and_encodings(self.root, self.modalities, depth_encoding)
        frames = [self._frame(path) for path in sorted((self.root / "img").glob(f"*/{split}/*/*.png"))]
        if not frames:
            raise DatasetError(f"{self.root}/img/<weather>/{split}/<sequence>/ holds no PNG; is the split recorded?")
        frames = [one for one in frames if one.weather in weathers and one.case in cases]
        if not frames:
            raise DatasetError(f"{self.root}: split {split} has no frame of weather {'/'.join(weathers)} "
                               f"and case {'/'.join(cases)}")
        if limit is not None and limit < 1:
            raise DatasetError(f"limit = {limit}; at least one frame is needed")
        if limit is not None and limit < len(frames):
            frames = [frames[i * len(frames) // limit] for i in range(limit)]
        self._check_siblings(frames)
        self.frames: tuple[Frame, ...] = tuple(frames)
        self._cache: dict[int, Sample] = {}
        self.cached = self._decoded_bytes() <= 0.25 * memory_bytes() if cache == "auto" else bool(cache)

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
        path = self.frames[index].labels
        return _train_ids(read_png(path), path, len(self.labels))

    def fingerprint(self) -> str:
        """12 hex digits of the frames' names, the sizes of their files in bytes, and the encodings."""
        content = {"encodings": {name: one.to_dict() for name, one in self.encodings.items()},
                   "files": [[str(path.relative_to(self.root)), path.stat().st_size]
                             for frame in self.frames for path in (*frame.images.values(), frame.labels)]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def preload(self, threads: int = 2, progress=lambda iterable, total: iterable) -> None:
        """Reads every frame into the cache now. `progress` may wrap the iteration, as tqdm does."""
        with ThreadPoolExecutor(threads) as pool:
            for _ in progress(pool.map(self.__getitem__, range(len(self))), total=len(self)):
                pass

    def _decoded_bytes(self) -> int:
        return len(self) * self.read_labels(0).size * (3 * len(self.modalities) + 1)

    def _frame(self, path: Path) -> Frame:
        weather, _, sequence, file = path.relative_to(self.root / "img").parts
        stem = file.removesuffix("_rgb_front.png")
        if stem == file:
            raise DatasetError(f"{path}: a camera file must end in _rgb_front.png")
        if weather not in WEATHERS:
            raise DatasetError(f"{path}: weather folder {weather!r}; must be one of {', '.join(WEATHERS)}")
        # The folder's own last part: a substring of the path would take 'rain' for part of 'train'.
        case = next((case for case in CASES if sequence.endswith(f"_{case}")), NORMAL)

        def sibling(folder: str) -> Path:
            return self.root / folder / weather / self.split / sequence / f"{stem}_{SUFFIXES[folder]}_front.png"

        return Frame(f"{weather}/{self.split}/{sequence}/{stem}", weather, case,
                     {name: sibling(folder) for name, folder in self._folders.items()}, sibling("semantic"))

    def _check_siblings(self, frames: list[Frame]) -> None:
        missing = [path for one in frames for path in (*one.images.values(), one.labels) if not path.is_file()]
        if missing:
            folders = Counter(path.relative_to(self.root).parts[0] for path in missing)
            counts = ", ".join(f"{count} in {folder}/" for folder, count in folders.items())
            raise DatasetError(f"{missing[0]}: no such file; of {len(frames)} frames of split {self.split}, "
                               f"files are missing: {counts}")

    def _read(self, frame: Frame) -> Sample:
        labels, images = _train_ids(read_png(frame.labels), frame.labels, len(self.labels)), {}
        for name, path in frame.images.items():
            image = three_channels(read_png(path))
            if name == "event" and image.shape[:2] != labels.shape:  # the low-resolution cases
                image = cv2.resize(image, labels.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            if image.shape[:2] != labels.shape:
                raise DatasetError(f"{path}: {_size(image)} pixels, but its labels have {_size(labels)}")
            images[name] = image
        for array in (*images.values(), labels):
            array.flags.writeable = False
        return Sample(frame.name, images, labels)


def find_root(folder: Path) -> Path:
    """`folder`, or `folder`/DELIVER: the one that holds img/. Raises DatasetError if neither does."""
    for root in (folder, folder / "DELIVER"):
        if (root / "img").is_dir():
            return root
    raise DatasetError(f"{folder}: no DELIVER tree here; it must hold the folders {', '.join(SUFFIXES)} "
                       "(python -m training.synthesize records one)")


def recording_card(root: Path) -> dict:
    """What `recording.json` says about how the tree was made; empty for trees without one."""
    path = find_root(Path(root)) / "recording.json"
    return _read_json(path) if path.is_file() else {}


def _folders_and_encodings(root: Path, modalities: tuple[str, ...], depth_encoding: str | None):
    """Per modality the folder it is read from, and its Encoding."""
    path = root / "encodings.json"
    encodings = dict(PUBLISHED_ENCODINGS)
    if path.is_file():
        encodings = {key: Encoding.from_dict(value) for key, value in _read_json(path).items()}
        depth_encoding = depth_encoding or ("hha" if "depth" not in encodings else "metric")
    depth_folder = {"metric": "depth", "hha": "hha"}.get(depth_encoding or "hha")
    if depth_folder is None:
        raise DatasetError(f"depth_encoding {depth_encoding!r} is unknown; choose 'hha' or 'metric'")
    folders = {name: {"rgb": "img", "depth": depth_folder}.get(name, name) for name in modalities}
    for name, folder in folders.items():
        if folder not in SUFFIXES:
            raise DatasetError(f"modality {name!r} is not part of DELIVER; it has rgb, depth, event, lidar")
        if not (root / folder).is_dir():
            raise DatasetError(f"{root / folder}: no such folder, and modality {name} is read from it")
        if (key := "rgb" if name == "rgb" else folder) not in encodings:
            raise DatasetError(f"{path}: no encoding for {key!r}; it has {', '.join(encodings)}")
    return folders, {name: encodings["rgb" if name == "rgb" else folder] for name, folder in folders.items()}


def _train_ids(raw: np.ndarray, path: Path, num_classes: int) -> np.ndarray:
    """Channel 0 of a semantic PNG: raw 1..K -> 0..K-1; raw 0 and 255 -> 255 (ignore). Raises DatasetError else."""
    raw = raw if raw.ndim == 2 else raw[:, :, 0]
    labels = raw - np.uint8(1)  # 0 wraps to 255
    labels[raw == 255] = 255
    if (bad := (labels >= num_classes) & (labels != 255)).any():
        raise DatasetError(f"{path}: raw label ids {np.unique(raw[bad]).tolist()} are out of range; "
                           f"1..{num_classes} are classes, 0 and 255 are ignored")
    return labels


def _chosen(what: str, chosen: Iterable[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    chosen = known if chosen is None else tuple(chosen)
    if unknown := set(chosen) - set(known):
        raise DatasetError(f"{what} {sorted(unknown)} is unknown; choose from {', '.join(known)}")
    return chosen


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON ({error})") from error
