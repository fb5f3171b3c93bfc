"""Compare two versions of minicf to the bit: `python -m tests.campaigns.same_bits REVISION`.

Trainings of every model, optimizer, decay, row semantics and way of running are made by this tree and by a revision
of the repository, on the same machine, and compared exactly: weights, optimizer state and history. A refactoring must
leave every bit as it was. Bits depend on the machine (vector width, BLAS), so no record of them is committed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent.parent
WAYS = ("numpy", "numba", "resident", "touched", "large")
"""Backends; of the emulated CUDA kernels, their three ways of training."""


def trainings() -> Iterator[tuple[str, Any, Any, dict[str, Any], dict[str, Any]]]:
    """Name, model, optimizer, arguments of `Trainer` and of `fit`."""
    import minicf
    from minicf import SGD, Adam, Dot, DotBias, Hybrid, Net

    reach = (0.5, 5.0)
    models = {
        "dot": Dot(5),
        "bias": DotBias(7, rating_range=reach, global_mean=0.3),
        "net": Net(5, hidden=(6, 4), dropout=(0.2, 0.0, 0.4), rating_range=(0.0, 5.5)),
        "hybrid": Hybrid({"net": (Net(5, hidden=(4,), dropout=(0.0, 0.3)), 0.2), "dot": (DotBias(5), 1.0)}),
    }
    optimizers = {
        "sgd-l2": SGD(0.05, weight_decay=0.05),
        "sgd-per-rating": SGD(0.05, weight_decay=0.05, decay="per_rating"),
        "momentum-l2": SGD(0.01, momentum=0.9, weight_decay=0.05),
        "nesterov-decoupled": SGD(0.01, momentum=0.9, nesterov=True, weight_decay=0.05, decay="decoupled"),
        "momentum-sparse": SGD(0.01, momentum=0.9, weight_decay={"user_factors": 0.05}, sparse=True),
        "adam": Adam(0.02),
        "adam-l2": Adam(0.02, weight_decay=0.05),
        "adamw": Adam(0.02, weight_decay=0.05, decay="decoupled"),
        "adam-sparse": Adam(0.02, weight_decay={"item_factors": 0.05}, sparse=True),
    }
    for model_name, model in models.items():
        for optimizer_name, optimizer in optimizers.items():
            yield f"{model_name} {optimizer_name}", model, optimizer, {"batch_size": 16}, {"epochs": 3}
    wide = DotBias(50, rating_range=reach)
    yield "float64", wide, Adam(0.01, weight_decay=0.02), {"batch_size": 64, "dtype": "float64"}, {"epochs": 2}
    yield "large batches", wide, Adam(0.01), {"batch_size": 700}, {"epochs": 3}
    schedule = minicf.CosineRestarts(cycle=1, mult=2)
    yield "schedule", wide, SGD(0.05, momentum=0.9, weight_decay=0.01), {}, {"epochs": 3, "schedule": schedule}
    yield "in order", wide, Adam(0.01), {}, {"epochs": 2, "shuffle": False}
    online = SGD(0.02, weight_decay=0.05, decay="per_rating")
    yield "online", wide, online, {"batch_size": 1}, {"epochs": 2, "schedule": minicf.Cosine()}
    for name, model in (("range", wide), ("bare", Dot(20))):
        yield f"tiles {name}", model, online, {"batch_size": 1}, {"epochs": 3, "shuffle": "tiles"}
    yield "tiles decoupled", wide, SGD(0.02, weight_decay=0.05, decay="decoupled"), {"batch_size": 1}, {
        "epochs": 1, "shuffle": "tiles",
    }  # fmt: skip


def record(path: str, ways: list[str]) -> None:
    """Make all trainings with the minicf that is imported here; write the arrays to a file."""
    import numpy as np

    import minicf

    random = np.random.RandomState(3)
    n = 3000
    user = np.minimum(random.randint(0, 60, n), random.randint(0, 60, n))
    item = np.minimum(random.randint(0, 90, n), random.randint(0, 90, n))
    rating = random.randint(1, 11, n) / 2
    train, valid = minicf.Ratings(user, item, rating, 62, 93).split(0.1, seed=1)
    arrays: dict[str, Any] = {}
    for way in ways:
        emulated = way not in ("numpy", "numba")
        if emulated:
            from tests.cuda import standin
        with standin.emulated(way) if emulated else nullcontext():
            for name, model, optimizer, arguments, options in trainings():
                small = train.take(np.arange(400)) if emulated else train
                trainer = minicf.Trainer(
                    model, optimizer, backend="cupy" if emulated else way, seed=7, n_threads=1, **arguments
                )
                trainer.fit(small, valid, progress=False, **options)
                found = {**trainer.weights, **trainer.program.state()}
                history = trainer.history.frame().drop(columns=["seconds", "ratings_per_second"])
                found |= {f"history.{column}": history[column].to_numpy() for column in history}
                arrays |= {f"{way}: {name}: {key}": value for key, value in found.items()}
    np.savez(path, **arrays)


def compare(revision: str, ways: list[str]) -> int:
    """The number of trainings that differ."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "tree")
        old.mkdir()
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-xf", "-"], cwd=old, input=archive, check=True)
        found = []
        for tree in (old, ROOT):
            path = Path(folder, f"{tree.name}.npz")
            environment = os.environ | {
                "PYTHONPATH": str(tree),
                "NUMBA_CACHE_DIR": str(Path(folder, f"{tree.name}-cache")),
            }
            command = [sys.executable, str(HERE), "--record", str(path), *ways]
            subprocess.run(command, cwd=tree, env=environment, check=True)
            with np.load(path) as file:
                found.append(dict(file))
    before, after = found
    if before.keys() != after.keys():
        print("only in one:", *sorted(before.keys() ^ after.keys())[:20], sep="\n  ")
        return len(before.keys() ^ after.keys())
    differ = [name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)]
    for name in differ:
        a, b = before[name].astype(np.float64), after[name].astype(np.float64)
        print(f"differs: {name}, by {np.abs(a - b).max() if a.shape == b.shape else (a.shape, b.shape)}")
    cases = {name.rpartition(": ")[0] for name in before}
    wrong = {name.rpartition(": ")[0] for name in differ}
    print(f"{len(cases) - len(wrong)} of {len(cases)} trainings have the bits of {revision}")
    return len(wrong)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", nargs="?", help="what to compare with")
    parser.add_argument("ways", nargs="*", help=f"some of {', '.join(WAYS)} (all)")
    parser.add_argument("--record", metavar="FILE", help="write the arrays of this tree's minicf to a file")
    options = parser.parse_args()
    if options.record:
        sys.path.insert(0, os.getcwd())
        record(options.record, ([options.revision] if options.revision else []) + options.ways)
    else:
        sys.exit(1 if compare(options.revision or "HEAD", options.ways or list(WAYS)) else 0)
