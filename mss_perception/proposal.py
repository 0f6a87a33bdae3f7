"""From a survey to a configuration: which topic serves which input, offsets, tolerances, deadline; written as YAML."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from mss_perception import calibration
from mss_perception.camera import MAX_PIXELS, Camera
from mss_perception.config import CAMERAS, Config, absolute, modality_of
from mss_perception.message_types import ACCEPTED, COMPRESSED
from mss_perception.messages import MessageError
from mss_perception.survey import Survey, Topic
from mss_perception.timing import Phase, Samples, distances, phase, rhythm, trial
from mss_perception.transforms import TransformMissing, Transforms

SERVED_BY = {"rgb": ("colour", "grey"), "depth": ("depth",), "event": ("events",), "lidar": ("cloud",),
             "radar": ("radar",)}
PREFERRED = {"rgb": ("rgb", "color", "colour", "front", "image"), "depth": ("depth",), "event": ("event",),
             "lidar": ("lidar", "points"), "radar": ("radar",)}
# Words in the names of topics that hold results, not sensors; none of them is taken by itself.
RESULTS = ("label", "segment", "mask", "semantic", "overlay", "debug", "annotat", "map", "obstacle", "cluster")
NOMINAL_VIEW_DEG = 60.0     # width of view of a camera that nothing is known of: a usual lens
LONGEST_TRIAL_SEC = 2.0     # deadline at which the collector is tried: longer than any latency worth waiting for
SMALLEST_OFFSET_SEC, LARGEST_OFFSET_SEC = 0.0005, 1.0
LONGEST_HOLD_SEC = 5.0      # a sensor that comes less often is not held: what it saw has gone by


@dataclass
class Proposal:
    """config: complete and valid. reasons: parameter -> why it has its value. guesses: cameras whose intrinsics nothing
    brings: nominal ones, or, where same_as names a topic, those of that camera_info, of the same frame and size. gaps:
    frames (parent, child) that nothing connects. phases: input -> offset to the reference input, None where it cannot
    be measured."""

    config: Config
    reasons: dict[str, str] = field(default_factory=dict)
    guesses: dict[str, Camera] = field(default_factory=dict)
    same_as: dict[str, str] = field(default_factory=dict)
    gaps: list[tuple[str, str]] = field(default_factory=list)
    reference: str = ""
    phases: dict[str, Phase | None] = field(default_factory=dict)

    def set(self, name: str, value, reason: str) -> None:
        self.config.set(name, value)
        self.reasons[name] = reason


# ----------------------------------------------------------------------------------------------------- topics and roles

def topic_of(survey: Survey, name: str) -> Topic | None:
    """The topic of a configured name, if any message came on it."""
    topic = survey.topics.get(absolute(name)) if name else None
    return topic if topic and topic.count else None


def holds_results(topic: Topic) -> bool:
    """Whether its name says that it is somebody's result, not a sensor's data."""
    return any(word in topic.name.lower() for word in RESULTS)


def candidates(survey: Survey, name: str, taken: set[str] = frozenset()) -> list[Topic]:
    """Topics that could serve an input, the likeliest first."""
    modality = modality_of(name)
    words = {*PREFERRED[modality], *name.split("_")[1:]}
    found = [topic for topic in survey.of_kind(*SERVED_BY[modality])
             if topic.name not in taken and not holds_results(topic)]

    def order(topic: Topic):
        fit = sum(word in topic.name.lower() for word in words)
        return bool(topic.error), topic.kind != SERVED_BY[modality][0], -fit, topic.type == COMPRESSED, -topic.count, \
            topic.name
    return sorted(found, key=order)


def info_candidates(survey: Survey, image: Topic) -> list[Topic]:
    """camera_info topics that could belong to an image or event topic, the likeliest first.

    The convention is a camera_info in the namespace of the image (image_transport); else one of the same frame.
    """
    parents = [image.name.rpartition("/")[0]]
    parents.append(parents[0].rpartition("/")[0])       # /camera/image_raw/compressed

    def order(info: Topic):
        namespace = info.name.rpartition("/")[0]
        near = parents.index(namespace) if namespace in parents else len(parents)
        return near, info.frame_id != image.frame_id, info.size != image.size, info.name
    fitting = [info for info in survey.of_kind("info")
               if info.name.rpartition("/")[0] in parents or info.frame_id and info.frame_id == image.frame_id]
    return sorted(fitting, key=order)


def free_infos(survey: Survey, config: Config, image: Topic) -> list[Topic]:
    """The info_candidates that no input has yet: of two inputs with one topic, one would get nothing."""
    used = {absolute(one.info_topic) for one in config.inputs.values() if one.enabled}
    return [info for info in info_candidates(survey, image) if info.name not in used]


def choose_topics(survey: Survey, proposal: Proposal) -> None:
    """Topics of all inputs and their camera_info; inputs that nothing serves are disabled."""
    config = proposal.config
    taken = {topic.name for one in config.inputs.values() if (topic := topic_of(survey, one.topic))
             and (topic.kind in SERVED_BY[one.modality] or topic.unreadable)}
    for name, one in config.inputs.items():
        if not one.enabled:
            continue
        topic = topic_of(survey, one.topic)
        if topic is None or topic.kind not in SERVED_BY[one.modality] and not topic.unreadable:
            topic = next(iter(candidates(survey, name, taken)), None)
            if topic is None:
                proposal.set(f"{name}.enabled", False, "nothing that was found could serve it")
                continue
            proposal.set(f"{name}.topic", topic.name, f"{topic.type}, {topic.kind}")
            taken.add(topic.name)
        if topic.type != one.message_type and topic.type in ACCEPTED[one.modality]:
            proposal.set(f"{name}.message_type", topic.type, f"that of {topic.name}")
        infos = free_infos(survey, config, topic) if one.modality in CAMERAS else []
        if infos and topic_of(survey, one.info_topic) is None:
            proposal.set(f"{name}.info_topic", infos[0].name, "of the same namespace or frame as the images")
    odometries = survey.of_kind("odometry")
    if odometries and config.odometry_topic and topic_of(survey, config.odometry_topic) is None:
        odometry = max(odometries, key=lambda one: one.count)
        proposal.set("odometry_topic", odometry.name, odometry.fact("frames"))
    if odometry := topic_of(survey, config.odometry_topic):
        fixed = odometry.fact("frames").partition(" -> ")[0]
        if fixed and fixed != config.fixed_frame:
            proposal.set("fixed_frame", fixed, f"frame_id of {odometry.name}")
    # A robot's own tf has the usual names in its namespace. Of several robots' only the reader can choose.
    for parameter, usual in (("tf_topic", "tf"), ("tf_static_topic", "tf_static")):
        own = [topic.name for topic in survey.of_kind("tf") if topic.name.rpartition("/")[2] == usual]
        configured = getattr(config, parameter)
        if len(own) == 1 and configured and topic_of(survey, configured) is None:
            proposal.set(parameter, own[0], f"the only {usual}")


# --------------------------------------------------------------------------------------------------------- calibration

def known_cameras(survey: Survey, config: Config) -> dict[str, Camera]:
    """Intrinsics by input as the node would know them, in the frames that the configuration names. Raises
    CalibrationError."""
    cameras = dict(calibration.load(config.calibration_file).cameras) if config.calibration_file else {}
    for name, one in config.inputs.items():
        info = topic_of(survey, one.info_topic)
        if info and info.camera:
            cameras[name] = info.camera
    return {name: camera.in_frame(config.inputs[name].frame_id) if name in config.inputs else camera
            for name, camera in cameras.items()}


def tf_topics(config: Config) -> set[str]:
    """The topics of transforms that are read."""
    return {absolute(topic) for topic in (config.tf_topic, config.tf_static_topic) if topic}


def known_transforms(survey: Survey, config: Config) -> Transforms:
    """All frames that the node would connect by tf, odometry and the calibration file. Raises CalibrationError."""
    transforms = Transforms(config.fixed_frame)
    if config.calibration_file:
        for parent, child, T in calibration.load(config.calibration_file).extrinsics:
            transforms.add_static(parent, child, T)
    read = tf_topics(config)
    for name, topic in survey.topics.items():
        for message in topic.kept:
            if topic.kind == "tf" and name in read:
                with suppress(MessageError):        # the survey has it
                    transforms.add_message(message, static=name == absolute(config.tf_static_topic))
            elif name == absolute(config.odometry_topic) and topic.kind == "odometry":
                transforms.add_odometry(message)
    return transforms


def frame_of(survey: Survey, config: Config, name: str, cameras: dict[str, Camera]) -> str:
    """The frame of an input's data as the node would take it; '' when it has none."""
    one = config.inputs[name]
    topic = topic_of(survey, one.topic)
    camera = cameras.get(name)
    return (one.frame_id or (camera.frame_id if camera else topic.fact("frame_id") if topic else "")).lstrip("/")


