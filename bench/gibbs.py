"""Gibbs sampling measured: ``python -m bench.gibbs [--seeds N] [--only SECTION] [--myfm PYTHON] [--large] [--quick]``.

Sections, each a group of rows of bench/results/gibbs.csv; one that is measured anew replaces its rows alone:

- published: the rows of `load_movielens().split(0.2, seed=42)`, which public results use. Error of the posterior mean
  and of the model of rank 16 that is made of it, the share of held-out ratings within one and two deviations.
  ``seconds`` are of the chain with laying the ratings out, ``…_predict`` and ``…_compress`` are apart.
- recommender: the same rows through `Recommender`: its defaults, and with genres. ``seconds`` are of `fit`.
- svdpp: by SGD; see `bench.svdpp`.
- fold_in: every fifth user, from the seed's on, is left out of training. The error is that of their held-out rows of
  the published split: with their training rows given to `Recommender.fold_in` or `partial_fit`, with all users in
  training, and without any rating of them. CPU seconds are of `fit`, or of folding them in.
- million: a million ratings by `make_ratings`, K = 15, 120 sweeps; one and two threads in turns.
- large (``--large``): 25 million ratings, K = 7, 60 sweeps, in a process of its own: seconds and peak memory.
- myfm (``--myfm PYTHON``, an interpreter that has it): beside minicf in turns, at the same rank and sweeps, and both at
  their best: myFM's is its example for MovieLens, rank 10 and 512 sweeps. ``seconds`` are of training and predicting.

CPU seconds are those of one process. Compilation is apart: a short chain comes first.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import data, svdpp
from bench.measure import busy, commit, device, memory, timed
from minicf import DotBias, Ratings, Recommender, load_movielens
from minicf.backends import get_backend
from minicf.data import Batch
from minicf.datasets import make_ratings
from minicf.solvers import Gibbs, Posterior

RECORD = Path(__file__).parent / "results" / "gibbs.csv"
README = Path(__file__).parent.parent / "README.md"
TURNS_OF_MYFM = Path(__file__).parent / "rivals" / "myfm_turns.py"
K = 7
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "no bags": ({"bags": None}, 1),
    "no bags, one noise": ({"bags": None, "noise": None}, 1),
    "default": ({}, 1),
    "default, two threads": ({}, 2),
    "two chains, two threads": ({"n_chains": 2}, 2),
}
MYFM: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "same rank and sweeps, ids only": ({"bags": None, "noise": None}, {"kind": "mf", "rank": K}),
    "same rank and sweeps, bags": ({}, {"kind": "flipped", "rank": K}),
    "at their best": ({"n_chains": 2}, {"kind": "flipped", "rank": 10, "sweeps": 512, "burn_in": 0}),
    "at their best, ordered": ({"n_chains": 2}, {"kind": "ordered", "rank": 10, "sweeps": 512, "burn_in": 0}),
}
"""minicf's arguments, and myFM's; sweeps and burn-in of minicf where none are said."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What to measure, and how much of it."""

    seeds: int = 3
    quick: bool = False
    """Few sweeps and small tables: whether all runs, not how fast or how well."""
    myfm: str = ""

    def solver(self, **arguments: Any) -> Gibbs:
        """Return minicf's solver."""
        return Gibbs(**({"n_samples": 3, "burn_in": 2} if self.quick else {}) | arguments)

    @property
    def sweeps(self) -> Row:
        """Arguments of a `Recommender` for as many sweeps."""
        return {"n_samples": self.solver().n_samples, "burn_in": self.solver().burn_in}


def chain(train: Ratings, solver: Gibbs, seed: int, n_threads: int, k: int = K, sweeps: int | None = None) -> Any:
    """Return the program of a chain after all of its sweeps."""
    model = DotBias(k, global_mean=train.mean)
    weights = model.init_weights(train.n_users, train.n_items, seed)
    program = get_backend("numba").compile(model, solver, weights, seed, "float32", n_threads)
    table = solver.prepare(train)
    for epoch in range(solver.n_sweeps if sweeps is None else sweeps):
        for part in solver.parts(table, seed, epoch, program):
            program.run(table, part)
    return program


def compiled(train: Ratings, k: int = K) -> None:
    """Load or compile all that a chain of K factors and its predictions need."""
    for arguments in ({}, {"bags": None, "noise": None}):
        posterior = Posterior.of(chain(train, Gibbs(1, 0, **arguments), 0, 2, k))
        posterior.predict(train.user[:100], train.item[:100])
    Recommender(n_factors=k, n_samples=1, burn_in=0).fit(train).predict(train)


