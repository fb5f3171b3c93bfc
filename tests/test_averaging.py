"""Averages of weights: equal to PyTorch's, and trainings that go on as if nothing had been averaged."""

from __future__ import annotations

import numpy as np
import pytest

import minicf
from minicf import Checkpoint, Trainer, WeightAverage
from minicf.files import FileError
from tests import cases
from tests.test_callbacks import learnable_split
from tests.test_train import HYBRID, everything, same, timeless, trainer, where

__all__ = ["where"]  # a fixture

KINDS = {"mean": {}, "late mean": {"start": 3}, "moving": {"decay": 0.6}, "late moving": {"decay": 0.6, "start": 2}}


@pytest.fixture(scope="module")
def split():
    return learnable_split()


class Notes(minicf.Callback):
    """Keeps the weights of each epoch."""

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, trainer, row):
        self.seen.append(trainer.weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [None, HYBRID])
def test_averages_are_pytorchs(where, split, kind, model):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    notes, options = Notes(), KINDS[kind]
    t = trainer(where, model, dtype="float64")
    average = WeightAverage(**options)
    t.fit(*split, epochs=6, callbacks=[average, notes])

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.own = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(w.shape)) for w in t.weights.values()])

    module = Module().double()
    decay = options.get("decay")
    theirs = AveragedModel(module, multi_avg_fn=None if decay is None else get_ema_multi_avg_fn(decay))
    for seen in notes.seen[options.get("start", 1) - 1 :]:
        with torch.no_grad():
            for p, w in zip(module.own, seen.values(), strict=True):
                p.copy_(torch.as_tensor(w))
        theirs.update_parameters(module)
    assert average.n == int(theirs.n_averaged)
    for (name, w), p in zip(t.weights.items(), theirs.module.own, strict=True):
        assert cases.distance(w, p.detach().numpy()) < 1e-15 * average.n, name  # a rounding an epoch
    assert not same(t.weights, notes.seen[-1])


def test_by_hand(split):
    notes = Notes()
    t = trainer(dtype="float64")
    t.fit(*split, epochs=3, callbacks=[notes, WeightAverage()])
    a, b, c = (x["user_factors"] for x in notes.seen)
    np.testing.assert_allclose(t.weights["user_factors"], (a + b + c) / 3, rtol=0, atol=1e-15)
    t = trainer(dtype="float64")
    t.fit(*split, epochs=3, callbacks=[WeightAverage(decay=0.25)])
    np.testing.assert_allclose(t.weights["user_factors"], 0.25 * (0.25 * a + 0.75 * b) + 0.75 * c, rtol=0, atol=1e-15)


def test_the_history_is_that_of_training_and_errors_fall(split):
    plain, averaged = trainer(), trainer()
    plain.fit(*split, epochs=5)
    averaged.fit(*split, epochs=5, callbacks=[WeightAverage(start=3)])
    assert timeless(plain.history) == timeless(averaged.history)
    assert not same(plain.weights, averaged.weights)


def test_before_its_start_nothing_is_averaged(split):
    plain, averaged, average = trainer(), trainer(), WeightAverage(start=9)
    plain.fit(*split, epochs=5)
    averaged.fit(*split, epochs=5, callbacks=[average])
    assert average.n == 0
    assert same(everything(plain), everything(averaged))


@pytest.mark.parametrize("kind", KINDS)
def test_two_fits_are_one(where, split, kind):
    one, two = trainer(where), trainer(where)
    one.fit(*split, epochs=6, callbacks=[WeightAverage(**KINDS[kind])])
    average = WeightAverage(**KINDS[kind])
    for epochs in (2, 1, 3):
        two.fit(*split, epochs=epochs, callbacks=[average])
    assert same(everything(one), everything(two))
    assert timeless(one.history) == timeless(two.history)


def test_another_trainer_starts_anew(split):
    average, fresh = WeightAverage(), WeightAverage()
    trainer().fit(*split, epochs=4, callbacks=[average])
    one, two = trainer(seed=9), trainer(seed=9)
    one.fit(*split, epochs=3, callbacks=[average])
    two.fit(*split, epochs=3, callbacks=[fresh])
    assert average.n == 3
    assert same(everything(one), everything(two))


def test_a_fit_without_it_starts_anew(split):
    average, t = WeightAverage(), trainer()
    t.fit(*split, epochs=2, callbacks=[average])
    t.fit(*split, epochs=1)
    t.fit(*split, epochs=2, callbacks=[average])
    assert average.n == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("midway", [True, False])
def test_resumed_by_file(where, split, kind, midway, tmp_path):
    """From a checkpoint that training wrote, and from one saved after a fit."""
    whole = trainer(where, HYBRID)
    whole.fit(*split, epochs=6, callbacks=[WeightAverage(**KINDS[kind])])
    first = trainer(where, HYBRID)
    path = tmp_path / "run.npz"
    callbacks = [WeightAverage(**KINDS[kind])]
    first.fit(*split, epochs=4, callbacks=[Checkpoint(path), *callbacks] if midway else callbacks)
    if not midway:
        first.save(path)
    second = Trainer.load(path, backend=where)
    assert second.epoch == 4
    second.fit(*split, epochs=2, callbacks=[WeightAverage(**KINDS[kind])])
    assert same(everything(whole), everything(second))
    assert timeless(whole.history) == timeless(second.history)


def test_the_average_is_left_when_another_callback_fails(split):
    class Fails(minicf.Callback):
        def on_epoch_end(self, trainer, row):
            if row["epoch"] == 3:
                raise RuntimeError("a callback failed")

    notes, t = Notes(), trainer(dtype="float64")
    with pytest.raises(RuntimeError, match="a callback failed"):
        t.fit(*split, epochs=5, callbacks=[notes, WeightAverage(), Fails()])
    mean = sum(x["item_bias"] for x in notes.seen) / 3
    np.testing.assert_allclose(t.weights["item_bias"], mean, rtol=0, atol=1e-15)


@pytest.mark.parametrize("arguments", [
    {"decay": -0.1}, {"decay": 1.0}, {"decay": "x"}, {"decay": np.nan}, {"start": 0}, {"start": 1.5}, {"start": True},
])  # fmt: skip
def test_refused_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        WeightAverage(**arguments)


def test_damaged_state_is_refused(split, tmp_path):
    t, average, path = trainer(), WeightAverage(), tmp_path / "run.npz"
    t.fit(*split, epochs=2, callbacks=[average])
    for damage in (
        lambda: setattr(average, "n", 0),
        lambda: average._average.update(user_bias=np.zeros(3)),
        lambda: average._latest[0].pop("user_bias"),
    ):
        before = average.n, dict(average._average), (dict(average._latest[0]), average._latest[1])
        damage()
        t.save(path)
        with pytest.raises(FileError, match="not a valid checkpoint"):
            Trainer.load(path)
        average.n, average._average, average._latest = before
