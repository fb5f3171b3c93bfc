"""Draws of rows by (P1): normal equations, their Cholesky factors 16 at a time, and one normal number each.

The D x D matrix of a row is too small for the processor to be busy with. So 16 rows make a group: number l of a vector
belongs to row l, and one instruction serves all of them. A group's draw depends on nothing but its place, hence the
same bits whatever the threads.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from minicf.backends.numba.jit import kernel
from minicf.backends.numba.normals import BLOCK, fill_normals
from minicf.backends.numba.vectors import atomic_add, count_lanes, load, store, zero_vector

GROUP = 16
"""Rows that are solved at once."""
_AT_ONCE = 4
"""Groups that a thread takes in one go."""


@functools.cache
def rows_kernel(D: int, W: int, BIAS: bool) -> Any:
    """Make the draw of rows of D numbers, filled up with zeros to W; with BIAS, column 0 is one."""
    T = D * (D + 1) // 2
    NUMBERS = -(-GROUP * D // BLOCK) * BLOCK

    @kernel
    def draw(start, other, rating, noise, theirs, alpha, table, prior, mean, precision, x, key, shared):
        """Draw rows of `x` given those of the other side's `table`, with the noise of both sides.

        `prior` (rows, W) holds F Y, `mean` and `precision` (W,) m and lam. Threads take groups from `shared`.
        """
        n_rows, lanes = len(start) - 1, count_lanes(x)
        real = x.dtype.type
        zero, one = real(0), real(1)
        n_groups = (n_rows + GROUP - 1) // GROUP
        # A and v of one row; the lower triangles, right sides and normal numbers of a group, by column of the group.
        a, v, w, weighted = np.zeros((D, W), x.dtype), np.zeros((1, W), x.dtype), np.zeros((4, W), x.dtype), np.zeros(
            (4, W), x.dtype
        )
        lower, right, z = np.zeros((T, GROUP), x.dtype), np.zeros((D, GROUP), x.dtype), np.zeros((D, GROUP), x.dtype)
        errors = np.zeros(4, x.dtype)
        numbers, bits, turn = np.empty(NUMBERS), np.empty(BLOCK, np.uint64), np.empty(BLOCK)
        while True:
            first = atomic_add(shared, 0, _AT_ONCE)
            if first >= n_groups:
                break
            for group in range(first, min(first + _AT_ONCE, n_groups)):
                for l in range(GROUP):
                    row = group * GROUP + l
                    for r in range(D):
                        for k in range(0, r + 1, lanes):
                            store(a, r, k, zero_vector(a))
                    if row < n_rows:
                        for k in range(D):
                            v[0, k] = precision[k] * (mean[k] + prior[row, k])
                        own = real(alpha * noise[row])
                        stop = start[row + 1]
                        for s in range(start[row], stop, 4):
                            for q in range(4):  # ratings that are missing at the end weigh nothing
                                at = other[min(s + q, stop - 1)]
                                weight = own * real(theirs[at]) if s + q < stop else zero
                                for k in range(0, W, lanes):
                                    store(w, q, k, load(table, at, k))
                                error = rating[min(s + q, stop - 1)]
                                if BIAS:
                                    error -= w[q, 0]
                                    w[q, 0] = one
                                errors[q] = weight * error
                                for k in range(0, W, lanes):
                                    store(weighted, q, k, load(w, q, k) * weight)
                            for k in range(0, W, lanes):
                                w0, w1, w2, w3 = load(w, 0, k), load(w, 1, k), load(w, 2, k), load(w, 3, k)
                                store(v, 0, k, load(v, 0, k) + (w0 * errors[0] + w1 * errors[1])
                                      + (w2 * errors[2] + w3 * errors[3]))  # fmt: skip
                                for r in range(k, D):  # the lower triangle
                                    store(a, r, k, load(a, r, k) + (w0 * weighted[0, r] + w1 * weighted[1, r])
                                          + (w2 * weighted[2, r] + w3 * weighted[3, r]))  # fmt: skip
                        for r in range(D):
                            a[r, r] += precision[r]
                    else:
                        for r in range(D):
                            a[r, r] = one
                            v[0, r] = zero
                    at = 0
                    for r in range(D):
                        for c in range(r + 1):
                            lower[at, l] = a[r, c]
                            at += 1
                        right[r, l] = v[0, r]
                # A = L L^T, its diagonal inverted; L y = v.
                for r in range(D):
                    of_r = r * (r + 1) // 2
                    for c in range(r):
                        of_c = c * (c + 1) // 2
                        for l in range(0, GROUP, lanes):
                            total = load(lower, of_r + c, l)
                            for q in range(c):
                                total = total - load(lower, of_r + q, l) * load(lower, of_c + q, l)
                            store(lower, of_r + c, l, total * load(lower, of_c + c, l))
                    for l in range(0, GROUP, lanes):
                        total, y = load(lower, of_r + r, l), load(right, r, l)
                        for q in range(r):
                            factor = load(lower, of_r + q, l)
                            total = total - factor * factor
                            y = y - factor * load(right, q, l)
                        store(lower, of_r + r, l, total)
                        store(right, r, l, y)
                    for l in range(GROUP):
                        lower[of_r + r, l] = one / math.sqrt(lower[of_r + r, l])
                        right[r, l] *= lower[of_r + r, l]
                # L^T x = y + z: the mean and the deviation in one.
                for block in range(0, GROUP * D, BLOCK):
                    fill_normals(key, n_rows * D, group * GROUP * D + block, numbers[block : block + BLOCK], bits, turn)
                for l in range(GROUP):
                    for r in range(D):
                        z[r, l] = real(numbers[l * D + r])
                for r in range(D - 1, -1, -1):
                    of_r = r * (r + 1) // 2
                    for l in range(0, GROUP, lanes):
                        solved = (load(right, r, l) + load(z, r, l)) * load(lower, of_r + r, l)
                        store(right, r, l, solved)
                        for q in range(r):
                            store(right, q, l, load(right, q, l) - load(lower, of_r + q, l) * solved)
                for l in range(min(GROUP, n_rows - group * GROUP)):
                    for r in range(D):
                        x[group * GROUP + l, r] = right[r, l]

    return draw
