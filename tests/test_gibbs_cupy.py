"""Gibbs sampling composed on CuPy, by its stand-in (tests/cuda/standin.py): equal to the reference sweep by sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from minicf import Dot, DotBias, Ratings, Recommender, Trainer
from minicf.backends import numpy as plain
from minicf.backends.cuda import gibbs as cuda
from minicf.data import Bags
from minicf.solvers import Gibbs, Posterior
from tests.cuda import emulator, standin
from tests.test_gibbs_numba import CLOSE, table, values
from tests.test_gibbs_resumed import assert_same_chain, solver
from tests.test_recommender_gibbs import frame


@pytest.fixture
def gpu() -> Any:
    """The backend; its package where `minicf.backends` finds it."""
    with standin.emulated() as module:
        yield module


def sweeps(module: Any, model: Dot, solver: Gibbs, ratings: Ratings, dtype: str = "float64") -> Any:
    """Yield the program after each of four sweeps."""
    weights = model.init_weights(ratings.n_users, ratings.n_items, 3)
    program = module.BACKEND.compile(model, solver, weights, 5, dtype)
    data = solver.prepare(ratings)
    for epoch in range(4):
        for part in solver.parts(data, 5, epoch, program):
            program.last = program.run(data, part)
        yield program


def assert_equal_to_reference(gpu: Any, model: Dot, solver: Gibbs, ratings: Ratings) -> None:
    one, other = sweeps(plain, model, solver, ratings), sweeps(gpu, model, solver, ratings)
    for expected, got in zip(one, other, strict=True):
        assert type(got) is cuda.Chains
        mine, theirs = values(expected), values(got)
        assert set(mine) == set(theirs)
        for name, value in mine.items():
            # Samples are kept in fewer digits, and may be rounded to neighbors.
            limit = {2: 2e-3, 4: 1e-6, 8: CLOSE}[value.dtype.itemsize]
            if value.size:
                assert abs(theirs[name].astype(float) - value).max() <= limit * max(1.0, abs(value).max()), name
        assert got.last.loss[0] == pytest.approx(expected.last.loss[0], rel=CLOSE)
        assert got.last.n == expected.last.n


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DotBias, {}), (DotBias, {"bags": None, "noise": None}), (DotBias, {"bags": "item", "noise": "user"}),
        (DotBias, {"bags": "user", "noise": "item", "start": None}), (Dot, {"n_chains": 2}),
    ],
)  # fmt: skip
def test_chains_equal_the_reference_sweep_by_sweep(gpu, kind, options):
    assert_equal_to_reference(gpu, kind(3, global_mean=3.0), Gibbs(2, 1, nu=4.0, **options), table())


@pytest.mark.parametrize(("piece", "rows"), [(1, 1 << 15), (80, 1 << 15), (1 << 22, 3)])
def test_batches_of_any_size_equal_the_reference(gpu, piece, rows, monkeypatch):
    """Of one row, and of some."""
    monkeypatch.setattr(cuda, "PIECE", piece)
    monkeypatch.setattr(cuda, "ROWS", rows)
    assert_equal_to_reference(gpu, DotBias(1, global_mean=3.0), Gibbs(2, 1), table(16, 17, 200))


def test_with_effects_of_days_the_sweep_is_the_references(gpu):
    """It runs on the host."""
    ratings = table()
    timed = Ratings(ratings.user, ratings.item, ratings.rating, timestamp=np.arange(len(ratings)) * 40_000)
    results = [list(sweeps(m, DotBias(2), Gibbs(2, 1, time="user_day"), timed))[-1] for m in (plain, gpu)]
    assert all((a == b).all() for a, b in zip(*(values(one).values() for one in results), strict=True))


@pytest.mark.parametrize("bags", ["both", None])
def test_chains_with_features_equal_the_reference(gpu, bags):
    described = solver(1, True)
    assert_equal_to_reference(
        gpu, DotBias(3, global_mean=3.0), replace(described, bags=bags).described(described.features), table()
    )


@pytest.mark.parametrize(("n_users", "n_items", "n"), [(1, 1, 1), (1, 30, 20), (30, 1, 20), (16, 17, 200)])
def test_chains_equal_the_reference_at_every_size(gpu, n_users, n_items, n):
    """Rows without ratings, of one, of a power of two and of one more."""
    assert_equal_to_reference(gpu, DotBias(2, global_mean=3.0), Gibbs(2, 1), table(n_users, n_items, n))


def test_a_pair_that_is_rated_twice_counts_twice(gpu):
    ratings = Ratings([0, 0, 1, 0], [0, 0, 0, 1], [1.0, 5.0, 2.0, 3.0])
    assert_equal_to_reference(gpu, DotBias(2, global_mean=3.0), Gibbs(2, 1), ratings)


def test_batches_are_the_entries_of_rows(gpu):
    import cupy

    counts = np.array([0, 1, 2, 3, 4, 5, 8, 9, 1])
    start = np.concatenate([[0], np.cumsum(counts)])
    bags = Bags(start, np.arange(start[-1], dtype=np.int32)[::-1].copy())
    found: dict[int, list[int]] = {}
    for rows, at, real in cuda.Batches(bags, cupy, 2):
        places, taken = at.get(), real.get()
        assert taken.shape[1] < 2 * max(taken.sum(axis=1).min(), 1), "not a power of two too many"
        found |= {int(row): bags.index[places[i][taken[i]]].tolist() for i, row in enumerate(rows.get())}
    assert found == {row: bags.index[start[row] : start[row + 1]].tolist() for row in range(len(counts))}


def test_of_a_table_only_its_unknowns_travel_each_sweep(gpu):
    """Neither ratings nor indices, which are 100 times as many numbers here."""
    solver = Gibbs(2, 1, bags=None)
    program = next(run := sweeps(gpu, DotBias(2, global_mean=3.0), solver, table(20, 20, 390)))
    standin.log.clear()
    next(run)
    moved = sum(size for what, size in standin.log if what in ("get", "set"))
    unknowns = sum(program.slots[f"{name}.{side}"].nbytes for name in ("x", "noise") for side in ("user", "item"))
    # There and back, with the random numbers of each there; some vectors of D, and the weights at the end.
    assert moved < 4 * unknowns + 1500


def test_a_trainer_samples_on_cupy_and_its_posterior_is_that_of_the_reference(gpu):
    trainers = [
        Trainer(DotBias(3, global_mean=3.0), Gibbs(3, 2), backend=name, seed=5, dtype="float64")
        for name in ("numpy", "cupy")
    ]
    for trainer in trainers:
        trainer.fit(table(), table(seed=1), epochs=5)
    one, other = (Posterior.of(trainer.program).compress(4)[1] for trainer in trainers)
    for name, value in one.items():
        # Samples are rounded to 11 bits, a few to the neighbor.
        np.testing.assert_allclose(other[name], value, atol=1e-3)
    errors = [[row["valid_mse"] for row in trainer.history.rows] for trainer in trainers]
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-6)


@pytest.mark.parametrize("chains", [1, 2])
def test_a_chain_goes_on_from_a_checkpoint_to_the_same_bits(gpu, tmp_path, chains):
    def made() -> Trainer:
        return Trainer(DotBias(3, global_mean=3.0), solver(chains, True), backend="cupy", seed=5)

    whole, stopped = made(), made()
    whole.fit(table(), epochs=7)
    stopped.fit(table(), epochs=4)
    stopped.save(tmp_path / "c.npz")
    later = Trainer.load(tmp_path / "c.npz", "cupy")
    later.fit(table(), epochs=3)
    assert_same_chain(later, whole)


def test_a_snapshot_goes_back(gpu):
    run = sweeps(gpu, DotBias(2, global_mean=3.0), Gibbs(2, 1), table())
    program = next(run)
    before, kept = values(program), program.snapshot()
    next(run)
    program.restore(kept)
    for name, value in values(program).items():
        if not name.startswith("sample"):
            np.testing.assert_array_equal(value, before[name], name)


@pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))  # lists are made by a kernel
def test_a_recommender_samples_on_cupy(gpu):
    data = frame()
    options: dict[str, Any] = {"solver": "gibbs", "n_samples": 6, "burn_in": 3, "random_state": 0}
    one, other = (Recommender(backend=name, **options).fit(data) for name in ("numpy", "cupy"))
    assert isinstance(other.solver_, Gibbs)
    # In float32, whose rounding a few sweeps multiply.
    for got, expected in zip(other.predict(data, return_std=True), one.predict(data, return_std=True), strict=True):
        np.testing.assert_allclose(got, expected, atol=0.02)
    np.testing.assert_allclose(other.history_["mean_mse"], one.history_["mean_mse"], rtol=0.01)
    other.partial_fit(data)  # of all rows: the chain goes on
    assert len(other.history_) > 9
    item = data["movieId"].iloc[0]
    other.fold_in({item: 5.0}, id=999)
    assert len(other.recommend(999, 3)) == 3
