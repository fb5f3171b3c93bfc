"""Tiles: an order of ratings in which several threads can run online SGD (batch size 1) without sharing a row.

Users and items are cut into `n_blocks` blocks each; the ratings of one user block and one item block are a tile.
An epoch goes through rounds: round r holds the tiles (b, b + r mod n_blocks), no two of which share a user or an item.
So the tiles of a round may be trained at the same time, in any order, by any number of threads, and the result is the
same to the last bit as going through them one after another. It needs no atomics on rows and no locks (Gemulla et al.
2011, "Large-scale matrix factorization with distributed stochastic gradient descent").

A block is a range of rows that hold about as many ratings as any other, and within a tile ratings are sorted by user:
the rows of users stream through the cache, which the processor foresees, while those of the items, a short piece of
their table, stay in it. Ratings are in four strands side by side, so that consecutive ones, of different users, need
not wait for one another.
"""

from __future__ import annotations

from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from minicf import rng
from minicf.data import Batch, Candidates, Ratings
from minicf.data.bags import example_weights

_ROWS = 4096
"""Rows of both tables together that a tile may touch: about 1 MB at 64 factors."""

_TILE = 1024
"""Fewer ratings than this make a tile not worth a thread's while."""

_STRANDS = 4

_KEPT: WeakKeyDictionary[Ratings, Tiles] = WeakKeyDictionary()


def count_blocks(n_ratings: int, n_users: int, n_items: int) -> int:
    """Return the number of blocks a side, a function of the data alone: the order must not depend on the machine."""
    wanted = max(8, -(-(n_users + n_items) // _ROWS))
    return max(1, min(wanted, 255, int((n_ratings / _TILE) ** 0.5), n_users, n_items))


def _cut(counts: np.ndarray, n_blocks: int) -> np.ndarray:
    """Return the block of each row: ranges of rows that hold about as many ratings each."""
    middle = np.cumsum(counts) - counts / 2
    return np.minimum(middle * n_blocks / max(1, counts.sum()), n_blocks - 1).astype(np.uint8)


class Tiles:
    """Lay out the ratings of a table, tile by tile.

    Parameters
    ----------
    ratings : Ratings
    n_blocks : int, optional
        Blocks a side; see `count_blocks`.

    Attributes
    ----------
    user, item : array of int32, shape (n,)
    rating : array of float32, shape (n,)
    weight : array of float32, shape (n,), or None
        12 bytes a rating, beside the table's own, 16 with weights.
    start : array of int64, shape (n_blocks, n_blocks + 1)
        Tile b of round r is rows ``start[r, b]`` to ``start[r, b + 1]``.
    counts : pair of arrays of int64, shapes (n_users,) and (n_items,)
        Ratings of each user and of each item.
    """

    def __init__(self, ratings: Ratings, n_blocks: int | None = None) -> None:
        n = len(ratings)
        blocks = n_blocks or count_blocks(n, ratings.n_users, ratings.n_items)
        self.n_blocks, self.counts = blocks, (ratings.user_counts(), ratings.item_counts())
        user_block, item_block = (_cut(counts, blocks) for counts in self.counts)
        turn = item_block[ratings.item].astype(np.int16)
        turn -= user_block[ratings.user]
        turn %= blocks
        round_of = turn.astype(np.uint8)
        del turn
        by_user = bool((ratings.user[1:] >= ratings.user[:-1]).all())  # as most files are
        self.user, self.item = np.empty(n, np.int32), np.empty(n, np.int32)
        self.rating = np.empty(n, np.float32)
        weight = example_weights(ratings)
        self.weight = None if weight is None else np.empty(n, np.float32)
        self.start = np.zeros((blocks, blocks + 1), np.int64)
        at = 0
        for r in range(blocks):
            rows = np.flatnonzero(round_of == r)
            user = ratings.user[rows]
            if not by_user:
                order = np.argsort(user, kind="stable")
                rows, user = rows[order], user[order]
            # A block is a range of users: these follow one another already.
            sizes = np.bincount(user_block[user], minlength=blocks)
            ends = np.cumsum(sizes)
            self.start[r, 0], self.start[r, 1:] = at, at + ends
            for first, last in zip(ends - sizes, ends, strict=True):
                rows[first:last] = rows[first:last][_strands(int(last - first))]
            part = slice(at, at + len(rows))
            self.user[part], self.item[part] = ratings.user[rows], ratings.item[rows]
            self.rating[part] = ratings.rating[rows]
            if self.weight is not None and weight is not None:
                self.weight[part] = weight[rows]
            at += len(rows)

    @classmethod
    def of(cls, ratings: Ratings) -> Tiles:
        """Return the tiles of a table, laid out at the first call and kept for as long as the table is."""
        tiles = _KEPT.get(ratings)
        if tiles is None:
            tiles = _KEPT[ratings] = cls(ratings)
        return tiles

    def __len__(self) -> int:
        return len(self.rating)

    @property
    def table(self) -> Batch:
        """The ratings as a table of examples, in the order of the tiles."""
        return Batch(self.user, self.item, self.rating, self.weight)

    @cached_property
    def candidates(self) -> Candidates:
        """What negatives are drawn from: items of the event's own block, which no other tile of the round touches."""
        blocks = _cut(self.counts[1], self.n_blocks)
        start = np.searchsorted(blocks, np.arange(self.n_blocks + 1)).astype(np.int64)
        return Candidates.of(self.table, len(self.counts[0]), len(self.counts[1]), start)

    def sizes(self, rounds: np.ndarray) -> np.ndarray:
        """Return the number of ratings in each of some rounds."""
        return self.start[rounds, -1] - self.start[rounds, 0]

    def rounds(self, seed: int, epoch: int) -> np.ndarray:
        """Return the order of the rounds in an epoch."""
        return rng.permutation(seed, epoch, self.n_blocks)

    def order(self, rounds: np.ndarray) -> np.ndarray:
        """Return the rows in the order in which these rounds visit them, one after another: int32 (n,)."""
        parts = [np.arange(self.start[r, 0], self.start[r, -1], dtype=np.int32) for r in rounds]
        return np.concatenate(parts) if parts else np.empty(0, np.int32)


def _strands(n: int) -> np.ndarray:
    """Deal 0 … n-1 into four strands side by side: 0, q, 2q, 3q, 1, q + 1, … with q a quarter of n."""
    quarter = -(-n // _STRANDS)
    index = np.arange(_STRANDS * quarter).reshape(_STRANDS, quarter).T.ravel()
    return index[index < n]
