"""Train the model of a recommender in training units."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from minicf.data import Bags, Features, Ratings
from minicf.models import Dot, DotBias, Model, SVDpp
from minicf.recommender.settings import Settings, for_model, sampling_backend
from minicf.recommender.units import Units
from minicf.solvers import Gibbs, Gradient, Posterior
from minicf.solvers.convergence import r_hat
from minicf.train import EarlyStopping, Trainer

log = logging.getLogger("minicf")

RANK = 16
"""Factors of the model that is made of the samples, or as many as a sample has, where it has more."""

MIN_TILED = 50_000
"""The smallest number of ratings that are trained in tiles (see `minicf.tiles`): fewer make too few to shuffle."""


LATER_BURN_IN = 10
"""Sweeps that a chain which goes on with more ratings forgets its last state in, before samples are kept. That state
lacks means, precisions and weights of features, which the first sweeps draw from the rows."""

MONITORED = 1000
"""Ratings whose mean prediction `history_` follows: a thousand products of a few numbers, beside all of a sweep."""


PAIRS = 256
"""Predictions of `r_hat_table`."""


def moments(ratings: Ratings) -> tuple[float, float]:
    """Return mean and standard deviation of ratings, weighted where they have weights; 1 for a deviation of 0."""
    if ratings.weight is None:
        return ratings.mean, float(ratings.rating.std(dtype=np.float64)) or 1.0
    values, weight = ratings.rating.astype(np.float64), ratings.weight.astype(np.float64)
    mean = float(np.average(values, weights=weight))
    return mean, math.sqrt(np.average((values - mean) ** 2, weights=weight)) or 1.0


class Trained(NamedTuple):
    """Hold the result of a training."""

    model: Model
    weights: dict[str, np.ndarray]
    """In stars, float32."""
    history: pd.DataFrame
    """One row per epoch, errors in squared stars."""
    posterior: Posterior | None = None
    """Of Gibbs sampling."""
    interrupted: bool = False


def suits_chains(callbacks: Any) -> bool:
    """Return whether Gibbs sampling has all of these callbacks."""
    return isinstance(callbacks, list | tuple) and all(getattr(callback, "for_chains", True) for callback in callbacks)


class RunningMean:
    """Follow the training error of the mean prediction of the samples so far, on some ratings.

    Attributes
    ----------
    errors : list of float
        One a sweep, in squared stars; NaN in burn-in.
    """

    def __init__(self, ratings: Ratings, solver: Gibbs) -> None:
        at = np.unique(np.linspace(0, len(ratings) - 1, MONITORED).astype(np.int64))
        self._index = {"user": ratings.user[at], "item": ratings.item[at]}
        self._rating, self._burn_in = ratings.rating[at].astype(np.float64), solver.burn_in
        self._total, self._n = np.zeros(len(at)), 0
        self.errors: list[float] = []

    def on_epoch_end(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        if row["epoch"] <= self._burn_in:
            self.errors.append(math.nan)
            return
        slots, first = trainer.program.slots, int("user_bias" in trainer.program.w)
        x, w = (slots[f"x.{side}"][:, rows] for side, rows in self._index.items())
        y = np.einsum("cbk,cbk->cb", x[:, :, first:], w[:, :, first:])
        if first:
            y = y + x[:, :, 0] + w[:, :, 0]
        self._total, self._n = self._total + y.mean(axis=0), self._n + 1
        mean = trainer.model.global_mean + float(slots["scale"][0]) * self._total / self._n
        self.errors.append(float(np.mean((mean - self._rating) ** 2)))


def sample(
    ratings: Ratings,
    model: Model,
    solver: Gibbs,
    settings: Settings,
    seed: int,
    callbacks: Iterable[Any] = (),
    before: tuple[Posterior, pd.DataFrame] | None = None,
) -> Trained:
    """Sample the posterior distribution of a model, and make the model of `RANK` factors that is nearest to its mean.

    Parameters
    ----------
    ratings : Ratings
        In stars.
    model : Dot or DotBias
    solver : Gibbs
        That of the settings, with features where there are some.
    settings : Settings
    seed : int
    callbacks : iterable of Callback
    before : (Posterior, DataFrame), optional
        Samples of fewer ratings, with rows for all users and items, and the history of their sweeps. The chains go on
        from the last sample of each, with random numbers of later sweeps; `model` is then that of the samples.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C in burn-in. Later, the samples so far are the result.
    ValueError
        A callback stopped training in burn-in.
    """
    if before is None:
        trainer = _trainer(model, solver, settings, seed)
    else:
        trainer = _continued(before[0], len(before[1]), ratings, solver, settings, seed)
        assert isinstance(trainer.solver, Gibbs)
        solver = trainer.solver
    running, interrupted = RunningMean(ratings, solver), False
    if isinstance(callbacks, Iterable) and not isinstance(callbacks, str):  # else the trainer refuses them
        callbacks = [running, *callbacks]
    try:
        trainer.fit(
            ratings, epochs=solver.n_sweeps - trainer.epoch, callbacks=callbacks,
            progress=None if settings.verbose else False,
        )  # fmt: skip
    except KeyboardInterrupt:
        if trainer.epoch <= solver.burn_in:
            raise
        interrupted = True
        log.warning(
            "interrupted after %d of %d sweeps; the recommender has the mean of %d instead of %d samples",
            trainer.epoch, solver.n_sweeps, trainer.epoch - solver.burn_in, solver.n_samples,
        )  # fmt: skip
    posterior = Posterior.of(trainer.program)
    width = trainer.program.w["user_factors"].shape[1]
    small, weights = posterior.compress(max(RANK, width))
    history = trainer.history.frame().assign(mean_mse=running.errors)
    if before is not None:
        history = pd.concat([before[1], history], ignore_index=True)
    return Trained(small, weights, history, posterior, interrupted)


def _trainer(model: Model, solver: Gibbs, settings: Settings, seed: int, **options: Any) -> Trainer:
    backend = sampling_backend(settings.backend)
    return Trainer(model, solver, backend=backend, seed=seed, n_threads=settings.n_threads, **options)


def _continued(
    posterior: Posterior, sweeps: int, ratings: Ratings, solver: Gibbs, settings: Settings, seed: int
) -> Trainer:
    """Return a trainer whose chains stand at the last samples: ratings stay counted in the unit of those."""
    k = posterior.samples["user"].shape[2] - posterior.biases
    model = (DotBias if posterior.biases else Dot)(k, global_mean=posterior.mean)
    solver = replace(solver, burn_in=sweeps + LATER_BURN_IN)
    zeros = {name: np.zeros(shape) for name, shape in model.shapes(ratings.n_users, ratings.n_items).items()}
    trainer = _trainer(model, solver, settings, seed, weights=zeros)
    program, low, high = trainer.program, float(ratings.rating.min()), float(ratings.rating.max())

    def last(values: np.ndarray) -> np.ndarray:
        return values.reshape(solver.n_chains, -1, *values.shape[1:])[:, -1]

    state = program.state() | {
        "step": np.array(sweeps),
        "scale": np.array([posterior.scale, min(low, posterior.low), max(high, posterior.high)]),
        "alpha": last(posterior.alpha),
    }
    for side, values in posterior.samples.items():
        state |= {f"x.{side}": last(values), f"noise.{side}": last(posterior.noise[side])}
    program.load(zeros, state)
    trainer.epoch = sweeps
    return trainer


def r_hat_table(posterior: Posterior, n_chains: int, seen: Bags, ids: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return split R-hat (P16) of alpha, and of the predictions of pairs evenly spaced among those that were seen.

    Parameters
    ----------
    posterior : Posterior
    n_chains : int
    seen : Bags
    ids : dict of arrays
        Those of users, then those of items, each under the name of its column.
    """
    at = np.unique(np.linspace(0, len(seen.index) - 1, PAIRS).astype(np.int64))
    rows = seen.row[at], seen.index[at]
    table = pd.DataFrame({
        name: pd.Series([None, *own[index].tolist()], dtype=object)
        for (name, own), index in zip(ids.items(), rows, strict=True)
    })  # fmt: skip
    return table.assign(r_hat=r_hat(posterior, n_chains, *rows))


