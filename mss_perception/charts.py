"""The report's drawings as SVG text: timeline of states and faults, curves over time, confusion matrix.

Every function returns one `<svg>` element that scales to its column; colours come from the page's style sheet through
class names, so that light and dark pages both work. Times are seconds from the run's start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

WIDTH, LEFT, RIGHT = 1080, 74, 12
PLOT = WIDTH - LEFT - RIGHT
CURVE, BARS = 120, 170      # heights of the plots over time
COLUMNS = 540       # finest resolution of a curve: one value for every two pixels


def _x(t_sec: float, duration: float) -> float:
    return LEFT + PLOT * min(max(t_sec / duration, 0.0), 1.0)


def _svg(height: float, body: Sequence[str], label: str, width: float = WIDTH) -> str:
    return (f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label, quote=True)}">'
            + "".join(body) + "</svg>")


def _rect(x: float, y: float, width: float, height: float, css: str, title: str = "", extra: str = "") -> str:
    tip = f"<title>{escape(title)}</title>" if title else ""
    return (f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.4):.2f}" height="{height:.2f}" class="{css}" {extra}>'
            f"{tip}</rect>")


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def nice_step(span: float, most: int = 10) -> float:
    """The smallest of 1, 2, 5 x 10^n that divides `span` into at most `most` parts."""
    raw = max(span, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))


def _time_axis(y_top: float, y_bottom: float, duration: float) -> list[str]:
    step = nice_step(duration, 12)
    parts = []
    for i in range(int(duration / step + 1e-6) + 1):
        x = _x(i * step, duration)
        parts.append(f'<line x1="{x:.1f}" y1="{y_top}" x2="{x:.1f}" y2="{y_bottom}" class="grid"/>')
        parts.append(_text(x, y_bottom + 15, f"{i * step:g} s", "tick", "middle"))
    return parts


def timeline(rows: dict[str, list[tuple[float, str, bool]]], faults: dict[str, list[tuple[str, float, float]]],
             duration: float, frame_sec: float) -> str:
    """One lane per input: its faults as labelled bars, and below them the state of every frame.

    rows: input -> (t, state, frozen) per frame; faults: input -> (name, start, end); frame_sec: width of one frame.
    """
    fault_height, state_height, gap = 15, 18, 14
    body, y = [], 6.0
    for name, frames in rows.items():
        own = faults.get(name, [])
        levels = _stack(own)
        height = (max(levels.values(), default=-1) + 1) * (fault_height + 2)
        body.append(_text(LEFT - 10, y + height + state_height / 2 + 4, name, "row", "end"))
        for index, (fault, start, end) in enumerate(own):
            x0, x1 = _x(start, duration), _x(min(end, duration), duration)
            top = y + levels[index] * (fault_height + 2)
            body.append(_rect(x0, top, x1 - x0, fault_height, "fault", f"{name}: {fault} from {start:g} s"))
            room = int((x1 - x0 - 6) / 6.2)
            body.append(_text(x0 + 4, top + 11, fault if len(fault) <= room else fault[:max(room, 0)], "fault-name"))
        y += height
        for (state, frozen), run in groupby(frames, key=lambda one: one[1:]):
            run = list(run)
            x0, x1 = _x(run[0][0], duration), _x(run[-1][0] + frame_sec, duration)
            what = f"{name} {state}{' (frozen payload)' if frozen else ''}: {len(run)} frames from {run[0][0]:.2f} s"
            body.append(_rect(x0, y, x1 - x0, state_height, f"state {state}", what))
            if frozen:
                body.append(_rect(x0, y, x1 - x0, state_height, "frozen", what))
        y += state_height + gap
    pattern = ('<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
               'patternTransform="rotate(45)"><rect width="2" height="6" class="hatch"/></pattern></defs>')
    return _svg(y + 14, [pattern, *_time_axis(0, y - gap / 2, duration), *body], "state of every input over time")


def _stack(spans: Sequence[tuple[str, float, float]]) -> dict[int, int]:
    """Index of each span -> the lowest level at which it overlaps no earlier span."""
    ends: list[float] = []
    levels = {}
    for index, (_, start, end) in enumerate(spans):
        level = next((i for i, until in enumerate(ends) if until <= start), len(ends))
        ends[level:level + 1] = [end]
        levels[index] = level
    return levels


def curve(points: list[tuple[float, float]], duration: float, top: float, unit: str) -> str:
    """One value over time, as a line with dots; `top` is the axis' upper end."""
    def y_of(value: float) -> float:
        return 8 + (CURVE - 16) * (1 - min(value / top, 1.0))

    body = [*_value_axis(top, unit, y_of), *_time_axis(8, CURVE - 8, duration)]
    thin = _thinned(points)
    path = " ".join(f"{_x(t, duration):.1f},{y_of(value):.1f}" for t, value in thin)
    body.append(f'<polyline points="{path}" class="line"/>')
    if len(thin) <= 240:
        body += [f'<circle cx="{_x(t, duration):.1f}" cy="{y_of(v):.1f}" r="2" class="line-dot">'
                 f"<title>{t:.2f} s: {v:.1f} {escape(unit)}</title></circle>" for t, v in thin]
    return _svg(CURVE + 14, body, f"{unit} over time")


