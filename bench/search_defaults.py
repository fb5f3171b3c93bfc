"""The search behind the defaults of `minicf.Recommender`: ``python bench/search_defaults.py [settings] [seed]``.

Every setting is drawn at random and scored by cross-validation on six sets: the training rows of ml-latest-small's
``split(0.2, seed=42)`` (its validation rows are never looked at), and five synthetic ones of other shapes and scales.
Errors are mean squared, on ratings scaled to unit deviation. The setting with the lowest mean over the sets of its
error relative to the lowest found on the set is the default. The record is bench/results/defaults.csv.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np

from minicf import SGD, DotBias, Ratings, load_movielens
from minicf.recommender import Recommender
from minicf.recommender.inputs import rated_only

RECORD = Path(__file__).parent / "results" / "defaults.csv"

# users, items, ratings, scale, rank
SHAPES = {
    "small": (200, 100, 4_000, np.arange(1, 6), 5),
    "many_items": (500, 8_000, 40_000, np.arange(1, 11) / 2, 20),
    "many_users": (6_000, 300, 60_000, np.arange(1, 11), 10),
    "dense": (800, 150, 50_000, np.linspace(-10, 10, 201), 10),
    "few_each": (8_000, 4_000, 60_000, np.arange(1, 6), 10),
}


def synthetic(n_users: int, n_items: int, n: int, levels: np.ndarray, rank: int, seed: int) -> Ratings:
    """Biases, factors of falling weight and noise (35, 25 and 40 % of the variance), put on a scale of levels.

    Users differ in activity (log-normal), items in popularity (Zipf, exponent 0.8).
    """
    random = np.random.default_rng(seed)
    activity = random.lognormal(0, 1, n_users)
    popularity = np.arange(1, n_items + 1) ** -0.8
    user = random.choice(n_users, 2 * n, p=activity / activity.sum())
    item = random.choice(n_items, 2 * n, p=popularity / popularity.sum())
    _, first = np.unique(user * n_items + item, return_index=True)
    first = random.permutation(first)[:n]
    user, item = user[first], item[first]
    bias = random.normal(size=n_users)[user] + random.normal(size=n_items)[item]
    weight = np.arange(1, rank + 1) ** -0.5
    taste = ((random.normal(size=(n_users, rank)) * weight)[user] * random.normal(size=(n_items, rank))[item]).sum(1)
    noise = random.normal(size=len(user))
    z = sum(np.sqrt(share) * x / x.std() for share, x in ((0.35, bias), (0.25, taste), (0.4, noise)))
    low, high = levels[0], levels[-1]
    wanted = low + (high - low) * (0.65 + z / 4.5)
    edges = (levels[1:] + levels[:-1]) / 2
    return rated_only(Ratings(user, item, levels[np.searchsorted(edges, wanted)].astype(float)))


def sets() -> dict[str, list[tuple[Ratings, Ratings]]]:
    """Folds by name of the set, all on unit deviation."""
    movielens = load_movielens().split(0.2, seed=42)[0]
    folds = {"movielens": [movielens.split(0.1, seed=seed) for seed in (1, 2, 3)]}
    for name, shape in SHAPES.items():
        folds[name] = [synthetic(*shape, seed=7).split(0.1, seed=seed) for seed in (1, 2)]
    return {name: [_unit(*fold) for fold in pairs] for name, pairs in folds.items()}


def _unit(train: Ratings, valid: Ratings) -> tuple[Ratings, Ratings]:
    mean, deviation = train.mean, float(train.rating.std())
    a, b = (Ratings(r.user, r.item, (r.rating - mean) / deviation, r.users, r.items) for r in (train, valid))
    return a, b


def draw(random: np.random.Generator) -> dict[str, float]:
    def between(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))).round(4))

    return {
        "n_factors": int(random.choice([32, 64, 100, 128])),
        "epochs": int(random.choice([30, 40, 60, 80])),
        "init": float(random.choice([0.003, 0.01, 0.02, 0.03, 0.05])),
        "lr": between(0.005, 0.02),
        "decay_factors": between(0.06, 0.25),
        "decay_biases": between(0.02, 0.3),
    }


def score(setting: dict[str, float], folds: list[tuple[Ratings, Ratings]]) -> float:
    errors = []
    for train, valid in folds:
        decay = {f"{side}_{part}": setting[f"decay_{many}"] for side in ("user", "item")
                 for part, many in (("factors", "factors"), ("bias", "biases"))}  # fmt: skip
        recommender = Recommender(
            DotBias(int(setting["n_factors"]), init=("normal", 0.0, setting["init"])),
            optimizer=SGD(setting["lr"], weight_decay=decay, decay="per_rating"),
            epochs=int(setting["epochs"]),
        )
        try:
            predicted = recommender.fit(train).predict(valid)
            errors.append(float(np.mean((predicted - valid.rating) ** 2)))
        except ArithmeticError:
            return float("nan")
    return float(np.mean(errors))


def main(count: int = 80, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    data = sets()
    rows = []
    for number in range(count):
        setting = draw(random)
        begin = time.process_time()
        errors = {name: round(score(setting, folds), 5) for name, folds in data.items()}
        rows.append({"setting": number, **setting, **errors, "cpu_seconds": round(time.process_time() - begin, 2)})
        print(rows[-1], file=sys.stderr, flush=True)
    lowest = {name: np.nanmin([row[name] for row in rows]) for name in data}
    for row in rows:
        row["relative"] = round(float(np.mean([row[name] / lowest[name] for name in data])), 5)
    rows.sort(key=lambda row: row["relative"] if np.isfinite(row["relative"]) else np.inf)
    RECORD.parent.mkdir(exist_ok=True)
    with RECORD.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"best of {count}: {rows[0]}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
