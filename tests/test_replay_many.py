"""Replays of a folder of bags: the merged figures, any number of processes, going on, bags that fail, a Ray cluster."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boxes
import numpy as np
import pytest
import torch
from test_replay import frames, without_latency
from test_report import Balanced

from mss_models import checkpoint as checkpoints
from mss_models.labels import DELIVER
from mss_perception import replay
from mss_perception.bags import bags_in

DRIVES = {"drive 1": (), "drive_2#b": ("/points",), "drive_3": ("/points", "/events")}    # bag -> topics left out


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "drives"
    folder.mkdir()
    for number, (name, leave_out) in enumerate(DRIVES.items()):
        boxes.write_bag(folder / name, 0.5 + 0.2 * number, leave_out, seed=number)
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """Random weights, so far apart that several classes are seen."""
    path = boxes.write_checkpoint(tmp_path_factory.mktemp("net") / "net.safetensors")
    one = checkpoints.load(path)
    with torch.no_grad():
        one.model.head.classify.weight *= 30
        one.model.head.classify.bias[[boxes.ROAD, boxes.CAR, boxes.SKY]] += 50
    checkpoints.save(path, one.model, one.labels, one.encodings, one.card, image_size=one.image_size)
    return path


def arguments(drives: Path, network: Path, out: Path, *more) -> list[str]:
    jobs = () if {"--jobs", "--ray"} & set(more) else ("--jobs", "1")
    return [str(drives), "--out", str(out), "--checkpoint", str(network), "--quiet", *jobs, *more]


@pytest.fixture(scope="module")
def merged(drives, network, tmp_path_factory) -> Path:
    """The folder of a replay of all of them."""
    out = tmp_path_factory.mktemp("merged") / "out"
    assert replay.main(arguments(drives, network, out)) == 0
    return out


def metrics_of(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def without_latencies(metrics: dict) -> dict:
    rows = [{name: value for name, value in row.items() if name not in ("latency_ms", "report")}
            for row in metrics["bags"]]
    return {name: value for name, value in metrics.items() if name != "latency_ms"} | {"bags": rows}


def miou(records: list[dict]) -> float:
    """Mean over the classes of the truth, from the records' counts."""
    hist = np.zeros((len(DELIVER), len(DELIVER)), np.int64)
    for record in records:
        for target, prediction, pixels in record["confusion"]:
            hist[target, prediction] += pixels
    there = np.flatnonzero(hist.sum(1))
    return float(np.mean([hist[k, k] / (hist[k].sum() + hist[:, k].sum() - hist[k, k]) for k in there]))


# ------------------------------------------------------------------------------------------------------- the figures

def test_merged_figures_are_those_of_all_frames(merged):
    metrics, alone = metrics_of(merged), {name: metrics_of(merged / name) for name in DRIVES}
    records = {name: frames(merged / name) for name in DRIVES}
    every = [record for name in DRIVES for record in records[name]]
    assert metrics["outputs"] == len(every) == sum(one["outputs"] for one in alone.values()) > 12
    assert metrics["ticks"] == sum(one["ticks"] for one in alone.values())
    assert metrics["mask_checked"] == sum(one["mask_checked"] for one in alone.values()) > 0
    assert metrics["miou"] == pytest.approx(miou(every), abs=1e-6) and 0.01 < metrics["miou"] < 0.9
    assert metrics["miou"] != pytest.approx(np.mean([one["miou"] for one in alone.values()]), abs=1e-4)
    by_mask = {"+".join(name for name, used in record["mask"].items() if used) for record in every}
    assert set(metrics["miou_by_mask"]) == by_mask and len(by_mask) >= 3
    for mask, score in metrics["miou_by_mask"].items():
        of_mask = [one for one in every if "+".join(name for name, used in one["mask"].items() if used) == mask]
        assert metrics["frames_by_mask"][mask] == len(of_mask)
        assert score == pytest.approx(miou(of_mask), abs=1e-6)
    for stage, found in metrics["latency_ms"].items():
        values = [one["latency_ms"][stage] for one in every if one["latency_ms"].get(stage) is not None]
        assert found == {f"p{q}": pytest.approx(np.percentile(values, q), abs=1e-3) for q in (50, 95, 99)}
    assert metrics["messages"]["/image"]["sent"] == sum(one["messages"]["/image"]["sent"] for one in alone.values())
    assert "/points" not in alone["drive_3"]["messages"] and metrics["messages"]["/points"]["received"] == 4
    for row, (name, one) in zip(metrics["bags"], alone.items(), strict=True):
        assert row["name"] == name and not row["failure"]
        assert {key: row[key] for key in ("ticks", "outputs", "miou", "latency_ms")} == \
            {key: one[key] for key in ("ticks", "outputs", "miou", "latency_ms")}


