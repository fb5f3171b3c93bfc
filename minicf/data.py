"""Ratings tables: from a frame or a MovieLens file to contiguous indices, and the splits.

Names: ``user`` and ``item`` are contiguous indices (0, 1, 2, ...), a *user id* or *item id* is what
the caller gave. A `Vocabulary` translates between them. Everything is checked here, once, where a
table becomes `Ratings`; what comes after trusts the indices.
"""

from __future__ import annotations

import csv
import io
import logging
import numbers
import re
import zipfile
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, overload

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from minicf.arguments import check_flag, check_seed, check_unmasked

__all__ = ["Ratings", "UnknownIdError", "Vocabulary", "load_movielens"]

log = logging.getLogger("minicf")

MAX_INT32 = np.iinfo(np.int32).max
MAX_FLOAT32 = float(np.finfo(np.float32).max)
PLAUSIBLE = 10_000_000  # an index up to here, or 100 times the number of rows, is taken at its word
EXACT_FLOAT = 2**53  # from here on, neighbouring integers are one and the same float64


class UnknownIdError(KeyError):
    """An id that is not in the vocabulary (a KeyError whose text is shown as it is)."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


# --------------------------------------------------------------------------------------------------
# Ids


class Vocabulary:
    """The ids of one side of a table, users or items, and their contiguous indices.

    Parameters
    ----------
    ids : array-like of int or str
        Unique and ascending (strings by code point). The id at position ``i`` has index ``i``.

    Attributes
    ----------
    ids : ndarray of shape (n,), int64 or object (str)
        Read-only.

    Raises
    ------
    ValueError
        If ids are missing, of mixed or other types, not unique or not ascending.
    """

    __slots__ = ("_lookup", "ids")

    ids: NDArray[Any]

    def __init__(self, ids: ArrayLike | pd.Series | pd.Index) -> None:
        values = _id_values(_as_series(ids), "ids")
        ordered = values[:-1] < values[1:]
        if not np.all(ordered):
            row = int(np.argmin(ordered)) + 1
            raise ValueError(
                f"ids, row {row}: {_shown(values[row])} does not come after "
                f"{_shown(values[row - 1])}; a vocabulary has unique ascending ids: pass "
                "numpy.unique(ids)"
            )
        self.ids = _frozen(values.copy())
        self._lookup: pd.Index | None = None

    @classmethod
    def _trusted(cls, ids: NDArray[Any]) -> Vocabulary:
        self = cls.__new__(cls)
        self.ids = _frozen(ids)
        self._lookup = None
        return self

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.ids.dtype == other.ids.dtype and np.array_equal(self.ids, other.ids)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kind = "integer" if self._integers else "string"
        head = ", ".join(repr(value) for value in self.ids[:3].tolist())
        tail = f" ... {self.ids[-1:].tolist()[0]!r}" if len(self) > 3 else ""
        return f"Vocabulary({len(self):,} {kind} ids: {head}{tail})"

    @property
    def _integers(self) -> bool:
        return self.ids.dtype != object

    @overload
    def index(self, ids: int | np.integer[Any] | str, missing: Literal["raise", -1] = "raise") -> int: ...
    @overload
    def index(self, ids: Any, missing: Literal["raise", -1] = "raise") -> NDArray[np.int64]: ...
    def index(self, ids: Any, missing: Literal["raise", -1] = "raise") -> Any:
        """Return the indices of ids.

        Parameters
        ----------
        ids : id or 1-d array-like of ids
            Floats that are whole numbers count as integers; text never does.
        missing : "raise" or -1, default "raise"
            What an unknown id gives: an error, or the index -1.

        Returns
        -------
        int, or ndarray of int64 with the shape of `ids`

        Raises
        ------
        UnknownIdError
            A KeyError that names the first unknown ids, if `missing` is "raise".
        """
        if missing not in ("raise", -1):
            raise ValueError(f'missing={missing!r}: it is "raise" or -1')
        scalar = pd.api.types.is_scalar(ids)
        series = _as_series([ids] if scalar else ids)
        found = self._positions(series)
        if missing == "raise" and (found < 0).any():
            raise UnknownIdError(self._unknown(series[found < 0]))
        return int(found[0]) if scalar else found

    def _positions(self, series: pd.Series) -> NDArray[np.int64]:
        if self._lookup is None:  # built at the first question: most vocabularies are never asked
            # Not what pandas infers: an Arrow index cannot hold every text (a lone surrogate, for one).
            self._lookup = pd.Index(self.ids, dtype=self.ids.dtype)
        try:
            wanted = _id_values(series, "ids")
            if (wanted.dtype != object) is not self._integers:
                return np.full(len(series), -1, np.int64)
        except ValueError:  # mixed, missing or odd values: each stands for itself
            same_type = [_as_id(value, self._integers) for value in series.tolist()]
            valid = np.array([value is not None for value in same_type], bool)
            found = np.full(len(series), -1, np.int64)
            kept = np.array([v for v in same_type if v is not None], self.ids.dtype)
            found[valid] = self._lookup.get_indexer(pd.Index(kept, dtype=self._lookup.dtype))
            return found
        return self._lookup.get_indexer(pd.Index(wanted, dtype=self._lookup.dtype)).astype(np.int64)

    def _unknown(self, series: pd.Series) -> str:
        values = list(dict.fromkeys(series.tolist()))
        shown = ", ".join(repr(value) for value in values[:5]) + (" ..." if len(values) > 5 else "")
        text = f"{_plural(len(values), 'unknown id')}: {shown}"
        for value in values[:1000]:
            twin: Any = None
            if self._integers and isinstance(value, str):
                twin = int(value) if len(value) < 20 and value.isdecimal() else None
            elif not self._integers and (number := _as_id(value, True)) is not None:
                twin = str(number)
            if twin is not None and self.index(twin, missing=-1) >= 0:
                kind = "integers" if self._integers else "strings"
                return f"{text}; ids here are {kind}: {twin!r} is known, {value!r} is not"
        return f"{text}; ask with missing=-1 to get -1 for ids that are not known"


def _as_id(value: Any, integers: bool) -> int | str | None:
    """Return the value as an id of the given kind, None if it cannot be one."""
    if not integers:
        return value if isinstance(value, str) else None
    if isinstance(value, bool):
        return None
    if isinstance(value, float | np.floating) and not value.is_integer():
        return None
    if isinstance(value, numbers.Integral | float | np.floating):
        whole = int(value)
        return whole if -(2**63) <= whole < 2**63 else None
    return None


def _as_series(values: Any) -> pd.Series:
    """Return 1-d values as a series numbered from 0, without guessing a common type for lists."""
    if isinstance(values, pd.Series):
        return values.reset_index(drop=True)
    if isinstance(values, pd.Index):
        return values.to_series(index=pd.RangeIndex(len(values)))
    check_unmasked("ids", values)
    array = values if isinstance(values, np.ndarray) else _object_array(values)
    if array.ndim != 1:
        raise ValueError(f"ids have shape {array.shape}: pass one id or a 1-d array of ids")
    return pd.Series(array, dtype=object if array.dtype.kind in "OUS" else None, copy=False)


def _object_array(values: Any) -> NDArray[np.object_]:
    # numpy.array(["a", 1]) would turn 1 into "1".
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"expected a list or an array, got {type(values).__name__}: {values!r}")
    listed = list(values)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def _id_values(column: pd.Series, name: str) -> NDArray[Any]:
    """Return checked ids, one per row, as int64 or as an object array of str."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.dtype.categories.dtype)
    _refuse_missing(column, name, "ids")
    types = pd.api.types
    if types.is_bool_dtype(column.dtype):
        _refuse(column, name, 0, "is not an id", f'use frame["{name}"].astype(int)')
    if types.is_integer_dtype(column.dtype):
        values = column.to_numpy()
        if values.dtype.kind == "u" and values.size and values.max() > np.iinfo(np.int64).max:
            row = int(values.argmax())
            _refuse(column, name, row, "is above 2**63 - 1", "give such ids as text: .astype(str)")
        return values.astype(np.int64)
    if types.is_float_dtype(column.dtype):
        return _whole(column, name, 'give ids as integers or text: .astype("int64") or .astype(str)')
    if column.dtype == object or types.is_string_dtype(column.dtype):
        values = column.to_numpy(dtype=object)
        kind = pd.api.types.infer_dtype(values, skipna=False)
        if kind in ("string", "empty"):
            # Hash tables and fixed-width arrays may end a text at such a character.
            for row, value in enumerate(values):
                if "\0" in value:
                    _refuse(column, name, row, "holds a null character", "take it out of the ids")
            return values
        if kind == "integer":
            try:
                return values.astype(np.int64)
            except OverflowError:
                row = next(r for r, v in enumerate(values) if not -(2**63) <= v < 2**63)
                _refuse(column, name, row, "does not fit in 64 bits", "give such ids as text")
        if kind == "floating":
            return _whole(column.astype(float), name, "give ids as integers or as text")
        _refuse_mixed(column, name)
    _refuse(column, name, 0, f"has the type {column.dtype}", "ids are integers or text: .astype(str)")


