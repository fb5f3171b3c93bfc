"""SGD on dense rows at sparse cost: idle steps as products of 2 x 2 matrices.

With dense semantics a row without a rating in the batch moves all the same (see the top of the package). An idle step
of SGD is linear in (w, v). With g = lambda w ("l2"; else 0) and f = 1 - lr lambda ("decoupled"; else 1), (U4) and (U5)
read

    (C1)  v' = mu v + lambda w,   w' = f w - lr v'        so (w', v') = M (w, v),  M = [[f - lr lambda, -lr mu],
                                                                                        [lambda,            mu]]
    (C2)  Nesterov: w' = f w - lr (lambda w + mu v'),      M = [[f - lr lambda (1 + mu), -lr mu^2], [lambda, mu]]

n idle steps are a product of n such matrices, and a step with gradient g adds g (-lr, 1) to the idle one's result
((-lr (1 + mu), 1) with Nesterov's look-ahead). With one learning rate the products are powers, from a table. With a
changing one a product over steps a … b-1 comes from a disjoint sparse table: level l holds, for each block of 2^(l+1)
steps, products from each step to the block's middle and from the middle to each step; any range is one of the first
times one of the second. (Prefix products with inverses would lose all digits: det M is about mu at every step.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minicf.backends.numba.jit import inline, kernel
from minicf.backends.numba.vectors import count_lanes, load, plus, store


class SGDTables(NamedTuple):
    """Products of idle steps (C1, C2), and the factors of a gradient."""

    products: Any  # (classes, levels, steps + 1 or steps, 4): powers in level 0 if constant, else the sparse table;
    # the upper left number of each is stored less 1
    constant: Any  # whether the learning rate is the same at every step
    logs: Any  # (steps,) uint8: position of the highest bit
    inject: Any  # (steps,): lr, or lr (1 + mu) with Nesterov's look-ahead
    rate: Any  # (steps,): lr
    momentum: Any
    nesterov: Any


# --- products of idle steps -----------------------------------------------------------------------------------------


@kernel
def power_table(matrix, out):
    """Fill `out` with powers 0 … n of a 2 x 2 matrix, in float64, rounded once; the upper left number less 1."""
    a, b, c, d = 1.0, 0.0, 0.0, 1.0
    for n in range(out.shape[0]):
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = a - 1.0, b, c, d
        a, b, c, d = (
            matrix[0] * a + matrix[1] * c,
            matrix[0] * b + matrix[1] * d,
            matrix[2] * a + matrix[3] * c,
            matrix[2] * b + matrix[3] * d,
        )


@kernel
def range_table(matrices, out):
    """Fill the disjoint sparse table over matrices (steps, 4).

    `out` (levels, steps, 4); the upper left numbers less 1.
    """
    n = matrices.shape[0]
    for level in range(out.shape[0]):
        half = 1 << level
        for middle in range(half, n + half, 2 * half):
            a, b, c, d = 1.0, 0.0, 0.0, 1.0
            for i in range(middle - 1, middle - half - 1, -1):  # from step i to the middle
                if i < n:
                    m = matrices[i]
                    a, b, c, d = (
                        a * m[0] + b * m[2],
                        a * m[1] + b * m[3],
                        c * m[0] + d * m[2],
                        c * m[1] + d * m[3],
                    )
                    out[level, i, 0], out[level, i, 1], out[level, i, 2], out[level, i, 3] = a - 1.0, b, c, d
            a, b, c, d = 1.0, 0.0, 0.0, 1.0
            for i in range(middle, min(middle + half, n)):  # from the middle to step i
                m = matrices[i]
                a, b, c, d = (
                    m[0] * a + m[1] * c,
                    m[0] * b + m[1] * d,
                    m[2] * a + m[3] * c,
                    m[2] * b + m[3] * d,
                )
                out[level, i, 0], out[level, i, 1], out[level, i, 2], out[level, i, 3] = a - 1.0, b, c, d


@inline
def product(table, constant, logs, which, start, stop):
    """Multiply M of the steps start … stop-1, the last one leftmost; return it with the upper left number less 1."""
    if constant:
        n = stop - start
        return table[which, 0, n, 0], table[which, 0, n, 1], table[which, 0, n, 2], table[which, 0, n, 3]
    one, zero = table.dtype.type(1), table.dtype.type(0)
    if stop <= start:
        return zero, zero, zero, one
    i, j = start, stop - 1
    if i == j:
        return table[which, 0, i, 0], table[which, 0, i, 1], table[which, 0, i, 2], table[which, 0, i, 3]
    early, late = table[which, logs[i ^ j], i], table[which, logs[i ^ j], j]
    return (
        plus(late[0], plus(early[0], late[0] * early[0] + late[1] * early[2])),
        plus(early[1], late[0] * early[1] + late[1] * early[3]),
        plus(late[2], late[2] * early[0] + late[3] * early[2]),
        late[2] * early[1] + late[3] * early[3],
    )


@inline
def gather(W, SLOTS, n, rows, table, last, w, t, sparse, products, constant, logs, factors, bias, column):
    """Copy the batch's rows into the buffers, caught up to the beginning of step t (C1)."""
    lanes = count_lanes(table)
    for s in range(n):
        row = rows[s]
        start = t if sparse else last[row]
        a, b, _, _ = product(products, constant, logs, factors, start, t)
        for k in range(0, W, lanes):
            wk = load(table, row, k)
            if SLOTS == 2:
                store(w, s, k, plus(wk, a * wk + b * load(table, row, W + k)))
            else:
                store(w, s, k, plus(wk, a * wk))
        if bias != factors:
            a, b, _, _ = product(products, constant, logs, bias, start, t)
            w[s, column] = plus(table[row, column], a * table[row, column])
            if SLOTS == 2:
                w[s, column] += b * table[row, W + column]


