"""The recommender: scikit-learn's conventions, ids in and out, exact lists, unknown ids, how good the defaults are."""

from __future__ import annotations

import copy
import pickle
import re
import threading
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import minicf
from minicf import SGD, Adam, DotBias, Hybrid, Net, Ratings, Trainer, metrics
from minicf.data import Batch, UnknownIdError
from minicf.evaluation import cross_validate
from minicf.recommender import Recommender
from minicf.recommender.growth import Growth

SEEN = pytest.mark.filterwarnings("ignore:.*of items that their users rated in training")  # the test is not of that

NAMES = ("dot_bias", "dot", "net", "hybrid")


def table(n_users=12, n_items=15, share=0.5, seed=0, text=False) -> pd.DataFrame:
    """Ratings 1 … 5 with biases and one factor; every user and item has some."""
    random = np.random.RandomState(seed)
    users, items = 100 + 7 * np.arange(n_users), 1000 - 3 * np.arange(n_items)
    score = 3 + random.normal(size=(n_users, 1)) + random.normal(size=n_items)
    score = score + np.outer(random.normal(size=n_users), random.normal(size=n_items))
    there = random.uniform(size=score.shape) < share
    there[np.arange(n_users), np.arange(n_users) % n_items] = True
    there[np.arange(n_items) % n_users, np.arange(n_items)] = True
    u, i = np.nonzero(there)
    frame = pd.DataFrame({"userId": users[u], "movieId": items[i], "rating": np.clip(score[u, i].round(), 1, 5)})
    return frame.astype({"userId": str, "movieId": str}) if text else frame


def quick(**arguments) -> Recommender:
    """A small recommender, whose lists are by the ratings that it predicts; those by preference: test_preference."""
    return Recommender(**{"n_factors": 3, "epochs": 15, "lists": "rating", **arguments})


@pytest.fixture(scope="module")
def frame():
    return table()


@pytest.fixture
def fitted(frame):
    return quick().fit(frame)


@pytest.fixture(scope="module")
def movielens():
    return minicf.load_movielens().split(0.2, seed=42)


@pytest.fixture(scope="module")
def trained(movielens):
    return Recommender().fit(movielens[0])


# --- scikit-learn ---------------------------------------------------------------------------------------------------

EXPECTED_FAILURES = {
    "check_regressor_data_not_an_array": "it gives a frame with columns 0 … 9; frames are read by the names of columns",
    "check_sample_weights_pandas_series": "it gives a frame with columns 0 and 1, as above",
    "check_sample_weight_equivalence_on_dense_data": "its ids are real numbers, drawn at random",
}
if tuple(map(int, re.findall(r"\d+", sklearn.__version__)[:3])) < (1, 7, 2):
    EXPECTED_FAILURES["check_positive_only_tag_during_fit"] = "it subtracts a mean from whole numbers, in place"


@parametrize_with_checks(
    [Recommender()],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_scikit_learns_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks that do not apply, and of pairs that they repeat
        check(estimator)


def test_constructing_stores_and_checks_nothing():
    model, optimizer = DotBias(7), SGD(0.5)
    recommender = Recommender(model, optimizer=optimizer, epochs=-3, unknown="what")
    assert recommender.model is model
    assert recommender.optimizer is optimizer
    assert recommender.get_params()["epochs"] == -3
    assert repr(Recommender(n_factors=5)) == "Recommender(n_factors=5)"
    twin = clone(recommender)
    assert twin.get_params() == recommender.get_params()
    assert twin.set_params(n_factors=9).n_factors == 9


def test_fit_does_not_touch_the_arguments(frame):
    recommender = quick(model=DotBias(3), schedule="one_cycle")
    before = copy.deepcopy(recommender.get_params())
    assert recommender.fit(frame) is recommender
    assert recommender.get_params() == before


def test_fit_resets(frame):
    again = quick().fit(table(seed=5)).fit(frame)
    np.testing.assert_array_equal(again.predict(frame), quick().fit(frame).predict(frame))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"model": "svd"}, "model is 'svd'"),
        ({"n_factors": 0}, "n_factors is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"optimizer": "adam"}, "optimizer is 'adam'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"unknown": "guess"}, "unknown is 'guess'"),
        ({"duplicates": "drop"}, "duplicates is 'drop'"),
        ({"backend": "jax"}, "backend is 'jax'"),
        ({"early_stopping": 0}, "early_stopping is 0"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"user": "id", "item": "id"}, "three columns"),
    ],
)
def test_fit_refuses_arguments(frame, arguments, match):
    with pytest.raises(ValueError, match=match):
        quick(**arguments).fit(frame)


def test_nothing_before_fit(frame):
    for call in (
        lambda r: r.predict(frame),
        lambda r: r.recommend(1),
        lambda r: r.similar_items(1),
        lambda r: r.save("x"),
        lambda r: r.fold_in({1: 2}, id=3),
        lambda r: next(r.recommend_all()),
        lambda r: r.evaluate(frame),
    ):
        with pytest.raises(NotFittedError):
            call(quick())
    with pytest.raises(AttributeError):
        _ = quick().trainer_


