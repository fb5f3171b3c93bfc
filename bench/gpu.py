"""Training on a GPU, against PyTorch (eager, and with the step in a CUDA graph) and JAX on the same device.

``python -m bench.gpu`` runs every case and appends to ``bench/results/gpu.csv``; ``--case NAME`` runs some, ``--list``
names them, ``--turns N`` sets how often each contender is timed.

In a case, every contender first trains a short way from the same weights, and is compared with the NumPy reference in
float64; one that computes something else is not timed. Then they take turns. Times are of whole calls: for minicf that
includes uploading the order and the rates, sorting and fetching the loss; device events time the same stretch.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minicf import scoring
from minicf.backends import cuda, get_backend
from minicf.backends import numpy as plain
from minicf.backends.cuda import device, top
from minicf.backends.cuda.per_rating import PerRating
from minicf.data import Bags, Batch
from minicf.models import DotBias, Model, Net
from minicf.models.scorers import dot_vectors
from minicf.optim import SGD, Adam, Optimizer
from minicf.solvers import Gradient, Part
from minicf.tiles import Tiles

RESULTS = Path(__file__).parent / "results" / "gpu.csv"
NEAR = 2e-3
"""Largest distance from the reference, root mean square over root mean square: float32 lands far below it, another
optimiser or a forgotten term far above."""


@dataclass(frozen=True)
class Case:
    """One setting that all contenders train in."""

    name: str
    model: Model
    optimizer: Optimizer
    batch: int
    users: int
    items: int
    ratings: int
    steps: int
    """Steps of a turn."""


SMALL = {"users": 671, "items": 9066, "ratings": 80_000, "steps": 1250}
WIDE = {"users": 162_541, "items": 59_047, "ratings": 8_000_000}
BIAS = DotBias(50, rating_range=(0.0, 5.5))
NET = Net(50, hidden=(70,), dropout=0.0)
"""Without dropout, whose random numbers differ between frameworks, so that results can be compared."""

CASES = {
    case.name: case
    for case in (
        Case("adam-l2-64", BIAS, Adam(1e-3, weight_decay=1e-5), 64, **SMALL),
        Case("adam-64", BIAS, Adam(1e-3), 64, **SMALL),
        Case("momentum-l2-64", BIAS, SGD(0.05, momentum=0.9, weight_decay=1e-5), 64, **SMALL),
        *(
            Case(f"adam-{rows}-{batch}", DotBias(64), Adam(1e-3, sparse=rows == "sparse"), batch, **WIDE, steps=100)
            for rows in ("sparse", "dense")
            for batch in (8192, 65536)
        ),
        Case("net-64", NET, Adam(1e-3), 64, **SMALL),
        Case("net-8192", NET, Adam(1e-3), 8192, 671, 9066, 80_000, 9),
    )
}


def synthetic(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratings of that shape: popularity of items falls as a power, ratings are in halves."""
    random = np.random.default_rng(0)
    user = random.integers(0, case.users, case.ratings).astype(np.int32)
    item = np.minimum(case.items * random.power(0.25, case.ratings), case.items - 1).astype(np.int32)
    rating = (random.integers(1, 11, case.ratings) / 2).astype(np.float32)
    for array in (user, item, rating):
        array.setflags(write=False)
    return user, item, rating


class Contender:
    """Trains; subclasses hold one engine."""

    name: str

    def __init__(self, case: Case, data: tuple[np.ndarray, ...], weights: dict[str, np.ndarray]) -> None:
        raise NotImplementedError

    def train(self, order: np.ndarray) -> None:
        """Take a step for each batch of the order, and wait for the device."""
        raise NotImplementedError

    def weights(self) -> dict[str, np.ndarray]:
        raise NotImplementedError


