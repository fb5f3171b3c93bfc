"""A backend: how programs are made in one place, and what else is done there in its own way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minicf import rng, scoring
from minicf.backends.base import Program
from minicf.models import Model, Weights
from minicf.optim import Optimizer
from minicf.solvers import Gradient, Solver

log = logging.getLogger("minicf")
_logged: set[str] = set()  # what was said once


def _nothing_fused(model: Model, solver: Solver | None, dtype: np.dtype) -> None:
    return None


def composes(backend: str, what: str) -> None:
    """Log, once, that a program of compiled kernels composes some of its work."""
    if (key := f"{backend} {what}") not in _logged:
        _logged.add(key)
        log.info("%s: no compiled kernel for %s; it runs composed of array operations", backend, what)


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
