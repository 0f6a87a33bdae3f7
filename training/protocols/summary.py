"""From counts to the figures of the tables: percent, two digits, both conventions for absent classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mss_models.metrics import Confusion
from training.protocols.scoring import Condition, Scores, merge
from training.protocols.subsets import Subset, expectation, key
from training.protocols.trials import LEVELS, RATES

CONVENTIONS = ("miou_published", "miou_present")
PROBABILITIES = (0.05, 0.1, 0.2)  # p of E(p): a modality is missing with this probability


def figures(confusion: Confusion, names: Sequence[str]) -> dict:
    """One confusion matrix as JSON: mIoU in both conventions, and per class IoU, F1 and accuracy (None: absent)."""
    return mious(confusion) | {what: {name: percent(value) for name, value in zip(names, values, strict=True)}
                               for what, values in (("iou", confusion.iou()), ("f1", confusion.f1()),
                                                    ("acc", confusion.acc()))}


def mious(confusion: Confusion) -> dict[str, float | None]:
    """mIoU in both conventions; None where no pixel was counted."""
    return {one: percent(getattr(confusion, one)) if confusion.pixels else None for one in CONVENTIONS}


def percent(share: float) -> float | None:
    """0..1 as percent with two digits; None for NaN."""
    return None if math.isnan(share) else round(100 * float(share), 2)


def summarise(confusions: Mapping[Subset, Confusion]) -> dict[str, dict]:
    """Per convention: average, top1, last1 with their subsets, and e, {p: E(p)}, over all subsets.

    A subset of which no frame was counted, its sensors having given nothing, is left out; E(p) is then None.
    """
    summary = {}
    for convention in CONVENTIONS:
        values = {subset: getattr(one, convention) for subset, one in confusions.items() if one.pixels}
        best, worst = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
        summary[convention] = {
            "average": percent(sum(values.values()) / len(values)),
            "top1": percent(values[best]), "top1_subset": key(best),
            "last1": percent(values[worst]), "last1_subset": key(worst),
            "e": {f"{p:g}": percent(expectation(values, p)) if len(values) == len(confusions) else None
                  for p in PROBABILITIES},
        }
    return summary


def of_subsets(scores: Scores, protocol: str, level: str = "") -> dict[Subset, Confusion]:
    """Per subset the counts of a protocol (and its level) over all conditions; {} if it was not run."""
    return {trial.subset: merge(by_condition) for trial, by_condition in scores.items()
            if (trial.protocol, trial.level) == (protocol, level)}


def subset_table(confusions: Mapping[Subset, Confusion]) -> dict:
    """{subsets: {subset: mIoUs}, summary}."""
    return {"subsets": {key(subset): mious(one) for subset, one in confusions.items()},
            "summary": summarise(confusions)}


def by_condition(scores: Scores, conditions: Iterable[str]) -> dict[str, dict[str, dict]]:
    """{condition: {subset: mIoUs}} of any-modal, for the weathers and cases that occur."""
    table: dict[str, dict[str, dict]] = {}
    for trial, counts in scores.items():
        if trial.protocol == "any-modal":
            for name, figures_there in mious_by_condition(counts, conditions).items():
                table.setdefault(name, {})[key(trial.subset)] = figures_there
    return table


def mious_by_condition(counts: Mapping[Condition, Confusion], conditions: Iterable[str]) -> dict[str, dict]:
    """{condition: mIoUs} for the weathers and cases that occur."""
    merged = {name: merge(counts, lambda *of, name=name: name in of) for name in conditions}
    return {name: mious(one) for name, one in merged.items() if one is not None}


def robustness_tables(scores: Scores, names: Sequence[str]) -> dict:
    """What of emm, rmm, rmm-block and nm was run, and the composites whose parts were."""
    tables: dict = {}
    if emm := of_subsets(scores, "emm"):
        tables["emm"] = subset_table(emm)
    for protocol in ("rmm", "rmm-block"):
        rates = {f"{rate:g}": of_subsets(scores, protocol, f"{rate:g}") for rate in RATES}
        if any(rates.values()):
            tables[protocol] = {rate: subset_table(confusions) for rate, confusions in rates.items() if confusions}
    noise = {level: of_subsets(scores, "nm", level) for level in LEVELS}
    if all(noise.values()):
        tables["nm"] = {level: figures(next(iter(confusions.values())), names)
                        for level, confusions in noise.items()}
    if {"emm", "nm"} <= set(tables) and "0.5" in tables.get("rmm", {}):
        tables["composites"] = {one: composites(tables, one) for one in CONVENTIONS}
    return tables


def composites(tables: Mapping, convention: str) -> dict[str, float]:
    """RobustSeg's mean and EQUISeg's robustness score of robustness_tables' figures (with all modalities: EMM's)."""
    emm, rmm = tables["emm"]["summary"][convention], tables["rmm"]["0.5"]["summary"][convention]
    low, mid = (tables["nm"][level][convention] for level in ("low", "mid"))
    full = list(tables["emm"]["subsets"].values())[-1][convention]
    return {"robustseg_mean": robustseg_mean(emm["average"], emm["e"]["0.2"], rmm["average"], rmm["e"]["0.2"], low),
            "equiseg_robustness": equiseg_robustness(full, emm["average"], emm["e"]["0.1"], rmm["average"],
                                                     rmm["e"]["0.1"], low, mid)}


def robustseg_mean(emm: float, emm_e02: float, rmm: float, rmm_e02: float, nm_low: float) -> float:
    """"Mean" of RobustSeg's table 2: EMM average and E(0.2), RMM at rate 0.5 average and E(0.2), NM low."""
    return round(float(np.mean([emm, emm_e02, rmm, rmm_e02, nm_low])), 2)


def equiseg_robustness(clean: float, emm: float, emm_e01: float, rmm: float, rmm_e01: float, nm_low: float,
                       nm_mid: float) -> float:
    """EQUISeg's robustness score, the mean of table 1's columns: all modalities, EMM and RMM with E(0.1), NM."""
    return round(float(np.mean([clean, emm, emm_e01, rmm, rmm_e01, nm_low, nm_mid])), 2)
