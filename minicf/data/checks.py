"""Checks of columns: ids, ratings and timestamps become arrays, or are refused with row, value and remedy.

Rows are counted from 0 by position.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from minicf.arguments import check_unmasked

MAX_INT32 = np.iinfo(np.int32).max
MAX_FLOAT32 = float(np.finfo(np.float32).max)

EXACT_FLOAT = {2: 2**11, 4: 2**24, 8: 2**53}
"""From here on, neighboring integers are one and the same float, by the bytes of a float."""


def id_values(column: pd.Series, name: str) -> NDArray[Any]:
    """Return checked ids, one per row, as int64 or as an object array of str."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.dtype.categories.dtype)
    refuse_missing(column, name, "id")
    types = pd.api.types
    if types.is_bool_dtype(column.dtype):
        refuse(column, name, 0, "is not an id", f'use frame["{name}"].astype(int)')
    if types.is_integer_dtype(column.dtype):
        values = column.to_numpy()
        if values.dtype.kind == "u" and values.size and values.max() > np.iinfo(np.int64).max:
            row = int(values.argmax())
            refuse(column, name, row, "is above 2**63 - 1", "give such ids as text: .astype(str)")
        return values.astype(np.int64)
    if types.is_float_dtype(column.dtype):
        return whole(column, name, 'give ids as integers or text: .astype("int64") or .astype(str)')
    if column.dtype == object or types.is_string_dtype(column.dtype):
        values = column.to_numpy(dtype=object)
        kind = pd.api.types.infer_dtype(values, skipna=False)
        if kind in ("string", "empty"):
            # Hash tables and fixed-width arrays may end a text at such a character.
            for row, value in enumerate(values):
                if "\0" in value:
                    refuse(column, name, row, "holds a null character", "take it out of the ids")
            return values
        if kind == "integer":
            try:
                return values.astype(np.int64)
            except OverflowError:
                row = next(r for r, v in enumerate(values) if not -(2**63) <= v < 2**63)
                refuse(column, name, row, "does not fit in 64 bits", "give such ids as text")
        if kind == "floating":
            return whole(column, name, "give ids as integers or as text")
        refuse_mixed(column, name)
    refuse(column, name, 0, f"has the type {column.dtype}", "ids are integers or text: .astype(str)")


def whole(column: pd.Series, name: str, remedy: str) -> NDArray[np.int64]:
    """Return floats that are exactly whole numbers as int64."""
    limit = exact_below(column)
    values = column.to_numpy(dtype=np.float64)
    # The comparison is False for NaN and infinity too.
    bad = ~((np.abs(values) < limit) & (np.floor(values) == values))
    if bad.any():
        row = int(bad.argmax())
        problem = f"is not a whole number below 2**{limit.bit_length() - 1}"
        if np.floor(values[row]) == values[row]:  # converted now, ids that were two would stay one
            problem += f", where {column.dtype} begins to merge neighbors"
            remedy = "read such numbers as integers, or as text, from where they came from"
        refuse(column, name, row, problem, remedy)
    return values.astype(np.int64)


def exact_below(values: pd.Series) -> int:
    """Return the limit below which floats tell whole numbers apart; of objects, that of the shortest float there."""
    dtype: Any = getattr(values.dtype, "numpy_dtype", values.dtype)
    sizes = (getattr(value, "itemsize", 8) for value in values) if dtype.kind == "O" else (dtype.itemsize,)
    return EXACT_FLOAT[min(8, *sizes)]


def refuse(column: pd.Series, name: str, row: int, problem: str, remedy: str) -> NoReturn:
    value = column.iloc[row] if len(column) else None
    raise ValueError(f'column "{name}", row {row} (from 0): {shown(value)} {problem}; {remedy}')


def refuse_missing(column: pd.Series, name: str, what: str) -> None:
    missing = column.isna().to_numpy(dtype=bool)
    if missing.any():
        row, rows = int(missing.argmax()), plural(int(missing.sum()), "row")
        remedy = f'drop such rows, frame.dropna(subset=["{name}"])'
        raise ValueError(f'column "{name}", row {row} (from 0): missing {what} ({rows}); {remedy}')