class MiniCF(Contender):
    name = "minicf"

    def __init__(self, case: Case, data: tuple[np.ndarray, ...], weights: dict[str, np.ndarray]) -> None:
        self.case, self.data = case, data
        self.program = cuda.compile(case.model, Gradient(case.optimizer, batch_size=case.batch), weights, 0, "float32")

    def train(self, order: np.ndarray) -> None:
        self.program.run(Batch(*self.data), Part("batches", order, self.case.optimizer.lr))

    def weights(self) -> dict[str, np.ndarray]:
        return self.program.weights()


class Torch(Contender):
    """PyTorch as one writes it: embeddings, autograd, torch.optim (fused), the order and the data on the device."""

    name = "PyTorch eager"
    device = "cuda"

    def __init__(self, case: Case, data: tuple[np.ndarray, ...], weights: dict[str, np.ndarray]) -> None:
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise ImportError("PyTorch has no CUDA device")
        self.torch, self.case = torch, case
        self.data = [torch.tensor(np.array(x, dtype=t), device=self.device)
                     for x, t in zip(data, (np.int64, np.int64, np.float32), strict=True)]  # fmt: skip
        optimizer = case.optimizer
        sparse = isinstance(optimizer, Adam) and optimizer.sparse
        self.tables = {
            name: torch.nn.Embedding.from_pretrained(
                torch.tensor(w.reshape(len(w), -1), dtype=torch.float32, device=self.device),
                freeze=False,
                sparse=sparse,
            )
            for name, w in weights.items()
            if name.startswith(("user_", "item_"))
        }
        self.dense = {
            name: torch.nn.Parameter(torch.tensor(w, dtype=torch.float32, device=self.device))
            for name, w in weights.items()
            if name not in self.tables
        }
        parameters = [*(t.weight for t in self.tables.values()), *self.dense.values()]
        self.optimizer: Any
        if isinstance(optimizer, SGD):
            self.optimizer = torch.optim.SGD(
                parameters, optimizer.lr, momentum=optimizer.momentum, weight_decay=float(optimizer.weight_decay)  # type: ignore[arg-type]
            )  # fmt: skip
        elif sparse:
            self.optimizer = torch.optim.SparseAdam(parameters, optimizer.lr)
        else:
            self.optimizer = torch.optim.Adam(
                parameters, optimizer.lr, weight_decay=float(optimizer.weight_decay), **self.adam()  # type: ignore[arg-type]
            )  # fmt: skip

    def adam(self) -> dict[str, Any]:
        return {"fused": True} if self.device == "cuda" else {}

    def loss(self, user: Any, item: Any, rating: Any) -> Any:
        torch, model = self.torch, self.case.model
        p, q = self.tables["user_factors"](user), self.tables["item_factors"](item)
        if isinstance(model, Net):
            x = torch.cat([p, q], 1)
            for i in range(len(model.hidden)):
                x = torch.relu(x @ self.dense[f"hidden.{i}.weight"] + self.dense[f"hidden.{i}.bias"])
            y = (x @ self.dense["output.weight"] + self.dense["output.bias"])[:, 0]
        else:
            y = (p * q).sum(1) + self.tables["user_bias"](user)[:, 0] + self.tables["item_bias"](item)[:, 0]
        if model.rating_range is not None:
            low, high = model.rating_range
            y = low + (high - low) * torch.sigmoid(y)
        return torch.nn.functional.mse_loss(y, rating)

    def step(self, rows: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(*(x[rows] for x in self.data)).backward()
        self.optimizer.step()

    def train(self, order: np.ndarray) -> None:
        order = self.torch.tensor(np.array(order, dtype=np.int64), device=self.device)
        for rows in order.split(self.case.batch):
            self.step(rows)
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def weights(self) -> dict[str, np.ndarray]:
        out = {name: t.weight.detach().cpu().numpy() for name, t in self.tables.items()}
        out = {name: w[:, 0] if name.endswith("bias") else w for name, w in out.items()}
        return out | {name: w.detach().cpu().numpy() for name, w in self.dense.items()}


class TorchGraph(Torch):
    """The same, its step recorded in a CUDA graph and replayed; whole batches only."""

    name = "PyTorch CUDA graph"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if isinstance(self.case.optimizer, Adam) and self.case.optimizer.sparse:
            raise ImportError("sparse gradients cannot be captured in a CUDA graph")
        self.rows = self.torch.zeros(self.case.batch, dtype=self.torch.int64, device="cuda")
        before = {name: w.copy() for name, w in self.weights().items()}
        stream = self.torch.cuda.Stream()
        stream.wait_stream(self.torch.cuda.current_stream())
        with self.torch.cuda.stream(stream):
            for _ in range(3):
                self.step(self.rows)
        self.torch.cuda.current_stream().wait_stream(stream)
        self.graph = self.torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with self.torch.cuda.graph(self.graph):
            self.step(self.rows)
        # As before the warm-up.
        with self.torch.no_grad():
            for name, w in before.items():
                target = self.tables[name].weight if name in self.tables else self.dense[name]
                target.copy_(self.torch.tensor(w.reshape(target.shape)))
            for state in self.optimizer.state.values():
                for value in state.values():
                    if self.torch.is_tensor(value):
                        value.zero_()

    def adam(self) -> dict[str, Any]:
        return {"fused": True, "capturable": True}

    def train(self, order: np.ndarray) -> None:
        order = self.torch.tensor(np.array(order, dtype=np.int64), device="cuda")
        for rows in order.split(self.case.batch):
            if len(rows) < self.case.batch:
                raise ValueError("a graph takes whole batches")
            self.rows.copy_(rows)
            self.graph.replay()
        self.torch.cuda.synchronize()


class Jax(Contender):
    """JAX: the steps of a call in one jitted scan."""

    name = "JAX scan"

    def __init__(self, case: Case, data: tuple[np.ndarray, ...], weights: dict[str, np.ndarray]) -> None:
        import jax
        import jax.numpy as jnp

        if jax.default_backend() != "gpu":
            raise ImportError("JAX has no GPU backend")
        optimizer, model = case.optimizer, case.model
        if optimizer.sparse:
            raise ImportError("JAX has no sparse Adam")
        self.jax, self.jnp, self.case = jax, jnp, case
        self.data = tuple(jnp.asarray(x) for x in data)
        self.w = {name: jnp.asarray(w, jnp.float32) for name, w in weights.items()}
        zeros = jax.tree.map(jnp.zeros_like, self.w)
        self.state = (zeros, jax.tree.map(jnp.zeros_like, self.w), jnp.zeros((), jnp.int32))
        decay, lr = float(optimizer.weight_decay), optimizer.lr  # type: ignore[arg-type]

        def loss(w: Any, user: Any, item: Any, rating: Any) -> Any:
            p, q = w["user_factors"][user], w["item_factors"][item]
            if isinstance(model, Net):
                x = jnp.concatenate([p, q], 1)
                for i in range(len(model.hidden)):
                    x = jnp.maximum(x @ w[f"hidden.{i}.weight"] + w[f"hidden.{i}.bias"], 0)
                y = (x @ w["output.weight"] + w["output.bias"])[:, 0]
            else:
                y = (p * q).sum(1) + w["user_bias"][user] + w["item_bias"][item]
            if model.rating_range is not None:
                low, high = model.rating_range
                y = low + (high - low) * jax.nn.sigmoid(y)
            return jnp.mean((y - rating) ** 2)

        def step(carry: Any, rows: Any) -> Any:
            w, (m, v, t) = carry
            g = jax.grad(loss)(w, *(x[rows] for x in self.data))
            g = jax.tree.map(lambda g, w: g + decay * w, g, w)
            t = t + 1
            if isinstance(optimizer, Adam):
                b1, b2 = optimizer.betas
                m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
                v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
                c1, c2 = 1 - b1**t, 1 - b2**t
                w = jax.tree.map(lambda w, m, v: w - lr / c1 * m / (jnp.sqrt(v / c2) + optimizer.eps), w, m, v)
            else:
                m = jax.tree.map(lambda m, g: optimizer.momentum * m + g, m, g)  # type: ignore[attr-defined]
                w = jax.tree.map(lambda w, m: w - lr * m, w, m)
            return (w, (m, v, t)), None

        self.scan = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches)[0])

    def train(self, order: np.ndarray) -> None:
        batches = self.jnp.asarray(order.reshape(-1, self.case.batch))
        self.w, self.state = self.scan((self.w, self.state), batches)
        self.jax.block_until_ready(self.w)

    def weights(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(w) for name, w in self.w.items()}


