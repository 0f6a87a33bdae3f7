"""The pipeline: collector -> lanes -> network -> outputs. The node and the replay drive the same class.

    receive, poll   a message arrives, time passes: the collector gets it and decides when a set is complete
    process         the whole work on one set: every matched sample an image, the network, labels and points
    on_output       the caller's: publish, or write down

Live, sets go through a one-slot, latest-wins hand-over to a single inference thread; in replay each is processed at
once on the caller's thread. Nothing that a message contains, and no exception in the work on a set, ends the pipeline:
it is counted under a name instead.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mss_perception.camera import Camera
from mss_perception.collector import Collector, SensorSet
from mss_perception.config import Config, ConfigError, modality_of
from mss_perception.hand_over import HandOver
from mss_perception.health import Health
from mss_perception.inputs import InputState
from mss_perception.lane import LaneImage
from mss_perception.messages import stamp_ns
from mss_perception.output import Output, summary
from mss_perception.sensors import INVALID_DATA, Sensors, View, joined, packet_span
from mss_perception.units import nanoseconds

log = logging.getLogger(__name__)

TRACEBACK_SEC = 10.0    # between two tracebacks of one and the same failure
CLOSE_SEC = 5.0         # for the network to finish the set in work


class Pipeline:
    """See the module's text.

    runtime: mss_models.runtime. on_output(output): called for every view of every set that was processed, dropped ones
    included (live: on the inference thread; a set that was replaced is only counted); live, one that it raises for is
    counted as `unpublished`. done(t_ref_ns, epoch): for a resumed replay of one view: None to process the set, else
    what it was counted as, '' for an output.

    receive, poll, flush, reset and diagnostics belong to one thread. Counters: `ticks`, `outputs`, `dropped` by reason;
    after `flush`, outputs + sum(dropped) = ticks x views; `warnings`: what went wrong without costing a set, by name.
    Raises ConfigError or ValueError when the configuration, the calibration file or the checkpoint's encodings cannot
    be served.
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
        self.inputs = [one.name for one in inputs if one.enabled]
        self.views = {view: [one.name for one in inputs if one.name in names]
                      for view, names in config.views().items()}
        self._check_sources()
        self.check_modalities(config.collector.min_modalities)
        encodings = {one: runtime.encodings[one] for one in map(modality_of, self.inputs)}
        self.sensors = Sensors(config, encodings, runtime.image_size)
        windows = {name: nanoseconds(float(encodings["event"].params.get("window_sec", 0.05)))
                   for name in self.inputs if modality_of(name) == "event"}
        self.collector = Collector(inputs, config.collector, self._on_set, windows, self._on_reset)
        self.health = Health(self.views, config.collector.tick_source, 1 / config.collector.tick_rate_hz)
        self.warnings = self.health.warnings
        self._lock = threading.Lock()               # of the two counters, which two threads change
        self._outputs = 0
        self._dropped: Counter = Counter()
        self._now_ns = 0                            # the newest now_ns
        self._last_error, self._logged_error = "", 0.0
        self._failure: Exception | None = None      # raised by the caller of a synchronous pipeline
        self._hand_over = None
        if not synchronous:
            for size in self.sensors.expected_sizes():
                runtime.warmup(*size)
            room = 1 if config.collector.compute_policy == "latest" else config.collector.max_pending
            self._hand_over = HandOver(self._run, room)

    def _check_sources(self) -> None:
        sources = self.config.collector.tick_source
        if not set(sources) & set(self.inputs):
            raise ConfigError(f"tick_source {sources} has no input that is enabled and that the network knows; those "
                              f"are: {', '.join(self.inputs) or 'none'}")

    def check_modalities(self, needed: int) -> None:
        """Raise ConfigError when no set of a view can have so many, whose min_modalities that is or is to be."""
        for view, names in self.views.items():
            used = [name for name in names if name in self.inputs]
            kinds = set(map(modality_of, used))
            if needed > len(kinds):
                raise ConfigError(f"min_modalities = {needed} exceeds the {len(kinds)} modalities in view {view} "
                                  "that are enabled and that the network knows; their inputs are: "
                                  + (", ".join(used) or "none"))

    # ------------------------------------------------------------------------------------- messages and time: collector

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
        sample, true_ns = self.sensors.arrived(name, message), self.config.inputs[name].true_ns
        self.health.note_arrival(name, sample.frozen, undecodable=bool(sample.error))
        if name in self.collector.windows:
            if sample.events is None and not sample.error:
                return              # triggers, or no time yet: nothing that a picture could be made of
            begin_ns, end_ns = packet_span(sample, message, self.config.event_period_sec)
            self.collector.add_stream(name, true_ns(begin_ns), true_ns(end_ns), sample, now_ns, sample.nbytes, clock_ns)
        else:
            self.collector.add(name, true_ns(stamp_ns(message.header)), sample, now_ns, sample.nbytes, clock_ns)

    def _learn(self, role: str, message, clock_ns: int | None) -> None:
        try:
            if what := self.sensors.learn(role, message, clock_ns):
                self.health.note_learnt(role, what)
        except INVALID_DATA as error:
            self.health.note_useless(role, error)

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
        if self._hand_over:
            self._hand_over.wait()
        self._raise_failure()

    def reset(self, reason: str) -> None:
        """The clock has jumped: forget what depends on time and start a new epoch."""
        self.collector.reset(reason)

    def close(self, patience_sec: float = CLOSE_SEC) -> None:
        """Stop the inference thread; a set that waits is dropped as `closed`, one in work is finished.

        Unless the network takes longer than patience_sec: then that set counts as `closed` too, its result is not
        handed on, and the thread ends whenever the network returns.
        """
        if not self._hand_over:
            return
        self._count("closed", self._hand_over.close(patience_sec) * len(self.views))
        if self._hand_over.abandoned:
            log.error("the network does not finish its last set within %g s; it is abandoned", patience_sec)

    # ------------------------------------------------------------------------------------------ one set: lanes, network

    def process(self, sensor_set: SensorSet) -> list[Output]:
        """One set through lanes and network, an Output for each view: the whole of the perception, in order."""
        cameras = self.sensors.cameras      # taken once: a camera_info that comes meanwhile is for the next set
        outputs, lidars, extrapolated_ns = [], {}, self._extrapolated(sensor_set)

        # Each matched sample becomes an image in every view that it is seen in; a view with too few is dropped.
        for view, names in self.views.items():
            started = time.perf_counter()
            output = self._empty(sensor_set, view, names, cameras)
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
            # Each point that the camera sees gets the label of its pixel, if anybody asks for it.
            if lidar is not None and self.config.publish_points:
                output.make_points = functools.partial(lidar.labelled_points, output.labels, output.confidence,
                                                       self.runtime.labels.ignore_id)
            # What was a pinhole's view until here goes back onto the camera's own pixels.
            if rectification := views[output.view].rectification:
                output.labels = rectification.back(output.labels, self.runtime.labels.ignore_id)
                output.confidence = rectification.back(output.confidence, 0)
                output.images = {name: rectification.back(image, 0) for name, image in output.images.items()}
            output.latency_ms["postprocess"] = 1e3 * (time.perf_counter() - started)
        return outputs

    @staticmethod
    def _empty(sensor_set: SensorSet, view: str, names: Sequence[str], cameras: Mapping[str, Camera]) -> Output:
        """Output.empty, on the grid of the view's target camera if that is known: what is dropped has a place, too."""
        output = Output.empty(sensor_set, view, names)
        if camera := cameras.get(view):
            output.camera, output.frame_id = camera, camera.frame_id
        return output

    def _extrapolated(self, sensor_set: SensorSet) -> int:
        if (known_until := self.sensors.transforms.known_until()) is None:
            return 0
        times = [one.stamp_ns for one in sensor_set.inputs.values() if one.present]
        return max(0, max([sensor_set.t_ref_ns, *times]) - known_until)

    def _images(self, output: Output, sensor_set: SensorSet, cameras: Mapping[str, Camera]) -> dict[str, LaneImage]:
        """Modality -> image in the output's view, whose mask and inputs are filled in; what cannot be used is INVALID,
        with the reason."""
        states, seen, images = {}, {}, {}
        for name in output.inputs:
            states[name] = state = replace(sensor_set.inputs[name])     # each view judges for itself
            if not state.present:
                self.health.note_valid(name, output.view)
                continue
            try:
                seen.setdefault(modality_of(name), {})[name] = self.sensors.see(
                    name, state, sensor_set.t_ref_ns, cameras, output.view)
            except INVALID_DATA as error:
                self._invalidate(output, name, state, error)
        for modality, inputs in seen.items():
            try:
                images[modality] = joined(list(inputs.values()))
            except INVALID_DATA as error:       # all of them together show nothing
                for name in inputs:
                    self._invalidate(output, name, states[name], error)
                continue
            for name, one in inputs.items():
                self.health.note_valid(name, output.view)
                payload = states[name].payload
                frozen = any(sample.frozen for sample in (payload if isinstance(payload, tuple) else (payload,)))
                output.inputs[name].update(one.figures, **({"frozen": True} if frozen else {}))
                output.mask[name] = True
        return images

    def _invalidate(self, output: Output, name: str, state: InputState, error: Exception) -> None:
        """The sample of an input cannot be used in the output's view."""
        state.invalidate(str(error))
        self.health.note_invalid(name, output.view, str(error))
        output.inputs[name] = summary(state)

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
            output.labels, output.confidence = labels, confidence
            output.latency_ms["inference"] = 1e3 * (time.perf_counter() - started)

    # -------------------------------------------------------------------------------------------------- sets in, out

    def _on_set(self, sensor_set: SensorSet) -> None:
        if self._hand_over:
            self._count("replaced", self._hand_over.put(sensor_set) * len(self.views))
        elif self._failure is None:         # nothing is worth computing after one
            self._run(sensor_set)

    def _on_reset(self, reason: str) -> None:
        self.sensors.reset()
        self.health.reset()

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
                cameras = self.sensors.cameras
                outputs = [self._empty(sensor_set, view, names, cameras) for view, names in self.views.items()]
                for output in outputs:
                    output.dropped = "error"
            if self._hand_over and self._hand_over.abandoned:
                return
            for output in outputs:
                if queued_ms is not None:
                    output.latency_ms["queue"] = queued_ms
                if not self._hand_on(output) and not output.dropped:
                    output.dropped = "unpublished"
                self._count(output.dropped or "")
        except Exception as error:  # of `done`, and of on_output in replay
            if self.synchronous:
                self._failure = error
            else:
                log.exception("set at %d failed", sensor_set.t_ref_ns)

    def _hand_on(self, output: Output) -> bool:
        """Whether the caller took it."""
        started = time.perf_counter()
        try:
            self.on_output(output)
        except Exception:  # on_output is the caller's; live it must not end the thread
            if self.synchronous:
                raise
            self.warnings["output_errors"] += 1
            log.exception("output at %d failed", output.t_ref_ns)
            return False
        output.latency_ms.setdefault("publish", 1e3 * (time.perf_counter() - started))
        self.health.note_output(output)
        return True

    def _log_error(self, sensor_set: SensorSet, error: Exception) -> None:
        """With its traceback; not again and again when every set fails alike."""
        text, now = f"{type(error).__name__}: {error}", time.monotonic()
        if text == self._last_error and now - self._logged_error < TRACEBACK_SEC:
            return
        self._last_error, self._logged_error = text, now
        log.exception("set at %d is dropped; %d were dropped for errors before", sensor_set.t_ref_ns,
                      self._dropped["error"] // len(self.views))

    def _count(self, dropped: str, count: int = 1) -> None:
        with self._lock:
            if dropped:
                self._dropped[dropped] += count
            else:
                self._outputs += count

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

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
        status = self.collector.status()
        working_sec = self._hand_over.working_sec() if self._hand_over else 0.0
        return {**self.health.summary(status, self.collector.silent(self._now_ns), working_sec),
                "model_id": self.runtime.model_id, "epoch": status["epoch"], "tick_source": status["tick_source"],
                "ticks": self.ticks, "outputs": self.outputs, "dropped": dict(self.dropped),
                "warnings": {name: n for name, n in list(self.warnings.items()) if n}}


def batches(views: Mapping[str, View]) -> list[list[str]]:
    """The views by name, those together whose pictures and labels are of the same sizes: the network takes no others
    in one batch."""
    groups: dict[tuple, list[str]] = {}
    for name, view in views.items():
        groups.setdefault((view.size, view.camera.height, view.camera.width), []).append(name)
    return list(groups.values())
