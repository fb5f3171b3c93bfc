"""A recommender and a trainer whose weights are written by hand, so that every score is a small sum."""

from __future__ import annotations

import numpy as np
import pandas as pd

import minicf

RATED = [(1, 10, 2.0), (1, 20, 4.0), (2, 20, 5.0), (2, 30, 1.0), (3, 40, 3.0)]
"""(user, item, rating): of mean 3, from 1 to 5."""

WEIGHTS = {
    "user_factors": np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], np.float32),  # of mean (0, 0)
    "item_factors": np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 0.0]], np.float32),  # of mean (1/4, 1/2)
    "user_bias": np.array([0.5, -0.5, 0.0], np.float32),  # of mean 0
    "item_bias": np.array([0.25, 0.0, -0.5, 0.25], np.float32),  # of mean 0
}
SCORES = {
    1: {10: 4.75, 20: 4.5, 30: 3.0, 40: 2.75},
    2: {10: 2.75, 20: 3.5, 30: 3.0, 40: 2.75},
    3: {10: 2.25, 20: 1.0, 30: 1.5, 40: 4.25},
    9: {10: 3.25, 20: 3.0, 30: 2.5, 40: 3.25},
}
"""3 + b + c + p . q of each user; user 9 is unknown, and has the mean row: no bias, no factors."""


def frame(rated=RATED):
    return pd.DataFrame(rated, columns=["userId", "movieId", "rating"])


def recommender(weights=WEIGHTS, rated=RATED, **settings):
    """Return a recommender of `rated` with these weights: rows in the order of the ids."""
    plain = {"model": minicf.DotBias(2), "optimizer": minicf.SGD(0.0), "epochs": 1, "backend": "numpy"}
    fitted = minicf.Recommender(lists="rating", **plain | settings).fit(frame(rated))
    fitted.weights_ = dict(weights)
    return fitted


def lists(table, column="movieId"):
    """Return a table of lists as {user: [item, …]}."""
    return {user: part[column].tolist() for user, part in table.groupby("userId", sort=False)}


def biases(optimizer, rows, batch_size=1, epochs=1, shuffle=False, **settings):
    """Train biases alone: factors start at 0, and stay there, for each is the slope of the other.

    `rows` are (user, item, rating). Returns the trainer.
    """
    user, item, rating = (np.array(column) for column in zip(*rows, strict=True))
    sizes = int(user.max()) + 1, int(item.max()) + 1
    start = {name: np.zeros(shape) for name, shape in minicf.DotBias(1).shapes(*sizes).items()}
    if isinstance(optimizer, minicf.Optimizer):
        optimizer = minicf.Gradient(optimizer, batch_size=batch_size, shuffle=shuffle)
    trainer = minicf.Trainer(
        minicf.DotBias(1), optimizer, backend="numpy", dtype="float64", weights=start, **settings
    )  # fmt: skip
    trainer.fit(minicf.Ratings(user, item, rating.astype(float)), epochs=epochs, progress=False)
    return trainer
