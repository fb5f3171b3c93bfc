"""Lists from events: ``python -m bench --only ranking --data PATH``; ``python -m bench.ranking --help`` has more.

PATH is an .npz of the split of Gowalla (Cho, Myers and Leskovec 2011) that LightGCN and later papers use: CSR arrays
``train_start``, ``train_item``, ``test_start``, ``test_item``. Protocol: all items ranked, training ones left out,
Recall@20 = hits / test items of the user, NDCG@20 with the ideal over min(20, test items), means over users with test
items.

Settings come from `search`, on training events alone: a tenth of each user's is held out, and those are taken whose sum
of Recall@20 and NDCG@20 is the highest there (``--search K``). Each contender is trained on all training events with
three seeds. Rows of bench/results/ranking.csv: section "quality" has recall, NDCG, CPU and wall seconds of training
with laying the table out, K and the bytes of the tables; "search" the tries; "iteration" exact iterations beside
implicit's, in turns, each contender in a process of its own, one thread, and "check" what both learn:
``--implicit PYTHON`` is an interpreter that has it.

CPU seconds are those of one process. Compilation is apart: a short training comes first.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import busy, commit, device
from minicf import Dot, Ratings, Trainer
from minicf.backends import get_backend
from minicf.data import Bags
from minicf.scoring import top_n
from minicf.solvers import ALS

RECORD = Path(__file__).parent / "results" / "ranking.csv"
RIVAL = Path(__file__).parent / "rivals" / "implicit_turns.py"
LENGTH = 20
SHARE = 0.1
"""Of each user's training events that the search holds out."""
COLUMNS = (
    "section", "contender", "k", "bytes", "settings", "epochs", "seed", "threads", "recall20", "ndcg20", "cpu_seconds",
    "seconds", "load", "device", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """A way of training, by the name of its rows."""

    k: int
    epochs: int
    settings: dict[str, float]
    train: Callable[[Contender, Ratings, int, int], Trainer]
    """Trains on a table with a seed and a number of threads; returns what has `Dot`'s weights."""


def als(contender: Contender, events: Ratings, seed: int, threads: int) -> Trainer:
    trainer = Trainer(Dot(contender.k), ALS(**contender.settings), backend="numba", seed=seed, n_threads=threads)
    trainer.fit(events, epochs=contender.epochs, progress=False)
    return trainer


def _als(k: int, epochs: int, regularization: float, unobserved: float, exponent: float) -> Contender:
    settings = {"regularization": regularization, "unobserved": unobserved, "exponent": exponent}
    return Contender(k, epochs, settings, als)


# Chosen by `search`, see its rows in the record; those of K = 256 are those of 64.
CONTENDERS: dict[str, Contender] = {
    "ALS, K = 64": _als(64, 4, 0.003, 0.01, 1.0),
    "ALS, K = 256": _als(256, 4, 0.003, 0.01, 1.0),
    "ALS, K = 512": _als(512, 5, 0.003, 0.02, 1.0),
    "ALS, K = 1024": _als(1024, 5, 0.003, 0.01, 1.0),
}
"""Another model is another row here: how it trains, K, epochs, settings."""


# --- data and measures ------------------------------------------------------------------------------------------------


def load(path: str) -> tuple[Ratings, Bags]:
    """Return training events and the test items of each user."""
    with np.load(path) as arrays:
        train, test = (
            Bags(arrays[f"{part}_start"].astype(np.int64), arrays[f"{part}_item"].astype(np.int32))
            for part in ("train", "test")
        )
    n_items = 1 + int(max(train.index.max(), test.index.max()))
    ones = np.ones(len(train.index), np.float32)
    return Ratings(train.row, train.index, ones, len(train.start) - 1, n_items), test


def hold_out(events: Ratings, share: float = SHARE, seed: int = 1) -> tuple[Ratings, Bags]:
    """Split off a share of each user's events, rounded, but never the last."""
    random, counts = np.random.RandomState(seed), events.user_counts()
    order = np.lexsort((random.random_sample(len(events)), events.user))
    rank = np.arange(len(events)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = np.zeros(len(events), bool)
    held[order] = rank < np.minimum(np.round(counts * share), counts - 1)[events.user[order]]
    return events.take(~held), Bags.history(events.take(held), "user")


def measure(trainer: Trainer, events: Ratings, test: Bags, users: int = 0, threads: int = 2) -> tuple[float, float]:
    """Return Recall@20 and NDCG@20, over all users with test items, or as many as asked."""
    asked = np.flatnonzero(np.diff(test.start) > 0)
    if users:
        asked = np.sort(np.random.RandomState(0).permutation(asked)[:users])
    backend, seen = get_backend("numba"), Bags.history(events, "user").take(asked)
    score = trainer.model.scorer(trainer.weights)
    lists, _ = top_n(score, asked, events.n_items, LENGTH, seen, threads, backend.select)
    held = test.take(asked)
    sizes, n = np.diff(held.start), events.n_items
    hits = np.isin(np.arange(len(lists))[:, None] * n + lists, held.row * n + held.index) & (lists >= 0)
    gain = 1.0 / np.log2(np.arange(LENGTH) + 2.0)
    ideal = np.cumsum(gain)[np.minimum(sizes, LENGTH) - 1]
    return float((hits.sum(axis=1) / sizes).mean()), float((hits @ gain / ideal).mean())


# --- sections ---------------------------------------------------------------------------------------------------------


def _row(section: str, name: str, contender: Contender, **more: Any) -> dict[str, Any]:
    return {
        "section": section, "contender": name, "k": contender.k, "settings": json.dumps(contender.settings),
        "epochs": contender.epochs, "device": device(), "commit": commit(), **more,
    }  # fmt: skip


def quality(path: str, only: str, seeds: int, threads: int) -> Iterator[dict[str, Any]]:
    """Train each contender on all training events; measure on the test events."""
    events, test = load(path)
    for name, contender in CONTENDERS.items():
        if only not in name:
            continue
        contender.train(contender, events.take(np.arange(2000)), 0, threads)  # compiles
        for seed in range(seeds):
            load_before, cpu, begin = busy(), time.process_time(), time.perf_counter()
            trainer = contender.train(contender, events, seed, threads)
            cpu, took = time.process_time() - cpu, time.perf_counter() - begin
            size = sum(w.nbytes for w in trainer.weights.values())
            recall, ndcg = measure(trainer, events, test)
            yield _row(
                "quality", name, contender, bytes=size, seed=seed, threads=threads, recall20=recall, ndcg20=ndcg,
                cpu_seconds=cpu, seconds=took, load=load_before,
            )  # fmt: skip


def search(path: str, k: int, tries: list[tuple[float, float, float]], epochs: int, users: int = 0) -> Iterator[Any]:
    """Measure settings (regularization, unobserved, exponent) on held-out training events, after each epoch."""
    train, held = hold_out(load(path)[0])
    for numbers in tries:
        contender = _als(k, epochs, *numbers)
        trainer = Trainer(Dot(k), ALS(**contender.settings), backend="numba", seed=0)
        for epoch in range(1, epochs + 1):
            trainer.fit(train, epochs=1, progress=False)
            if epoch >= 3:
                recall, ndcg = measure(trainer, train, held, users)
                row = _row("search", f"ALS, K = {k}", contender, seed=0, recall20=recall, ndcg20=ndcg)
                yield row | {"epochs": epoch}


def iteration(path: str, interpreter: str, turns: int, ks: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Measure an iteration of ours and of implicit's two ways, in turns, one thread each.

    Its process answers a line a request; see bench/rivals/implicit_turns.py.
    """
    events, test = load(path)
    environment = os.environ | {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    environment.pop("PYTHONPATH", None)
    for k in ks:
        contender = _als(k, 1, 0.003, 0.01, 1.0)
        trainer = Trainer(Dot(k), ALS(**contender.settings), backend="numba", n_threads=1)
        trainer.fit(events, epochs=1, progress=False)  # compiles
        rival = subprocess.Popen(
            [interpreter, str(RIVAL), os.path.abspath(path), str(k)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=environment,
        )  # fmt: skip

        def ask(what: str, rival: Any = rival) -> Any:
            rival.stdin.write(what + "\n")
            rival.stdin.flush()
            return json.loads(rival.stdout.readline())

        for turn in range(turns):
            begin, cpu = time.perf_counter(), time.process_time()
            trainer.fit(events, epochs=1, progress=False)
            ours = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - begin}
            yield _row("iteration", "minicf", contender, seed=turn, threads=1, **ours)
            for way in ("cholesky", "conjugate gradients"):
                found = ask(way)
                yield _row("iteration", f"implicit, {way}", contender, seed=turn, threads=1, **found)
        for way in ("cholesky", "conjugate gradients"):  # whether it learns the same: lists of a training by itself
            user, item = (np.load(name) for name in ask(f"fit {way}"))
            theirs = Trainer(Dot(k), ALS(), backend="numpy", weights={"user_factors": user, "item_factors": item})
            recall, ndcg = measure(theirs, events, test, users=3000)
            yield _row("check", f"implicit, {way}", contender, recall20=recall, ndcg20=ndcg) | {"epochs": 5}
        five = als(_als(k, 5, 0.003, 0.01, 1.0), events, 0, 1)
        recall, ndcg = measure(five, events, test, users=3000)
        yield _row("check", "minicf", contender, recall20=recall, ndcg20=ndcg) | {"epochs": 5}
        rival.communicate("stop\n")


# --- records ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, row: dict[str, Any], fresh: bool) -> None:
    """Append a row; the first of a contender in a section takes the place of its old ones of the same K."""
    key = ("section", "contender", "k")
    kept = [r for r in read(path) if not fresh or any(r[name] != str(row[name]) for name in key)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        new = {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}
        writer.writerows([*kept, new])


def report(rows: list[dict[str, str]]) -> str:
    """Make the table: means over seeds, the spread of recall, the median of seconds; then the turns."""
    lines = [
        "| | K | MB | Recall@20 | NDCG@20 | spread of recall | CPU seconds | seconds | threads |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, of in _grouped(rows, "quality"):
        recall, ndcg, cpu, seconds = (
            [float(r[x]) for r in of] for x in ("recall20", "ndcg20", "cpu_seconds", "seconds")
        )
        lines.append(
            f"| {name[0]} | {name[1]} | {float(of[0]['bytes']) / 1e6:.0f} | {statistics.mean(recall):.4f} | "
            f"{statistics.mean(ndcg):.4f} | {max(recall) - min(recall):.4f} | {statistics.median(cpu):.1f} | "
            f"{statistics.median(seconds):.1f} | {of[0]['threads']} |"
        )
    lines += ["", "| an iteration | K | CPU seconds | times minicf's |", "|---|--:|--:|--:|"]
    groups = dict(_grouped(rows, "iteration"))
    for (name, k), of in groups.items():
        ours = [float(r["cpu_seconds"]) for r in groups["minicf", k]]
        took = [float(r["cpu_seconds"]) for r in of]
        times = statistics.median(a / b for a, b in zip(took, ours, strict=False))
        lines.append(f"| {name} | {k} | {statistics.median(took):.2f} | {times:.2f} |")
    return "\n".join(lines)


def _grouped(rows: list[dict[str, str]], section: str) -> Iterator[tuple[tuple[str, str], list[dict[str, str]]]]:
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        if row["section"] == section:
            found.setdefault((row["contender"], row["k"]), []).append(row)
    yield from found.items()


def run(path: str, sections: Iterator[Any], out: Path = RECORD) -> None:
    done: set[Any] = set()
    for row in sections:
        key = tuple(row[name] for name in ("section", "contender", "k"))
        write(out, row, key not in done)
        done.add(key)
        print({name: value for name, value in row.items() if name not in ("device", "commit", "load")}, flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ranking", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", metavar="PATH", help="the .npz of the split")
    parser.add_argument("--contender", default="", help="contenders whose name has this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--search", type=int, metavar="K", help="search settings for ALS of K factors instead")
    parser.add_argument("--tries", default="", help="of the search: reg:a:nu, separated by commas")
    parser.add_argument("--epochs", type=int, default=6, help="of the search")
    parser.add_argument("--users", type=int, default=0, help="of the search: measure so many; 0 for all")
    parser.add_argument("--implicit", metavar="PYTHON", help="measure iterations beside implicit's instead")
    parser.add_argument("--factors", default="64,128,256", help="of these iterations")
    parser.add_argument("--turns", type=int, default=5, help="of these iterations")
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--report", action="store_true", help="print the tables of the record and stop")
    given = parser.parse_args(arguments)
    if not given.report:
        if not given.data:
            parser.error("--data is missing; it must be the .npz of the split")
        if given.search:
            tries = [tuple(map(float, x.split(":"))) for x in given.tries.split(",")]
            run(given.data, search(given.data, given.search, tries, given.epochs, given.users), given.out)  # type: ignore[arg-type]
        elif given.implicit:
            ks = tuple(map(int, given.factors.split(",")))
            run(given.data, iteration(given.data, given.implicit, given.turns, ks), given.out)
        else:
            run(given.data, quality(given.data, given.contender, given.seeds, given.threads), given.out)
    print(report(read(given.out)))


if __name__ == "__main__":
    main()
