"""R-hat of chains, the history of a sampling, callbacks of it, and chains that go on with more ratings."""

from __future__ import annotations

import logging
import signal

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf import Checkpoint, Recommender, Trainer
from minicf.datasets import make_ratings
from minicf.recommender.training import LATER_BURN_IN
from minicf.solvers import Gibbs
from minicf.solvers.convergence import report, split_r_hat
from tests.test_recommender_gibbs import fitted_copy, frame, quick

# --- R-hat ------------------------------------------------------------------------------------------------------------


def test_r_hat_by_hand():
    """(P16): halves 1, 3 and 5, 7 have the means 2 and 6 and the variances 2: B = 2 x 8, W = 2."""
    assert split_r_hat(np.array([[1.0, 3.0, 5.0, 7.0]])) == pytest.approx(np.sqrt((0.5 * 2 + 16 / 2) / 2))
    # Two chains, 0 1 0 1 and 4 5 4 5, and the middle one of five left out: means 0.5, 0.5, 4.5, 4.5.
    draws = np.array([[0.0, 1, 99, 0, 1], [4.0, 5, -99, 4, 5]])
    between, within = 2 * np.var([0.5, 0.5, 4.5, 4.5], ddof=1), 0.5
    assert split_r_hat(draws) == pytest.approx(np.sqrt((0.5 * within + between / 2) / within))


def test_r_hat_of_too_few_and_of_what_stands_still():
    assert np.isnan(split_r_hat(np.zeros((2, 3))))
    assert split_r_hat(np.ones((2, 8))) == 1.0
    assert split_r_hat(np.array([[1.0] * 8, [2.0] * 8])) == np.inf


def test_r_hat_of_one_distribution_is_1():
    draws = np.random.default_rng(0).normal(size=(2, 1000, 50))
    # B / W is about chi2_3 / 3: with n = 500, R-hat^2 - 1 is below 16.3 / 3 / 500 with probability 0.999 each.
    assert np.all(split_r_hat(draws) < np.sqrt(1 + 22 / 3 / 500))
    draws[1] += 1.0
    assert np.all(split_r_hat(draws) > 1.1)


@pytest.mark.parametrize("chains", [1, 2])
def test_a_recommender_has_r_hat(tmp_path, chains):
    recommender = quick(n_chains=chains).fit(frame())
    table = recommender.r_hat_
    assert table.columns.tolist() == ["userId", "movieId", "r_hat"]
    assert len(table) == 257
    p = recommender.posterior_
    assert table.r_hat[0] == pytest.approx(split_r_hat(p.alpha.reshape(chains, -1)))
    user, item = (v.index(np.array([i])) for v, i in zip(
        (recommender.users_, recommender.items_), table.iloc[5, :2], strict=True))  # fmt: skip
    x, w = (p.samples[s][:, r[0]].astype(np.float64) for s, r in (("user", user), ("item", item)))
    y = x[:, 0] + w[:, 0] + (x[:, 1:] * w[:, 1:]).sum(axis=1)
    assert table.r_hat[5] == pytest.approx(split_r_hat(y.reshape(chains, -1)), rel=1e-5)  # predictions in float32
    recommender.save(tmp_path / "r.npz")
    pd.testing.assert_frame_equal(minicf.load(tmp_path / "r.npz").r_hat_, table)
    recommender.save(tmp_path / "s.npz", samples=False)
    with pytest.raises(AttributeError, match="with samples"):
        _ = minicf.load(tmp_path / "s.npz").r_hat_


def test_a_chain_that_has_not_settled_is_named(caplog):
    with caplog.at_level(logging.INFO, "minicf"):
        report(pd.DataFrame({"r_hat": [1.5, 1.0, 1.0, 1.3]}), 20)
        report(pd.DataFrame({"r_hat": [1.0, 1.0, 1.2, 1.3]}), 20)
        report(pd.DataFrame({"r_hat": [np.nan] * 3}), 20)
    assert [r.levelname for r in caplog.records] == ["INFO", "WARNING"]
    assert "burn_in of more than 20" in caplog.records[1].getMessage()


