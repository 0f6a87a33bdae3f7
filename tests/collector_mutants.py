"""Seeded mistakes: the collector with one rule broken, as a patch of its source's text.

`PYTHONPATH=. python tests/collector_mutants.py` tells for each how many random streams it takes until the oracle
notices.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from collector_streams import compare, random_stream

import mss_perception

SOURCES = {name: (Path(mss_perception.__file__).parent / f"{name}.py").read_text() for name in ("inputs", "collector")}
STREAMS = 400       # by which a mistake must be noticed


@dataclass(frozen=True)
class Mutant:
    """`text`, which must occur exactly once in the two files, becomes `wrong`."""

    mistake: str
    text: str
    wrong: str


MUTANTS = [
    # clocks and deadlines
    Mutant("a set outlives its deadline by an instant", "now < min([one.deadline for", "now <= min([one.deadline for"),
    Mutant("a sample comes before a deadline of the same instant", "now >= self._wake:", "now > self._wake:"),
    Mutant("the deadline runs on the clock of stamps", "OpenSet(t_ref, opened, opened + self._deadline()",
           "OpenSet(t_ref, opened, t_ref + self._deadline()"),
    Mutant("the deadline runs from the opening, not from the arrival", "self._open(source, t, arrival, now)",
           "self._open(source, t, now, now)"),
    Mutant("a change of deadline_sec is ignored", "return nanoseconds(self.config.deadline_sec)",
           "self._constant = getattr(self, '_constant', nanoseconds(self.config.deadline_sec)); return self._constant"),
    Mutant("nobody wakes the driver for a failover",
           "wakes.append(self._first_choice_until if self._starting(now) else leader.overdue_at())", "pass"),
    Mutant("a lag behind the newest tick is not added to the delay", "now - came + latest - t <=", "now - came <="),
    Mutant("between two ticks nothing is late", "if leader is not None and leader.watermark is not None and (latest",
           "if False and (latest"),
    Mutant("a straggler of the source in charge is what the others are late for",
           "leader.watermark, leader.marked", "leader.watermark, leader.heard"),
    # acceptance
    Mutant("a stamp at the very limit is in the future", "t > clock + self._max_future",
           "t >= clock + self._max_future"),
    Mutant("the future is judged without the offset", "t = sample.t - one.offset\n        if clock",
           "t = sample.t\n        if clock"),
    Mutant("a step of exactly jump_back_sec is a jump", "t < one.watermark - self._jump_back",
           "t <= one.watermark - self._jump_back"),
    Mutant("a zero stamp is a time like any other", "if sample.t <= 0:", "if sample.t < 0:"),
    Mutant("a packet that ends before it begins is taken", "if sample.begin > sample.t:", "if False:"),
    Mutant("no offset", ", sample.t - one.offset\n", ", sample.t\n"),
    Mutant("the offset has the wrong sign", ", sample.t - one.offset\n",
           ", sample.t + one.offset\n"),
    Mutant("the offset is not added back to the stamp of a match", "InputState(state, sample.t + self.offset,",
           "InputState(state, sample.t,"),
    # ticks
    Mutant("a tick that comes early by jitter is lost", "t < self._due - source.margin", "t < self._due"),
    Mutant("ticks drift away from their rate", "self._due = (self._due if on_time else t)", "self._due = t"),
    Mutant("a dead source stays in charge", "source.confirmed and now < source.overdue_at()", "source.confirmed"),
    Mutant("a returning source takes over with its first sample", "if self.hits >= self.config.recover_after:",
           "if self.hits >= 1:"),
    Mutant("the first tick goes to whoever comes first", "return self._due is None and self._first_choice_until",
           "return False and self._first_choice_until"),
    Mutant("a stale sample opens a set", " or now - arrival > self._deadline():", ":"),
    Mutant("late_policy is ignored", ' and self.config.late_policy == "drop"', ""),
    Mutant("a tick out of order may double another", "if any(abs(t - tick) < apart for tick in self._ticks):",
           "if False:"),
    Mutant("a stream ticks all of a gap's instants late", "self.watermark - (self.watermark - due) % self.tick_period",
           "due"),
    # match
    Mutant("the tolerance is doubled", "best, best_distance = None, self.tolerance",
           "best, best_distance = None, 2 * self.tolerance"),
    Mutant("the tolerance is exclusive", "best, best_distance = None, self.tolerance",
           "best, best_distance = None, self.tolerance - 1"),
    Mutant("of two equally near the newer wins", "sample.t < best.t", "sample.t > best.t"),
    Mutant("a sample serves twice", "if not sample.used and (distance", "if (distance"),
    Mutant("held without its age", "age = t_ref - sample.t if state is HELD else None", "age = None"),
    Mutant("a sample from after the tick is held", "if 0 <= t_ref - one.t <= self.hold",
           "if t_ref - one.t <= self.hold"),
    Mutant("the oldest is held", "sample = max(older,", "sample = min(older,"),
    Mutant("a late sample is back-filled into the next set",
           "if sample is None and self.hold:\n            older = (one for one in self.samples.values() if 0 <=",
           "if sample is None and (self.hold or self.came_late):\n"
           "            older = (one for one in self.samples.values() if self.came_late or 0 <="),
    Mutant("a window may end before the tick by any time", "self.watermark < t_ref - self.tolerance or coverage",
           "coverage"),
    Mutant("overlapping packets count twice", "max(0, end - max(packet.begin, reached))",
           "end - max(packet.begin, start)"),
    Mutant("any gap between packets is bridged", "0 < sample.begin - self.watermark <= bridge",
           "0 < sample.begin - self.watermark"),
    # emission
    Mutant("a dead input is waited for", "if not one.settled(t_ref) and one.active:",
           "if not one.settled(t_ref):"),
    Mutant("an input that never matches is waited for",
           "self.given_up or self.sets_in_vain >= self.config.missing_after", "self.given_up"),
    Mutant("a silent input is in vain too", "self.sets_in_vain += self.fresh", "self.sets_in_vain += 1"),
    Mutant("one new sample makes all later sets vain", "self.came_late = self.fresh = False", "self.came_late = False"),
    Mutant("the wait ends with any match, though a nearer one may come",
           "best is not None and abs(best.t - t_ref) <= ahead", "best is not None"),
    Mutant("the wait ends only when the watermark has passed", "step = self.period - self.slack if self.steps else 0",
           "step = 0"),
    Mutant("one open set more than max_pending", "if len(self._pending) > self.config.max_pending:",
           "if len(self._pending) > self.config.max_pending + 1:"),
    Mutant("the newest is forced out", "self._emit(self._pending.pop(0), now, deadline_hit=False)\n\n    def _emit(",
           "self._emit(self._pending.pop(), now, deadline_hit=False)\n\n    def _emit("),
    Mutant("a deadline is not reported", "deadline_hit=not settled", "deadline_hit=False"),
    Mutant("an exception of the callee escapes", "except Exception:", "except KeyError:"),
    # health
    Mutant("misses are counted in ticks", "(t_ref - self.timely_t + self.slack) // self.period",
           "(t_ref - self.timely_t + self.slack) // self.tick_period"),
    Mutant("one miss more than missing_after", "if silence >= self.config.missing_after:",
           "if silence > self.config.missing_after:"),
    Mutant("a match does not end the count of misses",
           "self.timely_t = matched if self.timely_t is None else max(self.timely_t, matched)\n"
           "            self.sets_in_vain = 0",
           "self.timely_t = matched if self.timely_t is None else max(self.timely_t, matched)"),
    Mutant("a sample after the emission does not count towards recovery", "            if would_have_matched:",
           "            if False:"),
    Mutant("a window that was complete is completed by each packet",
           "and not self.complete(tick, self.watermark)]", "]"),
    Mutant("a window that lacks packets is none that a packet can complete",
           "not self.complete(tick, self.watermark)]", "self.watermark < tick - self.tolerance]"),
    Mutant("late samples are not counted", "if would_have_matched or not timely:", "if not timely:"),
    Mutant("LATE is said for ever", "self.came_late = self.fresh = False", "self.fresh = False"),
    Mutant("the watermark follows every sample", "if self.watermark is None or t > self.watermark:", "if True:"),
    Mutant("the period is the median step", "[len(self.steps) // 4]", "[len(self.steps) // 2]"),
    # memory
    Mutant("a duplicate is a sample of its own", "            sample.used = known.used\n", ""),
    Mutant("the smallest stamp is evicted, not the oldest arrival", "spare = [t for t in self.samples if",
           "spare = [t for t in sorted(self.samples) if"),
    Mutant("of too many bytes the smallest stamp goes first", "next(iter(self.samples))", "min(self.samples)"),
    Mutant("what an open set would take is evicted", "wanted = self.wanted(open_sets)", "wanted = set()"),
    Mutant("what an open set would take has a place of the queue's", "max(0, len(spare) - self.config.queue)",
           "max(0, len(self.samples) - self.config.queue)"),
    Mutant("max_bytes is ignored", "while self.bytes > self.config.max_bytes and", "while False and"),
    Mutant("bytes are not given back", "        sample = self.samples.pop(t)\n        self.bytes -= sample.nbytes\n",
           "        sample = self.samples.pop(t)\n"),
    Mutant("what held needs is discarded", "self.keep = max(self.tolerance, self.hold)", "self.keep = self.tolerance"),
    # epochs
    Mutant("one old stamp resets", "if one.back >= 2)", "if one.back >= 1)"),
    Mutant("one sensor with a wrong clock resets",
           "all(other.back or other.silent(now) or other.watermark < one.watermark - self._jump_back", "all(True"),
    Mutant("one that was ahead of all others stays shut out",
           " or other.watermark < one.watermark - self._jump_back", ""),
    Mutant("a good stamp does not clear the count of bad ones", "        self.back = 0\n        self.rejected.clear()",
           "        self.rejected.clear()"),
    Mutant("a reset forgets to count the sets it drops", 'self.dropped["reset"] += len(self._pending)', "pass"),
    Mutant("a reset keeps the time of the next tick",
           "self._due: int | None = None ", "self._due: int | None = getattr(self, '_due', None) "),
    Mutant("what is left over from before a reset is taken", "if self.epoch and self._front is not None and t >",
           "if False and t >"),
    Mutant("what is far ahead is refused without a reset, too", "if self.epoch and self._front", "if self._front"),
    Mutant("what is far ahead is refused for ever after a reset", "now - self._began <= self._jump_back", "True"),
    Mutant("a reset begins no epoch", "        self.epoch += 1\n", ""),
]


def collector_class(mutant: Mutant | None = None) -> type:
    """The class Collector from its source, with the mistake if one is given. Raises ValueError when the text of the
    mutant does not occur exactly once."""
    sources = dict(SOURCES)
    if mutant is not None:
        found = {name: source.count(mutant.text) for name, source in sources.items()}
        if sum(found.values()) != 1:
            raise ValueError(f"{mutant.mistake}: {mutant.text!r} must occur once; it does: {found}")
        name = max(found, key=found.get)
        sources[name] = sources[name].replace(mutant.text, mutant.wrong)
    modules = {}
    for name, source in sources.items():
        module = modules[f"mss_perception.{name}"] = ModuleType(f"mss_perception.{name}")
        with patch.dict(sys.modules, modules):      # the collector imports this inputs, not the right one
            exec(compile(source, f"{name}.py", "exec"), vars(module))
    return module.Collector


def noticed_after(mutant: Mutant) -> int | None:
    """How many random streams it takes until collector and oracle differ; None: they agree on all STREAMS of them."""
    wrong = collector_class(mutant)
    for seed in range(STREAMS):
        try:
            compare(random_stream(seed), wrong)
        except Exception:       # a difference, or the mistake has made the collector itself fail
            return seed + 1
    return None


if __name__ == "__main__":
    logging.disable()
    for one in MUTANTS:
        print(f"{one.mistake:70} {noticed_after(one)}", flush=True)
