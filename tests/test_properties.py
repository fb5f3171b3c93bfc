"""What holds whatever is drawn: backends agree through any course of calls, and symmetries of the problem are kept.

``MINICF_EXAMPLES=2000 python -m pytest tests/test_properties.py`` tries that many of each; by default a few.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicf import schedules
from minicf.backends import get_backend
from minicf.backends import numpy as plain
from minicf.data import Ratings
from minicf.models import Dot, DotBias, Hybrid, Model, Net
from minicf.optim import Optimizer
from minicf.recommender import Recommender
from minicf.train import DivergenceError, Trainer
from tests import cases
from tests.cuda import emulator, standin

EXAMPLES = int(os.environ.get("MINICF_EXAMPLES", "20"))
settings.register_profile("properties", max_examples=EXAMPLES, deadline=None, print_blob=True)  # a first one compiles
PROPERTIES = settings.get_profile("properties")
FEWER = settings(PROPERTIES, max_examples=max(5, EXAMPLES // 4))

# Every number of factors is another kernel to compile: a few examples have two, a vector of 64 bytes and one beside it.
FACTORS = st.integers(1, 20) if EXAMPLES > 20 else st.sampled_from([5, 9])

BACKENDS = ("numba", "resident", "touched", "large")
"""Compared with the reference; the last three are the CUDA kernels' ways of training, emulated."""


# --- what is drawn ---------------------------------------------------------------------------------------------------


@st.composite
def models(draw: Any, factors: st.SearchStrategy[int] = FACTORS) -> Model:
    k = draw(factors)
    arguments = {
        "rating_range": draw(st.sampled_from([None, (0.5, 5.5)])), "global_mean": draw(st.sampled_from([0.0, 0.4])),
    }  # fmt: skip
    hidden = tuple(draw(st.lists(st.integers(1, 6), max_size=2)))
    net = Net(k, hidden=hidden, dropout=draw(st.sampled_from([0.0, 0.3])), **arguments)
    kinds: dict[str, Model] = {
        "dot": Dot(k, **arguments),
        "bias": DotBias(k, **arguments),
        "net": net,
        "hybrid": Hybrid({"net": (net, 0.5), "dot": (DotBias(k, **arguments), 1.0)}),
    }
    return kinds[draw(st.sampled_from(list(kinds)))]


@st.composite
def tables(draw: Any, most: int = 60) -> Ratings:
    """Ratings of 1 row and more, of 1 user or item and more; pairs repeat, and some users and items have no rating."""
    n_users, n_items = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    n = draw(st.integers(1, most))
    random = np.random.RandomState(draw(st.integers(0, 99)))
    user, item = (random.randint(0, draw(st.integers(1, m)), n) for m in (n_users, n_items))
    return Ratings(user, item, random.randint(1, 11, n) / 2, n_users, n_items)


def optimizers(model: Model) -> st.SearchStrategy[Optimizer]:
    return st.sampled_from(cases.OPTIMIZERS).map(lambda name: cases.optimizer(name, model))


SCHEDULES = (None, schedules.Cosine(3), schedules.Exponential(0.5), schedules.Step(1, 0.3), schedules.OneCycle(2))


@dataclass(frozen=True)
class Step:
    """One call on a trainer."""

    kind: str
    epochs: int = 1
    schedule: Any = None
    shuffle: Any = True
    lr: float = 0.0
    seed: int = 0


@st.composite
def courses(draw: Any, batch_size: int) -> list[Step]:
    """Some calls, training among them."""
    shuffles = [True, False] + ["tiles"] * (batch_size == 1)
    fits = st.builds(
        Step, st.just("fit"), st.integers(0, 3), st.sampled_from(SCHEDULES), st.sampled_from(shuffles)
    )  # fmt: skip
    others = st.builds(
        Step, st.sampled_from(["predict", "evaluate", "file", "lr", "lr_find", "weights"]),
        lr=st.sampled_from([0.0, 0.01, 0.03]), seed=st.integers(0, 9),
    )  # fmt: skip
    return [*draw(st.lists(st.one_of(fits, others), max_size=4)), draw(fits), draw(others)]


