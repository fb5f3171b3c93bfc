"""New users and items from a few ratings: the closed form, no other row touched, and how good it is."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf.data import Batch, UnknownIdError
from minicf.recommender import Recommender, fold_in
from tests.cases import ALL_MODELS

SIDES = ("user", "item")


@pytest.fixture(scope="module")
def movielens():
    return minicf.load_movielens().split(0.2, seed=42)


@pytest.fixture
def fitted(movielens):
    return Recommender(n_factors=6, epochs=5).fit(movielens[0])


def problem(model, side):
    random = np.random.RandomState(1)
    weights = {name: w + 0.3 * random.normal(size=w.shape) for name, w in model.init_weights(5, 6, seed=2).items()}
    other = np.array([0, 2, 3, 2, 4])
    rating = random.uniform(1, 5, 5)
    d = fold_in.table(model, side, weights).shape[1]
    root = random.normal(size=(d, d))
    return weights, other, rating, random.normal(size=d), root @ root.T / d + np.eye(d)


def objective(model, weights, side, other, rating, x0, a, x):
    """(G1) by the model's own predictions, the row put where row 0 was."""
    w = {name: value.copy() for name, value in weights.items()}
    k = model.n_factors
    for name, value in zip(model.tables(side), (x[:k], x[-1]), strict=False):
        w[name][0] = value
    here = np.zeros(len(other), int)
    y = model.predict(w, Batch(here, other) if side == "user" else Batch(other, here))
    return ((y - rating) ** 2).sum() + (x - x0) @ a @ (x - x0)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("model", [m for m in ALL_MODELS.values() if isinstance(m, minicf.Dot) and not m.rating_range])
def test_without_a_range_it_is_ridge_regression(model, side):
    weights, other, rating, x0, a = problem(model, side)
    opposite = "item" if side == "user" else "user"
    design = weights[f"{opposite}_factors"][other]
    target = rating - model.global_mean
    if model.biases:
        design = np.column_stack([design, np.ones(len(other))])
        target = target - weights[f"{opposite}_bias"][other]
    expected = np.linalg.solve(design.T @ design + a, design.T @ target + a @ x0)
    got = fold_in.solve(model, weights, side, other, rating, x0, a)
    np.testing.assert_allclose(got, expected, rtol=1e-8)  # one solve, in float64


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("model", ALL_MODELS.values(), ids=ALL_MODELS)
def test_it_is_a_minimum_for_every_model(model, side):
    weights, other, rating, x0, a = problem(model, side)
    before = {name: w.copy() for name, w in weights.items()}
    x = fold_in.solve(model, weights, side, other, rating, x0, a)
    assert all((weights[name] == before[name]).all() for name in weights)
    value = objective(model, weights, side, other, rating, x0, a, x)
    assert value < objective(model, weights, side, other, rating, x0, a, x0)
    # A step of 1e-3 lifts the objective by about 1e-6. With relu it may end at a kink; along it a step still helps.
    smooth = isinstance(model.output_head(weights)[0], minicf.Dot)
    for direction in np.random.RandomState(3).normal(size=(20, len(x))):
        assert objective(model, weights, side, other, rating, x0, a, x + 1e-3 * direction) > value * (
            1 if smooth else 0.999
        )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["dot", "dot_bias", "net", "hybrid"])
