"""What a user holds: scores, lists, similar items, new users and files, all in the ids of the caller."""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, column_or_1d

from minicf import backends, files, fold_in, metrics, models, optim, schedules, scoring
from minicf.arguments import check_flag, check_number, check_seed, check_unmasked, check_whole
from minicf.backends import get_backend
from minicf.blas import one_blas_thread
from minicf.callbacks import EarlyStopping
from minicf.data import Ratings, UnknownIdError, Vocabulary
from minicf.models import Dot, DotBias, Hybrid, Model, Net
from minicf.optim import SGD, Adam, Optimizer
from minicf.schedules import Schedule
from minicf.scoring import Skip
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

KIND = "recommender"
POLICIES = ("bias", "nan", "raise")
SIDES = ("user", "item")

# Chosen by cross-validation inside training rows, on MovieLens and on synthetic sets of several shapes: the record is
# bench/results/defaults.csv, the search bench/search_defaults.py. Ratings of unit deviation (see `_unit`).
START = ("normal", 0.0, 0.01)
DOT_DEFAULTS: dict[str, Any] = {
    "optimizer": SGD(
        0.0114,
        weight_decay={"user_factors": 0.0972, "item_factors": 0.0972, "user_bias": 0.0578, "item_bias": 0.0578},
        decay="per_rating",
    ),
    "batch_size": 1,
    "epochs": 40,
}
NET_DEFAULTS: dict[str, Any] = {"optimizer": Adam(0.001), "batch_size": 64, "epochs": 10}

FEW = 5.0
"""How many ratings weigh as much as what is usual; see `Recommender.fold_in`."""

LATER_RATE, LATER_EPOCHS = 0.3, 10
"""Of `Recommender.partial_fit`. With a fifth of MovieLens' training rows given later: rmse 0.898, against 0.908 without
them and 0.892 of one `fit` of all (inside training rows). More epochs do no better, and the whole rate forgets."""

MIN_TILED = 50_000
"""Ratings from which on training goes through tiles (see `minicf.tiles`); fewer make too few tiles to shuffle."""

SCHEDULES: dict[str, Schedule] = {
    "constant": schedules.Constant(),
    "cosine": schedules.Cosine(),
    "one_cycle": schedules.OneCycle(),
}


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _whole(method: _Method) -> _Method:
    """Done, or not at all: after an error, or Ctrl-C, the recommender is as it was before the call.

    Else it would hold the vocabularies of the new ratings and the weights of the old. No array is changed in place
    before it was copied, so that to keep the attributes is enough.
    """

    @functools.wraps(method)
    def wrapped(self: Recommender, *args: Any, **kwargs: Any) -> Any:
        before = dict(self.__dict__)
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    return cast(_Method, wrapped)


