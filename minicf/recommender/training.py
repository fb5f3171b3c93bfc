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

from minicf.data import Features, Ratings
from minicf.models import Model, SVDpp
from minicf.recommender.settings import Settings, for_model, sampling_backend
from minicf.recommender.units import Units
from minicf.solvers import Gibbs, Gradient, Posterior
from minicf.train import EarlyStopping, Trainer

log = logging.getLogger("minicf")

RANK = 16
"""Factors of the model that is made of the samples, or as many as a sample has, where it has more."""

MIN_TILED = 50_000
"""The smallest number of ratings that are trained in tiles (see `minicf.tiles`): fewer make too few to shuffle."""


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


def sample(ratings: Ratings, model: Model, solver: Gibbs, settings: Settings, seed: int) -> Trained:
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

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C in burn-in. Later, the samples so far are the result.
    """
    trainer = Trainer(
        model, solver, backend=sampling_backend(settings.backend), seed=seed, n_threads=settings.n_threads
    )
    interrupted = False
    try:
        trainer.fit(ratings, epochs=solver.n_sweeps, progress=None if settings.verbose else False)
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
    return Trained(small, weights, trainer.history.frame(), posterior, interrupted)


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
