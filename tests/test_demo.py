"""The demo end to end on a small recording: three processes over DDS, scored, and held against the replay."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: the demo cannot be run")
import torch  # noqa: E402

from mss_models import checkpoint as checkpoints  # noqa: E402
from mss_models.labels import LABEL_SETS  # noqa: E402
from mss_models.modality import DEFAULT_ENCODINGS  # noqa: E402
from mss_models.system import create  # noqa: E402
from mss_perception import demo, live, soak  # noqa: E402
from mss_perception.bags import BagWriter, bag_summary  # noqa: E402
from mss_perception.camera import Camera  # noqa: E402
from mss_perception.config import Config  # noqa: E402
from mss_perception.faults import parse_fault  # noqa: E402
from mss_perception.messages import (  # noqa: E402
    bag_types,
    encode_camera_info,
    encode_cloud,
    encode_image,
    encode_transforms,
)
from mss_perception.player import LOOP_GAP_NS  # noqa: E402
from mss_perception.replay import expected_masks  # noqa: E402

MS = 1_000_000
START = 1_600_000_000 * 1_000_000_000
SECONDS = 4.0
SIZE = 48
CAMERA = Camera(SIZE, SIZE, np.array([[40.0, 0, 23.5], [0, 40, 23.5], [0, 0, 1]]), "plumb_bob", (0.0,) * 5, "camera")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "random.safetensors"
    model = create(system="segformer_mean", backbone="B0", head_width=32, num_classes=25,
                   modalities=("rgb", "depth", "event", "lidar"))
    checkpoints.save(path, model, LABEL_SETS["deliver"], DEFAULT_ENCODINGS, {}, image_size=(SIZE, SIZE))
    return path


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """Camera, depth and LiDAR at 10 Hz with their latencies; no event camera."""
    types, path, random = bag_types(), tmp_path_factory.mktemp("bag") / "bag", np.random.default_rng(0)
    T_camera_lidar = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    messages = [(START, "/tf_static", encode_transforms(types, [("camera", "lidar", T_camera_lidar)], START))]
    for k in range(round(SECONDS * 10)):
        t = START + 100 * MS * k
        pixels = random.integers(0, 255, (SIZE, SIZE, 3), np.uint8)
        metres = random.uniform(2, 40, (SIZE, SIZE)).astype(np.float32)
        x, y, z = (random.uniform(low, high, 800).astype(np.float32) for low, high in ((3, 30), (-5, 5), (-2, 2)))
        cloud = {"x": x, "y": y, "z": z, "intensity": random.uniform(0, 1, 800).astype(np.float32)}
        labels = random.integers(0, 25, (SIZE, SIZE), np.uint8)
        messages += [
            (t + 15 * MS, "/camera_info", encode_camera_info(types, CAMERA, t)),
            (t + 15 * MS, "/image", encode_image(types, pixels, "rgb8", t, "camera")),
            (t + 25 * MS, "/depth/camera_info", encode_camera_info(types, CAMERA, t + 4 * MS)),
            (t + 25 * MS, "/depth/image", encode_image(types, metres, "32FC1", t + 4 * MS, "camera")),
            (t + 20 * MS, "/points", encode_cloud(types, cloud, t - 6 * MS, "lidar")),
            (t + 15 * MS, "/labels", encode_image(types, labels, "mono8", t, "camera")),
        ]
    with BagWriter(path) as writer:
        for receive_ns, topic, message in sorted(messages, key=lambda one: one[0]):
            writer.write(topic, message, receive_ns)
    return path


def test_live_run_is_scored_and_agrees_with_the_replay(bag, network, tmp_path):
    faults = ["rgb:drop@0.8-2.0", "depth:drop@1.2-2.6", "lidar:corrupt@2.9-3.4"]
    metrics = demo.run(tmp_path, bag, {"tick_rate_hz": 5.0, "checkpoint": str(network), "threads": 1}, faults, seed=1)

    assert {promise: result for promise, result in metrics["checks"].items() if result != "ok"} == {}
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["outputs"] + sum(metrics["dropped"].values()) == metrics["ticks"] == pytest.approx(20, abs=3)
    assert metrics["messages"]["/image"]["sent"] == 40 - 12
    assert metrics["messages"]["/points"]["sent"] == 40
    alone = [frame for frame in metrics["frames"] if frame["mask"] == {
        "rgb": False, "depth": False, "event": False, "lidar": True}]
    assert alone and all(1.2 <= (frame["t_ref"] - START) / 1e9 <= 2.0 for frame in alone)
    assert metrics["miou"] is not None and metrics["live_and_replay"]["lowest_agreement"] == 1.0
    stamps = {name: set() for name in ("rgb", "depth", "lidar")}     # of the bag's messages, from what made them
    for k in range(round(SECONDS * 10)):
        for name, offset in (("rgb", 0), ("depth", 4 * MS), ("lidar", -6 * MS)):
            stamps[name].add(START + 100 * MS * k + offset)
    records = live.read_recording(tmp_path / "live").records
    for record in records:
        for name, used in record["mask"].items():
            assert not used or record["inputs"][name]["stamp"] in stamps[name]
    page = (tmp_path / "report.html").read_text()
    assert "Demo: live over ROS 2" in page and "<script" not in page
    assert list(tmp_path.glob("frame_*.png"))


class Slow:
    """A network that takes 0.1 s for 256 pixels and 0.05 s for 128; the bounds of the test are far from both."""
    modalities = ("rgb", "lidar")

    def __call__(self, images, present) -> None:
        assert images.keys() == present.keys() == set(self.modalities)
        time.sleep(0.1 * images["rgb"].shape[1] / 256)


@pytest.mark.parametrize(("bounds_ms", "chosen"), [((5000, 5000), (256, 10.0)), ((1, 5000), (256, 5.0)),
                                                   ((1, 1), (128, 2.0))])
def test_size_and_rate_are_the_best_that_the_network_is_fast_enough_for(monkeypatch, bounds_ms, chosen):
    monkeypatch.setattr(demo, "CHOICES", ((256, 10.0, bounds_ms[0]), (256, 5.0, bounds_ms[1]), (128, 2.0, math.inf)))
    monkeypatch.setattr(demo, "RUNS", 1)
    size, rate_hz, taken_ms = demo.affordable(Slow())
    assert (size, rate_hz) == chosen and taken_ms >= 100 * size / 256


def test_a_recording_without_the_node_is_an_error(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "player.json").write_text('{"shift_ns": 0, "sent": {}}')
    for name in ("masks.jsonl", "diagnostics.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(live.LiveError, match="no masks"):
        live.read_recording(tmp_path)


def test_a_process_that_ends_early_tells_why(tmp_path):
    with (live.Process("mss_perception.ros_player", ["/nowhere"], tmp_path / "log", live.environment()) as process,
          pytest.raises(live.LiveError, match="/nowhere")):
        process.wait_for("never said", 60)


def test_every_sensor_dies_and_returns_and_the_lidar_is_alone_for_a_while():
    """What the demo's schedule must contain, from the issue."""
    faults = [parse_fault(one) for one in demo.FAULTS]
    config = Config.from_yaml(demo.CONFIG)
    for name in config.inputs:
        drops = [fault for fault in faults if (fault.role, fault.kind) == (name, "drop")]
        assert drops and max(fault.end_sec for fault in drops) < demo.DURATION_SEC - 2
    t = np.arange(0, demo.DURATION_SEC, 0.1)
    dead = np.array([[any(fault.role == name and fault.kind == "drop" and fault.active(one) for fault in faults)
                      for one in t] for name in config.inputs])
    alone = [name for name, mine in zip(config.inputs, dead, strict=True)
             if np.any(~mine & (dead.sum(axis=0) == len(config.inputs) - 1))]
    assert alone == ["lidar"]


