"""Read the tables and ids that users give: checked columns, `Ratings`, and rows of known and unknown ids."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

from minicf.arguments import check_choice, check_unmasked
from minicf.data import Ratings, UnknownIdError, Vocabulary
from minicf.data.checks import as_series, one_dimensional, plural, shown, weight_values

SIDES = ("user", "item")
UNKNOWN = ("bias", "nan", "raise")
DUPLICATES = ("warn", "mean", "last", "error")


@dataclass(frozen=True, eq=False)
class Inputs:
    """Read tables and ids with the columns, the policies and the vocabularies of a recommender.

    Parameters
    ----------
    user, item, rating : str
        Columns of a frame.
    duplicates : "warn", "mean", "last" or "error"
        Policy for repeated ratings of a pair, see `Recommender`.
    unknown : "bias", "nan" or "raise"
        Policy for unknown ids, see `Recommender`.
    users, items : Vocabulary, optional
        Known ids; None before training.
    n_features : int, optional
        Columns of X in training; None before training.
    estimator : str
        The name that errors of scikit-learn show.
    implicit : bool
        Whether tables are of events, without ratings.
    """

    user: str
    item: str
    rating: str
    duplicates: str = "warn"
    unknown: str = "bias"
    users: Vocabulary | None = None
    items: Vocabulary | None = None
    n_features: int | None = None
    estimator: str = "Recommender"
    implicit: bool = False

    # --- tables ------------------------------------------------------------------------------------------------

    def frame(self, X: Any, rated: bool = False) -> pd.DataFrame:
        """Read user ids and item ids, and ratings if `rated`, into a frame.

        Parameters
        ----------
        X : DataFrame, Ratings, or array of shape (n, n_features)
            As for `Recommender.fit`.
        rated : bool
            Whether X must have ratings.

        Returns
        -------
        DataFrame
            Columns `user`, `item` and, if `rated`, `rating`.
        """
        return self._read(X, rated, training=False)[0]

    def ratings(self, X: Any, y: Any = None, titles: Any = None, sample_weight: Any = None) -> Ratings:
        """Read ratings; their vocabularies hold the ids with ratings and no others. Rows of weight 0 are left out.

        Parameters
        ----------
        X, y, titles, sample_weight
            As for `Recommender.fit`.

        Returns
        -------
        Ratings
        """
        return self._ratings(X, y, titles, sample_weight, training=False)[0]

    def training(self, X: Any, y: Any = None, titles: Any = None, sample_weight: Any = None) -> tuple[Ratings, int]:
        """Read ratings for a first training: an array may have any number of columns from 2.

        Returns
        -------
        ratings : Ratings
        n_features : int
            Columns of X; 2 for a frame or `Ratings`.
        """
        return self._ratings(X, y, titles, sample_weight, training=True)

    def validation(self, valid: Any) -> Ratings:
        """Read ratings for validation, with the known vocabularies; rows with unknown ids are left out.

        Parameters
        ----------
        valid : DataFrame or Ratings, or tuple (X, y)
            As X and y for `Recommender.fit`. A pair may occur more than once; weights are not looked at.

        Raises
        ------
        UnknownIdError
            Unknown ids, if the policy is "raise". Otherwise a `UserWarning` counts their rows.
        ValueError
            No row has known ids.
        """
        X, y = valid if isinstance(valid, tuple) and len(valid) == 2 else (valid, None)
        frame, _ = self._rated(X, y, training=False)
        rows = [self.lookup(side, frame[self.column(side)]) for side in SIDES]
        known = (rows[0] >= 0) & (rows[1] >= 0)
        if not known.any():
            raise ValueError(f"valid has {plural(len(frame), 'row')} and none has known ids, ids with a rating in X")
        if not known.all():
            warn(
                f"{int((~known).sum()):,} of {plural(len(frame), 'validation row')} have unknown ids; they are left out"
            )
        user, item = (side[known] for side in rows)
        return Ratings(user, item, frame[self.rating][known], self.vocabulary("user"), self.vocabulary("item"))

    def ratings_of_new(self, ratings: Any, id: Any, side: str) -> Ratings:
        """Read ratings of one new id, or of several without `id`, as `Recommender.fold_in` takes them.

        Raises
        ------
        TypeError
            `ratings` is neither a mapping nor a frame.
        ValueError
            Missing columns, or values that `Ratings.from_frame` refuses.
        """
        if self.implicit:
            return self._events_of_new(ratings, id, side)
        if id is None:
            frame = self.frame(ratings, rated=True)
        else:
            own, other = self.column(side), self.column(opposite(side))
            if isinstance(ratings, pd.DataFrame):
                found = _columns(ratings, [other, self.rating], "ratings")
                others, values = found[other], found[self.rating]
            elif isinstance(ratings, Mapping | pd.Series):
                given = list(ratings.items())
                others, values = (pd.Series([pair[at] for pair in given], dtype=object) for at in (0, 1))
            else:
                raise TypeError(
                    f"ratings is a {type(ratings).__name__}; it must be a mapping {{{other}: rating}} or a frame"
                )
            frame = pd.DataFrame(
                {own: pd.Series([id] * len(others)), other: others.to_numpy(), self.rating: values.to_numpy()}
            )
        return self._from_frame(frame.infer_objects())

    def _events_of_new(self, events: Any, id: Any, side: str) -> Ratings:
        """Read events of one new id, a list of ids of the other side or a mapping to weights, or a frame of several."""
        own, other = self.column(side), self.column(opposite(side))
        if (hasattr(events, "columns") and id is None) or isinstance(events, Ratings):
            return self._events(events, None, None, False)[0]
        if id is None:
            raise ValueError(
                f"ratings is a {type(events).__name__} and id is missing; say whose events these are, id=..., or give "
                f"a frame with the columns {own!r} and {other!r}"
            )
        weight = None
        if isinstance(events, Mapping | pd.Series) and not (isinstance(events, pd.Series) and other == events.name):
            given = list(events.items())
            events, weight = [pair[0] for pair in given], np.array([pair[1] for pair in given])
        elif hasattr(events, "columns"):
            events = _columns(events, [other], "ratings")[other]
        others = as_ids(events)
        frame = pd.DataFrame({own: pd.Series([id] * len(others)), other: others.to_numpy()}).infer_objects()
        return self._events(frame, None, weight, False)[0]

    def _events(self, X: Any, titles: Any, weight: Any, training: bool) -> tuple[Ratings, int]:
        """Read events; a table of ratings says who took what, whatever the stars."""
        if isinstance(X, Ratings) and titles is None and weight is None:
            if not X.implicit:
                X = Ratings._trusted(
                    X.user, X.item, np.ones(len(X), np.float32), X.timestamp, X.users, X.items, X.titles, X.genres,
                    X.weight, True,
                )  # fmt: skip
            return rated_only(X if X.weight is None else X.take(_weighing(X.weight))), 2
        frame, n_features = self._read(X, False, training)
        if isinstance(X, Ratings):
            if titles is None and X.titles is not None:
                titles = pd.Series(X.titles, index=X.items.ids)
            if weight is None:
                weight = np.ones(len(X)) if X.weight is None else X.weight
                weight = weight * (2.0 * X.rating - 1.0) if X.implicit else weight
        name = None
        if weight is not None:
            name = "sample_weight"
            while name in frame.columns:
                name += "_"
            frame = frame.assign(**{name: np.asarray(one_dimensional(weight, "sample_weight", len(frame)))})
        return Ratings.from_events(frame, self.user, self.item, name, titles=titles), n_features

    def _from_frame(self, frame: pd.DataFrame, titles: Any = None, weight: str | None = None) -> Ratings:
        check_choice("duplicates", self.duplicates, DUPLICATES)
        policy: Any = "mean" if self.duplicates == "warn" else self.duplicates
        ratings = Ratings.from_frame(
            frame, self.user, self.item, self.rating, titles=titles, duplicates=policy, weight=weight
        )
        if self.duplicates == "warn" and (extra := len(frame) - len(ratings)):
            warn(
                f"{extra:,} of {len(frame):,} rows repeat a user and an item of another row; each pair has the mean of "
                'its ratings. Say duplicates="mean" or "last" if such rows are meant, "error" to refuse them'
            )
        return ratings

    def _ratings(self, X: Any, y: Any, titles: Any, sample_weight: Any, training: bool) -> tuple[Ratings, int]:
        if self.implicit:
            if y is not None:
                raise ValueError(
                    f"y is given, {plural(len(y), 'number')}, and events have no ratings; give counts as sample_weight"
                )
            return self._events(X, titles, sample_weight, training)
        if isinstance(X, Ratings) and y is None and titles is None and sample_weight is None:
            return rated_only(X if X.weight is None else X.take(_weighing(X.weight))), 2
        frame, n_features = self._rated(X, y, training)
        weight = None
        if isinstance(X, Ratings):
            if titles is None and X.titles is not None:
                titles = pd.Series(X.titles, index=X.items.ids)
            sample_weight = X.weight if sample_weight is None else sample_weight
        if sample_weight is not None:
            weight = "sample_weight"
            while weight in frame.columns:
                weight += "_"
            values = weight_values(pd.Series(one_dimensional(sample_weight, "sample_weight", len(frame))), weight)
            frame = frame.assign(**{weight: values})[_weighing(values)]
        return self._from_frame(frame, titles, weight), n_features

    def _rated(self, X: Any, y: Any, training: bool) -> tuple[pd.DataFrame, int]:
        """Return ids and ratings as a frame, and the number of columns of an array, 2 of a frame."""
        frame, n_features = self._read(X, y is None, training)
        if y is not None:
            check_unmasked("y", y)
            y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y", estimator=self.estimator)
            y = column_or_1d(y, warn=True)
            check_consistent_length(frame, y)
            frame = frame.assign(**{self.rating: y})
        return frame, n_features

    def _read(self, X: Any, rated: bool, training: bool) -> tuple[pd.DataFrame, int]:
        """Return the wanted columns as a frame, and the number of columns of an array, 2 of a frame."""
        wanted = [self.user, self.item] + ([self.rating] if rated else [])
        if isinstance(X, Ratings):
            columns = [X.users.ids[X.user], X.items.ids[X.item], X.rating]
            return pd.DataFrame(dict(zip(wanted, columns, strict=False))), 2
        if not isinstance(X, pd.DataFrame) and any(
            hasattr(X, f"__{mark}__") for mark in ("arrow_c_stream", "dataframe", "narwhals_dataframe")
        ):
            X = _to_pandas(X, wanted)
        if isinstance(X, pd.DataFrame):
            return _columns(X, wanted), 2
        check_unmasked("X", X)
        given = X if hasattr(X, "__array__") or hasattr(X, "toarray") else _objects(X)
        least = 2 if training else 1  # fewer than in training are refused below
        rows = 1 if training or rated else 0
        if not rows and getattr(given, "shape", None) == (0,):  # of an empty list
            given = given.reshape(0, self.n_features or 2)
        array = check_array(
            given, dtype=None, ensure_min_samples=rows, ensure_min_features=least, estimator=self.estimator,
            input_name="X",
        )  # fmt: skip
        width = array.shape[1]
        if not training and width != self.n_features:
            raise ValueError(
                f"X has {width} features, but {self.estimator} is expecting {self.n_features} features as input"
            )
        if rated:
            raise ValueError("requires y to be passed, but the target y is None; an array has no column of ratings")
        return pd.DataFrame({self.user: array[:, 0], self.item: array[:, 1]}), width

    # --- ids ---------------------------------------------------------------------------------------------------

    def column(self, side: str) -> str:
        """Return the name of the id column of a side, "user" or "item"."""
        return self.user if side == "user" else self.item

    def vocabulary(self, side: str) -> Vocabulary:
        """Return the known ids of a side, "user" or "item".

        Raises
        ------
        ValueError
            Another side.
        NotFittedError
            Before training.
        """
        check_choice("side", side, SIDES)
        found = self.users if side == "user" else self.items
        if found is None:
            raise NotFittedError("there are no known ids before training; call fit first")
        return found

    def lookup(self, side: str, ids: Any) -> np.ndarray:
        """Return the rows of ids, -1 for unknown ids.

        Raises
        ------
        UnknownIdError
            Unknown ids, if the policy is "raise". Otherwise a `UserWarning` says where an unknown id is known as
            another type.
        """
        vocabulary = self.vocabulary(side)
        check_choice("unknown", self.unknown, UNKNOWN)
        rows = vocabulary.index(ids, missing=-1)
        if (rows < 0).any():
            missing = pd.unique(pd.Series(ids, dtype=object)[rows < 0])
            hint = _twin(vocabulary, missing)
            if self.unknown == "raise":
                shown = ", ".join(repr(x) for x in missing[:5].tolist()) + (" ..." if len(missing) > 5 else "")
                remedy = hint or 'unknown="bias" predicts with the mean row instead'
                raise UnknownIdError(f"unknown {side} {shown} ({len(missing)} in all); {remedy}")
            if hint:
                warn(f"unknown {side}: {hint}")
        return rows

    def asked(self, side: str, ids: Any) -> tuple[pd.Series, np.ndarray]:
        """Return the ids of a call as a series, and their rows.

        Unknown ids have row -1, or are left out if the policy is "nan".
        """
        listed = as_ids(ids)
        rows = self.lookup(side, listed)
        if self.unknown == "nan":
            listed, rows = listed[rows >= 0].reset_index(drop=True), rows[rows >= 0]
        return listed, rows

    def check_id_type(self, side: str, ids: Vocabulary) -> None:
        """Raise a ValueError if new ids are text and known ids integers, or the other way round."""
        known = self.vocabulary(side)
        if known.ids.dtype != ids.ids.dtype:
            old, new = (_type_of(vocabulary) for vocabulary in (known, ids))
            raise ValueError(f"new {side} ids are {new}; they must be {old}, like the known ids")


def opposite(side: str) -> str:
    """Return the other side: "item" for "user"."""
    return "item" if side == "user" else "user"


def of_side(ratings: Ratings, side: str) -> tuple[Vocabulary, np.ndarray]:
    """Return the vocabulary and the indices of a side of some ratings."""
    return (ratings.users, ratings.user) if side == "user" else (ratings.items, ratings.item)


def rated_only(ratings: Ratings) -> Ratings:
    """Return the same ratings with vocabularies of the users and items that have some."""
    columns: list[Any] = []
    kept = []
    for index, vocabulary, counts in (
        (ratings.user, ratings.users, ratings.user_counts()),
        (ratings.item, ratings.items, ratings.item_counts()),
    ):
        present = counts > 0
        kept.append(present)
        position = np.cumsum(present, dtype=np.int32) - np.int32(1)
        columns += [position[index], vocabulary if present.all() else Vocabulary._trusted(vocabulary.ids[present])]
    user, users, item, items = columns
    titles, genres = (None if t is None else t[kept[1]].copy() for t in (ratings.titles, ratings.genres))
    return Ratings._trusted(
        user, item, ratings.rating, ratings.timestamp, users, items, titles, genres, ratings.weight, ratings.implicit
    )


def _weighing(weight: np.ndarray) -> np.ndarray:
    """Return which rows have a weight above 0; there must be one."""
    weighing = weight > 0
    if not weighing.any():
        raise ValueError(f"sample_weight is zero in all {plural(len(weight), 'row')}; at least one must be above 0")
    return weighing


def as_ids(ids: Any) -> pd.Series:
    """Return one id or many as a series that keeps their types."""
    if isinstance(ids, bool | np.bool_):
        raise TypeError(f"ids is {ids}; an id is a whole number or text")
    series = as_series([ids] if pd.api.types.is_scalar(ids) else ids)
    kind = pd.api.types.infer_dtype(series, skipna=True)
    if kind == "boolean":
        raise TypeError(f"ids is a mask of {len(series)} booleans; select the ids by it: ids[mask]")
    if kind == "mixed" and (nested := [x for x in series if pd.api.types.is_list_like(x)]):
        raise TypeError(f"ids holds {nested[0]!r:.60}; it must be one id or a 1-d array of ids")
    return series


def warn(message: str) -> None:
    """Warn at the line outside of minicf that made the call."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "minicf":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


