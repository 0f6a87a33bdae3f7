"""Topics of events in ROS time: the clock filter, gaps, silence, corrupt packets, and through the collector."""

from __future__ import annotations

import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lone_input import lone_image

from mss_models.modality import DEFAULT_ENCODINGS
from mss_perception import messages
from mss_perception.bags import read_bag, typestore
from mss_perception.camera import Camera
from mss_perception.collector import Collector
from mss_perception.config import Config
from mss_perception.event_clock import SensorClock
from mss_perception.event_stream import EventStream
from mss_perception.inputs import State
from mss_perception.messages import EventPicture, MessageError, bag_types
from mss_perception.messages.event_packets import MAX_EVENTS
from mss_perception.sensors import Sensors, packet_span

TYPES = bag_types()
EventPacket = typestore().types["event_camera_msgs/msg/EventPacket"]
MS, SECOND = 1_000_000, 1_000_000_000
START = 1_700_000_000 * SECOND      # ROS time of the tests' sensor time 0
Y, X, LOW, HIGH = 0, 2, 6, 8


def packet(payload, stamp, seq=0, encoding="evt3", time_base=0, width=640, height=480, is_bigendian=False):
    return EventPacket(header=messages.encode_header(TYPES, stamp, "event"), height=height, width=width, seq=seq,
                       time_base=time_base, encoding=encoding, is_bigendian=is_bigendian,
                       events=np.asarray(payload, np.uint8))


def evt3(*events):
    """(us, x, y, p), or (us,) of a time alone -> payload."""
    words = []
    for us, *pixel in events:
        words += [HIGH << 12 | us >> 12 & 0xFFF, LOW << 12 | us & 0xFFF]
        if pixel:
            words += [Y << 12 | pixel[1], X << 12 | pixel[2] << 11 | pixel[0]]
    return np.array(words, "<u2").view(np.uint8)


def span_of(begin_us, end_us, count=4, x=5, y=6):
    """Payload of `count` events (none: times alone) from begin to end."""
    times = np.linspace(begin_us, end_us, max(count, 2)).astype(int).tolist()
    return evt3(*((us, x, y, k % 2) if count else (us,) for k, us in enumerate(times)))


# ----------------------------------------------------------------------------------------------------------- clock

def offsets(pairs):
    clock, found = SensorClock(), []
    for sensor, stamp in pairs:
        clock.update(sensor, stamp)
        found.append(clock.offset_ns)
    return np.array(found), clock


def test_jitter_of_the_hosts_stamps_does_not_show_in_the_offset():
    random = np.random.default_rng(0)
    sensor = np.arange(0, 60 * SECOND, 4 * MS)                      # one minute; the sensor's clock is 100 ppm slow
    true_offset = START + sensor // 10_000
    delay = 500_000 + random.exponential(2 * MS, len(sensor)) + 60 * MS * (random.random(len(sensor)) < 0.01)
    stamps = sensor + true_offset + delay.astype(np.int64)
    found, _ = offsets(zip(sensor.tolist(), stamps.tolist(), strict=True))
    error = found - (true_offset + 500_000)
    settled = sensor > 2 * SECOND
    assert np.abs(error[settled]).max() < 400_000                   # of a jitter of 2 ms, with stalls of 60 ms
    assert np.abs(np.diff(found)).max() <= np.diff(stamps).max() // 100
    assert np.array_equal(found, offsets(zip(sensor.tolist(), stamps.tolist(), strict=True))[0])


def steady(seconds, offset=START, begin=0):
    return [(t, t + offset + MS) for t in range(begin, begin + int(seconds * SECOND), 5 * MS)]


@pytest.mark.parametrize("wrong", [-3 * SECOND, -150 * MS, 150 * MS, 3 * SECOND])
def test_a_few_wrong_stamps_are_not_believed(wrong):
    pairs = steady(2)
    for k in (100, 101, 102, 200, 300):
        pairs[k] = pairs[k][0], pairs[k][1] + wrong
    found, clock = offsets(pairs)
    assert np.ptp(found) == 0 and clock.jumps == 0


