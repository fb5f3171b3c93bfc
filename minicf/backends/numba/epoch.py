"""Whole epochs in compiled code: gather the batch's rows, compute loss and gradients, step, scatter.

A table and its optimizer state are one array. A row is ``[weights | slot 1 | slot 2]``, each part W numbers wide: K
factors, the bias, a column for the other side's bias, zeros up to a multiple of 64 bytes. During a step the rows of
the batch are copied into small buffers, where the user's row reads ``[p, b_u, 1, 0…]`` and the item's
``[q, 1, c_i, 0…]``: one dot product of W numbers gives p . q + b_u + c_i (F2, F3), and adding d_s times the other row
gives every gradient (B2, B3). W is a constant of the compiled code, so that these loops become a few wide
instructions.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from minicf.backends.numba import adam, sgd
from minicf.backends.numba.jit import inline, kernel
from minicf.backends.numba.loss import FACTORS
from minicf.backends.numba.nets import net_pass
from minicf.backends.numba.ranking import pairwise_pass
from minicf.backends.numba.vectors import (
    FLUSH_DENORMALS,
    atomic_add,
    count_lanes,
    exchange_mxcsr,
    horizontal_sum,
    load,
    prefetch,
    store,
    times,
    zero_vector,
)

CHUNK = 64
"""Rows that a thread takes to replay at a time."""

_AHEAD = 1024
"""Ratings of the next batch that are fetched at most: more would push the rows out of the cache."""


class Heads(NamedTuple):
    """The dot head, if any, and the sizes of the model."""

    has_dot: Any
    biases: Any
    n_factors: Any
    mean: Any
    ranged: Any
    low: Any
    high: Any
    weight: Any
    dot_index: Any  # its index among the heads


class Side(NamedTuple):
    """The table of users or of items, its buffers and its weight decay."""

    arrays: Any
    """table (rows, slots * W); last (rows,), the step of the call up to which a row has moved; slot (rows,), a row's
    place in the batch's buffers, -1 if none; rows (buffer,), the row of each place; count (buffer,), its ratings in
    the batch; w, g (buffer, W); place (batch,), the place of each rating's row; decay (2, W), lambda of each column
    with "l2" and with "decoupled", one of them 0; touched (rows,), 1 for rows with a rating in a block of steps.
    Indices are int32."""
    factors: Any  # class of weight decay of the factors
    bias: Any  # class of weight decay of the bias
    column: Any  # column of the bias
    one: Any  # column of the 1 that meets the other side's bias, -1 if there are no biases
    share_factors: Any  # lambda of "per_rating"
    share_bias: Any


@inline
def place_rows(index, order, lo, batch, slot, rows, count, place):
    """Give each row of the batch a place in the buffers; return the number of rows."""
    n = 0
    for j in range(batch):
        row = index[order[lo + j]]
        s = slot[row]
        if s < 0:
            s = n
            slot[row] = s
            rows[s] = row
            count[s] = 0
            n += 1
        count[s] += 1
        place[j] = s
    return n


@inline
def begin_gradients(W, n, w, g, count, batch, share_factors, share_bias, column, one):
    """Start gradients at 0, or at the decay of "per_rating" (U2); let the other side's bias meet a 1."""
    lanes = count_lanes(w)
    real = w.dtype.type
    for s in range(n):
        if share_factors != 0 or share_bias != 0:
            ratings = real(count[s]) / batch
            share = share_factors * ratings
            for k in range(0, W, lanes):
                store(g, s, k, share * load(w, s, k))
            if one >= 0:
                g[s, column] = share_bias * ratings * w[s, column]
        else:
            for k in range(0, W, lanes):
                store(g, s, k, zero_vector(g))
        if one >= 0:
            w[s, one] = 1


@inline
def release_rows(n, slot, rows, g, one):
    """Free the places; clear the gradient of the constant 1, which is no weight."""
    for s in range(n):
        slot[rows[s]] = -1
        if one >= 0:
            g[s, one] = 0


@functools.cache
def dot_pass(LOSS: Any, WEIGHTED: bool) -> Any:
    """Make the pass of the dot head over a batch, with a function of `loss`, and weights of examples or not."""
    FACTOR = FACTORS[LOSS]

    @inline
    def run(
        W, wu, wi, gu, gi, place_u, place_i, user, item, rating, weights, order, lo, batch,
        mean, ranged, low, high, weight,
    ):  # fmt: skip
        """Run the dot head on a batch, rating by rating: (F2) … (F9) and (B9) … (B2); return the sum of the losses.

        Meanwhile the ratings of the next batch are fetched: they lie anywhere in a table that may be larger than any
        cache.
        """
        lanes = count_lanes(wu)
        real = wu.dtype.type
        total = 0.0
        scale = real(weight * FACTOR / batch)
        for j in range(batch):
            if j < _AHEAD and lo + batch + j < len(order):
                ahead = order[lo + batch + j]
                prefetch(user, ahead)
                prefetch(item, ahead)
                prefetch(rating, ahead)
                if WEIGHTED:
                    prefetch(weights, ahead)
            p, q = place_u[j], place_i[j]
            score = zero_vector(wu)
            for k in range(0, W, lanes):
                score = score + load(wu, p, k) * load(wi, q, k)
            s, r = horizontal_sum(score) + mean, real(rating[order[lo + j]])
            value, d = LOSS(s, r, scale, ranged, low, high, real(1))
            if WEIGHTED:
                value, d = times(real(weights[order[lo + j]]), value), times(real(weights[order[lo + j]]), d)
            total += value
            for k in range(0, W, lanes):
                store(gu, p, k, load(gu, p, k) + d * load(wi, q, k))
                store(gi, q, k, load(gi, q, k) + d * load(wu, p, k))
        return total

    return run


