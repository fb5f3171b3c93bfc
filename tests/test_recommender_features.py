"""Features of users and items in `Recommender`: cold start, gradient models, wrong tables, files, the command line."""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf import SGD, Adam, Dot, DotBias, Gradient, Ratings, Recommender, Solver, SVDpp, cli, explain
from minicf.data import Features, UnknownIdError
from minicf.datasets import make_ratings
from minicf.recommender.training import with_mean_rest
from minicf.solvers import Gibbs
from tests import cases

OLD, NEW = 40, 48
"""Users and items from 40 on have no ratings."""


def planted(seed: int = 0) -> pd.DataFrame:
    """Users of group u % 2 and items of kind i % 2: 4.3 where they are the same, 2 where they are not."""
    random = np.random.RandomState(seed)
    pairs = random.choice(OLD * OLD, 1100, replace=False)
    user, item = pairs // OLD, pairs % OLD
    stars = np.where(user % 2 == item % 2, 4.3, 2.0) + 0.2 * random.standard_normal(len(pairs))
    return pd.DataFrame({"userId": user, "movieId": item, "rating": stars.clip(1, 5)})


ITEMS = pd.DataFrame({"movieId": np.arange(NEW), "kind": np.where(np.arange(NEW) % 2, "a", "b")})
USERS = pd.DataFrame({"group": np.where(np.arange(NEW) % 2, "u", "v")}, index=pd.Index(np.arange(NEW), name="userId"))
BOTH = {"item_features": ITEMS, "user_features": USERS}
DECAYS = {"weight_decay": {"user_factors": 0.05, "item_factors": 0.05, "user_bias": 0.05, "item_bias": 0.05}}
ONLINE = Gradient(SGD(0.05, **DECAYS, decay="per_rating"), batch_size=1, shuffle="sides")
TRAININGS = {
    "svd++": ("svd++", {}),
    "svd++ adam": ("svd++", {"optimizer": Adam(0.02, **DECAYS, decay="per_rating"), "epochs": 15}),
    "svd++ object": (SVDpp(4, history="user", features="both"), {}),
    "sgd": ("dot_bias", {"solver": "sgd"}),
    "dot": ("dot", {"solver": "sgd"}),
    "adam": ("dot_bias", {"solver": "adam", "learning_rate": 0.02}),
    "solver": (DotBias(4), {"solver": ONLINE, "epochs": 60}),
    "auto": ("dot_bias", {"epochs": 40}),
    "range": (SVDpp(4, rating_range=(0.9, 5.1)), {"epochs": 30}),
    "gibbs": ("dot_bias", {"n_samples": 40, "burn_in": 15}),
}


def trained(name: str, **more) -> Recommender:
    model, arguments = TRAININGS[name]
    return Recommender(model, **({"n_factors": 4} | arguments | more)).fit(planted(), **BOTH)


def truth(user, item):
    return np.where(np.asarray(user) % 2 == np.asarray(item) % 2, 4.3, 2.0)


# --- ids without ratings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.campaign) if name == "svd++ adam" else name for name in TRAININGS]
)
def test_an_id_without_ratings_is_predicted_by_its_features(name, tmp_path):
    if name != "gibbs":
        cases.backend("numba")
    recommender = trained(name)
    if name != "gibbs":
        assert type(recommender.solver_) is Gradient
        assert type(recommender.model_) in (Dot, DotBias)
    assert len(recommender.users_) == len(recommender.items_) == NEW
    pairs = np.stack(np.meshgrid(np.arange(NEW), np.arange(NEW)), -1).reshape(-1, 2)
    y, known = recommender.predict(pairs, return_known=True)
    assert known.all()
    new = pairs >= OLD
    for which in (new[:, 0] & ~new[:, 1], ~new[:, 0] & new[:, 1], new.all(axis=1)):
        # Without features an error of 1.15 is all that there is to be had.
        assert np.abs(y[which] - truth(*pairs[which].T)).mean() < 0.75
    user = OLD + 1
    best = recommender.recommend(user, n=24)
    assert best.known.all()
    assert set(best.movieId) == set(range(1, NEW, 2))
    assert (recommender.recommend(1, n=30).movieId >= OLD).sum() >= 4
    near = recommender.similar_items(OLD, n=10)
    assert near.known.all()
    assert (near.similar_movieId % 2 == 0).all()
    assert (recommender.similar_users(OLD, n=10).similar_userId % 2 == 0).all()

    recommender.save(tmp_path / "r.npz")
    again = minicf.load(tmp_path / "r.npz")
    np.testing.assert_array_equal(again.predict(pairs), y)
    pd.testing.assert_frame_equal(again.recommend(user, n=24), best)


