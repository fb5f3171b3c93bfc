"""The contract of a model: which parameters it has, its forward pass, its backward pass.

A model holds no weights itself: these are a plain dict of arrays, passed in, so that one model runs on any backend
and its derivatives can be checked from outside. The labels (F1) … (B10) are those of `ops.py`, where each operation
is derived.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from minicf import ops, rng
from minicf.arguments import check_choice, check_int, check_number
from minicf.data.bags import Bags, Batch
from minicf.ops import Array

Weights = dict[str, Array]
Init = tuple[str, float, float]
"""("uniform", low, high) or ("normal", mean, standard deviation)."""
Score = Callable[[Any, Any], None]
"""Takes user rows (B,) and writes the scores of all items to a float32 array (B, I); both NumPy's, or CuPy's."""


class Parameter(NamedTuple):
    """A weight of a model: its shape, whose table it is, and how it starts."""

    shape: tuple[int, ...]
    rows: str | None = None
    """"user" or "item" for a table with a row for each of them, the name of a bag for a table with a row for each of
    its entries, None for a dense weight, which every example reads."""
    init: Init = ("uniform", -0.01, 0.01)


class Model:
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

    # --- weights ---------------------------------------------------------------------------------------------

    def parameters(self, sizes: Mapping[str, int]) -> dict[str, Parameter]:
        """Return the weights by name, in the order in which they are listed and initialized.

        Parameters
        ----------
        sizes : mapping of str to int
            Number of users ("user"), of items ("item"), and of the entries of each bag, by its name.
        """
        raise NotImplementedError

    def shapes(self, n_users: int, n_items: int, **bags: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each weight."""
        sizes = {"user": check_int("n_users", n_users, 1), "item": check_int("n_items", n_items, 1), **bags}
        return {name: parameter.shape for name, parameter in self.parameters(sizes).items()}

    def sizes_of(self, weights: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return how many users, items and bag entries given weights have rows for.

        Parameters
        ----------
        weights : mapping of name to array
            Some or all of the model's weights.
        sizes : mapping, optional
            What to return where no given weight says: 1 by default.
        """
        found = {"user": 1, "item": 1} | dict(sizes or {})
        for name, parameter in self.parameters(found).items():
            if parameter.rows is not None and name in weights and np.ndim(weights[name]):
                found[parameter.rows] = len(weights[name])
        return found

    def tables(self, side: str) -> list[str]:
        """Return the names of the weights with a row for each user, or item."""
        return [name for name, parameter in self.parameters(_ONES).items() if parameter.rows == side]

    def output_head(self, w: Mapping[str, Any]) -> tuple[Model, Weights]:
        """Return the model whose output is the prediction, with its own weights: the model itself, or a head."""
        return self, dict(w)

    def init_weights(
        self, n_users: int, n_items: int, seed: int = 0, uniform: Callable[..., np.ndarray] = rng.uniform, **bags: int
    ) -> dict[str, np.ndarray]:
        """Draw initial weights in float64: a function of the seed and a weight's place in the list alone.

        A backend may have its own `uniform`, which gives the same numbers.
        """
        weights = {}
        sizes = {"user": check_int("n_users", n_users, 1), "item": check_int("n_items", n_items, 1), **bags}
        for stream, (name, parameter) in enumerate(self.parameters(sizes).items()):
            kind, first, second = parameter.init
            make = uniform if kind == "uniform" else rng.normal
            draw = make(rng.key(seed, rng.INIT, stream), math.prod(parameter.shape), first, second)
            weights[name] = draw.reshape(parameter.shape)
        return weights

    def summary(self, n_users: int, n_items: int) -> pd.DataFrame:
        """Print and return the table of weights: name, shape, number of parameters.

        Returns
        -------
        DataFrame with columns weight, shape, parameters; the total is ``frame.parameters.sum()``.
        """
        shapes = self.shapes(n_users, n_items)
        table = pd.DataFrame(
            [(name, shape, math.prod(shape)) for name, shape in shapes.items()],  # Python's ints do not overflow
            columns=["weight", "shape", "parameters"],
        )
        print(f"{self}, {n_users:,} users, {n_items:,} items")
        for name, shape, n in table.itertuples(index=False):
            print(f"  {name:<24} {shape!s:<14} {n:>12,}")
        print(f"  {'total':<24} {'':<14} {table.parameters.sum():>12,}")
        return table

    # --- the passes ------------------------------------------------------------------------------------------

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
        if head is None:
            return self.output
        if head not in self.heads:
            raise ValueError(f"head is {head!r}; it must be one of {list(self.heads)}")
        return head

    def scorer(self, w: Weights, bags: Mapping[str, Bags] | None = None, xp: Any = np) -> Score:
        """Make a function that scores users against all items, in the order of the model's predictions.

        This default predicts every pair; models with a cheaper way override it.

        Parameters
        ----------
        w : dict of arrays
            In host memory.
        bags : mapping of name to Bags, optional
        xp : module
            NumPy or CuPy: where to compute.
        """
        w = {name: xp.asarray(value) for name, value in w.items()}
        n_items = self.sizes_of(w)["item"]
        item = xp.arange(n_items, dtype=np.int32)

        def score(rows: Any, out: Any) -> None:
            for i in range(len(rows)):
                user = xp.full(n_items, int(rows[i]), np.int32)
                out[i] = self.predict(w, Batch(user, item, None, None, bags or {}))

        return score

    # --- what models share -----------------------------------------------------------------------------------

    def _finish(self, s: Array) -> Array:
        """(F4) where a rating range was asked for."""
        return s if self.rating_range is None else ops.rating_range(s, *self.rating_range)

    def _finish_backward(self, d_y: Array, s: Array) -> Array:
        """(B4)"""
        return d_y if self.rating_range is None else ops.rating_range_backward(d_y, s, *self.rating_range)


_ONES: dict[str, int] = {"user": 1, "item": 1}


def check_arguments(model: Any) -> None:
    """Check the arguments that `Dot`, `DotBias` and `Net` share; turn sequences into tuples."""
    object.__setattr__(model, "n_factors", check_int("n_factors", model.n_factors, 1))
    object.__setattr__(model, "init", _check_init(model.init))
    # Python's own float: a NumPy float64 scalar would turn float32 scores into float64.
    object.__setattr__(model, "global_mean", check_number("global_mean", model.global_mean))
    if model.rating_range is not None:
        try:
            low, high = (check_number("rating_range", x) for x in model.rating_range)
            check_number("rating_range", low, high=high)
        except (TypeError, ValueError):
            raise ValueError(
                f"rating_range is {model.rating_range!r}; it must be None or (low, high): "
                "low must be below high, both finite"
            ) from None
        object.__setattr__(model, "rating_range", (low, high))


def _check_init(init: Any) -> Init:
    try:
        kind, first, second = init
        kind = check_choice("init", kind, ("uniform", "normal"))
        first, second = check_number("init", first), check_number("init", second)
    except (TypeError, ValueError):
        raise ValueError(f"init is {init!r}; it must be ('uniform', low, high) or ('normal', mean, std)") from None
    if (kind == "uniform" and first > second) or (kind == "normal" and second < 0):
        raise ValueError(f"init is {init!r}; low must not exceed high, and std must not be negative")
    return kind, first, second
