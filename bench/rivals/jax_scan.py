"""JAX: a whole epoch as one compiled `lax.scan`, weights and state donated to it."""

from __future__ import annotations

import os
import time
from typing import Any

if os.environ.get("BENCH_THREADS") == "1":  # XLA reads its flags when jax is imported
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.data import Table
from bench.rivals import SEED, MiniBatch, Reached, Task
from minicf.models import Dot, Model, Net
from minicf.optim import SGD, Adam

jax.config.update("jax_default_prng_impl", "rbg")  # the faster generator, for dropout


def predict(model: Model, w: dict[str, Any], user: Any, item: Any, key: Any) -> Any:
    """Predictions of a batch; dropout where there is a key."""
    p, q = w["user_factors"][user], w["item_factors"][item]
    if isinstance(model, Dot):
        s = (p * q).sum(1)
        if model.biases:
            s = s + w["user_bias"][user] + w["item_bias"][item]
    else:
        assert isinstance(model, Net)
        x = drop(jnp.concatenate([p, q], 1), model.dropout[0], key, 0)
        for i in range(len(model.hidden)):
            x = jax.nn.relu(x @ w[f"hidden.{i}.weight"] + w[f"hidden.{i}.bias"])
            x = drop(x, model.dropout[i + 1], key, i + 1)
        s = (x @ w["output.weight"] + w["output.bias"])[:, 0]
    s = s + model.global_mean
    if model.rating_range is None:
        return s
    low, high = model.rating_range
    return low + (high - low) * jax.nn.sigmoid(s)


def drop(x: Any, rate: float, key: Any, layer: int) -> Any:
    if rate == 0:
        return x
    kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), 0.0)


class Scan(MiniBatch):
    """Dense gradients and updates of every row, as `jax.grad` gives them."""

    packages = ("jax", "jaxlib", "numpy")
    whole_epochs = True

    def __init__(self, task: Task, table: Table) -> None:
        super().__init__(task, table)
        if self.optimizer.sparse or self.optimizer.decay == "per_rating":
            raise NotImplementedError("dense updates alone")
        self.compiled: dict[tuple[Model, int], Any] = {}

    def prepare(self) -> None:
        begin = time.perf_counter()
        t, shape = self.table, (self.steps, self.task.batch)
        columns = [np.asarray(x[self.order]).reshape(shape) for x in (t.user, t.item, t.rating)]
        self.columns = [jnp.asarray(column) for column in columns]
        self.prepare_s = time.perf_counter() - begin
        self.build(self.model)
        begin = time.perf_counter()
        self.epoch(self.steps)
        self.compile_s = time.perf_counter() - begin

    def build(self, model: Model) -> None:
        self.now, self.t = model, 0
        w = {name: jnp.asarray(value, jnp.float32) for name, value in self.start(model).items()}
        slots = [{name: jnp.zeros_like(value) for name, value in w.items()} for _ in self.optimizer.slots()]
        self.carry = w, slots, jnp.zeros((), jnp.int32)

    def epoch(self, count: int) -> Any:
        """The compiled scan over `count` steps."""
        if (self.now, count) not in self.compiled:
            columns = [x[:count] for x in self.columns]
            rates = self.scalars(0, count)
            scan = jax.jit(lambda carry, *xs: lax.scan(self.step, carry, xs), donate_argnums=0)
            self.compiled[self.now, count] = scan.lower(self.carry, *columns, rates).compile()
        return self.compiled[self.now, count]

    def scalars(self, first: int, count: int) -> Any:
        """Rate, and Adam's two corrections, of each step: in float32 1 - 0.999^t would have three digits at first."""
        t = self.t + 1 + np.arange(count)
        corrections = [1.0 - beta**t for beta in getattr(self.optimizer, "betas", (0.0, 0.0))]
        return jnp.asarray(np.stack([self.rates[first : first + count], *corrections], axis=1), jnp.float32)

    def step(self, carry: Any, x: Any) -> Any:
        (w, slots, t), (user, item, rating, (lr, correction1, correction2)) = carry, x
        model, optimizer = self.now, self.optimizer
        key = jax.random.fold_in(jax.random.key(SEED), t)
        dropout = isinstance(model, Net) and any(model.dropout)

        def loss(w: Any) -> Any:
            return jnp.square(predict(model, w, user, item, key if dropout else None) - rating).mean()

        error, grads = jax.value_and_grad(loss)(w)
        t = t + 1
        new_w, new_slots = {}, [dict(slot) for slot in slots]
        for name, g in grads.items():
            old, decay = w[name], optimizer.decay_of(name)
            if decay and optimizer.decay == "l2":
                g = g + decay * old
            elif decay:
                old = old * (1.0 - lr * decay)
            if isinstance(optimizer, SGD):
                if optimizer.momentum:
                    v = new_slots[0][name] = optimizer.momentum * slots[0][name] + g
                    g = g + optimizer.momentum * v if optimizer.nesterov else v
                new_w[name] = old - lr * g
            else:
                assert isinstance(optimizer, Adam)
                beta1, beta2 = optimizer.betas
                m = new_slots[0][name] = beta1 * slots[0][name] + (1 - beta1) * g
                v = new_slots[1][name] = beta2 * slots[1][name] + (1 - beta2) * g * g
                new_w[name] = old - lr / correction1 * m / (jnp.sqrt(v / correction2) + optimizer.eps)
        return (new_w, new_slots, t), error

    def run(self, first: int, count: int) -> None:
        columns = [x[first : first + count] if count < self.steps else x for x in self.columns]
        scalars = self.scalars(first, count)
        self.carry, errors = self.epoch(count)(self.carry, *columns, scalars)
        self.t += count
        errors.block_until_ready()

    def weights(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in self.carry[0].items()}


class Reach(Reached, Scan):
    """A whole training from fresh weights to a validation error, compiled beforehand."""

    def prepare(self) -> None:
        super().prepare()
        self.note = self.setting.text()
        self.rows = [np.asarray(x).reshape(-1) for x in self.columns]
        self.random = np.random.default_rng(SEED)

    def shuffle(self, epoch: int) -> None:
        order = self.random.permutation(self.n)
        self.columns = [jnp.asarray(x[order].reshape(self.steps, -1)) for x in self.rows]
