"""Decoders of what comes from outside, with changed inputs: the short form of `python -m fuzz`, without its guide."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import __main__ as command
from fuzz.changes import changed_bytes, joined, split
from fuzz.target import LONGEST, Target, before_wall
from fuzz.targets import TARGETS

EXAMPLES = {"checkpoint": 15, "bag_metadata": 25, "bag_mcap": 60, "bag_sqlite": 60, "tf": 60}     # the slow ones


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_target_starts_from_is_taken(name):
    for seed in TARGETS[name].seeds():
        assert len(seed) <= LONGEST and TARGETS[name].check(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_raise_what_is_documented_and_nothing_else(name):
    target = TARGETS[name]
    seeds = target.seeds()
    target.check(seeds[0])      # what is loaded and compiled once is not counted as an input's memory

    @settings(max_examples=EXAMPLES.get(name, 150), deadline=None)
    @given(st.sampled_from(seeds), st.integers(0, 1 << 32), st.integers(1, 3))
    def decode(seed, number, times):
        random, data = Random(number), seed
        for _ in range(times):
            data = target.change(random, data)
        target.check(data)

    decode()


# --------------------------------------------------------------------------------------- that it would notice anything

def target(decode, **options) -> Target:
    return Target(lambda: [b"ok"], decode, (ValueError,), **options)


def test_documented_errors_are_refusals_and_others_escape():
    assert target(bytes).check(b"x") is True
    assert target(lambda data: int(bytes(data))).check(b"x") is False
    with pytest.raises(KeyError):
        target(lambda data: {}[0]).check(b"x")


def test_memory_beyond_the_bound_is_an_error():
    """In a process of its own: this one may have memory left over from before."""
    program = ("from fuzz.target import Target; Target(list, lambda data: bytearray({size} << 20), (ValueError,),"
               "memory=256 << 20).check(b'x')")
    within, beyond = (subprocess.run([sys.executable, "-c", program.format(size=size)], capture_output=True, text=True,
                                     timeout=60) for size in (64, 512))
    assert within.returncode == 0 and beyond.stderr.splitlines()[-1] == "MemoryError"


def test_a_read_behind_the_input_ends_the_process():
    program = ("import ctypes; from fuzz.target import before_wall; view = before_wall(b'input');"
               "address = ctypes.addressof(ctypes.c_char.from_buffer(view.obj)) + {at};"
               "print(ctypes.string_at(address, 1))")
    inside, behind = (subprocess.run([sys.executable, "-c", program.format(at=LONGEST + at)], capture_output=True,
                                     text=True, timeout=60) for at in (-1, 0))
    assert inside.stdout == "b't'\n" and inside.returncode == 0
    assert behind.stdout == "" and behind.returncode < 0


def test_inputs_lie_before_the_wall_and_are_read_only():
    assert bytes(before_wall(b"input")) == b"input" and before_wall(b"").nbytes == 0
    assert before_wall(bytes(2 * LONGEST)).nbytes == LONGEST
    with pytest.raises(TypeError):
        before_wall(b"x")[0] = 1


def test_messages_of_an_input_come_apart_again_wherever_it_ends():
    parts = [b"", b"abc", bytes(300)]
    whole = joined(parts)
    assert split(whole) == parts
    for end in range(len(whole)):
        found = split(whole[:end])
        assert all(bytes(a) == b[:len(a)] for a, b in zip(found, parts, strict=False)) and len(found) <= 3


def test_changes_are_of_the_seed_alone():
    assert changed_bytes(Random(3), b"abcdef") == changed_bytes(Random(3), b"abcdef")
    assert len({changed_bytes(Random(k), b"abcdef") for k in range(50)}) > 40


def test_an_input_is_decoded_again_by_its_file(tmp_path, capsys):
    (tmp_path / "input").write_bytes(b"rgb:drop@3-5")
    assert command.main(["fault", "--input", str(tmp_path / "input")]) == 0 and "taken" in capsys.readouterr().out
    for wrong in (["guess"], ["--input", str(tmp_path / "input")], ["fault", "--input", str(tmp_path / "none")]):
        with pytest.raises(SystemExit) as stop:
            command.main(wrong)
        assert stop.value.code == 2


@pytest.mark.parametrize("loops", command.LOOPS)
def test_atheris_runs_a_target(tmp_path, loops):
    pytest.importorskip("atheris", reason="it is for python -m fuzz alone: pip install atheris")
    row = command.run("fault", loops, 1, tmp_path)
    assert row["executions"] > 100 and row["found"] == [] and (tmp_path / "fault/kept/seed0").is_file()
