"""replay.py, recording.py and scoring.py on small recordings: determinism, faults, resuming, the files written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import boxes
import cv2
import numpy as np
import pytest

from mss_perception import messages, replay
from mss_perception.bags import BagWriter, read_bag, typestore
from mss_perception.calibration import CalibrationError
from mss_perception.camera import Camera
from mss_perception.config import Config, ConfigError
from mss_perception.mask_message import read_mask_message
from mss_perception.recording import RunError
from mss_perception.replay import Replay, ReplayError
from mss_perception.truth import TruthError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> tuple[Path, Path]:
    """(bag, checkpoint)"""
    folder = tmp_path_factory.mktemp("recording")
    return boxes.write_bag(folder / "boxes"), boxes.write_checkpoint(folder / "net.safetensors")


def config(checkpoint: Path, **more) -> Config:
    return Config.from_mapping({"checkpoint": str(checkpoint), "precision": "fp32", "device": "cpu", "threads": 1,
                                "width": 32, "height": 32, **more})


def run(recording, out: Path, faults=(), values=None, **options) -> dict:
    bag, checkpoint = recording
    return Replay(bag, out, config(checkpoint, **(values or {})), faults, report=False, progress=False, **options)()


def frames(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]


def without_latency(records: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "latency_ms"} for record in records]


# ------------------------------------------------------------------------------------------------- what comes out

def test_without_faults_every_input_is_used_and_measured(recording, tmp_path):
    metrics = run(recording, tmp_path)
    assert metrics["outputs"] == metrics["ticks"] == 19 and metrics["dropped"] == {}
    assert metrics["mask_wrong"] == 0 and metrics["mask_checked"] >= 18
    assert metrics["frames_by_mask"] == {"rgb+depth+event+lidar": 19}
    assert all(one["sent"] == one["received"] for one in metrics["messages"].values())
    last = frames(tmp_path)[-1]
    assert last["mask"] == dict.fromkeys(("rgb", "depth", "event", "lidar"), True)
    # The LiDAR of boxes.py looks through the camera: each point is in the image, and nothing moves between.
    bag_points = [m for topic, _, m in read_bag(recording[0], ["/points"])][-1]
    assert last["inputs"]["lidar"]["points"] == last["inputs"]["lidar"]["points_in_image"] == bag_points.width
    assert last["inputs"]["lidar"]["stamp_delta"] == 4_000_000 and last["inputs"]["lidar"]["deskewed"] is True
    event = last["inputs"]["event"]
    assert event["events"] == event["on"] + event["off"] == events_between(recording[0], last["t_ref"])


def test_events_ahead_of_the_cameras_give_outputs_of_their_own_and_no_drop(recording, tmp_path):
    """The cameras and the LiDAR begin half a second after the events, when no set waits for them any more."""
    with BagWriter(tmp_path / "late") as bag:
        for topic, time_ns, message in read_bag(recording[0]):
            if topic.startswith(("/events", "/odom", "/tf")) or time_ns > boxes.START_NS + 500_000_000:
                bag.write(topic, message, time_ns)
    metrics = run((tmp_path / "late", recording[1]), tmp_path / "out")
    assert metrics["dropped"] == {} and metrics["mask_wrong"] == 0
    assert set(metrics["frames_by_mask"]) == {"event", "rgb+depth+event+lidar"}
    assert metrics["frames_by_mask"]["event"] == 4 + 2          # 0.1 to 0.4 s, and until they have come twice
    assert [f["expected"]["rgb"] for f in metrics["frames"]].count(False) >= 2


def events_between(bag: Path, t_ref: int, window_ns: int = 50_000_000) -> int:
    times = np.concatenate([messages.decode_events(m).t for _, _, m in read_bag(bag, ["/events"])])
    return int(np.count_nonzero((times >= t_ref - window_ns) & (times <= t_ref)))


def test_score_is_that_of_the_labels_written(recording, tmp_path):
    """An independent mIoU: from the output bag and the recording's labels, class by class."""
    metrics = run(recording, tmp_path, write_bag=True)
    truth = {messages.stamp_ns(m.header): messages.decode_image(m) for _, _, m in read_bag(recording[0], ["/labels"])}
    labels = {messages.stamp_ns(m.header): messages.decode_image(m)
              for _, _, m in read_bag(tmp_path / "bag", ["/mss_perception/segmentation"])}
    assert len(labels) == metrics["outputs"]
    pairs = [(truth[min(truth, key=lambda stamp: abs(stamp - t_ref))], image) for t_ref, image in labels.items()]
    target, predicted = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    iou = [((target == k) & (predicted == k)).sum() / ((target == k) | (predicted == k)).sum()
           for k in np.union1d(target, predicted)]
    assert metrics["miou"] == pytest.approx(np.mean(iou), abs=1e-6)


