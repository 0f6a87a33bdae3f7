"""What is known of the sensors between messages, and how one sample of each becomes the network's image.

Calibration from camera_info, tf, odometry and the calibration file meets the lanes here; lanes are rebuilt when a
calibration changes. `learn` and `arrived` may run in one thread while `see` runs in another: `cameras` is replaced as
a whole and never changed, so whoever takes it once has one calibration for all that belongs together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mss_models.modality import Encoding
from mss_perception import calibration, rigid
from mss_perception.camera import Camera, CameraError
from mss_perception.config import Config
from mss_perception.depth import DepthLane
from mss_perception.event_stream import EventStream
from mss_perception.events import EventLane
from mss_perception.hha import level_of
from mss_perception.image import ImageLane
from mss_perception.inputs import InputState
from mss_perception.lane import LaneImage, LaneInvalid
from mss_perception.lidar import LidarLane, Returns, point_times_ns
from mss_perception.messages import (
    EventPicture,
    Events,
    MessageError,
    decode_cloud,
    decode_depth,
    decode_image,
    raw_bytes,
    stamp_ns,
)
from mss_perception.messages.images import read_pixels
from mss_perception.projection import Motion
from mss_perception.radar import Echoes, RadarLane, cloud_detections, polar_detections
from mss_perception.rectify import Rectification
from mss_perception.transforms import TransformMissing, Transforms
from mss_perception.units import nanoseconds

log = logging.getLogger(__name__)

LANES = {"rgb": ImageLane, "depth": DepthLane, "event": EventLane, "lidar": LidarLane, "radar": RadarLane}
INVALID_DATA = (LaneInvalid, MessageError, CameraError)
"""What makes a sample INVALID, with its text as the reason; anything else is a bug."""

COMPARED_BYTES = 128
# Calibrations that what was made of them is kept for: a camera may have two modes, or two of them share a topic. The
# tables of an event lane or a rectification take seconds to compute.
KEPT = 2
LONGEST_SIDE = 8192     # of the network's images; as the parameters width and height
SAME_MOUNTING_M, SAME_MOUNTING_RAD = 1e-3, np.radians(0.01)     # what the digits of a file and of a URDF may differ by


@dataclass
class Sample:
    """One arrived message. events: its decoded packet, for a stream. frozen: the payload is the one before's.
    error: why it cannot be decoded; known on arrival for streams only, whose decoders need every packet.
    nbytes: what it holds, decoded or not."""

    message: object
    frozen: bool = False
    events: Events | EventPicture | None = None
    error: str = ""
    nbytes: int = 0


@dataclass(frozen=True)
class View:
    """What the network is shown of one target camera, whose name it has.

    camera: on whose pixels labels lie. seen: the camera of the network's pictures, which is its pinhole form when there
    is a rectification. size: (height, width) of these pictures.
    """

    name: str
    camera: Camera
    seen: Camera
    size: tuple[int, int]
    rectification: Rectification | None = None


@dataclass(frozen=True)
class Seen:
    """One input in a view: its image, or of a point sensor the points that the modality's image is drawn of."""

    lane: object
    part: LaneImage | Returns | Echoes

    @property
    def figures(self) -> dict[str, int | float | bool]:
        """This input's own numbers, for the report."""
        return self.part.figures


