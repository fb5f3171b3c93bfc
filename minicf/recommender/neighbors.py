"""Find similar items and users: the rows whose factors are nearest, by comparing all or by an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from minicf.arguments import check_choice
from minicf.data import Bags
from minicf.models import Model
from minicf.recommender.scores import Scores, product_errors, products, with_mean_row
from minicf.scoring import HELD, settled

METRICS = ("cosine", "dot")


class Neighbors:
    """Find the nearest rows of the factors of fixed weights.

    Parameters
    ----------
    model : Model
    weights : dict of float32 arrays
        Not changed, and not to be changed: normalized rows and indexes made of them are kept.
    """

    def __init__(self, model: Model, weights: Mapping[str, np.ndarray]) -> None:
        self._model, self._weights = model, weights
        self._vectors: dict[tuple[str, str], np.ndarray] = {}
        self._queries: dict[tuple[str, str], Callable[[np.ndarray, int], np.ndarray]] = {}

    def factors(self, side: str) -> np.ndarray:
        """Return the factors of a side (rows, K); refuse a model that has none by that name."""
        if f"{side}_factors" not in self._weights:
            raise ValueError(f"model is {self._model}, which has no {side}_factors to compare rows by")
        return self._weights[f"{side}_factors"]

    def of_rows(
        self,
        scores: Scores,
        side: str,
        rows: np.ndarray,
        n: int,
        metric: str,
        index: str | None,
        among: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the n rows nearest to each of some rows, which itself is left out.

        Parameters
        ----------
        scores : Scores
            Where all rows are compared.
        side : "user" or "item"
        rows : array of int, shape (n_lists,)
            -1 for the mean row.
        n : int
        metric, index
            As for `Recommender.similar_items`.
        among : array of int, optional
            Rows to choose among, ascending; by default all.

        Returns
        -------
        found : array of int, shape (n_lists, n or fewer)
            Nearest first; -1 where a list is shorter.
        score : array of float32, the same shape
        """
        vectors = self._all(side, metric)
        own = np.where(rows < 0, len(vectors) - 1, rows)
        others, itself = vectors[:-1], rows
        if among is not None:
            position = np.full(len(vectors), -1)  # of the mean row too
            position[among] = np.arange(len(among))
            others, itself = others[among], position[rows]
        present = np.flatnonzero(itself >= 0)
        skip = Bags.of(present, itself[present], len(rows))
        if index is None:
            found, score = scores.nearest(vectors, others, own, n, skip)
        else:
            found, score = self._from_index(scores, index, side, metric, own, n, others, skip, among)
        return (found if among is None or not len(among) else np.where(found < 0, -1, among[found])), score

    def of_vector(
        self, scores: Scores, side: str, vector: np.ndarray, n: int, metric: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the n rows nearest to a vector of K factors, and their scores, shape (n or fewer,)."""
        others = self._all(side, metric)[:-1]
        if metric == "cosine":
            vector = _normalized(vector[None])[0]
        found, score = scores.nearest(vector[None], others, np.zeros(1, np.int64), n)
        return found[0], score[0]

    def _all(self, side: str, metric: str) -> np.ndarray:
        """Return the rows to compare, the mean row last."""
        check_choice("metric", metric, METRICS)
        key = metric, side
        if key not in self._vectors:
            factors = with_mean_row(self.factors(side))
            self._vectors[key] = _normalized(factors) if metric == "cosine" else factors
        return self._vectors[key]

    def _from_index(
        self,
        scores: Scores,
        index: str,
        side: str,
        metric: str,
        own: np.ndarray,
        n: int,
        others: np.ndarray,
        skip: Bags,
        among: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what `Scores.nearest` returns, found by an index of all rows.

        The index is asked for more and more rows, until enough of them are in `among`; where it would be asked for half
        of all, every row of `among` is compared instead.
        """
        if index not in ("sklearn", "pynndescent") or metric != "cosine":
            raise ValueError(
                f"index is {index!r} and metric {metric!r}; index must be None, or 'sklearn' or 'pynndescent' with "
                "metric 'cosine'"
            )
        vectors = self._all(side, metric)
        n_rows = len(vectors) - 1
        query = self._query(index, side)
        position = np.arange(n_rows + 1)
        position[-1] = -1  # also what an index gives for nothing
        if among is not None:
            position[:-1] = -1
            position[among] = np.arange(len(among))
        itself = position[np.where(own == n_rows, -1, own)]

        def find(lists: np.ndarray, m: int) -> np.ndarray:
            found = np.full((len(lists), m), -1)
            left, k = np.arange(len(lists)), m + 1
            while len(left) and 2 * k < n_rows:
                again = []
                size = max(1, HELD // k)
                for part in (left[lo : lo + size] for lo in range(0, len(left), size)):
                    near = position[query(vectors[own[lists[part]]], k)]
                    kept = (near >= 0) & (near != itself[lists[part], None])
                    enough = kept.sum(axis=1) >= m
                    first = np.argsort(~kept[enough], axis=1, kind="stable")[:, :m]
                    found[part[enough]] = np.take_along_axis(near[enough], first, 1)
                    again.append(part[~enough])
                left, k = np.concatenate(again), 2 * k
            if len(left):
                rest = lists[left]
                found[left] = scores.top(vectors, others, own[rest], m, skip.take(rest))
            return found

        return settled(
            find,
            lambda lists, at: products(vectors, others, own[lists], at),
            product_errors(vectors, others)[own],
            n,
            len(others),
        )

    def _query(self, index: str, side: str) -> Callable[[np.ndarray, int], np.ndarray]:
        """Return the function of (vectors, k) that finds the k nearest rows of each, -1 where a graph has fewer."""
        key = index, side
        if key not in self._queries:
            others = self._all(side, "cosine")[:-1]
            self._queries[key] = _tree(others) if index == "sklearn" else _graph(others)
        return self._queries[key]


def _tree(rows: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    from sklearn.neighbors import NearestNeighbors

    tree = NearestNeighbors(algorithm="ball_tree").fit(rows)
    return lambda vectors, k: tree.kneighbors(vectors, k, return_distance=False)


def _graph(rows: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    try:
        from pynndescent import NNDescent
    except ImportError:
        raise ImportError("index='pynndescent' needs the package pynndescent: pip install pynndescent") from None
    graph = NNDescent(rows, metric="cosine", random_state=0)
    return lambda vectors, k: graph.query(vectors, k)[0].astype(np.int64)


def _normalized(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1; a row of zeros stays as it is."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1)).astype(np.float32)