def _whole(column: pd.Series, name: str, remedy: str) -> NDArray[np.int64]:
    """Return floats that are exactly whole numbers as int64."""
    values = column.to_numpy(dtype=np.float64)
    # The comparison is False for NaN and infinity too.
    bad = ~((np.abs(values) < EXACT_FLOAT) & (np.floor(values) == values))
    if bad.any():
        _refuse(column, name, int(bad.argmax()), "is not a whole number below 2**53", remedy)
    return values.astype(np.int64)


# --------------------------------------------------------------------------------------------------
# Refusals: each names the row, the value and the remedy. Rows are counted from 0 by position.


def _refuse(column: pd.Series, name: str, row: int, problem: str, remedy: str) -> NoReturn:
    value = column.iloc[row] if len(column) else None
    raise ValueError(f'column "{name}", row {row} (from 0): {_shown(value)} {problem}; {remedy}')


def _refuse_missing(column: pd.Series, name: str, what: str) -> None:
    missing = column.isna().to_numpy(dtype=bool)
    if missing.any():
        problem = f"is no value ({_plural(int(missing.sum()), 'row')} in all)"
        remedy = f'{what} may not be missing: drop such rows, frame.dropna(subset=["{name}"])'
        _refuse(column, name, int(missing.argmax()), problem, remedy)


