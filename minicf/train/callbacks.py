"""Callbacks of `Trainer.fit`: stop early, save, log, print.

A callback is any object with some of the methods of `Callback`. One that holds something that a resumed run needs
gives it by `state` and takes it back by `load_state`; `Trainer.save` writes it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minicf import files
from minicf.arguments import check_bool, check_choice, check_int, check_number

if TYPE_CHECKING:
    from minicf.train.trainer import Trainer

Row = dict[str, Any]
State = tuple[dict[str, Any], dict[str, np.ndarray]]


class Callback:
    """The contract of a callback: methods that the trainer calls. All do nothing here."""

    for_chains: bool = True
    """Whether it makes sense for Gibbs sampling. One that compares, picks or averages the weights of epochs does not:
    the sweeps of a chain differ by chance and not by merit, and factors turn from one to the next."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Before the first epoch of a `fit`."""

    def on_epoch_begin(self, trainer: Trainer) -> None:
        """Before each epoch."""

    def on_part_end(self, trainer: Trainer, n: int) -> None:
        """After each part of an epoch, `n` examples: one or more batches, as many as the backend takes at a time."""

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        """After each epoch, with its row of the history. Returning True stops training; False and None do not.

        Anything else is a TypeError: a number is no word to stop.
        """

    def on_fit_end(self, trainer: Trainer) -> None:
        """At the end of a `fit`, whatever ended it."""

    def state(self) -> State | None:
        """Return what a resumed run needs: a dict that JSON can hold, and arrays."""
        return None

    def load_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take over what `state` gave."""


class EarlyStopping(Callback):
    """Stop when an error has not fallen, or a score not risen, for a while; leave the best weights, whatever ended it.

    Parameters
    ----------
    patience : int
        The number of epochs without a new best after which to stop.
    monitor : str, optional
        A column of the history; by default the validation error, ``valid_mse`` with squared errors.
    min_delta : float
        A new best must be better than the last by more than this.
    mode : "min" or "max"
        Whether the lowest value is the best, or the highest: "max" for ``valid_recall`` of `HeldOutRecall`.

    Attributes
    ----------
    best, best_epoch
        The best value, and the epoch that had it.

    Notes
    -----
    At the end of a `fit` the trainer holds the best weights. A further `fit` with the same object goes on from where
    training stood, not from the best: `fit(10)` equals `fit(5)` and `fit(5)`. After it has stopped a run, or when
    the trainer no longer holds the best weights (another trainer, a fit without this object), it starts anew.
    """

    for_chains = False

    def __init__(
        self, patience: int = 3, monitor: str | None = None, min_delta: float = 0.0, mode: str = "min"
    ) -> None:
        self.patience, self.min_delta = check_int("patience", patience, 1), check_number("min_delta", min_delta)
        self.monitor, self.mode = monitor, check_choice("mode", mode, ("min", "max"))
        self._reset()

    @property
    def _worst(self) -> float:
        return math.inf if self.mode == "min" else -math.inf

    def _reset(self) -> None:
        self.best, self.best_epoch, self.waited, self.stopped = self._worst, 0, 0, False
        self._best: Any = None
        self._latest: Any = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        _check_validation(self.monitor, trainer)
        if self.stopped or (self._latest is not None and not _equal(_copy(trainer), self._best)):
            self._reset()
        elif self._latest is not None:
            trainer.program.load(*self._latest)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool:
        value = _monitored(self.monitor, trainer, row)
        self.waited += 1
        lower, higher = value < self.best - self.min_delta, value > self.best + self.min_delta
        if self._best is None or (lower if self.mode == "min" else higher):
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

    def held(self) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Return the pairs of weights and state that it holds."""
        return [pair for pair in (self._best, self._latest) if pair is not None]

    def load_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._reset()
        self.best = self._worst if header["best"] is None else check_number("best", header["best"])
        self.best_epoch = check_int("best_epoch", header["best_epoch"], 0)
        self.waited = check_int("waited", header["waited"], 0)
        self.stopped = check_bool("stopped", header["stopped"])
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


