"""Find similar items and users: the rows whose factors are nearest, by comparing all or by an index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf.arguments import check_choice
from minicf.data import Bags
from minicf.models import Model
from minicf.recommender.scores import Scores, with_mean_row

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
        self._indexes: dict[tuple[str, str], Any] = {}

    def factors(self, side: str) -> np.ndarray:
        """Return the factors of a side (rows, K); refuse a model that has none by that name."""
        if f"{side}_factors" not in self._weights:
            raise ValueError(f"model is {self._model}, which has no {side}_factors to compare rows by")
        return self._weights[f"{side}_factors"]

    def of_rows(
        self, scores: Scores, side: str, rows: np.ndarray, n: int, metric: str, index: str | None
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

        Returns
        -------
        found : array of int, shape (n_lists, n or fewer)
            Nearest first; -1 where a list is shorter.
        score : array of float32, the same shape
        """
        vectors = self._all(side, metric)
        others = vectors[:-1]
        own = np.where(rows < 0, len(others), rows)
        if index is not None:
            return self._from_index(index, side, metric, vectors[own], rows, n)
        present = np.flatnonzero(rows >= 0)
        return scores.nearest(vectors, others, own, n, Bags.of(present, rows[present], len(rows)))

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
        self, index: str, side: str, metric: str, vectors: np.ndarray, rows: np.ndarray, n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if index not in ("sklearn", "pynndescent") or metric != "cosine":
            raise ValueError(
                f"index is {index!r} and metric {metric!r}; index must be None, or 'sklearn' or 'pynndescent' with "
                "metric 'cosine'"
            )
        others = self._all(side, metric)[:-1]
        n = min(n, len(others) - 1)
        if n < 1 or not len(rows):
            return np.full((len(rows), 0), -1), np.zeros((len(rows), 0), np.float32)
        key = index, side
        if key not in self._indexes:
            self._indexes[key] = _tree(others) if index == "sklearn" else _graph(others)
        if index == "sklearn":
            found = self._indexes[key].kneighbors(vectors, n + 1, return_distance=False)
        else:
            found = self._indexes[key].query(vectors, n + 1)[0]
        score = np.einsum("rk,rnk->rn", vectors, others[found])
        score[found == rows[:, None]] = -np.inf  # itself
        order = np.lexsort((found, -score))[:, :n]  # equal scores by row
        return np.take_along_axis(found, order, 1), np.take_along_axis(score, order, 1)


def _tree(rows: np.ndarray) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(algorithm="ball_tree").fit(rows)


def _graph(rows: np.ndarray) -> Any:
    try:
        from pynndescent import NNDescent
    except ImportError:
        raise ImportError("index='pynndescent' needs the package pynndescent: pip install pynndescent") from None
    return NNDescent(rows, metric="cosine", random_state=0)


def _normalized(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1; a row of zeros stays as it is."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1)).astype(np.float32)
