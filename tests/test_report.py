"""report.py, charts.py, draw.py: the page is whole, self-contained and small; pictures show what they should."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from mss_models.labels import DELIVER
from mss_perception import charts, draw, scoring
from mss_perception.faults import parse_fault
from mss_perception.report import Picture, Report, page

START = 1_000_000_000_000
NAMES = ("rgb", "depth", "event", "lidar")


def record(i: int, states: dict[str, str] | None = None, confusion=None, dropped=None) -> dict:
    states = {**dict.fromkeys(NAMES, "OK"), **(states or {})}
    return {"t_ref": START + i * 100_000_000, "epoch": 0, "dropped": dropped,
            "mask": {name: state == "OK" for name, state in states.items()},
            "inputs": {name: {"state": state} for name, state in states.items()},
            "latency_ms": {"wait": 10.0, "preprocess": 2.0, "inference": 20.0 + i % 3, "postprocess": 1.0},
            **({"confusion": confusion} if confusion else {})}


def report(records: list[dict], **more) -> Report:
    metrics = scoring.build_metrics(records, ticks=len(records), dropped={}, messages={"/image": {
        "sent": 10, "received": 9}}, expected=None, label_set=DELIVER)
    return Report("A run", metrics, records, DELIVER, START, **more)


class Balanced(HTMLParser):
    """Collects tags and text, and checks that every opened element is closed in order."""

    VOID = {"meta", "img", "br", "link", "input"}

    def __init__(self, html: str):
        super().__init__()
        self.open, self.text, self.sources = [], "", []
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"{tag} closed out of order"

    def handle_data(self, data):
        self.text += data


def test_page_is_well_formed_self_contained_and_tells_the_figures():
    records = [record(i, {"lidar": "STALE"} if 5 < i < 10 else None, [[6, 6, 90], [6, 12, 10]]) for i in range(20)]
    png = draw.png(np.full((8, 8, 3), 128, np.uint8))
    picture = Picture(START, "no fault", [("rgb", "OK", png), ("depth", "x", None)])
    html = page(report(records, faults=[parse_fault("lidar:drop@0.5-1"), parse_fault("rgb:freeze@1-")],
                       deadline_sec=0.1, pictures=[picture],
                       about={"Bag": "<street> & co"}, card={"recipe": "demo", "scores": {"rgb": 0.5}}))
    parsed = Balanced(html)
    assert parsed.sources and all(source.startswith("data:image/png;base64,") for source in parsed.sources)
    assert "<script" not in html and "http" not in html and "@import" not in html and "url(" not in \
        html.replace("url(#hatch)", "")
    for text in ("A run", "<street> & co", "drop", "freeze", "STALE", "not there", "/image", "recipe", "90.0"):
        assert text in parsed.text, text
    for svg in re.findall(r"<svg.*?</svg>", html):
        ElementTree.fromstring(svg)


@pytest.mark.parametrize("records", [[], [record(0)], [record(i, dropped="error") for i in range(3)]],
                         ids=["nothing", "one frame", "all dropped"])
def test_page_of_a_poor_run_is_still_a_page(records):
    Balanced(page(report(records)))


def test_page_of_an_hour_stays_small():
    records = [record(i, {"rgb": "MISSING"} if i % 600 < 100 else None, [[6, 6, 9]]) for i in range(36_000)]
    assert len(page(report(records))) < 1_500_000


def test_time_goes_on_after_a_loop_of_the_bag():
    html = page(report([record(i) for i in range(10)] + [record(i) for i in range(10)]))
    last = max(float(t) for t in re.findall(r">(\d+\.\d+) s: inference", html))
    assert last == pytest.approx(1.9)


def test_timeline_bars_are_where_the_states_are():
    rows = {"lidar": [(t / 10, "OK" if t < 50 else "STALE", False) for t in range(100)]}
    svg = ElementTree.fromstring(charts.timeline(rows, {"lidar": [("drop", 5.0, 10.0)]}, 10.0, 0.1))
    bars = {one.get("class"): (float(one.get("x")), float(one.get("width"))) for one in svg.iter("rect")
            if (one.get("class") or "").startswith(("state", "fault"))}
    half = charts.LEFT + charts.PLOT / 2
    assert bars["state OK"] == (charts.LEFT, charts.PLOT / 2)
    assert bars["state STALE"] == bars["fault"] == (half, charts.PLOT / 2)


def test_overlapping_faults_do_not_cover_each_other():
    spans = [("a", 0, 5), ("b", 3, 8), ("c", 5, 6), ("d", 4, 9), ("e", 8, 9)]
    levels = charts._stack(spans)
    assert levels == {0: 0, 1: 1, 2: 0, 3: 2, 4: 0}


@pytest.mark.parametrize("span, step", [(10, 1), (9.9, 1), (11, 2), (60, 10), (0.35, 0.05), (3600, 500)])
def test_axis_steps_are_round_numbers(span, step):
    assert charts.nice_step(span) == pytest.approx(step)


# ---------------------------------------------------------------------------------------------------------- pictures

def test_overlay_mixes_colours_and_keeps_ignored_pixels():
    image, labels = np.full((4, 6, 3), 100, np.uint8), np.full((4, 6), 255, np.uint8)
    labels[1, 2] = 9
    mixed = draw.overlay(image, labels, DELIVER)
    assert np.abs(mixed[1, 2].astype(int) - (45 + 0.55 * np.array(DELIVER.palette[9]))).max() <= 1
    assert (mixed[0] == 100).all()
    assert draw.overlay(np.zeros((2, 3, 3), np.uint8), labels, DELIVER).shape == (4, 6, 3)


def test_pictures_tell_near_from_far_and_on_from_off():
    image = np.zeros((1, 3, 3), np.uint8)
    image[0, :2, 0] = 20, 240
    near, far, nothing = draw.picture("depth", image)[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0] and len(set(nothing)) == 1
    events = np.zeros((1, 3, 3), np.uint8)
    events[0, 0, 0] = events[0, 1, 1] = 40
    on, off, quiet = draw.picture("event", events)[0].astype(int)
    assert on[0] > on[2] + 50 and off[2] > off[0] + 50 and quiet.max() < 40
    assert draw.picture("rgb", image) is image


def test_errors_are_red_and_pixels_without_truth_black():
    labels, truth = np.array([[6, 6, 6]], np.uint8), np.array([[6, 9, 255]], np.uint8)
    right, wrong, unknown = draw.errors(np.full((1, 3, 3), 90, np.uint8), labels, truth, DELIVER)[0]
    assert right.tolist() == [30] * 3 and wrong[0] > 200 and unknown.tolist() == [0] * 3


def test_points_over_draws_the_nearer_one_on_top_and_leaves_the_image():
    image = np.zeros((20, 20, 3), np.uint8)
    uv = np.array([[10.0, 10.0], [10.0, 10.0], [400.0, 3.0]])
    drawn = draw.points_over(image, uv, np.array([2.0, 60.0, 5.0]))
    assert drawn[10, 10, 0] > drawn[10, 10, 2] and not image.any()      # near is warm


def test_png_reads_back_in_the_same_colours_and_shrinks_in_proportion():
    image = np.zeros((60, 90, 3), np.uint8)
    image[..., 0] = 200
    content = np.frombuffer(draw.png(image, max_width=30), np.uint8)
    again = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert again.shape == (20, 30, 3) and again[5, 5].tolist() == [0, 0, 200]


def test_sheet_holds_every_panel(tmp_path):
    red, green = (draw.png(np.full((10, 20, 3), colour, np.uint8)) for colour in ((255, 0, 0), (0, 255, 0)))
    panels = [("a", red), ("b", None), ("c", green), ("d", green), ("e", red)]
    draw.write_sheet(tmp_path / "sheet.png", panels)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 34, 4 * 24 - 4, 3)
    assert sheet[30, 10].tolist() == sheet[64, 10].tolist() == [0, 0, 255]
    assert sheet[30, 58].tolist() == sheet[30, 82].tolist() == [0, 255, 0]
    assert math.isclose(sheet[30, 34].std(), 0)
    with pytest.raises(OSError, match=r"nowhere/sheet\.png"):
        draw.write_sheet(tmp_path / "nowhere" / "sheet.png", panels)
