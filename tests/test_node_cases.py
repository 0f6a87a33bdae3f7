"""The collector's edge cases on the node, judged by what it publishes: two sensors at 20 Hz in this process, the node
in another. All cases are played to one node, as a robot would: each finds it as the one before left it."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: the node cannot be tested")
import ros_peer  # noqa: E402

MS = 1_000_000
PERIOD = 50                         # ms
DEADLINE = 500                      # ms; longer than this machine ever keeps a message
COUNTED = ("late", "duplicate", "zero", "future", "back")


@dataclass(frozen=True)
class Sample:
    """Published `due` ms after the beginning of a case, stamped `stamp` ms after it, or `absolute` ns."""

    due: float
    sensor: str
    stamp: float
    absolute: int | None = None
    broken: bool = False
    frozen: bool = False            # with the same content as every other frozen one


def stream(count: int, first: int = 0) -> list[Sample]:
    """Both sensors, `count` periods from period `first` on: the LiDAR 15 ms after the camera, with the same stamp."""
    return [Sample(k * PERIOD + delay, sensor, k * PERIOD) for k in range(first, first + count)
            for sensor, delay in (("rgb", 0), ("lidar", 15))]


def changed(samples: list[Sample], sensor: str, periods, change) -> list[Sample]:
    """`change(sample)` -> samples, in the place of those of a sensor in these periods."""
    return [new for one in samples for new in (
        change(one) if one.sensor == sensor and one.stamp // PERIOD in periods else [one])]


class Played:
    """What the node said of a case: by period, and what its counters grew by."""

    def __init__(self, rig: Rig, begin_ns: int, before: Counter) -> None:
        self.rig, self.begin_ns = rig, begin_ns
        self.stamps = sorted(rig.peer.got["modality_mask"])
        self.grown = Counter(rig.counters())
        self.grown.subtract(before)

    def stamp(self, period: int) -> int:
        return self.begin_ns + period * PERIOD * MS

    def periods(self) -> list[int]:
        return [round((stamp - self.begin_ns) / MS / PERIOD) for stamp in self.stamps]

    def states(self, sensor: str, periods) -> list[str]:
        return [self.rig.peer.mask(self.stamp(k)).get(sensor) for k in periods]

    def masks(self, periods) -> str:
        """A letter for each period: b both, r the camera, l the LiDAR."""
        letters = {("1", "1"): "b", ("1", "0"): "r", ("0", "1"): "l"}
        summaries = [self.rig.peer.summary(self.stamp(k)) for k in periods]
        return "".join(letters[one["rgb"], one["lidar"]] for one in summaries)

    def value_of(self, sensor: str, key: str, period: int) -> str | None:
        statuses = {one.name: one for one in self.rig.peer.got["modality_mask"][self.stamp(period)].status}
        return {one.key: one.value for one in statuses[f"modality_mask/{sensor}"].values}.get(key)

    def value(self, key: str, periods) -> list[str]:
        return [self.rig.peer.summary(self.stamp(k))[key] for k in periods]


class Rig:
    def __init__(self, folder, network) -> None:
        self.peer = ros_peer.Peer()
        self.node = ros_peer.start_node(
            folder, self.peer.context.get_domain_id(), f"checkpoint:={network}", "threads:=1", "inputs:=[rgb, lidar]",
            "tick_rate_hz:=20.0", f"deadline_sec:={DEADLINE / 1000}", "lidar.tolerance_sec:=0.02",
            "rgb.tolerance_sec:=0.02",
            "rgb.queue:=50", "lidar.queue:=50", "rgb.qos_depth:=50", "lidar.qos_depth:=50",   # a deadline's samples
            "compute_policy:=every", "max_pending:=40")     # so that each set is told of, however busy the machine
        self.node.wait_for("mss_perception]: active", 90)
        self.peer.listen("modality_mask", "segmentation")
        self.peer.connect("image", "camera_info", "points")
        assert self.peer.until(lambda: all(self.peer.got[topic] for topic in ("modality_mask", "segmentation")),
                               act=lambda: self.peer.points(self.peer.camera()))
        self.before = self.settled_counters()
        self.play(stream(20))       # the sensors' rhythm

    def counters(self) -> Counter:
        """Of the newest diagnostics: `lidar.late`, ..., and the summary's by their own names."""
        result = Counter()
        for name in ("segmentation", "rgb", "lidar"):
            status = self.peer.status(name)
            prefix = "" if name == "segmentation" else f"{name}."
            result.update({prefix + one.key: int(one.value) for one in status.values if one.value.isdigit()})
        return result

    def settled_counters(self) -> Counter:
        """Those of the first diagnostics from now on by which every tick has been dealt with."""
        for _ in range(10):     # seconds: diagnostics come at 1 Hz
            self.peer.diagnostics.clear()
            assert self.peer.until(lambda: self.peer.status("segmentation"), seconds=20)
            now = self.counters()
            if now["ticks"] == now["outputs"] + sum(count for key, count in now.items() if key.startswith("dropped.")):
                return now
        raise AssertionError(f"some ticks are neither outputs nor dropped: {dict(now)}")

    def play(self, samples: list[Sample]) -> Played:
        peer = self.peer
        peer.got.clear()
        begin_ns, begin = time.time_ns(), time.monotonic()
        for one in sorted(samples, key=lambda one: one.due):
            peer.spin(begin + one.due / 1000 - time.monotonic())
            stamp = begin_ns + round(one.stamp * MS) if one.absolute is None else one.absolute
            content = 0 if one.frozen else stamp
            if one.sensor == "rgb":
                peer.camera("yuv_nonsense" if one.broken else "rgb8", stamp, content)
            else:
                peer.points(stamp, broken=one.broken, content=content)
        peer.spin(DEADLINE / 1000)
        before, self.before = self.before, self.settled_counters()
        return Played(self, begin_ns, before)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    one = Rig(tmp_path_factory.mktemp("node"), ros_peer.random_network(tmp_path_factory.mktemp("network")))
    yield one
    status, _ = one.node.interrupt()
    one.peer.close()
    assert status == 0, one.node.last_words()