@pytest.mark.parametrize("jump", [-3600 * SECOND, -150 * MS, 150 * MS, 3600 * SECOND])
def test_a_clock_that_has_jumped_is_followed_at_once_when_that_is_settled(jump):
    before, after = steady(1), steady(1, START + jump, begin=SECOND)
    found, clock = offsets(before + after)
    changed = int(np.argmax(found != found[0]))
    assert (found[0], found[-1], clock.jumps) == (START + MS, START + MS + jump, 1)
    assert 0.2 <= (changed - len(before)) * 0.005 <= 0.21 and len(set(found.tolist())) == 2


def test_a_stalled_host_that_hands_on_everything_at_once_is_no_jump():
    pairs = steady(3)
    late = pairs[260][1]
    pairs[200:260] = [(sensor, late + k * 10_000) for k, (sensor, _) in enumerate(pairs[200:260])]     # 0.3 s of data
    found, clock = offsets(pairs)
    assert np.ptp(found) == 0 and clock.jumps == 0


def test_a_smaller_change_is_followed_gradually():
    found, clock = offsets(steady(1) + steady(8, START + 30 * MS, begin=SECOND))
    assert clock.jumps == 0 and found[-1] == START + 31 * MS
    assert 0 < np.diff(found).max() <= 350_000      # 1 % of 5 ms, and of the 35 ms across the change


# ------------------------------------------------------------------------------------------------ real recordings

