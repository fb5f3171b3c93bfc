"""The recommender by Gibbs sampling: the choice of the solver, deviations, files, Ctrl-C, features, later ratings."""

from __future__ import annotations

import logging
import signal
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import minicf
from minicf import Adam, DotBias, Ratings, Recommender, files
from minicf.datasets import make_ratings
from minicf.recommender import conditioning, settings
from minicf.recommender.conditioning import Conditioning, Given
from minicf.recommender.inputs import warn_of_values
from minicf.solvers import Gibbs, Gradient


def frame(n=900, seed=0) -> pd.DataFrame:
    random = np.random.RandomState(seed)
    pairs = random.choice(40 * 50, n, replace=False)
    user, item = pairs // 50, pairs % 50
    p, q = random.normal(size=(40, 2)), random.normal(size=(50, 2))
    mean = 3.0 + random.normal(0, 0.4, 40)[user] + random.normal(0, 0.4, 50)[item] + 0.4 * (p[user] * q[item]).sum(1)
    return pd.DataFrame({
        "userId": 1 + user, "movieId": 1 + item, "rating": (2 * mean + random.normal(0, 1, n)).round().clip(1, 10) / 2
    })  # fmt: skip


def quick(**arguments) -> Recommender:
    return Recommender(**{"n_factors": 3, "n_samples": 12, "burn_in": 4, **arguments})


@pytest.fixture(scope="module")
def fitted() -> Recommender:
    return quick().fit(frame())


# --- which solver -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "given", "expected"),
    [
        ({}, {}, Gibbs), ({"model": "dot"}, {}, Gibbs), ({"solver": "gibbs", "model": DotBias(3)}, {}, Gibbs),
        ({"solver": Gibbs(n_samples=3, burn_in=1)}, {}, Gibbs), ({"solver": "sgd"}, {}, "SGD"),
        ({"solver": "adam", "epochs": 1}, {}, "Adam"), ({"solver": Gradient(Adam(0.01)), "epochs": 1}, {}, "Adam"),
        ({"epochs": 1}, {}, "SGD"), ({"batch_size": 8, "epochs": 1}, {}, "SGD"), ({"schedule": "constant"}, {}, "SGD"),
        ({"learning_rate": 0.01}, {}, "SGD"), ({"regularization": 0.1}, {}, "SGD"), ({"early_stopping": 2}, {}, "SGD"),
        ({"optimizer": Adam(0.01), "epochs": 1}, {}, "Adam"), ({"model": DotBias(3)}, {}, "SGD"),
        ({"model": "net", "epochs": 1}, {}, "Adam"), ({"model": "net", "solver": "sgd", "epochs": 1}, {}, "SGD"),
        ({}, {"sample_weight": np.linspace(0.5, 1.5, 900)}, "SGD"), ({}, {"sample_weight": np.ones(900)}, Gibbs),
        ({}, {"valid": frame(50, 1)}, "SGD"), ({}, {"callbacks": [minicf.Callback()]}, Gibbs),
        ({}, {"callbacks": [minicf.WeightAverage()]}, "SGD"), ({}, {"callbacks": iter([minicf.Callback()])}, Gibbs),
    ],
)  # fmt: skip
def test_the_solver_follows_what_is_asked_for(arguments, given, expected):
    solver = quick(**arguments).fit(frame(), **given).solver_
    if expected is Gibbs:
        assert type(solver) is Gibbs
    else:
        assert type(solver) is Gradient
        assert type(solver.optimizer).__name__ == expected


@pytest.mark.parametrize(
    ("arguments", "given", "names"),
    [
        ({"solver": "gibbs", name: value}, {}, name)
        for name, value in (
            ("epochs", 3), ("batch_size", 3), ("optimizer", Adam(0.1)), ("early_stopping", 2), ("learning_rate", 0.1),
            ("regularization", 0.1), ("schedule", "constant"), ("model", "net"), ("n_samples", 0),
        )
    ]
    + [
        ({"solver": "gibbs"}, {"sample_weight": np.linspace(0.5, 1.5, 900)}, "sample_weight"),
        ({"solver": "gibbs"}, {"valid": frame(50, 1)}, "valid"),
        ({"solver": Gibbs()}, {"callbacks": [minicf.WeightAverage()]}, "callbacks has WeightAverage"),
        ({"solver": "als"}, {}, "solver"), ({"solver": None}, {}, "solver"),
        ({"solver": "adam", "optimizer": minicf.SGD(0.1)}, {}, "optimizer"),
        ({"learning_rate": 0.1, "optimizer": Adam(0.1)}, {}, "learning_rate"),
        ({"solver": Gradient(Adam(0.1)), "batch_size": 4}, {}, "batch_size"),
        ({"learning_rate": -0.1}, {}, "learning_rate"),
    ],
)  # fmt: skip
def test_what_a_solver_does_not_have_is_refused(arguments, given, names):
    recommender = quick(**arguments)
    with pytest.raises(ValueError, match=names):
        recommender.fit(frame(), **given)
    assert not hasattr(recommender, "weights_")


