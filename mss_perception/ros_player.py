"""Play a bag over ROS 2 topics in real time, with faults.

    python -m mss_perception.ros_player BAG --fault rgb:drop@3-5

It stands for the sensors' drivers where there is no `ros2 bag play`, and can hurt what it plays.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

from mss_perception import calibration
from mss_perception.bags import BagSummary, bag_summary
from mss_perception.config import Config
from mss_perception.faults import KINDS
from mss_perception.options import at_least, number, positive
from mss_perception.parameter_file import uses_sim_time
from mss_perception.player import Timeline, calibration_of
from mss_perception.ros_compat import TYPES, message_class
from mss_perception.ros_params import one_line
from mss_perception.ros_process import leave, on_signals
from mss_perception.units import SECOND

CLOCK_PERIOD_NS = SECOND // 100
SETTLE_SEC = 2.0        # a subscriber may know of the publisher later than the publisher of it
LINGER_SEC = 1.0        # best-effort messages are not acknowledged; those still on their way die with the publisher


class PlayerError(ValueError):
    """Nothing can be played. The message says why."""


class Player:
    """Publishers for the given topics (topic -> type name); a context manager. stop: ends waiting and playing.

    Raises PlayerError when ROS cannot start.
    """

    def __init__(self, types: Mapping[str, str], clock: bool, ros_args: list[str], stop: threading.Event) -> None:
        self.context = rclpy.Context()
        try:
            rclpy.init(args=ros_args, context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:       # rclpy's own: an argument or an environment that rcl cannot use
            raise PlayerError(f"ROS does not start: {one_line(error)}") from error
        self.node = rclpy.create_node("player", context=self.context)
        self.stop = stop
        self.publishers = {}
        for topic, kind in types.items():
            # Reliable suits both kinds of subscription; a best-effort one gets no repetition.
            latched = (DurabilityPolicy.TRANSIENT_LOCAL if topic.rpartition("/")[2] == "tf_static" else
                       DurabilityPolicy.VOLATILE)
            qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=latched)
            # Relative, so that a namespace moves the sensors' topics; tf is global by convention.
            name = topic if topic in ("/tf", "/tf_static") else topic.lstrip("/")
            self.publishers[topic] = self.node.create_publisher(message_class(kind), name, qos)
        self.clock = self.node.create_publisher(Clock, "/clock", 1) if clock else None
        self.sent = Counter(dict.fromkeys(types, 0))
        self.late_ms: list[float] = []

    def wait_for_subscribers(self, topics: Collection[str], seconds: float) -> None:
        """Wait until each of these topics has a subscriber, at most so long; the log names those that have none."""
        until = time.monotonic() + seconds
        self.node.get_logger().info(f"waiting for subscribers of {', '.join(sorted(topics))}")
        while missing := [name for name in topics if not self.publishers[name].get_subscription_count()]:
            if self.stop.wait(0.05):
                return
            if time.monotonic() > until:
                self.node.get_logger().warning(f"nobody subscribes to {', '.join(sorted(missing))}; playing all the "
                                               "same")
                return
        self.stop.wait(SETTLE_SEC)

    def play(self, timeline: Timeline, rate: float = 1.0) -> None:
        """Publish every item when the time line, `rate` times as fast as the steady clock, reaches it."""
        begin_ns, steady_ns = timeline.start_ns + timeline.shift_ns, time.monotonic_ns()
        next_clock_ns = begin_ns
        for item in timeline:
            while self.clock and next_clock_ns < item.due_ns:
                self._sleep_until(steady_ns + (next_clock_ns - begin_ns) / rate)
                self._publish_clock(next_clock_ns)
                next_clock_ns += CLOCK_PERIOD_NS
            due = steady_ns + (item.due_ns - begin_ns) / rate
            self._sleep_until(due)
            if self.stop.is_set():
                self.node.get_logger().info("interrupted")
                return
            self.publishers[item.topic].publish(item.cdr)
            self.sent[item.topic] += 1
            self.late_ms.append((time.monotonic_ns() - due) / 1e6)

    def _sleep_until(self, steady_ns: float) -> None:
        remaining = (steady_ns - time.monotonic_ns()) / SECOND
        if remaining > 0:
            self.stop.wait(remaining)

    def _publish_clock(self, now_ns: int) -> None:
        sec, nanosec = divmod(now_ns, SECOND)
        self.clock.publish(Clock(clock=TYPES.Time(sec=sec, nanosec=nanosec)))

    def report(self) -> dict:
        """What was sent, and how punctually."""
        return {"sent": dict(self.sent), "late_ms_p99": float(np.percentile(self.late_ms, 99)) if self.late_ms else 0.0}

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_) -> None:
        if not self.stop.is_set():
            time.sleep(LINGER_SEC)
        leave(self.node)


def playable(bag: BagSummary, wanted: Sequence[str] | None) -> list[str]:
    """The wanted topics; when none is named, all of the bag whose message class is installed: a line tells of the
    others. Raises PlayerError for one that is wanted and not installed."""
    unknown = {name: topic.type for name, topic in bag.topics.items() if topic.count and not message_class(topic.type)}
    without = ", ".join(f"{name} ({kind})" for name, kind in unknown.items() if wanted is None or name in wanted)
    if wanted is None:
        if without:
            print(f"player: not played, as their messages are not installed: {without}", file=sys.stderr)
        return [name for name, topic in bag.topics.items() if topic.count and name not in unknown]
    if without:
        raise PlayerError(f"the messages of {without} are not installed; leave it out, or install their package")
    return list(wanted)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="player", description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path, help="rosbag2 folder (MCAP or sqlite3)")
    parser.add_argument("--fault", action="append", default=[], metavar="INPUT:KIND[=AMOUNT]@START-[END]",
                        help="e.g. rgb:drop@3-5 (seconds from the bag's start); kinds: " + ", ".join(KINDS)
                             + "; may be given several times")
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the faults' randomness (default 0)")
    parser.add_argument("--topics", nargs="+", help="play only these topics of the bag")
    parser.add_argument("--clock", action=argparse.BooleanOptionalAction,
                        help="publish /clock and keep the recorded stamps, for nodes with use_sim_time (default: if "
                             "--config sets that); otherwise stamps are moved to now")
    parser.add_argument("--rate", type=positive, default=1.0, help="speed, needs --clock (default 1)")
    parser.add_argument("--loops", type=at_least(1), default=1,
                        help="times to play the bag; stamps keep rising (default 1)")
    parser.add_argument("--wait", type=number, default=10.0, metavar="SECONDS",
                        help="wait at most so long for a subscriber on each of the node's topics (default 10)")
    parser.add_argument("--config", type=Path, help="the node's parameter file, for its topic names")
    parser.add_argument("--summary", type=Path, help="write what was sent as JSON")
    parser.add_argument("--write-calibration", type=Path, metavar="FILE",
                        help="play nothing, but write the bag's intrinsics and extrinsics for calibration_file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    cut = given.index("--ros-args") if "--ros-args" in given else len(given)
    parser = arguments()
    options = parser.parse_args(given[:cut])
    stop = threading.Event()    # not an exception, which would come anywhere, also inside of rclpy
    try:
        config = Config.from_yaml(options.config) if options.config else Config()
        if options.clock is None:
            options.clock = bool(options.config) and uses_sim_time(options.config)
        if options.rate != 1 and not options.clock:
            parser.error(f"--rate {options.rate} needs --clock: without it, stamps are those of now")
        bag = bag_summary(options.bag)
        if options.write_calibration:
            found = calibration_of(bag, config)
            calibration.save(options.write_calibration, found)
            cameras = ", ".join(found.cameras) or f"none of {', '.join(config.inputs)}; name their topics in --config"
            print(f"player: {options.write_calibration}: {len(found.extrinsics)} transforms; cameras: {cameras}")
            return 0
        if options.summary:
            options.summary.touch()     # before playing it is known whether it can be written
        timeline = Timeline(bag, playable(bag, options.topics), config.topic_roles(), options.fault,
                            seed=options.seed, loops=options.loops)
        player = Player(timeline.types, clock=options.clock, ros_args=given[cut:], stop=stop)
        on_signals(lambda *_: stop.set())
        with player:
            player.wait_for_subscribers(timeline.types.keys() & config.used_topics().keys(), options.wait)
            if not options.clock:
                timeline.shift_ns = time.time_ns() - timeline.start_ns
            player.play(timeline, options.rate)
        report = player.report() | {"shift_ns": timeline.shift_ns, "start_ns": timeline.start_ns,
                                    "faults": {str(fault): touched for fault, touched
                                               in zip(timeline.faults.faults, timeline.faults.touched, strict=True)}}
        if options.summary:
            options.summary.write_text(json.dumps(report, indent=1))
    except ValueError as error:     # of the configuration, the bag, a fault or ROS: each names its cause
        print(f"player: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"player: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"player: sent {sum(report['sent'].values())} messages on {len(report['sent'])} topics, 99 % of them at most "
          f"{report['late_ms_p99']:.1f} ms late")
    return 0


if __name__ == "__main__":
    sys.exit(main())
