"""What a user writes, under a strict type checker: `test_package.py` and `campaigns/supply.py` run it through one.

`assert_type` fails where a type is wider than it says, so that nothing turns into Any on the way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import minicf
from minicf import explain


class Best(minicf.Callback):
    """A callback of one's own."""

    def on_epoch_end(self, trainer: minicf.Trainer, row: dict[str, Any]) -> bool:
        return bool(row["train_mse"] < 0.5)


def trained(path: Path) -> minicf.Trainer:
    ratings = assert_type(minicf.load_movielens(), minicf.Ratings)
    train, valid = assert_type(ratings.split(valid=0.2, seed=42), tuple[minicf.Ratings, minicf.Ratings])
    assert_type(train.user, NDArray[np.int32])
    assert_type(train.rating, NDArray[np.float32])
    assert_type(ratings.users.index(1), int)
    assert_type(ratings.users.index([1, 2]), NDArray[np.int64])
    minicf.Net(8, hidden=(16,), dropout=(0.1, 0.2), rating_range=(0.5, 5.5))
    hybrid = minicf.Hybrid({"net": (minicf.Net(8), 0.2), "dot": (minicf.DotBias(8), 1.0)})
    trainer = minicf.Trainer(hybrid, minicf.Adam(0.01, weight_decay={"user_factors": 1e-4}), backend="auto")
    for schedule in (minicf.OneCycle(0.1, 3), minicf.Cosine(3), minicf.Step(2, 0.5), minicf.Exponential(0.9)):
        assert_type(trainer.fit(train, valid, 3, schedule, callbacks=[Best()]), minicf.History)
    trainer.optimizer = minicf.SGD(0.1, momentum=0.9)
    assert_type(trainer.predict(0, 0), float)
    assert_type(trainer.predict([0, 1], [0, 1]), np.ndarray)
    assert_type(trainer.evaluate(valid), dict[str, float])
    assert_type(trainer.weights["user_factors"], np.ndarray)
    assert_type(trainer.history.frame(), pd.DataFrame)
    assert_type(trainer.lr, float)
    assert_type(explain.bias_table(trainer, ratings), pd.DataFrame)
    assert_type(explain.bias_table(trainer, ratings, ax=True), tuple[pd.DataFrame, Any])
    assert_type(explain.components(trainer, ratings).scores, pd.DataFrame)
    trainer.save(path)
    minicf.save_weights(path, trainer.weights)
    assert_type(minicf.load_weights(path), dict[str, np.ndarray])
    return assert_type(minicf.Trainer.load(path), minicf.Trainer)


def recommended(frame: pd.DataFrame, path: Path) -> minicf.Recommender:
    recommender = assert_type(minicf.Recommender(n_factors=8, epochs=1).fit(frame), minicf.Recommender)
    assert_type(recommender.predict(frame), NDArray[np.float32])
    assert_type(recommender.predict(frame, return_known=True), tuple[NDArray[np.float32], NDArray[np.bool_]])
    assert_type(recommender.recommend(["ann"], n=5), pd.DataFrame)
    assert_type(recommender.similar_items(["x"]), pd.DataFrame)
    assert_type(recommender.evaluate(frame), dict[str, float])
    assert_type(recommender.score(frame[["userId", "movieId"]], frame["rating"]), float)
    assert_type(recommender.get_params(), dict[str, Any])
    assert_type(recommender.trainer_, minicf.Trainer)
    assert_type(minicf.cross_validate(recommender, frame), pd.DataFrame)
    recommender.save(path)
    return assert_type(minicf.load(path), minicf.Recommender)


# Alone on a line, after the imports above.
RIGHT = (
    "ratings = minicf.load_movielens()",
    "trainer = minicf.Trainer(minicf.DotBias(3), minicf.Adam(0.1))",
    "recommender = minicf.Recommender()",
    "recommender.fit(ratings).recommend([1])",
    "trainer.fit(ratings, schedule=minicf.Cosine(3))",
    "explain.bias_table(trainer, ratings).head()",
    "minicf.load('x').predict(ratings).mean()",
)
WRONG = (
    "minicf.Tranier",
    "minicf.Dot('3')",
    "minicf.Adam('0.1')",
    "minicf.Trainer(minicf.Dot(3), minicf.Dot(3))",
    "trainer.fit(ratings, schedule=3)",
    "trainer.fitt(ratings)",
    "trainer.predict(1, 2).mean()",
    "recommender.recomend([1])",
    "recommender.fit(ratings).recommend([1]).hed()",
    "recommender.predict(ratings, return_known=True).mean()",
    "minicf.load(3)",
    "ratings.users.index(3).append(2)",
    "ratings.spilt()",
    "explain.bias_table(trainer, ratings).hed()",
)
