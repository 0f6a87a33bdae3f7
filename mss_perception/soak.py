"""Does the node last: `python -m mss_perception.soak --seconds 600 --out runs/soak`.

The demo's traffic, looped, with random faults on every sensor, while the node's memory and threads are watched; at the
end SIGINT. Writes soak.json; the exit status is 1 when a check fails.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mss_models import checkpoint as checkpoints
from mss_perception import live, live_checks, scoring, watch
from mss_perception.bags import BagSummary, bag_summary, read_bag
from mss_perception.config import Config
from mss_perception.demo import DURATION_SEC, choose, record_bag, run_live, write_config
from mss_perception.faults import Fault, parse_fault
from mss_perception.messages import stamp_ns
from mss_perception.options import at_least, positive
from mss_perception.player import LOOP_GAP_NS
from mss_perception.replay import USER_ERRORS, expected_masks
from mss_perception.units import SECOND

FAULTED_AT_ONCE = 2     # of four inputs: alone, a sensor with a wrong clock cannot be told from a good one
# Ranges, seconds: a delay is well below the deadline or beyond it and a tick of 0.2 s, a wrong stamp beyond both and
# max_future. What lies between cannot be told from a good sample.
AMOUNTS = {"delay": ((0.005, 0.03), (0.2, 0.5)), "stamp": ((-0.5, -0.25), (0.25, 0.5)), "noise": ((0.1, 5.0),)}
KINDS = ("drop", "delay", "freeze", "noise", "corrupt", "stamp")


def random_faults(inputs: Sequence[str], seconds: float, seed: int) -> list[str]:
    """Faults of every kind on every input, FAULTED_AT_ONCE of them at a time, each with rests between."""
    dice, faults = random.Random(seed), []
    free_at = dict.fromkeys(inputs, 2.0)        # by then the input has recovered and shown itself for a while
    turns = [dice.uniform(2, 4) for _ in range(FAULTED_AT_ONCE)]        # when each of so many may begin its next
    while (t := min(turns)) < seconds - 2:
        turn, ready = turns.index(t), [name for name in inputs if free_at[name] <= t]
        if not ready:
            turns[turn] += 0.5
            continue
        name, kind, end = dice.choice(ready), dice.choice(KINDS), t + dice.uniform(0.5, 3)
        amount = f"={dice.uniform(*dice.choice(AMOUNTS[kind])):.3f}" if kind in AMOUNTS else ""
        faults.append(f"{name}:{kind}{amount}@{t:.2f}-{end:.2f}")
        free_at[name], turns[turn] = end + 2, end + dice.uniform(0.5, 2)
    return faults


def looped(bag: BagSummary, config: Config, loops: int) -> tuple[dict[str, list[int]], list[Fault], list[range]]:
    """Input -> stamps of all loops, the pauses between the loops as faults of every input, and the times (ns) of these.

    From the first input's pause until the last's only some live, in the end the events alone: with a fault on these
    nothing can be said of the mask.
    """
    roles, period_ns = config.topic_roles(), bag.end_ns - bag.start_ns + LOOP_GAP_NS
    recorded: dict[str, list[int]] = {name: [] for name in config.inputs}
    topics = [topic for topic, role in roles.items() if role in recorded and topic in bag.topics]
    for topic, _, message in read_bag(bag.path, topics):
        recorded[roles[topic]].append(stamp_ns(message.header))
    stamps = {name: [stamp + loop * period_ns for loop in range(loops) for stamp in known]
              for name, known in recorded.items()}
    # A nanosecond from the samples on both sides, so that no rounding takes these for part of the pause.
    pauses = [Fault(name, "drop", None, (max(known) + 1 - bag.start_ns + loop * period_ns) / SECOND,
                    (min(known) - 1 - bag.start_ns + (loop + 1) * period_ns) / SECOND)
              for name, known in recorded.items() if known for loop in range(loops - 1)]
    begin, end = min(max(known) for known in recorded.values() if known), max(map(min, filter(None, recorded.values())))
    spans = [range(begin + loop * period_ns, end + (loop + 1) * period_ns) for loop in range(loops - 1)]
    return stamps, pauses, spans


def summarize(recording: live.Recording, watched: watch.Watch, node: Mapping, expected: scoring.ExpectedMasks,
              unjudged: Sequence[range]) -> dict:
    """The content of soak.json, but for the checks. unjudged: times (ns) whose masks are left out."""
    outputs = [record for record in recording.records if not record["dropped"]]
    verdicts = [(record, scoring.judge(record["mask"], expected(record["t_ref"]))) for record in outputs
                if not any(record["t_ref"] in span for span in unjudged)]
    return {
        "seconds": watched.samples[-1]["t"], "ticks": recording.diagnostics["ticks"],
        "outputs": recording.diagnostics["outputs"], "dropped": recording.dropped,
        "warnings": {key.partition(".")[2]: count for key, count in recording.diagnostics.items()
                     if key.startswith("warnings.")},
        "messages": recording.messages,
        "mask_checked": sum(verdict is not None for _, verdict in verdicts),
        "mask_wrong": sum(verdict is False for _, verdict in verdicts),
        "wrong": [{"t_sec": round((record["t_ref"] - expected.start_ns) / SECOND, 3), "mask": record["mask"],
                   "expected": expected(record["t_ref"]), "latency_ms": record["latency_ms"]}
                  for record, verdict in verdicts if verdict is False],
        "latency_ms": scoring.latencies(outputs),
        **watched.summary(), "node": dict(node), "samples": watched.samples,
    }


def checks(result: Mapping, deadline_sec: float) -> dict[str, str]:
    """What lasting means -> why it does not hold; empty where it does."""
    return {
        **watch.checks(result),
        "outputs + drops by reason = ticks": live_checks.sets_accounted(result),
        "nine of ten ticks give an output": live_checks.enough_outputs(result),
        "every mask is as the faults ask": live_checks.masks_right(result),
        "no message is lost uncounted": live_checks.losses_counted(result),
        f"at most {live_checks.LOST:.0%} of a topic's messages are lost": live_checks.few_losses(result),
        "99 % of the sets keep the deadline": live_checks.deadline_kept([result["latency_ms"]["wait"]["p99"]],
                                                                        deadline_sec),
        f"SIGINT ends the node within {live.SHUTDOWN_SEC:g} s": live_checks.ended_on_sigint(result["node"]),
    }


def soak(options: argparse.Namespace) -> dict:
    """The whole run; returns what it has written to soak.json."""
    options.out.mkdir(parents=True, exist_ok=True)
    settings, choice = choose(options.checkpoint, options.size, options.tick_rate)
    path = options.bag or record_bag(options.out, settings["width"], DURATION_SEC, options.seed, "sun")
    config_file, bag = write_config(options.out, path, settings), bag_summary(path)
    config = Config.from_yaml(config_file)
    loops = max(1, round(options.seconds / ((bag.end_ns - bag.start_ns + LOOP_GAP_NS) / SECOND)))
    stamps, pauses, spans = looped(bag, config, loops)
    faults = random_faults([name for name, known in stamps.items() if known], options.seconds, options.seed)
    print(f"{loops} loops of {path.name} with {len(faults)} faults; {choice}")
    watched = watch.Watch()
    node = run_live(options.out / "live", path, config_file, faults, loops=loops, labels=False, seed=options.seed,
                    watch=lambda process: watched(process.pid))
    encodings = checkpoints.load(options.checkpoint or checkpoints.DEFAULT_CHECKPOINT).encodings
    expected = expected_masks([*map(parse_fault, faults), *pauses], config, bag.start_ns, stamps, encodings)
    result = summarize(live.read_recording(options.out / "live"), watched, node, expected, spans) | {
        "choice": choice, "faults": faults}
    result["checks"] = {promise: why or "ok" for promise, why in checks(result, config.collector.deadline_sec).items()}
    (options.out / "soak.json").write_text(json.dumps(result, indent=1))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=positive, default=600, help="length of the run (default 600)")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder for the results (runs/soak)")
    parser.add_argument("--bag", type=Path, help="bag to loop; recorded as the demo's when not given")
    parser.add_argument("--checkpoint", type=Path, help="network; the shipped one when not given")
    parser.add_argument("--tick-rate", type=positive, help="sets per second; what the machine can hold when not given")
    parser.add_argument("--size", type=at_least(16), help="pixels of camera and network, square; as --tick-rate")
    parser.add_argument("--seed", type=at_least(0), default=2024, help="of the faults (default 2024)")
    options = parser.parse_args(argv)
    try:
        result = soak(options)
    except (live.LiveError, *USER_ERRORS) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"soak: cannot write {error.filename or options.out}: {error.strerror}", file=sys.stderr)
        return 2
    print(json.dumps({key: value for key, value in result.items() if key not in ("samples", "faults")}, indent=1))
    print(f"figures: {options.out / 'soak.json'}")
    return 0 if all(why == "ok" for why in result["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
