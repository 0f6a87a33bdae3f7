"""Configuration: every parameter is declared here once, with its description, range and default.

The node declares its ROS parameters from these fields, and replay reads the same names from a YAML file. A parameter
of an input is written `<input>.<field>`, e.g. `lidar.offset_sec`. The parameter `inputs` names the inputs; what stands
before the first underscore of a name is its modality: `lidar`, `lidar_rear`, `radar`, `depth_left` ...
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mss_perception import parameter_file
from mss_perception.message_types import ACCEPTED, default_type
from mss_perception.parameters import ConfigError, convert, flattened, parameter, wrong
from mss_perception.units import nanoseconds

log = logging.getLogger(__name__)

# Those of mss_models.runtime, which takes seconds to import; a test compares them.
BACKENDS = ("auto", "torch", "torch-compile", "torch-graphs", "onnxruntime", "tensorrt")
# How alike (difflib's ratio) a name is to one of ours that it was surely meant for, and perhaps: base_frame_id and
# base_frame, of two nodes, have 0.87, a letter too many or too few in ten 0.95.
SURELY_MEANT, PERHAPS_MEANT = 0.9, 0.8


def message_type(modality: str):
    return parameter(default_type(modality), TYPE_TEXT, choices=tuple(ACCEPTED[modality]))


TYPE_TEXT = "Type of the topic's messages, in the node; of a bag its own counts"


@dataclass
class InputConfig:
    """One sensor: where it comes from and how the collector matches it."""

    name: str = parameter("", "Name of the input")
    enabled: bool = parameter(True, "Take part at all; false gives the state DISABLED")
    topic: str = parameter("", "Topic of the sensor data; relative names are remapped and namespaced as usual")
    message_type: str = parameter("", TYPE_TEXT)
    info_topic: str = parameter("", "Topic of the CameraInfo; empty for sensors without one")
    frame_id: str = parameter("", "Frame of the data; empty takes header.frame_id")
    view: str = parameter("", "The one of target_cameras in whose view it is seen; empty: in all, but a target rgb "
                          "in its own")
    clock_offset_sec: float = parameter(0.0, "By how much the driver's stamps are later than the measurement, seconds: "
                                        "subtracted from all its times before anything looks at them", low=-100.0,
                                        high=100.0)
    offset_sec: float = parameter(0.0, "Stamp of the sensor minus reference time, seconds, where it measures at "
                                  "another time than the reference: for matching alone", low=-1.0, high=1.0)
    tolerance_sec: float = parameter(0.03, "Largest |stamp - offset - t_ref| of a match, seconds", low=0.0, high=1.0)
    hold_sec: float = parameter(0.0, "Reuse a sample up to this much older, seconds; 0 never", low=0.0, high=10.0)
    queue: int = parameter(10, "Samples kept for matching, not counting those that open sets would take", low=1,
                           high=1000)
    max_bytes: int = parameter(256 << 20, "Bytes kept for matching; the oldest arrival goes first", low=1 << 16)
    missing_after: int = parameter(3, "Misses in a row, in the input's own periods, until no set waits for it",
                                   low=1, high=100)
    recover_after: int = parameter(2, "Timely samples in a row until sets wait for it again", low=1, high=100)
    qos_depth: int = parameter(5, "Depth of the best-effort subscription", low=1, high=1000)

    @property
    def modality(self) -> str:
        return modality_of(self.name)

    @property
    def clock_offset_ns(self) -> int:
        return nanoseconds(self.clock_offset_sec)

    def true_ns(self, stamp_ns: int) -> int:
        """When that was measured which the driver stamped so; 0, a stamp that was never set, stays 0."""
        return stamp_ns - self.clock_offset_ns if stamp_ns else 0

    def stamp_of(self, t_ref_ns: int) -> int:
        """How the driver stamps what goes with that reference time."""
        return t_ref_ns + nanoseconds(self.offset_sec) + self.clock_offset_ns


def modality_of(name: str) -> str:
    """Of an input: what stands before the first underscore of its name."""
    return name.partition("_")[0]


@dataclass
class RgbConfig(InputConfig):
    """An input of camera images."""

    message_type: str = message_type("rgb")


@dataclass
class DepthConfig(InputConfig):
    """An input of depth images."""

    message_type: str = message_type("depth")


@dataclass
class EventConfig(InputConfig):
    """An input of events, as packets or pictures."""

    message_type: str = message_type("event")


@dataclass
class LidarConfig(InputConfig):
    """An input of point clouds: what the message cannot say of its driver."""

    message_type: str = message_type("lidar")
    intensity_max: float = parameter(0.0, "What the driver sends for full intensity, usually 1 or 255; 0 takes 255 for "
                                     "an integer field and 1 for a float field", low=0.0)
    time_unit: str = parameter("auto", "Unit of the field with the points' times; none: do not use it",
                               choices=("auto", "s", "ms", "us", "ns", "none"))


@dataclass
class RadarConfig(InputConfig):
    """An input of radar detections: what the message cannot say of its driver."""

    message_type: str = message_type("radar")
    intensity_min: float = parameter(-20.0, "The driver's rcs, intensity or power (dBsm, dB ...) that counts as none")
    intensity_max: float = parameter(40.0, "The driver's rcs, intensity or power that counts as full")


DEFAULTS: dict[str, InputConfig] = {
    "rgb": RgbConfig("rgb", topic="image", info_topic="camera_info"),
    "depth": DepthConfig("depth", topic="depth/image", info_topic="depth/camera_info"),
    "event": EventConfig("event", topic="events", info_topic="events/camera_info", tolerance_sec=0.01, queue=1000,
                         qos_depth=50),
    "lidar": LidarConfig("lidar", topic="points", tolerance_sec=0.05),
    "radar": RadarConfig("radar", topic="radar", tolerance_sec=0.05),
}
"""Modality -> the input of that name; one of another name has these values too, but for the topics."""
DEFAULT_INPUTS = ("rgb", "depth", "event", "lidar")
TICK_ORDER = ("rgb", "depth", "lidar", "event", "radar")
CAMERAS = ("rgb", "depth", "event")     # modalities with a pixel grid; a view has one of each, clouds are joined


def default_input(name: str) -> InputConfig:
    """The defaults of an input. Raises ConfigError for a name that tells no modality."""
    if not re.fullmatch(r"[a-z]+(_[a-z0-9_]+)?", name) or modality_of(name) not in DEFAULTS:
        raise ConfigError(f"inputs names {name!r}, which must be a modality, or a modality and a name of its own such "
                          f"as lidar_rear; modalities: {', '.join(DEFAULTS)}")
    one = DEFAULTS[modality_of(name)]
    return dataclasses.replace(one) if name == one.name else dataclasses.replace(one, name=name, topic="",
                                                                                 info_topic="")


def default_ticks(names: Iterable[str]) -> list[str]:
    """The inputs in the order in which they open sets unless tick_source says otherwise."""
    return sorted(names, key=lambda name: TICK_ORDER.index(modality_of(name)))


def default_targets(names: Iterable[str]) -> list[str]:
    """The first camera of the best kind; rgb when there is none at all, so that the complaint names something."""
    cameras = sorted((name for name in names if modality_of(name) in CAMERAS),
                     key=lambda name: CAMERAS.index(modality_of(name)))
    return cameras[:1] or ["rgb"]


@dataclass
class CollectorConfig:
    """Time alignment; the rules are in mss_perception/collector.py."""

    tick_source: list[str] = parameter(None, "Inputs that may open a set, in order; the next alive one takes over. By "
                                       "default all, cameras first", factory=lambda: default_ticks(DEFAULT_INPUTS))
    tick_rate_hz: float = parameter(10.0, "Sets never open faster than this", low=0.1, high=1000.0)
    min_modalities: int = parameter(1, "Sets with fewer present modalities are dropped", low=1, high=16, runtime=True)
    deadline_sec: float = parameter(0.1, "Longest that a set waits after its opening, seconds", low=0.0, high=10.0,
                                    runtime=True)
    max_pending: int = parameter(4, "Open sets at a time; the oldest is emitted first", low=1, high=100)
    jump_back_sec: float = parameter(1.0, "A stamp this much older than its stream starts a new epoch", low=0.01,
                                  high=1e9)
    max_future_sec: float = parameter(0.1, "A stamp this far ahead of the node's clock is rejected", low=0.001,
                                   high=1e9)
    late_policy: str = parameter("drop", "A set whose tick came out of order", choices=("drop", "publish"))
    compute_policy: str = parameter("latest", "latest: newest set wins while the network is busy; every: each one",
                                    choices=("latest", "every"))


@dataclass
class Config:
    """All parameters of the node and of replay."""

    checkpoint: str = parameter("", "Network (.safetensors, .onnx, .engine); empty takes the shipped one")
    backend: str = parameter("auto", "Inference backend; auto: by the checkpoint file's suffix. torch-compile takes "
                             "minutes to start, torch-graphs and tensorrt need CUDA (docs/runtimes.md)",
                             choices=BACKENDS)
    device: str = parameter("auto", "auto, cpu, cuda, cuda:1 ...")
    precision: str = parameter("auto",
                               "Arithmetic of the network; auto: fp16 on cuda, bf16 on a CPU with AMX or AVX-512 "
                               "BF16, else fp32",
                               choices=("auto", "fp32", "bf16", "fp16"))
    threads: int = parameter(0, "CPU threads of the network; 0 leaves torch's choice", low=0, high=256)
    width: int = parameter(0, "Width of the network's images, pixels; 0 takes the checkpoint's", low=0, high=8192)
    height: int = parameter(0, "Height of the network's images, pixels; 0 takes the checkpoint's", low=0, high=8192)
    target_cameras: list[str] = parameter(
        None, "Inputs whose cameras are the pixel grids and frames of the outputs. Each is a view named after its "
        "input, and the network segments all views of a set at once. By default the first camera",
        factory=lambda: default_targets(DEFAULT_INPUTS))
    undistort: bool = parameter(False, "Show the network pinhole pictures of a wide or fisheye target camera; labels "
                                "stay on the camera's own pixels")
    calibration_file: str = parameter("", "YAML with camera intrinsics and extrinsics, used until messages bring them")
    labels_topic: str = parameter("labels", "Ground truth, mono8 label ids, that replay scores against")
    odometry_topic: str = parameter("odom", "nav_msgs/Odometry for the deskew; empty: none")
    tf_topic: str = parameter("/tf", "tf2_msgs/TFMessage of poses that change; /robot1/tf where each robot has its "
                              "own; empty: none")
    tf_static_topic: str = parameter("/tf_static", "tf2_msgs/TFMessage of mountings, as tf_topic; empty: none")
    fixed_frame: str = parameter("odom", "Continuous frame that the vehicle moves in (REP 105)")
    base_frame: str = parameter("base_link", "Frame of the vehicle (REP 105), z up: by it depth is levelled for a "
                                "network that wants HHA images")
    event_plane_depth_m: float = parameter(0.0, "Depth at which event pixels are mapped to the camera; 0: infinity",
                                           low=0.0)
    event_period_sec: float = parameter(0.01, "Expected spacing of event packets, seconds", low=0.0001, high=1.0)
    publish_points: bool = parameter(True, "Publish ~/points/labeled", runtime=True)
    collector: CollectorConfig = field(default_factory=CollectorConfig)
    inputs: dict[str, InputConfig] = parameter(
        None, "Names of the inputs: each a modality, or a modality and a name of its own (lidar_rear). The LiDARs of a "
        "view share one image, and so do its radars; of other modalities a view has one input",
        factory=lambda: {name: default_input(name) for name in DEFAULT_INPUTS})

    def validate(self) -> Config:
        """Return self, or raise ConfigError naming everything that is wrong."""
        if problems := [text for name, value, one in self.parameters() if (text := wrong(name, value, one))]:
            raise ConfigError("; ".join(problems))
        enabled = [name for name, one in self.inputs.items() if one.enabled]
        problems = list(self._wrong_inputs(enabled)) + list(self._wrong_topics(enabled))
        in_targets = list(self._wrong_targets())
        if enabled and not in_targets:      # else there are no views to judge
            for view, names in self.views().items():
                problems += self._wrong_view(view, [name for name in names if name in enabled])
        if problems or in_targets:
            raise ConfigError("; ".join(problems + in_targets))
        return self

    def _wrong_inputs(self, enabled: list[str]) -> Iterator[str]:
        for name, one in self.inputs.items():
            if isinstance(one, RadarConfig) and one.intensity_min >= one.intensity_max:
                yield (f"{name}.intensity_min = {one.intensity_min:g} must be less than {name}.intensity_max = "
                       f"{one.intensity_max:g}")
        for name in ("fixed_frame", "base_frame"):
            if not getattr(self, name):
                yield f"{name} is empty; it must be the name of a frame"
        foreign = [name for name in self.collector.tick_source if name not in self.inputs]
        for name in foreign:
            yield f"tick_source names {name!r}, which is not an input; inputs: {', '.join(self.inputs)}"
        if not enabled:
            yield "no input is enabled; enable at least one of " + ", ".join(self.inputs)
        elif not foreign and not set(self.collector.tick_source) & set(enabled):
            yield f"tick_source {self.collector.tick_source} has no enabled input; enabled: {enabled}"

    def _wrong_topics(self, enabled: list[str]) -> Iterator[str]:
        """Each topic has one role: of two, one would get nothing."""
        for name in enabled:
            if not self.inputs[name].topic:
                yield f"{name}.topic is empty; the input {name} needs a topic"
        uses = [(name, name, getattr(self, name)) for name in ("tf_topic", "tf_static_topic")]
        uses += [(f"{name}.topic", name, self.inputs[name].topic) for name in enabled]
        uses += [(f"{name}.info_topic", f"{name}.info_topic", self.inputs[name].info_topic)
                 for name in dict.fromkeys([*enabled, *self.target_cameras]) if name in self.inputs]
        uses.append(("odometry_topic", "odometry_topic", self.odometry_topic))
        served: dict[str, str] = {}
        for parameter_name, user, topic in uses:
            if topic and (re.search(r"\s|//|/$", topic) or not topic.strip("/~")):
                yield f"{parameter_name} = {topic!r} is no topic, such as /front/image"
            elif topic and (other := served.setdefault(absolute(topic), user)) != user:
                yield f"{parameter_name} = {topic!r} is {other}'s already; each needs one of its own" + (
                    f". Leave it empty and give camera {user.partition('.')[0]!r} in calibration_file"
                    if user.endswith(".info_topic") and other.endswith(".info_topic") else "")

    def _wrong_targets(self) -> Iterator[str]:
        targets, cameras = self.target_cameras, [name for name, one in self.inputs.items() if one.modality in CAMERAS]
        if not targets or len(set(targets)) < len(targets):
            yield f"target_cameras = [{', '.join(targets)}] must name at least one input, and each once"
        for name in targets:
            if name not in cameras:
                yield (f"target_cameras names {name!r}, which is no input with a camera; one of: "
                       + (", ".join(cameras) or "none; name one in inputs"))
            elif not self.inputs[name].info_topic and not self.calibration_file:
                yield (f"target camera {name} has no intrinsics: give {name}.info_topic, or its camera in "
                       "calibration_file")
        for name, one in self.inputs.items():
            if one.view and one.view not in targets:
                yield f"{name}.view = {one.view!r} must be empty or one of target_cameras: {', '.join(targets)}"
            elif one.view and name in targets and one.view != name:
                yield f"{name}.view = {one.view!r}, but {name} is a target camera, whose view is its own"

    def _wrong_view(self, view: str, enabled: list[str]) -> Iterator[str]:
        for modality in CAMERAS:
            several = [name for name in enabled if modality_of(name) == modality]
            if len(several) > 1:
                yield (f"inputs {' and '.join(several)} are all {modality}, of which the view of {view} can have one; "
                       f"give each a view by {several[-1]}.view and target_cameras, or disable it")
        kinds = {modality_of(name) for name in enabled}
        if self.collector.min_modalities > len(kinds):
            yield (f"min_modalities = {self.collector.min_modalities} exceeds the {len(kinds)} modalities of the "
                   f"enabled inputs in the view of {view}: {', '.join(enabled) or 'none'}")

    def views(self) -> dict[str, list[str]]:
        """Target camera -> the inputs that are seen in its view, disabled ones too."""
        def seen_in(name: str) -> str:
            own = name in self.target_cameras and modality_of(name) == "rgb"
            return name if own else self.inputs[name].view
        return {view: [name for name in self.inputs if seen_in(name) in ("", view)] for view in self.target_cameras}

    def of_view(self, view: str) -> Config:
        """A copy reduced to one view and its inputs. Raises ConfigError for a name that is no view."""
        if view not in self.target_cameras:
            raise ConfigError(f"{view!r} is no view; target_cameras: {', '.join(self.target_cameras)}")
        reduced, names = copy.deepcopy(self), self.views()[view]
        reduced.inputs = {name: reduced.inputs[name] for name in names}
        reduced.target_cameras = [view]
        reduced.collector.tick_source = [name for name in self.collector.tick_source if name in names] \
            or default_ticks(names)
        return reduced.validate()

    def parameters(self):
        """Yield (flat name, value, dataclass field) of every parameter: `inputs` first, those of each input last."""
        general = [(part, declaration) for part in (self, self.collector) for declaration in dataclasses.fields(part)
                   if declaration.metadata]
        for part, declaration in sorted(general, key=lambda one: one[1].name != "inputs"):
            value = getattr(part, declaration.name)
            yield declaration.name, list(value) if declaration.name == "inputs" else value, declaration
        for name, one in self.inputs.items():
            for declaration in dataclasses.fields(one):
                if declaration.name != "name":
                    yield f"{name}.{declaration.name}", getattr(one, declaration.name), declaration

    def topic_roles(self) -> dict[str, str]:
        """Absolute topic -> role, as faults and the pipeline name it: /image rgb, /camera_info rgb/info, /odom odom."""
        roles = {}
        for name, one in sorted(self.inputs.items(), key=lambda item: item[1].enabled):     # enabled ones have the word
            for topic, role in ((one.topic, name), (one.info_topic, f"{name}/info")):
                if topic:
                    roles[absolute(topic)] = role
        for topic, role in ((self.odometry_topic, "odom"), (self.tf_topic, "tf"), (self.tf_static_topic, "tf_static")):
            if topic:
                roles[absolute(topic)] = role
        return roles

    def used_topics(self) -> dict[str, str]:
        """topic_roles without what only disabled inputs need; target cameras' intrinsics are always needed."""
        unused = {role for name, one in self.inputs.items() if not one.enabled for role in (name, f"{name}/info")}
        unused -= {f"{name}/info" for name in self.target_cameras}
        return {topic: role for topic, role in self.topic_roles().items() if role not in unused}

    def set(self, name: str, value: Any) -> None:
        """Set one parameter by its flat name. `inputs` makes the inputs that are new, and must be set before their
        parameters are. Raises ConfigError when unknown, of a wrong type or out of range."""
        for known, old, declaration in self.parameters():
            if known == name:
                value = convert(name, value, old)
                if name == "inputs":
                    self._name_inputs(value)
                    return
                if problem := wrong(name, value, declaration):
                    raise ConfigError(problem)
                owner, last = self._owner(name), name.rpartition(".")[2]
                if last in ("frame_id", "fixed_frame", "base_frame"):
                    value = value.lstrip("/")       # as ROS 1 wrote it; all frames are compared without
                setattr(owner, last, value)
                return
        if head := self._no_input(name):
            raise ConfigError(f"{name} is given, but {head} is none of inputs = [{', '.join(self.inputs)}]; name it "
                              "there")
        meant = difflib.get_close_matches(name, [known for known, *_ in self.parameters()])
        raise ConfigError(f"unknown parameter {name!r}" + (f"; meant {' or '.join(meant)}?" if meant else ""))

    def _no_input(self, name: str) -> str:
        """The input that a parameter's name begins with, when it could be one and is none; else ''."""
        head, dot, _ = name.partition(".")
        return head if dot and head not in self.inputs and modality_of(head) in DEFAULTS else ""

    def is_foreign(self, name: str) -> bool:
        """Whether a name that was given to any node is likely another node's: no parameter's here, nor nearly one's,
        and of no input of ours. To be asked once `inputs` is set."""
        head, dot, _ = name.partition(".")
        if dot and (head in self.inputs or head in DEFAULTS):
            return False
        # rgb_topic is no misspelt rgb.topic.
        known = [known for known, *_ in self.parameters() if ("." in known) == bool(dot)]
        return not difflib.get_close_matches(name, known, 1, SURELY_MEANT)

    def ignored(self, foreign: Iterable[str]) -> str:
        """One line that tells of the names that are foreign."""
        def told(name: str) -> str:
            if head := self._no_input(name):
                return f"{name} ({head} is none of inputs)"
            close = difflib.get_close_matches(name, known, 1, PERHAPS_MEANT)
            return f"{name} (meant {close[0]}?)" if close else name
        known = [known for known, *_ in self.parameters()]
        return "parameters that are not this node's are ignored: " + ", ".join(map(told, foreign))

    def _name_inputs(self, names: list[str]) -> None:
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"inputs = [{', '.join(names)}] must name at least one input, and each once")
        before, self.inputs = self.inputs, {name: self.inputs.get(name) or default_input(name) for name in names}
        if self.collector.tick_source == default_ticks(before):
            self.collector.tick_source = default_ticks(names)
        if self.target_cameras == default_targets(before):
            self.target_cameras = default_targets(names)

    def _owner(self, name: str):
        head, _, last = name.rpartition(".")
        if head:
            return self.inputs[head]
        return self if last in {f.name for f in dataclasses.fields(self)} else self.collector

    @classmethod
    def of_inputs(cls, names: Iterable[str]) -> Config:
        """The defaults for these inputs, not validated. Raises ConfigError for a name that tells no modality."""
        config = cls()
        config.set("inputs", list(names))
        return config

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], shared: Collection[str] = ()) -> Config:
        """Defaults overridden by a (nested or flat) mapping of parameter names. shared: those that may be other nodes',
        which is told, not refused. Raises ConfigError that names every wrong one."""
        config, problems, foreign = cls(), {}, []
        for name, value in sorted(flattened(values).items(), key=lambda one: one[0] != "inputs"):
            if name in shared and config.is_foreign(name):
                foreign.append(name)
                continue
            try:
                config.set(name, value)
            except ConfigError as error:
                problems[name] = str(error)
        if foreign:
            log.warning("%s", config.ignored(foreign))
        return config.checked(problems)

    def checked(self, problems: Mapping[str, str]) -> Config:
        """Return self if it is valid and setting it met no problems (name -> text). Raises ConfigError naming those and
        all else that is wrong."""
        texts = list(problems.values())
        if "inputs" not in problems:    # else the others would be judged by the wrong ones
            try:
                self.validate()
            except ConfigError as error:
                texts.append(str(error))
        if texts:
            raise ConfigError("; ".join(texts))
        return self

    @classmethod
    def from_yaml(cls, path: str | Path) -> Config:
        """Read a ROS 2 parameter file (`node: ros__parameters: ...`) or a plain mapping of the same names.

        Of a parameter file the sections count that a node named mss_perception, in any namespace, would take. In those
        for any node there may be others' parameters: see is_foreign. Raises ConfigError.
        """
        values, shared = parameter_file.read(path)
        try:
            return cls.from_mapping(values, shared)
        except ConfigError as error:
            raise ConfigError(f"configuration {path}: {error}") from error


def absolute(topic: str) -> str:
    """A topic's full name, in no namespace."""
    return "/" + topic.lstrip("/")
