"""Score users and items by row on a backend; an unknown id is the mean row of its side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicf import scoring
from minicf.backends import get_backend
from minicf.data import Bags, Batch
from minicf.models import Model, Score
from minicf.models.scorers import by_products


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
        self._all_items: Score | None = None

    def pairs(self, user: np.ndarray, item: np.ndarray) -> NDArray[np.float32]:
        """Score pairs of rows.

        Parameters
        ----------
        user, item : array of int, shape (n,)
            Rows; -1 for the mean row.

        Returns
        -------
        array of float32, shape (n,)
            Scores in stars, not cut to the range of the ratings.
        """
        if self._program is None:
            tables = set(self._model.tables("user") + self._model.tables("item"))
            weights = {name: with_mean_row(w) if name in tables else w for name, w in self._weights.items()}
            self._program = self._backend.compile(self._model, None, weights)
        user, item = (
            np.where(rows < 0, size, rows).astype(np.int32)
            for rows, size in ((user, self._n_users), (item, self._n_items))
        )
        return np.asarray(self._program.predict(Batch(user, item)), np.float32)

    def best(
        self, user: np.ndarray, n: int, skip: Bags | None = None, items: np.ndarray | None = None
    ) -> NDArray[np.int_]:
        """Return the rows of the n best items of each user.

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
        array of int, shape (n_lists, n or fewer)
            Best first, equal scores by row; -1 where a list is shorter.
        """
        if items is None:
            self._all_items = score = self._all_items or self._score(None)
        else:
            score = self._score(items)
        n_items = self._n_items if items is None else len(items)
        index = self._top(score, np.where(user < 0, self._n_users, user), n_items, n, skip)[0]
        return index if items is None or not len(items) else np.where(index < 0, -1, items[index])

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
        return self._top(by_products(vectors, others, self._backend.module()), rows, len(others), n, skip)

    def _score(self, items: np.ndarray | None) -> Score:
        """Return the scores of users, the mean row last, for all items or some."""
        weights = dict(self._weights)
        for name in self._model.tables("user"):
            weights[name] = with_mean_row(weights[name])
        for name in self._model.tables("item") if items is not None else ():
            weights[name] = weights[name][items]
        return self._model.scorer(weights, xp=self._backend.module())

    def _top(
        self, score: Score, rows: np.ndarray, n_items: int, n: int, skip: Bags | None
    ) -> tuple[np.ndarray, np.ndarray]:
        here = self._backend
        return scoring.top_n(
            score, rows, n_items, n, skip, self.n_threads, here.select, here.module(), here.scores_bytes
        )


def with_mean_row(table: np.ndarray) -> np.ndarray:
    """Return a table with the mean of its rows, summed in float64, as one more row."""
    return np.concatenate([table, table.mean(axis=0, keepdims=True, dtype=np.float64).astype(table.dtype)])
