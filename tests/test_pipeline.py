"""pipeline.py, sensors.py and calibration.py: one set from messages to outputs, live hand-over, what makes INVALID."""

from __future__ import annotations

import copy
import itertools
import threading
from dataclasses import replace

import boxes
import numpy as np
import pytest
import yaml

from mss_models.modality import Encoding
from mss_models.runtime import open_runtime
from mss_perception import calibration, messages, rigid
from mss_perception.bags import read_bag
from mss_perception.calibration import Calibration, CalibrationError
from mss_perception.camera import Camera
from mss_perception.config import Config, ConfigError
from mss_perception.faults import FaultSchedule
from mss_perception.health import RATE_SEC
from mss_perception.inputs import InputState, State
from mss_perception.pipeline import Pipeline
from mss_perception.rectify import pinhole
from mss_perception.scoring import ExpectedMasks, judge
from mss_perception.sensors import network_size
from mss_perception.units import SECOND

TYPES = messages.bag_types()
ROLES = Config().topic_roles()


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> list[tuple[str, int, object]]:
    """(role, receive time, message) of the recording; every test works on the same objects and changes copies."""
    bag = boxes.write_bag(tmp_path_factory.mktemp("stream") / "boxes", seconds=2.0)
    return [(ROLES[topic], time_ns, message) for topic, time_ns, message in read_bag(bag) if topic in ROLES]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return open_runtime(boxes.write_checkpoint(tmp_path_factory.mktemp("net") / "net.safetensors"), device="cpu",
                        precision="fp32", threads=1)


def feed(pipeline: Pipeline, stream) -> None:
    now_ns = 0
    for role, now_ns, message in stream:
        pipeline.poll(now_ns)
        pipeline.receive(role, message, now_ns, clock_ns=now_ns)
    pipeline.flush(now_ns)


def outputs_of(stream, runtime, **parameters) -> tuple[list, Pipeline]:
    """Outputs of a synchronous pipeline, dropped sets included."""
    outputs = []
    pipeline = Pipeline(Config.from_mapping(parameters), runtime, outputs.append, synchronous=True)
    feed(pipeline, stream)
    assert pipeline.outputs + sum(pipeline.dropped.values()) == pipeline.ticks
    return outputs, pipeline


def changed(stream, role: str, change) -> list:
    """The stream with `change(copy of message)` done to every message of a role; None leaves it out."""
    result = []
    for key, time_ns, message in stream:
        if key == role:
            message = copy.copy(message)
            message.header = copy.copy(message.header)
            if (message := change(message)) is None:
                continue
        result.append((key, time_ns, message))
    return result


# --------------------------------------------------------------------------------------------------------- one output

def test_output_lies_on_the_target_cameras_grid_under_its_frame(stream, runtime):
    output = outputs_of(stream, runtime, width=48, height=32)[0][-1]
    assert output.labels.shape == output.confidence.shape == (boxes.HEIGHT, boxes.WIDTH)
    assert output.labels.dtype == output.confidence.dtype == np.uint8
    assert output.frame_id == "camera_optical" and output.camera == boxes.camera()
    assert {name: image.shape for name, image in output.images.items()} == dict.fromkeys(output.mask, (32, 48, 3))
    assert {"wait", "preprocess", "inference", "postprocess", "publish"} == set(output.latency_ms)


def test_labels_are_those_of_the_network_on_these_images(stream, runtime):
    for output in outputs_of(stream, runtime)[0][-3:]:
        result = runtime({name: image[None] for name, image in output.images.items()},
                         {name: np.array([used]) for name, used in output.mask.items()},
                         output_size=(boxes.HEIGHT, boxes.WIDTH))
        assert np.array_equal(result.labels[0], output.labels)


def test_points_carry_the_label_of_the_pixel_they_project_to(stream, runtime):
    output = outputs_of(stream, runtime)[0][-1]
    points = output.points
    xyz = np.stack([points[axis] for axis in "xyz"], axis=1).astype(np.float64)
    assert len(xyz) > 1000 and points["label"].dtype == np.uint8
    K = boxes.camera().K
    u, v = (xyz[:, :2] / xyz[:, 2:] @ K[:2, :2].T + K[:2, 2]).T
    column, row = np.rint(u).astype(int), np.rint(v).astype(int)
    assert np.array_equal(points["label"], output.labels[row, column])
    assert np.array_equal(points["confidence"], output.confidence[row, column])


def test_an_undistorted_network_view_comes_back_onto_the_cameras_own_pixels(stream, runtime):
    bent = replace(boxes.camera(), model="plumb_bob", D=(-0.3, 0.08, 0.0, 0.0, 0.0))

    def bend(message):
        return messages.encode_camera_info(TYPES, bent, messages.stamp_ns(message.header))

    stream = changed(stream, "rgb/info", bend)
    size = {"height": boxes.HEIGHT, "width": boxes.WIDTH}
    plain = outputs_of(stream, runtime, **size)[0][-1]
    output = outputs_of(stream, runtime, undistort=True, **size)[0][-1]
    assert output.mask == plain.mask and all(output.mask.values()) and output.camera == bent
    assert output.labels.shape == (boxes.HEIGHT, boxes.WIDTH)
    # There and back: each picture is the raw one again, but for resampling. A wrong direction would double the bend.
    for name in ("rgb", "depth"):
        there, here = (one.images[name].astype(int) for one in (output, plain))
        assert np.mean(np.abs(there - here).max(axis=2) < 40) > 0.9, name
    # Labels and points agree: a point's label is that of its pixel, but for rounding to neighbours.
    xyz = np.stack([output.points[axis] for axis in "xyz"], axis=1)
    uv, _ = bent.project(xyz)
    column, row = np.rint(uv).astype(int).T
    inside = (column >= 0) & (column < boxes.WIDTH) & (row >= 0) & (row < boxes.HEIGHT)
    same = output.labels[row[inside], column[inside]] == output.points["label"][inside]
    assert inside.sum() > 1000 and same.mean() > 0.9


def test_points_can_be_left_out(stream, runtime):
    assert all(output.points is None for output in outputs_of(stream, runtime, publish_points=False)[0])


def test_a_disabled_input_is_disabled_and_never_waited_for(stream, runtime):
    outputs, _ = outputs_of(stream, runtime, **{"lidar.enabled": False})
    assert {output.inputs["lidar"]["state"] for output in outputs} == {"DISABLED"}
    assert not any(output.mask["lidar"] for output in outputs)