def _refuse_mixed(column: pd.Series, name: str) -> NoReturn:
    values = column.tolist()
    first = type(values[0])
    row = next((r for r, value in enumerate(values) if type(value) is not first), 0)
    if row == 0:
        problem = f"is a {first.__name__}, neither integer nor text"
    else:
        problem = f"is a {type(values[row]).__name__}, but row 0 is a {first.__name__}: {values[0]!r}"
    _refuse(column, name, row, problem, f'make ids one type, such as frame["{name}"].astype(str)')


def _shown(value: Any) -> str:
    """Return a value as its user wrote it: 3, not np.int64(3)."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


# --------------------------------------------------------------------------------------------------
# Ratings


class Ratings:
    """A table of ratings with contiguous indices; it does not change.

    Made by `from_frame` or `load_movielens`; this constructor takes indices.

    Parameters
    ----------
    user, item : array-like of int, shape (n,)
        Indices from 0. A pair may occur more than once here: it is `from_frame` that has a policy.
    rating : array-like of float, shape (n,)
        Finite.
    users, items : Vocabulary or int, optional
        The ids behind the indices; a number n stands for the ids 0 ... n - 1, the default for the
        largest index plus one.
    timestamp : array-like of int, shape (n,), optional
        Seconds since 1970, UTC.
    titles, genres : array-like of str, shape (n_items,), optional
        In the order of ``items.ids``; None where there is none.

    Attributes
    ----------
    user, item : ndarray of int32
    rating : ndarray of float32
    timestamp : ndarray of int64, or None
    users, items : Vocabulary
    titles, genres : ndarray of object (str or None), or None
        Arrays are copies and read-only: 12 bytes per rating, 20 with timestamps.

    Raises
    ------
    ValueError
        For no rows, unequal lengths, indices outside the vocabulary, ratings that are not finite.
    """

    __slots__ = ("__weakref__", "genres", "item", "items", "rating", "timestamp", "titles", "user", "users")

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float32]
    timestamp: NDArray[np.int64] | None
    users: Vocabulary
    items: Vocabulary
    titles: NDArray[np.object_] | None
    genres: NDArray[np.object_] | None

    def __init__(
        self,
        user: ArrayLike,
        item: ArrayLike,
        rating: ArrayLike,
        users: Vocabulary | int | None = None,
        items: Vocabulary | int | None = None,
        timestamp: ArrayLike | None = None,
        titles: Any = None,
        genres: Any = None,
    ) -> None:
        _check_count(np.shape(rating))
        columns = pd.Series(_one_dimensional(rating, "rating"))
        if len(columns) == 0:
            raise ValueError("no ratings: a table needs at least one row")
        self.rating = _frozen(_rating_values(columns, "rating"))
        n = len(self.rating)
        self.user, self.users = _checked_indices(user, users, n, "user")
        self.item, self.items = _checked_indices(item, items, n, "item")
        self.timestamp = None
        if timestamp is not None:
            times = pd.Series(_one_dimensional(timestamp, "timestamp", n))
            self.timestamp = _frozen(_time_values(times, "timestamp"))
        self.titles = _checked_texts(titles, len(self.items), "titles")
        self.genres = _checked_texts(genres, len(self.items), "genres")

    @classmethod
    def _trusted(
        cls,
        user: NDArray[np.int32],
        item: NDArray[np.int32],
        rating: NDArray[np.float32],
        timestamp: NDArray[np.int64] | None,
        users: Vocabulary,
        items: Vocabulary,
        titles: NDArray[np.object_] | None,
        genres: NDArray[np.object_] | None,
    ) -> Ratings:
        """Take over arrays that are right already and belong to nobody else."""
        self = cls.__new__(cls)
        self.user, self.item, self.rating = _frozen(user), _frozen(item), _frozen(rating)
        self.timestamp = None if timestamp is None else _frozen(timestamp)
        self.users, self.items, self.titles, self.genres = users, items, titles, genres
        return self

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        user: str = "userId",
        item: str = "movieId",
        rating: str = "rating",
        timestamp: str | None = None,
        titles: Mapping[Any, str] | pd.Series | None = None,
        genres: Mapping[Any, str] | pd.Series | None = None,
        duplicates: Literal["error", "last", "mean"] = "error",
    ) -> Ratings:
        """Make ratings from any table; the frame is not changed and the row order is kept.

        Parameters
        ----------
        frame : DataFrame
            One row per rating. Its index is not looked at.
        user, item : str
            Columns of ids: integers or text, in any order, with gaps; also categorical, nullable
            and Arrow columns of these. Floats are taken for integers if every one of them is
            whole; booleans, dates and mixtures are refused.
        rating : str
            Column of finite numbers, stored as float32. Text is refused, even if it looks like
            numbers.
        timestamp : str, optional
            Column of whole seconds since 1970, or of dates (no zone means UTC; cut to the second).
        titles, genres : mapping or Series from item id to text, optional
            May name items that nobody rated, and lack some that are.
        duplicates : {"error", "last", "mean"}, default "error"
            What to do where a user rated an item more than once. "last" keeps the last row of the
            table, "mean" puts the mean rating in its place, with the latest timestamp. How many
            rows went is logged at level INFO.

        Raises
        ------
        ValueError
            With the row (by position, from 0), the value and the remedy: missing columns, no rows,
            missing or mixed ids, ratings that are missing, infinite or no numbers, duplicate pairs.
        """
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(f"expected a pandas DataFrame, got {type(frame).__name__}")
        if duplicates not in ("error", "last", "mean"):
            raise ValueError(f'duplicates={duplicates!r}: it is "error", "last" or "mean"')
        wanted = {"user": user, "item": item, "rating": rating}
        columns = _columns(frame, wanted if timestamp is None else wanted | {"timestamp": timestamp})
        if len(frame) == 0:
            raise ValueError("the table has no rows: ratings need at least one")
        _check_count(frame.shape)
        user_index, users = _encode(columns["user"], user)
        item_index, items = _encode(columns["item"], item)
        stars = _rating_values(columns["rating"], rating)
        times = None if timestamp is None else _time_values(columns["timestamp"], timestamp)
        ratings = cls._trusted(
            user_index,
            item_index,
            stars,
            times,
            users,
            items,
            _aligned_texts(titles, items, "titles"),
            _aligned_texts(genres, items, "genres"),
        )
        return ratings._unique_pairs(duplicates)

    def _unique_pairs(self, policy: str) -> Ratings:
        pair = pd.Series(self.user.astype(np.int64) * self.n_items + self.item)
        extra = pair.duplicated(keep="last").to_numpy()
        if not extra.any():
            return self
        if policy == "error":
            row = int(extra.argmax())
            rows = np.flatnonzero(pair.to_numpy() == pair[row])
            item, user = self.items.ids[self.item[row]], self.users.ids[self.user[row]]
            raise ValueError(
                f"rows {rows[0]} and {rows[1]} (from 0) are both ratings of item "
                f"{_shown(item)} by user {_shown(user)}: "
                f"{self.rating[rows[0]]} and {self.rating[rows[1]]} "
                f"({_plural(int(extra.sum()), 'row')} too many in all); "
                'say duplicates="last" or duplicates="mean", or drop them'
            )
        log.info("duplicates=%r: %s went", policy, _plural(int(extra.sum()), "row"))
        kept = self.take(~extra)
        if policy == "last":
            return kept
        groups = pd.factorize(pair[::-1])[0][::-1]  # numbered from the end, as last rows are kept
        total = np.bincount(groups, weights=self.rating)
        mean = (total / np.bincount(groups))[::-1].astype(np.float32)
        latest = None
        if self.timestamp is not None:
            latest = np.full(len(kept), np.iinfo(np.int64).min)
            np.maximum.at(latest, groups, self.timestamp)
            latest = latest[::-1].copy()
        return Ratings._trusted(kept.user, kept.item, mean, latest, self.users, self.items, self.titles, self.genres)

    def __len__(self) -> int:
        return len(self.rating)

    def __repr__(self) -> str:
        low, high = (np.format_float_positional(edge, trim="0") for edge in (self.rating.min(), self.rating.max()))
        counts = (
            _plural(len(self), "rating"),
            _plural(self.n_users, "user"),
            _plural(self.n_items, "item"),
        )
        return f"Ratings({', '.join(counts)}, stars {low} … {high})"

    @property
    def n_users(self) -> int:
        """Number of users in the vocabulary; a split may hold ratings of fewer."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items in the vocabulary; a split may hold ratings of fewer."""
        return len(self.items)

    @property
    def mean(self) -> float:
        """Mean rating, summed in float64."""
        return float(self.rating.mean(dtype=np.float64))

    def user_counts(self) -> NDArray[np.int64]:
        """Return the number of ratings of each user, shape (n_users,)."""
        return np.bincount(self.user, minlength=self.n_users)

    def item_counts(self) -> NDArray[np.int64]:
        """Return the number of ratings of each item, shape (n_items,)."""
        return np.bincount(self.item, minlength=self.n_items)

    def frame(self) -> pd.DataFrame:
        """Return a new table in the caller's ids: userId, movieId, rating, timestamp if any."""
        columns: dict[str, NDArray[Any]] = {
            "userId": self.users.ids[self.user],
            "movieId": self.items.ids[self.item],
            "rating": self.rating.copy(),
        }
        if self.timestamp is not None:
            columns["timestamp"] = self.timestamp.copy()
        return pd.DataFrame(columns)

    def top(self, n_users: int = 15, n_items: int = 15) -> pd.DataFrame:
        """Return the ratings of the most rated items by the most active users, crosswise.

        Parameters
        ----------
        n_users, n_items : int
            Most rows and columns; at equal counts the smaller id goes first.

        Returns
        -------
        DataFrame of float32
            Rows are user ids, columns item ids, both ascending; NaN where there is no rating.
        """
        users = _most_frequent(self.user_counts(), n_users, "n_users")
        items = _most_frequent(self.item_counts(), n_items, "n_items")
        row_of = np.full(self.n_users, -1)
        row_of[users] = np.arange(len(users))
        column_of = np.full(self.n_items, -1)
        column_of[items] = np.arange(len(items))
        row, column = row_of[self.user], column_of[self.item]
        inside = (row >= 0) & (column >= 0)
        table = np.full((len(users), len(items)), np.nan, np.float32)
        table[row[inside], column[inside]] = self.rating[inside]
        return pd.DataFrame(
            table,
            index=pd.Index(self.users.ids[users], name="userId"),
            columns=pd.Index(self.items.ids[items], name="movieId"),
        )

    def take(self, rows: ArrayLike) -> Ratings:
        """Return some of the rows, in the order asked, with the same vocabularies and titles.

        Parameters
        ----------
        rows : array-like of int, or of bool with one value per row
            Positions from 0, or a mask.
        """
        check_unmasked("rows", rows)
        chosen = np.asarray(rows)
        n = len(self)
        if chosen.dtype == bool and chosen.shape == (n,):
            chosen = np.flatnonzero(chosen)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise ValueError(
                f"rows have dtype {chosen.dtype} and shape {chosen.shape}: pass a 1-d array of "
                f"positions, or a mask of {n:,} booleans"
            )
        if chosen.size == 0:
            raise ValueError("no rows are left: ratings need at least one")
        bad = (chosen < 0) | (chosen >= n)
        if bad.any():
            raise ValueError(f"row {chosen[bad.argmax()]} is not one of 0 ... {n - 1}")
        return Ratings._trusted(
            self.user[chosen],
            self.item[chosen],
            self.rating[chosen],
            None if self.timestamp is None else self.timestamp[chosen],
            self.users,
            self.items,
            self.titles,
            self.genres,
        )

    def split(
        self,
        valid: float = 0.2,
        seed: int = 42,
        by: Literal["random", "time", "user"] = "random",
        last: bool = True,
    ) -> tuple[Ratings, Ratings]:
        """Cut into disjoint (train, valid) parts that share the vocabularies.

        Parameters
        ----------
        valid : float in (0, 1) or int
            A share, rounded down, or a number of rows; per user if ``by="user"``.
        seed : int
            Of ``numpy.random.RandomState``; not used where nothing is drawn.
        by : {"random", "time", "user"}
            - "random": validation rows are ``RandomState(seed).permutation(n)[:int(valid * n)]``,
              the rows (and, with seed 42, the split) of fast.ai's lesson.
            - "time": the latest rows of the table; of equal times, the later rows.
            - "user": rows of each user, but a user keeps at least one for training.
        last : bool
            For ``by="user"``: a user's latest rows (True), or random ones (False).

        Returns
        -------
        train, valid : Ratings
            Both in the order of the table, but the validation rows of "random" in the order of
            the permutation.
        """
        n = len(self)
        _check_valid(valid)
        last = check_flag("last", last)
        if by not in ("random", "time", "user"):
            raise ValueError(f'by={by!r}: it is "random", "time" or "user"')
        if by == "time" or (by == "user" and last):
            if self.timestamp is None:
                other = 'by="random"' if by == "time" else "last=False"
                raise ValueError(
                    f"by={by!r} needs timestamps and these ratings have none: give the column, "
                    f"from_frame(..., timestamp=...), or split with {other}"
                )
            order = np.argsort(self.timestamp, kind="stable")
        else:
            order = np.random.RandomState(check_seed("seed", seed)).permutation(n)
        if by == "user":
            chosen = self._last_of_each_user(order, valid)
        else:
            size = int(valid) if isinstance(valid, int | np.integer) else int(valid * n)
            if not 0 < size < n:
                raise ValueError(
                    f"valid={valid!r} of {_plural(n, 'rating')} leaves {max(n - size, 0):,} for "
                    f"training and {size:,} for validation: both need at least one"
                )
            chosen = order[:size] if by == "random" else np.sort(order[n - size :])
        train = np.ones(n, bool)
        train[chosen] = False
        return self.take(train), self.take(chosen)

    def _last_of_each_user(self, order: NDArray[np.intp], valid: float) -> NDArray[np.intp]:
        """Return, ascending, the rows that come last in `order` among those of their user."""
        counts = self.user_counts()
        whole = isinstance(valid, int | np.integer)
        wanted = np.full(len(counts), valid) if whole else (valid * counts).astype(np.int64)
        sizes = np.minimum(wanted, counts - 1)
        grouped = order[np.argsort(self.user[order], kind="stable")]
        user = self.user[grouped]
        after = np.cumsum(counts)[user] - np.arange(len(user)) - 1  # rows of the user still to come
        chosen = np.sort(grouped[after < sizes[user]])
        if chosen.size == 0:
            raise ValueError(
                f"valid={valid!r} per user leaves nothing for validation: the most active user has "
                f"{_plural(int(counts.max()), 'rating')}, and one of them stays for training"
            )
        return chosen


