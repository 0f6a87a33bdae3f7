"""Storms through the node on real ROS 2: it, a recorder and a process for each sensor, in real time.

Sensors' processes are killed and started again, and replaced by ones of another QoS or type. What the node has told is
judged by live_judge.py when all is over.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from tqdm import tqdm

from mss_perception import calibration, live
from mss_perception.config import Config, absolute
from mss_perception.live import Process
from mss_perception.stress import live_judge
from mss_perception.stress.inside import PROGRESS, Tally, advance
from mss_perception.stress.live_storm import CLOCK, PARAMETERS, RELIABLE, LiveStorm
from mss_perception.stress.rig import PLACES
from mss_perception.stress.storm import WILD
from mss_perception.units import SECOND
from mss_perception.watch import Watch

LEAD_SEC = 10.0         # from the start of the sensors' processes to the beginning of a storm
SHORTEST_SEC = 2 * LEAD_SEC     # of what is left, for another storm
AGAIN_SEC = 5.0         # for one that was killed to be back when its phase begins
LAST_SEC = 2.5          # the last sets run into their deadlines, and the node sums up once a second


@dataclass
class Played:
    """A storm that was played. start_ns: its tau 0 on the steady clock. logs: of each sensor's processes, in order, as
    ros_storm writes them. events: what was done to the processes."""

    storm: LiveStorm
    start_ns: int
    logs: dict[str, list[Path]] = field(default_factory=dict)
    events: Counter = field(default_factory=Counter)

    def lines(self, name: str) -> Iterator[list[dict]]:
        """What each process of a sensor has written."""
        for path in self.logs.get(name, ()):
            yield live_judge.read_lines(path)


class Player:
    """Plays one storm of so many seconds; call it."""

    def __init__(self, storm: LiveStorm, seconds: float, folder: Path, environment: Mapping[str, str]):
        self.storm, self.folder, self.environment = storm, folder, environment
        folder.mkdir(parents=True, exist_ok=True)
        self.played = Played(storm, time.monotonic_ns() + round(LEAD_SEC * SECOND))
        self.arguments = ["--seed", str(storm.seed), "--seconds", str(seconds), "--rate", str(storm.fastest), "--start",
                          str(self.played.start_ns)]
        self.processes: dict[str, Process] = {}         # by sensor
        self.wrong: dict[str, Process] = {}             # those in their place

    def __call__(self, tick: Callable[[], None]) -> None:
        """tick: called once a second. Raises LiveError when a sensor's process ends by itself."""
        try:
            for name in (*self.storm.rig.sensors, CLOCK):
                self._start(name)
            for tau, _, action, *arguments in sorted(self._actions(), key=lambda one: one[:2]):
                self._wait_until(tau, tick)
                action(*arguments)
            self._wait_until(self.storm.end_ns + SECOND, tick)
        finally:
            everybody = [*self.processes.values(), *self.wrong.values()]
            for one in everybody:
                one.popen.send_signal(signal.SIGINT)    # to all, before each is waited for
            for one in everybody:
                one.interrupt()

    def _actions(self) -> Iterator[tuple]:
        """(tau, order, what is done, to which sensor ...)"""
        for phase in self.storm.phases:
            for name in self.storm.rig.sensors:
                kind, tempest = phase.weather[name].publisher, phase.weather[name].state == WILD
                if not kind:
                    continue
                back = phase.begin_ns + SECOND // 2 if tempest else phase.end_ns - round(AGAIN_SEC * SECOND)
                yield phase.begin_ns, 0, self._kill, name
                yield back, 1, self._start, name
                if kind != "killed":
                    yield phase.begin_ns, 1, self._start_wrong, name, kind
                    yield phase.end_ns, 0, self._end_wrong, name

    def _process(self, name: str, *more: str) -> Process:
        logs = self.played.logs.setdefault(name if not more else f"{name} wrong", [])
        stem = self.folder / f"{name}{'_wrong' if more else ''}_{len(logs)}"
        logs.append(stem.with_suffix(".jsonl"))
        return Process("mss_perception.ros_storm", [*self.arguments, "--sensor", name, "--log", str(logs[-1]), *more],
                       stem.with_suffix(".log"), self.environment)

    def _start(self, name: str) -> None:
        self.processes[name] = self._process(name)

    def _kill(self, name: str) -> None:
        self.played.events["publisher killed"] += 1
        self.processes[name].popen.kill()
        self.processes.pop(name).popen.wait()

    def _start_wrong(self, name: str, kind: str) -> None:
        self.played.events[f"publisher of another {kind}"] += 1
        self.wrong[name] = self._process(name, "--wrong", kind)

    def _end_wrong(self, name: str) -> None:
        self.wrong.pop(name).interrupt()

    def _wait_until(self, tau: int, tick: Callable[[], None]) -> None:
        while (left := self.played.start_ns + tau - time.monotonic_ns()) > 0:
            time.sleep(min(1.0, left / SECOND))
            tick()
            if time.monotonic_ns() < self.played.start_ns + self.storm.end_ns:
                for one in (*self.processes.values(), *self.wrong.values()):
                    one.check()


def write_config(folder: Path, checkpoint: Path | None) -> Path:
    """The node's parameter file, and the calibration file that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    mountings, path = folder / "calibration.yaml", folder / "node.yaml"
    calibration.save(mountings, calibration.Calibration({}, PLACES))
    own = {"checkpoint": str(checkpoint.resolve())} if checkpoint else {}
    inputs = Config.from_mapping(PARAMETERS).inputs
    topics = {absolute(inputs[name].topic): {"subscription": {"reliability": "reliable"}} for name in RELIABLE}
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {
        **PARAMETERS, **own, "calibration_file": str(mountings.resolve()), "use_sim_time": True,
        "qos_overrides": topics}}}))
    return path


def storms(options: argparse.Namespace, tally: Tally, watched: Watch) -> None:
    """Storm after storm with one and the same node, for options.seconds from when it is ready, at least SHORTEST_SEC;
    judged and added to the tally at the end, also when interrupted. options: as of __main__."""
    folder, environment, played = options.out / "live", live.environment(), []
    config = write_config(folder, options.checkpoint)
    ended = None
    try:
        with live.recorded_node(folder, config, environment, "lines") as (node, recorder), \
                tqdm(total=round(options.seconds), unit="s", bar_format=PROGRESS) as bar:
            left = options.seconds
            until = time.monotonic() + left

            def tick() -> None:
                node.check()
                recorder.check()
                watched(node.pid)
                advance(bar, options.seconds, until)

            while left >= SHORTEST_SEC and len(played) != options.storms:
                seconds = min(options.storm_seconds, left - LEAD_SEC)
                storm = LiveStorm(options.seed + len(played), seconds, options.rate)
                player = Player(storm, seconds, folder / f"storm_{storm.seed}", environment)
                played.append(player.played)
                player(tick)
                left = until - time.monotonic()
            time.sleep(LAST_SEC)
            ended = node.interrupt()
            recorder.interrupt()
    except live.LiveError as error:
        if not played:
            raise
        tally.violations.append({"invariant": "every process lives", "details": str(error),
                                 "seed": played[-1].storm.seed, "t_sec": None})
    finally:
        if played:
            live_judge.judge(folder, played, ended, tally)
