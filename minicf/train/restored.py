"""Checks of what a checkpoint holds: what is wrong is said when it is loaded, not epochs later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf.train.history import History


def checked_rows(rows: Any, epochs: int, metric: str) -> list[dict[str, Any]]:
    """Return the rows of a history in a file, checked: a row an epoch, of numbers."""
    columns = set(map(str, History(metric=metric).frame()))
    if not isinstance(rows, list) or len(rows) != epochs:
        raise ValueError(f"its history does not have the {epochs} rows of its epochs")
    for epoch, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not columns <= set(row) or row["epoch"] != epoch:
            raise ValueError(f"row {epoch} of its history is {row!r}; it must have {sorted(columns)}")
        if wrong := [name for name in columns if isinstance(row[name], bool) or not isinstance(row[name], int | float)]:
            raise ValueError(f"row {epoch} of its history has {row[wrong[0]]!r} as {wrong[0]}; it must be a number")
    return rows


def check_state(found: Mapping[str, np.ndarray], own: Mapping[str, Any]) -> None:
    """Check arrays of a file against those of a program: names, shapes, finite numbers, and a step that counts."""
    if found.keys() != own.keys():
        raise ValueError(f"it has {sorted(found)}; it must have {sorted(own)}")
    for name, value in found.items():
        if value.shape != np.shape(own[name]) or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
            raise ValueError(
                f"{name} is {value.dtype} of shape {value.shape}; it must be {np.shape(own[name])}, finite"
            )
    if "step" in found and not (found["step"].dtype.kind in "iu" and 0 <= found["step"] < 2**63):
        raise ValueError(f"step is {found['step']!r}; it must be a count of steps")
