"""The search for each engine's best settings of case (e), with the same number of trials for each.

A trial tells how far a setting comes, which no load of the machine changes. How long it takes is measured afterwards,
of those that came far enough and are the least work by their sizes, on each engine alike.

Engines that compute the same numbers share their trials, run on minicf: PyTorch and JAX take mini-batches as minicf
does (case (a) checks it), and the trials of each hold for the other. What differs is their time, so that each may have
other best settings.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import data
from bench.measure import Out, Seat
from bench.rivals import Task
from bench.settings import Setting, draw, near, work

TRIALS = 300
"""For each engine: a quarter of them at random, the others near the best so far."""

TIMED = 5
"""For each engine and target, so many settings are timed."""

TURNS = 7
"""Trainings in a row, whose median is a setting's time."""


@dataclass(frozen=True)
class Hunt:
    """Trials in one space of settings: who runs them, and for whom they hold."""

    family: str
    contender: str
    engines: tuple[str, ...]
    seed: int = 0


HUNTS = (
    Hunt("per rating", "minicf reach", ("minicf",)),
    Hunt("mini-batch", "minicf reach", ("PyTorch", "JAX")),
    Hunt("mini-batch", "minicf reach", ("PyTorch", "JAX"), seed=1),
    Hunt("plain", "Surprise", ("Surprise",)),
    Hunt("plain", "cornac", ("cornac",)),
    Hunt("LIBMF", "LIBMF", ("LIBMF",)),
)
"""minicf trains both ways, and spends its trials on the faster one. What holds for two engines is searched twice, with
the trials of each."""


