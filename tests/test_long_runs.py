"""A small share of `tests.campaigns.long_runs`: memory that stays flat, counters beyond int32, extreme sizes."""

from __future__ import annotations

import decimal
import gc
import tracemalloc
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest

from minicf.backends import get_backend
from minicf.backends import numpy as plain
from minicf.data import Ratings
from minicf.models import DotBias, Net
from minicf.optim import SGD, Adam
from minicf.recommender import Recommender
from minicf.schedules import Cosine
from minicf.train import Trainer
from tests import cases
from tests.campaigns import long_runs
from tests.campaigns.long_runs import BEYOND, EDGES, MODELS, OPTIMIZERS
from tests.cuda import emulator, standin

EMULATED = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_an_epoch_leaves_nothing_behind_but_its_row_of_the_history(backend):
    random = np.random.RandomState(0)
    data = Ratings(random.randint(0, 900, 500), random.randint(0, 900, 500), np.ones(500), 900, 900)
    trainer = Trainer(DotBias(8), Adam(0.001, weight_decay=1e-3), backend=backend)
    one_copy = sum(w.nbytes for w in DotBias(8).init_weights(900, 900).values()) // 2  # in float32
    seen = []

    class Watch:
        def on_epoch_end(self, trainer, row):
            gc.collect()
            seen.append(tracemalloc.get_traced_memory()[0])

    trainer.fit(data, data, epochs=3, schedule=Cosine(23), callbacks=[Watch()])  # compiles, and fills what is kept
    gc.freeze()  # what other tests left is not looked through at each epoch
    tracemalloc.start()
    try:
        seen.clear()
        trainer.fit(data, data, epochs=20, schedule=Cosine(23), callbacks=[Watch()])
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    assert (seen[-1] - seen[4]) / 15 < 4096 < one_copy / 10


def test_memory_of_a_rating():
    """Peaks beside what is there before, in bytes a rating; the record for 30 million is in tests/README.md."""
    n = 200_000
    random = np.random.default_rng(0)
    frame = pd.DataFrame({
        "userId": random.integers(0, 3000, n, np.int32), "movieId": random.integers(0, 2000, n, np.int32),
        "rating": random.integers(1, 11, n, np.int8) / np.float32(2),
    }).drop_duplicates(["userId", "movieId"])  # fmt: skip
    n = len(frame)

    def most(work):
        gc.collect()
        tracemalloc.start()
        try:
            result = work()
            return result, tracemalloc.get_traced_memory()[1] / n
        finally:
            tracemalloc.stop()

    ratings, peak = most(lambda: Ratings.from_frame(frame))
    assert peak < 60
    for batch_size, shuffle in ((1, "tiles"), (4096, True)):
        trainer = Trainer(DotBias(2), SGD(0.01), backend="numba", batch_size=batch_size)
        trainer.fit(ratings.take([0, 1]), shuffle=shuffle)  # compiles
        assert most(lambda t=trainer, s=shuffle: t.fit(ratings, ratings, shuffle=s))[1] < 60


# --- counters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**40, 2**62])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 1 - 1e-10)])
def test_adams_corrections_beyond_int32(t, betas):
    with decimal.localcontext(prec=60):
        exact = [1 - (decimal.Decimal(beta) ** t if beta else 0) for beta in betas]
    rate, root, eps = Adam(0.5, betas).scalars(t, 0.5, table=False)
    assert rate == pytest.approx(0.5 / float(exact[0]), rel=1e-12)
    assert root == pytest.approx(float(exact[1].sqrt()), rel=1e-12)
    assert eps == 1e-8


@pytest.mark.parametrize("t", BEYOND)
@pytest.mark.parametrize("opt", ["momentum", "adam", "adam l2", "adamw", "sparse adam"])
@pytest.mark.parametrize("model", ["bias", "net"])
def test_counters_beyond_int32_train_as_the_reference(model, opt, t):
    """With dropout in the net, whose masks follow the counter."""
    got, expected = (
        long_runs.beyond_int32(module, MODELS[model], OPTIMIZERS[opt], t) for module in (get_backend("numba"), plain)
    )
    assert int(got["step"]) == int(expected["step"]) > t
    for name, value in expected.items():
        assert cases.distance(got[name], value) < cases.TOLERANCE, name


