"""Gibbs sampling composed on CuPy: the sweep of `minicf.solvers.gibbs`, its large sums and its solves on the device.

On the device stay who rated what, the ratings, and the places of both sides' ratings and features, for the whole
training: 24 bytes a rating, 16 a feature of a row, in bags one of each rating. There (P1), (P6), (P7), F Y and the sums
of (P2), (P3) and (P5) are computed, in float64. Rows of like numbers of ratings are one batch, padded to a power of two
with entries of weight 0, so that every sum has an order of its own and no float is added atomically; a batch holds some
`PIECE` numbers, or those of one row.

All else is the host's, where the program's state and its samples are too. In each sweep of a chain its unknowns go
there and back, random numbers there, D a row for (P1) and one for (P7), the numbers of the reference; and of a side
with features x - m - F Y goes back and Y there, because (P4), one feature after the other, runs on the host as in the
reference. A sweep without bags and features has none of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from minicf import rng
from minicf.backends.cuda.composed import Composed
from minicf.data.bags import Bags
from minicf.models import Weights
from minicf.ops import namespace
from minicf.solvers import Part, Progress, gibbs
from minicf.solvers.gibbs import Chain, Side
from minicf.solvers.sampler import SIDES, Gibbs, Table

PIECE = 1 << 22
"""Numbers of a batch, entries or D times D a row, where it has more than one row: 32 MiB, some five such at once."""
ROWS = 1 << 15
"""Most rows of a batch: a grid has 65,535 blocks in all but its first dimension."""


class Batches:
    """Go over the entries of all rows, rows of like numbers of entries together.

    Parameters
    ----------
    bags : Bags
        On the host.
    xp : module
        CuPy.
    width : int
        Numbers of an entry.
    """

    def __init__(self, bags: Bags, xp: Any, width: int) -> None:
        self.counts = np.diff(bags.start)
        self.index, self._xp = xp.asarray(bags.index), xp
        self._start, self._counts = xp.asarray(bags.start), xp.asarray(self.counts)
        self._parts = []
        lengths = 1 << np.frexp(np.maximum(self.counts - 1, 0))[1].astype(np.int64)
        for length in np.unique(lengths).tolist() if len(bags.index) else ():
            rows, most = np.flatnonzero(lengths == length), max(1, min(ROWS, PIECE // (width * max(width, length))))
            self._parts += [(xp.asarray(rows[at : at + most]), length) for at in range(0, len(rows), most)]

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield rows (m,), places in `index` of their entries (m, length), and which are theirs, not padding."""
        for rows, length in self._parts:
            along = self._xp.arange(length)
            at = self._xp.minimum(self._start[rows][:, None] + along, len(self.index) - 1)
            yield rows, at, along < self._counts[rows][:, None]


class Rows(NamedTuple):
    """Hold the features of each row on the device, in place of `gibbs.Features`."""

    batches: Batches
    """Of features."""
    value: Any
    """(entries,), F of each."""
    host: gibbs.Features

    @classmethod
    def of(cls, features: gibbs.Features, n_rows: int, xp: Any, width: int) -> Rows:
        columns = features.columns
        order = np.argsort(columns.index, kind="stable")
        counts = np.bincount(columns.index, minlength=n_rows)
        feature = np.repeat(np.arange(len(columns.start) - 1, dtype=np.int32), np.diff(columns.start))
        by_row = Bags(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), feature[order])
        return cls(Batches(by_row, xp, width), xp.asarray(features.value[order]), features)

    def product(self, y: Any, n_rows: int) -> Any:
        """Compute F Y, shape (rows, D)."""
        out = namespace(y).zeros((n_rows, y.shape[1]))
        for rows, at, real in self.batches:
            out[rows] = (y[self.batches.index[at]] * (self.value[at] * real)[:, :, None]).sum(axis=1)
        return out


