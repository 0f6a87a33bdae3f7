"""The whole thing on one machine: `python -m mss_perception.demo --out runs/demo`.

Records a drive through the synthetic world, plays it over ROS 2 topics in real time with a fault schedule in which
every sensor dies and returns and for a while the LiDAR is alone, while the node segments in another process. Then
scores what the node published against the ground truth, holds it against a replay of the same bag, and writes
metrics.json, report.html and frame_*.png. The exit status is 1 when a check fails; each is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml

from mss_perception import calibration, live, scoring
from mss_perception.bags import bag_summary
from mss_perception.config import Config
from mss_perception.faults import SECOND
from mss_perception.live import Process
from mss_perception.player import calibration_of
from mss_perception.replay import Replay, Truth, table
from mss_perception.report import Report, write_report

FAULTS = (
    "rgb:drop@1.6-3.0", "depth:drop@2.6-4.0", "event:drop@3.6-5.0", "lidar:drop@4.6-6.0",   # each dies and returns
    "rgb:drop@6.8-8.4", "depth:drop@6.8-8.4", "event:drop@6.8-8.4",                         # the LiDAR is alone
    "lidar:delay=0.35@9.2-10.2", "depth:corrupt@9.6-10.6", "rgb:freeze@10.2-10.8", "event:noise@10.4-11.2",
)
DURATION_SEC = 12.0
TIMER_MS = 50.0             # a deadline may be met this much late: the node's timer and a busy machine
START_SEC = 120             # for the node to compile its kernels, the first time on a machine
SAME_LABELS = 0.99          # pixels that live and replay must have in common where the sets are the same
CONFIG = Path(__file__).resolve().parents[1] / "config" / "delivery.yaml"


def record_bag(folder: Path, size: int, duration: float, seed: int, weather: str) -> Path:
    """The bag of these settings; recorded unless the folder has it complete."""
    bag = folder / f"bag_{weather}_{size}px_{duration:g}s_seed{seed}"
    if not (bag / "metadata.yaml").exists():
        print(f"recording {duration:g} s of the synthetic world")
        subprocess.run([sys.executable, "-m", "training.synthesize", "--format", "bag", "--out", str(bag), "--size",
                        str(size), "--duration", str(duration), "--seed", str(seed), "--weather", weather], check=True)
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
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / "labels").glob("*.png"):
        old.unlink()
    with Process("mss_perception.node", ["--ros-args", "--params-file", str(config)], out / "node.log",
                 environment) as node, \
            Process("mss_perception.ros_recorder", ["--out", str(out)] + ([] if labels else ["--no-labels"]),
                    out / "recorder.log", environment) as recorder:
        node.wait_for("mss_perception]: active", START_SEC)
        recorder.wait_for("recording from", START_SEC)
        arguments = [str(bag), "--config", str(config), "--wait", str(START_SEC), "--loops", str(loops), "--seed",
                     str(seed), "--summary", str(out / "player.json"), "--topics", *topics]
        with Process("mss_perception.ros_player", arguments + [word for one in faults for word in ("--fault", one)],
                     out / "player.log", environment) as player:
            until = time.monotonic() + START_SEC + length
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
    figures = recording.diagnostics
    received = {one["topic"]: one for one in recording.topics.values()}
    messages = {topic: {"sent": sent, "received": received[topic]["received"], "counted_lost": received[topic]["lost"]}
                for topic, sent in recording.sent.items()}
    dropped = {key.partition(".")[2]: count for key, count in figures.items() if key.startswith("dropped.")}
    expected = scoring.ExpectedMasks(replay.schedule.faults, config, replay.start_ns, replay.stamps)
    return scoring.build_metrics(recording.records, ticks=figures["ticks"], dropped=dropped, messages=messages,
                                 expected=expected, label_set=labels)


def compare(recording: live.Recording, replay: Replay, replayed: Path) -> dict:
    """Live against replay, over the frames whose sets are the same: how many, and how their labels agree."""
    def same_set(a: Mapping, b: Mapping) -> bool:
        return a["mask"] == b["mask"] and all(
            a["inputs"][name].get("stamp_delta") == one.get("stamp_delta") and a["inputs"][name].get("events")
            == one.get("events") for name, one in b["inputs"].items() if b["mask"][name])

    by_time = {record["t_ref"]: record for record in recording.records if not record["dropped"]}
    agreement = []
    for index, record in enumerate(replay.run.records):
        mine = by_time.get(record["t_ref"])
        if record["dropped"] or mine is None or not same_set(mine, record):
            continue
        here = recording.segmentation(record["t_ref"])
        there = cv2.imread(str(replayed / f"labels/{index:06d}.png"), cv2.IMREAD_GRAYSCALE)
        agreement.append(float(np.mean(here == there)))
    return {"same_sets": len(agreement), "identical": sum(one == 1.0 for one in agreement),
            "lowest_agreement": min(agreement, default=None)}


def checks(metrics: Mapping, recording: live.Recording, deadline_sec: float) -> dict[str, str]:
    """What the demo promises -> why it does not hold; empty where it does."""
    drops = sum(metrics["dropped"].values())
    unaccounted = {topic: one for topic, one in metrics["messages"].items()
                   if one["sent"] != one["received"] + one["counted_lost"]}
    slowest = max(record["latency_ms"]["wait"] for record in recording.records)
    alone = [frame for frame in metrics["frames"] if sum(frame["mask"].values()) == 1 and not frame["dropped"]]
    comparison = metrics["live_and_replay"]
    return {
        "outputs + drops by reason = ticks": "" if metrics["outputs"] + drops == metrics["ticks"] else
        f"{metrics['outputs']} + {drops} != {metrics['ticks']}",
        "every checked mask is as expected": f"{metrics['mask_wrong']} wrong" if metrics["mask_wrong"] else "",
        "some masks could be checked": "" if metrics["mask_checked"] else "none",
        "there is output with a single sensor": "" if alone else "none",
        "no set waits longer than the deadline": "" if slowest <= 1e3 * deadline_sec + TIMER_MS else
        f"{slowest:.0f} ms",
        "no message is lost uncounted": f"{unaccounted}" if unaccounted else "",
        "live and replay agree": "" if comparison["same_sets"] and comparison["lowest_agreement"] >= SAME_LABELS else
        f"{comparison}",
        f"SIGINT ends the node within {live.SHUTDOWN_SEC:g} s": "" if metrics["node"]["status"] == 0
        and metrics["node"]["shutdown_sec"] <= live.SHUTDOWN_SEC else f"{metrics['node']}",
    }


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the results (runs/demo)")
    parser.add_argument("--checkpoint", type=Path, help="network; the shipped one when not given")
    parser.add_argument("--tick-rate", type=float, default=5.0, help="sets per second (default 5, for two cores)")
    parser.add_argument("--size", type=int, default=256, help="camera pixels, square (default 256)")
    parser.add_argument("--seed", type=int, default=2024, help="of the world and the faults (default 2024)")
    parser.add_argument("--weather", default="sun", help="of the world (default sun)")
    return parser


def run(out: Path, bag: Path, settings: Mapping, faults: Sequence[str], seed: int) -> dict:
    """Play the bag live, score it, write the results to `out`, and return the content of metrics.json."""
    config_file = write_config(out, bag, settings)
    print(f"playing {bag.name} over ROS 2 with {len(faults)} faults")
    node = run_live(out / "live", bag, config_file, faults, seed=seed)
    recording = live.read_recording(out / "live")
    print("replaying it without ROS for comparison")
    config = Config.from_yaml(config_file)
    # At the camera's own rate: which of its frames open sets at a lower one depends on the moment of the start.
    camera = bag_summary(bag).topics["/" + config.inputs[config.target_camera].topic]
    config.set("tick_rate_hz", max(config.collector.tick_rate_hz, camera.rate_hz))
    replay = Replay(bag, out / "replay", config, faults, seed, write_bag=True)
    replay()

    metrics = score(recording, replay) | {"node": node, "live_and_replay": compare(recording, replay, out / "replay")}
    metrics["checks"] = {promise: why or "ok" for promise, why
                         in checks(metrics, recording, config.collector.deadline_sec).items()}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1))
    same = metrics["live_and_replay"]
    write_report(out / "report.html", Report(
        "Demo: live over ROS 2", metrics, recording.records, replay.runtime.labels, replay.start_ns,
        replay.schedule.faults, config.collector.deadline_sec, replay.run.pictures(replay.schedule.faults),
        {"Bag": str(bag), "Network": replay.runtime.model_id, "Faults": " · ".join(faults),
         "Pictures": "of the same moments, from the replay of the bag",
         "Live and replay": f"{same['identical']} of {same['same_sets']} frames with equal sets have identical labels"},
        replay.runtime.card))
    for picture in (out / "replay").glob("frame_*.png"):
        (out / picture.name).write_bytes(picture.read_bytes())
    return metrics


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    bag = record_bag(options.out, options.size, DURATION_SEC, options.seed, options.weather)
    settings = {"tick_rate_hz": options.tick_rate}
    if options.checkpoint:
        settings["checkpoint"] = str(options.checkpoint.resolve())
    metrics = run(options.out, bag, settings, FAULTS, options.seed)
    print(table(metrics))
    for promise, result in metrics["checks"].items():
        print(f"  {'ok  ' if result == 'ok' else 'FAIL'}  {promise}" + ("" if result == "ok" else f": {result}"))
    print(f"report: {options.out / 'report.html'}\nfigures: {options.out / 'metrics.json'}")
    return 0 if all(result == "ok" for result in metrics["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
