"""What a row of the table is, and how it is measured."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType


class Skipped(Exception):
    """A row cannot be measured here. The message says what it needs."""


@dataclass(frozen=True)
class Row:
    """Our work and a peer's on the same input, as functions without arguments.

    peer: None where there is none here; peer_name then says why. target: the largest ours / peer that meets the goal,
    None where none is set; with `absolute` it is of our own figure. A figure is seconds / amount, in `unit`; with
    `rate` it is amount / seconds, and the target the least. runs: how many are measured.
    """

    name: str
    peer_name: str
    ours: Callable[[], object]
    peer: Callable[[], object] | None
    target: float | None = None
    runs: int = 30
    unit: str = "ms"
    amount: float = 1e-3
    rate: bool = False
    absolute: bool = False

    def figure(self, seconds: float) -> float:
        return self.amount / seconds if self.rate else seconds / self.amount


@dataclass(frozen=True)
class Result:
    """A row that has been measured. target_of: what is to be at most the target, of a rate at least: 'ratio', which is
    ours / peer, or 'ours'. threads: of ours; a peer has as many."""

    name: str
    ours: float
    unit: str = "ms"
    peer: float | None = None
    peer_name: str = ""
    target: float | None = None
    target_of: str = "ours"
    rate: bool = False
    runs: int = 1
    threads: int = 1

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def met(self) -> bool | None:
        value = self.ratio if self.target_of == "ratio" else self.ours
        if self.target is None or value is None:
            return None
        return value >= self.target if self.rate else value <= self.target

    def as_json(self) -> dict:
        """Every field, ratio and met; figures to four digits."""
        return {key: float(f"{value:.4g}") if isinstance(value, float) else value
                for key, value in (asdict(self) | {"ratio": self.ratio, "met": self.met}).items()}


def measure(row: Row, runs: int | None = None) -> Result:
    """The medians of both sides, interleaved, after one run each to warm up. runs: None for the row's own number."""
    runs, sides = runs or row.runs, {"ours": row.ours, "peer": row.peer}
    times: dict[str, list[float]] = {side: [] for side, work in sides.items() if work}
    for side in times:
        sides[side]()
    for _ in range(runs):
        for side, seconds in times.items():
            started = time.perf_counter()
            sides[side]()
            seconds.append(time.perf_counter() - started)
    figures = {side: row.figure(statistics.median(seconds)) for side, seconds in times.items()}
    return Result(row.name, figures["ours"], row.unit, figures.get("peer"), row.peer_name, row.target,
                  "ours" if row.absolute else "ratio", row.rate, runs)


def optional(name: str) -> ModuleType:
    """A module of somebody else's. Raises Skipped where it is not installed, or cannot be loaded."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Skipped(f"{error.name} is not installed") from error
    except (ImportError, AttributeError, OSError) as error:     # for another NumPy; a library of the system is missing
        raise Skipped(f"{name} cannot be imported: {error}") from error
