"""Metrics: by hand, and against scikit-learn."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    mean_absolute_error,
    ndcg_score,
    roc_auc_score,
    root_mean_squared_error,
)

from minicf import metrics

HITS = np.array([[True, False, True], [False, False, False], [False, True, False]])
RELEVANT = np.array([2, 1, 5])


def test_lists_by_hand():
    np.testing.assert_allclose(metrics.precision(HITS, RELEVANT), [2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(metrics.recall(HITS, RELEVANT), [1, 0, 1 / 5])
    # Places 1, 2, 3 weigh 1, 1 / log2(3), 1 / 2.
    second = 1 / np.log2(3)
    expected = [1.5 / (1 + second), 0, second / (1 + second + 0.5)]
    np.testing.assert_allclose(metrics.ndcg(HITS, RELEVANT), expected)
    np.testing.assert_allclose(metrics.average_precision(HITS, RELEVANT), [(1 + 2 / 3) / 2, 0, (1 / 2) / 3])


def test_recall_over_what_a_list_can_hold():
    """Relevant 2, 1, 5 of lists of three: over 2, 1 and 3."""
    assert metrics.recall_min(HITS, RELEVANT).tolist() == [1, 0, 1 / 3]


def test_novelty_by_hand():
    """Of 8 users, 4, 1, 8 and 0 have the items: 1, 3, 0 and, as if one had it, 3 bits."""
    counts = [4, 1, 8, 0]
    found = metrics.novelty([[0, 1, 2], [3, 0, -1], [2, -1, -1]], counts, 8)
    assert found.tolist() == [4 / 3, 2, 0]
    assert np.isnan(metrics.novelty([[-1, -1]], counts, 8)).all()


def test_first_hits_by_hand():
    hits = [[1, 0, 1], [0, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert metrics.reciprocal_rank(hits, [2, 1, 5, 1]).tolist() == [1, 0, 1 / 2, 1 / 3]
    assert metrics.hit_rate(hits, [2, 1, 5, 1]).tolist() == [1, 0, 1, 1]


def test_graded_gains_by_hand():
    """Ratings 3, 5 in the list, 4 beside it: gains as they are, and 2^rating - 1."""
    second = 1 / math.log2(3)
    assert metrics.graded_ndcg([[3, 5]], [[5, 4]]) == pytest.approx((3 + 5 * second) / (5 + 4 * second))
    assert metrics.graded_ndcg([[7, 31]], [[31, 15]]) == pytest.approx(
        (7 + 31 * second) / (31 + 15 * second), rel=1e-15
    )
    assert metrics.graded_ndcg([[5, 4], [0, 0]], [[5, 4], [2, 0]]).tolist() == [1, 0]
    ideal = [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    np.testing.assert_array_equal(metrics.graded_ndcg(HITS, ideal), metrics.ndcg(HITS, RELEVANT))


def test_auc_by_hand():
    scores = [[3, 1, 2, 2], [1, 1, 1, 1], [0, 1, 2, 3], [3, 2, 1, 0]]
    relevant = [[0, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1]]
    # User 1: 2 > 1, 2 = 2, 2 < 3. User 3: 0 is below 1 and 2, 3 above both.
    expected = [Fraction(3, 2) / 3, Fraction(1, 2), Fraction(2, 4), Fraction(2, 4)]
    assert metrics.auc(scores, relevant).tolist() == [float(x) for x in expected]
    among = [[0, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 1, 0]]
    assert metrics.auc(scores, relevant, among).tolist() == [3 / 4, 1 / 2, 1, 1]


def test_auc_of_a_user_without_a_pair_is_nan():
    scores = np.arange(9.0).reshape(3, 3)
    relevant = [[0, 0, 0], [1, 1, 1], [1, 0, 0]]
    among = [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
    assert np.isnan(metrics.auc(scores, relevant, among)).all()
    scores[2, 1:] = np.nan  # no candidates
    assert np.isnan(metrics.auc(scores, relevant, among)).all()
    assert metrics.auc(np.zeros((0, 3)), np.zeros((0, 3), bool)).shape == (0,)


def test_auc_is_exact_where_float32_would_count_wrong():
    """2^24 + 1 pairs: one wrong."""
    n = 2**24 + 1
    scores = np.zeros((1, n + 1), np.float32)
    scores[0, 0], scores[0, 1] = 1, 2
    relevant = np.zeros((1, n + 1), bool)
    relevant[0, 0] = True
    assert metrics.auc(scores, relevant)[0] == (n - 1) / n


def test_errors_by_hand():
    assert metrics.rmse([1, 2, 3], [1, 4, 3]) == pytest.approx((4 / 3) ** 0.5)
    assert metrics.mae([1, 2, 3], [1, 4, 3]) == pytest.approx(2 / 3)


def test_coverage_by_hand():
    assert metrics.coverage([3, 1, 3], 8) == 0.25
    assert metrics.coverage([0], 1) == 1.0


def test_against_scikit_learn():
    random = np.random.default_rng(0)
    rating, predicted = random.normal(size=50), random.normal(size=50)
    assert metrics.rmse(rating, predicted) == pytest.approx(root_mean_squared_error(rating, predicted))
    assert metrics.mae(rating, predicted) == pytest.approx(mean_absolute_error(rating, predicted))
    n, k = 30, 7
    for _ in range(20):
        truth, score = random.random(n) < 0.3, random.normal(size=n)
        truth[0] = True
        order = np.argsort(-score)
        full, cut = truth[order][None], truth[order][None, :k]
        total = [truth.sum()]
        assert metrics.ndcg(cut, total)[0] == pytest.approx(ndcg_score(truth[None], score[None], k=k))
        # scikit-learn's average precision is of whole lists.
        assert metrics.average_precision(full, total)[0] == pytest.approx(average_precision_score(truth, score))
        gain = random.integers(0, 6, n) * truth + truth
        ideal = np.sort(gain)[::-1]
        found = metrics.graded_ndcg(gain[order][None, :k], ideal[None, :k])[0]
        assert found == pytest.approx(ndcg_score(gain[None], score[None], k=k))
        tied, among = np.round(score), random.random(n) < 0.8
        among[truth.argmax()] = among[truth.argmin()] = True
        found = metrics.auc(tied[None], truth[None], among[None])[0]
        assert found == pytest.approx(roc_auc_score(truth[among], tied[among]))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: metrics.rmse([], []), "shape"),
        (lambda: metrics.mae([1.0], [1.0, 2.0]), "shape"),
        (lambda: metrics.recall([[True, True]], [1]), "at least the number of hits"),
        (lambda: metrics.recall([[False]], [0]), "at least 1"),
        (lambda: metrics.ndcg([True], [1]), "shape"),
        (lambda: metrics.coverage([1], 0), "n_items is 0"),
        (lambda: metrics.recall_min([[True, True]], [1]), "at least the number of hits"),
        (lambda: metrics.novelty([[2]], [1, 1], 3), "items has 2 … 2; it must be from -1 to 1"),
        (lambda: metrics.novelty([[0]], [4], 3), "counts has 4 … 4; it must be from 0 to n_users, 3"),
        (lambda: metrics.novelty([0], [1], 3), "items has shape"),
        (lambda: metrics.recall([[True, False]], [1.5]), "relevant must be whole"),
        (lambda: metrics.hit_rate([[True, True]], [1]), "at least the number of hits"),
        (lambda: metrics.reciprocal_rank([[False]], [0]), "at least 1"),
        (lambda: metrics.graded_ndcg([[1, 2]], [[2]]), "ideal \\(1, 1\\)"),
        (lambda: metrics.graded_ndcg([1, 2], [2, 1]), "gains has shape"),
        (lambda: metrics.graded_ndcg([[-1, 2]], [[2, 1]]), "gains has -1 … 2"),
        (lambda: metrics.graded_ndcg([[1, 0]], [[np.inf, 1]]), "ideal has 1 … inf"),
        (lambda: metrics.graded_ndcg([[1, np.nan]], [[2, 1]]), "gains has nan"),
        (lambda: metrics.graded_ndcg([[1, 2]], [[1, 2]]), "largest gains first"),
        (lambda: metrics.graded_ndcg([[0, 0]], [[0, 0]]), "above 0 for each user"),
        (lambda: metrics.graded_ndcg([[2, 2]], [[2, 1]]), "better than the ideal"),
        (lambda: metrics.auc([[1, 2]], [[1]]), "relevant \\(1, 1\\)"),
        (lambda: metrics.auc([1, 2], [1, 0]), "scores has shape"),
        (lambda: metrics.auc([[1, 2]], [[1, 0]], [[1]]), "candidates \\(1, 1\\)"),
        (lambda: metrics.auc([[1, np.nan]], [[1, 0]]), "scores has NaN"),
        (lambda: metrics.auc([[1, 2]], [[1, 2]]), "relevant must be True or False"),
        (lambda: metrics.auc([["a", "b"]], [[1, 0]]), "scores has dtype"),
    ],
)
def test_nonsense_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
