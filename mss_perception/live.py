"""The node, a player and a recorder as processes that talk over DDS: what demo, soak, stress and tests start."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
# Fast DDS's default transports with room for images and clouds: twice this size is what a publisher shares with the
# subscribers on its machine (default 0.5 MB). Unlike LARGE_DATA it keeps contact with peers that have no such setting.
LARGE_MESSAGES = "DEFAULT?sockets_size=16MB"
SHUTDOWN_SEC = 2.0      # from SIGINT to the end of a process
START_SEC = 120         # for the node to compile its kernels, the first time on a machine


class LiveError(RuntimeError):
    """A process ended before its time. The message has its name, exit status and last words."""


def free_domain() -> int:
    """A ROS domain that nobody on this machine is in, so that a run neither disturbs a robot nor is disturbed."""
    # Above 101 a domain's ports may meet those that Linux hands out.
    for domain in random.SystemRandom().sample(range(1, 102), 101):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain))       # the port of the domain's discovery (DDSI-RTPS 9.6.1.1)
            except OSError:
                continue
        return domain
    raise LiveError("all ROS domains from 1 to 101 are in use on this machine")


def environment() -> dict[str, str]:
    """For all processes of a run: a ROS domain of its own, and transports that bring large messages whole."""
    result = dict(os.environ)
    result.setdefault(TRANSPORTS, LARGE_MESSAGES)
    result["ROS_DOMAIN_ID"] = str(free_domain())
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY"):    # either would replace the transports
        result.pop(name, None)
    return result


class Process:
    """One Python module as a process. Its output goes to `log`."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name, self.log = module.rpartition(".")[2], log
        with log.open("w") as file:
            self.popen = subprocess.Popen([sys.executable, "-u", "-X", "faulthandler", "-m", module, *arguments],
                                          stdout=file, stderr=subprocess.STDOUT, env=dict(env))
        self.pid = self.popen.pid

    def check(self) -> None:
        """Raise LiveError if it has ended."""
        if (status := self.popen.poll()) is not None:
            raise LiveError(f"the {self.name} ended with status {status}:\n{self.last_words()}")

    def last_words(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_for(self, text: str, seconds: float) -> None:
        """Until its log has the text. Raises LiveError."""
        until = time.monotonic() + seconds
        while text not in self.log.read_text(errors="replace"):
            self.check()
            if time.monotonic() > until:
                raise LiveError(f"the {self.name} did not say {text!r} within {seconds:g} s:\n{self.last_words()}")
            time.sleep(0.1)

    def wait(self, seconds: float) -> None:
        """Until it has ended with status 0. Raises LiveError; where it hangs is then in its log."""
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.popen.send_signal(signal.SIGABRT)      # faulthandler writes the stack of every thread
            self.popen.wait()
            raise LiveError(f"the {self.name} did not end in time:\n{self.last_words(40)}") from error
        if self.popen.returncode:
            raise LiveError(f"the {self.name} failed with status {self.popen.returncode}:\n{self.last_words()}")

    def interrupt(self, patience: float = 30.0) -> tuple[int, float]:
        """SIGINT; (exit status, seconds until it had ended). Killed when it takes longer than `patience`."""
        started = time.monotonic()
        self.popen.send_signal(signal.SIGINT)
        try:
            self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        return self.popen.returncode, time.monotonic() - started

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_) -> None:
        if self.popen.poll() is None:
            self.interrupt()


@contextmanager
def recorded_node(out: Path, config: Path, environment: Mapping[str, str],
                  labels: str) -> Iterator[tuple[Process, Process]]:
    """The node with this parameter file, and a recorder of what it publishes, both ready. What they leave is in `out`.

    labels: as of the recorder's option. Raises LiveError.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / "labels").glob("*.png"):
        old.unlink()
    with Process("mss_perception.node", ["--ros-args", "--params-file", str(config)], out / "node.log",
                 environment) as node, \
            Process("mss_perception.ros_recorder", ["--out", str(out), "--labels", labels], out / "recorder.log",
                    environment) as recorder:
        node.wait_for("mss_perception]: active", START_SEC)
        recorder.wait_for("recording from", START_SEC)
        yield node, recorder


@dataclass
class Recording:
    """What the recorder and the player left in a folder. Stamps are moved back to the bag's time.

    records: one per set that the node told of, as in frames.jsonl (without a confusion). labels: t_ref -> PNG file.
    diagnostics: the node's last summary. topics: per role, the figures of its subscription. sent: topic -> messages.
    """

    records: list[dict]
    labels: dict[int, Path]
    diagnostics: dict
    topics: dict[str, dict]
    sent: dict[str, int]
    player: dict

    @property
    def dropped(self) -> dict[str, int]:
        """Drops by reason, as the node counted them."""
        return {key.partition(".")[2]: count for key, count in self.diagnostics.items() if key.startswith("dropped.")}

    @property
    def messages(self) -> dict[str, dict[str, int]]:
        """Topic -> messages sent, received, and counted as lost by the node."""
        received = {one["topic"]: one for one in self.topics.values()}
        return {topic: {"sent": sent, "received": received[topic]["received"], "counted_lost": received[topic]["lost"]}
                for topic, sent in self.sent.items()}

    def segmentation(self, t_ref_ns: int) -> np.ndarray | None:
        path = self.labels.get(t_ref_ns)
        return None if path is None else cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)


def read_recording(folder: Path) -> Recording:
    """Raises LiveError when the node told of nothing."""
    player = json.loads((folder / "player.json").read_text())
    shift_ns = player["shift_ns"]
    records = [_moved_back(json.loads(line), shift_ns) for line in (folder / "masks.jsonl").open()]
    lines = (folder / "diagnostics.jsonl").read_text().splitlines()
    if not records or not lines:
        raise LiveError(f"{folder} has no masks or no diagnostics of the node")
    statuses = {name.partition(": ")[2]: {"level": one["level"], "message": one["message"], **one["values"]}
                for name, one in json.loads(lines[-1]).items() if name != "received_ns"}
    labels = {int(path.stem) - shift_ns: path for path in (folder / "labels").glob("*.png")}
    return Recording(records, labels, statuses.pop("segmentation"), statuses, player["sent"], player)


def _moved_back(record: dict, shift_ns: int) -> dict:
    """A record with the stamps of the bag instead of those that the player gave."""
    record["t_ref"] -= shift_ns
    for one in record["inputs"].values():
        if "stamp" in one:
            one["stamp"] -= shift_ns
    return record
