"""The same models and optimisers in PyTorch: autograd instead of derivations, torch.optim instead of equations.

`Twin` is a model, `Stepper` an optimiser on it; `run` trains as `tests.cases.run` does. Nothing of minicf's arithmetic
is used here: a model and an optimiser of minicf are read for their settings alone.

How minicf's optimisers are said in PyTorch
-------------------------------------------
======================  ==========================================================================================
SGD, momentum,          torch.optim.SGD
Nesterov
Adam                    torch.optim.Adam; with ``decay="decoupled"`` torch.optim.AdamW
``decay="l2"``          torch's weight_decay, a parameter group for each weight
AdaGrad, RMSProp        torch.optim.Adagrad, torch.optim.RMSprop
``decay="decoupled"``   only Adam has it: parameters are multiplied by 1 - lr lambda before the step
``"per_rating"``        a term of the loss, lambda/2 times the mean over ratings of the rows' squares; dense layers have
                        plain l2
``sparse=True``, others the optimiser on all rows, then rows that the batch does not name, and their state, are put back
                        (torch's own momentum for sparse gradients is a different thing)
``sparse=True``, Adam   torch.optim.SparseAdam on tables, Adam or AdamW on dense layers. SparseAdam has no weight decay:
                        l2 is added to the values of the sparse gradient, decoupled multiplies the named rows
======================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from minicf.models import Dot, Hybrid, Model, Net
from minicf.optim import SGD, AdaGrad, Adam, Optimizer, RMSProp
from minicf.solvers import Gradient
from tests.cases import SEED, Outcome, Problem

USER_TABLES = ("user_factors", "user_bias")
ITEM_TABLES = ("item_factors", "item_bias")
TABLES = USER_TABLES + ITEM_TABLES


def to_torch(name: str, array: np.ndarray) -> np.ndarray:
    """minicf's array as PyTorch shapes it: biases of users and items (n, 1), a Linear's weight (outputs, inputs)."""
    if name in TABLES:
        return array.reshape(len(array), -1)
    return array.T if array.ndim == 2 else array


def to_minicf(name: str, tensor: Tensor) -> np.ndarray:
    """The way back."""
    array = tensor.detach().cpu().numpy()
    if name in TABLES:
        return array[:, 0].copy() if name.endswith("bias") else array.copy()
    return array.T.copy()


class DotHead(nn.Module):
    """Dot and DotBias on given tables."""

    def __init__(self, model: Dot, tables: nn.ModuleDict) -> None:
        super().__init__()
        self.tables, self.biases = tables, model.biases
        self.range, self.mean = model.rating_range, model.global_mean

    def forward(self, user: Tensor, item: Tensor, masks: Any = None) -> Tensor:
        s = (self.tables["user_factors"](user) * self.tables["item_factors"](item)).sum(1)
        if self.biases:
            s = s + self.tables["user_bias"](user).squeeze(1) + self.tables["item_bias"](item).squeeze(1)
        return in_range(s + self.mean, self.range)


class NetHead(nn.Module):
    """Net on given tables."""

    def __init__(self, model: Net, tables: nn.ModuleDict) -> None:
        super().__init__()
        widths = (2 * model.n_factors, *model.hidden)
        self.tables, self.rates = tables, model.dropout
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(widths[-1], 1)
        self.range, self.mean = model.rating_range, model.global_mean

    def forward(self, user: Tensor, item: Tensor, masks: Any = None) -> Tensor:
        x = torch.cat([self.tables["user_factors"](user), self.tables["item_factors"](item)], 1)
        x = self.drop(x, 0, masks)
        for i, layer in enumerate(self.hidden):
            x = self.drop(torch.relu(layer(x)), i + 1, masks)
        return in_range(self.output(x).squeeze(1) + self.mean, self.range)

    def drop(self, x: Tensor, layer: int, masks: Any) -> Tensor:
        """By a given mask, so that results can be compared; without one, PyTorch's own dropout in training mode."""
        if masks is None:
            return functional.dropout(x, self.rates[layer], self.training)
        return x if masks[layer] is None else x * torch.as_tensor(masks[layer], dtype=x.dtype, device=x.device)


def in_range(s: Tensor, limits: tuple[float, float] | None) -> Tensor:
    """Scores squeezed into the rating range."""
    return s if limits is None else limits[0] + (limits[1] - limits[0]) * torch.sigmoid(s)


