"""Payloads of event packets: real recordings against their publisher's figures, every encoding against a plain loop."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mss_perception.bags import read_bag
from mss_perception.messages import MessageError
from mss_perception.messages.event_packets import ENCODINGS, MAX_EVENTS, NOWHERE, PacketDecoder

Y, X, BASE, VECT_12, VECT_8, LOW, HIGH, TRIGGER, OTHERS = 0, 2, 3, 4, 5, 6, 8, 10, 14      # EVT 3.0's numbers
WRAP_US = 1 << 24


def words(*pairs, order="<"):
    return np.array([kind << 12 | value for kind, value in pairs], order + "u2").view(np.uint8)


def time_words(us):
    return (HIGH, us >> 12 & 0xFFF), (LOW, us & 0xFFF)


def all_of(decoder, chunks, time_base=0, is_bigendian=False):
    """The chunks' events, in one piece: x, y, t (ns), p, triggers."""
    parts = [decoder.feed(np.frombuffer(chunk, np.uint8), time_base, is_bigendian) for chunk in chunks]
    return tuple(np.concatenate([getattr(one, name) for one in parts]) for name in ("x", "y", "t", "p", "triggers"))


def as_list(events):
    return list(zip(*(getattr(events, name).tolist() for name in ("x", "y", "t", "p")), strict=True))


# ------------------------------------------------------------------------------------------------- real recordings

RECORDINGS = {      # events, ON, triggers; the publisher's sum of times includes the triggers' (its tests/test_1.py)
    "test_events_1": (343474, 125183, 4157, 2885601049874),
    "test_events_2": (571266, 211043, 0, None),
}


