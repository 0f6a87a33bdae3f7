"""The player's time line: stamps, loops and faults of serialised messages, and the calibration taken from a bag."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mss_perception import calibration, live
from mss_perception.bags import BagError, BagWriter, bag_summary, typestore
from mss_perception.camera import Camera
from mss_perception.config import Config
from mss_perception.faults import FaultError, FaultSchedule
from mss_perception.messages import (
    bag_types,
    encode_camera_info,
    encode_header,
    encode_image,
    encode_transforms,
    stamp_ns,
)
from mss_perception.player import LOOP_GAP_NS, Timeline, calibration_of, shifted, shifted_transforms

MS = 1_000_000
START = 1_700_000_000 * 1_000_000_000 + 123_456_789
CAMERA = Camera(8, 6, np.array([[8.0, 0, 3.5], [0, 8, 2.5], [0, 0, 1]]), "plumb_bob", (0.1, 0.0, 0.0, 0.0, 0.0), "cam")


@pytest.fixture
def bag(tmp_path):
    """Ten images at 10 Hz received 20 ms after their stamp, camera_info and a transform with each, one tf_static."""
    types, path = bag_types(), tmp_path / "bag"
    mount = np.eye(4)
    mount[:3, 3] = 1.0, 2.0, 3.0
    with BagWriter(path) as writer:
        writer.write("/tf_static", encode_transforms(types, [("base_link", "cam", mount)], START), START)
        for k in range(10):
            stamp = START + 100 * MS * k
            image = encode_image(types, np.full((6, 8, 3), k, np.uint8), "rgb8", stamp, "cam")
            writer.write("/camera_info", encode_camera_info(types, CAMERA, stamp), stamp + 20 * MS)
            writer.write("/tf", encode_transforms(types, [("odom", "base_link", mount)], stamp), stamp + 20 * MS)
            writer.write("/image", image, stamp + 20 * MS)
    return bag_summary(path)


def messages(timeline):
    return [(item.topic, item.due_ns, typestore().deserialize_cdr(item.cdr, timeline.types[item.topic]))
            for item in timeline]


def test_shifted_moves_the_stamp_and_nothing_else():
    types, store = bag_types(), typestore()
    message = encode_image(types, np.arange(24, dtype=np.uint8).reshape(4, 6), "mono8", START, "cam")
    raw = bytes(store.serialize_cdr(message, message.__msgtype__))
    moved = store.deserialize_cdr(bytes(shifted(raw, 5_000_000_007)), message.__msgtype__)
    assert stamp_ns(moved.header) == START + 5_000_000_007
    moved.header = message.header
    assert bytes(store.serialize_cdr(moved, message.__msgtype__)) == raw


def test_a_zero_stamp_stays_zero():
    types, store = bag_types(), typestore()
    message = encode_image(types, np.zeros((2, 2), np.uint8), "mono8", 0, "cam")
    raw = bytes(store.serialize_cdr(message, message.__msgtype__))
    assert bytes(shifted(raw, 10**9)) == raw


def test_an_unfaulted_bag_comes_out_as_recorded(bag):
    played = messages(Timeline(bag, ["/image"], {"/image": "rgb"}))
    assert [due for _, due, _ in played] == [START + 20 * MS + 100 * MS * k for k in range(10)]
    assert [stamp_ns(message.header) for *_, message in played] == [START + 100 * MS * k for k in range(10)]
    assert [int(message.data[0]) for *_, message in played] == list(range(10))


def test_loops_and_the_shift_keep_latency_and_rising_stamps(bag):
    timeline = Timeline(bag, ["/image"], {"/image": "rgb"}, loops=3, shift_ns=7 * MS)
    played = messages(timeline)
    stamps = [stamp_ns(message.header) for *_, message in played]
    assert len(played) == 30 and np.all(np.diff(stamps) > 0)
    assert {due - stamp for (_, due, _), stamp in zip(played, stamps, strict=True)} == {20 * MS}
    assert stamps[0] == START + 7 * MS
    assert stamps[10] - stamps[0] == bag.end_ns - bag.start_ns + LOOP_GAP_NS


def test_transforms_move_in_time_with_the_sensors(bag):
    played = messages(Timeline(bag, ["/tf", "/image"], {}, loops=2, shift_ns=7 * MS))
    stamps = {topic: [stamp_ns((message.transforms[0] if topic == "/tf" else message).header)
                      for name, _, message in played if name == topic] for topic in ("/tf", "/image")}
    assert stamps["/tf"] == stamps["/image"] and len(stamps["/tf"]) == 20
    assert all(message.transforms[0].transform.translation.z == 3.0 for topic, _, message in played if topic == "/tf")


@pytest.fixture
def odd_bag(tmp_path):
    """Two images; on /odd a type that no definition tells of; on /cut an image that ends within its stamp."""
    store, path, kind = typestore(), tmp_path / "odd", "sensor_msgs/msg/Image"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        good, cut = (writer.add_connection(topic, kind, typestore=store) for topic in ("/image", "/cut"))
        odd = writer.add_connection("/odd", "vendor/msg/This", msgdef="this is ! no definition", rihs01="RIHS01_0")
        for k in range(2):
            image = encode_image(bag_types(), np.full((6, 8), k, np.uint8), "mono8", START + k, "cam")
            writer.write(good, START + k, store.serialize_cdr(image, kind))
            writer.write(odd, START + k, b"\x00\x01\x00\x00\x05\x00\x00\x00")
        writer.write(cut, START + 2, b"\x00\x01\x00\x00\x05\x00\x00\x00")
    return bag_summary(path)


def test_a_type_that_nobody_knows_spoils_only_its_topic(odd_bag):
    played = messages(Timeline(odd_bag, ["/image"], {}, ["/image:freeze@0-"], shift_ns=MS))
    assert [stamp_ns(message.header) for *_, message in played] == [START + MS, START + 1 + MS]
    as_it_is = [item.cdr for item in Timeline(odd_bag, ["/odd"], {}, shift_ns=MS)]      # ROS may know the type
    assert as_it_is == [b"\x00\x01\x00\x00\x05\x00\x00\x00"] * 2
    with pytest.raises(BagError, match="/odd at .* vendor/msg/This"):
        list(Timeline(odd_bag, ["/odd"], {}, ["/odd:freeze@0-"]))
    with pytest.raises(FaultError, match="'stamp' is not for /odd"):
        Timeline(odd_bag, ["/odd"], {}, ["/odd:stamp=1@0-"])
    with pytest.raises(BagError, match="/cut at .* has no stamp that can be moved"):
        list(Timeline(odd_bag, ["/cut"], {}))


def test_types_that_only_the_bag_defines_move_in_time_and_freeze(tmp_path):
    name, text = "vendor/msg/Reading", "std_msgs/Header header\nint32 x\n"
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(text, name))
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/reading", name, typestore=store)
        for k in range(3):
            message = store.types[name](encode_header(bag_types(), START + k * MS, "cam"), k)
            writer.write(connection, START + k * MS, store.serialize_cdr(message, name))
    timeline = Timeline(bag_summary(tmp_path / "bag"), ["/reading"], {}, ["/reading:freeze@0.001-"], shift_ns=MS)
    played = [store.deserialize_cdr(item.cdr, name) for item in timeline]
    assert [stamp_ns(one.header) for one in played] == [START + MS, START + 2 * MS, START + 3 * MS]
    assert [one.x for one in played] == [0, 0, 0]


def test_a_transform_without_a_stamp_gets_none():
    raw = bytes(typestore().serialize_cdr(encode_transforms(bag_types(), [("a", "b", np.eye(4))], 0),
                                          "tf2_msgs/msg/TFMessage"))
    assert bytes(shifted_transforms(raw, 10**9)) == raw


@pytest.mark.parametrize("fault", ["rgb:drop@0.3-0.6", "rgb:delay=0.25@0.2-0.5", "rgb:corrupt@0.4-", "rgb:noise@0-",
                                   "rgb:freeze@0.5-0.8", "rgb:stamp=-0.4@0.1-0.3"])
def test_faults_are_those_of_the_replay(bag, fault):
    """Serialising again must not change what the schedule makes of the decoded messages."""
    from mss_perception.bags import read_bag

    topics, roles = ["/image", "/camera_info"], {"/image": "rgb", "/camera_info": "rgb/info"}
    played = messages(Timeline(bag, topics, roles, [fault], seed=3))
    expected = list(FaultSchedule([fault], 3, roles).apply(read_bag(bag.path, topics), bag.start_ns))
    assert [(topic, due) for topic, due, _ in played] == [(topic, due) for topic, due, _ in expected]
    for (_, _, mine), (_, _, other) in zip(played, expected, strict=True):
        assert stamp_ns(mine.header) == stamp_ns(other.header)
        if hasattr(mine, "data"):
            assert bytes(mine.data) == bytes(other.data)


def test_fault_times_count_from_the_first_loop(bag):
    """A fault after the bag's end belongs to the second loop."""
    period = (bag.end_ns - bag.start_ns + LOOP_GAP_NS) / 1e9
    timeline = Timeline(bag, ["/image"], {"/image": "rgb"}, [f"rgb:drop@{period:.6f}-"], loops=2, shift_ns=MS)
    assert len(messages(timeline)) == 10


