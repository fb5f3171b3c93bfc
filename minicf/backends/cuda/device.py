"""Find the CUDA device, compile the kernels for a program and launch them; the constants that all programs share.

The kernels are in the .cuh files of this folder, compiled as one text. Other modules read the constants of this one
as ``device.THREADS`` and so on when they use them, so that tests can change them.
"""

from __future__ import annotations

import ctypes
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from minicf.losses import Logistic, Loss, SquaredError

log = logging.getLogger("minicf")

THREADS = 256
"""Number of threads per block. A warp works on a row: a block works on 8 rows at once."""
PROCESSORS: int | None = None
"""Number of blocks of a cooperative launch; None for one block per multiprocessor of the device."""
MAX_FACTORS = 512
"""Largest number of factors with a fused kernel. Rows are held in registers, and wider rows would spill."""
SMALL_BATCH = 1024
"""Largest batch size for which all steps of a call run in one cooperative kernel."""
SWEEP = 32
"""Number of steps between two sweeps over all rows. Untouched rows have no closed form under Adam with l2: where tables
do not fit in shared memory, a sweep makes these steps in registers, and so reads each table once per sweep."""
MAX_CALL = (1 << 30) - 64
"""Largest number of ratings of a call. Its elements, two per rating, are numbered in 32 bits; a warp reads up to 32
numbers past the last."""
EXPANSION = {4: 3e-8, 8: 1e-11}
"""Largest relative error of (C4), by the number of bytes of a float: half a unit in the last place of float32; in
float64, where the series is less exact than that, the error that keeps a long training within 1e-9 of the reference."""

FILES = (
    "setup", "rows", "update", "catch_up", "score", "loss", "random", "nets", "plan", "barrier", "epoch", "batches",
    "net_batches", "loss_sums", "per_rating", "top", "predict",
)  # fmt: skip
"""The kernels' files in the order of the text: each file uses only the files before it."""

KINDS = {"SGD": 0, "MOMENTUM": 1, "ADAM": 2}
DECAYS = {None: 0, "l2": 1, "per_rating": 2, "decoupled": 3}
LOSSES: dict[type[Loss], int] = {SquaredError: 0, Logistic: 1}
"""Numbers of the losses in loss.cuh, by type: the only place that maps one to the other."""

SETUP = np.dtype(
    [("mean", "f8"), ("low", "f8"), ("high", "f8"), ("eps", "f8"), ("momentum", "f8"), ("beta1", "f8"), ("beta2", "f8"),
     ("decay", "f8", 4), ("expand", "f8"),
     *((name, "i4") for name in (
         "kind", "decay_kind", "nesterov", "sparse", "range", "loss", "users", "items", "factors", "bias_column",
         "stride", "slots", "sweep", "fading", "levels"))],
    align=True,
)  # fmt: skip
"""`Setup` of setup.cuh: what is fixed for the life of a program."""
SUMS: dict[str, Any] = {"threads": 256, "shared": 256 * 8}
"""Launch arguments of the kernels that add up losses. They are fixed, because they fix the order of the sums."""


# --- availability ---------------------------------------------------------------------------------------------------


def unavailable() -> str | None:
    """Say why this backend cannot run here; None if it can."""
    driver = _driver_version()
    extra = "cuda13x" if driver is None or driver >= 13000 else "cuda12x"
    try:
        import cupy
    except ImportError as error:
        if driver is None:
            return (
                "no NVIDIA driver was found (libcuda.so.1), and CuPy is not installed; with a GPU, install its driver, "
                "then pip install 'minicf[cuda13x]', or 'minicf[cuda12x]' for a driver of CUDA 12"
            )
        return f"CuPy cannot be imported ({error}); pip install 'minicf[{extra}]' fits the driver of this machine"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # a mismatched driver may raise any error
        if driver is None:
            return f"no NVIDIA driver was found (libcuda.so.1): {error}"
        return f"CuPy does not work with the driver of this machine ({error}); pip install 'minicf[{extra}]' does"
    return None if count else "CuPy finds no GPU (is CUDA_VISIBLE_DEVICES empty?)"


