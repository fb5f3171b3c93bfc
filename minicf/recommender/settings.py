"""Check the constructor's arguments of a recommender and fill in the defaults of its model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from minicf import backends, schedules
from minicf.arguments import check_bool, check_choice, check_int, check_seed
from minicf.models import Dot, DotBias, Hybrid, Model, Net, SVDpp
from minicf.optim import SGD, Adam, Optimizer
from minicf.recommender.inputs import DUPLICATES, UNKNOWN
from minicf.schedules import Schedule
from minicf.threads import count_threads

# Chosen by cross-validation inside training rows, on MovieLens and on synthetic sets of several shapes: the record is
# bench/results/defaults.csv, the search bench/search_defaults.py. For ratings of standard deviation 1 (see `Units`).
START = ("normal", 0.0, 0.01)
DOT_DEFAULTS: dict[str, Any] = {
    "optimizer": SGD(
        0.0114,
        weight_decay={"user_factors": 0.0972, "item_factors": 0.0972, "user_bias": 0.0578, "item_bias": 0.0578},
        decay="per_rating",
    ),
    "batch_size": 1,
    "epochs": 40,
}
# Chosen on splits inside the training rows of MovieLens' small set (seed 42), for 16 as for 28 epochs.
SVDPP_START = ("uniform", -0.01, 0.01)
_SVDPP_DECAY = {"factors": 0.04, "bias": 0.1, "history_factors": 0.014, "history_bias": 0.0004}
SVDPP_DEFAULTS: dict[str, Any] = {
    "optimizer": SGD(
        0.0045,
        weight_decay={f"{side}_{name}": decay for side in ("user", "item") for name, decay in _SVDPP_DECAY.items()},
        decay="per_rating",
    ),
    "batch_size": 1,
    "epochs": 20,
}
SVDPP_RATES = {
    f"{side}_history_{name}": x for side in ("user", "item") for name, x in (("factors", 33.0), ("bias", 0.4))
}
"""Multiples of the learning rate, with the default optimizer: a bag shares a step out among its entries."""
NET_DEFAULTS: dict[str, Any] = {"optimizer": Adam(0.001), "batch_size": 64, "epochs": 10}

DEFAULTS = {Dot: DOT_DEFAULTS, SVDpp: SVDPP_DEFAULTS}

OWN_COLUMNS = ("rank", "title", "score", "known", "bias")
"""What lists and tables have beside ids; ids under such a name would be overwritten."""

SCHEDULES: dict[str, Schedule] = {
    "constant": schedules.Constant(),
    "cosine": schedules.Cosine(),
    "one_cycle": schedules.OneCycle(),
}


@dataclass(frozen=True)
class Settings:
    """Hold the checked settings of one training."""

    model: Model
    optimizer: Optimizer
    lr_factors: Mapping[str, float] | None
    default_optimizer: bool
    """Whether `optimizer` is the default one of the model."""
    epochs: int
    batch_size: int
    schedule: Schedule
    early_stopping: int | None
    validation_fraction: float
    """Checked by `Ratings.split`, and only with `early_stopping`."""
    backend: str
    n_threads: int | None
    verbose: bool

    @property
    def kept(self) -> Model:
        """The model that is kept after training: for `SVDpp`, the one without bags."""
        return self.model.collapsed_model if isinstance(self.model, SVDpp) else self.model

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Settings:
        """Check the constructor's arguments (`Recommender.get_params`).

        Raises
        ------
        ValueError
            For an argument that is out of range or of the wrong type, with its name and value.
        """
        check_choice("unknown", arguments["unknown"], UNKNOWN)
        check_choice("duplicates", arguments["duplicates"], DUPLICATES)
        check_choice("backend", arguments["backend"], ("auto", *backends.NAMES))
        columns = [arguments[role] for role in ("user", "item", "rating")]
        if not all(isinstance(name, str) for name in columns) or len(set(columns)) < 3:
            raise ValueError(f"user, item and rating are {columns}; they must be the names of three columns")
        for role in ("user", "item"):
            if arguments[role] in OWN_COLUMNS or re.fullmatch(r"factor_\d+", arguments[role]):
                raise ValueError(
                    f"{role} is {arguments[role]!r}, a column of the lists themselves; rename the column, "
                    f"frame.rename(columns={{{arguments[role]!r}: '{role}_id'}}), and say {role}='{role}_id'"
                )
        count_threads(arguments["n_threads"])
        verbose = check_bool("verbose", arguments["verbose"])
        model = _model(arguments["model"], check_int("n_factors", arguments["n_factors"], 1))
        defaults = next((own for kind, own in DEFAULTS.items() if isinstance(model, kind)), NET_DEFAULTS)
        is_default = arguments["optimizer"] is None
        optimizer = defaults["optimizer"] if is_default else arguments["optimizer"]
        if not isinstance(optimizer, Optimizer):
            raise ValueError(f"optimizer is {optimizer!r}; it must be SGD(...), Adam(...) or None")
        if is_default:
            optimizer = for_model(optimizer, model)
        rates = {name: rate for name, rate in SVDPP_RATES.items() if name in model.shapes(1, 1)}
        schedule, early_stopping = arguments["schedule"], arguments["early_stopping"]
        if not isinstance(schedule, Schedule):
            if schedule not in tuple(SCHEDULES):
                raise ValueError(f"schedule is {schedule!r}; it must be one of {sorted(SCHEDULES)}, or a Schedule")
            schedule = SCHEDULES[schedule]
        epochs, batch_size = (
            defaults[name] if arguments[name] is None else check_int(name, arguments[name], 1)
            for name in ("epochs", "batch_size")
        )
        return cls(
            model=model,
            optimizer=optimizer,
            lr_factors=(rates or None) if is_default else None,
            default_optimizer=is_default,
            epochs=epochs,
            batch_size=batch_size,
            schedule=schedule,
            early_stopping=None if early_stopping is None else check_int("early_stopping", early_stopping, 1),
            validation_fraction=arguments["validation_fraction"],
            backend=arguments["backend"],
            n_threads=arguments["n_threads"],
            verbose=verbose,
        )


def for_model(optimizer: Optimizer, model: Model) -> Optimizer:
    """Return the optimizer without the weight decay of weights that the model lacks."""
    if not isinstance(optimizer.weight_decay, Mapping):
        return optimizer
    names = model.shapes(1, 1)
    decay = {name: value for name, value in optimizer.weight_decay.items() if name in names}
    if decay == optimizer.weight_decay:
        return optimizer
    return replace(optimizer, weight_decay=decay)  # type: ignore[type-var]


def _model(model: Any, k: int) -> Model:
    """Return the model of a name, with `k` factors; a model object as it is."""
    if isinstance(model, SVDpp) and model.features is not None:
        raise ValueError(f"model is {model!r}; its features must be None: a recommender gives it histories alone")
    if isinstance(model, Model):
        return model
    named: dict[str, Callable[[], Model]] = {
        "dot_bias": lambda: DotBias(k, init=START),
        "dot": lambda: Dot(k, init=START),
        "svd++": lambda: SVDpp(k, init=SVDPP_START),
        "net": lambda: Net(k),
        "hybrid": lambda: Hybrid({"net": (Net(k), 0.2), "dot": (DotBias(k), 1.0)}),
    }
    if not isinstance(model, str) or model not in named:
        raise ValueError(f"model is {model!r}; it must be one of {sorted(named)}, or a model object")
    return named[model]()


def seed_of(random_state: Any) -> int:
    """Return the seed of a random state; a generator is asked for its next number."""
    if isinstance(random_state, int | np.integer):
        return check_seed("random_state", random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