def test_the_rest_of_a_row_without_ratings_is_the_mean():
    """(F16) by hand: rest 2 and 4 of the rated rows; the others have 3 and what their features say."""
    of_features = np.array([[0.5], [-1.0], [0.25], [0.0]])
    table = np.array([[2.5], [3.0], [0.3], [0.1]])
    found = with_mean_rest(table, of_features, np.array([True, True, False, False]))
    np.testing.assert_allclose(found, [[2.5], [3.0], [3.25], [3.0]])
    assert table[2] == 0.3


@pytest.mark.parametrize("model", ["svd++", "dot_bias"])
def test_a_row_without_ratings_is_the_mean_row_and_its_features(model):
    """Against the tables of a trainer: P + H + F Y of rated items, the mean of P + H and F Y of others."""
    cases.backend("numba")
    data, items = planted(), ITEMS.assign(kind=ITEMS.kind.where(ITEMS.movieId != NEW - 1))
    recommender = Recommender(model, solver="sgd", n_factors=4).fit(data, item_features=items)
    weights = recommender.weights_
    rows = np.column_stack([weights["item_factors"], weights["item_bias"]]).astype(np.float64)
    features, _ = Features.from_frame(items, "movieId")
    # Rows of features alone: kind a, kind b and neither; the mean of all rated rows is the rest and the mean of these.
    a, b, neither = rows[OLD + 1], rows[OLD], rows[NEW - 1]
    np.testing.assert_array_equal(rows[OLD:-1:2], np.tile(b, (4, 1)))
    share = (ITEMS.kind[:OLD] == "a").mean()
    np.testing.assert_allclose(rows[:OLD].mean(axis=0), share * a + (1 - share) * b, atol=1e-5)
    y = np.array([b - neither, a - neither])  # Y of kind=b and kind=a, the order of names reversed
    assert features.names.tolist() == ["kind=a", "kind=b"]
    assert np.abs(y).max() > 0.1
    np.testing.assert_allclose((rows[:OLD] - features.product(y[::-1])[:OLD]).mean(axis=0), neither, atol=1e-5)


def test_an_id_without_a_row_of_features_or_ratings_stays_unknown():
    cases.backend("numba")
    recommender = trained("svd++", unknown="nan")
    y, known = recommender.predict([[1, NEW], [NEW, 1], [OLD, OLD]], return_known=True)
    assert known.tolist() == [False, False, True]
    assert np.isnan(y).tolist() == [True, True, False]
    with pytest.raises(UnknownIdError):
        trained("svd++", unknown="raise").recommend(NEW)


def test_titles_of_items_without_ratings_are_kept():
    cases.backend("numba")
    data, titles = planted(), {i: f"Film {i}" for i in range(NEW + 5)}
    for arguments in ({"solver": "sgd"}, {"n_samples": 2, "burn_in": 1}):
        recommender = Recommender(n_factors=2, **arguments).fit(data, titles=titles, item_features=ITEMS)
        assert recommender.titles_.tolist() == [f"Film {i}" for i in range(NEW)]
        table = Ratings.from_frame(data)
        wide = Ratings(data.userId, data.movieId, data.rating, OLD, NEW, titles=[titles[i] for i in range(NEW)])
        for ratings, expected in ((table, None), (wide, [titles[i] for i in range(NEW)])):
            found = Recommender(n_factors=2, **arguments).fit(ratings, item_features=ITEMS).titles_
            assert (None if found is None else found.tolist()) == expected


