"""myFM's turns, for the interpreter that has it: ``python myfm_turns.py TABLE.npz`` answers a turn a line.

A turn is ``{"kind", "rank", "sweeps", "burn_in", "seed", "out"}``; predictions of the held-out rows go to the file
`out`, and the one who asked computes their error. Kinds, after myFM's own example for MovieLens: "mf" has users and
items alone; "flipped" has the items of each user and the users of each item beside them, with weights 1 / sqrt(number)
and a group each; "ordered" is "flipped" with its ordered probit. Nothing of minicf is imported.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import myfm
import numpy as np
from scipy import sparse


def blocks(index: dict[str, np.ndarray], train: dict[str, np.ndarray], sizes: dict[str, int], bags: bool) -> list[Any]:
    """Return a relation block of each side, for the rows of `index`."""
    found = []
    for side, other in (("user", "item"), ("item", "user")):
        rows = sparse.identity(sizes[side], format="csr")
        if bags:
            weight = np.bincount(train[side], minlength=sizes[side])[train[side]] ** -0.5
            shape = sizes[side], sizes[other]
            rows = sparse.hstack([rows, sparse.csr_matrix((weight, (train[side], train[other])), shape)], "csr")
        found.append(myfm.RelationBlock(index[side], rows))
    return found


def turn(table: Any, kind: str, rank: int, sweeps: int, burn_in: int, seed: int, out: str) -> dict[str, float]:
    """Train and predict; seconds and CPU seconds of both together, and of training alone."""
    train, test = ({side: table[f"{part}_{side}"].astype(np.int64) for side in ("user", "item")}
                   for part in ("train", "test"))  # fmt: skip
    sizes = {side: int(table[f"n_{side}s"]) for side in ("user", "item")}
    rating = table["rating"].astype(np.float64)
    levels, level = np.unique(rating, return_inverse=True)
    bags, ordered = kind != "mf", kind == "ordered"
    wall, cpu = time.perf_counter(), time.process_time()
    groups = [sizes[name] for side, other in (("user", "item"), ("item", "user"))
              for name in ((side, other) if bags else (side,))]  # fmt: skip
    model = (myfm.MyFMOrderedProbit if ordered else myfm.MyFMRegressor)(rank=rank, random_seed=seed)
    model.fit(
        None, level if ordered else rating, X_rel=blocks(train, train, sizes, bags),
        n_iter=sweeps, n_kept_samples=sweeps - burn_in, group_shapes=groups,
    )  # fmt: skip
    trained = time.perf_counter() - wall, time.process_time() - cpu
    there = blocks(test, train, sizes, bags)
    y = model.predict_proba(None, there) @ levels if ordered else model.predict(None, there)
    np.save(out, np.clip(y, levels[0], levels[-1]))
    return {
        "seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu,
        "seconds_fit": trained[0], "cpu_seconds_fit": trained[1],
    }  # fmt: skip


def main(path: str) -> None:
    table = np.load(path)
    answers, sys.stdout = sys.stdout, sys.stderr  # progress bars and notes do not disturb the answers
    print(json.dumps({"version": getattr(myfm, "__version__", "")}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(turn(table, **json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