OUTLYING = 20.0
"""An outlier is this many times as far from the median as nine tenths of the ratings that differ from the median. On
scales of whole numbers from 1 to 5 or to 10 no rating can be: the distances there differ by a factor of 9 at most."""


def warn_of_values(ratings: Ratings) -> Ratings:
    """Warn of ratings that look like events, as all are alike, and of outliers; return the ratings with these cut off.

    Without outliers they are the same object.
    """
    values = ratings.rating.astype(np.float64)
    if len(values) > 1 and values.min() == values.max():
        warn(
            f"all {len(values):,} ratings are {values[0]:g}: this looks like implicit feedback, which says that a user "
            "took an item and not how much it was liked; every prediction will be this number. Say "
            "Recommender(feedback='implicit')"
        )
        return ratings
    median = float(np.median(values))
    distance = np.abs(values - median)
    limit = OUTLYING * float(np.quantile(distance[distance > 0], 0.9, method="lower")) if distance.any() else np.inf
    if (far := distance > limit).any():
        row = int(distance.argmax())
        user, item = ratings.users.ids[ratings.user[row]], ratings.items.ids[ratings.item[row]]
        warn(
            f"outliers: {int(far.sum()):,} of {plural(len(values), 'rating')} farther than {limit:g} from the median, "
            f"{median:g}; the farthest is row {row} (from 0), {values[row]:g}, of user {shown(user)} and "
            f"item {shown(item)}; remove such rows if they are errors, or give logarithms of counts"
        )
        values = values.clip(median - limit, median + limit)
        return Ratings._trusted(
            ratings.user, ratings.item, values.astype(np.float32), ratings.timestamp, ratings.users, ratings.items,
            ratings.titles, ratings.genres, ratings.weight, ratings.implicit,
        )  # fmt: skip
    return ratings


