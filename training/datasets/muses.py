"""MUSES: a car with frame camera, event camera, LiDAR and radar in four weathers, by day and night (ECCV 2024).

    ROOT/frame_camera/<train|val|test>/<clear|fog|rain|snow>/<day|night>/NAME_frame_camera.png
    ROOT/lidar/.../NAME_lidar.bin   ROOT/radar/.../NAME_radar.png   ROOT/event_camera/.../NAME_event_camera.h5
    ROOT/gt_semantic/.../NAME_gt_labelTrainIds.png   ROOT/{calib.json,meta.json}   ROOT/gnss/...
    ROOT/projected_to_rgb/{lidar,radar,event_camera}/.../NAME_{lidar,radar,event_camera}.{npz,npy,png}  from the SDK

Layout as in timbroed/MUSES and timbroed/CAFuser. The labels of split test are withheld. Folders lidar, radar and
event_camera that hold projected PNG files themselves, as the any-modal papers' code wants them (zhengxuJosh/AnySeg,
semseg/datasets/muses.py), are recognised, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mss_models.labels import LABEL_SETS
from mss_models.modality import DEFAULT_ENCODINGS, MUSES_MODALITIES, PUBLISHED_MUSES_ENCODINGS, Encoding
from mss_perception.events import EventLane
from mss_perception.lane import LaneInvalid
from mss_perception.lidar import LidarLane
from mss_perception.projection import Motion
from mss_perception.radar import POLAR_AZIMUTHS, RadarLane
from training.datasets import muses_sensors as sensors
from training.datasets.dataset import Dataset, Frame, check_ids
from training.datasets.sample import (
    UNREADABLE,
    DatasetError,
    SplitMissing,
    check_png,
    read_json,
    read_png,
    three_channels,
)

FOLDERS = {"rgb": "frame_camera", "event": "event_camera", "lidar": "lidar", "radar": "radar"}
RECORDED = {"event": ".h5", "lidar": ".bin", "radar": ".png"}
PROJECTED = tuple((place, ending) for place in ("projected_to_rgb/", "")
                  for ending in (".npz", ".npy", ".png", "_projected.png"))
PUBLISHED_SIDE = 1024  # to which the published loaders resize, whatever the aspect
ENCODINGS = {name: DEFAULT_ENCODINGS[name] for name in MUSES_MODALITIES} | {
    "event": replace(DEFAULT_ENCODINGS["event"], params={"window_sec": 0.03})}  # what the SDK takes


class Muses(Dataset):
    """A split of MUSES; see Dataset.

    VARIANTS: 'raw', the recorded sensors through the lanes that a robot uses, in any encoding that they make.
    'compensated': as raw, and every point of LiDAR and radar is moved to the middle of the picture's exposure.
    'projected': images that the SDK has written, through the same lanes. 'published': what the any-modal papers' loader
    gives: the SDK's 16-bit PNG files cut to their high byte, everything resized to 1024 x 1024 whatever its aspect and
    fed as 0..255 without normalisation, and void (255) taken for road (0), which changes scores; for comparison only.
    The usual one is raw where the sensors' files are there, else projected.
    """

    NAME = "MUSES"
    LABELS = LABEL_SETS["muses"]
    MODALITIES = MUSES_MODALITIES
    WEATHERS, CASES = ("clear", "fog", "rain", "snow"), ("day", "night")
    VARIANTS = ("raw", "compensated", "projected", "published")

    def __init__(self, root: str | Path, split: str, modalities: Iterable[str] | None = None, **options) -> None:
        root = Path(root)
        self._lanes: dict[tuple[str, int, int], object] = {}
        super().__init__(root if (root / FOLDERS["rgb"]).is_dir() else root / "muses", split, modalities, **options)

    def _available(self) -> list[str]:
        return [name for name, folder in FOLDERS.items()
                if (self.root / folder).is_dir() or (self.root / "projected_to_rgb" / folder).is_dir()]

    def _prepare(self, wanted: dict[str, Encoding]) -> dict[str, Encoding]:
        published = {name: PUBLISHED_MUSES_ENCODINGS[name] for name in self.modalities}
        if not self.variant:
            asked = {name: wanted.get(name) for name in self.modalities}
            self.variant = "published" if asked == published else "raw" if self._is_recorded() else "projected"
        if self.variant == "published":
            return published
        if self.modalities != ("rgb",):
            self.rig = sensors.read_rig(self.root / "calib.json")
        self.meta = read_json(self.root / "meta.json") if self.variant == "compensated" else {}
        ours = {name: one for name, one in wanted.items()
                if name in ENCODINGS and one.name == ENCODINGS[name].name}
        return {name: ours.get(name, ENCODINGS[name]) for name in self.modalities}

    def _is_recorded(self) -> bool:
        """Whether files of the first scene are the sensors' own; one may be missing, which is to be said of it."""
        first, others = next(self._cameras(), None), [name for name in self.modalities if name != "rgb"]
        return first is None or not others or any(self._is_raw(name, first) for name in others)

    def _is_raw(self, modality: str, camera: Path) -> bool:
        path = self._sibling(camera, modality, "", RECORDED[modality])
        return path.is_file() and (modality != "radar" or _columns(path) == POLAR_AZIMUTHS)

    def _cameras(self) -> Iterable[Path]:
        return iter(sorted((self.root / FOLDERS["rgb"]).glob(f"{self.split}/*/*/*_frame_camera.png")))

    def _sibling(self, camera: Path, modality: str, place: str, ending: str) -> Path:
        folder = FOLDERS[modality]
        stem = camera.name.removesuffix("_frame_camera.png")
        return self.root / (place + folder) / Path(*camera.parts[-4:-1]) / f"{stem}_{folder}{ending}"

    def _find(self) -> list[Frame]:
        cameras = list(self._cameras())
        if not cameras:
            there = any(self.root.glob(f"*/{self.split}/*/*/*"))
            raise (DatasetError if there else SplitMissing)(
                f"{self.root}/{FOLDERS['rgb']}/{self.split}/<weather>/<day|night>/ holds no *_frame_camera.png")
        files = {name: self._files(name, cameras[0]) for name in self.modalities}
        return [self._frame(camera, files) for camera in cameras]

    def _files(self, modality: str, camera: Path) -> tuple[str, str]:
        """Place and ending of the files of a modality, judged by the first scene."""
        if modality == "rgb":
            return "", ".png"
        if self.variant in ("raw", "compensated"):
            return "", RECORDED[modality]
        for place, ending in PROJECTED:
            path = self._sibling(camera, modality, place, ending)
            polar = modality == "radar" and place == "" and path.is_file() and _columns(path) == POLAR_AZIMUTHS
            if path.is_file() and not polar and (self.variant == "projected" or path.suffix == ".png"):
                return place, ending
        kind = "PNG images" if self.variant == "published" else "images"
        raise DatasetError(f"{self._sibling(camera, modality, 'projected_to_rgb/', '.png')}: no such file; variant "
                           f"{self.variant!r} needs {kind} that project_sensors_to_rgb.py of the MUSES SDK has written")

    def _frame(self, camera: Path, files: dict[str, tuple[str, str]]) -> Frame:
        split, weather, case = camera.parts[-4:-1]
        if weather not in self.WEATHERS or case not in self.CASES:
            raise DatasetError(f"{camera}: folders {weather}/{case}; must be one of {', '.join(self.WEATHERS)} and of "
                               f"{', '.join(self.CASES)}")
        scene = camera.name.removesuffix("_frame_camera.png")
        labels = self.root / "gt_semantic" / split / weather / case / f"{scene}_gt_labelTrainIds.png"
        images = {name: self._sibling(camera, name, *files[name]) for name in self.modalities}
        return Frame(f"{split}/{weather}/{case}/{scene}", weather, case, images, labels, self._more(scene))

    def _more(self, scene: str) -> tuple[Path, ...]:
        """The GNSS file, where motion is compensated."""
        if self.variant != "compensated":
            return ()
        entry = self.meta.get(scene)
        try:
            return (self.root / entry["path_to_gnss"],)
        except (TypeError, KeyError):
            raise DatasetError(f"{self.root / 'meta.json'}: scene {scene!r} has no path_to_gnss, which motion "
                               "compensation needs") from None

    def _check_files(self, frames: list[Frame]) -> None:
        if self.split == "test" and not (self.root / "gt_semantic" / "test").is_dir():
            raise DatasetError(f"{self.root / 'gt_semantic' / 'test'}: no such folder; the labels of MUSES's split "
                               "test are withheld: score on val")
        super()._check_files(frames)

    # ---------------------------------------------------------------------------------------------------------- reading

    def _labels(self, frame: Frame) -> np.ndarray:
        labels = read_png(frame.labels)
        labels = check_ids(np.array(labels if labels.ndim == 2 else labels[:, :, 0]), len(self.labels), frame.labels)
        if self.variant != "published":
            return labels
        rows, columns = (np.arange(PUBLISHED_SIDE) * side // PUBLISHED_SIDE for side in labels.shape)
        labels = labels[rows[:, None], columns]
        labels[labels == 255] = 0
        return labels

    def _image(self, frame: Frame, modality: str, size: tuple[int, int]) -> np.ndarray:
        path = frame.images[modality]
        if self.variant == "published":
            return _published(path)
        if modality == "rgb":
            return three_channels(read_png(path))
        try:
            return getattr(self, f"_{modality}")(frame, path, self._lane(modality, *size)).image
        except LaneInvalid as error:
            raise DatasetError(f"{path}: {error}") from error

    def _lane(self, name: str, height: int, width: int):
        key = name, height, width
        if key not in self._lanes:
            encoding, rig = self.encodings[name], self.rig
            if name == "event":
                self._lanes[key] = EventLane(encoding, rig.rgb, height, width, rig.event, rig.to_rgb["event"])
            else:
                self._lanes[key] = {"lidar": LidarLane, "radar": RadarLane}[name](encoding, rig.cell, height, width)
        return self._lanes[key]

    def _event(self, frame: Frame, path: Path, lane: EventLane):
        if self.variant == "projected":
            return lane([sensors.projected_events(sensors.read_projected(path), self.rig)], 0)
        return lane([sensors.read_events(path, lane.window_ns // 1000)], 0)

    def _lidar(self, frame: Frame, path: Path, lane: LidarLane):
        if self.variant == "projected":
            cloud, motion = sensors.projected_lidar(sensors.read_projected(path), self.rig), Motion.fixed(np.eye(4))
        else:
            cloud, times = sensors.read_lidar(path)
            motion = self._motion(frame, "lidar", times)
        if not len(cloud):
            return _Nothing(lane)
        return lane(cloud, motion, intensity_max=sensors.INTENSITY_FULL)

    def _radar(self, frame: Frame, path: Path, lane: RadarLane):
        if self.variant == "projected":
            found = sensors.projected_radar(sensors.read_projected(path), self.rig)
            return lane.draw([lane.locate(found, Motion.fixed(np.eye(4)))])
        found, times = sensors.read_radar(path, self.encodings["radar"].params["max_m"])
        return lane.draw([lane.locate(found, self._motion(frame, "radar", times))])

    def _motion(self, frame: Frame, sensor: str, times_sec: np.ndarray) -> Motion:
        if self.variant != "compensated":
            return Motion.fixed(self.rig.to_rgb[sensor])
        entry = self.meta[frame.name.rpartition("/")[2]]
        try:
            middle = (int(entry["frame_camera_exposure_start_timestamp_us"])
                      + int(entry["frame_camera_exposure_end_timestamp_us"])) / 2e6
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{self.root / 'meta.json'}: {frame.name} has no "
                               f"frame_camera_exposure_start_timestamp_us and ..._end_... ({error})") from error
        return sensors.motion_of(frame.more[0], middle, times_sec, self.rig, sensor)


class _Nothing:
    """The picture of a LiDAR that got nothing back."""

    def __init__(self, lane: LidarLane) -> None:
        self.image = np.zeros((lane.height, lane.width, 3), np.uint8)


def _columns(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return image.size[0]
    except UNREADABLE as error:
        raise DatasetError(f"{path}: the image cannot be read ({error})") from error


def _published(path: Path) -> np.ndarray:
    """As AnySeg's loader: Pillow's 8-bit RGB (of 16 bits the high ones, channels in the file's order), bicubic."""
    check_png(path)
    with Image.open(path) as image:
        return np.array(image.convert("RGB").resize((PUBLISHED_SIDE, PUBLISHED_SIDE)))
