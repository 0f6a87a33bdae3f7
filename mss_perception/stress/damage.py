"""What can be wrong with a message, by kind of sensor, and what must come of it.

Each damage changes a fresh message in place and returns whether the message can still become a picture: False, it must
be INVALID; True, it must not; None, either is right.
"""

from __future__ import annotations

import array
import random
from collections.abc import Callable

import numpy as np

from mss_perception.config import modality_of

HUGE = 2**31 - 1


def set_data(message, data: np.ndarray) -> None:
    """rclpy's classes hold an array.array, rosbags' a numpy array."""
    message.data = data if isinstance(message.data, np.ndarray) else array.array("B", data.tobytes())


def truncated(message, dice: random.Random) -> bool:
    set_data(message, np.array(message.data, np.uint8)[:dice.randrange(len(message.data))])
    return False


def emptied(message, dice: random.Random) -> bool:
    set_data(message, np.empty(0, np.uint8))
    return False


def wider(message, dice: random.Random) -> bool:
    """More columns than there are data."""
    message.width += dice.randint(1, 9)
    return False


def huge(message, dice: random.Random) -> bool:
    setattr(message, dice.choice(["width", "height"]), HUGE)
    return False


def narrow(message, dice: random.Random) -> bool:
    """A row, or a point, is shorter than what lies in it."""
    name = "step" if hasattr(message, "step") else "point_step"
    setattr(message, name, dice.randrange(getattr(message, name)))
    return False


def mislabelled(message, dice: random.Random) -> bool:
    message.encoding = dice.choice(["", "yuv9000", "rgb\x00", "32FC7"])
    return False


def other_encoding(message, dice: random.Random) -> bool:
    """A known one, in which the data are too short."""
    message.encoding = "64FC4" if message.encoding == "32FC1" else "rgba8"
    return False


def fieldless(message, dice: random.Random) -> bool:
    message.fields = []
    return False


def other_field(message, dice: random.Random) -> bool:
    message.fields[0].name = "q"        # x
    return False


def unknown_type(message, dice: random.Random) -> bool:
    message.fields[dice.randrange(len(message.fields))].datatype = dice.choice([0, 9, 200])
    return False


def outside(message, dice: random.Random) -> bool:
    """A field that leaves the point."""
    message.fields[0].offset = dice.choice([message.point_step, 2**32 - 1])
    return False


def random_bytes(message, dice: random.Random) -> bool | None:
    set_data(message, np.frombuffer(dice.randbytes(len(message.data)), np.uint8).copy())
    if hasattr(message, "encoding"):
        return True if message.encoding == "rgb8" else None
    return None


def random_events(message, dice: random.Random) -> bool:
    """Of twenty random times one at least is more than 10 s away, which no event of a packet is."""
    return random_bytes(message, dice) is not None


def nothing_measured(message, dice: random.Random) -> bool:
    """NaN, where numbers are floats; else 0."""
    is_float = getattr(message, "encoding", "32FC1") == "32FC1"
    words = np.full(len(message.data) // 4, np.nan if is_float else 0, np.float32)
    set_data(message, words.view(np.uint8))
    return False


def displaced(message, dice: random.Random) -> bool:
    """In a frame that no transform knows."""
    message.header.frame_id = "moon"
    return False


Damage = Callable[[object, random.Random], bool | None]
OF_IMAGES = (truncated, emptied, wider, huge, narrow, mislabelled, other_encoding, random_bytes)
OF_CLOUDS = (truncated, emptied, wider, huge, narrow, fieldless, other_field, unknown_type, outside)
DAMAGES: dict[str, tuple[Damage, ...]] = {
    "rgb": OF_IMAGES,
    "depth": (*OF_IMAGES, nothing_measured),
    "lidar": (*OF_CLOUDS, random_bytes, nothing_measured, displaced),
    "event": (*OF_CLOUDS, random_events),
}


def no_focal_length(info, dice: random.Random) -> None:
    info.k = np.zeros(9)


def not_finite(info, dice: random.Random) -> None:
    k = np.array(info.k, np.float64)
    k[dice.choice([0, 2, 4, 5])] = dice.choice([np.nan, np.inf, -1e308])
    info.k = k


def no_size(info, dice: random.Random) -> None:
    info.width = 0


def huge_camera(info, dice: random.Random) -> None:
    info.width = info.height = HUGE


def unknown_model(info, dice: random.Random) -> None:
    info.distortion_model = "kannala_brandt_9"


def too_few_coefficients(info, dice: random.Random) -> None:
    info.distortion_model, info.d = "rational_polynomial", np.full(3, 0.1)


OF_INFOS = (no_focal_length, not_finite, no_size, huge_camera, unknown_model, too_few_coefficients)
"""Camera infos that must be refused: the one before stays."""


def damage_of(role: str, name: str) -> Damage:
    """The damage by its function's name. role: an input's name or `<input>/info`."""
    known = OF_INFOS if role.endswith("/info") else DAMAGES[modality_of(role)]
    return next(one for one in known if one.__name__ == name)
