"""The report of a run: one HTML file with everything inside, readable without a network, a server or scripts.

Replay and the demo call `write_report` with the content of metrics.json, the records of frames.jsonl and pictures of
chosen frames. The report of many bags has a row for each instead, with a link to its own.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from mss_models.files import write_atomically
from mss_models.labels import LabelSet
from mss_perception import charts
from mss_perception.faults import Fault
from mss_perception.scoring import confusion_of
from mss_perception.units import SECOND

STATES = {
    "OK": "matched and used",
    "HELD": "an older sample reused",
    "LATE": "came after its set was emitted",
    "MISSING": "no sample within tolerance",
    "STALE": "inactive: no set waits for it",
    "INVALID": "there, but not usable",
    "DISABLED": "switched off",
}
STAGES = ("preprocess", "inference", "postprocess", "publish")


@dataclass
class Picture:
    """One frame side by side. panels: (name, remark, PNG file or None when there is no picture) in the order shown."""

    t_ref_ns: int
    title: str
    panels: list[tuple[str, str, bytes | None]] = field(default_factory=list)


@dataclass
class Report:
    """What the page shows.

    metrics: the content of metrics.json (scoring.build_metrics). records: frames in order, with `inputs`
    {input: {state, frozen...}}. about: rows of the header's fact list. card: the checkpoint's card. bags: of many, as
    replay_many.merge has them; such a report has no records.
    """

    title: str
    metrics: Mapping
    records: Sequence[Mapping]
    label_set: LabelSet
    start_ns: int
    faults: Sequence[Fault] = ()
    deadline_sec: float | None = None
    pictures: Sequence[Picture] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    card: Mapping = field(default_factory=dict)
    bags: Sequence[Mapping] = ()


def write_report(path: str | Path, report: Report) -> None:
    """Write the page. Raises OSError that names it."""
    write_atomically(Path(path), page(report))


def page(report: Report) -> str:
    """The whole document. Sections that have nothing to show are left out."""
    sections = [
        _headline(report),
        _bags(report.bags) if report.bags else _timeline(report),
        _pictures(report),
        _masks(report.metrics),
        _latency(report),
        _classes(report),
        _messages(report.metrics),
        _card(report.card),
    ]
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(report.title)}</title>'
            f"<style>{STYLE}</style></head><body><main>" + "".join(sections) + "</main></body></html>\n")


def _section(title: str, body: str, note: str = "") -> str:
    note = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{note}{body}</section>"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


# ---------------------------------------------------------------------------------------------------------- headline

def _headline(report: Report) -> str:
    metrics = report.metrics
    dropped = sum(metrics["dropped"].values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in metrics["dropped"].items() if count)
    compute = [sum(record["latency_ms"].get(stage) or 0 for stage in STAGES) for record in _outputs(report)]
    tiles = [("mIoU", _percent(metrics["miou"]), "% over the classes that occur" if metrics["miou"] is not None
              else "no ground truth", "")]
    tiles.append(("Frames out", f"{metrics['outputs']:,}", f"of {metrics['ticks']:,} ticks", ""))
    tiles.append(("Dropped", f"{dropped:,}", reasons or "none", "bad" if dropped else "good"))
    checked = metrics.get("mask_checked", 0)
    tiles.append(("Masks wrong", f"{metrics['mask_wrong']:,}" if checked else "–",
                  f"of {checked:,} frames that can be judged" if checked else "not checked",
                  "bad" if metrics["mask_wrong"] else "good" if checked else ""))
    if report.bags:
        failed = sum(bool(one["failure"]) for one in report.bags)
        tiles.append(("Bags", f"{len(report.bags) - failed:,}", f"of {len(report.bags):,}; {failed:,} failed" if failed
                      else "none failed", "bad" if failed else "good"))
    if compute:
        tiles.append(("Compute per frame", f"{np.percentile(compute, 50):.0f}",
                      f"ms median, {np.percentile(compute, 95):.0f} ms p95", ""))
    body = "".join(f'<div class="tile {css}"><div class="name">{escape(name)}</div><div class="value">{value}</div>'
                   f'<div class="note">{escape(note)}</div></div>' for name, value, note, css in tiles)
    facts = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in report.about.items())
    return (f'<header><h1>{escape(report.title)}</h1><dl class="facts">{facts}</dl></header>'
            f'<div class="tiles">{body}</div>')


def _outputs(report: Report) -> list[Mapping]:
    return [record for record in report.records if not record.get("dropped")]


# ---------------------------------------------------------------------------------------------------------- timeline

def _seconds(report: Report) -> list[float]:
    """Time of every record from the run's start. After a jump back in time the count goes on where it was."""
    seconds, shift, previous = [], 0.0, -math.inf
    for record in report.records:
        t_sec = (record["t_ref"] - report.start_ns) / SECOND
        if t_sec + shift <= previous:
            shift = previous - t_sec + _frame_sec(report)
        seconds.append(t_sec + shift)
        previous = t_sec + shift
    return seconds


