"""Which items may be recommended to whom: candidates, exclusions and filters, for all and for each user; one user's
scores."""

from __future__ import annotations

import functools
import re

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicf
from minicf import Ratings, scoring
from minicf.data import UnknownIdError
from tests.test_recommender import NAMES, quick, table, with_equal_items

FRAME = table()
USERS, ITEMS = np.unique(FRAME.userId), np.unique(FRAME.movieId)


@functools.cache
def fitted(name="dot_bias", **arguments):
    """One with equal items, so that ties decide."""
    return with_equal_items(quick(model=name, epochs=4, **arguments).fit(FRAME), 8)


def pairs_of(lists: dict) -> pd.DataFrame:
    rows = [(user, item) for user, items in lists.items() for item in items]
    return pd.DataFrame(rows, columns=["userId", "movieId"]).astype({"userId": object, "movieId": object})


def by_hand(recommender, user, n, seen, candidates, exclude):
    """The list of one user, one pair at a time; `candidates` and `exclude` are sets, or None."""
    known = user in recommender.users_
    gone = set(FRAME.movieId[FRAME.userId == user]) if seen else set()
    left = [
        item
        for item in recommender.items_.ids.tolist()
        if item not in gone | (exclude or set()) and (candidates is None or item in candidates)
    ]
    row = recommender.users_.index(user) if known else -1
    scores = [recommender.scores.pairs(np.array([row]), recommender.items_.index([item]))[0] for item in left]
    best = sorted(zip([-score for score in scores], left, strict=True))[:n]
    return [(user, at + 1, item, -score, known) for at, (score, item) in enumerate(best)]


IDS = st.sampled_from([*ITEMS.tolist(), *range(5000, 5008), 7, 8])  # two are unknown
ASKED = st.sampled_from([*USERS.tolist(), -1, -2])
EACH = st.dictionaries(ASKED, st.lists(IDS, max_size=12), max_size=8)
CHOICES = st.one_of(st.none(), st.lists(IDS, max_size=12), EACH)


@pytest.mark.parametrize("name", ["dot_bias", "net"])
@settings(max_examples=60, deadline=None)
@given(st.lists(ASKED, max_size=9), st.integers(1, 30), st.booleans(), CHOICES, CHOICES, st.booleans(), st.booleans())
def test_lists_are_those_of_one_pair_at_a_time(name, users, n, seen, candidates, exclude, framed, filtered):
    recommender = fitted(name)
    options, own = {}, {}
    for key, choice in (("candidates", candidates), ("exclude", exclude)):
        options[key] = pairs_of(choice) if framed and isinstance(choice, dict) else choice
        none = set() if isinstance(choice, dict) else None
        own[key] = {u: none if none is None else set(choice.get(u, ())) for u in users}
        if isinstance(choice, list):
            own[key] = {u: set(choice) for u in users}
    if filtered:
        options["filter"] = lambda items: items.movieId % 2 == 0
        odd = set(recommender.items_.ids[recommender.items_.ids % 2 == 1].tolist())
        own["exclude"] = {u: (own["exclude"][u] or set()) | odd for u in users}
    expected = [row for u in users for row in by_hand(recommender, u, n, seen, own["candidates"][u], own["exclude"][u])]
    got = recommender.recommend(users, n, seen, **options)
    assert [tuple(row) for row in got.itertuples(index=False)] == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_same_candidates_for_all_and_for_each_give_the_same_lists(name, backend, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 0)
    monkeypatch.setattr(scoring, "MIN_ROWS", 5)
    recommender = fitted(name, backend=backend)
    some = [*ITEMS[::2].tolist(), *range(5000, 5008)]
    for gone in ([], ITEMS[:4], [5001]):
        expected = recommender.recommend(USERS, 6, candidates=some, exclude=gone)
        each, without = dict.fromkeys(USERS, some), dict.fromkeys(USERS, gone)
        for candidates in (some, each, pairs_of(each)):
            for exclude in (gone, without, pairs_of(without)):
                got = recommender.recommend(USERS, 6, candidates=candidates, exclude=exclude)
                pd.testing.assert_frame_equal(got, expected)
                streamed = recommender.recommend_all(6, block=5, candidates=candidates, exclude=exclude)
                pd.testing.assert_frame_equal(pd.concat(list(streamed), ignore_index=True), expected)


