"""A small multi-layer perceptron on two embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicf import ops, rng
from minicf.data.bags import Bags, Batch
from minicf.models.arguments import check_factors, check_layers
from minicf.models.base import Model
from minicf.models.scorers import Score, by_layers
from minicf.models.weights import Init, Parameter, Weights
from minicf.ops import Array
from minicf.registry import register


@register
@dataclass(frozen=True)
class Net(Model):
    """Score a pair by a small multi-layer perceptron on the two embeddings side by side.

    Parameters
    ----------
    n_factors : int
        K, the length of an embedding; the first layer sees 2 K inputs.
    hidden : tuple of int
        Units of each hidden layer; ``()`` for a single linear layer on the embeddings.
    dropout : float or tuple of float
        The share of units set to 0 while training: one rate for the concatenated input and one for each hidden
        layer, or one number for all of them.
    rating_range, init, global_mean
        As for `Dot`.
    dense_init : "glorot" or "torch"
        Dense layers start Glorot-uniform (Glorot and Bengio 2010) with zero biases, as Keras' Dense, or uniform within
        1 / sqrt(inputs) for weights and biases, as PyTorch's Linear.

    Notes
    -----
    (F1) p, q; (F5) x = [p, q]; (F6) dropout; then for each hidden layer (F7) a = x W + w, (F8) relu, (F6) dropout;
    (F7) the output unit, plus the mean; (F4). Backward takes the same path in reverse: (B4), (B7), then for each
    hidden layer from the last to the first (B6), (B8), (B7), then (B6), (B5), (B1).
    """

    n_factors: int
    hidden: tuple[int, ...] = (70,)
    dropout: tuple[float, ...] = (0.3, 0.75)
    rating_range: tuple[float, float] | None = None
    init: Init = ("uniform", -0.01, 0.01)
    global_mean: float = 0.0
    dense_init: str = "glorot"

    def __post_init__(self) -> None:
        check_factors(self)
        check_layers(self)

    def parameters(self, sizes: Mapping[str, int]) -> dict[str, Parameter]:
        found = {
            "user_factors": Parameter((sizes["user"], self.n_factors), "user", self.init),
            "item_factors": Parameter((sizes["item"], self.n_factors), "item", self.init),
        }
        for name, n_in, n_out in self.layers():
            bound = 1.0 / np.sqrt(n_in) if self.dense_init == "torch" else np.sqrt(6.0 / (n_in + n_out))
            bias = bound if self.dense_init == "torch" else 0.0
            found[f"{name}.weight"] = Parameter((n_in, n_out), None, ("uniform", -bound, bound))
            found[f"{name}.bias"] = Parameter((n_out,), None, ("uniform", -bias, bias))
        return found

    def layers(self) -> list[tuple[str, int, int]]:
        """Return name, inputs and outputs of each dense layer, the output layer last."""
        widths = (2 * self.n_factors, *self.hidden, 1)
        names = [f"hidden.{i}" for i in range(len(self.hidden))] + ["output"]
        return list(zip(names, widths[:-1], widths[1:], strict=True))

    def dropout_masks(self, seed: int, step: int, batch: int, dtype: Any, first_layer: int = 0) -> Any:
        widths = (2 * self.n_factors, *self.hidden)
        return tuple(
            rng.dropout_mask(seed, first_layer + layer, step, (batch, width), rate, dtype) if rate else None
            for layer, (width, rate) in enumerate(zip(widths, self.dropout, strict=True))
        )

    def forward(self, w: Weights, batch: Batch, masks: Any = None) -> tuple[Array, Any]:
        masks = masks or (None,) * (len(self.hidden) + 1)
        p = ops.gather(w["user_factors"], batch.user)  # (F1)
        q = ops.gather(w["item_factors"], batch.item)
        x = ops.dropout(ops.concat(p, q), masks[0])  # (F5), (F6)
        inputs, activations = [], []
        for i in range(len(self.hidden)):
            a = ops.dense(x, w[f"hidden.{i}.weight"], w[f"hidden.{i}.bias"])  # (F7)
            inputs.append(x)
            activations.append(a)
            x = ops.dropout(ops.relu(a), masks[i + 1])  # (F8), (F6)
        inputs.append(x)
        s = ops.dense(x, w["output.weight"], w["output.bias"])[:, 0] + self.global_mean  # (F7), the mean as in (F3)
        return self._finish(s), (batch, inputs, activations, masks, s)  # (F4)

    def backward(self, w: Weights, cache: Any, d_y: Array) -> Weights:
        batch, inputs, activations, masks, s = cache
        grads: Weights = {}
        d_s = self._finish_backward(d_y, s)[:, None]  # (B4)
        d_x, grads["output.weight"], grads["output.bias"] = ops.dense_backward(
            d_s, inputs[-1], w["output.weight"]
        )  # (B7)
        for i in reversed(range(len(self.hidden))):
            d_a = ops.relu_backward(ops.dropout_backward(d_x, masks[i + 1]), activations[i])  # (B6), (B8)
            d_x, grads[f"hidden.{i}.weight"], grads[f"hidden.{i}.bias"] = ops.dense_backward(
                d_a, inputs[i], w[f"hidden.{i}.weight"]
            )  # (B7)
        d_p, d_q = ops.concat_backward(ops.dropout_backward(d_x, masks[0]))  # (B6), (B5)
        grads["user_factors"] = ops.gather_backward(d_p, batch.user, w["user_factors"])  # (B1)
        grads["item_factors"] = ops.gather_backward(d_q, batch.item, w["item_factors"])
        return grads

    def scorer(self, w: Weights, bags: Mapping[str, Bags] | None = None, xp: Any = np) -> Score:
        own = type(self)
        if (own.forward, own.predict, own._finish) != (Net.forward, Net.predict, Net._finish):  # a subclass's own
            return super().scorer(w, bags, xp)
        return by_layers(self, w, xp)
