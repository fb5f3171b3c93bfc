"""A stand-in for the part of CuPy that minicf uses: NumPy arrays behind a wrapper, kernels through the emulator.

It is stricter than CuPy. Where CuPy would accept an argument and misread it (a Python number, a strided view, the
wrong pointee, too few arguments), it raises. Arrays are wrapped, not subclassed, so that mixing them with NumPy's
fails as it does on a device; fresh memory is full of garbage.
"""

from __future__ import annotations

import ctypes
import sys
import time
import types
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np

from tests.cuda import emulator

log: list[tuple[str, Any]] = []
"""Launches, synchronisations and copies, for tests that count them."""

devices = [0]
"""The device that is current, last; there are two. Arrays belong to the one on which they were made."""


class ndarray:
    __array_ufunc__ = None
    __array_priority__ = 100

    def __init__(self, held: np.ndarray, device: int | None = None) -> None:
        self._held, self._device = held, devices[-1] if device is None else device

    def _here(self) -> np.ndarray:
        if self._device != devices[-1]:
            raise RuntimeError(f"Array device must be same as the current device: {self._device} != {devices[-1]}")
        return self._held

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion to a NumPy array is not allowed; use .get()")

    def get(self) -> np.ndarray:
        log.append(("get", self._held.nbytes))
        return self._held.copy()

    def set(self, array: np.ndarray) -> None:
        if not isinstance(array, np.ndarray) or array.dtype != self.dtype or array.shape != self.shape:
            raise TypeError("set needs a NumPy array of the same type and shape")
        log.append(("set", array.nbytes))
        self._here()[...] = array

    def __getitem__(self, key: Any) -> Any:
        return ndarray(np.asarray(self._held[_index(key)]), self._device)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._here()[_index(key)] = _bare(value)

    def __len__(self) -> int:
        return len(self._held)

    def __float__(self) -> float:
        log.append(("get", self._held.nbytes))
        return float(self._held)

    def __int__(self) -> int:
        log.append(("get", self._held.nbytes))
        return int(self._held)

    def __bool__(self) -> bool:
        log.append(("get", self._held.nbytes))
        return bool(self._held)

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return ndarray(self._here().astype(dtype, copy=copy))

    def nonzero(self) -> tuple[ndarray, ...]:
        return tuple(ndarray(x) for x in self._here().nonzero())

    def sort(self) -> None:
        self._here().sort()

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self._held.ctypes.data)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "flags"):
            return getattr(self._held, name)
        if name == "T":
            return ndarray(self._held.T, self._device)
        if name in ("reshape", "view", "transpose"):  # nothing is computed
            return lambda *a, **k: ndarray(getattr(self._held, name)(*a, **k), self._device)
        if name in ("sum", "mean", "ravel", "copy", "max", "min", "all", "any", "fill"):
            method = getattr(self._here(), name)
            return lambda *a, **k: _wrap(method(*map(_bare, a), **{n: _bare(x) for n, x in k.items()}))
        raise AttributeError(f"the stand-in for cupy.ndarray has no {name}")


ndarray.__module__ = "cupy"


def _bare(x: Any) -> Any:
    if isinstance(x, ndarray):
        return x._here()
    if isinstance(x, np.ndarray) and x.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return x


def _wrap(x: Any) -> Any:
    return x if x is None else ndarray(np.asarray(x))


def _index(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_index(k) for k in key)
    if isinstance(key, np.ndarray) and key.ndim:
        raise TypeError("a device array is indexed by device arrays")
    return _bare(key)


def _operator(name: str) -> Any:
    def method(self: ndarray, *others: Any) -> Any:
        return _wrap(getattr(self._here(), name)(*map(_bare, others)))

    return method


OPERATORS = """add radd sub rsub mul rmul truediv rtruediv floordiv mod pow neg matmul lt le gt ge eq ne and or xor
rshift lshift invert abs rxor ror rand"""
FUNCTIONS = """zeros_like empty_like arange concatenate tanh sqrt maximum isfinite bincount cumsum exp where square
full ones broadcast_to repeat tile ascontiguousarray stack abs log1p eye sign minimum searchsorted"""

for _name in OPERATORS.split():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def _in_place(name: str) -> Any:
    def method(self: ndarray, other: Any) -> Any:
        getattr(self._here(), name)(_bare(other))
        return self

    return method