def test_cross_validation_and_search_of_scikit_learn(frame):
    X, y = frame[["userId", "movieId"]], frame["rating"]
    folds = KFold(4, shuffle=True, random_state=0)
    scores = cross_val_score(quick(), X, y, cv=folds, scoring="neg_root_mean_squared_error")
    assert np.isfinite(scores).all()
    # Sorted folds: all users of a test fold are unknown.
    assert np.isfinite(cross_val_score(quick(), X, y, cv=KFold(4))).all()
    search = GridSearchCV(quick(), {"n_factors": [1, 3], "unknown": ["bias"]}, cv=3, n_jobs=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(search.best_estimator_.recommend(100, 2)) == 2


def test_in_a_pipeline(frame):
    pipeline = make_pipeline(FunctionTransformer(lambda X: X), quick())
    X, y = frame[["userId", "movieId"]].to_numpy(), frame["rating"].to_numpy()
    np.testing.assert_array_equal(pipeline.fit(X, y).predict(X), quick().fit(X, y).predict(X))
    assert pipeline.score(X, y) == quick().fit(X, y).score(X, y)


def test_pickling(fitted, frame):
    fitted.recommend(100)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(frame), fitted.predict(frame))
    pd.testing.assert_frame_equal(again.recommend([100, 107]), fitted.recommend([100, 107]))


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [(DotBias(3, global_mean=3.0), SGD(0.01, momentum=0.9)), (Net(3, global_mean=1.0), Adam(0.01))],
)
def test_with_an_optimizer_of_ones_own_it_is_the_trainer(frame, model, optimizer):
    recommender = quick(model=model, optimizer=optimizer, batch_size=8, random_state=4).fit(frame)
    trainer = Trainer(model, optimizer, batch_size=8, seed=4)
    trainer.fit(Ratings.from_frame(frame), epochs=15, schedule=minicf.Cosine())
    for name, w in trainer.weights.items():
        np.testing.assert_array_equal(recommender.weights_[name], w)
    np.testing.assert_array_equal(recommender.history_.train_mse, trainer.history.frame().train_mse)


@pytest.mark.parametrize("model", ["dot_bias", "dot", DotBias(3, rating_range=(0.5, 5.5))])
def test_the_defaults_mean_the_same_on_any_scale(frame, model):
    stars = quick(model=model, epochs=40).fit(frame)
    if not isinstance(model, str):
        model = DotBias(3, rating_range=(-5, 45))
    points = quick(model=model, epochs=40).fit(frame.assign(rating=10 * (frame.rating - 1)))
    # Rounding of the scaled ratings, amplified by training.
    np.testing.assert_allclose(points.predict(frame), 10 * (stars.predict(frame) - 1), atol=2e-3)
    errors = np.sqrt(points.history_.train_mse / stars.history_.train_mse)
    np.testing.assert_allclose(errors, 10, rtol=1e-3)
    np.testing.assert_allclose(stars.history_.train_mse.iloc[-1], _mse(stars, frame), rtol=0.1)


def _mse(recommender, frame):
    score = recommender.scores.pairs(
        recommender.users_.index(frame.userId.to_numpy()), recommender.items_.index(frame.movieId.to_numpy())
    )
    return float(np.mean((score - frame.rating) ** 2))


def test_the_mean_is_where_training_starts(frame):
    mean = frame.rating.mean()
    assert quick().fit(frame).model_.global_mean == pytest.approx(mean)
    assert quick(model=DotBias(3, global_mean=1.5)).fit(frame).model_.global_mean == 1.5
    ranged = quick(model=DotBias(3, rating_range=(0, 6)), epochs=1, optimizer=SGD(0.0)).fit(frame)
    assert ranged.predict([[-1, -1]])[0] == pytest.approx(mean, abs=0.01)  # biases start near 0, not at it
    hybrid = quick(model="hybrid").fit(frame).model_
    assert isinstance(hybrid, Hybrid)
    assert all(head.global_mean == pytest.approx(mean) for head, _ in hybrid.members.values())


def test_equal_ratings_are_no_division_by_zero(frame):
    with pytest.warns(UserWarning, match="implicit feedback"):
        recommender = quick().fit(frame.assign(rating=4))
    np.testing.assert_allclose(recommender.predict(frame), 4)


def test_ids_without_ratings_are_unknown(movielens):
    train, _ = movielens
    recommender = quick(epochs=1).fit(train)
    assert len(recommender.items_) == (train.item_counts() > 0).sum() < train.n_items
    assert recommender.titles_.tolist() == train.titles[train.item_counts() > 0].tolist()


