"""What `python -m training.synthesize` writes: the DELIVER tree and the bag."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict

import cv2
import numpy as np
import psutil
import pytest

from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_ENCODINGS, DELIVER_MODALITIES
from mss_perception import messages
from mss_perception.bags import read_bag
from mss_perception.camera import Camera
from mss_perception.transforms import Transforms
from training import synthesize
from training.datasets.deliver import SPLITS, Deliver
from training.synthetic import bag, deliver_tree, weather
from training.synthetic.drive import Drive
from training.synthetic.recorder import START_NS, Recorder
from training.synthetic.rig import MS, TIMING, Rig

SIZE = 48


def synthesize_tree(out, *more):
    fixed = ["--out", str(out), "--format", "deliver", "--size", str(SIZE), "--seed", "4"]
    return synthesize.main([*fixed, *map(str, more)])


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "tree"
    assert synthesize_tree(out, "--frames", 9, "--weather", "sun", "night", "--jobs", 1) == 0
    return out


@pytest.fixture(scope="module", name="bag_folder")
def record_bag(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "bag"
    arguments = ["--out", str(out), "--format", "bag", "--size", str(SIZE), "--seed", "4", "--weather", "cloud"]
    assert synthesize.main([*arguments, "--duration", "1.1", "--jobs", "1"]) == 0
    return out


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_tree_has_delivers_layout(tree):
    names = [name for name in files(tree) if name.endswith(".png")]
    folders = {"img": "rgb", "depth": "depth", "hha": "depth", "lidar": "lidar", "event": "event",
               "radar": "radar", "semantic": "semantic"}
    streets = ["sun/train/MAP_1_point0", "night/train/MAP_2_point1"]
    frames = [f"{street}/{frame:06d}" for street in streets for frame in range(4)]
    frames += ["sun/train/MAP_3_point2_motionblur/000000"]
    expected = {f"{kind}/{frame}_{suffix}_front.png" for kind, suffix in folders.items() for frame in frames}
    assert set(names) == expected
    assert set(files(tree)) - expected == {"encodings.json", "recording.json"}
    raw = cv2.imread(str(tree / "semantic/sun/train/MAP_1_point0/000000_semantic_front.png"), cv2.IMREAD_UNCHANGED)
    assert raw.shape == (SIZE, SIZE)
    assert raw.min() >= 1
    assert raw.max() <= 25


def test_tree_is_read_by_the_loader_with_its_encodings(tree):
    data = Deliver(tree, "train")
    assert len(data) == 9
    assert data.encodings == {name: DEFAULT_ENCODINGS[name] for name in DELIVER_MODALITIES}
    known = json.loads((tree / "encodings.json").read_text())
    assert known["hha"] == DELIVER_ENCODINGS["depth"].to_dict()
    assert known["radar"] == DEFAULT_ENCODINGS["radar"].to_dict()
    for sample in (data[0], data[8]):
        assert set(sample.images) == {"rgb", "depth", "event", "lidar"}
        for name, image in sample.images.items():
            assert image.shape == (SIZE, SIZE, 3)
            assert image.any(), name
        assert (sample.images["depth"][..., 2] == 255).mean() > 0.3
        assert not sample.images["event"][..., 2].any()
        assert sample.images["lidar"].any(-1).mean() > 0.2
    for kind, least, most in (("hha/{}_depth", 0.3, 0.9), ("radar/{}_radar", 0.01, 0.8)):
        path = tree / f"{kind.format('sun/train/MAP_1_point0/000000')}_front.png"
        there = cv2.imread(str(path)).any(-1)
        assert there.shape == (SIZE, SIZE)
        assert least < there.mean() < most
    record = json.loads((tree / "recording.json").read_text())["train"]
    assert record["frames"] == 9
    assert record["seed"] == 4
    assert record["cases"] == ["motionblur", "normal"]
    assert sum(share > 0 for share in record["class_shares"].values()) >= 12
    assert sum(record["class_shares"].values()) == pytest.approx(1, abs=1e-3)


def test_tree_is_the_same_for_any_number_of_processes_and_after_an_interruption(tree, tmp_path, capsys):
    other = tmp_path / "tree"
    assert synthesize_tree(other, "--frames", 9, "--weather", "sun", "night", "--jobs", 2) == 0
    whole = files(tree)
    assert files(other) == whole
    # an interrupted run: a frame without its rgb image, which is written last, and a street that was never begun; and
    # files that went astray
    astray = ("000003_rgb_front.png", "000002_semantic_front.png", "000001_event_front.png")
    for name in whole:
        if "/MAP_2_point1/" in name or ("MAP_1_point0/" in name and name.endswith(astray)):
            (other / name).unlink()
    assert synthesize_tree(other, "--frames", 9, "--weather", "sun", "night", "--jobs", 1) == 0
    assert files(other) == whole
    damaged = next(other.glob("semantic/*/*/*/*.png"))
    damaged.write_bytes(b"")
    assert synthesize_tree(other, "--frames", 9, "--weather", "sun", "night", "--jobs", 1) == 2
    assert f"error: {damaged} cannot be read; remove it" in capsys.readouterr().err


@pytest.fixture
def recording(tmp_path):
    """A recording in two processes that takes minutes, as (process, its workers), when both of them are there."""
    command = [sys.executable, "-m", "training.synthesize", "--out", str(tmp_path / "tree"), "--format", "deliver",
               "--frames", "400", "--size", "128", "--jobs", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        workers = []
        while process.poll() is None and len(workers) < 2:
            time.sleep(0.05)
            workers = [one for one in psutil.Process(process.pid).children() if "spawn_main" in " ".join(one.cmdline())]
        yield process, workers
        process.kill()


@pytest.mark.parametrize(("kill_worker", "status", "message"), [
    (True, 2, "error: one of the processes was killed.*fewer --jobs"),
    (False, 130, "interrupted; the same command continues")])
def test_a_killed_worker_or_an_interrupt_ends_it_with_a_message(recording, kill_worker, status, message):
    process, workers = recording
    assert len(workers) == 2
    if kill_worker:
        workers[0].kill()
    else:
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and re.search(message, errors.splitlines()[-1])
    assert "Traceback" not in errors
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_no_worker_stays_when_the_recording_is_killed(recording):
    process, workers = recording
    assert len(workers) == 2
    process.kill()
    for _ in range(1200):  # of 0.05 s: a worker that is still starting notices at the end of it
        if all(has_ended(one) for one in workers):
            break
        time.sleep(0.05)
    assert all(has_ended(one) for one in workers)


def has_ended(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # nobody may be there to collect an orphan
    except psutil.NoSuchProcess:
        return True


def test_a_folder_of_another_recording_is_refused_by_name(tree, capsys):
    before = files(tree)
    assert synthesize_tree(tree, "--frames", 12, "--weather", "sun", "night") == 2
    error = capsys.readouterr().err
    assert "frames = 9 there, 12 asked" in error
    assert files(tree) == before


def test_no_two_streets_of_the_splits_and_the_bag_share_a_seed():
    plans = [deliver_tree.plan(split, 100, ["sun", "cloud"], 64, 3) for split in SPLITS]
    sequences = [one for plan in plans for one in plan]
    # What a seed gives is what counts: NumPy takes (3,) and (3, 0, 0) for the same.
    streams = {tuple(np.random.SeedSequence(seeds).generate_state(4))
               for seeds in (bag.seeds(3), *(one.seeds for one in sequences))}
    assert len(streams) == len(sequences) + 1
    assert sum(one.frames for one in sequences) == 300
    assert {one.weather for one in sequences} == {"sun", "cloud"}


@pytest.mark.parametrize("arguments", [
    ["--format", "deliver"], ["--format", "deliver", "--frames", "4", "--duration", "2"],
    ["--format", "deliver", "--frames", "4", "5"], ["--format", "bag", "--duration", "0"],
    ["--format", "deliver", "--frames", "4", "--case", "mixed", "normal"], ["--format", "bag", "--case", "mixed"],
    ["--format", "deliver", "--frames", "0"], ["--format", "bag", "--weather", "snow"]])
def test_wrong_options_are_refused(arguments, tmp_path):
    with pytest.raises(SystemExit) as stop:
        synthesize.main(["--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2
    assert not (tmp_path / "out").exists()


def test_unknown_weather_names_the_known_ones():
    with pytest.raises(weather.WeatherError, match="cloud, fog, night, rain, sun"):
        weather.light("snow", np.random.default_rng(0))


def test_night_ruins_the_colour_camera_but_neither_depth_nor_lidar():
    seed, t = (4, 1, 0), START_NS + 500 * MS
    day, night = (Recorder(Drive(seed, name, 1.0), Rig.of_size(SIZE), seed) for name in ("sun", "night"))
    (bright, labels), (dark, same) = day.rgb(t), night.rgb(t)
    assert np.array_equal(labels, same)
    assert dark.mean() < 0.5 * bright.mean()
    assert np.array_equal(day.depth(t), night.depth(t), equal_nan=True)
    for name, values in day.sweep(t).items():
        assert np.array_equal(values, night.sweep(t)[name])


def test_bag_topics_counts_and_stamps(bag_folder):
    found = defaultdict(list)
    last = 0
    for topic, received, message in read_bag(bag_folder):
        assert received >= last
        last = received
        found[topic].append((received, message))
    counts = {topic: len(items) for topic, items in found.items()}
    assert counts == {"/image": 11, "/camera_info": 11, "/labels": 11, "/depth/image": 11, "/depth/camera_info": 11,
                      "/points": 11, "/radar": 11, "/events": 130, "/events/camera_info": 13, "/odom": 130,
                      "/tf_static": 1}
    for topic, sensor in (("/image", "rgb"), ("/depth/image", "depth"), ("/points", "lidar"), ("/radar", "radar"),
                          ("/odom", "odom")):
        stamps = np.array([messages.stamp_ns(message.header) for _, message in found[topic]])
        delays = np.array([received for received, _ in found[topic]]) - stamps
        assert (np.diff(stamps) == TIMING[sensor].period_ns).all()
        assert delays.min() >= TIMING[sensor].latency_ns
        assert delays.max() < TIMING[sensor].latency_ns + 10 * MS
    images = [messages.stamp_ns(message.header) for _, message in found["/image"]]
    assert images == [messages.stamp_ns(message.header) for _, message in found["/labels"]]
    depth = [messages.stamp_ns(message.header) for _, message in found["/depth/image"]]
    assert set(np.subtract(depth, images)) == {TIMING["depth"].offset_ns}
    assert {message.encoding for _, message in found["/labels"]} == {"mono8"}
    assert messages.decode_image(found["/depth/image"][0][1]).dtype == np.float32


def test_bag_events_fill_their_packets_without_gap(bag_folder):
    end = None
    for _, received, message in read_bag(bag_folder, ["/events"]):
        packet = messages.decode_events(message, 10 * MS)
        assert end is None or packet.begin_ns == end
        end = packet.begin_ns + 10 * MS
        assert received >= end
        if len(packet):
            assert packet.t.min() >= packet.begin_ns
            assert packet.t.max() < end
            assert packet.x.max() < SIZE
            assert packet.y.max() < SIZE * 3 // 4


def test_bag_places_every_sensor_and_its_motion(bag_folder):
    where, twists = Transforms(), {}
    for topic, _, message in read_bag(bag_folder, ["/tf_static", "/odom"]):
        if topic == "/tf_static":
            where.add_message(message)
        else:
            where.add_odometry(message)
            twists[messages.stamp_ns(message.header)] = message.twist.twist
    rig = Rig.of_size(SIZE)
    for frame in ("camera_optical", "depth_optical", "event_optical", "lidar", "radar"):
        assert np.allclose(where.lookup("base_link", frame), rig.mount(frame), atol=1e-9)
    for stamp in list(twists)[20:100:20]:
        before, now, after = (where.lookup("odom", "base_link", stamp + shift) for shift in (-10 * MS, 0, 10 * MS))
        linear = now[:3, :3].T @ (after - before)[:3, 3] / 0.02
        assert linear[:2] == pytest.approx([twists[stamp].linear.x, twists[stamp].linear.y], abs=0.05)
    for prefix, camera in (("", rig.rgb), ("/depth", rig.depth), ("/events", rig.event)):
        _, _, message = next(read_bag(bag_folder, [f"{prefix}/camera_info"]))
        assert Camera.from_info(message) == camera


def test_bag_is_the_same_for_any_number_of_processes(bag_folder, tmp_path):
    other = tmp_path / "bag"
    arguments = ["--out", str(other), "--format", "bag", "--size", str(SIZE), "--seed", "4", "--weather", "cloud"]
    assert synthesize.main([*arguments, "--frames", "11", "--jobs", "2"]) == 0
    assert (other / "bag.mcap").read_bytes() == (bag_folder / "bag.mcap").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_a_bag_takes_any_weather_and_case(tmp_path):
    out = tmp_path / "bag"
    arguments = ["--out", str(out), "--format", "bag", "--size", "32", "--seed", "4", "--frames", "1", "--jobs", "1"]
    assert synthesize.main([*arguments, "--weather", "rain", "--case", "eventlowres"]) == 0
    info = next(message for topic, _, message in read_bag(out, ["/events/camera_info"]))
    assert (info.width, info.height) == (8, 6)
    for _, _, message in read_bag(out, ["/events"]):
        packet = messages.decode_events(message, 10 * MS)
        assert (np.diff(packet.t) >= 0).all()
        assert not len(packet) or (packet.x.max() < 8 and packet.y.max() < 6)


def test_an_existing_bag_is_not_overwritten(bag_folder, capsys):
    before = files(bag_folder)
    assert synthesize.main(["--out", str(bag_folder), "--format", "bag", "--size", str(SIZE), "--duration", "0.2"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert files(bag_folder) == before