for _name in ("iadd", "isub", "imul", "itruediv"):
    setattr(ndarray, f"__{_name}__", _in_place(f"__{_name}__"))


def _function(name: str) -> Any:
    def function(*a: Any, **k: Any) -> Any:
        bare = [[_bare(y) for y in x] if isinstance(x, list | tuple) else _bare(x) for x in a]
        out = k.pop("out", None)
        if out is not None:
            k["out"] = _bare(out)
            getattr(np, name)(*bare, **k)
            return out
        return _wrap(getattr(np, name)(*bare, **{n: _bare(x) for n, x in k.items()}))

    return function


def asarray(x: Any, dtype: Any = None) -> ndarray:
    if isinstance(x, ndarray):
        return x if dtype is None or x.dtype == dtype else x.astype(dtype)
    x = np.asarray(x)
    log.append(("set", x.nbytes))
    return ndarray(np.array(x, dtype=dtype))


def array(x: Any, dtype: Any = None) -> ndarray:
    return ndarray(np.array(_bare(x) if isinstance(x, ndarray) else np.asarray(x), dtype=dtype))


limit_bytes = [1 << 40]
"""What the pretended device holds in one allocation; tests lower it."""


def empty(shape: Any, dtype: Any = float) -> ndarray:
    held = np.empty(shape, dtype)
    if held.nbytes > limit_bytes[0]:
        raise OutOfMemoryError(held.nbytes, 0, limit_bytes[0])
    held.reshape(-1).view(np.uint8)[...] = 0xFF  # NaN as a number, out of range as an index
    return ndarray(held)


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    out = empty(shape, dtype)
    out._held[...] = 0
    return out


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


def _matrices(a: Any) -> np.ndarray:
    if not isinstance(a, ndarray):
        raise TypeError("cupy.linalg only supports cupy.ndarray")
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise np.linalg.LinAlgError("Last 2 dimensions of the array must be square")
    if a.dtype not in (np.float32, np.float64):
        raise TypeError(f"{a.dtype} is unsupported in linalg")
    return a._here()


def solve(a: ndarray, b: ndarray) -> ndarray:
    """As CuPy's versions agree on: a stack of matrices takes a stack of matrices, and is not broadcast."""
    matrices = _matrices(a)
    if not isinstance(b, ndarray) or b.dtype != a.dtype:
        raise TypeError("b must be an array of a's type")
    if not (b.ndim == a.ndim or a.ndim == 2 == b.ndim + 1) or a.shape[:-1] != b.shape[: a.ndim - 1]:
        raise ValueError("a must have (..., M, M) shape and b must have (M,) or (..., M, K)")
    return ndarray(np.linalg.solve(matrices, b._here()))


def cholesky(a: ndarray) -> ndarray:
    """What is not positive definite gives no error, as cuSOLVER's status is not looked at; here it gives NaN."""
    matrices = _matrices(a)
    out = np.full_like(matrices, np.nan)
    for at in np.ndindex(matrices.shape[:-2]):
        with suppress(np.linalg.LinAlgError):
            out[at] = np.linalg.cholesky(matrices[at])
    return ndarray(out)


# --- kernels ------------------------------------------------------------------------------------------------------


SPECIALISING = ("-DKIND=", "-DDECAY=", "-DNESTEROV=", "-DSPARSE=", "-DRANGE=", "-DLOSS=")
keep_specialisation = [False]
"""Whether kernels are built for one optimiser, as on a device, or for all, so that tests share a build."""


class RawModule:
    def __init__(self, *, code: str, options: tuple[str, ...] = (), enable_cooperative_groups: bool = False) -> None:
        if not all(isinstance(o, str) for o in options):
            raise TypeError("options must be str")
        self.code, self.cooperative = code, enable_cooperative_groups
        self.defines = tuple(
            o
            for o in options
            if o.startswith("-D")
            and not o.startswith("-DNETS=")  # trampolines are for all kernels
            and (keep_specialisation[0] or not o.startswith(SPECIALISING))
        )

    def get_function(self, name: str) -> Function:
        bound = emulator.launch_bound(self.code, name, self.defines)
        return Function(emulator.load(self.code, self.defines), name, bound, self.cooperative)


