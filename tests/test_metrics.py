"""Metrics: by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, mean_absolute_error, ndcg_score, root_mean_squared_error

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


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: metrics.rmse([], []), "shape"),
        (lambda: metrics.mae([1.0], [1.0, 2.0]), "shape"),
        (lambda: metrics.recall([[True, True]], [1]), "at least the number of hits"),
        (lambda: metrics.recall([[False]], [0]), "at least 1"),
        (lambda: metrics.ndcg([True], [1]), "shape"),
        (lambda: metrics.coverage([1], 0), "n_items is 0"),
    ],
)
def test_nonsense_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