def test_the_history_has_the_error_of_the_mean_so_far():
    recommender, data = quick(n_chains=2).fit(frame()), frame()
    assert recommender.history_.mean_mse.isna().tolist() == [True] * 4 + [False] * 12
    p = recommender.posterior_
    user, item = recommender.users_.index(data.userId), recommender.items_.index(data.movieId)
    y = [p.mean + p.scale * (x[user, 0] + w[item, 0] + (x[user, 1:] * w[item, 1:]).sum(axis=1)) for x, w in zip(
        p.samples["user"].astype(float), p.samples["item"].astype(float), strict=True)]  # fmt: skip
    by_chain = np.reshape(y, (2, 12, -1))
    for n in (1, 7, 12):  # 900 ratings are all followed; samples are rounded to float16, by 2^-11 of a few stars
        expected = np.mean((by_chain[:, :n].mean(axis=(0, 1)) - data.rating) ** 2)
        assert recommender.history_.mean_mse[3 + n] == pytest.approx(expected, abs=2e-3)


# --- callbacks --------------------------------------------------------------------------------------------------------


def test_a_recommender_has_checkpoints_of_its_chain(tmp_path):
    features = pd.DataFrame({"movieId": np.arange(1, 51), "kind": [f"{i % 4}" for i in range(50)]})
    path = tmp_path / "c{epoch}.npz"
    whole = quick(backend="numba").fit(frame(), item_features=features, callbacks=[Checkpoint(path, every=6)])
    plain = quick(backend="numba").fit(frame(), item_features=features)
    np.testing.assert_array_equal(whole.predict(frame()), plain.predict(frame()))
    later = Trainer.load(tmp_path / "c6.npz", "numba")
    ratings = whole.inputs.training(frame(), None, None, None)[0]
    later.fit(ratings, epochs=10)
    found = minicf.solvers.Posterior.of(later.program)
    for side in ("user", "item"):
        np.testing.assert_array_equal(found.samples[side], whole.posterior_.samples[side])
    np.testing.assert_array_equal(found.alpha, whole.posterior_.alpha)


class Stops(minicf.Callback):
    def __init__(self, sweep: int) -> None:
        self.sweep = sweep

    def on_epoch_end(self, trainer, row):
        return row["epoch"] == self.sweep


def test_a_callback_can_stop_a_chain_that_has_samples():
    recommender = quick().fit(frame(), callbacks=[Stops(9)])
    assert len(recommender.posterior_.alpha) == 5
    assert len(recommender.history_) == 9
    with pytest.raises(ValueError, match="3 sweeps were drawn; it must be more than burn_in, 4"):
        quick().fit(frame(), callbacks=[Stops(3)])


# --- more ratings -----------------------------------------------------------------------------------------------------


def planted():
    """A first part of planted ratings, without some users and items, all of the rest, and pairs to be predicted."""
    made = make_ratings(n_users=200, n_items=120, n_ratings=9000, seed=5)
    rows = pd.DataFrame({"userId": made.ratings.user, "movieId": made.ratings.item, "rating": made.ratings.rating})
    held = np.random.default_rng(0).random(len(rows)) < 0.2
    first = ~held & (rows.userId % 7 != 0).to_numpy() & (rows.movieId % 11 != 0).to_numpy()
    first &= np.random.default_rng(1).random(len(rows)) < 0.6
    return rows[first], rows[~held & ~first], rows[held], made.signal[held]