def _frame_sec(report: Report) -> float:
    steps = np.diff([record["t_ref"] for record in report.records])
    steps = steps[steps > 0]
    return float(np.median(steps)) / SECOND if len(steps) else 0.1


def _duration(report: Report, seconds: list[float]) -> float:
    return max(seconds, default=0.0) + _frame_sec(report)


def _timeline(report: Report) -> str:
    if not report.records:
        return _section("Timeline", "<p>No frame came out of this run.</p>")
    seconds, frame_sec = _seconds(report), _frame_sec(report)
    duration = _duration(report, seconds)
    inputs = list(report.records[0]["inputs"])
    rows = {name: [(t, record["inputs"][name]["state"], bool(record["inputs"][name].get("frozen")))
                   for t, record in zip(seconds, report.records, strict=True)] for name in inputs}
    faults = {name: [(_fault_name(fault), fault.start_sec, min(fault.end_sec, duration)) for fault in report.faults
                     if fault.role.split("/")[0] == name and fault.start_sec < duration] for name in inputs}
    seen = {state for row in rows.values() for _, state, _ in row}
    legend = "".join(f'<span><i class="state {state}"></i>{state} <small>{text}</small></span>'
                     for state, text in STATES.items() if state in seen)
    if any(frozen for row in rows.values() for *_, frozen in row):
        legend += '<span><i class="state OK"></i><i class="hatched"></i>frozen <small>identical payload</small></span>'
    if any(faults.values()):
        legend += '<span><i class="fault"></i>fault put in</span>'
    body = charts.timeline(rows, faults, duration, frame_sec) + f'<div class="legend">{legend}</div>'
    scores = [(t, 100 * confusion_of([record], report.label_set).miou_present)
              for t, record in zip(seconds, report.records, strict=True) if record.get("confusion")]
    if scores:
        top = min(100.0, max(1.0, 1.15 * max(score for _, score in scores)))
        body += "<h3>mIoU of each frame</h3>" + charts.curve(scores, duration, top, "%")
    return _section("What was there", body, "State of every input in every frame; above it, the faults put in on "
                    "purpose. The network gets what is OK or HELD.")


def _fault_name(fault: Fault) -> str:
    amount = "" if fault.amount is None else f" {fault.amount:g}"
    stream = f" of {fault.role}" if "/" in fault.role else ""
    return f"{fault.kind}{amount}{stream}"


# ---------------------------------------------------------------------------------------------------------- pictures

def _pictures(report: Report) -> str:
    if not report.pictures:
        return ""
    rows = []
    for picture in report.pictures:
        panels = "".join(f"<figure>{_image(name, png)}<figcaption><b>{escape(name)}</b> {escape(remark)}</figcaption>"
                         "</figure>" for name, remark, png in picture.panels)
        t_sec = (picture.t_ref_ns - report.start_ns) / SECOND
        rows.append(f'<div class="frame"><h3><span class="when">{t_sec:.2f} s</span> {escape(picture.title)}</h3>'
                    f'<div class="panels">{panels}</div></div>')
    names, palette = report.label_set.names, report.label_set.palette
    present = {k for pair in report.metrics["confusion"] for k in pair[:2]} or range(len(names))
    legend = "".join(f'<span><i style="background:rgb{palette[k]}"></i>{escape(names[k])}</span>'
                     for k in sorted(present))
    return _section("Frames", f'<div class="legend">{legend}</div>' + "".join(rows))


def _image(name: str, png: bytes | None) -> str:
    if png is None:
        return '<div class="absent">not there</div>'
    return f'<img alt="{escape(name, quote=True)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


# ------------------------------------------------------------------------------------------------------------ tables

