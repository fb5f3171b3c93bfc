"""minicf: its program for whole epochs, its reference, and what a user calls."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

import minicf
from bench.data import Table
from bench.rivals import SEED, Contender, MiniBatch, Task, Turn, planted_tables, seen_rows, timed, trainings
from bench.settings import Setting
from minicf import scoring
from minicf.backends import get_backend
from minicf.data import Bags, Batch
from minicf.models import Model
from minicf.models.scorers import by_products
from minicf.solvers import Gradient, Part
from minicf.tiles import Tiles

PACKAGES = ("minicf", "numba", "llvmlite", "numpy")


class Reference(MiniBatch):
    """The NumPy reference: the truth that the check compares with. It takes no turns."""

    packages = PACKAGES
    backend = "numpy"

    @property
    def dtype(self) -> str:
        return str(self.task.options.get("truth", "float64"))

    def build(self, model: Model) -> None:
        compiler = get_backend(self.backend)
        solver = Gradient(self.optimizer, batch_size=self.task.batch)
        self.program = compiler.compile(model, solver, self.start(model), SEED, self.dtype, self.task.threads)

    def run(self, first: int, count: int) -> None:
        batch, t = self.task.batch, self.table
        rows = self.order[first * batch : (first + count) * batch]
        rates = self.rates[first : first + count]
        done = self.program.run(Batch(t.user, t.item, t.rating), Part("batches", rows, rates))
        if done.failed_step >= 0:
            raise ArithmeticError(f"training diverged at step {first + done.failed_step}")

    def weights(self) -> dict[str, np.ndarray]:
        return self.program.weights()


class MiniCF(Reference):
    """The backend's compiled program, an epoch a call, as `Trainer` calls it."""

    whole_epochs = True

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        self.backend = str(task.options.get("backend", "auto"))

    @property
    def dtype(self) -> str:
        return "float32"

    def prepare(self) -> None:
        self.build(self.model)
        first = timed(lambda: self.run(0, 1))
        self.compile_s = max(0.0, first - timed(lambda: self.run(0, 1)))


class Fit(MiniCF):
    """`Trainer.fit` with all that it does besides: the epoch's order, the snapshot, the check for divergence."""

    def build(self, model: Model) -> None:
        t = self.table
        rows = np.sort(self.order)
        self.train_on = minicf.Ratings(t.user[rows], t.item[rows], t.rating[rows], t.n_users, t.n_items)
        self.trainer = minicf.Trainer(
            model, self.optimizer, backend=self.backend, batch_size=self.task.batch, seed=SEED,
            n_threads=self.task.threads,
        )  # fmt: skip

    def run(self, first: int, count: int) -> None:
        self.trainer.fit(self.train_on, epochs=1, progress=False)

    def turn(self) -> Turn:
        return Turn(timed(lambda: self.trainer.fit(self.train_on, epochs=self.epochs, progress=False)),
                    self.epochs * self.n)  # fmt: skip

    def check(self) -> dict[str, np.ndarray]:
        return {}  # its order is its own; the program that it calls is checked


# --- per-rating SGD --------------------------------------------------------------------------------------------------


