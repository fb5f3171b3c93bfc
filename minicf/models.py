"""The models: tables of embeddings and the heads that turn two rows into a predicted rating.

A model says which weights it has (`shapes`), how they start (`init`), how a batch is predicted (`forward`) and how
the loss depends on each weight (`backward`). It holds no weights itself: these are a plain dict of arrays, passed
in, so that one model runs on any backend and its derivatives can be checked from outside. The labels (F1) … (B10)
are those of `ops.py`, where each operation is derived.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from minicf import ops, rng
from minicf.arguments import check_choice, check_number, check_whole
from minicf.ops import Array

Weights = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]

USER_TABLES = ("user_factors", "user_bias")
ITEM_TABLES = ("item_factors", "item_bias")
TABLES = USER_TABLES + ITEM_TABLES
"""Weights with one row a user or an item; heads of a hybrid share them by these names."""


def _check_init(init: Any) -> tuple[str, float, float]:
    try:
        kind, first, second = init
        kind = check_choice("init", kind, ("uniform", "normal"))
        first, second = check_number("init", first), check_number("init", second)
    except (TypeError, ValueError):
        raise ValueError(f"init is {init!r}; it must be ('uniform', low, high) or ('normal', mean, std)") from None
    if (kind == "uniform" and first > second) or (kind == "normal" and second < 0):
        raise ValueError(f"init is {init!r}; low must not exceed high, and a std must not be negative")
    return kind, first, second


class Model:
    """What every model has; subclasses add `shapes`, `forward` and `backward`."""

    n_factors: int
    rating_range: tuple[float, float] | None
    init: tuple[str, float, float]
    global_mean: float

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the losses that training reports, one unless the model is a hybrid."""
        return ("",)

    # --- weights ---------------------------------------------------------------------------------------------

    def shapes(self, n_users: int, n_items: int) -> Shapes:
        """Names and shapes of all weights, in the order in which they are listed and initialised."""
        raise NotImplementedError

    def init_weights(
        self, n_users: int, n_items: int, seed: int = 0, uniform: Callable[..., np.ndarray] = rng.uniform
    ) -> dict[str, np.ndarray]:
        """Initial weights in float64, a function of the seed and the weight's position in the list alone.

        Tables follow `init`; dense layers follow `dense_init` of the net that they belong to. A backend may have its
        own `uniform`, of the same numbers.
        """
        weights = {}
        shapes = self.shapes(check_whole("n_users", n_users, 1), check_whole("n_items", n_items, 1))
        for stream, (name, shape) in enumerate(shapes.items()):
            draw = rng.key(seed, rng.INIT, stream)
            kind, first, second = self._init_of(name, shape)
            n = math.prod(shape)
            make = uniform if kind == "uniform" else rng.normal
            weights[name] = make(draw, n, first, second).reshape(shape)
        return weights

    def _init_of(self, name: str, shape: tuple[int, ...]) -> tuple[str, float, float]:
        return self.init

    def summary(self, n_users: int, n_items: int) -> pd.DataFrame:
        """Print and return the table of weights: name, shape, number of parameters.

        Returns
        -------
        DataFrame with columns weight, shape, parameters; the total is ``frame.parameters.sum()``.
        """
        shapes = self.shapes(check_whole("n_users", n_users, 1), check_whole("n_items", n_items, 1))
        table = pd.DataFrame(
            [(name, shape, math.prod(shape)) for name, shape in shapes.items()],  # Python's ints do not overflow
            columns=["weight", "shape", "parameters"],
        )
        print(f"{self}, {n_users:,} users, {n_items:,} items")
        for name, shape, n in table.itertuples(index=False):
            print(f"  {name:<24} {shape!s:<14} {n:>12,}")
        print(f"  {'total':<24} {'':<14} {table.parameters.sum():>12,}")
        return table

    # --- the passes ------------------------------------------------------------------------------------------

    def dropout_masks(self, seed: int, step: int, batch: int, dtype: Any) -> Any:
        """The masks of training step `step` for `forward`; None for models without dropout."""
        return None

    def forward(self, w: Weights, user: Array, item: Array, masks: Any = None) -> tuple[Array, Any]:
        """Predictions (B,), and what `backward` needs to remember."""
        raise NotImplementedError

    def backward(self, w: Weights, cache: Any, d_y: Array) -> Weights:
        """The derivative of the loss by every weight, given that by the predictions. Same names, same shapes."""
        raise NotImplementedError

    def loss_and_gradients(
        self, w: Weights, user: Array, item: Array, rating: Array, masks: Any = None
    ) -> tuple[list[Array], Weights]:
        """One batch, there and back: the mean squared error of each head, and the gradient of the loss."""
        y, cache = self.forward(w, user, item, masks)
        return [ops.mse(y, rating)], self.backward(w, cache, ops.mse_backward(y, rating))  # (F9), (B9)

    def predict(self, w: Weights, user: Array, item: Array) -> Array:
        """Predictions (B,) without dropout."""
        return self.forward(w, user, item)[0]

    # --- what all heads end with ------------------------------------------------------------------------------

    def _finish(self, s: Array) -> Array:
        """(F4) where a rating range was asked for."""
        return s if self.rating_range is None else ops.rating_range(s, *self.rating_range)

    def _finish_backward(self, d_y: Array, s: Array) -> Array:
        """(B4)"""
        return d_y if self.rating_range is None else ops.rating_range_backward(d_y, s, *self.rating_range)

    def _check(self) -> None:
        """Checks of the arguments that all models share; normalises sequences to tuples."""
        object.__setattr__(self, "n_factors", check_whole("n_factors", self.n_factors, 1))
        object.__setattr__(self, "init", _check_init(self.init))
        # Python's own float: a NumPy float64 scalar would turn float32 scores into float64.
        object.__setattr__(self, "global_mean", check_number("global_mean", self.global_mean))
        if self.rating_range is not None:
            try:
                low, high = (check_number("rating_range", x) for x in self.rating_range)
                check_number("rating_range", low, high=high)
            except (TypeError, ValueError):
                raise ValueError(
                    f"rating_range is {self.rating_range!r}; it must be None or (low, high): "
                    "low must be below high, both finite"
                ) from None
            object.__setattr__(self, "rating_range", (low, high))


