"""What is in a bag or on the live graph, what a configuration lacks for it, and a configuration to start from.

    python -m mss_perception.check BAG [--config FILE] [--write config.yaml] [--json FILE]
    python -m mss_perception.check --live [--seconds 10] ...

Without --config the topics are given to the inputs that they fit, and what is judged is that proposal; with it, that
file as it stands. --write writes the proposal, starting from --config where it is given. Every message is counted; of
each topic at most --messages are decoded.

Exit status: 0 usable, 1 something that is needed is missing, 2 bad input.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mss_perception import proposal_files
from mss_perception.bags import BagError, open_bag
from mss_perception.calibration import CalibrationError
from mss_perception.config import Config, ConfigError, absolute
from mss_perception.findings import Findings, judge, latencies_ns
from mss_perception.options import at_least, positive
from mss_perception.proposal import SERVED_BY, Proposal, holds_results, known_cameras, propose
from mss_perception.survey import KINDS, Survey, SurveyError, Topic
from mss_perception.timing import Phase, rhythm

MESSAGES = 50           # decoded per topic
CONSECUTIVE = 1000      # of kinds whose messages only make sense together: events, whose decoders keep state, and tf
OFFSETS_NOTE = (
    "Offsets: median of the differences to the nearest stamp, modulo the faster period. It is the stamps that are "
    "compared: a delay of whole periods, or one that no stamp shows, is not seen, and sensors that run freely look in "
    "step in a recording that is too short for their drift. A stream of events has no phase: no offset is measured.")


def survey_bag(path: str | Path, messages: int = MESSAGES, progress: bool = True) -> Survey:
    """Read a bag once. messages: how many of each topic are decoded, spread over it. Raises BagError."""
    survey = Survey(str(path), live=False)
    with open_bag(path) as bag:
        expected: dict[str, int] = {}
        for connection in bag.connections:
            expected[connection.topic] = expected.get(connection.topic, 0) + connection.msgcount
            if connection.topic not in survey.topics:
                survey.topics[connection.topic] = _topic(bag, connection)
        with tqdm(total=sum(expected.values()), desc="check", unit=" messages", disable=not progress) as bar:
            for connection, receive_ns, cdr in bag.messages(None):
                topic = survey.topics[connection.topic]
                if not topic.unreadable and _chosen(topic, expected[topic.name], messages):
                    try:
                        topic.look(bag.deserialize(connection, receive_ns, cdr))
                    except BagError as error:
                        topic.errors[str(error).partition(": message on ")[2] or str(error)] += 1
                topic.add(receive_ns, cdr)
                bar.update()
    survey.topics = dict(sorted(survey.topics.items()))
    return survey


def _topic(bag, connection) -> Topic:
    """An empty topic; with the reason when nothing can be read of it."""
    topic = Topic(connection.topic, connection.msgtype, kind=KINDS.get(connection.msgtype, ""))
    if connection.msgtype in bag.unknown:
        topic.unreadable = f"the bag does not define {connection.msgtype}"
    else:
        fields = bag.store.fielddefs[connection.msgtype][1]
        topic.has_header = bool(fields) and fields[0][1][1] == "std_msgs/msg/Header"
    return topic


def _chosen(topic: Topic, expected: int, messages: int) -> bool:
    """Whether the next message of a topic is decoded."""
    if topic.kind in ("events", "tf"):
        return topic.count < CONSECUTIVE
    return expected <= messages or topic.count * messages // expected != (topic.count - 1) * messages // expected


# -------------------------------------------------------------------------------------------------------------- report

def report(survey: Survey, config: Config, proposal: Proposal, findings: Findings) -> dict:
    """Everything that was found, JSON-ready. Times are seconds."""
    return {
        "source": survey.source, "live": survey.live, "messages": survey.count,
        "duration_sec": survey.span_ns / 1e9,
        "topics": [topic_figures(topic, config) for topic in survey.topics.values()],
        "cameras": {name: {"width": one.width, "height": one.height, "model": one.model, "frame_id": one.frame_id,
                           "K": one.K.ravel().tolist(), "D": list(one.D)}
                    for name, one in known_cameras(survey, config).items()},
        "reference": proposal.reference,
        "offsets": {name: phase_figures(one) for name, one in proposal.phases.items()},
        "sets": trial_figures(findings),
        "remarks": survey.remarks, "missing": findings.missing, "notes": findings.notes, "usable": findings.usable,
        "proposal": {name: {"value": getattr_flat(proposal.config, name), "reason": reason}
                     for name, reason in proposal.reasons.items()},
    }


def getattr_flat(config: Config, name: str):
    return next(value for known, value, _ in config.parameters() if known == name)


def topic_figures(topic: Topic, config: Config) -> dict:
    beat = rhythm(topic.stamps if any(topic.stamps) else topic.received)
    latency = latencies_ns(topic)
    figures = {
        "topic": topic.name, "type": topic.type, "count": topic.count, "kind": topic.kind,
        "rate_hz": beat.rate_hz if beat else None, "jitter_sec": beat.jitter_ns / 1e9 if beat else None,
        "gaps": beat.gaps if beat else 0, "lost": topic.lost, "frame_id": topic.fact("frame_id"),
        "latency_sec": {"p50": float(np.median(latency)) / 1e9, "p99": float(np.percentile(latency, 99)) / 1e9}
        if len(latency) else None,
        "serves": serves(topic, config), "decoded": topic.decoded,
        "facts": {name: dict(counts) for name, counts in topic.facts.items() if name != "frame_id"},
        "medians": {name: topic.median(name) for name in topic.figures},
        "errors": dict(topic.errors), "unreadable": topic.unreadable,
    }
    if topic.figures.get("events") and topic.count > 1:
        figures["events"], figures["on"] = (int(sum(topic.figures[name])) for name in ("events", "on"))
        if seconds := (topic.received[-1] - topic.received[0]) / 1e9:
            figures["events_per_sec"] = figures["events"] / topic.decoded * (topic.count - 1) / seconds
        figures["stream"] = {name: count for name, count in topic.stream.counters.items() if count}
    return figures


def serves(topic: Topic, config: Config) -> str:
    """The role of a topic by the configuration, or in brackets what it could be."""
    if role := config.topic_roles().get(topic.name):
        return role
    if topic.name == absolute(config.labels_topic):
        return "labels"
    if holds_results(topic):
        return "(labels)" if topic.kind == "grey" else ""
    could = [name for name, one in config.inputs.items() if topic.kind in SERVED_BY[one.modality]]
    return f"({' or '.join(could)})" if could else ""


def phase_figures(one: Phase | None) -> dict | None:
    return None if one is None else {
        "offset_sec": one.offset_ns / 1e9, "spread_sec": one.spread_ns / 1e9, "modulo_sec": one.modulo_ns / 1e9,
        "in_step": one.in_step, "drift_ppm": one.drift_ppm, "pairs": one.pairs}


def trial_figures(findings: Findings) -> dict | None:
    result = findings.trial
    return None if result is None or not result.sets else {
        "count": result.sets, "used": result.used, "deadline_hits": result.deadline_hits,
        "wait_sec": {f"p{q}": float(np.percentile(result.waits_ns, q)) / 1e9 for q in (50, 99)}}


# --------------------------------------------------------------------------------------------------------------- table

def table(found: dict) -> str:
    """The report as text."""
    lines = [f"{found['source']}: {found['messages']} messages on {len(found['topics'])} topics, "
             f"{found['duration_sec']:.1f} s", ""]
    head = ("topic", "type", "count", "rate", "jitter", "latency", "frame", "serves")
    rows = [row(one) for one in found["topics"]]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for cells, one in zip((head, *rows), (None, *found["topics"]), strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        lines += [f"    {text}" for text in (details(one) if one else ())]
    lines += ["", "Intrinsics: " + ("; ".join(
        f"{name} {one['width']} x {one['height']} {one['model']}, f = {one['K'][0]:.5g} px, in {one['frame_id']!r}"
        for name, one in found["cameras"].items()) or "none")]
    lines += times(found)
    for title, texts in (("While reading", found["remarks"]), ("Missing", found["missing"]), ("Notes", found["notes"]),
                         ("Proposed", [f"{name}: {json.dumps(one['value'])}   ({one['reason']})"
                                       for name, one in found["proposal"].items()])):
        if texts:
            lines += ["", f"{title}:", *(f"  - {text}" for text in texts)]
    return "\n".join([*lines, "", "usable" if found["usable"] else "not usable as configured: see Missing"])


def row(one: dict) -> tuple[str, ...]:
    latency = one["latency_sec"]
    return (one["topic"], one["type"], str(one["count"]) + (f" (-{one['lost']})" if one["lost"] else ""),
            f"{one['rate_hz']:.4g} Hz" if one["rate_hz"] else "",
            f"{1e3 * one['jitter_sec']:.1f} ms" if one["rate_hz"] else "",
            milliseconds(latency["p50"]) if latency else "", one["frame_id"], one["serves"])


def milliseconds(sec: float) -> str:
    return f"{1e3 * sec:.1f} ms" if abs(sec) < 10 else f"{sec:.0f} s"


def details(one: dict) -> list[str]:
    """What the messages of a topic hold, in a line or two."""
    facts = {name: " / ".join(counts) for name, counts in one["facts"].items()}
    medians, lines = one["medians"], []
    parts = [facts[name] for name in ("encoding", "size", "model", "frames") if name in facts]
    if "valid_fraction" in medians:
        parts.append(f"{medians['valid_fraction']:.0%} of the pixels measured")
    if "points" in medians:
        organised = f", organised {facts['organised']}" if "organised" in facts else ""
        parts.append(f"{medians['points']:.0f} points{organised}, {medians['returns']:.0f} returns; "
                     f"fields {facts['fields']}")
        if "largest_intensity" in medians:
            parts.append(f"99 % of {facts['intensity']} up to {medians['largest_intensity']:.4g}")
    if "events" in one:
        rate = f"{one['events_per_sec']:.4g} events/s; " if "events_per_sec" in one else ""
        parts.append(f"{rate}{one['events']} events, {one['on']} ON, in the {one['decoded']} messages looked at"
                     + "".join(f", {count} {name.replace('_', ' ')}" for name, count in one["stream"].items()))
    if parts:
        lines.append(", ".join(parts))
    if "point_time" in facts:
        span = (f", from {medians['first_point_ns'] / 1e6:.1f} to {medians['last_point_ns'] / 1e6:.1f} ms"
                if "first_point_ns" in medians else "")
        lines.append(f"time per point: {facts['point_time']}{span}")
    if one["gaps"]:
        lines.append(f"{one['gaps']} gaps of more than 1.5 periods")
    lines += [f"{count} of those looked at cannot be used: {text}" for text, count in one["errors"].items()]
    return lines + ([f"not looked at: {one['unreadable']}"] if one["unreadable"] else [])


def times(found: dict) -> list[str]:
    """The offsets and what the collector makes of the stamps."""
    lines = []
    if found["reference"]:
        lines.append(f"Reference in time: {found['reference']}")
    for name, one in found["offsets"].items():
        if one is None:
            lines.append(f"  {name}: too few stamps for an offset")
            continue
        measured = (f"{1e3 * one['offset_sec']:+.2f} ms, 95 % within {1e3 * one['spread_sec']:.2f} ms of it, modulo "
                    f"{1e3 * one['modulo_sec']:.1f} ms, {one['pairs']} pairs, drift {one['drift_ppm']:.0f} ppm")
        lines.append(f"  {name}: {measured if one['in_step'] else f'not in step with the reference ({measured})'}")
    if found["offsets"]:
        lines.append("  " + OFFSETS_NOTE)
    if sets := found["sets"]:
        lines.append(f"Sets that the collector makes: {sets['count']}; "
                     + ", ".join(f"{name} in {share:.1%}" for name, share in sets["used"].items())
                     + f"; they wait {1e3 * sets['wait_sec']['p50']:.0f} ms (99 %: {1e3 * sets['wait_sec']['p99']:.0f} "
                     f"ms), {sets['deadline_hits']} until the deadline")
    return lines


# ---------------------------------------------------------------------------------------------------------------- main

def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", nargs="?", type=Path, help="rosbag2 folder, or an .mcap or .db3 file")
    parser.add_argument("--live", action="store_true", help="listen to the ROS graph instead")
    parser.add_argument("--seconds", type=positive, default=10.0, help="how long to listen (default 10)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the node's parameter file, to be judged")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the proposed parameter file; must not exist")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")
    parser.add_argument("--messages", type=at_least(1), default=MESSAGES, metavar="N",
                        help=f"messages of each topic to decode (default {MESSAGES})")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments()
    options = parser.parse_args(argv)
    if options.live == (options.bag is not None):
        parser.error("give a bag, or --live")
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    logging.getLogger("mss_perception.config").setLevel(logging.WARNING)    # parameters that are ignored
    try:
        config = Config.from_yaml(options.config) if options.config else Config()
        if options.live:
            # Imported by name: ROS need not be there to check a bag.
            listen = importlib.import_module("mss_perception.ros_check").listen
            survey = listen(options.seconds, options.messages, progress=not options.quiet)
        else:
            survey = survey_bag(options.bag, options.messages, progress=not options.quiet)
        proposal = propose(survey, config)
        judged = config if options.config else proposal.config
        found = report(survey, judged, proposal, judge(survey, judged, proposal))
        print(table(found))
        if options.json:
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        for path in proposal_files.write(options.write, proposal, survey.source) if options.write else ():
            print(f"written: {path}")
    except (BagError, CalibrationError, ConfigError, SurveyError) as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"check: --live needs ROS 2 (rclpy): {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"check: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0 if found["usable"] else 1


if __name__ == "__main__":
    sys.exit(main())
