"""Measure a fitted recommender on held-out ratings: errors of predictions, and relevant items in lists."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from minicf import metrics
from minicf.data import Ratings
from minicf.recommender.inputs import warn
from minicf.recommender.lists import hits_of

if TYPE_CHECKING:
    from minicf.recommender.estimator import Recommender


def quality(recommender: Recommender, ratings: Ratings, k: int, limit: float, exclude_seen: bool) -> dict[str, float]:
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
    seen = rows_seen(recommender, ratings, user)
    if seen > 0:
        where = "they are missing from the lists" if exclude_seen else "the lists show them"
        warn(
            f"{seen:,} of {len(ratings):,} rows are of items that their users rated in training: the errors are those "
            f"of training, and {where}; test on held-out ratings"
        )
    asked = np.bincount(ratings.user[relevant], minlength=ratings.n_users) > 0
    if recommender.unknown == "nan":
        asked &= user >= 0
    names = ("precision", "recall", "ndcg", "map")
    result |= dict.fromkeys((*names, "coverage"), math.nan)
    if asked.any():
        users = np.flatnonzero(asked)
        lists = recommender.recommend(ratings.users.ids[users], k, exclude_seen)
        hits, total, items = hits_of(recommender.inputs, lists, ratings, relevant, users, k)
        functions = (metrics.precision, metrics.recall, metrics.ndcg, metrics.average_precision)
        result |= {name: float(f(hits, total).mean()) for name, f in zip(names, functions, strict=True)}
        result["coverage"] = metrics.coverage(items, len(recommender.items_))
    return result | {
        "rows": len(ratings),
        "rows_unknown": int((~known).sum()),
        "rows_seen": seen,
        "users": int(asked.sum()),
        "users_unknown": int((user < 0).sum()),
    }


def rows_seen(recommender: Recommender, ratings: Ratings, user: np.ndarray) -> float:
    """Return how many rows are of seen items; NaN for a recommender that was saved without them.

    ``user`` (n_users,) are the recommender's rows of the users of `ratings`, -1 where unknown.
    """
    if recommender.seen_ is None:
        return math.nan
    size = len(recommender.items_)
    item = recommender.items_.index(ratings.items.ids, missing=-1)[ratings.item].astype(np.int64)
    known = (user[ratings.user] >= 0) & (item >= 0)
    seen = recommender.seen_.take(user)
    pairs = np.repeat(np.arange(len(user)), np.diff(seen.start)) * size + seen.index
    return int(np.isin(ratings.user[known].astype(np.int64) * size + item[known], pairs).sum())
