"""JPEG files: every good one passes, whoever wrote it, and what is missing or foreign in one is noticed."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mss_perception.messages import MessageError
from mss_perception.messages.jpeg import check_data, huffman_table, read_frame


def check(file: bytes):
    frame, scans = read_frame(file)
    check_data(file, frame, scans)
    return frame, scans


def picture(width: int, height: int, noise: int, seed: int) -> np.ndarray:
    """Slopes with so much noise, 0..255."""
    random, (v, u) = np.random.default_rng(seed), np.mgrid[:height, :width]
    values = np.stack([3 * u + v, 200 - 2 * v, u + 2 * v], -1) + random.integers(-noise, noise + 1, (height, width, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def file_of(pixels: np.ndarray, mode: str = "RGB", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([0, 20, 255]), st.integers(0, 9),
       st.sampled_from(["RGB", "L", "CMYK", "YCbCr"]), st.integers(1, 100), st.integers(0, 2), st.booleans(),
       st.integers(0, 12), st.booleans())
def test_what_pillow_writes_is_whole(width, height, noise, seed, mode, quality, sampling, optimised, restarts, scans):
    options = {"quality": quality, "optimize": optimised, "progressive": scans, "comment": b"\xff\xd9 \xff\xda no end"}
    if mode != "L":
        options["subsampling"] = sampling
    if restarts:
        options["restart_marker_blocks"] = restarts
    frame, found = check(file_of(picture(width, height, noise, seed), mode, **options))
    assert (frame.width, frame.height) == (width, height)
    assert (frame.kind, len(found) > 1) == ((0xC2, True) if scans else (0xC0, False))


@pytest.mark.parametrize("sampling", [0x411111, 0x221111, 0x211111, 0x121111, 0x111111])
@pytest.mark.parametrize("restarts", [0, 3])
def test_what_opencv_writes_is_whole(sampling, restarts):
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_RST_INTERVAL, restarts]
    for width, height in ((1, 1), (17, 33), (160, 90)):
        check(cv2.imencode(".jpg", picture(width, height, 60, 1), options)[1].tobytes())


def test_real_pictures_are_whole(shared_data):
    for path in (shared_data / "nuscenes_frame").glob("*.jpg"):
        frame, _ = check(path.read_bytes())
        assert (frame.width, frame.height) == (1600, 900)


SEQUENTIAL = [file_of(picture(320, 240, 30, 2)), file_of(picture(320, 240, 30, 2), restart_marker_blocks=10)]


def pieces(file: bytes, count: int, length: int, seed: int = 0):
    """Places and ends of pieces of the coded data, away from its ends."""
    begin = read_frame(file)[1][0].at + 100
    for at in np.random.default_rng(seed).integers(begin, len(file) - length - 100, count):
        yield int(at), int(at) + length


@pytest.mark.parametrize("file", SEQUENTIAL, ids=["plain", "restarts"])
@pytest.mark.parametrize("damage", [
    lambda file, at, end: file[:at] + file[end:],                           # a lost packet
    lambda file, at, end: file[:end] + file[at:],                           # one that came twice
    lambda file, at, end: file[:at] + b"\xff\xd9",                          # ended properly, but too early
    lambda file, at, end: file[:at] + bytes(range(1, 251)) * 2 + file[end:],
], ids=["lost", "doubled", "early", "foreign"])
def test_what_is_lost_doubled_or_foreign_is_noticed(file, damage):
    for at, end in pieces(file, 60, 500):
        damaged = damage(file, at, end)
        assert cv2.imdecode(np.frombuffer(damaged, np.uint8), -1) is not None, "OpenCV does notice it"
        with pytest.raises(MessageError, match="damaged"):
            check(damaged)


@pytest.mark.parametrize("file", SEQUENTIAL, ids=["plain", "restarts"])
def test_what_is_blanked_is_noticed_nearly_always(file):
    """Zeros are codes too, and now and then as many blocks as were there."""
    noticed = 0
    for at, end in pieces(file, 60, 500):
        try:
            check(file[:at] + bytes(end - at) + file[end:])
        except MessageError:
            noticed += 1
    assert noticed > 50


@pytest.mark.parametrize("padding", [b"\0" * 700, b"\xff" * 9, b"\0"])
def test_cameras_may_pad_their_data(padding):
    for file in SEQUENTIAL:
        check(file[:-2] + padding + file[-2:])
        with pytest.raises(MessageError, match="damaged at byte"):
            check(file[:-2] + b"\0" * 700 + b"\x55" * 17 + file[-2:])


def markers(file: bytes) -> list[int]:
    """Where the restart markers and the end are."""
    begin = read_frame(file)[1][0].at
    return [at for at in range(begin, len(file) - 1) if file[at] == 0xFF and file[at + 1] in (*range(0xD0, 0xD8), 0xD9)]


def with_foreign(file: bytes, places: list[int], count: int, seed: int = 0) -> bytes:
    """`count` bytes of 1..254 before each of these places."""
    random = np.random.default_rng(seed)
    for at in reversed(places):
        file = file[:at] + random.integers(1, 255, count, np.uint8).tobytes() + file[at:]
    return file


@pytest.mark.parametrize("file", SEQUENTIAL, ids=["plain", "restarts"])
@pytest.mark.parametrize("count", [*range(1, 11), 16])
def test_webcams_may_send_bytes_of_nothing_before_their_markers(file, count):
    """Before one of them, and before all; OpenCV's picture is the same."""
    expected, places = cv2.imdecode(np.frombuffer(file, np.uint8), -1), markers(file)
    assert len(places) == (30 if file is SEQUENTIAL[1] else 1)
    for chosen in (places, places[:1], places[-1:]):
        sent = with_foreign(file, chosen, count, seed=count)
        check(sent)
        assert np.array_equal(cv2.imdecode(np.frombuffer(sent, np.uint8), -1), expected)
        with pytest.raises(MessageError, match="damaged at byte"):
            check(with_foreign(file, chosen[-1:], 17))


