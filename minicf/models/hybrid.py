"""Several heads on shared tables, trained on the weighted sum of their losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicf.data.bags import Bags, Batch
from minicf.models.arguments import check_members
from minicf.models.base import Model
from minicf.models.net import Net
from minicf.models.scorers import Score
from minicf.models.weights import ONES, Parameter, Weights
from minicf.ops import Array, namespace
from minicf.registry import register


@register
@dataclass(frozen=True)
class Hybrid(Model):
    """Train several heads on the same tables, on the weighted sum of their losses.

    Parameters
    ----------
    members : mapping of name to (model, weight)
        The heads, with the weight of each one's loss in the objective. Any model with one output can be a head. Tables
        are shared by name, and must have one shape and one start; dense weights carry the head's name in front
        (``net.hidden.0.weight``).
    output : str, optional
        The head whose prediction is the model's; by default the one with the largest weight, the last of equals.

    Notes
    -----
    (F10) L = sum_h weight_h L_h. The derivative of a sum is the sum of the derivatives: (B10) each head's d_y is
    multiplied by its weight, and the gradients of shared tables add up.
    """

    members: Mapping[str, tuple[Model, float]]
    output: str = ""

    def __post_init__(self) -> None:
        check_members(self, Model)

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Hybrid:
        """Make it from what a file holds; version 0.1 wrote members as a list of (name, model, weight)."""
        members = arguments["members"]
        if not isinstance(members, Mapping):
            members = {name: (head, weight) for name, head, weight in members}
        return cls(members, output=arguments["output"])

    def __hash__(self) -> int:
        return hash((tuple(self.members.items()), self.output))

    @property
    def n_factors(self) -> int:
        """K of its heads, where they have one."""
        return next(head.n_factors for head, _ in self.members.values() if hasattr(head, "n_factors"))

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.members)

    @property
    def head_weights(self) -> tuple[float, ...]:
        return tuple(weight for _, weight in self.members.values())

    # --- weights ---------------------------------------------------------------------------------------------

    def names(self, head: str) -> dict[str, str]:
        """Return the hybrid's name of each weight of a head: tables keep theirs, dense weights get the head's."""
        parameters = self.members[head][0].parameters(ONES)
        return {key: key if p.rows is not None else f"{head}.{key}" for key, p in parameters.items()}

    def weights_of(self, head: str, w: Mapping[str, Any]) -> Weights:
        """Return the weights of a head under the head's own names."""
        return {key: w[full] for key, full in self.names(head).items()}

    def output_head(self, w: Mapping[str, Any]) -> tuple[Model, Weights]:
        return self.members[self.output][0], self.weights_of(self.output, w)

    def parameters(self, sizes: Mapping[str, int]) -> dict[str, Parameter]:
        found: dict[str, Parameter] = {}
        for name, (head, _) in self.members.items():
            full = self.names(name)
            for key, parameter in head.parameters(sizes).items():
                found[full[key]] = parameter
        return found

    # --- the passes ------------------------------------------------------------------------------------------

    def dropout_masks(self, seed: int, step: int, batch: int, dtype: Any) -> Any:
        masks, layer = {}, 0
        for name, (head, _) in self.members.items():
            # Layers are numbered through all nets, so that no two share a stream.
            if isinstance(head, Net) and type(head).dropout_masks is Net.dropout_masks:
                masks[name] = head.dropout_masks(seed, step, batch, dtype, layer)
                layer += len(head.dropout)
            elif (own := head.dropout_masks(seed, step, batch, dtype)) is not None:
                masks[name] = own
        return masks

    def forward(self, w: Weights, batch: Batch, masks: Any = None) -> tuple[Array, Any]:
        """Compute the outputs of every head, a row each (heads, B)."""
        outputs, caches = [], {}
        for name, (head, _) in self.members.items():
            y, caches[name] = head.forward(self.weights_of(name, w), batch, (masks or {}).get(name))
            outputs.append(y)
        return namespace(outputs[0]).stack(outputs), caches

    def backward(self, w: Weights, cache: Any, d_y: Array) -> Weights:
        """Compute gradients, those of shared tables added up (B10)."""
        grads: Weights = {}
        for row, (name, (head, _)) in enumerate(self.members.items()):
            full = self.names(name)
            for key, d_w in head.backward(self.weights_of(name, w), cache[name], d_y[row]).items():
                grads[full[key]] = grads[full[key]] + d_w if full[key] in grads else d_w
        return grads

    def predict(self, w: Weights, batch: Batch, head: str | None = None) -> Array:
        name = self.check_head(head)
        return self.members[name][0].predict(self.weights_of(name, w), batch)

    def scorer(self, w: Weights, bags: Mapping[str, Bags] | None = None, xp: Any = np) -> Score:
        """Score by the output head."""
        return self.members[self.output][0].scorer(self.weights_of(self.output, w), bags, xp)
