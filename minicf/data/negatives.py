"""Negatives: items that a user has not seen, drawn by counter beside the events of a step.

Only whole numbers take part, so every backend draws the same items, at any number of threads, and so does a training
that was stopped and goes on: it knows its step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicf import rng
from minicf.data.bags import Array, Bags, Batch
from minicf.data.ratings import Ratings
from minicf.ops import namespace

TRIES = 8
"""Draws for one negative at most. A user who has seen the share x of the items is given a seen one in x^8 of draws:
once in 10^8 for a tenth of them; the user who has seen all of them gets some, and training goes on."""


class Candidates(NamedTuple):
    """Hold what the negatives of a table of events are drawn from."""

    seen: Bags
    """The items of each user, ascending: they are no negatives, whatever their targets."""
    start: Array
    """(blocks + 1,) int64, ascending: blocks of items, from 0 to their number. A negative is drawn from the block of
    the event's own item; from all items where there is one block."""

    @classmethod
    def of(cls, events: Batch | Ratings, n_users: int, n_items: int, start: np.ndarray | None = None) -> Candidates:
        """Take the items of each user from a table; all items are one block unless `start` says otherwise."""
        seen = Bags.of(events.user, events.item, n_users)
        return cls(seen, np.array([0, n_items], np.int64) if start is None else start)

    def on(self, xp: object) -> Candidates:
        """Return them with arrays of `xp`: NumPy's, or CuPy's."""
        return Candidates(self.seen.on(xp), xp.asarray(self.start))  # type: ignore[attr-defined]


class Draw:
    """The random numbers of one step, for a loss that compares more than the batch holds.

    Parameters
    ----------
    seed, step : int
        Of the training, and counted from 1; 0 for what validation draws.
    candidates : Candidates, optional
        None for a loss without negatives.
    """

    def __init__(self, seed: int, step: int, candidates: Candidates | None = None) -> None:
        self.seed, self.step, self.candidates = seed, step, candidates

    def __call__(self, n: int) -> np.ndarray:
        """Return n uniform numbers in [0, 1): float64 (n,)."""
        return rng.uniform(rng.key(self.seed, rng.NEGATIVE, 0, self.step), n)

    def negatives(self, batch: Batch, m: int) -> Array:
        """Draw m items for each event, uniform over those of its block that the user has not seen.

        Negative j of event b is ``first + ((bits >> 32) * n >> 32)`` of its block of n items, with the bits at position
        b m + j of the stream of (seed, `rng.NEGATIVE`, try, step). A seen item is drawn anew, up to `TRIES` times. The
        32 bits make an item too likely by a share of n / 2^32 at most.

        Returns
        -------
        array of int32, shape (B, m)
        """
        if self.candidates is None:
            raise RuntimeError("there is nothing to draw from; a loss that draws negatives says so by loss.negatives")
        xp, (seen, start) = namespace(batch.user), self.candidates
        block = xp.searchsorted(start, batch.item, side="right") - 1
        first = xp.repeat(start[block], m)
        n = xp.repeat(start[block + 1], m) - first
        user, at = xp.repeat(batch.user, m), xp.arange(batch.size * m, dtype=np.uint64)
        item = xp.zeros(batch.size * m, np.int64)
        again = xp.ones(batch.size * m, bool)
        for attempt in range(TRIES):
            high = rng.bits(rng.key(self.seed, rng.NEGATIVE, attempt, self.step), at) >> np.uint64(32)
            item = xp.where(again, first + ((high * n.astype(np.uint64)) >> np.uint64(32)).astype(np.int64), item)
            again = seen.holds(user, item)
            if not again.any():
                break
        return item.astype(np.int32).reshape(batch.size, m)


def beside(batch: Batch, items: Array) -> Batch:
    """Return pairs, of each event followed by its negatives (B, m); targets and weights remain those of the events.

    Models see B (1 + m) examples, and (B1) adds up the rows that occur in several of them.
    """
    xp = namespace(batch.user)
    item = xp.concatenate([batch.item[:, None], items], axis=1)
    return batch._replace(user=xp.repeat(batch.user, item.shape[1]), item=item.reshape(-1))
