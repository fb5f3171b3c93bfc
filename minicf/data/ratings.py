"""Ratings tables: from a frame to contiguous indices, and the splits.

Names: ``user`` and ``item`` are contiguous indices (0, 1, 2, ...), a *user id* or *item id* is what
the caller gave. Everything is checked here, once, where a table becomes `Ratings`; what comes after
trusts the indices.
"""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from minicf.arguments import check_int, check_seed, check_unmasked
from minicf.data.checks import (
    MAX_FLOAT32,
    MAX_INT32,
    check_count,
    columns_of,
    frozen,
    id_values,
    merged_ratings,
    one_dimensional,
    plural,
    rating_values,
    shown,
    time_values,
    weight_values,
)
from minicf.data.events import groups_of, latest, summed
from minicf.data.ids import Vocabulary
from minicf.data.item_texts import aligned_texts, checked_texts
from minicf.data.splits import last_rows

log = logging.getLogger("minicf")

PLAUSIBLE = 10_000_000  # an index up to here, or 100 times the number of rows, is taken at its word


class Ratings:
    """Hold a table of ratings, or of events, with contiguous indices; it does not change.

    Made by `from_frame`, `from_events` or `load_movielens`; this constructor takes indices.

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
    weight : array-like of float, shape (n,), optional
        Weights of the ratings in a training's loss (see `minicf.losses`), finite and at least 0; None for 1 each.

    Attributes
    ----------
    user, item : ndarray of int32
    rating : ndarray of float32
    timestamp : ndarray of int64, or None
    users, items : Vocabulary
    titles, genres : ndarray of object (str or None), or None
    implicit : bool
        Whether rows are events, see `from_events`: `rating` is 1, or 0 for a dislike, and `weight` how much it counts.
    weight : ndarray of float32, or None
        Arrays are copies and read-only: 12 bytes per rating, 8 more with timestamps, 4 more with weights.

    Raises
    ------
    ValueError
        For no rows, unequal lengths, indices outside the vocabulary, ratings that are not finite, weights that are
        not finite or below 0.
    """

    __slots__ = (
        "__weakref__", "genres", "implicit", "item", "items", "rating", "timestamp", "titles", "user", "users",
        "weight",
    )  # fmt: skip

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float32]
    timestamp: NDArray[np.int64] | None
    users: Vocabulary
    items: Vocabulary
    titles: NDArray[np.object_] | None
    genres: NDArray[np.object_] | None
    weight: NDArray[np.float32] | None
    implicit: bool

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
        weight: ArrayLike | None = None,
    ) -> None:
        check_count(np.shape(rating))
        columns = pd.Series(one_dimensional(rating, "rating"))
        if len(columns) == 0:
            raise ValueError("there are no ratings; a table must have at least one row")
        self.rating = frozen(rating_values(columns, "rating"))
        n = len(self.rating)
        self.user, self.users = _checked_indices(user, users, n, "user")
        self.item, self.items = _checked_indices(item, items, n, "item")
        self.timestamp = None
        if timestamp is not None:
            times = pd.Series(one_dimensional(timestamp, "timestamp", n))
            self.timestamp = frozen(time_values(times, "timestamp"))
        self.titles = checked_texts(titles, len(self.items), "titles")
        self.genres = checked_texts(genres, len(self.items), "genres")
        given = None if weight is None else pd.Series(one_dimensional(weight, "weight", n))
        self.weight = None if given is None else frozen(weight_values(given, "weight"))
        self.implicit = False

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
        weight: NDArray[np.float32] | None = None,
        implicit: bool = False,
    ) -> Ratings:
        """Take over arrays that are checked already and that no one else holds."""
        self = cls.__new__(cls)
        self.user, self.item, self.rating = frozen(user), frozen(item), frozen(rating)
        self.timestamp = None if timestamp is None else frozen(timestamp)
        self.users, self.items, self.titles, self.genres = users, items, titles, genres
        self.weight = None if weight is None else frozen(weight)
        self.implicit = implicit
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
        weight: str | None = None,
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
            May have unrated items, and lack rated ones.
        duplicates : {"error", "last", "mean"}, default "error"
            What to do where a user rated an item more than once. "last" keeps the last row of the
            table, with its weight; "mean" puts the mean rating in its place, with the latest timestamp; with
            weights the weighted mean, with the sum of the weights. How many rows went is logged at level INFO.
        weight : str, optional
            Column of the weights of ratings in a training's loss, finite numbers of at least 0.

        Raises
        ------
        ValueError
            With the row (by position, from 0), the value and the remedy: missing columns, no rows,
            missing or mixed ids, ratings that are missing, infinite or no numbers, duplicate pairs.
        """
        if duplicates not in ("error", "last", "mean"):
            raise ValueError(f'duplicates is {duplicates!r}; it must be "error", "last" or "mean"')
        wanted = {"user": user, "item": item, "rating": rating, "timestamp": timestamp, "weight": weight}
        columns = columns_of(frame, wanted, "from_frame")
        user_index, users = encode(columns["user"], user)
        item_index, items = encode(columns["item"], item)
        stars = rating_values(columns["rating"], rating)
        times = None if timestamp is None else time_values(columns["timestamp"], timestamp)
        ratings = cls._trusted(
            user_index,
            item_index,
            stars,
            times,
            users,
            items,
            aligned_texts(titles, items, "titles"),
            aligned_texts(genres, items, "genres"),
            None if weight is None else weight_values(columns["weight"], weight),
        )
        return ratings._unique_pairs(duplicates)

    @classmethod
    def from_events(
        cls,
        frame: pd.DataFrame,
        user: str = "userId",
        item: str = "movieId",
        weight: str | None = None,
        timestamp: str | None = None,
        titles: Mapping[Any, str] | pd.Series | None = None,
        genres: Mapping[Any, str] | pd.Series | None = None,
    ) -> Ratings:
        """Make a table of events: views, plays, purchases, what a user took and not how much it was liked.

        Events of the same user and item are summed, and stand where the last of them stood, with the latest time. A
        sum above 0 becomes ``rating`` 1, one below 0, a dislike, ``rating`` 0; ``weight`` is its size, None where all
        are 1. A sum of 0, up to the rounding of float32, says nothing: it goes, and the log says how many did.

        Parameters
        ----------
        frame : DataFrame
            One row per event.
        user, item, timestamp, titles, genres
            As `from_frame` has them.
        weight : str, optional
            Column of finite numbers: counts, seconds, revenue; below 0 for dislikes. Without it each event is 1.

        Raises
        ------
        ValueError
            As `from_frame`; also where no sum differs from 0.

        Examples
        --------
        >>> plays = pd.DataFrame({"user": [7, 7, 8, 8], "song": ["a", "a", "a", "b"], "n": [1, 2, 1, -1]})
        >>> events = Ratings.from_events(plays, user="user", item="song", weight="n")
        >>> events
        Ratings(3 events, 2 users, 2 items, 1 dislike, weights 1.0 … 3.0)
        >>> events.rating.tolist(), events.weight.tolist()
        ([1.0, 1.0, 0.0], [3.0, 1.0, 1.0])
        """
        wanted = {"user": user, "item": item, "timestamp": timestamp, "weight": weight}
        columns = columns_of(frame, wanted, "from_events")
        user_index, users = encode(columns["user"], user)
        item_index, items = encode(columns["item"], item)
        times = None if timestamp is None else time_values(columns["timestamp"], timestamp)
        given = None if weight is None else rating_values(columns["weight"], weight, "weight")
        rows, target, sizes, times = summed(user_index.astype(np.int64) * len(items) + item_index, given, times)
        return cls._trusted(
            user_index[rows], item_index[rows], target, times, users, items, aligned_texts(titles, items, "titles"),
            aligned_texts(genres, items, "genres"), sizes, implicit=True,
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return Ratings._trusted, (
            self.user, self.item, self.rating, self.timestamp, self.users, self.items, self.titles, self.genres,
            self.weight, self.implicit,
        )  # fmt: skip

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
                f"{shown(item)} by user {shown(user)}: "
                f"{self.rating[rows[0]]} and {self.rating[rows[1]]} "
                f"({plural(int(extra.sum()), 'row')} too many in all); "
                'say duplicates="last" or duplicates="mean", or drop them'
            )
        log.info("duplicates=%r: %s went", policy, plural(int(extra.sum()), "row"))
        kept = self.take(~extra)
        if policy == "last":
            return kept
        _, groups = groups_of(pair.to_numpy())
        share = np.ones(len(self)) if self.weight is None else self.weight.astype(np.float64)
        if self.weight is not None:
            share[(np.bincount(groups, share) == 0)[groups]] = 1.0  # a pair of weights 0 has its plain mean
        mean = (np.bincount(groups, share * self.rating) / np.bincount(groups, share)).astype(np.float32)
        weight = None if self.weight is None else np.bincount(groups, self.weight).astype(np.float32)
        times = None if self.timestamp is None else latest(self.timestamp, groups, len(kept))
        return Ratings._trusted(
            kept.user, kept.item, mean, times, self.users, self.items, self.titles, self.genres, weight
        )

    @classmethod
    def from_scipy(
        cls, matrix: Any, users: Vocabulary | int | None = None, items: Vocabulary | int | None = None
    ) -> Ratings:
        """Make ratings from a sparse matrix, a row a user and a column an item.

        Parameters
        ----------
        matrix : scipy.sparse array or matrix of numbers, shape (n_users, n_items)
            Stored entries are ratings, stored zeros too; those stored twice are one, their sum, as everywhere in SciPy.
        users, items : Vocabulary or int, optional
            The ids of rows and columns; by default their numbers.

        Raises
        ------
        TypeError
            `matrix` is not sparse: every zero of it would be a rating.
        ValueError
            It has no entries, or some that are no finite real numbers, is not two-dimensional, or fits not the ids.
        """
        if not hasattr(matrix, "tocsr"):
            raise TypeError(f"matrix is a {type(matrix).__name__}; it must be a scipy.sparse array or matrix")
        if len(matrix.shape) != 2:
            raise ValueError(f"matrix has shape {matrix.shape}; it must be two-dimensional, users by items")
        if matrix.dtype.kind not in "iuf":
            remedy = "matrix.real" if matrix.dtype.kind == "c" else 'matrix.astype("float32")'
            raise ValueError(f"matrix has entries of type {matrix.dtype}; they must be real numbers: {remedy}")
        csr = matrix.tocsr(copy=True)
        csr.sum_duplicates()
        entries = csr.tocoo()
        sizes: list[Vocabulary | int] = [
            n if ids is None else ids for n, ids in zip(matrix.shape, (users, items), strict=True)
        ]
        for name, n, ids in zip(("rows", "columns"), matrix.shape, sizes, strict=True):
            count = len(ids) if isinstance(ids, Vocabulary) else ids
            if count != n:
                raise ValueError(f"matrix has {n:,} {name}; it must have {count:,}, one for each id")
        values = entries.data.astype(np.float64)
        bad = ~(np.abs(values) <= MAX_FLOAT32)  # NaN too
        if bad.any():
            at = int(bad.argmax())
            raise ValueError(
                f"matrix[{entries.row[at]}, {entries.col[at]}] is {values[at]:g}; entries must be finite in float32 "
                f"({bad.sum():,} of {len(bad):,} are not); leave such entries out"
            )
        if (merged := merged_ratings(values)) is not None:
            raise ValueError(
                f"matrix has the entries {merged[0]:.17g} and {merged[1]:.17g}, which are one number in float32; "
                f"subtract an offset from its stored entries: matrix.data - {values.min():.17g}"
            )
        return cls(entries.row, entries.col, entries.data, sizes[0], sizes[1])

    def to_scipy(self) -> Any:
        """Return the ratings as a ``scipy.sparse.csr_matrix`` of float32, shape (n_users, n_items), without weights.

        Raises
        ------
        ValueError
            A pair occurs more than once: SciPy would take the sum.
        """
        from scipy.sparse import csr_matrix

        matrix = csr_matrix((self.rating, (self.user, self.item)), shape=(self.n_users, self.n_items))
        if matrix.nnz != len(self):
            raise ValueError(
                f"{plural(len(self) - matrix.nnz, 'row')} of {len(self):,} repeat a pair of user and item, and SciPy "
                'would add them up; make the ratings by from_frame(..., duplicates="mean")'
            )
        return matrix

    def __len__(self) -> int:
        return len(self.rating)

    def __repr__(self) -> str:
        what = "event" if self.implicit else "rating"
        said = [plural(len(self), what), plural(self.n_users, "user"), plural(self.n_items, "item")]
        if self.implicit and (dislikes := int((self.rating == 0).sum())):
            said.append(plural(dislikes, "dislike"))
        for noun, values in (("weights", self.weight),) if self.implicit else (("stars", self.rating),):
            if values is not None:
                low, high = (np.format_float_positional(x, trim="0") for x in (values.min(), values.max()))
                said.append(f"{noun} {low} … {high}")
        return f"Ratings({', '.join(said)})"

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
        """Mean rating, summed in float64; weights are not looked at."""
        return float(self.rating.mean(dtype=np.float64))

    def user_counts(self) -> NDArray[np.int64]:
        """Return the number of ratings of each user, shape (n_users,)."""
        return np.bincount(self.user, minlength=self.n_users)

    def item_counts(self) -> NDArray[np.int64]:
        """Return the number of ratings of each item, shape (n_items,)."""
        return np.bincount(self.item, minlength=self.n_items)

    def frame(self) -> pd.DataFrame:
        """Return a new table in the caller's ids: userId, movieId, rating, timestamp and weight if any."""
        columns: dict[str, NDArray[Any]] = {
            "userId": self.users.ids[self.user],
            "movieId": self.items.ids[self.item],
            "rating": self.rating.copy(),
        }
        if self.timestamp is not None:
            columns["timestamp"] = self.timestamp.copy()
        if self.weight is not None:
            columns["weight"] = self.weight.copy()
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
                f"rows has dtype {chosen.dtype} and shape {chosen.shape}; it must be a 1-d array of "
                f"positions, or a mask of {n:,} booleans"
            )
        if chosen.size == 0:
            raise ValueError("rows is empty; a table must have at least one row")
        bad = (chosen < 0) | (chosen >= n)
        if bad.any():
            raise ValueError(f"rows has {chosen[bad.argmax()]}; it must be from 0 to {n - 1}")
        return Ratings._trusted(
            self.user[chosen],
            self.item[chosen],
            self.rating[chosen],
            None if self.timestamp is None else self.timestamp[chosen],
            self.users,
            self.items,
            self.titles,
            self.genres,
            None if self.weight is None else self.weight[chosen],
            self.implicit,
        )

    def split(
        self,
        valid: float = 0.2,
        seed: int = 42,
        by: Literal["random", "time", "user", "users"] = "random",
        last: bool | int = True,
        after: Any = None,
    ) -> tuple[Ratings, Ratings]:
        """Cut into disjoint (train, valid) parts that share the vocabularies.

        Parameters
        ----------
        valid : float in (0, 1) or int
            A share, rounded down, or a number of rows; per user if ``by="user"``, of users if ``by="users"``.
        seed : int
            Of ``numpy.random.RandomState``; not used where nothing is drawn.
        by : {"random", "time", "user", "users"}
            - "random": validation rows are ``RandomState(seed).permutation(n)[:int(valid * n)]``,
              the rows (and, with seed 42, the split) of fast.ai's lesson.
            - "time": the latest rows of the table. Equal times stay on one side: where the cut would part
              them, all of them are for training, or for validation if nothing else is.
            - "user": rows of each user, but a user keeps at least one for training.
            - "users": all rows of some users, drawn.
        last : bool or int
            For ``by="user"``: a user's latest rows (True), of equal times the later ones; or random ones (False). A
            number, in place of `valid` and `by`: so many latest rows of each user, the last of the table without times.
        after : int or date, optional
            In place of `valid`: rows of that time or later are for validation. Seconds since 1970, or what
            ``pandas.Timestamp`` takes, "2016-01-01", say; without a zone it is UTC.

        Returns
        -------
        train, valid : Ratings
            Both in the order of the table, but the validation rows of "random" in the order of
            the permutation.
        """
        n = len(self)
        _check_valid(valid)
        if not isinstance(last, bool | np.bool_):
            return self._cut(last_rows(self.user, self.timestamp, check_int("last", last, 1)), f"last={last}")
        if by not in ("random", "time", "user", "users"):
            raise ValueError(f'by is {by!r}; it must be "random", "time", "user" or "users"')
        if after is not None:
            return self._cut(self._later(_seconds(after)), f"after={after!r}")
        if by == "time" or (by == "user" and last):
            if self.timestamp is None:
                other = 'by="random"' if by == "time" else "last=False"
                raise ValueError(
                    f"by={by!r} needs timestamps and these ratings have none: give the column, "
                    f"from_frame(..., timestamp=...), or split with {other}"
                )
            order = np.argsort(self.timestamp, kind="stable")
        else:
            random = np.random.RandomState(check_seed("seed", seed))
        if by == "users":
            people = np.unique(self.user)
            size = int(valid) if isinstance(valid, int | np.integer) else int(valid * len(people))
            held = random.permutation(people)[:size]
            return self._cut(np.isin(self.user, held), f"valid={valid!r} of {plural(len(people), 'user')}")
        if by == "random" or (by == "user" and not last):
            order = random.permutation(n)
        if by == "user":
            chosen = self._last_of_each_user(order, valid)
        else:
            size = int(valid) if isinstance(valid, int | np.integer) else int(valid * n)
            if not 0 < size < n:
                raise ValueError(
                    f"valid={valid!r} of {plural(n, 'rating')} leaves {max(n - size, 0):,} for "
                    f"training and {size:,} for validation: both need at least one"
                )
            if by == "time":
                assert self.timestamp is not None
                first, before = self.timestamp[order[n - size]], self.timestamp[order[n - size - 1]]
                later = self._later(first + 1 if before == first else first)
                return self._cut(later if later.any() else self._later(first), f"valid={valid!r} by time")
            chosen = order[:size]
        train = np.ones(n, bool)
        train[chosen] = False
        return self.take(train), self.take(chosen)

    def _later(self, time: int) -> NDArray[np.bool_]:
        """Return which rows are of a time or later."""
        if self.timestamp is None:
            raise ValueError(
                "after needs timestamps and these ratings have none: give the column, from_frame(..., timestamp=...)"
            )
        return self.timestamp >= time

    def _cut(self, chosen: NDArray[np.bool_], what: str) -> tuple[Ratings, Ratings]:
        if chosen.all() or not chosen.any():
            times = ""
            if self.timestamp is not None and not what.endswith("s"):
                times = f"; times are from {self.timestamp.min()} to {self.timestamp.max()}"
            raise ValueError(
                f"{what} leaves {plural(int((~chosen).sum()), 'rating')} for training and {int(chosen.sum()):,} for "
                f"validation: both need at least one{times}"
            )
        return self.take(~chosen), self.take(chosen)

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
                f"{plural(int(counts.max()), 'rating')}, and one of them stays for training"
            )
        return chosen


