"""The seam between what is computed and where, and the reference that defines the result.

A `Program` holds the weights of a model and the state of a solver, and runs the parts of an epoch. The one here is the
plainest possible: it lets the solver compose the model's passes with its updates. Every other backend is right when its
weights, state and losses equal those of this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf import rng
from minicf.backends.state import State
from minicf.data.bags import Bags, Batch
from minicf.models import Model, Weights
from minicf.optim import Optimizer
from minicf.schedules import Pace
from minicf.solvers import Part, Progress, Solver


class Program(State):
    """A model and a solver on a backend, with the weights and the solver's state.

    Parameters
    ----------
    model : Model
    solver : Solver or None
        None for predictions alone.
    weights : dict of float arrays
        Initial weights; copied.
    seed : int
        For dropout and sampled negatives.
    dtype : "float32" or "float64"
        Of weights, state and arithmetic.
    n_threads : int, optional
        The largest number of threads; this one takes what NumPy takes.

    Attributes
    ----------
    w, slots : dict of arrays of `xp`
        Weights by name, and what the solver keeps beside them; changed in place.
    t : int
        The number of updates so far.
    bags : mapping of name to Bags
        The model's, of arrays of `xp`; see `hold`.
    pace : Pace
        The learning rates of the running epoch.
    """

    def __init__(
        self,
        model: Model,
        solver: Solver | None,
        weights: Weights,
        seed: int = 0,
        dtype: Any = "float32",
        n_threads: int | None = None,
    ) -> None:
        self.model, self.solver, self.seed, self.dtype = model, solver, seed, np.dtype(dtype)
        self.parameters = model.parameters(model.sizes_of(weights))
        self.t, self.n_threads = 0, n_threads
        self.bags: Mapping[str, Bags] = {}
        self.pace = Pace(0.0 if solver is None or solver.lr is None else solver.lr)
        self.allocate(weights)

    def allocate(self, weights: Weights) -> None:
        """Make room for weights and state where the program computes, and copy the initial weights there."""
        self.w = {name: self.xp.array(weights[name], dtype=self.dtype) for name in self.parameters}
        self.slots = {} if self.solver is None else self.solver.init_state(self.w)

    def load(self, weights: Weights, state: Weights) -> None:
        """Take over weights and state as `weights` and `state` gave them."""
        if self.solver is not None:
            self.solver.resize(self.slots, state)
        super().load(weights, state)

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        if self.solver is not None:
            self.solver.resize(self.slots, snapshot[1])
        super().restore(snapshot)

    def hold(self, bags: Mapping[str, Bags]) -> None:
        """Take the bags of the whole tables, which every batch without its own reads."""
        self.bags = {name: one.on(self.xp) for name, one in bags.items()}

    # --- training --------------------------------------------------------------------------------------------

    def run(self, data: Any, part: Part) -> Progress:
        """Do one part of an epoch."""
        assert self.solver is not None, "a program without solver only predicts"
        return self.solver.run(self, data, part)

    def steps_per_call(self, batch_size: int) -> int:
        """Return how many steps make a part; between parts training shows progress and can be interrupted."""
        return max(1, 4096 // batch_size)

    def order(self, seed: int, epoch: int, n: int) -> Any:
        """Return the shuffled rows of an epoch."""
        return rng.permutation(seed, epoch, n)

    # --- what a solver asks for ------------------------------------------------------------------------------

    def batch(self, table: Batch, rows: Any) -> Batch:
        """Take examples from a table: indices and targets as arrays of `xp`, targets in this program's dtype."""
        batch = table.take(rows)
        real = {
            name: self.xp.asarray(value.astype(self.dtype, copy=False))
            for name, value in (("target", batch.target), ("weight", batch.weight))
            if value is not None
        }
        bags = batch.bags or self.bags
        return batch._replace(user=self.xp.asarray(batch.user), item=self.xp.asarray(batch.item), bags=bags, **real)

    def masks(self, batch: int) -> Any:
        """Return the dropout masks of the next step."""
        return self.model.dropout_masks(self.seed, self.t + 1, batch, self.dtype)

    def counts(self, batch: Batch) -> Weights:
        """Return for each table how many examples of the batch read each row."""
        owners = {p.rows: p.shape[0] for p in self.parameters.values() if p.rows is not None}
        counts = {key: self.xp.bincount(self.xp.asarray(batch.rows(key)), minlength=n) for key, n in owners.items()}
        return {name: counts[p.rows] for name, p in self.parameters.items() if p.rows is not None}

    def measure(self, data: Batch) -> Progress:
        """Count one update; return the loss of a table of examples at the present weights, as a solver's progress."""
        assert self.solver is not None
        loss = self.solver.loss
        sums = [loss(self.predict(data, head).astype(np.float64), data)[0].sum() for head in self.model.heads]
        self.t += 1
        return Progress(np.array(sums, np.float64), data.size)

    # --- what the weights say --------------------------------------------------------------------------------

    def predict(self, batch: Batch, head: str | None = None) -> np.ndarray:
        """Compute the model's outputs for pairs of indices, without dropout, as a host array of the program's dtype."""
        out, bags = np.empty(batch.size, self.dtype), batch.bags or self.bags
        for start in range(0, batch.size, 1 << 16):  # bounds the memory
            part = slice(start, start + (1 << 16))
            pairs = Batch(self.xp.asarray(batch.user[part]), self.xp.asarray(batch.item[part]), None, None, bags)
            out[part] = self._host(self.model.predict(self.w, pairs, head))
        return out

    def penalty(self, optimizer: Optimizer, counts: Mapping[str, np.ndarray]) -> float:
        """Return the function whose gradient the weight decay adds, at the present weights.

        "l2": sum over weights of lambda/2 |w|^2. "per_rating": the same with row r of a table weighted by its share
        of the examples, n_r / n. "decoupled": 0, for it is no part of any objective.

        Parameters
        ----------
        optimizer : Optimizer
        counts : mapping of str to array
            n_r by "user", "item" and the names of bags.
        """
        if optimizer.decay == "decoupled":
            return 0.0
        total = 0.0
        for name, w in self._host_views().items():
            decay = optimizer.decay_of(name)
            if not decay:
                continue
            rows = w.reshape(len(w), -1)
            squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            side = self.parameters[name].rows
            if optimizer.decay == "per_rating" and side is not None:
                squares *= counts[side] / max(counts["user"].sum(), 1)
            total += 0.5 * decay * float(squares.sum())
        return total

    def _host_views(self) -> Weights:
        """Return the weights in host memory, copied or not, to be read at once."""
        return self.weights()
