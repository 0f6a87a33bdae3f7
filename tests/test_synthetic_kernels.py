"""numba's cache on disk notices a change in the kernel's own file only: what a kernel uses must be in it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import training.synthetic

MODULES = [one.name for one in pkgutil.iter_modules(training.synthetic.__path__, "training.synthetic.")]
WITHOUT_STATE = {"np", "numpy", "math", "compiled"}


def borrowed_by_kernels(source: str) -> set[str]:
    """Names from other files that the @compiled functions of a file use, also by way of its module-level values."""
    tree = ast.parse(source)
    imported = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
                for alias in node.names}
    values, kernels = {}, []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names = {one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)}
            values |= dict.fromkeys(names, node.value)
        elif isinstance(node, ast.FunctionDef) and "compiled" in map(ast.unparse, node.decorator_list):
            kernels.append(node)
    waiting, seen = list(kernels), set()
    while waiting:
        for one in ast.walk(waiting.pop()):
            if isinstance(one, ast.Name) and one.id not in seen:
                seen.add(one.id)
                waiting += [values[one.id]] if one.id in values else []
    return (seen & imported) - WITHOUT_STATE


@pytest.mark.parametrize("name", MODULES)
def test_kernels_use_nothing_of_other_files(name):
    assert borrowed_by_kernels(Path(importlib.import_module(name).__file__).read_text()) == set()


def test_the_check_finds_calls_and_constants():
    source = ("import math\nfrom other import f, TABLE, unused\nSIZE = TABLE['x'] + 1\n"
              "@compiled\ndef kernel(x):\n    return f(x) * SIZE + math.pi\n"
              "def plain(x):\n    return unused(x)\n")
    assert borrowed_by_kernels(source) == {"f", "TABLE"}
