"""Derivatives by hand equal finite differences; and derivatives with a mistake do not.

Every model through `check_gradients`, every pair of `ops.py` on its own, then the checker itself: each entry of
`SABOTAGES` puts one plausible mistake into the derivation, and some model's check has to fail.
"""

from __future__ import annotations

import inspect
import math
import sys

import numpy as np
import pytest

from minicf import checking, losses, ops
from minicf.checking import check_gradients
from minicf.data import Batch
from minicf.losses import Logistic, SquaredError
from minicf.models import Dot, DotBias, Hybrid, Net
from tests import cases
from tests.test_ranking_losses import RANKING

LESSON_MODELS = {
    "bias-50": DotBias(50, rating_range=(0.5, 5.0), global_mean=2.0),
    "deep-50": Net(50, hidden=(100, 100, 50), dropout=(0.1, 0.5, 0.6, 0.7)),
    "hybrid-50": Hybrid({"net": (Net(50, hidden=(), dropout=(0.0,)), 0.2), "dot": (DotBias(50), 1.0)}),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", cases.ALL_MODELS)
def test_every_weight_of_every_model(name, seed):
    model = cases.ALL_MODELS[name]
    report = check_gradients(model, seed=seed, method="full")
    frame = report.frame().set_index("weight")
    assert report.ok, report
    assert (frame.error < 1e-6).all()
    shapes = model.shapes(5, 7)
    seen = (frame.checked + frame.skipped).to_dict()
    assert seen == {weight: np.prod(shape) for weight, shape in shapes.items()}
    if seed == 0:
        assert (frame.largest > 1e-4).all(), "a dead weight proves nothing"


@pytest.mark.parametrize("name", LESSON_MODELS)
def test_models_of_the_lessons_by_projection(name):
    report = check_gradients(LESSON_MODELS[name], n_users=60, n_items=90, batch=64)
    assert report.ok, report
    assert report.method == "project"
    assert report.frame().error.max() < 1e-6
    assert (report.frame().checked + report.frame().skipped == 8).all()


# --- operation by operation ------------------------------------------------------------------------------------------

USER = np.array([3, 0, 3, 1, 3, 0])
ROW, ENTRY = np.array([0, 0, 0, 2, 2, 2]), np.array([0.5, -1.0, 2.0, 0.3, 1.0, 0.7])  # row 1 is empty
MASK = np.array([[0.0, 1.25, 1.25, 0.0], [1.25, 0.0, 1.25, 1.25], [0.0, 1.25, 0.0, 1.25]])


# The forward function of the inputs that have derivatives, the backward function of d_out and these, their shapes.
OPERATIONS = {
    "gather": (
        lambda table: ops.gather(table, USER),
        lambda d, table: (ops.gather_backward(d, USER, table),),
        [(5, 3)],
    ),
    "gather-biases": (
        lambda table: ops.gather(table, USER),
        lambda d, table: (ops.gather_backward(d, USER, table),),
        [(5,)],
    ),
    "bag": (
        lambda table: ops.bag(table, ROW, USER, ENTRY, 3),
        lambda d, table: (ops.bag_backward(d, ROW, USER, ENTRY, table),),
        [(5, 3)],
    ),
    "bag-biases": (
        lambda table: ops.bag(table, ROW, USER, ENTRY, 3),
        lambda d, table: (ops.bag_backward(d, ROW, USER, ENTRY, table),),
        [(5,)],
    ),
    "dot": (ops.dot, ops.dot_backward, [(6, 3), (6, 3)]),
    "unit": (ops.unit, lambda d, x: (ops.unit_backward(d, x),), [(5, 3)]),
    "rating_range": (
        lambda s: ops.rating_range(s, 0.5, 5.0),
        lambda d, s: (ops.rating_range_backward(d, s, 0.5, 5.0),),
        [(6,)],
    ),
    "concat": (ops.concat, lambda d, p, q: ops.concat_backward(d), [(4, 3), (4, 3)]),
    "dropout": (lambda x: ops.dropout(x, MASK), lambda d, x: (ops.dropout_backward(d, MASK),), [(3, 4)]),
    "dropout-none": (lambda x: ops.dropout(x, None), lambda d, x: (ops.dropout_backward(d, None),), [(3, 4)]),
    "dense": (ops.dense, lambda d, x, weight, bias: ops.dense_backward(d, x, weight), [(6, 3), (3, 4), (4,)]),
    "dense-square": (ops.dense, lambda d, x, weight, bias: ops.dense_backward(d, x, weight), [(5, 3), (3, 3), (3,)]),
    "relu": (ops.relu, lambda d, a: (ops.relu_backward(d, a),), [(6, 5)]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation(name):
    """With c a random number for each output, the derivative of sum(c * forward) is what backward makes of c."""
    forward, backward, shapes = OPERATIONS[name]
    random = np.random.default_rng(3)
    inputs = [random.normal(size=shape) for shape in shapes]
    c = random.normal(size=np.shape(forward(*inputs)))
    analytic = backward(c, *inputs)
    assert len(analytic) == len(inputs)
    h = 2.0**-17
    for i, (x, d_x) in enumerate(zip(inputs, analytic, strict=True)):
        assert d_x.shape == x.shape
        numeric = np.empty_like(x)
        for at in np.ndindex(*x.shape):
            around = []
            for sign in (1, -1):
                moved = x.copy()
                moved[at] += sign * h
                around.append((c * forward(*inputs[:i], moved, *inputs[i + 1 :])).sum())
            numeric[at] = (around[0] - around[1]) / (2 * h)
        # Rounding is eps |f| / h, about 1e-10 of numbers around 1; no relu input is within h of 0.
        assert cases.distance(d_x, numeric) < 1e-8


def test_no_operation_escapes():
    pairs = {name.removesuffix("_backward") for name, _ in inspect.getmembers(ops) if name.endswith("_backward")}
    assert pairs == {name.split("-")[0] for name in OPERATIONS}


LOSSES = {"squared": (SquaredError(), [1.0, 4.5, 3.0, 5.0]), "logistic": (Logistic(), [1.0, 0.0, 0.3, 1.0])}


@pytest.mark.parametrize("weight", [None, np.array([1.0, 0.5, 2.0, 0.0])], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name, weight):
    """The slope is the derivative of the value, for one head and for several; weights multiply both."""
    loss, target = LOSSES[name]
    batch = Batch(USER[:4], USER[:4], np.array(target), weight)
    h = 2.0**-17
    for y in (np.array([0.3, -1.2, 2.0, 4.0]), np.array([[0.3, -1.2, 2.0, 4.0], [1.0, 0.0, -3.0, 0.7]])):
        value, slope = loss(y, batch)
        assert value.shape == slope.shape == y.shape
        assert cases.distance(slope, (loss(y + h, batch)[0] - loss(y - h, batch)[0]) / (2 * h)) < 1e-8
        plain = loss(y, batch._replace(weight=None))[0]
        np.testing.assert_array_equal(value, plain if weight is None else weight * plain)
        assert loss.measures(y[..., :1].reshape(-1)[:1], batch.target[:1])[loss.metric] == plain.reshape(-1)[0]


def test_losses_by_hand():
    """(F9) (3 - 5)^2; (F11) log(1 + exp(2)) - 0.25 * 2, and sigmoid(2) - 0.25."""
    one = Batch(None, None, np.array([5.0]))
    assert [float(x[0]) for x in SquaredError()(np.array([3.0]), one)] == [4.0, -4.0]
    value, slope = Logistic()(np.array([2.0]), one._replace(target=np.array([0.25])))
    assert math.isclose(value[0], math.log(1 + math.exp(2.0)) - 0.5, rel_tol=1e-15)
    assert math.isclose(slope[0], 1 / (1 + math.exp(-2.0)) - 0.25, rel_tol=1e-15)
    assert Logistic().measures(np.array([2.0, -1.0]), np.array([1.0, 1.0]))["accuracy"] == 0.5


def test_no_loss_escapes_and_none_overflows():
    known = {kind for kind in vars(losses).values() if isinstance(kind, type) and issubclass(kind, losses.Loss)}
    with_negatives = {type(loss) for loss in RANKING.values()}  # in tests/test_ranking_losses.py
    assert known - {losses.Loss} == {type(loss) for loss, _ in LOSSES.values()} | with_negatives
    with np.errstate(all="raise", under="ignore"):  # exp(-1e4) is 0, as it should be
        value, slope = Logistic()(np.array([-1e4, 1e4]), Batch(None, None, np.array([1.0, 1.0])))
    assert value.tolist() == [1e4, 0.0]
    assert slope.tolist() == [-1.0, 0.0]


@pytest.mark.parametrize("name", cases.ALL_MODELS)
def test_every_model_with_the_logistic_loss(name):
    report = check_gradients(cases.ALL_MODELS[name], loss=Logistic(), method="full")
    assert report.ok, report


def test_sigmoid_keeps_to_its_definition_and_does_not_overflow():
    s = np.array([-3.0, -0.1, 0.0, 2.0])
    assert cases.distance(ops.sigmoid(s), 1 / (1 + np.exp(-s))) < 1e-15
    with np.errstate(all="raise"):
        assert ops.sigmoid(np.array([-1e4, 1e4])).tolist() == [0.0, 1.0]


def test_relu_at_zero_has_slope_zero():
    """Finite differences leave kinks out: PyTorch's and Keras' choice there has to be said."""
    a = np.array([-1.0, 0.0, -0.0, 1.0])
    np.testing.assert_array_equal(ops.relu_backward(np.full(4, 3.0), a), [0.0, 0.0, 0.0, 3.0])


def test_operations_follow_the_module_of_their_array(monkeypatch):
    kind = type("ndarray", (), {"__module__": "elsewhere._core.core"})
    monkeypatch.setitem(sys.modules, "elsewhere", math)
    monkeypatch.setitem(sys.modules, "elsewhere._core.core", inspect)
    assert ops.namespace(kind()) is math
    assert ops.namespace(np.zeros(2)) is np


# --- sabotages -------------------------------------------------------------------------------------------------------


def collect(add, *, sign=1.0, divide=False):
    """`ops.gather_backward` with another way to collect rows."""

    def wrong(d_rows, index, table):
        d_table = np.zeros_like(table)
        add(d_table, index, sign * d_rows)
        if divide:
            times = np.maximum(np.bincount(index, minlength=len(table)), 1)
            d_table /= times[:, None] if table.ndim == 2 else times
        return d_table

    return wrong


def keep_last(d_table, index, d_rows):
    d_table[index] = d_rows


def keep_first(d_table, index, d_rows):
    _, first = np.unique(index, return_index=True)
    d_table[index[first]] = d_rows[first]


def shifted(d_table, index, d_rows):
    np.add.at(d_table, (index + 1) % len(d_table), d_rows)


def dense_wrong(*, transposed=False, bias=lambda d: d.sum(axis=0), d_weight=lambda d, x: x.T @ d):
    def wrong(d_a, x, weight):
        square = weight.shape[0] == weight.shape[1]
        return d_a @ (weight if transposed and square else weight.T), d_weight(d_a, x), bias(d_a)

    return wrong


right = {
    (target, name): getattr(target, name)
    for target, name in [
        (Dot, "backward"), (Net, "forward"), (Net, "backward"), (Hybrid, "backward"), (checking, "loss_and_gradients"),
        (Net, "_finish_backward"),
    ]
}  # fmt: skip


def renamed(names):
    """Gradients under the wrong names."""

    def wrong(self, w, cache, d_y):
        grads = right[Dot, "backward"](self, w, cache, d_y)
        return {names.get(name, name): value for name, value in grads.items()}

    return wrong


def without(name):
    def wrong(self, w, cache, d_y):
        grads = right[Dot, "backward"](self, w, cache, d_y)
        grads.pop(name, None)
        return grads

    return wrong


def forward_remembering(change):
    """`Net.forward` that remembers something else for the way back: change(inputs, activations, masks)."""

    def wrong(self, w, batch, masks=None):
        y, (batch, inputs, activations, masks, s) = right[Net, "forward"](self, w, batch, masks)
        return y, (batch, *change(inputs, activations, masks), s)

    return wrong


def heads_weighted(choose):
    """`loss_and_gradients` with other weights for the heads of a hybrid: choose(weights)."""

    def wrong(model, loss, w, batch, masks=None):
        y, caches = model.forward(w, batch, masks)
        value, slope = loss(y, batch)
        if len(model.heads) > 1:
            slope = np.array(choose(list(model.head_weights)))[:, None] * slope
        return value.mean(axis=-1).reshape(-1), model.backward(w, caches, slope / batch.size)

    return wrong


def sloped(slope):
    """`SquaredError.value_and_slope` with another slope."""
    return lambda self, y, r: ((y - r) ** 2, slope(y, r))


def averaged(factor):
    """`loss_and_gradients` whose derivatives are off by a factor: factor(B)."""

    def wrong(model, loss, w, batch, masks=None):
        found, grads = right[checking, "loss_and_gradients"](model, loss, w, batch, masks)
        return found, {name: factor(batch.size) * g for name, g in grads.items()}

    return wrong


def hybrid_backward(merge):
    """`Hybrid.backward` with another way to merge the heads' gradients of shared tables: merge(old, new)."""

    def wrong(self, w, cache, d_y):
        grads = {}
        for row, (name, (head, _)) in enumerate(self.members.items()):
            full = self.names(name)
            for key, d_w in head.backward(self.weights_of(name, w), cache[name], d_y[row]).items():
                grads[full[key]] = merge(grads[full[key]], d_w) if full[key] in grads else d_w
        return grads

    return wrong


def finish_backward(change):
    return lambda self, d_y, s: change(right[Net, "_finish_backward"](self, d_y, s), d_y, s)


SWAP = {"user_factors": "item_factors", "item_factors": "user_factors"}
SWAP_BIASES = {"user_bias": "item_bias", "item_bias": "user_bias"}

SABOTAGES = {
    "gather: sign": (ops, "gather_backward", collect(np.add.at, sign=-1.0)),
    "gather: repeats not accumulated, last kept": (ops, "gather_backward", collect(keep_last)),
    "gather: repeats not accumulated, first kept": (ops, "gather_backward", collect(keep_first)),
    "gather: repeats averaged": (ops, "gather_backward", collect(np.add.at, divide=True)),
    "gather: off by one row": (ops, "gather_backward", collect(shifted)),
    "dot: sign": (ops, "dot_backward", lambda d, p, q: (-d[:, None] * q, -d[:, None] * p)),
    "dot: sign of one side": (ops, "dot_backward", lambda d, p, q: (d[:, None] * q, -d[:, None] * p)),
    "dot: factor 2": (ops, "dot_backward", lambda d, p, q: (2 * d[:, None] * q, 2 * d[:, None] * p)),
    "dot: 1 % too large": (ops, "dot_backward", lambda d, p, q: (1.01 * d[:, None] * q, d[:, None] * p)),
    "dot: missing term": (ops, "dot_backward", lambda d, p, q: (d[:, None] * q, 0 * p)),
    "dot: user and item swapped": (ops, "dot_backward", lambda d, p, q: (d[:, None] * p, d[:, None] * q)),
    "dot: last factor forgotten": (
        ops, "dot_backward",
        lambda d, p, q: (d[:, None] * q * (np.arange(q.shape[1]) < max(q.shape[1] - 1, 1)), d[:, None] * p)),
    "range: without (hi - lo)": (
        ops, "rating_range_backward", lambda d, s, low, high: d * ops.sigmoid(s) * (1 - ops.sigmoid(s))),
    "range: without (1 - g)": (
        ops, "rating_range_backward", lambda d, s, low, high: d * (high - low) * ops.sigmoid(s)),
    "range: slope at y instead of s": (
        ops, "rating_range_backward",
        lambda d, s, low, high: d * (high - low) * (g := ops.sigmoid(ops.rating_range(s, low, high))) * (1 - g)),
    "range: hi instead of (hi - lo)": (
        ops, "rating_range_backward",
        lambda d, s, low, high: d * high * ops.sigmoid(s) * (1 - ops.sigmoid(s))),
    "range: skipped": (Net, "_finish_backward", finish_backward(lambda right, d_y, s: d_y)),
    "concat: halves swapped": (
        ops, "concat_backward", lambda d: (d[:, d.shape[1] // 2 :], d[:, : d.shape[1] // 2])),
    "concat: first half for both": (
        ops, "concat_backward", lambda d: (d[:, : d.shape[1] // 2], d[:, : d.shape[1] // 2])),
    "dropout: mask forgotten backward": (ops, "dropout_backward", lambda d, mask: d),
    "dropout: mask forgotten forward": (ops, "dropout", lambda x, mask: x),
    "dropout: 1 / (1 - rate) forgotten backward": (
        ops, "dropout_backward", lambda d, mask: d if mask is None else d * (mask > 0)),
    "dropout: dropped units' share backward": (
        ops, "dropout_backward", lambda d, mask: d if mask is None else d * (mask.max() - mask)),
    "dense: weight not transposed": (ops, "dense_backward", dense_wrong(transposed=True)),
    "dense: gradient of a square weight transposed": (
        ops, "dense_backward",
        dense_wrong(d_weight=lambda d, x: d.T @ x if x.shape[1] == d.shape[1] else x.T @ d)),
    "dense: bias averaged over the batch": (ops, "dense_backward", dense_wrong(bias=lambda d: d.mean(axis=0))),
    "dense: bias forgotten": (ops, "dense_backward", dense_wrong(bias=lambda d: 0 * d[0])),
    "dense: weight averaged over the batch": (
        ops, "dense_backward", dense_wrong(d_weight=lambda d, x: x.T @ d / len(x))),
    "relu: slope 1 everywhere": (ops, "relu_backward", lambda d, a: d),
    "relu: slope by the wrong tensor": (ops, "relu_backward", lambda d, a: d * (d > 0)),
    "relu: the other side": (ops, "relu_backward", lambda d, a: d * (a < 0)),
    "relu: leaky": (ops, "relu_backward", lambda d, a: d * np.where(a > 0, 1.0, 0.01)),
    "loss: sign": (SquaredError, "value_and_slope", sloped(lambda y, r: 2.0 * (r - y))),
    "loss: missing 2": (SquaredError, "value_and_slope", sloped(lambda y, r: y - r)),
    "loss: missing 1/B": (checking, "loss_and_gradients", averaged(lambda size: size)),
    "loss: absolute error's": (SquaredError, "value_and_slope", sloped(lambda y, r: np.sign(y - r))),
    "tables: user and item swapped": (Dot, "backward", renamed(SWAP)),
    "biases: user and item swapped": (Dot, "backward", renamed(SWAP_BIASES)),
    "biases: gradient missing": (Dot, "backward", without("user_bias")),
    "factors: gradient missing": (Dot, "backward", without("item_factors")),
    "net: inputs of layers remembered before dropout": (
        Net, "forward", forward_remembering(
            lambda inputs, a, masks: ([inputs[0], *(ops.relu(x) for x in a)], a, masks))),
    "net: hidden masks forgotten backward": (
        Net, "forward", forward_remembering(
            lambda inputs, a, masks: (inputs, a, (masks[0], *(None for _ in masks[1:]))))),
    "net: input mask forgotten backward": (
        Net, "forward", forward_remembering(lambda inputs, a, masks: (inputs, a, (None, *masks[1:])))),
    "hybrid: heads unweighted": (checking, "loss_and_gradients", heads_weighted(lambda weights: [1.0] * len(weights))),
    "hybrid: heads' weights swapped": (checking, "loss_and_gradients", heads_weighted(lambda weights: weights[::-1])),
    "hybrid: heads averaged": (
        checking, "loss_and_gradients", heads_weighted(lambda weights: [x / len(weights) for x in weights])),
    "hybrid: shared tables overwritten": (Hybrid, "backward", hybrid_backward(lambda old, new: new)),
    "hybrid: shared tables of the first head only": (Hybrid, "backward", hybrid_backward(lambda old, new: old)),
    "hybrid: shared tables averaged": (Hybrid, "backward", hybrid_backward(lambda old, new: (old + new) / 2)),
}  # fmt: skip


def noticed_by() -> str | None:
    """The first model whose check fails. As many users as items, so that no shape gives a swap away."""
    reports = ((name, check_gradients(m, n_users=6, n_items=6, seed=2)) for name, m in cases.ALL_MODELS.items())
    return next((name for name, report in reports if not report.ok), None)


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotage_is_noticed(name, monkeypatch):
    target, attribute, wrong = SABOTAGES[name]
    assert hasattr(target, attribute)
    monkeypatch.setattr(target, attribute, wrong)
    assert noticed_by() is not None


@pytest.mark.parametrize(
    ("target", "attribute", "again"),
    [
        (ops, "gather_backward", collect(np.add.at)),
        (ops, "dense_backward", dense_wrong()),
        (Dot, "backward", renamed({})),
        (Net, "forward", forward_remembering(lambda *remembered: remembered)),
        (Net, "_finish_backward", finish_backward(lambda right, d_y, s: right)),
        (checking, "loss_and_gradients", heads_weighted(lambda weights: weights)),
        (Hybrid, "backward", hybrid_backward(lambda old, new: old + new)),
        (SquaredError, "value_and_slope", sloped(lambda y, r: 2.0 * (y - r))),
        (checking, "loss_and_gradients", averaged(lambda size: 1.0)),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_without_the_mistake_nothing_is_noticed(target, attribute, again, monkeypatch):
    """What the sabotages are made of is right when no mistake is ordered: the mistake is what was noticed."""
    monkeypatch.setattr(target, attribute, again)
    assert noticed_by() is None


@pytest.mark.parametrize("name", [n for n in SABOTAGES if n.split(":")[0] in ("dot", "dense", "loss", "gather")])
def test_sabotage_is_noticed_by_projections(name, monkeypatch):
    target, attribute, wrong = SABOTAGES[name]
    monkeypatch.setattr(target, attribute, wrong)
    found = [check_gradients(cases.ALL_MODELS[m], method="project").ok for m in ("bias", "hybrid", "hybrid-nets")]
    assert not all(found)


# --- the checker -----------------------------------------------------------------------------------------------------


def check_toy(passes, **arguments):
    """Check a model whose pass there and back is replaced."""

    def replaced(model, loss, w, batch, masks=None):
        return passes(w, batch.user, batch.item, right[checking, "loss_and_gradients"](model, loss, w, batch, masks))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "loss_and_gradients", replaced)
        return check_gradients(Dot(3), **arguments)


def changed(**changes):
    return lambda w, user, item, result: (result[0], {**result[1], **changes})


def test_report():
    report = check_gradients(cases.MODELS["hybrid"])
    frame = report.frame()
    assert list(frame.columns) == ["weight", "error", "checked", "skipped", "largest", "problem"]
    assert list(frame.weight) == list(cases.MODELS["hybrid"].shapes(5, 7))
    assert report.error == frame.error.max()
    text = str(report)
    assert "right" in text
    assert all(name in text for name in frame.weight)


@pytest.mark.parametrize(
    ("passes", "problem"),
    [
        (changed(user_factors=np.zeros((7, 3))), "has shape (7, 3), the weight (5, 3)"),
        (changed(user_factors=np.full((5, 3), np.nan)), "not finite"),
        (changed(other=np.zeros(3)), "not a weight of the model"),
        (lambda w, u, i, result: (result[0], {"user_factors": result[1]["user_factors"]}), "no gradient"),
        (lambda w, u, i, result: ([result[0][0] * np.nan], result[1]), "the loss is not finite"),
        (lambda w, u, i, result: ([0.0], {k: v * 1e-300 for k, v in result[1].items()}), "numeric 0, analytic"),
    ],
    ids=["shape", "nan gradient", "extra", "missing", "nan loss", "tiny where 0 is due"],
)
def test_what_is_no_number_fails_too(passes, problem):
    report = check_toy(passes)
    assert not report.ok
    assert problem in str(report)
    assert "WRONG" in str(report)
    assert report.error == np.inf


def test_changed_weights_fail():
    def passes(w, user, item, result):
        w["item_factors"] += 1e-12
        return result

    report = check_toy(passes)
    assert "changed the weight" in report.frame().set_index("weight").problem["item_factors"]


def test_a_head_of_weight_0_must_have_no_gradient_at_all():
    model = Hybrid({"net": (Net(3, hidden=(4,), dropout=0.0), 0.0), "dot": (DotBias(3), 1.0)})
    report = check_gradients(model)
    frame = report.frame().set_index("weight")
    assert report.ok, report
    assert frame.largest["net.output.weight"] == frame.error["net.output.weight"] == 0


def kinked(share):
    """Adds a kink a tenth of a step beside the present value of a share of the first table's elements."""
    start = []

    def passes(w, user, item, result):
        losses, grads = result
        p = w["user_factors"]
        start[:] = start or [p + 0.1 * checking.STEP, np.arange(p.size).reshape(p.shape) < share * p.size]
        return [losses[0] + 5.0 * (ops.relu(p - start[0]) * start[1]).sum()], grads

    return passes


def test_kinks_are_left_out_and_counted():
    report = check_toy(kinked(2.5 / 300), n_users=100)
    check = report.checks[0]
    assert report.ok, report
    assert (check.checked, check.skipped) == (297, 3)


def test_too_many_kinks_fail():
    report = check_toy(kinked(0.1), n_users=100)
    assert "too many kinks (30 of 300)" in str(report)
    assert not report.ok


def test_a_kink_does_not_excuse_another_element():
    def passes(w, user, item, result):
        losses, grads = kink(w, user, item, result)
        wrong = grads["user_factors"].copy()
        wrong[-1, -1] += 1.0
        return losses, grads | {"user_factors": wrong}

    kink = kinked(2.5 / 300)
    report = check_toy(passes, n_users=100)
    assert not report.ok
    assert report.checks[0].skipped == 3


def test_the_batch_repeats_rows_and_leaves_some_out():
    seen = {}

    def passes(w, user, item, result):
        seen.update(user=user, item=item)
        return result

    for seed in range(5):
        assert check_toy(passes, seed=seed).ok
        for index, n in ((seen["user"], 5), (seen["item"], 7)):
            assert len(index) == 12
            assert len(set(index)) <= 2 * n // 3 < n


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_users": 1}, "n_users is 1"),
        ({"n_items": 0}, "n_items is 0"),
        ({"batch": 1}, "batch is 1"),
        ({"directions": 0}, "directions is 0"),
        ({"method": "exact"}, "method is 'exact'"),
        ({"tolerance": 0.0}, "tolerance is 0; it must be above 0"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_gradients(Dot(2), **arguments)
