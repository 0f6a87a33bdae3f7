"""The node's rows: what it adds to the network's own time, its processor time, and what it does with too much.

A real node in its own process; this one publishes four sensors at one moment over DDS and reads ~/modality_mask, which
says of each set how long it took where.
"""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.rows import Result, Skipped, optional
from benchmarks.sensors import some_points
from mss_perception import live, messages
from mss_perception.camera import Camera
from mss_perception.mask_message import read_mask_message
from mss_perception.player import STAMP, STAMP_OFFSET

SIZE, POINTS, EVENTS = 512, 131_072, 10_000
WINDOW_NS = 50_000_000          # of the events
CALM_HZ, STORM_HZ = 2.0, 30.0
CALM_SEC, STORM_SEC = 30.0, 20.0
START_SEC = 120.0               # kernels may have to be compiled
MOST_MS = 5.0
STEADY = 1.2                    # how much longer than at first a set may take at last, at most


def rows(tiny: bool = False) -> dict[str, Callable[[], list[Result]]]:
    """The rows by name; tiny: small pictures, a second each, for tests."""
    if tiny:
        return {"node": functools.partial(node, size=64, points=500, calm=(8.0, 1.5), storm=(60.0, 1.5))}
    return {"node": node}


def node(size: int = SIZE, points: int = POINTS, calm: tuple[float, float] = (CALM_HZ, CALM_SEC),
         storm: tuple[float, float] = (STORM_HZ, STORM_SEC)) -> list[Result]:
    """Sets at a rate that the shipped network keeps up with, then at one that it does not; both (Hz, seconds).

    Raises Skipped.
    """
    optional("rclpy")
    os.environ.setdefault(live.TRANSPORTS, live.LARGE_MESSAGES)
    environment = live.environment()
    with tempfile.TemporaryDirectory() as folder:
        parameters = {"width": size, "height": size, "device": "cpu", "threads": 1, "tick_rate_hz": storm[0],
                      "event.message_type": "sensor_msgs/msg/PointCloud2", "event_period_sec": WINDOW_NS / 1e9}
        arguments = ["--ros-args"] + [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        with live.Process("mss_perception.node", arguments, Path(folder) / "node.log", environment) as process, \
                Sensors(size, points, int(environment["ROS_DOMAIN_ID"])) as sensors:
            process.wait_for("mss_perception]: active", START_SEC)
            sensors.connect()
            sensors.warm_up(process.pid)
            quiet, quiet_sec = sensors.play(*calm, process.pid)
            busy, _ = sensors.play(*storm, process.pid)
    return [*at_ease(quiet, quiet_sec, size, points, calm[0]), *overloaded(busy, size, *storm)]


def at_ease(sets: list[dict], processor_sec: float, size: int, points: int, rate_hz: float) -> list[Result]:
    """Of the sets, as Sensors keeps them, and the node's processor time meanwhile. Raises Skipped."""
    added = [one["stamp_to_publish"] - one["inference"] for one in sets if all(one["mask"].values())]
    if len(added) < len(sets) / 2:
        raise Skipped(f"only {len(added)} of {len(sets)} sets had all four sensors: this machine is too busy")
    title = f"node: {size} x {size}, {points:,} points, {rate_hz:g} sets a second"
    return [
        Result(f"{title}, stamp to publish without the network, p50", float(np.percentile(added, 50)), target=MOST_MS,
               runs=len(added)),
        Result(f"{title}, stamp to publish without the network, p99", float(np.percentile(added, 99)), runs=len(added)),
        Result(f"{title}, the network alone, p50", statistics.median(one["inference"] for one in sets), runs=len(sets)),
        Result(f"{title}, processor time of a set", 1e3 * processor_sec / len(sets), runs=len(sets))]


def overloaded(sets: list[dict], size: int, rate_hz: float, seconds: float) -> list[Result]:
    """The delay must not grow, and no set may have waited for the network longer than until the next one came."""
    delays = [one["stamp_to_publish"] for one in sets]
    third = max(1, len(sets) // 3)
    title = f"node: {size} x {size}, {rate_hz:g} sets a second offered"
    growth = statistics.median(delays[-third:]) / statistics.median(delays[:third])
    return [
        Result(f"{title}, published", len(sets) / seconds, "sets/s", rate=True, runs=len(sets)),
        Result(f"{title}, delay in the last third / in the first", growth, "", target=STEADY, runs=len(sets)),
        Result(f"{title}, wait for the network, p99", float(np.percentile([one["queue"] for one in sets], 99)),
               target=round(1e3 / rate_hz + MOST_MS, 1), runs=len(sets))]


def processor_seconds(pid: int) -> float:
    """Of a process, user and system (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Sensors:
    """Publishers of a rig whose sensors all sit in the camera, and the reader of ~/modality_mask."""

    def __init__(self, size: int, points: int, domain: int) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.serialization import serialize_message

        from mss_perception.ros_compat import TYPES

        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("sensors", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.sets: list[dict] = []
        self.node.create_subscription(DiagnosticArray, "/mss_perception/modality_mask", self._arrived, 100)
        self.publishers, self.serialised = {}, {}
        for variant in range(2):        # in turn, so that no payload is the one before's
            for topic, message in rig_messages(TYPES, size, points, variant).items():
                self.publishers.setdefault(topic, self.node.create_publisher(type(message), topic, 5))
                self.serialised[topic, variant] = bytearray(serialize_message(message))

    def _arrived(self, message) -> None:
        record = read_mask_message(message)
        if not record["dropped"]:
            self.sets.append(record["latency_ms"] | {"t_ref": record["t_ref"], "mask": record["mask"]})

    def connect(self) -> None:
        """Raises Skipped when the node does not subscribe."""
        until = time.monotonic() + START_SEC
        while not all(one.get_subscription_count() for one in self.publishers.values()):
            self.executor.spin_once(timeout_sec=0.1)
            if time.monotonic() > until:
                raise Skipped("the node does not subscribe to all topics")

    def warm_up(self, pid: int) -> None:
        """Until the node has published three sets. Raises Skipped when it does not."""
        until = time.monotonic() + START_SEC
        while len(self.play(1.0, 3.0, pid)[0]) < 3:
            if time.monotonic() > until:
                raise Skipped("the node publishes fewer than three sets in 3 s; is this machine busy?")

    def play(self, rate_hz: float, seconds: float, pid: int) -> tuple[list[dict], float]:
        """The sets that the node told of, until a second after the last was offered, and its processor time."""
        self.sets, before, started = [], processor_seconds(pid), time.monotonic()
        for number in range(max(1, round(rate_hz * seconds))):
            self._spin_until(started + number / rate_hz)
            now = time.time_ns()
            for topic in self.publishers:
                cdr = self.serialised[topic, number % 2]
                STAMP.pack_into(cdr, STAMP_OFFSET, *divmod(now - WINDOW_NS if topic == "events" else now, 10**9))
                self.publishers[topic].publish(bytes(cdr))
        self._spin_until(started + seconds + 1.0)
        return self.sets, processor_seconds(pid) - before

    def _spin_until(self, then: float) -> None:
        while (left := then - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def __enter__(self) -> Sensors:
        return self

    def __exit__(self, *_) -> None:
        from mss_perception.ros_process import leave
        self.executor.shutdown()
        leave(self.node)


def rig_messages(types, size: int, points: int, variant: int) -> dict[str, object]:
    """Topic -> message of one moment, in the order in which they are published: the camera's image comes last.

    types: as of mss_perception.messages.
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
