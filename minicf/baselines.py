"""Recommenders without training: what a model has to beat. Most popular items, damped means, and similar items."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from minicf import scoring
from minicf.arguments import check_choice, check_int, check_number
from minicf.backends import get_backend
from minicf.data import Bags, Ratings
from minicf.recommender.choices import known_rows
from minicf.recommender.inputs import SIDES, UNKNOWN
from minicf.recommender.measured import EVENT, Measured
from minicf.recommender.scores import Scores
from minicf.recommender.snapshots import reading, writing

if TYPE_CHECKING:
    # scikit-learn has no types. On bases of unknown type, every name would be an attribute, misspelt ones too.
    class BaseEstimator:
        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Self: ...

    class RegressorMixin: ...
else:
    from sklearn.base import BaseEstimator, RegressorMixin

FEEDBACK = ("explicit", "implicit")
BLOCK_BYTES = 8 << 20
"""Similarities that are held at once in training, as float64, or those of one item if these are more."""


class _ByRows(Scores):
    """Score all items for some users at a time, by a function of rows of users (-1: the mean user)."""

    def __init__(self, rows: Callable[[np.ndarray], np.ndarray], n_items: int, n_threads: int | None = None) -> None:
        self._rows, self._n_items, self.n_threads = rows, n_items, n_threads

    def pairs(self, user: np.ndarray, item: np.ndarray) -> NDArray[np.float32]:
        out = np.empty(len(user), np.float32)
        users, place = np.unique(user, return_inverse=True)
        order = np.argsort(place, kind="stable")
        first = np.searchsorted(place[order], np.arange(len(users) + 1))
        size = max(1, scoring.BLOCK_BYTES // (4 * self._n_items))
        for lo in range(0, len(users), size):
            at = order[first[lo] : first[min(lo + size, len(users))]]
            out[at] = self._rows(users[lo : lo + size])[place[at] - lo, item[at]]
        return out

    def best(
        self, user: np.ndarray, n: int, skip: Bags | None = None, items: np.ndarray | None = None
    ) -> tuple[NDArray[np.int_], NDArray[np.float32]]:
        def score(rows: np.ndarray, out: np.ndarray) -> None:
            out[...] = self._rows(rows) if items is None else self._rows(rows)[:, items]

        n_items = self._n_items if items is None else len(items)
        place, best = scoring.top_n(score, user, n_items, n, skip, self.n_threads, _select())
        return (place if items is None or not n_items else np.where(place < 0, -1, items[place])).astype(np.int64), best


def _select() -> Callable[..., None]:
    """Return what chooses the best of a row on a processor."""
    here = get_backend("auto")
    return here.select if here.module() is np else scoring.select


class _ByPairs(Scores):
    """Score pairs of rows, by a function of them."""

    def __init__(self, pairs: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self._pairs = pairs

    def pairs(self, user: np.ndarray, item: np.ndarray) -> NDArray[np.float32]:
        return self._pairs(user, item).astype(np.float32)


class _Baseline(Measured, RegressorMixin, BaseEstimator):
    """Read a table, and answer by `_stars` and `_list_rows`; parameters and attributes are those of `Recommender`."""

    posterior_ = None

    @writing
    def fit(self, X: Any, y: Any = None, titles: Any = None) -> Self:
        """Count, on a table of ratings or events.

        Parameters
        ----------
        X, y, titles
            As for `Recommender.fit`; with ``feedback="implicit"`` a frame needs no column of ratings.

        Returns
        -------
        self
        """
        if (threads := self.n_threads) is not None:
            check_int("n_threads", threads, 1)
        ratings, self.n_features_in_ = self._read(X, y, titles, training=True)
        self.users_, self.items_, self.titles_ = ratings.users, ratings.items, ratings.titles
        self.n_ratings_, self.mean_ = len(ratings), ratings.mean
        self.rating_range_ = float(ratings.rating.min()), float(ratings.rating.max())
        if self._events(X, ratings):
            self.rating_range_ = -np.inf, np.inf  # predictions are scores
        self.seen_, self.weights_ = Bags.of(ratings.user, ratings.item, ratings.n_users), {}
        self._learn(ratings, self._events(X, ratings))
        return self

    def _learn(self, ratings: Ratings, events: bool) -> None:
        raise NotImplementedError

    def _stars(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Predict pairs of rows, of which -1 is the mean row."""
        raise NotImplementedError

    def _list_rows(self, user: np.ndarray) -> np.ndarray:
        """Return the scores of all items for some users, (users, items); they sort lists."""
        raise NotImplementedError

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_")

    def _read(self, X: Any, y: Any, titles: Any = None, training: bool = False) -> tuple[Ratings, int]:
        check_choice("unknown", self.unknown, UNKNOWN)
        check_choice("feedback", getattr(self, "feedback", FEEDBACK[0]), FEEDBACK)
        return super()._read(X, y, titles, training)

    @property
    def scores(self) -> Scores:
        """Predictions of rows."""
        return _ByPairs(self._stars)

    @property
    def list_scores(self) -> Scores:
        """Scores that lists are sorted by."""
        return _ByRows(self._list_rows, len(self.items_), self.n_threads)

    def _scores_by(self, by: str | None) -> Scores:
        if by is not None:
            raise ValueError(f"by is {by!r}; {type(self).__name__} sorts lists in one way: leave by out")
        return self.list_scores

    def predict(self, X: Any, return_known: bool = False, return_std: bool = False) -> Any:
        """Predict ratings, within the range of the ratings in training.

        Parameters
        ----------
        X, return_known
            As for `Recommender.predict`.
        return_std : bool
            Refused: there are no samples.
        """
        if return_std:
            raise ValueError(f"return_std is {return_std!r}; {type(self).__name__} has no samples: Recommender has")
        return super().predict(X, return_known)  # type: ignore[call-overload]

    def _similar(
        self, side: str, ids: Any, n: int, metric: str, index: str | None, candidates: Any, filter: Any
    ) -> pd.DataFrame:
        raise ValueError(f"{type(self).__name__} has no similar {side}s; ItemKNN has similar items")

    def nearest(self, factors: Any, n: int = 10, side: str = "item", metric: str = "cosine") -> pd.DataFrame:
        """Refuse: there are no factors."""
        raise ValueError(f"{type(self).__name__} has no factors")


