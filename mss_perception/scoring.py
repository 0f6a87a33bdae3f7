"""What a run is judged by: the mask that each fault must give, mIoU over all and per mask, latency percentiles.

Replay and the live demo build the same `metrics.json` from the same records. A record is one line of frames.jsonl: a
dict with at least t_ref (ns), dropped (a reason or None), mask {input: bool} and latency_ms {stage: ms}, and where the
truth is known `confusion`, the non-zero counts [target, prediction, pixels].
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mss_models.labels import LabelSet
from mss_models.metrics import Confusion
from mss_perception.config import Config
from mss_perception.faults import SECOND, Fault


def mask_name(mask: Mapping[str, bool]) -> str:
    """'rgb+lidar' for the present inputs, 'none' for none."""
    return "+".join(name for name, used in mask.items() if used) or "none"


class ExpectedMasks:
    """The mask that spec/synchroniser.md asks for at any reference time, from the faults and the recorded stamps.

    A dropped, corrupt or wrongly stamped input is 0, one delayed beyond the deadline is 0, noise and a frozen payload
    are 1; without a fault an input is 1 when one of its samples lies within its tolerance of the reference time. It
    knows the recording and the schedule only, nothing of what the collector did.

    start_ns: zero of the fault times. stamps: input -> stamps (ns) of the messages before any fault, in any order.
    """

    def __init__(self, faults: Sequence[Fault], config: Config, start_ns: int, stamps: Mapping[str, Iterable[int]]):
        self.config = config
        self.start_ns = start_ns
        self.faults = [fault for fault in faults if fault.role in config.inputs]
        self.stamps = {name: sorted(stamps.get(name, ())) for name, one in config.inputs.items() if one.enabled}
        self.periods = {name: self._period(name) for name in self.stamps}

    def __call__(self, t_ref_ns: int) -> dict[str, bool] | None:
        """Input -> expected mask; None while some input is in transition.

        Transition is: up to one period after a fault's start, up to recover_after + 1 periods after its end, and as
        long before either as the input's tolerance lets a sample of the other side be the match. An input whose very
        first sample comes when no set waits for it any more is in transition like one after a fault. One that is
        there from the start is judged from the start; a stream, whose window must fill, from one period on.
        """
        if any(self._in_transition(name, t_ref_ns) for name in self.stamps):
            return None
        return {name: name in self.stamps and self._present(name, t_ref_ns) for name in self.config.inputs}

    def _present(self, name: str, t_ref_ns: int) -> bool:
        t_sec = (t_ref_ns - self.start_ns) / SECOND
        if any(fault.role == name and fault.active(t_sec) and self._removes(fault) for fault in self.faults):
            return False
        return self._recorded(name, t_ref_ns)

    def _removes(self, fault: Fault) -> bool:
        if fault.kind == "delay":
            return fault.amount > self.config.collector.deadline_sec
        if fault.kind == "stamp":
            return abs(fault.amount) > self.config.inputs[fault.role].tolerance_sec
        return fault.kind in ("drop", "corrupt")

    def _recorded(self, name: str, t_ref_ns: int) -> bool:
        one, stamps = self.config.inputs[name], self.stamps[name]
        centre = t_ref_ns + round(one.offset_sec * SECOND)
        after = round(one.tolerance_sec * SECOND)
        before = round(max(one.tolerance_sec, one.hold_sec) * SECOND)
        return bisect.bisect_left(stamps, centre - before) < bisect.bisect_right(stamps, centre + after)

    def _in_transition(self, name: str, t_ref_ns: int) -> bool:
        t_sec = (t_ref_ns - self.start_ns) / SECOND
        one, period = self.config.inputs[name], self.periods[name]
        margin = one.tolerance_sec + abs(one.offset_sec)
        recovery = (one.recover_after + 1) * period
        starts = [fault.start_sec for fault in self.faults if fault.role == name]
        ends = [fault.end_sec for fault in self.faults if fault.role == name]
        if self.stamps[name]:
            begin = (self.stamps[name][0] - self.start_ns) / SECOND
            if self._comes_late(name):
                ends.append(begin)
            elif name == "event":
                starts.append(begin)
        return (any(start - margin <= t_sec <= start + period for start in starts)
                or any(end - margin <= t_sec <= end + recovery for end in ends))

    def _comes_late(self, name: str) -> bool:
        """Whether missing_after sets may have gone without the input before its very first sample."""
        first = min(stamps[0] for stamps in self.stamps.values() if stamps)
        awaited_sec = (self.config.inputs[name].missing_after - 1) / self.config.collector.tick_rate_hz
        return self.stamps[name][0] - first > awaited_sec * SECOND

    def _period(self, name: str) -> float:
        """The input's own period in seconds; a stream's packets are short, it is asked for once per tick."""
        steps = np.diff(self.stamps[name])
        own = float(np.median(steps)) / SECOND if len(steps) else 0.0
        return max(own, 1 / self.config.collector.tick_rate_hz) if name == "event" else own


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95 and p99, or None of nothing."""
    if not len(values):
        return None
    return {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 95, 99)}


