"""What a fitted recommender is asked: factors, predictions, lists, similar items and users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from minicf.arguments import check_bool, check_choice, check_int, check_unmasked
from minicf.data import Bags, Vocabulary
from minicf.models import Model
from minicf.recommender.choices import Choice, ItemsOfUsers, known_rows, read
from minicf.recommender.inputs import SIDES, Inputs, as_ids
from minicf.recommender.lists import Lists
from minicf.recommender.neighbors import Neighbors
from minicf.recommender.preference import Preference
from minicf.recommender.scores import Scores
from minicf.recommender.snapshots import Snapshots, reading
from minicf.solvers import Gibbs, Posterior, Solver

ORDERS = ("preference", "rating")
"""Of lists."""


class Queries(Snapshots):
    """Answer by what training has left: parameters and attributes are those of `Recommender`."""

    backend: str
    n_threads: int | None
    unknown: str
    user: str
    item: str
    rating: str
    duplicates: str

    users_: Vocabulary
    items_: Vocabulary
    model_: Model
    weights_: dict[str, np.ndarray]
    titles_: np.ndarray | None
    seen_: Bags | None
    rating_range_: tuple[float, float]
    n_features_in_: int

    solver_: Solver
    posterior_: Posterior | None
    history_: pd.DataFrame

    preference_: Preference | None = None

    _cache: dict[str, Any]

    @property
    def inputs(self) -> Inputs:
        """Readers of tables and ids, with the columns, policies and vocabularies of this recommender."""
        return Inputs(
            self.user, self.item, self.rating, self.duplicates, self.unknown,
            getattr(self, "users_", None), getattr(self, "items_", None), getattr(self, "n_features_in_", None),
            type(self).__name__, self._implicit,
        )  # fmt: skip

    @property
    def _implicit(self) -> bool:
        """Whether tables are of events."""
        return getattr(self, "feedback_", getattr(self, "feedback", None)) == "implicit"

    @property
    def scores(self) -> Scores:
        """Scores of rows, on the backend."""
        check_is_fitted(self)
        found: Scores | None = self._cache.get("scores")
        if found is None or (found.backend, found.n_threads) != (self.backend, self.n_threads):
            found = self._cache["scores"] = Scores(self.model_, self.weights_, self.backend, self.n_threads)
        return found

    @property
    def list_scores(self) -> Scores:
        """Scores that lists are sorted by."""
        return self._scores_by(None)

    def _scores_by(self, by: str | None) -> Scores:
        """Return the scores of lists by "preference" or "rating"; of None by the first that is there."""
        preference = self.preference_
        if by is not None and check_choice("by", by, ORDERS) == "preference" and preference is None:
            raise ValueError(
                "by is 'preference', and this recommender has no model of preferences: fit it with lists='preference'"
            )
        if by == "rating" and self._implicit:
            raise ValueError("by is 'rating'; events have no ratings: leave it out")
        if by == "rating" or preference is None or preference.weights is self.weights_:
            return self.scores
        found: Scores | None = self._cache.get("list_scores")
        if found is None or (found.backend, found.n_threads) != (self.backend, self.n_threads):
            found = Scores(preference.model, preference.weights, self.backend, self.n_threads)
            self._cache["list_scores"] = found
        return found

    def vocabulary(self, side: str) -> Vocabulary:
        """Return the known ids of a side, "user" or "item"."""
        return self.inputs.vocabulary(side)

    @reading
    def factors(self, side: str = "item") -> pd.DataFrame:
        """Return ids, titles, biases and factors as a table (``.to_parquet(path)`` writes it to a file)."""
        check_is_fitted(self)
        return self._lists.factors(self.weights_, side, np.arange(len(self.vocabulary(side))))

    @property
    def _lists(self) -> Lists:
        return Lists(self.inputs, self.titles_)

    @property
    def _neighbors(self) -> Neighbors:
        if "neighbors" not in self._cache:
            self._cache["neighbors"] = Neighbors(self.model_, self.weights_)
        found: Neighbors = self._cache["neighbors"]
        return found

    # --- predictions and lists ---------------------------------------------------------------------------------

    @overload
    def predict(
        self, X: Any, return_known: Literal[False] = False, return_std: Literal[False] = False
    ) -> NDArray[np.float32]: ...
    @overload
    def predict(
        self, X: Any, return_known: Literal[True], return_std: Literal[False] = False
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]: ...
    @overload
    def predict(
        self, X: Any, return_known: Literal[False] = False, *, return_std: Literal[True]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    @overload
    def predict(
        self, X: Any, return_known: Literal[True], return_std: Literal[True]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]: ...
    @reading
    def predict(self, X: Any, return_known: bool = False, return_std: bool = False) -> Any:
        """Predict ratings, within the range of the ratings in training; of events, scores as `recommend` has them.

        Parameters
        ----------
        X : DataFrame, Ratings, or array of shape (n, 2)
            As for `fit`.
        return_known : bool
            Also return whether both ids of a row are known.
        return_std : bool
            Also return the standard deviation of a new rating around its prediction, after Gibbs sampling: by (P9) of
            `minicf.solvers.posterior`, and for an unknown id, which may be like any, also by (P12).

        Returns
        -------
        array of float32, shape (n,)
            Or a tuple: of it, with `return_std` of the deviations (float32, above 0, NaN where there is no prediction),
            and with `return_known` of an array of bool.

        Raises
        ------
        ValueError
            `return_std` without samples: after gradient descent, or of a file that was saved without them.
        """
        check_is_fitted(self)
        inputs = self.inputs
        if check_bool("return_std", return_std) and self.posterior_ is None:
            if isinstance(self.solver_, Gibbs):
                remedy = "it was saved with samples=False; save it with samples=True"
            else:
                remedy = f"{type(self.solver_).__name__} trained it; fit it with solver='gibbs'"
            raise ValueError(f"return_std is True, and this recommender has no samples: {remedy}")
        frame = inputs.frame(X)
        user, item = (inputs.lookup(side, frame[inputs.column(side)]) for side in SIDES)
        known = (user >= 0) & (item >= 0)
        scores = self._within(self.scores.pairs(user, item))
        results = [scores]
        if return_std and self.posterior_ is not None:
            results.append(self.posterior_.predict(user, item)[1].astype(np.float32))
        if self.unknown == "nan":
            for values in results:
                values[~known] = np.nan
        found = (*results, known) if return_known else tuple(results)
        return found if len(found) > 1 else scores

    @reading
    def predict_user(self, user: Any) -> NDArray[np.float32]:
        """Predict the ratings of all items by one user, within the range of the ratings in training.

        Parameters
        ----------
        user : id

        Returns
        -------
        array of float32, shape (n_items,)
            In the order of ``items_.ids``; those that `predict` gives for these pairs, bit for bit. For an unknown
            user those of the mean user, or NaN if ``unknown="nan"``.

        Raises
        ------
        UnknownIdError
            An unknown user, if ``unknown="raise"``.
        """
        check_is_fitted(self)
        if not pd.api.types.is_scalar(user):
            raise TypeError(f"user is {str(user)[:60]!r}; it must be one id; predict takes many users")
        row = self.inputs.lookup("user", as_ids(user))
        if row[0] < 0 and self.unknown == "nan":
            return np.full(len(self.items_), np.nan, np.float32)
        items = np.arange(len(self.items_))
        return self._within(self.scores.pairs(np.repeat(row, len(items)), items))

    def _within(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return scores if self._implicit else scores.clip(*self.rating_range_)

    @reading
    def recommend(
        self,
        users: Any,
        n: int = 10,
        exclude_seen: bool = True,
        candidates: Any = None,
        filter: Callable[[pd.DataFrame], Any] | None = None,
        exclude: Any = None,
        by: str | None = None,
    ) -> pd.DataFrame:
        """Recommend the best items to each user.

        Parameters
        ----------
        users : id or 1-d array-like of ids
        n : int
        exclude_seen : bool
            Leave out the seen items of the user.
        candidates : optional
            Choose among these items, for all users: a 1-d array-like of item ids; or for each user: a mapping from user
            id to a 1-d array-like of item ids, or a frame (or `Ratings`) of pairs with the columns `user` and `item`. A
            user without candidates there has no list. Unknown ids are left out, or raise if ``unknown="raise"``.
        filter : function, optional
            Takes a frame with the columns `item` and ``title`` of all items that are candidates and returns one boolean
            per row: whether the item may be recommended.
        exclude : optional
            Leave out these items, given as `candidates` are.
        by : "preference" or "rating", optional
            What lists are sorted by: by default the preference, what the user would take next and like, where the
            recommender has a model of it (see `lists` of the constructor), else the predicted rating.

        Returns
        -------
        DataFrame
            Columns: the user id, ``rank`` from 1, the item id, ``title`` if titles are known, ``score`` and ``known``
            (False for an unknown user, who gets the list of the mean user). n rows per user, or fewer if fewer items
            are left.

            ``score`` is what the list is sorted by. Of a preference, a number that is near 1 for items that the user
            has, and 0 for those that are far from these: no rating and no probability, to be compared for one user
            (`explain` divides it among the user's items). By rating, the predicted rating, not cut to the range of the
            ratings.

        Notes
        -----
        Exact: every item that is left is scored, in blocks of users of `scoring.BLOCK_BYTES` per thread; with
        candidates for each user, those alone. Equal scores are sorted by item id.
        """
        check_is_fitted(self)
        n = check_int("n", n, 1)
        ids, rows = self.inputs.asked("user", users)
        return self._recommended(ids, rows, n, self._choice(exclude_seen, candidates, filter, exclude), by)

    @reading
    def recommend_all(
        self,
        n: int = 10,
        block: int = 10_000,
        exclude_seen: bool = True,
        candidates: Any = None,
        filter: Callable[[pd.DataFrame], Any] | None = None,
        exclude: Any = None,
        by: str | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Recommend to all users, as a stream of the frames of `recommend` for `block` users each."""
        check_is_fitted(self)
        n, block = check_int("n", n, 1), check_int("block", block, 1)
        choice = self._choice(exclude_seen, candidates, filter, exclude)
        for lo in range(0, len(self.users_), block):
            ids = pd.Series(self.users_.ids[lo : lo + block])
            yield self._recommended(ids, np.arange(lo, lo + len(ids)), n, choice, by)

    def _choice(self, exclude_seen: bool, candidates: Any, filter: Any, exclude: Any) -> Choice:
        inputs, n_items = self.inputs, len(self.items_)
        seen = None
        if check_bool("exclude_seen", exclude_seen):
            if self.seen_ is None:
                raise ValueError("this recommender was saved without seen items; use exclude_seen=False")
            seen = self.seen_
        among, gone = (read(inputs, name, x) for name, x in (("candidates", candidates), ("exclude", exclude)))
        own, items = (among, None) if isinstance(among, ItemsOfUsers) else (None, among)
        if filter is not None:
            rows = np.arange(n_items) if items is None else items
            items = self._lists.filtered("item", rows if own is None else np.unique(own.lists.index), filter)
        if isinstance(gone, np.ndarray):
            items = np.setdiff1d(np.arange(n_items) if items is None else items, gone)
        return Choice(items, own, gone if isinstance(gone, ItemsOfUsers) else None, seen)

    def _recommended(
        self, ids: pd.Series, rows: np.ndarray, n: int, choice: Choice, by: str | None = None
    ) -> pd.DataFrame:
        item, score = choice.best(
            self.list_scores if by is None else self._scores_by(by), ids, rows, n, len(self.items_)
        )
        place = np.nonzero(item >= 0)
        return self._lists.ranked(("user", ids, rows >= 0), "item", item[place], score[place], place)

    @reading
    def explain(self, user: Any, item: Any) -> pd.DataFrame:
        """Divide the score of an item in a user's list among the items that the user has: "because you took …".

        Parameters
        ----------
        user, item : id
            Known ones. The item may be one that the user has.

        Returns
        -------
        DataFrame
            The user's items, the largest part first. Columns: the item id, ``title`` if titles are known, the rating
            that the user gave (of events ``weight``, below 0 for a dislike), and ``score``, the part of it. The parts
            sum to the ``score`` of `recommend`, up to rounding, as a score is linear in what the user has: (A8) of
            `minicf.solvers.als`. Items that `fold_in` or `recalculate` changed later change the parts a little, and
            the user's row not.

        Raises
        ------
        UnknownIdError
        ValueError
            There is no model of preferences, or it was saved without seen items.
        """
        check_is_fitted(self)
        rows = [int(self.vocabulary(side).index(as_ids(id))[0]) for side, id in (("user", user), ("item", item))]
        if self.preference_ is None:
            raise ValueError("this recommender has no model of preferences to explain; fit it with lists='preference'")
        if self.preference_.pairs is None:
            raise ValueError(
                "this recommender was saved without seen items, which explain needs; save it with seen=True"
            )
        items, value, part = self.preference_.parts(*rows)
        table = pd.DataFrame(
            {**self._lists.named("item", items), "weight" if self._implicit else self.rating: value, "score": part}
        )
        return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)

    # --- similar -----------------------------------------------------------------------------------------------

    def similar_items(
        self,
        items: Any,
        n: int = 10,
        metric: str = "cosine",
        index: str | None = None,
        candidates: Any = None,
        filter: Callable[[pd.DataFrame], Any] | None = None,
    ) -> pd.DataFrame:
        """Find the items whose factors are nearest to those of each of some items.

        Parameters
        ----------
        items : id or 1-d array-like of ids
        n : int
        metric : "cosine" or "dot"
            Of the factors, without biases.
        index : None, "sklearn" or "pynndescent"
            None compares with every item. For large catalogs: scikit-learn's ball tree, also exact, or pynndescent's
            graph, approximate (``pip install pynndescent``); both for cosine, built at the first call.
        candidates : 1-d array-like of item ids, optional
            Choose among these; unknown ids are left out, or raise if ``unknown="raise"``.
        filter : function, optional
            As for `recommend`: which of the candidates may be in a list.

        Returns
        -------
        DataFrame
            Columns: the item id, ``rank``, ``similar_`` item id, ``title``, ``score``, ``known``. Equal scores are
            sorted by item id.

        Notes
        -----
        An index holds all items: it is asked for the nearest of all, and for twice as many, until n of them are
        candidates that pass the filter. Few candidates are all compared instead.
        """
        return self._similar("item", items, n, metric, index, candidates, filter)

    def similar_users(
        self,
        users: Any,
        n: int = 10,
        metric: str = "cosine",
        index: str | None = None,
        candidates: Any = None,
        filter: Callable[[pd.DataFrame], Any] | None = None,
    ) -> pd.DataFrame:
        """Find similar users, as `similar_items` finds items; `candidates` are user ids, a filter gets their frame."""
        return self._similar("user", users, n, metric, index, candidates, filter)

    @reading
    def _similar(
        self, side: str, ids: Any, n: int, metric: str, index: str | None, candidates: Any, filter: Any
    ) -> pd.DataFrame:
        check_is_fitted(self)
        n = check_int("n", n, 1)
        owners, rows = self.inputs.asked(side, ids)
        among = None if candidates is None else known_rows(self.inputs, side, candidates)
        if filter is not None:
            among = self._lists.filtered(
                side, np.arange(len(self.vocabulary(side))) if among is None else among, filter
            )
        found, score = self._neighbors.of_rows(self.scores, side, rows, n, metric, index, among)
        place = np.nonzero(found >= 0)
        return self._lists.ranked((side, owners, rows >= 0), side, found[place], score[place], place)

    @reading
    def nearest(self, factors: Any, n: int = 10, side: str = "item", metric: str = "cosine") -> pd.DataFrame:
        """Find the items, or users, nearest to a vector of K factors.

        Returns
        -------
        DataFrame
            Columns: ``rank``, the id, ``title``, ``score``.
        """
        check_is_fitted(self)
        self.vocabulary(side)  # refuses another side
        check_unmasked("factors", factors)
        given = np.asarray(factors)
        k = self._neighbors.factors(side).shape[1]
        with np.errstate(over="ignore"):  # an overflow is refused below
            vector = given.astype(np.float32) if given.dtype.kind in "iuf" else np.full(given.shape, np.nan)
        if vector.shape != (k,) or not np.isfinite(vector).all():
            raise ValueError(f"factors is {factors!r}; it must be {k} finite numbers")
        n = check_int("n", n, 1)
        found, score = self._neighbors.of_vector(self.scores, side, vector, n, metric)
        return pd.DataFrame({"rank": 1 + np.arange(found.size), **self._lists.named(side, found), "score": score})
