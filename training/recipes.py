"""Named experiments: frozen dataclasses in one plain list. `python -m training.train NAME --set field=value ...`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from training.recipe import Phase, Recipe, RecipeError, hint
from training.transforms import Augment

STUDENT: dict[str, Any] = {"modality_dropout": "batch"}  # n ~ U{1..M}, one random subset of n for the whole batch

# RobustSeg's regularisation, of one perturbed pixel. The letter's, of the mean over a map, is 1.5e8 beside an OHEM of
# 1.8 on images of 256 x 256, and grows with the square of their pixels: the encoder would learn from nothing else. In
# the paper's ablation it is worth 0.1 points. What the letter leads to is robustseg-letter-mini.
POINT: dict[str, Any] = {"regularisation": "point"}

# --- the public data sets --------------------------------------------------------------------------------------------


def published(name: str, frames: int, epochs: int, batch: int, **changes: Any) -> Recipe:
    """What all the papers share, CMNeXt's: 10 epochs of warm-up, and a schedule that is one epoch too long."""
    epoch = frames // batch  # iterations
    return Recipe(name=name, iterations=epochs * epoch, lr=6e-5, weight_decay=0.01, warmup=10 / epochs,
                  lr_tail=1 / epochs, eval_every=10 * epoch, **changes)


def mcubes(epochs: int, batch: int) -> Recipe:
    """CMNeXt's loader, whose "val" is split test; `--set data_variant=own` evaluates on split val."""
    return published("mcubes", 302, epochs, batch, phases=(Phase(crop=512, batch=batch, scale=(0.25, 1.0)),),
                     augment=Augment(colour_jitter=0, blur=0.5, blur_sigma=1, nearest=()), eval_frames=102,
                     modalities=("rgb", "aolp", "dolp", "nir"), data_variant="published")


BASES = [
    # 4 GPUs with 2 images each (Any2Seg: 8 with 1). The papers evaluate on split val every epoch, with fewer subsets.
    # CMNeXt's loader scales the short side of 1042 pixels to 0.5 to 2 times the crop's.
    published("deliver", 3983, epochs=200, batch=8,
              phases=(Phase(crop=1024, batch=8, scale=(0.5 * 1024 / 1042, 2 * 1024 / 1042)),),
              augment=Augment(nearest=()), eval_frames=2005),
    # As on DELIVER (EQUISeg and RobustSeg say so), with the papers' three modalities and their code's loader, which
    # takes void for road. `--set data_variant=raw` learns from the sensors instead.
    published("muses", 1500, epochs=200, batch=8, phases=(Phase(crop=1024, batch=8, scale=(0.5, 2.0)),),
              augment=Augment(nearest=()), eval_frames=250, modalities=("rgb", "event", "lidar"),
              data_variant="published"),
]
MCUBES_CMNEXT = mcubes(epochs=500, batch=4)  # its configuration; its README runs it on 4 GPUs, each with a batch of 4
MCUBES: dict[str, Recipe] = {  # systems whose papers (StitchFusion: its code, for B4) tell other than CMNeXt's
    "stitchfusion": mcubes(epochs=400, batch=8),
    # 8 in all. RobustSeg's text has crops of 1024 on all data sets, its loader of MCubeS 512.
    **dict.fromkeys(("any2seg", "segformer_mean", "anyseg", "robustseg"), mcubes(epochs=200, batch=8)),
}
HEAD_WIDTHS = {  # of B0 and B2. CHARM and EQUISeg do not publish theirs: as CMNeXt, with which EQUISeg compares
    "segformer_mean": (768, 768), "anyseg": (768, 768), "robustseg": (768, 768),  # RobustSeg's code
    "magic": (256, 256), "magic_plus": (256, 256), "any2seg": (256, 256),  # what their parameter counts fit
    "cmnext": (256, 512), "stitchfusion": (256, 512), "equiseg": (256, 512), "charm": (256, 512),
    "geminifusion": (256, 512),  # its code means 256 for B0, but never finds the name
}
STITCHFUSION: dict[str, Any] = {  # its 68.18; trained with automatic mixed precision
    "options": {"adapters": ("none", "none", "undirected", "undirected")}, "precision": "bf16"}