class Chains(Composed):
    """Chains of `Gibbs` on the device; state and samples, as `slots`, are on the host."""

    solver: Gibbs

    def allocate(self, weights: Weights) -> None:
        super().allocate(weights)
        self._layout: tuple[Any, Any] = (None, None)

    def run(self, data: Table, part: Part) -> Progress:
        """Run a part as `Gibbs.run` does."""
        solver, number, squares = self.solver, int(part.rows[0]), 0.0
        with self._device:
            solver.begin(self, data)
            if self._layout[0] is not data:
                self._layout = data, self._laid_out(data)
            table, ratings_of = self._layout[1]
            for c in range(solver.n_chains):
                chain = solver.chain(self, c, table, table.rating, self.xp, ratings_of)
                steps = Steps(self.xp)
                gibbs.sweep(
                    chain, solver.chain_seed(self.seed, c), number,
                    gibbs.Steps(steps.draw_rows, steps.draw_features, steps.alpha, steps.noise),
                )  # fmt: skip
                solver.take(self, c, chain)
                squares += float(steps.squares.sum()) / solver.n_chains
            return solver.end(self, data, number, squares)

    def _laid_out(self, data: Table) -> tuple[Table, dict[str, Batches]]:
        """Copy a table to the device, its ratings standardized; with the ratings of each row."""
        xp, sizes = self.xp, {side: self.slots[f"x.{side}"].shape[1] for side in SIDES}
        width, positions = self.slots["x.user"].shape[2], np.arange(len(data.rating))
        features: Any = {side: Rows.of(data.features[side], sizes[side], xp, width) for side in SIDES}
        index = {side: xp.asarray(data.index[side]) for side in SIDES}
        table = Table(index, xp.asarray(self.solver.standardized(self, data)), features)
        bags = {side: Bags.of(data.index[side], positions, sizes[side]) for side in SIDES}
        return table, {side: Batches(bags[side], xp, width) for side in SIDES}


class Steps:
    """Make the steps of one sweep over all ratings and features.

    Attributes
    ----------
    squares : array, shape (n,)
        The ratings' squared errors, given all rows: from `alpha` on.
    """

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.squares: Any = None

    def draw_rows(self, chain: Chain, side: str, key: int) -> Any:
        """Draw all rows of a side by (P1), in place, as `gibbs.draw_rows`; return their means."""
        xp, mine, theirs = self.xp, chain.sides[side], chain.sides[gibbs.other(side)]
        h, c = chain.split(theirs.x)
        own = mine.precision * mine.prior_mean
        z = xp.asarray(rng.normal(key, mine.x.size).reshape(mine.x.shape))
        means = xp.empty_like(mine.x)
        for rows, at, real in chain.ratings_of[side]:
            ratings = chain.ratings_of[side].index[at]
            rated = chain.index[gibbs.other(side)][ratings]
            some = h[rated]
            weight = (chain.alpha * mine.noise[rows])[:, None] * theirs.noise[rated] * real
            left = (some * weight[:, :, None]).transpose(0, 2, 1)
            a = xp.eye(h.shape[1]) * mine.precision + left @ some
            v = own[rows][:, :, None] + left @ (chain.rating[ratings] - c[rated])[:, :, None]
            lower = xp.linalg.cholesky(a)
            means[rows] = xp.linalg.solve(a, v)[:, :, 0]
            mine.x[rows] = means[rows] + xp.linalg.solve(lower.transpose(0, 2, 1), z[rows][:, :, None])[:, :, 0]
        return means

    def draw_features(self, side: Side, key: int) -> None:
        """Draw the weights of features by (P4) on the host."""
        features: Any = side.features
        numbers = {name: getattr(side, name).get() for name in ("precision", "weights", "weight_precision")}
        here = replace(side, features=features.host, **numbers)
        gibbs.draw_features(here, key, (side.x - side.prior_mean).get())
        side.weights = self.xp.asarray(here.weights)

    def alpha(self, chain: Chain) -> tuple[float, float]:
        """Return shape and rate of (P6), as `gibbs.alpha_conditional`."""
        n = len(chain.rating)
        self.squares = self.xp.empty(n)
        block = max(1, PIECE // chain.sides["user"].x.shape[1])
        for part in (slice(at, at + block) for at in range(0, n, block)):
            self.squares[part] = (chain.rating[part] - chain.predict(part)) ** 2
        rate = (chain.sides["user"].noise * self._sums(chain, "user")).sum()
        return 1.0 + 0.5 * n, 1.0 + 0.5 * float(rate)

    def noise(self, chain: Chain, side: str) -> tuple[np.ndarray, Any]:
        """Return shape and rate of (P7), as `gibbs.noise_conditional`."""
        counts = chain.ratings_of[side].counts
        return 0.5 * (chain.nu + counts), 0.5 * (chain.nu + chain.alpha * self._sums(chain, side))

    def _sums(self, chain: Chain, side: str) -> Any:
        """Add up the squared errors of each row's ratings, times the noise of the other side: (rows,)."""
        other, out = gibbs.other(side), self.xp.empty(len(chain.sides[side].x))
        for rows, at, real in chain.ratings_of[side]:
            ratings = chain.ratings_of[side].index[at]
            weight = chain.sides[other].noise[chain.index[other][ratings]] * real
            out[rows] = (weight * self.squares[ratings]).sum(axis=1)
        return out
