"""Targets of sensor messages, as they lie in a bag: through the same decoders and lanes as in the node."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache, partial

import cv2
import numpy as np

from fuzz.changes import changed_messages, joined, split
from fuzz.target import Target
from mss_models.modality import DEFAULT_ENCODINGS, Encoding
from mss_perception.bags import typestore
from mss_perception.camera import Camera
from mss_perception.config import Config
from mss_perception.event_stream import EventStream
from mss_perception.inputs import InputState, State
from mss_perception.message_types import CLOUD, COMPRESSED, EVENT_ARRAYS, EVENT_PACKET, IMAGE, INFO, ODOMETRY, TF
from mss_perception.messages import (
    PIXEL_FORMATS,
    bag_types,
    encode_camera_info,
    encode_cloud,
    encode_events,
    encode_header,
    encode_image,
    encode_odometry,
    encode_transforms,
    stamp_ns,
)
from mss_perception.messages.images import PLANAR
from mss_perception.sensors import INVALID_DATA, Sensors, network_size
from mss_perception.sensors import joined as drawn_together

TYPES, CDR = bag_types(), typestore()
START, MS = 1_700_000_000_000_000_000, 1_000_000
WIDTH, HEIGHT = 24, 16
CAMERA = Camera(WIDTH, HEIGHT, np.array([[20.0, 0, 11.5], [0, 20, 7.5], [0, 0, 1]]), "plumb_bob",
                (-0.1, 0.01, 0.001, 0.001, 0.0), "camera")
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])    # of a camera in base_link
# 24 x 16 depths, zero but for a line of 1000 to 1016 and a few of 40000, as Wilson's encoder (RVL) writes them.
RVL = bytes.fromhex("af2819bc222222322222222222f3922722222222e9222222b2a88a130020bc00")
WORDS = {       # of an event packet: upper time, lower time, y or x, an event, the first of a vector, a vector
    "evt3": ((8, 5), (6, 100), (0, 7), (2, 3), (2, 0x80A), (3, 0x804), (4, 0xA5F), (5, 0x81), (10, 0x101)),
    "libcaer_cmp": ((0, 5), (1, 100), (2, 7), (3, 3), (3, 0x80A), (4, 0x804), (5, 0xA5)),
}


def target(kind: str, seeds: Callable[[], list[list]], use: Callable[[list], object]) -> Target:
    """Of one type of messages. An input is one or several, see `joined`; use(messages) is what the node does."""
    def decode(data: memoryview) -> None:
        messages = []
        for part in split(data):
            try:
                messages.append(CDR.deserialize_cdr(part, kind))
            except Exception:   # rosbags' errors share no class; bags.py makes BagErrors of them
                return
        use(messages)

    return Target(lambda: [joined([bytes(CDR.serialize_cdr(one, kind)) for one in messages]) for messages in seeds()],
                  decode, INVALID_DATA, partial(changed_messages, kind=kind))


@lru_cache(maxsize=2)
def sensors(depth: str = "metric_depth") -> Sensors:
    """Of a rig that drives and turns; depth: the encoding of that modality."""
    config = Config.of_inputs(["rgb", "depth", "event", "lidar", "radar"])
    for name, one in config.inputs.items():
        one.frame_id, one.topic = name, name
    encodings = {name: DEFAULT_ENCODINGS[name] for name in config.inputs} | {"depth": Encoding("depth", depth)}
    rig = Sensors(config, encodings, (32, 48))
    for name in ("rgb", "depth", "event"):
        rig.learn(f"{name}/info", encode_camera_info(TYPES, CAMERA, START))
        rig.transforms.add_static("base_link", name, FORWARD)
    for name in ("lidar", "radar"):
        rig.transforms.add_static("base_link", name, np.eye(4))
    return rig


def see(name: str, messages: list, depth: str = "metric_depth") -> None:
    """Each message becomes an image; those of events together."""
    rig = sensors(depth)
    rig.reset()
    for k in range(-20, 21):
        turn = np.eye(4)
        turn[:2, :2], turn[0, 3] = [[np.cos(k / 50), -np.sin(k / 50)], [np.sin(k / 50), np.cos(k / 50)]], 0.2 * k
        rig.transforms.add("odom", "base_link", START + 20 * k * MS, turn)
    if name == "event":
        rig.event_streams[name] = EventStream(10 * MS)
        samples = [rig.arrived(name, one) for one in messages]
        kept = tuple(one for one in samples if one.events is not None or one.error)
        draw(rig, name, InputState(State.OK, START, 0, payload=kept, coverage=1.0), START)
        return
    for one in messages:
        sample = rig.arrived(name, one)
        draw(rig, name, InputState(State.OK, stamp_ns(one.header), 0, payload=sample), START)


def draw(rig: Sensors, name: str, state: InputState, t_ref_ns: int) -> None:
    drawn_together([rig.see(name, state, t_ref_ns, rig.cameras, rig.config.target_cameras[0])])


def calibrate(messages: list) -> None:
    """A camera_info as it is learnt, and what each use of the camera begins with."""
    rig = sensors()
    for one in messages:
        rig.learn("depth_left/info", one)
        camera = rig.cameras["depth_left"]
        network_size(rig.config, (32, 48), camera)
        corners = np.array([[0, 0], [camera.width - 1, camera.height - 1], [camera.width / 2, camera.height / 2]])
        camera.project(camera.unproject(corners))


def move(role: str, messages: list) -> None:
    """Poses as they are learnt, and looked up for points of 0.1 s."""
    rig = sensors()
    rig.reset()
    for one in messages:
        rig.learn(role, one)
    rig.transforms.moved("rgb", "lidar", START + np.arange(0, 100 * MS, MS), START, START + 50 * MS)


# ------------------------------------------------------------------------------------------------------ valid messages

def noise(*shape: int, kind=np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


def images() -> list[list]:
    found = []
    for name, (kind, channels, *_) in PIXEL_FORMATS.items():
        if name in PLANAR:
            data = noise(HEIGHT * 3 // 2 * WIDTH)
            found.append([TYPES.Image(header=encode_header(TYPES, START, "rgb"), height=HEIGHT, width=WIDTH,
                                      encoding=name, is_bigendian=0, step=WIDTH, data=data)])
        elif kind != "f4" and name != "16UC1":
            shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
            found.append([encode_image(TYPES, noise(*shape, kind=np.dtype(kind).type), name, START, "rgb")])
    return found


def depths() -> list[list]:
    millimetres = noise(HEIGHT, WIDTH, kind=np.uint16)
    metres = np.where(millimetres > 6000, millimetres / 1000, np.nan).astype(np.float32)
    return [[encode_image(TYPES, millimetres, "16UC1", START, "depth")],
            [encode_image(TYPES, metres, "32FC1", START, "depth")]]


def compressed(data: bytes, name: str):
    return CDR.types[COMPRESSED](header=encode_header(TYPES, START, "rgb"), format=name,
                                 data=np.frombuffer(data, np.uint8))


def files() -> list[list]:
    colours = noise(HEIGHT, WIDTH, 3) // 4
    progressive, restarts = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
    found = [("bgr8; jpeg compressed bgr8", ".jpg", colours, ()), ("jpeg", ".jpg", colours, progressive),
             ("rgb8; jpeg compressed bgr8", ".jpg", colours, restarts), ("mono8; jpeg compressed ", ".jpg",
                                                                        colours[..., 0], ()),
             ("png", ".png", noise(HEIGHT, WIDTH, 4), ()), ("mono16; png compressed ", ".png",
                                                            noise(HEIGHT, WIDTH, kind=np.uint16), ()),
             ("bayer_rggb8; png compressed ", ".png", colours[..., 0], ())]
    return [[compressed(cv2.imencode(suffix, pixels, options)[1].tobytes(), name)]
            for name, suffix, pixels, options in found]


def depth_files() -> list[list]:
    png = cv2.imencode(".png", noise(HEIGHT, WIDTH, kind=np.uint16))[1].tobytes()
    header, size = struct.pack("<iff", 0, 50.0, 0.5), struct.pack("<II", WIDTH, HEIGHT)
    return [[compressed(data, name)] for data, name in (
        (png, "16UC1; png compressed "), (header + png, "16UC1; compressedDepth png"),
        (header + png, "32FC1; compressedDepth png"), (header + size + RVL, "16UC1; compressedDepth rvl"),
        (header + size + RVL, "32FC1; compressedDepth rvl"))]


def clouds() -> list[list]:
    random, count = np.random.default_rng(0), 64
    xyz = {name: random.uniform(low, high, count).astype(np.float32)
           for name, low, high in (("x", 2, 30), ("y", -5, 5), ("z", -2, 2))}
    ramp = np.arange(count)
    return [[encode_cloud(TYPES, xyz | more, START, "lidar")] for more in (
        {}, {"intensity": ramp.astype(np.float32), "ring": ramp.astype(np.uint16), "time": (ramp / 1e3).astype("f4")},
        {"reflectivity": ramp.astype(np.uint8), "t": (ramp * MS).astype(np.uint32)},
        {"timestamp": START * 1e-9 + ramp / 1e3})]


def detections() -> list[list]:
    found, count = clouds()[:1], 16
    ramp = np.linspace(0.1, 1, count).astype(np.float32)
    polar = {"range": 30 * ramp, "azimuth": ramp - 0.5, "elevation": ramp / 9, "doppler": ramp, "rcs": ramp}
    plane = {"x": 30 * ramp, "y": ramp, "vx": ramp, "vy": ramp, "snr": ramp}
    return found + [[encode_cloud(TYPES, one, START, "radar")] for one in (polar, plane)]


def polar_images() -> list[list]:
    pixels = noise(40, 400) * (noise(40, 400, seed=1) > 200)
    pixels[:4], pixels[10] = np.array(struct.unpack("4B", struct.pack("<I", START // 10**9)))[:, None], 1
    pixels[4:8] = 0
    return [[encode_image(TYPES, pixels, "mono8", START, "radar")]]


def packets() -> list[list]:
    def packet(number: int, encoding: str, data: np.ndarray):
        return CDR.types[EVENT_PACKET](
            header=encode_header(TYPES, START + 10 * (number - 2) * MS, "event"), height=HEIGHT, width=WIDTH,
            seq=number, time_base=START, encoding=encoding, is_bigendian=False, events=data.view(np.uint8))

    found = [[packet(k, encoding, np.array([kind << 12 | value for kind, value in words] * 20, np.uint16))
              for k in range(3)] for encoding, words in WORDS.items()]
    ramp = np.arange(16, dtype=np.uint64)
    single = {"mono": 1000 * ramp | ramp << 32 | ramp // 2 << 48 | (ramp & 1) << 63, "trigger": 1000 * ramp,
              "libcaer": 1 | (ramp & 1) << 1 | ramp // 2 << 2 | ramp << 17 | 100 * ramp << 32}
    return found + [[packet(k, encoding, data.astype(np.uint64)) for k in range(2)]
                    for encoding, data in single.items()]


def event_arrays() -> list[list]:
    kind = EVENT_ARRAYS[0]
    events = [CDR.types[kind.replace("Array", "")](
        x=k, y=k % HEIGHT, ts=TYPES.Time(sec=START // 10**9, nanosec=1000 * k), polarity=k % 2 > 0) for k in range(16)]
    return [[CDR.types[kind](header=encode_header(TYPES, START, "event"), height=HEIGHT, width=WIDTH, events=events)]]


def event_clouds() -> list[list]:
    ramp = np.arange(16)
    floats = {"x": ramp.astype(np.float32), "y": ramp.astype(np.int16), "t": START / 1e9 + ramp / 1e4,
              "p": (ramp % 2 * 2 - 1).astype(np.int8)}
    return [[encode_events(TYPES, ramp, ramp, START - 5 * MS + ramp * 1000, ramp % 2, START - 5 * MS, "event")],
            [encode_cloud(TYPES, floats, START, "event")]]


def event_images() -> list[list]:
    colours, grey = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.full((HEIGHT, WIDTH), 128, np.uint8)
    colours[2:5, :, 0], colours[8, :, 2], grey[3], grey[7] = 255, 255, 255, 0
    return [[encode_image(TYPES, colours, "rgb8", START, "event")],
            [encode_image(TYPES, grey, "mono8", START, "event")]]


def infos() -> list[list]:
    cameras = [Camera(640, 480, np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), model, D, "camera")
               for model, D in (("none", ()), ("plumb_bob", (-0.3, 0.1, 0.001, 0.001, 0.01)),
                                ("rational_polynomial", (0.1, 0.01, 0.001, 0.001, 0.01, 0.2, 0.01, 0.001)),
                                ("equidistant", (-0.05, 0.01, -0.001, 0.0001)))]
    return [[encode_camera_info(TYPES, one, START)] for one in cameras]


def poses() -> list[list]:
    return [[encode_odometry(TYPES, np.eye(4), START + k * 20 * MS) for k in range(-1, 8)]]


def trees() -> list[list]:
    return [[encode_transforms(TYPES, [("odom", "base_link", np.eye(4)), ("base_link", "lidar", FORWARD)],
                               START + k * 50 * MS) for k in range(-1, 4)]]


TARGETS = {
    "image": target(IMAGE, images, partial(see, "rgb")),
    "compressed_image": target(COMPRESSED, files, partial(see, "rgb")),
    "depth_image": target(IMAGE, depths, partial(see, "depth")),
    "depth_hha": target(IMAGE, depths, partial(see, "depth", depth="hha")),
    "compressed_depth": target(COMPRESSED, depth_files, partial(see, "depth")),
    "cloud": target(CLOUD, clouds, partial(see, "lidar")),
    "radar_cloud": target(CLOUD, detections, partial(see, "radar")),
    "radar_image": target(IMAGE, polar_images, partial(see, "radar")),
    "event_packet": target(EVENT_PACKET, packets, partial(see, "event")),
    "event_array": target(EVENT_ARRAYS[0], event_arrays, partial(see, "event")),
    "event_cloud": target(CLOUD, event_clouds, partial(see, "event")),
    "event_image": target(IMAGE, event_images, partial(see, "event")),
    "camera_info": target(INFO, infos, calibrate),
    "odometry": target(ODOMETRY, poses, partial(move, "odom")),
    "tf": target(TF, trees, partial(move, "tf")),
}
