"""Some frames as pictures: what the network got, what it saw with some subsets, what is true, and where it erred."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mss_perception.draw import errors, picture, png
from training.protocols import Trial, score, singles_and_all
from training.protocols.counts import Job, open_job
from training.protocols.subsets import key

FRAMES = 4
WIDEST = 320  # pixels of a picture


@dataclass(frozen=True)
class FramePictures:
    """Rows of (caption, PNG file)."""

    name: str
    rows: list[list[tuple[str, bytes]]]


def frame_pictures(job: Job) -> list[FramePictures]:
    """A few frames, evenly spread over those that were scored."""
    runtime, dataset = open_job(job)
    count = min(FRAMES, len(dataset))
    chosen = [(2 * i + 1) * len(dataset) // (2 * count) for i in range(count)]
    trials = [Trial("any-modal", one) for one in singles_and_all(runtime.modalities)]
    seen: dict[tuple[str, Trial], np.ndarray] = {}
    score(runtime, dataset, trials, frames=chosen, grid=job.grid, seed=job.seed,
          keep=lambda frame, trial, labels: seen.update({(frame, trial): labels}))
    pictures = []
    for index in chosen:
        sample = dataset[index]
        truth = job.grid.target(sample.labels)
        images = sample.images
        if job.grid.score_at == "network":
            images = {name: job.grid.images(image) for name, image in images.items()}
        background = images.get("rgb", next(iter(images.values())))
        rows = [[(name + " (missing)" * (name in sample.missing), png(picture(name, image), WIDEST))
                 for name, image in images.items()]
                + [("truth", png(dataset.labels.colorize(truth), WIDEST))]]
        predicted = {key(trial.subset): seen[sample.name, trial] for trial in trials
                     if (sample.name, trial) in seen}  # with sensors that gave something
        rows.append([(f"from {name}", png(dataset.labels.colorize(labels), WIDEST))
                     for name, labels in predicted.items()])
        rows.append([(f"wrong: {100 * np.mean((labels != truth)[truth != dataset.labels.ignore_id]):.1f} %",
                      png(errors(background, labels, truth, dataset.labels), WIDEST))
                     for labels in predicted.values()])
        pictures.append(FramePictures(sample.name, rows))
    return pictures
