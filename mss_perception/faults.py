"""Faults put into a stream of messages on purpose: what a replay or the demo's player does to the sensors.

A schedule is a list of `INPUT:KIND[=AMOUNT]@START-[END]`, for example

    rgb:drop@3-5              no images between 3 s and 5 s
    lidar:delay=0.25@2-       clouds arrive 0.25 s later from 2 s on
    depth:noise=0.3@1-4       Gaussian noise of 0.3 m on every valid depth

INPUT is an input's name (`rgb`), or any other stream by its role (`rgb/info`, `odom`, `tf`). START and END are seconds
from the bag's first message. A message belongs to the time of its header stamp, which makes a fault begin and end at
the same instant for every sensor whatever its latency; a message without a stamp belongs to its time of receipt.
What each fault must do to the mask is in `scoring.py`.
"""

from __future__ import annotations

import array
import copy
import heapq
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mss_perception.bags import begins_with_header, typestore
from mss_perception.message_types import ACCEPTED, TF
from mss_perception.messages import MessageError, decode_cloud, raw_bytes
from mss_perception.messages.compressed_images import DEPTH_ENCODINGS, decompress, recompress
from mss_perception.messages.event_packets import disturb_pixels
from mss_perception.messages.images import PIXEL_FORMATS
from mss_perception.radar import RANGE_FIELDS
from mss_perception.units import SECOND

GRAMMAR = "INPUT:KIND[=AMOUNT]@START-[END], e.g. rgb:drop@3-5 or lidar:delay=0.25@2- (seconds from the bag's start)"

KINDS = {
    "drop": "messages vanish",
    "delay": "messages arrive AMOUNT seconds later",
    "freeze": "the last payload repeats under new stamps",
    "noise": "Gaussian noise of AMOUNT on the measured values: grey levels of a colour image (default 25), metres of "
             "depth and points (0.3), pixels of event positions (3); packed events that share a coordinate move "
             "together, compressed images are encoded again",
    "corrupt": "the payload is cut short, so that it cannot be decoded",
    "stamp": "header stamps are wrong by AMOUNT seconds",
}
NEEDS_AMOUNT = ("delay", "stamp")
TAKES_AMOUNT = ("delay", "stamp", "noise")
NEEDS_PAYLOAD = ("noise", "corrupt")
WITHOUT_PAYLOAD = ("odom", "tf", "tf_static")       # and <input>/info

BUFFERS = (np.ndarray, array.array, bytes)


class FaultError(ValueError):
    """A fault is not written as the grammar says, or cannot be put into this kind of message."""


@dataclass(frozen=True)
class Fault:
    """One fault: `kind` on the stream `role` for start_sec <= t < end_sec; end_sec is inf when open."""

    role: str
    kind: str
    amount: float | None
    start_sec: float
    end_sec: float

    def active(self, t_sec: float) -> bool:
        # From 0 means from the first message, also when its stamp is older than its receipt.
        return (self.start_sec <= t_sec or self.start_sec == 0) and t_sec < self.end_sec

    def __str__(self) -> str:
        amount = "" if self.amount is None else f"={self.amount:g}"
        end = "" if math.isinf(self.end_sec) else f"{self.end_sec:g}"
        return f"{self.role}:{self.kind}{amount}@{self.start_sec:g}-{end}"


