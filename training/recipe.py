"""What a recipe is: everything that decides the outcome of a training, and how `--set key=value` changes it."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from mss_models.modality import MODALITIES, canonical_order
from mss_models.systems import SYSTEMS
from training.transforms import DROPOUT_KINDS, Augment


class RecipeError(ValueError):
    """A recipe or one of its fields is unknown or has an impossible value. The message says what was meant."""


RANGES = {"head_width": (1, 1 << 16), "drop_path": (0, 0.99), "class_balance": (0, 10), "label_smoothing": (0, 0.99),
          "iterations": (1, 1 << 40), "lr": (0, 1e30), "weight_decay": (0, 1e30), "warmup": (0, 0.99),
          "lr_tail": (0, 1e30), "grad_clip": (0, 1e30), "ema": (0, 0.999999), "seed": (0, 1 << 62),
          "accumulate": (1, 1 << 16), "eval_every": (1, 1 << 40), "eval_frames": (1, 1 << 40)}
AUGMENT_RANGES = {"blur_sigma": (0, 10)} | dict.fromkeys(
    ("colour_jitter", "flip", "blur", "jitter_strength", "darken", "drop_intensity"), (0, 1))
"""Of a recipe's and its augment's numbers, both ends included."""


@dataclass(frozen=True)
class Phase:
    """Some of the iterations at one crop size: small and cheap first, full size at the end.

    `share` is relative to the other phases'. `scale`: range of the factor by which the scene is enlarged.
    """

    share: float = 1.0
    crop: int = 256
    batch: int = 8
    scale: tuple[float, float] = (0.5, 2.0)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training, given the data and, where one is needed, the teacher.

    Learning rate at iteration t, with T_w = warmup * iterations, T = (1 + lr_tail) * iterations and r = 0.1:
    lr (r + (1 - r) t / T_w) while t < T_w, then lr (1 - (t - T_w) / (T - T_w))^0.9. The defaults are the DELIVER
    recipe's: 10 of 200 epochs of warm-up, and a T that is one epoch longer than the training.
    """

    name: str
    system: str = "segformer_mean"
    backbone: str = "B0"
    head_width: int = 256
    drop_path: float = 0.1
    options: dict[str, Any] = field(default_factory=dict)  # further ones of the system's constructor
    modalities: tuple[str, ...] = ("rgb", "depth", "event", "lidar")
    data_variant: str = ""  # how the data are read, one of the data set's VARIANTS; '': its usual one
    loss: str = "system"  # 'system': its own, with all its terms; 'ce': cross-entropy of the logits alone, see below
    class_balance: float = 0.0  # 'ce': class weight = frequency^-class_balance, mean 1 over the labelled pixels
    label_smoothing: float = 0.0  # 'ce'
    modality_dropout: str = "none"  # 'none', 'sample' or 'batch', see transforms.draw_present
    teacher: str = ""  # of a student (AnySeg, RobustSeg): the recipe of its teacher, which is trained first
    text_teacher: str = ""  # of Any2Seg: sources of embeddings as for mss_models.teachers.open_teacher; '': without
    visual_teacher: str = ""
    iterations: int = 100_000
    phases: tuple[Phase, ...] = (Phase(),)
    lr: float = 6e-5
    weight_decay: float = 0.01  # not on parameters with one dimension (biases, norms)
    warmup: float = 10 / 200
    lr_tail: float = 1 / 200
    grad_clip: float = 0.0  # largest gradient norm; 0: no limit
    ema: float = 0.0  # decay of the averaged weights, which are then what is evaluated and saved; 0: no average
    augment: Augment = Augment()
    accumulate: int = 1  # micro-batches, one after another, that a process cuts its share of a batch into
    precision: str = "fp32"  # 'fp32', or autocast to 'bf16', or to 'fp16' with scaled gradients, on a GPU alone
    seed: int = 3407
    eval_every: int = 1000
    eval_frames: int = 100  # of the val split, evenly spread

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", canonical_order(self.modalities))
        for name, choices in {"loss": ("system", "ce"), "modality_dropout": DROPOUT_KINDS,
                              "precision": ("fp32", "bf16", "fp16")}.items():
            if getattr(self, name) not in choices:
                raise RecipeError(f"{name}={getattr(self, name)!r}; choose from {', '.join(choices)}")
        if not self.phases:
            raise RecipeError("phases is empty; at least one is needed")
        for node, ranges in ((self, RANGES), (self.augment, AUGMENT_RANGES)):
            for name, (low, high) in ranges.items():
                if not low <= getattr(node, name) <= high:  # NaN too
                    raise RecipeError(f"{name}={getattr(node, name)} must lie in {low:g}..{high:g}")
        if unknown := set(self.augment.nearest) - set(MODALITIES):
            raise RecipeError(f"augment.nearest: {sorted(unknown)} are unknown; known: {', '.join(MODALITIES)}")
        for phase in self.phases:
            if phase.share <= 0 or phase.crop < 32 or phase.batch < 1 or not 0 < phase.scale[0] <= phase.scale[1]:
                raise RecipeError(f"{phase}: needs share > 0, crop >= 32, batch >= 1, 0 < scale low <= high")

    def phase_at(self, iteration: int) -> Phase:
        """The phase that iteration 0 <= t < iterations belongs to."""
        return next(phase for phase, begin, end in self._phase_ranges() if iteration < end)

    def samples_before(self, iteration: int) -> int:
        """How many samples the iterations before this one have taken."""
        return sum(phase.batch * (min(iteration, end) - begin)
                   for phase, begin, end in self._phase_ranges() if begin < iteration)

    def _phase_ranges(self) -> Iterator[tuple[Phase, int, int]]:
        """(phase, first iteration, end) of each phase; together they cover all iterations."""
        share, begin, whole = 0.0, 0, sum(phase.share for phase in self.phases)
        for phase in self.phases:
            share += phase.share
            end = round(share / whole * self.iterations)
            yield phase, begin, end
            begin = end

    def lr_at(self, iteration: int) -> float:
        """Learning rate of iteration t, the formula in the class docstring."""
        warm = self.warmup * self.iterations
        if iteration < warm:
            return self.lr * (0.1 + 0.9 * iteration / warm)
        return self.lr * (1 - (iteration - warm) / ((1 + self.lr_tail) * self.iterations - warm)) ** 0.9


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with `key=value` settings applied. Dots reach inside: augment.flip=0, options.fusion=ffm.

    Values are YAML; an empty one is an error. Raises RecipeError naming the key or the value, and what is right.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not text:
            raise RecipeError(f"setting {setting!r} is not of the form key=value")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
            # PyYAML lets through what its constructors raise: ValueError for the date 2001-99-99
            raise RecipeError(f"{key}: {text[:60]!r} is no YAML value ({' '.join(str(error).split())})") from error
        recipe = _replaced(recipe, key.split("."), value, key)
    return with_checked_options(recipe)


