"""The training loop: one recipe, one data set, one folder.

The folder holds recipe.json, log.jsonl, state.pt (everything that resuming needs), last.safetensors and
best.safetensors, whose mean mIoU over each modality alone and all together is the highest of the evaluations on split
val. A batch is a function of the seed and the iteration alone, so a resumed training repeats the uninterrupted one
exactly.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from mss_models import checkpoint as checkpoints
from mss_models.runtime import choose_device, open_runtime
from mss_models.system import System
from training.batches import check_augmentation, class_weights, prefetch
from training.commands import StopSignals
from training.datasets.dataset import Dataset
from training.datasets.opening import open_dataset
from training.networks import give_teacher, make_model, make_optimiser, start_from
from training.protocols import key, score_subsets, singles_and_all
from training.recipe import Recipe, to_dict
from training.run_folder import TrainingError, begin, load_state, save_state
from training.transforms import normalise


def train(recipe: Recipe, data: Path, out: Path, *, resume: bool = False, init: Path | None = None,
          teacher: Path | None = None, device: str = "auto", command: str = "", stop_at: int | None = None,
          before: Sequence[Mapping] = ()) -> dict:
    """Trains `recipe` on the data set at `data` and leaves the results in `out`; returns the last scores.

    resume: go on from out/state.pt. init: start from another checkpoint's weights (same architecture and labels).
    teacher: the checkpoint that a student learns from (same modalities, labels and encodings).
    before: what the stages before this one were, for the checkpoints' cards, see training.stages.
    stop_at: leave, resumably, after that many iterations. Ctrl-C and SIGTERM do the same after the iteration at hand.

    Raises TrainingError (non-finite loss, a run folder or a teacher that does not fit), DatasetError, RecipeError,
    TeacherError for text and image teachers, and OptionError for a device that is not there.
    """
    device = choose_device(device)
    torch.manual_seed(recipe.seed)
    train_set = open_dataset(data, "train", recipe.modalities, variant=recipe.data_variant, cache="auto")
    val_set = open_dataset(data, "val", recipe.modalities, variant=recipe.data_variant, limit=recipe.eval_frames,
                           cache="auto")
    check_augmentation(recipe, train_set)
    model = make_model(recipe, len(train_set.labels))
    teacher_id = give_teacher(model, teacher, recipe, train_set, device)
    data_card = describe_data(train_set, val_set) | ({"teacher": teacher_id} if teacher_id else {})
    if resume:
        state = load_state(recipe, data_card, out)
        if state["iteration"] == recipe.iterations:
            return state["scores"]
    else:
        begin(recipe, out)
    if init is not None:
        start_from(model, init, train_set)
    model.to(device).train()
    average = copy.deepcopy(model).eval().requires_grad_(False) if recipe.ema else model
    optimiser = make_optimiser(model, recipe)
    if train_set.cached:
        train_set.preload(progress=lambda frames, total: tqdm(frames, "reading", total, unit="frame", leave=False))
    weights = class_weights(train_set, recipe.class_balance).to(device) if recipe.loss == "ce" else None
    start, best, scores = 0, -1.0, {}
    if resume:
        start, best, scores = state["iteration"], state["best"], state["scores"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch_rng"])
        if device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], device)

    def save(iteration: int) -> None:
        save_state({"iteration": iteration, "best": best, "scores": scores, "data": data_card,
                    "model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(),
                    "torch_rng": torch.get_rng_state(),
                    "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}, out)

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
    with (StopSignals() as stop, open(out / "log.jsonl", "a") as log,
          tqdm(total=recipe.iterations, initial=start, unit="it", desc=recipe.name, dynamic_ncols=True) as bar):
        began = time.perf_counter()
        for iteration, names, batch in prefetch(train_set, recipe, start, end):
            lr = recipe.lr_at(iteration)
            loss, logs = step(model, optimiser, batch, recipe, train_set.encodings, weights, lr, device)
            if not math.isfinite(loss) or not math.isfinite(logs["grad_norm"]):
                what = f"loss is {loss}" if not math.isfinite(loss) else f"norm of the gradient is {logs['grad_norm']}"
                raise TrainingError(f"the {what} at iteration {iteration}, seed {recipe.seed}, with the frames "
                                    f"{', '.join(names)}; files in {out} are as of the last evaluation "
                                    "(a lower lr or a grad_clip may help)")
            if recipe.ema:
                _update_average(average, model, min(recipe.ema, (1 + iteration) / (10 + iteration)))
            done = iteration + 1
            record = {"iteration": done, "lr": lr, "seconds": round(time.perf_counter() - began, 4), **logs}
            evaluated = done % recipe.eval_every == 0 or done == recipe.iterations
            began = time.perf_counter()
            if evaluated:
                scores = record["val_miou_present"] = evaluate(average, train_set, val_set, recipe, device)
                record["evaluation_seconds"] = round(time.perf_counter() - began, 4)
                began = time.perf_counter()
            print(json.dumps(record), file=log, flush=True)  # before the state: resuming cuts, but adds nothing
            if evaluated:
                if (mean := sum(scores.values()) / len(scores)) > best:
                    best = mean
                    save_checkpoint("best.safetensors", done)
                save_checkpoint("last.safetensors", done)
            if (stopping := stop.requested) or evaluated or done == end:
                save(done)
            bar.update()
            bar.set_postfix_str(f"loss {loss:.3f}" + "".join(f" {name} {value:.1f}" for name, value in scores.items()))
            if stopping:
                break
        if stop.requested and done < end:
            raise KeyboardInterrupt(f"stopped after iteration {done}; go on with --resume")
    return scores


def step(model: System, optimiser: torch.optim.Optimizer, batch: dict, recipe: Recipe, encodings: dict,
         weights: torch.Tensor | None, lr: float, device: torch.device) -> tuple[float, dict[str, float]]:
    """One iteration on one of batches.make_batch's. Returns the loss and what to log, with the gradient's norm.

    A non-finite loss or gradient changes no parameter.
    """
    images = normalise({name: image.to(device) for name, image in batch["images"].items()}, encodings)
    present, available = ({name: mask.to(device) for name, mask in batch[masks].items()}
                          for masks in ("present", "available"))
    labels = batch["labels"].to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        if recipe.loss == "system":
            loss, logs = model.loss({"images": images, "present": present, "available": available,
                                     "labels": labels})
        else:
            logits = model(images, present)
            loss = F.cross_entropy(logits.float(), labels, weights, ignore_index=255,
                                   label_smoothing=recipe.label_smoothing)
            logs = {"loss": loss.detach()}
    value = float(loss.detach())
    if not math.isfinite(value):
        return value, {}
    optimiser.zero_grad()
    loss.backward()
    norm = logs["grad_norm"] = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip or math.inf)
    if not math.isfinite(norm):
        return value, {"grad_norm": float(norm)}
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()
    return value, {name: round(float(value), 5) for name, value in logs.items()}


def evaluate(model: System, train_set: Dataset, val_set: Dataset, recipe: Recipe,
             device: torch.device) -> dict[str, float]:
    """mIoU (percent, classes present) on the val frames: each modality alone, and all together."""
    whole = checkpoints.Checkpoint(model, train_set.labels, train_set.encodings, val_set.image_size, {}, "")
    subsets = singles_and_all(recipe.modalities)
    scores = score_subsets(open_runtime(whole, device=str(device)), val_set, subsets)
    return {key(subset): round(100 * confusion.miou_present, 2) for subset, confusion in scores.items()}


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