@functools.cache
def epoch_kernel(W: int, SLOTS: int, NET: bool, LOSS: Any, WEIGHTED: bool, PAIRWISE: int = 0) -> Any:
    """Make the training loop for a padded width, an optimizer (1: SGD, 2: momentum, 3: Adam), nets or not, and a loss.

    `LOSS` is a function of `loss`; WEIGHTED says whether examples have weights. PAIRWISE, if not 0, is the number of
    negatives behind each event for BPR, which takes the place of LOSS.
    """
    ADAM = SLOTS == 3
    run_dot, run_nets = pairwise_pass(PAIRWISE) if PAIRWISE else dot_pass(LOSS, WEIGHTED), net_pass(LOSS, WEIGHTED)

    @kernel
    def train(
        user, item, rating, weights, order, batch_size, users, items, heads, nets, opt, sparse, catch_up, seed, t0,
        total,
    ):  # fmt: skip
        # Unpacked once: reading an array out of a tuple counts references, which costs more than the work.
        u_table, u_last, u_slot, u_rows, u_count, u_w, u_g, u_place, u_decay, _ = users.arrays
        i_table, i_last, i_slot, i_rows, i_count, i_w, i_g, i_place, i_decay, _ = items.arrays
        ucf, ucb, uc, uo = users.factors, users.bias, users.column, users.one
        icf, icb, ic, io = items.factors, items.bias, items.column, items.one
        if ADAM:
            scalars, fresh, powers = opt.scalars, opt.fresh, opt.powers
            sums, fades, good, eps = opt.sums, opt.fades, opt.good, opt.eps
        else:
            products, constant, logs, inject = opt.products, opt.constant, opt.logs, opt.inject
        real = u_w.dtype.type
        control = exchange_mxcsr(FLUSH_DENORMALS)
        n = len(order)
        steps = (n + batch_size - 1) // batch_size
        totals = np.zeros(len(total))
        done = steps
        for t in range(steps):
            lo = t * batch_size
            batch = min(batch_size, n - lo)
            nu = place_rows(user, order, lo, batch, u_slot, u_rows, u_count, u_place)
            ni = place_rows(item, order, lo, batch, i_slot, i_rows, i_count, i_place)
            if ADAM:
                adam.gather(
                    W, nu, u_rows, u_table, u_last, u_w, t, sparse, scalars, fresh, u_decay, sums, fades, good,
                    eps, ucf, ucb, uc,
                )  # fmt: skip
                adam.gather(
                    W, ni, i_rows, i_table, i_last, i_w, t, sparse, scalars, fresh, i_decay, sums, fades, good,
                    eps, icf, icb, ic,
                )  # fmt: skip
            else:
                sgd.gather(
                    W, SLOTS, nu, u_rows, u_table, u_last, u_w, t, sparse, products, constant, logs, ucf, ucb, uc
                )
                sgd.gather(
                    W, SLOTS, ni, i_rows, i_table, i_last, i_w, t, sparse, products, constant, logs, icf, icb, ic
                )
            begin_gradients(W, nu, u_w, u_g, u_count, real(batch), users.share_factors, users.share_bias, uc, uo)
            begin_gradients(W, ni, i_w, i_g, i_count, real(batch), items.share_factors, items.share_bias, ic, io)
            if heads.has_dot:
                totals[heads.dot_index] = run_dot(
                    W, u_w, i_w, u_g, i_g, u_place, i_place, user, item, rating, weights, order, lo, batch,
                    heads.mean, heads.ranged, heads.low, heads.high, heads.weight,
                )  # fmt: skip
            if NET:
                run_nets(
                    nets, u_w, i_w, u_g, i_g, u_place, i_place, heads.n_factors, rating, weights, order, lo, batch,
                    totals, seed, np.uint64(t0 + t + 1),
                )  # fmt: skip
            release_rows(nu, u_slot, u_rows, u_g, uo)
            release_rows(ni, i_slot, i_rows, i_g, io)
            if not np.isfinite(totals).all():
                done = t
                break
            if ADAM:
                adam.scatter(W, nu, u_rows, u_table, u_last, u_w, u_g, t, sparse, scalars, fresh, u_decay, powers, uo)
                adam.scatter(W, ni, i_rows, i_table, i_last, i_w, i_g, t, sparse, scalars, fresh, i_decay, powers, io)
            else:
                sgd.scatter(
                    W, SLOTS, nu, u_rows, u_table, u_last, u_g, t, sparse, products, constant, logs,
                    ucf, ucb, uc, inject,
                )  # fmt: skip
                sgd.scatter(
                    W, SLOTS, ni, i_rows, i_table, i_last, i_g, t, sparse, products, constant, logs,
                    icf, icb, ic, inject,
                )  # fmt: skip
            if NET:
                if ADAM:
                    adam.dense_step(
                        nets.w, nets.d_w, nets.slot1, nets.slot2, nets.decay, nets.kind, scalars, fresh, eps, t
                    )
                else:
                    sgd.dense_step(
                        nets.w, nets.d_w, nets.slot1, nets.decay, nets.kind, opt.rate[t], opt.momentum, opt.nesterov
                    )
            for h in range(len(totals)):
                total[h] += totals[h]
        if sparse:
            u_last[:] = 0
            i_last[:] = 0
        elif ADAM:
            if catch_up:
                adam.catch_up(
                    W, u_table, u_last, 0, len(u_table), done, scalars, fresh, u_decay, powers, sums, fades, good, eps,
                    ucf, ucb, uc,
                )  # fmt: skip
                adam.catch_up(
                    W, i_table, i_last, 0, len(i_table), done, scalars, fresh, i_decay, powers, sums, fades, good, eps,
                    icf, icb, ic,
                )  # fmt: skip
        else:
            sgd.catch_up(W, SLOTS, u_table, u_last, done, products, constant, logs, ucf, ucb, uc)
            sgd.catch_up(W, SLOTS, i_table, i_last, done, products, constant, logs, icf, icb, ic)
        exchange_mxcsr(control)
        return -1 if done == steps else done

    return train


