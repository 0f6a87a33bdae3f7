"""faults.py: the grammar and what each fault does to a stream of messages."""

from __future__ import annotations

import array
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mss_perception import messages
from mss_perception.bags import typestore
from mss_perception.faults import KINDS, NEEDS_AMOUNT, TAKES_AMOUNT, Fault, FaultError, FaultSchedule, parse_fault

TYPES = messages.bag_types()
EventPacket = typestore().types["event_camera_msgs/msg/EventPacket"]
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

@given(st.sampled_from(["rgb", "lidar", "rgb/info", "odom"]), st.sampled_from(list(KINDS)),
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


def test_noise_on_events_keeps_them_inside_the_sensor_and_their_times():
    x = np.arange(640, dtype=np.uint16)
    packet = messages.encode_events(TYPES, x, x // 2, START + x.astype(np.int64) * 1000, x % 2, START, "e")
    noisy = messages.decode_events(run(["event:noise@0-"], [("event", START, packet)])[0][2])
    before = messages.decode_events(packet)
    assert noisy.x.max() <= 639 and noisy.y.max() <= 319
    assert (noisy.x != before.x).any() and (noisy.t == before.t).all() and (noisy.p == before.p).all()


def test_noise_on_what_has_no_payload_is_an_error_that_says_so():
    info = TYPES.CameraInfo
    stream = [("rgb/info", START, SimpleNamespace(header=image(START).header, kind=info))]
    with pytest.raises(FaultError, match="no bytes to disturb"):
        run(["rgb/info:noise@0-"], stream)


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


def test_a_list_of_events_and_packed_data_can_be_noisy_no_more_than_corrupt_lists_can():
    array_type = typestore().types["dvs_msgs/msg/EventArray"]
    header = messages.encode_header(TYPES, START, "event")
    with pytest.raises(FaultError, match="EventArray has no bytes"):
        run(["event:corrupt@0-"], [("event", START, array_type(header=header, height=4, width=4, events=[]))])
    with pytest.raises(FaultError, match="noise on .*EventPacket 'evt3' is not defined"):
        run(["event:noise@0-"], [("event", START, packet(np.zeros(8, np.uint8)))])


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
