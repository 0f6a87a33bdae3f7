"""A bag as the time line of serialised messages that a player publishes: looped, moved in time, with faults.

Every message keeps its recorded time of receipt, so a sensor's latency is that of the recording. Messages that no
fault concerns are never decoded, but for transforms: in their serialised bytes the stamp is overwritten in place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mss_perception.bags import BagError, BagSummary, OpenBag, begins_with_header, open_bag, read_bag, typestore
from mss_perception.calibration import Calibration
from mss_perception.camera import Camera
from mss_perception.config import Config, absolute
from mss_perception.faults import FaultSchedule
from mss_perception.message_types import TF
from mss_perception.messages import decode_transforms, stamp_ns
from mss_perception.units import SECOND

STAMP = struct.Struct("<iI")    # sec, nanosec of a std_msgs/Header, which CDR puts right behind its 4 bytes of preamble
STAMP_OFFSET = 4
LOOP_GAP_NS = SECOND // 10      # between the last message of a loop and the first of the next


@dataclass(frozen=True)
class Item:
    """One message to publish: when, in nanoseconds on the time line, and what, as CDR bytes."""

    topic: str
    due_ns: int
    cdr: bytes


class Timeline:
    """A bag as a stream of Items in time order: looped, shifted and faulted.

    topics: those to play. roles: topic -> role in the fault's text. shift_ns is added to all times and stamps. Fault
    times count from the first message of the first loop. Raises BagError for a topic that the bag lacks, and while
    being read for what is damaged; FaultError for a fault on something that is not played, or that its messages cannot
    have.
    """

    def __init__(self, bag: BagSummary, topics: Sequence[str], roles: Mapping[str, str], faults: Sequence[str] = (), *,
                 seed: int = 0, loops: int = 1, shift_ns: int = 0) -> None:
        self.path, self.loops, self.shift_ns = bag.path, loops, shift_ns
        if missing := [topic for topic in topics if topic not in bag.topics]:
            raise BagError(f"bag {bag.path} has no topic {', '.join(missing)}; it has {', '.join(bag.topics)}")
        self.types = {topic: bag.topics[topic].type for topic in topics}
        self.start_ns, self.duration_ns, self.apart_ns = bag.start_ns, bag.end_ns - bag.start_ns, bag.apart_ns
        roles = {topic: roles.get(topic, topic) for topic in topics}
        self.faults = FaultSchedule(faults, seed, roles, self.types)
        faulted = {fault.role for fault in self.faults.faults}
        self._faulted = {topic for topic in topics if roles[topic] in faulted}

    def __iter__(self) -> Iterator[Item]:
        with open_bag(self.path) as bag:
            stream = self._messages(bag)
            for topic, due_ns, message in self.faults.apply(stream, self.start_ns + self.shift_ns, self.apart_ns):
                if topic in self._faulted:
                    message = bag.store.serialize_cdr(message, self.types[topic])
                yield Item(topic, due_ns, bytes(message))

    def _messages(self, bag: OpenBag) -> Iterator[tuple[str, int, object]]:
        """(topic, time, CDR bytes or, where a fault may need it, the message), all loops."""
        for loop in range(self.loops):
            shift_ns = self.shift_ns + loop * (self.duration_ns + LOOP_GAP_NS)
            for connection, receive_ns, cdr in bag.messages(list(self.types)):
                topic = connection.topic
                try:
                    if begins_with_header(bag.store, connection.msgtype):
                        cdr = shifted(cdr, shift_ns)
                    elif connection.msgtype == TF:
                        cdr = shifted_transforms(cdr, shift_ns)
                except (ValueError, struct.error) as error:
                    raise BagError(f"bag {self.path}: message on {topic} at {receive_ns} ns has no stamp that can be "
                                   f"moved: {error}") from error
                message = bag.deserialize(connection, receive_ns, cdr) if topic in self._faulted else cdr
                yield topic, receive_ns + shift_ns, message


def shifted(cdr: bytes, shift_ns: int) -> bytearray:
    """A serialised message whose first field is a Header, its stamp moved by shift_ns; a zero stamp stays zero.

    Raises ValueError, or struct.error where the stamp is cut off or moved out of its range.
    """
    if len(cdr) > 1 and cdr[1] & 1 != 1:
        raise ValueError(f"CDR preamble {bytes(cdr[:4]).hex()} is big-endian, which no ROS 2 middleware writes")
    changed = bytearray(cdr)
    sec, nanosec = STAMP.unpack_from(changed, STAMP_OFFSET)
    if sec or nanosec:
        STAMP.pack_into(changed, STAMP_OFFSET, *divmod(sec * SECOND + nanosec + shift_ns, SECOND))
    return changed


def shifted_transforms(cdr: bytes, shift_ns: int) -> memoryview:
    """A serialised TFMessage, the stamp of each of its transforms moved by shift_ns; a zero stamp stays zero."""
    message = typestore().deserialize_cdr(cdr, TF)
    for one in message.transforms:
        if stamp := stamp_ns(one.header):
            one.header.stamp.sec, one.header.stamp.nanosec = divmod(stamp + shift_ns, SECOND)
    return typestore().serialize_cdr(message, TF)


def calibration_of(bag: BagSummary, config: Config) -> Calibration:
    """The bag's first camera_info of every input and its static transforms, for where tf cannot be published."""
    infos = {topic: role.removesuffix("/info") for topic, role in config.topic_roles().items()
             if role.endswith("/info")}
    static = absolute(config.tf_static_topic)
    wanted = {topic for topic in (*infos, static) if bag.topics.get(topic) and bag.topics[topic].count}
    found = Calibration()
    for topic, _, message in read_bag(bag.path, sorted(wanted)) if wanted else ():
        if topic == static:
            new = [(parent, child, T) for parent, child, _, T in decode_transforms(message)]
            known = {child for _, child, _ in new}
            found.extrinsics = [one for one in found.extrinsics if one[1] not in known] + new
        else:
            found.cameras.setdefault(infos[topic], Camera.from_info(message))
    return found