class MostPopular(_Baseline):
    """Recommend the items that most users have, the same to all but for their seen items.

    Lists are sorted by the number of users with the item in training (of events, without dislikes), which is ``score``;
    equal numbers by item id. `predict` gives the mean rating of training, for events the share of users with the item.

    Parameters
    ----------
    feedback : "explicit" or "implicit"
        Ratings, or events, which need no column of ratings.
    unknown, user, item, rating, duplicates, n_threads
        As for `Recommender`.

    Examples
    --------
    >>> import pandas as pd
    >>> from minicf import MostPopular
    >>> frame = pd.DataFrame({"userId": [1, 2, 3, 3], "movieId": [7, 7, 7, 8], "rating": [1.0, 2.0, 3.0, 4.0]})
    >>> MostPopular().fit(frame).recommend(1, exclude_seen=False)[["movieId", "score"]].values.tolist()
    [[7.0, 3.0], [8.0, 1.0]]
    """

    def __init__(
        self,
        *,
        feedback: str = "explicit",
        unknown: str = "bias",
        user: str = "userId",
        item: str = "movieId",
        rating: str = "rating",
        duplicates: str = "warn",
        n_threads: int | None = None,
    ) -> None:
        self.feedback = feedback
        self.unknown = unknown
        self.user = user
        self.item = item
        self.rating = rating
        self.duplicates = duplicates
        self.n_threads = n_threads

    def _learn(self, ratings: Ratings, events: bool) -> None:
        liked = ratings.rating >= EVENT if events else np.ones(len(ratings), bool)
        self.counts_ = np.bincount(ratings.item[liked], minlength=ratings.n_items)
        self._share = self.counts_ / ratings.n_users if events else np.full(ratings.n_items, self.mean_)
        self._unknown = 0.0 if events else self.mean_

    def _stars(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        return np.append(self._share, self._unknown)[item]

    def _list_rows(self, user: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.counts_.astype(np.float32), (len(user), len(self.counts_)))


class Biases(_Baseline):
    """Predict ratings by damped means of items and users.

    Parameters
    ----------
    item_damping, user_damping : float
        Ratings of the mean that each item's, and each user's, own ratings are averaged with; at least 0.
    unknown, user, item, rating, duplicates, n_threads
        As for `Recommender`.

    Notes
    -----
    With mu the mean rating, n the numbers of ratings, and damping beta [1]_:

    (D1) c_i = sum_u (r_ui - mu) / (n_i + beta_i)
    (D2) b_u = sum_i (r_ui - mu - c_i) / (n_u + beta_u)
    (D3) prediction = mu + b_u + c_i, with 0 for the bias of an unknown id.

    Lists are sorted by (D3): the same for all users but for their seen items.

    References
    ----------
    .. [1] Koren, Factor in the neighbors: scalable and accurate collaborative filtering, ACM TKDD 4(1), 2010.

    Examples
    --------
    mu = 3; item 7 has 4 and 2, so that c = (1 - 1) / (2 + 2) = 0; user 1 has one rating, b = 1 / (1 + 1).

    >>> import pandas as pd
    >>> from minicf import Biases
    >>> frame = pd.DataFrame({"userId": [1, 2, 2], "movieId": [7, 7, 8], "rating": [4.0, 2.0, 3.0]})
    >>> Biases(item_damping=2, user_damping=1).fit(frame).predict([[1, 7]]).tolist()  # 3 + 1 / 2 + 0
    [3.5]
    """

    def __init__(
        self,
        *,
        item_damping: float = 5.0,
        user_damping: float = 5.0,
        unknown: str = "bias",
        user: str = "userId",
        item: str = "movieId",
        rating: str = "rating",
        duplicates: str = "warn",
        n_threads: int | None = None,
    ) -> None:
        self.item_damping = item_damping
        self.user_damping = user_damping
        self.unknown = unknown
        self.user = user
        self.item = item
        self.rating = rating
        self.duplicates = duplicates
        self.n_threads = n_threads

    def _learn(self, ratings: Ratings, events: bool) -> None:
        if events:
            raise ValueError("X has events, which have no ratings to take means of; MostPopular and ItemKNN take them")
        user, item = (check_number(f"{side}_damping", getattr(self, f"{side}_damping"), 0.0) for side in SIDES)
        biases = damped(ratings, user, item)
        self.weights_ = {f"{side}_bias": bias.astype(np.float32) for side, bias in zip(SIDES, biases, strict=True)}

    def _stars(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        b, c = (np.append(self.weights_[f"{side}_bias"], np.float32(0)) for side in SIDES)
        return self.mean_ + b[user].astype(np.float64) + c[item]

    def _list_rows(self, user: np.ndarray) -> np.ndarray:
        n = len(self.items_)
        return self._stars(np.repeat(user, n), np.tile(np.arange(n), len(user))).reshape(len(user), n)


class ItemKNN(_Baseline):
    """Recommend the items most similar to a user's own: shrunk cosine, no training.

    Parameters
    ----------
    n_neighbors : int
        Of each item, as many other items are kept, the most similar ones.
    shrinkage : float
        At least 0: similarities of items with few common users count less.
    feedback : "explicit" or "implicit"
        Ratings, or events, which need no column of ratings.
    unknown, user, item, rating, duplicates, n_threads
        As for `Recommender`.

    Notes
    -----
    x_ui is 1 where user u has item i in training, and 0 elsewhere; of events with weights it is the weight, of a
    dislike its negative. Similarities are [1]_

    (K1) s_ij = sum_u x_ui x_uj / (|x_i| |x_j| + shrinkage),  s_ii = 0,

    of which each item j keeps the `n_neighbors` largest, s_j1 … (equal ones by item id). Lists are sorted by

    (K2) score_ui = sum_j x_uj s_ji,

    the sum over the user's items that have i among their neighbors; `predict` of events gives this too. Ratings are
    predicted from the same neighbors, around b_ui, (D3) of `Biases` with its defaults [2]_:

    (K3) prediction = b_ui + sum_j s_ji (r_uj - b_uj) / sum_j |s_ji|,  b_ui where no item of the user has i.

    An unknown user has the mean of all x in (K2), and b_ui in (K3).

    References
    ----------
    .. [1] Deshpande and Karypis, Item-based top-N recommendation algorithms, ACM TOIS 22(1), 2004.
    .. [2] Koren, Factor in the neighbors: scalable and accurate collaborative filtering, ACM TKDD 4(1), 2010.

    Examples
    --------
    Items 7 and 8 have two users each and share one: s = 1 / (sqrt(2) sqrt(2)).

    >>> import pandas as pd
    >>> from minicf import ItemKNN
    >>> frame = pd.DataFrame({"userId": [1, 2, 3], "movieId": [7, 7, 8]})
    >>> frame.loc[3] = [2, 8]
    >>> ItemKNN(shrinkage=0, feedback="implicit").fit(frame).similar_items(7).score.round(4).tolist()
    [0.5]
    """

    def __init__(
        self,
        *,
        n_neighbors: int = 20,
        shrinkage: float = 10.0,
        feedback: str = "explicit",
        unknown: str = "bias",
        user: str = "userId",
        item: str = "movieId",
        rating: str = "rating",
        duplicates: str = "warn",
        n_threads: int | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.shrinkage = shrinkage
        self.feedback = feedback
        self.unknown = unknown
        self.user = user
        self.item = item
        self.rating = rating
        self.duplicates = duplicates
        self.n_threads = n_threads

    def _learn(self, ratings: Ratings, events: bool) -> None:
        from scipy.sparse import csr_matrix

        check_int("n_neighbors", self.n_neighbors, 1)
        check_number("shrinkage", self.shrinkage, 0.0)
        x = np.ones(len(ratings))
        if events:
            x = np.where(ratings.rating >= EVENT, 1.0, -1.0)
            x *= 1.0 if ratings.weight is None else ratings.weight
        shape, at = (ratings.n_users, ratings.n_items), (ratings.user, ratings.item)
        self._x = csr_matrix((x, at), shape)
        self._raters = self._x.T.tocsr()
        self._length = np.sqrt(np.bincount(ratings.item, x * x, ratings.n_items))
        self._of_events = events
        parts, size = [], max(1, BLOCK_BYTES // (8 * ratings.n_items))
        for lo in range(0, ratings.n_items, size):
            similar = self._similarities(np.arange(lo, min(lo + size, ratings.n_items)))
            parts.append(_largest(similar, self.n_neighbors))
        counts, index, value = (np.concatenate(part) for part in zip(*parts, strict=True))
        start = np.concatenate([[0], np.cumsum(counts)])
        self._kept = csr_matrix((value, index, start), (ratings.n_items, ratings.n_items))
        if not events:
            damping = Biases()
            self._biases = damped(ratings, damping.user_damping, damping.item_damping)
            b, c = self._biases
            self._residuals = csr_matrix((ratings.rating - self.mean_ - b[ratings.user] - c[ratings.item], at), shape)

    def _similarities(self, items: np.ndarray) -> np.ndarray:
        """Return (K1) of some items with all, (items, n_items)."""
        common = (self._raters[items] @ self._x).toarray()
        length = self._length[items, None] * self._length + self.shrinkage
        similar = np.divide(common, length, out=np.zeros_like(common), where=length > 0)
        similar[np.arange(len(items)), items] = 0.0
        return similar

    def _sums(self, matrix: Any, user: np.ndarray) -> np.ndarray:
        """Return ``matrix[user] @ kept``, of which row -1 is the mean of all rows."""
        known = user >= 0
        out = np.empty((len(user), self._kept.shape[1]))
        out[known] = (matrix[user[known]] @ self._kept).toarray()
        if not known.all():
            out[~known] = np.asarray(matrix.mean(axis=0)).ravel() @ self._kept
        return out

    def _list_rows(self, user: np.ndarray) -> np.ndarray:
        return self._sums(self._x, user)

    def _stars(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        if self._of_events:
            out = _ByRows(self._list_rows, len(self.items_), self.n_threads).pairs(user, np.maximum(item, 0))
            return np.where(item < 0, np.float32(0), out)
        b, c = (np.append(bias, 0.0) for bias in self._biases)
        known = np.flatnonzero((user >= 0) & (item >= 0))
        total, weight = (
            _ByRows(functools.partial(self._sums, matrix), len(self.items_)).pairs(user[known], item[known])
            for matrix in (self._residuals, self._x)
        )
        out = self.mean_ + b[user] + c[item]
        out[known] += np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        return out

    @reading
    def _similar(
        self, side: str, ids: Any, n: int, metric: str, index: str | None, candidates: Any, filter: Any
    ) -> pd.DataFrame:
        if side != "item":
            raise ValueError("ItemKNN has no similar users; Recommender has")
        if metric != "cosine" or index is not None:
            raise ValueError(f"metric is {metric!r} and index {index!r}; ItemKNN has 'cosine' and None")
        n = check_int("n", n, 1)
        owners, rows = self.inputs.asked("item", ids)
        among = np.arange(len(self.items_)) if candidates is None else known_rows(self.inputs, "item", candidates)
        if filter is not None:
            among = self._lists.filtered("item", among, filter)
        scores = _ByRows(self._others, len(self.items_), self.n_threads)
        found, score = scores.best(rows, n, items=among)
        place = np.nonzero(found >= 0)
        return self._lists.ranked(("item", owners, rows >= 0), "item", found[place], score[place], place)

    def _others(self, items: np.ndarray) -> np.ndarray:
        """Return (K1) of some items with all others; -inf with themselves, and of -1, an unknown item, with all."""
        out = np.full((len(items), len(self.items_)), -np.inf)
        known = np.flatnonzero(items >= 0)
        out[known] = self._similarities(items[known])
        out[known, items[known]] = -np.inf
        return out


def damped(ratings: Ratings, user_damping: float, item_damping: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the biases (D1) and (D2) of `Biases`: of users, and of items."""
    r = ratings.rating.astype(np.float64) - ratings.mean
    c = np.bincount(ratings.item, r, ratings.n_items) / (ratings.item_counts() + item_damping)
    b = np.bincount(ratings.user, r - c[ratings.item], ratings.n_users) / (ratings.user_counts() + user_damping)
    return b, c


def _largest(rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the n largest entries above 0 of each row: their number by row, their columns and their values.

    They are compared in float32; equal ones by column.
    """
    n = min(n, rows.shape[1])
    index, best = np.empty((len(rows), n), np.int32), np.empty((len(rows), n), np.float32)
    _select()(rows.astype(np.float32), Bags.empty(len(rows)), n, index, best)
    row, place = np.nonzero(best > 0)
    column = index[row, place]
    return (best > 0).sum(axis=1), column, rows[row, column]
