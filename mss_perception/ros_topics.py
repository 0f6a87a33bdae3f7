"""Subscriptions of the node, and what is known of each topic: received, lost, its rate, QoS and type mismatches."""

from __future__ import annotations

import os
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from nav_msgs.msg import Odometry
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import NameValidationException
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions, QoSPolicyKind
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo

from mss_perception.config import Config, ConfigError, InputConfig
from mss_perception.live import LARGE_MESSAGES, TRANSPORTS
from mss_perception.message_types import ACCEPTED
from mss_perception.messages import stamp_ns
from mss_perception.ros_compat import Subscriber, message_class, tf2_msgs

PAUSE = 4               # messages of a topic that lack one after the other when it has paused
WARNED_CALLS = 11       # calls, one a second, over which a loss is warned of
# rclpy's default ones, and durability: a camera_info that is sent once may be there before the node is.
OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)


class LossEstimate:
    """How many messages of a topic never arrived.

    Where the middleware numbers a publisher's messages the count is exact from the first received one on. Elsewhere
    gaps between stamps are held against the topic's own period, the median of the last intervals; a gap that
    lacks PAUSE messages or more is a sensor that paused, not a loss.
    """

    def __init__(self) -> None:
        self.received = 0
        self.lost = 0
        self._numbers: dict[bytes, int] = {}            # last sequence number of each publisher
        self._intervals: deque[int] = deque(maxlen=32)  # nanoseconds between stamps
        self._last_stamp: int | None = None

    def add(self, stamp: int | None, number: int | None = None, publisher: bytes = b"") -> None:
        """Count one message. stamp: ns, None if it has none; number: its sequence number, None if not known."""
        self.received += 1
        missing = self._missing_by_stamp(stamp)
        if number:
            missing = number - self._numbers.get(publisher, number - 1) - 1
            self._numbers[publisher] = number
        self.lost += max(0, missing)

    def _missing_by_stamp(self, stamp: int | None) -> int:
        previous, self._last_stamp = self._last_stamp, stamp
        if stamp is None or previous is None or stamp <= previous:
            return 0
        self._intervals.append(stamp - previous)
        if len(self._intervals) < 8:
            return 0
        missing = round((stamp - previous) / statistics.median(self._intervals)) - 1
        return missing if missing < PAUSE else 0

    @property
    def rate_hz(self) -> float | None:
        """The topic's own rate; None until two messages came."""
        return 1e9 / statistics.median(self._intervals) if self._intervals else None


def loss_cure() -> str:
    """What helps against lost messages, given this process's settings of the middleware."""
    if not get_rmw_implementation_identifier().startswith("rmw_fastrtps"):
        return "deepen the subscription (qos_depth), or lower the publisher's rate"
    set_it = f"start the publisher with {TRANSPORTS}='{LARGE_MESSAGES}'"
    if (os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() == "LOCALHOST"
            or os.environ.get("ROS_LOCALHOST_ONLY") == "1"):
        return (f"restricting ROS to this machine switches {TRANSPORTS} off: leave ROS_AUTOMATIC_DISCOVERY_RANGE and "
                f"ROS_LOCALHOST_ONLY unset, keep machines apart by ROS_DOMAIN_ID, and {set_it}")
    return f"{set_it}; if it has that, the machine or the network is too busy: see docs/install.md, Large messages"


