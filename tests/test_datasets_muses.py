"""MUSES on a tree in the published layout: raw sensors against loops, the SDK's images, the papers' loader."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import muses_tree
import numpy as np
import pytest
from muses_tree import CALIBRATION, HEIGHT, MIDDLE_SEC, WIDTH, K, write_projected, write_scene
from PIL import Image

from mss_models.modality import MUSES_MODALITIES, PUBLISHED_MUSES_ENCODINGS
from mss_perception.projection import project_points
from training.datasets import muses_sensors
from training.datasets.muses import ENCODINGS, Muses
from training.datasets.opening import open_dataset
from training.datasets.sample import DatasetError

try:
    import h5py
    import hdf5plugin  # noqa: F401
except ImportError:
    h5py = None

SCENE = ("train", "rain", "night", "REC0006_frame_041436")
POINTS = ("rgb", "lidar", "radar")
EVERYTHING = MUSES_MODALITIES if h5py else POINTS


@pytest.fixture(scope="module", name="muses")
def write_muses(tmp_path_factory):
    """(root, what the scene's files hold, the projected images)."""
    root = tmp_path_factory.mktemp("data") / "muses"
    content = write_scene(root, *SCENE, np.random.default_rng(5), h5=h5py is not None)
    write_scene(root, "val", "clear", "day", "REC0007_frame_000001", np.random.default_rng(6), h5=h5py is not None)
    return root, content, write_projected(root, *SCENE, content, ".npz")


def sharp(**changes):
    """The encodings with points of one pixel."""
    return {name: replace(one, params={**one.params, "dilate_px": 0} if "dilate_px" in one.params else one.params)
            for name, one in (ENCODINGS | changes).items()}


def test_scenes_conditions_and_labels(muses):
    root, content, _ = muses
    data = open_dataset(root.parent, "train", EVERYTHING)
    assert type(data) is Muses and data.variant == "raw" and data.root == root and len(data) == 1
    assert data.modalities == EVERYTHING and len(data.labels) == 19 and data.labels.names[18] == "bicycle"
    frame = data.frames[0]
    assert frame.name == "/".join(SCENE) and (frame.weather, frame.case) == ("rain", "night")
    sample = data[0]
    np.testing.assert_array_equal(sample.labels, content["labels"])
    np.testing.assert_array_equal(sample.images["rgb"], content["rgb"])
    assert data.encodings == {name: ENCODINGS[name] for name in EVERYTHING}
    assert ENCODINGS["event"].params["window_sec"] == 0.03 and ENCODINGS["radar"].params["max_m"] == 150
    assert len(open_dataset(root, "val", ["rgb"], weathers=["clear"], cases=["day"])) == 1
    with pytest.raises(DatasetError, match="no frame of weather rain and case day"):
        open_dataset(root, "train", ["rgb"], weathers=["rain"], cases=["day"])
    with pytest.raises(DatasetError, match="labels of MUSES's split test are withheld"):
        write_scene(root, "test", "fog", "day", "REC0001_frame_1", np.random.default_rng(0), h5=False)
        (root / "gt_semantic" / "test").rename(root / "withheld")
        open_dataset(root, "test", ["rgb"])


def test_raw_lidar_and_radar_against_a_loop(muses):
    root, content, _ = muses
    data = open_dataset(root, "train", POINTS, encodings=sharp())
    assert data.encodings["lidar"].params["dilate_px"] == 0  # as the checkpoint wants them
    sample = data[0]
    near, far = np.log(1.0), np.log(150.0)
    for name, points, most in (("lidar", content["lidar"][:, :4], np.inf),
                               ("radar", muses_tree.radar_points(content["radar"]), 150.0)):
        T = CALIBRATION["extrinsics"][f"{name}2rgb"]
        expected, front = np.zeros((108, 192, 3)), np.full((108, 192), np.inf)
        for point in points:
            x, y, z = T[:3, :3] @ point[:3] + T[:3, 3]
            if z <= 0 or not 1 <= np.linalg.norm(point[:3]) <= most:
                continue
            u, v = int((K[0] @ [x, y, z]) / z // 10), int((K[1] @ [x, y, z]) / z // 10)
            distance = np.linalg.norm([x, y, z])
            if 0 <= u < 192 and 0 <= v < 108 and distance < front[v, u]:
                front[v, u] = distance
                top = np.log(80.0) if name == "lidar" else far
                third = 1 + 254 * np.clip((-y + 3) / 10, 0, 1) if name == "lidar" else 0
                expected[v, u] = (1 + 254 * np.clip((np.log(distance) - near) / top, 0, 1),
                                  1 + 254 * point[3] / 255, third)
        assert np.isfinite(front).sum() > 200
        np.testing.assert_allclose(sample.images[name], expected, atol=0.51)


@pytest.mark.skipif(h5py is None, reason="needs h5py and hdf5plugin")
def test_raw_events_are_those_of_the_last_30_ms_at_infinity(muses):
    root, content, _ = muses
    image = open_dataset(root, "train", ["event"])[0].images["event"]
    full = muses_tree.counts(content["event"]).astype(float)
    crowd = full[:, :, :2].reshape(108, 10, 192, 10, 2).sum((1, 3))
    pixels = np.zeros((108, 192))  # event pixels that fall into each pixel of the picture
    v, u = np.mgrid[:720, :1280]
    ray = np.stack([u, v, np.ones_like(u)], -1) @ (K @ CALIBRATION["extrinsics"]["event2rgb"][:3, :3]
                                                  @ np.linalg.inv(muses_tree.K_EVENT)).T
    at = np.round(ray[:, :, :2] / ray[:, :, 2:]).astype(int).reshape(-1, 2)
    at = at[(at >= 0).all(1) & (at[:, 0] < WIDTH) & (at[:, 1] < HEIGHT)] // 10
    np.add.at(pixels, (at[:, 1], at[:, 0]), 1)
    mean = crowd / np.maximum(pixels, 1)[:, :, None]
    expected = np.where(mean > 0, np.clip(40 * mean, 1, 255), 0)
    np.testing.assert_allclose(image[:, :, :2], expected, atol=0.51)
    assert (image[:, :, 2] == 0).all() and image[:, :, :2].max() > 20


@pytest.mark.parametrize("ending", [".npz", ".npy", ".png"])
def test_raw_equals_projected(muses, tmp_path, ending):
    root, content, _ = muses
    for folder in ("frame_camera", "gt_semantic"):
        (tmp_path / folder).symlink_to(root / folder)
    (tmp_path / "calib.json").symlink_to(root / "calib.json")
    write_projected(tmp_path, *SCENE, content, ending)
    raw, projected = (open_dataset(one, "train", EVERYTHING) for one in (root, tmp_path))
    assert projected.variant == "projected" and raw.encodings == projected.encodings
    ours, theirs = raw[0].images, projected[0].images
    steps = {"lidar": (1, 1, 3), "radar": (1, 2, 0)}  # an intensity of the .png is cut to 1/150, a height to its pixel
    for name, limits in steps.items():
        np.testing.assert_array_equal(ours[name].any(2), theirs[name].any(2))
        assert 0.1 < ours[name].any(2).mean() < 0.95
        difference = np.abs(ours[name].astype(int) - theirs[name])
        swapped = (difference > limits).any(2)  # of two points at one distance, the other one
        assert swapped.sum() <= 0.002 * swapped.size
    if h5py:
        np.testing.assert_array_equal(ours["event"], theirs["event"])
        assert (ours["event"] > 0).mean() > 0.02


def test_events_of_a_coarse_projection_are_shared_out(muses):
    """Where many event pixels fall into one of the picture, its count is spread evenly over them, and none is lost."""
    rig = muses_sensors.read_rig(muses[0] / "calib.json")
    image = np.zeros((108, 192, 3), np.uint8)
    image[50, 100], image[60, 100], image[107, 191] = (200, 3, 0), (7, 0, 0), (9, 9, 0)  # the last: seen by none
    events = muses_sensors.projected_events(image, rig)
    counts = np.zeros((720, 1280, 2), int)
    np.add.at(counts, (events.y, events.x, events.p.astype(int)), 1)
    off, on = counts[:, :, 0], counts[:, :, 1]
    assert (off.sum(), on.sum(), off.max()) == (3, 207, 1)
    many = on[on > 1]  # 200 over the event pixels of one pixel of 10 x 10, of which each is 1.5 x 1.5
    assert many.sum() == 200 and many.max() - many.min() <= 1 and 35 < len(many) < 55
    assert (on == 1).sum() == 7


def test_a_projected_radar_pixel_without_intensity_is_no_return(muses):
    image = np.zeros((108, 192, 3), np.float32)
    image[70, 20], image[70, 90] = (30, 0, 0), (40, 51, 0)  # the SDK draws every range of the polar image
    found = muses_sensors.projected_radar(image, muses_sensors.read_rig(muses[0] / "calib.json"))
    at = CALIBRATION["extrinsics"]["radar2rgb"][:3, 3]
    np.testing.assert_allclose(np.linalg.norm(found.xyz - at, axis=1), [40], atol=1e-3)
    np.testing.assert_allclose(found.intensity, [0.2])


def test_the_published_variant_is_the_papers_loader(muses, tmp_path):
    root, content, _ = muses
    for folder in ("frame_camera", "gt_semantic"):
        (tmp_path / folder).symlink_to(root / folder)
    images = write_projected(tmp_path, *SCENE, content, ".png", folder=".")  # as AnySeg's folders are
    data = open_dataset(tmp_path, "train", variant="published")
    assert data.encodings == PUBLISHED_MUSES_ENCODINGS and data.modalities == MUSES_MODALITIES
    sample = data[0]
    for name, folder in (("lidar", "lidar"), ("radar", "radar"), ("event", "event_camera")):
        image = images[folder] if name == "event" else (((images[folder] + 100) * 150).astype(np.uint16) >> 8)
        rgb = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1].astype(np.uint8)))  # OpenCV writes B, G, R
        np.testing.assert_array_equal(sample.images[name], np.array(rgb.resize((1024, 1024))))
    np.testing.assert_array_equal(sample.images["rgb"],
                                  np.array(Image.fromarray(content["rgb"]).resize((1024, 1024))))
    void = np.where(content["labels"] == 255, 0, content["labels"])
    np.testing.assert_array_equal(sample.labels, cv2.resize(void, (1024, 1024), interpolation=cv2.INTER_NEAREST))
    one = data.encodings["lidar"]
    np.testing.assert_allclose((200 / 255 - np.array(one.mean)) / one.std, 200)  # the network is fed 0..255
    assert open_dataset(tmp_path, "train", encodings=PUBLISHED_MUSES_ENCODINGS).variant == "published"


