"""MCubeS: materials seen by a colour, a polarisation and a near-infrared camera (Liang et al., CVPR 2022).

    ROOT/{polL_color,NIR_warped}/NAME.png  {polL_aolp_sin,polL_aolp_cos,polL_dolp}/NAME.npy  GT/NAME.png
    ROOT/list_folder/{train,val,test}.txt  one NAME such as outscene1208_2_0000000150 in each line

Layout and conversions as in kyotovision-public/multimodal-material-segmentation and in jamycheung/DELIVER,
semseg/datasets/mcubes.py, which the any-modal papers use: the left 192 of 1224 columns are cut off everywhere, and what
is scored is the square in the middle of the rest, 1024 of 1032 columns. Images are 16-bit or 8-bit.

The published loaders keep floating point; ours keeps 8 bits, like all images here, in steps of 1/46 (aolp), 1/125
(dolp) and 1/255. The normalisation gives the network the data set's own values, as there, with 0 where nothing is.
The masks NIR_warped_mask, SS and SSGT4MS are not used, as in jamycheung/DELIVER.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from mss_models.labels import LABEL_SETS
from mss_models.modality import DEFAULT_ENCODINGS, MCUBES_MODALITIES, Encoding
from training.datasets.dataset import Dataset, Frame, check_ids, size_text
from training.datasets.sample import DatasetError, SplitMissing, check_png, read_array, read_png

LEFT_COLUMNS = 192
FOLDERS = {"rgb": "polL_color", "aolp": "polL_aolp_sin", "dolp": "polL_dolp", "nir": "NIR_warped"}
COSINE = "polL_aolp_cos"
NUMBERS = (FOLDERS["aolp"], COSINE, FOLDERS["dolp"])  # folders of .npy files
PUBLISHED_FRAMES = {"train": 302, "val": 96, "test": 102}


class MCubeS(Dataset):
    """A split of MCubeS; see Dataset.

    VARIANTS: 'own', each split from its own list; 'published', in which val is list_folder/test.txt, as in the code
    that the published "val" scores come from: they are of the test split, whose best epoch they are.
    """

    NAME = "MCubeS"
    LABELS = LABEL_SETS["mcubes"]
    MODALITIES = MCUBES_MODALITIES
    VARIANTS = ("own", "published")

    def __init__(self, root: str | Path, split: str, modalities: Iterable[str] | None = None, **options) -> None:
        root = Path(root)
        super().__init__(root if (root / FOLDERS["rgb"]).is_dir() else root / "multimodal_dataset", split, modalities,
                         **options)

    def _available(self) -> list[str]:
        return [name for name, folder in FOLDERS.items() if (self.root / folder).is_dir()]

    def _prepare(self, wanted: dict[str, Encoding]) -> dict[str, Encoding]:
        self.variant = self.variant or "own"
        return {name: DEFAULT_ENCODINGS[name] for name in self.modalities}

    def _find(self) -> list[Frame]:
        split = "test" if self.variant == "published" and self.split == "val" else self.split
        path = self.root / "list_folder" / f"{split}.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise SplitMissing(f"{path}: no such file; it names the frames of split {self.split}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: cannot be read ({error})") from error
        names = [line.split()[0] for line in lines if line.strip()]
        if not names:
            raise DatasetError(f"{path}: names no frame")
        return [self._frame(name) for name in names]

    def _frame(self, name: str) -> Frame:
        def file(folder: str) -> Path:
            return self.root / folder / f"{name}{'.npy' if folder in NUMBERS else '.png'}"

        return Frame(name, "", "", {one: file(FOLDERS[one]) for one in self.modalities}, file("GT"),
                     (file(COSINE),) if "aolp" in self.modalities else ())

    def _labels(self, frame: Frame) -> np.ndarray:
        labels = read_png(frame.labels)
        return check_ids(self._cut(labels if labels.ndim == 2 else labels[:, :, 0], frame.labels), len(self.labels),
                         frame.labels)

    def _image(self, frame: Frame, modality: str, size: tuple[int, int]) -> np.ndarray:
        path = frame.images[modality]
        if modality == "aolp":
            sine, cosine = read_numbers(path), read_numbers(frame.more[0])
            if sine.shape != cosine.shape:
                raise DatasetError(f"{frame.more[0]}: {size_text(cosine)} values, its sines {size_text(sine)}")
            values = np.stack([sine, cosine, sine], -1)
        elif modality == "dolp":
            values = np.repeat(read_numbers(path)[:, :, None], 3, 2)
        else:
            values = read_fractions(path)
        return self._cut(encoded(values, self.encodings[modality]), path)

    def _cut(self, image: np.ndarray, path: Path) -> np.ndarray:
        height, width = image.shape[0], image.shape[1] - LEFT_COLUMNS
        if width < 1:
            raise DatasetError(f"{path}: {image.shape[1]} columns; the left {LEFT_COLUMNS} are cut off, and more are "
                               "needed")
        top = left = 0
        if self.split != "train":
            side = min(height, width)
            top, left = round((height - side) / 2), round((width - side) / 2)
            height = width = side
        return np.ascontiguousarray(image[top : top + height, LEFT_COLUMNS + left : LEFT_COLUMNS + left + width])


def encoded(values: np.ndarray, encoding: Encoding) -> np.ndarray:
    """float32 (H, W, 3) in the data set's units -> uint8, as mss_models.modality.SCHEMES says."""
    codes = values * encoding.params.get("gain", 255.0) + encoding.params.get("zero", 0.0)
    return np.clip(np.rint(codes), 0, 255).astype(np.uint8)


def read_fractions(path: Path) -> np.ndarray:
    """An 8-bit or 16-bit image as float32 (H, W, 3), R, G, B in 0..1; grey is repeated. Raises DatasetError."""
    check_png(path)
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise DatasetError(f"{path}: the image cannot be read; 8 or 16 bits of grey or colour are needed")
    scale = np.float32(65535 if image.dtype == np.uint16 else 255)
    image = np.repeat(image[:, :, None], 3, 2) if image.ndim == 2 else image[:, :, 2::-1]  # OpenCV's are B, G, R
    return image.astype(np.float32) / scale


def read_numbers(path: Path) -> np.ndarray:
    """A .npy file of finite real numbers (H, W), as float32. Raises DatasetError."""
    values = read_array(path)
    if values.ndim != 2:
        raise DatasetError(f"{path}: an array of shape {values.shape}; two dimensions are needed")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise DatasetError(f"{path}: {np.count_nonzero(~np.isfinite(values))} values are not finite")
    return values