@EMULATED
@pytest.mark.parametrize("t", [BEYOND[0], BEYOND[-1]])
@pytest.mark.parametrize("path", ["resident", "touched", "large"])
@pytest.mark.parametrize("model", ["bias", "net"])
def test_counters_beyond_int32_on_a_gpu(model, path, t):
    with standin.emulated(path) as module:
        got = long_runs.beyond_int32(module, MODELS[model], OPTIMIZERS["adam"], t)
    expected = long_runs.beyond_int32(plain, MODELS[model], OPTIMIZERS["adam"], t)
    for name, value in expected.items():
        assert cases.distance(got[name], value) < cases.TOLERANCE, name


# --- extremes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", EDGES)
@pytest.mark.parametrize("model", MODELS)
def test_extreme_tables(model, data):
    for opt in ("sgd", "adam l2"):
        for batch_size in (1, 7):
            got, expected = (
                long_runs.edge(backend, MODELS[model], OPTIMIZERS[opt], EDGES[data], batch_size)
                for backend in ("numba", "numpy")
            )
            assert np.isfinite(expected.history.frame().valid_mse).all()
            for name, value in expected.weights.items():
                assert cases.distance(got.weights[name], value) < cases.TOLERANCE, (opt, batch_size, name)


@pytest.mark.parametrize(
    ("kind", "k"), [("bias", 1), ("net", 1), ("bias", 512), pytest.param("net", 512, marks=pytest.mark.slow)]
)
def test_one_factor_and_many(kind, k):
    model = DotBias(k) if kind == "bias" else Net(k, hidden=(3,), dropout=0.0)
    data = long_runs.table(200)
    got, expected = (long_runs.edge(backend, model, SGD(0.001), data) for backend in ("numba", "numpy"))
    for name, value in expected.weights.items():
        assert cases.distance(got.weights[name], value) < cases.TOLERANCE, name


@pytest.mark.parametrize("data", EDGES)
def test_extreme_tables_through_the_recommender(data, tmp_path):
    """From a table to lists, a new user, a file and back."""
    frame = EDGES[data].frame().drop_duplicates(["userId", "movieId"])
    for name in ("dot", "dot_bias", "net", "hybrid"):
        alike = pytest.warns(UserWarning, match="this looks like implicit feedback")
        with alike if "all ratings" in data else nullcontext():
            model = Recommender(name, n_factors=3, epochs=2).fit(frame)
        scores = model.predict(frame)
        assert np.isfinite(scores).all()
        assert scores.min() >= frame.rating.min()
        assert scores.max() <= frame.rating.max()
        first = frame.userId.iloc[0]
        lists = model.recommend([first, 10**6], 3, exclude_seen=False)
        assert np.isfinite(lists.score).all()
        assert len(lists) == 2 * min(3, frame.movieId.nunique())
        assert (
            model.recommend(first, 50).empty
            or not model.recommend(first, 50).movieId.isin(frame.movieId[frame.userId == first]).any()
        )
        new = model.fold_in({frame.movieId.iloc[0]: frame.rating.iloc[0]}, id=999)
        assert np.isfinite(new.drop(columns="userId").to_numpy(float)).all()
        with pytest.warns(UserWarning, match="rows are of items that their users rated in training"):
            found = model.evaluate(frame)
        assert np.isfinite(found["rmse"])
        model.save(tmp_path / "m.npz")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_equal_ratings_are_learned_and_then_left_alone(backend):
    data = EDGES["all ratings equal"]
    trainer = Trainer(DotBias(2, global_mean=4.0), SGD(0.05), backend=backend, batch_size=7, dtype="float64")
    trainer.fit(data, epochs=200)
    before = trainer.weights
    trainer.fit(data, epochs=3)
    assert trainer.evaluate(data)["rmse"] < 1e-3
    for name, w in trainer.weights.items():
        np.testing.assert_allclose(w, before[name], atol=1e-4)
