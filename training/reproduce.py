"""The papers in miniature: `python -m training.reproduce --data DIR --out docs/results`.

Trains and evaluates every run of training/reproduce_plan.py that has no result file yet, with each seed, and writes the
table and the verdicts on the findings to docs/results.md. It goes on from what is there; several of it, on one machine
or on a shared disk, share the runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from mss_models import checkpoint as checkpoints
from mss_models.checkpoint import CheckpointError
from mss_models.files import write_atomically
from mss_models.info import count_parameters
from mss_models.modality import ModalityError
from mss_models.runtime import OptionError, choose_device
from mss_models.teachers import TeacherError
from training.commands import Parser, at_least
from training.datasets.opening import open_dataset
from training.datasets.sample import DatasetError
from training.evaluate import evaluate
from training.loop import train
from training.protocols.counts import Job
from training.protocols.grid import EvaluationError
from training.recipe import Recipe, RecipeError, hint, override, to_dict
from training.recipes import find_recipe
from training.reproduce_page import page, picture
from training.reproduce_plan import PLAN, PROTOCOLS, QUICK, SEEDS, Run
from training.run_folder import TrainingError, last_terms, seconds_spent

POLL_SEC = 5.0


class ReproduceError(RuntimeError):
    """A result file or the options do not fit. The message says what would."""


@dataclass(frozen=True)
class Place:
    """Where things are: the data, the result files, and the runs' folders, with checkpoints and counts."""

    data: Path
    out: Path
    runs: Path
    device: str = "auto"
    frames: int | None = None

    def result(self, run: Run, seed: int) -> Path:
        return self.out / f"{run.name}-seed{seed}.json"

    def folder(self, run: Run, seed: int) -> Path:
        return self.runs / f"{run.name}-seed{seed}"


def recipe_of(run: Run, seed: int) -> Recipe:
    return override(find_recipe(run.recipe), [*run.settings, f"seed={seed}"])


def reproduce(plan: Sequence[Run], seeds: Sequence[int], place: Place, command: str = "") -> list[str]:
    """Does what is left of the plan, seed by seed, and writes the page after every run. Returns the errors of runs that
    failed, which do not keep the others from being done.

    Raises ReproduceError for a result that was made otherwise, DatasetError, and KeyboardInterrupt, resumably.
    """
    by_name = {run.name: run for run in plan}
    limits = {"train": None, "val": None, "test": place.frames}
    origins = {split: open_dataset(place.data, split, limit=limit).origin()
                    for split, limit in limits.items()}
    left = [(run, seed) for seed in seeds for run in plan]
    failed: dict[tuple[str, int], str] = {}
    while True:
        waiting = progress = False
        for run, seed in list(left):
            teacher = by_name.get(run.teacher)
            if teacher and (teacher.name, seed) in failed:
                failed[run.name, seed] = f"{run.name}, seed {seed}: its teacher's run failed"
            elif is_done(run, seed, place, origins):
                pass
            elif teacher and not place.result(teacher, seed).exists():
                waiting = True
                continue
            else:
                with claimed(place.folder(run, seed)) as mine:
                    if not mine:
                        continue
                    if not is_done(run, seed, place, origins):  # it may have been, just before the claim
                        print(f"{run.name}, seed {seed}: {len(left)} runs to go", flush=True)
                        try:
                            result = perform(run, seed, place, teacher, origins, command)
                            write_atomically(place.result(run, seed), json.dumps(result, indent=1) + "\n")
                        except (TrainingError, TeacherError, EvaluationError) as error:
                            failed[run.name, seed] = f"{run.name}, seed {seed}: {error}"
                progress = True
            left.remove((run, seed))
        write_page(place)
        if not left or not (waiting or progress):  # what is left is in others' hands
            break
        if not progress:
            time.sleep(POLL_SEC)  # for a teacher that another process trains
    for run, seed in left:
        print(f"{run.name}, seed {seed}: another process is at it")
    return list(failed.values())


