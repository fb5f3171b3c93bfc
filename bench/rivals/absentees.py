"""Engines that stand on the list and cannot be installed everywhere; each says why it is not measured."""

from __future__ import annotations

import importlib
from typing import ClassVar

from bench.data import Table
from bench.rivals import Absent, Contender, Task


class Listed(Contender):
    """Absent, with the reason."""

    module: ClassVar[str]
    reason: ClassVar[str]

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            raise Absent(f"{error}; {self.reason}") from None
        raise Absent(self.reason)


class LightFM(Listed):
    module = "lightfm"
    reason = "learns rankings from clicks, and predicts no ratings: no case here asks for that"


class Spotlight(Listed):
    module = "spotlight.factorization.explicit"
    reason = "is not on PyPI (that name is another project's), and was last released for PyTorch 0.4"
