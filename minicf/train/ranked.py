"""Measure a model by a loss that compares events with items that their users have not seen."""

from __future__ import annotations

import numpy as np

from minicf.data import Bags, Batch, Candidates, Draw, Ratings
from minicf.losses import Loss


class RankedPairs:
    """Draw the negatives of a table once, so that epochs are measured on the same ones.

    They are items that neither the training ratings nor the table itself has of the user, by the numbers of step 0,
    from all items whatever the order of training.
    """

    def __init__(self) -> None:
        self._kept: tuple[Ratings, Bags | None, Batch] | None = None

    def of(self, ratings: Ratings, trained: Bags | None, loss: Loss, seed: int) -> Batch:
        """Return the pairs of a table.

        Parameters
        ----------
        ratings : Ratings
        trained : Bags or None
            The items of each user in the training ratings, where these are known.
        loss : Loss
        seed : int
        """
        if self._kept is None or self._kept[0] is not ratings or self._kept[1] is not trained:
            user, item = ratings.user, ratings.item
            if trained is not None:
                user = np.concatenate([trained.row.astype(np.int32), user])
                item = np.concatenate([trained.index, item])
            candidates = Candidates.of(Batch(user, item), ratings.n_users, ratings.n_items)
            pairs = loss.examples(Batch(ratings.user, ratings.item, ratings.rating), Draw(seed, 0, candidates))
            self._kept = ratings, trained, pairs
        return self._kept[2]
