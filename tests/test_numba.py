"""What is the Numba backend's own: catch-up over long gaps, tiles, threads, and what falls back."""

from __future__ import annotations

import functools
import gc
import inspect
import logging
import os
import subprocess
import sys
import threading
import weakref
from typing import Any

import numba
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicf import Cosine, Ratings, Trainer, load_movielens, rng, threads
from minicf.backends import backend, base, get_backend
from minicf.backends import numpy as plain
from minicf.backends.numba import adam, epoch, loss, sgd
from minicf.backends.numba import program as numba_program
from minicf.backends.numba import tiles as numba_tiles
from minicf.models import Dot, DotBias, Hybrid, Net
from minicf.optim import SGD, Adam
from minicf.tiles import Tiles, _cut, count_blocks
from tests import cases

# --- products of idle steps (C1) ----------------------------------------------------------------------------------


def idle_matrices(steps: int) -> np.ndarray:
    """Idle steps of momentum and l2 with a rate that changes: their determinants are 0.9, so inverses are hopeless."""
    rates = np.linspace(0.2, 0.01, steps)
    return np.stack([1 - rates * 0.1, -rates * 0.9, np.full(steps, 0.1), np.full(steps, 0.9)], axis=1)


LESS = np.diag([1.0, 0.0])
"""Taken off all products, so that float32 holds what a factor near 1 is made of."""


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 64, 65])
def test_range_products_are_those_of_the_matrices(steps):
    matrices = idle_matrices(steps)
    levels = max(1, (steps - 1).bit_length())
    table = np.empty((1, levels, steps, 4))
    sgd.range_table(matrices, table[0])
    logs = np.zeros(1 << levels, np.uint8)
    for level in range(levels):
        logs[1 << level : 2 << level] = level
    for start in range(steps + 1):
        product = np.eye(2)
        for stop in range(start, steps + 1):
            got = np.reshape(sgd.product(table, 0, logs, 0, start, stop), (2, 2)) + LESS
            # A product of at most 65 matrices of norm near 1, in float64.
            np.testing.assert_allclose(got, product, rtol=0, atol=1e-13)
            if stop < steps:
                product = matrices[stop].reshape(2, 2) @ product


def test_powers_are_repeated_products():
    matrix = idle_matrices(5)[2]
    table = np.empty((40, 4))
    sgd.power_table(matrix, table)
    for n in range(40):
        expected = np.linalg.matrix_power(matrix.reshape(2, 2), n)
        np.testing.assert_allclose(table[n].reshape(2, 2) + LESS, expected, rtol=0, atol=1e-13)


# --- long gaps ----------------------------------------------------------------------------------------------------

LONG = cases.Problem(n_users=60, n_items=150, n_ratings=4000, batch=16, epochs=10, seed=3)
"""2,500 steps, with rows that wait for hundreds of them."""

LONG_OPTIMIZERS = {
    "momentum l2": SGD(0.01, momentum=0.9, weight_decay=1e-2),
    "nesterov decoupled": SGD(0.01, momentum=0.9, nesterov=True, weight_decay=1e-2, decay="decoupled"),
    "adam": Adam(0.01),
    "adam large eps": Adam(0.01, eps=1e-3),
    "adam short memory": Adam(0.01, betas=(0.8, 0.9)),
    "adamw by name": Adam(0.01, weight_decay={"user_factors": 0.1, "item_bias": 0.3}, decay="decoupled"),
    "adam l2": Adam(0.01, weight_decay=1e-3),
    "adam l2 by name": Adam(0.01, weight_decay={"item_factors": 1e-2}),
    "adam per_rating": Adam(0.01, weight_decay=1e-2, decay="per_rating"),
}


@pytest.mark.parametrize("name", LONG_OPTIMIZERS)
def test_2500_steps_equal_the_reference(name):
    opt, model = LONG_OPTIMIZERS[name], DotBias(5)
    expected = cases.run(plain, model, opt, LONG)
    got = cases.run(numba_program, model, opt, LONG)
    # Rounding, or, where gaps are summed, the expansion's truncation: `_TOLERANCE` of a gap's move, 1e-6 after all of
    # them as the moves of a run add up to some thirty times the weights.
    limit = 1e-6 if isinstance(opt, Adam) else 1e-9
    assert max(cases.distances(got, expected).values()) < limit


