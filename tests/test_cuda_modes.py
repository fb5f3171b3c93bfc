"""The kernels under sanitizers, with shuffled threads, the other switch of fibers, and the race checker.

Each is a process of its own: a sanitizer has to be loaded first, and what it finds ends the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda import emulator

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))

SOME = (
    "(any_width and bias) or step_that_fails or (any_number and 7) or (every_model and momentum and (bias or net)) "
    "or (every_model and per_rating and hybrid) or (tiles_are and 130) or order_given"
)
MANY = (
    f"{SOME} or any_batch or any_width or any_number or every_model or order_of_an_epoch "
    "or (expansion and short and bias) or selection"
)
FEWER = "any_batch or (any_width and bias) or (every_model and hybrid and dense)"


def runtime(name: str) -> str:
    path = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"g++ has no {name}: the kernels cannot be run under its sanitizer")
    return path


@pytest.mark.campaign
@pytest.mark.parametrize("mode", ["sanitize", "race"])
def test_many_in_mode(mode):
    run(mode, MANY)


@pytest.mark.parametrize("mode", ["sanitize", "race", "shuffle", "ucontext"])
def test_mode(mode):
    run(mode, SOME if mode in {"sanitize", "race"} else FEWER)


def run(mode, which):
    environment = dict(os.environ)
    if mode == "sanitize":
        environment |= {
            "MINICF_EMULATE": "sanitize",
            "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "PYTHONMALLOC": "malloc",
            "MINICF_EMULATE_OPTIMISE": "-O0",  # compiling takes most of the time
        }
    elif mode == "race":
        environment |= {"MINICF_EMULATE": "race", "MINICF_EMULATE_SEED": "5"}
    elif mode == "shuffle":
        environment |= {"MINICF_EMULATE_SEED": "3"}
    else:
        environment |= {"MINICF_EMULATE_UCONTEXT": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", which]
    done = subprocess.run(
        [*command, *(str(Path(__file__).with_name(f"test_cuda_{name}.py")) for name in ("parity", "ratings", "top"))],
        env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
