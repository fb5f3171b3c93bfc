"""Losses: how far an output is from its target, and the slope along which it should move.

A loss sees the outputs y of a model (B,) and the batch, and gives each example's value and slope. The solver takes
the mean over the batch: L = 1/B sum_b w_b value_b, hence d_y = w slope / B, with w the examples' weights (1 unless
given). Models and optimizers do not know which loss is in use.

======  ==================================================  ==========================================
label   value                                               slope
======  ==================================================  ==========================================
9       (F9) (y - r)^2                                      (B9) 2 (y - r)
11      (F11) log(1 + exp(y)) - r y                         (B11) sigmoid(y) - r
======  ==================================================  ==========================================

The compiled kernels repeat these lines, one function a loss, under the same labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minicf.data.bags import Batch
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

    def check_targets(self, target: np.ndarray) -> None:
        """Refuse targets that the loss has no meaning for; anything goes here."""

    def examples(self, batch: Batch, draw: Callable[[int], Array]) -> Batch:
        """Return the examples that a step compares: the batch itself, unless a loss adds sampled ones.

        Parameters
        ----------
        batch : Batch
        draw : function of a number n
            Gives n uniform numbers in [0, 1) of this step, the same on every backend.
        """
        return batch

    def value_and_slope(self, y: Array, target: Array) -> tuple[Array, Array]:
        """Return each example's loss, and its derivative by y: (..., B), (B,) -> two arrays of the shape of y."""
        raise NotImplementedError

    def __call__(self, y: Array, batch: Batch) -> tuple[Array, Array]:
        """Return value and slope of each example, weighted where the batch has weights.

        Parameters
        ----------
        y : array, shape (B,), or (heads, B) for a model of several heads
        batch : Batch
        """
        value, slope = self.value_and_slope(y, batch.target)
        return (value, slope) if batch.weight is None else (batch.weight * value, batch.weight * slope)

    def response(self, y: Array) -> Array:
        """Turn outputs into what they predict, in the units of the targets."""
        return y

    def measures(self, y: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Measure outputs on known targets, in float64: the mean loss by its name, and what else says how good y is."""
        value, _ = self.value_and_slope(y.astype(np.float64), target.astype(np.float64))
        return {self.metric: float(np.mean(value))}


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

    With g = sigmoid(y) = 1 / (1 + exp(-y)) the predicted probability of a 1,
    -r log g - (1 - r) log(1 - g) = -r y + log(1 + exp(y)), for log g = y - log(1 + exp(y)) and
    log(1 - g) = -log(1 + exp(y)): (F11). Its derivative is -r + exp(y) / (1 + exp(y)) = g - r: (B11).
    Equal to torch.nn.BCEWithLogitsLoss.
    """

    metric: ClassVar[str] = "log_loss"

    def check_targets(self, target: np.ndarray) -> None:
        outside = ~((target >= 0) & (target <= 1))
        if outside.any():
            raise ValueError(
                f"a target is {target[outside][0]:g}; the logistic loss takes targets from 0 to 1: "
                "map ratings to 0 and 1, or use SquaredError()"
            )

    def value_and_slope(self, y: Array, target: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        # log(1 + exp(y)) = max(y, 0) + log(1 + exp(-|y|)), which does not overflow.
        softplus = xp.maximum(y, 0) + xp.log1p(xp.exp(-xp.abs(y)))
        return softplus - target * y, sigmoid(y) - target  # (F11), (B11)

    def response(self, y: Array) -> Array:
        """Turn log-odds into probabilities of a 1."""
        return sigmoid(y)

    def measures(self, y: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Measure the mean logistic loss and the accuracy: the share of predictions on the target's side of 1/2."""
        found = super().measures(y, target)
        return found | {"accuracy": float(np.mean((y > 0) == (target > 0.5)))}
