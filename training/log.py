"""What a training says of itself: log.jsonl, and TensorBoard's files where that is installed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

LOG = logging.getLogger(__name__)


class Log:
    """Appends to OUT/log.jsonl, an object per iteration, and writes the same to OUT/tensorboard."""

    def __init__(self, out: Path) -> None:
        self._file = open(out / "log.jsonl", "a")  # noqa: SIM115 - closed by __exit__
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            LOG.warning("no TensorBoard files: the package tensorboard is not installed; log.jsonl has it all")
            self._board = None
        else:
            self._board = SummaryWriter(str(out / "tensorboard"))

    def add(self, record: Mapping) -> None:
        """record: iteration, and numbers or dicts of numbers by name. Raises OSError that names the file."""
        try:
            print(json.dumps(record), file=self._file, flush=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error
        if self._board:
            for name, value in record.items():
                for key, number in (value.items() if isinstance(value, dict) else [("", value)]):
                    self._board.add_scalar(f"{name}/{key}" if key else name, number, record["iteration"])

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # it tries again to write what `add` could not
            self._file.close()
        if self._board:
            self._board.close()
