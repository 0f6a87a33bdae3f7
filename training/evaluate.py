"""Scores a checkpoint: `python -m training.evaluate CHECKPOINT --data DIR --protocol any-modal conditions --out DIR`.

Leaves metrics.json (every figure), table.md and a self-contained report.html in the folder.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from mss_models import checkpoint as checkpoints
from mss_models.checkpoint import CheckpointError
from mss_models.files import write_atomically
from mss_models.runtime import PRECISIONS, OptionError, TorchRuntime, open_runtime
from training.commands import Parser, at_least
from training.datasets.deliver import CASES, NORMAL, SPLITS, WEATHERS, Deliver, recording_card
from training.datasets.sample import DatasetError
from training.protocols import (
    PROTOCOLS,
    all_subsets,
    any_modal_summary,
    class_prior,
    figures,
    key,
    merge,
    score_prior,
    score_subsets,
)
from training.report import markdown, page


def evaluate(runtime: TorchRuntime, data: Path, protocols: list[str], *, split: str = "test",
             limit: int | None = None, batch_size: int = 8) -> dict:
    """All figures of the protocols as a JSON-ready dict, percent throughout.

    any-modal: `subsets` {subset: {miou_published, miou_present, iou{class}, margin_*}}, `summary`, and `prior`, what
    the per-pixel class prior of the train split's labels scores; margin = mIoU - the prior's. conditions: `conditions`
    {weather or case: {subset: {miou_published, miou_present}}}. Raises DatasetError where data and network do not fit.
    """
    dataset = Deliver(data, split, runtime.modalities, limit=limit)
    _check_fit(runtime, dataset)
    names = dataset.labels.names
    groups = score_subsets(runtime, dataset, all_subsets(runtime.modalities), batch_size,
                           lambda batches: tqdm(batches, split, unit="batch", dynamic_ncols=True))
    total = merge(groups)
    train_set = Deliver(data, "train", runtime.modalities)
    frames = tqdm(range(len(train_set)), "class prior", unit="frame", dynamic_ncols=True, leave=False)
    prior = score_prior(class_prior((train_set.read_labels(i) for i in frames), len(names)), dataset)
    metrics = {
        "model_id": runtime.model_id, "device": str(runtime.device), "precision": runtime.precision, "split": split,
        "frames": len(dataset), "recording": recording_card(data), "modalities": list(runtime.modalities),
        "protocols": protocols, "class_pixels": dict(zip(names, map(int, prior.hist.sum(1)), strict=True)),
        "prior": figures(prior, names), "subsets": {}, "summary": any_modal_summary(total),
    }
    for subset, confusion in total.items():
        one = figures(confusion, names)
        margins = {convention.replace("miou", "margin"): round(one[convention] - metrics["prior"][convention], 2)
                   for convention in ("miou_published", "miou_present")}
        metrics["subsets"][key(subset)] = one | margins
    if "conditions" in protocols:
        chosen = {name: merge(groups, lambda weather, case, name=name: name in (weather, case))
                  for name in (*WEATHERS, NORMAL, *CASES)}
        metrics["conditions"] = {
            name: {key(subset): {convention: figures(confusion, names)[convention]
                                 for convention in ("miou_published", "miou_present")}
                   for subset, confusion in scores.items()}
            for name, scores in chosen.items() if scores}
    return metrics


def _check_fit(runtime: TorchRuntime, dataset: Deliver) -> None:
    if runtime.labels != dataset.labels:
        raise DatasetError(f"the checkpoint's label set is {runtime.labels.name!r} with {len(runtime.labels)} classes, "
                           f"the data's is {dataset.labels.name!r} with {len(dataset.labels)}")
    for name in runtime.modalities:
        if runtime.encodings[name] != dataset.encodings[name]:
            raise DatasetError(f"modality {name}: the checkpoint learned {runtime.encodings[name]}, "
                               f"the data holds {dataset.encodings[name]}")


def write_with_scores(source: Path, target: Path, metrics: dict) -> str:
    """Copy a checkpoint with `metrics`' scores added to its card under 'scores'; returns the copy's model_id."""
    one = checkpoints.load(source)
    kept = ("command", "split", "frames", "recording", "precision", "summary")
    scores = {name: metrics[name] for name in kept} | {"class_prior": metrics["prior"]["miou_present"]} | {
        convention: {subset: figures[convention] for subset, figures in metrics["subsets"].items()}
        for convention in ("miou_present", "miou_published")}
    return checkpoints.save(target, one.model, one.labels, one.encodings, {**one.card, "scores": scores},
                            image_size=one.image_size)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status; 2 and one line on stderr for what the user can mend."""
    parser = Parser(prog="python -m training.evaluate", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="a DELIVER tree")
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=["any-modal"])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--limit", type=at_least(1), help="score so many frames, evenly spread over the split")
    parser.add_argument("--ship", type=Path, metavar="FILE",
                        help="write the checkpoint here with these scores in its card")
    parser.add_argument("--batch-size", type=at_least(1), default=8)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", default="auto", choices=("auto", *PRECISIONS))
    args = parser.parse_args(arguments)
    try:
        runtime = open_runtime(args.checkpoint, device=args.device, precision=args.precision)
        metrics = evaluate(runtime, args.data, args.protocol, split=args.split, limit=args.limit,
                           batch_size=args.batch_size)
        metrics["command"] = ("python -m training.evaluate "
                              + shlex.join(sys.argv[1:] if arguments is None else arguments))
        args.out.mkdir(parents=True, exist_ok=True)
        table = markdown(metrics)
        write_atomically(args.out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        write_atomically(args.out / "table.md", table)
        shown = Deliver(args.data, args.split, runtime.modalities, limit=4)
        write_atomically(args.out / "report.html", page(metrics, runtime, shown))
        if args.ship:
            write_with_scores(args.checkpoint, args.ship, metrics)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    except (DatasetError, CheckpointError, OptionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table)
    print(f"report: {args.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