def test_the_choice_and_its_reason_are_logged(caplog, monkeypatch):
    with caplog.at_level(logging.INFO, "minicf"):
        quick().fit(frame())
    assert next(r.getMessage() for r in caplog.records if "limit 60" in r.getMessage()).startswith("solver: Gibbs")
    monkeypatch.setattr(settings, "GIBBS_SECONDS", 1e-6)
    caplog.clear()
    with caplog.at_level(logging.INFO, "minicf"):
        assert type(quick().fit(frame()).solver_) is Gradient
    assert any("solver: SGD" in r.getMessage() for r in caplog.records)


def test_a_large_table_is_given_to_sgd_by_the_estimated_seconds():
    assert settings.gibbs_seconds(80_000, 9_700, 7, 120) < 2 < settings.gibbs_seconds(1_000_000, 10_000, 7, 120) < 20
    assert settings.gibbs_seconds(25_000_000, 220_000, 7, 120) > settings.GIBBS_SECONDS


def test_numbers_of_factors_by_default():
    assert Recommender().n_factors is None
    assert Recommender(n_samples=2, burn_in=1).fit(frame()).weights_["user_factors"].shape == (40, 16)
    assert Recommender(epochs=1).fit(frame()).weights_["user_factors"].shape == (40, 128)


def test_plain_arguments_reach_the_solver_and_a_search():
    solver = quick(solver="sgd", learning_rate=0.02, regularization=0.0486).fit(frame()).solver_
    assert solver.optimizer.lr == 0.02
    assert solver.optimizer.weight_decay == pytest.approx({"user_factors": 0.0486, "item_factors": 0.0486, "user_bias": 0.0289, "item_bias": 0.0289})  # fmt: skip  # noqa: E501
    data = frame()
    search = GridSearchCV(quick(), {"n_samples": [2, 5], "n_chains": [1, 2]}, cv=2).fit(data, data.rating)
    assert search.best_estimator_.solver_.n_samples in (2, 5)
    search = GridSearchCV(quick(epochs=2), {"learning_rate": [0.0, 0.02]}, cv=2).fit(data, data.rating)
    assert search.best_params_ == {"learning_rate": 0.02}
    assert clone(quick(n_chains=2)).get_params()["n_chains"] == 2


# --- what it leaves ---------------------------------------------------------------------------------------------------


def test_what_is_left_is_a_small_model_of_the_mean(fitted):
    data = frame()
    assert type(fitted.model_) is DotBias
    assert fitted.unit_ == 1.0
    assert len(fitted.history_) == 16
    user, item = fitted.users_.index(data.userId), fitted.items_.index(data.movieId)
    mean, _ = fitted.posterior_.predict(user, item)
    # 12 samples of 3 factors have rank 36, of which 16 are kept: the rest is small.
    assert np.abs(fitted.predict(data) - mean).mean() < 0.03
    assert fitted.recommend(1, n=3).shape[0] == 3
    assert fitted.similar_items(1, n=3).shape[0] == 3
    errors = fitted.history_.train_mse
    assert 0.1 < errors.iloc[-1] < 2 * errors.min()


def test_the_same_seed_gives_the_same_bits():
    a, b, c = (quick(random_state=s, n_threads=t).fit(frame()) for s, t in ((0, 1), (0, 2), (1, 1)))
    np.testing.assert_array_equal(a.predict(frame()), b.predict(frame()))
    assert (a.predict(frame()) != c.predict(frame())).any()


def test_deviations_cover_planted_ratings():
    table = make_ratings(n_users=300, n_items=200, n_ratings=14_000, seed=3).ratings
    train, test = table.split(0.2, seed=1)
    recommender = Recommender().fit(train)
    y, std = recommender.predict(test, return_std=True)
    off = np.abs(y - test.rating)
    # A normal error lies within one deviation in 68 %, within 1.96 in 95 %; 2,800 rows: a standard error of 0.9 %.
    assert 0.65 < np.mean(off < std) < 0.72
    assert 0.935 < np.mean(off < 1.96 * std) < 0.97


