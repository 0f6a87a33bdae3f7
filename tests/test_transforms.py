"""Frames over time: the tree, interpolation against scipy, deskew of static points seen from a moving vehicle."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from mss_perception import rigid
from mss_perception.camera import Camera
from mss_perception.lane import LaneInvalid
from mss_perception.messages import MessageError, bag_types, encode_odometry, encode_transforms
from mss_perception.projection import Motion, project_points
from mss_perception.transforms import TransformMissing, Transforms

MS = 1_000_000
TYPES = bag_types()


def pose(seed):
    rng = np.random.default_rng(seed)
    return rigid.matrix(rng.normal(size=3), rng.normal(size=4))


def robot():
    one = Transforms()
    one.add_static("base_link", "camera", pose(0))
    one.add_static("base_link", "mast", pose(1))
    one.add_static("mast", "lidar", pose(2))
    return one


def test_quaternions_and_matrices_are_scipys():
    q = np.random.default_rng(0).normal(size=(200, 4))
    R = rigid.rotation_from_quaternion(q)
    np.testing.assert_allclose(R, Rotation.from_quat(q).as_matrix(), atol=1e-12)
    # Half turns about each axis and all between: every branch of the inverse.
    special = Rotation.from_rotvec(np.pi * np.vstack([np.eye(3), -np.eye(3), np.zeros(3)])).as_matrix()
    for one in (*R, *special):
        found = rigid.quaternion_from_rotation(one)
        assert found[3] >= 0 and np.linalg.norm(found) == pytest.approx(1)
        np.testing.assert_allclose(rigid.rotation_from_quaternion(found), one, atol=1e-9)
    T = rigid.matrix(q[:, :3], q)
    np.testing.assert_allclose(rigid.inverse(T) @ T, np.broadcast_to(np.eye(4), (200, 4, 4)), atol=1e-12)


def test_slerp_is_scipys_and_takes_the_short_way():
    rng = np.random.default_rng(1)
    q0, q1 = (q / np.linalg.norm(q, axis=1, keepdims=True) for q in rng.normal(size=(2, 100, 4)))
    q1[:10] = q0[:10]
    q1[10:20] = -q0[10:20]
    fraction = rng.uniform(0, 1, 100)
    found = Rotation.from_quat(rigid.slerp(q0, q1, fraction))
    for i in range(100):
        expected = Slerp([0, 1], Rotation.from_quat([q0[i], q1[i]]))(fraction[i])
        assert (found[i].inv() * expected).magnitude() < 1e-7


def test_static_frames_are_chained_through_their_ancestor():
    T = robot().lookup("camera", "lidar")
    np.testing.assert_allclose(T, np.linalg.inv(pose(0)) @ pose(1) @ pose(2), atol=1e-12)
    np.testing.assert_allclose(robot().lookup("lidar", "camera"), np.linalg.inv(T), atol=1e-12)
    np.testing.assert_allclose(robot().lookup("mast", "mast"), np.eye(4))
    np.testing.assert_allclose(robot().lookup("base_link", "mast"), pose(1), atol=1e-12)


@pytest.mark.parametrize(("target", "source"), [("camera", "radar"), ("radar", "camera"), ("", "lidar")])
def test_what_is_not_connected_is_named_never_identity(target, source):
    with pytest.raises(TransformMissing, match=f"{source!r}.*{target!r}"):
        robot().lookup(target, source)
    assert issubclass(TransformMissing, LaneInvalid)


def test_an_unknown_frame_is_told_from_two_trees():
    def why(one, target="camera", source="lidar"):
        with pytest.raises(TransformMissing) as caught:
            one.lookup(target, source)
        return str(caught.value).partition("': ")[2]

    there = "base_link, camera, lidar, mast"
    assert why(robot(), source="radar") == f"'radar' is unknown; known: {there}"
    assert why(robot(), "top", "radar") == f"'radar' and 'top' are unknown; known: {there}"
    assert why(Transforms()) == "'lidar' and 'camera' are unknown; known: none, no transform has come"
    two = robot()
    two.add_static("pole", "radar", pose(3))
    assert why(two, source="radar") == "'radar' is in the tree of 'pole' and 'camera' is in the tree of 'base_link'"
    assert why(two, source="pole") == "'pole' is in the tree of 'pole' and 'camera' is in the tree of 'base_link'"
    many = Transforms()
    for k in range(30):
        many.add_static("base_link", f"wheel{k:02}", pose(k))
    assert why(many, source="wheel03").endswith("wheel17, wheel18 and 11 more")


@pytest.mark.parametrize("static", [False, True])
def test_a_bad_transform_costs_itself_and_not_its_message(static):
    """Of several in one message: what is impossible, or of /tf dated an hour ahead, is named; the rest is taken."""
    now = 1_000_000 * MS
    message = encode_transforms(TYPES, [("base_link", name, pose(k)) for k, name in enumerate("abc")], now)
    bad, ahead, _ = message.transforms
    bad.transform.rotation.w = np.nan
    ahead.header.stamp.sec += 3600
    one = Transforms(max_future_sec=0.5)
    with pytest.raises(MessageError, match="transform to 'a' has .*" + ("length$" if static else "; and 1 more")):
        one.add_message(message, static, clock_ns=now)
    np.testing.assert_allclose(one.lookup("base_link", "c"), pose(2), atol=1e-12)
    with pytest.raises(TransformMissing, match="'a' is unknown; known: " + ("b, " if static else "") + "base_link, c"):
        one.lookup("base_link", "a")
    if not static:
        message.transforms = [ahead]
        with pytest.raises(MessageError, match=r"'b' is stamped 3600\.000 s in the future; .* max_future_sec = 0\.5"):
            one.add_message(message, static, clock_ns=now)
    one.add_message(encode_transforms(TYPES, [("base_link", "b", pose(1))], now + 500 * MS), static, clock_ns=now)


@pytest.mark.parametrize(("parent", "child"), [
    ("lidar", "lidar"), ("/lidar", "lidar"), ("", "lidar"), ("base_link", "")])
def test_a_frame_in_itself_or_without_a_name_changes_nothing(parent, child):
    """As for tf2. The LiDAR would be lost with it."""
    one = robot()
    for static in (True, False):
        with pytest.raises(MessageError, match=f"to '{child}' is in frame '{parent}'; both must have names, and diff"):
            one.add_message(encode_transforms(TYPES, [(parent, child, pose(4))], 100 * MS), static)
    with pytest.raises(MessageError, match=f"odometry of '{child}' is in frame '{parent}'"):
        one.add_odometry(encode_odometry(TYPES, pose(4), 100 * MS, parent, child))
    np.testing.assert_array_equal(one.lookup("camera", "lidar"), robot().lookup("camera", "lidar"))


def test_a_loop_of_frames_is_an_error_not_a_hang():
    one = robot()
    one.add_static("lidar", "base_link", pose(3))
    with pytest.raises(TransformMissing, match="loop"):
        one.lookup("camera", "lidar")


def test_poses_over_time_are_interpolated_as_scipy_does():
    one, rng = robot(), np.random.default_rng(2)
    times = np.sort(rng.choice(np.arange(1000, 2000), 40, replace=False)) * MS
    times[[0, -1]] = 1000 * MS, 2000 * MS
    steps = Rotation.from_rotvec(rng.normal(scale=0.2, size=(40, 3)))
    orientation = [steps[0]]
    for step in steps[1:]:
        orientation.append(step * orientation[-1])
    orientation = Rotation.concatenate(orientation)
    position = np.cumsum(rng.normal(size=(40, 3)), 0)
    for i in rng.permutation(40):       # arrival in any order
        one.add("odom", "base_link", int(times[i]), rigid.matrix(position[i], orientation[i].as_quat()))
    slerp = Slerp(times, orientation)
    for t in [*times, *rng.integers(1000 * MS, 2000 * MS, 100)]:
        T = one.lookup("odom", "base_link", int(t))
        np.testing.assert_allclose(T[:3, :3], slerp(t).as_matrix(), atol=1e-9)
        np.testing.assert_allclose(T[:3, 3], [np.interp(t, times, axis) for axis in position.T], atol=1e-9)


def moving(rate_ms=20, until_ms=2000, speed=15.0, turn=0.52, start_ms=1000):
    """A vehicle that drives along its own x axis and turns left; poses from the closed form of a circle."""
    one = Transforms()
    for ms in range(start_ms, until_ms + 1, rate_ms):
        one.add("odom", "base_link", ms * MS, circle(ms * MS, speed, turn))
    one.add_static("base_link", "camera", rigid.matrix([1.5, 0, 1.2], [-0.5, 0.5, -0.5, 0.5]))   # looks along x
    one.add_static("base_link", "lidar", rigid.matrix([0.5, 0.1, 2.0], [0.01, 0.02, 0.3, 0.95]))
    return one


def circle(t_ns, speed, turn):
    angle = turn * t_ns * 1e-9
    radius = speed / turn
    T = np.eye(4)
    T[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    T[:2, 3] = radius * np.sin(angle), radius * (1 - np.cos(angle))
    return T


def test_deskew_puts_static_points_on_their_true_pixel_within_half_a_pixel():
    speed, turn, t_ref = 15.0, np.deg2rad(30), 1_730 * MS
    frames, rng = moving(20, 2000, speed, turn), np.random.default_rng(3)
    camera = Camera(1024, 1024, [[800, 0, 511.5], [0, 800, 511.5], [0, 0, 1]])
    T_base_camera, T_base_lidar = frames.lookup("base_link", "camera"), frames.lookup("base_link", "lidar")
    world_from_camera = circle(t_ref, speed, turn) @ T_base_camera
    in_camera = np.stack([rng.uniform(-3, 3, 4000), rng.uniform(-3, 3, 4000), rng.uniform(6, 60, 4000)], -1)
    in_world = in_camera @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
    times = t_ref + rng.integers(-100 * MS, 20 * MS, 4000)
    measured = np.empty((4000, 3), np.float32)
    for i, t in enumerate(times):
        T = rigid.inverse(circle(t, speed, turn) @ T_base_lidar)
        measured[i] = T[:3, :3] @ in_world[i] + T[:3, 3]
    expected, _ = camera.project(in_camera)

    def error(motion):
        points = project_points(measured, motion, camera)
        both = np.isfinite(expected[points.index, 0])
        assert np.count_nonzero(both) > 3000
        return np.linalg.norm(points.uv[both] - expected[points.index][both], axis=1)

    motion, deskewed = frames.moved("camera", "lidar", times, t_ref, t_ref)
    assert deskewed
    assert error(motion).max() < 0.5
    assert error(Motion.fixed(frames.lookup("camera", "lidar"))).max() > 20


def test_motion_agrees_with_one_lookup_per_point():
    frames, rng = moving(10), np.random.default_rng(4)
    t_ref, times = 1500 * MS, 1400 * MS + rng.integers(0, 100 * MS, 300)
    motion = frames.motion("camera", "lidar", times, t_ref)
    points = rng.normal(scale=20, size=(300, 3)).astype(np.float32)
    ahead = Camera(8000, 8000, [[50, 0, 4000], [0, 50, 4000], [0, 0, 1]])
    found = project_points(points, motion, ahead)
    assert len(found.index) > 100
    for i, xyz in zip(found.index, found.xyz, strict=True):
        T = frames.lookup("camera", "odom", t_ref) @ frames.lookup("odom", "lidar", int(times[i]))
        np.testing.assert_allclose(xyz, T[:3, :3] @ points[i] + T[:3, 3], atol=2e-3)


def test_a_snapshot_is_moved_to_the_reference_time():
    frames = moving()
    motion, _ = frames.moved("camera", "lidar", None, 1_490 * MS, 1_500 * MS)
    expected = frames.lookup("camera", "odom", 1_500 * MS) @ frames.lookup("odom", "lidar", 1_490 * MS)
    np.testing.assert_allclose(motion.T[0], expected, atol=1e-12)


def test_points_at_one_time_need_no_interval():
    frames, times = moving(), np.full(5, 1_490 * MS)
    motion = frames.motion("camera", "lidar", times, 1_500 * MS)
    expected = frames.motion("camera", "lidar", 1_490 * MS, 1_500 * MS).T[0]
    np.testing.assert_allclose(motion.T[motion.knot.astype(int)], np.broadcast_to(expected, (5, 4, 4)), atol=1e-9)


def test_no_points_need_no_poses():
    motion, _ = moving().moved("camera", "lidar", np.empty(0, np.int64), 1_500 * MS, 1_500 * MS)
    assert project_points(np.empty((0, 3), np.float32), motion, Camera(10, 10, np.eye(3))).returns == 0


def test_times_that_span_years_fill_no_memory():
    times = np.array([0, 2**62])
    with pytest.raises(TransformMissing, match="over 4611686018 s"):
        moving().motion("camera", "lidar", times, 1_500 * MS)
    assert moving().moved("camera", "lidar", times, 1_500 * MS, 1_500 * MS)[1] is False


@pytest.mark.parametrize("times", [(2_110, 2_150), (900, 990), (1_990, 2_200)])
def test_without_odometry_at_the_points_times_one_transform_serves_and_says_so(times):
    frames = moving()
    times = np.array(times) * MS
    with pytest.raises(TransformMissing, match="from 1.000 to 2.000 s"):
        frames.motion("camera", "lidar", times, 1_500 * MS)
    motion, deskewed = frames.moved("camera", "lidar", times, int(times[0]), 1_500 * MS)
    assert not deskewed
    np.testing.assert_allclose(motion.T[0], frames.lookup("camera", "lidar"))


def test_a_little_after_the_newest_pose_the_velocity_is_kept():
    frames = moving(20, 2000, speed=15.0, turn=1e-9)
    T = frames.lookup("odom", "base_link", 2_080 * MS)
    np.testing.assert_allclose(T[:3, 3], circle(2_080 * MS, 15.0, 1e-9)[:3, 3], atol=1e-6)


def test_a_little_after_the_newest_pose_the_circle_is_kept():
    """Slow odometry while turning: going on straight would be 10 cm off."""
    frames = moving(100, 2000)
    for ms in (2_001, 2_040, 2_100):
        T, expected = frames.lookup("odom", "base_link", ms * MS), circle(ms * MS, 15.0, 0.52)
        np.testing.assert_allclose(T, expected, atol=1e-3)


def test_a_gap_in_odometry_is_not_bridged():
    frames = moving(600)
    with pytest.raises(TransformMissing):
        frames.lookup("odom", "base_link", 1_300 * MS)


def test_reset_forgets_poses_and_keeps_mountings():
    frames = moving()
    frames.reset()
    frames.lookup("camera", "lidar")
    with pytest.raises(TransformMissing):
        frames.lookup("odom", "camera")


def test_history_is_bounded():
    frames = Transforms(keep_sec=1.0)
    for ms in range(0, 60_000, 10):
        frames.add("odom", "base_link", ms * MS, np.eye(4))
    frames.lookup("odom", "base_link", 59_000 * MS)
    with pytest.raises(TransformMissing):
        frames.lookup("odom", "base_link", 58_000 * MS)


def test_one_pose_from_the_future_does_not_shut_the_later_ones_out():
    frames = moving()
    frames.add("odom", "base_link", 3_600_000 * MS, np.eye(4))
    for ms in range(2_000, 2_201, 20):
        frames.add("odom", "base_link", ms * MS, circle(ms * MS, 15.0, 0.52))
    found = frames.lookup("odom", "base_link", 2_110 * MS)
    np.testing.assert_allclose(found, circle(2_110 * MS, 15.0, 0.52), atol=1e-3)


def test_messages_fill_the_tree_and_tf_wins_over_odometry():
    frames = Transforms()
    frames.add_message(encode_transforms(TYPES, [("base_footprint", "base_link", pose(1))], 5))
    frames.add_message(encode_transforms(TYPES, [("odom", "base_footprint", pose(2))], 1000 * MS), static=False)
    frames.add_odometry(encode_odometry(TYPES, pose(3), 1000 * MS))         # also places base_link: ignored
    np.testing.assert_allclose(frames.lookup("odom", "base_link", 1000 * MS), pose(2) @ pose(1), atol=1e-9)
    frames = Transforms()
    frames.add_odometry(encode_odometry(TYPES, pose(3), 1000 * MS))
    np.testing.assert_allclose(frames.lookup("odom", "base_link", 1000 * MS), pose(3), atol=1e-9)


def placed_by(frames, time_ns):
    """Where base_link is in odom."""
    return frames.lookup("odom", "base_link", time_ns)


def straight(ms, sideways=0.0):
    """A pose on a straight drive along x at 10 m/s."""
    return rigid.matrix([0.01 * ms, sideways, 0], [0, 0, 0, 1])


def both(frames, spans, until_ms=4000):
    """tf at 50 Hz in the spans (ms), and all the time odometry at 100 Hz that has drifted 3 m to the side of it."""
    why = {}
    for ms in range(0, until_ms, 10):
        if ms % 20 == 0 and any(first <= ms < last for first, last in spans):
            frames.add_message(encode_transforms(TYPES, [("odom", "base_link", straight(ms))], ms * MS), static=False)
        why[ms] = frames.add_odometry(encode_odometry(TYPES, straight(ms, 3.0), ms * MS))
    return why


def test_poses_of_odometry_and_of_tf_are_never_mixed():
    """As with robot_localization on /tf and a wheel controller's odometry of the same two frames."""
    frames = robot()
    why = both(frames, [(30, 4000)])
    assert not any(why[ms] for ms in (0, 10, 20, 30)) and {why[ms] for ms in range(40, 4000, 10)} \
        == {"tf places 'base_link'"}
    for ms in range(40, 3990, 7):
        np.testing.assert_allclose(placed_by(frames, ms * MS), straight(ms), atol=1e-9)
    motion, deskewed = frames.moved("camera", "lidar", np.arange(3800, 3900, 3) * MS, 3800 * MS, 3900 * MS)
    to_lidar = rigid.inverse(frames.lookup("camera", "lidar"))
    assert deskewed and np.ptp((to_lidar @ motion.T)[:, :3, 3], axis=0).max() < 1.01


