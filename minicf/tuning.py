"""Search for settings of a recommender, by cross-validation inside the rows that are given."""

from __future__ import annotations

import json
import os
import time
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import loguniform, randint
from sklearn.base import clone
from sklearn.model_selection import ParameterSampler

from minicf.arguments import check_choice, check_int, check_seed
from minicf.baselines import Biases, ItemKNN
from minicf.data import Ratings
from minicf.evaluation import RatingFolds
from minicf.recommender import Recommender
from minicf.recommender.measured import Measured
from minicf.recommender.quality import OF_USERS

ERRORS = ("rmse", "mae")
METHODS = ("random", "halving")

RANGES: dict[str, dict[str, Any]] = {
    "gibbs": {"n_factors": randint(3, 17)},
    "sgd": {
        "n_factors": [32, 64, 128, 256],
        "learning_rate": loguniform(0.004, 0.03),
        "regularization": loguniform(0.03, 0.3),
        "epochs": [20, 40, 60],
    },
    "adam": {
        "n_factors": [8, 16, 32, 64],
        "learning_rate": loguniform(0.0003, 0.01),
        "regularization": loguniform(0.0001, 0.3),
        "epochs": [5, 10, 20],
    },
    "Biases": {"item_damping": loguniform(0.5, 50.0), "user_damping": loguniform(0.5, 50.0)},
    "ItemKNN": {"n_neighbors": [10, 20, 50, 100, 200], "shrinkage": loguniform(0.1, 100.0)},
}
"""What `tune` draws from by default, by the solver of a `Recommender` or the name of a baseline."""


class Tuned(NamedTuple):
    """Hold the result of a search."""

    best: Any
    """The recommender with the best settings, fitted on all rows."""
    table: pd.DataFrame
    """A row for each setting, the best first: its values, ``mean`` and ``std`` of the metric over ``folds`` folds, and
    ``seconds`` of these. Setting 0 is that of the recommender as it was given."""


