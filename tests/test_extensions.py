"""Custom losses, models, optimizers and solvers run on every backend; a subclass never trains as its parent.

Compiled kernels are made for exact types alone. A subclass, or anything else that they do not know, is composed of the
reference's operations, and the log says so.
"""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf import SGD, Adam, Batch, Dot, DotBias, Hybrid, Logistic, Net, Recommender, Trainer, explain, registry
from minicf.backends import get_backend
from tests import cases, outsiders
from tests.cuda import emulator, standin
from tests.outsiders import CosineSimilarity, LeastSquares, PseudoHuber, SignSGD

PLACES = ("numpy", "numba", "cupy")


@pytest.fixture(params=PLACES)
def place(request):
    """The name of a backend that can run here, CUDA's on the emulator."""
    if request.param == "cupy" and emulator.missing():
        pytest.skip(str(emulator.missing()))
    if request.param == "numba":
        cases.backend("numba")
    with standin.emulated() if request.param == "cupy" else nullcontext():
        yield request.param


def table(binary: bool = False, seed: int = 0) -> minicf.Ratings:
    random = np.random.RandomState(seed)
    user, item = random.randint(0, 12, 150), random.randint(0, 15, 150)
    stars = np.clip(np.round(3 + np.cos(user) + np.sin(item) + 0.3 * random.standard_normal(150)), 1, 5)
    return minicf.Ratings(user, item, (stars > 3).astype(float) if binary else stars, 12, 15)


def trained(place: str, model, solver, epochs: int = 3, binary: bool = False, **arguments) -> Trainer:
    trainer = Trainer(model, solver, backend=place, dtype="float64", seed=1, **arguments)
    trainer.fit(table(binary), epochs=epochs, progress=False)
    return trainer


def differences(one: Trainer, other: Trainer) -> dict[str, float]:
    a, b = one.weights | one.program.state(), other.weights | other.program.state()
    assert a.keys() == b.keys()
    return {name: cases.distance(a[name], b[name]) for name in a}


