"""A drive as a rosbag2 bag (MCAP): every sensor's topic at its own rate, received after its own latency."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from operator import itemgetter
from pathlib import Path

import numpy as np

from mss_perception import messages
from mss_perception.bags import BagError, BagWriter
from training.datasets.deliver import SPLITS
from training.synthetic.drive import Drive
from training.synthetic.recorder import START_NS, Recorder, seconds
from training.synthetic.rig import TIMING, Rig

PIECE_NS = 10**9  # what one process renders at a time; fixed, so that the bag is the same for any number of processes
LEAD_NS = 200_000_000  # odometry and events begin this long before the first frame, whose sweep and window have a past


def seeds(seed: int) -> tuple[int, ...]:
    """The bag's drive of a seed: none of the streets of a tree of the same seed (Sequence.seeds)."""
    return seed, len(SPLITS), 0


def pieces(duration: float) -> list[tuple[int, int]]:
    """(begin_ns, end_ns) of the pieces of a bag with `duration` seconds of frames."""
    begin = START_NS + LEAD_NS
    end = begin + round(duration * 1e9)
    return [(at, min(at + PIECE_NS, end)) for at in range(begin, end, PIECE_NS)]


@lru_cache(maxsize=1)
def _recorder(seed: tuple[int, ...], weather: str, case: str, size: int, duration: float) -> Recorder:
    return Recorder(Drive(seed, weather, duration + 2 * LEAD_NS * 1e-9), rig_of(size, case), seed, case)


def rig_of(size: int, case: str) -> Rig:
    return Rig.of_size(size, events_coarse=case == "eventlowres")


def render(
    seed: tuple[int, ...], weather: str, case: str, size: int, duration: float, piece: tuple[int, int]
) -> list[tuple[int, str, object]]:
    """Messages of one piece as (receive time, topic, message)."""
    types = messages.bag_types()
    recorder = _recorder(seed, weather, case, size, duration)
    rig, out = recorder.rig, []
    begin, end = piece
    stream_begin = START_NS if begin == START_NS + LEAD_NS else begin

    def send(sensor: str, topic: str, message, stamp: int, after: int | None = None) -> None:
        timing = TIMING[sensor]
        jitter = abs(np.random.default_rng([*seed, len(topic), stamp // 1000]).normal(0, timing.jitter_ns + 1e-9))
        out.append(((stamp if after is None else after) + timing.latency_ns + int(jitter), topic, message))

    def ticks(sensor: str, begin: int = begin) -> Iterator[int]:
        period, offset = TIMING[sensor].period_ns, TIMING[sensor].offset_ns
        return (at + offset for at in range(begin, end, period))

    for stamp in ticks("rgb"):
        image, labels = recorder.rgb(stamp)
        send("rgb", "/camera_info", messages.encode_camera_info(types, rig.rgb, stamp), stamp)
        send("rgb", "/image", messages.encode_image(types, image, "rgb8", stamp, rig.rgb.frame_id), stamp)
        send("rgb", "/labels", messages.encode_image(types, labels, "mono8", stamp, rig.rgb.frame_id), stamp)
    for stamp in ticks("depth"):
        send("depth", "/depth/camera_info", messages.encode_camera_info(types, rig.depth, stamp), stamp)
        image = messages.encode_image(types, recorder.depth(stamp), "32FC1", stamp, rig.depth.frame_id)
        send("depth", "/depth/image", image, stamp)
    for stamp in ticks("lidar"):
        send("lidar", "/points", messages.encode_cloud(types, recorder.sweep(stamp), stamp, "lidar"), stamp)
    for stamp in ticks("radar"):
        send("radar", "/radar", messages.encode_cloud(types, recorder.radar(stamp), stamp, "radar"), stamp)
    for packet in recorder.events(stream_begin, end):
        stamp, frame = packet.begin_ns, rig.event.frame_id
        if (stamp - stream_begin) % TIMING["rgb"].period_ns == 0:
            send("event", "/events/camera_info", messages.encode_camera_info(types, rig.event, stamp), stamp)
        message = messages.encode_events(types, packet.x, packet.y, packet.t, packet.p, stamp, frame)
        send("event", "/events", message, stamp, after=packet.end_ns)
    for stamp in ticks("odom", stream_begin):
        send("odom", "/odom", odometry(types, recorder.drive, stamp), stamp)
    return out


def odometry(types, drive: Drive, stamp_ns: int):
    """nav_msgs/Odometry of the ego vehicle: pose of base_link in odom, twist in base_link."""
    t = seconds(stamp_ns)
    twist = drive.ego.twist(t)
    return messages.encode_odometry(types, drive.ego.pose(t), stamp_ns, linear=twist[:3], angular=twist[3:])


def static_transforms(types, rig: Rig, stamp_ns: int):
    """tf2_msgs/TFMessage of where the sensors sit."""
    return messages.encode_transforms(types, [("base_link", frame, T) for frame, T in rig.mounts.items()], stamp_ns)


def write(
    path: Path, rig: Rig, pieces: list[tuple[int, int]], rendered: Iterator[list], progress: Callable[[int], None]
) -> None:
    """The bag at `path` from the rendered pieces, in order; `progress(nanoseconds)` after each.

    It grows in a hidden folder and gets its place when it is whole. Raises BagError when `path` exists."""
    if path.exists():
        raise BagError(f"{path} exists already; remove it or give another path")
    types = messages.bag_types()
    workshop = path.parent / f".{path.name}.partial"
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir(parents=True)
    try:
        with BagWriter(workshop / path.name) as bag:
            bag.write("/tf_static", static_transforms(types, rig, START_NS), START_NS)
            late: list[tuple[int, str, object]] = []
            for (begin, end), piece in zip(pieces, rendered, strict=True):
                # every message of the next piece arrives after `end`; some of this one's do so too
                ordered = sorted(late + piece, key=itemgetter(0))
                late = [item for item in ordered if item[0] >= end]
                for received, topic, message in ordered[: len(ordered) - len(late)]:
                    bag.write(topic, message, received)
                progress(end - begin)
            for received, topic, message in late:
                bag.write(topic, message, received)
        (workshop / path.name).rename(path)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
