"""Targets of files and of what is typed: bags, networks, calibrations, parameters, faults."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from random import Random

import numpy as np
import torch
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from fuzz.changes import changed_bytes, changed_json, changed_yaml
from fuzz.messages import CAMERA, CDR, FORWARD, START, TYPES, images
from fuzz.target import Target
from mss_models import checkpoint
from mss_models.checkpoint import METADATA_KEY, CheckpointError
from mss_models.labels import DELIVER
from mss_models.modality import DEFAULT_ENCODINGS
from mss_models.runtime.engine_file import read_engine, write_engine
from mss_models.runtime.exported import INPUTS, OUTPUTS, Metadata
from mss_models.runtime.onnx import OnnxRuntime
from mss_models.runtime.torch import OptionError
from mss_models.system import create
from mss_perception import calibration
from mss_perception.bags import BagError, BagWriter, read_bag
from mss_perception.calibration import Calibration, CalibrationError
from mss_perception.config import Config, ConfigError
from mss_perception.faults import FaultError, FaultSchedule, parse_fault
from mss_perception.message_types import IMAGE, TF
from mss_perception.messages import encode_camera_info, encode_odometry, encode_transforms

CONFIGURATION = """/robot:
  mss_perception:
    ros__parameters:
      inputs: [rgb, depth, lidar_front, lidar_rear, radar]
      lidar_front: {topic: front/points, intensity_max: 255.0, time_unit: ns}
      lidar_rear: {topic: rear/points, offset_sec: -0.05}
      radar.intensity_min: -10.0
      tick_source: [rgb, lidar_front]
      target_cameras: [rgb]
      deadline_sec: 1e-1
      publish_points: n
"""
FAULTS = ("rgb:drop@3-5", "lidar:delay=0.3@6-8", "rgb_left:stamp=-1.5@0-", "event:noise=3@1-2", "depth:corrupt@0.5-9",
          "rgb/info:freeze@2-")


@lru_cache(maxsize=1)
def place() -> tempfile.TemporaryDirectory:
    """For what a decoder reads by its path; it goes with the process."""
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def through(name: str, read: Callable[[Path], object]) -> Callable[[memoryview], object]:
    """Decode what lies in a file of this name."""
    def decode(data: memoryview) -> object:
        path = Path(place().name) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return decode


def written(write: Callable[[Path], object], name: str) -> bytes:
    """What `write` puts into a file of this name, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


# ---------------------------------------------------------------------------------------------------------------- bags

def read_all(path: Path) -> None:
    for _ in read_bag(path):
        pass


def write_mcap(path: Path, compress: bool = False) -> None:
    with BagWriter(path.parent / "bag", compress=compress) as bag:
        bag.write("/tf_static", encode_transforms(TYPES, [("base_link", "rgb", FORWARD)], START), START)
        for k, (image,) in enumerate(images()[:3]):
            bag.write("/image", image, START + k)
            bag.write("/camera_info", encode_camera_info(TYPES, CAMERA, START), START + k)
            bag.write("/odom", encode_odometry(TYPES, np.eye(4), START), START + k)
    (path.parent / "bag" / "bag.mcap").rename(path)


def write_sqlite(path: Path) -> None:
    with Writer(path.parent / "bag", version=8, storage_plugin=StoragePlugin.SQLITE3) as bag:
        for topic, kind, message in (("/image", IMAGE, images()[5][0]),
                                     ("/tf", TF, encode_transforms(TYPES, [("a", "b", FORWARD)], START))):
            connection = bag.add_connection(topic, kind, typestore=CDR)
            for k in range(2):
                bag.write(connection, START + k, CDR.serialize_cdr(message, kind))
    (path.parent / "bag" / "bag.db3").rename(path)


def write_metadata(path: Path) -> None:
    write_mcap(path.parent / "bag.mcap")
    (path.parent / "bag" / "metadata.yaml").rename(path)


def read_with_metadata(path: Path) -> None:
    """Its bag is beside it, compressed or not."""
    for name, compress in (("bag.mcap", False), ("bag.mcap.zstd", True)):
        if not (path.parent / name).exists():
            (path.parent / name).write_bytes(written(partial(write_mcap, compress=compress), "bag.mcap"))
    read_all(path.parent)


# ------------------------------------------------------------------------------------------------------------ networks

@lru_cache(maxsize=1)
def network() -> bytes:
    """A small checkpoint."""
    torch.manual_seed(0)
    model = create(system="segformer_mean", modalities=("rgb", "lidar"), num_classes=len(DELIVER), backbone="B0",
                   head_width=8)
    return written(lambda path: checkpoint.save(path, model, DELIVER, DEFAULT_ENCODINGS, {"recipe": "none", "seed": 1},
                                                image_size=(64, 96)), "net.safetensors")


def header(data: bytes) -> bytes:
    """What stands before a checkpoint's tensors: the length of a JSON text, and the text."""
    return data[:8 + int.from_bytes(data[:8], "little")]


def load_network(data: memoryview) -> None:
    """A checkpoint whose beginning is `data` and whose tensors are those of `network`."""
    whole = network()
    through("net.safetensors", checkpoint.load)(bytes(data) + whole[len(header(whole)):])


