"""What a JPEG file announces, and whether its data is all there: what OpenCV does not tell.

libjpeg fills in what it cannot read and only writes a line to the console, so a camera's damaged frame comes back as a
picture that is partly wrong. Here the entropy coded data of sequential files, which cameras send, is read once without
making a picture of it (ITU-T T.81: marker segments B.1 and B.2, Huffman decoding F.2.2). That notices what is missing,
doubled, overwritten, and some single wrong bits; not a wrong bit that only changes a value. Of progressive files and
those coded arithmetically only the order of their segments is looked at, as the specification has no other check.

Common webcams send more than the specification has: bytes that belong to nothing before a marker, 1 to 10 with a
Logitech C270, C310 or C910 ("extraneous bytes before marker 0xd4", libjpeg says: libavg issue 782, opencv issue 9477,
Motion issue 65), padding, or no end. Where everything else is there, decoders leave them out, and so does this reader.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mss_perception.compiled import compiled
from mss_perception.messages.common import MessageError

START, END_OF_IMAGE = b"\xff\xd8\xff", b"\xff\xd9"
START_OF_SCAN = 0xDA
TABLES, RESTART_INTERVAL = 0xC4, 0xDD
FRAMES = tuple(kind for kind in range(0xC0, 0xD0) if kind not in (0xC4, 0xC8, 0xCC))
SEQUENTIAL = (0xC0, 0xC1)       # with Huffman's code
# Markers without a length: restarts, START and END. In a header libjpeg goes over them and reads what follows, which
# would be a segment's content to whoever takes the next two bytes for a length: another picture could hide there.
ALONE = range(0xD0, 0xDA)
# Of a progressive JPEG; each scan goes over the whole picture, so a file of nothing but scans takes hours.
MAX_SCANS = 100

MAX_FOREIGN = 16                    # bytes that belong to nothing, before a marker
WHOLE, CUT, WRONG = range(3)        # what reading a scan finds
LOOK = 9                            # bits of a code that are looked up at once
TABLE = (1 << LOOK) + 2 * (16 - LOOK) + 256         # numbers in a table
LONGEST_DC = 11                     # bits of a difference of mean values, for 8 bit pixels


class Frame(NamedTuple):
    """kind: second byte of the frame's marker. components: id -> horizontal and vertical blocks in an MCU."""

    kind: int
    height: int
    width: int
    components: dict[int, tuple[int, int]]


class Scan(NamedTuple):
    """components: ids, tables: (of mean values, of the others) of each, None when the file does not give them.
    interval: MCUs from restart to restart, 0 for none. at: where its coded data begins."""

    components: list[int]
    tables: list[tuple[np.ndarray | None, np.ndarray | None]]
    interval: int
    at: int


def read_frame(file: bytes) -> tuple[Frame, list[Scan]]:
    """The frame header of a JPEG file and what comes before each scan. Raises MessageError for a file without a frame,
    with a broken segment, without an end (sequential files: `check_data` knows more), and one of too many scans."""
    data = np.frombuffer(file, np.uint8)
    frame, scans, tables, interval, at = None, [], {}, 0, 2
    while True:
        marker, foreign = any_marker(data, at)
        if foreign <= (0 if scans else MAX_FOREIGN):    # what follows the first scan is data, or damaged
            at = marker
        if scans and (file[at:at + 2] == END_OF_IMAGE or at == len(file) and frame.kind in SEQUENTIAL):
            return frame, scans
        if len(file) < at + 4:
            raise MessageError(f"JPEG image of {len(file)} bytes is cut off" if frame else "JPEG image has no frame "
                               "header")
        mark, kind, length = struct.unpack_from(">BBH", file, at)
        body = file[at + 4:at + 2 + length]
        if mark != 0xFF or not 0xC0 <= kind <= 0xFE or kind in ALONE or length < 2:
            raise MessageError(f"JPEG image has {file[at:at + 4].hex(' ')} where a segment should begin, at byte {at} "
                               f"of {len(file)}; it is damaged" if frame else "JPEG image has no frame header")
        at += 2 + length
        try:
            if kind in FRAMES:
                height, width, count = struct.unpack_from(">HHB", body, 1)
                frame = frame or Frame(kind, height, width, {body[6 + 3 * i]: divmod(body[7 + 3 * i], 16)
                                                             for i in range(count)})
            elif kind == TABLES:
                tables.update(_tables(body))
            elif kind == RESTART_INTERVAL:
                interval, = struct.unpack_from(">H", body)
            elif kind == START_OF_SCAN:
                used = [(body[1 + 2 * i], *divmod(body[2 + 2 * i], 16)) for i in range(body[0])]
                scans.append(Scan([one for one, _, _ in used],
                                  [(tables.get(dc), tables.get(16 + ac)) for _, dc, ac in used], interval, at))
        except (IndexError, struct.error, ValueError) as error:
            raise MessageError(f"JPEG image's segment {kind:02x} of {length} bytes is damaged") from error
        if kind == START_OF_SCAN:
            if frame is None:
                raise MessageError("JPEG image has no frame header")
            if len(scans) > MAX_SCANS:
                raise MessageError(f"JPEG image has more than {MAX_SCANS} scans; at most so many are decoded")
            at = next_marker(data, at)


