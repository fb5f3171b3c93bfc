"""Compile functions with Numba, and keep the compiled code on disk for later processes.

Numba's own cache does not serve here. It looks for changes in one source file, and compiled code is made of several
(a constant of another file is frozen in it). It keeps one index for all kernels that a factory makes, and numbers the
files beside it without a lock: processes that start together read each other's kernels. And it unpickles whatever it
finds. `DiskCache` has no index and never changes a file: a file is named by a hash of everything that its content
depends on, appears at once as a whole, and is read only if it belongs to this user.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import platform
import sys
import tempfile
import time
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import njit
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

from minicf import rng

log = logging.getLogger("minicf")
config: Any = numba.config
"""Numba's settings, made of NUMBA_… variables at run time."""

FASTMATH = ("reassoc", "contract", "nsz", "arcp")
"""Never plain fastmath: it lets the compiler assume that no NaN exists, and divergence would go unseen."""

STRICT: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
FAST: dict[str, Any] = STRICT | {"fastmath": set(FASTMATH)}


# --- decorators -----------------------------------------------------------------------------------------------------


def cached_njit(function: Any, **options: Any) -> Any:
    """Compile a function at its first call, or load what an earlier process has compiled.

    Nothing that the disk does stops the caller: without a folder that can be written, or with files that are damaged,
    the function is compiled in memory, and the log says so once.
    """
    dispatcher = njit(**options)(function)
    if hasattr(dispatcher, "enable_caching"):  # a plain function under NUMBA_DISABLE_JIT
        dispatcher._cache = DiskCache(function, options)
    return dispatcher


def kernel(function: Any) -> Any:
    """Compile a function of its own, with fast arithmetic."""
    return cached_njit(function, **FAST)


def strict_kernel(function: Any) -> Any:
    """Compile a function of its own, with every operation rounded as it is written."""
    return cached_njit(function, **STRICT)


def inline(function: Any) -> Any:
    """Compile a function into each kernel that calls it, where sizes are constants.

    It also keeps results the same to the last bit whether a process compiles a kernel or loads it from the cache:
    a function that is only linked would be compiled anew beside it.
    """
    return njit(forceinline=True, **FAST)(function)


def macro(function: Any) -> Any:
    """Compile a function as if its lines stood in the caller, a global or closure constant of which it must be."""
    return njit(inline="always", **FAST)(function)


# --- what compiled code depends on ----------------------------------------------------------------------------------


def source_stamp(files: Iterable[Path]) -> str | None:
    """Hash source files, and the constants of `rng`; None if a file cannot be read (a zip, an archive of bytecode)."""
    constants = {name: value for name, value in vars(rng).items() if isinstance(value, int)}
    digest = hashlib.sha256(repr(constants).encode())
    try:
        for path in files:
            data = path.read_bytes()
            digest.update(f"{path.name} {len(data)}\n".encode())
            digest.update(data)
    except OSError:
        return None
    return digest.hexdigest()


_HERE = Path(__file__).parent
_STAMP = source_stamp([*sorted(_HERE.glob("*.py")), _HERE.parents[1] / "rng.py"])
"""Taken while the sources are imported: an upgrade that replaces them later is not what runs in this process."""


def _described(value: Any) -> str:
    """Describe a function or a constant of compiled code in words that are the same in every process.

    Pickles are not: Numba gives each compiled function that it pickles a random name.
    """
    function = getattr(value, "py_func", value)
    if isinstance(function, types.FunctionType):
        code = function.__code__
        constants = [_described(c) for c in code.co_consts if not isinstance(c, types.CodeType)]
        closure = [_described(cell.cell_contents) for cell in function.__closure__ or ()]
        body = code.co_code, code.co_names, constants, closure
        return repr((function.__module__, function.__qualname__, *body))
    if isinstance(value, dict):
        return repr({key: _described(item) for key, item in sorted(value.items())})
    if isinstance(value, set | frozenset):
        return repr(sorted(map(_described, value)))
    if isinstance(value, tuple):
        return repr(tuple(map(_described, value)))
    if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return f"{type(value).__name__} {value!r}"
    raise TypeError(f"{value!r} is a constant of compiled code; it must be a function, a number or a string")


_VERSIONS = (
    numba.__version__,
    llvmlite.__version__,
    np.__version__,
    platform.python_version(),
    sys.implementation.cache_tag,
)


# --- files ----------------------------------------------------------------------------------------------------------

_KEPT_DAYS = 30
"""Files that no process has read for so long are removed: those of other versions, and of writers that were killed."""

_warned: set[str] = set()


