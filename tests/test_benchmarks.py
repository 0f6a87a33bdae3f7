"""The benchmarks compare like with like."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import gpu, public, systems
from benchmarks.rows import ROWS
from mss_models.systems import SYSTEMS


def test_both_sides_of_the_image_row_give_the_same_picture():
    row = ROWS["image"]()
    ours, peer = row.ours(), row.peer()
    assert ours.shape == peer.shape == (576, 1024, 3) and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - peer).max() <= 1


def test_both_sides_of_the_event_row_count_the_same():
    row = ROWS["events"]()
    counts, image = row.peer(), row.ours()
    assert counts.sum() == 1_000_000
    assert np.array_equal(image[..., :2], np.minimum(40 * counts, 255))


def test_both_sides_of_the_read_out_row_agree():
    row = ROWS["readout"]()
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
    rows = systems.rows(None, size=32)
    assert {f"one_{name}" for name in SYSTEMS} < set(rows)
    row = rows["one_segformer_mean"]()
    (one, four), (again, _) = (row.ours(), row.peer()), (row.ours(), row.peer())
    assert one.shape == four.shape == (1, 25, 32, 32) and torch.equal(one, again) and not torch.equal(one, four)
    assert row.target == 0.45 and rows["one_stitchfusion"]().target is None
    row = rows["one_encoder"]()
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
    with pytest.raises(public.Skipped, match=message):
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
