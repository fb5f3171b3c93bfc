"""The benchmark of Gibbs sampling: its records, and what myFM is asked for. No speed is asserted."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sys
import types
from typing import ClassVar

import numpy as np
import pytest

from bench import gibbs


def test_a_section_measured_anew_replaces_its_own_rows(tmp_path):
    path = tmp_path / "r.csv"
    gibbs.write(path, "svdpp", [{"section": "svdpp", "case": "a", "mse": 0.5}])
    gibbs.write(path, "published", [{"section": "published", "case": "b", "within_1": 2 / 3}])
    gibbs.write(path, "svdpp", [{"section": "svdpp", "case": "c", "mse": 0.25}])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["section"], r["case"], r["mse"], r["within_1"]) for r in rows] == [
        ("published", "b", "", "0.66667"), ("svdpp", "c", "0.25", "")
    ]  # fmt: skip


def test_summary_has_means_of_errors_and_medians_of_seconds():
    rows = [{"section": "x", "case": "a", "threads": 1, "seed": i, "mse": m, "cpu_seconds": s}
            for i, (m, s) in enumerate([(1.0, 9.0), (2.0, 1.0), (6.0, 2.0)])]  # fmt: skip
    assert gibbs.summary(rows) == ["a, 3 seeds: mse 3, cpu_seconds 2 (1 … 9)"]


def test_threads_are_compared_within_a_round():
    seconds = [(1, 4.0), (2, 2.0), (1, 9.0), (2, 3.0), (1, 10.0), (2, 10.0)]
    assert gibbs.ratio([{"threads": n, "seconds": s} for n, s in seconds]) == "one thread over two: 2.00"


def test_coverage_counts_deviations():
    valid = types.SimpleNamespace(rating=np.array([0.5, 1.5, 2.5, -1.9]))
    assert gibbs.within(np.zeros(4), np.ones(4), valid) == {"within_1": 0.25, "within_2": 0.75}


@pytest.fixture
def turns(monkeypatch):
    """`myfm_turns` with a stand-in for myFM that predicts from what it is given."""

    class Block:
        def __init__(self, index, rows):
            self.index, self.rows = index, rows.toarray()

    class Regressor:
        made: ClassVar[list] = []

        def __init__(self, rank, random_seed):
            Regressor.made.append(self)
            self.rank, self.seed = rank, random_seed

        def fit(self, x, y, X_rel, n_iter, n_kept_samples, group_shapes):
            self.y, self.blocks, self.sweeps = y, X_rel, (n_iter, n_kept_samples)
            assert sum(group_shapes) == sum(block.rows.shape[1] for block in X_rel)
            self.groups = group_shapes

        def predict(self, x, blocks):
            return 100.0 * blocks[0].index

        def predict_proba(self, x, blocks):
            return np.tile([0.25, 0.0, 0.75], (len(blocks[0].index), 1))

    stand_in = types.ModuleType("myfm")
    stand_in.RelationBlock, stand_in.MyFMRegressor, stand_in.MyFMOrderedProbit = Block, Regressor, Regressor
    monkeypatch.setitem(sys.modules, "myfm", stand_in)
    spec = importlib.util.spec_from_file_location("myfm_turns", gibbs.TURNS_OF_MYFM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, Regressor.made


@pytest.mark.parametrize(
    ("kind", "groups", "predicted"),
    [("mf", [2, 3], [1.0, 5.0]), ("flipped", [2, 3, 3, 2], [1.0, 5.0]), ("ordered", [2, 3, 3, 2], [4.0, 4.0])],
)
def test_a_turn_of_myfm(turns, monkeypatch, capsys, tmp_path, kind, groups, predicted):
    """Users 0 and 1 rated items (0, 2) and (2): the bag of user 0 weighs 1/sqrt(2), that of item 1 is empty."""
    module, made = turns
    table, out = tmp_path / "table.npz", tmp_path / "out.npy"
    np.savez(
        table, train_user=[0, 0, 1], train_item=[0, 2, 2], rating=[1.0, 5.0, 2.0], test_user=[0, 1], test_item=[1, 1],
        n_users=2, n_items=3,
    )  # fmt: skip
    turn = {"kind": kind, "rank": 4, "sweeps": 9, "burn_in": 2, "seed": 7, "out": str(out)}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(turn) + "\n"))
    module.main(str(table))
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert set(answers[1]) == {"seconds", "cpu_seconds", "seconds_fit", "cpu_seconds_fit"}
    model = made[0]
    assert (model.rank, model.seed, model.sweeps, model.groups) == (4, 7, (9, 7), groups)
    assert model.y.tolist() == ([0, 2, 1] if kind == "ordered" else [1.0, 5.0, 2.0])
    np.testing.assert_array_equal(np.load(out), predicted)  # by levels, or cut to the range of ratings
    users, items = (block.rows for block in model.blocks)
    half = 2**-0.5
    bags = kind != "mf"
    np.testing.assert_allclose(users, np.hstack([np.eye(2), [[half, 0, half], [0, 0, 1]]]) if bags else np.eye(2))
    np.testing.assert_allclose(items, np.hstack([np.eye(3), [[1, 0], [0, 0], [half, half]]]) if bags else np.eye(3))
