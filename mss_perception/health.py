"""How the pipeline fares: what went wrong without costing a set, and the summary for diagnostics."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mss_perception import scoring
from mss_perception.output import Output

log = logging.getLogger(__name__)

REMEMBERED = 300        # sets over which the summary gives percentiles
RATE_SEC = 5.0          # over which it gives the rate of outputs
# The network hangs when a set has been in work for longer than all of these: the first, so many tick periods, and so
# many of the usual (p95) times of inference. Its first set it may compile for, for minutes (torch-compile).
HANGS_SEC, HANGS_TICKS, HANGS_INFERENCES = 2.0, 3, 3
FIRST_SEC = 300.0
REJECTED = {            # the collector's name -> what it means and what to do
    "zero": "stamps are zero; the driver must set header.stamp",
    "inverted": "packets end before they begin; check the events' times",
    "future": "stamps are in the future; check time synchronisation",
    "back": "stamps went back in time; check time synchronisation",
    "straggler": "stamps are from before the stamps of all went back",
}


class Health:
    """Notes of what happens to messages and sets; warnings are logged when something begins, not each time.

    views: view -> its inputs. tick_sec: between two sets. warnings: a Counter of what went wrong without costing a
    set, by name.
    """

    def __init__(self, views: Mapping[str, Sequence[str]], tick_source: Sequence[str], tick_sec: float):
        self.views, self.tick_source, self.tick_sec = views, tick_source, tick_sec
        self.warnings: Counter = Counter()
        self.recent: deque[tuple[float, Output]] = deque(maxlen=REMEMBERED * len(views))    # when, without its arrays
        self._lock = threading.Lock()               # of `recent`, which another thread fills
        self._reasons: dict[tuple[str, str], str] = {}      # (input, view) -> why INVALID, as of the newest set
        self._frozen: set[str] = set()              # inputs whose newest payload is the one before's
        self._told_unpublished = 0                  # outputs that were lost until the last summary

    # what happens ----------------------------------------------------------------------------------------------------

    def note_arrival(self, name: str, frozen: bool, undecodable: bool) -> None:
        self.warnings[f"{name}_undecodable"] += undecodable
        if not frozen:
            self._frozen.discard(name)
            return
        self.warnings[f"{name}_frozen"] += 1
        if name not in self._frozen:                # once, until it changes again
            log.warning("%s repeats an identical payload under new stamps", name)
        self._frozen.add(name)

    def note_useless(self, role: str, error: Exception) -> None:
        """A message of calibration or motion is not used."""
        if not self.warnings[f"{role}_invalid"]:
            log.warning("%s is not used: %s", role, error)
        self.warnings[f"{role}_invalid"] += 1

    def note_learnt(self, role: str, what: str) -> None:
        """A message of calibration or motion has done what Sensors.learn says."""
        self.warnings[f"{role}_{what}"] += 1

    def note_invalid(self, name: str, view: str, reason: str) -> None:
        """An input cannot be used in a view of a set."""
        self.warnings[f"{name}_invalid"] += 1
        if self._reasons.get((name, view)) is None:         # once, until it is valid again
            log.warning("%s is INVALID%s: %s", name, f" in the view of {view}" if len(self.views) > 1 else "", reason)
        self._reasons[name, view] = reason

    def note_valid(self, name: str, view: str) -> None:
        """It is used, or not there: in any case no longer invalid."""
        self._reasons.pop((name, view), None)

    def note_output(self, output: Output) -> None:
        light = replace(output, images={}, labels=None, confidence=None, make_points=None)
        with self._lock:
            self.recent.append((time.monotonic(), light))

    def reset(self) -> None:
        """Time has jumped."""
        self._reasons.clear()
        self._frozen.clear()

    # what is said of it ----------------------------------------------------------------------------------------------

    def summary(self, status: dict, silent: set[str], working_sec: float) -> dict:
        """level, message, inputs, fps_out and latency_ms of the 1 Hz summary, out of the collector's status (which it
        changes), the inputs that are silent, and how long the network has worked on its set, 0 for none."""
        with self._lock:
            recent = list(self.recent)
        last = {output.view: output for _, output in recent}        # the newest of each view
        now = time.monotonic()
        times = list({(output.epoch, output.seq): when for when, output in recent
                      if not output.dropped and now - when < RATE_SEC}.values())
        inputs = {}
        for name, one in status["inputs"].items():
            rejected = one.pop("rejected")
            active = one["active"] and name not in silent
            inputs[name] = {**one, "active": active,
                            "state": "STALE" if name in silent else _newest_state(name, last),
                            "reason": self._reason(name) or ("" if active else _rejection(rejected)),
                            "rate_hz": 1e9 / one["period_ns"] if one["period_ns"] else 0.0}
        latencies = scoring.latencies([vars(output) for _, output in recent if not output.dropped])
        level, message = self._no_output(working_sec, latencies) or self._level(inputs, last)
        return {"level": level, "message": message, "inputs": inputs,
                "fps_out": (len(times) - 1) / (now - times[0]) if len(times) > 1 else 0.0, "latency_ms": latencies}

    def _reason(self, name: str) -> str:
        """Why an input is INVALID, and in which views if it is not the same in all; '' when it is in none."""
        views = [view for view, names in self.views.items() if name in names]
        reasons = {view: reason for view in views if (reason := self._reasons.get((name, view)))}
        if len(reasons) == len(views) and len(set(reasons.values())) == 1:
            return reasons[views[0]]
        return "; ".join(f"in the view of {view}: {reason}" for view, reason in reasons.items())

    def _no_output(self, working_sec: float, latencies: Mapping[str, Mapping[str, float]]) -> tuple[str, str] | None:
        """Level and message when sets are opened and what is made of them gets lost; None otherwise."""
        lost = self.warnings["output_errors"] - self._told_unpublished
        self._told_unpublished += lost
        if lost:
            return "ERROR", f"outputs cannot be published: {lost} since the last message; the log says why"
        inference_sec = latencies["inference"]["p95"] / 1e3 if "inference" in latencies else 0.0
        if working_sec <= max(HANGS_SEC, HANGS_TICKS * self.tick_sec, HANGS_INFERENCES * inference_sec):
            return None
        if not inference_sec and working_sec < FIRST_SEC:
            return "WARN", f"no output for {working_sec:.0f} s: the network is still at its first set; it may compile"
        return "ERROR", f"no output for {working_sec:.0f} s: the network does not finish"

    def _level(self, inputs: dict[str, dict], last: Mapping[str, Output]) -> tuple[str, str]:
        active = [name for name, one in inputs.items() if one["active"]]
        reasons = "".join(f"; {name}: {one['reason']}" for name, one in inputs.items() if one["reason"])
        if not active:
            return "STALE", "no input" + reasons
        if not set(self.tick_source) & set(active):
            return "ERROR", (f"no reference: none of tick_source {', '.join(self.tick_source)} is there to open sets"
                             + reasons)
        if dropped := {view: output.dropped for view, output in last.items() if output.dropped}:
            where = f" in the view of {', '.join(dropped)}" if len(self.views) > 1 else ""
            return "ERROR", f"sets are dropped{where}: {', '.join(sorted(set(dropped.values())))}" + reasons
        without = [name + (f" ({one['reason']})" if one["reason"] else "") for name, one in inputs.items()
                   if not one["active"] or one["reason"]]
        frozen = [f"{name} repeats an identical payload" for name in inputs if name in self._frozen]
        if without or frozen:
            return "WARN", "; ".join((["running without " + ", ".join(without)] if without else []) + frozen)
        return "OK", "all inputs are active"


def _rejection(rejected: dict[str, int]) -> str:
    """Why nothing of an input is accepted, in words; '' when it is. rejected: by the collector's reasons."""
    if not rejected:
        return ""
    worst = max(rejected, key=rejected.get)
    return f"{rejected[worst]} messages rejected: {REJECTED[worst]}"


def _newest_state(name: str, last: Mapping[str, Output]) -> str:
    """Of an input in the newest outputs of its views: INVALID where it is that in any."""
    states = [output.inputs[name]["state"] for output in last.values() if name in output.inputs]
    return "INVALID" if "INVALID" in states else states[0] if states else "STALE"