def test_shapes_and_policies_of_deviations(fitted):
    pairs = [[1, 1], [1, 999], [999, 1], [999, 999]]
    y, std, known = fitted.predict(pairs, return_std=True, return_known=True)
    np.testing.assert_array_equal(y, fitted.predict(pairs))
    assert y.dtype == std.dtype == np.float32
    assert known.tolist() == [True, False, False, False]
    assert (std > 0).all()
    # Of an unknown id the spread of the rows comes on top.
    n, p = len(fitted.posterior_.alpha), fitted.posterior_
    noise = np.sqrt(np.mean([1 / (p.alpha[s] * p.noise["user"][s] * p.noise["item"][s].mean()) for s in range(n)]))
    assert std[3] > std[1:3].max() > noise * p.scale * 0.9
    both = {}
    for policy in ("nan", "bias"):
        other = quick(unknown=policy)
        other.__dict__.update({k: v for k, v in vars(fitted).items() if k.endswith("_")} | {"_cache": {}})
        both[policy] = other.predict(pairs, return_std=True)[1]
    assert np.isnan(both["nan"]).tolist() == [False, True, True, True]
    np.testing.assert_array_equal(both["bias"], std)


def test_the_spread_is_that_of_rows_drawn_at_random(fitted):
    """(P12), by counting: an unknown user is a row of each sample taken at random."""
    p = fitted.posterior_
    row = 3
    _, std = p.predict(np.array([-1]), np.array([row]))
    draws, noise = [], []
    for s in range(len(p.alpha)):
        x, w = (p.samples[side][s].astype(np.float64) for side in ("user", "item"))
        draws.append(x[:, 0] + w[row, 0] + x[:, 1:] @ w[row, 1:])
        noise.append(np.mean(1 / (p.alpha[s] * p.noise["user"][s].astype(np.float64) * p.noise["item"][s][row])))
    assert std[0] / p.scale == pytest.approx(np.sqrt(np.var(draws) + np.mean(noise)), rel=1e-5)


def test_without_samples_a_deviation_is_refused(fitted, tmp_path):
    with pytest.raises(ValueError, match="solver='gibbs'"):
        quick(epochs=1).fit(frame()).predict(frame(), return_std=True)
    fitted.save(tmp_path / "small.npz", samples=False)
    with pytest.raises(ValueError, match="samples=True"):
        minicf.load(tmp_path / "small.npz").predict(frame(), return_std=True)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_gives_the_same_bits(fitted, tmp_path):
    fitted.save(tmp_path / "r.npz")
    loaded = minicf.load(tmp_path / "r.npz")
    for mine, other in zip(
        fitted.predict(frame(), return_std=True), loaded.predict(frame(), return_std=True), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
    assert loaded.solver_ == fitted.solver_
    new = {1: 5.0, 2: 1.0, 7: 4.0}
    pd.testing.assert_frame_equal(fitted_copy(fitted).fold_in(new, id=77), loaded.fold_in(new, id=77))
    fitted.save(tmp_path / "small.npz", samples=False)
    small = minicf.load(tmp_path / "small.npz")
    np.testing.assert_array_equal(small.predict(frame()), fitted.predict(frame()))
    assert (tmp_path / "small.npz").stat().st_size < (tmp_path / "r.npz").stat().st_size
    assert len(small.fold_in(new, id=77)) == 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("samples.user", lambda x: x[:, :-1]), ("samples.user", lambda x: x.astype(np.float32)),
        ("samples.item", lambda x: x[:-1]), ("samples.item", lambda x: x * np.float16(np.nan)),
        ("samples.user_noise", lambda x: -x), ("samples.item_noise", lambda x: x[:, :-1]),
        ("samples.alpha", lambda x: x * 0), ("samples.alpha", lambda x: x[:0]),
        ("samples.alpha", lambda x: np.float64(1)),
        ("samples.user", None), ("samples.alpha", None),
    ],
)  # fmt: skip
def test_damaged_samples_are_refused(fitted, tmp_path, name, change):
    path = tmp_path / "r.npz"
    fitted.save(path)
    header, arrays = files.read(path, "recommender")
    if change is None:
        del arrays[name]
    else:
        arrays[name] = np.asarray(change(arrays[name]))
    kept = {key: value for key, value in header.items() if key not in ("format", "version", "sha256", "arrays")}
    files.write(path, "recommender", kept, arrays)
    with pytest.raises(files.FileError):
        minicf.load(path)


