"""The trainer: epochs, learning rates, validation, history, and going on where one stands."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, overload

import numpy as np
import pandas as pd

from minicf import files, models, optim, rng, schedules
from minicf.arguments import check_flag, check_number, check_unmasked, check_whole
from minicf.backends import get_backend
from minicf.backends.base import Program
from minicf.blas import at_most
from minicf.callbacks import Callback, Checkpoint
from minicf.data import Ratings
from minicf.models import Model
from minicf.optim import Optimizer
from minicf.schedules import Schedule
from minicf.tiles import Tiles

log = logging.getLogger("minicf")


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
        The last finite training error (mean squared error), NaN if there was none.
    """

    def __init__(self, epoch: int, step: int, lr: float, last_loss: float) -> None:
        self.epoch, self.step, self.lr, self.last_loss = epoch, step, lr, last_loss
        super().__init__(
            f"training diverged in epoch {epoch}, step {step}, at learning rate {lr:g}; the last finite training "
            f"error was {last_loss:.6g}. The weights of the end of the epoch before are kept. "
            "Try a smaller learning rate."
        )

    def __reduce__(self) -> Any:
        return type(self), (self.epoch, self.step, self.lr, self.last_loss)


class History:
    """What happened, a row an epoch."""

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self.rows = list(rows)

    def frame(self) -> pd.DataFrame:
        """Columns epoch, lr (at the epoch's start), train_mse (the mean over the epoch, while weights moved),
        penalty (at its end), valid_mse (NaN without validation ratings), seconds (of training alone),
        ratings_per_second; for a hybrid also train_mse and valid_mse of each head."""
        columns = ["epoch", "lr", "train_mse", "penalty", "valid_mse", "seconds", "ratings_per_second"]
        return pd.DataFrame(self.rows, columns=None if self.rows else columns)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def __repr__(self) -> str:
        return f"History of {len(self)} epochs\n{self.frame()}"


class LRFind(NamedTuple):
    """What `Trainer.lr_find` found."""

    frame: pd.DataFrame
    """Columns lr and loss (smoothed mean squared error), a row a step."""
    suggestion: float
    """A tenth of the rate at which the loss was lowest: a common rule of thumb (Smith 2017)."""


_TILED_PER_CALL = 4 << 20
"""Ratings in tiles that a program goes through at a time: a tenth of a second, after which Ctrl-C is heard."""


@dataclass
class _SchedulePosition:
    """Which schedule is running and how many epochs of it are over."""

    schedule: Schedule
    epochs: int = 0