def _bags(bags: Sequence[Mapping]) -> str:
    judged = any(one.get("miou") is not None for one in bags)
    rows = []
    for one in bags:
        name = escape(one["name"])
        cells = f'<td><a href="{quote(one["report"])}">{name}</a></td>' if one["report"] else f"<td>{name}</td>"
        if one["failure"]:
            rows.append(f'<tr>{cells}<td colspan="8" class="failure">{escape(one["failure"])}</td></tr>')
            continue
        inference = one["latency_ms"].get("inference")
        numbers = [f'{one["outputs"]:,}', f'{one["ticks"]:,}', f'{sum(one["dropped"].values()):,}',
                   f'{one["mask_wrong"]:,} of {one["mask_checked"]:,}',
                   *(f'{inference[q]:.1f}' if inference else "–" for q in ("p50", "p95"))]
        cells += "".join(f'<td class="number">{number}</td>' for number in numbers)
        if judged:
            cells += f'<td class="number">{_percent(one["miou"])}</td><td class="bar">{_bar(one["miou"])}</td>'
        rows.append(f"<tr>{cells}</tr>")
        if one["no_output"]:
            rows.append(f'<tr><td></td><td colspan="8" class="failure">no output: {escape(one["no_output"])}</td></tr>')
    head = "".join(f"<th>{name}</th>" for name in (
        "Bag", "Frames", "Ticks", "Dropped", "Masks wrong", "Inference p50 ms", "p95 ms",
        *(("mIoU %", "") if judged else ())))
    return _section("Bags", f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>",
                    "All figures outside this table are of the frames of all bags together.")


def _masks(metrics: Mapping) -> str:
    total = metrics["outputs"] or 1
    names = list(dict.fromkeys(part for mask in metrics["frames_by_mask"] for part in mask.split("+")))
    judged = any(value is not None for value in metrics["miou_by_mask"].values())
    rows = []
    for mask, frames in metrics["frames_by_mask"].items():
        chips = "".join(f'<span class="chip {"on" if name in mask.split("+") else "off"}">{escape(name)}</span>'
                        for name in names)
        score = metrics["miou_by_mask"].get(mask)
        bar = f'<td class="number">{_percent(score)}</td><td class="bar">{_bar(score)}</td>' if judged else ""
        rows.append(f'<tr><td>{chips}</td><td class="number">{frames:,}</td>'
                    f'<td class="number">{100 * frames / total:.1f} %</td>{bar}</tr>')
    if not rows:
        return ""
    head = "<th>Inputs used</th><th>Frames</th><th>Share</th>" + ("<th>mIoU %</th><th></th>" if judged else "")
    return _section("By mask", f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>",
                    "mIoU is over the classes that occur in the mask's frames: masks seen in different stretches are "
                    "judged on different scenes." if judged else "")


def _bar(share: float | None) -> str:
    return "" if share is None else f'<div class="meter"><div style="width:{100 * share:.1f}%"></div></div>'


def _latency(report: Report) -> str:
    percentiles = report.metrics["latency_ms"]
    if not percentiles:
        return ""
    seconds = [t for t, record in zip(_seconds(report), report.records, strict=True) if not record.get("dropped")]
    stages = [stage for stage in STAGES if stage in percentiles]
    columns = [(t, [record["latency_ms"].get(stage) or 0.0 for stage in stages])
               for t, record in zip(seconds, _outputs(report), strict=True)]
    legend = "".join(f'<span><i class="stage{i}"></i>{stage}</span>' for i, stage in enumerate(stages))
    rows = "".join(f"<tr><td>{escape(stage.replace('_', ' '))}</td>"
                   + "".join(f'<td class="number">{values[q]:.1f}</td>' for q in ("p50", "p95", "p99")) + "</tr>"
                   for stage, values in percentiles.items())
    deadline = "" if report.deadline_sec is None else \
        f" A set waits at most {1000 * report.deadline_sec:g} ms for its inputs."
    chart = charts.stacked_bars(columns, stages, _duration(report, _seconds(report)), _frame_sec(report), "ms") \
        + f'<div class="legend">{legend}</div>' if columns else ""
    return _section(
        "Latency",
        chart + '<table class="narrow"><thead><tr><th>Stage</th><th>p50 ms</th>'
        f"<th>p95 ms</th><th>p99 ms</th></tr></thead><tbody>{rows}</tbody></table>",
        "Compute time of every frame. <i>wait</i> is from the opening of a set to its emission." + deadline)


