"""Build lists as tables with ids and titles, and find the relevant items in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from minicf.data import Ratings
from minicf.recommender.inputs import Inputs

# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lists:
    """Build lists and tables of ids and titles.

    Parameters
    ----------
    inputs : Inputs
    titles : array of object, optional
        Of all items.
    """

    inputs: Inputs
    titles: np.ndarray | None

    def filtered(self, side: str, rows: np.ndarray, filter: Callable[[pd.DataFrame], Any]) -> np.ndarray:
        """Return those of some rows of a side that `filter` of `Recommender.recommend` chooses."""
        chosen = np.asarray(filter(pd.DataFrame(self.named(side, rows))))
        if chosen.dtype != bool or chosen.shape != (len(rows),):
            raise ValueError(
                f"filter returned {chosen.dtype} of shape {chosen.shape}; it must return one boolean for each of "
                f"the {len(rows)} {side}s"
            )
        return rows[chosen]

    def named(self, side: str, rows: np.ndarray, column: str | None = None) -> dict[str, np.ndarray]:
        """Return the ids of some rows of a side, by the name of their column, and their titles if there are any."""
        table = {column or self.inputs.column(side): self.inputs.vocabulary(side).ids[rows]}
        if side == "item" and self.titles is not None:
            table["title"] = self.titles[rows]
        return table

    def ranked(
        self,
        owners: tuple[str, pd.Series, np.ndarray],
        side: str,
        rows: np.ndarray,
        score: np.ndarray,
        place: tuple[np.ndarray, ...],
    ) -> pd.DataFrame:
        """Return lists as one table: owner, rank, id, title, score, known.

        Parameters
        ----------
        owners : (str, Series of length n_lists, array of bool of shape (n_lists,))
            Their side, their ids, and whether each is known.
        side : "user" or "item"
            Of the entries.
        rows, score : arrays, shape (n,)
            Of the entries.
        place : tuple of arrays of int, shape (n,)
            The list of each entry, and its position there, from 0.
        """
        of, ids, known = owners
        owner, position = place
        table = {self.inputs.column(of): ids.infer_objects().to_numpy()[owner], "rank": position + 1}
        table |= self.named(side, rows, f"similar_{self.inputs.column(side)}" if of == side else None)
        return pd.DataFrame(table | {"score": score, "known": known[owner]})

    def factors(self, weights: Mapping[str, np.ndarray], side: str, rows: np.ndarray) -> pd.DataFrame:
        """Return ids, titles, biases and factors of some rows of a side."""
        table: dict[str, Any] = dict(self.named(side, rows))
        if f"{side}_bias" in weights:
            table["bias"] = weights[f"{side}_bias"][rows]
        if f"{side}_factors" in weights:
            factors = weights[f"{side}_factors"][rows]
            table |= {f"factor_{j}": factors[:, j] for j in range(factors.shape[1])}
        return pd.DataFrame(table)


# --- rated items ------------------------------------------------------------------------------------------------------


def listed(lists: pd.DataFrame, inputs: Inputs, ids: np.ndarray, k: int) -> np.ndarray:
    """Return the rows of the items of lists.

    Parameters
    ----------
    lists : DataFrame
        Of `Recommender.recommend`, up to k items for each of some users.
    inputs : Inputs
    ids : array, shape (n_lists,)
        Ids of the users, each once.
    k : int

    Returns
    -------
    array of int, shape (n_lists, k)
        Best first; -1 where a list has ended.
    """
    items = np.full((len(ids), k), -1)
    owner = pd.Index(ids).get_indexer(pd.Index(lists[inputs.user]))
    items[owner, lists["rank"].to_numpy() - 1] = inputs.vocabulary("item").index(lists[inputs.item].to_numpy())
    return items


def ratings_of(items: np.ndarray, inputs: Inputs, ratings: Ratings, users: np.ndarray) -> np.ndarray:
    """Return the ratings that listed items have from the owners of the lists.

    Parameters
    ----------
    items : array of int, shape (n_lists, k)
        Rows of items, -1 for none.
    inputs : Inputs
    ratings : Ratings
        One for a user and an item, at most.
    users : array of int, shape (n_lists,)
        Indices in ``ratings.users`` of the users that have a list.

    Returns
    -------
    array of float32, shape (n_lists, k)
        NaN where the user did not rate the item.
    """
    place = np.full(ratings.n_users, -1)
    place[users] = np.arange(len(users))
    vocabulary = inputs.vocabulary("item")
    own = vocabulary.index(ratings.items.ids, missing=-1)[ratings.item]
    rated = (own >= 0) & (place[ratings.user] >= 0)
    size = len(vocabulary)
    pair = place[ratings.user[rated]].astype(np.int64) * size + own[rated]
    order = np.argsort(pair)
    pair, rating = pair[order], ratings.rating[rated][order]
    asked = np.where(items < 0, -1, np.arange(len(users))[:, None] * size + items)
    found = np.full(items.shape, np.nan, np.float32)
    if len(pair):
        at = np.minimum(np.searchsorted(pair, asked), len(pair) - 1)
        there = pair[at] == asked
        found[there] = rating[at[there]]
    return found
