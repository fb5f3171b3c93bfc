"""Lists: which items, in which order, of minicf and its peers, on a recommender whose scores are by hand.

A test's first word is its peer; what we share and where we differ is in the table of `tests.peers`.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.peers.toys import RATED, SCORES, WEIGHTS, lists, recommender

# --- seen items, candidates -------------------------------------------------------------------------------------------


def test_implicit_leaves_liked_items_out_by_default():
    """User 1 has rated 10 and 20, its best."""
    assert recommender().recommend(1)["movieId"].tolist() == [30, 40]


def test_implicit_keeps_liked_items_where_asked():
    """filter_already_liked_items=False; in the order of SCORES."""
    assert recommender().recommend(1, exclude_seen=False)["movieId"].tolist() == [10, 20, 30, 40]


def test_implicit_fills_a_short_list_with_item_0_ours_ends():
    """Three items are left for user 3."""
    assert len(recommender().recommend(3, n=10_000)) == 3


def test_implicit_many_users_at_once_have_the_lists_of_each_alone():
    fitted = recommender()
    together = lists(fitted.recommend([1, 2, 3], n=2))
    assert together == {user: fitted.recommend(user, n=2)["movieId"].tolist() for user in (1, 2, 3)}
    assert together == {1: [30, 40], 2: [10, 40], 3: [10, 30]}


def test_implicit_lists_keep_the_order_of_the_users_asked():
    assert list(lists(recommender().recommend([3, 1], n=1))) == [3, 1]


def test_implicit_filter_items_is_a_function_here():
    """Without 10: [30, 20] for user 3."""
    got = recommender().recommend(3, filter=lambda items: items["movieId"] != 10)
    assert got["movieId"].tolist() == [30, 20]


def test_implicit_items_are_the_only_candidates():
    assert recommender().recommend(3, candidates=[20, 30])["movieId"].tolist() == [30, 20]


def test_implicit_selected_items_are_still_filtered_by_what_is_liked():
    assert recommender().recommend(1, candidates=[10, 40])["movieId"].tolist() == [40]


def test_rectools_items_to_recommend_are_a_set_whose_order_and_repeats_do_not_count():
    assert recommender().recommend(3, candidates=[30, 20, 30])["movieId"].tolist() == [30, 20]


def test_rectools_filter_viewed_leaves_a_shorter_list():
    """User 1 has two of four items left, k = 3."""
    assert len(recommender().recommend(1, n=3)) == 2


def test_rectools_table_is_long_with_ranks_from_1():
    table = recommender().recommend([1, 2], n=2)
    assert table.columns[:3].tolist() == ["userId", "rank", "movieId"]
    assert table["rank"].tolist() == [1, 2, 1, 2]


def test_rectools_refuses_k_0():
    with pytest.raises(ValueError, match="n is 0"):
        recommender().recommend(1, n=0)


def test_cornac_keeps_seen_items_by_default_ours_leaves_them_out():
    """recommend(user, k=2) is [10, 20] there."""
    assert recommender().recommend(1, n=2)["movieId"].tolist() == [30, 40]


def test_cornac_k_minus_1_is_all_items_ours_a_large_n():
    with pytest.raises(ValueError, match="n is -1"):
        recommender().recommend(1, n=-1)
    assert len(recommender().recommend(2, n=4, exclude_seen=False)) == 4


def test_lenskit_candidates_are_all_unrated_items():
    """Two of four rated by user 2; one by user 3."""
    got = lists(recommender().recommend([2, 3], n=4))
    assert {user: sorted(items) for user, items in got.items()} == {2: [10, 40], 3: [10, 20, 30]}


def test_lenskit_candidates_of_a_user_without_ratings_are_all_items():
    assert sorted(recommender().recommend(9, n=9)["movieId"]) == [10, 20, 30, 40]


def test_lenskit_list_falls_in_scores_and_keeps_them():
    table = recommender().recommend(3, n=9)
    assert table["score"].tolist() == [2.25, 1.5, 1.0]
    assert table["score"].tolist() == [SCORES[3][item] for item in table["movieId"]]


def test_lenskit_list_of_n_is_the_beginning_of_the_whole_list():
    fitted = recommender()
    whole = fitted.recommend(9, n=4)["movieId"].tolist()
    assert [fitted.recommend(9, n=n)["movieId"].tolist() for n in (1, 2, 3)] == [whole[:1], whole[:2], whole[:3]]


def test_lenskit_n_0_is_an_empty_list_ours_is_refused():
    with pytest.raises(ValueError, match="n is 0"):
        recommender().recommend([1, 2], n=0)


def test_surprise_anti_testset_is_all_pairs_without_a_rating():
    """3 users, 4 items, 5 ratings."""
    (table,) = recommender().recommend_all(n=4)
    pairs = set(zip(table["userId"], table["movieId"], strict=True))
    assert len(table) == len(pairs) == 3 * 4 - len(RATED)
    assert not pairs & {(user, item) for user, item, _ in RATED}


def test_surprise_top_n_recipe_takes_the_highest_estimates_of_each_user():
    (table,) = recommender().recommend_all(n=1)
    assert lists(table) == {1: [30], 2: [10], 3: [10]}


# --- order ------------------------------------------------------------------------------------------------------------


def test_lightfm_ranks_from_0_ours_from_1():
    """Item 40 has the highest score of user 3."""
    table = recommender().recommend(3, n=4, exclude_seen=False)
    assert dict(zip(table["movieId"], table["rank"], strict=True)) == {40: 1, 10: 2, 30: 3, 20: 4}


def test_lightfm_train_interactions_shift_the_ranks_of_the_others():
    """Without 40, which user 3 has rated, item 10 is first."""
    table = recommender().recommend(3, n=4)
    assert dict(zip(table["movieId"], table["rank"], strict=True)) == {10: 1, 30: 2, 20: 3}


def test_lightfm_equal_scores_share_the_worst_rank_ours_go_by_id():
    """Items 10 and 40 have 2.75 of user 2."""
    table = recommender().recommend(2)
    assert table["score"].tolist() == [2.75, 2.75]
    assert table["movieId"].tolist() == [10, 40]


def test_implicit_puts_the_last_of_equal_scores_first_ours_goes_by_id_at_the_cut_too():
    """All four items have one score: the first two by id."""
    flat = {name: np.zeros_like(w) for name, w in WEIGHTS.items()}
    assert recommender(flat).recommend(9, n=2)["movieId"].tolist() == [10, 20]


def test_spotlight_scores_of_all_items_are_those_of_pairs():
    fitted = recommender()
    table = fitted.recommend(2, n=4, exclude_seen=False)
    pairs = np.column_stack([np.full(4, 2), table["movieId"]])
    assert fitted.predict(pairs).tolist() == table["score"].tolist()


def test_cornac_rank_is_by_scores_that_are_not_cut_to_the_ratings():
    """With its bias at 3, user 1 has 7.25 and 7 for items 10 and 20; both are predicted as 5."""
    fitted = recommender(WEIGHTS | {"user_bias": np.array([3.0, 0.0, 0.0], np.float32)})
    table = fitted.recommend(1, n=2, exclude_seen=False)
    assert (table["movieId"].tolist(), table["score"].tolist()) == ([10, 20], [7.25, 7.0])
    assert fitted.predict([[1, 10], [1, 20]]).tolist() == [5.0, 5.0]


def test_cornac_rate_is_cut_at_both_ends():
    """With its bias at -3, user 3 has -0.75 for item 10, predicted as 1."""
    fitted = recommender(WEIGHTS | {"user_bias": np.array([0.0, 0.0, -3.0], np.float32)})
    assert fitted.recommend(3, n=1)["score"].tolist() == [-0.75]
    assert fitted.predict([[3, 10]]).tolist() == [1.0]


def test_surprise_scale_is_the_readers_ours_that_of_the_ratings():
    """Ratings from 2 to 4: 4.75 is predicted as 4, on a scale of 1 … 5 too."""
    narrow = [(user, item, min(max(rating, 2.0), 4.0)) for user, item, rating in RATED]
    fitted = recommender(rated=narrow)
    assert fitted.rating_range_ == (2.0, 4.0)
    assert fitted.predict([[1, 10], [3, 20]]).tolist() == [4.0, 2.0]


# --- similar ----------------------------------------------------------------------------------------------------------


def test_implicit_similar_items_begin_with_the_item_itself_ours_leave_it_out():
    """Of (1, 0): (1, 1) at 45 degrees, (0, 1) at 90, (-1, 0) at 180."""
    table = recommender().similar_items(10)
    assert table["similar_movieId"].tolist() == [20, 30, 40]
    assert table["score"].to_numpy() == pytest.approx([np.sqrt(0.5), 0.0, -1.0])


def test_implicit_similar_users_likewise():
    """Of (1, 0): (0, 1) at 90 degrees, (-1, -1) at 135."""
    table = recommender().similar_users(1)
    assert table["similar_userId"].tolist() == [2, 3]
    assert table["score"].to_numpy() == pytest.approx([0.0, -np.sqrt(0.5)])


def test_implicit_similar_items_of_many_are_those_of_each():
    fitted = recommender()
    together = fitted.similar_items([10, 30], n=2)
    assert together["similar_movieId"].tolist() == [20, 30, 20, 10]
    assert fitted.similar_items(30, n=2)["similar_movieId"].tolist() == [20, 10]


def test_rectools_items_to_items_filter_the_item_itself_by_default():
    table = recommender().similar_items([10, 20, 30, 40])
    assert not (table["movieId"] == table["similar_movieId"]).any()
    assert len(table) == 4 * 3


def test_surprise_cosine_is_of_common_ratings_and_never_negative_ours_of_factors():
    """Items 10 and 40 are opposite: -1."""
    assert recommender().similar_items(10)["score"].min() == pytest.approx(-1.0)


def test_surprise_neighbors_do_not_hold_the_one_itself_and_are_at_most_k():
    table = recommender().similar_items(20, n=2)
    assert len(table) == 2
    assert 20 not in table["similar_movieId"].tolist()


def test_lightfm_similarity_by_representations_has_no_biases():
    """A bias of 100 on item 40 moves no neighbor."""
    biased = WEIGHTS | {"item_bias": np.array([0.0, 0.0, 0.0, 100.0], np.float32)}
    assert recommender(biased).similar_items(10)["similar_movieId"].tolist() == [20, 30, 40]


def test_sklearn_nearest_neighbors_are_those_of_the_ball_tree():
    """Cosine distances 1 - 0.71, 1, 2."""
    from sklearn.neighbors import NearestNeighbors

    distance, row = NearestNeighbors(metric="cosine").fit(WEIGHTS["item_factors"]).kneighbors([[1.0, 0.0]], 4)
    table = recommender().similar_items(10, index="sklearn")
    assert table["similar_movieId"].tolist() == (10 * (row[0, 1:] + 1)).tolist() == [20, 30, 40]
    assert table["score"].to_numpy() == pytest.approx(1 - distance[0, 1:], abs=1e-6)  # float32


@pytest.mark.parametrize("index", [None, "sklearn"])
def test_sklearn_tree_gives_equal_neighbors_in_its_own_order_ours_go_by_id(index):
    """All four items are one vector: of 10 and of 40 the others, ascending."""
    same = WEIGHTS | {"item_factors": np.ones((4, 2), np.float32)}
    table = recommender(same).similar_items([10, 40], index=index)
    assert table["similar_movieId"].tolist() == [20, 30, 40, 10, 20, 30]


@pytest.mark.parametrize("index", [None, "sklearn"])
def test_sklearn_tree_refuses_no_questions_ours_answers_none(index):
    assert len(recommender().similar_items([], index=index)) == 0


def test_tfrs_brute_force_finds_the_largest_products_with_a_query():
    """(2, 1) with (1, 0), (1, 1), (0, 1), (-1, 0): 2, 3, 1, -2."""
    table = recommender().nearest([2.0, 1.0], n=3, metric="dot")
    assert (table["movieId"].tolist(), table["score"].tolist()) == ([20, 10, 30], [3.0, 2.0, 1.0])


def test_tfrs_refuses_k_above_the_number_of_candidates_ours_returns_what_there_is():
    assert len(recommender().nearest([2.0, 1.0], n=9, metric="dot")) == 4


def test_tfrs_refuses_a_query_of_another_width():
    with pytest.raises(ValueError, match="2 finite numbers"):
        recommender().nearest([1.0, 2.0, 3.0])


def test_tfrs_exclusions_take_no_places():
    """query_with_exclusions of what user 3 has rated: two items remain two."""
    assert recommender().recommend(3, n=2)["movieId"].tolist() == [10, 30]
