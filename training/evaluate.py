"""Scores a checkpoint: `python -m training.evaluate CHECKPOINT --data DIR --protocol any-modal conditions --out DIR`.

Leaves metrics.json (every figure), table.md and a self-contained report.html in the folder, and in parts/ the counts,
from which the same command goes on when it was interrupted or is given further protocols.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from mss_models import checkpoint as checkpoints
from mss_models.checkpoint import CheckpointError
from mss_models.files import write_atomically
from mss_models.metrics import Confusion
from mss_models.modality import ModalityError
from mss_models.runtime import PRECISIONS, OptionError, choose_device
from mss_perception import cluster
from mss_perception.cluster import ClusterError
from mss_perception.processes import ProcessKilled, default_jobs
from mss_perception.threads import limited_threads
from training.commands import Parser, at_least
from training.datasets.dataset import Dataset
from training.datasets.sample import DatasetError
from training.protocols import PROTOCOLS, Trial, class_prior, counted, key, merge, score_prior, skipped, trials_of
from training.protocols.counts import (
    Job,
    begin,
    collect,
    frames_of,
    is_missing,
    open_job,
    open_split,
    parts,
    read_scores,
    score_part,
    write_scores,
)
from training.protocols.grid import SCORE_AT, EvaluationError, Grid
from training.protocols.scoring import Condition, Scores
from training.protocols.summary import (
    CONVENTIONS,
    by_condition,
    figures,
    mious_by_condition,
    of_subsets,
    robustness_tables,
    summarise,
)
from training.recipe import hint
from training.report import markdown, page


def evaluate(job: Job, out: Path, protocols: Sequence[str] = ("any-modal",), *, jobs: int = 1, ray: str | None = None,
             command: str = "") -> dict:
    """Runs the protocols, writes the results to `out` and returns the content of metrics.json (see docs/protocols.md).

    jobs: processes; on a CPU each has one thread, so that the result does not depend on their number. ray: the address
    of a Ray cluster in their place, see cluster.joined. Counts that `out` has already are not made again. Raises
    EvaluationError, ProcessKilled, ClusterError, DatasetError, CheckpointError, OptionError.
    """
    open_job.cache_clear()  # its files may be others than at the last call
    runtime, dataset = open_job(job)
    known = {trial.name for trial in trials_of(protocols, runtime.modalities)}
    if unknown := set(job.predictions) - known:
        wrong = sorted(unknown)[0]
        raise EvaluationError(f"--predictions {wrong}: no trial of {', '.join(protocols)}{hint(wrong, sorted(known))}")
    if "conditions" in protocols and not any(frame.weather or frame.case for frame in dataset.frames):
        raise EvaluationError(f"--protocol conditions: {dataset.NAME} tells no weather or case of its frames; leave it "
                              "out")
    begin(job, out)
    total, needed = len(dataset), counted(protocols)
    gpu = runtime.device.type != "cpu"
    one_thread = partial(limited_threads, 0 if gpu else 1)  # their number may change the last bits
    alike = job if ray is None else dataclasses.replace(job, device=str(runtime.device), precision=runtime.precision)
    missing = [part for part in parts(total) if any(is_missing(out, one, part) for one in needed)]
    with cluster.joined(ray), tqdm(total=total, desc=job.split, unit="frame", dynamic_ncols=True) as bar:
        bar.update(total - sum(len(frames_of(part, total)) for part in missing))
        for frames in cluster.run(partial(score_part, alike, out, needed), missing, jobs, ray is not None, gpu=gpu,
                                  within=one_thread):
            bar.update(frames)
    prior = prior_scores(job, out)
    metrics = {
        "command": command, "model_id": runtime.model_id,
        "architecture": checkpoints.load(job.checkpoint).model.architecture, "card": runtime.card,
        "device": str(runtime.device), "precision": runtime.precision, "dataset": dataset.NAME,
        "label_set": dataset.labels.name, "data": dataset.fingerprint(), "recording": dataset.card,
        "split": job.split, "frames": total,
        "frames_in_split": len(open_split(job.data, job.split, runtime)), "seed": job.seed,
        **dataclasses.asdict(job.grid), "modalities": list(runtime.modalities), "protocols": list(protocols),
    } | tables(collect(out, needed, total), prior, dataset, protocols)
    write_atomically(out / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    write_atomically(out / "table.md", markdown(metrics))
    write_atomically(out / "report.html", page(metrics, job))
    return metrics


def tables(scores: Scores, prior: Mapping[Condition, Confusion] | None, dataset: Dataset,
           protocols: Sequence[str]) -> dict:
    """The figures of metrics.json."""
    names = dataset.labels.names
    pixels = max((merge(one) for one in scores.values()), key=lambda one: one.pixels).hist.sum(1)  # no frame skipped
    if not pixels.any():
        raise EvaluationError(f"none of the {len(dataset)} frames has a labelled pixel; there is nothing to score")
    result = {"class_pixels": dict(zip(names, map(int, pixels), strict=True)),
              "prior": prior and figures(merge(prior), names)}
    if subsets := of_subsets(scores, "any-modal"):
        result["subsets"] = {key(subset): figures(one, names) for subset, one in subsets.items()}
        result["summary"] = summarise(subsets)
        result["skipped"] = {key(subset): frames for subset, frames in skipped(dataset, subsets).items()}
        if prior:
            for one in result["subsets"].values():
                one |= {convention.replace("miou", "margin"): round(one[convention] - result["prior"][convention], 2)
                        for convention in CONVENTIONS if one["miou_present"] is not None}
    if "conditions" in protocols:
        conditions = [*dataset.WEATHERS, *dataset.CASES]
        result["conditions"] = by_condition(scores, conditions)
        result["prior_by_condition"] = prior and mious_by_condition(prior, conditions)
    return result | robustness_tables(scores, names)


def prior_scores(job: Job, out: Path) -> dict[Condition, Confusion] | None:
    """What the per-pixel class prior of the train split's labels scores; None where that split is not there."""
    runtime, dataset = open_job(job)
    try:
        train_set = open_split(job.data, "train", runtime)
    except DatasetError:
        return None
    path, trial = out / "parts" / f"prior-{train_set.fingerprint()}.npz", Trial("prior", ("train",))
    if (known := read_scores(path)) is not None:
        return known[trial]
    frames = tqdm(range(len(train_set)), "class prior", unit="frame", dynamic_ncols=True, leave=False)
    prior = class_prior((train_set.read_labels(i) for i in frames), len(dataset.labels))
    scores = score_prior(prior, dataset, job.grid)
    write_scores(path, {trial: scores})
    return scores


