"""Engines that take a step a rating: scikit-surprise, cornac, LIBMF."""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import Table
from bench.rivals import SEED, Absent, Contender, Task, Turn, timed, trainings
from bench.settings import Setting
from minicf import rng

CHECK_EPOCHS = 8

LIBMF_L2 = 0.05
"""The weight decay at which LIBMF's error on the synthetic table is near its lowest."""


class OneByOne(Contender):
    """What Surprise and cornac share: `train(setting)`, and how its result predicts."""

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        options = task.options
        n = task.rows or len(table.user)
        self.user, self.item, self.rating = (np.asarray(x[:n]) for x in (table.user, table.item, table.rating))
        self.reaching = "setting" in options
        if self.reaching:
            # In random order, as these engines' own splits leave ratings: neither shuffles while it trains.
            order = rng.permutation(SEED, 0, n)
            self.user, self.item, self.rating = self.user[order], self.item[order], self.rating[order]
            self.setting = Setting(**options["setting"])
            self.note = self.setting.text()
        else:
            assert task.model is not None
            assert task.optimizer is not None
            decay = float(task.optimizer.weight_decay)  # type: ignore[arg-type]
            epochs = int(options.get("check_epochs", CHECK_EPOCHS))
            self.setting = Setting("rating", task.optimizer.lr, decay, 1, task.model.n_factors, epochs)

    @property
    def lr(self) -> float:
        """minicf's gradient is that of (y - r)^2, theirs of half of it and of half the penalty."""
        return 2 * self.setting.lr

    @property
    def decay(self) -> float:
        return self.setting.decay / 2

    def train(self, epochs: int) -> None:
        raise NotImplementedError

    def error(self) -> float:
        raise NotImplementedError

    def check(self) -> dict[str, float]:
        self.train(self.setting.epochs)
        return {"mse": self.error()}

    def reached(self, setting: Setting) -> float:
        """The validation error that another setting comes to."""
        self.setting = setting
        return self.check()["mse"]

    def turn(self) -> Turn:
        """An epoch of several, by difference: both engines prepare their tables within `fit`."""
        if self.reaching:
            return trainings(lambda: self.train(self.setting.epochs))
        one, more = timed(lambda: self.train(1)), timed(lambda: self.train(3))
        return Turn(max(more - one, 1e-9), 2 * len(self.user))

    def mse(self, b: Any, c: Any, p: Any, q: Any, mean: float) -> float:
        t = self.table
        u, i = t.valid_user, t.valid_item
        y = mean + b[u] + c[i] + np.einsum("nk,nk->n", p[u], q[i])
        return float(np.square(np.clip(y, 0.5, 5.0) - t.valid_rating).mean())


class Surprise(OneByOne):
    """`SVD`: float64, one thread."""

    packages = ("scikit-surprise", "numpy")

    def prepare(self) -> None:
        from surprise import SVD
        from surprise.trainset import Trainset

        self.make = SVD
        t = self.table
        begin = time.perf_counter()
        # The constructor itself: the readers of files would give ids in the order of their first rating.
        rated_by: dict[int, list[Any]] = {u: [] for u in range(t.n_users)}
        rated: dict[int, list[Any]] = {i: [] for i in range(t.n_items)}
        for u, i, r in zip(self.user.tolist(), self.item.tolist(), self.rating.tolist(), strict=True):
            rated_by[u].append((i, r))
            rated[i].append((u, r))
        ids = [{n: n for n in range(size)} for size in (t.n_users, t.n_items)]
        self.trainset = Trainset(
            rated_by, rated, t.n_users, t.n_items, len(self.user), (0.5, 5.0), ids[0], ids[1]
        )  # fmt: skip
        self.prepare_s = time.perf_counter() - begin

    def train(self, epochs: int) -> None:
        s = self.setting
        self.algorithm = self.make(
            n_factors=s.k, n_epochs=epochs, lr_all=self.lr, reg_all=self.decay, init_std_dev=s.spread, random_state=0
        )
        self.algorithm.fit(self.trainset)

    def error(self) -> float:
        a = self.algorithm
        return self.mse(a.bu, a.bi, a.pu, a.qi, self.trainset.global_mean)


class Cornac(OneByOne):
    """`MF` with biases on its CPU backend; its threads write to shared rows as they come.

    With a seed it takes one thread whatever it is told, and only without one several. Whichever is faster is taken.
    """

    packages = ("cornac", "numpy")

    def prepare(self) -> None:
        from cornac.data import Dataset
        from cornac.models import MF

        self.make = MF
        t = self.table
        begin = time.perf_counter()
        ids = [{n: n for n in range(size)} for size in (t.n_users, t.n_items)]
        self.dataset = Dataset(
            t.n_users, t.n_items, ids[0], ids[1],
            (self.user.astype(np.int64), self.item.astype(np.int64), self.rating), seed=0,
        )  # fmt: skip
        self.dataset.max_rating, self.dataset.min_rating = 5.0, 0.5
        self.prepare_s = time.perf_counter() - begin
        self.seed: int | None = 0
        if self.task.threads > 1:
            took: dict[int | None, float] = {}
            for self.seed in (0, None):
                self.train(1)
                took[self.seed] = min(timed(lambda: self.train(2)) for _ in range(3))
            self.seed = min(took, key=lambda seed: took[seed])
            found = f"the faster of 1 and {self.task.threads} threads: {1 if self.seed == 0 else self.task.threads}"
            self.note = f"{self.note}; {found}" if self.note else found

    def train(self, epochs: int) -> None:
        s = self.setting
        self.algorithm = self.make(
            k=s.k, backend="cpu", max_iter=epochs, learning_rate=self.lr, lambda_reg=self.decay, use_bias=True,
            num_threads=self.task.threads, early_stop=False, verbose=False,
            seed=self.seed,
        )  # fmt: skip
        self.algorithm.fit(self.dataset)

    def error(self) -> float:
        a = self.algorithm
        return self.mse(a.u_biases, a.i_biases, a.u_factors, a.i_factors, a.global_mean)


