"""What only shows after long: memory over many epochs, counters beyond int32, extreme sizes, millions of ratings.

``python -m tests.campaigns.long_runs``; ``… epochs 500``, ``… edges`` or ``… ratings 30000000`` for one part of it.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from minicf.backends import get_backend
from minicf.data import Ratings
from minicf.models import Dot, DotBias, Hybrid, Model, Net
from minicf.optim import SGD, Adam, Optimizer
from minicf.schedules import Cosine
from minicf.train import Trainer
from tests import cases

MODELS: dict[str, Model] = {
    "dot": Dot(4),
    "bias": DotBias(4, rating_range=(0.5, 5.5)),
    "net": Net(4, hidden=(5,), dropout=0.2),
    "hybrid": Hybrid({"net": (Net(4, hidden=(5,), dropout=0.0), 0.3), "dot": (DotBias(4), 1.0)}),
}
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(0.01),
    "momentum": SGD(0.003, momentum=0.9, weight_decay=1e-3),
    "adam": Adam(0.003),
    "adam l2": Adam(0.003, weight_decay=1e-3),
    "adamw": Adam(0.003, weight_decay=1e-3, decay="decoupled"),
    "sparse adam": Adam(0.003, sparse=True),
}


def resident() -> int:
    """Bytes of memory that this process holds now; the peak, where that cannot be read."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return peak()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def table(n: int = 2000, n_users: int = 40, n_items: int = 50, seed: int = 0) -> Ratings:
    random = np.random.RandomState(seed)
    return Ratings(
        random.randint(0, n_users, n), random.randint(0, n_items, n), random.randint(1, 11, n) / 2, n_users, n_items
    )


# --- many epochs -----------------------------------------------------------------------------------------------------


def many_epochs(epochs: int, backend: str = "numba", batch_size: int = 64) -> tuple[int, Trainer]:
    """Bytes that memory grew by from the first fifth of the epochs to the last, and the trainer."""
    data = table()
    trainer = Trainer(MODELS["bias"], OPTIMIZERS["adam"], backend=backend, batch_size=batch_size)
    seen: list[int] = []

    class Watch:
        def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
            gc.collect(0)
            seen.append(resident())

    trainer.fit(data, data, epochs=epochs, schedule=Cosine(epochs), callbacks=[Watch()])
    fifth = max(epochs // 5, 1)
    return int(np.median(seen[-fifth:]) - np.median(seen[:fifth])), trainer


# --- counters --------------------------------------------------------------------------------------------------------

BEYOND = (2**31 - 3, 2**31, 2**32 - 2, 2**40)


def beyond_int32(module: Any, model: Model, opt: Optimizer, t: int, dtype: str = "float64") -> dict[str, np.ndarray]:
    """A few steps that begin with so many behind them."""
    program = module.compile(model, opt, model.init_weights(40, 50), 0, dtype)
    data = table(300)
    order = np.arange(len(data), dtype=np.int32)
    cases.train(program, data.user, data.item, data.rating, order, 16, opt.lr)  # moments that are not 0
    program.load(program.weights(), program.state() | {"step": np.array(t, np.int64)})
    for _ in range(2):
        done = cases.train(program, data.user, data.item, data.rating, order, 16, opt.lr)
    return program.weights() | program.state() | {"loss": done.loss}


# --- extremes --------------------------------------------------------------------------------------------------------

RANDOM = np.random.RandomState(1)
ONE = np.zeros(30, np.int32)
OTHERS = np.arange(30, dtype=np.int32)
STARS = RANDOM.randint(1, 11, 30) / 2

EDGES: dict[str, Ratings] = {
    "one rating": Ratings([0], [0], [3.0]),
    "one user": Ratings(ONE, OTHERS, STARS),
    "one item": Ratings(OTHERS, ONE, STARS),
    "one user, one item, again and again": Ratings(ONE, ONE, STARS),
    "all ratings equal": Ratings(OTHERS % 5, OTHERS, np.full(30, 4.0)),
    "all ratings zero": Ratings(OTHERS % 5, OTHERS, np.zeros(30)),
    "negative ratings": Ratings(OTHERS % 5, OTHERS, -STARS),
}


def edge(backend: str, model: Model, opt: Optimizer, data: Ratings, batch_size: int = 7) -> Trainer:
    trainer = Trainer(model, opt, backend=backend, batch_size=batch_size, dtype="float64")
    trainer.fit(data, data, epochs=3, shuffle="tiles" if batch_size == 1 else True)
    return trainer


# --- many ratings ----------------------------------------------------------------------------------------------------


def many_ratings(n: int, n_users: int = 200_000, n_items: int = 30_000, k: int = 64) -> dict[str, float]:
    """From a frame to a trained epoch by tiles: peaks of memory by step, in bytes a rating, and seconds."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "userId": random.integers(0, n_users, n, np.int32),
            "movieId": (n_items * random.random(n, np.float32) ** 2).astype(np.int32),
            "rating": random.integers(1, 11, n, np.int8) / np.float32(2),
        }
    )
    found: dict[str, float] = {"frame": resident() / n}
    begin = time.perf_counter()

    def step(name: str) -> None:
        nonlocal begin
        found[f"{name}: peak bytes a rating"] = peak() / n
        found[f"{name}: seconds"] = time.perf_counter() - begin
        begin = time.perf_counter()

    data = Ratings.from_frame(frame, duplicates="last")
    del frame
    step("Ratings.from_frame")
    found["ratings kept"] = len(data)
    train, valid = data.split(0.01)
    del data
    step("split")
    for name, batch_size, shuffle in (("tiles", 1, "tiles"), ("batches", 4096, True)):
        trainer = Trainer(DotBias(k), SGD(0.005), batch_size=batch_size, backend="numba")
        trainer.fit(train, valid, epochs=1, shuffle=shuffle)
        step(f"an epoch by {name}")
    found["peak GiB"] = peak() / 2**30
    return found


def main(arguments: list[str]) -> None:
    part = arguments[0] if arguments else "all"
    number = int(arguments[1]) if len(arguments) > 1 else 0
    if part in ("all", "epochs"):
        for backend in ("numpy", "numba"):
            grown, trainer = many_epochs(number or 500, backend)
            print(f"{backend}: {trainer.epoch} epochs, memory grew by {grown / 1024:.0f} KiB")
    if part in ("all", "edges"):
        plain, numba = get_backend("numpy"), get_backend("numba")
        count = 0
        for model in MODELS.values():
            for opt in OPTIMIZERS.values():
                for t in BEYOND:
                    a, b = (beyond_int32(module, model, opt, t) for module in (plain, numba))
                    worst = max(np.abs(a[name] - b[name]).max(initial=0) for name in a)
                    assert worst < 1e-9, (model, opt, t, worst)
                    count += 1
                for data in EDGES.values():
                    edge("numba", model, opt, data)
                    count += 1
        print(f"{count} runs with extreme counters and tables")
    if part in ("all", "ratings"):
        for name, value in many_ratings(number or 30_000_000).items():
            print(f"{name:<44} {value:>14,.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