def test_early_stopping(movielens):
    train, _ = movielens
    recommender = Recommender(n_factors=8, epochs=200, optimizer=Adam(0.01), batch_size=256, early_stopping=2)
    recommender.fit(train)
    history = recommender.history_
    assert len(history) < 200
    assert history.valid_mse.argmin() == len(history) - 3


def test_random_state(frame):
    a, b, other = (quick(random_state=seed).fit(frame).predict(frame) for seed in (1, 1, 2))
    assert (a == b).all()
    assert (a != other).any()
    quick(random_state=None).fit(frame)
    a, b = (quick(random_state=np.random.RandomState(3)).fit(frame).predict(frame) for _ in range(2))
    assert (a == b).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_callers_tables_stay_as_they_are(frame, name):
    given = frame.copy()
    recommender = quick(model=name, epochs=2).fit(given)
    recommender.predict(given)
    with pytest.warns(UserWarning, match="97 of 97 rows"):
        recommender.evaluate(given)
    recommender.partial_fit(given.assign(userId=-given.userId), epochs=1)
    pd.testing.assert_frame_equal(given, frame)
    movielike = Ratings.from_frame(frame)
    before = movielike.rating.copy()
    quick(epochs=1).fit(movielike)
    assert (movielike.rating == before).all()


# --- tables of any kind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [False, True])
def test_frames_arrays_and_ratings_are_one(text):
    frame = table(text=text)
    expected = quick().fit(frame)
    X, y = frame[["userId", "movieId"]], frame["rating"]
    pairs = X.to_numpy()
    for one in (
        quick().fit(X, y),
        quick().fit(pairs, y.to_numpy()),
        quick().fit(pairs.tolist(), y.tolist()),
        quick().fit(Ratings.from_frame(frame)),
        quick(user="u", item="i", rating="r").fit(frame.set_axis(["u", "i", "r"], axis=1)),
    ):
        np.testing.assert_array_equal(one.weights_["user_factors"], expected.weights_["user_factors"])
        asked = X if one.user == "userId" else X.set_axis(["u", "i"], axis=1)
        for given in (asked, pairs, pairs.tolist()):
            np.testing.assert_array_equal(one.predict(given), expected.predict(X))


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
@pytest.mark.parametrize("text", [False, True])
def test_other_frames(library, text):
    module = pytest.importorskip(library)
    pytest.importorskip("narwhals")
    frame = table(text=text)
    columns = {name: frame[name].tolist() for name in frame}
    other = module.DataFrame(columns) if library == "polars" else module.table(columns)
    recommender = quick().fit(other)
    np.testing.assert_array_equal(recommender.predict(other), quick().fit(frame).predict(frame))


@pytest.mark.parametrize(
    ("X", "y", "match"),
    [
        (pd.DataFrame({"userId": [1], "movieId": [2]}), None, "no column 'rating'"),
        (pd.DataFrame({"user": [1], "movieId": [2]}), [1.0], r"no column 'userId'.*name its columns"),
        (np.array([[1, 2], [2, 3]]), None, "requires y"),
        (np.array([[1, 2], [2, 3]]), [1.0], "inconsistent numbers of samples"),
        (np.array([[1, 2], [2, 3]]), [1.0, np.nan], "NaN"),
        (np.array([[1.5, 2], [2, 3]]), [1.0, 2.0], "not a whole number"),
        (np.array([[1], [2]]), [1.0, 2.0], "1 feature"),
        ([["a", 1], [2, 3]], [1.0, 2.0], 'column "userId"'),
    ],
)
def test_bad_tables_are_refused(X, y, match):
    with pytest.raises(ValueError, match=match):
        quick().fit(X, y)


# --- predicting and unknown ids ---------------------------------------------------------------------------------------


def test_predictions_stay_in_the_range_of_the_ratings(frame):
    recommender = quick(optimizer=SGD(0.05), epochs=200, schedule="constant").fit(frame)
    all_pairs = pd.merge(frame[["userId"]].drop_duplicates(), frame[["movieId"]].drop_duplicates(), how="cross")
    scores = recommender.predict(all_pairs)
    assert scores.min() >= 1
    assert scores.max() <= 5
    raw = recommender.recommend(frame.userId.unique(), 15, exclude_seen=False).score
    assert raw.max() > 5  # else the above says nothing


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_id_is_the_mean_of_its_side(frame, name):
    recommender = quick(model=name, batch_size=8).fit(frame)
    w = recommender.weights_
    pairs = [[-1, 1000], [100, -1], [-1, -1], [100, 1000]]
    scores, known = recommender.predict(pairs, return_known=True)
    assert known.tolist() == [False, False, False, True]
    weights = {
        key: np.concatenate([w[key], w[key].mean(axis=0, keepdims=True)]) if parameter.rows else w[key]
        for key, parameter in recommender.model_.parameters(recommender.model_.sizes_of(w)).items()
    }
    user, item = recommender.users_.index(100), recommender.items_.index(1000)
    n, m = len(recommender.users_), len(recommender.items_)
    expected = recommender.model_.predict(weights, Batch(np.array([n, user, n, user]), np.array([item, m, m, item])))
    np.testing.assert_allclose(scores, np.clip(expected, 1, 5), rtol=1e-5)  # float32, another order of summing


