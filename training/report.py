"""The tables and the report of an evaluation, from the dict that evaluate.py makes."""

from __future__ import annotations

import base64
import html
import io

import matplotlib
import numpy as np

from mss_models.runtime import TorchRuntime
from training.datasets.deliver import Deliver
from training.protocols import singles_and_all

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (after the choice of backend)

STYLE = ("body{font:15px sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}"
         "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .6em;text-align:right;"
         "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}img{max-width:100%}")


def subset_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every subset's mIoU in both conventions and its margin over the class prior."""
    header = ["modalities", "mIoU (present classes)", "over class prior", "mIoU (published convention)",
              "over class prior"]
    rows = [[subset, *(f"{one[column]:.1f}" for column in ("miou_present", "margin_present", "miou_published",
                                                           "margin_published"))]
            for subset, one in metrics["subsets"].items()]
    for label, field in (("Average", "average"), ("Top-1", "top1"), ("Last-1", "last1")):
        rows.append([label, f"{metrics['summary']['miou_present'][field]:.1f}", "",
                     f"{metrics['summary']['miou_published'][field]:.1f}", ""])
    prior = metrics["prior"]
    return header, [*rows, ["class prior", f"{prior['miou_present']:.1f}", "", f"{prior['miou_published']:.1f}", ""]]


def condition_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mIoU (present classes) per condition and subset."""
    header = ["condition", *metrics["subsets"]]
    return header, [[name, *(f"{scores[subset]['miou_present']:.1f}" for subset in metrics["subsets"])]
                    for name, scores in metrics["conditions"].items()]


def class_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: per class its share of the labelled pixels and the IoU of each single, of all, of the prior."""
    chosen = list(metrics["subsets"])
    chosen = chosen[: len(metrics["modalities"])] + chosen[-1:]
    total = sum(metrics["class_pixels"].values())
    rows = []
    for name, pixels in metrics["class_pixels"].items():
        if pixels:
            ious = [metrics["subsets"][subset]["iou"][name] for subset in chosen] + [metrics["prior"]["iou"][name]]
            rows.append([name, f"{100 * pixels / total:.2f}", *("-" if iou is None else f"{iou:.1f}" for iou in ious)])
    return ["class", "% of pixels", *chosen, "class prior"], rows


def markdown(metrics: dict) -> str:
    """The tables as Markdown."""
    parts = [f"{metrics['frames']} frames of split `{metrics['split']}`, model `{metrics['model_id']}`. "
             "mIoU and IoU in percent.", _markdown(*subset_rows(metrics))]
    if "conditions" in metrics:
        parts.append(_markdown(*condition_rows(metrics)))
    parts.append(_markdown(*class_rows(metrics)))
    return "\n\n".join(parts) + "\n"


def page(metrics: dict, runtime: TorchRuntime, shown: Deliver) -> str:
    """One self-contained page: bars per subset, heat map of conditions, tables, and the frames of `shown`."""
    parts = [f"<h1>Any-modal evaluation</h1><p>{metrics['frames']} frames of split {html.escape(metrics['split'])}, "
             f"model {html.escape(metrics['model_id'])}, {metrics['precision']} on {metrics['device']}.<br>"
             f"<code>{html.escape(metrics.get('command', ''))}</code></p>",
             "<h2>Subsets of modalities</h2>", _figure(draw_bars(metrics)), _table(*subset_rows(metrics))]
    if "conditions" in metrics:
        parts += ["<h2>Conditions</h2>", _figure(draw_heat_map(metrics)), _table(*condition_rows(metrics))]
    parts += ["<h2>Classes</h2>", _table(*class_rows(metrics)), "<h2>Frames</h2>",
              *(_figure(draw_frame(runtime, shown, index)) for index in range(len(shown)))]
    return (f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>Evaluation</title><style>{STYLE}</style>"
            f"<body>{''.join(parts)}</body></html>\n")


def draw_bars(metrics: dict) -> plt.Figure:
    """mIoU of every subset beside the class prior's."""
    figure, axes = plt.subplots(figsize=(11, 3.5), layout="constrained")
    bars = axes.bar(list(metrics["subsets"]), [one["miou_present"] for one in metrics["subsets"].values()])
    axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.axhline(metrics["prior"]["miou_present"], color="black", linestyle="--", label="class prior")
    axes.set_ylabel("mIoU, present classes, %")
    axes.set_xticks(range(len(bars)), list(metrics["subsets"]), rotation=60, ha="right", fontsize=8)
    axes.margins(y=0.12)
    axes.legend()
    return figure


def draw_heat_map(metrics: dict) -> plt.Figure:
    """Conditions x subsets, mIoU of the present classes."""
    subsets, conditions = list(metrics["subsets"]), metrics["conditions"]
    values = np.array([[scores[subset]["miou_present"] for subset in subsets] for scores in conditions.values()])
    figure, axes = plt.subplots(figsize=(11, 1.5 + 0.45 * len(values)), layout="constrained")
    figure.colorbar(axes.imshow(values, cmap="viridis", aspect="auto"), label="mIoU, %")
    axes.set_xticks(range(len(subsets)), subsets, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(conditions)), list(conditions))
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8,
                  color="black" if value > middle else "white")
    return figure


def draw_frame(runtime: TorchRuntime, dataset: Deliver, index: int) -> plt.Figure:
    """One frame: its images above, the truth and the predictions from each modality alone and from all below."""
    sample = dataset[index]
    subsets = singles_and_all(runtime.modalities)
    pictures = [*sample.images.items(), ("truth", dataset.labels.colorize(sample.labels))]
    for subset in subsets:
        result = runtime({name: sample.images[name][None] for name in subset},
                         {name: np.array([name in subset]) for name in runtime.modalities})
        pictures.append(("from " + "+".join(subset), dataset.labels.colorize(result.labels[0])))
    columns = len(sample.images) + 1
    figure, axes = plt.subplots(2, columns, figsize=(2.4 * columns, 5.2), layout="constrained")
    figure.suptitle(sample.name, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, pictures, strict=False):  # one modality: the last place stays empty
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title, fontsize=8)
    return figure


def _figure(figure: plt.Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _table(header: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(header, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |"
                     for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows))
