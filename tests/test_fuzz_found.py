"""Every input that `python -m fuzz` found to break something, and what it does now."""

from __future__ import annotations

import pytest

from fuzz import files
from mss_models.runtime.onnx import OnnxRuntime
from mss_models.runtime.torch import OptionError


@pytest.mark.parametrize(("change", "message"), [
    ((b'"recipe"', b'"\xffecipe"'), "'utf-8' codec can't decode"),
    ((b"\x06images", b"\x06imagez"), "has nothing .* as 'images'"),
    ((b"\x07present", b"\x07presenT"), "has nothing .* as 'present'"),
    ((b"\x06labels", b"\x06LABELS"), "has nothing .* as 'labels'"),
])
def test_a_graph_of_another_interface_is_refused_when_it_is_opened(change, message):
    pytest.importorskip("onnx", reason="the graph is written with it")
    assert OnnxRuntime(files.graph(), device="cpu", threads=1).modalities == ("rgb", "lidar")
    with pytest.raises(OptionError, match=message):
        OnnxRuntime(files.graph().replace(*change), device="cpu", threads=1)
