"""Kernels of a sweep of Gibbs sampling beside the draw of rows: products, (P4), (P17), and errors for (P6), (P7)."""

from __future__ import annotations

import math

import numpy as np

from minicf.backends.numba.jit import kernel
from minicf.backends.numba.vectors import atomic_add, count_lanes, horizontal_sum, load, store, zero_vector

CHUNK = 256
"""Rows that a thread takes in one go, and that are summed in float64 before they are added up."""


@kernel
def product_kernel(start, feature, value, weights, out, x, sums, shared):
    """Fill `out` with F Y, and a chunk's part of `sums` (chunks, 2, W) with the sums of x - F Y and of its squares."""
    n, lanes, width = len(start) - 1, count_lanes(out), out.shape[1]
    while True:
        chunk = atomic_add(shared, 0, 1)
        if chunk * CHUNK >= n:
            break
        for row in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for k in range(0, width, lanes):
                total = zero_vector(out)
                for s in range(start[row], start[row + 1]):
                    total = total + load(weights, feature[s], k) * value[s]
                store(out, row, k, total)
            for k in range(width):
                residual = np.float64(x[row, k] - out[row, k])
                sums[chunk, 0, k] += residual
                sums[chunk, 1, k] += residual * residual


@kernel
def features_kernel(start, row, value, squares, x, base, mean, residual, weights, precision, own, z, k):
    """Draw one vector of columns of all features by (P4), from column k on; z (features, D) are normal numbers."""
    lanes, d = count_lanes(x), z.shape[1]
    total = np.zeros((2, lanes), x.dtype)
    for u in range(len(x)):
        store(residual, u, k, load(x, u, k) - load(base, u, k) - load(mean, 0, k))
    for j in range(len(start) - 1):
        along = zero_vector(x)
        for s in range(start[j], start[j + 1]):
            along = along + load(residual, row[s], k) * value[s]
        store(total, 0, 0, along)
        for c in range(min(lanes, d - k)):
            t = own[k + c] + precision[k + c] * squares[j]
            old = weights[j, k + c]
            new = precision[k + c] * (total[0, c] + squares[j] * old) / t + z[j, k + c] / math.sqrt(t)
            weights[j, k + c] = new
            total[1, c] = old - weights[j, k + c]
        change = load(total, 1, 0)
        for s in range(start[j], start[j + 1]):
            store(residual, row[s], k, load(residual, row[s], k) + change * value[s])


@kernel
def errors_kernel(biases, start, other, rating, x, w, theirs, squares, sums, shared):
    """Fill `squares` (n,) with the ratings' squared errors, and `sums` (rows,) with those times the items' noise."""
    n, lanes, width = len(start) - 1, count_lanes(x), x.shape[1]
    while True:
        chunk = atomic_add(shared, 0, 1)
        if chunk * CHUNK >= n:
            break
        for u in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            total = 0.0
            for s in range(start[u], start[u + 1]):
                i = other[s]
                score = zero_vector(x)
                for k in range(0, width, lanes):
                    score = score + load(x, u, k) * load(w, i, k)
                y = horizontal_sum(score)
                if biases:  # the product of the biases has to go, their sum to come
                    y += x[u, 0] + w[i, 0] - x[u, 0] * w[i, 0]
                error = rating[s] - y
                squares[s] = error * error
                total += theirs[i] * squares[s]
            sums[u] = total


@kernel
def effects_kernel(
    biases, start, other, rating, x, w, own, theirs, alpha, day, days, z, a, v, effect, squares, sums, shared
):
    """Draw the effects of the users' days by (P17), then fill `squares` and `sums` with errors as `errors_kernel` does.

    `day` is the user-day of each rating, user u has those from ``days[u]`` to ``days[u + 1]``. Before, `a` is tau and
    `v` is 0 of each; `z` are normal numbers. The lines of `errors_kernel` stand here too: a function of them, inlined
    in both, is compiled in another order, which would change the last bits of chains without effects.
    """
    n, lanes, width = len(start) - 1, count_lanes(x), x.shape[1]
    while True:
        chunk = atomic_add(shared, 0, 1)
        if chunk * CHUNK >= n:
            break
        for u in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for s in range(start[u], start[u + 1]):
                i, d = other[s], day[s]
                score = zero_vector(x)
                for k in range(0, width, lanes):
                    score = score + load(x, u, k) * load(w, i, k)
                y = horizontal_sum(score)
                if biases:
                    y += x[u, 0] + w[i, 0] - x[u, 0] * w[i, 0]
                error = rating[s] - y
                weight = alpha * own[u] * theirs[i]
                squares[s] = error  # less its effect below
                a[d] += weight
                v[d] += weight * error
            for d in range(days[u], days[u + 1]):
                effect[d] = v[d] / a[d] + z[d] / math.sqrt(a[d])
            total = 0.0
            for s in range(start[u], start[u + 1]):
                error = squares[s] - effect[day[s]]
                squares[s] = error * error
                total += theirs[other[s]] * squares[s]
            sums[u] = total


@kernel
def sums_kernel(start, other, place, theirs, squares, sums, shared):
    """Fill `sums` (rows,) with the squared errors of each row's ratings times the noise of the other side."""
    n = len(start) - 1
    while True:
        chunk = atomic_add(shared, 0, 1)
        if chunk * CHUNK >= n:
            break
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            total = 0.0
            for s in range(start[i], start[i + 1]):
                total += theirs[other[s]] * squares[place[s]]
            sums[i] = total
