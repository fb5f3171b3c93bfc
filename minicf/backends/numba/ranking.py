"""Losses with negatives: online SGD (batch size 1) event by event, and the pairs of mini-batches."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from minicf import rng
from minicf.backends.numba.jit import inline, kernel
from minicf.backends.numba.nets import stream_key
from minicf.backends.numba.passes import GOLDEN, mix
from minicf.backends.numba.vectors import (
    FLUSH_DENORMALS,
    atomic_add,
    count_lanes,
    exchange_mxcsr,
    horizontal_sum,
    load,
    load_invariant,
    plus,
    prefetch,
    store,
    times,
    yield_thread,
    zero_vector,
)
from minicf.data.negatives import TRIES

_AHEAD = 8
"""Events whose negatives are drawn, and whose rows are fetched, before it is their turn."""


# --- what is drawn --------------------------------------------------------------------------------------------------


@inline
def draw(seed, step, position, user, first, n, seen_start, seen_index):
    """Draw a negative, that of `data.negatives.Draw.negatives`: from items first … first + n - 1, seen ones anew."""
    item = first
    for attempt in range(TRIES):
        z = stream_key(seed, np.uint64(rng.NEGATIVE), np.uint64(attempt), step)
        high = mix(z + (position + np.uint64(1)) * GOLDEN) >> np.uint64(32)
        item = first + np.int64((high * np.uint64(n)) >> np.uint64(32))
        low, high_end = seen_start[user], seen_start[user + 1]
        end = high_end
        while low < high_end:
            middle = (low + high_end) >> 1
            if seen_index[middle] < item:
                low = middle + 1
            else:
                high_end = middle
        if low == end or seen_index[low] != item:
            break
    return item


@kernel
def draw_pairs(user, item, order, batch, m, seed, t0, n_items, seen_start, seen_index, pair_user, pair_item):
    """Fill the pairs of steps t0 + 1, …: each event of `order`, and behind it its m negatives."""
    for j in range(len(order)):
        e = order[j]
        step, b = np.uint64(t0 + 1 + j // batch), j % batch
        at = j * (m + 1)
        pair_user[at], pair_item[at] = user[e], item[e]
        for c in range(m):
            pair_user[at + 1 + c] = user[e]
            pair_item[at + 1 + c] = draw(
                seed, step, np.uint64(b * m + c), user[e], 0, n_items, seen_start, seen_index
            )  # fmt: skip


# --- an event and its negatives -------------------------------------------------------------------------------------


@inline
def softplus_and_sigmoid(x):
    """Compute log(1 + exp(x)) and 1 / (1 + exp(-x)); exp is taken of -|x| alone, so nothing overflows."""
    one = x - x + 1
    e = math.exp(-abs(x))
    return (x if x > 0 else x - x) + math.log1p(e), (one if x >= 0 else e) / (one + e)


@functools.cache
def pairwise_pass(M: int) -> Any:
    """Make the pass of the dot head over pairs of BPR, each event with its M negatives, in the place of `dot_pass`."""

    @inline
    def run(
        W, wu, wi, gu, gi, place_u, place_i, user, item, rating, weights, order, lo, batch,
        mean, ranged, low, high, weight,
    ):  # fmt: skip
        """Run (F2), (F3), (F12) and (B12), (B3), (B2); a weight of a pair is (1 + M) times that of its event."""
        lanes = count_lanes(wu)
        real = wu.dtype.type
        total = 0.0
        y = np.empty(1 + M, wu.dtype)
        for first in range(0, batch, 1 + M):
            p = place_u[first]
            for c in range(1 + M):
                q = place_i[first + c]
                score = zero_vector(wu)
                for k in range(0, W, lanes):
                    score = score + load(wu, p, k) * load(wi, q, k)
                y[c] = horizontal_sum(score)
            at = order[lo + first]
            share = real(weights[at]) * real(rating[at]) / real(M)
            value, of_event = real(0), real(0)
            for c in range(1, 1 + M):
                soft, g = softplus_and_sigmoid(y[c] - y[0])
                value += share * soft
                y[c] = real(weight) / real(batch) * share * g
                of_event -= y[c]
            y[0] = of_event
            total += value
            for c in range(1 + M):
                q, d = place_i[first + c], y[c]
                for k in range(0, W, lanes):
                    store(gu, p, k, load(gu, p, k) + d * load(wi, q, k))
                    store(gi, q, k, load(gi, q, k) + d * load(wu, p, k))
        return total

    return run


@functools.cache
def train_events(M: int, PAIRWISE: bool, WEIGHTED: bool) -> Any:
    """Make the loop of online SGD over events with M negatives: BPR (PAIRWISE) or the logistic loss."""

    @inline
    def train(
        WHOLE, W, user, item, target, weight, start, stop, first, n, seen_start, seen_index, seed, t0, rates, at,
        omega, per_pair, users, items, decay, tail, mean,
    ):  # fmt: skip
        """Train on events start … stop-1, one by one: (F2), (F3), (F11) or (F12), back, and (U2), (U5) with B = 1.

        Event `start` is number `at` of the call. An item that occurs in several pairs of an event is one row, which
        moves once by the sum of its gradients. With `per_pair` a row decays by its share of the pairs. For `tail` see
        `tiles.train_tile`. Return the sum of the losses, and the number of events before one whose loss is not finite.
        """
        lanes = count_lanes(users)
        real = users.dtype.type
        width_u, width_i = users.shape[1], items.shape[1]
        ring = np.empty((_AHEAD, M), np.int64)
        rows, count, of = np.empty(1 + M, np.int64), np.empty(1 + M, np.int64), np.empty(1 + M, np.int64)
        s, g = np.empty(1 + M, users.dtype), np.empty(1 + M, users.dtype)
        one = real(1)
        share = omega / real(M)
        total = 0.0
        for j in range(start - _AHEAD, stop):
            ahead = j + _AHEAD
            if j >= start:
                u, i = user[j], item[j]
                rows[0], count[0], of[0], g[0] = i, 1, 0, real(0)
                n_rows = 1
                for c in range(M):
                    v, r = ring[(j - start) % _AHEAD, c], 0
                    while r < n_rows and rows[r] != v:
                        r += 1
                    if r == n_rows:
                        rows[r], count[r], g[r] = v, 0, real(0)
                        n_rows += 1
                    count[r] += 1
                    of[1 + c] = r
            if ahead < stop:  # after the ring's entry of the event in hand was read
                v = np.int64(user[ahead])
                step = np.uint64(t0 + 1 + at + ahead - start)
                for c in range(M):
                    ring[(ahead - start) % _AHEAD, c] = draw(
                        seed, step, np.uint64(c), v, first, n, seen_start, seen_index
                    )  # fmt: skip
                for k in range(0, W, lanes):
                    prefetch(users, v * width_u + k)
                    prefetch(items, item[ahead] * width_i + k)
                    for c in range(M):
                        prefetch(items, ring[(ahead - start) % _AHEAD, c] * width_i + k)
            if j < start:
                continue
            for r in range(n_rows):
                score = zero_vector(users)
                for k in range(0, WHOLE, lanes):
                    score = score + load(users, u, k) * load(items, rows[r], k)
                for k in range(WHOLE, W, lanes):  # there each bias meets a 1
                    q, x = load(items, rows[r], k), k - WHOLE
                    to_user = load_invariant(tail, 1, x) * q + load_invariant(tail, 2, x)
                    score = score + (load(users, u, k) * to_user + load_invariant(tail, 5, x) * q)
                s[r] = horizontal_sum(score) + mean
            t = real(target[j])
            if PAIRWISE:
                value = real(0)
                for c in range(1, 1 + M):
                    soft, slope = softplus_and_sigmoid(s[of[c]] - s[0])  # (F12), (B12)
                    value += t / real(M) * soft
                    g[of[c]] += t / real(M) * slope
                    g[0] -= t / real(M) * slope
            else:
                soft, slope = softplus_and_sigmoid(s[0])  # (F11), (B11)
                value = soft - t * s[0]
                g[0] += slope - t
                for c in range(1, 1 + M):
                    soft, slope = softplus_and_sigmoid(s[of[c]])
                    value += share * soft
                    g[of[c]] += share * slope
            if WEIGHTED:
                value = times(real(weight[j]), value)
            if not np.isfinite(value):
                return total, j - start
            total += value
            lr = rates[at + j - start]
            back = -lr
            for r in range(n_rows):
                g[r] *= times(lr, real(weight[j])) if WEIGHTED else lr
            for k in range(0, WHOLE, lanes):
                p, d = load(users, u, k), zero_vector(users)
                for r in range(n_rows):
                    q = load(items, rows[r], k)
                    d = d + g[r] * q
                    fall = back * decay[1] * (real(count[r]) / real(1 + M) if per_pair else one)
                    store(items, rows[r], k, plus(q, fall * q) - g[r] * p)
                store(users, u, k, plus(p, back * decay[0] * p) - d)
            for k in range(WHOLE, W, lanes):
                p, d, x = load(users, u, k), zero_vector(users), k - WHOLE
                to_item = load_invariant(tail, 4, x) * p + load_invariant(tail, 5, x)
                for r in range(n_rows):
                    q = load(items, rows[r], k)
                    d = d + g[r] * (load_invariant(tail, 1, x) * q + load_invariant(tail, 2, x))
                    fall = back * (real(count[r]) / real(1 + M) if per_pair else one)
                    store(items, rows[r], k, plus(q, fall * load_invariant(tail, 3, x) * q) - g[r] * to_item)
                store(users, u, k, plus(p, back * load_invariant(tail, 0, x) * p) - d)
        return total, stop - start

    return train


@functools.cache
def events_kernel(WHOLE: int, W: int, M: int, PAIRWISE: bool, WEIGHTED: bool) -> Any:
    """Make the loop of `train_events` over the tiles that threads share; all events may be one tile of one round."""
    run_tile = train_events(M, PAIRWISE, WEIGHTED)

    @kernel
    def train(
        user, item, target, weight, bounds, offsets, rounds, shared, totals, done, starts, seen_start, seen_index,
        seed, t0, rates, omega, per_pair, users, items, decay, tail, mean,
    ):  # fmt: skip
        """Train tiles in the order of the rounds, as `tiles.tile_kernel`; negatives are items of the tile's block."""
        control = exchange_mxcsr(FLUSH_DENORMALS)
        n_rounds, n_blocks = totals.shape
        while True:
            next_tile = atomic_add(shared, 0, 1)
            if next_tile >= n_rounds * n_blocks:
                break
            r, b = next_tile // n_blocks, next_tile % n_blocks
            block = (b + rounds[r]) % n_blocks
            of_users, of_items = 1 + b, 1 + n_blocks + block
            while atomic_add(shared, of_users, 0) < r or atomic_add(shared, of_items, 0) < r:
                yield_thread()
            totals[r, b], done[r, b] = run_tile(
                WHOLE, W, user, item, target, weight, bounds[r, b], bounds[r, b + 1], starts[block],
                starts[block + 1] - starts[block], seen_start, seen_index, seed, t0, rates,
                offsets[r] + bounds[r, b] - bounds[r, 0], omega, per_pair, users, items, decay, tail, mean,
            )  # fmt: skip
            atomic_add(shared, of_users, 1)
            atomic_add(shared, of_items, 1)
        exchange_mxcsr(control)

    return train
