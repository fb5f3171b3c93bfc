"""Results of a training: its history, the error of one that diverged, a search for a learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd


class DivergenceError(ArithmeticError):
    """The loss, or a weight, stopped being a finite number.

    The trainer holds the last good weights: those of the end of the last whole epoch.

    Attributes
    ----------
    epoch, step : int
        Where it happened, both counted from 1; `step` within the epoch.
    lr : float
        The learning rate there.
    last_loss : float
        The last finite mean training loss, NaN if there was none.
    """

    def __init__(self, epoch: int, step: int, lr: float, last_loss: float) -> None:
        self.epoch, self.step, self.lr, self.last_loss = epoch, step, lr, last_loss
        rated = not math.isnan(lr)  # NaN for a solver without a learning rate
        super().__init__(
            f"training diverged in epoch {epoch}, step {step}{f', at learning rate {lr:g}' if rated else ''}; the last "
            f"finite training loss was {last_loss:.6g}. The weights of the end of the epoch before are kept."
            f"{' Try a smaller learning rate.' if rated else ''}"
        )

    def __reduce__(self) -> Any:
        return type(self), (self.epoch, self.step, self.lr, self.last_loss)


class History:
    """Record a training, a row an epoch."""

    def __init__(self, rows: Iterable[dict[str, Any]] = (), metric: str = "mse") -> None:
        self.rows, self.metric = list(rows), metric

    def frame(self) -> pd.DataFrame:
        """Return the history as a table.

        Returns
        -------
        DataFrame
            Columns epoch, lr (at the epoch's start), train_mse (the mean over the epoch, while weights moved), penalty
            (at its end), valid_mse (NaN without validation ratings), seconds (of training alone), ratings_per_second;
            for a hybrid also train_mse and valid_mse of each head. A loss other than squared error puts its own
            metric in the place of mse, and one that draws negatives gives the loss with them, in both columns.
        """
        columns = ["epoch", "lr", f"train_{self.metric}", "penalty", f"valid_{self.metric}", "seconds"]
        return pd.DataFrame(self.rows, columns=None if self.rows else [*columns, "ratings_per_second"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def __repr__(self) -> str:
        return f"History of {len(self)} epochs\n{self.frame()}"


class LRFind(NamedTuple):
    """The result of `Trainer.lr_find`."""

    frame: pd.DataFrame
    """Columns lr and loss (the smoothed mean loss), a row a step."""
    suggestion: float
    """A tenth of the rate at which the loss was lowest: a common rule of thumb (Smith 2017)."""
