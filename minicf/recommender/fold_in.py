"""Solve the row of a new user or item from a few ratings, with all other weights fixed.

With the table of the other side fixed, each row x (factors and bias) is a small problem of its own. With predictions
y_j(x) of its n ratings r_j,

    (G1)  minimize  sum_j (y_j(x) - r_j)^2 + (x - x0)^T A (x - x0)

where x0 and A are the prior of a row, from before its ratings. For `Dot` and `DotBias` y is linear in x, and one step
of

    (G2)  (J^T J + A) d = J^T (r - y) - A (x - x0),  x <- x + d,  J_jk = dy_j / dx_k

is the exact minimum, ridge regression. With a rating range, or a net, y is not linear, and a few such steps
(Gauss-Newton) come close, each damped until it descends (Levenberg-Marquardt). J is the model's `backward`.

The prior has two parts,

    (G3)  A = s(n) U + n D,  A x0 = s(n) U m,  s(n) = k / (k + n),  k = `PRIOR_STRENGTH`

D is the weight decay of training for each rating (``decay="per_rating"``), a diagonal matrix: with many ratings the row
becomes the one that training would have found. Alone it would follow a few ratings too far. U is the variance of the
ratings times the inverse covariance of the rows of this side, m the mean of these rows: how rows of this side are
distributed. Without D, s is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minicf.data import Batch, Ratings
from minicf.data.checks import shown
from minicf.models import Model, Weights
from minicf.optim import Optimizer
from minicf.recommender.inputs import Inputs, of_side, opposite
from minicf.threads import one_blas_thread

STEPS = 20

PRIOR_STRENGTH = 5.0
"""The number of ratings that weigh as much as the prior, see (G3)."""


class Rows(NamedTuple):
    """Hold solved rows of new ids."""

    ids: np.ndarray
    """(m,), unique, ascending."""
    rows: np.ndarray
    """(m, D) float64, factors, and the bias where the model has one."""
    draws: np.ndarray | None = None
    """(S, m, D) float16, their samples, of `minicf.recommender.conditioning`."""


@dataclass(frozen=True, eq=False)
class FoldIn:
    """Solve rows of new ids from their ratings.

    Parameters
    ----------
    model : Model
    weights : dict of arrays
        In stars; not changed.
    std : float
        Standard deviation of the ratings, or, better, of their noise.
    unit : float
        Of training, see `Units`.
    optimizer : Optimizer, optional
        Of training; its decay is part of the prior. None: the prior is the distribution of the rows alone.
    """

    model: Model
    weights: Weights
    std: float
    unit: float
    optimizer: Optimizer | None

    def rows(self, side: str, ids: np.ndarray, other: np.ndarray, rating: np.ndarray) -> Rows:
        """Solve the row of each new id from its own ratings.

        Parameters
        ----------
        side : "user" or "item"
            Of the new ids.
        ids : array, shape (n,)
            The new id of each rating.
        other : array of int, shape (n,)
            The row on the other side.
        rating : array of float, shape (n,)

        Returns
        -------
        Rows
        """
        unique, group = np.unique(ids, return_inverse=True)
        x = np.zeros((len(unique), table(self.model, side, self.weights).shape[1]))
        if len(unique):
            prior = self.prior(side)
            order = np.argsort(group, kind="stable")
            bounds = np.concatenate([[0], np.cumsum(np.bincount(group))])
            with one_blas_thread():  # the systems are small
                for i in range(len(unique)):
                    own = order[bounds[i] : bounds[i + 1]]
                    x[i] = solve(self.model, self.weights, side, other[own], rating[own], *prior(len(own)))
        return Rows(unique, x)

    def prior(self, side: str) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        """Return the function of n that gives x0 and A of (G3) for a row with n ratings."""
        rows = table(self.model, side, self.weights)
        mean = rows.mean(axis=0)
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
        # A direction in which no row differs must neither be forbidden altogether nor be without any bound.
        covariance += np.eye(len(mean)) * max(1e-3 * np.trace(covariance) / len(mean), 1e-12)
        usual = self.std**2 * np.linalg.inv(covariance)
        decay = self.decay(side)

        def prior(n: int) -> tuple[np.ndarray, np.ndarray]:
            share = PRIOR_STRENGTH / (PRIOR_STRENGTH + n) if decay.any() else 1.0
            a = share * usual + np.diag(n * decay)
            return np.linalg.solve(a, share * usual @ mean), a  # (G3)

        return prior

    def decay(self, side: str) -> np.ndarray:
        """Return the diagonal of D in (G3), shape (D,): the penalty of training for each rating, in squared stars."""
        values, unit = [], self.unit
        ranged = self.model.output_head(self.weights)[0].rating_range is not None
        for name in self.model.tables(side):
            # In training units the error is 1 / unit of that in stars, its square 1 / unit^2; weights as in `Units`.
            power = unit**2 if ranged else unit if self.weights[name].ndim == 2 else 1.0
            per_rating = self.optimizer is not None and self.optimizer.decay == "per_rating"
            decay = self.optimizer.decay_of(name) if self.optimizer is not None and per_rating else 0.0
            values.append(np.full(width(self.weights[name]), 0.5 * decay * power))
        return np.concatenate(values)


class Usable(NamedTuple):
    """Hold ratings of some ids of a side, of which the other side's are known."""

    ids: np.ndarray
    """(n,) the id of each rating."""
    other: np.ndarray
    """(n,) int, the row on the other side."""
    rating: np.ndarray
    """(n,) float32"""
    weight: np.ndarray | None
    """(n,) float32; None for 1 each."""


