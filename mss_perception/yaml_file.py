"""YAML that people write by hand, parameter files and calibrations: the one loader for all of it.

What it reads are the values of ROS 2's parameter files (rcl_yaml_param_parser): null, booleans, integers, floats (1e-3
too), text, lists and mappings by name. Dates and base-60 numbers are text. It refuses what ROS refuses, aliases, which
can also recurse or grow without bound, and what would be misread in silence: a name that is given twice.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

MAX_BYTES = 1 << 18     # hundreds of times a parameter file; the loader takes seconds for as much
MAX_DEPTH = 32


class YamlError(ValueError):
    """A file cannot be read. The message, of one line, names the file, the place in it and what is wrong."""


def load(path: str | Path, what: str) -> object:
    """The content of a file of one YAML document. what: the word for it in errors. Raises YamlError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise YamlError(f"cannot read {what} {path}: {error.strerror}") from error
    except ValueError as error:     # a zero byte in the path
        raise YamlError(f"cannot read {what} {str(path)!r}: {error}") from error
    if len(data) > MAX_BYTES:
        raise YamlError(f"{what} {path} is larger than {MAX_BYTES >> 10} KiB: not written by hand")
    try:
        return yaml.load(data, _Loader)
    except yaml.reader.ReaderError as error:
        raise YamlError(f"{what} {path} must be text in UTF-8; it has 0x{error.character:02x} at position "
                        f"{error.position}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(f"{what} {path} is not YAML that can be used: {said}{where}") from error
    except (ValueError, LookupError) as error:      # a number of too many digits, an explicit tag that does not fit
        raise YamlError(f"{what} {path} holds a value that cannot be read: {error}") from error


class _Loader(yaml.SafeLoader):
    """See the module's text."""

    yaml_implicit_resolvers: dict = {}
    yaml_constructors = {tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items()
                         if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq",
                                                                      "map")}
    depth = 0

    def compose_node(self, parent, index):
        start = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*) are not supported, as in ROS; write the value out",
                                       problem_mark=start)
        if self.depth == MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=start)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node):
        text = super().construct_scalar(node)
        text.encode()       # half a surrogate pair, which could not even be printed, is a ValueError
        return text

    def construct_mapping(self, node, deep=False):
        names = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
                raise yaml.MarkedYAMLError(problem=f"{shown} stands where a name should, which is text; quote it",
                                           problem_mark=key.start_mark)
            if key.value in names:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
        ("int", r"[-+]?(0x[0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
         list("-+.0123456789"))):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
