"""The node on real ROS 2: it runs in its own process, the test publishes and subscribes."""

from __future__ import annotations

import array
import importlib.util
import os
import signal
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: the node cannot be tested")
import ros_peer  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.msg import Parameter, ParameterValue  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, SetParameters  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2  # noqa: E402

from mss_perception import live  # noqa: E402
from mss_perception.config import Config  # noqa: E402
from mss_perception.messages import (  # noqa: E402
    decode_cloud,
    decode_image,
    encode_camera_info,
    encode_cloud,
    encode_header,
    encode_image,
    stamp_ns,
)
from mss_perception.node import SegmentationNode, main  # noqa: E402
from mss_perception.ros_compat import TYPES  # noqa: E402

ACTIVE = "mss_perception]: active"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return ros_peer.random_network(tmp_path_factory.mktemp("network"))


@pytest.fixture
def peer(request):
    one = ros_peer.Peer()
    request.addfinalizer(one.close)
    return one


@pytest.fixture
def start(tmp_path, network, peer, request):
    """start(*parameters) -> the node's process, on the peer's domain."""
    def begin(*parameters: str):
        process = ros_peer.start_node(tmp_path, peer.context.get_domain_id(), f"checkpoint:={network}", "threads:=1",
                                      "tick_rate_hz:=10.0", *parameters)
        request.addfinalizer(lambda: process.__exit__())
        return process
    return begin


def test_outputs_join_by_stamp_while_sensors_are_missing_and_a_bad_message_is_survived(start, peer):
    node = start()
    node.wait_for(ACTIVE, 60)
    peer.listen("segmentation", "modality_mask", "confidence", "segmentation/color", "segmentation/overlay",
                "points/labeled")
    peer.connect("image", "camera_info", "points")

    def both():
        peer.points(peer.camera())

    # depth and events never come: output all the same, with a mask that says so, under the same stamp
    def seen(state):
        return [stamp for stamp in peer.got["modality_mask"] if stamp in peer.got["segmentation"]
                and peer.mask(stamp)["lidar"] == state]

    assert peer.until(lambda: len(seen("OK")) >= 3 and peer.got["points/labeled"] and peer.got["segmentation/overlay"],
                      act=both)
    stamp = max(seen("OK"))
    states = peer.mask(stamp)
    assert (states["rgb"], states["lidar"]) == ("OK", "OK"), peer.got["modality_mask"][stamp]
    assert states["depth"] in ("MISSING", "STALE")
    mask = {name: peer.summary(stamp)[name] for name in states}
    assert mask == {"rgb": "1", "lidar": "1", "depth": "0", "event": "0"}
    labels = peer.got["segmentation"][stamp]
    assert (labels.encoding, labels.header.frame_id) == ("mono8", "cam")
    assert decode_image(labels).shape == (ros_peer.HEIGHT, ros_peer.WIDTH)
    assert decode_image(labels).max() < len(ros_peer.LABELS)

    # pictures are made once somebody subscribes, and show the same labels
    colored = max(peer.got["segmentation/color"].keys() & peer.got["segmentation"].keys())
    assert np.array_equal(decode_image(peer.got["segmentation/color"][colored]),
                          ros_peer.LABELS.colorize(decode_image(peer.got["segmentation"][colored])))
    pointed = max(peer.got["points/labeled"].keys() & peer.got["segmentation"].keys())
    cloud = decode_cloud(peer.got["points/labeled"][pointed])
    assert {"x", "y", "z", "label", "confidence", "rgb"} <= set(cloud.fields.dtype.names)
    point = cloud.fields[0]
    u, v = (50 * point["x"] / point["z"] + 31.5, 50 * point["y"] / point["z"] + 23.5)
    assert decode_image(peer.got["segmentation"][pointed])[round(float(v)), round(float(u))] == point["label"]
    red, green, blue = ros_peer.LABELS.palette[point["label"]]
    assert np.float32(point["rgb"]).view(np.uint32) == red << 16 | green << 8 | blue

    # an unknown encoding makes that input INVALID with its reason; the LiDAR carries on alone, then both again
    peer.got["modality_mask"].clear()
    assert peer.until(lambda: any(peer.mask(one)["rgb"] == "INVALID" for one in peer.got["modality_mask"]),
                      act=lambda: peer.points(peer.camera("yuv_nonsense")))
    bad = next(one for one in peer.got["modality_mask"] if peer.mask(one)["rgb"] == "INVALID")
    assert "yuv_nonsense" in str(peer.got["modality_mask"][bad])
    peer.got["modality_mask"].clear()
    assert peer.until(lambda: any(peer.mask(one)["rgb"] == "OK" for one in peer.got["modality_mask"]), act=both)

    # a cloud without a transform to the camera is INVALID, never taken as if it were in the camera
    assert peer.until(lambda: any(peer.mask(one)["lidar"] == "INVALID" for one in peer.got["modality_mask"]),
                      act=lambda: peer.points(peer.camera(), frame="somewhere"))

    # diagnostics account for everything
    def figures():
        return {one.key: one.value for one in peer.status("segmentation").values} if peer.diagnostics else {}

    assert peer.until(lambda: {"warnings.rgb_invalid", "warnings.lidar_invalid"} <= set(figures()), act=both)
    values = figures()
    drops = sum(int(count) for key, count in values.items() if key.startswith("dropped."))
    assert 0 <= int(values["ticks"]) - int(values["outputs"]) - drops <= 2      # sets in work
    assert {"latency_ms.wait.p95", "latency_ms.inference.p95", "latency_ms.stamp_to_publish.p99"} <= set(values)

    # a camera without intrinsics is warned of; odometry that a robot has not got is no fault
    found = {name: peer.status(name) for name in ("rgb/info", "depth/info", "odom")}
    assert {name: one.level for name, one in found.items()} == {"rgb/info": b"\0", "depth/info": b"\1", "odom": b"\0"}
    assert found["rgb/info"].message == "OK" and found["odom"].message.startswith("nobody publishes it: without it")
    assert found["depth/info"].message == "nobody publishes it, and there is no camera 'depth' in calibration_file"

    # what runs without two of its sensors says so in the log, not every second
    words = "running without depth, event; nobody publishes /depth/image, /events"
    assert peer.until(lambda: words in node.log.read_text(), act=both)
    peer.spin(2.5)
    assert node.log.read_text().count(words) == 1, node.log.read_text()
    # and so does what then loses a third
    assert peer.until(lambda: "running without depth, event, lidar" in node.log.read_text(), act=lambda: peer.camera())

    status, seconds = interrupted_twice(node)
    assert status == 0 and "Traceback" not in node.log.read_text(), node.last_words()
    assert seconds < 2.0


