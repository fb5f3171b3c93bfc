"""How good a recommender is: measures of lists by user and their means, worked out by hand; folds of one's own."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import polars
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, PredefinedSplit, ShuffleSplit, TimeSeriesSplit

import minicf
from minicf import Ratings
from minicf.data import UnknownIdError
from minicf.recommender import quality
from tests.peers.toys import SCORES, recommender
from tests.test_recommender import quick, table

LISTS = ["precision", "recall", "recall_min", "ndcg", "map", "mrr", "hit_rate", "ndcg_graded", "novelty"]

TEST = pd.DataFrame(
    [
        (1, 30, 3.0), (1, 40, 5.0),
        (2, 10, 5.0), (2, 99, 4.0),
        (3, 30, 4.0), (3, 10, 1.0),
        (9, 40, 5.0), (9, 20, 2.0),
        (7, 10, 1.0),
    ],
    columns=["userId", "movieId", "rating"],
)  # fmt: skip
"""Of the toy model: item 99 and users 7 and 9 are unknown, user 7 has no relevant item (3 is the mean of training).

Lists of two: user 1 [30, 40], 2 [10, 40] (equal scores), 3 [10, 30], 7 and 9 [10, 40]. The lowest rating of training
is 1: a gain of 0.
"""

HALF = 1 / math.log2(3)
"""The discount of the second place."""

EXPECTED = {  # by user: hits [1, 1] of 2, [1, 0] of 2, [0, 1] of 1, [0, 1] of 1
    "precision": {1: 1, 2: 1 / 2, 3: 1 / 2, 9: 1 / 2},
    "recall": {1: 1, 2: 1 / 2, 3: 1, 9: 1},
    "recall_min": {1: 1, 2: 1 / 2, 3: 1, 9: 1},
    "ndcg": {1: 1, 2: 1 / (1 + HALF), 3: HALF, 9: HALF},
    "map": {1: 1, 2: 1 / 2, 3: 1 / 2, 9: 1 / 2},
    "mrr": {1: 1, 2: 1, 3: 1 / 2, 9: 1 / 2},
    "hit_rate": {1: 1, 2: 1, 3: 1, 9: 1},
    # In training, each item is one user's of three, but 20, which is in no list.
    "novelty": dict.fromkeys((1, 2, 3, 9), math.log2(3)),
    # Gains [2, 4] of 4, 2; [4, 0] of 4, 3 (an unknown item is missed); [0, 3] of 3, 0; [0, 4] of 4, 1.
    "ndcg_graded": {1: (2 + 4 * HALF) / (4 + 2 * HALF), 2: 4 / (4 + 3 * HALF), 3: HALF, 9: 4 * HALF / (4 + HALF)},
    # User 1 has no other candidate; 2: 10 = 40; 3: 30 < 10, 30 > 20; 9: 40 = 10, above 20 and 30.
    "auc": {1: math.nan, 2: 1 / 2, 3: 1 / 2, 9: float(Fraction(5, 6))},
}


# --- by user ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", ["bias", "nan"])
def test_measures_by_hand(unknown):
    model = recommender(unknown=unknown)
    users = model.evaluate_users(TEST, k=2, auc=True)
    assert users.index.tolist() == [1, 2, 3, 7, 9]
    assert users.index.name == "userId"
    assert users.columns.tolist() == ["known", "n_test", "relevant", "rmse", "mae", *LISTS, "auc"]
    assert users.known.tolist() == [True, True, True, False, False]
    assert users.n_test.tolist() == [2, 2, 2, 1, 2]
    assert users.relevant.tolist() == [2, 2, 1, 0, 1]
    for name, values in EXPECTED.items():
        expected = [values.get(user, math.nan) if unknown == "bias" or user < 4 else math.nan for user in users.index]
        assert users[name].tolist() == pytest.approx(expected, rel=1e-12, nan_ok=True), name
    # Item 99 is (1/4, 1/2) and has no bias: user 2, (0, 1) - 1/2, gives it 3. User 9: 3.25 and 3; user 7: 3.25.
    errors = {1: [0, 2.25], 2: [2.25, 1], 3: [2.5, 1.25], 7: [2.25], 9: [1.75, 1]}
    if unknown == "nan":
        errors |= {2: [2.25], 7: [], 9: []}
    means = [np.mean(errors[user]) if errors[user] else math.nan for user in users.index]
    roots = [np.sqrt(np.mean(np.square(errors[user]))) if errors[user] else math.nan for user in users.index]
    assert users.mae.tolist() == pytest.approx(means, rel=1e-6, nan_ok=True)
    assert users.rmse.tolist() == pytest.approx(roots, rel=1e-6, nan_ok=True)
    found = model.evaluate(TEST, k=2, auc=True)
    assert found["mae"] == pytest.approx(np.mean(np.concatenate([*errors.values()])), rel=1e-6)
    assert (found["users"], found["users_unknown"]) == ((4, 2) if unknown == "bias" else (3, 2))


@pytest.mark.parametrize("unknown", ["bias", "nan"])
@pytest.mark.parametrize("k", [1, 3, 10, 50])
def test_means_over_users_are_the_measures(unknown, k):
    data = table(n_users=30, n_items=20)
    strange = pd.DataFrame({"userId": [-1, -1, 107], "movieId": [1000, 997, -5], "rating": [5.0, 1.0, 5.0]})
    train, test = data.iloc[::2], pd.concat([data.iloc[1::2], strange])
    model = quick(unknown=unknown).fit(train)
    users, found = model.evaluate_users(test, k=k, auc=True), model.evaluate(test, k=k, auc=True)
    for name in (*LISTS, "auc"):
        assert found[name] == users[name].mean() == pytest.approx(np.nanmean(users[name])), name
    assert (found["users"], found["rows"]) == (users.precision.notna().sum(), users.n_test.sum())
    assert found["users_unknown"] == (~users.known).sum()
    _, known = model.predict(test, return_known=True)
    counted = pd.Series(known if unknown == "nan" else np.ones(len(test), bool)).groupby(test.userId.to_numpy()).sum()
    assert found["rmse"] == pytest.approx(np.sqrt((users.rmse**2 * counted).sum() / counted.sum()))
    assert found["mae"] == pytest.approx((users.mae * counted).sum() / counted.sum())
    assert list(found)[2:11] == LISTS
    assert "auc" not in model.evaluate(test, k=k)
    pd.testing.assert_frame_equal(model.evaluate_users(test, k=k), users.drop(columns="auc"))


def test_unknown_ids_raise_if_they_are_to():
    model = recommender(unknown="raise")
    with pytest.raises(UnknownIdError, match="unknown user"):
        model.evaluate_users(TEST, k=2)
    known = TEST[(TEST.userId < 4) & (TEST.movieId < 99)]
    pd.testing.assert_frame_equal(
        model.evaluate_users(known, k=2, auc=True), recommender().evaluate_users(known, k=2, auc=True)
    )


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_against_scikit_learn(exclude_seen):
    """Whole rankings, with the items that a list may hold."""
    data = table(n_users=25, n_items=18)
    train, test = data.iloc[::2], data.iloc[1::2]
    model = quick().fit(train)
    lowest = model.rating_range_[0]
    users = model.evaluate_users(test, k=18, auc=True, exclude_seen=exclude_seen)
    lists = model.recommend(users.index, 18, exclude_seen=exclude_seen)
    compared = 0
    for user, ranking in lists.groupby("userId"):
        own = test[test.userId == user].set_index("movieId").rating
        rating = ranking.movieId.map(own)
        good = rating >= train.rating.mean()
        if 0 < good.sum() == users.relevant[user] and not good.all():
            gain = (rating - lowest).clip(lower=0).fillna(0)
            assert users.auc[user] == pytest.approx(roc_auc_score(good, ranking.score))
            assert users.ndcg[user] == pytest.approx(ndcg_score([good], [ranking.score]))
            assert users.ndcg_graded[user] == pytest.approx(ndcg_score([gain], [ranking.score]))
            compared += 1
    assert compared > 10


def test_no_relevant_items():
    users = recommender().evaluate_users(TEST, relevant=6.0, auc=True)
    assert users[[*LISTS, "auc"]].isna().all(axis=None)
    assert users.relevant.tolist() == [0] * 5
    assert users.rmse.notna().all()
    found = recommender().evaluate(TEST, relevant=6.0, auc=True)
    assert all(math.isnan(found[name]) for name in (*LISTS, "auc", "coverage"))
    assert found["users"] == 0


def test_a_gain_of_nothing_is_undefined():
    """User 3 rated all at the lowest of training; asked that any rating be relevant, its graded NDCG is 0 / 0."""
    rows = pd.DataFrame({"userId": [3, 1], "movieId": [10, 30], "rating": [1.0, 3.0]})
    users = recommender().evaluate_users(rows, k=2, relevant=0.0)
    assert users.ndcg.tolist() == [1, 1]
    assert users.ndcg_graded.tolist() == pytest.approx([1, math.nan], nan_ok=True)
    assert recommender().evaluate(rows, k=2, relevant=0.0)["ndcg_graded"] == 1
    below = rows.assign(rating=[-4.0, 3.0])  # gains nothing either
    assert recommender().evaluate(below, k=2, relevant=-9.0)["ndcg_graded"] == 1


def test_repeated_pairs_of_ratings_count_once():
    """A list holds an item once: two ratings of it, 5 and 3, are one relevant item with their mean."""
    ids = minicf.Vocabulary([1]), minicf.Vocabulary([30, 40])
    twice = Ratings([0, 0, 0], [0, 0, 1], [5.0, 3.0, 4.0], users=ids[0], items=ids[1])
    users = recommender().evaluate_users(twice, k=2)
    assert (users.relevant[1], users.recall[1], users.n_test[1]) == (2, 1, 3)
    assert users.ndcg_graded[1] == 1


def test_the_auc_does_not_depend_on_blocks(monkeypatch):
    data = table(n_users=30, n_items=20)
    model = quick().fit(data.iloc[::2])
    expected = model.evaluate_users(data.iloc[1::2], auc=True)
    sizes = []
    whole = quality.metrics.auc
    monkeypatch.setattr(quality.metrics, "auc", lambda s, *a: (sizes.append(s.size), whole(s, *a))[1])
    for held in (1, 50, 20 * 7):
        monkeypatch.setattr(quality, "SCORES", held)
        pd.testing.assert_frame_equal(model.evaluate_users(data.iloc[1::2], auc=True), expected)
        assert max(sizes) <= max(20, held)
        sizes.clear()


def test_text_ids_and_a_column_named_like_a_measure():
    data = table(text=True).rename(columns={"userId": "map"})
    model = quick(user="map").fit(data.iloc[::2])
    users = model.evaluate_users(data.iloc[1::2])
    assert users.index.name == "map"
    assert sorted(users.index) == sorted(data.iloc[1::2]["map"].unique())
    assert users["map"].dtype == float


def test_a_model_without_seen_items_has_an_auc_among_all_items(tmp_path):
    """User 1: 30 is below 10 and 20, above 40."""
    recommender().save(tmp_path / "m.npz", seen=False)
    bare = minicf.load(tmp_path / "m.npz")
    rows = TEST[TEST.movieId == 30].head(1)
    assert bare.evaluate(rows, exclude_seen=False, auc=True)["auc"] == pytest.approx(1 / 3)
    assert SCORES[1][40] < SCORES[1][30] < SCORES[1][20]
    with pytest.raises(ValueError, match="saved without seen items"):
        bare.evaluate(rows, auc=True)


# --- folds ------------------------------------------------------------------------------------------------------------

ERRORS = ["rmse", "mae", "rows_unknown"]


@pytest.fixture(scope="module")
def frame():
    return table()


def by_hand(frame, folds):
    """Return rmse and mae of each fold."""
    found = []
    for train, test in folds:
        model = quick().fit(frame.iloc[train])
        error = model.predict(frame.iloc[test]) - frame.rating.to_numpy()[test]
        found.append([np.sqrt(np.mean(error**2)), np.mean(np.abs(error))])
    return found


@pytest.mark.parametrize("name", ["KFold", "GroupKFold", "TimeSeriesSplit", "ShuffleSplit", "PredefinedSplit"])
def test_folds_of_a_splitter(frame, name):
    numbers = np.arange(len(frame)) % 4 - 1  # -1: never tested
    splitter, groups = {
        "KFold": (KFold(3), None),
        "GroupKFold": (GroupKFold(3), frame.userId),
        "TimeSeriesSplit": (TimeSeriesSplit(3), None),
        "ShuffleSplit": (ShuffleSplit(2, train_size=0.5, test_size=0.2, random_state=0), None),
        "PredefinedSplit": (PredefinedSplit(numbers), None),
    }[name]
    folds = [*splitter.split(frame, groups=groups)]
    result = minicf.cross_validate(quick(), frame, cv=splitter, groups=groups)
    assert result.index.tolist() == [*(f"fold {i + 1}" for i in range(len(folds))), "mean", "std"]
    np.testing.assert_allclose(result[["rmse", "mae"]][:-2], by_hand(frame, folds), rtol=1e-6)  # float32 errors
    for cv in (folds, iter(folds), [(train.tolist(), test.tolist()) for train, test in folds]):
        pd.testing.assert_frame_equal(minicf.cross_validate(quick(), frame, cv=cv)[ERRORS], result[ERRORS])
    if name == "GroupKFold":
        assert result.rows_unknown[:3].tolist() == [len(test) for _, test in folds]  # of unknown users


def test_folds_by_number_and_by_masks(frame):
    fold_of = np.arange(len(frame)) % 3
    masks = [(fold_of != fold, fold_of == fold) for fold in range(3)]
    expected = by_hand(frame, [(np.flatnonzero(a), np.flatnonzero(b)) for a, b in masks])
    X, y = frame[["userId", "movieId"]].to_numpy(), frame.rating.to_numpy()
    columns = {name: frame[name].tolist() for name in frame}
    for cv in (fold_of, fold_of.tolist(), pd.Series(fold_of, index=fold_of + 5), fold_of.astype(np.uint8), masks):
        for table_ in ((frame,), (X, y), (X.tolist(), y), (Ratings.from_frame(frame),), (polars.DataFrame(columns),)):
            result = minicf.cross_validate(quick(), *table_, cv=cv)
            np.testing.assert_allclose(result[["rmse", "mae"]][:-2], expected, rtol=1e-6)
    drawn = np.empty(len(frame), int)
    for fold, (_, test) in enumerate(minicf.RatingFolds(3, 7).split(frame)):
        drawn[test] = fold
    pd.testing.assert_frame_equal(
        minicf.cross_validate(quick(), frame, cv=drawn)[ERRORS],
        minicf.cross_validate(quick(), frame, cv=3, seed=7)[ERRORS],
    )


@pytest.mark.parametrize("shuffle", [True, False])
def test_rating_folds_spread_each_user(shuffle):
    """A table sorted by user: scikit-learn's thirds leave users out of training, these never do."""
    data = table().sort_values("userId", ignore_index=True)
    rare = pd.DataFrame({"userId": [500, 600, 600], "movieId": 1000, "rating": 3.0})
    data = pd.concat([data, rare], ignore_index=True)
    folds = [*minicf.RatingFolds(3, shuffle=shuffle).split(data)]
    everything = np.concatenate([test for _, test in folds])
    assert sorted(everything) == list(range(len(data)))
    sizes = [len(test) for _, test in folds]
    assert max(sizes) - min(sizes) <= 1
    counts = pd.DataFrame([data.userId.iloc[test].value_counts() for _, test in folds]).fillna(0)
    assert (counts.max() - counts.min()).max() <= 1
    unseen = [set(data.userId.iloc[test]) - set(data.userId.iloc[train]) for train, test in folds]
    assert set.union(*unseen) == {500}  # whose only row it is
    thirds = [set(data.userId.iloc[test]) - set(data.userId.iloc[train]) for train, test in KFold(3).split(data)]
    assert len(set.union(*thirds)) > 10
    assert all(len(np.intersect1d(train, test)) == 0 and len(train) + len(test) == len(data) for train, test in folds)


