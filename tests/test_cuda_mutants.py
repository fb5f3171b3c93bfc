"""The tests of the kernels are tested: each mistake put into the kernels is noticed (tests/cuda/mutants.py)."""

from __future__ import annotations

import pytest

from minicf.backends.cuda import device
from tests.cuda import emulator, mutants

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))


def check(names: list[str]) -> int:
    """Number of mutants that were caught."""
    outcome = mutants.try_all(["none", *names])
    assert outcome.pop("none") is None, "the suite fails on the kernels as they are"
    survivors = {name for name, how in outcome.items() if how is None}
    assert survivors == {name for name in names if not mutants.MUTANTS[name].seen}
    return len(outcome) - len(survivors)


def test_a_share_of_the_mutants_is_caught():
    assert check(list(mutants.MUTANTS)[::5]) >= 4


@pytest.mark.campaign
def test_every_mutant_is_caught():
    assert check(list(mutants.MUTANTS)) >= 20


def test_mutants_change_the_source():
    source = device.source()
    texts = {mutant.apply(source) for mutant in mutants.MUTANTS.values()}
    assert len(texts) == len(mutants.MUTANTS)
    assert source not in texts
