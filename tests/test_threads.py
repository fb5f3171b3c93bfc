"""Threads change nothing: not the bits, not one another's training, and no more of them run than were asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from minicf import threads as limits
from minicf.backends.numba import program as numba_program
from minicf.data import Ratings
from minicf.models import Dot, DotBias, Hybrid, Net
from minicf.optim import SGD, Adam
from minicf.recommender import Recommender
from minicf.train import Trainer

ROOT = Path(__file__).parents[1]
HYBRID = Hybrid({"net": (Net(5, hidden=(6,), dropout=0.2), 0.3), "dot": (DotBias(5), 1.0)})

RUNS = {
    "tiles": (DotBias(5), SGD(0.01, weight_decay=0.02, decay="per_rating"), 1, "tiles"),
    "tiles, range": (DotBias(5, rating_range=(0.5, 5.5)), SGD(0.01), 1, "tiles"),
    "per rating": (DotBias(5), SGD(0.01), 1, True),
    "momentum": (Dot(5), SGD(0.01, momentum=0.9, weight_decay=1e-3), 32, True),
    "Adam": (DotBias(5), Adam(0.01), 32, True),
    "Adam, l2 replayed": (DotBias(5), Adam(0.01, weight_decay=1e-3), 32, True),
    "Adam, sparse": (DotBias(5), Adam(0.01, sparse=True), 32, True),
    "net": (Net(5, hidden=(64, 6), dropout=0.1), Adam(0.01), 32, True),
    "hybrid": (HYBRID, Adam(0.01, weight_decay=1e-3, decay="decoupled"), 32, True),
}


def ratings(n: int = 6000, users: int = 80, items: int = 90) -> Ratings:
    random = np.random.RandomState(1)
    return Ratings(
        random.randint(0, users, n), random.randint(0, items, n), random.randint(1, 6, n).astype(float), users, items
    )


DATA = ratings()


def train(name: str, backend: str = "numba", n_threads: int | None = None, epochs: int = 2, seed: int = 0) -> Trainer:
    model, optimizer, batch_size, shuffle = RUNS[name]
    trainer = Trainer(model, optimizer, backend=backend, batch_size=batch_size, seed=seed, n_threads=n_threads)
    trainer.fit(DATA, epochs=epochs, shuffle=shuffle)
    return trainer


def bits(trainer: Trainer) -> dict[str, bytes]:
    arrays = trainer.weights | trainer.program.state()
    return {name: array.tobytes() for name, array in arrays.items()} | {
        "mse": trainer.history.frame().train_mse.to_numpy().tobytes(),
        "predictions": trainer.predict(DATA.user, DATA.item).tobytes(),
    }


@pytest.mark.parametrize("name", RUNS)
def test_the_same_bits_at_any_number_of_threads(name, monkeypatch):
    monkeypatch.setattr(numba_program, "_WORTH_A_THREAD", 1)
    alone = bits(train(name, n_threads=1))
    for n_threads in (2, 8, 10**9):
        assert bits(train(name, n_threads=n_threads)) == alone, n_threads


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_trainers_in_threads_do_not_disturb_one_another(backend, monkeypatch):
    monkeypatch.setattr(numba_program, "_WORTH_A_THREAD", 1)
    names = [name for name in RUNS if backend == "numba" or RUNS[name][2] > 1]
    expected = {name: bits(train(name, backend)) for name in names}
    before = _blas_threads()
    got: dict[str, dict[str, bytes]] = {}
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            got[name] = bits(train(name, backend))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed
    assert got == expected
    assert _blas_threads() == before


def test_one_ratings_table_is_shared_and_two_recommenders_are_not():
    """`Recommender.fit` and lists, from two threads on one frame."""
    frame = DATA.frame().drop_duplicates(["userId", "movieId"])
    expected = [
        Recommender(n_factors=4, epochs=2, random_state=seed).fit(frame).recommend([1, 2, 3]) for seed in (0, 1)
    ]
    got = [None, None]

    def work(seed: int) -> None:
        got[seed] = Recommender(n_factors=4, epochs=2, random_state=seed).fit(frame).recommend([1, 2, 3])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(a is not None and a.equals(b) for a, b in zip(got, expected, strict=True))


# --- BLAS ------------------------------------------------------------------------------------------------------------


def _blas_threads() -> list[int]:
    return [library.num_threads for library in limits._libraries()[0]]


@pytest.fixture
def three_threads():
    """BLAS with several threads, whatever this machine has."""
    if not limits._libraries()[0]:
        pytest.skip("this BLAS has a number of threads for each thread")
    before = _blas_threads()

    def set_all(numbers: list[int]) -> None:
        for library, n in zip(limits._libraries()[0], numbers, strict=True):
            library.set_num_threads(n)
            getattr(library, "clear_controlling_thread", lambda: None)()

    set_all([3] * len(before))
    yield
    set_all(before)


class Inside(threading.Thread):
    """A thread that is inside a limit until it is told to leave."""

    def __init__(self, n_threads: int) -> None:
        super().__init__()
        self.n_threads, self.entered, self.leave = n_threads, threading.Event(), threading.Event()
        self.start()
        self.entered.wait(60)

    def run(self) -> None:
        with limits.limit_blas(self.n_threads):
            self.entered.set()
            self.leave.wait(60)

    def end(self) -> None:
        self.leave.set()
        self.join(60)


def test_limits_that_overlap(three_threads):
    """The first to enter is the first to leave: the limit of the second must hold, and then be gone."""
    first = Inside(2)
    assert set(_blas_threads()) == {2}
    second = Inside(1)
    assert set(_blas_threads()) == {1}
    first.end()
    assert set(_blas_threads()) == {1}
    third = Inside(2)
    second.end()
    assert set(_blas_threads()) == {2}
    third.end()
    assert set(_blas_threads()) == {3}


def test_a_limit_does_not_raise_the_number(three_threads):
    with limits.limit_blas(100):
        assert set(_blas_threads()) == {3}
    with limits.limit_blas(None):
        assert set(_blas_threads()) == {3}
    assert set(_blas_threads()) == {3}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_amid_a_limit_ends_the_limits_of_threads_that_it_lacks(three_threads):
    other = Inside(1)
    with limits.limit_blas(2):
        child = _fork()
        if child == 0:
            right = set(_blas_threads()) == {2}  # its own limit holds on
            with limits.one_blas_thread():
                right &= set(_blas_threads()) == {1}
            os._exit(0 if right else 1)
        status = os.waitpid(child, 0)[1]
    other.end()
    assert status == 0
    assert set(_blas_threads()) == {3}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="interrupts come by a timer")
def test_ctrl_c_at_any_moment_leaves_no_limit_behind():
    """In a process of its own: a tracer that measures coverage does not stand interrupts at any moment."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaigns.interrupted_limits", "400"], capture_output=True, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("400 interrupted")


