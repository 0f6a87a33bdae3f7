"""`python -m fuzz [TARGET ...] --seconds N`: look for inputs that break a decoder.

Needs atheris, which `make test` does not: pip install atheris. Each target runs in a process of its own, twice:

    interpreted   the compiled loops as Python, so that coverage guides into them and each index is checked
    checked       the same loops compiled, with bounds checks, on all inputs that the first run kept, and on more

and what is found is written to CORPUS/TARGET/found. `python -m fuzz TARGET --input FILE` decodes it again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fuzz.target import LONGEST
from fuzz.targets import TARGETS
from mss_perception.options import at_least

SLOWEST_SEC, LARGEST_MB = 10, 4096      # for one input; of the process
# Loops that were compiled without checks must not come from the cache.
LOOPS = {"interpreted": {"NUMBA_DISABLE_JIT": "1"},
         "checked": {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": "numba"}}


def run(name: str, loops: str, seconds: int, corpus: Path) -> dict:
    """One row: inputs tried, how many per second, the slowest in seconds, memory, and the files of what was found."""
    kept, found = corpus / name / "kept", corpus / name / "found"
    for folder in (kept, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (kept / f"seed{number}").write_bytes(seed)
    settings = dict(LOOPS[loops])
    if "NUMBA_CACHE_DIR" in settings:
        settings["NUMBA_CACHE_DIR"] = str((corpus / settings["NUMBA_CACHE_DIR"]).resolve())
    before = set(found.iterdir())
    command = [sys.executable, "-m", "fuzz.guided", name, str(kept), f"-artifact_prefix={found}/",
               f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-len_control=0", f"-timeout={SLOWEST_SEC}",
               f"-rss_limit_mb={LARGEST_MB}", "-print_final_stats=1", "-close_fd_mask=3", "-verbosity=0"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, errors="replace")
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
    news = sorted(str(one) for one in set(found.iterdir()) - before)
    if not stats or done.returncode and not news:
        raise SystemExit(f"fuzz {name}: {done.stderr[-3000:]}")
    return {"target": name, "loops": loops, "seconds": seconds, "executions": int(stats["number_of_executed_units"]),
            "per_second": int(stats["average_exec_per_sec"]), "slowest_sec": int(stats["slowest_unit_time_sec"]),
            "memory_mb": int(stats["peak_rss_mb"]), "found": news}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=at_least(1), default=60, help="of each of both runs (default: %(default)s)")
    parser.add_argument("--corpus", type=Path, default=Path("runs/fuzz"), help="where inputs are kept from run to run "
                        "(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--input", type=Path, metavar="FILE", help="decode this input, and nothing else")
    options = parser.parse_args(argv)
    names = options.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target {unknown[0]!r}; targets: {', '.join(TARGETS)}")
    if options.input:
        if len(options.targets) != 1:
            parser.error("--input needs one TARGET")
        try:
            data = options.input.read_bytes()
        except OSError as error:
            parser.error(f"--input {options.input}: {error.strerror}")
        print("taken" if TARGETS[names[0]].check(data) else "refused as documented")
        return 0
    rows = []
    for name in names:
        for loops in LOOPS:
            rows.append(row := run(name, loops, options.seconds, options.corpus))
            print("{target:18} {loops:11} {executions:9} inputs {per_second:6}/s, slowest {slowest_sec} s, "
                  "{memory_mb} MB".format(**row), *(f"FOUND {one}" for one in row["found"]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["found"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
