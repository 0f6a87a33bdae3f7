"""What every data set hands to training: one frame's images and labels, checked."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

# What Pillow raises for a damaged file (SyntaxError for a bad PNG chunk), and for a header that promises too much.
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, zlib.error, MemoryError, UnidentifiedImageError,
              Image.DecompressionBombError)


class DatasetError(ValueError):
    """A folder, a file or a value in it is not what the data set's layout promises. The message names it."""


class SplitMissing(DatasetError):
    """Nothing of the split is there: which may be as it should be, unless it was asked for."""


@dataclass(frozen=True)
class Sample:
    """One frame. `images`: per modality uint8 (H, W, 3), `labels`: uint8 (H, W), class ids or 255 = ignore.

    `missing`: the modalities whose sensor gave nothing for this frame, and whose image therefore holds nothing.

    The arrays may be shared with a cache: they are read-only, and whoever changes pixels makes new arrays.
    """

    name: str
    images: Mapping[str, np.ndarray]
    labels: np.ndarray
    missing: frozenset[str] = frozenset()


def read_png(path: Path) -> np.ndarray:
    """An 8-bit image file as uint8 (H, W) or (H, W, C) in file order (R, G, B, A); a palette image gives its colours.

    Raises DatasetError that names the file if it is missing, damaged, cut short or not 8 bits deep. (Pillow, because
    OpenCV hands out the readable part of a damaged PNG as if it were whole.)
    """
    try:
        with Image.open(path) as image:
            if image.mode == "P":
                image = image.convert("RGB")
            if image.mode not in ("L", "LA", "RGB", "RGBA") or _bits(path) > 8:  # Pillow drops the lower of 16 bits
                raise DatasetError(f"{path}: pixel format {image.mode!r} of {_bits(path)} bits; 8-bit grey, RGB or "
                                   "RGBA is needed")
            return np.asarray(image)
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except UNREADABLE as error:
        raise DatasetError(f"{path}: the image cannot be read ({error})") from error


def _bits(path: Path) -> int:
    """Bits per channel that a PNG file's header tells; 8 for other files."""
    with open(path, "rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(b"\x89PNG") else 8


def check_png(path: Path) -> None:
    """Raises DatasetError where a PNG file is missing, damaged or cut short, by its checksums; any bit depth."""
    try:
        with Image.open(path) as image:
            image.verify()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except UNREADABLE as error:
        raise DatasetError(f"{path}: the image cannot be read ({error})") from error


def read_array(path: Path) -> np.ndarray:
    """The array of a .npy file, or the first of an .npz, real numbers. Raises DatasetError that names the file."""
    try:
        content = np.load(path, allow_pickle=False)
        values = content[content.files[0]] if path.suffix == ".npz" else content
        if values.dtype.kind not in "fiu":
            raise ValueError(f"of {values.dtype}")
        return values
    except (OSError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError, MemoryError, SyntaxError,
            NotImplementedError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: not a NumPy file of numbers ({error})") from error


def three_channels(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W) or (H, W, C) -> (H, W, 3): one channel is repeated, of four the first three are kept."""
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] in (1, 2):  # grey, with or without alpha
        return np.repeat(image[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def read_json(path: Path) -> dict:
    """An object of a JSON file. Raises DatasetError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds a {type(content).__name__}; an object of names and values is needed")
    return content