def tune(
    recommender: Measured,
    ratings: Any,
    ranges: Mapping[str, Any] | None = None,
    n: int = 20,
    method: str = "random",
    metric: str = "rmse",
    *,
    k: int = 10,
    cv: int = 3,
    random_state: int = 0,
    path: str | os.PathLike[str] | None = None,
) -> Tuned:
    """Search for the settings of a recommender that do best on held-out parts of these ratings.

    Give the rows of training alone: the choice is part of training, and a test set tells nothing of a model that was
    chosen by it.

    Parameters
    ----------
    recommender : Recommender, Biases or ItemKNN
        Cloned; its other settings are kept. As it is, it is the first of the `n` settings.
    ratings : DataFrame or Ratings
        As for `fit`. Ratings, or events.
    ranges : mapping from str to list or distribution of scipy.stats, optional
        What to draw each argument of the constructor from; by default `tuning.RANGES`.
    n : int
        Settings to try.
    method : "random" or "halving"
        "random" takes each setting through all folds. "halving" takes all settings through the first fold, and the
        better half of those left through each further one: less work for the same `n`, and a worse setting may win
        that is lucky in a fold.
    metric : str
        "rmse" or "mae", of which the lowest is best, or a measure of lists of `ranking_scorer`.
    k : int
        Length of the lists.
    cv : int
        Folds, of `RatingFolds`.
    random_state : int
        Seed of the settings and of the folds.
    path : path, optional
        File of finished trials (JSON, one a line): a search that was stopped goes on from there.

    Returns
    -------
    Tuned
        ``best`` and ``table``.

    Raises
    ------
    TypeError
        `recommender` is none.
    ValueError
        Arguments out of range; no default ranges; events with an error for a metric; a `path` of another search.
    """
    if not isinstance(recommender, Measured):
        raise TypeError(f"recommender is {recommender!r}; it must be a Recommender, or a baseline")
    n, k, cv = check_int("n", n, 1), check_int("k", k, 1), check_int("cv", cv, 2)
    check_choice("method", method, METHODS)
    check_choice("metric", metric, (*ERRORS, *OF_USERS))
    seed = check_seed("random_state", random_state)
    ranges = _usual(recommender) if ranges is None else ranges
    if unknown := sorted(set(ranges) - set(recommender.get_params(deep=False))):
        raise ValueError(f"ranges has {unknown[0]!r}; {type(recommender).__name__} has no argument of that name")
    table = recommender._read(ratings, None, training=True)[0]
    if recommender._events(ratings, table) and metric in ERRORS:
        raise ValueError(f"metric is {metric!r}, and events have no ratings; it must be one of lists, such as 'ndcg'")
    drawn = ParameterSampler(ranges, n - 1, random_state=seed) if n > 1 else ()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The total space of parameters", category=UserWarning)
        settings: list[dict[str, Any]] = [{}, *({name: _plain(x) for name, x in given.items()} for given in drawn)]
    folds = [*RatingFolds(cv, seed).split(table)]
    trials = _Trials(path, _search(recommender, settings, table, metric, k, cv, seed))
    sign = 1.0 if metric in ERRORS else -1.0
    left = list(range(len(settings)))
    for fold, (train, test) in enumerate(folds):
        for number in left:
            if (number, fold) not in trials.done:
                begin = time.perf_counter()
                fitted = clone(recommender).set_params(**settings[number]).fit(table.take(train))
                value = float(fitted._quality(table.take(test), None, k, None, True, False)[1][metric])
                trials.add(number, fold, value, time.perf_counter() - begin)
        if method == "halving" and fold + 1 < cv:
            means = {number: np.mean([trials.done[number, at][0] for at in range(fold + 1)]) for number in left}
            left = sorted(sorted(left, key=lambda at: (sign * means[at], at))[: max(1, (len(left) + 1) // 2)])
    own = {name: value for name, value in recommender.get_params(deep=False).items() if name in ranges}
    found = pd.DataFrame([_row(own | given, number, trials.done) for number, given in enumerate(settings)])
    found.index.name = "setting"
    order = np.lexsort((sign * found["mean"], -found["folds"]))  # NaN last
    best = clone(recommender).set_params(**settings[order[0]]).fit(ratings)
    return Tuned(best, found.iloc[order])


def _usual(recommender: Measured) -> dict[str, Any]:
    """Return the default ranges."""
    name = type(recommender).__name__
    if isinstance(recommender, Recommender):
        named, model, solver = RANGES, recommender.model, recommender.solver
        if solver == "auto":
            solver = {"dot": "gibbs", "dot_bias": "gibbs", "svd++": "sgd"}.get(str(model), "adam")
        if isinstance(model, str) and isinstance(solver, str) and recommender.optimizer is None and solver in named:
            return named[solver]
    elif isinstance(recommender, Biases | ItemKNN):
        return RANGES[name]
    raise ValueError(
        f"ranges is None, and there are no default ones for {recommender!r}; give ranges={{argument: list}}"
    )


def _plain(value: Any) -> Any:
    """Return a number of NumPy as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _search(
    recommender: Measured, settings: list[dict[str, Any]], table: Ratings, metric: str, k: int, cv: int, seed: int
) -> dict[str, Any]:
    """Return what a file of trials belongs to."""
    columns = (table.users.ids[table.user], table.items.ids[table.item], table.rating)
    rows = zlib.crc32(
        pd.util.hash_pandas_object(pd.DataFrame(dict(enumerate(columns))), index=False).to_numpy().tobytes()
    )
    return {
        "recommender": repr(recommender), "settings": zlib.crc32(repr(settings).encode()), "rows": rows,
        "metric": metric, "k": k, "cv": cv, "random_state": seed,
    }  # fmt: skip


class _Trials:
    """Hold finished trials, and append them to a file.

    Parameters
    ----------
    path : path, optional
    search : dict
        The first line of the file.
    """

    def __init__(self, path: str | os.PathLike[str] | None, search: Mapping[str, Any]) -> None:
        self.done: dict[tuple[int, int], tuple[float, float]] = {}
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        first, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]  # a last line without an end was cut off
        if first:
            try:
                before = json.loads(first)
            except ValueError:
                before = None
            if before != search:
                names = [name for name in search if not isinstance(before, dict) or before.get(name) != search[name]]
                raise ValueError(
                    f"path is {os.fspath(self._path)!r}, a file of another search ({', '.join(names)} differ); "
                    "give another path, or remove the file"
                )
            for line in lines:
                trial = json.loads(line)
                self.done[trial["setting"], trial["fold"]] = trial["value"], trial["seconds"]
        whole = [json.dumps(search), *lines] if first else [json.dumps(search)]
        self._path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")

    def add(self, setting: int, fold: int, value: float, seconds: float) -> None:
        """Add a trial."""
        self.done[setting, fold] = value, seconds
        if self._path is not None:
            trial = {"setting": setting, "fold": fold, "value": value, "seconds": seconds}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(trial) + "\n")


def _row(
    setting: Mapping[str, Any], number: int, done: Mapping[tuple[int, int], tuple[float, float]]
) -> dict[str, Any]:
    """Return a row of the table of a search."""
    trials = [trial for (own, _), trial in done.items() if own == number]
    values = [value for value, _ in trials]
    return {
        **setting, "mean": np.mean(values), "std": np.std(values), "folds": len(values),
        "seconds": sum(seconds for _, seconds in trials),
    }  # fmt: skip
