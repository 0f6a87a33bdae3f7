"""A tree in tar files and back, by another tar."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from training.datasets.deliver import SUFFIXES
from training.synthetic import shards


@pytest.fixture
def tree(tmp_path):
    root, rng = tmp_path / "mini", np.random.default_rng(0)
    for split, case in (("train", ""), ("val", "_motionblur")):
        for frame in range(5):
            for kind, end in SUFFIXES.items():
                path = root / kind / "fog" / split / f"MAP_1_point0{case}" / f"{frame:06d}_{end}_front.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(rng.bytes(int(rng.integers(20_000, 60_000))))
    (root / "recording.json").write_text("{}")
    return root


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_tree_comes_back_from_files_that_keep_to_the_limit(tree, tmp_path):
    assert shards.main([str(tree), str(tmp_path / "out"), "--mib", "1"]) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) > 2
    assert max(path.stat().st_size for path in files) <= 1 << 20
    assert files[0].name == f"mini-001-of-{len(files):03d}.tar"
    back = tmp_path / "back"
    back.mkdir()
    stream = b"".join(path.read_bytes() for path in files)
    subprocess.run(["tar", "--extract", "--ignore-zeros", "--directory", str(back)], input=stream, check=True)
    assert contents(back) == contents(tree)
    shards.pack(tree, tmp_path / "again", 1 << 20)
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_what_cannot_be_packed_is_named_and_leaves_nothing(tree, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert shards.main([str(tree), str(tmp_path / "there")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert shards.main([str(tmp_path / "there"), str(tmp_path / "out")]) == 2
    assert "holds no recorded frame" in capsys.readouterr().err
    with pytest.raises(shards.DatasetError, match="000000_rgb_front.png: this frame takes"):
        shards.pack(tree, tmp_path / "out", 100_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mini", "there"]