def test_errors_name_what_is_there(bag):
    with pytest.raises(BagError, match=r"no topic /lidar.*/camera_info, /image"):
        Timeline(bag, ["/lidar"], {})
    with pytest.raises(FaultError, match="'lidar'"):
        Timeline(bag, ["/image"], {"/image": "rgb"}, ["lidar:drop@1-2"])


def test_calibration_of_a_bag_survives_its_file(bag, tmp_path):
    calibration.save(tmp_path / "calibration.yaml", calibration_of(bag, Config()))
    loaded = calibration.load(tmp_path / "calibration.yaml")
    assert list(loaded.cameras) == ["rgb"]
    assert np.allclose(loaded.cameras["rgb"].K, CAMERA.K) and loaded.cameras["rgb"].D == CAMERA.D
    (parent, child, T), = loaded.extrinsics
    assert (parent, child) == ("base_link", "cam") and np.allclose(T[:3, 3], [1, 2, 3])


def test_the_player_waits_for_no_topic_of_a_disabled_input():
    config = Config.from_mapping({"rgb.enabled": False, "event.enabled": False})
    roles = set(config.used_topics().values())
    assert roles == {"rgb/info", "depth", "depth/info", "lidar", "odom", "tf", "tf_static"}     # rgb/info is the grid


def test_sigint_ends_a_player_that_waits_without_a_traceback(bag, tmp_path):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: nothing can be played")
    with live.Process("mss_perception.ros_player", [str(bag.path), "--wait", "60", "--topics", "/image"],
                      tmp_path / "log", live.environment()) as player:
        player.wait_for("waiting for subscribers of /image", 60)
        assert player.interrupt()[0] == 0
    assert "Traceback" not in player.last_words() and "sent 0 messages" in player.last_words()


