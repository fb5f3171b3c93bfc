"""SVD++ and features: matrix factorization whose rows are sums over bags, beside rows of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minicf import ops
from minicf.arguments import check_bool
from minicf.data.bags import Bags, Batch
from minicf.models.arguments import check_factors
from minicf.models.base import Model
from minicf.models.dot import Dot, DotBias
from minicf.models.scorers import Score
from minicf.models.weights import Init, Parameter, Weights
from minicf.ops import Array
from minicf.registry import register

SIDES = ("user", "item")
_SIDES = {"both": SIDES, "user": ("user",), "item": ("item",), None: ()}


class _Rows(NamedTuple):
    """Hold which rows of one side a batch reads, each once: a bag is summed once, however many examples read it."""

    side: str
    rows: Array
    """(R,) the different rows."""
    at: Array
    """(B,) the place among them of each example's."""
    bags: dict[str, Bags]
    """Their bags, by name."""

    @classmethod
    def of(cls, batch: Batch, side: str, names: tuple[str, ...]) -> _Rows:
        own = getattr(batch, side)
        rows, at = ops.namespace(own).unique(own, return_inverse=True)
        return cls(side, rows, at, {name: batch.bags[name].take(rows) for name in names})

    def embed(self, w: Weights, own: str) -> Array:
        """Compute p of each example from the table `own`, and the tables of the bags that go with it."""
        x = ops.gather(w[own], self.rows)  # (F1)
        for table, bag in self._tables(w, own):
            x = x + ops.bag(table, bag.row, bag.index, bag.weights(x.dtype), len(x))  # (F15)
        return ops.gather(x, self.at)

    def embed_backward(self, w: Weights, own: str, d_p: Array) -> Weights:
        """Compute the derivatives of these tables."""
        d_x = ops.gather_backward(d_p, self.at, w[own][: len(self.rows)])  # these are no more than the table has
        grads = {own: ops.gather_backward(d_x, self.rows, w[own])}  # (B1)
        for name, (table, bag) in zip(self._names(own), self._tables(w, own), strict=True):
            grads[name] = ops.bag_backward(d_x, bag.row, bag.index, bag.weights(d_x.dtype), table)  # (B15)
        return grads

    def _names(self, own: str) -> list[str]:
        return [f"{name}{own.removeprefix(self.side)}" for name in self.bags]

    def _tables(self, w: Weights, own: str) -> list[tuple[Array, Bags]]:
        return [(w[name], bag) for name, bag in zip(self._names(own), self.bags.values(), strict=True)]


