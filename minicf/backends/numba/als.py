"""Alternating least squares in compiled code: the halves of `minicf.solvers.als`, threads sharing the rows.

A row is one thread's, computed in a fixed order by LAPACK under one thread, so that no number depends on how many
threads there are. Nor does the Gram matrix: it is summed over blocks of rows, block by block.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

from minicf.backends import base
from minicf.backends.numba.jit import kernel
from minicf.backends.numba.vectors import atomic_add
from minicf.models import Dot
from minicf.solvers import Part, Progress
from minicf.solvers.als import ALS, Pairs, Table, diagonalized, other
from minicf.threads import count_threads, one_blas_thread, share

CHUNK = 512
"""Pairs of a row that are gathered at once, or K if that is more: a popular item has any number of them."""

BLOCK = 4096
"""Rows of a table that are multiplied at once. Their products are summed in float64."""

WAVE = 4
"""Products of blocks that are held at once."""

PER_THREAD = 2_000_000
"""Numbers that are gathered in a half for each thread: with fewer, threads wait longer than they work."""


@intrinsic
def call_fortran(context, address, arguments):
    """Call the function at an address, which takes pointers: a subroutine of BLAS or LAPACK.

    The address is given at run time, so that compiled code can be kept for other processes.
    """

    def generate(context, builder, signature, given):
        pointer = ir.IntType(8).as_pointer()
        parts = cgutils.unpack_tuple(builder, given[1])
        kind = ir.FunctionType(ir.VoidType(), [pointer] * len(parts))
        function = builder.inttoptr(given[0], kind.as_pointer())
        builder.call(function, [builder.inttoptr(part, pointer) for part in parts])
        return context.get_dummy_value()

    return types.void(types.uintp, arguments), generate


@functools.cache
def addresses(single: bool) -> tuple[np.uintp, np.uintp]:
    """Return the addresses of syrk (a matrix times its transpose) and posv (a solution by Cholesky)."""
    letter = "s" if single else "d"
    rooms = (("scipy.linalg.cython_blas", "syrk"), ("scipy.linalg.cython_lapack", "posv"))
    syrk, posv = (np.uintp(get_cython_function_address(room, letter + name)) for room, name in rooms)
    return syrk, posv


@kernel
def rows_kernel(
    start, index, target, weight, weighted, q, d, ridge, order, chunk, syrk, posv, words, out, errors, shared
):
    """Solve rows in the given order by (A5) or (A6); write them to `out` (rows, K), and |y|^2 of (A7) to `errors`.

    Fortran reads the rows of a (n, K) as columns: of what is n x n or K x K it takes the lower half.
    """
    n_factors, one = q.shape[1], q.dtype.type(1.0)
    a = np.empty((max(chunk, n_factors), n_factors), q.dtype)
    g = np.empty(n_factors * n_factors, q.dtype)
    b, scale = np.empty(n_factors, q.dtype), np.empty(n_factors, q.dtype)
    size = np.empty(4, np.int32)  # n, K, the number of right-hand sides, LAPACK's answer
    size[1], size[2] = n_factors, 1
    factor = np.empty(3, q.dtype)
    factor[0], factor[1] = 1.0, 0.0
    at_n, at_k = size.ctypes.data, size.ctypes.data + np.uintp(4)
    at_1, at_answer = size.ctypes.data + np.uintp(8), size.ctypes.data + np.uintp(12)
    side = words.ctypes.data
    as_is, turned = side + np.uintp(1), side + np.uintp(2)
    at_one = factor.ctypes.data
    at_zero = at_one + np.uintp(q.itemsize)
    while True:
        turn = atomic_add(shared, 0, 1)
        if turn >= len(order):
            break
        u = order[turn]
        lo, hi = start[u], start[u + 1]
        n, x, total = hi - lo, out[u], 0.0
        if n <= n_factors:  # (A6)
            for k in range(n_factors):
                scale[k] = one / np.sqrt(d[k] + ridge[u])
                x[k] = 0.0
            for j in range(n):
                row, root = q[index[lo + j]], np.sqrt(weight[lo + j]) if weighted else one
                for k in range(n_factors):
                    a[j, k] = root * row[k] * scale[k]
                b[j] = root * target[lo + j]
            size[0] = n
            call_fortran(syrk, (side, turned, at_n, at_k, at_one, a.ctypes.data, at_k, at_zero, g.ctypes.data, at_n))
            for j in range(n):
                g[j * n + j] += one
            call_fortran(posv, (side, at_n, at_1, g.ctypes.data, at_n, b.ctypes.data, at_n, at_answer))
            for j in range(n):
                y = b[j]
                total += np.float64(y) * np.float64(y)
                for k in range(n_factors):
                    x[k] += y * a[j, k]
            for k in range(n_factors):
                x[k] *= scale[k]
        else:  # (A5)
            x[:] = 0.0
            for first in range(lo, hi, chunk):
                m = min(chunk, hi - first)
                for j in range(m):
                    row, root = q[index[first + j]], np.sqrt(weight[first + j]) if weighted else one
                    y = root * target[first + j]
                    for k in range(n_factors):
                        a[j, k] = root * row[k]
                        x[k] += y * a[j, k]
                size[0] = m
                call_fortran(
                    syrk,
                    (
                        side,
                        as_is,
                        at_k,
                        at_n,
                        at_one,
                        a.ctypes.data,
                        at_k,
                        at_zero if first == lo else at_one,
                        g.ctypes.data,
                        at_k,
                    ),
                )
            for k in range(n_factors):
                g[k * n_factors + k] += d[k] + ridge[u]
            call_fortran(posv, (side, at_k, at_1, g.ctypes.data, at_k, x.ctypes.data, at_k, at_answer))
            for first in range(lo, hi):
                row, y = q[index[first]], target[first]
                for k in range(n_factors):
                    y -= row[k] * x[k]
                total += np.float64(y) * np.float64(y) * np.float64(weight[first] if weighted else one)
        errors[u] = total if size[3] == 0 else np.nan
        if size[3] != 0:  # not positive definite: something is not finite, and the trainer says so
            x[:] = np.nan


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