# --- what training does with them -------------------------------------------------------------------------------------


def test_the_solver_follows_what_is_asked_for_beside_features():
    given = {
        "gibbs": ({}, {}),
        "SGD": ({"epochs": 1}, {}),
        "SGD ": ({}, {"sample_weight": np.linspace(0.5, 1.5, 1100)}),
        "SGD  ": ({}, {"valid": planted(1)}),
        "SGD   ": ({"early_stopping": 2, "epochs": 3}, {"callbacks": [minicf.Callback()]}),
        "Adam": ({"solver": "adam", "epochs": 1}, {}),
    }
    for expected, (arguments, more) in given.items():
        recommender = Recommender(n_factors=2, n_samples=2, burn_in=1, **arguments).fit(planted(), **BOTH, **more)
        solver = recommender.solver_
        found = "gibbs" if isinstance(solver, Gibbs) else type(solver.optimizer).__name__
        assert found == expected.strip()
        assert recommender.predict([[OLD, OLD]], return_known=True)[1].all()


def test_a_large_table_with_features_is_given_to_sgd(monkeypatch):
    monkeypatch.setattr(minicf.recommender.settings, "GIBBS_SECONDS", 1e-6)
    assert type(Recommender(n_factors=2).fit(planted(), **BOTH).solver_) is Gradient


def test_an_outlier_is_cut_off_beside_features():
    data = planted()
    data.loc[7, "rating"] = 999.0
    with pytest.warns(UserWarning, match="outliers: 1"):
        recommender = Recommender("svd++", n_factors=4).fit(data, **BOTH)
    y = recommender.predict([[1, OLD], [1, OLD + 1]])
    assert y[0] < y[1] < 6


def test_bits_depend_on_no_order_of_rows_and_threads():
    cases.backend("numba")
    a = trained("svd++", n_threads=1)
    b = Recommender("svd++", n_factors=4, n_threads=2).fit(
        planted(), item_features=ITEMS.sample(frac=1, random_state=3), user_features=USERS[::-1]
    )
    assert all(np.array_equal(a.weights_[name], b.weights_[name]) for name in a.weights_)
    numpy = trained("svd++", backend="numpy", epochs=3)
    numba = trained("svd++", backend="numba", epochs=3)
    pairs = [[u, i] for u in range(NEW) for i in range(NEW)]
    np.testing.assert_allclose(numpy.predict(pairs), numba.predict(pairs), atol=1e-4)


def test_without_features_nothing_changes():
    cases.backend("numba")
    data = planted()
    for model in ("svd++", SVDpp(4)):
        a, b = (Recommender(model, n_factors=4).fit(data, item_features=None) for _ in range(2))
        assert set(a.weights_) == {"user_factors", "item_factors", "user_bias", "item_bias"}
        assert all(np.array_equal(a.weights_[name], b.weights_[name]) for name in a.weights_)
        optimizer = a.solver_.optimizer
        assert not [name for name in optimizer.weight_decay if "features" in name]


def test_what_comes_after_training_works():
    cases.backend("numba")
    recommender = trained("svd++")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recommender.fold_in({1: 4.0, 3: 4.5, OLD + 1: 4.2}, id=900)
    assert recommender.predict([[900, 5]])[0] > recommender.predict([[900, 6]])[0]
    recommender.recalculate({1: 2.0, 2: 4.3, 4: 4.3, 6: 4.3}, id=OLD + 1)
    assert recommender.predict([[OLD + 1, 8]])[0] > recommender.predict([[OLD + 1, 9]])[0]
    test = pd.DataFrame({"userId": [1, 2, OLD], "movieId": [OLD, OLD + 1, 3], "rating": [2.0, 2.0, 4.0]})
    assert recommender.evaluate(test, k=3)["rows_unknown"] == 0
    more = pd.DataFrame({"userId": [OLD, OLD, 950], "movieId": [1, 2, OLD], "rating": [2.0, 4.0, 4.5]})
    recommender.partial_fit(more, epochs=2)
    assert recommender.predict(more, return_known=True)[1].all()
    table = Ratings.from_frame(planted())
    assert np.isfinite(explain.bias_table(recommender, table, top=None).bias).all()
    assert len(recommender.factors("item")) == NEW