def _classes(report: Report) -> str:
    if not report.metrics["confusion"]:
        return ""
    size = len(report.label_set)
    hist = np.zeros((size, size), np.int64)
    for target, prediction, pixels in report.metrics["confusion"]:
        hist[target, prediction] = pixels
    true = np.flatnonzero(hist.sum(1))      # only classes that occur in the truth have a row to normalise
    iou, total = report.metrics["iou_by_class"], hist.sum()
    rows = "".join(
        f'<tr><td><i class="swatch" style="background:rgb{report.label_set.palette[k]}"></i>'
        f'{escape(report.label_set.names[k])}</td><td class="number">{100 * hist[k].sum() / total:.2f} %</td>'
        f'<td class="number">{_percent(iou[report.label_set.names[k]])}</td>'
        f'<td class="bar">{_bar(iou[report.label_set.names[k]])}</td></tr>'
        for k in sorted(true, key=lambda k: -hist[k].sum()))
    square = hist[np.ix_(true, true)]
    shares = square / hist[true].sum(1, keepdims=True)
    heat = charts.confusion_matrix(shares.tolist(), [report.label_set.names[k] for k in true], square.tolist())
    head = "<tr><th>Class</th><th>Pixels</th><th>IoU %</th><th></th></tr>"
    return _section("By class", f'<div class="columns classes"><table><thead>{head}</thead><tbody>{rows}</tbody>'
                    f'</table><div class="heat">{heat}</div></div>',
                    "Right: of the pixels of each true class (row), the share that was predicted as each class "
                    "(column), in percent.")


def _messages(metrics: Mapping) -> str:
    rows = []
    for topic, one in metrics["messages"].items():
        lost = one["sent"] - one["received"]
        rows.append(f'<tr><td><code>{escape(topic)}</code></td><td class="number">{one["sent"]:,}</td>'
                    f'<td class="number">{one["received"]:,}</td><td class="number">{lost:,}</td></tr>')
    tables = (f"<table><thead><tr><th>Topic</th><th>Sent</th><th>Received</th><th>Missing</th></tr></thead>"
              f"<tbody>{''.join(rows)}</tbody></table>") if rows else ""
    drops = "".join(f'<tr><td>{escape(reason)}</td><td class="number">{count:,}</td></tr>'
                    for reason, count in metrics["dropped"].items() if count)
    drops = drops or '<tr><td colspan="2">no set was dropped</td></tr>'
    tables += (f"<table><thead><tr><th>Dropped sets</th><th>Count</th></tr></thead><tbody>{drops}</tbody></table>")
    return _section("Messages and drops", f'<div class="columns">{tables}</div>')


def _card(card: Mapping) -> str:
    if not card:
        return ""
    rows = "".join(f"<tr><td>{escape(str(key))}</td><td>{_card_value(value)}</td></tr>" for key, value in card.items())
    return _section("The network", f'<table class="card"><tbody>{rows}</tbody></table>',
                    "What the checkpoint says of itself.")


def _card_value(value) -> str:
    if isinstance(value, (dict, list)):
        return f"<pre>{escape(json.dumps(value, indent=1))}</pre>" if value else "–"
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


