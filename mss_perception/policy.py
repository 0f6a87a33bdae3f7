"""`python -m mss_perception.policy`: the SROS 2 policy of the node, for the topics of a configuration.

What the node may publish, subscribe and answer, and nothing else; peers need policies of their own. Names without `/`
are in the node's namespace. The format is that of sros2's policy.xsd, version 0.2.0.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from mss_perception.config import Config, ConfigError, absolute
from mss_perception.reference import PUBLISHED, SERVICES

NODE = "mss_perception"
# Of every lifecycle node of rclpy.
PUBLISHED_BY_ALL = ("/parameter_events", "/rosout", "~/transition_event")
SUBSCRIBED_BY_ALL = ("/clock",)         # under use_sim_time
SERVED_BY_ALL = ("~/get_type_description",)


def subscribed(config: Config) -> list[str]:
    """Topics that the node subscribes to, as the configuration names them."""
    used = config.used_topics()
    named = [topic for one in config.inputs.values() for topic in (one.topic, one.info_topic)]
    named += [config.odometry_topic, config.tf_topic, config.tf_static_topic]
    return [*dict.fromkeys(topic for topic in named if topic and absolute(topic) in used), *SUBSCRIBED_BY_ALL]


def published(config: Config) -> list[str]:
    """Topics that the node publishes; each view has its own when there are several."""
    views, names = config.target_cameras, [one.name for one in PUBLISHED]
    if len(views) > 1:
        names = [name for topic in names for name in (
            [topic] if topic in ("~/label_info", "/diagnostics") else
            [topic.replace("~/", f"~/{view}/") for view in views])]
    return [*names, *PUBLISHED_BY_ALL]


def services() -> list[str]:
    """Services that the node answers."""
    return [*(name for names in SERVICES for name in names.split(", ")), *SERVED_BY_ALL]


def policy(config: Config, namespace: str = "/") -> str:
    """The XML text. namespace: the node's."""
    rules = [("topics", 'subscribe="ALLOW"', "topic", subscribed(config)),
             ("topics", 'publish="ALLOW"', "topic", published(config)),
             ("services", 'reply="ALLOW"', "service", services())]
    return "\n".join([
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<!-- Written by `python -m mss_perception.policy`; how to use it: docs/operations.md. -->",
        '<policy version="0.2.0">', "  <enclaves>", f'    <enclave path="{namespace.rstrip("/")}/{NODE}">',
        "      <profiles>", f'        <profile ns="{namespace}" node="{NODE}">',
        *(line for rule in rules for line in _rule(*rule)),
        "        </profile>", "      </profiles>", "    </enclave>", "  </enclaves>", "</policy>", ""])


def _rule(group: str, allowed: str, element: str, names: Iterable[str]) -> list[str]:
    return [f"          <{group} {allowed}>", *(f"            <{element}>{escape(name)}</{element}>" for name in names),
            f"          </{group}>"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.policy", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, metavar="FILE", help="parameter file of the node (default: defaults)")
    parser.add_argument("--namespace", default="/", help="of the node (default: %(default)s)")
    options = parser.parse_args(argv)
    if not re.fullmatch(r"/|(/[A-Za-z_][A-Za-z0-9_]*)+", options.namespace):
        parser.error(f"--namespace {options.namespace} must be / or such as /robot/left")
    try:
        print(policy(Config.from_yaml(options.config) if options.config else Config(), options.namespace), end="")
    except ConfigError as error:
        print(f"policy: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
