"""Select the best items of each user, from scores on the device."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minicf import scoring
from minicf.backends.cuda import device
from minicf.backends.cuda.device import Kernels
from minicf.data.bags import Bags

SCORES_BYTES = 1 << 28
"""Bytes of scores, of a block of users with all items, that are on the device at once."""


@functools.cache
def _kernels(number: int, threads: int, processors: int | None) -> Kernels:
    """Compile for one device (by its number) and one launch geometry."""
    setup = device.make_struct(device.SETUP, {"stride": 4, "sparse": 1})
    return Kernels(device.options(setup, np.dtype(np.float32), threads, False))


def select(scores: Any, exclude: Bags, n: int, index: np.ndarray, best: np.ndarray) -> None:
    """Select as `minicf.scoring.select` does, from scores on the current device, into arrays on the host.

    Parameters
    ----------
    scores : device array of float32, shape (users, items)
        Those of excluded items become -inf.
    exclude : Bags
        Excluded items of each user.
    n : int
    index : array of int32, shape (users, n)
        Receives the best items, -1 where there are no more.
    best : array of float32, shape (users, n)
        Receives their scores, -inf where there are no more.
    """
    import cupy

    count, items = scores.shape
    kernels = _kernels(cupy.cuda.Device().id, device.THREADS, device.PROCESSORS)
    # The lists of all warps of a block must fit in its shared memory: fewer warps for longer lists.
    threads = 32 * max(1, min(device.THREADS // 32, (48 << 10) // (8 * n)))
    shared = threads // 32 * 8 * n
    if shared > kernels.shared_limit:
        scoring.select(scores.get(), exclude, n, index, best)
        return
    begin = np.asarray(exclude.start) - exclude.start[0]
    seen = np.ascontiguousarray(exclude.index[exclude.start[0] : exclude.start[-1]], np.int32)
    seen = seen if len(seen) else np.zeros(1, np.int32)
    found, values = cupy.empty((count, n), np.int32), cupy.empty((count, n), np.float32)
    kernels.over(
        "top_items", count,
        (scores, cupy.asarray(begin.astype(np.int64)), cupy.asarray(seen), found, values, np.int32(count),
         np.int32(items), np.int32(n)),
        threads // 32, threads=threads, shared=shared,
    )  # fmt: skip
    index[...], best[...] = found.get(), values.get()
