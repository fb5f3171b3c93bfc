"""Processes that compile at the same moment: none may ever read another one's kernel.

``python -m tests.campaigns.compile_at_once [processes] [keys]``; 8 processes with 50 keys each by default. All start
each key together, every one a width of its own; then one more process loads all of them. See `tests.test_numba_cache`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.test_numba_cache import compile_at_once

if __name__ == "__main__":
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    keys = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    with tempfile.TemporaryDirectory() as where:
        compile_at_once(Path(where), n, n * keys, timeout=3600)
    print(f"{n * keys} keys, none wrong")