def _check_count(shape: tuple[int, ...]) -> None:
    """Rows are counted in int32 where their order is shuffled; before anything of that size is touched."""
    if shape and shape[0] > MAX_INT32:
        raise ValueError(f"{shape[0]:,} ratings: at most {MAX_INT32:,} fit in an int32 index; take some of them")


def _columns(frame: pd.DataFrame, wanted: Mapping[str, str]) -> dict[str, pd.Series]:
    """Return the wanted columns by role, each exactly once there."""
    for role, name in wanted.items():
        if not isinstance(name, Hashable):
            raise TypeError(f"{role}={name!r}: it must be the name of a column")
    absent = {role: name for role, name in wanted.items() if name not in frame.columns}
    if absent:
        names = ", ".join(repr(name) for name in absent.values())
        present = ", ".join(repr(name) for name in frame.columns) or "none"
        call = ", ".join(f"{role}=..." for role in absent)
        raise ValueError(f"no column {names}; present: {present}; name yours: from_frame(..., {call})")
    found = {}
    for role, name in wanted.items():
        copies = list(frame.columns).count(name)
        if copies > 1:
            raise ValueError(f'{copies} columns are called "{name}": drop or rename all but one')
        found[role] = frame[name]
    return found


def _encode(column: pd.Series, name: str) -> tuple[NDArray[np.int32], Vocabulary]:
    """Return the index of each row's id, and the vocabulary of ascending ids."""
    codes, ids = pd.factorize(_id_values(column, name), sort=True)
    return codes.astype(np.int32), Vocabulary._trusted(np.asarray(ids))


