"""What goes wrong and when: a storm, all of it drawn from its seed.

A storm is a row of phases. In a tempest anything happens to every sensor; in a calm all of them work, but for those
that are silent, late or broken from its beginning to its end: an outage. Only of a calm is it known what must come of
it, beyond what holds always. Its length is what the promises need to come true, and a little more.

Two times, ns: `tau` is the steady clock of whoever receives, from 0 on; ROS time is tau + START_NS + what jumps have
added. `clock` is ROS time as the receiver knows it, which a looped bag need not take along.
"""

from __future__ import annotations

import bisect
import heapq
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from mss_perception.config import modality_of
from mss_perception.stress.damage import DAMAGES, OF_INFOS, damage_of
from mss_perception.stress.rig import EVENTS, INFO_HZ, MS, ODOMETRY_HZ, START_NS, Rig
from mss_perception.units import SECOND

GOOD, SILENT, LATE, WILD = "good", "silent", "late", "wild"
LONGEST_DELAY_NS = 600 * MS
BEFORE_IMAGE_NS = 1000          # a camera_info comes so much before its image
EVENT_BYTES = 13                # of a decoded event: x, y, t, p
LEARNT = 8                      # steps of which a sensor's period is learnt


@dataclass(frozen=True)
class Weather:
    """What happens to one sensor in a phase. Shares are 0..1 of its samples.

    state: GOOD, SILENT or LATE when nothing else does, else WILD. clock_ns: its stamps are wrong by that much; stray: a
    stamp from anywhere. info_lost, info_damaged: of its camera_info. version: of its camera. flood: so many times its
    rate. publisher: what happens to it, in a live storm: 'killed', or replaced by one of another 'qos' or 'type'.
    """

    state: str = GOOD
    dropped: float = 0.0
    delayed: float = 0.0
    delay_ns: tuple[int, int] = (0, 0)
    overtaken: float = 0.0
    repeated: float = 0.0
    stray: float = 0.0
    clock_ns: int = 0
    damaged: float = 0.0
    frozen: bool = False
    info_lost: float = 0.0
    info_damaged: float = 0.0
    version: int = 0
    flood: float = 1.0
    publisher: str = ""


@dataclass(frozen=True)
class Phase:
    """jump: what happens to time at its beginning, '' for nothing; jump_ns: by how much."""

    begin_ns: int
    end_ns: int
    weather: dict[str, Weather]
    jump: str = ""
    jump_ns: int = 0
    deadline_sec: float = 0.0


@dataclass(frozen=True, order=True)
class Sent:
    """One message on its way, or another thing that happens: role 'reset' (the clock has jumped) or 'deadline'."""

    due_ns: int
    order: int
    role: str = field(compare=False)
    stamp_ns: int = field(compare=False)
    number: int = field(compare=False, default=0)
    version: int = field(compare=False, default=0)
    damage: str = field(compare=False, default="")


@dataclass(frozen=True)
class Truth:
    """What a message is. valid: whether it can become a picture (None: either), given the right calibration. Stamps
    that it covers; size: (width, height) of its picture; frame: of a cloud; nbytes: what it keeps, at most."""

    valid: bool | None
    begin_ns: int
    end_ns: int
    size: tuple[int, int] | None
    frame: str
    nbytes: int


