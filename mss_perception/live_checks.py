"""What a live run must show. Each check returns why it does not hold; empty when it does.

The demo and the soak run share them. `metrics` are as of scoring.build_metrics, records as of live.Recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mss_perception import live
from mss_perception.units import SECOND

ENOUGH_OUTPUTS = 0.9        # of the ticks; the rest may be replaced by newer sets while the machine is busy
MOST = 0.8                  # of the outputs must come from the sets that a replay of the bag gives
LATE_MS = 30.0              # that a deadline may be met late, on a busy machine
LONGEST_GAP = 2.5           # ticks between two sets: one may be replaced, and each may come a quarter off its time
LOST = 0.01                 # of the messages of a topic


def sets_accounted(metrics: Mapping) -> str:
    dropped = sum(metrics["dropped"].values())
    return "" if metrics["outputs"] + dropped == metrics["ticks"] else \
        f"{metrics['outputs']} outputs + {dropped} drops are not {metrics['ticks']} ticks"


def enough_outputs(metrics: Mapping) -> str:
    return "" if metrics["ticks"] and metrics["outputs"] >= ENOUGH_OUTPUTS * metrics["ticks"] else \
        f"{metrics['outputs']} of {metrics['ticks']} ticks; dropped: {metrics['dropped']}"


def masks_right(metrics: Mapping) -> str:
    if not metrics["mask_checked"]:
        return "no mask could be checked"
    return f"{metrics['mask_wrong']} of {metrics['mask_checked']} wrong" if metrics["mask_wrong"] else ""


def losses_counted(metrics: Mapping) -> str:
    """Every message that was sent was received, or counted as lost."""
    wrong = {topic: one for topic, one in metrics["messages"].items()
             if one["sent"] != one["received"] + one["counted_lost"]}
    return f"{wrong}" if wrong else ""


def few_losses(metrics: Mapping) -> str:
    wrong = {topic: one for topic, one in metrics["messages"].items() if one["counted_lost"] > LOST * one["sent"]}
    return f"{wrong}" if wrong else ""


def deadline_kept(waits_ms: Iterable[float], deadline_sec: float) -> str:
    slowest = max(waits_ms)
    return "" if slowest <= 1e3 * deadline_sec + LATE_MS else f"{slowest:.0f} ms"


def ended_on_sigint(node: Mapping) -> str:
    """node: what live.run returned."""
    return "" if node["status"] == 0 and node["shutdown_sec"] <= live.SHUTDOWN_SEC else \
        f"status {node['status']} after {node['shutdown_sec']} s"


def labels_complete(recording: live.Recording, outputs: int) -> str:
    """A label image for each output, by the node's count and by its masks."""
    told = [record["t_ref"] for record in recording.records if not record["dropped"]]
    without = sum(t_ref not in recording.labels for t_ref in told)
    return "" if not without and len(told) == len(recording.labels) == outputs else \
        f"{len(recording.labels)} label images and {len(told)} masks of {outputs} outputs, {without} without labels"


def no_gap(t_refs: Sequence[int], first_ns: int, last_ns: int, tick_sec: float) -> str:
    """From first_ns to last_ns, while a sensor lives, no two sets are more than two ticks apart."""
    times = sorted([first_ns, *(t_ref for t_ref in t_refs if first_ns <= t_ref <= last_ns), last_ns])
    longest, begin = max((after - before, before) for before, after in zip(times, times[1:], strict=False))
    return "" if longest <= LONGEST_GAP * tick_sec * SECOND else \
        f"{longest / SECOND:.2f} s from {(begin - first_ns) / SECOND:.2f} s on"


def died_and_returned(records: Iterable[Mapping], inputs: Iterable[str]) -> str:
    """Each of the inputs is in the mask, then not, then again."""
    masks = [record["mask"] for record in sorted(records, key=lambda one: one["t_ref"])]
    courses = {name: "".join("01"[mask[name]] for mask in masks) for name in inputs}
    wrong = {name: course for name, course in courses.items() if "0" not in course.strip("0")}
    return f"{wrong}" if wrong else ""


def some_alone(records: Iterable[Mapping]) -> str:
    """There is output with a single sensor."""
    return "" if any(sum(one["mask"].values()) == 1 for one in records if not one["dropped"]) else "none"


def same_as_replay(comparison: Mapping) -> str:
    """comparison: {outputs, same_sets, identical, replay_dropped}."""
    if comparison["replay_dropped"]:
        return f"the replay dropped {comparison['replay_dropped']}"
    if comparison["same_sets"] < MOST * comparison["outputs"]:
        return f"only {comparison['same_sets']} of {comparison['outputs']} outputs have the set of the replay"
    return "" if comparison["identical"] == comparison["same_sets"] else \
        f"{comparison['same_sets'] - comparison['identical']} of {comparison['same_sets']} equal sets have other labels"
