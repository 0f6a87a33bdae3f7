"""What must hold in a calm that has settled: the promises about what works and what is dead.

- Nothing waits for what is silent or late: a set goes when each input that works has shown a sample as new as the set.
- What works is waited for; so it is back recover_after + 1 of its periods after an outage.
- What is silent is called STALE.
- Sets come without gaps while a source works.
- An epoch ends soon after all stamps have gone back, and never while those of an input go on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from mss_perception.config import Config
from mss_perception.stress.ledger import Entry, Expected, Ledger, ns
from mss_perception.stress.rig import Sensor
from mss_perception.stress.storm import GOOD, LATE, LONGEST_DELAY_NS, SILENT, WILD, Storm, Truth
from mss_perception.stress.verdict import Verdict


class Promises:
    """Fed by the judge, in the order of the driver's calls. forced: how many sets went because too many were open."""

    def __init__(self, storm: Storm, config: Config, verdict: Verdict):
        self.storm, self.config, self.hold = storm, config, verdict.hold
        self.sensors: Mapping[str, Sensor] = storm.rig.sensors
        self.tick = ns(1 / config.collector.tick_rate_hz)
        self.sources = [name for name in config.collector.tick_source if name in self.sensors]
        self.forced = self.tau = self.call = self.deadline = 0
        self.loops = deque(phase.begin_ns for phase in storm.phases if phase.jump == "loop" and all(
            one.state == GOOD for one in phase.weather.values()))

    def begin_epoch(self, ledgers: Mapping[str, Ledger]) -> None:
        self.ledgers = ledgers
        self.sets = 0
        self.calm_since: int | None = None                      # tau of the first arrival in a settled calm
        self.newest: int | None = None                          # tau of the last set
        self.last: tuple[int, int] | None = None                # of it: tau, and since when its source works
        self.vain: Counter = Counter()                          # sets in a row in which a new sample did not match
        self.fresh: set[str] = set()                            # inputs with a new sample since the last set
        self.missed = {name: deque(maxlen=16) for name in ledgers}      # t_ref of sets without the input
        # Of sets of a calm that went without an input that works: t_ref, until when it could have waited, `forced`
        # then, and since when the input works.
        self.awaited = {name: deque(maxlen=16) for name in ledgers}

    # what is known of now --------------------------------------------------------------------------------------------

    def calm(self, tau: int) -> dict[str, str] | None:
        """The state of each input, when all of them have settled in it."""
        states = {name: self._settled(name, tau) for name in self.sensors}
        return states if all(states.values()) else None

    def _settled(self, name: str, tau: int) -> str:
        state, since, before = self.storm.state(name, tau)
        if state == WILD:
            return ""
        one, sensor, window = self.config.inputs[name], self.sensors[name], self.ledgers[name].window
        if before == WILD:
            needed = self.storm.settle_ns
        elif state == GOOD:
            needed = (one.recover_after + 1) * sensor.period_ns + sensor.lag_ns[1] + window
        else:
            needed = (one.missing_after + 1) * sensor.period_ns + sensor.lag_ns[1] + 2 * self.tick + self.deadline
            needed += window + (LONGEST_DELAY_NS if state == LATE else 0)
        return state if tau >= since + needed else ""

    def _leader(self, states: Mapping[str, str]) -> str | None:
        """The source that must be in charge; None when there is none, or one that is late may be."""
        first = next((name for name in self.sources if states[name] != SILENT), None)
        if first is None or states[first] != GOOD:
            return None
        others = [name for name in self.sources if states[name] == GOOD]
        return first if all(self._punctual(first, other) for other in others) else None

    def _punctual(self, name: str, other: str) -> bool:
        """Whether what one sensor gives is always timely as measured by another."""
        return self.sensors[name].lag_ns[1] - self.sensors[other].lag_ns[0] <= self.deadline

    def _longest_gap(self, leader: str) -> int:
        """Between two sets: a tick may come `margin` early, and the next one a sample too late."""
        sensor = self.sensors[leader]
        return self.tick + sensor.period_ns + min(sensor.period_ns // 2, self.tick // 4) + 2 * sensor.jitter_ns

    # what happens ----------------------------------------------------------------------------------------------------

    def advances(self, tau: int, call: int, deadline: int) -> None:
        self.tau, self.call, self.deadline = tau, call, deadline
        if self.loops and tau > self.loops[0] + self._loop_takes():
            self.hold("an epoch ends when all stamps have gone back", False, "since", self.loops.popleft())

    def _loop_takes(self) -> int:
        """Until each input has given two samples from before, also one whose last ones are late."""
        return LONGEST_DELAY_NS + max(3 * one.period_ns + one.lag_ns[1] for one in self.sensors.values())

    def epoch_ends(self) -> None:
        """By a message, not by the driver."""
        going_on = [name for name in self.sensors if self._settled(name, self.tau) == GOOD
                    and self.storm.state(name, self.tau)[2] != LATE]        # whose last ones come after newer ones
        self.hold("an epoch does not end while an input goes on", not going_on, going_on)
        if self.loops and self.loops[0] <= self.tau:
            self.loops.popleft()
            self.hold("an epoch ends when all stamps have gone back", True)

    def came(self, name: str, truth: Truth) -> None:
        """A sample has arrived, whether it is accepted or not."""
        if name in self.sources:
            self._check_gap(name)
        ledger = self.ledgers[name]
        t = truth.end_ns - ledger.offset
        for t_ref, until, forced, since in self.awaited[name]:
            in_time = self.tau < until and forced == self.forced and self.storm.state(name, self.tau)[1] == since
            fits = t >= t_ref if ledger.window else abs(t - t_ref) <= ledger.tolerance
            if in_time and fits:
                self.hold("what works is waited for", False, name, "at", t_ref, "whose sample is", t)
        if self.awaited[name] and self.tau > self.awaited[name][-1][1]:
            self.awaited[name].clear()

    def _check_gap(self, name: str) -> None:
        """Whether sets come at all."""
        states = self.calm(self.tau)
        if states is None:
            self.calm_since = None
        elif (leader := self._leader(states)) == name:
            self.calm_since = self.tau if self.calm_since is None else self.calm_since
            silent_for = self.tau - max(self.calm_since, self.newest or 0)
            longest = self._longest_gap(name) + self.deadline + self.sensors[leader].lag_ns[1]
            self.hold("sets come without gaps", silent_for <= longest, "none for", silent_for, "led by", leader)

    def accepted(self, name: str, entry: Entry) -> None:
        self.fresh.add(name)
        ledger = self.ledgers[name]
        measured = entry.t - (self.storm.ros_ns(self.tau) - self.tau)
        if self.vain[name] and self.storm.state(name, measured)[0] == GOOD and any(
                entry.t >= tick - ledger.tolerance if ledger.window else abs(entry.t - tick) <= ledger.tolerance
                for tick in self.missed[name]):
            self.vain[name] = 0

    def set_comes(self, t_ref: int, expected: Mapping[str, Expected], states: Mapping[str, str], waited: bool) -> None:
        """A set with the states of its inputs, INVALID taken for OK. waited: whether it was open before this call."""
        at = t_ref - (self.storm.ros_ns(self.tau) - self.tau)
        before, now = self.calm(at), self.calm(self.tau)
        known = self.sets > max(self.config.inputs[name].missing_after for name in self.ledgers)
        if known and before is not None and before == now and (leader := self._leader(now)):
            since = self.storm.state(leader, at)[1]
            if self.last is not None and self.last[1] == since:
                gap = at - self.last[0]
                self.hold("sets come without gaps", gap <= self._longest_gap(leader), gap, "led by", leader)
            self._check_set(t_ref, expected, states, now, leader, waited)
            self.last = at, since
        else:
            self.last = None
        self.sets += 1
        self.newest = at
        for name, state in states.items():
            if state == "OK":
                self.vain[name] = 0
            else:
                self.vain[name] += name in self.fresh
                self.missed[name].append(t_ref)
        self.fresh.clear()

    def _check_set(self, t_ref: int, expected: Mapping[str, Expected], states: Mapping[str, str],
                   calm: Mapping[str, str], leader: str, waited: bool) -> None:
        working = [name for name in calm if calm[name] == GOOD]
        opened = self._opened(t_ref, leader)
        if opened is not None:
            needed = [self.ledgers[name].reached(t_ref) for name in working]
            for_nothing = waited and all(one is not None and one.call < self.call for one in needed)
            self.hold("nothing waits for what is dead", not for_nothing, calm, "at", t_ref)
        for name, state in states.items():
            if calm[name] == SILENT:
                self.hold("what is silent is STALE", state in ("STALE", "HELD"), name, state, "at", t_ref)
            elif calm[name] == GOOD and state == "OK":
                self.hold("what works is waited for", True)
            elif calm[name] == GOOD and opened is not None and self._must_wait(name, leader) and expected[name].sure:
                self.awaited[name].append((t_ref, opened.came_ns + self.deadline, self.forced,
                                           self.storm.state(name, self.tau)[1]))

    def _opened(self, t_ref: int, leader: str) -> Entry | None:
        """The arrival of the leader that opened a set; None when it was not the leader's."""
        ledger = self.ledgers[leader]
        return ledger.reached(t_ref) if ledger.window else ledger.entries.get(t_ref)

    def _must_wait(self, name: str, leader: str) -> bool:
        """Whether a set must wait for the input: when it is always punctual, and not in vain."""
        return self._punctual(name, leader) and self.vain[name] < self.config.inputs[name].missing_after
