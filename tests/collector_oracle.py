"""A second statement of the collector's rules, written to be obviously right and not to be fast.

It keeps a log of what happened in the present epoch and no other state: every quantity (period, activity, queue, due
time, open sets) is worked out from the whole log, anew whenever the log has grown. Nothing is imported from the
collector.
All stamps must be multiples of a millisecond: coverage is counted in cells of one.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace as Event

MS = 1_000_000


def ns(sec):
    return int(round(sec * 1_000_000_000))


def from_log(method):
    """Remember the answer until the log grows."""
    def ask(self, name):
        if (method, name) not in self.answers:
            self.answers[method, name] = method(self, name)
        return self.answers[method, name]
    return ask


class Oracle:
    """inputs: InputConfig list; windows: stream -> ns. `sets` takes (epoch, t_ref, source, opened, now, hit, states)
    with states = {name: (state, stamp, delta, age, payload, coverage)}."""

    def __init__(self, inputs, config, windows):
        self.configs = {c.name: c for c in inputs}
        self.names = [c.name for c in inputs if c.enabled]
        self.sources = [name for name in config.tick_source if name in self.names]
        self.config, self.windows = config, windows
        self.tick_period = ns(1 / config.tick_rate_hz)
        self.log, self.answers, self.sets, self.epoch = [], {}, [], 0
        self.ticks, self.forced, self.dropped = 0, 0, Counter()
        self.counts = {name: Counter() for name in self.names}

    def note(self, **what):
        self.log.append(Event(**what))
        self.answers.clear()
        return self.log[-1]

    # what the log says

    def of(self, name, kind):
        return [e for e in self.log if e.kind == kind and e.name == name]

    @from_log
    def watermark(self, name):
        return max((e.t for e in self.of(name, "sample")), default=None)

    def steps(self, name):
        steps, high = [], None
        for e in self.of(name, "sample"):
            if high is not None and e.t > high:
                steps.append(e.t - high)
            high = e.t if high is None else max(high, e.t)
        return steps

    @from_log
    def period(self, name):
        last = sorted(self.steps(name)[-8:])
        return last[len(last) // 4] if last else self.tick_period

    @from_log
    def health(self, name):
        """waited_for, trusted (to open sets), newest (timely t), heard (arrival of the last timely sample)"""
        c, gone, trusted, row, newest, heard = self.configs[name], False, False, 0, None, None
        tries, fruitless = 0, 0                     # new timely samples since the last set; sets with some in vain
        for i, e in enumerate(self.log):
            if e.kind == "sample" and e.name == name:
                if e.timely:
                    heard = e.now
                if e.timely and (newest is None or e.t > newest):
                    row = row + 1 if newest is not None and 2 * (e.t - newest) <= 3 * e.period else 1
                    newest = e.t
                    tries += 1
                    if row >= c.recover_after:
                        gone, trusted = False, True
                if e.timely and e.missed_its_set:
                    fruitless = 0
            if e.kind == "emit":
                state, stamp = e.states[name][:2]
                if state == "OK":
                    t = stamp - ns(c.offset_sec)
                    newest = t if newest is None else max(newest, t)
                    fruitless = 0
                else:
                    fruitless += 1 if tries else 0
                    period = e.periods[name]
                    if newest is None:
                        misses = sum(before.kind == "emit" for before in self.log[:i + 1])
                    else:
                        misses = (e.t_ref - newest + period // 4) // period
                    if misses >= c.missing_after:
                        gone, trusted = True, False
                tries = 0
        return Event(waited_for=not gone and fruitless < c.missing_after, trusted=trusted, newest=newest, heard=heard)

    def silent(self, name, now):
        heard, period = self.health(name).heard, self.period(name)
        return heard is None or now > heard + self.configs[name].missing_after * period + period // 4

    def overdue_at(self, name):
        period = self.period(name)
        return self.health(name).heard + period + max(period // 4, ns(self.configs[name].tolerance_sec))

    def alive(self, name, now):
        return self.health(name).trusted and now < self.overdue_at(name)

    def from_sources(self):
        return [e for e in self.log if e.kind == "sample" and e.name in self.sources]

    def first_choice_until(self):
        first = self.from_sources()[0]
        return first.now + min(self.tick_period, first.deadline)

    def may_tick(self, now):
        """The sources whose samples may open sets now, in order."""
        return [self.in_charge(now)] if self.in_charge(now) else self.sources

    def in_charge(self, now):
        firsts = self.from_sources()
        if firsts and now < self.first_choice_until() and not any(e.kind in ("tick", "flush") for e in self.log):
            return self.sources[0]
        return next((s for s in self.sources if self.alive(s, now)), None)

    def timely(self, t, now):
        """Whether a set opened at t, at the time by the newest tick or sample of the source in charge, still waits."""
        known = [(e.t_ref, e.opened) for e in self.log if e.kind == "tick" and e.opened is not None]
        known += [(e.t, e.now) for e in self.of(self.in_charge(now), "sample")]
        if not known:
            return True
        latest = max(t for t, _ in known)
        came = next(came for t, came in known if t == latest)       # of a tick and its sample: the tick
        return t > latest or now - (came - (latest - t)) <= ns(self.config.deadline_sec)

    @from_log
    def kept_and_lost(self, name):
        """The samples kept, in order of arrival, and a Counter of what happened to the others."""
        c, lost = self.configs[name], Counter()
        reusable = name in self.windows or c.hold_sec > 0
        kept, waiting = [], []                              # waiting: t_ref of the sets that are open by then
        for e in self.log:
            if e.kind == "tick" and e.opened is not None:
                waiting.append(e.t_ref)
            if e.kind == "sample" and e.name == name:
                new = Event(t=e.t, begin=e.begin, payload=e.payload, nbytes=e.nbytes, now=e.now, used=False)
                same = [i for i, s in enumerate(kept) if s.t == e.t]
                if same:
                    lost["duplicate"] += 1
                    new.used = kept[same[0]].used
                    if new.used and not reusable:
                        new.payload, new.nbytes = None, 0
                    kept[same[0]] = new
                else:
                    kept.append(new)
                needed = [] if name in self.windows else [self.best(name, kept, t_ref) for t_ref in waiting]
                while len(free := [s for s in kept if not any(s is n for n in needed)]) > c.queue:
                    lost["evicted"] += not free[0].used
                    kept = [s for s in kept if s is not free[0]]
                while len(kept) > 1 and sum(s.nbytes for s in kept) > c.max_bytes:
                    lost["evicted"] += not kept[0].used
                    kept = kept[1:]
            if e.kind == "emit":
                waiting.remove(e.t_ref)
                for s in kept:
                    if s.t in e.taken[name]:
                        s.used = True
                        if not reusable:
                            s.payload, s.nbytes = None, 0
                far = self.windows.get(name, max(ns(c.tolerance_sec), ns(c.hold_sec)))
                lost["unused"] += sum(not s.used and s.t < e.t_ref - far for s in kept)
                kept = [s for s in kept if s.t >= e.t_ref - far]
        return kept, lost

    def queue(self, name):
        return self.kept_and_lost(name)[0]

    def open_sets(self):
        emitted = [e.t_ref for e in self.log if e.kind == "emit"]
        return sorted((e for e in self.log if e.kind == "tick" and e.opened is not None and e.t_ref not in emitted),
                      key=lambda e: e.t_ref)

    def newest_tick(self):
        return max((e for e in self.log if e.kind == "tick" and e.opened is not None), key=lambda e: e.t_ref,
                   default=None)

    def due(self):
        due = None
        for e in self.log:
            if e.kind == "tick" and e.in_order:
                due = (due if due is not None and e.t_ref <= due + e.margin else e.t_ref) + self.tick_period
        return due

    def margin(self, name):
        return min(self.period(name) // 2, self.tick_period // 4)

    def settled(self, name, t_ref):
        mark = self.watermark(name)
        if mark is None:
            return False
        if name in self.windows:
            return mark >= t_ref
        tolerance = ns(self.configs[name].tolerance_sec)
        distances = [abs(s.t - t_ref) for s in self.queue(name) if not s.used and abs(s.t - t_ref) <= tolerance]
        next_one = mark + self.period(name) - self.period(name) // 4 if self.steps(name) else mark
        if distances:
            return next_one >= t_ref + min(distances)
        return next_one > t_ref + tolerance

    # what happens

    def add(self, name, begin, end, payload, now, nbytes, clock):
        if name not in self.names:
            return False
        self.step(now)
        c, mark = self.configs[name], self.watermark(name)
        t = end - ns(c.offset_sec)
        if end <= 0:
            why = "zero"
        elif begin > end:
            why = "inverted"
        elif clock is not None and t - clock > ns(self.config.max_future_sec):
            why = "future"
        elif mark is not None and mark - t > ns(self.config.jump_back_sec):
            why = "back"
            self.note(kind="back", name=name)
            if self.all_back(now):
                why = None
                self.reset()
        elif self.is_straggler(t, now):
            why = "straggler"
        else:
            why = None
        if why:
            self.counts[name][why] += 1
            return False
        self.accept(name, begin - ns(c.offset_sec), t, payload, now, nbytes)
        self.step(now)
        return True

    def is_straggler(self, t, now):
        """Whether it was sent before the last reset, by all that is known since."""
        known, far = [e for e in self.log if e.kind == "sample"], ns(self.config.jump_back_sec)
        return self.epoch > 0 and known and now - known[0].now <= far and all(t - e.t > far for e in known)

    def all_back(self, now):
        rows = {}
        for name in self.names:
            kinds = [e.kind for e in self.log if e.kind in ("sample", "back") and e.name == name]
            rows[name] = len(kinds) - max((i + 1 for i, k in enumerate(kinds) if k == "sample"), default=0)

        return any(rows[first] >= 2 and all(rows[name] > 0 or self.silent(name, now) or self.watermark(name) + ns(
            self.config.jump_back_sec) < self.watermark(first) for name in self.names) for first in self.names)

    def accept(self, name, begin, t, payload, now, nbytes):
        c, timely, mark = self.configs[name], self.timely(t, now), self.watermark(name)
        if name in self.windows and mark is not None and mark < begin <= mark + c.missing_after * self.period(name):
            begin = mark
        without = self.went_without(name)
        event = self.note(kind="sample", name=name, begin=begin, t=t, payload=payload, nbytes=nbytes, now=now,
                          timely=timely, deadline=ns(self.config.deadline_sec))
        event.period = self.period(name)
        event.missed_its_set = self.missed_its_set(name, t, without)
        event.late = event.missed_its_set or not timely
        self.counts[name]["late"] += event.late
        if timely and name not in self.windows:
            self.tick_out_of_order(name, t, now)

    def went_without(self, name):
        """The last emitted ticks that went without the input, but those windows that are complete by now."""
        without = [e.t_ref for e in self.log if e.kind == "emit" and e.states[name][0] != "OK"][-16:]
        return [t_ref for t_ref in without if name not in self.windows or not self.complete(name, t_ref)]

    def missed_its_set(self, name, t, without):
        """Whether the sample at t that has just come is what one of these ticks went without."""
        if name in self.windows:
            return any(self.complete(name, t_ref) for t_ref in without)
        return any(abs(t - t_ref) <= ns(self.configs[name].tolerance_sec) for t_ref in without)

    def complete(self, name, t_ref):
        mark = self.watermark(name)
        return (mark is not None and mark >= t_ref - ns(self.configs[name].tolerance_sec)
                and self.seen(name, t_ref)[1] >= 0.5)

    def tick_out_of_order(self, name, t, now):
        known = [e.t_ref for e in self.log if e.kind == "tick"][-64:]
        newest = self.newest_tick()
        if not known or newest is None or t >= newest.t_ref or t < min(known) or name not in self.may_tick(now):
            return
        if min(abs(t - k) for k in known) < self.tick_period - self.margin(name):
            return
        emitted = [e.t_ref for e in self.log if e.kind == "emit"]
        if emitted and t < max(emitted) and self.config.late_policy == "drop":
            self.ticks += 1
            self.dropped["late"] += 1
            self.note(kind="tick", t_ref=t, opened=None, in_order=False)
        else:
            self.open(name, t, now, now, in_order=False)

    def open(self, name, t, opened, now, in_order):
        self.ticks += 1
        self.note(kind="tick", t_ref=t, opened=opened, source=name, in_order=in_order, margin=self.margin(name),
                  deadline=opened + ns(self.config.deadline_sec))
        if len(self.open_sets()) > self.config.max_pending:
            self.forced += 1
            self.emit(self.open_sets()[0], now, False)

    def step(self, now):
        """Until nothing more happens at this instant."""
        before = -1
        while before != len(self.log):
            before = len(self.log)
            self.step_once(now)

    def step_once(self, now):
        for name in self.may_tick(now):
            for t, arrival in self.candidates(name):
                due = self.due()
                if (due is None or t >= due - self.margin(name)) and now - arrival <= ns(self.config.deadline_sec):
                    self.open(name, t, arrival, now, in_order=True)
        while self.open_sets():
            first = self.open_sets()[0]
            waiting = [n for n in self.names if self.health(n).waited_for and not self.settled(n, first.t_ref)]
            if waiting and all(now < e.deadline for e in self.open_sets()):
                return
            self.emit(first, now, bool(waiting))

    def candidates(self, name):
        if name not in self.windows:
            return sorted((s.t, s.now) for s in self.queue(name) if not s.used)
        mark, due, heard = self.watermark(name), self.due(), self.health(name).heard
        if mark is None or heard is None or due is not None and mark < due:
            return []
        t = mark if due is None else due
        while t + self.tick_period <= mark:
            t += self.tick_period
        return [(t, heard)] if self.seen(name, t)[1] >= 0.5 else []

    def emit(self, tick, now, hit):
        states, taken = {}, {}
        for name in self.configs:
            states[name], taken[name] = self.serve(name, tick.t_ref) if name in self.names else (("DISABLED",), [])
        periods = {name: self.period(name) for name in self.names}
        self.note(kind="emit", t_ref=tick.t_ref, states=states, taken=taken, periods=periods)
        for name in self.names:                     # the name of an absence takes this very emission into account
            if states[name][0] == "MISSING" and self.came_late(name):
                states[name] = ("LATE", *states[name][1:])
            elif states[name][0] == "MISSING" and not self.health(name).waited_for:
                states[name] = ("STALE", *states[name][1:])
        self.sets.append((self.epoch, tick.t_ref, tick.source, tick.opened, now, hit, states))

    def came_late(self, name):
        before = self.log[:-1]
        since = max((i for i, e in enumerate(before) if e.kind == "emit"), default=-1)
        return any(e.kind == "sample" and e.name == name and e.late for e in before[since + 1:])

    def serve(self, name, t_ref):
        c, queue = self.configs[name], self.queue(name)
        offset = ns(c.offset_sec)
        if name in self.windows:
            return self.serve_window(name, t_ref, offset)
        if best := self.best(name, queue, t_ref):
            return ("OK", best.t + offset, best.t - t_ref, None, best.payload, None), [best.t]
        older = [s for s in queue if s.t <= t_ref and t_ref - s.t <= ns(c.hold_sec)] if c.hold_sec else []
        if older:
            best = sorted(older, key=lambda s: s.t)[-1]
            return ("HELD", best.t + offset, best.t - t_ref, t_ref - best.t, best.payload, None), [best.t]
        return ("MISSING", None, None, None, None, None), []

    def best(self, name, samples, t_ref):
        """The unused sample that a set at t_ref takes of these, or None."""
        fitting = [s for s in samples if not s.used and abs(s.t - t_ref) <= ns(self.configs[name].tolerance_sec)]
        return min(fitting, key=lambda s: (abs(s.t - t_ref), s.t)) if fitting else None

    def seen(self, name, t_ref):
        """Packets that touch the window before t_ref, and the fraction of its milliseconds that they cover."""
        start = t_ref - self.windows[name]
        packets = sorted((s for s in self.queue(name) if s.t > start and s.begin < t_ref), key=lambda s: (s.begin, s.t))
        cells = {ms for s in packets for ms in range(max(s.begin, start) // MS, min(s.t, t_ref) // MS)}
        return packets, len(cells) * MS / self.windows[name]

    def serve_window(self, name, t_ref, offset):
        mark = self.watermark(name)
        packets, coverage = self.seen(name, t_ref)
        if not self.complete(name, t_ref):
            return ("MISSING", None, None, None, None, coverage), []
        end = min(mark, t_ref)
        payload = tuple(s.payload for s in packets)
        return ("OK", end + offset, end - t_ref, None, payload, coverage), [s.t for s in packets]

    # what drivers call

    def poll(self, now):
        self.step(now)

    def advance(self, before, now):
        """Look again at each instant in (before, now] at which a deadline or somebody's patience ends."""
        while True:
            ends = [e.deadline for e in self.open_sets()]
            ends += [self.overdue_at(name) for name in self.sources if self.health(name).heard is not None]
            ends += [self.first_choice_until()] if self.from_sources() else []
            ends = [end for end in ends if before < end <= now]
            if not ends:
                return
            before = min(ends)
            self.step(before)

    def reset(self):
        self.dropped["reset"] += len(self.open_sets())
        for name in self.names:
            self.counts[name] += self.kept_and_lost(name)[1]
        self.log, self.epoch = [], self.epoch + 1
        self.answers.clear()

    def flush(self, now):
        self.note(kind="flush")
        self.step(now)
        while self.open_sets():
            self.emit(self.open_sets()[0], now, False)

    def totals(self, name):
        """Counters of one input over all epochs."""
        return self.counts[name] + self.kept_and_lost(name)[1]
