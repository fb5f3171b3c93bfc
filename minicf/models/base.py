"""The contract of a model: which parameters it has, its forward pass, its backward pass.

A model holds no weights itself: these are a plain dict of arrays, passed in, so that one model runs on any backend
and its derivatives can be checked from outside. The labels (F1) … (B10) are those of `ops.py`, where each operation
is derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf import ops
from minicf.data.bags import Bags, Batch
from minicf.models.scorers import Score, by_predictions
from minicf.models.weights import Parameters, Weights
from minicf.ops import Array


class Model(Parameters):
    """The contract of a model; subclasses add `parameters`, `forward` and `backward`.

    To write your own, subclass it as a frozen dataclass and register it; every backend trains it (composed of array
    operations, where no compiled kernel is made for it), and `Trainer`, `Recommender` and files take it::

        @minicf.register
        @dataclass(frozen=True)
        class Bias(minicf.Model):
            "s = b[user] + c[item]."

            def parameters(self, sizes):
                return {
                    "user_bias": minicf.Parameter((sizes["user"],), "user"),
                    "item_bias": minicf.Parameter((sizes["item"],), "item"),
                }

            def forward(self, w, batch, masks=None):
                return w["user_bias"][batch.user] + w["item_bias"][batch.item], batch

            def backward(self, w, cache, d_y):
                return {
                    "user_bias": minicf.ops.gather_backward(d_y, cache.user, w["user_bias"]),
                    "item_bias": minicf.ops.gather_backward(d_y, cache.item, w["item_bias"]),
                }

    `minicf.check_gradients(Bias())` compares its derivatives with finite differences.
    """

    rating_range: tuple[float, float] | None = None
    global_mean: float = 0.0
    output: str = ""
    """The head whose output is the model's prediction."""

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the outputs that training compares with the targets: one, unless the model is a hybrid."""
        return ("",)

    @property
    def head_weights(self) -> tuple[float, ...]:
        """The weight of each head's loss in the objective (F10)."""
        return (1.0,)

    def output_head(self, w: Mapping[str, Any]) -> tuple[Model, Weights]:
        """Return the model whose output is the prediction, with its own weights: the model itself, or a head."""
        return self, dict(w)

    def dropout_masks(self, seed: int, step: int, batch: int, dtype: Any) -> Any:
        """Return the dropout masks of a training step for `forward`; None for a model without dropout."""
        return None

    def forward(self, w: Weights, batch: Batch, masks: Any = None) -> tuple[Array, Any]:
        """Compute outputs, and what `backward` needs to remember.

        Parameters
        ----------
        w : dict of arrays
        batch : Batch
        masks
            What `dropout_masks` made; None when predicting.

        Returns
        -------
        y : array, shape (B,); (heads, B) for a model of several heads
        cache
        """
        raise NotImplementedError

    def backward(self, w: Weights, cache: Any, d_y: Array) -> Weights:
        """Compute the derivative of the loss by every weight, given that by the outputs. Same names, same shapes."""
        raise NotImplementedError

    def predict(self, w: Weights, batch: Batch, head: str | None = None) -> Array:
        """Compute outputs (B,) without dropout, of the model's output head unless another is named."""
        self.check_head(head)
        return self.forward(w, batch)[0]

    def check_head(self, head: str | None) -> str:
        """Return the head that is asked for, the output head for None; refuse an unknown one."""
        if head is not None and head not in self.heads:
            raise ValueError(f"head is {head!r}; it must be one of {list(self.heads)}")
        return self.output if head is None else head

    def scorer(self, w: Weights, bags: Mapping[str, Bags] | None = None, xp: Any = np) -> Score:
        """Make a function that scores users against all items, in the order of the model's predictions.

        Models with a cheaper way than to predict every pair override it.
        """
        return by_predictions(self, w, bags or {}, xp)

    def _finish(self, s: Array) -> Array:
        """(F4) Squeeze scores into the rating range, if the model has one."""
        return s if self.rating_range is None else ops.rating_range(s, *self.rating_range)

    def _finish_backward(self, d_y: Array, s: Array) -> Array:
        """(B4) Go back through the rating range, if the model has one."""
        return d_y if self.rating_range is None else ops.rating_range_backward(d_y, s, *self.rating_range)
