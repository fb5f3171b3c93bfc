"""Score users against all items: by predictions of every pair, by one product of tables, by the layers of a net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minicf import ops
from minicf.data.bags import Bags, Batch
from minicf.models.weights import Weights

Score = Callable[[Any, Any], None]
"""Takes user rows (B,) and writes the scores of all items to a float32 array (B, I); both NumPy's, or CuPy's."""

_HIDDEN = 1 << 26
"""Hidden units, of all pairs of some users with all items, that a GPU computes at once: 256 MB."""


def by_predictions(model: Any, w: Weights, bags: Mapping[str, Bags], xp: Any = np) -> Score:
    """Predict every pair.

    Parameters
    ----------
    model : Model
    w : dict of arrays
        In host memory.
    bags : mapping of name to Bags
    xp : module
        NumPy or CuPy: where to compute.
    """
    w = {name: xp.asarray(value) for name, value in w.items()}

    def score(rows: Any, out: Any) -> None:
        n_items = out.shape[1]  # a model need not have a table of items
        item = xp.arange(n_items, dtype=np.int32)
        for i in range(len(rows)):
            user = xp.full(n_items, int(rows[i]), np.int32)
            out[i] = model.predict(w, Batch(user, item, None, None, bags))

    return score


def by_products(users: np.ndarray, items: np.ndarray, xp: Any = np) -> Score:
    """Multiply rows (U, D) and (I, D), on `xp`: one matrix product a block of users."""
    left = xp.asarray(users)
    columns = xp.asarray(np.ascontiguousarray(items.T))  # BLAS goes through it faster than through the transpose

    def score(rows: Any, out: Any) -> None:
        xp.matmul(left[rows], columns, out=out)

    return score


def dot_vectors(w: Weights, biases: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return rows whose dot products order as the scores of `Dot` or `DotBias` do.

    [p, b_u, 1] . [q, 1, c_i] is the score (F2, F3) but for the mean, which orders nothing, and before the rating range,
    which keeps the order.

    Returns
    -------
    users (U, K + 2), items (I, K + 2) : arrays of float32; K wide without biases
    """
    users, items = (w[f"{side}_factors"].astype(np.float32, copy=False) for side in ("user", "item"))
    if biases:
        users, items = (np.concatenate([x, np.ones((len(x), 2), np.float32)], axis=1) for x in (users, items))
        users[:, -2], items[:, -1] = w["user_bias"], w["item_bias"]
    return users, items


def by_layers(net: Any, w: Weights, xp: Any = np) -> Score:
    """Compute the first layer of a `Net` once a user and once an item: it sees [p, q], and is a sum of two halves."""
    w = {name: xp.asarray(value) for name, value in w.items()}
    layers = [name for name, _, _ in net.layers()]
    k = net.n_factors
    first = w[f"{layers[0]}.weight"]
    of_user = ops.dense(w["user_factors"], first[:k], w[f"{layers[0]}.bias"])
    of_item = w["item_factors"] @ first[k:]
    n_items, widest = len(of_item), max([1, *net.hidden])
    together = 1 if xp is np else max(1, _HIDDEN // max(1, n_items * widest))  # one is what a CPU's cache holds

    def score(rows: Any, out: Any) -> None:
        for lo in range(0, len(rows), together):
            a = of_user[rows[lo : lo + together]][:, None] + of_item[None]
            a = a.reshape(-1, a.shape[2])
            for name in layers[1:]:
                a = ops.dense(ops.relu(a), w[f"{name}.weight"], w[f"{name}.bias"])
            out[lo : lo + together] = a.reshape(-1, n_items)

    return score
