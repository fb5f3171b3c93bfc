"""The best items of each user, on the GPU backend: the CPU's lists, under the emulator as in `test_cuda_parity.py`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from minicf import Ratings, Recommender, backends, scoring
from minicf.backends.cuda import top
from minicf.data import Bags
from minicf.models import Dot, DotBias, Model, Net, scorers
from minicf.models.scorers import by_products
from minicf.optim import SGD
from tests import cases
from tests.cuda import emulator, standin

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))


def chosen(select, scores, skip, n):
    index, best = np.empty((len(scores), n), np.int32), np.empty((len(scores), n), np.float32)
    select(scores, skip, n, index, best)
    return index, best


# Lists shorter and longer than a warp, than what a warp looks at in one go, and than the row.
@pytest.mark.parametrize("n", [1, 4, 31, 33, 128, 300])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_the_selection_is_the_reference_s(n, levels):
    random = np.random.RandomState(n)
    scores = random.randint(-levels, levels, (7, 300)).astype(np.float32)  # few levels: many are equal
    scores[random.uniform(size=scores.shape) < 0.05] = -np.inf
    scores[5] = np.sort(scores[5])  # each one enters
    pairs = random.uniform(size=scores.shape) < np.linspace(0, 1, 7)[:, None]  # from none seen to all
    skip = Bags.of(*np.nonzero(pairs), 7)
    part = Bags(skip.start[2:], skip.index)  # as `top_n` gives a later block: starts are not 0
    expected = chosen(scoring.select, scores.copy(), skip, n), chosen(scoring.select, scores[2:].copy(), part, n)
    for processors, threads in ((3, 64), (1, 32), (2, 256)):
        with standin.emulated(processors=processors, threads=threads):
            import cupy

            for (index, best), given, rows in zip(expected, (skip, part), (scores, scores[2:]), strict=True):
                result = chosen(top.select, cupy.asarray(rows.copy()), given, n)
                np.testing.assert_array_equal(result[0], index)
                np.testing.assert_array_equal(result[1], best)


def test_a_list_too_long_for_the_chip_is_selected_on_the_host(monkeypatch):
    scores = np.random.RandomState(0).normal(size=(3, 90)).astype(np.float32)
    skip = Bags.of(np.array([1, 1]), np.array([4, 5]), 3)
    expected = chosen(scoring.select, scores.copy(), skip, 70)
    with standin.emulated(processors=7):
        import cupy

        monkeypatch.setitem(standin.device_attributes, "MaxSharedMemoryPerBlockOptin", 500)
        top._kernels.cache_clear()
        standin.log.clear()
        index, best = chosen(top.select, cupy.asarray(scores), skip, 70)
        top._kernels.cache_clear()
    assert ("launch", "top_items") not in standin.log
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_array_equal(best, expected[1])


MODELS: dict[str, Model] = {
    "dot": Dot(3),
    "bias": DotBias(5, rating_range=cases.RANGE, global_mean=0.4),
    "net": Net(4, hidden=(6, 3), dropout=0.5, rating_range=cases.RANGE),
    "linear": Net(3, hidden=(), dropout=0.0),
    "hybrid": cases.MODELS["hybrid"],
}


@pytest.mark.parametrize("n", [1, 10, 100])
@pytest.mark.parametrize("model", list(MODELS))
def test_the_lists_are_the_cpu_s(monkeypatch, model, n):
    model = MODELS[model]
    problem = cases.Problem(n_users=9, n_items=70)
    weights = {name: w.astype(np.float32) for name, w in problem.weights(model).items()}
    for name in ("item_factors", "item_bias"):
        if name in weights:
            weights[name][40:44] = weights[name][3]  # equals
    rows = np.array([0, 8, 3, 3, 5])
    random = np.random.default_rng(2)
    seen = [random.choice(70, size, replace=False) for size in (0, 70, 69, 10, 35)]
    skip = Bags.of(np.repeat(np.arange(5), [len(x) for x in seen]), np.concatenate(seen).astype(np.int32), 5)
    with standin.emulated(processors=2):
        import cupy

        monkeypatch.setattr(top, "SCORES_BYTES", 4 * 70 * 2)
        monkeypatch.setattr(scoring, "MIN_ROWS", 2)  # two users a block
        monkeypatch.setattr(scorers, "_HIDDEN", 500)  # one at a time through the net
        for given in (None, skip):
            expected = scoring.top_n(model.scorer(weights), rows, 70, n, given)
            standin.log.clear()
            here = {"select": top.select, "xp": cupy, "block_bytes": top.SCORES_BYTES}
            index, best = scoring.top_n(model.scorer(weights, xp=cupy), rows, 70, n, given, **here)
            names = [name for kind, name in standin.log if kind == "launch"]
            assert standin.on_device[0] or names == ["top_items"] * 3
            np.testing.assert_array_equal(index, expected[0])
            np.testing.assert_allclose(best, expected[1], rtol=1e-5)  # float32, sums of up to 6 products


def test_a_block_is_what_there_is_room_for():
    random = np.random.default_rng(0)
    users, items = random.normal(size=(20, 3)).astype(np.float32), random.normal(size=(30, 3)).astype(np.float32)
    expected, _ = scoring.top_n(by_products(users, items), np.arange(20), 30, 5)
    with standin.emulated():
        import cupy

        standin.limit_bytes[0], before = 4 * 30 * 6, standin.limit_bytes[0]
        try:
            standin.log.clear()
            score = by_products(users, items, cupy)
            here = {"select": top.select, "xp": cupy, "block_bytes": top.SCORES_BYTES}
            index, _ = scoring.top_n(score, np.arange(20), 30, 5, **here)
            assert standin.log.count(("launch", "top_items")) == 4  # 20 rows do not fit, nor do 10; 5 do
            standin.limit_bytes[0] = 100
            with pytest.raises(MemoryError, match="no room for the scores of one user with 30 items"):
                scoring.top_n(score, np.arange(20), 30, 5, **here)
        finally:
            standin.limit_bytes[0] = before
    np.testing.assert_array_equal(index, expected)


@pytest.mark.parametrize("model", ["bias", "net"])
def test_the_recommender_s_lists(monkeypatch, model):
    monkeypatch.setitem(backends._MODULES, "cupy", "minicf.backends.cuda")
    user, item, rating = cases.Problem(n_users=30, n_items=40, n_ratings=500).ratings()
    frame = pd.DataFrame({"userId": user, "movieId": item, "rating": rating})
    train = Ratings.from_frame(frame, duplicates="last")
    with standin.emulated():
        tables = []
        for backend in ("numpy", "cupy"):
            recommender = Recommender(MODELS[model], optimizer=SGD(0.01), epochs=2, batch_size=16, backend="numpy")
            recommender.fit(train)
            recommender.backend = backend
            standin.log.clear()
            tables.append(
                [
                    recommender.recommend([0, 5, 99], 7),
                    recommender.recommend([3], 5, exclude_seen=False, candidates=[1, 2, 3, 8, 9, 20]),
                    recommender.similar_items([2, 3], 4),
                    recommender.similar_users([1], 4, metric="dot"),
                ]
            )
            launches = standin.log.count(("launch", "top_items"))
            assert standin.on_device[0] or launches == (4 if backend == "cupy" else 0)
        for ours, theirs in zip(*tables, strict=True):
            pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5)
