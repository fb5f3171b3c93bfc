"""ReduceLROnPlateau: falls where PyTorch's does, is refused without an error to follow, resumes to the same bits."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

import minicf

ERRORS = [5, 4, 4, 4.5, 3.9, 3.95, 3.91, 3.9, 3.9, 3.9, 3.8, 3.8, 3.8, 3.8, 3.8, 3.8, 3.8]


def rates(callback, errors=ERRORS, lr=1.0):
    trainer = SimpleNamespace(lr=lr, history=SimpleNamespace(metric="mse"))
    out = []
    for error in errors:
        callback.on_epoch_end(trainer, {"valid_mse": error})
        out.append(trainer.lr)
    return out


def test_by_hand():
    got = rates(minicf.ReduceLROnPlateau(0.5, patience=2), [3, 2, 2, 2, 2, 2, 1, 1])
    assert got == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("patience", [1, 2, 4])
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize(("min_delta", "min_lr"), [(0.0, 0.0), (0.05, 0.2)])
def test_it_is_pytorchs(patience, cooldown, min_delta, min_lr):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        sgd, factor=0.5, patience=patience - 1, threshold=min_delta, threshold_mode="abs", cooldown=cooldown,
        min_lr=min_lr,
    )  # fmt: skip
    expected = []
    for error in ERRORS:
        theirs.step(error)
        expected.append(sgd.param_groups[0]["lr"])
    ours = minicf.ReduceLROnPlateau(0.5, patience, min_delta=min_delta, cooldown=cooldown, min_lr=min_lr)
    assert rates(ours) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"factor": 1}, "factor is 1"), ({"factor": 0}, "factor is 0"), ({"patience": 0}, "patience is 0"),
     ({"min_lr": -1}, "min_lr is -1"), ({"cooldown": 0.5}, "cooldown is 0.5"), ({"min_delta": math.nan}, "min_delta")],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        minicf.ReduceLROnPlateau(**arguments)


def table(seed=0):
    random = np.random.RandomState(seed)
    return minicf.Ratings(random.randint(0, 9, 80), random.randint(0, 8, 80), random.randint(1, 6, 80), 9, 8)


def test_a_resumed_run_falls_at_the_same_epoch(tmp_path):
    def trainer():
        return minicf.Trainer(minicf.DotBias(3), minicf.SGD(0.3), backend="numpy")

    def plateau():
        return minicf.ReduceLROnPlateau(0.5, patience=2, min_delta=0.5)

    whole = trainer()
    whole.fit(table(), table(1), epochs=12, callbacks=[plateau()], progress=False)
    assert len(set(whole.history.frame().lr)) > 2
    for k in range(1, 12, 3):
        half = trainer()
        half.fit(table(), table(1), epochs=k, callbacks=[plateau()], progress=False)
        half.save(tmp_path / "half.npz")
        again = minicf.Trainer.load(tmp_path / "half.npz", backend="numpy")
        again.fit(table(), table(1), epochs=12 - k, callbacks=[plateau()], progress=False)
        assert again.lr == whole.lr
        assert all(np.array_equal(again.weights[name], w) for name, w in whole.weights.items())


def test_it_needs_an_error_to_follow():
    trainer = minicf.Trainer(minicf.Dot(2), minicf.SGD(0.1), backend="numpy")
    with pytest.raises(ValueError, match=r"valid_mse is not known: ReduceLROnPlateau needs fit\(..., valid=ratings\)"):
        trainer.fit(table(), callbacks=[minicf.ReduceLROnPlateau()], progress=False)
