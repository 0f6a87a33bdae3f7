"""Files that appear complete or not at all, and folders for what is code."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

SHARED = stat.S_IWGRP | stat.S_IWOTH    # rights by which others than the owner may write


def write_atomically(path: Path, content: bytes | memoryview | str, private: bool = False) -> None:
    """Writes a temporary file beside `path` and renames it to `path`. private: with rights for the user alone.

    Folders that are missing are made. Raises OSError that names `path` (disk full, say); what was there before stays.
    """
    # Several machines may write to a shared disk, and containers have the same process ids.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o777)
        try:
            # A new file, never through a link that somebody put there.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            handle = os.open(temporary, flags, 0o600 if private else 0o666)
            with open(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def cache_folder(name: str) -> Path:
    """The user's own: $XDG_CACHE_HOME or ~/.cache, mss_models, `name`. It need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mss_models" / name


def private_folder(path: Path) -> Path:
    """A folder whose files are run without another look: made with rights 0700 where it is missing.

    Raises PermissionError for one that is not the user's, or that others may write to.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & SHARED:
        raise PermissionError(f"{path} belongs to user {status.st_uid} and has rights "
                              f"{stat.S_IMODE(status.st_mode):04o}; what is in it is run, so it must be yours "
                              f"({os.geteuid()}) and writable for you alone: chmod go-w {path}, or name another folder")
    return path
