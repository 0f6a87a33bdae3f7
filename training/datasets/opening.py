"""Opens a data set by what lies in its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mss_models.modality import Encoding
from training.datasets.dataset import Dataset
from training.datasets.deliver import Deliver
from training.datasets.mcubes import MCubeS
from training.datasets.muses import Muses
from training.datasets.recordings import Recordings, is_recordings
from training.datasets.sample import DatasetError

# data set -> a folder that only it has, in ROOT or ROOT/<its usual name>; the first that is there decides
LAYOUTS: dict[type[Dataset], tuple[str, str]] = {
    Muses: ("frame_camera", "muses"),
    MCubeS: ("polL_color", "multimodal_dataset"),
    Deliver: ("img", "DELIVER"),
}


def recognise(path: Path) -> type[Dataset]:
    """Which data set lies in a folder. Raises DatasetError that says what would be one."""
    if not path.exists():
        raise DatasetError(f"{path}: no such folder")
    for kind, (marker, name) in LAYOUTS.items():
        if (path / marker).is_dir() or (path / name / marker).is_dir():
            return kind
    if is_recordings(path):
        return Recordings
    raise DatasetError(f"{path}: no data set here; DELIVER and our own recordings have a folder img/, MUSES "
                       "frame_camera/, MCubeS polL_color/; a bag is a folder with metadata.yaml, or an .mcap or .db3 "
                       "file, and several lie in a folder, or in its train/, val/ and test/ (python -m "
                       "training.synthesize records a tree)")


def open_dataset(path: str | Path, split: str, modalities: Iterable[str] | None = None, *, variant: str = "",
                 encodings: Mapping[str, Encoding] | None = None, weathers: Iterable[str] | None = None,
                 cases: Iterable[str] | None = None, limit: int | None = None, cache: bool | str = False,
                 strict: bool = True) -> Dataset:
    """The split of the data set at `path`: DELIVER, MUSES, MCubeS, or our own recordings, as a tree or as bags.

    The parameters are Dataset's. Raises DatasetError.
    """
    kind = recognise(Path(path))
    return kind(path, split, modalities, variant=variant, encodings=encodings, weathers=weathers, cases=cases,
                limit=limit, cache=cache, strict=strict)