def parse_fault(text: str, roles: Iterable[str] | None = None) -> Fault:
    """Read one fault. `roles`: the streams that exist. Raises FaultError naming the wrong token and the grammar."""

    def wrong(token: str, why: str) -> FaultError:
        return FaultError(f"fault {text!r}: {token!r} {why}; grammar: {GRAMMAR}")

    what, at, when = text.strip().partition("@")
    if not at:
        raise wrong(text, "has no '@START-[END]'")
    role, colon, kind = what.partition(":")
    if not colon:
        raise wrong(what, "has no ':KIND'")
    kind, equals, amount_text = kind.partition("=")
    if roles is not None and role not in roles:
        raise wrong(role, f"is no input; known: {', '.join(roles)}")
    if kind not in KINDS:
        raise wrong(kind, f"is no kind; known: {', '.join(KINDS)}")
    if kind in NEEDS_PAYLOAD and (role in WITHOUT_PAYLOAD or role.endswith("/info")):
        raise wrong(kind, f"is not for {role}; {DISTURBED}")
    if equals and kind not in TAKES_AMOUNT:
        raise wrong(f"={amount_text}", f"has no meaning, {kind} takes no amount")
    if not equals and kind in NEEDS_AMOUNT:
        raise wrong(kind, f"needs an amount in seconds, {kind}=0.2 for example")
    amount = None
    if equals:
        amount = _number(amount_text)
        if amount is None:
            raise wrong(amount_text, "is not a number")
        if amount < 0 and kind != "stamp":
            raise wrong(amount_text, "must not be negative")
    span = re.fullmatch(r"([0-9.]+)-([0-9.]*)", when)
    start = _number(span[1]) if span else None
    end = math.inf if span and not span[2] else _number(span[2]) if span else None
    if start is None or end is None:
        raise wrong(when, "is no time range 'START-END' or 'START-'")
    if end <= start:
        raise wrong(when, "ends before it starts")
    return Fault(role, kind, amount, start, end)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class FaultSchedule:
    """Faults applied to a stream of messages; the same object serves a replay and a live player.

    Deterministic: what happens to a message depends on the seed, the fault and how many messages it has met, never on
    wall time. Messages are copied before they are changed.

    roles: topic -> role, when the stream names topics; a stream that names roles needs none. types: topic -> message
    type, as far as known. Raises FaultError for a fault that is misspelt or that messages of its type cannot have.
    touched: per fault, the number of messages it has met so far. A fault that met none is worth a warning.
    """

    def __init__(self, faults: Sequence[Fault | str], seed: int = 0, roles: Mapping[str, str] | None = None,
                 types: Mapping[str, str] | None = None):
        known = set(roles.values()) if roles else None
        self.faults = [parse_fault(one, known) if isinstance(one, str) else one for one in faults]
        for fault in self.faults:
            for topic, kind in (types or {}).items():
                if (roles or {}).get(topic, topic) == fault.role and (why := _objection(fault.kind, kind)):
                    raise FaultError(f"fault {str(fault)!r}: {fault.kind!r} is not for {topic} ({kind}); {why}")
        self.seed = seed
        self.roles = roles
        self.touched = [0] * len(self.faults)
        self._last: dict[int, object] = {}      # per freeze, by its index: the last message before it froze

    def apply(self, stream: Iterable[tuple[str, int, object]], start_ns: int | None = None,
              apart_ns: int = 0) -> Iterator[tuple]:
        """Yield the faulted (topic or role, receive_time_ns, message) in time order.

        stream: the same triples in time order. start_ns: the zero of the fault times; the first message's receive time
        when not given. apart_ns: how much the clock of the receive times is ahead of that of the stamps, if these are
        two (BagSummary).
        """
        late: list[tuple[int, int, str, object]] = []       # heap of delayed messages
        for order, (key, receive_ns, message) in enumerate(stream):
            if start_ns is None:
                start_ns = receive_ns
            while late and late[0][0] <= receive_ns:
                when_ns, _, late_key, late_message = heapq.heappop(late)
                yield late_key, when_ns, late_message
            role = self.roles.get(key, key) if self.roles else key
            message, delay_ns = self._fault(role, receive_ns, message, start_ns, apart_ns)
            if message is None:
                continue
            if delay_ns > 0:
                heapq.heappush(late, (receive_ns + delay_ns, order, key, message))
            else:
                yield key, receive_ns, message
        while late:
            when_ns, _, key, message = heapq.heappop(late)
            yield key, when_ns, message

    def _fault(self, role: str, receive_ns: int, message, start_ns: int, apart_ns: int) -> tuple[object | None, int]:
        """The message after all faults on it (None when dropped), and its delay in nanoseconds."""
        t_sec = (_stamp(message, receive_ns - apart_ns) + apart_ns - start_ns) / SECOND
        delay_ns = 0
        for index, fault in enumerate(self.faults):
            if fault.role != role:
                continue
            if not fault.active(t_sec):
                if fault.kind == "freeze":
                    self._last[index] = message
                continue
            self.touched[index] += 1
            if fault.kind == "drop":
                return None, 0
            if fault.kind == "delay":
                delay_ns += round(fault.amount * SECOND)
            elif fault.kind == "freeze":
                message = _under_header_of(message, self._last.setdefault(index, message))
            elif fault.kind == "stamp":
                message = _restamped(message, round(fault.amount * SECOND))
            else:
                random = np.random.default_rng([self.seed, index, self.touched[index]])
                message = _noisy(message, fault, random) if fault.kind == "noise" else _corrupt(message, random)
        return message, delay_ns