def test_odometry_takes_over_while_tf_is_silent():
    frames = robot()
    why = both(frames, [(0, 1000), (3000, 4000)], until_ms=3000)
    assert [ms for ms in range(980, 3000, 10) if not why[ms]] == list(range(1990, 3000, 10))    # a second after 980 ms
    np.testing.assert_allclose(placed_by(frames, 2500 * MS), straight(2500, 3.0), atol=1e-9)
    with pytest.raises(TransformMissing, match="from 1.990 to 2.990 s"):
        placed_by(frames, 1500 * MS)
    for ms in range(3000, 3500, 20):
        frames.add_message(encode_transforms(TYPES, [("odom", "base_link", straight(ms))], ms * MS), static=False)
        assert ms == 3000 or frames.add_odometry(encode_odometry(TYPES, straight(ms, 3.0), ms * MS))
    np.testing.assert_allclose(placed_by(frames, 3450 * MS), straight(3450), atol=1e-9)
    with pytest.raises(TransformMissing, match="from 3.000 to 3.480 s"):
        placed_by(frames, 2990 * MS)


def test_tf_under_another_parent_is_the_authority_too():
    frames = Transforms(fixed_frame="map")
    frames.add_message(encode_transforms(TYPES, [("map", "base_link", pose(1))], 1000 * MS), static=False)
    assert frames.add_odometry(encode_odometry(TYPES, pose(2), 1500 * MS)) == "tf places 'base_link'"
    np.testing.assert_allclose(frames.lookup("map", "base_link", 1000 * MS), pose(1), atol=1e-9)


