"""What the parity tests go through, on every backend: models, optimisers, ratings, and how results are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from minicf.backends import get_backend
from minicf.data import Batch
from minicf.data.bags import BAGS, Bags
from minicf.models import Dot, DotBias, Hybrid, Model, Net, SVDpp, UnitDot
from minicf.optim import SGD, AdaGrad, Adam, Optimizer, RMSProp
from minicf.solvers import Gradient, Part, Progress

BACKENDS = ("numpy", "numba")
"""Every parity test runs on each of these; one that cannot run here is skipped with its reason."""

TOLERANCE = 1e-9
"""float64, relative to an array's largest magnitude. 200 steps round about 1e3 times each, eps is 2e-16, and training
contracts errors more than it expands them: 2e-13 came out at worst (256 cases). A mistake is far above
it: see `SABOTAGES` in tests/test_golden.py."""

SEED = 11
"""Of the dropout masks."""

RANGE = (0.5, 5.0)

# Weights other than 1 for the heads, rates that differ between layers, a mean and a range: nothing is left at a value
# at which it could be forgotten.
MODELS: dict[str, Model] = {
    "dot": Dot(5),
    "bias": DotBias(5, rating_range=RANGE, global_mean=0.3),
    "net": Net(5, hidden=(6,), dropout=(0.2, 0.4), rating_range=(0.0, 5.5)),
    "hybrid": Hybrid({
        "net": (Net(5, hidden=(4,), dropout=(0.0, 0.3)), 0.2),
        "dot": (DotBias(5, global_mean=3.0), 1.0),
    }),
}  # fmt: skip
"""One of each kind: these meet every optimiser."""

MORE_MODELS: dict[str, Model] = {
    "dot-range-mean": Dot(3, rating_range=RANGE, global_mean=-0.2),
    "bias-plain": DotBias(4),
    "bias-one-factor": DotBias(1, rating_range=RANGE),
    "net-linear": Net(3, hidden=(), dropout=(0.0,)),
    "net-linear-dropout": Net(3, hidden=(), dropout=(0.3,), rating_range=RANGE, global_mean=0.5),
    "net-plain": Net(4, hidden=(7,), dropout=(0.0, 0.0)),
    "net-2": Net(3, hidden=(6, 5), dropout=(0.1, 0.3, 0.2)),
    "net-3": Net(3, hidden=(6, 5, 4), dropout=(0.1, 0.0, 0.2, 0.3), rating_range=RANGE, dense_init="torch"),
    "hybrid-equal": Hybrid({
        "dot": (DotBias(4, rating_range=RANGE), 1.0),
        "net": (Net(4, hidden=(5,), dropout=(0.1, 0.1), rating_range=RANGE), 1.0),
    }),
    "hybrid-nets": Hybrid({
        "wide": (Net(3, hidden=(8,), dropout=(0.2, 0.3)), 0.7),
        "deep": (Net(3, hidden=(4, 4), dropout=(0.1, 0.0, 0.4), rating_range=RANGE), 1.5),
    }),
}  # fmt: skip
"""Variants: these meet a few optimisers, and the gradient checks."""

ALL_MODELS = MODELS | MORE_MODELS

BAGGED: dict[str, SVDpp] = {
    "svdpp": SVDpp(4, rating_range=RANGE, global_mean=0.3),
    "svdpp-user": SVDpp(5, history="user"),
    "svdpp-all": SVDpp(3, history="both", features="both", global_mean=-0.2),
    "svdpp-features": SVDpp(2, biases=False, history=None, features="item"),
}
"""Models that read bags: tests/test_bagged.py."""

FOR_LISTS: dict[str, Model] = {"unit": UnitDot(3, scale=2.0)}
"""Models for losses that compare scores: tests/test_ranking_losses.py."""

KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.05}),
    "momentum": (SGD, {"lr": 0.01, "momentum": 0.9}),
    "nesterov": (SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "adam": (Adam, {"lr": 0.02}),
}
MORE_KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "adam-eps": (Adam, {"lr": 0.02, "betas": (0.0, 0.9), "eps": 1e-2}),
}
COMPOSED_KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "amsgrad": (Adam, {"lr": 0.02, "betas": (0.8, 0.9), "amsgrad": True}),
    "adagrad": (AdaGrad, {"lr": 0.1}),
    "adagrad-initial": (AdaGrad, {"lr": 0.1, "initial": 0.1, "eps": 1e-3}),
    "rmsprop": (RMSProp, {"lr": 0.01}),
    "rmsprop-centered": (RMSProp, {"lr": 0.005, "alpha": 0.9, "eps": 1e-3, "centered": True}),
    "rmsprop-momentum": (RMSProp, {"lr": 0.002, "momentum": 0.8}),
    "rmsprop-both": (RMSProp, {"lr": 0.002, "alpha": 0.95, "eps": 1e-2, "momentum": 0.8, "centered": True}),
}
"""Without compiled kernels anywhere, and without golden trajectories: no kernel could leave them."""
DECAYS = ("none", "l2", "decoupled", "per_rating", "by_name")
OPTIMIZERS = tuple(
    f"{kind}-{decay}-{rows}" for kind in KINDS for decay in DECAYS for rows in ("dense", "sparse")
)  # fmt: skip
"""Names of all combinations of kind, decay and rows."""
COMPOSED_OPTIMIZERS = tuple(
    f"{kind}-{decay}"
    for kind in COMPOSED_KINDS
    for decay in ("none-dense", "l2-dense", "decoupled-sparse", "per_rating-sparse", "by_name-dense")
    if not (kind == "amsgrad" and decay.endswith("sparse"))  # torch.optim.SparseAdam has none
)
FEW_OPTIMIZERS = ("momentum-l2-dense", "nesterov-per_rating-sparse", "adam-decoupled-dense", "adam-by_name-sparse")
EPS_OPTIMIZERS = tuple(f"adam-eps-{decay}-{rows}" for decay in ("l2", "decoupled") for rows in ("dense", "sparse"))


def share(combinations: list[Any], every: int) -> list[Any]:
    """Leave one of `every` combinations to each run, each value of the last argument in turn, and mark the others."""
    return [
        values if (i + i // every) % every == 0 else pytest.param(*values, marks=pytest.mark.campaign)
        for i, values in enumerate(combinations)
    ]


def optimizer(name: str, model: Model) -> Optimizer:
    """The optimiser called ``kind-decay-rows``; "by_name" gives every other weight of the model an l2 of its own."""
    kind, decay, rows = name.rsplit("-", 2)
    cls, arguments = (KINDS | MORE_KINDS | COMPOSED_KINDS)[kind]
    if decay == "by_name":
        names = list(model.shapes(2, 2))[::2]
        arguments = arguments | {"weight_decay": {weight: 0.02 * (i + 1) for i, weight in enumerate(names)}}
    elif decay != "none":
        arguments = arguments | {"weight_decay": 0.05, "decay": decay}
    return cls(**arguments, sparse=rows == "sparse")


@dataclass(frozen=True)
class Problem:
    """Ratings, the order of every epoch, and initial weights.

    The last user and the last item, and one more of each, are never rated; user 0 and item 0 are in nearly every
    batch, often twice; others come and go. The last batch of an epoch is shorter. Numbers come from
    `numpy.random.RandomState`, whose streams never change between versions of NumPy.
    """

    n_users: int = 13
    n_items: int = 17
    n_ratings: int = 60
    batch: int = 8
    epochs: int = 25
    seed: int = 5
    weighted: bool = False

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return -(-self.n_ratings // self.batch)

    def ratings(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Users, items (int32) and ratings (float32, in halves)."""
        random = np.random.RandomState(self.seed)
        index = []
        for n in (self.n_users, self.n_items):
            named = np.delete(np.arange(n), [n // 2, n - 1])
            often = random.uniform(size=self.n_ratings) < 0.25
            index.append(np.where(often, 0, random.choice(named, self.n_ratings)).astype(np.int32))
        return index[0], index[1], (random.randint(1, 11, self.n_ratings) / 2).astype(np.float32)

    def example_weights(self) -> np.ndarray | None:
        """Weights of the ratings in the loss (float32) from 0 to 2, a tenth of them 0; None if they have none."""
        random = np.random.RandomState(self.seed + 3)
        drawn = random.uniform(0, 2, self.n_ratings) * (random.uniform(size=self.n_ratings) > 0.1)
        return drawn.astype(np.float32) if self.weighted else None

    def orders(self) -> list[np.ndarray]:
        """The rows of each epoch, shuffled."""
        random = np.random.RandomState(self.seed + 1)
        return [random.permutation(self.n_ratings).astype(np.int32) for _ in range(self.epochs)]

    def rates(self, lr: float) -> list[np.ndarray]:
        """Learning rates of each epoch: constant in one, changing at every step in the next."""
        shapes = [np.ones(self.steps), np.linspace(1.3, 0.4, self.steps)]
        return [lr * shapes[epoch % 2] for epoch in range(self.epochs)]

    def weights(self, model: Model) -> dict[str, np.ndarray]:
        """Initial weights in float64: large enough that every unit is alive, small enough that training is calm."""
        random = np.random.RandomState(self.seed + 2)
        scales = {1: 0.2, 2: 0.5}
        sizes = {"user": self.n_users, "item": self.n_items, "user_features": 6, "item_features": 6}
        sizes |= {"user_history": self.n_items, "item_history": self.n_users}
        return {
            name: random.standard_normal(p.shape)
            * (scales[len(p.shape)] if p.rows is not None or len(p.shape) == 1 else p.shape[0] ** -0.5)
            for name, p in model.parameters(sizes).items()
        }

    def bags(self, model: Model) -> dict[str, Bags]:
        """The bags that a model reads: histories of the ratings, and features with weights; some rows have none."""
        user, item, _ = self.ratings()
        random = np.random.RandomState(self.seed + 4)
        found = {}
        for name in model.bags:
            side = BAGS[name]
            n = self.n_users if side == "user" else self.n_items
            if name.endswith("history"):
                pair = (user, item) if side == "user" else (item, user)
                found[name] = Bags.of(*pair, n, side)
                continue
            row, index = np.nonzero(random.uniform(size=(n, 6)) < 0.4)
            one = Bags.of(row, index, n, side)
            found[name] = one._replace(weight=random.standard_normal(len(one.index)))
        return found


class Outcome(NamedTuple):
    """What a training run leaves."""

    squared_error: np.ndarray
    """(epochs, heads)"""
    weights: dict[str, np.ndarray]
    state: dict[str, np.ndarray]

    def flat(self) -> np.ndarray:
        """All numbers in a row, in float64; arrays are in the order of the model's list of weights."""
        parts = [self.squared_error, *self.weights.values(), *self.state.values()]
        return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {"squared_error": self.squared_error, **self.weights, **self.state}


def backend(name: str) -> Any:
    """The backend's module; skips the test, with the reason, where it cannot run."""
    import pytest  # here, so that benchmarks can use the twins without it

    try:
        return get_backend(name)
    except ImportError as error:
        pytest.skip(str(error))


def program(trainer: Any, n_users: int, n_items: int) -> Any:
    """Return the program of a trainer that has seen no ratings yet."""
    trainer._compile({"user": n_users, "item": n_items})
    return trainer.program


def predict(program: Any, user: np.ndarray, item: np.ndarray, head: str | None = None) -> np.ndarray:
    """Predict pairs by a program."""
    return program.predict(Batch(user, item), head)


def penalty(program: Any, user_counts: np.ndarray, item_counts: np.ndarray) -> float:
    """Return the penalty of a program's weights by its own optimizer."""
    return program.solver.penalty(program, {"user": user_counts, "item": item_counts})


def train(
    program: Any,
    user: np.ndarray,
    item: np.ndarray,
    target: np.ndarray,
    order: Any,
    batch: int,
    rates: Any,
    weight: np.ndarray | None = None,
) -> Progress:
    """Train a program on some rows of a table, in batches of a size."""
    program.solver = replace(program.solver, batch_size=batch)
    return program.run(Batch(user, item, target, weight), Part("batches", order, rates))


def train_tiles(program: Any, tiles: Any, rounds: np.ndarray, rates: np.ndarray) -> Progress:
    """Train a program on some rounds of tiles."""
    program.solver = replace(program.solver, batch_size=1)
    return program.run(tiles, Part("tiles", rounds, rates))


def run(module: Any, model: Model, opt: Optimizer | Gradient, problem: Problem, dtype: str = "float64") -> Outcome:
    """Train on a backend, an epoch a call."""
    program = module.compile(model, opt, problem.weights(model), SEED, dtype)
    user, item, rating = problem.ratings()
    errors = []
    for order, rates in zip(problem.orders(), problem.rates(opt.lr), strict=True):
        progress = train(program, user, item, rating, order, problem.batch, rates, problem.example_weights())
        assert progress.failed_step == -1
        errors.append(progress.loss)
    return Outcome(np.array(errors), program.weights(), program.state())


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference over largest magnitude of `b`; 0 for arrays that are both all zero."""
    if a.shape != b.shape:
        return float("inf")
    difference = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))
    largest = float(np.abs(b.astype(np.float64)).max(initial=0.0))
    ratio = difference / largest if largest else float("inf") if difference else 0.0
    return float("inf") if np.isnan(difference) else ratio


def distances(ours: Outcome, theirs: Outcome) -> dict[str, float]:
    """`distance` by name of the array; an array that only one side has is infinitely far away."""
    a, b = ours.arrays(), theirs.arrays()
    return {name: distance(a[name], b[name]) if name in a and name in b else float("inf") for name in a | b}


# --- golden trajectories ---------------------------------------------------------------------------------------------

GOLDEN_PROBLEM = Problem(n_users=5, n_items=6, n_ratings=20, batch=6, epochs=5, seed=1)

GOLDEN_MODELS: dict[str, Model] = {
    "small-bias": DotBias(2, rating_range=RANGE, global_mean=0.3),
    "small-hybrid": Hybrid({
        "net": (Net(2, hidden=(5,), dropout=(0.2, 0.3)), 0.2),
        "dot": (DotBias(2, global_mean=3.0), 1.0),
    }),
} | MORE_MODELS  # fmt: skip

GOLDEN = tuple(
    (model, name)
    for model in GOLDEN_MODELS
    for name in (FEW_OPTIMIZERS[::3] if model in MORE_MODELS else OPTIMIZERS + EPS_OPTIMIZERS)
)
"""(model, optimiser) of every trajectory in tests/golden."""
