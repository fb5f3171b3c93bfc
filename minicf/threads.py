"""Numbers of threads: one rule for all of minicf, and a limit on BLAS, which has one number for the whole process."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import weakref
from typing import Any

from minicf.arguments import check_int

_MOST = 256
"""More than any machine keeps busy; a mistyped number must not start a million."""

VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


def count_threads(n_threads: int | None = None) -> int:
    """Return the number of threads to use.

    Parameters
    ----------
    n_threads : int, optional
        What the caller asked for; None takes as many as there are cores to run on, or fewer where NUMBA_NUM_THREADS
        or OMP_NUM_THREADS says so. Of a list such as "4,3,2", OpenMP's numbers by level, the first counts.
    """
    if n_threads is not None:
        return min(check_int("n_threads", n_threads, 1), _MOST)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in VARIABLES:
        first = os.environ.get(name, "").split(",")[0].strip()
        if first.isdecimal() and int(first) > 0:
            threads = min(threads, int(first))
    return min(threads, _MOST)


def share(work: Any, n_threads: int, before: Any = None) -> None:
    """Call ``work()`` in this thread, after ``before()``, and at once in each of ``n_threads - 1`` others.

    Compiled code runs without the interpreter's lock, so plain threads suffice; each takes the next part of the work.
    They live as long as the call: there is no pool that spins beside other work, or that a fork would find dead.
    An exception of one of them is raised here, after all have ended: none goes on writing behind the caller's back.
    """
    raised: list[BaseException] = []

    def watched() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    others = []
    try:
        for _ in range(n_threads - 1):
            thread = threading.Thread(target=watched)
            thread.start()
            others.append(thread)
        if before is not None:
            before()
        work()
    finally:
        for thread in others:
            thread.join()
    if raised:
        raise raised[0]


# --- BLAS -------------------------------------------------------------------------------------------------------------

_lock = threading.RLock()  # the garbage collector may end a limit in a thread that is amid setting one
_inside: list[_Limit] = []
"""Limits that hold."""
_before: list[int] = []
"""Numbers of threads before the first limit was set, one a library; empty while none is."""


class _Limit:
    def __init__(self, n_threads: int) -> None:
        self.thread, self.n_threads = threading.get_ident(), n_threads


class _Uninterrupted:
    """Hold Ctrl-C back while it is entered; it comes at the end."""

    def __enter__(self) -> None:
        self._asked: tuple[Any, ...] | None = None
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._handler = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *arguments: Any) -> None:
        self._asked = arguments

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            if self._asked is not None:
                self._handler(*self._asked)


class _LimitedBlas:
    """The context of `limit_blas`."""

    def __init__(self, n_threads: int) -> None:
        self._limit, self._of_threads = _Limit(n_threads), contextlib.ExitStack()
        # An interrupt between the end of a block and the first line of __exit__ leaves that uncalled.
        self._leave = weakref.finalize(self, _leave, self._limit, self._of_threads)

    def __enter__(self) -> None:
        try:
            with _Uninterrupted():
                self._of_threads.enter_context(_libraries()[1].limit(limits=self._limit.n_threads))
                with _lock:
                    _inside.append(self._limit)
                    _apply()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with _Uninterrupted():
            self._leave()


def _leave(limit: _Limit, of_threads: contextlib.ExitStack) -> None:
    of_threads.close()
    with _lock:
        if limit in _inside:
            _inside.remove(limit)
            _apply()


def limit_blas(n_threads: int | None) -> contextlib.AbstractContextManager[None]:
    """Limit the number of threads of BLAS while the context is entered; None leaves it alone.

    Contexts of several threads may overlap: the lowest limit of those that are entered holds, and the last to leave
    restores what the first found. So none lifts another one's limit, or leaves its own behind, Ctrl-C or not.
    """
    return contextlib.nullcontext() if n_threads is None else _LimitedBlas(n_threads)


def one_blas_thread() -> contextlib.AbstractContextManager[None]:
    """Limit BLAS to one thread, for small products: several would spend more time on meeting than on multiplying.

    It also means the same bits whatever the number of cores.
    """
    return limit_blas(1)


def _apply() -> None:
    libraries = _libraries()[0]
    if not _before:
        _before[:] = [library.num_threads for library in libraries]
    for library, before in zip(libraries, list(_before), strict=True):
        # threadpoolctl 3.8 obeys the first thread that sets a number, and from then on no other.
        forget = getattr(library, "clear_controlling_thread", lambda force: None)
        forget(force=True)
        # Never more than before: what a variable of the environment lowered stays low.
        library.set_num_threads(min([before, *(limit.n_threads for limit in _inside)]))
        forget(force=True)
    if not _inside:
        _before.clear()


@functools.cache
def _libraries() -> tuple[list[Any], Any]:
    """Find the BLAS libraries of this process, SciPy's among them, which compiled code calls for matrix products.

    Returns those whose number of threads belongs to the process, and those (built with OpenMP) where each thread has
    its own.
    """
    import scipy.linalg.cython_blas  # noqa: F401 - loads the library
    from threadpoolctl import ThreadpoolController

    every = ThreadpoolController().select(user_api="blas")
    own = every.select(threading_layer="openmp")
    return [library for library in every.lib_controllers if library not in own.lib_controllers], own


def _forked() -> None:
    """Forget the contexts of other threads: in a forked child only the thread that forked lives."""
    global _lock
    _lock = threading.RLock()
    if _inside:
        _inside[:] = [limit for limit in _inside if limit.thread == threading.get_ident()]
        _apply()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