@dataclass(frozen=True)
class Dot(Model):
    """Dot product of two embeddings: s = p . q (+ mean).

    Parameters
    ----------
    n_factors : int
        K, the length of an embedding.
    rating_range : (low, high), optional
        Squeeze predictions into this range by a sigmoid (F4).
    init : ("uniform", low, high) or ("normal", mean, std)
        How the tables start.
    global_mean : float
        A fixed number added to every score.

    Notes
    -----
    (F1) p = P[user], q = Q[item]; (F2) s = sum_k p_k q_k; (F4) y. Backward, last operation first:
    (B4) d_s from d_y; (B2) d_p = d_s q, d_q = d_s p; (B1) d_P and d_Q collect the rows.
    """

    n_factors: int
    rating_range: tuple[float, float] | None = None
    init: tuple[str, float, float] = ("uniform", -0.01, 0.01)
    global_mean: float = 0.0
    biases: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._check()

    def shapes(self, n_users: int, n_items: int) -> Shapes:
        k = self.n_factors
        shapes: Shapes = {"user_factors": (n_users, k), "item_factors": (n_items, k)}
        if self.biases:
            shapes |= {"user_bias": (n_users,), "item_bias": (n_items,)}
        return shapes

    def forward(self, w: Weights, user: Array, item: Array, masks: Any = None) -> tuple[Array, Any]:
        p = ops.gather(w["user_factors"], user)  # (F1)
        q = ops.gather(w["item_factors"], item)
        s = ops.dot(p, q)  # (F2)
        if self.biases:
            s = s + ops.gather(w["user_bias"], user) + ops.gather(w["item_bias"], item)  # (F3)
        s = s + self.global_mean
        return self._finish(s), (user, item, p, q, s)  # (F4)

    def backward(self, w: Weights, cache: Any, d_y: Array) -> Weights:
        user, item, p, q, s = cache
        d_s = self._finish_backward(d_y, s)  # (B4)
        d_p, d_q = ops.dot_backward(d_s, p, q)  # (B2)
        grads = {
            "user_factors": ops.gather_backward(d_p, user, w["user_factors"]),  # (B1)
            "item_factors": ops.gather_backward(d_q, item, w["item_factors"]),
        }
        if self.biases:
            grads["user_bias"] = ops.gather_backward(d_s, user, w["user_bias"])  # (B3)
            grads["item_bias"] = ops.gather_backward(d_s, item, w["item_bias"])
        return grads