def test_the_sum_over_a_gap_is_used_and_exact():
    """One row moves once, and is read again after ever longer gaps; (C4) must agree with step by step."""
    model = Dot(5)
    opt = Adam(0.01)
    n_items = 12
    gaps = [1, 2, 3, 7, 40, 300, 900]
    # Item 0 all the time; item k is named at step 400 and again after the k-th gap.
    item = np.zeros(1500, np.int32)
    for k, gap in enumerate(gaps):
        item[400 + k] = item[400 + k + gap] = k + 1
    user = np.zeros(1500, np.int32)
    rating = np.linspace(1, 5, 1500, dtype=np.float32)
    start = model.init_weights(1, n_items, 1)
    outcomes = []
    for module in (plain, numba_program):
        program = module.compile(model, opt, start, 0, "float64")
        cases.train(program, user, item, rating, np.arange(1500, dtype=np.int32), 1, 0.01)
        outcomes.append(program.weights()["item_factors"])
    np.testing.assert_allclose(outcomes[1], outcomes[0], rtol=1e-8)
    # The expansion was in use: from the step on where the table says that it is exact enough.
    good = np.zeros(1501, np.bool_)
    sums = np.zeros((1501, 7))
    adam.moment_tables(np.full(1500, 0.01), 0, 0.9, 0.999, 0.0, sums, good, adam.TOLERANCE)
    assert not good[50]
    assert good[400:1400].all()


def test_a_gap_so_long_that_beta2_to_its_minus_half_overflows():
    item = np.zeros(30_000, np.int32)
    item[100] = item[-1] = 1  # 0.95 ** -14949 is beyond float64
    user, rating, order = np.zeros_like(item), np.ones(30_000, np.float32), np.arange(30_000, dtype=np.int32)
    outcomes = []
    for calls in (1, 3):  # a call ends with all rows caught up
        model = Dot(2)
        opt = Adam(0.01, betas=(0.1, 0.95))
        program = numba_program.compile(model, opt, model.init_weights(1, 2, 1), 0, "float64")
        for part in np.split(order, calls):
            cases.train(program, user, item, rating, part, 1, 0.01)
        outcomes.append(program.weights()["item_factors"])
    np.testing.assert_allclose(outcomes[0], outcomes[1], rtol=1e-6)  # what the expansion promises in float64


@pytest.mark.parametrize("gap", [1, 3, 30, 400])
@pytest.mark.parametrize("decay", [{}, {"weight_decay": {"item_bias": 2.0, "item_factors": 3.0}, "decay": "decoupled"}])
def test_the_expansion_is_as_exact_as_it_says_where_eps_matters(gap, decay):
    """Second moments around eps^2, where every term of (C4) counts: x is near 1 there, elsewhere near 0."""
    model, opt = DotBias(5), Adam(0.01, **decay)
    start = model.init_weights(2, 40, 1)
    random = np.random.RandomState(0)
    state = opt.init_state({name: value.copy() for name, value in start.items()}) | {"step": np.array(300)}
    for name in ("item_factors", "item_bias"):
        state[f"first.{name}"] = 1e-8 * random.standard_normal(start[name].shape)
        state[f"second.{name}"] = (1e-8 * random.choice([0.0, 0.1, 1.0, 10.0], start[name].shape)) ** 2
    zeros = np.zeros(gap, np.int32)
    outcomes = []
    for module in (plain, numba_program):
        program = module.compile(model, opt, start, 0, "float64")
        program.load(start, state)
        cases.train(program, zeros, zeros, np.ones(gap, np.float32), np.arange(gap, dtype=np.int32), 1, 0.01)
        outcomes.append(program.weights())
    for name in ("item_factors", "item_bias"):
        moved = np.abs(outcomes[0][name] - start[name])[1:]  # row 0 is named at each step
        error = np.abs(outcomes[1][name] - outcomes[0][name])[1:]
        assert moved.max() > 0.005
        assert (error <= adam.TOLERANCE * moved + 1e-15).all()


@pytest.mark.parametrize("decay", [{}, {"weight_decay": {"item_bias": 2.0, "item_factors": 3.0}, "decay": "decoupled"}])
def test_the_expansion_of_a_gap_that_ends_within_a_call(decay):
    """As above, but each row is read after a gap of its own, so that the moments of later steps are taken off."""
    model, opt, n = DotBias(5), Adam(0.01, **decay), 40
    start = model.init_weights(2, n, 1)
    start["user_factors"][:] = 1.0  # far from 0: where a gradient crosses it, Adam's step would magnify any rounding
    random = np.random.RandomState(0)
    state = opt.init_state({name: value.copy() for name, value in start.items()}) | {"step": np.array(300)}
    for name in ("item_factors", "item_bias"):
        state[f"first.{name}"] = 1e-8 * random.standard_normal(start[name].shape)
        state[f"second.{name}"] = (1e-8 * random.choice([0.0, 0.1, 1.0, 10.0], start[name].shape)) ** 2
    item, user, rating = np.arange(n, dtype=np.int32), np.zeros(n, np.int32), np.ones(n, np.float32)
    programs = [module.compile(model, opt, start, 0, "float64") for module in (plain, numba_program)]
    for program in programs:
        program.load(start, state)
    cases.train(programs[1], user, item, rating, item, 1, 0.01)
    path, last = dict.fromkeys(("item_factors", "item_bias"), 0.0), start
    for step in item:  # as far as each weight went, there and back
        cases.train(programs[0], user, item, rating, item[step : step + 1], 1, 0.01)
        now = programs[0].weights()
        path = {name: way + np.abs(now[name] - last[name]) for name, way in path.items()}
        last = now
    got = programs[1].weights()
    for name, way in path.items():
        assert (np.abs(got[name] - last[name]) <= adam.TOLERANCE * way + 1e-15).all()


