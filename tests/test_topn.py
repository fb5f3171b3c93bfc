"""The best n of many: the compiled selection equals the reference, and both equal sorting everything."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicf import scoring
from minicf.backends import get_backend
from minicf.backends.numba import top
from minicf.data import Bags, Batch
from minicf.models import DotBias
from minicf.models.scorers import by_products
from minicf.threads import count_threads
from tests.cases import ALL_MODELS

BOTH = pytest.mark.parametrize("select", [scoring.select, top.select], ids=["numpy", "numba"])


def by_sorting(scores, skip, n):
    """Every list by sorting all of its scores."""
    index = np.full((len(scores), n), -1)
    for row, values in enumerate(scores):
        left = np.setdiff1d(np.flatnonzero(values > -np.inf), skip.index[skip.start[row] : skip.start[row + 1]])
        best = sorted(left, key=lambda item: (-values[item], item))[:n]
        index[row, : len(best)] = best
    return index


def run(select, scores, skip, n):
    index, best = np.empty((len(scores), n), np.int32), np.empty((len(scores), n), np.float32)
    select(scores.copy(), skip, n, index, best)
    return index, best


@BOTH
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    items=st.integers(1, 300),
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([2, 5, 10**6]),
    data=st.data(),
)
def test_it_equals_sorting(select, rows, items, seed, levels, data):
    n = data.draw(st.integers(1, items))
    random = np.random.RandomState(seed)
    scores = random.randint(-levels, levels, (rows, items)).astype(np.float32)  # few levels: many ties
    scores[random.uniform(size=scores.shape) < 0.05] = -np.inf
    pairs = random.uniform(size=scores.shape) < random.choice([0, 0.3, 1])
    skip = Bags.of(*np.nonzero(pairs), rows)
    index, best = run(select, scores, skip, n)
    expected = by_sorting(scores, skip, n)
    np.testing.assert_array_equal(index, expected)
    there = index >= 0
    np.testing.assert_array_equal(best[there], np.take_along_axis(scores, np.where(there, index, 0), 1)[there])
    assert (best[~there] == -np.inf).all()


@BOTH
@pytest.mark.parametrize("n", [1, 3, 40])
@pytest.mark.parametrize("items", [512, 513, 1600])
@pytest.mark.parametrize("levels", [1, 3, 40])
def test_ties_among_many_items(select, n, items, levels):
    """More items than groups: equal scores are not met in the order of their indices."""
    random = np.random.RandomState(n + items + levels)
    scores = random.randint(-levels, levels, (6, items)).astype(np.float32)
    scores[:, random.permutation(items)[: items // 3]] = -np.inf
    scores[0, 5:] = -np.inf  # fewer than n are left
    skip = Bags.of(*np.nonzero(random.uniform(size=scores.shape) < 0.2), len(scores))
    index, best = run(select, scores, skip, n)
    expected = by_sorting(scores, skip, n)
    np.testing.assert_array_equal(index, expected)
    found = np.take_along_axis(scores, np.maximum(expected, 0), 1)
    np.testing.assert_array_equal(best, np.where(expected < 0, -np.inf, found))


@BOTH
def test_equal_scores_go_by_index(select):
    index, _ = run(select, np.ones((1, 500), np.float32), Bags.of(np.array([0]), np.array([2]), 1), 4)
    np.testing.assert_array_equal(index, [[0, 1, 3, 4]])


@pytest.fixture
def tables():
    random = np.random.RandomState(3)
    return random.normal(size=(60, 5)).astype(np.float32), random.normal(size=(211, 5)).astype(np.float32)


@BOTH
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_blocks_and_threads_change_nothing(tables, select, n_threads):
    users, items = tables
    random = np.random.RandomState(4)
    skip = Bags.of(random.randint(0, 60, 900), random.randint(0, 211, 900), 60)
    expected = by_sorting(users @ items.T, skip, 9)
    rows = np.arange(60)
    index, best = scoring.top_n(
        by_products(users, items), rows, 211, 9, skip, n_threads, select, block_bytes=4 * 211 * 9
    )
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(best, np.take_along_axis(users @ items.T, index, 1), rtol=1e-6)  # another block's GEMM


def test_more_than_there_are(tables):
    users, items = tables
    index, best = scoring.top_n(by_products(users, items), np.arange(3), 211, 1000)
    assert index.shape == best.shape == (3, 211)
    assert (np.sort(index, axis=1) == np.arange(211)).all()


def test_no_rows(tables):
    assert scoring.top_n(by_products(*tables), np.zeros(0, int), 211, 3)[0].shape == (0, 3)


@pytest.mark.parametrize("model", ALL_MODELS.values(), ids=ALL_MODELS)
def test_scores_order_items_as_predictions_do(model):
    weights = {name: w.astype(np.float32) for name, w in model.init_weights(4, 30, seed=1).items()}
    weights = {
        name: w + np.random.RandomState(2).normal(size=w.shape).astype(np.float32) for name, w in weights.items()
    }
    out = np.empty((4, 30), np.float32)
    model.scorer(weights)(np.arange(4), out)
    user, item = np.repeat(np.arange(4), 30), np.tile(np.arange(30), 4)
    head, own = model.output_head(weights)
    raw = type(head)(**{**vars(head), "rating_range": None})  # before the range, which may saturate
    expected = raw.predict(own, Batch(user, item)).reshape(4, 30)
    # The mean, which orders nothing, is left out; the rest differs by float32 rounding of numbers below 100.
    difference = expected - out
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], difference.shape), atol=1e-4)


def test_bags_of_pairs_and_of_some_rows():
    skip = Bags.of(np.array([2, 0, 2, 2]), np.array([5, 1, 3, 5]), 4)
    assert skip.start.tolist() == [0, 1, 1, 3, 3]
    assert skip.index.tolist() == [1, 3, 5]
    taken = skip.take(np.array([2, -1, 0, 2, 3]))
    assert taken.start.tolist() == [0, 2, 2, 3, 5, 5]
    assert taken.index.tolist() == [3, 5, 1, 3, 5]


def test_bags_of_nothing():
    skip = Bags.empty(3)
    assert skip.start.tolist() == [0, 0, 0, 0]
    assert len(skip.index) == 0


def test_a_worker_holds_a_block_of_scores_and_no_more(tables):
    users, items = tables
    score, seen = by_products(users, items), []

    def seeing(rows, out):
        seen.append(out.shape)
        score(rows, out)

    scoring.top_n(seeing, np.arange(25), len(items), 3, n_threads=1, block_bytes=4 * len(items) * 10)
    assert seen == [(10, len(items)), (10, len(items)), (5, len(items))]


def test_threads_follow_what_is_asked_and_the_environment(monkeypatch):
    """One rule for training and lists: version 0.1 had two, one uncapped, neither of which read "4,3,2"."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    for omp, numba, expected in (("3", None, 3), ("3", "2", 2), ("2", "3", 2), ("4,3,2", None, 4), (" 5 ", "", 5),
                                 (None, "many", 8), ("0", "-1", 8), ("1000", None, 8)):  # fmt: skip
        for name, value in (("OMP_NUM_THREADS", omp), ("NUMBA_NUM_THREADS", numba)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert count_threads() == expected
        model = DotBias(2)
        assert get_backend("numba").compile(model, None, model.init_weights(2, 2)).n_threads == expected
        assert count_threads(1) == 1
        assert count_threads(12) == 12  # what is asked for is taken as it is
    assert count_threads(10**9) == 256
    with pytest.raises(ValueError, match="n_threads is 0"):
        count_threads(0)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert count_threads() == 3  # those that this process may use, where the system says
    monkeypatch.delattr(os, "sched_getaffinity")
    assert count_threads() == 7


def test_never_more_workers_than_asked(tables, monkeypatch):
    users, items = tables
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 0)
    alive, most = set(), []
    score = by_products(users, items)

    def watched(rows, out):
        import threading

        alive.add(threading.get_ident())
        most.append(len(alive))
        score(rows, out)

    scoring.top_n(watched, np.arange(60), 211, 3, n_threads=2)
    assert max(most) <= 2
