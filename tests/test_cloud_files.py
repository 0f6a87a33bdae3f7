"""Labelled points to PCD and PLY and back, through a reader of our own that knows the formats only, and Open3D's."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from mss_models.labels import LABEL_SETS
from mss_perception import cloud_files
from mss_perception.cloud_files import write_points

LABELS = LABEL_SETS["deliver"]


def points_of(count, seed=0):
    rng = np.random.default_rng(seed)
    xyz = rng.normal(scale=30, size=(3, count)).astype(np.float32)
    return {"x": xyz[0], "y": xyz[1], "z": xyz[2], "label": rng.integers(0, 25, count).astype(np.uint8),
            "confidence": rng.integers(0, 256, count).astype(np.uint8)}


def read(path):
    """Rows of a binary PCD or PLY as dicts, value by value, from the format's text alone."""
    header, found, body = path.read_bytes().partition(b"DATA binary\n" if path.suffix == ".pcd" else b"end_header\n")
    assert found
    lines = [line.split() for line in header.decode("ascii").splitlines()]
    if path.suffix == ".pcd":
        entries = {line[0]: line[1:] for line in lines if line[0] != "#"}
        assert entries["VERSION"] in (["0.7"], [".7"]) and entries["COUNT"] == ["1"] * len(entries["FIELDS"])
        assert entries["WIDTH"] == entries["POINTS"] and entries["HEIGHT"] == ["1"]
        letters = {"F4": "f", "F8": "d", "U1": "B", "U2": "H", "U4": "I"}
        names, count = entries["FIELDS"], int(entries["POINTS"][0])
        types = dict(zip(names, zip(entries["TYPE"], entries["SIZE"], strict=True), strict=True))
        # 0x00RRGGBB, which PCL calls a float and Open3D an unsigned integer.
        assert types.pop("rgb") in (("F", "4"), ("U", "4"))
        kinds = ["I" if name == "rgb" else letters["".join(types[name])] for name in names]
    else:
        assert lines[0] == ["ply"] and ["format", "binary_little_endian", "1.0"] in lines
        letters = {"float": "f", "double": "d", "uchar": "B"}
        names = [line[2] for line in lines if line[0] == "property"]
        kinds = [letters[line[1]] for line in lines if line[0] == "property"]
        count, = (int(line[2]) for line in lines if line[:2] == ["element", "vertex"])
    step = struct.calcsize("<" + "".join(kinds))
    assert len(body) == step * count
    rows = [dict(zip(names, struct.unpack_from("<" + "".join(kinds), body, step * i), strict=True))
            for i in range(count)]
    for row in rows:
        if "rgb" in row:
            bits = row.pop("rgb")
            row.update(red=bits >> 16, green=bits >> 8 & 255, blue=bits & 255)
    return rows


@pytest.fixture(params=["own", "open3d"])
def writer(request, monkeypatch):
    if request.param == "own":
        monkeypatch.setattr(cloud_files, "open3d", None)
    elif cloud_files.open3d is None:
        pytest.skip("Open3D is not installed")
    return request.param


@pytest.mark.parametrize("suffix", cloud_files.SUFFIXES)
@pytest.mark.parametrize("count", [0, 1, 300])
def test_points_come_back_as_they_were(tmp_path, writer, suffix, count):
    points = points_of(count)
    write_points(tmp_path / f"points{suffix}", points, LABELS)
    rows = read(tmp_path / f"points{suffix}")
    assert len(rows) == count
    for i, row in enumerate(rows):
        red, green, blue = LABELS.palette[points["label"][i]]
        assert row == {"x": points["x"][i], "y": points["y"][i], "z": points["z"][i], "label": points["label"][i],
                       "confidence": points["confidence"][i], "red": red, "green": green, "blue": blue}


@pytest.mark.parametrize("suffix", cloud_files.SUFFIXES)
def test_open3d_reads_what_we_write(tmp_path, monkeypatch, suffix):
    open3d = pytest.importorskip("open3d")
    monkeypatch.setattr(cloud_files, "open3d", None)
    points, path = points_of(50), tmp_path / f"points{suffix}"
    write_points(path, points, LABELS)
    cloud = open3d.t.io.read_point_cloud(str(path))
    assert np.array_equal(cloud.point.positions.numpy(), np.stack([points[name] for name in "xyz"], -1))
    assert np.array_equal(cloud.point.colors.numpy(), LABELS.colorize(points["label"]))
    for name in ("label", "confidence"):
        assert np.array_equal(cloud.point[name].numpy()[:, 0], points[name])


def test_another_kind_of_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"points\.las must end in \.pcd or \.ply"):
        write_points(tmp_path / "points.las", points_of(3), LABELS)
    assert not list(tmp_path.iterdir())
