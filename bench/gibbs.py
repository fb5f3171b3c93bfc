"""Gibbs sampling on the published split of MovieLens: ``python bench/gibbs.py [seeds] [threads …]``.

The rows of `load_movielens().split(0.2, seed=42)`, which public results use: error and CPU seconds of the posterior
mean, of the model of rank 16 that is made of it, and the share of held-out ratings within one and two deviations.
Compilation is apart: a short chain comes first. Seconds of the chain include laying the ratings out.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from minicf import DotBias, Ratings, load_movielens
from minicf.backends import get_backend
from minicf.data import Batch
from minicf.solvers import Gibbs, Posterior

RECORD = Path(__file__).parent / "results" / "gibbs.csv"
K = 7
CASES = {
    "default": Gibbs(),
    "no bags": Gibbs(bags=None),
    "no bags, one noise": Gibbs(bags=None, noise=None),
    "two chains": Gibbs(n_chains=2),
}


def chain(train: Ratings, solver: Gibbs, seed: int, n_threads: int, sweeps: int | None = None) -> Any:
    """The program of a chain after all of its sweeps."""
    model = DotBias(K, global_mean=train.mean)
    weights = model.init_weights(train.n_users, train.n_items, seed)
    program = get_backend("numba").compile(model, solver, weights, seed, "float32", n_threads)
    data = solver.prepare(train)
    for epoch in range(solver.n_sweeps if sweeps is None else sweeps):
        for part in solver.parts(data, seed, epoch, program):
            program.run(data, part)
    return program


def timed(call: Any) -> tuple[Any, float, float]:
    """Result, seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main(seeds: int = 3, *threads: int) -> None:
    train, valid = load_movielens().split(0.2, seed=42)
    chain(train, Gibbs(), 0, 1, 1)  # compiles

    def error(y: np.ndarray) -> float:
        return round(float(np.mean((y - valid.rating) ** 2)), 5)

    rows: list[dict[str, Any]] = []
    for name, solver in CASES.items():
        for n_threads in threads or (1, 2):
            for seed in range(seeds):
                program, wall, cpu = timed(lambda s=solver, i=seed, n=n_threads: chain(train, s, i, n))
                posterior = Posterior.of(program)
                (mean, deviation), _, predicting = timed(lambda p=posterior: p.predict(valid.user, valid.item))
                (model, weights), _, compressing = timed(posterior.compress)
                small = np.clip(model.predict(weights, Batch(valid.user, valid.item)), posterior.low, posterior.high)
                off = abs(mean - valid.rating)
                rows.append(
                    {
                        "case": name, "threads": n_threads, "seed": seed,
                        "mse": error(mean), "mse_rank_16": error(small),
                        "seconds": round(wall, 2), "cpu_seconds": round(cpu, 2),
                        "cpu_seconds_predict": round(predicting, 2), "cpu_seconds_compress": round(compressing, 2),
                        "within_1": round(float(np.mean(off < deviation)), 4),
                        "within_2": round(float(np.mean(off < 1.96 * deviation)), 4),
                    }
                )  # fmt: skip
                print(rows[-1], file=sys.stderr, flush=True)
            last = rows[-seeds:]
            means = {key: round(float(np.mean([row[key] for row in last])), 4) for key in list(last[0])[3:]}
            print(f"{name}, {n_threads} threads, {seeds} seeds: {means}")
    RECORD.parent.mkdir(exist_ok=True)
    with RECORD.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
