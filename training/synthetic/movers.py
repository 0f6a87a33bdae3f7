"""What moves: the ego vehicle and the traffic around it. Every pose is a closed form of time, so any instant of any
drive can be rendered by itself, in any order and on any process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.synthetic import vehicles
from training.synthetic.curve import Curve
from training.synthetic.layout import KERB, LANE, Street
from training.synthetic.mesh import Mesh, pose
from training.synthetic.people import Pedestrian

TOP_SPEED = 12.5  # of the ego vehicle's mean, m/s
_PEOPLE = 16  # different persons on one street
_DT = 1e-3  # half step of the central differences, seconds


class Ego:
    """The recording vehicle. base_link: on the ground below the middle of the car, x forwards, y left, z up."""

    def __init__(self, rng: np.random.Generator, street: Street, duration: float) -> None:
        self.street = street
        self.speed = rng.uniform(6.5, TOP_SPEED)
        self._surge = rng.uniform(0.0, 0.2) * self.speed
        self._surge_rate = rng.uniform(0.25, 0.6)
        self._weave = rng.uniform(0.12, 0.35), rng.uniform(0.5, 1.1), rng.uniform(0, 2 * np.pi)
        self._bounce = rng.uniform(0.004, 0.012, 3), rng.uniform(6.0, 11.0, 3), rng.uniform(0, 2 * np.pi, 3)
        self.lane = street.lanes - 1 if rng.uniform() < 0.6 else 0
        self._changes = []  # (time, d change): smooth lane changes of 3 s
        lane = self.lane
        if street.lanes > 1:
            at = rng.uniform(0.5, 4.0)
            while at < duration:
                self._changes.append((at, (-1 if lane == 0 else 1) * LANE))
                lane = 1 - lane
                at += rng.uniform(5.0, 9.0)

    def along(self, t):
        """s at time t, seconds; the speed stays within 20 % of `speed`."""
        return self.speed * t + self._surge / self._surge_rate * (1 - np.cos(self._surge_rate * t))

    def across(self, t):
        size, rate, phase = self._weave
        d = self.street.lane(self.lane) + size * np.sin(rate * t + phase)
        for at, change in self._changes:
            x = np.clip((t - at) / 3.0, 0.0, 1.0)
            d = d + change * x * x * x * (10 - 15 * x + 6 * x * x)
        return d

    def pose(self, t) -> np.ndarray:
        """T_odom_base (..., 4, 4) at time(s) t; the wheels roll where the nose points (no side slip)."""
        t = np.asarray(t, np.float64)
        before, now, after = (self.street.curve.xy(self.along(u), self.across(u)) for u in (t - _DT, t, t + _DT))
        ahead = after - before
        amplitude, rate, phase = self._bounce
        heave, pitch, roll = np.moveaxis(amplitude * np.sin(rate * t[..., None] + phase), -1, 0)
        return pose(now[..., 0], now[..., 1], heave, np.arctan2(ahead[..., 1], ahead[..., 0]), 0.5 * pitch, 0.5 * roll)

    def twist(self, t: float) -> np.ndarray:
        """(6,) linear m/s and angular rad/s velocity of base_link, in base_link's own axes (nav_msgs/Odometry)."""
        step = np.linalg.inv(self.pose(t - 5 * _DT)) @ self.pose(t + 5 * _DT)
        now = np.linalg.inv(self.pose(t - 5 * _DT)) @ self.pose(t)
        turn = (step[:3, :3] - step[:3, :3].T) / (2 * 10 * _DT)
        angular = np.array([turn[2, 1], turn[0, 2], turn[1, 0]])
        return np.concatenate([now[:3, :3].T @ step[:3, 3] / (10 * _DT), angular])


@dataclass(frozen=True)
class Mover:
    """One moving thing: its form (a mesh, or a person whose limbs move), and its path t -> (s, d, yaw against the
    street) at a height, metres."""

    path: Callable[[float], tuple[float, float, float]]
    form: Mesh | Pedestrian
    height: float = 0.0


