"""The rules of the findings, on figures made by hand, and the page."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from training.findings import FINDINGS, SECOND_LOOKS, figure, judge_finding
from training.recipes import find_recipe
from training.reproduce_page import page
from training.reproduce_plan import PLAN, TABLE
from training.stages import resolve

NAMES = ("rgb", "depth", "event", "lidar")
SUBSETS = ["+".join(one) for size in range(1, 5) for one in combinations(NAMES, size)]
BY_NUMBER = {finding.number: finding for finding in FINDINGS}


def result(run, seed=1, prior=10.0, emm=40.0, rmm=45.0, **subsets):
    """A run whose subsets score 50, or what `subsets` says (rgb_depth=...: of rgb+depth)."""
    values = dict.fromkeys(SUBSETS, 50.0) | {name.replace("_", "+"): value for name, value in subsets.items()}
    both = [{"miou_present": value, "miou_published": value / 2} for value in values.values()]
    summary = {"average": sum(values.values()) / 15, "top1": max(values.values()), "last1": min(values.values())}
    return {"run": run, "seed": seed, "recipe": {"phases": [{"batch": 8, "crop": 128}], "lr": 1e-3},
            "data": {"train": "a", "test": "b"}, "dataset": "DELIVER", "date": "2026-01-01", "hardware": "a CPU",
            "frames": 9, "iterations": 600, "precision": "fp32", "train_seconds": 600.0, "parameters": 4_000_000,
            "figures": {"prior": {"miou_present": prior}, "subsets": dict(zip(SUBSETS, both, strict=True)),
                        "summary": {"miou_present": summary}, "emm": {"miou_present": {"average": emm}},
                        "rmm": {"0.5": {"miou_present": {"average": rmm}}},
                        "nm": {level: {"miou_present": value}
                               for level, value in (("low", 30.0), ("mid", 20.0), ("high", 9.0))}}}


def verdict(number, *runs):
    """Of a finding, from results of several runs and seeds; and the margins of its claims, by seed."""
    by_seed = {}
    for one in runs:
        by_seed.setdefault(one["seed"], {})[one["run"]] = one
    text, parts = judge_finding(BY_NUMBER[number], by_seed)
    return text, [one.margins for one in parts]


def test_figures():
    one = result("x", rgb=80.0, event=5.0, rgb_depth_event_lidar=70.0)
    wanted = {"average": (12 * 50 + 155) / 15, "top1": 80, "last1": 5, "all": 70, "emm": 40, "rmm": 45, "nm_low": 30,
              "nm_mid": 20, "nm_high": 9, "prior": 10, "event": 5, "rgb+depth": 50}
    assert {name: figure(one, name) for name in wanted} == pytest.approx(wanted)


def test_every_finding_names_runs_of_the_plan():
    named = {run for finding in (*FINDINGS, *SECOND_LOOKS) for claim in finding.claims for run in claim.runs}
    planned = {run.name for run in PLAN}
    assert named <= planned and set(TABLE) <= planned
    assert list(BY_NUMBER) == [f"F{i}" for i in range(1, 13)] and len(planned) == len(PLAN)
    for run in PLAN:
        recipe, teacher = resolve(find_recipe(run.recipe), run.settings)
        assert bool(teacher) == bool(run.teacher)
        if teacher:  # what the plan trains once for all students is what each would have trained
            (shared,) = [one for one in PLAN if one.name == run.teacher]
            assert resolve(find_recipe(shared.recipe), shared.settings)[0] == teacher


def test_a_ladder_must_rise_at_every_step():
    ladder = [result(f"charm{one}", rgb=50.0 + i) for i, one in enumerate(("-a", "-b", "-c", "-d", ""))]
    assert verdict("F1", *ladder) == ("holds", [{1: 0.07}] * 4)  # 1 / 15
    assert verdict("F1", *ladder[:2], result("charm-c", rgb=50.5), *ladder[3:])[0] == "does not hold"
    assert verdict("F1", *ladder[:-1])[0] == "not run"
    assert verdict("F2", ladder[0], ladder[-1])[0] == "does not hold"  # Last-1 stays
    assert verdict("F2", result("charm-a", event=20.0), result("charm", event=30.0)) == ("holds", [{1: 9.33}])


def test_it_must_hold_in_every_seed():
    pairs = [(result("equiseg", seed, emm=emm), result("equiseg-no_guidance", seed))
             for seed, emm in ((1, 45.0), (2, 50.0), (3, 39.9))]
    assert verdict("F7", *pairs[0], *pairs[1]) == ("holds", [{1: 5.0, 2: 10.0}])
    assert verdict("F7", *pairs[0], *pairs[1], *pairs[2])[0] == "does not hold"  # though the mean is above 0
    assert verdict("F7", *pairs[0], pairs[2][0]) == ("holds", [{1: 5.0}])  # seed 3 has one of the two runs
    assert verdict("F7", pairs[0][0], pairs[1][1]) == ("not run", [{}])  # no seed has both
    assert verdict("F9", result("equiseg"), result("equiseg-lambda1"))[0] == "does not hold"  # equal


def test_runs_evaluated_unlike_each_other_give_no_verdict():
    better, worse = result("equiseg", emm=45.0) | {"device": "cpu"}, result("equiseg-no_guidance") | {"device": "cpu"}
    assert verdict("F7", better, worse)[0] == "holds"
    assert verdict("F7", better, worse | {"precision": "bf16"}) == (
        "no verdict: evaluated in bf16 on cpu, fp32 on cpu", [{1: 5.0}])
    assert verdict("F7", better | {"device": "cuda"}, worse)[0] == (
        "no verdict: evaluated in fp32 on cpu, fp32 on cuda")
    again = [one | {"seed": 2, "precision": "fp16"} for one in (better, worse)]  # alike, but unlike the other seed
    assert verdict("F7", better, worse, *again)[0].startswith("no verdict")
    two = [result("charm", rgb=60.0), result("charm-uniform", rgb=40.0), result("charm-softmax", rgb=30.0)]
    assert verdict("F3", *two)[0] == "holds"
    assert verdict("F3", two[0], two[1], two[2] | {"precision": "bf16"})[0].startswith("no verdict")
    text = page([better, worse | {"precision": "bf16"}], "results")
    assert text.count("no verdict: evaluated in bf16 on cpu, fp32 on cpu") == 2  # of the finding, of its claim


def test_one_failed_claim_decides_and_an_open_one_does_not():
    full = result("equiseg")
    assert verdict("F8", full, result("equiseg-no_addition", emm=39.0))[0] == "not run"
    assert verdict("F8", full, result("equiseg-no_addition", emm=41.0))[0] == "does not hold"


def test_the_student_and_both_teachers():
    teachers = result("teacher", rgb=40.0), result("segformer_mean", rgb=60.0, rgb_depth_event_lidar=54.0)
    assert verdict("F4", result("robustseg", rgb=70.0), *teachers)[0] == "holds"
    assert verdict("F4", result("robustseg", rgb=50.0), *teachers)[0] == "does not hold"
    assert verdict("F5", result("robustseg", rgb_depth_event_lidar=51.5), *teachers) == ("holds", [{1: 4.5}, {1: 0.5}])
    assert verdict("F5", result("robustseg", rgb_depth_event_lidar=50.5), *teachers)[0] == "does not hold"


def test_fragile_is_what_the_plain_network_is_worst_with():
    plain = result("segformer_mean", event=10.0, depth=20.0)
    matched = result("robustseg-matched", rgb=90.0, lidar=90.0, event=30.0, depth=30.0)
    assert verdict("F6", result("robustseg", event=40.0, depth=25.0), matched, plain) == ("holds", [{1: 2.5}])
    assert verdict("F6", result("robustseg", event=30.0, depth=25.0), matched, plain)[0] == "does not hold"


def test_collapse_is_of_the_modality_that_costs_most():
    broken = result("cmnext", rgb_event_lidar=20.0, depth_event_lidar=30.0, event=1.0)  # alone does not count
    assert verdict("F11", broken) == ("holds", [{1: 5.0}])
    assert verdict("F11", result("cmnext", rgb_event_lidar=26.0, event=1.0))[0] == "does not hold"
    assert "dominant: depth, 50.0 with all, 20.0 without it" in page([broken], "results")


@pytest.mark.parametrize("last1, expected", [(14.9, "holds"), (15.1, "does not hold"), (2.0, "holds")])
def test_near_the_prior(last1, expected):
    assert verdict("F12", result("segformer_mean", event=last1))[0] == expected


def test_page_says_what_was_run():
    others = [result("robustseg-long", seed) | {"iterations": 1200} for seed in (1, 2)]
    text = page([result("cmnext", rgb=65.0), result("cmnext", seed=2), result("magic"), *others], "results")
    (row,) = re.findall(r"^\| cmnext \|.*$", text, re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == ["50.5 ± 0.7", "57.5 ± 10.6", "50.0 ± 0.0"] and cells[-3:] == ["1 2", "4.00", "10.0"]
    assert re.search(r"^\| magic \| 50.0 \|", text, re.MULTILINE) and "| charm | not run |" in text
    assert "600 iterations, a student's with its teacher's (but robustseg-long 1200), of 8 crops" in text
    assert "seeds 1; 2" in text and "a CPU" in text and "2026-01-01" in text and "train a, test b" in text
    assert len(re.findall(r"^\| F\d+ \|", text.split("## Claims")[0], re.MULTILINE)) == 12
    assert "Nothing has been run" in page([], "results")