def _columns(frame: pd.DataFrame, wanted: list[str], name: str = "X") -> pd.DataFrame:
    """Return the wanted columns of the argument `name`; each must be there once."""
    if frame.columns.nlevels > 1:
        raise ValueError(
            f"{name} has columns of {frame.columns.nlevels} levels, {_listing(frame.columns[:3])}; they must have one: "
            "frame.droplevel(0, axis=1), or name them anew"
        )
    if missing := [column for column in wanted if column not in frame.columns]:
        raise ValueError(
            f"{name} has no column {_listing(missing)}; it has {_listing(frame.columns)}; "
            "name its columns: Recommender(user=..., item=..., rating=...)"
        )
    for column in wanted:
        if (copies := list(frame.columns).count(column)) > 1:
            raise ValueError(f'{copies} columns are called "{column}"; drop or rename all but one')
    return frame[wanted]


def _listing(names: Any) -> str:
    return ", ".join(map(repr, names))[:300]


def _objects(rows: Any) -> np.ndarray:
    """Return nested lists as an array of objects, in which 1 and "1" stay apart."""
    if isinstance(rows, str | bytes | Mapping) or not hasattr(rows, "__len__"):
        remedy = "; pandas.read_csv reads a file into a frame" if isinstance(rows, str) else ""
        raise TypeError(
            f"X is a {type(rows).__name__}; it must be a frame, Ratings or an array of user ids and item ids{remedy}"
        )
    return np.array(rows, dtype=object)


