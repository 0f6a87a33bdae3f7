"""The 1 Hz summary on /diagnostics: one status of the node, one per topic."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import LifecycleNode

from mss_perception import messages
from mss_perception.mask_message import LEVELS, status
from mss_perception.pipeline import Pipeline
from mss_perception.ros_compat import TYPES
from mss_perception.ros_topics import Topic

TOLD_ELSEWHERE = ("state", "level", "reason", "received")       # in a status of a topic, not among its values
COSTS = {       # role of a topic that nobody publishes -> what that costs
    "odom": ": without it, or tf from fixed_frame, points are not moved to the time of their set",
    "tf_static": ": sensors that are not in the target camera's frame need a calibration_file",
}


class Diagnostics:
    """Publishes what Pipeline.diagnostics and the subscriptions know."""

    def __init__(self, node: LifecycleNode) -> None:
        self.node = node
        # With the namespace: nodes of one name, one for each camera, share /diagnostics.
        self.name = node.get_fully_qualified_name().lstrip("/")
        self._logged = {""}
        self._state = self._told = ("", ())       # of the last call, and the last one that was logged
        self.publisher = node.create_lifecycle_publisher(DiagnosticArray, "/diagnostics", 10)

    def publish(self, pipeline: Pipeline, topics: list[Topic]) -> None:
        """One message, to be called once a second."""
        figures = pipeline.diagnostics()
        inputs = figures["inputs"]
        mismatches, losses = [topic.mismatch() for topic in topics], [topic.loss_warning() for topic in topics]
        self._log_new(mismatches)
        unpublished = [topic.name for topic, mismatch in zip(topics, mismatches, strict=True)
                       if topic.role in inputs and not topic.publishers and not mismatch]
        hints = [f"nobody publishes {', '.join(unpublished)}"] if unpublished else []
        statuses = [self._summary(figures, list(filter(None, mismatches)), [*hints, *filter(None, losses)])]
        wanting = {*pipeline.inputs, *pipeline.views} - set(pipeline.sensors.cameras)
        statuses += [self._topic(topic, inputs.get(topic.role) or _no_input(topic, wanting), mismatch, loss)
                     for topic, mismatch, loss in zip(topics, mismatches, losses, strict=True)]
        now = self.node.get_clock().now().nanoseconds
        self.publisher.publish(DiagnosticArray(header=messages.encode_header(TYPES, now, ""), status=statuses))

    def _log_new(self, mismatches: list[str]) -> None:
        for text in set(mismatches) - self._logged:
            self.node.get_logger().error(text)
        self._logged = set(mismatches) | {""}

    def _log_change(self, level: str, message: str, silent: tuple[str, ...]) -> None:
        """A new level, or others that are silent, once that has lasted for two calls: what comes and goes with every
        set is no news."""
        state = (level, silent)
        if state == self._state != self._told:
            self._told = state
            if level == "ERROR":        # rclpy keeps one severity per line of code
                self.node.get_logger().error(message)
            elif level == "OK":
                self.node.get_logger().info(message)
            else:
                self.node.get_logger().warning(message)
        self._state = state

    def _summary(self, figures: dict, mismatches: list[str], hints: list[str]) -> DiagnosticStatus:
        level, message = figures["level"], "; ".join([figures["message"], *hints])
        if hints and level == "OK":
            level = "WARN"
        self._log_change(level, message, tuple(name for name, one in figures["inputs"].items() if not one["active"]))
        if mismatches:      # they have been logged
            level, message = "ERROR", "; ".join([*mismatches, message])
        values = {"model_id": figures["model_id"], "epoch": figures["epoch"], "tick_source": figures["tick_source"],
                  "fps_out": figures["fps_out"], "ticks": figures["ticks"], "outputs": figures["outputs"]}
        values |= {f"dropped.{reason}": count for reason, count in figures["dropped"].items()}
        values |= {f"warnings.{reason}": count for reason, count in figures["warnings"].items()}
        values |= {f"latency_ms.{stage}.{quantile}": value for stage, quantiles in figures["latency_ms"].items()
                   for quantile, value in quantiles.items()}
        values |= {f"state.{name}": one["state"] for name, one in figures["inputs"].items()}
        return self._status("segmentation", level, message, values)

    def _topic(self, topic: Topic, figures: dict, mismatch: str, loss: str) -> DiagnosticStatus:
        """Received, lost and rate of a subscription and, for an input, what the collector knows of it."""
        level = figures.get("level") or LEVELS[figures["state"]]
        text = figures.get("reason") or figures["state"]
        if mismatch:
            level, text = "ERROR", mismatch
        elif loss:
            level, text = "WARN" if level == "OK" else level, f"{text}; {loss}"
        values = {"topic": topic.name, "publishers": topic.publishers, "received": topic.loss.received,
                  "lost": topic.loss.lost, "fps_in": topic.loss.rate_hz,
                  **{key: value for key, value in figures.items() if key not in TOLD_ELSEWHERE}}
        return self._status(topic.role, level, text, values)

    def _status(self, part: str, level: str, text: str, values: dict) -> DiagnosticStatus:
        return status(TYPES, f"{self.name}: {part}", level, text, values)

    def destroy(self) -> None:
        self.node.destroy_lifecycle_publisher(self.publisher)


def _no_input(topic: Topic, wanting: set[str]) -> dict[str, str]:
    """Level and state of calibration or motion. wanting: inputs that are used and have no intrinsics.

    Nobody need publish it, and a healthy robot must not WARN for ever: odometry and tf are asked for by default and a
    robot may have neither, intrinsics may come from calibration_file or have been sent once. So the status says what it
    costs; only a camera without intrinsics can do nothing and is warned of.
    """
    name, _, info = topic.role.partition("/")
    if topic.publishers:
        return {"level": "OK", "state": "OK"}
    if info and name in wanting:
        return {"level": "WARN", "state": f"nobody publishes it, and there is no camera {name!r} in calibration_file"}
    return {"level": "OK", "state": f"nobody publishes it{COSTS.get(topic.role, '')}"}