def test_inputs_that_the_network_does_not_know_are_left_out(stream, tmp_path):
    small = open_runtime(boxes.write_checkpoint(tmp_path / "net.safetensors", ("rgb", "lidar")), device="cpu",
                         precision="fp32")
    outputs, _ = outputs_of(stream, small)
    assert set(outputs[-1].mask) == {"rgb", "lidar"} and all(outputs[-1].mask.values())
    with pytest.raises(ConfigError, match="tick_source"):
        Pipeline(Config.from_mapping({"tick_source": ["depth", "event"]}), small, print, synchronous=True)


def test_an_encoding_that_no_lane_gives_is_an_error_at_start(runtime):
    other = copy.copy(runtime)
    other.encodings = {**runtime.encodings, "depth": Encoding("depth", "deliver_depth")}
    with pytest.raises(ValueError, match="deliver_depth"):
        Pipeline(Config(), other, print, synchronous=True)


# ------------------------------------------------------------------------------------------------------------ INVALID

def with_encoding(message):
    message.encoding = "yuv9000"
    return message


def with_other_size(message):
    pixels = np.zeros((10, 20, 3), np.uint8)
    return messages.encode_image(TYPES, pixels, "rgb8", messages.stamp_ns(message.header), "camera_optical")


def without_points(message):
    return messages.encode_cloud(TYPES, {name: np.zeros(0, np.float32) for name in "xyz"},
                                 messages.stamp_ns(message.header), "lidar")


def all_nan(message):
    return messages.encode_image(TYPES, np.full((boxes.HEIGHT, boxes.WIDTH), np.nan, np.float32), "32FC1",
                                 messages.stamp_ns(message.header), "depth_optical")


def in_unknown_frame(message):
    message.header.frame_id = "moon"
    return message


def left_out(message):
    return None


@pytest.mark.parametrize("name, role, change, reason", [
    ("rgb", "rgb", with_encoding, "'yuv9000' is not supported"),
    ("rgb", "rgb", with_other_size, "image is 20 x 10, camera_info says 96 x 64"),
    ("lidar", "lidar", without_points, "cloud is empty"),
    ("lidar", "lidar", in_unknown_frame, "no transform from frame 'moon' to 'camera_optical'"),
    ("depth", "depth", all_nan, "no valid pixel"),
    ("depth", "depth/info", left_out, "no camera_info on 'depth/camera_info'"),
    ("event", "event/info", left_out, "no camera_info on 'events/camera_info'"),
])
def test_unusable_data_is_invalid_with_its_reason_and_the_rest_goes_on(stream, runtime, name, role, change, reason):
    outputs, pipeline = outputs_of(changed(stream, role, change), runtime)
    last = outputs[-1]
    assert last.inputs[name]["state"] == "INVALID" and reason in last.inputs[name]["reason"]
    assert last.mask == {other: other != name for other in last.mask} and last.labels is not None
    status = pipeline.diagnostics()
    assert status["level"] == "WARN" and reason in status["message"] and status["warnings"][f"{name}_invalid"] > 3


def test_a_depth_camera_may_call_its_millimetres_mono16(stream, runtime):
    def millimetres(encoding):
        def change(message):
            metres = np.nan_to_num(messages.decode_image(message))
            changed = messages.encode_image(TYPES, (1000 * metres).astype(np.uint16), "16UC1",
                                            messages.stamp_ns(message.header), message.header.frame_id)
            changed.encoding = encoding
            return changed
        return change

    expected, found = (outputs_of(changed(stream, "depth", millimetres(encoding)), runtime)[0][-1]
                       for encoding in ("16UC1", "mono16"))
    assert found.mask["depth"] and np.array_equal(found.images["depth"], expected.images["depth"])


def test_without_tf_nothing_is_placed_by_guess(stream, runtime):
    outputs, _ = outputs_of([entry for entry in stream if entry[0] != "tf_static"], runtime)
    assert outputs[-1].mask == {"rgb": True, "depth": False, "event": False, "lidar": False}
    assert "no transform" in outputs[-1].inputs["lidar"]["reason"]


def test_without_the_target_cameras_intrinsics_there_is_no_grid(stream, runtime):
    outputs, pipeline = outputs_of(changed(stream, "rgb/info", left_out), runtime)
    assert pipeline.outputs == 0 and set(pipeline.dropped) == {"below_min_modalities"}
    assert "no camera_info of the target camera" in outputs[-1].inputs["lidar"]["reason"]
    assert pipeline.diagnostics()["level"] == "ERROR"


def test_an_impossible_camera_info_changes_nothing(stream, runtime):
    def zero_focal_length(message):
        message.k = np.zeros(9)
        return message

    late = [entry for entry in stream if entry[1] > boxes.START_NS + 500_000_000]
    outputs, pipeline = outputs_of(stream[:-len(late)] + changed(late, "rgb/info", zero_focal_length), runtime)
    assert outputs[-1].mask["rgb"] and outputs[-1].camera == boxes.camera()
    assert pipeline.warnings["rgb/info_invalid"] == sum(role == "rgb/info" for role, *_ in late)


def test_two_calibrations_in_turn_are_counted_told_once_and_computed_once(stream, runtime, caplog):
    """As of two cameras that publish their camera_info on one topic, or of one with two modes."""
    bent = [replace(boxes.camera(), model="plumb_bob", D=(k1, 0.0, 0.0, 0.0, 0.0)) for k1 in (-0.2, -0.3)]
    pipeline = Pipeline(Config.from_mapping({"undistort": True}), runtime, print, synchronous=True)
    sensors, tables = pipeline.sensors, []
    for camera in 5 * bent:
        info = messages.encode_camera_info(TYPES, camera, boxes.START_NS)
        for _ in range(2):
            pipeline.receive("rgb/info", info, boxes.START_NS)
        view = sensors.view("rgb", sensors.cameras)
        assert view.camera == camera and view.seen == pinhole(camera)
        tables.append(view.rectification)
    assert len(set(map(id, tables))) == 2
    assert pipeline.diagnostics()["warnings"]["rgb/info_changed"] == 9
    assert [record.getMessage().partition(" to ")[0] for record in caplog.records] == ["calibration of rgb has changed"]


def test_the_lane_of_a_calibration_that_comes_back_is_the_one_that_was_there(stream, runtime):
    pipeline, lanes = outputs_of(stream, runtime)[1], []
    sensors, state = pipeline.sensors, InputState(State.OK, boxes.START_NS, payload=(), coverage=1.0)
    for k1 in (0.0, -0.1, 0.0, -0.1, -0.2, -0.3, 0.0):
        camera = replace(boxes.camera("event_optical"), model="plumb_bob", D=(k1, 0.0, 0.0, 0.0, 0.0))
        sensors.learn("event/info", messages.encode_camera_info(TYPES, camera, boxes.START_NS))
        lanes.append(sensors.see("event", state, boxes.START_NS, sensors.cameras, "rgb").lane)
    assert lanes[0] is lanes[2] and lanes[1] is lanes[3]
    assert len({id(lane) for lane in lanes}) == 5, "that of before the last two is made anew"


