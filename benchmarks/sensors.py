"""The rows of messages and lanes: from a message's bytes to the network's image."""

from __future__ import annotations

import contextlib
import functools
import tracemalloc
from collections.abc import Callable

import cv2
import numpy as np

from benchmarks.rows import Result, Row, Skipped, optional
from mss_models.modality import DEFAULT_ENCODINGS
from mss_perception import messages
from mss_perception.camera import Camera
from mss_perception.events import EventLane
from mss_perception.image import ImageLane
from mss_perception.lidar import LidarLane
from mss_perception.messages.event_packets import PacketDecoder
from mss_perception.messages.images import read_pixels
from mss_perception.projection import Motion

POINTS, EVENTS, SIZE = 131_072, 1_000_000, 1024
MUSES_TIMES = 15        # as fast as the projection of the MUSES kind, at least


def rows(tiny: bool = False) -> dict[str, Callable[[], Row | list[Result]]]:
    """The rows by name; tiny: small sizes, for tests."""
    points, events, size, full = (512, 2_000, 64, (108, 192)) if tiny else (POINTS, EVENTS, SIZE, (1080, 1920))
    return {"lidar_open3d": functools.partial(lidar_open3d, points, size),
            "lidar_muses": functools.partial(lidar_muses, points, size),
            "events": functools.partial(events_bincount, events), "events_dv": functools.partial(events_dv, events),
            "evt3": functools.partial(evt3_decoding, events), "image": functools.partial(camera_image, full),
            "image_decoding": functools.partial(image_decoding, full),
            "cloud_decoding": functools.partial(cloud_decoding, points),
            "copies": functools.partial(copies, full, points)}


# ----------------------------------------------------------------------------------------------------------- LiDAR


def camera(size: int) -> Camera:
    return Camera(size, size, np.array([[size / 2, 0, size / 2], [0, size / 2, size / 2], [0, 0, 1]]), "plumb_bob",
                  (-0.1, 0.02, 1e-3, -1e-3, 0.0), "camera")


def some_points(count: int, seed: int = 0) -> np.ndarray:
    """(count, 4) x y z intensity all around, a quarter of them in the view, in the order of a spinning LiDAR's cloud:
    ring by ring, of 128. x right, y down, z forward: the sensor sits in the camera, so the extrinsics are the identity.
    """
    rng, ring, rings = np.random.default_rng(seed), np.arange(count), min(128, count)
    azimuth, elevation = 2 * np.pi * (ring * rings / count % 1) - np.pi, 0.2 - 0.6 * (ring * rings // count) / rings
    distance = rng.uniform(2, 80, count)
    return np.stack([distance * np.cos(elevation) * np.sin(azimuth), -distance * np.sin(elevation),
                     distance * np.cos(elevation) * np.cos(azimuth), rng.uniform(0, 1, count)], -1)


def cloud_of(types, points: np.ndarray) -> object:
    columns = {name: points[:, i].astype(np.float32) for i, name in enumerate(("x", "y", "z", "intensity"))}
    return messages.encode_cloud(types, columns, 1, "lidar")


def our_lidar(points: np.ndarray, size: int) -> Callable[[], np.ndarray]:
    cloud, still = cloud_of(messages.bag_types(), points), Motion.fixed(np.eye(4))
    lane = LidarLane(DEFAULT_ENCODINGS["lidar"], camera(size), size, size)
    return lambda: lane(messages.decode_cloud(cloud), still).image


def lidar_open3d(count: int = POINTS, size: int = SIZE) -> Row:
    """A PointCloud2's bytes -> image, beside Open3D's z-buffer on tensors that are ready. Raises Skipped.

    Open3D's has no distortion, and every point is one pixel, not nine.
    """
    open3d, points = optional("open3d"), some_points(count).astype(np.float32)
    cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor(np.ascontiguousarray(points[:, :3])))
    cloud.point.colors = open3d.core.Tensor(np.repeat(points[:, 3:], 3, axis=1))
    K, T = open3d.core.Tensor(camera(size).K), open3d.core.Tensor(np.eye(4))
    return Row(f"lidar: {count:,} points, PointCloud2 -> {size} x {size}, z-buffer, distortion",
               "open3d project_to_rgbd_image, ready tensors", our_lidar(points, size),
               lambda: cloud.project_to_rgbd_image(size, size, K, T, 1.0, 1000.0), 0.5)