def _rating_values(column: pd.Series, name: str) -> NDArray[np.float32]:
    """Return checked ratings as a new float32 array."""
    types = pd.api.types
    _refuse_missing(column, name, "ratings")
    if column.dtype == object:
        for row, value in enumerate(column.tolist()):
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                _refuse(column, name, row, f"is a {type(value).__name__}, not a number", _convert(value, name))
            if isinstance(value, int) and abs(value) > MAX_FLOAT32:  # it may exceed even float64
                _refuse(column, name, row, "is not finite in float32", "drop or mend such rows")
    elif not types.is_numeric_dtype(column.dtype) or types.is_bool_dtype(column.dtype):
        _refuse(column, name, 0, f"is not a number ({column.dtype})", _convert(column.iloc[0], name))
    elif types.is_complex_dtype(column.dtype):
        _refuse(column, name, 0, "is complex", "ratings are real numbers")
    with np.errstate(over="ignore"):  # what overflows is refused below
        values = column.to_numpy(dtype=np.float64).astype(np.float32)
    bad = ~np.isfinite(values)
    if bad.any():
        problem = f"is not finite in float32 ({_plural(int(bad.sum()), 'row')} in all)"
        _refuse(column, name, int(bad.argmax()), problem, "drop or mend such rows")
    return values


