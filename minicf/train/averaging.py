"""Average the weights of several epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minicf import files
from minicf.arguments import check_int, check_number
from minicf.train.callbacks import Callback, Row, State, _copy, _equal
from minicf.train.restored import check_state

if TYPE_CHECKING:
    from minicf.train.trainer import Trainer


class WeightAverage(Callback):
    """Average the weights at the ends of epochs; leave the average, whatever ended training.

    Parameters
    ----------
    decay : float, optional
        d in (M2), in [0, 1); by default the plain mean (M1).
    start : int
        The first epoch that counts, from 1, over all calls of `fit`.

    Attributes
    ----------
    n : int
        The number of epochs in the average.

    Notes
    -----
    With w_n the weights after the n-th epoch from `start` on, and a_1 = w_1:

    (M1) a_n = a_(n-1) + (w_n - a_(n-1)) / n, the mean: stochastic weight averaging (Izmailov et al. 2018; with a
    constant rate, or one that restarts).
    (M2) a_n = d a_(n-1) + (1 - d) w_n, an exponential moving average (Polyak and Juditsky 1992).

    These are torch.optim.swa_utils.AveragedModel's. Averages are kept in float64. The history, and callbacks that watch
    it, go by the weights of training, not by the average. At the end of a `fit` the trainer holds the average; a
    further `fit` with the same object goes on from where training stood, so that `fit(10)` equals `fit(5)` and
    `fit(5)`. When the trainer no longer holds the average (another trainer, a fit without this object), it starts anew.
    Beside `EarlyStopping` the weights of the one that is first in the list are left.
    """

    for_chains = False

    def __init__(self, decay: float | None = None, start: int = 1) -> None:
        self.decay = None if decay is None else check_number("decay", decay, 0.0, 1.0)
        self.start = check_int("start", start, 1)
        self._reset()

    def _reset(self) -> None:
        self.n = 0
        self._average: dict[str, np.ndarray] = {}
        self._latest: Any = None  # where training stood, while the trainer holds the average

    def on_fit_begin(self, trainer: Trainer) -> None:
        if self._latest is None:
            if self.n:
                check_state(self._average, trainer.weights)
            return
        now = _copy(trainer)
        average = {name: a.astype(now[0][name].dtype) for name, a in self._average.items() if name in now[0]}
        if _equal(now, (average, self._latest[1])):
            trainer.program.load(*self._latest)
            self._latest = None
        else:
            self._reset()

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        if row["epoch"] < self.start:
            return
        self.n += 1
        share = 1.0 if self.n == 1 else 1.0 / self.n if self.decay is None else 1.0 - self.decay
        for name, w in trainer.weights.items():
            a = self._average.get(name, np.zeros(w.shape))
            self._average[name] = a + share * (w - a)  # (M1), (M2)

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.n:
            self._latest = _copy(trainer)
            trainer.program.load(self._average, self._latest[1])

    def state(self) -> State:
        arrays = {f"average.{name}": value for name, value in self._average.items()}
        if self._latest is not None:
            for part, values in zip(("weights", "state"), self._latest, strict=True):
                arrays |= {f"latest.{part}.{name}": value for name, value in values.items()}
        return {"n": self.n}, arrays

    def held(self) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Return the pairs of weights and state that it holds."""
        return [] if self._latest is None else [self._latest, (self._average, self._latest[1])]

    def load_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._reset()
        self.n, self._average = check_int("n", header["n"], 0), files.section(arrays, "average")
        if bool(self.n) != bool(self._average):
            raise ValueError(f"n is {self.n}, beside {len(self._average)} arrays of averages")
        latest = files.section(arrays, "latest")
        if latest:
            self._latest = files.section(latest, "weights"), files.section(latest, "state")
