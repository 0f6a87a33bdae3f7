"""Writes the tables of docs/operations.md: `python -m mss_perception.operations docs/operations.md`.

A table stands between a line `<!-- NAME -->` and a line `<!-- end -->`; the text around is written by hand. What the
node can report is declared here and in reference.py, tests/test_operations.py holds the code against it; what the
shipped network gives with each subset of the sensors comes from its own card.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mss_models import checkpoint
from mss_models.files import write_atomically
from mss_perception.health import REJECTED
from mss_perception.mask_message import LEVELS
from mss_perception.reference import STATES, code_first, table

MESSAGES = {        # how the summary's text begins or goes on -> what to do
    "all inputs are active": "nothing",
    "running without": "degraded, as the table below says: see the inputs that are named, each has a status of its own",
    "repeats an identical payload": "a camera or driver that hangs while it goes on stamping: restart it. The pictures "
    "are used until then",
    "nobody publishes": "start the driver, or set `<input>.topic`; `enabled: false` for a sensor that is not there. "
    "In the status of odometry, tf or a camera_info: needed or not, as it says",
    "loses messages": "the text names the cure; [install.md](install.md), Large messages",
    "no input": "nothing timely comes from anywhere: drivers, network, `ROS_DOMAIN_ID`, clocks; under use_sim_time, "
    "/clock",
    "no reference": "no input of `tick_source` lives, so no set opens: restart one, or name the living ones there",
    "sets are dropped": "the reasons are below",
    "no output for": "the network, or the device that it runs on, hangs: restart the node; if it comes again, look at "
    "the device (`nvidia-smi`, the kernel's log). At its first set a network may compile, for minutes",
    "outputs cannot be published": "the log has the traceback: a bug or a full disk or memory; please report it",
    "is published by": "a publisher with other QoS or another type: change it, `qos_overrides` or "
    "`<input>.message_type`",
}
STATE_CURES = {
    "OK": "nothing",
    "HELD": "nothing; with `hold_sec` 0 it would be MISSING",
    "LATE": "its latency exceeds the others' by more than `deadline_sec`: raise that, or find what delays it",
    "MISSING": "now and then: lost on the way. Mostly: its stamps are off by more than `tolerance_sec`; `python -m "
    "mss_perception.check --live` measures the offset for `offset_sec`",
    "STALE": "the sensor is dead or unplugged, or its stamps cannot be used: the message says why, if so",
    "INVALID": "the message says what is wrong and what would be right",
    "DISABLED": "nothing",
}
DROPPED = {
    "below_min_modalities": ("fewer modalities could be used than `min_modalities`, or none", "see the inputs that are "
                             "not OK"),
    "closed": ("it waited, or was in work, when the node was deactivated", "nothing"),
    "error": ("an exception in the work on the set", "the log has the traceback, at most every 10 s: a bug or a device "
              "that failed; please report it"),
    "late": ("its reference came after a later set had gone", "stamps of the tick source come out of order: look at "
             "its driver; `late_policy: publish` keeps such sets"),
    "replaced": ("the network was busy and a newer set came", "load is shed so that delays do not grow: lower "
                 "`tick_rate_hz`, `width` and `height`, or take a faster device"),
    "reset": ("time jumped back while it was open", "once for each loop of a bag; else look at the clocks"),
    "unpublished": ("an exception in publishing its output", "the log has the traceback; please report it"),
}
WARNINGS = {
    "<input>_undecodable": ("event packets that could not be decoded", "the input's status says why"),
    "<input>_frozen": ("messages with the payload of the one before", "restart the driver"),
    "<input>_invalid": ("sets, times views, in which its sample could not be used", "the input's status says why"),
    "<input>/info_invalid": ("camera_infos that were refused", "the log says why: calibrate, or mend the driver"),
    "<input>/info_changed": ("camera_infos that differ from the one before", "nothing, if the camera changes its mode "
                             "or zoom; if it rises with every image, two cameras publish on one topic"),
    "odom_invalid": ("odometry that was refused", "the log says why"),
    "odom_ignored": ("odometry of what tf moves already; the log says of which frame", "nothing: of the two only tf's "
                     "poses are used. `odometry_topic: \"\"` saves reading the other"),
    "tf_invalid": ("messages of tf_topic with poses that were refused; others of theirs are used", "the log says why"),
    "tf_static_invalid": ("messages of tf_static_topic with mountings that were refused; others of theirs are used",
                          "the log says why"),
    "tf_replaced": ("mountings of `calibration_file` that differ by what came on tf_topic, which wins",
                    "[calibration.md](calibration.md), The file"),
    "tf_static_replaced": ("mountings of `calibration_file` that differ by what came on tf_static_topic, which wins",
                           "[calibration.md](calibration.md), The file"),
    "before_clock": ("messages before the first /clock, under use_sim_time", "start what publishes /clock"),
    "receive_errors": ("messages lost by an exception", "a bug: the log has the traceback; please report it"),
    "output_errors": ("outputs lost by an exception", "the same"),
    "poll_errors": ("exceptions while looking for sets whose time is up", "the same"),
    "diagnose_errors": ("exceptions while writing this very message", "the same"),
    "clock_jumped_errors": ("exceptions when the clock jumped", "the same"),
}
COUNTERS = {
    "lost": "[install.md](install.md), Large messages",
    "late": "`deadline_sec` is too short for this sensor's latency",
    "evicted": "`queue` or `max_bytes` is too small for `deadline_sec`",
    "duplicate": "two publishers on one topic, or a bag played beside the driver",
    "unused": "nothing: a sensor faster than the sets gives more than is used",
}
# What a vehicle does with a segmentation, and the classes that it takes.
TASKS = {
    "road": ("Road",), "lane marking": ("RoadLine",), "pavement": ("SideWalk",), "rails": ("RailTrack", "GroundRail"),
    "vehicles": ("Cars", "Bus", "Truck", "TwoWheeler"), "people": ("Pedestrian",),
    "what stands beside": ("Building", "Wall", "Fence", "Pole", "Vegetation", "Bridge", "Static"),
    "signs and lights": ("TrafficSign", "TrafficLight"),
}
USABLE = 50.0       # percent: mean IoU of a task's classes


def explained(prefix: str, found: Mapping[str, tuple[str, str]]) -> list[str]:
    return table(("value", "what it counts", "what to do"),
                 [(f"`{prefix}.{name}`", *texts) for name, texts in found.items()])


def degraded(card: Mapping[str, Any]) -> list[str]:
    """Each subset of the sensors: mIoU, its share of the best one, mean IoU of the classes of each task, and the tasks
    that it is good for. card: of a network that `training.evaluate --ship` wrote."""
    scores = card.get("scores", {})
    if not (mious := scores.get("miou_present")):
        return ["The shipped network's card holds no scores."]
    best, ious = max(mious.values()), scores.get("iou", {})
    tasks = {task: [one for one in classes if all(iou.get(one) is not None for iou in ious.values())]
             for task, classes in TASKS.items() if ious}
    tasks = {task: classes for task, classes in tasks.items() if classes}       # of this label set, and in the frames
    rows, reached = [], set()
    for subset, miou in mious.items():
        means = {task: sum(ious[subset][one] for one in classes) / len(classes) for task, classes in tasks.items()}
        good = [task for task, mean in means.items() if mean >= USABLE]
        reached |= set(good)
        rows.append((subset.replace("+", " + "), f"{miou:.1f}", f"{100 * miou / best:.0f} %",
                     *(f"{mean:.0f}" for mean in means.values()),
                     *([", ".join(good) or "none of these"] if tasks else [])))
    lines = [f"On {scores['frames']} unseen frames (split {scores['split']}, {scores['precision']}), in percent:", "",
             *table(("sensors", "mIoU", "of the best", *tasks, *(["good for"] if tasks else [])), rows), ""]
    if not tasks:
        return [*lines, "The card holds no IoU of single classes: what a subset is good for cannot be told."]
    never = [task for task in tasks if task not in reached]
    return [*lines, "Columns are mean IoUs: " + "; ".join(f"{task}: {', '.join(classes)}" for task, classes
                                                          in tasks.items()) + ".", "",
            f"Good for: {USABLE:g} % or more, a bound of ours." + (
                f" No subset reaches it for {', '.join(never)}." if never else "")]


TABLES: dict[str, Callable[[], list[str]]] = {
    "messages": lambda: table(("it says", "what to do"), [(f'"{text}"', cure) for text, cure in MESSAGES.items()]),
    "states": lambda: table(("state", "level", "meaning", "what to do"), [
        (f"`{name}`", LEVELS[name], meaning, STATE_CURES[name]) for name, meaning in STATES.items()]),
    "rejections": lambda: table(("value", "samples that are not taken, because their"), code_first(REJECTED)),
    "drops": lambda: explained("dropped", DROPPED),
    "warnings": lambda: explained("warnings", WARNINGS),
    "counters": lambda: table(("value that grows", "what to do"), code_first(COUNTERS)),
    "degraded": lambda: degraded(checkpoint.load(checkpoint.DEFAULT_CHECKPOINT).card),
}


def filled(page: str) -> str:
    """The page with its tables as they are now. Raises ValueError unless it has a place for each."""
    def block(match: re.Match) -> str:
        return "\n".join([f"<!-- {match[1]} -->", *TABLES[match[1]](), "<!-- end -->"])

    places = re.findall(r"<!-- (?!end)(\S+) -->", page)
    if sorted(places) != sorted(TABLES):
        raise ValueError(f"the page has places for {', '.join(places)}; tables: {', '.join(TABLES)}")
    return re.sub(r"<!-- (?!end)(\S+) -->\n.*?<!-- end -->", block, page, flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.operations", description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="docs/operations.md")
    path = parser.parse_args(argv).page
    try:
        write_atomically(path, filled(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        print(f"operations: {path}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
