"""The oracle of live storms: what the node told of its sets and of itself, against what the storms were.

Nobody knows when a message arrived in the node, so less can be decided than inside. Always: the order of stamps and
epochs, each sample one that was sent and within its tolerance, the mask, frame and size of the labels, the sums. In a
calm that has settled: what works is in each set and what does not in none, costs no wait, and is INVALID where it is
broken; sets come without gaps; diagnostics name a publisher of another QoS or type. There a set is excused, and counted
so, when this machine was the cause: when the process of a sensor was late with publishing, or that of /clock (stamps
are then ahead of it), or the node's counters say that one of its messages was lost, evicted or late.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mss_perception import live_checks, messages
from mss_perception.config import absolute, modality_of
from mss_perception.stress.inside import Tally
from mss_perception.stress.live_storm import CLOCK
from mss_perception.stress.storm import GOOD, LATE, SILENT, WILD, Phase
from mss_perception.stress.verdict import Verdict
from mss_perception.units import SECOND

if TYPE_CHECKING:
    from mss_perception.stress.outside import Played

ABSENT = ("LATE", "MISSING", "STALE")
NEAR_NS = 2 * SECOND        # of what may have been a set's cause: diagnostics come once a second
LATE_MS = 40.0              # by which a sensor's process is late itself
FOUND_NS = 5 * SECOND       # until a publisher is known, after its process has started
TOLD_NS = 3 * SECOND        # until the diagnostics say so
SPARE_NS = 3 * SECOND // 2  # that a recovery may take longer than promised, on a busy machine
NEAREST = 0.4               # of a period, so far at most is a sample from the set that it must be in
COSTS = 0.6                 # of the deadline, at most, waits the median set beside a dead sensor
TROUBLE = ("lost", "late", "evicted")       # an input's counters


class StormJudge:
    """Of one storm; call it. records, diagnostics: the lines that came meanwhile, each with tau, when it came."""

    def __init__(self, played: Played, records: Sequence[dict], diagnostics: Sequence[dict]):
        self.played, self.storm, self.records, self.diagnostics = played, played.storm, records, diagnostics
        self.verdict = Verdict(self.storm.seed)
        self.config, self.sensors = self.storm.config, self.storm.rig.sensors
        self.tick_ns = SECOND / self.config.collector.tick_rate_hz
        self.planned = self._planned()
        self.began = {name: [lines[0]["tau"] for lines in played.lines(name) if lines] for name in self.sensors}
        late_clock = self._late(CLOCK)
        self.trouble = {name: self._late(name) + late_clock + self._counted(name) for name in self.sensors}

    def __call__(self) -> Verdict:
        calms = [self._calm(record) for record in self.records]
        for record in self.records:
            self._check_always(record)
        for record, calm in zip(self.records, calms, strict=True):
            if calm is not None:
                self._check_inputs(record, *calm)
        for (before, earlier), (record, calm) in pairwise(zip(self.records, calms, strict=True)):
            if calm is not None and earlier is not None and calm[0] is earlier[0]:
                self._check_step(before, record, calm[1])
        for phase in self.storm.phases:
            self._check_phase(phase, [one for one, calm in zip(self.records, calms, strict=True)
                                      if calm is not None and calm[0] is phase])
            self._check_publishers(phase)
        return self.verdict

    def hold(self, tau: float, invariant: str, holds: bool, *details) -> None:
        self.verdict.t_sec = tau / SECOND
        self.verdict.hold(invariant, holds, *details)

    # what the storm was ----------------------------------------------------------------------------------------------

    def _planned(self) -> dict[str, dict[int, set]]:
        """Of each sampled input: stamp -> whether what is sent under it can be used (True, False or None)."""
        types, result = messages.bag_types(), {name: {} for name in self.sensors if name != "event"}
        for one in self.storm.sent(list(result)):
            if one.role in result:
                valid = self.storm.message(types, one)[1].valid if one.damage else True
                result[one.role].setdefault(one.stamp_ns, set()).add(valid)
        return result

    def _late(self, name: str) -> list[tuple[int, int]]:
        """Spans of tau in which a sensor's process was late."""
        return [(line["tau"] - SECOND, line["tau"]) for lines in self.played.lines(name) for line in lines
                if line["late_ms"] > LATE_MS]

    def _counted(self, name: str) -> list[tuple[int, int]]:
        """Those in which messages were lost or late, as the node counted."""
        def bad(line: Mapping) -> int:
            values = status(line, name).get("values", {})
            return sum(values.get(key, 0) for key in TROUBLE)
        return [(before["tau"], line["tau"]) for before, line in pairwise(self.diagnostics) if bad(line) > bad(before)]

    def _is_excused(self, name: str, tau: float) -> bool:
        return any(begin <= tau + NEAR_NS and tau - NEAR_NS <= end for begin, end in self.trouble[name])

    def _settled(self, name: str, tau: float) -> str:
        """The state of a sensor, when it has been in it for long enough; else ''."""
        state, since, before = self.storm.state(name, tau)
        started = max((one for one in self.began[name] if one <= tau), default=None)
        if state == WILD or started is None:
            return ""
        one = self.config.inputs[name]
        needed = self.storm.settle_ns if before == WILD else SPARE_NS + (
            max(one.missing_after, one.recover_after) + 2) * self.sensors[name].period_ns
        found = started + FOUND_NS if started > 0 else 0
        return state if tau >= max(since, found) + needed else ""

    def _calm(self, record: Mapping) -> tuple[Phase, dict[str, str]] | None:
        """The phase of a set, and the state of each sensor, when all have settled."""
        tau = record["tau"]
        measured = record["t_ref"] - (self.storm.ros_ns(tau) - tau)
        states = {name: self._settled(name, measured) for name in self.sensors}
        same_phase = self.storm.phase(measured) is self.storm.phase(tau)
        return (self.storm.phase(tau), states) if same_phase and all(states.values()) else None

    # what must hold --------------------------------------------------------------------------------------------------

    def _check_always(self, record: Mapping) -> None:
        tau, t_ref = record["tau"], record["t_ref"]
        for name, got in record["inputs"].items():
            there, told = got["state"] in ("OK", "HELD", "INVALID"), (name, dict(got), "at", t_ref)
            self.hold(tau, "a state is one that there is", there or got["state"] in ABSENT, *told)
            self.hold(tau, "the mask is what the states say", record["mask"][name] == (got["state"] in ("OK", "HELD")),
                      *told)
            if not there or name not in self.planned:
                continue
            one, sent = self.config.inputs[name], self.planned[name].get(got["stamp"])
            delta = got["stamp"] - round(one.offset_sec * SECOND) - t_ref
            self.hold(tau, "a sample is within its tolerance, and told so",
                      got["stamp_delta"] == delta and abs(delta) <= one.tolerance_sec * SECOND, *told)
            self.hold(tau, "a sample is one that was sent", sent is not None, *told)
            self.hold(tau, "what is broken is not used", got["state"] == "INVALID" or sent != {False}, *told)
        present = {modality_of(name) for name, used in record["mask"].items() if used}
        self.hold(tau, "a set is dropped when nothing is left of it, and only then",
                  record["dropped"] == (None if present else "below_min_modalities"), record["dropped"], present)
        if record["dropped"] is None:
            frames = {self.storm.rig.camera("rgb", self.storm.phase(one).weather["rgb"].version).frame_id
                      for one in (tau - NEAR_NS, tau)}
            self.hold(tau, "labels are in the target camera's frame", record["frame_id"] in frames, record["frame_id"])

    def _check_inputs(self, record: Mapping, phase: Phase, states: Mapping[str, str]) -> None:
        """Of a set in a calm."""
        tau = record["tau"]
        for name, state in states.items():
            got = record["inputs"][name]
            told = name, "is", state, dict(got), "at", record["t_ref"]
            if state != GOOD:
                self.hold(tau, "what is dead is in no set", got["state"] in ABSENT, *told)
                continue
            if not (there := got["state"] in ("OK", "INVALID")) and self._is_excused(name, tau):
                self.verdict.judged["excused: this machine was late"] += 1
                continue
            if name == "event" or self._is_near(name, record["t_ref"]):
                self.hold(tau, "what works is in each set", there, *told)
            if there and (usable := self._usable(name, phase, got["stamp"])) is not None:
                self.hold(tau, "what can be used is used, and nothing else", (got["state"] == "OK") == usable, *told)

    def _usable(self, name: str, phase: Phase, stamp: int) -> bool | None:
        """Whether what works can become a picture; None: it may or may not."""
        known = {one for before in self.storm.phases[:self.storm.phases.index(phase) + 1]
                 for one, weather in before.weather.items() if weather.state == GOOD}
        if not {"rgb", name} <= known:
            return None         # no camera_info yet, unless from the storm before
        nowhere = self.storm.rig.versions - 1       # the version of a camera in a frame that nobody knows
        if name != "rgb" and nowhere in (phase.weather["rgb"].version, phase.weather[name].version):
            return False
        if name == "event":
            return phase.weather[name].damaged == 0
        sent = self.planned[name].get(stamp, {None})
        return None if None in sent or len(sent) > 1 else True in sent

    def _is_near(self, name: str, t_ref: int) -> bool:
        """Whether a sample lies so near to a set that it is no other's."""
        centre = t_ref + round(self.config.inputs[name].offset_sec * SECOND)
        return any(abs(stamp - centre) <= NEAREST * self.sensors[name].period_ns for stamp in self.planned[name])

    def _check_step(self, before: Mapping, record: Mapping, states: Mapping[str, str]) -> None:
        """From one set to the next in a calm."""
        tau, gap = record["tau"], record["t_ref"] - before["t_ref"]
        self.hold(tau, "an epoch does not end in a calm", record["epoch"] == before["epoch"])
        if any(self._is_excused(name, tau) for name, state in states.items() if state == GOOD):
            self.verdict.judged["excused: this machine was late"] += 1
        else:
            self.hold(tau, "sets come without gaps", gap <= live_checks.LONGEST_GAP * self.tick_ns, gap)

    def _check_phase(self, phase: Phase, records: Sequence[Mapping]) -> None:
        """What a calm is as a whole. records: its sets, once it had settled."""
        tau = phase.end_ns
        if not records or any(one.state == WILD for one in phase.weather.values()):
            return
        if any(one.state in (SILENT, LATE) for one in phase.weather.values()):
            wait_ms = np.median([one["latency_ms"]["wait"] for one in records])
            self.hold(tau, "nothing waits for what is dead",
                      wait_ms <= COSTS * 1e3 * self.config.collector.deadline_sec, wait_ms, "ms")

    def _check_publishers(self, phase: Phase) -> None:
        """While there is one of another QoS or type, the diagnostics say so, and no longer."""
        for name, weather in phase.weather.items():
            if weather.publisher not in ("qos", "type") or weather.state != SILENT:
                continue
            topic = absolute(self.config.inputs[name].topic)
            started = next((lines[0]["tau"] for lines in self.played.lines(f"{name} wrong")
                            if lines and phase.begin_ns <= lines[0]["tau"] < phase.end_ns), phase.end_ns)
            for line in self.diagnostics:
                summary, tau = status(line, "segmentation"), line["tau"]
                named = f"{topic} is published by /{name}_driver" in summary["message"]
                if started + FOUND_NS <= tau < phase.end_ns:
                    self.hold(tau, "a publisher that cannot be heard is an ERROR that names it",
                              named and summary["level"] == 2, summary["message"])
                elif phase.end_ns + FOUND_NS <= tau < phase.end_ns + FOUND_NS + TOLD_NS:
                    self.hold(tau, "the ERROR goes with the publisher", not named, summary["message"])


