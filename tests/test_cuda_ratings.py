"""Per-rating SGD on the GPU backend: as `test_cuda_parity.py`, under the emulator."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from minicf import Ratings, Trainer, backends
from minicf.backends import numpy as plain
from minicf.backends.cuda.per_rating import PerRating
from minicf.models import DotBias, Net
from minicf.optim import SGD, Adam
from minicf.schedules import Cosine
from minicf.tiles import Tiles
from tests import cases
from tests.cuda import emulator, standin

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))

PROBLEM = cases.Problem(n_users=23, n_items=31, n_ratings=300)


@pytest.mark.parametrize("workers", [1, 4, 9])
@pytest.mark.parametrize("k", [5, 50, 127, 130])
@pytest.mark.parametrize(("processors", "threads"), [(3, 64), (1, 32), (5, 32)])
def test_tiles_are_the_ratings_one_after_the_other(k, workers, processors, threads):
    model = DotBias(k, rating_range=cases.RANGE, global_mean=0.2)
    optimizer = SGD(0.01, weight_decay={"user_factors": 0.1, "item_bias": 0.02}, decay="per_rating")
    user, item, rating = PROBLEM.ratings()
    weights = {name: 0.3 * w for name, w in PROBLEM.weights(model).items()}
    order = PROBLEM.orders()[0]
    rates = np.linspace(0.02, 0.005, workers)
    with standin.emulated(processors=processors, threads=threads):
        program = PerRating(model, optimizer, weights, "float64", workers)
        import cupy

        tiled, starts = (x.get() for x in program.tiled(cupy.asarray(user), cupy.asarray(item), cupy.asarray(order)))
        progress = program.train_cut(user, item, rating, order, rates)
        result = program.weights()
    assert sorted(tiled) == sorted(order)
    # No two tiles of a round share a user or an item.
    for r in range(workers):
        for side in (user, item):
            tiles = [set(side[tiled[starts[r, t] : starts[r, t + 1]]]) for t in range(workers)]
            assert sum(map(len, tiles)) == len(set().union(*tiles))
    reference = plain.compile(model, optimizer, weights, 0, "float64")
    expected = cases.train(reference, user, item, rating, tiled, 1, np.repeat(rates, starts[:, -1] - starts[:, 0]))
    assert progress.failed_step == expected.failed_step == -1
    np.testing.assert_allclose(progress.loss, expected.loss, rtol=1e-10)
    for name, value in reference.weights().items():
        assert cases.distance(result[name], value) < cases.TOLERANCE, name


def test_tiles_give_the_same_bits_from_any_geometry():
    model, optimizer = DotBias(7), SGD(0.01)
    user, item, rating = PROBLEM.ratings()
    results = []
    for processors, threads in ((3, 64), (1, 32), (8, 96)):
        with standin.emulated(processors=processors, threads=threads):
            program = PerRating(model, optimizer, PROBLEM.weights(model), "float32", 6)
            program.train_cut(user, item, rating, PROBLEM.orders()[0], 0.01)
            results.append(program.weights()["item_factors"])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def planted(k: int = 4) -> tuple[np.ndarray, ...]:
    """Ratings of which the best possible error is known: factors, biases and noise of 0.1."""
    random = np.random.default_rng(4)
    p, q, b = random.normal(size=(60, k)), random.normal(size=(50, k)), random.normal(size=50)
    user, item = (x.astype(np.int32) for x in np.divmod(np.arange(3000), 50))
    rating = (p * 0.5)[user] * q[item]
    return user, item, (rating.sum(1) + 0.5 * b[item] + random.normal(0, 0.1, 3000)).astype(np.float32)


def test_half_precision_learns_as_well_and_so_does_racing():
    user, item, rating = planted()
    held = np.random.default_rng(9).uniform(size=3000) < 0.1
    model, optimizer = DotBias(4, init=("normal", 0.0, 0.1)), SGD(0.03)
    weights = model.init_weights(60, 50, 1)
    errors = {}
    with standin.emulated(processors=2, threads=64):
        for name, storage, how in (
            ("single", "float32", "train_cut"), ("half", "float16", "train_cut"), ("racing", "float32", "train_racing"),
        ):  # fmt: skip
            program = PerRating(model, optimizer, weights, storage, 8)
            random = np.random.default_rng(1)
            for _ in range(25):
                order = random.permutation(np.flatnonzero(~held)).astype(np.int32)
                getattr(program, how)(user, item, rating, order, 0.03)
            difference = cases.predict(program, user[held], item[held]) - rating[held]
            errors[name] = float(np.sqrt(np.mean(difference**2)))
            assert program.weights()["user_factors"].dtype == np.float32
    assert errors["single"] < 0.2  # the noise is 0.1; guessing the mean is 1.1
    assert abs(errors["half"] - errors["single"]) < 0.005
    assert abs(errors["racing"] - errors["single"]) < 0.02


def test_what_per_rating_refuses():
    model = DotBias(3)
    with standin.emulated() as module:
        weights = model.init_weights(4, 4)
        for optimizer in (SGD(0.1, momentum=0.9), Adam(0.1), SGD(0.1, weight_decay=0.1)):
            with pytest.raises(ValueError, match="it must be SGD without momentum"):
                PerRating(model, optimizer, weights)
        program = PerRating(model, SGD(0.1), weights)
        with pytest.raises(ValueError, match="batch_size is 3; it must be 1"):
            cases.train(program, *PROBLEM.ratings(), np.zeros(6, np.int32), 3, 0.1)
        for other in (Net(3), DotBias(513)):
            with pytest.raises(ValueError, match="rows in float16 are for Dot and DotBias of up to 512 factors"):
                module.compile(other, SGD(0.1), other.init_weights(4, 4), dtype="float16")


def test_the_order_given_is_kept():
    """`train` of rows in another precision: as the reference, learning rates that change or not, a failed step too."""
    model, optimizer = DotBias(7, rating_range=cases.RANGE), SGD(0.03, weight_decay=0.1, decay="per_rating")
    user, item, rating = PROBLEM.ratings()
    weights, order = PROBLEM.weights(model), PROBLEM.orders()[0]
    with standin.emulated():
        for rates in (0.03, np.linspace(0.03, 0.01, 300), np.repeat([0.03, 0.02, 0.03], 100)):
            for bad in (None, 0, 150):
                stars = rating.copy()
                if bad is not None:
                    stars[order[bad]] = np.nan
                outcomes = []
                for program in (
                    plain.compile(model, optimizer, weights, 0, "float64"),
                    PerRating(model, optimizer, weights, "float64"),
                ):
                    progress = cases.train(program, user, item, stars, order, 1, rates)
                    assert progress.failed_step == (-1 if bad is None else bad)
                    outcomes.append(cases.Outcome(progress.loss, program.weights(), program.state()))
                far = cases.distances(outcomes[1], outcomes[0])
                assert max(far.values()) < cases.TOLERANCE, far


@pytest.mark.parametrize("shuffle", [True, "tiles"])
def test_the_trainer_in_half_precision(monkeypatch, tmp_path, shuffle):
    user, item, rating = planted()
    frame = pd.DataFrame({"userId": user, "movieId": item, "rating": rating})
    train, valid = Ratings.from_frame(frame).split(0.1, seed=1)
    model, optimizer = DotBias(4, init=("normal", 0.0, 0.1)), SGD(0.03)
    monkeypatch.setitem(backends._MODULES, "cupy", "minicf.backends.cuda")
    for backend, batch in (("numpy", 1), ("cupy", 64)):
        with standin.emulated(), pytest.raises(ValueError, match="it needs backend='cupy' and"):
            Trainer(model, optimizer, backend=backend, batch_size=batch, dtype="float16")
    with standin.emulated():
        errors = {}
        for backend, dtype in (("numpy", "float32"), ("cupy", "float16")):
            trainer = Trainer(model, optimizer, backend=backend, batch_size=1, dtype=dtype, seed=3)
            trainer.fit(train, valid, epochs=6, schedule=Cosine(), shuffle=shuffle)
            errors[backend] = trainer.evaluate(valid)["rmse"]
        assert errors["numpy"] < 0.7  # on the way: guessing the mean is 1.1
        assert errors["cupy"] == pytest.approx(errors["numpy"], abs=0.002)  # a step rounds to 11 bits
        assert trainer.program.table.dtype == np.float16
        trainer.save(tmp_path / "half.npz")
        again = Trainer.load(tmp_path / "half.npz", backend="cupy")
        for name, w in trainer.weights.items():
            assert w.dtype == np.float32
            np.testing.assert_array_equal(w, again.weights[name])
        assert again.dtype == "float16"
        assert again.evaluate(valid) == trainer.evaluate(valid)
        again.lr = 1e6
        with pytest.raises(ArithmeticError, match="diverged in epoch 7"):
            again.fit(train, epochs=1, shuffle=shuffle)
        np.testing.assert_array_equal(trainer.weights["item_bias"], again.weights["item_bias"])


class Table:
    """As much of `Ratings` as `Tiles` needs."""

    weight = None

    def __init__(self, problem: cases.Problem) -> None:
        self.user, self.item, self.rating = problem.ratings()
        self.n_users, self.n_items = problem.n_users, problem.n_items

    def __len__(self) -> int:
        return len(self.user)

    def user_counts(self):
        return np.bincount(self.user, minlength=self.n_users)

    def item_counts(self):
        return np.bincount(self.item, minlength=self.n_items)


@pytest.mark.parametrize("optimizer", ["sgd-none-dense", "sgd-per_rating-dense", "sgd-l2-sparse", "momentum-l2-dense"])
def test_the_tiles_of_the_trainer(optimizer):
    model = cases.MODELS["bias"]
    optimizer = cases.optimizer(optimizer, model)
    tiles = Tiles(Table(PROBLEM), 5)
    outcomes = []
    for which in ("numpy", "gpu"):
        with standin.emulated() as module:
            program = (plain if which == "numpy" else module).compile(
                model, optimizer, PROBLEM.weights(model), 0, "float64"
            )
            errors = []
            for rounds in ([3], [0, 4, 1], [2]):
                progress = cases.train_tiles(program, tiles, np.array(rounds), np.linspace(0.01, 0.005, len(rounds)))
                assert progress.failed_step == -1
                errors.append(progress.loss)
            outcomes.append(cases.Outcome(np.array(errors), program.weights(), program.state()))
    assert max(cases.distances(outcomes[1], outcomes[0]).values()) < cases.TOLERANCE


def test_a_rating_that_fails_is_named():
    problem = cases.Problem(n_users=23, n_items=31, n_ratings=300)
    table = Table(problem)
    tiles = Tiles(table, 4)
    tiles.rating[150] = np.inf
    rounds = np.arange(4)
    model = cases.MODELS["bias"]
    with standin.emulated() as module:
        program = module.compile(model, SGD(0.01), problem.weights(model), 0, "float64")
        progress = cases.train_tiles(program, tiles, rounds, np.full(4, 0.01))
    reference = plain.compile(model, SGD(0.01), problem.weights(model), 0, "float64")
    expected = cases.train_tiles(reference, tiles, rounds, np.full(4, 0.01))
    assert progress.failed_step == expected.failed_step == 150
    np.testing.assert_allclose(progress.loss, expected.loss)
