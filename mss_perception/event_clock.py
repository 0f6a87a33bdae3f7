"""An event camera's own clock against ROS time."""

from __future__ import annotations

from collections import deque

WINDOW_NS = 2_000_000_000       # the delays remembered: a crystal drifts by 0.2 ms meanwhile
SLEW = 100                      # the offset changes by at most one part in so many of the time that passes,
LONGEST_NS = 100_000_000        # of a pause, after which one delay is all that is known, no more than so long
JUMP_NS = 100_000_000           # a delay this far off is a clock that has jumped, or a wrong stamp ...
CONFIRM_NS = 200_000_000        # ... which is settled when it stays there for so long
CONFIRM_COUNT = 3


class SensorClock:
    """ROS time = sensor time + offset_ns, from pairs of a packet's sensor time and its stamp.

    The host stamps a packet some time after the sensor did, never before, so of the differences `stamp - sensor time`
    in the last WINDOW_NS the least is the best one. That is NTP's clock filter (RFC 5905, section 10) and Olson's
    passive synchronisation (IROS 2010), with a window in place of a bound on the drift. The offset moves towards it by
    at most 1/SLEW of the time between the stamps: late stamps do not show, and a better one shifts events gradually.

    A difference more than JUMP_NS off is not taken; when none but such have come for CONFIRM_NS of stamps, everything
    starts anew from the last. A stalled host that hands on all its packets at once does not take that long.
    Deterministic: there is no clock but what it is given.
    """

    def __init__(self):
        self.offset_ns: int | None = None       # None before the first pair
        self.jumps = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next pair is the first."""
        self.offset_ns = None
        self._least: deque[tuple[int, int]] = deque()   # (stamp, difference), both rising: each may become the least
        self._stamp = 0
        self._odd: tuple[int, int] = (0, 0)             # of differences far off in a row: the first's stamp, and number

    def update(self, sensor_ns: int, stamp_ns: int, restarted: bool = False) -> None:
        """Take in a pair. restarted: the publisher is known to be a new one, which a jump need not prove."""
        difference = stamp_ns - sensor_ns
        if self.offset_ns is not None and abs(difference - self.offset_ns) > JUMP_NS:
            first, count = self._odd if self._odd[1] else (stamp_ns, 0)
            self._odd = first, count + 1
            if not restarted and (count + 1 < CONFIRM_COUNT or stamp_ns - first < CONFIRM_NS):
                return
            self.jumps += 1
            self.reset()
        self._odd = (0, 0)
        while self._least and self._least[-1][1] >= difference:
            self._least.pop()
        self._least.append((stamp_ns, difference))
        while self._least[0][0] < stamp_ns - WINDOW_NS:
            self._least.popleft()
        least = self._least[0][1]
        if self.offset_ns is None:
            self.offset_ns = least
        else:
            step = max(0, min(stamp_ns - self._stamp, LONGEST_NS)) // SLEW
            self.offset_ns += max(-step, min(step, least - self.offset_ns))
        self._stamp = stamp_ns
