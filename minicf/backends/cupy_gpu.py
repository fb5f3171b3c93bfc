"""Training on a GPU through CuPy: the kernels are in `kernels.cu`, what they compute is defined by `base.Program`.

Two regimes. Small batches are bound by launches: all steps of a call run in one cooperative kernel, rows of the tables
owned by blocks, in shared memory where they fit. Large batches are bound by memory: two passes a step over sorted
segments, captured in a graph. Both give the same bits on every run and at any launch geometry.

Everything stays on the device between calls; each call to `train` synchronises once, to fetch its loss.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minicf import rng, scoring
from minicf.backends import base
from minicf.backends.base import Progress
from minicf.models import TABLES, USER_TABLES, Dot, Hybrid, Model, Net, Weights
from minicf.optim import SGD, Adam, Optimizer
from minicf.tiles import Tiles

log = logging.getLogger("minicf")

NAME = "cupy"

THREADS = 256
"""Threads a block. A row takes a warp, so this is 8 rows at once."""
PROCESSORS: int | None = None
"""Blocks of a cooperative launch; None for one on each processor of the device."""
MAX_FACTORS = 512
"""Rows are held in registers: beyond this they would spill, and the composed path is taken."""
SMALL_BATCH = 1024
"""Up to this many ratings a batch, the steps of a call run in one cooperative kernel."""
SWEEP = 32
"""Adam with l2 has no closed form for idle rows. Where tables do not fit on the chip, all rows are brought up to date
each so many steps, in registers: one pass over the tables instead of so many."""

EXPANSION = {4: 3e-8, 8: 1e-11}
"""Largest relative error of (C4), by the bytes of a number: half a unit in the last place of float32; in float64, where
the series does not reach that, what keeps a long training within 1e-9 of the reference."""

SCORES_BYTES = 1 << 28
"""Of scores of users with all items that are on the device at once, when the best are looked for."""

_MAX_CALL = (1 << 30) - 64
"""Elements of a call are numbered in 32 bits, two a rating; a warp looks up to 32 beyond the last."""


def unavailable() -> str | None:
    """Why this backend cannot run here; None if it can."""
    driver = _driver_version()
    extra = "cuda13x" if driver is None or driver >= 13000 else "cuda12x"
    try:
        import cupy
    except ImportError as error:
        if driver is None:
            return (
                "no NVIDIA driver was found (libcuda.so.1), and CuPy is not installed; with a GPU, install its driver, "
                "then pip install 'minicf[cuda13x]', or 'minicf[cuda12x]' for a driver of CUDA 12"
            )
        return f"CuPy cannot be imported ({error}); pip install 'minicf[{extra}]' fits the driver of this machine"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # whatever a mismatched driver makes of it
        if driver is None:
            return f"no NVIDIA driver was found (libcuda.so.1): {error}"
        return f"CuPy does not work with the driver of this machine ({error}); pip install 'minicf[{extra}]' does"
    return None if count else "CuPy finds no GPU (is CUDA_VISIBLE_DEVICES empty?)"


def _driver_version() -> int | None:
    """The CUDA version that the driver supports, as 1000 major + 10 minor; None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def compile(
    model: Model,
    optimizer: Optimizer,
    weights: Weights,
    seed: int = 0,
    dtype: Any = "float32",
    n_threads: int | None = None,
) -> base.Program:
    """A program on the current CUDA device: ``with cupy.cuda.Device(1): …`` or CUDA_VISIBLE_DEVICES choose another.

    `n_threads` is of processors' threads, and nothing here.
    """
    kind: type[base.Program] = Composed
    if np.dtype(dtype) == np.float16:
        if not isinstance(model, Dot) or model.n_factors > MAX_FACTORS:
            raise ValueError(f"rows in float16 are for Dot and DotBias of up to {MAX_FACTORS} factors, not {model}")
        kind = Half
    elif model.n_factors <= MAX_FACTORS and isinstance(model, Dot):
        kind = Tables
    elif model.n_factors <= MAX_FACTORS and Nets.fits(model, np.dtype(dtype)):
        kind = Nets
    else:
        log.info("cupy: no fused kernel for %s; composed from array operations", model)
    try:
        return kind(model, optimizer, weights, seed, dtype)
    except MemoryError as error:
        numbers = sum(int(np.prod(np.shape(w))) for w in weights.values()) * (1 + len(optimizer.slots()))
        raise _too_large(error, numbers * np.dtype(dtype).itemsize) from error


def _too_large(error: MemoryError, size: int, held: int = 0) -> MemoryError:
    """For weights and state of `size` bytes, of which so many are on the device already."""
    import cupy

    free, total = cupy.cuda.Device().mem_info
    return MemoryError(
        f"weights, optimiser state and a copy of both for recovery need {2 * size / 2**30:.2f} GiB; the device has "
        f"{(free + held) / 2**30:.2f} of {total / 2**30:.2f} GiB for them. About {(free + held) / (2 * size):.0%} of "
        f"the factors, rows or state would fit: try fewer factors, SGD instead of Adam, or float32. ({error})"
    )


class Composed(base.Program):
    """The reference program on CuPy arrays, for what has no fused kernel."""

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


# --- what the kernels are told --------------------------------------------------------------------------------------

_KINDS = {"SGD": 0, "MOMENTUM": 1, "ADAM": 2}
_DECAYS = {None: 0, "l2": 1, "per_rating": 2, "decoupled": 3}

