"""Lists by preference, from stars and from events: `Recommender(feedback=..., lists=...)`."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import minicf
from minicf import Ratings, Recommender, load
from minicf.cli import main
from minicf.data import UnknownIdError
from minicf.recommender.preference import FARTHEST, OVERALL, REGULARIZATION, STEEPNESS, Reading
from minicf.solvers import ALS
from tests.test_recommender import table

STARS = table()
EVENTS = STARS[["userId", "movieId"]]
A, B, C = sorted(STARS.movieId.unique().tolist())[:3]
"""Items, and 100 and more are users."""
SMALL = {"n_factors": 6, "backend": "numpy"}


def stars(**arguments) -> Recommender:
    return Recommender(**{"n_samples": 4, "burn_in": 1, "n_factors": 3, "backend": "numpy", **arguments}).fit(STARS)


def events(frame=EVENTS, weight=None, **arguments) -> Recommender:
    return Recommender(feedback="implicit", **SMALL | arguments).fit(frame, sample_weight=weight)


@pytest.fixture(scope="module")
def by_stars() -> Recommender:
    return stars()


@pytest.fixture(scope="module")
def by_events() -> Recommender:
    return events()


@pytest.fixture(params=["stars", "events"])
def either(request, by_stars, by_events) -> Recommender:
    return pickle.loads(pickle.dumps(by_stars if request.param == "stars" else by_events))


def some(recommender, n=3):
    return recommender.users_.ids[:4], n


# --- what is learnt ---------------------------------------------------------------------------------------------------


def test_targets_and_weights_by_hand():
    t, c = Reading(True, 3.0, 2.0).targets(np.array([3.0, 5.0, 1.0, -99.0, 99.0], np.float32), None)
    np.testing.assert_allclose(
        t, [1, 1 + STEEPNESS, 1 - STEEPNESS, max(0, 1 - 3 * STEEPNESS), 1 + FARTHEST * STEEPNESS]
    )
    assert c is None
    t, c = Reading(False, 0.0, 2.0).targets(np.array([1, 1, 0], np.float32), np.array([2, 14, 0], np.float32))
    assert t.tolist() == [1, 1, 0]
    assert c.tolist() == [1, 3, 0]


def test_rows_solve_the_normal_equations_of_their_pairs(by_stars):
    """(A3) with targets by (L1), for a user and after all passes: in float64, without a basis."""
    found, user = by_stars.preference_, 5
    q = found.weights["item_factors"].astype(np.float64)
    own = STARS[STARS.userId == by_stars.users_.ids[user]]
    rows = by_stars.items_.index(own.movieId.to_numpy())
    z = (own.rating - STARS.rating.mean()) / STARS.rating.std(ddof=0)
    t, a = np.maximum(0, 1 + STEEPNESS * z.to_numpy()), OVERALL * len(STARS) / (len(by_stars.users_) * len(q))
    ridge = REGULARIZATION * (len(own) + a * len(q))
    matrix = a * q.T @ q + ridge * np.eye(q.shape[1]) + q[rows].T @ q[rows]
    np.testing.assert_allclose(
        found.weights["user_factors"][user], np.linalg.solve(matrix, q[rows].T @ t), rtol=2e-3, atol=1e-5
    )


def test_stars_are_predicted_as_without_lists(by_stars):
    plain = stars(lists="rating")
    assert plain.preference_ is None
    np.testing.assert_array_equal(plain.predict(EVENTS), by_stars.predict(EVENTS))
    users, n = some(plain)
    pd.testing.assert_frame_equal(plain.recommend(users, n), by_stars.recommend(users, n, by="rating"))
    with pytest.raises(ValueError, match="no model of preferences: fit it with lists='preference'"):
        plain.recommend(users, by="preference")
    with pytest.raises(ValueError, match="no model of preferences to explain"):
        plain.explain(100, A)


def test_scores_are_products_and_leave_out_seen_items(either):
    w, users = either.preference_.weights, either.users_.ids[:5]
    lists = either.recommend(users, 4)
    u, i = either.users_.index(lists.userId.to_numpy()), either.items_.index(lists.movieId.to_numpy())
    np.testing.assert_allclose(lists.score, (w["user_factors"][u] * w["item_factors"][i]).sum(1), rtol=1e-4, atol=1e-6)
    assert not set(zip(lists.userId, lists.movieId, strict=True)) & set(EVENTS.itertuples(index=False, name=None))
    whole = pd.concat(either.recommend_all(4, block=7))
    pd.testing.assert_frame_equal(whole[whole.userId.isin(users)].reset_index(drop=True), lists)


def test_lists_of_liked_groups():
    """Two groups of items: a user gets what remains of the own group, in stars the better liked half first."""
    rows = [(u, 10 * (u % 2) + i, 5.0 if i < 5 else 1.0) for u in range(40) for i in range(10) if (u // 2 + i) % 5]
    frame = pd.DataFrame(rows, columns=["userId", "movieId", "rating"])
    for model in (
        Recommender(n_samples=4, burn_in=2, backend="numpy").fit(frame),
        events(frame[["userId", "movieId"]]),
    ):
        lists = model.recommend(np.arange(40), 2)
        assert (lists.movieId // 10 == lists.userId % 2).all()
        if model.score_kind_ == "stars":
            assert (lists.movieId[lists["rank"] == 1] % 10 < 5).mean() > 0.9


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_need_no_rating_column(by_events):
    assert by_events.score_kind_ == "preference"
    assert isinstance(by_events.solver_, ALS)
    assert by_events.weights_ is by_events.preference_.weights
    users, n = some(by_events)
    lists = by_events.recommend(users, n)
    np.testing.assert_array_equal(by_events.predict(lists[["userId", "movieId"]]), lists.score)
    made = Recommender(**SMALL).fit(Ratings.from_events(EVENTS))  # taken for events by itself
    pd.testing.assert_frame_equal(made.recommend(users, n), lists)
    array = Recommender(feedback="implicit", **SMALL).fit(EVENTS.to_numpy())
    pd.testing.assert_frame_equal(array.recommend(users, n), lists)
    again = events(pd.concat([EVENTS, EVENTS]), user="userId")  # all repeated: one weight again
    pd.testing.assert_frame_equal(again.recommend(users, n), lists)


def test_ratings_all_alike_name_the_remedy():
    with pytest.warns(UserWarning, match=r"this looks like implicit feedback.*Recommender\(feedback='implicit'\)"):
        Recommender(lists="rating", epochs=1, n_factors=2, backend="numpy").fit(STARS.assign(rating=1.0))


def test_weights_act_by_their_logarithm_whatever_their_unit():
    weight = np.random.RandomState(0).lognormal(0, 2, len(EVENTS))
    users, n = some(events())
    seconds, hours = (events(weight=weight * unit).recommend(users, n) for unit in (1.0, 2.0**-12))
    pd.testing.assert_frame_equal(seconds, hours)
    assert not seconds.equals(events().recommend(users, n))
    disliked = events(weight=np.where(EVENTS.movieId == C, -1.0, 1.0))
    assert (disliked.predict_user(100)[disliked.items_.index(C)]) < 0.2


@pytest.mark.parametrize(
    ("arguments", "fit", "told"),
    [
        ({}, {"y": STARS.rating}, "y is given, .* give counts as sample_weight"),
        ({"model": "net"}, {}, "model is 'net'; of events ALS trains a 'dot'"),
        ({"solver": "gibbs"}, {}, "solver is 'gibbs'; of events it must be 'auto' or an ALS"),
        ({"solver": ALS(unobserved=0.0)}, {}, "unobserved=0; of events it must be above 0"),
        ({"early_stopping": 2}, {}, "early_stopping is given; ALS of events has no early_stopping"),
        ({"n_factors": 0}, {}, "n_factors is 0"),
        ({}, {"valid": STARS}, "valid is given; ALS of events has no valid"),
        ({"feedback": "clicks"}, {}, "feedback is 'clicks'"),
        ({"lists": "both"}, {}, "lists is 'both'"),
    ],
)
def test_refusals(arguments, fit, told):
    with pytest.raises(ValueError, match=told):
        Recommender(**{"feedback": "implicit", **arguments}).fit(EVENTS, **fit)


def test_refusals_of_answers(by_events):
    with pytest.raises(ValueError, match="by is 'rating'; events have no ratings"):
        by_events.recommend(100, by="rating")
    with pytest.raises(ValueError, match="by is 'stars'"):
        by_events.recommend(100, by="stars")
    with pytest.raises(ValueError, match=r"ratings is a list and id is missing; say whose events"):
        by_events.fold_in([A, B])
    with pytest.raises(UnknownIdError):
        by_events.explain(-1, A)
    with pytest.raises(ValueError, match="epochs is 3; partial_fit of events makes"):
        clone(by_events).fit(EVENTS).partial_fit(EVENTS, epochs=3)


def test_unknown_users(by_events):
    w = by_events.weights_
    mean = w["item_factors"] @ w["user_factors"].mean(axis=0)
    assert by_events.recommend(-5, 1).movieId[0] == by_events.items_.ids[mean.argmax()]
    nan = Recommender(feedback="implicit", unknown="nan", **SMALL).fit(EVENTS)
    assert np.isnan(nan.predict([[-5, A]])).all()
    assert nan.recommend(-5).empty


# --- explanations, new ids --------------------------------------------------------------------------------------------


def test_parts_sum_to_the_score(either):
    either.titles_ = np.array([f"title {i}" for i in either.items_.ids], object)
    for user in either.users_.ids[:6]:
        for row in either.recommend(user, 3).itertuples():
            table = either.explain(user, row.movieId)
            assert table.score.sum() == pytest.approx(row.score, rel=1e-4, abs=1e-5)
            assert set(table.movieId) == set(EVENTS.movieId[EVENTS.userId == user])
            assert table.title[0] == f"title {table.movieId[0]}"
            assert (table.score.diff().dropna() <= 0).all()
    assert table.columns[-2] == ("rating" if either.score_kind_ == "stars" else "weight")


def test_a_part_is_what_the_score_would_lack(by_stars):
    """(A8) is linear in the targets: of a rating whose target becomes 0, the part is gone and the others stay."""
    table = by_stars.explain(100, C).set_index("movieId")
    preference = by_stars.preference_
    i = by_stars.items_.index(table.index.to_numpy())
    t, c = preference.reading.targets(table["rating"].to_numpy(np.float32), None)
    from minicf.solvers.als import shares

    t[0] = 0
    left = shares(preference.solver, preference.weights["item_factors"], by_stars.items_.index(C), i, t, c)
    assert left[0] == 0
    np.testing.assert_allclose(left[1:], table.score[1:], rtol=1e-6, atol=1e-9)


def test_folding_in_makes_the_row_of_training(either):
    """The pairs of a known user under a new id: the row of training, as users are solved last."""
    user, own = either.users_.ids[3], STARS[STARS.userId == either.users_.ids[3]]
    given = own.movieId.tolist() if either.score_kind_ == "preference" else dict(own[["movieId", "rating"]].to_numpy())
    before = either.recommend([user], 4)
    either.fold_in(given, id=9999)
    lists = either.recommend([9999], 4)
    assert lists.movieId.tolist() == before.movieId.tolist()
    np.testing.assert_allclose(lists.score, before.score, rtol=1e-3, atol=1e-5)
    assert either.explain(9999, lists.movieId[0]).score.sum() == pytest.approx(lists.score[0], rel=1e-4, abs=1e-5)
    pd.testing.assert_frame_equal(either.recommend([user], 4), before)
    if either.score_kind_ == "preference":
        either.fold_in(pd.DataFrame({"userId": [7001, 7001, 7002], "movieId": own.movieId.tolist()[:3]}))
        assert set(either.explain(7001, A).movieId) == set(own.movieId.tolist()[:2])
        either.recalculate(given[:1], id=9999)
        assert either.explain(9999, A).movieId.tolist() == given[:1]
        either.fold_in([user, 7001], id=5, side="item")
        assert 5 in either.explain(user, A).movieId.tolist()


def test_later_rows_are_learnt_with_the_earlier_ones(either):
    more = pd.DataFrame({"userId": [7001, 7001, 7002, 100], "movieId": [A, 5, 5, 5], "rating": [5.0, 5.0, 4.0, 4.0]})
    implicit = either.score_kind_ == "preference"
    n = len(either.preference_.pairs.index)
    either.partial_fit(more[["userId", "movieId"]] if implicit else more)
    pairs = either.preference_.pairs
    assert len(pairs.index) == n + len(more)
    np.testing.assert_array_equal(pairs.index, either.seen_.index)
    np.testing.assert_array_equal(pairs.start, either.seen_.start)
    assert set(either.explain(7001, B).movieId) == {5, A}
    assert 5 not in either.recommend(100, 100).movieId.tolist()
    if implicit:
        assert either.n_ratings_ == n + len(more)
        either.partial_fit(more[["userId", "movieId"]][:1])  # once more: a weight of 2
        assert either.explain(7001, B).set_index("movieId").weight[A] == 2


# --- files, copies, searches ------------------------------------------------------------------------------------------


def test_files_and_copies(either, tmp_path):
    users, n = some(either)
    lists, table = either.recommend(users, n), either.explain(100, C)
    either.save(tmp_path / "m.npz")
    for copy in (load(tmp_path / "m.npz"), pickle.loads(pickle.dumps(either))):
        pd.testing.assert_frame_equal(copy.recommend(users, n), lists)
        pd.testing.assert_frame_equal(copy.explain(100, C), table)
        assert copy.score_kind_ == either.score_kind_
        assert copy.preference_.solver == either.preference_.solver
    either.save(tmp_path / "m.npz", seen=False)
    without = load(tmp_path / "m.npz")
    pd.testing.assert_frame_equal(
        without.recommend(users, n, exclude_seen=False), either.recommend(users, n, exclude_seen=False)
    )
    with pytest.raises(ValueError, match="saved without seen items, which explain needs"):
        without.explain(100, C)
    if either.score_kind_ == "preference":
        with pytest.raises(ValueError, match="partial_fit of events needs what users have"):
            without.partial_fit(EVENTS)


def test_threads_change_no_bit():
    one, eight = (events(backend="numba", n_threads=n) for n in (1, 8))
    np.testing.assert_array_equal(one.weights_["user_factors"], eight.weights_["user_factors"])


def test_scikit_learn(by_events):
    search = GridSearchCV(
        Recommender(feedback="implicit", **SMALL), {"n_factors": [1, 4]}, cv=minicf.RatingFolds(2), error_score="raise"
    ).fit(EVENTS)
    assert search.best_estimator_.score_kind_ == "preference"
    assert 0 < search.best_score_ < 1
    test = EVENTS.iloc[::3]
    model = events(EVENTS.drop(test.index))
    assert model.score(test) == model.evaluate(test)["ndcg"]
    assert clone(model).get_params()["feedback"] == "implicit"


def test_callbacks_see_passes():
    seen = []

    class Watch(minicf.Callback):
        def on_epoch_end(self, trainer, row):
            seen.append(row["epoch"])

    model = Recommender(feedback="implicit", epochs=3, **SMALL).fit(EVENTS, callbacks=[Watch()])
    assert seen == [1, 2, 3]
    assert len(model.history_) == 3


# --- command line -----------------------------------------------------------------------------------------------------


def test_command_line(tmp_path, capsys):
    weighted = EVENTS.assign(n=2)
    weighted.to_csv(tmp_path / "clicks.csv", index=False)
    STARS.to_csv(tmp_path / "stars.csv", index=False)
    quick = ["--factors", "4", "--backend", "numpy"]
    clicks, model = str(tmp_path / "clicks.csv"), str(tmp_path / "m.npz")
    assert main(["train", clicks, "-o", model, "--implicit", "--weight-column", "n", *quick]) == 0
    assert load(model).preference_.reading.scale == 2
    capsys.readouterr()
    assert main(["recommend", model, "--user", "100", "-n", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "userId,rank,movieId,score"
    (tmp_path / "new.csv").write_text(f"movieId\n{A}\n{B}\n")
    assert main(["recommend", model, "--new", str(tmp_path / "new.csv"), "-n", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["recommend", model, "--user", "100", "--by", "rating"]) == 1
    assert "events have no ratings" in capsys.readouterr().err
    assert main(["train", clicks, "-o", model, "--weight-column", "n"]) == 1
    assert "say --implicit" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "stars.csv"), "-o", model, *quick, "--model", "dot"]) == 0
    lists = []
    for by in ("rating", "preference"):
        capsys.readouterr()
        assert main(["recommend", model, "--user", "100", "--by", by]) == 0
        lists.append(capsys.readouterr().out)
    assert lists[0] != lists[1]
