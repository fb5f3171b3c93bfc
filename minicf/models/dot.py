"""Matrix factorization: dot products of user and item factors, with and without biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minicf import ops
from minicf.data.bags import Bags, Batch
from minicf.models.arguments import check_factors
from minicf.models.base import Model
from minicf.models.scorers import Score, by_products, dot_vectors
from minicf.models.weights import Init, Parameter, Weights
from minicf.ops import Array
from minicf.registry import register


@register
@dataclass(frozen=True)
class Dot(Model):
    """Score a pair by the dot product of two embeddings: s = p . q (+ mean).

    Parameters
    ----------
    n_factors : int
        K, the length of an embedding.
    rating_range : (low, high), optional
        Squeeze predictions into this range by a sigmoid (F4).
    init : ("uniform", low, high) or ("normal", mean, std)
        How the tables start.
    global_mean : float
        A fixed number added to every score.

    Notes
    -----
    (F1) p = P[user], q = Q[item]; (F2) s = sum_k p_k q_k; (F4) y. Backward, last operation first:
    (B4) d_s from d_y; (B2) d_p = d_s q, d_q = d_s p; (B1) d_P and d_Q collect the rows.
    """

    n_factors: int
    rating_range: tuple[float, float] | None = None
    init: Init = ("uniform", -0.01, 0.01)
    global_mean: float = 0.0
    biases: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_factors(self)

    def parameters(self, sizes: Mapping[str, int]) -> dict[str, Parameter]:
        users, items, k = sizes["user"], sizes["item"], self.n_factors
        found = {
            "user_factors": Parameter((users, k), "user", self.init),
            "item_factors": Parameter((items, k), "item", self.init),
        }
        if self.biases:
            found["user_bias"] = Parameter((users,), "user", self.init)
            found["item_bias"] = Parameter((items,), "item", self.init)
        return found

    def forward(self, w: Weights, batch: Batch, masks: Any = None) -> tuple[Array, Any]:
        p = ops.gather(w["user_factors"], batch.user)  # (F1)
        q = ops.gather(w["item_factors"], batch.item)
        s = ops.dot(p, q)  # (F2)
        if self.biases:
            s = s + ops.gather(w["user_bias"], batch.user) + ops.gather(w["item_bias"], batch.item)  # (F3)
        s = s + self.global_mean
        return self._finish(s), (batch, p, q, s)  # (F4)

    def backward(self, w: Weights, cache: Any, d_y: Array) -> Weights:
        batch, p, q, s = cache
        d_s = self._finish_backward(d_y, s)  # (B4)
        d_p, d_q = ops.dot_backward(d_s, p, q)  # (B2)
        grads = {
            "user_factors": ops.gather_backward(d_p, batch.user, w["user_factors"]),  # (B1)
            "item_factors": ops.gather_backward(d_q, batch.item, w["item_factors"]),
        }
        if self.biases:
            grads["user_bias"] = ops.gather_backward(d_s, batch.user, w["user_bias"])  # (B3)
            grads["item_bias"] = ops.gather_backward(d_s, batch.item, w["item_bias"])
        return grads

    def scorer(self, w: Weights, bags: Mapping[str, Bags] | None = None, xp: Any = np) -> Score:
        own = type(self)
        if (own.forward, own.predict, own._finish) != (Dot.forward, Dot.predict, Dot._finish):  # a subclass's own
            return super().scorer(w, bags, xp)
        return by_products(*dot_vectors(w, self.biases), xp)


@register
@dataclass(frozen=True)
class DotBias(Dot):
    """Add a bias for each user and each item to the dot product: s = p . q + b_u + c_i (+ mean).

    The parameters are those of `Dot`. A bias is what a user gives, or an item gets, whoever the other side is;
    the factors are left with what depends on both.

    Notes
    -----
    As `Dot`, with (F3) s = p . q + b[user] + c[item] + mean; each bias enters with slope 1, hence (B3) d_b and d_c
    collect d_s.
    """

    biases: ClassVar[bool] = True