def error(y: np.ndarray, valid: Ratings) -> float:
    return float(np.mean((np.asarray(y, np.float64) - valid.rating) ** 2))


def within(y: np.ndarray, deviation: np.ndarray, valid: Ratings) -> Row:
    off = abs(y - valid.rating)
    return {f"within_{n}": float(np.mean(off < z * deviation)) for n, z in ((1, 1.0), (2, 2.0))}


def split() -> tuple[Ratings, Ratings]:
    train, valid = load_movielens().split(0.2, seed=42)
    return train, valid


# --- sections ---------------------------------------------------------------------------------------------------------


def published(options: Options) -> Iterator[Row]:
    train, valid = split()
    compiled(train)
    for name, (arguments, n_threads) in CASES.items():
        solver = options.solver(**arguments)
        for seed in range(options.seeds):
            program, wall, cpu = timed(lambda s=solver, i=seed, n=n_threads: chain(train, s, i, n))
            posterior = Posterior.of(program)
            (mean, deviation), _, predicting = timed(lambda p=posterior: p.predict(valid.user, valid.item))
            (model, weights), _, compressing = timed(posterior.compress)
            small = np.clip(model.predict(weights, Batch(valid.user, valid.item)), posterior.low, posterior.high)
            yield {
                "case": name, "threads": n_threads, "seed": seed, "mse": error(mean, valid),
                "mse_rank_16": error(small, valid), "lost_by_rank_16": error(small, valid) - error(mean, valid),
                "seconds": wall, "cpu_seconds": cpu, "cpu_seconds_predict": predicting,
                "cpu_seconds_compress": compressing, **within(mean, deviation, valid),
            }  # fmt: skip


def recommender(options: Options) -> Iterator[Row]:
    train, valid = split()
    genres = pd.DataFrame({"movieId": train.items.ids, "genres": train.genres})
    compiled(train)
    for name, given in (("Recommender()", {}), ("Recommender(), genres", {"item_features": genres})):
        for seed in range(options.seeds):
            own = Recommender(random_state=seed, n_threads=1, **options.sweeps)
            _, wall, cpu = timed(lambda r=own, g=given: r.fit(train, **g))
            (y, deviation), _, predicting = timed(lambda r=own: r.predict(valid, return_std=True))
            yield {
                "case": name, "threads": 1, "seed": seed, "mse": error(y, valid), "seconds": wall, "cpu_seconds": cpu,
                "cpu_seconds_predict": predicting, **within(y, deviation, valid),
            }  # fmt: skip


def by_sgd(options: Options) -> Iterator[Row]:
    yield from svdpp.rows(*split(), options.seeds, 1 if options.quick else None)


def fold_in(options: Options) -> Iterator[Row]:
    train, valid = split()
    compiled(train)
    for seed in range(options.seeds):
        out = np.arange(train.n_users) % 5 == seed % 5
        mine, held = (part.take(np.flatnonzero(out[part.user])) for part in (train, valid))
        columns = ("userId", "movieId", "rating")
        rows = pd.DataFrame(
            dict(zip(columns, (mine.users.ids[mine.user], mine.items.ids[mine.item], mine.rating), strict=True))
        )
        arguments: dict[str, Any] = {"random_state": seed, "n_threads": 1, "lists": "rating", **options.sweeps}
        others = train.take(np.flatnonzero(~out[train.user]))
        whole, _, cpu = timed(lambda a=arguments: Recommender(**a).fit(train))
        part, _, cpu_part = timed(lambda a=arguments, o=others: Recommender(**a).fit(o))

        def row(case: str, of: Recommender, cpu: float, s: int = seed, h: Ratings = held) -> Row:
            return {"case": case, "threads": 1, "seed": s, "rmse": error(of.predict(h), h) ** 0.5, "cpu_seconds": cpu}

        yield row("users in training", whole, cpu)
        yield row("users without ratings", part, cpu_part)
        later = copy.deepcopy(part)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of items that nobody else has rated
            yield row("users folded in", part, timed(lambda r=part, x=rows: r.fold_in(x))[2])
            yield row("users by partial_fit", later, timed(lambda r=later, x=rows: r.partial_fit(x))[2])


