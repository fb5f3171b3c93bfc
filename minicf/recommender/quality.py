"""Measure a fitted recommender on held-out ratings: errors of predictions, and relevant items in lists, by user.

Lists are made of all items, never of a sample of them: a measure of samples can put models in another order than the
whole does (Krichene and Rendle, On sampled metrics for item recommendation, KDD 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from minicf import metrics
from minicf.data import Bags, Ratings
from minicf.recommender.inputs import warn
from minicf.recommender.lists import listed, ratings_of

if TYPE_CHECKING:
    from minicf.recommender.measured import Measured

OF_LISTS = {
    "precision": metrics.precision,
    "recall": metrics.recall,
    "recall_min": metrics.recall_min,
    "ndcg": metrics.ndcg,
    "map": metrics.average_precision,
    "mrr": metrics.reciprocal_rank,
    "hit_rate": metrics.hit_rate,
}
"""By the name of the mean over users."""

OF_USERS = (*OF_LISTS, "ndcg_graded", "novelty")
"""All measures of a user's list, in the order of the tables."""

SCORES = 1 << 20
"""Scores that the AUC holds at once, or those of one user if these are more."""


def errors(rating: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return rmse and mae of the rows that have a prediction; NaN if none has one."""
    counted = np.isfinite(predicted)
    if not counted.any():
        return {"rmse": math.nan, "mae": math.nan}
    pair = rating[counted], predicted[counted]
    return {"rmse": metrics.rmse(*pair), "mae": metrics.mae(*pair)}


class Measures(dict[str, float]):
    """Hold the measures of `Recommender.evaluate` by name; printed, they are a table beside the most popular items.

    Parameters
    ----------
    found, popular : dict
        Of the recommender, and measures of lists of the most popular items, for the same users.
    k : int
        Length of the lists.

    Attributes
    ----------
    most_popular : dict
    k : int
    """

    def __init__(self, found: Mapping[str, float], popular: Mapping[str, float], k: int) -> None:
        super().__init__(found)
        self.most_popular, self.k = dict(popular), k

    def frame(self) -> pd.DataFrame:
        """Return a table: columns ``measure``, ``value`` and ``most_popular``, NaN where that has no such measure."""
        popular = [self.most_popular.get(name, math.nan) for name in self]
        return pd.DataFrame({"measure": list(self), "value": list(self.values()), "most_popular": popular})

    def __repr__(self) -> str:
        lines = [f"{'':<14}{'model':>10}{'most popular':>16}"]
        for name, value in self.items():
            if not name.startswith(("rows", "users")):
                beside = f"{self.most_popular[name]:16.4f}" if name in self.most_popular else ""
                place = "" if name in ("rmse", "mae", "auc") else f"@{self.k}"
                lines.append(f"{name + place:<14}{value:10.4f}{beside}")
        names = ("rows", "rows_unknown", "rows_seen", "users", "users_unknown", "users_irrelevant")
        counts = {name: f"{self.get(name, math.nan):,.0f}" for name in names}
        return "\n".join(
            [
                *lines,
                f"{counts['rows']} rows, {counts['rows_unknown']} of unknown users or items, {counts['rows_seen']} of "
                "items that their users have in training",
                f"{counts['users']} users with a list and a relevant item; {counts['users_irrelevant']} without a "
                f"relevant item; {counts['users_unknown']} unknown",
            ]
        )


def quality(
    recommender: Measured, ratings: Ratings, k: int, limit: float, exclude_seen: bool, auc: bool, events: bool
) -> tuple[pd.DataFrame, Measures, pd.Series]:
    """Return the table of `Recommender.evaluate_users`, the measures of `Recommender.evaluate`, and users' gains.

    These are their NDCG, less that of the most popular items. Ratings of at least `limit`
    are of relevant items. Of `events`, there are no errors.
    """
    predicted, known = recommender.predict(ratings, return_known=True)
    if events:
        predicted = np.full(len(ratings), math.nan)
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
    names = [*OF_USERS, *(["auc"] if auc else [])]
    table[names] = math.nan
    of_popular = pd.DataFrame(math.nan, table.index, list(OF_USERS))
    covered = [math.nan, math.nan]
    if asked.any():
        users = np.flatnonzero(asked)
        n_items, total = len(recommender.items_), table["relevant"].to_numpy()[users]
        counts = None if recommender.seen_ is None else np.bincount(recommender.seen_.index, minlength=n_items)
        lists = recommender.recommend(ratings.users.ids[users], k, exclude_seen)
        made = [(table, listed(lists, recommender.inputs, ratings.users.ids[users], k))]
        if counts is not None:
            skip = recommender.seen_.take(user[users]) if exclude_seen and recommender.seen_ is not None else None
            made.append((of_popular, popular(counts, len(users), k, skip)))
        for at, (measured, items) in enumerate(made):
            covered[at] = metrics.coverage(items[items >= 0], n_items)
            found = ratings_of(items, recommender.inputs, once, users)
            hits = found >= limit
            values = {name: measure(hits, total) for name, measure in OF_LISTS.items()}
            values["ndcg_graded"] = graded(found, once, users, 0.0 if events else recommender.rating_range_[0])
            if counts is not None:
                values["novelty"] = metrics.novelty(items, counts, len(recommender.users_))
            if auc and measured is table:
                values["auc"] = aucs(recommender, once, users, user[users], limit, exclude_seen)
            for name, column in values.items():
                measured.loc[measured.index[users], name] = column
    found_popular = {name: float(of_popular[name].mean()) for name in OF_USERS} | {"coverage": covered[1]}
    measures = Measures(
        errors(ratings.rating, predicted)
        | {name: float(table[name].mean()) for name in names}
        | {
            "coverage": covered[0],
            "rows": len(ratings),
            "rows_unknown": int((~known).sum()),
            "rows_seen": seen,
            "users": int(asked.sum()),
            "users_unknown": int((user < 0).sum()),
            "users_irrelevant": int((table["relevant"] == 0).sum()),
        },
        found_popular,
        k,
    )
    columns = ["known", "n_test", "relevant", "rmse", "mae", *names]
    return table[columns], measures, table["ndcg"] - of_popular["ndcg"]


def warn_of_lists(measures: Measures, gains: pd.Series) -> None:
    """Warn of lists that are worse than the most popular items, by more than chance.

    The mean of the users' gains in NDCG must be more than twice its standard error below 0.
    """
    gain = gains.dropna()
    if len(gain) > 1 and gain.mean() < -2.0 * gain.std() / math.sqrt(len(gain)):
        k = measures.k
        warn(
            f"the lists have an NDCG@{k} of {measures['ndcg']:.3f}, those of the most popular items of "
            f"{measures.most_popular['ndcg']:.3f} ({len(gain):,} users): do not recommend by this model; "
            "minicf.MostPopular and minicf.ItemKNN make lists without training"
        )


def popular(counts: np.ndarray, n_lists: int, k: int, skip: Bags | None = None) -> np.ndarray:
    """Return the k items of the most users, without those of `skip`, for each of some lists.

    Parameters
    ----------
    counts : array of int, shape (n_items,)
        The users who have each item.
    n_lists, k : int
    skip : Bags, optional
        Rows of items to leave out, for each list.

    Returns
    -------
    array of int, shape (n_lists, k)
        Equal counts by row; -1 where a list has ended.

    Notes
    -----
    Items stand in one order for all. If the skipped ones of a list stand in the places p_0 < p_1 < …, then p_i - i
    others stand before p_i, so that the other item number j, from 0, has the place j + #{i: p_i - i <= j}.
    """
    order = np.argsort(-counts, kind="stable")
    at = np.broadcast_to(np.arange(k), (n_lists, k))
    if skip is not None:
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        owner = skip.row
        p = np.sort(owner * len(order) + place[skip.index[skip.start[0] : skip.start[-1]]]) - owner * len(order)
        before = p - (np.arange(len(p)) - (skip.start[:-1] - skip.start[0])[owner])
        near = before < k
        passed = np.bincount(owner[near] * k + before[near], minlength=n_lists * k).reshape(n_lists, k)
        at = at + passed.cumsum(axis=1)
    return np.where(at < len(order), order[np.minimum(at, len(order) - 1)], -1)


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
    recommender: Measured, ratings: Ratings, users: np.ndarray, rows: np.ndarray, limit: float, exclude_seen: bool
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
        scores = recommender.list_scores.pairs(np.repeat(part, n_items), np.tile(np.arange(n_items), len(part)))
        out[lo : lo + size] = metrics.auc(scores.reshape(relevant.shape), relevant, candidates)
    return out


def rows_seen(recommender: Measured, ratings: Ratings, user: np.ndarray) -> float:
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
