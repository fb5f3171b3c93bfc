"""What a recommender is asked with: ids that are none, columns of its own, tables of no rows, copies and pickles."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
import scipy.sparse
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score

import minicf
from minicf import Ratings, Vocabulary
from tests.test_recommender import SEEN, quick, table


@pytest.fixture(scope="module")
def frame():
    return table()


@pytest.fixture(scope="module")
def fitted(frame):
    return quick().fit(frame)


# --- score ------------------------------------------------------------------------------------------------------------


def test_a_score_without_y_reads_the_rating_column(fitted, frame):
    expected = r2_score(frame.rating, fitted.predict(frame))
    assert fitted.score(frame) == pytest.approx(expected, rel=1e-12)
    assert fitted.score(frame) == fitted.score(frame, frame.rating) == fitted.score(Ratings.from_frame(frame))
    weight = np.arange(1, len(frame) + 1)
    assert fitted.score(frame, sample_weight=weight) == pytest.approx(
        r2_score(frame.rating, fitted.predict(frame), sample_weight=weight), rel=1e-12
    )
    with pytest.raises(ValueError, match="no column 'rating'"):
        fitted.score(frame[["userId", "movieId"]])


def test_a_search_without_y_finds_the_better_candidate(frame):
    search = GridSearchCV(quick(), {"epochs": [1, 20]}, cv=3, error_score="raise").fit(frame)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert search.best_params_ == {"epochs": [1, 20][int(np.argmax(scores))]}
    with_y = GridSearchCV(quick(), {"epochs": [1, 20]}, cv=3).fit(frame, frame.rating)
    np.testing.assert_array_equal(scores, with_y.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(
        cross_val_score(quick(), frame, cv=3), cross_val_score(quick(), frame, frame.rating, cv=3)
    )


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_rows_of_training_in_a_test_are_counted(frame):
    train, test = frame.iloc[::2], frame.iloc[1::2]
    recommender = quick().fit(train)
    held_out = recommender.evaluate(test, k=5)
    assert held_out["rows_seen"] == 0
    n = len(test) // 2
    half = pd.concat([test, train.iloc[:n]])
    with pytest.warns(
        UserWarning, match=rf"^{len(test) // 2} of {len(half)} rows are .*missing from the lists"
    ) as caught:
        spoilt = recommender.evaluate(half, k=5)
    assert len(caught) == 1
    assert spoilt["rows_seen"] == n
    # A user or an item that training did not have has seen nothing.
    strange = test.assign(userId=-test.userId)
    assert recommender.evaluate(strange, k=5)["rows_seen"] == 0


def test_seen_items_stay_in_the_lists_of_an_evaluation_where_asked(frame):
    recommender = quick(epochs=60).fit(frame)
    with pytest.warns(UserWarning, match="97 of 97 rows.*the lists show them"):
        shown = recommender.evaluate(frame, k=5, exclude_seen=False)
    lists = recommender.recommend(frame.userId.unique(), 5, exclude_seen=False)
    good = frame[frame.rating >= frame.rating.mean()]
    hits = lists.merge(good, on=["userId", "movieId"])
    users = good.userId.nunique()
    assert shown["precision"] == pytest.approx(len(hits[hits.userId.isin(good.userId)]) / (5 * users))
    assert shown["precision"] > 0
    with pytest.warns(UserWarning, match="97 of 97 rows"):
        assert recommender.evaluate(frame, k=5)["precision"] == 0
    with pytest.raises(ValueError, match="exclude_seen is 'no'"):
        recommender.evaluate(frame, exclude_seen="no")


def test_a_recommender_without_seen_items_is_evaluated(fitted, frame, tmp_path):
    fitted.save(tmp_path / "m.npz", seen=False)
    bare = minicf.load(tmp_path / "m.npz")
    with pytest.raises(ValueError, match="saved without seen items; use exclude_seen=False"):
        bare.evaluate(frame)
    with pytest.warns(UserWarning, match="rows"):
        whole = fitted.evaluate(frame, exclude_seen=False)
    got = bare.evaluate(frame, exclude_seen=False)
    assert np.isnan([got.pop("rows_seen"), got.pop("novelty")]).all()  # which it cannot know
    assert got == {name: whole[name] for name in got}


# --- repeated pairs ---------------------------------------------------------------------------------------------------

TWICE = pd.DataFrame({"userId": [1, 1, 2, 1], "movieId": [5, 5, 5, 5], "rating": [1.0, 2.0, 4.0, 3.0]})


def reading_calls(fitted):
    new = TWICE.assign(userId=-TWICE.userId)
    return {
        "fit": lambda r: r.fit(TWICE),
        "fit with y": lambda r: r.fit(TWICE[["userId", "movieId"]].to_numpy(), TWICE.rating),
        "partial_fit": lambda r: r.partial_fit(TWICE),
        "evaluate": lambda r: r.fit(fitted).evaluate(new),
        "evaluate_users": lambda r: r.fit(fitted).evaluate_users(new),
        "fold_in": lambda r: r.fit(fitted).fold_in(new.assign(movieId=1000)),
        "cross_validate": lambda r: minicf.cross_validate(r, pd.concat([TWICE, fitted]), cv=2),
    }


@pytest.mark.parametrize("call", reading_calls(None))
def test_repeated_pairs_are_counted_once_and_said_so(frame, call):
    run = reading_calls(frame)[call]
    rows = len(TWICE) + len(frame) * (call == "cross_validate")
    with pytest.warns(
        UserWarning, match=rf"^2 of {rows} rows repeat a user and an item .* mean of its ratings"
    ) as said:
        run(quick())
    assert len(said) == 1
    assert said[0].filename == __file__
    for policy in ("mean", "last"):
        run(quick(duplicates=policy))  # chosen: no warning
    with pytest.raises(ValueError, match=r'rows 0 and 1 .*say duplicates="last" or duplicates="mean"'):
        run(quick(duplicates="error"))


def test_the_mean_of_repeated_ratings_is_what_is_trained_on(frame):
    more = pd.concat([frame, frame.assign(rating=6 - frame.rating + frame.index % 2)], ignore_index=True)
    with pytest.warns(UserWarning, match=f"{len(frame)} of {len(more)} rows"):
        warned = quick().fit(more)
    merged = frame.assign(rating=3 + frame.index % 2 / 2)
    assert warned.n_ratings_ == len(frame)
    assert warned.rating_range_ == (3.0, 3.5)
    np.testing.assert_array_equal(warned.predict(frame), quick().fit(merged).predict(frame))
    quick().fit(frame)  # no warning without repeats


def test_repeated_pairs_in_scikit_learns_tools(frame):
    more = pd.concat([frame, frame.head(9)], ignore_index=True)
    with pytest.warns(UserWarning, match="rows repeat a user"):
        assert np.isfinite(cross_val_score(quick(), more, cv=3)).all()
    with pytest.raises(ValueError, match="duplicates is 'drop'"):
        quick(duplicates="drop").fit(frame)


# --- ids --------------------------------------------------------------------------------------------------------------

NO_IDS = {
    "frame": lambda f: f[["userId"]],
    "whole frame": lambda f: f,
    "polars frame": lambda f: polars.DataFrame({"userId": [107]}),
    "pyarrow table": lambda f: pyarrow.table({"userId": [107]}),
    "dict": lambda f: {107: 1},
    "counts": lambda f: {},
    "MultiIndex": lambda f: pd.MultiIndex.from_frame(f[["userId", "movieId"]]),
    "mask, Series": lambda f: f.userId > 110,
    "mask, array": lambda f: (f.userId > 110).to_numpy(),
    "mask, list": lambda f: [True, False],
    "mask, nullable": lambda f: pd.Series([True, None], dtype="boolean"),
    "mask, object": lambda f: np.array([True, False], object),
    "mask, polars": lambda f: polars.Series([True, False]),
    "True": lambda f: True,
    "nested list": lambda f: [[107, 114]],
    "nested array": lambda f: np.array([[107]]),
    "list of sets": lambda f: [{107}, {114}],
    "list of arrays": lambda f: [np.array([107]), np.array([114])],
    "array of two dimensions": lambda f: np.zeros((2, 2)),
    "sparse": lambda f: scipy.sparse.eye(2),
    "sparse rows": lambda f: scipy.sparse.csr_array(np.eye(2)),
}


@pytest.mark.parametrize("kind", NO_IDS)
def test_what_is_no_list_of_ids_is_refused(fitted, frame, kind):
    calls = (
        lambda ids: fitted.recommend(ids, n=2),
        lambda ids: fitted.similar_users(ids, n=2),
        lambda ids: fitted.similar_items(ids, n=2),
    )
    for call in calls:
        with pytest.raises(
            (TypeError, ValueError), match=r"^ids (is|has|holds) .*(column|1-d|mask|level|whole number)"
        ):
            call(NO_IDS[kind](frame))
    if kind not in ("whole frame", "counts"):  # pairs, and a mapping without users
        with pytest.raises(
            (TypeError, ValueError), match=r"^(ids|candidates).* (is|has|holds) .*(1-d|column|mask|level|number)"
        ):
            fitted.recommend(107, n=2, candidates=NO_IDS[kind](frame))


@pytest.mark.parametrize("kind", ["frame", "polars frame", "pyarrow table", "dict", "MultiIndex", "nested array"])
def test_a_vocabulary_looks_nothing_up_in_a_table(frame, kind):
    with pytest.raises((TypeError, ValueError), match="ids"):
        Vocabulary([107, 114]).index(NO_IDS[kind](frame), missing=-1)


def test_lists_of_ids_of_any_kind_are_one(fitted):
    expected = fitted.recommend([107, 114], n=2)
    for ids in (
        (107, 114), np.array([107, 114]), np.array([107.0, 114.0]), pd.Series([107, 114], index=[5, 5]),
        pd.Index([107, 114]), pd.Categorical([107, 114]), polars.Series([107, 114]), iter([107, 114]),
        [np.int8(107), 114.0], range(107, 115, 7), {107: "a", 114: "b"}.keys(),
    ):  # fmt: skip
        got = fitted.recommend(ids, n=2)
        assert got.userId.astype(int).tolist() == expected.userId.tolist()
        pd.testing.assert_frame_equal(got.drop(columns="userId"), expected.drop(columns="userId"))


def test_a_whole_number_of_any_size_is_an_unknown_id(fitted):
    for huge in (10**400, -(10**400), 2**63, 2**64):
        got = fitted.recommend(huge, n=2)
        assert got.userId.tolist() == [huge] * 2
        assert not got.known.any()
        assert fitted.recommend([huge, 107], n=1).known.tolist() == [False, True]
        assert np.isfinite(fitted.predict(pd.DataFrame({"userId": [huge], "movieId": [1000]}))).all()
        assert fitted.recommend(107, candidates=[huge, 1000], exclude_seen=False).movieId.tolist() == [1000]


@pytest.mark.parametrize("name", ["rank", "title", "score", "known", "bias", "factor_0", "factor_17"])
@pytest.mark.parametrize("role", ["user", "item"])
def test_columns_of_the_lists_are_no_columns_of_ids(frame, role, name):
    column = {"user": "userId", "item": "movieId"}[role]
    with pytest.raises(ValueError, match=rf"^{role} is '{name}', a column of the lists.*say {role}='{role}_id'"):
        quick(**{role: name}).fit(frame.rename(columns={column: name}))


def test_a_rating_column_may_have_any_name(frame):
    for name in ("score", "rank", "known", "title"):
        got = quick(rating=name).fit(frame.rename(columns={"rating": name})).recommend(107, n=2)
        assert got.columns.tolist() == ["userId", "rank", "movieId", "score", "known"]


# --- tables -----------------------------------------------------------------------------------------------------------


def test_columns_of_several_levels_are_refused_by_name(fitted, frame):
    levels = pd.concat({"a": frame}, axis=1)
    one = levels[levels["a"]["userId"] == 107]
    with pytest.raises(ValueError, match="ratings has columns of 2 levels"):
        fitted.fold_in(one, id=-1)
    with pytest.raises(ValueError, match="the columns have 2 levels; they must have one"):
        Ratings.from_frame(levels)
    for call in (quick().fit, fitted.predict, fitted.evaluate):
        with pytest.raises(ValueError, match=r"X has columns of 2 levels, .*droplevel"):
            call(levels)
    np.testing.assert_array_equal(fitted.predict(levels.droplevel(0, axis=1)), fitted.predict(frame))


def test_no_rows_have_no_predictions(fitted, frame):
    for nothing in (frame.iloc[:0], np.empty((0, 2)), np.empty((0, 2), int), np.empty((0, 2), object), [],
                    polars.DataFrame({"userId": [], "movieId": []})):  # fmt: skip
        got = fitted.predict(nothing)
        assert (got.dtype, got.shape) == (np.float32, (0,))
        scores, known = fitted.predict(nothing, return_known=True)
        assert (scores.shape, known.shape, known.dtype) == ((0,), (0,), bool)
    with pytest.raises(ValueError, match=r"(0 sample|no rows|no ratings|at least one)"):
        quick().fit(np.empty((0, 2)), [])
    with pytest.raises(ValueError, match=r"features|columns"):
        fitted.predict(np.empty((0, 3)))


@pytest.mark.parametrize(("rows", "fraction"), [(4, 0.1), (9, 0.1), (1, 0.9), (97, 0.01)])
def test_early_stopping_with_too_few_rows_names_its_own_arguments(frame, rows, fraction):
    frame = frame.assign(rating=frame.index % 2 + 3.0)  # not all alike in the first rows
    message = rf"^early_stopping holds out validation_fraction={fraction} of the ratings, and of {rows} that is none"
    with pytest.raises(ValueError, match=message):
        quick(early_stopping=2, validation_fraction=fraction).fit(frame.iloc[:rows])
    if rows == 9:
        quick(early_stopping=2, validation_fraction=0.12, epochs=2).fit(frame.iloc[:rows])


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", [False, True])
def test_pickles_of_every_protocol(protocol, text):
    frame = table(text=text)
    recommender = quick(epochs=2).fit(frame)
    twin = pickle.loads(pickle.dumps(recommender, protocol))
    np.testing.assert_array_equal(twin.predict(frame), recommender.predict(frame))
    assert twin.users_ == recommender.users_
    assert not twin.users_.ids.flags.writeable
    ratings = Ratings.from_frame(frame)
    copied = pickle.loads(pickle.dumps(ratings, protocol))
    pd.testing.assert_frame_equal(copied.frame(), ratings.frame())


@SEEN
def test_questions_do_not_change_a_hash(frame):
    recommender = quick(epochs=2).fit(frame)
    before = joblib.hash(recommender), joblib.hash(recommender.users_), pickle.dumps(recommender)
    recommender.predict(frame)
    recommender.recommend(107)
    recommender.similar_items(1000, index="sklearn")
    recommender.evaluate(frame)
    assert recommender.users_.fingerprint
    assert (joblib.hash(recommender), joblib.hash(recommender.users_), pickle.dumps(recommender)) == before
    assert joblib.hash(quick(epochs=3).fit(frame)) != before[0]