@SEEN
def test_unknown_nan(frame):
    recommender = quick(unknown="nan").fit(frame)
    scores, known = recommender.predict([[-1, 1000], [100, 1000]], return_known=True)
    assert np.isnan(scores).tolist() == [True, False]
    assert known.tolist() == [False, True]
    assert recommender.recommend([-1, 100], 3).userId.tolist() == [100] * 3
    assert recommender.similar_items([-1, 1000], 3).movieId.tolist() == [1000] * 3
    result = recommender.evaluate(pd.concat([frame, frame.assign(userId=-1).drop_duplicates(["userId", "movieId"])]))
    assert result["rows_unknown"] == frame.movieId.nunique()
    assert result["rmse"] == recommender.evaluate(frame)["rmse"]


def test_unknown_raise(frame):
    recommender = quick(unknown="raise").fit(frame)
    for call in (
        lambda: recommender.predict([[-1, 1000]]),
        lambda: recommender.recommend([100, -1]),
        lambda: recommender.similar_users(-1),
        lambda: recommender.evaluate(frame.head(3).assign(userId=-1)),
    ):
        with pytest.raises(UnknownIdError, match=r"unknown user -1 \(1 in all\).*unknown=\"bias\""):
            call()
    with pytest.raises(UnknownIdError, match="unknown item"):
        recommender.recommend(100, candidates=[-1])


def test_ids_of_another_type_are_pointed_out(frame):
    numbers, texts = quick().fit(frame), quick().fit(table(text=True))
    with pytest.warns(UserWarning, match=r"unknown user: '100' is text, but known ids are integers: 100 is known"):
        numbers.recommend("100")
    with pytest.warns(UserWarning, match=r"unknown item: 1000 is a number, but known ids are text: '1000' is known"):
        texts.predict(pd.DataFrame({"userId": ["100"], "movieId": [1000]}))
    numbers.unknown = "raise"
    with pytest.raises(UnknownIdError, match=r"'100' is text.*100 is known"):
        numbers.similar_users("100")
    with pytest.raises(ValueError, match="new user ids are text; they must be integers"):
        numbers.partial_fit(table(text=True))


@pytest.mark.parametrize("method", ["predict", "recommend", "similar_items", "fold_in"])
def test_warnings_point_at_the_callers_line(fitted, method):
    call = {
        "predict": lambda: fitted.predict([["100", 1000]]),
        "recommend": lambda: fitted.recommend("100"),
        "similar_items": lambda: fitted.similar_items("1000"),
        "fold_in": lambda: fitted.fold_in({1000: 9.0}, id=1),
    }[method]
    with pytest.warns(UserWarning, match=r"known ids are integers|on the scale of training, 1 … 5") as caught:
        call()
    assert [warning.filename for warning in caught] == [__file__]


def test_inputs_serve_others_too(frame, fitted):
    """The command line and cross-validation read tables as the recommender does."""
    ratings = fitted.inputs.ratings(frame)
    assert (ratings.users, ratings.items) == (fitted.users_, fitted.items_)
    assert fitted.vocabulary("item") == fitted.items_
    assert fitted.inputs.lookup("user", [100, -1]).tolist() == [0, -1]
    ids, rows = fitted.inputs.asked("user", 107)
    assert (ids.tolist(), rows.tolist()) == ([107], [1])
    X, y = np.column_stack([frame[["userId", "movieId"]], np.arange(len(frame))]), frame.rating
    ratings, n_features = quick().inputs.training(X, y)
    assert (ratings.users, n_features) == (fitted.users_, 3)
    with pytest.raises(ValueError, match="X has 3 features, but Recommender is expecting 2"):
        fitted.inputs.ratings(X, y)
    with pytest.raises(NotFittedError, match="call fit first"):
        quick().vocabulary("user")


# --- lists ----------------------------------------------------------------------------------------------------------


def by_sorting(recommender, frame, user, n, exclude_seen=True, among=None):
    items = recommender.items_.ids if among is None else np.intersect1d(among, recommender.items_.ids)
    if exclude_seen:
        items = np.setdiff1d(items, frame.movieId[frame.userId == user])
    index = recommender.users_.index(user)
    scores = recommender.scores.pairs(np.full(len(items), index), recommender.items_.index(items))
    order = np.lexsort((items, -scores))[:n]
    return items[order].tolist(), scores[order].tolist()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists_are_exact(frame, name, backend, exclude_seen):
    recommender = quick(model=name, backend=backend, batch_size=8, epochs=8).fit(frame)
    users = frame.userId.unique()[::-1]
    for n in (1, 4, 100):
        lists = recommender.recommend(users, n, exclude_seen)
        assert lists.columns.tolist() == ["userId", "rank", "movieId", "score", "known"]
        assert lists.userId.drop_duplicates().tolist() == users.tolist()
        for user, own in lists.groupby("userId"):
            items, scores = by_sorting(recommender, frame, user, n, exclude_seen)
            assert own.movieId.tolist() == items
            # A net's products round as the size of the batch has it; the others' do not depend on it.
            np.testing.assert_allclose(own.score, scores, rtol=1e-6 if name == "net" else 0)
            assert own["rank"].tolist() == list(range(1, len(items) + 1))