def test_normal(rig):
    got = rig.play(stream(15))
    assert got.periods() == list(range(15))
    assert got.masks(range(15)) == "b" * 15
    assert set(got.value("deadline_hit", range(15))) == {"false"}
    assert rig.peer.got["segmentation"].keys() == rig.peer.got["modality_mask"].keys()
    assert {key: got.grown[key] for key in ("ticks", "outputs", "rgb.used", "lidar.used")} == {
        "ticks": 15, "outputs": 15, "rgb.used": 15, "lidar.used": 15}
    assert not any(got.grown[f"{sensor}.{key}"] for sensor in ("rgb", "lidar") for key in COUNTED)


def test_delayed_below_the_deadline(rig):
    """Waited for; the delay lasts to the end, as a sample that is overtaken is one out of order."""
    got = rig.play(changed(stream(20), "lidar", range(5, 20), lambda one: [replace(one, due=one.due + 200)]))
    assert got.masks(range(20)) == "b" * 20
    # The median: a busy machine delays the others too.
    assert statistics.median([float(one) for one in got.value("wait_ms", range(6, 20))]) > 100
    assert got.grown["lidar.late"] == 0


def test_delayed_beyond_the_deadline(rig):
    faulty = range(5, 25)
    got = rig.play(changed(stream(45), "lidar", faulty, lambda one: [replace(one, due=one.due + DEADLINE + 250)]))
    assert got.periods() == list(range(45))
    assert got.masks(faulty) == "r" * 20
    assert got.masks([*range(5), *range(28, 45)]) == "b" * 22       # recover_after + 1 periods after the end
    assert set(got.states("lidar", range(8, 25))) <= {"STALE", "LATE"}          # missing_after = 3
    assert "LATE" in got.states("lidar", range(25))
    assert set(got.value("deadline_hit", range(8, 25))) == {"false"}            # it costs no latency any more
    assert 20 <= got.grown["lidar.late"] <= 22                      # and the two by which it recovers


def test_dropped_in_bursts(rig):
    faulty = [4, 5, 9, 14, 15]
    got = rig.play(changed(stream(22), "lidar", faulty, lambda one: []))
    assert got.masks(range(22)) == "".join("r" if k in faulty else "b" for k in range(22))
    assert set(got.states("lidar", faulty)) == {"MISSING"}
    assert got.grown["lidar.received"] == 17 and got.grown["outputs"] == 22
    assert set(got.value("deadline_hit", range(22))) == {"false"}   # the sample after each gap ends the wait


def test_duplicate_stamps(rig):
    """The last wins, and neither sensor's makes a second set."""
    twice = changed(stream(16), "lidar", [6], lambda one: [replace(one, due=one.due - early) for early in (20, 19)])
    twice = changed(twice, "rgb", [9], lambda one: [one, replace(one, due=one.due + 5)])
    got = rig.play(twice)
    assert got.periods() == list(range(16)) and got.masks(range(16)) == "b" * 16
    assert (got.grown["lidar.duplicate"], got.grown["rgb.duplicate"], got.grown["ticks"]) == (1, 1, 16)


def test_reordered_samples(rig):
    """The camera's make sets in the right order, as these are open. The LiDAR's is given up once the next comes."""
    swapped = changed(stream(20), "rgb", [6], lambda one: [replace(one, due=one.due + PERIOD + 5)])
    swapped = changed(swapped, "lidar", range(20), lambda one: [replace(one, due=one.due + 200)])
    swapped = changed(swapped, "lidar", [12], lambda one: [replace(one, due=one.due + PERIOD + 5)])
    got = rig.play(swapped)
    assert got.periods() == list(range(20))
    assert got.masks(range(20)) == "b" * 12 + "r" + "b" * 7
    assert got.grown["lidar.late"] == 1 and got.grown["epoch"] == 0


