"""Bags: writing, reading in time order, both storages, real event recordings, and everything that can be broken."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import tracemalloc
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer, storage_mcap

from mss_perception import messages
from mss_perception.bags import EXTRA_TYPES, BagError, BagWriter, bag_summary, open_bag, read_bag, typestore

TYPES = messages.bag_types()


def image(stamp):
    return messages.encode_image(TYPES, np.full((4, 5), stamp % 251, np.uint8), "mono8", stamp, "camera")


def odometry(stamp):
    return messages.encode_odometry(TYPES, np.eye(4), stamp)


@pytest.fixture
def bag(tmp_path) -> Path:
    path = tmp_path / "drive"
    with BagWriter(path) as writer:
        writer.write("/tf_static", messages.encode_transforms(TYPES, [("base_link", "camera", np.eye(4))], 0), 1000)
        for k in range(50):
            writer.write("/image", image(k), 1_000_000 + 100_000_000 * k)
        for k in range(249, -1, -1):        # out of order, as messages with a latency are
            writer.write("/odom", odometry(k), 2_000_000 + 20_000_000 * k)
    return path


def test_messages_come_back_in_time_order(bag):
    read = list(read_bag(bag))
    times = [time for _, time, _ in read]
    assert len(read) == 301 and times == sorted(times)
    images = [(time, msg) for topic, time, msg in read if topic == "/image"]
    assert [time for time, _ in images] == [1_000_000 + 100_000_000 * k for k in range(50)]
    assert all(np.all(messages.decode_image(msg) == k) for k, (_, msg) in enumerate(images))
    assert [messages.stamp_ns(msg.header) for topic, _, msg in read if topic == "/odom"] == list(range(250))


def test_a_file_alone_reads_as_its_folder(bag):
    file = bag / "drive.mcap"
    assert [item[:2] for item in read_bag(file)] == [item[:2] for item in read_bag(bag)]


def test_only_the_topics_asked_for(bag):
    assert {topic for topic, _, _ in read_bag(bag, ["/image"])} == {"/image"}
    assert list(read_bag(bag, [])) == []
    with pytest.raises(BagError, match=r"no topic /points.*/image, /odom, /tf_static"):
        next(read_bag(bag, ["/image", "/points"]))


def test_summary(bag):
    summary = bag_summary(bag)
    assert summary.count == 301 and summary.start_ns == 1000 and summary.end_ns == 2_000_000 + 20_000_000 * 249
    topic = summary.topics["/image"]
    assert (topic.type, topic.count, topic.first_ns) == ("sensor_msgs/msg/Image", 50, 1_000_000)
    assert topic.rate_hz == pytest.approx(10.0) and summary.topics["/odom"].rate_hz == pytest.approx(50.0)
    assert summary.topics["/tf_static"].rate_hz == 0.0


def test_static_topics_are_offered_to_late_subscribers(bag):
    topics = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    qos = {one["topic_metadata"]["name"]: one["topic_metadata"]["offered_qos_profiles"]
           for one in topics["topics_with_message_count"]}
    assert qos["/tf_static"][0]["durability"] == "transient_local" and qos["/image"] == []


def test_compression_and_empty_topics(tmp_path):
    with BagWriter(tmp_path / "small", compress=True) as writer:
        writer.declare("/events", "sensor_msgs/msg/PointCloud2")
        for k in range(100):
            writer.write("/image", image(0), k)
    with BagWriter(tmp_path / "large") as writer:
        for k in range(100):
            writer.write("/image", image(0), k)
    small, large = ((tmp_path / name / f"{name}.mcap").stat().st_size for name in ("small", "large"))
    assert small < large / 2 and len(list(read_bag(tmp_path / "small"))) == 100
    assert bag_summary(tmp_path / "small").topics["/events"].count == 0


def test_sqlite_bags_with_and_without_definitions(tmp_path):
    kind = "event_camera_msgs/msg/EventPacket"
    store = typestore()
    packet = store.types[kind](header=messages.encode_header(TYPES, 5, "event"), height=4, width=5, seq=7, time_base=9,
                               encoding="evt3", is_bigendian=False, events=np.arange(10, dtype=np.uint8))
    with Writer(tmp_path / "old", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/events", kind, typestore=store)
        for k in range(5):
            writer.write(connection, k, store.serialize_cdr(packet, kind))
    database = tmp_path / "old" / "old.db3"
    for _ in range(2):
        read = list(read_bag(tmp_path / "old"))
        assert [item[1] for item in read] == [item[1] for item in read_bag(database)] == list(range(5))
        assert np.array_equal(read[0][2].events, np.arange(10)) and read[0][2].seq == 7
        with sqlite3.connect(database) as connection:       # the second time round: what older rosbag2 wrote
            connection.execute("DELETE FROM message_definitions")


@pytest.mark.parametrize(("name", "count", "encoding", "size"), [
    ("test_events_1", 517, "evt3", (640, 480)), ("test_events_2", 100, "libcaer_cmp", (346, 260))])
def test_real_event_recordings_are_read(shared_data, name, count, encoding, size):
    folder = shared_data / "event_recordings" / name
    summary = bag_summary(folder)
    assert summary.topics["/event_camera/events"].type == "event_camera_msgs/msg/EventPacket"
    assert summary.count == count
    packets = [msg for _, _, msg in read_bag(folder)]
    assert len(packets) == count
    assert {(msg.encoding, msg.width, msg.height) for msg in packets} == {(encoding, *size)}
    assert [msg.seq - packets[0].seq for msg in packets] == list(range(count))
    file = next(one for one in folder.iterdir() if one.suffix in (".mcap", ".db3"))
    assert len(list(read_bag(file))) == count


def test_a_type_that_nobody_knows_spoils_only_its_topic(tmp_path):
    store = typestore()
    with Writer(tmp_path / "odd", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        good = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        odd = writer.add_connection("/odd", "vendor/msg/Secret", msgdef="this is ! no definition", rihs01="RIHS01_0")
        writer.write(good, 1, store.serialize_cdr(image(1), "sensor_msgs/msg/Image"))
        writer.write(odd, 2, b"\x00\x01\x00\x00\x05\x00\x00\x00")
    assert len(list(read_bag(tmp_path / "odd", ["/image"]))) == 1
    assert bag_summary(tmp_path / "odd").topics["/odd"].type == "vendor/msg/Secret"
    with pytest.raises(BagError, match="vendor/msg/Secret"):
        list(read_bag(tmp_path / "odd"))


@pytest.mark.parametrize("action", [bag_summary, lambda path: list(read_bag(path))])
class TestBrokenBags:
    def test_nothing_there(self, tmp_path, action):
        with pytest.raises(BagError, match="does not exist"):
            action(tmp_path / "none")

    def test_a_folder_that_is_no_bag(self, tmp_path, action):
        with pytest.raises(BagError, match=r"no metadata.yaml.*not a bag"):
            action(tmp_path)

    def test_metadata_lost(self, bag, action):
        (bag / "metadata.yaml").unlink()
        with pytest.raises(BagError, match=r"no metadata.yaml.*drive.mcap"):
            action(bag)

    @pytest.mark.parametrize("text", ["", "a: [", "rosbag2_bagfile_information: 5", "rosbag2_bagfile_information: {}",
                                      "rosbag2_bagfile_information: {storage_identifier: tape}", "- " * 5000])
    def test_metadata_broken(self, bag, action, text):
        (bag / "metadata.yaml").write_text(text)
        with pytest.raises(BagError, match="drive"):
            action(bag)

    def test_recording_lost(self, bag, action):
        (bag / "drive.mcap").unlink()
        with pytest.raises(BagError, match="missing"):
            action(bag)

    def test_no_bag_file(self, tmp_path, action):
        (tmp_path / "drive.txt").write_text("hello")
        with pytest.raises(BagError, match=r"\.mcap or a \.db3"):
            action(tmp_path / "drive.txt")

    @pytest.mark.parametrize("name", ["garbage.mcap", "garbage.db3", "empty.mcap", "empty.db3"])
    def test_garbage(self, tmp_path, action, name):
        (tmp_path / name).write_bytes(b"" if "empty" in name else bytes(range(256)) * 20)
        with pytest.raises(BagError, match=name):
            action(tmp_path / name)

    @pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.95, 0.999])
    def test_a_recording_that_breaks_off(self, bag, action, kept):
        file = bag / "drive.mcap"
        data = file.read_bytes()
        file.write_bytes(data[:int(len(data) * kept)])
        with pytest.raises(BagError, match="drive"):
            action(bag)


def test_a_recording_that_was_cut_off_says_how_to_save_it(bag):
    file = bag / "drive.mcap"
    file.write_bytes(file.read_bytes()[:2000])
    for path in (bag, file):
        with pytest.raises(BagError, match=f"`mcap recover {file} -o whole.mcap` saves what was written"):
            bag_summary(path)


def test_a_receive_time_beyond_ros_is_a_damaged_bag(tmp_path):
    with BagWriter(tmp_path / "late") as writer:
        writer.write("/image", image(1), 2**63 - 1)
        writer.write("/image", image(1), 2**63)
    found = read_bag(tmp_path / "late")
    assert next(found)[1] == 2**63 - 1
    with pytest.raises(BagError, match="a message on /image was received at 9223372036854775808 ns"):
        next(found)


def test_a_bags_types_are_those_of_its_topics_with_all_that_they_are_made_of(bag):
    """Not all of ROS's, which takes five times as long."""
    with open_bag(bag) as opened:
        found, expected = set(opened.store.fielddefs), set()
        for connection in opened.connections:
            text = connection.msgdef[1]
            expected |= {connection.msgtype, *(line.split()[1].replace("/", "/msg/") if line.count("/") == 1
                                               else line.split()[1]
                                               for line in text.splitlines() if line.startswith("MSG: "))}
        assert found == expected | {"builtin_interfaces/msg/Time", "builtin_interfaces/msg/Duration"}     # rosbags' own
    with open_bag(bag) as again:
        assert again.store is opened.store


