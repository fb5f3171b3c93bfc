"""Ctrl-C at random moments of `predict`: the limit on the threads of BLAS is never left behind.

``python -m tests.campaigns.interrupted_limits [times]``; 1,500 by default.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import Counter

import numpy as np

from minicf import SGD, Dot, Net, Ratings, Trainer
from minicf import threads as limits


def blas_threads() -> list[int]:
    return [library.num_threads for library in limits._libraries()[0]]


def run(times: int, seed: int = 0) -> Counter[str]:
    """Interrupt so many calls, each from within the process, and count those that it reached."""
    random, found = np.random.RandomState(seed), Counter[str]()
    user, item = random.randint(0, 20, 64), random.randint(0, 30, 64)
    trainers = [Trainer(model, SGD(0.1), backend="numpy", n_threads=1) for model in (Dot(4), Net(4, hidden=(8,)))]
    expected = []
    for trainer in trainers:
        trainer.fit(Ratings(user, item, np.ones(64), 20, 30))
        expected.append(trainer.predict(user, item))
    before = blas_threads()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        begin = time.perf_counter()
        for _ in range(20):
            trainers[0].predict(user, item)
        once = (time.perf_counter() - begin) / 20
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        for i in range(times):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, max(random.uniform(0, 2 * once), 1e-6))
                for _ in range(200):
                    trainers[i % 2].predict(user, item)
                found["late"] += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            if blas_threads() != before:
                raise AssertionError(f"BLAS has {blas_threads()} threads after interruption {i}, {before} before")
            if limits._inside or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                raise AssertionError(f"a limit or a handler is left after interruption {i}")
            if not np.array_equal(trainers[i % 2].predict(user, item), expected[i % 2]):
                raise AssertionError(f"other predictions after interruption {i}")
            found["interrupted"] += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, handler)
    return found


def main(times: int = 1500) -> None:
    for library in limits._libraries()[0]:
        library.set_num_threads(3)
    found = run(times)
    print(f"{found['interrupted']} interrupted, {found['late']} too late")
    if found["late"] > times / 40:
        raise SystemExit("most calls were to be reached")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
