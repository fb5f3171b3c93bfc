"""Backends: where training runs. `get_backend` chooses one; it makes programs (see `base.py`)."""

from __future__ import annotations

import functools
import importlib
import logging

from minicf.backends.backend import Backend

log = logging.getLogger("minicf")

_MODULES = {
    "cupy": "minicf.backends.cuda",
    "numba": "minicf.backends.numba.program",
    "numpy": "minicf.backends.numpy",
}
PREFERENCE = ("cupy", "numba", "numpy")
"""The order in which "auto" looks for one that can run."""

NAMES = tuple(_MODULES)


def get_backend(name: str = "auto") -> Backend:
    """Return a backend.

    Parameters
    ----------
    name : "auto" or the name of a backend
        "auto" takes the first of `PREFERENCE` that can run here, and logs which and why; an installation without
        Numba, or with one that does not fit, gives a warning.

    Raises
    ------
    ValueError
        No such backend.
    ImportError
        The backend was asked for by name and cannot run here; the message says what to install.
    """
    if isinstance(name, str) and name == "auto":
        backend, message = _fastest(PREFERENCE)
        log.info(message)
        return backend
    if not isinstance(name, str) or name not in _MODULES:
        raise ValueError(f"backend is {name!r}; it must be 'auto' or one of {NAMES}")
    backend, problem = _load(name)  # type: ignore[assignment]
    if problem is not None:
        raise ImportError(f"backend {name!r} cannot run here: {problem}")
    return backend


@functools.cache
def _fastest(preference: tuple[str, ...]) -> tuple[Backend, str]:
    """Find the first backend that can run, and say which it is and why; once, for that takes as long as a fit may."""
    reasons: list[str] = []
    for candidate in preference:
        backend, problem = _load(candidate)
        if backend is not None and problem is None:
            return backend, f"backend {candidate}" + (f" ({'; '.join(reasons)})" if reasons else "")
        if backend is None:  # not what the machine lacks, but a broken installation
            log.warning("backend %s, which minicf requires, is passed over: %s", candidate, problem)
        reasons.append(f"no {candidate}: {problem}")
    raise AssertionError("the NumPy backend is always there")


def _load(name: str) -> tuple[Backend | None, str | None]:
    """Import a backend, None if that fails; and say why it cannot run here, None if it can."""
    try:
        backend: Backend = importlib.import_module(_MODULES[name]).BACKEND
    except Exception as error:  # whatever a package that is missing, or does not fit the others, makes of it
        return None, f"{type(error).__name__}: {error}; pip install --upgrade --force-reinstall {name}"
    return backend, backend.unavailable()