def test_soak_faults_leave_two_sensors_alone_and_come_back(seconds=200):
    inputs = ["rgb", "depth", "event", "lidar"]
    texts = soak.random_faults(inputs, seconds, seed=5)
    assert texts == soak.random_faults(inputs, seconds, seed=5) != soak.random_faults(inputs, seconds, 6)
    faults = [parse_fault(one, inputs) for one in texts]
    assert {fault.role for fault in faults} == set(inputs) and {fault.kind for fault in faults} == set(soak.KINDS)
    times = np.arange(0, seconds + 5, 0.05)
    active = np.array([[any(fault.role == name and fault.active(t) for fault in faults) for t in times[1:]]
                       for name in inputs])
    assert active.sum(axis=0).max() == soak.FAULTED_AT_ONCE and active.mean() > 0.2
    for name in inputs:
        mine = sorted((fault.start_sec, fault.end_sec) for fault in faults if fault.role == name)
        assert all(start - end >= 2 - 0.02 for (_, end), (start, _) in zip(mine, mine[1:], strict=False))
    deadline, future = Config().collector.deadline_sec, Config().collector.max_future_sec
    for fault in faults:
        if fault.kind == "delay":
            assert not deadline / 2 < fault.amount < 2 * deadline
        if fault.kind == "stamp":
            assert abs(fault.amount) > 2 * max(deadline, future)


