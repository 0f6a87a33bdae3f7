"""The TensorRT backend as far as it goes without TensorRT: files, keys, profiles, refusals."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mss_models.checkpoint import DEFAULT_CHECKPOINT, load
from mss_models.runtime import OptionError, engine_file
from mss_models.runtime.engine_file import content_key, default_folder, read_engine, write_engine
from mss_models.runtime.exported import Metadata
from mss_models.runtime.tensorrt import Profile, check_made_here, check_shape
from mss_models.system import InputError

ENGINE = bytes(range(256)) * 3
HEADER = {"metadata": "{}", "bytes": len(ENGINE)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "cache" / "net.engine"
    write_engine(path, HEADER, ENGINE)
    return path


def test_an_engine_is_written_for_its_owner_alone_and_read_back(file):
    assert read_engine(file) == (HEADER, ENGINE)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(file.parent.iterdir()) == [file]


def test_whatever_the_umask(tmp_path):
    program = ("import os, sys; os.umask(0); from pathlib import Path\n"
               "from mss_models.runtime.engine_file import write_engine\n"
               "write_engine(Path(sys.argv[1]), {'bytes': 1}, b'x')")
    path = tmp_path / "cache" / "net.engine"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("rights", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(file, rights):
    file.chmod(rights)
    with pytest.raises(OptionError, match=rf"others may write to .*net.engine \(rights {rights:04o}\)"):
        read_engine(file)


def test_a_file_of_somebody_else_is_refused(file, monkeypatch):
    if os.geteuid() == 0:  # the real thing
        os.chown(file, 4242, -1)
        owner = 4242
    else:
        owner = os.geteuid()
        monkeypatch.setattr(engine_file.os, "geteuid", lambda: owner + 1)
    with pytest.raises(OptionError, match=f"belongs to user {owner}, not to you"):
        read_engine(file)


def test_a_link_a_pipe_a_folder_and_nothing_are_refused(file, tmp_path):
    (tmp_path / "link.engine").symlink_to(file)
    os.mkfifo(tmp_path / "pipe.engine")
    (tmp_path / "folder.engine").mkdir()
    for name, message in (("link", "it is a link"), ("pipe", "no regular file"), ("folder", "no regular file|director"),
                          ("none", "No such file")):
        with pytest.raises(OptionError, match=message):
            read_engine(tmp_path / f"{name}.engine")


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:30],
                                    lambda data: data[:20] + b"\xff" * 8 + data[28:],
                                    lambda data: data.replace(b'"bytes"', b'"bites"')])
def test_a_cut_or_damaged_file_is_refused(file, change):
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(OptionError, match="cut off or damaged"):
        read_engine(file)


def test_a_foreign_file_is_refused(file):
    file.write_bytes(b"ptrt" + ENGINE)
    with pytest.raises(OptionError, match="no engine that this version"):
        read_engine(file)


def test_a_write_that_fails_leaves_what_was_there(file, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left.*net.engine"):
        write_engine(file, HEADER | {"bytes": 1}, b"y")
    assert read_engine(file) == (HEADER, ENGINE) and list(file.parent.iterdir()) == [file]


def test_the_key_changes_with_everything_that_an_engine_depends_on():
    made_with = {"tensorrt": "11.0.0", "gpu": "A", "capability": [9, 0], "precision": "fp16",
                 "profile": {"batch": (1, 1, 4), "sizes": ((64, 64),) * 3}}
    keys = {content_key(b"graph", **made_with), content_key(b"other", **made_with)}
    for name, value in (("tensorrt", "11.0.1"), ("gpu", "B"), ("capability", [8, 0]), ("precision", "fp32"),
                        ("profile", {"batch": (1, 1, 8), "sizes": ((64, 64),) * 3})):
        keys.add(content_key(b"graph", **made_with | {name: value}))
    assert len(keys) == 7 and content_key(b"graph", **made_with) in keys


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "mss_models" / "tensorrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "mss_models" / "tensorrt"


def test_profiles():
    network = load(DEFAULT_CHECKPOINT)
    height, width = network.image_size
    fixed = Profile.of(Metadata.of(network, (50, 70), "fp16"), (1, 2, 3))
    assert fixed.shapes(4) == {"images": [(1, 4, 50, 70, 3), (2, 4, 50, 70, 3), (3, 4, 50, 70, 3)],
                               "present": [(1, 4), (2, 4), (3, 4)]}
    free = Profile.of(Metadata.of(network, None, "fp16")).shapes(4)["images"]
    assert free == [(1, 4, height // 2, width // 2, 3), (1, 4, height, width, 3), (4, 4, 2 * height, 2 * width, 3)]
    check_shape((4, 4, height, 2 * width, 3), free)
    for shape in ((5, 4, height, width, 3), (1, 4, height // 2 - 1, width, 3), (1, 4, height, 2 * width + 1, 3)):
        with pytest.raises(InputError, match="outside of what the engine takes"):
            check_shape(np.empty(shape, np.uint8).shape, free)
    for batch, sizes in (((2, 1, 4), ((8, 8),) * 3), ((0, 1, 1), ((8, 8),) * 3), ((1, 1, 1), ((8, 8), (8, 9), (9, 8)))):
        with pytest.raises(OptionError, match="must rise"):
            Profile(batch, sizes)


def test_an_engine_of_another_version_or_gpu_is_refused():
    here = {"tensorrt": "11.0.0", "gpu": "A", "capability": [9, 0]}
    check_made_here({"metadata": "", **here}, here, "net.engine")
    for name, value in (("tensorrt", "10.0.0"), ("gpu", "B"), ("capability", [8, 9])):
        with pytest.raises(OptionError, match=f"net.engine was built for {name} .* export it here"):
            check_made_here(here | {name: value}, here, "net.engine")