class Storm:
    """See the module's text. faults: how many of each kind there were in what `sent` has given so far."""

    rig_class = Rig
    walls, loops_in_calm = 0.2, True
    deadlines_sec: tuple[float, ...] = (0.05, 0.3)      # to which the deadline may be changed
    tempest_sec, spare_sec = (2, 5), (1, 3)             # how long a tempest is, and a calm after it has settled

    def __init__(self, seed: int, seconds: float, fastest: float = 10.0):
        dice = random.Random(seed)
        self.seed = seed
        self.fastest, self.rig = fastest, self.rig_class(dice, fastest)
        self.config = self.rig.config
        self.wall = dice.random() < self.walls      # the receiver's clock takes part in no jump
        self.faults: Counter = Counter()
        self._since = 0                         # before that nothing is counted
        self.settle_ns = self._settle_ns()
        self.phases = list(self._phases(dice, round(seconds * SECOND)))
        self._begins = [one.begin_ns for one in self.phases]
        self._shifts = [0]                      # of ROS time against tau, by phase
        for phase in self.phases[1:]:
            self._shifts.append(self._shifts[-1] + phase.jump_ns)
        self._runs = {name: self._runs_of(name) for name in self.rig.sensors}

    # the plan --------------------------------------------------------------------------------------------------------

    def _phases(self, dice: random.Random, length: int) -> Iterator[Phase]:
        deadline, names = self.config.collector.deadline_sec, list(self.rig.sensors)
        versions = dict.fromkeys(self.rig.cameras(), 0)

        def calm(weather: dict[str, Weather]) -> dict[str, Weather]:
            return {name: replace(weather.get(name, Weather()), version=versions.get(name, 0))
                    for name in (*names, *versions)}

        def lasting(weather: dict[str, Weather], jump: str = "", jump_ns: int = 0) -> Phase:
            end = t + self.settle_ns + round(dice.uniform(*self.spare_sec) * SECOND)
            return Phase(t, end, weather, jump, jump_ns, deadline)

        t = 0
        absent = dice.sample(names, dice.randrange(len(names))) if dice.random() < 0.5 else []
        first = lasting(calm(dict.fromkeys(absent, Weather(SILENT))))
        yield first
        t = first.end_ns
        while t < length:
            deadline = dice.choice([deadline] * 4 + [*self.deadlines_sec])
            for name in versions:
                versions[name] = dice.choice([0, 0, 0, dice.randrange(self.rig.versions)])
            kind, jump_ns = self._jump(dice)
            end = t + round(dice.uniform(*self.tempest_sec) * SECOND)
            yield Phase(t, end, self._tempest(dice, kind, versions), kind, jump_ns, deadline)
            t = end
            yield (quiet := lasting(calm({})))
            t = quiet.end_ns
            for _ in range(dice.choice([0, 1, 1, 2])):
                hit = dice.sample(names, dice.randint(1, max(1, len(names) - 1)))
                yield (outage := lasting(calm({name: self._outage(dice, deadline, name) for name in hit})))
                t = outage.end_ns
                loops = self.loops_in_calm and dice.random() < 0.2
                yield (again := lasting(calm({}), *(("loop", -60 * SECOND) if loops else ())))
                t = again.end_ns

    def _settle_ns(self) -> int:
        """By then a calm that follows on anything has settled: what was late has come, each period is learnt again,
        each sensor has recovered, or has been given up."""
        slowest = max(sensor.period_ns for sensor in self.rig.sensors.values())
        patience = max(max(one.missing_after, one.recover_after) for one in self.config.inputs.values())
        deadline = round(max([self.config.collector.deadline_sec, *self.deadlines_sec]) * SECOND)
        tick = round(SECOND / self.config.collector.tick_rate_hz)
        return LONGEST_DELAY_NS + (LEARNT + patience + 3) * max(slowest, tick) + 2 * deadline

    def _jump(self, dice: random.Random) -> tuple[str, int]:
        back = self.config.collector.jump_back_sec
        jumps = [("", 0)] * 3 + [("pause", 0), ("step", -round(dice.uniform(0.05, 0.9 * back) * SECOND)),
                                 ("loop", -round(dice.uniform(back + 1, 60) * SECOND))]
        if not self.wall:       # whose clock never jumps, and ahead of which everything is refused
            jumps += [("called", 0), ("loop called", -round(dice.uniform(back, 60) * SECOND)),
                      ("forward", round(dice.choice([0.3, 2, 3600]) * SECOND))]
        return dice.choice(jumps)

    def _outage(self, dice: random.Random, deadline_sec: float, name: str) -> Weather:
        late = round((deadline_sec + 0.15) * SECOND)
        return dice.choice([Weather(SILENT), Weather(SILENT), Weather(LATE, delay_ns=(late, late + 20 * MS)),
                            Weather(damaged=1.0), Weather(frozen=True)])

    def _tempest(self, dice: random.Random, jump: str, versions: dict[str, int]) -> dict[str, Weather]:
        everything = {}
        for name in dict.fromkeys([*self.rig.sensors, *versions]):
            weather = Weather(WILD, version=versions.get(name, 0), dropped=1.0 if jump == "pause" else 0.0)
            for change in dice.sample(self._disasters(dice), dice.choice([0, 1, 1, 2, 3])):
                weather = replace(weather, **change)
            everything[name] = weather
        return everything

    def _disasters(self, dice: random.Random) -> list[dict]:
        share, begin = dice.choice([0.05, 0.3, 0.7, 1.0]), dice.uniform(0, 0.4)
        wrong = dice.choice([-5.0, -1.5, -0.7, -0.2, -0.09, -0.02, 0.02, 0.09, 0.3] + ([] if self.wall else [5.0]))
        flood = dice.uniform(1, max(1.0, self.fastest / self.rig.factor))
        return [{"dropped": share}, {"dropped": 1.0}, {"overtaken": share}, {"repeated": share}, {"damaged": share},
                {"delayed": share, "delay_ns": (round(begin * SECOND), round((begin + 0.2) * SECOND))},
                {"flood": flood}, {"stray": share}, {"clock_ns": round(wrong * SECOND)}, {"frozen": True},
                {"info_lost": share, "info_damaged": dice.choice([0.0, 0.5, 1.0])}]

    # what is known of it ---------------------------------------------------------------------------------------------

    def phase(self, tau: int) -> Phase:
        return self.phases[max(0, bisect.bisect_right(self._begins, tau) - 1)]

    def ros_ns(self, tau: int) -> int:
        """ROS time, which sensors are stamped with."""
        return START_NS + tau + self._shifts[max(0, bisect.bisect_right(self._begins, tau) - 1)]

    def clock_ns(self, tau: int) -> int:
        """ROS time as the receiver knows it."""
        return START_NS + tau if self.wall else self.ros_ns(tau)

    def _runs_of(self, name: str) -> list[tuple[int, str]]:
        """(since when, state) of a sensor, in order; a jump of time begins another run."""
        runs = []
        for phase in self.phases:
            state = phase.weather[name].state
            if not runs or phase.jump or runs[-1][1] != state:
                runs.append((phase.begin_ns, state))
        return runs

    def state(self, name: str, tau: int) -> tuple[str, int, str]:
        """(state, since when, the state before) of a sensor."""
        runs = self._runs[name]
        at = max(0, bisect.bisect_right(runs, (tau, "~")) - 1)
        jumped = at > 0 and self.phase(runs[at][0]).jump
        return runs[at][1], runs[at][0], WILD if at == 0 or jumped else runs[at - 1][1]

    @property
    def end_ns(self) -> int:
        return self.phases[-1].end_ns

    # messages --------------------------------------------------------------------------------------------------------

    def sent(self, roles: Collection[str] = (), since_ns: int = 0) -> Iterator[Sent]:
        """Everything that arrives, in order. roles: only of these sensors, cameras' infos included, and of 'odom' and
        'others'; all when none is named. since_ns: leave out the phases that are over by then."""
        self._since = since_ns
        makers = {sensor: partial(self._of, sensor) for sensor in self.rig.sensors}
        makers |= {f"{name}/info": partial(self._infos, name) for name in self.rig.cameras()}
        makers |= {"odom": self._odometry, "others": self._others}
        entries = [self._measured(role, make, since_ns) for role, make in makers.items()
                   if not roles or role.partition("/")[0] in roles]
        # Each is in the order of measurement: nothing arrives before it was measured.
        waiting: list[Sent] = []
        for order, (measured_ns, one) in enumerate(heapq.merge(*entries, key=lambda entry: entry[0])):
            while waiting and waiting[0].due_ns < measured_ns:
                yield heapq.heappop(waiting)
            heapq.heappush(waiting, replace(one, order=order))
        while waiting:
            yield heapq.heappop(waiting)

    def _measured(self, role: str, make: Callable, since_ns: int) -> Iterator[tuple[int, Sent]]:
        """A role's messages of all phases. The dice of each are its own: it can be made without those before."""
        for at, phase in enumerate(self.phases):
            if phase.end_ns > since_ns:
                yield from make(phase, random.Random(f"{self.seed} {role} {at}"))

    def _of(self, name: str, phase: Phase, dice: random.Random) -> Iterator[tuple[int, Sent]]:
        """(when it was measured, message) of a sensor in a phase."""
        sensor, weather = self.rig.sensors[name], phase.weather[name]
        kinds = [one.__name__ for one in DAMAGES[modality_of(name)]]
        for number, tau in every(round(sensor.period_ns / weather.flood), sensor.phase_ns, phase):
            due = tau + sensor.latency_ns + dice.randint(0, sensor.shake_ns)
            stamp = self.ros_ns(tau) + sensor.offset_ns + dice.randint(-sensor.jitter_ns, sensor.jitter_ns)
            if weather.state == SILENT or dice.random() < weather.dropped:
                self._count(tau, "silence" if weather.state == SILENT else "drop")
                continue
            self._count(tau, "flood", weather.flood > 1)
            if weather.state == LATE or dice.random() < weather.delayed:
                self._count(tau, "delay")
                due += dice.randint(*weather.delay_ns)
            if dice.random() < weather.overtaken:
                self._count(tau, "reorder")
                due += round(dice.uniform(0.5, 3) * sensor.period_ns)
            if weather.clock_ns:
                self._count(tau, "wrong clock")
                stamp += weather.clock_ns
            if dice.random() < weather.stray:
                self._count(tau, "stray stamp")
                stamp = self._stray(dice, stamp, tau)
            damage = ""
            if dice.random() < weather.damaged:
                damage = dice.choice(kinds)
                self._count(tau, f"damage: {damage}")
            if weather.frozen:
                self._count(tau, "frozen payload")
                number = 7
            yield tau, Sent(due, 0, name, stamp, number, weather.version, damage)
            if dice.random() < weather.repeated:
                self._count(tau, "duplicate")
                again = due + dice.choice([0, round(dice.uniform(0, 2) * sensor.period_ns)])
                yield tau, Sent(again, 0, name, stamp, number + dice.randrange(2), weather.version, damage)

    def _stray(self, dice: random.Random, stamp: int, tau: int) -> int:
        back, ahead = (round(one * SECOND) for one in (self.config.collector.jump_back_sec,
                                                       self.config.collector.max_future_sec))
        other = [stamp - back, stamp - back - 1, stamp - 5 * SECOND, stamp - 150 * MS, stamp - 40 * MS, stamp + 50 * MS]
        if not self.wall:       # there nothing is too far ahead
            other += [self.ros_ns(tau) + ahead, stamp + 5 * SECOND, stamp + 3600 * SECOND, 0]
        return dice.choice(other)

    def _infos(self, name: str, phase: Phase, dice: random.Random) -> Iterator[tuple[int, Sent]]:
        sensor, weather = self.rig.sensors.get(name), phase.weather[name]
        period = max(SECOND // INFO_HZ, sensor.period_ns if sensor else 0)
        for _, tau in every(period, sensor.phase_ns if sensor else 0, phase):
            if weather.state == SILENT or dice.random() < weather.info_lost:
                self._count(tau, "camera_info lost", weather.state != SILENT)
                continue
            damage = ""
            if dice.random() < weather.info_damaged:
                damage = dice.choice(OF_INFOS).__name__
                self._count(tau, f"camera_info: {damage}")
            self._count(tau, "camera_info changed", bool(weather.version))
            due = tau + (sensor.latency_ns if sensor else 0) - BEFORE_IMAGE_NS
            yield tau, Sent(max(0, due), 0, f"{name}/info", self.ros_ns(tau), 0, weather.version, damage)

    def _odometry(self, phase: Phase, dice: random.Random) -> Iterator[tuple[int, Sent]]:
        wild = any(one.state == WILD for one in phase.weather.values())
        for _, tau in every(SECOND // ODOMETRY_HZ, 0, phase):
            if wild and dice.random() < 0.5:
                self._count(tau, "odometry lost")
                continue
            stray = 5 * SECOND if wild and dice.random() < 0.1 else 0
            self._count(tau, "odometry stray", bool(stray))
            yield tau, Sent(tau + MS, 0, "odom", self.ros_ns(tau) + stray)

    def _others(self, phase: Phase, dice: random.Random) -> Iterator[tuple[int, Sent]]:
        """Mountings, and what the receiver itself is told."""
        tau, before = phase.begin_ns, self.phase(phase.begin_ns - 1)
        if tau == 0:
            yield tau, Sent(dice.choice([0, 0, 0, SECOND]), 0, "tf_static", self.ros_ns(tau))
        elif dice.random() < 0.1:
            yield tau, Sent(tau + MS, 0, "tf_static", self.ros_ns(tau))
        self._count(tau, f"time: {phase.jump}", bool(phase.jump))
        if "called" in phase.jump:
            yield tau, Sent(tau, 0, "reset", 0)
        if before.deadline_sec != phase.deadline_sec:
            yield tau, Sent(tau, 0, "deadline", 0, number=round(phase.deadline_sec * SECOND))

    def _count(self, tau: int, kind: str, happens: bool = True) -> None:
        if happens and tau >= self._since:
            self.faults[kind] += 1

    def message(self, types, sent: Sent) -> tuple[object, Truth | None]:
        """The message, and of a sensor's what it is."""
        message = self.rig.message(types, sent.role, sent.number, sent.stamp_ns, sent.version)
        valid = True
        if sent.damage:
            valid = damage_of(sent.role, sent.damage)(message, random.Random(sent.order))
        if sent.role not in self.rig.sensors:
            return message, None
        sensor = self.rig.sensors[sent.role]
        camera = self.rig.camera(sent.role, sent.version) if self.rig.is_camera(sent.role) else None
        return message, Truth(
            valid, sent.stamp_ns, sent.stamp_ns + sensor.covers_ns * (sent.stamp_ns > 0),
            camera and (camera.width, camera.height),
            message.header.frame_id, EVENT_BYTES * EVENTS if sensor.covers_ns else len(message.data))


def every(period: int, offset: int, phase: Phase) -> Iterator[tuple[int, int]]:
    """(k, offset + k * period) of those times that lie in a phase."""
    first = -((offset - phase.begin_ns) // period)
    return ((k, offset + k * period) for k in range(first, -((offset - phase.end_ns) // period)))