@inline
def scatter(W, SLOTS, n, rows, table, last, g, t, sparse, products, constant, logs, factors, bias, column, inject):
    """Take step t of the batch's rows: an idle step, and the gradient added (U4, U5)."""
    lanes = count_lanes(table)
    lr = inject[t]
    for s in range(n):
        row = rows[s]
        start = t if sparse else last[row]
        old_w = table[row, column]
        old_v = table[row, W + column] if SLOTS == 2 else old_w
        a, b, c, d = product(products, constant, logs, factors, start, t + 1)
        for k in range(0, W, lanes):
            wk, gk = load(table, row, k), load(g, s, k)
            if SLOTS == 2:
                vk = load(table, row, W + k)
                store(table, row, k, plus(wk, a * wk + b * vk - lr * gk))
                store(table, row, W + k, c * wk + d * vk + gk)
            else:
                store(table, row, k, plus(wk, a * wk - lr * gk))
        if bias != factors:
            a, b, c, d = product(products, constant, logs, bias, start, t + 1)
            if SLOTS == 2:
                table[row, column] = plus(old_w, a * old_w + b * old_v - lr * g[s, column])
                table[row, W + column] = c * old_w + d * old_v + g[s, column]
            else:
                table[row, column] = plus(old_w, a * old_w - lr * g[s, column])
        last[row] = t + 1


@inline
def catch_up(W, SLOTS, table, last, steps, products, constant, logs, factors, bias, column):
    """Bring every row to the end of the call, where the count of steps starts again."""
    lanes = count_lanes(table)
    for row in range(table.shape[0]):
        start = last[row]
        last[row] = 0
        if start == steps:
            continue
        old_w = table[row, column]
        old_v = table[row, W + column] if SLOTS == 2 else old_w
        a, b, c, d = product(products, constant, logs, factors, start, steps)
        for k in range(0, W, lanes):
            wk = load(table, row, k)
            if SLOTS == 2:
                vk = load(table, row, W + k)
                store(table, row, k, plus(wk, a * wk + b * vk))
                store(table, row, W + k, c * wk + d * vk)
            else:
                store(table, row, k, plus(wk, a * wk))
        if bias != factors:
            a, b, c, d = product(products, constant, logs, bias, start, steps)
            table[row, column] = plus(old_w, a * old_w)
            if SLOTS == 2:
                table[row, column] += b * old_v
                table[row, W + column] = c * old_w + d * old_v


@inline
def dense_step(w, g, v, decay, kind, lr, mu, nesterov):
    """Take the optimizer's step on the dense layers: (U1) … (U5)."""
    for i in range(len(w)):
        old, gi = w[i], g[i]
        if kind == 1:
            gi += decay[i] * old
        elif kind == 2:
            old = plus(old, -lr * decay[i] * old)
        if mu != 0:
            vi = mu * v[i] + gi
            v[i] = vi
            gi = gi + mu * vi if nesterov else vi
        w[i] = old - lr * gi