def recording(shared_data, name):
    return [message for _, _, message in read_bag(shared_data / "event_recordings" / name)]


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_have_their_publishers_figures(shared_data, name):
    count, on, triggers, total = RECORDINGS[name]
    decoder, found, last = None, [], 0
    for message in recording(shared_data, name):
        decoder = decoder or PacketDecoder(message.encoding)
        events = decoder.feed(message.events, message.time_base, bool(message.is_bigendian))
        assert decoder.finish() == 0 and events.skipped == events.reserved == 0
        assert events.x.max() < message.width and events.y.max() < message.height
        assert last <= events.begin_ns <= events.t[0] and events.t[-1] <= events.end_ns
        assert np.all(np.diff(events.t) >= 0)
        last = events.end_ns
        found.append(events)
    assert sum(map(len, found)) == count
    assert sum(int(events.p.sum()) for events in found) == on
    assert sum(len(events.triggers) for events in found) == triggers
    if total is not None:
        assert sum(int((part // 1000).sum()) for events in found for part in (events.t, events.triggers)) == total


@pytest.fixture(scope="module", params=RECORDINGS)
def decoded(request, shared_data):
    """A recording's messages, and its events packet by packet."""
    messages = recording(shared_data, request.param)
    decoder = PacketDecoder(messages[0].encoding)
    return messages, [all_of(decoder, [np.asarray(one.events)], one.time_base) for one in messages]


def cut_every(lengths, size, random):
    """Where to cut `size` bytes into pieces of lengths drawn from these."""
    cuts = np.cumsum(random.choice(lengths, size // min(lengths) + 1))
    return cuts[:np.searchsorted(cuts, size)]


@pytest.mark.parametrize(("lengths", "packets"), [
    ([2], 2), ([1], 1), ([6, 10], 4), ([128], 517), ([4096], 517), ([2, 2, 2, 4, 8, 100, 3000, 20_000], 517),
    ([1, 1, 1, 2, 3, 5, 99, 2999, 19_999], 517)], ids=str)
def test_recordings_in_pieces_of_any_length_are_the_same(decoded, lengths, packets):
    """From a byte or a word at a time to whole packets; the last four cut all packets."""
    messages, expected = decoded
    random, pieces = np.random.default_rng(0), PacketDecoder(messages[0].encoding)
    for message, whole in list(zip(messages, expected, strict=True))[:packets]:
        payload = np.asarray(message.events)
        found = all_of(pieces, np.split(payload, cut_every(lengths, len(payload), random)), message.time_base)
        assert all(map(np.array_equal, whole, found)) and pieces.finish() == 0
        assert [one.dtype for one in found] == [one.dtype for one in whole]


def test_evt3_does_not_depend_on_its_packets(shared_data):
    payloads = [np.asarray(one.events) for one in recording(shared_data, "test_events_1")]
    expected, stream = all_of(PacketDecoder("evt3"), payloads), np.concatenate(payloads)
    for length in (len(stream), 50_000, 777):
        found = all_of(PacketDecoder("evt3"), np.split(stream, range(length, len(stream), length)))
        assert all(map(np.array_equal, expected, found))


# ----------------------------------------------------------------------------------------------------------- evt3

def plain_evt3(payload):
    """EVT 3.0 word by word, as its documentation says, from a known time 0: [(x, y, ns, p)], [trigger ns]."""
    found, triggers = [], []
    y, base, polarity, us = NOWHERE, NOWHERE - 12, False, 0
    for word in payload.view("<u2").tolist():
        kind, value = word >> 12, word & 0xFFF
        if kind == Y:
            y = value & 2047
        elif kind == X:
            found.append((value & 2047, y, us * 1000, value > 2047))
        elif kind == BASE:
            base, polarity = value & 2047, value > 2047
        elif kind in (VECT_12, VECT_8):
            length = 12 if kind == VECT_12 else 8
            found += [(base + bit, y, us * 1000, polarity) for bit in range(length) if value >> bit & 1]
            base = min(base + length, NOWHERE - 12)
        elif kind == LOW:
            us = us >> 12 << 12 | value
        elif kind == HIGH:
            # Of the times with these bits the nearest: compare the three that could be.
            same = us >> 24 << 24 | value << 12 | us & 0xFFF
            near = [same + wraps * WRAP_US for wraps in (-1, 0, 1)]
            upper = us >> 12
            us = min(near, key=lambda one: (abs((one >> 12) - upper), -one))
        elif kind == TRIGGER:
            triggers.append(us * 1000)
    return found, triggers


word = st.one_of(st.tuples(st.sampled_from([Y, X, BASE, VECT_12, VECT_8, LOW, TRIGGER, OTHERS]), st.integers(0, 4095)),
                 st.tuples(st.just(HIGH), st.integers(0, 4095)), st.tuples(st.integers(0, 15), st.integers(0, 4095)))


@settings(max_examples=400, deadline=None)
@given(st.lists(word, max_size=200), st.lists(st.integers(0, 400), max_size=6))
def test_any_words_in_any_pieces_are_decoded_as_the_documentation_says(pairs, cuts):
    payload = words(*time_words(0), *pairs)
    found, triggers = plain_evt3(payload)
    x, y, t, p, when = all_of(PacketDecoder("evt3"), np.split(payload, sorted(cuts)))
    assert list(zip(x.tolist(), y.tolist(), t.tolist(), p.tolist(), strict=True)) == found
    assert when.tolist() == triggers


def test_a_long_stream_wraps_every_16_seconds():
    times = np.cumsum(np.random.default_rng(1).integers(1, 3_000_000, 20_000)) + 5_000_000      # 30,000 s
    payload = words((Y, 7), *(pair for us in times.tolist() for pair in (*time_words(us), (X, 3))))
    events = PacketDecoder("evt3").feed(payload)
    assert events.t[0] == 1000 * (times[0] % WRAP_US)
    assert np.array_equal(events.t // 1000, times - times[0] // WRAP_US * WRAP_US)


def test_a_time_that_goes_back_a_little_is_no_wrap():
    events = PacketDecoder("evt3").feed(words(*time_words(9_000_000), (Y, 1), (X, 1), (HIGH, 9_000_000 // 4096 - 3),
                                              (X, 2), *time_words(9_000_100), (X, 3)))
    assert (events.t // 1000 - 9_000_000).tolist() == [0, -3 * 4096, 100]


def test_a_corrupt_time_does_no_harm_beyond_the_next_one():
    events = PacketDecoder("evt3").feed(words(*time_words(9_000_000), (Y, 1), (X, 1), (HIGH, 0xFFF), (X, 2),
                                              *time_words(9_000_100), (X, 3)))
    assert events.t[0] == 9_000_000_000 and events.t[2] == 9_000_100_000


def test_pauses_longer_than_a_wrap_are_told_by_the_expected_time():
    for pause_us in (100, 9_000_000, 20_000_000, 40 * WRAP_US + 5_000_000):
        for lost in (False, True):
            decoder = PacketDecoder("evt3")
            decoder.feed(words(*time_words(3_000_000), (Y, 5), (X, 1)))
            if lost:
                decoder.forget()
            then = 3_000_000 + pause_us
            decoder.expect(1000 * (then + 2_000_000))       # roughly
            assert decoder.feed(words(*time_words(then), (Y, 5), (X, 2))).t.tolist() == [1000 * then]


def test_before_the_time_is_known_there_is_no_event():
    decoder = PacketDecoder("evt3")
    first = decoder.feed(words((X, 1), (LOW, 5), (X, 2), (BASE, 7), (VECT_8, 0xFFF), (HIGH, 1), (VECT_12, 0x801)))
    assert (len(first), first.skipped, first.begin_ns) == (0, 12, None)
    then = decoder.feed(words((LOW, 9), (X, 3)))
    assert (as_list(then), then.begin_ns) == ([(3, NOWHERE, 4105_000, False)], 4105_000)      # no row was told yet


def test_after_a_loss_nothing_goes_on_from_before_it():
    decoder = PacketDecoder("evt3")
    decoder.feed(words(*time_words(8200), (Y, 40), (BASE, 0x800 | 100), (VECT_12, 1)))
    assert as_list(decoder.feed(words((VECT_12, 1), (X, 7)))) == [(112, 40, 8200_000, True), (7, 40, 8200_000, False)]
    decoder.forget()
    lost = decoder.feed(words((VECT_12, 1), (X, 7), *time_words(9000), (VECT_12, 1), (X, 8), (Y, 41), (X, 9)))
    assert lost.skipped == 2
    assert [one[:3] for one in as_list(lost)] == [(NOWHERE - 12, NOWHERE, 9000_000), (8, NOWHERE, 9000_000),
                                                  (9, 41, 9000_000)]


def test_vectors_without_end_stay_off_the_sensor():
    x = PacketDecoder("evt3").feed(words(*time_words(1), (Y, 1), (BASE, 2047), *[(VECT_12, 0xFFF)] * 10_000)).x
    assert len(x) == 120_000 and np.all(np.diff(x[:50_000].astype(int)) == 1) and x[50_000:].min() > 2048 + 12


@pytest.mark.parametrize(("encoding", "vector", "length"), [
    ("evt3", (VECT_12, 0xFFF), 12), ("libcaer_cmp", (5, 0xFF), 8)])
def test_a_packet_of_more_events_than_are_decoded_is_refused_before_it_takes_memory(encoding, vector, length):
    """A word of 2 bytes may stand for 12 events, and an event takes 13 bytes."""
    payload = np.tile(words(vector), MAX_EVENTS // length + 1)
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match=f"event packet of {len(payload)} bytes holds .* at most {MAX_EVENTS}"):
            PacketDecoder(encoding).feed(payload)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(payload)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["libcaer", "mono", "trigger"])
def test_a_packet_of_too_many_plain_events_is_refused(encoding):
    with pytest.raises(MessageError, match=f"holds {MAX_EVENTS + 1} events; at most {MAX_EVENTS}"):
        PacketDecoder(encoding).feed(np.zeros(8 * (MAX_EVENTS + 1), np.uint8))


def test_an_empty_or_eventless_payload_still_tells_the_time():
    decoder = PacketDecoder("evt3")
    decoder.feed(words(*time_words(10_000), (Y, 1), (X, 1)))
    quiet = decoder.feed(words((HIGH, 20_480 >> 12), (LOW, 0), (HIGH, 24_576 >> 12)))
    assert (len(quiet), quiet.begin_ns, quiet.end_ns) == (0, 20_480_000, 24_576_000)
    assert (len(decoder.feed(words())), decoder.feed(words()).end_ns) == (0, None)


def test_reserved_words_are_counted():
    events = PacketDecoder("evt3").feed(words(*time_words(1), (Y, 1), *((kind, 5) for kind in range(16))))
    assert (len(events), events.reserved, len(events.triggers)) == (1 + 2 + 2, 5, 1)


# ------------------------------------------------------------------------------------------------ other encodings

def test_libcaer_cmp_has_x_and_y_exchanged_and_its_time_from_time_base():
    decoder, base = PacketDecoder("libcaer_cmp"), 1_700_000_000_000_000_000
    code = {"high": 0, "low": 1, "x": 2, "event": 3, "base": 4, "vector": 5}
    payload = words((code["x"], 30), (code["event"], 0x800 | 7), (code["high"], 1), (code["low"], 2),
                    (code["base"], 16), (code["vector"], 0b10000101), (code["vector"], 1))
    events = decoder.feed(payload, base)
    later = base + 4098_000
    assert as_list(events) == [(30, 7, base, True), *((30, y, later, False) for y in (16, 18, 23, 24))]
    assert (events.begin_ns, events.end_ns) == (base, later)
    # The next packet says everything anew.
    assert as_list(decoder.feed(words((code["x"], 1), (code["event"], 2)), base + 5)) == [(1, 2, base + 5, False)]
    assert decoder.feed(words((6, 0), (15, 0)), base + 6).reserved == 2


def libcaer(x, y, us, p, valid=1):
    return np.array([x << 17 | y << 2 | p << 1 | valid, us], "<u4").view(np.uint8)


def test_libcaer_wraps_at_31_bits_and_drops_what_is_marked_invalid():
    top, base = 1 << 31, 1_700_000_000_000_000_000
    times = [top - 3, top - 1, 0, top - 2, 4]       # one goes back a little, over the wrap
    payload = np.concatenate([libcaer(100 + k, 300 + k, us, k & 1) for k, us in enumerate(times)]
                             + [libcaer(1, 2, 5, 1, valid=0)])
    expected = [(100 + k, 300 + k, base + 1000 * us, bool(k & 1))
                for k, us in enumerate([top - 3, top - 1, top, top - 2, top + 4])]
    for cuts in ([], [8], [3, 17, 39]):
        x, y, t, p, _ = all_of(PacketDecoder("libcaer"), np.split(payload, cuts), base)
        assert list(zip(x.tolist(), y.tolist(), t.tolist(), p.tolist(), strict=True)) == expected
    # Driven by a big-endian host too: libcaer's own format knows one order.
    assert len(PacketDecoder("libcaer").feed(payload, base, True)) == 5


@pytest.mark.parametrize("order", ["<", ">"])
def test_mono_and_triggers(order):
    values = np.array([1 << 63 | 479 << 48 | 639 << 32 | 123, 2 << 48 | 1 << 32 | 4_000_000_000], order + "u8")
    events = PacketDecoder("mono").feed(values.view(np.uint8), 5_000, order == ">")
    assert as_list(events) == [(639, 479, 5_123, True), (1, 2, 4_000_005_000 - (1 << 32), False)]
    triggers = PacketDecoder("trigger").feed(values[:1].view(np.uint8), 5_000, order == ">")
    assert (len(triggers), triggers.triggers.tolist()) == (0, [5_123])


def test_byte_order_of_words():
    pairs = (*time_words(70_000), (Y, 3), (X, 0x800 | 9))
    assert as_list(PacketDecoder("evt3").feed(words(*pairs, order=">"), 0, True)) == [(9, 3, 70_000_000, True)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), time_base=st.integers(0, 1 << 62), is_bigendian=st.booleans())
def test_any_bytes_are_decoded_to_equally_long_arrays(encoding, data, time_base, is_bigendian):
    decoder = PacketDecoder(encoding)
    events = decoder.feed(np.frombuffer(data, np.uint8), time_base, is_bigendian)
    assert len(events.x) == len(events.y) == len(events.p) == len(events)
    assert (events.x.dtype, events.y.dtype, events.t.dtype, events.p.dtype) == (np.uint16, np.uint16, np.int64, bool)
    assert decoder.finish() == len(data) % (2 if encoding in ("evt3", "libcaer_cmp") else 8)


def test_an_unknown_encoding_is_named_with_the_known_ones():
    with pytest.raises(MessageError, match="'evt2' is not supported; supported: evt3, libcaer, libcaer_cmp, mono"):
        PacketDecoder("evt2")
