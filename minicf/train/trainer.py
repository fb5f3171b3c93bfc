"""The trainer: epochs, validation, history, and going on where one stands."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, overload

import numpy as np
import pandas as pd

from minicf import files, registry, rng
from minicf.arguments import check_bool, check_int, check_number, check_unmasked
from minicf.backends import get_backend
from minicf.backends.base import Program
from minicf.data import Bags, Batch, Features, Ratings, Vocabulary
from minicf.data.bags import BAGS
from minicf.losses import Loss
from minicf.models import Model
from minicf.optim import Optimizer
from minicf.schedules import Pace, Schedule
from minicf.solvers import Gradient, Part, Solver
from minicf.threads import limit_blas
from minicf.train import bags as tables
from minicf.train.averaging import WeightAverage
from minicf.train.callbacks import Callback, Checkpoint, EarlyStopping
from minicf.train.checks import as_solver, check_one_split, check_ratings, dtype_name, indices, listed
from minicf.train.console import Interruptible, progress_bar
from minicf.train.history import DivergenceError, History, LRFind
from minicf.train.ranked import RankedPairs
from minicf.train.restored import check_state, checked_rows

log = logging.getLogger("minicf")


class Trainer:
    """Train a model with a solver on a backend, and go on where it stands.

    Parameters
    ----------
    model : Model
        `Dot`, `DotBias`, `SVDpp`, `Net`, `Hybrid`, or one of your own.
    solver : Optimizer or Solver
        An optimizer, `SGD` or `Adam` or one of your own, stands for ``Gradient(optimizer, loss, batch_size)``.
    loss : Loss, optional
        With an optimizer: `SquaredError` by default, `Logistic` for targets from 0 to 1; for lists from events alone
        ``Logistic(negatives=8)`` or `BPR`.
    backend : str
        "auto" takes the fastest that can run here.
    batch_size : int, optional
        With an optimizer: examples a step, 64 by default.
    dtype : "float32", "float64" or "float16"
        Of weights, state and arithmetic. "float16", for ``backend="cupy"``, ``batch_size=1`` and plain SGD of `Dot` and
        `DotBias`, stores the tables so and computes in float32; ``fit(shuffle="tiles")`` keeps the whole GPU at work.
    seed : int
        Initial weights, order of ratings, dropout and sampled negatives follow from it.
    weights : dict of arrays, optional
        Start from these, matched by name; weights of the model that it lacks are initialized, names that the model
        lacks are left out. This is how pre-training works: ``Trainer(DotBias(50), ..., weights=net.weights)``.
    n_threads : int, optional
        The largest number of threads, BLAS's included, where a backend uses several; by default as many as there are
        cores to run on, or fewer where ``OMP_NUM_THREADS`` or ``NUMBA_NUM_THREADS`` says so. The result does not
        depend on it.
    user_features, item_features : Features, optional
        For a model that reads them, such as ``SVDpp(features="item")``: a row for each user, or item, in the order of
        the tables.
    optimizer : Optimizer, optional
        The name that `solver` had in version 0.1; deprecated.

    Attributes
    ----------
    lr : float
        The learning rate, free to be changed between calls of `fit`; the solver's state stays.
    history : History
        Of all calls of `fit`.
    weights : dict of arrays
        Copies of the present weights, by name.
    validates : bool
        Whether the running, or last, `fit` has validation ratings.
    bags : dict of Bags by name
        What the model reads beside a pair, for a model that does: features, and histories from the training ratings of
        the latest `fit`; all predictions go by these.
    users, items : Vocabulary or None
        The ids behind the rows of the tables, from the first table of ratings. Other tables must have the same.

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
        solver: Optimizer | Solver | None = None,
        *,
        loss: Loss | None = None,
        backend: str = "auto",
        batch_size: int | None = None,
        dtype: str = "float32",
        seed: int = 0,
        weights: Mapping[str, np.ndarray] | None = None,
        n_threads: int | None = None,
        user_features: Features | None = None,
        item_features: Features | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        if optimizer is not None:
            if solver is not None:
                raise ValueError(f"optimizer is {optimizer!r} beside a solver; give one of them, as solver")
            warnings.warn("optimizer is now called solver; the old name goes in 0.3", DeprecationWarning, stacklevel=2)
            solver = optimizer
        if not isinstance(model, Model):
            raise TypeError(f"model is {model!r}; it must be a minicf model such as DotBias(50)")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise ValueError(f"seed is {seed!r}; it must be a whole number")
        self.model, self.solver = model, as_solver(solver, loss, batch_size)
        self.solver.check(model)
        self.dtype, self.seed = dtype_name(dtype), int(seed)
        self.n_threads = None if n_threads is None else check_int("n_threads", n_threads, 1)
        self.history = History(metric=self.solver.loss.metric)
        self.epoch = 0
        self.validates = False
        self.users: Vocabulary | None = None
        self.items: Vocabulary | None = None
        self._backend = get_backend(backend)
        if self.dtype == "float16" and (self._backend.name != "cupy" or self.batch_size != 1):
            raise ValueError(
                "dtype is 'float16', which stores rows for online SGD on a GPU: it needs backend='cupy' and "
                f"batch_size=1, not {self._backend.name!r} and {self.batch_size}; 'float32' goes everywhere"
            )
        self._pace = Pace(math.nan if self.solver.lr is None else self.solver.lr)
        self._given = self._match(weights)
        self._features = tables.check_features(model, {"user_features": user_features, "item_features": item_features})
        self.bags: dict[str, Bags] = {name: one.bags(BAGS[name]) for name, one in self._features.items()}
        self._seen: Bags | None = None
        self._ranked = RankedPairs()
        self._fingerprints: dict[str, str] = {}
        self._program: Program | None = None
        self._callbacks: tuple[Any, ...] = ()
        self._resumed: dict[str, Any] = {}

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer of a gradient solver; None for another solver."""
        return getattr(self.solver, "optimizer", None)

    @property
    def batch_size(self) -> int | None:
        """The batch size of a gradient solver; None for another solver."""
        return getattr(self.solver, "batch_size", None)

    # --- weights ---------------------------------------------------------------------------------------------

    def _match(self, weights: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """Return the given weights that the model has, checked against one another and copied."""
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
        expected = self.model.parameters(self.model.sizes_of(given))
        for name, value in given.items():
            if value.shape != expected[name].shape:
                raise ValueError(f"weights[{name!r}] has shape {value.shape}; it must be {expected[name].shape}")
            if not np.isfinite(value).all():
                raise ValueError(f"weights[{name!r}] holds NaN or infinite values")
        if left := sorted(set(weights) - set(given)):
            log.info("starting from %s; not used by this model: %s", sorted(given), left)
        return given

    def _prepare(self, ratings: Ratings) -> Program:
        """Return the program for the users and items of a table, made at the first need."""
        vocabularies = {"user": ratings.users, "item": ratings.items}
        sizes = {side: len(vocabulary) for side, vocabulary in vocabularies.items()}
        if self._program is None:
            whole = sizes | tables.bag_sizes(self.model, sizes, self._features)
            found = self.model.sizes_of(self._given, whole)
            if found != whole:
                raise ValueError(
                    f"the given weights are for {found['user']} users and {found['item']} items, "
                    f"the ratings have {sizes['user']} and {sizes['item']}"
                    if {side: found[side] for side in sizes} != sizes
                    else f"the given weights are for {found}, ratings and features have {whole}"
                )
            self._compile(whole)
        elif sizes != {side: self._sizes[side] for side in sizes}:
            raise ValueError(
                f"this trainer was made for {self._sizes['user']} users and {self._sizes['item']} items, the ratings "
                f"have {sizes['user']} and {sizes['item']}; ratings of one split share their vocabularies"
            )
        for side, vocabulary in vocabularies.items():
            self._check_ids(side, vocabulary)
        assert self._program is not None
        return self._program

    def _compile(self, sizes: Mapping[str, int]) -> None:
        uniform = self._backend.uniform  # compiled where there is such, of the same bits
        bags = {name: n for name, n in sizes.items() if name not in ("user", "item")}
        start = self.model.init_weights(sizes["user"], sizes["item"], self.seed, uniform, **bags) | self._given
        self._program = self._backend.compile(self.model, self.solver, start, self.seed, self.dtype, self.n_threads)
        self._given, self._sizes = {}, dict(sizes)

    def _fill(self, program: Program, train: Ratings) -> None:
        """Fill the model's bags from training ratings."""
        self.bags = tables.fill(self.model, train, self.bags)
        program.hold(self.bags)

    def _check_bags(self) -> None:
        if missing := [name for name in self.model.bags if name not in self.bags]:
            raise RuntimeError(f"no {', '.join(missing)} yet: call fit first, which collects them from its ratings")

    def _check_ids(self, side: str, vocabulary: Vocabulary) -> None:
        """Remember the ids of the first table; refuse one of other ids, even where their number agrees."""
        name = f"{side}s"
        known: Vocabulary | None = getattr(self, name)
        fingerprint = self._fingerprints.get(side)
        if known is None and (fingerprint is None or fingerprint == vocabulary.fingerprint):
            setattr(self, name, vocabulary)
        elif known is None or not known.matches(vocabulary):
            raise ValueError(
                f"the {side} ids of these ratings are not those that this trainer was trained on, though there are as "
                "many; ratings of one split share their vocabularies"
            )

    @property
    def program(self) -> Program:
        """The compiled program that holds weights and state."""
        if self._program is None:
            needed = set(self.model.shapes(1, 1))
            if missing := sorted(needed - set(self._given)):
                raise RuntimeError(f"nothing is trained yet: call fit first (no {', '.join(missing)})")
            self._compile(self.model.sizes_of(self._given))
        assert self._program is not None
        return self._program

    @property
    def weights(self) -> dict[str, np.ndarray]:
        return self.program.weights()

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._backend.name

    @property
    def lr(self) -> float:
        return self._pace.lr

    @lr.setter
    def lr(self, value: float) -> None:
        if self.solver.lr is None:
            raise ValueError(f"lr is {value!r}; {type(self.solver).__name__} has no learning rate")
        self._pace.lr = check_number("lr", value, 0.0)

    # --- training --------------------------------------------------------------------------------------------

    def fit(
        self,
        train: Ratings,
        valid: Ratings | None = None,
        epochs: int = 1,
        schedule: Schedule | None = None,
        shuffle: bool | str | None = None,
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
        shuffle : bool, "tiles" or "sides", optional
            The order of examples in this call, see `Gradient`: a new one each epoch (True), the rows as they stand
            (False), or, for online SGD, by tiles or sides. By default the solver's: True unless it says otherwise.
        callbacks : iterable of Callback
        progress : bool, optional
            Show a bar on stderr; by default where that is a terminal.

        Returns
        -------
        History
            Of all calls so far.

        Raises
        ------
        DivergenceError
            The loss became NaN or infinite; the last good weights are kept.
        KeyboardInterrupt
            After Ctrl-C, once the part in hand (`Part`) is finished; the weights are usable as they stand.
        """
        epochs = check_int("epochs", epochs, 0)
        progress = None if progress is None else check_bool("progress", progress)
        check_ratings("train", train)
        if valid is not None:
            check_ratings("valid", valid)
            check_one_split(train, valid)
        solver = self.solver if shuffle is None else self.solver.ordered(shuffle)
        if schedule is not None and solver.lr is None:
            raise ValueError(f"schedule is {schedule!r}; {type(solver).__name__} has no learning rate: leave it out")
        program = self._prepare(train)
        self._fill(program, train)
        if epochs == 0:
            return self.history
        data = solver.prepare(train)
        self._seen = data.candidates.seen if solver.loss.negatives else None
        if valid is not None:
            solver.loss.check_targets(valid.rating)
        self.validates = valid is not None
        self._pace.follow(schedule, epochs)
        counts = {"user": train.user_counts(), "item": train.item_counts()}
        counts |= {name: one.read(counts[one.side], self._sizes[name]) for name, one in self.bags.items()}
        # Checkpoints last, so that they hold what the other callbacks made of the epoch.
        self._callbacks = tuple(
            sorted(listed(callbacks, solver), key=lambda callback: isinstance(callback, Checkpoint))
        )
        self._resume_callbacks()
        metric = solver.loss.metric
        # Each callback that began ends, whatever the others raise.
        with limit_blas(self.n_threads), contextlib.ExitStack() as ends:
            for callback in self._callbacks:
                _call(callback, "on_fit_begin", self)
                ends.callback(_call, callback, "on_fit_end", self)
            with Interruptible() as interrupted, progress_bar(epochs * len(train), progress) as bar:
                for _ in range(epochs):
                    for callback in self._callbacks:
                        _call(callback, "on_epoch_begin", self)
                    good: Any = program.snapshot()
                    row = self._train_epoch(program, solver, data, interrupted, bar, good)
                    if row is None:
                        break
                    good = None  # the next one may have its memory
                    row["penalty"] = solver.penalty(program, counts)
                    if valid is not None:
                        row |= self._validate(valid)
                    self._append(row)
                    self._pace.epochs += 1
                    if not bar.disable:
                        bar.set_postfix_str(f"train {row[f'train_{metric}']:.4f} valid {row[f'valid_{metric}']:.4f}")
                    stops = [_stops(callback, self, dict(row)) for callback in self._callbacks]
                    if any(stops) or interrupted.asked:
                        break
        if interrupted.asked:
            log.warning("interrupted after %d whole epochs; the trainer is usable as it stands", self.epoch)
            raise KeyboardInterrupt
        return self.history

    def _train_epoch(
        self, program: Program, solver: Solver, data: Any, interrupted: Interruptible, bar: Any, good: Any
    ) -> dict[str, Any] | None:
        """Run the parts of one epoch; return its row of the history, None when it was interrupted midway."""
        program.pace = self._pace
        loss, n, steps, seconds = np.zeros(len(self.model.heads)), 0, 0, 0.0
        parts = solver.parts(data, self.seed, self.epoch, program)
        part = next(parts, None)
        lr = rate = math.nan if part is None or solver.lr is None else float(np.ravel(part.rates)[0])
        while part is not None:
            begin = time.perf_counter()
            done = program.run(data, part)
            seconds += time.perf_counter() - begin
            loss, n, steps = loss + done.loss, n + done.n, steps + done.steps
            if done.failed_rate is not None:
                self._diverged(program, good, steps + 1, done.failed_rate, loss, n)
            bar.update(done.n)
            for callback in self._callbacks:
                _call(callback, "on_part_end", self, done.n)
            rate = float(np.ravel(part.rates)[-1]) if np.size(part.rates) else rate
            part = next(parts, None)
            if interrupted.asked and part is not None:
                return None
        if not program.finite():
            self._diverged(program, good, steps, rate, loss, n)
        metric, means = solver.loss.metric, loss / max(n, 1)
        row = {
            "epoch": self.epoch + 1,
            "lr": lr,
            f"train_{metric}": float(means[self._output_head]) if len(means) > 1 else float(means[0]),
            "penalty": 0.0,
            f"valid_{metric}": math.nan,
            "seconds": seconds,
            "ratings_per_second": n / max(seconds, 1e-9),
        }
        if len(means) > 1:
            row |= {f"train_{metric}_{head}": float(x) for head, x in zip(self.model.heads, means, strict=True)}
        return row

    def _append(self, row: dict[str, Any]) -> None:
        self.epoch += 1
        self.history.rows.append(row)

    def _diverged(self, program: Program, good: Any, step: int, rate: float, loss: np.ndarray, n: int) -> None:
        """Restore the last good weights, and raise."""
        program.restore(good)
        if n:
            last = float(loss[self._output_head] / n)
        else:
            last = self.history[-1][f"train_{self.history.metric}"] if len(self.history) else math.nan
        raise DivergenceError(self.epoch + 1, step, rate, last)

    @property
    def _output_head(self) -> int:
        return self.model.heads.index(self.model.output)

    def _resume_callbacks(self) -> None:
        """After `load`: give callbacks of the first fit what the saved ones held."""
        for key, callback in _keyed(self._callbacks):
            if key in self._resumed:
                try:
                    callback.load_state(*self._resumed[key])
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise files.FileError(f"the checkpoint holds no state of {key}: {error!r}; leave it out") from error
        self._resumed = {}

    # --- predicting ------------------------------------------------------------------------------------------

    @overload
    def predict(self, user: int | np.integer[Any], item: int | np.integer[Any], head: str | None = None) -> float: ...
    @overload
    def predict(self, user: Any, item: Any, head: str | None = None) -> np.ndarray: ...
    def predict(self, user: Any, item: Any, head: str | None = None) -> Any:
        """Predict targets for pairs of indices: ratings, or probabilities with the logistic loss.

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
        self._check_bags()
        self.model.check_head(head)
        single = np.ndim(user) == 0 and np.ndim(item) == 0
        u = indices("user", user, self._sizes["user"])
        v = indices("item", item, self._sizes["item"])
        if u.shape != v.shape:
            raise ValueError(f"user has {len(u)} indices and item {len(v)}; they are pairs, of equal number")
        with limit_blas(self.n_threads):
            y = self.solver.loss.response(program.predict(Batch(u, v), head))
        return float(y[0]) if single else y

    def evaluate(self, ratings: Ratings) -> dict[str, float]:
        """Measure predictions on known ratings.

        Returns
        -------
        dict
            With squared error: mse, rmse (its root) and mae; with the logistic loss: log_loss and accuracy; for a
            hybrid also the mean loss of each head, ``mse_net``. With a loss that draws negatives: the loss with
            negatives beside these ratings, and auc, the share of them that are ranked below their rating. They are
            drawn from what a user has neither in these ratings nor in those of the latest `fit` (which `save` does not
            keep), and are the same at every call.
        """
        check_ratings("ratings", ratings)
        program = self._prepare(ratings)
        self._check_bags()
        loss, metric = self.solver.loss, self.solver.loss.metric
        pairs = Batch(ratings.user, ratings.item)
        shape: tuple[int, ...] = (-1,)
        if loss.negatives:
            pairs, shape = self._ranked.of(ratings, self._seen, loss, self.seed), (len(ratings), -1)
        with limit_blas(self.n_threads):
            result = loss.measures(program.predict(pairs).reshape(shape), ratings.rating)
            for head in self.model.heads if len(self.model.heads) > 1 else ():
                y = program.predict(pairs, head).reshape(shape)
                result[f"{metric}_{head}"] = loss.measures(y, ratings.rating)[metric]
        return result

    def _validate(self, valid: Ratings) -> dict[str, float]:
        metric = self.solver.loss.metric
        result = self.evaluate(valid)
        return {f"valid_{name}": x for name, x in result.items() if name.startswith(metric)}

    def lr_find(self, train: Ratings, low: float = 1e-5, high: float = 10.0, steps: int = 200) -> LRFind:
        """Try learning rates from `low` to `high`, one a step, on the ratings; afterwards everything is as before.

        Parameters
        ----------
        train : Ratings
        low, high : float
            The range, gone through evenly on a logarithmic scale.
        steps : int
            The largest number of steps; it ends early when the loss is four times its lowest, or not finite.

        Returns
        -------
        LRFind
            ``frame`` with columns lr and loss, and ``suggestion``.
        """
        low, high = check_number("low", low), check_number("high", high)
        if not 0 < low < high:
            raise ValueError(f"low is {low!r} and high {high!r}; 0 < low < high is needed")
        steps = check_int("steps", steps, 2)
        check_ratings("train", train)
        if self.batch_size is None:
            raise ValueError(f"{type(self.solver).__name__} has no learning rate to be found")
        program = self._prepare(train)
        self._fill(program, train)
        data, size = self.solver.ordered(True).prepare(train), self.batch_size
        before = program.snapshot()
        rates = np.geomspace(low, high, steps)
        order = np.concatenate(
            [rng.permutation(self.seed, self.epoch + i, len(train)) for i in range(-(-steps * size // len(train)))]
        )
        rows: list[tuple[float, float]] = []
        smooth = 0.0
        try:
            for i, rate in enumerate(rates):
                batch = order[i * size : (i + 1) * size]
                with limit_blas(self.n_threads):
                    done = program.run(data, Part("batches", batch, float(rate)))
                if done.failed_rate is not None:
                    break
                smooth = 0.9 * smooth + 0.1 * float(done.loss[self._output_head]) / len(batch)
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

        It holds the model, the solver and its state, the weights, the learning rate, where the schedule stands, the
        history, bags and features, fingerprints of the ids, and what the callbacks of the running or last `fit` hold.

        Raises
        ------
        ValueError
            A class of the model, loss, optimizer, solver or schedule is not registered: `minicf.register`.
        """
        described = self.described()
        program = self.program
        held = self._resumed | {key: state for key, callback in _keyed(self._callbacks) if (state := callback.state())}
        vocabularies = {"user": self.users, "item": self.items}
        fingerprints = {side: v.fingerprint for side, v in vocabularies.items() if v is not None}
        header = described | {
            "dtype": self.dtype,
            "seed": self.seed,
            "lr": self.lr,
            "epoch": self.epoch,
            "history": self.history.rows,
            "callbacks": {key: state[0] for key, state in held.items()},
            "ids": self._fingerprints | fingerprints,
        }
        arrays = {f"weights.{name}": value for name, value in program.weights().items()}
        arrays |= {f"state.{name}": value for name, value in program.state().items()}
        arrays |= {f"bags.{name}": value for name, value in tables.to_arrays(self.bags).items()}
        arrays |= {f"features.{name}": value for name, value in tables.described_arrays(self.solver).items()}
        for key, state in held.items():
            arrays |= {f"callback.{key}.{name}": value for name, value in state[1].items()}
        files.write(path, "checkpoint", json.loads(json.dumps(header)), arrays)

    def described(self) -> dict[str, Any]:
        """Describe model, solver and schedule as a file does; refuse classes that no file could give back."""
        schedule = self._pace.schedule
        return {
            "model": registry.to_config(self.model),
            "solver": registry.to_config(self.solver),
            "schedule": schedule and [registry.to_config(schedule), self._pace.epochs],
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str], backend: str = "auto") -> Trainer:
        """Return a trainer that goes on where the one that was saved stood.

        Callbacks are given to `fit` anew; the first `fit` hands them what their like held when it was saved.
        """
        header, arrays = files.read(path, "checkpoint")
        get_backend(backend)  # one that cannot run here is not the file's fault
        try:
            weights = files.section(arrays, "weights")
            if "solver" in header:
                solver = registry.from_config(header["solver"], Solver, "solver")
            else:  # version 0.1
                optimizer = registry.from_config(header["optimizer"], Optimizer, "optimizer")
                solver = Gradient(optimizer, batch_size=header["batch_size"])
            model = registry.from_config(header["model"], Model, "model")
            if described := files.section(arrays, "features"):
                solver = tables.described_solver(solver, described, model.sizes_of(weights))
            trainer = cls(
                model,
                solver,
                backend=backend,
                dtype=header["dtype"],
                seed=header["seed"],
                weights=weights,
            )
            if solver.lr is not None:
                trainer.lr = header["lr"]
            state = files.section(arrays, "state")
            solver.resize(trainer.program.slots, state)
            check_state(state, trainer.program.state())
            trainer.program.load(weights, state)
            trainer.bags = tables.from_arrays(files.section(arrays, "bags"), trainer.model, trainer._sizes)
            trainer.program.hold(trainer.bags)
            trainer.epoch = check_int("epoch", header["epoch"], 0)
            trainer.history.rows = checked_rows(header["history"], trainer.epoch, trainer.history.metric)
            trainer._fingerprints = dict(header.get("ids", {}))
            for side, value in trainer._fingerprints.items():
                if side not in ("user", "item") or not isinstance(value, str):
                    raise ValueError(f"ids has {side!r}: {value!r}")
            if header["schedule"]:
                config, epochs = header["schedule"]
                trainer._pace.schedule = registry.from_config(config, Schedule, "schedule")
                trainer._pace.epochs = check_int("epochs of the schedule", epochs, 0)
            trainer._resumed = {
                key: (dict(own), files.section(arrays, f"callback.{key}")) for key, own in header["callbacks"].items()
            }
            for key, held in trainer._resumed.items():
                kind = {"EarlyStopping": EarlyStopping, "WeightAverage": WeightAverage}.get(key.rstrip("0123456789"))
                if kind is not None:
                    callback = kind()
                    callback.load_state(*held)
                    for held_weights, held_state in callback.held():
                        check_state(held_weights, weights)
                        check_state(held_state, state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
            raise files.FileError(f"{path} is not a valid checkpoint: {error}") from error
        return trainer


# --- helpers ---------------------------------------------------------------------------------------------------


def _call(callback: Any, method: str, *arguments: Any) -> Any:
    return getattr(callback, method, lambda *_: None)(*arguments)


def _stops(callback: Any, trainer: Trainer, row: dict[str, Any]) -> bool:
    """Call a callback after an epoch. A number that it returns, a metric perhaps, is no word to stop."""
    answer = _call(callback, "on_epoch_end", trainer, row)
    if answer is None or isinstance(answer, bool | np.bool_):
        return bool(answer)
    raise TypeError(
        f"on_epoch_end of {type(callback).__name__} returned {answer!r}; it must return True to stop training, else "
        "False or nothing"
    )


def _keyed(callbacks: Iterable[Any]) -> Iterator[tuple[str, Callback]]:
    """Yield callbacks that hold state, each under its class and its number among those of the class."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        if hasattr(callback, "state") and hasattr(callback, "load_state"):
            kind = type(callback).__name__
            seen[kind] = seen.get(kind, -1) + 1
            yield f"{kind}{seen[kind]}", callback
