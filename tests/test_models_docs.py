"""docs/systems.md names every system, and only code that exists."""

from __future__ import annotations

import ast
import re

from conftest import ROOT

from mss_models.systems import SYSTEMS

TEXT = (ROOT / "docs/systems.md").read_text()


def test_every_system_has_a_section():
    files = re.findall(r"^## .*\(`systems/(\w+)\.py`\)$", TEXT, re.MULTILINE)
    assert files == list(SYSTEMS)


def test_every_place_in_the_code_exists():
    places = re.findall(r"`([\w/]+\.py):([\w.]+)`", TEXT)
    assert len(places) > 10
    for file, name in places:
        body = ast.parse((ROOT / "mss_models" / file).read_text()).body
        for part in name.split("."):
            (node,) = [one for one in body if getattr(one, "name", None) == part]
            body = node.body