def test_flipped_bytes_give_messages_or_a_bag_error(bag):
    file = bag / "drive.mcap"
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(15):
        hurt = bytearray(data)
        for at in rng.integers(0, len(data), 30):
            hurt[at] = rng.integers(256)
        file.write_bytes(hurt)
        try:
            for _ in read_bag(bag):
                pass
        except BagError:
            broken += 1
    assert broken > 0


def test_writing_never_overwrites_and_knows_its_types(bag, tmp_path):
    with pytest.raises(BagError, match="exists already"):
        BagWriter(bag)
    with BagWriter(tmp_path / "other") as writer:
        writer.write("/image", image(0), 0)
        with pytest.raises(BagError, match="holds sensor_msgs/msg/Image"):
            writer.write("/image", odometry(0), 0)
        with pytest.raises(BagError, match="'vendor/msg/Secret'"):
            writer.declare("/odd", "vendor/msg/Secret")


def test_event_types_are_known_to_the_writer():
    assert set(EXTRA_TYPES) <= set(typestore().types)


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_a_chunk_is_unpacked_as_far_as_it_announces(kind):
    """A bomb: a thousandth of what it becomes, or less."""
    unpack = storage_mcap.DECOMPRESSORS[kind]
    pack = storage_mcap.zstd.compress if kind == "zstd" else lz4.frame.compress
    assert unpack(pack(b"abc" * 100), 300) == unpack(pack(b"abc" * 60) + pack(b"abc" * 40), 300) == b"abc" * 100
    bomb = pack(bytes(256 << 20))
    tracemalloc.start()
    try:
        for size in (0, 1000, 1 << 40):
            with pytest.raises(ValueError, match="than the .* announces|at most 1073741824 are unpacked"):
                unpack(bomb, size)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert len(unpack(pack(bytes(1000))[:-8], 1000)) <= 1000    # cut off: rosbags finds that its size is wrong


