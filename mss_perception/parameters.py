"""What a parameter is: its declaration in config.py, its type, its range, and what a wrong value is called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from mss_perception.yaml_file import Repeated

INT64 = range(-2**63, 2**63)    # the integers of ROS


class ConfigError(ValueError):
    """A parameter is unknown, of the wrong type or out of range. The message names it, its value and what is right."""


def parameter(default, description: str, *, low=None, high=None, choices=None, runtime=False, factory=None):
    """A dataclass field that carries what a ROS parameter descriptor needs. `runtime`: may change while active."""
    metadata = {"description": description, "low": low, "high": high, "choices": choices, "runtime": runtime}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{a: {b: 1}} as {a.b: 1}. Raises ConfigError for a name that is given in both ways, or twice in its file."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Repeated):
            raise ConfigError(value.problem)
        inner = flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        if twice := sorted(set(inner) & set(flat)):
            raise ConfigError(f"{twice[0]} is given twice")
        flat.update(inner)
    return flat


def convert(name: str, value: Any, like: Any):
    """`value` in the type of `like`; an int is taken for a float, nothing else is guessed."""
    if value is None:       # rcl gives an empty list so, too
        raise ConfigError(f"{name} is empty, must be {type(like).__name__}")
    if isinstance(value, int) and not isinstance(value, bool):
        if value not in INT64:
            raise ConfigError(f"{name} has an integer of more than 64 bits")
        if isinstance(like, float):
            return float(value)
    if isinstance(like, list) and isinstance(value, (list, tuple)):
        if foreign := [item for item in value if not isinstance(item, str)]:
            raise ConfigError(f"{name} has the item {shown(foreign[0])}, which is {type(foreign[0]).__name__}, must be "
                              "str")
        return list(value)
    if type(value) is not type(like):
        raise ConfigError(f"{name} = {shown(value)} is {type(value).__name__}, must be {type(like).__name__}")
    return value


def wrong(name: str, value: Any, declaration) -> str:
    """What is wrong with a value by its declared range or choices; '' when nothing is."""
    low, high, choices = (declaration.metadata.get(key) for key in ("low", "high", "choices"))
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} = {value} is not finite"
    if low is not None and value < low or high is not None and value > high:
        return f"{name} = {value} is out of range [{low}, {'inf' if high is None else high}]"
    if choices and value not in choices:
        return f"{name} = {shown(value)} must be one of {', '.join(choices)}"
    return ""


def shown(value: Any) -> str:
    """repr, of a length for an error."""
    try:
        text = repr(value)
    except ValueError:      # Python writes no integer of thousands of digits, though it reads one in hexadecimal
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