def test_choices_of_any_container_are_one():
    recommender = fitted()
    each = {100: [1000, 994], 107: [991, 988, 985]}
    expected = recommender.recommend([100, 107], 9, False, each)
    assert expected.groupby("userId").movieId.apply(set).to_dict() == {100: {1000, 994}, 107: {991, 988, 985}}
    frame = pairs_of(each).astype(int)
    for other in (
        {user: np.array(items) for user, items in each.items()},
        {user: pd.Series(items) for user, items in each.items()},
        {np.int64(user): set(items) for user, items in each.items()},
        {float(user): tuple(map(float, items)) for user, items in each.items()},
        {100: [1000, 994], 107: np.array([991, 988, 985], np.uint64), 114: range(0)},
        frame,
        frame.assign(rating=1.0, more="x"),
        pd.concat([frame, frame]),
        frame.set_axis([3] * 5),
        frame.astype(str).astype({"userId": "int64", "movieId": "float64"}),
        polars.from_pandas(frame),
        pyarrow.Table.from_pandas(frame),
        Ratings.from_frame(frame.assign(rating=1.0)),
    ):
        pd.testing.assert_frame_equal(recommender.recommend([100, 107], 9, False, other), expected)
    texts = quick(epochs=2).fit(table(text=True))
    got = texts.recommend(["100", "new"], 9, False, {"100": ["1000", "994"], "new": ["991"]})
    assert got.userId.tolist() == ["100", "100", "new"]


def test_large_ids_of_different_containers_stay_apart():
    """Signed and unsigned integers have no common type but floats, in which neighbors above 2**53 are one."""
    low, high = 2**60, 2**60 + 1
    recommender = quick(epochs=1).fit(FRAME.replace({"movieId": {ITEMS[0]: low, ITEMS[1]: high}}))
    each = {100: np.array([high]), 107: np.array([low], np.uint64)}
    got = recommender.recommend([100, 107], exclude_seen=False, candidates=each)
    assert got.movieId.tolist() == [high, low]


def test_unknown_ids_among_the_choices_go_by_the_policy():
    recommender = quick(epochs=2).fit(FRAME)
    each = {100: [1000, 7], -1: [994, 8], -2: [991]}
    for choice in (each, pairs_of(each)):
        got = recommender.recommend([-1, 100, -3], 9, False, choice)
        assert got[["userId", "movieId", "known"]].values.tolist() == [[-1, 994, False], [100, 1000, True]]
        nan = quick(epochs=2, unknown="nan").fit(FRAME)
        assert nan.recommend([-1, 100, -3], 9, False, choice).movieId.tolist() == [1000]
        strict = quick(epochs=2, unknown="raise").fit(FRAME)
        for option in ("candidates", "exclude"):
            with pytest.raises(UnknownIdError, match="unknown user -1"):
                strict.recommend(100, **{option: choice})
    for option in ("candidates", "exclude"):
        with pytest.raises(UnknownIdError, match=r"unknown item 7 \(1 in all\)"):
            strict.recommend(100, **{option: {100: [1000, 7]}})
        with pytest.warns(UserWarning, match="unknown item: '1000' is text"):
            recommender.recommend(100, **{option: {100: ["1000"]}})
        with pytest.warns(UserWarning, match="unknown user: '100' is text"):
            recommender.recommend(100, **{option: {"100": [1000]}})


