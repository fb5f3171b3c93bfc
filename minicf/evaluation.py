"""Cross-validate a recommender, with a table of folds."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from minicf.arguments import check_int, check_seed
from minicf.recommender import Recommender


def cross_validate(
    recommender: Recommender, X: Any, y: Any = None, *, cv: int = 5, k: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Fit on all folds but one and evaluate on that one, for each fold in turn.

    Parameters
    ----------
    recommender : Recommender
        Cloned for each fold; it is not fitted itself.
    X, y
        As for `Recommender.fit`.
    cv : int
        Number of folds; rows are assigned to folds at random.
    k : int, optional
        Also measure lists of k, as `Recommender.evaluate` does.
    seed : int

    Returns
    -------
    DataFrame
        One row per fold, then ``mean`` and ``std``. Columns rmse, mae (and precision, recall, ndcg, map, coverage),
        rows_unknown, fit_seconds, test_seconds.
    """
    if not isinstance(recommender, Recommender):
        raise TypeError(f"recommender is {recommender!r}; it must be a Recommender")
    cv, seed = check_int("cv", cv, 2), check_seed("seed", seed)
    ratings, _ = recommender.inputs.training(X, y)
    if cv > len(ratings):
        raise ValueError(f"cv is {cv}; it must be at most the number of ratings, {len(ratings)}")
    fold_of = np.random.RandomState(seed).permutation(len(ratings)) % cv
    rows = []
    for fold in range(cv):
        train, test = ratings.take(fold_of != fold), ratings.take(fold_of == fold)
        begin = time.perf_counter()
        fitted = clone(recommender).fit(train)
        middle = time.perf_counter()
        if k is None:
            predicted, known = fitted.predict(test, return_known=True)
            error = (predicted - test.rating)[np.isfinite(predicted)]
            row = {
                "rmse": float(np.sqrt(np.mean(error**2, dtype=np.float64))) if error.size else math.nan,
                "mae": float(np.mean(np.abs(error), dtype=np.float64)) if error.size else math.nan,
                "rows_unknown": int((~known).sum()),
            }
        else:
            found = fitted.evaluate(test, k=k)
            row = {name: found[name] for name in found if not name.startswith(("rows", "users"))}
            row["rows_unknown"] = found["rows_unknown"]
        rows.append(row | {"fit_seconds": middle - begin, "test_seconds": time.perf_counter() - middle})
    table = pd.DataFrame(rows, index=pd.Index([f"fold {i + 1}" for i in range(cv)]))
    return pd.concat([table, pd.DataFrame({"mean": table.mean(), "std": table.std(ddof=0)}).T])
