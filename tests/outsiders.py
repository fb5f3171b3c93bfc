"""Define custom classes as a user would: a loss, a model, an optimizer and a solver, from public names alone.

`test_extensions.py` trains with them on every backend. Nothing of minicf but its public names is used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import minicf
from minicf import ops


@minicf.register
@dataclass(frozen=True)
class PseudoHuber(minicf.Loss):
    """sqrt(1 + (y - r)^2) - 1: squared error near the target, absolute error far from it."""

    metric: ClassVar[str] = "huber"

    def value_and_slope(self, y, target):
        length = (1.0 + (y - target) ** 2) ** 0.5
        return length - 1.0, (y - target) / length


@minicf.register
@dataclass(frozen=True)
class CosineSimilarity(minicf.Model):
    """y = scale * p . q / (|p| |q|) + mean, with a learned scale."""

    n_factors: int
    global_mean: float = 0.0

    def parameters(self, sizes):
        start = ("normal", 0.0, 0.5)
        return {
            "user_factors": minicf.Parameter((sizes["user"], self.n_factors), "user", start),
            "item_factors": minicf.Parameter((sizes["item"], self.n_factors), "item", start),
            "scale": minicf.Parameter((1,), None, ("uniform", 1.0, 2.0)),
        }

    def forward(self, w, batch, masks=None):
        p, q = ops.gather(w["user_factors"], batch.user), ops.gather(w["item_factors"], batch.item)
        size_p, size_q = ops.dot(p, p) ** 0.5, ops.dot(q, q) ** 0.5
        p, q = p / size_p[:, None], q / size_q[:, None]
        cosine = ops.dot(p, q)
        return w["scale"][0] * cosine + self.global_mean, (batch, p, q, size_p, size_q, cosine)

    def backward(self, w, cache, d_y):
        batch, p, q, size_p, size_q, cosine = cache
        d = w["scale"][0] * d_y
        d_p = (d / size_p)[:, None] * (q - cosine[:, None] * p)
        d_q = (d / size_q)[:, None] * (p - cosine[:, None] * q)
        return {
            "user_factors": ops.gather_backward(d_p, batch.user, w["user_factors"]),
            "item_factors": ops.gather_backward(d_q, batch.item, w["item_factors"]),
            "scale": (d_y * cosine).sum().reshape(1),
        }


@minicf.register
@dataclass(frozen=True)
class SignSGD(minicf.Optimizer):
    """Bernstein et al. 2018, smoothed near 0: m <- mu m + (1 - mu) g, w <- w - lr m / (|m| + eps)."""

    lr: float = 0.01
    momentum: float = 0.9
    eps: float = 1e-3

    def slots(self):
        return ("mean",)

    def update(self, w, g, slots, t, lr, table):
        slots["mean"] = m = self.momentum * slots["mean"] + (1.0 - self.momentum) * g
        return w - lr * m / (abs(m) + self.eps)


@minicf.register
@dataclass(frozen=True)
class LeastSquares(minicf.Solver):
    """Alternating least squares for `Dot`: every user's row by ridge regression, then every item's."""

    ridge: float = 1.0

    def parts(self, data, seed, epoch, program):
        yield minicf.Part("user", np.unique(data.user))
        yield minicf.Part("item", np.unique(data.item))

    def run(self, program, data, part):
        xp, other = program.xp, "item" if part.kind == "user" else "user"
        mine, theirs = getattr(data, part.kind), getattr(data, other)
        for row in part.rows:
            at = np.flatnonzero(mine == row)
            q = program.w[f"{other}_factors"][xp.asarray(theirs[at])]
            target = xp.asarray(data.target[at], dtype=q.dtype)
            a = q.T @ q + self.ridge * xp.eye(q.shape[1], dtype=q.dtype)
            program.w[f"{part.kind}_factors"][row] = xp.linalg.solve(a, q.T @ target)
        return program.measure(data)
