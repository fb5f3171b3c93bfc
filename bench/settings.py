"""Settings of a training to an error, and how a search draws them: at random, or near a good one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from minicf import SGD, Adam, Cosine, DotBias, OneCycle
from minicf.models import Model
from minicf.optim import Optimizer
from minicf.schedules import Constant, Schedule

MEAN = 3.5
"""Taken off the ratings where there is no rating range: near the mean of any table of stars."""

SCHEDULES: dict[str, Any] = {"one-cycle": OneCycle, "cosine": Cosine, "constant": Constant}


@dataclass(frozen=True)
class Setting:
    """All that is chosen for a training of biases and factors.

    Parameters
    ----------
    kind : "adam", "adamw", "sgd" or "rating"
        Adam with l2, AdamW, SGD with momentum 0.9 and l2 by mini-batches; SGD a rating at a time with the weight decay
        once a rating, as LIBMF, Surprise and cornac have it.
    lr, decay : float
        The highest learning rate, and the weight decay of all tables.
    batch, k, epochs : int
        Ratings a step, factors, epochs.
    ranged : bool
        Predictions squeezed into 0.5 … 5 by a sigmoid.
    schedule : a name in `SCHEDULES`
        Over all of the epochs.
    spread : float
        The standard deviation of the weights at the start: normally distributed in Surprise, evenly elsewhere. cornac
        and LIBMF have their own.
    """

    kind: str
    lr: float
    decay: float
    batch: int
    k: int
    epochs: int
    ranged: bool = False
    schedule: str = "constant"
    spread: float = 0.05

    def model(self) -> Model:
        edge = math.sqrt(3.0) * self.spread
        init = ("uniform", -edge, edge)
        if self.ranged:
            return DotBias(self.k, rating_range=(0.5, 5.0), init=init)
        return DotBias(self.k, init=init, global_mean=MEAN)

    def optimizer(self) -> Optimizer:
        if self.kind == "adam":
            return Adam(self.lr, weight_decay=self.decay)
        if self.kind == "adamw":
            return Adam(self.lr, weight_decay=self.decay, decay="decoupled")
        if self.kind == "sgd":
            return SGD(self.lr, momentum=0.9, weight_decay=self.decay)
        return SGD(self.lr, weight_decay=self.decay, decay="per_rating")

    def fall(self) -> Schedule:
        """The schedule over all of the epochs."""
        return SCHEDULES[self.schedule]().for_fit(self.epochs)

    def rates(self, steps: int) -> np.ndarray:
        """The learning rate of every step of the training, with `steps` steps an epoch."""
        return self.lr * self.fall().factor(np.arange(self.epochs * steps) / steps)

    def text(self) -> str:
        """In one line, for the record."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())

    def plain(self) -> dict[str, Any]:
        return asdict(self)


FAMILIES = ("mini-batch", "per rating", "plain", "LIBMF")
"""Spaces to search: engines by mini-batches; minicf a rating at a time; Surprise and cornac, which know one learning
rate for all of a training; LIBMF, whose rates adapt to each row, and start higher."""

RATING = {"mini-batch": 16, "per rating": 48, "plain": 16, "LIBMF": 16}
"""How many factors cost about as much as what a rating costs besides."""
STEP = 2048
"""How many ratings cost about as much as what a step by mini-batches costs besides."""


