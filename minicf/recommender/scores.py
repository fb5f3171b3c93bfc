"""Score users and items by row on a backend; an unknown id is the mean row of its side."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicf import ops, scoring
from minicf.backends import get_backend
from minicf.data import Bags, Batch
from minicf.models import Model, Net, Score
from minicf.models.scorers import by_products
from minicf.models.weights import ONES
from minicf.threads import one_blas_thread

BLOCK = 1 << 14
"""Pairs that a net predicts at once: bounds the memory."""

ROUNDING = 2.0**-24
"""The largest relative error of one float32 operation."""


class Scores:
    """Score users and items of fixed weights.

    Parameters
    ----------
    model : Model
    weights : dict of float32 arrays
        Not changed, and not to be changed: programs and tables made of them are kept.
    backend : str
    n_threads : int, optional
        The largest number of threads.
    """

    def __init__(
        self, model: Model, weights: Mapping[str, np.ndarray], backend: str, n_threads: int | None = None
    ) -> None:
        self.backend, self.n_threads = backend, n_threads
        self._model, self._weights = model, weights
        self._backend = get_backend(backend)
        sizes = model.sizes_of(weights)
        self._n_users, self._n_items = sizes["user"], sizes["item"]
        self._program: Any = None
        self._program_weights: Mapping[str, np.ndarray] = {}
        self._all_items: Score | None = None
        self._user_errors: NDArray[np.float64] | None = None

    def pairs(self, user: np.ndarray, item: np.ndarray) -> NDArray[np.float32]:
        """Score pairs of rows.

        Parameters
        ----------
        user, item : array of int, shape (n,)
            Rows; -1 for the mean row.

        Returns
        -------
        array of float32, shape (n,)
            Scores in stars, not cut to the range of the ratings; that of a pair does not depend on the others,
            unless it is a net's on a GPU or that of a model of one's own: theirs may by the rounding of a product.

        Raises
        ------
        IndexError
            A row that is not there: compiled code would read beyond the table.
        """
        if self._program is None:
            tables = set(self._model.tables("user") + self._model.tables("item"))
            weights = {name: with_mean_row(w) if name in tables else w for name, w in self._weights.items()}
            self._program_weights = weights
            self._program = self._backend.compile(self._model, None, weights)
        user, item = (
            _checked(side, rows, size)
            for side, rows, size in (("user", user, self._n_users), ("item", item, self._n_items))
        )
        head, weights = self._model.output_head(self._program_weights)
        if type(head) is Net and self._backend.module() is np:
            return _net_pairs(head, weights, user, item)
        return np.asarray(self._program.predict(Batch(user, item)), np.float32)

    def best(
        self, user: np.ndarray, n: int, skip: Bags | None = None, items: np.ndarray | None = None
    ) -> tuple[NDArray[np.int_], NDArray[np.float32]]:
        """Return the rows of the n best items of each user, and their scores, those of `pairs`.

        Parameters
        ----------
        user : array of int, shape (n_lists,)
            Rows; -1 for the mean row.
        n : int
        skip : Bags, optional
            For each list, positions in `items` to leave out.
        items : array of int, optional
            Rows of the items to choose among, ascending; by default all.

        Returns
        -------
        item, score : arrays of int and float32, shape (n_lists, n or fewer)
            Best first, equal scores by row; -1 and -inf where a list is shorter.
        """
        if items is None:
            self._all_items = score = self._all_items or self._score(None)
        else:
            score = self._score(items)
        n_items = self._n_items if items is None else len(items)
        rows = _checked("user", user, self._n_users)
        places, best = scoring.settled(
            lambda lists, m: self._top(score, rows[lists], n_items, m, None if skip is None else skip.take(lists)),
            lambda lists, at: self.pairs(user[lists], at if items is None else items[at]),
            self._errors(user),
            n,
            n_items,
        )
        return (places if items is None or not len(items) else np.where(places < 0, -1, items[places])), best

    def best_of(self, user: np.ndarray, n: int, own: Bags) -> tuple[NDArray[np.int_], NDArray[np.float32]]:
        """Return the rows of the n best of each user's own items, and their scores, as `best` does.

        Parameters
        ----------
        user : array of int, shape (n_lists,)
            Rows; -1 for the mean row.
        n : int
        own : Bags
            For each list, rows of the items to choose among, ascending, each once.
        """
        sizes = np.diff(own.start)
        owner = np.repeat(np.arange(len(user)), sizes)
        score = self.pairs(user[owner], own.index)
        order = np.lexsort((-score, owner))  # stable: equal scores stay by row
        place = np.arange(len(order)) - own.start[owner]
        kept = place < n
        shape = len(user), min(n, int(sizes.max(initial=0)))
        item, best = np.full(shape, -1), np.full(shape, -np.inf, np.float32)
        item[owner[kept], place[kept]] = own.index[order[kept]]
        best[owner[kept], place[kept]] = score[order[kept]]
        return item, best

    def nearest(
        self, vectors: np.ndarray, others: np.ndarray, rows: np.ndarray, n: int, skip: Bags | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the n rows of `others` with the largest dot product with ``vectors[rows]``, and the products.

        Parameters
        ----------
        vectors, others : arrays of float32, shapes (m, K) and (n_others, K)
        rows : array of int, shape (n_lists,)
        n : int
        skip : Bags, optional
            For each list, rows of `others` to leave out.

        Returns
        -------
        index, product : arrays of int and float32, shape (n_lists, n or fewer)
            -1 and -inf where a list is shorter.
        """
        score = by_products(vectors, others, self._backend.module())
        return scoring.settled(
            lambda lists, m: self._top(score, rows[lists], len(others), m, None if skip is None else skip.take(lists)),
            lambda lists, at: products(vectors, others, rows[lists], at),
            product_errors(vectors, others)[rows],
            n,
            len(others),
        )

    def top(
        self, vectors: np.ndarray, others: np.ndarray, rows: np.ndarray, n: int, skip: Bags | None = None
    ) -> np.ndarray:
        """Return what `nearest` returns, in the order of float32 products, which the block rounds."""
        return self._top(by_products(vectors, others, self._backend.module()), rows, len(others), n, skip)

    def _errors(self, user: np.ndarray) -> NDArray[np.float64]:
        """Return for each user how far two computations of a score, in any order of summing, can be apart.

        A float32 sum of products is off by at most its number of terms times `ROUNDING` times the same sum of absolute
        values; so is what layers with relu make of it. An item of the largest absolute values stands for all.
        """
        if self._user_errors is None:
            head, weights = self._model.output_head(self._weights)
            magnitude = {name: np.abs(w) for name, w in weights.items()}
            magnitude |= {name: with_mean_row(magnitude[name]) for name in head.tables("user")}
            magnitude |= {name: magnitude[name].max(axis=0, keepdims=True) for name in head.tables("item")}
            plain = copy.copy(head)  # of any class; its fields may be frozen
            object.__setattr__(plain, "rating_range", None)
            object.__setattr__(plain, "global_mean", abs(head.global_mean))
            terms = sum(
                math.prod(parameter.shape[1:]) if parameter.rows else parameter.shape[0]
                for parameter in head.parameters(self._model.sizes_of(weights, ONES)).values()
            )
            error = np.empty(self._n_users + 1)
            for lo in range(0, len(error), 1 << 16):  # bounds the memory
                rows = np.arange(lo, min(lo + (1 << 16), len(error)), dtype=np.int32)
                error[rows] = plain.predict(magnitude, Batch(rows, np.zeros_like(rows)))
            error *= (terms + 8) * ROUNDING
            if head.rating_range is not None:  # the slope of the sigmoid is at most 1/4; then it is rounded itself
                low, high = head.rating_range
                error = error * (high - low) / 4 + 4 * ROUNDING * max(abs(low), abs(high))
            self._user_errors = error
        return self._user_errors[user]  # of -1, the mean row's

    def _score(self, items: np.ndarray | None) -> Score:
        """Return the scores of users, the mean row last, for all items or some."""
        weights = dict(self._weights)
        for name in self._model.tables("user"):
            weights[name] = with_mean_row(weights[name])
        for name in self._model.tables("item") if items is not None else ():
            weights[name] = weights[name][items]
        return self._model.scorer(weights, xp=self._backend.module())

    def _top(self, score: Score, rows: np.ndarray, n_items: int, n: int, skip: Bags | None) -> np.ndarray:
        here = self._backend
        return scoring.top_n(
            score, rows, n_items, n, skip, self.n_threads, here.select, here.module(), here.scores_bytes
        )[0]