def test_equal_scores_go_by_id(frame):
    recommender = quick(optimizer=SGD(0.0), model=DotBias(3, init=("uniform", 0, 0))).fit(frame)
    seen = set(frame.movieId[frame.userId == 100])
    assert recommender.recommend(100, 5).movieId.tolist() == sorted(set(frame.movieId) - seen)[:5]


@pytest.mark.parametrize("name", NAMES)
def test_lists_do_not_depend_on_who_else_is_asked(frame, name):
    """Equal items, folded in with the same ratings, keep the order of their ids, in any block."""
    recommender = quick(model=name, epochs=4, n_factors=37).fit(frame)
    users = recommender.users_.ids
    recommender = with_equal_items(recommender, 60)
    together = recommender.recommend(users, n=40, exclude_seen=False)
    for user in users:
        alone = recommender.recommend([user], n=40, exclude_seen=False)
        pd.testing.assert_frame_equal(alone, together[together.userId == user].reset_index(drop=True))
        for _, equal in alone.groupby("score"):
            places = recommender.items_.index(equal.movieId)
            assert (np.diff(places) > 0).all()
    assert alone.score.duplicated().sum() > 20  # there were equal ones


def with_equal_items(recommender: Recommender, n: int) -> Recommender:
    """The first n // 2 and the other items of two kinds, each all alike."""
    recommender = copy.deepcopy(recommender)
    sizes = recommender.model_.sizes_of(recommender.weights_)
    at = np.arange(n) % 2
    weights = dict(recommender.weights_)
    for table in recommender.model_.tables("item"):
        weights[table] = np.concatenate([weights[table], weights[table][at]])
    recommender.weights_ = weights
    recommender.items_ = minicf.Vocabulary([*recommender.items_.ids, *range(5000, 5000 + n)])
    recommender._cache = {}
    assert sizes["item"] + n == len(recommender.items_)
    return recommender


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_prediction_does_not_depend_on_the_other_pairs(frame, name, backend):
    recommender = quick(model=name, epochs=3, backend=backend).fit(frame)
    together = recommender.predict(frame)
    for size in (1, 2, 7, 33):
        some = np.concatenate([recommender.predict(frame[lo : lo + size]) for lo in range(0, 66, size)])
        assert (some[:60] == together[:60]).all()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_readers_beside_a_writer_see_one_state(backend):
    """Tables of other sizes in turns: rows of one in compiled code beside the weights of another are a segfault."""
    small, large = table(6, 5, share=1.0), table(40, 60, share=1.0, seed=1)
    recommender = quick(epochs=1, backend=backend).fit(small)
    scores = {}
    for name, data in (("small", small), ("large", large)):
        scores[name] = quick(epochs=1, backend=backend).fit(data).recommend_all(exclude_seen=False)
    expected = {name: pd.concat(list(found)) for name, found in scores.items()}
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                found = pd.concat(list(recommender.recommend_all(exclude_seen=False)))
                recommender.predict(large)
                recommender.similar_items(small.movieId.unique(), n=3)
                if not any(len(found) == len(one) and (found.score.to_numpy() == one.score.to_numpy()).all()
                           for one in expected.values()):  # fmt: skip
                    wrong.append(f"a list of {len(found)} rows of neither state")
            except Exception as error:  # of whatever kind, it is wrong
                wrong.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unknown ids, in threads
        for reader in readers:
            reader.start()
        for turn in range(4 if backend == "numpy" else 10):  # of NumPy, a table of another size is an error, if any
            recommender.fit(large if turn % 2 else small)
        stop.set()
        for reader in readers:
            reader.join(60)
    assert not wrong
    assert not any(reader.is_alive() for reader in readers)


def test_candidates_and_filter(frame):
    recommender = quick().fit(frame, titles={item: f"Film {item}" for item in frame.movieId.unique()})
    some = [1000, 994, 991, 988, 5]
    for user in (100, 107):
        own = recommender.recommend(user, 10, candidates=some)
        assert own.movieId.tolist() == by_sorting(recommender, frame, user, 10, among=some)[0]
        own = recommender.recommend(user, 10, filter=lambda items: items.title.str.endswith(("0", "4")))
        wanted = [item for item in recommender.items_.ids if str(item)[-1] in "04"]
        assert own.movieId.tolist() == by_sorting(recommender, frame, user, 10, among=wanted)[0]
        assert own.title.tolist() == [f"Film {item}" for item in own.movieId]
    both = recommender.recommend(100, 9, False, candidates=some, filter=lambda items: items.movieId > 990)
    assert set(both.movieId) == {1000, 994, 991}
    assert len(recommender.recommend(100, candidates=[])) == 0
    assert len(recommender.recommend(100, filter=lambda items: np.zeros(len(items), bool))) == 0
    with pytest.raises(ValueError, match="it must return one boolean for each of the 15 items"):
        recommender.recommend(100, filter=lambda items: items.movieId)