@pytest.mark.parametrize("setting", ["clock_offset_sec", "offset_sec"])
def test_labels_are_found_by_the_stamps_of_the_camera_that_they_are_of(recording, tmp_path, setting):
    """Image and labels have stamps that are 0.13 s ahead of the others: more than a frame."""
    def ahead(topic, message):
        if topic in ("/image", "/labels"):
            stamp = messages.stamp_ns(message.header) + 130_000_000
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        return message

    late = without(recording[0], tmp_path / "bag", ahead), recording[1]
    found = run(late, tmp_path / "late", values={f"rgb.{setting}": 0.13})
    expected = run(recording, tmp_path / "right")
    assert found["confusion"] == expected["confusion"] and found["frames"] == expected["frames"]


def test_output_bag_carries_the_record_of_every_set_dropped_ones_included(recording, tmp_path):
    run(recording, tmp_path, ["depth:drop@0.5-1.2"], values={"min_modalities": 4}, write_bag=True)
    records = {record["t_ref"]: record for record in without_latency(frames(tmp_path))}
    assert len({record["dropped"] for record in records.values()}) == 2
    written = {messages.stamp_ns(m.header): read_mask_message(m) for _, _, m
               in read_bag(tmp_path / "bag", ["/mss_perception/modality_mask"])}
    assert list(written) == list(records)
    for t_ref, record in written.items():
        assert record.pop("latency_ms")
        assert record == {key: value for key, value in approximately(records[t_ref]).items() if key in record}


def approximately(value):
    """The same with floats as a message has them."""
    if isinstance(value, dict):
        return {key: approximately(one) for key, one in value.items()}
    return pytest.approx(value, rel=1e-3) if isinstance(value, float) else value


def test_two_replays_are_identical_but_for_latency(recording, tmp_path):
    faults = ["rgb:noise@0.3-0.8", "lidar:drop@0.6-1.2", "depth:corrupt@1-1.5"]
    one, two = (run(recording, tmp_path / name, faults, seed=7) for name in "ab")
    one.pop("latency_ms"), two.pop("latency_ms")
    assert one == two
    assert without_latency(frames(tmp_path / "a")) == without_latency(frames(tmp_path / "b"))
    other = run(recording, tmp_path / "c", faults, seed=8)
    assert [f["labels"] for f in frames(tmp_path / "c") if not f["dropped"]] != \
        [f["labels"] for f in frames(tmp_path / "a") if not f["dropped"]]
    assert [f["mask"] for f in other["frames"]] == [f["mask"] for f in one["frames"]]


def test_sqlite3_gives_the_same_as_mcap(recording, tmp_path):
    convert = [sys.executable, "-m", "rosbags.convert", "--src", str(recording[0]), "--dst", str(tmp_path / "db3"),
               "--dst-storage", "sqlite3"]
    subprocess.run(convert, check=True, capture_output=True)
    assert list((tmp_path / "db3").glob("*.db3"))
    run(recording, tmp_path / "mcap")
    run((tmp_path / "db3", recording[1]), tmp_path / "out")
    assert without_latency(frames(tmp_path / "mcap")) == without_latency(frames(tmp_path / "out"))


# ----------------------------------------------------------------------------------------------------------- faults

def test_masks_under_many_faults_are_the_specified_ones(recording, tmp_path):
    metrics = run(recording, tmp_path, ["lidar:drop@0.6-1.3", "depth:corrupt@0.6-1.3", "rgb:noise@0.3-1.5",
                                        "event:drop@0.6-1.3"])
    assert metrics["mask_wrong"] == 0 and metrics["mask_checked"] >= 6
    assert metrics["frames_by_mask"]["rgb"] >= 5 and metrics["frames_by_mask"]["rgb+depth+event+lidar"] >= 4


