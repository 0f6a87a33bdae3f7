"""What a run is judged by: the mask that each fault must give, mIoU over all and per mask, latency percentiles.

Replay and the live demo build the same `metrics.json` from the same records. A record is one line of frames.jsonl: a
dict with at least t_ref (ns), dropped (a reason or None), mask {input: bool} and latency_ms {stage: ms}, and where the
truth is known `confusion`, the non-zero counts [target, prediction, pixels].
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mss_models.labels import LabelSet
from mss_models.metrics import Confusion
from mss_perception.config import Config, modality_of
from mss_perception.faults import Fault
from mss_perception.units import SECOND, nanoseconds


def mask_name(mask: Mapping[str, bool]) -> str:
    """'rgb+lidar' for the present inputs, 'none' for none."""
    return "+".join(name for name, used in mask.items() if used) or "none"


class ExpectedMasks:
    """The mask that spec/synchroniser.md asks for at any reference time, from the faults and the recorded stamps.

    A dropped, corrupt or wrongly stamped input is 0, one delayed beyond the deadline is 0, noise and a frozen payload
    are 1; without a fault an input is 1 when one of its samples lies within its tolerance of the reference time. It
    knows the recording and the schedule only, nothing of what the collector did.

    Faults on what is not an input: those on odometry change no mask (without it points are not deskewed). What those on
    a camera_info, tf or tf_static do depends on what was learnt before and is not modelled: the inputs that they
    concern are left unjudged, in all frames, wherever they have a sample. Of `X/info` that is X, or every input where X
    is a target camera; of tf and tf_static every input but a single target camera.

    start_ns: zero of the fault times. stamps: input -> stamps (ns) of the messages before any fault, in any order.
    window_sec: of the event window, as the network's encoding has it.
    """

    def __init__(self, faults: Sequence[Fault], config: Config, start_ns: int, stamps: Mapping[str, Iterable[int]],
                 window_sec: float = 0.05):
        self.config, self.start_ns = config, start_ns
        self.unjudged = {name for fault in faults for name in _concerned(fault, config)}
        self.faults = [fault for fault in faults if fault.role in config.inputs and _removes(fault, config)]
        self.all_stamps = {name: sorted(stamps.get(name, ())) for name, one in config.inputs.items() if one.enabled}
        self.stamps = {name: [stamp for stamp in known if not self._removed(name, (stamp - start_ns) / SECOND)]
                       for name, known in self.all_stamps.items()}
        self.spacing = {name: float(np.median(np.diff(np.unique(known)))) if len(set(known)) > 1 else 0.0
                        for name, known in self.all_stamps.items()}
        # A stream's own period is that of its windows: one must empty until it is missed and fill until it is back.
        self.periods = {name: max(period, window_sec * SECOND) if modality_of(name) == "event" else period
                        for name, period in self.spacing.items()}
        self.transitions = {name: self._transitions(name) for name in self.stamps}

    def __call__(self, t_ref_ns: int) -> dict[str, bool | None]:
        """Input -> expected mask; None while the input is in transition, where either is right, or not judged at all.

        Where all samples near t_ref are removed by a fault, the mask is 0 from the first frame on. Where some are left,
        it may be either up to one period after the fault's start and up to recover_after + 1 periods after its end (or,
        a frame that has no sample but one after the end, that much before it). An input whose very first sample comes
        when no set waits for it any more is in transition like one after a fault. One that is there from the start is
        judged from the start; a stream, whose window must fill, from one period on.
        """
        return {name: self._expected(name, t_ref_ns) if name in self.stamps else False for name in self.config.inputs}

    def rightly_dropped(self, frame: Mapping) -> bool:
        """Whether a frame was dropped because it has too few inputs, and only then."""
        present = {modality_of(name) for name, used in frame["mask"].items() if used}
        too_few = len(present) < max(1, self.config.collector.min_modalities)
        return frame["dropped"] == ("below_min_modalities" if too_few else None)

    def _expected(self, name: str, t_ref_ns: int) -> bool | None:
        one = self.config.inputs[name]
        centre = one.stamp_of(t_ref_ns)
        tolerance = nanoseconds(one.tolerance_sec)
        if modality_of(name) == "event":
            # Stamps are where packets begin; the last before t_ref reaches to within the tolerance.
            low, high = centre - tolerance - round(self.spacing[name]), centre
        else:
            low, high = centre - max(tolerance, nanoseconds(one.hold_sec)), centre + tolerance
        stamps = self.stamps[name]
        first, behind = bisect.bisect_left(stamps, low), bisect.bisect_right(stamps, high)
        if first == behind:
            return False
        if name in self.unjudged:
            return None
        nearest = min(stamps[first:behind], key=lambda stamp: abs(stamp - centre))
        times = t_ref_ns - self.start_ns, max(t_ref_ns, nearest) - self.start_ns
        in_transition = any(begin <= time <= end for begin, end in self.transitions[name] for time in times)
        return None if in_transition else True

    def _transitions(self, name: str) -> list[tuple[float, float]]:
        """Spans of time, ns from the start, in which the input may be there or not."""
        period, recovery = self.periods[name], (self.config.inputs[name].recover_after + 1) * self.periods[name]
        spans = []
        for fault in self.faults:
            if fault.role == name:
                start, end = fault.start_sec * SECOND, fault.end_sec * SECOND
                spans += [(start, start + period), (end, end + recovery)]
        if self.all_stamps[name]:
            begin = self._first_ns(name) - self.start_ns
            if self._comes_late(name):
                spans.append((begin, begin + recovery))
            elif modality_of(name) == "event":
                spans.append((begin, begin + period))
        return spans

    def _removed(self, name: str, t_sec: float) -> bool:
        return any(fault.role == name and fault.active(t_sec) for fault in self.faults)

    def _comes_late(self, name: str) -> bool:
        """Whether missing_after sets may have gone without the input before its very first sample."""
        first = min(self._first_ns(one) for one, stamps in self.all_stamps.items() if stamps)
        awaited_sec = (self.config.inputs[name].missing_after - 1) / self.config.collector.tick_rate_hz
        return self._first_ns(name) - first > awaited_sec * SECOND

    def _first_ns(self, name: str) -> int:
        """The reference time that its first sample goes with."""
        one = self.config.inputs[name]
        return one.true_ns(self.all_stamps[name][0]) - nanoseconds(one.offset_sec)


def _concerned(fault: Fault, config: Config) -> set[str]:
    """The inputs whose masks a fault on another stream may change."""
    targets = config.target_cameras
    name, _, part = fault.role.partition("/")
    if part == "info" and fault.kind in ("drop", "delay"):      # a frozen or restamped one says the same
        return set(config.inputs) if name in targets else {name}
    if name in ("tf", "tf_static"):
        return set(config.inputs) - (set(targets) if len(targets) == 1 else set())
    return set()


def _removes(fault: Fault, config: Config) -> bool:
    """Whether the fault makes the mask 0."""
    if fault.kind == "delay":
        return fault.amount > config.collector.deadline_sec
    if fault.kind == "stamp":
        return abs(fault.amount) > config.inputs[fault.role].tolerance_sec
    return fault.kind in ("drop", "corrupt")


def judge(mask: Mapping[str, bool], expected: Mapping[str, bool | None]) -> bool | None:
    """Whether every input of the mask that can be judged is as expected; None when none can."""
    judged = [used == expected[name] for name, used in mask.items() if expected[name] is not None]
    return all(judged) if judged else None


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95 and p99, or None of nothing."""
    if not len(values):
        return None
    return {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 95, 99)}