class Twin(nn.Module):
    """A model of minicf as a PyTorch module.

    Parameters
    ----------
    model : minicf.models.Model
    weights : dict of arrays
        Initial weights by minicf's names.
    dtype : torch.dtype
    sparse : bool
        Give tables sparse gradients, as torch.optim.SparseAdam wants them.
    """

    def __init__(
        self, model: Model, weights: dict[str, np.ndarray], dtype: Any = torch.float64, sparse: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.tables = nn.ModuleDict()
        for name in weights:
            if name in TABLES:
                rows, width = to_torch(name, weights[name]).shape
                self.tables[name] = nn.Embedding(rows, width, sparse=sparse)
        members: Mapping[str, tuple[Any, float]] = model.members if isinstance(model, Hybrid) else {"": (model, 1.0)}
        self.names = list(members)
        self.heads = nn.ModuleList(
            NetHead(head, self.tables) if isinstance(head, Net) else DotHead(head, self.tables)
            for head, _ in members.values()
        )
        self.head_weights = model.head_weights
        self.to(dtype)
        with torch.no_grad():
            for name, parameter in self.named().items():
                parameter.copy_(torch.as_tensor(to_torch(name, weights[name])))
        self.order = list(weights)

    def named(self) -> dict[str, nn.Parameter]:
        """Parameters by minicf's names."""
        named: dict[str, Any] = {name: table.weight for name, table in self.tables.items()}
        for head, module in zip(self.names, self.heads, strict=True):
            if isinstance(module, NetHead):
                layers = {f"hidden.{i}": layer for i, layer in enumerate(module.hidden)} | {"output": module.output}
                for layer, linear in layers.items():
                    full = f"{head}.{layer}" if head else layer
                    named |= {f"{full}.weight": linear.weight, f"{full}.bias": linear.bias}
        return named

    def forward(self, user: Tensor, item: Tensor, masks: Any = None) -> list[Tensor]:
        """Predictions of every head."""
        per_head = masks if isinstance(masks, dict) else {"": masks}
        return [head(user, item, per_head.get(name)) for name, head in zip(self.names, self.heads, strict=True)]

    def weights(self) -> dict[str, np.ndarray]:
        """Copies under minicf's names, in minicf's shapes and order."""
        named = self.named()
        return {name: to_minicf(name, named[name]) for name in self.order}


class Stepper:
    """An optimiser of minicf as torch.optim on a `Twin`.

    Parameters
    ----------
    twin : Twin
        Made with ``sparse=uses_sparse_gradients(optimizer)``.
    optimizer : minicf.optim.Optimizer or minicf.solvers.Gradient
        The latter for clipping and rates by name; with dense gradients.
    options
        For torch's constructors, such as ``foreach=True`` or ``fused=True``, for benchmarks.
    """

    def __init__(self, twin: Twin, optimizer: Optimizer | Gradient, **options: Any) -> None:
        self.solver = optimizer if isinstance(optimizer, Gradient) else Gradient(optimizer)
        self.twin, self.optimizer = twin, self.solver.optimizer
        optimizer = self.optimizer
        self.named = twin.named()
        self.t = 0
        self.by_sparse_adam = [name for name in self.named if name in TABLES and uses_sparse_gradients(optimizer)]
        self.put_back = [name for name in self.named if name in TABLES and optimizer.sparse and not self.by_sparse_adam]
        dense = [name for name in self.named if name not in self.by_sparse_adam]
        self.optims: list[torch.optim.Optimizer] = []
        if dense:
            groups = [{"params": [self.named[name]], "weight_decay": self._torch_decay(name)} for name in dense]
            self.optims.append(self._dense_optimizer(groups, options))
        if self.by_sparse_adam and isinstance(optimizer, Adam):
            tables = [self.named[name] for name in self.by_sparse_adam]
            self.optims.append(
                torch.optim.SparseAdam(tables, lr=optimizer.lr, betas=optimizer.betas, eps=optimizer.eps)
            )

    def _dense_optimizer(self, groups: list[dict[str, Any]], options: dict[str, Any]) -> torch.optim.Optimizer:
        ours = self.optimizer
        if isinstance(ours, SGD):
            return torch.optim.SGD(groups, lr=ours.lr, momentum=ours.momentum, nesterov=ours.nesterov, **options)
        if isinstance(ours, AdaGrad):
            return torch.optim.Adagrad(
                groups, lr=ours.lr, eps=ours.eps, initial_accumulator_value=ours.initial, **options
            )
        if isinstance(ours, RMSProp):
            return torch.optim.RMSprop(
                groups, lr=ours.lr, alpha=ours.alpha, eps=ours.eps, momentum=ours.momentum, centered=ours.centered,
                **options,
            )  # fmt: skip
        assert isinstance(ours, Adam)
        kind = torch.optim.AdamW if ours.decay == "decoupled" else torch.optim.Adam
        return kind(groups, lr=ours.lr, betas=ours.betas, eps=ours.eps, amsgrad=ours.amsgrad, **options)

    def _torch_decay(self, name: str) -> float:
        """The part of the decay that torch's weight_decay stands for."""
        by_hand = self.optimizer.decay == "decoupled" and not isinstance(self.optimizer, Adam)
        in_the_loss = self.optimizer.decay == "per_rating" and name in TABLES
        return 0.0 if by_hand or in_the_loss else self.optimizer.decay_of(name)

    def step(self, user: Tensor, item: Tensor, rating: Tensor, lr: float, masks: Any = None) -> list[float]:
        """One step on one batch; the mean squared error of each head before it."""
        self.t += 1
        index = {name: user if name in USER_TABLES else item for name in USER_TABLES + ITEM_TABLES}
        losses = [functional.mse_loss(y, rating) for y in self.twin(user, item, masks)]
        objective = torch.zeros_like(losses[0])
        for share, loss in zip(self.twin.head_weights, losses, strict=True):
            objective = objective + share * loss
        if self.optimizer.decay == "per_rating":
            for name, table in self.twin.tables.items():
                if decay := self.optimizer.decay_of(name):
                    objective = objective + 0.5 * decay * table(index[name]).square().sum(1).mean()
        for optim in self.optims:
            optim.zero_grad()
            for group in optim.param_groups:
                group["lr"] = lr
        if self.solver.lr_factors:  # a group for each weight, in their order
            for name, group in zip(self.named, self.optims[0].param_groups, strict=True):
                group["lr"] = lr * self.solver.lr_factors.get(name, 1.0)
        objective.backward()
        if self.solver.clip_value is not None:
            nn.utils.clip_grad_value_(self.twin.parameters(), self.solver.clip_value)
        if self.solver.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.twin.parameters(), self.solver.clip_norm)
        with torch.no_grad():
            idle = {name: self._idle(name, index[name]) for name in self.put_back}
            kept = {name: {k: x[idle[name]] for k, x in self._arrays(name).items()} for name in self.put_back}
            self._decay_by_hand(index, lr)
            for optim in self.optims:
                optim.step()
            for name in self.put_back:
                for key, x in self._arrays(name).items():
                    x[idle[name]] = kept[name].get(key, torch.zeros((), dtype=x.dtype))  # state starts at 0
        return [loss.item() for loss in losses]

    def _decay_by_hand(self, index: dict[str, Tensor], lr: float) -> None:
        for name, p in self.named.items():
            decay = self.optimizer.decay_of(name)
            if not decay:
                continue
            if name in self.by_sparse_adam and self.optimizer.decay != "per_rating":
                rows = torch.unique(index[name])
                if self.optimizer.decay == "decoupled":
                    p[rows] *= 1.0 - lr * decay
                else:
                    assert p.grad is not None
                    p.grad = p.grad.coalesce()
                    p.grad.values().add_(p[rows], alpha=decay)  # coalesced: the values of sorted, unique rows
            elif self.optimizer.decay == "decoupled" and not isinstance(self.optimizer, Adam):
                p.mul_(1.0 - lr * (self.solver.lr_factors or {}).get(name, 1.0) * decay)

    def _idle(self, name: str, index: Tensor) -> Tensor:
        """Which rows of a table the batch does not name."""
        idle = torch.ones(len(self.named[name]), dtype=torch.bool, device=index.device)
        idle[index] = False
        return idle

    def _arrays(self, name: str) -> dict[str, Tensor]:
        """A weight and what torch keeps for it, in the weight's shape."""
        p = self.named[name]
        own = next(optim.state[p] for optim in self.optims if p in optim.state or len(self.optims) == 1)
        return {"weight": p.data} | {k: x for k, x in own.items() if isinstance(x, Tensor) and x.shape == p.shape}

    def state(self) -> dict[str, np.ndarray]:
        """torch's state under the names of `minicf.backends.base.Program.state`."""
        keys = {"velocity": "momentum_buffer", "first": "exp_avg", "second": "exp_avg_sq", "squares": "sum"}
        keys["largest"] = "max_exp_avg_sq"
        if isinstance(self.optimizer, RMSProp):
            keys |= {"first": "grad_avg", "second": "square_avg"}
        state = {"step": np.array(self.t, np.int64)}
        for slot in self.optimizer.slots():
            for name in self.twin.order:
                p = self.named[name]
                own = next(optim.state[p] for optim in self.optims if p in optim.state)
                state[f"{slot}.{name}"] = to_minicf(name, own[keys[slot]])
                assert int(own.get("step", self.t)) == self.t
        return state