def test_only_the_new_row_is_new(movielens, name, side):
    recommender = Recommender(name, n_factors=4, epochs=2, batch_size=256).fit(movielens[0])
    frame = movielens[0].frame()
    pairs = frame[["userId", "movieId"]].head(500)
    before, predicted = {k: v.copy() for k, v in recommender.weights_.items()}, recommender.predict(pairs)
    lists = recommender.recommend([1, 2, 3], 5)
    column = {"user": "movieId", "item": "userId"}[side]
    ratings = dict(zip(frame[column].unique()[:6].tolist(), [5, 4, 3, 2, 1, 5], strict=True))
    row = recommender.fold_in(ratings, id=-7, side=side)  # before all others: every index moves
    assert row.iloc[0, 0] == -7
    assert len(row) == 1
    np.testing.assert_array_equal(recommender.predict(pairs), predicted)
    for name, old in before.items():
        new = recommender.weights_[name]
        np.testing.assert_array_equal(new[1:] if name.startswith(side) else new, old)
    if side == "user":
        own = recommender.recommend(-7, 4)
        assert len(own) == 4
        assert own.known.all()
        assert not set(own.movieId) & set(ratings)
        pd.testing.assert_frame_equal(recommender.recommend([1, 2, 3], 5), lists)


def test_many_at_once_equal_one_by_one(fitted, movielens):
    frame = movielens[1].frame().query("userId < 6").assign(userId=lambda f: f.userId + 10_000)
    frame = frame[frame.movieId.isin(fitted.items_.ids)]
    single = copy.deepcopy(fitted)
    fitted.fold_in(frame)
    for user, own in frame.groupby("userId"):
        single.fold_in(own.drop(columns="userId"), id=user)
    assert single.users_ == fitted.users_
    for name, w in fitted.weights_.items():
        # Each from tables with a few more rows than the other's: their mean and covariance differ by these.
        np.testing.assert_allclose(single.weights_[name], w, atol=0.02)
    assert single.seen_.side == fitted.seen_.side == "user"
    assert single.seen_.start.tolist() == fitted.seen_.start.tolist()
    assert single.seen_.index.tolist() == fitted.seen_.index.tolist()


@pytest.mark.parametrize("solver", ["sgd", "gibbs"])
def test_a_trained_users_own_ratings_give_the_trained_users_predictions(movielens, solver):
    """Item tables fixed: within 0.05 stars on average, or the Monte Carlo error, on their own items and on all."""
    recommender = Recommender(solver=solver).fit(movielens[0])
    frame = movielens[0].frame()
    again = frame.assign(userId=frame.userId + 10_000)
    recommender.fold_in(again)
    differences, halves = [], []
    users = frame.userId.unique()[::10]
    for user in users:
        items = pd.DataFrame({"userId": user, "movieId": recommender.items_.ids})
        differences.append(recommender.predict(items.assign(userId=user + 10_000)) - recommender.predict(items))
    if solver == "gibbs":
        rows = [np.repeat(recommender.users_.index(user), len(recommender.items_)) for user in users]
        for part in np.split(np.arange(100), 2):  # of the samples
            own = {name: getattr(recommender.posterior_, name) for name in ("samples", "noise")}
            own = {name: {side: x[part] for side, x in of.items()} for name, of in own.items()}
            half = replace(recommender.posterior_, **own, alpha=recommender.posterior_.alpha[part])
            halves.append([half.predict(row, np.arange(len(row)))[0] for row in rows])
    # Means of independent halves differ by twice the error of the mean of both.
    limit = 0.05 if solver == "sgd" else np.abs(np.subtract(*halves)).mean() / 2
    assert np.abs(recommender.predict(again) - recommender.predict(frame)).mean() < limit
    assert np.abs(differences).mean() < limit


def test_five_ratings_beat_none(movielens):
    frame = pd.concat([part.frame() for part in movielens], ignore_index=True)
    new = frame.userId % 3 == 0
    recommender = Recommender().fit(frame[~new])
    theirs = frame[new & frame.movieId.isin(recommender.items_.ids)].sample(frac=1, random_state=1)
    few = theirs.groupby("userId").cumcount() < 5
    rest = theirs[~few]
    without = recommender.predict(rest)
    recommender.fold_in(theirs[few])
    errors = [float(np.sqrt(np.mean((p - rest.rating) ** 2))) for p in (without, recommender.predict(rest))]
    assert errors[1] < errors[0] - 0.03  # 0.971 and 0.916 when this was written