def with_checked_options(recipe: Recipe) -> Recipe:
    """The recipe with its `options` in the types that the system's constructor has.

    Raises RecipeError for an option that the system does not have, naming those that it has, or of a wrong type.
    """
    if recipe.system not in SYSTEMS:
        raise RecipeError(f"no system {recipe.system!r}{hint(recipe.system, list(SYSTEMS))}")
    fields = [one.name for one in dataclasses.fields(Recipe)]
    known = {name: one.default for name, one in inspect.signature(SYSTEMS[recipe.system]).parameters.items()
             if name not in fields and one.default is not one.empty}
    options = {}
    for name, value in recipe.options.items():
        if name in fields:
            raise RecipeError(f"options.{name}: {name} is a field of the recipe itself, set {name}=...")
        if name not in known:
            raise RecipeError(f"system {recipe.system!r} has no option {name!r}{hint(str(name), list(known))}")
        options[name] = _converted(known[name], value, f"options.{name}")
    return dataclasses.replace(recipe, options=options)


def to_dict(recipe: Recipe) -> dict:
    """JSON-ready; what a run saves beside its checkpoints."""
    return dataclasses.asdict(recipe)


def hint(wrong: str, names: list[str]) -> str:
    """The end of an error message: which of the names was meant, if any is close, and all of them."""
    close = difflib.get_close_matches(wrong, names, 1)
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (there are: {', '.join(names)})"


def _replaced(node, path: list[str], value, key: str):
    """`node` (a dataclass, a tuple, the options or a value) with the thing at `path` replaced by `value`."""
    if not path:
        return _converted(node, value, key)
    first, rest = path[0], path[1:]
    if isinstance(node, tuple):
        if not first.isdigit() or int(first) >= len(node):
            raise RecipeError(f"{key}: {first!r} must be an index in 0..{len(node) - 1}")
        return tuple(_replaced(one, rest, value, key) if i == int(first) else one for i, one in enumerate(node))
    if isinstance(node, dict):
        if rest:
            raise RecipeError(f"{key}: give {first!r} as a whole")
        return {**node, first: value}  # checked when the system is known, see with_checked_options
    if not dataclasses.is_dataclass(node):
        raise RecipeError(f"{key}: {first!r} is looked for inside {node!r}, which has no fields")
    names = [one.name for one in dataclasses.fields(node)]
    if first not in names:
        raise RecipeError(f"no field {first!r} in {type(node).__name__}{hint(first, names)}")
    return dataclasses.replace(node, **{first: _replaced(getattr(node, first), rest, value, key)})


def _converted(old, value, key: str):
    """`value` as the type that `old` has. A tuple's items are checked against its first item."""
    if isinstance(old, tuple) and isinstance(value, list):
        return tuple(_converted(old[0], item, key) if old else item for item in value)
    if dataclasses.is_dataclass(old) and isinstance(value, dict):
        for name, item in value.items():
            old = _replaced(old, [name], item, f"{key}.{name}")
        return old
    if isinstance(old, bool) == isinstance(value, bool):
        if isinstance(old, float) and isinstance(value, (int, float)):
            return float(value)
        if isinstance(old, float) and isinstance(value, str):  # YAML reads 1e-3 as text: it wants 1.0e-3
            try:
                return float(value)
            except ValueError:
                pass
        if type(old) is type(value):
            return value
    raise RecipeError(f"{key}={value!r} should be like its present value, {old!r} ({type(old).__name__})")