def train(
    ratings: Ratings,
    model: Model,
    units: Units,
    settings: Settings,
    seed: int,
    weights: Mapping[str, np.ndarray] | None = None,
    valid: Ratings | None = None,
    callbacks: Iterable[Any] = (),
    features: Mapping[str, Features] = MappingProxyType({}),
) -> Trained:
    """Train a model on ratings in stars, by a solver other than `Gibbs`.

    Parameters
    ----------
    ratings : Ratings
        In stars.
    model : Model
        In stars; `settings` has the model before the mean rating was put in. Where that is an `SVDpp`, and training
        starts anew, it is trained, and this model, without bags, gets what it became.
    units : Units
    settings : Settings
    seed : int
    weights : dict of arrays, optional
        In stars; where training starts.
    valid : Ratings, optional
        In stars; with early stopping in place of a part of the ratings.
    callbacks : iterable of Callback
        Of the trainer, whose ratings are in training units.
    features : dict of Features, by side
        In the order of the ids; of the sides whose features the model of `settings` reads.
    """
    rows, held = units.ratings(ratings), None if valid is None else units.ratings(valid)
    own: list[Any] = []
    if settings.early_stopping is not None:
        own = [EarlyStopping(settings.early_stopping)]
        if held is None:
            if int(settings.validation_fraction * len(rows)) < 1:
                raise ValueError(
                    f"early_stopping holds out validation_fraction={settings.validation_fraction:g} of the ratings, "
                    f"and of {len(rows)} that is none; give more ratings, a larger fraction or valid=..., or leave "
                    "early_stopping out"
                )
            rows, held = rows.split(settings.validation_fraction, seed)
    if isinstance(callbacks, Iterable) and not isinstance(callbacks, str):  # else the trainer refuses them
        callbacks = [*own, *callbacks]
    trained, solver, bagged = units.model(model), settings.solver, settings.model
    order: Any = "tiles" if len(rows) >= MIN_TILED else True
    if isinstance(bagged, SVDpp):
        if weights is None:
            trained = replace(bagged, rating_range=trained.rating_range, global_mean=trained.global_mean)
            order = "sides"
        elif isinstance(solver, Gradient):  # what became of it goes on, without the tables of bags
            solver = replace(solver, optimizer=for_model(solver.optimizer, trained), lr_factors=None)
    trainer = Trainer(
        trained,
        solver,
        backend=settings.backend,
        seed=seed,
        weights=None if weights is None else units.weights(model, weights),
        n_threads=settings.n_threads,
        user_features=features.get("user"),
        item_features=features.get("item"),
    )
    shuffle: Any = None  # a solver that was given has an order of its own
    if settings.ordered:
        shuffle = order if trainer.batch_size == 1 else True
    trainer.fit(
        rows, held, settings.epochs, settings.schedule, callbacks=callbacks, shuffle=shuffle,
        progress=None if settings.verbose else False,
    )  # fmt: skip
    found = trainer.weights
    if isinstance(trained, SVDpp):
        tables, found = found, trained.collapsed(found, trainer.bags)[1]
        for side, described in features.items():
            counts = rows.user_counts() if side == "user" else rows.item_counts()
            for name in model.tables(side):
                of_features = described.product(tables[name.replace(side, f"{side}_features", 1)])
                found[name] = with_mean_rest(found[name], of_features, counts > 0)
    return Trained(model, units.stars(model, found), units.history(trainer.history.frame()))


def with_mean_rest(table: np.ndarray, of_features: np.ndarray, rated: np.ndarray) -> np.ndarray:
    """Return a table in which a row without ratings is the mean row, but for what its features say.

    Parameters
    ----------
    table, of_features : arrays, shape (rows, ...)
        P + H + F Y, and F Y alone: of a row without ratings no step moved P, and the history H is empty.
    rated : array of bool, shape (rows,)

    Notes
    -----
    (F16) p = mean over rated rows of (P + H) + F Y, since F Y was fitted beside P + H, whose mean is not 0.
    """
    found = table.copy()
    found[~rated] = (table - of_features)[rated].mean(axis=0, dtype=np.float64) + of_features[~rated]
    return found
