"""The picture of LiDAR points over the camera image: every point on its pixel, and off it by a known angle."""

from __future__ import annotations

import boxes
import cv2
import numpy as np
import pytest

from mss_perception import show_projection
from mss_perception.bags import BagWriter, read_bag
from mss_perception.config import Config
from mss_perception.messages import stamp_ns


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return boxes.write_bag(tmp_path_factory.mktemp("projection") / "bag", seconds=2.0)


def coloured(picture: np.ndarray) -> np.ndarray:
    """(H, W) bool: where a dot is; the image below is grey."""
    return np.ptp(picture.astype(int), axis=2) > 60


def box_centre(picture: np.ndarray) -> float:
    """Mean column, in the camera's pixels, of the dots above the horizon, where only the box has points."""
    enlarge = picture.shape[1] / boxes.WIDTH
    above = coloured(picture)[:int((boxes.camera().K[1, 2] - 2) * enlarge)]
    return float(np.mean(np.nonzero(above)[1]) + 0.5) / enlarge - 0.5


def test_points_lie_on_their_pixels(bag):
    picture, count = show_projection.show(bag, Config(), at_sec=1.0)
    enlarge = picture.shape[1] // boxes.WIDTH
    labels, depth = boxes.render(1.0)
    assert count == pytest.approx(np.isfinite(depth[:, 1:]).sum() / 2, abs=2)
    dots = coloured(picture)
    near = cv2.dilate(np.isfinite(depth).astype(np.uint8), np.ones((3, 3), np.uint8))
    assert not dots[np.kron(near, np.ones((enlarge, enlarge), np.uint8)) == 0].any()     # none in the sky
    u = np.nonzero(labels == boxes.CAR)[1]
    assert box_centre(picture) == pytest.approx(u.mean(), abs=1.0)


@pytest.mark.parametrize("yaw", [-4.0, 4.0])
def test_a_yaw_error_moves_the_points_by_its_angle(bag, yaw):
    right = box_centre(show_projection.show(bag, Config(), 1.0)[0])
    turned = box_centre(show_projection.show(bag, Config(), 1.0, (0, 0, yaw))[0])
    camera = boxes.camera()
    angle = np.arctan((right - camera.K[0, 2]) / camera.K[0, 0]) - np.radians(yaw)     # yaw is to the left
    assert turned == pytest.approx(camera.K[0, 0] * np.tan(angle) + camera.K[0, 2], abs=0.7)


def test_turning_is_about_the_lidars_own_axes():
    np.testing.assert_allclose(show_projection.turned((0, 0, 90))[:3, :3] @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(show_projection.turned((0, 90, 0))[:3, :3] @ [1, 0, 0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(show_projection.turned((90, 0, 0))[:3, :3] @ [0, 1, 0], [0, 0, 1], atol=1e-12)


def test_a_crop_is_a_part_of_the_whole(bag, tmp_path):
    out = tmp_path / "crop.png"
    assert show_projection.main([str(bag), "--out", str(out), "--at", "1", "--crop", "20", "10", "48", "30"]) == 0
    crop = cv2.imread(str(out))
    assert crop.shape == (600, 960, 3)
    whole = show_projection.show(bag, Config(), 1.0)[0]
    inside = coloured(whole)[100:400, 200:680]
    dots = cv2.resize(coloured(crop).astype(np.uint8), (480, 300), interpolation=cv2.INTER_NEAREST) > 0
    assert np.mean(inside[dots]) > 0.5       # dots are of other size, but at the same places


@pytest.mark.parametrize(("leave_out", "options", "words"), [
    (("/points",), [], ["has no points (lidar)", "/image"]),
    (("/camera_info",), [], ["no camera_info on 'camera_info'", "calibration_file"]),
    (("/tf_static",), [], ["no transform from frame 'lidar' to 'camera_optical'"]),
    ((), ["--at", "99"], ["0 images and 0 clouds", "99"]),
    ((), ["--crop", "90", "0", "10", "10"], ["--crop 90 0 10 10", "96 x 64"]),
    ((), ["--config", "nowhere.yaml"], ["nowhere.yaml"]),
])
def test_what_is_missing_is_named(tmp_path, capsys, leave_out, options, words):
    bag = boxes.write_bag(tmp_path / "bag", seconds=1.0, leave_out=leave_out)
    assert show_projection.main([str(bag), "--out", str(tmp_path / "out.png"), *options]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("options", [["--at", "nan"], ["--at", "1e300"], ["--turn", "inf", "0", "0"]])
def test_numbers_that_cannot_be_meant_are_refused(capsys, options):
    with pytest.raises(SystemExit) as end:
        show_projection.main(["bag", "--out", "out.png", *options])
    assert end.value.code == 2 and f"argument {options[0]}: {options[1]} must be from" in capsys.readouterr().err


def test_the_cloud_that_is_drawn_is_the_nearest(bag):
    """Of the box, which moves 0.3 m between sweeps: its column in the picture is that of the image's own time."""
    for t in (0.5, 1.0, 1.5):
        u = np.nonzero(boxes.render(t)[0] == boxes.CAR)[1]
        assert box_centre(show_projection.show(bag, Config(), t)[0]) == pytest.approx(u.mean(), abs=1.0)


def test_points_move_by_the_times_that_the_configuration_reads(tmp_path):
    """A vehicle at 20 m/s, and points up to 0.1 s before their stamp."""
    with BagWriter(tmp_path / "moving") as out:
        for topic, time_ns, message in read_bag(boxes.write_bag(tmp_path / "bag", seconds=1.0)):
            if topic == "/odom":
                message.pose.pose.position.x = 20 * (stamp_ns(message.header) - boxes.START_NS) / 1e9
            out.write(topic, message, time_ns)
    auto, seconds, none = (
        show_projection.show(tmp_path / "moving", Config.from_mapping({"lidar.time_unit": unit}), 0.5)[0]
        for unit in ("auto", "s", "none"))
    assert np.array_equal(auto, seconds) and not np.array_equal(auto, none)


def test_points_and_image_are_shown_by_corrected_clocks(tmp_path):
    """Both drivers' clocks are ahead, each by its own, of a vehicle that moves."""
    late_ns = {"/points": 50_000_000, "/image": 30_000_000}
    with BagWriter(tmp_path / "right") as right, BagWriter(tmp_path / "late") as late:
        for topic, time_ns, message in read_bag(boxes.write_bag(tmp_path / "bag", seconds=1.0)):
            if topic == "/odom":
                message.pose.pose.position.x = 20 * (stamp_ns(message.header) - boxes.START_NS) / 1e9
            right.write(topic, message, time_ns)
            if topic in late_ns:
                stamp = stamp_ns(message.header) + late_ns[topic]
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            late.write(topic, message, time_ns)
    offsets = {"lidar.clock_offset_sec": 0.05, "rgb.clock_offset_sec": 0.03}
    expected = show_projection.show(tmp_path / "right", Config(), 0.5)[0]
    assert np.array_equal(show_projection.show(tmp_path / "late", Config.from_mapping(offsets), 0.5)[0], expected)
    assert not np.array_equal(show_projection.show(tmp_path / "late", Config(), 0.5)[0], expected)
