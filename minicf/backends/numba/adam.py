"""Adam and AdamW on dense rows at sparse cost: idle steps summed in closed form, or replayed.

With dense semantics a row without a rating in the batch moves all the same (see the top of the package).

Without l2 the moments only fade: after j idle steps m beta1^j and v beta2^j. With r = sqrt(v), t the step of the j-th
move, c_t = sqrt(1 - beta2^t), a_t = lr_t / (1 - beta1^t) and f_t = 1 - lr_t lambda, (U8) sums to

    (C3)  w' = F (w - m S),  F = prod f_t,
          S = sum_j A_j / (r + eps e_j),  e_j = c_t beta2^(-j/2),
          A_j = a_t c_t (beta1 / sqrt beta2)^j / prod_(i<=j) f_i

e_j hardly changes over the few dozen steps in which A_j counts. Around their mean E (weights A_j), with
x = eps E / (r + eps E) <= 1 and C_p the central moments of e_j / E,

    (C4)  S = (sum A_j) / (r + eps E) * (1 + C_2 x^2 - C_3 x^3 + C_4 x^4 - C_5 x^5 + …)

one square root and one division an element, however long the gap. The remainder is at most C_6, largest where r = 0;
a table of C_6 by step says from where on it is below `TOLERANCE` (from about step 200 for the default betas: the
bias correction c_t must have calmed down); before that, the steps are replayed. The raw moments of all later steps
follow from a backward recurrence over the steps of a call,

    (C5)  M_p(s) = (beta1 beta2^(-(p+1)/2) / f_s) (a_s c_s c_s^p + M_p(s + 1)),

and those of a range s … t-1 are M_p(s) - (beta1 beta2^(-(p+1)/2))^(t-s) / F(s, t) M_p(t).

With l2 the steps are not linear and have no such sum: they are replayed, row by row, with the row in the fastest cache.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minicf.backends.numba.jit import inline, kernel
from minicf.backends.numba.vectors import count_lanes, inverse_root, load, plus, store

TOLERANCE = 3e-8
"""Largest relative truncation error of (C4): half a unit in the last place of float32."""

TERMS = 6
"""Raw moments M_0 … M_5 of (C5) that a catch-up uses; M_6 bounds the error."""


class AdamTables(NamedTuple):
    """Scalars of each step of the call, and the tables of (C3) … (C5)."""

    scalars: Any  # (steps, 4): -lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), eps of tables ((U9) if sparse), -lr
    fresh: Any  # (2,): 1 - beta1, 1 - beta2: the weight of a new gradient in a moment
    powers: Any  # (steps + 2, 4): beta1^n, beta2^n, and the rounding error of each
    sums: Any  # (classes, steps + 1, 7) float64: M_0 … M_5, and the product of f over the steps before
    fades: Any  # (steps + 2, 2) float64: (beta1 / sqrt beta2)^n, beta2^(-n/2)
    good: Any  # (classes, steps + 1) bool: (C4) is exact enough from here on
    eps: Any


@kernel
def moment_tables(lr, first_step, beta1, beta2, shrink, sums, good, tolerance):
    """Fill the sums of (C5), backwards over the steps of a call, and mark the steps from which (C4) is exact enough.

    `lr` (steps,), `first_step` the number of steps before the call; `sums` (steps + 1, 7) and `good` (steps + 1,) are
    filled.
    """
    steps = len(lr)
    sums[0, 6] = 1.0
    for s in range(steps):
        sums[s + 1, 6] = sums[s, 6] * (1.0 - lr[s] * shrink)
    h = beta2**-0.5
    m = np.zeros(7)
    nu = np.zeros(7)
    for p in range(6):
        sums[steps, p] = 0.0
    good[steps] = True
    usable = sums[steps, 6] > 1e-200 and beta1 > 0.0
    for s in range(steps - 1, -1, -1):
        t = first_step + s + 1
        c = math.sqrt(-math.expm1(t * math.log(beta2))) if beta2 > 0.0 else 1.0
        a = lr[s] * c / -math.expm1(t * math.log(beta1)) if beta1 > 0.0 else lr[s] * c
        factor = beta1 * h / (1.0 - lr[s] * shrink)
        for p in range(7):
            m[p] = factor * (a + m[p])
            a *= c
            factor *= h
        for p in range(6):
            sums[s, p] = m[p]
        good[s] = False
        if usable and m[0] > 0.0 and m[6] < 1e100:
            for p in range(7):
                nu[p] = m[p] / m[0]
            e = nu[1]
            e2 = e * e
            sixth = (
                nu[6] - 6 * e * nu[5] + 15 * e2 * nu[4] - 20 * e2 * e * nu[3] + 15 * e2 * e2 * nu[2] - 5 * e2 * e2 * e2
            )
            good[s] = sixth < tolerance * e2 * e2 * e2
        elif usable and m[0] == 0.0:
            good[s] = True  # learning rates of 0: nothing moves


@inline
def _idle_step(w, m, v, l2, c1, c2, step, root, eps):
    """Compute an idle step of a vector: the move (U8), and the moments (U6, U7) as m + (1 - beta1) (g - m)."""
    g = l2 * w
    m = plus(m, c1 * (g - m))
    v = plus(v, c2 * (g * g - v))
    return step * m * inverse_root(v, root, eps), m, v


@inline
def replay_row(W, table, row, scalars, fresh, decay, start, stop):
    """Replay idle steps start … stop-1 of a row, in registers; four vectors at once, so that none waits."""
    lanes = count_lanes(table)
    c1, c2 = fresh[0], fresh[1]
    whole = W // (4 * lanes) * 4 * lanes
    for k in range(0, whole, 4 * lanes):
        k1, k2, k3 = k + lanes, k + 2 * lanes, k + 3 * lanes
        w0, m0, v0 = load(table, row, k), load(table, row, W + k), load(table, row, 2 * W + k)
        w1, m1, v1 = load(table, row, k1), load(table, row, W + k1), load(table, row, 2 * W + k1)
        w2, m2, v2 = load(table, row, k2), load(table, row, W + k2), load(table, row, 2 * W + k2)
        w3, m3, v3 = load(table, row, k3), load(table, row, W + k3), load(table, row, 2 * W + k3)
        l0, l1, l2, l3 = load(decay, 0, k), load(decay, 0, k1), load(decay, 0, k2), load(decay, 0, k3)
        s0, s1, s2, s3 = load(decay, 1, k), load(decay, 1, k1), load(decay, 1, k2), load(decay, 1, k3)
        for t in range(start, stop):
            step, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
            move0, m0, v0 = _idle_step(w0, m0, v0, l0, c1, c2, step, root, eps)
            w0 = plus(w0, lr * s0 * w0 + move0)
            move1, m1, v1 = _idle_step(w1, m1, v1, l1, c1, c2, step, root, eps)
            w1 = plus(w1, lr * s1 * w1 + move1)
            move2, m2, v2 = _idle_step(w2, m2, v2, l2, c1, c2, step, root, eps)
            w2 = plus(w2, lr * s2 * w2 + move2)
            move3, m3, v3 = _idle_step(w3, m3, v3, l3, c1, c2, step, root, eps)
            w3 = plus(w3, lr * s3 * w3 + move3)
        for j, w, m, v in ((k, w0, m0, v0), (k1, w1, m1, v1), (k2, w2, m2, v2), (k3, w3, m3, v3)):
            store(table, row, j, w)
            store(table, row, W + j, m)
            store(table, row, 2 * W + j, v)
    twos = whole + (W - whole) // (2 * lanes) * 2 * lanes
    for k in range(whole, twos, 2 * lanes):
        k1 = k + lanes
        w0, m0, v0 = load(table, row, k), load(table, row, W + k), load(table, row, 2 * W + k)
        w1, m1, v1 = load(table, row, k1), load(table, row, W + k1), load(table, row, 2 * W + k1)
        l0, l1, s0, s1 = load(decay, 0, k), load(decay, 0, k1), load(decay, 1, k), load(decay, 1, k1)
        for t in range(start, stop):
            step, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
            move0, m0, v0 = _idle_step(w0, m0, v0, l0, c1, c2, step, root, eps)
            w0 = plus(w0, lr * s0 * w0 + move0)
            move1, m1, v1 = _idle_step(w1, m1, v1, l1, c1, c2, step, root, eps)
            w1 = plus(w1, lr * s1 * w1 + move1)
        for j, w, m, v in ((k, w0, m0, v0), (k1, w1, m1, v1)):
            store(table, row, j, w)
            store(table, row, W + j, m)
            store(table, row, 2 * W + j, v)
    for k in range(twos, W, lanes):
        w, m, v = load(table, row, k), load(table, row, W + k), load(table, row, 2 * W + k)
        l0, s0 = load(decay, 0, k), load(decay, 1, k)
        for t in range(start, stop):
            step, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
            move, m, v = _idle_step(w, m, v, l0, c1, c2, step, root, eps)
            w = plus(w, lr * s0 * w + move)
        store(table, row, k, w)
        store(table, row, W + k, m)
        store(table, row, 2 * W + k, v)


@inline
def replay_rows(W, table, r0, r1, r2, r3, r4, r5, r6, r7, scalars, fresh, decay, start, stop):
    """Replay idle steps of eight rows with "l2": eight vectors at once hide how long a root and a division take.

    A row may be given several times: it is then moved each time from the same values to the same.
    """
    lanes = count_lanes(table)
    c1, c2 = fresh[0], fresh[1]
    for k in range(0, W, lanes):
        d = load(decay, 0, k)
        w0, m0, v0 = load(table, r0, k), load(table, r0, W + k), load(table, r0, 2 * W + k)
        w1, m1, v1 = load(table, r1, k), load(table, r1, W + k), load(table, r1, 2 * W + k)
        w2, m2, v2 = load(table, r2, k), load(table, r2, W + k), load(table, r2, 2 * W + k)
        w3, m3, v3 = load(table, r3, k), load(table, r3, W + k), load(table, r3, 2 * W + k)
        w4, m4, v4 = load(table, r4, k), load(table, r4, W + k), load(table, r4, 2 * W + k)
        w5, m5, v5 = load(table, r5, k), load(table, r5, W + k), load(table, r5, 2 * W + k)
        w6, m6, v6 = load(table, r6, k), load(table, r6, W + k), load(table, r6, 2 * W + k)
        w7, m7, v7 = load(table, r7, k), load(table, r7, W + k), load(table, r7, 2 * W + k)
        for t in range(start, stop):
            step, root, eps = scalars[t, 0], scalars[t, 1], scalars[t, 2]
            move0, m0, v0 = _idle_step(w0, m0, v0, d, c1, c2, step, root, eps)
            move1, m1, v1 = _idle_step(w1, m1, v1, d, c1, c2, step, root, eps)
            move2, m2, v2 = _idle_step(w2, m2, v2, d, c1, c2, step, root, eps)
            move3, m3, v3 = _idle_step(w3, m3, v3, d, c1, c2, step, root, eps)
            move4, m4, v4 = _idle_step(w4, m4, v4, d, c1, c2, step, root, eps)
            move5, m5, v5 = _idle_step(w5, m5, v5, d, c1, c2, step, root, eps)
            move6, m6, v6 = _idle_step(w6, m6, v6, d, c1, c2, step, root, eps)
            move7, m7, v7 = _idle_step(w7, m7, v7, d, c1, c2, step, root, eps)
            w0, w1, w2, w3 = plus(w0, move0), plus(w1, move1), plus(w2, move2), plus(w3, move3)
            w4, w5, w6, w7 = plus(w4, move4), plus(w5, move5), plus(w6, move6), plus(w7, move7)
        for row, w, m, v in ((r0, w0, m0, v0), (r1, w1, m1, v1), (r2, w2, m2, v2), (r3, w3, m3, v3)):
            store(table, row, k, w)
            store(table, row, W + k, m)
            store(table, row, 2 * W + k, v)
        for row, w, m, v in ((r4, w4, m4, v4), (r5, w5, m5, v5), (r6, w6, m6, v6), (r7, w7, m7, v7)):
            store(table, row, k, w)
            store(table, row, W + k, m)
            store(table, row, 2 * W + k, v)


@inline
def coefficients(real, sums, fades, eps, which, start, stop):
    """Compute the coefficients of (C3), (C4) for steps start … stop-1: F - 1, -F sum A, eps E, C_2 … C_5."""
    n = stop - start
    keep = sums[which, stop, 6] / sums[which, start, 6]
    grow = fades[n, 1]
    factor = fades[n, 0] / keep
    m0 = sums[which, start, 0] - factor * sums[which, stop, 0]
    zero = real(0)
    if m0 <= 0.0:
        return real(keep - 1.0), zero, real(1), zero, zero, zero, zero
    factor *= grow
    e = (sums[which, start, 1] - factor * sums[which, stop, 1]) / m0
    # In units of e, so that the central moments below are of numbers around 1.
    u = 1.0 / e
    factor *= grow
    scale = u * u / m0
    n2 = (sums[which, start, 2] - factor * sums[which, stop, 2]) * scale
    factor *= grow
    scale *= u
    n3 = (sums[which, start, 3] - factor * sums[which, stop, 3]) * scale
    factor *= grow
    scale *= u
    n4 = (sums[which, start, 4] - factor * sums[which, stop, 4]) * scale
    factor *= grow
    scale *= u
    n5 = (sums[which, start, 5] - factor * sums[which, stop, 5]) * scale
    c2 = n2 - 1.0
    c3 = n3 - 3.0 * n2 + 2.0
    c4 = n4 - 4.0 * n3 + 6.0 * n2 - 3.0
    c5 = n5 - 5.0 * n4 + 10.0 * n3 - 10.0 * n2 + 4.0
    return real(keep - 1.0), real(-keep * m0), real(eps * e), real(c2), real(c3), real(c4), real(c5)


@inline
def move_vector(one, w, m, v, less, total, e, c2, c3, c4, c5):
    """Move a vector over a gap (C3, C4); `one` is 1 in the dtype of the rest."""
    d = inverse_root(v, one, e)
    x = e * d
    return plus(w, less * w + total * m * d * (one + x * x * (c2 - x * (c3 - x * (c4 - x * c5)))))


@inline
def move_element(one, w, m, v, less, total, e, c2, c3, c4, c5):
    """Move a single element over a gap (C3, C4); `one` is 1 in the dtype of the rest."""
    d = one / (math.sqrt(v) + e)
    x = e * d
    return plus(w, less * w + total * m * d * (one + x * x * (c2 - x * (c3 - x * (c4 - x * c5)))))


@inline
def replay_unsummable(W, table, last, row, scalars, fresh, decay, good, factors, bias, stop):
    """Replay the steps for which (C4) is not exact enough; return the step at which the row then stands."""
    start = last[row]
    if start == stop or (good[factors, start] and good[bias, start]):
        return start
    until = start + 1  # up to the first step from which both sums are exact enough
    while until < stop and not (good[factors, until] and good[bias, until]):
        until += 1
    replay_row(W, table, row, scalars, fresh, decay, start, until)
    last[row] = until
    return until


@inline
def gather(W, n, rows, table, last, w, t, sparse, scalars, fresh, decay, sums, fades, good, eps, factors, bias, column):
    """Copy the batch's rows into the buffers, caught up to the beginning of step t; moments follow in `scatter`."""
    lanes = count_lanes(table)
    real = table.dtype.type
    for s in range(n):
        row = rows[s]
        start = t if sparse else replay_unsummable(W, table, last, row, scalars, fresh, decay, good, factors, bias, t)
        if start == t:
            for k in range(0, W, lanes):
                store(w, s, k, load(table, row, k))
            continue
        less, total, e, c2, c3, c4, c5 = coefficients(real, sums, fades, eps, factors, start, t)
        for k in range(0, W, lanes):
            m, v = load(table, row, W + k), load(table, row, 2 * W + k)
            moved = move_vector(real(1), load(table, row, k), m, v, less, total, e, c2, c3, c4, c5)
            store(w, s, k, moved)
        if bias != factors:
            less, total, e, c2, c3, c4, c5 = coefficients(real, sums, fades, eps, bias, start, t)
            old_m, old_v = table[row, W + column], table[row, 2 * W + column]
            w[s, column] = move_element(real(1), table[row, column], old_m, old_v, less, total, e, c2, c3, c4, c5)


