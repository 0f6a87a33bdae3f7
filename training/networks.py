"""A recipe's network, what it learns from, and its optimiser."""

from __future__ import annotations

from pathlib import Path

import torch

from mss_models import checkpoint as checkpoints
from mss_models.checkpoint import Checkpoint
from mss_models.importing import ImportingError, fill_encoder, read
from mss_models.system import System, create
from mss_models.systems.any2seg import Any2Seg
from mss_models.systems.anyseg import Student
from mss_models.teachers import TeacherError, open_teacher
from training.datasets.dataset import Dataset
from training.recipe import Recipe, RecipeError, with_checked_options
from training.run_folder import TrainingError


def make_model(recipe: Recipe, num_classes: int) -> System:
    """The recipe's network with random weights. Raises RecipeError where it names something unknown."""
    try:
        recipe = with_checked_options(recipe)
        return create(system=recipe.system, backbone=recipe.backbone, head_width=recipe.head_width,
                      drop_path=recipe.drop_path, modalities=recipe.modalities, num_classes=num_classes,
                      **recipe.options)
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name}: {error}") from error


def make_optimiser(model: System, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with weight decay on the parameters of two and more dimensions only."""
    parameters = list(model.parameters())
    groups = [{"params": [one for one in parameters if one.ndim > 1], "weight_decay": recipe.weight_decay},
              {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.999), eps=1e-8)


def start_from(model: System, path: Path, dataset: Dataset) -> str:
    """Copies weights into the model: all of a checkpoint's, or a published encoder's into its encoders.

    Returns the file's model_id. Raises TrainingError where the weights are for something else.
    """
    if is_checkpoint(path):
        given = _load(model, path, dataset, "--init", ("architecture",))
        model.load_state_dict(given.model.state_dict())
        return given.model_id
    try:
        fill_encoder(model, read(path))
    except ImportingError as error:
        raise TrainingError(f"--init {path}: {error}") from error
    return checkpoints.model_id(path.read_bytes())


def is_checkpoint(path: Path) -> bool:
    """Of ours; else it is a torch file with a published encoder's weights (mss_models.importing, kind mit)."""
    return path.suffix == ".safetensors"


def give_teacher(model: System, path: Path | None, recipe: Recipe, dataset: Dataset,
                 device: torch.device) -> str | None:
    """Names the model's teacher to it, if it learns from one. Returns its model_id, None without a network as teacher.

    path: the checkpoint for a student (AnySeg, RobustSeg). Any2Seg's sources are the recipe's. Raises TrainingError
    for a teacher that is missing, does not fit or is of no use, TeacherError for sources that cannot be opened.
    """
    if (recipe.text_teacher or recipe.visual_teacher) and not (isinstance(model, Any2Seg) and recipe.loss == "system"):
        raise RecipeError(f"recipe {recipe.name} sets text_teacher or visual_teacher, but {recipe.system} with "
                          f"loss={recipe.loss} learns from neither; any2seg with loss=system does")
    if isinstance(model, Any2Seg) and recipe.loss == "system":
        model.learn_from(open_teacher(dataset.labels, dataset.encodings, recipe.text_teacher or None,
                                      recipe.visual_teacher or None, device))
    needed = isinstance(model, Student) and recipe.loss == "system"
    if path is None and needed:
        first = f"train {recipe.teacher!r} on the same data" if recipe.teacher else "train a segformer_mean"
        raise TrainingError(f"recipe {recipe.name} learns from a teacher: {first}, and give its last.safetensors as "
                            "--teacher")
    if path is None:
        return None
    if not needed:
        raise TrainingError(f"--teacher {path}: recipe {recipe.name} ({recipe.system} with loss={recipe.loss}) learns "
                            "from no network; leave it out")
    given = _load(model, path, dataset, "--teacher", ("modalities",))
    try:
        model.learn_from(given.model)
    except TeacherError as error:
        raise TrainingError(f"--teacher {path}: {error}") from error
    return given.model_id


def _load(model: System, path: Path, dataset: Dataset, option: str, attributes: tuple[str, ...]) -> Checkpoint:
    """A checkpoint of this data's labels and encodings whose model has the model's `attributes`, or TrainingError."""
    given = checkpoints.load(path)
    pairs = [(name, getattr(given.model, name), getattr(model, name)) for name in attributes]
    if given.labels != dataset.labels:
        raise TrainingError(f"{option} {path}: its label set and this data's differ: "
                            + given.labels.difference(dataset.labels))
    pairs += [(f"encoding of {name}", given.encodings.get(name), one) for name, one in dataset.encodings.items()]
    for what, theirs, ours in pairs:
        if theirs != ours:
            raise TrainingError(f"{option} {path}: its {what} is {theirs}, and this training's is {ours}")
    return given
