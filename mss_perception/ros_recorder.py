"""Record what the node publishes, until SIGINT: `python -m mss_perception.ros_recorder --out DIR`.

DIR/masks.jsonl has one line per mask message, like frames.jsonl of a replay; DIR/diagnostics.jsonl one per diagnostic
message of the node, {name: {level (0 OK, 1 WARN, 2 ERROR, 3 STALE), message, values}}. Of each segmentation there is
DIR/labels/<stamp>.png, or with `--labels lines` one of DIR/labels.jsonl: stamp, frame_id, width and height. Each line
has received_ns, the steady clock's time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.event_handler import QoSSubscriptionMatchedInfo, SubscriptionEventCallbacks
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from mss_perception import draw
from mss_perception.mask_message import read_mask_message, values_of
from mss_perception.messages import decode_image, stamp_ns
from mss_perception.ros_process import leave, spin


class Recorder(Node):
    """Writes each message at once, so that nothing is lost when the run is."""

    def __init__(self, out: Path, node_name: str, labels: str) -> None:
        """labels: 'png', 'lines' or 'none'."""
        super().__init__("recorder")
        self.folder = out / "labels"
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ("masks", "diagnostics", "labels") if labels == "lines" else ("masks", "diagnostics")
        self.files = {name: (out / f"{name}.jsonl").open("w", buffering=1) for name in names}
        qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        self.node_name = node_name
        self.create_subscription(DiagnosticArray, f"{node_name}/modality_mask", self.on_mask, qos,
                                 event_callbacks=SubscriptionEventCallbacks(matched=self.on_matched))
        self.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, qos)
        if labels != "none":
            self.create_subscription(Image, f"{node_name}/segmentation",
                                     self.on_labels if labels == "png" else self.on_label_line, qos)

    def on_matched(self, change: QoSSubscriptionMatchedInfo) -> None:
        self.get_logger().info(f"recording from {change.current_count} node(s)")

    def on_mask(self, message: DiagnosticArray) -> None:
        self._write("masks", read_mask_message(message))

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        statuses = {status.name: {"level": status.level[0], "message": status.message, "values": values_of(status)}
                    for status in message.status if status.name.startswith(self.node_name.strip("/"))}
        if statuses:
            self._write("diagnostics", statuses)

    def on_labels(self, message: Image) -> None:
        (self.folder / f"{stamp_ns(message.header)}.png").write_bytes(draw.png(decode_image(message)))

    def on_label_line(self, message: Image) -> None:
        self._write("labels", {"stamp": stamp_ns(message.header), "frame_id": message.header.frame_id,
                               "width": message.width, "height": message.height})

    def _write(self, name: str, line: dict) -> None:
        self.files[name].write(json.dumps({**line, "received_ns": time.monotonic_ns()}) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="recorder", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--node", default="mss_perception", help="name of the node (default mss_perception)")
    parser.add_argument("--labels", choices=["png", "lines", "none"], default="png", help="what to keep of the "
                        "segmentation images (default png)")
    options = parser.parse_args(argv)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        recorder = Recorder(options.out, options.node, options.labels)
        try:
            executor = SingleThreadedExecutor()
            executor.add_node(recorder)
            spin(executor)
        finally:
            leave(recorder)
    except OSError as error:
        print(f"recorder: cannot write {error.filename or options.out}: {error.strerror}; name another --out",
              file=sys.stderr)
        return 2
    except NameValidationException as error:
        print(f"recorder: --node {options.node}: {str(error).splitlines()[0].rstrip(':')}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