class LibMF(Contender):
    """`mf-train` of a build that the user points to: no biases; the time of its iterations by difference.

    A turn is a run of one iteration and a run of several; both read the same text file, and what the second takes
    longer is its own work on the further iterations.
    """

    packages = ()
    program_of_its_own = True

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        self.program = str(task.options.get("libmf") or "")
        if not self.program:
            raise Absent("no build of LIBMF was pointed to (--libmf PATH of mf-train)")
        if not Path(self.program).is_file():
            raise Absent(f"there is no program at the path that --libmf gave: {self.program}")

    def prepare(self) -> None:
        t, n = self.table, self.task.rows or len(self.table.user)
        options, task = self.task.options, self.task
        self.reaching = "setting" in options
        if self.reaching:
            self.setting = Setting(**options["setting"])
            self.note = f"by difference; {self.setting.text()}"
        else:
            assert task.model is not None
            epochs = int(options.get("check_epochs", CHECK_EPOCHS))
            # Its rates adapt to each row: the one that its own documentation has as default.
            self.setting = Setting("rating", 0.1, 2 * LIBMF_L2, 1, task.model.n_factors, epochs)
            self.note = "no biases; by difference of iterations"
        begin = time.perf_counter()
        # In memory where there is such a folder: reading is no part of what is measured.
        memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.train_file, self.valid_file = (Path(self.folder.name) / name for name in ("train", "valid"))
        write_text(self.train_file, t.user[:n], t.item[:n], t.rating[:n])
        write_text(self.valid_file, t.valid_user, t.valid_item, t.valid_rating)
        self.prepare_s = time.perf_counter() - begin
        self.n = n
        self.iterations = 400 if self.reaching else int(options.get("iterations", 10))

    def run(self, iterations: int, *more: str) -> str:
        s = self.setting
        options = ["-k", str(s.k), "-t", str(iterations), "-s", str(self.task.threads), "-r", f"{s.lr:g}"]
        model = Path(self.folder.name) / "model"
        done = subprocess.run(
            [self.program, *options, "-l2", f"{s.decay / 2:g}", *more, str(self.train_file), str(model)],
            capture_output=True, text=True, check=True, timeout=600,
        )  # fmt: skip
        return done.stdout

    def check(self) -> dict[str, float]:
        """Validation error as it prints it; before it is squeezed into the range of the stars."""
        said = self.run(self.setting.epochs, "-p", str(self.valid_file))
        rows = re.findall(r"^\s*\d+\s+[\d.]+\s+([\d.]+)", said, re.MULTILINE)
        if not rows:
            return {"mse": math.nan}  # training diverged: it prints other words
        return {"mse": float(rows[-1]) ** 2}

    def reached(self, setting: Setting) -> float:
        """The validation error that another setting comes to."""
        self.setting = setting
        return self.check()["mse"]

    def turn(self) -> Turn:
        one = timed(lambda: self.run(1, "--quiet"))
        more = timed(lambda: self.run(1 + self.iterations, "--quiet"))
        seconds = max(more - one, 1e-9)
        if self.reaching:
            return Turn(seconds / self.iterations * self.setting.epochs, 1)
        return Turn(seconds, self.iterations * self.n)


def write_text(path: Path, user: np.ndarray, item: np.ndarray, rating: np.ndarray) -> None:
    """Lines "user item rating", 10 million in seconds: digits are put into a table of bytes by arithmetic."""
    with open(path, "wb") as file:
        for start in range(0, len(user), 1 << 20):
            part = slice(start, start + (1 << 20))
            columns = [user[part], item[part]]
            wide = [max(1, len(str(int(column.max(initial=0))))) for column in columns]
            halves = np.rint(np.asarray(rating[part]) * 2).astype(np.int64)
            if not np.array_equal(halves / 2, rating[part]):
                raise ValueError("ratings are written in half stars, and these have others")
            out = np.full((len(halves), sum(wide) + 6), ord(" "), np.uint8)
            at = 0
            for column, width in zip(columns, wide, strict=True):
                rest = np.asarray(column).astype(np.int64)
                for place in range(width - 1, -1, -1):
                    out[:, at + place] = rest % 10 + ord("0")  # zeros in front are read as nothing
                    rest //= 10
                at += width + 1
            out[:, at] = halves // 2 + ord("0")
            out[:, at + 1] = ord(".")
            out[:, at + 2] = 5 * (halves % 2) + ord("0")
            out[:, at + 3] = ord("\n")
            file.write(out[:, : at + 4].tobytes())
