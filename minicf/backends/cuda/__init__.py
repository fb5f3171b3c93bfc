"""Train on a GPU through CuPy: kernels that compute what `base.Program` defines.

There are two regimes. The time of small batches is the time of launches: all steps of a call run in one cooperative
kernel, in which each row of the tables is owned by a block, in its shared memory where the tables fit. The time of
large batches is the time of memory accesses: a step is two passes over sorted segments, captured in a graph. Both give
the same bits on every run and for any number of blocks and threads.

Everything stays on the device between calls; each call to `train` synchronizes once, to fetch its loss.

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

import logging
from typing import Any

import numpy as np

from minicf.backends import base
from minicf.backends.cuda import device
from minicf.backends.cuda.composed import Composed
from minicf.backends.cuda.device import unavailable
from minicf.backends.cuda.nets import Nets
from minicf.backends.cuda.per_rating import Half
from minicf.backends.cuda.tables import Tables
from minicf.models import Dot, Model, Weights
from minicf.optim import Optimizer

__all__ = ["NAME", "compile", "unavailable"]

log = logging.getLogger("minicf")

NAME = "cupy"


def compile(
    model: Model,
    optimizer: Optimizer,
    weights: Weights,
    seed: int = 0,
    dtype: Any = "float32",
    n_threads: int | None = None,
) -> base.Program:
    """Make a program on the current CUDA device: ``with cupy.cuda.Device(1): …`` or CUDA_VISIBLE_DEVICES choose it.

    Parameters
    ----------
    model, optimizer, weights, seed
        As for `base.Program`.
    dtype : "float32", "float64" or "float16"
        "float16" stores rows in half precision and computes in float32: for Dot and DotBias of up to `MAX_FACTORS`.
    n_threads : int, optional
        Has no effect: it is the number of threads on CPUs.

    Raises
    ------
    ValueError
        float16 for another model.
    MemoryError
        The weights and the optimizer's state do not fit on the device.
    """
    kind: type[base.Program] = Composed
    if np.dtype(dtype) == np.float16:
        if not isinstance(model, Dot) or model.n_factors > device.MAX_FACTORS:
            raise ValueError(
                f"dtype is 'float16'; it must be 'float32' or 'float64' for {model}: rows in float16 are for Dot and "
                f"DotBias of up to {device.MAX_FACTORS} factors"
            )
        kind = Half
    elif model.n_factors <= device.MAX_FACTORS and isinstance(model, Dot):
        kind = Tables
    elif model.n_factors <= device.MAX_FACTORS and Nets.fits(model, np.dtype(dtype)):
        kind = Nets
    else:
        log.info("cupy: no fused kernel for %s; composed from array operations", model)
    try:
        return kind(model, optimizer, weights, seed, dtype)
    except MemoryError as error:
        numbers = sum(int(np.prod(np.shape(w))) for w in weights.values()) * (1 + len(optimizer.slots()))
        raise device.out_of_memory(error, numbers * np.dtype(dtype).itemsize) from error