def _convert(value: Any, name: str) -> str:
    """The remedy for a rating that is no number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+,[0-9]+", value):
        return f'write a decimal point: frame["{name}"].str.replace(",", ".").astype(float)'
    return f'convert them, pandas.to_numeric(frame["{name}"]), which names what it cannot convert'


def _time_values(column: pd.Series, name: str) -> NDArray[np.int64]:
    """Return checked timestamps, seconds since 1970, as a new int64 array."""
    types = pd.api.types
    _refuse_missing(column, name, "timestamps")
    if types.is_datetime64_any_dtype(column.dtype):
        utc = pd.to_datetime(column, utc=True).dt.tz_localize(None)
        return utc.to_numpy().astype("datetime64[s]").astype(np.int64)
    if types.is_integer_dtype(column.dtype):
        stamps = column.to_numpy()
        if stamps.dtype.kind == "u" and stamps.size and stamps.max() > np.iinfo(np.int64).max:
            _refuse(column, name, int(stamps.argmax()), "is above 2**63 - 1", "give seconds since 1970")
        return stamps.astype(np.int64)
    remedy = "give whole seconds since 1970, or dates: pandas.to_datetime(...)"
    if types.is_float_dtype(column.dtype):
        return _whole(column, name, remedy)
    _refuse(column, name, 0, f"is not a time ({column.dtype})", remedy)


def _one_dimensional(values: ArrayLike, name: str, length: int | None = None) -> NDArray[Any]:
    check_unmasked(name, values)
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: it is a 1-d array")
    if length is not None and len(array) != length:
        raise ValueError(f"{name} has {len(array):,} values, rating has {length:,}: equal lengths")
    return array


def _checked_indices(
    values: ArrayLike, vocabulary: Vocabulary | int | None, n: int, name: str
) -> tuple[NDArray[np.int32], Vocabulary]:
    array = _one_dimensional(values, name, n)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {array.dtype}: indices are integers; for ids use Ratings.from_frame")
    if vocabulary is None:
        vocabulary = int(array.max()) + 1
        if max(100 * n, PLAUSIBLE) < vocabulary <= MAX_INT32:
            raise ValueError(
                f"{name}, row {int(array.argmax())} (from 0): index {vocabulary - 1} in {_plural(n, 'rating')}, "
                "and tables have a row for each index; if these are ids use Ratings.from_frame, "
                f"else say {name}s={vocabulary}"
            )
    if not isinstance(vocabulary, Vocabulary):
        if isinstance(vocabulary, bool) or not isinstance(vocabulary, int | np.integer):
            raise TypeError(f"{name}s={vocabulary!r}: it is a Vocabulary or a number of ids")
        # The ids of a count are made here: a wild index must not ask for gigabytes of them.
        if vocabulary > MAX_INT32:
            raise ValueError(f"{vocabulary:,} {name}s: at most {MAX_INT32:,} fit in an int32 index")
        vocabulary = Vocabulary._trusted(np.arange(max(vocabulary, 0), dtype=np.int64))
    bad = (array < 0) | (array >= len(vocabulary))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{name}, row {row} (from 0): index {array[row]} is not one of 0 ... "
            f"{len(vocabulary) - 1}; for ids use Ratings.from_frame"
        )
    return _frozen(array.astype(np.int32)), vocabulary


def _checked_texts(texts: Any, n: int, name: str) -> NDArray[np.object_] | None:
    """Return a read-only copy of texts in the order of the items."""
    if texts is None:
        return None
    if isinstance(texts, Mapping):
        raise TypeError(f"{name} is a mapping: give a list in the order of items.ids")
    array = _object_array(texts)
    if len(array) != n:
        raise ValueError(f"{name} has {len(array):,} values for {n:,} items: one per item")
    for position, text in enumerate(array):
        if not isinstance(text, str):
            if not (pd.api.types.is_scalar(text) and pd.isna(text)):
                raise ValueError(f"{name}, item {position} (from 0): {text!r} is not text")
            array[position] = None
    return _frozen(array)


def _aligned_texts(texts: Any, items: Vocabulary, name: str) -> NDArray[np.object_] | None:
    """Return the text of each item, None where there is none."""
    if texts is None:
        return None
    if not isinstance(texts, Mapping | pd.Series):
        raise TypeError(f"{name} is a {type(texts).__name__}: give a dict or Series, item id -> text")
    keys = _as_series(texts.index if isinstance(texts, pd.Series) else list(texts.keys()))
    repeated = keys.duplicated().to_numpy()
    if repeated.any():
        first = _shown(keys[repeated.argmax()])
        raise ValueError(f"{name} has the item {first} more than once: keep one")
    where = items.index(keys, missing=-1)
    if not (where >= 0).any():
        raise ValueError(
            f"{name} has none of the table's items: its first id is "
            f"{keys.iloc[0] if len(keys) else None!r}, the table's is {items.ids.tolist()[0]!r}"
        )
    values = _object_array(texts if isinstance(texts, pd.Series) else texts.values())
    aligned = np.full(len(items), None, object)
    aligned[where[where >= 0]] = values[where >= 0]
    return _checked_texts(aligned, len(items), name)


def _most_frequent(counts: NDArray[np.int64], n: int, name: str) -> NDArray[np.intp]:
    """Return, ascending, the n indices with the highest counts; never one without ratings."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"{name}={n!r}: it is a whole number of at least 1")
    order = np.argsort(-counts, kind="stable")[: min(n, int((counts > 0).sum()))]
    return np.sort(order)


