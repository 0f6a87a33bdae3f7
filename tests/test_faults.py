"""faults.py: the grammar and what each fault does to a stream of messages."""

from __future__ import annotations

import array
import struct
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rvl_writer import rvl

from mss_perception import messages
from mss_perception.bags import BagWriter, bag_summary, typestore
from mss_perception.faults import KINDS, NEEDS_AMOUNT, TAKES_AMOUNT, Fault, FaultError, FaultSchedule, parse_fault
from mss_perception.messages.event_packets import PacketDecoder
from mss_perception.player import Timeline

TYPES = messages.bag_types()
EventPacket = typestore().types["event_camera_msgs/msg/EventPacket"]
CompressedImage = typestore().types["sensor_msgs/msg/CompressedImage"]
MS = 1_000_000
START = 1_000_000_000_000
LATENCY = 30 * MS


def image(stamp_ns: int, value: int = 100, encoding: str = "mono8"):
    kind = {"mono8": np.uint8, "mono16": np.uint16, "16UC1": np.uint16, "32FC1": np.float32}[encoding]
    value = value * 257 if encoding == "mono16" else value
    return messages.encode_image(TYPES, np.full((20, 30), value, kind), encoding, stamp_ns, "camera")


def images(count: int = 20, period_ms: int = 100):
    """`count` images at 10 Hz, stamped 0, 0.1, ... s after START, each received LATENCY later; values 0, 1, ..."""
    return [("rgb", START + i * period_ms * MS + LATENCY, image(START + i * period_ms * MS, i)) for i in range(count)]


def run(faults: list[str], stream, seed: int = 0):
    return list(FaultSchedule(faults, seed).apply(stream, START))


