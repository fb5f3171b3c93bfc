"""The contract of a solver: an epoch as a sequence of parts, and what a part does to the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from minicf.data.bags import Batch
from minicf.data.ratings import Ratings
from minicf.losses import SQUARED_ERROR, Loss
from minicf.models import Model, Weights

if TYPE_CHECKING:
    from minicf.backends.base import Program


class Part(NamedTuple):
    """A stretch of an epoch, done in one call of the backend: plain data, so that it can be sent to another process."""

    kind: str
    """What is to be done with the rows; a solver's own word."""
    rows: Any
    """Array of int: rows of the table, rounds of tiles, users, …"""
    rates: np.ndarray | float = 0.0
    """Learning rates, one a step, or one for all; for solvers that have them."""
    momenta: np.ndarray | None = None
    """Momenta, as the rates, in the place of the optimizer's own; None where no schedule moves them."""


class Progress(NamedTuple):
    """The result of a part: its loss, examples and updates."""

    loss: np.ndarray
    """Sum of the loss over the examples, one number a head, float64."""
    n: int
    """Number of examples."""
    steps: int = 1
    """Number of updates that were made."""
    failed_rate: float | None = None
    """The learning rate of the first step whose loss was not finite, which was not made; None if there was none."""

    @property
    def failed_step(self) -> int:
        """Index within the part of the step that failed; -1 if none did."""
        return -1 if self.failed_rate is None else self.steps


class Solver:
    """The contract of a solver; subclasses add `parts` and `run`.

    A solver that is no gradient descent needs these two, and `init_state` where it keeps anything between epochs.
    Alternating least squares, for `Dot`, with squared errors and a ridge::

        @minicf.register
        @dataclass(frozen=True)
        class LeastSquares(minicf.Solver):
            ridge: float = 1.0

            def parts(self, data, seed, epoch, program):
                yield minicf.Part("user", np.unique(data.user))
                yield minicf.Part("item", np.unique(data.item))

            def run(self, program, data, part):
                xp, other = program.xp, "item" if part.kind == "user" else "user"
                mine, theirs = getattr(data, part.kind), getattr(data, other)
                for row in part.rows:
                    at = np.flatnonzero(mine == row)
                    q = program.w[f"{other}_factors"][xp.asarray(theirs[at])]
                    target = xp.asarray(data.target[at], dtype=q.dtype)
                    a = q.T @ q + self.ridge * xp.eye(q.shape[1], dtype=q.dtype)
                    program.w[f"{part.kind}_factors"][row] = xp.linalg.solve(a, q.T @ target)
                return program.measure(data)

        minicf.Trainer(minicf.Dot(8), LeastSquares(2.0)).fit(train, valid, epochs=10)
    """

    loss: Loss = SQUARED_ERROR
    """What the history and `Trainer.evaluate` report."""
    lr: ClassVar[Any] = None
    """The learning rate before a schedule; None for a solver without."""

    def check(self, model: Model) -> None:
        """Refuse a model that the solver cannot train; anything goes here."""

    def init_state(self, w: Weights) -> Weights:
        """Make the arrays that the solver keeps beside the weights, by name."""
        return {}

    def resize(self, slots: Weights, state: Mapping[str, Any]) -> None:
        """Give slots whose size follows from the training data the sizes that they have in a saved state."""

    def ordered(self, shuffle: bool | str) -> Solver:
        """Return the solver with another order of examples: its `prepare` and `parts` are called, not its `run`."""
        raise ValueError(f"shuffle is {shuffle!r}; {type(self).__name__} has no order of examples: leave shuffle out")

    def prepare(self, ratings: Ratings) -> Any:
        """Lay out a training table for `parts` and `run`: a Batch of the whole table here."""
        return Batch.of(ratings)

    def parts(self, data: Any, seed: int, epoch: int, program: Program) -> Iterator[Part]:
        """Yield the parts of an epoch; between two of them training can be interrupted.

        Parameters
        ----------
        data
            What `prepare` made.
        seed : int
        epoch : int
            Counted from 0, over all calls of `fit`.
        program : Program
            ``program.pace`` gives the learning rates.
        """
        raise NotImplementedError

    def run(self, program: Program, data: Any, part: Part) -> Progress:
        """Do one part: change ``program.w`` and ``program.slots``, dicts of arrays of ``program.xp``, in place."""
        raise NotImplementedError

    def penalty(self, program: Program, counts: Mapping[str, np.ndarray]) -> float:
        """Return what the objective adds to the loss at the present weights; `counts` are examples by row."""
        return 0.0