@pytest.mark.parametrize("values", [{"width": 30_000, "height": 2}, {"width": 2, "height": 30_000}])
def test_a_camera_too_narrow_for_the_network_makes_its_view_invalid(stream, runtime, values):
    """Its images would have been 240,000 pixels long."""
    def changed_info(message):
        for name, value in values.items():
            setattr(message, name, value)
        return message

    outputs, pipeline = outputs_of(changed(stream, "rgb/info", changed_info), runtime)
    assert pipeline.outputs == 0 and set(pipeline.dropped) == {"below_min_modalities"}
    for name in ("rgb", "lidar"):
        assert outputs[-1].inputs[name]["state"] == "INVALID"
        assert "at most 8192 on a side; is its camera_info right?" in outputs[-1].inputs[name]["reason"]
    outputs, _ = outputs_of(changed(stream, "rgb/info", changed_info), runtime, width=64, height=64)
    assert "at most 8192" not in str(outputs[-1].inputs), "the size may be configured"


def test_the_frame_of_the_target_camera_can_be_configured(stream, runtime):
    def in_frame(name):
        def change(message):
            message.header.frame_id = name
            return message
        return change

    expected, _ = outputs_of(stream, runtime)
    for name in ("", "wrong"):
        faulted = changed(changed(stream, "rgb/info", in_frame(name)), "rgb", in_frame(name))
        found, _ = outputs_of(faulted, runtime, **{"rgb.frame_id": "/camera_optical"})
        assert found[-1].frame_id == found[-1].camera.frame_id == "camera_optical" and all(found[-1].mask.values())
        assert all(np.array_equal(image, expected[-1].images[one]) for one, image in found[-1].images.items())
        without, _ = outputs_of(faulted, runtime)
        assert without[-1].mask == {"rgb": True, "depth": False, "event": False, "lidar": False}
        reason = without[-1].inputs["lidar"]["reason"]
        assert ("set rgb.frame_id" if not name else "no transform from frame 'lidar' to 'wrong'") in reason


AHEAD, BACK = boxes.LIDAR, rigid.matrix([0, 0, 0], [0, 0, 1, 0]) @ boxes.LIDAR


def lidars_at(mounts: dict[str, np.ndarray], stream) -> list:
    """The stream with its cloud from each of these LiDARs, at their places on the vehicle."""
    static = [("base_link", "camera_optical", boxes.OPTICAL), *(("base_link", *one) for one in mounts.items())]
    result = [("tf_static", stream[0][1], messages.encode_transforms(TYPES, static, stream[0][1]))]
    for role, now_ns, message in stream:
        for name in mounts if role == "lidar" else ():
            copied = copy.copy(message)
            copied.header = copy.copy(message.header)
            copied.header.frame_id = name
            result.append((name, now_ns, copied))
        if role not in ("lidar", "tf_static"):
            result.append((role, now_ns, message))
    return result


@pytest.mark.parametrize(("mounts", "used"), [({"lidar": AHEAD, "lidar_rear": BACK}, True), ({"lidar": BACK}, False)])
def test_lidars_that_see_nothing_of_the_view_are_invalid_unless_another_does(stream, runtime, mounts, used):
    """A blank picture would tell the network that nothing is there."""
    outputs, pipeline = outputs_of(lidars_at(mounts, stream), runtime, inputs=["rgb", *mounts], odometry_topic="",
                                   **({"lidar_rear.topic": "/rear"} if "lidar_rear" in mounts else {}))
    output = outputs[-1]
    assert {name: output.mask[name] for name in mounts} == dict.fromkeys(mounts, used)
    assert ("lidar" in output.images) == used and output.labels is not None
    status = pipeline.diagnostics()
    if used:
        assert status["level"] == "OK" and output.inputs["lidar_rear"]["points_in_image"] == 0
        return
    assert output.inputs["lidar"]["state"] == "INVALID" and "points" not in output.inputs["lidar"]
    assert all(words in output.inputs["lidar"]["reason"] for words in (
        "none of ", " returns lies in the camera's view: check the mounting", "'camera_optical'"))
    assert status["level"] == "WARN" and "check the mounting" in status["message"]


def test_a_lidar_that_sees_nothing_is_warned_of_once(stream, runtime, caplog):
    outputs_of(lidars_at({"lidar": BACK}, stream), runtime, inputs=["rgb", "lidar"], odometry_topic="")
    assert sum("none of" in one.getMessage() for one in caplog.records) == 1


def test_each_view_judges_a_lidar_for_itself(stream, runtime):
    """The second camera looks back."""
    def behind(role, message):
        message = copy.copy(message)
        message.header = copy.copy(message.header)
        message.header.frame_id = "behind"
        return f"rgb_rear{role.removeprefix('rgb')}", message

    turned = messages.encode_transforms(TYPES, [("camera_optical", "behind", rigid.matrix([0, 0, 0], [0, 1, 0, 0]))], 1)
    both = [("tf_static", stream[0][1], turned)]
    for role, now_ns, message in stream:
        both.append((role, now_ns, message))
        if role in ("rgb", "rgb/info"):
            role, message = behind(role, message)
            both.append((role, now_ns, message))
    outputs = []
    pipeline = Pipeline(Config.from_mapping({
        "inputs": ["rgb", "rgb_rear", "lidar"], "target_cameras": ["rgb", "rgb_rear"], "rgb_rear.topic": "/rear",
        "rgb_rear.info_topic": "/rear_info", "odometry_topic": ""}), runtime, outputs.append, synchronous=True)
    feed(pipeline, both)
    assert {output.view: output.mask["lidar"] for output in outputs[-2:]} == {"rgb": True, "rgb_rear": False}
    assert "in the view of rgb_rear: none of" in pipeline.diagnostics()["inputs"]["lidar"]["reason"]


def test_a_dropped_set_has_the_frame_of_its_camera(stream, runtime):
    faults = FaultSchedule(["rgb:drop@0.5-", "depth:drop@0.5-", "event:drop@0.5-"])
    dropped = outputs_of(faults.apply(stream, boxes.START_NS), runtime, min_modalities=2)[0][-1]
    assert dropped.dropped == "below_min_modalities" and dropped.frame_id == "camera_optical"