def lidar_muses(count: int = POINTS, size: int = SIZE) -> Row:
    """The same beside a projection of the MUSES SDK's kind: float64, no distortion, neither z > 0 nor nearest wins.

    Both begin with the bytes of a message or file, and draw points larger than a pixel: 2 x 2 there, 3 x 3 here.
    """
    points = some_points(count)
    file, K, T = np.c_[points, np.zeros((count, 2))].tobytes(), camera(size).K.astype(np.float32), np.eye(4)

    def peer() -> np.ndarray:
        cloud = np.frombuffer(file).reshape(-1, 6)
        cloud = cloud[np.sqrt(np.sum(cloud[:, :3] ** 2, axis=1)) >= 1.0]
        moved = T @ np.concatenate([cloud[:, :3], np.ones((len(cloud), 1))], axis=1).T
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = K @ moved[:3] / moved[2]
        inside = (uv[0] > 0) & (uv[0] < size - 1) & (uv[1] > 0) & (uv[1] < size - 1)
        cloud, (u, v) = cloud[inside], uv[:2, inside].astype(int)
        image = np.zeros((size, size, 3), np.float32)
        image[v, u, 0] = np.sqrt(cloud[:, 0] ** 2 + cloud[:, 1] ** 2 + cloud[:, 2] ** 2)
        image[v, u, 1], image[v, u, 2] = cloud[:, 3], cloud[:, 2]
        drawn = image[..., 2] != 0
        image[drawn, 2] += 255      # the largest of the heights, which may be negative, shall not be nothing's 0
        image = cv2.dilate(image, np.ones((2, 2), np.uint8))
        image[image[..., 2] != 0, 2] -= 255
        return image

    return Row(f"lidar: {count:,} points, bytes -> {size} x {size}, points larger than a pixel",
               "float64 NumPy of the MUSES kind", our_lidar(points, size), peer, round(1 / MUSES_TIMES, 3))


# ---------------------------------------------------------------------------------------------------------- events