def interrupted_twice(node: live.Process) -> tuple[int, float]:
    """As a Ctrl-C under launch does: the terminal sends SIGINT to all, launch sends another to each of its own."""
    node.popen.send_signal(signal.SIGINT)
    time.sleep(0.02)
    return node.interrupt()


def test_a_node_that_is_still_loading_ends_orderly(start):
    node = start()
    node.wait_for("starting the pipeline", 60)
    status, _ = interrupted_twice(node)
    log = node.log.read_text()
    assert status == 0 and ACTIVE not in log, log
    # Python tells of an exception that a callback of the compiler swallows.
    assert log.count("Traceback") == log.count("Exception ignored on calling ctypes callback"), log


@pytest.mark.parametrize(("parameters", "words"), [
    # all that is wrong is said at once
    (["deadline_sec:=-1.0", "late_policy:=never", "rgb.queue:=0.5"],
     ["deadline_sec", "-1.0", "late_policy", "'never'", "drop, publish", "rgb.queue", "0.5"]),
    (["tick_source:=[radar]"], ["tick_source", "'radar'", "rgb, depth, event, lidar"]),
    (["autostart:='yes'", "width:=-1"], ["autostart", "'yes'", "BOOL", "width", "-1"]),
    (["checkpoint:=/nowhere/net.safetensors"], ["cannot configure", "/nowhere/net.safetensors"]),
    (["inputs:=[rgb, lidar, lidar_rear]", "radar.topic:=/radar"],      # ROS overlooks what is not declared
     ["radar.topic is given, but radar is none of inputs = [rgb, lidar, lidar_rear]"]),
    (["inputs:=[rgb, lidar, lidar_rear]"], ["lidar_rear.topic is empty; the input lidar_rear needs a topic"]),
    (["rgb.message_type:=sensor_msgs/msg/PointCloud2"], ["rgb.message_type", "CompressedImage"]),
    (["device:=cuda:99"], ["cannot configure", "device 'cuda:99'"]),
    (["calibration_file:=/nowhere/calibration.yaml"], ["cannot activate", "/nowhere/calibration.yaml"]),
])
def test_what_is_wrong_at_the_start_is_named_and_status_2(network, monkeypatch, capfd, parameters, words):
    """In this process: to start another takes seconds."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(live.free_domain()))
    given = [f"checkpoint:={network}", *parameters]
    assert main(["--ros-args", *(word for one in given for word in ("-p", one))]) == 2
    written = capfd.readouterr().err
    assert all(word in written for word in words), written
    assert "Traceback" not in written


def test_messages_of_a_package_that_is_not_installed_end_the_process(start):
    missing = next((name for name in ("dvs_msgs", "prophesee_event_msgs") if not importlib.util.find_spec(name)), None)
    if missing is None:
        pytest.skip("all event packages are installed here")
    node = start(f"event.message_type:={missing}/msg/EventArray")
    assert node.popen.wait(60) == 2
    assert all(words in node.last_words() for words in (
        f"event.message_type = {missing}/msg/EventArray", f"package {missing} cannot be imported",
        f"ros-$ROS_DISTRO-{missing.replace('_', '-')}")), node.last_words()
    assert "Traceback" not in node.last_words()


class Services:
    """The node's services, called while the sensors go on. `act` is done ten times a second."""

    def __init__(self, peer, act) -> None:
        self.peer, self.act, self.clients = peer, act, {}

    def call(self, kind, service: str, request):
        if service not in self.clients:
            self.clients[service] = self.peer.node.create_client(kind, f"/mss_perception/{service}")
            assert self.clients[service].wait_for_service(timeout_sec=30)
            self.peer.spin(0.5)     # the way back is found by itself and a little later; an answer before that is lost
        future = self.clients[service].call_async(request)
        assert self.peer.until(future.done, act=self.act)
        return future.result()


