"""Texts beside the ids of items: titles and genres, in the order of a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minicf.data.checks import as_series, frozen, object_array, shown
from minicf.data.ids import Vocabulary


def checked_texts(texts: Any, n: int, name: str) -> NDArray[np.object_] | None:
    """Return a read-only copy of texts in the order of the items."""
    if texts is None:
        return None
    if isinstance(texts, Mapping):
        raise TypeError(f"{name} is a mapping; it must be a list in the order of items.ids")
    array = object_array(texts)
    if len(array) != n:
        raise ValueError(f"{name} has {len(array):,} values; it must have one for each of the {n:,} items")
    for position, text in enumerate(array):
        if not isinstance(text, str):
            if not (pd.api.types.is_scalar(text) and pd.isna(text)):
                raise ValueError(f"{name}, item {position} (from 0): {text!r} is not text")
            array[position] = None
    return frozen(array)


def aligned_texts(texts: Any, items: Vocabulary, name: str) -> NDArray[np.object_] | None:
    """Return the text of each item, None where there is none."""
    if texts is None:
        return None
    if not isinstance(texts, Mapping | pd.Series):
        raise TypeError(f"{name} is a {type(texts).__name__}; it must be a dict or Series from item id to text")
    keys = as_series(texts.index if isinstance(texts, pd.Series) else list(texts.keys()))
    repeated = keys.duplicated().to_numpy()
    if repeated.any():
        first = shown(keys[repeated.argmax()])
        raise ValueError(f"{name} has the item {first} more than once: keep one")
    where = items.index(keys, missing=-1)
    if not (where >= 0).any():
        raise ValueError(
            f"{name} has none of the table's items: its first id is "
            f"{keys.iloc[0] if len(keys) else None!r}, the table's is {items.ids.tolist()[0]!r}"
        )
    values = object_array(texts if isinstance(texts, pd.Series) else texts.values())
    aligned = np.full(len(items), None, object)
    aligned[where[where >= 0]] = values[where >= 0]
    return checked_texts(aligned, len(items), name)