def refuse_mixed(column: pd.Series, name: str) -> NoReturn:
    values = column.tolist()
    first = type(values[0])
    row = next((r for r, value in enumerate(values) if type(value) is not first), 0)
    if row == 0:
        problem = f"is a {first.__name__}, neither integer nor text"
    else:
        problem = f"is a {type(values[row]).__name__}, but row 0 is a {first.__name__}: {values[0]!r}"
    refuse(column, name, row, problem, f'make ids one type, such as frame["{name}"].astype(str)')


def shown(value: Any) -> str:
    """Return a value as its user wrote it: 3, not np.int64(3)."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def as_series(values: Any) -> pd.Series:
    """Return 1-d values as a series numbered from 0, without guessing a common type for lists."""
    if hasattr(values, "columns"):  # a frame of any library
        names = values.column_names if hasattr(values, "column_names") else values.columns  # PyArrow's, others'
        raise TypeError(f"ids is a frame with the columns {list(names)[:5]}; give one column: frame[name]")
    if isinstance(values, Mapping):
        raise TypeError(f"ids is a {type(values).__name__}; it must be one id or a 1-d array of ids: list(ids)")
    if isinstance(values, pd.MultiIndex):
        raise TypeError("ids is a MultiIndex; give one level: index.get_level_values(name)")
    if isinstance(values, pd.Series):
        return values.reset_index(drop=True)
    if isinstance(values, pd.Index):
        return values.to_series(index=pd.RangeIndex(len(values)))
    if hasattr(values, "toarray"):
        raise TypeError(f"ids is a {type(values).__name__}; it must be one id or a 1-d array of ids")
    check_unmasked("ids", values)
    array = values if isinstance(values, np.ndarray) else object_array(values)
    if array.ndim != 1:
        raise ValueError(f"ids has shape {array.shape}; it must be one id or a 1-d array of ids")
    return pd.Series(array, dtype=object if array.dtype.kind in "OUS" else None, copy=False)


def object_array(values: Any) -> NDArray[np.object_]:
    # numpy.array(["a", 1]) would turn 1 into "1".
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"ids is a {type(values).__name__}, {values!r}; it must be a list or an array")
    listed = list(values)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def rating_values(column: pd.Series, name: str, noun: str = "rating") -> NDArray[np.float32]:
    """Return checked ratings, or weights, as a new float32 array."""
    types = pd.api.types
    refuse_missing(column, name, noun)
    if column.dtype == object:
        for row, value in enumerate(column.tolist()):
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                refuse(column, name, row, f"is a {type(value).__name__}, not a number", convert(value, name))
            if isinstance(value, int) and abs(value) > MAX_FLOAT32:  # it may exceed even float64
                refuse(column, name, row, "is not finite in float32", "drop or mend such rows")
    elif not types.is_numeric_dtype(column.dtype) or types.is_bool_dtype(column.dtype):
        refuse(column, name, 0, f"is not a number ({column.dtype})", convert(column.iloc[0], name))
    elif types.is_complex_dtype(column.dtype):
        refuse(column, name, 0, "is complex", f"{noun}s are real numbers")
    with np.errstate(over="ignore"):  # what overflows is refused below
        given = column.to_numpy(dtype=np.float64)
        values = given.astype(np.float32)
    bad = ~np.isfinite(values)
    if bad.any():
        problem = f"is not finite in float32 ({plural(int(bad.sum()), 'row')} in all)"
        refuse(column, name, int(bad.argmax()), problem, "drop or mend such rows")
    if noun == "rating" and (merged := merged_ratings(given)) is not None:  # weights may differ by as little
        raise ValueError(
            f'column "{name}": {shown(merged[0])} and {shown(merged[1])} are one number in float32; take an offset '
            f'from all of them: frame["{name}"] - {given.min():.17g}'
        )
    return values


def weight_values(column: pd.Series, name: str) -> NDArray[np.float32]:
    """Return checked weights as a new float32 array."""
    values = rating_values(column, name, "weight")
    if (values < 0).any():
        refuse(column, name, int((values < 0).argmax()), "is below 0", "a weight is at least 0, which leaves a row out")
    return values


def merged_ratings(given: NDArray[Any]) -> tuple[Any, Any] | None:
    """Return ratings far from zero and close together, such as 100000001 and 100000002, which are one float32."""
    if not given.size:
        return None
    low, high = float(given.min()), float(given.max())
    # Rounding is at most 1e-7 of the largest number: that is a trifle unless all lie in a far smaller range.
    if high == low or max(abs(low), abs(high)) < 10 * (high - low):
        return None
    different = np.unique(given)
    lost = (np.diff(different.astype(np.float32)) == 0) & (np.diff(different) > 1e-6 * (high - low))
    at = int(lost.argmax())
    return (different[at], different[at + 1]) if lost.any() else None


def convert(value: Any, name: str) -> str:
    """Return the remedy for a rating that is not a number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,3}(,[0-9]{3})+", value):
        return "write numbers without a separator of thousands, and with a decimal point"
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+,[0-9]+", value):
        return f'write a decimal point: frame["{name}"].str.replace(",", ".").astype(float)'
    return f'convert them, pandas.to_numeric(frame["{name}"]), which names what it cannot convert'


