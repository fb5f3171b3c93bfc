"""Train Dot and DotBias with any optimizer: rows of tables, sorted ratings, small and large batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from minicf import rng
from minicf.backends import base
from minicf.backends.backend import composes
from minicf.backends.cuda import device
from minicf.backends.cuda.composed import on_device
from minicf.backends.cuda.device import Kernels, log, make_struct
from minicf.data.bags import Batch
from minicf.losses import SQUARED_ERROR
from minicf.models import Weights
from minicf.optim import SGD, Adam, Optimizer
from minicf.sides import Sides
from minicf.solvers import Part, Progress
from minicf.tiles import Tiles as TiledRatings

PLAN = np.dtype([(name, "i4") for name in ("n", "batch", "steps", "users", "rows", "parts", "by_side", "bits")])
"""`Plan` of plan.cuh."""


class Plan:
    """Hold the device buffers for calls of one size: sorted segments, learning rates, losses. Each call refills them.

    Parameters
    ----------
    program : Tables
    n : int
        Number of ratings of a call.
    batch : int
        Batch size.
    """

    def __init__(self, program: Tables, n: int, batch: int) -> None:
        xp, kernels = program.xp, program.kernels
        self.n, self.batch, self.steps = n, batch, -(-n // batch)
        self.small = batch <= device.SMALL_BATCH and kernels.cooperative and program.fusable
        self.blocks = kernels.processors
        self.parts = self.blocks if self.small else 2
        rows = program.n_users + program.n_items
        self.struct = make_struct(PLAN, {
            "n": n, "batch": batch, "steps": self.steps, "users": program.n_users, "rows": rows,
            "parts": self.parts, "by_side": not self.small, "bits": max(batch - 1, 0).bit_length(),
        })  # fmt: skip
        setup = program.setup.copy()
        self.levels = max(self.steps - 1, 1).bit_length()
        setup["levels"] = self.levels

        def ints(count: int) -> Any:
            return xp.empty(count, np.int32)

        self.order = ints(n)
        self.keys, self.heads, self.ordinal = xp.empty(2 * n, np.uint64), ints(2 * n), ints(2 * n)
        self.begin, self.row_of, self.next = ints(2 * n + 1), ints(2 * n), ints(2 * n)
        self.place, self.partner, self.slot = ints(2 * n), ints(2 * n), ints(2 * n)
        self.fresh = xp.empty(2 * n, np.uint8)
        self.stars = xp.empty(2 * n, program.dtype)
        self.first = ints(self.steps * (self.parts + 1))
        self.rates = xp.empty((self.steps, 4), program.dtype)
        self.linear = not isinstance(program.optimizer, Adam) and not program.sparse
        self.stamps = ints(rows)
        heads = len(program.model.heads)
        self.losses = xp.empty(heads * n, program.dtype)
        self.sums = xp.empty(heads * self.steps, np.float64)
        self.result = xp.empty(heads + 1, np.float64)
        if self.small:
            self.exchange = xp.empty((2, 2 * batch, program.stride), program.dtype)
            self.barrier = xp.zeros(1, np.uint32)
            per = -(-rows // self.blocks)
            scratch = program.scratch(4)
            rows_bytes = per * (program.n_slots * program.stride * program.dtype.itemsize + 4)
            self.resident = program.resident and scratch + rows_bytes <= kernels.shared_limit
            self.shared = scratch + rows_bytes * self.resident
            if program.adam and not program.sparse:
                setup["sweep"] = 1 if self.resident else device.SWEEP if program.l2 else 0
        else:
            self.resident = False
            self.before = xp.empty((batch, program.stride), program.dtype)
            self.d_s = xp.empty(batch, program.dtype)
        if program.nets:
            self.tape = xp.empty(batch * program.tape_width, program.dtype)
            self.d_rows = xp.empty((batch, 2, program.stride), program.dtype)
            self.t = xp.empty(1, np.uint64)
            self.ones = xp.ones((1, batch), program.dtype)
        # For the catch-up of untouched rows: products of matrices for SGD, moments for Adam.
        self.fades = program.fades and not self.resident
        idle = 4 * 4 * self.levels * self.steps if self.linear else 1
        if self.fades:
            setup["expand"] = device.EXPANSION[program.dtype.itemsize]
            idle = (8 * program.tables + 4) * (self.steps + 1)
            self.scalars = xp.empty((self.steps, 4), np.float64)
        self.idle = xp.empty(idle, np.float64)
        self.setup = setup
        self.graph: Any = None
        self.captured: tuple[Any, ...] = ()
        self.calls = 0

    def fill(self, program: Tables, user: Any, item: Any, rating: Any, order: Any) -> None:
        """Sort the call's ratings into segments; plan.cuh explains the arrays."""
        k, p, n = program.kernels, self.struct, 2 * self.n
        k.over("plan_keys", n, (p, order, user, item, self.keys))
        self.keys.sort()
        k.over("plan_heads", n, (p, self.keys, self.heads))
        program.xp.cumsum(self.heads, dtype=np.int32, out=self.ordinal)
        k.over("plan_segments", n, (p, self.keys, self.ordinal, order, rating, self.begin, self.row_of, self.place,
                                    self.stars, self.slot))  # fmt: skip
        k.over("plan_links", n, (p, self.keys, self.ordinal, self.row_of, self.place, self.slot, self.partner,
                                 self.next, self.fresh))  # fmt: skip
        k.over("plan_first", len(self.first), (p, self.keys, self.ordinal, self.first))


