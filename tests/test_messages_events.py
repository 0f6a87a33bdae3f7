"""Event messages that can be read each on its own: clouds, arrays of events and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mss_perception import messages
from mss_perception.bags import typestore
from mss_perception.messages import EventPicture, MessageError, bag_types

TYPES = bag_types()
SECOND = 1_000_000_000
STAMP = 1_700_000_000 * SECOND


# ---------------------------------------------------------------------------------------------------------- clouds

def event_cloud(t, x=None, y=None, p=None, stamp=STAMP):
    t = np.asarray(t)
    count = len(t)
    return messages.encode_cloud(TYPES, {
        "x": np.arange(count, dtype=np.uint16) if x is None else x, "y": np.zeros(count, np.uint16) if y is None else y,
        "t": t, "p": np.ones(count, np.uint8) if p is None else p}, stamp, "event")


def test_events_there_and_back():
    rng = np.random.default_rng(4)
    x, y, p = rng.integers(0, 640, 100), rng.integers(0, 480, 100), rng.integers(0, 2, 100)
    t = STAMP + np.sort(rng.integers(0, 10_000, 100)) * 1000
    events = messages.decode_events(messages.encode_events(TYPES, x, y, t, p, STAMP, "event"), 10_000_000)
    for found, expected in ((events.x, x), (events.y, y), (events.t, t), (events.p, p == 1)):
        assert np.array_equal(found, expected)
    assert (events.begin_ns, events.end_ns, events.lost) == (STAMP, STAMP + 10_000_000, None)


@pytest.mark.parametrize("t", [
    np.array([5, 9], np.uint32), np.array([5, 9], np.int32), np.array([0.000005, 0.000009]),
    np.array([0.000005, 0.000009]) + STAMP / SECOND,
])
def test_event_times_by_type_and_range(t):
    events = messages.decode_events(event_cloud(t))
    np.testing.assert_allclose(events.t - STAMP, [5_000, 9_000], atol=0 if t[0] < 1e8 else 300)
    assert events.begin_ns <= events.t[0] and events.end_ns >= events.t[-1]


def test_times_before_the_stamp_belong_to_the_packet():
    events = messages.decode_events(event_cloud(np.array([-3, 9], np.int32)))
    assert (events.begin_ns - STAMP, events.end_ns - STAMP) == (-3_000, 9_000)


def test_an_empty_packet_still_covers_its_time():
    events = messages.decode_events(event_cloud(np.zeros(0, np.uint32)), 10_000_000)
    assert (len(events), events.begin_ns, events.end_ns) == (0, STAMP, STAMP + 10_000_000)


def test_unordered_events_come_back_in_order():
    events = messages.decode_events(event_cloud(np.array([9, 5, 7], np.uint32)))
    assert events.t.tolist() == sorted(events.t.tolist()) and events.x.tolist() == [1, 2, 0]


def test_impossible_event_coordinates_match_no_pixel():
    x = np.array([-1.0, np.nan, 3.0, 1e9], np.float32)
    y = np.array([-5, 1, 2, 3], np.int32)
    events = messages.decode_events(event_cloud(np.arange(4, dtype=np.uint32), x, y))
    assert events.x.tolist() == [65535, 65535, 3, 65535] and events.y.tolist() == [65535, 1, 2, 3]


@pytest.mark.parametrize(("message", "named"), [
    (event_cloud(np.array([np.nan, 1.0])), "NaN"), (event_cloud(np.array([1e300])), "impossible"),
    (event_cloud(np.array([5, 4_000_000_000], np.uint32)), "4000.000 s after"),
    (event_cloud(np.array([1e9])), "700000000.000 s to"), (event_cloud(np.zeros(2, np.uint32), stamp=0), "zero"),
    (messages.encode_cloud(TYPES, {"x": np.zeros(3, np.float32)}, 5, "lidar"), "'t'"),
    (SimpleNamespace(encoding="evt3", events=b""), "not supported"), (SimpleNamespace(), "SimpleNamespace is not"),
])
def test_messages_that_are_no_events_are_refused(message, named):
    with pytest.raises(MessageError, match=named):
        messages.decode_events(message)


@pytest.mark.parametrize("name", ["x", "y", "t", "p"])
def test_a_field_of_several_values_is_no_events(name):
    message = event_cloud(np.arange(4, dtype=np.uint32))
    for field in message.fields:
        if field.name == name:
            field.offset, field.datatype, field.count = 0, 2, 2     # two bytes: within the point
    with pytest.raises(MessageError, match=f"'{name}' has 2 values per point"):
        messages.decode_events(message)


def test_events_before_their_packet_do_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        messages.encode_events(TYPES, [1], [1], [4_000_000], [1], 5_000_000, "event")


# ---------------------------------------------------------------------------------------------------------- arrays

@dataclass
class RclpyLike:
    """prophesee_event_msgs/EventArray as a ROS installation without rosbags has it: the same fields."""

    header: object
    height: int
    width: int
    events: list


def event_array(kind, stamp, events):
    """events: (x, y, t ns, polarity)."""
    types = typestore().types
    if kind == "dvs":
        event, message = types["dvs_msgs/msg/Event"], types["dvs_msgs/msg/EventArray"]
    else:
        event, message = (lambda **fields: SimpleNamespace(**fields)), RclpyLike
    return message(header=messages.encode_header(TYPES, stamp, "event"), height=180, width=240, events=[
        event(x=x, y=y, ts=TYPES.Time(sec=t // SECOND, nanosec=t % SECOND), polarity=p) for x, y, t, p in events])


@pytest.mark.parametrize("kind", ["dvs", "prophesee"])
@pytest.mark.parametrize("stamp", [0, STAMP, STAMP + 4_000_000])       # none, of the first event, of the last
def test_an_array_of_events_has_its_own_times(kind, stamp):
    sent = [(3, 4, STAMP, True), (239, 179, STAMP + 4_000_000, False), (0, 0, STAMP + 1_000_001, True)]
    events = messages.decode_events(event_array(kind, stamp, sent), 10_000_000)
    assert events.x.tolist() == [3, 0, 239] and events.y.tolist() == [4, 0, 179] and events.p.tolist() == [1, 1, 0]
    assert (events.t - STAMP).tolist() == [0, 1_000_001, 4_000_000]
    assert (events.begin_ns, events.end_ns) == (STAMP, STAMP + 4_000_000)
    assert (events.width, events.height) == (240, 180)


def test_an_array_without_events_is_a_static_scene():
    events = messages.decode_events(event_array("dvs", STAMP, []), 10_000_000)
    assert (len(events), events.begin_ns, events.end_ns) == (0, STAMP - 10_000_000, STAMP)


def test_an_array_stamped_at_another_time_is_refused():
    with pytest.raises(MessageError, match="-3600.000 s to -3600.000 s after"):
        messages.decode_events(event_array("dvs", STAMP, [(1, 1, STAMP - 3600 * SECOND, True)]))


# -------------------------------------------------------------------------------------------------------- pictures

def test_a_picture_in_colour_is_blue_for_on_and_red_for_off():
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels[1, 2], pixels[3, 4], pixels[4, 6] = (0, 0, 255), (255, 0, 0), (255, 0, 255)      # RGB
    for encoding, array in (("rgb8", pixels), ("bgr8", pixels[..., ::-1].copy())):
        picture = messages.decode_events(messages.encode_image(TYPES, array, encoding, STAMP, "event"), 30_000_000)
        assert isinstance(picture, EventPicture)
        assert np.argwhere(picture.on).tolist() == [[1, 2], [4, 6]]
        assert np.argwhere(picture.off).tolist() == [[3, 4], [4, 6]]
        assert (picture.begin_ns, picture.end_ns) == (STAMP - 30_000_000, STAMP)


def test_a_picture_in_grey_is_lighter_for_on_and_darker_for_off():
    pixels = np.full((5, 7), 128, np.uint8)
    pixels[0, 0], pixels[4, 6] = 255, 3
    picture = messages.decode_events(messages.encode_image(TYPES, pixels, "mono8", STAMP, "event"))
    assert np.argwhere(picture.on).tolist() == [[0, 0]] and np.argwhere(picture.off).tolist() == [[4, 6]]


def test_a_compressed_picture():
    pixels = np.zeros((50, 70, 3), np.uint8)
    pixels[10:20, 20:40] = (255, 0, 0)      # BGR: blue
    message = SimpleNamespace(header=messages.encode_header(TYPES, STAMP, "event"), format="bgr8; png compressed bgr8",
                              data=cv2.imencode(".png", pixels)[1].ravel())
    picture = messages.decode_events(message)
    assert picture.on.sum() == 200 and not picture.off.any()


@pytest.mark.parametrize(("pixels", "encoding"), [
    (np.full((5, 7, 3), 200, np.uint8), "rgb8"), (np.full((5, 7), 90, np.uint8), "mono8"),
    (np.ones((5, 7), np.float32), "32FC1")])
def test_a_cameras_image_is_no_picture_of_events(pixels, encoding):
    with pytest.raises(MessageError, match="no picture of events"):
        messages.decode_events(messages.encode_image(TYPES, pixels, encoding, STAMP, "event"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 2**32 - 1),
                          st.integers(0, 2**32 - 1), st.booleans()), max_size=5), st.integers(0, 2**31 - 1))
def test_any_array_is_refused_or_sorted(values, sec):
    message = event_array("dvs", sec * SECOND, [])
    message.events = [SimpleNamespace(x=x, y=y, ts=TYPES.Time(sec=s, nanosec=n), polarity=p)
                      for x, y, s, n, p in values]
    try:
        events = messages.decode_events(message)
    except MessageError:
        return
    assert len(events) == len(values) and np.all(np.diff(events.t) >= 0)
    assert events.begin_ns <= events.end_ns
