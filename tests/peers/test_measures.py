"""Measures of lists: what minicf and its peers mean by the same word, with numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from minicf import metrics

HITS, RELEVANT = [[1, 0, 1, 0]], [3]


def test_precision_divides_by_k_as_lightfm():
    assert metrics.precision(HITS, RELEVANT).tolist() == [0.5]


def test_precision_of_few_relevant_items_implicit_divides_by_min_of_k_and_relevant():
    """One relevant item, found: 1 of 4 places here, 1 of 1 there."""
    assert metrics.precision([[1, 0, 0, 0]], [1]).tolist() == [0.25]


def test_precision_of_a_short_list_surprises_recipe_divides_by_its_length():
    """Two places filled, one hit: 1/4 here, where the list was to have four; 1/2 there."""
    assert metrics.precision([[1, 0, 0, 0]], [2]).tolist() == [0.25]


def test_recall_divides_by_all_relevant_items_as_lightfm():
    assert metrics.recall(HITS, RELEVANT) == pytest.approx(2 / 3)


def test_ndcg_has_base_2_and_the_best_list_of_k_as_scikit_learn():
    """(1 + 1/2) / (1 + 1/log2(3) + 1/2)."""
    got = metrics.ndcg(HITS, RELEVANT)[0]
    assert got == pytest.approx(0.703918, abs=1e-6)
    assert got == pytest.approx(ndcg_score([[1, 0, 1, 0, 1]], [[5, 4, 3, 2, 1]], k=4))


def test_average_precision_divides_by_the_most_hits_possible_as_implicit():
    """(1/1 + 2/3) / min(3, 4); over the hits found, as RankMetrics does, it were (5/3) / 2."""
    assert metrics.average_precision(HITS, RELEVANT) == pytest.approx(5 / 9)


def test_average_precision_of_many_relevant_items_ranx_divides_by_all_of_them():
    """Ten relevant, k = 4: (5/3) / 4 here, so that a list of hits alone has 1; (5/3) / 10 there."""
    assert metrics.average_precision(HITS, [10]) == pytest.approx(5 / 12)
    assert metrics.average_precision(np.ones((1, 4)), [10]).tolist() == [1.0]
