"""How topics run in time: rhythm, stamp offsets between two of them, and what the collector would make of them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mss_models.modality import DEFAULT_ENCODINGS
from mss_perception.collector import Collector, SensorSet
from mss_perception.config import Config
from mss_perception.inputs import State
from mss_perception.units import nanoseconds

LOCKED = 1 / 8          # of the period: 95 % of the differences of two streams in step lie this close to the median
FEWEST = 5              # pairs of stamps that say anything
TRIAL_SAMPLES = 100_000     # of all inputs, that a trial of the collector takes at most


@dataclass(frozen=True)
class Rhythm:
    """period_ns: median step; jitter_ns: 95 % of the steps are this close to it. gaps: steps of more than 1.5 periods.
    back, repeated: steps that are negative, or 0."""

    period_ns: float
    jitter_ns: float
    gaps: int
    back: int
    repeated: int

    @property
    def rate_hz(self) -> float:
        return 1e9 / self.period_ns


def rhythm(times_ns: Sequence[int]) -> Rhythm | None:
    """None for fewer than two different times."""
    steps = np.diff(np.asarray(times_ns, np.int64))
    rising = steps[steps > 0]
    if not len(rising):
        return None
    period = float(np.median(rising))
    return Rhythm(period, float(np.percentile(np.abs(rising - period), 95)), int(np.sum(steps > 1.5 * period)),
                  int(np.sum(steps < 0)), int(np.sum(steps == 0)))


@dataclass(frozen=True)
class Phase:
    """How the stamps of a sensor lie to those of a reference.

    offset_ns: sensor minus reference, from about -modulo_ns / 2 to modulo_ns / 2. spread_ns: 95 % of the differences
    are this close to it. in_step: the spread is a small part of modulo_ns, so that the offset means something.
    drift_ppm: how fast the difference grows, in parts per million. pairs: differences that were measured.
    """

    offset_ns: float
    spread_ns: float
    modulo_ns: float
    in_step: bool
    drift_ppm: float
    pairs: int


def phase(stamps_ns: Sequence[int], reference_ns: Sequence[int]) -> Phase | None:
    """The offset of one stream of stamps to another, in any order; None when there are too few.

    Each stamp of the slower stream is paired with the nearest of the faster; the differences are taken modulo the
    faster's period, about their circular mean, and their median is the offset. Limits: what is measured is the
    difference of stamps, so an offset by whole periods of the faster stream does not show, nor one that both stamps
    share; two free-running sensors look in step while the recording is too short for their drift; and the periods must
    be whole multiples of each other.
    """
    sensor, reference = (np.unique(np.asarray(one, np.int64)) for one in (stamps_ns, reference_ns))
    if min(len(sensor), len(reference)) < FEWEST:
        return None
    sensor_is_slower = np.median(np.diff(sensor)) >= np.median(np.diff(reference))
    slow, fast = (sensor, reference) if sensor_is_slower else (reference, sensor)
    slow = slow[(slow >= fast[0]) & (slow <= fast[-1])]
    if len(slow) < FEWEST:
        return None
    modulo = float(np.median(np.diff(fast)))
    difference = (slow - nearest(fast, slow)).astype(np.float64) * (1 if sensor_is_slower else -1)
    centre = float(np.angle(np.mean(np.exp(2j * np.pi * difference / modulo)))) / (2 * np.pi) * modulo
    difference = centre + np.mod(difference - centre + modulo / 2, modulo) - modulo / 2
    offset = float(np.median(difference))
    spread = float(np.percentile(np.abs(difference - offset), 95))
    drift = float(np.polyfit((slow - slow[0]).astype(np.float64), difference, 1)[0]) * 1e6
    return Phase(offset, spread, modulo, spread <= LOCKED * modulo, drift, len(slow))


def nearest(sorted_ns: np.ndarray, at_ns: np.ndarray) -> np.ndarray:
    """For each of `at_ns` the nearest of the sorted times."""
    after = np.clip(np.searchsorted(sorted_ns, at_ns), 1, len(sorted_ns) - 1)
    before = sorted_ns[after - 1]
    return np.where(at_ns - before <= sorted_ns[after] - at_ns, before, sorted_ns[after])


def distances(stamps_ns: Sequence[int], ticks_ns: Sequence[int]) -> np.ndarray:
    """(M,) |stamp - tick| in ns of the stamp nearest to each tick within the stamps' own time."""
    stamps, ticks = np.unique(np.asarray(stamps_ns, np.int64)), np.asarray(ticks_ns, np.int64)
    if len(stamps) < 2:
        return np.empty(0)
    ticks = ticks[(ticks >= stamps[0]) & (ticks <= stamps[-1])]
    return np.abs(ticks - nearest(stamps, ticks)).astype(np.float64)