SETUPS = {
    "loss": lambda: (DotBias(4), SGD(0.05, momentum=0.9), {"loss": PseudoHuber(), "batch_size": 16}),
    "model": lambda: (CosineSimilarity(4, 3.0), Adam(0.05, weight_decay=0.01), {"batch_size": 16}),
    "model, online": lambda: (CosineSimilarity(4, 3.0), SGD(0.02), {"batch_size": 1}),
    "optimizer": lambda: (DotBias(4, global_mean=3.0), SignSGD(0.02), {"batch_size": 16}),
    "optimizer of a net": lambda: (Net(4, (5,), 0.2), SignSGD(0.02), {"batch_size": 16}),
    "all three": lambda: (CosineSimilarity(4, 3.0), SignSGD(0.02), {"loss": PseudoHuber(), "batch_size": 16}),
    "adagrad": lambda: (DotBias(4, global_mean=3.0), minicf.AdaGrad(0.1, weight_decay=0.01), {"batch_size": 16}),
    "rmsprop of a net": lambda: (Net(4, (5,), 0.2), minicf.RMSProp(0.01, momentum=0.5, centered=True), {}),
    "rmsprop online": lambda: (Dot(4), minicf.RMSProp(0.01, sparse=True), {"batch_size": 1}),
    "in a hybrid": lambda: (
        Hybrid({"cosine": (CosineSimilarity(4), 0.5), "own": (CosineSimilarity(4, 3.0), 1.0)}), Adam(0.05), {},
    ),
    "solver": lambda: (Dot(4, init=("normal", 0.0, 0.5)), LeastSquares(2.0), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SETUPS)
def test_it_runs_everywhere_as_on_numpy(name, place):
    model, solver, arguments = SETUPS[name]()
    reference = trained("numpy", model, solver, **arguments)
    here = trained(place, model, solver, **arguments)
    assert here.backend == place
    assert max(differences(here, reference).values()) < cases.TOLERANCE
    history = here.history.frame()
    metric = here.solver.loss.metric
    assert history[f"train_{metric}"].iloc[-1] < history[f"train_{metric}"].iloc[0]
    np.testing.assert_allclose(history[f"train_{metric}"], reference.history.frame()[f"train_{metric}"], rtol=1e-9)
    user, item = np.arange(10), np.arange(10)
    np.testing.assert_allclose(here.predict(user, item), reference.predict(user, item), rtol=1e-9)


@pytest.mark.parametrize("name", SETUPS)
def test_it_is_saved_and_goes_on_to_the_same_bits(name, place, tmp_path):
    model, solver, arguments = SETUPS[name]()
    whole = trained(place, model, solver, epochs=4, **arguments)
    half = trained(place, model, solver, epochs=2, **arguments)
    half.save(tmp_path / "half.npz")
    again = Trainer.load(tmp_path / "half.npz", backend=place)
    assert again.model == model
    assert again.solver == half.solver
    again.fit(table(), epochs=2, progress=False)
    assert all(np.array_equal(again.weights[name], w) for name, w in whole.weights.items())


@pytest.mark.parametrize("loss", [None, PseudoHuber()], ids=["squared", "huber"])
def test_its_gradients_are_checked_like_the_others(loss):
    assert minicf.check_gradients(CosineSimilarity(3), loss=loss).ok
    assert minicf.check_gradients(DotBias(3), loss=loss).ok
    report = minicf.check_gradients(Hybrid({"a": (CosineSimilarity(3), 0.3), "b": (CosineSimilarity(3, 1.0), 1.0)}))
    assert report.ok, report


def test_least_squares_solves_what_it_says():
    """After an epoch the item rows are the ridge regressions on the user rows."""
    ratings = table()
    trainer = trained("numpy", Dot(3, init=("normal", 0.0, 0.5)), LeastSquares(0.5), epochs=1)
    w = trainer.weights
    for item in np.unique(ratings.item):
        at = ratings.item == item
        p, r = w["user_factors"][ratings.user[at]], ratings.rating[at]
        slope = p.T @ (p @ w["item_factors"][item] - r) + 0.5 * w["item_factors"][item]
        assert np.abs(slope).max() < 1e-5 * np.abs(r).sum()
    assert np.isnan(trainer.history[-1]["lr"])
    for call in (lambda: setattr(trainer, "lr", 0.1), lambda: trainer.lr_find(ratings),
                 lambda: trainer.fit(ratings, schedule=minicf.Cosine())):  # fmt: skip
        with pytest.raises(ValueError, match="LeastSquares has no learning rate"):
            call()
    with pytest.raises(ValueError, match="LeastSquares has no order"):
        trainer.fit(ratings, shuffle=False)


# --- the first faults: subclasses must not train as their parents ----------------------------------------------------


class HalvedSGD(SGD):
    """Half of each step."""

    def update(self, w, g, slots, t, lr, table):
        return super().update(w, g, slots, t, 0.5 * lr, table)


class HalvedAdam(Adam):
    def update(self, w, g, slots, t, lr, table):
        return super().update(w, g, slots, t, 0.5 * lr, table)


class Lifted(DotBias):
    """One star more, and twice as steep."""

    def forward(self, w, batch, masks=None):
        y, cache = super().forward(w, batch, masks)
        return 2.0 * y + 1.0, cache

    def backward(self, w, cache, d_y):
        return super().backward(w, cache, 2.0 * d_y)


class LiftedNet(Net):
    def forward(self, w, batch, masks=None):
        y, cache = super().forward(w, batch, masks)
        return y + 1.0, cache


class Doubled(minicf.SquaredError):
    """Twice the slope."""

    def value_and_slope(self, y, target):
        value, slope = super().value_and_slope(y, target)
        return value, 2.0 * slope


class Backwards(minicf.Gradient):
    """Goes through its rows from the last to the first."""

    def run(self, program, data, part):
        return super().run(program, data, part._replace(rows=part.rows[::-1]))


LIKE = {
    "optimizer sgd": ((DotBias(4), HalvedSGD(0.05), {}), (DotBias(4), SGD(0.05), {})),
    "optimizer adam": ((DotBias(4), HalvedAdam(0.05), {}), (DotBias(4), Adam(0.05), {})),
    "model": ((Lifted(4), SGD(0.02), {}), (DotBias(4), SGD(0.02), {})),
    "model of a net": ((LiftedNet(4, (5,), 0.0), SGD(0.02), {}), (Net(4, (5,), 0.0), SGD(0.02), {})),
    "head": ((Hybrid({"a": (Lifted(4), 1.0)}), SGD(0.02), {}), (Hybrid({"a": (DotBias(4), 1.0)}), SGD(0.02), {})),
    "loss": ((DotBias(4), SGD(0.05), {"loss": Doubled()}), (DotBias(4), SGD(0.05), {})),
    "solver": ((DotBias(4), Backwards(SGD(0.05)), {}), (DotBias(4), minicf.Gradient(SGD(0.05)), {})),
    "online": ((Lifted(4), SGD(0.02), {"batch_size": 1}), (DotBias(4), SGD(0.02), {"batch_size": 1})),
}


@pytest.mark.parametrize("name", LIKE)
def test_a_subclass_never_trains_as_its_parent(name, place):
    (model, solver, arguments), parent = LIKE[name]
    here = trained(place, model, solver, **arguments)
    assert max(differences(here, trained("numpy", model, solver, **arguments)).values()) < cases.TOLERANCE
    assert max(differences(here, trained(place, *parent[:2], **parent[2])).values()) > 1e-3


OPTIONS = {
    "amsgrad": (DotBias(4), Adam(0.05, betas=(0.5, 0.7), amsgrad=True)),
    "amsgrad of a net": (Net(4, (5,), 0.0), Adam(0.05, betas=(0.5, 0.7), amsgrad=True)),
    "value": (DotBias(4), minicf.Gradient(SGD(0.05), clip_value=0.01)),
    "norm": (DotBias(4), minicf.Gradient(Adam(0.05), clip_norm=0.01)),
    "norm of a net": (Net(4, (5,), 0.0), minicf.Gradient(SGD(0.05, momentum=0.9), clip_norm=0.1)),
    "norm of a hybrid": (cases.MODELS["hybrid"], minicf.Gradient(SGD(0.05), clip_norm=0.1)),
    "rates": (Dot(4), minicf.Gradient(SGD(0.05), lr_factors={"user_factors": 0.1})),
    "online": (DotBias(4), minicf.Gradient(SGD(0.05), batch_size=1, clip_value=0.1)),
    "tiles": (DotBias(4), minicf.Gradient(SGD(0.05), batch_size=1, shuffle="tiles", clip_norm=0.1)),
}


def without_options(solver):
    if isinstance(solver, Adam):
        return replace(solver, amsgrad=False)
    return replace(solver, clip_value=None, clip_norm=None, lr_factors=None)


@pytest.mark.parametrize("name", OPTIONS)
def test_no_kernel_leaves_an_option_out(name, place, tmp_path):
    model, solver = OPTIONS[name]
    whole = trained(place, model, solver)
    assert max(differences(whole, trained("numpy", model, solver)).values()) < cases.TOLERANCE
    plain = trained(place, model, without_options(solver))
    assert max(cases.distance(whole.weights[k], w) for k, w in plain.weights.items()) > 1e-3
    half = trained(place, model, solver, epochs=2)
    half.save(tmp_path / "half.npz")
    again = Trainer.load(tmp_path / "half.npz", backend=place)
    assert again.solver == half.solver
    assert hash(again.solver) == hash(half.solver)
    again.fit(table(), epochs=1, progress=False)
    assert all(np.array_equal(again.weights[k], w) for k, w in whole.weights.items())


def test_a_subclass_in_tiles_too(place):
    def run(where: str, model) -> Trainer:
        trainer = Trainer(model, SGD(0.02), backend=where, batch_size=1, dtype="float64", seed=1)
        trainer.fit(table(), epochs=2, shuffle="tiles", progress=False)
        return trainer

    here = run(place, Lifted(4))
    assert max(differences(here, run("numpy", Lifted(4))).values()) < cases.TOLERANCE
    assert max(differences(here, run(place, DotBias(4))).values()) > 1e-3


def test_composed_programs_are_logged_once(place, caplog):
    if place == "numpy":
        with caplog.at_level(logging.INFO, "minicf"):
            trained(place, CosineSimilarity(6), SGD(0.01))
        assert "composed" not in caplog.text
        return
    with caplog.at_level(logging.INFO, "minicf"):
        for _ in range(2):
            trained(place, CosineSimilarity(6), SGD(0.015))
    assert caplog.text.count("no compiled kernel for CosineSimilarity(n_factors=6") == 1


def test_weights_of_examples_count_on_every_backend(place):
    """A weight of 2 is the example twice, of 0 none; compiled programs that know no weights are composed."""
    ratings = table()
    weight = np.random.RandomState(3).randint(0, 3, len(ratings)).astype(np.float32)
    model = DotBias(4)
    programs = []
    for rows, weights in (
        (np.arange(len(ratings)), weight),
        (np.repeat(np.arange(len(ratings)), weight.astype(int)), None),
    ):
        solver = minicf.Gradient(SGD(1.0), batch_size=len(rows))
        program = get_backend(place).compile(model, solver, model.init_weights(12, 15, 2), 0, "float64")
        data = Batch(ratings.user, ratings.item, ratings.rating, weights)
        rate = 0.1 * len(rows) / len(ratings)
        program.run(data, minicf.Part("batches", rows.astype(np.int32), rate))
        programs.append(program.weights())
    assert all(cases.distance(programs[0][name], programs[1][name]) < 1e-12 for name in programs[0])


# --- the logistic loss -----------------------------------------------------------------------------------------------

MODELS = {
    "dot": Dot(4, init=("normal", 0, 0.5)), "bias": DotBias(5), "range": DotBias(4, rating_range=(-3.0, 4.0)),
    "net": Net(4, (6,), (0.2, 0.3)), "hybrid": cases.MODELS["hybrid"],
}  # fmt: skip


@pytest.mark.parametrize("solver", [SGD(0.2, momentum=0.9), Adam(0.05, weight_decay=0.01)], ids=["sgd", "adam"])
@pytest.mark.parametrize("name", MODELS)
def test_the_logistic_loss_is_the_same_everywhere(name, solver, place):
    here = trained(place, MODELS[name], solver, binary=True, loss=Logistic(), batch_size=16)
    reference = trained("numpy", MODELS[name], solver, binary=True, loss=Logistic(), batch_size=16)
    assert max(differences(here, reference).values()) < cases.TOLERANCE
    assert type(here.program).__module__.startswith(f"minicf.backends.{'cuda' if place == 'cupy' else place}") or (
        place == "numpy"
    ), "it has kernels"
    squared = trained(place, MODELS[name], solver, binary=True, batch_size=16)
    assert max(differences(here, squared).values()) > 1e-3
    np.testing.assert_allclose(here.history.frame().train_log_loss, reference.history.frame().train_log_loss, rtol=1e-9)


@pytest.mark.parametrize("model", [MODELS["bias"], MODELS["range"]], ids=["bias", "range"])
def test_the_logistic_loss_online_and_in_tiles(model, place):
    def run(where: str, shuffle) -> Trainer:
        trainer = Trainer(model, SGD(0.1), loss=Logistic(), backend=where, batch_size=1, dtype="float64", seed=1)
        trainer.fit(table(binary=True), epochs=2, shuffle=shuffle, progress=False)
        return trainer

    for shuffle in (True, "tiles"):
        assert max(differences(run(place, shuffle), run("numpy", shuffle)).values()) < cases.TOLERANCE


def test_the_logistic_loss_predicts_probabilities(place):
    ratings = table(binary=True)
    trainer = trained(place, DotBias(4), Adam(0.05), epochs=30, binary=True, loss=Logistic())
    y = trainer.predict(ratings.user, ratings.item)
    assert ((y > 0) & (y < 1)).all()
    found = trainer.evaluate(ratings)
    value = -np.log(np.where(ratings.rating == 1, y, 1 - y))
    assert found["log_loss"] == pytest.approx(value.mean(), rel=1e-9)
    assert found["accuracy"] == ((y > 0.5) == (ratings.rating == 1)).mean() > 0.9
    history = trainer.fit(ratings, ratings, progress=False, callbacks=[minicf.EarlyStopping(1)])
    assert history[-1]["valid_log_loss"] == pytest.approx(trainer.evaluate(ratings)["log_loss"])


def test_the_logistic_loss_refuses_stars(place):
    trainer = Trainer(DotBias(4), SGD(0.1), loss=Logistic(), backend=place)
    with pytest.raises(ValueError, match=r"a target is \d; the logistic loss takes targets from 0 to 1"):
        trainer.fit(table())
    with pytest.raises(ValueError, match="targets from 0 to 1"):
        trainer.fit(table(binary=True), table())


# --- files, and what users hold --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unregistered(DotBias):
    pass


@dataclass(frozen=True)
class UnregisteredLoss(minicf.SquaredError):
    pass


@pytest.mark.parametrize(
    ("trainer", "name"),
    [
        (lambda: trained("numpy", Unregistered(3), SGD(0.1)), "Unregistered"),
        (lambda: trained("numpy", Dot(3), SGD(0.1), loss=UnregisteredLoss()), "UnregisteredLoss"),
        (lambda: trained("numpy", Dot(3), HalvedSGD(0.1)), "HalvedSGD"),
        (lambda: trained("numpy", Hybrid({"a": (Unregistered(3), 1.0)}), SGD(0.1)), "Unregistered"),
    ],
    ids=["model", "loss", "optimizer", "head"],
)
def test_what_no_file_could_give_back_is_refused_when_saved(trainer, name, tmp_path):
    path = tmp_path / "file.npz"
    path.write_text("before")
    with pytest.raises(ValueError, match=rf"{name} is not registered.*@minicf\.register"):
        trainer().save(path)
    assert path.read_text() == "before"
    fresh = trainer()
    with pytest.raises(ValueError, match="not registered"):  # a checkpoint says so before the first epoch
        fresh.fit(table(), callbacks=[minicf.Checkpoint(path)], progress=False)
    assert fresh.epoch == 3


def test_registering():
    assert registry.to_config(CosineSimilarity(3))["kind"] == "CosineSimilarity"
    assert minicf.register(CosineSimilarity) is CosineSimilarity  # again, as a reloaded module does

    @dataclass(frozen=True)
    class Dot(minicf.Model):
        pass

    with pytest.raises(ValueError, match="'Dot' is registered already, by minicf"):
        minicf.register(Dot)
    for wrong in (3, minicf.Model, HalvedSGD):
        with pytest.raises(TypeError, match="it must be a dataclass"):
            minicf.register(wrong)
    config = json.loads(json.dumps(registry.to_config(minicf.Gradient(SignSGD(0.5), PseudoHuber(), 7))))
    assert registry.from_config(config, minicf.Solver, "solver") == minicf.Gradient(SignSGD(0.5), PseudoHuber(), 7)
    for foreign in ({"kind": "Dot", "n_factors": 3}, {"kind": "os.system"}, {"kind": ["x"]}, "x", None):
        with pytest.raises(ValueError, match="unknown solver"):
            registry.from_config(foreign, minicf.Solver, "solver")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    ratings = table()
    return pd.DataFrame({"userId": ratings.user, "movieId": ratings.item, "rating": ratings.rating}).drop_duplicates(
        ["userId", "movieId"], ignore_index=True
    )


def test_a_recommender_of_a_custom_model_does_everything(frame, place, tmp_path):
    """Version 0.1 trained and saved it, and then refused the file, lists, errors, new users and explanations."""
    recommender = Recommender(CosineSimilarity(4), optimizer=Adam(0.05), epochs=20, backend=place).fit(frame)
    with pytest.warns(UserWarning, match="98 of 98 rows are of items that their users rated in training"):
        assert recommender.evaluate(frame)["rmse"] < 1.2
    scores = recommender.predict(frame)
    lists = recommender.recommend([1, 2], n=4, by="rating")
    assert len(lists) == 8
    one = recommender.model_.predict(
        recommender.weights_, Batch(np.repeat(recommender.users_.index(1), 15), np.arange(15))
    )
    seen = set(frame.movieId[frame.userId == 1])
    order = [int(i) for i in np.argsort(-one, kind="stable") if recommender.items_.ids[i] not in seen]
    assert lists.movieId[:4].tolist() == recommender.items_.ids[order[:4]].tolist()
    assert len(recommender.similar_items(3, n=2)) == 2
    recommender.save(tmp_path / "model.npz")
    again = minicf.load(tmp_path / "model.npz")
    np.testing.assert_allclose(again.predict(frame), scores, rtol=1e-5)
    new = again.fold_in({3: 5.0, 4: 1.0, 6: 2.0}, id=99)
    assert len(new) == 1
    assert again.predict(pd.DataFrame({"userId": [99, 99], "movieId": [3, 4]}))[0] > again.predict(
        pd.DataFrame({"userId": [99], "movieId": [4]})
    )
    again.partial_fit(pd.DataFrame({"userId": [100, 100], "movieId": [3, 4], "rating": [5.0, 1.0]}))
    ratings = minicf.Ratings.from_frame(frame)
    assert len(explain.bias_table(recommender, ratings)) == ratings.n_items
    assert len(explain.nearest_items(recommender, ratings, 0, n=3)) == 3
    assert explain.score_parts(recommender, 0, 0).score == pytest.approx(
        float(
            recommender.predict(pd.DataFrame({"userId": [ratings.users.ids[0]], "movieId": [ratings.items.ids[0]]}))[0]
        ),
        abs=1.0,
    )
    assert "train_mse" in explain.learning_curves(recommender)


def test_a_model_without_factors_says_what_it_lacks(frame):
    @dataclass(frozen=True)
    class Biases(minicf.Model):
        def parameters(self, sizes):
            return {
                "user_bias": minicf.Parameter((sizes["user"],), "user"),
                "item_bias": minicf.Parameter((sizes["item"],), "item"),
            }

        def forward(self, w, batch, masks=None):
            return w["user_bias"][batch.user] + w["item_bias"][batch.item] + 3.0, batch

        def backward(self, w, cache, d_y):
            return {
                "user_bias": minicf.ops.gather_backward(d_y, cache.user, w["user_bias"]),
                "item_bias": minicf.ops.gather_backward(d_y, cache.item, w["item_bias"]),
            }

    assert minicf.check_gradients(Biases()).ok
    recommender = Recommender(Biases(), optimizer=SGD(0.1), epochs=5, backend="numpy").fit(frame)
    assert len(recommender.recommend([1], n=3)) == 3
    assert len(recommender.fold_in({3: 5.0, 4: 4.0}, id=99)) == 1
    with pytest.raises(ValueError, match=r"Biases.* has no item_factors"):
        recommender.similar_items(3)


def test_outsiders_use_public_names_alone():
    text = Path(outsiders.__file__).read_text(encoding="utf-8")
    assert "minicf._" not in text
    assert "program._" not in text
    names = {name for name in vars(outsiders) if name in vars(minicf) and not name.startswith("__")}
    assert names <= {"annotations", "ops"}


@pytest.mark.parametrize("parent", [minicf.Dot(3), minicf.Net(3, hidden=(4,), dropout=0.0)])
@pytest.mark.parametrize("method", ["predict", "_finish"])
def test_lists_of_a_subclass_are_ordered_by_its_own_predictions(parent, method):
    """Scores of the opposite sign reverse the list."""
    original = getattr(type(parent), method)
    own = type("Opposite", (type(parent),), {method: lambda *arguments, **more: -original(*arguments, **more)})
    model = own(3) if isinstance(parent, minicf.Dot) else own(3, hidden=(4,), dropout=0.0)
    w = {name: 1 + 30 * value for name, value in parent.init_weights(2, 6, seed=1).items()}
    scores = np.zeros((2, 6), np.float32)
    model.scorer(w)(np.arange(2), scores)
    plain = parent.predict(w, Batch(*np.divmod(np.arange(12), 6))).reshape(2, 6)
    assert len(set(plain[0])) == 6
    np.testing.assert_array_equal(scores.argsort(axis=1), plain.argsort(axis=1)[:, ::-1])


def test_the_measure_of_a_hybrid_has_a_loss_for_each_head():
    heads = {"one": (minicf.Dot(2), 1.0), "two": (minicf.DotBias(2, global_mean=2.0), 0.5)}
    model = minicf.Hybrid(heads)
    ratings = minicf.Ratings(np.array([0, 1]), np.array([1, 0]), np.array([3.0, 4.0]), 2, 2)
    program = minicf.Trainer(model, minicf.SGD(0.1), backend="numpy", weights=model.init_weights(2, 2)).program
    data = Batch.of(ratings)._replace(weight=np.array([1.0, 3.0]))
    y = [program.predict(data, head) for head in heads]
    expected = [(data.weight * (each - data.target) ** 2).sum() for each in y]
    assert expected[0] != pytest.approx(expected[1])
    assert program.measure(data).loss == pytest.approx(expected)
