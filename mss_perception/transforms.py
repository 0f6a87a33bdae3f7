"""Rigid transforms between frames over time: static mounting, tf and odometry.

The part of tf2 that the lanes need, without ROS: a tree of frames whose edges are static or a short history of poses.
"""

from __future__ import annotations

import bisect
import threading

import numpy as np

from mss_perception import rigid
from mss_perception.lane import LaneInvalid
from mss_perception.messages import MessageError, decode_odometry, decode_transform
from mss_perception.projection import Motion
from mss_perception.units import SECOND

# A pose is guessed this far beyond the newest, going on at its speed and turn: odometry comes later than the sweep.
LONGEST_EXTRAPOLATION_NS = SECOND // 10
# Poses farther apart than this are not interpolated: odometry was lost in between.
LONGEST_GAP_NS = SECOND // 2
# Odometry takes over from a tf that is silent for longer: twice the gap that is bridged, so that no tf that points can
# be moved with loses its say by a hiccup.
TF_SILENT_NS = SECOND
# Spacing of the poses that points are moved with. At 1 rad/s the mixing error between two is 3e-6 of the distance.
KNOT_NS = 5_000_000
MAX_FRAMES = 4096       # many times a robot's: who publishes ever new names must not fill the memory
NAMED_FRAMES = 20       # in a message that says which there are


class TransformMissing(LaneInvalid):
    """There is no transform between two frames (at a time). The message names both frames and what is there."""


class _Edge:
    """A frame in its parent: one static pose, or poses over time (at least one), all of tf or all of odometry."""

    def __init__(self, parent: str, static: np.ndarray | None = None, of_odometry: bool = False):
        self.parent, self.static, self.of_odometry = parent, static, of_odometry
        self.times: list[int] = []
        self.poses: list[np.ndarray] = []           # (7,) x y z, quaternion x y z w

    def add(self, time_ns: int, T: np.ndarray, keep_ns: int) -> None:
        if self.times and time_ns < self.times[-1] - keep_ns:   # time has gone back, or the newest was wrong
            self.times.clear()
            self.poses.clear()
        pose = np.concatenate([T[:3, 3], rigid.quaternion_from_rotation(T[:3, :3])])
        at = bisect.bisect_left(self.times, time_ns)
        if at < len(self.times) and self.times[at] == time_ns:
            self.poses[at] = pose
            return
        self.times.insert(at, time_ns)
        self.poses.insert(at, pose)
        expired = bisect.bisect_left(self.times, self.times[-1] - keep_ns)
        del self.times[:expired], self.poses[:expired]

    def at(self, times_ns: np.ndarray | None) -> np.ndarray | None:
        """(M, 4, 4) at (M,) times, or (4, 4): the static pose, or the newest for None. None where there is no data."""
        if self.static is not None:
            return self.static
        if times_ns is None:
            return rigid.matrix(self.poses[-1][:3], self.poses[-1][3:])
        first, last = int(times_ns.min()), int(times_ns.max())
        if first < self.times[0] or last > self.times[-1] + LONGEST_EXTRAPOLATION_NS:
            return None
        if len(self.times) == 1:
            return rigid.matrix(self.poses[0][:3], self.poses[0][3:]) if first == last == self.times[0] else None
        low = max(0, min(bisect.bisect_right(self.times, first) - 1, len(self.times) - 2))
        high = max(low + 1, min(bisect.bisect_left(self.times, last), len(self.times) - 1))
        times, poses = np.array(self.times[low:high + 1], np.int64), np.stack(self.poses[low:high + 1])
        gaps = np.diff(times)
        if gaps.max() > LONGEST_GAP_NS:
            return None
        k = np.clip(np.searchsorted(times, times_ns, side="right") - 1, 0, len(times) - 2)
        fraction = (times_ns - times[k]) / gaps[k]
        step = poses[k + 1, :3] - poses[k, :3]
        translation = poses[k, :3] + np.minimum(fraction, 1.0)[:, None] * step
        if (beyond := np.maximum(fraction - 1.0, 0.0)).any():
            # A vehicle that turns goes on along its circle: the step as seen from the middle of the interval is made
            # again from the middle of the time beyond.
            turned = [rigid.rotation_from_quaternion(rigid.slerp(poses[k, 3:], poses[k + 1, 3:], at))
                      for at in (np.full_like(fraction, 0.5), 1.0 + 0.5 * beyond)]
            translation += beyond[:, None] * np.einsum("nij,nkj,nk->ni", turned[1], turned[0], step)
        return rigid.matrix(translation, rigid.slerp(poses[k, 3:], poses[k + 1, 3:], fraction))


