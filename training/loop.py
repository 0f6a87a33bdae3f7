"""The training loop: one recipe, one data set, one folder.

The folder holds recipe.json, log.jsonl, state.pt (everything that resuming needs), last.safetensors and
best.safetensors, whose mean mIoU over each modality alone and all together is the highest of the evaluations on split
val. A batch is a function of the seed and the iteration alone, so a resumed training repeats the uninterrupted one
exactly.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from mss_models import checkpoint as checkpoints
from mss_models.metrics import Confusion
from mss_models.runtime import choose_device, open_runtime
from mss_models.system import System
from training.batches import check_augmentation, class_weights, prefetch
from training.commands import StopSignals
from training.datasets.dataset import Dataset
from training.datasets.opening import open_dataset
from training.distributed import Group
from training.log import Log
from training.networks import give_teacher, make_model, make_optimiser, start_from
from training.protocols import Trial, key, merge, score, singles_and_all
from training.recipe import Recipe, to_dict
from training.run_folder import TrainingError, begin, cut_log, load_state, save_state
from training.steps import Stepper, check_steps

STOPPING = ("stopping after this iteration, and its evaluation if it has one; once more stops now and loses what was "
            "learned since the last evaluation")


def train(recipe: Recipe, data: Path, out: Path, *, resume: bool = False, init: Path | None = None,
          teacher: Path | None = None, device: str = "auto", command: str = "", stop_at: int | None = None,
          before: Sequence[Mapping] = ()) -> dict:
    """Trains `recipe` on the data set at `data` and leaves the results in `out`; returns the last scores.

    resume: go on from out/state.pt; all else must be as it was. init: start from another checkpoint's weights (same
    architecture and labels), or with a published encoder.
    teacher: the checkpoint that a student learns from (same modalities, labels and encodings).
    before: what the stages before this one were, for the checkpoints' cards, see training.stages.
    stop_at: leave, resumably, after that many iterations. Ctrl-C and SIGTERM do the same after the iteration at hand.
    Under torchrun all processes call it, within distributed.joined; rank 0 writes the files.

    Raises TrainingError (non-finite loss, a run folder or a teacher that does not fit), DatasetError, RecipeError,
    TeacherError for text and image teachers, and OptionError for a device that is not there.
    """
    run = Training(recipe, data, out, init, teacher, device, command, before)
    state = load_state(recipe, run.data_card, out) if resume else None
    if state and state["iteration"] == recipe.iterations:
        return state["scores"]
    run.begin(state)
    run(min(recipe.iterations, stop_at or recipe.iterations))
    return run.scores


class Training:
    """One process's part of a training: what it learns from and with, how far it is. `begin` it, then call it."""

    def __init__(self, recipe: Recipe, data: Path, out: Path, init: Path | None, teacher: Path | None, device: str,
                 command: str, before: Sequence[Mapping]) -> None:
        """All as in `train`."""
        self.recipe, self.out, self.command, self.before = recipe, out, command, before
        self.group, self.device = Group(), choose_device(device)
        torch.manual_seed(recipe.seed)  # the same network in every process
        self.train_set, self.val_set = (
            open_dataset(data, split, recipe.modalities, variant=recipe.data_variant, limit=limit, cache="auto")
            for split, limit in (("train", None), ("val", recipe.eval_frames)))
        check_augmentation(recipe, self.train_set)
        self.model = make_model(recipe, len(self.train_set.labels))
        teacher_id = give_teacher(self.model, teacher, recipe, self.train_set, self.device)
        self.sources = {"teacher": teacher_id} if teacher_id else {}
        if init is not None:
            self.sources["init"] = start_from(self.model, init, self.train_set)
        self.data_card = describe_data(self.train_set, self.val_set) | self.sources
        if self.group.size > 1:
            self.data_card["processes"] = str(self.group.size)
        self.iteration, self.best, self.scores = 0, -1.0, {}

    def begin(self, state: Mapping | None) -> None:
        """Make ready for the first iteration, or for the one after those of `state`."""
        recipe, device, group = self.recipe, self.device, self.group
        self.model.to(device).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False) if recipe.ema else self.model
        self.optimiser = make_optimiser(self.model, recipe)
        check_steps(recipe, device, group.size)
        if group.first and state:
            cut_log(self.out, state["iteration"])
        elif group.first:
            begin(recipe, self.out)
        if self.train_set.cached:
            self.train_set.preload(progress=lambda frames, total: tqdm(frames, "reading", total, unit="frame",
                                                                       leave=False, disable=not group.first))
        weights = class_weights(self.train_set, recipe.class_balance) if recipe.loss == "ce" else None
        if state:
            self.iteration, self.best, self.scores = state["iteration"], state["best"], state["scores"]
            for name in ("model", "average", "optimiser"):
                getattr(self, name).load_state_dict(state[name])
        self.stepper = Stepper(self.model, self.optimiser, recipe, self.train_set.encodings, device, weights, group)
        if state:
            self.stepper.scaler.load_state_dict(state["scaler"])
            torch.set_rng_state(state["torch_rng"][group.rank])
            if device.type == "cuda" and state["cuda_rng"]:
                torch.cuda.set_rng_state(state["cuda_rng"][group.rank], device)
        elif not group.first:
            torch.manual_seed(recipe.seed + group.rank)  # each process draws its own dropout

    def __call__(self, end: int) -> None:
        """The iterations before `end`. Raises KeyboardInterrupt, with everything saved, when a signal has come."""
        recipe, group, stopping = self.recipe, self.group, False
        with (StopSignals(STOPPING if group.first else "") as stop,
              Log(self.out, self.iteration) if group.first else nullcontext() as log,
              tqdm(total=recipe.iterations, initial=self.iteration, unit="it", desc=recipe.name, dynamic_ncols=True,
                   disable=not group.first) as bar):
            began = time.perf_counter()
            for _, names, batch in prefetch(self.train_set, recipe, self.iteration, end, part=(group.rank, group.size)):
                record = self.learn(names, batch)
                record["seconds"] = round(time.perf_counter() - began, 4)
                began = time.perf_counter()
                evaluated = self.iteration % recipe.eval_every == 0 or self.iteration == recipe.iterations
                better = evaluated and self.improves()
                if evaluated:
                    record |= {"val_miou_present": self.scores,
                               "evaluation_seconds": round(time.perf_counter() - began, 4)}
                    began = time.perf_counter()
                if group.first:
                    log.add(record)  # before the state: resuming cuts, but adds nothing
                    for name in ("best",) * better + ("last",) * evaluated:
                        self.save_checkpoint(f"{name}.safetensors")
                stopping = bool(group.total(torch.tensor(int(stop.requested), device=self.device)))
                if stopping or evaluated or self.iteration == end:
                    self.save()
                bar.update()
                bar.set_postfix_str(" ".join([f"loss {record['loss']:.3f}", *(f"{name} {value:.1f}" for name, value in
                                                                              self.scores.items())]))
                if stopping:
                    break
            group.wait()  # the files are whole for whoever reads them next
            if stopping:  # also after the last: what would follow, a student or an evaluation, is not wanted either
                raise KeyboardInterrupt(f"stopped after iteration {self.iteration} of {recipe.iterations}; go on with "
                                        "--resume")

    def learn(self, names: Sequence[str], batch: Mapping) -> dict:
        """One iteration on a batch of the frames `names`. Returns what to log of it."""
        recipe, lr = self.recipe, self.recipe.lr_at(self.iteration)
        loss, logs = self.stepper.step(batch, lr)
        if not math.isfinite(loss) or not math.isfinite(logs["grad_norm"]):
            what = f"loss is {loss}" if not math.isfinite(loss) else f"norm of the gradient is {logs['grad_norm']}"
            raise TrainingError(f"the {what} at iteration {self.iteration}, seed {recipe.seed}, with the frames "
                                f"{', '.join(names)}; files in {self.out} are as of the last evaluation "
                                "(a lower lr or a grad_clip may help)")
        if recipe.ema:
            _update_average(self.average, self.model, min(recipe.ema, (1 + self.iteration) / (10 + self.iteration)))
        self.iteration += 1
        return {"iteration": self.iteration, "lr": lr, **logs}

    def improves(self) -> bool:
        """Evaluates; whether the scores are the best yet."""
        self.scores = evaluate(self.average, self.train_set, self.val_set, self.recipe, self.device, self.group)
        mean = sum(self.scores.values()) / len(self.scores)
        if better := mean > self.best:
            self.best = mean
        return better

    def save(self) -> None:
        """state.pt, from all processes."""
        rng = {"torch_rng": self.group.of_all(torch.get_rng_state()), "cuda_rng": []}
        if self.device.type == "cuda":
            rng["cuda_rng"] = self.group.of_all(torch.cuda.get_rng_state(self.device))
        if self.group.first:
            parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimiser")}
            save_state({"iteration": self.iteration, "best": self.best, "scores": self.scores, "data": self.data_card,
                        **parts, "scaler": self.stepper.scaler.state_dict(), **rng}, self.out)

    def save_checkpoint(self, name: str) -> None:
        card = {"command": self.command, "recipe": to_dict(self.recipe), "iterations": self.iteration,
                "frames": len(self.train_set), "data": self.train_set.card, "val_miou_present": self.scores,
                **self.sources}
        if self.before:
            card["stages_before"] = list(self.before)
        checkpoints.save(self.out / name, self.average, self.train_set.labels, self.train_set.encodings, card,
                         image_size=self.val_set.image_size)