def test_a_user_who_has_seen_all_gets_nothing(frame):
    everything = pd.DataFrame({"userId": 1, "movieId": frame.movieId.unique(), "rating": 3.0})
    recommender = quick().fit(pd.concat([frame, everything]))
    assert len(recommender.recommend(1)) == 0
    assert recommender.recommend([100, 1, 107], 2).userId.tolist() == [100, 100, 107, 107]


def test_unknown_users_get_the_mean_users_list(fitted):
    lists = fitted.recommend([-1, 100], 3)
    assert lists.known.tolist() == [False] * 3 + [True] * 3
    pairs = [[-1, item] for item in fitted.items_.ids]
    best = np.lexsort((fitted.items_.ids, -fitted.scores.pairs(np.full(15, -1), np.arange(15))))[:3]
    assert lists.movieId[:3].tolist() == fitted.items_.ids[best].tolist()
    assert len(pairs) == 15


def test_all_in_a_stream(fitted):
    frames = list(fitted.recommend_all(3, block=5))
    assert [frame.userId.nunique() for frame in frames] == [5, 5, 2]
    joined = pd.concat(frames, ignore_index=True)
    pd.testing.assert_frame_equal(joined, fitted.recommend(fitted.users_.ids, 3))


def test_recommend_refuses(fitted):
    with pytest.raises(ValueError, match="n is 0"):
        fitted.recommend(100, 0)
    with pytest.raises(ValueError, match="shape"):
        fitted.recommend(np.array([[100]]))


# --- similar --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["item", "user"])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_similar_by_comparing_with_all(fitted, side, metric):
    ids = fitted.vocabulary(side).ids
    name = {"item": "movieId", "user": "userId"}[side]
    factors = fitted.weights_[f"{side}_factors"].astype(float)
    if metric == "cosine":
        factors = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    products = factors @ factors.T
    result = getattr(fitted, f"similar_{side}s")(ids, 4, metric)
    for at, value in enumerate(ids):
        own = result[result[name] == value]
        others = np.delete(np.arange(len(ids)), at)
        expected = others[np.argsort(-products[at, others])][:4]
        assert own[f"similar_{name}"].tolist() == ids[expected].tolist()
        np.testing.assert_allclose(own.score, products[at, expected], rtol=1e-5)
    assert len(getattr(fitted, f"similar_{side}s")(ids[0], 1000)) == len(ids) - 1
    nearest = fitted.nearest(fitted.weights_[f"{side}_factors"][2], 3, side, metric)
    assert nearest.columns.tolist() == ["rank", name, "score"]
    best = np.argsort(-products[2])[:3] if metric == "cosine" else np.argsort(-(factors @ factors[2]))[:3]
    assert nearest[name].tolist() == ids[best].tolist()


def test_similar_titles(trained):
    result = trained.similar_items(1, 3)
    assert result.columns.tolist() == ["movieId", "rank", "similar_movieId", "title", "score", "known"]
    assert result.title[0].startswith("Toy Story 2")


def test_an_index_gives_the_same(trained):
    items = trained.items_.ids[:50]
    exact = trained.similar_items(items, 5)
    tree = trained.similar_items(items, 5, index="sklearn")
    assert tree.similar_movieId.tolist() == exact.similar_movieId.tolist()
    np.testing.assert_allclose(tree.score, exact.score, rtol=1e-5)


def test_an_approximate_index(trained):
    pytest.importorskip("pynndescent")
    items = trained.items_.ids[:50]
    exact, near = trained.similar_items(items, 5), trained.similar_items(items, 5, index="pynndescent")
    assert len(near) == len(exact)
    shared = pd.merge(exact, near, on=["movieId", "similar_movieId"])
    assert len(shared) > 0.7 * len(exact)


def test_similar_refuses(fitted):
    with pytest.raises(ValueError, match="metric is 'angle'"):
        fitted.similar_items(1000, metric="angle")
    with pytest.raises(ValueError, match="index is 'tree'"):
        fitted.similar_items(1000, index="tree")
    with pytest.raises(ValueError, match="it must be 3 finite numbers"):
        fitted.nearest([1.0, 2.0])
    with pytest.raises(ValueError, match="side is 'film'"):
        fitted.nearest([1.0, 2.0, 3.0], side="film")


