"""The papers' findings as rules, fixed before the runs that decide them.

A claim is a number per seed, the margin, from the figures of named runs with that seed; it holds where the margin is
above 0 in the mean and in every seed that was run. A finding holds where all its claims do. Figures are percent of
mIoU over the classes present (`miou_present`), on split test, of the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

CONVENTION = "miou_present"

Results = Mapping[str, Mapping]
"""Run name -> its result file's content, all of one seed."""


def figure(result: Mapping, name: str) -> float:
    """A figure of a run, in percent.

    name: average, top1, last1 and all of any-modal; emm (average); rmm (average at rate 0.5); nm_low, nm_mid, nm_high;
    prior (the per-pixel class prior); or a subset of any-modal such as 'event' or 'rgb+lidar'.
    """
    figures = result["figures"]
    if name in ("average", "top1", "last1"):
        return figures["summary"][CONVENTION][name]
    if name == "all":
        return list(figures["subsets"].values())[-1][CONVENTION]
    if name == "emm":
        return figures["emm"][CONVENTION]["average"]
    if name == "rmm":
        return figures["rmm"]["0.5"][CONVENTION]["average"]
    if name.startswith("nm_"):
        return figures["nm"][name.removeprefix("nm_")][CONVENTION]
    if name == "prior":
        return figures["prior"][CONVENTION]
    return figures["subsets"][name][CONVENTION]


@dataclass(frozen=True)
class Claim:
    """text: what is claimed. runs: that it needs. margin: of one seed's results, above 0 as claimed. note: what else
    is reported of a seed."""

    text: str
    runs: tuple[str, ...]
    margin: Callable[[Results], float]
    note: Callable[[Results], str] | None = None


@dataclass(frozen=True)
class Finding:
    number: str
    text: str
    claims: tuple[Claim, ...]


def more(better: str, worse: str, name: str) -> Claim:
    """Run `better` has more of the figure than run `worse`."""
    return Claim(f"{name} of {better} > {worse}", (better, worse),
                 lambda results: figure(results[better], name) - figure(results[worse], name))


def at_most_less(run: str, other: str, name: str, points: float) -> Claim:
    """Run `run` has at most so many points less of the figure than run `other`."""
    return Claim(f"{name} of {run} >= {other} - {points:g}", (run, other),
                 lambda results: figure(results[run], name) - figure(results[other], name) + points)


def rises_more(after: str, before: str, name: str, other: str) -> Claim:
    """From run `before` to run `after`, the one figure rises by more than the other."""
    def margin(results: Results) -> float:
        one, two = (figure(results[after], what) - figure(results[before], what) for what in (name, other))
        return one - two
    return Claim(f"from {before} to {after}, {name} rises by more than {other}", (after, before), margin)


def more_on_weakest(better: str, worse: str, judge: str, count: int) -> Claim:
    """Run `better` has more than `worse` in the mean of the single modalities that run `judge` is worst with."""
    def weakest(results: Results) -> list[str]:
        subsets = results[judge]["figures"]["subsets"]
        singles = [name for name in subsets if "+" not in name]
        return sorted(singles, key=lambda name: figure(results[judge], name))[:count]

    def margin(results: Results) -> float:
        return float(np.mean([figure(results[better], one) - figure(results[worse], one) for one in weakest(results)]))
    return Claim(f"mean of the {count} single modalities that {judge} is worst with: {better} > {worse}",
                 (better, worse, judge), margin, lambda results: " and ".join(weakest(results)))


def collapses(run: str, share: float) -> Claim:
    """Without its dominant modality, the one whose absence costs most, less than `share` of the score is left."""
    def without(results: Results) -> dict[str, float]:
        subsets = list(results[run]["figures"]["subsets"])
        every = subsets[-1].split("+")
        return {one: figure(results[run], "+".join(other for other in every if other != one)) for one in every}

    def margin(results: Results) -> float:
        return share * figure(results[run], "all") - min(without(results).values())

    def note(results: Results) -> str:
        left = without(results)
        dominant = min(left, key=left.__getitem__)
        return f"dominant: {dominant}, {figure(results[run], 'all'):.1f} with all, {left[dominant]:.1f} without it"
    return Claim(f"{run} without its dominant modality has less than {share:.0%} of its score with all", (run,), margin,
                 note)


def near_prior(run: str, points: float) -> Claim:
    """The run's Last-1 is within so many points above what the class prior scores, or below it."""
    return Claim(f"last1 of {run} < prior + {points:g}", (run,),
                 lambda results: figure(results[run], "prior") + points - figure(results[run], "last1"),
                 lambda results: f"last1 {figure(results[run], 'last1'):.1f}, "
                                 f"prior {figure(results[run], 'prior'):.1f}")


LADDER = ("charm-a", "charm-b", "charm-c", "charm-d", "charm")

