"""A trained recommender, made quickly."""

from __future__ import annotations

import numpy as np
import pandas as pd

from minicf.recommender import Recommender


def trained(n_users: int, seed: int = 0, text: bool = True, **arguments: object) -> Recommender:
    random = np.random.RandomState(seed)
    rows = 10 * n_users
    frame = pd.DataFrame(
        {"userId": random.randint(0, n_users, rows), "movieId": random.randint(0, 50, rows), "rating": 3.0}
    ).drop_duplicates(["userId", "movieId"])
    frame["rating"] = random.randint(1, 6, len(frame))
    if text:
        frame = frame.astype({"userId": str})
    titles = {item: f"Film {item} – “é”" for item in range(0, 50, 2)}
    recommender = Recommender(n_factors=8, epochs=2, batch_size=64, backend="numpy", **arguments)  # type: ignore[arg-type]
    return recommender.fit(frame, titles=titles)
