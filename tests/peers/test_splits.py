"""Splits and folds: which rows are held out, by minicf and its peers, counted by hand.

A test's first word is its peer; what we share and where we differ is in the table of `tests.peers`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf import Ratings, Recommender, cross_validate

USERS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]
ITEMS = [0, 1, 2, 3, 0, 1, 2, 0, 1, 0]
TIMES = [40, 10, 30, 20, 50, 70, 60, 90, 80, 100]
STARS = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
"""Ten ratings, of four users with 4, 3, 2 and 1; all times differ."""


def ratings(timestamp=TIMES):
    return Ratings(USERS, ITEMS, np.array(STARS, float), timestamp=timestamp)


def rows(part):
    """Return the places in the table of the rows of a part: times differ."""
    return [TIMES.index(time) for time in part.timestamp]


def numbered(n):
    """n ratings: row i is of user i, so that its user tells where it went."""
    return Ratings(np.arange(n), np.zeros(n, int), np.arange(n) % 5 + 1.0)


class Recording(Recommender):
    """Keeps the rows that each fold predicts, and the number of those that it was fitted to."""

    seen: list = []  # noqa: RUF012 - of the class, for clones share no attributes

    def predict(self, X, return_known=False):
        Recording.seen.append((self.n_ratings_, X.users.ids[X.user].tolist()))
        return super().predict(X, return_known)


def folds(n, cv, seed=0):
    Recording.seen = []
    model = Recording(minicf.DotBias(1), epochs=1, backend="numpy")
    table = cross_validate(model, numbered(n), cv=cv, seed=seed)
    return table, Recording.seen


# --- shares and sizes -------------------------------------------------------------------------------------------------


def test_surprise_rounds_the_test_share_up_ours_down():
    """0.2 of 7 rows: 2 there, 1 here."""
    train, test = numbered(7).split(0.2)
    assert (len(train), len(test)) == (6, 1)


def test_sklearn_rounds_the_test_share_up_ours_down():
    from sklearn.model_selection import train_test_split

    assert [len(part) for part in train_test_split(range(11), test_size=0.25)] == [8, 3]
    assert [len(part) for part in numbered(11).split(0.25)] == [9, 2]


def test_fastai_rounds_the_valid_share_down():
    """RandomSplitter(0.2): int(0.2 * 9)."""
    assert len(numbered(9).split(0.2)[1]) == 1


def test_fastai_valid_rows_are_the_first_of_a_permutation():
    """Another generator there; NumPy's RandomState here."""
    _, valid = numbered(10).split(0.3, seed=42)
    assert valid.user.tolist() == np.random.RandomState(42).permutation(10)[:3].tolist()


def test_cornac_takes_a_whole_number_for_a_count_of_rows():
    train, test = numbered(10).split(3)
    assert (len(train), len(test)) == (7, 3)


def test_surprise_whole_share_is_refused():
    with pytest.raises(ValueError, match=r"valid is 1.0"):
        numbered(5).split(1.0)


@pytest.mark.parametrize("valid", [0, 5, 6])
def test_surprise_test_size_must_leave_both_parts_a_row(valid):
    with pytest.raises(ValueError, match="valid"):
        numbered(5).split(valid)


def test_keras_validation_split_is_the_last_rows_ours_drawn():
    """Rows 8, 9 there."""
    assert sorted(numbered(10).split(0.2, seed=0)[1].user) != [8, 9]


# --- random -----------------------------------------------------------------------------------------------------------


def test_lightfm_split_is_disjoint_and_together_whole():
    train, test = numbered(50).split(0.2)
    assert sorted([*train.user, *test.user]) == list(range(50))


def test_lightfm_split_keeps_the_shape():
    """Rows of both parts in one matrix of 50 users."""
    train, test = numbered(50).split(0.2)
    assert train.to_scipy().shape == test.to_scipy().shape == (50, 1)


def test_implicit_split_is_the_same_for_the_same_seed():
    first, second, other = (numbered(50).split(0.2, seed=seed)[1].user.tolist() for seed in (7, 7, 8))
    assert first == second != other


def test_implicit_split_tosses_a_coin_for_each_row_ours_has_an_exact_size():
    assert {len(numbered(50).split(0.2, seed=seed)[1]) for seed in range(10)} == {10}


def test_surprise_split_leaves_the_table_as_it_is():
    table = numbered(20)
    before = table.user.tolist()
    table.split(0.5)
    assert table.user.tolist() == before