class Sensors:
    """Calibration and lanes of all inputs, in all views.

    encodings: modality -> how the network wants it. image_size: (height, width) that the network was trained at. Raises
    ValueError when a lane cannot give an encoding, CalibrationError for the calibration file.
    """

    def __init__(self, config: Config, encodings: Mapping[str, Encoding], image_size: tuple[int, int]):
        self.config, self.encodings, self.image_size = config, dict(encodings), image_size
        self.transforms = Transforms(config.fixed_frame, max_future_sec=config.collector.max_future_sec)
        self.cameras: Mapping[str, Camera] = {}
        # What is kept of the last KEPT calibrations, the newest last: input -> content of its camera_info -> camera,
        # to notice a change cheaply; (view, modality) -> calibration -> lane; view -> camera and size -> tables.
        self._infos: dict[str, dict[tuple, Camera]] = {}
        self._lanes: dict[tuple[str, str], dict[tuple, object]] = {}
        self._rectifications: dict[str, dict[tuple, Rectification]] = {}
        self._payloads: dict[str, tuple[int, np.ndarray, np.ndarray | None]] = {}   # stamp, its payload, the one before
        self._clipped: set[str] = set()             # LiDARs whose intensities have been warned of
        self._ignored: set[str] = set()             # why odometry was ignored, told
        self._filed: dict[str, tuple[str, np.ndarray]] = {}     # child -> (parent, T_parent_child) of calibration_file
        self.event_streams = {name: EventStream(nanoseconds(config.event_period_sec))
                              for name, one in config.inputs.items() if one.modality == "event" and one.enabled}
        if config.calibration_file:
            known = calibration.load(config.calibration_file)
            for remark in known.foreign(config.inputs):
                log.warning("%s", remark)
            self.cameras = {name: self._placed(name, camera) for name, camera in known.cameras.items()}
            for parent, child, T in known.extrinsics:
                self.transforms.add_static(parent, child, T)
                self._filed[child] = parent, T
        self._try_lanes()

    def _try_lanes(self) -> None:
        """Build each lane once: a wrong encoding is an error now, and the compiler runs now."""
        some = Camera(8, 8, np.array([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]))
        for name, encoding in self.encodings.items():
            LANES[name](encoding, some, 8, 8, *((some, np.eye(4)) if name == "event" else ()))

    # ------------------------------------------------------------------------------------------------ what messages say

    def learn(self, role: str, message, clock_ns: int | None = None) -> str:
        """Take in `<input>/info`, 'tf', 'tf_static' or 'odom'. Returns what to count of it, if anything: 'changed' for
        a camera_info that differs from the last one, 'ignored' for odometry that tf knows better than, 'replaced' for
        transforms that differ from calibration_file's.

        Raises MessageError or CameraError for what is refused: all of it, or some transforms of tf's.

        clock_ns: as of Pipeline.receive. A pose too far ahead of it is refused, as a sample would be.
        """
        if role == "odom":
            return self._odometry(message, clock_ns)
        if role in ("tf", "tf_static"):
            try:
                self.transforms.add_message(message, role == "tf_static", clock_ns)
            finally:
                replaced = self._replaced(role, message)
            return "replaced" if replaced else ""
        return "changed" if self._camera_info(role.partition("/")[0], message) else ""

    def _odometry(self, message, clock_ns: int | None) -> str:
        if not (reason := self.transforms.add_odometry(message, clock_ns)):
            return ""
        if reason not in self._ignored:
            self._ignored.add(reason)
            log.warning("odometry is ignored: %s. If that is meant, odometry_topic may be empty", reason)
        return "ignored"

    def _replaced(self, role: str, message) -> bool:
        """Whether a mounting of calibration_file is another one by this message; of each it is told once."""
        replaced = False
        for child in {one.child_frame_id.lstrip("/") for one in message.transforms} & self._filed.keys():
            parent, T = self._filed[child]
            with suppress(TransformMissing):        # the lanes say so
                distance, angle = rigid.difference(T, self.transforms.lookup(parent, child))
                if distance > SAME_MOUNTING_M or angle > SAME_MOUNTING_RAD:
                    replaced = True
                    del self._filed[child]
                    log.warning("%r is no longer where calibration_file has it: by %s, which wins, it is %.1f mm and "
                                "%.2f degrees away. Correct that (the URDF), or leave %s_topic empty", child, role,
                                1e3 * distance, np.degrees(angle), role)
        return replaced

    def _camera_info(self, name: str, message) -> bool:
        roi = message.roi
        content = (message.width, message.height, message.distortion_model, tuple(message.d), tuple(message.k),
                   message.binning_x, message.binning_y, roi.x_offset, roi.y_offset, roi.width, roi.height,
                   message.header.frame_id)
        known = self._infos.setdefault(name, {})
        last = next(reversed(known), None)
        if content == last:
            return False
        new = content not in known
        camera = kept(known, content, lambda: self._placed(name, Camera.from_info(message)))
        if new and last:
            log.warning("calibration of %s has changed to %d x %d, K = %s, D = %s", name, camera.width,
                        camera.height, camera.K.ravel().tolist(), list(camera.D))
        self.cameras = {**self.cameras, name: camera}
        return last is not None

    def _placed(self, name: str, camera: Camera) -> Camera:
        """The camera in the frame that the configuration names, if it does."""
        return camera.in_frame(self.config.inputs[name].frame_id) if name in self.config.inputs else camera

    def arrived(self, name: str, message) -> Sample:
        """A data message, before the collector gets it: notice a repeated payload, decode a stream's packet."""
        sample = Sample(message, self._is_repeated(name, message), nbytes=len(payload_of(message)))
        if name in self.event_streams:
            try:
                sample.events = self.event_streams[name].decode(message)
            except MessageError as error:
                sample.error = str(error)
            sample.message = None       # what counts of it is decoded, and many times as large where it was packed
            sample.nbytes = 0 if sample.events is None else sample.events.nbytes
        return sample

    def _is_repeated(self, name: str, message) -> bool:
        """Whether the payload is bit by bit that of the stamp before. An empty one is not: nothing may happen.

        A message that comes twice repeats nothing: both are compared with what came under another stamp.
        """
        payload, stamp = raw_bytes(payload_of(message)), stamp_ns(message.header)
        last_stamp, last, before = self._payloads.get(name, (None, None, None))
        if stamp != last_stamp:
            before = last
        self._payloads[name] = stamp, payload, before
        if before is None or not len(payload) or len(payload) != len(before):
            return False
        spread = max(1, len(payload) // COMPARED_BYTES)      # a few bytes from all over decide nearly always
        return np.array_equal(payload[::spread], before[::spread]) and np.array_equal(payload, before)

    def reset(self) -> None:
        """Time has jumped: forget poses over time and payloads; calibration stays."""
        self.transforms.reset()
        for stream in self.event_streams.values():
            stream.reset()
        self._payloads.clear()

    # ---------------------------------------------------------------------------------------------------------- images

    def view(self, name: str, cameras: Mapping[str, Camera]) -> View:
        """The view of one of target_cameras. Raises LaneInvalid when its intrinsics are not known yet."""
        camera = cameras.get(name)
        if camera is None:
            raise LaneInvalid(f"no camera_info of the target camera on {self.config.inputs[name].info_topic!r} and no "
                              f"camera {name!r} in calibration_file")
        size = network_size(self.config, self.image_size, camera)
        if not self.config.undistort or camera.model == "none":
            return View(name, camera, camera, size)
        rectification = kept(self._rectifications.setdefault(name, {}), (camera, size),
                             lambda: Rectification(camera, *size))
        return View(name, camera, rectification.pinhole, size, rectification)

    def expected_sizes(self) -> set[tuple[int, int]]:
        """(height, width) of the network's images as far as they are known before the first camera_info."""
        known = [self.cameras.get(name) for name in self.config.target_cameras]
        return {network_size(self.config, self.image_size, camera) if camera is not None else
                (self.config.height or self.image_size[0], self.config.width or self.image_size[1]) for camera in known}

    def see(self, name: str, state: InputState, t_ref_ns: int, cameras: Mapping[str, Camera], view: str) -> Seen:
        """The matched sample of one input in a view. Raises one of INVALID_DATA with the reason.

        cameras: `self.cameras` as it was when work on the set began.
        """
        modality = self.config.inputs[name].modality
        return getattr(self, f"_{modality}")(name, state, t_ref_ns, cameras, self.view(view, cameras))

    def _rgb(self, name: str, state: InputState, t_ref_ns: int, cameras: Mapping[str, Camera], view: View) -> Seen:
        own = self._camera(name, cameras)
        if own.frame_id != view.camera.frame_id:
            raise LaneInvalid(f"a colour image cannot be moved from {own.frame_id!r} to the target camera "
                              f"{view.camera.frame_id!r} without its depth; name {name} in target_cameras")
        lane = self._lane(view, "rgb", own)
        return Seen(lane, lane(read_pixels(state.payload.message, (own.height, own.width))))

    def _depth(self, name: str, state: InputState, t_ref_ns: int, cameras: Mapping[str, Camera], view: View) -> Seen:
        message, camera, to = state.payload.message, self._camera(name, cameras), self._frame_of(view)
        pixels = decode_depth(message, (camera.height, camera.width))
        frame, lane, level = self._frame(name, message, camera), self._lane(view, "depth"), None
        if self.encodings["depth"].name == "hha":
            level = level_of(self.transforms, to, self.config.base_frame, t_ref_ns)
        config = self.config.inputs[name]
        apart_ns = abs(config.true_ns(stamp_ns(message.header)) - t_ref_ns)
        if frame == to and apart_ns <= nanoseconds(config.tolerance_sec):
            # One device: a few milliseconds of driving are not worth a registration. A held image is older.
            return Seen(lane, lane(pixels, camera, np.eye(4), level))
        motion, _ = self.moved(name, to, frame, message, None, t_ref_ns)
        return Seen(lane, lane(pixels, camera, motion.T[0], level))

    def _lidar(self, name: str, state: InputState, t_ref_ns: int, cameras: Mapping[str, Camera], view: View) -> Seen:
        config, cloud = self.config.inputs[name], decode_cloud(state.payload.message)
        frame = self._frame(name, state.payload.message)
        motion, deskewed = self.moved(name, self._frame_of(view), frame, state.payload.message,
                                      point_times_ns(cloud, config.time_unit), t_ref_ns)
        lane = self._lane(view, "lidar")
        returns = lane.locate(cloud, motion, deskewed, config.intensity_max)
        if (share := returns.figures.get("intensity_clipped")) and name not in self._clipped:
            self._clipped.add(name)
            log.warning("%d %% of the intensities of %s are above its full scale; set %s.intensity_max to the largest "
                        "that its driver sends, usually 255", round(100 * share), name, name)
        return Seen(lane, returns)

    def _radar(self, name: str, state: InputState, t_ref_ns: int, cameras: Mapping[str, Camera], view: View) -> Seen:
        config, message, times_ns = self.config.inputs[name], state.payload.message, None
        if hasattr(message, "point_step"):
            found = cloud_detections(decode_cloud(message), config.intensity_min, config.intensity_max)
        else:
            found, times_ns = polar_detections(decode_image(message), self.encodings["radar"].params["max_m"])
        motion, deskewed = self.moved(name, self._frame_of(view), self._frame(name, message), message, times_ns,
                                      t_ref_ns)
        lane = self._lane(view, "radar")
        return Seen(lane, lane.locate(found, motion, deskewed))

    def _event(self, name: str, state: InputState, t_ref_ns: int, cameras: Mapping[str, Camera], view: View) -> Seen:
        if broken := next((sample.error for sample in state.payload if sample.error), ""):
            raise LaneInvalid(broken)
        camera = self._camera(name, cameras)
        T = self.transforms.lookup(self._frame_of(view), self._frame(name, None, camera))
        lane = self._lane(view, "event", camera, T, self.config.event_plane_depth_m)
        config = self.config.inputs[name]
        # The collector has chosen the packets; the lane sees these and no others, live and in replay alike, and asks
        # them by their driver's clock.
        packets = [sample.events for sample in state.payload]
        return Seen(lane, lane(packets, config.stamp_of(t_ref_ns), state.stamp_ns + config.clock_offset_ns,
                               state.coverage))

    def moved(self, name: str, target: str, frame: str, message, times_ns: np.ndarray | None,
              t_ref_ns: int) -> tuple[Motion, bool]:
        """Transforms.moved of what an input has measured. times_ns: per point, by the driver's clock as the stamp."""
        config = self.config.inputs[name]
        if times_ns is not None and config.clock_offset_ns:
            times_ns = times_ns - config.clock_offset_ns
        return self.transforms.moved(target, frame, times_ns, config.true_ns(stamp_ns(message.header)), t_ref_ns)

    def _camera(self, name: str, cameras: Mapping[str, Camera]) -> Camera:
        if name not in cameras:
            raise LaneInvalid(f"no camera_info on {self.config.inputs[name].info_topic!r} and no camera {name!r} in "
                              "calibration_file")
        return cameras[name]

    def _frame(self, name: str, message, camera: Camera | None = None) -> str:
        """The frame of the data: as configured, else the camera's, else the message's."""
        frame = self.config.inputs[name].frame_id or (camera.frame_id if camera else message.header.frame_id)
        if not frame:
            raise LaneInvalid(f"{name} has no frame: header.frame_id is empty; set {name}.frame_id")
        return frame.lstrip("/")

    @staticmethod
    def _frame_of(view: View) -> str:
        if not view.camera.frame_id:
            raise LaneInvalid(f"the target camera {view.name} has no frame: header.frame_id of its camera_info is "
                              f"empty; set {view.name}.frame_id")
        return view.camera.frame_id

    def _lane(self, view: View, modality: str, *more):
        """The lane for this calibration; a new one only for one that is not kept."""
        key = (view.seen, view.size, *(one.tobytes() if isinstance(one, np.ndarray) else one for one in more))
        return kept(self._lanes.setdefault((view.name, modality), {}), key,
                    lambda: LANES[modality](self.encodings[modality], view.seen, *view.size, *more))


def kept(last: dict, key, make: Callable[[], object]):
    """last[key], made where it is not there, which then is the newest of at most KEPT."""
    last[key] = found = last.pop(key) if key in last else make()
    if len(last) > KEPT:
        del last[next(iter(last))]
    return found


def joined(seen: Sequence[Seen]) -> LaneImage:
    """The image of all inputs of one modality in one view. Cameras never share one; points are drawn here, together.

    Raises LaneInvalid when LiDARs have returns and none of them lies in the view: a blank picture would tell the
    network that nothing is there. One of several may see nothing of a view, as a rear one of the front. So may radars,
    whose detections are few.
    """
    first, parts = seen[0], [one.part for one in seen]
    if isinstance(first.part, LaneImage):
        return first.part
    if isinstance(first.part, Returns) and not any(len(one.points.index) for one in parts):
        raise LaneInvalid(f"none of {sum(one.points.returns for one in parts)} returns lies in the camera's view: check"
                          f" the mounting, from the LiDAR's frame to {first.lane.target.frame_id!r}")
    return first.lane.draw(parts)


def payload_of(message):
    """The bytes of an image, a cloud or an event packet; none of a list of events."""
    payload = message.events if hasattr(message, "events") else message.data
    return b"" if isinstance(payload, list) else payload


def packet_span(sample: Sample, message, period_sec: float) -> tuple[int, int]:
    """[begin, end] in ns that a stream's packet covers; one that cannot be decoded covers one period.

    (0, 0), which no collector takes, for a packet without a stamp or without anything to do with events.
    """
    if sample.events is not None:
        return sample.events.begin_ns, sample.events.end_ns
    begin_ns = stamp_ns(message.header)
    return (begin_ns, begin_ns + nanoseconds(period_sec)) if begin_ns > 0 and sample.error else (0, 0)


def network_size(config: Config, image_size: tuple[int, int], camera: Camera) -> tuple[int, int]:
    """(height, width) of the network's images.

    As configured; one of width and height follows from the other in the camera's aspect; without either the shorter
    side is the checkpoint's shorter side. What follows is rounded to a multiple of 32, which the networks pad to.
    Raises CameraError when a side would be longer than may be configured, as of a camera_info that is hardly right.
    """
    height, width = config.height, config.width
    aspect = camera.width / camera.height
    if not height and not width:
        short = min(image_size)
        height, width = (short, 0) if aspect >= 1 else (0, short)
    height, width = (height or _multiple_of_32(width / aspect)), (width or _multiple_of_32(height * aspect))
    if max(height, width) > LONGEST_SIDE:
        raise CameraError(f"a camera of {camera.width} x {camera.height} pixels would give the network images of "
                          f"{width} x {height}, at most {LONGEST_SIDE} on a side; is its camera_info right? Or set "
                          "width and height")
    return height, width


def _multiple_of_32(value: float) -> int:
    return max(32, 32 * round(value / 32))