@pytest.mark.parametrize("foreign", [b"\xff\x00", b"\xff\x00" * 9, b"\x21" + b"\xff" * 30, b"\0" * 16])
def test_foreign_bytes_may_look_like_data_or_padding(foreign):
    for at in markers(SEQUENTIAL[1]):
        check(SEQUENTIAL[1][:at] + foreign + SEQUENTIAL[1][at:])


def test_stuffed_bytes_are_counted_once():
    file = SEQUENTIAL[1]
    for at in markers(file)[:-1]:
        check(file[:at] + b"\xff\x00" * 16 + file[at:])
        with pytest.raises(MessageError, match="damaged at byte"):
            check(file[:at] + b"\xff\x00" * 17 + file[at:])


def test_what_else_stands_at_a_restart_is_damage():
    file = SEQUENTIAL[1]
    places = markers(file)
    for kind in range(0xD0, 0xD8):
        changed = file[:places[3]] + bytes([0xFF, kind]) + file[places[3] + 2:]
        if changed == file:
            check(changed)
            continue
        with pytest.raises(MessageError, match=f"damaged at byte {places[3]}"):
            check(changed)
    with pytest.raises(MessageError, match="damaged"):      # a whole interval is missing
        check(file[:places[3]] + file[places[4]:])


@pytest.mark.parametrize("count", [1, 10, 16, 17])
def test_foreign_bytes_may_stand_before_a_segment(count):
    for file in (*SEQUENTIAL, file_of(picture(320, 240, 30, 2), progressive=True)):
        for kind in (b"\xff\xdb", b"\xff\xc4", b"\xff\xda"):
            sent = with_foreign(file, [file.index(kind)], count)
            if count <= 16:
                check(sent)
            else:
                with pytest.raises(MessageError, match="where a segment should begin|no frame header"):
                    check(sent)