def search(
    out: Path, folder: Path, targets: tuple[float, ...], trials: int, threads: int, libmf: str,
    say: Callable[[str], None] = print, seats: Callable[..., Any] = Seat, engines: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Run all trials on ml-latest-small, time the most promising, and write all to a CSV.

    Parameters
    ----------
    targets : tuple of float
        What a trial must come to: the targets of the case, less their margin.
    engines : tuple of str
        Search for these alone, and keep what the CSV has of the others; for all by default.
    """
    path = data.stored("movielens", folder)

    def seated(contender: str, setting: Setting) -> Any:
        return seats(contender, Task("movielens", threads=threads, options=_options(setting, libmf)), path)

    rows: list[dict[str, Any]] = []
    for hunt in HUNTS:
        if engines and not set(engines) & set(hunt.engines):
            continue
        begin, names = time.perf_counter(), ", ".join(hunt.engines)
        try:
            rows += _trials(hunt, trials, targets, seated)
            say(f"{names}: {trials} trials in {time.perf_counter() - begin:.0f} s")
        except Out as error:
            say(f"{names}: {error}")
    for engine in dict.fromkeys(row["engine"] for row in rows):
        begin, promising = time.perf_counter(), _promising(engine, rows, targets)
        for row in promising:
            try:
                _time(row, seated)
            except Out as error:
                say(f"{engine}: {error}")
        say(f"{engine}: {len(promising)} settings timed in {time.perf_counter() - begin:.0f} s")
    if not rows:
        return
    found = {row["engine"] for row in rows}
    if engines and out.is_file():
        with open(out, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["engine"] not in found] + rows
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _options(setting: Setting, libmf: str) -> dict[str, Any]:
    return {"setting": setting.plain(), "libmf": libmf}


def _trials(hunt: Hunt, trials: int, targets: tuple[float, ...], seated: Callable[..., Any]) -> list[dict[str, Any]]:
    """A row for each trial and each engine that it holds for."""
    rows: list[dict[str, Any]] = []
    seat = seated(hunt.contender, draw(hunt.family, np.random.default_rng(0)))
    try:
        seat.begin()
        for trial, (setting, mse) in enumerate(trying(hunt.family, trials, targets, seat, hunt.seed)):
            rows += [_row(engine, hunt.seed * trials + trial, setting, mse) for engine in hunt.engines]
    finally:
        seat.close()
    return rows


def _time(row: dict[str, Any], seated: Callable[..., Any]) -> None:
    """Fill in what a setting takes its engine, and where that training comes to."""
    seat = seated(_CONTENDER[row["engine"]], setting_of(row))
    try:
        seat.begin()
        row["timed_mse"] = seat.ask("check")["mse"]
        row["seconds"] = float(np.median([seat.ask("turn").seconds for _ in range(TURNS)]))
    finally:
        seat.close()


_CONTENDER = {"minicf": "minicf reach", "PyTorch": "PyTorch reach", "JAX": "JAX reach"} | {
    name: name for name in ("Surprise", "cornac", "LIBMF")
}


def trying(
    family: str, trials: int, targets: tuple[float, ...], seat: Any, seed: int = 0
) -> Iterator[tuple[Setting, float]]:
    """Settings and the errors that they come to: a quarter at random, the others near the best for each target in turn.

    The best for a target are the two that come to it with the least work, and the two that come nearest with less.
    """
    random = np.random.default_rng([seed, trials])
    tried: list[tuple[Setting, float]] = []
    for trial in range(trials):
        if trial < trials // 4 or not tried:
            setting = draw(family, random)
        else:
            parents = _best(family, tried, targets[trial % len(targets)])
            setting = near(family, parents[int(random.integers(len(parents)))], random)
        mse = seat.ask("reached", setting)
        if math.isfinite(mse):
            tried.append((setting, mse))
        yield setting, mse


def _best(family: str, tried: list[tuple[Setting, float]], target: float) -> list[Setting]:
    able = sorted(((work(family, s), mse, s) for s, mse in tried if mse <= target), key=_first_two)[:2]
    least = able[0][0] if able else math.inf
    less = ((mse, work(family, s), s) for s, mse in tried if mse > target)
    close = sorted((one for one in less if one[1] < least), key=_first_two)
    return [setting for _, _, setting in able + close[: 4 - len(able)]]


def _first_two(one: tuple[float, float, Setting]) -> tuple[float, float]:
    return one[:2]


def _row(engine: str, trial: int, setting: Setting, mse: float) -> dict[str, Any]:
    known = {"engine": engine, "trial": trial, "mse": mse, "timed_mse": math.nan, "seconds": math.nan}
    return known | setting.plain()


def _promising(engine: str, rows: list[dict[str, Any]], targets: tuple[float, ...]) -> list[dict[str, Any]]:
    """For each target the engine's settings that come to it with the least work."""
    family = next(hunt.family for hunt in HUNTS if engine in hunt.engines)
    found: dict[int, dict[str, Any]] = {}
    for target in targets:
        able = [row for row in rows if row["engine"] == engine and row["mse"] <= target]
        able.sort(key=lambda row: work(family, setting_of(row)))
        found |= {row["trial"]: row for row in able[:TIMED]}
    return list(found.values())


def best(path: Path, target: float) -> dict[str, Setting]:
    """Each engine's setting with the least seconds of those that came to the target, in the trial and when timed."""
    if not path.is_file():
        return {}
    found: dict[str, tuple[float, Setting]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            mse, seconds = max(float(row["mse"]), float(row["timed_mse"])), float(row["seconds"])
            if mse <= target and seconds < found.get(row["engine"], (math.inf,))[0]:
                found[row["engine"]] = seconds, setting_of(row)
    return {engine: setting for engine, (_, setting) in found.items()}


def setting_of(row: dict[str, Any]) -> Setting:
    """The setting in a row of the CSV."""
    whole = {name: int(row[name]) for name in ("batch", "k", "epochs")}
    lr, decay, spread = (float(row[name]) for name in ("lr", "decay", "spread"))
    ranged = str(row["ranged"]) == "True"
    return Setting(row["kind"], lr, decay, ranged=ranged, schedule=row["schedule"], spread=spread, **whole)
