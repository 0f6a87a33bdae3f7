"""The pipeline: collector -> lanes -> network -> outputs. The node and the replay drive the same class.

`Pipeline.process` is the whole work on one set. Live, sets go through a one-slot, latest-wins hand-over to a single
inference thread; in replay each is processed at once on the caller's thread. Nothing that a message contains, and no
exception in the work on a set, ends the pipeline: it is counted under a name instead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mss_perception import scoring
from mss_perception.camera import Camera
from mss_perception.collector import Collector, SensorSet
from mss_perception.config import Config, ConfigError, modality_of
from mss_perception.inputs import InputState, nanoseconds
from mss_perception.lane import LaneImage
from mss_perception.lidar import LidarImage
from mss_perception.messages import stamp_ns
from mss_perception.sensors import INVALID_DATA, Seen, Sensors, View, joined, packet_span

log = logging.getLogger(__name__)

REMEMBERED = 300        # sets over which diagnostics give percentiles
RATE_SEC = 5.0          # over which they give the rate of outputs
TRACEBACK_SEC = 10.0    # between two tracebacks of one and the same failure
CLOSE_SEC = 5.0         # for the network to finish the set in work
REJECTED = {            # the collector's name -> what it means and what to do
    "zero": "stamps are zero; the driver must set header.stamp",
    "inverted": "packets end before they begin; check the events' times",
    "future": "stamps are in the future; check time synchronisation",
    "back": "stamps went back in time; check time synchronisation",
}


@dataclass
class Output:
    """What became of one set in one view. Times are ns; images, points and labels are None or empty when `dropped`.

    mask: input -> used by the network. inputs: input -> state (str), stamp, stamp_delta and age (ns), coverage,
    reason, frozen, and the lane's own figures; what is not known is left out. labels, confidence: uint8 (Hc, Wc) on the
    target camera's grid. extrapolated_ns: how far the vehicle's pose was guessed beyond the newest odometry or tf.
    images: modality -> uint8 (H, W, 3) as the network saw it, of the inputs in the mask. points: columns x y z (float32
    metres in frame_id), label and confidence (uint8) of the points that the camera sees. latency_ms: stage ->
    milliseconds. dropped: the reason why there is no output, or None. view: the target camera's input.
    """

    t_ref_ns: int
    epoch: int
    seq: int
    deadline_hit: bool
    mask: dict[str, bool]
    inputs: dict[str, dict]
    latency_ms: dict[str, float]
    frame_id: str = ""
    camera: Camera | None = None
    images: dict[str, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    points: dict[str, np.ndarray] | None = None
    dropped: str | None = None
    extrapolated_ns: int = 0
    view: str = ""

    @property
    def grid_size(self) -> tuple[int, int]:
        """(height, width) of `images`."""
        return next(iter(self.images.values())).shape[:2]

    def record(self) -> dict:
        """What is known of the set in plain values: a line of frames.jsonl without its figures of the labels."""
        return {"t_ref": self.t_ref_ns, "epoch": self.epoch, "mask": self.mask, "dropped": self.dropped,
                "deadline_hit": self.deadline_hit, "frame_id": self.frame_id, "inputs": self.inputs,
                "extrapolated_ns": self.extrapolated_ns, "latency_ms": self.latency_ms}


class Pipeline:
    """See the module's text.

    runtime: mss_models.runtime. on_output(output): called for every view of every set that was processed, dropped ones
    included (live: on the inference thread; a set that was replaced is only counted). done(t_ref_ns, epoch): for a
    resumed replay of one view: None to process the set, else what it was counted as, '' for an output.

    receive, poll, flush, reset and diagnostics belong to one thread. Counters: `ticks`, `outputs`, `dropped` by reason;
    after `flush`, outputs + sum(dropped) = ticks x views. Raises ConfigError or ValueError when the configuration, the
    calibration file or the checkpoint's encodings cannot be served.
    """

    def __init__(self, config: Config, runtime, on_output: Callable[[Output], None], synchronous: bool,
                 done: Callable[[int, int], str | None] | None = None):
        self.config, self.runtime, self.on_output, self.synchronous, self.done = (
            config, runtime, on_output, synchronous, done)
        unused = [name for name, one in config.inputs.items()
                  if one.enabled and one.modality not in runtime.modalities]
        if unused:
            log.warning("the network has no %s: disabled", ", ".join(unused))
        inputs = [one for name, one in config.inputs.items() if name not in unused]
        enabled = [one.name for one in inputs if one.enabled]
        if not set(config.collector.tick_source) & set(enabled):
            raise ConfigError(f"tick_source {config.collector.tick_source} has no input that is enabled and that the "
                              f"network knows; those are: {', '.join(enabled) or 'none'}")
        self.views = {view: [one.name for one in inputs if one.name in names]
                      for view, names in config.views().items()}
        self._check_modalities(enabled)
        encodings = {one: runtime.encodings[one] for one in map(modality_of, enabled)}
        self.sensors = Sensors(config, encodings, runtime.image_size)
        windows = {name: nanoseconds(float(encodings["event"].params.get("window_sec", 0.05)))
                   for name in enabled if modality_of(name) == "event"}
        self.collector = Collector(inputs, config.collector, self._on_set, windows, self._on_reset)
        self.inputs = enabled
        self.warnings: Counter = Counter()          # things that went wrong without costing a set, by name
        self._lock = threading.Condition()
        self._outputs = 0
        self._dropped: Counter = Counter()
        self._recent: deque[tuple[float, Output]] = deque(maxlen=REMEMBERED * len(self.views))
        self._reasons: dict[tuple[str, str], str] = {}      # (input, view) -> why INVALID, as of the newest set
        self._frozen: set[str] = set()              # inputs whose newest payload is the one before's
        self._now_ns = 0                            # the newest now_ns
        self._last_error, self._logged_error = "", 0.0
        self._failure: Exception | None = None      # raised by the caller of a synchronous pipeline
        self._waiting: deque[tuple[float, SensorSet]] = deque()
        self._room = 1 if config.collector.compute_policy == "latest" else config.collector.max_pending
        self._busy = self._closed = self._abandoned = False
        self._thread = None
        if not synchronous:
            for size in self.sensors.expected_sizes():
                runtime.warmup(*size)
            self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
            self._thread.start()

    def _check_modalities(self, enabled: list[str]) -> None:
        needed = self.config.collector.min_modalities
        for view, names in self.views.items():
            used = [name for name in names if name in enabled]
            kinds = set(map(modality_of, used))
            if needed > len(kinds):
                raise ConfigError(f"min_modalities = {needed} exceeds the {len(kinds)} modalities in view {view} "
                                  "that are enabled and that the network knows; their inputs are: "
                                  + (", ".join(used) or "none"))

    # ---------------------------------------------------------------------------------------------- messages and time

    def receive(self, role: str, message, now_ns: int, clock_ns: int | None = None) -> None:
        """A message has arrived.

        role: an input's name, `<input>/info`, 'odom', 'tf' or 'tf_static'. now_ns: a steady clock, or the bag's receive
        time. clock_ns: the clock that stamps are of, when it runs; without it no stamp is rejected as future.
        """
        self._now_ns = now_ns
        try:
            if role in self.inputs:
                self._collect(role, message, now_ns, clock_ns)
            elif role in ("odom", "tf", "tf_static") or role.endswith("/info"):
                self._learn(role, message, clock_ns)
        except Exception:  # a bug must cost this message, not the node
            if self.synchronous:
                raise
            self.warnings["receive_errors"] += 1
            log.exception("a message of %s is lost", role)
        self._raise_failure()

    def _collect(self, name: str, message, now_ns: int, clock_ns: int | None) -> None:
        sample = self.sensors.arrived(name, message)
        self._note_frozen(name, sample.frozen)
        self.warnings[f"{name}_undecodable"] += bool(sample.error)
        if name in self.collector.windows:
            if sample.events is None and not sample.error:
                return              # triggers, or no time yet: nothing that a picture could be made of
            begin_ns, end_ns = packet_span(sample, message, self.config.event_period_sec)
            self.collector.add_stream(name, begin_ns, end_ns, sample, now_ns, sample.nbytes, clock_ns)
        else:
            self.collector.add(name, stamp_ns(message.header), sample, now_ns, sample.nbytes, clock_ns)

    def _note_frozen(self, name: str, frozen: bool) -> None:
        if not frozen:
            self._frozen.discard(name)
            return
        self.warnings[f"{name}_frozen"] += 1
        if name not in self._frozen:                # once, until it changes again
            log.warning("%s repeats an identical payload under new stamps", name)
        self._frozen.add(name)

    def _learn(self, role: str, message, clock_ns: int | None) -> None:
        try:
            self.sensors.learn(role, message, clock_ns)
        except INVALID_DATA as error:
            if not self.warnings[f"{role}_invalid"]:
                log.warning("%s is not used: %s", role, error)
            self.warnings[f"{role}_invalid"] += 1

    def poll(self, now_ns: int) -> None:
        """Time has passed; deadlines up to now_ns take effect. In replay: before each message.

        Replay meets each deadline at its very time. Live, a set is emitted when it is, and its wait says so.
        """
        self._now_ns = now_ns
        if self.synchronous:
            self.collector.advance(now_ns)
        else:
            self.collector.poll(now_ns)
        self._raise_failure()

    def next_deadline(self) -> int | None:
        """The now_ns at which poll has something to do though nothing arrives; None: never."""
        return self.collector.next_deadline()

    def flush(self, now_ns: int) -> None:
        """The end of a bag: emit all open sets, and wait until none is in work."""
        self.collector.flush(now_ns)
        with self._lock:
            self._lock.wait_for(lambda: self._closed or not (self._waiting or self._busy))
        self._raise_failure()

    def reset(self, reason: str) -> None:
        """The clock has jumped: forget what depends on time and start a new epoch."""
        self.collector.reset(reason)

    def close(self, patience_sec: float = CLOSE_SEC) -> None:
        """Stop the inference thread; a set that waits is dropped as `closed`, one in work is finished.

        Unless the network takes longer than patience_sec: then that set counts as `closed` too, its result is not
        handed on, and the thread ends whenever the network returns.
        """
        with self._lock:
            self._closed = True
            self._dropped["closed"] += len(self._waiting) * len(self.views)
            self._waiting.clear()
            self._lock.notify_all()
        if self._thread:
            self._thread.join(patience_sec)
            with self._lock:
                self._abandoned = self._busy
                self._dropped["closed"] += self._busy * len(self.views)
            if self._abandoned:
                log.error("the network does not finish its last set within %g s; it is abandoned", patience_sec)

    # -------------------------------------------------------------------------------------------------- sets in, out

    def _on_set(self, sensor_set: SensorSet) -> None:
        if self.synchronous:
            if self._failure is None:       # nothing is worth computing after one
                self._run(sensor_set)
            return
        with self._lock:
            while len(self._waiting) >= self._room:
                self._waiting.popleft()
                self._dropped["replaced"] += len(self.views)
            self._waiting.append((time.perf_counter(), sensor_set))
            self._lock.notify_all()

    def _on_reset(self, reason: str) -> None:
        self.sensors.reset()
        self._reasons.clear()
        self._frozen.clear()

    def _work(self) -> None:
        """The inference thread."""
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                handed_over, sensor_set = self._waiting.popleft()
                self._busy = True
            self._run(sensor_set, 1e3 * (time.perf_counter() - handed_over))
            with self._lock:
                self._busy = False
                self._lock.notify_all()

    def _run(self, sensor_set: SensorSet, queued_ms: float | None = None) -> None:
        """Process one set, hand the outputs on and count them; every exception ends here."""
        try:
            if self.done and (counted_as := self.done(sensor_set.t_ref_ns, sensor_set.epoch)) is not None:
                self._count(counted_as)
                return
            try:
                outputs = self.process(sensor_set)
            except Exception as error:  # a bug or a device's failure costs this set, never the node
                self._log_error(sensor_set, error)
                outputs = [_empty_output(sensor_set, view, names) for view, names in self.views.items()]
                for output in outputs:
                    output.dropped = "error"
            if self._abandoned:
                return
            for output in outputs:
                if queued_ms is not None:
                    output.latency_ms["queue"] = queued_ms
                self._count(output.dropped or "")
            for output in outputs:
                self._hand_on(output)
        except Exception as error:  # of `done`, and of on_output in replay
            if self.synchronous:
                self._failure = error
            else:
                log.exception("set at %d failed", sensor_set.t_ref_ns)

    def _hand_on(self, output: Output) -> None:
        started = time.perf_counter()
        try:
            self.on_output(output)
        except Exception:  # on_output is the caller's; live it must not end the thread
            if self.synchronous:
                raise
            self.warnings["output_errors"] += 1
            log.exception("output at %d failed", output.t_ref_ns)
            return
        output.latency_ms.setdefault("publish", 1e3 * (time.perf_counter() - started))
        with self._lock:
            light = replace(output, images={}, labels=None, confidence=None, points=None)
            self._recent.append((time.monotonic(), light))

    def _log_error(self, sensor_set: SensorSet, error: Exception) -> None:
        """With its traceback; not again and again when every set fails alike."""
        text, now = f"{type(error).__name__}: {error}", time.monotonic()
        if text == self._last_error and now - self._logged_error < TRACEBACK_SEC:
            return
        self._last_error, self._logged_error = text, now
        log.exception("set at %d is dropped; %d were dropped for errors before", sensor_set.t_ref_ns,
                      self._dropped["error"] // len(self.views))

    def _count(self, dropped: str) -> None:
        with self._lock:
            if dropped:
                self._dropped[dropped] += 1
            else:
                self._outputs += 1

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def process(self, sensor_set: SensorSet) -> list[Output]:
        """One set through lanes and network, an Output for each view: the whole of the perception, in order."""
        cameras = self.sensors.cameras      # taken once: a camera_info that comes meanwhile is for the next set
        outputs, lidars, extrapolated_ns = [], {}, self._extrapolated(sensor_set)

        # Each matched sample becomes an image in every view that it is seen in; a view with too few is dropped.
        for view, names in self.views.items():
            started = time.perf_counter()
            output = _empty_output(sensor_set, view, names)
            output.extrapolated_ns = extrapolated_ns
            images = self._images(output, sensor_set, cameras)
            output.images = {modality: one.image for modality, one in images.items()}
            lidars[view] = images.get("lidar")
            if len(images) < max(1, self.config.collector.min_modalities):
                output.dropped = "below_min_modalities"
            output.latency_ms["preprocess"] = 1e3 * (time.perf_counter() - started)
            outputs.append(output)

        # The network gets the views as one batch, if of one size, and answers on each target camera's own grid.
        views = {one.view: self.sensors.view(one.view, cameras) for one in outputs if not one.dropped}
        for batch in batches(views):
            self._infer([one for one in outputs if one.view in batch], views)

        for output in (one for one in outputs if not one.dropped):
            started, lidar = time.perf_counter(), lidars[output.view]
            # Each point that the camera sees gets the label of its pixel.
            if lidar is not None and self.config.publish_points:
                output.points = labelled_points(lidar, output.labels, output.confidence, self.runtime.labels.ignore_id)
            # What was a pinhole's view until here goes back onto the camera's own pixels.
            if rectification := views[output.view].rectification:
                output.labels = rectification.back(output.labels, self.runtime.labels.ignore_id)
                output.confidence = rectification.back(output.confidence, 0)
                output.images = {name: rectification.back(image, 0) for name, image in output.images.items()}
            output.latency_ms["postprocess"] = 1e3 * (time.perf_counter() - started)
        return outputs

    def _extrapolated(self, sensor_set: SensorSet) -> int:
        if (known_until := self.sensors.transforms.known_until()) is None:
            return 0
        times = [one.stamp_ns for one in sensor_set.inputs.values() if one.present]
        return max(0, max([sensor_set.t_ref_ns, *times]) - known_until)

    def _images(self, output: Output, sensor_set: SensorSet, cameras: Mapping[str, Camera]) -> dict[str, LaneImage]:
        """Modality -> image in the output's view, whose mask and inputs are filled in; what cannot be used is INVALID,
        with the reason."""
        seen: dict[str, list[Seen]] = {}
        for name in output.inputs:
            state, place = replace(sensor_set.inputs[name]), (name, output.view)    # each view judges for itself
            if not state.present:
                self._reasons.pop(place, None)
                continue
            samples = state.payload if isinstance(state.payload, tuple) else (state.payload,)
            frozen = any(sample.frozen for sample in samples)
            try:
                one = self.sensors.see(name, state, sensor_set.t_ref_ns, cameras, output.view)
            except INVALID_DATA as error:
                state.invalidate(str(error))
                self._report_invalid(*place, str(error))
                output.inputs[name] = summary(state)
                continue
            self._reasons.pop(place, None)
            output.inputs[name].update(one.figures, **({"frozen": True} if frozen else {}))
            output.mask[name] = True
            seen.setdefault(modality_of(name), []).append(one)
        return {modality: joined(several) for modality, several in seen.items()}

    def _infer(self, outputs: Sequence[Output], views: Mapping[str, View]) -> None:
        """Labels and confidences of views of the same sizes, as one batch."""
        started = time.perf_counter()
        camera, size = views[outputs[0].view].camera, views[outputs[0].view].size
        nothing = np.zeros((*size, 3), np.uint8)
        modalities = dict.fromkeys(name for one in outputs for name in one.images)
        result = self.runtime(
            {name: np.stack([one.images.get(name, nothing) for one in outputs]) for name in modalities},
            {name: np.array([name in one.images for one in outputs]) for name in modalities},
            output_size=(camera.height, camera.width))
        for output, labels, confidence in zip(outputs, result.labels, result.confidence, strict=True):
            output.camera = views[output.view].camera
            output.frame_id = output.camera.frame_id
            output.labels, output.confidence = labels, confidence
            output.latency_ms["inference"] = 1e3 * (time.perf_counter() - started)

    def _report_invalid(self, name: str, view: str, reason: str) -> None:
        self.warnings[f"{name}_invalid"] += 1
        if self._reasons.get((name, view)) is None:         # once, until it is valid again
            log.warning("%s is INVALID%s: %s", name, f" in the view of {view}" if len(self.views) > 1 else "", reason)
        self._reasons[name, view] = reason

    # --------------------------------------------------------------------------------------------------------- figures

    @property
    def ticks(self) -> int:
        return self.collector.counters["ticks"]

    @property
    def outputs(self) -> int:
        return self._outputs

    @property
    def dropped(self) -> Counter:
        """Sets without an output, one for each view, by reason: the collector's and the pipeline's."""
        with self._lock:
            return Counter({reason: count * len(self.views) for reason, count in self.collector.dropped.items()}) \
                + self._dropped

    def diagnostics(self) -> dict:
        """Everything for the 1 Hz summary. `level` is 'OK', 'WARN', 'ERROR' or 'STALE', `message` says why."""
        status, silent = self.collector.status(), self.collector.silent(self._now_ns)
        with self._lock:
            recent = list(self._recent)
        last = {output.view: output for _, output in recent}        # the newest of each view
        now = time.monotonic()
        times = list({(output.epoch, output.seq): when for when, output in recent
                      if not output.dropped and now - when < RATE_SEC}.values())
        rate = (len(times) - 1) / (now - times[0]) if len(times) > 1 else 0.0
        inputs = {}
        for name, one in status["inputs"].items():
            rejected = one.pop("rejected")
            active = one["active"] and name not in silent
            inputs[name] = {**one, "active": active,
                            "state": "STALE" if name in silent else _newest_state(name, last),
                            "reason": self._reason(name) or ("" if active else _rejection(rejected)),
                            "rate_hz": 1e9 / one["period_ns"] if one["period_ns"] else 0.0}
        level, message = self._level(inputs, last)
        return {
            "level": level, "message": message, "model_id": self.runtime.model_id, "epoch": status["epoch"],
            "tick_source": status["tick_source"], "ticks": self.ticks, "outputs": self.outputs,
            "dropped": dict(self.dropped), "warnings": {name: n for name, n in list(self.warnings.items()) if n},
            "fps_out": rate, "inputs": inputs,
            "latency_ms": scoring.latencies([vars(output) for _, output in recent if not output.dropped]),
        }

    def _reason(self, name: str) -> str:
        """Why an input is INVALID, and in which views if it is not the same in all; '' when it is in none."""
        views = [view for view, names in self.views.items() if name in names]
        reasons = {view: reason for view in views if (reason := self._reasons.get((name, view)))}
        if len(reasons) == len(views) and len(set(reasons.values())) == 1:
            return reasons[views[0]]
        return "; ".join(f"in the view of {view}: {reason}" for view, reason in reasons.items())

    def _level(self, inputs: dict[str, dict], last: Mapping[str, Output]) -> tuple[str, str]:
        active = [name for name, one in inputs.items() if one["active"]]
        reasons = "".join(f"; {name}: {one['reason']}" for name, one in inputs.items() if one["reason"])
        if not active:
            return "STALE", "no input" + reasons
        if not set(self.config.collector.tick_source) & set(active):
            sources = ", ".join(self.config.collector.tick_source)
            return "ERROR", f"no reference: none of tick_source {sources} is there to open sets{reasons}"
        if dropped := {view: output.dropped for view, output in last.items() if output.dropped}:
            where = f" in the view of {', '.join(dropped)}" if len(self.views) > 1 else ""
            return "ERROR", f"sets are dropped{where}: {', '.join(sorted(set(dropped.values())))}" + reasons
        without = [name + (f" ({one['reason']})" if one["reason"] else "") for name, one in inputs.items()
                   if not one["active"] or one["reason"]]
        frozen = [f"{name} repeats an identical payload" for name in inputs if name in self._frozen]
        if without or frozen:
            return "WARN", "; ".join((["running without " + ", ".join(without)] if without else []) + frozen)
        return "OK", "all inputs are active"


def _rejection(rejected: dict[str, int]) -> str:
    """Why nothing of an input is accepted, in words; '' when it is. rejected: by the collector's reasons."""
    if not rejected:
        return ""
    worst = max(rejected, key=rejected.get)
    return f"{rejected[worst]} messages rejected: {REJECTED[worst]}"