def _seconds(after: Any) -> int:
    """Return a time as seconds since 1970."""
    if isinstance(after, int | np.integer) and not isinstance(after, bool):
        return int(after)
    try:
        if isinstance(after, bool | float | np.floating):
            raise ValueError("a number is whole seconds")
        time = pd.Timestamp(after)
        if pd.isna(time):
            raise ValueError("it is missing")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"after is {after!r}; it must be whole seconds since 1970 or a date such as '2016-01-01': {error}"
        ) from error
    time = time.tz_localize("UTC") if time.tz is None else time
    return math.ceil(time.timestamp())


def encode(column: pd.Series, name: str) -> tuple[NDArray[np.int32], Vocabulary]:
    """Return the index of each row's id, and the vocabulary of ascending ids."""
    codes, ids = pd.factorize(id_values(column, name), sort=True)
    return codes.astype(np.int32), Vocabulary._trusted(np.asarray(ids))


def _checked_indices(
    values: ArrayLike, vocabulary: Vocabulary | int | None, n: int, name: str
) -> tuple[NDArray[np.int32], Vocabulary]:
    array = one_dimensional(values, name, n)
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} has dtype {array.dtype}; it must hold integer indices: for ids use Ratings.from_frame"
        )
    if vocabulary is None:
        vocabulary = int(array.max()) + 1
        if max(100 * n, PLAUSIBLE) < vocabulary <= MAX_INT32:
            raise ValueError(
                f"{name}, row {int(array.argmax())} (from 0): index {vocabulary - 1} in {plural(n, 'rating')}, "
                "and tables have a row for each index; if these are ids use Ratings.from_frame, "
                f"else say {name}s={vocabulary}"
            )
    if not isinstance(vocabulary, Vocabulary):
        if isinstance(vocabulary, bool) or not isinstance(vocabulary, int | np.integer):
            raise TypeError(f"{name}s is {vocabulary!r}; it must be a Vocabulary or a number of ids")
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
    return frozen(array.astype(np.int32)), vocabulary


def _most_frequent(counts: NDArray[np.int64], n: int, name: str) -> NDArray[np.intp]:
    """Return, ascending, the n indices with the highest counts; never one without ratings."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"{name} is {n!r}; it must be a whole number of at least 1")
    order = np.argsort(-counts, kind="stable")[: min(n, int((counts > 0).sum()))]
    return np.sort(order)


def _check_valid(valid: Any) -> None:
    number = isinstance(valid, numbers.Real) and not isinstance(valid, bool)
    whole = isinstance(valid, int | np.integer)
    if not number or not (valid >= 1 if whole else 0 < valid < 1):
        raise ValueError(
            f"valid is {valid!r}; it must be a share between 0 and 1, such as 0.2, or a number of rows, such as 20000"
        )
