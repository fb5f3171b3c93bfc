"""Similar items and users among candidates, by comparing all and by an index: exact, equal scores in order of id."""

from __future__ import annotations

import sys
import types

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicf
from minicf.data import UnknownIdError
from tests.test_recommender import quick, table


def with_items(factors: np.ndarray, titles: bool = False) -> minicf.Recommender:
    """One whose items 0, 1, 2 … have these factors."""
    n = len(factors)
    frame = pd.DataFrame({"userId": np.arange(n) % 3, "movieId": np.arange(n), "rating": np.arange(n) % 4})
    recommender = quick(epochs=1, n_factors=factors.shape[1], model="dot").fit(
        frame, titles={i: f"Film {i}" for i in range(n)} if titles else None
    )
    recommender.weights_ = recommender.weights_ | {"item_factors": factors.astype(np.float32)}
    recommender._cache = {}
    return recommender


def graph(monkeypatch, forgets: float = 0.0):
    """In place of pynndescent: a graph that finds nothing of some rows, and then says -1."""

    class NNDescent:
        def __init__(self, rows, metric, random_state):
            self.rows, self.gone = rows, np.random.RandomState(random_state).uniform(size=len(rows)) < forgets

        def query(self, vectors, k):
            product = vectors @ self.rows.T
            product[:, self.gone] = -np.inf
            order = np.argsort(-product, axis=1)[:, :k].astype(np.int32)
            return np.where(self.gone[order], -1, order), None

    monkeypatch.setitem(sys.modules, "pynndescent", types.SimpleNamespace(NNDescent=NNDescent))


def by_hand(factors, item, n, metric, allowed):
    vectors = factors.astype(np.float64)
    if metric == "cosine":
        length = np.linalg.norm(factors.astype(np.float32), axis=1, keepdims=True)
        vectors = (factors.astype(np.float32) / np.where(length > 0, length, 1)).astype(np.float32).astype(np.float64)
    own = [i for i in allowed if i != item]
    score = np.array([(vectors[item] * vectors[i]).sum() for i in own], np.float32)
    return [own[at] for at in np.lexsort((own, -score))[:n]]


@pytest.mark.parametrize("index", [None, "sklearn", "pynndescent"])
def test_a_tie_at_the_cut_goes_by_id_by_an_index_too(index, monkeypatch):
    """100 items point one way and 200 another."""
    graph(monkeypatch)
    recommender = with_items(np.array([(0, 1)] * 100 + [(1, 1)] * 200))
    for item in (2, 0, 99, 100, 250, 299):
        group = range(100) if item < 100 else range(100, 300)
        expected = [i for i in group if i != item][:5]
        assert recommender.similar_items(item, n=5, index=index).similar_movieId.tolist() == expected
    expected = [i for i in range(100) if i != 2] + list(range(100, 300))
    assert recommender.similar_items(2, n=400, index=index).similar_movieId.tolist() == expected


KINDS = st.sampled_from(["random", "few", "zeros"])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), KINDS, st.integers(0, 100), st.integers(1, 100), st.sampled_from([0.0, 0.1, 0.6, 1.0]))
def test_neighbors_among_candidates_are_those_of_comparing_one_by_one(n_items, kind, seed, n, share):
    random = np.random.RandomState(seed)
    factors = random.normal(size=(n_items, 3)) if kind == "random" else random.randint(-1, 2, (n_items, 3))
    factors = factors * (random.uniform(size=(n_items, 1)) < 0.7) if kind == "zeros" else factors
    recommender = with_items(factors)
    allowed = np.flatnonzero(random.uniform(size=n_items) < share)
    asked = random.choice(n_items, min(n_items, 5), replace=False)
    for metric, index in (("cosine", None), ("cosine", "sklearn"), ("dot", None)):
        some = [*allowed.tolist(), *allowed[:3].tolist(), 10_000]
        for options in ({"candidates": some}, {"filter": lambda items: items.movieId.isin(allowed)}):
            got = recommender.similar_items(asked, n, metric, index, **options)
            expected = {item: by_hand(factors, item, n, metric, allowed.tolist()) for item in asked}
            assert got.movieId.tolist() == [item for item in asked for _ in expected[item]]
            assert got.similar_movieId.tolist() == [other for item in asked for other in expected[item]]


