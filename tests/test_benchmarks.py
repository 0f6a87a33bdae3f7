"""The benchmarks compare like with like."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks.rows import ROWS


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