def _check_valid(valid: Any) -> None:
    number = isinstance(valid, numbers.Real) and not isinstance(valid, bool)
    whole = isinstance(valid, int | np.integer)
    if not number or not (valid >= 1 if whole else 0 < valid < 1):
        raise ValueError(
            f"valid={valid!r}: it is a share between 0 and 1, such as 0.2, or a number of rows, such as 20000"
        )


# --------------------------------------------------------------------------------------------------
# MovieLens

# Ratings file, movies file. What comes first wins where a folder holds several.
MOVIELENS_FILES = (
    ("ratings.csv", "movies.csv"),  # latest, 20M, 25M, 32M
    ("ratings.dat", "movies.dat"),  # 1M, 10M
    ("u.data", "u.item"),  # 100K
)
COLUMN_TYPES = {"userId": "int64", "movieId": "int64", "rating": "float32", "timestamp": "int64"}
# The flags at the end of a line of u.item.
U_ITEM_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def load_movielens(path: str | PathLike[str] | None = None) -> Ratings:
    """Read MovieLens ratings with timestamps, titles and genres.

    Parameters
    ----------
    path : str or path, optional
        A folder or a zip file of any MovieLens set, or the ratings file in such a folder:
        ``ratings.csv`` (latest, 20M, 25M, 32M), ``ratings.dat`` (1M, 10M) or ``u.data`` (100K),
        with ``movies.csv``, ``movies.dat`` or ``u.item`` beside it. Without a path: the set that
        comes with minicf, ml-latest-small of October 2016 (100,004 ratings, 671 users, 9,066
        movies), in the order of the original file. Its terms of use, research only, and its
        citation are in ``minicf/datasets/MOVIELENS.txt``.

    Returns
    -------
    Ratings
        ``titles`` read "Title (year)", ``genres`` are joined by "|".

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`, or no ratings file in it.
    ValueError
        If a file is damaged or not of its format.
    """
    if path is None:
        return _load_packaged()
    source = Path(path).expanduser()
    if source.is_dir():
        return _load_from_names(source, [p for d in ("*", "*/*") for p in sorted(source.glob(d))])
    if not source.exists():
        raise FileNotFoundError(f"{source} is not there: give a folder or zip file of MovieLens")
    if any(source.name == ratings for ratings, _ in MOVIELENS_FILES):
        movies = dict(MOVIELENS_FILES)[source.name]
        return _load_from_names(source.parent, [source, source.with_name(movies)])
    try:
        with zipfile.ZipFile(source) as archive:
            names = [n for n in archive.namelist() if not n.startswith("__MACOSX/")]
            entries = [zipfile.Path(archive, n) for n in sorted(names, key=lambda n: n.count("/"))]
            return _load_from_names(source, entries)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{source} is not a zip file, or damaged ({error}): load it anew") from error


