"""Dot products of embeddings of length 1: the cosine of the angle between user and item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicf import ops
from minicf.arguments import check_number
from minicf.data.bags import Bags, Batch
from minicf.models.base import Model
from minicf.models.dot import Dot
from minicf.models.scorers import Score, by_products, dot_vectors
from minicf.models.weights import Init, Parameter, Weights
from minicf.ops import Array
from minicf.registry import register


@register
@dataclass(frozen=True)
class UnitDot(Model):
    """Score a pair by the cosine of the angle between two embeddings, times a scale.

    Parameters
    ----------
    n_factors : int
        K, the length of an embedding.
    scale : float
        tau: scores lie between -tau and tau. A loss that compares scores needs room to tell them apart.
    init : ("uniform", low, high) or ("normal", mean, std)
        How the tables start; only directions count.

    Notes
    -----
    (F1) p = P[user], q = Q[item]; (F14) p = p' / |p'|, q alike; (F2) s = tau sum_k p_k q_k. Backward: (B2) with
    tau d_s; (B14); (B1). Popular items cannot win by length (Mao et al. 2021, "SimpleX").
    """

    n_factors: int
    scale: float = 10.0
    init: Init = ("normal", 0.0, 0.1)

    def __post_init__(self) -> None:
        plain = Dot(self.n_factors, init=self.init)
        object.__setattr__(self, "n_factors", plain.n_factors)
        object.__setattr__(self, "init", plain.init)
        object.__setattr__(self, "scale", check_number("scale", self.scale, above=0.0))

    def parameters(self, sizes: Mapping[str, int]) -> dict[str, Parameter]:
        return Dot(self.n_factors, init=self.init).parameters(sizes)

    def forward(self, w: Weights, batch: Batch, masks: Any = None) -> tuple[Array, Any]:
        p = ops.gather(w["user_factors"], batch.user)  # (F1)
        q = ops.gather(w["item_factors"], batch.item)
        return self.scale * ops.dot(ops.unit(p), ops.unit(q)), (batch, p, q)  # (F14), (F2)

    def backward(self, w: Weights, cache: Any, d_y: Array) -> Weights:
        batch, p, q = cache
        d_p, d_q = ops.dot_backward(self.scale * d_y, ops.unit(p), ops.unit(q))  # (B2)
        d_p, d_q = ops.unit_backward(d_p, p), ops.unit_backward(d_q, q)  # (B14)
        return {
            "user_factors": ops.gather_backward(d_p, batch.user, w["user_factors"]),  # (B1)
            "item_factors": ops.gather_backward(d_q, batch.item, w["item_factors"]),
        }

    def scorer(self, w: Weights, bags: Mapping[str, Bags] | None = None, xp: Any = np) -> Score:
        if (type(self).forward, type(self).predict) != (UnitDot.forward, UnitDot.predict):  # a subclass's own
            return super().scorer(w, bags, xp)
        users, items = (ops.unit(x) for x in dot_vectors(w, False))
        return by_products(self.scale * users, items, xp)