def unconnected(survey: Survey, config: Config, cameras: dict[str, Camera]) -> dict[str, tuple[str, str, str]]:
    """Input -> (its frame, a target camera's frame, why) of the inputs that no transform leads to that target from."""
    transforms, found = known_transforms(survey, config), {}
    for view, names in config.views().items():
        for name in names if view in cameras else ():
            one = config.inputs[name]
            if not one.enabled or name == view or topic_of(survey, one.topic) is None:
                continue
            frame = frame_of(survey, config, name, cameras)
            try:
                transforms.lookup(cameras[view].frame_id, frame)
            except TransformMissing as error:
                found[name] = frame, cameras[view].frame_id, str(error)
    return found


def choose_calibration(survey: Survey, proposal: Proposal) -> None:
    """The target camera; nominal intrinsics where there are none; the frames that nothing connects."""
    config = proposal.config
    cameras = known_cameras(survey, config)
    present = [name for name, one in config.inputs.items() if one.enabled and topic_of(survey, one.topic)]
    _drop_empty_views(proposal)
    there = sorted((name for name in present if modality_of(name) in CAMERAS),
                   key=lambda name: CAMERAS.index(modality_of(name)))
    if not {*present, *cameras} & set(config.target_cameras) and there:
        target = next((name for name in there if name in cameras), there[0])
        proposal.set("target_cameras", [target], "the camera that there is")
    for name in there:
        if name in cameras:
            continue
        image = topic_of(survey, config.inputs[name].topic)
        twin = next((info for info in info_candidates(survey, image) if info.camera and info.size == image.size
                     and info.frame_id == image.frame_id), None)
        if twin:        # depth that is registered to the colour camera, say
            proposal.same_as[name] = twin.name
        if guess := twin.camera if twin else nominal_camera(survey, config, name):
            proposal.guesses[name] = guess
            cameras[name] = guess.in_frame(config.inputs[name].frame_id)
    proposal.gaps = sorted({(target, frame) for frame, target, _ in unconnected(survey, config, cameras).values()})