def work(family: str, setting: Setting) -> float:
    """About how long it takes, in a unit of the family's own, by its sizes alone: no clock steers a search."""
    steps = (STEP + setting.batch) / setting.batch if family == "mini-batch" else 1.0
    k = -(-(setting.k + 2) // 16) * 16 if family == "per rating" else setting.k  # minicf fills its rows up with zeros
    return setting.epochs * steps * (RATING[family] + k)


FACTORS = (1, 2, 4, 8, 14, 16, 24, 32, 48, 64, 96, 128)
BATCHES = (64, 128, 256, 512, 1024, 2048)
KINDS = ("adam", "adamw", "sgd")

RATES: dict[str, tuple[float, float]] = {
    "adam": (0.001, 0.03), "adamw": (0.001, 0.03), "sgd": (0.02, 0.5),
    "per rating": (0.002, 0.15), "plain": (0.0005, 0.08), "LIBMF": (0.01, 0.4),
}  # fmt: skip
"""By kind of mini-batch training (at batch 64) or family: lowest and highest learning rate."""
DECAYS: dict[str, tuple[float, float]] = {
    "adam": (3e-5, 2e-3), "adamw": (0.003, 1.0), "sgd": (3e-5, 2e-3),
    "per rating": (0.005, 0.2), "plain": (0.005, 0.2), "LIBMF": (0.01, 0.4),
}  # fmt: skip
SPREADS = (0.003, 0.1)


def most_epochs(family: str) -> int:
    """Mini-batch training, with momentum or Adam, has come to its end sooner."""
    return 8 if family == "mini-batch" else 48


def draw(family: str, random: np.random.Generator) -> Setting:
    """A setting at random."""
    minibatch = family == "mini-batch"
    kind = str(random.choice(KINDS)) if minibatch else "rating"
    batch = int(random.choice(BATCHES)) if minibatch else 1
    k, epochs = int(random.choice(FACTORS)), round(_log(random, 1, most_epochs(family)))
    row = kind if minibatch else family
    larger = (batch / 64) ** 0.5 if minibatch else 1.0  # a rule of thumb: a rate grows with the root of the batch
    lr, decay = larger * _log(random, *RATES[row]), _log(random, *DECAYS[row])
    ranged = minibatch and bool(random.random() < 0.5)
    schedule, spread = _schedule(family, random), _log(random, *SPREADS)
    return _rounded(Setting(kind, lr, decay, batch, k, epochs, ranged, schedule, spread))


def near(family: str, setting: Setting, random: np.random.Generator) -> Setting:
    """A setting near another: the rate is changed, and one thing to three of what else the family can choose."""
    changed = replace(setting, lr=setting.lr * float(np.exp(0.25 * random.standard_normal())))
    may = ["decay", "k", "epochs", "spread"]
    may += ["schedule"] if family in ("mini-batch", "per rating") else []
    may += ["batch", "ranged"] if family == "mini-batch" else []
    for name in random.choice(may, int(random.integers(1, 4)), replace=False):
        way = int(random.choice([-2, -1, 1, 2]))
        if name in ("decay", "spread"):
            value: Any = getattr(setting, name) * float(np.exp(0.5 * random.standard_normal()))
        elif name == "epochs":
            longer = round(_log(random, 1, 1 + setting.epochs / 3))
            value = min(max(1, setting.epochs + (longer if way > 0 else -longer)), most_epochs(family))
        elif name == "schedule":
            value = _schedule(family, random)
        elif name == "ranged":
            value = not setting.ranged
        else:
            values = FACTORS if name == "k" else BATCHES
            value = values[min(max(values.index(getattr(setting, name)) + way, 0), len(values) - 1)]
        changed = replace(changed, **{str(name): value})
    if changed.batch != setting.batch:
        changed = replace(changed, lr=changed.lr * (changed.batch / setting.batch) ** 0.5)
    return _rounded(changed)


def _log(random: np.random.Generator, low: float, high: float) -> float:
    """Evenly distributed on a logarithmic scale."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _schedule(family: str, random: np.random.Generator) -> str:
    return str(random.choice(list(SCHEDULES))) if family in ("mini-batch", "per rating") else "constant"


def _rounded(setting: Setting) -> Setting:
    """With numbers of three digits, as they are written down."""
    lr, decay, spread = (float(f"{x:.3g}") for x in (setting.lr, setting.decay, setting.spread))
    return replace(setting, lr=lr, decay=decay, spread=spread)
