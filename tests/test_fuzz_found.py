"""Inputs that fuzzing, or reading the decoders beside it, found to break something, and what they do now."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fuzz import files
from fuzz.messages import START, TYPES, compressed
from mss_models.runtime.onnx import OnnxRuntime
from mss_models.runtime.torch import OptionError
from mss_perception import calibration
from mss_perception.calibration import CalibrationError
from mss_perception.messages import MessageError, decode_image, encode_transforms
from mss_perception.transforms import MAX_FRAMES, Transforms


@pytest.mark.parametrize(("change", "message"), [
    ((b'"recipe"', b'"\xffecipe"'), "'utf-8' codec can't decode"),
    ((b"\x06logits", b"\x06lo\xffits"), "not UTF-8"),
    ((b"\x06images", b"\x06imagez"), "has nothing .* as 'images'"),
    ((b"\x07present", b"\x07presenT"), "has nothing .* as 'present'"),
    ((b"\x06labels", b"\x06LABELS"), "has nothing .* as 'labels'"),
])
def test_a_graph_of_another_interface_is_refused_when_it_is_opened(change, message):
    pytest.importorskip("onnx", reason="the graph is written with it")
    assert OnnxRuntime(files.graph(), device="cpu", threads=1).modalities == ("rgb", "lidar")
    with pytest.raises(OptionError, match=message):
        OnnxRuntime(files.graph().replace(*change), device="cpu", threads=1)


@pytest.mark.parametrize("marker", [0xD0, 0xD7, 0xD8, 0xD9])
def test_no_picture_hides_behind_a_marker_without_a_length(marker):
    """libjpeg reads on right behind the marker; who takes two bytes for a length sees only the small picture."""
    small, large = (cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8), (cv2.IMWRITE_JPEG_QUALITY, 5))[1]
                    .tobytes() for height, width in ((16, 24), (1200, 1600)))
    body = large[2:-2]
    hidden = small[:2] + bytes([0xFF, marker]) + (2 + len(body)).to_bytes(2, "big") + body + small[2:]
    for size in ((16, 24), (1200, 1600), None):
        with pytest.raises(MessageError):
            decode_image(compressed(hidden, "jpeg"), size)
    assert decode_image(compressed(small, "jpeg"), (16, 24)).shape == (16, 24, 3)


def test_frames_of_ever_new_names_do_not_fill_the_memory():
    known = Transforms()
    for k in range(MAX_FRAMES):
        known.add_message(encode_transforms(TYPES, [("base_link", f"frame{k}", np.eye(4))], START), static=k % 2 > 0)
    for static in (False, True):
        with pytest.raises(MessageError, match="'another' is one too many: at most 4096"):
            known.add_message(encode_transforms(TYPES, [("base_link", "another", np.eye(4))], START), static)
        known.add_message(encode_transforms(TYPES, [("base_link", "frame7", np.eye(4))], START), static)


def test_a_long_chain_of_frames_is_followed_once():
    """The longest that a file may hold took minutes; one ten times as long does not end unless each frame is passed
    once."""
    chain = [(f"f{k}", f"f{k + 1}") for k in range(30_000)]
    calibration._check_tree(chain, "calibration")
    with pytest.raises(CalibrationError, match=r"frame 'f1' is above itself: f1 in f29999 in .* in f2 in f1$"):
        calibration._check_tree([("f29999", "f1"), *chain[1:]], "calibration")
    known = Transforms()
    for k in range(MAX_FRAMES):
        known.add_static(f"f{k}", f"f{k + 1}", np.eye(4))
    assert np.array_equal(known.lookup("f0", f"f{MAX_FRAMES}"), np.eye(4))
