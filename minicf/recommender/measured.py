"""What a fitted recommender is measured by: errors of its predictions, and the relevant items in its lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from minicf.arguments import check_bool, check_int, check_number
from minicf.data import Ratings
from minicf.recommender.quality import Measures, quality, warn_of_lists
from minicf.recommender.queries import Queries
from minicf.recommender.snapshots import reading

EVENT = float(np.finfo(np.float32).tiny)
"""The smallest number above 0: an event is relevant, a dislike, which is 0, is not."""


class Measured(Queries):
    """Measure the answers of `Queries` on held-out ratings."""

    mean_: float

    if TYPE_CHECKING:

        def get_params(self, deep: bool = True) -> dict[str, Any]: ...

    @reading
    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return R^2 of the predictions, 1 - sum (y - prediction)^2 / sum (y - mean y)^2, for scikit-learn's searches.

        Of events it is the NDCG of lists of 10, see `evaluate`.

        Parameters
        ----------
        X : DataFrame, Ratings, or array of shape (n, 2)
            As for `fit`.
        y : array of shape (n,), optional
            By default the ratings of X.
        sample_weight : array of shape (n,), optional
        """
        if self._implicit:
            return float(self._quality(X, None, 10, None, True, False)[1]["ndcg"])
        if y is None:
            y = self.inputs.frame(X, rated=True)[self.rating]
        return float(r2_score(np.asarray(y, np.float64), self.predict(X), sample_weight=sample_weight))

    def evaluate(
        self,
        test: Any,
        y: Any = None,
        k: int = 10,
        relevant: float | None = None,
        exclude_seen: bool = True,
        auc: bool = False,
    ) -> Measures:
        """Measure the errors on held-out ratings, and the relevant items in lists of k.

        Parameters
        ----------
        test, y
            As for `fit`.
        k : int
        relevant : float, optional
            An item is relevant to a user whose rating of it in `test` is at least this; by default, the mean rating of
            training. Of events (see `Ratings.from_events`) all are relevant, but dislikes.
        exclude_seen : bool
            Leave seen items out of the lists, as `recommend` does.
        auc : bool
            Also compute the AUC: every item is scored for each of these users by itself, which takes longer than all
            other measures together.

        Returns
        -------
        Measures
            A dict; printed, a table that has the lists of the most popular items beside the lists: the items that most
            users have in training, for the same users, without the same seen items. They are ``.most_popular``, a dict
            too, and `UserWarning` says if the lists have a lower NDCG than these, by more than twice the standard error
            of the users' differences.

            ``rmse``, ``mae``: NaN for events. Means over the users who have a relevant item in `test`, of lists among
            all items, without seen items if `exclude_seen`: ``precision``, ``recall`` (hits / relevant), ``recall_min``
            (hits / min(k, relevant)), ``ndcg``, ``map``, ``mrr`` and ``hit_rate`` at k, and ``novelty``, each defined
            with an example in `minicf.metrics`; ``ndcg_graded``, in which an item gains its rating above the lowest of
            training; ``auc``, among these items and not only k. ``coverage`` is the share of items in these lists.

            ``rows``, ``rows_unknown`` (with an unknown user or item), ``rows_seen`` (rated in training already: a
            warning gives their number, for they test nothing), ``users`` (in the means), ``users_unknown`` (of all in
            `test`), ``users_irrelevant`` (without a relevant item in `test`: in no mean). Without `seen_`,
            ``rows_seen``, ``novelty`` and all of the most popular items are NaN.

            Rows with unknown ids are predicted by the mean row and counted if `unknown` is "bias", and left out if it
            is "nan". An unknown item is in no list: where it is relevant, it counts as missed, but not in the AUC.
        """
        _, measures, gains = self._quality(test, y, k, relevant, exclude_seen, auc)
        warn_of_lists(measures, gains)
        return measures

    def evaluate_users(
        self,
        test: Any,
        y: Any = None,
        k: int = 10,
        relevant: float | None = None,
        exclude_seen: bool = True,
        auc: bool = False,
    ) -> pd.DataFrame:
        """Measure each user: the table whose means are the measures of lists in `evaluate`.

        Parameters
        ----------
        test, y, k, relevant, exclude_seen, auc
            As for `evaluate`.

        Returns
        -------
        DataFrame
            A row for each user in `test`, by user id. Columns: ``known``; ``n_test``, the user's rows in `test`;
            ``relevant``, its relevant items there; ``rmse`` and ``mae`` of its rows, NaN if none has a prediction;
            ``precision`` … ``novelty`` and ``auc`` as in `evaluate`, NaN for a user without a relevant item or
            without a list, and where they are not defined: ``ndcg_graded`` if no rating exceeds the lowest of training,
            ``auc`` if all items that a list may hold are relevant or none is.
        """
        return self._quality(test, y, k, relevant, exclude_seen, auc)[0]

    def _events(self, test: Any, ratings: Ratings) -> bool:
        """Return whether rows say that a user took an item, and not how much it was liked."""
        said = getattr(test, "implicit", False) or getattr(ratings, "implicit", False)
        return bool(said) or self._implicit

    def _read(self, X: Any, y: Any, titles: Any = None, training: bool = False) -> tuple[Ratings, int]:
        """Read a table, as `Inputs.training` does, or that of a test."""
        return self.inputs.training(X, y, titles) if training else (self.inputs.ratings(X, y, titles), 2)

    @reading
    def _quality(
        self, test: Any, y: Any, k: int, relevant: float | None, exclude_seen: bool, auc: bool
    ) -> tuple[pd.DataFrame, Measures, pd.Series]:
        check_is_fitted(self)
        k = check_int("k", k, 1)
        ratings = self._read(test, y)[0]
        events = self._events(test, ratings)
        usual = EVENT if events else self.mean_
        limit = usual if relevant is None else check_number("relevant", relevant)
        exclude_seen, auc = check_bool("exclude_seen", exclude_seen), check_bool("auc", auc)
        return quality(self, ratings, k, limit, exclude_seen, auc, events)
