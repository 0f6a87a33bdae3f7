"""The benchmarks compare like with like."""

from __future__ import annotations

import json
import re
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import collector, gpu, public, rows, sensors, systems, training
from mss_models.systems import SYSTEMS


@pytest.mark.parametrize("name", command.known_rows(None, tiny=True))
def test_every_row_runs(name):
    try:
        found = command.results(command.known_rows(None, tiny=True)[name], 1)
    except rows.Skipped as reason:
        pytest.skip(str(reason))
    assert found
    for one in found:
        as_json = one.as_json()
        assert as_json.keys() >= {"name", "ours", "peer", "ratio", "target", "met"} and json.dumps(as_json)
        assert np.isfinite(one.ours) and one.ours >= 0 and one.name in command.line(one)
        assert (one.peer is None) == (one.ratio is None)
        assert (one.met is None) == (one.target is None or (one.target_of == "ratio" and one.peer is None))


@pytest.mark.parametrize(("rate", "target_of", "ours", "target", "met"), [
    (False, "ratio", 4.0, 0.5, True), (False, "ratio", 6.0, 0.5, False), (False, "ours", 6.0, 7.0, True),
    (False, "ours", 8.0, 7.0, False), (True, "ours", 8.0, 7.0, True), (True, "ours", 6.0, 7.0, False),
    (False, "ratio", 4.0, None, None)])
def test_a_target_is_of_the_ratio_or_of_our_own_figure(rate, target_of, ours, target, met):
    one = rows.Result("row", ours, "ms", 10.0, "peer", target, target_of, rate)
    assert one.ratio == ours / 10 and one.met is met and one.as_json()["met"] is met


def test_a_row_is_measured_in_its_unit():
    row = rows.Row("row", "peer", lambda: time.sleep(0.02), None, 100, 1, "M/s", amount=2.0, rate=True, absolute=True)
    one = rows.measure(row)
    assert 0 < one.ours <= 2.0 / 0.02 and one.peer is None and one.target_of == "ours" and one.met is False


def test_both_lidars_draw_the_same_points():
    row = sensors.lidar_muses(4_000, 128)
    ours, peer = row.ours(), row.peer()
    assert ours.shape == peer.shape == (128, 128, 3)
    drawn, theirs = ours.any(-1), peer[..., 0] > 0
    # Ours are larger, and bent by the lens by up to a few pixels; theirs, behind the camera, are also in front of it.
    assert drawn.sum() > theirs.sum() / 2 > 300 and (theirs & drawn).sum() > 0.6 * drawn.sum() / 9 * 4


def test_both_sides_of_the_image_row_give_the_same_picture():
    row = sensors.camera_image((1080, 1920))
    ours, peer = row.ours(), row.peer()
    assert ours.shape == peer.shape == (576, 1024, 3) and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - peer).max() <= 1


def test_both_sides_of_the_event_row_count_the_same():
    row = sensors.events_bincount(100_000)
    counts, image = row.peer(), row.ours()
    assert counts.sum() == 100_000
    assert np.array_equal(image[..., :2], np.minimum(40 * counts, 255))


def test_the_evt3_words_are_as_many_events_as_they_should_be():
    events = sensors.evt3_decoding(5_000).ours()
    assert len(events) == 5_000 and events.skipped == events.reserved == 0
    assert events.x.max() < 640 and events.y.max() < 480 and np.all(np.diff(events.t) >= 0)


def test_nothing_is_copied_on_the_way_to_the_lanes():
    for one in sensors.copies((240, 320), 50_000):
        assert one.met is True, one


def test_the_collector_row_makes_a_set_of_every_camera_image():
    messages = collector.arrivals(2)
    assert len(messages) == 120
    assert len(collector.collect(messages, 30.0)) == 60 and len(collector.collect(messages, 10.0)) == 20


