"""The compiled selection of the best n of each row; `minicf.scoring` has the reference and the blocks around it.

Nearly every score is worse than the worst of the n best so far. So scores are looked at in chunks, and a chunk is
first asked how many of its scores beat that one: a count of comparisons, which becomes a few wide instructions. Only
a chunk that has some is gone through one by one, into a heap with the worst of the best on top.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_CHUNK = 128

_jit = njit(cache=True, nogil=True, error_model="numpy")


@_jit
def _worse(best, index, a, b):
    """Whether entry a comes after entry b: a lower score, or an equal one of a higher index."""
    return best[a] < best[b] or (best[a] == best[b] and index[a] > index[b])


@_jit
def _sink(best, index, size):
    """Let the top of the heap sink to its place."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _worse(best, index, child + 1, child):
            child += 1
        if not _worse(best, index, child, at):
            return
        best[at], best[child] = best[child], best[at]
        index[at], index[child] = index[child], index[at]
        at = child


@_jit
def _select(scores, start, items, n, index, best):
    minus = np.float32(-np.inf)
    columns = scores.shape[1]
    for row in range(scores.shape[0]):
        values, top, where = scores[row], best[row], index[row]
        for j in range(start[row], start[row + 1]):
            values[items[j]] = minus
        # A heap of n that nobody owns; indices above all others, so that a score of -inf never enters.
        for j in range(n):
            top[j], where[j] = minus, columns
        for lo in range(0, columns, _CHUNK):
            hi = min(lo + _CHUNK, columns)
            limit = top[0]
            above = 0
            for j in range(lo, hi):
                above += values[j] > limit
            if above == 0:
                continue
            for j in range(lo, hi):
                if values[j] > top[0]:  # an equal one comes after: its index is higher
                    top[0], where[0] = values[j], j
                    _sink(top, where, n)
        # The worst goes to the end, again and again.
        for size in range(n - 1, 0, -1):
            top[0], top[size] = top[size], top[0]
            where[0], where[size] = where[size], where[0]
            _sink(top, where, size)
        for j in range(n):
            if where[j] == columns:
                where[j] = -1


def select(scores: np.ndarray, skip: Any, n: int, index: np.ndarray, best: np.ndarray) -> None:
    """As `minicf.scoring.select`."""
    _select(scores, skip.start, skip.items, n, index, best)