def test_a_chain_that_goes_on_is_as_good_as_a_new_one(tmp_path):
    first, new, test, signal = planted()
    base = Recommender(n_factors=4, n_samples=60, n_chains=2, random_state=1).fit(first)
    everything = pd.concat([first, new]).sample(frac=1, random_state=0)
    later, conditioned = fitted_copy(base), fitted_copy(base)
    later.partial_fit(everything)
    conditioned.partial_fit(new)
    anew = [Recommender(n_factors=4, n_samples=60, n_chains=2, random_state=s).fit(everything) for s in (2, 3, 4, 5)]
    y = {name: r.predict(test) for name, r in (("later", later), ("conditioned", conditioned))}
    fresh = np.array([r.predict(test) for r in anew])
    error = {name: np.mean((x - signal) ** 2) for name, x in y.items()}
    errors = ((fresh - signal) ** 2).mean(axis=1)
    # Means over chains of one length differ by the Monte Carlo error alone: four errors, and one more that is drawn
    # from their distribution, lies within t (3 degrees of freedom, 0.999: 10.2) of its standard errors sqrt(1 + 1/4).
    assert error["later"] < errors.mean() + 10.2 * errors.std(ddof=1) * np.sqrt(1.25)
    assert error["later"] < error["conditioned"]
    assert later.predict(test, return_known=True)[1].all()
    assert later.n_ratings_ == len(everything)
    assert len(later.posterior_.alpha) == 120
    assert later.history_.epoch.tolist() == list(range(1, 20 + 60 + LATER_BURN_IN + 60 + 1))
    assert later.solver_ == base.solver_
    base.save(tmp_path / "r.npz")
    loaded = minicf.load(tmp_path / "r.npz").partial_fit(everything)
    np.testing.assert_array_equal(loaded.predict(test), y["later"])
    np.testing.assert_array_equal(loaded.posterior_.samples["user"], later.posterior_.samples["user"])


def test_sweeps_that_go_on_have_random_numbers_of_their_own():
    recommender = quick().fit(frame())
    one = fitted_copy(recommender).partial_fit(frame())
    two = fitted_copy(one).partial_fit(frame())
    assert len(two.history_) == 16 + 2 * (LATER_BURN_IN + 12)
    assert (one.posterior_.alpha != recommender.posterior_.alpha).all()
    assert (one.posterior_.alpha != two.posterior_.alpha).all()


def test_without_one_old_pair_samples_are_conditioned():
    recommender, data = quick().fit(frame()), frame()
    new = pd.DataFrame({"userId": [91, 91], "movieId": [1, 2], "rating": [5.0, 1.0]})
    later = fitted_copy(recommender).partial_fit(pd.concat([data.iloc[1:], new]))
    assert len(later.history_) == 16
    later = fitted_copy(recommender).partial_fit(pd.concat([data, new]))
    assert len(later.history_) == 16 + LATER_BURN_IN + 12


def test_after_features_only_new_pairs_are_conditioned_on(tmp_path):
    features = pd.DataFrame({"movieId": np.arange(1, 51), "kind": [f"{i % 4}" for i in range(50)]})
    recommender, data = quick().fit(frame(), item_features=features), frame()
    new = pd.DataFrame({"userId": [91, 91], "movieId": [1, 2], "rating": [5.0, 1.0]})
    recommender.save(tmp_path / "r.npz")
    one = fitted_copy(recommender).partial_fit(pd.concat([data, new]))
    two = fitted_copy(recommender).partial_fit(new)
    three = minicf.load(tmp_path / "r.npz").partial_fit(pd.concat([data, new]))
    assert one.n_ratings_ == two.n_ratings_ == 902
    for other in (two, three):
        np.testing.assert_array_equal(one.predict(data), other.predict(data))


def test_going_on_without_samples_is_refused(tmp_path):
    quick().fit(frame()).save(tmp_path / "r.npz", samples=False)
    with pytest.raises(ValueError, match="samples=False, and partial_fit after Gibbs sampling needs them"):
        minicf.load(tmp_path / "r.npz").partial_fit(frame())


@pytest.mark.parametrize("sweep", [16 + 3, 16 + LATER_BURN_IN + 5])
def test_ctrl_c_in_a_chain_that_goes_on(monkeypatch, sweep):
    recommender = quick().fit(frame())
    before, done = recommender.predict(frame()), Gibbs.end

    def end(self, program, data, number, squares):
        if number == sweep - 1:
            signal.raise_signal(signal.SIGINT)
        return done(self, program, data, number, squares)

    monkeypatch.setattr(Gibbs, "end", end)
    with pytest.raises(KeyboardInterrupt):
        recommender.partial_fit(frame())
    settled = sweep > 16 + LATER_BURN_IN
    assert len(recommender.posterior_.alpha) == (5 if settled else 12)
    assert len(recommender.history_) == (sweep if settled else 16)
    assert (recommender.predict(frame()) != before).any() == settled