def million(options: Options) -> Iterator[Row]:
    n, k = (20_000, 3) if options.quick else (1_000_000, 15)
    planted = make_ratings(n // 100, n // 200, n, 8)
    train = planted.ratings
    compiled(train, k)
    for seed in range(options.seeds):
        for n_threads in (1, 2):
            program, wall, cpu = timed(lambda i=seed, t=n_threads: chain(train, options.solver(), i, t, k))
            # The signal is known: what is off it is the model's own error, in training rows.
            y = Posterior.of(program).predict(train.user, train.item)[0]
            off = float(np.mean((y - planted.signal) ** 2)) ** 0.5
            yield {
                "case": f"{n:,} ratings, K = {k}, threads: {n_threads}", "threads": n_threads, "seed": seed,
                "rmse_to_signal": off, "seconds": wall, "cpu_seconds": cpu,
            }  # fmt: skip


def _alone(connection: Any, path: str, solver: Gibbs, n_threads: int) -> None:
    """Measure a chain, in a process of its own."""
    with np.load(path) as held:
        train = Ratings(held["user"], held["item"], held["rating"], int(held["n_users"]), int(held["n_items"]))
    compiled(train.take(np.arange(1000)))
    with contextlib.suppress(OSError):  # Linux alone: the peak is counted from here on
        Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    _, wall, cpu = timed(lambda: chain(train, solver, 0, n_threads))
    connection.send((wall, cpu, before, memory("VmHWM")))


def large(options: Options) -> Iterator[Row]:
    sizes = (2_000, 1_000, 50_000) if options.quick else (162_000, 59_000, 25_000_000)
    made, n = data.synthetic(*sizes).ratings, sizes[2]
    solver = options.solver() if options.quick else Gibbs(n_samples=40, burn_in=20)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "table.npz")
        np.savez(path, user=made.user, item=made.item, rating=made.rating, n_users=made.n_users, n_items=made.n_items)
        del made
        for n_threads in (1, 2):
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(target=_alone, args=(there, path, solver, n_threads))
            process.start()
            there.close()
            wall, cpu, before, peak = here.recv()  # an EOFError where the process died
            process.join()
            yield {
                "case": f"{n:,} ratings, K = {K}, threads: {n_threads}", "threads": n_threads, "seed": 0,
                "seconds": wall, "cpu_seconds": cpu, "mib_before": before, "mib_peak": peak,
                "bytes_per_rating": peak * 2**20 / n, "bytes_per_rating_own": (peak - before) * 2**20 / n,
            }  # fmt: skip


def beside_myfm(options: Options) -> Iterator[Row]:
    train, valid = split()
    compiled(train)
    with tempfile.TemporaryDirectory() as folder:
        table, out = str(Path(folder) / "table.npz"), str(Path(folder) / "out.npy")
        np.savez(
            table, train_user=train.user, train_item=train.item, rating=train.rating, test_user=valid.user,
            test_item=valid.item, n_users=train.n_users, n_items=train.n_items,
        )  # fmt: skip
        with subprocess.Popen(
            [options.myfm, str(TURNS_OF_MYFM), table],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TQDM_DISABLE": "1"},
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            version = json.loads(process.stdout.readline())["version"]
            for name, (arguments, other) in MYFM.items():
                solver, threads = options.solver(**arguments), arguments.get("n_chains", 1)

                def whole(seed: int, s: Gibbs = solver, n: int = threads) -> np.ndarray:
                    return Posterior.of(chain(train, s, seed, n)).predict(valid.user, valid.item)[0]

                for seed in range(options.seeds):
                    y, wall, cpu = timed(lambda i=seed, f=whole: f(i))
                    yield {
                        "case": f"{name}: minicf", "threads": threads, "seed": seed, "mse": error(y, valid),
                        "seconds": wall, "cpu_seconds": cpu,
                    }  # fmt: skip
                    turn = {"sweeps": solver.n_sweeps, "burn_in": solver.burn_in} | other | {"seed": seed, "out": out}
                    if options.quick:
                        turn |= {"sweeps": solver.n_sweeps, "burn_in": solver.burn_in}
                    process.stdin.write(json.dumps(turn) + "\n")
                    process.stdin.flush()
                    took = json.loads(process.stdout.readline())
                    y = np.load(out)
                    assert y.shape == valid.rating.shape
                    yield {
                        "case": f"{name}: myfm {version}", "threads": 1, "seed": seed, "mse": error(y, valid),
                        "seconds": took["seconds"], "cpu_seconds": took["cpu_seconds"],
                    }  # fmt: skip
            process.stdin.close()


SECTIONS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "published": published, "recommender": recommender, "svdpp": by_sgd, "fold_in": fold_in, "million": million,
    "large": large, "myfm": beside_myfm,
}  # fmt: skip


# --- records ----------------------------------------------------------------------------------------------------------


