"""`python -m fuzz.guided TARGET CORPUS [LIBFUZZER_OPTION ...]`: one target under atheris, whose coverage guides it.

Half of the inputs are libFuzzer's, half are the target's own changes. Python functions of ours, and of what parses for
us, are watched; compiled loops are not, unless NUMBA_DISABLE_JIT=1 makes them Python. `python -m fuzz` starts this.
"""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from collections.abc import Iterator
from random import Random

import atheris

from fuzz.targets import TARGETS

WATCHED = ("mss_perception", "mss_models", "rosbags", "yaml", "ruamel", "json")


def functions() -> Iterator:
    """Every function and method of the modules that are watched."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in WATCHED:
            owners = [module, *(one for one in vars(module).values() if inspect.isclass(one)
                                and one.__module__ == name)]
            for one in (one for owner in owners for one in vars(owner).values()):
                plain = getattr(one, "__func__", getattr(one, "fget", one))
                if inspect.isfunction(plain) and plain.__module__ == name:
                    yield plain


def main(name: str, *options: str) -> None:
    target = TARGETS[name]
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    target.check(target.seeds()[0])         # imports, compiles and caches
    for one in set(functions()):
        atheris.instrument_func(one)

    def change(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        return atheris.Mutate(data, most) if random.random() < 0.5 else target.change(random, data)[:most]

    atheris.Setup([name, *options], target.check, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
