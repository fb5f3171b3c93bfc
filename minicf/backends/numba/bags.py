"""Kernels of online SGD of models with bags, row by row of one side: (S1), (S2) of `minicf.solvers.gradient`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minicf.backends.numba.jit import inline, kernel
from minicf.backends.numba.loss import FACTORS
from minicf.backends.numba.vectors import (
    FLUSH_DENORMALS,
    count_lanes,
    exchange_mxcsr,
    horizontal_sum,
    load,
    plus,
    store,
    times,
    zero_vector,
)


class Entries(NamedTuple):
    """Hold one bag of each row, and the tables of its entries."""

    start: np.ndarray
    entry: np.ndarray
    value: np.ndarray
    """F of each entry."""
    factors: np.ndarray
    bias: np.ndarray


class Rows(NamedTuple):
    """Hold the tables of one side."""

    factors: np.ndarray
    bias: np.ndarray


@inline
def collect(W, bag, r, work, at):
    """Put x' of row r (F15) into a row of `work`, and a = 0 into the next; return x' of the bias, and S."""
    lanes = count_lanes(work)
    bias = squares = work.dtype.type(0)
    for k in range(0, W, lanes):
        store(work, at, k, zero_vector(work))
        store(work, at + 1, k, zero_vector(work))
    for e in range(bag.start[r], bag.start[r + 1]):
        j, f = bag.entry[e], bag.value[e]
        for k in range(0, W, lanes):
            store(work, at, k, load(work, at, k) + load(bag.factors, j, k) * f)
        bias += f * bag.bias[j]
        squares += f * f
    return bias, squares


@inline
def spread(W, bag, r, work, at, rho, rho_bias, a_bias):
    """(S2)."""
    lanes = count_lanes(work)
    for e in range(bag.start[r], bag.start[r + 1]):
        j, f = bag.entry[e], bag.value[e]
        for k in range(0, W, lanes):
            store(bag.factors, j, k, load(bag.factors, j, k) * rho + load(work, at + 1, k) * f)
        bag.bias[j] = rho_bias * bag.bias[j] + f * a_bias


@functools.cache
def sides_kernel(W: int, N_BAGS: int, RANGED: bool, LOSS: Any, WEIGHTED: bool) -> Any:
    """Make the loop for a width of rows, a number of bags of the side whose turn it is, and a function of `loss`."""
    FACTOR = FACTORS[LOSS]

    @kernel
    def train(
        rows, start, other, target, weight, mine, theirs, still, one, two, rates, factors, decay, mean, low, high,
        work, totals,
    ):  # fmt: skip
        """Train the ratings of some rows of a side, one rating after another; fill `totals` with their losses.

        `still` are the sums of the other side's bags, `one` and `two` the bags of this one. `factors` of the rate and
        `decay` are those of factors and bias of: mine, theirs, one, two.
        """
        control = exchange_mxcsr(FLUSH_DENORMALS)
        lanes = count_lanes(work)
        real = work.dtype.type
        zero, unit = real(0), real(1)
        for t in range(len(rows)):
            u = rows[t]
            x1 = x2 = s1 = s2 = a1 = a2 = zero
            rho1 = rho2 = rho_b1 = rho_b2 = unit
            if N_BAGS > 0:
                x1, s1 = collect(W, one, u, work, 1)
            if N_BAGS > 1:
                x2, s2 = collect(W, two, u, work, 3)
            lr = rates[t]
            lr_m, lr_mb, lr_t, lr_tb = lr * factors[0], lr * factors[1], lr * factors[2], lr * factors[3]
            lr_1, lr_b1, lr_2, lr_b2 = lr * factors[4], lr * factors[5], lr * factors[6], lr * factors[7]
            fall_m, fall_mb, fall_t, fall_tb = -lr_m * decay[0], -lr_mb * decay[1], -lr_t * decay[2], -lr_tb * decay[3]
            fall_1, fall_b1, fall_2, fall_b2 = -lr_1 * decay[4], -lr_b1 * decay[5], -lr_2 * decay[6], -lr_b2 * decay[7]
            own = mine.bias[u]
            total = 0.0
            for e in range(start[u], start[u + 1]):
                i = other[e]
                score = zero_vector(work)
                for k in range(0, W, lanes):
                    p = load(mine.factors, u, k)
                    if N_BAGS > 0:
                        p = p + (load(work, 1, k) * rho1 + load(work, 2, k) * s1)  # (S1)
                    if N_BAGS > 1:
                        p = p + (load(work, 3, k) * rho2 + load(work, 4, k) * s2)
                    store(work, 0, k, p)
                    score = score + p * (load(theirs.factors, i, k) + load(still.factors, i, k))
                s = horizontal_sum(score) + (own + (rho_b1 * x1 + s1 * a1) + (rho_b2 * x2 + s2 * a2))
                s += theirs.bias[i] + still.bias[i] + mean
                value, g = LOSS(s, real(target[e]), real(FACTOR), RANGED, low, high, unit)
                if WEIGHTED:
                    value, g = times(real(weight[e]), value), times(real(weight[e]), g)
                total += value
                g_m, g_t, g_1, g_2 = lr_m * g, lr_t * g, lr_1 * g, lr_2 * g
                for k in range(0, W, lanes):
                    p, q, own_p = load(work, 0, k), load(theirs.factors, i, k), load(mine.factors, u, k)
                    d = q + load(still.factors, i, k)
                    store(theirs.factors, i, k, plus(q, q * fall_t) - p * g_t)
                    store(mine.factors, u, k, plus(own_p, own_p * fall_m) - d * g_m)
                    if N_BAGS > 0:
                        a = load(work, 2, k)
                        store(work, 2, k, plus(a, a * fall_1) - d * g_1)  # (S1)
                    if N_BAGS > 1:
                        a = load(work, 4, k)
                        store(work, 4, k, plus(a, a * fall_2) - d * g_2)
                theirs.bias[i] += fall_tb * theirs.bias[i] - lr_tb * g
                own += fall_mb * own - lr_mb * g
                if N_BAGS > 0:
                    a1 += fall_b1 * a1 - lr_b1 * g
                    rho1 += fall_1 * rho1
                    rho_b1 += fall_b1 * rho_b1
                if N_BAGS > 1:
                    a2 += fall_b2 * a2 - lr_b2 * g
                    rho2 += fall_2 * rho2
                    rho_b2 += fall_b2 * rho_b2
            mine.bias[u] = own
            if N_BAGS > 0:
                spread(W, one, u, work, 1, rho1, rho_b1, a1)
            if N_BAGS > 1:
                spread(W, two, u, work, 3, rho2, rho_b2, a2)
            totals[t] = total
            if not np.isfinite(total):
                break
        exchange_mxcsr(control)

    return train


@kernel
def add_kernel(W, bag, out):
    """Add F Y (F15) to the rows of `out`."""
    lanes = count_lanes(out.factors)
    for r in range(len(bag.start) - 1):
        for e in range(bag.start[r], bag.start[r + 1]):
            j, f = bag.entry[e], bag.value[e]
            for k in range(0, W, lanes):
                store(out.factors, r, k, load(out.factors, r, k) + load(bag.factors, j, k) * f)
            out.bias[r] += f * bag.bias[j]
