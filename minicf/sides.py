"""Sides: an order of ratings for online SGD of models with bags, user by user in one epoch, item by item in the next.

The bag of a user is the same for all of the user's ratings. If these follow one another, its sum is made once, moves
along by (S1), and goes back to the entries once, (S2): see `minicf.solvers.gradient`. The bags of items, which another
rating has each time, rest meanwhile, and take their turn in the next epoch.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from minicf import rng
from minicf.data import Batch, Candidates, Ratings

SIDES = ("user", "item")

_KEPT: WeakKeyDictionary[Ratings, Sides] = WeakKeyDictionary()


class Owned(NamedTuple):
    """Hold the ratings of one side, row by row."""

    start: np.ndarray
    """(rows + 1,) int64: the ratings of row r are those from ``start[r]`` to ``start[r + 1]``."""
    place: np.ndarray
    """(n,) int32, of each rating in the table."""
    other: np.ndarray
    """(n,) int32, its row of the other side."""
    target: np.ndarray
    """(n,) float32"""
    weight: np.ndarray | None
    """(n,) float32"""


class Sides:
    """Lay out the ratings of a table by users and by items.

    Within a row ratings are shuffled once, whatever the seed: tables are often sorted by what tells ratings apart.
    """

    def __init__(self, ratings: Ratings) -> None:
        self.table = Batch.of(ratings)
        self.weight = self.table.weight
        self._sizes = ratings.n_users, ratings.n_items
        shuffled = rng.permutation(0, 0, len(ratings))
        self._counts = {"user": ratings.user_counts(), "item": ratings.item_counts()}
        self._places = {}
        for side in SIDES:
            rows = getattr(self.table, side)[shuffled]
            self._places[side] = shuffled[np.argsort(rows, kind="stable")].astype(np.int32)

    @classmethod
    def of(cls, ratings: Ratings) -> Sides:
        """Return the layout of a table, made at the first call and kept for as long as the table is."""
        sides = _KEPT.get(ratings)
        if sides is None:
            sides = _KEPT[ratings] = cls(ratings)
        return sides

    def __len__(self) -> int:
        return len(self.table.user)

    @cached_property
    def owned(self) -> dict[str, Owned]:
        """The ratings in the order of each side."""
        found = {}
        for side, other in (SIDES, SIDES[::-1]):
            place = self._places[side]
            start = np.concatenate([[0], np.cumsum(self._counts[side])]).astype(np.int64)
            table = self.table
            weight = None if table.weight is None else table.weight[place]
            found[side] = Owned(start, place, getattr(table, other)[place], table.target[place], weight)
        return found

    @cached_property
    def candidates(self) -> Candidates:
        """What negatives are drawn from: all items."""
        return Candidates.of(self.table, *self._sizes)

    def rows(self, seed: int, epoch: int) -> tuple[str, np.ndarray]:
        """Return whose turn it is in an epoch, and its rows that have ratings, shuffled."""
        side = SIDES[epoch % 2]
        rated = np.flatnonzero(self._counts[side]).astype(np.int32)
        return side, rated[rng.permutation(seed, epoch, len(rated))]

    def sizes(self, side: str, rows: np.ndarray) -> np.ndarray:
        """Return the number of ratings of some rows."""
        return self._counts[side][rows]

    def order(self, side: str, rows: np.ndarray) -> np.ndarray:
        """Return the places of the ratings of these rows, one row after another: int32 (n,)."""
        start, place = self.owned[side].start, self.owned[side].place
        parts = [place[start[r] : start[r + 1]] for r in rows]
        return np.concatenate(parts) if parts else np.empty(0, np.int32)
