"""The drawings of an evaluation as SVG text that scales to its column; colours are the page's, by class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from training.report.style import STYLE

WIDTH, LEFT = 1080, 200


def bars(rows: Mapping[str, Mapping[str, float | None]], mark: float | None, mark_name: str) -> str:
    """Horizontal bars in percent. rows: name -> {series: value}; a single series is written beside its bars.

    mark: a value drawn as a line through all rows.
    """
    series = list(dict.fromkeys(name for values in rows.values() for name in values))
    top = max([10, *(value for values in rows.values() for value in values.values() if value is not None), mark or 0])
    scale = (WIDTH - LEFT - 60) / top
    body, y = [], 0.0
    height = 18 if len(series) == 1 else 8  # of a bar
    row = height * len(series) + 6
    for name, values in rows.items():
        body.append(_text(LEFT - 10, y + row / 2 + 4, name, "", "end"))
        for index, one in enumerate(series):
            value = values.get(one)
            if value is None:
                continue
            top_edge = y + 3 + index * height
            body.append(f'<rect x="{LEFT}" y="{top_edge:.1f}" width="{max(value * scale, 0.5):.1f}" '
                        f'height="{height - 0.5:.1f}" class="series{index}"><title>{escape(name)}, {escape(one)}: '
                        f"{value:.1f} %</title></rect>")
            if len(series) == 1:
                body.append(_text(LEFT + value * scale + 6, y + row / 2 + 4, f"{value:.1f}", "tick"))
        y += row
    if mark is not None:
        x = LEFT + mark * scale
        body.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{y:.1f}" class="limit"><title>{escape(mark_name)}: '
                    f"{mark:.1f} %</title></line>")
    return _svg(WIDTH, y + 2, body, "mIoU of every subset")


def heat_map(rows: Mapping[str, Mapping[str, float | None]], columns: Sequence[str]) -> str:
    """A table of percentages whose cells are the fuller the higher. rows: name -> {column: value}."""
    known = [value for values in rows.values() for value in values.values() if value is not None]
    low, high = min(known, default=0), max(known, default=1)
    left, top, right, height = 130, 122, 90, 26
    width = (WIDTH - left - right) / max(len(columns), 1)
    body = []
    for j, column in enumerate(columns):
        body.append(f'<text transform="translate({left + (j + 0.5) * width:.1f},{top - 8}) rotate(-45)" class="tick">'
                    f"{escape(column)}</text>")
    for i, (name, values) in enumerate(rows.items()):
        y = top + i * height
        body.append(_text(left - 8, y + height / 2 + 4, name, "", "end"))
        for j, column in enumerate(columns):
            value = values.get(column)
            share = 0.0 if value is None else (value - low) / max(high - low, 1e-9)
            x = left + j * width
            text = "–" if value is None else f"{value:.1f}"
            body.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{height - 1}" class="heat" '
                        f'fill-opacity="{0.05 + 0.95 * share:.3f}"><title>{escape(name)}, {escape(column)}: {text}'
                        "</title></rect>")
            body.append(_text(x + width / 2, y + height / 2 + 4, text, "on-dark" if share > 0.8 else "", "middle"))
    return _svg(WIDTH, top + height * len(rows) + 2, body, "mIoU with every subset")


def standalone(drawing: str) -> str:
    """A drawing as the content of a file, with its colours, on a ground of its own."""
    tag, body = drawing.split(">", 1)
    return f'{tag} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}svg{{background:var(--panel)}}</style>{body}'


def _svg(width: float, height: float, body: Sequence[str], label: str) -> str:
    return (f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label, quote=True)}">'
            + "".join(body) + "</svg>")


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'
