"""Bags that a model reads, histories from training ratings and features from what is given, and features in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf import files
from minicf.data import Bags, Features, Ratings
from minicf.data.bags import BAGS
from minicf.models import Model
from minicf.solvers import Gibbs, Solver


def check_features(model: Model, given: Mapping[str, Any]) -> dict[str, Features]:
    """Return the features by the name of their bag that the model reads."""
    if unknown := [name for name in model.bags if name not in BAGS]:
        raise ValueError(f"model is {model!r}, which reads the bags {unknown}; known are {list(BAGS)}")
    found = {name: value for name, value in given.items() if value is not None}
    for name, value in found.items():
        if not isinstance(value, Features):
            raise TypeError(f"{name} is a {type(value).__name__}; it must be Features, made by Features.from_frame")
        if name not in model.bags:
            raise ValueError(f"{name} is given, and {model!r} does not read it: leave it out")
    return found


def bag_sizes(model: Model, sizes: Mapping[str, int], features: Mapping[str, Features]) -> dict[str, int]:
    """Return what each of the model's bags chooses from: items or users, or features.

    Raises
    ------
    ValueError
        The model reads features that are not there, or that do not have a row for each user, or item.
    """
    found = {}
    for name in model.bags:
        side = BAGS[name]
        if name.endswith("history"):
            found[name] = sizes["item" if side == "user" else "user"]
            continue
        if name not in features:
            raise ValueError(f"{name} is None, and {model!r} reads it: Trainer(..., {name}=features)")
        if len(features[name]) != sizes[side]:
            raise ValueError(
                f"{name} has {len(features[name])} rows, and there are {sizes[side]} {side}s; it must have a row for "
                f"each: features.take(ids.index(ratings.{side}s.ids, missing=-1))"
            )
        found[name] = len(features[name].names)
    return found


def fill(model: Model, ratings: Ratings, bags: Mapping[str, Bags]) -> dict[str, Bags]:
    """Return the model's bags: its histories from training ratings, features as they are."""
    return {name: Bags.history(ratings, BAGS[name]) if name.endswith("history") else bags[name] for name in model.bags}


def to_arrays(bags: Mapping[str, Bags]) -> dict[str, np.ndarray]:
    """Return the arrays of bags for a file."""
    arrays: dict[str, np.ndarray] = {}
    for name, one in bags.items():
        arrays |= {f"{name}.start": one.start, f"{name}.index": one.index}
        if one.weight is not None:
            arrays[f"{name}.weight"] = one.weight
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray], model: Model, sizes: Mapping[str, int]) -> dict[str, Bags]:
    """Return the bags that `to_arrays` wrote, checked: a file may hold anything."""
    bags = {name: _bags(name, arrays, sizes) for name in model.bags if f"{name}.start" in arrays}
    if set(arrays) != set(to_arrays(bags)):
        raise ValueError(f"its bags have {sorted(arrays)}; the model reads {list(model.bags)}")
    return bags


def _bags(name: str, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Bags:
    start, index, weight = arrays[f"{name}.start"], arrays[f"{name}.index"], arrays.get(f"{name}.weight")
    right = (
        start.dtype == np.int64
        and index.dtype == np.int32
        and start.shape == (sizes[BAGS[name]] + 1,)
        and index.ndim == 1
        and start[0] == 0
        and start[-1] == len(index)
        and (np.diff(start) >= 0).all()
        and (index.size == 0 or (index.min() >= 0 and index.max() < sizes[name]))
        and (
            weight is None or (weight.dtype == np.float32 and weight.shape == index.shape and np.isfinite(weight).all())
        )
    )
    if not right:
        raise ValueError(f"its bags {name} do not fit the model's tables")
    return Bags(start, index, BAGS[name], weight)


def described_arrays(solver: Solver) -> dict[str, np.ndarray]:
    """Return the arrays of the features that a `Gibbs` was described with, for a file: its state has their weights."""
    arrays: dict[str, np.ndarray] = {}
    for side, one in solver.features.items() if isinstance(solver, Gibbs) else ():
        arrays |= {f"{side}.start": one.start, f"{side}.index": one.index, f"{side}.value": one.value}
        arrays |= {f"{side}.names.{name}": value for name, value in files.pack_texts(one.names).items()}
    return arrays


def described_solver(solver: Solver, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Solver:
    """Return the solver with the features that `described_arrays` wrote, checked; they read no further table."""
    if not isinstance(solver, Gibbs):
        raise ValueError(f"it has features of {type(solver).__name__}, which takes none")
    features = {}
    for side in sorted({name.partition(".")[0] for name in arrays}):
        own = files.section(arrays, side)
        names, value = files.unpack_texts(files.section(own, "names")), own["value"]
        key = f"{side}_features"
        bags = _bags(
            key, {f"{key}.start": own["start"], f"{key}.index": own["index"], f"{key}.weight": value},
            {BAGS[key]: sizes[side], key: len(names)},
        )  # fmt: skip
        features[side] = Features(bags.start, bags.index, value, names, ())
    return solver.described(features)