class Function:
    def __init__(self, library: emulator.Library, name: str, max_threads_per_block: int, cooperative: bool) -> None:
        if name not in library.names:
            raise KeyError(f"no kernel {name}; there are {library.names}")
        self.code, self.name = library, name
        self.signature = library.signature(name)
        self.max_dynamic_shared_size_bytes = 48 << 10
        self.max_threads_per_block = max_threads_per_block
        self.cooperative = cooperative

    def _launch(self, grid: Any, block: Any, args: Any, shared_mem: int) -> None:
        name, cooperative = self.name, self.cooperative
        if len(args) != len(self.signature):
            raise emulator.KernelError(f"{name} takes {len(self.signature)} arguments, not {len(args)}")
        if not all(type(x) is int for x in (*grid, *block)):
            raise TypeError("grid and block must be tuples of int")
        if block[0] > self.max_threads_per_block:
            raise emulator.KernelError(f"{name}: {block[0]} threads; it was built for {self.max_threads_per_block}")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise emulator.KernelError(f"{name}: {shared_mem} bytes of shared memory without opting in")
        if min(grid) < 1 or min(block) < 1:
            raise emulator.KernelError(f"{name}: an empty launch")
        if cooperative and grid[0] > device_attributes["MultiProcessorCount"]:
            raise emulator.KernelError(f"{name}: cooperative grid of {grid[0]} does not fit")
        keep, addresses = [], []
        for i, (value, (code, size, pointer)) in enumerate(zip(args, self.signature, strict=True)):
            where = f"{name}, argument {i}"
            if pointer:
                if not isinstance(value, ndarray):
                    raise emulator.KernelError(f"{where}: {type(value)} where a device array of {code} belongs")
                if not value._here().flags.c_contiguous:
                    raise emulator.KernelError(f"{where}: a strided view")
                if code != "struct" and value.dtype.name != code:
                    raise emulator.KernelError(f"{where}: {value.dtype} where {code} belongs")
                held: Any = ctypes.c_void_p(value._held.ctypes.data)
                addresses.append(ctypes.addressof(held))
            elif code == "struct":
                if not (isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.itemsize == size):
                    raise emulator.KernelError(f"{where}: a struct of {size} bytes belongs here")
                held = value.copy()
                addresses.append(held.ctypes.data)
            else:
                if not isinstance(value, np.generic) or value.dtype.name != code:
                    raise emulator.KernelError(f"{where}: {type(value)} where a NumPy {code} belongs")
                held = np.array(value)
                addresses.append(held.ctypes.data)
            keep.append(held)
        log.append(("launch", name))
        self.code.run(name, grid[0], block[0], addresses, shared_mem, cooperative)

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        if stream_of_capture:
            stream_of_capture[-1].append(lambda: self._launch(grid, block, args, shared_mem))
            return
        self._launch(grid, block, args, shared_mem)


# --- device, streams, graphs --------------------------------------------------------------------------------------

device_attributes = {
    "MultiProcessorCount": 3,
    "MaxSharedMemoryPerBlockOptin": 227 << 10,
    "CooperativeLaunch": 1,
    "ComputeCapabilityMajor": 9,
}

stream_of_capture: list[list[Any]] = []


class Graph:
    """A captured run of launches, made again by calling them."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def launch(self, stream: Any = None) -> None:
        log.append(("graph", len(self.calls)))
        for call in self.calls:
            call()


class Stream:
    null: Any = None

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        log.append(("synchronize", None))

    def begin_capture(self) -> None:
        log.append(("capture", None))
        stream_of_capture.append([])

    def end_capture(self) -> Graph:
        return Graph(stream_of_capture.pop())


class Event:
    """Time that passes on the host stands for the device's."""

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        log.append(("synchronize", None))


class Device:
    def __init__(self, number: int | None = None) -> None:
        if number not in (None, 0, 1):
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id = devices[-1] if number is None else number
        self.attributes = device_attributes
        self.mem_info = (8 << 30, 8 << 30)

    def __enter__(self) -> Device:
        devices.append(self.id)
        return self

    def __exit__(self, *_: Any) -> None:
        devices.pop()


