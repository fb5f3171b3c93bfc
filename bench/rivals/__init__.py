"""Who takes part. A contender runs alone in a process of its own and is asked to prepare, to be checked, to take turns.

The modules here import the engine that they are named after, and nothing of each other: an engine that is not
installed is an ImportError when its contender's process starts, and is listed as absent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bench.data import Table
from bench.settings import Setting
from minicf import Net, rng
from minicf.data import Batch
from minicf.models import Model
from minicf.optim import Optimizer

SEED = 0
"""Of initial weights and of the order of ratings, for everybody."""

CONTENDERS = {
    "reference": "bench.rivals.minicf_itself:Reference",
    "minicf": "bench.rivals.minicf_itself:MiniCF",
    "minicf fit": "bench.rivals.minicf_itself:Fit",
    "minicf per rating": "bench.rivals.minicf_itself:PerRating",
    "minicf top": "bench.rivals.minicf_itself:Top",
    "minicf reach": "bench.rivals.minicf_itself:Reach",
    "PyTorch": "bench.rivals.pytorch:Eager",
    "PyTorch plain": "bench.rivals.pytorch_plain:Loop",
    "PyTorch compiled": "bench.rivals.pytorch:Compiled",
    "PyTorch top": "bench.rivals.pytorch:Top",
    "PyTorch reach": "bench.rivals.pytorch:Reach",
    "JAX": "bench.rivals.jax_scan:Scan",
    "JAX reach": "bench.rivals.jax_scan:Reach",
    "Keras": "bench.rivals.keras3:Fit",
    "Surprise": "bench.rivals.per_rating:Surprise",
    "cornac": "bench.rivals.per_rating:Cornac",
    "LIBMF": "bench.rivals.per_rating:LibMF",
    "implicit": "bench.rivals.implicit_top:Top",
    "command": "bench.rivals.command:Command",
    "ceiling": "bench.rivals.ceilings:Ceiling",
    "LightFM": "bench.rivals.absentees:LightFM",
    "Spotlight": "bench.rivals.absentees:Spotlight",
}
"""Module and class of each contender."""


class Absent(Exception):
    """The contender cannot take part; the message says why."""


class Turn(NamedTuple):
    """What one turn took."""

    seconds: float
    ratings: float
    """How many ratings (users for top-N, runs for a command) were worked through in that time."""


@dataclass(frozen=True)
class Task:
    """What is asked of every contender of a case, equally."""

    table: str
    """A name for `bench.data.make`."""
    rows: int = 0
    """Take so many of the training ratings; 0 for all."""
    model: Model | None = None
    optimizer: Optimizer | None = None
    batch: int = 0
    falling: bool = False
    """Whether the learning rate falls to half its start over an epoch, a little at each step."""
    threads: int = 1
    turn_seconds: float = 0.6
    """About how long a turn should last; an epoch that is longer is cut to a slice of about this length."""
    options: Mapping[str, Any] = field(default_factory=dict)


class Contender:
    """What `bench.measure` asks of everybody. Subclasses set `packages` and override what they need."""

    packages: ClassVar[tuple[str, ...]] = ("minicf",)
    """Distributions whose versions are recorded."""

    program_of_its_own: ClassVar[bool] = False
    """Whether the work is done by a program that this one starts, whose memory counts."""

    def __init__(self, task: Task, table: Table) -> None:
        self.task, self.table = task, table
        self.prepare_s = 0.0
        """Seconds for bringing the ratings into the engine's own layout."""
        self.compile_s = 0.0
        """Seconds for compiling, as a user meets them at the first use."""
        self.first_s = float("nan")
        """Seconds of the first unit of work after that, from fresh weights."""
        self.note = ""

    def prepare(self) -> None:
        """Lay out the data, compile."""

    def check(self) -> Any:
        """What is compared before anything is timed: arrays by name."""
        return {}

    def warm(self) -> None:
        """Work until later turns cost the same as each other."""

    def turn(self) -> Turn:
        raise NotImplementedError


def timed(work: Any) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def trainings(work: Any, least: float = 0.1) -> Turn:
    """A turn of whole trainings, one after another for a tenth of a second at least: one of milliseconds would be timed
    mostly by what its process finds in the caches after the others' turns."""
    begin, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - begin < least:
        work()
        count += 1
    return Turn(time.perf_counter() - begin, count)


