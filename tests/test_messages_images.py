"""Image encodings and compressed images, against mosaics and formulas by hand, Pillow's files, and hostile ones.

rgb8 to bgra8, mono8, 16UC1 and 32FC1 are in test_messages.py.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture
from rosbags.typesys import Stores, get_typestore
from rvl_writer import rvl

from mss_perception.camera import MAX_PIXELS
from mss_perception.messages import MessageError, bag_types, decode_depth, decode_image, encode_header
from mss_perception.messages.images import PIXEL_FORMATS, read_pixels
from mss_perception.messages.jpeg import MAX_SCANS

TYPES = bag_types()
HEADER = encode_header(TYPES, 12_345_678_901, "frame")
CompressedImage = get_typestore(Stores.ROS2_JAZZY).types["sensor_msgs/msg/CompressedImage"]


def image(rows: np.ndarray, height, width, encoding, padding=0, is_bigendian=0):
    """A message from (rows, bytes of a row) uint8, each row followed by `padding` bytes."""
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return TYPES.Image(header=HEADER, height=height, width=width, encoding=encoding, is_bigendian=is_bigendian,
                       step=data.shape[1], data=data.ravel())


def compressed(data: bytes, name: str):
    return CompressedImage(header=HEADER, format=name, data=np.frombuffer(data, np.uint8))


def smooth(height=48, width=64):
    """(H, W, 3) uint8 RGB whose channels are three different slopes."""
    v, u = np.mgrid[:height, :width]
    return np.stack([40 + 2 * u + v, 220 - u - 2 * v, 60 + u + 3 * v // 2], -1).astype(np.uint8)


def speckled(height, width, channels=3, kind=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max, (height, width, channels), kind, endpoint=True)


# ------------------------------------------------------------------------------------------------ grey and plain

def test_8uc3_is_bgr_and_8uc1_is_grey():
    pixels = speckled(5, 7)
    assert np.array_equal(decode_image(image(pixels.reshape(5, -1), 5, 7, "8UC3", 2)), pixels[..., ::-1])
    assert np.array_equal(decode_image(image(pixels[..., 0], 5, 7, "8UC1", 2)), pixels[..., 0])


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_mono16_keeps_its_upper_8_bits(order, padding):
    values = speckled(5, 6, 1, np.uint16)[..., 0]
    rows = values.astype(order + "u2").view(np.uint8).reshape(5, 12)
    decoded = decode_image(image(rows, 5, 6, "mono16", padding, order == ">"))
    assert decoded.dtype == np.uint8 and np.array_equal(decoded, values // 256)


@pytest.mark.parametrize("order", ["<", ">"])
def test_mono16_of_a_depth_camera_keeps_all_16_bits(order):
    values = speckled(5, 6, 1, np.uint16)[..., 0]
    rows = values.astype(order + "u2").view(np.uint8).reshape(5, 12)
    png = cv2.imencode(".png", values)[1].tobytes()
    for message in (image(rows, 5, 6, "mono16", 3, order == ">"), compressed(png, "mono16; png compressed "),
                    compressed(bytes(12) + png, "mono16; compressedDepth png")):
        decoded = decode_depth(message)
        assert decoded.dtype == np.uint16 and np.array_equal(decoded, values)


def test_channels_stay_in_their_order_until_they_are_needed_in_another():
    pixels = speckled(4, 6, 4)
    message = image(pixels.reshape(4, -1), 4, 6, "bgra8")
    read = read_pixels(message)
    assert np.shares_memory(read.values, message.data) and read.order == "bgra"
    assert np.array_equal(read.rgb(), pixels[..., 2::-1])


# --------------------------------------------------------------------------------------------------------- Bayer

def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """(H, W): of each pixel the channel that its filter lets through. pattern: rows of the top left 2 x 2 pixels."""
    result = np.empty(rgb.shape[:2], rgb.dtype)
    for row, column in itertools.product(range(rgb.shape[0]), range(rgb.shape[1])):
        result[row, column] = rgb[row, column, "rgb".index(pattern[row % 2 * 2 + column % 2])]
    return result


def demosaic(raw: np.ndarray, pattern: str) -> np.ndarray:
    """(H - 2, W - 2, 3): each channel the mean of its nearest filters among the 3 x 3 around, its own if it has it."""
    height, width = raw.shape
    result = np.empty((height - 2, width - 2, 3))
    for row, column in itertools.product(range(1, height - 1), range(1, width - 1)):
        for channel in range(3):
            near: dict[int, list[float]] = {}
            for y, x in itertools.product((row - 1, row, row + 1), (column - 1, column, column + 1)):
                if pattern[y % 2 * 2 + x % 2] == "rgb"[channel]:
                    near.setdefault(abs(y - row) + abs(x - column), []).append(float(raw[y, x]))
            result[row - 1, column - 1, channel] = np.mean(near[min(near)])
    return result


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize(("bits", "order"), [(8, "<"), (16, "<"), (16, ">")])
def test_a_mosaic_becomes_the_picture_again(pattern, bits, order):
    truth = smooth()
    raw = mosaic(truth, pattern)
    kind = np.uint8 if bits == 8 else order + "u2"
    rows = (raw if bits == 8 else raw.astype(np.uint16) * 256 + 77).astype(kind).view(np.uint8).reshape(48, -1)
    decoded = decode_image(image(rows, 48, 64, f"bayer_{pattern}{bits}", 6, order == ">"))
    assert np.abs(decoded.astype(int) - truth)[2:-2, 2:-2].max() <= 2
    assert np.abs(decoded.astype(int) - truth).max() <= 8       # the rim repeats its neighbour


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_mosaic_is_interpolated_linearly_as_opencv_does(pattern):
    raw = speckled(20, 31, 1, seed=3)[..., 0]
    decoded = decode_image(image(raw, 20, 31, f"bayer_{pattern}8"))
    assert np.abs(decoded[1:-1, 1:-1] - demosaic(raw, pattern)).max() <= 1
    assert np.array_equal(decoded, cv2.cvtColor(raw, getattr(cv2, f"COLOR_Bayer{pattern.upper()}2RGB")))


def test_a_mosaic_of_two_rows_is_refused():
    with pytest.raises(MessageError, match="too small for a mosaic"):
        decode_image(image(np.zeros((2, 8), np.uint8), 2, 8, "bayer_rggb8"))


# ----------------------------------------------------------------------------------------------------------- YUV

def bt601(y, u, v):
    """ITU-R BT.601 from the video range: Y 16..235, U and V 16..240 around 128 -> R, G, B 0..255."""
    y, u, v = ((np.asarray(one, np.float64) - zero) for one, zero in ((y, 16), (u, 128), (v, 128)))
    kr, kb = 0.299, 0.114
    kg = 1 - kr - kb
    y, u, v = y * 255 / 219, u * 255 / 224, v * 255 / 224
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return np.clip(np.stack([red, (y - kr * red - kb * blue) / kg, blue], -1), 0, 255)


def video_range(luma, chroma):
    rng = np.random.default_rng(4)
    return rng.integers(16, 236, luma), rng.integers(16, 241, chroma), rng.integers(16, 241, chroma)


@pytest.mark.parametrize(("encoding", "layout"), [
    ("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")])
@pytest.mark.parametrize("padding", [0, 10])
def test_yuv422_is_bt601_in_the_video_range(encoding, layout, padding):
    y, u, v = video_range((6, 10), (6, 5))
    samples = {"y": iter((y[:, ::2], y[:, 1::2])), "u": iter((u,)), "v": iter((v,))}
    rows = np.stack([next(samples[letter]) for letter in layout], -1).astype(np.uint8).reshape(6, 20)
    decoded = decode_image(image(rows, 6, 10, encoding, padding))
    assert np.abs(decoded - bt601(y, u.repeat(2, 1), v.repeat(2, 1))).max() <= 1.5
    code = cv2.COLOR_YUV2RGB_UYVY if layout == "uyvy" else cv2.COLOR_YUV2RGB_YUYV
    assert np.array_equal(decoded, cv2.cvtColor(rows.reshape(6, 10, 2), code))


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
@pytest.mark.parametrize("padding", [0, 6])
def test_planar_yuv420_is_bt601_in_the_video_range(encoding, padding):
    y, u, v = video_range((6, 10), (3, 5))
    colours = np.stack([u, v] if encoding == "nv12" else [v, u], -1).reshape(3, 10)
    rows = np.concatenate([y, colours]).astype(np.uint8)
    decoded = decode_image(image(rows, 6, 10, encoding, padding))
    whole = [one.repeat(2, 0).repeat(2, 1) for one in (u, v)]
    assert np.abs(decoded - bt601(y, *whole)).max() <= 1.5
    code = cv2.COLOR_YUV2RGB_NV12 if encoding == "nv12" else cv2.COLOR_YUV2RGB_NV21
    assert np.array_equal(decoded, cv2.cvtColor(rows, code))


@pytest.mark.parametrize(("encoding", "rows", "height", "width", "named"), [
    ("uyvy", (4, 18), 4, 9, "9 pixels wide"), ("yuyv", (4, 12), 4, 8, "16 bytes"), ("yuyv", (3, 16), 4, 8, "48 bytes"),
    ("nv12", (6, 8), 4, 7, "7 x 4.*even"), ("nv21", (6, 8), 3, 8, "8 x 3.*even"), ("nv12", (5, 8), 4, 8, "6 rows"),
    ("bayer_rggb16", (4, 15), 4, 8, "16 bytes"), ("mono16", (4, 16), 5, 8, "5 rows"),
])
def test_rows_that_cannot_be_are_refused(encoding, rows, height, width, named):
    with pytest.raises(MessageError, match=named):
        decode_image(image(np.zeros(rows, np.uint8), height, width, encoding))


@pytest.mark.parametrize("encoding", list(PIXEL_FORMATS))
def test_another_size_than_the_cameras_is_refused(encoding):
    message = image(np.zeros((12, 200), np.uint8), 8, 10, encoding)
    with pytest.raises(MessageError, match="image is 10 x 8, camera_info says 20 x 8"):
        decode_image(message, (8, 20))
    assert decode_image(message, (8, 10)).shape[:2] == (8, 10)


# ------------------------------------------------------------------------------------------------- JPEG and PNG

def file_of(pixels: np.ndarray, kind: str, **options) -> bytes:
    """Written by Pillow, which OpenCV has nothing to do with."""
    stream = io.BytesIO()
    Picture.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["jpeg", "jpg", "", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8",
                                  "bgr8; jpeg compressed", "bayer_rggb8; jpeg compressed bgr8",
                                  "yuv422_yuy2; jpeg compressed bgr8", "rgb16; jpeg compressed bgr8"])
def test_jpeg_has_the_colours_of_its_file(name):
    pixels = smooth(30, 46)
    data = file_of(pixels, "JPEG", quality=95, subsampling=0)
    decoded = decode_image(compressed(data, name))
    assert np.abs(decoded.astype(int) - pixels).max() <= 4
    assert np.abs(decoded.astype(int) - np.asarray(Picture.open(io.BytesIO(data)))).max() <= 2


@pytest.mark.parametrize("name", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", "jpeg"])
def test_png_has_the_colours_of_its_file(name):
    pixels = speckled(20, 31)
    assert np.array_equal(decode_image(compressed(file_of(pixels, "PNG"), name)), pixels)
    with_alpha = speckled(20, 31, 4)
    assert np.array_equal(decode_image(compressed(file_of(with_alpha, "PNG"), name)), with_alpha[..., :3])


def test_compressed_rgb_says_that_red_was_written_as_blue():
    pixels = speckled(20, 31)
    data = file_of(pixels[..., ::-1], "PNG")
    assert np.array_equal(decode_image(compressed(data, "rgb8; png compressed rgb8")), pixels)


@pytest.mark.parametrize("name", ["mono8; jpeg compressed mono8", "mono8; png compressed ", "png",
                                  "8UC1; png compressed ", "bayer_rggb8; jpeg compressed mono8",
                                  "mono16; jpeg compressed mono8"])
def test_grey_files_stay_grey(name):
    pixels = smooth()[..., 0]
    kind = "PNG" if "png" in name else "JPEG"
    decoded = decode_image(compressed(file_of(pixels, kind), name))
    assert decoded.shape == pixels.shape and np.abs(decoded.astype(int) - pixels).max() <= 3


def test_16_bits_of_colour_and_grey_become_8():
    values = speckled(9, 12, 3, np.uint16)
    _, data = cv2.imencode(".png", values[..., ::-1])
    assert np.array_equal(decode_image(compressed(data.tobytes(), "rgb16; png compressed bgr16")), values // 256)
    _, data = cv2.imencode(".png", values[..., 0])
    assert np.array_equal(decode_image(compressed(data.tobytes(), "mono16; png compressed ")), values[..., 0] // 256)


@pytest.mark.parametrize("name", ["16UC1; png compressed ", "16UC1; png compressed mono16", "png", "16UC1"])
def test_a_png_of_16_bits_is_depth(name):
    values = speckled(9, 12, 1, np.uint16)[..., 0]
    decoded = decode_image(compressed(file_of(values, "PNG"), name))
    assert decoded.dtype == np.uint16 and np.array_equal(decoded, values)


@pytest.mark.parametrize(("bits", "pattern"), [(8, "rggb"), (16, "gbrg")])
def test_a_png_of_a_mosaic_becomes_a_picture(bits, pattern):
    truth = smooth()
    raw = mosaic(truth, pattern)
    data = file_of(raw if bits == 8 else raw.astype(np.uint16) * 256, "PNG")
    decoded = decode_image(compressed(data, f"bayer_{pattern}{bits}; png compressed "))
    assert np.abs(decoded.astype(int) - truth)[2:-2, 2:-2].max() <= 2


def test_exif_does_not_turn_the_picture():
    exif = Picture.Exif()
    exif[0x0112] = 6        # "rotate by 90 degrees to view"
    pixels = smooth(30, 46)
    decoded = decode_image(compressed(file_of(pixels, "JPEG", quality=95, exif=exif), "jpeg"), (30, 46))
    assert np.abs(decoded.astype(int) - pixels).mean() < 3


def test_rclpys_compressed_images_are_read_alike():
    messages = pytest.importorskip("sensor_msgs.msg", reason="needs the ROS wheels")
    pixels = speckled(6, 8)
    message = messages.CompressedImage(format="rgb8; png compressed bgr8", data=file_of(pixels, "PNG"))
    assert np.array_equal(decode_image(message), pixels)


# ------------------------------------------------------------------------------------------------ compressedDepth

def compressed_depth(stored: np.ndarray, encoding: str, codec: str, a=0.0, b=0.0):
    """As codec.cpp puts it together: header, then the file or the size and RVL."""
    height, width = stored.shape
    body = (struct.pack("<II", width, height) + rvl(stored) if codec.endswith("rvl")
            else file_of(stored.astype(np.uint16), "PNG"))
    return compressed(struct.pack("<iff", 0, a, b) + body, f"{encoding}; {codec}")


def sparse_depth(height=17, width=23, seed=6):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 65536, (height, width)).astype(np.uint16)
    values[rng.random((height, width)) < 0.4] = 0
    return values


@pytest.mark.parametrize("codec", ["compressedDepth png", "compressedDepth rvl", "compressedDepth"])
def test_compressed_depth_of_millimetres(codec):
    values = sparse_depth()
    decoded = decode_image(compressed_depth(values, "16UC1", codec))
    assert decoded.dtype == np.uint16 and np.array_equal(decoded, values)


def test_the_first_compressed_depth_named_only_the_encoding():
    values = sparse_depth()
    message = compressed_depth(values, "16UC1", "compressedDepth png")
    message.format = "16UC1"
    assert np.array_equal(decode_image(message), values)


@pytest.mark.parametrize("codec", ["compressedDepth png", "compressedDepth rvl"])
def test_compressed_depth_of_metres_undoes_the_quantisation(codec):
    rng = np.random.default_rng(7)
    depth = rng.uniform(0.4, 9.0, (15, 21)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.2] = np.nan
    # The publisher's formula, with its defaults depth_quantization = 100 and depth_max = 10.
    a = 100 * (100 + 1.0)
    b = 1.0 - a / 10
    stored = np.where(depth < 10, a / depth + b, 0)
    stored = np.nan_to_num(stored).astype(np.uint16)
    decoded = decode_image(compressed_depth(stored, "32FC1", codec, a, b))
    assert decoded.dtype == np.float32 and np.array_equal(np.isnan(decoded), np.isnan(depth))
    # One step of the stored number is z^2 / a metres.
    assert np.nanmax(np.abs(decoded - depth) - depth * decoded / a) <= 1e-5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.just(0), st.integers(0, 65535)), min_size=1, max_size=200), st.integers(0, 3))
def test_rvl_there_and_back(values, lost):
    stored = np.array([values], np.uint16)
    message = compressed_depth(stored, "16UC1", "compressedDepth rvl")
    assert np.array_equal(decode_image(message), stored)
    message.data = message.data[:len(message.data) - 4 * lost]      # whole words
    try:
        decoded = decode_image(message)
    except MessageError:
        return
    assert not lost or np.array_equal(decoded, stored)      # the words that were lost held nothing


@pytest.mark.parametrize(("name", "body", "named"), [
    ("16UC1; compressedDepth rvl", struct.pack("<II", 8, 8), "does not hold 8 x 8"),
    ("16UC1; compressedDepth rvl", struct.pack("<II", 0, 8) + bytes(8), "empty"),
    ("16UC1; compressedDepth rvl", struct.pack("<II", 8, 8) + b"\xff" * 400, "does not hold"),     # endless number
    ("16UC1; compressedDepth rvl", struct.pack("<II", 8, 8) + bytes(400), "does not hold"),        # empty runs
    ("16UC1; compressedDepth rvl", struct.pack("<II", 8, 8) + rvl(np.zeros(65)), "does not hold"),      # runs too long
    ("16UC1; compressedDepth rvl", struct.pack("<II", 8, 8) + rvl(np.ones(65)), "does not hold"),
    ("16UC1; compressedDepth rvl", struct.pack("<II", 1 << 31, 1 << 31) + bytes(40), "at most"),
    ("16UC1; compressedDepth png", file_of(np.zeros((4, 4), np.uint8), "PNG"), "uint8"),
    ("16UC1; compressedDepth png", b"no file at all", "only JPEG and PNG"),
    ("16UC1; compressedDepth h264", bytes(100), "'h264' is not supported"),
    ("rgb8; compressedDepth png", bytes(100), "'rgb8' is not supported"),
    ("32FC1; compressedDepth png", file_of(np.zeros((4, 4), np.uint16), "PNG"), "A = 0.0"),
    ("16UC1; compressedDepth png", b"", "12 bytes"),
])
def test_damaged_compressed_depth_is_refused(name, body, named):
    with pytest.raises(MessageError, match=named):
        decode_image(compressed(struct.pack("<iff", 0, 0.0, 0.0) + body, name))


@pytest.mark.parametrize("a", [np.nan, np.inf, -1.0])
def test_impossible_quantisation_is_refused(a):
    with pytest.raises(MessageError, match="quantisation"):
        decode_image(compressed_depth(sparse_depth(), "32FC1", "compressedDepth png", a))


# ---------------------------------------------------------------------------------------------------- hostile files

def png_chunk(kind: bytes, content: bytes = b"", length: int | None = None) -> bytes:
    """One chunk of a PNG file, which may announce another length than it has."""
    length = len(content) if length is None else length
    return struct.pack(">I", length) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    """A PNG file whose header is as it should be, without anything in it."""
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) \
        + png_chunk(b"IEND")


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG file whose frame header has been changed to this size."""
    data = bytearray(file_of(smooth(16, 16), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5:at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("data", [png_header(100_000, 100_000), png_header(2**31 - 1, 1), jpeg_of_size(65_500, 65_500)])
def test_a_bomb_is_refused_by_its_header(data):
    with pytest.raises(MessageError, match=f"at most {MAX_PIXELS} pixels"):
        decode_image(compressed(data, "png"))


@pytest.mark.parametrize("data", [png_header(5_000, 5_000), jpeg_of_size(5_000, 5_000)])
def test_another_size_than_the_cameras_is_refused_before_decoding(data):
    # Neither holds that many pixels: that would be the error if they were decoded first.
    with pytest.raises(MessageError, match="image is 5000 x 5000, camera_info says 64 x 48"):
        decode_image(compressed(data, "png"), (48, 64))


@pytest.mark.parametrize("name", [b"IDAT", b"tEXt", b"IEND"])
def test_a_png_chunk_longer_than_the_file_is_refused_before_its_memory_is_reserved(name):
    """OpenCV 5 takes 2 GB and seconds to find it out."""
    data = file_of(smooth(), "PNG")
    with pytest.raises(MessageError, match=r"PNG image of \d+ bytes is cut off"):
        decode_image(compressed(data[:33] + png_chunk(name, b"", 0x7FFF_FFFF) + data[33:], "png"))


def test_a_jpeg_of_countless_scans_is_refused():
    data = file_of(smooth(), "JPEG", progressive=True)
    decode_image(compressed(data, "jpeg"))
    last = data.rindex(b"\xff\xda")
    with pytest.raises(MessageError, match="scans; at most"):
        decode_image(compressed(data[:last] + data[last:-2] * MAX_SCANS + data[-2:], "jpeg"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_that_is_cut_off_is_refused(kind):
    data = file_of(smooth(), kind)
    for length in (0, 1, 8, 20, len(data) // 2, len(data) - 3):
        with pytest.raises(MessageError):
            decode_image(compressed(data[:length], kind.lower()))


def test_a_jpeg_that_ends_too_early_is_refused_by_us():
    # OpenCV 4 fills the rest with grey.
    with pytest.raises(MessageError, match="damaged or cut off"):
        decode_image(compressed(file_of(smooth(), "JPEG")[:-3], "jpeg"))
    with pytest.raises(MessageError, match="is cut off"):
        decode_image(compressed(file_of(smooth(), "JPEG", progressive=True)[:-2], "jpeg"))


@pytest.mark.parametrize("change", [
    lambda file: file[:-2], lambda file: file[:-1], lambda file: file[:-2] + bytes(500),
    lambda file: file[:-2] + b"\x12\x80\x33" + file[-2:], lambda file: file.replace(b"\xff\xdb", b"\x07\xff\xdb", 1),
    lambda file: file.replace(b"\xff\xd0", b"\x12\x80\xff\xd0").replace(b"\xff\xd1", b"\x55" * 10 + b"\xff\xd1"),
], ids=["no end", "half an end", "padding, no end", "before the end", "before a segment", "before restarts"])
def test_a_jpeg_as_webcams_send_it_is_the_same_picture(change):
    file = file_of(smooth(), "JPEG", restart_marker_blocks=2)
    assert (sent := change(file)) != file
    assert np.array_equal(decode_image(compressed(sent, "jpeg")), decode_image(compressed(file, "jpeg")))


@pytest.mark.parametrize(("data", "name", "named"), [
    (b"GIF89a" + bytes(50), "gif", "'gif' begins with b'GIF89a"), (b"", "jpeg", "begins with b''"),
    (b"\x00\x00\x00\x01\x67" + bytes(50), "h264", "'h264'"),
    (file_of(smooth()[..., 0], "JPEG"), "16UC1; jpeg compressed mono8", "holds uint8"),
    (file_of(smooth()[..., 0], "PNG"), "32FC1; png compressed", "32FC1"),
    (file_of(sparse_depth(), "PNG"), "32FC1; png compressed", "uint16"),
    (file_of(smooth()[..., 0], "PNG"), "bayer_rgbw8; png compressed ", "'bayer_rgbw8' is not supported"),
])
def test_what_is_no_picture_of_its_format_is_refused(data, name, named):
    with pytest.raises(MessageError, match=named):
        decode_image(compressed(data, name))


FILES = [file_of(smooth(12, 14), "JPEG"), file_of(smooth(12, 14), "PNG"), file_of(sparse_depth(), "PNG"),
         compressed_depth(sparse_depth(), "16UC1", "compressedDepth rvl").data.tobytes(),
         compressed_depth(sparse_depth(), "32FC1", "compressedDepth png", 10.0, 1.0).data.tobytes()]
NAMES = ["jpeg", "png", "rgb8; jpeg compressed bgr8", "bayer_rggb16; png compressed ", "16UC1; png compressed ",
         "16UC1; compressedDepth rvl", "32FC1; compressedDepth rvl", "32FC1; compressedDepth png", "16UC1", ";;", "äö"]


CHANGES = st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), max_size=3)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILES), st.sampled_from(NAMES), CHANGES, st.integers(0, 10_000))
def test_any_file_is_refused_or_a_picture(data, name, changes, length):
    data = bytearray(data)
    for at, part in changes:
        at %= len(data)
        data[at:at + len(part)] = part
    try:
        decoded = decode_image(compressed(bytes(data[:length]), name))
    except MessageError:
        return
    assert decoded.ndim in (2, 3) and decoded.size and decoded.dtype in (np.uint8, np.uint16, np.float32)
