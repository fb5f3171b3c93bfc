"""Let readers in other threads see one state of an object that a method changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Self, TypeVar, cast


class Interrupted(KeyboardInterrupt):
    """Report Ctrl-C in a method whose result so far is kept."""


class Snapshots:
    """Have a state, the attributes, that changes as a whole: by methods that are `writing`, for those `reading`."""

    def _snapshot(self) -> Self:
        """Return an object with the state of this moment, which shares its arrays and what was made of them."""
        twin = object.__new__(type(self))
        twin.__dict__ = dict(self.__dict__)  # copied as a whole: no other thread runs meanwhile
        return twin


_Method = TypeVar("_Method", bound=Callable[..., Any])


def writing(method: _Method) -> _Method:
    """Run a method on a copy, and take over its state in one assignment when it has come to its end.

    So a reader in another thread sees the state before or the state after, and an error or Ctrl-C leaves the one
    before; after `Interrupted` the new state is whole. A copy of the attributes is enough, as no array is changed in
    place.
    """

    @functools.wraps(method)
    def wrapped(self: Snapshots, *args: Any, **kwargs: Any) -> Any:
        new = self._snapshot()
        try:
            result = method(new, *args, **kwargs)
        except Interrupted:
            self.__dict__ = new.__dict__
            raise
        self.__dict__ = new.__dict__
        return self if result is new else result

    return cast(_Method, wrapped)


def reading(method: _Method) -> _Method:
    """Run a method on the state of one moment, whatever another thread does to the object meanwhile."""

    @functools.wraps(method)
    def wrapped(self: Snapshots, *args: Any, **kwargs: Any) -> Any:
        return method(self._snapshot(), *args, **kwargs)

    return cast(_Method, wrapped)