def test_lifecycle_under_traffic_and_parameters_at_run_time(start, peer):
    """Every transition comes among images, which the node must neither die of nor keep."""
    node = start("autostart:=false", "inputs:=[rgb, depth, event, lidar, radar]")      # the network knows no radar
    services = Services(peer, lambda: [peer.camera() for _ in range(10)])

    def state() -> str:
        return services.call(GetState, "get_state", GetState.Request()).current_state.label

    def change(transition: int) -> bool:
        return services.call(ChangeState, "change_state",
                             ChangeState.Request(transition=Transition(id=transition))).success

    def set_parameter(name: str, **value):
        return services.call(SetParameters, "set_parameters", SetParameters.Request(
            parameters=[Parameter(name=name, value=ParameterValue(**value))])).results[0]

    def publishes() -> bool:
        peer.got.clear()
        return peer.until(lambda: peer.got["segmentation"], act=peer.camera)

    assert state() == "unconfigured"
    peer.listen("segmentation")
    for _ in range(2):      # the whole circle, twice
        assert change(Transition.TRANSITION_CONFIGURE) and state() == "inactive"
        for _ in range(2):
            assert change(Transition.TRANSITION_ACTIVATE) and state() == "active"
            assert publishes()
            assert change(Transition.TRANSITION_DEACTIVATE) and state() == "inactive"
        assert peer.until(lambda: not peer.publishers["image"].get_subscription_count())
        assert change(Transition.TRANSITION_CLEANUP) and state() == "unconfigured"

    assert set_parameter("deadline_sec", type=3, double_value=0.2).successful
    assert set_parameter("deadline_sec", type=2, integer_value=1).successful        # as one writes it
    refused = set_parameter("deadline_sec", type=3, double_value=-1.0)
    assert not refused.successful and "deadline_sec" in refused.reason
    refused = set_parameter("min_modalities", type=2, integer_value=9)       # in range, but there are five inputs
    assert not refused.successful and "min_modalities = 9" in refused.reason
    assert not set_parameter("tick_rate_hz", type=3, double_value=1.0).successful        # read-only

    names = [name for name, *_ in Config().parameters()]
    described = services.call(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=names))
    assert all(one.description for one in described.descriptors)
    ranged = described.descriptors[names.index("tick_rate_hz")]
    assert ranged.read_only and ranged.floating_point_range[0].to_value == 1000.0

    assert change(Transition.TRANSITION_CONFIGURE) and change(Transition.TRANSITION_ACTIVATE) and publishes()
    refused = set_parameter("min_modalities", type=2, integer_value=5)
    assert not refused.successful and "min_modalities = 5 exceeds the 4 modalities" in refused.reason
    # what is changed while active holds for the next set: two modalities are wanted, and there is but the camera
    assert set_parameter("min_modalities", type=2, integer_value=2).successful
    peer.listen("modality_mask")
    assert peer.until(lambda: any("below_min_modalities" in str(one) for one in peer.got["modality_mask"].values()),
                      act=peer.camera)
    assert change(Transition.TRANSITION_ACTIVE_SHUTDOWN) and state() == "finalized"
    assert peer.until(lambda: not peer.node.count_publishers("/mss_perception/segmentation"))
    status, _ = node.interrupt()
    assert status == 0, node.last_words()
    assert "Traceback" not in node.log.read_text()


