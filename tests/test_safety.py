"""Nothing that is loaded can run code, and nothing that is run can be written by others."""

from __future__ import annotations

import ast
import json
import os
import stat

import numpy as np
import pytest
import torch
from conftest import ROOT

from mss_models import checkpoint, importing, teachers
from mss_models.checkpoint import CheckpointError
from mss_models.files import private_folder, write_atomically
from mss_models.importing import ImportingError
from mss_models.runtime import OptionError, open_runtime
from mss_models.runtime.compiled import CompiledRuntime
from mss_models.teachers import TeacherError
from training.datasets.sample import DatasetError, read_array
from training.recipe import to_dict
from training.recipes import RECIPES
from training.run_folder import TrainingError, load_state

FILES = sorted(path for package in ("mss_models", "mss_perception", "training", "launch")
               for path in (ROOT / package).rglob("*.py"))
# Calls that run what they read, and the argument with which they do not.
HARMLESS_WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
NEVER = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads",
         "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load", "torch.jit.load",
         "torch.hub.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}
SAFE_LOADERS = "_ParameterLoader if parameters else _Loader"    # of yaml.SafeLoader


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_call_runs_what_it_reads(path):
    for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
        name, given = ast.unparse(call.func), {one.arg: ast.unparse(one.value) for one in call.keywords}
        where = f"{path.relative_to(ROOT)}:{call.lineno}: {name}"
        assert name not in NEVER, where
        if name in HARMLESS_WITH:
            argument, value = HARMLESS_WITH[name]
            assert given.get(argument) == str(value), f"{where} needs {argument}={value}"
        if name == "yaml.load":
            assert ast.unparse(call.args[1]) == SAFE_LOADERS, where
        assert "shell" not in given and "trust_remote_code" not in given, where


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path):
    """(file with a pickle in PyTorch's format that makes a folder, the folder)."""
    file, folder = tmp_path / "weights.pth", tmp_path / "trapped"
    torch.save({"a": Trap(folder)}, file)
    torch.load(file, weights_only=False)
    assert folder.is_dir()      # it works on whoever is careless
    folder.rmdir()
    return file, folder


def resume(file):
    (file.parent / "recipe.json").write_text(json.dumps(to_dict(RECIPES[0])))
    load_state(RECIPES[0], {}, file.rename(file.parent / "state.pt").parent)


@pytest.mark.parametrize(("read", "error"), [
    (checkpoint.load, CheckpointError), (importing.read, ImportingError), (resume, TrainingError),
    (lambda file: teachers.read_weights(file.rename(file.parent / "pytorch_model.bin").parent), TeacherError),
    (lambda file: open_runtime(file.rename(file.with_suffix(".onnx"))), OptionError),
    (lambda file: open_runtime(file.rename(file.with_suffix(".safetensors"))), CheckpointError),
])
def test_a_pickle_in_place_of_weights_is_refused_unread(trap, read, error):
    file, folder = trap
    with pytest.raises(error):
        read(file)
    assert not folder.exists()


def test_a_pickled_array_in_place_of_numbers_is_refused_unread(tmp_path):
    np.save(tmp_path / "array.npy", np.array([Trap(tmp_path / "trapped")], object), allow_pickle=True)
    with pytest.raises(DatasetError):
        read_array(tmp_path / "array.npy")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("outside", ["../secret.bin", "{folder}/secret.bin"])
def test_a_graph_gets_nothing_from_outside_of_its_folder(tmp_path, outside):
    onnx = pytest.importorskip("onnx", reason="the graph is written with it")
    from fuzz import files

    (tmp_path / "secret.bin").write_bytes(bytes(64))
    model = onnx.load_model_from_string(files.graph())
    weights = next(one for one in model.graph.initializer if one.name == "labels_shape")
    weights.ClearField("raw_data"), weights.ClearField("int64_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", outside.format(folder=tmp_path)), ("length", "24")):
        weights.external_data.add(key=key, value=value)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OptionError, match="(?i)external data"):
        open_runtime(tmp_path / "sub" / "net.onnx", device="cpu", threads=1)


def test_a_folder_of_code_is_its_owners(tmp_path):
    assert stat.S_IMODE(private_folder(tmp_path / "new" / "cache").stat().st_mode) == 0o700
    for rights in (0o720, 0o702, 0o777):
        (tmp_path / "new" / "cache").chmod(rights)
        with pytest.raises(PermissionError, match=rf"rights {rights:04o}; .* chmod go-w"):
            private_folder(tmp_path / "new" / "cache")
    if os.geteuid() == 0:
        (tmp_path / "new" / "cache").chmod(0o700)
        os.chown(tmp_path / "new" / "cache", 4242, -1)
        with pytest.raises(PermissionError, match="belongs to user 4242"):
            private_folder(tmp_path / "new" / "cache")


def test_compiled_code_is_kept_in_the_users_cache_and_run_from_no_folder_of_others(tmp_path, monkeypatch):
    class Traced(CompiledRuntime):
        compiler = "eager"

    network = checkpoint.load(checkpoint.DEFAULT_CHECKPOINT)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Traced(network, "cpu", "fp32")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mss_models" / "inductor")
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    assert cache_dir() == str(tmp_path / "mss_models" / "inductor")
    (tmp_path / "mss_models" / "inductor").chmod(0o777)
    with pytest.raises(OptionError, match="TORCHINDUCTOR_CACHE_DIR: .* rights 0777"):
        Traced(network, "cpu", "fp32")


def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("mss_models.files.secrets.token_hex", lambda count: "guessed")
    (tmp_path / "other").write_text("somebody's")
    (tmp_path / ".net.onnx.guessed.tmp").symlink_to(tmp_path / "other")
    with pytest.raises(FileExistsError, match="net.onnx"):
        write_atomically(tmp_path / "net.onnx", b"graph")
    assert (tmp_path / "other").read_text() == "somebody's" and not (tmp_path / "net.onnx").exists()
    write_atomically(tmp_path / "net.onnx", b"graph")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.onnx", "other"]


@pytest.mark.parametrize("private, rights", [(False, 0o640), (True, 0o600)])
def test_a_written_file_has_the_rights_of_any_other_or_is_the_users_alone(tmp_path, private, rights):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"", private=private)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == rights