def perform(run: Run, seed: int, place: Place, teacher: Run | None, origins: dict[str, str],
            command: str) -> dict:
    """Trains, from where the run's folder is, and evaluates; returns the content of the result file."""
    recipe, folder = recipe_of(run, seed), place.folder(run, seed)
    given = weights_of(teacher, seed, place, command) if teacher else None
    train(recipe, place.data, folder, resume=(folder / "state.pt").exists(), teacher=given, device=place.device,
          command=command)
    trained = seconds_spent(folder)
    began = time.perf_counter()
    metrics = evaluate(Job(folder / "last.safetensors", place.data, "test", place.frames, device=place.device,
                           precision="fp32"), folder / "scores", PROTOCOLS)  # on any hardware, to compare
    model = checkpoints.load(folder / "last.safetensors").model
    before = json.loads(place.result(teacher, seed).read_text()) if teacher else None
    return {
        "run": run.name, "seed": seed, "recipe": to_dict(recipe), "teacher": before and before["run"],
        "iterations": recipe.iterations + (before["iterations"] if before else 0),
        "train_seconds": round(trained + (before["train_seconds"] if before else 0), 1),
        "evaluation_seconds": round(time.perf_counter() - began, 1),
        "parameters": count_parameters(model) - sum(count_parameters(model.get_submodule(name))
                                                    for name in model.training_only),
        "dataset": metrics["dataset"], "data": origins, "frames": metrics["frames"],
        "precision": metrics["precision"], "device": metrics["device"].split(":")[0],
        "hardware": hardware(place.device), "torch": torch.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(), "command": command, "terms": last_terms(folder, 20),
        "figures": small(metrics),
    }


def weights_of(teacher: Run, seed: int, place: Place, command: str) -> Path:
    """The checkpoint of a teacher that has its result.

    A clone has the results without the runs' folders: there it is trained again, to the same weights but for the
    rounding of another machine. While another process does that, this one waits.
    """
    folder = place.folder(teacher, seed)
    weights, state = folder / "last.safetensors", folder / "state.pt"
    while True:
        with claimed(folder) as mine:
            if mine and (state.exists() or not weights.exists()):
                train(recipe_of(teacher, seed), place.data, folder, resume=state.exists(), device=place.device,
                      command=command)
            if mine:
                return weights
        time.sleep(POLL_SEC)


def small(metrics: dict) -> dict:
    """Of metrics.json: what the table and the findings are made of, in both conventions."""
    def without_classes(one: dict | None) -> dict | None:
        return one and {name: value for name, value in one.items() if name.startswith("miou")}
    return {
        "prior": without_classes(metrics["prior"]), "summary": metrics["summary"],
        "subsets": {name: without_classes(one) for name, one in metrics["subsets"].items()},
        "emm": metrics["emm"]["summary"], "rmm": {rate: one["summary"] for rate, one in metrics["rmm"].items()},
        "nm": {level: without_classes(one) for level, one in metrics["nm"].items()},
        "composites": metrics["composites"],
    }


def is_done(run: Run, seed: int, place: Place, origins: dict[str, str]) -> bool:
    """Whether the run has its result. Raises ReproduceError if that is of other data or of another recipe."""
    path = place.result(run, seed)
    if not path.exists():
        return False
    result = read_result(path)
    recipe = json.loads(json.dumps(to_dict(recipe_of(run, seed))))
    for what, theirs, ours in (("data", result["data"], origins), ("recipe", result["recipe"], recipe)):
        if changed := [name for name in ours if theirs.get(name) != ours[name]]:
            raise ReproduceError(f"{path} is of another {what}: " + "; ".join(
                f"{name} was {theirs.get(name)} and is {ours[name]}" for name in changed)
                + "; remove it, or give another --out")
    return True


def read_result(path: Path) -> dict:
    try:
        result = json.loads(path.read_text())
        result["run"], result["seed"], result["recipe"], result["data"], result["figures"]  # noqa: B018
    except (ValueError, KeyError, TypeError) as error:
        raise ReproduceError(f"{path} is damaged or no result ({type(error).__name__}: {error}); remove it") from error
    return result


