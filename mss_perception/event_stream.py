"""A topic of events, whatever its messages are -> packets of events in ROS time, in the order of their arrival.

Messages that can be read each on its own are `messages.decode_events`'s. What is here is for
event_camera_msgs/EventPacket, where a packet means nothing without those before it: decoder, numbers, clock.

When a packet's events happened is only known by the camera's clock; header.stamp is the host's, when the driver got the
first of the data in it. So the stamp goes with the sensor time that a packet begins with, as event_camera_renderer has
it too; but with the time that it ends with for libcaer's encodings, whose driver sends each piece of data that it gets
as one message. What remains is the time that the data takes from the camera to the host: the input's clock_offset_sec.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from mss_perception.event_clock import SensorClock
from mss_perception.messages import EventPicture, Events, MessageError, decode_events, raw_bytes, stamp_ns
from mss_perception.messages.event_packets import PacketDecoder, SensorEvents

NEAR_NS = 1_000_000_000     # events farther than this from their packet's stamp have a corrupt time
STEP_BACK_NS = 10_000_000   # by which a packet may end before the one before it, with no clock having jumped
RESERVED_SHARE = 0.01       # of a packet's words; with more it is not what its encoding says
LATEST_TIME_BASE = 1 << 62  # ns since 1970: the year 2116


class EventStream:
    """Decoder of one topic. Every message must pass through it.

    period_ns: what a packet of events covers at least, where it does not say itself (see decode_events). counters:
    triggers; lost_packets; restarts of the publisher; skipped events, sent before the time was; misplaced ones, with
    corrupt times; reserved words, and clock_jumps.
    """

    def __init__(self, period_ns: int):
        self.period_ns = period_ns
        self.counters: Counter = Counter()
        self.clock = SensorClock()
        self._decoder: PacketDecoder | None = None
        self._seq: int | None = None        # the last packet's
        self._end_ns: int | None = None     # what is known up to there, unless something was lost since
        PacketDecoder("evt3").feed(np.zeros(2, np.uint8))       # compile now, not while the first packet waits

    def reset(self) -> None:
        """ROS time has jumped. The camera's own has not, so its decoder goes on."""
        self.clock.reset()
        self._end_ns = None

    def decode(self, message) -> Events | EventPicture | None:
        """Events of the next message; None for one that has nothing to do with pictures (triggers), or no time yet.

        Raises MessageError for a message that is unknown, truncated, or whose values cannot be right.
        """
        if not (hasattr(message, "events") and hasattr(message, "encoding")):
            return decode_events(message, self.period_ns)
        payload, time_base = raw_bytes(message.events), int(message.time_base)
        if not 0 <= time_base < LATEST_TIME_BASE:
            raise MessageError(f"event packet's time_base = {time_base} ns is no time; at most {LATEST_TIME_BASE}")
        if message.encoding == "trigger":   # numbered and stamped on its own, if on a topic of events at all
            self.counters["triggers"] += len(PacketDecoder("trigger").feed(payload, time_base).triggers)
            return None
        stamp = stamp_ns(message.header)
        lost, restarted = self._follow(int(message.seq))
        if restarted or self._decoder is None or self._decoder.encoding != message.encoding:
            self._decoder, self._end_ns = PacketDecoder(message.encoding), None
        elif lost:
            self._decoder.forget()
            self._end_ns = None
        if self.clock.offset_ns is not None and stamp > 0:
            self._decoder.expect(stamp - self.clock.offset_ns)
        try:
            sensor = self._decoder.feed(payload, time_base, bool(message.is_bigendian))
            self._count(sensor)
            self._check(message, sensor, stamp)
            return self._in_ros_time(message, sensor, stamp, lost, restarted)
        except MessageError:
            self._decoder.forget()
            self._end_ns = None
            raise

    def _follow(self, seq: int) -> tuple[int | None, bool]:
        """(how many packets were lost before the one with this number, whether the publisher has started anew)."""
        before, self._seq = self._seq, seq
        if before is None:
            return 0, False
        if seq == before:
            return None, False      # it does not number its packets
        if seq < before:
            self.counters["restarts"] += 1
            return 0, True
        if lost := seq - before - 1:
            self.counters["lost_packets"] += lost
        return lost, False

    def _count(self, sensor: SensorEvents) -> None:
        for name, number in (("triggers", len(sensor.triggers)), ("skipped", sensor.skipped),
                             ("reserved", sensor.reserved)):
            if number:
                self.counters[name] += number

    def _check(self, message, sensor: SensorEvents, stamp: int) -> None:
        """Raise MessageError when the packet is not what it says that it is."""
        length, left = len(message.events), self._decoder.finish()
        if left:
            raise MessageError(f"event packet of {length} bytes ends within a word of {message.encoding}: {left} bytes "
                               "are left over; it is truncated")
        if sensor.reserved > RESERVED_SHARE * length / 2:
            raise MessageError(f"{sensor.reserved} of {length // 2} words of the event packet mean nothing in "
                               f"{message.encoding}; is it corrupt, or is_bigendian = {message.is_bigendian} wrong?")
        if stamp <= 0:
            raise MessageError("header.stamp of the event packet is zero; the driver must set it")

    def _in_ros_time(self, message, sensor: SensorEvents, stamp: int, lost: int | None,
                     restarted: bool) -> Events | None:
        at = sensor.end_ns if message.encoding.startswith("libcaer") else sensor.begin_ns
        if at is not None:
            self.clock.update(at, stamp, restarted)
            if self.clock.jumps > self.counters["clock_jumps"]:
                self.counters["clock_jumps"], self._end_ns = self.clock.jumps, None
        if self.clock.offset_ns is None:
            return None
        x, y, t, p = sensor.x, sensor.y, sensor.t, sensor.p
        t += self.clock.offset_ns
        if len(t) and (t.min() < stamp - NEAR_NS or t.max() > stamp + NEAR_NS):
            near = np.abs(t - stamp) <= NEAR_NS
            away = len(t) - int(near.sum())
            self.counters["misplaced"] += away
            if 2 * away > len(t):
                raise MessageError(f"event packet has times around {(float(np.median(t)) - stamp) / 1e9:.3f} s after "
                                   "its stamp; one of the clocks has jumped, or the packet is corrupt")
            x, y, t, p = x[near], y[near], t[near], p[near]
        if np.any(t[1:] < t[:-1]):
            order = np.argsort(t, kind="stable")
            x, y, t, p = x[order], y[order], t[order], p[order]

        # What the packet covers: from where the one before it ends, unless one is missing, up to its last time.
        begin, end = (stamp if one is None or abs(one + self.clock.offset_ns - stamp) > NEAR_NS
                      else one + self.clock.offset_ns for one in (sensor.begin_ns, sensor.end_ns))
        if len(t):
            begin, end = min(begin, int(t[0])), max(end, int(t[-1]))
        end = max(begin, end)
        if self._end_ns is not None and lost == 0:
            begin = min(begin, self._end_ns)
            if self._end_ns - STEP_BACK_NS < end <= self._end_ns:
                end = self._end_ns + 1      # no two packets end at the same time: the collector knows them by it
        self._end_ns = end
        return Events(x, y, t, p, begin, end, int(message.width), int(message.height), lost)