class Topic:
    """One subscription, which hands each message to `receive(topic, message, info)`; that is to `count` it."""

    def __init__(self, node, role: str, message_type, name: str, depth: int,
                 receive: Callable[[Topic, object, dict], None], latched: bool = False,
                 accepted: Sequence[str] = ()) -> None:
        """accepted: the types that the parameter <role>.message_type may name, of an input."""
        # Best effort matches every publisher; only what was sent before the start needs reliability. There is no
        # deadline policy: to detect silence with one would stop publishers without it from matching.
        qos = QoSProfile(depth=depth,
                         reliability=ReliabilityPolicy.RELIABLE if latched else ReliabilityPolicy.BEST_EFFORT,
                         durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)
        self.node, self.role, self.accepted = node, role, accepted
        self.loss = LossEstimate()
        self._counts = deque([(0, 0)], maxlen=WARNED_CALLS)     # received and lost at the last calls of loss_warning
        # Without rclpy's event handlers, which make every wait of a Python executor about twice as expensive:
        # `mismatch` asks the graph for the same.
        self._subscriber = Subscriber(
            node, message_type, name, qos_profile=qos,
            qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))
        self.name = self._subscriber.sub.topic_name
        self._type_name = f"{message_type.__module__.split('.')[0]}/msg/{message_type.__name__}"
        self._subscriber.registerCallback(partial(receive, self))

    def count(self, message, info: dict) -> None:
        """Note a message that arrived, and by its number or stamp those that did not. info: rclpy's MessageInfo."""
        header = getattr(message, "header", None)
        number, publisher = info.get("publication_sequence_number"), info.get("publisher_gid")
        if number and not publisher and self.publishers > 1:
            number = None       # several publishers' numbers that cannot be told apart
        self.loss.add(stamp_ns(header) if header is not None else None, number,
                      bytes(publisher["data"]) if publisher else b"")

    def mismatch(self) -> str:
        """Why a publisher of the topic can send nothing here: its QoS or its type. Empty when there is none such."""
        for publisher in self.node.get_publishers_info_by_topic(self.name):
            who = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
            if publisher.topic_type != self._type_name:
                return (f"{self.name} is published by {who} as {publisher.topic_type}, must be {self._type_name}"
                        + self._type_cure(publisher.topic_type))
            compatible, reason = qos_check_compatible(publisher.qos_profile, self._subscriber.sub.qos_profile)
            if compatible == QoSCompatibility.ERROR:
                return (f"{self.name} is published by {who} with incompatible QoS ({reason.rstrip('; ')}); change it "
                        f"there or by the parameters qos_overrides.{self.name}.subscription.*")
        return ""

    def _type_cure(self, found: str) -> str:
        if found in self.accepted:
            return f"; set {self.role}.message_type to {found}"
        return f"; {self.role}.message_type can be {', '.join(self.accepted)}" if self.accepted else ""

    @property
    def publishers(self) -> int:
        """Number of matched publishers."""
        return self._subscriber.sub.get_publisher_count()

    def loss_warning(self) -> str:
        """What was lost lately and its cure; empty when nothing was. To be called once a second."""
        self._counts.append((self.loss.received, self.loss.lost))
        received, lost = (now - before for now, before in zip(self._counts[-1], self._counts[0], strict=True))
        return f"{self.name} loses messages, lately {lost} of {lost + received}; {loss_cure()}" if lost else ""

    def destroy(self) -> None:
        self.node.destroy_subscription(self._subscriber.sub)


def subscribe(node, config: Config, receive: Callable[[Topic, object, dict], None]) -> list[Topic]:
    """Subscribe to every enabled input, its CameraInfo, odometry and tf; `receive` as of Topic.

    Raises ConfigError when the messages of an input are of a package that is not installed, and for a name that ROS
    does not take.
    """
    types = {name: input_type(name, one) for name, one in config.inputs.items() if one.enabled}

    def topic(role: str, message_type, name: str, depth: int, **options) -> Topic:
        try:
            return Topic(node, role, message_type, name, depth, receive, **options)
        except NameValidationException as error:
            head, _, info = role.partition("/")
            parameter = {"odom": "odometry_topic", "tf": "tf_topic", "tf_static": "tf_static_topic"}.get(
                role, f"{head}.info_topic" if info else f"{head}.topic")
            why = str(error).splitlines()[0].partition(": ")[2].rstrip(":")     # the next two lines point at the place
            raise ConfigError(f"{parameter} = {name!r} is no name of a topic in ROS: {why}") from error

    topics = []
    for name, one in config.inputs.items():
        # A target camera's intrinsics are the pixel grid, also when its images are not wanted.
        if one.info_topic and (one.enabled or name in config.target_cameras):
            topics.append(topic(f"{name}/info", CameraInfo, one.info_topic, depth=5))
        if one.enabled:
            topics.append(topic(name, types[name], one.topic, depth=one.qos_depth,
                                accepted=tuple(ACCEPTED[one.modality])))
    if config.odometry_topic:
        topics.append(topic("odom", Odometry, config.odometry_topic, depth=100))
    if tf2_msgs and config.tf_topic:
        topics.append(topic("tf", tf2_msgs.TFMessage, config.tf_topic, depth=100))
    if tf2_msgs and config.tf_static_topic:
        topics.append(topic("tf_static", tf2_msgs.TFMessage, config.tf_static_topic, depth=100, latched=True))
    return topics


def input_type(name: str, config: InputConfig):
    """The message class of an input. Raises ConfigError naming the package that lacks and where to get it."""
    found = message_class(config.message_type)
    if found is None:
        package = config.message_type.partition("/")[0]
        raise ConfigError(f"{name}.message_type = {config.message_type}, but the package {package} cannot be imported: "
                          f"install ros-$ROS_DISTRO-{package.replace('_', '-')}, or build {package} in a workspace and "
                          "source it")
    return found
