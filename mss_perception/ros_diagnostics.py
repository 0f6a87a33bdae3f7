"""The 1 Hz summary on /diagnostics: one status of the node, one per topic."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import LifecycleNode

from mss_perception import messages
from mss_perception.pipeline import Pipeline
from mss_perception.ros_compat import TYPES
from mss_perception.ros_outputs import LEVELS, status
from mss_perception.ros_topics import Topic

SEVERITY = {"OK": DiagnosticStatus.OK, "WARN": DiagnosticStatus.WARN, "ERROR": DiagnosticStatus.ERROR,
            "STALE": DiagnosticStatus.STALE}


class Diagnostics:
    """Publishes what Pipeline.diagnostics and the subscriptions know."""

    def __init__(self, node: LifecycleNode) -> None:
        self.node = node
        self._logged = {""}
        self.publisher = node.create_lifecycle_publisher(DiagnosticArray, "/diagnostics", 10)

    def publish(self, pipeline: Pipeline, topics: list[Topic]) -> None:
        """One message; also called a last time when the node is deactivated."""
        figures = pipeline.diagnostics()
        inputs = figures["inputs"]
        mismatches = [topic.mismatch() for topic in topics]
        self._log_new(mismatches)
        statuses = [self._summary(figures, topics, list(filter(None, mismatches)))]
        statuses += [self._topic(topic, inputs.get(topic.role, {}), mismatch)
                     for topic, mismatch in zip(topics, mismatches, strict=True)]
        now = self.node.get_clock().now().nanoseconds
        self.publisher.publish(DiagnosticArray(header=messages.encode_header(TYPES, now, ""), status=statuses))

    def _log_new(self, mismatches: list[str]) -> None:
        for text in set(mismatches) - self._logged:
            self.node.get_logger().error(text)
        self._logged = set(mismatches) | {""}

    def _summary(self, figures: dict, topics: list[Topic], mismatches: list[str]) -> DiagnosticStatus:
        level, reasons = SEVERITY[figures["level"]], [figures["message"]]
        losses = [warning for topic in topics if (warning := topic.loss_warning())]
        if mismatches:
            level = DiagnosticStatus.ERROR
        elif losses and level == DiagnosticStatus.OK:
            level = DiagnosticStatus.WARN
        values = {"model_id": figures["model_id"], "epoch": figures["epoch"], "tick_source": figures["tick_source"],
                  "fps_out": figures["fps_out"], "ticks": figures["ticks"], "outputs": figures["outputs"]}
        values |= {f"dropped.{reason}": count for reason, count in figures["dropped"].items()}
        values |= {f"warnings.{reason}": count for reason, count in figures["warnings"].items()}
        values |= {f"latency_ms.{stage}.{quantile}": value for stage, quantiles in figures["latency_ms"].items()
                   for quantile, value in quantiles.items()}
        values |= {f"state.{name}": one["state"] for name, one in figures["inputs"].items()}
        return self._status("segmentation", level, "; ".join(mismatches + reasons + losses), values)

    def _topic(self, topic: Topic, figures: dict, mismatch: str) -> DiagnosticStatus:
        """Received, lost and rate of a subscription and, for an input, what the collector knows of it."""
        level = LEVELS[figures["state"]] if figures else DiagnosticStatus.OK
        text = figures.get("reason") or figures.get("state", "")
        if mismatch:
            level, text = DiagnosticStatus.ERROR, mismatch
        elif warning := topic.loss_warning():
            level, text = max(level, DiagnosticStatus.WARN), f"{text}; {warning}"
        values = {"topic": topic.name, "publishers": topic.publishers, "received": topic.loss.received,
                  "lost": topic.loss.lost, "fps_in": topic.loss.rate_hz,
                  **{key: value for key, value in figures.items() if key not in ("state", "reason", "received")}}
        return self._status(topic.role, level, text or "OK", values)

    def _status(self, part: str, level: bytes, text: str, values: dict) -> DiagnosticStatus:
        return status(f"{self.node.get_name()}: {part}", level, text, values)

    def destroy(self) -> None:
        self.node.destroy_lifecycle_publisher(self.publisher)
