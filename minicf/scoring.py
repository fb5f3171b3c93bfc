"""The best items for many users: exact, in blocks, without ever holding users x items.

A block of users is scored against all items, what must not come back is struck out, and the best of each row are
kept. The order is by score, equal scores by index, so that the answer is one whatever the blocks and the threads.
`select` is the reference; `backends/numba/top.py` has the compiled one, `backends/cupy_gpu.py` that of a GPU, where
the scores are computed too: `xp` is CuPy then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from minicf import ops
from minicf.blas import one_blas_thread
from minicf.models import Dot, Hybrid, Model, Net, Weights

BLOCK_BYTES = 8 << 20
"""Scores that a worker holds at once, or `MIN_ROWS` rows of them if these are more."""

MIN_ROWS = 8

_HIDDEN = 1 << 26
"""Hidden units, of all pairs of some users with all items, that a GPU computes at once: 256 MB."""

Score = Callable[[Any, Any], None]
"""Takes user rows (B,) and writes the scores of all items to a float32 array (B, I); both NumPy's, or CuPy's."""


class Skip(NamedTuple):
    """Items that must not come back, row by row: row r has ``items[start[r]:start[r + 1]]``."""

    start: np.ndarray
    """(rows + 1,) int64"""
    items: np.ndarray
    """int32"""

    def take(self, rows: np.ndarray) -> Skip:
        """Those of some rows; row -1 has none."""
        padded = np.append(self.start, self.start[-1])
        first, sizes = self.start[rows], padded[np.asarray(rows) + 1] - self.start[rows]
        sizes = np.where(np.asarray(rows) < 0, 0, sizes)
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        at = np.arange(start[-1]) + np.repeat(first - start[:-1], sizes)
        return Skip(start, self.items[at])

    @classmethod
    def of(cls, row: np.ndarray, item: np.ndarray, n_rows: int) -> Skip:
        """From pairs in any order; repeated pairs count once."""
        pairs = row.astype(np.int64) << 32 | item
        pairs.sort()  # numpy.unique hashes, ten times slower for ten million pairs
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
        start = np.concatenate([[0], np.cumsum(np.bincount(pairs >> 32, minlength=n_rows))]).astype(np.int64)
        return cls(start, (pairs & 0xFFFFFFFF).astype(np.int32))

    @classmethod
    def none(cls, n_rows: int) -> Skip:
        return cls(np.zeros(n_rows + 1, np.int64), np.zeros(0, np.int32))


def head_of(model: Model, weights: Weights) -> tuple[Dot | Net, Weights]:
    """The head whose prediction is the model's, with its own weights."""
    if isinstance(model, Hybrid):
        head = model.members[model.output][0]
        weights = model._weights_of(model.output, weights)
    else:
        head = model
    assert isinstance(head, Dot | Net)
    return head, weights