def test_motion_compensation_against_the_formula(muses):
    root, content, _ = muses
    rig = muses_sensors.read_rig(root / "calib.json")
    cloud, times = muses_sensors.read_lidar(root / "lidar" / "/".join(SCENE[:3]) / f"{SCENE[3]}_lidar.bin")
    gnss = root / "gnss" / "/".join(SCENE[:3]) / f"{SCENE[3]}_gnss.txt"
    motion = muses_sensors.motion_of(gnss, MIDDLE_SEC, times, rig, "lidar")
    seen = project_points(cloud.xyz(), motion, rig.rgb)
    assert len(seen.index) > len(cloud) / 10
    to_gnss, to_rgb = (CALIBRATION["extrinsics"][name] for name in ("lidar2gnss", "lidar2rgb"))
    farthest = 0.0
    for i, moved in list(zip(seen.index, seen.xyz, strict=True))[::10]:
        late = times[i] - MIDDLE_SEC
        point = to_gnss @ [*cloud.xyz()[i], 1]
        point[0] += 15.0 * late
        roll, pitch, yaw = np.radians([3.0, -2.5, 15.0]) * late
        point[:3] = muses_tree.turn(2, yaw) @ muses_tree.turn(1, pitch) @ muses_tree.turn(0, roll) @ point[:3]
        expected = to_rgb @ np.linalg.inv(to_gnss) @ point
        farthest = max(farthest, np.linalg.norm(expected[:3] - (to_rgb @ [*cloud.xyz()[i], 1])[:3]))
        np.testing.assert_allclose(moved, expected[:3], atol=1e-3)
    assert farthest > 0.5
    raw, compensated = (open_dataset(root, "train", POINTS, variant=one)[0].images for one in ("raw", "compensated"))
    for name in ("lidar", "radar"):
        assert 0.02 < (raw[name] != compensated[name]).any(2).mean() < 0.9