def test_rating_folds_of_any_table(frame):
    expected = [test.tolist() for _, test in minicf.RatingFolds(3, 1).split(frame)]
    named = frame.rename(columns={"userId": "u"})[["movieId", "u", "rating"]]
    given = {
        "Ratings": (Ratings.from_frame(frame), None),
        "array": (frame[["userId", "movieId"]].to_numpy(), None),
        "rows": (frame[["userId", "movieId"]].to_numpy().tolist(), None),
        "named": (named, "u"),
        "polars": (polars.DataFrame({name: frame[name].tolist() for name in frame}), None),
    }
    for name, (X, user) in given.items():
        splitter = minicf.RatingFolds(3, 1, user=user)
        found = [test.tolist() for _, test in splitter.split(X)]
        assert found == expected, name
    other = [test.tolist() for _, test in minicf.RatingFolds(3, 2).split(frame)]
    assert other != expected
    assert minicf.RatingFolds(4).get_n_splits() == 4
    assert repr(minicf.RatingFolds(4, 2)) == "RatingFolds(4, random_state=2, shuffle=True)"
    with pytest.raises(ValueError, match="n_splits is 98; it must be at most the number of rows, 97"):
        next(minicf.RatingFolds(98).split(frame))
    with pytest.raises(ValueError, match="no column 'who'"):
        next(minicf.RatingFolds(user="who").split(frame))