def take(step: Step, trainer: Trainer, data: Ratings) -> tuple[Trainer, Any]:
    """Make a call; the trainer to go on with, and what it said."""
    random = np.random.RandomState(step.seed)
    pairs = random.randint(0, data.n_users, 9), random.randint(0, data.n_items, 9)
    if step.kind == "fit":
        history = trainer.fit(data, epochs=step.epochs, schedule=step.schedule, shuffle=step.shuffle)
        return trainer, [row[name] for row in history.rows for name in ("train_mse", "penalty", "lr")]
    if trainer._program is None:  # the others need one
        trainer.fit(data, epochs=0)
    if step.kind == "predict":
        return trainer, trainer.predict(*pairs)
    if step.kind == "evaluate":
        return trainer, list(trainer.evaluate(data).values())
    if step.kind == "lr":
        trainer.lr = step.lr
        return trainer, []
    if step.kind == "lr_find":
        before = {name: w.tobytes() for name, w in trainer.weights.items()}
        trainer.lr_find(data, 1e-4, 1e-2, steps=5)
        assert {name: w.tobytes() for name, w in trainer.weights.items()} == before
        return trainer, []
    if step.kind == "file":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.npz"
            trainer.save(path)
            again = Trainer.load(path, "numpy")  # the backend is no part of the file
        other = Trainer(
            trainer.model, trainer.optimizer, backend="numpy", batch_size=trainer.batch_size, dtype=trainer.dtype,
            seed=trainer.seed,
        )  # fmt: skip
        other._backend = trainer._backend
        other.fit(data, epochs=0)
        other.program.load(again.weights, again.program.state())
        other._pace, other.epoch, other.history = again._pace, again.epoch, again.history
        return other, []
    return trainer, np.concatenate([w.ravel() for w in trainer.weights.values()])


def backend_named(name: str, ends: ExitStack) -> Any:
    if name in ("numpy", "numba"):
        return get_backend(name)
    return ends.enter_context(standin.emulated(name)).BACKEND


def outcome(
    module: Any, model: Model, opt: Optimizer, batch_size: int, data: Ratings, course: list[Step], nudge: float = 0.0
) -> list[Any]:
    """What a course of calls says, and where it ends; where training diverges, that it did."""
    start = {name: w * (1 + nudge) for name, w in model.init_weights(data.n_users, data.n_items, 3).items()}
    trainer = Trainer(model, opt, backend="numpy", batch_size=batch_size, dtype="float64", seed=3, weights=start)
    trainer._backend = module
    said = []
    for step in course:
        try:
            trainer, answer = take(step, trainer, data)
        except DivergenceError as error:
            return [*said, f"diverged in epoch {error.epoch}"]
        said.append(np.asarray(answer, np.float64))
    return [*said, *trainer.weights.values(), *(trainer.program.state().values())]


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_agree_through_any_course_of_calls(backend):
    if backend != "numba" and emulator.missing() is not None:
        pytest.skip(str(emulator.missing()))
    factors = FACTORS if backend == "numba" else st.sampled_from([1, 5])

    @settings(PROPERTIES if backend == "numba" else FEWER)
    @given(st.data())
    def check(data: Any) -> None:
        model = data.draw(models(factors))
        opt = data.draw(optimizers(model))
        batch_size = data.draw(st.sampled_from([1, 2, 7, 64, 1000]))
        ratings = data.draw(
            tables(most=60 if backend == "numba" else 250)
        )  # more than the emulated grid: 3 blocks of 64
        course = data.draw(courses(batch_size))
        expected = outcome(plain.BACKEND, model, opt, batch_size, ratings, course)
        # A course that leaves the calm makes much of little: how much, a start that is off by a few roundings shows.
        nudged = outcome(plain.BACKEND, model, opt, batch_size, ratings, course, nudge=1e-15)
        with ExitStack() as ends:
            got = outcome(backend_named(backend, ends), model, opt, batch_size, ratings, course)
        if len(nudged) != len(expected):
            return
        assert len(got) == len(expected)
        for a, b, c in zip(got, expected, nudged, strict=True):
            if isinstance(a, str) or isinstance(b, str):
                assert str(a) == str(b)
            else:
                assert cases.distance(a, b) < max(cases.TOLERANCE, 1000 * cases.distance(c, b))

    check()


