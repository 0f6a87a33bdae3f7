"""The whole thing on one machine: `python -m mss_perception.demo --out runs/demo`.

Records a drive through the synthetic world, plays it over ROS 2 topics in real time with a fault schedule in which
every sensor dies and returns and for a while the LiDAR is alone, while the node segments in another process. Then
scores what the node published against the ground truth, holds it against a replay of the same bag, and writes
metrics.json, report.html and frame_*.png. The exit status is 1 when a check fails; each is printed. Size and rate are
the best of a short list that the machine can hold.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from mss_models.checkpoint import DEFAULT_CHECKPOINT
from mss_models.runtime import TorchRuntime, open_runtime
from mss_perception import calibration, live, live_checks, scoring
from mss_perception.bags import bag_summary
from mss_perception.config import Config, absolute
from mss_perception.live import Process
from mss_perception.options import at_least, positive
from mss_perception.player import calibration_of
from mss_perception.replay import USER_ERRORS, Replay, table
from mss_perception.report import Report, write_report
from mss_perception.truth import Truth
from mss_perception.units import SECOND

FAULTS = (
    "rgb:drop@1.6-3.0", "depth:drop@2.6-4.0", "event:drop@3.6-5.0", "lidar:drop@4.6-6.0",   # each dies and returns
    "rgb:drop@6.8-8.4", "depth:drop@6.8-8.4", "event:drop@6.8-8.4",                         # the LiDAR is alone
    "lidar:delay=0.35@9.2-10.2", "depth:corrupt@9.6-10.6", "rgb:freeze@10.2-10.8", "event:noise@10.4-11.2",
)
DURATION_SEC = 12.0
# Pixels, sets per second, and the milliseconds that the network may take for it; the best first. Two cores are also
# needed for decoding, the player and the recorder.
CHOICES = ((256, 10.0, 30.0), (256, 5.0, 100.0), (128, 5.0, 100.0), (128, 2.0, math.inf))
RUNS = 7                    # of the network to see how long it takes
CONFIG = Path(__file__).resolve().parents[1] / "config" / "delivery.yaml"


def record_bag(folder: Path, size: int, duration: float, seed: int, weather: str) -> Path:
    """The bag of these settings; recorded unless the folder has it complete. Raises LiveError."""
    bag = folder / f"bag_{weather}_{size}px_{duration:g}s_seed{seed}"
    if not (bag / "metadata.yaml").exists():
        print(f"recording {duration:g} s of the synthetic world")
        words = ["--format", "bag", "--out", str(bag), "--size", str(size), "--duration", str(duration), "--seed",
                 str(seed), "--weather", weather]
        if subprocess.run([sys.executable, "-m", "training.synthesize", *words]).returncode:
            raise live.LiveError("the world could not be recorded; training.synthesize has said why")
    return bag


def write_config(out: Path, bag: Path, settings: Mapping) -> Path:
    """One parameter file for node, player and replay: the delivery vehicle's with `settings` on top."""
    base = next(iter(yaml.safe_load(CONFIG.read_text()).values()))["ros__parameters"]
    calibration.save(out / "calibration.yaml", calibration_of(bag_summary(bag), Config.from_yaml(CONFIG)))
    path = out / "node.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {
        **base, "calibration_file": str((out / "calibration.yaml").resolve()), **settings}}}))
    return path


def run_live(out: Path, bag: Path, config: Path, faults: Sequence[str], *, loops: int = 1, labels: bool = True,
             seed: int = 0, watch=None) -> dict:
    """Node, player and recorder until the bag has ended; what they left is in `out`.

    watch(node): called once a second meanwhile. Returns {'status', 'shutdown_sec'} of the node's end on SIGINT.
    """
    environment, settings, about = live.environment(), Config.from_yaml(config), bag_summary(bag)
    topics = [topic for topic in settings.used_topics() if topic in about.topics and not topic.startswith("/tf")]
    length = loops * ((about.end_ns - about.start_ns) / SECOND + 1)
    with live.recorded_node(out, config, environment, "png" if labels else "none") as (node, recorder):
        arguments = [str(bag), "--config", str(config), "--wait", str(live.START_SEC), "--loops", str(loops), "--seed",
                     str(seed), "--summary", str(out / "player.json"), "--topics", *topics]
        with Process("mss_perception.ros_player", arguments + [word for one in faults for word in ("--fault", one)],
                     out / "player.log", environment) as player:
            until = time.monotonic() + live.START_SEC + length
            while player.popen.poll() is None and time.monotonic() < until:
                time.sleep(1.0)
                for process in (node, recorder):
                    process.check()
                if watch:
                    watch(node)
            player.wait(1.0)
        time.sleep(2.5)     # the last sets run into their deadlines, and the node sums up once a second
        status, seconds = node.interrupt()
        recorder.interrupt()
    return {"status": status, "shutdown_sec": round(seconds, 3)}


