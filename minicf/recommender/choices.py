"""Read which items may be recommended to whom: ids for all users, or for each user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from minicf.arguments import check_unmasked
from minicf.data import Bags, Ratings
from minicf.data.checks import object_array
from minicf.recommender.inputs import Inputs, as_ids
from minicf.recommender.scores import Scores


@dataclass(frozen=True, eq=False)
class ItemsOfUsers:
    """Hold rows of items for each of some users, known ones and others.

    Parameters
    ----------
    lists : Bags
        Of the known users by row, then of the others.
    others : Index
        Ids of the unknown users.
    """

    lists: Bags
    others: pd.Index

    @classmethod
    def read(cls, inputs: Inputs, name: str, given: Any) -> ItemsOfUsers:
        """Read a mapping from user id to item ids, or a frame of pairs; unknown items are left out by the policy."""
        if isinstance(given, Mapping):
            users, sizes, items = _of_mapping(name, given)
        else:
            frame = inputs.frame(given)
            users, sizes, items = frame[inputs.user].reset_index(drop=True), None, frame[inputs.item]
        user, item = inputs.lookup("user", users), inputs.lookup("item", items)
        unknown = user < 0
        others = pd.Index(pd.unique(users[unknown].astype(object)), dtype=object)
        n_known = len(inputs.vocabulary("user"))
        user[unknown] = n_known + others.get_indexer(pd.Index(users[unknown], dtype=object))
        owner = user if sizes is None else np.repeat(user, sizes)
        return cls(Bags.of(owner[item >= 0], item[item >= 0], n_known + len(others)), others)

    def of(self, ids: pd.Series, rows: np.ndarray) -> Bags:
        """Return the lists of some users, by their ids and rows (-1 for an unknown one); empty for those without."""
        unknown = rows < 0
        at = rows.astype(np.int64)
        other = self.others.get_indexer(pd.Index(ids[unknown], dtype=object))
        at[unknown] = np.where(other < 0, -1, len(self.lists.start) - 1 - len(self.others) + other)
        return self.lists.take(at)


def read(inputs: Inputs, name: str, given: Any) -> np.ndarray | ItemsOfUsers | None:
    """Read `candidates` or `exclude` of `Recommender.recommend`.

    Returns
    -------
    array of int, ItemsOfUsers or None
        Rows of items for all users, ascending; those of each user; None if nothing is given.

    Raises
    ------
    TypeError
        A frame without the two columns of ids, or a mapping to anything but lists of ids.
    """
    if given is None:
        return None
    if hasattr(given, "columns"):  # a frame of any library
        columns = list(given.column_names if hasattr(given, "column_names") else given.columns)  # PyArrow's, others'
        if not {inputs.user, inputs.item} <= set(columns):
            raise TypeError(f"{name} is a frame with the columns {columns[:5]}; {_accepted(inputs)}")
    if isinstance(given, Mapping | Ratings) or hasattr(given, "columns"):
        return ItemsOfUsers.read(inputs, name, given)
    return known_rows(inputs, "item", given)


def known_rows(inputs: Inputs, side: str, ids: Any) -> np.ndarray:
    """Return the rows of ids, ascending; unknown ids are left out, or raise, by the policy."""
    found = inputs.lookup(side, as_ids(ids))
    return np.unique(found[found >= 0])


def _accepted(inputs: Inputs) -> str:
    return (
        f"it must be item ids for all users (one column: frame[{inputs.item!r}]), a mapping from user id to item ids, "
        f"or a frame of pairs with the columns {inputs.user!r} and {inputs.item!r}"
    )


def _of_mapping(name: str, given: Mapping[Any, Any]) -> tuple[pd.Series, np.ndarray, pd.Series]:
    """Return user ids, the number of items of each, and the item ids of all."""
    arrays = []
    for user, ids in given.items():
        if pd.api.types.is_scalar(ids) or isinstance(ids, Mapping) or hasattr(ids, "columns"):
            raise TypeError(f"{name}[{user!r}] is {str(ids)[:60]!r}; it must be a 1-d array of item ids")
        check_unmasked(f"{name}[{user!r}]", ids)
        array = ids if isinstance(ids, np.ndarray) else object_array(ids)
        if array.ndim != 1 or array.dtype == bool:
            raise TypeError(f"{name}[{user!r}] is {array.dtype} of shape {array.shape}; it must be a 1-d array of ids")
        arrays.append(array)
    if len({array.dtype for array in arrays}) != 1:  # a common type of numbers could merge large ids
        arrays = [array.astype(object) for array in arrays]
    joined = np.concatenate(arrays) if arrays else np.empty(0, object)
    return as_ids(object_array(given)), np.array([len(array) for array in arrays], np.int64), as_ids(joined)


# --- lists of rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Choice:
    """Hold what lists may be made of.

    Parameters
    ----------
    items : array of int, optional
        Rows of items for all users, ascending; by default all.
    candidates : ItemsOfUsers, optional
        Those of each user; by default `items`.
    exclude : ItemsOfUsers, optional
    seen : Bags, optional
        Of the known users, to leave out.
    """

    items: np.ndarray | None
    candidates: ItemsOfUsers | None
    exclude: ItemsOfUsers | None
    seen: Bags | None

    def best(self, scores: Scores, ids: pd.Series, rows: np.ndarray, n: int, n_items: int) -> tuple[Any, Any]:
        """Return the n best items of some users, by their ids and rows, as `Scores.best` does."""
        skip = None if self.seen is None else self.seen.take(rows)
        if self.exclude is not None:
            more = self.exclude.of(ids, rows)
            skip = more if skip is None else _union(skip, more)
        if self.candidates is None:
            if skip is not None and self.items is not None:
                skip = _places(skip, self.items, n_items)
            return scores.best(rows, n, skip, self.items)
        own = self.candidates.of(ids, rows)
        if self.items is not None:
            allowed = np.zeros(n_items, bool)
            allowed[self.items] = True
            own = _kept(own, allowed[own.index])
        return scores.best_of(rows, n, own if skip is None else _without(own, skip))


def _owners(lists: Bags) -> np.ndarray:
    """Return the number of its list for each entry."""
    return np.repeat(np.arange(len(lists.start) - 1), np.diff(lists.start))


def _kept(lists: Bags, keep: np.ndarray) -> Bags:
    return Bags.of(_owners(lists)[keep], lists.index[keep], len(lists.start) - 1)


def _union(a: Bags, b: Bags) -> Bags:
    owners, index = (np.concatenate(pair) for pair in ((_owners(a), _owners(b)), (a.index, b.index)))
    return Bags.of(owners, index, len(a.start) - 1)


def _without(lists: Bags, others: Bags) -> Bags:
    """Return what is in the lists and not in the others."""
    keys, gone = (_owners(x).astype(np.int64) << 32 | x.index for x in (lists, others))
    if not len(gone):
        return lists
    gone.sort()
    return _kept(lists, gone[np.minimum(np.searchsorted(gone, keys), len(gone) - 1)] != keys)


def _places(lists: Bags, items: np.ndarray, n_items: int) -> Bags:
    """Return lists of rows as positions among `items`, some of `n_items` rows; other rows are left out."""
    position = np.full(n_items, -1, np.int32)
    position[items] = np.arange(len(items), dtype=np.int32)
    at = position[lists.index]
    return _kept(lists._replace(index=at), at >= 0)
