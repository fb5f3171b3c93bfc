"""Save and load recommenders: the header and arrays of a file, and the checks of everything in it."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from minicf import __version__, files, registry
from minicf.arguments import check_bool, check_choice, check_int
from minicf.data import Bags, Vocabulary
from minicf.models import Dot, DotBias, Model
from minicf.optim import Optimizer
from minicf.recommender.inputs import SIDES
from minicf.recommender.preference import Preference, Reading
from minicf.recommender.settings import FEEDBACK, Settings
from minicf.schedules import Schedule
from minicf.solvers import ALS, Posterior, Solver
from minicf.solvers.als import Pairs

if TYPE_CHECKING:
    from minicf.recommender.estimator import Recommender

KIND = "recommender"

POSTERIOR = ("biases", "mean", "scale", "low", "high")
"""What a header says of samples."""

KINDS: dict[str, type[Any]] = {"model": Model, "optimizer": Optimizer, "schedule": Schedule, "solver": Solver}
"""Arguments that may be objects."""

_Kind = TypeVar("_Kind", bound="Recommender")


def write(path: str | os.PathLike[str], recommender: Recommender, seen: bool, samples: bool) -> None:
    """Write a fitted recommender to a file, with or without seen items and samples."""
    seen = seen and recommender.seen_ is not None
    header: dict[str, Any] = {
        "arguments": _plain(recommender.get_params(deep=False)),
        "model": registry.to_config(recommender.model_),
        "mean": recommender.mean_,
        "deviation": recommender.std_,  # the key of version 0.1, whose files are read here
        "unit": recommender.unit_,
        "rating_range": list(recommender.rating_range_),
        "n_ratings": recommender.n_ratings_,
        "n_features_in": recommender.n_features_in_,
        "history": {name: column.tolist() for name, column in recommender.history_.items()},
        "ids": {side: "text" if recommender.vocabulary(side).ids.dtype == object else "int" for side in SIDES},
        "titles": recommender.titles_ is not None,
        "seen": seen,
        "solver": registry.to_config(recommender.solver_),
        "posterior": None,
        "described": recommender.described_,
        "feedback": recommender.feedback_,
        "preference": None,
        "versions": versions(),
    }
    arrays = {f"weights.{name}": w for name, w in recommender.weights_.items()}
    for side in SIDES:
        ids = recommender.vocabulary(side).ids
        if ids.dtype == object:
            arrays |= {f"{side}_ids.{name}": a for name, a in files.pack_texts(ids).items()}
        else:
            arrays[f"{side}_ids.ids"] = ids
    if recommender.titles_ is not None:
        arrays |= {f"titles.{name}": a for name, a in files.pack_texts(recommender.titles_).items()}
    if seen and recommender.seen_ is not None:
        arrays |= {"seen.start": recommender.seen_.start, "seen.items": recommender.seen_.index}
    posterior = recommender.posterior_ if samples else None
    if posterior is not None:
        header["posterior"] = {name: getattr(posterior, name) for name in POSTERIOR}
        for side in SIDES:
            arrays |= {f"samples.{side}": posterior.samples[side], f"samples.{side}_noise": posterior.noise[side]}
        arrays["samples.alpha"] = posterior.alpha
    preference = recommender.preference_
    if preference is not None:
        header["preference"] = {"solver": registry.to_config(preference.solver), **asdict(preference.reading)}
        if recommender.feedback_ == "explicit":  # of events they are the weights
            arrays |= {f"preference.{name}": w for name, w in preference.weights.items()}
        if seen and preference.pairs is not None:  # whose items are the seen ones
            arrays["preference_pairs.value"] = preference.pairs.target
            if preference.pairs.weight is not None:
                arrays["preference_pairs.weight"] = preference.pairs.weight
    files.write(path, KIND, header, arrays)


def read(path: str | os.PathLike[str], kind: type[_Kind]) -> _Kind:
    """Read a recommender, an object of `kind`, from a file.

    Raises
    ------
    FileError
        The file is not one that `write` wrote.
    """
    header, arrays = files.read(path, KIND)
    try:
        recommender = kind(**_arguments(header["arguments"]))
        settings = Settings.of(recommender.get_params(deep=False))
        vars(recommender).update(_attributes(header, arrays))
        solver = header.get("solver")  # files of before there was a choice have none
        recommender.solver_ = settings.solver if solver is None else registry.from_config(solver, Solver, "solver")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise files.FileError(f"{Path(path)} is not a valid recommender file: {error!r}") from error
    return recommender


def versions() -> dict[str, str]:
    """Return the versions of minicf, of Python and of the libraries that numbers depend on."""
    return {
        "minicf": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pandas": pd.__version__,
    }


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments as JSON holds them; a random generator becomes None."""
    arguments = dict(arguments)
    for name, kind in KINDS.items():
        if isinstance(arguments[name], kind):
            arguments[name] = registry.to_config(arguments[name])
    if not isinstance(arguments["random_state"], int | np.integer):
        arguments["random_state"] = None
    return json.loads(json.dumps(arguments, default=lambda value: value.item()))


