"""Choose rows for validation and for folds, by user."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minicf import rng
from minicf.data.checks import plural


def last_rows(user: NDArray[np.int32], timestamp: NDArray[np.int64] | None, last: int) -> NDArray[np.bool_]:
    """Return which rows are the latest of their user; one row of each stays for training.

    Parameters
    ----------
    user : array of int32, shape (n,)
    timestamp : array of int64, shape (n,), optional
        Of equal times, and without times, later rows are later.
    last : int
        How many of each user.

    Returns
    -------
    array of bool, shape (n,)

    Raises
    ------
    ValueError
        No user has two rows.
    """
    order = np.lexsort((user,) if timestamp is None else (timestamp, user))  # stable
    owner = user[order]
    first, size = (np.searchsorted(owner, owner, side) for side in ("left", "right"))
    size -= first
    place = np.arange(len(owner)) - first
    chosen = np.zeros(len(user), bool)
    chosen[order] = place >= size - np.minimum(last, size - 1)
    if not chosen.any():
        raise ValueError(
            f"last={last} per user leaves nothing for validation: the most active user has "
            f"{plural(int(size.max()), 'rating')}, and one of them stays for training"
        )
    return chosen


def folds_by_user(user: NDArray[np.int_], n_splits: int, seed: int | None) -> NDArray[np.int_]:
    """Return the fold of each row, from 0: the rows of each user, and all rows, in parts of sizes within one.

    Parameters
    ----------
    user : array of int, shape (n,)
        Numbers of users.
    n_splits : int
    seed : int, optional
        Of the order of rows, and of users, from which folds are dealt; None for the order of the table.

    Notes
    -----
    Rows are laid out user by user, and dealt to the folds in turn: a run of m rows, as those of a user are, has m / F
    rows of each of F folds, rounded up or down.
    """
    n = len(user)
    if seed is None:
        order = np.argsort(user, kind="stable")
    else:
        row = rng.permutation(seed, 0, n)
        people = rng.permutation(seed, 1, int(user.max()) + 1)
        order = row[np.argsort(people[user[row]], kind="stable")]
    fold = np.empty(n, np.int64)
    fold[order] = np.arange(n) % n_splits
    return fold
