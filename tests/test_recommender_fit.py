"""Callbacks and validation ratings of one's own in the recommender's fit."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from minicf import Adam, Callback, EarlyStopping, Ratings, Recommender
from minicf.data import UnknownIdError


def frame(n=600, seed=0) -> pd.DataFrame:
    random = np.random.RandomState(seed)
    pairs = random.choice(30 * 40, n, replace=False)
    return pd.DataFrame({
        "userId": 1 + pairs // 40, "movieId": 1 + pairs % 40, "rating": random.randint(1, 11, n) / 2
    })  # fmt: skip


def quick(**arguments) -> Recommender:
    return Recommender(**{"n_factors": 3, "epochs": 6, **arguments})


@pytest.fixture(scope="module")
def parts():
    data = frame()
    return data.iloc[:500], data.iloc[500:]


@pytest.mark.parametrize("kind", ["frame", "ratings", "tuple", "tuple of a frame"])
@pytest.mark.parametrize("optimizer", [None, Adam(0.01)])
def test_validation_errors_are_in_stars(parts, kind, optimizer):
    train, valid = parts
    ids = valid[["userId", "movieId"]]
    given = {
        "frame": valid,
        "ratings": Ratings.from_frame(valid),
        "tuple": (ids.to_numpy(), valid.rating.to_numpy()),
        "tuple of a frame": (ids, valid.rating),
    }
    recommender = quick(optimizer=optimizer).fit(train, valid=given[kind])
    assert len(recommender.history_) == 6
    user, item = recommender.users_.index(valid.userId), recommender.items_.index(valid.movieId)
    error = recommender.scores.pairs(user, item) - valid.rating.to_numpy()
    # Standardized in float32 and scaled back: some ten roundings of 6e-8.
    assert recommender.history_.valid_mse.iloc[-1] == pytest.approx(np.mean(error**2), rel=2e-6)
    unseen = quick(optimizer=optimizer).fit(train)
    for name, value in unseen.weights_.items():
        np.testing.assert_array_equal(recommender.weights_[name], value)
    assert unseen.history_.valid_mse.isna().all()


def test_early_stopping_uses_them_and_holds_nothing_out(parts):
    train, valid = parts
    recommender = quick(epochs=60, early_stopping=2, optimizer=Adam(0.1)).fit(train, valid=valid)
    errors = recommender.history_.valid_mse
    assert 2 < len(errors) < 60
    assert errors.idxmin() == len(errors) - 3
    best = quick(epochs=60, optimizer=Adam(0.1)).fit(train, callbacks=[Stop(len(errors) - 2)])
    for name, value in best.weights_.items():
        np.testing.assert_array_equal(recommender.weights_[name], value)


class Stop(Callback):
    def __init__(self, epoch):
        self.epoch, self.seen = epoch, []

    def on_epoch_end(self, trainer, row):
        self.seen.append((row["epoch"], trainer.epoch, row["train_mse"]))
        return row["epoch"] == self.epoch


@pytest.mark.parametrize("where", ["one", "other", "both"])
def test_rows_with_unknown_ids_are_counted(parts, where):
    train, valid = parts
    stray = valid.iloc[:3].copy()
    for column in ("userId", "movieId"):
        if where in ("both", {"userId": "one", "movieId": "other"}[column]):
            stray[column] += 1000
    with pytest.warns(UserWarning, match=r"3 of 103 validation rows have unknown ids; they are left out"):
        recommender = quick().fit(train, valid=pd.concat([valid, stray]))
    assert recommender.history_.equals(quick().fit(train, valid=valid).history_) or (
        recommender.history_.valid_mse.tolist() == quick().fit(train, valid=valid).history_.valid_mse.tolist()
    )
    with pytest.raises(UnknownIdError):
        quick(unknown="raise").fit(train, valid=pd.concat([valid, stray]))


@pytest.mark.parametrize(
    ("valid", "error", "message"),
    [
        (frame(20).assign(userId=lambda x: x.userId + 1000), ValueError, "valid has 20 rows and none has known ids"),
        (frame(20).drop(columns="rating"), ValueError, "no column 'rating'"),
        (frame(20)[["userId", "movieId"]].to_numpy(), ValueError, "requires y"),
        (frame(20).assign(rating=np.nan), ValueError, "missing"),
        (frame(20).iloc[:0], ValueError, "0 rows"),
        (0.2, TypeError, "X is a float"),
    ],
)
def test_refused_validation_ratings(parts, valid, error, message):
    recommender = quick()
    with pytest.raises(error, match=message):
        recommender.fit(parts[0], valid=valid)
    assert not hasattr(recommender, "weights_")


def test_callbacks_see_the_trainer(parts):
    train, valid = parts
    stop, early = Stop(3), EarlyStopping(5)
    recommender = quick().fit(train, valid=valid, callbacks=iter([stop, early]))
    assert [epoch for epoch, *_ in stop.seen] == [1, 2, 3]
    assert len(recommender.history_) == 3
    # In training units: standardized ratings.
    assert recommender.history_.train_mse.tolist() == pytest.approx(
        [mse * recommender.unit_**2 for *_, mse in stop.seen], rel=1e-12
    )
    assert early.best_epoch in (1, 2, 3)


def test_partial_fit_takes_callbacks(parts):
    recommender, stop = quick().fit(parts[0]), Stop(2)
    recommender.partial_fit(parts[1], callbacks=[stop])
    assert len(recommender.history_) == 2
    first = Stop(2)
    assert len(quick().partial_fit(parts[0], callbacks=[first]).history_) == 2


class Fails(Callback):
    def on_epoch_end(self, trainer, row):
        trainer.program.load({name: 0 * w for name, w in trainer.weights.items()}, trainer.program.state())
        raise RuntimeError("no luck")


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_callbacks_that_fail_leave_everything_as_it_was(parts, method):
    train, later = parts
    recommender = quick().fit(train)
    before = {name: value.copy() for name, value in recommender.weights_.items()}
    attributes = dict(recommender.__dict__)
    with pytest.raises(RuntimeError, match="no luck"):
        getattr(recommender, method)(later, callbacks=[Fails()])
    assert recommender.__dict__.keys() == attributes.keys()
    assert all(recommender.__dict__[name] is value for name, value in attributes.items())
    for name, value in before.items():
        np.testing.assert_array_equal(recommender.weights_[name], value)


@pytest.mark.parametrize("callbacks", [5, "early", [object()], [EarlyStopping]])
def test_refused_callbacks(parts, callbacks):
    with pytest.raises(TypeError, match="callback"):
        quick().fit(parts[0], callbacks=callbacks)


def test_validation_needs_no_unique_pairs_and_no_warning(parts):
    train, valid = parts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recommender = quick().fit(train, valid=pd.concat([valid, valid]))
    expected = quick().fit(train, valid=valid).history_.valid_mse
    assert recommender.history_.valid_mse.tolist() == pytest.approx(expected.tolist(), rel=1e-9)
