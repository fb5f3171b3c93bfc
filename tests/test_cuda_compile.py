"""The kernels compile for real GPUs, without spilling registers and within what a block of threads may have."""

from __future__ import annotations

import pytest

from minicf.backends.cuda import device
from tests.cuda import emulator, nvrtc

pytestmark = pytest.mark.skipif(
    nvrtc.load() is None,
    reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc): nothing was compiled for a GPU",
)

# The first variant has every kernel: it is compiled for the oldest and the newest architecture too. More take longer.
ENDS = (nvrtc.ARCHITECTURES[0], nvrtc.ARCHITECTURES[-1])
CASES = [
    pytest.param(
        variant,
        architecture,
        marks=() if architecture == 90 or (i == 0 and architecture in ENDS) else pytest.mark.campaign,
    )
    for i, variant in enumerate(nvrtc.VARIANTS)
    for architecture in nvrtc.ARCHITECTURES
]


@pytest.mark.parametrize(("variant", "architecture"), CASES)
def test_it_compiles_without_spills(variant, architecture):
    kernels = nvrtc.compile_for(architecture, nvrtc.variant(variant))
    names = {kernel.name for kernel in kernels}
    expected = set(emulator.kernel_names(device.source()))
    if "-DNETS=0" in nvrtc.variant(variant):
        expected = {name for name in expected if "net" not in name and name != "predict_heads"}
    assert names == expected
    bad = [kernel for kernel in kernels if kernel.spilled or kernel.stack or kernel.registers * device.THREADS > 65536]
    assert not bad


def test_a_spill_is_noticed():
    # Too few registers on purpose: what the check above reads must then say so.
    kernels = nvrtc.compile_for(90, (*nvrtc.variant("adam-l2-512"), "-UTHREADS", "-DTHREADS=1024"))
    assert any(kernel.spilled for kernel in kernels)


def test_errors_are_reported():
    with pytest.raises(RuntimeError, match="no_such_type"):
        nvrtc.compile_for(90, ("-std=c++17", "-DREAL=no_such_type"))
