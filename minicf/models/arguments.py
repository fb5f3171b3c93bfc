"""Checks of the arguments of models: each model holds plain numbers and tuples, or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf.arguments import check_choice, check_int, check_number
from minicf.models.weights import ONES, Init, Parameter


def check_factors(model: Any) -> None:
    """Check the arguments that `Dot`, `DotBias` and `Net` share; turn sequences into tuples."""
    object.__setattr__(model, "n_factors", check_int("n_factors", model.n_factors, 1))
    object.__setattr__(model, "init", _check_init(model.init))
    # Python's own float: a NumPy float64 scalar would turn float32 scores into float64.
    object.__setattr__(model, "global_mean", check_number("global_mean", model.global_mean))
    if model.rating_range is not None:
        try:
            low, high = (check_number("rating_range", x) for x in model.rating_range)
            check_number("rating_range", low, high=high)
        except (TypeError, ValueError):
            raise ValueError(
                f"rating_range is {model.rating_range!r}; it must be None or (low, high): "
                "low must be below high, both finite"
            ) from None
        object.__setattr__(model, "rating_range", (low, high))


def check_layers(model: Any) -> None:
    """Check the dense layers of a `Net`; turn one number into a tuple."""
    hidden = tuple(np.atleast_1d(np.array(model.hidden, object)))  # one number, or a sequence of them
    object.__setattr__(model, "hidden", tuple(check_int("hidden", h, 1) for h in hidden))
    try:
        one_for_all = np.ndim(model.dropout) == 0
        given = (model.dropout,) if one_for_all else tuple(model.dropout)
        rates = tuple(check_number("dropout", rate, 0.0, 1.0) for rate in given)
        rates *= len(hidden) + 1 if one_for_all else 1
    except (TypeError, ValueError):
        raise ValueError(
            f"dropout is {model.dropout!r}; it must be a rate of at least 0 and below 1, or a sequence of such rates"
        ) from None
    if len(rates) != len(hidden) + 1:
        raise ValueError(
            f"dropout has {len(rates)} rates for {len(hidden)} hidden layers; "
            f"give {len(hidden) + 1}: one for the input and one for each hidden layer"
        )
    object.__setattr__(model, "dropout", rates)
    check_choice("dense_init", model.dense_init, ("glorot", "torch"))


def check_members(model: Any, head_type: type[Any]) -> None:
    """Check the heads of a `Hybrid` and the name of its output head; take a copy of its mapping."""
    members = {}
    if not isinstance(model.members, Mapping):
        raise ValueError(f"members is {model.members!r}; it must be a mapping: {{'name': (model, weight)}}")
    for name, value in model.members.items():
        try:
            head, weight = value
            weight = check_number("weight", weight, 0.0)
        except (TypeError, ValueError):
            raise ValueError(
                f"head {name!r} is {value!r}; it must be (model, weight), the weight finite and not negative"
            ) from None
        if not isinstance(head, head_type) or hasattr(head, "members") or len(head.heads) > 1:
            raise ValueError(f"head {name!r} is {head!r}; it must be a model with one output, such as DotBias(50)")
        if not isinstance(name, str) or not name or "." in name or "/" in name:
            raise ValueError(f"head {name!r}: a head's name is a text, not empty, without '.' and '/'")
        members[name] = (head, weight)
    if not members:
        raise ValueError("members is empty; a hybrid needs at least one head: {'name': (model, weight)}")
    shared: dict[str, Parameter] = {}
    for name, (head, _) in members.items():
        for key, parameter in head.parameters(ONES).items():
            if parameter.rows is not None and shared.setdefault(key, parameter) != parameter:
                raise ValueError(
                    f"heads of a hybrid share their tables, but {key!r} of head {name!r} is {parameter}, "
                    f"and {shared[key]} in another head; n_factors and init must be the same"
                )
    output = model.output if model.output != "" else max(reversed(members), key=lambda name: members[name][1])
    if not isinstance(output, str) or output not in members:
        raise ValueError(f"output is {output!r}; it must be one of {list(members)}")
    object.__setattr__(model, "members", members)
    object.__setattr__(model, "output", output)


def _check_init(init: Any) -> Init:
    try:
        kind, first, second = init
        kind = check_choice("init", kind, ("uniform", "normal"))
        first, second = check_number("init", first), check_number("init", second)
    except (TypeError, ValueError):
        raise ValueError(f"init is {init!r}; it must be ('uniform', low, high) or ('normal', mean, std)") from None
    if (kind == "uniform" and first > second) or (kind == "normal" and second < 0):
        raise ValueError(f"init is {init!r}; low must not exceed high, and std must not be negative")
    return kind, first, second
