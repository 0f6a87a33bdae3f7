"""The collector against the brute-force oracle on random streams.

The suite runs a few hundred of each kind; `COLLECTOR_STREAMS=10000 pytest -n0 tests/test_collector_oracle.py` runs that
many, from seed COLLECTOR_SEED on (0).
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import collector_oracle
import pytest
from collector_streams import arrivals, compare, random_stream
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mss_perception.collector import Collector

COUNT, FIRST = int(os.environ.get("COLLECTOR_STREAMS", "300")), int(os.environ.get("COLLECTOR_SEED", "0"))
BATCH = 50


@pytest.fixture(autouse=True)
def quiet():
    """The log lines of a few thousand resets are of no use to anybody."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_the_oracle_shares_no_code_with_the_collector():
    imported = re.findall(r"^\s*(?:from|import) (\S+)", Path(collector_oracle.__file__).read_text(), re.MULTILINE)
    assert set(imported) == {"__future__", "collections", "types"}


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, BATCH))
def test_random_streams_agree_with_the_oracle(first):
    sets = 0
    for number in range(first, min(first + BATCH, FIRST + COUNT)):
        try:
            sets += compare(random_stream(number), Collector)
        except AssertionError as error:
            raise AssertionError(f"seed {number}: {error}") from error
    assert sets > BATCH                                                         # the streams are not empty


@seed(FIRST)
@settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_arrivals_that_hypothesis_chooses_agree_with_the_oracle(rng):
    compare(arrivals(rng), Collector)
