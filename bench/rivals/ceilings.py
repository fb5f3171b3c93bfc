"""What this machine can do at best, measured in the same run: the floors in profile.md are taken from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from bench.data import Table
from bench.rivals import Contender, Task, Turn, timed

_jit = njit(fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy", nogil=True)


@_jit
def _rows(table, order, factor):  # type: ignore[no-untyped-def]
    """Read and write whole rows in the given order."""
    width = table.shape[1]
    for row in order:
        for j in range(width):
            table[row, j] *= factor


@_jit
def _multiply_add(x, rounds, a, b):  # type: ignore[no-untyped-def]
    """rounds multiply-adds on each number of a few that stay in registers, and enough of them to hide the latency."""
    for start in range(0, x.shape[0], 256):
        part = x[start : start + 256]
        for _ in range(rounds):
            for j in range(256):
                part[j] = part[j] * a + b


@_jit
def _roots(v, out, eps):  # type: ignore[no-untyped-def]
    """What an Adam step divides by; the division itself can be estimated, the root is the least."""
    for j in range(v.shape[0]):
        out[j] = np.sqrt(v[j]) + eps


class Ceiling(Contender):
    """One kind of work at a time; a turn's "ratings" are bytes, operations or elements."""

    packages = ("numba", "numpy")

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        self.what = task.options["what"]

    def prepare(self) -> None:
        random = np.random.default_rng(0)
        f = np.float32
        self.work: Any
        if self.what == "rows":
            size, row = int(self.task.options["bytes"]), 512
            table = np.ones((size // row, row // 4), f)
            order = random.integers(0, len(table), 200_000)
            self.work, self.amount = lambda: _rows(table, order, f(1)), 2.0 * row * len(order)
        elif self.what == "copy":
            source = np.ones(1 << 26, f)
            target = np.zeros_like(source)
            self.work, self.amount = lambda: np.copyto(target, source), 2.0 * source.nbytes
        elif self.what == "multiply-add":
            x = np.ones(1024, f)
            self.work, self.amount = lambda: _multiply_add(x, 20_000, f(0.999), f(0.001)), 2.0 * 20_000 * len(x)
        elif self.what == "roots":
            v, out = random.random(4096).astype(f), np.zeros(4096, f)

            def roots() -> None:
                for _ in range(1000):
                    _roots(v, out, f(1e-8))

            self.work, self.amount = roots, 1000.0 * len(v)
        else:
            a, b = (random.random((1024, 1024)).astype(f) for _ in range(2))
            self.work, self.amount = lambda: np.matmul(a, b, out=a), 2.0 * 1024**3

    def warm(self) -> None:
        self.work()
        self.work()

    def turn(self) -> Turn:
        return Turn(timed(self.work), self.amount)
