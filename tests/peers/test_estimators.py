"""Estimators: construct, fit, clone, score, search, save, by scikit-learn's conventions and its neighbors'.

A test's first word is its peer; what we share and where we differ is in the table of `tests.peers`.
"""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

import minicf
from minicf import Recommender
from tests.peers.toys import RATED, biases, frame, recommender

PAIRS = np.array([(user, item) for user, item, _ in RATED])
STARS = np.array([rating for _, _, rating in RATED])


def small(**settings):
    return Recommender(**{"n_factors": 2, "epochs": 2, "backend": "numpy"} | settings)


# --- parameters -------------------------------------------------------------------------------------------------------


def test_sklearn_get_params_names_every_argument():
    names = set(inspect.signature(Recommender).parameters)
    assert set(Recommender().get_params()) == names


def test_sklearn_constructor_stores_what_it_gets_and_checks_nothing():
    model = Recommender(n_factors=-1, schedule="nonsense")
    assert (model.n_factors, model.schedule) == (-1, "nonsense")
    with pytest.raises(ValueError, match="n_factors is -1"):
        model.fit(frame())


def test_sklearn_set_params_returns_itself_and_refuses_other_names():
    model = small()
    assert model.set_params(n_factors=5) is model
    assert model.n_factors == 5
    with pytest.raises(ValueError, match="factors"):
        model.set_params(factors=5)


def test_sklearn_clone_has_the_parameters_and_no_fit():
    fitted = small(n_factors=3).fit(frame())
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "weights_")


def test_lenskit_config_round_trip_is_get_params():
    fitted = small(random_state=5).fit(frame())
    again = Recommender(**fitted.get_params()).fit(frame())
    assert again.predict(PAIRS).tolist() == fitted.predict(PAIRS).tolist()


def test_sklearn_fit_changes_no_parameter():
    model = small()
    before = dict(model.get_params())
    model.fit(frame())
    assert model.get_params() == before


def test_sklearn_repr_shows_what_is_not_default():
    assert repr(Recommender(n_factors=3)) == "Recommender(n_factors=3)"


def test_sklearn_is_a_regressor():
    assert is_regressor(Recommender())
    assert not is_classifier(Recommender())


# --- before and after fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.predict(PAIRS),
        lambda model: model.recommend(1),
        lambda model: model.similar_items(10),
        lambda model: model.evaluate(frame()),
        lambda model: model.fold_in({10: 5.0}, id=7),
        lambda model: model.save("never"),
    ],
    ids=["predict", "recommend", "similar_items", "evaluate", "fold_in", "save"],
)
def test_sklearn_not_fitted_is_an_error_of_its_kind(call):
    with pytest.raises(NotFittedError):
        call(small())


def test_sklearn_check_is_fitted_knows():
    with pytest.raises(NotFittedError):
        check_is_fitted(small())
    check_is_fitted(small().fit(frame()))


def test_sklearn_fit_returns_itself():
    model = small()
    assert model.fit(frame()) is model


def test_surprise_fit_then_test_in_one_line():
    """An error of predictions on the rows of training is finite and within the scale."""
    assert np.isfinite(small().fit(frame()).predict(PAIRS)).all()


def test_sklearn_n_features_in_is_the_width_of_X():
    assert small().fit(PAIRS, STARS).n_features_in_ == 2


def test_sklearn_another_width_is_refused():
    with pytest.raises(ValueError, match="X has 3 features, but Recommender is expecting 2"):
        small().fit(PAIRS, STARS).predict(np.column_stack([PAIRS, STARS]))


def test_sklearn_predict_has_one_number_a_row():
    got = small().fit(PAIRS, STARS).predict(PAIRS)
    assert got.shape == (5,)


def test_sklearn_array_without_y_is_refused():
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        small().fit(PAIRS)


def test_sklearn_y_of_another_length_is_refused():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(PAIRS, STARS[:-1])


def test_sklearn_y_as_a_column_is_taken_with_a_warning():
    with pytest.warns(DataConversionWarning):
        fitted = small().fit(PAIRS, STARS[:, None])
    assert fitted.predict(PAIRS).tolist() == small().fit(PAIRS, STARS).predict(PAIRS).tolist()


def test_sklearn_no_rows_are_refused():
    with pytest.raises(ValueError, match="0 sample"):
        small().fit(PAIRS[:0], STARS[:0])


def test_sklearn_nan_in_y_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        small().fit(PAIRS, np.where(STARS == 1, np.nan, STARS))


def test_sklearn_same_random_state_same_numbers():
    first, second, other = (small(random_state=seed).fit(frame()).predict(PAIRS).tolist() for seed in (3, 3, 4))
    assert first == second != other


