"""Rigs of several sensors: inputs by name, clouds that share an image, two cameras in one batch, types of messages."""

from __future__ import annotations

import copy
import json

import boxes
import cv2
import numpy as np
import pytest

from mss_models.modality import DEFAULT_ENCODINGS
from mss_models.runtime import open_runtime
from mss_perception import kernels, messages, replay, rigid
from mss_perception.bags import BagWriter, read_bag, typestore
from mss_perception.camera import Camera
from mss_perception.config import Config, ConfigError
from mss_perception.inputs import InputState, State
from mss_perception.pipeline import Pipeline
from mss_perception.replay import Replay, ReplayError
from mss_perception.sensors import Sample, Sensors, joined
from mss_perception.show_projection import ProjectionError, show

TYPES = messages.bag_types()
COMPRESSED = "sensor_msgs/msg/CompressedImage"
TURNED = rigid.matrix([0.3, 0.4, 0.1], [0, 0, np.sin(0.1), np.cos(0.1)])     # the left camera: a little to the left
LEFT = TURNED @ boxes.OPTICAL
REAR = rigid.matrix([-0.5, 0.25, 1.25], [0, 0, np.sin(0.4), np.cos(0.4)])
TWO_LIDARS = {"inputs": ["rgb", "depth", "event", "lidar", "lidar_rear"], "lidar_rear.topic": "points_rear"}
TWO_VIEWS = {"inputs": ["rgb", "rgb_left", "depth", "event", "lidar"], "target_cameras": ["rgb", "rgb_left"],
             "rgb_left.topic": "left/image", "rgb_left.info_topic": "left/camera_info", "depth.view": "rgb"}


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return boxes.write_bag(tmp_path_factory.mktemp("rigs") / "boxes", seconds=1.5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return boxes.write_checkpoint(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture(scope="module")
def runtime(checkpoint):
    return open_runtime(checkpoint, device="cpu", precision="fp32", threads=1)


def half(message, part: int, frame: str, T: np.ndarray, brightness: float = 1.0):
    """Every second point of a cloud, from `part` on, as a LiDAR at T (4, 4) in the vehicle would have measured it."""
    fields = messages.decode_cloud(message).fields[part::2]
    columns = {name: fields[name].copy() for name in fields.dtype.names}
    xyz = np.stack([columns[axis] for axis in "xyz"] + [np.ones(len(fields))]).astype(np.float64)
    for axis, values in zip("xyz", np.linalg.inv(T) @ boxes.LIDAR @ xyz, strict=False):
        columns[axis] = values.astype(np.float32)
    columns["intensity"] = columns["intensity"] * np.float32(brightness)
    return messages.encode_cloud(TYPES, columns, messages.stamp_ns(message.header), frame)


def two_lidars(bag, rear_frame: str = "lidar_rear", brightness: float = 1.0):
    """(topic, time, message) of the bag, its cloud divided among two LiDARs that stand elsewhere."""
    for topic, time_ns, message in read_bag(bag):
        if topic == "/tf_static":
            mounts = [(one.header.frame_id, one.child_frame_id, T) for one, (_, _, _, T)
                      in zip(message.transforms, messages.decode_transforms(message), strict=True)]
            message = messages.encode_transforms(TYPES, [*mounts, ("base_link", "lidar_rear", REAR)], boxes.START_NS)
        if topic == "/points":
            yield "/points_rear", time_ns, half(message, 1, rear_frame, REAR, brightness)
            message = half(message, 0, "lidar", boxes.LIDAR)
        yield topic, time_ns, message


def two_cameras(bag, camera: Camera | None = None, mounted: bool = True):
    """The bag with a second camera that looks to the left, and sees the first one's pictures mirrored."""
    camera = camera or boxes.camera("camera_left")
    for topic, time_ns, message in read_bag(bag):
        stamp = messages.stamp_ns(message.header) if hasattr(message, "header") else 0
        if topic == "/tf_static" and mounted:
            mounts = [(parent, child, T) for parent, child, _, T in messages.decode_transforms(message)]
            message = messages.encode_transforms(TYPES, [*mounts, ("base_link", "camera_left", LEFT)], boxes.START_NS)
        if topic == "/image":
            pixels = cv2.resize(messages.decode_image(message)[:, ::-1], (camera.width, camera.height))
            yield "/left/camera_info", time_ns, messages.encode_camera_info(TYPES, camera, stamp)
            yield "/left/image", time_ns, messages.encode_image(TYPES, pixels, "rgb8", stamp, camera.frame_id)
        yield topic, time_ns, message


def outputs_of(entries, runtime, values=None, view: str = "", synchronous: bool = True):
    config, outputs = Config.from_mapping(values or {}), []
    if view:
        config = config.of_view(view)
    pipeline, roles, now_ns = Pipeline(config, runtime, outputs.append, synchronous), config.topic_roles(), 0
    for topic, now_ns, message in entries:
        if topic in roles:
            pipeline.poll(now_ns)
            pipeline.receive(roles[topic], message, now_ns, clock_ns=now_ns)
    pipeline.flush(now_ns)
    pipeline.close()
    assert pipeline.outputs + sum(pipeline.dropped.values()) == pipeline.ticks * len(config.target_cameras)
    return outputs, pipeline


class Counting:
    """The runtime, and the shape of every batch that it got."""

    def __init__(self, runtime):
        self.runtime, self.batches = runtime, []

    def __getattr__(self, name):
        return getattr(self.runtime, name)

    def __call__(self, images, present, output_size=None):
        self.batches.append(({name: image.shape for name, image in images.items()},
                             {name: mask.tolist() for name, mask in present.items()}, output_size))
        return self.runtime(images, present, output_size=output_size)


# -------------------------------------------------------------------------------------------------- clouds of several

def test_two_lidars_see_together_what_one_lidar_would(bag, runtime):
    alone, _ = outputs_of(read_bag(bag), runtime)
    both, _ = outputs_of(two_lidars(bag), runtime, TWO_LIDARS)
    assert len(both) == len(alone) > 10
    for one, two in zip(alone, both, strict=True):
        assert two.mask == {**one.mask, "lidar_rear": True} and set(two.images) == set(one.images)
        # The rear one's points were moved there and back, in float32.
        assert np.mean(two.images["lidar"] != one.images["lidar"]) < 0.01 and two.images["lidar"].any()
        front, rear, whole = two.inputs["lidar"], two.inputs["lidar_rear"], one.inputs["lidar"]
        assert front["points"] + rear["points"] == whole["points"] and abs(front["points"] - rear["points"]) <= 1
        assert len(two.points["x"]) == pytest.approx(len(one.points["x"]), rel=0.02)
        assert two.mask["rgb"] and two.deadline_hit is False


def test_what_lidars_share_is_drawn_once(bag, runtime, monkeypatch):
    drawn = []
    draw = kernels.draw_nearest
    monkeypatch.setattr(kernels, "draw_nearest", lambda uv, *more: drawn.append(len(uv)) or draw(uv, *more))
    outputs, pipeline = outputs_of(two_lidars(bag), runtime, {**TWO_LIDARS, "depth.enabled": False})
    found = [count for count in drawn if count > 1]         # lanes draw one point when they are made
    assert len(found) == pipeline.ticks > 10
    inputs = outputs[-1].inputs
    assert found[-1] == sum(inputs[name][key] for name in ("lidar", "lidar_rear") for key in ("points", "no_return"))


def test_a_wrong_intensity_scale_is_warned_of_once_by_the_inputs_name(bag, runtime, caplog):
    outputs_of(two_lidars(bag, brightness=255.0), runtime, TWO_LIDARS)
    texts = [one.getMessage() for one in caplog.records if "full scale" in one.getMessage()]
    assert len(texts) == 1 and "set lidar_rear.intensity_max to the largest" in texts[0]
    assert "% of the intensities of lidar_rear are" in texts[0]


def test_each_lidar_has_its_own_settings(bag, runtime):
    """The rear one's driver sends intensities up to 255, and stamps 40 ms late."""
    entries = list(two_lidars(bag, brightness=255.0))
    whole, _ = outputs_of(two_lidars(bag), runtime, TWO_LIDARS)
    scaled, _ = outputs_of(entries, runtime, {**TWO_LIDARS, "lidar_rear.intensity_max": 255.0})
    assert np.abs(scaled[-1].images["lidar"].astype(int) - whole[-1].images["lidar"]).max() <= 1
    late = [(topic, time_ns, shifted(message, 40_000_000) if topic == "/points_rear" else message)
            for topic, time_ns, message in entries]
    for more, matches in (({}, False), ({"lidar_rear.offset_sec": 0.04}, True), ({"lidar_rear.tolerance_sec": 0.05},
                                                                                True)):
        found, _ = outputs_of(late, runtime, {**TWO_LIDARS, "lidar_rear.tolerance_sec": 0.02, **more})
        assert {(one.mask["lidar"], one.mask["lidar_rear"]) for one in found} == {(True, matches)}


def shifted(message, by_ns: int):
    message = copy.deepcopy(message)
    stamp = messages.stamp_ns(message.header) + by_ns
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
    return message


def test_a_lidar_that_cannot_be_used_leaves_the_modality_to_the_other(bag, runtime):
    front_alone, _ = outputs_of([one for one in two_lidars(bag) if one[0] != "/points_rear"], runtime, TWO_LIDARS)
    lost, pipeline = outputs_of(two_lidars(bag, rear_frame="moon"), runtime, TWO_LIDARS)
    last, silent = lost[-1], front_alone[-1]
    assert (last.inputs["lidar"]["state"], last.inputs["lidar_rear"]["state"]) == ("OK", "INVALID")
    assert silent.inputs["lidar_rear"]["state"] == "STALE"
    assert "no transform from frame 'moon' to 'camera_optical'" in last.inputs["lidar_rear"]["reason"]
    for one in (last, silent):
        assert one.mask["lidar"] and not one.mask["lidar_rear"] and "lidar" in one.images
    assert np.array_equal(last.images["lidar"], silent.images["lidar"])
    assert np.array_equal(last.labels, silent.labels)
    assert "lidar_rear" in pipeline.diagnostics()["message"] and pipeline.warnings["lidar_rear_invalid"] > 5
    rear_alone, _ = outputs_of([one for one in two_lidars(bag) if one[0] != "/points"], runtime, TWO_LIDARS)
    assert not rear_alone[-1].mask["lidar"] and rear_alone[-1].mask["lidar_rear"] and "lidar" in rear_alone[-1].images


def test_a_lidar_alone_is_seen_by_a_camera_that_is_in_the_calibration_only(bag, checkpoint, tmp_path):
    (tmp_path / "calibration.yaml").write_text(
        "cameras: {rgb: {frame_id: view, width: 80, height: 48, K: [40, 0, 39.5, 0, 40, 23.5, 0, 0, 1]}}\n"
        "extrinsics: [{parent: lidar, child: view, translation: [0, 0, 0], rotation: [-0.5, 0.5, -0.5, 0.5]}]\n")
    alone = write((one for one in read_bag(bag) if one[0] == "/points"), tmp_path / "alone")
    config = config_of(checkpoint, **{"rgb.enabled": False, "depth.enabled": False, "event.enabled": False,
                                      "calibration_file": str(tmp_path / "calibration.yaml")})
    metrics = Replay(alone, tmp_path / "out", config, report=False, progress=False, points="ply")()
    assert metrics["outputs"] == metrics["ticks"] > 10 and metrics["frames_by_mask"] == {"lidar": metrics["outputs"]}
    assert frames(tmp_path / "out")[-1]["frame_id"] == "view" and list((tmp_path / "out/points").glob("*.ply"))


def test_two_radars_are_drawn_together():
    config = Config.from_mapping({"inputs": ["rgb", "radar", "radar_left"], "radar_left.topic": "left",
                                  "radar_left.intensity_max": 10.0})
    sensors = Sensors(config, {"radar": DEFAULT_ENCODINGS["radar"]}, (64, 96))
    sensors.cameras = {"rgb": boxes.camera()}
    for frame in ("camera_optical", "radar", "radar_left"):
        sensors.transforms.add_static("base_link", frame, boxes.OPTICAL if frame == "camera_optical" else np.eye(4))

    def seen(name: str, x: float, y: float):
        values = {"x": x, "y": y, "z": 1.5, "rcs": 10.0}
        cloud = messages.encode_cloud(TYPES, {key: np.array([one], np.float32) for key, one in values.items()}, 5, name)
        return sensors.see(name, InputState(State.OK, 5, 0, payload=Sample(cloud)), 5, sensors.cameras, "rgb")

    ahead, left, behind = seen("radar", 20, 0), seen("radar_left", 20, 4), seen("radar_left", 30, 0)
    image, alone = joined([ahead, left]).image, [joined([one]).image for one in (ahead, left)]
    assert np.array_equal(image, np.maximum(*alone))
    assert np.array_equal(joined([ahead, behind]).image, alone[0])          # the nearer one hides the other
    middle, side = (one[..., 1].max() for one in alone)
    assert (middle, side) == (round(1 + 254 * 30 / 60), 255)                        # 10 of -20..40, and of -20..10


# -------------------------------------------------------------------------------------------------------- two cameras

def test_a_view_in_a_batch_has_the_labels_that_it_has_alone(bag, runtime):
    counting = Counting(runtime)
    outputs, pipeline = outputs_of(two_cameras(bag), counting, TWO_VIEWS)
    by_view = {view: [one for one in outputs if one.view == view] for view in TWO_VIEWS["target_cameras"]}
    assert pipeline.ticks == len(by_view["rgb"]) == len(by_view["rgb_left"]) > 10
    assert len(counting.batches) == pipeline.ticks, "the views of a set must be one batch"
    shapes, present, _ = counting.batches[-1]
    assert {shape[0] for shape in shapes.values()} == {2} and present["depth"] == [True, False]
    for view, found in by_view.items():
        alone, _ = outputs_of(two_cameras(bag), runtime, TWO_VIEWS, view)
        assert [one.t_ref_ns for one in alone] == [one.t_ref_ns for one in found]
        for one, two in zip(alone, found, strict=True):
            assert (one.mask, one.inputs, one.frame_id, one.camera) == (two.mask, two.inputs, two.frame_id, two.camera)
            assert all(np.array_equal(image, two.images[name]) for name, image in one.images.items())
            assert np.array_equal(one.labels, two.labels)
            assert np.abs(one.confidence.astype(int) - two.confidence).max() <= 1
            assert all(np.array_equal(one.points[key], two.points[key]) for key in "xyz")
    last = {view: found[-1] for view, found in by_view.items()}
    assert set(last["rgb"].mask) == {"rgb", "depth", "event", "lidar"}
    assert set(last["rgb_left"].mask) == {"rgb_left", "event", "lidar"} and last["rgb_left"].frame_id == "camera_left"
    assert not np.array_equal(last["rgb"].images["lidar"], last["rgb_left"].images["lidar"])


def test_cameras_of_other_sizes_are_batches_of_their_own(bag, runtime):
    large = boxes.camera("camera_left").scaled(120, 80)
    counting = Counting(runtime)
    outputs, pipeline = outputs_of(two_cameras(bag, large), counting, TWO_VIEWS)
    assert len(counting.batches) == 2 * pipeline.ticks
    assert {one.view: one.labels.shape for one in outputs} == {"rgb": (64, 96), "rgb_left": (80, 120)}


def test_an_undistorted_view_is_for_its_own_camera(bag, runtime):
    bent = Camera(boxes.WIDTH, boxes.HEIGHT, boxes.camera().K, "plumb_bob", (-0.3, 0.08, 0, 0, 0), "camera_left")
    values = {**TWO_VIEWS, "undistort": True}
    counting = Counting(runtime)
    outputs, pipeline = outputs_of(two_cameras(bag, bent), counting, values)
    assert len(counting.batches) == pipeline.ticks      # the bent one as a pinhole is of the same size
    for view in values["target_cameras"]:
        alone, _ = outputs_of(two_cameras(bag, bent), runtime, values, view)
        for one, two in zip(alone, [one for one in outputs if one.view == view], strict=True):
            assert np.array_equal(one.labels, two.labels) and one.camera == two.camera
    assert outputs[-1].view == "rgb_left" and outputs[-1].camera == bent


@pytest.mark.parametrize("order", [["rgb", "rgb_left"], ["rgb_left", "rgb"]])
def test_a_view_without_a_place_goes_on_with_its_camera_and_says_so(bag, runtime, order):
    values = {**TWO_VIEWS, "target_cameras": order}
    outputs, pipeline = outputs_of(two_cameras(bag, mounted=False), runtime, values)
    last = {one.view: one for one in outputs}
    assert all(last["rgb"].mask.values())
    assert last["rgb_left"].mask == {"rgb_left": True, "event": False, "lidar": False}
    assert last["rgb_left"].inputs["lidar"]["state"] == "INVALID" and last["rgb"].inputs["lidar"]["state"] == "OK"
    status = pipeline.diagnostics()
    assert status["inputs"]["lidar"]["state"] == "INVALID"
    assert status["inputs"]["lidar"]["reason"].startswith("in the view of rgb_left: no transform from frame 'lidar'")
    outputs, pipeline = outputs_of(two_cameras(bag, mounted=False), runtime, {**values, "min_modalities": 2})
    assert {(one.view, one.dropped) for one in outputs} == {("rgb", None), ("rgb_left", "below_min_modalities")}
    assert pipeline.dropped == {"below_min_modalities": pipeline.ticks}
    assert "sets are dropped in the view of rgb_left: below_min" in pipeline.diagnostics()["message"]


def test_live_every_view_of_every_tick_is_accounted_for(bag, runtime):
    outputs, pipeline = outputs_of(two_cameras(bag), runtime, TWO_VIEWS, synchronous=False)
    assert pipeline.dropped["replaced"] % 2 == 0 and len(outputs) == pipeline.outputs > 0

    class Broken(Counting):
        def __call__(self, *arguments, **options):
            raise RuntimeError("the device is gone")

    outputs, pipeline = outputs_of(two_cameras(bag), Broken(runtime), TWO_VIEWS)
    assert pipeline.dropped == {"error": 2 * pipeline.ticks} and len(outputs) == 2 * pipeline.ticks


# ------------------------------------------------------------------------------------------------------------- replay

def write(entries, path):
    with BagWriter(path) as out:
        for topic, time_ns, message in entries:
            out.write(topic, message, time_ns)
    return path


def config_of(checkpoint, **values) -> Config:
    return Config.from_mapping({"checkpoint": str(checkpoint), "precision": "fp32", "device": "cpu", "threads": 1,
                                "width": 32, "height": 32, **values})


def frames(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def test_replay_of_a_rig_scores_one_view(bag, checkpoint, tmp_path, capsys):
    rig = write(two_cameras(bag), tmp_path / "rig")
    config = config_of(checkpoint, **TWO_VIEWS)
    (tmp_path / "rig.yaml").write_text(json.dumps({name: value for name, value, _ in config.parameters()}))
    command = [str(rig), "--config", str(tmp_path / "rig.yaml"), "--quiet"]
    for options, view in (([], "rgb"), (["--view", "rgb_left"], "rgb_left")):
        assert replay.main([*command, "--out", str(tmp_path / view), *options]) == 0
        assert set(frames(tmp_path / view)[-1]["mask"]) == set(config.views()[view])
    metrics = json.loads((tmp_path / "rgb" / "metrics.json").read_text())
    assert metrics["mask_wrong"] == 0 and metrics["miou"] is not None
    plain = Replay(bag, tmp_path / "plain", config_of(checkpoint), report=False, progress=False)()
    assert (metrics["miou"], metrics["mask_checked"]) == (plain["miou"], plain["mask_checked"])
    assert replay.main([*command, "--out", str(tmp_path / "x"), "--view", "rear"]) == 2
    assert "'rear' is no view; target_cameras: rgb, rgb_left" in capsys.readouterr().err


def test_the_report_of_two_lidars_names_both(bag, checkpoint, tmp_path):
    rig = write(two_lidars(bag), tmp_path / "rig")
    metrics = Replay(rig, tmp_path / "out", config_of(checkpoint, **TWO_LIDARS, min_modalities=4), progress=False)()
    assert metrics["mask_wrong"] == 0 and set(metrics["frames_by_mask"]) == {"rgb+depth+event+lidar+lidar_rear"}
    text = (tmp_path / "out" / "report.html").read_text()
    assert "lidar: OK" in text and "lidar_rear: OK" in text


@pytest.mark.parametrize("suffix", ["pcd", "ply"])
def test_labelled_points_are_written_for_each_set(bag, checkpoint, runtime, tmp_path, suffix):
    config = config_of(checkpoint, publish_points=False)        # of the node's topic
    Replay(bag, tmp_path / "out", config, ["lidar:drop@0.5-1"], points=suffix, report=False, progress=False)()
    used = [i for i, record in enumerate(frames(tmp_path / "out")) if record["mask"]["lidar"]]
    written = sorted(path.name for path in (tmp_path / "out" / "points").iterdir())
    assert written == [f"{i:06d}.{suffix}" for i in used] and 5 < len(used) < 13
    header = (tmp_path / "out" / "points" / written[0]).read_bytes().split(b"\n")
    count = next(int(line.split()[-1]) for line in header if line.startswith((b"POINTS", b"element vertex")))
    outputs, _ = outputs_of(read_bag(bag), runtime, {"width": 32, "height": 32})
    assert count == len(outputs[used[0]].points["label"]) > 900
    Replay(bag, tmp_path / "out", config, report=False, progress=False)()       # without: none are left from before
    assert not (tmp_path / "out" / "points").exists()


def compressed(entries):
    """Pictures and depth as lossless files under the same topics."""
    make = typestore().types[COMPRESSED]
    for topic, time_ns, message in entries:
        if topic == "/image":
            data = cv2.imencode(".png", messages.decode_image(message)[..., ::-1])[1].ravel()
            message = make(header=message.header, format="rgb8; png compressed bgr8", data=data)
        elif topic == "/depth/image":
            metres = np.nan_to_num(messages.decode_image(message))
            png = cv2.imencode(".png", np.rint(1000 * metres).astype(np.uint16))[1].ravel()
            message = make(header=message.header, format="16UC1; compressedDepth png",
                           data=np.concatenate([np.zeros(12, np.uint8), png]))
        yield topic, time_ns, message


def test_a_bag_of_compressed_pictures_replays_as_one_of_raw_ones(bag, checkpoint, tmp_path):
    """The bag says the types; the configuration need not."""
    rig = write(compressed(read_bag(bag)), tmp_path / "rig")
    for name, source in (("raw", bag), ("packed", rig)):
        Replay(source, tmp_path / name, config_of(checkpoint, **{"depth.enabled": False}), report=False,
               progress=False)()
    raw, packed = (frames(tmp_path / name) for name in ("raw", "packed"))
    assert [one["labels"] for one in raw] == [one["labels"] for one in packed] and packed[-1]["mask"]["rgb"]
    Replay(rig, tmp_path / "depth", config_of(checkpoint), report=False, progress=False)()
    assert all(frames(tmp_path / "depth")[-1]["mask"].values())


def test_a_topic_of_a_type_that_its_input_cannot_read_is_named(bag, checkpoint, tmp_path):
    with pytest.raises(ReplayError, match=r"topic /points \(depth\) .* is sensor_msgs/msg/PointCloud2; depth can be "
                                          r"sensor_msgs/msg/Image, sensor_msgs/msg/CompressedImage"):
        Replay(bag, tmp_path / "out", config_of(checkpoint, **{"depth.topic": "points", "lidar.enabled": False}))


def test_the_projection_of_any_lidar_into_any_camera_of_a_rig_can_be_seen(bag, tmp_path):
    """Half of the points each, seen from elsewhere: both cover the same places."""
    rig, config = write(two_lidars(bag), tmp_path / "rig"), Config.from_mapping(TWO_LIDARS)
    (whole, count), (front, some), (rear, others) = (
        show(source, config, 0.7, lidar=name) for source, name in ((bag, ""), (rig, "lidar"), (rig, "lidar_rear")))
    assert some + others == pytest.approx(count, abs=5) and others > 0.4 * count
    dots = [np.ptp(picture.astype(int), axis=2) > 60 for picture in (whole, front, rear)]
    assert np.mean((dots[1] | dots[2]) == dots[0]) > 0.99
    left = write(two_cameras(bag), tmp_path / "cameras")
    views = [show(left, Config.from_mapping(TWO_VIEWS), 0.7, camera=name)[1] for name in ("", "rgb", "rgb_left")]
    assert views[0] == views[1] > views[2] > 100


def test_a_projection_needs_a_camera_and_a_lidar(bag):
    with pytest.raises(ProjectionError, match=r"there is no lidar in inputs = \[rgb, depth\]"):
        show(bag, Config.of_inputs(["rgb", "depth"]))
    with pytest.raises(ProjectionError, match=r"'depth' is no rgb of inputs = \[rgb, depth, event, lidar\]"):
        show(bag, Config(), camera="depth")


def test_the_reduced_configuration_keeps_what_the_view_needs():
    config = Config.from_mapping({**TWO_VIEWS, "tick_source": ["rgb", "depth"]})
    assert config.of_view("rgb").collector.tick_source == ["rgb", "depth"]
    left = config.of_view("rgb_left")
    assert list(left.inputs) == ["rgb_left", "event", "lidar"] and left.target_cameras == ["rgb_left"]
    assert left.collector.tick_source == ["rgb_left", "lidar", "event"]         # none of those given is left
    with pytest.raises(ConfigError, match="'depth' is no view"):
        config.of_view("depth")