def test_each_bag_is_replayed_as_if_alone(drives, network, merged, tmp_path):
    (tmp_path / "one.yaml").write_text("threads: 1\n")
    assert replay.main(arguments(drives / "drive_2#b", network, tmp_path / "out", "--config",
                                 str(tmp_path / "one.yaml"))) == 0
    assert without_latency(frames(tmp_path / "out")) == without_latency(frames(merged / "drive_2#b"))
    alone, one_of_many = metrics_of(tmp_path / "out"), metrics_of(merged / "drive_2#b")
    assert {**alone, "latency_ms": 0} == {**one_of_many, "latency_ms": 0}
    names, of_many = ({path.name for path in folder.iterdir()} for folder in (tmp_path / "out", merged / "drive_2#b"))
    assert names == of_many


def test_the_page_has_a_row_and_a_link_for_each_bag(merged):
    page = (merged / "report.html").read_text()
    parsed = Balanced(page)
    assert parsed.sources == ["drive%201/report.html", "drive_2%23b/report.html", "drive_3/report.html"]
    assert all((merged / name / "report.html").is_file() for name in DRIVES)
    for text in (*DRIVES, "3", "none failed", "By mask", "Latency", "By class", "Messages and drops", "The network"):
        assert text in parsed.text
    assert "What was there" not in page and "No frame" not in page and "<script" not in page


def test_the_number_of_processes_changes_nothing(drives, network, merged, tmp_path):
    assert replay.main(arguments(drives, network, tmp_path / "out", "--jobs", "2", "--no-report")) == 0
    assert without_latencies(metrics_of(tmp_path / "out")) == without_latencies(metrics_of(merged))
    for name in DRIVES:
        assert without_latency(frames(tmp_path / "out" / name)) == without_latency(frames(merged / name))


# ------------------------------------------------------------------------------------------------- bags that go wrong

def test_a_bag_that_fails_is_named_and_the_others_go_on(drives, network, merged, tmp_path, capsys):
    folder = tmp_path / "drives"
    shutil.copytree(drives, folder)
    (folder / "broken.mcap").write_bytes(b"no bag")
    boxes.write_bag(folder / "uncalibrated", 0.4, ("/camera_info",))
    boxes.write_bag(folder / "blind", 0.4, ("/image", "/depth/image", "/points", "/events"))
    (folder / "notes.txt").write_text("no bag either")
    assert replay.main(arguments(folder, network, tmp_path / "out")) == 1
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("replay: ")]
    assert [line.split(": ")[1] for line in lines] == ["blind", "broken.mcap", "uncalibrated"]
    assert "broken.mcap cannot be opened" in lines[1] and "lacks /camera_info" in lines[2]
    metrics, whole = metrics_of(tmp_path / "out"), metrics_of(merged)
    assert [row["name"] for row in metrics["bags"] if row["failure"]] == ["blind", "broken.mcap", "uncalibrated"]
    rows = without_latencies(metrics | {"bags": [row for row in metrics["bags"] if not row["failure"]]})
    assert rows == without_latencies(whole)
    page = Balanced((tmp_path / "out/report.html").read_text())
    assert "broken.mcap cannot be opened" in page.text and "3 failed" in page.text
    assert f"report: {tmp_path / 'out/report.html'}" in told.out


