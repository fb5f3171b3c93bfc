"""Checks of what a trainer is given: solvers, ratings, dtypes, callbacks, indices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minicf.arguments import check_unmasked
from minicf.data import Ratings
from minicf.losses import SQUARED_ERROR, Loss
from minicf.optim import Optimizer
from minicf.solvers import Gibbs, Gradient, Solver


def as_solver(given: Any, loss: Loss | None, batch_size: int | None) -> Solver:
    if isinstance(given, Optimizer):
        return Gradient(given, SQUARED_ERROR if loss is None else loss, 64 if batch_size is None else batch_size)
    if not isinstance(given, Solver):
        raise TypeError(f"solver is {given!r}; it must be an optimizer, SGD(...) or Adam(...), or a Solver")
    for name, value in (("loss", loss), ("batch_size", batch_size)):
        if value is not None:
            raise ValueError(f"{name} is {value!r}; it goes with an optimizer, and a solver has its own: Gradient(...)")
    return given


def check_ratings(name: str, ratings: Any) -> None:
    if not isinstance(ratings, Ratings):
        raise TypeError(
            f"{name} is a {type(ratings).__name__}; it must be Ratings, made by Ratings.from_frame(frame) or "
            "load_movielens()"
        )
    if len(ratings) == 0:
        raise ValueError(f"{name} holds no ratings")


def check_one_split(train: Ratings, valid: Ratings) -> None:
    if (valid.n_users, valid.n_items) != (train.n_users, train.n_items):
        raise ValueError(
            f"train has {train.n_users} users and {train.n_items} items, valid has {valid.n_users} and "
            f"{valid.n_items}; both must come from one split"
        )
    if not (train.users.matches(valid.users) and train.items.matches(valid.items)):
        raise ValueError("train and valid have other ids, though as many; both must come from one split")


def dtype_name(dtype: Any) -> str:
    try:
        name = "" if dtype is None else np.dtype(dtype).name  # None would be NumPy's default
    except TypeError:
        name = ""
    if name not in ("float16", "float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}; it must be 'float32' or 'float64', or 'float16' on a GPU")
    return name


def listed(callbacks: Any, solver: Solver) -> list[Any]:
    """Return callbacks as a list; an object with none of their methods would be ignored in silence."""
    methods = ("on_fit_begin", "on_epoch_begin", "on_part_end", "on_epoch_end", "on_fit_end")
    if isinstance(callbacks, str) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks is {callbacks!r}; it must be a list of callbacks")
    listed = list(callbacks)
    for callback in listed:
        if isinstance(callback, type) or not any(hasattr(callback, name) for name in methods):
            raise TypeError(f"callbacks has {callback!r}; a callback is an object with a method of {methods}")
        if isinstance(solver, Gibbs) and not getattr(callback, "for_chains", True):
            raise ValueError(
                f"callbacks has {type(callback).__name__}, which goes by the best or the mean of epochs; a sweep "
                "of Gibbs sampling is one sample of many, no better than the next: leave it out"
            )
    return listed


def indices(name: str, values: Any, limit: int) -> np.ndarray:
    check_unmasked(name, values)
    array = np.atleast_1d(np.asarray(values))
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise TypeError(f"{name} must be an index or a one-dimensional array of indices (whole numbers)")
    if array.size and not (0 <= array.min() and array.max() < limit):
        bad = array[(array < 0) | (array >= limit)][0]
        raise IndexError(f"{name} index {bad} is out of range: the table has {limit} rows, 0 … {limit - 1}")
    return array.astype(np.int32)
