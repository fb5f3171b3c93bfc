"""Settings of a training to an error, and how they are drawn in a search."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
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
        Factors start normally distributed with this standard deviation.
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
        init = ("normal", 0.0, self.spread)
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


def draw(family: str, trials: int, seed: int = 0) -> list[Setting]:
    """Settings at random: the same for every engine of a family ("mini-batch", "per rating" or "LIBMF")."""
    random = np.random.default_rng([seed, len(family)])

    def log(low: float, high: float) -> float:
        return float(f"{np.exp(random.uniform(np.log(low), np.log(high))):.3g}")

    settings = []
    for _ in range(trials):
        k, epochs = int(random.choice([8, 16, 32, 48, 64])), int(random.integers(1, 11))
        spread, ranged = log(0.01, 0.1), bool(random.random() < 0.5)
        if family != "mini-batch":
            # LIBMF's rates adapt to each row, and start higher.
            lr, decay = (log(0.02, 0.3), log(0.02, 0.4)) if family == "LIBMF" else (log(0.003, 0.08), log(0.01, 0.2))
            epochs, schedule, kind, batch = 4 * epochs, str(random.choice(list(SCHEDULES))), "rating", 1
            settings.append(Setting(kind, lr, decay, batch, k, epochs, False, schedule, spread))
            continue
        kind = str(random.choice(["adam", "adamw", "sgd"]))
        batch = int(random.choice([32, 64, 128, 256, 512, 1024]))
        larger = (batch / 64) ** 0.5  # the usual rule of thumb: a rate grows with the root of the batch
        lr = larger * (log(0.02, 0.5) if kind == "sgd" else log(0.001, 0.03))
        decay = log(0.003, 1.0) if kind == "adamw" else log(3e-5, 2e-3)
        schedule = str(random.choice(list(SCHEDULES)))
        settings.append(Setting(kind, float(f"{lr:.3g}"), decay, batch, k, epochs, ranged, schedule, spread))
    return settings
