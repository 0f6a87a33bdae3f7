"""Event messages <-> arrays of events, for those messages that can be read each on its own.

event_camera_msgs/EventPacket cannot: see event_packets.py, and event_stream.py for a topic of any of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mss_perception.messages.clouds import decode_cloud, encode_cloud
from mss_perception.messages.common import MessageError, stamp_ns
from mss_perception.messages.event_packets import NOWHERE
from mss_perception.messages.images import decode_image

LONGEST_NS = 10_000_000_000         # events farther than this from their message's stamp have wrong times
GREY = 128                          # of a grey picture of events, where nothing has happened


@dataclass(frozen=True)
class Events:
    """Events of one packet, by rising time. x, y uint16 pixels; t int64 ns of ROS time; p bool, True = ON.

    The packet covers [begin_ns, end_ns], events or not. width and height are the sensor's, 0 when not known. lost: how
    many packets right before this one never came, None where the publisher does not number them.
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    begin_ns: int
    end_ns: int
    width: int = 0
    height: int = 0
    lost: int | None = None

    def __len__(self) -> int:
        return len(self.t)

    @property
    def nbytes(self) -> int:
        return self.x.nbytes + self.y.nbytes + self.t.nbytes + self.p.nbytes


@dataclass(frozen=True)
class EventPicture:
    """A picture that somebody has drawn of events: where there were any. on, off: bool (H, W).

    It is of about [begin_ns, end_ns]; which events it shows, and how many there were at a pixel, is lost.
    """

    on: np.ndarray
    off: np.ndarray
    begin_ns: int
    end_ns: int

    @property
    def nbytes(self) -> int:
        return self.on.nbytes + self.off.nbytes


def decode_events(msg, period_ns: int = 0) -> Events | EventPicture:
    """Events of one message, by its type: PointCloud2 with x, y, t, p; dvs_msgs or prophesee_event_msgs EventArray; or
    an Image or CompressedImage that is a picture of events.

    - PointCloud2: `t` as uint32 or int32 is microseconds after header.stamp; as float it is seconds, absolute from 1e8
      on and after header.stamp below. The packet covers at least period_ns after its stamp.
    - EventArray: each event has its time. Drivers stamp the message with its first or its last event, or not at all.
      An empty one covers the period_ns before its stamp. An object for each event: about 1 us each to read.
    - Image in colour: blue is ON and red is OFF, on black, as event_camera_renderer, dvs_renderer and CARLA draw them.
      In grey: lighter than 128 is ON, darker OFF (dvs_renderer). It shows the period_ns before its stamp.

    Raises MessageError for any other message, and one whose values cannot be.
    """
    if hasattr(msg, "point_step"):
        return _cloud(msg, period_ns)
    if hasattr(msg, "step") or hasattr(msg, "format"):
        return _picture(msg, period_ns)
    if hasattr(msg, "events") and not hasattr(msg, "encoding"):
        return _array(msg, period_ns)
    raise MessageError(f"event message {type(msg).__name__} is not supported here; supported: PointCloud2 with x, y, "
                       "t, p; EventArray; Image")


def _cloud(msg, period_ns: int) -> Events:
    cloud = decode_cloud(msg)
    stamp = cloud.stamp_ns
    ticks = cloud.scalar("t")
    if ticks.dtype.kind in "ui":
        absolute, t = False, stamp + ticks.astype(np.int64) * 1000
    else:
        if not np.isfinite(ticks).all() or (np.abs(ticks) > 9e9).any():
            raise MessageError("event times t hold NaN, infinite or impossible values; must be seconds")
        absolute = len(ticks) > 0 and float(ticks[0]) >= 1e8
        t = np.rint(ticks.astype(np.float64) * 1e9).astype(np.int64) + (0 if absolute else stamp)
    if stamp <= 0 and not absolute:
        raise MessageError("header.stamp is zero; the events' times t count from it")
    x, y = (_pixels(cloud.scalar(name)) for name in "xy")
    return _packet(x, y, t, cloud.scalar("p") > 0, stamp, stamp + period_ns)


def _array(msg, period_ns: int) -> Events:
    columns = np.array([(one.x, one.y, one.ts.sec, one.ts.nanosec, one.polarity) for one in msg.events], np.int64)
    x, y, sec, nanosec, p = columns.reshape(-1, 5).T
    t, stamp = sec * 1_000_000_000 + nanosec, stamp_ns(msg.header)
    if stamp <= 0 and len(t):
        stamp = int(t[-1])
    begin = stamp if len(t) else stamp - period_ns
    return _packet(x.astype(np.uint16), y.astype(np.uint16), t, p > 0, begin, stamp, int(msg.width), int(msg.height))


def _packet(x, y, t, p, begin_ns: int, end_ns: int, width: int = 0, height: int = 0) -> Events:
    """Events sorted, of a packet that covers at least [begin_ns, end_ns]."""
    if len(t):
        first, last = int(t.min()), int(t.max())
        if first < begin_ns - LONGEST_NS or last > end_ns + LONGEST_NS:
            raise MessageError(f"events from {(first - begin_ns) / 1e9:.3f} s to {(last - begin_ns) / 1e9:.3f} s after "
                               f"their message's stamp; at most {LONGEST_NS / 1e9:g} s can be right")
        if np.any(t[1:] < t[:-1]):
            order = np.argsort(t, kind="stable")
            x, y, t, p = x[order], y[order], t[order], p[order]
        begin_ns, end_ns = min(begin_ns, first), max(end_ns, last)
    return Events(x, y, t, p, begin_ns, end_ns, width, height)


def _pixels(values: np.ndarray) -> np.ndarray:
    """Event coordinates as a contiguous uint16 copy; one outside 0..65535 becomes 65535, which no sensor has."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return np.ascontiguousarray(values, np.uint16)
    good = (values >= 0) & (values < NOWHERE)     # False for NaN
    return np.where(good, values, NOWHERE).astype(np.uint16)


def _picture(msg, period_ns: int) -> EventPicture:
    pixels = decode_image(msg)
    if pixels.dtype != np.uint8:
        raise MessageError(f"an image of {pixels.dtype} is no picture of events; must be 8 bit colour or grey")
    if pixels.ndim == 2:
        # What is no event must be the most of it; a camera's image is hardly ever half of one grey.
        on, off, foreign = pixels > GREY, pixels < GREY, np.mean(pixels != GREY) > 0.5
    else:
        on, off, foreign = pixels[..., 2] >= GREY, pixels[..., 0] >= GREY, bool(np.any(pixels[..., 1] >= GREY))
    if foreign:
        raise MessageError("the image on the topic of events is no picture of events; must be blue (ON) and red (OFF) "
                           f"on black, or grey with {GREY} where nothing happened")
    stamp = stamp_ns(msg.header)
    return EventPicture(on, off, stamp - period_ns, stamp)


def encode_events(types, x, y, t_ns, p, stamp_ns: int, frame_id: str):
    """Event packet as PointCloud2: x, y uint16, t uint32 microseconds after `stamp_ns`, p uint8; t_ns >= stamp_ns."""
    microseconds = (np.asarray(t_ns, np.int64) - stamp_ns) // 1000
    if len(microseconds) and (microseconds.min() < 0 or microseconds.max() > 0xFFFFFFFF):
        raise ValueError(f"event times from {microseconds.min()} to {microseconds.max()} us after the stamp do not "
                         "fit uint32")
    fields = {"x": np.asarray(x, np.uint16), "y": np.asarray(y, np.uint16),
              "t": microseconds.astype(np.uint32), "p": np.asarray(p, np.uint8)}
    return encode_cloud(types, fields, stamp_ns, frame_id)
