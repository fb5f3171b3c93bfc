"""Cross-validate a recommender, with a table of folds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from minicf.arguments import check_bool, check_int, check_seed, check_unmasked
from minicf.data import Ratings
from minicf.recommender import Recommender
from minicf.recommender.quality import errors

PARTS = ("train", "test")
Fold = tuple[np.ndarray, np.ndarray]


def cross_validate(
    recommender: Recommender,
    X: Any,
    y: Any = None,
    *,
    cv: Any = 5,
    groups: Any = None,
    k: int | None = None,
    seed: int = 0,
    return_train_score: bool = False,
) -> pd.DataFrame:
    """Fit on the training rows of each fold and evaluate on its test rows.

    Parameters
    ----------
    recommender : Recommender
        Cloned for each fold; it is not fitted itself.
    X, y
        As for `Recommender.fit`.
    cv : int, array of int of shape (n,), splitter, or iterable of (train, test)
        A number of folds, to which rows are assigned at random; the fold of each row, from 0, which is the one that
        tests it; an object with ``split(X, y, groups)``, such as scikit-learn's ``KFold``, ``GroupKFold`` or
        ``TimeSeriesSplit``; or pairs of row positions from 0, or of masks of n booleans. Rows may be in no part of a
        fold.
    groups : array of shape (n,), optional
        For a splitter that keeps groups together.
    k : int, optional
        Also measure lists of k, as `Recommender.evaluate` does.
    seed : int
        Of the random folds.
    return_train_score : bool
        Also measure the errors on the training rows.

    Returns
    -------
    DataFrame
        One row per fold, then ``mean`` and ``std``. Columns rmse, mae (and precision, recall, ndcg, map, mrr,
        hit_rate, ndcg_graded, coverage), rows_unknown (train_rmse, train_mae), fit_seconds, test_seconds.

    Raises
    ------
    TypeError
        `recommender` is none.
    ValueError
        `cv` is none of the above; fewer than two folds, or more than rows; fold numbers with a gap; folds with an
        empty part, with positions that are out of range or repeated, or with rows that are in both parts; `groups`
        without a splitter; folds of rows where X names a pair of user and item more than once.
    """
    if not isinstance(recommender, Recommender):
        raise TypeError(f"recommender is {recommender!r}; it must be a Recommender")
    seed, return_train_score = check_seed("seed", seed), check_bool("return_train_score", return_train_score)
    ratings, _ = recommender.inputs.training(X, y)
    if isinstance(cv, int | np.integer | float) or cv is None:
        cv = check_int("cv", cv, 2)
        if groups is not None:
            raise ValueError(f"groups is given, but cv is {cv}; give a splitter that takes groups: GroupKFold({cv})")
        if cv > len(ratings):
            raise ValueError(f"cv is {cv}; it must be at most the number of ratings, {len(ratings)}")
        folds = _by_number(np.random.RandomState(seed).permutation(len(ratings)) % cv)
    else:
        given = X.shape[0] if hasattr(X, "shape") else len(X)
        if given != len(ratings):
            raise ValueError(
                f"X has {given:,} rows of {len(ratings):,} pairs of user and item, and folds are of rows; merge "
                'repeated ratings first: Ratings.from_frame(..., duplicates="mean")'
            )
        folds = _given(cv, recommender, ratings, groups)
    rows = []
    for in_train, in_test in folds:
        train, test = ratings.take(in_train), ratings.take(in_test)
        begin = time.perf_counter()
        fitted = clone(recommender).fit(train)
        middle = time.perf_counter()
        if k is None:
            predicted, known = fitted.predict(test, return_known=True)
            row = errors(test.rating, predicted) | {"rows_unknown": int((~known).sum())}
        else:
            found = fitted.evaluate(test, k=k)
            row = {name: found[name] for name in found if not name.startswith(("rows", "users"))}
            row["rows_unknown"] = found["rows_unknown"]
        end = time.perf_counter()
        if return_train_score:
            of_train = errors(train.rating, fitted.predict(train))
            row |= {f"train_{name}": value for name, value in of_train.items()}
        rows.append(row | {"fit_seconds": middle - begin, "test_seconds": end - middle})
    table = pd.DataFrame(rows, index=pd.Index([f"fold {i + 1}" for i in range(len(rows))]))
    return pd.concat([table, pd.DataFrame({"mean": table.mean(), "std": table.std(ddof=0)}).T])


def _by_number(fold_of: np.ndarray) -> list[Fold]:
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(fold_of.max() + 1)]


def _given(cv: Any, recommender: Recommender, ratings: Ratings, groups: Any) -> list[Fold]:
    """Return checked folds of a splitter, of numbers or of pairs."""
    n = len(ratings)
    if isinstance(cv, str | bytes) or not (hasattr(cv, "split") or isinstance(cv, Iterable)):
        raise ValueError(
            f"cv is {cv!r}; it must be a number, the fold of each row, an object with split(X, y, groups), or pairs "
            "(train, test) of row positions"
        )
    if hasattr(cv, "split"):
        table = recommender.inputs.frame(ratings)
        cv = cv.split(table, ratings.rating, groups)
    elif groups is not None:
        raise ValueError("groups is given, but cv has no split(X, y, groups); give a splitter that takes groups")
    check_unmasked("cv", cv)
    parts = [*cv]
    numbers = [pd.api.types.is_scalar(part) for part in parts]
    if parts and all(numbers):
        fold_of = np.asarray(parts)
        if fold_of.dtype.kind not in "iu" or fold_of.shape != (n,):
            raise ValueError(
                f"cv has dtype {fold_of.dtype} and {len(fold_of):,} values; it must hold the fold of each of the {n:,} "
                "rows, whole numbers from 0"
            )
        found = np.unique(fold_of)
        if found[0] != 0 or found[-1] != len(found) - 1:
            raise ValueError(
                f"cv has the folds {', '.join(map(str, found[:10].tolist()))}{' …' * (len(found) > 10)}; they must be "
                "numbered from 0 without a gap (PredefinedSplit takes -1 for rows that are never tested)"
            )
        if len(found) < 2:
            raise ValueError("cv has 1 fold; it must have at least 2")
        return _by_number(fold_of)
    folds = []
    for number, part in enumerate(parts, 1):
        if pd.api.types.is_scalar(part) or not hasattr(part, "__len__") or len(part) != 2:
            what = repr(part) if pd.api.types.is_scalar(part) else f"a {type(part).__name__}"
            raise ValueError(f"cv, fold {number} is {what}; it must be a pair (train, test) of row positions")
        train, test = (_rows(f"cv, fold {number}, {name}", rows, n) for name, rows in zip(PARTS, part, strict=True))
        if both := len(np.intersect1d(train, test)):
            raise ValueError(f"cv, fold {number}: {both:,} rows are in both train and test; a row must be in one")
        folds.append((train, test))
    if not folds:
        raise ValueError("cv has no folds; it must have at least 1")
    return folds


def _rows(name: str, rows: Any, n: int) -> np.ndarray:
    """Return positions, of positions or of a mask of n rows."""
    check_unmasked(name, rows)
    array = np.asarray(rows)
    if array.dtype == bool and array.ndim == 1:
        if len(array) != n:
            raise ValueError(
                f"{name} is a mask of {len(array):,} booleans; it must have one for each of the {n:,} rows"
            )
        array = np.flatnonzero(array)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must hold at least one row")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {array.dtype}; it must hold row positions, whole numbers, or be a mask")
    if array.min() < 0 or array.max() >= n:
        raise ValueError(f"{name} has rows {array.min()} … {array.max()}; they must be from 0 to {n - 1}")
    if repeated := len(array) - len(np.unique(array)):
        raise ValueError(f"{name} names {repeated:,} rows more than once; each may be there once")
    return array.astype(np.int64)
