"""One iteration: the batch in micro-batches, forward, backward, one step of the optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.losses import IGNORE_ID
from mss_models.modality import Encoding
from mss_models.system import System
from training.distributed import Group
from training.recipe import Recipe, RecipeError
from training.transforms import normalise

LEAST_SCALE = 1.0  # of fp16's gradients. It is halved at every overflow: below this the network itself overflows.


class Objective(nn.Module):
    """A batch's loss as a module's forward, through which torch averages the gradients of several processes."""

    def __init__(self, model: System, recipe: Recipe, weights: Tensor | None = None) -> None:
        """weights: of the classes, (K,), for loss 'ce'."""
        super().__init__()
        self.model, self.recipe = model, recipe
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, batch: Mapping) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch as System.loss takes it, and detached scalars to log."""
        if self.recipe.loss == "system":
            return self.model.loss(batch)
        logits, labels = self.model(batch["images"], batch["present"]).float(), batch["labels"]
        if bool((labels == IGNORE_ID).all()):  # torch's mean over nothing is NaN
            loss = 0.0 * logits.sum()
        else:
            loss = F.cross_entropy(logits, labels, self.weights, ignore_index=IGNORE_ID,
                                   label_smoothing=self.recipe.label_smoothing)
        return loss, {"loss": loss.detach()}


class Stepper:
    """Trains a model, iteration by iteration.

    A batch is cut into as many equal micro-batches as the processes work on together, `accumulate` each, and the loss
    is the mean of theirs: so many processes with one each learn what one process learns that accumulates as many. (Not
    bit for bit, and dropout draws differ; the running statistics of batch norms are those of rank 0's micro-batches.)
    """

    def __init__(self, model: System, optimiser: torch.optim.Optimizer, recipe: Recipe,
                 encodings: Mapping[str, Encoding], device: torch.device, weights: Tensor | None = None,
                 group: Group | None = None) -> None:
        """Raises RecipeError, see check_steps."""
        self.group = group or Group()
        self.optimiser, self.recipe, self.encodings, self.device = optimiser, recipe, encodings, device
        check_steps(recipe, device, self.group.size)
        self.parameters = list(model.parameters())
        self.objective = self.group.wrap(Objective(model, recipe, weights).to(device))
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")

    def step(self, batch: Mapping, lr: float) -> tuple[float, dict[str, float]]:
        """One iteration on this process's part of a batch (batches.make_batch). Returns the loss, the mean over all
        processes, and what to log: this process's terms, and the gradient's norm.

        A non-finite loss or gradient changes no parameter; with fp16 a gradient is let pass where only its scale was
        too large, and the log says so as `overflow`.
        """
        self.optimiser.zero_grad()
        parts = self.micro_batches(batch)
        value, logs = torch.zeros((), device=self.device), {}
        for number, part in enumerate(parts, 1):
            last = number == len(parts) or self.group.size == 1
            with nullcontext() if last else self.objective.no_sync():  # gradients are averaged once
                with torch.autocast(self.device.type, torch.float16 if self.recipe.precision == "fp16" else
                                    torch.bfloat16, enabled=self.recipe.precision != "fp32"):
                    loss, terms = self.objective(part)
                self.scaler.scale(loss / len(parts)).backward()
            value += loss.detach() / (len(parts) * self.group.size)
            for name, term in terms.items():
                logs[name] = logs.get(name, 0.0) + float(term) / len(parts)
        mean = float(self.group.total(value))
        if not math.isfinite(mean):
            return mean, {}
        logs["loss"] = mean
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.grad_clip or math.inf)
        logs["grad_norm"] = float(norm)
        if not math.isfinite(logs["grad_norm"]) and not self.scaler.is_enabled():
            return mean, logs
        for one in self.optimiser.param_groups:
            one["lr"] = lr
        self.scaler.step(self.optimiser)  # not where the scale was too large
        self.scaler.update()
        if not math.isfinite(logs["grad_norm"]) and self.scaler.get_scale() >= LEAST_SCALE:
            logs |= {"grad_norm": 0.0, "overflow": 1.0}
        return mean, {name: round(term, 5) for name, term in logs.items()}

    def micro_batches(self, batch: Mapping) -> list[dict]:
        """A batch's equal parts, normalised and on the device."""
        count = len(batch["labels"]) // self.recipe.accumulate
        parts = []
        for i in range(self.recipe.accumulate):
            cut = slice(i * count, (i + 1) * count)
            images = {name: image[cut].to(self.device) for name, image in batch["images"].items()}
            masks = {kind: {name: mask[cut].to(self.device) for name, mask in batch[kind].items()}
                     for kind in ("present", "available")}
            parts.append({"images": normalise(images, self.encodings), **masks,
                          "labels": batch["labels"][cut].to(self.device)})
        return parts


def check_steps(recipe: Recipe, device: torch.device, processes: int) -> None:
    """Raises RecipeError for a batch that cannot be cut into equal micro-batches, and for fp16 without a GPU."""
    if recipe.precision == "fp16" and device.type != "cuda":
        raise RecipeError(f"precision=fp16 needs a GPU, and the device is {device}; bf16 works here")
    parts = processes * recipe.accumulate
    for phase in recipe.phases:
        if phase.batch % parts:
            raise RecipeError(f"a batch of {phase.batch} cannot be cut into {parts} equal parts ({processes} "
                              f"process(es), accumulate={recipe.accumulate})")
