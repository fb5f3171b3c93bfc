"""The search for settings: what it tries, on what, in what order, and how it goes on after a stop."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf import Biases, ItemKNN, MostPopular, tuning
from tests.test_recommender import quick, table

DAMPING = {"item_damping": [0.0, 1.0, 3.0, 10.0, 30.0]}


@pytest.fixture(scope="module")
def frame():
    return table(n_users=30, n_items=20)


def test_each_setting_is_cross_validated_and_the_best_is_fitted(frame):
    found = minicf.tune(Biases(item_damping=50.0), frame, DAMPING, n=6)
    assert sorted(found.table.item_damping) == [0, 1, 3, 10, 30, 50]  # its own setting too
    assert found.table["mean"].is_monotonic_increasing
    for row in found.table.itertuples():
        by_hand = minicf.cross_validate(Biases(item_damping=row.item_damping), frame, cv=minicf.RatingFolds(3, 0))
        assert (row.mean, row.std) == pytest.approx((by_hand.rmse["mean"], by_hand.rmse["std"]))
        assert row.folds == 3
    assert found.best.item_damping == found.table.item_damping.iloc[0]
    whole = Biases(item_damping=found.best.item_damping).fit(frame)
    assert found.best.predict(frame).tolist() == whole.predict(frame).tolist()


def test_measures_of_lists_are_maximized(frame):
    pairs = frame[["userId", "movieId"]]
    for model, data in ((ItemKNN(), frame), (ItemKNN(feedback="implicit"), pairs)):
        found = minicf.tune(model, data, {"n_neighbors": [1, 2, 5, 19]}, n=5, metric="ndcg", k=3)
        assert found.table["mean"].is_monotonic_decreasing
        assert found.table["mean"].nunique() > 1
        by_hand = minicf.cross_validate(found.best, data, cv=minicf.RatingFolds(3, 0), k=3)
        assert found.table["mean"].iloc[0] == pytest.approx(by_hand.ndcg["mean"])
    with pytest.raises(ValueError, match="metric is 'rmse', and events have no ratings"):
        minicf.tune(ItemKNN(feedback="implicit"), pairs)


def test_halving_takes_the_better_half_to_the_next_fold(frame):
    whole = minicf.tune(Biases(item_damping=50.0), frame, DAMPING, n=6, cv=3)
    found = minicf.tune(Biases(item_damping=50.0), frame, DAMPING, n=6, cv=3, method="halving")
    assert found.table.folds.tolist() == [3, 3, 2, 1, 1, 1]
    firsts = found.table[found.table.folds == 1]["mean"]
    folds = [*minicf.RatingFolds(3, 0).split(frame)]
    errors = {}
    for damping in found.table.item_damping:
        model = Biases(item_damping=damping).fit(frame.iloc[folds[0][0]])
        errors[damping] = model.evaluate(frame.iloc[folds[0][1]])["rmse"]
    assert set(found.table.item_damping[:3]) == set(sorted(errors, key=lambda x: errors[x])[:3])
    assert sorted(firsts) == pytest.approx(sorted(errors.values())[3:])
    done = found.table[found.table.folds == 3].set_index("item_damping")["mean"]
    assert done.to_dict() == whole.table.set_index("item_damping")["mean"][done.index].to_dict()


def test_a_search_goes_on_from_its_file(frame, tmp_path, monkeypatch):
    path = tmp_path / "trials.jsonl"
    expected = minicf.tune(Biases(), frame, DAMPING, n=4, path=path).table
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 4 * 3
    path.write_text("".join(lines[:6]) + lines[6][:20])  # the last line was cut off
    fits = []
    fit = Biases.fit
    monkeypatch.setattr(Biases, "fit", lambda self, *a: (fits.append(self), fit(self, *a))[1])
    again = minicf.tune(Biases(), frame, DAMPING, n=4, path=path).table
    assert len(fits) == 7 + 1  # and the best on all rows
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), expected.drop(columns="seconds"))
    assert json.loads(path.read_text().splitlines()[0])["metric"] == "rmse"
    for changed, told in (
        ({"metric": "mae"}, "metric"), ({"random_state": 1}, "settings, random_state"), ({"cv": 4}, "cv"),
        ({"ranges": {"user_damping": [1.0, 2.0, 3.0]}}, "settings"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"another search \\({told} differ\\); give another path"):
            minicf.tune(Biases(), frame, **{"ranges": DAMPING, "n": 4, "path": path} | changed)
    with pytest.raises(ValueError, match=r"another search \(rows differ"):
        minicf.tune(Biases(), frame.head(80), DAMPING, n=4, path=path)
    path.write_text("userId,movieId\n")
    with pytest.raises(ValueError, match="another search"):
        minicf.tune(Biases(), frame, DAMPING, n=4, path=path)
    assert path.read_text() == "userId,movieId\n", "not overwritten"


def test_the_same_seed_tries_the_same_settings(frame):
    a, b, c = (minicf.tune(ItemKNN(), frame, n=3, cv=2, random_state=seed).table for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(a.drop(columns="seconds"), b.drop(columns="seconds"))
    assert set(a.shrinkage) != set(c.shrinkage)


def test_default_ranges_are_of_arguments_and_train(frame):
    for model in (quick(solver="sgd", optimizer=None), quick(model="net", solver="adam", optimizer=None)):
        model.set_params(epochs=None)
        found = minicf.tune(model, frame.head(60), n=2, cv=2)
        assert np.isfinite(found.table["mean"]).all()
        assert set(tuning.RANGES[model.solver]) < set(found.table.columns)
    assert set(tuning.RANGES["gibbs"]) <= set(minicf.Recommender().get_params())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"method": "grid"}, "method is 'grid'"),
        ({"metric": "auc"}, "metric is 'auc'"),
        ({"cv": 1}, "cv is 1"),
        ({"ranges": {"dampin": [1]}}, "ranges has 'dampin'; Biases has no argument"),
        ({"recommender": MostPopular()}, "no default ones for MostPopular"),
        ({"recommender": minicf.Recommender(minicf.Dot(3))}, "no default ones for Recommender"),
    ],
)
def test_nonsense_is_refused(frame, arguments, message):
    with pytest.raises(ValueError, match=message):
        minicf.tune(**{"recommender": Biases(), "ratings": frame} | arguments)
    with pytest.raises(TypeError, match="must be a Recommender"):
        minicf.tune("als", frame)