def _warn_once(text: str, *arguments: Any) -> None:
    if text not in _warned:
        _warned.add(text)
        log.warning(text, *arguments)


def _unsafe(status: os.stat_result) -> str | None:
    """The reason why a file or a folder cannot be trusted, since unpickling runs what it says; None if it can."""
    if not hasattr(os, "geteuid"):
        return None
    if status.st_uid != os.geteuid():
        return f"owned by another user ({status.st_uid})"
    return "writable by other users" if status.st_mode & 0o022 else None


@functools.cache
def _folder(cache_dir: str) -> Path | None:
    """Find the folder of compiled code, this user's alone; None, and a warning, if there is none.

    It lies in NUMBA_CACHE_DIR; without that variable beside the sources, or else where the user's caches are.
    """
    user_wide = AppDirs(appname="numba", appauthor=False).user_cache_dir  # type: ignore[no-untyped-call]
    parents = [cache_dir] if cache_dir else [_HERE / "__pycache__", user_wide]
    readable, problems = [], []
    for parent in map(Path, parents):
        folder = parent / "minicf"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            problem = _unsafe(folder.stat())
            if problem is None and folder.lstat().st_uid != folder.stat().st_uid:
                problem = "a link of another user"  # to any folder of ours, to be filled or swept
        except OSError as error:
            problem = error.strerror or str(error)
        if problem is not None:
            problems.append(f"{folder}: {problem}")
        elif os.access(folder, os.W_OK):
            return folder
        else:
            readable.append(folder)
    if readable:
        return readable[0]
    log.warning(
        "no folder for compiled code (%s): each process compiles its own; set NUMBA_CACHE_DIR to a folder of yours",
        "; ".join(problems),
    )
    return None


def _read(path: Path) -> bytes:
    """The compiled code in a file.

    Raises
    ------
    PermissionError
        Others could have written the file.
    ValueError
        The file is damaged.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if (problem := _unsafe(status)) is not None:
            raise PermissionError(f"{path} is {problem}")
        data = file.read()
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise ValueError("its checksum is wrong")
    if time.time() - status.st_mtime > 86400.0:
        with contextlib.suppress(OSError):
            os.utime(path)  # in use
    return data[32:]


def _write(path: Path, data: bytes) -> None:
    """Let a file appear as a whole, with its checksum before the data."""
    _remove_unused(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")  # readable by this user alone
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@functools.cache
def _remove_unused(folder: Path) -> None:
    """Remove what no process has read for `_KEPT_DAYS`; once a process."""
    oldest = time.time() - _KEPT_DAYS * 86400.0
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            if path.suffix in (".nbc", ".tmp") and path.stat().st_mtime < oldest:
                path.unlink()


class DiskCache(_Cache):
    """Keep the compiled code of one function, a file for each signature."""

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        self._function, self._options = function, options
        self._enabled = True

    @staticmethod
    def _folder() -> Path | None:
        """The folder; None if code must not be kept, because a later change in its sources would not be noticed."""
        if _STAMP is None:
            _warn_once("the sources of compiled code cannot be read: each process compiles its own")
            return None
        return _folder(config.CACHE_DIR)

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        """The file of a signature, named by everything that its content depends on."""
        folder = self._folder() if self._enabled else None
        if folder is None:
            return None
        parts = (
            _described(self._function),
            _described(self._options),
            str(signature),
            str(codegen.magic_tuple()),  # target, processor and its features
            str(_VERSIONS),
            _STAMP,
        )
        return folder / (hashlib.sha256(repr(parts).encode()).hexdigest() + ".nbc")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code of a signature; None if it must be compiled."""
        target_context.refresh()
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            parts = pickle.loads(_read(path))
            return CompileResult._rebuild(target_context, *parts)  # type: ignore[no-untyped-call]
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn_once("compiled code cannot be read (%s): it is compiled anew", error)
        except Exception as error:  # whatever unpickling makes of it
            log.warning("compiled code in %s is damaged (%s): it is compiled anew", path, error)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled code of a signature, unless it points into this process."""
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:
            return
        try:
            _write(path, dumps(data._reduce()))  # type: ignore[no-untyped-call]
        except OSError as error:
            _warn_once("compiled code cannot be kept for later processes (%s); set NUMBA_CACHE_DIR", error)

    @property
    def cache_path(self) -> str:
        """The folder; "" if nothing is kept."""
        return str(self._folder() or "")

    def enable(self) -> None:
        """Use the folder again."""
        self._enabled = True

    def disable(self) -> None:
        """Compile in memory."""
        self._enabled = False

    def flush(self) -> None:
        """Do nothing: a file is what its name says, however old."""