def _newest_state(name: str, last: Mapping[str, Output]) -> str:
    """Of an input in the newest outputs of its views: INVALID where it is that in any."""
    states = [output.inputs[name]["state"] for output in last.values() if name in output.inputs]
    return "INVALID" if "INVALID" in states else states[0] if states else "STALE"


def _empty_output(sensor_set: SensorSet, view: str, names: Sequence[str]) -> Output:
    """Nothing used yet: the state of every input of a view as the collector gave it."""
    return Output(
        sensor_set.t_ref_ns, sensor_set.epoch, sensor_set.seq, sensor_set.deadline_hit,
        mask=dict.fromkeys(names, False),
        inputs={name: summary(sensor_set.inputs[name]) for name in names},
        latency_ms={"wait": (sensor_set.emitted_ns - sensor_set.opened_ns) / 1e6}, view=view)


def batches(views: Mapping[str, View]) -> list[list[str]]:
    """The views by name, those together whose pictures and labels are of the same sizes: the network takes no others
    in one batch."""
    groups: dict[tuple, list[str]] = {}
    for name, view in views.items():
        groups.setdefault((view.size, view.camera.height, view.camera.width), []).append(name)
    return list(groups.values())


def summary(state: InputState) -> dict:
    """An input's state in plain values; None is left out."""
    values = {"state": state.state.value, "stamp": state.stamp_ns, "stamp_delta": state.delta_ns, "age": state.age_ns,
              "coverage": state.coverage, "reason": state.reason or None}
    return {key: value for key, value in values.items() if value is not None}


def labelled_points(lidar: LidarImage, labels: np.ndarray, confidence: np.ndarray, ignore_id: int) -> dict:
    """Columns x y z float32, label and confidence uint8 of the points that the camera sees unhidden."""
    label = lidar.label_points(labels, ignore_id)
    visible = label != ignore_id
    xyz = lidar.points.xyz[visible]
    return {"x": xyz[:, 0].copy(), "y": xyz[:, 1].copy(), "z": xyz[:, 2].copy(), "label": label[visible],
            "confidence": lidar.label_points(confidence, 0)[visible]}

