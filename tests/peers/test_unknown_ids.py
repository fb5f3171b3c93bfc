"""Ids, known and unknown: tables of them, and predictions and lists without a row, of minicf and its peers.

A test's first word is its peer; what we share and where we differ is in the table of `tests.peers`.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import minicf
from minicf.data.ids import UnknownIdError
from tests.peers.toys import RATED, SCORES, WEIGHTS, biases, frame, lists, recommender

# --- predictions ------------------------------------------------------------------------------------------------------


def test_surprise_unknown_user_has_the_mean_and_the_bias_of_the_item():
    """Shared where users' rows have mean 0, as here: 3 + 1/4 and 3 - 1/2."""
    assert recommender().predict([[9, 10], [9, 30]]).tolist() == [3.25, 2.5]


def test_surprise_unknown_item_has_no_factors_ours_those_of_the_mean_item():
    """User 1 is (1, 0), the mean item (1/4, 1/2): 3 + 1/2 + 1/4; 3.5 there."""
    assert recommender().predict([[1, 99]]).tolist() == [3.75]


def test_surprise_default_prediction_is_the_mean_of_all_ratings():
    assert recommender().predict([[9, 99]]).tolist() == [3.0]


def test_surprise_mean_is_the_whole_of_it_only_where_biases_have_mean_0():
    """A mean bias of 1/2 of the users goes to an unknown one here; to none there."""
    shifted = WEIGHTS | {"user_bias": np.array([1.0, 0.0, 0.5], np.float32)}
    assert recommender(shifted).predict([[9, 99]]).tolist() == [3.5]


def test_surprise_says_what_was_impossible_ours_which_rows_are_known():
    _, known = recommender().predict([[1, 10], [9, 10], [1, 99]], return_known=True)
    assert known.tolist() == [True, False, False]


def test_cornac_default_score_is_the_global_mean_of_both_unknown_shared():
    assert recommender().predict([[9, 99]]).tolist() == [np.mean([rating for _, _, rating in RATED])]


def test_cornac_knows_users_and_items():
    fitted = recommender()
    assert (1 in fitted.users_, 9 in fitted.users_, 10 in fitted.items_, 99 in fitted.items_) == (
        True,
        False,
        True,
        False,
    )


def test_lenskit_bias_of_an_unknown_user_is_that_of_the_item():
    """Without factors: 3 + c."""
    flat = WEIGHTS | {name: np.zeros_like(WEIGHTS[name]) for name in ("user_factors", "item_factors")}
    assert recommender(flat).predict([[9, 10], [9, 20]]).tolist() == [3.25, 3.0]


def test_lenskit_bias_of_an_unknown_item_is_that_of_the_user():
    """Without factors: 3 + b."""
    flat = WEIGHTS | {name: np.zeros_like(WEIGHTS[name]) for name in ("user_factors", "item_factors")}
    assert recommender(flat).predict([[1, 99], [2, 99]]).tolist() == [3.5, 2.5]


def test_lenskit_scorers_give_nan_for_what_they_cannot_score_ours_where_asked():
    got = recommender(unknown="nan").predict([[1, 10], [9, 10], [1, 99]])
    assert np.isnan(got).tolist() == [False, True, True]
    assert got[0] == SCORES[1][10]


def test_myfm_unknown_category_has_a_row_of_its_own_ours_the_mean_row():
    """Category 0 is "__UNK__" there, and no training row has it; tables here have a row for each id alone."""
    fitted = recommender()
    assert fitted.weights_["user_bias"].shape == (3,)
    means = WEIGHTS["user_bias"].mean(), WEIGHTS["user_factors"].mean(axis=0)
    assert fitted.predict([[9, 20]]).tolist() == [3 + means[0] + WEIGHTS["item_bias"][1] + means[1] @ [1.0, 1.0]]


def test_myfm_ignored_category_leaves_the_mean_and_the_other_side():
    """A one-hot row of zeros: 3 + c; shared where users' rows have mean 0."""
    assert recommender().predict([[9, 40]]).tolist() == [3 + WEIGHTS["item_bias"][3]]


def test_myfm_raise_is_unknown_raise():
    with pytest.raises(UnknownIdError, match="unknown user 9"):
        recommender(unknown="raise").predict([[9, 10]])


def test_fastai_table_has_a_row_more_for_na_ours_has_not():
    """Weights of a fit, not by hand."""
    fitted = minicf.Recommender(minicf.DotBias(2), backend="numpy", epochs=1).fit(frame())
    assert {name: len(w) for name, w in fitted.weights_.items()} == {
        "user_factors": 3, "item_factors": 4, "user_bias": 3, "item_bias": 4,
    }  # fmt: skip


# --- lists ------------------------------------------------------------------------------------------------------------