def _drop_empty_views(proposal: Proposal) -> None:
    """Target cameras that no input is left in the view of, unless all are."""
    config, views = proposal.config, proposal.config.views()
    kept = [view for view, names in views.items() if any(config.inputs[name].enabled for name in names)]
    if not kept or len(kept) == len(views):
        return
    proposal.set("target_cameras", kept, "those with data")
    for name, one in config.inputs.items():
        if one.view and one.view not in kept:
            proposal.set(f"{name}.view", "", f"{one.view} is no target camera")


def nominal_camera(survey: Survey, config: Config, name: str) -> Camera | None:
    """A pinhole of the images' size and a usual width of view: a guess; None when not even the size is known."""
    topic = topic_of(survey, config.inputs[name].topic)
    size = topic.size
    if size is None and topic.figures.get("largest_x"):     # events as points do not tell the sensor's size
        size = tuple(int(np.percentile(topic.figures[f"largest_{axis}"], 95)) + 1 for axis in "xy")
    if size is None or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        return None
    width, height = size
    focal = round(width / 2 / math.tan(math.radians(NOMINAL_VIEW_DEG / 2)), 1)
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return Camera(width, height, K, "none", (), frame_of(survey, config, name, {}) or f"{name}_optical")


# ---------------------------------------------------------------------------------------------------------------- time

