"""PyTorch: the twins of the parity tests, in a loop with nothing in it that training does not need."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from bench.data import Table
from bench.rivals import SEED, Contender, MiniBatch, Reached, Task, Turn, planted_tables, seen_rows, timed
from minicf.models import Model
from tests.torch_twins import Stepper, Twin, uses_sparse_gradients


class Eager(MiniBatch):
    """Eager mode. Of torch's implementations of an update (fused, foreach, plain) the one that is fastest here."""

    packages = ("torch", "numpy")

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        torch.set_num_threads(task.threads)
        self.sparse = uses_sparse_gradients(self.optimizer)
        self.variants: list[dict[str, bool]] = [{}] if self.sparse else [{}, {"foreach": True}, {"fused": True}]

    def prepare(self) -> None:
        begin = time.perf_counter()
        t = self.table
        # The epoch's order is applied beforehand: a batch is a slice.
        self.user, self.item = (torch.as_tensor(x[self.order].astype(np.int64)) for x in (t.user, t.item))
        self.rating = torch.as_tensor(t.rating[self.order])
        self.prepare_s = time.perf_counter() - begin
        if len(self.variants) > 1:
            took = []
            for variant in list(self.variants):
                self.variants[0] = variant
                self.build(self.model)
                count = max(1, min(self.steps, 15, int(0.2 / timed(lambda: self.run(0, 1)))))
                took.append((min(timed(partial(self.run, 0, count)) for _ in range(3)) / count, variant))
            self.variants = [min(took, key=lambda pair: pair[0])[1]]
        self.note = "the fastest of fused, foreach, plain: " + (next(iter(self.variants[0]), "plain"))
        if self.sparse:
            self.note = "torch.optim.SparseAdam"
        self.build(self.model)
        first = timed(lambda: self.run(0, 1))
        self.compile_s = max(0.0, first - timed(lambda: self.run(0, 1)))

    def build(self, model: Model) -> None:
        torch.manual_seed(SEED)
        self.twin = Twin(model, self.start(model), torch.float32, self.sparse)
        self.optims = Stepper(self.twin, self.optimizer, **self.variants[0]).optims
        if len(self.twin.heads) != 1:
            raise ValueError("one head is enough to be timed")
        self.head = self.twin.heads[0]

    def run(self, first: int, count: int) -> None:
        batch, head, optims = self.task.batch, self.head, self.optims
        users, items, ratings = (x.split(batch) for x in (self.user, self.item, self.rating))
        groups = [group for optim in optims for group in optim.param_groups]
        for step in range(first, first + count):
            if self.task.falling:
                rate = float(self.rates[step])
                for group in groups:
                    group["lr"] = rate
            loss = functional.mse_loss(head(users[step], items[step]), ratings[step])
            for optim in optims:
                optim.zero_grad()
            loss.backward()
            for optim in optims:
                optim.step()

    def weights(self) -> dict[str, np.ndarray]:
        return self.twin.weights()


class Compiled(Eager):
    """torch.compile for loss and derivatives, and for the update."""

    packages = ("torch", "numpy")

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        self.variants = [{}]

    def prepare(self) -> None:
        super().prepare()
        self.note = "torch.compile of loss and update"

    def build(self, model: Model) -> None:
        super().build(model)
        torch._dynamo.reset()
        head = self.head
        self.loss = torch.compile(lambda u, v, r: functional.mse_loss(head(u, v), r))
        self.update = torch.compile(lambda: [optim.step() for optim in self.optims])
        for optim in self.optims:
            for group in optim.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]))  # as a tensor, a new rate compiles nothing anew

    def run(self, first: int, count: int) -> None:
        batch = self.task.batch
        users, items, ratings = (x.split(batch) for x in (self.user, self.item, self.rating))
        rates = [group["lr"] for optim in self.optims for group in optim.param_groups]
        for step in range(first, first + count):
            if self.task.falling:
                for rate in rates:
                    rate.fill_(float(self.rates[step]))
            loss = self.loss(users[step], items[step], ratings[step])
            for optim in self.optims:
                optim.zero_grad()
            loss.backward()
            self.update()


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
        self.user, self.item, self.rating = (x[order] for x in (self.user, self.item, self.rating))
