"""Draws of rows by (P1): normal equations, their Cholesky factors 16 at a time, and one normal number each.

The D x D matrix of a row is too small to keep the processor busy. So 16 rows make a group: each lane of a vector
belongs to one of them, and one instruction serves all. A group's draw depends on nothing but its place, hence the same
bits whatever the threads.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from minicf.backends.numba.jit import kernel
from minicf.backends.numba.normals import BLOCK, fill_normals
from minicf.backends.numba.vectors import atomic_add, count_lanes, load, load_invariant, store, zero_vector

GROUP = 16
"""Rows that are solved at once."""
_AT_ONCE = 4
"""Groups that a thread takes in one go."""


@functools.cache
def rows_kernel(W: int, BIAS: bool) -> Any:
    """Make the draw of rows of D numbers, filled up with zeros to W; with BIAS, column 0 is one."""

    @kernel
    def draw(d, start, other, rating, noise, theirs, alpha, table, prior, mean, precision, x, key, shared):
        """Draw rows of `x` given those of the other side's `table`, with the noise of both sides.

        `prior` (rows, W) holds F Y, `mean` and `precision` (W,) m and lam. Threads take groups from `shared`.
        """
        n_rows, lanes = len(start) - 1, count_lanes(x)
        real = x.dtype.type
        zero, one = real(0), real(1)
        n_groups = (n_rows + GROUP - 1) // GROUP
        # A and v of one row; the lower triangles, right sides and normal numbers of a group, by column of the group.
        a, v = np.zeros((d, W), x.dtype), np.zeros((1, W), x.dtype)
        w, weighted, errors = np.zeros((4, W), x.dtype), np.zeros((4, W), x.dtype), np.zeros(4, x.dtype)
        lower = np.zeros((d * (d + 1) // 2, GROUP), x.dtype)
        right, z = np.zeros((d, GROUP), x.dtype), np.zeros((d, GROUP), x.dtype)
        numbers, bits, turn = np.empty(-(-GROUP * d // BLOCK) * BLOCK), np.empty(BLOCK, np.uint64), np.empty(BLOCK)
        one_for_bias = np.zeros((2, W), x.dtype)  # factors of 0 and 1, and the 1 in the bias's place
        one_for_bias[0, 1:], one_for_bias[1, 0] = one, one
        while True:
            first = atomic_add(shared, 0, _AT_ONCE)
            if first >= n_groups:
                break
            for group in range(first, min(first + _AT_ONCE, n_groups)):
                for lane in range(GROUP):
                    row = group * GROUP + lane
                    for r in range(d):
                        for k in range(0, r + 1, lanes):
                            store(a, r, k, zero_vector(a))
                    if row < n_rows:
                        for k in range(d):
                            v[0, k] = precision[k] * (mean[k] + prior[row, k])
                        own = real(alpha * noise[row])
                        stop = start[row + 1]
                        for s in range(start[row], stop, 4):
                            count = min(4, stop - s)
                            for q in range(count):
                                at = other[s + q]
                                weight = own * real(theirs[at])
                                errors[q] = weight * (rating[s + q] - table[at, 0] if BIAS else rating[s + q])
                                for k in range(0, W, lanes):
                                    h = load(table, at, k)
                                    if BIAS and k == 0:
                                        h = h * load_invariant(one_for_bias, 0, 0) + load_invariant(one_for_bias, 1, 0)
                                    store(w, q, k, h)
                                    store(weighted, q, k, h * weight)
                            for q in range(count, 4):  # what is missing weighs nothing
                                errors[q] = zero
                                for k in range(0, W, lanes):
                                    store(weighted, q, k, zero_vector(w))
                            for k in range(0, W, lanes):
                                w0, w1, w2, w3 = load(w, 0, k), load(w, 1, k), load(w, 2, k), load(w, 3, k)
                                store(v, 0, k, load(v, 0, k) + (w0 * errors[0] + w1 * errors[1])
                                      + (w2 * errors[2] + w3 * errors[3]))  # fmt: skip
                                for r in range(k, d):  # the lower triangle
                                    store(a, r, k, load(a, r, k) + (w0 * weighted[0, r] + w1 * weighted[1, r])
                                          + (w2 * weighted[2, r] + w3 * weighted[3, r]))  # fmt: skip
                        for r in range(d):
                            a[r, r] += precision[r]
                    else:
                        for r in range(d):
                            a[r, r] = one
                            v[0, r] = zero
                    at = 0
                    for r in range(d):
                        for c in range(r + 1):
                            lower[at, lane] = a[r, c]
                            at += 1
                        right[r, lane] = v[0, r]
                # A = L L^T, its diagonal inverted; L y = v.
                for r in range(d):
                    of_r = r * (r + 1) // 2
                    for c in range(r):
                        of_c = c * (c + 1) // 2
                        for lane in range(0, GROUP, lanes):
                            total = load(lower, of_r + c, lane)
                            for q in range(c):
                                total = total - load(lower, of_r + q, lane) * load(lower, of_c + q, lane)
                            store(lower, of_r + c, lane, total * load(lower, of_c + c, lane))
                    for lane in range(0, GROUP, lanes):
                        total, y = load(lower, of_r + r, lane), load(right, r, lane)
                        for q in range(r):
                            factor = load(lower, of_r + q, lane)
                            total = total - factor * factor
                            y = y - factor * load(right, q, lane)
                        store(lower, of_r + r, lane, total)
                        store(right, r, lane, y)
                    for lane in range(GROUP):
                        lower[of_r + r, lane] = one / math.sqrt(lower[of_r + r, lane])
                        right[r, lane] *= lower[of_r + r, lane]
                # L^T x = y + z: the mean and the deviation in one.
                for block in range(0, GROUP * d, BLOCK):
                    fill_normals(key, n_rows * d, group * GROUP * d + block, numbers[block : block + BLOCK], bits, turn)
                for lane in range(GROUP):
                    for r in range(d):
                        z[r, lane] = real(numbers[lane * d + r])
                for r in range(d - 1, -1, -1):
                    of_r = r * (r + 1) // 2
                    for lane in range(0, GROUP, lanes):
                        solved = (load(right, r, lane) + load(z, r, lane)) * load(lower, of_r + r, lane)
                        store(right, r, lane, solved)
                        for q in range(r):
                            store(right, q, lane, load(right, q, lane) - load(lower, of_r + q, lane) * solved)
                for lane in range(min(GROUP, n_rows - group * GROUP)):
                    for r in range(d):
                        x[group * GROUP + lane, r] = right[r, lane]

    return draw
