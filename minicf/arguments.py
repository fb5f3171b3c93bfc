"""Checks of arguments: each returns its argument as plain Python, or raises a ValueError with value and limit."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` as an int from `low` to `high`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        limit = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {value!r}; it must be a whole number {limit}")
    return int(value)


def check_seed(name: str, value: Any) -> int:
    """Return `value` as a seed that NumPy's generators take."""
    return check_int(name, value, 0, 2**32 - 1)


def check_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, above: float | None = None
) -> float:
    """Return `value` as a finite float, at least `low` (or more than `above`) and below `high`.

    Text is refused even if it looks like a number: "0,1" and "1e-3 " would be the next. So is True.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf":
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and low <= number < high and (above is None or number > above)):
        limits = [f"above {above:g}"] if above is not None else [f"at least {low:g}"] * math.isfinite(low)
        limits += [f"below {high:g}"] * math.isfinite(high)
        raise ValueError(f"{name} is {number:g}; it must be {' and '.join(limits or ['finite'])}")
    return number


def check_bool(name: str, value: Any) -> bool:
    """Return `value` as a bool; refuse others, such as "no", which counts as true."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return bool(value)


def check_decay(name: str, value: Any) -> float | dict[str, float]:
    """Return a weight decay: a number, or numbers by the name of a weight, sorted."""
    if not isinstance(value, Mapping):
        return check_number(name, value, 0.0)
    if unnamed := [key for key in value if not isinstance(key, str)]:
        raise ValueError(f"{name} has {unnamed[0]!r} among its keys; they must be names of weights")
    return {key: check_number(f"{name}[{key!r}]", x, 0.0) for key, x in sorted(value.items())}


def check_unmasked(name: str, values: Any) -> None:
    """Refuse a masked array with something masked: NumPy would go on with what lies under the mask."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        masked = int(np.ma.getmaskarray(values).sum())
        raise ValueError(f"{name} has {masked} masked of {values.size} values; drop them, .compressed(), or fill them")


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return `value`, which must be one of some words."""
    if not isinstance(value, str) or value not in tuple(allowed):
        raise ValueError(f"{name} is {value!r}; it must be one of {tuple(allowed)}")
    return str(value)
