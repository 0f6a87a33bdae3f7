"""The payload of an event_camera_msgs/EventPacket -> events in sensor time.

What a payload holds is said by `encoding`; sources: Prophesee's "EVT 3.0 Format" (docs.prophesee.ai), the README of
event_camera_msgs, the decoders of event_camera_codecs, libcaer's polarity.h.

- evt3: 16 bit words. The upper 4 bits are the kind: 0 y; 2 an event at x, with its polarity; 3 first x and polarity of
  a vector; 4 and 5 the next twelve or eight pixels from there, one bit each; 6 and 8 lower and upper 12 bits of the
  time in microseconds; 10 a trigger; 7, 14 and 15 extensions of no interest here; the others are reserved. What does
  not change is not sent again, not even in the next packet. The time wraps each 2^24 us = 16.78 s. No time_base.
- libcaer_cmp: alike with x and y exchanged: 0 and 1 upper and lower time, 2 x, 3 an event at y, 4 first y of a vector,
  5 eight pixels. The time is microseconds after time_base, anew in every packet.
- libcaer: 8 bytes an event, always little endian: bit 0 valid, 1 polarity, 2..16 y, 17..31 x; then int32 microseconds
  after time_base, which wrap each 2^31 us = 35.8 min.
- mono: 64 bits an event: 0..31 nanoseconds after time_base, 32..47 x, 48..62 y, 63 polarity.
- trigger: as mono, without a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mss_perception.compiled import compiled
from mss_perception.messages.common import MessageError

ENCODINGS = ("evt3", "libcaer", "libcaer_cmp", "mono", "trigger")
NOWHERE = 65535         # a coordinate that no sensor has: of an event whose row or column was never announced

# Kinds of words, as EVT 3.0 numbers them.
HELD, EVENT, VECTOR_BASE, VECTOR_12, VECTOR_8, TIME_LOW, TIME_HIGH, TRIGGER = 0, 2, 3, 4, 5, 6, 8, 10
RESERVED = (1, 9, 11, 12, 13)
UNUSUAL = sum(1 << kind for kind in (VECTOR_BASE, VECTOR_12, VECTOR_8, TRIGGER, *RESERVED))
# libcaer_cmp's kinds 0 to 5 in EVT 3.0's numbers; it has no others.
FROM_LIBCAER = np.array([TIME_HIGH, TIME_LOW, HELD, EVENT, VECTOR_BASE, VECTOR_8] + [RESERVED[0]] * 10, np.uint16)
LONGEST_VECTOR = 12
# A packet may hold so many; at 1e9 events a second, more than sensors give, those of 16 ms. Vectors make 12 of a word,
# 156 bytes of 2.
MAX_EVENTS = 1 << 24
# Where coordinates are: bytes of a word or an event; lowest bit, number of bits, and the kind of words, None for all.
PIXELS = {
    "evt3": (2, [(0, 11, HELD), (0, 11, EVENT), (0, 11, VECTOR_BASE)]),
    "libcaer_cmp": (2, [(0, 11, 2), (0, 11, 3), (0, 11, 4)]),
    "libcaer": (8, [(17, 15, None), (2, 15, None)]),
    "mono": (8, [(32, 16, None), (48, 15, None)]),
    "trigger": (8, []),
}
# Bits of a vector word -> positions of those that are set (4096, 12), and how many there are (4096,).
POSITIONS = np.array([([k for k in range(12) if bits >> k & 1] + [0] * 12)[:12] for bits in range(4096)], np.uint16)
SET_BITS = np.array([bin(bits).count("1") for bits in range(4096)], np.uint8)

# The state of a decoder of words: the coordinate that events share, first pixel and polarity of the next vector, the
# two time words' values, the microseconds of all wraps before, and what is known of the time.
SHARED, BASE, POLARITY, HIGH, LOW, EPOCH, TIME = range(7)
NEW, LOST, HALF, KNOWN = range(4)       # nothing; what it was when packets got lost; the upper half again; all of it
WRAP_US = 1 << 24


@dataclass(frozen=True)
class SensorEvents:
    """Events in the order they were sent. x, y uint16 pixels; t int64 ns of sensor time; p bool, True = ON.

    triggers: (M,) int64 ns, times of external triggers. begin_ns, end_ns: sensor times that the data begins and ends
    with; None where it tells none. skipped: events before the time was known. reserved: words without a meaning.
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    triggers: np.ndarray
    begin_ns: int | None
    end_ns: int | None
    skipped: int = 0
    reserved: int = 0

    def __len__(self) -> int:
        return len(self.t)


