"""Train Net and Hybrid: small nets inside the cooperative kernel, large ones through cuBLAS' matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicf import rng
from minicf.backends.cuda import device
from minicf.backends.cuda.tables import Plan, Tables
from minicf.models import Dot, Hybrid, Model, Net

FUSED_WEIGHTS = 1 << 16
"""Largest number of dense weights of a net inside the cooperative kernel; larger nets and batches go through cuBLAS."""
MAX_LAYERS, GROUP = 9, 4  # as in nets.cuh
HEAD = np.dtype(
    [*((name, "f8") for name in ("weight", "mean", "low", "high")),
     ("keep", "f8", MAX_LAYERS), ("stream", "u8", MAX_LAYERS), ("threshold", "i4", MAX_LAYERS),
     ("width", "i4", MAX_LAYERS + 1),
     *((name, "i4", MAX_LAYERS) for name in ("weights", "biases", "inputs", "deltas")),
     *((name, "i4") for name in ("layers", "range", "has_bias", "output"))],
    align=True,
)  # fmt: skip
"""`Head` of nets.cuh."""


def dropout_stream(seed: int, layer: int) -> int:
    """Compute `rng.key` of a dropout layer up to its last part, the step, which the kernels mix in."""
    key = rng._mix(seed & rng._MASK)
    for part in (rng.DROPOUT, layer):
        key = rng._mix((key + part * rng.GOLDEN + rng.GOLDEN) & rng._MASK)
    return key


def _heads(model: Model) -> dict[str, tuple[Any, float]]:
    """List the heads by name, each with its weight in the loss (F10)."""
    return dict(model.members) if isinstance(model, Hybrid) else {"": (model, 1.0)}


class Nets(Tables):
    """Run Net and Hybrid with any optimizer: rows as in `Tables`, dense weights side by side in one array."""

    nets = True

    @staticmethod
    def fits(model: Model, dtype: np.dtype) -> bool:
        """Tell whether the fused kernels can run a model in float32 or float64, `dtype`."""
        import cupy

        nets = [head for head, _ in _heads(model).values() if isinstance(head, Net)]
        factors = next(head.n_factors for head, _ in _heads(model).values())
        wide = max([2 * factors, *(h for net in nets for h in net.hidden)])
        stride = -(-(factors + 1) // 4) * 4
        limit = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
        deep = max((len(net.hidden) + 1 for net in nets), default=0)
        fit = GROUP * (4 * stride + 2 * wide) * dtype.itemsize <= limit
        return factors <= device.MAX_FACTORS and deep <= MAX_LAYERS and fit

    def _prepare_heads(self) -> None:
        self._offsets: dict[str, int] = {}
        self.n_dense = 0
        decay: list[np.ndarray] = []
        for name, parameter in self.parameters.items():
            if parameter.rows is None:
                size = int(np.prod(parameter.shape))
                self._offsets[name] = self.n_dense
                self.n_dense += size
                decay.append(np.full(size, self._decay_of(name)))
        self.heads = np.zeros(len(self.model.heads), HEAD)
        self.tape_width = 0
        wide, dropout_layer = 2 * self.n_factors, 0
        for at, (name, (head, weight)) in zip(self.heads, _heads(self.model).items(), strict=True):
            low, high = head.rating_range or (0.0, 0.0)
            at["weight"], at["mean"], at["low"], at["high"] = weight, head.global_mean, low, high
            at["range"] = head.rating_range is not None
            if isinstance(head, Dot):
                at["has_bias"] = head.biases
                continue
            layers = head.layers()
            at["layers"] = len(layers)
            at["width"][: len(layers) + 1] = [*(inputs for _, inputs, _ in layers), 1]
            for i, (layer, inputs, outputs) in enumerate(layers):
                full = f"{name}.{layer}" if name else layer
                at["weights"][i], at["biases"][i] = self._offsets[f"{full}.weight"], self._offsets[f"{full}.bias"]
                at["inputs"][i], at["deltas"][i] = self.tape_width, self.tape_width + inputs
                self.tape_width += inputs + outputs
                rate = head.dropout[i]
                at["keep"][i] = 1.0 / (1.0 - rate)
                at["threshold"][i] = rng.dropout_threshold(rate)
                at["stream"][i] = dropout_stream(self.seed, dropout_layer + i)
                wide = max(wide, inputs)
            dropout_layer += len(layers)
        self.wide = wide
        self.fusable = self.n_dense <= FUSED_WEIGHTS
        xp = self.xp
        self._device_heads = xp.asarray(self.heads.view(np.uint8).reshape(-1))
        self.dense = xp.zeros((self.n_slots, self.n_dense), self.dtype)
        self.decay = xp.asarray(np.concatenate(decay) if decay else np.zeros(1))
        self.gradient = xp.empty(max(self.n_dense, 1), self.dtype)

    def scratch(self, rows: int) -> int:
        return int(GROUP * (rows * self.stride + 2 * self.wide) * self.dtype.itemsize)

    def _view(self, slot: int, name: str) -> Any:
        if self.parameters[name].rows is not None:
            return super()._view(slot, name)
        return self._dense(self.dense[slot], name)

    def _dense(self, flat: Any, name: str) -> Any:
        shape, start = self.parameters[name].shape, self._offsets[name]
        return flat[start : start + int(np.prod(shape))].reshape(shape)

    def _arrays(self) -> list[Any]:
        return [self.table, self.dense]

    def _net_arguments(self, plan: Plan, data: tuple[Any, ...]) -> tuple[Any, ...]:
        plan.t[...] = self.t
        _, _, rating, order = data
        return (self._device_heads, self.dense, plan.tape, plan.d_rows, self.decay, order, plan.slot, rating, plan.t,
                np.int32(len(self.heads)), np.int32(self.n_dense), np.int32(self.wide))  # fmt: skip

    def _run_large(self, plan: Plan, data: tuple[Any, ...]) -> None:
        plan.t[...] = self.t
        super()._run_large(plan, data)

    def _launch_batches(self, plan: Plan, data: tuple[Any, ...]) -> None:
        k, setup, steps, xp = self.kernels, plan.setup, np.int32(plan.steps), self.xp
        n, batch, warps = np.int32(plan.n), np.int32(plan.batch), device.THREADS // 32
        segments = min(plan.batch, self.n_users) + min(plan.batch, self.n_items)
        user, item, rating, order = data
        catches_up = not self.sparse
        heads = self._device_heads

        def matrix(start: int, width: int, size: int) -> Any:
            begin = int(start) * plan.batch
            return plan.tape[begin : begin + size * width].reshape(size, width)

        def sweep(to: int) -> None:
            k.over("sweep", self.n_users + self.n_items,
                   (setup, self.table, plan.stamps, plan.rates, plan.idle, steps, np.int32(to)), warps)  # fmt: skip

        for i in range(plan.steps):
            step, size = np.int32(i), min(plan.batch, plan.n - i * plan.batch)
            count = np.int32(size)
            if catches_up:
                k.over("batch_catch_up", segments,
                       (setup, plan.first, plan.row_of, self.table, plan.stamps, plan.rates, plan.idle, steps, step,
                        np.int32(0)), warps)  # fmt: skip
            k.over("net_clear", plan.d_rows.size, (plan.d_rows, np.int64(plan.d_rows.size)))
            for number, (name, head) in enumerate(zip(self.model.heads, self.heads, strict=True)):
                h, layers = np.int32(number), int(head["layers"])
                if not layers:
                    k.over("net_dot", size, (setup, heads, h, user, item, order, rating, self.table, plan.d_rows,
                                             plan.losses, n, batch, step), warps)  # fmt: skip
                    continue
                net = _heads(self.model)[name][0]
                names = [f"{name}.{layer}" if name else layer for layer, _, _ in net.layers()]
                weight = [self._view(0, f"{layer}.weight") for layer in names]
                bias = [self._view(0, f"{layer}.bias") for layer in names]
                x = [matrix(head["inputs"][j], int(head["width"][j]), size) for j in range(layers)]
                d = [matrix(head["deltas"][j], int(head["width"][j + 1]), size) for j in range(layers)]
                k.over("net_input", x[0].size,
                       (setup, heads, h, user, item, order, self.table, plan.t, x[0], n, batch, step))  # fmt: skip
                for j in range(layers - 1):
                    xp.matmul(x[j], weight[j], out=x[j + 1])  # (F7)
                    k.over("net_activate", x[j + 1].size,
                           (heads, h, np.int32(j), bias[j], plan.t, x[j + 1], count, step))  # fmt: skip
                k.over("net_loss", size, (setup, heads, h, x[-1], weight[-1], bias[-1], order, rating, d[-1],
                                          plan.losses, n, batch, step), warps)  # fmt: skip
                for j in reversed(range(layers)):
                    xp.matmul(x[j].T, d[j], out=self._dense(self.gradient, f"{names[j]}.weight"))  # (B7)
                    xp.matmul(
                        plan.ones[:, :size], d[j], out=self._dense(self.gradient, f"{names[j]}.bias").reshape(1, -1)
                    )
                    # The inputs of the first layer are not needed any more: their derivatives take their place.
                    below = d[j - 1] if j else x[0]
                    xp.matmul(d[j], weight[j].T, out=below)
                    if j:
                        k.over("net_deactivate", below.size, (heads, h, np.int32(j), x[j], below, count))
                k.over("net_input_backward", x[0].size, (setup, heads, h, x[0], plan.t, plan.d_rows, count, step))
            if self.n_dense:
                k.over("net_move", self.n_dense, (setup, self.dense, self.gradient, self.decay, plan.rates,
                                                  np.int32(self.n_dense), step))  # fmt: skip
            k.over("net_rows", segments, (setup, plan.first, plan.begin, plan.row_of, plan.place, self.table,
                                          plan.stamps, plan.rates, plan.d_rows, n, batch, step), warps)  # fmt: skip
            if catches_up and self.adam and self.l2 and (i + 1) % device.SWEEP == 0:
                sweep(i + 1)
        if catches_up:
            sweep(plan.steps)

    def _predict(self, u: Any, v: Any, y: Any, head: str | None) -> None:
        number = self.model.heads.index(self.model.check_head(head))
        self.kernels.over(
            "predict_heads", len(u),
            (self.setup, self.table, self._device_heads, self.dense, np.int32(len(self.heads)), np.int32(self.wide),
             np.int32(number), u, v, y, np.int64(len(u))),
            GROUP, shared=self.scratch(2),
        )  # fmt: skip