def evaluate(model: System, train_set: Dataset, val_set: Dataset, recipe: Recipe, device: torch.device,
             group: Group | None = None) -> dict[str, float]:
    """mIoU (percent, classes present) on the val frames: each modality alone, if any frame has it, and all together.

    The group's processes share the frames; all have rank 0's buffers afterwards.
    """
    group = group or Group()
    group.share_buffers(model)
    whole = checkpoints.Checkpoint(model, train_set.labels, train_set.encodings, val_set.image_size, {}, "")
    trials = [Trial("any-modal", subset) for subset in singles_and_all(recipe.modalities)]
    frames = range(group.rank, len(val_set), group.size)
    scores = score(open_runtime(whole, device=str(device)), val_set, trials, frames=frames)
    result = {}
    for trial in trials:
        confusion = merge(scores[trial]) or Confusion(len(val_set.labels), val_set.labels.ignore_id)
        confusion.hist = group.total(torch.from_numpy(confusion.hist).to(device)).cpu().numpy()
        if confusion.pixels or trial is trials[-1]:  # else its sensor gave nothing in any frame
            result[key(trial.subset)] = round(100 * confusion.miou_present, 2)
    return result


def describe_data(*datasets: Dataset) -> dict[str, str]:
    """Per split how many frames there are and their fingerprint: whether two trainings see the same data."""
    return {one.split: f"{len(one)} frames with fingerprint {one.fingerprint()}" for one in datasets}


@torch.no_grad()
def _update_average(average: System, model: System, decay: float) -> None:
    """average <- decay average + (1 - decay) model, buffers too; integer buffers are copied."""
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)