def samples_of(survey: Survey, config: Config) -> dict[str, Samples]:
    """Stamps and receive times of the enabled inputs that have any."""
    found = {}
    for name, one in config.inputs.items():
        topic = topic_of(survey, one.topic)
        if one.enabled and topic and len(topic.stamps):
            span = ()
            if topic.kind == "events":
                begin = round(topic.median("begin_ns") or 0)
                end = max(round(topic.median("end_ns") or 0), begin + round(1e9 * config.event_period_sec))
                span = begin, end
            found[name] = Samples([one.true_ns(stamp) for stamp in topic.stamps], topic.received, *span)
    return found


def reference_of(samples: dict[str, Samples], config: Config) -> str:
    """The input that opens the sets: the first of tick_source that is there."""
    return next((name for name in config.collector.tick_source if name in samples), "")


def choose_intensity(survey: Survey, proposal: Proposal) -> None:
    """Each LiDAR's full scale, where its driver does not keep to 1 for floats and 255 for integers."""
    for name, one in proposal.config.inputs.items():
        topic = topic_of(survey, one.topic)
        largest = topic.median("largest_intensity") if topic and one.enabled else None
        if one.modality != "lidar" or largest is None or one.intensity_max:
            continue
        usual = 1.0 if "float" in topic.fact("intensity") else 255.0
        if largest > 1.05 * usual:
            value = 255.0 if largest <= 255 else float(f"{largest:.2g}")
            proposal.set(f"{name}.intensity_max", value, f"99 % of {topic.fact('intensity')} are up to {largest:.4g}")


def choose_timing(survey: Survey, proposal: Proposal) -> None:
    """Packet spacing, offsets, tolerances, hold, queues and the deadline, all from measured times."""
    config = proposal.config
    samples = samples_of(survey, config)
    proposal.reference = reference = reference_of(samples, config)
    if not reference:
        return
    events = next((one for name, one in samples.items() if modality_of(name) == "event"), None)
    if events and (packets := rhythm(events.stamps)):
        spacing = float(f"{packets.period_ns / 1e9:.2g}")
        if not 0.8 <= spacing / config.event_period_sec <= 1.25:
            proposal.set("event_period_sec", min(1.0, max(0.0001, spacing)), "measured spacing of the packets")
            samples = samples_of(survey, config)
    ticks = np.asarray(samples[reference].stamps)
    lead = rhythm(ticks)
    tick_period = max(1e9 / config.collector.tick_rate_hz, lead.period_ns if lead else 0.0)
    for name, one in samples.items():
        beat = rhythm(one.stamps)
        if name == reference or one.begin_ns is not None or beat is None:
            continue
        proposal.phases[name] = measured = \
            phase(one.stamps, ticks) if samples[reference].begin_ns is None else None
        _choose_offset(proposal, name, measured)
        settings = config.inputs[name]
        if 1.2 * tick_period < beat.period_ns < 1e9 * LONGEST_HOLD_SEC:
            if settings.hold_sec * 1e9 < beat.period_ns:
                proposal.set(f"{name}.hold_sec", round_up(1.5 * beat.period_ns / 1e9, 0.01),
                             f"comes at {beat.rate_hz:.3g} Hz, slower than the sets: each sample serves several")
            continue
        away = distances(np.asarray(one.stamps) - round(settings.offset_sec * 1e9), ticks)
        needed = np.percentile(away, 99) / 1e9 if len(away) else 0.0
        if needed > 0.9 * settings.tolerance_sec:
            proposal.set(f"{name}.tolerance_sec", min(1.0, round_up(1.1 * needed + 0.002, 0.001)),
                         f"99 % of the reference's stamps have one of it within {1e3 * needed:.1f} ms")
    _choose_deadline(survey, proposal, samples)


