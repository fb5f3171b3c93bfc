"""The emulator and the stand-in for CuPy notice what they are there to notice."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cuda import emulator, standin

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))

# `bad` chooses a mistake; 0 is right.
SOURCE = r"""
extern "C" __global__ void __launch_bounds__(64, 1) kernel(const float* a, float* out, int n, int bad) {
    DYNAMIC_SHARED(float, part);
    float s = 0;
    for (int i = threadIdx.x + blockIdx.x * blockDim.x; i < n; i += blockDim.x * gridDim.x) s += a[i];
    for (int flip = 16; flip; flip >>= 1) s += __shfl_xor_sync(0xffffffffu, s, flip);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = s;
    if (bad != 1) __syncthreads();
    if (threadIdx.x == 0) out[blockIdx.x] = part[0] + part[1];
    if (bad == 2) out[0] = 1;
    if (bad == 3 && threadIdx.x < 3) __syncthreads();
    if (bad == 4 && threadIdx.x == 7) __shfl_sync(0xffffffffu, s, 0);
    if (bad == 5) __shfl_sync(0x0000ffffu, s, 0);
    if (bad == 6) {
        if (threadIdx.x < 32) __syncthreads(); else __syncthreads();
        if (threadIdx.x < 32) __syncwarp(); else __syncwarp();
    }
    if (bad == 7) { if (threadIdx.x & 1) __syncwarp(); else __shfl_sync(0xffffffffu, s, 0); }
    if (bad == 8) while (*(volatile float*)out > -1) __nanosleep(1);
    if (bad == 9) { GRID_ARRIVED(); if (blockIdx.x == 0) GRID_PASSED(); GRID_ARRIVED(); GRID_PASSED(); GRID_PASSED(); }
    if (bad == 10) part[threadIdx.x] = 1;
    if (bad == 11) a = 0, out[3] = *(a + threadIdx.x / 1000);
}
"""


def launch(bad: int, seed: int = 0, cooperative: bool = False) -> np.ndarray:
    library = emulator.load(SOURCE, ())
    a, out = np.arange(1000, dtype=np.float32), np.zeros(3, np.float32)
    values = [ctypes.c_void_p(a.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int(1000), ctypes.c_int(bad)]
    os.environ["MINICF_EMULATE_SEED"], before = str(seed), os.environ.get("MINICF_EMULATE_SEED")
    try:
        library.run("kernel", 3, 64, [ctypes.addressof(x) for x in values], 8, cooperative)
    finally:
        os.environ.pop("MINICF_EMULATE_SEED")
        if before is not None:
            os.environ["MINICF_EMULATE_SEED"] = before
    return out


@pytest.mark.parametrize("seed", [0, 1, 3, 99])
def test_it_computes(seed):
    assert launch(0, seed).sum() == np.arange(1000).sum()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (3, "block barrier after"),
        (4, "names lanes that have left|deadlock"),
        (5, "which lacks it"),
        (7, "different warp operations"),
        (8, "deadlock: .*a spin loop at line"),
        (9, "passed before block"),
    ],
)  # fmt: skip
def test_misuse_is_reported(bad, words):
    with pytest.raises(emulator.KernelError, match=words):
        launch(bad, cooperative=True)
    assert launch(0).sum() == np.arange(1000).sum()  # and it goes on


def test_shared_memory_starts_as_nan():
    assert np.isnan(launch(1)).all()  # part[1] is read before the second warp has written it


def test_two_barriers_in_two_lines_are_not_one():
    moved = SOURCE.replace(
        "if (threadIdx.x < 32) __syncthreads(); else", "if (threadIdx.x < 32) __syncthreads();\nelse"
    )
    library = emulator.load(moved, ())
    a, out = np.zeros(4, np.float32), np.zeros(3, np.float32)
    values = [ctypes.c_void_p(a.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int(4), ctypes.c_int(6)]
    with pytest.raises(emulator.KernelError, match="different barriers"):
        library.run("kernel", 3, 64, [ctypes.addressof(x) for x in values], 8, False)


def elsewhere(bad: int, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    code = f"from tests.test_cuda_emulator import launch; print(launch({bad}).sum())"
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(root)} | environment, capture_output=True,
        text=True, cwd=root,
    )  # fmt: skip


@pytest.mark.parametrize(("bad", "caught"), [(0, False), (1, True), (2, True)])
def test_the_race_checker(bad, caught):
    done = elsewhere(bad, MINICF_EMULATE="race")
    assert ("race: " in done.stderr) is caught
    assert (done.returncode == 0) is not caught


@pytest.mark.parametrize(("bad", "caught"), [(0, False), (10, True), (11, True)])
def test_the_sanitizers(bad, caught):
    from tests.test_cuda_modes import runtime

    done = elsewhere(
        bad, MINICF_EMULATE="sanitize", LD_PRELOAD=f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        ASAN_OPTIONS="detect_leaks=0",
    )  # fmt: skip
    assert (done.returncode == 0) is not caught
    assert bool("AddressSanitizer" in done.stderr or "runtime error" in done.stderr) is caught


def test_ucontext_gives_the_same():
    done = elsewhere(0, MINICF_EMULATE_UCONTEXT="1")
    assert float(done.stdout) == np.arange(1000).sum()


# --- the stand-in -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cupy():
    with standin.installed() as module:
        yield module


def test_arguments_that_a_device_would_misread(cupy):
    kernel = cupy.RawModule(code=SOURCE).get_function("kernel")
    a, out = cupy.zeros(1000, np.float32), cupy.zeros(3, np.float32)
    good = (a, out, np.int32(1000), np.int32(0))
    kernel((3,), (64,), good, shared_mem=8)
    wrong = {
        "arguments, not 3": good[:3],
        "strided view": (cupy.zeros((1000, 2), np.float32)[:, 0], *good[1:]),
        "float64 where float32": (cupy.zeros(1000, np.float64), *good[1:]),
        "where a device array": (np.zeros(1000, np.float32), *good[1:]),
        "<class 'int'> where a NumPy int32": (*good[:2], 1000, np.int32(0)),
        "int64'> where a NumPy int32": (*good[:2], np.int64(1000), np.int32(0)),
    }
    for words, arguments in wrong.items():
        with pytest.raises(emulator.KernelError, match=words):
            kernel((3,), (64,), arguments, shared_mem=8)
    with pytest.raises(emulator.KernelError, match="built for 64"):
        kernel((3,), (128,), good, shared_mem=8)
    with pytest.raises(emulator.KernelError, match="without opting in"):
        kernel((3,), (64,), good, shared_mem=50_000)
    with pytest.raises(emulator.KernelError, match="does not fit"):
        cupy.RawModule(code=SOURCE, enable_cooperative_groups=True).get_function("kernel")(
            (4,), (64,), good, shared_mem=8
        )
    with pytest.raises(KeyError, match="no kernel other"):
        cupy.RawModule(code=SOURCE).get_function("other")


def test_arrays_do_not_mix(cupy):
    a = cupy.asarray(np.ones(3))
    for mixed in (lambda: np.asarray(a), lambda: a + np.ones(3), lambda: np.ones(3) + a, lambda: a[np.array([0])]):
        with pytest.raises(TypeError):
            mixed()
    assert (a + 1).get().tolist() == [2, 2, 2]
    assert np.isnan(cupy.empty(4, np.float64).get()).all()


def test_systems_of_equations_are_refused_where_cupy_refuses_them(cupy):
    from numpy.linalg import LinAlgError

    stack, right = cupy.asarray(np.stack([2 * np.eye(3), np.eye(3), -np.eye(3)])), cupy.asarray(np.ones((3, 3, 1)))
    assert cupy.linalg.solve(stack, right).get()[0].tolist() == [[0.5]] * 3
    wrong = (
        (stack, right[:, :, 0]),  # of a stack of vectors versions make different things
        (stack, right[0]), (stack, right[:1]), (stack[0], right[:2, :, 0]),
    )  # fmt: skip
    for a, b in wrong:
        with pytest.raises(ValueError, match="a must have"):
            cupy.linalg.solve(a, b)
    for function in (cupy.linalg.cholesky, lambda a: cupy.linalg.solve(a, right)):
        with pytest.raises(TypeError):
            function(np.stack([np.eye(3)]))
        with pytest.raises(TypeError):
            function(stack.astype(np.int64))
        with pytest.raises(LinAlgError):
            function(stack[:, :2])
    with pytest.raises(TypeError):
        cupy.linalg.solve(stack, right.astype(np.float32))
    lower = cupy.linalg.cholesky(stack).get()
    np.testing.assert_array_equal(lower[0], np.sqrt(2 * np.eye(3)))
    assert np.isnan(lower[2]).all(), "no error: cuSOLVER's status is not looked at"