# --- cold start, on planted data --------------------------------------------------------------------------------------


def described_table(seed: int = 0, n: int = 24_000):
    """Ratings of 400 users and 300 items whose biases have a part that the first feature says; every tenth is new."""
    table = make_ratings(n_users=400, n_items=300, n_ratings=n, noise=0.5, skew=0.3, seed=seed)
    random = np.random.RandomState(seed)
    kind = random.randint(0, 4, 300)
    effect = np.array([-0.9, -0.3, 0.3, 0.9])[kind]
    ratings = table.ratings
    stars = ratings.rating + effect[ratings.item]
    data = pd.DataFrame({"userId": ratings.user, "movieId": ratings.item, "rating": stars})
    new = np.arange(300) % 10 == 0
    items = pd.DataFrame({"movieId": np.arange(300), "kind": kind.astype(str), "year": random.randint(1950, 2020, 300)})
    return data, items, new[data.movieId.to_numpy()]


@pytest.fixture(scope="module")
def cold():
    data, items, new = described_table()
    old = data[~new]
    held = np.random.RandomState(1).rand(len(old)) < 0.2
    recommender = Recommender().fit(old[~held], item_features=items)
    return recommender, old[held], data[new], old[~held], items


def test_deviations_of_items_without_ratings_are_larger_and_cover(cold):
    recommender, held, fresh, _, _ = cold
    (y, std), (y_new, std_new) = (recommender.predict(rows, return_std=True) for rows in (held, fresh))
    assert np.sqrt(np.mean(std_new**2)) > 1.2 * np.sqrt(np.mean(std**2))
    # By item too: even the best known of the new has more doubt than the median of the rated.
    assert np.quantile(std_new, 0.01) > np.median(std)
    for mean, deviation, rows in ((y, std, held), (y_new, std_new, fresh)):
        off = np.abs(mean - rows.rating.to_numpy())
        # 68 and 95 %; errors of ratings of one new item go together, and there are 30 of these items.
        assert 0.6 < np.mean(off < deviation) < 0.78
        assert 0.9 < np.mean(off < 1.96 * deviation) < 0.99
    plain, _, _, train, items = cold[0], *cold[1:]
    unknown = Recommender().fit(train).predict(fresh, return_std=True)[1]
    assert std_new.mean() < 0.95 * unknown.mean()
    assert plain is recommender
    assert len(items) == len(recommender.items_)


@pytest.mark.parametrize("model", ["gibbs", "svd++", "sgd"])
def test_features_are_worth_what_they_say(cold, model):
    """The effects -0.9 … 0.9 have a variance of 0.45, and only the features say it of new items."""
    cases.backend("numba")
    recommender, _, fresh, train, items = cold
    arguments = {"gibbs": ("dot_bias", "auto"), "svd++": ("svd++", "auto"), "sgd": ("dot_bias", "sgd")}[model]
    make = lambda: Recommender(arguments[0], solver=arguments[1], n_factors=None if model == "gibbs" else 8)  # noqa: E731
    if model != "gibbs":
        recommender = make().fit(train, item_features=items)
    with_features, without = (((r.predict(fresh) - fresh.rating) ** 2).mean() for r in (recommender, make().fit(train)))
    assert without - with_features > 0.25


# --- tables that are refused ------------------------------------------------------------------------------------------


@minicf.register
@dataclass(frozen=True)
class Other(Solver):
    def parts(self, data, seed, epoch, program):
        return iter(())


