"""The benchmark of lists: its protocol by hand, and its records. No speed is asserted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench import ranking
from minicf import SGD, Dot, Ratings, Trainer
from minicf.data import Bags


def test_measures_by_hand():
    """User 0 has seen item 0 and is shown 1, 2, …; items are ranked by their numbers."""
    events = Ratings([0, 1, 2], [0, 1, 1], [1, 1, 1], 3, 30)
    weights = {"user_factors": np.ones((3, 1)), "item_factors": -np.arange(30.0)[:, None]}
    trainer = Trainer(Dot(1), SGD(0.1), weights=weights, backend="numba")
    test = Bags(np.array([0, 2, 2, 3]), np.array([2, 29, 0], np.int32))
    recall, ndcg = ranking.measure(trainer, events, test)
    assert recall == pytest.approx((1 / 2 + 1) / 2)
    second, ideal = 1 / math.log2(3), 1 + 1 / math.log2(3)
    assert ndcg == pytest.approx((second / ideal + 1) / 2)


def test_a_tenth_of_each_users_events_is_held_out(tmp_path):
    sizes = [1, 2, 10, 30]
    start, item = np.concatenate([[0], np.cumsum(sizes)]), np.concatenate([np.arange(n) for n in sizes])
    path = tmp_path / "split.npz"
    np.savez(path, train_start=start, train_item=item, test_start=np.zeros(5, int), test_item=[40])
    events, test = ranking.load(str(path))
    assert (events.n_users, events.n_items, len(test.index)) == (4, 41, 1)
    train, held = ranking.hold_out(events)
    assert np.diff(held.start).tolist() == [0, 0, 1, 3]
    assert (train.user_counts() + np.diff(held.start)).tolist() == sizes
    assert not set(zip(train.user, train.item, strict=True)) & set(zip(held.row, held.index, strict=True))


def test_records_of_a_contender_are_replaced_and_reported(tmp_path):
    path, row = tmp_path / "r.csv", {"section": "quality", "contender": "x", "k": 4, "bytes": 2e6, "threads": 1}
    seeds = [row | {"recall20": r, "ndcg20": 0.1, "cpu_seconds": s, "seconds": s} for r, s in ((0.1, 3.0), (0.3, 5.0))]
    ranking.run("", iter([seeds[0]]), path)
    ranking.run("", iter([seeds[0] | {"contender": "y"}]), path)
    ranking.run("", iter(seeds), path)
    assert [r["contender"] for r in ranking.read(path)] == ["y", "x", "x"]
    assert "| x | 4 | 2 | 0.2000 | 0.1000 | 0.2000 | 4.0 | 4.0 | 1 |" in ranking.report(ranking.read(path))
