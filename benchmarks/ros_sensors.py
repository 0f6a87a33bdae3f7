"""The sensors' side of the node's rows: real publishers on DDS, and what the node says of each set."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import serialize_message

from benchmarks.rows import Skipped
from mss_perception import live
from mss_perception.mask_message import read_mask_message
from mss_perception.player import STAMP, STAMP_OFFSET
from mss_perception.ros_compat import TYPES
from mss_perception.ros_process import leave

EVENTS_BEFORE_NS = 45_000_000   # how long before it is published a packet of events of 50 ms begins: the image is in it


class Sensors:
    """Publishers of a rig, and the reader of ~/modality_mask; a context manager.

    rig(types, variant): topic -> message, in the order in which they are published. environment, pid: of the node's
    process; its ROS domain and transports are used here, too.
    """

    def __init__(self, rig: Callable[[object, int], dict[str, object]], environment: Mapping[str, str], pid: int):
        self.pid = pid
        self.context = rclpy.Context()
        before = os.environ.get(live.TRANSPORTS)
        os.environ[live.TRANSPORTS] = environment[live.TRANSPORTS]
        try:
            rclpy.init(context=self.context, domain_id=int(environment["ROS_DOMAIN_ID"]))
            self.node = rclpy.create_node("sensors", context=self.context)
        finally:
            if before is None:
                del os.environ[live.TRANSPORTS]
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.sets: list[dict] = []
        self.node.create_subscription(DiagnosticArray, "/mss_perception/modality_mask", self._arrived, 100)
        self.publishers, self.serialised = {}, {}
        for variant in range(2):        # in turn, so that no payload is the one before's
            for topic, message in rig(TYPES, variant).items():
                self.publishers.setdefault(topic, self.node.create_publisher(type(message), topic, 5))
                self.serialised[topic, variant] = bytearray(serialize_message(message))

    def _arrived(self, message) -> None:
        record = read_mask_message(message)
        if not record["dropped"]:
            self.sets.append(record["latency_ms"] | {"mask": record["mask"]})

    def connect(self, patience_sec: float) -> None:
        """Raises Skipped when the node does not subscribe."""
        until = time.monotonic() + patience_sec
        while not all(one.get_subscription_count() for one in self.publishers.values()):
            self.executor.spin_once(timeout_sec=0.1)
            if time.monotonic() > until:
                raise Skipped("the node does not subscribe to all topics")

    def warm_up(self, patience_sec: float) -> None:
        """Until the node has published three sets in a row. Raises Skipped when it does not."""
        until = time.monotonic() + patience_sec
        while len(self.play(2.0, 2.0)[0]) < 3:
            if time.monotonic() > until:
                raise Skipped("the node publishes fewer than three sets in 2 s; is this machine busy?")

    def play(self, rate_hz: float, seconds: float) -> tuple[list[dict], float]:
        """The sets that the node told of, until a second after the last was offered, each as its latencies and `mask`;
        and the node's processor time."""
        self.sets, before, started = [], processor_seconds(self.pid), time.monotonic()
        for number in range(max(1, round(rate_hz * seconds))):
            self._spin_until(started + number / rate_hz)
            for topic, publisher in self.publishers.items():
                cdr, stamp = self.serialised[topic, number % 2], time.time_ns()
                if topic == "events":       # they cover the camera's image, which comes last
                    stamp -= EVENTS_BEFORE_NS
                STAMP.pack_into(cdr, STAMP_OFFSET, *divmod(stamp, 10**9))
                publisher.publish(bytes(cdr))
        self._spin_until(started + seconds + 1.0)
        return self.sets, processor_seconds(self.pid) - before

    def _spin_until(self, then: float) -> None:
        while (left := then - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def __enter__(self) -> Sensors:
        return self

    def __exit__(self, *_) -> None:
        self.executor.shutdown()
        leave(self.node)


def processor_seconds(pid: int) -> float:
    """Of a process, user and system (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
