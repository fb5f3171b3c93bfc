"""Events, such as plays and purchases: what a user took, how often, and what a user disliked."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minicf.data.checks import MAX_FLOAT32, plural

log = logging.getLogger("minicf")

_ROUNDING = float(np.finfo(np.float32).eps)
"""Of the sizes that are summed: weights are float32, so what is left of 0.1 + 0.2 - 0.3 is no more than this."""


def groups_of(pair: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the last row of each pair, ascending, and for every row the number of its pair in that list."""
    codes, _ = pd.factorize(pair[::-1])  # numbered from the end, as the last rows are
    last = np.flatnonzero(~pd.Series(pair).duplicated(keep="last").to_numpy())
    return last, len(last) - 1 - codes[::-1]


def latest(times: NDArray[np.int64], groups: NDArray[np.intp], n: int) -> NDArray[np.int64]:
    """Return the latest time of each of `n` groups."""
    found = np.full(n, np.iinfo(np.int64).min)
    np.maximum.at(found, groups, times)
    return found


def summed(
    pair: NDArray[np.int64], weight: NDArray[np.float32] | None, times: NDArray[np.int64] | None
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.int64] | None]:
    """Sum the events of each pair of a user and an item.

    Returns
    -------
    rows : (m,) int
        The last row of each pair whose sum is not 0, ascending.
    target : (m,) float32
        1 for a sum above 0, 0 for a dislike.
    weight : (m,) float32, or None where all are 1
        The sum without its sign.
    times : (m,) int64, or None
        The latest.
    """
    rows, groups = groups_of(pair)
    given = np.ones(len(pair)) if weight is None else weight.astype(np.float64)
    total, size = np.bincount(groups, given), np.bincount(groups, np.abs(given))
    if (np.abs(total) > MAX_FLOAT32).any():
        raise ValueError(
            f"weights of a user and an item add up to {total[np.abs(total).argmax()]:g}; it must be finite in float32: "
            "divide all weights by a number"
        )
    says = np.abs(total) > _ROUNDING * size
    if not says.any():
        raise ValueError("the weights of every pair of user and item add up to 0: nothing is left to learn from")
    if len(pair) > len(rows):
        log.info("events: %s summed into %s", plural(len(pair), "row"), plural(len(rows), "pair"))
    if not says.all():
        log.info("events: left out %s with a sum of 0", plural(int((~says).sum()), "pair"))
    weight = np.abs(total[says]).astype(np.float32)
    return (
        rows[says],
        (total[says] > 0).astype(np.float32),
        None if (weight == 1).all() else weight,
        None if times is None else latest(times, groups, len(rows))[says],
    )
