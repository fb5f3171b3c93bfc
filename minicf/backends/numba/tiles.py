"""Online SGD (batch size 1) over tiles of ratings that threads share."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minicf.backends.numba.jit import inline, kernel
from minicf.backends.numba.loss import FACTORS
from minicf.backends.numba.vectors import (
    FLUSH_DENORMALS,
    atomic_add,
    count_lanes,
    exchange_mxcsr,
    horizontal_sum,
    load,
    load_invariant,
    plus,
    store,
    times,
    yield_thread,
    zero_vector,
)


@functools.cache
def train_tile(LOSS: Any, WEIGHTED: bool) -> Any:
    """Make the loop of online SGD over the ratings of a tile, with a function of `loss`, and weights or not."""
    FACTOR = FACTORS[LOSS]

    @inline
    def train(
        WHOLE, W, RANGED, user, item, rating, weight, start, stop, users, items, lr, decay, tail, mean, low, high
    ):
        """Train on ratings start … stop-1, one by one: (F2) … (F4), (B4) … (B2), (U2), (U5) with B = 1.

        Columns up to WHOLE are factors. For the columns behind, `tail` holds of both sides lambda, the factor of the
        other row, and the 1 that a bias meets. Return the sum of the losses.
        """
        lanes = count_lanes(users)
        real = users.dtype.type
        back = -lr
        fall, fall_i = back * decay[0], back * decay[1]
        total = 0.0
        for j in range(np.uint64(start), np.uint64(stop)):  # unsigned: no index counts from the end
            u, i = user[j], item[j]
            score = zero_vector(users)
            for k in range(0, WHOLE, lanes):
                score = score + load(users, u, k) * load(items, i, k)
            for k in range(WHOLE, W, lanes):  # there each bias meets a 1
                q, at = load(items, i, k), k - WHOLE
                to_user = load_invariant(tail, 1, at) * q + load_invariant(tail, 2, at)
                score = score + (load(users, u, k) * to_user + load_invariant(tail, 5, at) * q)
            value, g = LOSS(
                horizontal_sum(score) + mean, real(rating[j]), real(FACTOR) * lr, RANGED, low, high, real(1)
            )
            if WEIGHTED:
                value, g = times(real(weight[j]), value), times(real(weight[j]), g)
            total += value
            for k in range(0, WHOLE, lanes):
                p, q = load(users, u, k), load(items, i, k)
                store(users, u, k, plus(p, fall * p) - g * q)
                store(items, i, k, plus(q, fall_i * q) - g * p)
            for k in range(WHOLE, W, lanes):
                p, q, at = load(users, u, k), load(items, i, k), k - WHOLE
                to_user = load_invariant(tail, 1, at) * q + load_invariant(tail, 2, at)
                to_item = load_invariant(tail, 4, at) * p + load_invariant(tail, 5, at)
                store(users, u, k, plus(p, back * load_invariant(tail, 0, at) * p) - g * to_user)
                store(items, i, k, plus(q, back * load_invariant(tail, 3, at) * q) - g * to_item)
        return total

    return train


@functools.cache
def tile_kernel(WHOLE: int, W: int, RANGED: bool, LOSS: Any, WEIGHTED: bool) -> Any:
    """Make the loop of `train_tile` over the tiles that threads share, for a width of rows and a function of `loss`."""

    run_tile = train_tile(LOSS, WEIGHTED)

    @kernel
    def train(
        user,
        item,
        rating,
        weight,
        bounds,
        rounds,
        shared,
        totals,
        users,
        items,
        lr,
        decay,
        tail,
        mean,
        low,
        high,
    ):
        """Train tiles in the order of the rounds.

        A tile waits for those that had its users or its items in the round before, not for the whole round; as tiles
        are taken in order, the first that is not done never waits.
        """
        control = exchange_mxcsr(FLUSH_DENORMALS)
        n_rounds, n_blocks = totals.shape
        while True:
            next_tile = atomic_add(shared, 0, 1)
            if next_tile >= n_rounds * n_blocks:
                break
            r, b = next_tile // n_blocks, next_tile % n_blocks
            # Rounds done by this block of users, and by this block of items.
            of_users, of_items = 1 + b, 1 + n_blocks + (b + rounds[r]) % n_blocks
            while atomic_add(shared, of_users, 0) < r or atomic_add(shared, of_items, 0) < r:
                yield_thread()
            totals[r, b] = run_tile(
                WHOLE, W, RANGED, user, item, rating, weight, bounds[r, b], bounds[r, b + 1], users, items, lr[r],
                decay, tail, mean, low, high,
            )  # fmt: skip
            atomic_add(shared, of_users, 1)
            atomic_add(shared, of_items, 1)
        exchange_mxcsr(control)

    return train
