"""What the commands share: options that are wrong give one line on stderr and exit status 2; signals to stop."""

from __future__ import annotations

import argparse
import os
import signal
from contextlib import suppress
from typing import NoReturn

from mss_perception.options import at_least

__all__ = ["Parser", "StopSignals", "at_least"]


class Parser(argparse.ArgumentParser):
    """argparse's, with the defaults in --help and without the usage above an error."""

    def __init__(self, **options) -> None:
        super().__init__(**{"formatter_class": argparse.ArgumentDefaultsHelpFormatter} | options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the options)\n")


class StopSignals:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; a second one acts as usual.

    notice: for the user, at the first.
    """

    def __init__(self, notice: str = "") -> None:
        self._notice = notice and f"\n{notice}\n"

    def __enter__(self) -> StopSignals:
        self.requested = False
        self._before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(number, self._before[number])
        with suppress(OSError):
            os.write(2, self._notice.encode())  # print may be at work in what the signal interrupts

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