@pytest.mark.parametrize("dying", ["lidar", "rgb"])
def test_dying_and_returning(rig, dying):
    """Also of the tick source, whose place the other takes: no tick is lost. The grid stays the camera's."""
    dead, other = range(6, 26), "r" if dying == "lidar" else "l"
    got = rig.play(changed(stream(40), dying, dead, lambda one: []))
    assert got.periods() == list(range(40))
    assert got.masks(dead) == other * 20
    assert set(got.states(dying, range(9, 26))) == {"STALE"}                    # missing_after = 3
    assert set(got.value("deadline_hit", range(9, 26))) == {"false"}            # it costs no latency any more
    assert max(map(float, got.value("wait_ms", range(20, 26)))) < DEADLINE
    assert got.masks([*range(6), *range(29, 40)]) == "b" * 17                   # recover_after + 1 = 3
    assert {one.header.frame_id for one in rig.peer.got["segmentation"].values()} == {"cam"}
    assert got.grown["lidar.received"] + got.grown["rgb.received"] == 60


@pytest.mark.parametrize(("counter", "stamp"), [("zero", lambda: 0), ("future", lambda: time.time_ns() + 60_000 * MS)],
                         ids=["zero_stamp", "far_future_stamp"])
def test_a_stamp_that_can_be_none(rig, counter, stamp):
    """Rejected; it moves nothing, so that the sample after it is used."""
    for sensor, left in (("lidar", "r"), ("rgb", "l")):
        faulty = changed(stream(16), sensor, [6, 10], lambda one: [replace(one, absolute=stamp())])
        got = rig.play(faulty)
        assert got.periods() == list(range(16))
        assert got.masks(range(16)) == "b" * 6 + left + "b" * 3 + left + "b" * 5
        assert got.grown[f"{sensor}.{counter}"] == 2 and got.grown["epoch"] == 0


def test_small_backward_step(rig):
    """A sample stamped 0.8 s ago is one that comes late; time does not start anew."""
    got = rig.play(changed(stream(16), "lidar", [7], lambda one: [replace(one, stamp=one.stamp - 800)]))
    assert got.masks(range(16)) == "b" * 7 + "r" + "b" * 8
    assert got.grown["lidar.late"] == 1 and got.grown["epoch"] == 0 and got.grown["lidar.back"] == 0


def test_pause(rig):
    """Nothing for a second: neither empty sets nor a burst of them, and both sensors at once when it is over."""
    got = rig.play(stream(8) + stream(8, first=28))
    assert got.periods() == [*range(8), *range(28, 36)]
    assert got.masks(got.periods()) == "b" * 16


def test_corrupt_payload(rig):
    """INVALID with its reason and only then; it is no matter of time."""
    broken = changed(stream(16), "lidar", [6], lambda one: [replace(one, broken=True)])
    got = rig.play(changed(broken, "rgb", [10], lambda one: [replace(one, broken=True)]))
    assert got.masks(range(16)) == "b" * 6 + "r" + "b" * 3 + "l" + "b" * 5
    assert got.states("lidar", [6]) == got.states("rgb", [10]) == ["INVALID"]
    assert "yuv_nonsense" in str(rig.peer.got["modality_mask"][got.stamp(10)])
    assert (got.grown["warnings.lidar_invalid"], got.grown["warnings.rgb_invalid"]) == (1, 1)


def test_ten_times_the_rate(rig):
    """A camera at 200 Hz: no more sets than tick_rate_hz, each of them whole, and what is too many is counted."""
    flood = [Sample(5 * k, "rgb", 5 * k) for k in range(200)]
    got = rig.play([one for one in stream(20) if one.sensor == "lidar"] + flood)
    assert 19 <= len(got.stamps) <= 21 and min(b - a for a, b in pairwise(got.stamps)) >= PERIOD * MS // 2
    assert {rig.peer.summary(stamp)["lidar"] for stamp in got.stamps[2:-1]} == {"1"}
    assert got.grown["rgb.received"] + got.grown["rgb.lost"] == 200
    assert got.grown["rgb.used"] == len(got.stamps)
    rig.play(stream(20))        # the rhythm of the cases


def test_frozen_payload(rig):
    """The same picture under new stamps is used, with a warning."""
    got = rig.play([replace(one, frozen=6 <= one.stamp // PERIOD < 12) for one in stream(16)])
    assert got.masks(range(16)) == "b" * 16
    assert (got.grown["warnings.rgb_frozen"], got.grown["warnings.lidar_frozen"]) == (5, 5)
    assert got.value_of("rgb", "frozen", 9) == "true" and got.value_of("rgb", "frozen", 13) is None


def test_bag_loop(rig):
    """All stamps go back by 5 s: one new epoch within two periods, and whole sets in it."""
    first, second = stream(10), [replace(one, stamp=one.stamp - 5000) for one in stream(14, first=10)]
    got = rig.play(first + second)
    after = [k for k in got.periods() if k < 0]
    assert got.periods() == after + list(range(10))
    assert got.grown["epoch"] == 1
    assert after[-1] == 23 - 100 and len(after) >= 12
    assert got.masks(after[3:]) == "b" * (len(after) - 3)
    assert {int(one) for one in got.value("epoch", after)} == {int(got.value("epoch", [0])[0]) + 1}