def _monitored(monitor: str | None, trainer: Trainer, row: Row) -> float:
    """Return the number to watch; the validation error by default."""
    name = f"valid_{trainer.history.metric}" if monitor is None else monitor
    if name not in row:
        raise ValueError(f"monitor is {name!r}; it must be one of {list(row)}")
    value = float(row[name])
    if math.isnan(value):
        raise ValueError(f"{name} is not known: watching it needs fit(..., valid=ratings)")
    return value


def _check_validation(monitor: str | None, trainer: Trainer) -> None:
    """Refuse to watch a validation error that no epoch will have."""
    names = {f"valid_{trainer.history.metric}{head}" for head in ("", *(f"_{head}" for head in trainer.model.heads))}
    if not trainer.validates and (monitor is None or monitor in names):
        name = f"valid_{trainer.history.metric}" if monitor is None else monitor
        raise ValueError(f"{name} is not known: keeping the best, or early stopping needs fit(..., valid=ratings)")


class Checkpoint(Callback):
    """Save the trainer, all that resuming needs; `Trainer.load(path)` goes on from there.

    A crash at any moment leaves the last whole checkpoint.

    Parameters
    ----------
    path : path
        Each save replaces the last, unless the name has ``{epoch}`` (or ``{epoch:03}``), the number of the epoch.
    every : int
        Save after every so many epochs.
    best : bool
        Of these, save those alone whose `monitor` is lower than at every save before.
    monitor : str, optional
        A column of the history; by default the validation error.
    """

    def __init__(
        self, path: str | os.PathLike[str], every: int = 1, best: bool = False, monitor: str | None = None
    ) -> None:
        self.path, self.every = Path(path), check_int("every", every, 1)
        self.best, self.monitor, self._lowest = check_bool("best", best), monitor, math.inf
        if monitor is not None and not self.best:
            raise ValueError(f"monitor is {monitor!r}; it goes with best=True")
        self.for_chains = not self.best
        self._path(0)

    def _path(self, epoch: int) -> Path:
        try:
            name = re.sub(r"\{epoch(:[^{}]*)?\}", lambda found: format(epoch, (found[1] or ":")[1:]), self.path.name)
        except ValueError as error:
            raise ValueError(
                f"path is {self.path}; {{epoch:…}} must have a format of whole numbers: {error}"
            ) from error
        return self.path.with_name(name) if name else self.path

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Refuse what cannot be written before the first epoch, not after it."""
        files.check_writable(self._path(trainer.epoch + 1))
        trainer.described()
        if self.best:
            _check_validation(self.monitor, trainer)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        if row["epoch"] % self.every:
            return
        before = self._lowest
        if self.best:
            self._lowest = min(before, _monitored(self.monitor, trainer, row))
            if not self._lowest < before:
                return
        try:
            trainer.save(self._path(row["epoch"]))
        except BaseException:
            self._lowest = before
            raise

    def state(self) -> State | None:
        return ({"lowest": self._lowest}, {}) if self.best and self._lowest < math.inf else None

    def load_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        if self.best:
            self._lowest = check_number("lowest", header["lowest"])


class CSVLog(Callback):
    """Append each epoch's row to a CSV file, with a header line if the file is new.

    A run that goes on from a checkpoint takes back the rows of its epochs after that, which it does again. A file with
    other columns (that of a hybrid, say) is refused by a ValueError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_fit_begin(self, trainer: Trainer) -> None:
        files.check_writable(self.path)
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"{self.path} is not a regular file; log to one")
        if len(trainer.history) and self.path.exists():
            self._take_back(trainer)

    def _take_back(self, trainer: Trainer) -> None:
        """Remove what a run logged that was killed before it could save, known by the row of the epoch before."""
        text = io.StringIO(newline="")
        csv.writer(text).writerow(trainer.history[-1].values())
        lines = self.path.read_bytes().splitlines(keepends=True)
        last = text.getvalue().encode()
        if last in lines:
            kept = len(lines) - lines[::-1].index(last)
            later = [line.split(b",")[0] for line in lines[kept:]]
            if later and all(x.isdigit() and int(x) > trainer.epoch for x in later):
                os.truncate(self.path, sum(map(len, lines[:kept])))

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
