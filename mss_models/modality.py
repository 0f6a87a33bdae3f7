"""The vocabulary of modalities, and how each one becomes the network's image.

A network that learned HHA does not understand metric depth. Each modality's encoding therefore travels with the
checkpoint; the sensor lanes are configured from it and refuse what they cannot produce.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MODALITIES: tuple[str, ...] = ("rgb", "depth", "event", "lidar", "radar", "aolp", "dolp", "nir")
"""Every known modality, in the canonical order (the order of the published models).

aolp and dolp are angle and degree of linear polarisation, nir is near infrared: of a data set, no lane makes them."""
DELIVER_MODALITIES = MODALITIES[:4]
"""Those of the DELIVER data set, with which most published models work."""
MUSES_MODALITIES = ("rgb", "event", "lidar", "radar")
MCUBES_MODALITIES = ("rgb", "aolp", "dolp", "nir")


class ModalityError(ValueError):
    """A modality or an encoding is unknown or malformed. The message names it and what is known."""


@dataclass(frozen=True)
class Parameter:
    """A number that an encoding needs: its default and the range that it must lie in, both ends included.

    With an integer as default only integers are right. `above`: the parameter that this one must exceed.
    """

    default: float
    low: float
    high: float
    above: str = ""


@dataclass(frozen=True)
class Scheme:
    """A way to make a modality's image: whose it is, its parameters, and the version that this software makes."""

    modality: str
    params: Mapping[str, Parameter] = field(default_factory=dict)
    version: int = 1


_LEVELS = {"zero": Parameter(128, 0, 255)}
_DISTANCE = {"max_m": Parameter(80.0, 0.1, 1000.0, above="near_m"), "near_m": Parameter(1.0, 0.01, 100.0)}

SCHEMES: dict[str, Scheme] = {
    # R, G, B.
    "rgb": Scheme("rgb"),
    # z in metres along the optical axis, clipped to [near_m, max_m]; no measurement = (0, 0, 0):
    #   c0 = 1 + 254 log(z / near_m) / log(max_m / near_m),  c1 = 1 + 254 near_m / z,  c2 = 255 where valid.
    "metric_depth": Scheme("depth", _DISTANCE),
    # Horizontal disparity, height h above the ground in metres, angle a between surface and horizontal in degrees
    # (Gupta et al. 2014, as in their released code; see mss_perception/hha.py), each clipped to 0..255:
    #   c0 = disparity_m / max(z, near_m),  c1 = height_scale (h - height_min_m),  c2 = angle_offset + angle_scale a;
    #   no measurement = (0, 0, 0). Normals are of planes through (2 normal_radius_px + 1)^2 pixels.
    "hha": Scheme("depth", {
        "near_m": Parameter(1.0, 0.01, 100.0),
        "disparity_m": Parameter(310.0, 0.1, 1e5),
        "height_scale": Parameter(100.0, 0.1, 1e4),
        "height_min_m": Parameter(0.0, -100.0, 100.0),
        "angle_scale": Parameter(1.0, 0.01, 10.0),
        "angle_offset": Parameter(38.0, 0.0, 255.0),
        "normal_radius_px": Parameter(3, 1, 32)}),
    # Events of the last window_sec, as the mean count of the event pixels that fall into a grid pixel:
    #   c0 = min(255, gain * ON count), c1 = min(255, gain * OFF count), at least 1 where there is any, c2 = 0.
    "on_off_counts": Scheme("event", {"window_sec": Parameter(0.05, 0.001, 1.0), "gain": Parameter(40.0, 0.01, 255.0)}),
    # The nearest point of a pixel, each point grown to a square of (2 dilate_px + 1)^2 pixels:
    #   c0 = as metric_depth's c0, of the Euclidean range in the camera's optical frame,
    #   c1 = 1 + 254 intensity / intensity_scale, and NO_INTENSITY where a cloud has none,
    #   c2 = 1 + 254 (h - height_min_m) / (height_max_m - height_min_m), h = -y in the optical frame, metres.
    "range_intensity_height": Scheme("lidar", {
        **_DISTANCE,
        "height_min_m": Parameter(-3.0, -100.0, 100.0),
        "height_max_m": Parameter(7.0, -100.0, 100.0, above="height_min_m"),
        "dilate_px": Parameter(1, 0, 16),
        "intensity_scale": Parameter(1.0, 1e-3, 1e6)}),
    # The nearest detection of a pixel, each grown to a square of (2 dilate_px + 1)^2 pixels:
    #   c0 = as range_intensity_height's c0,
    #   c1 = 1 + 254 intensity, 0..1 of the driver's range, and NO_INTENSITY where a radar measures none,
    #   c2 = 1 + 254 (v + doppler_max_mps) / (2 doppler_max_mps), v = speed away from the radar as measured, m/s;
    #        0 where it is not measured.
    "range_intensity_doppler": Scheme("radar", {
        "max_m": Parameter(150.0, 0.1, 1000.0, above="near_m"),
        "near_m": _DISTANCE["near_m"],
        "dilate_px": Parameter(4, 0, 16),
        "doppler_max_mps": Parameter(40.0, 1.0, 200.0)}),
    # The public DELIVER files, which no sensor lane makes.
    "deliver_depth": Scheme("depth"),
    "deliver_event": Scheme("event"),
    "deliver_lidar": Scheme("lidar"),
    # The public MUSES images as its SDK projects and writes them and the any-modal papers' code reads them: the high
    # bytes of the files, channels in the files' order. No sensor lane makes them.
    "muses_event": Scheme("event"),
    "muses_lidar": Scheme("lidar"),
    "muses_radar": Scheme("radar"),
    # Of MCubeS: c0 = zero + gain sin, c1 = zero + gain cos, c2 = c0, of the angle of polarisation as the data set has
    # them (not quite in -1..1); zero + gain dolp in all three; 255 nir, 0..1, in all three. Rounded, clipped to 0..255.
    "aolp_sin_cos": Scheme("aolp", _LEVELS | {"gain": Parameter(46.0, 0.01, 255.0)}),
    "dolp": Scheme("dolp", {"zero": Parameter(70, 0, 255), "gain": Parameter(125.0, 0.01, 255.0)}),
    "nir": Scheme("nir"),
}
"""Every known encoding by name. A channel of 1 + 254 x is rounded and clipped to 1..255, for 0 is "nothing here"."""

