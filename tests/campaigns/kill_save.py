"""Kill -9 while a model is saved over an older one: whatever is there afterwards loads, and is the old or the new one.

``python -m tests.campaigns.kill_save [times]``; 200 by default.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from minicf.recommender import Recommender, load
from tests.campaigns.models import trained


def run(times: int, folder: Path, seed: int = 0) -> Counter:
    """Kill so many savers; count "old" and "new", and "left": temporary files, which the next save removes."""
    random = np.random.RandomState(seed)
    old, new = trained(40, seed=1), trained(300, seed=2)
    path = folder / "model.npz"
    begin = time.perf_counter()
    new.save(path)
    # Moments are spread over one save and a bit more, so that some come before it and some after it.
    longest = 1.3 * (time.perf_counter() - begin)
    found: Counter = Counter()
    for _ in range(times):
        old.save(path)
        if left := list(folder.glob(".model.npz.*.tmp")):
            raise AssertionError(f"the next save did not remove {left}")
        _killed(new, path, random.uniform(0, longest))
        model = load(path)
        same = [np.array_equal(model.weights_["user_factors"], m.weights_["user_factors"]) for m in (old, new)]
        if sum(same) != 1:
            raise AssertionError("the file loads, but is neither model")
        found["old" if same[0] else "new"] += 1
        found["left"] += len(list(folder.glob(".model.npz.*.tmp")))
    return found


def _killed(model: Recommender, path: Path, seconds: float) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b".")
        model.save(path)
        os._exit(0)
    os.read(read, 1)  # it is about to begin
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as where:
        result = run(count, Path(where))
    print(f"{count} times a file that loads: {result['old']} the old one, {result['new']} the new one, "
          f"{result['left']} temporary files left beside it and removed by the next save")  # fmt: skip