class PerRating(Contender):
    """SGD a rating at a time, in tiles; the layout of the tiles is timed apart."""

    packages = PACKAGES

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        n = task.rows or len(table.user)
        size = table.n_users, table.n_items
        self.train_on = minicf.Ratings(table.user[:n], table.item[:n], table.rating[:n], *size)
        self.valid = minicf.Ratings(table.valid_user, table.valid_item, table.valid_rating, *size)

    def fresh(self) -> None:
        assert self.task.model is not None
        assert self.task.optimizer is not None
        self.trainer = minicf.Trainer(
            self.task.model, self.task.optimizer, batch_size=1, seed=SEED, n_threads=self.task.threads
        )

    def fit(self, train: minicf.Ratings, epochs: int = 1) -> None:
        self.trainer.fit(train, epochs=epochs, shuffle="tiles", progress=False)

    def prepare(self) -> None:
        few = self.train_on.take(np.arange(min(20_000, len(self.train_on))))
        self.fresh()
        first = timed(lambda: self.fit(few))
        self.compile_s = max(0.0, first - timed(lambda: self.fit(few)))

    def check(self) -> dict[str, float]:
        """Validation error after some epochs."""
        self.fresh()
        self.fit(self.train_on, int(self.task.options.get("check_epochs", 8)))
        return {"mse": self.trainer.evaluate(self.valid)["mse"]}

    def warm(self) -> None:
        """The first epoch lays out the tiles."""
        self.fresh()
        begin = time.perf_counter()
        self.fit(self.train_on)
        self.first_s = self.trainer.history[-1]["seconds"]
        whole = time.perf_counter() - begin
        again = timed(lambda: self.fit(self.train_on))  # without the layout
        self.prepare_s = max(0.0, whole - again)
        self.epochs = max(1, int(np.ceil(0.25 * self.task.turn_seconds / self.first_s)))

    def turn(self) -> Turn:
        """Epochs; their time is the history's, of training alone, as the rivals' is of iterations alone."""
        self.fit(self.train_on, self.epochs)
        seconds = sum(self.trainer.history[-1 - i]["seconds"] for i in range(self.epochs))
        return Turn(seconds, self.epochs * len(self.train_on))


# --- top-N -----------------------------------------------------------------------------------------------------------


class Top(Contender):
    """The ten best items of every user without those that the user has rated: what `Recommender.recommend` calls."""

    packages = PACKAGES

    def prepare(self) -> None:
        t = self.table
        self.p, self.q = planted_tables(t.n_users, t.n_items, self.task.options["k"])
        begin = time.perf_counter()
        start, items = seen_rows(t)
        self.skip = Bags(start.astype(np.int64), items.astype(np.int32))
        self.prepare_s = time.perf_counter() - begin
        first = timed(lambda: self._run(10))
        self.compile_s = max(0.0, first - timed(lambda: self._run(10)))

    def _run(self, n: int) -> Any:
        score = by_products(self.p, self.q)
        users = np.arange(n)
        skip = Bags(self.skip.start[: n + 1], self.skip.index)
        select = get_backend("auto").select
        return scoring.top_n(score, users, self.table.n_items, 10, skip, self.task.threads, select)

    def check(self) -> dict[str, Any]:
        return {"scores": self._run(min(2000, self.table.n_users))[1]}

    def warm(self) -> None:
        self._run(min(2000, self.table.n_users))

    def turn(self) -> Turn:
        n = min(self.table.n_users, 2000) if self.task.options.get("quick") else self.table.n_users
        return Turn(timed(lambda: self._run(n)), n)


# --- time to an error ------------------------------------------------------------------------------------------------


class Reach(Contender):
    """A whole training from fresh weights, as a user calls it, to a validation error."""

    packages = PACKAGES

    def prepare(self) -> None:
        self.setting = Setting(**self.task.options["setting"])
        self.train_on, self.valid = self.table.ratings()
        self.note = self.setting.text()
        if self.setting.kind == "rating":
            self.prepare_s = timed(lambda: Tiles.of(self.train_on))  # kept with the table, as rivals keep their layout
        first = timed(self._train)
        self.compile_s = max(0.0, first - timed(self._train))

    def _train(self) -> None:
        s = self.setting
        shuffle: Any = "tiles" if s.kind == "rating" else True
        self.trainer = minicf.Trainer(
            s.model(), s.optimizer(), batch_size=s.batch, seed=SEED, n_threads=self.task.threads
        )
        self.trainer.fit(self.train_on, epochs=s.epochs, schedule=s.fall(), shuffle=shuffle, progress=False)

    def check(self) -> dict[str, float]:
        return {"mse": self.trainer.evaluate(self.valid)["mse"]}

    def reached(self, setting: Setting) -> float:
        """The validation error that another setting comes to."""
        self.setting = setting
        try:
            self._train()
        except minicf.DivergenceError:
            return math.nan
        return self.check()["mse"]

    def turn(self) -> Turn:
        return trainings(self._train)