@pytest.mark.parametrize(
    "change",
    [{"scale": 0}, {"scale": "x"}, {"biases": 1}, {"mean": None}, {"low": 9.0, "high": 1.0}, None, {"kind": 3}],
)
def test_a_damaged_header_of_samples_is_refused(fitted, tmp_path, change):
    path = tmp_path / "r.npz"
    fitted.save(path)
    header, arrays = files.read(path, "recommender")
    kept = {key: value for key, value in header.items() if key not in ("format", "version", "sha256", "arrays")}
    if change is None or "kind" in change:
        kept["solver"] = change or {"kind": "Nothing"}
    else:
        kept["posterior"] = dict(kept["posterior"]) | change
    files.write(path, "recommender", kept, arrays)
    with pytest.raises(files.FileError):
        minicf.load(path)


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sweep", [2, 9])
def test_ctrl_c_leaves_the_mean_so_far_or_what_was_before(monkeypatch, caplog, sweep):
    recommender = quick(n_samples=12, burn_in=4)
    done = Gibbs.end

    def end(self, program, data, number, squares):
        if number == sweep - 1:
            signal.raise_signal(signal.SIGINT)
        return done(self, program, data, number, squares)

    monkeypatch.setattr(Gibbs, "end", end)
    with caplog.at_level(logging.WARNING, "minicf"), pytest.raises(KeyboardInterrupt):
        recommender.fit(frame())
    if sweep == 2:
        assert not hasattr(recommender, "weights_")
        return
    assert "mean of 5 instead of 12 samples" in caplog.text
    assert len(recommender.posterior_.alpha) == 5
    monkeypatch.undo()
    whole = quick(n_samples=5, burn_in=4).fit(frame())
    np.testing.assert_array_equal(recommender.predict(frame()), whole.predict(frame()))
    assert recommender.n_ratings_ == 900
    assert len(recommender.recommend(1, n=3)) == 3


# --- more ratings -----------------------------------------------------------------------------------------------------


def fitted_copy(recommender: Recommender) -> Recommender:
    return recommender._snapshot()


def test_folding_in_is_the_posterior_of_the_row(fitted):
    """(P13) against (P1) written out, for a sample without its perturbation; (P14) against least squares."""
    p, items, stars = fitted.posterior_, np.array([3, 8, 20]), np.array([5.0, 1.0, 4.0])
    given = Given(np.array([0, 3]), items, stars)
    _, small = Conditioning(p, fitted.weights_).solved("user", given)
    total = np.zeros(len(fitted.items_))
    for s in range(len(p.alpha)):
        x = p.samples["user"][s].astype(np.float64)
        w = p.samples["item"][s].astype(np.float64)
        mean, covariance = x.mean(axis=0), np.cov(x.T, bias=True)
        covariance += np.eye(4) * 1e-3 * np.trace(covariance) / 4
        h = np.column_stack([np.ones(len(w)), w[:, 1:]])
        noise = p.alpha[s] / np.mean(1 / p.noise["user"][s].astype(np.float64)) * p.noise["item"][s][items]
        prior = np.linalg.inv(covariance)
        a = prior + (h[items].T * noise) @ h[items]
        v = prior @ mean + h[items].T @ (noise * ((stars - p.mean) / p.scale - w[items, 0]))
        total += (h @ np.linalg.solve(a, v) + w[:, 0]) * p.scale / len(p.alpha)
    table = np.column_stack([fitted.weights_["item_factors"], np.ones(len(total))]).astype(np.float64)
    expected = np.linalg.lstsq(table, total - fitted.weights_["item_bias"], rcond=1e-6)[0]
    np.testing.assert_allclose(table @ small[0], table @ expected, atol=2e-4)  # means pass through float32


