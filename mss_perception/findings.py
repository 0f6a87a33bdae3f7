"""What a configuration lacks for the data that a survey found, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mss_perception import calibration
from mss_perception.camera import Camera
from mss_perception.config import CAMERAS, DEFAULTS, Config, InputConfig, absolute, modality_of
from mss_perception.message_types import ACCEPTED
from mss_perception.proposal import (
    SERVED_BY,
    Proposal,
    candidates,
    free_infos,
    known_cameras,
    lidars_of,
    samples_of,
    tf_topics,
    topic_of,
    unconnected,
)
from mss_perception.survey import Survey, Topic
from mss_perception.timing import Trial, rhythm, trial

OFTEN = 0.95        # of the sets that an input is in; below, the reader is told
SKEW_SEC = 1.0      # between stamps and the clock of the receiver: no latency, but clocks that differ


@dataclass
class Findings:
    """missing: what is needed and not there; with any of it the data is not usable as configured. notes: what else is
    worth knowing. trial: what the collector made of the times; None without a reference."""

    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trial: Trial | None = None

    @property
    def usable(self) -> bool:
        return not self.missing


def judge(survey: Survey, config: Config, proposal: Proposal) -> Findings:
    """Hold a configuration against what was found. proposal: for the reference and the offsets. Raises
    CalibrationError."""
    findings = Findings()
    served = {}
    for name, one in config.inputs.items():
        topic = topic_of(survey, one.topic)
        if not one.enabled:
            if fitting := [other.name for other in candidates(survey, name)]:
                findings.notes.append(f"{name} is disabled; {', '.join(fitting)} could serve it")
            continue
        if topic is None:
            findings.missing.append(_absent(survey, name, one.topic))
            continue
        served[name] = topic
        findings.missing += _data(name, topic, one)
        findings.notes += _stamps(survey, name, topic, config)
    kinds = {modality_of(name) for name in config.inputs}
    findings.notes += [f"{other.name} could serve {name}: name {name} in inputs, {name}.topic: {other.name}, with a "
                       f"network that knows {name}"
                       for name in DEFAULTS if name not in kinds for other in candidates(survey, name)]
    findings.notes += _further(survey, config, served)
    if not served:
        findings.missing.append("no input has data: there is nothing to segment")
        return findings
    if not survey.live and not any(latencies_ns(topic).any() for topic in served.values()):
        findings.notes.append("messages were received at their very stamps: the bag was not recorded but converted, so "
                              "latencies and the deadline cannot be measured with it")
    if config.calibration_file:
        findings.notes += calibration.load(config.calibration_file).foreign(config.inputs)
    cameras = known_cameras(survey, config)
    findings.missing += _intrinsics(survey, config, served, cameras)
    findings.missing += [f"{name}: frame {frame!r} has no transform to {target!r} ({why}): give it on "
                         f"{config.tf_static_topic or 'tf_static_topic'} or in calibration_file" if frame else
                         f"{name}: its messages have no frame_id: set {name}.frame_id"
                         for name, (frame, target, why) in unconnected(survey, config, cameras).items()]
    read = tf_topics(config)
    findings.notes += [f"transforms on {topic.name} are not read: "
                       f"{'tf_static_topic' if 'static' in topic.name else 'tf_topic'}: {topic.name} would"
                       for topic in survey.of_kind("tf") if topic.name not in read]
    findings.notes += _motion(survey, config, served)
    _try(survey, config, proposal, findings)
    return findings


def _absent(survey: Survey, name: str, configured: str) -> str:
    text = f"{name}: nothing came on {absolute(configured)}"
    fitting = candidates(survey, name)
    if not fitting:
        return f"{text}, and no other topic could serve it: {name}.enabled: false, if you do without"
    return f"{text}; " + ", ".join(f"{one.name} ({one.type})" for one in fitting) + \
        f" could serve it: {name}.topic: {fitting[0].name}"


def _further(survey: Survey, config: Config, served: dict[str, Topic]) -> Iterator[str]:
    """Sensors, told by their frame, of which another is in use already."""
    taken = {absolute(one.topic) for one in config.inputs.values()}
    for modality in ("rgb", "lidar", "radar"):
        used = {topic.frame_id for name, topic in served.items() if modality_of(name) == modality}
        for topic in candidates(survey, modality, taken) if used else ():
            if not topic.error and topic.kind == SERVED_BY[modality][0] and topic.frame_id not in used:
                name = f"{modality}_{1 + sum(modality_of(one) == modality for one in config.inputs)}"
                infos = free_infos(survey, config, topic) if modality in CAMERAS else []
                yield (f"{topic.name} could serve a further {modality}: name {name} in inputs"
                       + (" and in target_cameras" if modality in CAMERAS else "") + f", {name}.topic: {topic.name}"
                       + "".join(f", {name}.info_topic: {info.name}" for info in infos[:1]))


def _data(name: str, topic: Topic, configured: InputConfig) -> Iterator[str]:
    what = f"{name}: topic {topic.name} carries {topic.type}"
    if topic.error:
        encoding = topic.fact("encoding")
        yield f"{what}{f' ({encoding})' if encoding else ''}, which cannot be used: {topic.error}"
    elif topic.kind not in (needed := SERVED_BY[configured.modality]):
        yield f"{what}, which is {topic.kind or 'no sensor data'}; needed is {' or '.join(needed)}"
    elif topic.type != configured.message_type:
        known = topic.type in ACCEPTED[configured.modality]
        yield (f"{what}, but {name}.message_type is {configured.message_type}, which the node subscribes to"
               + (f": {name}.message_type: {topic.type}" if known else ""))
    if topic.count and not len(topic.stamps):
        yield f"{what}, which has no header and so no time stamps"
    elif topic.count and not any(topic.stamps):
        yield f"{name}: the stamps on {topic.name} are zero: its driver must set header.stamp"


def _stamps(survey: Survey, name: str, topic: Topic, config: Config) -> Iterator[str]:
    if topic.errors and not topic.error:
        worst, count = topic.errors.most_common(1)[0]
        yield (f"{name}: {topic.errors.total()} of {topic.errors.total() + topic.decoded} messages looked at on "
               f"{topic.name} are unusable; {count} of them: {worst}")
    if not len(topic.stamps) or not any(topic.stamps):
        return
    beat = rhythm(topic.stamps)
    if beat and beat.back:
        yield (f"{name}: stamps on {topic.name} go back {beat.back} times; by more than jump_back_sec = "
               f"{config.collector.jump_back_sec:g} that starts a new epoch")
    latency = float(np.median(latencies_ns(topic))) / 1e9 + config.inputs[name].clock_offset_sec
    if latency < -config.collector.max_future_sec:
        yield (f"{name}: stamps on {topic.name} are {-latency:.3g} s ahead of the "
               f"{'clock here' if survey.live else 'receive times'}; live, those beyond max_future_sec = "
               f"{config.collector.max_future_sec:g} are rejected: synchronise the clocks (PTP, chrony)")
    elif latency > SKEW_SEC:
        yield (f"{name}: stamps on {topic.name} are {latency:.3g} s old on arrival: clocks that differ, or a sensor "
               "clock that counts from its own start")


def latencies_ns(topic: Topic) -> np.ndarray:
    """Receive time minus stamp of the messages that have one."""
    stamps, received = np.asarray(topic.stamps, np.int64), np.asarray(topic.received, np.int64)
    return (received - stamps)[stamps != 0] if len(stamps) else np.empty(0, np.int64)


def _intrinsics(survey: Survey, config: Config, served: dict[str, Topic], cameras: dict[str, Camera]) -> Iterator[str]:
    targets = config.target_cameras
    for name in dict.fromkeys([*targets, *(name for name in served if modality_of(name) in CAMERAS)]):
        one, role = config.inputs[name], "the target camera " if name in targets else ""
        info = topic_of(survey, one.info_topic)
        if info and info.error:
            yield f"{name}: camera_info on {info.name} cannot be used: {info.error}"
        if name not in cameras:
            others = [other.name for other in free_infos(survey, config, served[name])] if name in served else []
            yield (f"no camera_info for {role}{name} on {absolute(one.info_topic)}"
                   + (f"; {', '.join(others)} could serve: {name}.info_topic: {others[0]}" if others
                      else f": publish it, or give camera {name!r} in calibration_file"))
        elif name in served and served[name].size and not same_shape(served[name], cameras[name]):
            camera = cameras[name]
            yield (f"{name}: {served[name].name} is {served[name].fact('size')}, but its calibration is of "
                   f"{camera.width} x {camera.height}: another camera's, or of another mode of it")


def same_shape(topic: Topic, camera: Camera) -> bool:
    """Whether a calibration is of the images' size."""
    return topic.size == (camera.width, camera.height)