class Interrupting:
    """A library that is interrupted while its number is set."""

    num_threads = 3

    def set_num_threads(self, n: int) -> None:
        signal.raise_signal(signal.SIGINT)
        self.num_threads = n


def test_ctrl_c_on_entry_and_on_exit_comes_when_all_is_done(monkeypatch):
    library, none = Interrupting(), limits._libraries()[1]
    monkeypatch.setattr(limits, "_libraries", lambda: ([library], none))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    inside = []
    try:
        with pytest.raises(KeyboardInterrupt), limits.limit_blas(1):
            inside.append(library.num_threads)
        assert (inside, library.num_threads, limits._inside, limits._before) == ([], 3, [], [])
        asked = []
        signal.signal(signal.SIGINT, lambda *_: asked.append(library.num_threads))  # a handler of one's own
        with limits.limit_blas(1):
            inside.append(library.num_threads)
        assert (inside, asked) == ([1], [1, 3])
        assert limits._inside == []
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_limit_that_is_abandoned_ends(three_threads):
    limit = limits.limit_blas(1)
    limit.__enter__()
    assert set(_blas_threads()) == {1}
    del limit
    assert set(_blas_threads()) == {3}


# --- how many run ----------------------------------------------------------------------------------------------------

COUNT = """
    import os, sys, time
    import numpy as np
    from tests.test_threads import DATA, RUNS, Trainer, Net, Adam, Recommender, train

    def busy():
        found = {}
        for task in os.listdir("/proc/self/task"):
            try:
                fields = open(f"/proc/self/task/{task}/stat").read().rsplit(")", 1)[1].split()
            except FileNotFoundError:
                continue
            found[task] = int(fields[11]) + int(fields[12])
        return found

    before = busy()
    n = int(sys.argv[1])
    # Products large enough for BLAS to share them.
    big = Trainer(Net(64, hidden=(512,), dropout=0.0), Adam(0.001), backend="numpy", batch_size=3000, n_threads=n)
    big.fit(DATA, epochs=6)
    big.predict(DATA.user, DATA.item)
    big.evaluate(DATA)
    for name in RUNS:
        train(name, n_threads=n, epochs=3)
    model = Recommender("net", n_factors=8, epochs=1, n_threads=n, duplicates="mean").fit(DATA)
    model.recommend(model.users_.ids, 5)
    after = busy()
    print(sum(after[task] - before.get(task, 0) > 5 for task in after))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted through /proc")
def test_one_thread_is_one_thread():
    """Of all the threads of a process, BLAS's included, only the caller's works: the others use no processor time."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "4", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COUNT), "1"], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"


def test_what_a_thread_raises_is_raised_after_all_have_ended():
    here, ended = threading.current_thread(), []

    def in_another() -> None:
        if threading.current_thread() is here:
            ended.append("here")
        else:
            raise MemoryError("in a thread")

    with pytest.raises(MemoryError, match="in a thread"):
        limits.share(in_another, 4)
    assert ended == ["here"]

    def in_this_one() -> None:
        if threading.current_thread() is here:
            raise KeyboardInterrupt
        threading.Event().wait(0.05)
        ended.append("there")

    ended.clear()
    with pytest.raises(KeyboardInterrupt):
        limits.share(in_this_one, 4)
    assert ended == ["there"] * 3


# --- fork ------------------------------------------------------------------------------------------------------------


def _fork() -> int:
    """A child; Python says, rightly, that this is risky while threads run."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("name", ["tiles", "Adam, l2 replayed", "net"])
def test_a_fork_after_threads_were_started_trains_the_same(name, monkeypatch):
    monkeypatch.setattr(numba_program, "_WORTH_A_THREAD", 1)
    expected = bits(train(name, n_threads=2))
    child = _fork()
    if child == 0:
        try:
            os._exit(0 if bits(train(name, n_threads=2)) == expected else 1)
        finally:
            os._exit(2)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        threading.Event().wait(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise AssertionError("the child hangs")
    assert status == 0