# So many zeros are as many blocks as there may be.
@pytest.mark.parametrize("padding", [b"", b"\0", b"\0" * 200_000, b"\xff", b"\x55\x12"])
def test_the_end_may_be_missing_where_all_else_is_there(padding):
    for file in SEQUENTIAL:
        check(file[:-2] + padding)
        for lost in (*(() if padding else (1, 2, 3)), 16, 700, len(file) // 2):
            with pytest.raises(MessageError, match="damaged"):
                check(file[:-2 - lost] + padding)
        with pytest.raises(MessageError, match="cut off"):
            check(file[:-2] + b"\xff\xfe\x00\x10 a comment")
    with pytest.raises(MessageError, match="cut off"):      # nothing else tells whether this is all
        check(file_of(picture(320, 240, 30, 2), progressive=True)[:-2] + padding)
    with pytest.raises(MessageError, match="cut off"):
        check(without_tables(SEQUENTIAL[0])[:-2] + padding)


def test_no_scan_may_be_missing():
    """Of a file that has one for each colour."""
    file = three_scans()
    check(file)
    places = [scan.at for scan in read_frame(file)[1]]
    assert len(places) == 3
    for end in (b"", b"\xff\xd9"):
        for at in places[1:]:
            with pytest.raises(MessageError, match=r"no scan of components \[.*3\]; it is cut off"):
                check(file[:file.rindex(b"\xff\xda", 0, at)] + end)


def three_scans() -> bytes:
    """Three grey pictures of 16 x 16 put together as the colours of one."""
    parts = [file_of(picture(16, 16, 40, seed)[..., 0], "L") for seed in range(3)]
    first, begin = parts[0], parts[0].index(b"\xff\xda")
    frame = first.index(b"\xff\xc0")
    header = b"\xff\xc0" + bytes([0, 17, 8, 0, 16, 0, 16, 3]) + b"".join(bytes([one, 0x11, 0]) for one in (1, 2, 3))
    scans = b"".join(b"\xff\xda" + bytes([0, 8, 1, one, 0, 0, 63, 0]) + part[part.index(b"\xff\xda") + 10:-2]
                     for one, part in enumerate(parts, start=1))
    return first[:frame] + header + first[frame + 13:begin] + scans + b"\xff\xd9"


def without_tables(file: bytes) -> bytes:
    while (at := file.find(b"\xff\xc4")) >= 0:
        file = file[:at] + file[at + 2 + int.from_bytes(file[at + 2:at + 4], "big"):]
    return file


def test_nothing_is_said_of_files_without_tables():
    """As cameras of the motion JPEG kind send them, which decoders then take to be the usual ones."""
    check(without_tables(SEQUENTIAL[0]))


def test_the_example_of_the_specification():
    """ITU-T T.81, table K.3: the code of luminance's mean values."""
    table = huffman_table(bytes([0, 1, 5, 1, 1, 1, 1, 1, 1] + [0] * 7), bytes(range(12)))
    codes = ["00", "010", "011", "100", "101", "110", "1110", "11110", "111110", "1111110", "11111110", "111111110"]
    for symbol, code in enumerate(codes):
        for rest in ("0", "1"):
            assert table[int(code.ljust(9, rest), 2)] == len(code) << 8 | symbol
    assert table[0b111111111] == 0


@pytest.mark.parametrize(("counts", "symbols", "named"), [
    ([3] + [0] * 15, 3, "more codes"), ([0] * 15 + [200], 199, "cut off"), ([0] * 14 + [200, 100], 300, "too long"),
    ([1], 1, "cut off")])
def test_tables_that_are_no_code_are_refused(counts, symbols, named):
    with pytest.raises(ValueError, match=named):
        huffman_table(bytes(counts), bytes(symbols))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([file_of(picture(20, 20, 40, 3)), file_of(picture(20, 20, 40, 3), progressive=True),
                        file_of(picture(20, 20, 40, 3), restart_marker_blocks=1)]),
       st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=4), st.integers(0, 2000))
def test_any_bytes_are_refused_or_taken(file, changes, length):
    data = bytearray(file)
    for at, part in changes:
        data[at % len(data):at % len(data) + len(part)] = part
    try:
        check(bytes(data[:length]))
    except MessageError:
        return
