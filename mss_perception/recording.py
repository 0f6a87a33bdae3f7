"""The folder that a replay writes: one line per set, pictures of chosen frames, a bag of outputs. Resumable.

A set is finished when its line stands in frames.jsonl; all its other files are written before. So whatever moment a run
is cut off at, a resumed one knows what to skip, and both end with the same files.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from mss_models.files import write_atomically
from mss_models.labels import LabelSet
from mss_perception import draw, messages, scoring
from mss_perception.bags import BagWriter, bag_bytes
from mss_perception.config import modality_of
from mss_perception.faults import Fault
from mss_perception.mask_message import mask_message
from mss_perception.pipeline import Output
from mss_perception.report import Picture
from mss_perception.units import SECOND

EVENLY = 6                  # pictures spread over the run; one more for each fault
SHORT_SEC = 1.0             # a run in which there may be no set at or after the first of these times
PICTURE_WIDTH = 400         # of a panel in the report, pixels
RECORDED = ("run.json", "frames.jsonl", "metrics.json", "report.html", "pictures", "labels", "points", "bag")
OF_EVERY_RUN = {"bag", "network", "faults"}     # what run.json tells, by which a replay's is recognised
OF_EVERY_RECORD = {"t_ref", "epoch", "dropped", "mask", "inputs", "latency_ms"}


class RunError(ValueError):
    """A run cannot be continued, or would delete what is not its own. The message says what and why."""


class Run:
    """Writer of one run's folder; a context manager around the replay.

    settings: JSON-ready; everything that decides the outcome. start_ns and duration_sec: of the bag. keep_labels: also
    keep labels and confidence of every frame, for `write_bag`. points: 'pcd' or 'ply': also write the labelled points
    of every frame that has some; '': do not. Raises RunError when `resume` finds other settings, and when the folder
    holds something that no replay wrote under a name that this run would write.
    """

    def __init__(self, folder: Path, settings: Mapping, resume: bool, start_ns: int, duration_sec: float,
                 faults: Sequence[Fault], label_set: LabelSet, keep_labels: bool = False,
                 points: str = ""):
        self.folder, self.label_set, self.keep_labels, self.start_ns = Path(folder), label_set, keep_labels, start_ns
        self.points = points
        self.records: list[dict] = []
        self._held = 0              # records before this one are of an earlier run and not yet met again
        self._wanted = _wanted(duration_sec, faults)
        self._file = None
        if resume and goes_on(self.folder, settings):
            self._read_records()
        else:
            clear(self.folder)
            begin(self.folder, settings)

    def _read_records(self) -> None:
        """Take over the complete lines of frames.jsonl and cut off what a killed run left half-written."""
        path = self.folder / "frames.jsonl"
        if not path.exists():
            return
        content = path.read_bytes()
        complete = content[:content.rfind(b"\n") + 1]
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                record = json.loads(line)
            except ValueError:      # UnicodeDecodeError is one
                record = None
            if not isinstance(record, dict) or not record.keys() >= OF_EVERY_RECORD:
                raise RunError(f"{path} is damaged in line {number}; leave --resume away to start anew")
            self.records.append(record)
        if len(complete) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(complete))

    def __enter__(self) -> Run:
        self._file = (self.folder / "frames.jsonl").open("a", encoding="utf-8")
        return self

    def __exit__(self, *_):
        self._file.close()

    def holds(self, t_ref_ns: int, epoch: int) -> str | None:
        """'' when the next recorded set is this one and gave an output, its drop reason when dropped, else None.

        Raises RunError when another set is recorded at this place.
        """
        if self._held == len(self.records):
            return None
        record = self.records[self._held]
        if (record["t_ref"], record["epoch"]) != (t_ref_ns, epoch):
            raise RunError(f"{self.folder}/frames.jsonl has t_ref {record['t_ref']} as frame {self._held}, the replay "
                           f"{t_ref_ns}: the bag or the program has changed; leave --resume away to start anew")
        self._held += 1
        if not record["dropped"]:
            self._choose(t_ref_ns)      # keeps the choice of pictures in step
        return record["dropped"] or ""

    def add(self, output: Output, truth: np.ndarray | None) -> None:
        """Write one set. truth: (H, W) uint8 class ids like output.labels, where known."""
        index = len(self.records)
        record = output.record()
        latency_ms = record.pop("latency_ms")
        if not output.dropped:
            record["labels"] = hashlib.sha256(output.labels.tobytes()).hexdigest()[:16]
            record["confidence"] = round(float(output.confidence.mean()) / 255, 6)
            if truth is not None:
                record["confusion"] = scoring.counts(truth, output.labels, self.label_set)
            if self.keep_labels:
                self._save(f"labels/{index:06d}.png", draw.png(output.labels))
                self._save(f"labels/{index:06d}_confidence.png", draw.png(output.confidence))
            if self.points and output.points is not None:
                self._save_points(f"points/{index:06d}.{self.points}", output.points)
            if self._choose(output.t_ref_ns):
                for order, (name, image) in enumerate(panels(output, truth, self.label_set).items()):
                    self._save(f"pictures/{index:06d}/{order}_{name}.png", draw.png(image, PICTURE_WIDTH))
        # Last, because they alone differ between two runs.
        record["latency_ms"] = {stage: round(value, 3) for stage, value in latency_ms.items()}
        self.records.append(record)
        self._held += 1
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def _save(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def _save_points(self, name: str, points: Mapping[str, np.ndarray]) -> None:
        from mss_perception.cloud_files import write_points  # Open3D, where installed, takes seconds to import
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_points(path, points, self.label_set)

    def _choose(self, t_ref_ns: int) -> bool:
        """Whether this is the first frame at or after a wanted time."""
        reached = [t_sec for t_sec in self._wanted if t_sec <= (t_ref_ns - self.start_ns) / SECOND]
        self._wanted = self._wanted[len(reached):]
        return bool(reached)

    def pictures(self, faults: Sequence[Fault]) -> list[Picture]:
        """The chosen frames, and each of them side by side as frame_<seconds>s.png in the folder."""
        chosen = []
        for folder in sorted((self.folder / "pictures").glob("*")):
            record = self.records[int(folder.name)]
            t_sec = (record["t_ref"] - self.start_ns) / SECOND
            active = [str(fault) for fault in faults if fault.active(t_sec)]
            picture = Picture(record["t_ref"], ", ".join(active) or "no fault")
            files = {file.stem.partition("_")[2]: file for file in sorted(folder.glob("*.png"))}
            for name in dict.fromkeys([*map(modality_of, record["mask"]), *files]):
                picture.panels.append((name, caption(record["inputs"], name),
                                       files[name].read_bytes() if name in files else None))
            draw.write_sheet(self.folder / f"frame_{t_sec:06.2f}s.png",
                             [(name, content) for name, _, content in picture.panels])
            chosen.append(picture)
        return chosen

    def write_bag(self) -> Path:
        """Labels, confidence and masks of all frames as a bag; message times are the sets' reference times."""
        types = messages.bag_types()
        path = self.folder / "bag"
        shutil.rmtree(path, ignore_errors=True)
        with BagWriter(path) as bag:
            for index, record in enumerate(self.records):
                t_ref, frame = record["t_ref"], record["frame_id"]
                bag.write("/mss_perception/modality_mask", mask_message(types, record), t_ref)
                if record["dropped"]:
                    continue
                for topic, suffix in (("segmentation", ""), ("segmentation/confidence", "_confidence")):
                    file = self.folder / f"labels/{index:06d}{suffix}.png"
                    if (image := cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)) is None:
                        raise RunError(f"{file} of the run before is missing or damaged; leave --resume away to start "
                                       "anew")
                    bag.write(f"/mss_perception/{topic}", messages.encode_image(types, image, "mono8", t_ref, frame),
                              t_ref)
        return path


