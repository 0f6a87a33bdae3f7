"""The repository root is an ament_python package: colcon builds it and installs all that a launch needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """ros2_ws built in a copy, so that the test leaves nothing in the checkout."""
    if shutil.which("colcon", path=Path(sys.executable).parent) is None:
        pytest.skip("colcon is not installed beside this interpreter")
    top = tmp_path_factory.mktemp("colcon")
    tracked = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT).splitlines()
    for name in tracked:
        source, target = ROOT / name, top / name
        if not (source.exists() or source.is_symlink()):
            continue  # deleted in the working tree
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    run(["colcon", "build", "--event-handlers", "console_direct+"], cwd=top / "ros2_ws", env=environment)
    return top / "ros2_ws"


def test_the_workspace_links_to_the_root():
    assert (ROOT / "ros2_ws/src/mss_perception").resolve() == ROOT


def test_colcon_installs_executables_launch_and_config(workspace):
    prefix = workspace / "install/mss_perception"
    share = prefix / "share/mss_perception"
    assert (prefix / "lib/mss_perception/segmentation_node").is_file()
    assert (prefix / "lib/mss_perception/replay").is_file()
    assert (share / "package.xml").is_file()
    assert {path.name for path in (share / "launch").iterdir()} >= {"delivery.launch.py", "replay.launch.py"}
    assert (share / "config/delivery.yaml").is_file()
    assert (prefix / "share/ament_index/resource_index/packages/mss_perception").is_file()


def test_colcon_installs_every_module_and_the_network(workspace):
    site = next((workspace / "install/mss_perception/lib").glob("python*/site-packages"))
    for package in ("benchmarks", "fuzz", "mss_models", "mss_perception", "training"):
        expected = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        missing = {str(name) for name in expected if not (site / name).is_file()}
        assert not missing, f"not installed (is the package listed in setup.py?): {sorted(missing)}"
    assert list((site / "mss_models/checkpoints").glob("*.safetensors")), "the shipped network is not installed"
    assert (site / "mss_models/minilm_deliver.json").is_file()


def test_installed_executable_names_its_arguments(workspace):
    """The executable that colcon writes starts with the interpreter that built it and finds the package."""
    prefix = workspace / "install/mss_perception"
    site = next((prefix / "lib").glob("python*/site-packages"))
    environment = dict(os.environ, PYTHONPATH=str(site))
    out = run([prefix / "lib/mss_perception/replay", "--help"], env=environment, cwd=workspace)
    assert "--fault" in out