def test_no_set_waits_longer_than_the_deadline_and_none_for_a_dead_sensor(recording, tmp_path):
    run(recording, tmp_path, ["lidar:drop@0.5-"])
    waits = {f["t_ref"]: f["latency_ms"]["wait"] for f in frames(tmp_path)}
    assert max(waits.values()) <= 100.0
    assert all(wait < 20 for t_ref, wait in waits.items() if t_ref > boxes.START_NS + 1_000_000_000)


def test_one_sensor_left_still_gives_outputs_and_none_left_gives_no_more_ticks(recording, tmp_path):
    metrics = run(recording, tmp_path, [f"{name}:drop@0.5-1.2" for name in ("rgb", "depth", "event")])
    alone = [f for f in metrics["frames"] if 0.7 < (f["t_ref"] - boxes.START_NS) / 1e9 < 1.15]
    assert len(alone) >= 4 and all(f["mask"] == {"rgb": False, "depth": False, "event": False, "lidar": True}
                                   for f in alone)
    assert metrics["mask_wrong"] == 0


def test_min_modalities_drops_sets_by_name(recording, tmp_path):
    metrics = run(recording, tmp_path, ["lidar:drop@0.5-1.2"], {"min_modalities": 4})
    assert metrics["dropped"]["below_min_modalities"] >= 6
    assert metrics["outputs"] + sum(metrics["dropped"].values()) == metrics["ticks"]
    assert metrics["mask_wrong"] == 0 and metrics["mask_checked"] == metrics["ticks"]
    assert all(all(f["mask"].values()) == (f["dropped"] is None) for f in metrics["frames"])


# --------------------------------------------------------------------------------------------------------- resuming

RESUMED_FAULTS = ["lidar:drop@0.5-1", "depth:corrupt@1-1.4"]


