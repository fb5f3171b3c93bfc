"""Compiled passes over whole tables before and between epochs, where NumPy would take as long as a small epoch does."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicf import rng
from minicf.backends.numba_cache import kept

_GOLDEN, _MIX1, _MIX2 = (np.uint64(x) for x in (rng.GOLDEN, rng._MIX1, rng._MIX2))


def _jit(function: Any, **options: Any) -> Any:
    return kept(function, nogil=True, error_model="numpy", **options)


@_jit
def _fill(stream_key, low, width, out):
    """As `rng.uniform`. Without fastmath, which would fuse the last two operations and round once, not twice."""
    for j in range(len(out)):
        z = stream_key + np.uint64(j + 1) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
        z = z ^ (z >> np.uint64(31))
        out[j] = np.int64(z >> np.uint64(11)) * 2.0**-53 * width + low


def uniform(stream_key: int, n: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """The numbers of `rng.uniform`, to the last bit."""
    out = np.empty(n)
    _fill(np.uint64(stream_key), float(low), float(high) - float(low), out)
    return out


def _squares(table, n_factors, column, counts, weighted):
    """The sums of squares of the factors and of one other column, in float64; rows counted as often as `counts` says.

    A row is added up in its own precision.
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


squares = _jit(_squares, fastmath={"reassoc", "contract", "nsz"})
