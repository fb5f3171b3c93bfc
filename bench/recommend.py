"""Lists for all users of a catalogue shaped as MovieLens 10M, beside implicit: ``python bench/recommend.py [turns]``.

Synthetic factors of 71,567 users and 10,681 items, K = 64, and 10 million ratings to be left out. Both libraries get
the same factors and the same rated items, in turns (A, B, A, B); quoted are the median of the ratios, and the memory
that a call needed beyond what was there before it. implicit has no biases: the factors hold them. Lists are checked to
be equal first. Needs ``pip install implicit``; without it minicf's own time is shown.
"""

from __future__ import annotations

import csv
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from minicf import Dot, scoring
from minicf.backends import get_backend
from minicf.data import Bags
from minicf.models.scorers import by_products
from minicf.threads import count_threads

RECORD = Path(__file__).parent / "results" / "recommend.csv"
USERS, ITEMS, K, RATINGS, N = 71_567, 10_681, 64, 10_000_054, 10


def resident() -> float:
    """Megabytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def watched(call: Any) -> tuple[Any, float, float, float]:
    """Result, seconds, CPU seconds, and the most megabytes beyond those before."""
    before, most, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done.set()
    watcher.join()
    return result, wall, cpu, most[0]


def main(turns: int = 5) -> None:
    random = np.random.default_rng(0)
    users = random.normal(0, 0.3, (USERS, K)).astype(np.float32)
    items = random.normal(0, 0.3, (ITEMS, K)).astype(np.float32)
    popularity = np.arange(1, ITEMS + 1) ** -0.8
    rated = Bags.of(
        random.integers(0, USERS, RATINGS), random.choice(ITEMS, RATINGS, p=popularity / popularity.sum()), USERS
    )
    rows = np.arange(USERS)

    def ours() -> Any:
        score = Dot(K).scorer({"user_factors": users, "item_factors": items})
        return scoring.top_n(score, rows, ITEMS, N, rated, select=get_backend("auto").select)

    calls = {"minicf": ours}
    try:
        import scipy.sparse
        from implicit.cpu.matrix_factorization_base import MatrixFactorizationBase
        from threadpoolctl import threadpool_limits

        class Fixed(MatrixFactorizationBase):
            def fit(self, *_: Any, **__: Any) -> None: ...
            def save(self, *_: Any) -> None: ...
            def recalculate_user(self, *_: Any) -> None: ...
            def recalculate_item(self, *_: Any) -> None: ...

        other = Fixed(num_threads=count_threads())
        other.user_factors, other.item_factors = users, items
        matrix = scipy.sparse.csr_matrix(
            (np.ones(len(rated.items), np.float32), rated.items, rated.start), (USERS, ITEMS)
        )

        def theirs() -> Any:
            with threadpool_limits(1, "blas"):  # as implicit itself advises
                return other.recommend(rows, matrix, N=N, filter_already_liked_items=True)

        calls["implicit"] = theirs
    except ImportError:
        print("implicit is not installed", file=sys.stderr)
    small = Bags(rated.start[:65], rated.index)
    scoring.top_n(by_products(users, items), rows[:64], ITEMS, N, small, select=get_backend("auto").select)  # compiles
    # Memory is of the first call: later ones find it with the allocator.
    first = {name: watched(call) for name, call in calls.items()}
    if len(first) == 2:
        same = float(np.mean(first["minicf"][0][0] == first["implicit"][0][0]))
        print(f"the same items at {same:.4%} of the places")  # the rest: equal scores but for rounding
        assert same > 0.999
    rows_out: list[dict[str, Any]] = []
    for turn in range(turns):
        for name, call in calls.items():
            _, wall, cpu, _ = watched(call)
            rows_out.append({"turn": turn, "library": name, "seconds": round(wall, 3), "cpu_seconds": round(cpu, 3),
                             "megabytes": round(first[name][3]), "threads": count_threads()})  # fmt: skip
            print(rows_out[-1])
    RECORD.parent.mkdir(exist_ok=True)
    with RECORD.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows_out[0]))
        writer.writeheader()
        writer.writerows(rows_out)
    if len(calls) == 2:
        for what in ("seconds", "cpu_seconds"):
            by = {name: np.array([row[what] for row in rows_out if row["library"] == name]) for name in calls}
            print(f"implicit / minicf, {what}: median of ratios {np.median(by['implicit'] / by['minicf']):.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