class MiniBatch(Contender):
    """Exact mini-batch training: everybody takes the same batches in the same order at the same rates.

    Subclasses define `build` (fresh weights and state) and `run` (steps first … first + count - 1, which lie within
    one epoch) and `weights`.
    """

    whole_epochs: ClassVar[bool] = False
    """Whether a turn is always made of whole epochs."""

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        rows = task.rows or len(table.user)
        self.steps = rows // task.batch
        self.n = self.steps * task.batch
        self.order = rng.permutation(SEED, 0, len(table.user))[: self.n]
        assert task.model is not None
        assert task.optimizer is not None
        self.model, self.optimizer = task.model, task.optimizer
        falling = np.linspace(1.0, 0.5, self.steps) if task.falling else np.ones(self.steps)
        self.rates = task.optimizer.lr * falling
        self.slice = 0
        self.at = 0

    @property
    def check_steps(self) -> int:
        """So many steps are compared: past the first 200 at batch 64, where Adam's catch-up changes its method."""
        return {64: 400, 1024: 120}.get(self.task.batch, 40) if not self.task.options.get("quick") else 40

    def start(self, model: Model) -> dict[str, np.ndarray]:
        """Initial weights, the same for everybody, in float64."""
        return model.init_weights(self.table.n_users, self.table.n_items, SEED)

    def build(self, model: Model) -> None:
        raise NotImplementedError

    def run(self, first: int, count: int) -> None:
        raise NotImplementedError

    def weights(self) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def forward(self, count: int) -> None:
        """The next `count` steps, on from where the last ones ended, through as many epochs as that takes."""
        while count:
            part = min(count, self.steps - self.at)
            self.run(self.at, part)
            self.at = (self.at + part) % self.steps
            count -= part

    def check(self) -> dict[str, np.ndarray]:
        """Weights after some steps, with dropout off, since every engine draws its own masks."""
        self.build(without_dropout(self.model))
        self.at = 0
        self.forward(self.check_steps)
        return self.weights()

    def warm(self) -> None:
        self.build(self.model)
        self.at = 0
        if self.whole_epochs:
            self.first_s = timed(lambda: self.forward(self.steps))
            # An epoch of seconds is warm after one.
            epoch = self.first_s if self.first_s > 2 else timed(lambda: self.forward(self.steps))
        else:
            count = 1
            self.forward(count)
            while (seconds := timed(partial(self.forward, count))) < 0.1 and count < self.steps:
                count = min(4 * count, self.steps)
            epoch = seconds / count * self.steps
            if epoch > 2 * self.task.turn_seconds:
                self.slice = max(5, min(self.steps, int(self.task.turn_seconds / epoch * self.steps)))
        self.epochs = max(1, int(np.ceil(0.25 * self.task.turn_seconds / epoch)))

    def turn(self) -> Turn:
        count = self.slice or self.epochs * self.steps
        return Turn(timed(lambda: self.forward(count)), count * self.task.batch)


class Reached(MiniBatch):
    """A whole mini-batch training from fresh weights, with the settings that the search found best for this engine."""

    def __init__(self, task: Task, table: Table) -> None:
        self.setting = Setting(**task.options["setting"])
        s = self.setting
        super().__init__(replace(task, model=s.model(), optimizer=s.optimizer(), batch=s.batch, falling=True), table)
        self.all_rates = s.rates(self.steps)

    def shuffle(self, epoch: int) -> None:
        """Bring the ratings into this epoch's order."""
        raise NotImplementedError

    def train(self) -> None:
        self.build(self.model)
        for epoch in range(self.setting.epochs):
            self.rates = self.all_rates[epoch * self.steps : (epoch + 1) * self.steps]
            self.shuffle(epoch)
            self.run(0, self.steps)

    def check(self) -> dict[str, Any]:
        self.train()
        return {"mse": validation_error(self.model, self.weights(), self.table)}

    def warm(self) -> None:
        """The check was one."""

    def turn(self) -> Turn:
        return trainings(self.train)


def validation_error(model: Model, weights: dict[str, np.ndarray], table: Table) -> float:
    """Mean squared error on the validation ratings, by the reference's formulas."""
    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    squared = 0.0
    for start in range(0, len(table.valid_user), 1 << 16):
        part = slice(start, start + (1 << 16))
        y = model.predict(exact, Batch(table.valid_user[part], table.valid_item[part]))
        squared += float(np.square(y - table.valid_rating[part]).sum())
    return squared / len(table.valid_user)


def planted_tables(n_users: int, n_items: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors to be scored, the same for everybody."""
    random = np.random.default_rng(SEED)
    return (
        random.normal(0.0, 0.3, (n_users, k)).astype(np.float32),
        random.normal(0.0, 0.3, (n_items, k)).astype(np.float32),
    )


def seen_rows(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """What each user has rated, as compressed rows: starts (users + 1,), items."""
    order = np.argsort(table.user, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(table.user, minlength=table.n_users))])
    return start, table.item[order]


def without_dropout(model: Model) -> Model:
    """The model with its dropout rates at 0."""
    return replace(model, dropout=(0.0,) * len(model.dropout)) if isinstance(model, Net) else model
