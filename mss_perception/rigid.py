"""Rigid transforms: quaternions in ROS order (x, y, z, w), 4x4 matrices, interpolation.

`T_a_b` maps points given in frame b to frame a.
"""

from __future__ import annotations

import numpy as np


def rotation_from_quaternion(quaternion) -> np.ndarray:
    """(..., 4) quaternions x, y, z, w of any non-zero length -> (..., 3, 3) rotation matrices, float64."""
    q = np.asarray(quaternion, np.float64)
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    x, y, z, w = np.moveaxis(q, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def quaternion_from_rotation(rotation) -> np.ndarray:
    """(3, 3) rotation matrix -> (4,) unit quaternion x, y, z, w with w >= 0."""
    m = np.asarray(rotation, np.float64)
    # 4 q q^T from the matrix's entries; its row with the largest diagonal is the numerically safe one.
    outer = np.array([
        [1 + m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
        [m[0, 1] + m[1, 0], 1 - m[0, 0] + m[1, 1] - m[2, 2], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
        [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], 1 - m[0, 0] - m[1, 1] + m[2, 2], m[1, 0] - m[0, 1]],
        [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + m[0, 0] + m[1, 1] + m[2, 2]],
    ])
    q = outer[np.argmax(np.diag(outer))]
    q = q / np.linalg.norm(q)
    return -q if q[3] < 0 else q


def matrix(translation, quaternion) -> np.ndarray:
    """(..., 3) translations in metres and (..., 4) quaternions -> (..., 4, 4) float64."""
    translation = np.asarray(translation, np.float64)
    T = np.zeros(translation.shape[:-1] + (4, 4))
    T[..., :3, :3] = rotation_from_quaternion(quaternion)
    T[..., :3, 3] = translation
    T[..., 3, 3] = 1.0
    return T


def inverse(T: np.ndarray) -> np.ndarray:
    """Inverse of (..., 4, 4) rigid transforms."""
    R = np.swapaxes(T[..., :3, :3], -1, -2)
    result = np.zeros_like(T)
    result[..., :3, :3] = R
    result[..., :3, 3] = -(R @ T[..., :3, 3, None])[..., 0]
    result[..., 3, 3] = 1.0
    return result


def difference(T_a: np.ndarray, T_b: np.ndarray) -> tuple[float, float]:
    """(metres between the origins, radians between the axes) of two (4, 4) rigid transforms."""
    q = quaternion_from_rotation(T_a[:3, :3].T @ T_b[:3, :3])
    # Not by the cosine, which is 1 for all angles that are small.
    return float(np.linalg.norm(T_a[:3, 3] - T_b[:3, 3])), float(2 * np.arctan2(np.linalg.norm(q[:3]), q[3]))


def slerp(q0: np.ndarray, q1: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Interpolate (N, 4) unit quaternions along the shorter arc; a fraction outside 0..1 extrapolates."""
    cosine = np.sum(q0 * q1, axis=-1, keepdims=True)
    q1 = np.where(cosine < 0, -q1, q1)
    angle = np.arccos(np.clip(np.abs(cosine), 0.0, 1.0))
    fraction = np.asarray(fraction, np.float64)[..., None]
    sine = np.sin(angle)
    # Below a microradian slerp is 0/0 and lerp is exact to rounding.
    small = sine < 1e-6
    divisor = np.where(small, 1.0, sine)
    a = np.where(small, 1.0 - fraction, np.sin((1.0 - fraction) * angle) / divisor)
    b = np.where(small, fraction, np.sin(fraction * angle) / divisor)
    q = a * q0 + b * q1
    return q / np.linalg.norm(q, axis=-1, keepdims=True)
