"""Measure a fitted recommender on held-out ratings: errors of predictions, and relevant items in lists, by user."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from minicf import metrics
from minicf.data import Ratings
from minicf.recommender.inputs import warn
from minicf.recommender.lists import found_in

if TYPE_CHECKING:
    from minicf.recommender.estimator import Recommender

OF_LISTS = {
    "precision": metrics.precision,
    "recall": metrics.recall,
    "ndcg": metrics.ndcg,
    "map": metrics.average_precision,
    "mrr": metrics.reciprocal_rank,
    "hit_rate": metrics.hit_rate,
}
"""By the name of the mean over users."""

SCORES = 1 << 20
"""Scores that the AUC holds at once, or those of one user if these are more."""


def errors(rating: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return rmse and mae of the rows that have a prediction; NaN if none has one."""
    counted = np.isfinite(predicted)
    if not counted.any():
        return {"rmse": math.nan, "mae": math.nan}
    pair = rating[counted], predicted[counted]
    return {"rmse": metrics.rmse(*pair), "mae": metrics.mae(*pair)}


def quality(
    recommender: Recommender, ratings: Ratings, k: int, limit: float, exclude_seen: bool, auc: bool
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the table of `Recommender.evaluate_users`, and the measures of `Recommender.evaluate`.

    Ratings of at least `limit` are of relevant items.
    """
    predicted, known = recommender.predict(ratings, return_known=True)
    user = recommender.inputs.lookup("user", ratings.users.ids)
    seen = rows_seen(recommender, ratings, user)
    if seen > 0:
        where = "they are missing from the lists" if exclude_seen else "the lists show them"
        warn(
            f"{seen:,} of {len(ratings):,} rows are of items that their users rated in training: the errors are those "
            f"of training, and {where}; test on held-out ratings"
        )
    table = by_user(recommender.user, ratings, predicted)
    table["known"] = user >= 0
    once = ratings._unique_pairs("mean")  # a list holds an item once
    table["relevant"] = np.bincount(once.user[once.rating >= limit], minlength=ratings.n_users)
    asked = table["relevant"].to_numpy() > 0
    if recommender.unknown == "nan":
        asked &= user >= 0
    names = [*OF_LISTS, "ndcg_graded", *(["auc"] if auc else [])]
    table[names] = math.nan
    coverage = math.nan
    if asked.any():
        users = np.flatnonzero(asked)
        lists = recommender.recommend(ratings.users.ids[users], k, exclude_seen)
        found, items = found_in(lists, recommender.inputs, once, users, k)
        coverage = metrics.coverage(items, len(recommender.items_))
        hits, total = found >= limit, table["relevant"].to_numpy()[users]
        measured = {name: measure(hits, total) for name, measure in OF_LISTS.items()}
        measured["ndcg_graded"] = graded(found, once, users, recommender.rating_range_[0])
        if auc:
            measured["auc"] = aucs(recommender, once, users, user[users], limit, exclude_seen)
        for name, values in measured.items():
            table.loc[table.index[users], name] = values
    return table[["known", "n_test", "relevant", "rmse", "mae", *names]], (
        errors(ratings.rating, predicted)
        | {name: float(table[name].mean()) for name in names}
        | {
            "coverage": coverage,
            "rows": len(ratings),
            "rows_unknown": int((~known).sum()),
            "rows_seen": seen,
            "users": int(asked.sum()),
            "users_unknown": int((user < 0).sum()),
        }
    )


def by_user(name: str, ratings: Ratings, predicted: np.ndarray) -> pd.DataFrame:
    """Return the rows of each user and the errors of those that have a prediction, by user id."""
    error = predicted - ratings.rating.astype(np.float64)
    counted = np.isfinite(error)
    n = np.bincount(ratings.user[counted], minlength=ratings.n_users).astype(np.float64)
    n[n == 0] = math.nan
    squares, sizes = (
        np.bincount(ratings.user[counted], x[counted], ratings.n_users) for x in (error**2, np.abs(error))
    )
    return pd.DataFrame(
        {"n_test": ratings.user_counts(), "rmse": np.sqrt(squares / n), "mae": sizes / n},
        index=pd.Index(ratings.users.ids, name=name),
    )


def graded(found: np.ndarray, ratings: Ratings, users: np.ndarray, lowest: float) -> np.ndarray:
    """Return NDCG of lists with gains of the ratings above the lowest of training; NaN for users without a gain.

    ``found`` (n_lists, k) are the ratings at each place, NaN where there is none.
    """
    k = found.shape[1]
    gain = np.maximum(ratings.rating.astype(np.float64) - lowest, 0.0)
    order = np.lexsort((-gain, ratings.user))
    owner = ratings.user[order]
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    ideal = np.zeros((ratings.n_users, k))
    ideal[owner[place < k], place[place < k]] = gain[order][place < k]
    ideal, gains = ideal[users], np.maximum(np.nan_to_num(found.astype(np.float64), nan=lowest) - lowest, 0.0)
    out = np.full(len(users), math.nan)
    able = ideal[:, 0] > 0
    out[able] = metrics.graded_ndcg(gains[able], ideal[able])
    return out


def aucs(
    recommender: Recommender, ratings: Ratings, users: np.ndarray, rows: np.ndarray, limit: float, exclude_seen: bool
) -> np.ndarray:
    """Return the AUC of some users of `ratings`, whose rows are `rows`, among the items that a list may hold."""
    n_items = len(recommender.items_)
    item = recommender.items_.index(ratings.items.ids, missing=-1)[ratings.item]
    wanted = (ratings.rating >= limit) & (item >= 0)
    place = np.full(ratings.n_users, -1)
    place[users] = np.arange(len(users))
    owner, item = place[ratings.user[wanted]], item[wanted]
    out = np.empty(len(users))
    size = max(1, SCORES // n_items)
    for lo in range(0, len(users), size):
        part = rows[lo : lo + size]
        relevant, candidates = np.zeros((len(part), n_items), bool), np.ones((len(part), n_items), bool)
        here = (owner >= lo) & (owner < lo + len(part))
        relevant[owner[here] - lo, item[here]] = True
        if exclude_seen and recommender.seen_ is not None:
            seen = recommender.seen_.take(part)
            candidates[np.repeat(np.arange(len(part)), np.diff(seen.start)), seen.index] = False
        scores = recommender.scores.pairs(np.repeat(part, n_items), np.tile(np.arange(n_items), len(part)))
        out[lo : lo + size] = metrics.auc(scores.reshape(relevant.shape), relevant, candidates)
    return out


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
