"""Measure a fitted recommender on held-out ratings: errors of predictions, and relevant items in lists."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from minicf import metrics
from minicf.data import Ratings
from minicf.recommender.lists import hits_of

if TYPE_CHECKING:
    from minicf.recommender.estimator import Recommender


def quality(recommender: Recommender, ratings: Ratings, k: int, limit: float) -> dict[str, float]:
    """Return the measures of `Recommender.evaluate`; ratings of at least `limit` are of relevant items."""
    predicted, known = recommender.predict(ratings, return_known=True)
    counted = np.isfinite(predicted)
    result: dict[str, float] = {"rmse": math.nan, "mae": math.nan}
    if counted.any():
        result = {
            "rmse": metrics.rmse(ratings.rating[counted], predicted[counted]),
            "mae": metrics.mae(ratings.rating[counted], predicted[counted]),
        }
    relevant = ratings.rating >= limit
    user = recommender.inputs.lookup("user", ratings.users.ids)
    asked = np.bincount(ratings.user[relevant], minlength=ratings.n_users) > 0
    if recommender.unknown == "nan":
        asked &= user >= 0
    names = ("precision", "recall", "ndcg", "map")
    result |= dict.fromkeys((*names, "coverage"), math.nan)
    if asked.any():
        users = np.flatnonzero(asked)
        lists = recommender.recommend(ratings.users.ids[users], k)
        hits, total, items = hits_of(recommender.inputs, lists, ratings, relevant, users, k)
        functions = (metrics.precision, metrics.recall, metrics.ndcg, metrics.average_precision)
        result |= {name: float(f(hits, total).mean()) for name, f in zip(names, functions, strict=True)}
        result["coverage"] = metrics.coverage(items, len(recommender.items_))
    return result | {
        "rows": len(ratings),
        "rows_unknown": int((~known).sum()),
        "users": int(asked.sum()),
        "users_unknown": int((user < 0).sum()),
    }