@pytest.mark.parametrize("index", [None, "sklearn", "pynndescent"])
def test_an_index_is_asked_until_enough_pass(index, monkeypatch):
    """Of 2,000 items one in a hundred passes, and none of those near the one asked for."""
    graph(monkeypatch)
    angle = np.linspace(0, 3, 2000)
    recommender = with_items(np.column_stack([np.cos(angle), np.sin(angle)]), titles=True)
    far = range(500, 2000, 100)
    got = recommender.similar_items([3, 600], 4, index=index, candidates=far)
    assert got.similar_movieId.tolist() == [500, 600, 700, 800, 500, 700, 800, 400 + 500]
    assert got.title.tolist() == [f"Film {i}" for i in got.similar_movieId]
    both = recommender.similar_items(3, 4, index=index, candidates=far, filter=lambda items: items.title != "Film 600")
    assert both.similar_movieId.tolist() == [500, 700, 800, 900]
    assert len(recommender.similar_items([3, 600], 100, index=index, candidates=far)) == 15 + 14
    assert len(recommender.similar_items([3, 600], 100, index=index, candidates=[])) == 0
    assert len(recommender.similar_items([3, 600], 100, index=index, candidates=[600])) == 1


def test_an_approximate_index_gives_what_it_has_found(monkeypatch):
    graph(monkeypatch, forgets=0.3)
    angle = np.linspace(0, 3, 500)
    recommender = with_items(np.column_stack([np.cos(angle), np.sin(angle)]))
    got = recommender.similar_items(250, 6, index="pynndescent", candidates=range(0, 500, 2))
    assert len(got) == 6
    assert (got.similar_movieId % 2 == 0).all()
    assert ((got.similar_movieId - 250).abs() < 40).all()


@pytest.mark.parametrize("index", [None, "sklearn"])
def test_similar_users_among_some(index):
    frame = table(n_users=40)
    recommender = quick(epochs=5).fit(frame)
    users = recommender.users_.ids
    some = users[::3]
    whole = recommender.similar_users(users, 40, index=index)
    expected = whole[whole.similar_userId.isin(some)].groupby("userId").head(4).reset_index(drop=True)
    for options in ({"candidates": some}, {"filter": lambda frame: frame.userId.isin(some)}):
        got = recommender.similar_users(users, 4, index=index, **options)
        pd.testing.assert_frame_equal(got.drop(columns="rank"), expected.drop(columns="rank"))
        assert got["rank"].tolist() == got.groupby("userId").cumcount().add(1).tolist()


@pytest.mark.parametrize("index", [None, "sklearn"])
def test_an_unknown_item_has_the_neighbors_of_the_mean_row(index):
    recommender = with_items(np.array([(0.0, 1), (1, 1), (1, 0)]))
    got = recommender.similar_items([-1, 1], 9, index=index)
    assert got.known.tolist() == [False] * 3 + [True] * 2
    assert got.similar_movieId.tolist() == [1, 0, 2, 0, 2]  # an index left one of the three out
    assert recommender.similar_items(-1, 9, index=index, candidates=[0, 2]).similar_movieId.tolist() == [0, 2]


def test_refusals():
    recommender = quick(epochs=1, unknown="raise").fit(table())
    with pytest.raises(UnknownIdError, match="unknown item 7"):
        recommender.similar_items(1000, candidates=[7, 994])
    with pytest.raises(TypeError, match="ids is a frame"):
        recommender.similar_items(1000, candidates=table())
    with pytest.raises(TypeError, match="ids is a dict"):
        recommender.similar_items(1000, candidates={1000: [994]})
    with pytest.raises(ValueError, match="one boolean for each of the 12 users"):
        recommender.similar_users(100, filter=lambda users: [True])
    with pytest.raises(ValueError, match="index is 'tree'"):
        recommender.similar_items(1000, index="tree", candidates=[])
