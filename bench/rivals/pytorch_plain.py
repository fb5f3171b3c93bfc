"""The plainest well-written loop in PyTorch, as its tutorials write it, with nothing chosen: what `pytorch` must beat.

It shares no line with that one: what made both slow would be seen in neither.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bench.rivals import SEED, MiniBatch
from minicf.models import Dot, Model
from minicf.optim import SGD


class Loop(MiniBatch):
    """`functional.embedding`, `nn.Sequential` for a net, one optimizer over all weights, fused."""

    packages = ("torch", "numpy")

    def prepare(self) -> None:
        torch.set_num_threads(self.task.threads)
        self.note = "functional.embedding, " + ("SparseAdam" if self.optimizer.sparse else "fused updates")
        t = self.table
        user, item = (torch.as_tensor(x[self.order].astype(np.int64)) for x in (t.user, t.item))
        rating = torch.as_tensor(t.rating[self.order])
        self.batches = list(zip(*(x.split(self.task.batch) for x in (user, item, rating)), strict=True))
        self.build(self.model)

    def build(self, model: Model) -> None:
        torch.manual_seed(SEED)
        start = {name: torch.tensor(value, dtype=torch.float32) for name, value in self.start(model).items()}
        tables = [name for name in start if name.startswith(("user", "item"))]
        self.w = {name: start[name].reshape(len(start[name]), -1).requires_grad_() for name in tables}
        parameters = list(self.w.values())
        self.net = None
        if not isinstance(model, Dot):
            widths = (2 * model.n_factors, *model.hidden)
            layers: list[nn.Module] = [nn.Dropout(model.dropout[0])]
            for i, (a, b) in enumerate(pairwise(widths)):
                layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(model.dropout[i + 1])]
            self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
            names = [*(f"hidden.{i}" for i in range(len(model.hidden))), "output"]
            linear = [layer for layer in self.net if isinstance(layer, nn.Linear)]
            self.linear = dict(zip(names, linear, strict=True))
            with torch.no_grad():
                for name, layer in self.linear.items():
                    layer.weight.copy_(start[f"{name}.weight"].T)
                    layer.bias.copy_(start[f"{name}.bias"])
            parameters += self.net.parameters()
        opt = self.optimizer
        if model.global_mean or model.rating_range is not None or isinstance(opt.weight_decay, dict):
            raise NotImplementedError("plain scores and one weight decay alone")
        if opt.sparse:
            self.optim = torch.optim.SparseAdam(parameters, lr=opt.lr)
        elif isinstance(opt, SGD):
            self.optim = torch.optim.SGD(
                parameters, lr=opt.lr, momentum=opt.momentum, weight_decay=opt.weight_decay, fused=True
            )
        else:
            kind = torch.optim.AdamW if opt.decay == "decoupled" else torch.optim.Adam
            self.optim = kind(parameters, lr=opt.lr, weight_decay=opt.weight_decay, fused=True)

    def run(self, first: int, count: int) -> None:
        w, net, sparse = self.w, self.net, self.optimizer.sparse
        for step in range(first, first + count):
            user, item, rating = self.batches[step]
            self.optim.param_groups[0]["lr"] = float(self.rates[step])
            p = F.embedding(user, w["user_factors"], sparse=sparse)
            q = F.embedding(item, w["item_factors"], sparse=sparse)
            if net is not None:
                score = net(torch.cat([p, q], 1))[:, 0]
            else:
                b = F.embedding(user, w["user_bias"], sparse=sparse)
                c = F.embedding(item, w["item_bias"], sparse=sparse)
                score = (p * q).sum(1) + b[:, 0] + c[:, 0]
            loss = F.mse_loss(score, rating)
            self.optim.zero_grad()
            loss.backward()
            self.optim.step()

    def weights(self) -> dict[str, np.ndarray]:
        found = {name: value.detach().numpy().copy() for name, value in self.w.items()}
        found = {name: value[:, 0] if name.endswith("_bias") else value for name, value in found.items()}
        if self.net is not None:
            for name, layer in self.linear.items():
                found[f"{name}.weight"] = layer.weight.detach().numpy().T.copy()
                found[f"{name}.bias"] = layer.bias.detach().numpy().copy()
        return found
