"""Storms of faults: the short form of `python -m mss_perception.stress`, and that its oracles notice what is wrong."""

from __future__ import annotations

import json
import signal
import time
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from collector_mutants import MUTANTS, collector_class

from mss_perception import pipeline
from mss_perception.stress import __main__ as stress
from mss_perception.stress import inside, report
from mss_perception.stress.damage import DAMAGES, OF_INFOS
from mss_perception.stress.inside import Run, Tally, Witness
from mss_perception.stress.live_judge import StormJudge
from mss_perception.stress.live_storm import CLOCK, LiveStorm
from mss_perception.stress.storm import Storm

SECONDS, RATE = 12, 3.0     # of a storm; the phase that has begun is played to its end
SEEDS = (34, 45, 60, 98, 109, 131, 148)      # they have all faults between them
# Mistakes of collector_mutants.py, and a seed at which a storm comes upon each.
NOTICED = {"the tolerance is doubled": 60, "a sample serves twice": 1, "no offset": 34,
           "a dead input is waited for": 34, "a deadline is not reported": 34}


def broken(mistake: str):
    """A context in which the pipeline's collector has a mistake of collector_mutants.py."""
    mutant, = (one for one in MUTANTS if one.mistake == mistake)
    return patch.object(pipeline, "Collector", collector_class(mutant))


def storm(seed: int, seconds: float = SECONDS, rate: float = RATE) -> Tally:
    return Run(Storm(seed, seconds, rate), Witness())()


@pytest.fixture(scope="module")
def tally() -> Tally:
    total = Tally()
    for seed in SEEDS:
        total.add(storm(seed))
    return total


def test_storms_break_nothing(tally):
    assert tally.violations == []
    assert tally.outputs > 1000 and tally.epochs > len(SEEDS)


def test_storms_have_all_faults(tally):
    wanted = {"drop", "delay", "duplicate", "reorder", "stray stamp", "wrong clock", "frozen payload", "flood",
              "silence", "camera_info changed", "camera_info lost", "odometry lost", "time: loop", "time: loop called",
              "time: forward", "time: step", "time: pause"}
    wanted |= {f"damage: {one.__name__}" for some in DAMAGES.values() for one in some}
    wanted |= {f"camera_info: {one.__name__}" for one in OF_INFOS}
    assert wanted - tally.faults.keys() == set()


def test_each_invariant_is_put_to_the_test(tally):
    seldom = {"an epoch ends when all stamps have gone back", "an epoch does not end while an input goes on",
              "epochs grow by one", "only a stamp from before begins an epoch", "nothing is left at the end",
              "each output is handed on"}
    assert len(tally.judged) > 35 and seldom < tally.judged.keys()
    assert {name: count for name, count in tally.judged.items() if count < 50 and name not in seldom} == {}


def test_a_storm_repeats_exactly():
    one = storm(7, 8)
    assert vars(one) == vars(storm(7, 8)) != vars(storm(8, 8)) and one.ticks > 50


def test_a_set_that_is_opened_at_its_deadline_has_none_to_tell_of():
    """The period learnt with the next sample makes the one before a tick, which is a deadline old by then; nothing is
    left to wait for."""
    tally = storm(126, rate=1.0)
    assert tally.violations == [] and tally.judged["a deadline is told"] > 0


def test_what_its_jitter_makes_late_by_more_than_the_deadline_need_not_be_waited_for():
    """Without it the LiDAR's delay behind the camera is the deadline exactly."""
    assert storm(30013, 10).violations == []


@pytest.mark.parametrize("mistake", NOTICED)
def test_a_storm_notices_a_broken_collector(mistake):
    with broken(mistake):
        assert storm(NOTICED[mistake]).violations


def test_a_call_that_does_not_come_back_is_ended_and_named():
    def hangs(*_) -> None:
        until = time.process_time() + 5
        while time.process_time() < until:
            pass
        raise RuntimeError("nobody has ended it")

    with patch.object(inside, "CALL_SEC", 0.05), patch.object(pipeline.Pipeline, "receive", hangs):
        found, = storm(7, 4).violations
    assert found["invariant"] == "no exception escapes" and "Hang: it has taken 0.05 s" in found["details"]


