"""Sets from the thread that collects them to the one that computes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from mss_perception.collector import SensorSet


class HandOver:
    """A thread that works on one set after the other; of those that wait, the newest stay. No lock is held meanwhile.

    work(sensor_set, queued_ms): must not raise. room: how many sets may wait.
    """

    def __init__(self, work: Callable[[SensorSet, float], None], room: int):
        self.work, self.room = work, room
        self.abandoned = False      # the work did not end in time: what comes of it counts no more
        self._waiting: deque[tuple[float, SensorSet]] = deque()
        self._busy = self._closed = False
        self._began = 0.0           # when the work on the newest set did, on the steady clock
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)
        self._thread.start()

    def put(self, sensor_set: SensorSet) -> int:
        """Hand a set over. Returns how many were replaced by it."""
        replaced = 0
        with self._changed:
            while len(self._waiting) >= self.room:
                self._waiting.popleft()
                replaced += 1
            self._waiting.append((time.perf_counter(), sensor_set))
            self._changed.notify_all()
        return replaced

    def wait(self) -> None:
        """Until no set waits or is in work, or the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not (self._waiting or self._busy))

    def working_sec(self) -> float:
        """For how long the set in work has been; 0 when there is none."""
        with self._changed:
            return time.monotonic() - self._began if self._busy else 0.0

    def close(self, patience_sec: float) -> int:
        """End the thread when it has done the set in work, for which it has patience_sec. Returns how many sets were
        handed over in vain."""
        with self._changed:
            self._closed = True
            lost = len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(patience_sec)
        with self._changed:
            self.abandoned = self._busy
            return lost + self._busy

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                handed_over, sensor_set = self._waiting.popleft()
                self._busy, self._began = True, time.monotonic()
            self.work(sensor_set, 1e3 * (time.perf_counter() - handed_over))
            with self._changed:
                self._busy = False
                self._changed.notify_all()
