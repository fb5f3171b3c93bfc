"""Select the best n scores of each row, compiled; `minicf.scoring` has the reference and the loop over blocks of rows.

A row is dealt into groups, score j into group j mod `_GROUPS`, and the highest score of each group is found: whole runs
of groups and scores are compared side by side in wide registers. The n-th highest of these is a bound: n scores reach
it, so the n best do. Only the groups that reach it, about n of hundreds, are then searched one score at a time, and a
score that is good enough is inserted among the best so far. Such scores are few: shifting the others costs less than
the mispredicted branches of a heap (half the time, at n = 10).
"""

from __future__ import annotations

import numpy as np

from minicf import scoring
from minicf.backends.numba.jit import strict_kernel
from minicf.data.bags import Bags

_GROUPS = 512
_LONG = 1000
"""Longer lists are left to NumPy's partition: an insertion takes n steps a score."""


@strict_kernel
def _insert(value, at, best, index, n):
    """Insert a score among the n best, higher first, equal ones by index; the last falls off."""
    j = n - 1
    while j > 0 and (best[j - 1] < value or (best[j - 1] == value and index[j - 1] > at)):
        best[j], index[j] = best[j - 1], index[j - 1]
        j -= 1
    best[j], index[j] = value, at


@strict_kernel
def _select(scores, start, items, n, index, best):
    """Write the n best of each row of `scores` into `index` and `best`; seen items are set to -inf."""
    columns = scores.shape[1]
    groups = min(_GROUPS, columns)
    highest = np.empty(groups, np.float32)
    for row in range(scores.shape[0]):
        values, top, where = scores[row], best[row], index[row]
        for j in range(start[row], start[row + 1]):
            values[items[j]] = -np.inf
        highest[:] = values[:groups]
        for lo in range(groups, columns, groups):
            part = values[lo : min(lo + groups, columns)]
            for j in range(len(part)):
                highest[j] = part[j] if part[j] > highest[j] else highest[j]
        top[:], where[:] = -np.inf, -1
        for group in range(groups):
            if highest[group] > top[n - 1]:
                _insert(highest[group], group, top, where, n)
        bound = top[n - 1]
        top[:], where[:] = -np.inf, -1
        for group in range(groups):
            if highest[group] >= bound:
                for j in range(group, columns, groups):
                    worst = top[n - 1]
                    if values[j] > worst or (values[j] == worst and worst > -np.inf and j < where[n - 1]):
                        _insert(values[j], j, top, where, n)


def select(scores: np.ndarray, exclude: Bags, n: int, index: np.ndarray, best: np.ndarray) -> None:
    """Select the best n of each row, as `minicf.scoring.select`."""
    if n > _LONG:
        return scoring.select(scores, exclude, n, index, best)
    _select(scores, exclude.start, exclude.index, n, index, best)