def of_bag(bag: str | Path) -> dict:
    """The settings by which a bag is known without reading it: its path, and the size of its files."""
    return {"bag": str(Path(bag).resolve()), "bytes": bag_bytes(Path(bag))}


def goes_on(folder: Path, settings: Mapping) -> bool:
    """Whether the folder holds a run of these settings. Raises RunError for one of others; False where there is none.
    """
    before = _settings_of(folder)
    if before is not None and (changed := _differing(before, settings)):
        raise RunError(f"{folder} holds a run with other settings: {', '.join(changed)}; use the same, "
                       "another --out, or leave --resume away to start anew")
    return before is not None


def is_finished(folder: Path, settings: Mapping, report: bool) -> bool:
    """Whether the folder holds a run with these among its settings that was brought to its end. report: with a page."""
    before = _settings_of(folder)
    return (before is not None and not _differing(before, settings) and (folder / "metrics.json").is_file()
            and (not report or (folder / "report.html").is_file()))


def clear(folder: Path) -> None:
    """Delete what an earlier replay has written in the folder. Raises RunError when that may be somebody else's."""
    old = [folder / name for name in RECORDED if (folder / name).exists()]
    old += folder.glob("frame_*.png")
    if old and _settings_of(folder) is None:
        raise RunError(f"{folder} has {', '.join(one.name for one in old)}, but no run.json of a replay that "
                       "wrote it; name another --out")
    for one in reversed(old):       # run.json last: until then the folder is known as ours
        shutil.rmtree(one) if one.is_dir() else one.unlink()