CONTENDERS: tuple[type[Contender], ...] = (MiniCF, Torch, TorchGraph, Jax)


def distance(weights: dict[str, np.ndarray], reference: dict[str, np.ndarray], start: dict[str, np.ndarray]) -> float:
    """How far the weights moved otherwise than the reference's: the worst of all arrays, relative to the movement."""

    def norm(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))

    return max(norm(weights[n] - w) / max(norm(w - start[n]), 1e-12) for n, w in reference.items())


def quartiles(x: list[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(x, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the host's clock and between device events; `work` ends when the device has."""
    import cupy

    first, last = cupy.cuda.Event(), cupy.cuda.Event()
    first.record()
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    last.record()
    last.synchronize()
    return seconds, cupy.cuda.get_elapsed_time(first, last) / 1e3


def copy_bandwidth(megabytes: int = 1024) -> float:
    """Bytes a second that a device-to-device copy reads and writes: the ceiling of all that is bound by memory."""
    import cupy

    source = cupy.ones(megabytes << 18, np.float32)
    target = cupy.zeros(megabytes << 18, np.float32)
    target[...] = source
    times = []
    for _ in range(9):
        first, last = cupy.cuda.Event(), cupy.cuda.Event()
        first.record()
        target[...] = source
        last.record()
        last.synchronize()
        times.append(cupy.cuda.get_elapsed_time(first, last) / 1e3)
    return 2 * source.nbytes / float(np.median(times))


BARRIER = """
extern "C" __global__ void __launch_bounds__(THREADS, 1) only_barriers(unsigned* barrier, int n) {
    for (int i = 0; i < n; ++i) {
        grid_arrive(barrier);
        grid_wait(barrier, (unsigned)(i + 1) * gridDim.x);
    }
}
"""


def barrier_seconds(n: int = 10_000) -> float:
    """Time of one grid-wide barrier with nothing to do between: the floor of a step of a small batch."""
    import cupy

    options = ("-std=c++17", "-DNETS=0", f"-DTHREADS={device.THREADS}")
    module = cupy.RawModule(code=device.source() + BARRIER, options=options, enable_cooperative_groups=True)
    kernel = module.get_function("only_barriers")
    blocks = int(cupy.cuda.Device().attributes["MultiProcessorCount"])
    times = []
    for _ in range(5):
        barrier = cupy.zeros(1, np.uint32)
        first, last = cupy.cuda.Event(), cupy.cuda.Event()
        first.record()
        kernel((blocks,), (device.THREADS,), (barrier, np.int32(n)))
        last.record()
        last.synchronize()
        times.append(cupy.cuda.get_elapsed_time(first, last) / 1e3 / n)
    return float(np.median(times))


def counted_bytes(case: Case, data: tuple[np.ndarray, ...], order: np.ndarray) -> float:
    """The fewest bytes that a step of a large batch must move: rows and state that it names, read and written once,
    a row of the other side for each rating and side, indices and ratings."""
    slots = 1 + len(case.optimizer.slots())
    row = 4 * (case.model.n_factors + 1)
    total = 0.0
    batches = [order[i : i + case.batch] for i in range(0, len(order), case.batch)]
    for rows in batches:
        named = len(np.unique(data[0][rows])) + len(np.unique(data[1][rows]))
        total += named * row * slots * 2 + 2 * len(rows) * (row + 12)
    return total / len(batches)


def about() -> dict[str, str]:
    """Device, driver, versions, commit."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    versions = [f"cupy {cupy.__version__}", f"numpy {np.__version__}"]
    for name in ("torch", "jax"):
        try:
            versions.append(f"{name} {__import__(name).__version__}")
        except ImportError:
            versions.append(f"no {name}")
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": properties["name"].decode(),
        "driver": str(cupy.cuda.runtime.driverGetVersion()),
        "cuda": str(cupy.cuda.runtime.runtimeGetVersion()),
        "versions": ", ".join(versions),
        "commit": git.stdout.strip(),
    }


def run_case(case: Case, turns: int, check_steps: int = 20) -> list[dict[str, Any]]:
    """Check every contender, then time those that are right, in turns."""
    data = synthetic(case)
    start = case.model.init_weights(case.users, case.items, 0)
    random = np.random.default_rng(1)
    whole = min(case.steps, len(data[0]) // case.batch) * case.batch
    order = random.permutation(len(data[0]))[:whole].astype(np.int32)
    check = order[: min(check_steps, whole // case.batch) * case.batch]
    reference = plain.compile(case.model, Gradient(case.optimizer, batch_size=case.batch), start, 0, "float64")
    reference.run(Batch(*data), Part("batches", check, case.optimizer.lr))
    rows, right = [], {}
    for kind in CONTENDERS:
        row: dict[str, Any] = {"case": case.name, "contender": kind.name}
        rows.append(row)
        try:
            contender = kind(case, data, start)
            contender.train(check)
        except ImportError as error:
            row["note"] = str(error)
            continue
        row["distance"] = far = distance(contender.weights(), reference.weights(), start)
        if not far < NEAR:
            row["note"] = f"not timed: {far:.2g} away from the reference"
            continue
        contender.train(order)  # compiles, captures, warms up
        contender.train(order)
        right[kind.name] = contender, row, []
    for _ in range(turns):
        for contender, _, times in right.values():
            times.append(timed(lambda contender=contender: contender.train(order)))
    steps = whole // case.batch
    for _, row, times in right.values():
        low, middle, high = quartiles([t[0] / steps for t in times])
        row |= {"turns": turns, "step_q1": low, "step_median": middle, "step_q3": high}
        row["step_device"] = quartiles([t[1] / steps for t in times])[1]
        row["ratings_per_second"] = case.batch / middle
    if right.get("minicf") and case.batch > device.SMALL_BATCH:
        row = right["minicf"][1]
        row["counted_bytes"] = counted_bytes(case, data, order)
        row["counted_bandwidth"] = row["counted_bytes"] / row["step_median"]
    return rows


class Table:
    """As much of `Ratings` as `Tiles` needs."""

    weight = None

    def __init__(self, user: np.ndarray, item: np.ndarray, rating: np.ndarray, users: int, items: int) -> None:
        self.user, self.item, self.rating = user, item, rating
        self.n_users, self.n_items = users, items

    def __len__(self) -> int:
        return len(self.user)

    def user_counts(self) -> np.ndarray:
        return np.bincount(self.user, minlength=self.n_users)

    def item_counts(self) -> np.ndarray:
        return np.bincount(self.item, minlength=self.n_items)


WAYS = {"tiles": "train_cut", "racing": "train_racing"}
"""Per-rating SGD on a GPU: without conflicts, the same bits each time; and regardless of them, not reproducible."""


def per_rating(
    turns: int, ratings: int = 20_000_000, users: int = 162_541, items: int = 59_047, k: int = 128, workers: int = 4096
) -> list[dict[str, Any]]:
    """Tiles beside racing, in half and single precision: ratings a second, and the error on held-out planted data,
    beside that of the CPU (Numba, float32) after as many epochs, which is not timed."""
    random = np.random.default_rng(0)
    user = random.integers(0, users, ratings).astype(np.int32)
    item = np.minimum(items * random.power(0.25, ratings), items - 1).astype(np.int32)
    p, q = (random.normal(size=(n, 8)).astype(np.float32) for n in (users, items))
    rating = np.empty(ratings, np.float32)
    for i in range(0, ratings, 1 << 20):  # bounds the memory
        part = slice(i, i + (1 << 20))
        rating[part] = 3.5 + 0.35 * (p[user[part]] * q[item[part]]).sum(1)
    rating += random.normal(0, 0.3, ratings).astype(np.float32)
    held = slice(ratings - ratings // 20, None)
    kept = slice(None, ratings - ratings // 20)
    order = random.permutation(ratings - ratings // 20).astype(np.int32)
    for array in (user, item, rating):
        array.setflags(write=False)
    model = DotBias(k, global_mean=3.5, init=("normal", 0.0, 0.05))
    optimizer = SGD(0.01, weight_decay=0.01, decay="per_rating")
    start = model.init_weights(users, items, 0)

    def rmse(program: Any) -> float:
        error = program.predict(Batch(user[held], item[held])) - rating[held]
        return float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))

    tiles = Tiles(Table(user[kept], item[kept], rating[kept], users, items))  # type: ignore[arg-type]
    cpu = get_backend("numba").compile(model, Gradient(optimizer, batch_size=1), start)
    for epoch in range(turns + 1):
        cpu.run(tiles, Part("tiles", tiles.rounds(0, epoch), np.full(tiles.n_blocks, optimizer.lr)))
    expected = rmse(cpu)
    rows = []
    for storage in ("float32", "float16"):
        for name, way in WAYS.items():
            program = PerRating(model, optimizer, start, storage, workers)
            call = getattr(program, way)
            times = [timed(lambda call=call: call(user, item, rating, order, optimizer.lr)) for _ in range(turns + 1)][
                1:
            ]
            low, middle, high = quartiles([t[0] for t in times])
            # Both rows of a rating read and written, its indices and stars read, its error written.
            counted = len(order) * (4 * (k + 1) * program.storage.itemsize + 20)
            rows.append({
                "case": "per-rating", "contender": f"minicf {storage} {name}", "turns": turns,
                "epoch_q1": low, "epoch_median": middle, "epoch_q3": high, "ratings_per_second": len(order) / middle,
                "counted_bytes": counted, "counted_bandwidth": counted / middle, "rmse": rmse(program),
                "rmse_cpu": expected, "note": f"K = {k}, after {turns + 1} epochs",
            })  # fmt: skip
    return rows


class MiniCFTop:
    name = "minicf"

    def __init__(self, weights: dict[str, np.ndarray], model: DotBias) -> None:
        import cupy

        self.cupy, self.score = cupy, model.scorer(weights, xp=cupy)

    def top(self, rows: np.ndarray, items: int, n: int, skip: Bags) -> np.ndarray:
        return scoring.top_n(
            self.score, rows, items, n, skip, select=top.select, xp=self.cupy, block_bytes=top.SCORES_BYTES
        )[1]


class TorchTop:
    """Blocks of users times all items, what was seen struck out, torch.topk; everything on the device beforehand."""

    name = "PyTorch eager"
    device = "cuda"

    def __init__(self, weights: dict[str, np.ndarray], model: DotBias) -> None:
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise ImportError("PyTorch has no CUDA device")
        self.torch = torch
        users, items = dot_vectors(weights, model.biases)
        self.users, self.items = (torch.tensor(x, device=self.device) for x in (users, items))

    def top(self, rows: np.ndarray, items: int, n: int, skip: Bags, block: int = 1024) -> np.ndarray:
        torch, out = self.torch, np.empty((len(rows), n), np.float32)
        seen = torch.tensor(skip.index.astype(np.int64), device=self.device)
        owner = torch.tensor(np.repeat(np.arange(len(rows)), np.diff(skip.start)), device=self.device)
        wanted = torch.tensor(np.asarray(rows, np.int64), device=self.device)
        for lo in range(0, len(rows), block):
            scores = self.users[wanted[lo : lo + block]] @ self.items.T
            part = slice(int(skip.start[lo]), int(skip.start[min(lo + block, len(rows))]))
            scores[owner[part] - lo, seen[part]] = -torch.inf
            out[lo : lo + block] = torch.topk(scores, n).values.cpu().numpy()
        return out


TOPS: tuple[type[Any], ...] = (MiniCFTop, TorchTop)


def top_ten(turns: int, users: int = 162_541, items: int = 59_047, k: int = 64) -> list[dict[str, Any]]:
    """The ten best items of every user, those seen left out; a sample is compared with NumPy's selection first."""
    random = np.random.default_rng(0)
    model = DotBias(k)
    weights = {name: w.astype(np.float32) for name, w in model.init_weights(users, items, 0).items()}
    counts = random.integers(20, 180, users)
    begin = np.concatenate([[0], np.cumsum(counts)])
    skip = Bags(begin, random.integers(0, items, begin[-1]).astype(np.int32))
    everyone = np.arange(users)
    sample = everyone[:50], items, 10, skip.take(everyone[:50])
    _, expected = scoring.top_n(model.scorer(weights), *sample)
    rows: list[dict[str, Any]] = []
    right = []
    for kind in TOPS:
        row: dict[str, Any] = {"case": "top-10", "contender": kind.name}
        rows.append(row)
        try:
            contender = kind(weights, model)
        except ImportError as error:
            row["note"] = str(error)
            continue
        if np.abs(contender.top(*sample) - expected).max() > 1e-5:
            row["note"] = "not timed: not the ten best"
            continue
        contender.top(everyone, items, 10, skip)
        right.append((contender, row, []))
    for _ in range(turns):
        for contender, _, times in right:
            times.append(timed(lambda contender=contender: contender.top(everyone, items, 10, skip))[0])
    for _, row, times in right:
        low, middle, high = quartiles(times)
        row |= {"turns": turns, "epoch_q1": low, "epoch_median": middle, "epoch_q3": high,
                "note": f"{users} users, {items} items, K = {k}"}  # fmt: skip
    return rows


COLUMNS = [
    "when",
    "device",
    "driver",
    "cuda",
    "versions",
    "commit",
    "copy_bandwidth",
    "barrier_seconds",
    "case",
    "contender",
    "turns",
    "step_q1",
    "step_median",
    "step_q3",
    "step_device",
    "epoch_q1",
    "epoch_median",
    "epoch_q3",
    "ratings_per_second",
    "counted_bytes",
    "counted_bandwidth",
    "rmse",
    "rmse_cpu",
    "distance",
    "note",
]


def record(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def main(arguments: list[str] | None = None) -> int:
    others: dict[str, Callable[[int], list[dict[str, Any]]]] = {"per-rating": per_rating, "top-10": top_ten}
    parser = argparse.ArgumentParser("python -m bench.gpu", description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--case", action="append", choices=[*CASES, *others], help="only these (may be repeated)")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join([*CASES, *others]))
        return 0
    if problem := cuda.unavailable():
        print(f"nothing was measured: {problem}")
        return 1
    shared: dict[str, Any] = about() | {"copy_bandwidth": copy_bandwidth(), "barrier_seconds": barrier_seconds()}
    print(shared)
    for name in given.case or [*CASES, *others]:
        rows = run_case(CASES[name], given.turns) if name in CASES else others[name](given.turns)
        record([shared | row for row in rows], given.out)
        for row in rows:
            print({key: f"{x:.4g}" if isinstance(x, float) else x for key, x in row.items()}, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
