"""Gradient descent on mini-batches: the reference of every training step.

A step: take a batch's rows (F1) …, compare the outputs with the targets (F9), (F11), go back (B9) … (B1), and update
every weight (U1) …. Between the two the gradient can be clipped, (L1) and (L2). Whatever is compiled is right when it
gives the numbers of `run` here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from minicf.arguments import check_decay, check_int, check_number
from minicf.data.bags import BAGS, Batch
from minicf.data.negatives import Candidates, Draw
from minicf.data.ratings import Ratings
from minicf.losses import SQUARED_ERROR, Loss
from minicf.models import Model, Parameter, Weights
from minicf.ops import Array, namespace
from minicf.optim import Optimizer
from minicf.registry import register
from minicf.sides import Sides
from minicf.solvers.base import Part, Progress, Solver
from minicf.tiles import Tiles

if TYPE_CHECKING:
    from minicf.backends.base import Program

_NORM_EPS = 1e-6
"""In (L2), as in PyTorch."""

_TILED_PER_CALL = 4 << 20
"""Ratings in tiles that a part holds: a tenth of a second, after which Ctrl-C is heard."""

_ORDERS: dict[Any, Any] = {"tiles": Tiles, "sides": Sides}
"""Layouts of a table for online SGD, by their names as a `shuffle`."""


@register
@dataclass(frozen=True)
class Gradient(Solver):
    """Descend along gradients of mini-batches.

    Parameters
    ----------
    optimizer : Optimizer
    loss : Loss
    batch_size : int
        B, the number of examples a step.
    shuffle : bool, "tiles" or "sides"
        A new order each epoch, a function of the seed and the epoch; False takes the rows as they stand. "tiles", for
        online SGD (``batch_size=1``), is an order in which threads can share the work (see `minicf.tiles`): the
        ratings are laid out once, an epoch shuffles the rounds, and the learning rate moves from round to round.
        "sides", for online SGD of models with bags, goes user by user in one epoch and item by item in the next (see
        `minicf.sides`), with a learning rate a user, or item; the tables of the other side's bags have the rate 0.
    clip_value, clip_norm : float, optional
        c in (L1) and in (L2): limits of each element of the gradient, and of its length over all weights.
    lr_factors : dict of float by weight name, optional
        (L3): multiples of the learning rate, which trainer and schedule go on moving; weights that it leaves out have
        1, and 0 keeps a weight where it is.

    Notes
    -----
    The gradient g of the loss over a batch, before weight decay:
    (L1) g <- min(max(g, -c), c), each element (torch.nn.utils.clip_grad_value_).
    (L2) g <- min(1, c / (|g| + 1e-6)) g, with |g| the root of the sum of squares of all elements of all weights
    (torch.nn.utils.clip_grad_norm_; Pascanu, Mikolov and Bengio 2013). After (L1), where both are given.
    (L3) lr_name = factor_name lr, in the step and in decoupled weight decay.
    None of these has compiled kernels, but for (L3) with "sides": with any of them every backend runs composed of array
    operations.

    With "sides", all ratings of user u follow one another. One of them has the gradient d of p = P[u] + x, x = sum_j
    F_j Y_j (F15), and plain SGD takes Y_j to (1 - eta lambda) Y_j - eta F_j d for every j of the same bag (B15), (U2).
    So while it lasts, Y_j = rho Y'_j + F_j a, with Y'_j what it was before, rho = 1 and a = 0 at first, and
    (S1) a <- (1 - eta lambda) a - eta d, rho <- (1 - eta lambda) rho, x = rho x' + S a, with S = sum_j F_j^2, which is
    1 for a history: a rating moves two vectors and not the whole bag;
    (S2) Y_j <- rho Y_j + F_j a, once, after the user's last rating.
    This is the batch of one, rating by rating, and no approximation.
    """

    optimizer: Optimizer
    loss: Loss = SQUARED_ERROR
    batch_size: int = 64
    shuffle: bool | str = True
    clip_value: float | None = None
    clip_norm: float | None = None
    lr_factors: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(f"optimizer is {self.optimizer!r}; it must be an Optimizer such as SGD(0.1) or Adam(0.01)")
        if not isinstance(self.loss, Loss):
            raise TypeError(f"loss is {self.loss!r}; it must be a Loss such as SquaredError() or Logistic()")
        object.__setattr__(self, "batch_size", check_int("batch_size", self.batch_size, 1))
        shuffle = self.shuffle
        if not (isinstance(shuffle, bool | np.bool_) or (isinstance(shuffle, str) and shuffle in _ORDERS)):
            raise ValueError(f"shuffle is {shuffle!r}; it must be True, False or one of {list(_ORDERS)}")
        object.__setattr__(
            self, "shuffle", shuffle if isinstance(shuffle, str) else bool(shuffle)
        )  # not NumPy's, for files
        if shuffle in _ORDERS and self.batch_size != 1:
            raise ValueError(
                f"batch_size is {self.batch_size}; it must be 1 for shuffle={shuffle!r}, which is online SGD"
            )

        for name in ("clip_value", "clip_norm"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_number(name, getattr(self, name), above=0.0))
        if self.lr_factors is not None:
            if not isinstance(self.lr_factors, Mapping):
                raise ValueError(f"lr_factors is {self.lr_factors!r}; it must be a dict of numbers by weight name")
            object.__setattr__(self, "lr_factors", check_decay("lr_factors", self.lr_factors))

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for that compiled kernels would leave out: (L1), (L2), (L3), (U10)."""
        clips = self.clip_value is not None or self.clip_norm is not None
        return not (clips or self.lr_factors or getattr(self.optimizer, "amsgrad", False))

    @property
    def lr(self) -> float:
        """The optimizer's learning rate."""
        return self.optimizer.lr

    def check(self, model: Model) -> None:
        names = list(model.shapes(1, 1))
        for argument, value in (("weight_decay", self.optimizer.weight_decay), ("lr_factors", self.lr_factors)):
            if unknown := sorted(set(value if isinstance(value, Mapping) else ()) - set(names)):
                raise ValueError(f"{argument} names {unknown}; the model's weights are {names}")

    def init_state(self, w: Weights) -> Weights:
        return self.optimizer.init_state(w)

    def ordered(self, shuffle: bool | str) -> Gradient:
        return replace(self, shuffle=shuffle)

    def prepare(self, ratings: Ratings) -> Batch | Tiles | Sides:
        self.loss.check_targets(ratings.rating)
        if isinstance(self.shuffle, str):
            return _ORDERS[self.shuffle].of(ratings)
        batch = Batch.of(ratings)
        if not self.loss.negatives:
            return batch
        return batch._replace(candidates=Candidates.of(ratings, ratings.n_users, ratings.n_items))

    def parts(self, data: Batch | Tiles | Sides, seed: int, epoch: int, program: Program) -> Iterator[Part]:
        if isinstance(data, Sides):
            (kind, order), size = data.rows(seed, epoch), 1
            per_part = max(1, len(order) * _TILED_PER_CALL // len(data))
        elif isinstance(data, Tiles):
            kind, order, size = "tiles", data.rounds(seed, epoch), 1
            per_part = max(1, data.n_blocks * _TILED_PER_CALL // len(data))
        else:
            n = data.size
            kind, size = "batches", self.batch_size
            order = program.order(seed, epoch, n) if self.shuffle else np.arange(n, dtype=np.int32)
            per_part = program.steps_per_call(size)
        steps = -(-len(order) // size)  # of one learning rate each: batches, rounds of tiles, users
        for first in range(0, steps, per_part):
            last = min(first + per_part, steps)
            pace = program.pace
            rows = order[first * size : last * size]
            yield Part(kind, rows, pace.rates(first, last, steps), pace.momenta(first, last, steps))

    def run(self, program: Program, data: Batch | Tiles | Sides, part: Part) -> Progress:
        rows, size = part.rows, self.batch_size
        moved: list[Any] = [part.rates, math.nan if part.momenta is None else part.momenta]
        if isinstance(data, Tiles):  # one example after another; a learning rate a round
            table, rows, size = data.table, data.order(part.rows), 1
            moved = [np.repeat(np.broadcast_to(x, part.rows.shape), data.sizes(part.rows)) for x in moved]
        elif isinstance(data, Sides):
            table, rows, size = data.table, data.order(part.kind, part.rows), 1
            moved = [np.repeat(np.broadcast_to(x, part.rows.shape), data.sizes(part.kind, part.rows)) for x in moved]
        else:
            table = data
        still = resting(program.parameters, part.kind) if isinstance(data, Sides) else frozenset()
        steps = -(-len(rows) // size)
        rates, momenta = (np.broadcast_to(np.asarray(x, np.float64), (steps,)) for x in moved)
        candidates = data.candidates.on(program.xp) if self.loss.negatives and data.candidates else None
        total, n = np.zeros(len(program.model.heads)), 0
        for i in range(steps):
            optimizer = self.optimizer.with_momentum(float(momenta[i]))
            batch = program.batch(table, rows[i * size : (i + 1) * size])
            t = program.t + 1
            pairs = self.loss.examples(batch, Draw(program.seed, t, candidates))
            # What overflows is reported as a failed step, once, and not as NumPy's warnings on the way there.
            with np.errstate(over="ignore", invalid="ignore"):
                masks = program.masks(pairs.size)
                losses, grads = loss_and_gradients(program.model, self.loss, program.w, pairs, masks)
                if not np.isfinite(losses).all():
                    return Progress(total, n, i, float(rates[i]))
                program.t = t
                grads, rate = self._clipped(grads), self._rate(grads, float(rates[i]), still)
                optimizer.step(program.w, grads, program.slots, t, rate, program.counts(pairs), pairs.size)
            total += losses * batch.size
            n += batch.size
        return Progress(total, n, steps)

    def _clipped(self, grads: Weights) -> Weights:
        """(L1), (L2)."""
        if (c := self.clip_value) is not None:
            grads = {name: namespace(g).minimum(namespace(g).maximum(g, -c), c) for name, g in grads.items()}  # (L1)
        if (c := self.clip_norm) is not None:
            # In float64: the squares of large float32 overflow, and a gradient divided by infinity would vanish.
            square = sum(float((g.astype(np.float64) ** 2).sum()) for g in grads.values())
            share = c / (math.sqrt(square) + _NORM_EPS)
            if share < 1.0:
                grads = {name: share * g for name, g in grads.items()}  # (L2)
        return grads

    def _rate(self, names: Iterable[str], lr: float, still: frozenset[str]) -> float | dict[str, float]:
        """(L3), and 0 for tables that rest."""
        if not self.lr_factors and not still:
            return lr
        factors = self.lr_factors or {}
        return {name: 0.0 if name in still else lr * factors.get(name, 1.0) for name in names}

    def penalty(self, program: Program, counts: Mapping[str, np.ndarray]) -> float:
        """Return the function whose gradient the weight decay adds; see `Program.penalty`."""
        return program.penalty(self.optimizer, counts)


def resting(parameters: Mapping[str, Parameter], side: str) -> frozenset[str]:
    """Return the tables that rest while "sides" goes along the rows of a side: those of the other side's bags."""
    return frozenset(name for name, p in parameters.items() if p.rows in BAGS and BAGS[p.rows] != side)


def loss_and_gradients(
    model: Model, loss: Loss, w: Weights, batch: Batch, masks: Any = None
) -> tuple[np.ndarray, Weights]:
    """Go through one batch, there and back.

    The mean is over what the loss gives a value each: B examples, or B events of several pairs.

    Returns
    -------
    losses : array of float64, shape (heads,)
        The mean loss of each head.
    gradients : dict of arrays
        The derivative of the objective (F10) by every weight.
    """
    y, cache = model.forward(w, batch, masks)  # (F1) …
    value, slope = loss(y, batch)  # (F9), (F11), (F12)
    d_y: Array = slope / value.shape[-1]  # (B9), (B11), (B12)
    if len(model.heads) > 1:
        d_y = namespace(y).asarray(model.head_weights, dtype=y.dtype)[:, None] * d_y  # (B10)
    losses = value.mean(axis=-1)
    return np.array([float(x) for x in losses.reshape(-1)]), model.backward(w, cache, d_y)  # … (B1)
