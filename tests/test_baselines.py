"""Baselines: every number by hand, on four users and four items; and what they share with `Recommender`."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import GridSearchCV

import minicf
from minicf import Biases, ItemKNN, MostPopular, Ratings
from minicf.data import UnknownIdError
from minicf.recommender.quality import popular
from tests.peers.toys import lists, recommender
from tests.test_recommender import table

ROWS = pd.DataFrame(
    [(1, 10, 5.0), (1, 20, 3.0), (2, 10, 4.0), (2, 20, 2.0), (2, 30, 3.0), (3, 10, 1.0), (4, 40, 2.0)],
    columns=["userId", "movieId", "rating"],
)
"""Raters: 10 has 1, 2, 3; 20 has 1, 2; 30 has 2; 40 has 4. Their mean is 20 / 7."""
PAIRS = ROWS[["userId", "movieId"]]
EACH = [MostPopular, Biases, ItemKNN]


def test_most_popular_by_hand():
    model = MostPopular().fit(ROWS)
    assert model.counts_.tolist() == [3, 2, 1, 1]
    found = model.recommend([1, 4, 9], 2)
    assert lists(found) == {1: [30, 40], 4: [10, 20], 9: [10, 20]}  # equal counts by id
    assert found.score.tolist() == [1, 1, 3, 2, 3, 2]
    assert found.known.tolist() == [True] * 4 + [False] * 2
    assert model.predict([[1, 40], [9, 99]]).tolist() == pytest.approx([20 / 7] * 2)


def test_most_popular_of_events_counts_no_dislikes():
    model = MostPopular(feedback="implicit").fit(PAIRS)
    assert model.predict([[1, 10], [4, 20], [1, 99]]).tolist() == [3 / 4, 2 / 4, 0]
    disliked = MostPopular().fit(Ratings.from_events(ROWS.assign(n=np.where(ROWS.movieId == 10, -1, 1)), weight="n"))
    assert disliked.recommend(9, 4).movieId.tolist() == [20, 30, 40, 10]


def test_biases_by_hand():
    """(D1) and (D2) with fractions of 7, damping 1 for items and 2 for users."""
    model = Biases(item_damping=1, user_damping=2).fit(ROWS)
    mu = 20 / 7
    c = {10: (10 - 3 * mu) / 4, 20: (5 - 2 * mu) / 3, 30: (3 - mu) / 2, 40: (2 - mu) / 2}
    residuals = ROWS.rating - mu - ROWS.movieId.map(c)
    b = {user: own.sum() / (len(own) + 2) for user, own in residuals.groupby(ROWS.userId)}
    asked = [(1, 30), (4, 10), (9, 20), (3, 99), (9, 99)]
    expected = [mu + b.get(user, 0.0) + c.get(item, 0.0) for user, item in asked]
    assert model.predict(asked).tolist() == pytest.approx(expected, rel=1e-6)
    assert model.factors("item").bias.tolist() == pytest.approx(list(c.values()), rel=1e-6)
    best = sorted(c, key=lambda item: -c[item])
    assert model.recommend(9, 4).movieId.tolist() == best
    assert model.predict([(1, 10)]).max() <= 5


def test_item_knn_by_hand():
    """(K1): common raters 10-20: 2, 10-30: 1, 20-30: 1, and none with 40; lengths sqrt 3, sqrt 2, 1, 1."""
    s = {(10, 20): 2 / (math.sqrt(6) + 1), (10, 30): 1 / (math.sqrt(3) + 1), (20, 30): 1 / (math.sqrt(2) + 1)}
    model = ItemKNN(n_neighbors=3, shrinkage=1).fit(ROWS)
    near = model.similar_items([10, 99], 3)
    assert near.movieId.tolist() == [10] * 3, "an unknown item is like none"
    assert near.similar_movieId.tolist() == [20, 30, 40]
    assert near.score.tolist() == pytest.approx([s[10, 20], s[10, 30], 0], rel=1e-6)
    found = model.recommend([1, 3], 4)
    assert lists(found) == {1: [30, 40], 3: [20, 30, 40]}
    scores = [s[10, 30] + s[20, 30], 0, s[10, 20], s[10, 30], 0]  # (K2)
    assert found.score.tolist() == pytest.approx(scores, rel=1e-6)
    # (K3), around the biases of `Biases`.
    plain = Biases().fit(ROWS)
    base = dict(zip(map(tuple, PAIRS.to_numpy().tolist()), plain.predict(PAIRS), strict=True))
    gap = {item: ROWS.rating[i] - base[1, item] for i, item in enumerate((10, 20))}
    moved = (s[10, 30] * gap[10] + s[20, 30] * gap[20]) / (s[10, 30] + s[20, 30])
    asked = [(1, 30), (1, 40), (9, 10)]
    expected = plain.predict(asked) + np.array([moved, 0, 0])
    assert model.predict(asked).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    # An unknown user has the mean of all users' items: 3, 2, 1, 1 of 4.
    unknown = model.recommend(9, 1)
    assert unknown.movieId.tolist() == [20]
    assert unknown.score[0] == pytest.approx((3 * s[10, 20] + s[20, 30]) / 4, rel=1e-6)


def test_item_knn_keeps_the_most_similar_neighbors():
    """With one neighbor each, 10 keeps 20, 20 keeps 10, 30 keeps 20: 1 / (sqrt 2 + 1) before 1 / (sqrt 3 + 1)."""
    found = ItemKNN(n_neighbors=1, shrinkage=1).fit(ROWS).recommend([2, 3], 4)
    assert found[found.userId == 3].set_index("movieId").score.to_dict() == pytest.approx(
        {20: 2 / (math.sqrt(6) + 1), 30: 0, 40: 0}, rel=1e-6
    )
    assert lists(found)[2] == [40]


def test_item_knn_of_events_has_weights_and_dislikes():
    frame = pd.DataFrame({"userId": [0, 0, 1, 1, 2], "movieId": [0, 1, 0, 1, 0], "n": [1, 2, 1, -3, 1]})
    ratings = Ratings.from_events(frame, weight="n")
    model = ItemKNN(shrinkage=0, feedback="implicit").fit(ratings)
    # x of item 0: (1, 1, 1); of item 1: (2, -3, 0).
    assert model.similar_items(0, 1).score[0] == pytest.approx(-1 / math.sqrt(3 * 13), rel=1e-6)
    assert model.predict([[2, 1]]).tolist() == [0]  # no neighbor below 0 is kept


def test_item_knn_against_scikit_learn():
    data = table(n_users=40, n_items=30)
    model = ItemKNN(n_neighbors=30, shrinkage=0).fit(data)
    x = pd.crosstab(data.userId, data.movieId)
    expected = pd.DataFrame(cosine_similarity(x.T), x.columns, x.columns)
    found = model.similar_items(model.items_.ids, 29)
    assert len(found) == 30 * 29
    truth = [expected.loc[row.movieId, row.similar_movieId] for row in found.itertuples()]
    np.testing.assert_allclose(found.score, truth, rtol=1e-6)
    values = expected.to_numpy(copy=True)
    np.fill_diagonal(values, 0)
    scores = pd.DataFrame(x.to_numpy() @ values, x.index, x.columns)
    found = model.recommend(x.index, 5)
    np.testing.assert_allclose(found.score, [scores.loc[r.userId, r.movieId] for r in found.itertuples()], rtol=1e-5)


# --- as Recommender ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EACH)
def test_methods_of_a_recommender(kind):
    titles = {10: "Ten", 20: "Twenty", 30: "Thirty", 40: "Forty"}
    model = kind().fit(ROWS, titles=titles)
    everyone = pd.concat(model.recommend_all(3, block=2), ignore_index=True)
    pd.testing.assert_frame_equal(everyone, model.recommend([1, 2, 3, 4], 3))
    merged = everyone.merge(PAIRS)
    assert merged.empty, "seen items are left out"
    assert model.recommend(1, 9, exclude_seen=False).movieId.sort_values().tolist() == [10, 20, 30, 40]
    assert "title" in everyone
    scores = model.recommend([1, 4], 4, candidates={1: [40, 30], 4: [20]})
    assert lists(scores) | {1: sorted(lists(scores)[1])} == {1: [30, 40], 4: [20]}
    assert lists(model.recommend(4, candidates=[20, 40], exclude=[10])) == {4: [20]}
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), clone(model).fit(ROWS, titles=titles)):
        pd.testing.assert_frame_equal(other.recommend([1, 9], 4), model.recommend([1, 9], 4))
    assert model.predict_user(1).tolist() == model.predict([(1, item) for item in (10, 20, 30, 40)]).tolist()
    assert model.score(PAIRS, ROWS.rating) <= 1
    assert set(model.evaluate(ROWS.assign(userId=9).drop_duplicates("movieId"), k=2)) >= {"rmse", "ndcg", "novelty"}
    with pytest.raises(ValueError, match=f"{kind.__name__} has no samples"):
        model.predict(PAIRS, return_std=True)
    with pytest.raises(ValueError, match="no similar users"):
        model.similar_users(1)


@pytest.mark.parametrize("kind", EACH)
def test_policies_for_unknown_ids(kind):
    model = kind(unknown="nan").fit(ROWS)
    assert np.isnan(model.predict([[9, 10], [1, 99]])).all()
    assert model.recommend([9], 2).empty
    with pytest.raises(UnknownIdError, match="unknown user 9"):
        kind(unknown="raise").fit(ROWS).recommend(9)


@pytest.mark.parametrize("kind", EACH)
def test_the_order_of_rows_does_not_matter(kind):
    data = table()
    a, b = kind().fit(data), kind().fit(data.sample(frac=1, random_state=0))
    np.testing.assert_allclose(a.predict(data), b.predict(data), rtol=1e-6)  # sums in another order


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Biases(item_damping=-1), "item_damping is -1"),
        (Biases(user_damping="1"), "user_damping is '1'"),
        (ItemKNN(n_neighbors=0), "n_neighbors is 0"),
        (ItemKNN(shrinkage=-2), "shrinkage is -2"),
        (MostPopular(feedback="clicks"), "feedback is 'clicks'"),
        (MostPopular(unknown="mean"), "unknown is 'mean'"),
        (MostPopular(n_threads=0), "n_threads is 0"),
    ],
)
def test_nonsense_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(ROWS)


def test_a_refused_fit_leaves_the_one_before():
    model = MostPopular().fit(ROWS)
    with pytest.raises(ValueError, match="no column"):
        model.fit(PAIRS)
    assert model.recommend(4, 1).movieId.tolist() == [10]


def test_events_need_no_rating_in_a_search():
    data = table(n_users=30, n_items=20)
    pairs = data[["userId", "movieId"]]
    search = GridSearchCV(
        ItemKNN(feedback="implicit"), {"n_neighbors": [1, 20]}, cv=minicf.RatingFolds(3),
        scoring=minicf.ranking_scorer("recall", k=3),
    ).fit(pairs)  # fmt: skip
    train, test = next(minicf.RatingFolds(3).split(pairs))
    by_hand = ItemKNN(feedback="implicit", n_neighbors=1).fit(pairs.iloc[train]).evaluate_users(pairs.iloc[test], k=3)
    assert search.cv_results_["split0_test_score"][0] == pytest.approx(by_hand.recall.mean())
    assert math.isnan(search.best_estimator_.evaluate(pairs.assign(userId=-1))["rmse"]), "events have no errors"


# --- beside the most popular ------------------------------------------------------------------------------------------


def test_popular_lists_by_hand():
    """Order 2, 0, 3, 1 (equal counts by row); list 0 leaves out 2 and 3, list 1 nothing, list 2 all but 1."""
    skip = minicf.Bags.of(np.array([0, 0, 2, 2, 2]), np.array([2, 3, 0, 2, 3]), 3)
    counts = np.array([5, 1, 7, 5])
    assert popular(counts, 3, 3, skip).tolist() == [[0, 1, -1], [2, 0, 3], [1, -1, -1]]
    assert popular(counts, 1, 6).tolist() == [[2, 0, 3, 1, -1, -1]]


def test_measures_beside_the_most_popular_are_those_of_most_popular():
    data = table(n_users=30, n_items=20)
    train, test = data.iloc[::2], data.iloc[1::2]
    own = MostPopular().fit(train).evaluate(test, k=4)
    beside = ItemKNN().fit(train).evaluate(test, k=4)
    assert beside.most_popular == own.most_popular == {name: own[name] for name in own.most_popular}
    assert set(own.most_popular) > {"recall", "recall_min", "ndcg", "novelty", "coverage"}
    with pytest.warns(UserWarning, match="most popular"):
        whole = ItemKNN().fit(train).evaluate(test, k=4, exclude_seen=False)
    theirs = MostPopular().fit(train).evaluate(test, k=4, exclude_seen=False)
    assert whole.most_popular == {name: theirs[name] for name in whole.most_popular}


def test_lists_worse_than_the_most_popular_are_said_so():
    """40 users like the most popular item, which the lists have last."""
    train = pd.concat([ROWS.assign(userId=ROWS.userId + 10 * i) for i in range(10)])
    test = pd.DataFrame({"userId": [3 + 10 * i for i in range(10)], "movieId": 20, "rating": 5.0})
    test.loc[len(test)] = [4, 10, 1.0]
    popular_ = MostPopular().fit(train)
    assert popular_.evaluate(test, k=1)["ndcg"] == 1
    worst = Biases(item_damping=0, user_damping=0).fit(train)
    with pytest.warns(UserWarning, match=r"NDCG@1 of 0.000, those of the most popular items of 1.000 \(10 users\)"):
        found = worst.evaluate(test, k=1)
    assert (found["users"], found["users_irrelevant"]) == (10, 1)
    assert "10 users with a list and a relevant item; 1 without a relevant item" in repr(found)
    assert "ndcg@1            0.0000          1.0000" in repr(found)
    shown = found.frame().set_index("measure")
    assert shown.value.to_dict() == pytest.approx(dict(found), nan_ok=True)
    assert shown.most_popular["ndcg"] == 1
    assert math.isnan(shown.most_popular["rmse"])
    # By chance: one user is no evidence.
    assert worst.evaluate(test.head(1), k=1)["ndcg"] == 0
    again = pickle.loads(pickle.dumps(found))
    assert (again, again.most_popular, again.k) == (found, found.most_popular, 1)


def test_a_recommender_is_measured_beside_them_too():
    """User 1 of the toy has 10 and 20 of [20, 10, 30, 40] in training: 30 is the most popular of what is left."""
    found = recommender().evaluate(pd.DataFrame({"userId": [1], "movieId": [30], "rating": [5.0]}), k=1)
    assert (found["recall"], found.most_popular["recall"]) == (1, 1)
    assert found["novelty"] == found.most_popular["novelty"] == pytest.approx(math.log2(3))
    assert found.most_popular["coverage"] == 1 / 4
