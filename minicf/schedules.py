"""Learning-rate schedules: a factor on the trainer's `lr`, as a function of the number of epochs.

The time t of a schedule counts epochs (with fractions, for it moves at every step) from the first `fit` that it was
given to. A later `fit` with an equal schedule goes on where the first stopped; one whose horizon is over, or that
was made without one (``epochs=None``: the length of this fit), starts again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from minicf.arguments import check_number
from minicf.registry import register

_NUDGE = 1e-9
"""In cycles: keeps the first step of a cycle from falling into the cycle before by rounding. Far below one step."""


class Schedule:
    """The contract of a schedule: `factor`, and the number of epochs after which it is over (None: never)."""

    horizon: float | None = None

    def factor(self, t: np.ndarray) -> np.ndarray:
        """Return the factor on the learning rate after `t` epochs: array of float -> array of float."""
        raise NotImplementedError

    def _check(self, name: str, **limits: float) -> None:
        """Check an argument against limits; keep it as a plain number, which files can hold."""
        value = check_number(name, getattr(self, name), **limits)
        if type(getattr(self, name)) is not int:
            object.__setattr__(self, name, value)

    def for_fit(self, epochs: float) -> Schedule:
        """Return the schedule with a missing length filled in from this fit's."""
        if "epochs" in getattr(self, "__dataclass_fields__", {}) and getattr(self, "epochs", 0) is None:
            return replace(self, epochs=epochs)  # type: ignore[type-var]
        return self


@register
@dataclass(frozen=True)
class Constant(Schedule):
    """Keep the trainer's rate unchanged."""

    def factor(self, t: np.ndarray) -> np.ndarray:
        return np.ones_like(t, dtype=np.float64)


@register
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


@register
@dataclass(frozen=True)
class Exponential(Schedule):
    """Multiply by `gamma` over each epoch, smoothly: gamma^t."""

    gamma: float = 0.9

    def __post_init__(self) -> None:
        self._check("gamma", above=0.0)

    def factor(self, t: np.ndarray) -> np.ndarray:
        return self.gamma ** np.asarray(t, np.float64)


def _half_cosine(x: np.ndarray) -> np.ndarray:
    """Fall from 1 at x = 0 to 0 at x = 1."""
    return 0.5 * (1.0 + np.cos(np.pi * x))


@register
@dataclass(frozen=True)
class Cosine(Schedule):
    """Fall from 1 to `low` along half a cosine over `epochs` epochs (Loshchilov and Hutter 2017), and stay there."""

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


@register
@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Fall from 1 to `low` along half a cosine over `cycle` epochs, again and again, each `mult` times as long."""

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


@register
@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rise from `start` to 1 in the first `up` of the epochs, then fall to `end`, along cosines (Smith 2018)."""

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