FLOAT32 = ("momentum l2", "adam", "adamw by name", "adam l2")


@pytest.mark.parametrize("name", FLOAT32)
def test_float32_rounds_at_most_twice_as_much_as_pytorch(name):
    pytest.importorskip("torch", reason="PyTorch is not installed: its rounding is the measure here")
    from tests import torch_twins

    opt, model = LONG_OPTIMIZERS[name], DotBias(5)
    exact = cases.run(plain, model, opt, LONG).arrays()
    ours = cases.run(numba_program, model, opt, LONG, "float32").arrays()
    theirs = torch_twins.run(model, opt, LONG, "float32").arrays()
    ratios = []
    for key, value in exact.items():
        if key == "step" or not np.abs(value).max():
            continue
        errors = [np.sqrt(np.mean((x[key].astype(np.float64) - value) ** 2)) for x in (ours, theirs)]
        ratios.append(errors[0] / errors[1])
    # Single arrays are a matter of luck on either side; the issue is the whole.
    assert np.exp(np.mean(np.log(ratios))) < 2, dict(zip(exact, ratios, strict=False))


@pytest.mark.parametrize(
    "opt",
    [
        SGD(1e-4, weight_decay=0.05),
        SGD(1e-4, momentum=0.9, weight_decay=0.05),
        SGD(1e-4, weight_decay=0.05, decay="decoupled"),
        SGD(1e-4, weight_decay=0.05, decay="per_rating"),
        Adam(1e-4),
        Adam(1e-4, sparse=True),
        Adam(1e-4, weight_decay=0.001),
        Adam(1e-4, weight_decay=0.05, decay="decoupled"),
    ],
    ids=str,
)
def test_factors_near_one_keep_their_digits(opt):
    """1 - lr lambda and beta2 are not rounded to float32: such an error would be made again, the same, at every step.

    Roundings that are independent of each other sum to about 2^-25 sqrt(steps); twice that is allowed. The rounding of
    0.999 alone would move second moments by 1.3e-5, and that of 1 - 5e-6, 4,000 times, weights by up to 1e-4.
    """
    n, model = 4000, DotBias(5)
    random = np.random.default_rng(0)
    user, item = np.zeros(n, np.int32), (random.random(n) < 0.5).astype(np.int32)
    rating = random.uniform(1, 5, n).astype(np.float32)
    outcomes = []
    for module, dtype in ((plain, "float64"), (numba_program, "float32")):
        program = module.compile(model, opt, model.init_weights(2, 3, 1), 0, dtype)
        cases.train(program, user, item, rating, np.arange(n, dtype=np.int32), 1, opt.lr)
        state = {name: x for name, x in program.state().items() if name.startswith("second")}
        outcomes.append(program.weights() | state)
    for name, true in outcomes[0].items():
        error = np.sqrt(np.mean((outcomes[1][name] - true) ** 2) / np.mean(true**2))
        assert error < 2**-24 * np.sqrt(n), name


def test_factors_near_one_keep_their_digits_in_tiles():
    ratings = Ratings(np.zeros(4000, np.int32), np.arange(4000) % 2, np.tile([1.0, 3.0, 2.0, 5.0], 1000), 1, 2)
    opt = SGD(0.01, weight_decay=0.05, decay="per_rating")
    weights = []
    for place, dtype in (("numpy", "float64"), ("numba", "float32")):
        # 40 factors: whole vectors of them, and a rest.
        trainer = Trainer(DotBias(40), opt, backend=place, dtype=dtype, batch_size=1)
        trainer.fit(ratings, shuffle="tiles")
        weights.append(trainer.weights)
    for name, true in weights[0].items():
        error = np.sqrt(np.mean((weights[1][name] - true) ** 2) / np.mean(true**2))
        assert error < 2**-24 * np.sqrt(4000), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "factors"),
    [("adam", 10), *(pytest.param(name, 50, marks=pytest.mark.campaign) for name in ("momentum l2", "adam"))],
)
def test_2500_steps_of_movielens_equal_the_reference(name, factors):
    train, _ = load_movielens().split()
    opt, model = LONG_OPTIMIZERS[name], DotBias(factors)
    outcomes = []
    for place in ("numpy", "numba"):
        trainer = Trainer(model, opt, backend=place, dtype="float64")
        trainer.fit(train, epochs=2, schedule=Cosine(epochs=2))
        outcomes.append(trainer.weights | trainer.program.state())
    limit = 1e-6 if isinstance(opt, Adam) else 1e-9
    assert max(cases.distance(outcomes[1][key], outcomes[0][key]) for key in outcomes[0]) < limit