# ------------------------------------------------------------------------------------------------------------- command

def test_the_command_ends_with_1_and_names_seed_and_time_of_what_it_found(tmp_path, capsys):
    arguments = ["--storms", "2", "--storm-seconds", "4", "--rate", "1", "--seed", "3", "--out", str(tmp_path)]
    assert stress.main(arguments) == 0
    good = json.loads((tmp_path / "stress.json").read_text())
    assert good["storms"] == 2 and good["violations"] == [] and sum(good["messages"].values()) > 1000
    assert (tmp_path / "report.txt").read_text() == report.text(good) + "\n"
    assert "VIOLATIONS: none" in capsys.readouterr().out

    with broken("the deadline runs on the clock of stamps"):
        assert stress.main(arguments) == 1
    found, *_ = json.loads((tmp_path / "stress.json").read_text())["violations"]
    assert found["invariant"] == "no set waits beyond its deadline" and found["t_sec"] > 0
    assert found["repeat"].endswith(f"--storms 1 --storm-seconds 4 --rate 1 --seed {found['seed']}")


def test_what_is_of_the_whole_run_is_reported_without_a_time(tmp_path):
    options = stress.arguments().parse_args(["--out", str(tmp_path)])
    watched = SimpleNamespace(samples=range(99), summary=lambda: {
        "memory_growth": 0.5, "memory_mb": {"before": 100, "after": 150}, "threads": {"before": 3, "after": 3}})
    text = report.text(stress.summary(options, Tally(), watched, 60.0, False))
    assert "VIOLATIONS: 1\n\n  memory is flat within 5%: +50.0%\n\n" in text


def test_ctrl_c_loses_nothing_of_what_was_measured(tmp_path):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    with patch.object(Run, "_finish", interrupt):
        assert stress.main(["--storm-seconds", "4", "--rate", "1", "--out", str(tmp_path)]) == 130
    result = json.loads((tmp_path / "stress.json").read_text())
    assert result["interrupted"] and result["storms"] == 1 and result["ticks"] > 10


@pytest.mark.parametrize("option", ["--rate=0.5", "--seconds=-1", "--storms=0", "--seed=-1", "--seconds=19 --live"])
def test_numbers_that_cannot_be_meant_are_refused(capsys, tmp_path, option):
    with pytest.raises(SystemExit) as end:
        stress.main(["--out", str(tmp_path / "out"), *option.split()])
    assert end.value.code == 2 and f"argument {option.partition('=')[0]}: " in capsys.readouterr().err


def test_a_network_that_cannot_be_read_is_named(capsys, tmp_path):
    assert stress.main(["--checkpoint", str(tmp_path / "none.safetensors"), "--out", str(tmp_path)]) == 2
    assert "none.safetensors" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ the judge of live storms

class Recorded:
    """A live storm as the recorder would have it, but that the pipeline is in this process: so nothing is late."""

    def __init__(self, seed: int) -> None:
        self.storm, self.start_ns, self.records = LiveStorm(seed, 40, 2.0), 0, []
        run = Run(self.storm, Witness())
        judge = run.judge.output

        def output(one) -> None:
            judge(one)
            self.records.append({**json.loads(json.dumps(one.record(), default=float)), "tau": run.tau})

        run.judge.output = output
        assert run().violations == []

    def lines(self, name: str) -> list[list[dict]]:
        return [[{"tau": 0, "late_ms": 0.0}]]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded(24)


def judged(recorded: Recorded, change=None) -> list[str]:
    """The invariants that do not hold, of records that `change` has done something to."""
    records = json.loads(json.dumps(recorded.records))
    if change:
        change(records)
    return list(dict.fromkeys(one["invariant"] for one in StormJudge(recorded, records, [])().violations))


