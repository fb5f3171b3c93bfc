"""A chain that a checkpoint was saved of goes on to the bits of one that was never stopped; callbacks beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf import Checkpoint, DotBias, EarlyStopping, Trainer, WeightAverage, files
from minicf.data import Features
from minicf.solvers import Gibbs, Posterior
from tests.test_gibbs_numba import table

SWEEPS = 7
"""3 of burn-in and 4 samples."""


def solver(chains: int, described: bool) -> Gibbs:
    made = Gibbs(4, 3, chains)
    if not described:
        return made
    kinds = pd.DataFrame({"id": np.arange(23), "kind": [f"{'abc'[i % 3]}|{'xy'[i % 2]}" for i in range(23)]})
    ages = pd.DataFrame({"id": np.arange(37), "age": np.arange(37.0) % 7})
    return made.described({
        "item": Features.from_frame(kinds, "id")[0], "user": Features.from_frame(ages, "id")[0],
    })  # fmt: skip


def made(backend: str, chains: int, described: bool) -> Trainer:
    return Trainer(DotBias(3, global_mean=3.0), solver(chains, described), backend=backend, seed=5)


class Dies:
    """End the process as a crash does, after a sweep."""

    def __init__(self, sweep: int) -> None:
        self.sweep = sweep

    def on_epoch_begin(self, trainer: Trainer) -> None:
        if trainer.epoch == self.sweep:
            import os

            os._exit(9)


def assert_same_chain(one: Trainer, other: Trainer) -> None:
    for mine, theirs in ((one.weights, other.weights), (one.program.state(), other.program.state())):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            np.testing.assert_array_equal(value, theirs[name], name)
    a, b = Posterior.of(one.program), Posterior.of(other.program)
    np.testing.assert_array_equal(a.alpha, b.alpha)
    for x, y in zip(a.compress(4)[1].values(), b.compress(4)[1].values(), strict=True):
        np.testing.assert_array_equal(x, y)
    untimed = [{k: v for k, v in row.items() if k not in ("seconds", "ratings_per_second")} for row in one.history.rows]
    assert repr(untimed) == repr([{k: row[k] for k in mine} for mine, row in zip(untimed, other.history, strict=True)])


KILLED = """
import sys
from minicf import Checkpoint
from tests.test_gibbs_numba import table
from tests.test_gibbs_resumed import Dies, made

for backend in sys.argv[2].split(","):
    for chains in (1, 2):
        for described in (False, True):
            for sweep in range(1, 7):
                trainer = made(backend, chains, described)
                trainer.fit(table(), epochs=sweep, callbacks=[Checkpoint(f"{sys.argv[1]}/{backend}{chains}{described}{sweep}.npz")])
made("numba", 2, True).fit(table(), epochs=7, callbacks=[Dies(5), Checkpoint(f"{sys.argv[1]}/killed.npz")])
"""  # noqa: E501


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """Checkpoints that another process wrote, which was killed at the last of them."""
    path = tmp_path_factory.mktemp("chains")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), "numpy,numba"], cwd=Path(minicf.__file__).parents[1], check=False
    )
    assert done.returncode == 9
    return path


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("chains", [1, 2])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_chain_goes_on_in_another_process_to_the_same_bits(stopped, backend, chains, described):
    whole = made(backend, chains, described)
    whole.fit(table(), epochs=SWEEPS)
    for sweep in range(1, SWEEPS):  # before, at and after the end of burn-in
        later = Trainer.load(stopped / f"{backend}{chains}{described}{sweep}.npz", backend)
        assert later.epoch == sweep
        later.fit(table(), epochs=SWEEPS - sweep)
        assert_same_chain(later, whole)


def test_a_killed_chain_goes_on_from_its_last_checkpoint(stopped):
    whole = made("numba", 2, True)
    whole.fit(table(), epochs=SWEEPS)
    later = Trainer.load(stopped / "killed.npz", "numba")
    assert later.epoch == 5
    later.fit(table(), epochs=SWEEPS - 5)
    assert_same_chain(later, whole)


def test_features_of_a_file_are_those_of_the_solver(stopped):
    own, loaded = solver(2, True).features, Trainer.load(stopped / "killed.npz").solver.features
    for side, one in own.items():
        for name in ("start", "index", "value", "names"):
            np.testing.assert_array_equal(getattr(loaded[side], name), getattr(one, name))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("item.start", lambda x: x[:-1]), ("item.index", lambda x: x + 1), ("user.value", lambda x: x * np.nan),
        ("user.value", lambda x: x[:-1]), ("item.names.ends", None), ("item.index", lambda x: x.astype(np.int64)),
    ],
)  # fmt: skip
def test_damaged_features_are_refused(stopped, tmp_path, name, change):
    header, arrays = files.read(stopped / "killed.npz", "checkpoint")
    name = f"features.{name}"
    if change is None:
        del arrays[name]
    else:
        arrays[name] = np.asarray(change(arrays[name]))
    kept = {key: value for key, value in header.items() if key not in ("format", "version", "sha256", "arrays")}
    files.write(tmp_path / "c.npz", "checkpoint", kept, arrays)
    with pytest.raises(files.FileError):
        Trainer.load(tmp_path / "c.npz")


@pytest.mark.parametrize(
    "callback", [EarlyStopping(), WeightAverage(), Checkpoint("best.npz", best=True), minicf.ReduceLROnPlateau()]
)
def test_callbacks_that_go_by_the_best_epoch_are_refused(callback):
    with pytest.raises(ValueError, match=f"callbacks has {type(callback).__name__}"):
        made("numba", 1, False).fit(table(), table(seed=1), epochs=2, callbacks=[callback])