class Recommender(RegressorMixin, BaseEstimator):
    """Predicts ratings and recommends items, from a table of ratings; a scikit-learn estimator.

    Parameters
    ----------
    model : "dot_bias", "dot", "net", "hybrid" or Model
        A model object is taken as it is, but for a `global_mean` of 0, which becomes the mean rating.
    n_factors : int
        K, for a model that is given by name.
    optimizer : Optimizer, optional
        By default SGD for dot products and Adam for nets, see Notes.
    epochs, batch_size : int, optional
        By default what goes with the default optimiser of the model: 40 epochs rating by rating for dot products, 10
        epochs of batches of 64 for nets.
    schedule : "cosine", "one_cycle", "constant" or Schedule
        Of the learning rate.
    early_stopping : int, optional
        Keep `validation_fraction` of the ratings apart, stop when their error has not fallen for so many epochs, and
        take the best epoch.
    validation_fraction : float
    backend : str
        "auto" takes the fastest that can run here.
    random_state : int, RandomState or None
    unknown : "bias", "nan" or "raise"
        What an id that was not there in training gives, in every method. "bias": what is known of the other side; an
        unknown user counts as the mean of all users, an unknown item as the mean of all items. "nan": no score, and no
        list. "raise": an `UnknownIdError`. Methods that return tables flag such rows in a column ``known``.
    user, item, rating : str
        Columns of a frame.
    duplicates : "error", "last" or "mean"
        What to do where a user rated an item more than once.
    n_threads : int, optional
        At most so many; by default NUMBA_NUM_THREADS or OMP_NUM_THREADS, or the cores there are.
    verbose : bool
        Show progress on stderr.

    Attributes
    ----------
    users_, items_ : Vocabulary
        The ids that training ratings had.
    titles_ : array of object, or None
        A title, or None, for each item.
    model_ : Model
    weights_ : dict of float32 arrays
        By name; the rows of tables are in the order of the vocabularies.
    history_ : DataFrame
        A row an epoch, see `minicf.History`.
    rating_range_ : (float, float)
        The lowest and the highest rating seen; predictions stay within.
    mean_, deviation_ : float
        Mean and standard deviation of the ratings.
    seen_ : Skip or None
        The items that each user has rated.

    Notes
    -----
    With the default optimiser, `Dot` and `DotBias` are trained on ratings of mean 0 and deviation 1, and the weights
    are scaled back: factors by the root of the deviation and biases by the deviation itself, which gives the same
    model in stars. So the defaults mean the same on a scale of 1 … 5 and of 0 … 100. An optimiser that is given works
    on the ratings as they are.

    Arrays hold user ids in the first column and item ids in the second; as with a frame, others are not looked at.

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
    seen_: Skip | None
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

    # --- training --------------------------------------------------------------------------------------------

    @_whole
    def fit(self, X: Any, y: Any = None, titles: Any = None) -> Recommender:
        """Train on a table of ratings, from the beginning.

        Parameters
        ----------
        X : DataFrame, Ratings, or array of shape (n, 2)
            A frame (pandas, or any that narwhals reads) with the columns `user` and `item`, and `rating` if there is
            no `y`; or user ids and item ids side by side. Ids are whole numbers or text.
        y : array of shape (n,), optional
            The ratings; needed with an array.
        titles : mapping or Series from item id to text, optional
            `Ratings` have their own.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For missing columns, ids that are missing or of mixed types, ratings that are no finite numbers, and
            arguments that make no sense: with the value and the remedy.
        DivergenceError
            The error stopped being finite; a smaller learning rate helps.
        KeyboardInterrupt
            After Ctrl-C. As after any error, the recommender is as it was before the call.
        """
        model, optimizer, own = self._resolve()
        ratings = self._ratings(X, y, titles, remember=True)
        seed = self._seed()
        mean = ratings.mean
        self.deviation_ = float(ratings.rating.std(dtype=np.float64)) or 1.0
        self._unit = self.deviation_ if own and isinstance(model, Dot) else 1.0
        self.mean_ = mean
        self.model_ = _centred(model, mean)
        self.users_, self.items_, self.titles_ = ratings.users, ratings.items, ratings.titles
        self.rating_range_ = float(ratings.rating.min()), float(ratings.rating.max())
        self._train(ratings, optimizer, seed, self._epochs(model), None)
        self.n_ratings_ = len(ratings)
        self.seen_ = Skip.of(ratings.user, ratings.item, ratings.n_users)
        return self

    @_whole
    def partial_fit(self, X: Any, y: Any = None, titles: Any = None, epochs: int | None = None) -> Recommender:
        """Go on with more ratings, which may be of new users and items; without a `fit` before, fit.

        Parameters
        ----------
        X, y, titles
            As for `fit`. Only these ratings are trained on: what was given before is not kept.
        epochs : int, optional
            How often to go through them; 10 by default.

        Notes
        -----
        New users and items first get the rows of `fold_in`, as far as the other side is known, or of the mean user or
        item. Then training goes on as in `fit`, but at `LATER_RATE` of its learning rate: what was learned before is
        not to be forgotten for what is new.
        """
        if not self._fitted():
            return self.fit(X, y, titles)
        _, optimizer, _ = self._resolve()
        new = self._ratings(X, y, titles)
        self._same_type("user", new.users)
        self._same_type("item", new.items)
        known = (
            self.users_.index(new.users.ids, missing=-1)[new.user],
            self.items_.index(new.items.ids, missing=-1)[new.item],
        )
        rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for at, side in enumerate(SIDES):  # both from the tables as they are: neither depends on the other's new rows
            where = np.flatnonzero((known[at] < 0) & (known[1 - at] >= 0))
            given = (new.users.ids[new.user], new.items.ids[new.item])[at]
            rows[side] = self._solve(side, given[where], known[1 - at][where], new.rating[where])
        self._admit(new.users.ids, new.items.ids)
        if new.titles is not None:
            self._title(new.items, new.titles)
        for side, (ids, x) in rows.items():
            self._place(side, ids, x)
        user, item = self.users_.index(new.users.ids)[new.user], self.items_.index(new.items.ids)[new.item]
        joined = Ratings._trusted(
            user.astype(np.int32), item.astype(np.int32), new.rating.copy(), None, self.users_, self.items_, None, None
        )
        low, high = self.rating_range_
        self.rating_range_ = min(low, float(new.rating.min())), max(high, float(new.rating.max()))
        count = LATER_EPOCHS if epochs is None else check_whole("epochs", epochs, 1)
        slower = replace(optimizer, lr=optimizer.lr * LATER_RATE)  # type: ignore[type-var]
        self._train(joined, slower, self._seed(), count, self.weights_)
        self.n_ratings_ += len(new)
        self._see(user, item)
        return self

    def _train(
        self, ratings: Ratings, optimizer: Optimizer, seed: int, epochs: int, weights: dict[str, np.ndarray] | None
    ) -> None:
        """Set `weights_` and `history_`."""
        unit = self._unit
        model = _in_units(self.model_, self.mean_, unit)
        if unit != 1.0:
            scaled = ((ratings.rating - np.float32(self.mean_)) / np.float32(unit)).astype(np.float32)
        elif model is not self.model_:
            scaled = ratings.rating - np.float32(self.mean_)
        else:
            scaled = ratings.rating
        rows = Ratings._trusted(
            ratings.user, ratings.item, scaled, ratings.timestamp, ratings.users, ratings.items, None, None
        )
        valid, callbacks = None, []
        if self.early_stopping is not None:
            rows, valid = rows.split(self.validation_fraction, seed)
            callbacks = [EarlyStopping(check_whole("early_stopping", self.early_stopping, 1))]
        batch_size = self._batch_size()
        start = None if weights is None else _scaled(self.model_, weights, 1.0 / unit)
        trainer = Trainer(
            model,
            optimizer,
            backend=self.backend,
            batch_size=batch_size,
            seed=seed,
            weights=start,
            n_threads=self.n_threads,
        )
        schedule = SCHEDULES[self.schedule] if isinstance(self.schedule, str) else self.schedule
        shuffle: Any = "tiles" if batch_size == 1 and len(rows) >= MIN_TILED else True
        trainer.fit(
            rows, valid, epochs, schedule, shuffle=shuffle, callbacks=callbacks,
            progress=None if self.verbose else False,
        )  # fmt: skip
        self.weights_ = {
            name: w.astype(np.float32, copy=False) for name, w in _scaled(self.model_, trainer.weights, unit).items()
        }
        history = trainer.history.frame()
        errors = [name for name in history.columns if "mse" in name or name == "penalty"]
        history[errors] *= unit**2
        self.history_ = history
        self._cache: dict[str, Any] = {}

    def _resolve(self) -> tuple[Model, Optimizer, bool]:
        """Check the arguments; return the model, the optimiser, and whether that is the default one."""
        for name, allowed in (
            ("unknown", POLICIES), ("duplicates", ("error", "last", "mean")), ("backend", ("auto", *backends.NAMES)),
        ):  # fmt: skip
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: it must be one of {allowed}")
        columns = [self.user, self.item, self.rating]
        if not all(isinstance(name, str) for name in columns) or len(set(columns)) < 3:
            raise ValueError(f"user, item and rating are {columns}: they must be the names of three columns")
        scoring.threads(self.n_threads)
        check_flag("verbose", self.verbose)
        k = check_whole("n_factors", self.n_factors, 1)
        if isinstance(self.model, Model):
            model = self.model
        else:
            named: dict[Any, Callable[[], Model]] = {
                "dot_bias": lambda: DotBias(k, init=START),
                "dot": lambda: Dot(k, init=START),
                "net": lambda: Net(k),
                "hybrid": lambda: Hybrid({"net": (Net(k), 0.2), "dot": (DotBias(k), 1.0)}),
            }
            if not isinstance(self.model, str) or self.model not in named:
                raise ValueError(f"model={self.model!r}: it must be one of {sorted(named)}, or a model object")
            model = named[self.model]()
        own = self.optimizer is None
        optimizer = _defaults(model)["optimizer"] if own else self.optimizer
        if not isinstance(optimizer, Optimizer):
            raise ValueError(f"optimizer={optimizer!r}: it must be SGD(...), Adam(...) or None")
        if own and isinstance(model, Dot) and not model.biases:
            decay = {name: value for name, value in optimizer.weight_decay.items() if "bias" not in name}  # type: ignore[union-attr]
            optimizer = replace(optimizer, weight_decay=decay)  # type: ignore[type-var]
        if not isinstance(self.schedule, Schedule) and self.schedule not in tuple(SCHEDULES):
            raise ValueError(f"schedule={self.schedule!r}: it must be one of {sorted(SCHEDULES)}, or a Schedule")
        if self.early_stopping is not None:
            check_whole("early_stopping", self.early_stopping, 1)
        return model, optimizer, own

    def _epochs(self, model: Model) -> int:
        return _defaults(model)["epochs"] if self.epochs is None else check_whole("epochs", self.epochs, 1)

    def _batch_size(self) -> int:
        if self.batch_size is not None:
            return check_whole("batch_size", self.batch_size, 1)
        return _defaults(self.model_)["batch_size"]

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return check_seed("random_state", self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    # --- tables in ---------------------------------------------------------------------------------------------

    def _columns(self, X: Any, rated: bool, remember: bool = False) -> pd.DataFrame:
        """User ids, item ids and, if `rated`, ratings, under the names of the arguments."""
        wanted = [self.user, self.item] + ([self.rating] if rated else [])
        if isinstance(X, Ratings):
            columns = [X.users.ids[X.user], X.items.ids[X.item], X.rating]
            frame = pd.DataFrame(dict(zip(wanted, columns, strict=False)))
            width = 2
        elif isinstance(X, pd.DataFrame):
            if missing := [name for name in wanted if name not in X.columns]:
                raise ValueError(
                    f"no column {', '.join(map(repr, missing))}; present: {', '.join(map(repr, X.columns))[:300]}; "
                    "name yours: Recommender(user=..., item=..., rating=...)"
                )
            for name in wanted:
                if (copies := list(X.columns).count(name)) > 1:
                    raise ValueError(f'{copies} columns are called "{name}": drop or rename all but one')
            frame, width = X[wanted], 2
        elif any(hasattr(X, f"__{mark}__") for mark in ("arrow_c_stream", "dataframe", "narwhals_dataframe")):
            return self._columns(_to_pandas(X, wanted), rated, remember)
        else:
            check_unmasked("X", X)
            listed = X if hasattr(X, "__array__") or hasattr(X, "toarray") else _objects(X)
            least = 2 if remember else 1  # fewer than in training are refused below
            array = check_array(listed, dtype=None, ensure_min_features=least, estimator=self, input_name="X")
            width = array.shape[1]
            if not remember and width != self.n_features_in_:
                raise ValueError(
                    f"X has {width} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                    "as input"
                )
            if rated:
                raise ValueError("requires y to be passed, but the target y is None: an array has no ratings column")
            frame = pd.DataFrame({self.user: array[:, 0], self.item: array[:, 1]})
        if remember:
            self.n_features_in_ = width
        return frame

    def _ratings(self, X: Any, y: Any, titles: Any = None, remember: bool = False) -> Ratings:
        """Ratings whose vocabularies hold what is rated, and nothing else."""
        if isinstance(X, Ratings) and y is None and titles is None:
            if remember:
                self.n_features_in_ = 2
            return _rated(X)
        frame = self._columns(X, rated=y is None, remember=remember)
        if y is not None:
            check_unmasked("y", y)
            y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y", estimator=self)
            y = column_or_1d(y, warn=True)
            check_consistent_length(frame, y)
            frame = frame.assign(**{self.rating: y})
        if isinstance(X, Ratings) and titles is None and X.titles is not None:
            titles = pd.Series(X.titles, index=X.items.ids)
        return Ratings.from_frame(
            frame,
            self.user,
            self.item,
            self.rating,
            titles=titles,
            duplicates=self.duplicates,  # type: ignore[arg-type]
        )

    def _side(self, side: str) -> Vocabulary:
        if side not in SIDES:
            raise ValueError(f"side={side!r}: it must be one of {SIDES}")
        return self.users_ if side == "user" else self.items_

    def _lookup(self, side: str, ids: Any) -> np.ndarray:
        """Indices of ids, -1 for unknown ones; an error or a warning as the policy says."""
        vocabulary = self._side(side)
        if self.unknown not in POLICIES:
            raise ValueError(f"unknown={self.unknown!r}: it must be one of {POLICIES}")
        found = vocabulary.index(ids, missing=-1)
        if (found < 0).any():
            missing = pd.unique(pd.Series(ids, dtype=object)[found < 0])
            twin = _twin(vocabulary, missing)
            if self.unknown == "raise":
                shown = ", ".join(repr(x) for x in missing[:5].tolist()) + (" ..." if len(missing) > 5 else "")
                remedy = twin or 'unknown="bias" predicts from what is known of the other side'
                raise UnknownIdError(f"unknown {side} {shown} ({len(missing)} in all); {remedy}")
            if twin:
                warnings.warn(f"unknown {side}: {twin}", UserWarning, stacklevel=3)
        return found

    def _same_type(self, side: str, ids: Vocabulary) -> None:
        if self._side(side).ids.dtype != ids.ids.dtype:
            kinds = ["text" if v.ids.dtype == object else "whole numbers" for v in (self._side(side), ids)]
            raise ValueError(f"{side} ids here are {kinds[0]}, the new ones are {kinds[1]}: convert them")

    # --- predicting --------------------------------------------------------------------------------------------

    @overload
    def predict(self, X: Any, return_known: Literal[False] = False) -> NDArray[np.float32]: ...
    @overload
    def predict(self, X: Any, return_known: Literal[True]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]: ...
    def predict(self, X: Any, return_known: bool = False) -> Any:
        """Predicted ratings, within the range of the ratings seen.

        Parameters
        ----------
        X : DataFrame, Ratings, or array of shape (n, 2)
            As for `fit`.
        return_known : bool
            Also say which rows had a known user and a known item.

        Returns
        -------
        array of float32, shape (n,); with `return_known` a tuple of it and an array of bool
        """
        check_is_fitted(self)
        frame = self._columns(X, rated=False)
        user, item = (self._lookup(side, frame[getattr(self, side)]) for side in SIDES)
        known = (user >= 0) & (item >= 0)
        scores = self._pairs(user, item).clip(*self.rating_range_)
        if self.unknown == "nan":
            scores[~known] = np.nan
        return (scores, known) if return_known else scores

    def _pairs(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Scores of pairs of indices; -1, the last row, is the mean of all."""
        program = self._cache.get("program")
        if program is None:
            tables = {
                name: np.concatenate([w, w.mean(axis=0, keepdims=True, dtype=np.float64).astype(w.dtype)])
                if name in models.TABLES
                else w
                for name, w in self.weights_.items()
            }
            program = get_backend(self.backend).compile(self.model_, SGD(0.0), tables, 0, "float32")
            self._cache["program"] = program
        user, item = (
            np.where(at < 0, len(vocabulary), at).astype(np.int32)
            for at, vocabulary in ((user, self.users_), (item, self.items_))
        )
        return np.asarray(program.predict(user, item), np.float32)

    def _scorer(self, allowed: np.ndarray | None) -> scoring.Score:
        """Scores of users against all items, or some; the last row is the mean user."""
        if allowed is None and "scorer" in self._cache:
            return self._cache["scorer"]
        tables = dict(self.weights_)
        for name, w in tables.items():
            if name in models.USER_TABLES:
                tables[name] = np.concatenate([w, w.mean(axis=0, keepdims=True, dtype=np.float64).astype(w.dtype)])
            elif name in models.ITEM_TABLES and allowed is not None:
                tables[name] = w[allowed]
        score = scoring.scorer(self.model_, tables, self._xp)
        if allowed is None:
            self._cache["scorer"] = score
        return score

    def recommend(
        self,
        users: Any,
        n: int = 10,
        exclude_seen: bool = True,
        candidates: Any = None,
        filter: Callable[[pd.DataFrame], Any] | None = None,
    ) -> pd.DataFrame:
        """The best items for each user.

        Parameters
        ----------
        users : id or 1-d array-like of ids
        n : int
        exclude_seen : bool
            Leave out what the user has rated.
        candidates : array-like of item ids, optional
            Choose among these; unknown ones are left out, or raise if ``unknown="raise"``.
        filter : function, optional
            Gets a frame with the columns `item` and ``title`` and returns which rows may be recommended, as booleans.

        Returns
        -------
        DataFrame
            Columns: the user id, ``rank`` from 1, the item id, ``title`` where titles are known, ``score`` (the
            predicted rating, not cut to the range: it is what the order goes by) and ``known`` (False for an unknown
            user, who gets the list of the mean user). Exactly n rows a user, or as many as there are items left.

        Notes
        -----
        Exact: every item is scored, in blocks of users of `scoring.BLOCK_BYTES` a thread. Equal scores go by item id.
        """
        check_is_fitted(self)
        n, exclude_seen = check_whole("n", n, 1), check_flag("exclude_seen", exclude_seen)
        ids = _listed(users)
        rows = self._lookup("user", ids)
        if self.unknown == "nan":
            ids, rows = ids[rows >= 0].reset_index(drop=True), rows[rows >= 0]
        allowed = self._allowed(candidates, filter)
        skip = None
        if exclude_seen:
            skip = self._seen().take(rows)
            if allowed is not None:
                position = np.full(len(self.items_), -1, np.int32)
                position[allowed] = np.arange(len(allowed), dtype=np.int32)
                at, owner = position[skip.items], np.repeat(np.arange(len(rows)), np.diff(skip.start))
                skip = Skip.of(owner[at >= 0], at[at >= 0], len(rows))
        n_items = len(self.items_) if allowed is None else len(allowed)
        index = self._top(self._scorer(allowed), np.where(rows < 0, len(self.users_), rows), n_items, n, skip)[0]
        if allowed is not None and len(allowed):
            index = np.where(index < 0, -1, allowed[index])
        row, column = np.nonzero(index >= 0)
        item = index[row, column]
        # As `predict` gives it, to the last bit, whatever the block: then its order is the list's.
        score = self._pairs(rows[row], item)
        order = np.lexsort((item, -score, row))
        return self._table(ids, rows, row, column, item[order], score[order], "item")

    def recommend_all(self, n: int = 10, block: int = 10_000, **options: Any) -> Iterator[pd.DataFrame]:
        """Lists for all users, as a stream of the frames of `recommend` for `block` users each."""
        check_is_fitted(self)
        check_whole("block", block, 1)
        for lo in range(0, len(self.users_), block):
            yield self.recommend(self.users_.ids[lo : lo + block], n, **options)

    def _top(
        self, score: scoring.Score, rows: np.ndarray, n_items: int, n: int, skip: Skip | None
    ) -> tuple[np.ndarray, np.ndarray]:
        compiled = self._runs_on != "numpy"
        return scoring.top_n(score, rows, n_items, n, skip, self.n_threads, compiled, self._xp)

    @property
    def _runs_on(self) -> str:
        """The name of the backend: what "auto" chose, where the choice was left to it."""
        key = f"backend {self.backend}"
        if key not in self._cache:
            self._cache[key] = get_backend(self.backend).NAME
        return str(self._cache[key])

    @property
    def _xp(self) -> Any:
        """What computes scores: CuPy where the backend is the GPU's, else NumPy."""
        if self._runs_on != "cupy":
            return np
        import cupy

        return cupy

    def _seen(self) -> Skip:
        if self.seen_ is None:
            raise ValueError("this model was saved without the items that users have seen: say exclude_seen=False")
        return self.seen_

    def _allowed(self, candidates: Any, filter: Callable[[pd.DataFrame], Any] | None) -> np.ndarray | None:
        if candidates is None and filter is None:
            return None
        allowed = np.arange(len(self.items_))
        if candidates is not None:
            found = self._lookup("item", _listed(candidates))
            allowed = np.unique(found[found >= 0])
        if filter is not None:
            frame = pd.DataFrame({self.item: self.items_.ids[allowed]})
            if self.titles_ is not None:
                frame["title"] = self.titles_[allowed]
            chosen = np.asarray(filter(frame))
            if chosen.dtype != bool or chosen.shape != (len(allowed),):
                raise ValueError(
                    f"filter gave {chosen.dtype} of shape {chosen.shape}: it must give a boolean for each of the "
                    f"{len(allowed)} rows"
                )
            allowed = allowed[chosen]
        return allowed

    def _table(
        self,
        ids: pd.Series,
        rows: np.ndarray,
        row: np.ndarray,
        column: np.ndarray,
        found: np.ndarray,
        score: np.ndarray,
        side: str,
        of: str = "user",
    ) -> pd.DataFrame:
        """A table of lists: whose it is, rank, what was found, title, score, known."""
        name, own = getattr(self, side), getattr(self, of)
        table = {
            own: ids.infer_objects().to_numpy()[row],
            "rank": column + 1,
            name if name != own else f"similar_{name}": self._side(side).ids[found],
        }
        if side == "item" and self.titles_ is not None:
            table["title"] = self.titles_[found]
        return pd.DataFrame(table | {"score": score, "known": (rows >= 0)[row]})

    # --- similar -----------------------------------------------------------------------------------------------

    def similar_items(self, items: Any, n: int = 10, metric: str = "cosine", index: str | None = None) -> pd.DataFrame:
        """The items whose factors are nearest to those of each of some items.

        Parameters
        ----------
        items : id or 1-d array-like of ids
        n : int
        metric : "cosine" or "dot"
            Of the factors, without biases.
        index : None, "sklearn" or "pynndescent"
            None compares with every item. For large catalogues: scikit-learn's ball tree, exact as well, or
            pynndescent's graph, approximate (``pip install pynndescent``); both for cosine, built at the first call.

        Returns
        -------
        DataFrame
            Columns: the item id, ``rank``, ``similar_`` item id, ``title``, ``score``, ``known``.
        """
        return self._similar("item", items, n, metric, index)

    def similar_users(self, users: Any, n: int = 10, metric: str = "cosine", index: str | None = None) -> pd.DataFrame:
        """As `similar_items`, for users."""
        return self._similar("user", users, n, metric, index)

    def nearest(self, factors: Any, n: int = 10, side: str = "item", metric: str = "cosine") -> pd.DataFrame:
        """The items, or users, nearest to a vector of K factors.

        Returns
        -------
        DataFrame
            Columns: ``rank``, the id, ``title``, ``score``.
        """
        check_is_fitted(self)
        check_unmasked("factors", factors)
        given = np.asarray(factors)
        k = self.model_.n_factors
        with np.errstate(over="ignore"):  # what overflows is refused
            vector = given.astype(np.float32) if given.dtype.kind in "iuf" else np.full(given.shape, np.nan)
        if vector.shape != (k,) or not np.isfinite(vector).all():
            raise ValueError(f"factors has shape {vector.shape}: it must be {k} finite numbers")
        n = check_whole("n", n, 1)
        others = self._directions(side, metric)[:-1]
        if metric == "cosine":
            vector = _normal(vector[None])[0]
        score = scoring.dot_scorer(vector[None], others, self._xp)
        found, best = self._top(score, np.zeros(1, np.int64), len(others), n, None)
        table = self._table(
            pd.Series([0]), np.zeros(1), np.zeros(found.size, np.int64), np.arange(found.size), found[0], best[0], side,
            of="item" if side == "user" else "user",
        )  # fmt: skip
        return table.iloc[:, 1:].drop(columns="known")

    def _directions(self, side: str, metric: str) -> np.ndarray:
        """Rows to compare, that of the mean last."""
        if metric not in ("cosine", "dot"):
            raise ValueError(f"metric={metric!r}: it must be 'cosine' or 'dot'")
        self._side(side)
        key = f"{metric} {side}"
        if key not in self._cache:
            factors = self.weights_[f"{side}_factors"]
            factors = np.concatenate([factors, factors.mean(axis=0, keepdims=True, dtype=np.float64)], dtype=np.float32)
            self._cache[key] = _normal(factors) if metric == "cosine" else factors
        return self._cache[key]

    def _similar(self, side: str, ids: Any, n: int, metric: str, index: str | None) -> pd.DataFrame:
        check_is_fitted(self)
        n = check_whole("n", n, 1)
        listed = _listed(ids)
        rows = self._lookup(side, listed)
        if self.unknown == "nan":
            listed, rows = listed[rows >= 0].reset_index(drop=True), rows[rows >= 0]
        vectors = self._directions(side, metric)
        others = vectors[:-1]
        own = np.where(rows < 0, len(others), rows)
        if index is None:
            present = np.flatnonzero(rows >= 0)
            skip = Skip.of(present, rows[present], len(rows))  # itself
            found, best = self._top(scoring.dot_scorer(vectors, others, self._xp), own, len(others), n, skip)
        else:
            found, best = self._from_index(index, side, metric, vectors[own], rows, n)
        row, column = np.nonzero(found >= 0)
        return self._table(listed, rows, row, column, found[row, column], best[row, column], side, of=side)

    def _from_index(
        self, index: str, side: str, metric: str, vectors: np.ndarray, rows: np.ndarray, n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if index not in ("sklearn", "pynndescent") or metric != "cosine":
            raise ValueError(f"index={index!r}, metric={metric!r}: None, or 'sklearn' or 'pynndescent' with 'cosine'")
        key = f"{index} {side}"
        others = self._directions(side, metric)[:-1]
        n = min(n, len(others) - 1)
        if n < 1:
            return np.full((len(rows), 0), -1), np.zeros((len(rows), 0), np.float32)
        if index == "sklearn":
            if key not in self._cache:
                from sklearn.neighbors import NearestNeighbors

                self._cache[key] = NearestNeighbors(algorithm="ball_tree").fit(others)
            found = self._cache[key].kneighbors(vectors, n + 1, return_distance=False)
        else:
            if key not in self._cache:
                try:
                    from pynndescent import NNDescent
                except ImportError:
                    raise ImportError("index='pynndescent' needs it: pip install pynndescent") from None
                self._cache[key] = NNDescent(others, metric="cosine", random_state=0)
            found = self._cache[key].query(vectors, n + 1)[0]
        score = np.einsum("rk,rnk->rn", vectors, others[found])
        score[found == rows[:, None]] = -np.inf  # itself
        order = np.argsort(-score, axis=1, kind="stable")[:, :n]
        return np.take_along_axis(found, order, 1), np.take_along_axis(score, order, 1)

    # --- new users and items -------------------------------------------------------------------------------------

    @_whole
    def fold_in(self, ratings: Any, id: Any = None, side: str = "user") -> pd.DataFrame:
        """Serve a new user, or item, from a few ratings, without training.

        Parameters
        ----------
        ratings : mapping, Series or DataFrame
            The other side's id -> rating, for the one new `id`; or, without `id`, a frame with the columns `user`,
            `item` and `rating` of any number of new ones. Ratings of unknown others are left out, or raise if
            ``unknown="raise"``.
        id : int or str, optional
        side : "user" or "item"
            What is new.

        Returns
        -------
        DataFrame
            The new rows, as `factors` gives them. No other row changes; `predict`, `recommend` and all else know the
            new ids from here on.

        Raises
        ------
        ValueError
            An id that is known already (`partial_fit` goes on with those), or of another type than those known; no
            rating of a known other.

        Notes
        -----
        Equation (G1) of `minicf.fold_in`, with an A of two parts. One is the weight decay of training, for each rating
        (``decay="per_rating"``): with many ratings the row becomes the one that training would have found. Alone it
        would follow a few ratings too far. The other is what rows of this side usually look like, their mean and
        the inverse of their covariance times the variance of ratings; it fades as `FEW` / (`FEW` + n) of n ratings.
        """
        check_is_fitted(self)
        self._side(side)
        own, other = getattr(self, side), getattr(self, "item" if side == "user" else "user")
        if id is not None:
            if isinstance(ratings, pd.DataFrame):
                if missing := [name for name in (other, self.rating) if name not in ratings.columns]:
                    raise ValueError(f"no column {missing}; present: {list(ratings.columns)}")
                others, values = ratings[other], ratings[self.rating]
            elif isinstance(ratings, Mapping | pd.Series):
                given = list(ratings.items())
                others, values = (pd.Series([pair[at] for pair in given], dtype=object) for at in (0, 1))
            else:
                raise TypeError(f"ratings is a {type(ratings).__name__}: give {{{other}: rating}} or a frame")
            frame = pd.DataFrame(
                {own: pd.Series([id] * len(others)), other: others.to_numpy(), self.rating: values.to_numpy()}
            )
        else:
            frame = self._columns(ratings, rated=True)
        frame = frame.infer_objects()
        new = Ratings.from_frame(frame, self.user, self.item, self.rating, duplicates=self.duplicates)  # type: ignore[arg-type]
        lowest, highest = float(new.rating.min()), float(new.rating.max())
        low, high = self.rating_range_
        if lowest < low or highest > high:
            warnings.warn(
                f"ratings are {lowest:g} … {highest:g}, those of training {low:g} … {high:g}: give them on that scale",
                UserWarning,
                stacklevel=3,
            )
        vocabulary, opposite = (new.users, new.items) if side == "user" else (new.items, new.users)
        index, across = (new.user, new.item) if side == "user" else (new.item, new.user)
        self._same_type(side, vocabulary)
        known = self._side(side).index(vocabulary.ids, missing=-1) >= 0
        if known.any():
            shown = vocabulary.ids[known][:1].tolist()[0]
            raise ValueError(f"{side} {shown!r} is known already: partial_fit goes on with known ones")
        at = self._lookup("item" if side == "user" else "user", opposite.ids)[across]
        left = np.setdiff1d(np.arange(len(vocabulary)), index[at >= 0])
        if left.size:
            raise ValueError(f"{side} {vocabulary.ids[left[0]]!r}: none of its ratings is of a known {other}")
        kept = at >= 0
        ids, x = self._solve(side, vocabulary.ids[index[kept]], at[kept], new.rating[kept])
        none = ids[:0]
        self._admit(*((ids, none) if side == "user" else (none, ids)))
        self._place(side, ids, x)
        here, there = self._side(side).index(vocabulary.ids)[index[kept]], at[kept]
        self._see(*((here, there) if side == "user" else (there, here)))
        return self._factors(side, self._side(side).index(ids))

    def _solve(
        self, side: str, ids: np.ndarray, other: np.ndarray, rating: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of new ids, each from its ratings: ids (m,) and rows (m, D)."""
        unique, group = np.unique(ids, return_inverse=True)
        x = np.zeros((len(unique), fold_in.table(side, self.weights_).shape[1]))
        if len(unique):
            prior = self._prior(side)
            order = np.argsort(group, kind="stable")
            bounds = np.concatenate([[0], np.cumsum(np.bincount(group))])
            with one_blas_thread():  # the systems are small
                for i in range(len(unique)):
                    rows = order[bounds[i] : bounds[i + 1]]
                    x[i] = fold_in.solve(self.model_, self.weights_, side, other[rows], rating[rows], *prior(len(rows)))
        return unique, x

    def _prior(self, side: str) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        """x0 and A of (G1) for a row with so many ratings; see `fold_in`."""
        rows = fold_in.table(side, self.weights_)
        mean = rows.mean(axis=0)
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
        # A direction in which no row differs must be neither forbidden altogether nor without any bound.
        covariance += np.eye(len(mean)) * max(1e-3 * np.trace(covariance) / len(mean), 1e-12)
        usual = self.deviation_**2 * np.linalg.inv(covariance)
        decay = self._decay(side)

        def prior(n: int) -> tuple[np.ndarray, np.ndarray]:
            share = FEW / (FEW + n) if decay.any() else 1.0
            a = share * usual + np.diag(n * decay)
            return np.linalg.solve(a, share * usual @ mean), a

        return prior

    def _decay(self, side: str) -> np.ndarray:
        """What training added to the squared errors of a row for each of its ratings, as a factor on its squares."""
        _, optimizer, _ = self._resolve()
        k, unit = self.model_.n_factors, self._unit
        values = []
        ranged = scoring.head_of(self.model_, self.weights_)[0].rating_range is not None
        for name in fold_in.names(side, self.weights_):
            # In training units the error is 1 / unit of that in stars, its square 1 / unit^2; see `_scaled` for w.
            power = unit**2 if ranged else unit if name.endswith("factors") else 1.0
            decay = optimizer.decay_of(name) if optimizer.decay == "per_rating" else 0.0
            values.append(np.full(k if name.endswith("factors") else 1, 0.5 * decay * power))
        return np.concatenate(values)

    def _admit(self, users: np.ndarray, items: np.ndarray) -> None:
        """Make room for new ids: rows of the mean, nothing seen."""
        moved = {}
        for side, ids in (("user", users), ("item", items)):
            old = self._side(side)
            merged = Vocabulary._trusted(np.unique(np.concatenate([old.ids, ids]))) if len(ids) else old
            place = merged.index(old.ids)
            for name in fold_in.names(side, self.weights_):
                w = self.weights_[name]
                table = np.empty((len(merged), *w.shape[1:]), w.dtype)
                table[...] = w.mean(axis=0, dtype=np.float64)
                table[place] = w
                self.weights_ = self.weights_ | {name: table}
            moved[side] = place, len(merged)
            if side == "user":
                self.users_ = merged
            else:
                self.items_ = merged
        if self.titles_ is not None:
            titles = np.full(moved["item"][1], None, object)
            titles[moved["item"][0]] = self.titles_
            self.titles_ = titles
        if self.seen_ is not None:
            sizes = np.zeros(moved["user"][1], np.int64)
            sizes[moved["user"][0]] = np.diff(self.seen_.start)
            start = np.concatenate([[0], np.cumsum(sizes)])
            self.seen_ = Skip(start, moved["item"][0].astype(np.int32)[self.seen_.items])
        self._cache = {}

    def _place(self, side: str, ids: np.ndarray, x: np.ndarray) -> None:
        at = self._side(side).index(ids)
        k = self.model_.n_factors
        for name, value in zip(fold_in.names(side, self.weights_), (x[:, :k], x[:, -1]), strict=False):
            self.weights_[name][at] = value
        self._cache = {}

    def _see(self, user: np.ndarray, item: np.ndarray) -> None:
        if self.seen_ is not None:
            before = np.repeat(np.arange(len(self.users_)), np.diff(self.seen_.start))
            self.seen_ = Skip.of(
                np.concatenate([before, user]), np.concatenate([self.seen_.items, item]), len(self.users_)
            )

    def _title(self, items: Vocabulary, titles: np.ndarray) -> None:
        known = np.full(len(self.items_), None, object) if self.titles_ is None else self.titles_.copy()
        there = np.array([title is not None for title in titles.tolist()], dtype=np.bool_)
        known[self.items_.index(items.ids)[there]] = titles[there]
        self.titles_ = known

    # --- how good ------------------------------------------------------------------------------------------------

    def evaluate(self, test: Any, y: Any = None, k: int = 10, relevant: float | None = None) -> dict[str, float]:
        """Errors on known ratings, and what lists of k would have found.

        Parameters
        ----------
        test, y
            As for `fit`.
        k : int
        relevant : float, optional
            An item is relevant to a user who rated it this high in `test`; by default, at least the mean rating of
            training.

        Returns
        -------
        dict
            ``rmse``, ``mae``; ``precision``, ``recall``, ``ndcg`` and ``map`` at k, means over the users who have a
            relevant item in `test`, of lists among all items that they had not seen; ``coverage``, the share of items
            in these lists; ``rows``, ``rows_unknown`` (of an unknown user or item), ``users`` (in the means),
            ``users_unknown`` (of all in `test`). Rows of unknown ids count as ``unknown`` says: predicted by the
            mean row and included ("bias"), or left out ("nan").
        """
        check_is_fitted(self)
        k = check_whole("k", k, 1)
        ratings = self._ratings(test, y)
        frame = self._columns(ratings, rated=False)
        predicted, known = self.predict(frame, return_known=True)
        counted = np.isfinite(predicted)
        result: dict[str, float] = {"rmse": math.nan, "mae": math.nan}
        if counted.any():
            result = {
                "rmse": metrics.rmse(ratings.rating[counted], predicted[counted]),
                "mae": metrics.mae(ratings.rating[counted], predicted[counted]),
            }
        limit = self.mean_ if relevant is None else check_number("relevant", relevant)
        good = ratings.rating >= limit
        user = self._lookup("user", ratings.users.ids)
        asked = np.bincount(ratings.user[good], minlength=ratings.n_users) > 0
        if self.unknown == "nan":
            asked &= user >= 0
        names = ("precision", "recall", "ndcg", "map")
        result |= dict.fromkeys((*names, "coverage"), math.nan)
        if asked.any():
            hits, total, items = self._hits(ratings, good, np.flatnonzero(asked), k)
            functions = (metrics.precision, metrics.recall, metrics.ndcg, metrics.average_precision)
            result |= {name: float(f(hits, total).mean()) for name, f in zip(names, functions, strict=True)}
            result["coverage"] = metrics.coverage(items, len(self.items_))
        return result | {
            "rows": len(ratings),
            "rows_unknown": int((~known).sum()),
            "users": int(asked.sum()),
            "users_unknown": int((user < 0).sum()),
        }

    def _hits(
        self, ratings: Ratings, good: np.ndarray, asked: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For some users of `ratings`: which places of their lists are relevant, how many items are, the items."""
        lists = self.recommend(ratings.users.ids[asked], k)
        place = np.full(ratings.n_users, -1)
        place[asked] = np.arange(len(asked))
        row = place[ratings.users.index(lists[self.user].to_numpy())]
        item = self.items_.index(lists[self.item].to_numpy())
        own = self.items_.index(ratings.items.ids, missing=-1)[ratings.item]
        wanted = good & (own >= 0)
        size = len(self.items_)
        pairs = place[ratings.user[wanted]].astype(np.int64) * size + own[wanted]
        hits = np.zeros((len(asked), k), bool)
        hits[row, lists["rank"].to_numpy() - 1] = np.isin(row.astype(np.int64) * size + item, pairs)
        total = np.bincount(ratings.user[good], minlength=ratings.n_users)[asked]
        return hits, total, item

    # --- files ---------------------------------------------------------------------------------------------------

    def factors(self, side: str = "item") -> pd.DataFrame:
        """Ids, titles, biases and factors as a table (``.to_parquet(path)`` writes it to a file)."""
        check_is_fitted(self)
        return self._factors(side, np.arange(len(self._side(side))))

    def _factors(self, side: str, rows: np.ndarray) -> pd.DataFrame:
        table: dict[str, Any] = {getattr(self, side): self._side(side).ids[rows]}
        if side == "item" and self.titles_ is not None:
            table["title"] = self.titles_[rows]
        if f"{side}_bias" in self.weights_:
            table["bias"] = self.weights_[f"{side}_bias"][rows]
        factors = self.weights_[f"{side}_factors"][rows]
        return pd.DataFrame(table | {f"factor_{j}": factors[:, j] for j in range(factors.shape[1])})

    @property
    def trainer_(self) -> Trainer:
        """A trainer with these weights, for what asks for one (`minicf.explain`)."""
        if not self._fitted():
            raise AttributeError("trainer_ is there after fit")
        return Trainer(self.model_, SGD(0.0), backend=self.backend, weights=self.weights_)

    def save(self, path: str | os.PathLike[str], seen: bool = True) -> None:
        """Write all that `load` needs to one ``.npz`` file without pickle; `path` is replaced whole or not at all.

        Parameters
        ----------
        path : path
        seen : bool
            With the items that each user has rated; without them the file says less about its users, and
            `recommend` cannot leave them out.
        """
        check_is_fitted(self)
        seen = check_flag("seen", seen)  # "no" would write what users have seen
        header: dict[str, Any] = {
            "arguments": self._arguments(),
            "model": models.to_config(self.model_),
            "mean": self.mean_,
            "deviation": self.deviation_,
            "unit": self._unit,
            "rating_range": list(self.rating_range_),
            "n_ratings": self.n_ratings_,
            "n_features_in": self.n_features_in_,
            "history": {name: column.tolist() for name, column in self.history_.items()},
            "ids": {side: "text" if self._side(side).ids.dtype == object else "int" for side in SIDES},
            "titles": self.titles_ is not None,
            "seen": seen and self.seen_ is not None,
            "versions": versions(),
        }
        arrays = {f"weights.{name}": w for name, w in self.weights_.items()}
        for side in SIDES:
            ids = self._side(side).ids
            if ids.dtype == object:
                arrays |= {f"{side}_ids.{name}": a for name, a in files.pack_texts(ids).items()}
            else:
                arrays[f"{side}_ids.ids"] = ids
        if self.titles_ is not None:
            arrays |= {f"titles.{name}": a for name, a in files.pack_texts(self.titles_).items()}
        if seen and self.seen_ is not None:
            arrays |= {"seen.start": self.seen_.start, "seen.items": self.seen_.items}
        files.write(path, KIND, header, arrays)

    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments as JSON holds them; of a random state that is no number, nothing is kept."""
        arguments = self.get_params(deep=False)
        if isinstance(self.model, Model):
            arguments["model"] = models.to_config(self.model)
        if self.optimizer is not None:
            arguments["optimizer"] = optim.to_config(self.optimizer)
        if isinstance(self.schedule, Schedule):
            arguments["schedule"] = {"kind": type(self.schedule).__name__, **asdict(self.schedule)}  # type: ignore[call-overload]
        if not isinstance(self.random_state, int | np.integer):
            arguments["random_state"] = None
        return json.loads(json.dumps(arguments, default=lambda value: value.item()))

    def _fitted(self) -> bool:
        return hasattr(self, "weights_")

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_cache" in state:
            state["_cache"] = {}  # programs and indexes are made anew where they are needed
        return state


# --- files ------------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], backend: str | None = None) -> Recommender:
    """The recommender that was saved.

    Parameters
    ----------
    path : path
    backend : str, optional
        Another than it was saved with.

    Raises
    ------
    FileError
        The file is damaged, cut short, made by a newer minicf, or none of its recommenders. Nothing in it is
        executed, and nothing larger than itself allocated.
    """
    header, arrays = files.read(path, KIND)
    if backend is not None:
        get_backend(backend)  # one that cannot run here is not the file's fault
    try:
        recommender = _restored(header, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise files.FileError(f"{Path(path)} is no whole recommender: {error!r}") from error
    if backend is not None:
        recommender.backend = backend
    return recommender


def _restored(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Recommender:
    """A recommender from what `save` wrote; everything is checked, for a file may say anything."""
    arguments = dict(header["arguments"])
    if isinstance(arguments["model"], dict):
        arguments["model"] = models.from_config(arguments["model"])
    if arguments["optimizer"] is not None:
        arguments["optimizer"] = optim.from_config(arguments["optimizer"])
    if isinstance(arguments["schedule"], dict):
        arguments["schedule"] = schedules.from_config(arguments["schedule"])
    self = Recommender(**arguments)
    self._resolve()
    self.model_ = models.from_config(header["model"])
    vocabularies = []
    for side in SIDES:
        stored = files.section(arrays, f"{side}_ids")
        if header["ids"][side] == "text":
            ids = files.unpack_texts(stored)
        else:
            ids = stored["ids"]
            if ids.dtype != np.int64:
                raise ValueError(f"{side} ids are {ids.dtype}")
        vocabularies.append(Vocabulary(ids))
    self.users_, self.items_ = vocabularies
    if not (len(self.users_) and len(self.items_)):
        raise ValueError("no users, or no items")
    self.weights_ = files.section(arrays, "weights")
    shapes = self.model_.shapes(len(self.users_), len(self.items_))
    if set(shapes) != set(self.weights_):
        raise ValueError(f"weights are {sorted(self.weights_)}, the model has {sorted(shapes)}")
    for name, shape in shapes.items():
        w = self.weights_[name]
        if w.shape != shape or w.dtype != np.float32 or not np.isfinite(w).all():
            raise ValueError(f"weight {name!r} is {w.dtype} of shape {w.shape}, or not finite; {shape} is needed")
    self.weights_ = {name: self.weights_[name] for name in shapes}
    self.titles_ = None
    if header["titles"]:
        self.titles_ = files.unpack_texts(files.section(arrays, "titles"))
        if len(self.titles_) != len(self.items_):
            raise ValueError(f"{len(self.titles_)} titles for {len(self.items_)} items")
    self.seen_ = None
    if header["seen"]:
        self.seen_ = Skip(arrays["seen.start"], arrays["seen.items"])
        _check_seen(self.seen_, len(self.users_), len(self.items_))
    self.mean_, self.deviation_, self._unit = (_finite(header[name]) for name in ("mean", "deviation", "unit"))
    low, high = header["rating_range"]
    self.rating_range_ = _finite(low), _finite(high)
    if not (self._unit > 0 and self.deviation_ > 0 and low <= high):
        raise ValueError(f"unit is {self._unit}, deviation {self.deviation_}, rating_range {low} … {high}")
    self.n_ratings_ = check_whole("n_ratings", header["n_ratings"], 1)
    self.n_features_in_ = check_whole("n_features_in", header["n_features_in"], 2)
    self.history_ = pd.DataFrame(header["history"])
    _finite(self.history_["train_mse"].iloc[-1])
    self._cache = {}
    return self


def _check_seen(seen: Skip, n_users: int, n_items: int) -> None:
    start, items = seen
    right = (
        start.dtype == np.int64
        and items.dtype == np.int32
        and start.shape == (n_users + 1,)
        and items.ndim == 1
        and start[0] == 0
        and start[-1] == len(items)
        and (np.diff(start) >= 0).all()
        and (items.size == 0 or (items.min() >= 0 and items.max() < n_items))
    )
    if not right:
        raise ValueError("the seen items do not fit the users and items")


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number


def versions() -> dict[str, str]:
    """minicf, Python and the libraries that numbers depend on."""
    import minicf

    return {
        "minicf": minicf.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pandas": pd.__version__,
    }


# --- helpers ----------------------------------------------------------------------------------------------------------


def _defaults(model: Model) -> dict[str, Any]:
    return DOT_DEFAULTS if isinstance(model, Dot) else NET_DEFAULTS


def _centred(model: Model, mean: float) -> Model:
    """The model with the mean rating as its `global_mean`, if it has none of its own."""
    if isinstance(model, Hybrid):
        members = {name: (_centred(head, mean), weight) for name, (head, weight) in model.members.items()}
        return Hybrid(members, model.output)
    if model.global_mean:
        return model
    if model.rating_range is not None:
        low, high = model.rating_range
        share = min(max((mean - low) / (high - low), 0.01), 0.99)
        mean = math.log(share / (1.0 - share))  # the score that the range turns into the mean
    return replace(model, global_mean=mean)  # type: ignore[type-var]


def _in_units(model: Model, mean: float, unit: float) -> Model:
    """The model for ratings of which `mean` was taken off and that were divided by `unit`."""
    if not isinstance(model, Dot) or unit == 1.0:
        return model
    if model.rating_range is not None:
        low, high = model.rating_range
        return replace(model, rating_range=((low - mean) / unit, (high - mean) / unit))
    return replace(model, global_mean=(model.global_mean - mean) / unit)


def _scaled(model: Model, weights: Mapping[str, np.ndarray], unit: float) -> dict[str, np.ndarray]:
    """Weights whose scores are `unit` times as large; those before a rating range stay, the range was scaled."""
    if unit == 1.0 or model.rating_range is not None:  # a hybrid has no unit but 1
        return dict(weights)
    root = math.sqrt(unit)
    return {name: w * w.dtype.type(root if name.endswith("factors") else unit) for name, w in weights.items()}


def _rated(ratings: Ratings) -> Ratings:
    """The same ratings, with vocabularies of the users and items that are rated."""
    columns: list[Any] = []
    kept = []
    for index, vocabulary, counts in (
        (ratings.user, ratings.users, ratings.user_counts()),
        (ratings.item, ratings.items, ratings.item_counts()),
    ):
        present = counts > 0
        kept.append(present)
        position = np.cumsum(present, dtype=np.int32) - np.int32(1)
        columns += [position[index], vocabulary if present.all() else Vocabulary._trusted(vocabulary.ids[present])]
    user, users, item, items = columns
    titles, genres = (None if t is None else t[kept[1]].copy() for t in (ratings.titles, ratings.genres))
    return Ratings._trusted(user, item, ratings.rating, ratings.timestamp, users, items, titles, genres)


def _normal(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1)).astype(np.float32)


def _listed(ids: Any) -> pd.Series:
    """One id, or many, as a series that keeps their types."""
    if pd.api.types.is_scalar(ids):
        ids = [ids]
    if isinstance(ids, pd.Series):
        return ids.reset_index(drop=True)
    if isinstance(ids, np.ndarray | pd.Index):
        check_unmasked("ids", ids)
        if ids.ndim != 1:
            raise ValueError(f"ids have shape {ids.shape}: pass one id or a 1-d array of ids")
        return pd.Series(ids).reset_index(drop=True)
    return pd.Series(list(ids), dtype=object)


def _objects(rows: Any) -> np.ndarray:
    """Nested lists as an array that leaves 1 and "1" what they are."""
    if isinstance(rows, str | bytes | Mapping) or not hasattr(rows, "__len__"):
        file = "; pandas.read_csv makes a frame of a file" if isinstance(rows, str) else ""
        raise TypeError(
            f"X is a {type(rows).__name__}: give a frame, Ratings or an array of user ids and item ids{file}"
        )
    return np.array(rows, dtype=object)


def _to_pandas(frame: Any, wanted: list[str]) -> pd.DataFrame:
    """The wanted columns of a polars, pyarrow or other frame."""
    try:
        import narwhals as nw
    except ImportError:
        raise ImportError(f"reading a {type(frame).__module__} frame needs narwhals: pip install narwhals") from None
    table = nw.from_native(frame, eager_only=True)
    present = [name for name in wanted if name in table.columns]
    return pd.DataFrame({name: table[name].to_numpy() for name in (present or table.columns)})


def _twin(vocabulary: Vocabulary, values: Any) -> str | None:
    """A hint if one of the unknown values is known as another type: "10" was given, 10 is known."""
    text = vocabulary.ids.dtype == object
    for value in values[:1000]:
        twin: Any = None
        if text and isinstance(value, int | np.integer | float | np.floating):
            twin = str(int(value)) if float(value).is_integer() else str(value)
        elif not text and isinstance(value, str) and value.isdecimal() and len(value) < 19:
            twin = int(value)
        if twin is not None and vocabulary.index(twin, missing=-1) >= 0:
            return f"{value!r} was given, {twin!r} is known: ids here are {'text' if text else 'whole numbers'}"
    return None


__all__ = ["Recommender", "load"]