SETUP = np.dtype(
    [("mean", "f8"), ("low", "f8"), ("high", "f8"), ("eps", "f8"), ("momentum", "f8"), ("beta1", "f8"), ("beta2", "f8"),
     ("decay", "f8", 4), ("expand", "f8"),
     *((name, "i4") for name in (
         "kind", "decay_kind", "nesterov", "sparse", "range", "users", "items", "factors", "bias_column", "stride",
         "slots", "sweep", "fading", "levels"))],
    align=True,
)  # fmt: skip
_LOSS: dict[str, Any] = {"threads": 256, "shared": 256 * 8}
"""How the kernels of losses are launched: fixed, so that their sums are."""
MAX_LAYERS, GROUP = 9, 4  # as in kernels.cu
HEAD = np.dtype(
    [*((name, "f8") for name in ("weight", "mean", "low", "high")),
     ("keep", "f8", MAX_LAYERS), ("stream", "u8", MAX_LAYERS), ("threshold", "i4", MAX_LAYERS),
     ("width", "i4", MAX_LAYERS + 1),
     *((name, "i4", MAX_LAYERS) for name in ("weights", "biases", "inputs", "deltas")),
     *((name, "i4") for name in ("layers", "range", "has_bias", "output"))],
    align=True,
)  # fmt: skip
PLAN = np.dtype([(name, "i4") for name in ("n", "batch", "steps", "users", "rows", "parts", "by_side", "bits")])


def _struct(dtype: np.dtype, values: dict[str, Any]) -> np.ndarray:
    out = np.zeros((), dtype)
    for name, value in values.items():
        out[name] = value
    return out


def source() -> str:
    """The text of kernels.cu."""
    return (Path(__file__).parent / "kernels.cu").read_text(encoding="utf-8")