class Trainer:
    """Trains a model with an optimiser on a backend, and goes on where it stands.

    Parameters
    ----------
    model : Model
        `Dot`, `DotBias`, `Net` or `Hybrid`.
    optimizer : Optimizer
        `SGD` or `Adam`.
    backend : str
        "auto" takes the fastest that can run here.
    batch_size : int
        Ratings a step.
    dtype : "float32", "float64" or "float16"
        Of weights, state and arithmetic. "float16", for ``backend="cupy"``, ``batch_size=1`` and plain SGD of `Dot` and
        `DotBias`, stores the tables so and computes in float32; ``fit(shuffle="tiles")`` keeps the whole GPU at work.
    seed : int
        Initial weights, order of ratings and dropout follow from it.
    weights : dict of arrays, optional
        Start from these, matched by name; weights of the model that it lacks are initialised, names that the model
        lacks are left out. This is how pre-training works: ``Trainer(DotBias(50), ..., weights=net.weights)``.
    n_threads : int, optional
        At most so many threads, BLAS's included, where a backend uses several; by default as many as there are cores
        to run on, or what ``OMP_NUM_THREADS`` or ``NUMBA_NUM_THREADS`` says. The result does not depend on it.

    Attributes
    ----------
    lr : float
        The learning rate, free to be changed between calls of `fit`; the optimiser's state stays.
    history : History
        Of all calls of `fit`.
    weights : dict of arrays
        Copies of the present weights, by name.

    Notes
    -----
    While it trains it holds weights and state twice: as they are, and as they were at the end of the last epoch, to
    go back to when training diverges.

    Examples
    --------
    >>> import minicf
    >>> train, valid = minicf.load_movielens().split(valid=0.2, seed=42)
    >>> trainer = minicf.Trainer(minicf.DotBias(50, rating_range=(0.5, 5.0)), minicf.Adam(0.01, weight_decay=2e-4))
    >>> history = trainer.fit(train, valid, epochs=3, schedule=minicf.CosineRestarts(cycle=1, mult=2), progress=False)
    >>> history[-1]["valid_mse"] < 0.78
    True
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        *,
        backend: str = "auto",
        batch_size: int = 64,
        dtype: str = "float32",
        seed: int = 0,
        weights: Mapping[str, np.ndarray] | None = None,
        n_threads: int | None = None,
    ) -> None:
        if not isinstance(model, Model):
            raise TypeError(f"model is {model!r}; it must be a minicf model such as DotBias(50)")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer is {optimizer!r}; it must be SGD(...) or Adam(...)")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise ValueError(f"seed is {seed!r}; it must be a whole number")
        optimizer.check_names(model.shapes(1, 1))
        self.model, self.optimizer = model, optimizer
        self.batch_size = check_whole("batch_size", batch_size, 1)
        self.dtype, self.seed = _dtype_name(dtype), int(seed)
        self.n_threads = None if n_threads is None else check_whole("n_threads", n_threads, 1)
        self.history = History()
        self.epoch = 0
        self._backend = get_backend(backend)
        if self.dtype == "float16" and (self._backend.NAME != "cupy" or self.batch_size != 1):
            raise ValueError(
                "dtype is 'float16', which stores rows for per-rating SGD on a GPU: it needs backend='cupy' and "
                f"batch_size=1, not {self._backend.NAME!r} and {self.batch_size}; 'float32' goes everywhere"
            )
        self._lr = optimizer.lr
        self._given = self._match(weights)
        self._program: Program | None = None
        self._position: _SchedulePosition | None = None
        self._callbacks: tuple[Any, ...] = ()
        self._resumed: dict[str, Any] = {}

    # --- weights ---------------------------------------------------------------------------------------------

    def _match(self, weights: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """The given weights that the model has, checked against one another and copied."""
        if weights is None:
            return {}
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights is a {type(weights).__name__}; it must be a dict of arrays by name")
        names = list(self.model.shapes(1, 1))
        given = {name: np.asarray(weights[name]) for name in names if name in weights}
        for name, value in given.items():
            check_unmasked(f"weights[{name!r}]", weights[name])
            if value.dtype.kind not in "iuf":
                raise ValueError(f"weights[{name!r}] has dtype {value.dtype}; it must hold numbers")
            given[name] = np.array(value, dtype=np.float64)
        if not given:
            raise ValueError(f"weights has {sorted(weights)}; none of them is a weight of this model: {names}")
        expected = self.model.shapes(*self._sizes(given, 1, 1))
        for name, value in given.items():
            if value.shape != expected[name]:
                raise ValueError(f"weights[{name!r}] has shape {value.shape}; the model needs {expected[name]}")
            if not np.isfinite(value).all():
                raise ValueError(f"weights[{name!r}] holds NaN or infinite values")
        if left := sorted(set(weights) - set(given)):
            log.info("starting from %s; not used by this model: %s", sorted(given), left)
        return given

    @staticmethod
    def _sizes(given: Mapping[str, np.ndarray], n_users: int, n_items: int) -> tuple[int, int]:
        """Users and items as the tables among the given weights count them."""
        users = [len(given[name]) for name in models.USER_TABLES if name in given and given[name].ndim]
        items = [len(given[name]) for name in models.ITEM_TABLES if name in given and given[name].ndim]
        return (users or [n_users])[0], (items or [n_items])[0]

    def _prepare(self, n_users: int, n_items: int) -> Program:
        """The program for so many users and items, made at the first need."""
        if self._program is None:
            users, items = self._sizes(self._given, n_users, n_items)
            if (users, items) != (n_users, n_items):
                raise ValueError(
                    f"the given weights are for {users} users and {items} items, "
                    f"the ratings have {n_users} and {n_items}"
                )
            uniform = getattr(self._backend, "uniform", rng.uniform)  # compiled where there is such, of the same bits
            start = self.model.init_weights(n_users, n_items, self.seed, uniform) | self._given
            self._program = self._backend.compile(
                self.model, self.optimizer, start, self.seed, self.dtype, self.n_threads
            )
            self._given = {}
            self._n_users, self._n_items = n_users, n_items
        elif (n_users, n_items) != (self._n_users, self._n_items):
            raise ValueError(
                f"this trainer was made for {self._n_users} users and {self._n_items} items, the ratings have "
                f"{n_users} and {n_items}; ratings of one split share their vocabularies"
            )
        return self._program

    @property
    def program(self) -> Program:
        """The compiled program that holds weights and state."""
        if self._program is None:
            needed = set(self.model.shapes(1, 1))
            if missing := sorted(needed - set(self._given)):
                raise RuntimeError(f"nothing is trained yet: call fit first (no {', '.join(missing)})")
            self._prepare(*self._sizes(self._given, 1, 1))
        assert self._program is not None
        return self._program

    @property
    def weights(self) -> dict[str, np.ndarray]:
        return self.program.weights()

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._backend.NAME

    @property
    def lr(self) -> float:
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = check_number("lr", value, 0.0)

    # --- training --------------------------------------------------------------------------------------------

    def fit(
        self,
        train: Ratings,
        valid: Ratings | None = None,
        epochs: int = 1,
        schedule: Schedule | None = None,
        shuffle: bool | str = True,
        callbacks: Iterable[Any] = (),
        progress: bool | None = None,
    ) -> History:
        """Train for some more epochs.

        Parameters
        ----------
        train : Ratings
        valid : Ratings, optional
            Predicted after each epoch for the history.
        epochs : int
        schedule : Schedule, optional
            Moves the learning rate around `lr`; see `minicf.schedules` for how it goes on over several calls.
        shuffle : bool or "tiles"
            A new order each epoch, a function of the seed and the epoch; False takes the rows as they stand. "tiles",
            for ``batch_size=1``, is an order in which threads can share the work (see `minicf.tiles`): the ratings are
            laid out once, an epoch shuffles the rounds, and the learning rate moves from round to round.
        callbacks : iterable of Callback
        progress : bool, optional
            A bar on stderr; by default where that is a terminal.

        Returns
        -------
        History
            Of all calls so far.

        Raises
        ------
        DivergenceError
            The loss became NaN or infinite; the last good weights are kept.
        KeyboardInterrupt
            After Ctrl-C, once the step in hand is finished; the weights are usable as they stand.
        """
        epochs = check_whole("epochs", epochs, 0)
        progress = None if progress is None else check_flag("progress", progress)
        _check_ratings("train", train)
        if valid is not None:
            _check_ratings("valid", valid)
            if (valid.n_users, valid.n_items) != (train.n_users, train.n_items):
                raise ValueError(
                    f"train has {train.n_users} users and {train.n_items} items, valid has {valid.n_users} and "
                    f"{valid.n_items}; both must come from one split"
                )
        program = self._prepare(train.n_users, train.n_items)
        if epochs == 0:
            return self.history
        if not (isinstance(shuffle, bool | np.bool_) or (isinstance(shuffle, str) and shuffle == "tiles")):
            raise ValueError(f"shuffle is {shuffle!r}; it must be True, False or 'tiles'")
        if shuffle == "tiles" and self.batch_size != 1:
            raise ValueError(f"shuffle='tiles' goes rating by rating: batch_size must be 1, it is {self.batch_size}")
        position = self._follow(schedule, epochs)
        tiles = Tiles.of(train) if shuffle == "tiles" else None
        counts = (train.user_counts(), train.item_counts()) if tiles is None else tiles.counts
        # Checkpoints last, so that they hold what the other callbacks made of the epoch.
        self._callbacks = tuple(sorted(_listed(callbacks), key=lambda callback: isinstance(callback, Checkpoint)))
        self._resume_callbacks()
        with contextlib.ExitStack() as ends:  # each callback that began ends, whatever the others raise
            ends.enter_context(at_most(self.n_threads))
            for callback in self._callbacks:
                _call(callback, "on_fit_begin", self)
                ends.callback(_call, callback, "on_fit_end", self)
            with _Interruptible() as interrupted, _bar(epochs * len(train), progress) as bar:
                for _ in range(epochs):
                    good: Any = program.snapshot()
                    row = self._train_epoch(program, train, tiles, position, bool(shuffle), interrupted, bar, good)
                    if row is None:
                        break
                    good = None  # the next one may have its memory
                    row["penalty"] = program.penalty(*counts)
                    if valid is not None:
                        row |= self._validate(valid)
                    self._append(row)
                    if position is not None:
                        position.epochs += 1
                    if not bar.disable:
                        bar.set_postfix_str(f"train {row['train_mse']:.4f} valid {row['valid_mse']:.4f}")
                    stops = [_call(callback, "on_epoch_end", self, dict(row)) for callback in self._callbacks]
                    if any(stops) or interrupted.asked:
                        break
        if interrupted.asked:
            log.warning("interrupted after %d whole epochs; the trainer is usable as it stands", self.epoch)
            raise KeyboardInterrupt
        return self.history

    def _train_epoch(
        self,
        program: Program,
        train: Ratings,
        tiles: Tiles | None,
        position: _SchedulePosition | None,
        shuffle: bool,
        interrupted: _Interruptible,
        bar: Any,
        good: Any,
    ) -> dict[str, Any] | None:
        """One epoch; None when it was interrupted midway."""
        n = len(train)
        if tiles is not None:
            order = tiles.rounds(self.seed, self.epoch)  # a step of this loop is a round
            steps, steps_per_call = tiles.n_blocks, max(1, tiles.n_blocks * _TILED_PER_CALL // n)
        else:
            permutation = getattr(program, "order", rng.permutation)  # where the program makes the same on a device
            order = permutation(self.seed, self.epoch, n) if shuffle else np.arange(n, dtype=np.int32)
            steps, steps_per_call = -(-n // self.batch_size), program.steps_per_call(self.batch_size)
        squared = np.zeros(len(self.model.heads))
        seconds, lr = 0.0, self._lr
        taken = seen = 0  # steps and ratings
        for first in range(0, steps, steps_per_call):
            last = min(first + steps_per_call, steps)
            rates = self._rates(position, first, last, steps)
            if first == 0:
                lr = float(np.ravel(rates)[0])
            rows = order[first * self.batch_size : last * self.batch_size]
            begin = time.perf_counter()
            if tiles is not None:
                size = n if last - first == steps else int((tiles.start[rows, -1] - tiles.start[rows, 0]).sum())
                done = program.train_tiles(tiles, rows, np.broadcast_to(np.asarray(rates, np.float64), (len(rows),)))
            else:
                size = len(rows)
                done = program.train(train.user, train.item, train.rating, rows, self.batch_size, rates)
            seconds += time.perf_counter() - begin
            squared += done.squared_error
            if done.failed_step >= 0:
                step = taken + done.failed_step  # batches, or single ratings
                failed = done.failed_step
                if tiles is not None:  # of which round
                    ends = np.cumsum(tiles.start[rows, -1] - tiles.start[rows, 0])
                    failed = int(np.searchsorted(ends, done.failed_step, side="right"))
                taken = seen + done.failed_step * self.batch_size
                self._diverged(program, good, step + 1, rates, failed, squared, taken)
            taken += last - first if tiles is None else size
            seen += size
            bar.update(size)
            if interrupted.asked and last < steps:
                return None
        if not program.finite():
            self._diverged(program, good, steps, rates, last - first - 1, squared, n)
        losses = squared / n
        row = {
            "epoch": self.epoch + 1,
            "lr": lr,
            "train_mse": float(losses[self._output_head]),
            "penalty": 0.0,
            "valid_mse": math.nan,
            "seconds": seconds,
            "ratings_per_second": n / max(seconds, 1e-9),
        }
        if len(losses) > 1:
            row |= {f"train_mse_{head}": float(x) for head, x in zip(self.model.heads, losses, strict=True)}
        return row

    def _append(self, row: dict[str, Any]) -> None:
        self.epoch += 1
        self.history.rows.append(row)

    def _diverged(
        self, program: Program, good: Any, step: int, rates: Any, index: int, squared: np.ndarray, taken: int
    ) -> None:
        """Put the last good weights back, and raise."""
        program.restore(good)
        lr = float(np.broadcast_to(rates, (index + 1,) if np.ndim(rates) == 0 else np.shape(rates))[index])
        if taken:
            last = float(squared[self._output_head] / taken)
        else:
            last = self.history[-1]["train_mse"] if len(self.history) else math.nan
        raise DivergenceError(self.epoch + 1, step, lr, last)

    @property
    def _output_head(self) -> int:
        return self.model.heads.index(getattr(self.model, "output", ""))

    def _follow(self, schedule: Schedule | None, epochs: int) -> _SchedulePosition | None:
        """Where in the schedule this fit starts."""
        if schedule is None:
            self._position = None
            return None
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule is {schedule!r}; it must be one of {sorted(schedules.KINDS)}")
        full = schedule.for_fit(epochs)
        old = self._position
        goes_on = (
            old is not None
            and full is schedule
            and old.schedule == full
            and (full.horizon is None or old.epochs < full.horizon)
        )
        if not goes_on:
            self._position = _SchedulePosition(full)
        return self._position

    def _rates(self, position: _SchedulePosition | None, first: int, last: int, steps: int) -> np.ndarray | float:
        """Learning rates of the steps first … last-1 of an epoch of `steps`."""
        if position is None:
            return self._lr
        t = position.epochs + np.arange(first, last) / steps
        return self._lr * position.schedule.factor(t)

    def _resume_callbacks(self) -> None:
        """After `load`: give callbacks of the first fit what the saved ones held."""
        for key, callback in _keyed(self._callbacks):
            if key in self._resumed:
                callback.load_state(*self._resumed[key])
        self._resumed = {}

    # --- predicting ------------------------------------------------------------------------------------------

    @overload
    def predict(self, user: int | np.integer[Any], item: int | np.integer[Any], head: str | None = None) -> float: ...
    @overload
    def predict(self, user: Any, item: Any, head: str | None = None) -> np.ndarray: ...
    def predict(self, user: Any, item: Any, head: str | None = None) -> Any:
        """Predicted ratings for pairs of indices.

        Parameters
        ----------
        user, item : int or array of int, of equal length
            Indices into the tables (``ratings.users.index(ids)`` finds those of ids).
        head : str, optional
            Another head of a hybrid than its output.

        Returns
        -------
        array of the trainer's dtype, shape (n,); a float for two single indices
        """
        program = self.program
        if head is not None and head not in self.model.heads:
            raise ValueError(f"no head {head!r}; the heads are {list(self.model.heads)}")
        single = np.ndim(user) == 0 and np.ndim(item) == 0
        u = _indices("user", user, self._n_users)
        v = _indices("item", item, self._n_items)
        if u.shape != v.shape:
            raise ValueError(f"user has {len(u)} indices and item {len(v)}; they are pairs, of equal number")
        with at_most(self.n_threads):
            y = program.predict(u, v, head)
        return float(y[0]) if single else y

    def evaluate(self, ratings: Ratings) -> dict[str, float]:
        """Errors on known ratings: mse, rmse (its root) and mae; for a hybrid also the mse of each head."""
        _check_ratings("ratings", ratings)
        self._prepare(ratings.n_users, ratings.n_items)
        error = self._errors(ratings, None)
        mse = float(np.mean(error**2))
        result = {"mse": mse, "rmse": math.sqrt(mse), "mae": float(np.mean(np.abs(error)))}
        if len(self.model.heads) > 1:
            for head in self.model.heads:
                result[f"mse_{head}"] = float(np.mean(self._errors(ratings, head) ** 2))
        return result

    def _errors(self, ratings: Ratings, head: str | None) -> np.ndarray:
        with at_most(self.n_threads):
            predicted = self.program.predict(ratings.user, ratings.item, head)
        return predicted.astype(np.float64) - ratings.rating

    def _validate(self, valid: Ratings) -> dict[str, float]:
        result = self.evaluate(valid)
        return {f"valid_{name}": x for name, x in result.items() if name.startswith("mse")}

    def lr_find(self, train: Ratings, low: float = 1e-5, high: float = 10.0, steps: int = 200) -> LRFind:
        """Try learning rates from `low` to `high`, one a step, on the ratings; afterwards everything is as before.

        Parameters
        ----------
        train : Ratings
        low, high : float
            The range, gone through evenly on a logarithmic scale.
        steps : int
            At most so many; it ends early when the loss is four times its lowest, or not finite.

        Returns
        -------
        LRFind
            ``frame`` with columns lr and loss, and ``suggestion``.
        """
        low, high = check_number("low", low), check_number("high", high)
        if not 0 < low < high:
            raise ValueError(f"low is {low!r} and high {high!r}; 0 < low < high is needed")
        steps = check_whole("steps", steps, 2)
        _check_ratings("train", train)
        program = self._prepare(train.n_users, train.n_items)
        before = program.snapshot()
        rates = np.geomspace(low, high, steps)
        order = np.concatenate(
            [rng.permutation(self.seed, self.epoch + i, len(train))
             for i in range(-(-steps * self.batch_size // len(train)))]
        )  # fmt: skip
        rows: list[tuple[float, float]] = []
        smooth = 0.0
        try:
            for i, rate in enumerate(rates):
                batch = order[i * self.batch_size : (i + 1) * self.batch_size]
                with at_most(self.n_threads):
                    done = program.train(train.user, train.item, train.rating, batch, self.batch_size, float(rate))
                if done.failed_step >= 0:
                    break
                smooth = 0.9 * smooth + 0.1 * float(done.squared_error[self._output_head]) / len(batch)
                loss = smooth / (1 - 0.9 ** (i + 1))
                rows.append((float(rate), loss))
                if loss > 4 * min(x for _, x in rows):
                    break
        finally:
            program.restore(before)
        frame = pd.DataFrame(rows, columns=["lr", "loss"])
        lowest = frame.lr.iloc[int(frame.loss.argmin())] if len(frame) else low
        return LRFind(frame, float(lowest) / 10)

    # --- files -----------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint with all that resuming needs; `path` is replaced whole or not at all.

        It holds the model, the optimiser and its state, the weights, the learning rate, where the schedule stands,
        the history and what the callbacks of the running or last `fit` hold.
        """
        program = self.program
        held = self._resumed | {key: state for key, callback in _keyed(self._callbacks) if (state := callback.state())}
        header = {
            "model": models.to_config(self.model),
            "optimizer": optim.to_config(self.optimizer),
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "seed": self.seed,
            "lr": self.lr,
            "epoch": self.epoch,
            "history": self.history.rows,
            "callbacks": {key: state[0] for key, state in held.items()},
            "schedule": self._position
            and [{"kind": type(self._position.schedule).__name__, **asdict(self._position.schedule)},  # type: ignore[call-overload]
                 self._position.epochs],
        }  # fmt: skip
        arrays = {f"weights.{name}": value for name, value in program.weights().items()}
        arrays |= {f"state.{name}": value for name, value in program.state().items()}
        for key, state in held.items():
            arrays |= {f"callback.{key}.{name}": value for name, value in state[1].items()}
        files.write(path, "checkpoint", json.loads(json.dumps(header)), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], backend: str = "auto") -> Trainer:
        """A trainer that goes on where the one that was saved stood.

        Callbacks are given to `fit` anew; the first `fit` hands them what their like held when it was saved.
        """
        header, arrays = files.read(path, "checkpoint")
        get_backend(backend)  # one that cannot run here is not the file's fault
        try:
            weights = files.section(arrays, "weights")
            trainer = cls(
                models.from_config(header["model"]),
                optim.from_config(header["optimizer"]),
                backend=backend,
                batch_size=header["batch_size"],
                dtype=header["dtype"],
                seed=header["seed"],
                weights=weights,
            )
            trainer.lr = header["lr"]
            trainer.program.load(weights, files.section(arrays, "state"))
            trainer.epoch = int(header["epoch"])
            trainer.history = History(header["history"])
            if header["schedule"]:
                config, epochs = header["schedule"]
                trainer._position = _SchedulePosition(schedules.from_config(config), int(epochs))
            trainer._resumed = {
                key: (own, files.section(arrays, f"callback.{key}")) for key, own in header["callbacks"].items()
            }
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
            raise files.FileError(f"{path} is no whole checkpoint: {error}") from error
        return trainer


