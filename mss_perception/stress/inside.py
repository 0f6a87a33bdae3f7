"""A storm through the pipeline, without ROS and as fast as it goes: the real collector, decoders and lanes."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from mss_models.labels import DELIVER
from mss_models.modality import DEFAULT_ENCODINGS
from mss_models.runtime import Result, open_runtime
from mss_perception import messages
from mss_perception.config import Config
from mss_perception.pipeline import Pipeline
from mss_perception.stress.judge import Judge
from mss_perception.stress.rig import SIZE
from mss_perception.stress.storm import Sent, Storm
from mss_perception.units import SECOND
from mss_perception.watch import Watch

PROGRESS = "{l_bar}{bar}| {n_fmt}/{total_fmt} s {postfix}"
THOROUGH = 16       # every so many calls queues and sums are looked at
CALL_SEC = 20.0     # of the processor's time: what takes longer for one message hangs


class Witness:
    """In a network's place: it labels every pixel with the modalities that it was shown, so that the judge sees them,
    and takes no time."""

    modalities = ("rgb", "depth", "event", "lidar")
    encodings = {name: DEFAULT_ENCODINGS[name] for name in modalities}
    image_size = (SIZE, SIZE)
    labels = DELIVER
    model_id = "witness"

    def __call__(self, images: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray],
                 output_size: tuple[int, int]) -> Result:
        codes = np.array([self.code({name for name in present if present[name][at]})
                          for at in range(len(next(iter(present.values()))))], np.uint8)
        labels = np.broadcast_to(codes[:, None, None], (len(codes), *output_size)).copy()
        return Result(labels, np.full_like(labels, 255))

    @classmethod
    def code(cls, modalities: set[str]) -> int:
        return sum(1 << cls.modalities.index(name) for name in modalities)


@dataclass
class Tally:
    """What one or several storms came to. violations: {invariant, details, seed, t_sec} each; a storm inside ends with
    its first, so the others of one call come with it."""

    storms: int = 0
    sensor_seconds: float = 0.0
    epochs: int = 0
    ticks: int = 0
    outputs: int = 0
    dropped: Counter = field(default_factory=Counter)
    messages: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    judged: Counter = field(default_factory=Counter)
    violations: list[dict] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)


class Hang(Exception):
    """A call of the pipeline does not come back."""


class Errors(logging.Handler):
    """Exceptions that were contained and logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        cause = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        self.texts.append(f"{record.getMessage()}\n{cause}")


class Run:
    """One storm through one pipeline; call it, on the main thread. runtime: of mss_models.runtime, or a Witness."""

    def __init__(self, storm: Storm, runtime) -> None:
        self.storm, self.types = storm, messages.bag_types()
        self.config = Config.from_mapping(storm.rig.parameters)
        self.pipeline = Pipeline(self.config, runtime, lambda output: self.judge.output(output), synchronous=True)
        self.judge = Judge(storm, self.config, self.pipeline.views, self.pipeline.collector.windows,
                           runtime.code if isinstance(runtime, Witness) else None)
        self.sent: Counter = Counter()
        self.tau = 0
        self.errors = Errors()

    def __call__(self) -> Tally:
        """Until its end or its first violation."""
        log = logging.getLogger("mss_perception")
        propagate, handler = log.propagate, signal.signal(signal.SIGVTALRM, self._hangs)
        log.addHandler(self.errors)
        log.propagate = False           # every reset, every change of a camera is a line of log
        try:
            for number, sent in enumerate(self.storm.sent()):
                self.tau, self.judge.verdict.t_sec = sent.due_ns, sent.due_ns / SECOND
                self._contained(self._step, sent, number % THOROUGH == 0)
                if self.judge.verdict.violations:
                    break
            else:
                self._contained(self._finish)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, handler)
            log.removeHandler(self.errors)
            log.propagate = propagate
        return self.tally()

    @staticmethod
    def _hangs(*_) -> None:
        raise Hang(f"it has taken {CALL_SEC:g} s")

    def _contained(self, work: Callable, *arguments) -> None:
        hold = self.judge.verdict.hold
        signal.setitimer(signal.ITIMER_VIRTUAL, CALL_SEC)
        try:
            work(*arguments)
        except Exception:   # of the pipeline: the node would have died, or lost a message
            hold("no exception escapes", False, traceback.format_exc())
        hold("no exception is contained", not self.errors.texts, *self.errors.texts[:1])

    def _step(self, sent: Sent, thorough: bool) -> None:
        judge, pipeline, tau = self.judge, self.pipeline, sent.due_ns
        judge.advances(tau)
        pipeline.poll(tau)
        judge.after(pipeline, False)
        if sent.role == "reset":
            self._reset()
        elif sent.role == "deadline":
            self.config.set("deadline_sec", sent.number / SECOND)
            judge.sets_deadline(sent.number)
        else:
            self.sent[sent.role] += 1
            message, truth = self.storm.message(self.types, sent)
            judge.arrives(sent, truth, self._said(sent))
            pipeline.receive(sent.role, message, tau, self.storm.clock_ns(tau))
        judge.after(pipeline, thorough)

    def _reset(self) -> None:
        self.judge.resets()
        self.pipeline.reset("the storm wants it")

    def _said(self, sent: Sent) -> tuple[int, int, str] | None:
        """What a camera_info says, if it can be used."""
        name, _, part = sent.role.partition("/")
        if part != "info" or sent.damage:
            return None
        camera = self.storm.rig.camera(name, sent.version)
        return camera.width, camera.height, camera.frame_id

    def _finish(self) -> None:
        self.judge.advances(self.tau)
        self.pipeline.flush(self.tau)
        self.judge.finish(self.pipeline)

    def tally(self) -> Tally:
        return Tally(1, self.tau / SECOND, self.pipeline.collector.epoch + 1, self.pipeline.ticks,
                     self.pipeline.outputs, Counter(self.pipeline.dropped), self.sent, self.storm.faults,
                     self.judge.verdict.judged, self.judge.verdict.violations)


def storms(options: argparse.Namespace, tally: Tally, watched: Watch) -> None:
    """Storm after storm for options.seconds, added to the tally, also when interrupted. options: as of __main__."""
    runtime = open_runtime(options.checkpoint) if options.checkpoint else Witness()
    until = time.monotonic() + options.seconds
    with tqdm(total=round(options.seconds), unit="s", bar_format=PROGRESS) as bar:
        while time.monotonic() < until and (options.storms is None or tally.storms < options.storms):
            run = Run(Storm(options.seed + tally.storms, options.storm_seconds, options.rate), runtime)
            try:
                run()
            finally:
                tally.add(run.tally())
                del run             # it refers to itself: without this it stays until Python looks for such
                gc.collect()
                watched(os.getpid())
            bar.set_postfix_str(f"{tally.storms} storms, {len(tally.violations)} violations")
            advance(bar, options.seconds, until)


def advance(bar: tqdm, seconds: float, until: float) -> None:
    """Show how many of the seconds, which end at `until` of the steady clock, are over."""
    bar.update(min(bar.total, round(seconds - (until - time.monotonic()))) - bar.n)
