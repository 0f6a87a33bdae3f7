"""sensor_msgs/CompressedImage -> what a raw Image would hold: JPEG, PNG, and the depth of compressedDepth.

`format` is read as image_transport's plugins write it (ros-perception/image_transport_plugins): "ENCODING; CODEC
compressed TARGET", e.g. "rgb8; jpeg compressed bgr8" or "16UC1; png compressed "; "ENCODING; compressedDepth png" or
"... rvl"; and "jpeg" or "png" alone, as cameras' drivers write. Which codec it really is, the data's first bytes say.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np

from mss_perception.camera import MAX_PIXELS
from mss_perception.messages import jpeg
from mss_perception.messages.common import MessageError, raw_bytes
from mss_perception.messages.rvl import decode_rvl

PNG = b"\x89PNG\r\n\x1a\n"       # how a file begins
DEPTH_ENCODINGS = ("16UC1", "32FC1")
DEPTH_HEADER = struct.Struct("<iff")    # compressedDepth's: kind of quantisation, its parameters A and B


def check_size(height: int, width: int, size: tuple[int, int] | None) -> None:
    """Raise MessageError unless height x width is `size` (if one is given) and not empty."""
    if height <= 0 or width <= 0:
        raise MessageError(f"image of {width} x {height} pixels is empty")
    if size is not None and (height, width) != tuple(size):
        raise MessageError(f"image is {width} x {height}, camera_info says {size[1]} x {size[0]}")


def decompress(msg, size: tuple[int, int] | None, is_depth: bool = False) -> tuple[np.ndarray, str]:
    """Pixels of a sensor_msgs/CompressedImage, and the encoding of sensor_msgs/Image that they now have.

    (H, W, C) or (H, W): bgr8, rgb8, bgra8, rgba8, mono8, a Bayer mosaic of 8 bits, 16UC1 or 32FC1. Of 16 bit colours,
    grey and mosaics the upper 8 bits are kept; 16 bit grey that no encoding is named of is 16UC1. EXIF's orientation
    is ignored, as camera_info knows nothing of it. size: the (height, width) that it must have, checked before anything
    is decoded: a small file may hold a huge picture. is_depth: mono16 is 16UC1. Raises MessageError.
    """
    encoding, codec, data = _parts(msg)
    if is_depth and encoding == "mono16":
        encoding = "16UC1"
    if "compressedDepth" in codec:
        return _compressed_depth(data, encoding, codec.replace("compressedDepth", "").strip(), size), encoding
    image = _decode_file(data, msg.format, size)
    if image.ndim == 3:
        # A file says which channel is red, except that "compressed rgb" means that it was written as blue.
        swapped = "compressed rgb" in codec
        return _upper_byte(image), ("rgb" if swapped else "bgr") + ("a8" if image.shape[2] == 4 else "8")
    is_mosaic, is_16bit = encoding.startswith("bayer_"), image.dtype == np.uint16
    if encoding in DEPTH_ENCODINGS or is_16bit and not is_mosaic and encoding != "mono16":
        if not is_16bit or encoding == "32FC1":
            raise MessageError(f"depth as {msg.format!r} holds {image.dtype}; 16UC1 can be PNG of 16 bits, both can be "
                               "compressedDepth")
        return image, "16UC1"
    # image_transport makes JPEG of the grey picture, not of the mosaic.
    return _upper_byte(image), encoding.replace("16", "8") if is_mosaic and "mono8" not in codec else "mono8"


def recompress(msg, pixels: np.ndarray) -> tuple[str, bytes]:
    """`format` and `data` of a CompressedImage like msg, but with these pixels, which are as `decompress` gives them.

    In the same codec, but PNG in place of RVL; JPEG is lossy, of course.
    """
    encoding, codec, data = _parts(msg)
    if "compressedDepth" not in codec:
        return msg.format, cv2.imencode(".jpg" if _codec(data) == "JPEG" else ".png", pixels)[1].tobytes()
    if encoding == "32FC1":
        _, a, b = DEPTH_HEADER.unpack_from(data)
        measured = pixels > 0       # False for NaN
        codes = np.rint(np.float32(a) / np.where(measured, pixels, 1) + np.float32(b))
        pixels = np.where(measured, np.clip(codes, 1, 65535), 0).astype(np.uint16)
    return (f"{encoding}; compressedDepth png",
            data[:DEPTH_HEADER.size].tobytes() + cv2.imencode(".png", pixels)[1].tobytes())


def _parts(msg) -> tuple[str, str, np.ndarray]:
    """Encoding, codec and data of a CompressedImage."""
    encoding, _, codec = (part.strip() for part in msg.format.partition(";"))
    data = raw_bytes(msg.data)
    # The first releases of compressedDepth wrote nothing but the encoding.
    is_first = encoding in DEPTH_ENCODINGS and not codec and _codec(data) is None
    return encoding, "compressedDepth" if is_first else codec, data


def _upper_byte(image: np.ndarray) -> np.ndarray:
    return (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image


def _compressed_depth(data: np.ndarray, encoding: str, codec: str, size: tuple[int, int] | None) -> np.ndarray:
    """(H, W) uint16 of 16UC1 or float32 of 32FC1, from what compressed_depth_image_transport (codec.cpp) writes.

    After a header of 12 bytes a PNG of 16 bits, or width and height as uint32 and then RVL. 16UC1 is stored as it is;
    32FC1 as A / depth + B, with A and B in the header and 0 for no measurement, which comes back as NaN.
    """
    if encoding not in DEPTH_ENCODINGS:
        raise MessageError(f"compressedDepth of encoding {encoding!r} is not supported; it must be 16UC1 or 32FC1")
    if len(data) < DEPTH_HEADER.size + 8:
        raise MessageError(f"compressedDepth has {len(data)} bytes; its header alone has {DEPTH_HEADER.size + 8}")
    _, a, b = DEPTH_HEADER.unpack_from(data)
    data = data[DEPTH_HEADER.size:]
    if codec in ("", "png"):
        stored = _decode_file(data, "compressedDepth png", size)
        if stored.dtype != np.uint16 or stored.ndim != 2:
            raise MessageError(f"compressedDepth holds {stored.dtype} of {stored.ndim} dimensions; it must be 16 bit "
                               "grey")
    elif codec == "rvl":
        width, height = struct.unpack_from("<II", data)
        _check_header(height, width, size)
        stored = decode_rvl(data[8:], height, width)
    else:
        raise MessageError(f"compressedDepth codec {codec!r} is not supported; supported: png, rvl")
    if encoding == "16UC1":
        return stored
    if not (np.isfinite(a) and np.isfinite(b) and a > 0):
        raise MessageError(f"compressedDepth header has quantisation A = {a}, B = {b}; A must be positive, both finite")
    with np.errstate(divide="ignore"):
        depth = np.float32(a) / (stored - np.float32(b))
    depth[stored == 0] = np.nan
    return depth


def _decode_file(data: np.ndarray, name: str, size: tuple[int, int] | None) -> np.ndarray:
    """(H, W) or (H, W, C) uint8 or uint16 of a JPEG or PNG file, colours as BGR."""
    codec = _codec(data)
    if codec is None:
        raise MessageError(f"compressed image of format {name!r} begins with {bytes(data[:8])!r}; only JPEG and PNG "
                           "can be decoded")
    if codec == "JPEG":
        file = data.tobytes()
        frame, scans = jpeg.read_frame(file)
        announced = frame.height, frame.width
        _check_header(*announced, size)
        jpeg.check_data(file, frame, scans)
        data = np.frombuffer(file + jpeg.END_OF_IMAGE, np.uint8)    # some cameras leave it out
    else:
        announced = _png_size(data)
        _check_header(*announced, size)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise MessageError(f"{codec} image cannot be decoded: {error.err}") from error
    if image is None:
        raise MessageError(f"{codec} image of {len(data)} bytes cannot be decoded; it is damaged or cut off")
    if image.shape[:2] != announced:
        raise MessageError(f"{codec} image announces {announced[1]} x {announced[0]} and holds {image.shape[1]} x "
                           f"{image.shape[0]}; it is damaged")
    return image


def _codec(data: np.ndarray) -> str | None:
    start = bytes(data[:8])
    return "PNG" if start == PNG else "JPEG" if start.startswith(jpeg.START) else None


def _check_header(height: int, width: int, size: tuple[int, int] | None) -> None:
    check_size(height, width, size)
    if height * width > MAX_PIXELS:
        raise MessageError(f"compressed image announces {width} x {height}; at most {MAX_PIXELS} pixels are decoded")


def _png_size(data: np.ndarray) -> tuple[int, int]:
    """(height, width) of the IHDR chunk, which is the first (PNG specification, 11.2.2).

    Raises MessageError for a file whose chunks do not follow one another up to the last: OpenCV 5 reserves what the
    length of a chunk says, up to 4 GB, before it reads the chunk.
    """
    file, at, kind = data.tobytes(), len(PNG), b""
    while kind != b"IEND":
        if at + 12 > len(file):
            raise MessageError(f"PNG image of {len(file)} bytes is cut off")
        length, kind = struct.unpack_from(">I4s", file, at)
        if at == len(PNG) and (kind != b"IHDR" or length != 13):
            raise MessageError("PNG image has no header")
        at += 12 + length       # length, kind, content, checksum
    if at > len(file):
        raise MessageError(f"PNG image of {len(file)} bytes is cut off")
    width, height = struct.unpack_from(">II", file, 16)
    return height, width
