"""What a bag or a live graph carries, topic by topic: counts, times, and what the messages hold.

Every message is counted and its times are kept, from its first bytes; only some of each topic are decoded, by the
decoders that the node itself uses. So an hour of recording is surveyed in little more than the time to read it.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mss_perception.camera import Camera, CameraError
from mss_perception.event_stream import EventStream
from mss_perception.lidar import INTENSITY_FIELDS, TIME_FIELDS, point_times_ns
from mss_perception.message_types import CLOUD, COMPRESSED, EVENT_ARRAYS, EVENT_PACKET, IMAGE, INFO, ODOMETRY, TF
from mss_perception.messages import (
    EventPicture,
    Events,
    MessageError,
    decode_cloud,
    decode_depth,
    decode_events,
    decode_image,
    decode_odometry,
    decode_transforms,
    stamp_ns,
)
from mss_perception.messages.common import serialised_stamp_ns
from mss_perception.radar import SPEED_FIELDS

EVENTS = (EVENT_PACKET, *EVENT_ARRAYS)
DEPTH_ENCODINGS = ("16UC1", "32FC1")
EVENT_FIELDS = {"x", "y", "t", "p"}
RADAR_FIELDS = {*SPEED_FIELDS, "rcs"}
MOST_DETECTIONS = 5000      # of a radar; a cloud of more points with a speed is a LiDAR's that measures it (FMCW)
UNITS = {1_000_000_000: "seconds", 1_000_000: "milliseconds", 1_000: "microseconds", 1: "nanoseconds"}


class SurveyError(ValueError):
    """Nothing can be surveyed. The message says why."""


@dataclass
class Topic:
    """One topic. times (ns): `received`, and `stamps` as long, empty when the type has no header.

    kind: what it can be used as: 'colour', 'grey', 'depth', 'cloud', 'radar', 'events', 'info', 'odometry', 'tf', or
    '' for anything else. facts: name -> Counter of values (text) over the decoded messages; figures: name -> values
    (numbers). errors: Counter of the reasons why messages cannot be decoded. unreadable: why none can be looked into.
    camera: of the last good camera_info. kept: decoded tf and odometry messages. stream: decoder of
    events, with its state. lost: messages that never came (live).
    """

    name: str
    type: str
    has_header: bool = False
    received: array = field(default_factory=lambda: array("q"))
    stamps: array = field(default_factory=lambda: array("q"))
    kind: str = ""
    decoded: int = 0
    facts: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter = field(default_factory=Counter)
    unreadable: str = ""
    camera: Camera | None = None
    kept: list = field(default_factory=list)
    stream: EventStream | None = None
    lost: int = 0

    @property
    def count(self) -> int:
        return len(self.received)

    def add(self, receive_ns: int, cdr) -> None:
        """Count one message. cdr: its serialised bytes; of these the stamp is read, wherever there is one."""
        self.received.append(receive_ns)
        if self.has_header:
            self.stamps.append(serialised_stamp_ns(cdr))

    def look(self, message) -> None:
        """Decode one message for what it holds; one that cannot be decoded is counted with the reason."""
        header = getattr(message, "header", None)
        if header is not None:
            self.facts["frame_id"][header.frame_id] += 1
        try:
            LOOKS.get(self.type, _nothing)(self, message)
            self.decoded += 1
        except (MessageError, CameraError) as error:
            self.errors[str(error)] += 1

    def fact(self, name: str) -> str:
        """The most frequent value; '' when there is none."""
        return self.facts[name].most_common(1)[0][0] if self.facts.get(name) else ""

    def median(self, name: str) -> float | None:
        return float(np.median(self.figures[name])) if self.figures.get(name) else None

    @property
    def frame_id(self) -> str:
        return (self.camera.frame_id if self.camera else self.fact("frame_id")).lstrip("/")

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) in pixels of an image, a camera or an event camera, where known."""
        if self.camera:
            return self.camera.width, self.camera.height
        width, _, height = self.fact("size").partition(" x ")
        return (int(width), int(height)) if height else None

    @property
    def error(self) -> str:
        """The most frequent reason why a message cannot be used; '' when the others are more."""
        if self.unreadable:
            return self.unreadable
        worst = self.errors.most_common(1)
        return worst[0][0] if worst and self.errors.total() > self.decoded else ""


def _nothing(topic: Topic, message) -> None:
    pass


def _image(topic: Topic, message) -> None:
    topic.facts["encoding"][message.encoding] += 1
    topic.facts["size"][f"{message.width} x {message.height}"] += 1
    depth = message.encoding in DEPTH_ENCODINGS or message.encoding == "mono16" and "depth" in topic.name
    topic.kind = "depth" if depth else "grey" if message.encoding.startswith("mono") else "colour"
    if topic.kind == "grey" and "radar" in topic.name.lower():
        topic.kind = "radar"        # a polar image
    if not depth and "event" in topic.name.lower() and _shows_events(message):
        topic.kind = "events"
    else:
        _pixels(topic, decode_depth(message) if depth else decode_image(message))


def _shows_events(message) -> bool:
    """Whether an image is a ready-made picture of events, not one of the frames that some event cameras also give."""
    try:
        return isinstance(decode_events(message), EventPicture)
    except MessageError:
        return False


def _compressed(topic: Topic, message) -> None:
    topic.facts["encoding"][message.format] += 1
    topic.kind = "depth" if "compressedDepth" in message.format else "colour"
    pixels = decode_image(message)
    topic.facts["size"][f"{pixels.shape[1]} x {pixels.shape[0]}"] += 1
    _pixels(topic, pixels)


