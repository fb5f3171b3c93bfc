"""Train `SVDpp` in compiled code, in the order of `minicf.sides`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf.backends import base
from minicf.backends.backend import composes
from minicf.backends.numba.bags import Entries, Rows, add_kernel, sides_kernel
from minicf.backends.numba.loss import logistic, squared_error
from minicf.backends.numba.passes import aligned
from minicf.data.bags import BAGS, Bags, Batch
from minicf.losses import Logistic, SquaredError
from minicf.models import Model, SVDpp, Weights
from minicf.optim import SGD
from minicf.sides import SIDES, Sides
from minicf.solvers import Gradient, Part, Progress, Solver

LOSSES: dict[type[Any], Any] = {SquaredError: squared_error, Logistic: logistic}


class BaggedProgram(base.Program):
    """`SVDpp` with plain SGD: epochs of "sides" and predictions in compiled code, other orders composed."""

    model: SVDpp
    solver: Gradient

    def allocate(self, weights: Weights) -> None:
        line = 64 // self.dtype.itemsize
        self._W = -(-self.model.n_factors // line) * line
        self._tables: dict[str, Rows] = {}
        self.w = {}
        for name in [*SIDES, *self.model.bags]:
            factors = aligned((len(weights[f"{name}_factors"]), self._W), self.dtype)
            self._tables[name] = Rows(factors, np.zeros(len(factors), self.dtype))
        for name in self.parameters:
            owner, _, kind = name.rpartition("_")
            table = self._tables[owner]
            self.w[name] = table.bias if kind == "bias" else table.factors[:, : self.model.n_factors]
            self.w[name][...] = weights[name]
        self.slots = {}
        self._entries: dict[str, list[Entries]] = {side: [] for side in SIDES}
        self._kept: dict[str, Rows] = {}

    def hold(self, bags: Mapping[str, Bags]) -> None:
        super().hold(bags)
        self._entries, self._kept = {side: [] for side in SIDES}, {}
        for name, one in self.bags.items():
            value = _read_only(one.weights(self.dtype))
            self._entries[BAGS[name]].append(
                Entries(_read_only(one.start), _read_only(one.index), value, *self._tables[name])
            )

    def load(self, weights: Weights, state: Weights) -> None:
        super().load(weights, state)
        self._kept = {}

    def _host_views(self) -> Weights:
        return self.w

    def _sums(self, side: str) -> Rows:
        """Return F Y of a side (F15), kept until its tables change."""
        if side not in self._kept:
            n = len(self._tables[side].bias)
            found = self._kept[side] = Rows(aligned((n, self._W), self.dtype), np.zeros(n, self.dtype))
            for one in self._entries[side]:
                add_kernel(self._W, one, found)
        return self._kept[side]

    def run(self, data: Any, part: Part) -> Progress:
        """Run a part as `Gradient.run` does. After a failed step the weights are invalid."""
        if not isinstance(data, Sides) or part.momenta is not None or not set(self.model.bags) <= set(self.bags):
            composes("numba", f"{self.model} but with shuffle='sides'")
            self._kept = {}
            return super().run(data, part)
        side, other = (part.kind, "item" if part.kind == "user" else "user")
        bags = self._entries[side]
        owned, n_bags = data.owned[side], len(bags)
        nothing = (
            _read_only(np.zeros(0, np.int64)),
            _read_only(np.zeros(0, np.int32)),
            _read_only(np.zeros(0, self.dtype)),
        )
        one, two = (bags + 2 * [Entries(*nothing, *self._tables[side])])[:2]
        names = [side, other, *(name for name in self.model.bags if BAGS[name] == side)]
        weights = [f"{name}_{kind}" for name in names for kind in ("factors", "bias")]
        factors, decay = np.zeros((2, 8), self.dtype)
        for c, name in enumerate(weights):
            if name in self.w:
                factors[c] = (self.solver.lr_factors or {}).get(name, 1.0)
                decay[c] = self.solver.optimizer.decay_of(name)
        low, high = self.model.rating_range or (0.0, 1.0)
        real = self.dtype.type
        rates = np.array(np.broadcast_to(np.asarray(part.rates, self.dtype), (len(part.rows),)))
        totals = np.zeros(len(part.rows))
        train = sides_kernel(
            self._W,
            n_bags,
            self.model.rating_range is not None,
            LOSSES[type(self.solver.loss)],
            data.weight is not None,
        )
        weight = owned.target if owned.weight is None else owned.weight
        train(
            _read_only(np.asarray(part.rows, np.int32)), *map(_read_only, (owned.start, owned.other, owned.target)),
            _read_only(weight), self._tables[side], self._tables[other], self._sums(other), one, two, rates, factors,
            decay, real(self.model.global_mean), real(low), real(high), aligned((5, self._W), self.dtype), totals,
        )  # fmt: skip
        self._kept.pop(side, None)
        sizes = data.sizes(side, part.rows)
        good = np.isfinite(totals)
        done = len(good) if good.all() else int(np.argmin(good))  # the row that failed; the step in it is not known
        n = int(sizes[:done].sum())
        self.t += n
        failed = None if good.all() else float(rates[done])
        return Progress(np.array([float(totals[:done].sum())]), n, n, failed)

    def predict(self, batch: Batch, head: str | None = None) -> np.ndarray:
        if batch.bags or not set(self.model.bags) <= set(self.bags):
            return super().predict(batch, head)
        self.model.check_head(head)
        whole = {}
        for side in SIDES:
            own, sums = self._tables[side], self._sums(side)
            whole[f"{side}_factors"] = own.factors + sums.factors
            whole[f"{side}_bias"] = own.bias + sums.bias
        out, model = np.empty(batch.size, self.dtype), self.model.collapsed_model
        for start in range(0, batch.size, 1 << 16):  # bounds the memory
            part = slice(start, start + (1 << 16))
            out[part] = model.predict(whole, Batch(batch.user[part], batch.item[part]))
        return out


def _read_only(array: np.ndarray) -> np.ndarray:
    """View an array as contiguous and read-only: one signature for the compiler, whatever the caller holds."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def fused(model: Model, solver: Solver | None) -> bool:
    """Return whether `BaggedProgram` trains a model by a solver: these types exactly, no momentum, no clipping."""
    if type(model) is not SVDpp:
        return False
    if solver is None:
        return True
    if type(solver) is not Gradient or type(solver.optimizer) is not SGD or type(solver.loss) not in LOSSES:
        return False
    if solver.loss.negatives:
        return False
    opt = solver.optimizer
    # With one rating a step, sparse "l2" is "per_rating"; "decoupled" is not quite.
    touched_only = opt.decay == "per_rating" or (opt.decay == "l2" and opt.sparse) or not _decays(opt)
    return touched_only and not opt.momentum and solver.clip_value is None and solver.clip_norm is None


def _decays(optimizer: SGD) -> bool:
    decay = optimizer.weight_decay
    return any(decay.values()) if isinstance(decay, Mapping) else bool(decay)