def without_lidar(records) -> None:
    for record in records:
        record["inputs"]["lidar"], record["mask"]["lidar"] = {"state": "MISSING"}, False


def whole(records) -> None:
    for record in records:
        for name, one in record["inputs"].items():
            if one["state"] == "INVALID":
                one["state"], record["mask"][name] = "OK", True


def renumbered(records) -> None:
    for epoch, record in enumerate(records):
        record["epoch"] = epoch


def moved(records) -> None:
    for record in records:
        if "stamp" in record["inputs"]["rgb"]:
            record["inputs"]["rgb"]["stamp"] += 1
            record["inputs"]["rgb"]["stamp_delta"] += 1


def slow(records) -> None:
    for record in records:
        record["latency_ms"]["wait"] = 240.0


def in_another_frame(records) -> None:
    records[-1]["frame_id"] = "moon"


def thinned(records) -> None:
    del records[::2], records[::2]


def unmasked(records) -> None:
    for record in records:
        record["mask"]["rgb"] = False


def test_the_judge_of_live_storms_is_content_with_what_is_right(recorded):
    assert judged(recorded) == [] and len(recorded.records) > 300


@pytest.mark.parametrize(("change", "invariant"), [
    (without_lidar, "what works is in each set"), (whole, "what is broken is not used"),
    (moved, "a sample is one that was sent"), (thinned, "sets come without gaps"),
    (renumbered, "an epoch does not end in a calm"), (slow, "nothing waits for what is dead"),
    (in_another_frame, "labels are in the target camera's frame"), (unmasked, "the mask is what the states say"),
], ids=lambda one: getattr(one, "__name__", one))
def test_the_judge_of_live_storms_notices(recorded, change, invariant):
    assert invariant in judged(recorded, change)


@pytest.mark.parametrize("who", ["lidar", CLOCK])
def test_what_this_machine_did_is_excused(recorded, who):
    """A sensor's own process was late, or /clock's: samples are missing, and nobody is to blame."""
    late = SimpleNamespace(storm=recorded.storm, start_ns=0, lines=lambda name: [
        [{"tau": 0, "late_ms": 0.0}] + [{"tau": k * 10**9, "late_ms": 99.0} for k in range(1, 90) if name == who]])
    records = json.loads(json.dumps(recorded.records))
    without_lidar(records)
    verdict = StormJudge(late, records, [])()
    assert verdict.judged["excused: this machine was late"] > 100
    assert "what works is in each set" not in {one["invariant"] for one in verdict.violations}


@pytest.mark.parametrize(("message", "level", "broken"), [
    ("{topic} is published by /{name}_driver with incompatible QoS (...); running without lidar", 2, []),
    ("running without lidar", 1, ["a publisher that cannot be heard is an ERROR that names it"])])
def test_the_judge_reads_the_diagnostics_of_publishers_that_cannot_be_heard(message, level, broken):
    storm, phase, (name,) = next((storm, phase, names) for storm in (LiveStorm(seed, 60, 1.0) for seed in range(50))
                                 for phase in storm.phases if len(names := [
                                     name for name, weather in phase.weather.items()
                                     if weather.publisher in ("qos", "type") and weather.state == "silent"]) == 1)
    played = SimpleNamespace(storm=storm, start_ns=0, lines=lambda one: [
        [{"tau": phase.begin_ns + 10**9 if one.endswith("wrong") else 0, "late_ms": 0.0}]])
    topic = "/" + storm.config.inputs[name].topic
    lines = [{"tau": tau, "mss_perception: segmentation": {
        "level": level, "message": message.format(topic=topic, name=name), "values": {}}}
        for tau in range(phase.begin_ns + 6 * 10**9, phase.end_ns, 10**9)]
    verdict = StormJudge(played, [], lines)()
    assert [one["invariant"] for one in verdict.violations] == broken * len(lines) and len(lines) > 1
    assert verdict.judged["a publisher that cannot be heard is an ERROR that names it"] == len(lines)