def _to_pandas(frame: Any, wanted: list[str]) -> pd.DataFrame:
    """Return the wanted columns of a polars, pyarrow or other frame; all of them where none is wanted."""
    try:
        import narwhals as nw
    except ImportError:
        raise ImportError(
            f"X is a {type(frame).__module__} frame; reading it needs narwhals: pip install narwhals"
        ) from None
    table = nw.from_native(frame, eager_only=True)
    present = [name for name in wanted if name in table.columns]
    return pd.DataFrame({name: table[name].to_numpy() for name in (present or table.columns)})


def _type_of(vocabulary: Vocabulary) -> str:
    return "text" if vocabulary.ids.dtype == object else "integers"


def _twin(vocabulary: Vocabulary, values: Any) -> str | None:
    """Return a hint if one of the unknown ids is known as another type: 10 for "10"."""
    text = vocabulary.ids.dtype == object
    for value in values[:1000]:
        twin: Any = None
        if text and isinstance(value, int | np.integer | float | np.floating):
            twin = str(int(value)) if float(value).is_integer() else str(value)
        elif not text and isinstance(value, str) and value.isdecimal() and len(value) < 19:
            twin = int(value)
        if twin is not None and vocabulary.index(twin, missing=-1) >= 0:
            given = "a number" if text else "text"
            return f"{value!r} is {given}, but known ids are {_type_of(vocabulary)}: {twin!r} is known"
    return None