def test_a_new_calibration_moves_the_points(stream, runtime):
    def shifted(message):
        k = np.array(message.k)
        k[2] += 30      # the principal point: everything appears 30 pixels farther right
        message.k = k
        return message

    late = [entry for entry in stream if entry[1] > boxes.START_NS + 500_000_000]
    before, _ = outputs_of(stream, runtime)
    after, _ = outputs_of(stream[:-len(late)] + changed(late, "rgb/info", shifted), runtime)
    assert after[-1].inputs["lidar"]["points_in_image"] < before[-1].inputs["lidar"]["points_in_image"] - 200
    assert np.array_equal(after[-1].images["lidar"][:, 31:], before[-1].images["lidar"][:, 1:-30])
    assert np.array_equal(after[3].images["lidar"], before[3].images["lidar"])


def test_a_calibration_that_comes_while_a_set_is_in_work_is_for_the_next_set(stream, runtime):
    """Live, camera_info arrives on another thread: here between two lanes of each set."""
    info = next(message for role, _, message in stream if role == "rgb/info")
    half = copy.copy(info)
    half.width, half.height, half.k = boxes.WIDTH // 2, boxes.HEIGHT // 2, np.array(info.k) / 2
    half.k[8] = 1
    outputs = []

    def done_with(output):
        outputs.append(output)
        pipeline.sensors.learn("rgb/info", info)

    pipeline = Pipeline(Config(), runtime, done_with, synchronous=True)
    see, learnt = pipeline.sensors.see, []

    def interrupted(name, *arguments):
        result = see(name, *arguments)
        if name == "depth":
            learnt.append(pipeline.sensors.learn("rgb/info", half))
        return result

    pipeline.sensors.see = interrupted
    feed(pipeline, [entry for entry in stream if entry[0] != "rgb/info" or entry[1] < boxes.START_NS + 150_000_000])
    done = [output for output in outputs if not output.dropped]
    assert len(done) > 10 and all(all(output.mask.values()) for output in done) and len(learnt) >= len(done)
    for output in done:
        assert output.camera == boxes.camera() and output.labels.shape == (boxes.HEIGHT, boxes.WIDTH)
        assert output.inputs["lidar"]["points_in_image"] > 1000


# ------------------------------------------------------------------------------------------------------------- faults

@pytest.mark.parametrize("fault, mask, states", [
    ("lidar:drop@0.6-1.3", False, {"MISSING", "STALE"}),
    ("lidar:delay=0.25@0.6-1.3", False, {"LATE", "MISSING", "STALE"}),
    ("lidar:delay=0.04@0.6-1.3", True, {"OK"}),
    ("lidar:corrupt@0.6-1.3", False, {"INVALID"}),
    ("lidar:stamp=-0.5@0.6-1.3", False, {"LATE", "MISSING", "STALE"}),
    ("lidar:noise=0.1@0.6-1.3", True, {"OK"}),
    ("lidar:freeze@0.6-1.3", True, {"OK"}),
    ("depth:corrupt@0.6-1.3", False, {"INVALID"}),
    ("event:drop@0.6-1.3", False, {"MISSING", "STALE", "LATE"}),
    ("event:corrupt@0.6-1.3", False, {"INVALID"}),
    ("rgb:drop@0.6-1.3", False, {"MISSING", "STALE", "LATE"}),
])
def test_mask_of_each_fault_is_the_specified_one(stream, runtime, fault, mask, states):
    schedule = FaultSchedule([fault], seed=1)
    outputs, _ = outputs_of(schedule.apply(stream, boxes.START_NS), runtime, width=32, height=32)
    name = fault.partition(":")[0]
    stamps = {role: [messages.stamp_ns(m.header) for key, _, m in stream if key == role] for role in outputs[0].mask}
    expected = ExpectedMasks(schedule.faults, Config(), boxes.START_NS, stamps)
    assert not any(judge(output.mask, expected(output.t_ref_ns)) is False for output in outputs)
    during = [output for output in outputs if 0.75 < (output.t_ref_ns - boxes.START_NS) / 1e9 < 1.2]
    assert len(during) >= 4 and all(expected(output.t_ref_ns)[name] is mask for output in during)
    assert {output.inputs[name]["state"] for output in during} <= states
    # Nothing else suffers, and it comes back.
    assert all(output.mask == {**dict.fromkeys(output.mask, True), name: mask} for output in during)
    assert all(all(output.mask.values()) for output in outputs[-2:])
    frozen = [output.inputs[name].get("frozen", False) for output in during]
    assert all(frozen) if "freeze" in fault else not any(frozen)


# ------------------------------------------------------------------------------------------------------- calibration

def test_calibration_file_stands_in_for_camera_info_and_tf(stream, runtime, tmp_path):
    path = tmp_path / "calibration.yaml"
    frames = {"rgb": "camera_optical", "depth": "depth_optical", "event": "event_optical"}
    calibration.save(path, Calibration(
        {name: boxes.camera(frame) for name, frame in frames.items()},
        [("base_link", frame, boxes.OPTICAL) for frame in frames.values()] + [("base_link", "lidar", boxes.LIDAR)]))
    bare = [entry for entry in stream if entry[0] != "tf_static" and not entry[0].endswith("/info")]
    from_file, _ = outputs_of(bare, runtime, calibration_file=str(path))
    from_topics, _ = outputs_of(stream, runtime)
    assert all(from_file[-1].mask.values())
    for name, image in from_topics[-1].images.items():
        assert np.array_equal(image, from_file[-1].images[name]), name


def test_calibration_reads_back_as_written(tmp_path):
    camera = Camera(640, 480, np.array([[500.5, 0, 319.5], [0, 501, 239.5], [0, 0, 1]]), "plumb_bob",
                    (-0.1, 0.02, 0.001, -0.002, 0.0), "front")
    T = np.array([[0, -1, 0, 1.5], [1, 0, 0, 2], [0, 0, 1, -0.25], [0, 0, 0, 1.0]])
    calibration.save(tmp_path / "c.yaml", Calibration({"rgb": camera}, [("base_link", "front", T)]))
    again = calibration.load(tmp_path / "c.yaml")
    assert again.cameras == {"rgb": camera}
    (parent, child, again_T), = again.extrinsics
    assert (parent, child) == ("base_link", "front") and np.array_equal(again_T, T)


def test_calibration_takes_quaternions(tmp_path):
    (tmp_path / "c.yaml").write_text("extrinsics: [{parent: a, child: b, translation: [1, 2, 3], "
                                     "rotation: [0, 0, 0.7071067811865476, 0.7071067811865476]}]")
    (_, _, T), = calibration.load(tmp_path / "c.yaml").extrinsics
    assert np.allclose(T @ [1, 0, 0, 1], [1, 3, 3, 1])


CAMERA = {"frame_id": "f", "width": 4, "height": 3, "K": [1, 0, 0, 0, 1, 0, 0, 0, 1]}