def options(setup: np.ndarray, dtype: np.dtype, threads: int, nets: bool, half: bool = False) -> tuple[str, ...]:
    """Compiler options for one program: what is fixed for its life becomes a constant of the kernels."""
    chunks = -(-int(setup["stride"]) // 128)
    constants = {
        "REAL": "float" if dtype == np.float32 else "double", "CHUNKS": chunks, "THREADS": threads,
        "KIND": setup["kind"], "DECAY": setup["decay_kind"], "NESTEROV": setup["nesterov"],
        "SPARSE": setup["sparse"], "RANGE": setup["range"], "NETS": int(nets), "HALF": int(half),
    }  # fmt: skip
    return ("-std=c++17", *(f"-D{name}={value}" for name, value in constants.items()))


class Kernels:
    """The compiled kernels of one program, and the only place from which they are launched."""

    def __init__(self, options: tuple[str, ...]) -> None:
        import cupy

        self._cupy = cupy
        self._options = options
        self._modules: dict[bool, Any] = {}
        self._functions: dict[tuple[str, bool], Any] = {}
        attributes = cupy.cuda.Device().attributes
        self.processors = PROCESSORS or int(attributes["MultiProcessorCount"])
        self.shared_limit = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self.cooperative = bool(attributes["CooperativeLaunch"])

    def function(self, name: str, cooperative: bool = False) -> Any:
        if (name, cooperative) not in self._functions:
            if cooperative not in self._modules:
                self._modules[cooperative] = self._cupy.RawModule(
                    code=source(), options=self._options, enable_cooperative_groups=cooperative
                )
            self._functions[name, cooperative] = self._modules[cooperative].get_function(name)
        return self._functions[name, cooperative]

    def launch(
        self, name: str, arguments: tuple[Any, ...], blocks: int, threads: int | None = None, shared: int = 0,
        cooperative: bool = False,
    ) -> None:  # fmt: skip
        """Launch on the current stream. CuPy takes strides and Python numbers unasked, and kernels misread them."""
        for i, x in enumerate(arguments):
            if isinstance(x, self._cupy.ndarray):
                if not x.flags.c_contiguous:
                    raise TypeError(f"{name}: argument {i} is a strided view; kernels see only its memory")
            elif not (isinstance(x, np.generic) or (isinstance(x, np.ndarray) and x.ndim == 0)):
                raise TypeError(f"{name}: argument {i} is {x!r}; it must be a device array or a NumPy scalar")
        function = self.function(name, cooperative)
        if shared > 48 << 10:
            function.max_dynamic_shared_size_bytes = shared
        with warnings.catch_warnings():
            # CuPy shrinks a cooperative grid that does not fit, with a warning; the plan counts on its size.
            warnings.simplefilter("error")
            function((int(blocks),), (int(threads or THREADS),), arguments, shared_mem=int(shared))

    def over(self, name: str, work: int, arguments: tuple[Any, ...], per_block: int = 0, **more: Any) -> None:
        """Launch a grid-stride kernel over so many items; a full device has 8 blocks a processor."""
        blocks = max(1, min(-(-work // (per_block or THREADS)), 8 * self.processors))
        self.launch(name, arguments, blocks, **more)


# --- Dot and DotBias ------------------------------------------------------------------------------------------------


class Plan:
    """The device buffers of calls of one size: sorted segments, rates, losses. Filled anew by each call."""

    def __init__(self, program: Tables, n: int, batch: int) -> None:
        xp, kernels = program.xp, program.kernels
        self.n, self.batch, self.steps = n, batch, -(-n // batch)
        self.small = batch <= SMALL_BATCH and kernels.cooperative and program.fusable
        self.blocks = kernels.processors
        self.parts = self.blocks if self.small else 2
        rows = program.n_users + program.n_items
        self.struct = _struct(PLAN, {
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
        linear = not isinstance(program.optimizer, Adam) and not program.optimizer.sparse
        self.linear = linear
        self.stamps = ints(rows)
        heads = len(program.model.heads)
        self.squared = xp.empty(heads * n, program.dtype)
        self.sums = xp.empty(heads * self.steps, np.float64)
        self.result = xp.empty(heads + 1, np.float64)
        if self.small:
            self.exchange = xp.empty((2, 2 * batch, program.stride), program.dtype)
            self.barrier = xp.zeros(1, np.uint32)
            per = -(-rows // self.blocks)
            scratch = program.scratch(4)
            rows_bytes = per * (program.slots * program.stride * program.dtype.itemsize + 4)
            self.resident = program.resident and scratch + rows_bytes <= kernels.shared_limit
            self.shared = scratch + rows_bytes * self.resident
            if program.adam and not program.optimizer.sparse:
                setup["sweep"] = 1 if self.resident else SWEEP if program.l2 else 0
        else:
            self.resident = False
            self.before = xp.empty((batch, program.stride), program.dtype)
            self.d_s = xp.empty(batch, program.dtype)
        if program.nets:
            self.tape = xp.empty(batch * program.tape_width, program.dtype)
            self.d_rows = xp.empty((batch, 2, program.stride), program.dtype)
            self.t = xp.empty(1, np.uint64)
            self.ones = xp.ones((1, batch), program.dtype)
        # What rows miss that no batch names: products of matrices for SGD, moments for Adam.
        self.fades = program.fades and not self.resident
        idle = 4 * 4 * self.levels * self.steps if linear else 1
        if self.fades:
            setup["expand"] = EXPANSION[program.dtype.itemsize]
            idle = (8 * program.tables + 4) * (self.steps + 1)
            self.scalars = xp.empty((self.steps, 4), np.float64)
        self.idle = xp.empty(idle, np.float64)
        self.setup = setup
        self.graph: Any = None
        self.captured: tuple[Any, ...] = ()
        self.calls = 0

    def fill(self, program: Tables, user: Any, item: Any, rating: Any, order: Any) -> None:
        """Sort the call's ratings into segments; kernels.cu explains the arrays."""
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
    """Dot and DotBias, any optimiser, fused."""

    nets = False
    fusable = True
    tape_width = 0
    resident = True  # keep rows in shared memory where they fit

    def __init__(
        self, model: Model, optimizer: Optimizer, weights: Weights, seed: int = 0, dtype: Any = "float32"
    ) -> None:
        import cupy

        self.xp = cupy
        self.model, self.optimizer, self.seed, self.dtype = model, optimizer, seed, np.dtype(dtype)
        self.t = 0
        self._device = cupy.cuda.Device()
        self.n_users, self.n_items = len(weights["user_factors"]), len(weights["item_factors"])
        self.adam = isinstance(optimizer, Adam)
        self.biases = "user_bias" in weights
        columns = model.n_factors + self.biases
        self.stride, self.slots = -(-columns // 4) * 4, 1 + len(optimizer.slots())
        decays = [optimizer.decay_of(name) if name in weights else 0.0
                  for name in ("user_factors", "item_factors", "user_bias", "item_bias")]  # fmt: skip
        decay = optimizer.decay if any(optimizer.decay_of(name) for name in weights) else None
        self.l2 = decay == "l2" and any(decays)
        # Adam without l2: idle rows only fade, which (C3) … (C5) sum up. With a beta of 0 there is nothing to sum.
        self.fades = isinstance(optimizer, Adam) and not optimizer.sparse and not self.l2 and all(optimizer.betas)
        self.tables = 4 if decay == "decoupled" else 1
        rating_range = getattr(model, "rating_range", None)  # a hybrid's are its heads'
        low, high = rating_range or (0.0, 0.0)
        values = {
            "mean": getattr(model, "global_mean", 0.0), "low": low, "high": high, "decay": decays,
            "decay_kind": _DECAYS[decay], "sparse": optimizer.sparse, "range": rating_range is not None,
            "users": self.n_users, "items": self.n_items, "factors": model.n_factors,
            "bias_column": model.n_factors if self.biases else -1, "stride": self.stride, "slots": self.slots,
        }  # fmt: skip
        if isinstance(optimizer, Adam):
            beta1, beta2 = optimizer.betas
            values |= {"kind": _KINDS["ADAM"], "beta1": beta1, "beta2": beta2, "eps": optimizer.eps,
                       "fading": beta1 * beta1 < beta2}  # fmt: skip
        elif isinstance(optimizer, SGD):
            values |= {"kind": _KINDS["MOMENTUM" if optimizer.momentum else "SGD"], "momentum": optimizer.momentum,
                       "nesterov": optimizer.nesterov}  # fmt: skip
        else:
            raise TypeError(f"no kernel for {optimizer!r}")
        self.setup = _struct(SETUP, values)
        self.table = cupy.zeros((self.n_users + self.n_items, self.slots, self.stride), self.dtype)
        self.kernels = Kernels(options(self.setup, self.dtype, THREADS, self.nets))
        self._plans: dict[tuple[int, int], Plan] = {}
        self._uploaded: tuple[Any, Any] = ((), ())
        self._version = 0
        self._kept: Any = None
        self._names = list(model.shapes(self.n_users, self.n_items))
        self._prepare_heads()
        self._assign(0, weights)

    def _prepare_heads(self) -> None:
        """For `Nets`."""

    def scratch(self, rows: int) -> int:
        """Bytes of shared memory beside resident rows."""
        return 0

    # --- weights and state -------------------------------------------------------------------------------------------

    def _view(self, slot: int, name: str) -> Any:
        """Where a weight, or the optimiser's array for it, stands in the table of rows."""
        rows = slice(None, self.n_users) if name.startswith("user") else slice(self.n_users, None)
        k = self.model.n_factors
        return self.table[rows, slot, :k] if name.endswith("factors") else self.table[rows, slot, k]

    def _assign(self, slot: int, arrays: Weights) -> None:
        for name in self._names:
            self._view(slot, name)[...] = self.xp.asarray(np.ascontiguousarray(arrays[name], dtype=self.table.dtype))

    def weights(self) -> dict[str, np.ndarray]:
        with self._device:
            return {name: self._view(0, name).get() for name in self._names}

    def state(self) -> dict[str, np.ndarray]:
        with self._device:
            arrays = {
                f"{slot}.{name}": self._view(1 + i, name).get()
                for i, slot in enumerate(self.optimizer.slots())
                for name in self._names
            }
        return {"step": np.array(self.t, np.int64), **arrays}

    def load(self, weights: Weights, state: Weights) -> None:
        with self._device:
            self.t = int(state["step"])
            self._assign(0, weights)
            for i, slot in enumerate(self.optimizer.slots()):
                self._assign(1 + i, {name: state[f"{slot}.{name}"] for name in self._names})
        self._version += 1

    def _arrays(self) -> list[Any]:
        """All that training changes."""
        return [self.table]

    def snapshot(self) -> Any:
        """A copy on the device."""
        if self._kept is None or self._kept[0] != self._version:
            with self._device:
                self._kept = None  # makes room
                try:
                    copies = [array.copy() for array in self._arrays()]
                except MemoryError as error:
                    size = sum(array.nbytes for array in self._arrays())
                    raise _too_large(error, size, size) from error
            self._kept = (self._version, self.t, copies)
        return self._kept

    def restore(self, snapshot: Any) -> None:
        with self._device:
            self._version, self.t = snapshot[:2]
            for array, copy in zip(self._arrays(), snapshot[2], strict=True):
                array[...] = copy

    def finite(self) -> bool:
        with self._device:
            every = self.xp.ones((), np.bool_)
            for name in self._names:
                every = every & self.xp.isfinite(self._view(0, name)).all()
            return bool(every)

    def penalty(self, user_counts: np.ndarray, item_counts: np.ndarray) -> float:
        if self.optimizer.decay == "decoupled":
            return 0.0
        with self._device:
            total = self.xp.zeros((), np.float64)
            for name in self._names:
                if decay := self.optimizer.decay_of(name):
                    squares = self.xp.square(self._view(0, name).astype(self.dtype, copy=False))  # of float16 too
                    if self.optimizer.decay == "per_rating" and name in TABLES:
                        counts = user_counts if name in USER_TABLES else item_counts
                        share = self.xp.asarray(counts / max(counts.sum(), 1))
                        squares = squares.reshape(len(counts), -1).sum(axis=1, dtype=np.float64) * share
                    total = total + 0.5 * decay * squares.sum(dtype=np.float64)
            return float(total)

    # --- training ----------------------------------------------------------------------------------------------------

    def steps_per_call(self, batch_size: int) -> int:
        """One synchronisation each; sorting a call takes 80 bytes a rating."""
        return max(1, (1 << 22) // batch_size)

    @contextlib.contextmanager
    def _room_for(self, n: int) -> Iterator[None]:
        """What runs out of memory over a call of n ratings says so, and what would fit."""
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
        """`rng.permutation`, made and left on the device."""
        bits = np.int32(max(n - 1, 0).bit_length())
        with self._device, self._room_for(n):
            keys, order = self.xp.empty(n, np.uint64), self.xp.empty(n, np.int32)
            self.kernels.over(
                "order_keys", n, (np.uint64(rng.key(seed, rng.SHUFFLE, 0, epoch)), keys, np.int32(n), bits)
            )
            keys.sort()
            self.kernels.over("order_of", n, (keys, order, np.int32(n), bits))
        return order

    def train(
        self, user: np.ndarray, item: np.ndarray, rating: np.ndarray, order: np.ndarray, batch_size: int,
        learning_rates: np.ndarray | float,
    ) -> Progress:  # fmt: skip
        """As `base.Program.train`. `order` may also be a device array.

        The steps before one that failed are taken, by going back to the state before the call and making them again.
        """
        steps = -(-len(order) // batch_size)
        if steps == 0:
            return Progress(np.zeros(len(self.model.heads)), -1)
        if len(order) > _MAX_CALL:
            raise ValueError(f"{len(order):,} ratings in one call; at most {_MAX_CALL:,}")
        rates = np.broadcast_to(np.asarray(learning_rates, np.float64), (steps,))
        with self._device:
            before = self.snapshot()
            result = self._steps(user, item, rating, order, batch_size, rates)
            failed = int(result[-1])
            if failed >= 0:
                self.restore(before)
                if failed:
                    self._steps(user, item, rating, order[: failed * batch_size], batch_size, rates[:failed])
        return Progress(result[:-1], failed)

    def _steps(
        self, user: Any, item: Any, rating: Any, order: Any, batch: int, rates: np.ndarray
    ) -> np.ndarray:  # fmt: skip
        """Take the steps; the squared error of each head and the first failed step."""
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
                self._small(plan, data)
            else:
                self._large(plan, data)
            heads, steps = np.int32(len(self.model.heads)), np.int32(plan.steps)
            sizes = np.int32(plan.n), np.int32(batch), steps, heads
            self.kernels.over("step_losses", plan.steps, (plan.squared, plan.sums, *sizes), 1, **_LOSS)
            self.kernels.launch("call_loss", (plan.sums, plan.result, steps, heads), 1, **_LOSS)
        self.t += plan.steps
        self._version += 1
        return plan.result.get()  # the one synchronisation

    def _plan(self, n: int, batch: int) -> Plan:
        if (n, batch) not in self._plans:
            while len(self._plans) > 1:  # whole calls and an epoch's last one
                del self._plans[next(iter(self._plans))]
            self._plans[n, batch] = Plan(self, n, batch)
        return self._plans[n, batch]

    def _data(self, *arrays: np.ndarray) -> tuple[Any, ...]:
        """Device copies, kept for as long as the same arrays come; only of arrays that nobody can change."""
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
        """For each step: lr, and for Adam what `Adam.scalars` says of tables."""
        out = np.zeros((len(lr), 4))
        out[:, 0] = lr
        if isinstance(self.optimizer, Adam):
            t = self.t + 1.0 + np.arange(len(lr))
            correction1, correction2 = (
                -np.expm1(t * np.log(beta)) if beta else np.ones(len(lr)) for beta in self.optimizer.betas
            )
            root = np.sqrt(correction2)
            out[:, 1], out[:, 2] = lr / correction1, root
            out[:, 3] = self.optimizer.eps / root if self.optimizer.sparse else self.optimizer.eps
        return out

    def _small(self, plan: Plan, data: tuple[Any, ...]) -> None:
        plan.barrier[...] = 0
        self.kernels.launch(
            f"epoch_{'net_' * self.nets}{'resident' if plan.resident else 'touched'}",
            (plan.setup, plan.first, plan.begin, plan.row_of, plan.next, plan.partner, plan.place, plan.fresh,
             plan.stars, self.table, plan.stamps, plan.rates, plan.idle, plan.exchange, plan.squared, plan.barrier,
             np.int32(plan.n), np.int32(plan.batch), np.int32(plan.steps), *self._more(plan, data)),
            plan.blocks, shared=plan.shared, cooperative=True,
        )  # fmt: skip

    def _more(self, plan: Plan, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the kernels of `Nets` need besides."""
        return ()

    def _large(self, plan: Plan, data: tuple[Any, ...]) -> None:
        """The first call launches one by one, which loads the kernels; later ones replay a graph of the same launches.

        Launches hold addresses: a graph is for one plan and one upload of the ratings.
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
        except RuntimeError as error:  # CUDA's and cuBLAS' errors are its children
            log.warning("cupy: the steps cannot be captured in a graph (%s); they are launched one by one", error)
            return None
        return graph

    def _launch_batches(self, plan: Plan, data: tuple[Any, ...]) -> None:
        k, setup, steps = self.kernels, plan.setup, np.int32(plan.steps)
        n, batch, warps = np.int32(plan.n), np.int32(plan.batch), THREADS // 32
        segments = min(plan.batch, self.n_users), min(plan.batch, self.n_items)
        rows = self.n_users + self.n_items
        late = not self.optimizer.sparse

        def sweep(to: int) -> None:
            k.over("sweep", rows, (setup, self.table, plan.stamps, plan.rates, plan.idle, steps, np.int32(to)), warps)

        for i in range(plan.steps):
            step = np.int32(i)
            if late:
                k.over("batch_catch_up", segments[1],
                       (setup, plan.first, plan.row_of, self.table, plan.stamps, plan.rates, plan.idle, steps, step,
                        np.int32(1)), warps)  # fmt: skip
            k.over("batch_users", segments[0],
                   (setup, plan.first, plan.begin, plan.row_of, plan.partner, plan.place, plan.stars, self.table,
                    plan.stamps, plan.rates, plan.idle, plan.before, plan.d_s, plan.squared, n, batch, steps, step),
                   warps)  # fmt: skip
            k.over("batch_items", segments[1],
                   (setup, plan.first, plan.begin, plan.row_of, plan.partner, plan.place, self.table, plan.stamps,
                    plan.rates, plan.before, plan.d_s, n, batch, step), warps)  # fmt: skip
            if late and self.adam and self.l2 and (i + 1) % SWEEP == 0:
                sweep(i + 1)
        if late:
            sweep(plan.steps)

    # --- rating by rating --------------------------------------------------------------------------------------------

    @property
    def _moves_only_its_rows(self) -> bool:
        """Whether a step on one rating leaves all other rows as they are."""
        plain = isinstance(self.optimizer, SGD) and not self.optimizer.momentum and not self.nets
        decayed = int(self.setup["decay_kind"]) != 0
        return plain and (not decayed or self.optimizer.sparse or self.optimizer.decay == "per_rating")

    def train_tiles(self, tiles: Tiles, rounds: np.ndarray, learning_rates: np.ndarray) -> Progress:
        """As `base.Program.train_tiles`; a warp a tile. After a failed step the weights are of no use."""
        if not self._moves_only_its_rows:
            return super().train_tiles(tiles, rounds, learning_rates)
        xp = self.xp
        with self._device:
            data = self._data(tiles.user, tiles.item, tiles.rating)
            # Each round is a piece of the table of tiles: its starts are given relative to what this call visits.
            begin, sizes = tiles.start[rounds, 0], tiles.start[rounds, -1] - tiles.start[rounds, 0]
            at = np.cumsum(sizes) - sizes
            starts = tiles.start[rounds] - begin[:, None] + at[:, None]
            return self._in_tiles(
                data, xp.asarray(tiles.order(rounds)), xp.asarray(starts.astype(np.int32)), learning_rates
            )

    def _in_tiles(
        self, data: tuple[Any, ...], order: Any, starts: Any, learning_rates: Any, blocks: int | None = None
    ) -> Progress:
        rounds, workers = starts.shape[0], starts.shape[1] - 1
        lr = self.xp.asarray(np.array(np.broadcast_to(np.asarray(learning_rates, self.dtype), (rounds,))))
        squared, barrier = self.xp.empty(len(order), self.dtype), self.xp.zeros(1, np.uint32)
        self.kernels.launch(
            "sgd_tiles",
            (self.setup, self._stored, *data, order, starts, lr, squared, barrier, np.int32(rounds), np.int32(workers)),
            blocks or self.kernels.processors, cooperative=True,
        )  # fmt: skip
        return self._taken(squared)

    @property
    def _stored(self) -> Any:
        """The rows, as the per-rating kernels take them."""
        return self.table

    def _taken(self, squared: Any) -> Progress:
        """The result of as many steps as there are squared errors."""
        n = len(squared)
        if not n:
            return Progress(np.zeros(1), -1)
        sums, result = self.xp.empty(1, np.float64), self.xp.empty(2, np.float64)
        one = np.int32(1)
        self.kernels.launch("step_losses", (squared, sums, np.int32(n), np.int32(n), one, one), 1, **_LOSS)
        self.kernels.launch("call_loss", (sums, result, one, one), 1, **_LOSS)
        out = result.get()
        self._version += 1
        if out[1] >= 0:
            errors = squared.get().astype(np.float64)
            failed = int(np.argmin(np.isfinite(errors)))
            return Progress(errors[:failed].sum(keepdims=True), failed)
        self.t += n
        return Progress(out[:1], -1)

    # --- predictions -------------------------------------------------------------------------------------------------

    def predict(self, user: np.ndarray, item: np.ndarray, head: str | None = None) -> np.ndarray:
        out = np.empty(len(user), self.dtype)
        with self._device:
            for start in range(0, len(user), 1 << 22):  # bounds the memory
                part = slice(start, start + (1 << 22))
                u = self.xp.asarray(np.ascontiguousarray(user[part], dtype=np.int32))
                v = self.xp.asarray(np.ascontiguousarray(item[part], dtype=np.int32))
                y = self.xp.empty(len(u), self.dtype)
                self._predict(u, v, y, head)
                out[part] = y.get()
        return out

    def _predict(self, u: Any, v: Any, y: Any, head: str | None) -> None:
        self.kernels.over("predict_pairs", len(u), (self.setup, self.table, u, v, y, np.int64(len(u))), THREADS // 32)


# --- Net and Hybrid -------------------------------------------------------------------------------------------------

FUSED_WEIGHTS = 1 << 16
"""Nets of up to so many dense weights run inside the cooperative kernel; larger ones, and large batches, by cuBLAS."""


def _stream(seed: int, layer: int) -> int:
    """`rng.key` of a dropout layer before its last part, the step, which the kernels mix in."""
    key = rng._mix(seed & rng._MASK)
    for part in (rng.DROPOUT, layer):
        key = rng._mix((key + part * rng.GOLDEN + rng.GOLDEN) & rng._MASK)
    return key


def _heads(model: Model) -> dict[str, tuple[Any, float]]:
    return dict(model.members) if isinstance(model, Hybrid) else {"": (model, 1.0)}


class Nets(Tables):
    """Net and Hybrid: the rows as in `Tables`, the dense weights side by side in one array."""

    nets = True

    @staticmethod
    def fits(model: Model, dtype: np.dtype) -> bool:
        """Whether the fused kernels can hold it."""
        import cupy

        if not isinstance(model, Net | Hybrid):
            return False
        nets = [head for head, _ in _heads(model).values() if isinstance(head, Net)]
        wide = max([2 * model.n_factors, *(h for net in nets for h in net.hidden)])
        stride = -(-(model.n_factors + 1) // 4) * 4
        limit = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
        deep = max((len(net.hidden) + 1 for net in nets), default=0)
        return deep <= MAX_LAYERS and GROUP * (4 * stride + 2 * wide) * dtype.itemsize <= limit

    def _prepare_heads(self) -> None:
        shapes = self.model.shapes(self.n_users, self.n_items)
        self._offsets: dict[str, int] = {}
        self.n_dense = 0
        decay: list[np.ndarray] = []
        for name, shape in shapes.items():
            if name not in TABLES:
                size = int(np.prod(shape))
                self._offsets[name] = self.n_dense
                self.n_dense += size
                decay.append(np.full(size, self.optimizer.decay_of(name)))
        self._shapes = shapes
        self.heads = np.zeros(len(self.model.heads), HEAD)
        self.tape_width = 0
        wide, dropout_layer = 2 * self.model.n_factors, 0
        for at, (name, (head, weight)) in zip(self.heads, _heads(self.model).items(), strict=True):
            low, high = head.rating_range or (0.0, 0.0)
            at["weight"], at["mean"], at["low"], at["high"] = weight, head.global_mean, low, high
            at["range"] = head.rating_range is not None
            if isinstance(head, Dot):
                at["has_bias"] = head.biases
                continue
            layers = head.layers()
            at["layers"] = len(layers)
            at["width"][: len(layers) + 1] = [*(inputs for _, inputs, _ in layers), 1]
            for i, (layer, inputs, outputs) in enumerate(layers):
                full = f"{name}.{layer}" if name else layer
                at["weights"][i], at["biases"][i] = self._offsets[f"{full}.weight"], self._offsets[f"{full}.bias"]
                at["inputs"][i], at["deltas"][i] = self.tape_width, self.tape_width + inputs
                self.tape_width += inputs + outputs
                rate = head.dropout[i]
                at["keep"][i] = 1.0 / (1.0 - rate)
                at["threshold"][i] = rng.dropout_threshold(rate)
                at["stream"][i] = _stream(self.seed, dropout_layer + i)
                wide = max(wide, inputs)
            dropout_layer += len(layers)
        self.wide = wide
        self.fusable = self.n_dense <= FUSED_WEIGHTS
        xp = self.xp
        self._device_heads = xp.asarray(self.heads.view(np.uint8).reshape(-1))
        self.dense = xp.zeros((self.slots, self.n_dense), self.dtype)
        self.decay = xp.asarray(np.concatenate(decay) if decay else np.zeros(1))
        self.gradient = xp.empty(max(self.n_dense, 1), self.dtype)

    def scratch(self, rows: int) -> int:
        return int(GROUP * (rows * self.stride + 2 * self.wide) * self.dtype.itemsize)

    def _view(self, slot: int, name: str) -> Any:
        if name in TABLES:
            return super()._view(slot, name)
        return self._dense(self.dense[slot], name)

    def _dense(self, flat: Any, name: str) -> Any:
        shape, start = self._shapes[name], self._offsets[name]
        return flat[start : start + int(np.prod(shape))].reshape(shape)

    def _arrays(self) -> list[Any]:
        return [self.table, self.dense]

    def _more(self, plan: Plan, data: tuple[Any, ...]) -> tuple[Any, ...]:
        plan.t[...] = self.t
        _, _, rating, order = data
        return (self._device_heads, self.dense, plan.tape, plan.d_rows, self.decay, order, plan.slot, rating, plan.t,
                np.int32(len(self.heads)), np.int32(self.n_dense), np.int32(self.wide))  # fmt: skip

    def _large(self, plan: Plan, data: tuple[Any, ...]) -> None:
        plan.t[...] = self.t
        super()._large(plan, data)

    def _launch_batches(self, plan: Plan, data: tuple[Any, ...]) -> None:
        k, setup, steps, xp = self.kernels, plan.setup, np.int32(plan.steps), self.xp
        n, batch, warps = np.int32(plan.n), np.int32(plan.batch), THREADS // 32
        segments = min(plan.batch, self.n_users) + min(plan.batch, self.n_items)
        user, item, rating, order = data
        late = not self.optimizer.sparse
        heads = self._device_heads

        def matrix(start: int, width: int, size: int) -> Any:
            begin = int(start) * plan.batch
            return plan.tape[begin : begin + size * width].reshape(size, width)

        def sweep(to: int) -> None:
            k.over("sweep", self.n_users + self.n_items,
                   (setup, self.table, plan.stamps, plan.rates, plan.idle, steps, np.int32(to)), warps)  # fmt: skip

        for i in range(plan.steps):
            step, size = np.int32(i), min(plan.batch, plan.n - i * plan.batch)
            count = np.int32(size)
            if late:
                k.over("batch_catch_up", segments,
                       (setup, plan.first, plan.row_of, self.table, plan.stamps, plan.rates, plan.idle, steps, step,
                        np.int32(0)), warps)  # fmt: skip
            k.over("net_clear", plan.d_rows.size, (plan.d_rows, np.int64(plan.d_rows.size)))
            for number, (name, head) in enumerate(zip(self.model.heads, self.heads, strict=True)):
                h, layers = np.int32(number), int(head["layers"])
                if not layers:
                    k.over("net_dot", size, (setup, heads, h, user, item, order, rating, self.table, plan.d_rows,
                                             plan.squared, n, batch, step), warps)  # fmt: skip
                    continue
                net = _heads(self.model)[name][0]
                names = [f"{name}.{layer}" if name else layer for layer, _, _ in net.layers()]
                weight = [self._view(0, f"{layer}.weight") for layer in names]
                bias = [self._view(0, f"{layer}.bias") for layer in names]
                x = [matrix(head["inputs"][j], int(head["width"][j]), size) for j in range(layers)]
                d = [matrix(head["deltas"][j], int(head["width"][j + 1]), size) for j in range(layers)]
                k.over("net_input", x[0].size,
                       (setup, heads, h, user, item, order, self.table, plan.t, x[0], n, batch, step))  # fmt: skip
                for j in range(layers - 1):
                    xp.matmul(x[j], weight[j], out=x[j + 1])  # (F7)
                    k.over("net_activate", x[j + 1].size,
                           (heads, h, np.int32(j), bias[j], plan.t, x[j + 1], count, step))  # fmt: skip
                k.over("net_loss", size, (heads, h, x[-1], weight[-1], bias[-1], order, rating, d[-1], plan.squared, n,
                                          batch, step), warps)  # fmt: skip
                for j in reversed(range(layers)):
                    xp.matmul(x[j].T, d[j], out=self._dense(self.gradient, f"{names[j]}.weight"))  # (B7)
                    xp.matmul(
                        plan.ones[:, :size], d[j], out=self._dense(self.gradient, f"{names[j]}.bias").reshape(1, -1)
                    )
                    # The inputs of the first layer are not needed any more: their derivatives take their place.
                    below = d[j - 1] if j else x[0]
                    xp.matmul(d[j], weight[j].T, out=below)
                    if j:
                        k.over("net_deactivate", below.size, (heads, h, np.int32(j), x[j], below, count))
                k.over("net_input_backward", x[0].size, (setup, heads, h, x[0], plan.t, plan.d_rows, count, step))
            if self.n_dense:
                k.over("net_move", self.n_dense, (setup, self.dense, self.gradient, self.decay, plan.rates,
                                                  np.int32(self.n_dense), step))  # fmt: skip
            k.over("net_rows", segments, (setup, plan.first, plan.begin, plan.row_of, plan.place, self.table,
                                          plan.stamps, plan.rates, plan.d_rows, n, batch, step), warps)  # fmt: skip
            if late and self.adam and self.l2 and (i + 1) % SWEEP == 0:
                sweep(i + 1)
        if late:
            sweep(plan.steps)

    def _predict(self, u: Any, v: Any, y: Any, head: str | None) -> None:
        wanted = self.model.heads.index(head or getattr(self.model, "output", ""))
        self.kernels.over(
            "predict_heads", len(u),
            (self.setup, self.table, self._device_heads, self.dense, np.int32(len(self.heads)), np.int32(self.wide),
             np.int32(wanted), u, v, y, np.int64(len(u))),
            GROUP, shared=self.scratch(2),
        )  # fmt: skip


# --- per-rating SGD -------------------------------------------------------------------------------------------------


class PerRating(Tables):
    """SGD without momentum, a step a rating: by tiles (deterministic), or racing. Rows may be stored in half precision.

    ``Trainer(..., dtype="float16", batch_size=1, backend="cupy")`` trains by this. `train` keeps the order that it is
    given, which only a warp can; `train_tiles`, `train_cut` and `train_racing` have the whole device at work.
    `minicf.tiles` cuts ratings into as many tiles as a CPU has use for; a GPU has use for far more: `train_cut`.

    Parameters
    ----------
    model : Dot or DotBias
    optimizer : SGD
        ``sparse=True``, or no weight decay: a step may move no other rows than its rating's.
    storage : "float32", "float16" or "float64"
        Of the rows in memory. The arithmetic of float16 is in float32.
    workers : int
        Blocks of users and of items, into which the ratings are cut. Each round has so many tiles; more of them keep
        more of the device at work, and leave each with fewer ratings.
    """

    def __init__(
        self, model: Dot, optimizer: Optimizer, weights: Weights, storage: str = "float32", workers: int = 1024
    ) -> None:
        self.storage, self.workers = np.dtype(storage), workers
        self.half = storage == "float16"
        super().__init__(model, optimizer, weights, 0, "float32" if self.half else storage)
        if not self._moves_only_its_rows:
            raise ValueError(
                f"a step of {optimizer!r} moves other rows than its rating's: it must be SGD without momentum, "
                "and any weight decay decay='per_rating' or sparse=True"
            )

    def _prepare_heads(self) -> None:
        rows = self.n_users + self.n_items
        self.kernels = Kernels(options(self.setup, self.dtype, THREADS, False, self.half))
        self.table = self.xp.zeros((rows, 1, self.stride), self.storage)

    def weights(self) -> dict[str, np.ndarray]:
        return {name: value.astype(self.dtype) for name, value in super().weights().items()}

    def _predict(self, u: Any, v: Any, y: Any, head: str | None) -> None:
        table = self.table.astype(self.dtype) if self.half else self.table
        self.kernels.over("predict_pairs", len(u), (self.setup, table, u, v, y, np.int64(len(u))), THREADS // 32)

    def _steps(self, user: Any, item: Any, rating: Any, order: Any, batch: int, rates: np.ndarray) -> np.ndarray:
        """For `train`, whose order is to be kept: by a single warp."""
        if batch != 1:
            raise ValueError(f"PerRating goes rating by rating: batch_size must be 1, it is {batch}")
        ends = np.flatnonzero(np.append(rates[1:] != rates[:-1], True)) + 1  # of runs of one learning rate
        starts = np.stack([np.append(0, ends[:-1]), ends], axis=1).astype(np.int32)
        xp, data = self.xp, self._data(user, item, rating)
        done = self._in_tiles(data, xp.asarray(order), xp.asarray(starts), rates[ends - 1], blocks=1)
        return np.append(done.squared_error, done.failed_step)

    def tiled(self, user: Any, item: Any, order: Any) -> tuple[Any, Any]:
        """The order of `train_cut`, rows of the table (n,), and where its tiles begin (rounds, tiles + 1)."""
        xp, n, w = self.xp, len(order), self.workers
        bits = max(n - 1, 0).bit_length()
        keys, tiled, starts = xp.empty(n, np.uint64), xp.empty(n, np.int32), xp.empty((w, w + 1), np.int32)
        sizes = np.int32(n), np.int32(w), np.int32(bits)
        self.kernels.over("tile_keys", n, (order, user, item, keys, *sizes))
        keys.sort()
        self.kernels.over("tile_order", max(n, w * (w + 1)), (keys, order, tiled, starts, *sizes))
        return tiled, starts

    def train_cut(self, user: Any, item: Any, rating: Any, order: Any, learning_rates: Any) -> Progress:
        """Go through `order`, cut into tiles; the result is that of one rating after the other in that new order.

        Parameters
        ----------
        user, item, rating, order
            As for `train`.
        learning_rates : float, or array of them, one for each of the `workers` rounds
        """
        with self._device:
            data = self._data(user, item, rating)
            tiled, starts = self.tiled(data[0], data[1], self.xp.asarray(order))
            return self._in_tiles(data, tiled, starts, learning_rates)

    def train_racing(self, user: Any, item: Any, rating: Any, order: Any, learning_rate: float) -> Progress:
        """Go through `order` without regard for rows that several ratings name at once. Not reproducible."""
        with self._device:
            squared = self.xp.empty(len(order), self.dtype)
            self.kernels.over(
                "sgd_racing", len(order),
                (self.setup, self._stored, *self._data(user, item, rating), self.xp.asarray(order),
                 np.float64(learning_rate), squared, np.int32(len(order))),
            )  # fmt: skip
            return self._taken(squared)

    @property
    def _stored(self) -> Any:
        return self.table.view(np.uint16) if self.half else self.table


class Half(PerRating):
    """What ``dtype="float16"`` compiles to."""

    def __init__(self, model: Dot, optimizer: Optimizer, weights: Weights, seed: int, dtype: Any) -> None:
        super().__init__(model, optimizer, weights, "float16")


# --- the best items -------------------------------------------------------------------------------------------------


@functools.cache
def _selecting(device: int, threads: int, processors: int | None) -> Kernels:
    return Kernels(options(_struct(SETUP, {"stride": 4, "sparse": 1}), np.dtype(np.float32), threads, False))


def select(scores: Any, skip: scoring.Skip, n: int, index: np.ndarray, best: np.ndarray) -> None:
    """As `minicf.scoring.select`, of scores on the current device; `index` and `best` are the host's."""
    import cupy

    count, items = scores.shape
    kernels = _selecting(cupy.cuda.Device().id, THREADS, PROCESSORS)
    # A warp's list must fit in shared memory beside those of its block.
    threads = 32 * max(1, min(THREADS // 32, (48 << 10) // (8 * n)))
    shared = threads // 32 * 8 * n
    if shared > kernels.shared_limit:
        scoring.select(scores.get(), skip, n, index, best)
        return
    begin = np.asarray(skip.start) - skip.start[0]
    seen = np.ascontiguousarray(skip.items[skip.start[0] : skip.start[-1]], np.int32)
    seen = seen if len(seen) else np.zeros(1, np.int32)
    found, values = cupy.empty((count, n), np.int32), cupy.empty((count, n), np.float32)
    kernels.over(
        "top_items", count,
        (scores, cupy.asarray(begin.astype(np.int64)), cupy.asarray(seen), found, values, np.int32(count),
         np.int32(items), np.int32(n)),
        threads // 32, threads=threads, shared=shared,
    )  # fmt: skip
    index[...], best[...] = found.get(), values.get()
