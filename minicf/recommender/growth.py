"""Make room for new ids in what a fitted recommender holds: vocabularies, tables, titles and seen items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minicf.data import Bags, Vocabulary
from minicf.models import Model, Weights
from minicf.recommender.fold_in import Rows, pieces
from minicf.recommender.inputs import SIDES
from minicf.solvers import Posterior


@dataclass(frozen=True, eq=False)
class Growth:
    """Move rows to their places in larger vocabularies; nothing is changed in place.

    Parameters
    ----------
    vocabularies : dict of Vocabulary, by side
        The larger ones.
    places : dict of arrays of int, by side
        The new row of each old row.
    """

    vocabularies: Mapping[str, Vocabulary]
    places: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, known: Mapping[str, Vocabulary], ids: Mapping[str, np.ndarray]) -> Growth:
        """Merge known ids and other ids, new or known, by side."""
        merged = {}
        for side, old in known.items():
            new = ids.get(side, ())
            merged[side] = Vocabulary._trusted(np.unique(np.concatenate([old.ids, new]))) if len(new) else old
        return cls(merged, {side: merged[side].index(old.ids) for side, old in known.items()})

    def weights(self, model: Model, weights: Weights, solved: Mapping[str, Rows]) -> Weights:
        """Return the weights with larger tables.

        Parameters
        ----------
        model : Model
        weights : dict of arrays
        solved : dict of Rows, by side
            Other new ids get the mean row.
        """
        grown = dict(weights)
        for side in SIDES:
            if side not in solved and len(self.vocabularies[side]) == len(self.places[side]):
                continue  # nothing of it changes
            for name in model.tables(side):
                w = weights[name]
                grown[name] = np.empty((len(self.vocabularies[side]), *w.shape[1:]), w.dtype)
                grown[name][...] = w.mean(axis=0, dtype=np.float64)
                grown[name][self.places[side]] = w
            if side in solved:
                ids, rows, _ = solved[side]
                at = self.vocabularies[side].index(ids)
                for name, value in pieces(model, side, weights, rows).items():
                    grown[name][at] = value
        return grown

    def posterior(self, posterior: Posterior, solved: Mapping[str, Rows]) -> Posterior:
        """Return the samples with larger tables; other new ids than the solved get the mean row of each."""
        for side in SIDES:
            if side in solved or len(self.vocabularies[side]) > len(self.places[side]):
                posterior = posterior.grown(side, self.places[side], len(self.vocabularies[side]))
            if side in solved:
                posterior.samples[side][:, self.vocabularies[side].index(solved[side].ids)] = solved[side].draws
        return posterior

    def titles(
        self, titles: np.ndarray | None, items: Vocabulary | None = None, more: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Return the titles of all items, `more` titles of some `items` put in; None if there are none."""
        if titles is None and more is None:
            return None
        known = np.full(len(self.vocabularies["item"]), None, object)
        if titles is not None:
            known[self.places["item"]] = titles
        if items is not None and more is not None:
            there = np.array([title is not None for title in more.tolist()], dtype=np.bool_)
            known[self.vocabularies["item"].index(items.ids)[there]] = more[there]
        return known

    def seen(self, seen: Bags | None, user: np.ndarray, item: np.ndarray) -> Bags | None:
        """Return the seen items of all users, with pairs of new rows of user and item added."""
        if seen is None:
            return None
        before = self.places["user"][np.repeat(np.arange(len(seen.start) - 1), np.diff(seen.start))]
        items = self.places["item"].astype(np.int32)[seen.index]
        return Bags.of(np.concatenate([before, user]), np.concatenate([items, item]), len(self.vocabularies["user"]))


def unseen(seen: Bags, side: str, rows: np.ndarray) -> Bags:
    """Return the seen items of all users without those of some users, or without some items."""
    n_users = len(seen.start) - 1
    user = np.repeat(np.arange(n_users), np.diff(seen.start))
    keep = ~np.isin(user if side == "user" else seen.index, rows)
    return Bags.of(user[keep], seen.index[keep], n_users)