def test_sums_over_ratings_are_those_written_out():
    """(P15): M [g h h^T] and the others, rating by rating."""
    random = np.random.default_rng(0)
    h, c, g, e = random.normal(size=(9, 3)), random.normal(size=9), random.gamma(2.0, size=9), random.normal(size=4096)
    given = Given(np.array([0, 2, 2, 6]), np.array([4, 0, 8, 2, 4, 1]), random.normal(size=6))
    before = Given(np.array([0, 1, 4, 4]), np.array([7, 0, 1, 2]))
    sums = conditioning._Sums(given, before, 3, 0.5, 2.0)
    assert sums.used.tolist() == [0, 1, 2, 4, 7, 8]
    expected = [np.zeros((3, 3, 3)), np.zeros((3, 3, 3)), np.zeros((3, 3)), np.zeros((3, 3))]
    for row in range(3):
        for at in range(before.start[row], before.start[row + 1]):
            i = before.other[at]
            expected[0][row] += g[i] * np.outer(h[i], h[i])
        for at in range(given.start[row], given.start[row + 1]):
            i, r = given.other[at], (given.rating[at] - 0.5) / 2.0
            expected[1][row] += g[i] * np.outer(h[i], h[i])
            expected[2][row] += g[i] * (r - c[i]) * h[i]
            expected[3][row] += np.sqrt(g[i]) * e[at - given.start[row]] * h[i]
    for mine, other in zip(sums.of(h[sums.used], c[sums.used], g[sums.used], e), expected, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-13)  # sums of at most 4 numbers near 1


