"""Compute forward and backward passes, derived by hand, one pair for each operation.

Read this file first, then `losses.py`, `models/`, `optim.py` and `solvers/gradient.py`. Everything is written once in
`xp`, which is NumPy or CuPy; the Numba and CUDA kernels repeat these lines, under the same labels, and are tested to
give the same numbers.

Notation
--------
==============  =========================================================================================
B, U, I, K, H   sizes: examples in a batch, users, items, factors, hidden units
Y, F, N(r)      a table with a row for each thing that bags hold, N(r) the bag of example r, F_rj the weight of j in it
P, Q            the tables `user_factors` (U, K) and `item_factors` (I, K); p, q their rows of a batch (B, K)
b, c            the tables `user_bias` (U,) and `item_bias` (I,)
user, item      the batch's indices into the tables (B,); an index may occur several times
r, s, y         targets (ratings), scores before the rating range, outputs (B,)
mean, lo, hi    numbers of the model: its `global_mean`, the ends of its `rating_range`
x, a, h         of a dense layer: inputs (B, n), sums (B, m), and these after relu (B, m)
W, w            its weights (n, m) and biases (m,)
rate            the share of units that dropout sets to 0
x', s'          x and s before the operation in question
L               the loss, one number
d_x             the derivative of L by x; it has the shape of x
==============  =========================================================================================

The chain rule: L depends on x through every z that is computed from x, so d_x is the sum over these z of d_z times the
derivative of z by x. Hence a backward function receives d_(its output) and returns d_(each of its inputs); a model
calls its operations in order, and their backward functions in reverse. (F3) and (F10) are sums and have no function:
they stand in `models/`. The losses (F9), (F11), (F12) stand in
`losses.py`.

======  =======================================================  ==================================================
label   forward                                                  backward
======  =======================================================  ==================================================
1       (F1) p = P[user]                                         (B1) d_P[u] = sum of d_p over the rows with user = u
2       (F2) s = sum_k p_k q_k                                   (B2) d_p = d_s q,  d_q = d_s p
3       (F3) s = s' + b[user] + c[item] + mean                   (B3) d_s' = d_s; d_b, d_c as in (B1)
4       (F4) y = lo + (hi - lo) sigmoid(s)                       (B4) d_s = d_y (hi - lo) g (1 - g),  g = sigmoid(s)
5       (F5) x = [p, q]                                          (B5) d_p, d_q = the halves of d_x
6       (F6) x = x' m,  m = 0 or 1 / (1 - rate)                  (B6) d_x' = d_x m
7       (F7) a = x W + w                                         (B7) d_x = d_a W^T, d_W = x^T d_a, d_w = sum_B d_a
8       (F8) h = max(a, 0)                                       (B8) d_a = d_h [a > 0]
9       (F9) L = 1/B sum (y - r)^2                               (B9) d_y = 2 (y - r) / B
10      (F10) L = sum_h weight_h L_h over heads                  (B10) d_y of head h times weight_h; tables add up
14      (F14) x = x' / |x'|                                     (B14) d_x' = (d_x - (x . d_x) x) / |x'|
15      (F15) x_r = sum of F_rj Y[j] over j in N(r)              (B15) d_Y[j] = sum of F_rj d_x_r over r with j in N(r)
======  =======================================================  ==================================================

There and back for one rating of 4 stars by a user (1, 2) of an item (3, -1): y = 1 is 3 too low, and each component
should grow, or shrink, in proportion to what it is multiplied with.

>>> p, q, r = np.array([[1.0, 2.0]]), np.array([[3.0, -1.0]]), np.array([4.0])
>>> y = dot(p, q)
>>> d_y = 2.0 * (y - r)
>>> d_p, d_q = dot_backward(d_y, p, q)
>>> y.tolist(), d_y.tolist(), d_p.tolist(), d_q.tolist()
([1.0], [-6.0], [[-18.0, 6.0]], [[-6.0, -12.0]])

`minicf.check_gradients` compares all this with finite differences: exchange p and q in `dot_backward`, say, and
``print(minicf.check_gradients(minicf.DotBias(4)))`` names the two tables whose derivatives are wrong.

The rules follow from calculus alone. Dropout (F6) is from Srivastava et al. 2014, in the inverted form, which leaves
the mean of x as it was; backpropagation itself from Rumelhart, Hinton and Williams 1986.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Array = Any
"""A NumPy or a CuPy array."""


def namespace(array: Array) -> Any:
    """Return the module whose functions work on `array`: `numpy`, or `cupy` where the array lives on a GPU."""
    return np if isinstance(array, np.ndarray) else sys.modules[type(array).__module__.split(".")[0]]


def gather(table: Array, index: Array) -> Array:
    """(F1) Gather the rows of a table that a batch reads: (n, ...) and (B,) -> (B, ...)."""
    return table[index]


def gather_backward(d_rows: Array, index: Array, table: Array) -> Array:
    """(B1) Add up the derivatives of a row: one that the batch reads several times was used several times.

    Derivation: row j of the batch is a copy of table row index[j], so dL/dtable[u] is the sum over j of
    [index[j] = u] d_rows[j]. A plain ``d_table[index] += d_rows`` would keep only the last of several.
    """
    xp = namespace(table)
    d_table = xp.zeros_like(table)
    xp.add.at(d_table, index, d_rows)
    return d_table


def bag(table: Array, row: Array, index: Array, weight: Array, n: int) -> Array:
    """(F15) Add up the rows of a table that each example's bag holds, weighted: (J, ...) -> (B, ...).

    Parameters
    ----------
    table : array, shape (J, ...)
        Y.
    row, index, weight : arrays, shape (entries,)
        r, j and F_rj of each entry of the bags. An empty bag has none, and the sum 0.
    n : int
        B.
    """
    x = namespace(table).zeros((n, *table.shape[1:]), table.dtype)
    namespace(table).add.at(x, row, _column(weight, table) * table[index])
    return x


def bag_backward(d_x: Array, row: Array, index: Array, weight: Array, table: Array) -> Array:
    """(B15) Send the derivative of each sum to all rows in it, each by its weight.

    Derivation: x_r = sum_j F_rj Y[j] is linear in Y, and Y[j] reaches every x_r whose bag holds j, with slope F_rj. So
    dL/dY[j] is the sum over these r of F_rj d_x_r: (B1) is the case of bags of one entry with weight 1.
    """
    d_table = namespace(table).zeros_like(table)
    namespace(table).add.at(d_table, index, _column(weight, table) * d_x[row])
    return d_table


def _column(weight: Array, table: Array) -> Array:
    """Shape weights of entries so that they multiply rows of a table."""
    return weight.reshape(-1, *[1] * (table.ndim - 1))


def dot(p: Array, q: Array) -> Array:
    """(F2) Multiply row by row: (B, K), (B, K) -> (B,)."""
    return (p * q).sum(axis=1)


def dot_backward(d_s: Array, p: Array, q: Array) -> tuple[Array, Array]:
    """(B2) Use ds/dp_k = q_k and ds/dq_k = p_k."""
    return d_s[:, None] * q, d_s[:, None] * p


def unit(x: Array) -> Array:
    """(F14) Divide each row by its length: (B, K) -> (B, K). A row of less than 1e-12 is divided by that."""
    return x / _lengths(x)


def unit_backward(d_y: Array, x: Array) -> Array:
    """(B14) Keep what turns the row, and divide it by the row's length.

    Derivation: y = x / n with n = |x|, and dn/dx_k = x_k / n = y_k, so dy_i/dx_k = [i = k] / n - x_i y_k / n^2
    = ([i = k] - y_i y_k) / n, and d_x = (d_y - (y . d_y) y) / n. It has no part along x: length has no influence.
    """
    n, y = _lengths(x), unit(x)
    return (d_y - (y * d_y).sum(axis=1, keepdims=True) * y) / n


def _lengths(x: Array) -> Array:
    xp = namespace(x)
    return xp.maximum(xp.sqrt((x * x).sum(axis=1, keepdims=True)), 1e-12)


def sigmoid(s: Array) -> Array:
    """Compute 1 / (1 + exp(-s)), written with tanh, which does not overflow."""
    return 0.5 * (1.0 + namespace(s).tanh(0.5 * s))


def rating_range(s: Array, low: float, high: float) -> Array:
    """(F4) Squeeze scores into (low, high): (B,) -> (B,)."""
    return low + (high - low) * sigmoid(s)


def rating_range_backward(d_y: Array, s: Array, low: float, high: float) -> Array:
    """(B4) Use dg/ds = exp(-s) / (1 + exp(-s))^2 = g (1 - g), g = sigmoid(s), hence dy/ds = (high - low) g (1 - g)."""
    g = sigmoid(s)
    return d_y * (high - low) * g * (1.0 - g)


def concat(p: Array, q: Array) -> Array:
    """(F5) Put side by side: (B, K), (B, K) -> (B, 2K)."""
    return namespace(p).concatenate([p, q], axis=1)


def concat_backward(d_x: Array) -> tuple[Array, Array]:
    """(B5) Split: each half goes back where it came from."""
    k = d_x.shape[1] // 2
    return d_x[:, :k], d_x[:, k:]


def dropout(x: Array, mask: Array | None) -> Array:
    """(F6) Drop units: inverted dropout with a given mask of 0 and 1 / (1 - rate); None when predicting."""
    return x if mask is None else x * mask


def dropout_backward(d_x: Array, mask: Array | None) -> Array:
    """(B6) Multiply by the same factors: a dropped unit had no influence."""
    return d_x if mask is None else d_x * mask


def dense(x: Array, weight: Array, bias: Array) -> Array:
    """(F7) Multiply by a matrix and add: (B, n), (n, m), (m,) -> (B, m)."""
    return x @ weight + bias


def dense_backward(d_a: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """(B7) Sum d_a over what each input reaches, from a[j, m] = sum_n x[j, n] W[n, m] + w[m].

    x[j, n] reaches a[j, :] through W[n, :]; W[n, m] reaches a[:, m] through x[:, n]; w[m] reaches a[:, m].
    """
    return d_a @ weight.T, x.T @ d_a, d_a.sum(axis=0)


def relu(a: Array) -> Array:
    """(F8) Compute max(a, 0), element by element."""
    return namespace(a).maximum(a, 0)


def relu_backward(d_h: Array, a: Array) -> Array:
    """(B8) Take slope 1 where a > 0, else 0 (at a = 0 too, as PyTorch and Keras do)."""
    return d_h * (a > 0)
