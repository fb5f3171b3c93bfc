"""SVD++ with bags of both sides by SGD on the published split of MovieLens: ``python -m bench.svdpp [seeds]``.

The rows of `load_movielens().split(0.2, seed=42)`: the error of one model, and of the mean of the predictions of four
of consecutive seeds, with the CPU seconds of one process on one thread. Compilation is apart: a short training comes
first; no model of lists is trained beside. `bench.gibbs` records the same rows beside its own.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from bench.measure import timed
from minicf import Recommender, load_movielens

K, AVERAGED = 16, 4


def rows(train: Any, valid: Any, seeds: int, epochs: int | None = None) -> list[dict[str, Any]]:
    """Measure one model, and the mean of four, of each seed; `epochs` of a trial."""

    def trained(seed: int, epochs: int | None) -> np.ndarray:
        own = Recommender("svd++", n_factors=K, random_state=seed, epochs=epochs, lists="rating", n_threads=1)
        return np.asarray(own.fit(train).predict(valid), np.float64)

    trained(0, 1)  # compiles
    found = []
    for seed in range(seeds):
        predicted, wall, cpu = [], 0.0, 0.0
        for number in range(AVERAGED):
            y, w, c = timed(lambda s=AVERAGED * seed + number: trained(s, epochs))
            predicted.append(y)
            wall, cpu = wall + w, cpu + c
            if number + 1 in (1, AVERAGED):
                name = "svd++, both sides" + (f", {AVERAGED} averaged" if number else "")
                mse = float(np.mean((np.mean(predicted, axis=0) - valid.rating) ** 2))
                found.append(
                    {"case": name, "threads": 1, "seed": seed, "mse": mse, "seconds": wall, "cpu_seconds": cpu}
                )
    return sorted(found, key=lambda row: row["case"])


def main(seeds: int = 3) -> None:
    train, valid = load_movielens().split(0.2, seed=42)
    for row in rows(train, valid, seeds):
        print(row)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
