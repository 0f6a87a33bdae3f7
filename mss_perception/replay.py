"""Run recorded bags through the pipeline without ROS: `python -m mss_perception.replay BAG --out DIR`.

The same pipeline as in the node, but every set is processed at once and time is the bag's, so that two runs give the
same labels and the same figures except latencies. In DIR:

    frames.jsonl   one line per set: t_ref, mask, state and figures of every input, digest of the labels, latencies
    metrics.json   the run in figures (scoring.build_metrics)
    report.html    everything to look at, self-contained;  frame_*.png  the chosen frames side by side
    bag/           with --write-bag: labels, confidence and masks as topics
    points/        with --points: each set's labelled points as NNNNNN.pcd or .ply

A run that was interrupted goes on with --resume: the bag is read again from its start, because decoders and hysteresis
have a state, but what frames.jsonl already holds is neither projected nor segmented again.

A folder of bags in the place of BAG: each is replayed into DIR/<its name>, and DIR/metrics.json and DIR/report.html say
what they add up to (replay_many). A bag takes one process with one thread; --jobs, or a cluster with --ray, changes the
time alone. --resume leaves finished bags as they are.

Exit status: 0 done, 1 done without a single output (one of many bags: or failed), and why is said, 2 bad input.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mss_models.allocator import keep_freed_memory
from mss_models.checkpoint import DEFAULT_CHECKPOINT, CheckpointError
from mss_models.files import write_atomically
from mss_models.modality import Encoding
from mss_models.runtime import OptionError, TorchRuntime, open_runtime
from mss_models.runtime.exported import ExportedRuntime
from mss_perception import calibration, replay_many, scoring
from mss_perception.bags import BagError, BagSummary, bag_summary, bags_in, read_bag
from mss_perception.calibration import CalibrationError
from mss_perception.cluster import ClusterError, joined
from mss_perception.config import Config, ConfigError, absolute
from mss_perception.faults import GRAMMAR, KINDS, Fault, FaultError, FaultSchedule, parse_fault
from mss_perception.health import REJECTED
from mss_perception.message_types import ACCEPTED
from mss_perception.messages import MessageError, stamp_ns
from mss_perception.options import at_least, positive
from mss_perception.output import Output
from mss_perception.pipeline import Pipeline
from mss_perception.processes import ProcessKilled, default_jobs
from mss_perception.recording import Run, RunError, of_bag
from mss_perception.report import Report, write_report
from mss_perception.threads import limited_threads
from mss_perception.truth import Truth, TruthError
from mss_perception.units import SECOND

log = logging.getLogger(__name__)


class ReplayError(ValueError):
    """A replay cannot be done as asked. The message names the option or topic and what would be right."""


USER_ERRORS = (ReplayError, BagError, CalibrationError, CheckpointError, ConfigError, FaultError, RunError,
               TruthError, MessageError, OptionError, ClusterError)


class Replay:
    """One bag through one pipeline into one folder; call it.

    bag: folder or file; its own types of messages count, not those of the configuration. config: topics and parameters.
    faults, seed: see faults.FaultSchedule. view: the one of target_cameras to replay, with the inputs seen in it; ''
    takes the first. points: 'pcd' or 'ply', in which labelled points are written; '' for none. limit_sec: stop so many
    seconds after the bag's start. resume: continue what `out` holds. report: also write report.html and the pictures.
    progress: show a bar.
    Raises one of USER_ERRORS.
    """

    def __init__(self, bag: str | Path, out: str | Path, config: Config, faults: Sequence[str] = (), seed: int = 0, *,
                 view: str = "", write_bag: bool = False, points: str = "", limit_sec: float | None = None,
                 resume: bool = False, report: bool = True, progress: bool = True):
        config = one_view(config, view, points)
        self.config, self.write_bag, self.report, self.progress = config, write_bag, report, progress
        self.bag = bag_summary(bag)
        check_out(bag, out)
        self.roles = roles_in(self.bag, config)
        self.schedule = FaultSchedule(faults, seed, self.roles)
        self.start_ns = self.bag.start_ns       # as for a player, whatever the first message is
        self.zero_ns = self.start_ns - self.bag.apart_ns        # on the clock of the stamps
        self.end_ns = max(self.bag.topics[topic].last_ns for topic in self.roles)
        if limit_sec is not None:
            self.end_ns = min(self.end_ns, self.start_ns + round(limit_sec * SECOND))
        self.duration_sec = (self.end_ns - self.start_ns) / SECOND
        self.runtime = open_runtime(config.checkpoint or DEFAULT_CHECKPOINT, config.backend, config.device,
                                    config.precision, config.threads or None)
        settings = of_bag(bag) | {"messages": self.bag.count} | asked(
            config, self.runtime, self.schedule.faults, seed, write_bag=write_bag, points=points, limit_sec=limit_sec)
        self.run = Run(Path(out), settings, resume, self.zero_ns, self.duration_sec, self.schedule.faults,
                       self.runtime.labels, keep_labels=write_bag, points=points)
        self.pipeline = Pipeline(config, self.runtime, self._output, synchronous=True, done=self.run.holds)
        self.truth = Truth(self.bag, config.labels_topic, self.runtime.labels.ignore_id,
                           tolerance_ns=round(0.5 / config.collector.tick_rate_hz * SECOND),
                           jump_back_ns=round(config.collector.jump_back_sec * SECOND))
        self.counts = {topic: {"sent": 0, "received": 0} for topic in self.roles}
        self.stamps: dict[str, list[int]] = {role: [] for role in self.roles.values() if role in config.inputs}

    def __call__(self) -> dict:
        """Replay, write the results, and return the content of metrics.json."""
        now_ns = self.start_ns
        calibrate(self.pipeline, self.bag.path, self.roles, without={fault.role for fault in self.schedule.faults})
        with self.run:
            for topic, now_ns, message in self.schedule.apply(self._messages(), self.start_ns, self.bag.apart_ns):
                self.counts[topic]["received"] += 1
                self.pipeline.poll(now_ns)
                self.pipeline.receive(self.roles[topic], message, now_ns, clock_ns=now_ns)
            self.pipeline.flush(now_ns)
        for fault, touched in zip(self.schedule.faults, self.schedule.touched, strict=True):
            if not touched:
                log.warning("fault %s met no message; bag %s lasts %.1f s", fault, self.bag.path, self.duration_sec)
        return self._conclude()

    def _messages(self) -> Iterator[tuple[str, int, object]]:
        """(topic, receive time, message) of the bag up to the limit, before any fault."""
        layout = "{l_bar}{bar}| {n:.1f}/{total:.1f} s of the bag [{elapsed}<{remaining}]"
        # Only where it is seen: a bar has a semaphore, which outlives one of several processes that is ended.
        bar = tqdm(total=self.duration_sec, desc="replay", bar_format=layout) if self.progress else None
        with nullcontext() if bar is None else bar:
            for topic, receive_ns, message in read_bag(self.bag.path, list(self.roles)):
                if receive_ns > self.end_ns:
                    break
                if bar is not None:
                    bar.update((receive_ns - self.start_ns) / SECOND - bar.n)
                role = self.roles[topic]
                self.counts[topic]["sent"] += 1
                if role in self.stamps:
                    self.stamps[role].append(stamp_ns(message.header))
                yield topic, receive_ns, message

    def _output(self, output: Output) -> None:
        # Labels have the stamps of the target camera's images.
        labelled_ns = self.config.inputs[output.view].stamp_of(output.t_ref_ns)
        truth = None if output.dropped else self.truth.at(labelled_ns, output.epoch)
        if truth is not None:
            self._check_truth(truth, output.labels)
        self.run.add(output, truth)

    def _check_truth(self, truth: np.ndarray, labels: np.ndarray) -> None:
        if truth.shape != labels.shape:
            raise ReplayError(f"labels on {self.truth.topic} have {truth.shape[1]} x {truth.shape[0]} pixels, the "
                              f"target camera {labels.shape[1]} x {labels.shape[0]}")
        known = self.runtime.labels
        foreign = truth[(truth >= len(known)) & (truth != known.ignore_id)]
        if foreign.size:
            raise ReplayError(f"labels on {self.truth.topic} hold the id {foreign.max()}; the network's label set "
                              f"{known.name} has 0 to {len(known) - 1}, and {known.ignore_id} to ignore. Map them, or "
                              "name another --topic labels=TOPIC")

    def expected_masks(self) -> scoring.ExpectedMasks:
        """What the masks should be, once the bag has been read."""
        return expected_masks(self.schedule.faults, self.config, self.zero_ns, self.stamps, self.runtime.encodings)

    def why_no_output(self) -> str:
        """What is wrong when there is no output, after the call; '' when there are some."""
        if self.pipeline.outputs:
            return ""
        if self.pipeline.ticks:
            reasons = Counter(f"{name} is {state['state']}" + (f", {state['reason']}" if state.get("reason") else "")
                              for record in self.run.records for name, state in record["inputs"].items()
                              if not record["mask"][name] and state["state"] != "DISABLED")
            dropped = ", ".join(f"{count} as {reason}" for reason, count in self.pipeline.dropped.items())
            return (f"all {self.pipeline.ticks} sets were dropped, {dropped}; most often "
                    + "; ".join(reason for reason, _ in reasons.most_common(len(self.pipeline.inputs))))
        return (f"nothing opened a set in {self.duration_sec:g} s: "
                + "; ".join(self._silence(name) for name in self.config.collector.tick_source
                            if name in self.pipeline.inputs))

    def _silence(self, name: str) -> str:
        """Why an input opened no set."""
        count = next((self.counts[topic] for topic, role in self.roles.items() if role == name), None)
        if not count or not count["sent"]:
            return f"{name} has no message"
        if not count["received"]:
            return f"the faults took all {count['sent']} messages of {name}"
        counters = self.pipeline.collector.input_counters[name]
        why = [text for reason, text in REJECTED.items() if counters[reason]]
        return f"{name} has {count['received']} messages, {counters['accepted']} of use" + (f": {'; '.join(why)}"
                                                                                             if why else "")

    def _conclude(self) -> dict:
        """report.html, the pictures, the bag; metrics.json, by which a run is known to be finished, last."""
        faults, labels = self.schedule.faults, self.runtime.labels
        metrics = scoring.build_metrics(
            self.run.records, ticks=self.pipeline.ticks, dropped=self.pipeline.dropped, messages=self.counts,
            expected=self.expected_masks(), label_set=labels)
        metrics["no_output"] = self.why_no_output()
        if self.write_bag:
            self.run.write_bag()
        if self.report:
            write_report(self.run.folder / "report.html", Report(
                f"Replay of {self.bag.path.name}", metrics, self.run.records, labels, self.zero_ns, faults,
                self.config.collector.deadline_sec, self.run.pictures(faults),
                {"Bag": f"{self.bag.path}, {self.duration_sec:.1f} s", **facts(self.runtime, faults)},
                self.runtime.card))
        write_atomically(self.run.folder / "metrics.json", json.dumps(metrics, indent=1))
        return metrics


def one_view(config: Config, view: str = "", points: str = "") -> Config:
    """The configuration of one of target_cameras, '' for the first; with labelled points if they are to be written."""
    config = config.of_view(view or config.target_cameras[0])
    if points:
        config.set("publish_points", True)
    return config


def asked(config: Config, runtime: TorchRuntime | ExportedRuntime, faults: Sequence[Fault], seed: int, *,
          write_bag: bool, points: str, limit_sec: float | None) -> dict:
    """Everything but the bag that decides the outcome of a replay, JSON-ready."""
    left_out = ("checkpoint", "threads")
    return {"network": runtime.model_id, "precision": runtime.precision, "faults": [str(fault) for fault in faults],
            "seed": seed, "limit_sec": limit_sec, "write_bag": write_bag, "points": points,
            "config": {name: value for name, value, _ in config.parameters() if name not in left_out}}


def facts(runtime: TorchRuntime | ExportedRuntime, faults: Sequence[Fault]) -> dict[str, str]:
    """What the head of a report tells beside the bag."""
    return {"Network": f"{runtime.model_id}, {runtime.precision} on {runtime.device}", "Classes": runtime.labels.name,
            "Faults": " · ".join(map(str, faults)) or "none"}


def check_out(bag: str | Path, out: str | Path) -> None:
    """Raise ReplayError when results cannot be written to `out`, or could overwrite the bag."""
    if Path(out).exists() and not Path(out).is_dir():
        raise ReplayError(f"--out {out} is a file; name a folder")
    if Path(bag).resolve().is_relative_to(Path(out).resolve()):
        raise ReplayError(f"--out {out} contains the bag {bag}, which results could overwrite; name another folder")


def calibrate(pipeline: Pipeline, bag: Path, roles: Mapping[str, str], without: Collection[str] = ()) -> None:
    """Each first camera_info and static transform of the bag counts from its start, as a calibration file would.

    Otherwise what the other sensors saw before the first image would have no grid. roles: by topic. without: these
    roles are left out.
    """
    wanted = [topic for topic, role in roles.items()
              if (role.endswith("/info") or role == "tf_static") and role not in without]
    unseen = set(wanted)
    for topic, receive_ns, message in read_bag(bag, wanted) if wanted else ():
        if topic in unseen:
            pipeline.receive(roles[topic], message, receive_ns)
            unseen.remove(topic)
        if not unseen:
            break


def expected_masks(faults: Sequence[Fault], config: Config, start_ns: int, stamps: Mapping[str, Sequence[int]],
                   encodings: Mapping[str, Encoding]) -> scoring.ExpectedMasks:
    """The masks that faults ask for, with a network of these encodings."""
    window = {"window_sec": encodings["event"].params["window_sec"]} if "event" in encodings else {}
    return scoring.ExpectedMasks(faults, config, start_ns, stamps, **window)


def roles_in(bag: BagSummary, config: Config) -> dict[str, str]:
    """Topic -> role of what the bag has for the enabled inputs. Raises ReplayError when no set could be made of it."""
    wanted = config.used_topics()
    roles = {topic: role for topic, role in wanted.items() if topic in bag.topics and bag.topics[topic].count}
    there = ", ".join(f"{topic} ({one.type})" for topic, one in bag.topics.items()) or "nothing"
    hint = f"the bag has: {there}. Name other topics with --topic ROLE=TOPIC or in --config"
    if not any(role in config.inputs for role in roles.values()):
        sensors = ", ".join(f"{topic} ({role})" for topic, role in wanted.items() if role in config.inputs)
        raise ReplayError(f"bag {bag.path} has none of the sensor topics {sensors}; {hint}")
    for topic, role in roles.items():
        if role in config.inputs and bag.topics[topic].type not in (known := ACCEPTED[config.inputs[role].modality]):
            raise ReplayError(f"topic {topic} ({role}) of bag {bag.path} is {bag.topics[topic].type}; {role} can be "
                              + ", ".join(known))
    target, = config.target_cameras
    info = absolute(config.inputs[target].info_topic)
    if info not in roles and not config.calibration_file:
        raise ReplayError(f"bag {bag.path} lacks {info} (camera_info of the target camera {target}) and no "
                          f"calibration_file is given; {hint}")
    if config.calibration_file:
        calibration.load(config.calibration_file)   # a mistake in it shows before the results of an old run are deleted
    missing = [f"{topic} ({role})" for topic, role in wanted.items() if role in config.inputs and topic not in roles]
    if missing:
        log.warning("bag %s has no %s: replayed without", bag.path, ", ".join(missing))
    return roles


def configuration(options: argparse.Namespace) -> Config:
    """The configuration that the command line asks for. Raises ConfigError or ReplayError."""
    config = Config.from_yaml(options.config) if options.config else Config()
    if options.checkpoint:
        config.set("checkpoint", str(options.checkpoint))
    for setting in options.topic:
        role, equals, topic = setting.partition("=")
        known = {f"{name}/info" if part == "info_topic" else name: f"{name}.{part}"
                 for name in config.inputs for part in ("topic", "info_topic")}
        known |= {"odom": "odometry_topic", "tf": "tf_topic", "tf_static": "tf_static_topic", "labels": "labels_topic"}
        if not equals or role not in known:
            raise ReplayError(f"--topic {setting}: must be ROLE=TOPIC with a role of {', '.join(known)}")
        config.set(known[role], topic)
    if options.size:
        size = re.fullmatch(r"([1-9][0-9]{,4})x([1-9][0-9]{,4})", options.size)
        if not size:
            raise ReplayError(f"--size {options.size}: must be WIDTHxHEIGHT, e.g. 512x512")
        config.set("width", int(size[1]))
        config.set("height", int(size[2]))
    return config.validate()


def replay_all(bags: Sequence[Path], config: Config, options: argparse.Namespace) -> dict:
    """Replay the bags of a folder; returns the content of the metrics.json on top. Raises one of USER_ERRORS."""
    check_out(options.bag, options.out)
    config = one_view(config, options.view, options.points)
    runtime = open_runtime(config.checkpoint or DEFAULT_CHECKPOINT, config.backend, config.device, config.precision)
    gpu = runtime.device.type != "cpu"
    # The same in every process, on whatever machine; on a CPU the number of threads may change the last bits.
    for name, value in (("device", str(runtime.device)), ("precision", runtime.precision),
                        ("threads", config.threads or (0 if gpu else 1))):
        config.set(name, value)
    faults = [parse_fault(one, set(config.topic_roles().values())) for one in options.fault]
    how = {"write_bag": options.write_bag, "points": options.points, "limit_sec": options.limit}
    series = replay_many.Series(
        options.bag, options.out, partial(replay_one, config=config, faults=faults, seed=options.seed,
                                          report=not options.no_report, **how),
        asked(config, runtime, faults, options.seed, **how), runtime.labels, not options.no_report)
    jobs = options.jobs or default_jobs(runtime.device.type)
    with joined(options.ray):
        series.start(bags, options.resume)
        found = replay_many.outcomes(series, bags, jobs, options.ray is not None, gpu=gpu,
                                     within=partial(limited_threads, config.threads), progress=not options.quiet)
    metrics = replay_many.merge(runtime.labels, found)
    if not options.no_report:
        about = {"Bags": f"{len(bags)} in {options.bag}", **facts(runtime, faults)}
        write_report(options.out / "report.html", Report(f"Replay of {options.bag.resolve().name}", metrics, (),
                                                         runtime.labels, 0, about=about, card=runtime.card,
                                                         bags=metrics["bags"]))
    write_atomically(options.out / "metrics.json", json.dumps(metrics, indent=1))
    return metrics


def replay_one(bag: Path, out: Path, **how) -> None:
    """Replay one of many, going on with what `out` holds."""
    Replay(bag, out, resume=True, progress=False, **how)()


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.replay", description=__doc__.splitlines()[0],
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="faults: " + GRAMMAR + "\n" + "\n".join(
                                         f"  {kind:8} {text}" for kind, text in KINDS.items()))
    parser.add_argument("bag", type=Path, help="a rosbag2 folder, an .mcap or .db3 file, or a folder of such")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--checkpoint", type=Path, help="network; the shipped one when not given")
    parser.add_argument("--config", type=Path, help="parameters as YAML, the node's file or a plain mapping")
    parser.add_argument("--topic", action="append", default=[], metavar="ROLE=TOPIC",
                        help="where a role's messages are, e.g. rgb=/cam/front/image or rgb/info=/cam/front/info")
    parser.add_argument("--fault", action="append", default=[], metavar="FAULT", help="put a fault in, see below")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the faults' randomness (default 0)")
    parser.add_argument("--size", metavar="WxH", help="size of the network's images; the checkpoint's when not given")
    parser.add_argument("--view", default="", help="of several target_cameras, the one to replay (default: the first)")
    parser.add_argument("--points", default="", choices=["pcd", "ply"],
                        help="also write the labelled points of each set, in this format")
    parser.add_argument("--limit", type=positive, metavar="SEC", help="stop after this much of the bag")
    parser.add_argument("--write-bag", action="store_true", help="also write labels, confidence and masks as a bag")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run in --out")
    shared = parser.add_mutually_exclusive_group()
    shared.add_argument("--jobs", type=at_least(1), help="of many bags: processes; the figures are the same for any "
                        "number (default: one per CPU core, one for a GPU)")
    shared.add_argument("--ray", nargs="?", const="", metavar="HOST:PORT", help="of many bags: on a Ray cluster (the "
                        "extra ray) whose machines see the same files; without an address on this machine")
    parser.add_argument("--no-report", action="store_true", help="leave report.html and the pictures out")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    keep_freed_memory()
    options = arguments().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        if bags := bags_in(options.bag):
            metrics = replay_all(bags, configuration(options), options)
        else:
            metrics = Replay(options.bag, options.out, configuration(options), options.fault, options.seed,
                             view=options.view, write_bag=options.write_bag, points=options.points,
                             limit_sec=options.limit, resume=options.resume, report=not options.no_report,
                             progress=not options.quiet)()
    except USER_ERRORS as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    except ProcessKilled as error:
        print(f"replay: {error}; --resume goes on with {options.out}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"replay: cannot write {error.filename or options.out}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"replay: interrupted; --resume goes on with {options.out}", file=sys.stderr)
        return 130
    print(table(metrics))
    if not options.no_report:
        print(f"report: {options.out / 'report.html'}")
    if bags:
        wrong = [f"{one['name']}: {one['failure'] or 'no output: ' + one['no_output']}" for one in metrics["bags"]
                 if one["failure"] or one["no_output"]]
    else:
        wrong = [f"no output: {metrics['no_output']}"] if metrics["no_output"] else []
    for why in wrong:
        print(f"replay: {why}", file=sys.stderr)
    return 1 if wrong else 0


def table(metrics: Mapping) -> str:
    """The result in a few lines of text."""
    drops = sum(metrics["dropped"].values())
    lines = [f"{metrics['outputs']} outputs of {metrics['ticks']} ticks, {drops} dropped; "
             f"{metrics['mask_wrong']} of {metrics['mask_checked']} checked masks wrong"]
    for mask, frames in metrics["frames_by_mask"].items():
        score = metrics["miou_by_mask"][mask]
        lines.append(f"  {mask:24} {frames:6} frames" + ("" if score is None else f"  mIoU {100 * score:5.1f} %"))
    if metrics["miou"] is not None:
        lines.append(f"  {'all':24} {metrics['outputs']:6} frames  mIoU {100 * metrics['miou']:5.1f} %")
    lines += [f"  {stage:12} p50 {one['p50']:7.1f}  p95 {one['p95']:7.1f}  p99 {one['p99']:7.1f} ms"
              for stage, one in metrics["latency_ms"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    # Other processes find what they are sent by its module's name, which must not be __main__.
    sys.exit(importlib.import_module("mss_perception.replay").main())