def _pixels(topic: Topic, pixels: np.ndarray) -> None:
    if topic.kind == "depth":
        topic.figures["valid_fraction"].append(float(np.mean(np.isfinite(pixels) & (pixels > 0))))
    elif topic.kind != "radar":
        topic.kind = "colour" if pixels.ndim == 3 else "grey"


def _cloud(topic: Topic, message) -> None:
    names = [one.name for one in message.fields]
    topic.facts["fields"][", ".join(names)] += 1
    if set(names) >= EVENT_FIELDS:
        topic.kind = "events"
        topic.facts["encoding"]["points x y t p"] += 1
        _count_events(topic, message)
        return
    cloud = decode_cloud(message)
    radar = RADAR_FIELDS & {name.lower() for name in names} and len(cloud) <= MOST_DETECTIONS
    topic.kind = "radar" if radar else "cloud"
    if not len(cloud):
        raise MessageError("cloud is empty")
    xyz = cloud.xyz()
    topic.figures["points"].append(len(cloud))
    if cloud.fields.ndim == 2:
        topic.facts["organised"][f"{cloud.fields.shape[1]} x {cloud.fields.shape[0]}"] += 1
    returns = np.isfinite(xyz).all(axis=1) & xyz.any(axis=1)
    topic.figures["returns"].append(int(returns.sum()))
    if name := next((name for name in INTENSITY_FIELDS if name in cloud.names), None):
        values = cloud.scalar(name)
        topic.facts["intensity"][f"{name} {values.dtype.name}"] += 1
        if returns.any():
            topic.figures["largest_intensity"].append(float(np.percentile(values[returns], 99)))
    _point_times(topic, cloud)


def _point_times(topic: Topic, cloud) -> None:
    name = next((name for name in TIME_FIELDS if name in cloud.names), None)
    if name is None:
        return
    times = point_times_ns(cloud)
    if times is None:
        topic.facts["point_time"][f"{name}: no unit makes it times near the stamp"] += 1
        return
    values = cloud.scalar(name).astype(np.float64)
    finite = np.isfinite(values)
    first, last = np.argmin(np.where(finite, values, np.inf)), np.argmax(np.where(finite, values, -np.inf))
    span = float(values[last] - values[first])
    unit = min(UNITS, key=lambda one: abs(np.log(max(1.0, float(times[last] - times[first])) / span / one))) \
        if span > 0 else 1_000_000_000
    absolute = abs(float(values[first]) * unit - cloud.stamp_ns) < abs(cloud.stamp_ns) / 2
    topic.facts["point_time"][f"{name}: {UNITS[unit]} {'since 1970' if absolute else 'after the stamp'}"] += 1
    relative = times[finite] - cloud.stamp_ns
    topic.figures["first_point_ns"].append(int(relative.min()))
    topic.figures["last_point_ns"].append(int(relative.max()))


def _events(topic: Topic, message) -> None:
    topic.kind = "events"
    topic.facts["encoding"][getattr(message, "encoding", "list of events")] += 1
    topic.facts["size"][f"{message.width} x {message.height}"] += 1
    _count_events(topic, message)


def _count_events(topic: Topic, message) -> None:
    topic.stream = topic.stream or EventStream(0)
    events = topic.stream.decode(message)
    if not isinstance(events, Events):
        return      # triggers, or no time yet
    stamp = stamp_ns(message.header)
    topic.figures["begin_ns"].append(events.begin_ns - stamp)
    topic.figures["end_ns"].append(events.end_ns - stamp)
    topic.figures["events"].append(len(events))
    topic.figures["on"].append(int(np.count_nonzero(events.p)))
    if len(events):
        topic.figures["largest_x"].append(int(events.x.max()))
        topic.figures["largest_y"].append(int(events.y.max()))


def _info(topic: Topic, message) -> None:
    topic.kind = "info"
    topic.facts["size"][f"{message.width} x {message.height}"] += 1
    topic.camera = Camera.from_info(message)
    topic.facts["model"][topic.camera.model] += 1
    topic.facts["K"][" ".join(f"{value:.6g}" for value in topic.camera.K.ravel())] += 1


def _odometry(topic: Topic, message) -> None:
    topic.kind = "odometry"
    parent, child, _, _ = decode_odometry(message)
    topic.facts["frames"][f"{parent} -> {child}"] += 1
    topic.kept.append(message)


def _tf(topic: Topic, message) -> None:
    topic.kind = "tf"
    topic.kept.append(message)      # also with poses that are refused: the others count
    for parent, child, _, _ in decode_transforms(message):
        topic.facts["frames"][f"{parent} -> {child}"] += 1


LOOKS: dict[str, Callable[[Topic, object], None]] = {
    IMAGE: _image, COMPRESSED: _compressed, CLOUD: _cloud, INFO: _info, ODOMETRY: _odometry, TF: _tf,
    **dict.fromkeys(EVENTS, _events)}
KINDS = {IMAGE: "grey", COMPRESSED: "colour", CLOUD: "cloud", INFO: "info", ODOMETRY: "odometry", TF: "tf",
         **dict.fromkeys(EVENTS, "events")}
"""Type -> kind of a topic that nothing has been decoded of."""


@dataclass
class Survey:
    """source: the bag's path, or words for the live graph. live: receive times are of now. remarks: what happened while
    reading that the reader must know. span_ns: from the first message to the last, of any topic."""

    source: str
    live: bool
    topics: dict[str, Topic] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(topic.count for topic in self.topics.values())

    @property
    def span_ns(self) -> int:
        times = [(topic.received[0], topic.received[-1]) for topic in self.topics.values() if topic.count]
        return max(last for _, last in times) - min(first for first, _ in times) if times else 0

    def of_kind(self, *kinds: str) -> list[Topic]:
        return [topic for topic in self.topics.values() if topic.count and topic.kind in kinds]
