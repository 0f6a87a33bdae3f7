"""Each promise of the demo and the soak run is broken here once, and kept once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mss_perception import live, live_checks

SECOND = 1_000_000_000
COUNTS = {"ticks": 100, "outputs": 95, "dropped": {"replaced": 4, "late": 1}, "mask_checked": 90, "mask_wrong": 0,
          "messages": {"/image": {"sent": 500, "received": 497, "counted_lost": 3}}}


def records(*masks: str, dropped: str | None = None) -> list[dict]:
    """One record per mask, 'rd' for both, at 0.2 s; given out of order."""
    return [{"t_ref": k * SECOND // 5, "dropped": dropped, "mask": {"rgb": "r" in mask, "depth": "d" in mask}}
            for k, mask in reversed(list(enumerate(masks)))]


def recording(labels: int, told: int) -> live.Recording:
    images = {k * SECOND // 5: Path(f"{k}.png") for k in range(labels)}
    return live.Recording(records(*["r"] * told), images, {}, {}, {}, {})


SAME = {"outputs": 50, "same_sets": 45, "identical": 45, "replay_dropped": {}}
GAPS = [k * SECOND // 5 for k in range(51) if k not in (10, 30, 31)]

CASES = {
    "accounted": (live_checks.sets_accounted(COUNTS), ""),
    "unaccounted": (live_checks.sets_accounted(COUNTS | {"ticks": 101}), "95 outputs + 5 drops are not 101 ticks"),
    "enough": (live_checks.enough_outputs(COUNTS), ""),
    "too few": (live_checks.enough_outputs(COUNTS | {"outputs": 89}), "89 of 100"),
    "nothing": (live_checks.enough_outputs(COUNTS | {"ticks": 0, "outputs": 0}), "0 of 0"),
    "masks": (live_checks.masks_right(COUNTS), ""),
    "a wrong mask": (live_checks.masks_right(COUNTS | {"mask_wrong": 1}), "1 of 90 wrong"),
    "unchecked masks": (live_checks.masks_right(COUNTS | {"mask_checked": 0}), "no mask"),
    "losses are counted": (live_checks.losses_counted(COUNTS), ""),
    "losses are not": (live_checks.losses_counted(COUNTS | {"messages": {"/image": {
        "sent": 501, "received": 497, "counted_lost": 3}}}), "/image"),
    "few losses": (live_checks.few_losses(COUNTS), ""),
    "many losses": (live_checks.few_losses(COUNTS | {"messages": {"/image": {
        "sent": 500, "received": 494, "counted_lost": 6}}}), "/image"),
    "deadline": (live_checks.deadline_kept([5.0, 101.0], 0.1), ""),
    "late": (live_checks.deadline_kept([5.0, 140.0], 0.1), "140 ms"),
    "end": (live_checks.ended_on_sigint({"status": 0, "shutdown_sec": 0.5}), ""),
    "slow end": (live_checks.ended_on_sigint({"status": 0, "shutdown_sec": 2.1}), "after 2.1 s"),
    "bad end": (live_checks.ended_on_sigint({"status": -11, "shutdown_sec": 0.5}), "status -11"),
    "labels": (live_checks.labels_complete(recording(9, 9), 9), ""),
    "a label image is missing": (live_checks.labels_complete(recording(8, 9), 9), "1 without labels"),
    "a mask is missing": (live_checks.labels_complete(recording(9, 8), 9), "8 masks of 9 outputs"),
    "a gap of two ticks": (live_checks.no_gap([one for one in GAPS if one], 0, 10 * SECOND, 0.25), ""),
    "a gap of three ticks": (live_checks.no_gap(GAPS, 0, 10 * SECOND, 0.2), "0.60 s from 5.80 s on"),
    "a gap at the end": (live_checks.no_gap(GAPS[:20], 0, 10 * SECOND, 0.25), "from 4.00 s on"),
    "returned": (live_checks.died_and_returned(records("r", "rd", "d", "rd", "r", "rd"), ["rgb", "depth"]), ""),
    "never returned": (live_checks.died_and_returned(records("rd", "rd", "r"), ["depth"]), "110"),
    "never there": (live_checks.died_and_returned(records("r", "r"), ["depth"]), "00"),
    "came late": (live_checks.died_and_returned(records("r", "rd"), ["depth"]), "01"),
    "alone": (live_checks.some_alone(records("rd", "d")), ""),
    "never alone": (live_checks.some_alone(records("rd", "rd")), "none"),
    "alone but dropped": (live_checks.some_alone(records("d", dropped="error")), "none"),
    "same": (live_checks.same_as_replay(SAME), ""),
    "other labels": (live_checks.same_as_replay(SAME | {"identical": 44}), "1 of 45 equal sets"),
    "other sets": (live_checks.same_as_replay(SAME | {"same_sets": 39, "identical": 39}), "only 39 of 50"),
    "replay drops": (live_checks.same_as_replay(SAME | {"replay_dropped": {"late": 1}}), "late"),
}


@pytest.mark.parametrize("name", CASES)
def test_checks(name):
    got, expected = CASES[name]
    assert expected in got and bool(got) == bool(expected)