def usable_ratings(inputs: Inputs, ratings: Ratings, side: str, known: bool) -> Usable:
    """Return the ratings of new ids, or of `known` ones, that are with known ids of the other side.

    Raises
    ------
    ValueError
        An id is not new, or not known, is of another type than the known ids, or has no such rating.
    """
    other = opposite(side)
    (vocabulary, index), (opposite_ids, across) = of_side(ratings, side), of_side(ratings, other)
    inputs.check_id_type(side, vocabulary)
    wrong = (inputs.vocabulary(side).index(vocabulary.ids, missing=-1) >= 0) != known
    if wrong.any():
        state = "not known; use fold_in" if known else "already known; use recalculate"
        raise ValueError(f"{side} {shown(vocabulary.ids[wrong][0])} is {state}")
    at = inputs.lookup(other, opposite_ids.ids)[across]
    usable = at >= 0
    without = np.setdiff1d(np.arange(len(vocabulary)), index[usable])
    if without.size:
        first = shown(vocabulary.ids[without[0]])
        raise ValueError(f"{side} {first} has no rating with a known {inputs.column(other)}; it must have one")
    weight = None if ratings.weight is None else ratings.weight[usable]
    return Usable(vocabulary.ids[index[usable]], at[usable], ratings.rating[usable], weight)


def width(table: np.ndarray) -> int:
    """Return how many numbers a row of a table has."""
    return int(np.prod(table.shape[1:]))


def table(model: Model, side: str, weights: Weights) -> np.ndarray:
    """Return the tables of a side (factors, biases) side by side, float64, shape (rows, D)."""
    tables = (weights[name].astype(np.float64) for name in model.tables(side))
    return np.column_stack([w.reshape(len(w), -1) for w in tables])


def pieces(model: Model, side: str, weights: Weights, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Cut rows (..., D) as `table` makes them into those of each table, by name: (..., *shape of its row)."""
    names = model.tables(side)
    ends = np.cumsum([width(weights[name]) for name in names])[:-1]
    cut = zip(names, np.split(rows, ends, axis=-1), strict=True)
    return {name: piece.reshape((*rows.shape[:-1], *weights[name].shape[1:])) for name, piece in cut}


def solve(
    model: Model,
    weights: Weights,
    side: str,
    other: np.ndarray,
    rating: np.ndarray,
    x0: np.ndarray,
    a: np.ndarray,
) -> np.ndarray:
    """Return the minimum of (G1).

    Parameters
    ----------
    model : Model
    weights : dict of arrays
        Not changed.
    side : "user" or "item"
        Of the new row.
    other : array of int, shape (n,)
        Rows on the other side.
    rating : array of float, shape (n,)
    x0 : array, shape (D,)
        Factors, and the bias where the model has one.
    a : array, shape (D, D)
        Symmetric, positive definite.

    Returns
    -------
    array of float64, shape (D,)
    """
    head, w = model.output_head(weights)
    n = len(other)
    of_other = set(model.tables(opposite(side)))
    w = {name: (value[other] if name in of_other else value).astype(np.float64) for name, value in w.items()}
    own = model.tables(side)
    pairs = Batch(np.arange(n), np.arange(n))

    def predict(x: np.ndarray) -> tuple[np.ndarray, object]:
        # A copy of the row for each rating: the gradient of copy j is then row j of J.
        for name, piece in pieces(model, side, weights, x).items():
            w[name] = np.broadcast_to(piece, (n, *piece.shape))
        return head.forward(w, pairs)

    def objective(x: np.ndarray, y: np.ndarray) -> float:
        return float(((y - rating) ** 2).sum() + (x - x0) @ a @ (x - x0))

    x = x0.copy()
    y, cache = predict(x)
    value, damping = objective(x, y), 0.0
    for _ in range(STEPS):
        grads = head.backward(w, cache, np.ones(n))
        # A hybrid may have biases that its output head does not use.
        none = {name: np.zeros_like(w[name]) for name in own}
        jacobian = np.column_stack([grads.get(name, none[name]).reshape(n, -1) for name in own])
        curvature = jacobian.T @ jacobian + a
        slope = jacobian.T @ (rating - y) - a @ (x - x0)
        while True:
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), slope)
            y, cache = predict(x + step)
            if (new := objective(x + step, y)) <= value or damping > 1e6:
                break
            damping = max(1e-3, 10.0 * damping)
        if new > value:  # not even the smallest step descends: this is the minimum, up to rounding
            break
        x = x + step
        gain, value, damping = value - new, new, damping / 10.0
        if gain <= 1e-9 * (1.0 + value):
            break
    return x