# --- helpers ---------------------------------------------------------------------------------------------------


def _check_ratings(name: str, ratings: Any) -> None:
    if not isinstance(ratings, Ratings):
        raise TypeError(
            f"{name} is a {type(ratings).__name__}; it must be Ratings, made by Ratings.from_frame(frame) or "
            "load_movielens()"
        )
    if len(ratings) == 0:
        raise ValueError(f"{name} holds no ratings")


def _dtype_name(dtype: Any) -> str:
    try:
        name = "" if dtype is None else np.dtype(dtype).name  # None would be NumPy's default
    except TypeError:
        name = ""
    if name not in ("float16", "float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}; it must be 'float32' or 'float64', or 'float16' on a GPU")
    return name


def _listed(callbacks: Any) -> list[Any]:
    """Callbacks as a list; what has none of their methods would be passed over without a word."""
    methods = ("on_fit_begin", "on_epoch_end", "on_fit_end")
    if isinstance(callbacks, str) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks is {callbacks!r}; it must be a list of callbacks")
    listed = list(callbacks)
    for callback in listed:
        if isinstance(callback, type) or not any(hasattr(callback, name) for name in methods):
            raise TypeError(f"callbacks has {callback!r}; a callback is an object with a method of {methods}")
    return listed


def _indices(name: str, values: Any, limit: int) -> np.ndarray:
    check_unmasked(name, values)
    array = np.atleast_1d(np.asarray(values))
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise TypeError(f"{name} must be an index or a one-dimensional array of indices (whole numbers)")
    if array.size and not (0 <= array.min() and array.max() < limit):
        bad = array[(array < 0) | (array >= limit)][0]
        raise IndexError(f"{name} index {bad} is out of range: the table has {limit} rows, 0 … {limit - 1}")
    return array.astype(np.int32)


