"""The command that makes a picture of events: against counts by hand, and what it says when there is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mss_perception.bags import BagWriter, read_bag, typestore
from mss_perception.messages import bag_types, encode_events, encode_header
from mss_perception.messages.event_packets import PacketDecoder
from mss_perception.show_events import main

TYPES = bag_types()
START = 1_700_000_000_000_000_000
MS = 1_000_000
RED, BLUE = (0, 2), (2, 0)      # channels that are high and low


def picture(path):
    return cv2.imread(str(path))[..., ::-1].astype(int)


@pytest.mark.parametrize(("name", "at", "enlarged"), [("test_events_1", 1.0, 1), ("test_events_2", 0.2, 2)])
def test_pictures_of_the_recordings_show_the_last_events(shared_data, tmp_path, capsys, name, at, enlarged):
    """ON and OFF per pixel, counted from the decoder alone in the camera's own time."""
    bag, window_ns = shared_data / "event_recordings" / name, 30 * MS
    assert main([str(bag), "--out", str(tmp_path / "x.png"), "--at", str(at), "--window", "0.03"]) == 0
    entries = list(read_bag(bag))
    decoder, parts = PacketDecoder(entries[0][2].encoding), []
    for _, receive_ns, message in entries:
        if receive_ns <= entries[0][1] + round(at * 1e9):
            parts.append(decoder.feed(message.events, message.time_base))
    x, y, t, p = (np.concatenate([getattr(one, axis) for one in parts]) for axis in "xytp")
    # The clock's offset moves by less than 0.1 ms meanwhile.
    last = t > parts[-1].end_ns - window_ns
    counts = np.zeros((message.height, message.width, 2), int)
    np.add.at(counts, (y[last], x[last], p[last].astype(int)), 1)
    drawn = picture(tmp_path / "x.png")
    assert drawn.shape == (message.height * enlarged, message.width * enlarged, 3)
    drawn = drawn[::enlarged, ::enlarged]
    for (high, low), these in ((RED, (counts[..., 1] > 0) & (counts[..., 0] == 0)),
                               (BLUE, (counts[..., 0] > 0) & (counts[..., 1] == 0))):
        assert these.sum() > 500 and np.mean((drawn[..., high] > 80) & (drawn[..., low] < 60), where=these) > 0.98
    assert np.mean(drawn.max(-1) < 60, where=counts.sum(-1) == 0) > 0.999
    events, on = (int(word) for word in capsys.readouterr().out.replace(",", "").split()[1:4:2])
    assert events == pytest.approx(last.sum(), rel=0.01) and on == pytest.approx(p[last].sum(), rel=0.01)


def write(path, topics, count=3):
    made = typestore().types["event_camera_msgs/msg/EventPacket"]
    with BagWriter(path) as out:
        for topic in topics:
            for k in range(count):
                stamp = START + k * 10 * MS
                if topic == "/points":
                    message = encode_events(TYPES, [3, 9], [2, 4], [stamp, stamp + MS], [0, 1], stamp, "event")
                else:
                    message = made(header=encode_header(TYPES, stamp, "event"), height=8, width=16, seq=k, time_base=0,
                                   encoding="trigger" if topic == "/triggers" else "mono", is_bigendian=False,
                                   events=np.zeros(8, np.uint8))
                out.write(topic, message, stamp + 5 * MS)
    return path


def test_events_of_a_cloud_are_shown_by_topic_on_what_holds_them(tmp_path, capsys):
    bag = write(tmp_path / "bag", ["/points"])
    assert main([str(bag), "--out", str(tmp_path / "x.png"), "--topic", "/points", "--at", "1"]) == 0
    drawn = picture(tmp_path / "x.png")
    assert drawn.shape == (5 * 64, 10 * 64, 3)
    assert drawn[4 * 64, 9 * 64, 0] > 100 > drawn[4 * 64, 9 * 64, 2] and drawn[2 * 64, 3 * 64, 2] > 100
    assert "6 events, 3 ON, 3 OFF" in capsys.readouterr().out


@pytest.mark.parametrize(("topics", "options", "said"), [
    (["/points"], [], "has 0 topics of packed or listed events; name one with --topic: /points"),
    (["/a", "/b"], [], "has 2 topics of packed or listed events; name one with --topic: /a, /b"),
    (["/a"], ["--topic", "/c"], "has no topic /c; it has /a"),
    (["/triggers"], [], "has no events up to 1 s; it lasts 0.0 s"),
    (["/a"], ["--out", "/nowhere/x.png"], "cannot write /nowhere/x.png"),
])
def test_what_is_missing_is_said(tmp_path, capsys, topics, options, said):
    bag = write(tmp_path / "bag", topics)
    assert main([str(bag), "--out", str(tmp_path / "x.png"), "--at", "1", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--at", "nan"], ["--window", "0"], ["--window", "inf"], ["--at", "-1"]])
def test_times_that_are_none_are_refused(tmp_path, capsys, options):
    with pytest.raises(SystemExit) as stop:
        main(["bag", "--out", "x.png", *options])
    assert stop.value.code == 2 and "must be above 0" in capsys.readouterr().err