def test_a_publisher_of_another_qos_or_type_is_an_error_that_names_it_until_it_is_gone(start, peer):
    node = start("qos_overrides./image.subscription.reliability:=reliable",     # the peer publishes best effort
                 "depth.topic:=pictures", "lidar.topic:=clouds")
    publishers = [peer.publishers["image"]] + [peer.node.create_publisher(kind, topic, ros_peer.BEST_EFFORT)
                                               for kind, topic in ((CompressedImage, "pictures"), (Image, "clouds"))]
    node.wait_for(ACTIVE, 60)

    def complaint() -> str:
        one = peer.status("segmentation")
        return one.message if one and one.level == b"\x02" else ""

    words = ["/image is published by /peer with incompatible QoS",
             "/pictures is published by /peer as sensor_msgs/msg/CompressedImage, must be sensor_msgs/msg/Image; set "
             "depth.message_type to sensor_msgs/msg/CompressedImage",
             "/clouds is published by /peer as sensor_msgs/msg/Image, must be sensor_msgs/msg/PointCloud2; "
             "lidar.message_type can be sensor_msgs/msg/PointCloud2"]

    assert peer.until(lambda: all(one in complaint() for one in words)), peer.status("segmentation")
    assert complaint().endswith("nobody publishes /events")
    for publisher in publishers:
        peer.node.destroy_publisher(publisher)
    assert peer.until(lambda: not any(one in complaint() for one in words)), peer.status("segmentation")