def with_mean_row(table: np.ndarray) -> np.ndarray:
    """Return a table with the mean of its rows, summed in float64, as one more row."""
    return np.concatenate([table, table.mean(axis=0, keepdims=True, dtype=np.float64).astype(table.dtype)])


def _net_pairs(net: Net, w: Mapping[str, np.ndarray], user: np.ndarray, item: np.ndarray) -> NDArray[np.float32]:
    """Predict pairs with a net, each by products of its own: one product of all rounds a row by its place."""
    out = np.empty(len(user), np.float32)
    with one_blas_thread():
        for part in (slice(lo, lo + BLOCK) for lo in range(0, len(user), BLOCK)):
            x = ops.concat(w["user_factors"][user[part]], w["item_factors"][item[part]])[:, None]
            *hidden, last = (name for name, _, _ in net.layers())
            for name in hidden:
                x = ops.relu(ops.dense(x, w[f"{name}.weight"], w[f"{name}.bias"]))
            s = ops.dense(x, w[f"{last}.weight"], w[f"{last}.bias"])[:, 0, 0] + net.global_mean
            out[part] = net._finish(s)
    return out


def products(vectors: np.ndarray, others: np.ndarray, row: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the products ``vectors[row] . others[at]``, each summed in float64, as float32 of shape (p,)."""
    out = np.empty(len(row), np.float32)
    for part in (slice(lo, lo + (1 << 14)) for lo in range(0, len(row), 1 << 14)):  # bounds the memory
        out[part] = (vectors[row[part]].astype(np.float64) * others[at[part]]).sum(axis=1)
    return out


def product_errors(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each vector how far its products, in float32 and by `products`, can be apart."""
    length, longest = np.linalg.norm(vectors, axis=1), np.linalg.norm(others, axis=1).max(initial=0.0)
    return (vectors.shape[1] + 2) * 2 * ROUNDING * length.astype(np.float64) * longest


def _checked(side: str, rows: np.ndarray, size: int) -> np.ndarray:
    """Return rows as int32, the mean row's number for -1."""
    rows = np.asarray(rows)
    if rows.size and not (-1 <= rows.min() and rows.max() < size):
        raise IndexError(f"{side} rows are {rows.min()} … {rows.max()}; they must be from -1 to {size - 1}")
    return np.where(rows < 0, size, rows).astype(np.int32)