def test_bad_files_are_named(muses, tmp_path):
    write_scene(tmp_path, *SCENE, np.random.default_rng(5), h5=False)
    place = "/".join(SCENE[:3])

    def fails(match, modalities=POINTS, variant=""):
        with pytest.raises(DatasetError, match=match):
            open_dataset(tmp_path, "train", modalities, variant=variant)[0]

    fails("variant 'projected' needs images that project_sensors_to_rgb.py", variant="projected")
    fails("variant 'published' needs PNG images", variant="published")
    lidar = tmp_path / "lidar" / place / f"{SCENE[3]}_lidar.bin"
    whole = lidar.read_bytes()
    lidar.write_bytes(whole[:-7])
    fails(f"{lidar}: .* bytes; points of 6 float64 values")
    lidar.write_bytes(b"")
    assert not open_dataset(tmp_path, "train", POINTS)[0].images["lidar"].any()  # a LiDAR that saw nothing
    lidar.unlink()
    fails(f"{lidar}: no such file; of 1 frames of split train, files are missing: 1 in lidar/")
    lidar.write_bytes(whole)
    radar = tmp_path / "radar" / place / f"{SCENE[3]}_radar.png"
    radar.write_bytes(radar.read_bytes()[:5000])
    fails(f"{radar}: the image cannot be read")
    broken = tmp_path / "event_camera" / place / f"{SCENE[3]}_event_camera.h5"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no hdf5")
    fails(f"{broken}: (no readable events|needs )", ["event"])
    gnss = tmp_path / "gnss" / place / f"{SCENE[3]}_gnss.txt"
    gnss.write_text(" ".join(["1700000000000000000"] * 28))
    fails("which no car does", variant="compensated")
    gnss.write_text("1 2 3")
    fails(f"{gnss}: 3 values; 28 are needed", variant="compensated")
    gnss.write_text(" ".join(map(str, muses_tree.GNSS)))
    times = np.frombuffer(whole, "<f8").reshape(-1, 6).copy()
    times[:, 5] *= 1e6  # in microseconds
    times.tofile(lidar)
    fails("the lidar measured .* s away from the exposure that meta.json tells", variant="compensated")
    lidar.write_bytes(whole)
    (tmp_path / "meta.json").write_text("{}")
    fails("meta.json: scene 'REC0006_frame_041436' has no path_to_gnss", variant="compensated")
    calibration = json.loads((tmp_path / "calib.json").read_text())
    mirrored = np.diag([-1.0, 1, 1, 1]) @ calibration["extrinsics"]["radar2rgb"]
    (tmp_path / "calib.json").write_text(json.dumps(
        calibration | {"extrinsics": calibration["extrinsics"] | {"radar2rgb": mirrored.tolist()}}))
    fails("extrinsics/radar2rgb is no rigid transform")
    del calibration["extrinsics"]["lidar2rgb"]
    (tmp_path / "calib.json").write_text(json.dumps(calibration))
    fails("calib.json: extrinsics/lidar2rgb is no 4 x 4 matrix of numbers")
    (tmp_path / "calib.json").write_text("{")
    fails("calib.json: not valid JSON")
    labels = tmp_path / "gt_semantic" / place / f"{SCENE[3]}_gt_labelTrainIds.png"
    Image.fromarray(np.full((108, 192), 19, np.uint8)).save(labels)
    fails(rf"{labels}: label ids \[19\] are out of range; 0..18 are classes", ["rgb"])
