"""Convert between stars and the units of training: ratings, models, weights and errors.

The default optimizer of `Dot` and `DotBias` trains on standardized ratings, z = (r - mean) / unit with the standard
deviation as the unit, so that its settings mean the same on a scale of 1 … 5 and of 0 … 100. The weights are then
scaled to stars: s = p . q + b + c is `unit` times as large if p and q are multiplied by its root and b and c by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from minicf.data import Ratings
from minicf.models import Dot, Hybrid, Model


@dataclass(frozen=True)
class Units:
    """Convert between stars and training units.

    Parameters
    ----------
    mean, unit : float
        A rating of r stars is (r - mean) / unit in training; with a unit of 1 it is r itself, and nothing is converted.
    """

    mean: float
    unit: float

    def ratings(self, ratings: Ratings) -> Ratings:
        """Return the ratings in training units, without titles and genres."""
        values = ratings.rating
        if self.unit != 1.0:
            values = ((values - np.float32(self.mean)) / np.float32(self.unit)).astype(np.float32)
        return Ratings._trusted(
            ratings.user, ratings.item, values, ratings.timestamp, ratings.users, ratings.items, None, None,
            ratings.weight, ratings.implicit,
        )  # fmt: skip

    def model(self, model: Model) -> Model:
        """Return the model whose predictions are in training units."""
        if not isinstance(model, Dot) or self.unit == 1.0:
            return model
        if model.rating_range is not None:
            low, high = model.rating_range
            return replace(model, rating_range=((low - self.mean) / self.unit, (high - self.mean) / self.unit))
        return replace(model, global_mean=(model.global_mean - self.mean) / self.unit)

    def weights(self, model: Model, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return weights in stars as weights in training units."""
        return _scaled(model, weights, 1.0 / self.unit)

    def stars(self, model: Model, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return weights in training units as weights in stars, float32."""
        scaled = _scaled(model, weights, self.unit)
        return {name: w.astype(np.float32, copy=False) for name, w in scaled.items()}

    def history(self, history: pd.DataFrame) -> pd.DataFrame:
        """Return the history of a training with its errors in squared stars."""
        errors = [name for name in history.columns if "mse" in name or name == "penalty"]
        history = history.copy()
        history[errors] *= self.unit**2
        return history


def centered(model: Model, mean: float) -> Model:
    """Return the model with the mean rating as its `global_mean`, unless it has one of its own."""
    if type(model) is Hybrid:
        members = {name: (centered(head, mean), weight) for name, (head, weight) in model.members.items()}
        return Hybrid(members, model.output)
    if model.global_mean or "global_mean" not in {field.name for field in fields(model)}:  # type: ignore[arg-type]
        return model
    if model.rating_range is not None:
        low, high = model.rating_range
        share = min(max((mean - low) / (high - low), 0.01), 0.99)
        mean = math.log(share / (1.0 - share))  # the score that the range turns into the mean
    return replace(model, global_mean=mean)  # type: ignore[type-var]


def _scaled(model: Model, weights: Mapping[str, np.ndarray], unit: float) -> dict[str, np.ndarray]:
    """Return weights whose scores are `unit` times as large; with a rating range it is the range that is scaled."""
    if unit == 1.0 or model.rating_range is not None:  # a hybrid has no unit but 1
        return dict(weights)
    root = math.sqrt(unit)
    return {name: w * w.dtype.type(root if name.endswith("factors") else unit) for name, w in weights.items()}