def test_a_ranking_scorer_knows_the_seen_items(frame):
    search = GridSearchCV(
        quick(), {"n_factors": [1, 3]}, cv=minicf.RatingFolds(2), scoring=minicf.ranking_scorer("map", k=4)
    ).fit(frame[["userId", "movieId"]], frame.rating)
    (train, test), _ = minicf.RatingFolds(2).split(frame)
    model = quick(n_factors=1).fit(frame.iloc[train])
    assert search.cv_results_["split0_test_score"][0] == model.evaluate_users(frame.iloc[test], k=4)["map"].mean() > 0
    with pytest.raises(ValueError, match="measure is 'rmse'"):
        minicf.ranking_scorer("rmse")
    with pytest.raises(TypeError, match="must be a recommender"):
        minicf.ranking_scorer()(KFold(), frame)


def test_baselines_are_cross_validated(frame):
    found = minicf.cross_validate(minicf.MostPopular(), frame, cv=3, k=4)
    rows = [test for _, test in minicf.RatingFolds(3, 0).split(frame)]
    for at, test in enumerate(rows):
        own = minicf.MostPopular().fit(frame.drop(index=frame.index[test])).evaluate(frame.iloc[test], k=4)
        assert found.iloc[at][["rmse", *LISTS]].tolist() == pytest.approx([own[x] for x in ("rmse", *LISTS)])


