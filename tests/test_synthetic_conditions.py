"""Weathers, sensor failures and the radar: what each does to which sensor, against closed forms and the clear world."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from mss_models.modality import DEFAULT_ENCODINGS
from training.datasets.deliver import CASES, NORMAL, SPLITS, WEATHERS
from training.synthetic import air, deliver_tree, front_radar, movers, spinning_lidar, weather
from training.synthetic.drive import Drive
from training.synthetic.lanes import Lanes
from training.synthetic.looks import CLASS
from training.synthetic.mesh import Mesh
from training.synthetic.recorder import START_NS, Recorder, seconds
from training.synthetic.rig import COARSE, MS, Rig

SIZE, SEED, T = 64, (4, 1, 2), START_NS + 700 * MS


@lru_cache
def drive(name: str) -> Drive:
    return Drive(SEED, name, 1.5)


def recorder(name: str, case: str = NORMAL) -> Recorder:
    return Recorder(drive(name), Rig.of_size(SIZE, case == "eventlowres"), SEED, case)


@lru_cache
def measured(name: str, case: str = NORMAL) -> dict[str, np.ndarray]:
    """What every sensor measures at T, as one array each."""
    one = recorder(name, case)
    packets = list(one.events(T - 20 * MS, T))
    return {
        "rgb": one.rgb(T)[0], "depth": one.depth(T), "lidar": np.stack(list(one.sweep(T).values())),
        "radar": np.stack(list(one.radar(T).values())),
        "event": np.stack([np.concatenate([getattr(p, name) for p in packets]) for name in "xytp"]),
    }


def light(name: str, seed: int = 0) -> weather.Light:
    return weather.light(name, np.random.default_rng(seed))


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=True)


# ------------------------------------------------------------------------------------------------------------- air


def test_fog_fades_to_its_own_colour_by_koschmieders_law():
    fog, level = light("fog"), np.float32([[1.0, 0, 0]])
    black, white = (np.full((1, 3), value, np.float32) for value in (0.0, 1.0))
    for distance in (5.0, 20.0, 60.0):
        seen = [air.veil(one, np.array([distance]), level, fog) for one in (black, white)]
        assert seen[1] - seen[0] == pytest.approx(np.exp(-fog.extinction * distance), rel=1e-4)
    far = air.veil(white, np.array([1e6]), level, fog)
    assert np.allclose(far, air.veil(black, np.array([1e6]), level, fog), atol=1e-2)
    assert air.veil(white, np.array([20.0]), level, light("sun")) is white
    visibility = 3.912 / np.array([light("fog", seed).extinction for seed in range(50)])
    assert 30 <= visibility.min() < 45
    assert 75 < visibility.max() <= 90


def test_a_laser_goes_through_the_air_twice():
    fog, distance = light("fog"), np.array([3.0, 30.0])
    assert air.there_and_back(distance, fog) == pytest.approx(np.exp(-2 * fog.extinction * distance))
    assert np.array_equal(air.there_and_back(distance, light("cloud")), [1, 1])


@pytest.mark.parametrize("name", ["fog", "rain"])
def test_false_returns_are_near_weak_and_never_behind_a_surface(name):
    one, rng = light(name), np.random.default_rng(0)
    distance = np.where(np.arange(20_000) % 2 == 0, 6.0, np.nan)
    found, intensity = air.false_returns(distance, np.full(20_000, 0.5, np.float32), one, rng)
    false = intensity < 0.5
    assert equal(found[~false], distance[~false])
    assert ((found[false] >= 1) & (found[false] < 25)).all()
    assert found[::2].max() == 6.0
    assert 0 < false[::2].mean() < false[1::2].mean() < 0.6
    assert intensity[false].max() < 0.1
    clear = air.false_returns(distance, intensity, light("night"), rng)
    assert clear[0] is distance


def test_drops_are_events_inside_the_image_and_the_packet_brighter_first():
    x, y, t, p = air.drop_events(80, 60, 5000 * MS, 5010 * MS, light("rain"), np.random.default_rng(0))
    assert len(t) > 30
    assert x.max() < 80
    assert y.max() < 60
    assert t.min() >= 5000 * MS
    assert t.max() < 5010 * MS
    assert (t % 1000 == 0).all()
    assert 0.3 < p.mean() < 0.7
    for place in set(zip(x[~p], y[~p], strict=True)):  # no pixel gets darker before it got brighter
        here = (x == place[0]) & (y == place[1])
        assert t[here & p].min() < t[here & ~p].min()


# -------------------------------------------------------------------------------------------------------- weathers


def test_fog_takes_far_things_from_colour_depth_lidar_and_events_but_not_from_the_radar():
    clear, fog = measured("cloud"), measured("fog")
    assert equal(clear["radar"], fog["radar"])
    assert np.nanpercentile(fog["depth"], 99) < 0.8 * np.nanpercentile(clear["depth"], 99)
    reach = [np.linalg.norm(one["lidar"][:3], axis=0) for one in (clear, fog)]
    assert (reach[1] > 40).sum() < 0.1 * (reach[0] > 40).sum()
    assert fog["event"].shape[1] < 0.6 * clear["event"].shape[1]
    assert fog["rgb"].std() < 0.6 * clear["rgb"].std()


def test_rain_wets_the_road_and_spoils_depth_and_lidar():
    dry, wet = measured("cloud"), measured("rain")
    assert equal(dry["radar"], wet["radar"])
    near = [np.linalg.norm(one["lidar"][:3], axis=0) for one in (dry, wet)]
    high = [one["lidar"][2] > 0.2 for one in (dry, wet)]  # over the roof: drops in the air
    assert np.median(wet["lidar"][3]) < 0.8 * np.median(dry["lidar"][3])
    assert ((near[1] < 8) & high[1]).sum() > ((near[0] < 8) & high[0]).sum()
    assert (near[1] > 15).sum() < 0.9 * (near[0] > 15).sum()
    assert np.isnan(wet["depth"]).mean() > np.isnan(dry["depth"]).mean() + 0.05
    road = recorder("cloud").rgb(T)[1] == CLASS["Road"]
    assert wet["rgb"][road].astype(float).std() > 1.2 * dry["rgb"][road].astype(float).std()


def test_drops_are_among_the_events_of_rain_in_their_order():
    one = recorder("rain")
    packet = next(one.events(T, T + 10 * MS))
    camera, rng = one.rig.event, one._noise("drops", T)
    drops = zip(*air.drop_events(camera.width, camera.height, T, T + 10 * MS, drive("rain").light, rng), strict=True)
    everything = set(zip(packet.x, packet.y, packet.t, packet.p, strict=True))
    assert len(everything) > 100
    assert everything.issuperset(drops)
    assert (np.diff(packet.t) >= 0).all()


# ----------------------------------------------------------------------------------------------------------- cases


@pytest.mark.parametrize(("case", "sensor"), [
    ("motionblur", "rgb"), ("overexposure", "rgb"), ("underexposure", "rgb"), ("lidarjitter", "lidar"),
    ("eventlowres", "event")])
def test_a_case_spoils_its_own_sensor_and_no_other(case, sensor):
    normal, spoilt = measured("cloud"), measured("cloud", case)
    assert [name for name in normal if not equal(normal[name], spoilt[name])] == [sensor]
    assert np.array_equal(recorder("cloud").rgb(T)[1], recorder("cloud", case).rgb(T)[1])


def test_exposure_and_blur_of_the_colour_camera():
    normal, blurred, bright, dark = (
        measured("cloud", case)["rgb"].astype(float)
        for case in (NORMAL, "motionblur", "overexposure", "underexposure"))
    assert (bright > 250).mean() > (normal > 250).mean() + 0.25
    assert 1 < dark.mean() < 0.35 * normal.mean()
    sharpness = [np.abs(np.diff(one.mean(-1), axis=axis)).mean() for one in (normal, blurred) for axis in (0, 1)]
    assert sum(sharpness[2:]) < 0.9 * sum(sharpness[:2])
    assert blurred.mean() == pytest.approx(normal.mean(), rel=0.05)


def test_lidar_jitter_turns_rays_by_a_degree_and_leaves_everything_else():
    rng = np.random.default_rng(3)
    direction = rng.normal(size=(3, 4000))
    direction *= 30 / np.linalg.norm(direction, axis=0)
    cloud = dict(zip("xyz", direction, strict=True)) | {"time": rng.uniform(-0.1, 0, 4000), "ring": np.arange(4000)}
    sizes = []
    for seed in range(8):
        moved = spinning_lidar.jittered(cloud, np.random.default_rng(seed))
        assert moved["ring"] is cloud["ring"]
        there = np.stack([moved[name] for name in "xyz"]).astype(float)
        cosine = (there * direction).sum(0) / np.linalg.norm(there, axis=0) / 30
        sizes.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())
        assert np.abs(np.linalg.norm(there, axis=0) - 30).max() < 0.5
    assert min(sizes) > 0.5
    assert max(sizes) < 3


def test_coarse_events_become_an_image_of_a_quarter_of_the_size():
    one = recorder("cloud", "eventlowres")
    images, _ = Lanes(one.rig, DEFAULT_ENCODINGS).frame(one, T)
    assert {name for name, image in images.items() if image.shape != (SIZE, SIZE, 3)} == {"event"}
    assert images["event"].shape == (SIZE // COARSE, SIZE // COARSE, 3)
    assert (one.rig.event.width, one.rig.event.height) == (SIZE // COARSE, SIZE * 3 // 4 // COARSE)
    fine = Rig.of_size(SIZE).event
    assert one.rig.event.K[0, 0] == pytest.approx(fine.K[0, 0] / COARSE)


def test_hha_of_the_road_ahead_is_level_and_on_the_ground():
    one = recorder("cloud")
    images, labels = Lanes(one.rig, DEFAULT_ENCODINGS).frame(one, T)
    road = (labels == CLASS["Road"]) & images["hha"].any(-1)
    road[: 3 * SIZE // 4] = False
    assert road.sum() > 100
    assert np.median(images["hha"][road][:, 1]) < 10  # centimetres above the ground
    assert np.median(images["hha"][road][:, 2]) == pytest.approx(38, abs=6)  # 38 + degrees


# ----------------------------------------------------------------------------------------------------------- radar


def test_radar_detections_lie_on_what_stands_there_and_move_as_it_does():
    one = drive("sun")
    radar, mount, t = recorder("sun").rig.radar, recorder("sun").rig.mount("radar"), seconds(T)
    found = front_radar.scan(one, radar, mount, t, np.random.default_rng(0))
    points = np.stack([found[name] for name in "xyz"], -1).astype(float)
    assert 10 < len(points) <= radar.most
    distance = np.linalg.norm(points, axis=1)
    assert (np.diff(distance) > -0.6).all()
    pose = one.ego.pose(t) @ mount
    world = points @ pose[:3, :3].T + pose[:3, 3]
    towards = (world - pose[:3, 3]) / distance[:, None]
    # speeds from where everything is a hundredth of a second before and after
    step = 0.01
    own = ((one.ego.pose(t + step) - one.ego.pose(t - step)) @ mount)[:3, 3] / (2 * step)
    traffic = one.world._movers
    places = [movers.place(one.street.curve, traffic, t + shift)[0][:, :3, 3] for shift in (-step, 0, step)]
    speeds = (places[2] - places[0]) / (2 * step)
    sizes = np.array([mover.form.radius() if isinstance(mover.form, Mesh) else 1.0 for mover in traffic])
    still = -towards @ own
    explained = np.abs(found["velocity"] - still) < 0.6
    assert 0.3 < explained.mean() < 1
    for index in np.flatnonzero(~explained):
        close = np.linalg.norm((places[1] - world[index])[:, :2], axis=1) < sizes + 1.5
        expected = speeds[close] @ towards[index] + still[index]
        explained[index] = (np.abs(expected - found["velocity"][index]) < 0.8).any()
    assert explained.mean() > 0.9  # the rest are false alarms and cells that two things share
    assert (found["velocity"] < -3).sum() > 5  # what stands still comes towards it


# ------------------------------------------------------------------------------------------------- the tree's plan


def test_conditions_are_balanced_as_in_deliver():
    for split, frames in zip(SPLITS, (1500, 200, 400), strict=True):
        streets = deliver_tree.plan(split, frames, list(WEATHERS), 64, 1)
        assert set(Counter(one.weather for one in streets).values()) == {frames // 4 // 5}
        corner = Counter(one.case for one in streets if one.case != NORMAL)
        assert set(corner) == set(CASES)
        assert 0.28 < sum(corner.values()) / len(streets) < 0.37
        assert max(corner.values()) - min(corner.values()) <= 1
    pairs = {(one.weather, one.case) for one in deliver_tree.plan("train", 1500, list(WEATHERS), 64, 1)}
    assert pairs == {(one, case) for one in WEATHERS for case in (NORMAL, *CASES)}
    chosen = deliver_tree.plan("val", 24, ["sun", "fog"], 64, 1, ["lidarjitter"])
    assert {one.case for one in chosen} == {"lidarjitter"}
    assert chosen[1].folder(Path("r"), "img") == Path("r/img/fog/val/MAP_2_point1_lidarjitter")
