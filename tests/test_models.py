"""Models from outside: shapes, counts, initial values, argument errors, and as plain data."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minicf import models, registry
from minicf.data import Batch
from minicf.losses import SquaredError
from minicf.models import Dot, DotBias, Hybrid, Net
from minicf.registry import to_config
from minicf.solvers import loss_and_gradients
from tests.cases import ALL_MODELS, BAGGED, FOR_LISTS, MODELS

USERS, ITEMS = 671, 9066


def deep_net() -> Net:
    return Net(50, hidden=(100, 100, 50), dropout=(0.0, 0.5, 0.6, 0.7))


def hybrid() -> Hybrid:
    return Hybrid({"net": (Net(50, hidden=(), dropout=0.0), 0.2), "dot": (DotBias(50), 1.0)})


# --- shapes and counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "count"),
    [
        pytest.param(deep_net(), 512_151, id="deep net"),
        pytest.param(DotBias(10), 107_107, id="DotBias 10"),
        pytest.param(hybrid(), 496_688, id="hybrid"),
        pytest.param(DotBias(50), 496_587, id="DotBias 50"),
        pytest.param(Net(50, hidden=(100,), dropout=0.0), 497_051, id="net head of the pre-trained model"),
    ],
)
def test_the_lessons_parameter_counts(model, count, capsys):
    table = model.summary(USERS, ITEMS)
    assert table.parameters.sum() == count
    assert f"{count:,}" in capsys.readouterr().out
    assert sum(w.size for w in model.init_weights(USERS, ITEMS).values()) == count


def test_summary_lists_every_weight_once(capsys):
    table = hybrid().summary(3, 4)
    assert table.columns.tolist() == ["weight", "shape", "parameters"]
    rows = [tuple(row) for row in table.itertuples(index=False)]
    assert rows == [
        ("user_factors", (3, 50), 150),
        ("item_factors", (4, 50), 200),
        ("net.output.weight", (100, 1), 100),
        ("net.output.bias", (1,), 1),
        ("user_bias", (3,), 3),
        ("item_bias", (4,), 4),
    ]
    printed = capsys.readouterr().out
    assert "3 users, 4 items" in printed
    assert all(name in printed and str(shape) in printed for name, shape, _ in rows)
    assert "458" in printed


@pytest.mark.parametrize(("n_users", "n_items", "name"), [(0, 1, "n_users"), (1, -1, "n_items"), (1.5, 1, "n_users")])
def test_summary_refuses_impossible_sizes(n_users, n_items, name):
    with pytest.raises(ValueError, match=name):
        Dot(2).summary(n_users, n_items)


def test_one_user_and_one_item_are_enough(capsys):
    assert DotBias(2).summary(1, 1).parameters.sum() == 6
    assert "1 users, 1 items" in capsys.readouterr().out


def test_shapes_by_name():
    assert Dot(5).shapes(2, 3) == {"user_factors": (2, 5), "item_factors": (3, 5)}
    assert DotBias(5).shapes(2, 3) == Dot(5).shapes(2, 3) | {"user_bias": (2,), "item_bias": (3,)}
    assert Net(5, hidden=(7, 4), dropout=0.1).shapes(2, 3) == Dot(5).shapes(2, 3) | {
        "hidden.0.weight": (10, 7),
        "hidden.0.bias": (7,),
        "hidden.1.weight": (7, 4),
        "hidden.1.bias": (4,),
        "output.weight": (4, 1),
        "output.bias": (1,),
    }


@pytest.mark.parametrize("model", ALL_MODELS.values(), ids=ALL_MODELS)
def test_every_pass_has_the_shapes_it_says(model):
    weights = model.init_weights(6, 5, seed=1)
    assert {name: w.shape for name, w in weights.items()} == model.shapes(6, 5)
    user, item = np.array([0, 5, 0, 2]), np.array([4, 4, 4, 0])
    rating = np.array([1.0, 2.0, 3.0, 4.0])
    before = {name: w.copy() for name, w in weights.items()}
    masks = model.dropout_masks(0, 1, 4, "float64")
    losses, grads = loss_and_gradients(model, SquaredError(), weights, Batch(user, item, rating), masks)
    assert len(losses) == len(model.heads) == len(model.head_weights)
    assert {name: g.shape for name, g in grads.items()} == model.shapes(6, 5)
    y = model.predict(weights, Batch(user, item))
    assert y.shape == (4,)
    assert y[0] == y[2]  # the same pair
    for name, w in weights.items():
        assert (w == before[name]).all()


@pytest.mark.parametrize("model", ALL_MODELS.values(), ids=ALL_MODELS)
def test_float32_weights_give_float32_predictions_and_gradients(model):
    weights = {name: w.astype(np.float32) for name, w in model.init_weights(6, 5).items()}
    index, rating = np.array([0, 1, 1]), np.array([1, 2, 3], np.float32)
    masks = model.dropout_masks(0, 1, 3, "float32")
    _, grads = loss_and_gradients(model, SquaredError(), weights, Batch(index, index, rating), masks)
    assert model.predict(weights, Batch(index, index)).dtype == np.float32
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}


def test_a_numpy_mean_leaves_float32_alone_and_can_be_saved():
    for mean in (np.float64(3.5), np.float32(3.5), np.array(3.5), 3.5):
        model = DotBias(2, global_mean=mean)
        weights = {name: w.astype(np.float32) for name, w in model.init_weights(2, 2).items()}
        assert model.predict(weights, Batch(np.array([0]), np.array([1]))).dtype == np.float32
        assert json.loads(json.dumps(to_config(model)))["global_mean"] == 3.5


# --- predictions by hand ------------------------------------------------------------------------------------------


def test_dot_and_bias_by_hand():
    w = {
        "user_factors": np.array([[1.0, 2.0], [0.0, 3.0]]),
        "item_factors": np.array([[0.5, 1.0]]),
        "user_bias": np.array([0.1, -0.2]),
        "item_bias": np.array([0.4]),
    }
    user, item = np.array([0, 1]), np.array([0, 0])
    assert Dot(2).predict(w, Batch(user, item)) == pytest.approx([2.5, 3.0])
    assert Dot(2, global_mean=1.5).predict(w, Batch(user, item)) == pytest.approx([4.0, 4.5])
    assert DotBias(2).predict(w, Batch(user, item)) == pytest.approx([3.0, 3.2])
    squeezed = 0.5 + 4.5 / (1 + np.exp([-3.0, -3.2]))
    assert DotBias(2, rating_range=(0.5, 5)).predict(w, Batch(user, item)) == pytest.approx(squeezed)


def test_net_by_hand():
    w = {
        "user_factors": np.array([[1.0]]),
        "item_factors": np.array([[2.0]]),
        "hidden.0.weight": np.array([[1.0, -1.0], [1.0, 0.25]]),
        "hidden.0.bias": np.array([0.5, 0.25]),
        "output.weight": np.array([[2.0], [100.0]]),
        "output.bias": np.array([0.125]),
    }
    zero = np.array([0])
    # a = [1 + 2 + 0.5, -1 + 0.5 + 0.25] = [3.5, -0.25]; relu cuts the second off.
    assert Net(1, hidden=(2,), dropout=0.0).predict(w, Batch(zero, zero)) == pytest.approx([7.125])
    masks = (np.array([[2.0, 0.0]]), np.array([[0.0, 4.0]]))
    y, _ = Net(1, hidden=(2,), dropout=0.5).forward(w, Batch(zero, zero), masks)
    # x = [2, 0]; a = [2.5, -1.75]; the first is dropped, the second is cut off.
    assert y == pytest.approx([0.125])


def test_predictions_stay_in_the_range_however_large_the_scores():
    for scale in (1.0, 1e3, 1e30):
        w = {name: scale * value for name, value in Dot(3).init_weights(4, 4).items()}
        y = Dot(3, rating_range=(0.5, 5.0)).predict(w, Batch(np.arange(4), np.arange(4)))
        assert ((y >= 0.5) & (y <= 5.0)).all()


def test_hybrid_predicts_with_the_heaviest_head_or_the_one_named():
    heads = {"net": (Net(2, hidden=(3,), dropout=0.0), 0.2), "dot": (DotBias(2), 1.0)}
    model = Hybrid(heads)
    w = model.init_weights(3, 4)
    user, item = np.array([0, 2]), np.array([3, 1])
    own = {name.removeprefix("net."): value for name, value in w.items()}
    net, dot = heads["net"][0].predict(own, Batch(user, item)), DotBias(2).predict(w, Batch(user, item))
    assert model.output == "dot"
    assert (model.predict(w, Batch(user, item)) == dot).all()
    assert (model.predict(w, Batch(user, item), "net") == net).all()
    assert not (net == dot).any()
    assert (Hybrid(heads, output="net").predict(w, Batch(user, item)) == net).all()
    with pytest.raises(ValueError, match="head is 'x'"):
        model.predict(w, Batch(user, item), "x")


def test_hybrid_output_is_the_last_of_equals():
    assert Hybrid({"a": (Dot(2), 1.0), "b": (Dot(2), 1.0), "c": (Dot(2), 0.5)}).output == "b"


def test_hybrid_heads_with_like_beginnings_keep_their_layers_apart():
    model = Hybrid({"net": (Net(2, hidden=(), dropout=0.0), 1.0), "net2": (Net(2, hidden=(), dropout=0.0), 0.5)})
    w = model.init_weights(3, 3)
    w["net2.output.bias"] = w["net2.output.bias"] + 10
    one = np.array([1])
    assert model.predict(w, Batch(one, one), "net2") > 8 > model.predict(w, Batch(one, one), "net")


def test_hybrid_gradient_is_the_weighted_sum_of_its_heads():
    user, item, rating = np.array([0, 1, 1]), np.array([2, 0, 2]), np.array([1.0, 2.0, 5.0])
    model = Hybrid({"dot": (Dot(2), 0.3), "bias": (DotBias(2), 2.0)})
    w = model.init_weights(3, 3)
    batch = Batch(user, item, rating)
    losses, grads = loss_and_gradients(model, SquaredError(), w, batch)
    (one,), g_one = loss_and_gradients(Dot(2), SquaredError(), w, batch)
    (two,), g_two = loss_and_gradients(DotBias(2), SquaredError(), w, batch)
    assert losses.tolist() == [one, two]
    for table in ("user_factors", "item_factors"):
        assert grads[table] == pytest.approx(0.3 * g_one[table] + 2.0 * g_two[table], rel=1e-12)
    assert grads["user_bias"] == pytest.approx(2.0 * g_two["user_bias"], rel=1e-12)
    assert model.head_weights == (0.3, 2.0)


# --- how weights start --------------------------------------------------------------------------------------------


def test_tables_start_uniform_in_their_range():
    w = DotBias(20, init=("uniform", -0.01, 0.03)).init_weights(100, 200)
    for name, value in w.items():
        assert value.dtype == np.float64
        assert -0.01 <= value.min() < -0.01 + 0.04 * 0.1, name
        assert 0.03 - 0.04 * 0.1 < value.max() <= 0.03, name
    assert w["user_factors"].mean() == pytest.approx(0.01, abs=5 * 0.04 / np.sqrt(12 * 2000))


def test_tables_start_normal():
    w = DotBias(20, init=("normal", 1.0, 0.1)).init_weights(100, 200)["item_factors"]
    assert w.mean() == pytest.approx(1.0, abs=5 * 0.1 / np.sqrt(4000))
    assert w.std() == pytest.approx(0.1, abs=5 * 0.1 / np.sqrt(8000))


@pytest.mark.parametrize("init", [("uniform", 0.1, 0.1), ("normal", 0.1, 0.0)])
def test_tables_may_start_all_the_same(init):
    w = DotBias(2, init=init).init_weights(3, 4)
    assert all((value == 0.1).all() for value in w.values())


def test_default_init_is_a_hundredth():
    w = Dot(50).init_weights(50, 50)["user_factors"]
    assert 0.0099 < np.abs(w).max() <= 0.01


def test_glorot_layers():
    w = Net(50, hidden=(70,), dropout=0.0).init_weights(3, 3)
    for name, bound in (("hidden.0", np.sqrt(6 / 170)), ("output", np.sqrt(6 / 71))):
        largest = np.abs(w[f"{name}.weight"]).max()
        assert 0.9 * bound < largest <= bound, name
        assert (w[f"{name}.bias"] == 0).all()


def test_torch_layers():
    w = Net(50, hidden=(70,), dropout=0.0, dense_init="torch").init_weights(3, 3)
    for name, bound in (("hidden.0", np.sqrt(1 / 100)), ("output", np.sqrt(1 / 70))):
        largest = np.abs(w[f"{name}.weight"]).max()
        assert 0.9 * bound < largest <= bound, name
        bias = np.abs(w[f"{name}.bias"])
        assert ((bias > 0) & (bias <= bound)).all()


def test_dense_layers_of_a_hybrid_follow_their_own_head():
    layers = {"dropout": 0.0, "hidden": (9,)}
    w = Hybrid(
        {
            "glorot": (Net(5, **layers), 1.0),
            "torch": (Net(5, **layers, dense_init="torch"), 1.0),
        }
    ).init_weights(3, 3)
    assert (w["glorot.hidden.0.bias"] == 0).all()
    assert (w["torch.hidden.0.bias"] != 0).all()
    assert np.abs(w["torch.hidden.0.weight"]).max() <= np.sqrt(1 / 10) < np.abs(w["glorot.hidden.0.weight"]).max()


def test_init_follows_the_seed_and_no_two_weights_are_alike():
    model = Net(5, hidden=(10,), dropout=0.0, dense_init="torch")
    first, again, other = (model.init_weights(10, 10, seed) for seed in (3, 3, 4))
    for name in first:
        assert (first[name] == again[name]).all()
        assert not (first[name] == other[name]).any()
    assert not (first["user_factors"] == first["item_factors"]).any()


# --- dropout ------------------------------------------------------------------------------------------------------


def test_masks_of_a_net():
    model = Net(3, hidden=(4, 6), dropout=(0.5, 0.0, 0.25))
    first, second, third = model.dropout_masks(0, 1, 200, "float32")
    assert first.shape == (200, 6)
    assert second is None
    assert third.shape == (200, 6)
    assert not ((first == 0) == (third == 0)).all()  # layers have streams of their own
    assert set(np.unique(third)) == {np.float32(0), np.float32(1 / 0.75)}
    assert DotBias(3).dropout_masks(0, 1, 200, "float32") is None


def test_heads_of_a_hybrid_drop_independently():
    net = Net(3, hidden=(), dropout=0.5)
    masks = Hybrid({"a": (net, 1.0), "dot": (Dot(3), 1.0), "b": (net, 1.0)}).dropout_masks(0, 1, 100, "float64")
    assert set(masks) == {"a", "b"}
    assert 0.3 < (masks["a"][0] != masks["b"][0]).mean() < 0.7


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Dot(0), "n_factors is 0"),
        (lambda: Dot(2.0), "n_factors is 2.0"),
        (lambda: Dot(True), "n_factors is True"),
        (lambda: Dot("5"), "n_factors is '5'"),
        (lambda: Dot(2, init="uniform"), "init is 'uniform'"),
        (lambda: Dot(2, init=("uniform", 1)), "init is"),
        (lambda: Dot(2, init=("uniform", 1, 0)), "low must not exceed high"),
        (lambda: Dot(2, init=("uniform", 0, np.inf)), "init is"),
        (lambda: Dot(2, init=("normal", 0, -1)), "std must not be negative"),
        (lambda: Dot(2, init=("cauchy", 0, 1)), "init is"),
        (lambda: Dot(2, init=("normal", "x", 1)), "init is"),
        (lambda: Dot(2, rating_range=(5, 0.5)), "low must be below high"),
        (lambda: Dot(2, rating_range=(1, 1)), "low must be below high"),
        (lambda: Dot(2, rating_range=5), "rating_range is 5"),
        (lambda: Dot(2, rating_range=(0, np.nan)), "finite"),
        (lambda: Dot(2, rating_range=(0, 1, 2)), "rating_range is"),
        (lambda: DotBias(2, global_mean=np.nan), "global_mean"),
        (lambda: DotBias(2, global_mean="x"), "global_mean is 'x'"),
        (lambda: DotBias(2, global_mean=None), "global_mean is None"),
        (lambda: Net(2, hidden=(0,)), "hidden is 0"),
        (lambda: Net(2, hidden=(2.5,)), "hidden is 2.5"),
        (lambda: Net(2, hidden=True), "hidden is True"),
        (lambda: Net(2, hidden=None), "hidden is None"),
        (lambda: Net(2, hidden=(5, 5), dropout=(0.1, 0.2)), "give 3"),
        (lambda: Net(2, hidden=(), dropout=()), "give 1"),
        (lambda: Net(2, hidden=(5,), dropout=(0.1, 1.0)), "below 1"),
        (lambda: Net(2, hidden=(5,), dropout=-0.1), "below 1"),
        (lambda: Net(2, hidden=(5,), dropout=np.nan), "below 1"),
        (lambda: Net(2, hidden=(5,), dropout="half"), "dropout is 'half'"),
        (lambda: Net(2, hidden=(5,), dropout=None), "dropout is None"),
        (lambda: Net(2, dense_init="he"), "dense_init is 'he'"),
        (lambda: Hybrid({}), "at least one head"),
        (lambda: Hybrid({"a": Dot(2)}), r"must be \(model, weight\)"),
        (lambda: Hybrid({"a": (Dot(2), "x")}), r"must be \(model, weight\)"),
        (lambda: Hybrid({"a": (Dot(2), -1.0)}), "not negative"),
        (lambda: Hybrid({"a": (Dot(2), np.inf)}), "finite"),
        (lambda: Hybrid({"a": ("Dot", 1.0)}), "must be a model with one output"),
        (lambda: Hybrid({"a": (Hybrid({"b": (Dot(2), 1.0)}), 1.0)}), "must be a model with one output"),
        (lambda: Hybrid({"": (Dot(2), 1.0)}), "name is a text, not empty"),
        (lambda: Hybrid({"a.b": (Dot(2), 1.0)}), "name"),
        (lambda: Hybrid({"a/b": (Dot(2), 1.0)}), "name"),
        (lambda: Hybrid({3: (Dot(2), 1.0)}), "head 3"),
        (lambda: Hybrid({"a": (Dot(2), 1.0), "b": (Dot(3), 1.0)}), "n_factors and init must be the same"),
        (
            lambda: Hybrid({"a": (Dot(2), 1.0), "b": (Dot(2, init=("normal", 0, 1)), 1.0)}),
            "n_factors and init must be the same",
        ),
        (lambda: Hybrid({"a": (Dot(2), 1.0)}, output="b"), "output is 'b'"),
    ],
)
def test_bad_arguments_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_arguments_are_brought_into_one_form():
    net = Net(np.int64(4), hidden=[8], dropout=[0.1, 0.2], rating_range=[0, 5], init=["uniform", -1, 1])
    assert net == Net(4, hidden=(8,), dropout=(0.1, 0.2), rating_range=(0.0, 5.0), init=("uniform", -1.0, 1.0))
    assert hash(net) == hash(Net(4, hidden=8, dropout=(0.1, 0.2), rating_range=(0, 5), init=("uniform", -1, 1)))
    assert Net(4, hidden=(3, 3), dropout=0.25).dropout == (0.25, 0.25, 0.25)
    assert Net(4, hidden=(3,), dropout=0).dropout == (0.0, 0.0)
    assert Net(4, hidden=np.int64(3), dropout=np.float32(0.5)) == Net(4, hidden=(3,), dropout=0.5)


def test_models_do_not_change_and_are_told_apart():
    model = DotBias(3)
    with pytest.raises(AttributeError):
        model.n_factors = 4
    assert Dot(3) != DotBias(3)
    assert hybrid() == hybrid()
    assert hash(hybrid()) == hash(hybrid())


def test_a_hybrid_keeps_no_hold_on_the_callers_dict():
    heads = {"a": (Dot(2), 1.0)}
    model = Hybrid(heads)
    heads["b"] = (Dot(2), 1.0)
    assert model.heads == ("a",)


# --- as plain data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [*ALL_MODELS.values(), deep_net(), hybrid()], ids=repr)
def test_config_round_trip(model):
    again = registry.from_config(json.loads(json.dumps(to_config(model))), models.Model, "model")
    assert again == model
    assert repr(again) == repr(model)
    assert again.shapes(3, 4) == model.shapes(3, 4)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({}, "unknown model None"),
        ({"kind": "Model"}, "unknown model 'Model'"),
        ({"kind": "Dot", "n_factors": 2, "layers": 3}, r"unknown arguments \['layers'\]"),
        ({"kind": "Dot", "n_factors": 0}, "n_factors is 0"),
    ],
)
def test_foreign_configs_are_refused(config, match):
    with pytest.raises(ValueError, match=match):
        registry.from_config(config, models.Model, "model")


def test_a_bare_model_has_no_passes():
    for call in (
        lambda m: m.shapes(1, 1),
        lambda m: m.forward({}, None),
        lambda m: m.backward({}, None, None),
    ):
        with pytest.raises(NotImplementedError):
            call(models.Model())


def test_every_kind_of_model_is_among_the_cases():
    kinds = {kind for kind in vars(models).values() if isinstance(kind, type) and issubclass(kind, models.Model)}
    assert {type(model) for model in (MODELS | BAGGED | FOR_LISTS).values()} == kinds - {models.Model}


def test_members_of_version_0_1_are_read():
    """It wrote a list of (name, model, weight)."""
    old = {
        "kind": "Hybrid",
        "members": [["net", to_config(Net(2)), 0.2], ["dot", to_config(Dot(2)), 1.0]],
        "output": "dot",
    }
    assert registry.from_config(old, models.Model, "model") == Hybrid({"net": (Net(2), 0.2), "dot": (Dot(2), 1.0)})