def _choose_offset(proposal: Proposal, name: str, measured: Phase | None) -> None:
    if measured is None or not measured.in_step or abs(measured.offset_ns) > 1e9 * LARGEST_OFFSET_SEC:
        return
    given, offset = proposal.config.inputs[name].offset_sec, measured.offset_ns / 1e9
    off = (offset - given + measured.modulo_ns / 2e9) % (measured.modulo_ns / 1e9) - measured.modulo_ns / 2e9
    if abs(off) >= max(SMALLEST_OFFSET_SEC, 0.5 * measured.spread_ns / 1e9):
        proposal.set(f"{name}.offset_sec", round(offset, 4), f"measured against {proposal.reference}, "
                     f"+-{measured.spread_ns / 1e6:.1f} ms, modulo {measured.modulo_ns / 1e6:.1f} ms")


def _choose_deadline(survey: Survey, proposal: Proposal, samples: dict[str, Samples]) -> None:
    """Long enough for 99 % of the sets that are complete when nothing is cut off; then queues to match."""
    config = proposal.config
    waits = trial(samples, config, LONGEST_TRIAL_SEC).waits_ns
    needed = np.percentile(waits, 99) / 1e9 if len(waits) else 0.0
    if needed > 0.9 * config.collector.deadline_sec:
        reason = f"99 % of the sets are complete after {1e3 * needed:.0f} ms"
        for lidar in lidars_of(survey, config, samples):
            if stamped_at_start(lidar):
                reason += f"; {lidar.name} is stamped at the start of its sweep and arrives a period later"
        proposal.set("deadline_sec", min(10.0, round_up(1.25 * needed + 0.005, 0.01)), reason)
    open_at_a_time = math.ceil(config.collector.deadline_sec * config.collector.tick_rate_hz) + 1
    if open_at_a_time > config.collector.max_pending:
        proposal.set("max_pending", min(100, open_at_a_time), "sets that are open within the deadline")
    for name, one in samples.items():
        settings, beat = config.inputs[name], rhythm(one.received)
        if beat is None:
            continue
        kept_sec = config.collector.deadline_sec + settings.tolerance_sec + settings.hold_sec + 0.2
        needed = math.ceil(kept_sec * beat.rate_hz)
        if needed > settings.queue:
            proposal.set(f"{name}.queue", min(1000, needed), f"{beat.rate_hz:.3g} Hz within the deadline")


def lidars_of(survey: Survey, config: Config, names: Iterable[str]) -> list[Topic]:
    """The topics of those of these inputs that are LiDARs."""
    return [topic_of(survey, config.inputs[name].topic) for name in names if modality_of(name) == "lidar"]


def stamped_at_start(lidar: Topic) -> bool:
    """Whether a sweep's points lie behind its stamp, by their own times."""
    first, last = lidar.median("first_point_ns"), lidar.median("last_point_ns")
    return first is not None and last - first > 1e6 and first > -0.1 * (last - first)


def round_up(value: float, step: float) -> float:
    return round(math.ceil(value / step - 1e-9) * step, 6)


def propose(survey: Survey, config: Config) -> Proposal:
    """A configuration for what was found, starting from `config`; disabled inputs stay so. When nothing at all serves
    an input it is `config` itself. Raises CalibrationError."""
    proposal = Proposal(copy.deepcopy(config))
    choose_topics(survey, proposal)
    if not any(one.enabled for one in proposal.config.inputs.values()):
        return Proposal(copy.deepcopy(config))
    enabled = [name for name, one in proposal.config.inputs.items() if one.enabled]
    if not set(enabled) & set(proposal.config.collector.tick_source):
        proposal.set("tick_source", enabled, "the inputs that there are")
    choose_calibration(survey, proposal)
    choose_intensity(survey, proposal)
    choose_timing(survey, proposal)
    proposal.config.validate()
    return proposal
