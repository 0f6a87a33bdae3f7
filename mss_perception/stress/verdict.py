"""What was decided, and what was broken."""

from __future__ import annotations

from collections import Counter


class Verdict:
    """judged: how often each invariant was decided; one that was never put to the test proves nothing. violations:
    (invariant, details) in the order found: the first may be the cause of the others."""

    def __init__(self) -> None:
        self.judged: Counter = Counter()
        self.violations: list[tuple[str, str]] = []

    def hold(self, invariant: str, holds: bool, *details) -> None:
        """Note that it was decided. details: joined to a text only where it does not hold."""
        self.judged[invariant] += 1
        if not holds:
            self.violations.append((invariant, " ".join(map(str, details))))