def _objection(kind: str, type_name: str) -> str:
    """Why messages of a type cannot have a kind of fault; '' when they can."""
    if kind in NEEDS_PAYLOAD and type_name not in {one for types in ACCEPTED.values() for one in types}:
        return DISTURBED
    if kind == "stamp" and type_name != TF and not begins_with_header(typestore(), type_name):
        return "it has no stamp that is known of"
    return ""


def _stamp(message, receive_ns: int) -> int:
    header = getattr(message, "header", None)
    stamp_ns = header.stamp.sec * SECOND + header.stamp.nanosec if header is not None else 0
    return stamp_ns or receive_ns


def _under_header_of(message, frozen):
    """The frozen message's content under the header, number and time of `message`."""
    repeated = copy.copy(frozen)
    for name in ("header", "seq", "time_base"):     # the last two are an event packet's
        if hasattr(message, name):
            setattr(repeated, name, getattr(message, name))
    return repeated


def _restamped(message, shift_ns: int):
    changed = copy.copy(message)
    if hasattr(message, "transforms"):
        changed.transforms = [_restamped(one, shift_ns) for one in message.transforms]
        return changed
    stamp_ns = max(0, _stamp(message, 0) + shift_ns)
    changed.header = copy.copy(message.header)
    changed.header.stamp = copy.copy(message.header.stamp)
    changed.header.stamp.sec, changed.header.stamp.nanosec = divmod(stamp_ns, SECOND)
    return changed


def _with_payload(message, field: str, payload):
    """A copy of the message with other bytes; rclpy's classes hold an array.array, rosbags' a numpy array."""
    changed = copy.copy(message)
    like = getattr(message, field)
    setattr(changed, field, np.frombuffer(payload, np.uint8) if isinstance(like, np.ndarray)
            else array.array("B", bytes(payload)))
    return changed


def _corrupt(message, random: np.random.Generator):
    """Lose the end of the payload. An empty one, or a list of events, announces more columns than it has."""
    field = next((name for name in ("data", "events") if isinstance(getattr(message, name, None), BUFFERS)), None)
    payload = bytearray(memoryview(getattr(message, field))) if field else b""
    if field == "events":       # any number of whole words would be a shorter packet, and nothing wrong with it
        return _with_payload(message, field, payload[:int(random.integers(0, len(payload))) | 1] if payload
                             else bytearray(1))
    if payload:
        return _with_payload(message, field, payload[:int(random.integers(0, len(payload)))])
    if not hasattr(message, "width"):
        if field:               # an empty file is broken enough
            return message
        raise FaultError(f"{type(message).__name__} has nothing to disturb; {DISTURBED}")
    changed = copy.copy(message)
    changed.width = message.width + 1
    return changed


def _noisy(message, fault: Fault, random: np.random.Generator):
    """The message with noise; as it is when it cannot be decoded, so that there is nothing to be noisy."""
    for names, disturb in NOISE.items():
        if all(hasattr(message, name) for name in names):
            try:
                return disturb(message, fault.amount, random)
            except MessageError:
                return message
    raise FaultError(f"{type(message).__name__} has nothing to disturb; {DISTURBED}")


