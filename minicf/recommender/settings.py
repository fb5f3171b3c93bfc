"""Check the constructor's arguments of a recommender and fill in the defaults of its model."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from minicf import backends, schedules
from minicf.arguments import check_bool, check_choice, check_int, check_number, check_seed
from minicf.backends import get_backend
from minicf.data import Ratings
from minicf.models import Dot, DotBias, Hybrid, Model, Net, SVDpp
from minicf.optim import SGD, Adam, Optimizer
from minicf.recommender.inputs import DUPLICATES, UNKNOWN
from minicf.schedules import Schedule
from minicf.solvers import Gibbs, Gradient, Solver
from minicf.threads import count_threads

log = logging.getLogger("minicf")

# Chosen by cross-validation inside training rows, on MovieLens and on synthetic sets of several shapes: the record is
# bench/results/defaults.csv, the search bench/search_defaults.py. For ratings of standard deviation 1 (see `Units`).
START = ("normal", 0.0, 0.01)
DECAY = {"user_factors": 0.0972, "item_factors": 0.0972, "user_bias": 0.0578, "item_bias": 0.0578}
# Chosen as those of `SVDPP_DEFAULTS` are, with genres, years and made-up columns: SVD++ has an error of 0.714 with
# genres, of 0.733 without; half or twice as much moves it by less than 0.002. Many rows share an entry, so its decay
# for each rating is less than that of their own rows, which would take over what new rows are to have of it.
_FEATURE_DECAY = {"features_factors": 0.03, "features_bias": 0.003}
FEATURE_DECAY = {f"{side}_{name}": decay for side in ("user", "item") for name, decay in _FEATURE_DECAY.items()}
DOT_DEFAULTS: dict[str, Any] = {
    "optimizer": SGD(0.0114, weight_decay=DECAY | FEATURE_DECAY, decay="per_rating"),
    "batch_size": 1,
    "epochs": 40,
}
# On a fifth of MovieLens' training rows: an error of 0.791, of 0.774 by SGD; without decay 0.870.
DOT_ADAM: dict[str, Any] = {
    "optimizer": Adam(0.003, weight_decay=DECAY | FEATURE_DECAY, decay="per_rating", sparse=True),
    "batch_size": 64,
    "epochs": 15,
}
NET_SGD: dict[str, Any] = {"optimizer": SGD(0.05, momentum=0.9), "batch_size": 64, "epochs": 10}
# Chosen on splits inside the training rows of MovieLens' small set (seed 42), for 16 as for 28 epochs.
SVDPP_START = ("uniform", -0.01, 0.01)
_SVDPP_DECAY = {"factors": 0.04, "bias": 0.1, "history_factors": 0.014, "history_bias": 0.0004}
SVDPP_DEFAULTS: dict[str, Any] = {
    "optimizer": SGD(
        0.0045,
        weight_decay={f"{side}_{name}": decay for side in ("user", "item") for name, decay in _SVDPP_DECAY.items()}
        | FEATURE_DECAY,
        decay="per_rating",
    ),
    "batch_size": 1,
    "epochs": 20,
    # A bag shares a step out among its entries.
    "lr_factors": {
        f"{side}_history_{name}": x for side in ("user", "item") for name, x in (("factors", 33.0), ("bias", 0.4))
    },
}
NET_DEFAULTS: dict[str, Any] = {"optimizer": Adam(0.001), "batch_size": 64, "epochs": 10}

OWN_COLUMNS = ("rank", "title", "score", "known", "bias")
"""What lists and tables have beside ids; ids under such a name would be overwritten."""

SCHEDULES: dict[str, Schedule] = {
    "constant": schedules.Constant(),
    "cosine": schedules.Cosine(),
    "one_cycle": schedules.OneCycle(),
}


SAMPLING = ("auto", "numba", "numpy")
"""Backends with which "auto" may take Gibbs sampling: `gibbs_seconds` knows nothing of a GPU."""

FEEDBACK, LISTS = ("explicit", "implicit"), ("preference", "rating")
"""Of the constructor's arguments `feedback` and `lists`."""

SOLVERS = ("auto", "sgd", "adam", "gibbs")
FACTORS, GIBBS_FACTORS = 128, 7
"""By default, of gradient descent and of Gibbs sampling."""