def _arguments(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments that `_plain` wrote."""
    arguments = dict(plain)
    for name, kind in KINDS.items():
        if arguments.get(name) is not None and not isinstance(arguments[name], str):
            arguments[name] = registry.from_config(arguments[name], kind, name)
    return arguments


def _attributes(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the attributes of a fitted recommender; everything is checked, as a file may hold anything."""
    model = registry.from_config(header["model"], Model, "model")
    users, items = (_vocabulary(header["ids"][side], files.section(arrays, f"{side}_ids")) for side in SIDES)
    mean, std, unit = (_finite(header[name]) for name in ("mean", "deviation", "unit"))
    low, high = header["rating_range"]
    rating_range = _finite(low), _finite(high)
    if not (unit > 0 and std > 0 and low <= high):
        raise ValueError(
            f"unit is {unit}, standard deviation {std}, rating_range {low} … {high}; unit and standard deviation must "
            "be above 0, and the range must ascend"
        )
    history = pd.DataFrame(header["history"])
    _finite(history["train_mse"].iloc[-1])
    weights = _weights(files.section(arrays, "weights"), model, len(users), len(items))
    sampled = header.get("posterior")
    seen = _seen(arrays, len(users), len(items)) if header["seen"] else None
    feedback = check_choice("feedback", header.get("feedback", FEEDBACK[0]), FEEDBACK)
    return {
        "feedback_": feedback,
        "preference_": _preference(header, arrays, weights if feedback == "implicit" else None, users, items, seen),
        "posterior_": None if sampled is None else _posterior(sampled, arrays, model, len(users), len(items)),
        "users_": users,
        "items_": items,
        "titles_": _titles(arrays, len(items)) if header["titles"] else None,
        "model_": model,
        "weights_": weights,
        "seen_": seen,
        "mean_": mean,
        "std_": std,
        "unit_": unit,
        "rating_range_": rating_range,
        "n_ratings_": check_int("n_ratings", header["n_ratings"], 1),
        "n_features_in_": check_int("n_features_in", header["n_features_in"], 2),
        "history_": history,
        "described_": check_bool("described", header.get("described", False)),
    }


def _vocabulary(kind: str, stored: Mapping[str, np.ndarray]) -> Vocabulary:
    ids = files.unpack_texts(stored) if kind == "text" else stored["ids"]
    if kind != "text" and ids.dtype != np.int64:
        raise ValueError(f"ids have dtype {ids.dtype}; it must be int64")
    if not len(ids):
        raise ValueError("there are no ids; a side must have at least one")
    return Vocabulary(ids)


def _weights(weights: Mapping[str, np.ndarray], model: Model, n_users: int, n_items: int) -> dict[str, np.ndarray]:
    """Return the weights in the order of the model."""
    shapes = model.shapes(n_users, n_items)
    if set(shapes) != set(weights):
        raise ValueError(f"weights are {sorted(weights)}; they must be {sorted(shapes)}")
    for name, shape in shapes.items():
        w = weights[name]
        if w.shape != shape or w.dtype != np.float32:
            raise ValueError(f"weight {name!r} is {w.dtype} of shape {w.shape}; it must be float32 of shape {shape}")
        if not np.isfinite(w).all():
            raise ValueError(f"weight {name!r} is not finite")
    return {name: weights[name] for name in shapes}


def _posterior(
    header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model: Model, n_users: int, n_items: int
) -> Posterior:
    """Return the samples, of the right sizes and in the range of what sampling draws."""
    if type(model) is not DotBias:
        raise ValueError(f"model is {model!r}; beside samples it must be a DotBias")
    alpha, rows = arrays["samples.alpha"], {"user": n_users, "item": n_items}
    samples = {side: arrays[f"samples.{side}"] for side in SIDES}
    noise = {side: arrays[f"samples.{side}_noise"] for side in SIDES}
    n, d = len(alpha), samples["user"].shape[-1]
    expected: dict[str, Any] = {"alpha": (alpha, np.float64, (n,))}
    for side in SIDES:
        expected |= {
            side: (samples[side], np.float16, (n, rows[side], d)),
            f"{side}_noise": (noise[side], np.float32, (n, rows[side])),
        }
    if n < 1 or d < 2:
        raise ValueError(f"there are {n} samples of {d} numbers; there must be at least 1 of 2")
    for name, (values, dtype, shape) in expected.items():
        if values.dtype != dtype or values.shape != shape:
            raise ValueError(f"samples of {name} are {values.dtype} of shape {values.shape}, not {dtype} of {shape}")
        if not np.isfinite(values).all() or (name not in SIDES and not (values > 0).all()):
            raise ValueError(f"samples of {name} are out of range")
    numbers = {name: _finite(header[name]) for name in POSTERIOR[1:]}
    if type(header["biases"]) is not bool or numbers["scale"] <= 0 or numbers["low"] > numbers["high"]:
        raise ValueError(f"samples have {dict(header)}; biases must be true or false, scale positive, low at most high")
    mean, scale, low, high = (numbers[name] for name in ("mean", "scale", "low", "high"))
    return Posterior(samples, noise, alpha, header["biases"], mean, scale, low, high)


def _preference(
    header: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    weights: dict[str, np.ndarray] | None,
    users: Vocabulary,
    items: Vocabulary,
    seen: Bags | None,
) -> Preference | None:
    """Return the model of lists, whose `weights` are given for events; files of before there was one have none."""
    found = header.get("preference")
    if found is None:
        if weights is not None:
            raise ValueError("feedback is 'implicit', without a model of preferences; there must be one")
        return None
    solver = registry.from_config(found["solver"], ALS, "solver")
    reading = Reading(check_bool("stars", found["stars"]), _finite(found["center"]), _finite(found["scale"]))
    if reading.scale <= 0 or reading.stars != (weights is None):
        raise ValueError(f"preference is read by {reading}; the scale must be above 0, and stars be of ratings alone")
    if weights is None:
        own = files.section(arrays, "preference")
        k = own["user_factors"].shape[-1]
        weights = _weights(own, Dot(k), len(users), len(items))
    pairs = None
    if seen is not None and "preference_pairs.value" in arrays:
        own = files.section(arrays, "preference_pairs")
        for name, values in own.items():
            if values.dtype != np.float32 or values.shape != seen.index.shape or not np.isfinite(values).all():
                raise ValueError(f"preference has {name} of {values.dtype}, not one finite float32 for each seen item")
        weight = own.get("weight")
        if weight is not None and (weight < 0).any():
            raise ValueError("preference has weights below 0")
        pairs = Pairs(seen.start, seen.index, own["value"], weight)
    return Preference(solver, reading, weights, pairs)


def _titles(arrays: Mapping[str, np.ndarray], n_items: int) -> np.ndarray:
    titles = files.unpack_texts(files.section(arrays, "titles"))
    if len(titles) != n_items:
        raise ValueError(f"there are {len(titles)} titles for {n_items} items; there must be one for each")
    return titles


def _seen(arrays: Mapping[str, np.ndarray], n_users: int, n_items: int) -> Bags:
    start, items = arrays["seen.start"], arrays["seen.items"]
    right = (
        start.dtype == np.int64
        and items.dtype == np.int32
        and start.shape == (n_users + 1,)
        and items.ndim == 1
        and start[0] == 0
        and start[-1] == len(items)
        and (np.diff(start) >= 0).all()
        and (items.size == 0 or (items.min() >= 0 and items.max() < n_items))
    )
    if not right:
        raise ValueError("the seen items do not fit the users and items")
    return Bags(start, items)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number
