"""Named experiments: frozen dataclasses in one plain list. `python -m training.train NAME --set field=value ...`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import yaml

from mss_models.modality import MODALITIES, canonical_order
from training.transforms import DROPOUT_KINDS, Augment


class RecipeError(ValueError):
    """A recipe or one of its fields is unknown or has an impossible value. The message says what was meant."""


RANGES = {"head_width": (1, 1 << 16), "drop_path": (0, 0.99), "class_balance": (0, 10), "label_smoothing": (0, 0.99),
          "iterations": (1, 1 << 40), "lr": (0, 1e30), "weight_decay": (0, 1e30), "warmup": (0, 0.99),
          "lr_tail": (0, 1e30), "grad_clip": (0, 1e30), "ema": (0, 0.999999), "seed": (0, 1 << 62),
          "eval_every": (1, 1 << 40), "eval_frames": (1, 1 << 40)}
AUGMENT_RANGES = dict.fromkeys(("colour_jitter", "flip", "blur", "jitter_strength", "darken", "drop_intensity"), (0, 1))
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
    """Everything that decides the outcome of a training, given the data.

    Learning rate at iteration t, with T_w = warmup * iterations, T = (1 + lr_tail) * iterations and r = 0.1:
    lr (r + (1 - r) t / T_w) while t < T_w, then lr (1 - (t - T_w) / (T - T_w))^0.9. The defaults are the DELIVER
    recipe's: 10 of 200 epochs of warm-up, and a T that is one epoch longer than the training.
    """

    name: str
    system: str = "segformer_mean"
    backbone: str = "B0"
    head_width: int = 256
    drop_path: float = 0.1
    modalities: tuple[str, ...] = ("rgb", "depth", "event", "lidar")
    loss: str = "system"  # 'system': its own, with all its terms; 'ce': cross-entropy of the logits alone, see below
    class_balance: float = 0.0  # 'ce': class weight = frequency^-class_balance, mean 1 over the labelled pixels
    label_smoothing: float = 0.0  # 'ce'
    modality_dropout: str = "none"  # 'none', 'sample' or 'batch', see transforms.draw_present
    iterations: int = 100_000
    phases: tuple[Phase, ...] = (Phase(),)
    lr: float = 6e-5
    weight_decay: float = 0.01  # not on parameters with one dimension (biases, norms)
    warmup: float = 10 / 200
    lr_tail: float = 1 / 200
    grad_clip: float = 0.0  # largest gradient norm; 0: no limit
    ema: float = 0.0  # decay of the averaged weights, which are then what is evaluated and saved; 0: no average
    augment: Augment = Augment()
    precision: str = "fp32"  # 'fp32' or 'bf16' (autocast)
    seed: int = 3407
    eval_every: int = 1000
    eval_frames: int = 100  # of the val split, evenly spread

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", canonical_order(self.modalities))
        for field, choices in {"loss": ("system", "ce"), "modality_dropout": DROPOUT_KINDS,
                               "precision": ("fp32", "bf16")}.items():
            if getattr(self, field) not in choices:
                raise RecipeError(f"{field}={getattr(self, field)!r}; choose from {', '.join(choices)}")
        if not self.phases:
            raise RecipeError("phases is empty; at least one is needed")
        for node, ranges in ((self, RANGES), (self.augment, AUGMENT_RANGES)):
            for field, (low, high) in ranges.items():
                if not low <= getattr(node, field) <= high:  # NaN too
                    raise RecipeError(f"{field}={getattr(node, field)} must lie in {low:g}..{high:g}")
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


RECIPES: list[Recipe] = [
    # The shipped network: from scratch on our own recordings, in about 40 minutes of two CPU cores with bf16 units.
    # Not a paper's recipe: SegFormer-mean with modality dropout, which the papers' baseline does not have. Most of the
    # scenes are seen at half size, which costs a quarter; the last third at the size that the network will be used at.
    Recipe(
        name="segformer_mean-b0-demo", head_width=128, drop_path=0.0, loss="ce", class_balance=0.4,
        modality_dropout="sample", iterations=1500, lr=1.5e-3, weight_decay=0.05, warmup=0.05, grad_clip=1.0,
        ema=0.998, augment=Augment(darken=0.15), precision="bf16", eval_every=375, eval_frames=48,
        phases=(Phase(0.64, crop=128, batch=16, scale=(0.4, 0.8)), Phase(0.36, crop=256, batch=8, scale=(0.8, 1.5))),
    ),
    # Seconds on a CPU: does everything once, learns next to nothing.
    Recipe(
        name="debug", head_width=32, drop_path=0.0, modality_dropout="sample", iterations=4, lr=1e-3, ema=0.5,
        phases=(Phase(0.5, crop=32, batch=2), Phase(0.5, crop=64, batch=2)), eval_every=2, eval_frames=2,
    ),
]


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises RecipeError that lists the names."""
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise RecipeError(f"no recipe {name!r}{_hint(name, [one.name for one in RECIPES])}")


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with `key=value` settings applied. Dots reach inside: augment.flip=0, phases.1.batch=4.

    Values are YAML; an empty one is an error. Raises RecipeError naming the key or the value, and what is right.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not text:
            raise RecipeError(f"setting {setting!r} is not of the form key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"{key}: {text!r} is no YAML value ({error})") from error
        recipe = _replaced(recipe, key.split("."), value, key)
    return recipe


def to_dict(recipe: Recipe) -> dict:
    """JSON-ready; what a run saves beside its checkpoints."""
    return dataclasses.asdict(recipe)


def _replaced(node, path: list[str], value, key: str):
    """`node` (a dataclass, a tuple or a value) with the thing at `path` replaced by `value`."""
    if not path:
        return _converted(node, value, key)
    first, rest = path[0], path[1:]
    if isinstance(node, tuple):
        if not first.isdigit() or int(first) >= len(node):
            raise RecipeError(f"{key}: {first!r} must be an index in 0..{len(node) - 1}")
        return tuple(_replaced(one, rest, value, key) if i == int(first) else one for i, one in enumerate(node))
    if not dataclasses.is_dataclass(node):
        raise RecipeError(f"{key}: {first!r} is looked for inside {node!r}, which has no fields")
    names = [one.name for one in dataclasses.fields(node)]
    if first not in names:
        raise RecipeError(f"no field {first!r} in {type(node).__name__}{_hint(first, names)}")
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


def _hint(wrong: str, names: list[str]) -> str:
    close = difflib.get_close_matches(wrong, names, 1)
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (there are: {', '.join(names)})"
