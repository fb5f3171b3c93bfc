"""Condition samples of a posterior on more ratings: rows of new users and items, and of known ones that rate again.

Within a sample s the other side's rows are given, so that what ratings say of a row x is (P1). A new row is, before its
ratings, any row of its side, N(mean_s, C_s) with the mean and the covariance of the rows of that sample. A known row
has the precision of (P1) by the items that it rated, whose ratings need not be known, as its sample x~ is a draw from
the posterior of before. With h, c, w = alpha a_u g_i of the further ratings r,

    (P13) new:    A_0 = C_s^-1,  x~ ~ N(mean_s, C_s)
          known:  A_0 = C_s^-1 + sum_(rated before) w h h^T,  x~ the sample
          x = x~ + (A_0 + sum w h h^T)^-1 sum w h (r + e - c - h . x~),  e ~ N(0, 1/w)

is a draw from the posterior of all ratings: a normal x~ corrected by what it misses (Matheron's rule). With e = 0, and
mean_s for a new row, it is that posterior's mean, or as near to it as x~ is to the mean of before. As alpha a_u is one
number of a row, and the rest of w h h^T one matrix of a row of the other side, all sums are products of a sparse
matrix, who rated what, with a table of the other side:

    (P15) sum w h h^T = alpha a_u M [g h h^T],  sum w h (r - c) = alpha a_u (M_r [g h] - M [g h c]),
          sum w h e = sqrt(alpha a_u) M_z [sqrt(g) h],  e = z / sqrt(w)

where M has a 1, M_r the rating r and M_z the normal number z of each.

The row of the small model (`Posterior.compress`) is the nearest one to the mean prediction of all items: with V the
rows of the other side in the small model, and its biases,

    (P14) minimize  sum_i (1/S sum_s scale (x_s . h_si + c_si) - c_i - b - p . V_i)^2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minicf import rng
from minicf.data import Bags, Ratings
from minicf.data.bags import example_weights
from minicf.models import Weights
from minicf.recommender.fold_in import Rows
from minicf.recommender.inputs import SIDES, opposite
from minicf.solvers import Posterior
from minicf.threads import one_blas_thread

_NORMALS = 1 << 12
"""Normal numbers that the ratings of a row have in turn: a fixed number, so that none depends on the others' number."""

_STREAM = 1 << 20
"""Of random numbers, beyond those of a chain."""


