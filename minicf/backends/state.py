"""Weights and solver's state of a program: copies of them, snapshots, going back."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicf.models import Weights
from minicf.ops import namespace


class State:
    """Hold weights and a solver's state as dicts of arrays of `xp`.

    Attributes
    ----------
    w, slots : dict of arrays
        Weights by name, and what the solver keeps beside them.
    t : int
        The number of updates so far.
    """

    xp: Any = np
    dtype: np.dtype
    w: Weights
    slots: Weights
    t: int

    def weights(self) -> dict[str, np.ndarray]:
        """Return copies of the weights in host memory."""
        return {name: self._host(w, copy=True) for name, w in self.w.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of the solver's arrays in host memory, named ``slot.weight``, and its counter, ``step``."""
        state = {name: self._host(s, copy=True) for name, s in self.slots.items()}
        return {"step": np.array(self.t, np.int64), **state}

    def load(self, weights: Weights, state: Weights) -> None:
        """Take over weights and state as `weights` and `state` gave them."""
        arrays = [(name, w, weights[name]) for name, w in self.w.items()]
        arrays += [(name, s, state[name]) for name, s in self.slots.items()]
        check_shapes(arrays)
        self.t = int(state["step"])
        for _, own, given in arrays:
            own[...] = namespace(own).asarray(given, dtype=own.dtype)

    def snapshot(self) -> Any:
        """Return a copy of weights and state for `restore`, kept where the program finds it cheapest.

        Without a chain's samples, most of its memory: later ones are not read before they are drawn again.
        """
        kept = {name: self._host(s, copy=True) for name, s in self.slots.items() if not name.startswith("sample")}
        return self.weights(), {"step": np.array(self.t, np.int64), **kept}

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        weights, state = snapshot
        self.load(weights, {**self.slots, **state})

    def finite(self) -> bool:
        """Return whether every weight is a finite number."""
        return all(bool(self.xp.isfinite(w).all()) for w in self.w.values())

    @staticmethod
    def _host(array: Any, copy: bool = False) -> np.ndarray:
        if namespace(array) is np:
            return array.copy() if copy else array
        return array.get()


def check_shapes(arrays: list[tuple[str, Any, Any]]) -> None:
    """Check the shapes of (name, own, given) before any is assigned: an assignment would broadcast a wrong one."""
    for name, own, given in arrays:
        if own.shape != np.shape(given):
            raise ValueError(f"{name!r} has shape {np.shape(given)}; it must be {own.shape}")