@pytest.mark.parametrize("factors", [20, pytest.param(37, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("name", ["adam l2", "adam l2 by name"])
def test_rows_of_many_vectors_equal_the_reference(name, factors):
    """Rows of three vectors, two at once and one more behind them, and of five, four at once and one more."""
    opt, model, problem = LONG_OPTIMIZERS[name], DotBias(factors), cases.Problem(epochs=10)
    expected = cases.run(plain, model, opt, problem)
    got = cases.run(numba_program, model, opt, problem)
    assert max(cases.distances(got, expected).values()) < cases.TOLERANCE


@pytest.mark.parametrize(("n_users", "n_items"), [(300, 7), (7, 300)])
def test_many_rows_on_one_side_are_all_replayed(n_users, n_items):
    """Rows are cut into chunks for threads: one side has many, the other one."""
    opt, model = LONG_OPTIMIZERS["adam l2"], DotBias(5)
    problem = cases.Problem(n_users=n_users, n_items=n_items, epochs=2)
    assert max(n_users, n_items) > 4 * epoch.CHUNK
    expected = cases.run(plain, model, opt, problem)
    got = cases.run(numba_program, model, opt, problem)
    assert max(cases.distances(got, expected).values()) < cases.TOLERANCE


# --- whatever the sizes -------------------------------------------------------------------------------------------


@st.composite
def runs(draw):
    kind = draw(st.sampled_from(["dot", "bias", "net", "hybrid"]))
    factors = draw(st.integers(1, 6))
    models = {
        "dot": Dot(factors),
        "bias": DotBias(factors, rating_range=draw(st.sampled_from([None, (0.5, 5.0)]))),
        "net": Net(factors, hidden=tuple(draw(st.lists(st.integers(1, 5), max_size=3))), dropout=0.2),
        "hybrid": Hybrid({"dot": (DotBias(factors), 0.5), "net": (Net(factors, hidden=(3,), dropout=0.0), 1.5)}),
    }
    problem = cases.Problem(
        n_users=draw(st.integers(3, 40)),
        n_items=draw(st.integers(3, 40)),
        n_ratings=draw(st.integers(1, 70)),
        batch=draw(st.sampled_from([1, 2, 7, 64, 100])),
        epochs=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 99)),
    )
    name = draw(st.sampled_from(cases.OPTIMIZERS))
    return models[kind], name, problem


@settings(max_examples=60, deadline=None)  # a first example compiles
@given(runs())
def test_any_sizes_repeats_and_schedules(case):
    model, name, problem = case
    opt = cases.optimizer(name, model)
    expected = cases.run(plain, model, opt, problem)
    got = cases.run(numba_program, model, opt, problem)
    assert max(cases.distances(got, expected).values()) < cases.TOLERANCE


@pytest.mark.parametrize("name", [*cases.MODELS, "hybrid-nets"])
def test_predictions_equal_the_reference(name):
    model, problem = cases.ALL_MODELS[name], cases.Problem()
    user, item, _ = problem.ratings()
    programs = [m.compile(model, SGD(0.1), problem.weights(model), 0, "float64") for m in (plain, numba_program)]
    for head in (None, *model.heads):
        expected, got = (cases.predict(program, user, item, head or None) for program in programs)
        assert np.ptp(expected) > 0.1
        assert cases.distance(got, expected) < cases.TOLERANCE


def test_a_unit_that_is_exactly_0_has_slope_0():
    """As in `ops.relu_backward`."""
    model, problem = Net(5, hidden=(6,), dropout=0.0), cases.Problem(epochs=1)
    weights = problem.weights(model)
    weights["hidden.0.weight"][:, :3] = 0.0
    weights["hidden.0.bias"][:3] = 0.0
    user, item, rating = problem.ratings()
    for module in (plain, numba_program):
        program = module.compile(model, SGD(0.1), weights, 0, "float64")
        cases.train(program, user, item, rating, problem.orders()[0], problem.batch, 0.1)
        hidden = program.weights()["hidden.0.bias"]
        np.testing.assert_array_equal(hidden[:3], 0.0)
        assert (hidden[3:] != weights["hidden.0.bias"][3:]).all()


def test_no_ratings_are_no_step_and_no_failure():
    model, problem = DotBias(5), cases.Problem()
    weights, nothing = problem.weights(model), np.zeros(0, np.int32)
    for module in (plain, numba_program):
        program = module.compile(model, Adam(0.1, weight_decay=0.1), weights, 0, "float64")
        progress = cases.train(program, *problem.ratings(), nothing, 8, 0.1)
        assert progress.failed_step == -1
        np.testing.assert_array_equal(progress.loss, [0.0])
        assert program.t == 0
        for name, value in program.weights().items():
            np.testing.assert_array_equal(value, weights[name])


# --- losses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["squared_error", "logistic"])
@pytest.mark.parametrize("reach", [None, (0.5, 5.0)], ids=["plain", "range"])
def test_a_loss_and_its_slope_are_those_of_the_formulas(name, reach):
    def value(s: float, r: float) -> float:
        y = s if reach is None else reach[0] + (reach[1] - reach[0]) / (1 + np.exp(-s))
        return float((y - r) ** 2 if name == "squared_error" else np.logaddexp(0, y) - r * y)

    low, high = reach or (0.0, 1.0)
    for s in (-20.0, -1.5, 0.0, 0.3, 7.0):
        for r in (0.0, 0.7, 1.0):
            share = 0.25 * loss.FACTORS[getattr(loss, name)]
            got, d_s = getattr(loss, name)(s, r, share, reach is not None, low, high, 1.0)
            assert got == pytest.approx(value(s, r), rel=1e-12, abs=1e-15)
            slope = (value(s + 1e-5, r) - value(s - 1e-5, r)) / 2e-5
            assert d_s == pytest.approx(0.25 * slope, rel=1e-6, abs=1e-9)


def test_the_logistic_loss_overflows_nowhere():
    one = np.float32(1)
    for s in (-1e4, -200.0, 200.0, 1e4):
        for r in (0.0, 1.0):
            value, d_s = loss.logistic(np.float32(s), np.float32(r), one, False, one, one, one)
            assert value == pytest.approx(abs(s) * ((s > 0) != r), abs=1e-30)
            assert d_s == pytest.approx((s > 0) - r, abs=1e-30)
    assert np.isnan(loss.logistic(np.nan, 1.0, 1.0, False, 0.0, 1.0, 1.0)).all()
    assert not np.isfinite(loss.logistic(np.inf, 1.0, 1.0, False, 0.0, 1.0, 1.0)[0])  # divergence is seen


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_stay_in_the_dtype_of_the_scores(dtype):
    real = np.dtype(dtype).type
    for name in ("squared_error", "logistic"):
        compiled = numba.njit(getattr(loss, name).py_func)
        compiled(*(real(x) for x in (0.5, 1.0, 0.25)), True, *(real(x) for x in (0.5, 5.0, 1.0)))
        assert {str(kind) for kind in compiled.nopython_signatures[0].return_type} == {dtype}


# --- tiles --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return load_movielens()


def test_tiles_are_kept_as_long_as_their_ratings(ratings):
    few = ratings.take(np.arange(3000))
    tiles = Tiles.of(few)
    assert Tiles.of(few) is tiles
    assert Tiles.of(ratings.take(np.arange(3000))) is not tiles  # equal, and another table
    for counts, index in zip(tiles.counts, (few.user, few.item), strict=True):
        np.testing.assert_array_equal(counts, np.bincount(index, minlength=len(counts)))
    gone = weakref.ref(tiles)
    del few, tiles
    gc.collect()
    assert gone() is None


def test_tiles_do_not_depend_on_the_order_of_users(ratings):
    """A table that is in the order of its users is laid out without sorting, to the same tiles."""
    shuffled = ratings.take(np.random.default_rng(0).permutation(len(ratings)))
    ordered = shuffled.take(np.argsort(shuffled.user, kind="stable"))
    a, b = Tiles(shuffled), Tiles(ordered)
    for name in ("user", "item", "rating", "start"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_tiles_hold_every_rating_once_and_share_no_rows(ratings):
    tiles = Tiles(ratings)
    assert tiles.n_blocks == 8
    order = np.lexsort((tiles.item, tiles.user))
    expected = np.lexsort((ratings.item, ratings.user))
    for name in ("user", "item", "rating"):
        np.testing.assert_array_equal(getattr(tiles, name)[order], getattr(ratings, name)[expected])
    for r in range(tiles.n_blocks):
        for rows in (tiles.user, tiles.item):
            parts = [set(rows[tiles.start[r, b] : tiles.start[r, b + 1]].tolist()) for b in range(tiles.n_blocks)]
            assert sum(map(len, parts)) == len(set.union(*parts))
    sizes = np.diff(tiles.start, axis=1)
    assert sizes.max() < 2.5 * sizes.mean()  # blocks are cut by count: threads get about as much to do


def test_the_number_of_blocks_depends_on_the_data_alone():
    assert count_blocks(10, 5, 5) == 1
    assert count_blocks(100_004, 671, 9_066) == 8
    assert count_blocks(10_000_000, 71_567, 10_681) == 21
    assert count_blocks(10**9, 10**7, 10**6) == 255


@pytest.mark.parametrize(
    ("counts", "n_blocks", "expected"),
    [
        ([1, 1, 1, 1, 1, 1], 3, [0, 0, 1, 1, 2, 2]),
        ([5, 1, 1, 1, 1, 1], 2, [0, 1, 1, 1, 1, 1]),
        ([3, 3, 3, 3], 3, [0, 1, 1, 2]),  # a row is where its middle is
        ([1, 0], 4, [2, 3]),
        ([0, 0], 2, [0, 0]),
    ],
)
def test_blocks_hold_about_as_many_ratings(counts, n_blocks, expected):
    assert _cut(np.array(counts), n_blocks).tolist() == expected


def test_the_order_of_rounds_is_shuffled_by_seed_and_epoch(ratings):
    tiles = Tiles(ratings)
    rounds = [tuple(tiles.rounds(seed, epoch)) for seed in range(2) for epoch in range(2)]
    assert len(set(rounds)) == 4
    assert rounds[1] == tuple(rng.permutation(0, 1, tiles.n_blocks))
    order = tiles.order(np.array(rounds[0]))
    assert sorted(order.tolist()) == list(range(len(ratings)))
    none = tiles.order(np.zeros(0, np.int64))
    assert none.dtype == np.int32
    assert len(none) == 0


TILED = {
    "per_rating": SGD(0.01, weight_decay={"user_factors": 0.02, "item_bias": 0.05}, decay="per_rating"),
    "none": SGD(0.01),
    "sparse l2": SGD(0.01, weight_decay=0.02, sparse=True),
    "momentum": SGD(0.001, momentum=0.5),  # no kernel of its own: one after another, in the same order
}


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize(
    # 9 factors: one whole vector of float64 and a tail; fewer are all tail.
    "model",
    [DotBias(9, rating_range=(0.5, 5.0), global_mean=0.2), Dot(3)],
    ids=["bias", "dot"],
)
def test_tiles_equal_the_reference(name, model, ratings):
    opt = TILED[name]
    if isinstance(opt.weight_decay, dict) and not isinstance(model, DotBias):
        opt = SGD(0.01, weight_decay={"user_factors": 0.02}, decay="per_rating")
    few = ratings.take(np.arange(0, len(ratings), 20))
    outcomes = []
    for place in ("numpy", "numba"):
        trainer = Trainer(model, opt, backend=place, dtype="float64", batch_size=1, seed=2)
        trainer.fit(few, epochs=2, shuffle="tiles", schedule=Cosine(epochs=3))
        errors = trainer.history.frame().train_mse.to_numpy()
        outcomes.append(trainer.weights | {"step": trainer.program.state()["step"], "mse": errors})
    assert max(cases.distance(outcomes[1][key], outcomes[0][key]) for key in outcomes[0]) < cases.TOLERANCE


SMALL_TILED = TILED | {
    # Every row moves at every step: no tile can do that alone.
    "l2": SGD(0.01, weight_decay=0.02),
    "decoupled": SGD(0.01, weight_decay=0.02, decay="decoupled", sparse=True),
}


@pytest.mark.parametrize("name", SMALL_TILED)
@pytest.mark.parametrize(
    "model",
    # 8 factors: whole vectors, with the biases alone behind them.
    [DotBias(9, rating_range=(0.5, 5.0), global_mean=0.2), DotBias(8), Dot(3)],
    ids=["bias", "bias-8", "dot"],
)
def test_few_ratings_in_tiles_equal_the_reference(name, model):
    """Small enough to be tried again and again, with mistakes in the kernels: campaigns/mutation.py."""
    opt, problem = SMALL_TILED[name], cases.Problem()
    if isinstance(opt.weight_decay, dict) and not isinstance(model, DotBias):
        opt = SGD(0.01, weight_decay={"user_factors": 0.02}, decay="per_rating")
    user, item, rating = problem.ratings()
    frame = pd.DataFrame({"userId": user, "movieId": item, "rating": rating})
    tiles = Tiles(Ratings.from_frame(frame.drop_duplicates(["userId", "movieId"])), n_blocks=3)
    weights = problem.weights(model)
    outcomes = []
    for module in (plain, numba_program):
        program = module.compile(model, opt, weights, 0, "float64")
        progress = cases.train_tiles(program, tiles, np.array([2, 0, 1]), np.array([0.05, 0.02, 0.1]))
        assert progress.failed_step == -1
        outcomes.append(program.weights() | {"step": program.state()["step"], "error": progress.loss})
    assert max(cases.distance(outcomes[1][key], outcomes[0][key]) for key in outcomes[0]) < cases.TOLERANCE


class OneSlowTile:
    """Workers that take turns, and a tile that ends only when none of the others can go on: what it holds up is seen.

    Each tile has one rating here, so a pair of a user and an item is its name.
    """

    def __init__(self, slow: tuple[int, int], order: list[list[tuple[int, int]]], workers: int) -> None:
        self.slow, self.order, self.workers = slow, order, workers
        self.turn = threading.Condition()
        self.controls: list[Any] = []
        self.waiting: dict[int, int] = {}  # worker -> how many changes of the counters it has seen
        self.changes = self.ended = 0
        self.begun: list[tuple[int, int]] = []
        self.done: set[tuple[int, int]] = set()
        self.meanwhile: set[tuple[int, int]] = set()

    def run(self, kernel: Any, *arguments: Any) -> None:
        with self.turn:
            try:
                kernel(*arguments)
            finally:
                self.ended += 1
                self.turn.notify_all()

    def at_rest(self) -> int:
        return self.ended + sum(seen == self.changes for seen in self.waiting.values())

    def add(self, counters: np.ndarray, index: int, amount: int) -> int:
        before = int(counters[index])
        counters[index] += amount
        self.changes += amount
        return before

    def exchange(self, control: Any) -> Any:
        self.controls.append(control)
        return "as it was"

    def let_others(self) -> None:
        me, seen = threading.get_ident(), self.changes
        self.waiting[me] = seen
        self.turn.notify_all()
        self.turn.wait_for(lambda: self.changes > seen or self.at_rest() == self.workers, timeout=60)
        del self.waiting[me]
        assert self.changes > seen, "the workers wait for one another"

    def train(self, user: np.ndarray, item: np.ndarray, start: int, stop: int) -> float:
        ((u, i),) = tile = list(zip(user[start:stop].tolist(), item[start:stop].tolist(), strict=True))
        assert (u, i) not in self.begun
        (r,) = [r for r, tiles in enumerate(self.order) if (u, i) in tiles]
        needed = {(v, j) for tiles in self.order[:r] for v, j in tiles if v == u or j == i}
        assert needed <= self.done, f"{tile} began before {needed - self.done} had ended"
        self.begun.append((u, i))
        if (u, i) == self.slow:
            self.turn.notify_all()
            assert self.turn.wait_for(lambda: self.at_rest() == self.workers - 1, timeout=60)
            self.meanwhile = self.done.copy()
        self.done.add((u, i))
        return 1.0


def test_a_tile_waits_for_those_that_share_its_rows_and_for_no_others(monkeypatch):
    """The kernel's own lines, interpreted, with each tile in turn as the slow one: no luck with threads is needed."""
    n, rounds = 4, [2, 0, 3]
    tiles = Tiles(Ratings(*np.divmod(np.arange(n * n), n), np.arange(n * n) % 5), n_blocks=n)
    order = [[(b, (b + r) % n) for b in range(n)] for r in rounds]
    names = list(inspect.signature(interpreted(numba_tiles.train_tile(loss.squared_error, False))).parameters)
    monkeypatch.setattr(numba_program, "_WORTH_A_THREAD", 1)
    model = Dot(2)
    for r, slow in [(r, tile) for r, tiles_of_round in enumerate(order) for tile in tiles_of_round]:
        workers = OneSlowTile(slow, order, n)

        def train(*arguments: Any, workers: OneSlowTile = workers) -> float:
            named = dict(zip(names, arguments, strict=True))
            return workers.train(*(named[name] for name in ("user", "item", "start", "stop")))

        def kernel(*sizes: Any, workers: OneSlowTile = workers) -> Any:
            return functools.partial(workers.run, interpreted(numba_tiles.tile_kernel.__wrapped__(*sizes)))

        monkeypatch.setattr(numba_tiles, "train_tile", lambda *_, train=train: train)
        monkeypatch.setattr(numba_tiles, "atomic_add", workers.add)
        monkeypatch.setattr(numba_tiles, "yield_thread", workers.let_others)
        monkeypatch.setattr(numba_tiles, "exchange_mxcsr", workers.exchange)
        monkeypatch.setattr(numba_program, "tile_kernel", kernel)
        weights = model.init_weights(n, n, 0)
        program = numba_program.compile(model, SGD(0.01), weights, 0, "float64", n_threads=n)
        progress = cases.train_tiles(program, tiles, np.array(rounds), np.full(len(rounds), 0.01))
        assert progress.loss.tolist() == [n * len(rounds)]
        assert workers.controls.count("as it was") == n  # on leaving, each gives back what it found
        assert workers.done == {tile for tiles_of_round in order for tile in tiles_of_round}
        # Those before it, beside it, and those of the next round that share no rows with it.
        free = {tile for earlier in order[: r + 1] for tile in earlier} - {slow}
        free |= {tile for tile in [*order, []][r + 1] if tile[0] != slow[0] and tile[1] != slow[1]}
        assert workers.meanwhile >= free


def interpreted(function: Any) -> Any:
    """A kernel as it was written."""
    return getattr(function, "py_func", function)


def test_same_bits_at_any_number_of_threads(ratings, monkeypatch):
    monkeypatch.setattr(numba_program, "_WORTH_A_THREAD", 1)
    few = ratings.take(np.arange(0, len(ratings), 4))
    for model, opt, batch_size, shuffle in [
        (DotBias(5), SGD(0.01, weight_decay=0.02, decay="per_rating"), 1, "tiles"),
        (DotBias(5), Adam(0.01, weight_decay=1e-3), 64, True),
        (Net(5, hidden=(6,), dropout=0.1), Adam(0.01), 64, True),
    ]:
        weights = []
        for n_threads in (1, 2, 8):
            trainer = Trainer(model, opt, backend="numba", batch_size=batch_size, n_threads=n_threads)
            trainer.fit(few, epochs=2, shuffle=shuffle)
            weights.append(trainer.weights)
        for name, value in weights[0].items():
            for other in weights[1:]:
                np.testing.assert_array_equal(other[name], value)


def test_no_more_threads_than_asked_for():
    seen = []
    together = threading.Barrier(3, timeout=60)  # breaks unless three work at once

    def work():
        seen.append(threading.current_thread())
        together.wait()

    threads.share(work, 3, lambda: seen.append("before"))
    assert len(seen) == 4
    assert len(set(seen)) == 4
    assert threading.current_thread() in seen
    assert seen.index("before") < seen.index(threading.current_thread())
    seen.clear()
    threads.share(lambda: seen.append(threading.current_thread()), 1)
    assert seen == [threading.current_thread()]


def test_tiles_need_single_ratings(ratings):
    with pytest.raises(ValueError, match="batch_size is 64; it must be 1"):
        Trainer(DotBias(2), SGD(0.01)).fit(ratings, shuffle="tiles")
    with pytest.raises(ValueError, match="shuffle is 'blocks'"):
        Trainer(DotBias(2), SGD(0.01)).fit(ratings, shuffle="blocks")


def test_divergence_in_tiles_keeps_the_last_good_weights(ratings):
    from minicf import DivergenceError

    few = ratings.take(np.arange(0, len(ratings), 20))
    trainer = Trainer(DotBias(5), SGD(0.01), backend="numba", batch_size=1)
    trainer.fit(few, shuffle="tiles")
    good = trainer.weights
    trainer.lr = 100.0
    with pytest.raises(DivergenceError) as caught:
        trainer.fit(few, shuffle="tiles")
    assert caught.value.epoch == 2
    assert caught.value.lr == 100.0
    for name, value in trainer.weights.items():
        np.testing.assert_array_equal(value, good[name])


@pytest.mark.parametrize("model", [Dot(5), DotBias(5), DotBias(40), Net(5, hidden=(4,))])
@pytest.mark.parametrize("decay", ["l2", "per_rating", "decoupled"])
def test_the_penalty_is_the_references(model, decay):
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=shape) for name, shape in model.shapes(50, 70).items()}
    counts = random.integers(0, 9, 50), random.integers(0, 9, 70)
    decays = {name: 0.1 * (1 + i) for i, name in enumerate(weights) if i != 1}  # one of them has none
    for weight_decay in (0.3, decays, {}):
        optimizer = SGD(0.1, weight_decay=weight_decay, decay=decay)
        exact = cases.penalty(plain.compile(model, optimizer, weights, dtype="float64"), *counts)
        assert (exact > 0) == (decay != "decoupled" and weight_decay != {})
        for dtype, tolerance in (("float64", 1e-13), ("float32", 1e-6)):  # some roundings of either kind
            penalty = cases.penalty(numba_program.compile(model, optimizer, weights, dtype=dtype), *counts)
            assert penalty == pytest.approx(exact, rel=tolerance)


