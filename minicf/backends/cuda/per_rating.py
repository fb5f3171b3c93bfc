"""Train Dot and DotBias by SGD with a step per rating, in tiles or racing, also with rows in half precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicf.backends.cuda import device
from minicf.backends.cuda.device import Kernels
from minicf.backends.cuda.tables import Tables
from minicf.models import Dot, Weights
from minicf.optim import Optimizer
from minicf.solvers import Gradient, Part, Progress, Solver


class PerRating(Tables):
    """Run online SGD (batch size 1) without momentum: by tiles, which is reproducible, or racing, which is not.

    ``Trainer(..., dtype="float16", batch_size=1, backend="cupy")`` trains by this class. The order of the ratings
    is kept by a single warp alone; tiles (`shuffle="tiles"`), `train_cut` and `train_racing` use the whole device.
    `minicf.tiles` cuts the ratings into as many tiles as a CPU needs; a GPU needs many more: `train_cut`.

    Parameters
    ----------
    model : Dot or DotBias
    solver : Gradient with SGD, or SGD
        ``sparse=True``, or no weight decay: a step may update only the two rows of its rating.
    weights : dict of float arrays
        Initial weights; copied.
    storage : "float32", "float16" or "float64"
        Type of the rows in memory. The arithmetic of float16 is in float32.
    workers : int
        Number of blocks of users, and of blocks of items, into which the ratings are cut. Each round has `workers`
        tiles; a larger number uses more of the device and leaves fewer ratings to a tile.

    Raises
    ------
    ValueError
        An optimizer that updates other rows.
    """

    def __init__(
        self,
        model: Dot,
        solver: Solver | Optimizer | None,
        weights: Weights,
        storage: str = "float32",
        workers: int = 1024,
    ) -> None:
        self.storage, self.workers = np.dtype(storage), workers
        self.half = storage == "float16"
        solver = Gradient(solver, batch_size=1) if isinstance(solver, Optimizer) else solver
        super().__init__(model, solver, weights, 0, "float32" if self.half else storage)
        if solver is not None and not self._updates_only_rated_rows:
            raise ValueError(
                f"optimizer is {self.optimizer!r}; it must be SGD without momentum, without weight decay or with "
                "decay='per_rating' or sparse=True: a step may update only the two rows of its rating"
            )

    def _prepare_heads(self) -> None:
        rows = self.n_users + self.n_items
        self.kernels = Kernels(device.options(self.setup, self.dtype, device.THREADS, False, self.half))
        self.table = self.xp.zeros((rows, 1, self.stride), self.storage)

    def weights(self) -> dict[str, np.ndarray]:
        return {name: value.astype(self.dtype) for name, value in super().weights().items()}

    def _predict(self, u: Any, v: Any, y: Any, head: str | None) -> None:
        table = self.table.astype(self.dtype) if self.half else self.table
        arguments = (self.setup, table, u, v, y, np.int64(len(u)))
        self.kernels.over("predict_pairs", len(u), arguments, device.THREADS // 32)

    def _steps(self, user: Any, item: Any, rating: Any, order: Any, batch: int, rates: np.ndarray) -> np.ndarray:
        """Take the steps in the order of the ratings, by a single warp."""
        if batch != 1:
            raise ValueError(f"batch_size is {batch}; it must be 1 for a step per rating")
        ends = np.flatnonzero(np.append(rates[1:] != rates[:-1], True)) + 1  # of runs of one learning rate
        starts = np.stack([np.append(0, ends[:-1]), ends], axis=1).astype(np.int32)
        xp, data = self.xp, self._data(user, item, rating)
        done = self._run_tiles(data, xp.asarray(order), xp.asarray(starts), rates[ends - 1], blocks=1)
        return np.append(done.loss, done.failed_step)

    def tiled(self, user: Any, item: Any, order: Any) -> tuple[Any, Any]:
        """Sort an order into the tiles of `train_cut`.

        Parameters
        ----------
        user, item : device array of int32
        order : device array of int32, shape (n,)

        Returns
        -------
        tiled : device array of int32, shape (n,)
            The same ratings, round by round and tile by tile.
        starts : device array of int32, shape (rounds, tiles + 1)
            Where the tiles of each round begin, and where the last one ends.
        """
        xp, n, w = self.xp, len(order), self.workers
        bits = max(n - 1, 0).bit_length()
        keys, tiled, starts = xp.empty(n, np.uint64), xp.empty(n, np.int32), xp.empty((w, w + 1), np.int32)
        sizes = np.int32(n), np.int32(w), np.int32(bits)
        self.kernels.over("tile_keys", n, (order, user, item, keys, *sizes))
        keys.sort()
        self.kernels.over("tile_order", max(n, w * (w + 1)), (keys, order, tiled, starts, *sizes))
        return tiled, starts

    def train_cut(self, user: Any, item: Any, rating: Any, order: Any, learning_rates: Any) -> Progress:
        """Train on `order`, cut into tiles: the result is that of online SGD in the order of the tiles.

        Parameters
        ----------
        user, item, rating, order : arrays
            As in `Part`: of the ratings, and the ratings' positions in the order of use.
        learning_rates : float, or array of float, shape (workers,)
            One for each round.
        """
        with self._device:
            data = self._data(user, item, rating)
            tiled, starts = self.tiled(data[0], data[1], self.xp.asarray(order))
            return self._run_tiles(data, tiled, starts, learning_rates)

    def train_racing(self, user: Any, item: Any, rating: Any, order: Any, learning_rate: float) -> Progress:
        """Train on `order` without care for ratings that share a row and are used at once. Not reproducible.

        Parameters
        ----------
        user, item, rating, order : arrays
            As for `train_cut`.
        learning_rate : float
        """
        with self._device:
            losses = self.xp.empty(len(order), self.dtype)
            self.kernels.over(
                "sgd_racing", len(order),
                (self.setup, self._stored_rows, *self._data(user, item, rating), self.xp.asarray(order),
                 np.float64(learning_rate), losses, np.int32(len(order))),
            )  # fmt: skip
            return self._progress(losses, lambda step: learning_rate)

    @property
    def _stored_rows(self) -> Any:
        return self.table.view(np.uint16) if self.half else self.table


class Half(PerRating):
    """Train with rows in half precision: what ``dtype="float16"`` compiles to."""

    def __init__(
        self,
        model: Dot,
        solver: Solver | None,
        weights: Weights,
        seed: int = 0,
        dtype: Any = "float16",
        n_threads: int | None = None,
    ) -> None:
        super().__init__(model, solver, weights, "float16")

    def run(self, data: Any, part: Part) -> Progress:
        if data.weight is not None or part.momenta is not None:
            what = "weighted ratings" if part.momenta is None else "a momentum that moves"
            raise ValueError(f"dtype is 'float16', which has no kernel for {what}; it must be 'float32'")
        return super().run(data, part)