# --- predictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_prediction_does_not_depend_on_the_others(backend):
    @PROPERTIES
    @given(models(), tables(), st.integers(1, 300), st.integers(0, 99), st.sampled_from(["float32", "float64"]))
    def check(model: Model, data: Ratings, n: int, seed: int, dtype: str) -> None:
        trainer = Trainer(model, cases.optimizer("adam-none-dense", model), backend=backend, dtype=dtype)
        trainer.fit(data, epochs=1)
        random = np.random.RandomState(seed)
        user, item = random.randint(0, data.n_users, n), random.randint(0, data.n_items, n)
        whole = trainer.predict(user, item)
        cuts = np.sort(random.randint(0, n + 1, random.randint(0, 5)))
        parts = [trainer.predict(u, i) for u, i in zip(np.split(user, cuts), np.split(item, cuts), strict=True)]
        order = random.permutation(n)
        shuffled = np.empty_like(whole)
        shuffled[order] = trainer.predict(user[order], item[order])
        for other in (np.concatenate(parts), shuffled):
            # The products of a net are BLAS's, which sums a row of 40 numbers in an order that depends on the number
            # of rows: a few units in the last place. The dot products here are not.
            exact = isinstance(model, Dot) or (isinstance(model, Hybrid) and model.output == "dot")
            np.testing.assert_allclose(other, whole, rtol=0 if exact else 64 * np.finfo(dtype).eps, atol=0)

    check()


# --- symmetries ------------------------------------------------------------------------------------------------------