def test_a_looped_bag_is_expected_to_pause_between_its_loops(bag):
    config = Config.from_mapping({"depth.offset_sec": 0.004, "lidar.offset_sec": -0.006})
    summary = bag_summary(bag)
    stamps, pauses, spans = soak.looped(summary, config, loops=3)
    assert {name: len(known) for name, known in stamps.items()} == {"rgb": 120, "depth": 120, "event": 0, "lidar": 120}
    period = summary.end_ns - summary.start_ns + LOOP_GAP_NS
    assert stamps["rgb"][40] == START + period and stamps["lidar"][80] == START + 2 * period - 6 * MS
    assert [(span[0], span[-1] + 1) for span in spans] == [
        (START + 3894 * MS + loop * period, START + 4 * MS + (loop + 1) * period) for loop in range(2)]
    expected = expected_masks([parse_fault("depth:drop@5-6"), *pauses], config, summary.start_ns, stamps, {})
    assert expected(START + 2000 * MS) == {"rgb": True, "depth": True, "event": False, "lidar": True}
    assert expected(START + 5500 * MS - 4000 * MS + period)["depth"] is False
    assert expected(START + 3900 * MS + 20 * MS)["rgb"] is not False           # the last image of the first loop
    assert expected(START + 3900 * MS + 60 * MS)["rgb"] is False              # the pause
    assert expected(START + period)["rgb"] is None                             # has just come back


def test_soak_checks_memory_and_threads():
    result = {"memory_growth": 0.04, "threads": {"before": 25.0, "after": 25.0}, "ticks": 50, "outputs": 50,
              "dropped": {}, "mask_checked": 9, "mask_wrong": 0, "messages": {},
              "node": {"status": 0, "shutdown_sec": 0.5}, "latency_ms": {"wait": {"p99": 90.0}}}
    assert not any(soak.checks(result, 0.1).values())
    for change, words in (({"memory_growth": 0.06}, "+6.0%"), ({"memory_growth": -0.06}, "-6.0%"),
                          ({"threads": {"before": 25.0, "after": 26.0}}, "26"), ({"mask_wrong": 1}, "1 of 9 wrong")):
        wrong = [why for why in soak.checks(result | change, 0.1).values() if why]
        assert len(wrong) == 1 and words in wrong[0]


def test_the_config_of_a_run_serves_node_and_replay(bag, tmp_path):
    config = Config.from_yaml(demo.write_config(tmp_path, bag, {"tick_rate_hz": 4.0}))
    assert config.collector.tick_rate_hz == 4.0 and config.inputs["depth"].offset_sec == pytest.approx(0.004)
    assert config.calibration_file and bag_summary(bag).topics


@pytest.mark.parametrize(("command", "option"), [
    (demo, "--size=-5"), (demo, "--tick-rate=nan"), (demo, "--seed=-1"), (soak, "--seconds=nan"),
    (soak, "--seconds=-1"), (soak, "--tick-rate=0"), (soak, "--size=3")])
def test_numbers_that_cannot_be_meant_are_refused(capsys, tmp_path, command, option):
    with pytest.raises(SystemExit) as end:
        command.main(["--out", str(tmp_path / "out"), option])
    assert end.value.code == 2 and f"argument {option.partition('=')[0]}: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("command", "name"), [(demo, "demo"), (soak, "soak")])
def test_results_cannot_go_where_a_file_is(tmp_path, capsys, command, name):
    (tmp_path / "file").touch()
    assert command.main(["--out", str(tmp_path / "file")]) == 2
    assert f"{name}: cannot write {tmp_path / 'file'}" in capsys.readouterr().err


def test_a_world_that_cannot_be_recorded_ends_the_demo_with_a_line(tmp_path, capfd):
    with pytest.raises(live.LiveError, match=r"could not be recorded; training\.synthesize has said why"):
        demo.record_bag(tmp_path, 32, 1.0, 1, "hail")
    assert "'hail'" in capfd.readouterr().err