def latencies(records: Iterable[Mapping]) -> dict[str, dict[str, float]]:
    """Stage -> percentiles in milliseconds over the records that have it."""
    stages: dict[str, list[float]] = {}
    for record in records:
        _add_latencies(stages, record["latency_ms"])
    return {stage: percentiles(values) for stage, values in stages.items()}


def _add_latencies(stages: dict[str, list[float]], latency_ms: Mapping[str, float | None]) -> None:
    for stage, value in latency_ms.items():
        if value is not None:
            stages.setdefault(stage, []).append(value)


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
    """Mean IoU in 0..1 over the classes that occur in the truth; None when no pixel was judged."""
    return round(confusion.miou_present, 6) if confusion.pixels else None


@dataclass
class Tally:
    """What adds up over the frames of a run, and over runs of networks with the same classes.

    dropped: reason -> sets. messages: topic -> {sent, received}. frames_by_mask: outputs, and confusions: the counts of
    their pixels, both by mask_name. latency_ms: stage -> the value of every output that has it.
    """

    label_set: LabelSet
    ticks: int = 0
    dropped: Counter = field(default_factory=Counter)
    messages: dict[str, Counter] = field(default_factory=dict)
    mask_checked: int = 0
    mask_wrong: int = 0
    frames_by_mask: Counter = field(default_factory=Counter)
    confusions: dict[str, Confusion] = field(default_factory=dict)
    latency_ms: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, label_set: LabelSet, metrics: Mapping, records: Iterable[Mapping]) -> Tally:
        """Of one run. metrics: its ticks, dropped, messages, mask_checked and mask_wrong; records: its frames."""
        tally = cls(label_set, metrics["ticks"], Counter(metrics["dropped"]),
                    {topic: Counter(one) for topic, one in metrics["messages"].items()},
                    metrics["mask_checked"], metrics["mask_wrong"])
        for record in records:
            if not record.get("dropped"):
                tally._add_output(record)
        return tally

    def _add_output(self, record: Mapping) -> None:
        name = mask_name(record["mask"])
        self.frames_by_mask[name] += 1
        confusion = self.confusions.setdefault(name, self._no_pixels())
        for target, prediction, pixels in record.get("confusion") or ():
            confusion.hist[target, prediction] += pixels
        _add_latencies(self.latency_ms, record["latency_ms"])

    def _no_pixels(self) -> Confusion:
        return Confusion(len(self.label_set), self.label_set.ignore_id)

    def __iadd__(self, other: Tally) -> Tally:
        """Add another run's. Raises ValueError for other classes."""
        self.ticks += other.ticks
        self.dropped.update(other.dropped)
        for topic, one in other.messages.items():
            self.messages.setdefault(topic, Counter()).update(one)
        self.mask_checked += other.mask_checked
        self.mask_wrong += other.mask_wrong
        self.frames_by_mask.update(other.frames_by_mask)
        for name, confusion in other.confusions.items():
            mine = self.confusions.setdefault(name, self._no_pixels())
            mine += confusion
        for stage, values in other.latency_ms.items():
            self.latency_ms.setdefault(stage, []).extend(values)
        return self

    def figures(self) -> dict:
        """What metrics.json says of the sums. mIoU is over the classes that occur in the truth."""
        overall = self._no_pixels()
        for confusion in self.confusions.values():
            overall += confusion
        masks = sorted(self.confusions, key=lambda name: (-name.count("+"), name))
        iou = overall.iou()
        return {
            "ticks": self.ticks,
            "outputs": self.frames_by_mask.total(),
            "dropped": dict(self.dropped),
            "messages": {topic: dict(one) for topic, one in self.messages.items()},
            "mask_checked": self.mask_checked,
            "mask_wrong": self.mask_wrong,
            "miou": miou(overall),
            "miou_by_mask": {name: miou(self.confusions[name]) for name in masks},
            "frames_by_mask": {name: self.frames_by_mask[name] for name in masks},
            "iou_by_class": {self.label_set.names[k]: round(float(iou[k]), 6) for k in np.flatnonzero(~np.isnan(iou))},
            "confusion": [[int(t), int(p), int(overall.hist[t, p])] for t, p in np.argwhere(overall.hist)],
            "latency_ms": {stage: percentiles(values) for stage, values in self.latency_ms.items()},
        }


def build_metrics(records: Sequence[Mapping], *, ticks: int, dropped: Mapping[str, int],
                  messages: Mapping[str, Mapping[str, int]], expected: ExpectedMasks | None,
                  label_set: LabelSet) -> dict:
    """The content of metrics.json. `records`: every frame in order, dropped ones included.

    frames: t_ref, mask, expected (input -> bool, or None where either is right; None when nothing is known) and dropped
    of each record. mask_checked: those with an input that can be judged; mask_wrong: those of them where one differs,
    or that were dropped for another reason than too few inputs, or not in spite of it.
    All of it but latency_ms is the same in two replays of one bag. mIoU is over the classes that occur in the truth.
    """
    frames = [{"t_ref": one["t_ref"], "mask": dict(one["mask"]), "dropped": one.get("dropped"),
               "expected": expected(one["t_ref"]) if expected else None} for one in records]
    verdicts = [judge(frame["mask"], frame["expected"]) and expected.rightly_dropped(frame) for frame in frames
                if expected]
    counted = {"ticks": ticks, "dropped": dropped, "messages": messages,
               "mask_checked": sum(verdict is not None for verdict in verdicts), "mask_wrong": verdicts.count(False)}
    return Tally.of(label_set, counted, records).figures() | {"frames": frames}
