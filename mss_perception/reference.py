"""Writes docs/topics.md and docs/parameters.md: `python -m mss_perception.reference docs`.

Parameters come from their declarations in config.py. The node's ROS files cannot be imported without ROS, so what they
subscribe to, publish and report is declared here; tests/test_docs.py holds a running node against it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mss_perception.config import DEFAULTS, TYPE_TEXT, Config
from mss_perception.message_types import ACCEPTED, CLOUD, DIAGNOSTICS, IMAGE, INFO, LABEL_INFO, ODOMETRY, TF

GENERATED = "*Written by `python -m mss_perception.reference docs`; do not edit by hand.*"
SENSOR_QOS, LATCHED_QOS, OUTPUT_QOS = "best effort", "reliable, transient local", "reliable"


@dataclass(frozen=True)
class Topic:
    """One topic of the node. name: by default; `~` is the node's own name. needs: the package without which it is not
    there. when: for outputs, when it is published."""

    name: str
    type: str
    qos: str
    depth: int
    content: str
    when: str = ""
    needs: str = ""


def subscribed(config: Config) -> Iterator[Topic]:
    """What the active node subscribes to."""
    for name, one in config.inputs.items():
        frame = "its optical frame (z forward, x right, y down)" if one.info_topic else "the sensor's frame"
        yield Topic(one.topic, one.message_type, SENSOR_QOS, one.qos_depth,
                    f"{ACCEPTED[one.modality][one.message_type]}; frame: `{name}.frame_id`, else header.frame_id, "
                    f"{frame}")
        if one.info_topic:
            yield Topic(one.info_topic, INFO, SENSOR_QOS, 5, f"intrinsics of {name}, of the unrectified image, pixels; "
                        "binning and region of interest are applied")
    yield Topic(config.odometry_topic, ODOMETRY, SENSOR_QOS, 100,
                "pose of the vehicle, or of a sensor on it, in the fixed frame, metres: for the deskew and for sets "
                "whose samples differ in time; ignored while tf moves it")
    yield Topic(config.tf_topic, TF, SENSOR_QOS, 100, "poses that change", needs="tf2_msgs")
    yield Topic(config.tf_static_topic, TF, LATCHED_QOS, 100, "mounting of the sensors", needs="tf2_msgs")


PUBLISHED = (
    Topic("~/segmentation", IMAGE, OUTPUT_QOS, 5, "mono8: label id of every pixel, at the target camera's full size. "
          "255 (the label set's ignore id), with confidence 0, only under `undistort`: pixels that the network's "
          "pinhole picture does not hold",
          "every set"),
    Topic("~/confidence", IMAGE, OUTPUT_QOS, 5, "mono8: confidence of the label, 255 = 1.0",
          "every set, while somebody subscribes"),
    Topic("~/segmentation/confidence", IMAGE, OUTPUT_QOS, 5, "the same as ~/confidence",
          "every set, while somebody subscribes"),
    Topic("~/segmentation/color", IMAGE, OUTPUT_QOS, 5, "rgb8: the labels in the classes' colours",
          "every set, while somebody subscribes"),
    Topic("~/segmentation/overlay", IMAGE, OUTPUT_QOS, 5, "rgb8: those colours over the camera image",
          "every set, while somebody subscribes"),
    Topic("~/points/labeled", CLOUD, OUTPUT_QOS, 5, "the LiDAR points that the camera sees: x, y, z (metres, in the "
          "target camera's frame), label and confidence (uint8), rgb (as PCL packs it)",
          "every set with LiDAR, while somebody subscribes and publish_points is true"),
    Topic("~/modality_mask", DIAGNOSTICS, OUTPUT_QOS, 5, "which inputs the set used and why not the others: see below",
          "every set that reaches the network's stage, ones of too few modalities and errors included; what is "
          "replaced, late, reset or closed before is counted in /diagnostics alone"),
    Topic("~/label_info", LABEL_INFO, LATCHED_QOS, 1, "names of the label ids", "once, at activation",
          "vision_msgs"),
    Topic("/diagnostics", DIAGNOSTICS, OUTPUT_QOS, 10, "health of node and inputs: see below",
          "once a second while active"),
)

SERVICES = {
    "~/change_state, ~/get_state, ~/get_available_states, ~/get_available_transitions, ~/get_transition_graph":
        "the lifecycle (lifecycle_msgs): configure loads the network, activate subscribes, deactivate stops, cleanup "
        "frees the network. With `autostart` (default) the node does the first two itself",
    "~/describe_parameters, ~/get_parameters, ~/get_parameter_types, ~/list_parameters, ~/set_parameters, "
    "~/set_parameters_atomically":
        "the parameters (rcl_interfaces): `ros2 param set` changes those marked in [parameters.md](parameters.md)",
}

STATES = {
    "OK": "a sample within tolerance was used",
    "HELD": "an older sample was used once more (`hold_sec`)",
    "LATE": "its sample came after the set had gone",
    "MISSING": "no sample within tolerance",
    "STALE": "nothing for `missing_after` periods; no set waits for it any more",
    "INVALID": "the sample cannot be used; `reason` says why (encoding, size, no camera_info, no transform, empty ...)",
    "DISABLED": "switched off by the configuration, or unknown to the network",
}

MASK_VALUES = {
    "t_ref": "stamp of the set, ns", "epoch": "grows by one when time jumps back",
    "deadline_hit": "whether the set went without waiting any longer", "dropped": "why there is no output, if so",
    "extrapolated_ns": "how far the vehicle's pose was guessed beyond the newest odometry or tf",
    "<input>": "1 if the network used the input, else 0", "<stage>_ms": "milliseconds of each stage of this set: wait, "
    "queue, preprocess, inference, postprocess, publish, stamp_to_publish",
}
MASK_INPUT_VALUES = {
    "stamp": "of the sample, less `clock_offset_sec`, ns", "stamp_delta": "stamp - offset - t_ref, ns",
    "age": "of a held sample, ns",
    "coverage": "share of the event window that was received, 0 to 1", "reason": "why the sample is INVALID",
    "frozen": "true when the payload is the one before's, bit by bit",
    "points, no_return, points_in_image, deskewed": "LiDAR, radar: returns, points without one, returns in the image, "
    "whether moved point by point",
    "intensity_clipped": "LiDAR: share of intensities above `intensity_max`, when it is more than half",
    "valid_fraction": "depth: share of pixels with a distance",
    "camera_height_m, ground_known": "depth as HHA: height over the ground, and whether it was measured",
    "events, on, off, outside, lost_packets": "events in the window, and where there are any: those outside of the "
    "camera's image, packets lost on the way",
}
SUMMARY_VALUES = {
    "model_id": "of the network", "epoch": "see above", "tick_source": "input that opens the sets now",
    "fps_out": "outputs per second", "ticks": "sets opened", "outputs": "sets published",
    "dropped.<reason>": "sets without output: ticks = outputs + all of these + those in work",
    "warnings.<reason>": "what went wrong without costing a set",
    "latency_ms.<stage>.<quantile>": "p50, p95 and p99 of the last 300 sets",
    "state.<input>": "its state in the newest set",
}
TOPIC_VALUES = {
    "topic": "resolved name", "publishers": "number of them", "received": "messages", "lost": "messages that never "
    "came: by the middleware's sequence numbers where it has them, else by gaps", "fps_in": "the topic's own rate",
    "active": "whether sets wait for it", "period_ns": "as the collector measures it",
    "queued, queued_bytes, newest_ns": "samples kept, and the newest stamp", "rate_hz": "1 / period",
    "accepted, used, late, unused, evicted, duplicate": "samples by what became of them",
    "zero, inverted, future, back, straggler": "samples that were not taken, by what their stamps are",
}
LEVELS = {
    "OK": "all inputs are active",
    "WARN": "running degraded: an input is missing, messages are lost, a payload repeats",
    "ERROR": "no reference, fewer than min_modalities inputs, a network that hangs, outputs that cannot be published, "
    "or a publisher with other QoS or type",
    "STALE": "no input at all",
}


def topics_page(config: Config) -> str:
    rows = [(f"`{one.name}`", one.type, f"{one.qos}, depth {one.depth}",
             one.content + (f" (where {one.needs} is importable)" if one.needs else "")) for one in subscribed(config)]
    outputs = [(f"`{one.name}`", one.type, f"{one.qos}, depth {one.depth}", one.content,
                one.when + (f"; where {one.needs} is importable" if one.needs else "")) for one in PUBLISHED]
    return "\n".join([
        "# Topics", "", GENERATED, "",
        "Names without `/` are relative: a namespace moves them, and they can be remapped or named by the parameters "
        "`<input>.topic`, `<input>.info_topic` and `odometry_topic`. `~` is the node, `/mss_perception`.", "",
        "## Subscribed, while active", "", *table(("topic", "type", "QoS", "content and frame"), rows), "",
        "These are the inputs by default; the parameter `inputs` names others, which are subscribed alike. "
        "An input with `enabled: false` is not subscribed. `<input>.message_type` chooses among the types that its "
        "modality can be read from; of a type other than the default the message package must be installed:", "",
        *table(("modality", "type", "content"), [(modality, kind, text) for modality, kinds in ACCEPTED.items()
                                                 for kind, text in kinds.items()]), "",
        "A publisher of another type is an ERROR in /diagnostics that names it and the parameter. A bag says the types "
        "of its topics itself. QoS of each can be changed by the parameters "
        "`qos_overrides.<topic>.subscription.*`; best effort matches publishers of either reliability. What is sent "
        "once, before the node is there (a camera_info, by some drivers), needs `reliability: reliable` and "
        "`durability: transient_local`.", "",
        "## Published", "",
        *table(("topic", "type", "QoS", "content", "when"), outputs), "",
        "With several `target_cameras` each view has topics of its own: `~/<view>/segmentation`, "
        "`~/<view>/modality_mask` and so on, a view being named after its input; only ~/label_info and /diagnostics "
        "are of all. A set is then accounted for once for each view: outputs + drops by reason = ticks x views.", "",
        "Two cameras with a node each: start it in two namespaces (`namespace:=left` of the launch files), which move "
        "the sensors' topics and the outputs of each.", "",
        "The stamp of each output is the reference time of its set, so outputs of one set join by equal stamps: the "
        "stamp of the sample that opened it, less its input's `clock_offset_sec` and `offset_sec`. Where the camera "
        "opens the sets and both are 0, as by default, that is the image's own stamp; else an output is earlier than "
        "its image by the two, and right for look-ups in tf. The frame is the target camera's optical frame, as far as "
        "that is known. /diagnostics and ~/label_info are stamped with the node's clock.",
        "", "## ~/modality_mask", "",
        "The first status is the set's (`modality_mask`); its message is the mask, such as `rgb+lidar`. Its values:",
        "", *table(("value", "meaning"), code_first(MASK_VALUES)), "",
        "Then one status per input (`modality_mask/<input>`), its message is the state:", "",
        *table(("state", "meaning"), code_first(STATES)), "",
        "Its values, as far as they are known:", "", *table(("value", "meaning"), code_first(MASK_INPUT_VALUES)), "",
        "## /diagnostics", "",
        "`mss_perception: segmentation` sums up. Its level:", "", *table(("level", "meaning"), code_first(LEVELS)), "",
        "Its values:", "", *table(("value", "meaning"), code_first(SUMMARY_VALUES)), "",
        "One more status per subscription (`mss_perception: lidar`, `mss_perception: rgb/info` ...). The namespace "
        "stands before all of these names: `left/mss_perception: rgb`. That of a camera_info, odometry or tf says "
        "when nobody publishes it, which is a WARN where a camera has no intrinsics at all. The values of an input are "
        "those of its queue as well:", "", *table(("value", "meaning"), code_first(TOPIC_VALUES)), "",
        "## Services", "", *table(("services", "what for"), code_first(SERVICES)), "",
    ])


def parameters_page(config: Config) -> str:
    flat = list(config.parameters())
    general = [(f"`{name}`", kind(value), shown(value), allowed(one), during(one), one.metadata["description"])
               for name, value, one in flat if "." not in name]
    flat = list(Config.of_inputs(DEFAULTS).parameters())
    fields = {(one.name, one.metadata["description"]): one for name, _, one in flat if "." in name}
    per_input = []
    for (last, text), one in fields.items():
        values = {name.partition(".")[0]: value for name, value, other in flat
                  if "." in name and (other.name, other.metadata["description"]) == (last, text)}
        texts = {owner: shown(value) for owner, value in values.items()}
        alike = len(set(texts.values())) == 1 and len(texts) == len(DEFAULTS)      # else by input
        default = next(iter(texts.values())) if alike else ", ".join(f"{owner} {value}" for owner, value
                                                                     in texts.items())
        choices = "see [topics.md](topics.md)" if text == TYPE_TEXT else allowed(one)
        per_input.append((f"`<input>.{last}`", kind(next(iter(values.values()))), default, choices, during(one), text))
    head = ("parameter", "type", "default", "range", "changes while active", "meaning")
    node = [("`autostart`", "bool", "`true`", "", "no", "Configure and activate at start"),
            ("`use_sim_time`", "bool", "`false`", "", "no", "Take time from /clock"),
            ("`qos_overrides.<topic>.subscription.*`", "", "", "", "no", "QoS of a subscription: reliability, depth, "
             "durability, history")]
    return "\n".join([
        "# Parameters", "", GENERATED, "",
        "The node reads them from a ROS 2 parameter file, and replay and check (`--config`) from the same file. Wrong "
        "values end the node at its start, all of them named; a double may be written as an integer. `ros2 param "
        "describe /mss_perception NAME` says the same as this page. `python -m mss_perception.check BAG --write "
        "config.yaml` writes a file to start from.", "",
        "## Of the node", "", *table(head, general), "",
        "## Of each input", "", "`<input>` is one of the names in `inputs`. What stands before the first underscore of "
        f"a name is its modality, one of {', '.join(DEFAULTS)}, whose defaults it has; where defaults are named by "
        "modality, one that is not named has no such parameter. Topics have a default only where the name is that of "
        "the modality: `lidar_rear` must be given one. A parameter of an input not in `inputs` is an error; where any "
        "node is given it (`/**`, or `-p` on a command line), one of a longer name (`lidar_rear.topic`) may be another "
        "node's, and is told and ignored.", "",
        *table(head, per_input), "",
        "## Of the ROS 2 node alone", "", *table(head, node), "",
    ])


def kind(value) -> str:
    return "string[]" if isinstance(value, list) else {"str": "string", "float": "double"}.get(
        type(value).__name__, type(value).__name__)


def shown(value) -> str:
    """A default as one writes it in YAML."""
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def allowed(declaration) -> str:
    low, high, choices = (declaration.metadata[key] for key in ("low", "high", "choices"))
    if choices:
        return ", ".join(f"`{one}`" for one in choices)
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"at least {low:g}" if low is not None else f"at most {high:g}" if high is not None else ""


def during(declaration) -> str:
    return "yes" if declaration.metadata["runtime"] else "no"


def code_first(values: dict[str, str]) -> Iterable[tuple[str, str]]:
    return [(", ".join(f"`{one}`" for one in name.split(", ")), text) for name, text in values.items()]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table as lines."""
    return [f"| {' | '.join(map(cell, row))} |" for row in (head, ["---"] * len(head), *rows)]


def cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {"topics.md": topics_page, "parameters.md": parameters_page}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.reference", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write topics.md and parameters.md")
    folder = parser.parse_args(argv).folder
    try:
        for name, page in PAGES.items():
            (folder / name).write_text(page(Config()), encoding="utf-8")
    except OSError as error:
        print(f"reference: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