def test_odometry_of_a_sensor_moves_the_vehicle_that_it_is_mounted_on():
    """As a ZED camera or FAST-LIO gives it; the URDF hangs the sensor into the tree of base_link."""
    frames, mounted = robot(), robot().lookup("base_link", "lidar")
    for ms in range(1000, 1201, 20):
        assert not frames.add_odometry(encode_odometry(TYPES, circle(ms * MS, 15.0, 0.5) @ mounted, ms * MS, "odom",
                                                       "lidar"))
    for ms in (1000, 1077, 1200):
        np.testing.assert_allclose(placed_by(frames, ms * MS), circle(ms * MS, 15.0, 0.5), atol=1e-3)
    assert frames.moved("camera", "lidar", np.arange(1050, 1150, 9) * MS, 1050 * MS, 1150 * MS)[1]


@pytest.mark.parametrize(("tf", "odometry", "why"), [
    (("odom", "base_link"), ("odom", "lidar"), "tf places 'base_link', on which 'lidar' is mounted"),
    (("base_link", "odom"), ("odom", "base_link"), "'base_link' has its place in 'odom' without it"),
    (("base_link", "odom"), ("odom", "lidar"), "'lidar' has its place in 'odom' without it")])
def test_odometry_that_cannot_be_used_is_told_and_changes_nothing(tf, odometry, why):
    """tf moves what it would move, or tf has the tree the other way round, which would give a loop."""
    frames = robot()
    frames.add_message(encode_transforms(TYPES, [(*tf, pose(3))], 1000 * MS), static=False)
    before = frames.lookup("odom", "camera")
    assert frames.add_odometry(encode_odometry(TYPES, pose(4), 1010 * MS, *odometry)) == why
    np.testing.assert_array_equal(frames.lookup("odom", "camera"), before)