def begin(folder: Path, settings: Mapping) -> None:
    """Make the folder that of a run with these settings."""
    write_atomically(folder / "run.json", json.dumps(settings, indent=1))


def _settings_of(folder: Path) -> dict | None:
    """The settings of the replay that wrote the folder; None when there is none, or another program's run.json."""
    try:
        content = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.keys() >= OF_EVERY_RUN else None


def _differing(before: Mapping, settings: Mapping) -> list[str]:
    """Names of the settings that were others."""
    return [name for name, value in json.loads(json.dumps(settings)).items() if before.get(name) != value]


def _wanted(duration_sec: float, faults: Sequence[Fault]) -> list[float]:
    """Times of the pictures: evenly spread, and the middle of each fault; of a short run the first set, maybe its only
    one, as well."""
    even = [(i + 0.5) / EVENLY * duration_sec for i in range(EVENLY)]
    if duration_sec < SHORT_SEC:
        even[0] = -math.inf
    return sorted(even + [(fault.start_sec + min(fault.end_sec, duration_sec)) / 2 for fault in faults
                          if fault.start_sec < duration_sec])


def panels(output: Output, truth: np.ndarray | None, label_set: LabelSet) -> dict[str, np.ndarray]:
    """Name -> RGB picture of one output: every input as the network saw it, prediction and, where known, truth.

    With a camera image and points there is also `points`, the LiDAR over the image: it shows a wrong calibration.
    Absent inputs have no picture.
    """
    size = output.grid_size
    shown = {name: draw.picture(name, image) for name, image in output.images.items()}
    # Class colours over false colours cannot be read: without a camera image they lie over the first input in grey.
    under = shown["rgb"] if "rgb" in shown else draw.greyed(next(iter(shown.values())))
    if output.points is not None and "rgb" in shown:
        xyz = np.stack([output.points[axis] for axis in "xyz"], axis=1)
        uv, valid = output.camera.scaled(size[1], size[0]).project(xyz)
        shown["points"] = draw.points_over(under, uv[valid], np.linalg.norm(xyz[valid], axis=1))
    labels = cv2.resize(output.labels, size[::-1], interpolation=cv2.INTER_NEAREST)
    shown["prediction"] = draw.overlay(under, labels, label_set)
    if truth is not None:
        truth = cv2.resize(truth, size[::-1], interpolation=cv2.INTER_NEAREST)
        shown["truth"] = label_set.colorize(truth)
        shown["errors"] = draw.errors(under, labels, truth, label_set)
    return shown


def caption(inputs: Mapping[str, Mapping], modality: str) -> str:
    """Of a modality's picture: the remark on its input, or on each by name; '' for a picture of something else."""
    remarks = {name: remark(state) for name, state in inputs.items() if modality_of(name) == modality}
    return " / ".join(text if name == modality and len(remarks) == 1 else f"{name}: {text}"
                      for name, text in remarks.items())


def remark(state: Mapping) -> str:
    """An input's state and what is worth knowing of its sample."""
    parts = [state["state"]]
    if state.get("stamp_delta"):
        parts.append(f"{state['stamp_delta'] / 1e6:+.0f} ms")
    for name, unit in (("points_in_image", "points in the image"), ("events", "events")):
        if state.get(name) is not None:
            parts.append(f"{state[name]:,} {unit}")
    if state.get("frozen"):
        parts.append("frozen payload")
    return ", ".join(parts) + (f": {state['reason']}" if state.get("reason") else "")
