"""Callbacks of `Trainer.fit`: stop early, save, log, print.

A callback is any object with some of the methods of `Callback`. One that holds something that a resumed run needs
gives it by `state` and takes it back by `load_state`; `Trainer.save` writes it.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minicf import files
from minicf.arguments import check_int, check_number

if TYPE_CHECKING:
    from minicf.train.trainer import Trainer

Row = dict[str, Any]
State = tuple[dict[str, Any], dict[str, np.ndarray]]


class Callback:
    """The contract of a callback: methods that the trainer calls. All do nothing here."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Before the first epoch of a `fit`."""

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        """After each epoch, with its row of the history. Returning True stops training."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """At the end of a `fit`, whatever ended it."""

    def state(self) -> State | None:
        """Return what a resumed run needs: a dict that JSON can hold, and arrays."""
        return None

    def load_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take over what `state` gave."""


class EarlyStopping(Callback):
    """Stop when an error has not fallen for a while; leave the best weights, whatever ended training.

    Parameters
    ----------
    patience : int
        The number of epochs without a new best after which to stop.
    monitor : str, optional
        A column of the history; by default the validation error, ``valid_mse`` with squared errors.
    min_delta : float
        A new best must be lower than the last by more than this.

    Attributes
    ----------
    best, best_epoch
        The lowest value, and the epoch that had it.

    Notes
    -----
    At the end of a `fit` the trainer holds the best weights. A further `fit` with the same object goes on from where
    training stood, not from the best: `fit(10)` equals `fit(5)` and `fit(5)`. After it has stopped a run, or when
    the trainer no longer holds the best weights (another trainer, a fit without this object), it starts anew.
    """

    def __init__(self, patience: int = 3, monitor: str | None = None, min_delta: float = 0.0) -> None:
        self.patience, self.min_delta = check_int("patience", patience, 1), check_number("min_delta", min_delta)
        self.monitor = monitor
        self._reset()

    def _reset(self) -> None:
        self.best, self.best_epoch, self.waited, self.stopped = math.inf, 0, 0, False
        self._best: Any = None
        self._latest: Any = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        if self.stopped or (self._latest is not None and not _equal(_copy(trainer), self._best)):
            self._reset()
        elif self._latest is not None:
            trainer.program.load(*self._latest)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool:
        monitor = f"valid_{trainer.history.metric}" if self.monitor is None else self.monitor
        if monitor not in row:
            raise ValueError(f"monitor is {monitor!r}; it must be one of {list(row)}")
        value = row[monitor]
        if math.isnan(value):
            raise ValueError(f"{monitor} is not known: early stopping needs fit(..., valid=ratings)")
        self.waited += 1
        if self._best is None or value < self.best - self.min_delta:
            self.best, self.best_epoch, self.waited = value, row["epoch"], 0
            self._best = _copy(trainer)
        self.stopped = self.waited >= self.patience
        self._latest = None
        return self.stopped

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._best is not None:
            self._latest = _copy(trainer)
            trainer.program.load(*self._best)

    def state(self) -> State:
        header = {k: getattr(self, k) for k in ("best", "best_epoch", "waited", "stopped")}
        if math.isinf(self.best):
            header["best"] = None
        arrays: dict[str, np.ndarray] = {}
        for slot in ("_best", "_latest"):
            if (pair := getattr(self, slot)) is not None:
                for part, values in zip(("weights", "state"), pair, strict=True):
                    arrays |= {f"{slot}.{part}.{name}": value for name, value in values.items()}
        return header, arrays

    def load_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._reset()
        self.best = math.inf if header["best"] is None else float(header["best"])
        self.best_epoch, self.waited = int(header["best_epoch"]), int(header["waited"])
        self.stopped = bool(header["stopped"])
        for slot in ("_best", "_latest"):
            own = files.section(arrays, slot)
            if own:
                setattr(self, slot, (files.section(own, "weights"), files.section(own, "state")))


def _copy(trainer: Trainer) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return trainer.program.weights(), trainer.program.state()


def _equal(a: tuple[dict[str, np.ndarray], ...], b: tuple[dict[str, np.ndarray], ...]) -> bool:
    return all(
        x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x) for x, y in zip(a, b, strict=True)
    )


class Checkpoint(Callback):
    """Save the trainer, all that resuming needs, after every `every` epochs; each save replaces the last.

    `Trainer.load(path)` goes on from there. A crash at any moment leaves the last whole checkpoint.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        self.path, self.every = Path(path), check_int("every", every, 1)

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Refuse what cannot be written before the first epoch, not after it."""
        files.check_writable(self.path)
        trainer.described()

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        if row["epoch"] % self.every == 0:
            trainer.save(self.path)


class CSVLog(Callback):
    """Append each epoch's row to a CSV file, with a header line if the file is new.

    A file with other columns (that of a hybrid, say) is refused by a ValueError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_fit_begin(self, trainer: Trainer) -> None:
        files.check_writable(self.path)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        new = not self.path.exists() or self.path.stat().st_size == 0
        if not new:
            with self.path.open(newline="") as file:
                columns = next(csv.reader(file), [])
            if columns != list(row):
                raise ValueError(f"{self.path} has the columns {columns}, the history {list(row)}: log to a new file")
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if new:
                    writer.writeheader()
                writer.writerow(row)
        except OSError:  # a full disk takes half a row, to which the next one would be glued
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)
            raise


class PrintEpochs(Callback):
    """Print a line an epoch: losses, penalty, learning rate, seconds."""

    def __init__(self, file: Any = None) -> None:
        self.file = file

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        metric = trainer.history.metric
        noun, train, valid = metric.replace("_", " "), row[f"train_{metric}"], row[f"valid_{metric}"]
        line = f"epoch {row['epoch']:>3}  lr {row['lr']:<8.3g} train {noun} {train:.4f}"
        if row["penalty"]:
            line += f"  penalty {row['penalty']:.4f}"
        if not math.isnan(valid):
            line += f"  valid {noun} {valid:.4f}"
        print(f"{line}  {row['seconds']:.2f} s", file=self.file or sys.stdout, flush=True)