def _load_packaged() -> Ratings:
    stored = resources.files("minicf.datasets") / "movielens.npz"
    with stored.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    user, users = _encode(pd.Series(data["user_id"]), "userId")
    return Ratings._trusted(
        user,
        data["movie"].astype(np.int32),
        data["half_stars"].astype(np.float32) / 2,
        data["timestamp"].astype(np.int64),
        users,
        Vocabulary._trusted(data["movie_id"].astype(np.int64)),
        _frozen(np.array(data["titles"].tobytes().decode().split("\n"), object)),
        _frozen(np.array(data["genres"].tobytes().decode().split("\n"), object)),
    )


AnyPath = Path | zipfile.Path


def _load_from_names(source: Path, files: Iterable[AnyPath]) -> Ratings:
    """Load from the first known ratings file; files come with the outermost first."""
    by_name: dict[str, AnyPath] = {}
    for file in files:
        if file.is_file():
            by_name.setdefault(file.name, file)
    for ratings_name, movies_name in MOVIELENS_FILES:
        if ratings_name not in by_name:
            continue
        file = by_name[ratings_name]
        frame = _read_ratings(file)
        # A movies file from elsewhere would give wrong titles.
        movies = by_name.get(movies_name)
        beside = movies is not None and str(movies.parent) == str(file.parent)
        titles, genres = _read_movies(movies) if movies is not None and beside else (None, None)
        return Ratings.from_frame(
            frame,
            timestamp="timestamp" if "timestamp" in frame.columns else None,
            titles=titles,
            genres=genres,
        )
    expected = ", ".join(ratings for ratings, _ in MOVIELENS_FILES)
    present = ", ".join(sorted(by_name)[:8]) or "no files"
    raise FileNotFoundError(f"{source} holds none of {expected}; it holds {present}")


def _open(file: AnyPath) -> IO[bytes]:
    return file.open("rb")


def _read_ratings(file: AnyPath) -> pd.DataFrame:
    columns = list(COLUMN_TYPES)
    options: dict[str, Any]
    if file.name == "ratings.csv":
        with _open(file) as stream:
            header = stream.readline().decode("utf-8-sig", "replace").rstrip("\r\n")
        present = [name.strip('"') for name in header.split(",")]
        if not {"userId", "movieId", "rating"} <= set(present):
            raise ValueError(
                f"{file}: expected the columns userId, movieId, rating and timestamp, present: "
                f"{', '.join(present)[:200]}; read it with pandas and use Ratings.from_frame"
            )
        options = {"usecols": [name for name in columns if name in present]}
    else:
        # "::" as two separators of one character, so that pandas' fast parser can read it.
        colons = file.name == "ratings.dat"
        names = ["userId", "_1", "movieId", "_2", "rating", "_3", "timestamp"] if colons else columns
        options = {"sep": ":" if colons else "\t", "header": None, "names": names, "usecols": columns}
    try:
        with _open(file) as stream:
            return pd.read_csv(stream, dtype=COLUMN_TYPES, **options)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{file}: {_first_bad(file, options) or error}") from error


def _first_bad(file: AnyPath, options: Mapping[str, Any]) -> str | None:
    """Return which value of a ratings file is no number; read again, slowly, as text."""
    try:
        with _open(file) as stream:
            text = pd.read_csv(stream, dtype=str, keep_default_na=False, **options)
    except ValueError:
        return None
    for name in text.columns:
        number = pd.to_numeric(text[name], errors="coerce")
        real = name == "rating"
        bad = (number.isna() if real else ~(number % 1 == 0)).to_numpy()
        if bad.any():
            row = int(bad.argmax())
            kind = "number" if real else "whole number"
            value = text[name].iloc[row]
            return f"rating {row} (from 0), {name}: {value!r} is not a {kind}; mend or drop it"
    return None


def _read_movies(file: AnyPath) -> tuple[pd.Series, pd.Series]:
    """Return titles and genres by movie id."""
    with _open(file) as stream:
        raw = stream.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # 100K and 1M are in latin-1
        text = raw.decode("latin-1")
    rows = list(_movie_rows(file, text))
    ids = [row[0] for row in rows]
    return (
        pd.Series([row[1] for row in rows], index=ids, dtype=object),
        pd.Series([row[2] for row in rows], index=ids, dtype=object),
    )


def _movie_rows(file: AnyPath, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield movie id, title and genres of each movie."""
    lines: Iterable[list[str]]
    if file.name == "movies.csv":
        lines = list(csv.reader(io.StringIO(text, newline="")))[1:]
    else:
        # Not splitlines(): it also cuts at characters that latin-1 has inside titles.
        separator = "::" if file.name == "movies.dat" else "|"
        lines = (line.rstrip("\r").split(separator) for line in text.split("\n"))
    for number, fields in enumerate(lines):
        if not any(fields):
            continue
        try:
            if file.name == "u.item":
                flags = fields[-len(U_ITEM_GENRES) :]
                genres = [g for g, flag in zip(U_ITEM_GENRES, flags, strict=True) if int(flag)]
                yield int(fields[0]), fields[1], "|".join(genres)
            else:
                movie_id, title, genre = fields
                yield int(movie_id), title, genre
        except (ValueError, IndexError) as error:
            raise ValueError(f"{file}: entry {number} (from 0) is not a movie: {'|'.join(fields)[:80]!r}") from error
