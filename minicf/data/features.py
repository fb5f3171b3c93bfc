"""Features: what is known of users or items beside their ratings, as a sparse matrix with named columns.

A table's column becomes one feature or several. Of each column a row has entries whose squares add up to about 1, so
that columns of many values do not drown those of few: a category has the weight 1, each of n categories 1 / sqrt(n),
and numbers are standardized to mean 0 and standard deviation 1. A row that lacks a value lacks the entries: it is
predicted as the mean row is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minicf.data.bags import Bags
from minicf.data.checks import frozen, id_values, plural, shown
from minicf.data.ids import Vocabulary

log = logging.getLogger("minicf")

SEPARATOR = "|"
"""Between the categories in a text, as MovieLens has them."""

WIDEST = 8.0
"""Standardized numbers are cut to -8 … 8: one price of a million is not to be all that a feature says."""


@dataclass(frozen=True, eq=False)
class Features:
    """Hold the entries F_rj of a sparse matrix, rows by features, row by row.

    Attributes
    ----------
    start : array of int64, shape (rows + 1,)
        The entries of row r are those from ``start[r]`` to ``start[r + 1]``.
    index : array of int32
        The feature of each entry, ascending within a row.
    value : array of float32
        Its weight F_rj.
    names : array of object, shape (features,)
        ``column`` of a number, ``column=category`` of a category.
    columns : tuple of Column
        How the columns of a table are read, for rows that come later.
    """

    start: NDArray[np.int64]
    index: NDArray[np.int32]
    value: NDArray[np.float32]
    names: NDArray[np.object_]
    columns: tuple[Column, ...]

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, column: str, name: str = "features") -> tuple[Features, Vocabulary]:
        """Read a table of features, a row an id.

        Parameters
        ----------
        frame : DataFrame
            With a column of ids, or with ids as its index. Its other columns are features: numbers (missing ones are
            the mean), booleans, text (a category, or several with ``|`` between them), categorical columns, and lists,
            sets or arrays of categories. Columns that say nothing (one value, or another text in each row) are left
            out, which is logged.
        column : str
            The column of ids.
        name : str
            What messages call the table.

        Returns
        -------
        features : Features
            In the order of the ids.
        ids : Vocabulary

        Raises
        ------
        TypeError
            `frame` is no DataFrame.
        ValueError
            An id occurs twice or is missing, a column occurs twice, has dates or other objects, infinite numbers, or
            there is no column of features.
        """
        table, ids = _table(frame, column, name)
        columns = tuple(
            found
            for found in (_learned(table.iloc[:, i], str(label), name) for i, label in enumerate(table.columns))
            if found is not None
        )
        if not columns:
            raise ValueError(f"{name} has no column that tells rows apart beside the ids; leave it out")
        return cls._read(table, columns, name), ids

    def read(self, frame: pd.DataFrame, column: str, name: str = "features") -> tuple[Features, Vocabulary]:
        """Read further rows as these were read; a category that was not there says nothing, and is logged.

        Parameters, returns and errors are those of `from_frame`. A column that is missing is an error, others are
        ignored.
        """
        table, ids = _table(frame, column, name)
        names = [found.name for found in self.columns]
        labels = [str(label) for label in table.columns]
        if missing := [label for label in names if label not in labels]:
            raise ValueError(f"{name} has no column {', '.join(map(repr, missing))}; it has {labels}")
        return self._read(table.iloc[:, [labels.index(label) for label in names]], self.columns, name), ids

    @classmethod
    def _read(cls, table: pd.DataFrame, columns: tuple[Column, ...], name: str) -> Features:
        rows: list[NDArray[Any]] = []
        index: list[NDArray[Any]] = []
        value: list[NDArray[Any]] = []
        names: list[str] = []
        first = 0
        for i, found in enumerate(columns):
            row, own, weight = found.entries(table.iloc[:, i], name)
            rows.append(row)
            index.append(own + first)
            value.append(weight)
            names += found.labels
            first += len(found.labels)
        row, feature, weight = (np.concatenate(parts) for parts in (rows, index, value))
        order = np.lexsort((feature, row))
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(table)))]).astype(np.int64)
        labels = np.empty(len(names), object)
        labels[:] = names
        return cls(
            frozen(start), frozen(feature[order].astype(np.int32)), frozen(weight[order].astype(np.float32)),
            frozen(labels), columns,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.start) - 1

    def take(self, rows: NDArray[Any]) -> Features:
        """Select rows, in the order asked; row -1 has no entries."""
        rows = np.asarray(rows)
        sizes = np.where(rows < 0, 0, np.diff(np.append(self.start, self.start[-1]))[rows])
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        first = np.append(self.start, self.start[-1])[rows]
        at = np.arange(start[-1]) + np.repeat(first - start[:-1], sizes)
        return Features(start, self.index[at], self.value[at], self.names, self.columns)

    def product(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Compute F Y, (rows, K), of weights Y (features, K): (F15)."""
        out = np.zeros((len(self), *weights.shape[1:]), weights.dtype)
        np.add.at(out, self.rows, self.value.reshape(-1, *[1] * (weights.ndim - 1)) * weights[self.index])
        return out

    def bags(self, side: str) -> Bags:
        """Return the entries as weighted bags of a side, "user" or "item"."""
        return Bags(self.start, self.index, side, self.value)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))