def changed_header(random: Random, data: bytes) -> bytes:
    """The metadata, the table of tensors, or bytes; the length mostly fits."""
    if random.random() < 0.2:
        return changed_bytes(random, data)
    try:
        table = json.loads(data[8:])
        texts = table["__metadata__"]
        if random.random() < 0.7:
            texts[METADATA_KEY] = changed_json(random, texts[METADATA_KEY].encode()).decode(errors="replace")
            text = json.dumps(table).encode()
        else:
            text = changed_json(random, data[8:])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        text = changed_bytes(random, data[8:])
    return len(text).to_bytes(8, "little") + text


def exported() -> bytes:
    """The metadata of an exported graph."""
    encodings = {name: DEFAULT_ENCODINGS[name] for name in ("rgb", "lidar")}
    architecture = {"system": "segformer_mean", "modalities": ["rgb", "lidar"], "num_classes": len(DELIVER)}
    return Metadata(architecture, DELIVER, encodings, (8, 8), {"recipe": "none"}, "0123456789ab", (8, 8),
                    "fp32").to_json().encode()


def graph() -> bytes:
    """A graph with the interface of an exported one, which finds the same class everywhere."""
    from onnx import TensorProto, helper

    kinds = {"images": (TensorProto.UINT8, ("B", 2, 8, 8, 3)), "present": (TensorProto.BOOL, ("B", 2)),
             "logits": (TensorProto.FLOAT, (1, 25, 8, 8)), "labels": (TensorProto.UINT8, (1, 8, 8)),
             "confidence": (TensorProto.UINT8, (1, 8, 8))}
    ports = {name: helper.make_tensor_value_info(name, *one) for name, one in kinds.items()}
    constants = [helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=helper.make_tensor(
        "value", kinds[name][0], [1], [1])) for name in OUTPUTS]
    shapes = [helper.make_tensor(f"{name}_shape", TensorProto.INT64, [len(kinds[name][1])], kinds[name][1])
              for name in OUTPUTS]
    made = helper.make_graph(constants, "graph", [ports[name] for name in INPUTS], [ports[name] for name in OUTPUTS],
                             shapes)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: exported().decode()})
    return model.SerializeToString()


def engine() -> bytes:
    """An engine's file; nothing in it is one."""
    about = {"metadata": exported().decode(), "profile": {"batch": [1, 1, 4], "sizes": [[8, 8]] * 3}, "bytes": 9,
             "tensorrt": "10.0", "gpu": "none", "capability": [9, 0]}
    return written(lambda path: write_engine(path, about, b"no engine"), "net.engine")


def open_engine(path: Path) -> None:
    path.chmod(0o600)
    read_engine(path)


# ------------------------------------------------------------------------------------------ what people write

def calibrations() -> list[bytes]:
    known = Calibration({"rgb": CAMERA}, [("base_link", "rgb", FORWARD), ("base_link", "lidar", np.eye(4))])
    by_hand = """cameras:
  event: {width: 8, height: 8, frame_id: /event, K: [[8, 0, 4], [0, 8, 4], [0, 0, 1]], distortion_model: fisheye,
          D: &d [0.1, 0, 0, 0]}
extrinsics:
  - {parent: base_link, child: event, translation: [1, 0.5, 1e-1], rotation: [0, 0, 0, 1]}
"""
    return [written(lambda path: calibration.save(path, known), "calibration.yaml"), by_hand.encode()]


def configurations() -> list[bytes]:
    plain = {"lidar": {"offset_sec": 0.01, "enabled": False}, "rgb.topic": "/front/image", "width": 256}
    return [CONFIGURATION.encode(), yaml.safe_dump(plain).encode()]


def schedule(data: memoryview) -> None:
    """A fault as it is typed, for a rig's roles or for any."""
    text = bytes(data).decode(errors="surrogateescape")
    parse_fault(text)
    roles = {f"/{one.partition(':')[0]}": one.partition(":")[0] for one in FAULTS}
    list(FaultSchedule([text], roles=roles).apply([("/rgb", START, images()[0][0])]))


TARGETS = {
    "bag_mcap": Target(lambda: [written(partial(write_mcap, compress=one), "bag.mcap") for one in (False, True)],
                       through("bag.mcap", read_all), (BagError,)),
    "bag_sqlite": Target(lambda: [written(write_sqlite, "bag.db3")], through("bag.db3", read_all), (BagError,)),
    "bag_metadata": Target(lambda: [written(write_metadata, "metadata.yaml")],
                           through("bag/metadata.yaml", read_with_metadata), (BagError,), changed_yaml),
    "checkpoint": Target(lambda: [header(network())], load_network, (CheckpointError,), changed_header),
    "exported_metadata": Target(lambda: [exported()], lambda data: Metadata.from_json(
        bytes(data).decode(errors="surrogateescape"), "the graph"), (OptionError,), changed_json),
    "onnx": Target(lambda: [graph()], through("net.onnx", partial(OnnxRuntime, device="cpu", threads=1)),
                   (OptionError,)),
    "engine": Target(lambda: [engine()], through("net.engine", open_engine), (OptionError,)),
    "calibration": Target(calibrations, through("calibration.yaml", calibration.load), (CalibrationError,),
                          changed_yaml),
    "configuration": Target(configurations, through("configuration.yaml", Config.from_yaml), (ConfigError,),
                            changed_yaml),
    "fault": Target(lambda: [one.encode() for one in FAULTS], schedule, (FaultError,)),
}
