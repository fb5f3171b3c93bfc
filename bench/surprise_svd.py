"""`Recommender()` as it is, beside Surprise's SVD tuned: ``python bench/surprise_svd.py [settings]``.

Rows are those of ml-latest-small's ``split(0.2, seed=42)``. Surprise's settings are drawn at random and compared by two
folds of three inside the training rows; the best is fitted to all of them and tested on the validation rows, in turns
with minicf's untouched defaults. Needs ``pip install scikit-surprise``.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from surprise import SVD, Dataset, Reader, accuracy
from surprise.model_selection import KFold

from minicf import load_movielens
from minicf.recommender import Recommender

RECORD = Path(__file__).parent / "results" / "surprise_svd.csv"
TURNS = 5


def draw(random: np.random.RandomState) -> dict[str, Any]:
    def between(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))).round(4))

    return {
        "n_factors": int(random.choice([20, 50, 100, 150])),
        "n_epochs": int(random.choice([20, 30, 40, 60])),
        "lr_all": between(0.003, 0.015),
        "reg_all": between(0.02, 0.15),
        "init_std_dev": float(random.choice([0.01, 0.03, 0.1])),
    }


def main(settings: int = 36) -> None:
    train, valid = load_movielens().split(0.2, seed=42)
    rows, test = (part.frame()[["userId", "movieId", "rating"]] for part in (train, valid))
    data = Dataset.load_from_df(rows, Reader(rating_scale=(0.5, 5)))
    folds = list(KFold(3, random_state=1).split(data))[:2]
    random = np.random.RandomState(0)
    record = []
    for _ in range(settings):
        setting = draw(random)
        errors = [accuracy.rmse(SVD(random_state=0, **setting).fit(a).test(b), verbose=False) for a, b in folds]
        record.append({**setting, "rmse": round(float(np.mean(errors)), 5)})
        print(record[-1], file=sys.stderr, flush=True)
    record.sort(key=lambda row: row["rmse"])
    RECORD.parent.mkdir(exist_ok=True)
    with RECORD.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(record[0]))
        writer.writeheader()
        writer.writerows(record)
    best = {name: value for name, value in record[0].items() if name != "rmse"}
    print(f"best of {settings}: {record[0]}")
    whole, pairs = data.build_full_trainset(), list(test.itertuples(index=False, name=None))
    Recommender(epochs=1).fit(rows)  # loads the compiled code
    ratios = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        ours = Recommender().fit(rows)
        middle = time.perf_counter()
        theirs = SVD(random_state=0, **best).fit(whole)
        seconds = middle - begin, time.perf_counter() - middle
        ratios.append(seconds[1] / seconds[0])
        print(
            f"minicf rmse {ours.evaluate(valid)['rmse']:.4f} in {seconds[0]:.2f} s, "
            f"Surprise rmse {accuracy.rmse(theirs.test(pairs), verbose=False):.4f} in {seconds[1]:.2f} s"
        )
    print(f"median of ratios of times {np.median(ratios):.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