# ------------------------------------------------------------------------------------------------------------- style

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--panel:#fff;--ink:#1d2430;--soft:#5d6878;--rule:#dfe3e9;--accent:#2867c9;
--ok:#2f9e77;--held:#8fd0b5;--late:#f2b134;--missing:#e2643d;--stale:#8d97a5;--invalid:#9a4fc4;--off:#d8dce2;
--s0:#7fb2e5;--s1:#2867c9;--s2:#f2b134;--s3:#9a4fc4}
@media (prefers-color-scheme:dark){:root{--page:#12161c;--panel:#1b2129;--ink:#e6eaf0;--soft:#98a3b3;--rule:#2f3843;
--accent:#6fa4f2;--off:#3a434f;--stale:#6b7685}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1180px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:28px;line-height:1.2;margin:0 0 12px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 4px}h3{font-size:14px;margin:20px 0 6px;font-weight:600}
.note{color:var(--soft);font-size:13px;margin:0 0 14px;max-width:75ch}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:0 0 22px;font-size:13px}
.facts dt{color:var(--soft)}.facts dd{margin:0;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px;margin-bottom:20px}
.tile{background:var(--panel);border:1px solid var(--rule);border-radius:10px;padding:14px 16px;
border-top:3px solid var(--accent)}
.tile.good{border-top-color:var(--ok)}.tile.bad{border-top-color:var(--missing)}
.tile .name{font-size:13px;color:var(--soft)}.tile .value{font-size:32px;line-height:1.25;font-weight:650}
.tile .note{margin:0;font-size:12px}
section{background:var(--panel);border:1px solid var(--rule);border-radius:10px;padding:20px 22px;margin-bottom:20px}
svg{display:block;width:100%;height:auto;font:11px system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
svg text{fill:var(--ink)}svg .tick{fill:var(--soft)}svg .row{font-size:13px;font-weight:600}
.grid{stroke:var(--rule);stroke-width:1}
.OK{fill:var(--ok);background:var(--ok)}.HELD{fill:var(--held);background:var(--held)}
.LATE{fill:var(--late);background:var(--late)}.MISSING{fill:var(--missing);background:var(--missing)}
.STALE{fill:var(--stale);background:var(--stale)}.INVALID{fill:var(--invalid);background:var(--invalid)}
.DISABLED{fill:var(--off);background:var(--off)}
.frozen{fill:url(#hatch)}.hatch{fill:#fff;fill-opacity:.75}
rect.fault{fill:var(--ink);fill-opacity:.1;stroke:var(--ink);stroke-opacity:.35}svg .fault-name{font-size:10.5px}
.line{fill:none;stroke:var(--accent);stroke-width:1.5}.line-dot{fill:var(--accent)}
.stage0{fill:var(--s0);background:var(--s0)}.stage1{fill:var(--s1);background:var(--s1)}
.stage2{fill:var(--s2);background:var(--s2)}.stage3{fill:var(--s3);background:var(--s3)}
.cell{fill:var(--rule);fill-opacity:.45}.hit{fill:#1f8a66}.miss{fill:#d9542b}
svg .share{font-size:10px}svg .share.on-dark{fill:#fff}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;margin:10px 0 4px}
.legend small{color:var(--soft)}
.legend i,.swatch{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:-1px}
.legend i.fault{background:color-mix(in srgb,var(--ink) 12%,transparent);border:1px solid var(--soft)}
.legend i.hatched{margin-left:-18px;
background:repeating-linear-gradient(45deg,rgba(255,255,255,.75) 0 2px,transparent 2px 5px)}
table{border-collapse:collapse;width:100%;font-size:14px}table.narrow{max-width:420px;margin-top:12px}
th{text-align:left;font-weight:600;font-size:12px;color:var(--soft)}
th,td{padding:5px 12px 5px 0;border-bottom:1px solid var(--rule);vertical-align:middle}
td.number{text-align:right;white-space:nowrap}td.bar{width:38%}
th:not(:first-child){text-align:right}
.meter{background:var(--rule);border-radius:4px;height:8px}
.meter div{background:var(--accent);border-radius:4px;height:8px}
.chip{display:inline-block;padding:1px 9px;border-radius:99px;font-size:12px;margin-right:5px;
border:1px solid var(--rule)}
.chip.on{background:var(--ok);border-color:var(--ok);color:#fff}.chip.off{color:var(--soft);opacity:.55}
.failure{color:var(--missing);overflow-wrap:anywhere}a{color:var(--accent)}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:32px;align-items:start}
@media (min-width:900px){.columns.classes{grid-template-columns:minmax(0,1fr) minmax(0,1.3fr)}}
.frame{margin-top:18px}.frame h3{margin:0 0 8px}
.when{display:inline-block;background:var(--ink);color:var(--panel);border-radius:5px;padding:0 7px;margin-right:6px}
.panels{display:grid;grid-template-columns:repeat(4,1fr);gap:10px}
@media (max-width:640px){.panels{grid-template-columns:1fr 1fr}}
figure{margin:0;display:flex;flex-direction:column}
.absent{flex:1;min-height:110px;display:grid;place-items:center;border:1px dashed var(--stale);border-radius:6px;
color:var(--soft);font-size:13px}
figure img{display:block;width:100%;border-radius:6px;background:#000}
figcaption{font-size:12px;color:var(--soft);margin-top:3px}figcaption b{color:var(--ink)}
code,pre{font:12px ui-monospace,"DejaVu Sans Mono",monospace}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;max-height:180px;overflow:auto}
.card td:first-child{width:180px;color:var(--soft);vertical-align:top}.card td{overflow-wrap:anywhere}
@media print{body{background:#fff}section,.tile{break-inside:avoid}}
"""
