"""Measure predictions and lists: errors of ratings, and the relevant items that a list of k holds.

For lists, ``hits`` (U, k) flags the relevant items in each user's list, best first; a shorter list ends in False.
``relevant`` (U,) is the number of relevant items of each user, in the list or not, at least 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minicf.arguments import check_int, check_unmasked

Array = NDArray[np.float64]


def rmse(rating: ArrayLike, predicted: ArrayLike) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean(_errors(rating, predicted) ** 2)))


def mae(rating: ArrayLike, predicted: ArrayLike) -> float:
    """Return the mean absolute error."""
    return float(np.mean(np.abs(_errors(rating, predicted))))


def precision(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return the share of the k places that hold a relevant item, one number per user."""
    found, _ = _lists(hits, relevant)
    return found.mean(axis=1)


def recall(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return the share of the user's relevant items that the list holds, one number per user."""
    found, total = _lists(hits, relevant)
    return found.sum(axis=1) / total


def ndcg(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return the discounted cumulative gain, relative to the best possible list (Järvelin and Kekäläinen 2002).

    Notes
    -----
    With places i from 1 and a gain of 1 for a relevant item, DCG = sum_i hit_i / log2(i + 1). The best list starts
    with min(relevant, k) hits.
    """
    found, total = _lists(hits, relevant)
    k = found.shape[1]
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(total, k).astype(np.int64)]
    return (found @ discount) / ideal


def average_precision(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return the sum of the precisions at the places of the hits, over the most hits possible: min(relevant, k).

    Notes
    -----
    AP@k = 1 / min(relevant, k) sum_i hit_i (hits up to i) / i. The mean over users is MAP@k.
    """
    found, total = _lists(hits, relevant)
    k = found.shape[1]
    at = np.cumsum(found, axis=1) / np.arange(1, k + 1)
    return (at * found).sum(axis=1) / np.minimum(total, k)


def coverage(items: ArrayLike, n_items: int) -> float:
    """Return the share of all items that are in at least one list."""
    n_items = check_int("n_items", n_items, 1)
    check_unmasked("items", items)
    found = np.unique(np.asarray(items))
    if found.size and not (found.dtype.kind in "iu" and 0 <= found[0] and found[-1] < n_items):
        raise ValueError(f"items has {found[[0, -1]].tolist()}; it must hold indices from 0 to {n_items - 1}")
    return len(found) / n_items


def _numbers(name: str, values: ArrayLike) -> Array:
    check_unmasked(name, values)
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {array.dtype}; it must hold numbers")
    return array.astype(np.float64)


def _errors(rating: ArrayLike, predicted: ArrayLike) -> Array:
    a, b = _numbers("rating", rating), _numbers("predicted", predicted)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"rating has shape {a.shape} and predicted {b.shape}; they must be (n,), n above 0")
    return b - a


def _lists(hits: ArrayLike, relevant: ArrayLike) -> tuple[Array, Array]:
    found, total = _numbers("hits", hits), _numbers("relevant", relevant)
    if found.ndim != 2 or found.shape[1] == 0 or total.shape != found.shape[:1]:
        raise ValueError(f"hits has shape {found.shape}, relevant {total.shape}; they must be (users, k) and (users,)")
    if not ((found == 0) | (found == 1)).all():
        raise ValueError("hits must be True or False, 1 or 0")
    if not ((total >= np.maximum(found.sum(axis=1), 1)) & (total < np.inf)).all():
        raise ValueError("relevant must be at least 1, and at least the number of hits, for each user")
    return found, total
