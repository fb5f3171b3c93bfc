"""Lists of the default recommender and of the baselines, on the README's split: ``python -m bench.lists``.

ml-latest-small's ``split(0.2, seed=42)``; relevant is what a user rated at least the mean rating of training; all items
are ranked but those of training. Settings are the defaults, which were chosen inside training rows: those of `ItemKNN`
and `Biases` by ``python -m bench.lists search``, on two splits of the training rows, by NDCG@10 and by rmse; those of
lists by ``python -m bench.search_lists``. Of events the model is told who rated what, and no stars; it is measured on
the same relevant items. The record is bench/results/lists.csv; ``python -m bench.lists report`` writes it into README.
"""

from __future__ import annotations

import csv
import sys
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from minicf import Biases, ItemKNN, MostPopular, Recommender, load_movielens
from minicf.recommender.quality import OF_USERS

RECORD = Path(__file__).parent / "results" / "lists.csv"
K = 10
MODELS: dict[str, Callable[[], Any]] = {
    "Recommender()": Recommender,
    "Recommender(feedback='implicit')": lambda: Recommender(feedback="implicit"),
    "Recommender(lists='rating')": lambda: Recommender(lists="rating"),
    "Recommender(lists='rating', solver='sgd')": lambda: Recommender(lists="rating", solver="sgd"),
    "MostPopular": MostPopular,
    "Biases": Biases,
    "ItemKNN": ItemKNN,
}
NEIGHBORS, SHRINKAGE, DAMPING = (10, 20, 50, 100), (0.0, 10.0, 30.0, 100.0), (0.0, 2.0, 5.0, 10.0, 20.0)


def measured(name: str) -> dict[str, Any]:
    """Return the row of a model."""
    train, valid = load_movielens().split(0.2, seed=42)
    if "implicit" in name:
        valid = valid.take(valid.rating >= train.mean)
    MODELS[name]().fit(train)  # compiles
    recommender = MODELS[name]()
    cpu = time.process_time()
    recommender.fit(train)
    fitted = time.process_time()
    recommender.evaluate(valid, k=K)  # compiles
    begin = time.perf_counter()
    found = recommender.evaluate(valid, k=K)
    end = time.perf_counter()
    values = {name: round(found[name], 4) for name in ("rmse", *OF_USERS, "coverage")}
    return {"model": name, "k": K, **values, "users": found["users"], "users_irrelevant": found["users_irrelevant"],
            "fit_cpu_seconds": round(fitted - cpu, 2), "evaluate_seconds": round(end - begin, 3)}  # fmt: skip


def search() -> None:
    """Print what the settings of the baselines do inside the training rows."""
    train, _ = load_movielens().split(0.2, seed=42)
    folds = [train.split(0.1, seed=seed) for seed in (1, 2)]
    tried: list[Any] = [ItemKNN(n_neighbors=n, shrinkage=x) for n, x in product(NEIGHBORS, SHRINKAGE)]
    tried += [Biases(item_damping=a, user_damping=b) for a, b in product(DAMPING, DAMPING)]
    for model in tried:
        found = [model.fit(a).evaluate(b, k=K) for a, b in folds]
        means = {name: round(float(np.mean([x[name] for x in found])), 4) for name in ("ndcg", "recall", "rmse")}
        print(model, means, flush=True)


def report() -> None:
    """Write the record into README."""
    with RECORD.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["| lists of ten | NDCG | recall | hit rate | coverage | CPU seconds of fit |", "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        numbers = " | ".join(f"{float(row[name]):.3f}" for name in ("ndcg", "recall", "hit_rate", "coverage"))
        lines.append(f"| {row['model']} | {numbers} | {float(row['fit_cpu_seconds']):.2f} |")
    page = Path(__file__).parent.parent / "README.md"
    begin, end = "<!-- bench:lists -->\n", "<!-- /bench -->"
    head, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(head + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2], encoding="utf-8")


def main(what: str = "") -> None:
    warnings.simplefilter("ignore", UserWarning)  # that lists lose to the most popular items
    if what == "search":
        return search()
    if what == "report":
        return report()
    rows = [measured(name) for name in MODELS]
    with RECORD.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main(*sys.argv[1:])
