"""The node's parameters: declared from config.Config, validated together at start and one by one while active."""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
from collections.abc import Callable

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from mss_perception.config import Config, ConfigError
from mss_perception.parameter_file import ROS_ONLY


def declare(node: Node) -> tuple[bool, Config]:
    """Declare all parameters and return `autostart` and the others, validated.

    Raises ConfigError that names every wrong one.
    """
    config, problems, autostart = Config(), {}, True
    try:
        autostart = node.declare_parameter("autostart", autostart, ParameterDescriptor(
            description="Configure and activate at start", read_only=True)).value
    except ParameterException as error:
        problems["autostart"] = str(error)

    def take(parameters) -> None:
        for name, default, declaration in parameters:
            try:
                given = given_at_start(node).get(name)
                integer = is_double_as_integer(given, default)
                config.set(name, node.declare_parameter(
                    name, float(given.value) if integer else default, descriptor(default, declaration),
                    ignore_override=integer).value)
            except (ParameterException, ConfigError) as error:  # go on: a user wants to see all of them at once
                problems[name] = str(error)

    take([next(config.parameters())])               # `inputs`, by which there are the parameters of each
    take(list(config.parameters())[1:])
    problems |= unlisted(node, config)
    return autostart, config.checked(problems)


def unlisted(node: Node, config: Config) -> dict[str, str]:
    """What is wrong with the given parameters that there are not, misspelt ones above all, which ROS itself overlooks.

    Those that are likely another node's are only warned of: a robot's file may have a section `/**` for all its nodes,
    and nothing tells what was given in it.
    """
    known, problems, foreign = {name for name, *_ in config.parameters()}, {}, []
    for name in sorted(given_at_start(node)):
        if name in known or name.partition(".")[0] in ROS_ONLY or node.has_parameter(name):
            continue
        if config.is_foreign(name):
            foreign.append(name)
            continue
        try:
            config.set(name, None)
        except ConfigError as error:
            problems[name] = str(error)
    if foreign:
        node.get_logger().warning(config.ignored(foreign))
    return problems


def given_at_start(node: Node) -> dict[str, Parameter]:
    """What was given by files and on the command line, declared or not. There is no public way to it."""
    return getattr(node, "_parameter_overrides", {})


def is_double_as_integer(given: Parameter | None, default) -> bool:
    """Whether a double is written without its point (`tick_rate_hz: 10`), which rclpy refuses and replay takes."""
    return isinstance(default, float) and given is not None and given.type_ == Parameter.Type.INTEGER


def one_line(error: Exception) -> str:
    """What is wrong as rcl says it, without the places in its source."""
    return " ".join(re.sub(r",? at /\S+:\d+", "", str(error)).split())


def descriptor(default, declaration: dataclasses.Field) -> ParameterDescriptor:
    """A ROS parameter descriptor from a field of config.py."""
    low, high = declaration.metadata["low"], declaration.metadata["high"]
    result = ParameterDescriptor(description=declaration.metadata["description"],
                                 read_only=not declaration.metadata["runtime"])
    if choices := declaration.metadata["choices"]:
        result.additional_constraints = "one of: " + ", ".join(choices)
    if low is not None or high is not None:
        if isinstance(default, float):
            result.floating_point_range = [FloatingPointRange(
                from_value=-sys.float_info.max if low is None else float(low),
                to_value=sys.float_info.max if high is None else float(high))]
        else:
            result.integer_range = [IntegerRange(from_value=-2**63 if low is None else low,
                                                 to_value=2**63 - 1 if high is None else high)]
    return result


def follow_changes(node: Node, config: Config, fits: Callable[[Config], None]) -> None:
    """Let the runtime parameters be changed: refuse what does not fit the others, else write it into `config`.

    fits(config): raises ConfigError for what the work that is going on cannot be given.
    """
    known = {name: default for name, default, _ in config.parameters()}

    def convert(parameters) -> list[Parameter]:
        return [Parameter(one.name, Parameter.Type.DOUBLE, float(one.value))
                if is_double_as_integer(one, known.get(one.name)) else one for one in parameters]

    def check(parameters) -> SetParametersResult:
        trial = copy.deepcopy(config)
        try:
            for one in parameters:
                if one.name in known:
                    trial.set(one.name, one.value)
            fits(trial.validate())
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def apply(parameters) -> None:
        for one in parameters:
            if one.name in known:
                config.set(one.name, one.value)
                node.get_logger().info(f"{one.name} is now {one.value}")

    node.add_pre_set_parameters_callback(convert)
    node.add_on_set_parameters_callback(check)
    node.add_post_set_parameters_callback(apply)