@dataclass(frozen=True)
class Column:
    """Say how a column of a table is read.

    Attributes
    ----------
    name : str
    categories : tuple of str, or None
        None of a column of numbers.
    mean, std : float
        Of a column of numbers.
    """

    name: str
    categories: tuple[str, ...] | None = None
    mean: float = 0.0
    std: float = 1.0

    @property
    def labels(self) -> list[str]:
        """The names of its features."""
        return [self.name] if self.categories is None else [f"{self.name}={category}" for category in self.categories]

    def entries(self, column: pd.Series, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
        """Return row, feature and weight of each entry."""
        if self.categories is None:
            numbers = _numbers(column, self.name, name)
            there = np.flatnonzero(np.isfinite(numbers))
            scaled = ((numbers[there] - self.mean) / self.std).clip(-WIDEST, WIDEST)
            return there, np.zeros(len(there), np.int64), scaled
        row, texts = _categories(column, self.name, name)
        feature = pd.Index(self.categories).get_indexer(pd.Index(texts))
        if (new := feature < 0).any():
            log.info("%s, column %r: %s not known, such as %r, left out", name, self.name,
                     plural(int(new.sum()), "category"), texts[int(new.argmax())])  # fmt: skip
            row, feature = row[~new], feature[~new]
        weight = np.bincount(row, minlength=len(column))[row] ** -0.5
        return row, feature.astype(np.int64), weight


def _table(frame: Any, column: str, name: str) -> tuple[pd.DataFrame, Vocabulary]:
    """Return the columns of features in the order of the ids, and these."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{name} is a {type(frame).__name__}; it must be a pandas DataFrame, a row an id")
    if frame.columns.nlevels > 1:
        raise ValueError(f"{name} has columns of {frame.columns.nlevels} levels; they must have one")
    labels = pd.Index([str(label) for label in frame.columns])
    if labels.has_duplicates:
        raise ValueError(f"{name} has the column {labels[labels.duplicated()][0]!r} more than once: keep one")
    if column in labels:
        ids, rest = frame.loc[:, labels == column].iloc[:, 0].reset_index(drop=True), frame.loc[:, labels != column]
    elif frame.index.nlevels == 1 and (frame.index.name == column or not isinstance(frame.index, pd.RangeIndex)):
        ids, rest = frame.index.to_series(index=pd.RangeIndex(len(frame))), frame
    else:
        raise ValueError(f"{name} has no column {column!r}, and its index has no ids: frame.set_index(...)")
    if not len(frame):
        raise ValueError(f"{name} has no rows; leave it out")
    values = id_values(ids, column)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    if (same := ordered[1:] == ordered[:-1]).any():
        raise ValueError(f"{name} has the id {shown(ordered[int(same.argmax())])} more than once: keep one row an id")
    return rest.iloc[order].reset_index(drop=True), Vocabulary._trusted(ordered)


def _learned(column: pd.Series, label: str, name: str) -> Column | None:
    """Return how to read a column; None for one in which all rows are alike, which says nothing."""
    if _is_number(column):
        numbers = _numbers(column, label, name)
        there = numbers[np.isfinite(numbers)]
        std = float(there.std()) if len(there) else 0.0
        if not std > 1e-12 * float(np.abs(there).max(initial=0.0)):
            log.info("%s, column %r: all rows are alike; left out", name, label)
            return None
        return Column(label, None, float(there.mean()), std)
    row, texts = _categories(column, label, name)
    categories = sorted(set(texts))
    if len(categories) == len(row) or (len(categories) == 1 and len(row) == len(column)):
        log.info("%s, column %r: no two rows share a category, or all are alike; left out", name, label)
        return None
    return Column(label, tuple(categories))


def _is_number(column: pd.Series) -> bool:
    types = pd.api.types
    if isinstance(column.dtype, pd.CategoricalDtype):
        return False
    if column.dtype == object:
        return types.infer_dtype(column, skipna=True) in ("integer", "floating", "mixed-integer-float", "decimal")
    return types.is_integer_dtype(column.dtype) or types.is_float_dtype(column.dtype)


def _numbers(column: pd.Series, label: str, name: str) -> NDArray[np.float64]:
    """Return numbers, NaN where they are missing."""
    if not _is_number(column) and not column.isna().all():
        raise ValueError(f"{name}, column {label!r} has {column.dtype} values; it must have numbers, as before")
    numbers = pd.to_numeric(column).to_numpy(np.float64, na_value=np.nan)
    if (bad := np.isinf(numbers)).any():
        raise ValueError(f"{name}, column {label!r}, row {int(bad.argmax())}: {numbers[bad][0]} is no finite number")
    return numbers


def _categories(column: pd.Series, label: str, name: str) -> tuple[NDArray[np.int64], list[str]]:
    """Return the row and the text of each category, each once a row."""
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if isinstance(column.dtype, pd.CategoricalDtype):
        kind = "string"
    split: Callable[[Any], list[str]]
    if kind == "boolean":
        split = lambda value: [str(bool(value))]  # noqa: E731
    elif kind in ("string", "empty", "integer"):
        split = lambda value: str(value).split(SEPARATOR)  # noqa: E731
    elif all(isinstance(value, list | tuple | set | frozenset | np.ndarray) for value in column.dropna()):
        split = lambda value: [str(part) for part in value]  # noqa: E731
    else:
        raise ValueError(
            f"{name}, column {label!r} has {kind} values; it must have numbers, booleans, text, or lists of text: turn "
            "dates into numbers or categories, or leave the column out"
        )
    rows: list[int] = []
    texts: list[str] = []
    for row, value in enumerate(column):
        if not isinstance(value, list | tuple | set | frozenset | np.ndarray) and pd.isna(value):
            continue
        found = sorted({part.strip() for part in split(value)} - {""})
        rows += [row] * len(found)
        texts += found
    return np.array(rows, np.int64), texts