def summary(rows: list[Row]) -> list[str]:
    """Say each case in a line: means over seeds, of seconds the median with the lowest and the highest."""
    said = []
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        parts = []
        for key in own[0]:
            if key in ("case", "threads", "seed", "section", "load", "device", "commit"):
                continue
            values = [row[key] for row in own]
            if "seconds" in key:
                parts.append(f"{key} {np.median(values):.3g} ({min(values):.3g} … {max(values):.3g})")
            else:
                parts.append(f"{key} {np.mean(values):.4g}")
        said.append(f"{case}, {len(own)} seeds: {', '.join(parts)}")
    return said


def table(rows: list[Row]) -> str:
    """Write the record as a table: means over seeds, the median of seconds."""
    lines = ["| what | error | CPU seconds | beside |", "|---|---|---|---|"]
    for section, case in dict.fromkeys((row["section"], row["case"]) for row in rows):
        own = [row for row in rows if (row["section"], row["case"]) == (section, case)]

        def mean(key: str, own: list[Row] = own) -> float | None:
            values = [float(row[key]) for row in own if row.get(key)]
            return float(np.mean(values)) if values else None

        errors = {
            "mse": "MSE {:.4f}", "rmse": "RMSE {:.4f}", "rmse_to_signal": "{:.4f} off the signal",
        }  # fmt: skip
        beside = {
            "mse_rank_16": "rank 16: {:.4f}", "cpu_seconds_compress": "made in {:.2g} s",
            "within_1": "within one deviation {:.1%}", "within_2": "two {:.1%}",
            "bytes_per_rating": "{:.0f} bytes a rating at the peak",
        }  # fmt: skip
        found, more = (
            ", ".join(text.format(mean(key)) for key, text in names.items() if mean(key) is not None)
            for names in (errors, beside)
        )
        cpu = np.median([float(row["cpu_seconds"]) for row in own])
        place = "" if section in ("published", "recommender", "svdpp") else f"{section.replace('_', '-')}: "
        lines.append(f"| {place}{case} | {found or '–'} | {cpu:.3g} | {more or '–'} |")
    return "\n".join(lines)


def report(path: Path) -> None:
    """Fill README with the record."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    text = README.read_text(encoding="utf-8")
    begin, end = "<!-- bench:stars -->\n", "<!-- /bench -->"
    head, _, rest = text.partition(begin)
    README.write_text(f"{head}{begin}{table(rows)}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def ratio(rows: list[Row]) -> str:
    """Say how much sooner two threads are: the median over seeds of the ratio of seconds in the same round."""
    seconds = [[row["seconds"] for row in rows if row["threads"] == n] for n in (1, 2)]
    return f"one thread over two: {np.median(np.divide(*seconds)):.2f}"


def write(path: Path, section: str, rows: list[Row]) -> None:
    """Put the rows of a section in the place of those that the record has."""
    old: list[Row] = []
    if path.exists():
        with path.open(newline="") as file:
            old = [row for row in csv.DictReader(file) if row.get("section") not in (None, section)]
    together = [*old, *({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)]
    together.sort(key=lambda row: list(SECTIONS).index(row["section"]))
    names = list(dict.fromkeys(key for row in together for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(together)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gibbs", description="Gibbs sampling measured.")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--only", action="append", default=[], choices=list(SECTIONS), help="repeatable")
    parser.add_argument("--myfm", default="", metavar="PYTHON", help="an interpreter that has myfm")
    parser.add_argument("--large", action="store_true", help="25 million ratings as well: minutes, and gigabytes")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether all runs")
    parser.add_argument("--out", type=Path, default=RECORD, metavar="CSV")
    parser.add_argument("--report", action="store_true", help="measure nothing: write the record into README")
    args = parser.parse_args(arguments)
    if args.report:
        report(args.out)
        return
    options = Options(args.seeds, args.quick, args.myfm)
    left_out = {"large": not args.large, "myfm": not args.myfm}
    if "myfm" in args.only and not args.myfm:
        parser.error("--only myfm needs --myfm PYTHON")
    for section in args.only or [name for name in SECTIONS if not left_out.get(name)]:
        where = {"section": section, "load": busy(), "device": device(), "commit": commit()}
        rows = []
        for row in SECTIONS[section](options):
            rows.append(where | row)
            print(row, file=sys.stderr, flush=True)
        write(args.out, section, rows)
        print(
            "\n".join([f"--- {section}", *summary(rows), *([ratio(rows)] if section in ("million", "large") else [])])
        )


if __name__ == "__main__":
    main()
