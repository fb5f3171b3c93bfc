"""Train the model of a recommender in training units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from minicf.data import Ratings
from minicf.models import Model
from minicf.recommender.settings import Settings
from minicf.recommender.units import Units
from minicf.train import EarlyStopping, Trainer

MIN_TILED = 50_000
"""The smallest number of ratings that are trained in tiles (see `minicf.tiles`): fewer make too few to shuffle."""


def train(
    ratings: Ratings,
    model: Model,
    units: Units,
    settings: Settings,
    seed: int,
    weights: Mapping[str, np.ndarray] | None = None,
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Train a model on ratings in stars.

    Parameters
    ----------
    ratings : Ratings
        In stars.
    model : Model
        In stars; `settings` has the model before the mean rating was put in.
    units : Units
    settings : Settings
    seed : int
    weights : dict of arrays, optional
        In stars; where training starts.

    Returns
    -------
    weights : dict of float32 arrays
        In stars.
    history : DataFrame
        One row per epoch, errors in squared stars.
    """
    rows, valid, callbacks = units.ratings(ratings), None, []
    if settings.early_stopping is not None:
        held = int(settings.validation_fraction * len(rows))
        if held < 1:
            raise ValueError(
                f"early_stopping holds out validation_fraction={settings.validation_fraction:g} of the ratings, and of "
                f"{len(rows)} that is none; give more ratings or a larger fraction, or leave early_stopping out"
            )
        rows, valid = rows.split(settings.validation_fraction, seed)
        callbacks = [EarlyStopping(settings.early_stopping)]
    trainer = Trainer(
        units.model(model),
        settings.optimizer,
        backend=settings.backend,
        batch_size=settings.batch_size,
        seed=seed,
        weights=None if weights is None else units.weights(model, weights),
        n_threads=settings.n_threads,
    )
    shuffle: Any = "tiles" if settings.batch_size == 1 and len(rows) >= MIN_TILED else True
    trainer.fit(
        rows, valid, settings.epochs, settings.schedule, shuffle=shuffle, callbacks=callbacks,
        progress=None if settings.verbose else False,
    )  # fmt: skip
    return units.stars(model, trainer.weights), units.history(trainer.history.frame())