def test_tfrs_unknown_users_share_one_list():
    """The out-of-vocabulary row there, the mean row here: 10 and 40 at 3.25, 20, 30."""
    got = lists(recommender().recommend([8, 9], n=4))
    assert got == {8: [10, 40, 20, 30], 9: [10, 40, 20, 30]}


def test_rectools_cold_users_raise_by_default_ours_have_the_mean_users_list():
    table = recommender().recommend([1, 9], n=1)
    assert table["known"].tolist() == [True, False]
    with pytest.raises(UnknownIdError, match="unknown user 9"):
        recommender(unknown="raise").recommend([1, 9])


def test_rectools_cold_users_can_be_left_out():
    """on_unsupported_targets="ignore" is unknown="nan"."""
    assert list(lists(recommender(unknown="nan").recommend([9, 1, 8, 2], n=1))) == [1, 2]


def test_rectools_unknown_items_to_recommend_are_left_out():
    assert recommender().recommend(3, candidates=[20, 99])["movieId"].tolist() == [20]


def test_implicit_user_outside_the_matrix_raises_ours_has_a_list():
    assert recommender().recommend(9, n=1)["movieId"].tolist() == [10]


def test_implicit_similar_items_of_an_unknown_one_raise_ours_are_of_the_mean_item():
    """The mean item (1/4, 1/2) is nearest to (1, 1), then (0, 1)."""
    table = recommender().similar_items(99, n=2)
    assert table["similar_movieId"].tolist() == [20, 30]
    assert not table["known"].any()
    with pytest.raises(UnknownIdError, match="unknown item 99"):
        recommender(unknown="raise").similar_items(99)


# --- tables of ids ----------------------------------------------------------------------------------------------------


def test_rectools_id_map_is_in_order_of_appearance_ours_ascends():
    ratings = minicf.Ratings.from_frame(frame([("b", 3, 1), ("c", 2, 2), ("a", 1, 3)]))
    assert (ratings.users.ids.tolist(), ratings.user.tolist()) == (["a", "b", "c"], [1, 2, 0])
    assert (ratings.items.ids.tolist(), ratings.item.tolist()) == ([1, 2, 3], [2, 1, 0])


def test_rectools_strict_conversion_raises_a_key_error():
    with pytest.raises(KeyError, match="'e'"):
        minicf.Vocabulary(["a", "b", "c"]).index(["b", "e", "a"])


def test_rectools_lenient_conversion_drops_ours_gives_minus_1():
    """[1, 0] there, two results of three questions."""
    assert minicf.Vocabulary(["a", "b", "c"]).index(["b", "e", "a"], missing=-1).tolist() == [1, -1, 0]


def test_rectools_back_and_forth_is_the_same_ids():
    vocabulary = minicf.Vocabulary([3, 7, 20])
    assert vocabulary.ids[vocabulary.index([20, 3, 20])].tolist() == [20, 3, 20]


def test_rectools_repeated_new_ids_are_added_once():
    """ "e" and "d" by two and one ratings: sorted in, where RecTools appends."""
    fitted = recommender(rated=[("a", 10, 2.0), ("a", 20, 4.0), ("f", 20, 5.0), ("f", 30, 1.0), ("g", 40, 3.0)])
    fitted.fold_in(frame([("e", 10, 5.0), ("e", 20, 1.0), ("d", 10, 4.0)]))
    assert fitted.users_.ids.tolist() == ["a", "d", "e", "f", "g"]


def test_rectools_adding_a_known_id_can_be_refused_ours_always_is():
    with pytest.raises(ValueError, match="already known"):
        recommender().fold_in({10: 5.0}, id=1)


def test_surprise_inner_id_of_an_unknown_raises():
    """A ValueError there."""
    with pytest.raises(UnknownIdError, match="unknown id: 9"):
        recommender().users_.index(9)


def test_surprise_raw_ids_keep_their_type():
    """ "1" is not 1: unknown, with a warning, for 1 is known."""
    with pytest.warns(UserWarning, match="'1' is text"):
        table = recommender().recommend("1", n=1)
    assert not table["known"].any()


def test_lenskit_vocabulary_is_sorted_and_numbers_from_0():
    assert minicf.Vocabulary([10, 20, 30]).index([30, 10]).tolist() == [2, 0]


def test_lightfm_dataset_has_the_shape_of_its_ids_whoever_is_rated():
    """fit_partial of ten users and ten items, one interaction."""
    ratings = minicf.Ratings([0], [0], [1.0], users=10, items=10)
    assert ratings.to_scipy().shape == (10, 10)


def test_lightfm_dataset_refuses_an_interaction_outside_its_ids():
    with pytest.raises(ValueError, match="index 10 is not one of 0"):
        minicf.Ratings([10], [0], [1.0], users=10, items=10)