def _driver_version() -> int | None:
    """Read the CUDA version that the driver supports, as 1000 major + 10 minor; None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def out_of_memory(error: MemoryError, size: int, held: int = 0) -> MemoryError:
    """Make the error for weights and optimizer state that do not fit.

    Parameters
    ----------
    error : MemoryError
        CuPy's.
    size : int
        Bytes of weights and state.
    held : int
        How many of these bytes are on the device already.
    """
    import cupy

    free, total = cupy.cuda.Device().mem_info
    return MemoryError(
        f"weights, optimizer state and a copy of both for recovery need {2 * size / 2**30:.2f} GiB; the device has "
        f"{(free + held) / 2**30:.2f} of {total / 2**30:.2f} GiB for them. About {(free + held) / (2 * size):.0%} of "
        f"the factors, rows or state would fit: try fewer factors, SGD instead of Adam, or float32. ({error})"
    )


# --- compilation and launches ---------------------------------------------------------------------------------------


def make_struct(dtype: np.dtype, values: dict[str, Any]) -> np.ndarray:
    """Make a struct for a kernel, an array of shape (); fields that `values` does not name are 0."""
    out = np.zeros((), dtype)
    for name, value in values.items():
        out[name] = value
    return out


def source() -> str:
    """Read the kernels: the text of all files. Line numbers in a compiler's errors count through this text."""
    return "\n".join((Path(__file__).parent / f"{name}.cuh").read_text(encoding="utf-8") for name in FILES)


def options(setup: np.ndarray, dtype: np.dtype, threads: int, nets: bool, half: bool = False) -> tuple[str, ...]:
    """Choose the compiler options for one program: what is fixed for its life becomes a constant of the kernels.

    Parameters
    ----------
    setup : array of SETUP, shape ()
    dtype : dtype
        Of the arithmetic, float32 or float64.
    threads : int
        Largest number of threads per block.
    nets, half : bool
        Whether to compile the kernels of nets; whether rows are stored in float16.
    """
    chunks = -(-int(setup["stride"]) // 128)
    constants = {
        "REAL": "float" if dtype == np.float32 else "double", "CHUNKS": chunks, "THREADS": threads,
        "KIND": setup["kind"], "DECAY": setup["decay_kind"], "NESTEROV": setup["nesterov"],
        "SPARSE": setup["sparse"], "RANGE": setup["range"], "LOSS": setup["loss"], "NETS": int(nets), "HALF": int(half),
    }  # fmt: skip
    return ("-std=c++17", *(f"-D{name}={value}" for name, value in constants.items()))


class Kernels:
    """Compile the kernels of one program, each when it is first used, and launch them: the only place that does."""

    def __init__(self, options: tuple[str, ...]) -> None:
        import cupy

        self._cupy = cupy
        self._options = options
        self._modules: dict[bool, Any] = {}
        self._functions: dict[tuple[str, bool], Any] = {}
        attributes = cupy.cuda.Device().attributes
        self.processors = PROCESSORS or int(attributes["MultiProcessorCount"])
        self.shared_limit = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self.cooperative = bool(attributes["CooperativeLaunch"])

    def function(self, name: str, cooperative: bool = False) -> Any:
        """Look up a kernel by its name; compile it if need be."""
        if (name, cooperative) not in self._functions:
            if cooperative not in self._modules:
                self._modules[cooperative] = self._cupy.RawModule(
                    code=source(), options=self._options, enable_cooperative_groups=cooperative
                )
            self._functions[name, cooperative] = self._modules[cooperative].get_function(name)
        return self._functions[name, cooperative]

    def launch(
        self, name: str, arguments: tuple[Any, ...], blocks: int, threads: int | None = None, shared: int = 0,
        cooperative: bool = False,
    ) -> None:  # fmt: skip
        """Launch a kernel on the current stream.

        Parameters
        ----------
        name : str
        arguments : tuple of device arrays and NumPy scalars or structs
        blocks, threads : int
            The grid; `threads` per block, THREADS by default.
        shared : int
            Bytes of dynamic shared memory per block.
        cooperative : bool
            Whether all blocks must run at once, as the grid barrier requires.

        Raises
        ------
        TypeError
            For an argument that CuPy would pass on and the kernel misread: a strided view or a Python number.
        """
        for i, x in enumerate(arguments):
            if isinstance(x, self._cupy.ndarray):
                if not x.flags.c_contiguous:
                    raise TypeError(f"argument {i} of {name} is a strided view; it must be a contiguous array")
            elif not (isinstance(x, np.generic) or (isinstance(x, np.ndarray) and x.ndim == 0)):
                raise TypeError(f"argument {i} of {name} is {x!r}; it must be a device array or a NumPy scalar")
        function = self.function(name, cooperative)
        if shared > 48 << 10:
            function.max_dynamic_shared_size_bytes = shared
        with warnings.catch_warnings():
            # CuPy shrinks a cooperative grid that does not fit, with a warning; the plan depends on the grid's size.
            warnings.simplefilter("error")
            function((int(blocks),), (int(threads or THREADS),), arguments, shared_mem=int(shared))

    def over(self, name: str, work: int, arguments: tuple[Any, ...], per_block: int = 0, **more: Any) -> None:
        """Launch a grid-stride kernel over `work` items, `per_block` of them per block (THREADS by default).

        There are at most 8 blocks per multiprocessor, which fill the device.
        """
        blocks = max(1, min(-(-work // (per_block or THREADS)), 8 * self.processors))
        self.launch(name, arguments, blocks, **more)
