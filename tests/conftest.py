"""What holds for all tests."""

from __future__ import annotations

import signal
import sys
from typing import Any

import pytest
from numba.core import compiler


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_works():
    """A shell starts its background jobs with Ctrl-C ignored; tests that send one would wait for ever."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def _compilation_is_not_traced():
    """Pause the coverage tracer while Numba compiles: it would see none of the package, and take half as long again."""
    compile_extra = compiler.compile_extra

    def untraced(*args: Any, **kwargs: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return compile_extra(*args, **kwargs)
        finally:
            sys.settrace(tracer)

    compiler.compile_extra = untraced
    yield
    compiler.compile_extra = compile_extra
