"""Train the model of a recommender in training units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from minicf.data import Ratings
from minicf.models import Model, SVDpp
from minicf.recommender.settings import Settings, for_model
from minicf.recommender.units import Units
from minicf.solvers import Gradient
from minicf.train import EarlyStopping, Trainer

MIN_TILED = 50_000
"""The smallest number of ratings that are trained in tiles (see `minicf.tiles`): fewer make too few to shuffle."""


def moments(ratings: Ratings) -> tuple[float, float]:
    """Return mean and standard deviation of ratings, weighted where they have weights; 1 for a deviation of 0."""
    if ratings.weight is None:
        return ratings.mean, float(ratings.rating.std(dtype=np.float64)) or 1.0
    values, weight = ratings.rating.astype(np.float64), ratings.weight.astype(np.float64)
    mean = float(np.average(values, weights=weight))
    return mean, math.sqrt(np.average((values - mean) ** 2, weights=weight)) or 1.0


def train(
    ratings: Ratings,
    model: Model,
    units: Units,
    settings: Settings,
    seed: int,
    weights: Mapping[str, np.ndarray] | None = None,
    valid: Ratings | None = None,
    callbacks: Iterable[Any] = (),
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Train a model on ratings in stars.

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

    Returns
    -------
    weights : dict of float32 arrays
        In stars.
    history : DataFrame
        One row per epoch, errors in squared stars.
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
    trained, optimizer, bagged = units.model(model), settings.optimizer, settings.model
    order: Any = "tiles" if len(rows) >= MIN_TILED else True
    if isinstance(bagged, SVDpp):
        if weights is None:
            trained = replace(bagged, rating_range=trained.rating_range, global_mean=trained.global_mean)
            order = "sides"
        optimizer = for_model(optimizer, trained)
    trainer = Trainer(
        trained,
        Gradient(
            optimizer,
            batch_size=settings.batch_size,
            lr_factors=settings.lr_factors if isinstance(trained, SVDpp) else None,
        ),
        backend=settings.backend,
        seed=seed,
        weights=None if weights is None else units.weights(model, weights),
        n_threads=settings.n_threads,
    )
    trainer.fit(
        rows, held, settings.epochs, settings.schedule, callbacks=callbacks,
        shuffle=order if settings.batch_size == 1 else True, progress=None if settings.verbose else False,
    )  # fmt: skip
    found = trainer.weights
    if isinstance(trained, SVDpp):
        found = trained.collapsed(found, trainer.bags)[1]
    return units.stars(model, found), units.history(trainer.history.frame())