def test_a_mistake_of_ours_on_one_bag_does_not_cost_the_others(drives, network, tmp_path, capsys, monkeypatch):
    real = replay.Replay.__call__

    def mistaken(self):
        return real(self) if self.bag.path.name != "drive_3" else {}["key"]

    monkeypatch.setattr(replay.Replay, "__call__", mistaken)
    out = tmp_path / "out"
    assert replay.main(arguments(drives, network, out, "--no-report")) == 1
    assert "replay: drive_3: KeyError: 'key'" in capsys.readouterr().err
    monkeypatch.undo()
    first, *_ = (out / "drive 1/frames.jsonl").read_text().splitlines()
    (out / "drive 1/frames.jsonl").write_text(f"{first}\n{{\n")
    assert replay.main(arguments(drives, network, out, "--no-report", "--resume")) == 1
    failures = [row["failure"] for row in metrics_of(out)["bags"]]
    assert failures == [f"{out}/drive 1/frames.jsonl is damaged in line 2; delete {out}/drive 1 to replay the bag anew",
                        "", ""]


def test_a_bag_without_outputs_says_why(drives, network, tmp_path, capsys):
    assert replay.main(arguments(drives, network, tmp_path / "out", "--limit", "0.01", "--no-report")) == 1
    told = capsys.readouterr().err
    assert all(f"replay: {name}: no output: nothing opened a set in 0.01 s: rgb has no message" in told
               for name in DRIVES)
    metrics = metrics_of(tmp_path / "out")
    assert metrics["outputs"] == 0 and metrics["miou"] is None
    assert not any(row["failure"] or row["report"] for row in metrics["bags"])
    assert not list((tmp_path / "out").rglob("report.html"))


def test_folders_that_cannot_be_meant(drives, network, tmp_path, capsys):
    def refused(*given) -> str:
        assert replay.main(arguments(*given)) == 2
        line, = capsys.readouterr().err.splitlines()
        return line

    (tmp_path / "empty").mkdir()
    assert "holds no .mcap or .db3 file: not a bag" in refused(tmp_path / "empty", network, tmp_path / "out")
    assert "contains the bag" in refused(drives, network, drives)
    assert "no.safetensors" in refused(drives, tmp_path / "no.safetensors", tmp_path / "out")
    assert "'radar' is no input" in refused(drives, network, tmp_path / "out", "--fault", "radar:drop@1-2")
    assert not (tmp_path / "out").exists() and not (drives / "run.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/metrics.json").write_text("mine")
    assert "metrics.json, but no run.json of a replay" in refused(drives, network, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["metrics.json"]


# ------------------------------------------------------------------------------------------------------------ going on

def stamps(out: Path) -> dict[str, int]:
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in out.glob("*/*")}


