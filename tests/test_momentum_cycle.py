"""OneCycle with a momentum that moves: PyTorch's momenta, a training equal to PyTorch's, and resumed runs."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest

import minicf
from minicf import SGD, Adam, Chain, Constant, Cosine, OneCycle, RMSProp, Schedule, Trainer, WarmUp, registry
from minicf.backends import backend
from minicf.backends import numpy as plain
from minicf.data import Batch
from minicf.schedules import Pace
from minicf.solvers import Gradient, Part
from minicf.tiles import Tiles
from tests import cases
from tests.cuda import emulator, standin
from tests.test_callbacks import learnable_split
from tests.test_train import everything, same, timeless, trainer, where

__all__ = ["where"]  # a fixture

CYCLE = OneCycle(4, 0.5, 0.1, 0.01, momentum=(0.95, 0.8))
OPTIMIZERS = {
    "momentum": SGD(0.02, momentum=0.9, weight_decay=1e-3),
    "nesterov": SGD(0.02, momentum=0.9, nesterov=True, weight_decay=1e-2, decay="per_rating", sparse=True),
    "adam": Adam(0.02, betas=(0.9, 0.99), weight_decay=1e-3),
    "adamw": Adam(0.02, weight_decay=0.05, decay="decoupled"),
    "rmsprop": RMSProp(0.002, momentum=0.9),
}


@pytest.fixture(scope="module")
def split():
    return learnable_split()


def test_by_hand():
    cycle = OneCycle(8, up=0.25, momentum=(0.95, 0.85))
    got = cycle.momenta(np.array([0.0, 1.0, 2.0, 5.0, 8.0, 9.0]))
    assert got == pytest.approx([0.95, 0.90, 0.85, 0.90, 0.95, 0.95])
    assert OneCycle(8).momenta(np.zeros(3)) is None
    np.testing.assert_array_equal(OneCycle(8).factor(np.arange(9.0)), cycle.factor(np.arange(9.0)))
    assert Pace(0.1, None).momenta(0, 3, 3) is None
    assert Pace(0.1, Cosine(3)).momenta(0, 3, 3) is None
    assert Pace(0.1, cycle, 1).momenta(0, 2, 2) == pytest.approx(cycle.momenta(np.array([1.0, 1.5])))


@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_momenta_are_pytorchs(kind, steps):
    """OneCycle ends after its last step, torch's at it; so torch has a step more, of which we take none."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    p = [torch.zeros(1, requires_grad=True)]
    optimizer = torch.optim.SGD(p, lr=1.0, momentum=0.9) if kind == "sgd" else torch.optim.Adam(p, lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, 6 * steps + 1, pct_start=(3 * steps + 1) / (6 * steps + 1), final_div_factor=400.0,
        base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    theirs = []
    for _ in range(6 * steps):
        group = optimizer.param_groups[0]
        theirs.append(group["momentum"] if kind == "sgd" else group["betas"][0])
        optimizer.step()
        scheduler.step()
    ours = OneCycle(6, 0.5, 0.04, 1e-4, momentum=(0.95, 0.85)).momenta(np.arange(6 * steps) / steps)
    assert ours == pytest.approx(np.array(theirs), abs=1e-12)


def trained(module, model, solver, problem, schedule=CYCLE):
    program = module.compile(model, solver, problem.weights(model), cases.SEED, "float64")
    user, item, rating = problem.ratings()
    pace, losses = Pace(solver.lr, schedule), []
    program.solver = replace(program.solver, batch_size=problem.batch)
    for order in problem.orders():
        n = problem.steps
        part = Part("batches", order, pace.rates(0, n, n), pace.momenta(0, n, n))
        losses.append(program.run(Batch(user, item, rating), part).loss)
        pace.epochs += 1
    return cases.Outcome(np.array(losses), program.weights(), program.state())


@pytest.mark.parametrize("place", cases.BACKENDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("model", ["bias", "hybrid"])
def test_a_training_is_pytorchs(place, model, name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from tests import torch_twins

    problem, opt, m = cases.Problem(epochs=4), OPTIMIZERS[name], cases.MODELS[model]
    twin = torch_twins.Twin(m, problem.weights(m), torch.float64, torch_twins.uses_sparse_gradients(opt))
    stepper, arrays = torch_twins.Stepper(twin, opt), problem.ratings()
    for epoch, order in enumerate(problem.orders()):
        times = epoch + np.arange(problem.steps) / problem.steps
        for step, (factor, mu) in enumerate(zip(CYCLE.factor(times), CYCLE.momenta(times), strict=True)):
            for group in (group for optim in stepper.optims for group in optim.param_groups):
                if "betas" in group:
                    group["betas"] = (float(mu), group["betas"][1])
                else:
                    group["momentum"] = float(mu)
            rows = order[step * problem.batch : (step + 1) * problem.batch]
            user, item, rating = (torch.as_tensor(array[rows]) for array in arrays)
            masks = m.dropout_masks(cases.SEED, stepper.t + 1, len(rows), np.dtype("float64"))
            stepper.step(user, item, rating.double(), opt.lr * float(factor), masks)
    ours = trained(cases.backend(place), m, Gradient(opt), problem)
    for kind, found, expected in (("w", ours.weights, twin.weights()), ("s", ours.state, stepper.state())):
        for key, value in expected.items():
            assert cases.distance(found[key], value) < cases.TOLERANCE, (kind, key)
    still = trained(plain, m, Gradient(opt), problem, replace(CYCLE, momentum=None))
    assert max(cases.distances(ours, still).values()) > 1e-3, "it changes nothing"


@pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))
def test_a_gpu_equals_the_reference(caplog, monkeypatch):
    monkeypatch.setattr(backend, "_logged", set())
    problem, solver = cases.Problem(epochs=2), Gradient(OPTIMIZERS["adam"])
    with standin.emulated("resident") as module, caplog.at_level(logging.INFO, "minicf"):
        found = trained(module, cases.MODELS["bias"], solver, problem)
    assert max(cases.distances(found, trained(plain, cases.MODELS["bias"], solver, problem)).values()) < cases.TOLERANCE
    assert sum("a momentum that moves" in record.message for record in caplog.records) == 1


def test_the_log_says_once_that_it_is_composed(split, caplog, monkeypatch):
    monkeypatch.setattr(backend, "_logged", set())
    with caplog.at_level(logging.INFO, "minicf"):
        trainer("numba").fit(*split, epochs=3, schedule=CYCLE)
    assert sum("a momentum that moves" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_fits_and_a_file_are_one_fit(where, split, name, tmp_path):
    one, two = (trainer(where, optimizer=OPTIMIZERS[name]) for _ in range(2))
    one.fit(*split, epochs=4, schedule=CYCLE)
    two.fit(*split, epochs=1, schedule=CYCLE)
    two.save(tmp_path / "run.npz")
    three = Trainer.load(tmp_path / "run.npz", backend=where)
    for each in (two, three):
        each.fit(*split, epochs=3, schedule=CYCLE)
        assert same(everything(one), everything(each))
        assert timeless(one.history) == timeless(each.history)


def test_in_tiles_it_moves_from_round_to_round(split):
    tiles = Tiles(split[0], 3)
    solver = Gradient(SGD(0.01, momentum=0.9), batch_size=1, shuffle="tiles")
    outcomes = []
    for place in cases.BACKENDS:
        program = cases.backend(place).compile(
            cases.MODELS["bias"], solver,
            cases.MODELS["bias"].init_weights(split[0].n_users, split[0].n_items, 0), 0, "float64",
        )  # fmt: skip
        rounds, momenta = np.array([2, 0, 1]), np.array([0.9, 0.5, 0.7])
        program.run(tiles, Part("tiles", rounds, np.array([0.01, 0.02, 0.01]), momenta))
        outcomes.append(program.weights())
        one_by_one = cases.backend(place).compile(
            cases.MODELS["bias"], solver,
            cases.MODELS["bias"].init_weights(split[0].n_users, split[0].n_items, 0), 0, "float64",
        )  # fmt: skip
        for r, rate, mu in zip(rounds, (0.01, 0.02, 0.01), momenta, strict=True):
            one_by_one.run(tiles, Part("tiles", np.array([r]), np.array([rate]), np.array([mu])))
        outcomes.append(one_by_one.weights())
    for other in outcomes[1:]:
        for name, value in outcomes[0].items():
            assert cases.distance(other[name], value) < cases.TOLERANCE


def test_in_chains_and_after_a_warm_up():
    """NaN stands for the optimizer's own."""
    t = np.array([0.0, 0.5, 1.0, 2.0, 3.0])
    warm = WarmUp(OneCycle(momentum=(0.9, 0.8)), epochs=1).for_fit(3)
    expected = [math.nan, math.nan, *OneCycle(2, momentum=(0.9, 0.8)).momenta(t[2:] - 1)]
    np.testing.assert_array_equal(warm.momenta(t), expected)
    chain = Chain((Constant(), OneCycle(momentum=(0.9, 0.8)), Constant()), at=(1, 2))
    assert np.isnan(chain.momenta(t)).tolist() == [True, True, False, True, True]
    assert Chain((Constant(), Cosine(3)), at=(1,)).momenta(t) is None
    assert WarmUp(Cosine(3)).momenta(t) is None


def test_nan_leaves_the_optimizer_alone(split):
    class Nothing(Schedule):
        def factor(self, t):
            return np.ones_like(t)

        def momenta(self, t):
            return np.full(np.shape(t), np.nan)

    one, two = trainer(), trainer()
    one.fit(*split, epochs=2)
    two.fit(*split, epochs=2, schedule=Nothing())
    assert same(everything(one), everything(two))


def test_the_recommender_takes_it():
    ratings = minicf.Ratings(
        *learnable_split()[0].frame()[["userId", "movieId"]].to_numpy().T, learnable_split()[0].rating
    )
    made = [
        minicf.Recommender(n_factors=3, epochs=3, optimizer=Adam(0.01), batch_size=16, schedule=OneCycle(momentum=m))
        for m in (None, (0.95, 0.5))
    ]
    a, b = (each.fit(ratings).weights_ for each in made)
    assert not np.array_equal(a["user_factors"], b["user_factors"])


@pytest.mark.parametrize("optimizer", [SGD(0.1), minicf.AdaGrad(0.1)])
def test_an_optimizer_without_momentum_is_refused(where, split, optimizer):
    t = trainer(where, optimizer=optimizer)
    before = everything(t) if t._program else None
    with pytest.raises(ValueError, match="moves the momentum needs one that has some"):
        t.fit(*split, epochs=4, schedule=CYCLE)
    assert before is None
    assert t.epoch == 0
    assert int(t.program.state()["step"]) == 0


@pytest.mark.parametrize("momentum", [
    (0.9,), (0.9, 0.8, 0.7), 0.9, "ab", (0.9, 1.0), (0.0, 0.5), (0.9, math.nan), (0.9, None), (True, 0.5),
])  # fmt: skip
def test_refused_momenta(momentum):
    with pytest.raises(ValueError, match="momentum"):
        OneCycle(4, momentum=momentum)


def test_files_hold_it():
    config = registry.to_config(CYCLE)

    assert registry.from_config(json.loads(json.dumps(config)), Schedule, "schedule") == CYCLE