def make() -> types.ModuleType:
    """The module to put in `sys.modules` as cupy."""
    cupy = types.ModuleType("cupy")
    cupy.__version__ = "13.0 (stand-in)"  # type: ignore[attr-defined]
    for thing in (ndarray, asarray, array, empty, zeros, RawModule):
        setattr(cupy, thing.__name__, thing)
    for name in FUNCTIONS.split():
        setattr(cupy, name, _function(name))

    def matmul(a: ndarray, b: ndarray, out: ndarray) -> ndarray:
        def run() -> None:
            with np.errstate(all="ignore"):  # a device does not warn
                out._held[...] = np.matmul(_bare(a), _bare(b))

        if not out._held.flags.c_contiguous or {a.dtype, b.dtype} != {out.dtype}:
            raise TypeError("out must be contiguous, of the operands' type")
        stream_of_capture[-1].append(run) if stream_of_capture else run()
        return out

    cupy.matmul = matmul  # type: ignore[attr-defined]

    def add_at(target: ndarray, index: ndarray, values: ndarray) -> None:
        np.add.at(_bare(target), _bare(index), _bare(values))

    def unique(x: ndarray, return_inverse: bool) -> tuple[ndarray, ...]:
        return tuple(map(ndarray, np.unique(_bare(x), return_inverse=return_inverse)))

    cupy.unique = unique  # type: ignore[attr-defined]
    cupy.linalg = types.SimpleNamespace(solve=solve, cholesky=cholesky)  # type: ignore[attr-defined]
    cupy.add = types.SimpleNamespace(at=add_at)  # type: ignore[attr-defined]
    cupy.cuda = types.ModuleType("cupy.cuda")  # type: ignore[attr-defined]
    cuda = cupy.cuda
    cuda.Stream, cuda.Device, cuda.Graph, cuda.Event = Stream, Device, Graph, Event  # type: ignore[attr-defined]
    cuda.get_elapsed_time = lambda first, last: (last.at - first.at) * 1e3  # type: ignore[attr-defined]
    Stream.null = Stream()
    cuda.get_current_stream = lambda: Stream.null  # type: ignore[attr-defined]
    cuda.runtime = types.SimpleNamespace(  # type: ignore[attr-defined]
        getDeviceCount=lambda: 2,
        CUDARuntimeError=RuntimeError,
        getDeviceProperties=lambda _: {"name": b"the emulator", "major": 9, "minor": 0},
        driverGetVersion=lambda: 0,
        runtimeGetVersion=lambda: 0,
    )
    cuda.memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)  # type: ignore[attr-defined]
    return cupy


@contextmanager
def installed() -> Any:
    """`import cupy` finds the stand-in while this is entered."""
    before = {name: module for name, module in sys.modules.items() if name == "cupy" or name.startswith("cupy.")}
    for name in before:
        del sys.modules[name]
    cupy = make()
    sys.modules["cupy"], sys.modules["cupy.cuda"] = cupy, cupy.cuda  # type: ignore[attr-defined]
    try:
        yield cupy
    finally:
        for name in ("cupy", "cupy.cuda"):
            sys.modules.pop(name, None)
        sys.modules.update(before)


on_device = [False]
"""Set by tests/test_gpu.py: `emulated` then leaves CuPy and the device as they are."""


@contextmanager
def emulated(path: str = "resident", processors: int = 3, threads: int = 64) -> Any:
    """Run the backend on the stand-in, in one of its ways of training; yields its package.

    Parameters
    ----------
    path : "resident", "touched" or "large"
        Rows in shared memory, rows in device memory within one launch, or passes over large batches.
    processors, threads : int
        The launch geometry, on which no result may depend.
    """
    from minicf.backends import cuda
    from minicf.backends.cuda import device, tables

    constants: dict[str, Any] = {
        "THREADS": threads, "SMALL_BATCH": 0 if path == "large" else 1024, "SWEEP": 3, "PROCESSORS": processors,
    }  # fmt: skip
    before = {name: getattr(device, name) for name in constants}, dict(device_attributes), tables.Tables.resident
    try:
        for name, value in constants.items():
            setattr(device, name, value)
        device_attributes["MultiProcessorCount"] = processors
        tables.Tables.resident = path == "resident"
        with nullcontext() if on_device[0] else installed():
            yield cuda
    finally:
        for name, value in before[0].items():
            setattr(device, name, value)
        device_attributes.update(before[1])
        tables.Tables.resident = before[2]
