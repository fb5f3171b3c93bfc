"""A measure of lists while training goes on: how many held-out events they recover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minicf import rng
from minicf.arguments import check_int
from minicf.backends import get_backend
from minicf.data import Bags, Ratings
from minicf.scoring import top_n
from minicf.train.callbacks import Callback, Row
from minicf.train.checks import check_one_split, check_ratings

if TYPE_CHECKING:
    from minicf.train.trainer import Trainer


class HeldOutRecall(Callback):
    """Measure after each epoch how many held-out items are in users' lists: the history's column ``valid_recall``.

    The recall of a user is the share of the held-out items that are among the `k` best of all items but those of
    training; the column has its mean over users with held-out items. Errors of predictions, ``valid_mse``, do not say
    how good lists are. To stop where lists are best, name it before the callback that follows it::

        recall = minicf.HeldOutRecall(train, valid)
        best = minicf.EarlyStopping(patience=1, monitor="valid_recall", mode="max")
        trainer.fit(train, epochs=16, callbacks=[recall, best])

    Parameters
    ----------
    train : Ratings
        What the lists leave out.
    valid : Ratings
        Held-out events of the same split; its rows of rating 0, dislikes, are not looked for.
    k : int
        The length of the lists.
    n_users : int
        Users that are asked, drawn once where more have held-out items: all would take longer than an epoch.
    """

    def __init__(self, train: Ratings, valid: Ratings, k: int = 20, n_users: int = 2000) -> None:
        check_ratings("train", train)
        check_ratings("valid", valid)
        check_one_split(train, valid)
        self.k = check_int("k", k, 1)
        self._n_items, wanted = valid.n_items, valid.rating > 0
        found = np.unique(valid.user[wanted])
        if not len(found):
            raise ValueError("valid has no row with a rating above 0; there must be something to look for")
        drawn = rng.permutation(0, 0, len(found))[: check_int("n_users", n_users, 1)]
        self._users = np.sort(found[drawn])
        held = Bags.of(valid.user[wanted], valid.item[wanted], valid.n_users)
        self._held, self._seen = held.take(self._users), Bags.history(train, "user").take(self._users)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        program, backend = trainer.program, get_backend(trainer.backend)
        score = trainer.model.scorer(program.w, program.bags, program.xp)
        lists, _ = top_n(
            score, self._users, self._n_items, self.k, self._seen, trainer.n_threads, backend.select, program.xp,
            backend.scores_bytes,
        )  # fmt: skip
        trainer.history[-1]["valid_recall"] = recall(lists, self._held)


def recall(lists: np.ndarray, held: Bags) -> float:
    """Return the mean over rows of: held-out items in the list / held-out items.

    Parameters
    ----------
    lists : array of int, shape (rows, k)
        -1 where a list has no more.
    held : Bags
        The held-out items of these rows, at least one each.
    """
    sizes = np.diff(held.start)
    n = 1 + max(int(lists.max(initial=0)), int(held.index.max(initial=0)))
    there = np.isin(np.arange(len(lists))[:, None] * n + lists, held.row * n + held.index) & (lists >= 0)
    return float((there.sum(axis=1) / sizes).mean())
