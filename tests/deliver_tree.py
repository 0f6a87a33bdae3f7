"""A small DELIVER tree of painted boxes, for the training tests: the published layout, every modality informative."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mss_models.labels import DELIVER
from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_MODALITIES

FOLDERS = {"rgb": "img", "depth": "depth", "event": "event", "lidar": "lidar"}
CLASSES = (0, 3, 6, 9, 12)  # Building, Pedestrian, Road, Cars, Sky


def write_tree(root: Path, counts: dict[str, int], *, size: int = 64, seed: int = 0,
               conditions: tuple[tuple[str, str], ...] = (("sun", ""), ("night", "_motionblur")),
               recorded: bool = True) -> Path:
    """Writes counts[split] frames per (weather, case suffix) and returns `root`.

    recorded: with encodings.json and recording.json, as training.synthesize leaves them.
    """
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for number, (weather, case) in enumerate(conditions):
            for index in range(count):
                write_frame(root, weather, split, f"MAP_{number}_point{index // 4}{case}", f"{index:06d}",
                            *paint(rng, size))
    if recorded:
        encodings = {name: DEFAULT_ENCODINGS[name].to_dict() for name in DELIVER_MODALITIES}
        (root / "encodings.json").write_text(json.dumps(encodings))
        (root / "recording.json").write_text(json.dumps({"seed": seed}))
    return root


def paint(rng: np.random.Generator, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One scene: images {modality: uint8 (size, size, 3)} and class ids uint8 (size, size)."""
    labels = np.full((size, size), 6, np.uint8)
    labels[: rng.integers(size // 4, size // 2)] = 12
    for _ in range(4):
        y, x, h, w = rng.integers(0, size, 2).tolist() + rng.integers(size // 6, size // 2, 2).tolist()
        labels[y : y + h, x : x + w] = rng.choice([0, 3, 9])
    rgb = np.array(DELIVER.palette, np.uint8)[labels]
    noise = rng.integers(0, 30, (size, size, 3), dtype=np.uint8)
    edges = np.zeros_like(rgb)
    edges[:, 1:, 0] = 255 * (labels[:, 1:] != labels[:, :-1])
    return {"rgb": rgb // 2 + noise, "depth": np.stack([labels * 10] * 3, -1), "event": edges,
            "lidar": np.stack([labels * 10 * (noise[:, :, 0] > 20)] * 3, -1).astype(np.uint8)}, labels


def write_frame(root: Path, weather: str, split: str, sequence: str, stem: str, images: dict[str, np.ndarray],
                labels: np.ndarray) -> None:
    """One frame's files. `labels` holds class ids 0..24 or 255; the file holds the raw ids 1..25 and 255."""
    raw = np.where(labels == 255, 255, labels + 1).astype(np.uint8)
    files = {FOLDERS[name]: (name, image) for name, image in images.items()} | {"semantic": ("semantic", raw)}
    for folder, (suffix, image) in files.items():
        path = root / folder / weather / split / sequence / f"{stem}_{suffix}_front.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
