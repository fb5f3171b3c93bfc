"""Lower the learning rate when an error stops falling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minicf.arguments import check_int, check_number
from minicf.train.callbacks import Callback, Row, State

if TYPE_CHECKING:
    from minicf.train.trainer import Trainer


class ReduceLROnPlateau(Callback):
    """Multiply the trainer's `lr` by `factor` when an error has not fallen for a while.

    A callback and not a `Schedule`, for it follows what training finds; a schedule goes on as a factor on `lr`.

    Parameters
    ----------
    factor : float
        Above 0 and below 1.
    patience : int
        The number of epochs without a new best after which the rate falls, as `EarlyStopping` counts them (PyTorch's
        is one less).
    monitor : str, optional
        A column of the history; by default the validation error.
    min_delta : float
        A new best must be lower than the last by more than this.
    cooldown : int
        Epochs after a fall that are not counted.
    min_lr : float
        The rate does not fall below.

    Raises
    ------
    ValueError
        The column is missing or NaN, or the solver has no learning rate.
    """

    for_chains = False

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 3,
        monitor: str | None = None,
        min_delta: float = 0.0,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self.factor, self.patience = (
            check_number("factor", factor, high=1.0, above=0.0),
            check_int("patience", patience, 1),
        )
        self.monitor, self.min_delta = monitor, check_number("min_delta", min_delta, 0.0)
        self.cooldown, self.min_lr = check_int("cooldown", cooldown, 0), check_number("min_lr", min_lr, 0.0)
        self.best, self.waited, self.cooling = math.inf, 0, 0

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        monitor = f"valid_{trainer.history.metric}" if self.monitor is None else self.monitor
        if monitor not in row:
            raise ValueError(f"monitor is {monitor!r}; it must be one of {list(row)}")
        value = row[monitor]
        if math.isnan(value):
            raise ValueError(f"{monitor} is not known: ReduceLROnPlateau needs fit(..., valid=ratings)")
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.cooling:
            self.cooling, self.waited = self.cooling - 1, 0
        if self.waited >= self.patience:
            trainer.lr = max(trainer.lr * self.factor, min(self.min_lr, trainer.lr))
            self.waited, self.cooling = 0, self.cooldown

    def state(self) -> State:
        best = None if math.isinf(self.best) else self.best
        return {"best": best, "waited": self.waited, "cooling": self.cooling}, {}

    def load_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.best = math.inf if header["best"] is None else float(header["best"])
        self.waited, self.cooling = int(header["waited"]), int(header["cooling"])
