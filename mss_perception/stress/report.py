"""The result of storms: stress.json, and the same for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def write(folder: Path, result: Mapping) -> None:
    """stress.json and report.txt."""
    (folder / "stress.json").write_text(json.dumps(result, indent=1))
    (folder / "report.txt").write_text(text(result) + "\n")


def text(result: Mapping) -> str:
    """The whole report."""
    violations = result["violations"]
    drops = sum(result["dropped"].values())
    lines = [
        f"{result['level']}: seed {result['seed']}, rate up to {result['rate']:g}, {result['seconds']:.0f} s"
        + (", interrupted" if result["interrupted"] else ""),
        f"{result['storms']} storms, {result['sensor_seconds'] / 3600:.2f} h of sensor time, {result['epochs']} epochs",
        f"{sum(result['messages'].values()):,} messages, {sum(result['faults'].values()):,} faults",
        f"{result['ticks']:,} ticks: {result['outputs']:,} outputs, {drops:,} drops",
        "VIOLATIONS: " + (str(len(violations)) if violations else "none"), ""]
    for one in violations:
        lines.append(f"  {one['invariant']}: {one['details']}")
        if one["repeat"]:       # else it is of the whole run
            lines.append("      " + (f"at {one['t_sec']} s of " if one["t_sec"] is not None else "") + one["repeat"])
    for title, counts in (("messages sent, by role", result["messages"]), ("faults", result["faults"]),
                          ("outputs that were dropped, by reason", result["dropped"]),
                          ("how often each invariant was decided", result["judged"])):
        lines += ["", title]
        lines += [f"  {count:12,}  {name}" for name, count in sorted(counts.items(), key=lambda one: -one[1])]
    if "memory_mb" in result:
        lines += ["", f"memory {result['memory_mb']['before']} -> {result['memory_mb']['after']} MB, threads "
                  f"{result['threads']['before']:g} -> {result['threads']['after']:g}"]
    return "\n".join(lines)
