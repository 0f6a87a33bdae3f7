"""docs/results.md and its picture: the table and the verdicts, from the result files alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mode

import numpy as np

from training.findings import FINDINGS, SECOND_LOOKS, Finding, Results, Verdict, figure, judge_finding
from training.report.charts import heat_map, standalone
from training.reproduce_plan import PLAN, TABLE

COLUMNS = {"Average": "average", "Top-1": "top1", "Last-1": "last1", "all": "all", "EMM": "emm", "RMM": "rmm",
           "NM low": "nm_low", "NM mid": "nm_mid", "NM high": "nm_high"}


def page(results: Sequence[Mapping], folder: str, notes: str = "") -> str:
    """The Markdown text. folder: where the result files are, for the text. notes: why findings do not hold, by hand."""
    by_seed: dict[int, dict[str, Mapping]] = {}
    for one in results:
        by_seed.setdefault(one["seed"], {})[one["run"]] = one
    others = [run.name for run in PLAN if run.name not in TABLE]
    return "\n\n".join([
        "# The papers' findings in miniature",
        f"Written by `python -m training.reproduce` from the files in {folder}/; edit nothing here.",
        introduction(results),
        "## Systems", table(TABLE, by_seed),
        "Percent mIoU over the classes present, split test; mean ± standard deviation over the seeds. Average, Top-1 "
        "and Last-1 of the subsets of modalities, `all` with all of them; RMM at rate 0.5. Parameters of inference; "
        "minutes of the shortest of its trainings, its teacher's included, by the clock of machines that did other "
        "work beside: training.md has CPU times, protocols.md explains the protocols.",
        *([f"![mIoU of every system with every subset of the modalities]({folder}.svg)"] if results else []),
        "## Findings", findings(by_seed),
        "A claim's margin, in points, is how far it holds; above 0 in every seed means that it holds. The rules are in "
        "training/findings.py and were fixed before the runs.",
        "## Claims", claims(FINDINGS, by_seed),
        "## Second looks",
        "What the findings come to when one thing is done otherwise. These runs were added when the verdicts above "
        "were known, and the rules when seed 1 of these was: they decide none of the findings.",
        claims(SECOND_LOOKS, by_seed, "done otherwise"),
        *([f"## Thoughts on what does not hold\n\nBy hand, from {folder}/notes.md.", notes.strip()] if notes else []),
        "## Further runs", table(others, by_seed),
    ]) + "\n"


def picture(results: Sequence[Mapping]) -> str:
    """An SVG file's content: the systems' scores with every subset of the modalities, means over the seeds."""
    rows = {}
    for name in TABLE:
        if found := [one for one in results if one["run"] == name]:
            rows[name] = {subset: float(np.mean([figure(one, subset) for one in found]))
                          for subset in found[0]["figures"]["subsets"]}
    return standalone(heat_map(rows, list(next(iter(rows.values()), {}))))


def introduction(results: Sequence[Mapping]) -> str:
    """What was run, on which data and hardware, when."""
    if not results:
        return "Nothing has been run."
    recipe = results[0]["recipe"]
    budget = mode(one["iterations"] for one in results)
    others = {one["run"]: one["iterations"] for one in results if one["iterations"] != budget}
    but = f" (but {', '.join(f'{run} {count}' for run, count in others.items())})" if others else ""

    def of(values: Iterable) -> str:
        return "; ".join(sorted(set(map(str, values))))
    data = of(f"in {one['dataset']}'s layout, " + ", ".join(f"{split} {value}" for split, value in one["data"].items())
              for one in results)
    phases = ", ".join(f"{phase['batch']} crops of {phase['crop']}" for phase in recipe["phases"])
    return (f"{len(results)} runs, seeds {of(one['seed'] for one in results)}, {of(one['date'] for one in results)}, "
            f"on {of(one['hardware'] for one in results)}. Data {data} (origins; docs/training.md has the "
            f"recorded world's); {of(one['frames'] for one in results)} test frames. The same for all: "
            f"{budget} iterations, a student's with its teacher's{but}, of {phases}; "
            f"learning rate {recipe['lr']:g}, schedule and augmentation; no pretrained weights. Network precision in "
            f"evaluation: {of(one['precision'] for one in results)}.")


def table(names: Sequence[str], by_seed: Mapping[int, Results]) -> str:
    """A row per run; one that was not run says so."""
    rows = [["run", *COLUMNS, "seeds", "parameters (M)", "minutes"]]
    for name in names:
        found = [one[name] for _, one in sorted(by_seed.items()) if name in one]
        if not found:
            rows.append([name, "not run", *[""] * (len(rows[0]) - 2)])
            continue
        cells = [spread([figure(one, column) for one in found]) for column in COLUMNS.values()]
        minutes = min(one["train_seconds"] for one in found) / 60  # what interrupts a run only adds
        rows.append([name, *cells, " ".join(str(one["seed"]) for one in found),
                     f"{found[0]['parameters'] / 1e6:.2f}", f"{minutes:.1f}"])
    return markdown(rows)


def findings(by_seed: Mapping[int, Results]) -> str:
    rows = [["", "finding", "verdict", "seeds", "margins"]]
    for finding in FINDINGS:
        verdict, parts = judge_finding(finding, by_seed)
        seeds = sorted({seed for one in parts for seed in one.margins})
        margins = "; ".join(spread(list(one.margins.values()), "+") if one.margins else "?" for one in parts)
        missing = sorted({run for one in parts for run in one.missing})
        rows.append([finding.number, finding.text, f"**{verdict}**", " ".join(map(str, seeds)) or "-",
                     margins + (f" (not run: {', '.join(missing)})" if missing else "")])
    return markdown(rows)


def claims(findings: Sequence[Finding], by_seed: Mapping[int, Results], text: str = "") -> str:
    """A row per claim. text: the heading of a column with the findings' texts, if there is to be one."""
    rows = [["", *[text] * bool(text), "claim", "margin per seed", "verdict"]]
    for finding in findings:
        for claim, verdict in zip(finding.claims, judge_finding(finding, by_seed)[1], strict=True):
            rows.append([finding.number, *[finding.text] * bool(text), claim.text, per_seed(verdict), verdict.text])
    return markdown(rows)


def per_seed(verdict: Verdict) -> str:
    return "; ".join(f"{seed}: {margin:+.2f}" + (f" ({verdict.notes[seed]})" if seed in verdict.notes else "")
                     for seed, margin in verdict.margins.items()) or "-"


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± standard deviation (of the sample), the mean alone of a single value."""
    text = f"{np.mean(values):{sign}.1f}"
    return text if len(values) == 1 else f"{text} ± {np.std(values, ddof=1):.1f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
