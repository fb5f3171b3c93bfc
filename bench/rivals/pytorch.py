"""PyTorch: a loop with nothing in it that training does not need, and of its ways to write a step the fastest here."""

from __future__ import annotations

import time
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.data import Table
from bench.rivals import SEED, Contender, MiniBatch, Reached, Task, Turn, planted_tables, seen_rows, timed
from minicf.models import Dot, Model, Net
from minicf.optim import SGD, Adam, Optimizer


def embedding(table: Tensor, rows: Tensor) -> Tensor:
    return functional.embedding(rows, table)


def index_select(table: Tensor, rows: Tensor) -> Tensor:
    return table.index_select(0, rows)


def index(table: Tensor, rows: Tensor) -> Tensor:
    return table[rows]


def sparse_embedding(table: Tensor, rows: Tensor) -> Tensor:
    return functional.embedding(rows, table, sparse=True)


def predict(model: Model, w: dict[str, Tensor], user: Tensor, item: Tensor, lookup: Any) -> Tensor:
    """Predictions of a batch, with dropout. Biases of users and items are (n, 1), layers (inputs, outputs)."""
    p, q = lookup(w["user_factors"], user), lookup(w["item_factors"], item)
    if isinstance(model, Dot):
        s = (p * q).sum(1)
        if model.biases:
            s = s + (lookup(w["user_bias"], user) + lookup(w["item_bias"], item))[:, 0]
    else:
        assert isinstance(model, Net)
        x = torch.cat([p, q], 1)
        for i, rate in enumerate(model.dropout):
            x = functional.dropout(x, rate) if rate else x
            layer = f"hidden.{i}" if i < len(model.hidden) else "output"
            x = torch.addmm(w[f"{layer}.bias"], x, w[f"{layer}.weight"])
            x = x.relu_() if i < len(model.hidden) else x
        s = x[:, 0]
    if model.global_mean:
        s = s + model.global_mean
    if model.rating_range is None:
        return s
    low, high = model.rating_range
    return low + (high - low) * torch.sigmoid(s)


def in_torch(ours: Optimizer, w: dict[str, Tensor], **options: bool) -> torch.optim.Optimizer:
    """torch.optim's equal of an optimizer. Weights of the same decay share a group: a step costs a call for each."""
    if not isinstance(ours, (SGD, Adam)) or ours.decay == "per_rating":
        raise NotImplementedError("SGD and Adam with torch's own weight decay alone")
    groups: dict[float, list[Tensor]] = {}
    for name, weight in w.items():
        groups.setdefault(ours.decay_of(name), []).append(weight)
    if ours.sparse:
        if isinstance(ours, SGD) or list(groups) != [0.0] or not all(name.startswith(("user", "item")) for name in w):
            raise NotImplementedError("of sparse updates, SparseAdam on tables without decay alone")
        return torch.optim.SparseAdam(groups[0.0], lr=ours.lr, betas=ours.betas, eps=ours.eps)
    given = [{"params": weights, "weight_decay": decay} for decay, weights in groups.items()]
    if isinstance(ours, SGD):
        if ours.decay == "decoupled":
            raise NotImplementedError("torch.optim.SGD has l2 alone")
        return torch.optim.SGD(given, lr=ours.lr, momentum=ours.momentum, nesterov=ours.nesterov, **options)
    kind = torch.optim.AdamW if ours.decay == "decoupled" else torch.optim.Adam
    return kind(given, lr=ours.lr, betas=ours.betas, eps=ours.eps, amsgrad=ours.amsgrad, **options)


