"""calibration.py: what a file may hold, and that nothing in it is misread."""

from __future__ import annotations

import boxes
import numpy as np
import pytest
import yaml

from mss_perception import calibration
from mss_perception.calibration import Calibration, CalibrationError

CAMERA = {"frame_id": "cam", "width": 640, "height": 480, "K": [500, 0, 319.5, 0, 500, 239.5, 0, 0, 1]}
MOUNTING = {"parent": "base_link", "child": "cam", "translation": [1, 2, 3], "rotation": [0, 0, 0.70710678, 0.70710678]}
QUARTER = [0, -1, 0, 1, 1, 0, 0, 2, 0, 0, 1, 3, 0, 0, 0, 1]


def load(tmp_path, content) -> Calibration:
    """content: text, or what PyYAML writes of it."""
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (tmp_path / "calibration.yaml").write_text(text)
    return calibration.load(tmp_path / "calibration.yaml")


def camera(**changes) -> dict:
    return {"cameras": {"rgb": CAMERA | changes}}


def matrix(*changes) -> dict:
    """changes: (index, value) of the 16 numbers."""
    values = list(QUARTER)
    for at, value in changes:
        values[at] = value
    return {"extrinsics": [{"parent": "base_link", "child": "cam", "matrix": values}]}


def test_what_is_saved_is_what_is_read(tmp_path):
    T = np.eye(4)
    T[:3, 3] = 1, -2, 0.5
    known = Calibration({"rgb": boxes.camera(), "event_left": boxes.camera("event")}, [("base_link", "lidar", T)])
    calibration.save(tmp_path / "saved.yaml", known)
    again = calibration.load(tmp_path / "saved.yaml")
    assert again.cameras == known.cameras
    (parent, child, found), = again.extrinsics
    assert (parent, child) == ("base_link", "lidar") and np.array_equal(found, T)


def test_matrix_and_quaternion_say_the_same(tmp_path):
    (_, _, one), = load(tmp_path, {"extrinsics": [MOUNTING]}).extrinsics
    (_, _, two), = load(tmp_path, matrix()).extrinsics
    np.testing.assert_allclose(one, two, atol=1e-8)
    np.testing.assert_allclose(two @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)      # x looks along y


def test_a_rotation_of_few_digits_becomes_an_exact_one(tmp_path):
    c, s = 0.8660, 0.5001
    (_, _, T), = load(tmp_path, matrix((0, c), (1, -s), (4, s), (5, c))).extrinsics
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1, abs=1e-12)
    assert np.arctan2(T[1, 0], T[0, 0]) == pytest.approx(np.arctan2(s, c), abs=1e-9)
    assert T[:3, 3].tolist() == [1, 2, 3]


def test_frames_may_be_written_as_in_ros_1(tmp_path):
    found = load(tmp_path, {**camera(frame_id="/cam"),
                            "extrinsics": [MOUNTING | {"parent": "/base_link", "child": "/cam"}]})
    assert found.cameras["rgb"].frame_id == "cam" and found.extrinsics[0][:2] == ("base_link", "cam")