@dataclass(frozen=True)
class DotBias(Dot):
    """Dot product and a bias for each user and each item: s = p . q + b_u + c_i (+ mean).

    The parameters are those of `Dot`. A bias is what a user gives, or an item gets, whoever the other side is;
    the factors are left with what depends on both.

    Notes
    -----
    As `Dot`, with (F3) s = p . q + b[user] + c[item] + mean; each bias enters with slope 1, hence (B3) d_b and d_c
    collect d_s.
    """

    biases: ClassVar[bool] = True


@dataclass(frozen=True)
class Net(Model):
    """A small multi-layer perceptron on the two embeddings side by side.

    Parameters
    ----------
    n_factors : int
        K, the length of an embedding; the first layer sees 2 K inputs.
    hidden : tuple of int
        Units of each hidden layer; ``()`` for a single linear layer on the embeddings.
    dropout : float or tuple of float
        The share of units set to 0 while training: one rate for the concatenated input and one for each hidden
        layer, or one number for all of them.
    rating_range, init, global_mean
        As for `Dot`.
    dense_init : "glorot" or "torch"
        Dense layers start Glorot-uniform (Glorot and Bengio 2010) with zero biases, as Keras' Dense, or uniform within
        1 / sqrt(inputs) for weights and biases, as PyTorch's Linear.

    Notes
    -----
    (F1) p, q; (F5) x = [p, q]; (F6) dropout; then for each hidden layer (F7) a = x W + w, (F8) relu, (F6) dropout;
    (F7) the output unit, plus the mean; (F4). Backward takes the same path in reverse: (B4), (B7), then for each
    hidden layer from the last to the first (B6), (B8), (B7), then (B6), (B5), (B1).
    """

    n_factors: int
    hidden: tuple[int, ...] = (70,)
    dropout: tuple[float, ...] = (0.3, 0.75)
    rating_range: tuple[float, float] | None = None
    init: tuple[str, float, float] = ("uniform", -0.01, 0.01)
    global_mean: float = 0.0
    dense_init: str = "glorot"

    def __post_init__(self) -> None:
        self._check()
        hidden = tuple(np.atleast_1d(np.array(self.hidden, object)))  # one number, or a sequence of them
        object.__setattr__(self, "hidden", tuple(check_whole("hidden", h, 1) for h in hidden))
        try:
            one_for_all = np.ndim(self.dropout) == 0
            given = (self.dropout,) if one_for_all else tuple(self.dropout)
            rates = tuple(check_number("dropout", rate, 0.0, 1.0) for rate in given)
            rates *= len(hidden) + 1 if one_for_all else 1
        except (TypeError, ValueError):
            raise ValueError(
                f"dropout is {self.dropout!r}; it must be a rate of at least 0 and below 1, or a sequence of such rates"
            ) from None
        if len(rates) != len(hidden) + 1:
            raise ValueError(
                f"dropout has {len(rates)} rates for {len(hidden)} hidden layers; "
                f"give {len(hidden) + 1}: one for the input and one for each hidden layer"
            )
        object.__setattr__(self, "dropout", rates)
        check_choice("dense_init", self.dense_init, ("glorot", "torch"))

    def shapes(self, n_users: int, n_items: int) -> Shapes:
        shapes: Shapes = {
            "user_factors": (n_users, self.n_factors),
            "item_factors": (n_items, self.n_factors),
        }
        for name, width_in, width_out in self.layers():
            shapes[f"{name}.weight"] = (width_in, width_out)
            shapes[f"{name}.bias"] = (width_out,)
        return shapes

    def layers(self) -> list[tuple[str, int, int]]:
        """Name, inputs and outputs of each dense layer, the output layer last."""
        widths = (2 * self.n_factors, *self.hidden, 1)
        names = [f"hidden.{i}" for i in range(len(self.hidden))] + ["output"]
        return list(zip(names, widths[:-1], widths[1:], strict=True))

    def _init_of(self, name: str, shape: tuple[int, ...]) -> tuple[str, float, float]:
        if name in TABLES:
            return self.init
        layer, _, part = name.rpartition(".")
        width_in, width_out = next((i, o) for n, i, o in self.layers() if n == layer)
        if self.dense_init == "torch":
            bound = 1.0 / np.sqrt(width_in)
        else:
            bound = np.sqrt(6.0 / (width_in + width_out)) if part == "weight" else 0.0
        return "uniform", -bound, bound

    def dropout_masks(self, seed: int, step: int, batch: int, dtype: Any, first_layer: int = 0) -> Any:
        widths = (2 * self.n_factors, *self.hidden)
        return tuple(
            rng.dropout_mask(seed, first_layer + layer, step, (batch, width), rate, dtype) if rate else None
            for layer, (width, rate) in enumerate(zip(widths, self.dropout, strict=True))
        )

    def forward(self, w: Weights, user: Array, item: Array, masks: Any = None) -> tuple[Array, Any]:
        masks = masks or (None,) * (len(self.hidden) + 1)
        p = ops.gather(w["user_factors"], user)  # (F1)
        q = ops.gather(w["item_factors"], item)
        x = ops.dropout(ops.concat(p, q), masks[0])  # (F5), (F6)
        inputs, activations = [], []
        for i in range(len(self.hidden)):
            a = ops.dense(x, w[f"hidden.{i}.weight"], w[f"hidden.{i}.bias"])  # (F7)
            inputs.append(x)
            activations.append(a)
            x = ops.dropout(ops.relu(a), masks[i + 1])  # (F8), (F6)
        inputs.append(x)
        s = ops.dense(x, w["output.weight"], w["output.bias"])[:, 0] + self.global_mean  # (F7), the mean as in (F3)
        return self._finish(s), (user, item, inputs, activations, masks, s)  # (F4)

    def backward(self, w: Weights, cache: Any, d_y: Array) -> Weights:
        user, item, inputs, activations, masks, s = cache
        grads: Weights = {}
        d_s = self._finish_backward(d_y, s)[:, None]  # (B4)
        d_x, grads["output.weight"], grads["output.bias"] = ops.dense_backward(
            d_s, inputs[-1], w["output.weight"]
        )  # (B7)
        for i in reversed(range(len(self.hidden))):
            d_a = ops.relu_backward(ops.dropout_backward(d_x, masks[i + 1]), activations[i])  # (B6), (B8)
            d_x, grads[f"hidden.{i}.weight"], grads[f"hidden.{i}.bias"] = ops.dense_backward(
                d_a, inputs[i], w[f"hidden.{i}.weight"]
            )  # (B7)
        d_p, d_q = ops.concat_backward(ops.dropout_backward(d_x, masks[0]))  # (B6), (B5)
        grads["user_factors"] = ops.gather_backward(d_p, user, w["user_factors"])  # (B1)
        grads["item_factors"] = ops.gather_backward(d_q, item, w["item_factors"])
        return grads


