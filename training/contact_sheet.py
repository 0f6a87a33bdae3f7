"""Contact sheets: what every condition of a data set looks like, to be judged by eye."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mss_models.labels import LabelSet
from mss_models.modality import Encoding
from mss_perception.draw import picture
from training.datasets.dataset import Dataset, Frame
from training.datasets.sample import DatasetError, Sample
from training.inspection import condition

HEIGHT = 200  # of a picture, pixels
GAP, TITLE, LINE = 4, 22, 20
MOST_ROWS = 6
DISTANCES = ("metric_depth", "range_intensity_height", "range_intensity_doppler")
INK, PAPER = (30, 35, 45), (255, 255, 255)


def sheets(datasets: Sequence[Dataset]) -> dict[str, np.ndarray]:
    """Name of a file -> a sheet, uint8 RGB: one for each weather, a row for each case; without conditions 'frames'.

    Of each condition it shows the frame in the middle, of the first split that has it; where a weather has one case
    alone, several frames. Frames that cannot be read are left out.
    """
    groups: dict[str, dict[str, list[tuple[Dataset, Frame]]]] = {}
    for dataset in datasets:
        for frame in dataset.frames:
            groups.setdefault(frame.weather or "frames", {}).setdefault(frame.case, []).append((dataset, frame))
    result = {}
    for name, cases in sorted(groups.items()):
        rows = []
        order = [*datasets[0].CASES, ""]
        for case in sorted(cases, key=order.index):
            known = [one for one in cases[case] if one[0] is cases[case][0][0]]
            count = 1 if len(cases) > 1 else min(MOST_ROWS, len(known))
            rows += [(condition(known[0][1]), *known[(2 * i + 1) * len(known) // (2 * count)]) for i in range(count)]
        if (sheet := _sheet(rows)) is not None:
            result[name] = sheet
    return result


def _sheet(rows: Sequence[tuple[str, Dataset, Frame]]) -> np.ndarray | None:
    drawn, seen, labels = [], np.zeros(256, int), None
    for case, dataset, frame in rows:
        try:
            sample = _sample(dataset, frame)
        except DatasetError:
            continue
        labels = dataset.labels
        seen += np.bincount(sample.labels.ravel(), minlength=256)
        drawn.append(_row(f"{case}: {dataset.split}, {frame.name}", sample, dataset))
    if not drawn:
        return None
    legend = _legend(labels, seen, max(one.shape[1] for one in drawn))
    width = max(one.shape[1] for one in (*drawn, legend))
    return np.concatenate([_widened(one, width) for one in (*drawn, legend)])


def _sample(dataset: Dataset, frame: Frame) -> Sample:
    labels = dataset.labels_of(frame)
    return Sample(frame.name, {name: dataset.image_of(frame, name, labels.shape) for name in dataset.modalities},
                  labels, dataset.missing_in(frame))


def _row(title: str, sample: Sample, dataset: Dataset) -> np.ndarray:
    panels = [(name + (" (missing)" if name in sample.missing else f": {dataset.encodings[name].name}"),
               shown(image, dataset.encodings[name])) for name, image in sample.images.items()]
    panels.append((f"labels: {dataset.labels.name}", dataset.labels.colorize(sample.labels)))
    height, width = sample.labels.shape
    across = max(1, round(HEIGHT * width / height))
    columns = []
    for name, image in panels:
        # Sparse points survive shrinking only if the strongest pixel stands for its neighbours.
        sparse = (image.max(2) > 40).mean() < 0.2 and width > across
        if sparse:
            step = -(-width // across)
            image = cv2.dilate(image, np.ones((step, step), np.uint8))
        how = cv2.INTER_NEAREST if sparse or name.startswith("labels") or width < across else cv2.INTER_AREA
        column = _paper(HEIGHT + TITLE, across)
        column[TITLE:] = cv2.resize(image, (across, HEIGHT), interpolation=how)
        _write(column, name, 2, 15, 0.4)
        columns += [column, _paper(HEIGHT + TITLE, GAP)]
    row = np.concatenate(columns[:-1], axis=1)
    head = _paper(TITLE, row.shape[1])
    _write(head, title, 2, 16, 0.48)
    return np.concatenate([head, row, _paper(2 * GAP, row.shape[1])])


def shown(image: np.ndarray, encoding: Encoding) -> np.ndarray:
    """A modality's image as a person reads it, uint8 RGB: distances and events in colours, others as they are."""
    if encoding.name in DISTANCES:
        return picture("lidar", image)
    return picture("event", image) if encoding.name == "on_off_counts" else image


def _legend(labels: LabelSet, pixels: np.ndarray, width: int) -> np.ndarray:
    """Colours, names and shares of the classes that occur, the most frequent first."""
    counts = pixels[: len(labels)]
    shares = counts / max(counts.sum(), 1)
    entries = [k for k in np.argsort(-counts, kind="stable") if counts[k]]
    across = max(1, width // 190)
    legend = _paper(GAP + LINE * -(-max(len(entries), 1) // across), max(width, 190))
    for place, k in enumerate(entries):
        x, y = 190 * (place % across) + 2, GAP + LINE * (place // across)
        legend[y : y + 14, x : x + 22] = labels.palette[k]
        _write(legend, f"{labels.names[k]} {100 * shares[k]:.1f} %", x + 27, y + 12, 0.4)
    return legend


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)


def _widened(image: np.ndarray, width: int) -> np.ndarray:
    return np.concatenate([image, _paper(image.shape[0], width - image.shape[1])], axis=1)


def _write(image: np.ndarray, text: str, x: int, y: int, size: float) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)