def test_sklearn_random_state_may_be_a_generator():
    first, second = (small(random_state=np.random.RandomState(3)).fit(frame()).predict(PAIRS) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_sklearn_second_fit_forgets_the_first():
    other = frame([(7, 70, 1.0), (7, 80, 5.0), (8, 70, 2.0)])
    model = small().fit(other).fit(frame())
    assert 7 not in model.users_
    assert model.predict(PAIRS).tolist() == small().fit(frame()).predict(PAIRS).tolist()


def test_sklearn_partial_fit_does_not_forget_ids():
    model = small().fit(frame()).partial_fit(frame([(7, 10, 1.0), (7, 20, 5.0)]))
    assert model.users_.ids.tolist() == [1, 2, 3, 7]


def test_lightfm_fit_resets_and_fit_partial_goes_on():
    """`fit` twice is `fit`; `partial_fit` after `fit` is not."""
    model = small().fit(frame())
    once = model.predict(PAIRS).tolist()
    assert model.fit(frame()).predict(PAIRS).tolist() == once
    assert model.partial_fit(frame()).predict(PAIRS).tolist() != once


def test_sklearn_first_partial_fit_is_a_fit():
    assert small().partial_fit(frame()).predict(PAIRS).tolist() == small().fit(frame()).predict(PAIRS).tolist()


def test_sklearn_fit_leaves_its_input_alone():
    given = frame()
    small().fit(given)
    pd.testing.assert_frame_equal(given, frame())


def test_sklearn_predictions_do_not_depend_on_the_order_of_rows():
    fitted = small().fit(frame())
    assert fitted.predict(PAIRS[::-1]).tolist() == fitted.predict(PAIRS)[::-1].tolist()


def test_sklearn_frame_and_array_are_the_same_table():
    assert small().fit(frame()).predict(frame()).tolist() == small().fit(PAIRS, STARS).predict(PAIRS).tolist()


# --- scores and searches ----------------------------------------------------------------------------------------------


def test_sklearn_score_is_r_squared():
    """User 1's items at 4.75 and 4.5, rated 5 and 4: 1 - (1/16 + 1/4) / (1/4 + 1/4)."""
    assert recommender().score([[1, 10], [1, 20]], [5.0, 4.0]) == pytest.approx(1 - 0.3125 / 0.5)


def test_sklearn_score_of_the_mean_is_0():
    """User 9 has 3.25 for items 10 and 40; the ratings' mean is 3.25."""
    assert recommender().score([[9, 10], [9, 40]], [3.0, 3.5]) == pytest.approx(0.0)


def many():
    """Forty ratings, b_u + c_i: u + i of five users and eight items, halved."""
    user, item = np.divmod(np.arange(40), 8)
    return np.column_stack([user, item]), (user + item) / 2


def test_sklearn_cross_val_score_has_a_number_a_fold():
    X, y = many()
    scores = cross_val_score(small(), X, y, cv=3)
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()


def test_sklearn_grid_search_takes_the_better_of_two():
    """One epoch, or twelve: the sum of biases is learned by the second."""
    X, y = many()
    from sklearn.model_selection import KFold

    search = GridSearchCV(small(), {"epochs": [1, 12]}, cv=KFold(3, shuffle=True, random_state=0)).fit(X, y)
    assert search.best_params_ == {"epochs": 12}
    assert search.best_estimator_.n_ratings_ == 40


def test_surprise_grid_search_by_rmse_is_the_lower():
    X, y = many()
    search = GridSearchCV(small(), {"epochs": [12, 1]}, scoring="neg_root_mean_squared_error", cv=2).fit(X, y)
    errors = -search.cv_results_["mean_test_score"]
    assert errors[0] < errors[1]
    assert search.best_index_ == 0


def test_sklearn_pipeline_ends_in_it():
    X, y = many()
    pipeline = make_pipeline(FunctionTransformer(), small()).fit(X, y)
    assert pipeline.predict(X).tolist() == small().fit(X, y).predict(X).tolist()


def test_sklearn_nested_parameters_are_set_by_double_underscores():
    pipeline = make_pipeline(FunctionTransformer(), small()).set_params(recommender__n_factors=7)
    assert pipeline[-1].n_factors == 7


# --- saving -----------------------------------------------------------------------------------------------------------


def test_sklearn_pickle_predicts_the_same():
    fitted = small().fit(frame())
    assert pickle.loads(pickle.dumps(fitted)).predict(PAIRS).tolist() == fitted.predict(PAIRS).tolist()


def test_surprise_dump_and_load_predict_the_same(tmp_path):
    fitted = recommender()
    fitted.save(tmp_path / "model.npz")
    assert minicf.load(tmp_path / "model.npz").predict(PAIRS).tolist() == fitted.predict(PAIRS).tolist()


def test_implicit_save_and_load_recommend_the_same(tmp_path):
    """Its file has no seen items, which the caller gives again; ours has, unless told otherwise."""
    recommender().save(tmp_path / "model.npz")
    recommender().save(tmp_path / "bare.npz", seen=False)
    assert minicf.load(tmp_path / "model.npz").recommend(1)["movieId"].tolist() == [30, 40]
    bare = minicf.load(tmp_path / "bare.npz")
    with pytest.raises(ValueError, match="without seen items"):
        bare.recommend(1)
    assert bare.recommend(1, exclude_seen=False)["movieId"].tolist() == [10, 20, 30, 40]


def test_pytorch_checkpoint_resumes_with_the_optimizers_state(tmp_path):
    """Two epochs, or one, a file, and one: the same bits, of Adam's moments too."""
    rows = [(0, 0, 1), (0, 1, 3)]
    biases(minicf.Adam(0.1), rows).save(tmp_path / "one.npz")
    resumed = minicf.Trainer.load(tmp_path / "one.npz", backend="numpy")
    resumed.fit(minicf.Ratings(np.array([0, 0]), np.array([0, 1]), np.array([1.0, 3.0])), progress=False)
    straight = biases(minicf.Adam(0.1), rows, epochs=2)
    for name, w in straight.weights.items():
        assert resumed.weights[name].tolist() == w.tolist()


def test_pytorch_weights_by_name_may_be_loaded_in_part():
    """strict=False: what the model lacks is left out, what is missing is drawn."""
    start = {"item_factors": np.full((2, 1), 3.0), "something.else": np.ones(4)}
    trainer = minicf.Trainer(minicf.Dot(1), minicf.SGD(0.0), weights=start, backend="numpy")
    trainer.fit(minicf.Ratings([0, 1], [0, 1], [1.0, 2.0]), progress=False)
    assert trainer.weights["item_factors"].tolist() == [[3.0], [3.0]]
    assert set(trainer.weights) == {"user_factors", "item_factors"}
