"""Bags in gradient models: (F15) and (B15), `SVDpp`, the trainer's bags, the order "sides", `Recommender("svd++")`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf import SGD, Adam, Bags, Batch, DotBias, Gradient, Logistic, Ratings, SVDpp, Trainer, files, ops
from minicf.checking import check_gradients
from minicf.data import Features
from minicf.data.bags import BAGS
from minicf.sides import Sides
from minicf.solvers import Part
from tests import cases
from tests.cuda import emulator, standin

RANGE = (0.5, 5.0)
PLAIN = SGD(0.03, weight_decay=0.05, decay="per_rating")


@pytest.fixture(params=["numpy", "numba", "cupy"])
def place(request):
    """The name of a backend that can run here, CUDA's on the emulator."""
    if request.param == "cupy" and emulator.missing():
        pytest.skip(str(emulator.missing()))
    if request.param == "numba":
        cases.backend("numba")
    with standin.emulated() if request.param == "cupy" else nullcontext():
        yield request.param


def table(weighted: bool = False, binary: bool = False, n: int = 150) -> Ratings:
    """Ratings of 20 users and 15 items; the last of each have none."""
    random = np.random.RandomState(4)
    pairs = np.unique(random.randint(0, 19 * 14, n))
    user, item = pairs // 14, pairs % 14
    stars = np.clip(np.round(3 + np.cos(user) + np.sin(item) + 0.3 * random.standard_normal(len(pairs))), 1, 5)
    weight = random.uniform(0, 2, len(pairs)).astype(np.float32) if weighted else None
    values = (stars > 3).astype(float) if binary else stars
    ratings = Ratings(user, item, values, 20, 15)
    return ratings if weight is None else Ratings(user, item, values, 20, 15, weight=weight)


