"""Alternating least squares in compiled code: equal to its reference, the same bits at any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minicf import DivergenceError, Dot, Ratings, Trainer
from minicf.backends import get_backend
from minicf.backends.numba import als
from minicf.backends.numba.als import ALSProgram
from minicf.solvers import ALS
from minicf.solvers.als import Basis, Pairs
from tests import test_als

CLOSE = 1e-9
"""Of the largest number of a table in float64: sums in another order differ by some 1e-15, and a solve multiplies that
by the condition of its matrix, some hundreds here."""

ROW = 1e-5
"""Of a row's length in float32, whose numbers are rounded by 6e-8; conditions are some tens."""


def run(model: Dot, solver: ALS, ratings: Ratings, backend: str = "numba", halves: int = 4, **options: Any) -> Any:
    weights = model.init_weights(ratings.n_users, ratings.n_items, 3)
    settings = {"dtype": "float64"} | options
    program = get_backend(backend).compile(model, solver, weights, 5, **settings)
    data = solver.prepare(ratings)
    for half in range(halves):
        program.last = program.run(data, list(solver.parts(data, 5, half // 2, program))[half % 2])
    return program


def clicks(n_users: int = 900, n_items: int = 60, n: int = 6000, seed: int = 2, weighted: bool = True) -> Ratings:
    """Pairs of which one item has more than a chunk; targets 0 and 1."""
    random = np.random.RandomState(seed)
    cells = np.unique(np.append(random.permutation(n_users * n_items)[:n], np.arange(n_users - 100) * n_items))
    user, item = np.divmod(cells, n_items)
    weight = random.choice([0.5, 1.0, 2.0], len(cells)) if weighted else None
    return Ratings(user, item, 1.0 * (random.uniform(size=len(cells)) < 0.9), n_users, n_items, weight=weight)


@pytest.mark.parametrize("name", test_als.SOLVERS)
@pytest.mark.parametrize("weighted", [True, False])
def test_equal_to_the_reference(name, weighted):
    model, solver = test_als.SOLVERS[name]
    for ratings in (test_als.table(weighted), clicks(weighted=weighted)):
        assert np.bincount(ratings.item).max() > als.CHUNK or len(ratings) == 70
        expected, got = (run(model, solver, ratings, backend) for backend in ("numpy", "numba"))
        assert type(got) is ALSProgram
        for key, value in expected.weights().items():
            assert np.abs(got.w[key] - value).max() <= CLOSE * np.abs(value).max(), key
        for key, value in expected.state().items():
            assert got.state()[key] == pytest.approx(value, rel=CLOSE, abs=CLOSE), key
        assert got.last.loss[0] == pytest.approx(expected.last.loss[0], rel=CLOSE)
        counts = {"user": ratings.user_counts()}
        assert solver.penalty(got, counts) == pytest.approx(solver.penalty(expected, counts), rel=CLOSE)


def test_the_same_bits_at_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(als, "PER_THREAD", 1)
    monkeypatch.setattr(als, "BLOCK", 100)
    found = []
    for n_threads in (1, 2, 8):
        program = run(Dot(24), ALS(0.03, 0.2), clicks(), dtype="float32", n_threads=n_threads)
        found.append(b"".join(value.tobytes() for value in [*program.w.values(), program.last.loss]))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("k", [8, 40])
def test_rows_in_float32_are_close_to_a_dense_solve_in_float64(k):
    """(A3) from the numbers of the other table as they are stored, turned or not."""
    ratings, solver = clicks(), ALS(0.01, 0.1)
    program = run(Dot(k), solver, ratings, dtype="float32", halves=5)
    p, q = (program.w[f"{side}_factors"].astype(np.float64) for side in ("user", "item"))
    pairs = Pairs.of(ratings, "user")
    shared, sizes = solver.unobserved * q.T @ q, []
    for u in range(0, len(p), 30):
        at = slice(pairs.start[u], pairs.start[u + 1])
        h, c, t = q[pairs.index[at]], pairs.weight[at].astype(np.float64), pairs.target[at]
        row = np.linalg.solve(shared + solver.ridge(c.sum(), len(q)) * np.eye(k) + (h.T * c) @ h, h.T @ (c * t))
        assert np.linalg.norm(p[u] - row) <= ROW * np.linalg.norm(row)
        sizes.append(len(h))
    assert max(sizes) > 8
    assert min(sizes) < 8


def test_a_table_is_turned_to_where_its_gram_matrix_is_diagonal():
    program = run(Dot(5), ALS(0.01, 0.3), clicks(), halves=3)
    before = Basis.of(program.w["user_factors"], 0.3)
    scores = program.w["user_factors"] @ program.w["item_factors"].T
    q, d = program._turned("user")
    assert q is program.w["user_factors"]
    assert q.T @ q * 0.3 == pytest.approx(np.diag(d), abs=1e-12 * d.max())
    assert d == pytest.approx(before.d, rel=1e-10)
    assert np.linalg.norm(scores) == pytest.approx(np.linalg.norm(q @ program.w["item_factors"].T), rel=0.5)


def test_training_on_numba_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    def trainer() -> Trainer:
        return Trainer(Dot(6), ALS(0.03, 0.2), backend="numba", seed=3)

    whole, part = trainer(), trainer()
    whole.fit(clicks(), epochs=3)
    part.fit(clicks(), epochs=1)
    part.save(tmp_path / "c.npz")
    back = Trainer.load(tmp_path / "c.npz", backend="numba")
    back.fit(clicks(), epochs=2)
    assert all(np.array_equal(back.weights[key], value) for key, value in whole.weights.items())
    assert back.history[-1]["penalty"] == whole.history[-1]["penalty"]


def test_the_objective_falls_in_float32_too():
    trainer = Trainer(Dot(20), ALS(0.003, 0.05), backend="numba")
    rows = trainer.fit(clicks(), epochs=6).rows
    assert (np.diff([row["train_mse"] + row["penalty"] for row in rows]) < 1e-7).all()


def test_what_is_not_finite_is_a_divergence():
    """Where LAPACK fails no numbers may pass for a result."""
    far = {"item_factors": np.full((60, 4), 1e30), "user_factors": np.zeros((900, 4))}
    trainer = Trainer(Dot(4), ALS(start=None), backend="numba", weights=far)
    with np.errstate(all="ignore"), pytest.raises(DivergenceError):
        trainer.fit(clicks())
