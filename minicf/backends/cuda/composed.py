"""Run the reference program on CuPy arrays, for models, losses and solvers that have no fused kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf.backends import base
from minicf.data.bags import Bags, Batch
from minicf.models import Weights
from minicf.solvers import Part, Progress


class Composed(base.Program):
    """Compose a program of the reference's array operations, on the device that is current when it is made."""

    def allocate(self, weights: Weights) -> None:
        import cupy

        self.xp = cupy
        self._device = cupy.cuda.Device()
        super().allocate(weights)

    def hold(self, bags: Mapping[str, Bags]) -> None:
        with self._device:
            super().hold(bags)

    def run(self, data: Any, part: Part) -> Progress:
        with self._device:
            return super().run(data, part)

    def predict(self, batch: Batch, head: str | None = None) -> np.ndarray:
        with self._device:
            return super().predict(batch, head)

    def load(self, weights: Weights, state: Weights) -> None:
        with self._device:
            super().load(weights, state)

    def finite(self) -> bool:
        with self._device:
            return super().finite()

    def masks(self, batch: int) -> Any:
        return on_device(self.xp, super().masks(batch))


def on_device(xp: Any, masks: Any) -> Any:
    """Copy dropout masks, nested in dicts and tuples, to the device."""
    if isinstance(masks, dict):
        return {name: on_device(xp, mask) for name, mask in masks.items()}
    if isinstance(masks, tuple):
        return tuple(on_device(xp, mask) for mask in masks)
    return None if masks is None else xp.asarray(masks)
