"""Files of TensorRT engines: written whole and for their owner alone, read only if nobody else could have written them.

Deserialising an engine may run code that is in it. So a file is refused unless it is a regular file, no link, of the
user who reads it (or of root), to which neither the group nor others may write. What somebody else puts in its place
belongs to somebody else.

A file is MAGIC, the length of a JSON text (8 bytes, little endian), the text, the engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mss_models.files import SHARED, cache_folder, write_atomically
from mss_models.runtime.torch import OptionError

MAGIC = b"mss_models engine 1\n"


def default_folder() -> Path:
    """Where engines are cached: $XDG_CACHE_HOME or ~/.cache, mss_models/tensorrt."""
    return cache_folder("tensorrt")


def content_key(onnx: bytes, **made_with: Any) -> str:
    """The identity of an engine: of the graph's bytes and of everything JSON-ready that it was made with."""
    text = json.dumps(made_with, sort_keys=True)
    return hashlib.sha256(hashlib.sha256(onnx).digest() + text.encode()).hexdigest()[:32]


def write_engine(path: Path, header: Mapping[str, Any], engine: bytes) -> None:
    """The file appears complete, with rights 0600, or not at all; a missing folder is made with 0700.

    Raises OSError that names `path`.
    """
    text = json.dumps(header).encode()
    write_atomically(path, b"".join((MAGIC, len(text).to_bytes(8, "little"), text, engine)), private=True)


def read_engine(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and engine. Raises OptionError for a file that is missing, unsafe, foreign or cut off."""
    try:
        # Not through a link; what is checked is what is read. O_NONBLOCK: a pipe does not hold the open up.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            _check_status(path, os.fstat(handle))
            content = file.read()
    except OSError as error:
        reason = "it is a link, which others may turn" if path.is_symlink() else error.strerror
        raise OptionError(f"engine {path} cannot be read: {reason}") from error
    if not content.startswith(MAGIC):
        raise OptionError(f"{path} is no engine that this version of mss_models wrote; export it again")
    start = len(MAGIC) + 8
    end = start + int.from_bytes(content[len(MAGIC) : start], "little")
    try:
        header = json.loads(content[start:end])
        if not isinstance(header, dict) or len(content) - end != header["bytes"]:
            raise ValueError("its length is wrong")
    except (ValueError, KeyError, RecursionError) as error:
        raise OptionError(f"{path} is cut off or damaged; delete it, or export it again") from error
    return header, content[end:]


def _check_status(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OptionError(f"{path} is no regular file")
    if status.st_uid not in (os.geteuid(), 0):
        raise OptionError(f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()}): an engine may run "
                          "code, so only your own is read; delete it, or export it again")
    if status.st_mode & SHARED:
        raise OptionError(f"others may write to {path} (rights {stat.S_IMODE(status.st_mode):04o}): an engine may run "
                          f"code, so it is not used; if you trust it: chmod go-w {path}")
