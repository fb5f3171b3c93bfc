"""Gibbs sampling in compiled code: the sweep of `minicf.solvers.gibbs`, each row summed in a fixed order.

What threads share is cut into rows, groups of rows, or columns of the features, none of which depends on another, nor
on the number of threads. Vectors of a few numbers, (P2), (P3), (P5), (P6), and Gamma numbers are drawn by NumPy.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from minicf import rng
from minicf.backends import base
from minicf.backends.numba.normals import gamma, normals_kernel
from minicf.backends.numba.passes import aligned
from minicf.backends.numba.rows import rows_kernel
from minicf.backends.numba.sweeps import (
    CHUNK,
    effects_kernel,
    errors_kernel,
    features_kernel,
    product_kernel,
    sums_kernel,
)
from minicf.models import Weights
from minicf.solvers import Part, Progress, gibbs
from minicf.solvers.sampler import SIDES, Gibbs, Table
from minicf.threads import count_threads, share

PER_THREAD = 50_000
"""Ratings of a chain for each thread: with fewer, threads wait for one another longer than they work."""


class Layout(NamedTuple):
    """Hold the ratings of a side by rows, and its features by rows and by columns."""

    start: np.ndarray
    other: np.ndarray
    rating: np.ndarray
    place: np.ndarray
    """Of each rating among the users' ones."""
    by_row: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Starts, features and weights F."""
    by_column: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    """Starts, rows, weights F, and the sum of their squares in each column."""
    counts: np.ndarray
    day: np.ndarray | None
    """Of each rating its user-day; None without effects of days."""


def layouts(data: Table, rating: np.ndarray, dtype: np.dtype, sizes: dict[str, int]) -> dict[str, Layout]:
    """Lay out a table of ratings, standardized, for both sides."""
    found, place = {}, np.zeros(len(rating), np.int32)
    for side, other in zip(SIDES, SIDES[::-1], strict=True):
        order = np.argsort(data.index[side], kind="stable")
        if side == "user":
            place[order] = np.arange(len(order), dtype=np.int32)
        counts = np.bincount(data.index[side], minlength=sizes[side])
        columns, value = data.features[side].columns, data.features[side].value
        by_row = np.argsort(columns.index, kind="stable")
        feature = np.repeat(np.arange(len(columns.start) - 1, dtype=np.int32), np.diff(columns.start))
        squares = np.zeros(len(columns.start) - 1)
        np.add.at(squares, feature, value**2)
        found[side] = Layout(
            _starts(counts),
            data.index[other][order].astype(np.int32),
            rating[order].astype(dtype),
            place[order],
            (
                _starts(np.bincount(columns.index, minlength=sizes[side])),
                feature[by_row],
                value[by_row].astype(dtype),
            ),
            (columns.start, columns.index, value.astype(dtype), squares),
            counts,
            None if data.day is None else data.day[order],
        )
    return found


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


class GibbsProgram(base.Program):
    """Chains of `Gibbs` in compiled code."""

    solver: Gibbs
    model: Any

    def allocate(self, weights: Weights) -> None:
        super().allocate(weights)
        self.n_threads: int = count_threads(self.n_threads)
        self._tables = {}
        d = self.slots["x.user"].shape[2]
        line = 64 // self.dtype.itemsize  # rows begin at a cache line
        self._width = -(-d // line) * line
        for name in (f"{name}.{side}" for name in ("x", "weights") for side in SIDES):
            chains, rows, _ = self.slots[name].shape
            tables = aligned((chains * rows, self._width), self.dtype).reshape(chains, rows, self._width)
            self._tables[name], self.slots[name] = tables, tables[:, :, :d]
        self._own = [
            {
                f"{name}.{side}": aligned((len(self._tables[f"x.{side}"][0]), self._width), self.dtype)
                for side in SIDES
                for name in ("base", "residual")
            }
            for _ in range(self.solver.n_chains)
        ]
        self._layout: tuple[Any, Any] = (None, None)

    def run(self, data: Table, part: Part) -> Progress:
        """Run a part as `Gibbs.run` does."""
        solver, number = self.solver, int(part.rows[0])
        solver.begin(self, data)
        if self._layout[0] is not data:
            sizes = {side: self.slots[f"x.{side}"].shape[1] for side in SIDES}
            self._layout = data, layouts(data, solver.standardized(self, data), self.dtype, sizes)
        found, chains = np.zeros(solver.n_chains), itertools.count()
        several = min(self.n_threads, solver.n_chains)
        threads = max(1, min(self.n_threads // several, len(data.rating) // PER_THREAD))

        def sweeps() -> None:
            while (c := next(chains)) < solver.n_chains:
                found[c] = self._sweep(c, number, threads)

        share(sweeps, several)
        return solver.end(self, data, number, float(found.sum()) / solver.n_chains)

    def _sweep(self, c: int, number: int, n_threads: int) -> float:
        """Draw every unknown of chain c once, in place; return the sum of squared errors."""
        solver, own, sides = self.solver, self._own[c], self._layout[1]
        seed = solver.chain_seed(self.seed, c)
        d, width = self.slots["x.user"].shape[2], self._width
        biases = "user_bias" in self.w
        state = {name: value[c] for name, value in self.slots.items() if name not in ("scale", "days")}
        table = {name: value[c] for name, value in self._tables.items()}

        def key(purpose: int, side: str = "user") -> int:
            return rng.key(seed, rng.GIBBS, 2 * purpose + (side == "item"), number)

        def together(function: Any, *arguments: Any) -> None:
            shared = np.zeros(1, np.int64)
            share(lambda: function(*arguments, shared), n_threads)

        def padded(values: np.ndarray) -> np.ndarray:
            out = np.zeros((1, width), self.dtype)
            out[0, :d] = values
            return out

        means = {}
        for side in SIDES:
            x, n = table[f"x.{side}"], state[f"x.{side}"].shape[0]
            parts = np.zeros((-(-n // CHUNK), 2, width))
            together(product_kernel, *sides[side].by_row, table[f"weights.{side}"], own[f"base.{side}"], x, parts)
            s, q = parts.sum(axis=0)[:, :d]
            precision = state[f"precision.{side}"]
            mean = gibbs.normal(key(gibbs.MEANS, side), (s / (n + 1), 1.0 / (precision * (n + 1))))  # (P2)
            # The sum of (x - F Y - m)^2, multiplied out.
            rate = 1.0 + 0.5 * (q - 2.0 * mean * s + n * mean**2 + mean**2)
            state[f"mean.{side}"][:] = mean
            precision[:] = gamma(key(gibbs.PRECISIONS, side), np.full(d, 1.0 + 0.5 * (n + 1)), rate)  # (P3)
            means[side] = padded(mean)
        for side, other in zip(SIDES, SIDES[::-1], strict=True):
            rating, day = sides[side].rating, sides[side].day
            if day is not None:
                rating = rating - state["effect"][day]
            together(
                rows_kernel(width, biases), d, sides[side].start, sides[side].other, rating,
                state[f"noise.{side}"], state[f"noise.{other}"], float(state["alpha"]), table[f"x.{other}"],
                own[f"base.{side}"], means[side][0], padded(state[f"precision.{side}"])[0], table[f"x.{side}"],
                np.uint64(key(gibbs.ROWS, side)),
            )  # fmt: skip
        self._draw_features(table, own, state, means, key, together, n_threads)
        squares = np.empty(len(sides["user"].rating), self.dtype)
        sums = {side: np.empty(len(state[f"noise.{side}"])) for side in SIDES}
        a, g = state["noise.user"], state["noise.item"]
        users = sides["user"]
        pairs = biases, users.start, users.other, users.rating, table["x.user"], table["x.item"]
        if users.day is None:
            together(errors_kernel, *pairs, g, squares, sums["user"])
        else:
            effect, tau = state["effect"], self.slots["effect_precision"]
            z, v = np.empty(len(effect)), np.zeros(len(effect))
            together(normals_kernel, np.uint64(key(gibbs.EFFECTS)), z)
            together(
                effects_kernel, *pairs, a, g, float(state["alpha"]), users.day,
                _starts(np.bincount(self.slots["days"][0], minlength=len(a))), z, np.full_like(v, tau[c]), v, effect,
                squares, sums["user"],
            )  # fmt: skip
            shape, rate = (np.array([x]) for x in gibbs.effect_precision_conditional(effect))
            tau[c] = gamma(key(gibbs.EFFECT_PRECISION), shape, rate)[0]  # (P18)
        shape, rate = np.array([[1.0 + 0.5 * len(squares)], [1.0 + 0.5 * float((a * sums["user"]).sum())]])
        alpha = float(gamma(key(gibbs.SHARED_NOISE), shape, rate)[0])  # (P6)
        self.slots["alpha"][c] = alpha
        for side in solver.sides(solver.noise):
            if side == "item":
                layout = sides["item"]
                together(sums_kernel, layout.start, layout.other, layout.place, a, squares, sums["item"])
            nu = solver.nu
            shape, rate = 0.5 * (nu + sides[side].counts), 0.5 * (nu + alpha * sums[side])
            state[f"noise.{side}"][:] = gamma(key(gibbs.NOISE, side), shape, rate)  # (P7)
        return float(squares.sum(dtype=np.float64))

    def _draw_features(
        self, table: Any, own: Any, state: Any, means: Any, key: Any, together: Any, n_threads: int
    ) -> None:
        """Draw the weights of features by (P4), both sides and their columns at once, and their precisions by (P5)."""
        d = state["x.user"].shape[1]
        tasks: list[Any] = []
        for side in SIDES:
            layout, n = self._layout[1][side], len(table[f"weights.{side}"])
            if not n:
                continue
            z = np.empty(n * d)
            together(normals_kernel, np.uint64(key(gibbs.FEATURES, side)), z)
            arguments = (
                *layout.by_column, table[f"x.{side}"], own[f"base.{side}"], means[side], own[f"residual.{side}"],
                table[f"weights.{side}"], state[f"precision.{side}"], state[f"weight_precision.{side}"],
                z.reshape(n, d),
            )  # fmt: skip
            tasks += [(*arguments, k) for k in range(0, self._width, 64 // self.dtype.itemsize)]
        left = iter(tasks)

        def work() -> None:
            for task in left:
                features_kernel(*task)

        share(work, min(n_threads, max(1, len(tasks))))
        for side in SIDES:
            weights = table[f"weights.{side}"][:, :d]
            if len(weights):
                rate = 1.0 + 0.5 * np.einsum("jk,jk->k", weights, weights, dtype=np.float64)
                shape = np.full(d, 1.0 + 0.5 * len(weights))
                state[f"weight_precision.{side}"][:] = gamma(key(gibbs.FEATURE_PRECISIONS, side), shape, rate)