def test_a_packet_of_too_many_events_costs_itself_only():
    stream = EventStream(10 * MS)
    assert len(stream.decode(packet(span_of(1000, 2000), START + 2 * MS, 0))) == 4
    bomb = np.tile(np.array([4 << 12 | 0xFFF], "<u2").view(np.uint8), MAX_EVENTS // 12 + 1)
    with pytest.raises(MessageError, match="at most 16777216 are decoded"):
        stream.decode(packet(bomb, START + 3 * MS, 1))
    events = stream.decode(packet(span_of(3000, 4000), START + 4 * MS, 2))
    assert (len(events), events.lost) == (4, 0) and set(events.x) == {5}


@pytest.mark.parametrize(("name", "count"), [("test_events_1", 343474), ("test_events_2", 571266)])
def test_recordings_in_ros_time(shared_data, name, count):
    stream, total, reached = EventStream(10 * MS), 0, None
    for _, received, message in read_bag(shared_data / "event_recordings" / name):
        stamp = messages.stamp_ns(message.header)
        message.events = array.array("B", message.events.tobytes())     # as rclpy has it
        events = stream.decode(message)
        total += len(events)
        assert reached is None or events.begin_ns <= reached < events.end_ns        # without a hole
        assert np.all(np.diff(events.t) >= 0) and events.begin_ns <= events.t[0] and events.t[-1] <= events.end_ns
        assert abs(events.t[0] - stamp) < 12 * MS and events.end_ns < received + 4 * MS
        assert (events.lost, events.width, events.height) == (0, message.width, message.height)
        reached = events.end_ns
    assert total == count and set(+stream.counters) <= {"triggers"}


# ------------------------------------------------------------------------------------------------- numbers and time

def decoded(stream, *packets):
    return [stream.decode(one) for one in packets]


def test_packets_join_unless_one_is_missing():
    stream = EventStream(10 * MS)
    first, second, after_gap, joined = decoded(stream, *(
        packet(span_of(us + 100, us + 900), START + us * 1000, seq)
        for seq, us in ((7, 50_000), (8, 51_000), (11, 54_000), (12, 55_000))))
    assert (first.lost, second.lost, after_gap.lost, joined.lost) == (0, 0, 2, 0)
    assert second.begin_ns == first.end_ns and joined.begin_ns == after_gap.end_ns
    assert after_gap.begin_ns - second.end_ns == 2_200_000
    assert stream.counters["lost_packets"] == 2


def test_no_two_packets_end_at_the_same_time():
    """The collector knows packets by their ends: a second one with the same would replace the first."""
    quiet = np.array([HIGH << 12 | 50_000 >> 12], "<u2").view(np.uint8)
    ends = [one.end_ns for one in decoded(EventStream(10 * MS), *(
        packet(payload, START + k * MS, k) for k, payload in enumerate([span_of(50_000, 51_000), quiet, quiet])))]
    assert ends == [START + MS, START + MS + 1, START + MS + 2]


def test_what_goes_on_from_a_lost_packet_is_left_out():
    stream = EventStream(10 * MS)
    orphans = np.concatenate([np.array([X << 12 | 9], "<u2").view(np.uint8), span_of(9_000, 9_500, 2)])
    _, after = decoded(stream, packet(span_of(5_000, 6_000), START, 1), packet(orphans, START + 4 * MS, 5))
    assert after.x.tolist() == [5, 5] and stream.counters["skipped"] == 1


def test_a_publisher_that_does_not_number_its_packets():
    packets = [packet(span_of(us, us + 900), START + us * 1000) for us in (0, 20_000, 40_000)]
    found = decoded(EventStream(10 * MS), *packets)
    assert [one.lost for one in found] == [0, None, None]
    assert found[1].begin_ns - found[0].end_ns > 10 * MS        # who knows what was in between


def test_a_publisher_that_starts_anew_brings_its_own_clock():
    stream = EventStream(10 * MS)
    decoded(stream, *(packet(span_of(us, us + 900), START + us * 1000, 50 + us) for us in (9_000_000, 9_001_000)))
    fresh, = decoded(stream, packet(span_of(200, 900), START + 12 * SECOND, 0))
    assert (fresh.begin_ns, fresh.end_ns) == (START + 12 * SECOND, START + 12 * SECOND + 700_000)
    assert stream.counters["restarts"] == 1 and stream.counters["clock_jumps"] == 1


@pytest.mark.parametrize("pause", [20_000, 9_000_000, 17_000_000, 100_000_000])     # us; the time wraps at 16,777,216
def test_time_goes_on_over_wraps_and_pauses(pause):
    stream, us, seq = EventStream(10 * MS), 16_000_000, 0
    for _ in range(5):
        events = stream.decode(packet(span_of(us, us + 3_000), START + us * 1000, seq := seq + 1))
        assert events.t[-1] - events.t[0] == 3 * MS
        assert abs(events.t[0] - (START + us * 1000)) <= 4 * MS     # a packet's begin is known to 4.096 ms at first
        us += pause


def test_the_stamp_goes_with_the_packets_begin_but_for_libcaer_with_its_end():
    evt, = decoded(EventStream(10 * MS), packet(span_of(2_000, 5_000), START))
    assert (evt.begin_ns, evt.end_ns) == (START, START + 3 * MS)
    cmp = np.array([2 << 12 | 7, 3 << 12 | 8, 0 << 12 | 2, 1 << 12 | 0, 3 << 12 | 9], "<u2").view(np.uint8)
    caer, = decoded(EventStream(10 * MS), packet(cmp, START, encoding="libcaer_cmp", time_base=START - SECOND))
    assert (caer.begin_ns, caer.end_ns) == (START - 8_192_000, START) and caer.y.tolist() == [8, 9]


def test_an_eventless_libcaer_packet_covers_up_to_its_stamp():
    stream = EventStream(10 * MS)
    _, empty = decoded(stream, packet(np.array([2 << 12 | 7, 3 << 12 | 8], "<u2").view(np.uint8), START, 1,
                                      "libcaer_cmp", START - SECOND), packet([], START + 10 * MS, 2, "libcaer_cmp"))
    assert (len(empty), empty.begin_ns, empty.end_ns) == (0, START, START + 10 * MS)


# ---------------------------------------------------------------------------------------------------- bad messages

def test_triggers_are_counted_and_nothing_else():
    stream, values = EventStream(10 * MS), np.array([1 << 63 | 5, 9], "<u8").view(np.uint8)
    assert stream.decode(packet(values, START, 3, "trigger")) is None
    words = np.array([10 << 12 | 1, 10 << 12], "<u2").view(np.uint8)
    assert len(stream.decode(packet(np.concatenate([span_of(0, 900), words]), START, 1))) == 4
    assert stream.counters["triggers"] == 4 and not stream.counters["lost_packets"]


@pytest.mark.parametrize(("changes", "named"), [
    ({"encoding": "evt4"}, "'evt4' is not supported; supported: evt3"),
    ({"payload": span_of(0, 900)[:-1]}, "31 bytes ends within a word of evt3"),
    ({"payload": span_of(0, 900, x=0x1C5), "is_bigendian": True}, "mean nothing in evt3.*is_bigendian = True"),
    ({"payload": np.tile(np.array([0x9005], "<u2").view(np.uint8), 9)}, "9 of 9 words"),
    ({"stamp": 0}, "stamp of the event packet is zero"), ({"time_base": 1 << 63}, "time_base = 9223372036854775808"),
    ({"payload": span_of(5_000_000, 5_000_900)}, "3.999 s after its stamp"),
])
def test_a_broken_packet_is_refused_by_name_and_the_next_ones_are_read(changes, named):
    stream, good = EventStream(10 * MS), {"payload": span_of(1_000_000, 1_000_900), "stamp": START, "seq": 1}
    stream.decode(packet(**good))
    broken = {"payload": span_of(1_001_000, 1_001_900), "stamp": START + MS, "seq": 2}
    with pytest.raises(MessageError, match=named):
        stream.decode(packet(**{**broken, **changes}))
    after = stream.decode(packet(span_of(1_002_000, 1_002_900), START + 2 * MS, 3))
    assert (len(after), after.t[0]) == (4, START + 2 * MS)
    assert after.begin_ns == after.t[0] or changes.get("encoding") or changes.get("time_base")   # not joined


def test_a_corrupt_time_costs_its_events_only():
    stream = EventStream(10 * MS)
    stream.decode(packet(span_of(1_000_000, 1_000_900), START, 1))
    corrupt = evt3((1_001_000, 1, 1, 1), (9_000_000, 2, 1, 1), (1_001_800, 3, 1, 1))
    events = stream.decode(packet(corrupt, START + MS, 2))
    assert events.x.tolist() == [1, 3] and events.end_ns == START + 1_800_000
    assert stream.counters["misplaced"] == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(
    st.binary(max_size=60), st.integers(-2**31, 2**31 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1), st.sampled_from(["evt3", "libcaer", "libcaer_cmp", "mono", "trigger", ""]),
    st.booleans()), max_size=6))
