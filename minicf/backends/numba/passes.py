"""Tables, and random numbers and sums over whole tables, where NumPy would take as long as a small epoch."""

from __future__ import annotations

import numpy as np

from minicf import rng
from minicf.backends.numba.jit import STRICT, cached_njit, inline, strict_kernel

GOLDEN, _MIX1, _MIX2 = (np.uint64(x) for x in (rng.GOLDEN, rng._MIX1, rng._MIX2))


@inline
def mix(z):
    """Mix the bits of a number, as `rng.bits`."""
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


@strict_kernel
def _fill(stream_key, low, width, out):
    """Fill with random numbers. With fast arithmetic the last two operations would be fused and rounded once."""
    for j in range(len(out)):
        z = mix(stream_key + np.uint64(j + 1) * GOLDEN)
        out[j] = np.int64(z >> np.uint64(11)) * 2.0**-53 * width + low


def uniform(stream_key: int, n: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Draw the numbers of `rng.uniform`, to the last bit."""
    out = np.empty(n)
    _fill(np.uint64(stream_key), float(low), float(high) - float(low), out)
    return out


def _squares(table, n_factors, column, counts, weighted):
    """Sum the squares of the factors and of one other column, in float64.

    With `weighted`, each row is counted `counts` times. A row is summed in its own precision.
    """
    zero = table.dtype.type(0)
    factors = other = 0.0
    for r in range(len(table)):
        of_row = zero
        for k in range(n_factors):
            of_row += table[r, k] * table[r, k]
        times = float(counts[r]) if weighted else 1.0
        factors += times * of_row
        other += times * table[r, column] * table[r, column]
    return factors, other


squares = cached_njit(_squares, **STRICT, fastmath={"reassoc", "contract", "nsz"})


def aligned(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Allocate zeros that start at a cache line."""
    size = shape[0] * shape[1] * dtype.itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