def vectors(model: Dot, w: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Rows [p, b_u, 1] and [q, 1, c_i], whose dot product is the score (F2, F3) but for the mean, which orders nothing.

    Returns
    -------
    users (U, K + 2), items (I, K + 2) : arrays of float32; K wide without biases
    """
    if not model.biases:
        return w["user_factors"].astype(np.float32, copy=False), w["item_factors"].astype(np.float32, copy=False)
    sides = []
    for side, bias in (("user", 0), ("item", 1)):
        factors = w[f"{side}_factors"]
        rows = np.ones((len(factors), factors.shape[1] + 2), np.float32)
        rows[:, :-2] = factors
        rows[:, bias - 2] = w[f"{side}_bias"]
        sides.append(rows)
    return sides[0], sides[1]


def scorer(model: Model, weights: Weights, xp: Any = np) -> Score:
    """A function that scores users against all items by the model's order: before the rating range, which keeps it.

    `xp`, NumPy or CuPy, says where it computes.
    """
    head, w = head_of(model, weights)
    if isinstance(head, Dot):
        users, items = vectors(head, w)
        return dot_scorer(users, items, xp)
    w = {name: xp.asarray(value) for name, value in w.items()}
    # The first layer sees [p, q]: its halves are computed once a user and once an item, not once a pair.
    layers = [name for name, _, _ in head.layers()]
    k = head.n_factors
    first = w[f"{layers[0]}.weight"]
    of_user = ops.dense(w["user_factors"], first[:k], w[f"{layers[0]}.bias"])
    of_item = w["item_factors"] @ first[k:]
    n_items, widest = len(of_item), max([1, *head.hidden])
    together = 1 if xp is np else max(1, _HIDDEN // max(1, n_items * widest))  # one is what a CPU's cache holds

    def score(rows: Any, out: Any) -> None:
        for lo in range(0, len(rows), together):
            a = of_user[rows[lo : lo + together]][:, None] + of_item[None]
            a = a.reshape(-1, a.shape[2])
            for name in layers[1:]:
                a = ops.dense(ops.relu(a), w[f"{name}.weight"], w[f"{name}.bias"])
            out[lo : lo + together] = a.reshape(-1, n_items)

    return score


def dot_scorer(users: np.ndarray, items: np.ndarray, xp: Any = np) -> Score:
    """Scores by dot product of rows (U, D) and (I, D), computed by `xp`."""
    left = xp.asarray(users)
    columns = xp.asarray(np.ascontiguousarray(items.T))  # BLAS goes through it faster than through the transpose

    def score(rows: Any, out: Any) -> None:
        xp.matmul(left[rows], columns, out=out)

    return score


def select(scores: np.ndarray, skip: Skip, n: int, index: np.ndarray, best: np.ndarray) -> None:
    """The n best of each row, best first, equal scores by index; -inf is nobody's.

    Parameters
    ----------
    scores : array of float32, shape (B, I)
        What `skip` names is set to -inf.
    skip : Skip
        Of these B rows.
    index : array of int32, shape (B, n)
        Written; -1 where a row has fewer.
    best : array of float32, shape (B, n)
        Written; the scores, -inf where a row has fewer.
    """
    index[...], best[...] = -1, -np.inf
    for row, values in enumerate(scores):
        values[skip.items[skip.start[row] : skip.start[row + 1]]] = -np.inf
        limit = np.partition(values, -n)[-n]
        chosen = np.flatnonzero(values > limit)
        equal = np.flatnonzero((values == limit) & (values > -np.inf))
        chosen = np.concatenate([chosen, equal[: n - len(chosen)]])
        chosen = chosen[np.lexsort((chosen, -values[chosen]))]
        index[row, : len(chosen)] = chosen
        best[row, : len(chosen)] = values[chosen]


def top_n(
    score: Score,
    rows: np.ndarray,
    n_items: int,
    n: int,
    skip: Skip | None = None,
    n_threads: int | None = None,
    compiled: bool = True,
    xp: Any = np,
) -> tuple[np.ndarray, np.ndarray]:
    """The n best items of each row.

    Parameters
    ----------
    score : Score
    rows : array of int
        Users, in the numbering of `score`.
    n_items : int
    n : int
        At most `n_items` are looked for.
    skip : Skip, optional
        Of these rows, in their order.
    n_threads : int, optional
        Workers; by default as many as `threads` says.
    compiled : bool
        Whether Numba selects, or NumPy.
    xp : module
        NumPy, or CuPy: what `score` was made for. The scores of a block then stay on the GPU, which selects.

    Returns
    -------
    index : array of int32, shape (rows, min(n, n_items))
        -1 where a row has no more.
    best : array of float32, the same shape
        The scores; -inf there.

    Notes
    -----
    Beyond the result, each worker holds `BLOCK_BYTES` of scores, or `MIN_ROWS` rows of them if these are more; a GPU
    holds `cupy_gpu.SCORES_BYTES`, or what it has room for.
    """
    choose: Any = select
    held = BLOCK_BYTES
    if xp is not np:
        from minicf.backends import cupy_gpu

        choose, held = cupy_gpu.select, cupy_gpu.SCORES_BYTES
    elif compiled:
        from minicf.backends.numba.top import select as choose
    n = min(n, n_items)
    index, best = np.empty((len(rows), n), np.int32), np.empty((len(rows), n), np.float32)
    if len(rows) == 0 or n == 0:
        return index, best
    skip = Skip.none(len(rows)) if skip is None else skip
    size = min(len(rows), max(MIN_ROWS, held // (4 * n_items)))
    if xp is not np:
        size = _room(xp, size, n_items)
    starts = range(0, len(rows), size)
    workers = min(threads(n_threads), len(starts)) if xp is np else 1

    def work(worker: int) -> None:
        block = xp.empty((size, n_items), np.float32)
        for lo in starts[worker::workers]:
            hi = min(lo + size, len(rows))
            scores = block[: hi - lo]
            score(xp.asarray(rows[lo:hi]), scores)
            choose(scores, Skip(skip.start[lo : hi + 1], skip.items), n, index[lo:hi], best[lo:hi])

    with one_blas_thread():
        if workers == 1:
            work(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(work, range(workers)))
    return index, best


def _room(xp: Any, size: int, n_items: int) -> int:
    """How many rows of scores a GPU has room for, at most `size`."""
    while True:
        try:
            xp.empty((size, n_items), np.float32)
        except MemoryError as error:
            if size == 1:
                raise MemoryError(f"the GPU has no room for the scores of one user with {n_items:,} items") from error
            size //= 2
        else:
            return size


def threads(asked: int | None = None) -> int:
    """How many workers: what was asked, else NUMBA_NUM_THREADS or OMP_NUM_THREADS, else the cores this process has."""
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int | np.integer) or asked < 1:
            raise ValueError(f"n_threads is {asked!r}; it must be a whole number of at least 1, or None")
        return int(asked)
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        if (value := os.environ.get(name, "")).isdecimal() and int(value) > 0:
            return int(value)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
