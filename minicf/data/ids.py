"""Ids and indices: a `Vocabulary` translates between what the caller gave and contiguous indices."""

from __future__ import annotations

import hashlib
import numbers
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from minicf.data.checks import EXACT_FLOAT, as_series, exact_below, frozen, id_values, plural, shown


class UnknownIdError(KeyError):
    """Report an id that is not in the vocabulary: a KeyError whose text is shown as it is."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Vocabulary:
    """Translate between the ids of one side of a table, users or items, and their contiguous indices.

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

    __slots__ = ("_fingerprint", "_lookup", "ids")

    ids: NDArray[Any]

    def __init__(self, ids: ArrayLike | pd.Series | pd.Index) -> None:
        values = id_values(as_series(ids), "ids")
        ordered = values[:-1] < values[1:]
        if not np.all(ordered):
            row = int(np.argmin(ordered)) + 1
            raise ValueError(
                f"ids, row {row}: {shown(values[row])} does not come after "
                f"{shown(values[row - 1])}; a vocabulary has unique ascending ids: pass "
                "numpy.unique(ids)"
            )
        self.ids = frozen(values.copy())
        self._lookup: pd.Index | None = None
        self._fingerprint: str | None = None

    @classmethod
    def _trusted(cls, ids: NDArray[Any]) -> Vocabulary:
        self = cls.__new__(cls)
        self.ids = frozen(ids)
        self._lookup, self._fingerprint = None, None
        return self

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.ids.dtype == other.ids.dtype and np.array_equal(self.ids, other.ids)

    __hash__ = None  # type: ignore[assignment]

    def __contains__(self, value: object) -> bool:
        """Return whether a value is a known id, by the rules of `index`."""
        return bool(pd.api.types.is_scalar(value) and self.index(value, missing=-1) >= 0)

    def __repr__(self) -> str:
        kind = "integer" if self._integers else "string"
        head = ", ".join(repr(value) for value in self.ids[:3].tolist())
        tail = f" ... {self.ids[-1:].tolist()[0]!r}" if len(self) > 3 else ""
        return f"Vocabulary({len(self):,} {kind} ids: {head}{tail})"

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of the ids and their type, in hexadecimal: the same for the same ids, in any process."""
        if self._fingerprint is None:
            if self._integers:
                content = self.ids.astype("<i8").tobytes()
            else:  # no id holds a null character
                content = "\0".join(self.ids.tolist()).encode("utf-8", "surrogatepass")
            kind = b"integers" if self._integers else b"texts"
            self._fingerprint = hashlib.sha256(b"%s %d " % (kind, len(self.ids)) + content).hexdigest()
        return self._fingerprint

    def matches(self, other: Vocabulary) -> bool:
        """Return whether the ids are the same: by identity, then by number and fingerprint."""
        return self is other or (len(self) == len(other) and self.fingerprint == other.fingerprint)

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
            raise ValueError(f'missing is {missing!r}; it must be "raise" or -1')
        scalar = pd.api.types.is_scalar(ids)
        series = as_series([ids] if scalar else ids)
        found = self._positions(series)
        if missing == "raise" and (found < 0).any():
            raise UnknownIdError(self._unknown(series[found < 0]))
        return int(found[0]) if scalar else found

    def _positions(self, series: pd.Series) -> NDArray[np.int64]:
        if self._lookup is None:  # built at the first question: most vocabularies are never asked
            # Not what pandas infers: an Arrow index cannot hold every text (a lone surrogate, for one).
            self._lookup = pd.Index(self.ids, dtype=self.ids.dtype)
        try:
            wanted = id_values(series, "ids")
            if (wanted.dtype != object) is not self._integers:
                return np.full(len(series), -1, np.int64)
        except ValueError:  # mixed, missing or odd values: each stands for itself
            values = series.tolist()
            if pd.api.types.is_float_dtype(series.dtype):  # as Python's floats they would pass for exact
                limit = exact_below(series)
                values = [value if isinstance(value, float) and abs(value) < limit else None for value in values]
            same_type = [as_id(value, self._integers) for value in values]
            valid = np.array([value is not None for value in same_type], bool)
            found = np.full(len(series), -1, np.int64)
            kept = np.array([v for v in same_type if v is not None], self.ids.dtype)
            found[valid] = self._lookup.get_indexer(pd.Index(kept, dtype=self._lookup.dtype))
            return found
        return self._lookup.get_indexer(pd.Index(wanted, dtype=self._lookup.dtype)).astype(np.int64)

    def _unknown(self, series: pd.Series) -> str:
        values = list(dict.fromkeys(series.tolist()))
        shown = ", ".join(repr(value) for value in values[:5]) + (" ..." if len(values) > 5 else "")
        text = f"{plural(len(values), 'unknown id')}: {shown}"
        for value in values[:1000]:
            twin: Any = None
            if self._integers and isinstance(value, str):
                twin = int(value) if len(value) < 20 and value.isdecimal() else None
            elif not self._integers and (number := as_id(value, True)) is not None:
                twin = str(number)
            if twin is not None and self.index(twin, missing=-1) >= 0:
                kind = "integers" if self._integers else "strings"
                return f"{text}; ids here are {kind}: {twin!r} is known, {value!r} is not"
        return f"{text}; ask with missing=-1 to get -1 for ids that are not known"


def as_id(value: Any, integers: bool) -> int | str | None:
    """Return the value as an id of the given kind, None if it cannot be one."""
    if not integers:
        return value if isinstance(value, str) else None
    if isinstance(value, bool):
        return None
    if isinstance(value, float | np.floating):
        limit = EXACT_FLOAT[min(8, getattr(value, "itemsize", 8))]
        if not (-limit < float(value) < limit and value.is_integer()):
            return None
    if isinstance(value, numbers.Integral | float | np.floating):
        whole = int(value)
        return whole if -(2**63) <= whole < 2**63 else None
    return None
