"""Ctrl-C and the progress bar."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class Interruptible:
    """Delay Ctrl-C while it is entered: the first one only sets `asked`, a second one interrupts at once.

    An update that is cut off midway would leave some rows moved and others not.
    """

    asked = False

    def __enter__(self) -> Interruptible:
        self._before: Any = None
        here = threading.current_thread() is threading.main_thread()
        if here and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class _NoBar:
    disable = True

    @staticmethod
    def update(n: int) -> None:
        """Show nothing."""


@contextlib.contextmanager
def progress_bar(total: int, progress: bool | None) -> Iterator[Any]:
    """Show a bar of ratings on stderr; None shows one where that is a terminal."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if not (terminal if progress is None else progress):
        yield _NoBar
        return
    from tqdm import tqdm  # not at import: it would slow `import minicf`

    with tqdm(total=total, unit=" ratings", unit_scale=True, leave=False) as bar:
        yield bar