# `segformer_mean` is the teacher's network with all the budget of teacher and student together; the paper's teacher is
# trained as long as its student, so that a finding about the two must hold against both.
FINDINGS: list[Finding] = [
    Finding("F1", "CHARM's ladder (a) to (e) rises in Average",
            tuple(more(after, before, "average") for before, after in pairwise(LADDER))),
    Finding("F2", "CHARM's Last-1 rises by more than its Average",
            (rises_more("charm", "charm-a", "last1", "average"),)),
    Finding("F3", "CHARM: softmin > uniform > softmax on Last-1",
            (more("charm", "charm-uniform", "last1"), more("charm-uniform", "charm-softmax", "last1"))),
    Finding("F4", "RobustSeg's student beats its full-modality teacher on the mean of the subsets",
            (more("robustseg", "teacher", "average"), more("robustseg", "segformer_mean", "average"))),
    Finding("F5", "RobustSeg's student loses at most 3 points with all modalities",
            (at_most_less("robustseg", "teacher", "all", 3), at_most_less("robustseg", "segformer_mean", "all", 3))),
    Finding("F6", "RobustSeg: hybrid beats matched prototypes on the fragile single modalities",
            (more_on_weakest("robustseg", "robustseg-matched", "segformer_mean", 2),)),
    Finding("F7", "EQUISeg: the self-guided module raises EMM", (more("equiseg", "equiseg-no_guidance", "emm"),)),
    Finding("F8", "EQUISeg: without addition, or without cross-attention, EMM falls",
            (more("equiseg", "equiseg-no_addition", "emm"), more("equiseg", "equiseg-no_attention", "emm"))),
    Finding("F9", "EQUISeg: lambda 60 > 1, on EMM", (more("equiseg", "equiseg-lambda1", "emm"),)),
    Finding("F10", "Any2Seg: selection and balance together beat either alone, in Average",
            (more("any2seg", "any2seg-selection", "average"), more("any2seg", "any2seg-balance", "average"))),
    Finding("F11", "CMNeXt collapses when its dominant modality goes", (collapses("cmnext", 0.5),)),
    Finding("F12", "Training without dropout or protection leaves Last-1 within 5 points of the class prior",
            (near_prior("segformer_mean", 5),)),
]

# What keeps a finding from holding: runs that were added when the verdicts were known, and rules that were written when
# seed 1 of them was. They decide nothing.
SECOND_LOOKS: list[Finding] = [
    Finding("F1", "MPUs of attention alone",
            (more("charm-c-attention", "charm-b", "average"), more("charm-attention", "charm-d", "average"))),
    Finding("F3", "sampling by scores without bounds",
            (more("charm-scores", "charm-uniform", "last1"), more("charm-uniform", "charm-scores-softmax", "last1"))),
    Finding("F4", "the student trains as long as its teacher", (more("robustseg-long", "segformer_mean", "average"),)),
    Finding("F4", "matched prototypes", (more("robustseg-matched", "teacher", "average"),)),
    Finding("F4", "no prototypes", (more("robustseg-no_prototypes", "teacher", "average"),)),
    Finding("F4", "prototypes as released", (more("robustseg-published_prototypes", "teacher", "average"),)),
    Finding("F5", "the student trains as long as its teacher",
            (at_most_less("robustseg-long", "segformer_mean", "all", 3),)),
    Finding("F5", "matched prototypes", (at_most_less("robustseg-matched", "teacher", "all", 3),)),
    Finding("F7", "with lambda 1", (more("equiseg-lambda1", "equiseg-no_guidance", "emm"),)),
]


@dataclass(frozen=True)
class Verdict:
    """margins: per seed. holds: None where no seed has all the runs, and `missing` names those that none has; or where
    `computed`, the precisions and kinds of device of the runs' evaluations, are several."""

    margins: dict[int, float]
    notes: dict[int, str]
    holds: bool | None
    missing: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        if len(self.computed) > 1:
            return mixed(self.computed)
        return {True: "holds", False: "does not hold", None: "not run"}[self.holds]


def judge(claim: Claim, results: Mapping[int, Results]) -> Verdict:
    """The verdict on a claim, from the results by seed, of the seeds that all its runs have."""
    whole = {seed: one for seed, one in sorted(results.items()) if all(run in one for run in claim.runs)}
    margins = {seed: round(claim.margin(one), 2) for seed, one in whole.items()}
    notes = {seed: claim.note(one) for seed, one in whole.items()} if claim.note else {}
    if not margins:
        missing = tuple(run for run in claim.runs if not any(run in one for one in results.values()))
        return Verdict({}, {}, None, missing)
    computed = tuple(sorted({f"{one[run]['precision']} on {one[run].get('device', 'unknown')}"
                             for one in whole.values() for run in claim.runs}))
    holds = all(one > 0 for one in margins.values()) if len(computed) == 1 else None  # if so, the mean is above 0, too
    return Verdict(margins, notes, holds, computed=computed)


def judge_finding(finding: Finding, results: Mapping[int, Results]) -> tuple[str, list[Verdict]]:
    """'holds', 'does not hold', 'not run' where a claim is open and none has failed, or 'no verdict' where the runs
    were evaluated unlike each other, and how; and the claims' verdicts."""
    verdicts = [judge(claim, results) for claim in finding.claims]
    computed = sorted({how for one in verdicts for how in one.computed})
    return mixed(computed) if len(computed) > 1 else verdict_of([one.holds for one in verdicts]), verdicts


def mixed(computed: Sequence[str]) -> str:
    """Rounding can decide a close margin: by up to 0.1 points from bf16 to fp32."""
    return f"no verdict: evaluated in {', '.join(computed)}"


def verdict_of(holds: Sequence[bool | None]) -> str:
    """Of a finding's claims."""
    if False in holds:
        return "does not hold"
    return "not run" if None in holds else "holds"
