"""The row of a new user, or item, from a few ratings, everything else fixed.

With the other side's table fixed, a row x (factors and bias) has a small problem of its own. With predictions y_j(x) of
its n ratings r_j,

    (G1)  minimise  sum_j (y_j(x) - r_j)^2 + (x - x0)^T A (x - x0)

x0 and A say what a row looks like before any rating is known. For `Dot` and `DotBias` y is linear in x, and one step of

    (G2)  (J^T J + A) d = J^T (r - y) - A (x - x0),  x <- x + d,  J_jk = dy_j / dx_k

is the exact minimum, ridge regression. With a rating range, or a net, y bends, and a few such steps (Gauss and
Newton's) come close, each damped until it descends (Levenberg and Marquardt's way). J is the model's `backward`.
"""

from __future__ import annotations

import numpy as np

from minicf import scoring
from minicf.models import Model, Weights

STEPS = 20


def names(side: str, weights: Weights) -> list[str]:
    """The tables of a side that the weights have, factors first."""
    return [name for name in (f"{side}_factors", f"{side}_bias") if name in weights]


def table(side: str, weights: Weights) -> np.ndarray:
    """Factors, and the bias if there is one, side by side, float64."""
    return np.column_stack([weights[name].astype(np.float64) for name in names(side, weights)])


def solve(
    model: Model,
    weights: Weights,
    side: str,
    other: np.ndarray,
    rating: np.ndarray,
    x0: np.ndarray,
    a: np.ndarray,
) -> np.ndarray:
    """The minimum of (G1).

    Parameters
    ----------
    model : Model
    weights : dict of arrays
        Not changed.
    side : "user" or "item"
        Of the new row.
    other : array of int, shape (n,)
        Indices on the other side.
    rating : array of float, shape (n,)
    x0 : array, shape (D,)
        Factors, and the bias where the model has one.
    a : array, shape (D, D)
        Symmetric, positive definite.

    Returns
    -------
    array of float64, shape (D,)
    """
    head, w = scoring.head_of(model, weights)
    w = {name: value.astype(np.float64) for name, value in w.items() if not name.startswith(("user_", "item_"))}
    n, k = len(other), head.n_factors
    opposite = "item" if side == "user" else "user"
    for name in names(opposite, weights):
        w[name] = weights[name][other].astype(np.float64)
    own = names(side, weights)
    here = np.arange(n)

    def predict(x: np.ndarray) -> tuple[np.ndarray, object]:
        # A copy of the row for each rating: the gradient of copy j is then row j of J.
        w[own[0]] = np.broadcast_to(x[:k], (n, k))
        if len(own) > 1:
            w[own[1]] = np.broadcast_to(x[k], (n,))
        return head.forward(w, here, here)

    def objective(x: np.ndarray, y: np.ndarray) -> float:
        return float(((y - rating) ** 2).sum() + (x - x0) @ a @ (x - x0))

    x = x0.copy()
    y, cache = predict(x)
    value, damping = objective(x, y), 0.0
    for _ in range(STEPS):
        grads = head.backward(w, cache, np.ones(n))
        # A hybrid may have biases that its output head does not use.
        jacobian = np.column_stack([grads.get(name, np.zeros(n)) for name in own])
        curvature = jacobian.T @ jacobian + a
        slope = jacobian.T @ (rating - y) - a @ (x - x0)
        while True:
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), slope)
            y, cache = predict(x + step)
            if (new := objective(x + step, y)) <= value or damping > 1e6:
                break
            damping = max(1e-3, 10.0 * damping)
        if new > value:  # not even the smallest step descends: it is the bottom, up to rounding
            break
        x = x + step
        gain, value, damping = value - new, new, damping / 10.0
        if gain <= 1e-9 * (1.0 + value):
            break
    return x
