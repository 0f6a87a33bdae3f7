"""Trials: the ways in which the protocols hand a frame to the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from training.protocols.subsets import Subset, all_subsets, key

RATES = (0.25, 0.5, 0.75)  # of random-missing values
LEVELS = ("low", "mid", "high")  # of noise

CLEAN, ZERO = "clean", "zero"  # versions of an image; further ones: 'rmm:0.5', 'rmm-block:0.5', 'nm:low'


@dataclass(frozen=True)
class Trial:
    """One way to hand over a frame. `subset`: the modalities that stay whole. `level`: rate or level of the damage."""

    protocol: str
    subset: Subset
    level: str = ""

    @property
    def name(self) -> str:
        """Its name in files and options: 'any-modal/rgb+lidar', 'rmm/0.5/rgb', 'nm/low/rgb+depth'."""
        return "/".join(filter(None, (self.protocol, self.level, key(self.subset))))

    def inputs(self, modalities: Sequence[str], missing: Set[str] = frozenset()) -> tuple[tuple[str, str], ...]:
        """(modality, version of its image) of every modality that is marked present; () where nothing is left.

        missing: those whose sensor gave nothing. any-modal leaves them out, the others hand over zeros.
        """
        if self.protocol == "any-modal":
            return tuple((name, CLEAN) for name in self.subset if name not in missing)
        other = ZERO if self.protocol == "emm" else f"{self.protocol}:{self.level}"
        versions = {name: CLEAN if name in self.subset and self.protocol != "nm" else other for name in modalities}
        return tuple((name, ZERO if name in missing else version) for name, version in versions.items())


def _per_subset(protocol: str, levels: Sequence[str] = ("",)) -> Callable[[Sequence[str]], list[Trial]]:
    return lambda modalities: [Trial(protocol, one, level) for level in levels for one in all_subsets(modalities)]


# What is counted -> its trials for a network's modalities.
COUNTED: dict[str, Callable[[Sequence[str]], list[Trial]]] = {
    "any-modal": _per_subset("any-modal"),
    "emm": _per_subset("emm"),
    **{f"{one}-{rate:g}": _per_subset(one, [f"{rate:g}"]) for one in ("rmm", "rmm-block") for rate in RATES},
    "nm": lambda modalities: [Trial("nm", tuple(modalities), level) for level in LEVELS],
}
# What looks at the counts of others: `conditions` at any-modal's by condition, rmm at those of all its rates.
COMPOSED: dict[str, list[str]] = {
    "conditions": ["any-modal"],
    **{one: [f"{one}-{rate:g}" for rate in RATES] for one in ("rmm", "rmm-block")},
}
PROTOCOLS = (*COUNTED, *COMPOSED)


def counted(protocols: Iterable[str]) -> list[str]:
    """The keys of COUNTED that protocols look at."""
    return list(dict.fromkeys(key for one in protocols for key in COMPOSED.get(one, [one])))


def trials_of(protocols: Iterable[str], modalities: Sequence[str]) -> list[Trial]:
    """The trials of protocols."""
    return [trial for one in counted(protocols) for trial in COUNTED[one](modalities)]
