"""Run the reference program on CuPy arrays, for models and optimizers that have no fused kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicf.backends import base
from minicf.backends.base import Progress
from minicf.models import Model, Weights
from minicf.optim import Optimizer


class Composed(base.Program):
    """Compose a program of the reference's array operations, on the device that is current when it is made."""

    def __init__(self, model: Model, optimizer: Optimizer, weights: Weights, seed: int, dtype: Any) -> None:
        import cupy

        self.xp = cupy
        self._device = cupy.cuda.Device()
        super().__init__(model, optimizer, weights, seed, dtype)

    def train(self, *arguments: Any) -> Progress:
        with self._device:
            return super().train(*arguments)

    def predict(self, *arguments: Any) -> np.ndarray:
        with self._device:
            return super().predict(*arguments)

    def load(self, weights: Weights, state: Weights) -> None:
        with self._device:
            super().load(weights, state)

    def finite(self) -> bool:
        with self._device:
            return super().finite()

    def _masks(self, batch: int) -> Any:
        def move(masks: Any) -> Any:
            if isinstance(masks, dict):
                return {name: move(mask) for name, mask in masks.items()}
            if isinstance(masks, tuple):
                return tuple(move(mask) for mask in masks)
            return None if masks is None else self.xp.asarray(masks)

        return move(super()._masks(batch))
