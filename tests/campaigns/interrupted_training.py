"""Stop training at random moments: what was saved goes on to the same end, and a Ctrl-C leaves a usable trainer.

``python -m tests.campaigns.interrupted_training [times]``; 200 by default. A child trains and saves a checkpoint after
each epoch; it gets a SIGINT, a SIGTERM or a SIGKILL at a random moment. The parent goes on from the checkpoint, to the
end that undisturbed training comes to, bit for bit.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from minicf import Adam, Checkpoint, Cosine, DotBias, Ratings, Trainer

EPOCHS = 40
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def trainer(backend: str) -> Trainer:
    return Trainer(DotBias(4, rating_range=(0.5, 5.5)), Adam(0.01), backend=backend, batch_size=32, n_threads=1)


def ratings() -> Ratings:
    random = np.random.RandomState(0)
    return Ratings(random.randint(0, 50, 3000), random.randint(0, 60, 3000), random.randint(1, 6, 3000).astype(float))


def bits(t: Trainer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in (t.weights | t.program.state()).items()}


def run(times: int, folder: Path, backend: str = "numba", seed: int = 0) -> Counter:
    """Stop so many trainings; count the signals, and how many found a checkpoint."""
    random = np.random.RandomState(seed)
    data, path, witness = ratings(), folder / "checkpoint.npz", folder / "usable"
    whole = trainer(backend)
    begin = time.perf_counter()
    whole.fit(data, epochs=EPOCHS, schedule=Cosine(EPOCHS), callbacks=[Checkpoint(path)])
    longest = 1.1 * (time.perf_counter() - begin)
    expected, found = bits(whole), Counter()
    for i in range(times):
        for left in folder.iterdir():
            left.unlink()
        which = SIGNALS[i % len(SIGNALS)]
        status = _stopped(data, backend, path, witness, which, random.uniform(0, longest))
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise AssertionError(f"the child ended with {os.WEXITSTATUS(status)}")
        if which == signal.SIGINT and not witness.exists():
            raise AssertionError("after Ctrl-C the trainer was not usable")
        found[which.name] += 1
        again = trainer(backend)
        if path.exists():
            again = Trainer.load(path, backend)
            found["checkpoints"] += 1
        if len(again.history) != again.epoch:
            raise AssertionError("the history does not fit the epochs")
        again.fit(data, epochs=EPOCHS - again.epoch, schedule=Cosine(EPOCHS), callbacks=[Checkpoint(path)])
        if bits(again) != expected:
            raise AssertionError(f"another end after {which.name} and {again.epoch} epochs")
        if left_over := [x.name for x in folder.iterdir() if x not in (path, witness)]:
            raise AssertionError(f"left behind: {left_over}")
    return found


def _stopped(data: Ratings, backend: str, path: Path, witness: Path, which: signal.Signals, seconds: float) -> int:
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: none of them is at work
        child = os.fork()
    if child == 0:
        code = 3
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            t = trainer(backend)
            try:
                os.write(write, b".")
                t.fit(data, epochs=EPOCHS, schedule=Cosine(EPOCHS), callbacks=[Checkpoint(path)])
            except KeyboardInterrupt:
                pass  # it may also come before or after `fit`
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            t.fit(data)
            if np.isfinite(t.predict(data.user, data.item)).all() and len(t.history) == t.epoch:
                witness.write_text("usable")
            code = 0
        finally:
            os._exit(code)
    os.read(read, 1)
    time.sleep(seconds)
    os.kill(child, which)
    status = os.waitpid(child, 0)[1]
    os.close(read)
    os.close(write)
    return status


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for name in ("numpy", "numba"):
        with tempfile.TemporaryDirectory() as where:
            print(name, dict(run(count, Path(where), name)))
