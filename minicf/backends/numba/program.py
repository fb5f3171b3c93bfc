"""Train and predict in compiled code: a program that hands whole epochs to the kernels."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf import rng
from minicf.backends import base
from minicf.backends.backend import Backend, composes
from minicf.backends.numba import bagged, loss, passes, top
from minicf.backends.numba.adam import TERMS, TOLERANCE, AdamTables, moment_tables
from minicf.backends.numba.als import ALSProgram
from minicf.backends.numba.epoch import Heads, Side, epoch_kernel, predict_kernel, replay_kernel
from minicf.backends.numba.gibbs import GibbsProgram
from minicf.backends.numba.jit import config
from minicf.backends.numba.nets import Nets
from minicf.backends.numba.passes import aligned
from minicf.backends.numba.sgd import SGDTables, power_table, range_table
from minicf.backends.numba.tiles import tile_kernel
from minicf.data.bags import Batch
from minicf.losses import SQUARED_ERROR, Logistic, Loss, SquaredError
from minicf.models import Dot, DotBias, Hybrid, Model, Net, Weights
from minicf.optim import SGD, Adam, Optimizer
from minicf.sides import Sides
from minicf.solvers import ALS, Gibbs, Gradient, Part, Progress, Solver
from minicf.threads import count_threads, one_blas_thread, share
from minicf.tiles import Tiles

log = logging.getLogger("minicf")

LOSSES: dict[type[Loss], Any] = {SquaredError: loss.squared_error, Logistic: loss.logistic}
"""The compiled function of each loss, by type."""


# --- threads --------------------------------------------------------------------------------------------------------

_BLOCK = 8192
"""Ratings between two rounds of replaying: enough for a thread to be worth its start, so few that only few rows have a
rating among them, which one thread replays alone."""

_WORTH_A_THREAD = 8_000_000
"""Weights that a call in tiles reads of one side: below, a thread takes longer to start than it saves."""


# --- the program ----------------------------------------------------------------------------------------------------


def _read_only(array: np.ndarray, dtype: Any) -> np.ndarray:
    """View an array as contiguous and read-only: one signature for the compiler, whatever the caller holds."""
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


def _columns(table: Batch) -> tuple[np.ndarray, ...]:
    """Return users, items, targets and weights for a kernel, which reads no weights where there are none."""
    weight = table.target if table.weight is None else table.weight
    indices, numbers = (table.user, table.item), (table.target, weight)
    return *(_read_only(x, np.int32) for x in indices), *(_read_only(x, np.float32) for x in numbers)


def _parts(model: Any) -> tuple[Dot | None, int, float, list[tuple[str, Net, int, float]]] | None:
    """Split a model into the dot head, its index and weight, and the nets (prefix, net, index, weight).

    None if there is no kernel for it: kernels are made for exactly these types.
    """
    if type(model) in (Dot, DotBias):
        return model, 0, 1.0, []
    if type(model) is Net:
        return None, -1, 0.0, [("", model, 0, 1.0)]
    if type(model) is not Hybrid:
        return None
    dot, place, dot_weight, nets = None, -1, 0.0, []
    for i, (name, (head, weight)) in enumerate(model.members.items()):
        if type(head) is Net:
            nets.append((f"{name}.", head, i, weight))
        elif type(head) in (Dot, DotBias) and dot is None:
            dot, place, dot_weight = head, i, weight
        else:
            return None
    return dot, place, dot_weight, nets  # type: ignore[return-value]


class Program(base.Program):
    """A model and a gradient solver in compiled code. See the top of the package."""

    model: Any

    def allocate(self, weights: Weights) -> None:
        model, solver, parts = self.model, self.solver, _parts(self.model)
        assert parts is not None, "fused() has chosen this program"
        self.n_threads: int = count_threads(self.n_threads)
        # Without a solver, for predictions, the tables have no state, and nothing decays.
        self.optimizer: Optimizer = SGD(0.0) if solver is None else solver.optimizer  # type: ignore[attr-defined]
        self._loss = LOSSES[type(SQUARED_ERROR if solver is None else solver.loss)]
        self._dot, self._dot_index, self._dot_weight, self._net_heads = parts
        self._K = model.n_factors
        self._biases = "user_bias" in weights
        self._lanes = line = 64 // self.dtype.itemsize  # rows begin at a cache line
        self._W = -(-(self._K + 2 * self._biases) // line) * line
        self._SLOTS = 1 + len(self.optimizer.slots())
        sizes = model.sizes_of(weights)
        self._tables = tuple(aligned((sizes[side], self._SLOTS * self._W), self.dtype) for side in ("user", "item"))
        self._last = tuple(np.zeros(len(table), np.int32) for table in self._tables)
        self._slot = tuple(np.full(len(table), -1, np.int32) for table in self._tables)
        self._buffers: tuple[int, Any] = (0, None)
        self._dense_shapes = {name: p.shape for name, p in self.parameters.items() if p.rows is None}
        self._dense_at, n = {}, 0
        for name, shape in self._dense_shapes.items():
            self._dense_at[name] = n
            n += int(np.prod(shape))
        self._dense = np.zeros((3, n if self._dense_shapes else 0), self.dtype)
        # Views: what is composed of NumPy operations works on the same memory as the kernels.
        self.w = self._views(0)
        self.slots = {
            f"{slot}.{name}": view
            for i, slot in enumerate(self.optimizer.slots())
            for name, view in self._views(1 + i).items()
        }
        for name, view in self.w.items():
            view[...] = weights[name]
        self._heads = self._describe_heads()
        self._prepare_decay()
        self._constant: tuple[float, int, Any] | None = None
        self._tiled: tuple[Any, ...] | None = None

    # --- weights ---------------------------------------------------------------------------------------------

    def _views(self, slot: int) -> dict[str, np.ndarray]:
        """View the weights (slot 0) or the optimizer's arrays (1, 2), by the weights' names."""
        at = slot * self._W
        views = {}
        for name, parameter in self.parameters.items():
            if parameter.rows is None:
                start = self._dense_at[name]
                flat = self._dense[slot, start : start + int(np.prod(parameter.shape))]
                views[name] = flat.reshape(parameter.shape)
                continue
            side = 0 if parameter.rows == "user" else 1
            factors = len(parameter.shape) == 2
            columns: Any = slice(at, at + self._K) if factors else at + self._K + side
            views[name] = self._tables[side][:, columns]
        return views

    def _host_views(self) -> Weights:
        return self.w

    def snapshot(self) -> Any:
        return self.t, tuple(table.copy() for table in self._tables), self._dense.copy()

    def restore(self, snapshot: Any) -> None:
        self.t = snapshot[0]
        for table, saved in zip(self._tables, snapshot[1], strict=True):
            table[...] = saved
        self._dense[...] = snapshot[2]

    def finite(self) -> bool:
        return all(bool(np.isfinite(table[:, : self._W]).all()) for table in self._tables) and bool(
            np.isfinite(self._dense[0]).all()
        )

    def penalty(self, optimizer: Optimizer, counts: Mapping[str, np.ndarray]) -> float:
        decay = optimizer.decay_of
        if self._net_heads or optimizer.decay == "decoupled":
            return super().penalty(optimizer, counts)
        total, weighted = 0.0, optimizer.decay == "per_rating"
        for i, side in enumerate(("user", "item")):
            of_factors, of_bias = decay(f"{side}_factors"), decay(f"{side}_bias") if self._biases else 0.0
            if of_factors or of_bias:
                column = self._K + i if self._biases else 0
                factors, bias = passes.squares(self._tables[i], self._K, column, counts[side], weighted)
                part = 0.5 * (of_factors * factors + of_bias * bias)
                total += part / max(int(counts["user"].sum()), 1) if weighted else part
        return total

    # --- arguments of the kernels ----------------------------------------------------------------------------

    def _describe_heads(self) -> Heads:
        """Collect the dot head's options."""
        real = self.dtype.type
        dot = self._dot
        low, high = (dot and dot.rating_range) or (0.0, 1.0)
        return Heads(
            dot is not None,
            self._biases,
            self._K,
            real(dot.global_mean if dot else 0.0),
            dot is not None and dot.rating_range is not None,
            real(low),
            real(high),
            real(self._dot_weight),
            self._dot_index,
        )

    def _prepare_decay(self) -> None:
        """Sort the tables into classes of weight decay: tables of the same lambda share their products."""
        idle = self.optimizer.decay != "per_rating"  # "per_rating" leaves idle rows alone
        names = ["user_factors", "item_factors"] + (["user_bias", "item_bias"] if self._biases else [])
        lambdas = {name: self.optimizer.decay_of(name) if idle else 0.0 for name in names}
        self._classes = sorted(set(lambdas.values()))
        self._class_of = {name: self._classes.index(value) for name, value in lambdas.items()}

    def _nets(self, batch: int) -> Nets:
        """Lay out the dense layers, with buffers for a batch size."""
        optimizer = self.optimizer
        layers: list[tuple[int, ...]] = []
        heads: list[tuple[int, int, int]] = []
        options: list[tuple[float, ...]] = []
        scales: list[float] = []
        x_at = drop_stream = 0
        for prefix, net, place, weight in self._net_heads:
            heads.append((len(layers), len(net.layers()), place))
            low, high = net.rating_range or (0.0, 1.0)
            options.append((net.global_mean, net.rating_range is not None, low, high, weight))
            for (name, n_in, n_out), rate in zip(net.layers(), net.dropout, strict=True):
                at = self._dense_at[f"{prefix}{name}.weight"], self._dense_at[f"{prefix}{name}.bias"]
                layers.append((n_in, n_out, *at, x_at, rng.dropout_threshold(rate), drop_stream))
                scales.append(1.0 / (1.0 - rate))
                x_at += n_in
                drop_stream += 1
            x_at += 1  # the output
        decay = np.zeros(self._dense.shape[1], self.dtype)
        for name, shape in self._dense_shapes.items():
            start = self._dense_at[name]
            decay[start : start + int(np.prod(shape))] = optimizer.decay_of(name)
        kind = 0 if not decay.any() else 2 if optimizer.decay == "decoupled" else 1
        work = [np.zeros(x_at * batch, self.dtype) for _ in range(3)]
        return Nets(
            np.array(layers, np.int64).reshape(-1, 7),
            np.array(heads, np.int64).reshape(-1, 3),
            np.array(options, np.float64).reshape(-1, 5),
            np.array(scales, self.dtype),
            self._dense[0],
            np.zeros_like(self._dense[0]),
            self._dense[1],
            self._dense[2],
            decay,
            kind,
            *work,
        )

    def _sides(self, batch: int) -> tuple[Side, Side, Nets]:
        """Collect the tables, with buffers for a batch size."""
        if self._buffers[0] == batch:
            return self._buffers[1]
        real = self.dtype.type
        per_rating = self.optimizer.decay == "per_rating"
        sides = []
        for i, name in enumerate(("user", "item")):
            table = self._tables[i]
            places = min(batch, len(table))
            shares = [
                real(self.optimizer.decay_of(f"{name}_{part}") if per_rating else 0.0) for part in ("factors", "bias")
            ]
            factors = self._class_of[f"{name}_factors"]
            bias = self._class_of.get(f"{name}_bias", factors)
            column = self._K + i if self._biases else 0
            decay = aligned((2, self._W), self.dtype)
            kind = 1 if self.optimizer.decay == "decoupled" else 0
            decay[kind] = self._classes[factors]
            decay[kind, column] = self._classes[bias]
            sides.append(
                Side(
                    (
                        table,
                        self._last[i],
                        self._slot[i],
                        np.zeros(places, np.int32),
                        np.zeros(places, np.int32),
                        aligned((places, self._W), self.dtype),
                        aligned((places, self._W), self.dtype),
                        np.zeros(batch, np.int32),
                        decay,
                        np.zeros(len(table), np.uint8),
                    ),
                    factors,
                    bias,
                    column,
                    self._K + 1 - i if self._biases else -1,
                    *shares,
                )
            )
        self._buffers = batch, (sides[0], sides[1], self._nets(batch))
        return self._buffers[1]

    def _sgd_tables(self, rates: np.ndarray) -> SGDTables:
        """Fill the products of idle steps for the learning rates of a call."""
        assert isinstance(self.optimizer, SGD)
        mu, nesterov = self.optimizer.momentum, self.optimizer.nesterov
        steps = len(rates)
        decoupled = self.optimizer.decay == "decoupled"
        matrices = np.empty((len(self._classes), steps, 4))
        for i, decay in enumerate(self._classes):
            l2, f = (0.0, 1.0 - rates * decay) if decoupled else (decay, 1.0)
            look = rates * (1.0 + mu) if nesterov else rates
            matrices[i, :, 0] = f - look * l2
            matrices[i, :, 1] = -rates * mu * (mu if nesterov else 1.0)
            matrices[i, :, 2] = l2
            matrices[i, :, 3] = mu
        constant = bool((rates == rates[0]).all())
        if constant:
            if self._constant is None or self._constant[0] != rates[0] or self._constant[1] < steps + 2:
                products = np.empty((len(self._classes), 1, steps + 2, 4), self.dtype)
                for i in range(len(self._classes)):
                    power_table(matrices[i, 0], products[i, 0])
                self._constant = float(rates[0]), steps + 2, products
            products = self._constant[2]
            logs = np.zeros(1, np.uint8)
        else:
            levels = max(1, (steps - 1).bit_length())
            products = np.empty((len(self._classes), levels, steps, 4), self.dtype)
            for i in range(len(self._classes)):
                range_table(matrices[i], products[i])
            logs = np.zeros(1 << levels, np.uint8)
            for level in range(levels):
                logs[1 << level : 2 << level] = level
        real = self.dtype.type
        inject = rates * (1.0 + mu) if nesterov else rates
        with np.errstate(over="ignore"):  # a rate beyond float32: training diverges, which is reported
            inject, rates = inject.astype(self.dtype), rates.astype(self.dtype)
        return SGDTables(products, constant, logs, inject, rates, real(mu), nesterov)

    def _adam_tables(self, rates: np.ndarray) -> AdamTables:
        """Fill the scalars and the sums of idle steps for the learning rates of a call."""
        assert isinstance(self.optimizer, Adam)
        (beta1, beta2), eps, decay = self.optimizer.betas, self.optimizer.eps, self.optimizer.decay
        steps, classes = len(rates), np.array(self._classes)
        l2 = classes if decay == "l2" else np.zeros_like(classes)
        shrink = classes if decay == "decoupled" else np.zeros_like(classes)
        t = np.arange(self.t + 1, self.t + steps + 1, dtype=np.float64)
        correction1, correction2 = (-np.expm1(t * math.log(b)) if b else np.ones_like(t) for b in (beta1, beta2))
        root = np.sqrt(correction2)
        sums = np.zeros((len(classes), steps + 1, TERMS + 1))
        good = np.zeros((len(classes), steps + 1), np.bool_)
        n = np.arange(steps + 2, dtype=np.float64)
        if not self.optimizer.sparse:  # sparse rows are never behind
            for side in ("user", "item"):
                of_side = {i for name, i in self._class_of.items() if self.parameters[name].rows == side}
                if not l2[list(of_side)].any():  # else its rows are replayed
                    for i in of_side:
                        if not good[i].any():  # not yet, for the other side
                            moment_tables(rates, self.t, beta1, beta2, shrink[i], sums[i], good[i], TOLERANCE)
        eps_table = eps / root if self.optimizer.sparse else np.full_like(root, eps)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            fades = np.stack([(beta1 / math.sqrt(beta2)) ** n, beta2 ** (-0.5 * n)] if beta2 else [n, n], axis=1)
        fades[:, 1] = np.minimum(fades[:, 1], 1e50)  # an infinity would make NaN of a factor that has faded to 0
        powers = np.stack([_fading(beta1, n), _fading(beta2, n)], axis=1)
        return AdamTables(
            np.stack([-rates / correction1, 1.0 / root, eps_table, -rates], axis=1).astype(self.dtype),
            np.array([1.0 - beta1, 1.0 - beta2], self.dtype),
            np.concatenate([powers, powers - powers.astype(self.dtype)], axis=1).astype(self.dtype),
            sums,
            fades,
            good,
            eps,
        )

    # --- training and predicting -----------------------------------------------------------------------------

    def steps_per_call(self, batch_size: int) -> int:
        return max(1, min((4 << 20) // batch_size, 1 << 15))

    def run(self, data: Any, part: Part) -> Progress:
        """Run a part as `Gradient.run` does; steps whose momentum moves are composed of NumPy operations."""
        if part.momenta is not None:
            composes("numba", "a momentum that moves")
            return super().run(data, part)
        if isinstance(data, Sides):
            rates = np.repeat(np.broadcast_to(part.rates, part.rows.shape), data.sizes(part.kind, part.rows))
            return self._run_batches(data.table, data.order(part.kind, part.rows), 1, rates)
        if isinstance(data, Tiles):
            if self._tiled is None:
                self._tiled = self._describe_tiles()
            if self._tiled:
                return self._run_rounds(data, part.rows, part.rates)
            rates = np.repeat(np.broadcast_to(part.rates, part.rows.shape), data.sizes(part.rows))
            return self._run_batches(data.table, data.order(part.rows), 1, rates)
        return self._run_batches(data, part.rows, self.solver.batch_size, part.rates)  # type: ignore[union-attr]

    def _run_batches(self, table: Batch, order: np.ndarray, batch_size: int, learning_rates: Any) -> Progress:
        """Take a step for each batch of `order`."""
        total = np.zeros(len(self.model.heads))
        if len(order) == 0:
            return Progress(total, 0, 0)
        batch_size = min(batch_size, len(order))
        steps = -(-len(order) // batch_size)
        rates = np.ascontiguousarray(np.broadcast_to(np.asarray(learning_rates, np.float64), (steps,)))
        data = *_columns(table), table.weight is not None
        order = _read_only(order, np.int32)
        sides = self._sides(batch_size)
        if isinstance(self.optimizer, SGD):
            failed = self._run(data, order, batch_size, sides, self._sgd_tables(rates), True, total)
        elif self.optimizer.sparse or self.optimizer.decay != "l2" or not any(self._classes):
            failed = self._run(data, order, batch_size, sides, self._adam_tables(rates), True, total)
        else:
            failed = self._train_replaying(data, order, batch_size, sides, self._adam_tables(rates), total)
        if failed >= 0:
            return Progress(total, failed * batch_size, failed, float(rates[failed]))
        return Progress(total, len(order), steps)

    def _run(
        self, data: Any, order: np.ndarray, batch_size: int, sides: Any, opt: Any, catch_up: bool, total: np.ndarray
    ) -> int:
        """Take steps in one call of the kernel; return the step that failed, or -1."""
        users, items, nets = sides
        *columns, weighted = data
        kernel = epoch_kernel(self._W, self._SLOTS, bool(self._net_heads), self._loss, weighted)
        seed = np.uint64(self.seed & 0xFFFFFFFFFFFFFFFF)
        with one_blas_thread() if self._net_heads else contextlib.nullcontext():
            failed = _run(
                kernel, *columns, order, batch_size, users, items, self._heads, nets, opt, self.optimizer.sparse,
                catch_up, seed, self.t, total,
            )  # fmt: skip
        self.t += -(-len(order) // batch_size) if failed < 0 else failed
        return failed

    def _train_replaying(
        self, data: Any, order: np.ndarray, batch_size: int, sides: Any, opt: AdamTables, total: np.ndarray
    ) -> int:
        """Train Adam with l2, every row replayed step by step, in blocks of steps of `_BLOCK` ratings.

        A row replays many steps in the fastest cache, where a dense pass would fetch it for each. One thread takes
        the block's steps, while the others replay the rows without a rating in the block; then it joins them.
        After a failed step these rows are further than the others: the weights are of no use then.
        """
        replay, users, items = replay_kernel(self._W), sides[0], sides[1]
        steps = len(opt.scalars)
        failed = -1
        block = max(1, _BLOCK // batch_size)
        for first in range(0, steps, block):
            last = min(first + block, steps)
            part = opt._replace(
                scalars=opt.scalars[first:last],
                sums=np.ascontiguousarray(opt.sums[:, first : last + 1]),
                good=np.ascontiguousarray(opt.good[:, first : last + 1]),
            )
            rows = order[first * batch_size : last * batch_size]
            for side, index in ((users, data[0]), (items, data[1])):
                side.arrays[9][:] = 0
                side.arrays[9][index[rows]] = 1
            shared, own = np.zeros(1, np.int64), np.zeros(1, np.int64)

            def steps_of_block(rows: np.ndarray = rows, part: AdamTables = part, own: np.ndarray = own) -> None:
                nonlocal failed
                failed = self._run(data, rows, batch_size, sides, part, False, total)
                replay(users, items, 1, len(part.scalars) if failed < 0 else failed, part, own)

            def others(part: AdamTables = part, shared: np.ndarray = shared) -> None:
                replay(users, items, 0, len(part.scalars), part, shared)

            share(others, self.n_threads, steps_of_block)
            if failed >= 0:
                return first + failed
        return -1

    def _run_rounds(self, tiles: Tiles, rounds: np.ndarray, learning_rates: Any) -> Progress:
        """Train on rounds of tiles by online SGD, a rate a round. After a failed step the weights are invalid."""
        assert self._tiled
        (*kind, decays, tail), weighted = self._tiled, tiles.weight is not None
        kernel = tile_kernel(*kind, self._loss, weighted)
        heads = self._heads
        n_rounds, n_blocks = len(rounds), tiles.n_blocks
        lr = np.array(np.broadcast_to(np.asarray(learning_rates, self.dtype), (n_rounds,)))
        bounds = tiles.start[rounds]
        n = int(tiles.sizes(rounds).sum())
        losses, shared = np.zeros((n_rounds, n_blocks)), np.zeros(1 + 2 * n_blocks, np.int64)
        arguments = (
            *_columns(tiles.table), bounds, np.asarray(rounds, np.int64), shared, losses, *self._tables, lr,
            decays, tail, heads.mean, heads.low, heads.high,
        )  # fmt: skip
        share(lambda: kernel(*arguments), min(self.n_threads, n_blocks) if n * self._W >= _WORTH_A_THREAD else 1)
        good = np.isfinite(losses).ravel()
        if good.all():
            self.t += n
            return Progress(np.array([float(losses.sum())]), n, n)
        first = int(np.argmin(good))  # the tile that failed; the step within it is not known
        visited = np.cumsum(np.diff(bounds, axis=1).ravel())
        done = int(visited[first - 1]) if first else 0
        return Progress(np.array([float(losses.ravel()[:first].sum())]), done, done, float(lr[first // n_blocks]))

    def _describe_tiles(self) -> tuple[Any, ...]:
        """Return which kernel online SGD (batch size 1) has, its lambdas and `tail`; () if there is no such kernel."""
        opt, K = self.optimizer, self._K
        alone = isinstance(opt, SGD) and not opt.momentum and self._dot is self.model
        # With one rating a step, sparse "l2" is "per_rating"; "decoupled" is not quite.
        names = ("user_factors", "item_factors", "user_bias", "item_bias")
        lambdas = np.array([opt.decay_of(name) for name in names], self.dtype)
        touched_only = opt.decay == "per_rating" or (opt.decay == "l2" and opt.sparse)
        if not alone or (lambdas.any() and not touched_only):
            return ()
        whole = K // self._lanes * self._lanes
        tail = np.zeros((6, self._W - whole), self.dtype)
        for side in range(2):
            decay, other, one = tail[3 * side : 3 * side + 3]
            decay[: K - whole], other[: K - whole] = lambdas[side], 1
            if self._biases:
                decay[K - whole + side], one[K - whole + side] = lambdas[2 + side], 1
        return whole, self._W, self._heads.ranged, lambdas, tail

    def predict(self, batch: Batch, head: str | None = None) -> np.ndarray:
        if self.model.heads.index(self.model.check_head(head)) != self._dot_index:
            return super().predict(batch, head)
        out = np.empty(batch.size, self.dtype)
        predict_kernel(self._K)(
            _read_only(batch.user, np.int32),
            _read_only(batch.item, np.int32),
            self._tables[0],
            self._tables[1],
            self._heads,
            self._K,
            self._K + 1,
            out,
        )
        return out


def _run(kernel: Any, *arguments: Any) -> Any:
    """Call a kernel; log if it was compiled, which takes seconds."""
    if kernel.signatures:
        return kernel(*arguments)
    start = time.perf_counter()
    result = kernel(*arguments)
    if kernel.stats.cache_misses:
        log.info(
            "compiled a kernel, %.1f s with its first call; later processes start from the cache",
            time.perf_counter() - start,
        )
    return result


def _fading(beta: float, n: np.ndarray) -> np.ndarray:
    """Compute beta^n, 0 where it is too small to matter: its product would be denormal, a hundredfold slower."""
    power = beta**n
    power[power < 1e-30] = 0.0
    return power


def fused(model: Model, solver: Solver | None, dtype: np.dtype) -> type[base.Program] | None:
    """Choose the compiled program, for exactly the types that the kernels know; None if there is none."""
    if type(solver) is ALS and type(model) in (Dot, DotBias):
        return ALSProgram
    if type(solver) is Gibbs and type(model) in (Dot, DotBias):
        return GibbsProgram
    if bagged.fused(model, solver):
        return bagged.BaggedProgram
    known = solver is None or (
        type(solver) is Gradient
        and solver.plain
        and type(solver.optimizer) in (SGD, Adam)
        and type(solver.loss) in LOSSES
    )
    return Program if known and _parts(model) is not None else None


def unavailable() -> str | None:
    """Return the reason why this backend cannot run here; None if it can."""
    return "NUMBA_DISABLE_JIT is set, and its kernels must be compiled" if config.DISABLE_JIT else None


BACKEND = Backend("numba", unavailable, fused, uniform=passes.uniform, select=top.select)
compile = BACKEND.compile
