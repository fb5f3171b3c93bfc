"""The search for each engine's best settings of case (e), with the same number of trials for each.

A family of engines computes the same numbers, so that a trial is run once, on minicf, and holds for all: PyTorch and
JAX take mini-batches as minicf does (case (a) checks it). What differs is the time that a setting takes, and that is
measured for each engine on its own; so a rival may have other best settings than minicf.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench import data
from bench.measure import Out, Seat
from bench.rivals import SEED, Task
from bench.settings import Setting, draw
from minicf import Trainer

TRIALS = 150
"""For each family."""

FAMILIES = {
    "mini-batch": ("minicf", "PyTorch", "JAX"),
    "per rating": ("minicf",),
    "Surprise": ("Surprise",),
    "cornac": ("cornac",),
    "LIBMF": ("LIBMF",),
}
"""Who uses which family's trials. Surprise and cornac take the settings of "per rating", and differ in what they make
of them. minicf has two families, and half of the trials in each: the budget is the same for everybody."""

CANDIDATES = 10
"""Of the settings that came to a target, so many with the fewest steps are timed on each rival."""


def search(
    out: Path, folder: Path, targets: tuple[float, ...], trials: int, threads: int, libmf: str,
    say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Run all trials on ml-latest-small and write them to a CSV, with what each takes each engine."""
    path = data.stored("movielens", folder)
    rows: list[dict[str, Any]] = []
    for family in FAMILIES:
        begin = time.perf_counter()
        if family == "LIBMF" and not libmf:
            continue
        settings = draw(family if family in ("mini-batch", "LIBMF") else "per rating", trials)
        if family == "per rating":
            settings = settings[: trials // 2]
        for number, setting in enumerate(settings):
            try:
                if family in ("mini-batch", "per rating"):
                    mse, seconds = _own(setting, path, threads)
                else:
                    options = {"setting": setting.plain(), "libmf": libmf}
                    mse, seconds = _rival(family, Task("movielens", threads=threads, options=options), path)
            except (ArithmeticError, Out) as error:
                mse = seconds = math.nan
                say(f"{family} {number}: {error}")
            for engine in FAMILIES[family]:
                if engine == "minicf" and number >= trials // 2:
                    continue  # its half is over; the trial was for the others
                known = math.nan if engine in ("PyTorch", "JAX") else seconds
                rows.append({"engine": engine, "trial": number, "mse": mse, "seconds": known} | setting.plain())
        say(f"{family}: {trials} trials in {time.perf_counter() - begin:.0f} s")
    for engine in ("PyTorch", "JAX"):
        begin = time.perf_counter()
        far = [row for target in targets for row in _fewest_steps(rows, engine, target)]
        try:
            _time(engine, far, threads, path)
            say(f"{engine}: {len(far)} settings timed in {time.perf_counter() - begin:.0f} s")
        except Out as error:
            say(f"{engine}: {error}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _own(setting: Setting, path: Path, threads: int) -> tuple[float, float]:
    """Error and seconds of a setting on minicf; compiling is taken out by a second run."""
    train, valid = data.load(path).ratings()
    shuffle: Any = "tiles" if setting.kind == "rating" else True

    def run() -> tuple[Trainer, float]:
        begin = time.perf_counter()
        model, optimizer = setting.model(), setting.optimizer()
        trainer = Trainer(model, optimizer, batch_size=setting.batch, seed=SEED, n_threads=threads)
        trainer.fit(train, epochs=setting.epochs, schedule=setting.fall(), shuffle=shuffle, progress=False)
        return trainer, time.perf_counter() - begin

    _, first = run()
    trainer, second = run()
    return trainer.evaluate(valid)["mse"], min(first, second)


def _rival(engine: str, task: Task, path: Path) -> tuple[float, float]:
    seat = Seat(engine, task, path)
    try:
        seat.begin()
        return seat.ask("check")["mse"], seat.ask("turn").seconds
    finally:
        seat.close()


def _time(engine: str, rows: list[dict[str, Any]], threads: int, path: Path) -> None:
    """Fill in the seconds of those trials that came far enough: steps by the time of a step of their kind."""
    known: dict[tuple[Any, ...], float] = {}
    n = len(data.load(path).user)
    for row in rows:
        setting = Setting(**{f.name: row[f.name] for f in fields(Setting)})
        kind = setting.kind, setting.batch, setting.k, setting.ranged
        if kind not in known:
            model, optimizer = setting.model(), setting.optimizer()
            seat = Seat(engine, Task("movielens", 0, model, optimizer, setting.batch, threads=threads), path)
            try:
                seat.begin()
                seat.ask("warm")
                turns = [seat.ask("turn") for _ in range(2)]
            finally:
                seat.close()
            known[kind] = min(turn.seconds / turn.ratings for turn in turns)
        row["seconds"] = known[kind] * n * setting.epochs


def _fewest_steps(rows: list[dict[str, Any]], engine: str, target: float) -> list[dict[str, Any]]:
    able = [row for row in rows if row["engine"] == engine and row["mse"] <= target]
    return sorted(able, key=lambda row: row["epochs"] / row["batch"])[:CANDIDATES]


def best(path: Path, target: float) -> dict[str, Setting]:
    """Each engine's setting with the least seconds of those that came to the target."""
    if not path.is_file():
        return {}
    found: dict[str, tuple[float, Setting]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            mse, seconds = float(row["mse"]), float(row["seconds"])
            if mse <= target and seconds < found.get(row["engine"], (math.inf,))[0]:
                found[row["engine"]] = seconds, _setting(row)
    return {engine: setting for engine, (_, setting) in found.items()}


def _setting(row: dict[str, str]) -> Setting:
    """The setting in a row of the CSV."""
    whole = {name: int(row[name]) for name in ("batch", "k", "epochs")}
    lr, decay, spread = (float(row[name]) for name in ("lr", "decay", "spread"))
    ranged = row["ranged"] == "True"
    return Setting(row["kind"], lr, decay, ranged=ranged, schedule=row["schedule"], spread=spread, **whole)
