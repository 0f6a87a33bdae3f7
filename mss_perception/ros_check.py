"""Listens to the live ROS graph for a while: what `python -m mss_perception.check --live` surveys."""

from __future__ import annotations

import time
from functools import partial

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from tqdm import tqdm

from mss_perception.ros_compat import message_class
from mss_perception.ros_params import one_line
from mss_perception.ros_process import leave
from mss_perception.ros_topics import LossEstimate, loss_cure
from mss_perception.survey import KINDS, Survey, SurveyError, Topic

DISCOVERY_SEC = 2.0     # in which peers make themselves known, before it is decided whose clock counts
LOOK_AROUND_SEC = 0.5   # how often new topics are looked for
OWN_TYPES = ("rcl_interfaces/",)    # /rosout and /parameter_events, which every node has


class Listener(Node):
    """Subscribes to every topic of the graph, serialised, so that a busy graph costs little.

    messages: how many of each topic are kept to be decoded afterwards.
    """

    def __init__(self, context: rclpy.Context, messages: int) -> None:
        super().__init__("mss_perception_check", context=context, enable_rosout=False,
                         start_parameter_services=False)
        self.survey = Survey("the ROS graph", live=True)
        self.messages = messages
        self.simulated = False
        self.kept: dict[str, list[bytes]] = {}
        self.losses: dict[str, LossEstimate] = {}

    def others(self) -> dict[str, str]:
        """Topic -> type of what other nodes publish."""
        return {name: types[0] for name, types in self.get_topic_names_and_types()
                if self.count_publishers(name) and not types[0].startswith(OWN_TYPES)}

    def follow_clock(self) -> None:
        """Take the simulation's time, when there is one: stamps are of its clock."""
        self.simulated = self.count_publishers("/clock") > 0
        if self.simulated:
            self.set_parameters([Parameter("use_sim_time", value=True)])

    def look_around(self) -> None:
        """Subscribe to topics that are new."""
        for name, kind in self.others().items():
            if name not in self.survey.topics:
                self.survey.topics[name] = self._subscribe(name, kind)

    def _subscribe(self, name: str, kind: str) -> Topic:
        topic = Topic(name, kind, kind=KINDS.get(kind, ""))
        message_type = message_class(kind)
        if message_type is None:
            topic.unreadable = f"{kind.partition('/')[0]} is not installed here, so its messages cannot be received"
            self.survey.remarks.append(f"{name}: {topic.unreadable}")
            return topic
        topic.has_header = next(iter(message_type.get_fields_and_field_types().values()), "") == "std_msgs/Header"
        self.kept[name], self.losses[name] = [], LossEstimate()
        self.create_subscription(message_type, name, partial(self._arrived, topic), self._qos(name), raw=True)
        return topic

    def _qos(self, name: str) -> QoSProfile:
        """What matches every publisher and still brings what was sent before, where all of them keep it."""
        offered = [one.qos_profile for one in self.get_publishers_info_by_topic(name)]
        latched = all(one.durability == DurabilityPolicy.TRANSIENT_LOCAL for one in offered)
        reliable = latched and all(one.reliability == ReliabilityPolicy.RELIABLE for one in offered)
        return QoSProfile(
            depth=200, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)

    def _arrived(self, topic: Topic, cdr: bytes, info: dict) -> None:
        receive_ns = self.get_clock().now().nanoseconds if self.simulated else \
            info.get("received_timestamp") or time.time_ns()
        if not receive_ns:
            return      # before the first /clock
        topic.add(receive_ns, cdr)
        if len(self.kept[topic.name]) < self.messages:
            self.kept[topic.name].append(bytes(cdr))
        # Sequence numbers of several publishers cannot be told apart.
        number = info.get("publication_sequence_number") if self.count_publishers(topic.name) == 1 else None
        self.losses[topic.name].add(topic.stamps[-1] if topic.has_header else None, number)

    def conclude(self) -> Survey:
        """Decode what was kept."""
        for name, messages in self.kept.items():
            topic = self.survey.topics[name]
            for cdr in messages:
                topic.look(deserialize_message(cdr, message_class(topic.type)))
            topic.lost = self.losses[name].lost
        if lost := [f"{name} ({topic.lost})" for name, topic in self.survey.topics.items() if topic.lost]:
            self.survey.remarks.append(f"messages lost on the way here: {', '.join(lost)}; {loss_cure()}")
        if not self.survey.topics:
            self.survey.remarks.append(f"no other node publishes anything in ROS_DOMAIN_ID "
                                       f"{self.context.get_domain_id()}")
        if self.simulated:
            self.survey.remarks.append("time is that of /clock: start the node with use_sim_time")
        self.survey.topics = dict(sorted(self.survey.topics.items()))
        return self.survey


def listen(seconds: float, messages: int, progress: bool = True) -> Survey:
    """What comes on the topics of this ROS domain within so many seconds. Raises SurveyError."""
    context = rclpy.Context()
    try:
        rclpy.init(context=context)
    except RuntimeError as error:       # rclpy's own: an environment that rcl cannot use
        raise SurveyError(f"ROS does not start: {one_line(error)}") from error
    node = Listener(context, messages)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        _spin(executor, DISCOVERY_SEC)
        node.follow_clock()
        with tqdm(total=seconds, desc="listening", disable=not progress,
                  bar_format="{l_bar}{bar}| {n:.1f}/{total:.1f} s") as bar:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                node.look_around()
                _spin(executor, min(left, LOOK_AROUND_SEC))
                bar.update(seconds - max(0.0, until - time.monotonic()) - bar.n)
        return node.conclude()
    finally:
        executor.shutdown()
        leave(node)


def _spin(executor: SingleThreadedExecutor, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=left)
