"""The report of an evaluation: one HTML file with everything inside, without scripts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape

from training.protocols.counts import Job
from training.report import charts
from training.report.pictures import FramePictures, frame_pictures
from training.report.published import DATA, differences, is_published_data
from training.report.style import STYLE
from training.report.tables import (
    Table,
    class_rows,
    condition_rows,
    frames_text,
    noise_rows,
    number,
    published_rows,
    robustness_columns,
    robustness_rows,
    skipped_text,
    source_text,
    subset_rows,
)


def page(metrics: Mapping, job: Job) -> str:
    """The whole document. Sections of what was not run are left out."""
    sections = [_head(metrics), _subsets(metrics), _conditions(metrics), _damaged(metrics), _classes(metrics),
                _published(metrics), _frames(frame_pictures(job)), _card(metrics)]
    return ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Evaluation</title>'
            f"<style>{STYLE}</style></head><body><main>" + "".join(sections) + "</main></body></html>\n")


def _section(title: str, body: str, note: str = "") -> str:
    note = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{note}{body}</section>"


def _head(metrics: Mapping) -> str:
    size = "whole images at their own size" if metrics["short_side"] is None else \
        f"images resized to a short side of {metrics['short_side']}, aligned up to 32"
    if metrics["window"]:
        size += f"; sliding windows of {metrics['window']}, stride {metrics['stride']}, logits averaged"
    size += "; scored at the " + ("labels' size" if metrics["score_at"] == "labels" else "network's size")
    facts = {"Network": f"{metrics['architecture']['system']}, model {metrics['model_id']}",
             "Data": f"{source_text(metrics)}: {frames_text(metrics)} (fingerprint {metrics['data']})",
             "Pixels": size, "Protocols": f"{', '.join(metrics['protocols'])}; seed {metrics['seed']}",
             "Computed": f"{metrics['precision']} on {metrics['device']}", "Command": metrics["command"] or "–"}
    tiles = []
    if "summary" in metrics:
        summary = metrics["summary"]["miou_present"]
        count = sum(one["miou_present"] is not None for one in metrics["subsets"].values())
        tiles = [("Average", number(summary["average"]), f"of {count} subsets"),
                 ("Top-1", number(summary["top1"]), summary["top1_subset"]),
                 ("Last-1", number(summary["last1"]), summary["last1_subset"])]
    if "emm" in metrics:
        tiles.append(("EMM average", number(metrics["emm"]["summary"]["miou_present"]["average"]),
                      "zeros, marked there"))
    if "composites" in metrics:
        tiles.append(("RobustSeg's mean", number(metrics["composites"]["miou_present"]["robustseg_mean"]),
                      "EMM, RMM and NM low"))
    if metrics["prior"]:
        tiles.append(("Class prior", number(metrics["prior"]["miou_present"]), "what knowing nothing scores"))
    shown = "".join(f'<div class="tile"><div class="name">{escape(name)}</div><div class="value">{value}</div>'
                    f'<p class="note">{escape(note)}</p></div>' for name, value, note in tiles)
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return (f'<h1>Evaluation</h1><dl class="facts">{rows}</dl><p class="note">mIoU in percent over the classes that '
            f'occur in the labels, unless it says otherwise.</p><div class="tiles">{shown}</div>')


def _subsets(metrics: Mapping) -> str:
    if "subsets" not in metrics:
        return ""
    rows = {subset: {"any-modal": one["miou_present"]} for subset, one in metrics["subsets"].items()}
    prior = metrics["prior"] and metrics["prior"]["miou_present"]
    return _section("Subsets of modalities", charts.bars(rows, prior, "class prior") + _table(subset_rows(metrics)),
                    "Absent modalities are marked absent. The dashed line is the class prior: at each pixel the class "
                    "that is most frequent there in the train split. In the published convention a class that does not "
                    "occur counts 0." + (" " + skipped_text(metrics) if metrics["skipped"] else ""))


def _conditions(metrics: Mapping) -> str:
    if "conditions" not in metrics:
        return ""
    rows = {name: {subset: one["miou_present"] for subset, one in scores.items()}
            for name, scores in metrics["conditions"].items()}
    header, cells = condition_rows(metrics)
    return _section("Conditions", charts.heat_map(rows, header[1:]) + "<details><summary>As a table</summary>"
                    f'<div class="wide">{_table((header, cells))}</div></details>',
                    "mIoU of the frames of one weather or one case; each frame counts for both of its own.")


def _damaged(metrics: Mapping) -> str:
    columns = robustness_columns(metrics)
    body = ""
    if columns:
        first = next(iter(columns.values()))
        chosen = {title: one for title, one in columns.items() if "blocks" not in title} or columns
        rows = {subset: {title: one["subsets"][subset]["miou_present"] for title, one in chosen.items()}
                for subset in first["subsets"]}
        legend = "".join(f'<span><i class="series{i}"></i>{escape(title)}</span>' for i, title in enumerate(chosen))
        body += f'<div class="legend">{legend}</div>{charts.bars(rows, None, "")}'
        body += f'<div class="wide">{_table(robustness_rows(metrics, "miou_present"))}</div>'
        body += "<details><summary>In the published convention</summary><div class=\"wide\">" \
            f"{_table(robustness_rows(metrics, 'miou_published'))}</div></details>"
    if "nm" in metrics:
        body += "<h3>Noise, and composites</h3>" + _table(noise_rows(metrics))
    return body and _section("Damaged modalities", body, "Every modality is marked present. EMM: those not named are "
                             "zero after normalisation. RMM: of their values this share is zero. NM: salt and pepper, "
                             "and Gaussian noise but on events, in all.")


def _classes(metrics: Mapping) -> str:
    return _section("Classes", f'<div class="wide">{_table(class_rows(metrics))}</div>', "IoU of the classes that "
                    "occur in the labels, and F1 and accuracy (found of what is there) from all modalities.")


def _published(metrics: Mapping) -> str:
    data = DATA.get(metrics["label_set"])
    tables = published_rows(metrics)
    if not tables:
        return ""
    unlike = differences(metrics) if is_published_data(metrics) else []
    alike = is_published_data(metrics) and not unlike
    note = f"Published on {data}, mIoU with an absent class counting 0."
    if unlike:
        note = (f"<b>Scored otherwise.</b> The data are {data}, but here it is {escape('; '.join(unlike))}. The "
                "figures are not comparable one to one. All in the published convention.")
    elif not alike:
        note = (f"<b>Other data.</b> The published values are of {data}'s public images; this network was scored on "
                f"other images with the same classes ({escape(frames_text(metrics))}). They show how the figures "
                "behave, not which network is better. All in the published convention.")
    body = "".join(f'<h3>{escape(title.capitalize())}</h3><div class="wide">{_table(one)}</div>'
                   for title, one in tables.items())
    css = "" if alike else ' class="other"'
    return _section("Published values", f"<div{css}>{body}</div>", note)


def _frames(pictures: list[FramePictures]) -> str:
    body = []
    for frame in pictures:
        rows = "".join('<div class="row">' + "".join(
            f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{base64.b64encode(file).decode()}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>" for caption, file in row) + "</div>"
            for row in frame.rows)
        body.append(f'<div class="frame"><h3>{escape(frame.name)}</h3>{rows}</div>')
    return _section("Frames", "".join(body), "Above the network's images and the truth, then what it sees from each "
                    "modality alone and from all, then its errors in red (share of the labelled pixels).")


def _card(metrics: Mapping) -> str:
    return _section("The network's card", f"<pre>{escape(json.dumps(metrics['card'], indent=1))}</pre>") \
        if metrics["card"] else ""


TEXT = ("backbone", "source")  # columns that hold no numbers, beside the first
OWN = ("this network", "Average", "Top-1", "Last-1")  # rows that stand out


def _table(table: Table) -> str:
    header, rows = table
    css = [f' class="text {name}"' if name in TEXT else "" for name in header]
    head = "".join(f"<th{one}>{escape(name)}</th>" for one, name in zip(css, header, strict=True))
    body = "".join(f'<tr{" class=own" if row[0] in OWN or row[0].startswith("E(") else ""}>'
                   + "".join(f"<td{one}>{escape(cell)}</td>" for one, cell in zip(css, row, strict=True)) + "</tr>"
                   for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