def test_a_folded_in_row_does_not_depend_on_others(fitted):
    one, many = fitted_copy(fitted), fitted_copy(fitted)
    rows = pd.DataFrame({
        "userId": [70, 70, 71, 71, 71, 72], "movieId": [1, 2, 2, 3, 4, 9], "rating": [5.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    })  # fmt: skip
    many.fold_in(rows)
    one.fold_in(rows[rows.userId == 71])
    pair = [[71, 5]]
    for a, b in zip(one.predict(pair, return_std=True), many.predict(pair, return_std=True), strict=True):
        np.testing.assert_array_equal(a, b)
    # What is known of a user shows in the deviation.
    assert many.predict(pair, return_std=True)[1] < many.predict([[999, 5]], return_std=True)[1]


def test_new_rows_fold_in_about_as_well_as_trained_ones():
    """Their items have four fifths of the ratings: the error of the signal, 1/n of each row's, is at most 5/4."""
    made = make_ratings(n_users=300, n_items=200, n_ratings=14_000, seed=3)
    table = made.ratings
    truth = Ratings(table.user, table.item, made.signal.astype(np.float32), table.n_users, table.n_items)
    (train, test), (_, signal) = table.split(0.2, seed=1), truth.split(0.2, seed=1)
    out = np.arange(300) % 5 == 0
    whole = Recommender().fit(train)
    part = Recommender().fit(train.take(np.flatnonzero(~out[train.user])))
    own = train.take(np.flatnonzero(out[train.user]))
    rows = pd.DataFrame({"userId": own.users.ids[own.user], "movieId": own.items.ids[own.item], "rating": own.rating})
    later = fitted_copy(part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of them is lower than all in training
        part.fold_in(rows)
    later.partial_fit(rows)
    at = np.flatnonzero(out[test.user])
    held = test.take(at)
    counts = np.bincount(held.user, minlength=300)[out]
    errors = [(r.predict(held) - signal.rating[at]) ** 2 for r in (whole, part, later)]
    of_whole, of_part, of_later = (np.bincount(held.user, e, 300)[out] / counts for e in errors)
    for mine in (of_part, of_later):
        more = mine - 1.25 * of_whole
        assert more.mean() < 3 * more.std(ddof=1) / np.sqrt(len(more))
    assert of_later.mean() < of_part.mean()  # which leaves the items as they are
    y, std = later.predict(held, return_std=True)
    assert 0.62 < np.mean(np.abs(y - held.rating) < std) < 0.74  # 560 rows: a standard error of 2 %


def test_partial_fit_moves_known_rows_and_makes_new_ones(fitted):
    later = fitted_copy(fitted)
    unrated = np.setdiff1d(np.arange(1, 51), frame()[frame().userId == 1].movieId)[:6]
    rows = pd.DataFrame({"userId": 1, "movieId": unrated, "rating": 5.0})
    new = pd.DataFrame({"userId": [1, 90, 90], "movieId": [300, 300, 301], "rating": [5.0, 4.0, 2.0]})
    later.partial_fit(pd.concat([rows, new]))
    before, after = (r.predict(rows).mean() for r in (fitted, later))
    assert before < after <= 5.0
    assert later.predict([[90, 300], [90, 301]], return_known=True)[1].all()
    assert later.n_ratings_ == 909
    for arguments in ({"epochs": 3}, {"sample_weight": np.full(6, 0.5)}, {"callbacks": [minicf.Callback()]}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            later.partial_fit(rows, **arguments)


# --- features ---------------------------------------------------------------------------------------------------------


def test_an_item_without_ratings_is_predicted_by_its_features(tmp_path):
    random = np.random.RandomState(0)
    kind = np.arange(60) % 2
    pairs = random.choice(50 * 50, 1500, replace=False)  # items 50 … 59 have no ratings
    user, item = pairs // 50, pairs % 50
    stars = np.where(kind[item] == 1, 4.2, 2.0) + random.normal(0, 0.4, 1500)
    data = pd.DataFrame({"userId": user, "movieId": item, "rating": stars.clip(1, 5)})
    features = pd.DataFrame({"movieId": np.arange(60), "kind": np.where(kind == 1, "a", "b")})
    plain = Recommender(n_factors=3).fit(data)
    recommender = Recommender(n_factors=3).fit(data, item_features=features)
    new = [[1, i] for i in range(50, 60)]
    y, std, known = recommender.predict(new, return_std=True, return_known=True)
    assert known.all()
    assert not plain.predict(new, return_known=True)[1].any()
    # Half of the spread is between the kinds, 1.1 from the mean: the mean row would miss by that.
    assert np.abs(y - np.where(kind[50:] == 1, 4.2, 2.0)).max() < 0.6
    assert (std < plain.predict(new, return_std=True)[1]).all()
    assert set(recommender.recommend(1, n=5).movieId) <= set(np.flatnonzero(kind == 1))
    assert recommender.similar_items(51, n=5).known.all()
    recommender.save(tmp_path / "r.npz")
    np.testing.assert_array_equal(minicf.load(tmp_path / "r.npz").predict(new), y)
    with pytest.raises(ValueError, match="integers"):
        Recommender().fit(data, item_features=features.assign(movieId=features.movieId.astype(str)))


def test_features_of_users_reach_every_backend():
    features = frame()[["userId"]].drop_duplicates().assign(age=lambda x: x.userId * 1.0)
    a, b = (
        quick(backend=backend, n_samples=2, burn_in=1).fit(frame(), user_features=features)
        for backend in ("numba", "numpy")
    )
    # float32 and float64, after three sweeps.
    np.testing.assert_allclose(a.predict(frame()), b.predict(frame()), atol=0.02)


# --- values that look wrong -------------------------------------------------------------------------------------------


def test_ratings_that_are_all_alike_get_a_warning():
    data = frame().assign(rating=1.0)
    with pytest.warns(UserWarning, match="all 900 ratings are 1: this looks like implicit feedback"):
        recommender = quick().fit(data)
    np.testing.assert_allclose(recommender.predict(data), 1.0)


@pytest.mark.parametrize("solver", ["auto", "sgd"])
def test_an_outlier_is_named_and_spoils_little(solver):
    data = frame()
    other = data.copy()
    other.loc[123, "rating"] = 999.0
    row = f"row 123 .*999, of user {data.userId[123]} and item {data.movieId[123]}"
    with pytest.warns(UserWarning, match=row):
        spoilt = Recommender(solver=solver, n_factors=3).fit(other)
    normal = data.drop(index=123)
    rmse = [np.sqrt(np.mean((r.predict(normal) - normal.rating) ** 2)) for r in (
        spoilt, Recommender(solver=solver, n_factors=3).fit(data)
    )]  # fmt: skip
    assert rmse[0] < 1.25 * rmse[1]


@pytest.mark.parametrize("solver", ["auto", "sgd"])
def test_counts_of_a_long_tail_train(solver):
    data = frame()
    data["rating"] = np.random.default_rng(0).lognormal(0.0, 2.0, len(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = Recommender(solver=solver, n_factors=3).fit(data).predict(data)
    assert np.isfinite(y).all()
    assert np.median(np.abs(y - data.rating)) < 2 * data.rating.std()


@pytest.mark.parametrize(("step", "low", "high"), [(1, 1, 5), (0.5, 0.5, 5), (1, 1, 10), (1, 0, 100), (1, 0, 1)])
def test_ordinary_scales_have_no_outliers(step, low, high):
    scale = np.arange(low, high + step / 2, step)
    random = np.random.default_rng(0)
    for shape in (0.05, 0.3, 1.0, 4.0):  # crowded at the ends, even, in the middle
        for a, b in ((shape, 1.0), (1.0, shape), (shape, shape)):
            stars = scale[np.minimum((random.beta(a, b, 5000) * len(scale)).astype(int), len(scale) - 1)]
            stars[:2] = low, high
            pairs = np.arange(5000)
            table = Ratings.from_frame(pd.DataFrame({"userId": pairs // 100, "movieId": pairs % 100, "rating": stars}))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert warn_of_values(table) is table
