"""Select the best items for many users: exact, in blocks, without ever holding users x items.

A block of users is scored against all items, excluded items are struck out, and the best of each row are kept. The
order is by score, equal scores by index, so that the answer is one whatever the blocks and the threads. `select` is
the reference; backends have their own, and on a GPU the scores are computed there too.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from minicf.data.bags import Bags
from minicf.threads import count_threads, one_blas_thread

BLOCK_BYTES = 8 << 20
"""Scores that a worker holds at once, or `MIN_ROWS` rows of them if these are more."""

MIN_ROWS = 8

SPARE = 8
"""Entries by which a list is selected longer than it is asked for, see `settled`: ties at its end are rare."""

HELD = 1 << 20
"""Entries of lists that `settled` holds at once, or those of one list if these are more."""


def select(scores: np.ndarray, exclude: Bags, n: int, index: np.ndarray, best: np.ndarray) -> None:
    """Select the n best of each row, best first, equal scores by index; -inf is never selected.

    Parameters
    ----------
    scores : array of float32, shape (B, I)
        Scores of excluded items are set to -inf.
    exclude : Bags
        Excluded items of these B rows.
    index : array of int32, shape (B, n)
        Written; -1 where a row has fewer.
    best : array of float32, shape (B, n)
        Written; the scores, -inf where a row has fewer.
    """
    index[...], best[...] = -1, -np.inf
    for row, values in enumerate(scores):
        values[exclude.index[exclude.start[row] : exclude.start[row + 1]]] = -np.inf
        limit = np.partition(values, -n)[-n]
        chosen = np.flatnonzero(values > limit)
        equal = np.flatnonzero((values == limit) & (values > -np.inf))
        chosen = np.concatenate([chosen, equal[: n - len(chosen)]])
        chosen = chosen[np.lexsort((chosen, -values[chosen]))]
        index[row, : len(chosen)] = chosen
        best[row, : len(chosen)] = values[chosen]


def top_n(
    score: Callable[[Any, Any], None],
    rows: np.ndarray,
    n_items: int,
    n: int,
    exclude: Bags | None = None,
    n_threads: int | None = None,
    select: Callable[..., None] = select,
    xp: Any = np,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the n best items of each row.

    Parameters
    ----------
    score : function of (rows, out)
        Writes the scores of all items for some rows, as `Model.scorer` makes it.
    rows : array of int
        Users, in the numbering of `score`.
    n_items : int
    n : int
        The length of the lists; at most `n_items` are found.
    exclude : Bags, optional
        Excluded items of these rows, in their order.
    n_threads : int, optional
        Number of workers; by default as `count_threads` says.
    select : function
        Chooses the best of a block: the reference here, or a backend's.
    xp : module
        NumPy, or CuPy: what `score` was made for. The scores of a block then stay on the GPU, which selects.
    block_bytes : int
        Of scores that a worker holds at once, or `MIN_ROWS` rows of them if these are more; a GPU holds what it has
        room for.

    Returns
    -------
    index : array of int32, shape (rows, min(n, n_items))
        -1 where a row has no more.
    best : array of float32, the same shape
        The scores; -inf there.
    """
    n = min(n, n_items)
    index, best = np.empty((len(rows), n), np.int32), np.empty((len(rows), n), np.float32)
    if len(rows) == 0 or n == 0:
        return index, best
    exclude = Bags.empty(len(rows)) if exclude is None else exclude
    size = min(len(rows), max(MIN_ROWS, block_bytes // (4 * n_items)))
    if xp is not np:
        size = _room(xp, size, n_items)
    starts = range(0, len(rows), size)
    workers = min(count_threads(n_threads), len(starts)) if xp is np else 1

    def work(worker: int) -> None:
        block = xp.empty((size, n_items), np.float32)
        for lo in starts[worker::workers]:
            hi = min(lo + size, len(rows))
            scores = block[: hi - lo]
            score(xp.asarray(rows[lo:hi]), scores)
            select(scores, exclude._replace(start=exclude.start[lo : hi + 1]), n, index[lo:hi], best[lo:hi])

    with one_blas_thread():
        if workers == 1:
            work(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(work, range(workers)))
    return index, best


def settled(
    find: Callable[[np.ndarray, int], np.ndarray],
    rescore: Callable[[np.ndarray, np.ndarray], np.ndarray],
    error: np.ndarray,
    n: int,
    n_items: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Make lists whose order and end depend on scores of one fixed computation, not on those that selected.

    Scores of a matrix product depend on the block by their rounding: equal items would come in another order, and
    other ones, from call to call. So a longer list is selected, computed anew, sorted and cut. It is long enough when
    its n-th score exceeds its lowest by more than both computations can differ: what was not selected is no better than
    any that was, up to that difference. Otherwise it is selected again, twice as long.

    Parameters
    ----------
    find : function of (lists, m)
        Selects the m best of some lists, as numbers from 0: int (lists, m), -1 where a list is shorter.
    rescore : function of (lists, items), both of shape (p,)
        Computes the scores of pairs, float32 (p,): each by itself, whatever the others are.
    error : array, shape (n_lists,)
        The largest difference of two scores of an item, by `rescore` and by what `find` selects by.
    n, n_items : int

    Returns
    -------
    index : array of int64, shape (n_lists, min(n, n_items))
        By score, equal scores by index; -1 where a list is shorter.
    score : array of float32, the same shape
        -inf there.
    """
    n = min(n, n_items)
    index, best = np.full((len(error), n), -1), np.full((len(error), n), -np.inf, np.float32)
    left, m = np.arange(len(error) if n else 0), min(n + SPARE, n_items)
    while len(left):
        again = []
        size = max(1, HELD // m)
        for lists in (left[lo : lo + size] for lo in range(0, len(left), size)):
            found = find(lists, m)
            score = np.full(found.shape, -np.inf, np.float32)
            row, place = np.nonzero(found >= 0)
            score[row, place] = rescore(lists[row], found[row, place])
            order = np.lexsort((found, -score), axis=1)
            found, score = (np.take_along_axis(x, order, 1) for x in (found, score))
            done = (found[:, -1] < 0) | (score[:, n - 1] > score[:, -1] + 2 * error[lists]) | (m == n_items)
            index[lists[done]], best[lists[done]] = found[done, :n], score[done, :n]
            again.append(lists[~done])
        left, m = np.concatenate(again), min(2 * m, n_items)
    return index, best


def _room(xp: Any, size: int, n_items: int) -> int:
    """Return how many rows of scores a GPU has room for, at most `size`."""
    while True:
        try:
            xp.empty((size, n_items), np.float32)
        except MemoryError as error:
            if size == 1:
                raise MemoryError(f"the GPU has no room for the scores of one user with {n_items:,} items") from error
            size //= 2
        else:
            return size
