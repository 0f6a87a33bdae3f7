"""`python -m mss_perception.check`: what it finds, what it says is missing, and that what it writes replays."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import boxes
import cv2
import numpy as np
import pytest
import yaml
from rig_bag import MS, NAMES, SECOND, START, rig_bag
from rosbags.rosbag2 import StoragePlugin, Writer

from mss_perception import calibration, check, messages
from mss_perception.bags import BagWriter, bag_summary, open_bag, read_bag, typestore
from mss_perception.config import Config
from mss_perception.replay import Replay


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return boxes.write_checkpoint(tmp_path_factory.mktemp("network") / "random.safetensors")


def checked(bag: Path, folder: Path, *options: str) -> tuple[int, dict]:
    """Exit status and JSON report."""
    out = folder / "report.json"
    status = check.main([str(bag), "--quiet", "--json", str(out), *map(str, options)])
    return status, json.loads(out.read_text())


def replayed(bag: Path, config: Path | Config, folder: Path, network: Path) -> list[dict]:
    """The records of a replay: one per set."""
    config = config if isinstance(config, Config) else Config.from_yaml(config)
    config.set("checkpoint", str(network))
    config.set("threads", 1)
    Replay(bag, folder / "replay", config, report=False, progress=False)()
    return [json.loads(line) for line in (folder / "replay/frames.jsonl").read_text().splitlines()]


def topic(report: dict, name: str) -> dict:
    return next(one for one in report["topics"] if one["topic"] == name)


# ------------------------------------------------------------------------------------------------------ what is there

def test_it_tells_what_is_on_each_topic(tmp_path, capsys):
    bag = rig_bag(tmp_path / "bag")
    status, report = checked(bag, tmp_path)
    assert status == 0, report["missing"]
    counted = {name: (one.type, one.count) for name, one in bag_summary(bag).topics.items()}
    assert {one["topic"]: (one["type"], one["count"]) for one in report["topics"]} == counted

    image, depth, lidar = (topic(report, NAMES[role]) for role in ("rgb", "depth", "lidar"))
    assert image["rate_hz"] == pytest.approx(30, rel=1e-3) and lidar["rate_hz"] == pytest.approx(10, rel=1e-3)
    assert (list(image["facts"]["encoding"]), list(image["facts"]["size"])) == (["rgb8"], ["96 x 64"])
    assert (image["serves"], depth["serves"], lidar["serves"]) == ("rgb", "depth", "lidar")
    assert (image["frame_id"], lidar["frame_id"]) == ("camera_optical", "lidar")
    assert image["latency_sec"]["p50"] == pytest.approx(0.010, abs=1e-6)
    assert 0 < depth["medians"]["valid_fraction"] < 1
    assert lidar["medians"]["points"] == 400
    assert list(lidar["facts"]["point_time"]) == ["time: seconds after the stamp"]
    assert lidar["medians"]["first_point_ns"] == pytest.approx(-90e6, rel=1e-3)
    assert list(topic(report, NAMES["rgb/info"])["facts"]["model"]) == ["none"]
    assert report["cameras"]["rgb"]["K"] == boxes.camera().K.ravel().tolist()
    assert "odom -> base_link" in topic(report, NAMES["odom"])["facts"]["frames"]

    text = capsys.readouterr().out
    for name, (kind, count) in counted.items():
        assert any(line.split()[:3] == [name, kind, str(count)] for line in text.splitlines()), name
    assert text.rstrip().endswith("usable")


def test_events_are_counted(tmp_path):
    bag = boxes.write_bag(tmp_path / "bag")
    status, report = checked(bag, tmp_path)
    assert status == 0, report["missing"]
    written = [messages.decode_events(message) for _, _, message in read_bag(bag, ["/events"])]
    events = topic(report, "/events")
    assert events["serves"] == "event"
    assert events["events_per_sec"] == pytest.approx(sum(map(len, written)) / 2.0, rel=0.01)
    on = sum(int(one.p.sum()) for one in written)
    assert (events["events"], events["on"]) == (sum(map(len, written)), on)
    assert report["offsets"].keys() == {"depth", "lidar"}
    assert report["offsets"]["depth"]["offset_sec"] == pytest.approx(0.002, abs=1e-6)
    assert report["offsets"]["lidar"]["offset_sec"] == pytest.approx(0.004, abs=1e-6)


def test_a_long_topic_is_counted_whole_and_decoded_in_part(tmp_path):
    bag = rig_bag(tmp_path / "bag")
    _, report = checked(bag, tmp_path, "--messages", "7")
    assert topic(report, NAMES["rgb"])["count"] == 60
    assert 6 <= topic(report, NAMES["rgb"])["decoded"] <= 8


def test_compressed_images_and_radar_are_told_apart(tmp_path):
    """A camera that only sends JPEG, its raw and its label topics, a depth image as PNG, and a radar."""
    types, png = messages.bag_types(), np.random.default_rng(0).integers(1, 9000, (64, 96)).astype(np.uint16)
    store = typestore().types
    compressed = store["sensor_msgs/msg/CompressedImage"]

    def entries(k: int):
        stamp = START + k * 100 * MS
        header = messages.encode_header(types, stamp, "cam")
        jpeg = cv2.imencode(".jpg", np.full((64, 96, 3), 40 + k, np.uint8))[1].ravel()
        yield "/cam/image/compressed", compressed(header=header, format="bgr8; jpeg compressed bgr8", data=jpeg)
        quiet = np.full((64, 96), 128, np.uint8)
        quiet[k, :20] = 255
        yield "/event_camera/picture", messages.encode_image(types, quiet, "mono8", stamp, "cam")
        yield "/event_camera/frame", messages.encode_image(types, (png % 256).astype(np.uint8), "mono8", stamp, "cam")
        yield "/cam/camera_info", messages.encode_camera_info(types, boxes.camera("cam"), stamp)
        # Not this camera's, though of its frame and first by name.
        yield "/a/camera_info", messages.encode_camera_info(types, boxes.camera("cam").scaled(48, 32), stamp)
        picture = np.zeros((64, 96, 3), np.uint8)
        yield "/cam/segmentation/color", messages.encode_image(types, picture, "rgb8", stamp, "cam")
        yield "/cam/labels", messages.encode_image(types, np.zeros((64, 96), np.uint8), "mono8", stamp, "cam")
        data = np.concatenate([np.zeros(12, np.uint8), cv2.imencode(".png", png)[1].ravel()])
        yield "/stereo/depth/compressedDepth", compressed(header=header, format="16UC1; compressedDepth png", data=data)
        yield "/stereo/depth", messages.encode_image(types, png, "16UC1", stamp, "cam")
        ones = np.ones(40, np.float32)
        place = {"x": 9 * ones, "y": ones, "z": ones}
        yield "/radar", messages.encode_cloud(types, place | {"doppler": ones}, stamp, "radar")
        nowhere = {axis: np.concatenate([values, [0, 0, 0, np.nan]]).astype(np.float32)
                   for axis, values in (place | {"intensity": 200 * ones}).items()}
        yield "/lidar", messages.encode_cloud(types, nowhere, stamp, "cam")

    with BagWriter(tmp_path / "bag") as bag:
        for k in range(20):
            for name, message in entries(k):
                if k % 2 or name != "/stereo/depth":     # a raw topic counts more than one that comes more often
                    bag.write(name, message, messages.stamp_ns(message.header) + MS)
    _, report = checked(tmp_path / "bag", tmp_path)
    kinds = {one["topic"]: one["kind"] for one in report["topics"]}
    assert kinds == {"/cam/image/compressed": "colour", "/cam/camera_info": "info", "/cam/labels": "grey",
                     "/a/camera_info": "info", "/cam/segmentation/color": "colour",
                     "/stereo/depth": "depth", "/stereo/depth/compressedDepth": "depth", "/radar": "radar",
                     "/lidar": "cloud", "/event_camera/picture": "events", "/event_camera/frame": "grey"}
    assert topic(report, "/cam/labels")["serves"] == "(labels)"
    lidar = topic(report, "/lidar")
    assert (lidar["medians"]["points"], lidar["medians"]["returns"]) == (44, 40)
    assert list(topic(report, "/cam/image/compressed")["facts"]["size"]) == ["96 x 64"]
    proposed = {name: one["value"] for name, one in report["proposal"].items()}
    assert proposed["rgb.topic"] == "/cam/image/compressed" and proposed["rgb.info_topic"] == "/cam/camera_info"
    assert proposed["rgb.message_type"] == "sensor_msgs/msg/CompressedImage" and "depth.message_type" not in proposed
    assert proposed["depth.topic"] == "/stereo/depth" and proposed["lidar.topic"] == "/lidar"
    assert proposed["lidar.intensity_max"] == 255.0
    assert any("/radar could serve radar: name radar in inputs" in note for note in report["notes"])

    # A configuration of another type is told apart: the node would get nothing.
    (tmp_path / "raw.yaml").write_text("rgb: {topic: /cam/image/compressed, info_topic: /cam/camera_info}")
    _, report = checked(tmp_path / "bag", tmp_path, "--config", tmp_path / "raw.yaml")
    assert any("rgb.message_type is sensor_msgs/msg/Image, which the node subscribes to: rgb.message_type: "
               "sensor_msgs/msg/CompressedImage" in text for text in report["missing"]), report["missing"]

    # A radar that is configured is judged like any input, and kept in what is written.
    (tmp_path / "radar.yaml").write_text("inputs: [rgb, lidar, radar]\nradar: {topic: /radar}")
    status, report = checked(tmp_path / "bag", tmp_path, "--config", tmp_path / "radar.yaml", "--write",
                             tmp_path / "written.yaml")
    assert topic(report, "/radar")["serves"] == "radar"
    assert any("radar: frame 'radar' has no transform to" in text for text in report["missing"]) or status == 1
    assert Config.from_yaml(tmp_path / "written.yaml").inputs["radar"].topic == "/radar"


# -------------------------------------------------------------------------------------------- the written configuration

@pytest.mark.parametrize(("rgb_hz", "depth_hz", "offset_ms"), [(30, 30, 7), (10, 30, 7), (30, 10, -12), (10, 10, 30)])
def test_offset_is_found_and_the_written_configuration_replays_with_every_input(tmp_path, network, rgb_hz, depth_hz,
                                                                                offset_ms):
    bag = rig_bag(tmp_path / "bag", rgb_hz=rgb_hz, depth_hz=depth_hz, lidar_offset_ms=offset_ms)
    status, report = checked(bag, tmp_path, "--write", tmp_path / "config.yaml")
    assert status == 0, report["missing"]
    offset = report["offsets"]["lidar"]
    assert offset["in_step"]
    modulo = 1 / max(rgb_hz, 10)
    assert abs((offset["offset_sec"] - offset_ms / 1e3 + modulo / 2) % modulo - modulo / 2) < 1e-3
    config = Config.from_yaml(tmp_path / "config.yaml")
    assert config.inputs["lidar"].offset_sec == pytest.approx(offset["offset_sec"], abs=1e-4)
    assert not config.inputs["event"].enabled
    assert config.odometry_topic == NAMES["odom"]
    records = replayed(bag, config, tmp_path, network)
    assert len(records) >= 18
    masks = [record["mask"] for record in records]
    assert all(mask["rgb"] and mask["depth"] and mask["lidar"] for mask in masks), masks
    assert all(record["inputs"]["event"]["state"] == "DISABLED" for record in records)


def test_the_defaults_are_not_repeated_and_each_line_has_its_reason(tmp_path):
    checked(boxes.write_bag(tmp_path / "bag"), tmp_path, "--write", tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    assert yaml.safe_load(text) == {"/**": {"ros__parameters": {
        "depth": {"offset_sec": 0.002}, "lidar": {"offset_sec": 0.004}}}}
    assert all("#" in line for line in text.splitlines() if "offset_sec" in line)


def test_depth_that_is_registered_to_the_camera_gets_its_intrinsics_in_the_calibration(tmp_path, network):
    """One camera_info for both, as of an RGB-D driver: of two inputs that name it, one would get nothing."""
    with BagWriter(tmp_path / "bag") as bag:
        for name, time_ns, message in read_bag(boxes.write_bag(tmp_path / "whole")):
            if name == "/depth/image":
                message.header.frame_id = "camera_optical"
            if name in ("/image", "/camera_info", "/depth/image", "/tf_static"):
                bag.write(name.replace("/depth/", "/depth_"), message, time_ns)
    _, report = checked(tmp_path / "bag", tmp_path, "--write", tmp_path / "config.yaml")
    assert any("no camera_info for depth on /depth/camera_info: publish it" in text for text in report["missing"])
    assert "That of /camera_info" in (tmp_path / "config_calibration.yaml").read_text()
    status, report = checked(tmp_path / "bag", tmp_path, "--config", tmp_path / "config.yaml")
    assert status == 0, report["missing"]
    assert report["cameras"]["depth"] == report["cameras"]["rgb"]
    records = replayed(tmp_path / "bag", tmp_path / "config.yaml", tmp_path, network)
    assert all(record["mask"]["rgb"] and record["mask"]["depth"] for record in records)


def test_a_camera_of_the_calibration_that_no_input_has_is_told(tmp_path, caplog):
    entry = "{frame_id: a, width: 96, height: 64, K: [80, 0, 47.5, 0, 80, 31.5, 0, 0, 1]}"
    (tmp_path / "calibration.yaml").write_text(f"cameras: {{rgb_letf: {entry}}}")
    (tmp_path / "config.yaml").write_text(
        f"/**:\n  ros__parameters:\n    inputs: [rgb, rgb_left]\n    target_cameras: [rgb, rgb_left]\n"
        f"    rgb: {{view: rgb}}\n    rgb_left: {{topic: left}}\n    robot_name: anna\n"
        f"    calibration_file: {tmp_path}/calibration.yaml\n")
    caplog.set_level(logging.ERROR)     # as main does, but under pytest cannot
    caplog.handler.setLevel(logging.NOTSET)
    _, report = checked(boxes.write_bag(tmp_path / "bag", seconds=0.5), tmp_path, "--config", tmp_path / "config.yaml")
    assert any("'rgb_letf'" in note and "meant rgb_left?" in note for note in report["notes"]), report["notes"]
    assert "are ignored: robot_name" in caplog.text


def test_a_lidar_stamped_at_its_sweeps_start_gets_a_deadline_that_waits_for_it(tmp_path, network):
    bag = rig_bag(tmp_path / "bag", rgb_hz=10, depth_hz=10, lidar_offset_ms=0, sweep_start=True,
                  latency_ms={"lidar": 30})      # after the sweep's end: 120 ms after the stamp
    status, report = checked(bag, tmp_path, "--write", tmp_path / "config.yaml")
    assert status == 0
    assert topic(report, NAMES["lidar"])["latency_sec"]["p50"] == pytest.approx(0.120, abs=1e-3)
    proposed = report["proposal"]["deadline_sec"]
    assert 0.11 < proposed["value"] < 0.2       # the camera's own latency is 10 ms
    assert "start of its sweep" in proposed["reason"]

    # With the default deadline the LiDAR is late; with the written one each set has it.
    late = Config.from_yaml(tmp_path / "config.yaml")
    late.set("deadline_sec", Config().collector.deadline_sec)
    assert not any(record["mask"]["lidar"] for record in replayed(bag, late, tmp_path / "late", network))
    records = replayed(bag, tmp_path / "config.yaml", tmp_path, network)
    assert all(record["mask"]["lidar"] for record in records)


def test_a_sensor_slower_than_the_sets_is_held(tmp_path, network):
    bag = rig_bag(tmp_path / "bag", rgb_hz=10, depth_hz=10, lidar_hz=4, lidar_offset_ms=0)
    _, report = checked(bag, tmp_path, "--write", tmp_path / "config.yaml")
    assert report["proposal"]["lidar.hold_sec"]["value"] >= 0.25
    records = replayed(bag, tmp_path / "config.yaml", tmp_path, network)
    assert all(record["mask"]["lidar"] for record in records)
    assert {"OK", "HELD"} == {record["inputs"]["lidar"]["state"] for record in records}


def test_a_free_running_sensor_gets_a_tolerance_instead_of_an_offset(tmp_path, network):
    bag = rig_bag(tmp_path / "bag", rgb_hz=10, depth_hz=10.7, seconds=6)
    _, report = checked(bag, tmp_path, "--write", tmp_path / "config.yaml")
    assert not report["offsets"]["depth"]["in_step"] and "depth.offset_sec" not in report["proposal"]
    assert 0.045 < report["proposal"]["depth.tolerance_sec"]["value"] < 0.07
    assert report["sets"]["used"]["depth"] > 0.98
    records = replayed(bag, tmp_path / "config.yaml", tmp_path, network)
    assert np.mean([record["mask"]["depth"] for record in records]) > 0.95
    without = report["sets"]["count"]
    config = Config.from_yaml(tmp_path / "config.yaml")
    config.set("depth.tolerance_sec", Config().inputs["depth"].tolerance_sec)
    write_config(tmp_path / "tight.yaml", config)
    _, report = checked(bag, tmp_path, "--config", tmp_path / "tight.yaml")
    assert report["sets"]["used"]["depth"] < 0.8
    assert any("depth is in" in note and "tolerance_sec" in note for note in report["notes"])
    assert abs(report["sets"]["count"] - without) <= 1


def write_config(path: Path, config: Config) -> Path:
    path.write_text(yaml.safe_dump({name: value for name, value, _ in config.parameters()}))
    return path


# ---------------------------------------------------------------------------------------------------- what is missing

def test_a_sensor_that_starts_late_is_judged_from_there_on(tmp_path):
    def late(role, message):
        return None if role == "lidar" and messages.stamp_ns(message.header) < START + SECOND else message

    _, report = checked(rig_bag(tmp_path / "bag", change=late), tmp_path)
    assert report["sets"]["used"]["lidar"] == 1.0 and 6 <= report["sets"]["count"] <= 9


def test_without_camera_info_it_says_so_and_writes_a_marked_guess(tmp_path, network):
    bag = rig_bag(tmp_path / "bag", leave_out=(NAMES["rgb/info"],))
    status, report = checked(bag, tmp_path, "--write", tmp_path / "config.yaml")
    assert status == 1
    assert any("no camera_info for the target camera rgb" in text for text in report["missing"])
    config = Config.from_yaml(tmp_path / "config.yaml")
    guess = calibration.load(config.calibration_file).cameras["rgb"]
    assert (guess.width, guess.height, guess.frame_id) == (boxes.WIDTH, boxes.HEIGHT, "camera_optical")
    assert 2 * np.degrees(np.arctan(guess.width / 2 / guess.K[0, 0])) == pytest.approx(60, abs=0.1)
    assert "GUESS" in Path(config.calibration_file).read_text()
    assert all(record["mask"]["rgb"] and record["mask"]["lidar"]
               for record in replayed(bag, config, tmp_path, network))


def test_a_frame_without_transform_is_named_with_its_target(tmp_path):
    def without_lidar(role, message):
        if role == "/tf_static":
            message.transforms = [one for one in message.transforms if one.child_frame_id != "lidar"]
        return message

    bag = rig_bag(tmp_path / "bag", change=without_lidar)
    status, report = checked(bag, tmp_path, "--write", tmp_path / "config.yaml")
    assert status == 1
    text, = report["missing"]
    assert "lidar: frame 'lidar' has no transform to 'camera_optical'" in text and "calibration_file" in text
    file = Path(Config.from_yaml(tmp_path / "config.yaml").calibration_file)
    assert '# - {parent: "camera_optical", child: "lidar"' in file.read_text()

    # Filled in as the comment says, nothing is missing any more.
    file.write_text(file.read_text().replace("  # - {parent", "  - {parent"))
    status, report = checked(bag, tmp_path, "--config", tmp_path / "config.yaml")
    assert (status, report["missing"]) == (0, [])


@pytest.mark.parametrize(("said", "configured", "words"), [
    ("wrong", "camera_optical", ""),
    ("camera_optical", "camera_opticl", "lidar: frame 'lidar' has no transform to 'camera_opticl'")])
def test_the_frame_that_is_configured_counts_as_in_the_node(tmp_path, network, said, configured, words):
    def renamed(role, message):
        if role in ("rgb", "rgb/info"):
            message.header.frame_id = said
        return message

    bag = rig_bag(tmp_path / "bag", change=renamed)
    config = write_config(tmp_path / "config.yaml", Config.from_mapping(
        {"inputs": ["rgb", "lidar"], "rgb.frame_id": configured, "rgb.topic": NAMES["rgb"],
         "rgb.info_topic": NAMES["rgb/info"], "lidar.topic": NAMES["lidar"], "odometry_topic": NAMES["odom"]}))
    status, report = checked(bag, tmp_path, "--config", config)
    assert status == (1 if words else 0) and words in "".join(report["missing"]), report["missing"]
    used = [record["mask"]["lidar"] for record in replayed(bag, config, tmp_path, network)]
    assert any(used) == (not words)


def test_a_transform_that_is_refused_leaves_the_others_of_its_message(tmp_path):
    def broken(role, message):
        for one in message.transforms if role == "/tf_static" else ():
            if one.child_frame_id == "lidar":
                one.transform.rotation.w = np.nan
        return message

    status, report = checked(rig_bag(tmp_path / "bag", change=broken), tmp_path)
    text, = report["missing"]
    assert status == 1 and "lidar: frame 'lidar' has no transform to 'camera_optical'" in text
    assert "'lidar' is unknown; known: base_link, " in text


def test_transforms_in_a_namespace_are_configured(tmp_path, network):
    bag = tmp_path / "bag"
    with BagWriter(bag, latched=("/robot/tf_static",)) as out:
        for name, time_ns, message in read_bag(rig_bag(tmp_path / "whole", seconds=1)):
            out.write("/robot/tf_static" if name == "/tf_static" else name, message, time_ns)
    status, report = checked(bag, tmp_path, "--write", tmp_path / "config.yaml")
    assert (status, report["missing"]) == (0, [])
    config = Config.from_yaml(tmp_path / "config.yaml")
    assert (config.tf_topic, config.tf_static_topic, config.calibration_file) == ("/tf", "/robot/tf_static", "")
    assert all(record["mask"]["lidar"] for record in replayed(bag, config, tmp_path, network))


def test_topics_of_transforms_that_are_configured_are_left(tmp_path):
    """Those that have messages, and those that are left out on purpose."""
    bag, config = tmp_path / "bag", Config()
    with BagWriter(bag, latched=("/mountings",)) as out:
        for name, time_ns, message in read_bag(rig_bag(tmp_path / "whole", seconds=1)):
            for topic in ("/mountings", "/old/tf_static", "/old/tf") if name == "/tf_static" else (name,):
                out.write(topic, message, time_ns)
    config.set("tf_topic", "")
    config.set("tf_static_topic", "/mountings")
    _, report = checked(bag, tmp_path, "--config", write_config(tmp_path / "own.yaml", config))
    assert not {"tf_topic", "tf_static_topic"} & report["proposal"].keys()


def test_of_several_robots_transforms_none_is_chosen(tmp_path):
    bag = tmp_path / "bag"
    with BagWriter(bag) as out:
        for name, time_ns, message in read_bag(rig_bag(tmp_path / "whole", seconds=1)):
            for topic in ("/a/tf_static", "/b/tf_static") if name == "/tf_static" else (name,):
                out.write(topic, message, time_ns)
    status, report = checked(bag, tmp_path, "--write", tmp_path / "config.yaml")
    assert status == 1 and sum("has no transform to 'camera_optical'" in text for text in report["missing"]) == 2
    assert Config.from_yaml(tmp_path / "config.yaml").tf_static_topic == "/tf_static"
    for robot in "ab":
        assert f"transforms on /{robot}/tf_static are not read: tf_static_topic: /{robot}/tf_static would" \
            in report["notes"]


def test_a_second_sensor_of_a_kind_is_offered_as_an_input_of_its_own(tmp_path):
    """Told by its frame: the same cloud filtered, or the same picture compressed, is none."""
    def renamed(message, frame):
        message.header.frame_id = frame
        return message

    def more(folder, frame):
        with BagWriter(folder) as bag:
            for name, time_ns, message in read_bag(whole):
                bag.write(name, message, time_ns)
                if name == NAMES["lidar"]:
                    bag.write("/rear/points", renamed(message, frame or "lidar"), time_ns)
                if name in (NAMES["rgb"], NAMES["rgb/info"]):
                    bag.write(name.replace("front", "side"), renamed(message, frame or "camera_optical"), time_ns)
        return checked(folder, tmp_path)[1]["notes"]

    whole = rig_bag(tmp_path / "whole", seconds=1)
    assert not [note for note in more(tmp_path / "same", "") if "further" in note]
    camera, lidar = [note for note in more(tmp_path / "other", "other") if "further" in note]
    assert lidar == "/rear/points could serve a further lidar: name lidar_2 in inputs, lidar_2.topic: /rear/points"
    assert camera == ("/side/image_raw could serve a further rgb: name rgb_2 in inputs and in target_cameras, "
                      "rgb_2.topic: /side/image_raw, rgb_2.info_topic: /side/camera_info")


def test_topics_that_were_exchanged_are_put_right(tmp_path):
    bag, config = rig_bag(tmp_path / "bag", seconds=1), Config()
    for name, value in {"rgb.topic": NAMES["depth"], "rgb.info_topic": NAMES["rgb/info"], "depth.topic": NAMES["rgb"],
                        "depth.info_topic": NAMES["depth/info"]}.items():
        config.set(name, value)
    _, report = checked(bag, tmp_path, "--config", write_config(tmp_path / "wrong.yaml", config))
    proposed = {name: one["value"] for name, one in report["proposal"].items()}
    assert (proposed["rgb.topic"], proposed["depth.topic"]) == (NAMES["rgb"], NAMES["depth"])


def test_a_configuration_is_judged_as_it_stands(tmp_path):
    bag = rig_bag(tmp_path / "bag")
    config = Config()       # other topic names
    status, report = checked(bag, tmp_path, "--config", write_config(tmp_path / "defaults.yaml", config))
    assert status == 1
    text = "\n".join(report["missing"])
    assert f"rgb: nothing came on /image; {NAMES['rgb']} (sensor_msgs/msg/Image) could serve it: rgb.topic:" in text
    assert "event: nothing came on /events, and no other topic could serve it: event.enabled: false" in text
    assert topic(report, NAMES["lidar"])["serves"] == "(lidar)"


def test_a_topic_of_the_wrong_kind_is_named(tmp_path):
    bag = rig_bag(tmp_path / "bag")
    config = Config()
    for name, value in {"rgb.topic": NAMES["depth"], "rgb.info_topic": NAMES["rgb/info"], "event.enabled": False,
                        "depth.topic": NAMES["lidar"], "depth.info_topic": NAMES["depth/info"],
                        "lidar.enabled": False}.items():
        config.set(name, value)
    status, report = checked(bag, tmp_path, "--config", write_config(tmp_path / "wrong.yaml", config))
    assert status == 1
    text = "\n".join(report["missing"])
    assert f"rgb: topic {NAMES['depth']} carries sensor_msgs/msg/Image, which is depth; needed is colour" in text
    assert f"depth: topic {NAMES['lidar']} carries sensor_msgs/msg/PointCloud2, which is cloud; needed is" in text
    assert any(f"lidar is disabled; {NAMES['lidar']} could serve it" in note for note in report["notes"])


def broken_image(role, message):
    if role == "rgb":
        message.encoding = "nonsense8"
    return message


def empty_cloud(role, message):
    if role == "lidar":
        return messages.encode_cloud(messages.bag_types(), {name: np.zeros(0, np.float32) for name in "xyz"},
                                     messages.stamp_ns(message.header), "lidar")
    return message


def zero_focal_length(role, message):
    if role == "rgb/info":
        message.k = np.zeros(9)
    return message


def other_size(role, message):
    if role == "rgb/info":
        message.width, message.height = 64, 64
    return message


def zero_stamps(role, message):
    if role == "lidar":
        message.header.stamp.sec = message.header.stamp.nanosec = 0
    return message


def no_frame(role, message):
    if role == "lidar":
        message.header.frame_id = ""
    return message


@pytest.mark.parametrize(("change", "words"), [
    (broken_image, ["rgb: topic /front/image_raw", "(nonsense8)", "cannot be used"]),
    (empty_cloud, ["lidar: topic /top_lidar/points", "cloud is empty"]),
    (zero_focal_length, ["rgb: camera_info on /front/camera_info cannot be used", "positive focal lengths"]),
    (other_size, ["rgb: /front/image_raw is 96 x 64, but its calibration is of 64 x 64"]),
    (zero_stamps, ["lidar: the stamps on /top_lidar/points are zero: its driver must set header.stamp"]),
    (no_frame, ["lidar: its messages have no frame_id: set lidar.frame_id"]),
], ids=lambda value: value.__name__ if callable(value) else "")
def test_unusable_data_is_named_with_its_topic_and_cause(tmp_path, capsys, change, words):
    status, report = checked(rig_bag(tmp_path / "bag", seconds=1, change=change), tmp_path)
    assert status == 1
    assert any(all(word in text for word in words) for text in report["missing"]), report["missing"]
    assert words[0] in capsys.readouterr().out


def test_clocks_that_differ_are_noticed(tmp_path):
    def ahead(role, message):
        if role == "depth":
            message.header.stamp.sec += 5
        return message

    _, report = checked(rig_bag(tmp_path / "bag", change=ahead), tmp_path)
    assert any("depth: stamps on" in note and "ahead" in note and "synchronise" in note for note in report["notes"])


def test_a_clock_that_the_configuration_corrects_is_no_offset(tmp_path):
    """Nor is it ahead, or what is proposed upon it."""
    def ahead(role, message):
        if role == "depth":
            message.header.stamp.sec += 5
        return message

    path = tmp_path / "config.yaml"
    path.write_text("depth: {clock_offset_sec: 5.0}\n")
    _, report = checked(rig_bag(tmp_path / "bag", change=ahead), tmp_path, "--config", path, "--write",
                             tmp_path / "written.yaml")
    assert not any("depth: stamps on" in note for note in report["notes"])
    assert report["offsets"]["depth"]["offset_sec"] == pytest.approx(0, abs=1e-6)
    assert "depth.offset_sec" not in report["proposal"]
    assert Config.from_yaml(tmp_path / "written.yaml").inputs["depth"].clock_offset_sec == 5.0


def test_a_bag_that_was_converted_measures_no_latency(tmp_path):
    def told(bag: Path) -> bool:
        return any("the deadline cannot be measured" in note for note in checked(bag, tmp_path)[1]["notes"])

    assert not told(rig_bag(tmp_path / "recorded", seconds=1))
    assert told(rig_bag(tmp_path / "converted", seconds=1, latency_ms={"rgb": 0, "depth": 0, "lidar": 0}))


def test_a_bag_without_sensors_is_not_usable(tmp_path):
    bag = rig_bag(tmp_path / "bag", seconds=1, leave_out=(NAMES["rgb"], NAMES["depth"], NAMES["lidar"]))
    status, report = checked(bag, tmp_path)
    assert status == 1
    assert any("nothing to segment" in text for text in report["missing"])


@pytest.mark.parametrize(("arguments", "words"), [
    (["nowhere"], ["bag nowhere does not exist"]),
    (["BAG", "--config", "nowhere.yaml"], ["cannot read configuration nowhere.yaml"]),
    (["BAG", "--write", "BAG/metadata.yaml"], ["metadata.yaml", "exists already"]),
    (["BAG", "--json", "nowhere/report.json"], ["cannot write nowhere/report.json"]),
    (["/dev/null"], ["/dev/null is no bag"]),
])
def test_bad_input_ends_with_2_and_its_cause(tmp_path, capsys, arguments, words):
    bag = rig_bag(tmp_path / "bag", seconds=0.5)
    before = (bag / "metadata.yaml").read_text()
    assert check.main([one.replace("BAG", str(bag)) for one in arguments] + ["--quiet"]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert (bag / "metadata.yaml").read_text() == before


def test_a_bag_that_breaks_off_is_bad_input(tmp_path, capsys):
    bag = rig_bag(tmp_path / "bag", seconds=1)
    file, = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:20_000])
    assert check.main([str(bag), "--quiet"]) == 2
    assert str(bag) in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--messages=0", "--seconds=nan", "--seconds=inf", "--seconds=0"])
def test_numbers_that_cannot_be_meant_are_refused(capsys, option):
    with pytest.raises(SystemExit) as end:
        check.main(["bag", option])
    assert end.value.code == 2 and f"argument {option.partition('=')[0]}: " in capsys.readouterr().err


def test_messages_that_were_all_received_at_one_time_have_no_rate(tmp_path, capsys):
    with BagWriter(tmp_path / "bag") as bag:
        for name, _, message in read_bag(boxes.write_bag(tmp_path / "whole", seconds=0.5)):
            bag.write(name, message, START)
    _, report = checked(tmp_path / "bag", tmp_path)
    events = topic(report, "/events")
    assert events["events"] > 0 and "events_per_sec" not in events
    assert f"    points x y t p, {events['events']} events, " in capsys.readouterr().out


def test_a_bag_received_after_the_last_time_of_ros_is_bad_input(tmp_path, capsys):
    with BagWriter(tmp_path / "bag") as bag:
        for name, _, message in read_bag(boxes.write_bag(tmp_path / "whole", seconds=0.2)):
            bag.write(name, message, 2**63)
    assert check.main([str(tmp_path / "bag"), "--quiet"]) == 2
    assert "is damaged: a message on" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(3))
def test_messages_with_wrong_bytes_are_counted_and_do_not_end_it(tmp_path, seed):
    """A bag whose every message has a few bytes changed at random, in its fields more than in its data."""
    random, connections = np.random.default_rng(seed), {}
    whole = boxes.write_bag(tmp_path / "whole", seconds=0.6)
    with open_bag(whole) as bag, Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as out:
        for connection, time_ns, cdr in bag.messages(None):
            if connection.topic not in connections:
                connections[connection.topic] = out.add_connection(connection.topic, connection.msgtype,
                                                                   typestore=typestore())
            changed = bytearray(cdr)
            for place in random.integers(4, min(len(cdr), 300), random.integers(1, 6)):
                changed[place] = random.integers(256)
            out.write(connections[connection.topic], time_ns, bytes(changed))
    status, report = checked(tmp_path / "bag", tmp_path, "--write", tmp_path / "config.yaml")
    assert {one["topic"]: one["count"] for one in report["topics"]} \
        == {name: one.count for name, one in bag_summary(whole).topics.items()}
    assert status == 1 and any(one["errors"] for one in report["topics"])
    Config.from_yaml(tmp_path / "config.yaml")


# -------------------------------------------------------------------------------------------------- the real event bags

@pytest.mark.parametrize(("name", "encoding", "size", "count", "events", "on"), [
    ("test_events_1", "evt3", (640, 480), 517, 343474, 125183),
    ("test_events_2", "libcaer_cmp", (346, 260), 100, 571266, 211043),
])
def test_event_recordings(tmp_path, shared_data, network, name, encoding, size, count, events, on):
    bag = shared_data / "event_recordings" / name
    status, report = checked(bag, tmp_path, "--write", tmp_path / "config.yaml")
    assert status == 1
    assert report["missing"] == ["no camera_info for the target camera event on /events/camera_info: publish it, or "
                                 "give camera 'event' in calibration_file"]
    found = topic(report, "/event_camera/events")
    assert (found["count"], list(found["facts"]["encoding"])) == (count, [encoding])
    assert list(found["facts"]["size"]) == [f"{size[0]} x {size[1]}"]
    assert found["events_per_sec"] == pytest.approx(events / report["duration_sec"], rel=0.02)
    assert (found["events"], found["on"]) == (events, on)       # the publisher's own count

    config = Config.from_yaml(tmp_path / "config.yaml")
    assert config.target_cameras == ["event"] and not config.inputs["rgb"].enabled
    guess = calibration.load(config.calibration_file).cameras["event"]
    assert (guess.width, guess.height) == size
    records = replayed(bag, config, tmp_path, network)
    assert len(records) >= 9
    assert all(record["mask"]["event"] for record in records)
    # With the guess accepted, nothing is missing.
    assert checked(bag, tmp_path, "--config", tmp_path / "config.yaml")[0] == 0


# ----------------------------------------------------------------------------------------------------------------- live

def test_live_graph(tmp_path, capfd):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: nothing live to check")
    import os
    import subprocess
    import sys

    import ros_peer

    peer = ros_peer.Peer()
    try:
        command = [sys.executable, "-m", "mss_perception.check", "--live", "--seconds", "6", "--quiet",
                   "--json", str(tmp_path / "report.json"), "--write", str(tmp_path / "config.yaml")]
        process = subprocess.Popen(command, env=os.environ | {"ROS_DOMAIN_ID": str(peer.context.get_domain_id())})
        sent = 0
        while process.poll() is None:
            stamp = peer.camera()
            peer.points(stamp + 20 * MS, frame="lidar")
            sent += 1
            peer.spin(0.05)
    finally:
        peer.close()
    assert process.returncode == 1
    report = json.loads((tmp_path / "report.json").read_text())
    image, cloud = topic(report, "/image"), topic(report, "/points")
    assert 10 < image["count"] <= sent
    assert (list(image["facts"]["encoding"]), image["frame_id"], image["serves"]) == (["rgb8"], "cam", "rgb")
    assert cloud["medians"]["points"] == 500
    assert 0 <= image["latency_sec"]["p50"] < 0.1
    assert report["cameras"]["rgb"]["model"] == "none"
    assert report["offsets"]["lidar"]["offset_sec"] == pytest.approx(0.020, abs=1e-3)
    assert any("frame 'lidar' has no transform to 'cam'" in text for text in report["missing"])
    assert Config.from_yaml(tmp_path / "config.yaml").inputs["lidar"].offset_sec == pytest.approx(0.02, abs=1e-3)
    assert {one["topic"] for one in report["topics"]} == {"/image", "/camera_info", "/points"}