def stamps_ms(stream) -> list[int]:
    return [(messages.stamp_ns(message.header) - START) // MS for _, _, message in stream]


# ----------------------------------------------------------------------------------------------------------- grammar

@given(st.sampled_from(["rgb", "lidar", "rgb_left"]), st.sampled_from(list(KINDS)),
       st.floats(0, 100).map(lambda x: round(x, 3)), st.floats(0, 100).map(lambda x: round(x, 3)),
       st.none() | st.floats(0.01, 100).map(lambda x: round(x, 3)))
def test_text_of_a_fault_reads_back_as_the_same_fault(role, kind, amount, start, length):
    amount = amount if kind in NEEDS_AMOUNT or kind in TAKES_AMOUNT and amount > 50 else None
    fault = Fault(role, kind, amount, start, float("inf") if length is None else round(start + length, 3))
    again = parse_fault(str(fault))
    assert again == replace(fault, amount=None if amount is None else pytest.approx(amount, rel=1e-4),
                            start_sec=pytest.approx(start, rel=1e-4), end_sec=pytest.approx(fault.end_sec, rel=1e-4))


@pytest.mark.parametrize("text, token", [
    ("rgb:drop", "rgb:drop"),
    ("rgb@3-5", "rgb"),
    ("camera:drop@3-5", "camera"),
    ("rgb:explode@3-5", "explode"),
    ("rgb:drop=2@3-5", "=2"),
    ("lidar:delay@3-5", "delay"),
    ("lidar:delay=fast@3-5", "fast"),
    ("lidar:delay=-1@3-5", "-1"),
    ("lidar:noise=nan@3-5", "nan"),
    ("rgb:drop@5-3", "5-3"),
    ("rgb:drop@3", "3"),
    ("rgb:drop@-5", "-5"),
    ("rgb:drop@1.2.3-5", "1.2.3-5"),
])
def test_error_names_the_wrong_token_and_the_grammar(text, token):
    with pytest.raises(FaultError) as error:
        parse_fault(text, ["rgb", "lidar"])
    assert repr(token) in str(error.value) and "INPUT:KIND[=AMOUNT]@START-[END]" in str(error.value)


def test_signed_amounts_are_for_stamps():
    assert parse_fault("rgb:stamp=-0.5@3-").amount == -0.5


# ------------------------------------------------------------------------------------------------------------- kinds

def test_drop_goes_by_the_stamp_not_by_the_receipt():
    assert stamps_ms(run(["rgb:drop@0.5-1"], images(12))) == [0, 100, 200, 300, 400, 1000, 1100]


def test_a_message_without_stamp_belongs_to_its_receipt():
    stream = [("tf", START + i * 100 * MS, SimpleNamespace(number=i)) for i in range(10)]
    assert [m.number for _, _, m in run(["tf:drop@0.3-0.6"], stream)] == [0, 1, 2, 6, 7, 8, 9]


def test_a_fault_from_zero_takes_stamps_before_the_first_receipt_too():
    early = ("rgb", START, image(START - 50 * MS))
    assert run(["rgb:drop@0-1"], [early]) == []
    assert len(run(["rgb:drop@0.01-1"], [early])) == 1


def test_only_the_named_stream_is_touched():
    stream = sorted(images(5) + [("lidar", START + i * 100 * MS + 40 * MS, image(START + i * 100 * MS))
                                 for i in range(5)], key=lambda entry: entry[1])
    assert [key for key, *_ in run(["rgb:drop@0-"], stream)] == ["lidar"] * 5


def test_delay_moves_the_receipt_keeps_the_stamp_and_the_output_is_in_time_order():
    faulted = run(["rgb:delay=0.25@0.3-0.6"], images(12))
    times = [(when - START - LATENCY) // MS for _, when, _ in faulted]
    assert times == sorted(times) and len(faulted) == 12
    assert dict(zip(stamps_ms(faulted), times, strict=True)) == {
        stamp: stamp + (250 if 300 <= stamp < 600 else 0) for stamp in range(0, 1200, 100)}


def test_delayed_messages_come_out_after_the_streams_end():
    assert len(run(["rgb:delay=5@0-"], images(4))) == 4


def test_freeze_repeats_the_last_payload_under_new_stamps():
    faulted = run(["rgb:freeze@0.5-1"], images(12))
    assert stamps_ms(faulted) == list(range(0, 1200, 100))
    assert [int(m.data[0]) for _, _, m in faulted] == [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 10, 11]


@pytest.mark.parametrize("order", [1, -1])
def test_an_input_can_freeze_twice(order):
    faulted = run(["rgb:freeze@0.2-0.4", "rgb:freeze@0.6-0.9"][::order], images(11))
    assert [int(m.data[0]) for _, _, m in faulted] == [0, 1, 1, 1, 4, 5, 5, 5, 5, 9, 10]


def test_wrong_stamp_shifts_the_stamp_only():
    faulted = run(["rgb:stamp=-0.35@0.5-0.7"], images(8))
    assert stamps_ms(faulted) == [0, 100, 200, 300, 400, 150, 250, 700]
    assert [when for _, when, _ in faulted] == [when for _, when, _ in images(8)]


def test_corrupt_payload_can_never_be_decoded():
    cloud = {name: np.ones(5, np.float32) for name in "xyz"}
    empty = {name: np.ones(0, np.float32) for name in "xyz"}
    stream = [("a", START, image(START)), ("a", START, messages.encode_cloud(TYPES, cloud, START, "lidar")),
              ("a", START, messages.encode_cloud(TYPES, empty, START, "lidar"))]
    for seed in range(20):
        for _, _, message in run(["a:corrupt@0-"], stream, seed):
            decode = messages.decode_image if hasattr(message, "encoding") else messages.decode_cloud
            with pytest.raises(messages.MessageError):
                decode(message)


@pytest.mark.parametrize("encoding, value, sigma, unit", [("mono8", 128, 12, 1), ("mono16", 128, 12, 1),
                                                          ("32FC1", 30, 0.4, 1), ("16UC1", 9000, 0.4, 1000)])
def test_noise_on_an_image_has_the_asked_standard_deviation(encoding, value, sigma, unit):
    stream = [("rgb", START, image(START, value, encoding)) for _ in range(30)]
    noisy = np.stack([messages.decode_image(m) for _, _, m in run([f"rgb:noise={sigma}@0-"], stream)])
    assert abs(noisy.astype(float).mean() - value) < 0.05 * sigma * unit
    assert abs(noisy.astype(float).std() - sigma * unit) < 0.05 * sigma * unit
    assert not np.array_equal(noisy[0], noisy[1])


def test_noise_keeps_invalid_depths_invalid_and_valid_ones_positive():
    depth = np.full((40, 40), 0.1, np.float32)
    depth[:, :10], depth[:, 10:20], depth[:, 20:30] = np.nan, np.inf, 0
    stream = [("depth", START, messages.encode_image(TYPES, depth, "32FC1", START, "d"))]
    noisy = messages.decode_image(run(["depth:noise=1@0-"], stream)[0][2])
    assert np.isnan(noisy[:, :10]).all() and np.isinf(noisy[:, 10:20]).all() and (noisy[:, 20:30] == 0).all()
    assert (noisy[:, 30:] > 0).all() and noisy[:, 30:].std() > 0.1


def test_noise_on_a_cloud_moves_points_and_nothing_else():
    fields = {name: np.full(5000, 7, np.float32) for name in ("x", "y", "z", "intensity")}
    faulted = run(["lidar:noise=0.2@0-"], [("lidar", START, messages.encode_cloud(TYPES, fields, START, "l"))])
    cloud = messages.decode_cloud(faulted[0][2])
    assert np.allclose(cloud.xyz().std(axis=0), 0.2, rtol=0.05) and (cloud.field("intensity") == 7).all()


def test_noise_on_a_cloud_that_has_a_range_or_nothing_of_the_kind():
    def cloud(*names):
        return messages.encode_cloud(TYPES, {name: np.full(500, 20, np.float32) for name in names}, START, "radar")

    (_, _, noisy), = run(["radar:noise=0.5@0-"], [("radar", START, cloud("range", "azimuth"))])
    found = messages.decode_cloud(noisy)
    assert np.std(found.scalar("range")) == pytest.approx(0.5, rel=0.15) and (found.scalar("azimuth") == 20).all()
    (_, _, noisy), = run(["radar:noise=0.5@0-"], [("radar", START, cloud("rcs"))])
    assert (messages.decode_cloud(noisy).scalar("rcs") == 20).all()


def test_noise_on_events_keeps_them_inside_the_sensor_and_their_times():
    x = np.arange(640, dtype=np.uint16)
    packet = messages.encode_events(TYPES, x, x // 2, START + x.astype(np.int64) * 1000, x % 2, START, "e")
    noisy = messages.decode_events(run(["event:noise@0-"], [("event", START, packet)])[0][2])
    before = messages.decode_events(packet)
    assert noisy.x.max() <= 639 and noisy.y.max() <= 319
    assert (noisy.x != before.x).any() and (noisy.t == before.t).all() and (noisy.p == before.p).all()


@pytest.mark.parametrize("role", ["rgb/info", "odom", "tf", "tf_static"])
@pytest.mark.parametrize("kind", ["noise", "corrupt"])
def test_what_has_no_measurements_cannot_be_disturbed_and_says_so_before_the_run(role, kind):
    with pytest.raises(FaultError, match=f"'{kind}' is not for {role}; noise and corrupt are for images, clouds and"):
        FaultSchedule([f"{role}:{kind}@0-"], roles={"/a": role})


@pytest.mark.parametrize("fault", ["/clock:corrupt@0-", "/clock:stamp=1@0-", "/imu:noise@0-", "/imu:corrupt@0-"])
def test_a_player_refuses_what_the_messages_of_a_topic_cannot_have(tmp_path, fault):
    """Topics that are no input of the node's are played, too; the bag says what they hold."""
    store = typestore().types
    header, time = image(START).header, store["builtin_interfaces/msg/Time"](1, 0)
    vector, nine = store["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0), np.zeros(9)
    imu = store["sensor_msgs/msg/Imu"](header, store["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0), nine, vector,
                                       nine, vector, nine)
    sent = {"/clock": store["rosgraph_msgs/msg/Clock"](time), "/imu": imu, "/labels": image(START)}
    with BagWriter(tmp_path / "bag") as writer:
        for topic, message in sent.items():
            writer.write(topic, message, START)
    bag, topic, kind = bag_summary(tmp_path / "bag"), *fault.split("@")[0].split("=")[0].split(":")
    with pytest.raises(FaultError, match=f"'{kind}' is not for {topic} .*{type(sent[topic]).__name__.split('__')[-1]}"):
        Timeline(bag, list(sent), {}, [fault])
    possible = ["/labels:noise@0-", "/labels:corrupt@0-", "/imu:stamp=1@0-", "/imu:freeze@0-", "/clock:drop@0-"]
    assert [item.topic for item in Timeline(bag, list(sent), {}, possible)] == ["/imu", "/labels"]


def test_other_messages_are_named():
    for kind in ("noise", "corrupt"):
        with pytest.raises(FaultError, match="SimpleNamespace has nothing to disturb; noise and corrupt are for"):
            run([f"a:{kind}@0-"], [("a", START, SimpleNamespace(header=image(START).header))])


def test_transforms_are_stamped_one_by_one():
    mounts = [("base_link", "camera", np.eye(4)), ("base_link", "lidar", np.eye(4))]
    message = messages.encode_transforms(TYPES, mounts, START)
    (_, _, changed), = run(["tf:stamp=-2@0-"], [("tf", START, message)])
    assert [messages.stamp_ns(one.header) for one in changed.transforms] == [START - 2000 * MS] * 2
    assert [messages.stamp_ns(one.header) for one in message.transforms] == [START] * 2


# -------------------------------------------------------------------------------------------------- noise in files

def compressed(pixels, name: str, suffix: str = ".png", before: bytes = b""):
    data = before + cv2.imencode(suffix, pixels)[1].tobytes()
    return CompressedImage(header=messages.encode_header(TYPES, START, "camera"), format=name,
                           data=np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(("name", "suffix", "deviation"), [
    ("rgb8; png compressed bgr8", ".png", 12), ("png", ".png", 12), ("mono8; jpeg compressed mono8", ".jpg", 12),
    ("rgb8; jpeg compressed rgb8", ".jpg", 8.7), ("jpeg", ".jpg", 8.7),         # of halved colours
    ("bayer_rggb8; png compressed bayer_rggb8", ".png", 8.7),                   # of colours between the pixels
])
def test_noise_in_a_picture_file_has_the_asked_deviation(name, suffix, deviation):
    is_flat = "bayer" in name or "mono" in name
    pixels = np.full((64, 64), 120, np.uint8) if is_flat else np.full((64, 64, 3), (90, 120, 150), np.uint8)
    message = compressed(pixels, name, suffix)
    before = messages.decode_image(message).astype(float)
    (_, _, noisy), = run(["rgb:noise=12@0-"], [("rgb", START, message)])
    after = messages.decode_image(noisy)
    assert noisy.format == name and after.shape == before.shape and (after != before).any()
    assert np.std(after - before) == pytest.approx(deviation, rel=0.15) and abs((after - before).mean()) < 1


@pytest.mark.parametrize(("encoding", "name", "form"), [
    ("16UC1", "16UC1; png compressed ", "png"), ("16UC1", "16UC1; compressedDepth png", "depth"),
    ("32FC1", "32FC1; compressedDepth png", "depth"), ("16UC1", "16UC1; compressedDepth rvl", "rvl"),
])
def test_noise_in_a_depth_file_is_metres_and_leaves_holes(encoding, name, form):
    millimetres = np.full((40, 50), 5000, np.uint16)
    millimetres[::4] = 0
    if encoding == "32FC1":     # codes of 1 / depth: A / code metres
        stored, header = np.where(millimetres, 20_000, 0).astype(np.uint16), struct.pack("<iff", 0, 100_000.0, 0.0)
    else:
        stored, header = millimetres, bytes(12)
    if form == "rvl":
        body = struct.pack("<II", 50, 40) + rvl(stored)
        message = CompressedImage(header=messages.encode_header(TYPES, START, "d"), format=name,
                                  data=np.frombuffer(header + body, np.uint8))
    else:
        message = compressed(stored, name, before=header if form == "depth" else b"")
    before = messages.decode_image(message)
    (_, _, noisy), = run(["depth:noise=0.5@0-"], [("depth", START, message)])
    after, unit = messages.decode_image(noisy), 1000 if encoding == "16UC1" else 1
    assert after.dtype == before.dtype
    assert np.array_equal(after > 0, before > 0) and (before > 0).any() and not (before > 0).all()
    assert np.std(after[after > 0] / unit) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("data", [b"", b"no file", cv2.imencode(".jpg", np.zeros((9, 9), np.uint8))[1].tobytes()[:80]])
def test_a_file_that_is_broken_already_stays_so(data):
    message = CompressedImage(header=messages.encode_header(TYPES, START, "camera"), format="jpeg",
                              data=np.frombuffer(data, np.uint8))
    (_, _, noisy), = run(["rgb:noise@0-"], [("rgb", START, message)])
    assert bytes(noisy.data) == data


# ------------------------------------------------------------------------------------------------ packets and lists

def packet(payload: np.ndarray, stamp_ns: int = START, seq: int = 0):
    return EventPacket(header=messages.encode_header(TYPES, stamp_ns, "event"), height=480, width=640, seq=seq,
                       time_base=stamp_ns, encoding="evt3", is_bigendian=False, events=payload)


def test_a_frozen_event_packet_keeps_its_own_number_and_time():
    stream = [("event", START + k * MS, packet(np.full(8, k, np.uint8), START + k * MS, k)) for k in range(6)]
    faulted = [message for *_, message in run(["event:freeze@0.003-"], stream)]
    assert [int(one.events[0]) for one in faulted] == [0, 1, 2, 2, 2, 2]
    assert [one.seq for one in faulted] == list(range(6))
    assert [one.time_base for one in faulted] == [messages.stamp_ns(one.header) for one in faulted]


@pytest.mark.parametrize("words", [0, 1, 100])
def test_a_corrupt_event_packet_ends_within_a_word(words):
    """Whole words would be a valid packet, only a shorter one."""
    whole = np.full(words, 0x8001, "<u2").view(np.uint8)
    for seed in range(20):
        (_, _, corrupt), = run(["event:corrupt@0-"], [("event", START, packet(whole))], seed)
        assert len(corrupt.events) % 2 == 1 and len(corrupt.events) <= max(1, len(whole))


def events_of(encoding, payload, is_bigendian=False):
    return PacketDecoder(encoding).feed(np.asarray(payload), START, is_bigendian)


EVENT_COUNT = 400


@pytest.mark.parametrize(("encoding", "is_bigendian"), [
    ("evt3", False), ("evt3", True), ("libcaer_cmp", False), ("libcaer", True), ("mono", False), ("mono", True)])
def test_noise_moves_the_pixels_of_packed_events_and_nothing_else(encoding, is_bigendian):
    random = np.random.default_rng(0)
    first, second = random.integers(0, 300, EVENT_COUNT), random.integers(0, 200, EVENT_COUNT)
    us, on = 70_000 + np.arange(EVENT_COUNT) * 3, random.integers(0, 2, EVENT_COUNT)
    if encoding in ("evt3", "libcaer_cmp"):
        y, x, base, vector, low, high = (0, 2, 3, 5, 6, 8) if encoding == "evt3" else (2, 3, 4, 5, 1, 0)
        words = [[high << 12 | us[k] >> 12, low << 12 | us[k] & 0xFFF, y << 12 | second[k],
                  x << 12 | on[k] << 11 | first[k], base << 12 | first[k], vector << 12 | 0b101]
                 for k in range(EVENT_COUNT)]
        payload = np.array(words, "u2").ravel().astype(">u2" if is_bigendian else "<u2").view(np.uint8)
    elif encoding == "libcaer":
        payload = np.stack([first << 17 | second << 2 | on << 1 | 1, us], -1).astype("<u4").reshape(-1).view(np.uint8)
    else:
        values = on.astype(np.uint64) << 63 | (second << 48 | first << 32 | us).astype(np.uint64)
        payload = values.astype(">u8" if is_bigendian else "<u8").view(np.uint8)
    message = packet(payload)
    message.encoding, message.is_bigendian = encoding, is_bigendian
    (_, _, noisy), = run(["event:noise=4@0-"], [("event", START, message)])
    before, after = (events_of(encoding, one.events, is_bigendian) for one in (message, noisy))
    assert len(before) == len(after) >= EVENT_COUNT and np.array_equal(before.t, after.t)
    assert np.array_equal(before.p, after.p) and bytes(message.events) == payload.tobytes()
    for axis in "xy":
        old, new = getattr(before, axis).astype(int), getattr(after, axis).astype(int)
        inner = (old > 20) & (old < old.max() - 20)
        assert np.std((new - old)[inner]) == pytest.approx(4, rel=0.15) and new.min() >= 0 and new.max() <= old.max()


def test_noise_and_corruption_of_a_list_of_events():
    made = typestore().types
    events = [made["dvs_msgs/msg/Event"](x=100 + k, y=50, ts=TYPES.Time(sec=1000, nanosec=k), polarity=True)
              for k in range(50)]
    header = messages.encode_header(TYPES, START, "event")
    message = made["dvs_msgs/msg/EventArray"](header=header, height=480, width=640, events=events)
    (_, _, noisy), = run(["event:noise@0-"], [("event", START, message)])
    before, after = messages.decode_events(message), messages.decode_events(noisy)
    assert np.array_equal(before.t, after.t) and (before.x != after.x).any() and (before.y >= after.y).all()
    assert before.x.tolist() == list(range(100, 150))
    for listed in (events, []):     # of another camera than camera_info's: no lane takes it
        message.events = listed
        (_, _, corrupt), = run(["event:corrupt@0-"], [("event", START, message)])
        assert (corrupt.width, message.width) == (641, 640)


def test_noise_on_what_is_broken_already_leaves_it_so():
    """In a recording, or by another fault: it takes no end to the replay."""
    fields = {name: np.full(50, 7, np.float32) for name in "xyz"}
    stream = [("a", START, messages.encode_cloud(TYPES, fields, START, "lidar")),
              ("a", START, image(START, 9000, "16UC1")), ("a", START, image(START, 3, "32FC1"))]
    for seed in range(20):
        for _, _, message in run(["a:corrupt@0-", "a:noise@0-"], stream, seed):
            decode = messages.decode_image if hasattr(message, "encoding") else messages.decode_cloud
            with pytest.raises(messages.MessageError):
                decode(message)


# --------------------------------------------------------------------------------------------------------- the whole

def test_faults_combine_on_one_message():
    faulted = run(["rgb:delay=0.2@0-0.5", "rgb:stamp=1@0-0.5", "rgb:freeze@0.1-0.5"], images(3))
    assert stamps_ms(faulted) == [1000, 1100, 1200]
    assert [when - START - LATENCY for _, when, _ in faulted] == [200 * MS, 300 * MS, 400 * MS]
    assert [int(m.data[0]) for _, _, m in faulted] == [0, 0, 0]


def test_originals_stay_as_they_were():
    stream = images(6)
    before = [(messages.stamp_ns(m.header), bytes(m.data)) for _, _, m in stream]
    run(["rgb:noise@0-", "rgb:stamp=-3@0-", "rgb:corrupt@0.3-"], stream)
    assert [(messages.stamp_ns(m.header), bytes(m.data)) for _, _, m in stream] == before


def test_same_seed_same_noise_other_seed_other_noise():
    once, again, other = (run(["rgb:noise@0-", "rgb:corrupt@0.4-"], images(6), seed) for seed in (3, 3, 4))
    assert all(bytes(a[2].data) == bytes(b[2].data) for a, b in zip(once, again, strict=True))
    assert any(bytes(a[2].data) != bytes(b[2].data) for a, b in zip(once, other, strict=True))


def test_touched_counts_the_messages_of_each_fault():
    schedule = FaultSchedule(["rgb:drop@0.5-1", "lidar:drop@0-"])
    list(schedule.apply(images(12), START))
    assert schedule.touched == [5, 0]


def test_topics_are_named_by_their_roles():
    schedule = FaultSchedule(["rgb:drop@0-"], roles={"/cam/image": "rgb", "/points": "lidar"})
    stream = [("/cam/image", when, m) for _, when, m in images(2)] + [("/points", START + 10**9, image(START))]
    assert [key for key, *_ in schedule.apply(stream)] == ["/points"]
    with pytest.raises(FaultError, match="'event' is no input; known: .*lidar"):
        FaultSchedule(["event:drop@0-"], roles={"/points": "lidar"})


def test_rclpy_messages_are_faulted_alike():
    sensor = pytest.importorskip("sensor_msgs.msg", reason="ROS 2's Python packages are not installed")
    image = sensor.Image(height=2, width=3, step=3, encoding="mono8", data=array.array("B", [100] * 6))
    image.header.stamp.sec = START // 1_000_000_000
    for text in ("rgb:noise=5@0-", "rgb:stamp=2@0-", "rgb:freeze@0-", "rgb:corrupt@0-"):
        (_, _, faulted), = run([text], [("rgb", START, image)])
        assert type(faulted) is sensor.Image and isinstance(faulted.data, array.array)
        assert list(image.data) == [100] * 6 and image.header.stamp.sec == START // 1_000_000_000
    assert len(faulted.data) < 6
