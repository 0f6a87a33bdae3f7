"""The collector: aligns sensor streams in time, says which of them are there, and waits for none that is dead.

Pure Python, no ROS, no clock of its own: the node and the bag replay drive the same class. All times are integer
nanoseconds. The rules below are the definition; tests/collector_oracle.py states them a second time.

**Clocks.** A sample's reference time is t = stamp - offset; every rule about stamps uses t. Stamps come here less their
driver's clock_offset_sec. `now` is any steady clock (live), or the receive time in the bag (replay); it only ever meets
other values of `now`. The one comparison of a stamp with a clock is max_future_sec, against the `clock_ns` that the
driver passes (ROS time; in replay the receive time; None before the first /clock, then nothing is rejected as future).

**Acceptance.** A sample is rejected, counted, and has no other effect when its stamp is zero (`zero`), a packet ends
before it begins (`inverted`), t > clock + max_future (`future`), t < watermark - jump_back (`back`), or when it is left
over from before a reset (`straggler`): more than jump_back newer than everything of the present epoch, within jump_back
of the arrival of its first sample. The watermark of an input is the greatest t that it has had accepted.

**Period** of an input: the lower quartile (element n // 4 of the sorted values) of the last 8 steps of its watermark;
1 / tick_rate_hz before there is one. Lost samples only lengthen steps, so the quartile survives a sensor that drops
half of them. `slack` = period // 4 is the jitter that is allowed for.

**Timely.** A sample is timely when a set opened at its time would still wait for it: when it is newer than T, or
now - opened(T) + T - t <= deadline. T is the newest tick or, where that is newer, the watermark of the source in charge
(see Ticks), opened(T) then the arrival of that sample: what is late is so between two ticks, too. A wrong stamp in the
past and a delayed sample are the same thing here.

**Active** means that sets wait for the input. At first each is. It is inactive while it is silent or in vain:
Silent from the emission of a set in which it is not OK while its misses in its own periods, (t_ref - newest timely t +
slack) // period, reach `missing_after`; before its first timely sample the sets of the epoch count instead, so that an
input that is absent from the start costs `missing_after` deadlines at most. That ends with the `recover_after`th timely
sample in a row, each at most 1.5 periods after the last, with which the input is confirmed until it is silent again.
In vain while the sets since its last match (OK in a set, or a timely sample that would have matched) number
`missing_after` or more: its offset is wrong, or its phase beyond its tolerance. Only sets count that had a timely
sample, newer than those before, since the set before: being silent is not in vain.
A sample would have matched that comes within tolerance of one of the last 16 emitted ticks that went without the input;
a stream's packet, when by it the window before such a tick comes to be what OK asks.

**Ticks.** An input is overdue when now >= arrival of its last timely sample + period + max(slack, tolerance), and alive
when confirmed and not overdue. Only the first alive input of tick_source, the source in charge, opens sets; when none
is alive each of them may, in that order. So the next source takes over a fraction of a period after the first falls
silent, with the samples it has meanwhile received, and hands back when the first is confirmed again. The first tick of
an epoch is left to the first input of tick_source alone for a tick period (a deadline, if that is shorter) from the
arrival of the first sample of any of them. A sample becomes a tick, t_ref = t, when t >= due - min(its period // 2,
tick period // 4), and it is unused and arrived at most a deadline ago. Then due moves on by one tick period, or to t +
tick period when the tick came later than due by more than that margin. Thus sets open at most at tick_rate_hz on
average, never closer than half a tick period, and jitter loses none. A stream opens a set at due once its watermark is
there (the newest such instant of the same phase; no burst after a gap) if the window before it is covered as OK asks.
A timely sample of a source in charge that is older than the newest tick, and a tick period less margin away from each
of the last 64 ticks, the oldest of which it must follow, is a tick out of order: it takes its place among the open
sets, except that one older than the last emitted set counts as drop `late` (late_policy drop) or is emitted all the
same (publish).

**Match.** A set takes from each input the unused sample nearest to t_ref, |t - t_ref| <= tolerance; of two equally
near the older one. Matching happens when the set is emitted, in the order of t_ref, and a sample serves one set.
Failing that, with hold > 0, the newest sample with 0 <= t_ref - t <= hold, used or not, is HELD.
A stream (event camera) is matched as a window [t_ref - window, t_ref]: it is OK when its watermark has reached t_ref -
tolerance and packets cover at least half of the window; a gap up to missing_after periods (as known when the packet
behind it comes) counts as covered. The payload of the match is the tuple of the payloads of the packets that overlap
the window.

**Emission.** The oldest open set is emitted as soon as each active input is settled for it: nothing still to come,
i.e. nothing before watermark + period - slack, could match better than what is there (a stream: its watermark has
reached t_ref). One that has given nothing is not settled, and one whose watermark has made no step yet may go on right
behind it. Otherwise at its deadline, `deadline_sec` after the arrival of the sample that opened it, or at a later set's
that ends before; or when more than max_pending sets are open (`forced`); or at the end of the bag, when the first tick
is left to nobody either. A deadline comes before a sample of the same instant. Every tick gives one set or one counted
drop (`late`, `reset`); t_ref grows within an epoch (but for publish).

**State** of an input in a set: OK, HELD; else LATE when since the last set a sample of it came late (not timely, or it
would have matched), STALE when inactive, MISSING otherwise; DISABLED by configuration. The pipeline turns OK into
INVALID by `InputState.invalidate`. Late samples are counted and never back-filled.

**Memory.** A second sample with the same t replaces the first (`duplicate`) unless that was used up. Of an input are
kept at most `queue` samples, not counting those that the open sets would take if they were emitted now (of a stream
there are no such), and at most max_bytes; the oldest arrival goes first (`evicted`). Emission discards what is older
than t_ref - max(tolerance, hold), or than the window (`unused` if it never served).

**Epochs.** `back` samples reset the collector once one input has given two in a row and every other input is back too,
silent for missing_after periods, or more than jump_back behind the watermark of that one. A bag that loops does that
within a period or two; one sensor whose clock falls behind never does while another lives. One that was alone ahead,
where max_future did not refuse it, does when it comes back: it would be shut out, or shut out the others by the sets
that it opened, until they are there, too. A reset drops the open sets, forgets all of the above and starts the next
epoch.

**Limits.** Time alone cannot tell: a stamp wrong by less than max_future or the tolerance; a lone sensor that is late
or has a wrong clock, as it is its own reference. The deadline must exceed the differences in latency between sensors,
the queue of a stream its packets of a window and a deadline, and the tolerance half the period of a sensor that is not
triggered together with the tick source.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mss_perception.config import CollectorConfig, InputConfig
from mss_perception.inputs import Counts, Input, InputState, Sample, State, Stream
from mss_perception.units import nanoseconds

log = logging.getLogger(__name__)

REMEMBERED_TICKS = 64


@dataclass
class SensorSet:
    """One tick with what each input had for it. opened_ns and emitted_ns are values of `now`."""

    epoch: int
    seq: int
    t_ref_ns: int
    tick_source: str
    opened_ns: int
    emitted_ns: int
    deadline_hit: bool
    inputs: dict[str, InputState]


class OpenSet:
    __slots__ = ("deadline", "opened", "source", "t_ref")

    def __init__(self, t_ref: int, opened: int, deadline: int, source: str):
        self.t_ref, self.opened, self.deadline, self.source = t_ref, opened, deadline, source


class Collector:
    """Feed samples in the order of their arrival, call `poll` at `next_deadline()`, and receive SensorSets.

    Not thread-safe: one thread drives it, or its caller locks. `on_set` and `on_reset` run on that thread between
    complete steps, so they may call back; their exceptions are logged and counted as `callee_errors`.

    inputs: enabled and disabled alike; config: as declared in mss_perception/config.py. windows: input -> window length
    (ns) of the inputs that are streams. on_reset(reason): a new epoch begins; whoever keeps a state flushes it.

    counters: ticks = emitted + sum(dropped.values()) + open sets; dropped: by reason; input_counters[name]: received,
    accepted, used, late, unused, evicted, duplicate, and rejected as zero, inverted, future, back, straggler.
    """

    def __init__(self, inputs: Sequence[InputConfig], config: CollectorConfig, on_set: Callable[[SensorSet], None],
                 windows: Mapping[str, int] | None = None, on_reset: Callable[[str], None] | None = None):
        self.config = config
        self.on_set = on_set
        self.on_reset = on_reset
        self.windows = dict(windows or {})
        self.configs = {one.name: one for one in inputs}
        enabled = [one.name for one in inputs if one.enabled]
        unknown = set(self.windows) - set(self.configs)
        if unknown:
            raise ValueError(f"windows names {sorted(unknown)}, which are no inputs; inputs: {list(self.configs)}")
        if any(window <= 0 for window in self.windows.values()):
            raise ValueError(f"windows = {self.windows}: each must be longer than 0 ns")
        self._source_names = [name for name in config.tick_source if name in enabled]
        if not self._source_names:
            raise ValueError(f"tick_source {config.tick_source} has no enabled input; enabled: {enabled}")
        self._tick_period = nanoseconds(1 / config.tick_rate_hz)
        self._jump_back = nanoseconds(config.jump_back_sec)
        self._max_future = nanoseconds(config.max_future_sec)
        self.counters = Counts()
        self.dropped: Counter = Counter()
        self.input_counters = {name: Counts() for name in enabled}
        self.epoch = 0
        self._outbox: deque[SensorSet] = deque()
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._inputs = {}
        for name, counters in self.input_counters.items():
            arguments = self.configs[name], self._tick_period, counters
            self._inputs[name] = (Stream(*arguments, self.windows[name]) if name in self.windows else Input(*arguments))
        self._asked = list(self._inputs.values())               # whether they are settled, in this order
        self._sources = [self._inputs[name] for name in self._source_names]
        self._pending: list[OpenSet] = []                       # in order of t_ref
        self._due: int | None = None                            # when the next tick is expected, on the axis of t
        self._first_choice_until: int | None = None             # until then only the first source opens the first set
        self._newest: OpenSet | None = None                     # the newest tick
        self._ticks: deque[int] = deque(maxlen=REMEMBERED_TICKS)
        self._emitted: int | None = None                        # t_ref of the newest emitted set
        self._wake: int | None = None
        self._began: int | None = None                          # arrival of the epoch's first sample
        self._front: int | None = None                          # the newest t of any

    # what drivers call -----------------------------------------------------------------------------------------------

    def add(self, name: str, stamp_ns: int, payload: Any, now_ns: int, nbytes: int = 0,
            clock_ns: int | None = None) -> bool:
        """A sample has arrived. Returns whether it was accepted. Raises ValueError for a name that is no input."""
        return self._receive(name, Sample(stamp_ns, stamp_ns, payload, nbytes, now_ns), clock_ns)

    def add_stream(self, name: str, begin_ns: int, end_ns: int, payload: Any, now_ns: int, nbytes: int = 0,
                   clock_ns: int | None = None) -> bool:
        """A packet that covers the stamps [begin, end] has arrived, with or without anything in it."""
        return self._receive(name, Sample(begin_ns, end_ns, payload, nbytes, now_ns), clock_ns)

    def poll(self, now_ns: int) -> None:
        """Time has passed. A driver calls this at `next_deadline()`; more often does no harm."""
        self._step(now_ns)
        self._deliver()

    def advance(self, now_ns: int) -> None:
        """Poll at each deadline up to now in turn, as an ideal timer would: what replay calls before each message."""
        while self._wake is not None and self._wake <= now_ns:
            self.poll(self._wake)

    def next_deadline(self) -> int | None:
        """The value of `now` at which something happens though nothing arrives; None: never."""
        return self._wake

    def flush(self, now_ns: int) -> None:
        """The end of a bag: nothing more is waited for; emit every open set with what there is."""
        self._first_choice_until = now_ns
        self._step(now_ns)
        while self._pending:
            self._emit(self._pending.pop(0), now_ns, deadline_hit=False)
        self._wake = None
        self._deliver()

    def reset(self, reason: str) -> None:
        """Drop the open sets, forget everything but the counters, and start the next epoch."""
        self._deliver()
        self.epoch += 1
        self.counters["resets"] += 1
        if self._pending:
            self.dropped["reset"] += len(self._pending)
        self._start_epoch()
        log.warning("time starts anew (epoch %d): %s", self.epoch, reason)
        if self.on_reset is not None:
            self._call(self.on_reset, reason)

    def silent(self, now_ns: int) -> set[str]:
        """The inputs of which nothing timely has come for missing_after periods and a deadline.

        Inactivity is a matter of sets; this shows also when all have died, so that there are no more sets.
        """
        return {name for name, one in self._inputs.items() if one.silent(now_ns - self._deadline())}

    def status(self) -> dict:
        """A snapshot for diagnostics; times in ns, `tick_source` is the input of the newest tick, `rejected` are the
        samples since the last accepted one, by reason."""
        return {
            "epoch": self.epoch, "pending": len(self._pending), **self.counters, "dropped": dict(self.dropped),
            "tick_source": self._newest.source if self._newest else None,
            "inputs": {name: {"active": one.active, "rejected": dict(one.rejected),
                              "period_ns": one.period if one.steps else None,
                              "newest_ns": None if one.watermark is None else one.watermark + one.offset,
                              "queued": len(one.samples), "queued_bytes": one.bytes, **one.counters}
                       for name, one in self._inputs.items()},
        }

    # the rules -------------------------------------------------------------------------------------------------------

    def _receive(self, name: str, sample: Sample, clock: int | None) -> bool:
        one = self._inputs.get(name)
        if one is None:
            if name in self.configs:
                return False                                    # disabled
            raise ValueError(f"{name!r} is no input; inputs: {', '.join(self.configs)}")
        now = sample.arrival
        if self._wake is not None and now >= self._wake:
            self._step(now)                                     # a deadline comes before a sample of the same instant
        one.counters["received"] += 1
        objection = self._objection(one, sample, clock, now)
        if objection == "back":
            one.back += 1
            if self._jumped_back(now):
                self.reset(f"the stamps of all living inputs went back, {name} by "
                           f"{(one.watermark + one.offset - sample.t) / 1e9:.3f} s")
                one, objection = self._inputs[name], None
        if objection is not None:
            one.counters[objection] += 1
            one.rejected[objection] += 1
        else:
            sample.begin, sample.t = sample.begin - one.offset, sample.t - one.offset
            if self._front is None:
                self._began = now
            if self._front is None or sample.t > self._front:
                self._front = sample.t
            timely = self._timely(sample.t, now)
            one.accept(sample, timely, self._pending)
            if self._first_choice_until is None and one in self._sources:
                self._first_choice_until = now + min(self._tick_period, self._deadline())
            if timely and self._newest is not None and sample.t < self._newest.t_ref:
                self._open_out_of_order(one, sample.t, now)
            self._step(now)
        self._deliver()
        return objection is None

    def _objection(self, one: Input, sample: Sample, clock: int | None, now: int) -> str | None:
        if sample.t <= 0:
            return "zero"
        if sample.begin > sample.t:
            return "inverted"
        t = sample.t - one.offset
        if clock is not None and t > clock + self._max_future:
            return "future"
        if one.watermark is not None and t < one.watermark - self._jump_back:
            return "back"
        if self.epoch and self._front is not None and t > self._front + self._jump_back and (
                now - self._began <= self._jump_back):
            return "straggler"
        return None

    def _jumped_back(self, now: int) -> bool:
        everybody = self._inputs.values()
        return any(all(other.back or other.silent(now) or other.watermark < one.watermark - self._jump_back
                       for other in everybody) for one in everybody if one.back >= 2)

    def _timely(self, t: int, now: int) -> bool:
        newest, leader = self._newest, self._leader(now)
        latest, came = (newest.t_ref, newest.opened) if newest else (None, None)
        if leader is not None and leader.watermark is not None and (latest is None or leader.watermark > latest):
            latest, came = leader.watermark, leader.marked
        return latest is None or t > latest or now - came + latest - t <= self._deadline()

    def _deadline(self) -> int:
        return nanoseconds(self.config.deadline_sec)            # may change while running; open sets keep theirs

    def _starting(self, now: int) -> bool:
        """Whether the first set of the epoch is still left to the first source."""
        return self._due is None and self._first_choice_until is not None and now < self._first_choice_until

    def _leader(self, now: int) -> Input | None:
        """The source in charge, the only one that may open sets; None: each may."""
        if self._due is None and self._starting(now):
            return self._sources[0]
        for source in self._sources:
            if source.confirmed and now < source.overdue_at():
                return source
        return None

    def _step(self, now: int) -> None:
        """All that follows from the present state: open sets, emit those that are done, find the next deadline."""
        happened = True
        while happened:                         # each tick and each emission can make way for another
            happened = False
            leader = self._leader(now)
            for source in self._sources if leader is None else (leader,):
                if source.has_tick(self._due):
                    happened |= self._open_ticks(source, now)
            if self._pending:
                happened |= self._emit_settled(now)
        wakes = [one.deadline for one in self._pending]
        for source in self._sources if leader is not None else ():
            if source is not leader and source.has_tick(self._due):     # it counts, should the leader fail
                wakes.append(self._first_choice_until if self._starting(now) else leader.overdue_at())
                break
        self._wake = min(wakes) if wakes else None

    def _emit_settled(self, now: int) -> bool:
        emitted = False
        while self._pending:
            t_ref = self._pending[0].t_ref
            settled = self._settled(t_ref)
            if not settled and now < min([one.deadline for one in self._pending]):
                break
            self._emit(self._pending.pop(0), now, deadline_hit=not settled)
            emitted = True
        return emitted

    def _settled(self, t_ref: int) -> bool:
        for one in self._asked:
            if not one.settled(t_ref) and one.active:
                self._asked.remove(one)         # it is asked first the next time, and most likely again the answer
                self._asked.insert(0, one)
                return False
        return True

    def _open_ticks(self, source: Input, now: int) -> bool:
        opened = False
        for t, arrival in source.ticks(self._due):
            if (self._due is not None and t < self._due - source.margin) or now - arrival > self._deadline():
                continue
            on_time = self._due is not None and t <= self._due + source.margin
            self._due = (self._due if on_time else t) + self._tick_period
            self._open(source, t, arrival, now)
            opened = True
        return opened

    def _open_out_of_order(self, source: Input, t: int, now: int) -> None:
        if source not in self._sources or isinstance(source, Stream) or self._leader(now) not in (source, None) or \
                t < min(self._ticks):
            return
        apart = self._tick_period - source.margin
        if any(abs(t - tick) < apart for tick in self._ticks):
            return
        if self._emitted is not None and t < self._emitted and self.config.late_policy == "drop":
            self.counters["ticks"] += 1
            self.dropped["late"] += 1
            self._ticks.append(t)
        else:
            self._open(source, t, now, now)

    def _open(self, source: Input, t_ref: int, opened: int, now: int) -> None:
        self.counters["ticks"] += 1
        self._ticks.append(t_ref)
        new = OpenSet(t_ref, opened, opened + self._deadline(), source.name)
        if self._newest is None or t_ref > self._newest.t_ref:
            self._newest = new
        self._pending.append(new)
        if len(self._pending) > 1:
            self._pending.sort(key=lambda one: one.t_ref)
        if len(self._pending) > self.config.max_pending:
            self.counters["forced"] += 1
            self._emit(self._pending.pop(0), now, deadline_hit=False)

    def _emit(self, done: OpenSet, now: int, deadline_hit: bool) -> None:
        states = {name: self._inputs[name].serve(done.t_ref) if name in self._inputs else InputState(State.DISABLED)
                  for name in self.configs}
        self._outbox.append(SensorSet(self.epoch, self.counters["emitted"], done.t_ref, done.source, done.opened, now,
                                      deadline_hit, states))
        self._emitted = done.t_ref if self._emitted is None else max(self._emitted, done.t_ref)
        self.counters["emitted"] += 1
        self.counters["deadline_hits"] += deadline_hit

    def _deliver(self) -> None:
        while self._outbox:
            self._call(self.on_set, self._outbox.popleft())

    def _call(self, callee: Callable, argument: Any) -> None:
        try:
            callee(argument)
        except Exception:                                       # whatever the callee does, the collector goes on
            self.counters["callee_errors"] += 1
            log.exception("exception in %s", getattr(callee, "__qualname__", callee))