def test_simulated_time_from_before_its_first_clock_to_a_jump_back(start, peer):
    """Stamps are not judged before there is a clock: the real time's would be taken for good ones, and the clock for a
    jump back by years. A jump back of the clock itself is a new epoch."""
    node = start("use_sim_time:=true", "deadline_sec:=0.1")
    node.wait_for(ACTIVE, 60)
    clock = peer.node.create_publisher(Clock, "/clock", 10)
    peer.listen("modality_mask")
    peer.connect("image", "camera_info")
    assert peer.until(clock.get_subscription_count)

    def figures():
        return {one.key: one.value for one in peer.status("segmentation").values} if peer.diagnostics else {}

    assert peer.until(lambda: int(figures().get("warnings.before_clock", 0)) >= 3, act=peer.camera)
    assert figures()["ticks"] == "0" and not peer.got["modality_mask"]

    def tick(now: list[int]):
        now[0] += 100_000_000
        clock.publish(Clock(clock=TYPES.Time(sec=now[0] // 10**9, nanosec=now[0] % 10**9)))
        peer.camera(stamp=now[0])

    for epoch, begin in (("0", 1000), ("1", 500)):
        peer.got.clear()
        now = [begin * 10**9]
        assert peer.until(lambda: any(begin * 10**9 < stamp <= now[0] for stamp in peer.got["modality_mask"]),  # noqa: B023
                          act=lambda now=now: tick(now)), node.last_words()
        assert peer.summary(max(stamp for stamp in peer.got["modality_mask"] if stamp <= now[0]))["epoch"] == epoch


def test_an_exception_in_a_timer_a_subscription_or_the_network_costs_that_call_only(network, peer, monkeypatch):
    """In this process, so that the exceptions can be put in."""
    from rclpy.parameter import Parameter

    node = SegmentationNode(context=peer.context, parameter_overrides=[
        Parameter("checkpoint", value=str(network)), Parameter("threads", value=1)])
    peer.executor.add_node(node)
    try:
        assert node.trigger_configure().name == node.trigger_activate().name == "SUCCESS"
        failing = {"add": 1, "poll": 2, "receive": 3, "diagnostics": 1, "runtime": 1}
        loss = next(topic.loss for topic in node.topics if topic.role == "rgb")
        for name in failing:
            part = loss if name == "add" else node.pipeline
            whole = getattr(part, name)

            def sometimes(*arguments, name=name, whole=whole, **options):
                failing[name] -= 1
                if failing[name] >= 0:
                    raise RuntimeError(f"out of memory in {name}")
                return whole(*arguments, **options)

            monkeypatch.setattr(part, name, sometimes)
        monkeypatch.setattr(sometimes, "modalities", node.runtime.modalities, raising=False)
        for attribute in ("labels", "model_id"):
            monkeypatch.setattr(sometimes, attribute, getattr(node.runtime, attribute), raising=False)
        peer.listen("segmentation", "modality_mask")
        peer.connect("image", "camera_info")

        def figures():
            return {one.key: one.value for one in peer.status("segmentation").values} if peer.diagnostics else {}

        assert peer.until(lambda: len(peer.got["segmentation"]) > 2 and figures().get("dropped.error"), act=peer.camera)
        assert (figures()["warnings.poll_errors"], figures()["warnings.receive_errors"],
                figures()["warnings.diagnose_errors"], figures()["dropped.error"]) == ("2", "4", "1", "1")
        lost, = (stamp for stamp in peer.got["modality_mask"] if peer.summary(stamp).get("dropped") == "error")
        assert lost not in peer.got["segmentation"]
    finally:
        peer.executor.remove_node(node)
        node.close()
        node.destroy_node()


# -------------------------------------------------------------------------------------------------- rigs, message types

def compressed(peer, publisher) -> int:
    """A picture as PNG with its camera_info; returns the stamp."""
    stamp = time.time_ns()
    data = cv2.imencode(".png", np.full((ros_peer.HEIGHT, ros_peer.WIDTH, 3), stamp % 200, np.uint8))[1]
    message = CompressedImage(header=encode_header(TYPES, stamp, "cam"), format="rgb8; png compressed bgr8")
    message.data = array.array("B", data.tobytes())
    peer.publishers["camera_info"].publish(encode_camera_info(TYPES, ros_peer.CAMERA, stamp))
    publisher.publish(message)
    return stamp


def test_compressed_pictures_are_taken_where_their_type_is_set(start, peer):
    node = start("rgb.topic:=image/compressed", "rgb.message_type:=sensor_msgs/msg/CompressedImage")
    publisher = peer.node.create_publisher(CompressedImage, "image/compressed", ros_peer.BEST_EFFORT)
    node.wait_for(ACTIVE, 60)
    peer.listen("segmentation", "modality_mask")
    assert peer.until(lambda: peer.got["segmentation"], act=lambda: compressed(peer, publisher)), node.last_words()
    stamp = max(peer.got["segmentation"])
    assert peer.mask(stamp)["rgb"] == "OK" and decode_image(peer.got["segmentation"][stamp]).shape == (48, 64)


def test_one_node_with_two_cameras_and_two_lidars(start, peer):
    """Each view has topics of its own, and every tick counts for both."""
    node = start("inputs:=[rgb, rgb_left, lidar, lidar_rear]", "target_cameras:=[rgb, rgb_left]",
                 "rgb_left.topic:=left/image", "rgb_left.info_topic:=left/camera_info", "lidar_rear.topic:=points_rear",
                 "lidar_rear.view:=rgb")
    left, left_info, rear = (peer.node.create_publisher(kind, topic, ros_peer.BEST_EFFORT) for kind, topic in (
        (Image, "left/image"), (CameraInfo, "left/camera_info"), (PointCloud2, "points_rear")))
    node.wait_for(ACTIVE, 60)
    got = {"rgb": {}, "rgb_left": {}}
    for view, kept in got.items():
        for topic, kind in (("segmentation", Image), ("modality_mask", DiagnosticArray)):
            peer.node.create_subscription(
                kind, f"/mss_perception/{view}/{topic}", lambda message, kept=kept, topic=topic: kept.setdefault(
                    stamp_ns(message.header), {}).__setitem__(topic, message), 10)
    large = ros_peer.CAMERA.scaled(96, 72)

    def everything():
        stamp = peer.points(peer.camera())
        image = encode_image(TYPES, np.full((72, 96, 3), stamp % 200, np.uint8), "rgb8", stamp, "cam")
        left_info.publish(encode_camera_info(TYPES, large, stamp))
        left.publish(image)
        cloud = {axis: np.full(7, 3, np.float32) for axis in "xyz"}
        rear.publish(encode_cloud(TYPES, cloud, stamp, "cam"))

    def states(view: str, stamp: int) -> dict[str, str]:
        return {one.name.partition("/")[2]: one.message for one in got[view][stamp]["modality_mask"].status[1:]}

    def complete():
        return [stamp for stamp in got["rgb"].keys() & got["rgb_left"].keys()
                if all(len(kept[stamp]) == 2 for kept in got.values()) and set(states("rgb", stamp).values()) == {"OK"}]

    assert peer.until(lambda: len(complete()) > 2, act=everything), node.last_words()
    stamp = max(complete())
    assert set(states("rgb", stamp)) == {"rgb", "lidar", "lidar_rear"}
    assert set(states("rgb_left", stamp)) == {"rgb_left", "lidar"}
    assert {view: decode_image(kept[stamp]["segmentation"]).shape for view, kept in got.items()} \
        == {"rgb": (48, 64), "rgb_left": (72, 96)}
    names = {name for name, _ in peer.node.get_topic_names_and_types()}
    assert "/mss_perception/segmentation" not in names and "/mss_perception/rgb_left/confidence" in names
    peer.spin(2.5)
    figures = {one.key: one.value for one in peer.status("segmentation").values}
    drops = sum(int(count) for key, count in figures.items() if key.startswith("dropped."))
    assert int(figures["outputs"]) + drops == 2 * int(figures["ticks"]) > 0


def test_two_nodes_in_two_namespaces_have_a_camera_each(tmp_path, network, peer, request):
    """The second camera falls silent: its node has nothing to say, the other goes on."""
    cameras, got = {}, {"left": set(), "right": set()}
    for side, stamps in got.items():
        (tmp_path / side).mkdir()
        node = live.Process("mss_perception.node", [
            "--ros-args", "-r", f"__ns:=/{side}", "-p", f"checkpoint:={network}", "-p", "threads:=1"],
            tmp_path / side / "node.log", os.environ | {"ROS_DOMAIN_ID": str(peer.context.get_domain_id())})
        request.addfinalizer(node.__exit__)
        cameras[side] = [peer.node.create_publisher(kind, f"{side}/{topic}", ros_peer.BEST_EFFORT)
                         for kind, topic in ((CameraInfo, "camera_info"), (Image, "image"))]
        peer.node.create_subscription(Image, f"/{side}/mss_perception/segmentation", lambda message, stamps=stamps:
                                      stamps.add(stamp_ns(message.header)), 10)

    def publish(*sides: str):
        stamp = time.time_ns()
        for side in sides:
            info, image = cameras[side]
            info.publish(encode_camera_info(TYPES, ros_peer.CAMERA, stamp))
            image.publish(encode_image(TYPES, np.full((48, 64, 3), stamp % 200, np.uint8), "rgb8", stamp, "cam"))

    def statuses() -> set[str]:
        return {status.name for message in peer.diagnostics for status in message.status}

    assert peer.until(lambda: all(got.values()), seconds=90, act=lambda: publish("left", "right"))
    # they share /diagnostics, where an aggregator tells them apart by the name alone
    assert peer.until(lambda: {"left/mss_perception: rgb", "right/mss_perception: rgb"} <= statuses(),
                      act=lambda: publish("left", "right"))
    peer.spin(1.0)
    for stamps in got.values():
        stamps.clear()
    assert peer.until(lambda: len(got["left"]) > 2, act=lambda: publish("left")) and not got["right"]