def _call(callback: Any, method: str, *arguments: Any) -> Any:
    return getattr(callback, method, lambda *_: None)(*arguments)


def _keyed(callbacks: Iterable[Any]) -> Iterator[tuple[str, Callback]]:
    """Callbacks that hold state, each under its class and its number among the like."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        if hasattr(callback, "state") and hasattr(callback, "load_state"):
            kind = type(callback).__name__
            seen[kind] = seen.get(kind, -1) + 1
            yield f"{kind}{seen[kind]}", callback


class _Interruptible:
    """While it is entered, the first Ctrl-C only asks; a second one interrupts at once.

    An update that is cut off midway would leave some rows moved and others not.
    """

    asked = False

    def __enter__(self) -> _Interruptible:
        self._before: Any = None
        here = threading.current_thread() is threading.main_thread()
        if here and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class _NoBar:
    disable = True

    @staticmethod
    def update(n: int) -> None:
        """Nothing to show."""


@contextlib.contextmanager
def _bar(total: int, progress: bool | None) -> Iterator[Any]:
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if not (terminal if progress is None else progress):
        yield _NoBar
        return
    from tqdm import tqdm  # not at import: it would slow `import minicf`

    with tqdm(total=total, unit=" ratings", unit_scale=True, leave=False) as bar:
        yield bar
