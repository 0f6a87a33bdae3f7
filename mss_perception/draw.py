"""Pictures for people: labels in colour, labels over the camera image, each modality made visible.

The node's colour and overlay topics and the report use the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mss_models.labels import LabelSet

COLUMNS = 4                     # of a sheet
OPACITY = 0.55                  # of classes over an image
NEAR_M, FAR_M = 2.0, 60.0       # warmest and coldest of the points over an image
BACKGROUND = {"event": 24, "lidar": 24, "depth": 24}      # grey behind sparse measurements


def overlay(image: np.ndarray, labels: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Class colours over an image: (H, W, 3) and (H, W) uint8 -> (H, W, 3) uint8. Ignored pixels stay as they are.

    An image of another size is scaled to the labels.
    """
    if image.shape[:2] != labels.shape:
        image = cv2.resize(image, labels.shape[::-1], interpolation=cv2.INTER_LINEAR)
    blended = cv2.addWeighted(image, 1 - OPACITY, label_set.colorize(labels), OPACITY, 0)
    ignored = labels >= len(label_set)
    blended[ignored] = image[ignored]
    return blended


def errors(image: np.ndarray, labels: np.ndarray, truth: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Wrong pixels red on the darkened image, pixels without truth black: (H, W, 3), (H, W), (H, W) -> (H, W, 3)."""
    shown = image // 3
    shown[labels != truth] = (230, 70, 50)
    shown[truth == label_set.ignore_id] = 0
    return shown


def picture(modality: str, image: np.ndarray) -> np.ndarray:
    """A modality's network image (H, W, 3) uint8 as a person reads it: (H, W, 3) uint8 RGB.

    Distances (depth, lidar) run from near = warm to far = cold on a logarithmic scale; events are red for ON and blue
    for OFF; rgb stays. An encoding not known here is shown as its three channels.
    """
    if modality in ("depth", "lidar"):
        distance = image[..., 0]
        colours = cv2.cvtColor(cv2.applyColorMap(255 - distance, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
        colours[distance == 0] = BACKGROUND[modality]
        return colours
    if modality == "event":
        on, off = image[..., 0].astype(np.int16), image[..., 1].astype(np.int16)
        quiet = np.int16(BACKGROUND["event"])
        # Counts are brightened: a single event must be visible.
        on, off = (np.where(count > 0, 90 + count * 165 // 255, 0).astype(np.int16) for count in (on, off))
        colours = np.stack([quiet + on, quiet + np.minimum(on, off), quiet + off], axis=-1)
        return np.clip(colours, 0, 255).astype(np.uint8)
    return image


def greyed(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same without colour."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def points_over(image: np.ndarray, uv: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Projected points on an image: uv (N, 2) pixels and distance (N,) metres -> a new (H, W, 3) uint8.

    Colours as in `picture`; the farthest are drawn first. Points outside the image are left out.
    """
    canvas = image.copy()
    if len(uv) == 0:
        return canvas
    scale = np.log(np.clip(distance, NEAR_M, FAR_M) / NEAR_M) / np.log(FAR_M / NEAR_M)
    colours = cv2.applyColorMap((255 * (1 - scale)).astype(np.uint8).reshape(-1, 1), cv2.COLORMAP_TURBO)[:, 0, ::-1]
    radius = max(1, round(image.shape[1] / 500))
    height, width = image.shape[:2]
    for i in np.argsort(-distance):
        u, v = uv[i]
        if 0 <= u < width and 0 <= v < height:
            cv2.circle(canvas, (int(u), int(v)), radius, colours[i].tolist(), -1, cv2.LINE_AA)
    return canvas


def png(image: np.ndarray, max_width: int | None = None) -> bytes:
    """PNG file of an (H, W, 3) RGB or (H, W) grey uint8 image, scaled down to `max_width` when wider."""
    if max_width and image.shape[1] > max_width:
        height = max(1, round(image.shape[0] * max_width / image.shape[1]))
        image = cv2.resize(image, (max_width, height), interpolation=cv2.INTER_AREA)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", image)
    if not done:
        raise ValueError(f"an image of shape {image.shape} and {image.dtype} cannot be written as PNG")
    return encoded.tobytes()


def write_sheet(path: Path, panels: Sequence[tuple[str, bytes | None]]) -> None:
    """One PNG file with the named panels (PNG files, None for what is not there) in rows of COLUMNS.

    Raises OSError where it cannot be written.
    """
    images = [None if content is None else cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
              for _, content in panels]
    height, width = next(image.shape[:2] for image in images if image is not None)
    title, gap = 24, 4
    rows = -(-len(images) // COLUMNS)
    sheet = np.full((rows * (height + title), min(COLUMNS, len(images)) * (width + gap) - gap, 3), 255, np.uint8)
    for index, ((name, _), image) in enumerate(zip(panels, images, strict=True)):
        top, left = index // COLUMNS * (height + title), index % COLUMNS * (width + gap)
        text = name if image is not None else f"{name}: not there"
        cv2.putText(sheet, text, (left + 2, top + 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 30, 20), 1, cv2.LINE_AA)
        panel = np.full((height, width, 3), 225, np.uint8) if image is None else cv2.resize(image, (width, height))
        sheet[top + title:top + title + height, left:left + width] = panel
    path.write_bytes(png(cv2.cvtColor(sheet, cv2.COLOR_BGR2RGB)))
