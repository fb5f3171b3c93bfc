"""`Recommender`: a scikit-learn estimator whose methods take and return the ids of its users."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from minicf.arguments import check_bool, check_int, check_number, check_unmasked
from minicf.backends import get_backend
from minicf.data import Bags, Ratings, Vocabulary
from minicf.models import Dot, DotBias, Model
from minicf.optim import SGD, Optimizer
from minicf.recommender import files
from minicf.recommender.fold_in import FoldIn, usable_ratings
from minicf.recommender.growth import Growth
from minicf.recommender.inputs import SIDES, Inputs, of_side, opposite, warn
from minicf.recommender.lists import Lists, seen_of
from minicf.recommender.neighbors import Neighbors
from minicf.recommender.quality import quality
from minicf.recommender.scores import Scores
from minicf.recommender.settings import Settings, seed_of
from minicf.recommender.training import moments, train
from minicf.recommender.units import Units, centered
from minicf.schedules import Schedule
from minicf.train import Trainer

if TYPE_CHECKING:
    # scikit-learn has no types. On bases of unknown type, every name would be an attribute, misspelt ones too.
    class BaseEstimator:
        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Self: ...
        def __getstate__(self) -> Any: ...
        def __sklearn_tags__(self) -> Any: ...

    class RegressorMixin:
        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float: ...
else:
    from sklearn.base import BaseEstimator, RegressorMixin

LATER_RATE, LATER_EPOCHS = 0.3, 10
"""The share of the learning rate and the epochs of `Recommender.partial_fit`. With a fifth of MovieLens' training rows
given later: rmse 0.898, against 0.908 without them and 0.892 of one `fit` of all (inside training rows). More epochs do
no better, and the full learning rate forgets."""

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _writing(method: _Method) -> _Method:
    """Run a method on a copy, and take over its state in one assignment when it has come to its end.

    So a reader in another thread sees the state before or the state after, and an error or Ctrl-C leaves the one
    before. A copy of the attributes is enough, as no array is changed in place.
    """

    @functools.wraps(method)
    def wrapped(self: Recommender, *args: Any, **kwargs: Any) -> Any:
        new = self._snapshot()
        result = method(new, *args, **kwargs)
        self.__dict__ = new.__dict__
        return self if result is new else result

    return cast(_Method, wrapped)


def _reading(method: _Method) -> _Method:
    """Run a method on the state of one moment, whatever another thread does to the recommender meanwhile."""

    @functools.wraps(method)
    def wrapped(self: Recommender, *args: Any, **kwargs: Any) -> Any:
        return method(self._snapshot(), *args, **kwargs)

    return cast(_Method, wrapped)


class Recommender(RegressorMixin, BaseEstimator):
    """Predict ratings and recommend items, from a table of ratings; a scikit-learn estimator.

    Parameters
    ----------
    model : "dot_bias", "dot", "svd++", "net", "hybrid" or Model
        A model object is used as it is, except that a `global_mean` of 0 becomes the mean rating. "svd++" trains
        `SVDpp` and keeps what that became, a `DotBias`.
    n_factors : int
        K, for a model given by name.
    optimizer : Optimizer, optional
        By default SGD for dot products and Adam for nets, see Notes.
    epochs, batch_size : int, optional
        By default those of the model's default optimizer: 40 epochs of online SGD (batch size 1) for dot products, 10
        epochs of batches of 64 for nets.
    schedule : "cosine", "one_cycle", "constant" or Schedule
        Of the learning rate.
    early_stopping : int, optional
        Hold out `validation_fraction` of the ratings, stop when their error has not fallen for this number of epochs,
        and take the best epoch.
    validation_fraction : float
    backend : str
        "auto" takes the fastest backend that runs here.
    random_state : int, RandomState or None
    unknown : "bias", "nan" or "raise"
        Policy for unknown ids (ids without a rating in training), in every method. "bias": an unknown user is scored
        as the mean user, an unknown item as the mean item. "nan": no score, and no list. "raise": an
        `UnknownIdError`. Methods that return tables flag unknown ids in a column ``known``.
    user, item, rating : str
        Columns of a frame.
    duplicates : "error", "last" or "mean"
        Policy for repeated ratings of an item by a user.
    n_threads : int, optional
        The largest number of threads; by default NUMBA_NUM_THREADS, OMP_NUM_THREADS or the number of cores.
    verbose : bool
        Show progress on stderr.

    Attributes
    ----------
    users_, items_ : Vocabulary
        The known ids: those with a rating in training.
    titles_ : array of object, or None
        A title, or None, for each item.
    model_ : Model
    weights_ : dict of float32 arrays
        By name; rows of tables are in the order of the vocabularies.
    history_ : DataFrame
        One row per epoch, see `minicf.History`.
    rating_range_ : (float, float)
        The lowest and the highest rating in training; predictions stay within.
    mean_, std_ : float
        Mean and standard deviation of the ratings, weighted if they have weights.
    unit_ : float
        Unit of the ratings in training: `std_` with the default optimizer of dot products, otherwise 1.
    seen_ : Bags or None
        The seen items of each user: those with a rating in training.
    n_ratings_ : int
        The number of ratings in training.

    Notes
    -----
    With the default optimizer, `Dot` and `DotBias` are trained on standardized ratings (mean 0, standard deviation 1),
    and the weights are scaled back: factors by the root of the standard deviation, biases by the standard deviation
    itself, which gives the same model in stars. So the defaults mean the same on a scale of 1 … 5 and of 0 … 100. With
    an `optimizer` of your own, ratings are used as they are.

    Arrays hold user ids in the first column and item ids in the second; other columns are ignored, as in a frame.

    Examples
    --------
    >>> from minicf import Recommender, load_movielens
    >>> train, valid = load_movielens().split(0.2, seed=42)
    >>> recommender = Recommender().fit(train)
    >>> recommender.recommend(42, n=3).columns.tolist()
    ['userId', 'rank', 'movieId', 'title', 'score', 'known']
    """

    users_: Vocabulary
    items_: Vocabulary
    model_: Model
    weights_: dict[str, np.ndarray]
    titles_: np.ndarray | None
    seen_: Bags | None
    n_features_in_: int

    def __init__(
        self,
        model: str | Model = "dot_bias",
        *,
        n_factors: int = 128,
        optimizer: Optimizer | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        schedule: str | Schedule = "cosine",
        early_stopping: int | None = None,
        validation_fraction: float = 0.1,
        backend: str = "auto",
        random_state: Any = 0,
        unknown: str = "bias",
        user: str = "userId",
        item: str = "movieId",
        rating: str = "rating",
        duplicates: str = "error",
        n_threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.n_factors = n_factors
        self.optimizer = optimizer
        self.epochs = epochs
        self.batch_size = batch_size
        self.schedule = schedule
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.backend = backend
        self.random_state = random_state
        self.unknown = unknown
        self.user = user
        self.item = item
        self.rating = rating
        self.duplicates = duplicates
        self.n_threads = n_threads
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True  # ids
        tags.input_tags.string = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_")

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_cache" in state:
            state["_cache"] = {}  # programs and indexes are made anew at their next use
        return state

    def _snapshot(self) -> Self:
        """Return a recommender with the state of this moment, which shares its arrays and what was made of them."""
        twin = object.__new__(type(self))
        twin.__dict__ = dict(self.__dict__)  # copied as a whole: no other thread runs meanwhile
        return twin

    # --- training --------------------------------------------------------------------------------------------

    @_writing
    def fit(
        self,
        X: Any,
        y: Any = None,
        titles: Any = None,
        sample_weight: Any = None,
        valid: Any = None,
        callbacks: Iterable[Any] = (),
    ) -> Recommender:
        """Train on a table of ratings, from the beginning.

        Parameters
        ----------
        X : DataFrame, Ratings, or array of shape (n, 2)
            A frame (pandas, or any that narwhals reads) with the columns `user` and `item`, and `rating` if there is
            no `y`; or user ids and item ids side by side. Ids are integers or text.
        y : array of shape (n,), optional
            The ratings; needed with an array.
        titles : mapping or Series from item id to text, optional
            By default those of X, if it is `Ratings`.
        sample_weight : array of shape (n,), optional
            A weight of at least 0 for each rating in the loss, in `mean_` and in `std_`; by default those of X, if it
            is `Ratings`. A row of weight 0 is left out. Their mean acts on the learning rate: let it be near 1.
        valid : DataFrame, Ratings or tuple (X, y), optional
            Predicted after each epoch, for `history_`, and for `early_stopping` in place of a `validation_fraction`.
            Rows with unknown ids are left out, with a warning, or raise if ``unknown="raise"``; weights do not count.
        callbacks : iterable of Callback
            As for `Trainer.fit`. The trainer that they see works in training units: with the default optimizer of
            dot products its ratings are standardized, (r - `mean_`) / `unit_`, and so are errors and weights.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For missing columns, missing ids, ids of mixed types, ratings that are not finite numbers, and arguments
            out of range: with the value and the remedy.
        DivergenceError
            The error stopped being finite; a smaller learning rate helps.
        KeyboardInterrupt
            After Ctrl-C. As after any error, the recommender is as it was before the call.
        """
        settings = self._settings()
        ratings, self.n_features_in_ = self.inputs.training(X, y, titles, sample_weight)
        seed = seed_of(self.random_state)
        self.mean_, self.std_ = moments(ratings)
        self.unit_ = self.std_ if settings.default_optimizer and type(settings.kept) in (Dot, DotBias) else 1.0
        self.model_ = centered(settings.kept, self.mean_)
        self.users_, self.items_, self.titles_ = ratings.users, ratings.items, ratings.titles
        self.rating_range_ = float(ratings.rating.min()), float(ratings.rating.max())
        held = None if valid is None else self.inputs.validation(valid)
        self._train(ratings, settings, seed, None, held, callbacks)
        self.n_ratings_ = len(ratings)
        self.seen_ = Bags.of(ratings.user, ratings.item, ratings.n_users)
        return self

    @_writing
    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        titles: Any = None,
        epochs: int | None = None,
        sample_weight: Any = None,
        callbacks: Iterable[Any] = (),
    ) -> Recommender:
        """Continue training with more ratings, also of new users and items; without a `fit` before, fit.

        Parameters
        ----------
        X, y, titles, sample_weight, callbacks
            As for `fit`. Training uses only these ratings: earlier ones are not stored.
        epochs : int, optional
            Passes through them; 10 by default.

        Notes
        -----
        New users and items start from the rows of `fold_in`, if they have ratings with known ids of the other side,
        otherwise from the mean row; weights act in training, not there. Training then continues as in `fit`, but at
        `LATER_RATE` of its learning rate, so that it does not forget the earlier ratings.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y, titles, sample_weight, callbacks=callbacks)
        settings, inputs = self._settings(), self.inputs
        new = inputs.ratings(X, y, titles, sample_weight)
        known = {}
        for side in SIDES:
            vocabulary, index = of_side(new, side)
            inputs.check_id_type(side, vocabulary)
            known[side] = inputs.vocabulary(side).index(vocabulary.ids, missing=-1)[index]
        solver, solved = self._solver(settings), {}
        for side in SIDES:  # both with the tables of before: neither depends on the new rows of the other
            vocabulary, index = of_side(new, side)
            other = known[opposite(side)]
            where = np.flatnonzero((known[side] < 0) & (other >= 0))
            solved[side] = solver.rows(side, vocabulary.ids[index[where]], other[where], new.rating[where])
        growth = self._grow({"user": new.users.ids, "item": new.items.ids}, solved)
        self.titles_ = growth.titles(self.titles_, new.items, new.titles)
        user, item = self.users_.index(new.users.ids)[new.user], self.items_.index(new.items.ids)[new.item]
        self.seen_ = growth.seen(self.seen_, user, item)
        joined = Ratings._trusted(
            user.astype(np.int32), item.astype(np.int32), new.rating, None, self.users_, self.items_, None, None,
            new.weight,
        )  # fmt: skip
        low, high = self.rating_range_
        self.rating_range_ = min(low, float(new.rating.min())), max(high, float(new.rating.max()))
        later = replace(
            settings,
            optimizer=replace(settings.optimizer, lr=settings.optimizer.lr * LATER_RATE),  # type: ignore[type-var]
            epochs=LATER_EPOCHS if epochs is None else check_int("epochs", epochs, 1),
        )
        self._train(joined, later, seed_of(self.random_state), self.weights_, callbacks=callbacks)
        self.n_ratings_ += len(new)
        return self

    def _train(self, ratings: Ratings, *arguments: Any, **more: Any) -> None:
        """Set `weights_` and `history_`."""
        units = Units(self.mean_, self.unit_)
        self.weights_, self.history_ = train(ratings, self.model_, units, *arguments, **more)
        self._cache: dict[str, Any] = {}

    def _settings(self) -> Settings:
        return Settings.of(self.get_params(deep=False))

    # --- parts -------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> Inputs:
        """Readers of tables and ids, with the columns, policies and vocabularies of this recommender."""
        return Inputs(
            self.user, self.item, self.rating, self.duplicates, self.unknown,
            getattr(self, "users_", None), getattr(self, "items_", None), getattr(self, "n_features_in_", None),
            type(self).__name__,
        )  # fmt: skip

    @property
    def scores(self) -> Scores:
        """Scores of rows, on the backend."""
        check_is_fitted(self)
        found: Scores | None = self._cache.get("scores")
        if found is None or (found.backend, found.n_threads) != (self.backend, self.n_threads):
            found = self._cache["scores"] = Scores(self.model_, self.weights_, self.backend, self.n_threads)
        return found

    @property
    def trainer_(self) -> Trainer:
        """A trainer with these weights; deprecated, `minicf.explain` takes the recommender itself."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError("trainer_ is available after fit")
        warnings.warn("trainer_ will be removed in 0.3; explain takes a Recommender", DeprecationWarning, stacklevel=2)
        return Trainer(self.model_, SGD(0.0), backend=self.backend, weights=self.weights_)

    @property
    def deviation_(self) -> float:
        """`std_` by its name in version 0.1; deprecated."""
        warnings.warn("deviation_ is now std_ and will be removed in 0.3", DeprecationWarning, stacklevel=2)
        return self.std_

    def vocabulary(self, side: str) -> Vocabulary:
        """Return the known ids of a side, "user" or "item"."""
        return self.inputs.vocabulary(side)

    @_reading
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
    def predict(self, X: Any, return_known: Literal[False] = False) -> NDArray[np.float32]: ...
    @overload
    def predict(self, X: Any, return_known: Literal[True]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]: ...
    @_reading
    def predict(self, X: Any, return_known: bool = False) -> Any:
        """Predict ratings, within the range of the ratings in training.

        Parameters
        ----------
        X : DataFrame, Ratings, or array of shape (n, 2)
            As for `fit`.
        return_known : bool
            Also return whether both ids of a row are known.

        Returns
        -------
        array of float32, shape (n,); with `return_known` a tuple of it and an array of bool
        """
        check_is_fitted(self)
        inputs = self.inputs
        frame = inputs.frame(X)
        user, item = (inputs.lookup(side, frame[inputs.column(side)]) for side in SIDES)
        known = (user >= 0) & (item >= 0)
        scores = self.scores.pairs(user, item).clip(*self.rating_range_)
        if self.unknown == "nan":
            scores[~known] = np.nan
        return (scores, known) if return_known else scores

    @_reading
    def recommend(
        self,
        users: Any,
        n: int = 10,
        exclude_seen: bool = True,
        candidates: Any = None,
        filter: Callable[[pd.DataFrame], Any] | None = None,
    ) -> pd.DataFrame:
        """Recommend the best items to each user.

        Parameters
        ----------
        users : id or 1-d array-like of ids
        n : int
        exclude_seen : bool
            Leave out the seen items of the user.
        candidates : array-like of item ids, optional
            Choose among these; unknown ids are left out, or raise if ``unknown="raise"``.
        filter : function, optional
            Takes a frame with the columns `item` and ``title`` and returns one boolean per row: whether the item may
            be recommended.

        Returns
        -------
        DataFrame
            Columns: the user id, ``rank`` from 1, the item id, ``title`` if titles are known, ``score`` (the
            predicted rating that the list is sorted by, not cut to the range of the ratings) and ``known`` (False for
            an unknown user, who gets the list of the mean user). n rows per user, or fewer if fewer items are left.

        Notes
        -----
        Exact: every item is scored, in blocks of users of `scoring.BLOCK_BYTES` per thread. Equal scores are sorted by
        item id.
        """
        check_is_fitted(self)
        n, exclude_seen = check_int("n", n, 1), check_bool("exclude_seen", exclude_seen)
        ids, rows = self.inputs.asked("user", users)
        among = self._lists.candidates(candidates, filter)
        skip = None
        if exclude_seen:
            if self.seen_ is None:
                raise ValueError("this recommender was saved without seen items; use exclude_seen=False")
            skip = seen_of(self.seen_, rows, len(self.items_), among)
        item, score = self.scores.best(rows, n, skip, among)
        place = np.nonzero(item >= 0)
        return self._lists.ranked(("user", ids, rows >= 0), "item", item[place], score[place], place)

    @_reading
    def recommend_all(self, n: int = 10, block: int = 10_000, **options: Any) -> Iterator[pd.DataFrame]:
        """Recommend to all users, as a stream of the frames of `recommend` for `block` users each."""
        check_is_fitted(self)
        check_int("block", block, 1)
        for lo in range(0, len(self.users_), block):
            yield self.recommend(self.users_.ids[lo : lo + block], n, **options)

    # --- similar -----------------------------------------------------------------------------------------------

    def similar_items(self, items: Any, n: int = 10, metric: str = "cosine", index: str | None = None) -> pd.DataFrame:
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

        Returns
        -------
        DataFrame
            Columns: the item id, ``rank``, ``similar_`` item id, ``title``, ``score``, ``known``.
        """
        return self._similar("item", items, n, metric, index)

    def similar_users(self, users: Any, n: int = 10, metric: str = "cosine", index: str | None = None) -> pd.DataFrame:
        """Find similar users, as `similar_items` finds items."""
        return self._similar("user", users, n, metric, index)

    @_reading
    def _similar(self, side: str, ids: Any, n: int, metric: str, index: str | None) -> pd.DataFrame:
        check_is_fitted(self)
        n = check_int("n", n, 1)
        owners, rows = self.inputs.asked(side, ids)
        found, score = self._neighbors.of_rows(self.scores, side, rows, n, metric, index)
        place = np.nonzero(found >= 0)
        return self._lists.ranked((side, owners, rows >= 0), side, found[place], score[place], place)

    @_reading
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

    # --- new users and items -------------------------------------------------------------------------------------

    @_writing
    def fold_in(self, ratings: Any, id: Any = None, side: str = "user") -> pd.DataFrame:
        """Add a new user, or item, from a few ratings, without training.

        Parameters
        ----------
        ratings : mapping, Series or DataFrame
            The other side's id -> rating, for the one new `id`; or, without `id`, a frame with the columns `user`,
            `item` and `rating` of any number of new ids. Ratings with unknown ids of the other side are left out, or
            raise if ``unknown="raise"``.
        id : int or str, optional
        side : "user" or "item"
            Side of the new ids.

        Returns
        -------
        DataFrame
            The new rows, as in `factors`. No other row changes; all methods know the new ids after the call.

        Raises
        ------
        ValueError
            An id that is already known (use `partial_fit`), an id of another type than the known ids, or no rating
            with a known id of the other side.

        Notes
        -----
        Equations (G1) and (G3) of `minicf.recommender.fold_in`: ridge regression on the ratings, with a prior made of
        the weight decay of training and of the distribution of the rows of this side.
        """
        check_is_fitted(self)
        self.vocabulary(side)
        inputs = self.inputs
        new = inputs.ratings_of_new(ratings, id, side)
        lowest, highest = float(new.rating.min()), float(new.rating.max())
        low, high = self.rating_range_
        if lowest < low or highest > high:
            warn(f"ratings are {lowest:g} … {highest:g}; they must be on the scale of training, {low:g} … {high:g}")
        ids, across, rating = usable_ratings(inputs, new, side)
        solved = self._solver(self._settings()).rows(side, ids, across, rating)
        growth = self._grow({side: ids}, {side: solved})
        self.titles_ = growth.titles(self.titles_)
        own = self.vocabulary(side).index(ids)
        self.seen_ = growth.seen(self.seen_, *((own, across) if side == "user" else (across, own)))
        return self._lists.factors(self.weights_, side, self.vocabulary(side).index(solved[0]))

    def _solver(self, settings: Settings) -> FoldIn:
        return FoldIn(self.model_, self.weights_, self.std_, self.unit_, settings.optimizer)

    def _grow(self, ids: Mapping[str, np.ndarray], solved: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Growth:
        """Set larger vocabularies and tables, by side; titles and seen items are left to the caller."""
        growth = Growth.of({side: self.vocabulary(side) for side in SIDES}, ids)
        self.users_, self.items_ = (growth.vocabularies[side] for side in SIDES)
        self.weights_ = growth.weights(self.model_, self.weights_, solved)
        self._cache = {}
        return growth

    # --- evaluation ----------------------------------------------------------------------------------------------

    @_reading
    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return R^2 of the predictions, 1 - sum (y - prediction)^2 / sum (y - mean y)^2, for scikit-learn's searches.

        Parameters
        ----------
        X : DataFrame, Ratings, or array of shape (n, 2)
            As for `fit`.
        y : array of shape (n,), optional
            By default the ratings of X.
        sample_weight : array of shape (n,), optional
        """
        if y is None:
            y = self.inputs.frame(X, rated=True)[self.rating].to_numpy(np.float64)
        return float(super().score(X, y, sample_weight))

    @_reading
    def evaluate(
        self, test: Any, y: Any = None, k: int = 10, relevant: float | None = None, exclude_seen: bool = True
    ) -> dict[str, float]:
        """Measure the errors on held-out ratings, and the relevant items in lists of k.

        Parameters
        ----------
        test, y
            As for `fit`.
        k : int
        relevant : float, optional
            An item is relevant to a user whose rating of it in `test` is at least this; by default, the mean rating of
            training.
        exclude_seen : bool
            Leave seen items out of the lists, as `recommend` does.

        Returns
        -------
        dict
            ``rmse``, ``mae``; ``precision``, ``recall``, ``ndcg`` and ``map`` at k, means over the users who have a
            relevant item in `test`, of lists among all items, without seen items if `exclude_seen`; ``coverage``, the
            share of items in these lists; ``rows``, ``rows_unknown`` (with an unknown user or item), ``rows_seen``
            (rated in training already: a warning gives their number, for they test nothing; NaN without `seen_`),
            ``users`` (in the means), ``users_unknown`` (of all in `test`). Rows with unknown ids are predicted by the
            mean row and counted if `unknown` is "bias", and left out if it is "nan".
        """
        check_is_fitted(self)
        k = check_int("k", k, 1)
        ratings = self.inputs.ratings(test, y)
        limit = self.mean_ if relevant is None else check_number("relevant", relevant)
        return quality(self, ratings, k, limit, check_bool("exclude_seen", exclude_seen))

    # --- files ---------------------------------------------------------------------------------------------------

    @_reading
    def save(self, path: str | os.PathLike[str], seen: bool = True) -> None:
        """Save to one ``.npz`` file without pickle, for `load`; `path` is replaced as a whole or not at all.

        Parameters
        ----------
        path : path
        seen : bool
            Also save the seen items of each user. Without them the file says less about its users, and `recommend`
            cannot leave seen items out.
        """
        check_is_fitted(self)
        files.write(path, self, check_bool("seen", seen))  # "no" would save seen items


def load(path: str | os.PathLike[str], backend: str | None = None) -> Recommender:
    """Load a recommender that `Recommender.save` saved.

    Parameters
    ----------
    path : path
    backend : str, optional
        Instead of the one that it was saved with.

    Returns
    -------
    Recommender

    Raises
    ------
    FileError
        The file is damaged, cut short, made by a newer minicf, or not a recommender file. Nothing in it is executed,
        and nothing larger than itself is allocated.
    """
    recommender = files.read(path, Recommender)
    recommender._cache = {}
    if backend is not None:
        get_backend(backend)
        recommender.backend = backend
    return recommender