@pytest.mark.parametrize("option", ["candidates", "exclude"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (FRAME[["movieId"]], r"{option} is a frame with the columns \['movieId'\]; .*frame\['movieId'\].*mapping from"),
        (FRAME[["userId"]], r"{option} is a frame with the columns \['userId'\]; it must be item ids"),
        (FRAME[["rating"]], r"{option} is a frame .* pairs with the columns 'userId' and 'movieId'"),
        (polars.DataFrame({"movieId": [1000]}), r"{option} is a frame with the columns \['movieId'\]"),
        (pyarrow.table({"movieId": [1000]}), r"{option} is a frame with the columns \['movieId'\]"),
        (pd.concat({"a": FRAME}, axis=1), r"{option} is a frame with the columns"),
        ({1000: 4.5}, r"{option}\[1000\] is '4.5'; it must be a 1-d array of item ids"),
        ({100: "994"}, r"{option}\[100\] is '994'; it must be a 1-d array"),
        ({100: {994: 1}}, r"{option}\[100\] is '\{{994: 1\}}'; it must be a 1-d array"),
        ({100: FRAME}, r"{option}\[100\] is .*; it must be a 1-d array"),
        ({100: np.zeros((2, 2), int)}, r"{option}\[100\] is int64 of shape \(2, 2\); it must be a 1-d array"),
        ({100: [1000], 107: np.array([True])}, r"{option}\[107\] is bool of shape \(1,\); it must be a 1-d array of"),
        ({100: [[1000, 994]]}, "it must be one id or a 1-d array"),
        ({100: np.ma.array([1000, 994], mask=[0, 1])}, r"{option}\[100\] has 1 masked"),
        (pd.Series([[1000, 994]]), "it must be one id or a 1-d array"),
        (FRAME.userId > 110, "ids is a mask"),
    ],
)
def test_what_is_no_choice_is_refused(option, given, said):
    with pytest.raises((TypeError, ValueError), match=said.format(option=option)):
        fitted().recommend(107, **{option: given})


def test_a_filter_sees_each_candidate_once():
    shown = []

    def keep(items):
        shown.append(items.movieId.tolist())
        return items.movieId > 990

    recommender = fitted()
    each = {100: [1000, 994, 988], 107: [994, 985]}
    got = recommender.recommend([107, 100], 9, False, each, keep)
    assert shown == [[985, 988, 994, 1000]]
    assert got.groupby("userId").movieId.apply(set).to_dict() == {100: {994, 1000}, 107: {994}}
    list(recommender.recommend_all(3, block=2, filter=keep))
    assert len(shown) == 2  # once for a stream
    with pytest.raises(ValueError, match="one boolean for each of the 4 items"):
        recommender.recommend(100, candidates=each, filter=lambda items: items.movieId)


def test_choices_without_seen_items_and_nothing_left(tmp_path):
    recommender = fitted()
    recommender.save(tmp_path / "m.npz", seen=False)
    bare = minicf.load(tmp_path / "m.npz")
    each = {100: [1000, 994]}
    pd.testing.assert_frame_equal(
        bare.recommend([100, 107], 5, False, each), recommender.recommend([100, 107], 5, False, each)
    )
    with pytest.raises(ValueError, match="saved without seen items"):
        bare.recommend(100, candidates=each)
    for option in ({"candidates": {}}, {"candidates": {107: [1000]}}, {"exclude": recommender.items_.ids},
                   {"candidates": each, "exclude": [1000, 994]}, {"candidates": FRAME.iloc[:0]}):  # fmt: skip
        got = recommender.recommend(100, 10**9, **option)
        assert got.columns.tolist() == ["userId", "rank", "movieId", "score", "known"]
        assert len(got) == 0
    assert len(recommender.recommend([], candidates=each)) == 0
    assert len(recommender.recommend(100, 10**9, exclude={})) == 23 - (FRAME.userId == 100).sum()


# --- all scores of one user -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("user", [100, 177, -1])
def test_the_scores_of_one_user_are_those_of_all_pairs(name, backend, user):
    recommender = fitted(name, backend=backend)
    got = recommender.predict_user(user)
    assert (got.dtype, got.shape) == (np.float32, (23,))
    pairs = pd.DataFrame({"userId": user, "movieId": recommender.items_.ids})
    assert got.tobytes() == recommender.predict(pairs).tobytes()
    assert 1 <= got.min() <= got.max() <= 5


def test_the_scores_of_one_unknown_user_and_of_none():
    nan, strict = (quick(epochs=1, unknown=policy).fit(FRAME) for policy in ("nan", "raise"))
    assert np.isnan(nan.predict_user(-1)).all()
    assert nan.predict_user(-1).dtype == np.float32
    with pytest.raises(UnknownIdError, match="unknown user -1"):
        strict.predict_user(-1)
    with pytest.warns(UserWarning, match="'100' is text, but known ids are integers"):
        fitted().predict_user("100")
    for many in ([100], np.array([100]), FRAME, {100: 1}, pd.Series([100])):
        with pytest.raises(TypeError, match=r"^user is .*; it must be one id"):
            fitted().predict_user(many)
    with pytest.raises(TypeError, match=re.escape("an id is a whole number or text")):
        fitted().predict_user(True)
