"""scoring.py: the mask that each fault must give, scores per mask, percentiles."""

from __future__ import annotations

import numpy as np
import pytest

from mss_models.labels import DELIVER, LabelSet
from mss_perception import scoring
from mss_perception.config import Config
from mss_perception.faults import parse_fault
from mss_perception.scoring import ExpectedMasks

SECOND = 1_000_000_000
START = 500 * SECOND
TEN_HZ = [START + i * SECOND // 10 for i in range(100)]
STAMPS = {"rgb": TEN_HZ, "depth": TEN_HZ, "lidar": TEN_HZ, "event": [START + i * SECOND // 100 for i in range(1000)]}


def expected_of(faults: list[str], stamps=None, **parameters):
    """t in seconds from the start -> expected mask."""
    masks = ExpectedMasks([parse_fault(text) for text in faults], Config.from_mapping(parameters), START,
                          stamps or STAMPS)
    return lambda t: masks(START + round(t * SECOND))


@pytest.mark.parametrize("kind, present", [
    ("drop", False), ("corrupt", False), ("noise", True), ("noise=40", True), ("freeze", True),
    ("delay=0.101", False), ("delay=0.099", True), ("stamp=-0.2", False), ("stamp=0.2", False), ("stamp=0.01", True),
])
def test_the_specified_mask_of_each_kind(kind, present):
    expected = expected_of([f"lidar:{kind}@3-5"])
    assert expected(4.0) == {"rgb": True, "depth": True, "event": True, "lidar": present}
    assert expected(2.0) == expected(7.0) == dict.fromkeys(expected(4.0), True)


def test_only_what_can_be_either_is_left_unjudged():
    """Where a sample is left: one period after the start; recover_after + 1 after the end, and the frame just before it
    that has the first sample behind the end within its tolerance (0.05 s)."""
    expected = expected_of(["lidar:drop@3-5"])
    found = {t: expected(t / 100)["lidar"] for t in range(200, 700)}
    assert [t for t, one in found.items() if one is None] == [*range(495, 531)]
    assert all(found[t] is True for t in range(200, 296)) and all(found[t] is True for t in range(531, 700))
    assert all(found[t] is False for t in range(296, 495))         # 2.95 is as near to 2.9 as to the dropped 3.0
    offbeat = expected_of(["lidar:drop@3.03-5"])                    # the sample of 3.0 serves a frame of 3.04 or not
    assert [offbeat(t / 100)["lidar"] for t in (300, 302, 303, 305, 306, 313)] == [True] * 2 + [None] * 2 + [False] * 2


def test_one_input_in_transition_does_not_hide_the_others():
    expected = expected_of(["lidar:drop@3-5", "rgb:corrupt@4-6"])
    assert expected(5.1) == {"rgb": False, "depth": True, "event": True, "lidar": None}


@pytest.mark.parametrize("kind", ["noise", "freeze", "delay=0.05", "stamp=0.01"])
def test_faults_that_leave_the_mask_alone_leave_nothing_unjudged(kind):
    expected = expected_of([f"lidar:{kind}@3-5", f"event:{kind}@3-5"])
    assert all(expected(t / 10) == dict.fromkeys(STAMPS, True) for t in range(20, 70))


def test_the_period_of_a_stream_is_its_window_not_the_ticks():
    expected = expected_of(["event:drop@3-5"], tick_rate_hz=5.0)
    found = {t: expected(t / 1000)["event"] for t in range(2900, 5400, 5)}
    assert [t for t, one in found.items() if one is None] == [*range(3000, 3011, 5), *range(5000, 5151, 5)]
    assert found[2995] is True and found[3015] is False and found[4995] is False and found[5155] is True


def test_recover_after_and_the_inputs_own_period_stretch_the_transition():
    stamps = {**STAMPS, "lidar": TEN_HZ[::2]}
    expected = expected_of(["lidar:drop@3-5"], stamps, **{"lidar.recover_after": 4})
    assert expected(5.8)["lidar"] is None and expected(6.0)["lidar"] is None and expected(6.2)["lidar"] is True


def test_an_input_that_is_there_from_the_start_is_judged_from_the_start_and_a_late_one_like_a_recovered_one():
    def first(name, stamps, step, count):
        return [expected_of([], stamps)(t / step)[name] for t in range(count)]

    lidar = {"rgb": TEN_HZ, "lidar": [stamp + 2 * SECOND // 10 for stamp in TEN_HZ]}        # its 3rd set; default 3
    assert first("lidar", lidar, 10, 4) == [False, False, True, True]
    late = {"rgb": TEN_HZ, "lidar": [stamp + 3 * SECOND // 10 for stamp in TEN_HZ]}
    assert first("lidar", late, 10, 8) == [False] * 3 + [None] * 4 + [True]
    events = {"rgb": TEN_HZ, "event": STAMPS["event"]}                                      # whose window must fill
    assert first("event", events, 20, 4) == [None, None, True, True]


@pytest.mark.parametrize("fault, unjudged", [
    ("lidar/info:drop@3-5", {"lidar"}), ("depth/info:delay=0.2@3-5", {"depth"}),
    ("rgb/info:drop@0-", {"rgb", "depth", "lidar", "event"}),       # without the target camera there is no grid
    ("rgb/info:freeze@0-", set()), ("rgb/info:stamp=5@0-", set()), ("odom:drop@0-", set()),
    ("tf:drop@3-5", {"depth", "lidar", "event"}), ("tf_static:drop@0-", {"depth", "lidar", "event"}),
])
def test_inputs_whose_calibration_a_fault_may_take_are_left_unjudged(fault, unjudged):
    expected = expected_of([fault, "event:drop@6-"])
    for t in (0.5, 2.0, 4.0, 5.5):
        assert expected(t) == {name: None if name in unjudged else True for name in STAMPS}
    assert expected(8.0)["event"] is False      # it has no sample, whatever its calibration


def test_an_open_fault_never_ends_and_one_from_zero_has_no_before():
    expected = expected_of(["rgb:drop@0-"])
    assert expected(0.05)["rgb"] is False and expected(9.0)["rgb"] is False


def test_an_offset_moves_the_faults_with_the_stamps():
    """The lidar stamps 40 ms late; the sample for a frame at 2.98 is stamped 3.02, when it is dropped already."""
    stamps = {**STAMPS, "lidar": [stamp - SECOND // 50 + SECOND // 25 for stamp in TEN_HZ]}
    expected = expected_of(["lidar:drop@3-5"], stamps, **{"lidar.offset_sec": 0.04, "lidar.tolerance_sec": 0.02})
    assert expected(2.88)["lidar"] is True and expected(2.98)["lidar"] is False
    assert expected(4.88)["lidar"] is False and expected(4.98)["lidar"] is None


def test_a_slow_sensor_is_expected_only_where_it_has_a_sample():
    expected = expected_of([], {**STAMPS, "depth": TEN_HZ[::2]})
    assert expected(4.0)["depth"] and not expected(4.1)["depth"] and expected(4.2)["depth"]
    held = expected_of([], {**STAMPS, "depth": TEN_HZ[::2]}, **{"depth.hold_sec": 0.15})
    assert held(4.1)["depth"]


def test_offset_shifts_where_samples_are_looked_for():
    late = [stamp + SECOND // 20 for stamp in TEN_HZ]
    assert not expected_of([], {**STAMPS, "rgb": late})(4.0)["rgb"]
    assert expected_of([], {**STAMPS, "rgb": late}, **{"rgb.offset_sec": 0.05})(4.0)["rgb"]


def test_a_clock_offset_shifts_them_too():
    late = [stamp + SECOND // 20 for stamp in TEN_HZ]
    assert expected_of([], {**STAMPS, "rgb": late}, **{"rgb.clock_offset_sec": 0.05})(4.0)["rgb"]
    both = {"rgb.clock_offset_sec": 0.06, "rgb.offset_sec": -0.01}
    assert expected_of([], {**STAMPS, "rgb": late}, **both)(4.0)["rgb"]


def test_sensors_that_are_not_there_or_disabled_are_expected_absent():
    assert expected_of([], {"rgb": TEN_HZ})(4.0) == {"rgb": True, "depth": False, "event": False, "lidar": False}
    assert expected_of([], **{"depth.enabled": False})(4.0)["depth"] is False


def test_faults_overlap_and_the_worst_counts():
    expected = expected_of(["rgb:noise@1-8", "rgb:drop@3-5", "lidar:drop@4-6"])
    assert expected(4.5) == {"rgb": False, "depth": True, "event": True, "lidar": False}
    assert expected(7.0) == {"rgb": True, "depth": True, "event": True, "lidar": True}


def record(t: float, mask: dict, confusion=None, dropped=None, **latency) -> dict:
    return {"t_ref": START + round(t * SECOND), "mask": mask, "dropped": dropped, "latency_ms": latency,
            **({"confusion": confusion} if confusion else {})}


def test_metrics_add_up_and_score_each_mask_by_itself():
    labels = LabelSet("three", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    both, one = {"rgb": True, "lidar": True}, {"rgb": False, "lidar": True}
    records = [record(1, both, [[0, 0, 30], [1, 1, 10]], inference=10.0), record(2, both, inference=20.0),
               record(3, one, [[0, 1, 20], [1, 1, 20]], inference=30.0),
               record(4, one, dropped="error", inference=99.0)]
    metrics = scoring.build_metrics(records, ticks=5, dropped={"error": 1, "late": 1}, messages={}, expected=None,
                                    label_set=labels)
    assert metrics["outputs"] + sum(metrics["dropped"].values()) == metrics["ticks"] == 5
    assert metrics["miou_by_mask"] == {"rgb+lidar": 1.0, "lidar": pytest.approx((0 + 0.5) / 2)}
    assert metrics["frames_by_mask"] == {"rgb+lidar": 2, "lidar": 1}
    # a: 30 right of 50 true and 30 predicted; b: 30 right, 20 predicted too many. Class c does not occur.
    assert metrics["iou_by_class"] == {"a": pytest.approx(0.6), "b": pytest.approx(0.6)}
    assert metrics["miou"] == pytest.approx(0.6)
    assert metrics["latency_ms"] == {"inference": {"p50": 20.0, "p95": 29.0, "p99": 29.8}}
    assert metrics["mask_wrong"] == 0 and metrics["mask_checked"] == 0


def test_wrong_masks_are_counted_where_the_expectation_is_known():
    everything = dict.fromkeys(("rgb", "depth", "event", "lidar"), True)
    masks = ExpectedMasks([parse_fault("rgb:drop@3-5")], Config(), START, STAMPS)
    records = [record(t, everything) for t in (2.0, 5.1, 4.0, 4.5, 8.0)]
    metrics = scoring.build_metrics(records, ticks=5, dropped={}, messages={}, expected=masks, label_set=DELIVER)
    assert metrics["mask_checked"] == 5 and metrics["mask_wrong"] == 2
    assert [frame["expected"]["rgb"] for frame in metrics["frames"]] == [True, None, False, False, True]
    assert metrics["miou"] is None and metrics["miou_by_mask"] == {"rgb+depth+event+lidar": None}


def test_dropped_frames_are_judged_by_their_mask_and_their_reason():
    names = ("rgb", "depth", "event", "lidar")
    masks = ExpectedMasks([parse_fault(f"{name}:drop@3-5") for name in names], Config(), START, STAMPS)
    nothing, rgb = dict.fromkeys(names, False), {**dict.fromkeys(names, False), "rgb": True}

    def wrong(*one, **more) -> int:
        return scoring.build_metrics([record(*one, **more)], ticks=1, dropped={}, messages={}, expected=masks,
                                     label_set=DELIVER)["mask_wrong"]

    assert wrong(4.0, nothing, dropped="below_min_modalities") == 0
    assert wrong(4.0, nothing, dropped="error") == wrong(4.0, nothing) == 1
    assert wrong(2.0, nothing, dropped="below_min_modalities") == 1     # the sensors were there
    assert wrong(4.0, rgb) == 1


def test_inputs_that_the_network_does_not_know_are_not_judged():
    masks = ExpectedMasks([], Config(), START, STAMPS)
    assert scoring.judge({"rgb": True, "lidar": True}, masks(START + 4 * SECOND)) is True
    assert scoring.judge({"rgb": True}, {"rgb": None, "lidar": True}) is None


def test_counts_leave_ignored_pixels_out():
    truth, predicted = np.array([[0, 0, 255, 1]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    assert scoring.counts(truth, predicted, DELIVER) == [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