ONLY_GRADIENT: dict[str, Any] = {
    "optimizer": None, "epochs": None, "batch_size": None, "schedule": "cosine", "early_stopping": None,
    "learning_rate": None, "regularization": None,
}  # fmt: skip
"""Arguments that say nothing to Gibbs sampling, and their defaults."""

GIBBS_SECONDS = 60.0
"""The longest training, in `gibbs_seconds`, that "auto" gives to Gibbs sampling."""
GIBBS_BYTES = 1 << 30
"""The most memory for samples with which "auto" takes Gibbs sampling."""


@dataclass(frozen=True)
class Settings:
    """Hold the checked settings of one training."""

    model: Model
    solver: Solver
    named: bool
    """Whether `solver` is the default one of its name: it trains `Dot` and `DotBias` on standardized ratings."""
    ordered: bool
    """Whether training chooses the order of examples: not with a solver object, which has one."""
    epochs: int
    schedule: Schedule | None
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
    def of(
        cls, arguments: Mapping[str, Any], gibbs: bool = False, described: Collection[str] | None = None
    ) -> Settings:
        """Check the constructor's arguments (`Recommender.get_params`).

        Parameters
        ----------
        arguments : dict
        gibbs : bool
            Whether ``solver="auto"`` is Gibbs sampling: see `takes_gibbs`.
        described : collection of "user" and "item", optional
            Sides with features in a training; None where nothing is trained from the beginning.

        Raises
        ------
        ValueError
            For an argument that is out of range or of the wrong type, with its name and value.
        """
        check_choice("unknown", arguments["unknown"], UNKNOWN)
        check_choice("duplicates", arguments["duplicates"], DUPLICATES)
        check_choice("backend", arguments["backend"], ("auto", *backends.NAMES))
        check_choice("feedback", arguments["feedback"], FEEDBACK)
        check_choice("lists", arguments["lists"], LISTS)
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
        given, k = arguments["solver"], arguments["n_factors"]
        if not isinstance(given, Solver):
            if not isinstance(given, str) or given not in SOLVERS:
                raise ValueError(f"solver is {given!r}; it must be one of {list(SOLVERS)}, or a Solver")
            drawn = gibbs if given == "auto" else given == "gibbs"
        else:
            drawn = isinstance(given, Gibbs)
        sampler = Gibbs(*(arguments[name] for name in ("n_samples", "burn_in", "n_chains")))  # checks them
        usual = GIBBS_FACTORS if drawn else FACTORS
        model = _model(arguments["model"], usual if k is None else check_int("n_factors", k, 1))
        if described is not None and not drawn:
            model = _reading(model, described)
        schedule, early_stopping = arguments["schedule"], arguments["early_stopping"]
        if not isinstance(schedule, Schedule):
            if not isinstance(schedule, str) or schedule not in SCHEDULES:
                raise ValueError(f"schedule is {schedule!r}; it must be one of {sorted(SCHEDULES)}, or a Schedule")
            schedule = SCHEDULES[schedule]
        if early_stopping is not None:
            early_stopping = check_int("early_stopping", early_stopping, 1)
        batch_size, epochs = (
            None if arguments[name] is None else check_int(name, arguments[name], 1)
            for name in ("batch_size", "epochs")
        )
        solver: Solver
        if drawn:
            sampler = given if isinstance(given, Gibbs) else sampler
            solver = sampler
            if names := gradient_only(arguments):
                raise ValueError(_refusal(names[0], repr(arguments[names[0]])))
            solver.check(model)
            if sampler.time is not None:
                raise ValueError(
                    f"solver is {sampler!r}; a Recommender does not know the day of a rating that it predicts: leave "
                    "time out, or train by a Trainer and predict by a Posterior"
                )
            epochs, schedule = sampler.n_sweeps, None
        elif described and isinstance(given, Solver) and not isinstance(given, Gradient):
            raise ValueError(
                f"{_named(described)} given, and solver is {given!r}; features need solver='gibbs', 'sgd' or 'adam', "
                "a Gibbs or a Gradient"
            )
        elif isinstance(given, Solver):
            for name in ("optimizer", "learning_rate", "regularization", "batch_size"):
                if arguments[name] is not None:
                    raise ValueError(f"{name} is {arguments[name]!r} beside a solver; give it to the solver itself")
            solver, epochs = given, epochs or NET_DEFAULTS["epochs"]
            if solver.lr is None:
                schedule = None
        else:
            defaults = _defaults(given, model)
            optimizer = _optimizer(arguments, defaults["optimizer"], model)
            rates = defaults.get("lr_factors", {}) if arguments["optimizer"] is None else {}
            rates = {name: rate for name, rate in rates.items() if name in model.shapes(1, 1)}
            solver = Gradient(optimizer, batch_size=batch_size or defaults["batch_size"], lr_factors=rates or None)
            epochs = epochs or defaults["epochs"]
        return cls(
            model=model,
            solver=solver,
            named=not isinstance(given, Solver) and arguments["optimizer"] is None and not drawn,
            ordered=not isinstance(given, Solver),
            epochs=epochs,
            schedule=schedule,
            early_stopping=early_stopping,
            validation_fraction=arguments["validation_fraction"],
            backend=arguments["backend"],
            n_threads=arguments["n_threads"],
            verbose=verbose,
        )

    def later(self, share: float, epochs: int) -> Settings:
        """Return the settings of a training that goes on, at a share of the learning rate."""
        solver = self.solver
        if isinstance(solver, Gradient):
            optimizer: Any = solver.optimizer
            solver = replace(solver, optimizer=replace(optimizer, lr=optimizer.lr * share))
        return replace(self, solver=solver, epochs=epochs)

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer of a gradient solver; None of another."""
        return getattr(self.solver, "optimizer", None)


def _defaults(name: str, model: Model) -> dict[str, Any]:
    """Return the defaults of a gradient solver's name."""
    plain = isinstance(model, SVDpp) and model.history is None  # a `Dot` with features
    if isinstance(model, SVDpp) and not plain and name != "adam":
        return SVDPP_DEFAULTS
    if isinstance(model, Dot) or plain:
        return DOT_ADAM if name == "adam" else DOT_DEFAULTS
    return NET_SGD if name == "sgd" else NET_DEFAULTS


