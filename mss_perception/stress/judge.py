"""The oracle: what must come of a storm, said without the collector.

It is told what arrives, and sees what comes out. What must hold always is here: the sums, the order of stamps and
epochs, the bounds of queues and waits; each input's sample, state and mask, by what had arrived when the set was
emitted; frame, size and modalities of what the network gave. What must hold in a calm is in promises.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mss_perception.config import Config, modality_of
from mss_perception.output import Output
from mss_perception.pipeline import Pipeline
from mss_perception.stress.ledger import Expected, Ledger, ns
from mss_perception.stress.promises import Promises
from mss_perception.stress.rig import FRAMES, SIZE
from mss_perception.stress.storm import Sent, Storm, Truth
from mss_perception.stress.verdict import Verdict

REASONS = {"late", "reset", "below_min_modalities"}     # for which a storm may cost sets
REFUSALS = ("zero", "inverted", "future", "back", "straggler")
ABSENT = ("LATE", "MISSING", "STALE")


class Judge:
    """Of one storm through one pipeline that processes each set at once. After each call of it comes `after`.

    config: the pipeline's. views: view -> inputs. windows: stream -> ns. code: modalities -> the label that the network
    gives where it was shown just these; None where it says what it likes.
    """

    def __init__(self, storm: Storm, config: Config, views: Mapping[str, Sequence[str]], windows: Mapping[str, int],
                 code: Callable[[set[str]], int] | None = None):
        self.storm, self.config, self.views, self.windows, self.code = storm, config, views, windows, code
        self.verdict = Verdict(storm.seed)
        self.hold = self.verdict.hold
        self.counts = {name: Counter() for name in storm.rig.sensors}
        self.cameras: dict[str, tuple[int, int, str]] = {}      # what the last good camera_info said
        self.placed = False                                     # whether the mountings are known
        self.deadlines = [ns(config.collector.deadline_sec)] * 2        # the last two
        self.epoch, self.seq, self.sets = 0, -1, 0
        self.resetting = False                                  # the driver is calling reset
        self.back: tuple[str, Truth] | None = None              # the message in work, when its stamp went back
        self.tau = self.call = self.set_call = 0                # the last: in which the newest set came
        self.dropped: Counter = Counter()                       # outputs without labels, by reason
        self.promises = Promises(storm, config, self.verdict)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.ledgers = {name: Ledger(self.config.inputs[name], self.config.collector, self.windows.get(name, 0))
                        for name in self.storm.rig.sensors}
        self.began: int | None = None                           # when the first of its samples came
        self.newest: int | None = None                          # t_ref of the newest set
        self.expected: dict[str, Expected] = {}                 # of the set that comes out
        self.stamps: dict[str, int] = {}                        # of the samples that it has taken
        self.states: dict[str, str] = {}                        # as the collector must have seen them
        self.open = 0       # sets that were open when the last call came back, and have not been emitted since
        self.waited = False                                     # whether the set that comes out was one of them
        self.promises.begin_epoch(self.ledgers)

    # what the driver does --------------------------------------------------------------------------------------------

    def advances(self, tau: int) -> None:
        """The next call, at this time."""
        self.tau, self.back, self.resetting = tau, None, False
        self.call += 1
        self.promises.advances(tau, self.call, self.deadlines[-1])

    def arrives(self, sent: Sent, truth: Truth | None, info: tuple[int, int, str] | None) -> None:
        """A message is about to be received. info: (width, height, frame) of a camera_info that can be used."""
        name = sent.role.partition("/")[0]
        if info is not None:
            self.cameras[name] = info
        if sent.role == "tf_static":
            self.placed = True
        if truth is None:
            return
        self.counts[name]["received"] += 1
        self.promises.came(name, truth)
        objection = self.ledgers[name].objection(truth, self.storm.clock_ns(self.tau))
        if objection == "back":
            self.back = name, truth                 # refused, unless it begins an epoch
        elif not objection and self._is_straggler(name, truth):
            objection = "straggler"
        self.counts[name][objection or "accepted"] += 1
        if not objection:
            self._accept(name, truth)

    def _accept(self, name: str, truth: Truth) -> None:
        self.began = self.tau if self.began is None else self.began
        self.promises.accepted(name, self.ledgers[name].accept(truth, self.tau, self.call))

    def _is_straggler(self, name: str, truth: Truth) -> bool:
        """Whether it is left over from before the last reset: far newer than everything since, soon after it."""
        if not self.epoch or self.began is None:
            return False
        newest = max(one.watermark for one in self.ledgers.values() if one.watermark is not None)
        far = ns(self.config.collector.jump_back_sec)
        return truth.end_ns - self.ledgers[name].offset > newest + far and self.tau - self.began <= far

    def resets(self) -> None:
        """The clock has jumped: the pipeline is about to be reset."""
        self.resetting = True

    def sets_deadline(self, deadline_ns: int) -> None:
        self.deadlines = [self.deadlines[-1], deadline_ns]

    # what comes of it ------------------------------------------------------------------------------------------------

    def after(self, pipeline: Pipeline, thorough: bool) -> None:
        """Each call of the pipeline has come back. thorough: look at its queues and sums, which takes longer."""
        if pipeline.collector.epoch != self.epoch:
            self._enter(pipeline.collector.epoch)
        counters = pipeline.collector.counters
        self.open = counters["ticks"] - counters["emitted"] - sum(pipeline.collector.dropped.values())
        self.promises.forced = counters["forced"]
        if not thorough:
            return
        status, views = pipeline.collector.status(), len(self.views)
        known = pipeline.outputs + sum(pipeline.dropped.values()) + status["pending"] * views
        self.hold("one output or one counted reason for each tick", pipeline.ticks * views == known, pipeline.ticks,
                  "ticks,", pipeline.outputs, "outputs,", dict(pipeline.dropped), status["pending"], "open")
        self.hold("every drop has a known reason", set(pipeline.dropped) <= REASONS, dict(pipeline.dropped))
        self.hold("no more sets are open than max_pending", status["pending"] <= self.config.collector.max_pending)
        for name, ledger in self.ledgers.items():
            one, room = status["inputs"][name], 0 if ledger.window else self.config.collector.max_pending
            self.hold("queues are bounded", one["queued"] <= ledger.config.queue + room and
                      one["queued_bytes"] <= max(ledger.config.max_bytes, ledger.largest), name, one)
            counts = self.counts[name]
            self.hold("each message is counted", all(one.get(key, 0) == counts[key] for key in (
                "received", "accepted", *REFUSALS)), name, dict(counts), one)

    def finish(self, pipeline: Pipeline) -> None:
        """After flush: nothing is left in between."""
        self.after(pipeline, thorough=True)
        self.hold("nothing is left at the end", pipeline.collector.status()["pending"] == 0)
        self.hold("each output is handed on", self.sets * len(self.views) - sum(self.dropped.values())
                  == pipeline.outputs, self.sets, dict(self.dropped), pipeline.outputs)

    def _enter(self, epoch: int) -> None:
        """Another epoch: by the driver's reset, or by the message that is being received."""
        self.hold("epochs grow by one", epoch == self.epoch + 1, self.epoch, "->", epoch)
        self.hold("only a stamp from before begins an epoch", self.resetting or self.back is not None)
        if not self.resetting:
            self.promises.epoch_ends()
        self.epoch = epoch
        self._begin_epoch()
        if self.back and not self.resetting:
            name, truth = self.back
            self.counts[name].update({"back": -1, "accepted": 1})
            self._accept(name, truth)

    def output(self, output: Output) -> None:
        """One set in one view, as the pipeline hands it on; the views of a set come one after the other."""
        if output.epoch != self.epoch:
            self._enter(output.epoch)
        if output.seq != self.seq:
            self._begin_set(output)
        for name, state in output.inputs.items():
            if name in self.ledgers:
                self._check_input(output, name, state)
            else:
                self.hold("what is disabled takes no part", state["state"] == "DISABLED" and not output.mask[name])
        self._check_picture(output)
        if output.view == list(self.views)[-1]:
            self.promises.set_comes(output.t_ref_ns, self.expected, self.states, self.waited)
            for name, ledger in self.ledgers.items():
                ledger.emitted(output.t_ref_ns, self.stamps.get(name))
            self.newest = max(output.t_ref_ns, self.newest or 0)

    def _begin_set(self, output: Output) -> None:
        t_ref = output.t_ref_ns
        self.hold("sets come one by one", output.seq == self.seq + 1, self.seq, "->", output.seq)
        self.seq, self.sets = output.seq, self.sets + 1
        publish = self.config.collector.late_policy == "publish"
        if self.newest is not None and not publish:
            step = t_ref - self.newest
            self.hold("stamps grow within an epoch", step > 0, step)
            self.hold("sets are at least half a tick apart", 2 * step >= ns(1 / self.config.collector.tick_rate_hz) - 1,
                      step)
        wait, most = output.latency_ms["wait"], max(self.deadlines) / 1e6
        self.hold("no set waits beyond its deadline", 0 <= wait <= most, wait, "ms, at most", most)
        self.waited, self.open = self.open > 0, max(0, self.open - 1)
        # A set that is opened at its deadline, by a failover or a period just learnt, may have nothing to wait for; nor
        # may the second of a call, once the first has given an input up.
        if self.waited and self.set_call != self.call and self.deadlines[0] == self.deadlines[1]:
            self.hold("a deadline is told", wait < most or output.deadline_hit, wait)
        self.set_call = self.call
        sources = [name for name in self.config.collector.tick_source if name in self.ledgers]
        self.hold("a set is opened by a sample of a source", any(
            t_ref in self.ledgers[name].entries or self.windows.get(name) for name in sources), t_ref)
        backwards = publish and self.newest is not None and t_ref < self.newest     # what it needs may be gone
        self.expected = {name: ledger.expected(t_ref, not backwards) for name, ledger in self.ledgers.items()}
        self.stamps, self.states = {}, {}

    def _check_input(self, output: Output, name: str, got: Mapping) -> None:
        ledger, expected, state, t_ref = self.ledgers[name], self.expected[name], got["state"], output.t_ref_ns
        there = state in ("OK", "HELD", "INVALID")
        told = name, got, "at", t_ref, "expected", expected
        self.hold("a state is one that there is", there or state in ABSENT, *told)
        self.hold("the mask is what the states say", output.mask[name] == (state in ("OK", "HELD")), *told)
        entries = expected.entries
        if expected.sure:
            self.hold("a set takes what has arrived", there == bool(entries), *told)
        if ledger.window:
            if there and expected.sure and entries:
                end = min(ledger.watermark, t_ref)
                self.hold("a window is what has arrived of it", got["stamp"] == end + ledger.offset
                          and abs(got["coverage"] - expected.coverage) < 1e-6, *told)
        elif there:
            t = got["stamp"] - ledger.offset
            entries = [ledger.entries[t]] if t in ledger.entries else []
            self.hold("a sample is one that has arrived", bool(entries), *told)
            self.hold("a sample is told with its distance", got["stamp_delta"] == t - t_ref, *told)
            if held := "age" in got:
                self.hold("what is held is older, and not too old", got["age"] == t_ref - t and 0 <= got["age"]
                          <= ledger.hold, *told)
            else:
                self.hold("a sample is within its tolerance", abs(t - t_ref) <= ledger.tolerance, *told)
                self.hold("a sample serves one set", all(one.unsure or not one.used or ledger.may_be_gone(one)
                                                         for one in entries), *told)
            if expected.sure and expected.entries:
                self.hold("a set takes the nearest sample", (t, held) == (expected.entries[0].t, expected.held), *told)
            self.stamps[name] = got["stamp"]
        self.states[name] = ("HELD" if "age" in got else "OK") if there else state
        if there and entries:
            usable = self._usable(name, output.view, entries)
            if usable is not None:
                self.hold("what can be used is used, and nothing else", usable == (state != "INVALID"), *told, usable)

    def _usable(self, name: str, view: str, entries: Sequence) -> bool | None:
        """Whether a view can use what an input gave; None: it may or may not."""
        target, own = self.cameras.get(view), self.cameras.get(name)
        if target is None or (self.storm.rig.is_camera(name) and own is None):
            return False
        modality = modality_of(name)
        frame = own[2] if own else entries[0].truth.frame
        if modality == "rgb":
            placed = frame == target[2]
        else:
            placed = frame == target[2] or self.placed and {frame, target[2]} <= set(FRAMES.values())
        fits = modality not in ("rgb", "depth") or entries[0].truth.size == own[:2]
        verdicts = [one.truth.valid for one in entries]
        if not placed or not fits or False in verdicts:
            return False
        if modality == "event" and any(one.truth.size != own[:2] for one in entries):
            return None         # they do not tell their size: too many may lie outside of the image
        return None if None in verdicts else True

    def _check_picture(self, output: Output) -> None:
        """What comes of a view as a whole."""
        present = {modality_of(name) for name, used in output.mask.items() if used}
        enough = len(present) >= max(1, self.config.collector.min_modalities)
        self.hold("a set is dropped when it has too few modalities, and only then",
                  output.dropped == (None if enough else "below_min_modalities"), output.dropped, present)
        self.dropped[output.dropped] += output.dropped is not None
        if output.dropped is not None:
            return
        width, height, frame = self.cameras[output.view]
        self.hold("labels lie on the target camera's pixels, in its frame", output.frame_id == frame and all(
            one.shape == (height, width) and one.dtype == np.uint8 for one in (output.labels, output.confidence)),
            output.frame_id, output.labels.shape, self.cameras[output.view])
        self.hold("the network sees the modalities of the mask", output.images.keys() == present and all(
            one.shape == (SIZE, SIZE, 3) and one.dtype == np.uint8 for one in output.images.values())
            and (self.code is None or np.all(output.labels == self.code(present))), list(output.images), present)
        if output.points is not None:
            self.hold("labelled points are whole", len({len(column) for column in output.points.values()}) == 1
                      and all(np.isfinite(output.points[axis]).all() for axis in "xyz"))