def score(recording: live.Recording, replay: Replay) -> dict:
    """The content of metrics.json. Adds each record's confusion with the truth."""
    config, labels = replay.config, replay.runtime.labels
    truth = Truth(replay.bag, config.labels_topic, labels.ignore_id, replay.truth.tolerance_ns,
                  replay.truth.jump_back_ns)
    for record in recording.records:
        predicted, wanted = recording.segmentation(record["t_ref"]), truth.at(record["t_ref"], record["epoch"])
        if predicted is not None and wanted is not None:
            record["confusion"] = scoring.counts(wanted, predicted, labels)
    return scoring.build_metrics(recording.records, ticks=recording.diagnostics["ticks"], dropped=recording.dropped,
                                 messages=recording.messages, expected=replay.expected_masks(), label_set=labels)


def compare(recording: live.Recording, replay: Replay, replayed: Path) -> dict:
    """Live against replay: how many outputs come from the same set, and of how many of these every label is the same.

    Sets are the same when they hold the same samples, the same events and equally good poses of the vehicle.
    """
    def content(record: Mapping) -> tuple:
        used = {name: (one["stamp"], one.get("events")) for name, one in record["inputs"].items()
                if record["mask"][name]}
        return used, record["extrapolated_ns"]

    outputs = {record["t_ref"]: record for record in recording.records if not record["dropped"]}
    agreement = []
    for index, record in enumerate(replay.run.records):
        mine, here = outputs.get(record["t_ref"]), recording.segmentation(record["t_ref"])
        if record["dropped"] or mine is None or here is None or content(mine) != content(record):
            continue
        there = cv2.imread(str(replayed / f"labels/{index:06d}.png"), cv2.IMREAD_GRAYSCALE)
        agreement.append(float(np.mean(here == there)))
    return {"outputs": len(outputs), "same_sets": len(agreement), "identical": sum(one == 1.0 for one in agreement),
            "lowest_agreement": min(agreement, default=None), "replay_dropped": dict(replay.pipeline.dropped)}


def checks(metrics: Mapping, recording: live.Recording, replay: Replay, tick_sec: float) -> dict[str, str]:
    """What the demo promises -> why it does not hold; empty where it does."""
    config, records = replay.config, recording.records
    reference = replay.stamps[config.collector.tick_source[0]]
    return {
        "outputs + drops by reason = ticks": live_checks.sets_accounted(metrics),
        "nine of ten ticks give an output": live_checks.enough_outputs(metrics),
        "every output has its label image": live_checks.labels_complete(recording, metrics["outputs"]),
        "sets are at most two ticks apart": live_checks.no_gap([one["t_ref"] for one in records], min(reference),
                                                               max(reference), tick_sec),
        "every mask is as the faults ask": live_checks.masks_right(metrics),
        "every sensor dies and returns": live_checks.died_and_returned(
            records, [name for name, stamps in replay.stamps.items() if stamps]),
        "there is output with a single sensor": live_checks.some_alone(records),
        "no set waits longer than the deadline": live_checks.deadline_kept(
            [record["latency_ms"]["wait"] for record in records], config.collector.deadline_sec),
        "no message is lost uncounted": live_checks.losses_counted(metrics),
        "live and replay agree bit by bit": live_checks.same_as_replay(metrics["live_and_replay"]),
        f"SIGINT ends the node within {live.SHUTDOWN_SEC:g} s": live_checks.ended_on_sigint(metrics["node"]),
    }


def affordable(runtime: TorchRuntime) -> tuple[int, float, float]:
    """(pixels, sets per second, milliseconds that the network takes) of the best choice that this machine can hold."""
    for size, rate_hz, most_ms in CHOICES:
        images = {name: np.random.default_rng(0).integers(0, 255, (1, size, size, 3), np.uint8)
                  for name in runtime.modalities}
        present, taken_ms = {name: np.ones(1, bool) for name in images}, []
        for _ in range(RUNS):
            started = time.perf_counter()
            runtime(images, present)
            taken_ms.append(1e3 * (time.perf_counter() - started))
        if np.median(taken_ms) <= most_ms:
            return size, rate_hz, round(float(np.median(taken_ms)), 1)
    raise AssertionError("the last choice suits every machine")