def place(curve: Curve, movers: list[Mover], t: float) -> tuple[np.ndarray, np.ndarray]:
    """T_world_mover (N, 4, 4) of all movers at time t, and the phase (N,) of their gait, which follows from the way
    gone forwards, so that feet do not slide."""
    s, d, yaw = np.array([mover.path(t) for mover in movers]).T
    xy = curve.xy(s, d)
    steps = np.array([mover.form.step_length() if isinstance(mover.form, Pedestrian) else 1.0 for mover in movers])
    poses = pose(xy[:, 0], xy[:, 1], [mover.height for mover in movers], curve.heading(s) + yaw)
    return poses, 2 * np.pi * (s * np.cos(yaw) + d * np.sin(yaw)) / steps


@dataclass(frozen=True)
class Cruise:
    """Along a lane at constant speed (m/s, negative against the street)."""

    s: float
    d: float
    speed: float

    def __call__(self, t: float) -> tuple[float, float, float]:
        return self.s + self.speed * t, self.d, 0.0 if self.speed >= 0 else np.pi


@dataclass(frozen=True)
class Follow:
    """In the ego's traffic: a gap ahead of (or, negative, behind) the ego vehicle that breathes slowly."""

    ego: Ego
    gap: float
    d: float
    rate: float

    def __call__(self, t: float) -> tuple[float, float, float]:
        return float(self.ego.along(t)) + self.gap * (1 + 0.15 * np.sin(self.rate * t)), self.d, 0.0


@dataclass(frozen=True)
class Cross:
    """On foot over the zebra at s, from kerb to kerb, starting at time `start`."""

    s: float
    half: float
    speed: float
    start: float

    def __call__(self, t: float) -> tuple[float, float, float]:
        reach = self.half + 1.0
        way = np.clip((t - self.start) * abs(self.speed), 0.0, 2 * reach)
        sign = np.sign(self.speed)
        return self.s, float(sign * (way - reach)), sign * np.pi / 2


def populate(rng: np.random.Generator, street: Street, ego: Ego, duration: float) -> list[Mover]:
    """Traffic for a drive of `duration` seconds from the ego's start."""
    movers: list[Mover] = []
    people = [Pedestrian(rng) for _ in range(_PEOPLE)]
    first, last = float(ego.along(0.0)) - 40, float(ego.along(duration)) + 100

    def vehicle(weights=(0.6, 0.16, 0.16, 0.08)) -> Mesh:
        kind = rng.choice(4, p=weights)
        return [vehicles.car, vehicles.bus, vehicles.truck, lambda r: vehicles.two_wheeler(r, True)][kind](rng)

    for lane in range(street.lanes):
        gap = rng.uniform(7.5, 22)
        while gap < 80:
            movers.append(Mover(Follow(ego, gap, street.lane(lane), rng.uniform(0.2, 0.5)), vehicle()))
            gap += rng.uniform(14, 34)
        movers.append(Mover(Follow(ego, -rng.uniform(14, 22), street.lane(lane), 0.3), vehicle()))
        oncoming = -rng.uniform(6, 11)
        s = first
        while s < last - oncoming * duration:
            movers.append(Mover(Cruise(s, -street.lane(lane), oncoming), vehicle()))
            s += rng.uniform(14, 40)
    edge = street.median + street.lanes * LANE + (0.0 if street.parking else -0.7)
    for side in (-1, 1):
        s = first
        while s < last:
            wheeler = vehicles.two_wheeler(rng, ridden=True)
            movers.append(Mover(Cruise(s, side * edge, -side * rng.uniform(2.5, 5.0)), wheeler))
            s += rng.uniform(10, 30)
        s = first
        while s < last:  # people on the pavement, in ones and twos
            pace = rng.choice([-1, 1]) * rng.uniform(0.9, 1.7)
            d = street.half + rng.uniform(0.5, street.pavement - 0.3)
            for company in range(int(rng.choice([1, 2], p=[0.7, 0.3]))):
                path = Cruise(s + rng.normal(0, 0.2), side * (d + 0.6 * company), pace)
                movers.append(Mover(path, people[rng.integers(len(people))], KERB))
            s += rng.uniform(2.5, 9)
    for crossing in street.crossings:
        if first < crossing < last:
            arrival = crossing / ego.speed
            for _ in range(int(rng.integers(2, 7))):
                pace = rng.choice([-1, 1]) * rng.uniform(1.1, 1.7)
                begin = arrival - 3.0 - 2 * street.half / abs(pace) * rng.uniform(0.75, 1.2)
                path = Cross(crossing + rng.uniform(-1.3, 1.3), street.half, pace, begin)
                movers.append(Mover(path, people[rng.integers(len(people))]))
    return movers
