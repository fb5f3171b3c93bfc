"""Settings of the losses with negatives for the benchmark of lists, and a function that trains by them.

Chosen on a tenth of each user's training events of Gowalla, never on its test events. 64 factors and a bias of each
item, with a learning rate that falls in a straight line to 0. BPR takes the events one by one and not by tiles: there
its negatives are of the event's own block of items, and blocks are never compared.
"""

from __future__ import annotations

from typing import NamedTuple

from minicf import BPR, SGD, DotBias, Linear, Logistic, Loss, Ratings, Trainer
from minicf.solvers import Gradient


class Setting(NamedTuple):
    """What a loss is trained with."""

    loss: Loss
    lr: float
    weight_decay: float
    epochs: int
    shuffle: bool | str


SETTINGS = {
    "logistic": Setting(Logistic(4, weight=4.0), 0.25, 0.03, 40, "tiles"),
    "bpr": Setting(BPR(), 0.2, 0.03, 24, True),
}


def trainer(loss: str, n_factors: int = 64, seed: int = 0, n_threads: int | None = None) -> Trainer:
    """Make the trainer of a loss: "logistic" or "bpr"."""
    setting = SETTINGS[loss]
    optimizer = SGD(setting.lr, weight_decay=setting.weight_decay, sparse=True)
    solver = Gradient(optimizer, setting.loss, 1, setting.shuffle)
    model = DotBias(n_factors, init=("normal", 0.0, 0.1))
    return Trainer(model, solver, seed=seed, n_threads=n_threads)


def train(loss: str, events: Ratings, epochs: int, seed: int = 0, n_threads: int | None = None) -> Trainer:
    """Train on events of target 1."""
    trained = trainer(loss, seed=seed, n_threads=n_threads)
    trained.fit(events, epochs=epochs, schedule=Linear(), progress=False)
    return trained