@pytest.mark.parametrize(("arguments", "recorded"), [([], True), (["--no-clock"], False)])
def test_a_player_gives_the_time_when_the_parameter_file_takes_it_from_clock(bag, tmp_path, monkeypatch, arguments,
                                                                             recorded):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: nothing can be played")
    from mss_perception import ros_player

    monkeypatch.setenv("ROS_DOMAIN_ID", str(live.free_domain()))
    config, summary = tmp_path / "node.yaml", tmp_path / "player.json"
    config.write_text("/**: {ros__parameters: {use_sim_time: true}}")
    assert ros_player.main([str(bag.path), "--config", str(config), "--wait", "0", "--topics", "/camera_info",
                            "--summary", str(summary), *arguments]) == 0
    assert (json.loads(summary.read_text())["shift_ns"] == 0) == recorded


@pytest.mark.parametrize(("arguments", "words"), [
    (["--loops", "0"], "0 must be at least 1"),
    (["--seed", "-1"], "-1 must be at least 0"),
    (["--clock", "--rate", "nan"], "nan must be from"),
    (["--rate", "2"], "--rate 2.0 needs --clock"),
    (["--wait", "nan"], "nan must be from"),
    (["--write-calibration", f"{__file__}/calibration.yaml"], f"player: cannot write {__file__}/calibration.yaml"),
    (["--summary", f"{__file__}/summary.json"], f"player: cannot write {__file__}/summary.json"),
    (["--ros-args", "-p"], "player: ROS does not start"),
])
def test_bad_input_ends_a_player_with_2_and_one_line(bag, capsys, arguments, words):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: nothing can be played")
    from mss_perception import ros_player

    try:
        status = ros_player.main([str(bag.path), *arguments])
    except SystemExit as error:     # argparse's
        status = error.code
    assert status == 2 and words in capsys.readouterr().err.splitlines()[-1]


def test_damage_that_is_met_while_playing_ends_a_player_with_2_and_one_line(odd_bag, monkeypatch, capfd):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: nothing can be played")
    from mss_perception import ros_player

    monkeypatch.setenv("ROS_DOMAIN_ID", str(live.free_domain()))
    assert ros_player.main([str(odd_bag.path), "--wait", "0", "--topics", "/image", "/cut"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith(f"player: bag {odd_bag.path}: message on /cut at") and "Traceback" not in str(lines)


def test_a_written_calibration_tells_what_is_in_it(bag, tmp_path, capsys):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: the player cannot be imported")
    from mss_perception import ros_player

    for topic, words in (("camera_info", "1 transforms; cameras: rgb\n"),
                         ("front/info", "cameras: none of rgb, depth, event, lidar; name their topics in --config")):
        (tmp_path / "config.yaml").write_text(f"rgb.info_topic: {topic}")
        assert ros_player.main([str(bag.path), "--write-calibration", str(tmp_path / f"{topic[:5]}.yaml"), "--config",
                                str(tmp_path / "config.yaml")]) == 0
        assert words in capsys.readouterr().out


def test_what_cannot_be_played_is_told_and_what_was_asked_for_refused(bag, tmp_path, capsys):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: nothing can be played")
    from mss_perception import ros_player

    events = typestore().types["dvs_msgs/msg/EventArray"](
        header=encode_header(bag_types(), START, ""), height=1, width=1, events=[])
    if ros_player.message_class("dvs_msgs/msg/EventArray"):
        pytest.skip("dvs_msgs is installed")
    with BagWriter(tmp_path / "events") as writer:
        writer.write("/events", events, START)
    summary = bag_summary(tmp_path / "events")
    assert ros_player.playable(summary, None) == []
    assert "not installed: /events (dvs_msgs/msg/EventArray)" in capsys.readouterr().err
    with pytest.raises(ros_player.PlayerError, match=r"/events \(dvs_msgs/msg/EventArray\) are not installed"):
        ros_player.playable(summary, ["/events"])
