"""The labels of a bag, to compare a network's with."""

from __future__ import annotations

import logging
from collections import deque

import numpy as np

from mss_perception.bags import BagSummary, read_bag
from mss_perception.config import Config, absolute
from mss_perception.message_types import COMPRESSED, IMAGE
from mss_perception.messages import decode_image, jpeg, stamp_ns

log = logging.getLogger(__name__)


class TruthError(ValueError):
    """What is named as labels is none. The message names the topic and what would be right."""


class Truth:
    """The ground truth of the bag, read alongside the replay: only labels near the present are in memory.

    topic: may be missing in the bag; then there is no truth. jump_back_ns: labels whose stamps go back by more belong
    to the next epoch. Raises TruthError for a topic of another type than images.
    """

    def __init__(self, bag: BagSummary, topic: str, ignore_id: int, tolerance_ns: int, jump_back_ns: int):
        self.topic, self.ignore_id = absolute(topic), ignore_id
        self.tolerance_ns, self.jump_back_ns = tolerance_ns, jump_back_ns
        there = topic and self.topic in bag.topics
        if there and (kind := bag.topics[self.topic].type) not in (IMAGE, COMPRESSED):
            raise TruthError(f"labels on {self.topic} are {kind}; must be {IMAGE} with mono8 label ids")
        if topic and not there and self.topic != absolute(Config().labels_topic):
            log.warning("bag %s has no labels on %s: nothing is scored", bag.path, self.topic)
        self._messages = read_bag(bag.path, [self.topic]) if there else iter(())
        self._near: deque[tuple[int, object]] = deque()
        self._head: tuple[int, object] | None = None        # read, but later than asked for so far
        self._newest = self._epoch = 0
        self._advance()

    def _advance(self) -> None:
        entry = next(self._messages, None)
        self._head = None if entry is None else (stamp_ns(entry[2].header), entry[2])

    def _head_in_epoch(self) -> bool:
        return self._head is not None and self._head[0] >= self._newest - self.jump_back_ns

    def at(self, t_ref_ns: int, epoch: int) -> np.ndarray | None:
        """(H, W) uint8 label ids of the nearest stamp within tolerance, or None. Raises TruthError."""
        if epoch != self._epoch:
            while self._head_in_epoch():
                self._newest = self._head[0]
                self._advance()
            self._epoch, self._newest = epoch, 0
            self._near.clear()
        while self._head_in_epoch() and self._head[0] <= t_ref_ns + self.tolerance_ns:
            self._near.append(self._head)
            self._newest = self._head[0]
            self._advance()
        while self._near and self._near[0][0] < t_ref_ns - self.tolerance_ns:
            self._near.popleft()
        nearest = min(self._near, key=lambda one: abs(one[0] - t_ref_ns), default=None)
        if nearest is None or abs(nearest[0] - t_ref_ns) > self.tolerance_ns:
            return None
        message = nearest[1]
        compressed = hasattr(message, "format")
        lossy = compressed and bytes(message.data[:len(jpeg.START)]) == jpeg.START
        labels = decode_image(message)
        if labels.dtype != np.uint8 or labels.ndim != 2 or lossy:
            raise TruthError(f"labels on {self.topic} are {(message.format if compressed else message.encoding)!r}; "
                              "must be mono8 label ids, if compressed as PNG: JPEG makes others of them")
        return labels
