"""What the commands share: options that are wrong give one line on stderr and exit status 2; signals to stop."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's, with the defaults in --help and without the usage above an error."""

    def __init__(self, **options) -> None:
        super().__init__(**{"formatter_class": argparse.ArgumentDefaultsHelpFormatter} | options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the options)\n")


def at_least(low: int) -> Callable[[str], int]:
    """The type of an integer option that is `low` or more."""
    def integer(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"{value} must be at least {low}")
        return value

    return integer


class StopSignals:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; a second one acts as usual."""

    def __enter__(self) -> StopSignals:
        self.requested = False
        self._before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(number, self._before[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