GEMINIFUSION: dict[str, Any] = {"lr": 2e-4, "drop_path": 0.2}  # its code's with four modalities; with two 0.4


def full(system: str, name: str = "", **changes: Any) -> list[Recipe]:
    """The system as its paper trains it on each data set, with B0 and B2, from random weights (`--init`: others)."""
    return [replace(base, name=f"{name or system}-{base.name}-{backbone.lower()}", system=system, backbone=backbone,
                    head_width=width, **changes)
            for base in (*BASES, MCUBES.get(system, MCUBES_CMNEXT))
            for backbone, width in zip(("B0", "B2"), HEAD_WIDTHS[system], strict=True)]


def full_student(system: str, **changes: Any) -> list[Recipe]:
    """As `full`, of a system that learns from the SegFormer-mean of the same backbone and data set."""
    return [replace(one, teacher="-".join(["segformer_mean", *one.name.split("-")[-2:]]))
            for one in full(system, **STUDENT | changes)]


# --- the synthetic world ---------------------------------------------------------------------------------------------

MINI = Recipe(  # the same for all systems, chosen before any was compared. 6 to 19 minutes of a CPU core.
    name="mini", head_width=128, drop_path=0.0, iterations=600, lr=1e-3, weight_decay=0.05, warmup=0.05, grad_clip=1.0,
    ema=0.99, eval_every=150, eval_frames=24,
    phases=(Phase(0.75, crop=128, batch=8, scale=(0.4, 0.8)), Phase(0.25, crop=256, batch=4, scale=(0.8, 1.5))),
)
MINI_TEACHER = replace(MINI, name="segformer_mean-mini-teacher", iterations=MINI.iterations // 2)


def mini(system: str, name: str = "", **changes: Any) -> Recipe:
    """The system on the synthetic world."""
    return replace(MINI, name=f"{name or system}-mini", system=system, **changes)


def mini_student(system: str, name: str = "", **changes: Any) -> Recipe:
    """As `mini`, of a system that learns from a teacher, whose iterations count in the budget."""
    return mini(system, name, **STUDENT | changes, teacher=MINI_TEACHER.name,
                iterations=MINI.iterations - MINI_TEACHER.iterations)


# LSCD without its visual teacher, LanguageBind, whose files are the user's own.
TEXTS: dict[str, Any] = {"text_teacher": "minilm-deliver"}

# The shipped network: from scratch on our own recordings, in 20 to 40 minutes of a CPU core. Not a paper's recipe: with
# modality dropout, which the papers' baseline and MAGIC do not have. Most of the scenes are seen at half size, which
# costs a quarter; the last third at the size that the network will be used at.
DEMO = Recipe(
    name="segformer_mean-b0-demo", head_width=128, drop_path=0.0, loss="ce", class_balance=0.4,
    modality_dropout="sample", iterations=1500, lr=1.5e-3, weight_decay=0.05, warmup=0.05, grad_clip=1.0,
    ema=0.998, augment=Augment(darken=0.15, drop_intensity=0.2), precision="bf16", eval_every=375, eval_frames=48,
    phases=(Phase(0.64, crop=128, batch=16, scale=(0.4, 0.8)), Phase(0.36, crop=256, batch=8, scale=(0.8, 1.5))),
)

PAPERS: list[Recipe] = [  # on the public data, from random weights unless --init gives an encoder
    *full("segformer_mean"),
    *full("cmnext"),
    *full("stitchfusion", **STITCHFUSION),
    *full("magic"),
    *full("magic_plus"),
    *full("any2seg"),
    *full_student("anyseg"),
    *full_student("robustseg", options=POINT),
    # The published EMM scores come from such a training.
    *full_student("robustseg", name="robustseg-zero", options=POINT | {"missing": "zero"}),
    *full("equiseg"),
    *full("charm"),
    *full("geminifusion", **GEMINIFUSION),
]

# Who trains with modalities missing: the students alone, and the demo's networks.
RECIPES: list[Recipe] = [
    DEMO,
    replace(DEMO, name="magic-b0-demo", system="magic"),
    # Seconds on a CPU: does everything once, learns next to nothing.
    Recipe(
        name="debug", head_width=32, drop_path=0.0, modality_dropout="sample", iterations=4, lr=1e-3, ema=0.5,
        phases=(Phase(0.5, crop=32, batch=2), Phase(0.5, crop=64, batch=2)), eval_every=2, eval_frames=2,
    ),
    mini("segformer_mean"),
    MINI_TEACHER,
    mini("cmnext"),
    mini("stitchfusion"),
    mini("magic"),
    mini("magic_plus"),
    mini("any2seg", **TEXTS),
    *[mini("any2seg", f"any2seg-{one}", options={"fusion": one}, **TEXTS) for one in ("balance", "selection")],
    mini_student("anyseg"),
    mini_student("robustseg", options=POINT),
    mini_student("robustseg", "robustseg-zero", options=POINT | {"missing": "zero"}),
    mini_student("robustseg", "robustseg-matched", options=POINT | {"pairing": "matched"}),
    mini_student("robustseg", "robustseg-letter", options={"regularisation": "mean"}),
    # second looks at F4 and F5: without prototypes; with the released code's, divided once more and so next to nothing
    mini_student("robustseg", "robustseg-no_prototypes", options=POINT | {"prototype_weight": 0.0}),
    mini_student("robustseg", "robustseg-published_prototypes", options=POINT | {"published_prototypes": True}),
    # Twice the budget: both train as long as the others. In the paper, too, the student has its teacher's iterations.
    mini("robustseg", "robustseg-long", **STUDENT, teacher="segformer_mean-mini", options=POINT),
    mini("equiseg"),
    mini("equiseg", "equiseg-no_guidance", options={"guidance": "none"}),
    mini("equiseg", "equiseg-no_addition", options={"addition": False}),
    mini("equiseg", "equiseg-no_attention", options={"cross_attention": False}),
    mini("equiseg", "equiseg-lambda1", options={"guidance_weight": 1.0}),
    mini("charm"),
    *[mini("charm", f"charm-{one}", options={"variant": one}) for one in "abcd"],
    *[mini("charm", f"charm-{one}", options={"sampling": one}) for one in ("uniform", "softmax")],
    # what the paper leaves open, see docs/systems.md
    mini("charm", "charm-sigmoid", options={"robustness": "sigmoid"}),
    mini("charm", "charm-window4", options={"window": 4}),
    mini("charm", "charm-blocks4", options={"blocks": 4}),
    mini("charm", "charm-half_ine", options={"ine_weight": 0.5}),
    # second looks at F3 and F1: sampling by scores that are not bounded; MPUs to the letter
    mini("charm", "charm-scores", options={"sampled_by": "scores"}),
    mini("charm", "charm-scores-softmax", options={"sampled_by": "scores", "sampling": "softmax"}),
    mini("charm", "charm-attention", options={"unit": "attention"}),
    mini("charm", "charm-c-attention", options={"variant": "c", "unit": "attention"}),
    mini("geminifusion"),
    *PAPERS,
]


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises RecipeError that lists the names."""
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise RecipeError(f"no recipe {name!r}{hint(name, [one.name for one in RECIPES])}")


def listing() -> str:
    """A line per recipe: name, backbone, iterations, crops and batch sizes, modality dropout, options, teacher."""
    rows = [("recipe", "backbone", "iterations", "crop x batch", "dropout", "options and teacher")]
    for one in RECIPES:
        phases = ", ".join(f"{phase.crop} x {phase.batch}" for phase in one.phases)
        notes = [f"{key}={','.join(value) if isinstance(value, tuple) else value}"
                 for key, value in one.options.items()]
        notes += [f"learns from {one.teacher}"] if one.teacher else []
        rows.append((one.name, one.backbone, str(one.iterations), phases, one.modality_dropout, "; ".join(notes)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)