NO_INTENSITY = 1
"""What c1 holds at the points of a LiDAR or radar without intensities."""


@dataclass(frozen=True)
class Encoding:
    """How a modality's image, uint8 (H, W, 3), is made and normalised. `nothing`, mostly 0, is "nothing here".

    The network sees `(image / 255 - mean) / std`, per channel. `params` are the scheme's, each of them: what is not
    given takes its default. Raises ModalityError for anything that SCHEMES does not allow.
    """

    modality: str
    name: str
    version: int = 1
    params: Mapping[str, float] = field(default_factory=dict)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ModalityError(f"modality {self.modality!r} is unknown; known: {', '.join(MODALITIES)}")
        known = [name for name, one in SCHEMES.items() if one.modality == self.modality]
        if self.name not in known:
            raise ModalityError(f"{self.modality} cannot be encoded as {self.name!r}; known: {', '.join(known)}")
        if self.version != (version := SCHEMES[self.name].version):
            raise ModalityError(f"encoding {self.name!r} has version {self.version!r}; this software knows {version}")
        object.__setattr__(self, "params", _checked(self.name, self.params))
        for which in ("mean", "std"):
            value = getattr(self, which)
            if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(map(_is_number, value)):
                raise ModalityError(f"{which} of the {self.modality} encoding is {value!r}; 3 numbers are needed")
            object.__setattr__(self, which, tuple(map(float, value)))
        if min(self.std) <= 0:
            raise ModalityError(f"std of the {self.modality} encoding is {self.std}; every number must be positive")

    def to_dict(self) -> dict:
        """A JSON-ready dict from which `from_dict` makes an equal Encoding."""
        return dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @property
    def nothing(self) -> int:
        """The value, in every channel, of a pixel that holds nothing: of padding, say."""
        return int(self.params.get("zero", 0))

    @classmethod
    def from_dict(cls, values: Mapping) -> Encoding:
        """The inverse of `to_dict`. Raises ModalityError for unknown or missing keys, and for what they hold."""
        if not isinstance(values, Mapping):
            raise ModalityError(f"an encoding is {values!r}; a mapping with modality, name, ... is needed")
        known = {one.name for one in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ModalityError(f"encoding has unknown keys {sorted(unknown)}; known: {sorted(known)}")
        if missing := {"modality", "name"} - set(values):
            raise ModalityError(f"encoding lacks the keys {sorted(missing)}")
        return cls(**values)


def _checked(name: str, given: Mapping) -> dict[str, float]:
    """The complete parameters of encoding `name`, in the table's order. Raises ModalityError."""
    table = SCHEMES[name].params
    if not isinstance(given, Mapping):
        raise ModalityError(f"params of encoding {name!r} are {given!r}; a mapping is needed")
    if unknown := set(given) - set(table):
        raise ModalityError(f"encoding {name!r} has no parameter {sorted(map(str, unknown))}; "
                            + (f"it has {', '.join(table)}" if table else "it has none"))
    params = {}
    for key, one in table.items():
        value, kind = given.get(key, one.default), type(one.default)
        if not _is_number(value) or not one.low <= value <= one.high or value != kind(value):
            raise ModalityError(f"{key} = {value!r} of encoding {name!r} must be "
                                f"{'an integer' if kind is int else 'a number'} in {one.low:g}..{one.high:g}")
        params[key] = kind(value)
    for key, one in table.items():
        if one.above and not params[key] > params[one.above]:
            raise ModalityError(f"{key} = {params[key]:g} of encoding {name!r} must exceed {one.above} = "
                                f"{params[one.above]:g}")
    return params


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def canonical_order(modalities: Iterable[str]) -> tuple[str, ...]:
    """The given modalities without repetition, in canonical order. Raises ModalityError if empty or unknown."""
    chosen = set(modalities)
    if unknown := chosen - set(MODALITIES):
        raise ModalityError(f"modalities {sorted(unknown)} are unknown; known: {', '.join(MODALITIES)}")
    if not chosen:
        raise ModalityError(f"no modality is given; choose from {', '.join(MODALITIES)}")
    return tuple(name for name in MODALITIES if name in chosen)


def _centred(modality: str, name: str) -> Encoding:
    """With the normalisation that gives the network the data set's own values: (c - zero) / gain."""
    params = Encoding(modality, name).params
    return Encoding(modality, name, mean=(params["zero"] / 255,) * 3, std=(params["gain"] / 255,) * 3)


DEFAULT_ENCODINGS: dict[str, Encoding] = {
    "rgb": Encoding("rgb", "rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),  # the ImageNet statistics
    "depth": Encoding("depth", "metric_depth"),
    "event": Encoding("event", "on_off_counts"),
    "lidar": Encoding("lidar", "range_intensity_height"),
    "radar": Encoding("radar", "range_intensity_doppler"),
    "aolp": _centred("aolp", "aolp_sin_cos"),
    "dolp": _centred("dolp", "dolp"),
    "nir": Encoding("nir", "nir"),
}

DELIVER_ENCODINGS: dict[str, Encoding] = {
    "rgb": DEFAULT_ENCODINGS["rgb"], "depth": Encoding("depth", "hha"), "event": Encoding("event", "deliver_event"),
    "lidar": Encoding("lidar", "deliver_lidar"),
}
"""Of the public DELIVER images, which the public models were trained on: everything but rgb is only divided by 255."""

_RAW: dict = {"std": (1 / 255,) * 3}  # the network is given 0..255

PUBLISHED_MUSES_ENCODINGS: dict[str, Encoding] = {
    "rgb": Encoding("rgb", "rgb", **_RAW), "event": Encoding("event", "muses_event", **_RAW),
    "lidar": Encoding("lidar", "muses_lidar", **_RAW), "radar": Encoding("radar", "muses_radar", **_RAW),
}
"""Of the projected MUSES images, which the any-modal papers train on without any normalisation."""