class Eager(MiniBatch):
    """Eager mode. Of torch's updates (fused, foreach, plain) and ways to read rows, those that are fastest here."""

    packages = ("torch", "numpy")
    updates: tuple[str, ...] = ("plain", "foreach", "fused")
    lookups: tuple[Any, ...] = (embedding, index_select, index)

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        torch.set_num_threads(task.threads)
        if self.optimizer.sparse:
            self.updates, self.lookups = ("plain",), (sparse_embedding,)
        self.update, self.lookup = self.updates[0], self.lookups[0]

    def prepare(self) -> None:
        begin = time.perf_counter()
        t = self.table
        # The epoch's order is applied beforehand, and batches are cut.
        self.columns = [torch.as_tensor(x[self.order]) for x in (t.user.astype(np.int64), t.item.astype(np.int64))]
        self.columns.append(torch.as_tensor(t.rating[self.order]))
        self.cut()
        self.prepare_s = time.perf_counter() - begin
        if len(self.updates) * len(self.lookups) > 1:
            self.choose()
        self.note = f"the fastest of its ways: {self.update}, {self.lookup.__name__}"
        if self.optimizer.sparse:
            self.note = "torch.optim.SparseAdam"
        self.build(self.model)
        first = timed(lambda: self.run(0, 1))
        self.compile_s = max(0.0, first - timed(lambda: self.run(0, 1)))

    def cut(self) -> None:
        users, items, ratings = (x.split(self.task.batch) for x in self.columns)
        self.batches = list(zip(users, items, ratings, strict=True))

    def choose(self) -> None:
        """Set the update and the lookup whose steps take the least time: turns in rounds, the least of each."""
        took: dict[tuple[str, Any], float] = {}
        for _, update in product(range(4), self.updates):
            self.update = update
            self.build(self.model)
            self.run(0, 1)
            count = max(1, min(self.steps, 15, int(0.2 / timed(lambda: self.run(0, 1)))))
            for lookup in self.lookups:
                self.lookup = lookup
                seconds = timed(partial(self.run, 0, count)) / count
                took[update, lookup] = min(took.get((update, lookup), seconds), seconds)
        self.update, self.lookup = min(took, key=lambda way: took[way])

    def build(self, model: Model) -> None:
        torch.manual_seed(SEED)
        self.now = model
        start = {name: value[:, None] if name.endswith("_bias") else value for name, value in self.start(model).items()}
        self.w = {name: torch.tensor(value, dtype=torch.float32).requires_grad_() for name, value in start.items()}
        options = {} if self.update == "plain" else {self.update: True}
        self.optim = in_torch(self.optimizer, self.w, **options)

    def run(self, first: int, count: int) -> None:
        model, w, lookup, optim = self.now, self.w, self.lookup, self.optim
        weights, groups = list(w.values()), optim.param_groups
        for step in range(first, first + count):
            user, item, rating = self.batches[step]
            if self.task.falling:
                for group in groups:
                    group["lr"] = float(self.rates[step])
            loss = functional.mse_loss(predict(model, w, user, item, lookup), rating)
            for weight in weights:
                weight.grad = None  # what zero_grad does, without its bookkeeping
            loss.backward()
            optim.step()

    def weights(self) -> dict[str, np.ndarray]:
        arrays = {name: value.detach().numpy().copy() for name, value in self.w.items()}
        return {name: value[:, 0] if name.endswith("_bias") else value for name, value in arrays.items()}


class Compiled(Eager):
    """torch.compile for loss and derivatives, and for the update."""

    updates = ("plain",)
    lookups = (embedding,)

    def prepare(self) -> None:
        super().prepare()
        self.note = "torch.compile of loss and update"

    def build(self, model: Model) -> None:
        super().build(model)
        torch._dynamo.reset()
        w, lookup, optim = self.w, self.lookup, self.optim
        self.loss = torch.compile(lambda u, v, r: functional.mse_loss(predict(model, w, u, v, lookup), r))
        self.step = torch.compile(lambda: optim.step())
        for group in optim.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]))  # as a tensor, a new rate compiles nothing anew

    def run(self, first: int, count: int) -> None:
        weights, rates = list(self.w.values()), [group["lr"] for group in self.optim.param_groups]
        for step in range(first, first + count):
            if self.task.falling:
                for rate in rates:
                    rate.fill_(float(self.rates[step]))
            loss = self.loss(*self.batches[step])
            for weight in weights:
                weight.grad = None
            loss.backward()
            self.step()


class Top(Contender):
    """Blocks of scores by one matrix product, seen items put to minus infinity, `torch.topk`."""

    packages = ("torch", "numpy")

    def prepare(self) -> None:
        torch.set_num_threads(self.task.threads)
        t, options = self.table, self.task.options
        self.p, self.q = (torch.as_tensor(x) for x in planted_tables(t.n_users, t.n_items, options["k"]))
        begin = time.perf_counter()
        start, items = seen_rows(t)
        self.start = start
        self.seen_user = torch.as_tensor(np.repeat(np.arange(t.n_users), np.diff(start)))
        self.seen_item = torch.as_tensor(items.astype(np.int64))
        self.prepare_s = time.perf_counter() - begin

    def _run(self, users: int, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
        values, found = [], []
        for a in range(0, users, block):
            b = min(a + block, users)
            scores = self.p[a:b] @ self.q.T
            rows = slice(self.start[a], self.start[b])
            scores[self.seen_user[rows] - a, self.seen_item[rows]] = -torch.inf
            top = scores.topk(10, dim=1)
            values.append(top.values)
            found.append(top.indices)
        return torch.cat(values).numpy(), torch.cat(found).numpy()

    def check(self) -> dict[str, Any]:
        values, _ = self._run(min(2000, self.table.n_users))
        return {"scores": values}

    def warm(self) -> None:
        self._run(min(2000, self.table.n_users))

    def turn(self) -> Turn:
        n = self.table.n_users
        if self.task.options.get("quick"):
            n = min(n, 2000)
        return Turn(timed(lambda: self._run(n)), n)


class Reach(Reached, Eager):
    """A whole training from fresh weights to a validation error; the shuffling is torch's."""

    def prepare(self) -> None:
        super().prepare()
        self.note = f"{self.setting.text()}; {self.note}"

    def shuffle(self, epoch: int) -> None:
        order = torch.randperm(self.n)
        self.columns = [x[order] for x in self.columns]
        self.cut()