def choose(checkpoint: Path | None, size: int | None, rate_hz: float | None) -> tuple[dict, str]:
    """Parameters for the node, where size and rate are what the machine can hold unless given; and that in words."""
    best_size, best_rate_hz, taken_ms = affordable(open_runtime(checkpoint or DEFAULT_CHECKPOINT))
    size, rate_hz = size or best_size, rate_hz or best_rate_hz
    # The number of threads as here, in the node and in the replay: another one adds up in another order.
    settings = {"tick_rate_hz": rate_hz, "width": size, "height": size, "threads": torch.get_num_threads()}
    if checkpoint:
        settings["checkpoint"] = str(checkpoint.resolve())
    return settings, (f"{size} x {size} pixels, {rate_hz:g} sets per second; the network takes {taken_ms:g} ms for "
                      f"{best_size} x {best_size} here")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the results (runs/demo)")
    parser.add_argument("--checkpoint", type=Path, help="network; the shipped one when not given")
    parser.add_argument("--tick-rate", type=positive, help="sets per second; what the machine can hold when not given")
    parser.add_argument("--size", type=at_least(16), help="pixels of camera and network, square; as --tick-rate")
    parser.add_argument("--seed", type=at_least(0), default=2024, help="of the world and the faults (default 2024)")
    parser.add_argument("--weather", default="sun", help="of the world (default sun)")
    return parser


def run(out: Path, bag: Path, settings: Mapping, faults: Sequence[str], seed: int,
        about: Mapping[str, str] | None = None) -> dict:
    """Play the bag live, score it, write the results to `out`, and return the content of metrics.json.

    about: more rows for the report's head.
    """
    config_file = write_config(out, bag, settings)
    print(f"playing {bag.name} over ROS 2 with {len(faults)} faults")
    node = run_live(out / "live", bag, config_file, faults, seed=seed)
    recording = live.read_recording(out / "live")
    print("replaying it without ROS for comparison")
    config = Config.from_yaml(config_file)
    tick_sec = 1 / config.collector.tick_rate_hz
    # At the camera's own rate: which of its frames open sets at a lower one depends on the moment of the start.
    camera = bag_summary(bag).topics[absolute(config.inputs[config.target_cameras[0]].topic)]
    config.set("tick_rate_hz", max(config.collector.tick_rate_hz, camera.rate_hz))
    replay = Replay(bag, out / "replay", config, faults, seed, write_bag=True)
    replay()

    metrics = score(recording, replay) | {"node": node, "live_and_replay": compare(recording, replay, out / "replay")}
    metrics["checks"] = {promise: why or "ok" for promise, why in checks(metrics, recording, replay, tick_sec).items()}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1))
    same = metrics["live_and_replay"]
    write_report(out / "report.html", Report(
        "Demo: live over ROS 2", metrics, recording.records, replay.runtime.labels, replay.start_ns,
        replay.schedule.faults, config.collector.deadline_sec, replay.run.pictures(replay.schedule.faults),
        {"Bag": str(bag), "Network": replay.runtime.model_id, "Faults": " · ".join(faults), **(about or {}),
         "Pictures": "of the same moments, from the replay of the bag",
         "Live and replay": f"{same['identical']} of {same['same_sets']} frames with equal sets have identical labels"},
        replay.runtime.card))
    for picture in (out / "replay").glob("frame_*.png"):
        (out / picture.name).write_bytes(picture.read_bytes())
    return metrics


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    try:
        return demonstrate(options)
    except (live.LiveError, *USER_ERRORS) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"demo: cannot write {error.filename or options.out}: {error.strerror}", file=sys.stderr)
        return 2


def demonstrate(options: argparse.Namespace) -> int:
    """The whole demo; the exit status."""
    options.out.mkdir(parents=True, exist_ok=True)
    settings, choice = choose(options.checkpoint, options.size, options.tick_rate)
    print(choice)
    bag = record_bag(options.out, settings["width"], DURATION_SEC, options.seed, options.weather)
    metrics = run(options.out, bag, settings, FAULTS, options.seed, {"Size and rate": choice})
    print(table(metrics))
    for promise, result in metrics["checks"].items():
        print(f"  {'ok  ' if result == 'ok' else 'FAIL'}  {promise}" + ("" if result == "ok" else f": {result}"))
    print(f"report: {options.out / 'report.html'}\nfigures: {options.out / 'metrics.json'}")
    return 0 if all(result == "ok" for result in metrics["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
