"""The oracle's streams notice a collector with one rule broken."""

from __future__ import annotations

import logging

import pytest
from collector_mutants import MUTANTS, collector_class, noticed_after
from collector_streams import compare, random_stream


@pytest.fixture(autouse=True)
def quiet():
    """Each reset and each exception on purpose is a line of log."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.mistake)
def test_a_broken_rule_is_noticed(mutant):
    assert noticed_after(mutant) is not None


def test_the_unbroken_source_is_not_complained_about():
    for seed in range(50):
        compare(random_stream(seed), collector_class())