def test_spotlight_refuses_an_index_beyond_the_table():
    trainer = biases(minicf.SGD(0.1), [(0, 0, 1), (1, 1, 2)])
    with pytest.raises(IndexError, match="user index 2 is out of range"):
        trainer.predict(2, 0)
    with pytest.raises(IndexError, match="item index -1 is out of range"):
        trainer.predict(0, -1)


def test_spotlight_predicts_a_pair_alone_as_among_others():
    trainer = biases(minicf.SGD(0.1), [(0, 0, 1), (1, 1, 2), (0, 1, 3)])
    together = trainer.predict([0, 1, 0], [0, 1, 1])
    assert together.tolist() == [trainer.predict(u, i) for u, i in ((0, 0), (1, 1), (0, 1))]


# --- zeros and repeats ------------------------------------------------------------------------------------------------


def test_surprise_a_rating_of_0_is_a_rating():
    """A scale of -10 … 10; six rows are six ratings."""
    rows = [(0, 0, -10), (1, 0, 10), (2, 0, 0), (3, 0, -5), (3, 1, 0), (4, 1, 5)]
    ratings = minicf.Ratings.from_frame(frame(rows))
    assert (len(ratings), ratings.rating.min(), ratings.rating.max()) == (6, -10, 10)
    assert ratings.mean == 0.0
    assert 0.0 in ratings.rating


def test_implicit_a_stored_zero_is_kept_here():
    """Its test half drops stored zeros; here each is a rating of 0."""
    matrix = csr_matrix((np.array([0.0, 2.0]), (np.array([0, 1]), np.array([1, 0]))), shape=(2, 2))
    ratings = minicf.Ratings.from_scipy(matrix)
    assert list(zip(ratings.user, ratings.item, ratings.rating, strict=True)) == [(0, 1, 0.0), (1, 0, 2.0)]


def test_lightfm_repeated_interactions_are_summed_from_a_matrix():
    """1 and 2 of one pair: 3, as everywhere in SciPy."""
    matrix = csr_matrix((np.array([1.0, 2.0]), (np.array([0, 0]), np.array([0, 0]))), shape=(1, 1))
    assert minicf.Ratings.from_scipy(matrix).rating.tolist() == [3.0]


def test_cornac_keeps_the_first_of_repeated_ratings_with_a_warning_ours_names_them():
    rows = frame([(1, 10, 2.0), (1, 10, 5.0), (2, 10, 3.0)])
    with pytest.raises(ValueError, match=r"rows 0 and 1 .* item 10 by user 1: 2.0 and 5.0"):
        minicf.Ratings.from_frame(rows, duplicates="error")


def test_lenskit_repeated_ratings_can_keep_the_last():
    rows = frame([(1, 10, 2.0), (1, 10, 5.0), (2, 10, 3.0)])
    assert minicf.Ratings.from_frame(rows, duplicates="last").rating.tolist() == [5.0, 3.0]


def test_rectools_repeated_interactions_become_one():
    """Their sum there, in a matrix; their mean here, 7/2."""
    rows = frame([(1, 10, 2.0), (1, 10, 5.0), (2, 10, 3.0)])
    assert minicf.Ratings.from_frame(rows, duplicates="mean").rating.tolist() == [3.5, 3.0]


# --- new users --------------------------------------------------------------------------------------------------------


def test_implicit_partial_fit_of_a_user_changes_no_other_row():
    fitted = recommender()
    before = {name: w.copy() for name, w in fitted.weights_.items()}
    fitted.fold_in({10: 5.0, 40: 1.0}, id=7)
    assert fitted.users_.ids.tolist() == [1, 2, 3, 7]
    for name, w in before.items():
        assert fitted.weights_[name][: len(w)].tolist() == w.tolist()


def test_implicit_recalculated_user_leaves_out_what_was_given():
    fitted = recommender()
    fitted.fold_in({10: 5.0, 40: 1.0}, id=7)
    assert sorted(fitted.recommend(7)["movieId"]) == [20, 30]


def test_lenskit_new_user_moves_towards_its_ratings():
    """Item 10 rated 5, where an unknown user has 3.25, and 40, its opposite, rated 1: up and down."""
    fitted = recommender()
    fitted.fold_in({10: 5.0, 40: 1.0}, id=7)
    liked, other = fitted.predict([[7, 10], [7, 40]])
    assert 3.25 < liked <= 5.0
    assert 1.0 <= other < 3.25


def test_lightfm_fit_partial_needs_known_ids_ours_grows():
    fitted = recommender()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.partial_fit(pd.DataFrame([(4, 50, 3.5), (4, 10, 4.0)], columns=["userId", "movieId", "rating"]))
    assert (4 in fitted.users_, 50 in fitted.items_) == (True, True)
    assert fitted.n_ratings_ == len(RATED) + 2
