"""Optimisers from outside: arguments, defaults, names of state, and as plain data. Their arithmetic is elsewhere."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

from minicf.models import DotBias
from minicf.optim import DECAYS, SGD, AdaGrad, Adam, Optimizer, RMSProp
from minicf.registry import from_config, to_config
from minicf.solvers import Gradient


@pytest.mark.parametrize("kind", [SGD, Adam, AdaGrad, RMSProp])
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"lr": -0.1}, "lr is -0.1; it must be at least 0"),
        ({"lr": np.nan}, "lr is nan"),
        ({"lr": np.inf}, "lr is inf"),
        ({"lr": "fast"}, "lr is 'fast'; it must be a number"),
        ({"lr": None}, "lr is None"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001"),
        ({"weight_decay": np.nan}, "weight_decay is nan"),
        ({"weight_decay": [0.1]}, "weight_decay is"),
        ({"weight_decay": {"user_bias": -1}}, r"weight_decay\['user_bias'\] is -1"),
        ({"weight_decay": {"user_bias": "x"}}, r"weight_decay\['user_bias'\] is 'x'"),
        ({"decay": "L2"}, "decay is 'L2'; it must be one of"),
        ({"decay": None}, "decay is None"),
    ],
)
def test_bad_shared_arguments_are_refused(kind, arguments, match):
    with pytest.raises(ValueError, match=match):
        kind(**({"lr": 0.1} | arguments))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SGD(0.1, momentum=1.0), "momentum is 1; it must be at least 0 and below 1"),
        (lambda: SGD(0.1, momentum=-0.1), "momentum is -0.1"),
        (lambda: SGD(0.1, nesterov=True), "momentum is 0; it must be above 0 with nesterov=True"),
        (lambda: Adam(betas=0.9), "betas is 0.9; it must be two numbers"),
        (lambda: Adam(betas=(0.9, 0.99, 0.999)), "two numbers"),
        (lambda: Adam(betas=(1.0, 0.999)), r"betas\[0\] is 1"),
        (lambda: Adam(betas=(0.9, -0.1)), r"betas\[1\] is -0.1"),
        (lambda: Adam(betas=("a", 0.9)), r"betas\[0\] is 'a'"),
        (lambda: Adam(eps=0.0), "eps is 0"),
        (lambda: Adam(eps=-1e-8), "eps is -1e-08"),
        (lambda: Adam(amsgrad=1), "amsgrad is 1; it must be True or False"),
        (lambda: Gradient(SGD(0.1), clip_value=0), "clip_value is 0; it must be above 0"),
        (lambda: Gradient(SGD(0.1), clip_value="1"), "clip_value is '1'; it must be a number"),
        (lambda: Gradient(SGD(0.1), clip_norm=-1), "clip_norm is -1; it must be above 0"),
        (lambda: Gradient(SGD(0.1), clip_norm=np.inf), "clip_norm is inf"),
        (lambda: Gradient(SGD(0.1), clip_norm=True), "clip_norm is True; it must be a number"),
        (lambda: Gradient(SGD(0.1), lr_factors=0.5), "lr_factors is 0.5; it must be a dict"),
        (lambda: Gradient(SGD(0.1), lr_factors={"a": -1}), r"lr_factors\['a'\] is -1; it must be at least 0"),
        (lambda: Gradient(SGD(0.1), lr_factors={1: 1}), "lr_factors has 1 among its keys"),
        (lambda: Gradient(SGD(0.1), lr_factors={"x": 1}).check(DotBias(2)), r"lr_factors names \['x'\]"),
        (lambda: AdaGrad(eps=0.0), "eps is 0; it must be above 0"),
        (lambda: AdaGrad(initial=-0.1), "initial is -0.1; it must be at least 0"),
        (lambda: AdaGrad(initial=None), "initial is None"),
        (lambda: RMSProp(alpha=1.0), "alpha is 1; it must be at least 0 and below 1"),
        (lambda: RMSProp(alpha="x"), "alpha is 'x'"),
        (lambda: RMSProp(eps=np.nan), "eps is nan"),
        (lambda: RMSProp(momentum=1), "momentum is 1; it must be at least 0 and below 1"),
        (lambda: RMSProp(centered="no"), "centered is 'no'; it must be True or False"),
    ],
)
def test_bad_own_arguments_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_the_lower_limits_themselves_are_allowed():
    assert Adam(0.0, betas=(0.0, 0.0), eps=1e-30).eps == 1e-30
    assert SGD(0.0, momentum=0.0, weight_decay={"user_bias": 0.0}).lr == 0.0


def test_signatures_and_defaults_are_the_published_ones():
    def defaults(kind):
        return {name: p.default for name, p in inspect.signature(kind).parameters.items()}

    shared = {"weight_decay": 0.0, "decay": "l2", "sparse": False}
    assert defaults(SGD) == {"lr": inspect.Parameter.empty, "momentum": 0.0, "nesterov": False, **shared}
    assert defaults(Adam) == {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, **shared, "amsgrad": False}
    assert defaults(AdaGrad) == {"lr": 0.01, "eps": 1e-10, "initial": 0.0, **shared}
    assert defaults(RMSProp) == {
        "lr": 0.01, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False, **shared,
    }  # fmt: skip
    assert DECAYS == ("l2", "decoupled", "per_rating")


def test_numbers_become_python_floats():
    # NumPy's float64 would turn float32 arithmetic into float64.
    optimizer = Adam(np.float64(0.1), betas=np.array([0.8, 0.9]), eps=np.float32(1e-3), weight_decay=np.int64(1))
    for value in (optimizer.lr, *optimizer.betas, optimizer.eps, optimizer.weight_decay):
        assert type(value) is float
    assert type(SGD(1, momentum=np.float32(0.5)).momentum) is float
    assert all(type(x) is float for x in optimizer.scalars(3, optimizer.lr, table=True))


def test_decay_by_name():
    optimizer = SGD(0.1, weight_decay={"user_factors": 0.5})
    assert optimizer.decay_of("user_factors") == 0.5
    assert optimizer.decay_of("user_bias") == 0.0
    assert SGD(0.1, weight_decay=0.25).decay_of("anything") == 0.25
    Gradient(optimizer).check(DotBias(2))
    Gradient(SGD(0.1, weight_decay=0.25)).check(DotBias(2))
    with pytest.raises(ValueError, match=r"weight_decay names \['userfactors'\]; the model's weights are .*user_bias"):
        Gradient(SGD(0.1, weight_decay={"userfactors": 0.5})).check(DotBias(2))


def test_a_decay_dict_is_copied():
    decays = {"user_factors": 0.5}
    optimizer = Adam(weight_decay=decays)
    decays["user_factors"] = 100.0
    assert optimizer.decay_of("user_factors") == 0.5


def test_slots_and_state():
    weights = {"a": np.ones((2, 3), np.float32), "b": np.ones(2, np.float32)}
    assert SGD(0.1).init_state(weights) == {}
    assert list(SGD(0.1, momentum=0.9).init_state(weights)) == ["velocity.a", "velocity.b"]
    state = Adam().init_state(weights)
    assert {name: (s.shape, s.dtype) for name, s in state.items()} == {
        "first.a": ((2, 3), np.float32),
        "first.b": ((2,), np.float32),
        "second.a": ((2, 3), np.float32),
        "second.b": ((2,), np.float32),
    }
    assert all((s == 0).all() for s in state.values())


def test_slots_of_the_composed_ones():
    weights = {"a": np.ones(2, np.float32)}
    state = AdaGrad(initial=0.5).init_state(weights)
    assert list(state) == ["squares.a"]
    assert (state["squares.a"].tolist(), state["squares.a"].dtype) == ([0.5, 0.5], np.float32)
    assert RMSProp().slots() == ("second",)
    assert RMSProp(centered=True, momentum=0.9).slots() == ("second", "first", "velocity")


@pytest.mark.parametrize("g", [1e-3, 0.7, 3.3, 1e6])
def test_a_variance_is_not_below_0_by_rounding(g):
    """Of a constant gradient it tends to 0; float32 comes out below, the root of which would be NaN."""
    optimizer = RMSProp(1e-3, alpha=0.9, centered=True)
    w, grad = {"a": np.ones(4, np.float32)}, {"a": np.full(4, g, np.float32)}
    state = optimizer.init_state(w)
    with np.errstate(all="raise"):
        for t in range(1, 500):
            optimizer.step(w, grad, state, t, 1e-3, {}, 1)
    assert np.isfinite(w["a"]).all()


@pytest.mark.parametrize("t", [1, 2, 10, 1000, 10**6])
def test_adams_corrections(t):
    adam = Adam(0.5, betas=(0.9, 0.999), eps=1e-6)
    rate, root, eps = adam.scalars(t, 0.5, table=True)
    assert rate == pytest.approx(0.5 / (1 - 0.9**t), rel=1e-12)
    assert root == pytest.approx(np.sqrt(1 - 0.999**t), rel=1e-12)
    assert eps == 1e-6
    sparse = Adam(0.5, eps=1e-6, sparse=True)
    assert sparse.scalars(t, 0.5, table=True)[2] == pytest.approx(1e-6 / root, rel=1e-12)
    assert sparse.scalars(t, 0.5, table=False)[2] == 1e-6


def test_adam_without_memory_has_no_correction():
    assert Adam(betas=(0.0, 0.0)).scalars(1, 0.5, table=True) == (0.5, 1.0, 1e-8)


OPTIMIZERS = [
    SGD(0.1),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, decay="per_rating", sparse=True),
    Adam(),
    Adam(0.1, amsgrad=True),
    AdaGrad(0.1, initial=0.1, weight_decay={"user_factors": 1e-4}),
    RMSProp(0.1, 0.9, momentum=0.5, centered=True, decay="decoupled", sparse=True),
    Adam(0.02, betas=(0.5, 0.6), eps=1e-3, weight_decay={"user_factors": 1e-4, "item_bias": 0.1}, decay="decoupled"),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_config_round_trip(optimizer):
    again = from_config(json.loads(json.dumps(to_config(optimizer))), Optimizer, "optimizer")
    assert again == optimizer
    assert hash(again) == hash(optimizer)


def test_equal_optimizers_have_equal_hashes():
    one, two = (SGD(0.1, weight_decay=decays) for decays in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert one == two
    assert hash(one) == hash(two)
    assert len({*OPTIMIZERS, *OPTIMIZERS}) == len(OPTIMIZERS)


def test_foreign_configs_are_refused():
    with pytest.raises(ValueError, match="unknown optimizer 'Adagrad'"):
        from_config({"kind": "Adagrad", "lr": 1.0}, Optimizer, "optimizer")
    with pytest.raises(ValueError, match="rho"):
        from_config({"kind": "SGD", "lr": 1.0, "rho": 3}, Optimizer, "optimizer")


def test_optimizers_do_not_change():
    with pytest.raises(AttributeError):
        SGD(0.1).lr = 0.2


def test_the_base_has_no_step():
    base = object.__new__(Optimizer)
    assert base.slots() == ()
    with pytest.raises(NotImplementedError):
        base.update(1.0, 1.0, {}, 1, 0.1, True)


def test_the_norm_of_large_float32_gradients_does_not_overflow():
    """Their squares do: divided by an infinite norm, the gradient would vanish in silence."""
    grads = {"a": np.full(3, 1e25, np.float32), "b": np.zeros(2, np.float32)}
    clipped = Gradient(SGD(0.1), clip_norm=1.0)._clipped(grads)
    assert clipped["a"] == pytest.approx(3**-0.5, rel=1e-6)
    assert clipped["a"].dtype == np.float32
    assert grads["a"][0] == np.float32(1e25), "the gradient given is not changed"


def test_clipping_by_hand():
    """|(3, 4)| = 5; by value 3.5 first: |(3, 3.5)| = 4.6098."""
    grads = {"a": np.array([3.0]), "b": np.array([[-4.0]])}
    norm = Gradient(SGD(0.1), clip_norm=1.0)._clipped(grads)
    assert (norm["a"][0], norm["b"][0, 0]) == pytest.approx((0.6, -0.8), rel=1e-6)
    both = Gradient(SGD(0.1), clip_value=3.5, clip_norm=2.3049)._clipped(grads)
    assert (both["a"][0], both["b"][0, 0]) == pytest.approx((1.5, -1.75), rel=1e-4)
    assert Gradient(SGD(0.1), clip_value=9, clip_norm=9)._clipped(grads) == grads


def test_amsgrad_on_sparse_rows_by_hand():
    """beta1 = 0, beta2 = 1/2, g = 2 then 1: v = 2, then 1.5; the largest stays 2. (U9) for eps."""
    adam = Adam(0.1, betas=(0.0, 0.5), eps=1e-3, sparse=True, amsgrad=True)
    w = {"t": np.zeros((2, 1))}
    state = adam.init_state(w)
    for t, g in ((1, 2.0), (2, 1.0)):
        adam.step(w, {"t": np.array([[g], [0.0]])}, state, t, 0.1, {"t": np.array([1, 0])}, 1)
    first = 0.1 * 2 / (np.sqrt(2 / 0.5) + 1e-3 / np.sqrt(0.5))
    second = 0.1 * 1 / (np.sqrt(2 / 0.75) + 1e-3 / np.sqrt(0.75))
    assert w["t"][:, 0] == pytest.approx([-first - second, 0.0], rel=1e-12)
    assert state["largest.t"][:, 0].tolist() == [2.0, 0.0]
