"""The table of peers tells what is tested."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import tests.peers


def test_table_counts_the_tests_of_each_peer():
    """A test that is added for a peer is added to its row, and a test without a peer has none."""
    counted = {name: int(n) for name, n in re.findall(r"^([a-z]+) +(\d+)  ", tests.peers.__doc__, re.MULTILINE)}
    found: Counter[str] = Counter()
    for path in Path(__file__).parent.glob("test_*.py"):
        if path != Path(__file__):
            names = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
            found.update(name.split("_")[1] for name in names if name.startswith("test_"))
    assert counted == found