@pytest.mark.parametrize(("content", "complaint"), [
    (matrix((0, 0), (1, 1)), r"extrinsics\[0\]: matrix mirrors .* 'cam' are not right-handed"),
    (matrix((10, -1)), "matrix mirrors"),
    (matrix((10, 1.01)), "no rigid transform; its rotation must be orthonormal"),
    (matrix((1, -0.99)), "no rigid transform"),
    (matrix((12, 0.1)), "no rigid transform"),
    (matrix((3, float("inf"))), "matrix = .* must be 16 finite numbers"),
    ({"extrinsics": [MOUNTING | {"rotation": [0, 0, 0, 0]}]}, "must be a unit quaternion"),
    ({"extrinsics": [MOUNTING | {"translation": ["1", "2", "3"]}]}, "translation = .* must be 3 finite numbers"),
    ({"extrinsics": [MOUNTING | {"child": 5}]}, "child = 5 must be the name of a frame"),
    ({"extrinsics": [MOUNTING | {"parent": "/"}]}, "parent = '/' must be the name of a frame"),
    ({"extrinsics": [MOUNTING | {"parent": "/cam"}]}, "frame 'cam' is above itself: cam in cam"),
    ({"extrinsics": [MOUNTING, MOUNTING | {"parent": "cam", "child": "base_link"}]}, "'cam' is above itself: cam in "
                                                                                    "base_link in cam"),
    ({"extrinsics": [MOUNTING, MOUNTING | {"parent": "odom", "child": "/cam"}]}, "frame cam has more than one parent"),
    ({"extrinsics": "none"}, "'extrinsics' a list"),
    ({"camera": {}}, "must be a mapping with 'cameras' and 'extrinsics'; it has camera"),
    (camera(width=640.7), "camera 'rgb': width = 640.7 must be whole pixels"),
    (camera(width=float("inf")), "width = inf must be 1 finite number"),
    (camera(width="640"), "width = '640' must be 1 finite number"),
    (camera(height=True), "height = True must be 1 finite number"),
    (camera(width=10**400), "width = 1000+... must be 1 finite number"),
    (camera(width=-5), "camera size -5 x 480 must be positive"),
    (camera(K=[10**400] * 9), "K = .* must be 9 finite numbers"),
    (camera(K=["500", "0", "0", "0", "500", "0", "0", "0", "1"]), "K = .* must be 9 finite numbers"),
    (camera(frame_id=None), "frame_id = None must be the name of a frame"),
    (camera(distortion_model=["plumb_bob"]), r"distortion_model = \['plumb_bob'\] must be a name"),
    (camera(distortion_model="pinhole"), "distortion model 'pinhole' is unknown; known: none, plumb_bob"),
    (camera(distortion_model="plumb_bob", D="0000"), "D = '0000' must be finite numbers"),
    (camera(distortion_model="plumb_bob", D=["0.1", "0", "0", "0"]), "D = .* must be finite numbers"),
    (camera(D=[0.1, 0, 0, 0, 0]), "D is given without a distortion_model; one of plumb_bob, rational_polynomial"),
    (f"cameras: {{rgb: {{frame_id: a, width: 0x1{'0' * 5000}, height: 1, K: []}}}}", "width = a number of thousands"),
    ({"cameras": {"rgb": {k: v for k, v in CAMERA.items() if k != "K"}}}, "must have K, .* it has frame_id, height"),
    ("cameras: {}\ncameras: {}", "'cameras' is given twice"),
    ("cameras: &a {rgb: *a}", r"aliases \(\*\) can stand for a value or a list of values only.* \(line 1, column 19\)"),
    ("cameras: {rgb: &a {K: 1}, depth: *a}", "aliases"),
    ("cameras: {rgb: {K: &a [1, *a]}}", "aliases"),
    ("cameras: {rgb: {K: &a [1, [2]], D: *a}}", "aliases"),
    ("cameras: {rgb: {K: *a}}", "undefined alias 'a'"),
    (f"cameras: {{rgb: {{D: &a [{'1, ' * 5000}1], K: [{'*a, ' * 5000}*a]}}}}", "more than 131072 values, with what"),
    ("cameras: {rgb: 2001-99-99}", "it has '2001-99-99'"),
])
def test_what_would_be_misread_is_refused_by_its_place(tmp_path, content, complaint):
    with pytest.raises(CalibrationError, match=complaint):
        load(tmp_path, content)


def test_rows_and_whole_floats_are_numbers_too(tmp_path):
    found = load(tmp_path, camera(width=640.0, K=[[500, 0, 319.5], [0, 500, 239.5], [0, 0, 1]]))
    assert found.cameras == load(tmp_path, camera()).cameras and type(found.cameras["rgb"].width) is int


def test_a_camera_of_no_input_is_told_with_what_was_meant(tmp_path):
    known = load(tmp_path, {"cameras": {"rgb_letf": CAMERA, "rgb": dict(CAMERA)}})
    remark, = known.foreign(["rgb", "rgb_left", "lidar"])
    assert "'rgb_letf'" in remark and "meant rgb_left?" in remark
    assert known.foreign(["rgb", "rgb_letf"]) == []


def test_cameras_of_other_nodes_may_share_the_file(tmp_path):
    known = load(tmp_path, {"cameras": {"rgb": CAMERA, "thermal": dict(CAMERA)}})
    assert known.cameras["thermal"] == known.cameras["rgb"]
    remark, = known.foreign(["rgb", "lidar"])
    assert "camera 'thermal' of calibration_file is not used: it is none of the inputs rgb, lidar" in remark
    assert "meant" not in remark


def test_a_list_that_two_cameras_share_is_written_once_by_pyyaml(tmp_path):
    content = {"cameras": {"rgb": CAMERA, "depth": CAMERA | {"width": 320}}}
    assert "K: *id001" in yaml.safe_dump(content)
    known = load(tmp_path, content)
    assert known.cameras["depth"].K.tolist() == known.cameras["rgb"].K.tolist() == \
        [[500, 0, 319.5], [0, 500, 239.5], [0, 0, 1]]
    one = load(tmp_path, "cameras: {rgb: {frame_id: &f a, width: &n 8, height: *n, K: [8, 0, 4, 0, 8, 4, 0, 0, 1]}}")
    assert one.cameras["rgb"].height == 8
