"""Where training runs. `get_backend` chooses; each backend's `compile` makes a `Program` (see `base.py`)."""

from __future__ import annotations

import importlib
import logging
from typing import Any

log = logging.getLogger("minicf")

_MODULES = {
    "cupy": "minicf.backends.cupy_gpu",
    "numba": "minicf.backends.numba_cpu",
    "numpy": "minicf.backends.base",
}
_PREFERENCE = ("cupy", "numba", "numpy")

NAMES = tuple(_MODULES)


def get_backend(name: str = "auto") -> Any:
    """The module of a backend.

    Parameters
    ----------
    name : "auto" or the name of a backend
        "auto" takes the first that can run here, and logs which and why.

    Raises
    ------
    ValueError
        No such backend.
    ImportError
        The backend was asked for by name and cannot run here; the message says what to install.
    """
    if isinstance(name, str) and name == "auto":
        reasons: list[str] = []
        for candidate in _PREFERENCE:
            module = importlib.import_module(_MODULES[candidate])
            problem = module.unavailable()
            if problem is None:
                log.info("backend %s%s", candidate, f" ({'; '.join(reasons)})" if reasons else "")
                return module
            reasons.append(f"no {candidate}: {problem}")
        raise AssertionError("the NumPy backend is always there")
    if not isinstance(name, str) or name not in _MODULES:
        raise ValueError(f"backend is {name!r}; it must be 'auto' or one of {NAMES}")
    module = importlib.import_module(_MODULES[name])
    problem = module.unavailable()
    if problem is not None:
        raise ImportError(f"backend {name!r} cannot run here: {problem}")
    return module
