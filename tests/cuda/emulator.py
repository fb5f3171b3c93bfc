"""Builds the .cuh files with g++ and runs their kernels on the CPU; the scheduler is device.cpp, the dialect device.h.

Environment
-----------
MINICF_EMULATE : "plain", "sanitize" (address and undefined-behaviour sanitizers) or "race" (the race checker).
MINICF_EMULATE_SEED : an odd number shuffles the order of threads and blocks.
MINICF_EMULATE_UCONTEXT : switch fibers by ucontext, as on processors other than x86-64.
MINICF_EMULATE_CACHE : where builds are kept.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FLAGS = {
    "plain": [],
    "sanitize": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DSTACK_BYTES=262144"],
    "race": ["-fsanitize=thread", "--param=tsan-distinguish-volatile=1"],
}
COMMON = ["-std=c++17", "-fPIC", "-g1", "-w", "-ffp-contract=off", "-fno-strict-aliasing"]


class KernelError(RuntimeError):
    """A deadlock, a race, a misuse of a collective, or an argument that a device would misread."""


def compiler() -> str | None:
    return shutil.which("g++")


def missing() -> str | None:
    """Why kernels cannot be emulated here."""
    return None if compiler() else "g++ is not installed: the CUDA kernels cannot be run on the CPU"


def mode() -> str:
    return os.environ.get("MINICF_EMULATE", "plain")


def _cache() -> Path:
    path = Path(os.environ.get("MINICF_EMULATE_CACHE", Path(tempfile.gettempdir()) / f"minicf-emulator-{os.getuid()}"))
    path.mkdir(exist_ok=True, parents=True)
    return path


def _compile(command: list[str], output: Path) -> None:
    """Run the compiler into a temporary name first: several test processes may want the same file."""
    if output.exists():
        return
    unfinished = output.with_suffix(f".{os.getpid()}{output.suffix}")
    done = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True)
    if done.returncode:
        raise KernelError(f"the emulator cannot compile the kernels:\n{done.stderr[:6000]}")
    unfinished.rename(output)


def kernel_names(source: str) -> list[str]:
    return re.findall(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(', source)


def launch_bound(source: str, name: str, defines: tuple[str, ...]) -> int:
    """The most threads that a kernel may be launched with, from its `__launch_bounds__`."""
    found = re.search(rf"__launch_bounds__\((\w+)[^)]*\)\s*{name}\s*\(", source)
    word = found[1] if found else "1024"
    given = [d.partition("=")[2] for d in defines if d.startswith(f"-D{word}=")]
    if not word.isdigit():
        word = given[0] if given else re.findall(rf"#define {word} (\d+)", source)[0]
    return int(word)


TRAMPOLINES = """
#include <utility>
template <class T> struct Code { static constexpr const char* text = "struct"; };
#define CODE(T, name) template <> struct Code<T> { static constexpr const char* text = name; };
CODE(float, "float32") CODE(double, "float64") CODE(int, "int32") CODE(unsigned, "uint32")
CODE(long long, "int64") CODE(unsigned long long, "uint64") CODE(unsigned char, "uint8")
CODE(unsigned short, "uint16") CODE(__half, "float16")
template <class T> struct Code<T*> { static constexpr const char* text = Code<T>::text; };
template <class T> struct Code<const T> { static constexpr const char* text = Code<T>::text; };
template <class T> struct IsPointer { static constexpr int value = 0; };
template <class T> struct IsPointer<T*> { static constexpr int value = 1; };
template <class... A, size_t... I>
void call(void (*f)(A...), void** p, std::index_sequence<I...>) { f(*(A*)p[I]...); }
template <class... A>
void call(void (*f)(A...), void** p) { call(f, p, std::index_sequence_for<A...>{}); }
template <class... A>
int describe(void (*)(A...), int i, const char** code, size_t* size, int* pointer) {
    const char* codes[] = {Code<A>::text..., ""};
    size_t sizes[] = {sizeof(A)..., 0};
    int pointers[] = {IsPointer<A>::value..., 0};
    *code = codes[i]; *size = sizes[i]; *pointer = pointers[i];
    return sizeof...(A);
}
"""


class Library:
    """One build of the kernels: a set of defines, in one mode."""

    def __init__(self, source: str, defines: tuple[str, ...]) -> None:
        self.names = kernel_names(source)
        self.mode = mode()
        flags = [*COMMON, *FLAGS[self.mode]]
        optimise = os.environ.get("MINICF_EMULATE_OPTIMISE", "-O1")
        runtime_flags = [
            *COMMON,
            "-O2",
            *(f for f in FLAGS[self.mode] if f != "-fsanitize=thread" and "--param" not in f),
        ]
        header, runtime = (HERE / "device.h").read_text(), (HERE / "device.cpp").read_text()
        if os.environ.get("MINICF_EMULATE_UCONTEXT"):
            runtime_flags.append("-DUSE_UCONTEXT")
        unit = [f'#include "{HERE / "device.h"}"', '#line 1 "minicf.cu"', source, TRAMPOLINES]
        for name in self.names:
            unit.append(f'extern "C" void run_{name}(void** p) {{ call({name}, p); }}')
            unit.append(
                f'extern "C" int describe_{name}(int i, const char** c, size_t* s, int* p) '
                f"{{ return describe({name}, i, c, s, p); }}"
            )
        text = "\n".join(unit)
        key = hashlib.sha256("\0".join([text, header, runtime, *defines, *flags, *runtime_flags]).encode()).hexdigest()
        base = _cache() / key[:24]
        shared = base.with_suffix(".so")
        if not shared.exists():
            cu = base.with_suffix(f".{os.getpid()}.cpp")
            cu.write_text(text)
            gxx = compiler() or "g++"
            runtime_key = hashlib.sha256("\0".join([header, runtime, *runtime_flags]).encode()).hexdigest()
            runtime_object = _cache() / f"{runtime_key[:24]}.o"
            kernels_object = base.with_suffix(".o")
            _compile([gxx, *runtime_flags, "-c", str(HERE / "device.cpp")], runtime_object)
            _compile([gxx, *flags, optimise, *defines, "-c", str(cu)], kernels_object)
            link = [f for f in FLAGS[self.mode] if f.startswith("-fsanitize=address")]
            _compile([gxx, "-shared", *link, str(kernels_object), str(runtime_object)], shared)
            cu.unlink()
        self.code = ctypes.CDLL(str(shared))
        self.launch = self.code.emu_launch
        self.launch.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t, ctypes.c_int,
            ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t,
        ]  # fmt: skip

    def signature(self, name: str) -> list[tuple[str, int, bool]]:
        """For each parameter of a kernel: its type or what it points to, its size, whether it is a pointer."""
        describe = getattr(self.code, f"describe_{name}")
        code, size, pointer = ctypes.c_char_p(), ctypes.c_size_t(), ctypes.c_int()
        out = ctypes.byref(code), ctypes.byref(size), ctypes.byref(pointer)
        count = describe(0, *out)
        signature = []
        for i in range(count):
            describe(i, *out)
            signature.append((code.value.decode(), size.value, bool(pointer.value)))  # type: ignore[union-attr]
        return signature

    def run(self, name: str, grid: int, block: int, addresses: list[int], shared_bytes: int, cooperative: bool) -> None:
        """Launch a kernel; `addresses` are those of its arguments, as the driver takes them."""
        arguments = (ctypes.c_void_p * max(len(addresses), 1))(*addresses)
        error = ctypes.create_string_buffer(2000)
        entry = ctypes.cast(getattr(self.code, f"run_{name}"), ctypes.c_void_p)
        seed = int(os.environ.get("MINICF_EMULATE_SEED", "0"))
        if self.launch(
            entry, ctypes.cast(arguments, ctypes.c_void_p), grid, block, shared_bytes, int(cooperative), seed,
            int(self.mode == "race"), error, len(error),
        ):  # fmt: skip
            raise KernelError(f"{name}: {error.value.decode()}")


_libraries: dict[Any, Library] = {}


def load(source: str, defines: tuple[str, ...]) -> Library:
    key = (source, defines, mode())
    if key not in _libraries:
        _libraries[key] = Library(source, defines)
    return _libraries[key]