@pytest.mark.parametrize(
    ("model", "arguments", "given", "words"),
    [
        ("net", {}, ("item",), "item_features is given, and model is Net.*does not read"),
        ("hybrid", {"epochs": 1}, ("user", "item"), "user_features and item_features are given, and model is Hybrid"),
        ("dot", {"solver": Other()}, ("user",), "user_features is given, and solver is Other"),
        ("svd++", {"solver": "gibbs"}, ("item",), "SVDpp"),
        (SVDpp(3, features="user"), {}, ("item",), "features are of 'user', and fit was given item_features"),
        (SVDpp(3, features="both"), {}, ("item",), "features are of 'both'"),
        (SVDpp(3, features="item"), {}, (), "features are of 'item', and fit was given none"),
    ],
)
def test_what_does_not_read_features_says_so(model, arguments, given, words):
    recommender = Recommender(model, **arguments)
    features = {f"{side}_features": BOTH[f"{side}_features"] for side in given}
    with pytest.raises(ValueError, match=words):
        recommender.fit(planted(), **features)
    assert not hasattr(recommender, "weights_")


class Own(DotBias):
    def forward(self, w, batch, masks=None):
        y, cache = super().forward(w, batch, masks)
        return 2 * y, cache


def test_a_subclass_is_not_trained_as_its_parent():
    with pytest.raises(ValueError, match="does not read"):
        Recommender(Own(3)).fit(planted(), item_features=ITEMS)


@pytest.mark.parametrize("solver", ["gibbs", "sgd"])
@pytest.mark.parametrize(
    ("frame", "error", "words"),
    [
        (pd.concat([ITEMS, ITEMS[:1]]), ValueError, "item_features has the id 0 more than once: keep one row an id"),
        (ITEMS.rename(columns={"movieId": "item"}), ValueError, "item_features has no column 'movieId'"),
        (ITEMS[["movieId"]], ValueError, "no column that tells rows apart"),
        (ITEMS.assign(movieId=ITEMS.movieId.astype(str)), ValueError, "ids of item_features are text; .* integers"),
        (ITEMS.assign(movieId=ITEMS.movieId + 0.5), ValueError, "movieId"),
        (ITEMS.assign(movieId=ITEMS.movieId.where(ITEMS.movieId > 3)), ValueError, "missing"),
        (ITEMS[:0], ValueError, "item_features has no rows"),
        ({"movieId": [1]}, TypeError, "item_features is a dict; it must be a pandas DataFrame"),
        (ITEMS.assign(day=pd.Timestamp("2020-01-01")), ValueError, "'day' has datetime"),
        (ITEMS.assign(x=np.inf), ValueError, "'x', row 0: inf"),
    ],
)
def test_a_wrong_table_is_refused_by_every_solver(frame, error, words, solver):
    recommender = Recommender(solver=solver, n_factors=2)
    with pytest.raises(error, match=words):
        recommender.fit(planted(), item_features=frame)
    assert not hasattr(recommender, "weights_")


@pytest.mark.parametrize("arguments", [{"n_samples": 2, "burn_in": 1}, {"solver": "sgd", "epochs": 1}])
def test_a_table_of_other_ids_gets_a_warning_with_counts(arguments, caplog):
    others = ITEMS.assign(movieId=ITEMS.movieId + 1000)
    words = "item_features has 48 rows, none of them of the 40 items with ratings.*its first id is 1000, that of X 0"
    with pytest.warns(UserWarning, match=words):
        recommender = Recommender(n_factors=2, **arguments).fit(planted(), item_features=others)
    assert len(recommender.items_) == 88
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, "minicf"):
        warnings.simplefilter("error")
        Recommender(n_factors=2, **arguments).fit(planted(), item_features=ITEMS[30:])
    assert "item_features: 10 of 40 items with ratings have a row; 8 others are known by it alone" in caplog.text


# --- the command line -------------------------------------------------------------------------------------------------


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def tables(tmp_path):
    planted().assign(userId=lambda x: "u" + x.userId.astype(str)).to_csv(tmp_path / "ratings.csv", index=False)
    ITEMS.assign(year=2000 + ITEMS.movieId, code="0" + ITEMS.movieId.astype(str), none="").to_csv(
        tmp_path / "items.csv", sep=";"
    )
    USERS.reset_index().assign(userId=lambda x: "u" + x.userId.astype(str)).to_csv(tmp_path / "users.csv", index=False)
    pd.DataFrame({"movieId": range(NEW), "title": [f"Film {i}" for i in range(NEW)]}).to_csv(
        tmp_path / "titles.csv", index=False
    )
    return tmp_path