def test_errors_of_training(frame):
    folds = [(np.arange(60), np.arange(60, 90))]
    result = minicf.cross_validate(quick(), frame, cv=folds, return_train_score=True)
    error = quick().fit(frame[:60]).predict(frame[:60]) - frame.rating[:60]
    assert result.train_rmse.iloc[0] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert result.train_mae.iloc[0] == pytest.approx(np.mean(np.abs(error)))
    lists = minicf.cross_validate(quick(), frame, cv=folds, return_train_score=True, k=3)
    assert {*LISTS, "train_rmse", "train_mae", "coverage"} < set(lists.columns)


GOOD = np.arange(50), np.arange(50, 97)


@pytest.mark.parametrize(
    ("cv", "match"),
    [
        ([GOOD, (np.arange(53), np.arange(50, 97))], "fold 2: 3 rows are in both train and test"),
        ([(np.arange(50), np.arange(50, 98))], "fold 1, test has rows 50 … 97; they must be from 0 to 96"),
        ([(np.arange(-1, 50), np.arange(60, 70))], "train has rows -1 … 49"),
        ([(np.arange(50), [])], "fold 1, test has shape .0,.; it must hold at least one"),
        ([(np.zeros(97, bool), np.ones(97, bool))], "train has shape"),
        ([(np.ones(96, bool), np.ones(96, bool))], "mask of 96 booleans; it must have one for each of the 97"),
        ([(np.arange(50.0), np.arange(50, 97))], "train has dtype float64"),
        ([([1, 1, 2, 2, 2], [5])], "train names 3 rows more than once"),
        ([(np.ma.array(np.arange(50), mask=np.arange(50) == 3), [60])], "1 masked of 50"),
        ([GOOD[:1]], "fold 1 is a tuple; it must be a pair"),
        ([GOOD, 3], "fold 2 is 3; it must be a pair"),
        ([], "no folds"),
        (np.zeros(97, int), "1 fold; it must have at least 2"),
        (np.arange(97) % 3 + 1, "the folds 1, 2, 3; they must be numbered from 0"),
        (np.arange(97) % 2 * 2, "the folds 0, 2;"),
        (np.arange(97) % 3 - 1, "PredefinedSplit takes -1"),
        (np.arange(96) % 3, "int64 and 96 values.* each of the 97"),
        (np.arange(97) % 2 == 0, "dtype bool"),
        (np.arange(97) % 2.0, "dtype float64"),
        (1, "cv is 1"),
        (2.5, "cv is 2.5"),
        (True, "cv is True"),
        (None, "cv is None"),
        (98, "at most the number of ratings, 97"),
    ],
)
def test_nonsense_for_folds_is_refused(frame, cv, match):
    with pytest.raises(ValueError, match=match):
        minicf.cross_validate(quick(), frame, cv=cv)


def test_other_refusals_of_folds(frame):
    for cv in ("KFold", b"5", object()):
        with pytest.raises(ValueError, match=r"cv is .*it must be a number"):
            minicf.cross_validate(quick(), frame, cv=cv)
    for cv in (3, [GOOD]):
        with pytest.raises(ValueError, match=r"groups is given.*splitter that takes groups"):
            minicf.cross_validate(quick(), frame, cv=cv, groups=frame.userId)
    twice = pd.concat([frame, frame[:4]])
    with pytest.raises(ValueError, match=r"X has 101 rows of 97 pairs .*merge repeated"):
        minicf.cross_validate(quick(duplicates="mean"), twice, cv=KFold(3))
    with pytest.raises(ValueError, match="return_train_score is 1"):
        minicf.cross_validate(quick(), frame, return_train_score=1)
