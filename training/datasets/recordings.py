"""Our own recordings as bags: every labelled moment of a drive, as the robot's own pipeline sees it.

    BAG, ROOT/BAG ...       a bag's folder, an .mcap or a .db3 file, or several: split test
    ROOT/{train,val,test}/BAG ...   several recordings
    ROOT/sensors.yaml       optional: the node's configuration (topics, offsets, calibration_file); also in BAG's folder
    ROOT/labels.json        optional: the classes (LabelSet.to_dict), else DELIVER's

A bag is replayed (mss_perception.pipeline) with the network left out. A frame is a set for which the labels topic holds
an image within half a period; what a sensor did not deliver in time is missing in it, as on the robot. Frames have the
pixels of the target camera. A bag cannot be read at any place: its frames are held in memory, those of all bags for a
training, else of HELD bags, and a bag is replayed again when it has its turn.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from mss_models.labels import LABEL_SETS, LabelError, LabelSet
from mss_models.modality import DEFAULT_ENCODINGS, Encoding
from mss_models.runtime.torch import Result
from mss_perception.bags import BAG_FILES, bag_summary, bags_in, is_bag, read_bag
from mss_perception.config import Config, modality_of
from mss_perception.messages import decode_image
from mss_perception.pipeline import Output, Pipeline
from mss_perception.replay import USER_ERRORS, calibrate, roles_in
from mss_perception.truth import Truth
from training.datasets.dataset import Dataset, Frame, check_ids, size_text
from training.datasets.memory import memory_bytes
from training.datasets.sample import DatasetError, Sample, SplitMissing, read_json

SPLITS = ("train", "val", "test")
HELD = 2  # bags whose frames stay in memory: two threads may be on either side of a seam


class Recordings(Dataset):
    """A split of recorded bags; see Dataset. Opening one replays it."""

    NAME = "recordings"
    LABELS = LABEL_SETS["deliver"]
    MODALITIES = ("rgb", "depth", "event", "lidar", "radar")
    SPLITS = SPLITS

    def __init__(self, root: str | Path, split: str, modalities: Iterable[str] | None = None, *,
                 cache: bool | str = False, **options) -> None:
        self._hold_all = bool(cache)
        self._held: dict[Path, dict[str, Sample]] = {}  # bag -> its frames by name; the bag read first comes first
        self._known: dict[str, tuple[Path, frozenset[str]]] = {}  # frame -> its bag and what is missing in it
        self._one_at_a_time = threading.Lock()
        super().__init__(root, split, modalities, **options)

    def _available(self) -> list[str]:
        """Those that a sensor of the configuration has a topic for in the first bag."""
        bags = self._bags()
        try:
            config, there = self._config(), bag_summary(bags[0]).topics
        except USER_ERRORS as error:
            raise DatasetError(str(error)) from error
        return [name for name in self.MODALITIES if any(
            modality_of(one) == name and "/" + source.topic.lstrip("/") in there for one, source in
            config.inputs.items() if source.topic)] or list(self.MODALITIES)

    def _prepare(self, wanted: dict[str, Encoding]) -> dict[str, Encoding]:
        if (path := self._beside("labels.json")) is not None:
            try:
                self.labels = LabelSet.from_dict(read_json(path))
            except (LabelError, TypeError) as error:
                raise DatasetError(f"{path}: {error}") from error
        return {name: wanted.get(name, DEFAULT_ENCODINGS[name]) for name in self.modalities}

    def _beside(self, name: str) -> Path | None:
        folder = self.root if self.root.is_dir() else self.root.parent
        return folder / name if (folder / name).is_file() else None

    def _config(self) -> Config:
        path = self._beside("sensors.yaml")
        return Config.of_inputs(["rgb", "depth", "event", "lidar", "radar"]) if path is None else Config.from_yaml(path)

    def _bags(self) -> list[Path]:
        if not has_splits(self.root):
            several = bags_in(self.root)
            if self.split != "test":
                raise SplitMissing(f"{self.root} is a {'folder of bags' if several else 'bag'}, which is split test as "
                                   f"a whole; split {self.split} needs bags in folders train/, val/ and test/, from "
                                   "different drives")
            return several or [self.root]
        folder = self.root / self.split
        if not (bags := bags_in(folder)):
            raise SplitMissing(f"{folder} holds no bag (a folder with metadata.yaml, or an .mcap or .db3 file)")
        return bags

    def _find(self) -> list[Frame]:
        frames = []
        for bag in self._bags():
            samples = self._frames_of(bag)
            if not samples:
                raise DatasetError(f"{bag}: no set of sensor data has labels; are the sensors' topics and the labels' "
                                   "right (sensors.yaml beside the bag names them)?")
            self._known |= {name: (bag, one.missing) for name, one in samples.items()}
            files = [bag]
            if bag.is_dir():  # a file may be compressed, packed.db3.zstd
                files = sorted(path for path in bag.iterdir() if {*path.suffixes} & {*BAG_FILES})
            frames += [Frame(name, "", "", labels=files[0], more=tuple(files[1:])) for name in samples]
        return frames

    def _frames_of(self, bag: Path) -> dict[str, Sample]:
        """The labelled frames of a bag by name, replayed if they are not held."""
        with self._one_at_a_time:
            if bag not in self._held:
                while not self._hold_all and len(self._held) >= HELD:
                    del self._held[next(iter(self._held))]
                try:
                    self._held[bag] = {one.name: one for one in self._replayed(bag)}
                except (*USER_ERRORS, ValueError) as error:
                    text = str(error)
                    raise DatasetError(text if str(bag) in text else f"{bag}: {text}") from error
            return self._held[bag]

    def _replayed(self, bag: Path) -> list[Sample]:
        """The labelled frames of a bag. Raises one of USER_ERRORS."""
        summary, config = bag_summary(bag), self._config()
        config = config.of_view(config.target_cameras[0])
        for name, one in config.inputs.items():
            one.enabled &= modality_of(name) in self.modalities
        topic = "/" + config.labels_topic.lstrip("/")
        if topic not in summary.topics:
            raise DatasetError(f"{bag}: no labels: topic {topic} is not in the bag; it has {', '.join(summary.topics)}")
        _, _, first = next(read_bag(bag, [topic]))
        height, width = decode_image(first).shape[:2]
        self._check_memory(bag, summary.topics[topic].count * height * width * (3 * len(self.modalities) + 1))
        config.set("width", width)
        config.set("height", height)
        config.set("publish_points", False)
        roles = roles_in(summary, config.validate())
        eyes = Eyes(self.encodings, self.labels, (height, width))
        tolerance_ns = round(0.5e9 / config.collector.tick_rate_hz)
        truth = Truth(summary, config.labels_topic, self.labels.ignore_id, tolerance_ns,
                      round(config.collector.jump_back_sec * 1e9))
        samples = []

        def keep(output: Output) -> None:
            if output.dropped or not output.images:
                return
            if (labels := truth.at(output.t_ref_ns, output.epoch)) is not None:
                name = f"{bag.name}/{output.epoch}/{output.t_ref_ns}"
                samples.append(self._sample(name, labels, output.images, bag))

        pipeline = Pipeline(config, eyes, keep, synchronous=True)
        calibrate(pipeline, bag, roles)
        now_ns = summary.start_ns
        for topic, now_ns, message in read_bag(bag, list(roles)):
            pipeline.poll(now_ns)
            pipeline.receive(roles[topic], message, now_ns, clock_ns=now_ns)
        pipeline.flush(now_ns)
        return samples

    def _sample(self, name: str, labels: np.ndarray, images: Mapping[str, np.ndarray], bag: Path) -> Sample:
        labels = check_ids(labels.copy(), len(self.labels), bag)
        missing = frozenset(self.modalities) - set(images)
        pictures = {}
        for one in self.modalities:
            pictures[one] = np.zeros((*labels.shape, 3), np.uint8) if one in missing else images[one]
            if pictures[one].shape[:2] != labels.shape:
                raise DatasetError(f"{bag}: {one} has {size_text(pictures[one])} pixels at {name}, the labels "
                                   f"{size_text(labels)}")
            pictures[one].flags.writeable = False
        labels.flags.writeable = False
        return Sample(name, pictures, labels, missing)

    def _check_memory(self, bag: Path, more: int) -> None:
        held = sum(one.labels.size * (3 * len(one.images) + 1) for bag in self._held.values() for one in bag.values())
        if held + more > 0.5 * memory_bytes():
            raise DatasetError(f"{bag}: its frames would take {(held + more) / 1e9:.1f} GB of the "
                               f"{memory_bytes() / 1e9:.1f} GB of memory; cut it into shorter bags, or train on fewer")

    def _read(self, frame: Frame) -> Sample:
        bag, _ = self._known[frame.name]
        return self._frames_of(bag)[frame.name]

    def missing_in(self, frame: Frame) -> frozenset[str]:
        return self._known[frame.name][1]

    def _labels(self, frame: Frame) -> np.ndarray:
        return self._read(frame).labels

    def _image(self, frame: Frame, modality: str, size: tuple[int, int]) -> np.ndarray:
        return self._read(frame).images[modality]


class Eyes:
    """Stands in the pipeline where the network is, so that the pictures for it are made; it sees nothing."""

    model_id = "none"

    def __init__(self, encodings: Mapping[str, Encoding], labels: LabelSet, image_size: tuple[int, int]) -> None:
        self.encodings, self.labels, self.image_size = dict(encodings), labels, image_size
        self.modalities = tuple(encodings)

    def __call__(self, images, present, output_size: tuple[int, int]) -> Result:
        blank = np.zeros((len(next(iter(images.values()))), *output_size), np.uint8)
        return Result(blank, blank)


def has_splits(path: Path) -> bool:
    """Whether bags lie in folders named after splits."""
    return any(bags_in(path / split) for split in SPLITS)


def is_recordings(path: Path) -> bool:
    """A bag, or a folder with bags, or with bags in folders named after splits."""
    return is_bag(path) or has_splits(path) or bool(bags_in(path))
