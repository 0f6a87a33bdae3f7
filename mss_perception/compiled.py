"""numba's compiler for the per-pixel and per-point loops of the lanes."""

from __future__ import annotations

from numba import njit


def compiled(function):
    """Compile on first call, without the GIL, so that ROS callbacks run meanwhile; cached on disk where possible.

    Division by zero gives inf or NaN as in numpy, instead of a test and an exception at every division.
    """
    try:
        return njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:    # "no locator available": neither the package nor the user's cache folder can be written
        return njit(nogil=True, error_model="numpy")(function)