@register
@dataclass(frozen=True)
class SVDpp(Model):
    """SVD++ of both sides, with features: an embedding is a row of its own and a weighted sum over bags.

    Parameters
    ----------
    n_factors : int
        K, the length of an embedding.
    rating_range, init, global_mean
        As in `Dot`.
    biases : bool
        As `DotBias` (True) or as `Dot` (False).
    history : "both", "user", "item" or None
        Sides whose training ratings are bags: what a user rated, who rated an item (Koren 2008 has "user"). Each entry
        weighs one over the root of their number.
    features : "both", "user", "item" or None
        Sides that have features, given to `Trainer`.

    Notes
    -----
    With N(u) what user u rated, F_uj = |N(u)|^-1/2, or the given weights of features, and the items alike, by who
    rated them:

    (F1) p = P[user], (F15) p = p' + sum_j F_uj Y[j]; so q; so with biases b and c, whose tables Y are vectors; (F2),
    (F3), (F4) as in `DotBias`. Backward, last operation first: (B4), (B3), (B2); (B15) d_Y[j] = sum_r F_rj d_p_r; (B1).

    A user without ratings has an empty bag, and an item with features alone a row that training never moved: their
    predictions come from what they have. Bags do not change after training, so P + F Y is an ordinary table:
    `collapsed` makes a `DotBias` of it.
    """

    n_factors: int
    rating_range: tuple[float, float] | None = None
    init: Init = ("uniform", -0.01, 0.01)
    global_mean: float = 0.0
    biases: bool = True
    history: str | None = "both"
    features: str | None = None

    def __post_init__(self) -> None:
        check_factors(self)
        object.__setattr__(self, "biases", check_bool("biases", self.biases))
        for name in ("history", "features"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, str)) or value not in _SIDES:
                raise ValueError(f"{name} is {value!r}; it must be 'both', 'user', 'item' or None")
        if self.history is None and self.features is None:
            raise ValueError("history and features are None; a model without bags is DotBias or Dot")

    @property
    def collapsed_model(self) -> Dot:
        """The model without bags of the same predictions."""
        return (DotBias if self.biases else Dot)(self.n_factors, self.rating_range, self.init, self.global_mean)

    def bags_of(self, side: str) -> tuple[str, ...]:
        """Return the names of a side's bags."""
        kinds = ("history", "features")
        return tuple(f"{side}_{kind}" for kind in kinds if side in _SIDES[getattr(self, kind)])

    def parameters(self, sizes: Mapping[str, int]) -> dict[str, Parameter]:
        found = self.collapsed_model.parameters(sizes)
        for side, other in (SIDES, SIDES[::-1]):
            for bag in self.bags_of(side):
                n = sizes.get(bag, sizes[other] if bag.endswith("history") else 1)
                found[f"{bag}_factors"] = Parameter((n, self.n_factors), bag, self.init)
                if self.biases:
                    found[f"{bag}_bias"] = Parameter((n,), bag, self.init)
        return found

    def forward(self, w: Weights, batch: Batch, masks: Any = None) -> tuple[Array, Any]:
        sides = {side: _Rows.of(batch, side, self.bags_of(side)) for side in SIDES}
        p, q = (sides[side].embed(w, f"{side}_factors") for side in SIDES)
        s = ops.dot(p, q)  # (F2)
        if self.biases:
            s = s + sides["user"].embed(w, "user_bias") + sides["item"].embed(w, "item_bias")  # (F3)
        s = s + self.global_mean
        return self._finish(s), (sides, p, q, s)  # (F4)

    def backward(self, w: Weights, cache: Any, d_y: Array) -> Weights:
        sides, p, q, s = cache
        d_s = self._finish_backward(d_y, s)  # (B4)
        d_p, d_q = ops.dot_backward(d_s, p, q)  # (B2)
        grads = sides["user"].embed_backward(w, "user_factors", d_p)
        grads |= sides["item"].embed_backward(w, "item_factors", d_q)
        if self.biases:
            for side in SIDES:
                grads |= sides[side].embed_backward(w, f"{side}_bias", d_s)  # (B3)
        return {name: grads[name] for name in w}

    def collapsed(self, w: Weights, bags: Mapping[str, Bags]) -> tuple[Dot, Weights]:
        """Put the bags into the tables: a `DotBias` (or `Dot`) of the same predictions, P' = P + F Y.

        Parameters
        ----------
        w : dict of arrays
        bags : mapping of name to Bags
            Those that it was trained with (`Trainer.bags`), or of new rows.

        Returns
        -------
        model : DotBias or Dot
        weights : dict of arrays
            New ones, of the same dtype.
        """
        found = {}
        for name in self.collapsed_model.parameters({"user": 1, "item": 1}):
            side = name.partition("_")[0]
            every = ops.namespace(w[name]).arange(len(w[name]))
            found[name] = _Rows.of(Batch(every, every, bags=bags), side, self.bags_of(side)).embed(w, name)
        return self.collapsed_model, found

    def scorer(self, w: Weights, bags: Mapping[str, Bags] | None = None, xp: Any = np) -> Score:
        own = type(self)
        if (own.forward, own.predict, own._finish) != (SVDpp.forward, SVDpp.predict, SVDpp._finish):
            return super().scorer(w, bags, xp)
        model, weights = self.collapsed(w, bags or {})
        return model.scorer(weights, None, xp)
