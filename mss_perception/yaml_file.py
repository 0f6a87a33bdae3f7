"""YAML that people write by hand, parameter files and calibrations: the one loader for all of it.

What it reads are the values of ROS 2's parameter files (rcl_yaml_param_parser): null, booleans, integers, floats (1e-3
too), text, lists and mappings by name. Dates and base-60 numbers are text, and so are names, whatever they look like.
What would be misread in silence is refused: a name that is given twice. So are aliases, which can recurse or grow
without bound: all of them in parameter files, as in ROS; elsewhere those of more than a value or a list of values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

MAX_BYTES = 1 << 18     # hundreds of times a parameter file; the loader takes seconds for as much
MAX_DEPTH = 32
MAX_NODES = 1 << 17     # with what aliases repeat; as many as fit in MAX_BYTES without any


class YamlError(ValueError):
    """A file cannot be read. The message, of one line, names the file, the place in it and what is wrong."""


@dataclass(frozen=True)
class Repeated:
    """Stands for the value of a name that is given twice. problem: says so, with the place."""

    problem: str


def load(path: str | Path, what: str, parameters: bool = False) -> object:
    """The content of a file of one YAML document. what: the word for it in errors. Raises YamlError.

    parameters: it is a parameter file of ROS: y and n are booleans, as rcl reads them, no aliases, and a name that is
    given twice has a Repeated, because another node may own it.
    """
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
        return yaml.load(data, _ParameterLoader if parameters else _Loader)
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
    depth = nodes = 0

    def compose_node(self, parent, index):
        start, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        if alias:
            self.check_alias(start)
        if self.depth == MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=start)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.nodes += 1 + (len(node.value) if alias and isinstance(node, yaml.SequenceNode) else 0)
        if self.nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_NODES} values, with what aliases (*) repeat",
                                       problem_mark=start)
        return node

    def check_alias(self, mark) -> None:
        """Refuse an alias that could recurse or multiply. The nodes of lists without an end mark are still open."""
        node = self.anchors.get(self.peek_event().anchor)
        flat = isinstance(node, yaml.SequenceNode) and node.end_mark is not None \
            and all(isinstance(one, yaml.ScalarNode) for one in node.value)
        if node is not None and not flat and not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="aliases (*) can stand for a value or a list of values only; write this "
                                       "out", problem_mark=mark)

    def construct_scalar(self, node):
        text = super().construct_scalar(node)
        text.encode()       # half a surrogate pair, which could not even be printed, is a ValueError
        return text

    def construct_mapping(self, node, deep=False):
        result = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem=f"a {key.id} stands where a name should",
                                           problem_mark=key.start_mark)
            name = self.construct_scalar(key)
            result[name] = self.repeated(name, key.start_mark) if name in result else \
                self.construct_object(value, deep=True)
        return result

    def repeated(self, name: str, mark) -> object:
        """What a name has that is given twice."""
        raise yaml.MarkedYAMLError(problem=f"{name!r} is given twice", problem_mark=mark)


class _ParameterLoader(_Loader):
    """Of parameter files."""

    bool_values = {**_Loader.bool_values, "y": True, "n": False}

    def check_alias(self, mark) -> None:
        raise yaml.MarkedYAMLError(problem="aliases (*) are not supported, as in ROS; write the value out",
                                   problem_mark=mark)

    def repeated(self, name: str, mark) -> Repeated:
        return Repeated(f"{name!r} is given twice (line {mark.line + 1}, column {mark.column + 1})")


for _tag, _pattern, _first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
        ("int", r"[-+]?(0x[0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
         list("-+.0123456789"))):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_ParameterLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^[yYnN]$"), list("yYnN"))