@inline
def scatter(W, n, rows, table, last, w, g, t, sparse, scalars, fresh, decay, powers, one):
    """Take step t of the batch's rows (U6, U7, U8); the moments fade over the missed steps and this one at once."""
    lanes = count_lanes(table)
    c1, c2 = fresh[0], fresh[1]
    step, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
    for s in range(n):
        row = rows[s]
        gap = 1 if sparse else t + 1 - last[row]
        b1, b2, more1, more2 = powers[gap, 0], powers[gap, 1], powers[gap, 2], powers[gap, 3]
        for k in range(0, W, lanes):
            wk = load(w, s, k)
            gk = load(g, s, k) + load(decay, 0, k) * wk
            mk, vk = load(table, row, W + k), load(table, row, 2 * W + k)
            m = plus(b1 * mk, more1 * mk + c1 * gk)
            v = plus(b2 * vk, more2 * vk + c2 * gk * gk)
            store(table, row, k, plus(wk, lr * load(decay, 1, k) * wk + step * m * inverse_root(v, root, eps)))
            store(table, row, W + k, m)
            store(table, row, 2 * W + k, v)
        if one >= 0:
            for slot in range(3):
                table[row, slot * W + one] = 0
        last[row] = t + 1


@inline
def catch_up(
    W, table, last, first, beyond, steps, scalars, fresh, decay, powers, sums, fades, good, eps, factors, bias, column
):
    """Bring rows first … beyond-1 to the end of the call, where the count of steps starts again."""
    lanes = count_lanes(table)
    real = table.dtype.type
    for row in range(first, beyond):
        start = replay_unsummable(W, table, last, row, scalars, fresh, decay, good, factors, bias, steps)
        last[row] = 0
        if start == steps:
            continue
        w, m, v = table[row, column], table[row, W + column], table[row, 2 * W + column]
        gap = steps - start
        b1, b2, more1, more2 = powers[gap, 0], powers[gap, 1], powers[gap, 2], powers[gap, 3]
        less, total, e, c2, c3, c4, c5 = coefficients(real, sums, fades, eps, factors, start, steps)
        for k in range(0, W, lanes):
            mk, vk = load(table, row, W + k), load(table, row, 2 * W + k)
            moved = move_vector(real(1), load(table, row, k), mk, vk, less, total, e, c2, c3, c4, c5)
            store(table, row, k, moved)
            store(table, row, W + k, plus(b1 * mk, more1 * mk))
            store(table, row, 2 * W + k, plus(b2 * vk, more2 * vk))
        if bias != factors:
            less, total, e, c2, c3, c4, c5 = coefficients(real, sums, fades, eps, bias, start, steps)
            table[row, column] = move_element(real(1), w, m, v, less, total, e, c2, c3, c4, c5)


@inline
def dense_step(w, g, m, v, decay, kind, scalars, fresh, eps, t):
    """Take the optimizer's step on the dense layers: (U1) … (U3), (U6) … (U8)."""
    real = w.dtype.type
    step, root, lr, eps = scalars[t, 0], scalars[t, 1], scalars[t, 3], real(eps)
    c1, c2 = fresh[0], fresh[1]
    added = decay.dtype.type(1 if kind == 1 else 0)
    apart = lr if kind == 2 else real(0)
    for i in range(len(w)):
        old = w[i]
        gi = g[i] + added * decay[i] * old
        mi = plus(m[i], c1 * (gi - m[i]))
        vi = plus(v[i], c2 * (gi * gi - v[i]))
        m[i], v[i] = mi, vi
        w[i] = plus(old, apart * decay[i] * old + step * mi / (math.sqrt(vi) * root + eps))