# --- more ratings ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the lists have an NDCG")  # only errors are looked at
def test_partial_fit_learns_and_admits(movielens):
    train, valid = movielens
    frame = train.frame()
    late = np.random.RandomState(0).uniform(size=len(frame)) < 0.2
    late |= (frame.userId % 50 == 0) | (frame.movieId % 50 == 0)  # users and items that come later
    recommender = Recommender(n_samples=20).fit(frame[~late])
    before = recommender.evaluate(valid)["rmse"]
    recommender.partial_fit(frame[late])
    assert recommender.evaluate(valid)["rmse"] < before
    assert recommender.users_.ids.tolist() == sorted(frame.userId.unique())
    assert recommender.items_.ids.tolist() == sorted(frame.movieId.unique())
    assert recommender.n_ratings_ == len(frame)
    whole = Recommender(n_factors=8, epochs=1).fit(train)
    assert recommender.seen_.side == whole.seen_.side == "user"
    assert recommender.seen_.start.tolist() == whole.seen_.start.tolist()
    assert recommender.seen_.index.tolist() == whole.seen_.index.tolist()


def test_partial_fit_of_users_and_items_both_new(frame):
    recommender = quick().fit(frame)
    new = table(seed=3).assign(userId=lambda f: f.userId + 5000, movieId=lambda f: f.movieId + 5000)
    recommender.partial_fit(new)
    assert np.isfinite(recommender.predict(new)).all()
    assert len(recommender.recommend(5100, 5)) == 5
    np.testing.assert_array_equal(quick().partial_fit(frame).predict(frame), quick().fit(frame).predict(frame))


# --- how good -------------------------------------------------------------------------------------------------------


@SEEN
def test_evaluate_by_hand(frame):
    recommender = quick().fit(frame)
    test = pd.DataFrame(
        {"userId": [100, 100, 107, -1, 107], "movieId": [1000, 994, 991, 988, -5], "rating": [5.0, 1.0, 2.0, 5.0, 4.0]}
    )
    result = recommender.evaluate(test, k=3)
    predicted = recommender.predict(test)
    assert result["rmse"] == pytest.approx(metrics.rmse(test.rating, predicted))
    assert result["mae"] == pytest.approx(metrics.mae(test.rating, predicted))
    assert (result["rows"], result["rows_unknown"], result["users"], result["users_unknown"]) == (5, 2, 3, 1)
    lists = recommender.recommend([-1, 100, 107], 3)
    found = [
        test.movieId[(test.userId == user) & (test.rating >= frame.rating.mean())].tolist() for user in (-1, 100, 107)
    ]
    hits = [own.movieId.isin(good).tolist() for (_, own), good in zip(lists.groupby("userId"), found, strict=True)]
    hits = [row + [False] * (3 - len(row)) for row in hits]
    relevant = [len(good) for good in found]
    for name, function in (
        ("precision", metrics.precision), ("recall", metrics.recall),
        ("ndcg", metrics.ndcg), ("map", metrics.average_precision),
    ):  # fmt: skip
        assert result[name] == pytest.approx(function(hits, relevant).mean())
    assert result["coverage"] == pytest.approx(lists.movieId.nunique() / 15)
    nothing = recommender.evaluate(test, relevant=9)
    assert np.isnan(nothing["precision"])
    assert nothing["users"] == 0


def test_cross_validate(frame):
    recommender = quick()
    result = cross_validate(recommender, frame, cv=3)
    assert result.index.tolist() == ["fold 1", "fold 2", "fold 3", "mean", "std"]
    assert result.columns.tolist() == ["rmse", "mae", "rows_unknown", "fit_seconds", "test_seconds"]
    assert result.rmse["mean"] == pytest.approx(result.rmse[:3].mean())
    assert result.rmse["std"] == pytest.approx(result.rmse[:3].std(ddof=0))
    assert not hasattr(recommender, "weights_")
    with_lists = cross_validate(recommender, frame, cv=3, k=5)
    assert {"precision", "recall", "ndcg", "map", "coverage"} < set(with_lists.columns)
    np.testing.assert_allclose(with_lists.rmse, result.rmse)
    with pytest.raises(ValueError, match="cv is 1"):
        cross_validate(recommender, frame, cv=1)


def test_cross_validate_by_hand():
    lonely = pd.DataFrame({"userId": [99], "movieId": [0], "rating": [4.0]})  # unknown in its own fold
    ratings = minicf.Ratings.from_frame(pd.concat([table(), lonely], ignore_index=True))
    begin = time.perf_counter()
    result, with_lists = (cross_validate(quick(), ratings, cv=2, k=k, seed=7) for k in (None, 5))
    elapsed = time.perf_counter() - begin
    for fold, (inside, out) in enumerate(minicf.RatingFolds(2, random_state=7).split(ratings)):
        test = ratings.take(out)
        predicted, known = quick().fit(ratings.take(inside)).predict(test, return_known=True)
        error = predicted - test.rating
        for found in (result.iloc[fold], with_lists.iloc[fold]):
            assert found.rmse == pytest.approx(np.sqrt(np.mean(error**2)))
            assert found.mae == pytest.approx(np.mean(np.abs(error)))
            assert found.rows_unknown == (~known).sum()
    assert 1 <= result.rows_unknown[:2].sum() < len(ratings) / 4
    seconds = pd.concat([result, with_lists])[["fit_seconds", "test_seconds"]].loc[["fold 1", "fold 2"]].to_numpy()
    assert (seconds >= 0).all()
    assert seconds.sum() <= elapsed


