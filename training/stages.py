"""A student and its teacher as one training: the teacher first, into RUN/teacher, and then the student, into RUN."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.loop import train
from training.networks import is_checkpoint, make_model
from training.recipe import Recipe, RecipeError, override, to_dict
from training.recipes import find_recipe
from training.run_folder import TrainingError, seconds_spent

FOLDER = "teacher"
SHARED = ("backbone", "modalities", "data_variant", "precision", "seed")
"""The fields that a teacher takes over from its student's recipe."""


def resolve(recipe: Recipe, settings: Sequence[str] = ()) -> tuple[Recipe, Recipe | None]:
    """The recipe with `key=value` settings applied, and its teacher's, None where it learns from no other recipe.

    Settings `teacher.key=value` change the teacher's. Raises RecipeError.
    """
    own = override(recipe, [one for one in settings if not one.startswith("teacher.")])
    theirs = [one.removeprefix("teacher.") for one in settings if one.startswith("teacher.")]
    if not own.teacher or own.loss != "system":
        if theirs:
            raise RecipeError(f"teacher.{theirs[0]}: recipe {own.name} with loss={own.loss} has no teacher to change")
        return own, None
    teacher = dataclasses.replace(find_recipe(own.teacher), **{name: getattr(own, name) for name in SHARED})
    return own, override(teacher, theirs)


def train_stages(recipe: Recipe, first: Recipe | None, data: Path, out: Path, *, resume: bool = False,
                 teacher: Path | None = None, init: Path | None = None, **options: Any) -> dict:
    """Trains `first`, if there is one and no `teacher` is given, and `recipe` after it, with its last checkpoint.

    Both as in `resolve`. resume: go on in whichever stage was interrupted. init: a published encoder, from which both
    start. options: of loop.train, whose errors this raises. The student's checkpoints say in their card, under
    `stages_before`, what the teacher was and cost.
    """
    if first is None or teacher is not None:
        return train(recipe, data, out, resume=resume, teacher=teacher, init=init, **options)
    if init is not None and is_checkpoint(init):
        raise TrainingError(f"--init {init}: a checkpoint is a start for the student alone, and its teacher would have "
                            "none; give a --teacher, too, or an encoder's published weights")
    with torch.device("meta"):
        make_model(recipe, 2)  # an option that is wrong is better found before the teacher is trained
    begun = {folder: (folder / "state.pt").exists() for folder in (out / FOLDER, out)}
    if resume and not any(begun.values()):
        raise TrainingError(f"{out} holds no state to resume, nor does {out / FOLDER}, its teacher's")
    if not resume and (found := [folder for folder, there in begun.items() if there]):
        raise TrainingError(f"{found[0]} holds a run already; go on with --resume, or choose another --out")
    shared = {name: value for name, value in options.items() if name != "stop_at"}
    if begun[out] and not begun[out / FOLDER]:
        raise TrainingError(f"{out} was trained with a teacher from elsewhere; give it again as --teacher")
    train(first, data, out / FOLDER, resume=begun[out / FOLDER], init=init, **shared)
    before = [{"recipe": to_dict(first), "iterations": first.iterations, "seconds": seconds_spent(out / FOLDER)}]
    return train(recipe, data, out, resume=begun[out], teacher=out / FOLDER / "last.safetensors", before=before,
                 init=init, **options)
