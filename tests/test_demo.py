"""The demo end to end on a small recording: three processes over DDS, scored, and held against the replay."""

from __future__ import annotations

import json
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
from mss_perception.messages import (  # noqa: E402
    bag_types,
    encode_camera_info,
    encode_cloud,
    encode_image,
    encode_transforms,
)

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
    """A network that takes 0.1 s for 256 pixels; the time that it really takes must not decide a test."""
    modalities = ("rgb", "lidar")

    def __call__(self, images, present) -> None:
        assert images.keys() == present.keys() == set(self.modalities)
        time.sleep(0.1 * images["rgb"].shape[1] / 256)


@pytest.mark.parametrize(("share", "size", "rate_hz"), [(100.0, 256, 10.0), (0.4, 256, 2.0), (0.15, 128, 2.0),
                                                        (0.0, 128, 2.0)])
def test_size_and_rate_are_the_best_that_leave_room_for_the_rest(monkeypatch, share, size, rate_hz):
    monkeypatch.setattr(demo, "SHARE", share)       # 0.1 s is 1.0 of the time at 10 Hz, 0.5 at 5 Hz, 0.2 at 2 Hz
    monkeypatch.setattr(demo, "RUNS", 1)
    assert demo.affordable(Slow())[:2] == (size, rate_hz)


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
    from mss_perception.faults import parse_fault

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


def test_soak_faults_are_reproducible_and_within_the_run():
    faults = soak.random_faults(["rgb", "lidar"], 100, seed=5)
    assert faults == soak.random_faults(["rgb", "lidar"], 100, seed=5) != soak.random_faults(["rgb", "lidar"], 100, 6)
    assert len(faults) > 10


def test_the_config_of_a_run_serves_node_and_replay(bag, tmp_path):
    config = Config.from_yaml(demo.write_config(tmp_path, bag, {"tick_rate_hz": 4.0}))
    assert config.collector.tick_rate_hz == 4.0 and config.inputs["depth"].offset_sec == pytest.approx(0.004)
    assert config.calibration_file and bag_summary(bag).topics
