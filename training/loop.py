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


def train(recipe: Recipe, data: Path, out: Path, *, resume: bool = False, init: Path | None = None,
          teacher: Path | None = None, device: str = "auto", command: str = "", stop_at: int | None = None,
          before: Sequence[Mapping] = ()) -> dict:
    """Trains `recipe` on the data set at `data` and leaves the results in `out`; returns the last scores.

    resume: go on from out/state.pt. init: start from another checkpoint's weights (same architecture and labels), or
    with a published encoder.
    teacher: the checkpoint that a student learns from (same modalities, labels and encodings).
    before: what the stages before this one were, for the checkpoints' cards, see training.stages.
    stop_at: leave, resumably, after that many iterations. Ctrl-C and SIGTERM do the same after the iteration at hand.
    Under torchrun all processes call it, within distributed.joined; rank 0 writes the files.

    Raises TrainingError (non-finite loss, a run folder or a teacher that does not fit), DatasetError, RecipeError,
    TeacherError for text and image teachers, and OptionError for a device that is not there.
    """
    group = Group()
    device = choose_device(device)
    torch.manual_seed(recipe.seed)  # the same network in every process
    train_set = open_dataset(data, "train", recipe.modalities, variant=recipe.data_variant, cache="auto")
    val_set = open_dataset(data, "val", recipe.modalities, variant=recipe.data_variant, limit=recipe.eval_frames,
                           cache="auto")
    check_augmentation(recipe, train_set)
    model = make_model(recipe, len(train_set.labels))
    teacher_id = give_teacher(model, teacher, recipe, train_set, device)
    data_card = describe_data(train_set, val_set) | ({"teacher": teacher_id} if teacher_id else {})
    if group.size > 1:
        data_card["processes"] = str(group.size)
    if resume:
        state = load_state(recipe, data_card, out)
        if state["iteration"] == recipe.iterations:
            return state["scores"]
    if init is not None:
        start_from(model, init, train_set)
    model.to(device).train()
    average = copy.deepcopy(model).eval().requires_grad_(False) if recipe.ema else model
    optimiser = make_optimiser(model, recipe)
    check_steps(recipe, device, group.size)
    if group.first and resume:
        cut_log(out, state["iteration"])
    elif group.first:
        begin(recipe, out)
    if train_set.cached:
        train_set.preload(progress=lambda frames, total: tqdm(frames, "reading", total, unit="frame", leave=False,
                                                              disable=not group.first))
    weights = class_weights(train_set, recipe.class_balance) if recipe.loss == "ce" else None
    start, best, scores = 0, -1.0, {}
    if resume:
        start, best, scores = state["iteration"], state["best"], state["scores"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
    stepper = Stepper(model, optimiser, recipe, train_set.encodings, device, weights, group)
    if resume:
        stepper.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["torch_rng"][group.rank])
        if device.type == "cuda" and state["cuda_rng"]:
            torch.cuda.set_rng_state(state["cuda_rng"][group.rank], device)
    elif not group.first:
        torch.manual_seed(recipe.seed + group.rank)  # each process draws its own dropout

    def save(iteration: int) -> None:
        rng = {"torch_rng": group.of_all(torch.get_rng_state()),
               "cuda_rng": group.of_all(torch.cuda.get_rng_state(device)) if device.type == "cuda" else []}
        if group.first:
            save_state({"iteration": iteration, "best": best, "scores": scores, "data": data_card,
                        "model": model.state_dict(), "average": average.state_dict(),
                        "optimiser": optimiser.state_dict(), "scaler": stepper.scaler.state_dict(), **rng}, out)

    def save_checkpoint(name: str, iteration: int) -> None:
        card = {"command": command, "recipe": to_dict(recipe), "iterations": iteration, "frames": len(train_set),
                "data": train_set.card, "val_miou_present": scores}
        if teacher_id:
            card["teacher"] = teacher_id
        if before:
            card["stages_before"] = list(before)
        checkpoints.save(out / name, average, train_set.labels, train_set.encodings, card,
                         image_size=val_set.image_size)

    done, end = start, min(recipe.iterations, stop_at or recipe.iterations)
    with (StopSignals() as stop, Log(out) if group.first else nullcontext() as log,
          tqdm(total=recipe.iterations, initial=start, unit="it", desc=recipe.name, dynamic_ncols=True,
               disable=not group.first) as bar):
        began = time.perf_counter()
        for iteration, names, batch in prefetch(train_set, recipe, start, end, part=(group.rank, group.size)):
            lr = recipe.lr_at(iteration)
            loss, logs = stepper.step(batch, lr)
            if not math.isfinite(loss) or not math.isfinite(logs["grad_norm"]):
                what = f"loss is {loss}" if not math.isfinite(loss) else f"norm of the gradient is {logs['grad_norm']}"
                raise TrainingError(f"the {what} at iteration {iteration}, seed {recipe.seed}, with the frames "
                                    f"{', '.join(names)}; files in {out} are as of the last evaluation "
                                    "(a lower lr or a grad_clip may help)")
            if recipe.ema:
                _update_average(average, model, min(recipe.ema, (1 + iteration) / (10 + iteration)))
            done = iteration + 1
            record = {"iteration": done, "lr": lr, "seconds": round(time.perf_counter() - began, 4), **logs}
            began = time.perf_counter()
            evaluated = done % recipe.eval_every == 0 or done == recipe.iterations
            if evaluated:
                scores = record["val_miou_present"] = evaluate(average, train_set, val_set, recipe, device, group)
                record["evaluation_seconds"] = round(time.perf_counter() - began, 4)
                began = time.perf_counter()
            better = evaluated and (mean := sum(scores.values()) / len(scores)) > best
            if better:
                best = mean
            if group.first:
                log.add(record)  # before the state: resuming cuts, but adds nothing
                if better:
                    save_checkpoint("best.safetensors", done)
                if evaluated:
                    save_checkpoint("last.safetensors", done)
            stopping = bool(group.total(torch.tensor(int(stop.requested), device=device)))
            if stopping or evaluated or done == end:
                save(done)
            bar.update()
            bar.set_postfix_str(f"loss {loss:.3f}" + "".join(f" {name} {value:.1f}" for name, value in scores.items()))
            if stopping:
                break
        group.wait()  # the files are whole for whoever reads them next
        if done < end:
            raise KeyboardInterrupt(f"stopped after iteration {done}; go on with --resume")
    return scores


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