def _optimizer(arguments: Mapping[str, Any], usual: Optimizer, model: Model) -> Optimizer:
    """Return the optimizer of the arguments; `usual` is that of the solver's name."""
    own, name = arguments["optimizer"], arguments["solver"]
    rate, decay = arguments["learning_rate"], arguments["regularization"]
    if own is not None:
        if not isinstance(own, Optimizer):
            raise ValueError(f"optimizer is {own!r}; it must be SGD(...), Adam(...) or None")
        if name != "auto" and type(own) is not type(usual):
            raise ValueError(f"optimizer is {own!r} beside solver={name!r}; give one of them")
        for argument, value in (("learning_rate", rate), ("regularization", decay)):
            if value is not None:
                raise ValueError(f"{argument} is {value!r} beside an optimizer; give it to the optimizer itself")
        return own
    changes: dict[str, Any] = {}
    if rate is not None:
        changes["lr"] = check_number("learning_rate", rate, 0.0)
    decays = usual.weight_decay
    if decay is not None:
        decay = check_number("regularization", decay, 0.0)
        if isinstance(decays, Mapping):
            decays = {w: decay * x / decays["user_factors"] for w, x in decays.items()}
        else:
            decays = decay
    return for_model(replace(usual, weight_decay=decays, **changes), model)  # type: ignore[type-var]


# --- Gibbs sampling or gradient descent -------------------------------------------------------------------------------


def gradient_only(arguments: Mapping[str, Any]) -> list[str]:
    """Return the constructor's arguments that only gradient descent has, where they are not the default."""
    return [name for name, usual in ONLY_GRADIENT.items() if not _same(arguments[name], usual)]


