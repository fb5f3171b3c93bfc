"""Keras 3 on its JAX backend: `model.fit`, compiled by XLA, an epoch or a slice of one a call."""

from __future__ import annotations

import os
import time
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
if os.environ.get("BENCH_THREADS") == "1":
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import keras
import numpy as np

from bench.data import Table
from bench.rivals import MiniBatch, Task, timed
from minicf.models import Dot, Model, Net
from minicf.optim import SGD, Adam


class Fit(MiniBatch):
    """The model in Keras' layers, its own optimisers; l2 as a regulariser of half the weight decay."""

    packages = ("keras", "jax", "jaxlib", "numpy")

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        if task.falling or self.optimizer.sparse or self.optimizer.decay == "per_rating":
            raise NotImplementedError("a constant rate and dense updates alone")

    def prepare(self) -> None:
        t = self.table
        begin = time.perf_counter()
        self.x = [np.asarray(t.user[self.order])[:, None], np.asarray(t.item[self.order])[:, None]]
        self.y = np.asarray(t.rating[self.order])
        self.prepare_s = time.perf_counter() - begin
        self.build(self.model)
        first = timed(lambda: self.run(0, 1))
        self.compile_s = max(0.0, first - timed(lambda: self.run(0, 1)))
        self.note = "on JAX" + (", Adam's eps in another place" if isinstance(self.optimizer, Adam) else "")

    def build(self, model: Model) -> None:
        start, t = self.start(model), self.table
        opt, l2 = self.optimizer, self.optimizer.decay == "l2"

        def penalty(name: str) -> Any:
            decay = opt.decay_of(name) if l2 else 0.0
            return keras.regularizers.L2(decay / 2) if decay else None

        user, item = keras.Input((1,), dtype="int32"), keras.Input((1,), dtype="int32")

        def table(name: str, rows: int, width: int, index: Any) -> Any:
            layer = keras.layers.Embedding(rows, width, embeddings_regularizer=penalty(name), name=name)
            return keras.layers.Reshape((width,))(layer(index))

        p = table("user_factors", t.n_users, model.n_factors, user)
        q = table("item_factors", t.n_items, model.n_factors, item)
        if isinstance(model, Dot):
            y = keras.layers.Dot(1)([p, q])
            if model.biases:
                biases = table("user_bias", t.n_users, 1, user), table("item_bias", t.n_items, 1, item)
                y = keras.layers.Add()([y, *biases])
        else:
            assert isinstance(model, Net)
            y = keras.layers.Dropout(model.dropout[0])(keras.layers.Concatenate()([p, q]))
            for i, width in enumerate((*model.hidden, 1)):
                last = i == len(model.hidden)
                name = "output" if last else f"hidden.{i}"
                dense = keras.layers.Dense(
                    width, activation=None if last else "relu", name=name.replace(".", "_"),
                    kernel_regularizer=penalty(f"{name}.weight"), bias_regularizer=penalty(f"{name}.bias"),
                )  # fmt: skip
                y = dense(y)
                if not last:
                    y = keras.layers.Dropout(model.dropout[i + 1])(y)
        if model.rating_range is not None or model.global_mean:
            raise NotImplementedError("the plain score alone")
        self.net = keras.Model([user, item], y)
        for name, value in start.items():
            variable = self.variable(name)
            variable.assign(value.reshape(variable.shape).astype(np.float32))
        decay = None if l2 or not isinstance(opt.weight_decay, float) else opt.weight_decay or None
        optimizer: Any
        if isinstance(opt, SGD):
            optimizer = keras.optimizers.SGD(opt.lr, momentum=opt.momentum, nesterov=opt.nesterov, weight_decay=decay)
        else:
            assert isinstance(opt, Adam)
            kind = keras.optimizers.AdamW if decay else keras.optimizers.Adam
            given = {"weight_decay": decay} if decay else {}
            optimizer = kind(opt.lr, beta_1=opt.betas[0], beta_2=opt.betas[1], epsilon=opt.eps, **given)
        self.net.compile(optimizer, "mse")

    def variable(self, name: str) -> Any:
        table, _, part = name.rpartition(".")
        if not table:
            return self.net.get_layer(name).embeddings
        layer = self.net.get_layer(table.replace(".", "_"))
        return layer.kernel if part == "weight" else layer.bias

    def run(self, first: int, count: int) -> None:
        rows = slice(first * self.task.batch, (first + count) * self.task.batch)
        x = [column[rows] for column in self.x]
        self.net.fit(x, self.y[rows], batch_size=self.task.batch, epochs=1, shuffle=False, verbose=0)

    def weights(self) -> dict[str, np.ndarray]:
        start = self.model.shapes(self.table.n_users, self.table.n_items)
        return {name: np.asarray(self.variable(name).numpy()).reshape(shape) for name, shape in start.items()}