def status(line: Mapping, part: str) -> dict:
    """Of one part of the node in a line of its diagnostics."""
    return next((one for name, one in line.items() if name.endswith(f": {part}")), {"message": "", "level": 0,
                                                                                   "values": {}})


def judge(folder: Path, played: Sequence[Played], ended: tuple[int, float] | None, tally: Tally) -> None:
    """All storms of a run, added to the tally. ended: exit status and seconds of the node's end, None: interrupted."""
    masks, diagnostics, labels = (read_lines(folder / f"{name}.jsonl") for name in ("masks", "diagnostics", "labels"))
    whole = Verdict(played[0].storm.seed)
    for before, record in pairwise(masks):
        whole.hold("stamps grow within an epoch, and epochs", record["epoch"] > before["epoch"]
                   or record["epoch"] == before["epoch"] and record["t_ref"] > before["t_ref"], before, record)
    for at, one in enumerate(played):
        until = played[at + 1].start_ns if at + 1 < len(played) else float("inf")
        mine, told = ([{**line, "tau": line["received_ns"] - one.start_ns} for line in lines
                       if one.start_ns <= line["received_ns"] < until] for lines in (masks, diagnostics))
        add(tally, one, StormJudge(one, mine, told)())
    if diagnostics:
        values = status(diagnostics[-1], "segmentation")["values"]
        dropped = {key.partition(".")[2]: count for key, count in values.items() if key.startswith("dropped.")}
        tally.epochs, tally.ticks, tally.outputs = values["epoch"] + 1, values["ticks"], values["outputs"]
        tally.dropped.update(dropped)
        if ended is not None:
            whole.hold("one output or one counted reason for each tick", not (why := live_checks.sets_accounted(
                {"outputs": tally.outputs, "ticks": tally.ticks, "dropped": dropped})), why)
            whole.hold("each set is told of", len(masks) == tally.outputs + dropped.get("below_min_modalities", 0),
                       len(masks), "masks")
            used = [record["t_ref"] for record in masks if record["dropped"] is None]
            whole.hold("each output has its labels", Counter(used) == Counter(line["stamp"] for line in labels))
        errors = {key: count for key, count in values.items() if key.endswith("_errors")}
        whole.hold("no exception is contained", not errors, errors)
        whole.hold("every drop has a known reason", dropped.keys() <= {"late", "reset", "below_min_modalities",
                                                                       "replaced"}, dropped)
    sizes = {(camera.width, camera.height) for camera in (played[0].storm.rig.camera("rgb", version) for version in
                                                          range(played[0].storm.rig.versions))}
    for line in labels:
        whole.hold("labels are of a size that the camera had", (line["width"], line["height"]) in sizes, line)
    log = (folder / "node.log").read_text(errors="replace")
    whole.hold("no exception escapes", "Traceback" not in log, log[-2000:])
    if ended is not None:
        whole.hold("SIGINT ends the node in time", not (why := live_checks.ended_on_sigint(
            {"status": ended[0], "shutdown_sec": ended[1]})), why)
    tally.judged.update(whole.judged)
    tally.violations += whole.violations


def add(tally: Tally, played: Played, verdict: Verdict) -> None:
    """What a storm came to: sent and done by its publishers, and judged."""
    tally.storms += 1
    tally.sensor_seconds += played.storm.end_ns / SECOND
    tally.faults.update(played.events)
    for name in played.logs:
        for lines in played.lines(name):
            for line in lines[-1:]:     # each counts from its process's start
                tally.messages.update(line["sent"])
                tally.faults.update(line["faults"])
    tally.judged.update(verdict.judged)
    tally.violations += verdict.violations


def read_lines(path: Path) -> list[dict]:
    """Of a file whose writer may have died in the middle of a line."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
