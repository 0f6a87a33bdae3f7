"""The replay's rows: how fast a recording is read, decoded, matched and made images of, whatever the network takes."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rosbags.highlevel import AnyReader

from benchmarks.node import rig_messages
from benchmarks.rows import Result
from mss_perception import messages
from mss_perception.bags import BagWriter, typestore
from mss_perception.config import Config
from mss_perception.replay import Replay
from mss_perception.units import nanoseconds

SIZE, POINTS, FRAMES, RATE_HZ, RUNS = 512, 131_072, 40, 10.0, 3
START_NS = 1_700_000_000_000_000_000


def rows(tiny: bool = False) -> dict[str, Callable[[], list[Result]]]:
    """The rows by name; tiny: a short recording of small pictures, for tests."""
    return {"replay": functools.partial(replaying, 64, 500, 3, 1) if tiny else replaying}


def replaying(size: int = SIZE, points: int = POINTS, frames: int = FRAMES, runs: int = RUNS) -> list[Result]:
    """A bag of four sensors through mss_perception.replay, without its report, less the time of the network itself;
    beside rosbags' reading and deserialising of the same messages, which anybody has to do."""
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder) / "bag"
        write_bag(bag, size, points, frames)
        config = Config()
        for name, value in {"width": size, "height": size, "device": "cpu", "threads": 1}.items():
            config.set(name, value)
        ours, peer = [], []
        for number in range(runs + 1):      # the first to warm up
            ours.append(replay_seconds(bag, Path(folder) / f"out{number}", config, frames))
            peer.append(reading_seconds(bag))
        megabytes = sum(file.stat().st_size for file in bag.iterdir()) / 1e6
    seconds, reading = float(np.median(ours[1:])), float(np.median(peer[1:]))
    title = f"replay: {size} x {size}, {points:,} points, without the network"
    reader = "rosbags reads and deserialises"
    return [Result(title, frames / seconds, "frames/s", frames / reading, reader, rate=True, runs=runs),
            Result(title, megabytes / seconds, "MB/s", megabytes / reading, reader, rate=True, runs=runs)]


def replay_seconds(bag: Path, out: Path, config: Config, frames: int) -> float:
    replay = Replay(bag, out, config, report=False, progress=False)
    started = time.perf_counter()
    replay()
    took = time.perf_counter() - started
    whole = [one for one in replay.run.records if all(one["mask"].values())]
    if len(whole) < frames - 1:     # the window before the first frame is not covered by events
        raise RuntimeError(f"only {len(whole)} of {frames} sets had all four sensors")
    return took - sum(one["latency_ms"]["inference"] for one in replay.run.records) / 1e3


def reading_seconds(bag: Path) -> float:
    started = time.perf_counter()
    with AnyReader([bag], default_typestore=typestore()) as reader:
        for connection, _, data in reader.messages():
            reader.deserialize(data, connection.msgtype)
    return time.perf_counter() - started


def write_bag(path: Path, size: int, points: int, frames: int) -> None:
    """Four sensors at one moment each, two contents in turn."""
    contents = [rig_messages(messages.bag_types(), variant, size, points) for variant in range(2)]
    with BagWriter(path) as bag:
        for number in range(frames):
            stamp = START_NS + nanoseconds(number / RATE_HZ)
            for topic, message in contents[number % 2].items():
                at = stamp - (nanoseconds(0.05) if topic == "events" else 0)
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(at, 10**9)
                bag.write(f"/{topic}", message, stamp)