def test_any_packets_are_refused_or_lie_near_their_stamps(packets):
    stream = EventStream(10 * MS)
    for data, sec, nanosec, seq, time_base, encoding, is_bigendian in packets:
        message = packet(np.frombuffer(data, np.uint8), START, seq, encoding, time_base, is_bigendian=is_bigendian)
        message.header.stamp = TYPES.Time(sec=sec, nanosec=nanosec)
        stamp = messages.stamp_ns(message.header)
        try:
            events = stream.decode(message)
        except MessageError:
            continue
        if events is not None and len(events):
            assert np.abs(events.t - stamp).max() <= SECOND and np.all(np.diff(events.t) >= 0)
            assert events.begin_ns <= events.t[0] and events.t[-1] <= events.end_ns


# --------------------------------------------------------------------------------------------- through the collector

CAMERA = Camera(64, 48, [[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]], frame_id="camera")


def sets_of(arrivals):
    """[(state, LaneImage or None)] per set of a rig with an event camera alone, whose packets arrive as they end.

    arrivals: messages, in order.
    """
    config = Config.from_mapping({"tick_source": ["event"], "target_cameras": ["event"], "event.recover_after": 1})
    sensors, found = Sensors(config, {"event": DEFAULT_ENCODINGS["event"]}, (48, 64)), []
    sensors.cameras = {"event": CAMERA}

    def on_set(sensor_set):
        state = sensor_set.inputs["event"]
        found.append((state, lone_image(sensors, "event", state, sensor_set.t_ref_ns)
                      if state.state is State.OK else None))
    collector = Collector([config.inputs["event"]], config.collector, on_set, {"event": 50 * MS},
                          lambda reason: sensors.reset())
    for message in arrivals:
        now = messages.stamp_ns(message.header)
        collector.advance(now)
        sample = sensors.arrived("event", message)
        collector.add_stream("event", *packet_span(sample, message, config.event_period_sec), sample, now,
                             sample.nbytes)
    collector.flush(now)
    return found