def test_spotlight_halves_are_complements_in_the_tables_order():
    """The train rows ascend; the test rows come as they were drawn."""
    train, _ = numbered(20).split(0.5)
    assert train.user.tolist() == sorted(train.user)


# --- of each user -----------------------------------------------------------------------------------------------------


def test_implicit_leave_k_out_takes_k_of_each_user():
    """Users of 4, 3, 2 and 1: one each, but the last stays."""
    train, test = ratings().split(1, by="user", last=False)
    assert np.bincount(test.user, minlength=4).tolist() == [1, 1, 1, 0]
    assert np.bincount(train.user, minlength=4).tolist() == [3, 2, 1, 1]


def test_implicit_leave_k_out_adds_up_to_the_matrix():
    train, test = ratings().split(1, by="user", last=False)
    assert (train.to_scipy() + test.to_scipy() != ratings().to_scipy()).nnz == 0


def test_implicit_leave_k_out_refuses_k_below_1():
    with pytest.raises(ValueError, match="valid is 0"):
        ratings().split(0, by="user", last=False)


def test_surprise_leave_one_out_takes_the_only_rating_of_a_user_ours_keeps_it():
    """User 3 has one; min_n_ratings=1 would keep it there too."""
    train, test = ratings().split(1, by="user", last=False)
    assert 3 in train.user
    assert 3 not in test.user


def test_rectools_last_n_are_the_latest_of_each_user():
    """Times 40 of user 0, 70 of user 1, 90 of user 2."""
    _, test = ratings().split(1, by="user")
    assert sorted(test.timestamp) == [40, 70, 90]


def test_rectools_last_2_leave_a_user_of_two_one_for_training():
    """There both are held out, and the user is cold."""
    train, test = ratings().split(2, by="user")
    assert np.bincount(test.user, minlength=4).tolist() == [2, 2, 1, 0]
    assert np.bincount(train.user, minlength=4).tolist() == [2, 1, 1, 1]


def test_rectools_last_of_equal_times_is_the_later_row():
    """User 0 rates items 0 … 3 at once: 3 is held out."""
    _, test = ratings([5] * 10).split(1, by="user")
    assert test.item.tolist() == [3, 2, 1]


def test_lenskit_sample_share_of_each_user():
    """Half of 4, 3, 2, 1, rounded down."""
    _, test = ratings().split(0.5, by="user", last=False)
    assert np.bincount(test.user, minlength=4).tolist() == [2, 1, 1, 0]


def test_lenskit_last_share_of_each_user_by_time():
    _, test = ratings().split(0.5, by="user")
    assert sorted(test.timestamp) == [30, 40, 70, 90]


def test_cornac_stratified_split_has_every_user_in_training():
    train, _ = ratings().split(0.5, by="user", last=False)
    assert set(train.user) == {0, 1, 2, 3}


# --- whole users ------------------------------------------------------------------------------------------------------


def test_spotlight_user_based_split_parts_users():
    train, test = ratings().split(0.5, by="users")
    assert not set(train.user) & set(test.user)
    assert len(set(test.user)) == 2


def test_spotlight_user_based_split_holds_out_all_rows_of_a_user():
    _, test = ratings().split(1, by="users", seed=1)
    (user,) = set(test.user)
    assert len(test) == USERS.count(user)


def test_sklearn_group_shuffle_split_rounds_groups_up_ours_down():
    """0.3 of 4 users: 2 there, 1 here."""
    from sklearn.model_selection import GroupShuffleSplit

    ((_, held),) = GroupShuffleSplit(1, test_size=0.3, random_state=0).split(USERS, groups=USERS)
    assert len({USERS[row] for row in held}) == 2
    assert len(set(ratings().split(0.3, by="users")[1].user)) == 1


def test_implicit_train_only_users_have_no_test_rows():
    """Of three users held for testing, one trains alone; here the split is by users, whole."""
    train, test = ratings().split(3, by="users")
    assert (len(set(train.user)), len(set(test.user))) == (1, 3)


# --- time -------------------------------------------------------------------------------------------------------------


def test_lenskit_global_time_split_takes_rows_of_that_time_or_later():
    train, test = ratings().split(after=80)
    assert sorted(test.timestamp) == [80, 90, 100]
    assert train.timestamp.max() == 70


def test_lenskit_time_may_be_a_date():
    seconds = int(pd.Timestamp("2016-01-01", tz="UTC").timestamp())
    table = ratings([seconds - 5 + i for i in range(10)])
    train, test = table.split(after="2016-01-01")
    assert (len(train), len(test), test.timestamp.min()) == (5, 5, seconds)