def write_with_scores(source: Path, target: Path, metrics: dict, limits: str = "") -> str:
    """Copy a checkpoint with `metrics`' scores added to its card under 'scores', and `limits` if there are any; returns
    the copy's model_id."""
    one = checkpoints.load(source)
    kept = ("command", "split", "frames", "recording", "precision", "summary")
    scores = {name: metrics[name] for name in kept} | {
        "class_prior": metrics["prior"] and metrics["prior"]["miou_present"]} | {
        name: metrics[name] for name in ("conditions", "prior_by_condition") if name in metrics} | {
        name: {subset: figures[name] for subset, figures in metrics["subsets"].items()}
        for name in (*CONVENTIONS, "iou")}
    card = {**one.card, "scores": scores} | ({"limits": limits} if limits else {})
    return checkpoints.save(target, one.model, one.labels, one.encodings, card, image_size=one.image_size)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status; 2 and one line on stderr for what the user can mend."""
    parser = Parser(prog="python -m training.evaluate", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set")
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=["any-modal"], metavar="NAME",
                        help=f"of {', '.join(PROTOCOLS)}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--split", default="test")
    parser.add_argument("--frames", type=at_least(1), help="score so many frames, evenly spread over the split")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of missing values and noise")
    shared = parser.add_mutually_exclusive_group()
    shared.add_argument("--jobs", type=at_least(1), default=None,
                        help="processes; the result is the same for any number (default: one per CPU core, one for a "
                             "GPU)")
    shared.add_argument("--ray", nargs="?", const="", metavar="HOST:PORT",
                        help="on a Ray cluster (the extra ray) whose machines see the same files; without an address "
                             "on this machine")
    parser.add_argument("--short-side", type=at_least(1), metavar="PIXELS",
                        help="resize images so, sides aligned up to 32 (published: 1024); default: as they are")
    parser.add_argument("--score-at", choices=SCORE_AT, default="labels",
                        help="labels: at their own size; network: at the network's, as published")
    parser.add_argument("--window", type=at_least(1), metavar="PIXELS",
                        help="sliding windows of this side, logits averaged; default: the whole image")
    parser.add_argument("--stride", type=at_least(1), metavar="PIXELS", help="of the windows (default: two thirds)")
    parser.add_argument("--predictions", nargs="*", metavar="TRIAL",
                        help="write class ids as PNG files of these trials, e.g. any-modal/rgb+lidar rmm/0.5/rgb; "
                             "without names: of all modalities")
    parser.add_argument("--ship", type=Path, metavar="FILE",
                        help="write the checkpoint here with these scores in its card")
    parser.add_argument("--limits", default="", metavar="TEXT",
                        help="with --ship: what the network has not seen or is not for, for the card")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", default="auto", choices=("auto", *PRECISIONS))
    args = parser.parse_args(arguments)
    command = "python -m training.evaluate " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    try:
        if args.ship and not {"any-modal", "conditions"} & set(args.protocol):
            raise EvaluationError("--ship writes any-modal's scores; add any-modal to --protocol")
        stride = args.stride or (args.window and max(1, 2 * args.window // 3))
        grid = Grid(args.short_side, args.score_at, args.window, stride)
        predictions = args.predictions
        if predictions == []:
            modalities = checkpoints.load(args.checkpoint).model.modalities
            predictions = [trial.name for trial in trials_of(args.protocol, modalities)
                           if trial.protocol in ("any-modal", "emm", "nm") and trial.subset == modalities][:1]
        job = Job(args.checkpoint, args.data, args.split, args.frames, args.seed, grid, args.device, args.precision,
                  tuple(predictions or ()))
        jobs = args.jobs or default_jobs(choose_device(args.device).type)
        metrics = evaluate(job, args.out, args.protocol, jobs=jobs, ray=args.ray, command=command)
        if args.ship:
            write_with_scores(args.checkpoint, args.ship, metrics, args.limits)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on from what is in {args.out}", file=sys.stderr)
        return 130
    except (DatasetError, CheckpointError, OptionError, ModalityError, EvaluationError, ProcessKilled,
            ClusterError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(metrics))
    print(f"report: {args.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
