"""Parameter files of ROS 2, as rcl reads them: which parameters are the node's, and which of them any node takes.

    /robot:
      mss_perception:
        ros__parameters: {tick_rate_hz: 5.0}

A node takes the sections of its name and of wildcards (`/**`, `/*`); where two give one parameter, the later counts.
Our node is taken to be in whatever namespace the file names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mss_perception import yaml_file
from mss_perception.parameters import ConfigError, flattened

NODE = "mss_perception"
# Parameters of the node that mean nothing to the pipeline; the last is rclpy's own.
ROS_ONLY = ("use_sim_time", "autostart", "qos_overrides", "start_type_description_service")


def read(path: str | Path) -> tuple[dict[str, Any], set[str]]:
    """Flat name -> value of our node's parameters, and those of the names that only sections for any node have.

    The file may be a plain mapping of the same names too. Raises ConfigError.
    """
    values, shared = _read(path)
    return {name: value for name, value in values.items() if name.partition(".")[0] not in ROS_ONLY}, shared


def uses_sim_time(path: str | Path) -> bool:
    """Whether our node takes its time from /clock by this file. Raises ConfigError."""
    return _read(path)[0].get("use_sim_time") is True


def _read(path: str | Path) -> tuple[dict[str, Any], set[str]]:
    """As `read`, with those of ROS_ONLY."""
    try:
        content = yaml_file.load(path, "configuration", parameters=True)
    except yaml_file.YamlError as error:
        raise ConfigError(str(error)) from error
    where = f"configuration {path}"
    if not isinstance(content, Mapping):
        held = "nothing" if content is None else type(content).__name__
        raise ConfigError(f"{where} holds {held}, not a mapping of parameters")
    try:
        sections = list(_sections(content))
        if not sections:
            values, shared = flattened(content), set()
        else:
            used = [(name, one) for name, one in sections if _last(name) in (NODE, "*", "**")]
            if not used:
                raise ConfigError(f"it has parameters of {', '.join(name for name, _ in sections)}, none of {NODE} or "
                                  "/**")
            nodes = {name.lstrip("/"): name for name, _ in used if "*" not in name}
            if len(nodes) > 1:
                raise ConfigError(f"it has parameters of several nodes, {', '.join(nodes.values())}; give a file of "
                                  "one")
            values, own = {}, set()
            for name, section in used:
                values |= (given := flattened(section))
                own |= set(given) if _last(name) == NODE else set()
            shared = set(values) - own
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return values, shared


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _sections(content: Mapping, above: str = "") -> Iterator[tuple[str, Mapping]]:
    """(node, its parameters) at any depth: namespaces may be levels of their own."""
    for key, value in content.items():
        name = f"{above}/{key}" if above else key
        if isinstance(value, yaml_file.Repeated):
            raise ConfigError(value.problem)
        elif key == "ros__parameters" and above:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{above}'s ros__parameters must be a mapping of parameters, {{}} for none")
            yield above, value
        elif isinstance(value, Mapping):
            yield from _sections(value, name)
