"""Updates: what minicf and its peers mean by the same word, with numbers by hand. No peer need be installed."""

from __future__ import annotations

import numpy as np
import pytest

import minicf


def moved(optimizer, gradients, rates=None, w=0.0, table=True):
    """One element of a table, or of a dense layer, after some steps."""
    weights = {"w": np.array([w])}
    state = optimizer.init_state(weights)
    for t, g in enumerate(gradients, 1):
        lr = optimizer.lr if rates is None else rates[t - 1]
        counts = {"w": np.array([1])} if table else {}
        optimizer.step(weights, {"w": np.array([g])}, state, t, lr, counts, 1)
    return float(weights["w"][0])


def test_pytorch_adam_adds_eps_after_the_correction_shared():
    """First step: both moments are corrected to g and g^2, so that it is lr g / (g + eps)."""
    assert moved(minicf.Adam(1.0, eps=1e-4), [1e-4]) == pytest.approx(-0.5)


def test_keras_adam_adds_eps_before_the_correction_ours_only_with_sparse():
    """lr g / (g + eps / sqrt(1 - beta2)) = 1 / (1 + 31.6228)."""
    assert moved(minicf.Adam(1.0, eps=1e-4, sparse=True), [1e-4]) == pytest.approx(-1 / 32.6228, rel=1e-5)


def test_pytorch_momentum_keeps_gradients_shared_keras_keeps_moves():
    """Rates 0.1 then 0.01, mu = 1/2, g = 1: v is 1, then 1.5. Kept as moves: -0.1, then -0.05 - 0.01."""
    assert moved(minicf.SGD(0.1, momentum=0.5), [1.0, 1.0], [0.1, 0.01]) == pytest.approx(-0.115)
    assert -0.1 + (-0.05 - 0.01) == pytest.approx(-0.16)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [("l2", 1 - 0.1 * 0.2 * 1), ("decoupled", 1 - 0.1 * 0.2)],
    ids=["torch.optim.SGD", "AdamW's"],
)
def test_pytorch_weight_decay_shared(decay, expected):
    assert moved(minicf.SGD(0.1, weight_decay=0.2, decay=decay), [0.0], w=1.0) == pytest.approx(expected)


def test_adam_with_l2_normalizes_the_decay_and_adamw_does_not_shared():
    """g = 0: all of Adam's gradient is the decay, so that a step is lr; AdamW's is lr lambda w."""
    assert moved(minicf.Adam(0.1, weight_decay=0.2), [0.0], w=1.0) == pytest.approx(0.9)
    assert moved(minicf.Adam(0.1, weight_decay=0.2, decay="decoupled"), [0.0], w=1.0) == pytest.approx(0.98)


def test_keras_l2_is_twice_ours():
    """l2(a) adds a w^2, of slope 2 a w: lambda = 2 a."""
    a, w, lr = 0.3, 2.0, 0.1
    assert moved(minicf.SGD(lr, weight_decay=2 * a), [0.0], w=w) == pytest.approx(w - lr * 2 * a * w)


def test_adagrad_adds_eps_outside_the_root_as_pytorch_keras_inside():
    """g = 1, eps = 3: 1 / (1 + 3) and not 1 / sqrt(1 + 3)."""
    assert moved(minicf.AdaGrad(1.0, eps=3.0), [1.0]) == pytest.approx(-0.25)
    assert minicf.AdaGrad().initial == 0.0, "Keras starts from 0.1"


def test_rmsprop_adds_eps_outside_the_root_as_pytorch_keras_inside():
    """v = (1 - 3/4) 4 = 1, eps = 3."""
    assert moved(minicf.RMSProp(1.0, alpha=0.75, eps=3.0), [2.0]) == pytest.approx(-2.0 / 4.0)
    assert minicf.RMSProp().alpha == 0.99, "Keras forgets faster, at 0.9"


def test_surprise_svd_step_shared_with_half_the_rate_and_twice_the_decay():
    """p = 1, q = 2, rating 5, error 3: both sides move from the values before, p by 0.1 (3 q - 0.02 p)."""
    start = {"user_factors": np.array([[1.0]]), "item_factors": np.array([[2.0]])}
    optimizer = minicf.SGD(0.1 / 2, weight_decay=2 * 0.02, decay="per_rating")
    trainer = minicf.Trainer(
        minicf.Dot(1), optimizer, batch_size=1, backend="numpy", dtype="float64", weights=start
    )  # fmt: skip
    trainer.fit(minicf.Ratings(np.array([0]), np.array([0]), np.array([5.0]), 1, 1), progress=False)
    assert trainer.weights["user_factors"][0, 0] == pytest.approx(1.598)
    assert trainer.weights["item_factors"][0, 0] == pytest.approx(2.296)


def test_keras_piecewise_keeps_a_value_through_the_boundary_ours_and_pytorchs_end_before_it():
    assert minicf.Piecewise((1,), (1.0, 0.5)).factor(np.array([0.9, 1.0])).tolist() == [1.0, 0.5]