def some_events(count: int) -> messages.Events:
    """Events of 50 ms all over a sensor of 640 x 480."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 640, count).astype(np.uint16), rng.integers(0, 480, count).astype(np.uint16)
    return messages.Events(x, y, np.sort(rng.integers(0, 50_000_000, count)), rng.integers(0, 2, count).astype(bool), 0,
                           50_000_000, 640, 480)


def our_events(events: messages.Events) -> Callable[[], np.ndarray]:
    own = Camera(640, 480, np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]]), frame_id="event")
    lane = EventLane(DEFAULT_ENCODINGS["event"], own, 480, 640, own, np.eye(4))
    return lambda: lane([events], 50_000_000).image


def events_bincount(count: int = EVENTS) -> Row:
    """Events -> image of ON and OFF counts, beside the one line of NumPy that counts them."""
    events = some_events(count)

    def peer() -> np.ndarray:
        index = (events.y.astype(np.int64) * 640 + events.x) * 2 + ~events.p
        return np.bincount(index, minlength=480 * 640 * 2).reshape(480, 640, 2)

    return Row(f"events: {count:,}, 640 x 480 -> counts image", "numpy.bincount", our_events(events), peer, 0.5)


def events_dv(count: int = EVENTS) -> Row:
    """The same beside dv-processing's fastest accumulator, which counts both polarities alike. Raises Skipped."""
    dv, events = optional("dv_processing"), some_events(count)
    store, accumulator = dv.EventStore(), dv.EdgeMapAccumulator((640, 480))
    for one in zip((events.t // 1000).tolist(), events.x.tolist(), events.y.tolist(), events.p.tolist(), strict=True):
        store.push_back(*one)

    def peer() -> object:
        accumulator.accept(store)
        return accumulator.generateFrame()

    return Row(f"events: {count:,}, 640 x 480 -> counts image", "dv-processing EdgeMapAccumulator", our_events(events),
               peer, 0.5)


def evt3_payload(count: int) -> np.ndarray:
    """(N,) uint8: EVT 3.0 words of `count` events, with as many rows and times among them as in a recording of a moving
    scene (ros-event-camera/event_camera_py's test_events_1): a row, 0.88 lower and 0.38 upper times for an event."""
    rng = np.random.default_rng(4)
    words = np.zeros((count, 4), np.uint16)     # upper time, lower time, row, event
    us = np.sort(rng.integers(0, count // 100 + 1, count))
    words[:, 0], words[:, 1] = 8 << 12 | us >> 12, 6 << 12 | us & 0xFFF
    words[:, 2] = rng.integers(0, 480, count)
    words[:, 3] = 2 << 12 | rng.integers(0, 2, count) << 11 | rng.integers(0, 640, count)
    sent = rng.random((count, 4)) < (0.38, 0.88, 1, 1)
    sent[0] = True
    return words[sent].view(np.uint8)


def evt3_decoding(count: int = EVENTS) -> Row:
    """A payload of EVT 3.0 -> arrays of events, beside the package evt3 where it is installed."""
    payload = evt3_payload(count)
    file = payload.tobytes()
    try:
        decoder, peer_name = optional("evt3").Decoder, "evt3"
    except Skipped as reason:
        decoder, peer_name = None, str(reason)
    return Row(f"evt3: {count:,} events", peer_name, lambda: PacketDecoder("evt3").feed(payload),
               decoder and (lambda: decoder(640, 480).feed(file)), 100, unit="M events/s", amount=count / 1e6,
               rate=True, absolute=True)


# -------------------------------------------------------------------------------------------------- images, copies


def some_image(size: tuple[int, int]) -> object:
    """A sensor_msgs/Image of noise, bgr8."""
    pixels = np.random.default_rng(2).integers(0, 255, (*size, 3)).astype(np.uint8)
    return messages.encode_image(messages.bag_types(), pixels, "bgr8", 1, "camera")


def camera_image(size: tuple[int, int]) -> Row:
    """An Image -> the network's RGB, beside the user's usual decoder and cv2.resize."""
    height, width = size
    message, to = some_image(size), (height * 8 // 15, width * 8 // 15)
    full = Camera(width, height, np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1]]),
                  frame_id="camera")
    lane = ImageLane(DEFAULT_ENCODINGS["rgb"], full, *to)
    name, decode = usual_decoder()
    return Row(f"image: {width} x {height} bgr8 -> {to[1]} x {to[0]} RGB", f"{name}, cv2.resize INTER_AREA",
               lambda: lane(read_pixels(message)).image,
               lambda: cv2.resize(decode(message), to[::-1], interpolation=cv2.INTER_AREA), 1.0)


def image_decoding(size: tuple[int, int]) -> Row:
    """An Image -> RGB of the same size."""
    message, (name, decode) = some_image(size), usual_decoder()
    return Row(f"image: {size[1]} x {size[0]} bgr8 -> RGB", name, lambda: read_pixels(message).rgb(),
               lambda: decode(message))


def usual_decoder() -> tuple[str, Callable[[object], np.ndarray]]:
    """What a user takes to make an RGB array of an Image: cv_bridge, else rosbags-image, else OpenCV by hand."""
    with contextlib.suppress(Skipped):
        bridge = optional("cv_bridge").CvBridge()
        return "cv_bridge", lambda message: bridge.imgmsg_to_cv2(message, "rgb8")
    with contextlib.suppress(Skipped):
        convert = optional("rosbags.image").message_to_cvimage
        return "rosbags-image", lambda message: convert(message, "rgb8")
    return "np.frombuffer, cv2.cvtColor", lambda message: cv2.cvtColor(
        np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3), cv2.COLOR_BGR2RGB)


def cloud_decoding(count: int = POINTS) -> Row:
    """A PointCloud2 as rclpy gives it -> its fields, beside sensor_msgs_py; views of the data both. Raises Skipped."""
    reader = optional("sensor_msgs_py.point_cloud2")
    cloud = cloud_of(optional("mss_perception.ros_compat").TYPES, some_points(count))
    return Row(f"cloud: {count:,} points, PointCloud2 -> fields", "sensor_msgs_py read_points",
               lambda: messages.decode_cloud(cloud).fields, lambda: reader.read_points(cloud))


def copies(size: tuple[int, int], points: int) -> list[Result]:
    """How many times the size of its data a received message makes the lanes allocate before they work on it."""
    image, cloud = some_image(size), cloud_of(messages.bag_types(), some_points(points))
    name, decode = usual_decoder()
    return [
        Result("copies: of an Image of bgr8, message -> pixels for the lane", allocated(lambda: read_pixels(image))
               / len(image.data), "payloads", allocated(lambda: decode(image)) / len(image.data), name, 0.01),
        Result("copies: of a PointCloud2, message -> fields for the lane",
               allocated(lambda: messages.decode_cloud(cloud)) / len(cloud.data), "payloads", None, "", 0.01)]


def allocated(work: Callable[[], object]) -> int:
    """The most bytes of Python's and NumPy's that are taken at once."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