@pytest.mark.parametrize("content, text", [
    (": :\n -", "is not YAML"),
    ("[]", "must be a mapping with 'cameras'"),
    ({"camera": {}}, "must be a mapping with 'cameras'"),
    ({"cameras": {"rgb": {"K": []}}}, "camera 'rgb' must have K, frame_id, height, width"),
    ({"cameras": {"rgb": {**CAMERA, "K": [1, 2]}}}, "must be 9 finite numbers"),
    ({"cameras": {"rgb": {**CAMERA, "K": ["a"] * 9}}}, "must be 9"),
    ({"cameras": {"rgb": {**CAMERA, "width": 0}}}, "camera size 0 x 3"),
    ({"cameras": {"rgb": {**CAMERA, "distortion_model": "barrel"}}}, "'barrel' is unknown"),
    ({"extrinsics": [{"parent": "a", "child": "b", "matrix": [1] * 16}]}, "no rigid transform"),
    ({"extrinsics": [{"parent": "a", "child": "b", "translation": [0, 0, 0], "rotation": [0, 0, 0, 9]}]},
     "must be a unit quaternion"),
    ({"extrinsics": [{"parent": p, "child": "b", "matrix": np.eye(4).ravel().tolist()} for p in "ac"]},
     "b has more than one parent"),
])
def test_wrong_calibration_is_refused_with_the_entry_and_the_cure(tmp_path, content, text):
    path = tmp_path / "c.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(CalibrationError) as error:
        calibration.load(path)
    assert text in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("width, height, camera, expected", [
    (0, 0, (96, 64), (64, 96)),             # the checkpoint's own size
    (0, 0, (1600, 900), (64, 128)),         # its shorter side in the camera's aspect: 113.8 -> 128
    (0, 0, (600, 1200), (128, 64)),
    (320, 0, (1600, 900), (192, 320)),
    (0, 256, (1600, 900), (256, 448)),
    (50, 70, (1600, 900), (70, 50)),        # as asked
])
def test_network_size(width, height, camera, expected):
    config = Config.from_mapping({"width": width, "height": height})
    some = Camera(*camera, np.array([[100.0, 0, 0], [0, 100, 0], [0, 0, 1]]))
    assert network_size(config, (boxes.HEIGHT, boxes.WIDTH), some) == expected


# ------------------------------------------------------------------------------------------------------- frozen, live

def test_identical_payloads_are_noticed_only_when_every_byte_is_the_same(stream, runtime):
    payloads = [message.data for role, _, message in stream if role == "rgb"]
    altered = payloads[0].copy()
    altered[12345] ^= 1
    alternating = itertools.cycle([payloads[0], altered])
    _, pipeline = outputs_of(changed(stream, "rgb", lambda m: replace(m, data=next(alternating))), runtime)
    assert pipeline.warnings["rgb_frozen"] == 0
    outputs, pipeline = outputs_of(changed(stream, "rgb", lambda m: replace(m, data=payloads[0])), runtime)
    assert pipeline.warnings["rgb_frozen"] == len(payloads) - 1
    assert outputs[-1].inputs["rgb"]["frozen"] and outputs[-1].mask["rgb"]


def test_a_message_that_comes_twice_repeats_nothing(stream, runtime):
    """Every image twice, as over two paths of a network: no new stamp, so nothing is frozen."""
    twice = [entry for entry in stream for _ in range(2 if entry[0] == "rgb" else 1)]
    _, pipeline = outputs_of(twice, runtime)
    images = sum(role == "rgb" for role, *_ in stream)
    assert pipeline.collector.input_counters["rgb"]["duplicate"] == images and pipeline.warnings["rgb_frozen"] == 0
    frozen = list(FaultSchedule(["rgb:freeze@0-"]).apply(stream, boxes.START_NS))
    twice = [entry for entry in frozen for _ in range(2 if entry[0] == "rgb" else 1)]
    outputs, pipeline = outputs_of(twice, runtime)
    assert pipeline.warnings["rgb_frozen"] == 2 * (images - 1)      # both of each are what came under the stamp before
    assert all(output.inputs["rgb"].get("frozen") for output in outputs[1:] if output.mask["rgb"])


class Gate:
    """The runtime, held up until told to go on."""

    def __init__(self, runtime):
        self.runtime, self.entered, self.go = runtime, threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self.runtime, name)

    def __call__(self, *arguments, **options):
        self.entered.set()
        assert self.go.wait(30)
        return self.runtime(*arguments, **options)


def test_live_the_newest_set_wins_and_the_replaced_ones_are_counted(stream, runtime):
    outputs, gate = [], Gate(runtime)
    pipeline = Pipeline(Config(), gate, outputs.append, synchronous=False)
    first = [entry for entry in stream if entry[1] < boxes.START_NS + 400_000_000]
    for role, now_ns, message in first:
        pipeline.poll(now_ns)
        pipeline.receive(role, message, now_ns)
    assert gate.entered.wait(30)
    for role, now_ns, message in stream[len(first):]:       # the network is busy meanwhile, and nobody waits for it
        pipeline.poll(now_ns)
        pipeline.receive(role, message, now_ns)
    pipeline.collector.flush(now_ns)
    newest = pipeline.collector.counters["ticks"]
    gate.go.set()
    pipeline.flush(now_ns)
    pipeline.close()
    assert outputs[-1].t_ref_ns == max(output.t_ref_ns for output in outputs)
    assert outputs[-1].seq == newest - 1, "the newest set was not the one that waited"
    assert pipeline.dropped["replaced"] >= 4
    assert pipeline.outputs + sum(pipeline.dropped.values()) == pipeline.ticks
    assert not any(thread.name == "inference" for thread in threading.enumerate())


def test_live_and_replay_agree_on_every_set(stream, runtime):
    live = {}
    pipeline = Pipeline(Config.from_mapping({"compute_policy": "every", "max_pending": 100}), runtime,
                        lambda output: live.__setitem__(output.t_ref_ns, output), synchronous=False)
    feed(pipeline, stream)
    pipeline.close()
    replayed, _ = outputs_of(stream, runtime)
    assert len(live) == len(replayed) > 8
    for output in replayed:
        assert output.mask == live[output.t_ref_ns].mask
        assert np.array_equal(output.labels, live[output.t_ref_ns].labels)


def test_exceptions_cost_their_set_and_nothing_else(stream, runtime):
    class Failing(Gate):
        calls = 0

        def __call__(self, *arguments, **options):
            self.calls += 1
            if self.calls in (2, 3):
                raise RuntimeError("the device is gone")
            return self.runtime(*arguments, **options)

    outputs, pipeline = outputs_of(stream, Failing(runtime))
    assert pipeline.dropped["error"] == 2 and [o.dropped for o in outputs].count("error") == 2
    assert outputs[-1].labels is not None