def uses_sparse_gradients(optimizer: Optimizer) -> bool:
    """Whether the twin of this optimiser is torch.optim.SparseAdam."""
    return optimizer.sparse and isinstance(optimizer, Adam)


def run(model: Model, optimizer: Optimizer | Gradient, problem: Problem, dtype: str = "float64") -> Outcome:
    """Train the twin as `tests.cases.run` trains a backend, with the same batches, rates and dropout masks."""
    own = optimizer.optimizer if isinstance(optimizer, Gradient) else optimizer
    twin = Twin(model, problem.weights(model), getattr(torch, dtype), uses_sparse_gradients(own))
    stepper = Stepper(twin, optimizer)
    arrays = problem.ratings()
    errors = np.zeros((problem.epochs, len(twin.heads)))
    for epoch, (order, rates) in enumerate(zip(problem.orders(), problem.rates(optimizer.lr), strict=True)):
        for step, lr in enumerate(rates):
            rows = order[step * problem.batch : (step + 1) * problem.batch]
            user, item, rating = (torch.as_tensor(array[rows]) for array in arrays)
            masks = model.dropout_masks(SEED, stepper.t + 1, len(rows), np.dtype(dtype))
            losses = stepper.step(user, item, rating.to(getattr(torch, dtype)), float(lr), masks)
            errors[epoch] += np.array(losses) * len(rows)
    return Outcome(errors, twin.weights(), stepper.state())