def test_a_chunk_of_more_than_it_announces_is_a_damaged_bag(tmp_path):
    with BagWriter(tmp_path / "bomb", compress=True) as writer:
        for k in range(20):
            writer.write("/image", image(k), k)
    file = tmp_path / "bomb" / "bomb.mcap"
    data = bytearray(file.read_bytes())
    whole = len(b"".join(bytes(one) for _, _, one in raw_messages(file)))
    at = data.index(b"zstd") - 16 - 4       # its size stands before checksum and name of the compression
    size, = struct.unpack_from("<Q", data, at + 4)
    assert size > whole
    data = data.replace(struct.pack("<Q", size), struct.pack("<Q", size - 100))
    file.write_bytes(data)
    with pytest.raises(BagError, match=f"bomb is damaged: a chunk holds more than the {size - 100} bytes"):
        list(read_bag(tmp_path / "bomb"))


def raw_messages(file):
    with open_bag(file) as opened:
        return [(connection, time, bytes(data)) for connection, time, data in opened.messages(None)]


@pytest.mark.parametrize("sql", [
    "CREATE VIEW schema AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i AS schema_version "
    "FROM n WHERE i = 4",
    "ALTER TABLE messages ADD COLUMN more BLOB GENERATED ALWAYS AS (zeroblob(1000000000))",
    "ALTER TABLE messages ADD COLUMN more BLOB AS (zeroblob(1000000000))",
    "CREATE TRIGGER more AFTER INSERT ON messages BEGIN DELETE FROM topics; END",
])
def test_a_database_that_computes_is_refused_before_it_is_asked(tmp_path, sql):
    store = typestore()
    with Writer(tmp_path / "old", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        writer.write(connection, 1, store.serialize_cdr(image(1), "sensor_msgs/msg/Image"))
    database = tmp_path / "old" / "old.db3"
    assert len(list(read_bag(tmp_path / "old"))) == 1
    with sqlite3.connect(database) as connection:
        if "VIEW" in sql:
            connection.execute("DROP TABLE schema")
        connection.execute(sql)
    for path in (tmp_path / "old", database):
        with pytest.raises(BagError, match="computes its content; rosbag2 writes plain tables"):
            bag_summary(path)


ESCAPES = ["a/msg/B:\n    import os; os.mkdir('{0}')\nclass C",
           "a/msg/B\"\"\"\n    import os; os.mkdir('{0}')\n    \"\"\"",
           "a/msg/B': ([], []), **__import__('os').mkdir('{0}') or {{}}, 'a/msg/C"]
DEFINITIONS = ["int32 x\n", "int32 x=__import__('os').mkdir('{0}')\n",
               "string A=\"'''; import os; os.mkdir('{0}'); '''\"\n",
               "string x \"\\\"; import os; os.mkdir('{0}')\"\n", "int32[__import__('os').mkdir('{0}')] x\n",
               "int32 x\n" + "=" * 80 + "\nMSG: a/msg/C(__import__('os').mkdir('{0}'))\nint32 y\n"]


@pytest.mark.parametrize("name", ["a/msg/B", *ESCAPES])
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_no_definition_of_a_type_is_code(tmp_path, name, definition):
    """rosbags writes Python code of the types and runs it."""
    name, definition = (text.format(tmp_path / "trapped") for text in (name, definition))
    with Writer(tmp_path / "odd", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        odd = writer.add_connection("/odd", name, msgdef=definition, rihs01="RIHS01_0")
        writer.write(odd, 2, b"\x00\x01\x00\x00" + bytes(8))
    with contextlib.suppress(BagError):
        list(read_bag(tmp_path / "odd"))
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(("element", "data"), [("string", b"\1\0\0\0\0\0\0\0"), ("std_msgs/Header", bytes(4))])
def test_an_array_of_a_line_of_code_for_each_element_is_not_read(tmp_path, element, data):
    def write(path, size):
        text = f"{element}[{size}] x\n" + "=" * 80 + "\nMSG: std_msgs/Header\nuint32 seq\n"
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            odd = writer.add_connection("/odd", "a/msg/B", msgdef=text, rihs01="RIHS01_0")
            writer.write(odd, 2, b"\x00\x01\x00\x00" + data * 5)
        return path

    assert len(list(read_bag(write(tmp_path / "few", 5)))[0][2].x) == 5
    with pytest.raises(BagError, match="has type a/msg/B, of which the bag has no definition that can be read"):
        list(read_bag(write(tmp_path / "many", 10**12)))
