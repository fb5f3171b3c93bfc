"""`Recommender`: a scikit-learn estimator whose methods take and return the ids of its users."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from minicf.arguments import check_bool, check_int
from minicf.backends import get_backend
from minicf.data import Bags, Features, Ratings
from minicf.data.bags import example_weights
from minicf.models import Dot, DotBias, Model
from minicf.optim import SGD, Optimizer
from minicf.recommender import files
from minicf.recommender.conditioning import Conditioning, check_later, conditioned, unlike
from minicf.recommender.described import described
from minicf.recommender.fold_in import FoldIn, Rows, Usable, usable_ratings
from minicf.recommender.growth import Growth, unseen
from minicf.recommender.inputs import SIDES, of_side, opposite, warn, warn_of_values
from minicf.recommender.measured import Measured
from minicf.recommender.preference import EPOCHS, Preference, Reading, of_events, usual_solver
from minicf.recommender.settings import Settings, seed_of, takes_gibbs
from minicf.recommender.snapshots import Interrupted, reading, writing
from minicf.recommender.training import moments, r_hat_table, sample, suits_chains, train
from minicf.recommender.units import Units, centered
from minicf.schedules import Schedule
from minicf.solvers import Gibbs, Solver
from minicf.solvers.convergence import report
from minicf.train import Trainer

if TYPE_CHECKING:
    # scikit-learn has no types. On bases of unknown type, every name would be an attribute, misspelt ones too.
    class BaseEstimator:
        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Self: ...
        def __getstate__(self) -> Any: ...
        def __sklearn_tags__(self) -> Any: ...

    class RegressorMixin: ...
else:
    from sklearn.base import BaseEstimator, RegressorMixin

LATER_RATE, LATER_EPOCHS = 0.3, 10
"""The share of the learning rate and the epochs of `Recommender.partial_fit`. With a fifth of MovieLens' training rows
given later: rmse 0.898, against 0.908 without them and 0.892 of one `fit` of all (inside training rows). More epochs do
no better, and the full learning rate forgets."""


class Recommender(Measured, RegressorMixin, BaseEstimator):
    """Predict ratings and recommend items, from a table of ratings; a scikit-learn estimator.

    Parameters
    ----------
    model : "dot_bias", "dot", "svd++", "net", "hybrid" or Model
        A model object is used as it is, except that a `global_mean` of 0 becomes the mean rating. "svd++" trains
        `SVDpp` and keeps what that became, a `DotBias`; so do "dot_bias" and "dot" with features, without histories.
    n_factors : int, optional
        K, for a model given by name; by default 128, and 7 for Gibbs sampling, whose average over samples is a model of
        16 factors, or of K where that is more.
    solver : "auto", "sgd", "adam", "gibbs" or Solver
        "auto": SGD for "svd++" and Adam for nets. For "dot_bias" and "dot" Gibbs sampling, unless something is given
        that it does not have (`optimizer` … `regularization`, and of `fit` `sample_weight`, `valid` and callbacks that
        go by the best epoch), or it would take more than about a minute or a gigabyte (`settings.GIBBS_SECONDS`,
        `GIBBS_BYTES`): then SGD.
        The choice is logged.
    optimizer : Optimizer, optional
        For solver="sgd" or "adam", in place of the default one.
    epochs, batch_size : int, optional
        By default those of the default optimizer: 40 epochs of online SGD (batch size 1) for dot products, 10 epochs of
        batches of 64 for nets.
    learning_rate, regularization : float, optional
        In place of the default optimizer's learning rate and weight decay (that of the factors: biases keep their share
        of it). For dot products, of standardized ratings.
    n_samples, burn_in, n_chains : int
        Of Gibbs sampling: sweeps that are kept, sweeps before them, and chains, which threads share.
    schedule : "cosine", "one_cycle", "constant" or Schedule
        Of the learning rate of gradient descent.
    early_stopping : int, optional
        Hold out `validation_fraction` of the ratings, stop when their error has not fallen for this number of epochs,
        and take the best epoch.
    validation_fraction : float
    backend : str
        "auto" takes the fastest backend that runs here.
    random_state : int, RandomState or None
    unknown : "bias", "nan" or "raise"
        Policy for unknown ids (without a rating in training, and without features), in every method. "bias": an unknown
        user is scored as the mean user, an unknown item as the mean item. "nan": no score, and no list. "raise": an
        `UnknownIdError`. Methods that return tables flag unknown ids in a column ``known``.
    feedback : "explicit" or "implicit"
        Ratings, or events: views, plays, purchases, without a column of ratings. A table of `Ratings.from_events` is
        taken for events by itself. Of events `ALS` trains a `Dot`, and `predict` and `recommend` give the same score,
        that of a preference; `n_factors`, `epochs` (passes), `regularization` and ``solver=ALS(...)`` are its settings.
    lists : "preference" or "rating"
        What `recommend` sorts by. "preference": `fit` also trains a model of what users take and like, (L1) of
        `minicf.recommender.preference`, on the same table; `predict` answers with ratings. "rating": no such model; nor
        with features, which alone say something of items without ratings.
    user, item, rating : str
        Columns of a frame.
    duplicates : "warn", "mean", "last" or "error"
        Policy for repeated ratings of an item by a user, wherever a table of ratings is read: take their "mean"
        ("warn": and warn of their number, as they may be an error in the data, or a log, where the mean is right or
        the "last" is), take the last row, or refuse them. Repeated events are summed.
    n_threads : int, optional
        The largest number of threads; by default NUMBA_NUM_THREADS, OMP_NUM_THREADS or the number of cores.
    verbose : bool
        Show progress on stderr.

    Attributes
    ----------
    users_, items_ : Vocabulary
        The known ids: those with a rating in training, or a row of features.
    titles_ : array of object, or None
        A title, or None, for each item.
    solver_ : Solver
        What trained: `Gradient`, `Gibbs` or the solver given.
    posterior_ : Posterior or None
        After Gibbs sampling, the samples: what `predict` has its deviations from.
    model_ : Model
        After Gibbs sampling, the `DotBias` nearest to the mean of the samples.
    weights_ : dict of float32 arrays
        By name; rows of tables are in the order of the vocabularies.
    history_ : DataFrame
        One row per epoch, see `minicf.History`; of Gibbs sampling one per sweep, with the error of its sample, and
        ``mean_mse``, that of the mean prediction of the samples so far on a thousand of the ratings (NaN in burn-in):
        where it no longer falls, further samples change little.
    described_ : bool
        Whether training had features of users or items.
    rating_range_ : (float, float)
        The lowest and the highest rating in training; predictions stay within.
    mean_, std_ : float
        Mean and standard deviation of the ratings, weighted if they have weights.
    unit_ : float
        Unit of the ratings in training: `std_` with the default optimizers of dot products, otherwise 1.
    feedback_ : "explicit" or "implicit"
        What training was of.
    score_kind_ : "stars" or "preference"
        What `predict` gives: ratings, or, of events, the scores of lists, see `recommend`.
    preference_ : Preference or None
        The model that lists are made by. Of events, it has the arrays of `weights_`.
    seen_ : Bags or None
        The seen items of each user: those with a rating in training.
    n_ratings_ : int
        The number of ratings in training.

    Notes
    -----
    With a default optimizer, `Dot` and `DotBias` are trained on standardized ratings (mean 0, standard deviation 1),
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

    def __init__(
        self,
        model: str | Model = "dot_bias",
        *,
        n_factors: int | None = None,
        solver: str | Solver = "auto",
        optimizer: Optimizer | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        schedule: str | Schedule = "cosine",
        learning_rate: float | None = None,
        regularization: float | None = None,
        n_samples: int = 100,
        burn_in: int = 20,
        n_chains: int = 1,
        early_stopping: int | None = None,
        validation_fraction: float = 0.1,
        backend: str = "auto",
        random_state: Any = 0,
        unknown: str = "bias",
        feedback: str = "explicit",
        lists: str = "preference",
        user: str = "userId",
        item: str = "movieId",
        rating: str = "rating",
        duplicates: str = "warn",
        n_threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.n_factors = n_factors
        self.solver = solver
        self.optimizer = optimizer
        self.epochs = epochs
        self.batch_size = batch_size
        self.schedule = schedule
        self.learning_rate = learning_rate
        self.regularization = regularization
        self.n_samples = n_samples
        self.burn_in = burn_in
        self.n_chains = n_chains
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.backend = backend
        self.random_state = random_state
        self.unknown = unknown
        self.feedback = feedback
        self.lists = lists
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
        tags.regressor_tags.poor_score = True  # where the target is no function of a user and an item
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_")

    @property
    def score_kind_(self) -> str:
        check_is_fitted(self)
        return "preference" if self._implicit else "stars"

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_cache" in state:
            state["_cache"] = {}  # programs and indexes are made anew at their next use
        return state

    # --- training --------------------------------------------------------------------------------------------

    @writing
    def fit(
        self,
        X: Any,
        y: Any = None,
        titles: Any = None,
        sample_weight: Any = None,
        valid: Any = None,
        callbacks: Iterable[Any] = (),
        item_features: Any = None,
        user_features: Any = None,
    ) -> Recommender:
        """Train on a table of ratings, or of events, from the beginning.

        Parameters
        ----------
        X : DataFrame, Ratings, or array of shape (n, 2)
            A frame (pandas, or any that narwhals reads) with the columns `user` and `item`, and `rating` if there is
            no `y`; or user ids and item ids side by side. Ids are integers or text. Of events, no ratings; a row for
            each, repeated ones are summed.
        y : array of shape (n,), optional
            The ratings; needed with an array, refused with events.
        titles : mapping or Series from item id to text, optional
            By default those of X, if it is `Ratings`.
        sample_weight : array of shape (n,), optional
            A weight of at least 0 for each rating in the loss, in `mean_` and in `std_`; by default those of X, if it
            is `Ratings`. A row of weight 0 is left out. Their mean acts on the learning rate: let it be near 1. Of
            events: counts, seconds, revenue, below 0 for a dislike; they act by their logarithm, (L2).
        valid : DataFrame, Ratings or tuple (X, y), optional
            Predicted after each epoch, for `history_`, and for `early_stopping` in place of a `validation_fraction`.
            Rows with unknown ids are left out, with a warning, or raise if ``unknown="raise"``; weights do not count.
        callbacks : iterable of Callback
            As for `Trainer.fit`. The trainer that they see works in training units: with the default optimizer of
            dot products its ratings are standardized, (r - `mean_`) / `unit_`, and so are errors and weights.
        item_features, user_features : DataFrame, optional
            What is known of items and users beside ratings, for "dot_bias", "dot" and "svd++", by Gibbs sampling or
            gradient descent: a row an id, which is the index or the column `item` or `user`; other columns are numbers,
            booleans, text ("Action|Comedy" is two categories) or lists. An id that is described is known, and predicted
            by its features, though it has no rating. Their decay is `settings.FEATURE_DECAY`; ratings that
            `partial_fit` adds go on from the rows, without features.

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
            After Ctrl-C. As after any error, the recommender is as it was before the call; but once Gibbs sampling has
            samples, it is fitted, with the mean of those.
        """
        if isinstance(callbacks, Iterator):  # is read more than once
            callbacks = list(callbacks)
        arguments, frames = self.get_params(deep=False), {"user": user_features, "item": item_features}
        Settings.of(arguments)
        self.feedback_ = "implicit" if getattr(X, "implicit", False) else self.feedback
        ratings, self.n_features_in_ = self.inputs.training(X, y, titles, sample_weight)
        self.rating_range_ = float(ratings.rating.min()), float(ratings.rating.max())
        if titles is None and isinstance(X, Ratings) and X.titles is not None:
            titles = pd.Series(X.titles, X.items.ids)
        if self._implicit:
            given = {"valid": valid, "item_features": item_features, "user_features": user_features}
            return self._fit_events(ratings, {name: x is not None for name, x in given.items()}, callbacks)
        ratings, features = described(ratings, frames, self.inputs, titles)
        inside = warn_of_values(ratings)
        asked = {
            "sample_weight": example_weights(ratings) is not None,
            "valid": valid is not None,
            "callbacks": not suits_chains(callbacks),
        }
        settings = Settings.of(arguments, takes_gibbs(arguments, ratings, asked), tuple(features))
        if settings.named:  # of squared errors, one outlier would be most of the sum
            ratings = inside
        seed = seed_of(self.random_state)
        self.mean_, self.std_ = moments(ratings)
        self.unit_ = self.std_ if settings.named and type(settings.kept) in (Dot, DotBias) else 1.0
        self.model_ = centered(settings.kept, self.mean_)
        self.users_, self.items_, self.titles_ = ratings.users, ratings.items, ratings.titles
        held = None if valid is None else self.inputs.validation(valid)
        self.n_ratings_ = len(ratings)
        self.seen_ = Bags.of(ratings.user, ratings.item, ratings.n_users)
        self.preference_ = None
        if self.lists == "preference" and not features:  # only features say anything of items without ratings
            reading, solver = Reading.of(ratings, self.mean_, self.std_), usual_solver(ratings)
            self.preference_ = Preference.train(ratings, reading, solver, EPOCHS, self._options(seed))[0]
        self._train(ratings, settings, seed, None, held, callbacks, features)
        return self

    def _fit_events(self, ratings: Ratings, asked: Mapping[str, bool], callbacks: Iterable[Any]) -> Recommender:
        """Train on events; `asked` are arguments that only ratings have."""
        solver, k, epochs = of_events(self.get_params(deep=False), ratings, asked)
        options = self._options(seed_of(self.random_state)) | {"verbose": self.verbose}
        self.preference_, self.history_ = Preference.train(
            ratings, Reading.of(ratings, 0.0, 1.0), solver, epochs, options, k, callbacks=callbacks
        )
        self.users_, self.items_, self.titles_ = ratings.users, ratings.items, ratings.titles
        self.seen_, self.n_ratings_ = Bags.of(ratings.user, ratings.item, ratings.n_users), len(ratings)
        self.rating_range_ = float(ratings.rating.min()), float(ratings.rating.max())
        self.mean_, self.std_ = moments(ratings)
        self.unit_, self.described_, self.posterior_, self.solver_ = 1.0, False, None, solver
        self.model_, self.weights_, self._cache = self.preference_.model, self.preference_.weights, {}
        return self

    def _options(self, seed: int) -> dict[str, Any]:
        return {"backend": self.backend, "seed": seed, "n_threads": self.n_threads, "verbose": False}

    @writing
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
            As for `fit`. Training uses only these ratings: earlier ones are not stored. After Gibbs sampling, give all
            ratings, old and new, where you have them: the posterior is then that of a `fit`, see below.
        epochs : int, optional
            Passes through them; 10 by default.

        Notes
        -----
        New users and items start from the rows of `fold_in`, if they have ratings with known ids of the other side,
        otherwise from the mean row; weights act in training, not there. Training then continues as in `fit`, but at
        `LATER_RATE` of its learning rate, so that it does not forget the earlier ratings.

        After Gibbs sampling there are two ways, both without epochs, weights or callbacks. If X has every pair of
        `seen_`, each chain goes on from its last sample on the ratings of X, new ids from the mean row: after
        `training.LATER_BURN_IN` sweeps (10) it takes `n_samples` samples, which replace those of before; `history_`
        grows by these sweeps. This takes about as long as `fit`. Otherwise, or after training with features, which
        are not stored, the samples of these users, and then of these items, are conditioned on the ratings, by (P13)
        of `minicf.recommender.conditioning`: one pass, which leaves all other rows.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y, titles, sample_weight, callbacks=callbacks)
        settings, inputs = self._settings(), self.inputs
        new = inputs.ratings(X, y, titles, sample_weight)
        sampled = isinstance(self.solver_, Gibbs)
        if sampled:
            check_later(self.posterior_, self.seen_, epochs, new, callbacks)
        known = {}
        for side in SIDES:
            vocabulary, index = of_side(new, side)
            inputs.check_id_type(side, vocabulary)
            known[side] = inputs.vocabulary(side).index(vocabulary.ids, missing=-1)[index]
        solved: dict[str, Rows] = {}
        for side in (
            SIDES if not sampled and not self._implicit else ()
        ):  # both with the tables of before: neither depends on the new rows of the other
            vocabulary, index = of_side(new, side)
            other = known[opposite(side)]
            where = np.flatnonzero((known[side] < 0) & (other >= 0))
            solved[side] = self._solver().rows(side, vocabulary.ids[index[where]], other[where], new.rating[where])
        if self._implicit and self.preference_ is not None:
            self.preference_.check_later(epochs)
        growth = self._grow({"user": new.users.ids, "item": new.items.ids}, solved)
        self.titles_ = growth.titles(self.titles_, new.items, new.titles)
        user, item = self.users_.index(new.users.ids)[new.user], self.items_.index(new.items.ids)[new.item]
        before = growth.seen(self.seen_, user[:0], item[:0])
        whole = False
        if sampled and self.posterior_ is not None and before is not None:
            further, whole = unlike(before, user, item)
            if self.described_ or not whole:
                at = further if whole else slice(None)
                self.posterior_, self.weights_ = conditioned(
                    self.posterior_, self.weights_, before, {"user": user[at], "item": item[at]}, new.rating[at],
                    {side: known[side][at] >= 0 for side in SIDES},
                )  # fmt: skip
        self.seen_ = growth.seen(self.seen_, user, item)
        joined = Ratings._trusted(
            user.astype(np.int32), item.astype(np.int32), new.rating, None, self.users_, self.items_, None, None,
            new.weight, new.implicit,
        )  # fmt: skip
        if self.preference_ is not None:
            options, own = self._options(seed_of(self.random_state)), callbacks if self._implicit else ()
            self._set_preference(self.preference_.later(growth, joined, known, options, own))
        low, high = self.rating_range_
        self.rating_range_ = min(low, float(new.rating.min())), max(high, float(new.rating.max()))
        if self._implicit:
            self.n_ratings_ = len(self.preference_.pairs.index)  # type: ignore[union-attr]
            return self
        self.n_ratings_ = len(new) if whole else self.n_ratings_ + len(new)
        if whole and not self.described_:
            going_on = replace(settings, solver=self.solver_)
            self._train(joined, going_on, seed_of(self.random_state), going_on=True)
        elif not sampled:
            later = settings.later(LATER_RATE, LATER_EPOCHS if epochs is None else check_int("epochs", epochs, 1))
            self._train(joined, later, seed_of(self.random_state), self.weights_, callbacks=callbacks)
        return self

    def _set_preference(self, preference: Preference | None) -> None:
        self.preference_, self._cache = preference, {}
        if self._implicit and preference is not None:
            self.weights_ = preference.weights

    def _train(
        self,
        ratings: Ratings,
        settings: Settings,
        seed: int,
        weights: Mapping[str, np.ndarray] | None = None,
        valid: Ratings | None = None,
        callbacks: Iterable[Any] = (),
        features: Mapping[str, Features] = MappingProxyType({}),
        going_on: bool = False,
    ) -> None:
        """Set what training leaves; the last thing that `fit` does, for it may end in `Interrupted`."""
        if isinstance(settings.solver, Gibbs):
            before = (self.posterior_, self.history_) if going_on and self.posterior_ is not None else None
            solver = settings.solver.described(features)
            done = sample(ratings, self.model_, solver, settings, seed, callbacks, before)
        else:
            units = Units(self.mean_, self.unit_)
            done = train(ratings, self.model_, units, settings, seed, weights, valid, callbacks, features)
        self.solver_, self._cache = settings.solver, {}
        self.model_, self.weights_, self.history_, self.posterior_ = done[:4]
        self.described_ = bool(features)
        if isinstance(settings.solver, Gibbs):
            report(self.r_hat_, settings.solver.burn_in)
        if done.interrupted:
            raise Interrupted

    def _settings(self) -> Settings:
        return Settings.of(self.get_params(deep=False))

    # --- parts -------------------------------------------------------------------------------------------------

    @property
    def trainer_(self) -> Trainer:
        """A trainer with these weights; deprecated, `minicf.explain` takes the recommender itself."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError("trainer_ is available after fit")
        warnings.warn("trainer_ will be removed in 0.3; explain takes a Recommender", DeprecationWarning, stacklevel=2)
        return Trainer(self.model_, SGD(0.0), backend=self.backend, weights=self.weights_)

    @property
    def r_hat_(self) -> pd.DataFrame:
        """Whether the chains of Gibbs sampling have settled: split R-hat (P16) of `minicf.solvers.convergence`.

        A table with the columns `user`, `item` and ``r_hat``: first alpha, the precision of ratings, without ids, then
        the predictions of `training.PAIRS` rated pairs, always the same. Near 1 is good; above 1.1 in more than a few
        rows asks for more `burn_in`, or samples. With one chain it compares its halves, which tells less than chains.
        """
        solver = getattr(self, "solver_", None)
        if not isinstance(solver, Gibbs) or self.posterior_ is None or self.seen_ is None:
            raise AttributeError("r_hat_ is available after Gibbs sampling, with samples and seen items")
        ids = {self.user: self.users_.ids, self.item: self.items_.ids}
        return r_hat_table(self.posterior_, solver.n_chains, self.seen_, ids)

    @property
    def deviation_(self) -> float:
        """`std_` by its name in version 0.1; deprecated."""
        warnings.warn("deviation_ is now std_ and will be removed in 0.3", DeprecationWarning, stacklevel=2)
        return self.std_

    # --- new users and items -------------------------------------------------------------------------------------

    @writing
    def fold_in(self, ratings: Any, id: Any = None, side: str = "user") -> pd.DataFrame:
        """Add a new user, or item, from a few ratings or events, without training.

        Parameters
        ----------
        ratings : mapping, Series or DataFrame; of events also a list
            The other side's id -> rating, for the one new `id`; or, without `id`, a frame with the columns `user`,
            `item` and `rating` of any number of new ids. Ratings with unknown ids of the other side are left out, or
            raise if ``unknown="raise"``. Of events a list of the other side's ids, ``fold_in(["a", "b"], id="new")``,
            a mapping from them to weights, or a frame without ratings.
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
            An id that is already known (use `recalculate`), an id of another type than the known ids, or no rating
            with a known id of the other side.

        Notes
        -----
        Equations (G1) and (G3) of `minicf.recommender.fold_in`: ridge regression on the ratings, with a prior made of
        the weight decay of training and of the distribution of the rows of this side. The row of lists, and of events
        all there is, is the exact solution (A6) of `minicf.solvers.als`.
        """
        solved, liked, across = self._solved(ratings, id, side, known=False)
        growth = self._grow({side: solved[0]}, {side: solved})
        self.titles_ = growth.titles(self.titles_)
        self.seen_ = growth.seen(self.seen_, *self._pairs(side, across))
        self._join(growth, side, liked, across)
        return self._lists.factors(self.weights_, side, self.vocabulary(side).index(solved[0]))

    @writing
    def recalculate(self, ratings: Any, id: Any = None, side: str = "user") -> pd.DataFrame:
        """Solve the row of a known user, or item, anew from its present ratings, without training.

        Parameters
        ----------
        ratings, id, side
            As for `fold_in`, of known ids: all ratings of each, which replace those that it had.

        Returns
        -------
        DataFrame
            The new rows, as in `factors`: those that `fold_in` would give a new id, bit for bit. No other row changes.

        Raises
        ------
        ValueError
            An unknown id (use `fold_in`), or no rating with a known id of the other side.

        Notes
        -----
        `seen_` has the given ratings in place of the earlier ones; `n_ratings_` and `rating_range_` stay those of
        training. `partial_fit` instead adds ratings to those that a row was made from, and moves other rows too.
        """
        solved, liked, across = self._solved(ratings, id, side, known=True)
        growth = self._grow({}, {side: solved})
        rows = self.vocabulary(side).index(solved[0])
        if self.seen_ is not None:
            self.seen_ = growth.seen(unseen(self.seen_, side, rows), *self._pairs(side, across))
        self._join(growth, side, liked, across, rows)
        return self._lists.factors(self.weights_, side, self.vocabulary(side).index(solved[0]))

    def _solved(self, ratings: Any, id: Any, side: str, known: bool) -> tuple[Rows, Rows | None, Usable]:
        """Return the ids and rows of `FoldIn.rows`, those of `Preference.rows`, and the usable ratings."""
        check_is_fitted(self)
        self.vocabulary(side)
        inputs = self.inputs
        new = inputs.ratings_of_new(ratings, id, side)
        usable = usable_ratings(inputs, new, side, known)
        liked = None if self.preference_ is None else self.preference_.rows(side, *usable)
        if self._implicit and liked is not None:
            return liked, liked, usable
        lowest, highest = float(new.rating.min()), float(new.rating.max())
        low, high = self.rating_range_
        if lowest < low or highest > high:
            warn(f"ratings are {lowest:g} … {highest:g}; they must be on the scale of training, {low:g} … {high:g}")
        return self._solver().rows(side, *usable[:3]), liked, usable

    def _join(
        self, growth: Growth, side: str, liked: Rows | None, usable: Usable, replaced: np.ndarray | None = None
    ) -> None:
        """Put solved rows and their ratings into the model of lists."""
        if self.preference_ is not None and liked is not None:
            gone = None if replaced is None else (side, replaced)
            pairs = self._pairs(side, usable)
            joined = self.preference_.joined(growth, {side: liked}, *pairs, usable.rating, usable.weight, gone)
            self._set_preference(joined)

    def _pairs(self, side: str, ratings: Usable) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of user and item of ratings, given by the ids of a side and the rows of the other."""
        own, across = self.vocabulary(side).index(ratings.ids), ratings.other
        return (own, across) if side == "user" else (across, own)

    def _solver(self) -> FoldIn | Conditioning:
        if self.posterior_ is not None:
            return Conditioning(self.posterior_, self.weights_)
        if isinstance(self.solver_, Gibbs):  # and the samples were not saved
            noise = math.sqrt(self.history_["train_mse"].iloc[-1])
            return FoldIn(self.model_, self.weights_, noise, self.unit_, None)
        return FoldIn(self.model_, self.weights_, self.std_, self.unit_, self._settings().optimizer)

    def _grow(self, ids: Mapping[str, np.ndarray], solved: Mapping[str, Rows]) -> Growth:
        """Set larger vocabularies, tables and samples, by side; titles and seen items are left to the caller."""
        growth = Growth.of({side: self.vocabulary(side) for side in SIDES}, ids)
        self.users_, self.items_ = (growth.vocabularies[side] for side in SIDES)
        self.weights_ = growth.weights(self.model_, self.weights_, solved)
        if self.posterior_ is not None:
            self.posterior_ = growth.posterior(self.posterior_, solved)
        self._cache = {}
        return growth

    # --- files ---------------------------------------------------------------------------------------------------

    @reading
    def save(self, path: str | os.PathLike[str], seen: bool = True, samples: bool = True) -> None:
        """Save to one ``.npz`` file without pickle, for `load`; `path` is replaced as a whole or not at all.

        Parameters
        ----------
        path : path
        seen : bool
            Also save the seen items of each user. Without them the file says less about its users, and `recommend`
            cannot leave seen items out.
        samples : bool
            Also save the samples of Gibbs sampling, most of the file: without them there is no ``return_std`` and no
            `partial_fit`, and `fold_in` knows the small model alone.
        """
        check_is_fitted(self)
        # "no" would save seen items
        files.write(path, self, check_bool("seen", seen), check_bool("samples", samples))


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
