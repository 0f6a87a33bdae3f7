"""Event messages <-> arrays of events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mss_perception.messages.clouds import decode_cloud, encode_cloud
from mss_perception.messages.common import MessageError


@dataclass(frozen=True)
class Events:
    """Events of one packet, by rising time. x, y uint16 pixels; t int64 ns (sensor or ROS time); p bool, True = ON.

    The packet covers [begin_ns, end_ns], events or not. width and height are the sensor's, 0 when not known.
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    begin_ns: int
    end_ns: int
    width: int = 0
    height: int = 0

    def __len__(self) -> int:
        return len(self.t)


def decode_events(msg, period_ns: int = 0) -> Events:
    """Events of one message that needs no decoder state: a PointCloud2 with x, y, t, p.

    `t` as uint32 or int32 is microseconds after header.stamp; as float it is seconds, absolute from 1e8 on and after
    header.stamp below. `period_ns` is the stream's packet spacing: the least that a packet covers after its stamp.
    Encodings whose decoder keeps state between packets (evt3, libcaer_cmp) belong to events.py.
    Raises MessageError for any other message.
    """
    if not hasattr(msg, "point_step"):
        raise MessageError(f"event message {type(msg).__name__} is not supported; supported: PointCloud2 with x, y, "
                           "t, p")
    cloud = decode_cloud(msg)
    begin = cloud.stamp_ns
    ticks = cloud.field("t")
    if ticks.dtype.kind in "ui":
        t = begin + ticks.astype(np.int64) * 1000
    else:
        if not np.isfinite(ticks).all() or (np.abs(ticks) > 9e9).any():
            raise MessageError("event times t hold NaN, infinite or impossible values; must be seconds")
        absolute = len(ticks) > 0 and float(ticks[0]) >= 1e8
        t = np.rint(ticks.astype(np.float64) * 1e9).astype(np.int64) + (0 if absolute else begin)
    x, y = (_pixels(cloud.field(name), name) for name in "xy")
    p = cloud.field("p") > 0
    if np.any(t[1:] < t[:-1]):
        order = np.argsort(t, kind="stable")
        x, y, t, p = x[order], y[order], t[order], p[order]
    end = max(begin + period_ns, int(t[-1])) if len(t) else begin + period_ns
    return Events(x, y, t, p, min(begin, int(t[0])) if len(t) else begin, end)


def _pixels(values: np.ndarray, name: str) -> np.ndarray:
    """Event coordinates as a contiguous uint16 copy; one outside 0..65535 becomes 65535, which no sensor has."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return np.ascontiguousarray(values, np.uint16)
    good = (values >= 0) & (values < 65535)     # False for NaN
    return np.where(good, values, 65535).astype(np.uint16)


def encode_events(types, x, y, t_ns, p, stamp_ns: int, frame_id: str):
    """Event packet as PointCloud2: x, y uint16, t uint32 microseconds after `stamp_ns`, p uint8; t_ns >= stamp_ns."""
    microseconds = (np.asarray(t_ns, np.int64) - stamp_ns) // 1000
    if len(microseconds) and (microseconds.min() < 0 or microseconds.max() > 0xFFFFFFFF):
        raise ValueError(f"event times from {microseconds.min()} to {microseconds.max()} us after the stamp do not "
                         "fit uint32")
    fields = {"x": np.asarray(x, np.uint16), "y": np.asarray(y, np.uint16),
              "t": microseconds.astype(np.uint32), "p": np.asarray(p, np.uint8)}
    return encode_cloud(types, fields, stamp_ns, frame_id)
