"""The mask message: the same from a live node and from a replay, and nothing lost on the way there and back."""

from __future__ import annotations

import copy

import pytest

from mss_perception.mask_message import mask_message, read_mask_message
from mss_perception.messages import bag_types, stamp_ns

T = 1_700_000_000_123_456_789
RECORD = {
    "t_ref": T, "epoch": 2, "mask": {"rgb": True, "depth": False, "event": True, "lidar": False}, "dropped": None,
    "deadline_hit": True, "extrapolated_ns": 0, "frame_id": "cam",
    "inputs": {
        "rgb": {"state": "OK", "stamp": T, "stamp_delta": 0},
        "depth": {"state": "INVALID", "stamp": T + 4_000_000, "stamp_delta": -12, "reason": "no pixel: 'NaN'"},
        "event": {"state": "OK", "stamp": T - 1, "stamp_delta": -1, "coverage": 0.75, "events": 12345, "frozen": True},
        "lidar": {"state": "STALE"}},
    "latency_ms": {"wait": 12.5, "inference": 0.25},
}


@pytest.fixture(params=["rosbags", "rclpy"])
def types(request):
    if request.param == "rosbags":
        return bag_types()
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: no messages of rclpy")
    from mss_perception.ros_compat import TYPES

    return TYPES


def test_a_record_survives_the_message(types):
    message = mask_message(types, RECORD)
    assert (stamp_ns(message.header), message.header.frame_id) == (T, "cam")
    assert read_mask_message(message) == RECORD


def test_levels_and_texts(types):
    def read(one) -> tuple[str, int, str]:
        return one.name, one.level if isinstance(one.level, int) else one.level[0], one.message

    message = mask_message(types, RECORD)
    assert [read(one) for one in message.status] == [
        ("modality_mask", 1, "rgb+event"), ("modality_mask/rgb", 0, "OK"), ("modality_mask/depth", 2, "INVALID"),
        ("modality_mask/event", 0, "OK"), ("modality_mask/lidar", 3, "STALE")]
    dropped = copy.deepcopy(RECORD) | {"dropped": "below_min_modalities", "mask": dict.fromkeys(RECORD["mask"], False)}
    assert read(mask_message(types, dropped).status[0]) == ("modality_mask", 2, "none")
    assert read_mask_message(mask_message(types, dropped))["dropped"] == "below_min_modalities"
    whole = copy.deepcopy(RECORD) | {"mask": {"rgb": True}, "inputs": {"rgb": {"state": "HELD"},
                                                                       "lidar": {"state": "DISABLED"}}}
    assert read(mask_message(types, whole).status[0]) == ("modality_mask", 0, "rgb")