def arriving(count=120, without=(), events=3):
    """Packets of 4 ms, numbered."""
    return [packet(span_of(us, us + 3_990, events), START + us * 1000, k, width=64, height=48)
            for k, us in enumerate(range(0, count * 4_000, 4_000)) if k not in without]


def test_a_gap_makes_the_windows_that_it_touches_partial():
    whole = sets_of(arriving())
    k = (whole[2][0].stamp_ns - START - 20 * MS) // (4 * MS)       # within the third set's window
    partial = sets_of(arriving(without=(k, k + 1)))
    assert len(whole) == len(partial) >= 4
    assert [lane.figures["coverage"] for _, lane in whole[1:]] == [1.0] * (len(whole) - 1)
    touched = []
    for (state, lane), (_, complete) in zip(partial, whole, strict=True):
        begin, end = state.stamp_ns - 50 * MS, state.stamp_ns
        missing = max(0, min(end, START + (k + 2) * 4 * MS) - max(begin, START + k * 4 * MS - 10_000))
        if missing:
            touched.append(lane.figures)
            assert lane.figures["coverage"] == pytest.approx(complete.figures["coverage"] - missing / 50 / MS, abs=1e-6)
            assert lane.figures["events"] < complete.figures["events"] and lane.figures["lost_packets"] == 2
        else:
            assert lane.figures == complete.figures
    assert len(touched) == 1


def test_a_static_scene_is_there_and_silence_is_not():
    for _, lane in sets_of(arriving(events=0)):
        assert lane.figures["events"] == 0 and lane.figures["coverage"] > 0.5 and not lane.image.any()
    broken_off = sets_of(arriving(60) + arriving(160, without=range(130)))
    assert {state.state for state, _ in broken_off} == {State.OK}       # events alone: no ticks while nothing comes


def test_a_broken_packet_makes_its_windows_invalid():
    arrivals = arriving()
    arrivals[62].events = arrivals[62].events[:-1]
    with pytest.raises(MessageError, match="truncated"):
        EventStream(MS).decode(arrivals[62])
    with_error = 0

    config = Config()
    sensors = Sensors(config, {"event": DEFAULT_ENCODINGS["event"]}, (48, 64))
    samples = [sensors.arrived("event", one) for one in arrivals]
    for sample, message in zip(samples, arrivals, strict=True):
        begin, end = packet_span(sample, message, 0.004)
        assert 0 < begin < end
        with_error += bool(sample.error)
    assert with_error == 1


def test_a_packet_without_a_stamp_or_of_triggers_is_nothing_to_the_collector():
    sensors = Sensors(Config(), {"event": DEFAULT_ENCODINGS["event"]}, (48, 64))
    for message in (packet(span_of(0, 900), 0), packet(np.zeros(8, np.uint8), START, 3, "trigger")):
        assert packet_span(sensors.arrived("event", message), message, 0.01) == (0, 0)


def test_pictures_go_through_the_collector_too():
    pictures = []
    for k in range(20):
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[10, k], pixels[20, k] = (0, 0, 255), (255, 0, 0)
        pictures.append(messages.encode_image(TYPES, pixels, "rgb8", START + k * 33 * MS, "event"))
    assert isinstance(EventStream(10 * MS).decode(pictures[0]), EventPicture)
    found = sets_of(pictures)
    assert len(found) >= 4
    for state, lane in found:
        k = round((state.stamp_ns - START) / (33 * MS))
        assert (lane.figures["on"], lane.figures["off"]) == (1, 1)
        assert tuple(lane.image[10, k]) == (40, 0, 0) and tuple(lane.image[20, k]) == (0, 40, 0)


def test_messages_that_need_no_memory_pass_through():
    message = messages.encode_events(TYPES, [1], [2], [START + 5000], [1], START, "event")
    assert EventStream(10 * MS).decode(message).end_ns == START + 10 * MS
    with pytest.raises(MessageError, match="not supported"):
        EventStream(10 * MS).decode(SimpleNamespace())