def test_a_mounting_that_comes_later_takes_odometry_to_the_root():
    frames = Transforms()
    frames.add_odometry(encode_odometry(TYPES, pose(3), 1000 * MS, "odom", "lidar"))
    frames.add_message(encode_transforms(TYPES, [("base_link", "lidar", pose(1))], 0))
    assert not frames.add_odometry(encode_odometry(TYPES, pose(3), 1010 * MS, "odom", "lidar"))
    np.testing.assert_allclose(frames.lookup("odom", "lidar", 1010 * MS), pose(3), atol=1e-9)
    np.testing.assert_allclose(placed_by(frames, 1010 * MS), pose(3) @ rigid.inverse(pose(1)), atol=1e-9)


def test_mountings_in_a_loop_leave_odometry_no_root():
    one = robot()
    one.add_static("lidar", "base_link", pose(3))
    assert "form a loop" in one.add_odometry(encode_odometry(TYPES, pose(4), 100 * MS, "odom", "lidar"))


def test_the_difference_of_two_transforms_is_scipys():
    rng = np.random.default_rng(5)
    for angle in (0.0, 1e-8, 1e-4, 0.3, 3.1):
        axis = rng.normal(size=3)
        turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_quat()
        T = pose(1) @ rigid.matrix([0.3, 0, 0.4], turn)
        assert rigid.difference(pose(1), T) == pytest.approx((0.5, angle), abs=1e-9)
