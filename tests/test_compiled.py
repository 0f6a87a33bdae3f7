"""numba's compiler: where it has no folder to cache in, as on a read-only installation, and when it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import boxes
import numpy as np
import pytest
from numba import njit

from mss_perception.compiled import compiled

# A function without a source file: numba has nowhere to put its cache, just as when no folder can be written.
SOURCE = "def total(values):\n    s = 0.0\n    for v in values:\n        s += 1.0 / v\n    return s\n"


def test_compiles_where_nothing_can_be_cached():
    scope: dict = {}
    exec(SOURCE, scope)
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(scope["total"])
    assert compiled(scope["total"])(np.array([2.0, 4.0])) == 0.75


def test_division_by_zero_is_infinite():
    scope: dict = {}
    exec(SOURCE, scope)
    assert compiled(scope["total"])(np.array([0.0])) == np.inf


FIRST_SET = """
import sys
from numba.core.dispatcher import Dispatcher
import boxes
from mss_models.runtime import open_runtime
from mss_perception.bags import read_bag
from mss_perception.config import Config
from mss_perception.pipeline import Pipeline

def signatures():
    return {(module, name, str(one)) for module in list(sys.modules) if module.startswith("mss_perception")
            for name, value in list(vars(sys.modules[module]).items()) if isinstance(value, Dispatcher)
            for one in value.signatures}

bag, checkpoint = sys.argv[1:]
outputs, roles = [], Config().topic_roles()
pipeline = Pipeline(Config(), open_runtime(checkpoint, device="cpu", precision="fp32", threads=1), outputs.append,
                    synchronous=True)
before = signatures()
for topic, now_ns, message in read_bag(bag):
    for one in message.transforms if topic == "/tf_static" else ():     # else depth would need no registration
        one.transform.translation.y += 0.1 * (one.child_frame_id == "depth_optical")
    if topic in roles:
        pipeline.poll(now_ns)
        pipeline.receive(roles[topic], message, now_ns)
assert before and any(all(one.mask.values()) for one in outputs), [one.inputs for one in outputs]
print(*sorted(signatures() - before), sep="\\n")
"""


def test_the_first_set_waits_for_no_compiler(tmp_path):
    """All is compiled when the pipeline is made. In a process of its own: here other tests have compiled before."""
    bag, checkpoint = boxes.write_bag(tmp_path / "bag", seconds=0.5), boxes.write_checkpoint(tmp_path / "net.st")
    done = subprocess.run([sys.executable, "-c", FIRST_SET, bag, checkpoint], capture_output=True, text=True,
                          cwd=Path(boxes.__file__).parent, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