def _increasing(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """Return times, which must be above 0 and each later than the last."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(f"{name} is {values!r}; it must be a sequence of numbers of epochs")
    times = tuple(check_number(f"{name}[{i}]", x, above=0.0) for i, x in enumerate(values))
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise ValueError(f"{name} is {values!r}; each time must be later than the one before")
    return times


@register
@dataclass(frozen=True)
class Linear(Schedule):
    """Go from `start` to `end` in a straight line over `epochs` epochs, and stay there."""

    start: float = 1.0
    end: float = 0.0
    epochs: float | None = None

    def __post_init__(self) -> None:
        self._check("start", low=0.0)
        self._check("end", low=0.0)
        if self.epochs is not None:
            self._check("epochs", above=0.0)

    @property
    def horizon(self) -> float | None:  # type: ignore[override]
        return self.epochs

    def factor(self, t: np.ndarray) -> np.ndarray:
        assert self.epochs is not None
        return self.start + (self.end - self.start) * np.minimum(np.asarray(t, np.float64) / self.epochs, 1.0)


@register
@dataclass(frozen=True)
class Piecewise(Schedule):
    """Take `factors[0]` until `at[0]` epochs are over, then `factors[1]` until `at[1]`, ….

    There is one factor more than times.
    """

    at: Sequence[float]
    factors: Sequence[float]

    def __post_init__(self) -> None:
        at, factors = _increasing("at", self.at), self.factors
        if isinstance(factors, str) or not isinstance(factors, Sequence) or len(factors) != len(at) + 1:
            raise ValueError(f"factors is {factors!r}; it must be {len(at) + 1} numbers, one more than at has")
        object.__setattr__(self, "at", at)
        values = tuple(check_number(f"factors[{i}]", x, 0.0) for i, x in enumerate(factors))
        object.__setattr__(self, "factors", values)

    def factor(self, t: np.ndarray) -> np.ndarray:
        return np.array(self.factors)[np.searchsorted(self.at, np.asarray(t) + _NUDGE, side="right")]


@register
@dataclass(frozen=True)
class Chain(Schedule):
    """Follow `parts[0]` until `at[0]` epochs are over, then `parts[1]` from its beginning until `at[1]`, ….

    A part without a length gets that of its stretch; the last one ends with the fit.
    """

    parts: Sequence[Schedule]
    at: Sequence[float]

    def __post_init__(self) -> None:
        at, parts = _increasing("at", self.at), tuple(self.parts)
        if len(parts) != len(at) + 1 or not all(isinstance(part, Schedule) for part in parts):
            raise ValueError(f"parts is {self.parts!r}; it must be {len(at) + 1} schedules, one more than at has")
        object.__setattr__(self, "at", at)
        starts = (0.0, *at)
        object.__setattr__(self, "parts", tuple(
            part.for_fit(end - start) for part, start, end in zip(parts, starts, at, strict=False)
        ) + parts[-1:])  # fmt: skip

    @property
    def horizon(self) -> float | None:  # type: ignore[override]
        last = self.parts[-1].horizon
        return None if last is None else (0.0, *self.at)[-1] + last

    def for_fit(self, epochs: float) -> Schedule:
        start = self.at[-1] if self.at else 0.0
        last = self.parts[-1].for_fit(epochs - start) if epochs > start else self.parts[-1]
        if last is self.parts[-1]:
            if last.for_fit(1) is not last:
                raise ValueError(
                    f"epochs is {epochs}; it must be above {start:g}, where the last part of {self} begins"
                )
            return self
        return replace(self, parts=(*self.parts[:-1], last))

    def factor(self, t: np.ndarray) -> np.ndarray:
        t = np.asarray(t, np.float64)
        place = np.searchsorted(self.at, t + _NUDGE, side="right")
        out = np.empty(t.shape)
        for i, (part, start) in enumerate(zip(self.parts, (0.0, *self.at), strict=True)):
            here = place == i
            out[here] = part.factor(np.maximum(t[here] - start, 0.0))
        return out


@register
@dataclass(frozen=True)
class WarmUp(Schedule):
    """Rise in a straight line from `start` to 1 over `epochs` epochs; then follow `then` from its beginning.

    It stands for ``Chain((Linear(start, 1, epochs), then), at=(epochs,))``.
    """

    then: Schedule = Constant()
    epochs: float = 1.0
    start: float = 0.1

    def __post_init__(self) -> None:
        self._check("epochs", above=0.0)
        self._check("start", low=0.0)
        if not isinstance(self.then, Schedule):
            raise ValueError(f"then is {self.then!r}; it must be a Schedule such as Cosine()")

    @property
    def _chain(self) -> Chain:
        return Chain((Linear(self.start, 1.0, self.epochs), self.then), (self.epochs,))

    @property
    def horizon(self) -> float | None:  # type: ignore[override]
        return self._chain.horizon

    def for_fit(self, epochs: float) -> Schedule:
        then = self._chain.for_fit(epochs).parts[-1]  # type: ignore[attr-defined]
        return self if then is self.then else replace(self, then=then)

    def factor(self, t: np.ndarray) -> np.ndarray:
        return self._chain.factor(t)


@dataclass
class Pace:
    """Give the learning rate of every step: a rate, and the schedule that moves it.

    Parameters
    ----------
    lr : float
        The learning rate before the schedule.
    schedule : Schedule, optional
    epochs : int
        How many epochs of the schedule are over.
    """

    lr: float
    schedule: Schedule | None = None
    epochs: int = 0

    def rates(self, first: int, last: int, steps: int) -> np.ndarray | float:
        """Return the rates of steps first … last-1 of an epoch of `steps`: one for all where no schedule moves it."""
        if self.schedule is None:
            return self.lr
        return self.lr * self.schedule.factor(self.epochs + np.arange(first, last) / steps)

    def follow(self, schedule: Schedule | None, epochs: int) -> None:
        """Take up the schedule of a fit of some epochs: where an equal one stands, or from its beginning."""
        if schedule is None:
            self.schedule, self.epochs = None, 0
            return
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule is {schedule!r}; it must be a Schedule such as Cosine()")
        full = schedule.for_fit(epochs)
        over = full.horizon is not None and self.epochs >= full.horizon
        if full is not schedule or self.schedule != full or over:
            self.schedule, self.epochs = full, 0