@pytest.fixture(scope="module")
def whole_run(recording, tmp_path_factory) -> tuple[Path, dict]:
    """(folder, metrics) of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(recording, folder, RESUMED_FAULTS, write_bag=True)


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


@pytest.mark.parametrize("lines, tail", [(0, ""), (7, '{"t_ref": 17000000'), (100, "")])
def test_interrupted_and_resumed_ends_like_an_uninterrupted_run(recording, whole_run, tmp_path, lines, tail):
    whole, metrics = whole_run
    cut = shutil.copytree(whole, tmp_path / "cut")
    path = cut / "frames.jsonl"
    kept = "".join(path.read_text().splitlines(keepends=True)[:lines])
    path.write_text(kept + tail)
    resumed = run(recording, cut, RESUMED_FAULTS, write_bag=True, resume=True)
    assert path.read_text().startswith(kept)       # latencies too: these frames were not computed again
    assert without_latency(frames(cut)) == without_latency(frames(whole))
    assert {**resumed, "latency_ms": 0} == {**metrics, "latency_ms": 0}
    assert files(cut, "*.png") == files(whole, "*.png")
    for (topic, time_ns, one), (_, _, two) in zip(read_bag(whole / "bag"), read_bag(cut / "bag"), strict=True):
        assert messages.stamp_ns(one.header) == messages.stamp_ns(two.header) == time_ns
        assert topic.endswith("modality_mask") or np.array_equal(one.data, two.data)


def test_resuming_with_other_settings_is_refused_by_name(recording, tmp_path):
    run(recording, tmp_path, ["lidar:drop@0.5-1"])
    with pytest.raises(RunError, match="other settings: faults"):
        run(recording, tmp_path, ["lidar:drop@0.5-1.1"], resume=True)


@pytest.mark.parametrize("line", [b"{\n", b"\xff\n", b"[]\n", b'{"t_ref": 5}\n'])
def test_resuming_a_damaged_run_is_refused_by_file(recording, whole_run, tmp_path, line):
    cut = shutil.copytree(whole_run[0], tmp_path / "cut")
    lines = (cut / "frames.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "frames.jsonl").write_bytes(b"".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(RunError, match="frames.jsonl is damaged in line 3"):
        run(recording, cut, RESUMED_FAULTS, write_bag=True, resume=True)


def test_resuming_a_run_whose_labels_are_gone_is_refused_by_file(recording, whole_run, tmp_path):
    cut = shutil.copytree(whole_run[0], tmp_path / "cut")
    shutil.rmtree(cut / "labels")
    with pytest.raises(RunError, match="labels/.*png of the run before is missing"):
        run(recording, cut, RESUMED_FAULTS, write_bag=True, resume=True)


def test_without_resume_an_old_run_is_replaced(recording, tmp_path):
    run(recording, tmp_path, write_bag=True)
    run(recording, tmp_path, limit_sec=0.6)
    assert len(frames(tmp_path)) < 8 and not (tmp_path / "bag").exists()


def test_files_of_others_are_never_deleted(recording, tmp_path):
    session = tmp_path / "session"
    shutil.copytree(recording[0], session / "bag")
    with pytest.raises(ReplayError, match="contains the bag"):
        run((session / "bag", recording[1]), session)
    assert files(session / "bag", "*") == files(recording[0], "*")
    (session / "labels").mkdir()
    (session / "labels" / "mine.png").write_bytes(b"hours of work")
    (session / "run.json").write_text('{"speed": 3}')           # of another program
    with pytest.raises(RunError, match=r"has run\.json, labels, bag, but no run\.json of a replay"):
        run(recording, session)
    assert (session / "labels" / "mine.png").exists() and files(session / "bag", "*") == files(recording[0], "*")


# ------------------------------------------------------------------------------------------------------ command line

def test_command_line_writes_everything_and_the_report_needs_nothing_else(recording, tmp_path, capsys):
    bag, checkpoint = recording
    done = replay.main([str(bag), "--out", str(tmp_path), "--checkpoint", str(checkpoint), "--quiet",
                        "--fault", "rgb:drop@0.5-1", "--fault", "lidar:freeze@1-1.5", "--size", "64x32"])
    assert done == 0 and "outputs of" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"ticks", "outputs", "dropped", "messages", "frames", "mask_wrong", "miou", "miou_by_mask",
            "latency_ms"} <= set(metrics)
    assert set(metrics["latency_ms"]["inference"]) == {"p50", "p95", "p99"}
    page = (tmp_path / "report.html").read_text()
    assert "rgb:drop@0.5-1" in page and page.count("data:image/png;base64,") > 20
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page and "http" not in page
    sheets = sorted(tmp_path.glob("frame_*.png"))
    assert len(sheets) >= 6 and all(cv2.imread(str(sheet)) is not None for sheet in sheets)


def test_limit_stops_early(recording, tmp_path):
    metrics = run(recording, tmp_path, limit_sec=1.0)
    assert metrics["frames"][-1]["t_ref"] <= boxes.START_NS + 1_000_000_000
    assert metrics["messages"]["/image"]["sent"] < 12


@pytest.mark.parametrize("arguments, text", [
    (["--fault", "rgb:explode@1-2"], "'explode' is no kind"),
    (["--fault", "radar:drop@1-2"], "'radar' is no input"),
    (["--size", "big"], "WIDTHxHEIGHT"),
    (["--size", "0x128"], "--size 0x128: must be WIDTHxHEIGHT"),
    (["--size", "9" * 5000 + "x32"], "must be WIDTHxHEIGHT"),
    (["--topic", "rgb=a b"], "rgb.topic = 'a b' is no topic"),
    (["--topic", "odom=/image"], "odometry_topic = '/image' is rgb's already"),
    (["--topic", "tf_static=/image"], "rgb.topic = 'image' is tf_static_topic's already"),
    (["--topic", "rgb"], "ROLE=TOPIC"),
    (["--topic", "rgb=/a", "--topic", "depth=/b", "--topic", "lidar=/c", "--topic", "event=/d"],
     "none of the sensor topics /a (rgb), /b (depth)"),
    (["--topic", "rgb/info=/nowhere"], "lacks /nowhere (camera_info of the target camera rgb)"),
    (["--checkpoint", "/nowhere.safetensors"], "/nowhere.safetensors"),
    (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
])
def test_wrong_arguments_end_with_one_clear_line(recording, tmp_path, capsys, arguments, text):
    bag, checkpoint = recording
    done = replay.main([str(bag), "--out", str(tmp_path / "out"), "--checkpoint", str(checkpoint), "--quiet",
                        *arguments])
    message = capsys.readouterr().err
    assert done == 2 and text in message and "Traceback" not in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option, text", [
    ("--limit=nan", "nan must be from"), ("--limit=-1", "-1 must be more than 0"), ("--limit=1e30", "1e30 must be"),
    ("--seed=-1", "-1 must be at least 0")])
def test_numbers_that_cannot_be_meant_are_refused(capsys, option, text):
    with pytest.raises(SystemExit) as end:
        replay.main(["bag", "--out", "out", option])
    assert end.value.code == 2 and f"argument {option.partition('=')[0]}: {text}" in capsys.readouterr().err


def test_results_cannot_go_where_a_file_is(recording, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out, words in ((tmp_path / "file", "is a file; name a folder"), (tmp_path / "file" / "out", "cannot write")):
        assert replay.main([str(recording[0]), "--out", str(out), "--checkpoint", str(recording[1]), "--quiet"]) == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("content, words", [
    (b"checkpoint: \xe4", "must be text in UTF-8"), (b"&a {rgb: *a}", "aliases"), (b"jump_back_sec: 1e308", "range"),
    (b"deadline_sec: 1" + b"0" * 400, "64 bits"), (b"deadlin_sec: 1\nlate_policy: x", "meant deadline_sec?; late_pol")])
def test_a_configuration_that_cannot_be_used_is_one_line(recording, tmp_path, capsys, content, words):
    (tmp_path / "config.yaml").write_bytes(content)
    assert replay.main([str(recording[0]), "--out", str(tmp_path / "out"), "--config",
                        str(tmp_path / "config.yaml")]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("replay: configuration ") and words in line


def test_a_missing_bag_is_an_error_that_names_it(tmp_path, capsys):
    assert replay.main([str(tmp_path / "no.mcap"), "--out", str(tmp_path / "out")]) == 2
    assert "no.mcap does not exist" in capsys.readouterr().err


def test_topics_can_be_renamed(recording, tmp_path):
    with BagWriter(tmp_path / "renamed") as bag:
        for topic, time_ns, message in read_bag(recording[0]):
            bag.write({"/image": "/cam/front/image", "/camera_info": "/cam/front/info"}.get(topic, topic), message,
                      time_ns)
    metrics = run((tmp_path / "renamed", recording[1]), tmp_path / "out",
                  values={"rgb.topic": "cam/front/image", "rgb.info_topic": "/cam/front/info"})
    assert metrics["frames"][-1]["mask"]["rgb"] and metrics["messages"]["/cam/front/image"]["received"] == 19


def test_calibration_of_the_bag_counts_from_its_start(recording, tmp_path):
    """The camera's first camera_info comes with its first image, a second after the LiDAR's first sweep."""
    with BagWriter(tmp_path / "late") as bag:
        for topic, time_ns, message in read_bag(recording[0]):
            if topic not in ("/image", "/camera_info") or time_ns > boxes.START_NS + 1_000_000_000:
                bag.write(topic, message, time_ns)
    run((tmp_path / "late", recording[1]), tmp_path / "out")
    early = [r for r in frames(tmp_path / "out") if 0.4 < (r["t_ref"] - boxes.START_NS) / 1e9 < 0.9]
    assert len(early) >= 4 and all(r["mask"] == {"rgb": False, "depth": True, "event": True, "lidar": True}
                                   for r in early)
    run((tmp_path / "late", recording[1]), tmp_path / "without", ["rgb/info:drop@0-"])
    assert all(r["dropped"] == "below_min_modalities" for r in frames(tmp_path / "without"))


@pytest.mark.parametrize("fault, missing", [
    ("rgb/info:drop@0-", {"rgb", "depth", "event", "lidar"}), ("depth/info:drop@0-", {"depth"}),
    ("tf_static:drop@0-", {"event", "lidar"}), ("odom:drop@0-", set())])
def test_no_mask_is_called_wrong_for_a_fault_on_what_is_no_input(recording, tmp_path, fault, missing):
    """Depth needs no transform: it is of the camera's own place, but by frame."""
    metrics = run(recording, tmp_path, [fault], limit_sec=0.7)
    lost = {name for name in metrics["frames"][-1]["mask"] if not metrics["frames"][-1]["mask"][name]}
    assert missing <= lost and len(metrics["frames"]) >= 5
    assert metrics["mask_wrong"] == 0
    assert {name for name, one in metrics["frames"][-1]["expected"].items() if one is None} >= lost
    assert (metrics["mask_checked"] == 0) == (fault == "rgb/info:drop@0-")