def _noisy_image(image, sigma: float | None, random: np.random.Generator):
    form = PIXEL_FORMATS.get(image.encoding)
    if form is None:
        raise MessageError(f"{image.encoding!r} is not supported")
    noisy = _with_payload(image, "data", bytearray(memoryview(image.data)))
    dtype = np.dtype(form.kind).newbyteorder(">" if image.is_bigendian else "<")
    values = np.frombuffer(noisy.data, dtype, len(image.data) // dtype.itemsize)
    _add_noise(values, form.order == "depth", sigma, random)
    return noisy


def _noisy_file(image, sigma: float | None, random: np.random.Generator):
    """Decoded, disturbed and encoded again."""
    pixels, encoding = decompress(image, None)
    pixels = np.array(pixels)
    _add_noise(pixels, encoding in DEPTH_ENCODINGS, sigma, random)
    name, data = recompress(image, pixels)
    noisy = _with_payload(image, "data", data)
    noisy.format = name
    return noisy


def _add_noise(values: np.ndarray, is_depth: bool, sigma: float | None, random: np.random.Generator) -> None:
    """In place, on colours (grey levels of 8 bits) or depths (metres). Invalid depths stay invalid."""
    if not is_depth:
        largest = np.iinfo(values.dtype).max
        noise = random.normal(0, (25 if sigma is None else sigma) * (largest / 255), values.shape)
        values[:] = np.clip(np.rint(values + noise), 0, largest).astype(values.dtype)
        return
    is_integer = values.dtype.kind == "u"
    unit = 1000 if is_integer else 1                # 16UC1 holds millimetres
    noise = random.normal(0, (0.3 if sigma is None else sigma) * unit, values.shape)
    measured = (values > 0) & np.isfinite(values)
    smallest = 1 / 1000 * unit                      # noise never turns a measured depth into an invalid one
    largest = 65535 if is_integer else np.inf
    values[measured] = np.clip(values[measured] + noise[measured], smallest, largest).astype(values.dtype)


def _noisy_cloud(cloud, sigma: float | None, random: np.random.Generator):
    """On x y z of a cloud, or its range (metres), or x y of events (pixels, kept inside the sensor)."""
    noisy = _with_payload(cloud, "data", bytearray(memoryview(cloud.data)))
    decoded = decode_cloud(noisy)
    for name in [name for name in ("x", "y", "z", *RANGE_FIELDS) if name in decoded.names]:
        values = decoded.fields[name]
        if values.dtype.kind != "f":
            values[...] = _moved(values, sigma, random)
        else:
            values[...] = values + random.normal(0, 0.3 if sigma is None else sigma, values.shape)
    return noisy


def _noisy_packet(packet, sigma: float | None, random: np.random.Generator):
    """Each coordinate as the packet has it: events of one row have one y, those of a vector one x."""
    payload = disturb_pixels(raw_bytes(packet.events), packet.encoding, bool(packet.is_bigendian),
                             lambda values: _moved(values, sigma, random))
    return _with_payload(packet, "events", payload)


def _noisy_list(message, sigma: float | None, random: np.random.Generator):
    changed = copy.copy(message)
    changed.events = [copy.copy(one) for one in message.events]
    for axis in "xy":
        values = np.array([getattr(one, axis) for one in changed.events], np.int64)
        for one, value in zip(changed.events, _moved(values, sigma, random).tolist(), strict=True):
            setattr(one, axis, value)
    return changed


def _moved(values: np.ndarray, sigma: float | None, random: np.random.Generator) -> np.ndarray:
    """Pixel coordinates of events with noise, kept between 0 and the largest that there is."""
    if not values.size:
        return values
    noise = random.normal(0, 3 if sigma is None else sigma, values.shape)
    return np.clip(np.rint(values + noise), 0, values.max()).astype(values.dtype)


# By what the messages have, the first that fits: CompressedImage, Image, PointCloud2, EventPacket, EventArray.
NOISE = {("format", "data"): _noisy_file, ("encoding", "step"): _noisy_image, ("fields", "point_step"): _noisy_cloud,
         ("events", "encoding"): _noisy_packet, ("events",): _noisy_list}
DISTURBED = "noise and corrupt are for images, clouds and events"