def latencies(records: Iterable[Mapping]) -> dict[str, dict[str, float]]:
    """Stage -> percentiles in milliseconds over the records that have it."""
    stages: dict[str, list[float]] = {}
    for record in records:
        for stage, value in record["latency_ms"].items():
            if value is not None:
                stages.setdefault(stage, []).append(value)
    return {stage: percentiles(values) for stage, values in stages.items()}


def counts(truth: np.ndarray, labels: np.ndarray, label_set: LabelSet) -> list[list[int]]:
    """Confusion of one frame as its non-zero [target, prediction, pixels]."""
    confusion = Confusion(len(label_set), label_set.ignore_id)
    confusion.update(truth, labels)
    return [[int(t), int(p), int(confusion.hist[t, p])] for t, p in np.argwhere(confusion.hist)]


def confusion_of(records: Iterable[Mapping], label_set: LabelSet) -> Confusion:
    """The sum of the records' confusions; those without one are skipped."""
    total = Confusion(len(label_set), label_set.ignore_id)
    for record in records:
        for target, prediction, pixels in record.get("confusion") or ():
            total.hist[target, prediction] += pixels
    return total


def miou(confusion: Confusion) -> float | None:
    """Mean IoU in 0..1 over the classes that occur; None when no pixel was judged."""
    return round(confusion.miou_present, 6) if confusion.pixels else None


def build_metrics(records: Sequence[Mapping], *, ticks: int, dropped: Mapping[str, int],
                  messages: Mapping[str, Mapping[str, int]], expected: ExpectedMasks | None,
                  label_set: LabelSet) -> dict:
    """The content of metrics.json. `records`: every frame in order, dropped ones included.

    All of it but latency_ms is the same in two replays of one bag. mIoU is over the classes that occur.
    """
    outputs = [record for record in records if not record.get("dropped")]
    frames = [{"t_ref": one["t_ref"], "mask": dict(one["mask"]),
               "expected": expected(one["t_ref"]) if expected else None} for one in outputs]
    by_mask: dict[str, list] = {}
    for record in outputs:
        by_mask.setdefault(mask_name(record["mask"]), []).append(record)
    by_mask = dict(sorted(by_mask.items(), key=lambda item: (-item[0].count("+"), item[0])))
    overall = confusion_of(outputs, label_set)
    iou = overall.iou()
    return {
        "ticks": ticks,
        "outputs": len(outputs),
        "dropped": dict(Counter(dropped)),
        "messages": {topic: dict(one) for topic, one in messages.items()},
        "mask_checked": sum(frame["expected"] is not None for frame in frames),
        "mask_wrong": sum(frame["expected"] not in (None, frame["mask"]) for frame in frames),
        "miou": miou(overall),
        "miou_by_mask": {name: miou(confusion_of(group, label_set)) for name, group in by_mask.items()},
        "frames_by_mask": {name: len(group) for name, group in by_mask.items()},
        "iou_by_class": {label_set.names[k]: round(float(iou[k]), 6) for k in np.flatnonzero(~np.isnan(iou))},
        "confusion": [[int(t), int(p), int(overall.hist[t, p])] for t, p in np.argwhere(overall.hist)],
        "latency_ms": latencies(outputs),
        "frames": frames,
    }