def stacked_bars(columns: list[tuple[float, list[float]]], stages: Sequence[str], duration: float, frame_sec: float,
                 unit: str) -> str:
    """Values of every stage on top of each other, one bar per frame. columns: (t, value per stage).

    Bars beyond 1.15 times the 99.5th percentile are cut: one slow first frame must not flatten the rest; its title
    still tells.
    """
    columns = _worst_of(columns, duration)
    totals = sorted(sum(values) for _, values in columns)
    top = 1.15 * max(totals[math.ceil(0.995 * len(totals)) - 1] if totals else 1.0, 1e-3)

    def y_of(value: float) -> float:
        return 8 + (BARS - 16) * (1 - min(value / top, 1.0))

    body = [*_value_axis(top, unit, y_of), *_time_axis(8, BARS - 8, duration)]
    step = max(frame_sec, duration / COLUMNS)
    for t, values in columns:
        base, x0 = 0.0, _x(t, duration)
        width = max(1.0, 0.82 * (_x(t + step, duration) - x0))
        for index, (stage, value) in enumerate(zip(stages, values, strict=True)):
            y = y_of(base + value)
            body.append(_rect(x0, y, width, y_of(base) - y, f"stage{index}", f"{t:.2f} s: {stage} {value:.1f} {unit}"))
            base += value
    return _svg(BARS + 14, body, "time of each stage, frame by frame")


def _value_axis(top: float, unit: str, y_of) -> list[str]:
    step = nice_step(top, 5)
    parts = []
    for i in range(int(top / step + 1e-6) + 1):
        y = y_of(i * step)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(LEFT - 10, y + 4, f"{i * step:g} {unit}", "tick", "end"))
    return parts


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most COLUMNS points; each stands for its neighbours by their lowest value."""
    size = math.ceil(len(points) / COLUMNS) or 1
    return [min(points[i:i + size], key=lambda one: one[1]) for i in range(0, len(points), size)]


def _worst_of(columns: list[tuple[float, list[float]]], duration: float) -> list[tuple[float, list[float]]]:
    """At most COLUMNS bars; each stands for its neighbours by the slowest."""
    step = duration / COLUMNS
    worst: dict[int, tuple[float, list[float]]] = {}
    for t, values in columns:
        key = int(t / step)
        if key not in worst or sum(values) > sum(worst[key][1]):
            worst[key] = (t, values)
    return [worst[key] for key in sorted(worst)]


def confusion_matrix(shares: Sequence[Sequence[float]], names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Heat map: rows are the true classes, columns the predicted ones; `shares` (K, K) are 0..1 of the row."""
    cell = 34 if len(names) <= 16 else 26
    left, top = 120, 96
    body = []
    for i, name in enumerate(names):
        centre = i * cell + cell / 2
        body.append(_text(left - 8, top + centre + 4, name, "tick", "end"))
        body.append(f'<text transform="translate({left + centre + 4:.1f},{top - 8}) rotate(-50)" class="tick">'
                    f"{escape(name)}</text>")
        for j, other in enumerate(names):
            share = shares[i][j]
            # The square root of the share: rare confusions must be visible.
            css = "hit" if i == j else "miss"
            x, y = left + j * cell, top + i * cell
            body.append(_rect(x, y, cell - 1, cell - 1, "cell"))
            body.append(_rect(x, y, cell - 1, cell - 1, css, f"{name} seen as {other}: {100 * share:.1f} % "
                              f"({counts[i][j]:,} pixels)", f'fill-opacity="{math.sqrt(share):.3f}"'))
            if share >= 0.005:
                shade = "on-dark" if share > 0.35 else "on-light"
                body.append(_text(x + cell / 2 - 0.5, y + cell / 2 + 3, f"{100 * share:.0f}", f"share {shade}",
                                  "middle"))
    size = len(names) * cell
    return _svg(top + size + 4, body, "confusion matrix", left + size + 60)