def test_cornac_timestamp_split_takes_the_latest_share():
    _, test = ratings().split(0.2, by="time")
    assert sorted(test.timestamp) == [90, 100]


def test_rectools_time_range_keeps_equal_times_together():
    """The last three by rank would cut through the 7s: all of them stay for training."""
    table = ratings([1, 2, 3, 4, 5, 7, 7, 7, 8, 9])
    train, test = table.split(3, by="time")
    assert (sorted(test.timestamp), len(train)) == ([8, 9], 8)


def test_cornac_timestamp_split_without_times_is_refused():
    with pytest.raises(ValueError, match="needs timestamps"):
        ratings(None).split(0.2, by="time")


def test_rectools_cold_items_stay_in_the_test_part():
    """Item 9 is rated once, last: its index is known to both parts, its id to no fit of the first."""
    table = Ratings([0, 0, 1, 1], [0, 1, 0, 9], np.array([1.0, 2, 3, 4]), timestamp=[1, 2, 3, 4])
    train, test = table.split(1, by="time")
    fitted = Recommender(minicf.DotBias(1), epochs=1, backend="numpy").fit(train)
    assert 9 not in fitted.items_
    assert fitted.evaluate(test)["rows_unknown"] == 1


def test_spotlight_split_rows_go_with_their_ratings():
    """Each row keeps user, item, rating and time."""
    parts = ratings().split(0.3)
    for part in parts:
        for user, item, star, at in zip(part.user, part.item, part.rating, rows(part), strict=True):
            assert (user, item, star) == (USERS[at], ITEMS[at], STARS[at])


# --- folds ------------------------------------------------------------------------------------------------------------


def test_surprise_each_row_is_tested_once():
    _, seen = folds(7, 3)
    assert sorted(user for _, users in seen for user in users) == list(range(7))


def test_surprise_folds_differ_by_one_row_at_most():
    """7 in 3: 3, 2, 2, and the others for training."""
    _, seen = folds(7, 3)
    assert [(n, len(users)) for n, users in seen] == [(4, 3), (5, 2), (5, 2)]


def test_surprise_refuses_one_fold():
    with pytest.raises(ValueError, match="cv is 1"):
        folds(7, 1)


def test_surprise_refuses_more_folds_than_ratings():
    with pytest.raises(ValueError, match="cv is 10; it must be at most the number of ratings, 7"):
        folds(7, 10)


def test_surprise_folds_are_the_same_for_the_same_seed():
    assert folds(20, 4, seed=1)[1] == folds(20, 4, seed=1)[1]
    assert folds(20, 4, seed=1)[1] != folds(20, 4, seed=2)[1]


def test_surprise_default_is_five_folds():
    table = cross_validate(Recommender(minicf.DotBias(1), epochs=1, backend="numpy"), numbered(10))
    assert table.index.tolist() == [f"fold {i}" for i in range(1, 6)] + ["mean", "std"]


def test_surprise_deviation_of_folds_divides_by_their_number():
    """np.std, not pandas' of n - 1."""
    table, _ = folds(12, 3)
    errors = table["rmse"].iloc[:3].to_numpy()
    assert table["rmse"]["mean"] == pytest.approx(errors.mean())
    assert table["rmse"]["std"] == pytest.approx(np.sqrt(((errors - errors.mean()) ** 2).mean()))


def test_surprise_reports_times_of_fit_and_test():
    table, _ = folds(6, 2)
    assert (table[["fit_seconds", "test_seconds"]] >= 0).all(axis=None)


def test_sklearn_folds_in_a_row_ours_are_drawn():
    """KFold(2) tests 0 … 4 first; it shuffles if asked."""
    _, seen = folds(10, 2)
    assert sorted(seen[0][1]) != [0, 1, 2, 3, 4]


def test_cornac_fold_errors_of_unknown_users_count():
    """Each row has a user of its own: all of a fold are unknown."""
    table, _ = folds(6, 3)
    assert table["rows_unknown"].iloc[:3].tolist() == [2, 2, 2]


def test_cornac_fold_without_a_known_row_has_no_error():
    """With unknown="nan" nothing is left to be measured, and NumPy is not asked for the mean of nothing."""
    model = Recommender(minicf.DotBias(1), epochs=1, backend="numpy", unknown="nan")
    table = cross_validate(model, numbered(6), cv=3)
    assert table.loc["fold 1":"fold 3", ["rmse", "mae"]].isna().all(axis=None)
    assert table["rows_unknown"].iloc[:3].tolist() == [2, 2, 2]