class Tables(base.Program):
    """Run Dot and DotBias with any optimizer in fused kernels.

    Parameters
    ----------
    model : Dot or DotBias
    solver : Gradient with SGD or Adam, or None
    weights, seed, dtype
        As for `base.Program`.
    """

    nets = False
    fusable = True
    tape_width = 0
    resident = True  # keep rows in shared memory where they fit

    model: Any

    def allocate(self, weights: Weights) -> None:
        import cupy

        self.xp = cupy
        self._device = cupy.cuda.Device()
        model, optimizer = self.model, getattr(self.solver, "optimizer", None)
        self.optimizer: Optimizer | None = optimizer
        self.sparse = optimizer is not None and optimizer.sparse
        self.n_users, self.n_items = len(weights["user_factors"]), len(weights["item_factors"])
        self.adam = isinstance(optimizer, Adam)
        self.biases = "user_bias" in weights
        self.n_factors: int = model.n_factors
        columns = self.n_factors + self.biases
        self.stride, self.n_slots = -(-columns // 4) * 4, 1 + len(self._slot_names)
        decays = [self._decay_of(name) if name in weights else 0.0
                  for name in ("user_factors", "item_factors", "user_bias", "item_bias")]  # fmt: skip
        decay = optimizer.decay if optimizer is not None and any(map(self._decay_of, weights)) else None
        self.l2 = decay == "l2" and any(decays)
        # Adam without l2: moments of untouched rows only fade, and (C3) … (C5) sum up the steps, unless a beta is 0.
        self.fades = isinstance(optimizer, Adam) and not optimizer.sparse and not self.l2 and all(optimizer.betas)
        self.tables = 4 if decay == "decoupled" else 1
        rating_range = getattr(model, "rating_range", None)  # a hybrid's heads have their own
        low, high = rating_range or (0.0, 0.0)
        loss = SQUARED_ERROR if self.solver is None else self.solver.loss
        values = {
            "mean": getattr(model, "global_mean", 0.0), "low": low, "high": high, "decay": decays,
            "decay_kind": device.DECAYS[decay], "loss": device.LOSSES[type(loss)],
            "sparse": self.sparse,
            "range": rating_range is not None, "users": self.n_users, "items": self.n_items,
            "factors": model.n_factors, "bias_column": model.n_factors if self.biases else -1, "stride": self.stride,
            "slots": self.n_slots,
        }  # fmt: skip
        if isinstance(optimizer, Adam):
            beta1, beta2 = optimizer.betas
            values |= {"kind": device.KINDS["ADAM"], "beta1": beta1, "beta2": beta2, "eps": optimizer.eps,
                       "fading": beta1 * beta1 < beta2}  # fmt: skip
        elif isinstance(optimizer, SGD):
            kind = device.KINDS["MOMENTUM" if optimizer.momentum else "SGD"]
            values |= {"kind": kind, "momentum": optimizer.momentum, "nesterov": optimizer.nesterov}
        self.setup = make_struct(device.SETUP, values)
        self.table = cupy.zeros((self.n_users + self.n_items, self.n_slots, self.stride), self.dtype)
        self.kernels = Kernels(device.options(self.setup, self.dtype, device.THREADS, self.nets))
        self._plans: dict[tuple[int, int], Plan] = {}
        self._uploaded: tuple[Any, Any] = ((), ())
        self._version = 0
        self._snapshot: Any = None
        self._prepare_heads()
        self._assign(0, weights)

    @property
    def _slot_names(self) -> tuple[str, ...]:
        return () if self.optimizer is None else self.optimizer.slots()

    def _decay_of(self, name: str) -> float:
        return 0.0 if self.optimizer is None else self.optimizer.decay_of(name)

    def _prepare_heads(self) -> None:
        """Prepare what subclasses have besides the table of rows."""

    def scratch(self, rows: int) -> int:
        """Compute the bytes of shared memory besides resident rows; `rows` is the number of row vectors per rating."""
        return 0

    # --- weights and state -------------------------------------------------------------------------------------------

    def _view(self, slot: int, name: str) -> Any:
        """View a weight (slot 0) or one of the optimizer's arrays for it (slots 1, 2) in the table of rows."""
        parameter, k = self.parameters[name], self.n_factors
        rows = slice(None, self.n_users) if parameter.rows == "user" else slice(self.n_users, None)
        return self.table[rows, slot, :k] if len(parameter.shape) == 2 else self.table[rows, slot, k]

    @property
    def w(self) -> Weights:  # type: ignore[override]
        """The weights as views of the table of rows."""
        return {name: self._view(0, name) for name in self.parameters}

    @property
    def slots(self) -> Weights:  # type: ignore[override]
        """The optimizer's arrays as views of the table of rows."""
        return {
            f"{slot}.{name}": self._view(1 + i, name)
            for i, slot in enumerate(self._slot_names)
            for name in self.parameters
        }

    def _assign(self, slot: int, arrays: Weights) -> None:
        """Copy arrays from the host into one slot of all weights."""
        for name in self.parameters:
            self._view(slot, name)[...] = self.xp.asarray(np.ascontiguousarray(arrays[name], dtype=self.table.dtype))

    def weights(self) -> dict[str, np.ndarray]:
        with self._device:
            return {name: view.get() for name, view in self.w.items()}

    def state(self) -> dict[str, np.ndarray]:
        with self._device:
            arrays = {name: view.get() for name, view in self.slots.items()}
        return {"step": np.array(self.t, np.int64), **arrays}

    def load(self, weights: Weights, state: Weights) -> None:
        with self._device:
            self.t = int(state["step"])
            self._assign(0, weights)
            for i, slot in enumerate(self._slot_names):
                self._assign(1 + i, {name: state[f"{slot}.{name}"] for name in self.parameters})
        self._version += 1

    def _arrays(self) -> list[Any]:
        """List the arrays that training changes."""
        return [self.table]

    def snapshot(self) -> Any:
        """Copy weights and state, on the device; as long as they are the same, so is the copy."""
        if self._snapshot is None or self._snapshot[0] != self._version:
            with self._device:
                self._snapshot = None  # makes room
                try:
                    copies = [array.copy() for array in self._arrays()]
                except MemoryError as error:
                    size = sum(array.nbytes for array in self._arrays())
                    raise device.out_of_memory(error, size, size) from error
            self._snapshot = (self._version, self.t, copies)
        return self._snapshot

    def restore(self, snapshot: Any) -> None:
        with self._device:
            self._version, self.t = snapshot[:2]
            for array, copy in zip(self._arrays(), snapshot[2], strict=True):
                array[...] = copy

    def finite(self) -> bool:
        with self._device:
            every = self.xp.ones((), np.bool_)
            for name in self.parameters:
                every = every & self.xp.isfinite(self._view(0, name)).all()
            return bool(every)

    def penalty(self, optimizer: Optimizer, counts: Mapping[str, np.ndarray]) -> float:
        if optimizer.decay == "decoupled":
            return 0.0
        with self._device:
            total = self.xp.zeros((), np.float64)
            for name, parameter in self.parameters.items():
                if decay := optimizer.decay_of(name):
                    squares = self.xp.square(self._view(0, name).astype(self.dtype, copy=False))  # of float16 too
                    if optimizer.decay == "per_rating" and parameter.rows is not None:
                        of_rows = counts[parameter.rows]
                        share = self.xp.asarray(of_rows / max(counts["user"].sum(), 1))
                        squares = squares.reshape(len(of_rows), -1).sum(axis=1, dtype=np.float64) * share
                    total = total + 0.5 * decay * squares.sum(dtype=np.float64)
            return float(total)

    # --- training ----------------------------------------------------------------------------------------------------

    def steps_per_call(self, batch_size: int) -> int:
        """Choose the number of steps per call: each synchronizes once, and sorts with 80 bytes per rating."""
        return max(1, (1 << 22) // batch_size)

    @contextlib.contextmanager
    def _room_for(self, n: int) -> Iterator[None]:
        """Add to a MemoryError, raised in a call of n ratings, how many ratings would fit."""
        try:
            yield
        except MemoryError as error:
            free, total = self._device.mem_info
            raise MemoryError(
                f"sorting {n:,} ratings of a call needs {80 * n / 2**30:.2f} GiB; the device has "
                f"{free / 2**30:.2f} of {total / 2**30:.2f} GiB free: a call of about {int(free / 80):,} ratings would "
                f"fit. ({error})"
            ) from error

    def order(self, seed: int, epoch: int, n: int) -> Any:
        """Compute `rng.permutation` on the device, where it stays: a device array of int32, shape (n,)."""
        bits = np.int32(max(n - 1, 0).bit_length())
        with self._device, self._room_for(n):
            keys, order = self.xp.empty(n, np.uint64), self.xp.empty(n, np.int32)
            self.kernels.over(
                "order_keys", n, (np.uint64(rng.key(seed, rng.SHUFFLE, 0, epoch)), keys, np.int32(n), bits)
            )
            keys.sort()
            self.kernels.over("order_of", n, (keys, order, np.int32(n), bits))
        return order

    def masks(self, batch: int) -> Any:
        return on_device(self.xp, super().masks(batch))

    def run(self, data: Any, part: Part) -> Progress:
        """Run a part as `Gradient.run` does; with weights of examples, or a momentum that moves, composed.

        The rows of a part of batches may also be a device array.
        """
        if data.weight is not None or part.momenta is not None:
            composes("cupy", "weighted examples" if part.momenta is None else "a momentum that moves")
            with self._device:
                rows = part.rows.get() if isinstance(part.rows, self.xp.ndarray) else part.rows
                self._version += 1
                return super().run(data, part._replace(rows=rows))
        if isinstance(data, Sides):
            rates = np.repeat(np.broadcast_to(part.rates, part.rows.shape), data.sizes(part.kind, part.rows))
            return self._run_batches(data.table, data.order(part.kind, part.rows), 1, rates)
        if isinstance(data, TiledRatings):
            if self._updates_only_rated_rows:
                return self._run_rounds(data, part.rows, part.rates)
            rates = np.repeat(np.broadcast_to(part.rates, part.rows.shape), data.sizes(part.rows))
            return self._run_batches(data.table, data.order(part.rows), 1, rates)
        return self._run_batches(data, part.rows, self.solver.batch_size, part.rates)  # type: ignore[union-attr]

    def _run_batches(self, data: Batch, order: Any, batch_size: int, learning_rates: Any) -> Progress:
        """Take a step for each batch of `order`.

        If a step fails, the steps before it are made again, from the state before the call.
        """
        steps = -(-len(order) // batch_size)
        if steps == 0:
            return Progress(np.zeros(len(self.model.heads)), 0, 0)
        if len(order) > device.MAX_CALL:
            raise ValueError(f"order has {len(order):,} ratings; it must have at most {device.MAX_CALL:,} per call")
        rates = np.broadcast_to(np.asarray(learning_rates, np.float64), (steps,))
        arrays = data.user, data.item, data.target
        with self._device:
            before = self.snapshot()
            result = self._steps(*arrays, order, batch_size, rates)
            failed = int(result[-1])
            if failed >= 0:
                self.restore(before)
                if failed:
                    self._steps(*arrays, order[: failed * batch_size], batch_size, rates[:failed])
                return Progress(result[:-1], failed * batch_size, failed, float(rates[failed]))
        return Progress(result[:-1], len(order), steps)

    def _steps(
        self, user: Any, item: Any, rating: Any, order: Any, batch: int, rates: np.ndarray
    ) -> np.ndarray:  # fmt: skip
        """Take the steps; return each head's sum of losses, and the first failed step or -1."""
        with self._room_for(len(order)):
            plan = self._plan(len(order), batch)
            plan.order[...] = self.xp.asarray(order)
            data = (*self._data(user, item, rating), plan.order)
            plan.fill(self, *data)
            scalars = self._scalars(rates)
            plan.rates[...] = self.xp.asarray(scalars.astype(self.dtype))
            plan.stamps[...] = 0
            if plan.linear:
                self.kernels.over(
                    "build_products", 8 * plan.steps, (plan.setup, plan.rates, plan.idle, np.int32(plan.steps))
                )
            if plan.fades:
                plan.scalars[...] = self.xp.asarray(scalars)
                self.kernels.launch(
                    "build_moments", (plan.setup, plan.scalars, plan.idle, np.int32(plan.steps)), self.tables
                )
            if plan.small:
                self._run_small(plan, data)
            else:
                self._run_large(plan, data)
            heads, steps = np.int32(len(self.model.heads)), np.int32(plan.steps)
            sizes = np.int32(plan.n), np.int32(batch), steps, heads
            self.kernels.over("step_losses", plan.steps, (plan.losses, plan.sums, *sizes), 1, **device.SUMS)
            self.kernels.launch("call_loss", (plan.sums, plan.result, steps, heads), 1, **device.SUMS)
        self.t += plan.steps
        self._version += 1
        return plan.result.get()  # the only synchronization

    def _plan(self, n: int, batch: int) -> Plan:
        """Find or make the buffers for a call."""
        if (n, batch) not in self._plans:
            while len(self._plans) > 1:  # two sizes: full calls, and the last call of an epoch
                del self._plans[next(iter(self._plans))]
            self._plans[n, batch] = Plan(self, n, batch)
        return self._plans[n, batch]

    def _data(self, *arrays: np.ndarray) -> tuple[Any, ...]:
        """Copy users, items and ratings to the device; reuse the copies of read-only arrays of the last call."""
        hosts, copies = self._uploaded
        if not (len(hosts) == len(arrays) and all(a is b for a, b in zip(hosts, arrays, strict=True))):
            copies = tuple(
                self.xp.asarray(np.ascontiguousarray(a, dtype=t))
                for a, t in zip(arrays, (np.int32, np.int32, np.float32), strict=True)
            )
            fixed = not any(a.flags.writeable for a in arrays)
            self._uploaded = (arrays, copies) if fixed else ((), ())
        return copies

    def _scalars(self, lr: np.ndarray) -> np.ndarray:
        """Compute each step's learning rate and, for Adam, the numbers of `Adam.scalars` for tables: (steps, 4)."""
        out = np.zeros((len(lr), 4))
        out[:, 0] = lr
        if isinstance(self.optimizer, Adam):
            t = self.t + 1.0 + np.arange(len(lr))
            correction1, correction2 = (
                -np.expm1(t * np.log(beta)) if beta else np.ones(len(lr)) for beta in self.optimizer.betas
            )
            root = np.sqrt(correction2)
            out[:, 1], out[:, 2] = lr / correction1, root
            out[:, 3] = self.optimizer.eps / root if self.sparse else self.optimizer.eps
        return out

    def _run_small(self, plan: Plan, data: tuple[Any, ...]) -> None:
        """Launch all steps of a call in one cooperative kernel."""
        plan.barrier[...] = 0
        self.kernels.launch(
            f"epoch_{'net_' * self.nets}{'resident' if plan.resident else 'touched'}",
            (plan.setup, plan.first, plan.begin, plan.row_of, plan.next, plan.partner, plan.place, plan.fresh,
             plan.stars, self.table, plan.stamps, plan.rates, plan.idle, plan.exchange, plan.losses, plan.barrier,
             np.int32(plan.n), np.int32(plan.batch), np.int32(plan.steps), *self._net_arguments(plan, data)),
            plan.blocks, shared=plan.shared, cooperative=True,
        )  # fmt: skip

    def _net_arguments(self, plan: Plan, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """List the arguments that the kernels of nets have in addition."""
        return ()

    def _run_large(self, plan: Plan, data: tuple[Any, ...]) -> None:
        """Launch the steps of a call one by one the first time, which loads the kernels; later replay them as a graph.

        Launches hold addresses: a graph is valid for one plan and one copy of the ratings.
        """
        plan.calls += 1
        if plan.graph is not None and any(a is not b for a, b in zip(plan.captured, data, strict=True)):
            plan.graph = None
        if plan.graph is None and plan.calls > 1:
            plan.graph, plan.captured = self._capture(plan, data), data
        if plan.graph is None:
            self._launch_batches(plan, data)
        else:
            plan.graph.launch()

    def _capture(self, plan: Plan, data: tuple[Any, ...]) -> Any:
        """Capture the launches of a call in a graph; None where that is impossible."""
        stream = self.xp.cuda.Stream(non_blocking=True)
        if not hasattr(stream, "begin_capture"):
            return None
        try:
            with stream:
                stream.begin_capture()
                try:
                    self._launch_batches(plan, data)
                finally:
                    graph = stream.end_capture()
        except RuntimeError as error:  # the base class of CUDA's and cuBLAS' errors
            log.warning("cupy: the steps cannot be captured in a graph (%s); they are launched one by one", error)
            return None
        return graph

    def _launch_batches(self, plan: Plan, data: tuple[Any, ...]) -> None:
        """Launch the kernels of each step."""
        k, setup, steps = self.kernels, plan.setup, np.int32(plan.steps)
        n, batch, warps = np.int32(plan.n), np.int32(plan.batch), device.THREADS // 32
        segments = min(plan.batch, self.n_users), min(plan.batch, self.n_items)
        rows = self.n_users + self.n_items
        catches_up = not self.sparse

        def sweep(to: int) -> None:
            k.over("sweep", rows, (setup, self.table, plan.stamps, plan.rates, plan.idle, steps, np.int32(to)), warps)

        for i in range(plan.steps):
            step = np.int32(i)
            if catches_up:
                k.over("batch_catch_up", segments[1],
                       (setup, plan.first, plan.row_of, self.table, plan.stamps, plan.rates, plan.idle, steps, step,
                        np.int32(1)), warps)  # fmt: skip
            k.over("batch_users", segments[0],
                   (setup, plan.first, plan.begin, plan.row_of, plan.partner, plan.place, plan.stars, self.table,
                    plan.stamps, plan.rates, plan.idle, plan.before, plan.d_s, plan.losses, n, batch, steps, step),
                   warps)  # fmt: skip
            k.over("batch_items", segments[1],
                   (setup, plan.first, plan.begin, plan.row_of, plan.partner, plan.place, self.table, plan.stamps,
                    plan.rates, plan.before, plan.d_s, n, batch, step), warps)  # fmt: skip
            if catches_up and self.adam and self.l2 and (i + 1) % device.SWEEP == 0:
                sweep(i + 1)
        if catches_up:
            sweep(plan.steps)

    # --- a step per rating -------------------------------------------------------------------------------------------

    @property
    def _updates_only_rated_rows(self) -> bool:
        """Whether a step on one rating changes only the rows of its user and its item."""
        optimizer = self.optimizer
        if not isinstance(optimizer, SGD) or optimizer.momentum or self.nets:
            return False
        return int(self.setup["decay_kind"]) == 0 or optimizer.sparse or optimizer.decay == "per_rating"

    def _run_rounds(self, tiles: TiledRatings, rounds: np.ndarray, learning_rates: Any) -> Progress:
        """Train on rounds of tiles, a warp per tile. After a failed step the weights are invalid."""
        xp = self.xp
        with self._device:
            data = self._data(tiles.user, tiles.item, tiles.rating)
            # Each round is a slice of the sorted ratings; its starts become positions in the order of this call.
            begin, sizes = tiles.start[rounds, 0], tiles.sizes(rounds)
            at = np.cumsum(sizes) - sizes
            starts = tiles.start[rounds] - begin[:, None] + at[:, None]
            return self._run_tiles(
                data, xp.asarray(tiles.order(rounds)), xp.asarray(starts.astype(np.int32)), learning_rates
            )

    def _run_tiles(
        self, data: tuple[Any, ...], order: Any, starts: Any, learning_rates: Any, blocks: int | None = None
    ) -> Progress:
        """Launch rounds of tiles.

        Parameters
        ----------
        data : device arrays of users, items and ratings
        order : device array of int32
            The ratings, round by round and tile by tile.
        starts : device array of int32, shape (rounds, tiles + 1)
            Where the tiles of each round begin in `order`, and where the last one ends.
        learning_rates : float, or array of float, shape (rounds,)
        blocks : int, optional
            Number of blocks of the launch.
        """
        rounds, workers = starts.shape[0], starts.shape[1] - 1
        lr = self.xp.asarray(np.array(np.broadcast_to(np.asarray(learning_rates, self.dtype), (rounds,))))
        losses, barrier = self.xp.empty(len(order), self.dtype), self.xp.zeros(1, np.uint32)
        self.kernels.launch(
            "sgd_tiles",
            (self.setup, self._stored_rows, *data, order, starts, lr, losses, barrier, np.int32(rounds),
             np.int32(workers)),
            blocks or self.kernels.processors, cooperative=True,
        )  # fmt: skip

        def rate_of(step: int) -> float:
            at = int(np.searchsorted(starts[:, -1].get(), step, side="right"))
            return float(np.broadcast_to(learning_rates, (rounds,))[at])

        return self._progress(losses, rate_of)

    @property
    def _stored_rows(self) -> Any:
        """The rows in the type that the per-rating kernels read."""
        return self.table

    def _progress(self, losses: Any, rate_of: Callable[[int], float]) -> Progress:
        """Add up the losses of steps of one rating each, and count these steps; `rate_of` gives a step's rate."""
        n = len(losses)
        if not n:
            return Progress(np.zeros(1), 0, 0)
        sums, result = self.xp.empty(1, np.float64), self.xp.empty(2, np.float64)
        one = np.int32(1)
        self.kernels.launch("step_losses", (losses, sums, np.int32(n), np.int32(n), one, one), 1, **device.SUMS)
        self.kernels.launch("call_loss", (sums, result, one, one), 1, **device.SUMS)
        out = result.get()
        self._version += 1
        if out[1] >= 0:
            values = losses.get().astype(np.float64)
            failed = int(np.argmin(np.isfinite(values)))
            return Progress(values[:failed].sum(keepdims=True), failed, failed, rate_of(failed))
        self.t += n
        return Progress(out[:1], n, n)

    # --- predictions -------------------------------------------------------------------------------------------------

    def predict(self, batch: Batch, head: str | None = None) -> np.ndarray:
        out = np.empty(batch.size, self.dtype)
        with self._device:
            for start in range(0, batch.size, 1 << 22):  # bounds the memory
                part = slice(start, start + (1 << 22))
                u = self.xp.asarray(np.ascontiguousarray(batch.user[part], dtype=np.int32))
                v = self.xp.asarray(np.ascontiguousarray(batch.item[part], dtype=np.int32))
                y = self.xp.empty(len(u), self.dtype)
                self._predict(u, v, y, head)
                out[part] = y.get()
        return out

    def _predict(self, u: Any, v: Any, y: Any, head: str | None) -> None:
        self.kernels.over(
            "predict_pairs", len(u), (self.setup, self.table, u, v, y, np.int64(len(u))), device.THREADS // 32
        )
