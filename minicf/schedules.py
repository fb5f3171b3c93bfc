"""Learning-rate schedules: a factor on the trainer's `lr`, as a function of the epochs gone by.

A schedule's time t counts epochs (with fractions, for it moves at every step) from the first `fit` that it was
given to. A later `fit` with an equal schedule goes on where the first stopped; one whose horizon is over, or that
was made without one (``epochs=None``: the length of this fit), starts again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minicf.arguments import check_number

_NUDGE = 1e-9
"""In cycles: keeps the first step of a cycle from falling into the cycle before by rounding. Far below one step."""


class Schedule:
    """What every schedule has: `factor`, and the number of epochs after which it is over (None: never)."""

    horizon: float | None = None

    def factor(self, t: np.ndarray) -> np.ndarray:
        """The factor on the learning rate after `t` epochs: array of float -> array of float."""
        raise NotImplementedError

    def _check(self, name: str, **limits: float) -> None:
        """An argument within limits, as a plain number, which files can hold."""
        value = check_number(name, getattr(self, name), **limits)
        if type(getattr(self, name)) is not int:
            object.__setattr__(self, name, value)

    def for_fit(self, epochs: int) -> Schedule:
        """The schedule with a missing length filled in from this fit's."""
        if "epochs" in getattr(self, "__dataclass_fields__", {}) and getattr(self, "epochs", 0) is None:
            return replace(self, epochs=epochs)  # type: ignore[type-var]
        return self


@dataclass(frozen=True)
class Constant(Schedule):
    """The trainer's rate, unchanged."""

    def factor(self, t: np.ndarray) -> np.ndarray:
        return np.ones_like(t, dtype=np.float64)


@dataclass(frozen=True)
class Step(Schedule):
    """Multiply by `gamma` every `every` epochs."""

    every: float = 1.0
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self._check("every", above=0.0)
        self._check("gamma", above=0.0)

    def factor(self, t: np.ndarray) -> np.ndarray:
        return self.gamma ** np.floor(t / self.every + _NUDGE)


@dataclass(frozen=True)
class Exponential(Schedule):
    """Multiply by `gamma` over each epoch, smoothly: gamma^t."""

    gamma: float = 0.9

    def __post_init__(self) -> None:
        self._check("gamma", above=0.0)

    def factor(self, t: np.ndarray) -> np.ndarray:
        return self.gamma ** np.asarray(t, np.float64)


def _half_cosine(x: np.ndarray) -> np.ndarray:
    """From 1 at x = 0 to 0 at x = 1."""
    return 0.5 * (1.0 + np.cos(np.pi * x))


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 to `low` along half a cosine over `epochs` epochs (Loshchilov and Hutter 2017); `low` afterwards."""

    epochs: float | None = None
    low: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs is not None:
            self._check("epochs", above=0.0)
        self._check("low", low=0.0)

    @property
    def horizon(self) -> float | None:  # type: ignore[override]
        return self.epochs

    def factor(self, t: np.ndarray) -> np.ndarray:
        assert self.epochs is not None
        return self.low + (1.0 - self.low) * _half_cosine(np.minimum(t / self.epochs, 1.0))


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Half a cosine from 1 to `low` over `cycle` epochs, again and again, each cycle `mult` times as long."""

    cycle: float = 1.0
    mult: float = 1.0
    low: float = 0.0

    def __post_init__(self) -> None:
        self._check("cycle", above=0.0)
        self._check("mult", low=1.0)
        self._check("low", low=0.0)

    def factor(self, t: np.ndarray) -> np.ndarray:
        t = np.asarray(t, np.float64)
        # Cycle n starts at cycle * (1 + mult + … + mult^(n-1)).
        if self.mult == 1:
            length = np.full_like(t, self.cycle)
            start = np.floor(t / self.cycle + _NUDGE) * self.cycle
        else:
            n = np.floor(np.log1p(t * (self.mult - 1) / self.cycle) / np.log(self.mult) + _NUDGE)
            start = self.cycle * (self.mult**n - 1) / (self.mult - 1)
            length = self.cycle * self.mult**n
        return self.low + (1.0 - self.low) * _half_cosine(np.clip((t - start) / length, 0.0, 1.0))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from `start` to 1 in the first `up` of the epochs, then down to `end`, both along cosines (Smith 2018)."""

    epochs: float | None = None
    up: float = 0.25
    start: float = 0.04
    end: float = 1e-4

    def __post_init__(self) -> None:
        if self.epochs is not None:
            self._check("epochs", above=0.0)
        self._check("up", above=0.0, high=1.0)
        self._check("start", low=0.0)
        self._check("end", low=0.0)

    @property
    def horizon(self) -> float | None:  # type: ignore[override]
        return self.epochs

    def factor(self, t: np.ndarray) -> np.ndarray:
        assert self.epochs is not None
        x = np.minimum(t / self.epochs, 1.0)
        rise = 1.0 + (self.start - 1.0) * _half_cosine(np.minimum(x / self.up, 1.0))
        fall = self.end + (1.0 - self.end) * _half_cosine(np.maximum(x - self.up, 0.0) / (1.0 - self.up))
        return np.where(x < self.up, rise, fall)


KINDS: dict[str, type[Schedule]] = {
    kind.__name__: kind for kind in (Constant, Step, Exponential, Cosine, CosineRestarts, OneCycle)
}


def from_config(config: dict[str, Any]) -> Schedule:
    """The schedule that ``{"kind": name, **arguments}`` describes."""
    config = dict(config)
    kind = config.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"unknown schedule {kind!r}; known are {sorted(KINDS)}")
    return KINDS[kind](**config)
