"""Alternating least squares in compiled code: the halves of `minicf.solvers.als`, threads sharing the rows.

A row is one thread's, computed in a fixed order by LAPACK under one thread, so that no number depends on how many
threads there are. Nor does the Gram matrix: it is summed over blocks of rows, block by block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicf.backends import base
from minicf.backends.numba.solves import CHUNK, addresses, rows_kernel
from minicf.models import Dot
from minicf.solvers import Part, Progress
from minicf.solvers.als import ALS, Pairs, Table, diagonalized, other
from minicf.threads import count_threads, one_blas_thread, share

BLOCK = 4096
"""Rows of a table that are multiplied at once. Their products are summed in float64."""

WAVE = 4
"""Products of blocks that are held at once."""

PER_THREAD = 2_000_000
"""Numbers that are gathered in a half for each thread: with fewer, threads wait longer than they work."""


class ALSProgram(base.Program):
    """`ALS` in compiled code."""

    solver: ALS
    model: Dot

    def allocate(self, weights: Any) -> None:
        super().allocate(weights)
        self.n_threads: int = count_threads(self.n_threads)
        self._orders: tuple[Any, dict[str, np.ndarray]] = (None, {})

    def _blocks(self, n: int, function: Any) -> None:
        """Call ``function(lo, hi)`` for blocks of n rows, in threads."""
        left = iter(range(0, n, BLOCK))

        def work() -> None:
            for lo in left:
                function(lo, min(lo + BLOCK, n))

        share(work, min(self.n_threads, -(-n // BLOCK)))

    def _turned(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """Turn a table in place, as `ALS.turned`; return it, or [1, factors] with a bias, and its a g."""
        w, a = self.w[f"{side}_factors"], self.solver.unobserved
        n, k = w.shape
        d = np.zeros(k)
        if a:
            gram, products = np.zeros((k, k)), np.empty((WAVE, k, k), self.dtype)
            for wave in range(0, n, WAVE * BLOCK):
                held = w[wave : wave + WAVE * BLOCK]

                def multiply(lo: int, hi: int, held: np.ndarray = held) -> None:
                    np.matmul(held[lo:hi].T, held[lo:hi], out=products[lo // BLOCK])

                self._blocks(len(held), multiply)
                for product in products[: -(-len(held) // BLOCK)]:
                    gram += product
            d, v = diagonalized(gram)
            d, v = a * d, v.astype(self.dtype)

            def turn(lo: int, hi: int) -> None:
                w[lo:hi] = w[lo:hi] @ v

            self._blocks(n, turn)
        if f"{side}_bias" not in self.w:
            return w, d
        return np.column_stack([np.ones(n, self.dtype), w]), np.concatenate([[0.0], d])

    def _order(self, data: Table, side: str) -> np.ndarray:
        """Return the rows with pairs, longest first: what is long must not begin last."""
        if self._orders[0] is not data:
            orders = {}
            for name in ("user", "item"):
                pairs: Pairs = getattr(data, name)
                order = np.argsort(-np.diff(pairs.start), kind="stable")
                orders[name] = order[pairs.total[order] > 0].astype(np.int32)
            self._orders = data, orders
        return self._orders[1][side]

    def run(self, data: Table, part: Part) -> Progress:
        """Run a half as `ALS.run` does."""
        side, theirs, solver = part.kind, other(part.kind), self.solver
        pairs: Pairs = getattr(data, side)
        solver.begin(self, data)
        order = self._order(data, side)
        with one_blas_thread():
            q, d = self._turned(theirs)
            target = solver.residuals(self, pairs, theirs).astype(self.dtype)
            weight = (target[:0] if pairs.weight is None else pairs.weight).astype(self.dtype)
            out = np.zeros((len(pairs.start) - 1, q.shape[1]), self.dtype)
            errors, shared = np.zeros(len(out)), np.zeros(1, np.int64)
            ridge, diagonal = self.slots[f"ridge.{side}"].astype(self.dtype), d.astype(self.dtype)
            words = np.frombuffer(b"LNT", np.uint8)
            syrk, posv = addresses(self.dtype == np.float32)

            def work() -> None:
                rows_kernel(
                    pairs.start, pairs.index, target, weight, pairs.weight is not None, q, diagonal, ridge, order,
                    max(CHUNK, q.shape[1]), syrk, posv, words, out, errors, shared,
                )  # fmt: skip

            share(work, max(1, min(self.n_threads, target.size * q.shape[1] // PER_THREAD)))
        return solver.end(self, side, out, d, float(errors.sum()), len(target))