def time_values(column: pd.Series, name: str) -> NDArray[np.int64]:
    """Return checked timestamps, seconds since 1970, as a new int64 array."""
    types = pd.api.types
    refuse_missing(column, name, "timestamp")
    if types.is_datetime64_any_dtype(column.dtype):
        utc = pd.to_datetime(column, utc=True).dt.tz_localize(None)
        return utc.to_numpy().astype("datetime64[s]").astype(np.int64)
    if types.is_integer_dtype(column.dtype):
        stamps = column.to_numpy()
        if stamps.dtype.kind == "u" and stamps.size and stamps.max() > np.iinfo(np.int64).max:
            refuse(column, name, int(stamps.argmax()), "is above 2**63 - 1", "give seconds since 1970")
        return stamps.astype(np.int64)
    remedy = "give whole seconds since 1970, or dates: pandas.to_datetime(...)"
    if types.is_float_dtype(column.dtype):
        return whole(column, name, remedy)
    refuse(column, name, 0, f"is not a time ({column.dtype})", remedy)


def one_dimensional(values: ArrayLike, name: str, length: int | None = None) -> NDArray[Any]:
    check_unmasked(name, values)
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; it must be a 1-d array")
    if length is not None and len(array) != length:
        raise ValueError(f"{name} has {len(array):,} values; it must have {length:,}, as rating has")
    return array


def check_count(shape: tuple[int, ...]) -> None:
    """Check that rows can be counted in int32, as a shuffled order does, before anything of that size is allocated."""
    if shape and shape[0] > MAX_INT32:
        raise ValueError(f"{shape[0]:,} ratings: at most {MAX_INT32:,} fit in an int32 index; take some of them")


def columns_of(frame: pd.DataFrame, named: Mapping[str, str | None], call: str) -> dict[str, pd.Series]:
    """Return the wanted columns by role, each exactly once there; a time or weight of None is not wanted."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"frame is a {type(frame).__name__}; it must be a pandas DataFrame")
    wanted: dict[str, Any] = {
        role: name for role, name in named.items() if name is not None or role not in ("timestamp", "weight")
    }
    if frame.columns.nlevels > 1:
        raise ValueError(
            f"the columns have {frame.columns.nlevels} levels; they must have one: frame.droplevel(0, axis=1)"
        )
    for role, name in wanted.items():
        if not isinstance(name, Hashable):
            raise TypeError(f"{role} is {name!r}; it must be the name of a column")
    absent = {role: name for role, name in wanted.items() if name not in frame.columns}
    if absent:
        names = ", ".join(repr(name) for name in absent.values())
        present = ", ".join(repr(name) for name in frame.columns) or "none"
        roles = ", ".join(f"{role}=..." for role in absent)
        raise ValueError(f"no column {names}; present: {present}; name yours: {call}(..., {roles})")
    found = {}
    for role, name in wanted.items():
        copies = list(frame.columns).count(name)
        if copies > 1:
            raise ValueError(f'{copies} columns are called "{name}": drop or rename all but one')
        found[role] = frame[name]
    if len(frame) == 0:
        raise ValueError("the table has no rows; it must have at least one")
    check_count(frame.shape)
    return found