def test_a_failing_consumer_does_not_end_the_live_thread(stream, runtime):
    seen = []

    def consume(output):
        seen.append(output.t_ref_ns)
        raise ValueError("cannot publish")

    pipeline = Pipeline(Config.from_mapping({"compute_policy": "every", "max_pending": 100}), runtime, consume,
                        synchronous=False)
    feed(pipeline, stream)
    pipeline.close()
    assert len(seen) > 8 and pipeline.warnings["output_errors"] == len(seen)
    assert pipeline.outputs == 0 and pipeline.dropped == {"unpublished": pipeline.ticks}
    status = pipeline.diagnostics()
    assert (status["level"], status["message"].partition(":")[0]) == ("ERROR", "outputs cannot be published")
    assert pipeline.diagnostics()["level"] == "OK"      # none since


def test_in_replay_a_failing_consumer_is_the_callers_error(stream, runtime):
    def consume(output):
        raise ValueError("disk full")

    with pytest.raises(ValueError, match="disk full"):
        feed(Pipeline(Config(), runtime, consume, synchronous=True), stream)


def test_closing_ends_the_thread_and_counts_what_waited(stream, runtime):
    gate = Gate(runtime)
    pipeline = Pipeline(Config(), gate, lambda output: None, synchronous=False)
    for role, now_ns, message in stream:
        pipeline.poll(now_ns)
        pipeline.receive(role, message, now_ns)
        if pipeline.collector.counters["emitted"]:      # the first set is in the network, another will wait
            assert gate.entered.wait(30)
    pipeline.collector.flush(now_ns)
    threading.Timer(0.5, gate.go.set).start()     # long after close has begun
    pipeline.close()
    assert pipeline.dropped["closed"] == 1
    assert pipeline.outputs + sum(pipeline.dropped.values()) == pipeline.ticks
    assert not any(thread.name == "inference" for thread in threading.enumerate())


def test_closing_does_not_wait_for_a_network_that_hangs(stream, runtime):
    gate, outputs = Gate(runtime), []
    pipeline = Pipeline(Config(), gate, outputs.append, synchronous=False)
    for role, now_ns, message in stream:
        pipeline.poll(now_ns)
        pipeline.receive(role, message, now_ns)
    assert gate.entered.wait(30)
    pipeline.close(patience_sec=0.1)            # returns although the gate is shut
    dropped = dict(pipeline.dropped)
    assert dropped["closed"] >= 1
    thread = next(one for one in threading.enumerate() if one.name == "inference")
    gate.go.set()
    thread.join(30)
    assert not thread.is_alive() and not outputs and (dict(pipeline.dropped), pipeline.outputs) == (dropped, 0)


def test_a_network_that_hangs_is_an_error_and_one_that_starts_slowly_is_none(stream, runtime):
    """Its time of inference is that of the sets that it has done; only of the first nothing is known."""
    _, pipeline = outputs_of(stream, runtime)
    fresh = Pipeline(Config(), runtime, print, synchronous=True)

    feed(fresh, stream)
    fresh.health.recent.clear()

    def level(pipeline: Pipeline, working_sec: float, tick_sec: float = 0.1) -> str:
        pipeline.health.tick_sec = tick_sec
        status = pipeline.collector.status()
        return pipeline.health.summary(status, set(), working_sec)["level"]

    assert level(pipeline, 1.9) == "OK" and level(pipeline, 2.1) == "ERROR"
    assert level(pipeline, 14.0, 5.0) == "OK" and level(pipeline, 16.0, 5.0) == "ERROR"
    for _, output in pipeline.health.recent:
        output.latency_ms["inference"] = 3000.0
    assert level(pipeline, 8.0) == "OK" and level(pipeline, 10.0) == "ERROR"
    assert level(fresh, 200.0) == "WARN" and level(fresh, 400.0) == "ERROR" and level(fresh, 0.0) == "OK"


def test_live_the_set_that_the_network_hangs_at_is_told(stream, runtime, monkeypatch):
    monkeypatch.setattr("mss_perception.health.HANGS_SEC", 0.0)
    gate = Gate(runtime)
    pipeline = Pipeline(Config.from_mapping({"tick_rate_hz": 1000}), gate, lambda output: None, synchronous=False)
    assert "no output" not in pipeline.diagnostics()["message"]
    for role, now_ns, message in stream:
        pipeline.poll(now_ns)
        pipeline.receive(role, message, now_ns)
    assert gate.entered.wait(30)
    threading.Event().wait(0.01)        # three ticks and more
    assert "the network is still at its first set" in pipeline.diagnostics()["message"]
    gate.go.set()
    pipeline.flush(now_ns)
    assert pipeline.diagnostics()["level"] == "OK"
    pipeline.close()


def test_diagnostics_tell_the_state_in_figures(stream, runtime):
    _, pipeline = outputs_of(stream, runtime)
    status = pipeline.diagnostics()
    assert status["level"] == "OK" and status["model_id"] == runtime.model_id
    assert status["ticks"] == status["outputs"] + sum(status["dropped"].values())
    assert status["inputs"]["rgb"]["rate_hz"] == pytest.approx(10) and status["inputs"]["event"]["rate_hz"] > 90
    assert {"wait", "preprocess", "inference", "postprocess", "publish"} <= set(status["latency_ms"])
    assert 0 < status["fps_out"] < 1000
    pipeline.reset("a test says so")
    assert pipeline.diagnostics()["level"] == "STALE"


def with_stamp(message, stamp):
    """A copy of the message under another stamp."""
    message = copy.copy(message)
    message.header = copy.deepcopy(message.header)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, SECOND)
    return message


