"""What a training says of itself: log.jsonl, and TensorBoard's files where that is installed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

LOG = logging.getLogger(__name__)


class Log:
    """Appends to OUT/log.jsonl, an object per iteration, and writes the same to OUT/tensorboard.

    done: iterations that are logged already; TensorBoard, too, is to forget later ones. Raises OSError that names what
    cannot be written.
    """

    def __init__(self, out: Path, done: int = 0) -> None:
        self._path, self._folder = out / "log.jsonl", out / "tensorboard"
        self._file = open(self._path, "a")  # noqa: SIM115 - closed by __exit__
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            LOG.warning("no TensorBoard files: the package tensorboard is not installed; log.jsonl has it all")
            self._board = None
        else:
            self._board = SummaryWriter(str(self._folder), purge_step=done + 1 if done else None)

    def add(self, record: Mapping) -> None:
        """record: iteration, and numbers or dicts of numbers by name."""
        with _named(self._path):
            print(json.dumps(record), file=self._file, flush=True)
        if self._board:
            with _named(self._folder):  # what its thread could not write, it tells at a later call
                for name, value in record.items():
                    for key, number in (value.items() if isinstance(value, dict) else [("", value)]):
                        self._board.add_scalar(f"{name}/{key}" if key else name, number, record["iteration"])

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        with suppress(OSError) if kind else _named(self._folder):  # closing tries again what has failed before
            self._file.close()
            if self._board:
                self._board.close()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
