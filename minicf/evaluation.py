"""Folds of rows, cross-validation with a table of folds, and a scorer of lists for scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from minicf.arguments import check_bool, check_choice, check_int, check_seed, check_unmasked
from minicf.data import Ratings
from minicf.data.splits import folds_by_user
from minicf.recommender.measured import Measured
from minicf.recommender.quality import OF_USERS, errors

PARTS = ("train", "test")
Fold = tuple[np.ndarray, np.ndarray]


class RatingFolds:
    """Split rows into folds that each have a part of every user's rows; a splitter for scikit-learn's ``cv``.

    Parameters
    ----------
    n_splits : int
        Folds, at least 2.
    random_state : int
        Seed of the order in which rows are dealt to the folds.
    shuffle : bool
        Deal in a random order (True), or in that of the table.
    user : str, optional
        Column of user ids in a frame; by default "userId", or the first column where there is none of that name.

    Notes
    -----
    Tables are often sorted by user. scikit-learn's ``cv=3`` takes thirds of a table as they stand, so that it asks for
    predictions for users without a row in training: another question, and a worse answer. Rows that are dealt at random
    (``KFold(3, shuffle=True)``) may still leave a user with few rows none. Here the rows of a user, and all rows, are
    spread over the folds in numbers that differ by one at most; only a user with a single row is unknown where it is
    tested. To ask for unseen users, say so: ``GroupKFold`` with the users as groups.

    Examples
    --------
    >>> import numpy as np
    >>> from minicf import RatingFolds
    >>> X = np.array([[1, 7], [1, 8], [1, 9], [2, 7], [2, 8], [2, 9]])
    >>> [test.tolist() for _, test in RatingFolds(3, shuffle=False).split(X)]
    [[0, 3], [1, 4], [2, 5]]
    """

    def __init__(self, n_splits: int = 5, random_state: int = 0, shuffle: bool = True, user: str | None = None) -> None:
        self.n_splits = check_int("n_splits", n_splits, 2)
        self.random_state = check_seed("random_state", random_state)
        self.shuffle = check_bool("shuffle", shuffle)
        self.user = user

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds."""
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[Fold]:
        """Yield row positions of training and of test, ascending, for each fold.

        Parameters
        ----------
        X : DataFrame, Ratings, or array of shape (n, 2)
            As for `Recommender.fit`: users are the first column of an array.
        y, groups
            Not looked at.

        Raises
        ------
        ValueError
            Fewer rows than folds.
        """
        if isinstance(X, Ratings):
            users: Any = X.user
        elif hasattr(X, "columns"):
            names = list(X.columns)
            name = self.user or ("userId" if "userId" in names else names[0])
            if name not in names:
                raise ValueError(f"X has no column {name!r}; RatingFolds(user=...) must name that of the user ids")
            users = np.asarray(X[name])
        else:
            users = np.asarray(X, dtype=None if hasattr(X, "dtype") else object)[:, 0]
        number = pd.factorize(users)[0]
        if len(number) < self.n_splits:
            raise ValueError(f"n_splits is {self.n_splits}; it must be at most the number of rows, {len(number)}")
        fold_of = folds_by_user(number, self.n_splits, self.random_state if self.shuffle else None)
        yield from _by_number(fold_of)

    def __repr__(self) -> str:
        return f"RatingFolds({self.n_splits}, random_state={self.random_state}, shuffle={self.shuffle})"


@dataclass(frozen=True)
class RankingScorer:
    """Score the lists of a fitted recommender, as scikit-learn's ``scoring``; made by `ranking_scorer`."""

    measure: str
    k: int

    def __call__(self, estimator: Any, X: Any, y: Any = None) -> float:
        """Return the mean of the measure over the users of held-out rows."""
        if not isinstance(estimator, Measured):
            raise TypeError(f"estimator is {estimator!r}; it must be a recommender, such as Recommender or MostPopular")
        return float(estimator.evaluate_users(X, y, k=self.k)[self.measure].mean())


def ranking_scorer(measure: str = "ndcg", k: int = 10) -> RankingScorer:
    """Make a scorer of lists for scikit-learn's searches: ``GridSearchCV(..., scoring=ranking_scorer("ndcg"))``.

    Lists are of all items, without those that the estimator saw in training: it knows them itself. Relevant are items
    that `Recommender.evaluate` takes for so; events need no column of ratings.

    Parameters
    ----------
    measure : str
        "precision", "recall", "recall_min", "ndcg", "map", "mrr", "hit_rate", "ndcg_graded" or "novelty".
    k : int
        Length of the lists.

    Returns
    -------
    function of (estimator, X, y=None)
        The mean over users of a fitted `Recommender`, or baseline.
    """
    return RankingScorer(check_choice("measure", measure, OF_USERS), check_int("k", k, 1))


def cross_validate(
    recommender: Measured,
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
    recommender : Recommender, MostPopular, Biases or ItemKNN
        Cloned for each fold; it is not fitted itself.
    X, y
        As for `Recommender.fit`.
    cv : int, array of int of shape (n,), splitter, or iterable of (train, test)
        A number of folds, of `RatingFolds`: each has a part of every user's rows; the fold of each row, from 0, which
        is the one that tests it; an object with ``split(X, y, groups)``, such as scikit-learn's ``KFold``,
        ``GroupKFold`` or ``TimeSeriesSplit``; or pairs of row positions from 0, or of masks
        of n booleans. Rows may be in no part of a fold.
    groups : array of shape (n,), optional
        For a splitter that keeps groups together.
    k : int, optional
        Also measure lists of k, as `Recommender.evaluate` does.
    seed : int
        Of the folds, if `cv` is a number.
    return_train_score : bool
        Also measure the errors on the training rows.

    Returns
    -------
    DataFrame
        One row per fold, then ``mean`` and ``std``. Columns rmse, mae (and precision, recall, recall_min, ndcg, map,
        mrr, hit_rate, ndcg_graded, novelty, coverage), rows_unknown (train_rmse, train_mae), fit_seconds, test_seconds.

    Raises
    ------
    TypeError
        `recommender` is none.
    ValueError
        `cv` is none of the above; fewer than two folds, or more than rows; fold numbers with a gap; folds with an
        empty part, with positions that are out of range or repeated, or with rows that are in both parts; `groups`
        without a splitter; folds of rows where X names a pair of user and item more than once.
    """
    if not isinstance(recommender, Measured):
        raise TypeError(f"recommender is {recommender!r}; it must be a Recommender, or a baseline")
    seed, return_train_score = check_seed("seed", seed), check_bool("return_train_score", return_train_score)
    ratings = recommender._read(X, y, training=True)[0]
    if isinstance(cv, int | np.integer | float) or cv is None:
        cv = check_int("cv", cv, 2)
        if groups is not None:
            raise ValueError(f"groups is given, but cv is {cv}; give a splitter that takes groups: GroupKFold({cv})")
        if cv > len(ratings):
            raise ValueError(f"cv is {cv}; it must be at most the number of ratings, {len(ratings)}")
        folds = [*RatingFolds(cv, seed).split(ratings)]
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
            row: dict[str, float] = errors(test.rating, predicted) | {"rows_unknown": int((~known).sum())}
        else:
            found = fitted._quality(test, None, k, None, True, False)[1]
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


def _given(cv: Any, recommender: Measured, ratings: Ratings, groups: Any) -> list[Fold]:
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
