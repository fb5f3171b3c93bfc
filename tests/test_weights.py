"""Weights of ratings: in tables, in the loss of every backend, and in the recommender."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicf import SGD, Adam, Logistic, Ratings, Recommender, Trainer
from minicf.backends import backend
from minicf.backends import numpy as plain
from minicf.backends.numba import program as compiled
from minicf.data import Batch
from minicf.solvers import Gradient
from minicf.tiles import Tiles
from tests import cases
from tests.cuda import emulator, standin

# --- tables -----------------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame({
    "userId": [7, 7, 8, 9, 7], "movieId": [1, 2, 1, 2, 1], "rating": [1.0, 2.0, 3.0, 4.0, 5.0],
    "trust": [1.0, 0.5, 2.0, 0.0, 3.0], "when": [1, 2, 3, 4, 5],
})  # fmt: skip
UNIQUE = FRAME.iloc[1:]


def weighted(frame=UNIQUE, **arguments) -> Ratings:
    return Ratings.from_frame(frame, weight="trust", timestamp="when", **arguments)


def test_tables_keep_weights():
    ratings = weighted()
    assert ratings.weight is not None
    assert ratings.weight.dtype == np.float32
    assert not ratings.weight.flags.writeable
    assert ratings.weight.tolist() == [0.5, 2.0, 0.0, 3.0]
    assert ratings.take([3, 0]).weight.tolist() == [3.0, 0.5]
    for by in ("random", "time", "user", "users"):
        parts = ratings.split(0.5, by=by)
        assert sorted(np.concatenate([part.weight for part in parts])) == [0.0, 0.5, 2.0, 3.0]
        for part in parts:
            assert (part.weight == 0.0).tolist() == (part.rating == 4.0).tolist()
    assert ratings.frame().weight.tolist() == [0.5, 2.0, 0.0, 3.0]
    assert Ratings.from_frame(ratings.frame(), weight="weight").weight.tolist() == ratings.weight.tolist()
    assert Ratings([0, 1], [0, 1], [1.0, 2.0], weight=[1, 2]).weight.tolist() == [1.0, 2.0]


def test_tables_without_weights_are_as_before():
    ratings = Ratings.from_frame(UNIQUE)
    assert ratings.weight is None
    assert ratings.take([0]).weight is None
    assert "weight" not in ratings.frame()
    assert Batch.of(ratings).weight is None
    assert Tiles.of(ratings).weight is None


def test_duplicates_and_weights():
    last = weighted(FRAME, duplicates="last")
    assert (last.rating.tolist(), last.weight.tolist()) == ([2.0, 3.0, 4.0, 5.0], [0.5, 2.0, 0.0, 3.0])
    mean = weighted(FRAME, duplicates="mean")
    # (1 x 1 + 3 x 5) / 4, of weight 1 + 3.
    assert (mean.rating.tolist(), mean.weight.tolist()) == ([2.0, 3.0, 4.0, 4.0], [0.5, 2.0, 0.0, 4.0])
    assert mean.timestamp.tolist() == [2, 3, 4, 5]
    nothing = weighted(FRAME.assign(trust=0.0), duplicates="mean")
    assert (nothing.rating.tolist(), nothing.weight.tolist()) == ([2.0, 3.0, 4.0, 3.0], [0.0] * 4)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, "1", None, 1e39, True, 1j])
def test_refused_weights(bad):
    column = pd.Series([1.0, bad, 1.0, 1.0], dtype=object)
    with pytest.raises(ValueError, match=r"trust.*row 1"):
        weighted(UNIQUE.assign(trust=column.to_numpy()))
    with pytest.raises(ValueError, match=r"weight.*row 1"):
        Ratings([0, 1], [0, 1], [1.0, 2.0], weight=np.array([1.0, bad], object))


def test_refused_columns_of_weights():
    with pytest.raises(ValueError, match="no column 'trist'"):
        Ratings.from_frame(UNIQUE, weight="trist")
    with pytest.raises(ValueError, match="weight has 3 values; it must have 2"):
        Ratings([0, 1], [0, 1], [1.0, 2.0], weight=[1, 2, 3])


# --- training ---------------------------------------------------------------------------------------------------------

KINDS = [
    f"{kind}-{decay}"
    for kind in ("sgd", "momentum", "nesterov", "adam")
    for decay in ("none-dense", "l2-dense", "decoupled-dense", "per_rating-sparse")
]


def problem(batch: int) -> cases.Problem:
    return cases.Problem(weighted=True, batch=batch, epochs=6)


def optimizer(name: str, model: str, batch: int):
    found = cases.optimizer(name, cases.MODELS[model])
    return replace(found, lr=found.lr / 10) if batch == 1 else found  # one by one it would diverge


@pytest.mark.parametrize(
    ("model", "name", "batch"), cases.share([*itertools.product(cases.MODELS, KINDS, (1, 8, 64))], 3)
)
def test_kernels_equal_the_reference(model, name, batch):
    opt, data = optimizer(name, model, batch), problem(batch)
    result, expected = (cases.run(module, cases.MODELS[model], opt, data) for module in (compiled, plain))
    assert max(cases.distances(result, expected).values()) < cases.TOLERANCE
    unweighted = cases.run(plain, cases.MODELS[model], opt, replace(data, weighted=False))
    assert max(cases.distances(expected, unweighted).values()) > 1e-3, "weights change nothing"


def test_kernels_equal_the_reference_with_another_loss():
    data, model = replace(problem(8), epochs=3), cases.MODELS["hybrid"]
    solver = Gradient(Adam(0.01), Logistic())
    result, expected = (cases.run(module, model, solver, data) for module in (compiled, plain))
    assert max(cases.distances(result, expected).values()) < cases.TOLERANCE


def test_no_weighted_run_leaves_the_kernels(monkeypatch):
    def composed(*_):
        raise AssertionError("composed of NumPy operations")

    monkeypatch.setattr(Gradient, "run", composed)
    cases.run(compiled, cases.MODELS["bias"], SGD(0.01), replace(problem(8), epochs=1))


class Ones(cases.Problem):
    """Weights of 1 that kernels are told of."""

    def example_weights(self):
        return np.ones(self.n_ratings, np.float32)


ONES = [("sgd-none-dense", 1), ("momentum-l2-dense", 8), ("adam-l2-dense", 1), ("adam-l2-dense", 8)]


@pytest.mark.parametrize(
    ("model", "name", "batch", "dtype"),
    [(model, *one, "float64") for model in cases.MODELS for one in ONES]
    + [(model, *one, "float32") for model in ("bias", "hybrid") for one in ONES],
)
def test_weights_of_one_are_none_to_the_last_bit(model, name, batch, dtype):
    opt, kwargs = optimizer(name, model, batch), {"batch": batch, "epochs": 3}
    a = cases.run(compiled, cases.MODELS[model], opt, cases.Problem(**kwargs), dtype)
    b = cases.run(compiled, cases.MODELS[model], opt, Ones(**kwargs), dtype)
    for name, value in a.weights.items():
        np.testing.assert_array_equal(b.weights[name], value)
    for name, value in a.state.items():
        np.testing.assert_array_equal(b.state[name], value)


def table(n=3000, seed=0) -> Ratings:
    random = np.random.RandomState(seed)
    pairs = random.choice(60 * 80, n, replace=False)
    rating = random.randint(1, 11, n) / 2
    weight = random.uniform(0, 2, n) * (random.uniform(size=n) > 0.1)
    return Ratings(pairs // 80, pairs % 80, rating, 60, 80, weight=weight)


def with_weight(ratings: Ratings, weight) -> Ratings:
    return Ratings(ratings.user, ratings.item, ratings.rating, ratings.users, ratings.items, weight=weight)


@pytest.mark.parametrize("opt", [SGD(0.01), SGD(0.01, weight_decay=0.02, decay="per_rating"), Adam(0.002)], ids=repr)
@pytest.mark.parametrize("model", ["dot", "bias"])
def test_tiles_equal_the_reference(model, opt):
    outcomes = []
    for place in ("numpy", "numba"):
        trainer = Trainer(cases.MODELS[model], opt, backend=place, dtype="float64", batch_size=1, seed=2)
        trainer.fit(table(), epochs=2, shuffle="tiles")
        outcomes.append(trainer)
    a, b = outcomes
    for name, value in a.weights.items():
        assert cases.distance(b.weights[name], value) < cases.TOLERANCE
    assert b.history[-1]["train_mse"] == pytest.approx(a.history[-1]["train_mse"], rel=1e-12)


@pytest.mark.parametrize("shuffle", ["tiles", True])
def test_a_trainer_with_weights_of_one_equals_one_without(shuffle):
    ratings = table()
    trainers = []
    for each in (with_weight(ratings, None), with_weight(ratings, np.ones(len(ratings)))):
        trainers.append(Trainer(cases.MODELS["bias"], SGD(0.01), batch_size=1, dtype="float64"))
        trainers[-1].fit(each, each, epochs=2, shuffle=shuffle)
    for name, value in trainers[0].weights.items():
        np.testing.assert_array_equal(trainers[1].weights[name], value)
    for name in ("train_mse", "valid_mse"):
        assert trainers[0].history[-1][name] == trainers[1].history[-1][name]


@pytest.mark.parametrize("place", cases.BACKENDS)
def test_a_weight_of_zero_has_no_gradient(place):
    """Without momentum and decay, rows that only ratings of weight 0 read do not move."""
    ratings = table()
    weight = np.where(ratings.user == 5, 0.0, 1.5)
    trainer = Trainer(cases.MODELS["bias"], SGD(0.01), backend=place, batch_size=8)
    before = trainer._prepare(ratings).weights()
    trainer.fit(with_weight(ratings, weight), epochs=1)
    np.testing.assert_array_equal(trainer.weights["user_factors"][5], before["user_factors"][5])
    assert not np.array_equal(trainer.weights["user_factors"][6], before["user_factors"][6])


@pytest.mark.parametrize("place", cases.BACKENDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), model=st.sampled_from(["dot", "bias"]), opt=st.sampled_from(["sgd", "adam"]))
def test_whole_weights_are_repeated_rows(place, seed, model, opt):
    """Full batch: sum_b k_b value_b / B is the mean over sum k rows times sum k / B, which is a factor of the rate."""
    random = np.random.RandomState(seed)
    n = 12
    user, item, rating = random.randint(0, 4, n), random.randint(0, 5, n), random.randint(1, 6, n).astype(np.float32)
    times = random.randint(0, 4, n)
    times[0] = max(times[0], 1)
    program = {"sgd": SGD(0.01), "adam": Adam(0.01, eps=1e-30)}[opt]  # Adam does not see a factor of the gradient
    outcomes = []
    for rows, weight in ((np.arange(n), times), (np.repeat(np.arange(n), times), None)):
        rate = 0.01 * times.sum() / n if weight is None and opt == "sgd" else 0.01
        data = Batch(
            user[rows].astype(np.int32), item[rows].astype(np.int32), rating[rows],
            None if weight is None else weight.astype(np.float32),
        )  # fmt: skip
        trained = cases.backend(place).compile(
            cases.MODELS[model], Gradient(program, batch_size=len(rows)),
            cases.Problem(n_users=4, n_items=5).weights(cases.MODELS[model]), 0, "float64",
        )  # fmt: skip
        part = next(iter(trained.solver.parts(data, 0, 0, trained)))
        for _ in range(3):
            trained.run(data, part._replace(rates=rate))
        outcomes.append(trained.weights())
    for name, value in outcomes[0].items():
        # Adam divides by gradients, which may be small differences of large numbers.
        np.testing.assert_allclose(outcomes[1][name], value, rtol=0, atol=1e-12 if opt == "sgd" else 1e-7)


@pytest.mark.parametrize("place", cases.BACKENDS)
@pytest.mark.parametrize("name", ["momentum-l2-dense", "adam-per_rating-dense", "adam-decoupled-sparse"])
@pytest.mark.parametrize("model", ["bias", "hybrid"])
def test_parity_with_pytorch(place, model, name):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from tests import torch_twins

    data, m = cases.Problem(weighted=True), cases.MODELS[model]
    opt = cases.optimizer(name, m)
    result, theirs = cases.run(cases.backend(place), m, opt, data), torch_twins.run(m, opt, data)
    assert max(cases.distances(result, theirs).values()) < cases.TOLERANCE


@pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))
@pytest.mark.parametrize("model", ["bias", "hybrid"])
def test_a_gpu_composes_them_and_says_so_once(model, caplog, monkeypatch):
    monkeypatch.setattr(backend, "_logged", set())
    m, data = cases.MODELS[model], replace(problem(8), epochs=2)
    opt = cases.optimizer("adam-l2-dense", m)
    with standin.emulated("resident") as module, caplog.at_level(logging.INFO, "minicf"):
        result = cases.run(module, m, opt, data)
    assert max(cases.distances(result, cases.run(plain, m, opt, data)).values()) < cases.TOLERANCE
    assert sum("weighted examples" in record.message for record in caplog.records) == 1


@pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))
def test_a_gpu_composes_tiles_of_them():
    ratings, m = table(200), cases.MODELS["bias"]
    tiles, solver = Tiles(ratings, 2), Gradient(SGD(0.01), batch_size=1, shuffle="tiles")
    weights = m.init_weights(60, 80, 0)
    outcomes = []
    with standin.emulated("resident") as module:
        for place in (module, plain):
            program = place.compile(m, solver, weights, 0, "float64")
            cases.train_tiles(program, tiles, np.arange(2), np.array([0.01, 0.02]))
            outcomes.append(program.weights())
    for name, value in outcomes[1].items():
        assert cases.distance(outcomes[0][name], value) < cases.TOLERANCE
    unweighted = plain.compile(m, solver, weights, 0, "float64")
    cases.train_tiles(unweighted, Tiles(with_weight(ratings, None), 2), np.arange(2), np.array([0.01, 0.02]))
    assert cases.distance(outcomes[0]["user_factors"], unweighted.weights()["user_factors"]) > 1e-4


# --- the recommender --------------------------------------------------------------------------------------------------


def frame(seed=0) -> pd.DataFrame:
    ratings = table(1500, seed)
    return ratings.frame().drop(columns="weight").astype({"rating": "float64"})


def quick(**arguments) -> Recommender:
    return Recommender(**{"n_factors": 3, "epochs": 4, **arguments})


@pytest.mark.parametrize("backend", cases.BACKENDS)
def test_fit_takes_weights(backend):
    data = frame()
    weight = np.random.RandomState(1).uniform(0.5, 1.5, len(data))
    one = quick(backend=backend).fit(data, sample_weight=weight)
    other = quick(backend=backend).fit(Ratings.from_frame(data.assign(w=weight), weight="w"))
    third = quick(backend=backend).fit(data[["userId", "movieId"]].to_numpy(), data.rating, sample_weight=list(weight))
    plain_one = quick(backend=backend).fit(data)
    for name, value in one.weights_.items():
        np.testing.assert_array_equal(other.weights_[name], value)
        np.testing.assert_array_equal(third.weights_[name], value)
        assert not np.array_equal(plain_one.weights_[name], value)
    mean = np.average(data.rating, weights=weight.astype(np.float32))
    assert one.mean_ == pytest.approx(mean, rel=1e-12)
    deviation = np.sqrt(np.average((data.rating - mean) ** 2, weights=weight.astype(np.float32)))
    assert one.std_ == pytest.approx(deviation, rel=1e-12)


def test_weights_of_one_are_none():
    data = frame()
    a, b = quick().fit(data), quick().fit(data, sample_weight=np.ones(len(data)))
    for name, value in a.weights_.items():
        np.testing.assert_array_equal(b.weights_[name], value)
    assert (a.mean_, a.std_) == pytest.approx((b.mean_, b.std_), rel=1e-15)


def test_a_row_of_weight_zero_does_not_matter():
    data = frame()
    stray = pd.DataFrame({"userId": [999, 1], "movieId": [5, 998], "rating": [1e6, -1e6]})
    both = pd.concat([data, stray, data.iloc[:3]])  # the last are repeated pairs
    weight = np.r_[np.full(len(data), 0.7), np.zeros(5)]
    a, b = quick().fit(data, sample_weight=weight[: len(data)]), quick().fit(both, sample_weight=weight)
    third = quick().fit(Ratings.from_frame(both[:-3].assign(w=weight[:-3]), weight="w"))
    for other in (b, third):
        assert (a.mean_, a.std_, a.rating_range_, a.n_ratings_) == (
            other.mean_, other.std_, other.rating_range_, other.n_ratings_,
        )  # fmt: skip
        for name, value in a.weights_.items():
            np.testing.assert_array_equal(other.weights_[name], value)
        assert 999 not in set(other.users_.ids)


def test_partial_fit_takes_weights():
    data, later = frame(), frame(3).iloc[:200]
    weight = np.random.RandomState(1).uniform(0.5, 1.5, len(later))
    plain_one, one = (quick().fit(data).partial_fit(later, sample_weight=w) for w in (None, weight))
    assert not np.array_equal(one.weights_["user_factors"], plain_one.weights_["user_factors"])
    ones = quick().fit(data).partial_fit(later, sample_weight=np.ones(len(later)))
    for name, value in plain_one.weights_.items():
        np.testing.assert_array_equal(ones.weights_[name], value)
    first = quick().partial_fit(data, sample_weight=np.full(len(data), 0.5))
    np.testing.assert_array_equal(
        first.weights_["user_bias"], quick().fit(data, sample_weight=np.full(len(data), 0.5)).weights_["user_bias"]
    )


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros(1500), "sample_weight is zero in all 1,500 rows"),
        (np.full(1500, -1.0), "below 0"),
        (np.full(1500, np.nan), "missing"),
        (np.ones(7), "sample_weight has 7 values; it must have 1,500"),
        (np.ones((1500, 2)), "1-d"),
    ],
)
def test_refused_sample_weights(weight, message):
    recommender = quick()
    with pytest.raises(ValueError, match=message):
        recommender.fit(frame(), sample_weight=weight)
    assert not hasattr(recommender, "weights_")


def test_columns_may_be_called_sample_weight():
    data = frame().rename(columns={"rating": "sample_weight"})
    weight = np.linspace(0.5, 1.5, len(data))
    one = quick(rating="sample_weight").fit(data, sample_weight=weight)
    np.testing.assert_array_equal(
        one.weights_["user_bias"], quick().fit(frame(), sample_weight=weight).weights_["user_bias"]
    )
