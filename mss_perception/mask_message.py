"""The modality mask of a set as diagnostic_msgs/DiagnosticArray: what the node publishes, and a replay's bag holds.

Under the output's stamp there is first a summary, then one status per input. The summary's values are t_ref, epoch,
deadline_hit, extrapolated_ns, the reason if it was dropped, each input's 0 or 1, and the set's latencies as
`<stage>_ms`; an input's message is its state, its values are what is known of its sample.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from mss_perception.messages import encode_header
from mss_perception.scoring import mask_name

LEVELS = {"OK": "OK", "HELD": "OK", "DISABLED": "OK", "LATE": "WARN", "MISSING": "WARN", "INVALID": "ERROR",
          "STALE": "STALE"}
"""State of an input -> level of its status."""


def mask_message(types, record: Mapping):
    """The message of one set, given as Output.record. types: as of mss_perception.messages."""
    mask, inputs = record["mask"], record["inputs"]
    summary = {"t_ref": record["t_ref"], "epoch": record["epoch"], "deadline_hit": record["deadline_hit"],
               "extrapolated_ns": record["extrapolated_ns"], "dropped": record["dropped"],
               **{name: int(used) for name, used in mask.items()},
               **{f"{stage}_ms": value for stage, value in record["latency_ms"].items()}}
    degraded = sum(mask.values()) < sum(one["state"] != "DISABLED" for one in inputs.values())
    level = "ERROR" if record["dropped"] else "WARN" if degraded else "OK"
    statuses = [status(types, "modality_mask", level, mask_name(mask), summary)]
    statuses += [status(types, f"modality_mask/{name}", LEVELS[one["state"]], one["state"],
                        {key: value for key, value in one.items() if key != "state"}) for name, one in inputs.items()]
    header = encode_header(types, record["t_ref"], record["frame_id"])
    return types.DiagnosticArray(header=header, status=statuses)


def read_mask_message(message) -> dict:
    """What mask_message was made of; floats come back with the digits that were written."""
    head, *rest = message.status
    summary = values_of(head)
    inputs = {one.name.partition("/")[2]: {"state": one.message, **values_of(one)} for one in rest}
    return {"t_ref": summary["t_ref"], "epoch": summary["epoch"], "deadline_hit": summary["deadline_hit"],
            "extrapolated_ns": summary["extrapolated_ns"], "dropped": summary.get("dropped"),
            "mask": {name: bool(summary[name]) for name in inputs}, "inputs": inputs,
            "frame_id": message.header.frame_id,
            "latency_ms": {name.removesuffix("_ms"): value for name, value in summary.items() if name.endswith("_ms")}}


def status(types, name: str, level: str, message: str, values: Mapping):
    """One DiagnosticStatus. level: OK, WARN, ERROR or STALE; values that are not known (None) are left out."""
    pairs = [types.KeyValue(key=key, value=text(value)) for key, value in values.items() if value is not None]
    return types.DiagnosticStatus(level=getattr(types.DiagnosticStatus, level), name=name, message=message,
                                  hardware_id="", values=pairs)


def text(value) -> str:
    """A value of a status: floats short, booleans as true and false."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def values_of(one) -> dict:
    """The values of a DiagnosticStatus, as numbers and booleans where they are some."""
    def plain(value: str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return {pair.key: plain(pair.value) for pair in one.values}
