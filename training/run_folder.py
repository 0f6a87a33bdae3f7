"""The folder of a run: recipe.json, log.jsonl, and state.pt, from which a training goes on exactly where it was."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from statistics import fmean

import torch

from mss_models.files import write_atomically
from training.recipe import Recipe, to_dict


class TrainingError(RuntimeError):
    """A training cannot start, go on or be resumed. The message says why and what would help."""


def begin(recipe: Recipe, out: Path) -> None:
    """A fresh run in `out`. Raises TrainingError if there is one already."""
    if (out / "state.pt").exists():
        raise TrainingError(f"{out} holds a run already; go on with --resume, or choose another --out")
    if (last := out / "last.safetensors").exists():
        raise TrainingError(f"{last} is there without the state.pt to go on from; remove it, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.jsonl").unlink(missing_ok=True)
    write_atomically(out / "recipe.json", json.dumps(to_dict(recipe), indent=1) + "\n")


def load_state(recipe: Recipe, data: dict[str, str], out: Path) -> dict:
    """The state to go on from.

    data: what it learns from, see `loop.describe_data`, its teacher and its first weights. Raises TrainingError if the
    folder's run had another recipe, other data, another teacher or other first weights, or its files are missing or
    damaged.
    """
    state, saved = out / "state.pt", out / "recipe.json"
    if not state.is_file():
        raise TrainingError(f"{out} holds no state to resume: state.pt is missing; start again without --resume")
    try:
        loaded = torch.load(state, map_location="cpu", weights_only=True)
        known, _ = dict(loaded["data"]), loaded["scaler"]
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError, TypeError, IndexError,
            AttributeError) as error:
        what = f"{state} is damaged or of another version"
        raise TrainingError(f"{what} ({type(error).__name__}: {error}); start again in another --out") from error
    try:
        given = dict(json.loads(saved.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{saved} is damaged ({type(error).__name__}: {error}); start again in another --out"
                            ) from error
    wanted = json.loads(json.dumps(to_dict(recipe)))
    if changed := [name for name in wanted if given.get(name) != wanted[name]]:
        raise TrainingError(f"{out} was made with another recipe: " + "; ".join(
            f"{name} was {given.get(name)}, not {wanted[name]}" for name in changed))
    if changed := [name for name in known | data if known.get(name) != data.get(name)]:
        raise TrainingError(f"{out} was trained otherwise: " + "; ".join(
            f"{name} was {known.get(name)} and is {data.get(name)}" for name in changed)
            + "; give the same --data, --init and --teacher, or start again in another --out")
    return loaded


def save_state(state: dict, out: Path) -> None:
    """Raises OSError that names the file."""
    buffer = io.BytesIO()  # torch.save to a full disk would raise an error that does not say so
    torch.save(state, buffer)
    write_atomically(out / "state.pt", buffer.getbuffer())


def seconds_spent(out: Path) -> float:
    """What the logged iterations and evaluations of a run have taken together."""
    return round(sum(one["seconds"] + one.get("evaluation_seconds", 0) for one in _records(out)), 1)


def last_terms(out: Path, count: int) -> dict[str, float]:
    """The loss and its terms, by the names of the system's logs: means of the last `count` iterations."""
    records = _records(out)[-count:]
    names = dict.fromkeys(name for one in records for name in one)
    for name in ("iteration", "lr", "grad_norm", "overflow", "seconds", "val_miou_present", "evaluation_seconds"):
        names.pop(name, None)
    return {name: round(fmean(one[name] for one in records if name in one), 5) for name in names}


def _records(out: Path) -> list[dict]:
    """Of log.jsonl, one per iteration."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def cut_log(out: Path, iteration: int) -> None:
    """Keep the lines up to `iteration`; a kill may have left later ones, which will be repeated, and half of the last.
    """
    path, kept = out / "log.jsonl", []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
        try:
            if not line.endswith("\n") or json.loads(line)["iteration"] > iteration:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    write_atomically(path, "".join(kept))
