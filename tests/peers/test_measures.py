"""Measures: what minicf and its peers mean by the same word, with numbers by hand.

A test's first word is its peer; what we share and where we differ is in the table of `tests.peers`.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_absolute_error, ndcg_score, root_mean_squared_error

import minicf
from minicf import Logistic, SquaredError, metrics
from tests.peers.toys import biases, recommender

HITS, RELEVANT = [[1, 0, 1, 0]], [3]


# --- errors of ratings -----------------------------------------------------------------------------------------------


def test_surprise_rmse_is_the_root_of_the_mean_square():
    """Errors 2 and 1: sqrt((4 + 1) / 2)."""
    assert metrics.rmse([2.0, 3.0], [0.0, 4.0]) == pytest.approx(math.sqrt(2.5))


def test_surprise_mae_is_the_mean_distance():
    assert metrics.mae([2.0, 3.0], [0.0, 4.0]) == 1.5


@pytest.mark.parametrize("measure", [metrics.rmse, metrics.mae])
def test_surprise_refuses_no_predictions(measure):
    with pytest.raises(ValueError, match="n above 0"):
        measure([], [])


def test_sklearn_errors_are_the_same_whichever_comes_first():
    """Errors -1, 1, 3: rmse sqrt(11 / 3), mae 5 / 3."""
    truth, found = [1.0, 2.0, 5.0], [2.0, 1.0, 2.0]
    assert metrics.rmse(truth, found) == metrics.rmse(found, truth) == pytest.approx(math.sqrt(11 / 3))
    assert metrics.rmse(truth, found) == pytest.approx(root_mean_squared_error(truth, found))
    assert metrics.mae(truth, found) == pytest.approx(mean_absolute_error(truth, found)) == pytest.approx(5 / 3)


def test_lenskit_global_rmse_shared_a_mean_of_users_is_another_number():
    """User 1 errs by 1 three times, user 2 by 3 once: sqrt(12 / 4). The mean of their own errors is 2."""
    truth, found = np.zeros(4), np.array([1.0, 1.0, 1.0, 3.0])
    assert metrics.rmse(truth, found) == pytest.approx(math.sqrt(3))
    assert np.mean([metrics.rmse(truth[:3], found[:3]), metrics.rmse(truth[3:], found[3:])]) == 2.0


def test_cornac_averages_over_users_by_default_ours_over_rows():
    """Scores of user 1: 30 at 3 and 40 at 2.75; of user 3: 20 at 1. Errors 1, 1 and 4: 2 here, (1 + 4) / 2 there."""
    test = pd.DataFrame([(1, 30, 4.0), (1, 40, 3.75), (3, 20, 5.0)], columns=["userId", "movieId", "rating"])
    assert recommender().evaluate(test, k=2)["mae"] == 2.0


def test_spotlight_rmse_is_over_all_rows_whatever_the_batches():
    """Five rows in batches of 2, 2, 1 of errors 0, 0, 0, 0, 5: sqrt(25 / 5), not the mean of batches, 5 / 3."""
    trainer = biases(minicf.SGD(0.0), [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (2, 0, 5)], batch_size=2)
    assert trainer.history[0]["train_mse"] == 5.0


def test_keras_loss_of_an_epoch_is_the_mean_while_weights_move():
    """Ratings 1, 1 of one user, lr 1/4: y = 0, loss 1, both biases rise to 1/2; then y = 1/2, loss 1/4."""
    trainer = biases(minicf.SGD(0.25), [(0, 0, 1), (0, 1, 1)])
    assert trainer.history[0]["train_mse"] == pytest.approx((1 + 1 / 4) / 2)


# --- losses ----------------------------------------------------------------------------------------------------------


def test_pytorch_mse_has_no_half_and_slope_twice_the_error():
    """(3 - 5)^2 = 4 of slope 2 (3 - 5)."""
    value, slope = SquaredError().value_and_slope(np.array([3.0]), np.array([5.0]))
    assert (value.tolist(), slope.tolist()) == ([4.0], [-4.0])


def test_pytorch_bce_with_logits_shared():
    """A log-odds of ln 3 is 3/4: -log(1/4) on a 0 of slope 3/4, -log(3/4) on a 1 of slope -1/4."""
    value, slope = Logistic().value_and_slope(np.full(2, math.log(3)), np.array([0.0, 1.0]))
    assert value == pytest.approx([math.log(4), math.log(4 / 3)])
    assert slope == pytest.approx([0.75, -0.25])


def test_pytorch_bce_takes_targets_between_0_and_1():
    """Target 1/2 at probability 1/2: log 2, and no slope."""
    value, slope = Logistic().value_and_slope(np.zeros(1), np.array([0.5]))
    assert value == pytest.approx([math.log(2)])
    assert slope.tolist() == [0.0]


def test_keras_crossentropy_of_probabilities_is_cut_at_1e_7_ours_of_log_odds_is_not():
    """A log-odds of 100 on a 0 costs 100 here, about -log(1e-7) = 16.1 there."""
    assert Logistic().value_and_slope(np.array([100.0]), np.zeros(1))[0].tolist() == [100.0]
    assert -math.log(1e-7) == pytest.approx(16.118, abs=1e-3)


def test_keras_binary_accuracy_takes_a_half_for_a_0():
    """Log-odds 1, 0, -1 on 1, 0, 1: right, right, wrong."""
    found = Logistic().measures(np.array([1.0, 0.0, -1.0]), np.array([1.0, 0.0, 1.0]))
    assert found["accuracy"] == pytest.approx(2 / 3)


# --- lists -----------------------------------------------------------------------------------------------------------


def test_lightfm_precision_divides_by_k():
    assert metrics.precision(HITS, RELEVANT).tolist() == [0.5]


def test_implicit_precision_of_few_relevant_items_divides_by_min_of_k_and_relevant():
    """One relevant item, found: 1 of 4 places here, 1 of 1 there."""
    assert metrics.precision([[1, 0, 0, 0]], [1]).tolist() == [0.25]


def test_implicit_precision_is_a_ratio_of_sums_ours_a_mean_of_users():
    """One of 1 and one of 2 found, k = 2: (1/2 + 1/2) / 2 here, (1 + 1) / (1 + 2) there."""
    assert metrics.precision([[1, 0], [1, 0]], [1, 2]).mean() == 0.5


def test_surprise_recipe_of_precision_divides_by_the_length_of_a_short_list():
    """Two places filled, one hit: 1/4 here, where the list was to have four; 1/2 there."""
    assert metrics.precision([[1, 0, 0, 0]], [2]).tolist() == [0.25]


def test_lenskit_precision_divides_by_the_length_of_a_short_list_too():
    """Three places filled, all hits, k = 4: 3/4 here, 1 there."""
    assert metrics.precision([[1, 1, 1, 0]], [5]).tolist() == [0.75]


def test_rectools_precision_divides_by_k_also_a_short_list():
    """A list of one, a hit, k = 2."""
    assert metrics.precision([[1, 0]], [1]).tolist() == [0.5]


def test_spotlight_precision_and_recall_share_the_hits():
    """Two hits in three places, of four targets: 2/3 and 2/4."""
    assert metrics.precision([[1, 1, 0]], [4]) == pytest.approx([2 / 3])
    assert metrics.recall([[1, 1, 0]], [4]).tolist() == [0.5]


def test_cornac_precision_and_recall_of_a_whole_ranking():
    """Two relevant of three items, all ranked: 2/3 and 2/2."""
    assert metrics.precision([[1, 0, 1]], [2]) == pytest.approx([2 / 3])
    assert metrics.recall([[1, 0, 1]], [2]).tolist() == [1.0]


def test_lightfm_recall_divides_by_all_relevant_items():
    assert metrics.recall(HITS, RELEVANT) == pytest.approx(2 / 3)


def test_rectools_recall_does_not_divide_by_k():
    """Two hits of k = 2, but six relevant items: 1/3, and never 1."""
    assert metrics.recall([[1, 1]], [6]) == pytest.approx([1 / 3])


def test_tfrs_top_k_accuracy_is_recall_of_one_relevant_item():
    """Found by user 1, not by user 2: 1/2."""
    assert metrics.recall([[0, 1], [0, 0]], [1, 1]).mean() == 0.5


def test_sklearn_ndcg_has_base_2_and_the_best_list_of_k():
    """(1 + 1/2) / (1 + 1/log2(3) + 1/2)."""
    got = metrics.ndcg(HITS, RELEVANT)[0]
    assert got == pytest.approx(0.703918, abs=1e-6)
    assert got == pytest.approx(ndcg_score([[1, 0, 1, 0, 1]], [[5, 4, 3, 2, 1]], k=4))


def test_implicit_ndcg_of_the_second_place():
    """One relevant item, in place 2: 1 / log2(3)."""
    assert metrics.ndcg([[0, 1]], [1]) == pytest.approx([1 / math.log2(3)])


def test_lenskit_ndcg_values_places_1_and_2_alike_ours_discounts_the_second():
    """Place 2: 1 / max(log2(2), 1) = 1 there, as in the paper of 2002; 1 / log2(3) here, as everywhere else."""
    assert metrics.ndcg([[0, 1]], [1])[0] == pytest.approx(0.63093, abs=1e-5)


def test_rectools_ndcg_divides_by_k_hits_by_default_ours_by_those_that_can_be():
    """One relevant item, first of three: 1 here, 1 / (1 + 1/log2(3) + 1/2) = 0.469 there."""
    assert metrics.ndcg([[1, 0, 0]], [1]).tolist() == [1.0]
    assert 1 / (1 + 1 / math.log2(3) + 0.5) == pytest.approx(0.469, abs=1e-3)


def test_cornac_ndcg_is_cut_at_k():
    """The item is second of a ranking cut at 2, or third, and then out of it."""
    assert metrics.ndcg([[0, 1], [0, 0]], [1, 1]) == pytest.approx([0.63093, 0.0], abs=1e-5)


def test_ranx_ndcg_does_not_reach_1_where_a_relevant_item_is_missing():
    """Two relevant, one found, first of 2: 1 / (1 + 1/log2(3))."""
    assert metrics.ndcg([[1, 0]], [2]) == pytest.approx([0.613147], abs=1e-6)


def test_implicit_average_precision_divides_by_the_most_hits_possible():
    """(1/1 + 2/3) / min(3, 4)."""
    assert metrics.average_precision(HITS, RELEVANT) == pytest.approx(5 / 9)


def test_lenskit_average_precision_of_a_whole_list_shared():
    """Hits in places 2 and 3 of 3, ten relevant items: (1/2 + 2/3) / min(10, 3)."""
    assert metrics.average_precision([[0, 1, 1]], [10]) == pytest.approx([7 / 18])


def test_rankmetrics_average_precision_divides_by_the_hits_found():
    """One hit, first of 4, of two relevant items: 1 / 1 there; 1/2 here, for the other is missing."""
    assert metrics.average_precision([[1, 0, 0, 0]], [2]).tolist() == [0.5]


def test_rankmetrics_ndcg_knows_no_relevant_item_outside_the_list():
    """Places 1 and 3: (1 + 1/2) / (1 + 1/log2(3)) = 0.92 there; a third hit was possible here, and it is 0.70."""
    assert metrics.ndcg(HITS, RELEVANT) == pytest.approx([1.5 / (1 + 1 / math.log2(3) + 0.5)])
    assert metrics.ndcg(HITS, [2]) == pytest.approx([1.5 / (1 + 1 / math.log2(3))])


def test_rankmetrics_refuses_a_list_shorter_than_k_ours_ends_in_false():
    """One of three places filled, a hit: 1/3."""
    assert metrics.precision([[1, 0, 0]], [1]) == pytest.approx([1 / 3])


def test_ranx_precision_at_4_shared():
    assert metrics.precision(HITS, RELEVANT).tolist() == [2 / 4]


def test_ranx_recall_at_4_shared():
    assert metrics.recall(HITS, RELEVANT) == pytest.approx([2 / 3])


def test_ranx_average_precision_of_many_relevant_items_divides_by_all_of_them():
    """Ten relevant, k = 4: (5/3) / 4 here, so that a list of hits alone has 1; (5/3) / 10 there."""
    assert metrics.average_precision(HITS, [10]) == pytest.approx(5 / 12)
    assert metrics.average_precision(np.ones((1, 4)), [10]).tolist() == [1.0]


def test_rectools_average_precision_divides_by_k_or_all_relevant_ours_by_the_fewer():
    """One relevant item, first of three: 1 (1/3 there with divide_by_k). Six relevant: (5/3) / 3 (/ 6 without)."""
    assert metrics.average_precision([[1, 0, 0], [1, 0, 1]], [1, 6]) == pytest.approx([1.0, 5 / 9])


def test_cornac_average_precision_of_a_whole_ranking_shared():
    """Relevant items in places 2 and 3 of 4: (1/2 + 2/3) / 2."""
    assert metrics.average_precision([[0, 1, 1, 0]], [2]) == pytest.approx([7 / 12])


def test_rectools_catalog_coverage_counts_an_item_once():
    """Items 0, 2, 0, 2 of 8: the normalized form."""
    assert metrics.coverage([[0, 2], [0, 2]], 8) == 0.25


# --- who counts ------------------------------------------------------------------------------------------------------


def rated(*rows):
    return pd.DataFrame(rows, columns=["userId", "movieId", "rating"])


def test_lightfm_leaves_users_without_a_relevant_item_out_of_the_mean():
    """User 1 likes 30, first of [30, 40]; user 2 likes nothing in the test rows."""
    found = recommender().evaluate(rated((1, 30, 5.0), (2, 10, 1.0)), k=2)
    assert (found["users"], found["precision"], found["recall"]) == (1, 0.5, 1.0)


def test_implicit_relevant_is_what_is_stored_ours_what_is_rated_at_least_the_mean():
    """3 is the mean of training: relevant; 2.9 is not, unless asked for."""
    rows = rated((1, 30, 3.0), (1, 40, 2.9))
    assert recommender().evaluate(rows, k=2)["precision"] == 0.5
    assert recommender().evaluate(rows, k=2, relevant=0.0)["precision"] == 1.0


def test_rectools_a_user_without_a_list_counts_0_ours_has_the_mean_users_list():
    """User 9 is unknown; its list is [10, 40], and it likes 40. With unknown="nan" it is left out, not 0."""
    rows = rated((1, 30, 5.0), (9, 40, 5.0))
    found = recommender().evaluate(rows, k=2)
    assert (found["users"], found["users_unknown"], found["precision"]) == (2, 1, 0.5)
    found = recommender(unknown="nan").evaluate(rows, k=2)
    assert (found["users"], found["users_unknown"], found["precision"]) == (1, 1, 0.5)


def test_cornac_drops_unknown_test_rows_ours_only_with_nan():
    """User 1 errs by 1 on item 30 (3); the unknown user 9 by 2 on item 20 (3)."""
    rows = rated((1, 30, 4.0), (9, 20, 5.0))
    found = recommender().evaluate(rows)
    assert (found["mae"], found["rows"], found["rows_unknown"]) == (1.5, 2, 1)
    assert recommender(unknown="nan").evaluate(rows)["mae"] == 1.0


def test_lenskit_an_unknown_relevant_item_counts_as_missed():
    """User 1 likes 30, and 99, which no list can hold: recall 1/2."""
    assert recommender().evaluate(rated((1, 30, 5.0), (1, 99, 5.0)), k=2)["recall"] == 0.5


def test_lightfm_train_interactions_do_not_take_places():
    """Scores of user 1 are highest for 10 and 20, which it has rated: its list of one is [30]."""
    assert recommender().evaluate(rated((1, 30, 5.0)), k=1)["precision"] == 1.0