# --- the rest -----------------------------------------------------------------------------------------------------


def test_auto_takes_numba(caplog):
    with caplog.at_level(logging.INFO, "minicf"):
        module = get_backend("auto")
    assert module.name in ("numba", "cupy")
    assert f"backend {module.name}" in caplog.text


def test_a_model_without_a_kernel_runs_composed_and_says_so_once(caplog, monkeypatch):
    monkeypatch.setattr(backend, "_logged", set())
    model = Hybrid({"a": (Dot(3), 1.0), "b": (DotBias(3), 1.0)})
    with caplog.at_level(logging.INFO, "minicf"):
        programs = [numba_program.compile(model, SGD(0.1), model.init_weights(3, 4), 0, "float64") for _ in range(2)]
    assert all(type(program) is base.Program for program in programs)
    assert caplog.text.count("no compiled kernel") == 1


@pytest.mark.parametrize(
    ("opt", "batch_size", "shuffle"),
    [(Adam(0.01, weight_decay=0.1), 64, True), (SGD(0.01), 1, True), (SGD(0.01), 1, "tiles")],
    ids=["batches", "per rating", "tiles"],
)
def test_denormals_are_flushed_in_kernels_and_nowhere_else(opt, batch_size, shuffle, ratings):
    few = ratings.take(np.arange(2000))
    Trainer(DotBias(3), opt, backend="numba", batch_size=batch_size).fit(few, shuffle=shuffle)
    small = np.array([1e-40], np.float32)
    assert (small * np.float32(1.0))[0] != 0.0


def test_memory_of_a_batch_is_bounded_by_the_tables():
    model = DotBias(4)
    program = numba_program.compile(model, Adam(0.01), model.init_weights(10, 20), 0, "float32")
    n = 5000
    user, item = np.arange(n, dtype=np.int32) % 10, np.arange(n, dtype=np.int32) % 20
    cases.train(program, user, item, np.ones(n, np.float32), np.arange(n, dtype=np.int32), n, 0.01)
    users, items, _ = program._buffers[1]
    assert users.arrays[5].shape[0] == 10  # gradients are held for rows that a batch names, never more than there are
    assert items.arrays[6].shape[0] == 20


def test_compiling_is_said(tmp_path):
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from minicf import *\n"
        "train, _ = load_movielens().split()\n"
        "t = Trainer(DotBias(2), SGD(0.01), backend='numba'); t.fit(train.take(range(100)))\n"
    )
    for said in (True, False):  # the second process takes it from the cache
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert ("compiled a kernel" in done.stdout) is said
