"""One sensor of a live storm, as a process of its own: `python -m mss_perception.ros_storm --sensor lidar ...`.

mss_perception.stress --live starts these. A sensor's topics are published as the storm of this seed wants it, from the
present moment of the storm on; the 'clock' publishes /clock and the odometry. FILE gets a line at once and one every
second: what was sent so far, and how late at most in that second.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

from mss_perception.message_types import CLOUD, IMAGE, INFO, ODOMETRY
from mss_perception.ros_compat import TYPES, message_class
from mss_perception.ros_process import leave, on_signals
from mss_perception.stress.live_storm import CLOCK, LiveStorm
from mss_perception.stress.rig import MS
from mss_perception.stress.storm import Sent
from mss_perception.units import SECOND

CLOCK_PERIOD_NS = 10 * MS
CLOUDS = ("lidar", "event")
LINGER_SEC = 3.0    # after the last message: it would be lost with its publisher. SIGINT comes earlier


class Sensor:
    """Publishers of one sensor. wrong: '', or in what they differ from what the node asks for; such a one sends its
    messages at its usual times, whatever the storm says of them."""

    def __init__(self, storm: LiveStorm, name: str, wrong: str) -> None:
        self.storm, self.name, self.wrong = storm, name, wrong
        self.context = rclpy.Context()
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(f"{name}_driver", context=self.context)
        # Reliable suits both kinds of subscription.
        qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT if wrong == "qos" else
                         ReliabilityPolicy.RELIABLE)
        self.publishers = {role: self.node.create_publisher(kind, topic, qos)
                           for role, (topic, kind) in self._topics().items()}
        self.sent: Counter = Counter()

    def _topics(self) -> dict[str, tuple[str, type]]:
        """Role -> topic and message class."""
        config = self.storm.config
        if self.name == CLOCK:
            return {CLOCK: ("/clock", Clock), "odom": (config.odometry_topic, message_class(ODOMETRY))}
        one = config.inputs[self.name]
        is_cloud = (self.name in CLOUDS) != (self.wrong == "type")
        topics = {self.name: (one.topic, message_class(CLOUD if is_cloud else IMAGE))}
        if one.info_topic and not self.wrong:
            topics[f"{self.name}/info"] = (one.info_topic, message_class(INFO))
        return topics

    def messages(self, since_ns: int) -> Iterator[Sent]:
        """What is to be sent."""
        if self.name == CLOCK:
            ticks = (Sent(tau, 0, CLOCK, self.storm.ros_ns(tau))
                     for tau in range(since_ns, self.storm.end_ns, CLOCK_PERIOD_NS))
            return heapq.merge(self.storm.sent(["odom", "others"], since_ns), ticks, key=lambda one: one.due_ns)
        if not self.wrong:
            return self.storm.sent([self.name], since_ns)
        period = self.storm.rig.sensors[self.name].period_ns
        return (Sent(tau, 0, self.name, self.storm.ros_ns(tau), tau // period)
                for tau in range(since_ns, self.storm.end_ns, period))

    def publish(self, sent: Sent) -> None:
        if sent.role not in self.publishers:
            return              # what concerns the receiver alone
        if sent.role == CLOCK:
            message = Clock(clock=TYPES.Time(sec=sent.stamp_ns // SECOND, nanosec=sent.stamp_ns % SECOND))
        elif self.wrong == "type":
            message = self.publishers[sent.role].msg_type()
        else:
            message, _ = self.storm.message(TYPES, sent)
        self.publishers[sent.role].publish(message)
        self.sent[sent.role] += 1

    def play(self, start_ns: int, log: TextIO, stop: threading.Event) -> None:
        """Until the end of the storm, which began at start_ns of the steady clock."""
        since = max(0, time.monotonic_ns() - start_ns)
        latest, told = 0, since
        self._tell(log, since, latest)
        for sent in self.messages(since):
            if sent.due_ns < since:
                continue
            wait = start_ns + sent.due_ns - time.monotonic_ns()
            if stop.wait(wait / SECOND) if wait > 0 else stop.is_set():
                break
            self.publish(sent)
            latest = max(latest, time.monotonic_ns() - start_ns - sent.due_ns)
            if sent.due_ns >= told + SECOND:
                self._tell(log, sent.due_ns, latest)
                latest, told = 0, sent.due_ns
        self._tell(log, time.monotonic_ns() - start_ns, latest)
        stop.wait(LINGER_SEC)

    def _tell(self, log: TextIO, tau: int, latest_ns: int) -> None:
        log.write(json.dumps({"tau": tau, "sent": self.sent, "late_ms": round(latest_ns / 1e6, 1),
                              "faults": self.storm.faults}) + "\n")
        log.flush()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="storm", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--start", type=int, required=True, help="when the storm begins, ns of the steady clock")
    parser.add_argument("--sensor", required=True, help="an input, or 'clock'")
    parser.add_argument("--wrong", default="", choices=["", "qos", "type"], help="publish what the node cannot take")
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args(argv)
    stop = threading.Event()    # not an exception, which would come anywhere, also inside of rclpy
    on_signals(lambda *_: stop.set())
    sensor = Sensor(LiveStorm(options.seed, options.seconds, options.rate), options.sensor, options.wrong)
    with options.log.open("w") as log:
        sensor.play(options.start, log, stop)
    leave(sensor.node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