def takes_gibbs(arguments: Mapping[str, Any], ratings: Ratings, asked: Mapping[str, bool]) -> bool:
    """Return whether a training is by Gibbs sampling; where ``solver="auto"`` leaves it open, log why.

    Parameters
    ----------
    arguments : dict
        Of the constructor, checked.
    ratings : Ratings
    asked : dict of bool
        By name, whether `Recommender.fit` was given what only gradient descent has: ``callbacks`` too, where one goes
        by the best epoch.

    Raises
    ------
    ValueError
        Gibbs sampling is asked for, with something that it does not have.
    """
    given, model = arguments["solver"], arguments["model"]
    # Callbacks that do not suit a chain are refused by the trainer, which says which.
    names = [name for name, value in asked.items() if value and name != "callbacks"]
    if given == "gibbs" or isinstance(given, Gibbs):
        if names:
            raise ValueError(_refusal(names[0], "given"))
        return True
    reasons = [*gradient_only(arguments), *names]
    if isinstance(given, Solver) or given != "auto":
        return False
    able = isinstance(model, str) and model in ("dot_bias", "dot") and not reasons
    backend = arguments["backend"]
    if not (able and backend in SAMPLING) or asked["callbacks"]:
        return False
    k = GIBBS_FACTORS if arguments["n_factors"] is None else arguments["n_factors"]
    rows, chains = ratings.n_users + ratings.n_items, arguments["n_chains"]
    compiled = sampling_backend(backend) == "numba"
    seconds = gibbs_seconds(len(ratings), rows, k, arguments["burn_in"] + arguments["n_samples"], chains, compiled)
    size = chains * arguments["n_samples"] * rows * (2 * (k + 1) + 4)
    takes = seconds <= GIBBS_SECONDS and size <= GIBBS_BYTES
    log.info(
        "solver: %s, as Gibbs sampling takes about %.2g s (limit %g) and %.2g MB of samples (limit %.0f)",
        "Gibbs sampling" if takes else "SGD", seconds, GIBBS_SECONDS, size / 1e6, GIBBS_BYTES / 1e6,
    )  # fmt: skip
    return takes


def gibbs_seconds(n: int, rows: int, k: int, sweeps: int, chains: int = 1, compiled: bool = True) -> float:
    """Estimate the seconds of one core that Gibbs sampling takes, compilation apart.

    A sweep adds h h^T of each rating to a matrix on both sides, some D^2 operations, D = K + 1, and factorizes a matrix
    of each row, some D^3. The constants were measured on made tables of 80,000 to 1,000,000 ratings and 10,000 to
    50,000 rows, with K from 3 to 63: the estimate is within a factor of 2.
    """
    d = k + 1
    if not compiled:  # loops in Python
        return chains * sweeps * (rows * (1e-4 + 1e-7 * d**2) + n * 1e-6)
    return chains * sweeps * (n * (5e-8 + 5.5e-11 * d**2) + rows * (3e-7 + 2e-9 * d**2 + 1.5e-11 * d**3))


def sampling_backend(backend: str) -> str:
    """Return the backend of Gibbs sampling: with "auto" on a processor, also where that would take a GPU."""
    name = get_backend(backend).name
    return "numba" if backend == "auto" and name not in SAMPLING else name


def _refusal(name: str, value: str) -> str:
    return f"{name} is {value}; Gibbs sampling has no {name}: leave it out, or say solver='sgd'"


def _same(value: Any, usual: Any) -> bool:
    return value is usual or (isinstance(usual, str) and isinstance(value, str) and value == usual)


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


def _reading(model: Model, sides: Collection[str]) -> Model:
    """Return the model that reads the features of some sides: of `Dot` and `DotBias`, an `SVDpp` without histories."""
    features = "both" if len(sides) == 2 else next(iter(sides), None)
    if isinstance(model, SVDpp):
        if model.features not in (None, features):
            raise ValueError(
                f"model is {model!r}, whose features are of {model.features!r}, and fit was given "
                f"{_named(sides) if sides else 'none'}; give those, or leave the model's features out"
            )
        return replace(model, features=features)
    if features is None:
        return model
    if not isinstance(model, Dot) or type(model) not in (Dot, DotBias):  # a subclass may predict in another way
        raise ValueError(
            f"{_named(sides)} given, and model is {model!r}, which does not read them: take 'dot_bias', 'dot' or "
            "'svd++'"
        )
    own = {name: getattr(model, name) for name in ("rating_range", "init", "global_mean", "biases")}
    return SVDpp(model.n_factors, **own, history=None, features=features)


def _named(sides: Collection[str]) -> str:
    return f"{' and '.join(f'{side}_features' for side in sides)} {'are' if len(sides) > 1 else 'is'}"


def seed_of(random_state: Any) -> int:
    """Return the seed of a random state; a generator is asked for its next number."""
    if isinstance(random_state, int | np.integer):
        return check_seed("random_state", random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
