"""Batches of examples, and bags: lists of rows, one list for each user or item."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minicf.ops import namespace

if TYPE_CHECKING:
    from minicf.data.negatives import Candidates
    from minicf.data.ratings import Ratings

BAGS = {"user_history": "user", "item_history": "item", "user_features": "user", "item_features": "item"}
"""The bags that `Trainer` fills, and whose they are: what a user rated, who rated an item, the features of each."""

Array = Any
"""A NumPy or a CuPy array."""


class Bags(NamedTuple):
    """Hold lists of indices in compressed rows: row r has ``index[start[r]:start[r + 1]]``.

    Examples: the seen items of each user, the raters of each item, the genres of each item. The arrays are NumPy's or
    CuPy's.
    """

    start: np.ndarray
    """(rows + 1,) int64, ascending from 0 (a slice of it stays valid: it may begin above 0)."""
    index: np.ndarray  # type: ignore[assignment]
    """int32"""
    side: str = "user"
    """Whose rows the lists belong to, "user" or "item": which of a batch's indices picks lists."""
    weight: np.ndarray | None = None
    """F of each entry in (F15); None for 1 / sqrt(length of its list)."""

    @property
    def row(self) -> Array:
        """(entries,) int64, the row of each entry."""
        start = self.start - self.start[0]
        n = int(start[-1])  # by counting ends of lists: CuPy's repeat takes no array of counts
        return namespace(start).cumsum(namespace(start).bincount(start[1:], minlength=n + 1)[:n])

    def weights(self, dtype: Any = np.float64) -> Array:
        """Return F of each entry: `weight`, or 1 / sqrt(length of its list)."""
        if self.weight is not None:
            return self.weight[int(self.start[0]) : int(self.start[-1])].astype(dtype, copy=False)
        return ((self.start[1:] - self.start[:-1])[self.row] ** -0.5).astype(dtype)

    def take(self, rows: Array) -> Bags:
        """Select the lists of some rows, in that order; row -1 has an empty list."""
        xp = namespace(self.start)
        rows = xp.asarray(rows)
        padded = xp.concatenate([self.start, self.start[-1:]])
        sizes = xp.where(rows < 0, 0, padded[rows + 1] - self.start[rows])
        start = xp.concatenate([xp.zeros(1, np.int64), xp.cumsum(sizes)]).astype(np.int64)
        taken = Bags(start, self.index, self.side)
        at = xp.arange(int(start[-1])) + (self.start[rows] - start[:-1])[taken.row]
        return Bags(start, self.index[at], self.side, None if self.weight is None else self.weight[at])

    def holds(self, rows: Array, index: Array) -> Array:
        """Return whether the list of each row holds an index, for lists that ascend: (n,), (n,) -> (n,) of bool."""
        xp = namespace(self.start)
        low, high = self.start[rows], self.start[rows + 1]
        end = high
        if len(self.index) == 0:
            return xp.zeros(len(low), bool)
        for _ in range(len(self.index).bit_length()):  # halves every interval to nothing
            middle = (low + high) >> 1
            below = (low < high) & (self.index[xp.minimum(middle, len(self.index) - 1)] < index)
            low, high = xp.where(below, middle + 1, low), xp.where(below, high, middle)
        return (low < end) & (self.index[xp.minimum(low, len(self.index) - 1)] == index)

    def on(self, xp: Any) -> Bags:
        """Return the bags with arrays of `xp`: NumPy's, or CuPy's."""
        weight = None if self.weight is None else xp.asarray(self.weight)
        return Bags(xp.asarray(self.start), xp.asarray(self.index), self.side, weight)

    @classmethod
    def of(cls, row: np.ndarray, index: np.ndarray, n_rows: int, side: str = "user") -> Bags:
        """Collect pairs (row, index), given in any order, into ascending lists; a repeated pair counts once."""
        pairs = row.astype(np.int64) << 32 | index
        pairs.sort()  # numpy.unique hashes, ten times slower for ten million pairs
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
        start = np.concatenate([[0], np.cumsum(np.bincount(pairs >> 32, minlength=n_rows))]).astype(np.int64)
        return cls(start, (pairs & 0xFFFFFFFF).astype(np.int32), side)

    @classmethod
    def history(cls, ratings: Ratings, side: str) -> Bags:
        """Collect what each user rated (side "user"), or who rated each item ("item")."""
        mine, other = (ratings.user, ratings.item) if side == "user" else (ratings.item, ratings.user)
        return cls.of(mine, other, ratings.n_users if side == "user" else ratings.n_items, side)

    def read(self, counts: np.ndarray, n: int) -> np.ndarray:
        """Return how many examples read each of `n` entries, given how many are of each row: int64 (n,)."""
        return np.bincount(self.index, counts[self.row], minlength=n).astype(np.int64)

    @classmethod
    def empty(cls, n_rows: int) -> Bags:
        """Make `n_rows` empty lists."""
        return cls(np.zeros(n_rows + 1, np.int64), np.zeros(0, np.int32))


def example_weights(ratings: Ratings) -> np.ndarray | None:
    """Return the weights of ratings in a loss; None where all are 1, so that they change no bit."""
    weight = ratings.weight
    return None if weight is None or bool((weight == 1).all()) else weight


class Batch(NamedTuple):
    """Hold B examples: pairs of a user and an item, with targets. Indices are trusted.

    The whole table of a training is a Batch too, of which a solver takes rows.
    """

    user: Array
    """(B,) int32, rows of the user tables."""
    item: Array
    """(B,) int32, rows of the item tables."""
    target: Array = None
    """(B,) targets: stars, or numbers from 0 to 1. None for predicting."""
    weight: Array = None
    """(B,) weights of the examples in the loss; None for 1 each."""
    bags: Mapping[str, Bags] = MappingProxyType({})
    """Lists of the whole tables by name, arrays of the kind that `user` is: the batch's rows of them are taken by
    `rows`."""
    candidates: Candidates | None = None
    """What negatives are drawn from, of the table of a training by a loss that draws some."""

    @classmethod
    def of(cls, ratings: Ratings, bags: Mapping[str, Bags] = MappingProxyType({})) -> Batch:
        """Make the table of a training from ratings."""
        return cls(ratings.user, ratings.item, ratings.rating, example_weights(ratings), bags)

    @property
    def size(self) -> int:
        """B, the number of examples."""
        return len(self.user)

    def rows(self, key: str) -> Array:
        """Return which rows of a table the batch reads, with repetitions.

        Parameters
        ----------
        key : "user", "item" or the name of a bag
            As `Parameter.rows` has it.
        """
        if key in ("user", "item"):
            return getattr(self, key)
        bags = self.bags[key]
        return bags.take(getattr(self, bags.side)).index

    def take(self, rows: Array) -> Batch:
        """Select examples, in the order asked."""
        return self._replace(
            user=self.user[rows],
            item=self.item[rows],
            target=None if self.target is None else self.target[rows],
            weight=None if self.weight is None else self.weight[rows],
        )