def _motion(survey: Survey, config: Config, served: dict[str, Topic]) -> Iterator[str]:
    lidars = lidars_of(survey, config, served)
    if lidars and topic_of(survey, config.odometry_topic) is None:
        yield "no odometry: LiDAR points are not moved to the image's time (deskew)"
        return
    for lidar in lidars:
        if not lidar.facts["point_time"] and not lidar.error:
            yield (f"lidar: the points on {lidar.name} have no time of their own: a whole sweep is moved to the "
                   "image's time at once")
        elif any("no unit" in text for text in lidar.facts["point_time"]):
            yield f"lidar: {lidar.fact('point_time')}: points are not deskewed"


def _try(survey: Survey, config: Config, proposal: Proposal, findings: Findings) -> None:
    """Run the collector over the times, and tell of inputs that few sets get."""
    samples = samples_of(survey, config)
    if not any(name in samples for name in config.collector.tick_source):
        findings.missing.append(f"none of tick_source {', '.join(config.collector.tick_source)} has data: nothing "
                                "opens a set")
        return
    findings.trial = result = trial(samples, config)
    if not result.sets:
        findings.missing.append("the collector makes no set of these stamps")
    for name, share in result.used.items():
        if name in samples and result.sets and share < OFTEN:
            states = ", ".join(f"{state} {count}" for state, count in result.states[name].most_common())
            findings.notes.append(f"{name} is in {share:.0%} of {result.sets} sets ({states}); see tolerance_sec, "
                                  "offset_sec and deadline_sec")
    reference = rhythm(samples[proposal.reference].stamps) if proposal.reference in samples else None
    for name, one in samples.items():
        beat = rhythm(one.stamps)
        if reference and beat and one.begin_ns is None and 1.5 * reference.period_ns < beat.period_ns \
                and config.collector.tick_source[0] != name:
            findings.notes.append(
                f"{name} ({beat.rate_hz:.3g} Hz) is slower than {proposal.reference} ({reference.rate_hz:.3g} Hz), "
                f"which opens the sets: they can lie half its period apart. tick_source with {name} first ties them "
                "to it")
