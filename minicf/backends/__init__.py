"""Where training runs. `get_backend` chooses; each backend's `compile` makes a `Program` (see `base.py`)."""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

log = logging.getLogger("minicf")

_MODULES = {
    "cupy": "minicf.backends.cupy_gpu",
    "numba": "minicf.backends.numba.program",
    "numpy": "minicf.backends.base",
}
_PREFERENCE = ("cupy", "numba", "numpy")

NAMES = tuple(_MODULES)


def get_backend(name: str = "auto") -> Any:
    """The module of a backend.

    Parameters
    ----------
    name : "auto" or the name of a backend
        "auto" takes the first that can run here, and logs which and why; an installation without Numba, or with one
        that does not fit, is worth a warning.

    Raises
    ------
    ValueError
        No such backend.
    ImportError
        The backend was asked for by name and cannot run here; the message says what to install.
    """
    if isinstance(name, str) and name == "auto":
        module, said = _fastest(_PREFERENCE)
        log.info(said)
        return module
    if not isinstance(name, str) or name not in _MODULES:
        raise ValueError(f"backend is {name!r}; it must be 'auto' or one of {NAMES}")
    module, problem = _load(name)
    if problem is not None:
        raise ImportError(f"backend {name!r} cannot run here: {problem}")
    return module


@functools.cache
def _fastest(preference: tuple[str, ...]) -> tuple[Any, str]:
    """The first backend that can run, and which it is and why; looked for once, for that takes as long as a fit may."""
    reasons: list[str] = []
    for candidate in preference:
        module, problem = _load(candidate)
        if problem is None:
            return module, f"backend {candidate}" + (f" ({'; '.join(reasons)})" if reasons else "")
        if module is None:  # not what the machine lacks, but a broken installation
            log.warning("backend %s, which minicf requires, is passed over: %s", candidate, problem)
        reasons.append(f"no {candidate}: {problem}")
    raise AssertionError("the NumPy backend is always there")


def _load(name: str) -> tuple[Any, str | None]:
    """The module of a backend, None if it cannot be imported; and why it cannot run here, None if it can."""
    try:
        module = importlib.import_module(_MODULES[name])
    except Exception as error:  # whatever a package that is missing, or does not fit the others, makes of it
        return None, f"{type(error).__name__}: {error}; pip install --upgrade --force-reinstall {name}"
    return module, module.unavailable()