@dataclass(frozen=True)
class Hybrid(Model):
    """Several heads on the same tables, trained on the weighted sum of their losses.

    Parameters
    ----------
    members : mapping of name to (model, weight)
        The heads, with the weight of each one's mean squared error in the loss. All must have the same
        `n_factors`; the tables are shared by name, dense layers carry the head's name in front
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
    n_factors: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        members = {}
        if not isinstance(self.members, Mapping):
            raise ValueError(f"members is {self.members!r}; it must be a mapping: {{'name': (model, weight)}}")
        for name, value in self.members.items():
            try:
                head, weight = value
                weight = check_number("weight", weight, 0.0)
            except (TypeError, ValueError):
                raise ValueError(
                    f"head {name!r} is {value!r}; it must be (model, weight), the weight finite and not negative"
                ) from None
            if not isinstance(head, Dot | Net):
                raise ValueError(f"head {name!r} is {head!r}; a head is a Dot, a DotBias or a Net")
            if not isinstance(name, str) or not name or "." in name or "/" in name:
                raise ValueError(f"head {name!r}: a head's name is a text, not empty, without '.' and '/'")
            members[name] = (head, weight)
        if not members:
            raise ValueError("a hybrid needs at least one head: {'name': (model, weight)}")
        sizes = {name: head.n_factors for name, (head, _) in members.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"heads of a hybrid share their tables, but n_factors differ: {sizes}")
        starts = {name: head.init for name, (head, _) in members.items()}
        if len(set(starts.values())) > 1:
            raise ValueError(f"heads of a hybrid share their tables, but init differs: {starts}")
        output = self.output if self.output != "" else max(reversed(members), key=lambda name: members[name][1])
        if not isinstance(output, str) or output not in members:
            raise ValueError(f"output is {output!r}; the heads are {list(members)}")
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "output", output)
        object.__setattr__(self, "n_factors", next(iter(sizes.values())))

    def __hash__(self) -> int:
        return hash((tuple(self.members.items()), self.output))

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.members)

    def shapes(self, n_users: int, n_items: int) -> Shapes:
        shapes: Shapes = {}
        for name, (head, _) in self.members.items():
            for key, shape in head.shapes(n_users, n_items).items():
                shapes[self.full_name(name, key)] = shape
        return shapes

    @staticmethod
    def full_name(head: str, key: str) -> str:
        """The hybrid's name of a head's weight."""
        return key if key in TABLES else f"{head}.{key}"

    def _weights_of(self, head: str, w: Weights) -> Weights:
        own = {key.removeprefix(f"{head}."): value for key, value in w.items() if key.startswith(f"{head}.")}
        return own | {key: value for key, value in w.items() if key in TABLES}

    def _init_of(self, name: str, shape: tuple[int, ...]) -> tuple[str, float, float]:
        head, _, own = name.partition(".")
        if name in TABLES:
            return next(iter(self.members.values()))[0].init
        return self.members[head][0]._init_of(own, shape)

    def dropout_masks(self, seed: int, step: int, batch: int, dtype: Any) -> Any:
        masks, layer = {}, 0
        for name, (head, _) in self.members.items():
            if isinstance(head, Net):
                masks[name] = head.dropout_masks(seed, step, batch, dtype, layer)
                layer += len(head.dropout)
        return masks

    def forward(self, w: Weights, user: Array, item: Array, masks: Any = None) -> tuple[Any, Any]:
        """Predictions and caches of every head, by name."""
        y, caches = {}, {}
        for name, (head, _) in self.members.items():
            y[name], caches[name] = head.forward(self._weights_of(name, w), user, item, (masks or {}).get(name))
        return y, caches

    def backward(self, w: Weights, cache: Any, d_y: Any) -> Weights:
        """Gradients, shared tables added up (B10); `d_y` holds each head's, already weighted."""
        grads: Weights = {}
        for name, (head, _) in self.members.items():
            for key, d_w in head.backward(self._weights_of(name, w), cache[name], d_y[name]).items():
                full = self.full_name(name, key)
                grads[full] = grads[full] + d_w if full in grads else d_w
        return grads

    def loss_and_gradients(
        self, w: Weights, user: Array, item: Array, rating: Array, masks: Any = None
    ) -> tuple[list[Array], Weights]:
        y, caches = self.forward(w, user, item, masks)
        d_y = {
            name: weight * ops.mse_backward(y[name], rating)  # (B9), (B10)
            for name, (_, weight) in self.members.items()
        }
        return [ops.mse(y[name], rating) for name in self.members], self.backward(w, caches, d_y)

    def predict(self, w: Weights, user: Array, item: Array) -> Array:
        """Predictions of the output head."""
        return self.predict_head(self.output, w, user, item)

    def predict_head(self, name: str, w: Weights, user: Array, item: Array) -> Array:
        """Predictions of the head called `name`."""
        if name not in self.members:
            raise ValueError(f"no head {name!r}; the heads are {list(self.members)}")
        return self.members[name][0].predict(self._weights_of(name, w), user, item)


