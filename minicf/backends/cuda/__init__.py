"""Train on a GPU through CuPy: kernels that compute what the reference defines.

There are two regimes. The time of small batches is the time of launches: all steps of a call run in one cooperative
kernel, in which each row of the tables is owned by a block, in its shared memory where the tables fit. The time of
large batches is the time of memory accesses: a step is two passes over sorted segments, captured in a graph. Both give
the same bits on every run and for any number of blocks and threads.

Everything stays on the device between calls; each call of `run` synchronizes once, to fetch its loss.

======================  =============================================================================================
device                  the device, its constants, compilation and launches of kernels
tables, nets            programs for Dot and DotBias; for Net and Hybrid
per_rating              SGD with a step per rating, in tiles, also with rows in float16
composed                the program without fused kernels
top                     the best items of each user
``*.cuh``               the kernels, in the order of `device.FILES`
======================  =============================================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicf.backends.backend import Backend
from minicf.backends.base import Program
from minicf.backends.cuda import device, top
from minicf.backends.cuda.composed import Composed
from minicf.backends.cuda.device import unavailable
from minicf.backends.cuda.gibbs import Chains
from minicf.backends.cuda.nets import Nets
from minicf.backends.cuda.per_rating import Half
from minicf.backends.cuda.tables import Tables
from minicf.models import Dot, DotBias, Hybrid, Model, Net, Weights
from minicf.optim import SGD, Adam, Optimizer
from minicf.solvers import Gibbs, Gradient, Solver

__all__ = ["BACKEND", "compile", "unavailable"]


def fused(model: Model, solver: Solver | None, dtype: np.dtype) -> type[Program] | None:
    """Choose the program of fused kernels, for exactly the types that they know; None if there is none.

    Raises
    ------
    ValueError
        float16 for another model.
    """
    known = solver is None or (
        type(solver) is Gradient
        and solver.plain
        and type(solver.optimizer) in (SGD, Adam)
        and type(solver.loss) in device.LOSSES
        and not solver.loss.negatives
    )
    dot = type(model) in (Dot, DotBias) and model.n_factors <= device.MAX_FACTORS  # type: ignore[attr-defined]
    if dtype == np.float16:
        if not (dot and known):
            raise ValueError(
                f"dtype is 'float16'; it must be 'float32' or 'float64' for {model}: rows in float16 are for Dot and "
                f"DotBias of up to {device.MAX_FACTORS} factors"
            )
        return Half
    if type(solver) is Gibbs and type(model) in (Dot, DotBias) and solver.time is None:
        return Chains
    if not known:
        return None
    if dot:
        return Tables
    heads = [head for head, _ in model.members.values()] if type(model) is Hybrid else [model]
    if all(type(head) in (Dot, DotBias, Net) for head in heads) and Nets.fits(model, dtype):
        return Nets
    return None


class CudaBackend(Backend):
    """The backend of the CUDA device that is current when a program is made.

    ``with cupy.cuda.Device(1): …`` or CUDA_VISIBLE_DEVICES choose the device. ``dtype="float16"`` stores rows in half
    precision and computes in float32.
    """

    __slots__ = ()

    def compile(
        self,
        model: Model,
        solver: Solver | Optimizer | None,
        weights: Weights,
        seed: int = 0,
        dtype: Any = "float32",
        n_threads: int | None = None,
    ) -> Program:
        """Make a program, as `Backend.compile`; a MemoryError says what would fit."""
        try:
            return super().compile(model, solver, weights, seed, dtype, n_threads)
        except MemoryError as error:
            optimizer = solver if isinstance(solver, Optimizer) else getattr(solver, "optimizer", None)
            arrays = 1 + (0 if optimizer is None else len(optimizer.slots()))
            numbers = sum(int(np.prod(np.shape(w))) for w in weights.values()) * arrays
            raise device.out_of_memory(error, numbers * np.dtype(dtype).itemsize) from error


def _cupy() -> Any:
    import cupy

    return cupy


BACKEND = CudaBackend(
    "cupy", unavailable, fused, Composed, select=top.select, module=_cupy, scores_bytes=top.SCORES_BYTES
)
compile = BACKEND.compile
