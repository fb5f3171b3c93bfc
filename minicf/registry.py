"""Models, losses, optimizers, solvers and schedules as plain data, for files: a registry of classes by name.

A file names a class and gives its arguments; `from_config` finds the class here and nowhere else, so that a file can
make nothing but registered objects. Classes of your own are registered by a decorator::

    @minicf.register
    @dataclass(frozen=True)
    class CosineSimilarity(minicf.Model):
        ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

_CLASSES: dict[str, type[Any]] = {}

_Class = TypeVar("_Class", bound=type[Any])


def register(cls: _Class) -> _Class:
    """Register a class, so that files can name it: a decorator, written above ``@dataclass(frozen=True)``.

    Parameters
    ----------
    cls : class
        A dataclass whose fields are its arguments: numbers, text, flags, None, tuples and mappings of these, or other
        registered objects. Its name must be unique among registered classes.

    Returns
    -------
    cls

    Raises
    ------
    TypeError
        `cls` is not a dataclass.
    ValueError
        Another class is registered under that name.
    """
    if not isinstance(cls, type) or "__dataclass_fields__" not in vars(cls):
        raise TypeError(f"cls is {cls!r}; it must be a dataclass: write @minicf.register above @dataclass(frozen=True)")
    known = _CLASSES.get(cls.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"{cls.__name__!r} is registered already, by {known.__module__}; rename one of the two classes"
        )
    _CLASSES[cls.__name__] = cls
    return cls


def to_config(thing: Any) -> dict[str, Any]:
    """Describe an object by its class's name and arguments: a dict that JSON can hold.

    Raises
    ------
    ValueError
        Its class is not registered: the object could not be made again from a file.
    """
    kind = type(thing)
    if _CLASSES.get(kind.__name__) is not kind:
        raise ValueError(
            f"{kind.__name__} is not registered, so that no file could give it back; "
            f"write @minicf.register above the class {kind.__qualname__}"
        )
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    return {"kind": kind.__name__} | {name: _plain(getattr(thing, name)) for name in fields}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_config(value)
    if isinstance(value, Mapping):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(x) for x in value]
    return value


def from_config(config: Any, base: type[Any], noun: str) -> Any:
    """Make the object that `to_config` described.

    Parameters
    ----------
    config : dict
        As read from a file; anything may stand in it.
    base : class
        What the object must be an instance of.
    noun : str
        What messages call it.
    """
    kind = config.get("kind") if isinstance(config, Mapping) else None
    cls = _CLASSES.get(kind) if isinstance(kind, str) else None
    if cls is None or not issubclass(cls, base):
        known = sorted(name for name, one in _CLASSES.items() if issubclass(one, base))
        raise ValueError(
            f"unknown {noun} {kind!r}; known are {known}; import the module that registers a class of your own"
        )
    arguments = {name: value for name, value in config.items() if name != "kind"}
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    if extra := set(arguments) - fields:
        raise ValueError(f"unknown arguments {sorted(extra)} for {kind}")
    made = {name: _made(value) for name, value in arguments.items()}
    return cls.from_arguments(made) if hasattr(cls, "from_arguments") else cls(**made)


def _made(value: Any) -> Any:
    if isinstance(value, Mapping):
        if isinstance(value.get("kind"), str):  # else a mapping with an entry of that name: a head, a weight
            return from_config(value, object, "class")
        return {name: _made(x) for name, x in value.items()}
    if isinstance(value, list):
        return tuple(_made(x) for x in value)
    return value
