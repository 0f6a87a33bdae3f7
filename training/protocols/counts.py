"""The counts of an evaluation, part by part, as files: an interrupted one goes on, several processes share it.

A part is PART frames in a row. Its counts with the trials of one protocol are one file, written when they are whole.
What a part holds does not depend on who computes it: the result is the same for any number of processes.
"""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from mss_models.files import write_atomically
from mss_models.metrics import Confusion
from mss_models.runtime import TorchRuntime, open_runtime
from training.datasets.dataset import Dataset
from training.datasets.opening import open_dataset
from training.datasets.sample import DatasetError
from training.protocols.grid import EvaluationError, Grid
from training.protocols.scoring import Scores, score
from training.protocols.trials import Trial, trials_of

PART = 8  # frames
COUNTING = 2  # rises when the same frames are counted otherwise, so that parts of both ways are never added up


@dataclass(frozen=True)
class Job:
    """Everything that decides the counts. `frames`: so many of the split, evenly spread; None: all.

    predictions: names of the trials whose predictions are written, as PNG files of class ids.
    """

    checkpoint: Path
    data: Path
    split: str = "test"
    frames: int | None = None
    seed: int = 0
    grid: Grid = Grid()
    device: str = "auto"
    precision: str = "auto"
    predictions: tuple[str, ...] = ()


@functools.lru_cache(maxsize=1)
def open_job(job: Job) -> tuple[TorchRuntime, Dataset]:
    """Its network and its data, which fit together.

    Raises DatasetError, ModalityError, CheckpointError, OptionError.
    """
    runtime = open_runtime(job.checkpoint, "torch", job.device, job.precision)  # the others take no normalised images
    dataset = open_split(job.data, job.split, runtime, job.frames)
    if runtime.labels != dataset.labels:
        raise DatasetError("the label sets of checkpoint and data differ: "
                           + runtime.labels.difference(dataset.labels))
    for name in runtime.modalities:
        if runtime.encodings[name] != dataset.encodings[name]:
            raise DatasetError(f"modality {name}: the checkpoint learned {runtime.encodings[name]}, "
                               f"the data holds {dataset.encodings[name]}")
    return runtime, dataset


def open_split(data: Path, split: str, runtime: TorchRuntime, frames: int | None = None) -> Dataset:
    """A split of the data with the network's modalities, read so that they have its encodings if they can."""
    return open_dataset(data, split, runtime.modalities, encodings=runtime.encodings, limit=frames)


def begin(job: Job, out: Path) -> None:
    """Checks that what `out` holds is of this job, and notes the job there. Raises EvaluationError."""
    runtime, dataset = open_job(job)
    settings = {"counting": COUNTING, "model_id": runtime.model_id, "data": dataset.fingerprint(), "split": job.split,
                "frames": len(dataset), "seed": job.seed, **asdict(job.grid), "device": runtime.device.type,
                "precision": runtime.precision, "predictions": list(job.predictions)}
    if out.exists() and not out.is_dir():
        raise EvaluationError(f"--out {out} is a file; a folder is needed")
    path = out / "parts" / "settings.json"
    if path.is_file():
        try:
            before = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise EvaluationError(f"{path} is damaged ({error}); delete {path.parent} or choose another --out"
                                  ) from error
        if (counting := before.get("counting", 1)) != COUNTING:
            raise EvaluationError(f"{path.parent} was counted in another way (version {counting!r}, now {COUNTING}): "
                                  f"it cannot be continued; delete {path.parent} or choose another --out")
        if changed := [name for name in settings if before.get(name) != settings[name]]:
            raise EvaluationError(f"{out} holds an evaluation with other settings: " + "; ".join(
                f"{name} was {before.get(name)!r} and is {settings[name]!r}" for name in changed)
                + "; choose another --out")
    else:
        write_atomically(path, json.dumps(settings, indent=1) + "\n")


def parts(frames: int) -> range:
    """The numbers of the parts of so many frames."""
    return range(-(-frames // PART))


def frames_of(part: int, frames: int) -> range:
    """The indices of a part's frames."""
    return range(part * PART, min((part + 1) * PART, frames))


def is_missing(out: Path, protocol: str, part: int) -> bool:
    """Whether a part's counts are still to be made."""
    return read_scores(_path(out, protocol, part)) is None


def score_part(job: Job, out: Path, protocols: Sequence[str], part: int) -> int:
    """Makes the counts of a part that are not there yet; `protocols` are COUNTED's. Returns the number of its frames.
    """
    runtime, dataset = open_job(job)
    frames = frames_of(part, len(dataset))
    wanted = {one: trials_of([one], runtime.modalities) for one in protocols if is_missing(out, one, part)}

    def keep(frame: str, trial: Trial, labels: np.ndarray) -> None:
        if trial.name in job.predictions:
            write_atomically(out / "predictions" / trial.name / f"{frame}.png",
                             cv2.imencode(".png", labels)[1].tobytes())

    trials = trials_of(wanted, runtime.modalities)
    scores = score(runtime, dataset, trials, frames=frames, grid=job.grid, seed=job.seed,
                   keep=keep if job.predictions else None)
    for protocol, its in wanted.items():
        write_scores(_path(out, protocol, part), {trial: scores[trial] for trial in its})
    return len(frames)


def collect(out: Path, protocols: Iterable[str], frames: int) -> Scores:
    """The sum of all parts, which must be there."""
    total: Scores = {}
    for protocol in protocols:
        for part in parts(frames):
            for trial, by_condition in read_scores(_path(out, protocol, part)).items():
                mine = total.setdefault(trial, {})
                for condition, confusion in by_condition.items():
                    if condition in mine:
                        mine[condition] += confusion
                    else:
                        mine[condition] = confusion
    return total


def write_scores(path: Path, scores: Scores) -> None:
    """Scores as one file. Raises OSError that names it."""
    rows = [(trial, condition, confusion) for trial, by_condition in scores.items()
            for condition, confusion in by_condition.items()]
    buffer = io.BytesIO()
    names = [[one.protocol, one.level, "+".join(one.subset), *condition] for one, condition, _ in rows]
    np.savez_compressed(buffer, names=np.array(names, str), hist=np.stack([one.hist for _, _, one in rows]),
                        ignore_id=rows[0][2].ignore_id)
    write_atomically(path, buffer.getvalue())


def read_scores(path: Path) -> Scores | None:
    """What write_scores has written; None where there is no such file or it is damaged."""
    scores: Scores = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for (protocol, level, subset, weather, case), hist in zip(file["names"].tolist(), file["hist"],
                                                                      strict=True):
                confusion = Confusion(len(hist), int(file["ignore_id"]))
                confusion.hist += hist
                scores.setdefault(Trial(protocol, tuple(subset.split("+")), level), {})[weather, case] = confusion
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return scores


def _path(out: Path, protocol: str, part: int) -> Path:
    return out / "parts" / f"{protocol}-{part:04d}.npz"
