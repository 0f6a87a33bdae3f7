"""What was decided, and what did not hold."""

from __future__ import annotations

from collections import Counter

MOST = 20       # violations that are kept: what is broken once is often broken all the time


class Verdict:
    """judged: how often each invariant was decided; one that was never put to the test proves nothing. violations:
    {invariant, details, seed, t_sec} in the order found: the first may be the cause of the others. t_sec: now."""

    def __init__(self, seed: int) -> None:
        self.seed, self.t_sec = seed, 0.0
        self.judged: Counter = Counter()
        self.violations: list[dict] = []

    def hold(self, invariant: str, holds: bool, *details) -> None:
        """Note that it was decided. details: joined to a text only where it does not hold."""
        self.judged[invariant] += 1
        if not holds and len(self.violations) < MOST:
            self.violations.append({"invariant": invariant, "details": " ".join(map(str, details)), "seed": self.seed,
                                    "t_sec": round(self.t_sec, 3)})