@dataclass(frozen=True, eq=False)
class Given:
    """Hold ratings of some rows of a side.

    Parameters
    ----------
    start : array of int, shape (m + 1,)
        Row j has the entries from ``start[j]`` to ``start[j + 1]``.
    other : array of int, shape (n,)
        Rows of the other side.
    rating : array, shape (n,), or None
        In stars; None where only who rated what is known.
    """

    start: np.ndarray
    other: np.ndarray
    rating: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Condition the samples of one side on ratings.

    Parameters
    ----------
    posterior : Posterior
    weights : dict of arrays
        Of the small model, in stars.
    """

    posterior: Posterior
    weights: Weights

    def rows(self, side: str, ids: np.ndarray, other: np.ndarray, rating: np.ndarray) -> Rows:
        """Solve the row of each new id from its own ratings, as `FoldIn.rows` does."""
        unique, group = np.unique(ids, return_inverse=True)
        order = np.argsort(group, kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(unique)))])
        draws, rows = self.solved(side, Given(start, other[order], rating[order]))
        return Rows(unique, rows, draws)

    def solved(
        self, side: str, given: Given, rows: np.ndarray | None = None, before: Given | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return samples and rows of the small model of new ids, or, with `rows`, of known ones.

        Parameters
        ----------
        side : "user" or "item"
        given : Given
            The ratings of m rows.
        rows : array of int, shape (m,), optional
            Rows of the samples.
        before : Given, optional
            With `rows`: the earlier ratings of each.

        Returns
        -------
        draws : array of float16, shape (S, m, D)
        small : array of float64, shape (m, R + 1)
            Factors and bias. Both depend, of each row, on its own ratings alone.
        """
        posterior, m = self.posterior, len(given.start) - 1
        n, _, d = posterior.samples[side].shape
        draws, means = np.empty((n, m, d), np.float16), np.empty((n, m, d), np.float32)
        sums = _Sums(given, before, d, posterior.mean, posterior.scale)
        with one_blas_thread():  # the systems are small
            for s in range(n):
                z, e = (
                    rng.normal(rng.key(0, rng.GIBBS, _STREAM + 2 * i + SIDES.index(side), s), size)
                    for i, size in enumerate((d, _NORMALS))
                )
                draws[s], means[s] = self._of_sample(s, side, sums, rows, z, e)
            return draws, self._small(side, means)

    def _of_sample(
        self, s: int, side: str, sums: _Sums, rows: np.ndarray | None, z: np.ndarray, e: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a draw and the mean of each row by (P13), from normal numbers `z` (D,) and `e`."""
        p, other, m, d = self.posterior, opposite(side), sums.n_rows, len(z)
        mean, covariance = p.moments(side, s)
        # A direction in which no row differs must not be without any bound.
        covariance += np.eye(d) * max(1e-3 * np.trace(covariance) / d, 1e-12)
        if rows is None:
            noise = np.full(m, 1.0 / np.mean(1.0 / p.noise[side][s].astype(np.float64)))
            x = np.stack([mean + np.linalg.cholesky(covariance) @ z, mean])[:, None, :].repeat(m, axis=1)
        else:
            noise = p.noise[side][s][rows].astype(np.float64)
            x = p.samples[side][s][rows].astype(np.float64)[None]  # where draw and mean both start
        h = p.samples[other][s][sums.used].astype(np.float64)
        c = np.zeros(len(h))
        if p.biases:
            c = h[:, 0].copy()
            h[:, 0] = 1.0
        before, given, slope, more = sums.of(h, c, p.noise[other][s][sums.used].astype(np.float64), e)
        weight = (p.alpha[s] * noise)[:, None]
        a = np.linalg.inv(covariance) + weight[:, :, None] * (before + given)
        left = weight * (slope - (given * x[:, :, None, :]).sum(axis=3))
        steps = np.linalg.solve(a, np.stack([left[0] + np.sqrt(weight) * more, left[-1]], axis=2))
        return x[0] + steps[:, :, 0], x[-1] + steps[:, :, 1]

    def _small(self, side: str, means: np.ndarray) -> np.ndarray:
        """Return the rows of the small model by (P14)."""
        p, other = self.posterior, opposite(side)
        n, m, _ = means.shape
        bias = self.weights[f"{other}_bias"].astype(np.float64)
        v = np.column_stack([self.weights[f"{other}_factors"].astype(np.float64), np.ones(len(bias))])
        right, rest = np.zeros((m, v.shape[1])), -bias
        for s in range(n):
            h = p.samples[other][s].astype(np.float64)
            if p.biases:
                rest += p.scale / n * h[:, 0]
                h[:, 0] = 1.0
            # A sum over rows of its own for each row: a product of all would round them by their number.
            t = h.T @ v * (p.scale / n)
            right += (means[s].astype(np.float64)[:, :, None] * t).sum(axis=1)
        right += rest @ v
        return (np.linalg.pinv(v.T @ v, rcond=1e-9, hermitian=True) * right[:, None, :]).sum(axis=2)


class _Sums:
    """Add up what ratings say of rows, by (P15); each row's in the order of its ratings, whatever the others are.

    Parameters
    ----------
    given : Given
        With ratings.
    before : Given or None
    d : int
        D.
    mean, scale : float
        Of the ratings, as `Posterior` has them.

    Attributes
    ----------
    n_rows : int
    used : array of int
        The rows of the other side that have a part in it.
    """

    def __init__(self, given: Given, before: Given | None, d: int, mean: float, scale: float) -> None:
        from scipy.sparse import csr_array

        assert given.rating is not None
        both = [given] if before is None else [given, before]
        self.n_rows = m = len(given.start) - 1
        self.used, column = np.unique(np.concatenate([one.other for one in both]), return_inverse=True)

        def matrix(one: Given, column: np.ndarray, values: np.ndarray) -> Any:
            return csr_array((values, column, one.start), shape=(m, len(self.used)))

        n = len(given.other)
        self._given = matrix(given, column[:n], np.ones(n))
        self._rated = matrix(given, column[:n], (given.rating.astype(np.float64) - mean) / scale)
        self._drawn = matrix(given, column[:n], np.empty(n))
        self._before = None if before is None else matrix(before, column[n:], np.ones(len(before.other)))
        self._number = (np.arange(n) - np.repeat(given.start[:-1], np.diff(given.start))) % _NORMALS
        self._half = np.triu_indices(d)
        self._whole = np.zeros((d, d), np.int64)  # from the upper half of a symmetric matrix to all of it
        self._whole[self._half] = self._whole.T[self._half] = np.arange(len(self._half[0]))

    def of(self, h: np.ndarray, c: np.ndarray, g: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return M [g h h^T] of before and of the given, M_r [g h] - M [g h c] and M_z [sqrt(g) h]."""
        gh, n = g[:, None] * h, len(self._half[0])
        squares = gh[:, self._half[0]] * h[:, self._half[1]]
        given = self._given @ np.column_stack([squares, gh * c[:, None]])
        before = np.zeros((self.n_rows, n)) if self._before is None else self._before @ squares
        self._drawn.data[:] = e[self._number]
        more = self._drawn @ (np.sqrt(g)[:, None] * h)
        return before[:, self._whole], given[:, self._whole], self._rated @ gh - given[:, n:], more


def check_later(posterior: Posterior | None, seen: Bags | None, epochs: Any, ratings: Ratings, callbacks: Any) -> None:
    """Raise a ValueError where samples cannot be conditioned on further ratings by `Recommender.partial_fit`."""
    given = {
        "epochs": epochs is not None,
        "sample_weight": example_weights(ratings) is not None,
        "callbacks": not isinstance(callbacks, tuple | list) or len(callbacks) > 0,
    }
    for name, there in given.items():
        if there:
            raise ValueError(f"{name} is given; after Gibbs sampling partial_fit has no {name}: leave it out")
    for name, kept in (("samples", posterior), ("seen", seen)):
        if kept is None:
            raise ValueError(
                f"this recommender was saved with {name}=False, and partial_fit after Gibbs sampling needs them; save "
                f"it with {name}=True, or fit all ratings anew"
            )


def unlike(seen: Bags, user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return which pairs of rows (n,) were not seen, as a mask, and whether all that were seen are among them."""
    before, now = seen.row << 32 | seen.index, user.astype(np.int64) << 32 | item
    return ~np.isin(now, before), bool(np.isin(before, now).all())


def conditioned(
    posterior: Posterior,
    weights: Weights,
    seen: Bags,
    index: Mapping[str, np.ndarray],
    rating: np.ndarray,
    known: Mapping[str, np.ndarray],
) -> tuple[Posterior, Weights]:
    """Condition the rows of users and items on further ratings, by (P13): users, items, and users by new items.

    Parameters
    ----------
    posterior : Posterior
        With rows for all ids; those of new ids are not looked at.
    weights : dict of arrays
        Of the small model, likewise.
    seen : Bags
        Earlier ratings: the items of each user.
    index : dict of arrays of int, shape (n,), by side
        Rows of the ratings.
    rating : array, shape (n,)
        In stars.
    known : dict of arrays of bool, shape (n,), by side
        Whether the row of a rating is of an id of before.
    """
    earlier = {
        "user": np.repeat(np.arange(len(seen.start) - 1), np.diff(seen.start)),
        "item": seen.index.astype(np.int64),
    }
    pairs = dict.fromkeys(SIDES, earlier)  # what the rows of a side are conditioned on
    ready = {
        side: np.bincount(index[side][known[side]], minlength=posterior.noise[side].shape[1]) > 0 for side in SIDES
    }
    posterior = replace(posterior, samples={side: x.copy() for side, x in posterior.samples.items()})
    weights = {name: w.copy() for name, w in weights.items()}
    for side, used in (("user", known["item"]), ("item", np.ones(len(rating), bool)), ("user", ~known["item"])):
        for old in (False, True):
            at = np.flatnonzero(used & (ready[side][index[side]] == old))
            if not len(at):
                continue
            at = at[np.argsort(index[side][at], kind="stable")]
            rows, counts = np.unique(index[side][at], return_counts=True)
            across = index[opposite(side)][at]
            given = Given(np.concatenate([[0], np.cumsum(counts)]), across, rating[at])
            before = None
            if old:
                bags = Bags.of(pairs[side][side], pairs[side][opposite(side)], len(ready[side])).take(rows)
                before = Given(bags.start, bags.index)
            draws, small = Conditioning(posterior, weights).solved(side, given, rows if old else None, before)
            posterior.samples[side][:, rows] = draws
            weights[f"{side}_factors"][rows], weights[f"{side}_bias"][rows] = small[:, :-1], small[:, -1]
        now = index["user"][used], index["item"][used]
        pairs[side] = {key: np.concatenate([pairs[side][key], new]) for key, new in zip(SIDES, now, strict=True)}
        ready[side][index[side][used]] = True
    return posterior, weights
