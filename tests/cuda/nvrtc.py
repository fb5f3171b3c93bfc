"""Compiles the kernels for real GPUs, which needs NVRTC but no driver: `pip install nvidia-cuda-nvrtc`.

``python -m tests.cuda.nvrtc`` prints the registers of every kernel and variant.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minicf.backends.cuda import device

ARCHITECTURES = (75, 80, 90, 100, 120)

# Setup fields by variant. kind: 0 SGD, 1 momentum, 2 Adam; decay_kind: 0 none, 1 l2, 2 per rating, 3 decoupled;
# loss: 0 squared error, 1 logistic.
VARIANTS: dict[str, tuple[dict[str, int], str, bool]] = {
    "adam-l2-range": ({"kind": 2, "decay_kind": 1, "range": 1, "stride": 52}, "float32", True),
    "adamw": ({"kind": 2, "decay_kind": 3, "stride": 68}, "float32", False),
    "adam-sparse": ({"kind": 2, "sparse": 1, "stride": 132}, "float32", False),
    "nesterov-l2": ({"kind": 1, "nesterov": 1, "decay_kind": 1, "stride": 52}, "float32", False),
    "sgd-per-rating": ({"decay_kind": 2, "sparse": 1, "stride": 260}, "float32", False),
    "sgd-half": ({"decay_kind": 2, "sparse": 1, "stride": 132}, "float16", False),
    "adam-l2-512": ({"kind": 2, "decay_kind": 1, "range": 1, "stride": 516}, "float32", False),
    "adamw-512": ({"kind": 2, "decay_kind": 3, "range": 1, "stride": 516}, "float32", False),
    "logistic-range": ({"kind": 2, "decay_kind": 1, "range": 1, "loss": 1, "stride": 52}, "float32", True),
    "momentum-float64": ({"kind": 1, "decay_kind": 1, "stride": 52}, "float64", True),
}
"""What compiled programs differ in: the optimizer, the loss, the width of a row, the type, whether they have nets."""


class Kernel(NamedTuple):
    name: str
    registers: int
    spilled: int
    stack: int


def load() -> ctypes.CDLL | None:
    """NVRTC, from its wheel or the system."""
    places = [Path(p) / "nvidia" for p in sys.path if p]
    found = [f for p in places for f in glob.glob(f"{p}/**/libnvrtc.so.*", recursive=True)]
    for name in (*sorted(found, reverse=True), ctypes.util.find_library("nvrtc")):
        if name:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
    return None


def compile_for(architecture: int, options: tuple[str, ...]) -> list[Kernel]:
    """Compile to machine code; what ptxas says of each kernel. Raises RuntimeError with the compiler's words."""
    nvrtc = load()
    assert nvrtc is not None
    program = ctypes.c_void_p()
    arguments = [f"-arch=sm_{architecture}", "-ftz=true", "--ptxas-options=-v", *options]  # -ftz as CuPy adds it
    array = (ctypes.c_char_p * len(arguments))(*(x.encode() for x in arguments))
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), device.source().encode(), b"minicf.cu", 0, None, None):
        raise RuntimeError("NVRTC cannot start")
    status = nvrtc.nvrtcCompileProgram(program, len(arguments), array)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, text)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    log = text.value.decode()
    if status:
        raise RuntimeError(log[:4000])
    kernels = []
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part.partition("'")[0]
        stack, stores, loads = (sum(int(n) for n in re.findall(rf"(\d+) bytes {what}", part))
                                for what in ("stack frame", "spill stores", "spill loads"))  # fmt: skip
        registers = max(int(n) for n in re.findall(r"Used (\d+) registers", part))
        kernels.append(Kernel(name, registers, stores + loads, stack))
    return kernels


def variant(name: str) -> tuple[str, ...]:
    """The options with which the backend would compile it."""
    fields, dtype, nets = VARIANTS[name]
    setup = np.zeros((), device.SETUP)
    for field, value in fields.items():
        setup[field] = value
    half = dtype == "float16"
    return device.options(setup, np.dtype("float32" if half else dtype), device.THREADS, nets, half)


if __name__ == "__main__":
    for variant_name in VARIANTS:
        rows = {a: {k.name: k for k in compile_for(a, variant(variant_name))} for a in ARCHITECTURES}
        print(f"{variant_name:<24}" + "".join(f"  sm_{a:<4}" for a in ARCHITECTURES))
        for kernel in sorted(rows[ARCHITECTURES[0]]):
            cells = (rows[a][kernel] for a in ARCHITECTURES)
            print(f"  {kernel:<22}" + "".join(f"  {c.registers:>4}{'!' if c.spilled else ' '}  " for c in cells))
