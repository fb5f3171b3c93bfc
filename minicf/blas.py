"""How many threads BLAS takes, which is one number for the whole process."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_inside: list[tuple[int, int]] = []
"""Who is inside: the thread and its limit."""
_before: list[int] = []
"""What the first one found, a number a library; empty while nobody is inside."""


@contextlib.contextmanager
def at_most(n_threads: int | None) -> Iterator[None]:
    """A context in which BLAS takes no more than so many threads; None leaves it alone.

    Contexts of several threads may overlap: the lowest limit of those who are inside holds, and the last to leave puts
    back what the first found. So none frees another one's products, or leaves its limit behind.
    """
    if n_threads is None:
        yield
        return
    own = threading.get_ident(), n_threads
    with _libraries()[1].limit(limits=n_threads):
        with _lock:
            _inside.append(own)
            _limit()
        try:
            yield
        finally:
            with _lock:
                _inside.remove(own)
                _limit()


def one_blas_thread() -> contextlib.AbstractContextManager[None]:
    """One thread, for small products: several would spend more on meeting than on multiplying.

    It also means the same bits whatever the number of cores.
    """
    return at_most(1)


def _limit() -> None:
    libraries = _libraries()[0]
    if not _before:
        _before[:] = [library.num_threads for library in libraries]
    lowest = min((n for _, n in _inside), default=None)
    for library, before in zip(libraries, _before, strict=True):
        # threadpoolctl 3.8 obeys the first thread that sets a number, and from then on no other.
        forget = getattr(library, "clear_controlling_thread", lambda force: None)
        forget(force=True)
        # Never more than before: what a variable of the environment lowered stays low.
        library.set_num_threads(before if lowest is None else min(lowest, before))
        forget(force=True)
    if not _inside:
        _before.clear()


@functools.cache
def _libraries() -> tuple[list[Any], Any]:
    """The BLAS libraries of this process, SciPy's among them, which compiled code calls for matrix products.

    Those whose number of threads belongs to the process, and those (built with OpenMP) where each thread has its own.
    """
    import scipy.linalg.cython_blas  # noqa: F401 - loads the library
    from threadpoolctl import ThreadpoolController

    every = ThreadpoolController().select(user_api="blas")
    own = every.select(threading_layer="openmp")
    return [library for library in every.lib_controllers if library not in own.lib_controllers], own


def _forked() -> None:
    """In a child lives only the thread that forked: whatever the others were inside of has ended."""
    global _lock
    _lock = threading.Lock()
    if _inside:
        _inside[:] = [own for own in _inside if own[0] == threading.get_ident()]
        _limit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
