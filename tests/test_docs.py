"""What the documents tell a user to write must work."""

from __future__ import annotations

import re
import textwrap

import numpy as np
from conftest import ROOT

from mss_perception import calibration


def indented_block(text: str, start: str) -> str:
    """The indented block that begins with a line starting with `start`."""
    match = re.search(rf"^    {re.escape(start)}.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return textwrap.dedent(match[0])


def test_the_calibration_example_loads(tmp_path):
    path = tmp_path / "calibration.yaml"
    path.write_text(indented_block((ROOT / "docs/install.md").read_text(), "cameras:"))
    known = calibration.load(path)
    assert known.cameras["rgb"].width == 1280
    for _, _, T in known.extrinsics:
        np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-9)


def test_pictures_of_the_front_page_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text())
    assert pictures
    assert all((ROOT / name).is_file() for name in pictures)
