"""rosbag2 bags without ROS: MCAP and sqlite3 are read, MCAP is written.

Types that a bag defines are registered from the bag itself; where it has no definition, or one that rosbags cannot
parse, ROS 2's own types and those of EXTRA_TYPES serve.

Where this file catches Exception, it is around rosbags' parsers: on a damaged file they raise whatever they stumble
over (struct.error, OverflowError, sqlite3.Error, AssertionError ...), and all of it means a damaged bag.
"""

from __future__ import annotations

import heapq
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import quote

import yaml
from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import (
    MessageDefinitionFormat,
    Nodetype,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer, WriterError, storage_mcap
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mss_perception.messages.common import serialised_stamp_ns

BAG_FILES = (".mcap", ".db3")
# Message types of sensor drivers that are not in ROS 2's core.
EXTRA_TYPES = {
    "event_camera_msgs/msg/EventPacket":
        "std_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\nstring encoding\n"
        "bool is_bigendian\nuint8[] events\n",
    "dvs_msgs/msg/Event": "uint16 x\nuint16 y\nbuiltin_interfaces/Time ts\nbool polarity\n",
    "dvs_msgs/msg/EventArray": "std_msgs/Header header\nuint32 height\nuint32 width\ndvs_msgs/Event[] events\n",
    "prophesee_event_msgs/msg/Event": "uint16 x\nuint16 y\nbuiltin_interfaces/Time ts\nbool polarity\n",
    "prophesee_event_msgs/msg/EventArray":
        "std_msgs/Header header\nuint32 height\nuint32 width\nprophesee_event_msgs/Event[] events\n",
}
NAME = re.compile(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", re.ASCII)      # of a type, or a field
MAX_ARRAY = 1 << 12     # elements of a fixed array of texts or messages
SQLITE = b"SQLite format 3\0"           # how a database begins
MAX_CHUNK = 1 << 30     # bytes of an MCAP file that are compressed as one; writers make them of about a megabyte
# A subscriber that comes late still gets static transforms and label info.
TRANSIENT_LOCAL = Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, QosTime(0, 0),
                      QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False)
ONE_CLOCK_NS = 10_000_000_000   # a message is received within this time of its stamp, if both are of one clock


class BagError(ValueError):
    """A bag cannot be read or written. The message names the path and what is wrong with it."""


def unpacked(decompressor: Callable, data: bytes, size: int) -> bytes:
    """What is in a compressed chunk that announces `size` bytes. Raises ValueError for one of more, or of too many."""
    if size > MAX_CHUNK:
        raise ValueError(f"a chunk announces {size} bytes; at most {MAX_CHUNK} are unpacked")
    found = b""
    while data and len(found) <= size:      # one frame after the other
        frame = decompressor()
        found += frame.decompress(data, max_length=size + 1 - len(found))
        data = frame.unused_data if frame.eof else b""
    if len(found) > size:
        raise ValueError(f"a chunk holds more than the {size} bytes that it announces")
    return found


# rosbags unpacks a chunk first and looks at its size then: a megabyte can become tens of gigabytes.
storage_mcap.DECOMPRESSORS["lz4"] = partial(unpacked, LZ4FrameDecompressor)
if hasattr(storage_mcap, "zstd"):       # the first of 0.11 tell another library the size
    storage_mcap.DECOMPRESSORS["zstd"] = partial(unpacked, storage_mcap.zstd.ZstdDecompressor)


@lru_cache(maxsize=1)
def typestore():
    """ROS 2's message types (Jazzy's definitions; the same in Kilted) and EXTRA_TYPES."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, definition in EXTRA_TYPES.items():
        store.register(get_types_from_msg(definition, name))
    return store


def begins_with_header(store: Typestore, msgtype: str) -> bool:
    """Whether the first field of messages of a type is a std_msgs/Header; not where the store lacks the type."""
    fields = store.fielddefs.get(msgtype, ((), ()))[1]
    return bool(fields) and fields[0][1][1] == "std_msgs/msg/Header"


@dataclass(frozen=True)
class TopicSummary:
    """One topic of a bag. Rate is messages per second between its first and its last, 0 for fewer than two."""

    name: str
    type: str
    count: int
    first_ns: int
    last_ns: int

    @property
    def rate_hz(self) -> float:
        return (self.count - 1) * 1e9 / (self.last_ns - self.first_ns) if self.last_ns > self.first_ns else 0.0


@dataclass(frozen=True)
class BagSummary:
    """apart_ns: how much the clock of the receive times is ahead of that of the stamps, where these are two: a
    simulation's bag that was recorded by the machine's clock, or sensors that count from their own start; else 0."""

    path: Path
    topics: dict[str, TopicSummary]
    apart_ns: int = 0

    @property
    def count(self) -> int:
        return sum(topic.count for topic in self.topics.values())

    @property
    def start_ns(self) -> int:
        return min((topic.first_ns for topic in self.topics.values() if topic.count), default=0)

    @property
    def end_ns(self) -> int:
        return max((topic.last_ns for topic in self.topics.values() if topic.count), default=0)


def is_bag(path: Path) -> bool:
    """Whether a path is a bag by its name: a file of BAG_FILES, or a folder with metadata.yaml or such files."""
    return path.suffix in BAG_FILES if path.is_file() else (path / "metadata.yaml").is_file() or any(
        one.suffix in BAG_FILES for one in (path.iterdir() if path.is_dir() else ()))


def bags_in(folder: Path) -> list[Path]:
    """The bags that lie in a folder, by name; none in what is a bag itself."""
    if not folder.is_dir() or (folder / "metadata.yaml").is_file():
        return []
    return sorted(one for one in folder.iterdir() if is_bag(one))


def bag_bytes(path: Path) -> int:
    """Size of a bag's files."""
    return sum(one.stat().st_size for one in (path.iterdir() if path.is_dir() else [path]) if one.is_file())


def read_bag(path: str | Path, topics: Sequence[str] | None = None) -> Iterator[tuple[str, int, object]]:
    """Yield (topic, receive time in ns, message) in time order.

    `path`: a bag's folder, or an .mcap or .db3 file. `topics`: read only these; each must be in the bag.
    Raises BagError for a missing or broken bag and for a topic that is not there, before or while reading.
    """
    with open_bag(path) as bag:
        for connection, time_ns, data in bag.messages(topics):
            yield connection.topic, time_ns, bag.deserialize(connection, time_ns, data)


def bag_summary(path: str | Path) -> BagSummary:
    """Topics, types, counts and times of a bag, from its messages' times (nothing is deserialized)."""
    with open_bag(path) as bag:
        found = {connection.topic: [connection.msgtype, 0, 0, 0] for connection in bag.connections}
        apart = []
        for connection, time_ns, data in bag.messages(None):
            entry = found[connection.topic]
            if not entry[1]:
                entry[2] = time_ns
                if stamp := bag.stamp_ns(connection, data):
                    apart.append(time_ns - stamp)
            entry[1] += 1
            entry[3] = time_ns
    middle = sorted(apart)[len(apart) // 2] if apart else 0     # of the topics; one of them may have its own clock
    least = min((one for one in apart if one > middle - ONE_CLOCK_NS), default=0)
    return BagSummary(Path(path), {name: TopicSummary(name, *entry) for name, entry in sorted(found.items())},
                      least if abs(middle) > ONE_CLOCK_NS else 0)


@contextmanager
def open_bag(path: str | Path):
    """Open storage reader(s) of a bag, merged in time order; every failure to open is a BagError."""
    path = Path(path)
    with ExitStack() as stack:
        try:
            files = _storage(path)
            for file in (path.iterdir() if path.is_dir() else files):
                _check_database(file)
            readers = [stack.enter_context(Reader(file)) for file in files]
            connections = [connection for reader in readers for connection in reader.connections]
            store, unknown = _types_of(tuple(dict.fromkeys((one.msgtype, *one.msgdef) for one in connections)))
        except BagError:
            raise
        except Exception as error:
            raise BagError(f"bag {path} cannot be opened: {_text(error)}{_rescue(path)}") from error
        yield OpenBag(path, readers, connections, store, unknown)


def _text(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _rescue(path: Path) -> str:
    """What to try with a damaged bag: a recording that was cut off has no index, but its messages are there."""
    files = [path] if path.is_file() else sorted(path.glob("*.mcap"))
    whole = [one for one in files if one.suffix == ".mcap" and one.stat().st_size]
    return f"; was it cut off? `mcap recover {whole[-1]} -o whole.mcap` saves what was written" if whole else ""


def _storage(path: Path) -> list[Path]:
    """What rosbags' Reader is to open: the folder, or the files in it where the metadata does not say their format."""
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if not path.is_dir():
        if not path.is_file() or path.suffix not in BAG_FILES:
            raise BagError(f"{path} is no bag; must be a bag's folder, an .mcap or a .db3 file")
        return [path]
    metadata = path / "metadata.yaml"
    if not metadata.is_file():
        files = sorted(one.name for one in path.iterdir() if one.suffix in BAG_FILES)
        raise BagError(f"bag folder {path} has no metadata.yaml; it holds "
                       + (f"{', '.join(files)}: give such a file itself, or run `ros2 bag reindex`" if files
                          else "no .mcap or .db3 file: not a bag"))
    try:
        # Not PyYAML's C loader: the interpreter crashes in it on a file that is nested deep enough.
        information = yaml.safe_load(metadata.read_text())["rosbag2_bagfile_information"]
        if information["storage_identifier"]:
            return [path]
        return [path / Path(name).name for name in information["relative_file_paths"]]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise BagError(f"{metadata} is no rosbag2 metadata: {error!r}") from error


def _check_database(path: Path) -> None:
    """Raise BagError for a file that is a database and computes what it is asked for, as rosbag2's never do: a line of
    SQL can run without end."""
    with path.open("rb") as file:
        if file.read(len(SQLITE)) != SQLITE:
            return
    with closing(sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)) as database:
        schema = database.execute("SELECT type, name, lower(sql) FROM sqlite_master").fetchall()
    for kind, name, sql in schema:
        if kind not in ("table", "index") or sql and ("virtual table" in sql or "generated" in sql or " as (" in sql):
            raise BagError(f"{path} has the {kind} {name!r}, which computes its content; rosbag2 writes plain tables")


@lru_cache(maxsize=8)   # to make the classes takes a while, and a bag is opened several times
def _types_of(definitions: tuple[tuple[str, MessageDefinitionFormat, str], ...]) -> tuple[Typestore, set[str]]:
    """(typestore that reads messages of these types, names of the types that it cannot read).

    definitions: (type, form, text), in the bag's order. A bag's own definition wins over ours, its last over those
    before; ours serves where the bag has none or rosbags cannot parse it.
    """
    types, unknown = dict(typestore().fielddefs), set()
    for name, form, text in definitions:
        try:
            if form == MessageDefinitionFormat.MSG:
                types.update(_harmless(get_types_from_msg(text, name)))
            elif form == MessageDefinitionFormat.IDL:
                # A bundle of IDL files, each under a line of = and one that names it.
                for part in text.split("=" * 80 + "\nIDL: "):
                    types.update(_harmless(get_types_from_idl(part.partition("\n")[2])) if part else {})
        except TypesysError:
            pass
        if name not in types:
            unknown.add(name)
    needed: dict = {}
    for name, _, _ in definitions:
        _collect(name, types, needed)
    store = get_typestore(Stores.EMPTY)
    store.register(needed)
    return store, unknown


def _harmless(found: Mapping[str, tuple]) -> Mapping[str, tuple]:
    """Types of a bag as they are, which rosbags makes Python code of and runs. Raises TypesysError for a name that is
    none, and for an array that would be a line of code for each of too many elements."""
    for name, (constants, fields) in found.items():
        if wrong := [one for one in (name, *(one[0] for one in (*constants, *fields))) if not NAME.fullmatch(one)]:
            raise TypesysError(f"{wrong[0]!r} is no name")
        for _, (kind, what) in fields:
            if kind == Nodetype.ARRAY and what[1] > MAX_ARRAY and (
                    what[0][0] == Nodetype.NAME or what[0][1][0] in ("string", "wstring")):
                raise TypesysError(f"{name} has an array of {what[1]}; at most {MAX_ARRAY} can be read")
    return found


def _collect(name: str, types: Mapping[str, tuple], needed: dict) -> None:
    """Take a type, and those that its fields are of, from `types`."""
    if name not in types or name in needed:
        return
    needed[name] = types[name]
    for _, (kind, what) in types[name][1]:
        while kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
            kind, what = what[0]
        if kind == Nodetype.NAME:
            _collect(what, types, needed)


@dataclass
class OpenBag:
    """The open readers of one bag and the types to read it with."""

    path: Path
    readers: list[Reader]
    connections: list
    store: Typestore
    unknown: set[str]

    def messages(self, topics: Sequence[str] | None):
        """Yield (connection, time in ns, raw bytes) in time order; BagError where the file breaks off."""
        chosen = self.connections
        if topics is not None:
            there = sorted({connection.topic for connection in chosen})
            missing = [topic for topic in topics if topic not in there]
            if missing:
                raise BagError(f"bag {self.path} has no topic {', '.join(missing)}; it has "
                               f"{', '.join(there) or 'none'}")
            chosen = [connection for connection in chosen if connection.topic in topics]
        streams = []
        for reader in self.readers:
            mine = [connection for connection in chosen if connection in reader.connections]
            if mine:
                streams.append(reader.messages(mine))
        merged = heapq.merge(*streams, key=lambda item: item[1])
        while True:
            try:
                item = next(merged, None)
            except Exception as error:
                raise BagError(f"bag {self.path} is damaged: {_text(error)}{_rescue(self.path)}") from error
            if item is None:
                return
            if item[1] >= 1 << 63:      # MCAP has one bit more than ROS
                raise BagError(f"bag {self.path} is damaged: a message on {item[0].topic} was received at {item[1]} "
                               "ns, which is no time of ROS")
            yield item

    def stamp_ns(self, connection, data) -> int:
        """The stamp in a message's serialised bytes, 0 where it has none."""
        return serialised_stamp_ns(data) if begins_with_header(self.store, connection.msgtype) else 0

    def deserialize(self, connection, time_ns: int, data):
        where = f"bag {self.path}: message on {connection.topic} at {time_ns} ns"
        if connection.msgtype in self.unknown:
            raise BagError(f"{where} has type {connection.msgtype}, of which the bag has no definition that can be "
                           "read; leave the topic out")
        try:
            return self.store.deserialize_cdr(data, connection.msgtype)
        except Exception as error:
            raise BagError(f"{where} is no {connection.msgtype}: {error}") from error


class BagWriter:
    """Writes an MCAP bag folder: `with BagWriter(path) as bag: bag.write('/image', message, time_ns)`.

    Topics are declared by their first message, with its type. `latched` topics are recorded as transient_local, so that
    players offer them to late subscribers. Raises BagError when the path exists or a message's type is unknown.
    """

    def __init__(self, path: str | Path, latched: Sequence[str] = ("/tf_static",), compress: bool = False):
        self.path = Path(path)
        self.latched = frozenset(latched)
        try:
            self._writer = Writer(self.path, version=9, storage_plugin=StoragePlugin.MCAP)
        except WriterError as error:
            raise BagError(f"bag {self.path} exists already; remove it or give another path") from error
        if compress:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._connections = {}

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(self, *exception):
        return self._writer.__exit__(*exception)

    def declare(self, topic: str, msgtype: str):
        """Make a topic known, even if no message follows."""
        if topic in self._connections:
            return self._connections[topic]
        if msgtype not in typestore().types:
            raise BagError(f"message type {msgtype!r} of {topic} is unknown")
        qos = [TRANSIENT_LOCAL] if topic in self.latched else []
        self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=typestore(),
                                                               offered_qos_profiles=qos)
        return self._connections[topic]

    def write(self, topic: str, msg, time_ns: int) -> None:
        """Append one message of rosbags' classes with its receive time."""
        connection = self.declare(topic, msg.__msgtype__)
        if connection.msgtype != msg.__msgtype__:
            raise BagError(f"topic {topic} holds {connection.msgtype}, not {msg.__msgtype__}")
        self._writer.write(connection, int(time_ns), typestore().serialize_cdr(msg, msg.__msgtype__))
