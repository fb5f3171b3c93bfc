"""The seam between what is computed and where, and the reference that defines the result.

`Program` is all that a backend implements. The one here is the plainest possible: batch by batch it composes the
model's forward and backward passes with the optimiser's update of every row. Every other backend is right when its
weights, state and losses equal those of this one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicf import ops
from minicf.models import ITEM_TABLES, TABLES, USER_TABLES, Hybrid, Model, Weights
from minicf.optim import Optimizer
from minicf.tiles import Tiles

NAME = "numpy"


def unavailable() -> str | None:
    """Why this backend cannot run here; None if it can."""
    return None


class Progress(NamedTuple):
    """What `Program.train` reports."""

    squared_error: np.ndarray
    """Sum over ratings of the squared error, one number a head, float64."""
    failed_step: int
    """Index within the call of the first step whose loss was not finite, which was not taken; -1 if none."""


class Program:
    """A model and an optimiser on a backend, with the weights and the optimiser's state.

    Parameters
    ----------
    model : Model
    optimizer : Optimizer
    weights : dict of float arrays
        Initial weights; copied.
    seed : int
        For dropout.
    dtype : "float32" or "float64"
        Of weights, state and arithmetic.
    n_threads : int, optional
        At most so many; this one takes what NumPy takes.
    """

    xp: Any = np

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        weights: Weights,
        seed: int = 0,
        dtype: Any = "float32",
        n_threads: int | None = None,
    ) -> None:
        self.model, self.optimizer, self.seed, self.dtype = model, optimizer, seed, np.dtype(dtype)
        self._w = {name: self.xp.array(value, dtype=self.dtype) for name, value in weights.items()}
        self._state = optimizer.init_state(self._w)
        self.t = 0

    def steps_per_call(self, batch_size: int) -> int:
        """How many steps the trainer hands over at once; between calls it can be interrupted and shows progress."""
        return max(1, 4096 // batch_size)

    # --- training --------------------------------------------------------------------------------------------

    def train(
        self,
        user: np.ndarray,
        item: np.ndarray,
        rating: np.ndarray,
        order: np.ndarray,
        batch_size: int,
        learning_rates: np.ndarray | float,
    ) -> Progress:
        """Take one step for each batch of `order`.

        Parameters
        ----------
        user, item : array of int32, shape (n,)
            Indices into the tables; trusted.
        rating : array of float32, shape (n,)
        order : array of int32
            The rows of the table to go through, cut into batches of `batch_size`; the last may be shorter and
            averages over its own size.
        batch_size : int
        learning_rates : array of float64, one a step, or one number for all

        Returns
        -------
        Progress
        """
        steps = -(-len(order) // batch_size)
        rates = np.broadcast_to(np.asarray(learning_rates, np.float64), (steps,))
        total = np.zeros(len(self.model.heads))
        for i in range(steps):
            rows = order[i * batch_size : (i + 1) * batch_size]
            u, v = self.xp.asarray(user[rows]), self.xp.asarray(item[rows])
            r = self.xp.asarray(rating[rows].astype(self.dtype, copy=False))
            masks = self._masks(len(rows))
            # What overflows is reported as a failed step, once, and not as NumPy's warnings on the way there.
            with np.errstate(over="ignore", invalid="ignore"):
                losses, grads = self.model.loss_and_gradients(self._w, u, v, r, masks)
                squared = np.array([float(loss) for loss in losses]) * len(rows)
                if not np.isfinite(squared).all():
                    return Progress(total, i)
                self.t += 1
                counts, lr = self._counts(u, v), float(rates[i])
                self.optimizer.step(self._w, grads, self._state, self.t, lr, counts, len(rows))
            total += squared
        return Progress(total, -1)

    def train_tiles(self, tiles: Tiles, rounds: np.ndarray, learning_rates: np.ndarray) -> Progress:
        """Go through rounds of tiles rating by rating, one learning rate a round.

        Parameters
        ----------
        tiles : Tiles
        rounds : array of int
            Which rounds, in which order.
        learning_rates : array of float64
            One for each of them.
        """
        sizes = tiles.start[rounds, -1] - tiles.start[rounds, 0]
        rates = np.repeat(learning_rates, sizes)
        return self.train(tiles.user, tiles.item, tiles.rating, tiles.order(rounds), 1, rates)

    def _masks(self, batch: int) -> Any:
        """Dropout masks of the next step."""
        return self.model.dropout_masks(self.seed, self.t + 1, batch, self.dtype)

    def _counts(self, user: Any, item: Any) -> Weights:
        """How many ratings of the batch name each row of each table."""
        counts = {}
        for tables, index in ((USER_TABLES, user), (ITEM_TABLES, item)):
            for name in tables:
                if name in self._w:
                    counts[name] = self.xp.bincount(index, minlength=len(self._w[name]))
        return counts

    # --- what the weights say --------------------------------------------------------------------------------

    def predict(self, user: np.ndarray, item: np.ndarray, head: str | None = None) -> np.ndarray:
        """Predictions for pairs of indices, without dropout, as a host array of this program's dtype."""
        out = np.empty(len(user), self.dtype)
        for start in range(0, len(user), 1 << 16):  # bounds the memory
            part = slice(start, start + (1 << 16))
            u, v = self.xp.asarray(user[part]), self.xp.asarray(item[part])
            if head is not None and isinstance(self.model, Hybrid):
                y = self.model.predict_head(head, self._w, u, v)
            else:
                y = self.model.predict(self._w, u, v)
            out[part] = self._host(y)
        return out

    def penalty(self, user_counts: np.ndarray, item_counts: np.ndarray) -> float:
        """The function whose gradient the weight decay adds, at the present weights.

        "l2": sum over weights of lambda/2 |w|^2. "per_rating": the same with row r of a table weighted by its share
        of the ratings, n_r / n. "decoupled": 0, for it is no part of any loss.
        """
        if self.optimizer.decay == "decoupled":
            return 0.0
        total = 0.0
        for name, w in self._looked_at().items():
            decay = self.optimizer.decay_of(name)
            if not decay:
                continue
            rows = w.reshape(len(w), -1)
            squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            if self.optimizer.decay == "per_rating" and name in TABLES:
                counts = user_counts if name in USER_TABLES else item_counts
                squares *= counts / max(counts.sum(), 1)
            total += 0.5 * decay * float(squares.sum())
        return total

    def _looked_at(self) -> Weights:
        """The weights on the host, copies or not, to be read at once."""
        return self.weights()

    # --- weights and state -----------------------------------------------------------------------------------

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of the weights on the host."""
        return {name: self._host(w, copy=True) for name, w in self._w.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the optimiser's arrays on the host, named ``slot.weight``, and its counter, ``step``."""
        state = {name: self._host(s, copy=True) for name, s in self._state.items()}
        return {"step": np.array(self.t, np.int64), **state}

    def load(self, weights: Weights, state: Weights) -> None:
        """Take over weights and state as `weights` and `state` gave them."""
        arrays = [(name, w, weights[name]) for name, w in self._w.items()]
        arrays += [(name, s, state[name]) for name, s in self._state.items()]
        _check_shapes(arrays)
        self.t = int(state["step"])
        for _, own, given in arrays:
            own[...] = self.xp.asarray(given, dtype=self.dtype)

    def snapshot(self) -> Any:
        """A copy of weights and state for `restore`, kept where the program finds it cheapest."""
        return self.weights(), self.state()

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        self.load(*snapshot)

    def finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(bool(self.xp.isfinite(w).all()) for w in self._w.values())

    @staticmethod
    def _host(array: Any, copy: bool = False) -> np.ndarray:
        if ops.namespace(array) is np:
            return array.copy() if copy else array
        return array.get()


def _check_shapes(arrays: list[tuple[str, Any, Any]]) -> None:
    """Of (name, own, given), before any is assigned: an assignment would broadcast a wrong shape."""
    for name, own, given in arrays:
        if own.shape != np.shape(given):
            raise ValueError(f"{name!r} has shape {np.shape(given)}; {own.shape} is needed")


def compile(
    model: Model,
    optimizer: Optimizer,
    weights: Weights,
    seed: int = 0,
    dtype: Any = "float32",
    n_threads: int | None = None,
) -> Program:
    """The reference program."""
    return Program(model, optimizer, weights, seed, dtype, n_threads)