def test_refusals(fitted):
    with pytest.raises(ValueError, match="user 1 is already known; use recalculate"):
        fitted.fold_in({1: 5.0}, id=1)
    with pytest.raises(ValueError, match="new user ids are text; they must be integers"):
        fitted.fold_in({1: 5.0}, id="new")
    with pytest.raises(ValueError, match="user 9999 has no rating with a known movieId"):
        fitted.fold_in({-5: 5.0}, id=9999)
    with pytest.raises(TypeError, match=r"must be a mapping \{movieId: rating\} or a frame"):
        fitted.fold_in([5.0], id=9999)
    with pytest.raises(ValueError, match="side is 'film'"):
        fitted.fold_in({1: 5.0}, id=9999, side="film")
    with pytest.raises(ValueError, match="no column"):
        fitted.fold_in(pd.DataFrame({"movie": [1]}), id=9999)
    with pytest.raises(ValueError, match="not finite"):
        fitted.fold_in({1: np.inf}, id=9999)
    fitted.unknown = "raise"
    with pytest.raises(UnknownIdError, match="unknown item -5"):
        fitted.fold_in({1: 5.0, -5: 3.0}, id=9999)
    assert fitted.users_.index(9999, missing=-1) == -1


def test_unknown_others_are_left_out(fitted):
    other = copy.deepcopy(fitted)
    row = fitted.fold_in({1: 5.0, -5: 3.0}, id=9999)
    pd.testing.assert_frame_equal(row, other.fold_in(pd.Series({1: 5.0}), id=9999))


# --- known ids anew ---------------------------------------------------------------------------------------------------

COLUMN = {"user": "userId", "item": "movieId"}


def some_ratings(recommender, side, at=slice(2, 9)):
    other = recommender.vocabulary("item" if side == "user" else "user").ids[at].tolist()
    return dict(zip(other, [5.0, 4.0, 1.0, 2.5, 3.0, 0.5, 4.5], strict=False))


def seen_pairs(recommender):
    user = np.repeat(recommender.users_.ids, np.diff(recommender.seen_.start))
    return set(zip(user.tolist(), recommender.items_.ids[recommender.seen_.index].tolist(), strict=True))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["dot", "dot_bias", "net", "hybrid"])
def test_a_known_row_anew_is_that_of_a_new_id_with_these_ratings(movielens, tmp_path, name, side):
    recommender = Recommender(name, n_factors=4, epochs=1, batch_size=256).fit(movielens[0])
    twin, ratings = copy.deepcopy(recommender), some_ratings(recommender, side)
    ids = recommender.vocabulary(side).ids
    first, new = int(ids[5]), int(ids[-1]) + 1
    before, pairs = dict(vars(recommender)), seen_pairs(recommender)
    recommender.recommend([1, first], 5), recommender.similar_items(1), recommender.similar_users(1)
    row = recommender.recalculate(ratings, id=first, side=side)
    expected = twin.fold_in(ratings, id=new, side=side)
    assert row[COLUMN[side]].tolist() == [first]
    numbers = [column for column in row if column not in (COLUMN[side], "title")]
    assert row[numbers].to_numpy().tobytes() == expected[numbers].to_numpy().tobytes()
    assert recommender.titles_ is before["titles_"]
    if side == "item":
        assert row.title.tolist() == [before["titles_"][5]]
    for key in ("users_", "items_", "n_ratings_", "rating_range_"):
        assert vars(recommender)[key] == before[key]
    own = recommender.vocabulary(side).index(first)
    for key, old in before["weights_"].items():
        now = recommender.weights_[key]
        if key in recommender.model_.tables(side):
            assert not (now[own] == old[own]).all()
            now, old = np.delete(now, own, axis=0), np.delete(old, own, axis=0)
        np.testing.assert_array_equal(now, old)
    at = SIDES.index(side)
    given = {(first, other) if side == "user" else (other, first) for other in ratings}
    assert seen_pairs(recommender) == {pair for pair in pairs if pair[at] != first} | given
    assert all((np.diff(recommender.seen_.index[lo:hi]) > 0).all()
               for lo, hi in zip(recommender.seen_.start, recommender.seen_.start[1:], strict=False))  # fmt: skip
    recommender.save(tmp_path / "m.npz")
    again = minicf.load(tmp_path / "m.npz")
    users = recommender.users_.ids[:20]
    fresh = copy.deepcopy(recommender)
    fresh._cache = {}
    for other in (again, fresh):
        pd.testing.assert_frame_equal(other.recommend(users, 5), recommender.recommend(users, 5))
        pd.testing.assert_frame_equal(other.similar_items(1), recommender.similar_items(1))
    if side == "user":
        left = recommender.recommend(first, 10**6)
        assert len(left) == len(recommender.items_) - len(ratings)
        assert not set(left.movieId) & set(ratings)