class Transforms:
    """Frames of one robot. Safe to fill from one thread while another looks up.

    fixed_frame: the continuous frame (REP 105's odom) through which points are moved in time. keep_sec: history kept.
    max_future_sec: poses stamped farther ahead of the clock are refused.
    """

    def __init__(self, fixed_frame: str = "odom", keep_sec: float = 10.0, max_future_sec: float = 0.1):
        self.fixed_frame, self.max_future_sec = fixed_frame, max_future_sec
        self._keep_ns = int(keep_sec * SECOND)
        self._edges: dict[str, _Edge] = {}          # by child frame
        self._lock = threading.Lock()

    def add_static(self, parent: str, child: str, T_parent_child: np.ndarray) -> None:
        """A mounting that does not change; replaces what was known of `child`. Raises MessageError for one frame too
        many, as `add` does."""
        with self._lock:
            self._check_room(child)
            self._edges[child] = _Edge(parent, np.array(T_parent_child, np.float64))

    def add(self, parent: str, child: str, time_ns: int, T_parent_child: np.ndarray, of_odometry: bool = False) -> None:
        """A pose at a time; a new parent replaces the old one, and so does tf odometry or the reverse: the two drift
        apart, and between a pose of each the vehicle would jump."""
        with self._lock:
            self._check_room(child)
            edge = self._edges.get(child)
            if edge is None or edge.static is not None or (edge.parent, edge.of_odometry) != (parent, of_odometry):
                edge = self._edges[child] = _Edge(parent, of_odometry=of_odometry)
            edge.add(time_ns, T_parent_child, self._keep_ns)

    def _check_room(self, child: str) -> None:
        if child not in self._edges and len(self._edges) >= MAX_FRAMES:
            raise MessageError(f"frame {child!r} is one too many: at most {MAX_FRAMES} are kept")

    def add_message(self, msg, static: bool = True, clock_ns: int | None = None) -> None:
        """A tf2_msgs/TFMessage of /tf_static, or with static=False of /tf.

        Each transform stands alone, as for tf2: the good ones are taken, then MessageError names the others: impossible
        poses, frames beyond MAX_FRAMES, stamps too far ahead of clock_ns (localisation likes to date its own ahead).
        """
        refused = []
        for one in msg.transforms:
            try:
                parent, child, time_ns, T = decode_transform(one)
                if static:
                    self.add_static(parent, child, T)
                else:
                    self._check_future(f"transform to {child!r}", time_ns, clock_ns)
                    self.add(parent, child, time_ns, T)
            except MessageError as error:
                refused.append(str(error))
        if refused:
            raise MessageError(refused[0] + (f"; and {len(refused) - 1} more of the message" if refused[1:] else ""))

    def add_odometry(self, msg, clock_ns: int | None = None) -> str:
        """A nav_msgs/Odometry. Returns why it is ignored; '' when it is not.

        A child that is mounted on the vehicle, as the camera of visual odometry, moves the root of its static tree. tf
        is the authority: odometry is ignored while tf places that root, or has in the last TF_SILENT_NS of stamps, and
        where its own frame hangs on that root already. Raises MessageError as add_message does.
        """
        parent, child, time_ns, T = decode_odometry(msg)
        self._check_future(f"odometry of {child!r}", time_ns, clock_ns)
        try:
            root, T, edge = self._mounted_on(child, T)
            above_parent = [frame for frame, _ in self._chain(parent)]
        except TransformMissing as error:
            return str(error)
        if root in above_parent:
            return f"{child!r} has its place in {parent!r} without it"
        if edge is not None and not edge.of_odometry and time_ns - edge.times[-1] <= TF_SILENT_NS:
            return f"tf places {root!r}" + (f", on which {child!r} is mounted" if root != child else "")
        self.add(parent, root, time_ns, T, of_odometry=True)
        return ""

    def _mounted_on(self, frame: str, T: np.ndarray) -> tuple[str, np.ndarray, _Edge | None]:
        """(root of the mountings above a frame that is at T, where the root is, the edge above the root if any)."""
        for parent, edge in self._chain(frame)[1:]:
            if edge.static is None:
                return frame, T, edge
            frame, T = parent, T @ rigid.inverse(edge.static)
        return frame, T, None

    def _check_future(self, what: str, time_ns: int, clock_ns: int | None) -> None:
        ahead_sec = 0.0 if clock_ns is None else (time_ns - clock_ns) / SECOND
        if ahead_sec > self.max_future_sec:
            raise MessageError(f"{what} is stamped {ahead_sec:.3f} s in the future; at most max_future_sec = "
                               f"{self.max_future_sec:g} is taken; check time synchronisation")

    def reset(self) -> None:
        """Forget all poses over time, after a jump of the clock; static mountings stay."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static is not None}

    def known_until(self) -> int | None:
        """Time (ns) of the newest pose of any frame that moves; later ones are guessed. None: nothing moves."""
        with self._lock:
            return max((edge.times[-1] for edge in self._edges.values() if edge.static is None), default=None)

    def lookup(self, target: str, source: str, time_ns: int | None = None) -> np.ndarray:
        """T_target_source (4, 4) at a time; without one, static poses and the newest of the others.

        Raises TransformMissing naming both frames.
        """
        times = None if time_ns is None else np.array([time_ns], np.int64)
        T = self._between(target, source, times)
        return T if T.ndim == 2 else T[0]

    def motion(self, target: str, source: str, times_ns: np.ndarray, t_ref_ns: int) -> Motion:
        """Where `source` was at each point's time, as seen by `target` at t_ref_ns, through the fixed frame.

        times_ns: (N,) int64, or an int for a snapshot. Raises TransformMissing when a pose is not known at one of them.
        """
        T_target_fixed = self.lookup(target, self.fixed_frame, t_ref_ns)
        if np.ndim(times_ns) == 0:
            return Motion.fixed(T_target_fixed @ self.lookup(self.fixed_frame, source, int(times_ns)))
        if not len(times_ns):
            return Motion(T_target_fixed[None], np.empty(0, np.float32))
        first, last = int(times_ns.min()), int(times_ns.max())
        if last - first > self._keep_ns:
            raise TransformMissing(f"no transform from frame {source!r} to {target!r} for points that were measured "
                                   f"over {(last - first) / SECOND:.0f} s")
        # Evenly spaced knots, so that a point's place among them is one multiplication.
        intervals = max(1, -(-(last - first) // KNOT_NS))
        knots = first + np.rint(np.linspace(0, last - first, intervals + 1)).astype(np.int64)
        T = T_target_fixed @ self._between(self.fixed_frame, source, knots)
        knot = (times_ns - first).astype(np.float32) * np.float32(intervals / max(1, last - first))
        return Motion(np.broadcast_to(T, (intervals + 1, 4, 4)), knot)

    def moved(self, target: str, source: str, times_ns: np.ndarray | int | None, stamp_ns: int,
              t_ref_ns: int) -> tuple[Motion, bool]:
        """(motion, True) through the fixed frame where it is known, else one transform for all and False.

        times_ns: per point, or None when the sensor gives no times (then all at stamp_ns, and False even if moved).
        Raises TransformMissing when the two frames are not connected at all: never an identity.
        """
        try:
            return self.motion(target, source, stamp_ns if times_ns is None else times_ns, t_ref_ns), \
                times_ns is not None
        except TransformMissing:
            return Motion.fixed(self.lookup(target, source)), False

    def _between(self, target: str, source: str, times_ns: np.ndarray | None) -> np.ndarray:
        """T_target_source as (4, 4), or (M, 4, 4) where an edge on the way moves and times are given."""
        if target == source:
            return np.eye(4)
        with self._lock:
            up_target, up_source = self._chain(target), self._chain(source)
            ancestors = {frame for frame, _ in up_target}
            common = next((frame for frame, _ in up_source if frame in ancestors), None)
            if common is None:
                raise TransformMissing(f"no transform from frame {source!r} to {target!r}: "
                                       + self._why_apart(up_source, up_target))
            sides = []
            for chain, frame in ((up_target, target), (up_source, source)):
                T = np.eye(4)
                for parent, edge in chain[1:[one for one, _ in chain].index(common) + 1]:
                    step = edge.at(times_ns)
                    if step is None:
                        raise TransformMissing(
                            f"no transform from frame {source!r} to {target!r} at {times_ns.min() / SECOND:.3f} s: "
                            f"{frame!r} is known in {parent!r} from {edge.times[0] / SECOND:.3f} to "
                            f"{edge.times[-1] / SECOND:.3f} s")
                    T, frame = step @ T, parent
                sides.append(T)
        return rigid.inverse(sides[0]) @ sides[1]

    def _why_apart(self, *chains: list[tuple[str, _Edge | None]]) -> str:
        """Of frames without a common ancestor: which of them nothing is known of, else the roots of their trees."""
        known = self._edges.keys() | {edge.parent for edge in self._edges.values()}
        unknown = [repr(chain[0][0]) for chain in chains if chain[0][0] not in known]
        if not unknown:
            return " and ".join(f"{chain[0][0]!r} is in the tree of {chain[-1][0]!r}" for chain in chains)
        names = sorted(known)
        more = f" and {len(names) - NAMED_FRAMES} more" if len(names) > NAMED_FRAMES else ""
        return (f"{' and '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} unknown; "
                f"known: {', '.join(names[:NAMED_FRAMES]) or 'none, no transform has come'}{more}")

    def _chain(self, frame: str) -> list[tuple[str, _Edge | None]]:
        """(frame, None), (its parent, the edge between them) ... up to the root."""
        chain: list[tuple[str, _Edge | None]] = [(frame, None)]
        passed = {frame}
        while (edge := self._edges.get(chain[-1][0])) is not None:
            if edge.parent in passed:
                raise TransformMissing(f"the frames above {frame!r} form a loop at {edge.parent!r}")
            passed.add(edge.parent)
            chain.append((edge.parent, edge))
        return chain