class PacketDecoder:
    """Decoder of one stream; it remembers between packets what its encoding does not repeat.

    Every packet must pass through it, in order. A packet may come in pieces of any length, to the same effect.
    Raises MessageError for an unknown encoding.
    """

    def __init__(self, encoding: str):
        check_encoding(encoding)
        self.encoding = encoding
        self._rest = np.empty(0, np.uint8)      # bytes of a word or an event whose end is still to come
        self._time_base: int | None = None
        self._last: int | None = None           # time after time_base of the packet's last event, unwrapped; no words
        self._state = np.zeros(7, np.int64)
        self.forget()

    def forget(self) -> None:
        """Something was lost: rows, vectors and times that go on from it mean nothing any more."""
        self._state[[SHARED, BASE]] = NOWHERE, NOWHERE - LONGEST_VECTOR
        self._state[TIME] = min(self._state[TIME], LOST)
        self._time_base, self._rest = None, self._rest[:0]

    def expect(self, t_ns: int) -> None:
        """What follows is of about this sensor time: tells how often evt3's time has wrapped in a pause."""
        state, t = self._state, t_ns // 1000
        if self.encoding != "evt3":
            return
        if state[TIME] < HALF:
            state[EPOCH], state[HIGH], state[TIME] = t - t % WRAP_US, t % WRAP_US >> 12, LOST
        else:
            now = state[EPOCH] + (state[HIGH] << 12)
            state[EPOCH] += (t - now + WRAP_US // 2) // WRAP_US * WRAP_US

    def feed(self, payload: np.ndarray, time_base_ns: int = 0, is_bigendian: bool = False) -> SensorEvents:
        """Events of a packet's payload (N,) uint8, or of the next piece of it, with the packet's time_base.

        Raises MessageError for more than MAX_EVENTS, before anything is reserved for them; what it was of the stream is
        lost then: forget().
        """
        data = np.concatenate([self._rest, payload]) if len(self._rest) else payload
        size = 2 if self.encoding in ("evt3", "libcaer_cmp") else 8
        whole = len(data) - len(data) % size
        data, self._rest = data[:whole], data[whole:].copy()
        is_next, self._time_base = time_base_ns != self._time_base, time_base_ns
        if is_next:
            self._last = None
        if size == 8 and whole > 8 * MAX_EVENTS:
            raise MessageError(f"event packet of {whole} bytes holds {whole // 8} events; at most {MAX_EVENTS} are "
                               "decoded")
        order = ">" if is_bigendian else "<"
        if self.encoding == "evt3":
            return self._words(data.view(order + "u2"), 0)
        if self.encoding == "libcaer_cmp":
            if is_next:
                self._state[:] = NOWHERE, NOWHERE - LONGEST_VECTOR, 0, 0, 0, 0, KNOWN
            words = data.view(order + "u2")
            return self._words(FROM_LIBCAER[words >> 12] << 12 | words & 0xFFF, time_base_ns)
        if self.encoding == "libcaer":
            pixel, t = data.view("<u4").reshape(-1, 2).T
            valid = (pixel & 1) > 0
            return self._single(pixel[valid] >> 17, pixel[valid] >> 2 & 0x7FFF, t[valid] & 0x7FFFFFFF, 31, 1000,
                                pixel[valid] >> 1 & 1, time_base_ns)
        word = data.view(order + "u8")
        return self._single(word >> 32 & 0xFFFF, word >> 48 & 0x7FFF, word & 0xFFFFFFFF, 32, 1, word >> 63,
                            time_base_ns)

    def finish(self) -> int:
        """The packet ends here. Returns the number of bytes that are left over, which no word or event begins with."""
        left, self._rest = len(self._rest), self._rest[:0]
        return left

    def _words(self, words: np.ndarray, time_base_ns: int) -> SensorEvents:
        words = words.astype(np.uint16)         # a copy: aligned, whatever the message is
        count, triggers = count_words(words)
        if count + triggers > MAX_EVENTS:
            raise MessageError(f"event packet of {2 * len(words)} bytes holds {count} events and {triggers} triggers; "
                               f"at most {MAX_EVENTS} are decoded")
        room = count + LONGEST_VECTOR
        shared, along, t, p = (np.empty(room, kind) for kind in (np.uint16, np.uint16, np.int64, bool))
        trigger_times = np.empty(triggers, np.int64)
        count, triggers, skipped, reserved, begin, end = decode_words(
            words, self._state, time_base_ns, shared, along, t, p, trigger_times, POSITIONS, SET_BITS)
        x, y = (along, shared) if self.encoding == "evt3" else (shared, along)
        known = self._state[TIME] == KNOWN and len(words) > 0
        return SensorEvents(x[:count], y[:count], t[:count], p[:count], trigger_times[:triggers],
                            begin if known else None, end if known else None, skipped, reserved)

    def _single(self, x, y, raw, bits: int, unit_ns: int, p, time_base_ns: int) -> SensorEvents:
        """Events that stand for themselves; raw: their times modulo 2^bits units after time_base."""
        raw, wrap = raw.astype(np.int64), 1 << bits
        if len(raw):    # each time is the one nearest to the time before it, also where it goes back a little
            before = raw[0] if self._last is None else self._last
            raw = before + np.cumsum((np.diff(raw, prepend=before) + wrap // 2) % wrap - wrap // 2)
            self._last = int(raw[-1])
        t = time_base_ns + raw * unit_ns
        begin, end = (int(t[0]), int(t[-1])) if len(t) else (None, None)
        if self.encoding == "trigger":
            return SensorEvents(*(np.empty(0, kind) for kind in (np.uint16, np.uint16, np.int64, bool)), t, begin, end)
        return SensorEvents(x.astype(np.uint16), y.astype(np.uint16), t, p > 0, np.empty(0, np.int64), begin, end)


def disturb_pixels(payload: np.ndarray, encoding: str, is_bigendian: bool,
                   change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A payload (N,) uint8 with other pixels, else as it is: for faults that are made on purpose.

    change: all values of one kind of coordinate -> as many others, each as often as it is sent. Raises MessageError for
    an unknown encoding.
    """
    check_encoding(encoding)
    size, places = PIXELS[encoding]
    order = ">" if is_bigendian and encoding != "libcaer" else "<"
    changed = payload.copy()
    words = changed[:len(changed) // size * size].view(f"{order}u{size}")
    for lowest, bits, kind in places:
        mask = words.dtype.type((1 << bits) - 1)
        at = np.flatnonzero(words >> 12 == kind) if kind is not None else np.arange(len(words))
        values = change((words[at] >> lowest & mask).astype(np.int64)).astype(words.dtype) & mask
        words[at] = words[at] & ~(mask << lowest) | values << lowest
    return changed


def check_encoding(encoding: str) -> None:
    if encoding not in ENCODINGS:
        raise MessageError(f"event packet encoding {encoding!r} is not supported; supported: {', '.join(ENCODINGS)}")


@compiled
def count_words(words):
    """How many events and triggers the words hold at most."""
    events = triggers = 0
    for i in range(0, len(words), 4096):
        more_events, more_triggers = count_block(words[i:i + 4096])
        events, triggers = events + more_events, triggers + more_triggers
    return events, triggers


@compiled
def count_block(words):
    """As count_words, of at most 4096 words: vectorised, for which every number must be 16 bits wide."""
    events, triggers = np.uint16(0), np.uint16(0)
    for i in range(len(words)):
        kind = np.uint16(words[i] >> np.uint16(12))
        mask = np.uint16(0xFFF) if kind == VECTOR_12 else np.uint16(0xFF) if kind == VECTOR_8 else np.uint16(0)
        bits = np.uint16(words[i] & mask)
        # How many are set: sums of 2, of 4 and of 12 of them.
        bits = np.uint16(bits_of(bits, 0, 0x555) + bits_of(bits, 1, 0x555))
        bits = np.uint16(bits_of(bits, 0, 0x333) + bits_of(bits, 2, 0x333))
        bits = np.uint16(bits_of(bits, 0, 0xF) + bits_of(bits, 4, 0xF) + bits_of(bits, 8, 0xF))
        events = np.uint16(events + bits + np.uint16(kind == EVENT))
        triggers = np.uint16(triggers + np.uint16(kind == TRIGGER))
    return events, triggers


@compiled
def bits_of(bits, shift, mask):
    return np.uint16(np.uint16(bits >> np.uint16(shift)) & np.uint16(mask))


@compiled
def decode_words(words, state, time_base_ns, shared, along, t, p, triggers, positions, set_bits):
    """Write the events of EVT 3.0's words into shared, along, t and p, the triggers' times into triggers.

    The outputs must hold LONGEST_VECTOR more than count_words says. Returns the numbers of events and triggers, of
    events skipped before the time was known and of reserved words, the sensor times (ns) at begin and end.
    """
    here, base, polarity = np.uint16(state[SHARED]), np.uint16(state[BASE]), state[POLARITY] > 0
    high, low, epoch = np.uint32(state[HIGH]), np.uint32(state[LOW]), np.int64(state[EPOCH])
    time, skipped, reserved, i = state[TIME], 0, 0, 0

    while i < len(words) and time < KNOWN:      # an upper time, then a lower one, make a time
        kind, value = words[i] >> np.uint16(12), words[i] & np.uint16(0xFFF)
        if kind == TIME_HIGH:
            epoch += wrapped_us(high, value) if time > NEW else 0
            high, time = np.uint32(value), HALF
        elif kind == TIME_LOW and time == HALF:
            low, time = np.uint32(value), KNOWN
        elif kind == HELD:
            here = np.uint16(value & np.uint16(0x7FF))
        elif kind == VECTOR_BASE:
            base, polarity = value & np.uint16(0x7FF), value > np.uint16(0x7FF)
        elif kind == EVENT:
            skipped += 1
        elif kind in (VECTOR_12, VECTOR_8):
            skipped += set_bits[value & np.uint16(0xFF if kind == VECTOR_8 else 0xFFF)]
        i += 1
    begin_us = first_us(words[i:], epoch, high, low)

    n, m = np.uintp(0), np.uintp(0)     # unsigned: an index that may be negative costs a test
    while i < len(words):
        block = words[i:i + steady(words[i:], high)]        # in it nothing needs to look for a wrap
        for k in range(len(block)):
            kind, value = block[k] >> np.uint16(12), block[k] & np.uint16(0xFFF)
            if np.uint16(UNUSUAL) >> kind & np.uint16(1):
                if kind == VECTOR_BASE:
                    base, polarity = value & np.uint16(0x7FF), value > np.uint16(0x7FF)
                elif kind in (VECTOR_12, VECTOR_8):
                    length = np.uint16(12) if kind == VECTOR_12 else np.uint16(8)
                    if kind == VECTOR_8:
                        value &= np.uint16(0xFF)
                    now = time_base_ns + 1000 * (epoch + time_us(high, low))
                    # All places that it could need, one array after the other: each loop is a few wide stores.
                    for j in range(LONGEST_VECTOR):
                        along[n + np.uintp(j)] = base + positions[value, j]
                    for j in range(LONGEST_VECTOR):
                        shared[n + np.uintp(j)] = here
                    for j in range(LONGEST_VECTOR):
                        t[n + np.uintp(j)] = now
                    for j in range(LONGEST_VECTOR):
                        p[n + np.uintp(j)] = polarity
                    n += np.uintp(set_bits[value])
                    base = min(base + length, np.uint16(NOWHERE - LONGEST_VECTOR))
                elif kind == TRIGGER:
                    triggers[m] = time_base_ns + 1000 * (epoch + time_us(high, low))
                    m += np.uintp(1)
                else:
                    reserved += 1
                continue
            # Which of these words comes next is hardly predictable: no branches. Each writes an event, and only one
            # that is an event moves on to the next place.
            here = np.uint16(value & np.uint16(0x7FF)) if kind == HELD else here
            low = np.uint32(value) if kind == TIME_LOW else low
            high = np.uint32(value) if kind == TIME_HIGH else high
            shared[n] = here
            along[n] = value & np.uint16(0x7FF)
            t[n] = time_base_ns + 1000 * (epoch + time_us(high, low))
            p[n] = value > np.uint16(0x7FF)
            n += np.uintp(kind == EVENT)
        i += len(block)
        if i < len(words) and words[i] >> np.uint16(12) == TIME_HIGH:
            epoch += wrapped_us(high, words[i] & np.uint16(0xFFF))
            high = np.uint32(words[i] & np.uint16(0xFFF))
            i += 1

    state[SHARED], state[BASE], state[POLARITY] = here, base, polarity
    state[HIGH], state[LOW], state[EPOCH], state[TIME] = high, low, epoch, time
    # An upper time whose lower one is still to come says no more than itself.
    end = time_base_ns + 1000 * max(begin_us, epoch + time_us(high, np.uint32(0)))
    if n:
        end = max(end, t[n - np.uintp(1)])
    return n, m, skipped, reserved, time_base_ns + 1000 * begin_us, end


@compiled
def time_us(high, low):
    return np.int64(high << np.uint32(12) | low)


@compiled
def wrapped_us(high, value):
    """What is to be added to the time when its upper half goes from `high` to `value`: of all times with these bits the
    one nearest to the last is meant, for sensors repeat an older one now and then."""
    return -((np.int64(value) - np.int64(high) + 2048) >> 12) * WRAP_US


@compiled
def first_us(words, epoch, high, low):
    """The time that the words begin with: their first, or that of the words before them when it goes on."""
    for i in range(len(words)):
        kind, value = words[i] >> np.uint16(12), np.uint32(words[i] & np.uint16(0xFFF))
        if kind == TIME_HIGH and value != high:
            return epoch + wrapped_us(high, value) + time_us(value, np.uint32(0))
        if kind == TIME_LOW:
            return epoch + time_us(high, value)
        if kind in (TIME_HIGH, EVENT, VECTOR_12, VECTOR_8):
            break
    return epoch + time_us(high, low)


@compiled
def steady(words, high):
    """How many of the words, of at most a block of them, come before the time wraps that begins with `high`."""
    block = words[:4096]
    lowest, highest = np.uint16(high), np.uint16(high)
    for i in range(len(block)):         # vectorised, for which all must be 16 bits wide
        upper = np.uint16(block[i] & np.uint16(0xFFF)) if block[i] >> np.uint16(12) == TIME_HIGH else np.uint16(high)
        lowest, highest = min(lowest, upper), max(highest, upper)
    return len(block) if highest - lowest < 2048 else before_wrap(block, high)


@compiled
def before_wrap(words, high):
    for i in range(len(words)):
        if words[i] >> np.uint16(12) == TIME_HIGH:
            upper = np.uint32(words[i] & np.uint16(0xFFF))
            if wrapped_us(high, upper) != 0:
                return i
            high = upper
    return len(words)