def test_both_sides_of_the_training_row_make_the_same_of_a_frame(tmp_path):
    """Without augmentation: neither flips, blurs nor changes colours, and nothing is resized."""
    training.write_frames(tmp_path, 64)
    frame = training.Deliver(tmp_path, "train").frames[0]
    tensors = training.published_sample(frame.images, frame.labels, 64, Still())
    row = training.training_input(64, 64)
    ours = row.ours()
    assert {name: one.shape for name, one in ours.items()} == dict.fromkeys(training.DELIVER_MODALITIES, (4, 3, 64, 64))
    assert [one.shape for one in tensors] == [(3, 64, 64)] * 4 + [(64, 64)]
    assert torch.all(tensors[4] == 0) and tensors[4].dtype == torch.int64
    expected = torch.from_numpy(training.read_png(frame.images["depth"]).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(tensors[1], expected)


class Still:
    """A generator that draws no augmentation, and a scale of 1."""

    def random(self) -> float:
        return 1.0

    def uniform(self, low: float, high: float) -> float:
        return 1.0

    def integers(self, low: int, high: int) -> int:
        return low


def test_both_sides_of_the_read_out_row_agree():
    row = systems.reading_out()
    (labels, confidence), (others, other_confidence) = row.ours(), row.peer()
    assert labels.shape == others.shape == (1, 1080, 1920) and (labels == others).float().mean() > 0.9999
    assert (confidence.int() - other_confidence.int()).abs().max() <= 1


def test_rows_are_chosen_by_name_and_written_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "image", "--runs", "1", "--json", str(tmp_path / "rows.json")])
    command.main()
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["name"].startswith("image") and row["ours"] > 0 and row["peer_name"] in capsys.readouterr().out
    for wrong, message in ((["guess"], "no row 'guess'; rows: lidar"), (["--runs", "0"], "--runs.*at least 1")):
        monkeypatch.setattr("sys.argv", ["benchmarks", *wrong])
        with pytest.raises(SystemExit) as stop:
            command.main()
        assert stop.value.code == 2
        assert re.search(message, capsys.readouterr().err)


def test_every_system_has_a_row_and_those_that_leave_absent_modalities_out_a_target():
    found = systems.rows(None, tiny=True)
    assert {f"one_{name}" for name in SYSTEMS} < set(found)
    row = found["one_segformer_mean"]()
    (one, four), (again, _) = (row.ours(), row.peer()), (row.ours(), row.peer())
    assert one.shape == four.shape == (1, 25, 32, 32) and torch.equal(one, again) and not torch.equal(one, four)
    assert row.target == 0.45 and found["one_stitchfusion"]().target is None
    row = found["one_encoder"]()
    assert row.target == 0.3
    for one, four in zip(row.ours(), row.peer(), strict=True):
        torch.testing.assert_close(one, four[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("content", "message"), [
    (None, "there is no semseg/models/cmnext.py; a clone of https://github.com/jamycheung/DELIVER is needed"),
    ("from mmcv.cnn import ConvModule\nimport nothing_of_this_name", "cannot be imported: .*nothing_of_this_name"),
])
def test_what_is_no_clone_of_the_public_code_is_named(tmp_path, content, message):
    if content:
        (tmp_path / "semseg" / "models").mkdir(parents=True)
        (tmp_path / "semseg" / "models" / "cmnext.py").write_text(content)
    finders = list(sys.meta_path)
    with pytest.raises(rows.Skipped, match=message):
        public.cmnext(tmp_path)
    assert sys.meta_path == finders and not any(isinstance(one, public.StandIn) for one in sys.modules.values())


def test_what_cannot_be_measured_is_skipped_and_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "cmnext_public", "--json", str(tmp_path / "rows.json")])
    command.main()
    assert "cmnext_public" in (printed := capsys.readouterr().out) and "skipped: needs --deliver PATH" in printed
    assert json.loads((tmp_path / "rows.json").read_text()) == []


def test_the_gpu_script_runs_on_a_cpu_too(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu", "--size", "32", "--backbone", "B0", "--runs", "1",
                                     "--backends", "torch", "torch-graphs", "--json", str(file)])
    gpu.main()
    printed = capsys.readouterr().out
    assert "charm, torch-graphs: skipped: backend 'torch-graphs' needs a CUDA device" in printed
    rows = json.loads(file.read_text())
    assert [row["name"] for row in rows] == [f"{name}, torch" for name in gpu.SYSTEMS]
    assert all(row["hz"] > 0 and 0 < row["share_of_peak"] < 2 for row in rows)
    monkeypatch.setattr("sys.argv", ["gpu", "--runs", "0"])
    with pytest.raises(SystemExit):
        gpu.main()