def test_resuming_does_what_is_left_and_no_more(drives, network, merged, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(merged, out)
    cut = out / "drive_2#b"
    kept = (cut / "frames.jsonl").read_text().splitlines(keepends=True)[:2]
    (cut / "frames.jsonl").write_text("".join(kept) + '{"t_ref": 170')
    (cut / "metrics.json").unlink()
    shutil.rmtree(out / "drive_3")
    before = stamps(out)
    assert replay.main(arguments(drives, network, out, "--resume")) == 0
    after = stamps(out)
    assert {name: after[name] for name in before if name.startswith("drive 1/")} == \
        {name: stamp for name, stamp in before.items() if name.startswith("drive 1/")}
    assert (cut / "frames.jsonl").read_text().startswith("".join(kept))     # with their latencies: not done again
    assert without_latencies(metrics_of(out)) == without_latencies(metrics_of(merged))
    assert replay.main(arguments(drives, network, out, "--resume")) == 0 and stamps(out) == after
    assert replay.main(arguments(drives, network, out)) == 0                # anew
    assert stamps(out)["drive 1/frames.jsonl"] > after["drive 1/frames.jsonl"]


def test_resuming_takes_new_bags_and_refuses_changed_ones(drives, network, tmp_path, capsys):
    folder, out = tmp_path / "drives", tmp_path / "out"
    folder.mkdir()
    shutil.copytree(drives / "drive_3", folder / "a")
    assert replay.main(arguments(folder, network, out, "--no-report")) == 0
    before = stamps(out)
    shutil.copytree(drives / "drive 1", folder / "b")
    assert replay.main(arguments(folder, network, out, "--no-report", "--resume")) == 0
    assert {name: stamp for name, stamp in stamps(out).items() if name in before} == before
    assert [row["name"] for row in metrics_of(out)["bags"]] == ["a", "b"]
    shutil.rmtree(folder / "a")
    shutil.copytree(drives / "drive_2#b", folder / "a")
    assert replay.main(arguments(folder, network, out, "--no-report", "--resume")) == 1
    assert f"replay: a: {out}/a holds a run with other settings: bytes, messages" in capsys.readouterr().err
    assert replay.main(arguments(folder, network, out, "--no-report", "--resume", "--seed", "3")) == 2
    assert f"{out} holds a run with other settings: seed" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_replay_ends_like_an_uninterrupted_one(drives, network, merged, tmp_path, jobs):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mss_perception.replay", *arguments(drives, network, out, "--jobs", jobs)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(out.glob("*/frames.jsonl")):
            time.sleep(0.01)
        for one in (signal.SIGSTOP, signal.SIGINT, signal.SIGCONT):     # it cannot end before that
            process.send_signal(one)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and told.splitlines()[-1] == f"replay: interrupted; --resume goes on with {out}"
    assert not (out / "metrics.json").exists()
    assert replay.main(arguments(drives, network, out, "--resume")) == 0
    assert without_latencies(metrics_of(out)) == without_latencies(metrics_of(merged))


# ------------------------------------------------------------------------------------------------------------ a cluster

def test_a_cluster_without_ray_names_the_extra(drives, network, merged, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)       # as where it is not installed
    out = tmp_path / "out"
    shutil.copytree(merged, out)
    assert replay.main(arguments(drives, network, out, "--ray")) == 2
    assert capsys.readouterr().err.splitlines()[-1] == \
        "replay: --ray needs Ray, which is not installed: pip install 'mss_perception[ray]'"
    assert metrics_of(out) == metrics_of(merged) and frames(out / "drive 1") == frames(merged / "drive 1")
    with pytest.raises(SystemExit):
        replay.main(arguments(drives, network, out, "--ray", "--jobs", "2"))
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_cluster_changes_nothing(ray_cluster, drives, network, merged, tmp_path, capsys):
    (drives / "broken.db3").write_bytes(b"no bag")
    try:
        assert replay.main(arguments(drives, network, tmp_path / "out", "--ray")) == 1
    finally:
        (drives / "broken.db3").unlink()
    metrics = metrics_of(tmp_path / "out")
    assert metrics["bags"].pop(0)["name"] == "broken.db3" and "replay: broken.db3: " in capsys.readouterr().err
    assert without_latencies(metrics) == without_latencies(metrics_of(merged))
    for name in DRIVES:
        assert without_latency(frames(tmp_path / "out" / name)) == without_latency(frames(merged / name))


def test_bags_are_found_by_name_and_not_in_a_bag(drives, tmp_path):
    assert [path.name for path in bags_in(drives)] == sorted(DRIVES)
    file = next((drives / "drive 1").glob("*.mcap"))
    assert bags_in(drives / "drive 1") == bags_in(file) == bags_in(tmp_path / "nowhere") == []
    shutil.copy(file, tmp_path / "loose.mcap")
    assert bags_in(tmp_path) == [tmp_path / "loose.mcap"]
    assert os.path.samefile(bags_in(drives)[0], drives / "drive 1")
