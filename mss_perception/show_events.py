"""The events of one moment as a picture, red for ON and blue for OFF: what the event lane makes of them.

    python -m mss_perception.show_events BAG --out events.png [--topic TOPIC] [--at SECONDS] [--window SECONDS]

No calibration is needed: it is the event camera's own view, through the decoder and the lane that the node has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mss_models.modality import DEFAULT_ENCODINGS
from mss_perception import draw
from mss_perception.bags import BagError, BagSummary, bag_summary, read_bag
from mss_perception.camera import Camera, CameraError
from mss_perception.event_stream import EventStream
from mss_perception.events import EventLane
from mss_perception.lane import LaneInvalid
from mss_perception.message_types import EVENT_ARRAYS, EVENT_PACKET
from mss_perception.messages import EventPicture, Events, MessageError
from mss_perception.units import nanoseconds

LONGEST_SEC = 1e6
LEAST_WIDTH = 640       # a smaller picture is enlarged, so that single pixels can be told apart


class EventsError(ValueError):
    """There is no picture to make. The message names what is missing and what the bag has."""


def show(bag: str | Path, topic: str = "", at_sec: float | None = None,
         window_sec: float = 0.05) -> tuple[np.ndarray, dict]:
    """(picture (H, W, 3) uint8 RGB, figures of the lane) of the window that ends `at_sec` after the bag's start.

    topic: '' for the only one of packed or listed events. at_sec: None for the bag's middle. Raises EventsError,
    BagError, or MessageError for a packet that cannot be decoded.
    """
    summary = bag_summary(bag)
    topic = topic or only_topic(summary)
    if topic not in summary.topics:
        raise EventsError(f"bag {bag} has no topic {topic}; it has {', '.join(summary.topics)}")
    duration_sec = (summary.end_ns - summary.start_ns) / 1e9
    at_sec = duration_sec / 2 if at_sec is None else at_sec
    stream, window_ns, near = EventStream(0), nanoseconds(window_sec), []
    for _, receive_ns, message in read_bag(bag, [topic]):
        if receive_ns > summary.start_ns + nanoseconds(at_sec):
            break
        if (packet := stream.decode(message)) is not None:
            near = [one for one in near if one.end_ns >= packet.end_ns - window_ns] + [packet]
    if not near:
        raise EventsError(f"{topic} of bag {bag} has no events up to {at_sec:g} s; it lasts {duration_sec:.1f} s")
    height, width = size_of(near)
    camera = Camera(width, height, [[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]])     # any will do
    encoding = DEFAULT_ENCODINGS["event"]
    encoding = replace(encoding, params={**encoding.params, "window_sec": window_sec})
    result = EventLane(encoding, camera, height, width, camera, np.eye(4))(near, max(one.end_ns for one in near))
    enlarge = max(1, -(-LEAST_WIDTH // width))
    picture = cv2.resize(draw.picture("event", result.image), None, fx=enlarge, fy=enlarge,
                         interpolation=cv2.INTER_NEAREST)
    return picture, result.figures


def only_topic(summary: BagSummary) -> str:
    found = [topic for topic, one in summary.topics.items() if one.type in (EVENT_PACKET, *EVENT_ARRAYS)]
    if len(found) != 1:
        raise EventsError(f"bag {summary.path} has {len(found)} topics of packed or listed events; name one with "
                          f"--topic: {', '.join(found or summary.topics)}")
    return found[0]


def size_of(packets: Sequence[Events | EventPicture]) -> tuple[int, int]:
    """(height, width) of the camera: as its packets say, or what holds all of their events."""
    last = packets[-1]
    if isinstance(last, EventPicture):
        return last.on.shape
    if last.width and last.height:
        return last.height, last.width
    return tuple(int(max((one.max() for one in axis if len(one)), default=0)) + 1
                 for axis in ([one.y for one in packets], [one.x for one in packets]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.show_events", description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or an .mcap or .db3 file")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--topic", default="", help="default: the only one of packed or listed events")
    parser.add_argument("--at", type=float, metavar="SECONDS", help="after the bag's start (default its middle)")
    parser.add_argument("--window", type=float, metavar="SECONDS", default=0.05, help="default 0.05")
    options = parser.parse_args(argv)
    for name, value in (("at", options.at), ("window", options.window)):
        if value is not None and not 0 < value <= LONGEST_SEC:
            parser.error(f"--{name} {value:g} must be above 0, at most {LONGEST_SEC:g} seconds")
    try:
        picture, figures = show(options.bag, options.topic, options.at, options.window)
        Image.fromarray(picture).quantize(256).save(options.out, "PNG", optimize=True)
    except (EventsError, BagError, CameraError, LaneInvalid, MessageError) as error:
        print(f"show_events: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"show_events: cannot write {options.out}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{options.out}: {figures['events']} events, {figures['on']} ON, {figures['off']} OFF")
    return 0


if __name__ == "__main__":
    sys.exit(main())