def head_weights(model: Model) -> tuple[float, ...]:
    """The weight of each head's loss in the objective (F10)."""
    return tuple(weight for _, weight in model.members.values()) if isinstance(model, Hybrid) else (1.0,)


# --- a model as plain data, for files ---------------------------------------------------------------------------

_KINDS: dict[str, type[Model]] = {kind.__name__: kind for kind in (Dot, DotBias, Net, Hybrid)}


def to_config(model: Model) -> dict[str, Any]:
    """A model's arguments as a dict that JSON can hold."""
    if isinstance(model, Hybrid):
        members = [[name, to_config(head), weight] for name, (head, weight) in model.members.items()]
        return {"kind": "Hybrid", "members": members, "output": model.output}
    return {"kind": type(model).__name__, **asdict(model)}  # type: ignore[call-overload]


def from_config(config: Mapping[str, Any]) -> Model:
    """The model that `to_config` described."""
    config = dict(config)
    kind = config.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"unknown model {kind!r}; known are {sorted(_KINDS)}")
    if kind == "Hybrid":
        members = {name: (from_config(head), weight) for name, head, weight in config["members"]}
        return Hybrid(members, output=config["output"])
    known = {f.name for f in fields(_KINDS[kind])}  # type: ignore[arg-type]
    if extra := set(config) - known:
        raise ValueError(f"unknown arguments {sorted(extra)} for {kind}")
    return _KINDS[kind](**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
