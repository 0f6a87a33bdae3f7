"""The compiler wrapper where numba has no folder to cache in, as on a read-only installation."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from mss_perception.compiled import compiled

# A function without a source file: numba has nowhere to put its cache, just as when no folder can be written.
SOURCE = "def total(values):\n    s = 0.0\n    for v in values:\n        s += 1.0 / v\n    return s\n"


def test_compiles_where_nothing_can_be_cached():
    scope: dict = {}
    exec(SOURCE, scope)
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(scope["total"])
    assert compiled(scope["total"])(np.array([2.0, 4.0])) == 0.75


def test_division_by_zero_is_infinite():
    scope: dict = {}
    exec(SOURCE, scope)
    assert compiled(scope["total"])(np.array([0.0])) == np.inf
