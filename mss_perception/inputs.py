"""One input of the collector: its queue, its rhythm, whether sets wait for it, and what it gives to a set.

The rules are defined in collector.py; times are integer nanoseconds, and every `t` is a stamp minus the input's offset.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mss_perception.config import InputConfig
from mss_perception.units import nanoseconds

REMEMBERED_STEPS = 8
REMEMBERED_MISSES = 16
ENOUGH_COVERAGE = 0.5       # of a stream's window


class State(enum.Enum):
    OK = "OK"
    HELD = "HELD"
    LATE = "LATE"
    MISSING = "MISSING"
    STALE = "STALE"
    INVALID = "INVALID"
    DISABLED = "DISABLED"


OK, HELD, LATE, MISSING, STALE = State.OK, State.HELD, State.LATE, State.MISSING, State.STALE    # fast to look up


@dataclass(slots=True)
class InputState:
    """What one set got from one input. delta_ns = stamp - offset - t_ref; age_ns only when HELD; coverage in 0..1 only
    for streams, whose stamp is where the data of the window ends: less than 1 is a partial window."""

    state: State
    stamp_ns: int | None = None
    delta_ns: int | None = None
    age_ns: int | None = None
    payload: Any = None
    coverage: float | None = None
    reason: str = ""

    @property
    def present(self) -> bool:
        return self.state is OK or self.state is HELD

    def invalidate(self, reason: str) -> None:
        """The sample is there but cannot be used (wrong encoding, no TF, ...): state INVALID, payload released."""
        self.state, self.reason, self.payload = State.INVALID, reason, None


class Counts(dict):
    """How often, by name; 0 for what has not been. A Counter takes three times as long to add one."""

    def __missing__(self, name: str) -> int:
        return 0


class Sample:
    """A queued sample, or a packet covering [begin, t]."""

    __slots__ = ("arrival", "begin", "nbytes", "payload", "t", "used")

    def __init__(self, begin: int, t: int, payload: Any, nbytes: int, arrival: int):
        self.begin, self.t, self.payload, self.nbytes, self.arrival = begin, t, payload, nbytes, arrival
        self.used = False


class Input:
    """One enabled input during one epoch: its queue, its rhythm, and whether sets wait for it."""

    def __init__(self, config: InputConfig, tick_period: int, counters: Counts):
        self.name = config.name
        self.config = config
        self.counters = counters
        self.offset, self.tolerance, self.hold = (
            nanoseconds(sec) for sec in (config.offset_sec, config.tolerance_sec, config.hold_sec))
        self.keep = max(self.tolerance, self.hold)      # how far behind t_ref a sample can still be of use
        self.reusable = self.hold > 0                   # a sample may serve more than one set
        self.samples: dict[int, Sample] = {}            # by t, in order of arrival
        self.bytes = 0
        self.watermark: int | None = None
        self.marked: int | None = None                  # arrival of the sample that brought it there
        self.steps: deque[int] = deque(maxlen=REMEMBERED_STEPS)
        self.tick_period = tick_period
        self._set_period(tick_period)
        self.given_up = False                           # nothing timely for missing_after periods
        self.confirmed = False                          # it has shown a rhythm, so that it may lead
        self.hits = 0                                   # timely samples in a row
        self.timely_t: int | None = None                # the newest of them
        self.heard: int | None = None                   # and when it came
        self.back = 0                                   # samples in a row from before a backward jump
        self.rejected = Counts()                        # by reason, since the last accepted sample
        self.came_late = False                          # since the last emission
        self.missed: deque[int] = deque(maxlen=REMEMBERED_MISSES)   # emitted ticks that went without this input
        self.sets_before_first = 0                      # sets of the epoch before the first timely sample
        self.fresh = False                              # a newer timely sample has come since the last emission
        self.sets_in_vain = 0                           # since the last match, of those that had one

    def _set_period(self, period: int) -> None:
        self.period = period
        self.slack = period // 4                        # jitter that is allowed for
        self.patience = period + max(self.slack, self.tolerance)
        self.margin = min(period // 2, self.tick_period // 4)   # how much before its due time a tick may come

    @property
    def active(self) -> bool:
        """Whether sets wait for it."""
        return not (self.given_up or self.sets_in_vain >= self.config.missing_after)

    def overdue_at(self) -> int:
        return self.heard + self.patience

    def silent(self, now: int) -> bool:
        return self.heard is None or now - self.heard > self.config.missing_after * self.period + self.slack

    def accept(self, sample: Sample, timely: bool, open_sets: Sequence) -> None:
        """Queue a sample and learn from it: watermark, period, lateness, activity. open_sets: the collector's."""
        t = sample.t
        self.counters["accepted"] += 1
        self.back = 0
        self.rejected.clear()
        without = self.without(sample) if self.missed else ()
        self.store(sample)
        self.evict(open_sets)
        would_have_matched = bool(without) and self.would_have_matched(sample, without)
        if self.watermark is None or t > self.watermark:
            if self.watermark is not None:
                self.steps.append(t - self.watermark)
                period = sorted(self.steps)[len(self.steps) // 4]
                if period != self.period:
                    self._set_period(period)
            self.watermark, self.marked = t, sample.arrival
        if would_have_matched or not timely:
            self.came_late = True
            self.counters["late"] += 1
        if timely:
            self.heard = sample.arrival
            if self.timely_t is None or t > self.timely_t:      # a straggler says nothing about the sensor's health
                self._learn_rhythm(t)
            if would_have_matched:
                self.sets_in_vain = 0

    def _learn_rhythm(self, t: int) -> None:
        in_a_row = self.timely_t is not None and t - self.timely_t <= self.period * 3 // 2
        self.hits = self.hits + 1 if in_a_row else 1
        self.timely_t, self.fresh = t, True
        if self.hits >= self.config.recover_after:
            self.confirmed, self.given_up = True, False

    def without(self, sample: Sample) -> Sequence[int]:
        """The emitted ticks that went without this input and that this sample, not stored yet, may have been for."""
        return self.missed

    def would_have_matched(self, sample: Sample, without: Sequence[int]) -> bool:
        """Whether one of these ticks would have taken this sample."""
        earliest, latest = sample.t - self.tolerance, sample.t + self.tolerance
        for tick in without:  # noqa: SIM110 (here and below: any() and all() cost more than what they ask)
            if earliest <= tick <= latest:
                return True
        return False

    def store(self, sample: Sample) -> None:
        known = self.samples.get(sample.t)
        if known is not None:
            self.counters["duplicate"] += 1
            self.bytes -= known.nbytes
            sample.used = known.used
        self.samples[sample.t] = sample                 # keeps a duplicate's place in the order of arrival
        self.bytes += sample.nbytes
        if sample.used and not self.reusable:
            self.release(sample)

    def evict(self, open_sets: Sequence) -> None:
        """Keep memory bounded; what open sets would take now is in the queue's way for a deadline at most."""
        if len(self.samples) > self.config.queue:
            wanted = self.wanted(open_sets)
            spare = [t for t in self.samples if t not in wanted]
            for t in spare[:max(0, len(spare) - self.config.queue)]:
                self.discard(t, "evicted")
        while self.bytes > self.config.max_bytes and len(self.samples) > 1:
            self.discard(next(iter(self.samples)), "evicted")

    def wanted(self, open_sets: Sequence) -> set[int]:
        """The t of the samples that the open sets would take if they were emitted now."""
        return {sample.t for one in open_sets if (sample := self.nearest(one.t_ref)) is not None}

    def release(self, sample: Sample) -> None:
        """Let go of a payload that nobody can ask for again; the entry stays, to recognise a duplicate."""
        self.bytes -= sample.nbytes
        sample.payload, sample.nbytes = None, 0

    def discard(self, t: int, reason: str) -> None:
        sample = self.samples.pop(t)
        self.bytes -= sample.nbytes
        if not sample.used:
            self.counters[reason] += 1

    def has_tick(self, due: int | None) -> bool:
        return self.watermark is not None and (due is None or self.watermark >= due - self.margin)

    def ticks(self, due: int | None) -> Iterable[tuple[int, int]]:
        """(t, arrival) of what could open a set, oldest first."""
        return sorted([(one.t, one.arrival) for one in self.samples.values() if not one.used])

    def nearest(self, t_ref: int) -> Sample | None:
        best, best_distance = None, self.tolerance
        for sample in self.samples.values():
            distance = abs(sample.t - t_ref)
            if not sample.used and (distance < best_distance or distance == best_distance
                                    and (best is None or sample.t < best.t)):
                best, best_distance = sample, distance
        return best

    def settled(self, t_ref: int) -> bool:
        """Nothing still to come can match better than what is there."""
        if self.watermark is None:
            return False
        step = self.period - self.slack if self.steps else 0    # at least; one sample shows no rhythm yet
        ahead = self.watermark + step - t_ref                   # of the tick is what comes next
        if not 0 <= ahead <= self.tolerance:
            return ahead > 0
        best = self.nearest(t_ref)
        return best is not None and abs(best.t - t_ref) <= ahead

    def match(self, t_ref: int) -> InputState:
        """OK or HELD with the sample, which is thereby used; else MISSING."""
        sample = self.nearest(t_ref)
        state = OK
        if sample is None and self.hold:
            older = (one for one in self.samples.values() if 0 <= t_ref - one.t <= self.hold)
            sample = max(older, key=lambda one: one.t, default=None)
            state = HELD
        if sample is None:
            return InputState(MISSING)
        age = t_ref - sample.t if state is HELD else None
        result = InputState(state, sample.t + self.offset, sample.t - t_ref, age, sample.payload)
        sample.used = True
        if not self.reusable:
            self.release(sample)
        return result

    def serve(self, t_ref: int) -> InputState:
        """What the set being emitted gets, with all that this emission means for the input."""
        result = self.match(t_ref)
        if result.state is OK:
            self.counters["used"] += 1
            matched = result.stamp_ns - self.offset
            self.timely_t = matched if self.timely_t is None else max(self.timely_t, matched)
            self.sets_in_vain = 0
        else:
            self.missed.append(t_ref)
            self.sets_in_vain += self.fresh
            self.sets_before_first += self.timely_t is None
            silence = self.sets_before_first if self.timely_t is None else (
                (t_ref - self.timely_t + self.slack) // self.period)
            if silence >= self.config.missing_after:
                self.given_up, self.confirmed = True, False
        if result.state is MISSING:
            result.state = LATE if self.came_late else MISSING if self.active else STALE
        self.came_late = self.fresh = False
        useless = t_ref - self.keep
        for t in tuple(self.samples):
            if t < useless:
                self.discard(t, "unused")
        return result


class Stream(Input):
    """An input that comes as packets over time and is matched as a window that ends at t_ref."""

    def __init__(self, config: InputConfig, tick_period: int, counters: Counts, window: int):
        super().__init__(config, tick_period, counters)
        self.window = self.keep = window
        self.reusable = True                            # windows may overlap

    def store(self, sample: Sample) -> None:
        bridge = self.config.missing_after * self.period
        if self.watermark is not None and 0 < sample.begin - self.watermark <= bridge:
            sample.begin = self.watermark
        super().store(sample)

    def wanted(self, open_sets: Sequence) -> set[int]:
        return set()                                    # the packets of a window have no bound but the queue

    def has_tick(self, due: int | None) -> bool:
        return self.heard is not None and (due is None or self.watermark >= due)

    def ticks(self, due: int | None) -> Iterable[tuple[int, int]]:
        latest = self.watermark if due is None else self.watermark - (self.watermark - due) % self.tick_period
        _, coverage = self.window_at(latest)
        return ((latest, self.heard),) if coverage >= ENOUGH_COVERAGE else ()

    def settled(self, t_ref: int) -> bool:
        return self.watermark is not None and self.watermark >= t_ref

    def without(self, sample: Sample) -> Sequence[int]:
        known = sample.begin if self.watermark is None else min(sample.begin, self.watermark)
        return [tick for tick in self.missed if known < tick and tick - self.window < sample.t
                and not self.complete(tick, self.watermark)]

    def would_have_matched(self, sample: Sample, without: Sequence[int]) -> bool:
        """Whether this packet completes one of these windows."""
        mark = sample.t if self.watermark is None else max(sample.t, self.watermark)
        return any(self.complete(tick, mark) for tick in without)

    def complete(self, t_ref: int, watermark: int | None) -> bool:
        """Whether a set at t_ref can have its window, once the watermark is there."""
        return (watermark is not None and watermark >= t_ref - self.tolerance
                and self.window_at(t_ref)[1] >= ENOUGH_COVERAGE)

    def window_at(self, t_ref: int) -> tuple[list[Sample], float]:
        """The packets that overlap the window before t_ref, in order, and how much of it they cover, 0..1."""
        start = t_ref - self.window
        packets = [one for one in self.samples.values() if one.t > start and one.begin < t_ref]
        if len(packets) > 1:
            packets.sort(key=lambda one: (one.begin, one.t))
        covered, reached = 0, start
        for packet in packets:
            end = min(packet.t, t_ref)
            covered += max(0, end - max(packet.begin, reached))
            reached = max(reached, end)
        return packets, covered / self.window

    def match(self, t_ref: int) -> InputState:
        packets, coverage = self.window_at(t_ref)
        if self.watermark is None or self.watermark < t_ref - self.tolerance or coverage < ENOUGH_COVERAGE:
            return InputState(MISSING, coverage=coverage)
        for packet in packets:
            packet.used = True
        end = min(self.watermark, t_ref)
        return InputState(OK, end + self.offset, end - t_ref, None, tuple([one.payload for one in packets]), coverage)
