"""The DELIVER layout: the public data set's and our own recordings'.

    ROOT/{img,depth,hha,lidar,event,semantic}/{cloud,fog,night,rain,sun}/{train,val,test}/
        MAP_x_pointy[_case]/NNNNNN_{rgb,depth,lidar,event,semantic}_front.png

Layout and conversions as in jamycheung/DELIVER, semseg/datasets/deliver.py. Our own recordings add a folder `radar` and
in ROOT `encodings.json` (modality -> Encoding; without it the images are taken for the published ones),
`recording.json` (command and seeds, copied into the card of what is trained on it) and, for classes of their own,
`labels.json` (LabelSet.to_dict).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from mss_models.labels import LABEL_SETS, LabelError, LabelSet
from mss_models.modality import DELIVER_ENCODINGS, DELIVER_MODALITIES, Encoding, ModalityError
from training.datasets.dataset import Dataset, Frame
from training.datasets.sample import DatasetError, SplitMissing, read_json, read_png, three_channels

SPLITS = ("train", "val", "test")
WEATHERS = ("cloud", "fog", "night", "rain", "sun")
CASES = ("motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres")
NORMAL = "normal"  # the case of a sequence folder without a case suffix

# folder and file suffix of each modality; hha files keep the suffix of depth
SUFFIXES = {"img": "rgb", "depth": "depth", "hha": "depth", "lidar": "lidar", "event": "event", "radar": "radar",
            "semantic": "semantic"}
# of the public data set, by folder: its depth is HHA unless told otherwise
PUBLISHED_ENCODINGS = {**DELIVER_ENCODINGS, "hha": DELIVER_ENCODINGS["depth"],
                       "depth": Encoding("depth", "deliver_depth")}
PUBLISHED_FRAMES = {"train": 3983, "val": 2005, "test": 1897}
# of all frames, on the scale 0..255 (timbroed/CAFuser, cafuser/config.py); the network sees them per 1
CAFUSER_STATISTICS = {
    "lidar": ((1.797, 1.797, 1.797), (7.786, 7.786, 7.786)),
    "event": ((17.67, 0.0, 16.79), (64.75, 1.0, 63.24)),
    "hha": ((110.35, 66.51, 117.08), (44.37, 77.21, 105.55)),
    "depth": ((116.94, 116.94, 116.94), (105.71, 105.71, 105.71)),
}


class Deliver(Dataset):
    """A split of a DELIVER tree; see Dataset.

    VARIANTS: 'hha' and 'metric', the folder that modality `depth` is read from, hha/ or depth/. The published models
    learned hha, which is the usual one of the public data; of a recording it is what `encodings.json` names. 'cafuser':
    as hha, normalised by CAFuser's statistics, where the other published models only divide by 255.
    """

    NAME = "DELIVER"
    LABELS = LABEL_SETS["deliver"]
    MODALITIES = (*DELIVER_MODALITIES, "radar")
    SPLITS, WEATHERS, CASES = SPLITS, WEATHERS, (NORMAL, *CASES)
    VARIANTS = ("hha", "metric", "cafuser")

    def __init__(self, root: str | Path, split: str, modalities: Iterable[str] | None = DELIVER_MODALITIES,
                 **options) -> None:
        super().__init__(find_root(Path(root)), split, modalities, **options)

    @property
    def card(self) -> dict:
        return self._recording or super().card

    def remarks(self) -> list[str]:
        used = self._folders.get("depth")
        other, variant = ("depth", "metric") if used == "hha" else ("hha", "hha")
        remarks = []
        if used and (self.root / other).is_dir():
            remarks.append(f"depth is read from {used}/; to look at {other}/: --variant {variant}")
        # 'MAP_1_point20' is a street without a failure; 'MAP_1_point20_motionblurr' should be one with.
        sequences = sorted({frame.labels.parent for frame in self.frames if frame.case == NORMAL})
        if unknown := [one for one in sequences if one.name.rpartition("_")[2].isalpha()]:
            remarks.append(f"split {self.split}: {len(unknown)} of {len(sequences)} sequences that count as {NORMAL} "
                           f"end in a word that is none of {', '.join(CASES)}; the first: {unknown[0]}")
        return remarks

    def _available(self) -> list[str]:
        return [name for name in self.MODALITIES
                if any((self.root / folder).is_dir() for folder in {"rgb": ("img",), "depth": ("hha", "depth")}.get(
                    name, (name,)))]

    def _prepare(self, wanted: dict[str, Encoding]) -> dict[str, Encoding]:
        if (path := self.root / "labels.json").is_file():
            try:
                self.labels = LabelSet.from_dict(read_json(path))
            except (LabelError, TypeError) as error:
                raise DatasetError(f"{path}: {error}") from error
        self._recording = recording_card(self.root)  # now, and not when a training has a checkpoint to save
        known = self._known()
        candidates = [self.variant] if self.variant else self._usual_first(known)
        encodings = {one: self._encodings(known, one) for one in candidates}
        fitting = [one for one in candidates if all(encodings[one].get(name, wanted[name]) == wanted[name]
                                                    for name in self.modalities if name in wanted)]
        self.variant = (fitting if wanted and fitting else candidates)[0]
        self._folders = {name: self._folder(name, self.variant) for name in self.modalities}
        for name, folder in self._folders.items():
            if not (self.root / folder).is_dir():
                other = {"hha": "; variant 'metric' reads depth/", "depth": "; variant 'hha' reads hha/"}
                raise DatasetError(f"{self.root / folder}: no such folder, and modality {name} is read from it"
                                   + other.get(folder, ""))
            if name not in encodings[self.variant]:
                raise DatasetError(f"{self.root / 'encodings.json'}: no encoding for {folder!r}; it has "
                                   f"{', '.join(known)}")
        return encodings[self.variant]

    def _known(self) -> dict[str, Encoding]:
        """By folder, but 'rgb' for img."""
        path = self.root / "encodings.json"
        if not path.is_file():
            return dict(PUBLISHED_ENCODINGS)
        try:
            return {key: Encoding.from_dict(value) for key, value in read_json(path).items()}
        except ModalityError as error:
            raise DatasetError(f"{path}: {error}") from error

    def _usual_first(self, known: dict[str, Encoding]) -> list[str]:
        if not (self.root / "encodings.json").is_file():
            return ["hha", "metric", "cafuser"]
        return ["metric", "hha"] if "depth" in known else ["hha", "metric"]

    @staticmethod
    def _folder(modality: str, variant: str) -> str:
        return {"rgb": "img", "depth": "depth" if variant == "metric" else "hha"}.get(modality, modality)

    def _encodings(self, known: dict[str, Encoding], variant: str) -> dict[str, Encoding]:
        """What there is of the modalities, in one variant."""
        result = {}
        for name in self.modalities:
            folder = "rgb" if name == "rgb" else self._folder(name, variant)
            if folder in known:
                result[name] = known[folder]
                if variant == "cafuser" and folder in CAFUSER_STATISTICS:
                    mean, std = (tuple(value / 255 for value in one) for one in CAFUSER_STATISTICS[folder])
                    result[name] = replace(known[folder], mean=mean, std=std)
        return result

    def _find(self) -> list[Frame]:
        frames = [self._frame(path) for path in sorted((self.root / "img").glob(f"*/{self.split}/*/*.png"))]
        if not frames:
            left = next(self.root.glob(f"*/*/{self.split}/*/*.png"), None)
            kind = SplitMissing if left is None else DatasetError
            raise kind(f"{self.root}/img/<weather>/{self.split}/<sequence>/ holds no PNG"
                       + ("; is the split recorded?" if left is None else f", and {left} has no picture of the camera"))
        return frames

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

    def _labels(self, frame: Frame) -> np.ndarray:
        return _train_ids(read_png(frame.labels), frame.labels, len(self.labels))

    def _image(self, frame: Frame, modality: str, size: tuple[int, int]) -> np.ndarray:
        image = three_channels(read_png(frame.images[modality]))
        (h, w), (height, width) = image.shape[:2], size
        # The low-resolution cases are smaller, the view is the same: one of other proportions is not what it should be.
        if modality == "event" and (h, w) != size and abs(h * width - w * height) <= max(height, width):
            image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST)
        return image


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
    return read_json(path) if path.is_file() else {}


def _train_ids(raw: np.ndarray, path: Path, num_classes: int) -> np.ndarray:
    """Channel 0 of a semantic PNG: raw 1..K -> 0..K-1; raw 0 and 255 -> 255 (ignore). Raises DatasetError else."""
    raw = raw if raw.ndim == 2 else raw[:, :, 0]
    labels = raw - np.uint8(1)  # 0 wraps to 255
    labels[raw == 255] = 255
    if (bad := (labels >= num_classes) & (labels != 255)).any():
        raise DatasetError(f"{path}: raw label ids {np.unique(raw[bad]).tolist()} are out of range; "
                           f"1..{num_classes} are classes, 0 and 255 are ignored")
    return labels