def without(bag: Path, out: Path, change) -> Path:
    """The bag with each message as change(topic, message) leaves it, None leaves it out."""
    with BagWriter(out) as writer:
        for topic, time_ns, message in read_bag(bag):
            if (message := change(topic, message)) is not None:
                writer.write(topic, message, time_ns)
    return out


def zero_stamps(topic, message):
    if hasattr(message, "header"):
        message.header.stamp.sec = message.header.stamp.nanosec = 0
    return message


def empty_payloads(topic, message):
    if hasattr(message, "data"):
        message.data = np.zeros(0, np.uint8)
    return message


@pytest.mark.parametrize("change, options, words", [
    (None, ["--limit", "0.01"], ["nothing opened a set in 0.01 s", "rgb has no message", "lidar has no message"]),
    (None, [f"--fault={name}:drop@0-" for name in ("rgb", "depth", "event", "lidar")],
     ["the faults took all 4 messages of rgb", "of lidar"]),
    (zero_stamps, [], ["rgb has 4 messages, 0 of use: stamps are zero; the driver must set header.stamp"]),
    (empty_payloads, [], ["sets were dropped", "below_min_modalities", "rgb is INVALID, image data has 0 bytes"]),
])
def test_a_replay_without_any_output_says_why_and_fails(recording, tmp_path, capsys, change, options, words):
    bag = without(recording[0], tmp_path / "bag", change) if change else recording[0]
    status = replay.main([str(bag), "--out", str(tmp_path / "out"), "--checkpoint", str(recording[1]), "--quiet",
                          "--no-report", "--limit", "0.5", *options])
    error = capsys.readouterr().err
    assert status == 1 and "replay: no output: " in error and all(one in error for one in words), error
    assert json.loads((tmp_path / "out/metrics.json").read_text())["outputs"] == 0