def test_cross_validate_takes_arrays(frame):
    X, y = frame[["userId", "movieId"]].to_numpy(), frame["rating"].to_numpy()
    errors = ["rmse", "mae"]
    expected = cross_validate(quick(), frame, cv=2)[errors]
    pd.testing.assert_frame_equal(cross_validate(quick(), X, y, cv=2)[errors], expected)


def test_cross_validate_may_leave_one_out():
    few = table(n_users=3, n_items=2, share=1.0)
    few = few.assign(rating=few.index % 3 + 1.0)
    assert len(cross_validate(quick(), few, cv=len(few))) == len(few) + 2
    with pytest.raises(ValueError, match=f"at most the number of ratings, {len(few)}"):
        cross_validate(quick(), few, cv=len(few) + 1)


def test_the_defaults_are_good(trained, movielens):
    """ml-latest-small, split(0.2, 42), nothing changed."""
    assert trained.evaluate(movielens[1])["rmse"] <= 0.870


def test_factors_as_a_table(fitted, trained):
    items = fitted.factors("item")
    assert items.columns.tolist() == ["movieId", "bias", "factor_0", "factor_1", "factor_2"]
    np.testing.assert_array_equal(items.iloc[:, 2:].to_numpy(), fitted.weights_["item_factors"])
    assert trained.factors().columns[:3].tolist() == ["movieId", "title", "bias"]
    assert fitted.factors("user").userId.tolist() == fitted.users_.ids.tolist()


def test_the_old_name_of_the_standard_deviation(fitted, frame):
    assert fitted.std_ == pytest.approx(frame.rating.std(ddof=0))
    with pytest.warns(DeprecationWarning, match="deviation_ is now std_"):
        assert fitted.deviation_ == fitted.std_


def test_another_backend_and_number_of_threads_take_effect(fitted, frame):
    expected = fitted.recommend(100)
    scores = fitted.scores
    assert fitted.scores is scores
    for name, value in (("backend", "numpy"), ("n_threads", 1)):
        setattr(fitted, name, value)
        assert fitted.scores is not scores
        scores = fitted.scores
        assert fitted.recommend(100).movieId.tolist() == expected.movieId.tolist()


def test_a_trainer_for_those_who_ask_for_one(fitted, frame):
    users, items = fitted.users_.index(frame.userId), fitted.items_.index(frame.movieId)
    with pytest.warns(DeprecationWarning, match="trainer_ will be removed in 0.3"):
        trainer = fitted.trainer_
    scores = np.clip(trainer.predict(users, items), 1, 5)
    np.testing.assert_array_equal(scores, fitted.predict(frame))


# --- undisturbed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, minicf.DivergenceError(1, 1, 0.1, 1.0)])
def test_training_that_fails_leaves_the_recommender_as_it_was(fitted, frame, monkeypatch, method, error):
    """Other users and items than before: vocabularies of the one and weights of the other would not fit."""
    ids = list(fitted.users_.ids)
    expected = fitted.predict(frame), fitted.recommend(ids), vars(fitted).keys()

    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(Trainer, "fit", fails)
    other = frame[5:].assign(userId=lambda f: f.userId + 1)
    with pytest.raises((KeyboardInterrupt, minicf.DivergenceError)):
        getattr(fitted, method)(other, titles={other.movieId.iloc[0]: "a title"})
    np.testing.assert_array_equal(fitted.predict(frame), expected[0])
    pd.testing.assert_frame_equal(fitted.recommend(ids), expected[1])
    assert vars(fitted).keys() == expected[2]


def test_folding_in_that_fails_leaves_the_recommender_as_it_was(fitted, frame, monkeypatch):
    """New ids are known, and their rows are solved, when seen items fail."""
    expected, before = fitted.predict(frame), dict(vars(fitted))

    def fails(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Growth, "seen", fails)
    with pytest.raises(KeyboardInterrupt):
        fitted.fold_in({1000: 5.0}, id=1)
    assert vars(fitted).keys() == before.keys()
    assert all(vars(fitted)[name] is value for name, value in before.items())
    np.testing.assert_array_equal(fitted.predict(frame), expected)


def test_a_first_fit_that_fails_leaves_none(frame, monkeypatch):
    def fails(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", fails)
    recommender = quick()
    with pytest.raises(KeyboardInterrupt):
        recommender.fit(frame)
    with pytest.raises(NotFittedError):
        recommender.predict(frame)