def features(side: str, n: int) -> Features:
    random = np.random.RandomState(7)
    frame = pd.DataFrame(
        {"id": np.arange(n), "y": random.standard_normal(n), "g": ["A|B", "C", "B"] * (n // 3) + ["A"] * (n % 3)}
    )
    return Features.from_frame(frame, "id")[0]


def given(model: SVDpp) -> dict[str, Features]:
    """The features that a model reads, for `table`."""
    return {name: features(BAGS[name], 20 if BAGS[name] == "user" else 15) for name in model.bags if "features" in name}


def trained(model, solver, place="numpy", ratings=None, epochs=3, dtype="float64", **options):
    trainer = Trainer(model, solver, backend=place, dtype=dtype, seed=3, **given(model), **options)
    ratings = table() if ratings is None else ratings
    trainer.fit(ratings, ratings, epochs, minicf.Cosine(), progress=False)
    return trainer


def far(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    assert one.keys() == other.keys()
    return max(cases.distance(one[name], other[name]) for name in one)


# --- bags and their operations ----------------------------------------------------------------------------------------


def test_a_bag_by_hand():
    """Row 0 has entries 0 and 2 with weights 1/sqrt(2), row 1 none, row 2 entry 2 with weight 1."""
    bags = Bags(np.array([0, 2, 2, 3]), np.array([0, 2, 2], np.int32))
    assert bags.row.tolist() == [0, 0, 2]
    np.testing.assert_allclose(bags.weights(), [2**-0.5, 2**-0.5, 1.0])
    y = np.array([[1.0, 2.0], [9.0, 9.0], [3.0, -2.0]])
    x = ops.bag(y, bags.row, bags.index, bags.weights(), 3)
    np.testing.assert_allclose(x, [[4 / 2**0.5, 0], [0, 0], [3, -2]], atol=1e-15)
    d = ops.bag_backward(np.array([[1.0, 0], [5, 5], [0, 1]]), bags.row, bags.index, bags.weights(), y)
    np.testing.assert_allclose(d, [[2**-0.5, 0], [0, 0], [2**-0.5, 1]])


def test_bags_with_weights_are_taken_with_them():
    bags = Bags(np.array([0, 2, 2, 3]), np.array([0, 2, 1], np.int32), "item", np.array([0.5, -2.0, 3.0], np.float32))
    taken = bags.take(np.array([2, -1, 0, 1]))
    assert (taken.start.tolist(), taken.index.tolist(), taken.side) == ([0, 1, 1, 3, 3], [1, 0, 2], "item")
    assert taken.weights("float64").tolist() == [3.0, 0.5, -2.0]
    later = Bags(bags.start[2:], bags.index, "item", bags.weight)  # a slice: starts are not 0
    assert (later.row.tolist(), later.weights().tolist()) == ([0], [3.0])


def test_histories_are_those_of_the_ratings():
    ratings = Ratings([0, 1, 1, 0], [2, 0, 2, 1], [1.0, 2.0, 3.0, 4.0], 3, 3)
    of_users, of_items = Bags.history(ratings, "user"), Bags.history(ratings, "item")
    assert (of_users.start.tolist(), of_users.index.tolist()) == ([0, 2, 4, 4], [1, 2, 0, 2])
    assert (of_items.start.tolist(), of_items.index.tolist()) == ([0, 1, 2, 4], [1, 0, 0, 1])
    assert of_users.read(ratings.user_counts(), 3).tolist() == [2, 2, 4]


@pytest.mark.parametrize("name", cases.BAGGED)
def test_gradients(name):
    report = check_gradients(cases.BAGGED[name], method="full")
    assert report.ok, report
    assert (report.frame().largest > 1e-4).all(), "a dead weight proves nothing"
    assert check_gradients(cases.BAGGED[name], loss=Logistic(), method="project").ok


def unweighted(d_x, row, index, weight, table):
    return right(d_x, row, index, np.ones_like(weight), table)


def by_size(d_x, row, index, weight, table):
    return right(d_x, row, index, weight**2, table)


def last_only(d_x, row, index, weight, table):
    out = np.zeros_like(table)
    out[index] = weight.reshape(-1, *[1] * (table.ndim - 1)) * d_x[row]
    return out


right = ops.bag_backward


@pytest.mark.parametrize("wrong", [unweighted, by_size, last_only])
def test_a_wrong_derivation_is_noticed(wrong, monkeypatch):
    monkeypatch.setattr(ops, "bag_backward", wrong)
    assert not check_gradients(SVDpp(3)).ok


def test_the_checker_refuses_bags_that_nobody_fills():
    class Own(DotBias):
        def parameters(self, sizes):
            return super().parameters(sizes) | {"y": minicf.Parameter((sizes.get("tags", 1), 2), "tags")}

    with pytest.raises(ValueError, match="tags"):
        check_gradients(Own(2))
    with pytest.raises(ValueError, match="tags"):
        Trainer(Own(2), SGD(0.1))


# --- PyTorch ----------------------------------------------------------------------------------------------------------

TORCH = {
    "sgd": (SGD(0.05), lambda torch, p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (
        SGD(0.003, momentum=0.9, weight_decay=0.01),
        lambda torch, p: torch.optim.SGD(p, lr=0.003, momentum=0.9, weight_decay=0.01),
    ),
    "adam": (Adam(0.02), lambda torch, p: torch.optim.Adam(p, lr=0.02)),
}


@pytest.mark.parametrize("optimizer", TORCH)
@pytest.mark.parametrize("name", cases.BAGGED)
def test_training_equals_pytorch(name, optimizer, place):
    """nn.Embedding and nn.EmbeddingBag, whose derivatives are autograd's, after 64 steps in float64."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model, problem = cases.BAGGED[name], cases.Problem(epochs=8)
    ours, make = TORCH[optimizer]
    bags, weights = problem.bags(model), problem.weights(model)
    program = cases.backend(place).compile(model, ours, weights, 0, "float64")
    program.hold(bags)
    modules = {}
    for key, value in weights.items():
        shaped = torch.as_tensor(value.reshape(len(value), -1).copy())
        owner = key.rpartition("_")[0]
        modules[key] = (
            torch.nn.EmbeddingBag(*shaped.shape, mode="sum", _weight=shaped)
            if owner in bags
            else torch.nn.Embedding(*shaped.shape, _weight=shaped)
        )
    optim = make(torch, [p for module in modules.values() for p in module.parameters()])

    def rows(side, kind, index):
        x = modules[f"{side}_{kind}"](torch.as_tensor(index))
        for bag in model.bags_of(side):
            taken = bags[bag].take(index)
            x = x + modules[f"{bag}_{kind}"](
                torch.as_tensor(taken.index.astype(np.int64)), torch.as_tensor(taken.start[:-1]),
                per_sample_weights=torch.as_tensor(taken.weights()),
            )  # fmt: skip
        return x

    user, item, rating = problem.ratings()
    for order in problem.orders():
        cases.train(program, user, item, rating, order, problem.batch, ours.lr)
        for i in range(0, len(order), problem.batch):
            at = order[i : i + problem.batch]
            s = (rows("user", "factors", user[at]) * rows("item", "factors", item[at])).sum(1)
            if model.biases:
                s = s + (rows("user", "bias", user[at]) + rows("item", "bias", item[at]))[:, 0]
            s = s + model.global_mean
            if model.rating_range:
                low, high = model.rating_range
                s = low + (high - low) * torch.sigmoid(s)
            optim.zero_grad()
            ((s - torch.as_tensor(rating[at]).double()) ** 2).mean().backward()
            optim.step()
    found = program.weights()
    theirs = {key: module.weight.detach().numpy().reshape(weights[key].shape) for key, module in modules.items()}
    assert far(found, theirs) < cases.TOLERANCE
    assert far(found, weights) > 1e-2


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases.BAGGED)
def test_collapsed_it_predicts_the_same(name):
    model, problem = cases.BAGGED[name], cases.Problem()
    w, bags = problem.weights(model), problem.bags(model)
    user, item = (x.ravel() for x in np.indices((13, 17)))
    expected = model.predict(w, Batch(user, item, bags=bags))
    plain, tables = model.collapsed(w, bags)
    assert type(plain) is (DotBias if model.biases else minicf.Dot)
    assert {n: x.shape for n, x in tables.items()} == plain.shapes(13, 17)
    np.testing.assert_allclose(plain.predict(tables, Batch(user, item)), expected, rtol=1e-12, atol=1e-12)
    out = np.empty((13, 17), np.float32)
    model.scorer(w, bags)(np.arange(13), out)
    if model.rating_range is None:
        np.testing.assert_allclose(out + model.global_mean, expected.reshape(13, 17), atol=1e-5)  # float32


def test_a_row_with_features_alone_is_predicted_from_them():
    """p = P + F Y by hand: an item without ratings, whose one feature weighs 2."""
    model = SVDpp(1, history=None, features="item", biases=False)
    w = {
        "user_factors": np.array([[3.0]]),
        "item_factors": np.array([[0.5], [0.0]]),
        "item_features_factors": np.array([[0.25]]),
    }
    bags = {"item_features": Bags(np.array([0, 0, 1]), np.array([0], np.int32), "item", np.array([2.0]))}
    assert model.predict(w, Batch(np.zeros(2, int), np.arange(2), bags=bags)).tolist() == [1.5, 1.5]


def test_subclasses_score_by_their_own_predictions():
    class Doubled(SVDpp):
        def forward(self, w, batch, masks=None):
            y, cache = super().forward(w, batch, masks)
            return 2 * y, cache

    problem, model = cases.Problem(), Doubled(3)
    w, bags = problem.weights(model), problem.bags(model)
    own, parent = np.empty((2, 17), np.float32), np.empty((2, 17), np.float32)
    model.scorer(w, bags)(np.arange(2), own)
    SVDpp(3).scorer(w, bags)(np.arange(2), parent)
    np.testing.assert_allclose(own, 2 * parent, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"history": "items"}, "history is 'items'"),
        ({"history": ["user"]}, "history"),
        ({"features": True}, "features is True"),
        ({"history": None}, "without bags is DotBias"),
        ({"biases": 1}, "biases is 1"),
        ({"n_factors": 0}, "n_factors is 0"),
    ],
)
def test_what_a_model_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        SVDpp(**{"n_factors": 3} | arguments)


# --- the trainer's bags -----------------------------------------------------------------------------------------------


def test_validation_and_prediction_go_by_the_bags_of_training(place):
    train = table()
    valid = train.take(np.arange(10))
    trainer = Trainer(SVDpp(3), SGD(0.05), backend=place, dtype="float64", seed=1)
    row = trainer.fit(train, valid, 1, progress=False)[-1]
    by_hand = SVDpp(3).predict(
        trainer.weights,
        Batch(valid.user, valid.item, bags={n: Bags.history(train, BAGS[n]) for n in ("user_history", "item_history")}),
    )
    np.testing.assert_allclose(trainer.predict(valid.user, valid.item), by_hand, rtol=1e-12)
    assert row["valid_mse"] == pytest.approx(((by_hand - valid.rating) ** 2).mean(), rel=1e-12)
    assert trainer.evaluate(valid)["mse"] == row["valid_mse"]
    assert trainer.predict(3, 4) == pytest.approx(trainer.predict([3], [4])[0], rel=1e-12)


def test_the_penalty_counts_every_entry_that_a_rating_reads():
    """The gradient of the penalty at the weights is what weight decay adds to a whole batch: (U2)."""
    model, ratings = SVDpp(2), table()
    opt = SGD(0.0, weight_decay=0.3, decay="per_rating")
    trainer = Trainer(model, opt, backend="numpy", dtype="float64", batch_size=len(ratings), seed=1)
    row = trainer.fit(ratings, epochs=1, progress=False)[-1]
    w, total = trainer.weights, 0.0
    bags = {name: Bags.history(ratings, BAGS[name]) for name in model.bags}
    for u, i in zip(ratings.user, ratings.item, strict=True):
        for name, at in (("user", [u]), ("item", [i]), ("user_history", None), ("item_history", None)):
            rows = at or bags[name].take(np.array([u if name == "user_history" else i])).index
            total += (w[f"{name}_factors"][rows] ** 2).sum() + (w[f"{name}_bias"][rows] ** 2).sum()
    assert row["penalty"] == pytest.approx(0.15 * total / len(ratings), rel=1e-12)


@pytest.mark.parametrize("order", ["batches", "sides"])
@pytest.mark.parametrize("model", [SVDpp(3), SVDpp(4, features="both", rating_range=RANGE)], ids=["history", "all"])
def test_resumed_from_a_file_it_goes_on_to_the_bit(model, order, place, tmp_path):
    ratings, path = table(), tmp_path / "t.npz"
    solver = Gradient(PLAIN, batch_size=1, shuffle="sides") if order == "sides" else Gradient(Adam(0.02), batch_size=16)

    def begun():
        return Trainer(model, solver, backend=place, dtype="float32", seed=3, **given(model))

    whole, first = begun(), begun()
    whole.fit(ratings, ratings, 5, progress=False)
    first.fit(ratings, ratings, 2, progress=False)
    first.save(path)
    second = Trainer.load(path, backend=place)
    assert {name: [x.tolist() for x in bag[:2]] for name, bag in second.bags.items()} == {
        name: [x.tolist() for x in bag[:2]] for name, bag in first.bags.items()
    }
    np.testing.assert_array_equal(second.predict(ratings.user, ratings.item), first.predict(ratings.user, ratings.item))
    second.fit(ratings, ratings, 3, progress=False)
    assert all(np.array_equal(whole.weights[n], x) for n, x in second.weights.items())
    assert whole.history[-1]["valid_mse"] == second.history[-1]["valid_mse"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bags.user_history.start", lambda x: x[:-1]),
        ("bags.user_history.start", lambda x: x.astype(np.int32)),
        ("bags.user_history.index", lambda x: x + 15),
        ("bags.user_history.index", lambda x: x - 1),
        ("bags.item_features.weight", lambda x: x * np.nan),
        ("bags.item_features.weight", lambda x: x[1:]),
        ("bags.other.start", None),
    ],
)
def test_damaged_bags_in_a_file_are_refused(name, change, tmp_path):
    path = tmp_path / "t.npz"
    trained(SVDpp(2, features="item"), Adam(0.01), epochs=1).save(path)
    header, arrays = files.read(path, "checkpoint")
    arrays[name] = change(arrays[name]) if change else np.zeros(3)
    files.write(path, "checkpoint", {k: v for k, v in header.items() if k not in ("kind", "format")}, arrays)
    with pytest.raises(files.FileError, match="bags"):
        Trainer.load(path)


def test_what_a_trainer_says_of_bags_that_it_lacks():
    ratings = table()
    model = SVDpp(2, features="item")
    with pytest.raises(ValueError, match="item_features is None"):
        Trainer(model, SGD(0.1)).fit(ratings)
    with pytest.raises(ValueError, match="item_features has 9 rows, and there are 15 items"):
        Trainer(model, SGD(0.1), item_features=features("item", 9)).fit(ratings)
    with pytest.raises(TypeError, match="item_features is a list"):
        Trainer(model, SGD(0.1), item_features=[1])  # type: ignore[arg-type]
    for other in (SVDpp(2), DotBias(2)):
        with pytest.raises(ValueError, match="does not read it"):
            Trainer(other, SGD(0.1), item_features=features("item", 15))
    start = SVDpp(2).init_weights(20, 15, user_history=15, item_history=20)
    unfilled = Trainer(SVDpp(2), SGD(0.1), weights=start)
    for ask in (lambda: unfilled.predict(0, 0), lambda: unfilled.evaluate(ratings)):
        with pytest.raises(RuntimeError, match="user_history, item_history yet: call fit"):
            ask()
    short = start | {"user_history_factors": np.zeros((9, 2)), "user_history_bias": np.zeros(9)}
    with pytest.raises(ValueError, match="'user_history': 9"):
        Trainer(SVDpp(2), SGD(0.1), weights=short).fit(ratings)


def test_the_rate_finder_leaves_everything_as_it_was():
    trainer = trained(SVDpp(2), Adam(0.01), epochs=1)
    before = trainer.weights
    assert len(trainer.lr_find(table(), steps=5).frame) == 5
    assert far(trainer.weights, before) == 0


# --- the order "sides" ------------------------------------------------------------------------------------------------


def test_each_epoch_goes_once_through_all_ratings_row_by_row():
    ratings = table()
    sides = Sides.of(ratings)
    assert sides is Sides.of(ratings)
    for epoch, side in enumerate(["user", "item", "user", "item"]):
        kind, rows = sides.rows(5, epoch)
        order = sides.order(kind, rows)
        assert kind == side
        assert sorted(order) == list(range(len(ratings)))
        owner = getattr(ratings, side)[order]
        assert (np.repeat(rows, sides.sizes(side, rows)) == owner).all()
    assert sides.rows(5, 0)[1].tolist() != sides.rows(5, 2)[1].tolist() != sides.rows(6, 0)[1].tolist()


SIDED = {
    "history": SVDpp(3, global_mean=3.0),
    "user": SVDpp(16, history="user"),
    "item-range": SVDpp(17, history="item", rating_range=RANGE, features="user"),
    "all": SVDpp(4, features="both"),
    "dot": SVDpp(9, history=None, features="item", biases=False),
}
FACTORS = {"user_factors": 0.5, "item_factors": 2.0}


@pytest.mark.parametrize("rates", [None, FACTORS], ids=["one-rate", "rates-by-name"])
@pytest.mark.parametrize("name", SIDED)
def test_sides_are_batches_of_one_on_every_backend(name, rates, place):
    """(S1), (S2) and the resting tables: the reference is the composed step, rating by rating."""
    solver = Gradient(PLAIN, batch_size=1, shuffle="sides", lr_factors=rates)
    model, ratings = SIDED[name], table()
    found, expected = trained(model, solver, place), trained(model, solver)
    assert far(found.weights, expected.weights) < cases.TOLERANCE
    assert found.history[-1]["train_mse"] == pytest.approx(expected.history[-1]["train_mse"], rel=1e-12)
    assert found.history[-1]["penalty"] == pytest.approx(expected.history[-1]["penalty"], rel=1e-12)
    assert found.program.t == expected.program.t == 3 * len(ratings)
    if place == "numba":
        assert type(found.program).__name__ == "BaggedProgram"


@pytest.mark.parametrize("loss", [minicf.SquaredError(), Logistic()], ids=["squared", "logistic"])
@pytest.mark.parametrize("weighted", [False, True])
def test_sides_with_weights_and_either_loss(loss, weighted):
    cases.backend("numba")
    ratings = table(weighted, binary=type(loss) is Logistic)
    for opt in (SGD(0.05), SGD(0.05, weight_decay={"user_history_factors": 0.2}, sparse=True)):
        solver = Gradient(opt, loss, batch_size=1, shuffle="sides")
        found, expected = (trained(SVDpp(3), solver, where, ratings) for where in ("numba", "numpy"))
        assert far(found.weights, expected.weights) < cases.TOLERANCE


def test_in_an_epoch_of_users_the_bags_of_items_rest(place):
    trainer = Trainer(SVDpp(3), Gradient(PLAIN, batch_size=1, shuffle="sides"), backend=place, seed=3)
    before = SVDpp(3).init_weights(20, 15, 3)
    previous = {name: w.astype(np.float32) for name, w in before.items()}
    for resting, moving in (("item_history", "user_history"), ("user_history", "item_history")):
        trainer.fit(table(), epochs=1, progress=False)
        for kind in ("factors", "bias"):
            np.testing.assert_array_equal(trainer.weights[f"{resting}_{kind}"], previous[f"{resting}_{kind}"])
            assert (trainer.weights[f"{moving}_{kind}"] != previous[f"{moving}_{kind}"]).any()
        previous = trainer.weights


@pytest.mark.parametrize(
    "solver",
    [
        Gradient(replace(PLAIN, momentum=0.9), batch_size=1, shuffle="sides"),
        Gradient(SGD(0.02, weight_decay=0.1), batch_size=1, shuffle="sides"),
        Gradient(PLAIN, batch_size=1, shuffle="sides", clip_norm=0.5),
        Gradient(Adam(0.01), batch_size=1, shuffle="sides"),
        Gradient(PLAIN, batch_size=7),
    ],
    ids=["momentum", "l2", "clipped", "adam", "batches"],
)
def test_what_has_no_kernel_is_composed(solver, place):
    assert far(trained(SVDpp(3), solver, place).weights, trained(SVDpp(3), solver).weights) < cases.TOLERANCE


def test_kernels_and_composed_steps_take_turns():
    """Sums that are kept are made anew after a composed part, a load and other bags."""
    cases.backend("numba")
    found = []
    for where in ("numpy", "numba"):
        trainer = Trainer(SVDpp(3), PLAIN, batch_size=1, backend=where, dtype="float64", seed=3)
        for order in ("sides", "sides", True, "sides"):
            trainer.fit(table(), epochs=1, shuffle=order, progress=False)
        trainer.predict(0, 0)
        trainer.fit(table(n=90), epochs=1, shuffle="sides", progress=False)
        trainer.predict(0, 0)
        trainer.program.load({n: 2 * w for n, w in trainer.weights.items()}, trainer.program.state())
        found.append(trainer.predict(*np.indices((20, 15)).reshape(2, -1)))
    assert cases.distance(*found) < cases.TOLERANCE


@pytest.mark.parametrize("model", [DotBias(3), minicf.Net(3, (4,), 0.1)], ids=["bias", "net"])
def test_other_models_go_along_sides_too(model, place):
    solver = Gradient(SGD(0.02), batch_size=1, shuffle="sides")
    ratings = table()
    found = trained(model, solver, place, ratings)
    assert far(found.weights, trained(model, solver, "numpy", ratings).weights) < cases.TOLERANCE
    assert found.program.t == 3 * len(ratings)


def test_a_failed_row_is_told_and_the_weights_are_the_last_good_ones(place):
    trainer = Trainer(SVDpp(3), Gradient(SGD(0.02), batch_size=1, shuffle="sides"), backend=place, seed=3)
    trainer.fit(table(), epochs=1, progress=False)
    good = trainer.weights
    trainer.lr = 1e9
    with np.errstate(all="ignore"), pytest.raises(minicf.DivergenceError):
        trainer.fit(table(), epochs=3, progress=False)
    assert far(trainer.weights, good) == 0


def test_sides_ask_for_batches_of_one():
    with pytest.raises(ValueError, match="must be 1 for shuffle='sides'"):
        Gradient(SGD(0.1), shuffle="sides")
    with pytest.raises(ValueError, match=r"one of \['tiles', 'sides'\]"):
        Gradient(SGD(0.1), batch_size=1, shuffle="rows")


def test_parts_are_plain_and_carry_a_rate_a_row():
    trainer = trained(SVDpp(2), Gradient(PLAIN, batch_size=1, shuffle="sides"), epochs=1)
    (part,) = trainer.solver.parts(Sides.of(table()), 3, 1, trainer.program)
    assert isinstance(part, Part)
    assert (part.kind, len(part.rows)) == ("item", 14)
    assert np.size(part.rates) in (1, 14)


# --- the recommender --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    return minicf.load_movielens().split(0.2, seed=42)


def frame(ratings: Ratings) -> pd.DataFrame:
    return pd.DataFrame({
        "userId": ratings.users.ids[ratings.user], "movieId": ratings.items.ids[ratings.item], "rating": ratings.rating
    })  # fmt: skip


def test_the_recommender_keeps_what_it_collapses_to(published, tmp_path):
    """MSE 0.719 was asked for: chance moves it by 0.002 between seeds."""
    cases.backend("numba")
    train, test = published
    recommender = minicf.Recommender("svd++", n_factors=16).fit(train)
    assert type(recommender.model_) is DotBias
    mse = ((recommender.predict(frame(test)) - test.rating) ** 2).mean()
    assert mse < 0.716
    recommender.save(tmp_path / "r.npz")
    again = minicf.load(tmp_path / "r.npz")
    np.testing.assert_array_equal(again.predict(frame(test)), recommender.predict(frame(test)))
    assert len(again.recommend(1, n=5)) == 5
    row = frame(test).head(20)
    more = again.partial_fit(row, epochs=2)
    assert type(more.model_) is DotBias
    assert ((more.predict(frame(test)) - test.rating) ** 2).mean() < 0.73


def test_the_recommender_takes_models_with_histories_alone():
    rows = frame(table())
    for model in (SVDpp(3, history="user"), SVDpp(3, biases=False, rating_range=(0.9, 5.1))):
        recommender = minicf.Recommender(model, epochs=3).fit(rows)
        assert type(recommender.model_) is type(model.collapsed_model)
        assert np.isfinite(recommender.predict(rows)).all()
        recommender.partial_fit(rows.head(30))
        batches = minicf.Recommender(model, epochs=2, batch_size=16, optimizer=Adam(0.01), backend="numpy").fit(rows)
        assert np.isfinite(batches.predict(rows)).all()
    with pytest.raises(ValueError, match="fit was given none"):
        minicf.Recommender(SVDpp(3, features="item")).fit(rows)
