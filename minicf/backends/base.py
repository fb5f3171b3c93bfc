"""The seam between what is computed and where, and the reference that defines the result.

A `Program` holds the weights of a model and the state of a solver, and runs the parts of an epoch. The one here is the
plainest possible: it lets the solver compose the model's passes with its updates. Every other backend is right when its
weights, state and losses equal those of this one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from minicf import ops, rng, scoring
from minicf.data.bags import Batch
from minicf.models import Model, Weights
from minicf.optim import Optimizer
from minicf.schedules import Pace
from minicf.solvers import Gradient, Part, Progress, Solver

log = logging.getLogger("minicf")
_logged: set[str] = set()  # what was said once


class Program:
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
    pace : Pace
        The learning rates of the running epoch.
    """

    xp: Any = np

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
        self.w: Weights = {name: self.xp.array(weights[name], dtype=self.dtype) for name in self.parameters}
        self.slots: Weights = {} if solver is None else solver.init_state(self.w)
        self.t = 0
        self.pace = Pace(0.0 if solver is None or solver.lr is None else solver.lr)

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
        return batch._replace(user=self.xp.asarray(batch.user), item=self.xp.asarray(batch.item), **real)

    def masks(self, batch: int) -> Any:
        """Return the dropout masks of the next step."""
        return self.model.dropout_masks(self.seed, self.t + 1, batch, self.dtype)

    def counts(self, batch: Batch) -> Weights:
        """Return for each table how many examples of the batch read each row."""
        return {
            name: self.xp.bincount(self.xp.asarray(batch.rows(parameter.rows)), minlength=parameter.shape[0])
            for name, parameter in self.parameters.items()
            if parameter.rows is not None
        }

    def measure(self, data: Batch) -> Progress:
        """Return the loss of a table of examples at the present weights, as a solver's progress after one update."""
        assert self.solver is not None
        y = self.predict(data)
        value = self.solver.loss.value_and_slope(y.astype(np.float64), data.target)[0]
        self.t += 1
        return Progress(np.array([float(value.sum())]), data.size)

    # --- what the weights say --------------------------------------------------------------------------------

    def predict(self, batch: Batch, head: str | None = None) -> np.ndarray:
        """Compute the model's outputs for pairs of indices, without dropout, as a host array of the program's dtype."""
        out = np.empty(batch.size, self.dtype)
        for start in range(0, batch.size, 1 << 16):  # bounds the memory
            part = slice(start, start + (1 << 16))
            pairs = Batch(self.xp.asarray(batch.user[part]), self.xp.asarray(batch.item[part]), None, None, batch.bags)
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
            n_r by "user" and "item".
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
                squares *= counts[side] / max(counts[side].sum(), 1)
            total += 0.5 * decay * float(squares.sum())
        return total

    def _host_views(self) -> Weights:
        """Return the weights in host memory, copied or not, to be read at once."""
        return self.weights()

    # --- weights and state -----------------------------------------------------------------------------------

    def weights(self) -> dict[str, np.ndarray]:
        """Return copies of the weights in host memory."""
        return {name: self._host(w, copy=True) for name, w in self.w.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of the solver's arrays in host memory, named ``slot.weight``, and its counter, ``step``."""
        state = {name: self._host(s, copy=True) for name, s in self.slots.items()}
        return {"step": np.array(self.t, np.int64), **state}

    def load(self, weights: Weights, state: Weights) -> None:
        """Take over weights and state as `weights` and `state` gave them."""
        arrays = [(name, w, weights[name]) for name, w in self.w.items()]
        arrays += [(name, s, state[name]) for name, s in self.slots.items()]
        check_shapes(arrays)
        self.t = int(state["step"])
        for _, own, given in arrays:
            own[...] = self.xp.asarray(given, dtype=self.dtype)

    def snapshot(self) -> Any:
        """Return a copy of weights and state for `restore`, kept where the program finds it cheapest."""
        return self.weights(), self.state()

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        self.load(*snapshot)

    def finite(self) -> bool:
        """Return whether every weight is a finite number."""
        return all(bool(self.xp.isfinite(w).all()) for w in self.w.values())

    @staticmethod
    def _host(array: Any, copy: bool = False) -> np.ndarray:
        if ops.namespace(array) is np:
            return array.copy() if copy else array
        return array.get()


def check_shapes(arrays: list[tuple[str, Any, Any]]) -> None:
    """Check the shapes of (name, own, given) before any is assigned: an assignment would broadcast a wrong one."""
    for name, own, given in arrays:
        if own.shape != np.shape(given):
            raise ValueError(f"{name!r} has shape {np.shape(given)}; it must be {own.shape}")


def _nothing_fused(model: Model, solver: Solver | None, dtype: np.dtype) -> None:
    return None


class Backend(NamedTuple):
    """A place to run: how programs are made there, and what else it does in its own way."""

    name: str
    unavailable: Callable[[], str | None] = lambda: None
    """Why it cannot run here; None if it can."""
    fused: Callable[[Model, Solver | None, np.dtype], type[Program] | None] = _nothing_fused
    """The program of compiled kernels for a model and a solver of exactly these types; None if there is none."""
    composed: type[Program] = Program
    """The program that composes the reference's operations, for everything else."""
    uniform: Callable[..., np.ndarray] = rng.uniform
    """Draws initial weights: the numbers of `rng.uniform`."""
    select: Callable[..., None] = scoring.select
    """Chooses the best items, as `scoring.select`."""
    module: Callable[[], Any] = lambda: np
    """The array module that computes scores: NumPy, or CuPy."""
    scores_bytes: int = scoring.BLOCK_BYTES
    """Of scores that are held at once when lists are made."""

    def compile(
        self,
        model: Model,
        solver: Solver | Optimizer | None,
        weights: Weights,
        seed: int = 0,
        dtype: Any = "float32",
        n_threads: int | None = None,
    ) -> Program:
        """Make a program, of compiled kernels where there are such; else composed, which the log says once.

        An optimizer stands for ``Gradient(optimizer)``.
        """
        if isinstance(solver, Optimizer):
            solver = Gradient(solver)
        kind = self.fused(model, solver, np.dtype(dtype))
        if kind is None:
            kind = self.composed
            key = f"{self.name} {model!r} {solver!r}"
            if self.name != "numpy" and key not in _logged:
                _logged.add(key)
                what = f"{model}" if solver is None else f"{model} with {solver}"
                log.info("%s: no compiled kernel for %s; it runs composed of array operations", self.name, what)
        return kind(model, solver, weights, seed, dtype, n_threads)


BACKEND = Backend("numpy")
"""The reference."""
compile = BACKEND.compile
