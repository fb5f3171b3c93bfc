"""implicit: `recommend` of its matrix factorisation model, with given factors."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from bench.rivals import Contender, Turn, planted_tables, seen_rows, timed


class Top(Contender):
    """The ten best items of every user without those that the user has rated."""

    packages = ("implicit", "numpy", "scipy")

    def prepare(self) -> None:
        t, k = self.table, self.task.options["k"]
        p, q = planted_tables(t.n_users, t.n_items, k)
        begin = time.perf_counter()
        start, items = seen_rows(t)
        ones = np.ones(len(items), np.float32)
        self.seen = scipy.sparse.csr_matrix((ones, items, start), shape=(t.n_users, t.n_items))
        self.prepare_s = time.perf_counter() - begin
        # As its own warning advises: it shares users among threads, and BLAS threads would come on top.
        self.limit = threadpool_limits(1, "blas")
        self.model = AlternatingLeastSquares(factors=k, num_threads=self.task.threads)
        self.model.user_factors, self.model.item_factors = p, q
        self.users = np.arange(t.n_users)

    def _run(self, n: int) -> Any:
        return self.model.recommend(self.users[:n], self.seen[:n], N=10, filter_already_liked_items=True)

    def check(self) -> dict[str, Any]:
        return {"scores": self._run(min(2000, self.table.n_users))[1]}

    def warm(self) -> None:
        self._run(min(2000, self.table.n_users))

    def turn(self) -> Turn:
        n = min(self.table.n_users, 2000) if self.task.options.get("quick") else self.table.n_users
        return Turn(timed(lambda: self._run(n)), n)
