"""The runs that docs/results.md is made of."""

from __future__ import annotations

from dataclasses import dataclass

SEEDS = (1, 2, 3)
PROTOCOLS = ("any-modal", "emm", "rmm-0.5", "nm")


@dataclass(frozen=True)
class Run:
    """A training and its evaluation, once per seed.

    name: in files and tables. recipe and settings: as `training.train RECIPE --set ...`. teacher: the run whose
    checkpoint it learns from; all students of a seed share it, and its iterations count in the budget of each.
    """

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    teacher: str = ""


TABLE = ("segformer_mean", "cmnext", "stitchfusion", "magic", "magic_plus", "any2seg", "anyseg", "robustseg", "equiseg",
         "charm")
"""The rows of the table, one per system."""


def mini(name: str, teacher: str = "") -> Run:
    """The run of recipe NAME-mini."""
    return Run(name, f"{name}-mini", teacher=teacher)


PLAN: list[Run] = [
    mini("segformer_mean"),
    mini("cmnext"),
    mini("stitchfusion"),
    mini("magic"),
    mini("magic_plus"),
    mini("any2seg"),
    Run("teacher", "segformer_mean-mini-teacher"),
    mini("anyseg", teacher="teacher"),
    mini("robustseg", teacher="teacher"),
    mini("equiseg"),
    mini("charm"),
    # what only the findings need
    mini("charm-a"),
    mini("charm-b"),
    mini("charm-c"),
    mini("charm-d"),
    mini("charm-uniform"),
    mini("charm-softmax"),
    mini("any2seg-balance"),
    mini("any2seg-selection"),
    mini("robustseg-matched", teacher="teacher"),
    mini("equiseg-no_guidance"),
    mini("equiseg-no_addition"),
    mini("equiseg-no_attention"),
    mini("equiseg-lambda1"),
    # what else is worth a row
    mini("robustseg-zero", teacher="teacher"),
    mini("robustseg-letter", teacher="teacher"),
    mini("robustseg-long", teacher="segformer_mean"),
    mini("robustseg-no_prototypes", teacher="teacher"),
    mini("robustseg-published_prototypes", teacher="teacher"),
    mini("charm-scores"),
    mini("charm-scores-softmax"),
    mini("charm-attention"),
    mini("charm-c-attention"),
    mini("charm-sigmoid"),
    mini("charm-window4"),
    mini("charm-blocks4"),
    mini("charm-half_ine"),
]

QUICK: list[Run] = [Run("segformer_mean", "debug")]
"""Everything once in a minute, to see that it runs."""