def test_the_command_line_reads_tables_of_features(tables, capsys):
    model = tables / "m.npz"
    options = "--model", "svd++", "--factors", 4, "--titles", tables / "titles.csv"
    files = "--item-features", tables / "items.csv", "--user-features", tables / "users.csv"
    assert run("train", tables / "ratings.csv", "-o", model, *options, *files) == 0
    capsys.readouterr()
    data = pd.read_csv(tables / "ratings.csv")
    # An unnamed column, an index that pandas wrote, is none; codes with zeros are categories, each another: left out.
    items = ITEMS.assign(year=2000 + ITEMS.movieId)
    users = USERS.set_axis([f"u{i}" for i in USERS.index])
    expected = Recommender("svd++", n_factors=4).fit(data, item_features=items, user_features=users)
    loaded = minicf.load(model)
    for name, w in expected.weights_.items():
        np.testing.assert_array_equal(loaded.weights_[name], w)
    assert run("recommend", model, "--user", f"u{OLD + 1}", "-n", 48) == 0
    lists = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert len(lists) == NEW
    assert {f"Film {i}" for i in range(OLD, NEW)} < set(lists.title)
    assert run("similar", model, "--item", OLD, "-n", 3) == 0


def test_the_command_line_names_what_is_wrong_with_a_table_of_features(tables, capsys):
    path = tables / "x.csv"

    def said(text: str, side: str = "item") -> tuple[int, str]:
        path.write_text(text)
        code = run(
            "train", tables / "ratings.csv", "-o", tables / "m.npz", "--epochs", 1, "--factors", 2,
            f"--{side}-features", path,
        )  # fmt: skip
        return code, capsys.readouterr().err

    code, text = said("movieId,kind\n1,a\n1,b\n2,a\n")
    assert (code, "--item-features has the id 1 more than once: keep one row an id" in text) == (1, True)
    code, text = said("film,kind\n1,a\n")
    assert (code, "has no column 'movieId'" in text, "--item-column" in text) == (1, True, True)
    code, text = said("movieId,kind,kind\n1,a,b\n2,b,a\n")
    assert (code, "2 columns 'kind'" in text) == (1, True)
    code, text = said("movieId,kind\n1,a\n2,b\nx,a\n,b\n3,a\n")
    assert (code, "2 of 5 rows" in text, "no integer for the item, such as 'x'" in text) == (0, True, True)
    code, text = said("userId,group\nu1,a\nu2,b\n ,a\nu3,a\n", "user")
    assert (code, "1 of 4 rows" in text, "have no id for the user" in text) == (0, True, True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, text = said("movieId,kind\n901,a\n902,b\n903,a\n")
    assert (code, "warning: --item-features has 3 rows, none of them of the 40 items" in text) == (0, True)
    assert run("train", tables / "ratings.csv", "-o", tables / "m.npz", "--model", "net", "--item-features", tables / "items.csv") == 1  # fmt: skip  # noqa: E501
    assert "--item-features is given, and --model is Net" in (err := capsys.readouterr().err) or "does not read" in err


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1990", " 2000 ", ""], [1990.0, 2000.0, None]),
        (["1.5", "-2e3"], [1.5, -2000.0]),
        (["0", "0.5", "10"], [0.0, 0.5, 10.0]),
        (["02139", "10001"], ["02139", "10001"]),
        (["1", "x", ""], ["1", "x", None]),
        (["nan", "1"], ["nan", "1"]),
        (["inf", "1"], ["inf", "1"]),
        (["a|b", " "], ["a|b", None]),
    ],
)
def test_values_of_a_column(texts, expected):
    found = minicf.tables.values_of(pd.Series(texts))
    assert [None if pd.isna(value) else value for value in found] == expected
