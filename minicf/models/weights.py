"""What every model has by its list of parameters: shapes, sizes, tables, initial weights, a summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from minicf import rng
from minicf.arguments import check_int
from minicf.ops import Array

Weights = dict[str, Array]
Init = tuple[str, float, float]
"""("uniform", low, high) or ("normal", mean, standard deviation)."""

ONES: dict[str, int] = {"user": 1, "item": 1}
"""The smallest sizes: for questions that do not depend on them."""


class Parameter(NamedTuple):
    """A weight of a model: its shape, the owner of its rows, its initial distribution."""

    shape: tuple[int, ...]
    """At least one dimension: a single number has shape (1,)."""
    rows: str | None = None
    """"user" or "item" for a table with a row for each of them, the name of a bag for a table with a row for each thing
    that such bags hold, None for a dense weight, which every example reads. `Trainer` fills "user_history" and
    "item_history" from the training ratings; "user_features" and "item_features" it is given."""
    init: Init = ("uniform", -0.01, 0.01)


class Parameters:
    """Answer questions about the weights of a model from its method `parameters`."""

    def parameters(self, sizes: Mapping[str, int]) -> dict[str, Parameter]:
        """Return the weights by name, in the order in which they are listed and initialized.

        Parameters
        ----------
        sizes : mapping of str to int
            Number of users ("user"), of items ("item"), and of what each bag chooses from, by its name.
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
        asked = {"user": 1, "item": 1} | dict(sizes or {})
        found: dict[str, int] = {}
        for name, parameter in self.parameters(asked).items():
            if parameter.rows is not None and name in weights and np.ndim(weights[name]):
                found.setdefault(parameter.rows, len(weights[name]))  # the first table decides: the others must fit it
        return asked | found

    @property
    def bags(self) -> tuple[str, ...]:
        """The names of the bags that the model reads."""
        rows = {parameter.rows: None for parameter in self.parameters(ONES).values()}
        return tuple(name for name in rows if name not in (None, "user", "item"))

    def tables(self, side: str) -> list[str]:
        """Return the names of the weights with a row for each user, or item."""
        return [name for name, parameter in self.parameters(ONES).items() if parameter.rows == side]

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

    def summary(self, n_users: int, n_items: int, **bags: int) -> pd.DataFrame:
        """Print and return the table of weights: name, shape, number of parameters.

        Returns
        -------
        DataFrame with columns weight, shape, parameters; the total is ``frame.parameters.sum()``.
        """
        shapes = self.shapes(n_users, n_items, **bags)
        table = pd.DataFrame(
            [(name, shape, math.prod(shape)) for name, shape in shapes.items()],  # Python's ints do not overflow
            columns=["weight", "shape", "parameters"],
        )
        print(f"{self}, {n_users:,} users, {n_items:,} items")
        for name, shape, n in table.itertuples(index=False):
            print(f"  {name:<24} {shape!s:<14} {n:>12,}")
        print(f"  {'total':<24} {'':<14} {table.parameters.sum():>12,}")
        return table