def run(
    model: Model, opt: Optimizer, data: Ratings, weights: dict[str, np.ndarray], backend: str, batch_size: int = 8
) -> Trainer:
    trainer = Trainer(
        model, opt, backend=backend, batch_size=batch_size, dtype="float64", seed=5, weights=weights
    )  # fmt: skip
    trainer.fit(data, epochs=3, shuffle="tiles" if batch_size == 1 else True)
    return trainer


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_renumbering_users_and_items_renumbers_the_result(backend):
    """With the initial rows renumbered as well, for they are drawn by position."""

    @PROPERTIES
    @given(st.data())
    def check(data: Any) -> None:
        model, table = data.draw(models()), data.draw(tables())
        opt = data.draw(optimizers(model))
        random = np.random.RandomState(data.draw(st.integers(0, 99)))
        new_user, new_item = random.permutation(table.n_users), random.permutation(table.n_items)
        start = model.init_weights(table.n_users, table.n_items, 1)
        sides = model.parameters({"user": table.n_users, "item": table.n_items})

        def renumbered(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            moved = {}
            for name, w in weights.items():
                moved[name] = w.copy()
                if (side := sides[name].rows) is not None:
                    moved[name][new_user if side == "user" else new_item] = w
            return moved

        other = Ratings(new_user[table.user], new_item[table.item], table.rating, table.n_users, table.n_items)
        try:
            first = run(model, opt, table, start, backend)
        except DivergenceError:
            with pytest.raises(DivergenceError):
                run(model, opt, other, renumbered(start), backend)
            return
        second = run(model, opt, other, renumbered(start), backend)
        for name, w in renumbered(first.weights).items():
            assert cases.distance(second.weights[name], w) < cases.TOLERANCE, name

    check()


def shifted(model: Model, c: float) -> Model:
    """The model whose every score is c higher."""
    if isinstance(model, Hybrid):
        members = {name: (shifted(head, c), weight) for name, (head, weight) in model.members.items()}
        return Hybrid(members, model.output)
    if model.rating_range is not None:  # the score before the range stays: it is the range that moves
        low, high = model.rating_range
        return replace(model, rating_range=(low + c, high + c))
    return replace(model, global_mean=model.global_mean + c)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_shifting_all_ratings_moves_the_mean_or_the_range_and_nothing_else(backend, batch_size):
    @FEWER
    @given(st.data())
    def check(data: Any) -> None:
        model, table = data.draw(models()), data.draw(tables())
        opt = data.draw(optimizers(model))
        c = data.draw(st.sampled_from([-32.0, -1.0, 0.5, 3.0, 100.0]))
        start = model.init_weights(table.n_users, table.n_items, 1)
        other = Ratings(table.user, table.item, table.rating + np.float32(c), table.n_users, table.n_items)
        try:
            first = run(model, opt, table, start, backend, batch_size)
        except DivergenceError:
            return
        second = run(shifted(model, c), opt, other, start, backend, batch_size)
        # Errors are differences of numbers near c: they lose as many digits as it has.
        tolerance = cases.TOLERANCE * (1 + abs(c))
        for name, w in first.weights.items():
            assert cases.distance(second.weights[name], w) < tolerance, name

    check()


@pytest.mark.parametrize("model", ["dot_bias", "net"])
def test_shifting_a_recommenders_ratings_shifts_its_predictions(model):
    random = np.random.RandomState(0)
    frame = pd.DataFrame({"userId": random.randint(0, 30, 500), "movieId": random.randint(0, 40, 500)})
    frame = frame.drop_duplicates().assign(rating=lambda x: random.randint(1, 11, len(x)) / 2)
    arguments = {"n_factors": 4, "epochs": 5, "backend": "numpy", "random_state": 1}
    first = Recommender(model, **arguments).fit(frame)
    for c in (-3.0, 8.0):
        second = Recommender(model, **arguments).fit(frame.assign(rating=frame.rating + c))
        assert second.mean_ == pytest.approx(first.mean_ + c)
        # float32: 6e-8 of a rating near 10, a few thousand steps.
        np.testing.assert_allclose(second.predict(frame) - c, first.predict(frame), atol=2e-3)
        for name, w in first.weights_.items():
            np.testing.assert_allclose(second.weights_[name], w, atol=2e-3, err_msg=name)


# --- ids -------------------------------------------------------------------------------------------------------------

ORDERED = {
    "integers": lambda n: np.arange(n, dtype=np.int64),
    "with gaps": lambda n: np.arange(n, dtype=np.int64) * 1_000_003 - 5,
    "huge": lambda n: np.arange(n, dtype=np.int64) + 2**62,
    "small": lambda n: np.arange(n, dtype=np.int16) - 9,
    "whole floats": lambda n: np.arange(n, dtype=np.float64),
    "text": lambda n: np.array([f"u{i:05}" for i in range(n)], object),
    "unicode": lambda n: np.array([chr(0x3042 + i) for i in range(n)], object),
    "nullable": lambda n: pd.array(np.arange(n), dtype="Int64"),
    "category": lambda n: pd.Categorical([f"u{i:05}" for i in range(n)]),
}
"""Ids of many kinds, ascending: their order is what indices follow."""


@FEWER
@given(tables(), st.sampled_from(list(ORDERED)), st.sampled_from(list(ORDERED)), st.integers(0, 9))
def test_the_kind_of_ids_does_not_matter(table, users, items, seed):
    order = np.random.RandomState(seed).permutation(len(table))
    plain = table.take(order).frame()
    named = pd.DataFrame({
        "userId": pd.Series(ORDERED[users](table.n_users)).take(plain.userId).reset_index(drop=True),
        "movieId": pd.Series(ORDERED[items](table.n_items)).take(plain.movieId).reset_index(drop=True),
        "rating": plain.rating,
    })  # fmt: skip
    a, b = (Ratings.from_frame(frame, duplicates="last") for frame in (plain, named))
    for name in ("user", "item", "rating"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    arguments = {"n_factors": 3, "epochs": 1, "batch_size": 8, "backend": "numpy", "duplicates": "last"}
    first, second = (Recommender(**arguments).fit(frame) for frame in (plain, named))
    assert first.predict(plain).tobytes() == second.predict(named).tobytes()
    one, two = (m.recommend(f.userId.iloc[:1], 5, exclude_seen=False) for m, f in ((first, plain), (second, named)))
    assert one.score.tolist() == two.score.tolist()
