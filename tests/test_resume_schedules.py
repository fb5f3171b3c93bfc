"""Schedules and the plateau callback by file: a run that is saved, loaded and gone on with equals an unbroken one."""

from __future__ import annotations

import pytest

from minicf import Chain, Checkpoint, Constant, Cosine, Linear, OneCycle, Piecewise, ReduceLROnPlateau, Trainer, WarmUp
from tests.test_callbacks import OPTIMIZERS, learnable_split
from tests.test_train import everything, same, timeless, trainer, where

__all__ = ["where"]  # a fixture

SCHEDULES = {
    "linear": Linear(1.0, 0.1, 6),
    "piecewise": Piecewise((1, 2.5, 4), (1.0, 0.5, 2.0, 0.1)),
    "chain": Chain((Linear(0.2, 1.0), Constant(), Cosine(3)), at=(1.5, 3)),
    "warm-up": WarmUp(Cosine(5), epochs=1.5, start=0.25),
    "warm-up, one cycle": WarmUp(OneCycle(4, momentum=(0.95, 0.85)), epochs=2),
    "none": None,
}


@pytest.fixture(scope="module")
def split():
    return learnable_split()


@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize("plateau", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_that_went_through_a_file_is_one_that_did_not(where, split, name, optimizer, plateau, at, tmp_path):
    schedule, path = SCHEDULES[name], tmp_path / "run.npz"

    def callbacks():
        # Falls after epochs 2, 4 and 6 or so: a state is lost if either half starts anew.
        return [ReduceLROnPlateau(0.5, patience=2, min_delta=10.0, cooldown=1)] if plateau else []

    whole = trainer(where, optimizer=OPTIMIZERS[optimizer])
    whole.fit(*split, epochs=6, schedule=schedule, callbacks=callbacks())
    first = trainer(where, optimizer=OPTIMIZERS[optimizer])
    first.fit(*split, epochs=at, schedule=schedule, callbacks=[*callbacks(), Checkpoint(path)])
    second = Trainer.load(path, backend=where)
    second.fit(*split, epochs=6 - at, schedule=schedule, callbacks=callbacks())
    assert same(everything(whole), everything(second))
    assert timeless(whole.history) == timeless(second.history)
    assert whole.lr == second.lr
    if plateau:
        assert whole.lr < first.optimizer.lr, "the rate never fell"
