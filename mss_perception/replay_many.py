"""Replays of many bags: each into a folder of its own, by several processes, and what they add up to on top.

    DIR/BAG/        of each bag, as if it had been replayed alone
    DIR/metrics.json, report.html   the figures of all frames together (scoring.Tally), and a row for each bag
    DIR/run.json    what was asked; with --resume it must be the same

A bag is done when its metrics.json is there. One that fails is named, and the others go on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mss_models.labels import LabelSet
from mss_perception import cluster
from mss_perception.bags import bag_bytes
from mss_perception.recording import RunError, begin, clear, goes_on, is_finished, of_bag
from mss_perception.scoring import Tally

log = logging.getLogger(__name__)

OF_A_ROW = ("ticks", "outputs", "dropped", "mask_checked", "mask_wrong", "miou", "frames_by_mask", "miou_by_mask",
            "latency_ms", "no_output")


@dataclass
class Outcome:
    """What came of a bag. row: its line in metrics.json's `bags`. tally: None where it failed."""

    bag: Path
    row: dict
    tally: Tally | None = None


@dataclass(frozen=True)
class Series:
    """What is the same for all bags of a folder.

    folder: of the bags. out: for the results. replay: replays (bag, folder), going on with what the folder holds.
    asked: the settings of its run.json that do not depend on the bag. report: whether pages are made.
    """

    folder: Path
    out: Path
    replay: Callable[[Path, Path], object]
    asked: Mapping
    label_set: LabelSet
    report: bool

    def start(self, bags: Sequence[Path], resume: bool) -> None:
        """Make the folder. What earlier replays left there is deleted, unless it is to be gone on with.

        Raises RunError when the folder holds something else, or with `resume` a run of other settings.
        """
        settings = {"bag": str(self.folder.resolve())} | self.asked
        if resume and goes_on(self.out, settings):
            return
        for folder in () if resume else [self.out / bag.name for bag in bags]:
            clear(folder)
        clear(self.out)
        begin(self.out, settings)

    def has_done(self, bag: Path) -> bool:
        return is_finished(self.out / bag.name, of_bag(bag) | self.asked, self.report)

    def __call__(self, bag: Path) -> Outcome:
        """Replay a bag, unless that is done, and count what came of it."""
        folder = self.out / bag.name
        try:
            if not self.has_done(bag):
                self.replay(bag, folder)
            metrics = json.loads((folder / "metrics.json").read_text())
            tally = Tally.of(self.label_set, metrics, _records(folder / "frames.jsonl"))
        except (ValueError, OSError) as error:
            return self._failed(bag, str(error))
        except Exception as error:      # what breaks on one bag must not cost the others
            log.exception("bag %s", bag)
            return self._failed(bag, f"{type(error).__name__}: {error}")
        row = {"name": bag.name, "failure": "", "report": f"{bag.name}/report.html" if self.report else ""}
        return Outcome(bag, row | {name: metrics[name] for name in OF_A_ROW}, tally)

    def _failed(self, bag: Path, why: str) -> Outcome:
        return Outcome(bag, {"name": bag.name, "failure": why, "report": ""})


def outcomes(series: Series, bags: Sequence[Path], jobs: int, on_cluster: bool, *, gpu: bool,
             within: Callable[[], AbstractContextManager], progress: bool = True) -> list[Outcome]:
    """Of every bag, in their order. The parameters are those of cluster.run. Raises ProcessKilled."""
    size = {bag: bag_bytes(bag) for bag in bags}
    left = {bag for bag in bags if not series.has_done(bag)}
    largest_first = sorted(bags, key=lambda bag: -size[bag])        # so that at the end none is waited for alone
    found = {}
    with tqdm(total=sum(size.values()), initial=sum(size[bag] for bag in bags if bag not in left), desc="replay",
              unit="B", unit_scale=True, dynamic_ncols=True, disable=not progress) as bar:
        for outcome in cluster.run(series, largest_first, jobs, on_cluster, gpu=gpu, within=within):
            found[outcome.bag] = outcome
            bar.set_postfix_str(f"{len(found)} of {len(bags)} bags", refresh=False)
            bar.update(size[outcome.bag] if outcome.bag in left else 0)
    return [found[bag] for bag in bags]


def merge(label_set: LabelSet, found: Iterable[Outcome]) -> dict:
    """The content of the metrics.json on top: the figures of all frames together, and `bags`, a row for each."""
    total, rows = Tally(label_set), []
    for outcome in found:
        rows.append(outcome.row)
        if outcome.tally is not None:
            total += outcome.tally
    return total.figures() | {"bags": rows}


def _records(path: Path) -> Iterator[dict]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise RunError(f"{path} is damaged in line {number}; delete {path.parent} to replay the bag anew"
                               ) from error
