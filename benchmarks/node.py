"""The node's rows: what it adds to the network's own time, its processor time, and what it does with too much.

A real node in its own process; this one publishes four sensors over DDS, each stamped when it is published and the
camera last, and reads ~/modality_mask, which says of each set how long it took where.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.rows import Result, Skipped, optional
from benchmarks.sensors import some_points
from mss_perception import live, messages
from mss_perception.camera import Camera
from mss_perception.config import CollectorConfig

SIZE, POINTS, EVENTS = 512, 131_072, 10_000
WINDOW_NS = 50_000_000          # what a packet of events covers
CALM_HZ, STORM_HZ = 2.0, 30.0
CALM_SEC, STORM_SEC = 30.0, 20.0
START_SEC = 120.0               # kernels may have to be compiled
MOST_MS = 5.0
WORK = ("preprocess", "inference", "postprocess", "publish")    # what happens to a set once it is taken
STEADY = 1.2                    # how much longer than at first a set may take at last, at most


def rows(tiny: bool = False) -> dict[str, Callable[[], list[Result]]]:
    """The rows by name; tiny: small pictures, a second each, for tests."""
    if tiny:
        return {"node": functools.partial(node, size=64, points=500, calm=(8.0, 1.0), storm=(60.0, 1.0))}
    return {"node": node}


def node(size: int = SIZE, points: int = POINTS, calm: tuple[float, float] = (CALM_HZ, CALM_SEC),
         storm: tuple[float, float] = (STORM_HZ, STORM_SEC)) -> list[Result]:
    """Sets at a rate that the shipped network keeps up with, then at one that it does not; both (Hz, seconds).

    Raises Skipped.
    """
    ros_sensors = optional("benchmarks.ros_sensors")
    environment, rig = live.environment(), functools.partial(rig_messages, size=size, points=points)
    with tempfile.TemporaryDirectory() as folder:
        parameters = {"width": size, "height": size, "device": "cpu", "threads": 1, "tick_rate_hz": storm[0],
                      "event.message_type": "sensor_msgs/msg/PointCloud2", "event_period_sec": WINDOW_NS / 1e9}
        arguments = ["--ros-args"] + [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        with live.Process("mss_perception.node", arguments, Path(folder) / "node.log", environment) as process, \
                ros_sensors.Sensors(rig, environment, process.pid) as sensors:
            process.wait_for("mss_perception]: active", START_SEC)
            sensors.connect(START_SEC)
            sensors.warm_up(START_SEC)
            quiet, quiet_sec = sensors.play(*calm)
            busy, _ = sensors.play(*storm)
    return [*at_ease(quiet, quiet_sec, size, points, calm[0]), *overloaded(busy, size, *storm)]


def at_ease(sets: list[dict], processor_sec: float, size: int, points: int, rate_hz: float) -> list[Result]:
    """Of the sets, as ros_sensors.Sensors gives them, and the node's processor time meanwhile. Raises Skipped."""
    added = [one["stamp_to_publish"] - one["inference"] for one in sets if all(one["mask"].values())]
    if len(added) <= len(sets) / 2:
        raise Skipped(f"only {len(added)} of {len(sets)} sets had all four sensors: this machine is too busy")
    title = f"node: {size} x {size}, {points:,} points, {rate_hz:g} sets a second"
    return [
        Result(f"{title}, stamp to publish without the network, p50", float(np.percentile(added, 50)), target=MOST_MS,
               runs=len(added)),
        Result(f"{title}, stamp to publish without the network, p99", float(np.percentile(added, 99)), runs=len(added)),
        Result(f"{title}, the network alone, p50", statistics.median(one["inference"] for one in sets), runs=len(sets)),
        Result(f"{title}, processor time of a set", 1e3 * processor_sec / len(sets), runs=len(sets))]


def overloaded(sets: list[dict], size: int, rate_hz: float, seconds: float) -> list[Result]:
    """The delay must not grow. A set that the network takes is no older than the wait for a late sensor and the time to
    the next set: newer ones have replaced those before."""
    if not sets:
        raise Skipped(f"nothing was published at {rate_hz:g} sets a second")
    delays = [one["stamp_to_publish"] for one in sets]
    ages = [one["stamp_to_publish"] - sum(one[stage] for stage in WORK) for one in sets]
    third = max(1, len(sets) // 3)
    title = f"node: {size} x {size}, {rate_hz:g} sets a second offered"
    growth = statistics.median(delays[-third:]) / statistics.median(delays[:third])
    return [
        Result(f"{title}, published", len(sets) / seconds, "sets/s", rate=True, runs=len(sets)),
        Result(f"{title}, delay in the last third / in the first", growth, "", target=STEADY, runs=len(sets)),
        Result(f"{title}, age of a set when it is taken, p50", statistics.median(ages), runs=len(sets)),
        Result(f"{title}, age of a set when it is taken, p95", float(np.percentile(ages, 95)),
               target=round(1e3 * CollectorConfig().deadline_sec + 1e3 / rate_hz + MOST_MS, 1), runs=len(sets))]


def rig_messages(types, variant: int, size: int, points: int) -> dict[str, object]:
    """Topic -> message of one moment, in the order in which they are published: the camera's image comes last. All
    sensors sit in the camera. types: as of mss_perception.messages.
    """
    rng = np.random.default_rng(variant)
    camera = Camera(size, size, np.array([[size / 2, 0, size / 2], [0, size / 2, size / 2], [0, 0, 1]]), "plumb_bob",
                    (-0.1, 0.02, 1e-3, -1e-3, 0.0), "camera")
    info = messages.encode_camera_info(types, camera, 1)
    x, y, p = (rng.integers(0, top, EVENTS) for top in (size, size, 2))
    t = 1 + np.sort(rng.integers(0, WINDOW_NS, EVENTS))
    cloud = some_points(points, variant).astype(np.float32)
    return {
        "events/camera_info": info, "depth/camera_info": info, "camera_info": info,
        "events": messages.encode_events(types, x, y, t, p, 1, "camera"),
        "points": messages.encode_cloud(types, {name: cloud[:, i] for i, name in enumerate(
            ("x", "y", "z", "intensity"))}, 1, "camera"),
        "depth/image": messages.encode_image(types, rng.uniform(2, 20, (size, size)).astype(np.float32), "32FC1", 1,
                                             "camera"),
        "image": messages.encode_image(types, rng.integers(0, 256, (size, size, 3), np.uint8), "bgr8", 1, "camera")}