@dataclass(frozen=True)
class Samples:
    """An input's stamps and receive times, ns, both (N,) in order of arrival. A stream's packet covers
    [stamp + begin_ns, stamp + end_ns]; both are None for other inputs."""

    stamps: Sequence[int]
    received: Sequence[int]
    begin_ns: int | None = None
    end_ns: int | None = None


@dataclass(frozen=True)
class Trial:
    """What the collector made of the samples. sets: emitted. used: input -> share of the sets that had it (OK or HELD).
    states: input -> Counter. waits_ns: how long each set waited. deadline_hits: sets that went without waiting longer.
    """

    sets: int
    used: dict[str, float]
    states: dict[str, Counter]
    waits_ns: np.ndarray
    deadline_hits: int


def trial(samples: Mapping[str, Samples], config: Config, deadline_sec: float | None = None) -> Trial:
    """Run the node's own collector over stamps and receive times alone, as replay would.

    samples: by input; an enabled input without any counts as silent. deadline_sec: instead of the configured one. Sets
    at either end of the recording are left out: those before each sensor has given recover_after samples, before which
    no set need wait for it, and those after one has given its last.
    """
    sets: list[SensorSet] = []
    collector_config = replace(config.collector, **({} if deadline_sec is None else {"deadline_sec": deadline_sec}))
    window = nanoseconds(float(DEFAULT_ENCODINGS["event"].params["window_sec"]))
    streams = {name: window for name, one in samples.items() if one.begin_ns is not None}
    collector = Collector([replace(one) for one in config.inputs.values()], collector_config, sets.append, streams)
    arrivals = sorted((receive, name, stamp) for name, one in samples.items() if config.inputs[name].enabled
                      for stamp, receive in zip(one.stamps, one.received, strict=True))[:TRIAL_SAMPLES]
    for receive, name, stamp in arrivals:
        collector.advance(receive)
        one = samples[name]
        if one.begin_ns is None:
            collector.add(name, stamp, None, receive, clock_ns=receive)
        else:
            collector.add_stream(name, stamp + one.begin_ns, stamp + one.end_ns, None, receive, clock_ns=receive)
    if arrivals:
        collector.flush(arrivals[-1][0])
    stamps = {name: sorted(one.stamps) for name, one in samples.items()
              if len(one.stamps) and config.inputs[name].enabled}
    first = max((known[min(config.inputs[name].recover_after, len(known) - 1)] for name, known in stamps.items()),
                default=0)
    last = min((known[-1] for known in stamps.values()), default=0)
    whole = [one for one in sets if first <= one.t_ref_ns <= last] or sets
    names = [name for name, one in config.inputs.items() if one.enabled]
    states = {name: Counter(one.inputs[name].state.value for one in whole) for name in names}
    used = {name: (counts[State.OK.value] + counts[State.HELD.value]) / max(1, len(whole))
            for name, counts in states.items()}
    return Trial(len(whole), used, states, np.array([one.emitted_ns - one.opened_ns for one in whole], np.int64),
                 sum(one.deadline_hit for one in whole))