def test_labels_that_are_no_images_or_not_there_are_told(recording, tmp_path, caplog):
    with pytest.raises(TruthError, match="labels on /points are sensor_msgs/msg/PointCloud2; must be"):
        run(recording, tmp_path / "points", values={"labels_topic": "points"})
    run(recording, tmp_path / "none", values={"labels_topic": "truth"}, limit_sec=0.3)
    assert f"bag {recording[0]} has no labels on /truth: nothing is scored" in caplog.text


def test_a_camera_of_the_calibration_that_no_input_has_is_told(recording, tmp_path, caplog):
    camera = "{frame_id: a, width: 96, height: 64, K: [80, 0, 47.5, 0, 80, 31.5, 0, 0, 1]}"
    (tmp_path / "calibration.yaml").write_text(f"cameras: {{rgb_left: {camera}}}")
    run(recording, tmp_path / "out", values={"calibration_file": str(tmp_path / "calibration.yaml")}, limit_sec=0.3)
    record, = (one for one in caplog.records if "calibration_file" in one.message)
    assert record.levelname == "WARNING" and "camera 'rgb_left' of calibration_file is not used" in record.message


def test_a_mistake_in_the_calibration_shows_before_an_old_run_is_deleted(recording, tmp_path):
    (tmp_path / "calibration.yaml").write_text("cameras: {rgb: {}}")
    (tmp_path / "out").mkdir()
    for name in ("run.json", "frames.jsonl"):
        (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(CalibrationError, match="camera 'rgb' must have"):
        run(recording, tmp_path / "out", values={"calibration_file": str(tmp_path / "calibration.yaml")})
    assert (tmp_path / "out/frames.jsonl").exists()


def test_labels_of_another_size_are_an_error_not_a_score(recording, tmp_path):
    with BagWriter(tmp_path / "wrong") as bag:
        for topic, time_ns, message in read_bag(recording[0]):
            if topic == "/labels":
                message = messages.encode_image(messages.bag_types(), np.zeros((8, 8), np.uint8), "mono8",
                                                messages.stamp_ns(message.header), "camera_optical")
            bag.write(topic, message, time_ns)
    with pytest.raises(ReplayError, match="labels on /labels have 8 x 8 pixels"):
        run((tmp_path / "wrong", recording[1]), tmp_path / "out")


@pytest.mark.parametrize(("suffix", "shape", "form"), [
    (".png", (boxes.HEIGHT, boxes.WIDTH), "mono8; png compressed "),
    (".png", (boxes.HEIGHT, boxes.WIDTH, 3), "bgr8; png compressed bgr8"),
    (".jpg", (boxes.HEIGHT, boxes.WIDTH), "mono8; jpeg compressed mono8")])
def test_compressed_labels_must_be_what_they_were(recording, tmp_path, suffix, shape, form):
    compressed = typestore().types["sensor_msgs/msg/CompressedImage"]
    with BagWriter(tmp_path / "bag") as bag:
        for topic, time_ns, message in read_bag(recording[0]):
            if topic == "/labels":
                data = cv2.imencode(suffix, np.zeros(shape, np.uint8))[1].ravel()
                message = compressed(header=message.header, format=form, data=data)
            bag.write(topic, message, time_ns)
    if suffix == ".png" and len(shape) == 2:
        assert run((tmp_path / "bag", recording[1]), tmp_path / "out", limit_sec=0.5)["miou"] is not None
        return
    with pytest.raises(TruthError, match=f"labels on /labels are '{form}'; must be mono8 label ids"):
        run((tmp_path / "bag", recording[1]), tmp_path / "out", limit_sec=0.5)


def test_labels_of_another_label_set_are_an_error_that_names_it(recording, tmp_path, capsys):
    with BagWriter(tmp_path / "wrong") as bag:
        for topic, time_ns, message in read_bag(recording[0]):
            if topic == "/labels":
                ids = np.full((boxes.HEIGHT, boxes.WIDTH), 255, np.uint8)
                ids[0, 0] = 77
                message = messages.encode_image(messages.bag_types(), ids, "mono8", messages.stamp_ns(message.header),
                                                "camera_optical")
            bag.write(topic, message, time_ns)
    done = replay.main([str(tmp_path / "wrong"), "--out", str(tmp_path / "out"), "--checkpoint", str(recording[1]),
                        "--quiet"])
    assert done == 2 and "labels on /labels hold the id 77; the network's label set deliver" in capsys.readouterr().err


def test_fault_times_count_from_the_bags_first_message_even_one_that_is_not_used(recording, tmp_path):
    """As the player counts them: a diagnostics topic runs half a second ahead of the sensors."""
    with BagWriter(tmp_path / "ahead") as bag:
        for i, (topic, time_ns, message) in enumerate(read_bag(recording[0])):
            if i == 0:
                other = messages.encode_odometry(messages.bag_types(), np.eye(4), time_ns)
                bag.write("/not_used", other, time_ns - 500_000_000)
            bag.write(topic, message, time_ns)
    metrics = run((tmp_path / "ahead", recording[1]), tmp_path / "out", ["lidar:drop@1-1.5"])
    without = [f["t_ref"] for f in metrics["frames"] if not f["mask"]["lidar"]]
    assert boxes.START_NS + 490_000_000 < min(without) < boxes.START_NS + 610_000_000
    assert metrics["mask_wrong"] == 0


@pytest.mark.parametrize("apart_sec", [50_000_000, -1_000_000_000])
def test_stamps_and_receipts_of_two_clocks_have_one_beginning(recording, tmp_path, apart_sec):
    """As of a simulation that was recorded by the machine's clock: faults, pictures and the time axis go on working."""
    with BagWriter(tmp_path / "apart") as bag:
        for topic, time_ns, message in read_bag(recording[0]):
            if apart_sec < 0 and hasattr(message, "header"):    # else every stamp would be in the future
                message.header.stamp.sec += apart_sec
                bag.write(topic, message, time_ns)
            else:
                bag.write(topic, message, time_ns + max(0, apart_sec) * 10**9)
    faults = ["rgb:drop@0.5-1", "tf_static:drop@1-2"]
    runs = {}
    for name, source in (("one", recording[0]), ("two", tmp_path / "apart")):
        Replay(source, tmp_path / name, config(recording[1]), faults, progress=False)()
        runs[name] = frames(tmp_path / name)
    assert [one["mask"] for one in runs["one"]] == [one["mask"] for one in runs["two"]]
    assert not all(one["mask"]["rgb"] for one in runs["two"])
    pictures = [float(one.name[6:-5]) for one in (tmp_path / "two").glob("frame_*.png")]
    assert len(pictures) > 5 and 0 < min(pictures) < max(pictures) < 2


def test_a_network_without_a_tick_source_is_refused(tmp_path, recording):
    checkpoint = boxes.write_checkpoint(tmp_path / "rgb.safetensors", ("rgb",))
    with pytest.raises(ConfigError, match="tick_source"):
        run((recording[0], checkpoint), tmp_path / "out", values={"tick_source": ["lidar"]})


def test_a_bag_that_loops_starts_a_new_epoch_and_is_scored_on(recording, tmp_path):
    messages_once = list(read_bag(recording[0]))
    duration = messages_once[-1][1] - messages_once[0][1] + 20_000_000
    with BagWriter(tmp_path / "loop") as bag:
        for loop in range(2):
            for topic, time_ns, message in messages_once:
                bag.write(topic, message, time_ns + loop * duration)
    metrics = run((tmp_path / "loop", recording[1]), tmp_path / "out")
    epochs = [record["epoch"] for record in frames(tmp_path / "out")]
    assert sorted(set(epochs)) == [0, 1] and epochs == sorted(epochs)
    again = [record for record in frames(tmp_path / "out") if record["epoch"] == 1 and not record["dropped"]]
    assert len(again) > 12 and all("confusion" in record for record in again)
    assert metrics["outputs"] + sum(metrics["dropped"].values()) == metrics["ticks"]


# ---------------------------------------------------------------------------------------------------- real recording

@pytest.mark.parametrize("name", ["CAM_FRONT", "CAM_BACK", "CAM_FRONT_LEFT"])
def test_nuscenes_points_in_image_are_exactly_the_reference(shared_data, tmp_path, name):
    """Camera and LiDAR only, no odometry: calibration comes from camera_info and tf_static."""
    record, = replay_nuscenes(shared_data / "nuscenes_frame", name, tmp_path, report=True)
    reference = {"CAM_FRONT": 3067, "CAM_BACK": 4826, "CAM_FRONT_LEFT": 3704}
    assert record["mask"] == {"rgb": True, "depth": False, "event": False, "lidar": True} and not record["dropped"]
    assert record["inputs"]["lidar"]["points_in_image"] == reference[name]
    assert len(list((tmp_path / "out").glob("frame_*.png"))) == 1       # where the points lie is to be seen, too


def replay_nuscenes(folder: Path, name: str, out: Path, size: tuple[int, int] = (192, 96), report: bool = False):
    """One sample per sensor; frames.jsonl of its replay."""
    entry = json.loads((folder / "calibration.json").read_text())["cameras"][name]
    types, stamp = messages.bag_types(), boxes.START_NS
    pixels = cv2.cvtColor(cv2.imread(str(folder / entry["image"])), cv2.COLOR_BGR2RGB)
    camera = Camera(entry["width"], entry["height"], np.array(entry["K"]), "none", (), name)
    x, y, z, intensity, ring = np.fromfile(folder / "LIDAR_TOP.bin", "<f4").reshape(-1, 5).T
    cloud = {"x": x.copy(), "y": y.copy(), "z": z.copy(), "intensity": intensity.copy(), "ring": ring.astype(np.uint16)}
    with BagWriter(out / "bag") as bag:
        T = np.array(entry["camera_from_lidar"])
        bag.write("/tf_static", messages.encode_transforms(types, [(name, "lidar", T)], stamp), stamp)
        bag.write("/camera_info", messages.encode_camera_info(types, camera, stamp), stamp)
        bag.write("/image", messages.encode_image(types, pixels, "rgb8", stamp, name), stamp + boxes.MS)
        bag.write("/points", messages.encode_cloud(types, cloud, stamp, "lidar"), stamp + 2 * boxes.MS)
    checkpoint = boxes.write_checkpoint(out / "net.safetensors")
    Replay(out / "bag", out / "out", config(checkpoint, width=size[0], height=size[1]), report=report, progress=False)()
    return frames(out / "out")