@pytest.mark.parametrize("side", SIDES)
def test_many_known_rows_anew_at_once_are_those_one_by_one_from_the_same_tables(fitted, side):
    other = COLUMN["item" if side == "user" else "user"]
    ids = fitted.vocabulary(side).ids[[7, 3, 50]].tolist()
    each = {id: some_ratings(fitted, side, slice(at, at + 4)) for at, id in enumerate(ids)}
    frame = pd.DataFrame(
        [(id, x, value) for id, own in each.items() for x, value in own.items()],
        columns=[COLUMN[side], other, "rating"],
    )
    singles = {id: copy.deepcopy(fitted).recalculate(own, id=id, side=side) for id, own in each.items()}
    together = fitted.recalculate(frame, side=side)
    pd.testing.assert_frame_equal(together, pd.concat([singles[id] for id in sorted(ids)], ignore_index=True))


def test_a_known_row_anew_stays_after_an_error(fitted, monkeypatch):
    before = dict(vars(fitted))
    for call, error, said in (
        (lambda: fitted.recalculate({1: 5.0}, id=9999), ValueError, "user 9999 is not known; use fold_in"),
        (lambda: fitted.recalculate({-5: 5.0}, id=1), ValueError, "user 1 has no rating with a known movieId"),
        (lambda: fitted.recalculate({1: np.nan}, id=1), ValueError, "missing rating"),
        (lambda: fitted.recalculate({1: 5.0}, id="1"), ValueError, "new user ids are text; they must be integers"),
        (lambda: fitted.recalculate([5.0], id=1), TypeError, r"must be a mapping \{movieId: rating\} or a frame"),
        (lambda: fitted.recalculate({1: 5.0}, id=1, side="film"), ValueError, "side is 'film'"),
        (lambda: fitted.recalculate({}, id=1), ValueError, "no ratings|no rows"),
    ):
        with pytest.raises(error, match=said):
            call()
    monkeypatch.setattr("minicf.recommender.growth.Growth.seen", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        fitted.recalculate({1: 5.0}, id=1)
    assert vars(fitted).keys() == before.keys()
    assert all(vars(fitted)[name] is value for name, value in before.items())


def test_a_known_row_anew_without_seen_items(fitted, tmp_path):
    fitted.save(tmp_path / "m.npz", seen=False)
    bare = minicf.load(tmp_path / "m.npz")
    pd.testing.assert_frame_equal(bare.recalculate({1: 5.0}, id=1), fitted.recalculate({1: 5.0, -5: 1.0}, id=1))
    assert bare.seen_ is None
    with pytest.warns(UserWarning, match="on the scale of training, 0.5 … 5") as caught:
        fitted.recalculate({1: 9.0}, id=1)
    assert [warning.filename for warning in caught] == [__file__]
    assert fitted.rating_range_ == (0.5, 5.0)
    fitted.unknown = "raise"
    with pytest.raises(UnknownIdError, match="unknown item -5"):
        fitted.recalculate({1: 5.0, -5: 3.0}, id=1)