def test_silence_of_everybody_is_stale_though_no_set_says_so(stream, runtime):
    _, pipeline = outputs_of(stream, runtime)
    end_ns = stream[-1][1]
    pipeline.poll(end_ns + SECOND // 10)
    assert pipeline.diagnostics()["level"] == "OK"          # what can still come is not missing
    pipeline.poll(end_ns + 60 * SECOND)
    status = pipeline.diagnostics()
    assert (status["level"], status["message"]) == ("STALE", "no input")
    assert {one["state"] for one in status["inputs"].values()} == {"STALE"}


def test_without_a_living_tick_source_there_is_no_reference(stream, runtime):
    _, pipeline = outputs_of(FaultSchedule(["rgb:drop@1-"]).apply(stream, boxes.START_NS), runtime, tick_source=["rgb"])
    status = pipeline.diagnostics()
    assert status["level"] == "ERROR" and "none of tick_source rgb" in status["message"]
    assert status["inputs"]["rgb"]["state"] == "STALE" and status["inputs"]["lidar"]["state"] == "OK"


def test_the_rate_is_that_of_the_last_seconds(stream, runtime):
    _, pipeline = outputs_of(stream, runtime)
    recent = pipeline.health.recent
    pipeline.health.recent = type(recent)((when - RATE_SEC, output) for when, output in recent)
    assert pipeline.diagnostics()["fps_out"] == 0


def test_live_a_set_that_is_emitted_late_tells_how_long_it_has_waited(stream, runtime):
    """The driver was held up for 0.3 s while a set was open: its deadline has passed, but nobody could act on it."""
    outputs = []
    pipeline = Pipeline(Config.from_mapping({"compute_policy": "every"}), runtime, outputs.append, synchronous=False)
    first_image = next(time_ns for role, time_ns, _ in stream if role == "rgb")
    for role, now_ns, message in stream:
        if now_ns <= first_image and role != "depth":
            pipeline.receive(role, message, now_ns)
    pipeline.poll(first_image + 300_000_000)
    pipeline.flush(first_image + 300_000_000)
    pipeline.close()
    assert max(output.latency_ms["wait"] for output in outputs) == pytest.approx(300, abs=1)


def test_rejected_messages_are_the_reason_in_diagnostics(stream, runtime):
    """All stamps are a second ahead of the node's clock."""
    pipeline = Pipeline(Config(), runtime, print, synchronous=True)
    for role, now_ns, message in stream:
        pipeline.poll(now_ns)
        pipeline.receive(role, message, now_ns, clock_ns=now_ns - SECOND)
    status = pipeline.diagnostics()
    images = sum(role == "rgb" for role, *_ in stream)
    reason = f"{images} messages rejected: stamps are in the future; check time synchronisation"
    assert status["level"] == "STALE" and f"rgb: {reason}" in status["message"]
    assert status["inputs"]["rgb"]["reason"] == reason


def test_odometry_from_the_future_is_refused_and_the_deskew_goes_on(stream, runtime):
    def one_ahead(role, time_ns, message):
        ahead = role == "odom" and 0 <= time_ns - boxes.START_NS - 500_000_000 < 20_000_000
        return with_stamp(message, time_ns + 3600 * SECOND) if ahead else message

    outputs, pipeline = outputs_of([(role, t, one_ahead(role, t, message)) for role, t, message in stream], runtime)
    assert pipeline.warnings["odom_invalid"] == 1
    assert outputs[-1].inputs["lidar"]["deskewed"]
    pose = messages.encode_transforms(TYPES, [("odom", "base_link", np.eye(4))], boxes.START_NS + SECOND)
    with pytest.raises(messages.MessageError, match=r"1\.000 s in the future; at most max_future_sec = 0\.1"):
        pipeline.sensors.learn("tf", pose, clock_ns=boxes.START_NS)
    pipeline.sensors.learn("tf", pose, clock_ns=boxes.START_NS + SECOND)
    pipeline.receive("tf", pose, boxes.START_NS, clock_ns=boxes.START_NS)
    assert pipeline.diagnostics()["warnings"]["tf_invalid"] == 1


def test_odometry_beside_tf_is_counted_and_told_once(stream, runtime, caplog):
    """And a set that it would have disturbed is as without it."""
    def poses(role, time_ns, message):
        if role != "odom":
            return [(role, time_ns, message)]
        tf = messages.encode_transforms(TYPES, [("odom", "base_link", np.eye(4))], messages.stamp_ns(message.header))
        aside = copy.deepcopy(message)
        aside.pose.pose.position.y = 3.0
        return [("tf", time_ns, tf), (role, time_ns, aside)]

    alone, _ = outputs_of(stream, runtime)
    outputs, pipeline = outputs_of([one for entry in stream for one in poses(*entry)], runtime)
    odometry = sum(role == "odom" for role, *_ in stream)
    assert pipeline.diagnostics()["warnings"] == {"odom_ignored": odometry}
    assert sum("odometry is ignored: tf places 'base_link'" in one.getMessage() for one in caplog.records) == 1
    assert outputs[-1].inputs["lidar"]["deskewed"]
    np.testing.assert_array_equal(outputs[-1].images["lidar"], alone[-1].images["lidar"])


@pytest.mark.parametrize(("role", "parent", "turned_deg", "aside_m", "told"), [
    ("tf_static", "base_link", 0.0, 0.0, ""), ("tf_static", "base_link", 0.005, 0.0005, ""),
    ("tf_static", "base_link", 2.0, 0.0, "0.0 mm and 2.00 degrees"),
    ("tf", "base_link", 0.0, 0.02, "20.0 mm and 0.00 degrees"),
    ("tf_static", "mast", 0.0, 0.0, ""), ("tf_static", "mast", 0.0, 0.02, "20.0 mm and 0.00 degrees")])
def test_a_refined_mounting_is_not_replaced_in_silence(runtime, tmp_path, caplog, role, parent, turned_deg, aside_m,
                                                       told):
    """The URDF has the LiDAR elsewhere than the calibration file, or the same by way of another frame."""
    calibration.save(tmp_path / "calibration.yaml", Calibration(extrinsics=[("base_link", "lidar", boxes.LIDAR)]))
    pipeline = Pipeline(Config.from_mapping({"calibration_file": str(tmp_path / "calibration.yaml")}), runtime, print,
                        synchronous=True)
    half = np.radians(turned_deg) / 2
    there = boxes.LIDAR @ rigid.matrix([aside_m, 0, 0], [0, 0, np.sin(half), np.cos(half)])
    mast = rigid.matrix([0, 0, 0.5], [0, 0, 0, 1])
    edges = [("base_link", "lidar", there)] if parent == "base_link" else \
        [("mast", "lidar", rigid.inverse(mast) @ there), ("base_link", "mast", mast)]
    for k in range(3):
        pipeline.receive(role, messages.encode_transforms(TYPES, edges, boxes.START_NS + k), boxes.START_NS)
    np.testing.assert_allclose(pipeline.sensors.transforms.lookup("base_link", "lidar"), there, atol=1e-9)
    texts = [one.getMessage() for one in caplog.records if "calibration_file" in one.getMessage()]
    assert len(texts) == bool(told) and all(f"by {role}, which wins, it is {told} away" in one for one in texts)
    assert pipeline.diagnostics()["warnings"] == ({f"{role}_replaced": 1} if told else {})


def driven(stream, absolute=False) -> list:
    """The first second of the stream from a vehicle at 20 m/s. absolute: the points' own times are seconds since 1970,
    not after the stamp."""
    def drive(message):
        message.pose = copy.deepcopy(message.pose)
        message.pose.pose.position.x = 20 * (messages.stamp_ns(message.header) - boxes.START_NS) / SECOND
        return message

    def timed(message):
        cloud = messages.decode_cloud(message)
        columns = {name: cloud.field(name) for name in ("x", "y", "z", "intensity")}
        columns["timestamp"] = cloud.stamp_ns / SECOND + cloud.field("time").astype(np.float64)
        return messages.encode_cloud(TYPES, columns, cloud.stamp_ns, cloud.frame_id)

    first = [one for one in stream if one[1] < boxes.START_NS + SECOND]
    return changed(changed(first, "odom", drive), "lidar", timed if absolute else lambda message: message)


def stamped_late(stream, name: str, late_ns: int) -> list:
    """The stream as a driver gives it whose clock is ahead, or who stamps on arrival: header and absolute times."""
    def late(message):
        message = with_stamp(message, messages.stamp_ns(message.header) + late_ns)
        if name == "lidar" and "timestamp" in (cloud := messages.decode_cloud(message)).names:
            columns = {one: cloud.field(one) for one in cloud.names}
            columns["timestamp"] = columns["timestamp"] + late_ns / SECOND
            message = messages.encode_cloud(TYPES, columns, cloud.stamp_ns, cloud.frame_id)
        return message
    return changed(stream, name, late)


@pytest.mark.parametrize(("name", "absolute", "late_sec"), [
    ("lidar", False, 0.05), ("lidar", True, 0.05), ("lidar", False, 37.0), ("depth", False, 0.05), ("rgb", False, 0.05),
    ("event", False, 0.05), ("event", False, -0.3)])
def test_a_drivers_clock_is_corrected_by_one_number(stream, runtime, name, absolute, late_sec):
    """Sets, pictures and stamps are those of a driver that stamps rightly, from a vehicle that moves."""
    right = driven(stream, absolute)
    expected, _ = outputs_of(right, runtime)
    late = stamped_late(right, name, round(late_sec * SECOND))
    outputs, _ = outputs_of(late, runtime, **{f"{name}.clock_offset_sec": late_sec})
    assert len(outputs) == len(expected) >= 8 and any(all(one.mask.values()) for one in expected)
    for found, one in zip(outputs, expected, strict=True):
        assert (found.t_ref_ns, found.mask, found.inputs, found.extrapolated_ns) == (
            one.t_ref_ns, one.mask, one.inputs, one.extrapolated_ns)
        assert found.images.keys() == one.images.keys()
        for modality, image in one.images.items():
            np.testing.assert_array_equal(found.images[modality], image)
        np.testing.assert_array_equal(found.labels, one.labels)


def test_an_offset_for_matching_leaves_points_where_they_were_measured(stream, runtime):
    """What a true phase asks for: the same clouds at the same poses, whether it is given or not."""
    right = driven(stream)
    plain, given = (outputs_of(right, runtime, **{"lidar.offset_sec": offset})[0] for offset in (0.0, 0.004))
    late, _ = outputs_of(right, runtime, **{"lidar.clock_offset_sec": 0.02})
    for one, other, moved in zip(plain[2:], given[2:], late[2:], strict=True):
        np.testing.assert_array_equal(one.images["lidar"], other.images["lidar"])
        assert (one.images["lidar"] != moved.images["lidar"]).any()


def test_an_output_has_the_time_of_measurement_as_its_stamp(stream, runtime):
    """Not the image's stamp, where its driver's is corrected: see docs/topics.md."""
    outputs, _ = outputs_of(driven(stream), runtime, **{"rgb.clock_offset_sec": 0.03, "rgb.offset_sec": 0.01})
    stamps = {messages.stamp_ns(message.header) for role, _, message in stream if role == "rgb"}
    of_images = [one for one in outputs if one.mask["rgb"]]
    assert len(of_images) >= 8
    for one in of_images:
        assert one.t_ref_ns + 40_000_000 in stamps and one.t_ref_ns not in stamps
        assert one.inputs["rgb"]["stamp"] == one.t_ref_ns + 10_000_000


@pytest.mark.parametrize("name", ["lidar", "event"])
def test_a_stamp_that_was_never_set_is_none_whatever_the_clock(stream, runtime, name):
    unset = changed(driven(stream), name, lambda message: with_stamp(message, 0))
    _, pipeline = outputs_of(unset, runtime, **{f"{name}.clock_offset_sec": -0.05})
    counters = pipeline.collector.status()["inputs"][name]
    assert counters["received"] and counters["zero"] == counters["received"]


def test_a_reason_lives_as_long_as_its_cause(stream, runtime):
    """Invalid clouds, then none at all: it is gone, no longer invalid."""
    faults = FaultSchedule(["lidar:corrupt@0.3-1", "lidar:drop@1-"])
    _, pipeline = outputs_of(faults.apply(stream, boxes.START_NS), runtime)
    assert pipeline.warnings["lidar_invalid"] > 3
    lidar = pipeline.diagnostics()["inputs"]["lidar"]
    assert (lidar["state"], lidar["reason"]) == ("STALE", "")
    _, pipeline = outputs_of(FaultSchedule(["lidar:corrupt@0-"]).apply(stream, boxes.START_NS), runtime)
    assert pipeline.diagnostics()["inputs"]["lidar"]["reason"]
    pipeline.reset("a test says so")
    assert not pipeline.diagnostics()["inputs"]["lidar"]["reason"]


def test_a_frozen_sensor_is_warned_of_once_while_it_lasts(stream, runtime, caplog):
    _, pipeline = outputs_of(FaultSchedule(["rgb:freeze@0.3-0.8"]).apply(stream, boxes.START_NS), runtime)
    assert [one.getMessage() for one in caplog.records].count("rgb repeats an identical payload under new stamps") == 1
    assert pipeline.diagnostics()["level"] == "OK"
    _, pipeline = outputs_of(FaultSchedule(["rgb:freeze@0.3-"]).apply(stream, boxes.START_NS), runtime)
    status = pipeline.diagnostics()
    assert (status["level"], status["message"]) == ("WARN", "rgb repeats an identical payload")


def test_one_failure_in_every_set_is_logged_once(stream, runtime, caplog):
    class Broken(Gate):
        def __call__(self, *arguments, **options):
            raise RuntimeError("the device is gone")

    _, pipeline = outputs_of(stream, Broken(runtime))
    assert pipeline.dropped["error"] > 10 and sum(one.exc_info is not None for one in caplog.records) == 1


def test_more_modalities_than_the_network_knows_cannot_be_asked_for(tmp_path):
    small = open_runtime(boxes.write_checkpoint(tmp_path / "net.safetensors", ("rgb", "lidar")), device="cpu",
                         precision="fp32")
    with pytest.raises(ConfigError, match="min_modalities = 3 exceeds the 2 modalities .* rgb, lidar"):
        Pipeline(Config.from_mapping({"min_modalities": 3}), small, print, synchronous=True)
