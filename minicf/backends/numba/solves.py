"""Kernels of alternating least squares: rows solved by loops for few pairs, by BLAS and LAPACK for more."""

from __future__ import annotations

import functools

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

from minicf.backends.numba.jit import inline, kernel
from minicf.backends.numba.vectors import atomic_add, count_lanes, horizontal_sum, load, zero_vector

SMALL = 64
"""Pairs up to which (A6) is solved by loops of its own; an even number."""

CHUNK = 512
"""Pairs of a row that are gathered at once, or K if that is more: a popular item has any number of them."""


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


@inline
def padded(rows, columns, dtype):
    """Make a table of 0 whose rows have a whole number of vectors, and begin at one."""
    lanes = 64 // np.empty(0, dtype).itemsize
    width = -(-columns // lanes) * lanes
    space = np.zeros((rows + 1) * width, dtype)
    first = (-space.ctypes.data % 64) // space.itemsize
    return space[first : first + rows * width].reshape(rows, width)


@inline
def multiply_rows(a, n, g):
    """Fill the lower half of g with A A^T, 2 x 2 sums at a time; `a` has a row of 0 behind n."""
    lanes, width = count_lanes(a), a.shape[1]
    for i in range(0, n, 2):
        for j in range(0, i + 1, 2):
            s00 = s01 = s10 = s11 = zero_vector(a)
            for k in range(0, width, lanes):
                x0, x1, y0, y1 = load(a, i, k), load(a, i + 1, k), load(a, j, k), load(a, j + 1, k)
                s00, s01, s10, s11 = s00 + x0 * y0, s01 + x0 * y1, s10 + x1 * y0, s11 + x1 * y1
            g[i, j], g[i, j + 1] = horizontal_sum(s00), horizontal_sum(s01)
            g[i + 1, j], g[i + 1, j + 1] = horizontal_sum(s10), horizontal_sum(s11)


@inline
def solve_small(g, b, n):
    """Solve g y = b by Cholesky, in place, g's lower half given; return whether all pivots are above 0."""
    for i in range(n):
        for j in range(i):
            total = g[i, j]
            for k in range(j):
                total -= g[i, k] * g[j, k]
            g[i, j] = total * g[j, j]
        total = g[i, i]
        for k in range(i):
            total -= g[i, k] * g[i, k]
        if not total > 0:
            return False
        g[i, i] = g.dtype.type(1.0) / np.sqrt(total)
        y = b[i]
        for k in range(i):
            y -= g[i, k] * b[k]
        b[i] = y * g[i, i]
    for i in range(n - 1, -1, -1):
        y = b[i] * g[i, i]
        b[i] = y
        for k in range(i):
            b[k] -= g[i, k] * y
    return True


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
    few, small = padded(SMALL, n_factors, q.dtype), np.empty((SMALL, SMALL), q.dtype)
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
        good = True
        if n <= min(n_factors, SMALL):  # (A6), without LAPACK, which takes longer for so few than they do
            for k in range(n_factors):
                scale[k] = one / np.sqrt(d[k] + ridge[u])
                x[k] = 0.0
            for j in range(n):
                row, root = q[index[lo + j]], np.sqrt(weight[lo + j]) if weighted else one
                for k in range(n_factors):
                    few[j, k] = root * row[k] * scale[k]
                b[j] = root * target[lo + j]
            if n % 2:
                few[n, :] = 0.0
            multiply_rows(few, n, small)
            for j in range(n):
                small[j, j] += one
            good = solve_small(small, b, n)
            for j in range(n):
                y = b[j]
                total += np.float64(y) * np.float64(y)
                for k in range(n_factors):
                    x[k] += y * few[j, k]
            for k in range(n_factors):
                x[k] *= scale[k]
        elif n <= n_factors:  # (A6)
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
        if n > min(n_factors, SMALL):
            good = size[3] == 0
        errors[u] = total
        if not good:  # not positive definite: something is not finite, and the trainer says so
            x[:] = np.nan
