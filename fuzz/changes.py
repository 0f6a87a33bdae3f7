"""Inputs that resemble a given one: of bytes, of texts in JSON or YAML, of messages as they lie in a bag (CDR).

A random bit rarely gets past a length or a checksum. So what has a structure is taken apart, changed in one place, and
put together again.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import struct
from random import Random

import numpy as np
import yaml

from mss_perception.bags import typestore

INTEGERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 4095, 4096, 32767, 65535, 65536, 1 << 24, (1 << 31) - 1, 1 << 31,
            (1 << 32) - 1, (1 << 63) - 1, 1 << 64)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-9, 1e9, 1e38, 1e300, 1e-300, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "/", "~", "rgb", "cpu", "\0", "\ud800", "é", "x" * 300, "1e999", "-", "16UC1", "32FC1", "evt3", "mono")
VALUES = (None, True, False, [], {}, [[]], [0], {"": 0}, *INTEGERS, *NUMBERS, *TEXTS)


def changed_bytes(random: Random, data: bytes) -> bytes:
    """One to four changes: of a bit, of a number, of what is there once, twice or not at all."""
    result = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at, length = random.randint(0, len(result)), min(random.randint(1, 64), len(result))
        kind = random.randrange(6)
        if kind == 0 and result:
            result[at % len(result)] ^= 1 << random.randrange(8)
        elif kind == 1:
            size, order = random.choice((1, 2, 4, 8)), random.choice("<>")
            number = (random.choice(INTEGERS) - random.randint(0, 2)) & (1 << 8 * size) - 1
            result[at:at + size] = number.to_bytes(size, "little" if order == "<" else "big")
        elif kind == 2:
            result[at:at + length] = b""
        elif kind == 3:
            result[at:at] = result[at:at + length]
        elif kind == 4:
            result[at:at] = random.randbytes(length)
        else:
            del result[at:]
    return bytes(result)


def changed(random: Random, value: object) -> object:
    """Another value in place of one of nested lists and dicts, often of the same kind."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key, result = random.choice(list(value)), dict(value)
        kind = random.randrange(8)
        if kind == 0:
            del result[key]
        elif kind == 1:
            result[random.choice(TEXTS)] = result.pop(key)
        else:
            result[key] = changed(random, value[key])
        return result
    if isinstance(value, list) and value and random.random() < 0.9:
        at, result = random.randrange(len(value)), list(value)
        kind = random.randrange(8)
        if kind == 0:
            del result[at]
        elif kind == 1:
            result[at:at] = result[at:at + 1] * random.choice((1, 2, 300))
        else:
            result[at] = changed(random, value[at])
        return result
    if isinstance(value, str) and random.random() < 0.5:
        return changed_bytes(random, value.encode(errors="replace")).decode(errors="replace")
    if type(value) is int and random.random() < 0.5:
        return value + random.choice((-1, 1, 255, 1 << 16))
    return random.choice(VALUES)


def changed_json(random: Random, data: bytes) -> bytes:
    """A JSON text changed in one value, or in its bytes."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return changed_bytes(random, data)
    return json.dumps(changed(random, value)).encode() if random.random() < 0.8 else changed_bytes(random, data)


def changed_yaml(random: Random, data: bytes) -> bytes:
    """A YAML text changed in one value, or in its bytes."""
    try:
        return yaml.safe_dump(changed(random, yaml.safe_load(data))).encode() if random.random() < 0.6 else \
            changed_bytes(random, data)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return changed_bytes(random, data)


def changed_messages(random: Random, data: bytes, kind: str) -> bytes:
    """Messages of a kind (see `split`): one is changed in a field or in its bytes, is there twice, or is not."""
    parts = split(data)
    if not parts:
        return changed_bytes(random, data)
    at = random.randrange(len(parts))
    choice = random.randrange(10)
    if choice == 0:
        del parts[at]
    elif choice == 1:
        parts.insert(at, random.choice(parts))
    elif choice < 5:
        parts[at] = changed_bytes(random, parts[at])
    else:
        try:
            message = typestore().deserialize_cdr(parts[at], kind)
            parts[at] = bytes(typestore().serialize_cdr(_changed_field(random, message), kind))
        except Exception:   # of rosbags: bytes that are no message, or a value that its field cannot have
            parts[at] = changed_bytes(random, parts[at])
    return joined(parts)


def _changed_field(random: Random, message: object) -> object:
    result = copy.copy(message)
    names = [one.name for one in dataclasses.fields(message) if not one.name.startswith("__")]
    # What has a length matters most, and would be chosen once in ten times.
    names += [name for name in names if hasattr(getattr(message, name), "__len__")] * 3
    name = random.choice(names)
    value = getattr(message, name)
    if isinstance(value, np.ndarray):
        data = changed_bytes(random, value.tobytes())
        value = np.frombuffer(data[:len(data) // value.itemsize * value.itemsize], value.dtype)
    elif isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
        at, value = random.randrange(len(value)), list(value)
        value[at:at + 1] = random.choice(([], value[at:at + 1] * random.choice((2, 300)),
                                          [_changed_field(random, value[at])]))
    elif dataclasses.is_dataclass(value):
        value = _changed_field(random, value)
    else:
        value = changed(random, value)
    setattr(result, name, value)
    return result


def joined(messages: list[bytes]) -> bytes:
    """Messages one behind the other, each after its length as uint32."""
    return b"".join(struct.pack("<I", len(one)) + one for one in messages)


def split(data: bytes | memoryview) -> list:
    """The messages of `joined`; the last may be cut off."""
    parts, at = [], 0
    while at + 4 <= len(data):
        length, = struct.unpack_from("<I", data, at)
        parts.append(data[at + 4:at + 4 + length])
        at += 4 + length
    return parts
