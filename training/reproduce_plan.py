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

PLAN: list[Run] = [
    Run("segformer_mean", "segformer_mean-mini"),
    Run("cmnext", "cmnext-mini"),
    Run("stitchfusion", "stitchfusion-mini"),
    Run("magic", "magic-mini"),
    Run("magic_plus", "magic_plus-mini"),
    Run("any2seg", "any2seg-mini"),
    Run("teacher", "segformer_mean-mini-teacher"),
    Run("anyseg", "anyseg-mini", teacher="teacher"),
    Run("robustseg", "robustseg-mini", teacher="teacher"),
    Run("equiseg", "equiseg-mini"),
    Run("charm", "charm-mini"),
    # what only the findings need
    Run("charm-a", "charm-a-mini"),
    Run("charm-b", "charm-b-mini"),
    Run("charm-c", "charm-c-mini"),
    Run("charm-d", "charm-d-mini"),
    Run("charm-uniform", "charm-uniform-mini"),
    Run("charm-softmax", "charm-softmax-mini"),
    Run("any2seg-balance", "any2seg-balance-mini"),
    Run("any2seg-selection", "any2seg-selection-mini"),
    Run("robustseg-matched", "robustseg-matched-mini", teacher="teacher"),
    Run("equiseg-no_guidance", "equiseg-no_guidance-mini"),
    Run("equiseg-no_addition", "equiseg-no_addition-mini"),
    Run("equiseg-no_attention", "equiseg-no_attention-mini"),
    Run("equiseg-lambda1", "equiseg-lambda1-mini"),
    # what else is worth a row
    Run("robustseg-zero", "robustseg-zero-mini", teacher="teacher"),
    Run("robustseg-letter", "robustseg-letter-mini", teacher="teacher"),
    Run("robustseg-long", "robustseg-long-mini", teacher="segformer_mean"),
    Run("robustseg-no_prototypes", "robustseg-no_prototypes-mini", teacher="teacher"),
    Run("robustseg-published_prototypes", "robustseg-published_prototypes-mini", teacher="teacher"),
    Run("charm-scores", "charm-scores-mini"),
    Run("charm-scores-softmax", "charm-scores-softmax-mini"),
    Run("charm-attention", "charm-attention-mini"),
    Run("charm-c-attention", "charm-c-attention-mini"),
    Run("charm-sigmoid", "charm-sigmoid-mini"),
    Run("charm-window4", "charm-window4-mini"),
    Run("charm-blocks4", "charm-blocks4-mini"),
    Run("charm-half_ine", "charm-half_ine-mini"),
]

QUICK: list[Run] = [Run("segformer_mean", "debug")]
"""Everything once in a minute, to see that it runs."""
