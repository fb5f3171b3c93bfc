"""Compiled code that is kept for later processes, where that can be done, and compiled anew where it cannot."""

from __future__ import annotations

import logging
from typing import Any

from numba import njit

log = logging.getLogger("minicf")

_told: set[str] = set()


def kept(function: Any, **options: Any) -> Any:
    """The function, compiled by Numba at its first call or taken from what an earlier process has kept.

    Without a folder that can be written, nothing is kept; files that are damaged (a full disk, a crash) are made anew.
    """
    try:
        dispatcher = njit(cache=True, **options)(function)
    except RuntimeError as error:  # no folder that can be written
        if "no_folder" not in _told:
            _told.add("no_folder")
            log.warning("compiled code cannot be kept for later processes (%s); set NUMBA_CACHE_DIR", error)
        return njit(**options)(function)
    cache: Any = getattr(dispatcher, "_cache", None)
    if hasattr(cache, "load_overload") and hasattr(cache, "flush"):
        load = cache.load_overload

        def load_or_compile(*arguments: Any) -> Any:
            try:
                return load(*arguments)
            except Exception as error:  # whatever unpickling makes of it
                log.warning("compiled code in %s is damaged (%r): it is compiled anew", cache.cache_path, error)
                cache.flush()
                return None

        cache.load_overload = load_or_compile
    return dispatcher