def write_page(place: Place) -> None:
    """From the result files alone, and people's thoughts on them in OUT/notes.md."""
    results = [read_result(path) for path in sorted(place.out.glob("*-seed*.json"))]
    notes = place.out / "notes.md"
    text = page(results, place.out.name, notes.read_text() if notes.exists() else "")
    write_atomically(place.out.with_suffix(".md"), text)
    write_atomically(place.out.with_suffix(".svg"), picture(results) + "\n")


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process has the folder for itself while the context lasts.

    The claim is the kernel's lock on folder/claim, which ends with the process that holds it, however that ends: a
    claim cannot be left behind. What the file says is for people.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "claim", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        file.truncate(0)
        print(f"process {os.getpid()} on {os.uname().nodename}", file=file, flush=True)
        yield True


def hardware(device: str) -> str:
    """In words: the GPU, or the CPU and the number of threads."""
    one = choose_device(device)
    if one.type == "cuda":
        return torch.cuda.get_device_name(one)
    models = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{models[0] if models else os.uname().machine}, {torch.get_num_threads()} thread(s)"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def chosen(plan: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """The runs of these names, and the teachers that they need. Raises ReproduceError for an unknown name."""
    known = [run.name for run in plan]
    if unknown := [name for name in names if name not in known]:
        raise ReproduceError(f"--only {unknown[0]}: no run of that name{hint(unknown[0], known)}")
    wanted = {*names, *(run.teacher for run in plan if run.name in names)} if names else known
    return [run for run in plan if run.name in wanted]


def listing(plan: Sequence[Run], seeds: Sequence[int], place: Place) -> str:
    """A line per run: its recipe, teacher, iterations, and of which seeds there is a result."""
    rows = [f"{'run':32}{'recipe':38}{'iterations':12}{'teacher':17}done, seeds {' '.join(map(str, seeds))}"]
    for run in plan:
        done = " ".join("x" if place.result(run, seed).exists() else "." for seed in seeds)
        recipe = recipe_of(run, seeds[0])
        rows.append(f"{run.name:32}{run.recipe:38}{recipe.iterations:<12}{run.teacher or '-':17}{done}")
    return "\n".join(rows)


def record_tiny_world(folder: Path) -> Path:
    """The smallest world that has all splits; returns the folder."""
    subprocess.run([sys.executable, "-m", "training.synthesize", "--out", str(folder), "--format", "deliver", "--split",
                    "train", "val", "test", "--frames", "4", "2", "2", "--size", "64", "--jobs", "1"], check=True)
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status; 2 and one line on stderr for what the user can mend, 1 if runs failed."""
    parser = Parser(prog="python -m training.reproduce", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="a data set: see training.datasets.opening (--quick records its own)")
    parser.add_argument("--out", type=Path, help="folder of the result files; the page is beside it, OUT.md (default: "
                                                 "docs/results, with --quick RUNS/results)")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), help="folder of checkpoints and logs")
    parser.add_argument("--only", nargs="+", default=[], metavar="RUN", help="these runs, see --list")
    parser.add_argument("--seeds", nargs="+", type=at_least(0), default=list(SEEDS), metavar="SEED",
                        help="the first for all runs, then the next")
    parser.add_argument("--frames", type=at_least(1), help="evaluate on so many frames, evenly spread over split test")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--quick", action="store_true", help="one tiny run, to see that everything works")
    parser.add_argument("--list", action="store_true", help="show the plan and what is done of it, and exit")
    args = parser.parse_args(arguments)
    command = "python -m training.reproduce " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    try:
        plan = chosen(QUICK if args.quick else PLAN, args.only)
        seeds = list(dict.fromkeys(args.seeds))[: 1 if args.quick else None]
        out = args.out or (args.runs / "results" if args.quick else Path("docs/results"))
        place = Place(args.data or args.runs / "world", out, args.runs, args.device, args.frames)
        if args.list:
            print(listing(plan, seeds, place))
            return 0
        choose_device(args.device)
        if not args.data:
            if not args.quick:
                raise ReproduceError("--data is needed: the folder of the world (python -m training.synthesize)")
            record_tiny_world(place.data)
        errors = reproduce(plan, seeds, place, command)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on", file=sys.stderr)
        return 130
    except (ReproduceError, RecipeError, DatasetError, ModalityError, OptionError, CheckpointError,
            OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"the table and the verdicts: {place.out.with_suffix('.md')}")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