def check_data(file: bytes, frame: Frame, scans: list[Scan]) -> None:
    """Raise MessageError unless the data of a sequential file's scans is what their frame asks for."""
    if frame.kind not in SEQUENTIAL:
        return
    # Where the end is missing, zeros are padding and not data, as which they could be read; one may be the last byte.
    data = np.frombuffer(file[:len(file.rstrip(b"\0")) + 1] + END_OF_IMAGE, np.uint8)
    if missing := set(frame.components).difference(*(scan.components for scan in scans)):
        raise MessageError(f"JPEG image of {len(file)} bytes has no scan of components {sorted(missing)}; it is "
                           "cut off")
    across, down = (max((one[axis] for one in frame.components.values()), default=0) for axis in (0, 1))
    for scan in scans:
        sampling = [frame.components.get(one, (0, 0)) for one in scan.components]
        if not sampling or min(map(min, sampling)) < 1 or max(across, down) > 4:
            raise MessageError(f"JPEG image's scan of components {scan.components} does not fit its frame; damaged")
        if any(table is None for pair in scan.tables for table in pair):
            # Some cameras leave out the usual tables; nothing but the end can be looked at then.
            if next_marker(data, scan.at) >= len(data) - 2:
                raise MessageError(f"JPEG image of {len(file)} bytes is cut off")
            return
        if len(sampling) == 1:      # then there is no MCU, and no padding to whole ones
            (h, v), = sampling
            columns, rows = -(-frame.width * h // (8 * across)), -(-frame.height * v // (8 * down))
            blocks = [0]
        else:
            columns, rows = -(-frame.width // (8 * across)), -(-frame.height // (8 * down))
            blocks = [i for i, (h, v) in enumerate(sampling) for _ in range(h * v)]
        tables = np.array(scan.tables).ravel()      # of each component two, of TABLE numbers each
        found, done, at = read_scan(data, scan.at, tables, np.array(blocks), columns * rows, scan.interval)
        if found == CUT:
            raise MessageError(f"JPEG image of {len(file)} bytes has {done} of the {columns * rows} blocks of a scan; "
                               "it is damaged or cut off")
        rest = data[at:next_marker(data, at)]       # any padding, of zeros or ones
        if found == WRONG or np.count_nonzero((rest > 0) & (rest < 0xFF)) > MAX_FOREIGN:
            raise MessageError(f"JPEG image of {len(file)} bytes is damaged at byte {at}")


def _tables(body: bytes) -> dict[int, np.ndarray]:
    """Huffman tables of a segment, by 16 x class + number."""
    found, at = {}, 0
    while at < len(body):
        count = sum(body[at + 1:at + 17])
        found[body[at]] = huffman_table(body[at + 1:at + 17], body[at + 17:at + 17 + count])
        at += 17 + count
    return found


@lru_cache(maxsize=64)      # a camera's files all have the same
def huffman_table(counts: bytes, symbols: bytes) -> np.ndarray:
    """int32: for each LOOK bits the code's length x 256 + symbol, 0 for a longer code; then for each length above LOOK
    the codes' end, as 16 bits from the top, and what to add for their place; then the symbols (T.81, C.2 and F.2.2.3).

    Raises ValueError for counts that are no code.
    """
    if len(counts) != 16 or sum(counts) != len(symbols) or len(symbols) > 256:
        raise ValueError("Huffman table is cut off or too long")
    look, longer, code, at = np.zeros(1 << LOOK, np.int32), np.zeros((16 - LOOK, 2), np.int32), 0, 0
    for length, count in enumerate(counts, start=1):
        if code + count > 1 << length:
            raise ValueError("Huffman table has more codes than there can be")
        if length <= LOOK:
            for k in range(count):
                first = (code + k) << LOOK - length
                look[first:first + (1 << LOOK - length)] = length << 8 | symbols[at + k]
        else:
            longer[length - LOOK - 1] = (code + count) << 16 - length, at - code
        code, at = (code + count) << 1, at + count
    return np.concatenate([look, longer.ravel(), np.frombuffer(symbols.ljust(256, b"\0"), np.uint8)]).astype(np.int32)


@compiled
def any_marker(data, at):
    """Where the next marker begins, the data's end when there is none; and how many bytes before it are no padding."""
    foreign = 0
    while at + 1 < len(data):
        if data[at] != 0xFF:
            foreign += 1
        elif data[at + 1] != 0 and data[at + 1] != 0xFF:
            return at, foreign
        at += 1
    return max(at, len(data)), foreign


@compiled
def next_marker(data, at):
    """Where the next marker is that is no restart; the data's end when there is none."""
    while at + 1 < len(data):
        if data[at] == 0xFF and data[at + 1] != 0 and data[at + 1] != 0xFF and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 1
    return len(data)


@compiled
def read_scan(data, at, tables, blocks, count, interval):
    """Read `count` MCUs of blocks, each with the tables of its component: what is found, how many are whole, and where.

    The reader holds `have` bits at the lower end of `bits`; beyond a marker it goes on with zeros, which `missing`
    counts. Places are unsigned: one that may be negative costs a test.
    """
    bits, have, missing, expected = np.uint64(0), 0, 0, 0
    at, end = np.uintp(at), np.uintp(len(data) - 1)     # a byte of 255 is never the last
    one, longest = np.uintp(1), np.uintp(1 << LOOK)
    for mcu in range(count):
        if interval > 0 and mcu > 0 and mcu % interval == 0:
            at = np.uintp(unread(data, np.int64(at), (have - missing) // 8))
            marker, foreign = any_marker(data, np.int64(at))
            if foreign > MAX_FOREIGN or marker == len(data) or data[marker + 1] != 0xD0 + expected:
                return WRONG, mcu, at
            expected, at = (expected + 1) & 7, np.uintp(marker + 2)
            bits, have, missing = np.uint64(0), 0, 0
        for block in blocks:
            table = np.uintp(2 * block * TABLE)
            k = 0
            while k < 64:
                if have < 32:           # a code and its bits
                    while have <= 56:
                        byte = np.uint8(0)
                        if at < end and (data[at] != 0xFF or data[at + one] == 0):
                            byte = data[at]
                            at += one + np.uintp(byte == 0xFF)
                        else:
                            missing += 8
                        bits = bits << np.uint64(8) | np.uint64(byte)
                        have += 8
                top = np.uintp(bits >> np.uint64(have - 16)) & np.uintp(0xFFFF)
                entry = tables[table + (top >> np.uintp(16 - LOOK))]
                length, symbol = entry >> 8, entry & 255
                if entry == 0:
                    length, symbol = LOOK + 1, -1
                    place = table + longest
                    while length <= 16:
                        if top < np.uintp(tables[place]):
                            at_symbol = np.uintp(tables[place + one] + np.int64(top >> np.uintp(16 - length)))
                            symbol = tables[table + longest + np.uintp(2 * (16 - LOOK)) + at_symbol]
                            break
                        length += 1
                        place += one + one
                    if symbol < 0:
                        return (CUT if missing > have - 16 else WRONG), mcu, at
                size = symbol & 15
                have -= length + size
                if k == 0:
                    if symbol > LONGEST_DC:
                        return WRONG, mcu, at
                    k = 1
                    table += np.uintp(TABLE)
                elif size > 0 or symbol == 0xF0:
                    k += (symbol >> 4) + 1
                elif symbol == 0:               # end of block
                    break
                else:
                    return WRONG, mcu, at
            if k > 64:
                return WRONG, mcu, at
            if missing > have:
                return CUT, mcu, at
    return WHOLE, count, np.uintp(unread(data, np.int64(at), (have - missing) // 8))


@compiled
def unread(data, at, count):
    """Where the last `count` bytes of coded data before `at` begin; a 255 has a zero behind it."""
    for _ in range(count):
        at -= 2 if data[at - 1] == 0 and data[at - 2] == 0xFF else 1
    return at
