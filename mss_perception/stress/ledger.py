"""What one input has been given in the present epoch, and what a set at any time must take of it.

A statement of the rules of matching of its own, for the oracle: it knows arrivals, nothing of what the collector did
with them. Where the rules leave room, by what was evicted when more came than `queue` or `max_bytes` hold, the answer
is marked as not sure. Times are ns, and each t is a stamp minus the input's offset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from mss_perception.config import CollectorConfig, InputConfig
from mss_perception.stress.storm import Truth
from mss_perception.units import SECOND


def ns(sec: float) -> int:
    return round(sec * SECOND)


@dataclass
class Entry:
    """One arrival. call: number of the driver's call that brought it. place, before: entries, and bytes, that the input
    was given before it. unsure: it may have been used, and may not."""

    t: int
    begin: int
    truth: Truth
    came_ns: int
    call: int
    place: int
    before: int
    used: bool = False
    unsure: bool = False


@dataclass(frozen=True)
class Expected:
    """What a set must take of an input: nothing, one sample, or all packets of a window. held: an older sample again.
    sure: whether there is no other way. coverage: of a window, 0..1."""

    entries: list[Entry] = field(default_factory=list)
    held: bool = False
    sure: bool = True
    coverage: float | None = None


class Ledger:
    """See the module's text. window_ns: of a stream, else 0."""

    def __init__(self, config: InputConfig, collector: CollectorConfig, window_ns: int = 0):
        self.config, self.window = config, window_ns
        self.offset, self.tolerance, self.hold = map(ns, (config.offset_sec, config.tolerance_sec, config.hold_sec))
        self.jump_back, self.max_future = ns(collector.jump_back_sec), ns(collector.max_future_sec)
        self.tick = ns(1 / collector.tick_rate_hz)
        self.entries: dict[int, Entry] = {}
        self.watermark: int | None = None
        self.steps: deque[int] = deque(maxlen=8)
        self.places = self.bytes = self.largest = 0     # entries and bytes so far, and of the largest entry

    @property
    def period(self) -> int:
        """The lower quartile of the last steps of the watermark."""
        return sorted(self.steps)[len(self.steps) // 4] if self.steps else self.tick

    def objection(self, truth: Truth, clock_ns: int) -> str:
        """Why a message must be refused; '' when it must not."""
        if truth.end_ns <= 0:
            return "zero"
        t = truth.end_ns - self.offset
        if t > clock_ns + self.max_future:
            return "future"
        return "back" if self.watermark is not None and t < self.watermark - self.jump_back else ""

    def accept(self, truth: Truth, came_ns: int, call: int) -> Entry:
        t, begin = truth.end_ns - self.offset, truth.begin_ns - self.offset
        gap = begin - self.watermark if self.window and self.watermark is not None else 0
        if 0 < gap <= self.config.missing_after * self.period:
            begin = self.watermark                  # it counts as covered
        known = self.entries.get(t)
        if known is None:
            entry = Entry(t, begin, truth, came_ns, call, self.places, self.bytes)
        else:                                       # the second of one time takes the first one's place
            gone = self.may_be_gone(known)
            entry = Entry(t, begin, truth, came_ns, call, known.place, known.before, known.used,
                          known.unsure or known.used and gone)
        self.places += known is None or gone
        self.entries[t] = entry
        self.bytes += truth.nbytes
        self.largest = max(self.largest, truth.nbytes)
        if self.watermark is None or t > self.watermark:
            if self.watermark is not None:
                self.steps.append(t - self.watermark)
            self.watermark = t
        return entry

    def may_be_gone(self, entry: Entry) -> bool:
        """Whether so much has come since that it may have been evicted."""
        return (self.places - 1 - entry.place >= self.config.queue
                or self.bytes - entry.before > self.config.max_bytes)

    def reached(self, t_ref: int) -> Entry | None:
        """The first arrival of this time or a later one that is still to be had."""
        return min((one for one in self.entries.values() if one.t >= t_ref and (self.window or not one.used)),
                   key=lambda one: one.call, default=None)

    def expected(self, t_ref: int, complete: bool = True) -> Expected:
        """What a set at t_ref takes, if it is emitted now. complete: nothing that it could take has been discarded."""
        if self.window:
            packets, coverage = self.in_window(t_ref)
            covered = self.watermark is not None and self.watermark >= t_ref - self.tolerance and 2 * coverage >= 1
            return Expected(packets if covered else [], sure=complete and not any(map(self.may_be_gone, packets)),
                            coverage=coverage)
        near = sorted((one for one in self.entries.values()
                       if abs(one.t - t_ref) <= self.tolerance and (one.unsure or not one.used)),
                      key=lambda one: (abs(one.t - t_ref), one.t))
        best, sure = self._first(near)
        if best is None and self.hold:
            older = sorted((one for one in self.entries.values() if 0 <= t_ref - one.t <= self.hold),
                           key=lambda one: -one.t)
            best, still = self._first(older)
            return Expected([best] if best else [], held=best is not None, sure=complete and sure and still)
        return Expected([best] if best else [], sure=complete and sure)

    def _first(self, entries: Iterable[Entry]) -> tuple[Entry | None, bool]:
        """The first of these that is certainly there, and whether it is the first of all."""
        sure = True
        for one in entries:
            if not (one.unsure or self.may_be_gone(one)):
                return one, sure
            sure = False
        return None, sure

    def in_window(self, t_ref: int) -> tuple[list[Entry], float]:
        """The packets that overlap the window before t_ref by their begin, and the share of it that they cover."""
        start = t_ref - self.window
        packets = sorted((one for one in self.entries.values() if one.t > start and one.begin < t_ref),
                         key=lambda one: (one.begin, one.t))
        gaps, at = 0, start
        for one in packets:
            gaps += max(0, one.begin - at)
            at = max(at, one.t)
        gaps += max(0, t_ref - at)
        return packets, 1 - gaps / self.window

    def emitted(self, t_ref: int, stamp_ns: int | None) -> None:
        """A set at t_ref has taken the sample of this stamp (None: none): what is too old for the next goes."""
        if stamp_ns is not None and (entry := self.entries.get(stamp_ns - self.offset)) is not None:
            entry.used, entry.unsure = True, False
        too_old = t_ref - (self.window or max(self.tolerance, self.hold))
        for t in [t for t in self.entries if t < too_old]:
            del self.entries[t]