@functools.cache
def replay_kernel(W: int) -> Any:
    """Make the kernel that replays idle steps of Adam with l2 to the end of a block of steps, for a padded width."""

    @kernel
    def replay(users, items, touched, steps, opt, claims):
        """Replay rows with a rating in the block, or all others; chunk by chunk, as long as `claims` has one left."""
        control = exchange_mxcsr(FLUSH_DENORMALS)
        scalars, fresh, powers, sums, fades = opt.scalars, opt.fresh, opt.powers, opt.sums, opt.fades
        good, eps = opt.good, opt.eps
        n_users, n_items = len(users.arrays[0]), len(items.arrays[0])
        first_of_items = (n_users + CHUNK - 1) // CHUNK
        group = np.zeros(8, np.int64)  # rows at the beginning of the block
        chunks = first_of_items + (n_items + CHUNK - 1) // CHUNK
        while True:
            chunk = atomic_add(claims, 0, 1)
            if chunk >= chunks:
                break
            of_users = chunk < first_of_items
            arrays = users.arrays if of_users else items.arrays
            factors, bias = (users.factors, users.bias) if of_users else (items.factors, items.bias)
            column = users.column if of_users else items.column
            table, last, decay, marks = arrays[0], arrays[1], arrays[8], arrays[9]
            first = (chunk if of_users else chunk - first_of_items) * CHUNK
            beyond = min(first + CHUNK, len(table))
            summed = good[factors, steps] and good[bias, steps]  # a table without decay beside one with decay
            n = 0
            for row in range(first, beyond):
                if marks[row] == touched:
                    if last[row] > 0 or summed:
                        adam.catch_up(
                            W, table, last, row, row + 1, steps, scalars, fresh, decay, powers, sums, fades, good, eps,
                            factors, bias, column,
                        )  # fmt: skip
                    else:
                        group[n] = row
                        n += 1
                if n == 8 or (n > 0 and row == beyond - 1):
                    group[n:] = group[n - 1]
                    adam.replay_rows(
                        W, table, group[0], group[1], group[2], group[3], group[4], group[5], group[6], group[7],
                        scalars, fresh, decay, 0, steps,
                    )  # fmt: skip
                    n = 0
        exchange_mxcsr(control)

    return replay


@functools.cache
def predict_kernel(W: int) -> Any:
    """Make the kernel that predicts pairs with the dot head."""

    @kernel
    def predict(user, item, users, items, heads, column_u, column_i, out):
        real = out.dtype.type
        K = heads.n_factors
        for j in range(len(user)):
            u, v = user[j], item[j]
            s = real(0)
            for k in range(W):
                s += users[u, k] * items[v, k]
            if heads.biases:
                s += users[u, column_u] + items[v, column_i]
            s += heads.mean
            out[j] = heads.low + (heads.high - heads.low) / (real(1) + math.exp(-s)) if heads.ranged else s
        return K

    return predict
