"""Losses: how far an output is from its target, and the slope along which it should move.

A loss sees the outputs y of a model (B,) and the batch, and gives each example's value and slope. The solver takes
the mean over the batch: L = 1/B sum_b w_b value_b, hence d_y = w slope / B, with w the examples' weights (1 unless
given). Models and optimizers do not know which loss is in use.

======  ====================================================  ========================================
label   value                                                 slope
======  ====================================================  ========================================
9       (F9) (y - r)^2                                        (B9) 2 (y - r)
11      (F11) softplus(y) - r y                               (B11) sigmoid(y) - r
12      (F12) r/m sum_j softplus(y_j - y_0)                   (B12) r/m sigmoid(y_j - y_0) by y_j
======  ====================================================  ========================================

softplus(y) = log(1 + exp(y)), whose derivative is sigmoid(y).

Most people leave no ratings but events: views, purchases. What a user did not take is not known to be disliked, yet
without it every loss is lowest where everything is recommended. So losses for lists put beside each event m negatives,
items that the user has not seen, drawn anew at every step (see `minicf.data.negatives`). Column 0 holds the event's
output y_0, columns 1 … m those of its negatives. A batch of B events is B (1 + m) pairs for the model.

The compiled kernels repeat these lines, one function a loss, under the same labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minicf.arguments import check_int, check_number
from minicf.data.bags import Batch
from minicf.data.negatives import Draw, beside
from minicf.ops import Array, namespace, sigmoid
from minicf.registry import register


class Loss:
    """The contract of a loss; subclasses add `value_and_slope`.

    To write your own, subclass it as a frozen dataclass, register it, and give value and slope of each example::

        @minicf.register
        @dataclass(frozen=True)
        class AbsoluteError(minicf.Loss):
            metric: ClassVar[str] = "mae"

            def value_and_slope(self, y, target):
                xp = minicf.ops.namespace(y)
                return xp.abs(y - target), xp.sign(y - target)

        trainer = minicf.Trainer(model, minicf.Adam(0.01), loss=AbsoluteError())

    `minicf.check_gradients(model, loss=AbsoluteError())` compares the slope with finite differences.
    """

    metric: ClassVar[str] = "loss"
    """What the mean of its values is called in a history: ``train_mse``, ``valid_log_loss``."""
    negatives: int = 0
    """m, the number of items that `examples` draws beside each event; 0 for a loss of the batch alone."""

    def check_targets(self, target: np.ndarray) -> None:
        """Refuse targets that the loss has no meaning for; anything goes here."""

    def examples(self, batch: Batch, draw: Draw) -> Batch:
        """Return the pairs that a step compares: the batch itself, or its events with negatives beside them.

        Parameters
        ----------
        batch : Batch
        draw : Draw
            ``draw.negatives(batch, m)`` are items that the users have not seen (B, m), and ``draw(n)`` are n uniform
            numbers in [0, 1): of this step, the same on every backend.

        Returns
        -------
        Batch
            Its users and items are pairs of any number; targets and weights are those of the B events.
        """
        return beside(batch, draw.negatives(batch, self.negatives)) if self.negatives else batch

    def value_and_slope(self, y: Array, target: Array) -> tuple[Array, Array]:
        """Return each example's loss, and its derivative by y: (..., B), (B,) -> two arrays of the shape of y."""
        raise NotImplementedError

    def compare(self, y: Array, target: Array) -> tuple[Array, Array]:
        """Return each event's loss, and its derivative by y, for a loss with negatives.

        Parameters
        ----------
        y : array, shape (..., B, 1 + m)
            Outputs of each event and, behind it, its negatives.
        target : array, shape (B,)

        Returns
        -------
        value : array, shape (..., B)
        slope : array, shape (..., B, 1 + m)
        """
        raise NotImplementedError

    def __call__(self, y: Array, batch: Batch) -> tuple[Array, Array]:
        """Return the value of each example, or event, and the slope of each output, weighted where there are weights.

        Parameters
        ----------
        y : array, shape (pairs,), or (heads, pairs) for a model of several heads
        batch : Batch
            As `examples` returned it.
        """
        if not self.negatives:
            value, slope = self.value_and_slope(y, batch.target)
            return (value, slope) if batch.weight is None else (batch.weight * value, batch.weight * slope)
        value, slope = self.compare(y.reshape(*y.shape[:-1], len(batch.target), -1), batch.target)
        if batch.weight is not None:
            value, slope = batch.weight * value, batch.weight[:, None] * slope
        return value, slope.reshape(y.shape)

    def response(self, y: Array) -> Array:
        """Turn outputs into what they predict, in the units of the targets."""
        return y

    def measures(self, y: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Measure outputs on known targets, in float64: the mean loss by its name, and what else says how good y is.

        Parameters
        ----------
        y : array, shape (B,); (B, 1 + m) for a loss with negatives
        target : array, shape (B,)

        Returns
        -------
        dict
            With negatives also auc: the share of them that have less than their event, ties a half, over events of
            targets above 0.
        """
        y, target = y.astype(np.float64), target.astype(np.float64)
        if not self.negatives:
            return {self.metric: float(np.mean(self.value_and_slope(y, target)[0]))}
        above = y[target > 0, :1] - y[target > 0, 1:]
        auc = float(np.mean(0.5 * (1.0 + np.sign(above)))) if above.size else math.nan
        return {self.metric: float(np.mean(self.compare(y, target)[0])), "auc": auc}


def _softplus(y: Array) -> Array:
    """Compute log(1 + exp(y)) = max(y, 0) + log(1 + exp(-|y|)), which does not overflow."""
    xp = namespace(y)
    return xp.maximum(y, 0) + xp.log1p(xp.exp(-xp.abs(y)))


def _check_shares(target: np.ndarray, loss: str) -> None:
    outside = ~((target >= 0) & (target <= 1))
    if outside.any():
        raise ValueError(
            f"a target is {target[outside][0]:g}; the {loss} loss takes targets from 0 to 1: "
            "map ratings to 0 and 1, or use SquaredError()"
        )


@register
@dataclass(frozen=True)
class SquaredError(Loss):
    """Take the squared difference: for stars and other quantities.

    (F9) value (y - r)^2, (B9) slope 2 (y - r), from d(y - r)^2/dy.
    """

    metric: ClassVar[str] = "mse"

    def value_and_slope(self, y: Array, target: Array) -> tuple[Array, Array]:
        return (y - target) ** 2, 2.0 * (y - target)  # (F9), (B9)

    def measures(self, y: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Measure the mean squared error, its root, and the mean absolute error."""
        error = y.astype(np.float64) - target
        mse = float(np.mean(error**2))
        return {"mse": mse, "rmse": math.sqrt(mse), "mae": float(np.mean(np.abs(error)))}


SQUARED_ERROR = SquaredError()
"""The loss where none is named."""


@register
@dataclass(frozen=True)
class Logistic(Loss):
    """Take the negative log-likelihood of targets between 0 and 1, binary cross-entropy: y is a log-odds.

    Parameters
    ----------
    negatives : int
        m, the number of items drawn beside each event, of target 0; 0 for tables that hold both targets themselves.
    weight : float
        omega, the weight of the negatives of an event, all together, beside the 1 of the event.

    Notes
    -----
    With g = sigmoid(y) = 1 / (1 + exp(-y)) the predicted probability of a 1,
    -r log g - (1 - r) log(1 - g) = -r y + log(1 + exp(y)), for log g = y - log(1 + exp(y)) and
    log(1 - g) = -log(1 + exp(y)): (F11). Its derivative is -r + exp(y) / (1 + exp(y)) = g - r: (B11).
    Equal to torch.nn.BCEWithLogitsLoss.

    With negatives, of target 0, an event's value is (F11) softplus(y_0) - r y_0 + omega/m sum_j softplus(y_j), a sum
    whose terms have a column each, hence (B11) v (sigmoid(y) - r), with v = 1 and r the event's target in column 0,
    v = omega/m and r = 0 in the others. An event of target 0, a dislike, is pushed down as they are. y is then the
    log-odds against the negatives drawn, and no probability that the user takes the item.
    """

    negatives: int = 0
    weight: float = 1.0
    metric: ClassVar[str] = "log_loss"

    def __post_init__(self) -> None:
        object.__setattr__(self, "negatives", check_int("negatives", self.negatives, 0))
        object.__setattr__(self, "weight", check_number("weight", self.weight, above=0.0))

    def check_targets(self, target: np.ndarray) -> None:
        _check_shares(target, "logistic")

    def value_and_slope(self, y: Array, target: Array) -> tuple[Array, Array]:
        return _softplus(y) - target * y, sigmoid(y) - target  # (F11), (B11)

    def compare(self, y: Array, target: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        share = self.weight / self.negatives
        value, slope = self.value_and_slope(y[..., 0], target)
        of_negatives = share * _softplus(y[..., 1:])
        return value + of_negatives.sum(axis=-1), xp.concatenate(
            [slope[..., None], share * sigmoid(y[..., 1:])], axis=-1
        )

    def response(self, y: Array) -> Array:
        """Turn log-odds into probabilities of a 1."""
        return sigmoid(y)

    def measures(self, y: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Measure the mean logistic loss and the accuracy: the share of predictions on the target's side of 1/2.

        With negatives, the AUC in the place of the accuracy.
        """
        found = super().measures(y, target)
        return found if self.negatives else found | {"accuracy": float(np.mean((y > 0) == (target > 0.5)))}


@register
@dataclass(frozen=True)
class BPR(Loss):
    """Take the negative log-likelihood of an order: each event before items that the user has not seen.

    Bayesian personalized ranking (Rendle, Freudenthaler, Gantner and Schmidt-Thieme 2009).

    Parameters
    ----------
    negatives : int
        m, the number of items drawn beside each event.

    Notes
    -----
    With sigmoid(y_0 - y_j) the probability that the user prefers the event's item to item j,
    (F12) r/m sum_j -log sigmoid(y_0 - y_j) = r/m sum_j softplus(-(y_0 - y_j)), and with d/dx softplus(x) = sigmoid(x)
    (B12) d_y_j = r/m sigmoid(y_j - y_0), d_y_0 = -sum_j d_y_j. The target r, 1 for an event, is a share of it: one of
    target 0, a dislike, moves nothing, and its item is never a negative of this user.

    Only differences within a user count: the bias of a user and the mean have the slope 0, but for rounding.
    """

    negatives: int = 1
    metric: ClassVar[str] = "bpr"

    def __post_init__(self) -> None:
        object.__setattr__(self, "negatives", check_int("negatives", self.negatives, 1))

    def check_targets(self, target: np.ndarray) -> None:
        _check_shares(target, "BPR")

    def compare(self, y: Array, target: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        behind = y[..., 1:] - y[..., :1]
        share = target / self.negatives
        slope = share[:, None] * sigmoid(behind)  # (B12)
        value = share * _softplus(behind).sum(axis=-1)  # (F12)
        return value, xp.concatenate([-slope.sum(axis=-1, keepdims=True), slope], axis=-1)
