"""Compare the speed of two versions of minicf: `python -m bench.versions REVISION`.

Each version trains in a process of its own, in turns (A, B, A, B), the other one waiting. The seconds are those of the
history, of training alone, after a first call that compiles. The errors must be the same first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def cases() -> Iterator[tuple[str, Any, Any, dict[str, Any], str | bool]]:
    """Name, model, optimizer, arguments of `Trainer`, order of the ratings."""
    from minicf import SGD, Adam, DotBias, Net

    bias, net = DotBias(50, rating_range=(0.5, 5.0)), Net(50)
    deep = Net(50, hidden=(100, 100, 50), dropout=(0.1, 0.5, 0.6, 0.7))
    optimizers = {
        "SGD, momentum, l2": SGD(0.01, momentum=0.9, weight_decay=1e-3),
        "Adam": Adam(0.001),
        "AdamW": Adam(0.001, weight_decay=0.01, decay="decoupled"),
        "Adam, l2": Adam(0.001, weight_decay=1e-3),
        "Adam, sparse": Adam(0.001, sparse=True),
    }
    for batch in (64, 1024, 8192):
        for name, optimizer in optimizers.items():
            yield f"{name}, batch {batch}", bias, optimizer, {"batch_size": batch}, True
    for batch in (64, 1024):
        yield f"net, batch {batch}", net, Adam(0.001), {"batch_size": batch}, True
        yield f"deep net, batch {batch}", deep, Adam(0.001), {"batch_size": batch}, True
    online = SGD(0.01, weight_decay=0.02, decay="per_rating")
    for k in (32, 64, 128):
        yield f"online, tiles, K = {k}", DotBias(k), online, {"batch_size": 1}, "tiles"


def work() -> None:
    """Answer requests on standard input: a case's number and a number of epochs, -1 to begin the case anew."""
    import numpy as np

    import minicf

    train = minicf.load_movielens().split(0.2, seed=42)[0]
    random = np.random.RandomState(0)
    n = 2_000_000
    large = minicf.Ratings(
        (random.random_sample(n) ** 2 * 20_000).astype(int), (random.random_sample(n) ** 2 * 8_000).astype(int),
        random.randint(1, 11, n) / 2, 20_000, 8_000,
    )  # fmt: skip
    listed, trainer = list(cases()), None
    for line in sys.stdin:
        number, epochs = json.loads(line)
        _, model, optimizer, arguments, order = listed[number]
        table = large if order == "tiles" else train
        if epochs < 0:
            trainer = minicf.Trainer(model, optimizer, backend="numba", n_threads=2, **arguments)
            epochs = 2
        assert trainer is not None
        trainer.fit(table, epochs=epochs, shuffle=order, progress=False)
        rows = trainer.history.rows[-epochs:]
        print(json.dumps([sum(row["seconds"] for row in rows), rows[-1]["train_mse"]]), flush=True)


def main(revision: str, turns: int, only: str) -> None:
    """Print a row a case: the median seconds of a turn by both versions, and the ratio of new to old by turn."""
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "old")
        old.mkdir()
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-xf", "-"], cwd=old, input=archive, check=True)
        workers = []
        for tree in (old, ROOT):
            environment = os.environ | {"PYTHONPATH": str(tree)}
            command = [sys.executable, str(Path(__file__).resolve()), "--work"]
            workers.append(
                subprocess.Popen(
                    command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )

        def ask(worker: Any, number: int, epochs: int) -> list[float]:
            worker.stdin.write(json.dumps([number, epochs]) + "\n")
            worker.stdin.flush()
            answer: list[float] = json.loads(worker.stdout.readline())
            return answer

        print(f"{'case':<32} {'old ms':>9} {'new ms':>9} {'new / old':>10}   lowest … highest")
        for number, (name, *_) in enumerate(cases()):
            if only not in name:
                continue
            first = [ask(worker, number, -1) for worker in workers]
            assert first[0][1] == first[1][1], f"{name}: the errors differ: {first}"
            epochs = max(1, round(0.3 / max(first[0][0] / 2, 1e-4)))
            times: list[list[float]] = [[], []]
            for turn in range(turns):
                for i in (0, 1) if turn % 2 == 0 else (1, 0):
                    times[i].append(ask(workers[i], number, epochs)[0] / epochs)
                time.sleep(0.05)
            ratios = sorted(b / a for a, b in zip(*times, strict=True))
            a, b = (1e3 * statistics.median(x) for x in times)
            middle = statistics.median(ratios)
            print(f"{name:<32} {a:>9.2f} {b:>9.2f} {middle:>10.3f}   {ratios[0]:.3f} … {ratios[-1]:.3f}", flush=True)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.close()
            worker.wait(30)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", nargs="?", default="HEAD", help="what to compare with")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        sys.path.insert(0, os.getcwd())
        work()
    else:
        main(options.revision, options.turns, options.only)
