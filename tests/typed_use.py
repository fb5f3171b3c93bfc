"""What a user writes, under a strict type checker: `test_package.py` and `campaigns/supply.py` run it through one.

`assert_type` fails where a type is wider than it says, so that nothing turns into Any on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, assert_type

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import minicf
from minicf import checking, explain, metrics
from minicf.backends.base import Program
from minicf.models import Score, Weights
from minicf.ops import Array
from minicf.recommender.preference import Preference
from minicf.solvers import Posterior


class Best(minicf.Callback):
    """A callback of one's own."""

    def on_epoch_end(self, trainer: minicf.Trainer, row: dict[str, Any]) -> bool:
        return bool(row["train_mse"] < 0.5)


@minicf.register
@dataclass(frozen=True)
class AbsoluteError(minicf.Loss):
    """A loss of one's own."""

    metric: ClassVar[str] = "mae"

    def value_and_slope(self, y: Array, target: Array) -> tuple[Array, Array]:
        xp = minicf.ops.namespace(y)
        return xp.abs(y - target), xp.sign(y - target)


@minicf.register
@dataclass(frozen=True)
class Bias(minicf.Model):
    """A model of one's own."""

    def parameters(self, sizes: Mapping[str, int]) -> dict[str, minicf.Parameter]:
        return {"item_bias": minicf.Parameter((sizes["item"],), "item", init=("normal", 0.0, 0.1))}

    def forward(self, w: Weights, batch: minicf.Batch, masks: Any = None) -> tuple[Array, Any]:
        return minicf.ops.gather(w["item_bias"], batch.item), batch

    def backward(self, w: Weights, cache: Any, d_y: Array) -> Weights:
        return {"item_bias": minicf.ops.gather_backward(d_y, cache.item, w["item_bias"])}


@minicf.register
@dataclass(frozen=True)
class TypedAdaGrad(minicf.Optimizer):
    """An optimizer of one's own."""

    lr: float = 0.01

    def slots(self) -> tuple[str, ...]:
        return ("squares",)

    def update(self, w: Array, g: Array, slots: Weights, t: int, lr: float, table: bool) -> Array:
        slots["squares"] = slots["squares"] + g * g
        return w - lr * g / (slots["squares"] ** 0.5 + 1e-10)


@minicf.register
@dataclass(frozen=True)
class Means(minicf.Solver):
    """A solver of one's own: each item's mean."""

    def parts(self, data: Any, seed: int, epoch: int, program: Program) -> Iterator[minicf.Part]:
        yield minicf.Part("item", np.unique(data.item))

    def run(self, program: Program, data: Any, part: minicf.Part) -> minicf.Progress:
        for row in part.rows:
            program.w["item_bias"][row] = data.target[data.item == row].mean()
        return assert_type(program.measure(data), minicf.Progress)


def own_parts(train: minicf.Ratings, seen: minicf.Bags) -> None:
    """What somebody's own model, loss, optimizer and solver hold and are asked."""
    table = assert_type(minicf.Batch.of(train, {"seen": seen}), minicf.Batch)
    assert_type((table.size, table.rows("user"), table.take([0]).weight), tuple[int, Any, Any])
    assert_type(table.bags, Mapping[str, minicf.Bags])
    assert_type((table.user, table.item, table.target), tuple[Any, Any, Any])
    bags = assert_type(minicf.Bags.of(train.user, train.item, train.n_users, "user"), minicf.Bags)
    assert_type((bags.start, bags.index, bags.side), tuple[np.ndarray, np.ndarray, str])
    assert_type(minicf.Bags.empty(3).take(bags.index), minicf.Bags)
    assert_type((bags.weight, bags.row, bags.weights("float32")), tuple[np.ndarray | None, Any, Any])
    assert_type((bags.on(np), bags.read(train.user_counts(), 3)), tuple[minicf.Bags, np.ndarray])
    assert_type(minicf.Bags.history(train, "item"), minicf.Bags)
    svdpp = minicf.SVDpp(8, history="both", features="item")
    assert_type((svdpp.bags, svdpp.collapsed_model), tuple[tuple[str, ...], minicf.Dot])
    assert_type(svdpp.collapsed({}, {}), tuple[minicf.Dot, dict[str, Any]])
    assert_type(minicf.Trainer(svdpp, minicf.SGD(0.1)).bags, dict[str, minicf.Bags])

    assert_type((minicf.UnitDot(4, scale=5.0).scale, seen.holds(table.user, table.item)), tuple[float, Any])
    assert_type(table.candidates is None, bool)

    model: minicf.Model = Bias()
    assert_type((model.heads, model.head_weights, model.output), tuple[tuple[str, ...], tuple[float, ...], str])
    assert_type((model.rating_range, model.global_mean), tuple[tuple[float, float] | None, float])
    parameter = model.parameters({"user": 2, "item": 3})["item_bias"]
    assert_type((parameter.shape, parameter.rows), tuple[tuple[int, ...], str | None])
    assert_type(parameter.init, tuple[str, float, float])
    assert_type(model.shapes(2, 3), dict[str, tuple[int, ...]])
    w = assert_type(model.init_weights(2, 3, seed=1), dict[str, np.ndarray])
    assert_type(model.sizes_of(w), dict[str, int])
    assert_type((model.tables("item"), model.summary(2, 3)), tuple[list[str], pd.DataFrame])
    assert_type(model.output_head(w)[0], minicf.Model)
    assert_type((model.check_head(None), model.dropout_masks(0, 1, 8, "float32")), tuple[str, Any])
    assert_type(model.scorer(w, {"seen": seen}), Score)
    y, cache = model.forward(w, table)
    model.backward(w, cache, y)
    model.predict(w, table, None)

    for loss in (AbsoluteError(), minicf.SquaredError(), minicf.Logistic(8, 0.5), minicf.BPR(2)):
        loss.check_targets(train.rating)
        assert_type(loss(y, table), tuple[Any, Any])
        assert_type(loss.value_and_slope(y, table.target), tuple[Any, Any])
        assert_type((loss.metric, loss.measures(y, train.rating)), tuple[str, dict[str, float]])
        draw = minicf.Draw(1, 2)
        assert_type((draw(3), draw.negatives(table, 2)), tuple[np.ndarray, Any])
        assert_type(loss.examples(table, draw), minicf.Batch)
        assert_type((loss.negatives, loss.compare(y, table.target)), tuple[int, tuple[Any, Any]])
        loss.response(y)

    optimizer: minicf.Optimizer = TypedAdaGrad(0.1)
    assert_type((optimizer.lr, optimizer.decay, optimizer.sparse), tuple[float, str, bool])
    assert_type(optimizer.weight_decay, float | Mapping[str, float])
    assert_type((optimizer.slots(), optimizer.decay_of("item_bias")), tuple[tuple[str, ...], float])
    assert_type(optimizer.with_momentum(0.5), minicf.Optimizer)
    state = assert_type(optimizer.init_state(w), dict[str, Any])
    optimizer.step(w, w, state, 1, 0.1, {}, 8)
    optimizer.update(y, y, state, 1, 0.1, True)

    gradient = minicf.Gradient(optimizer, minicf.Logistic(), batch_size=8, shuffle="tiles")
    assert_type((gradient.optimizer, gradient.batch_size, gradient.lr), tuple[minicf.Optimizer, int, float])
    assert_type(gradient.shuffle, bool | str)
    gradient = minicf.Gradient(optimizer, clip_value=1.0, clip_norm=5.0, lr_factors={"user_bias": 10.0})
    assert_type((gradient.clip_value, gradient.clip_norm), tuple[float | None, float | None])
    assert_type((gradient.lr_factors, gradient.plain), tuple[Mapping[str, float] | None, bool])
    assert_type(gradient.ordered(False), minicf.Gradient)
    solver: minicf.Solver = Means()
    solver.check(model)
    assert_type(solver.loss, minicf.Loss)
    assert_type(solver.init_state(w), dict[str, Any])
    assert_type(solver.ordered(True), minicf.Solver)
    trainer = minicf.Trainer(model, solver)
    assert_type(trainer.solver, minicf.Solver)
    solver.resize(trainer.program.slots, trainer.program.state())
    assert_type(solver.penalty(trainer.program, {"user": train.user_counts()}), float)
    data = solver.prepare(train)
    for part in solver.parts(data, 0, 0, trainer.program):
        assert_type((part.kind, part.rows), tuple[str, Any])
        assert_type(part.rates, np.ndarray | float)
        assert_type(part.momenta, np.ndarray | None)
        done = assert_type(solver.run(trainer.program, data, part), minicf.Progress)
        assert_type((done.loss, done.n, done.steps, done.failed_step), tuple[np.ndarray, int, int, int])
        assert_type(done.failed_rate, float | None)
    report = assert_type(minicf.check_gradients(model, loss=AbsoluteError()), checking.GradientReport)
    assert_type((report.ok, report.error), tuple[bool, float])


def trained(path: Path) -> minicf.Trainer:
    ratings = assert_type(minicf.load_movielens(), minicf.Ratings)
    train, valid = assert_type(ratings.split(valid=0.2, seed=42), tuple[minicf.Ratings, minicf.Ratings])
    assert_type(train.user, NDArray[np.int32])
    assert_type(train.rating, NDArray[np.float32])
    assert_type(ratings.users.index(1), int)
    assert_type(ratings.users.index([1, 2]), NDArray[np.int64])
    assert_type(ratings.users, minicf.Vocabulary)
    assert_type((ratings.users.fingerprint, ratings.users.matches(train.users)), tuple[str, bool])
    minicf.Net(8, hidden=(16,), dropout=(0.1, 0.2), rating_range=(0.5, 5.5))
    hybrid = minicf.Hybrid({"net": (minicf.Net(8), 0.2), "dot": (minicf.DotBias(8), 1.0)})
    assert_type(hybrid.members, Mapping[str, tuple[minicf.Model, float]])
    trainer = minicf.Trainer(hybrid, minicf.RMSProp(0.01, momentum=0.9, centered=True))
    trainer = minicf.Trainer(hybrid, minicf.AdaGrad(0.1, initial=0.1))
    trainer = minicf.Trainer(hybrid, minicf.SGD(0.1, momentum=0.9), batch_size=8, loss=minicf.SquaredError())
    trainer = minicf.Trainer(hybrid, minicf.Adam(0.01, weight_decay={"user_factors": 1e-4}), backend="auto")
    stop = minicf.EarlyStopping(2, min_delta=1e-3)
    callbacks = [
        Best(),
        stop,
        minicf.ReduceLROnPlateau(0.5),
        minicf.HeldOutRecall(train, valid, k=10),
        minicf.WeightAverage(0.9, start=2),
        minicf.Checkpoint(path, every=2),
        minicf.CSVLog("log.csv"),
        minicf.PrintEpochs(),
    ]
    for schedule in (
        minicf.WarmUp(minicf.Cosine(), epochs=2), minicf.Chain((minicf.Linear(), minicf.Step(2)), at=(3,)),
        minicf.Piecewise((1, 2), (1.0, 0.5, 0.1)),
        minicf.OneCycle(0.1, 3), minicf.Cosine(3), minicf.CosineRestarts(1, mult=2), minicf.Step(2, 0.5),
        minicf.Exponential(0.9), minicf.Constant(),
    ):  # fmt: skip
        general: minicf.Schedule = schedule
        assert_type((general.factor(np.zeros(1)), general.horizon), tuple[np.ndarray, float | None])
        assert_type(general.momenta(np.zeros(1)), np.ndarray | None)
        assert_type(general.for_fit(3), minicf.Schedule)
        try:
            assert_type(trainer.fit(train, valid, 3, schedule, callbacks=callbacks), minicf.History)
        except minicf.DivergenceError as error:
            assert_type((error.epoch, error.step, error.lr, error.last_loss), tuple[int, int, float, float])
    assert_type((stop.best, stop.best_epoch, stop.stopped), tuple[float, int, bool])
    assert_type(trainer.model, minicf.Model)
    assert_type((trainer.optimizer, trainer.batch_size), tuple[minicf.Optimizer | None, int | None])
    assert_type((trainer.users, trainer.items), tuple[minicf.Vocabulary | None, minicf.Vocabulary | None])
    assert_type(trainer.described(), dict[str, Any])
    assert_type(trainer.lr_find(train).suggestion, float)
    assert_type((trainer.epoch, trainer.backend), tuple[int, str])
    assert_type(trainer.program, Program)
    assert_type(trainer.history[0], dict[str, Any])
    assert_type(trainer.predict(0, 0), float)
    assert_type(trainer.predict([0, 1], [0, 1]), np.ndarray)
    assert_type(trainer.evaluate(valid), dict[str, float])
    assert_type(trainer.weights["user_factors"], np.ndarray)
    assert_type(trainer.history.frame(), pd.DataFrame)
    assert_type(trainer.lr, float)
    trainer.save(path)
    minicf.save_weights(path, trainer.weights)
    try:
        assert_type(minicf.load_weights(path), dict[str, np.ndarray])
    except minicf.FileError as error:
        print(error)
    return assert_type(minicf.Trainer.load(path), minicf.Trainer)


def tables(frame: pd.DataFrame) -> minicf.Ratings:
    ratings = assert_type(minicf.Ratings.from_frame(frame, timestamp="time", duplicates="last"), minicf.Ratings)
    assert_type((ratings.n_users, ratings.n_items, ratings.mean, len(ratings)), tuple[int, int, float, int])
    assert_type((ratings.user_counts(), ratings.item_counts()), tuple[NDArray[np.int64], NDArray[np.int64]])
    assert_type(ratings.titles, NDArray[np.object_] | None)
    assert_type(ratings.genres, NDArray[np.object_] | None)
    assert_type(ratings.timestamp, NDArray[np.int64] | None)
    assert_type(ratings.weight, NDArray[np.float32] | None)
    events = assert_type(minicf.Ratings.from_events(frame, weight="n", timestamp="time"), minicf.Ratings)
    assert_type(events.implicit, bool)
    assert_type(ratings.item, NDArray[np.int32])
    assert_type(ratings.items.ids, NDArray[Any])
    assert_type(ratings.top(), pd.DataFrame)
    ratings = assert_type(minicf.Ratings.from_scipy(ratings.to_scipy(), ratings.users, ratings.items), minicf.Ratings)
    assert_type(ratings.frame(), pd.DataFrame)
    return assert_type(ratings.take([0, 1]), minicf.Ratings)


def explained(trainer: minicf.Trainer, ratings: minicf.Ratings, path: Path) -> None:
    assert_type(explain.bias_table(trainer, ratings), pd.DataFrame)
    assert_type(explain.bias_table(trainer, ratings, ax=True), tuple[pd.DataFrame, Any])
    assert_type(explain.components(trainer, ratings), explain.Components)
    assert_type(explain.components(trainer, ratings, ax=True), tuple[explain.Components, Any])
    assert_type(explain.components(trainer, ratings).scores, pd.DataFrame)
    assert_type(explain.item_map(trainer, ratings), pd.DataFrame)
    assert_type(explain.item_map(trainer, ratings, ax=True), tuple[pd.DataFrame, Any])
    assert_type(explain.nearest_items(trainer, ratings, 3), pd.DataFrame)
    assert_type(explain.nearest_items(trainer, ratings, 3, ax=True), tuple[pd.DataFrame, Any])
    assert_type(explain.score_parts(trainer, 0, 1), explain.ScoreParts)
    assert_type(explain.score_parts(trainer, 0, 1, ax=True), tuple[explain.ScoreParts, Any])
    assert_type(explain.score_parts(trainer, 0, 1).prediction, float)
    assert_type(explain.learning_curves({"mine": trainer}), pd.DataFrame)
    assert_type(explain.learning_curves(trainer, ax=True), tuple[pd.DataFrame, Any])
    assert_type(explain.explore(trainer, ratings, path), Path)
    assert_type(explain.short_title("Alien (1979)", 8), str)
    report = minicf.check_gradients(minicf.Dot(3))
    assert_type((report.ok, report.error), tuple[bool, float])
    assert_type(report.frame(), pd.DataFrame)


def measured(rating: NDArray[np.float32], predicted: NDArray[np.float32], hits: NDArray[np.bool_]) -> float:
    for mean in (
        metrics.precision, metrics.recall, metrics.ndcg, metrics.average_precision, metrics.reciprocal_rank,
        metrics.hit_rate, metrics.recall_min,
    ):  # fmt: skip
        assert_type(mean(hits, [2, 1]), NDArray[np.float64])
    assert_type(metrics.graded_ndcg([[3, 0]], [[5, 3]]), NDArray[np.float64])
    assert_type(metrics.auc([[0.5, 0.1]], [[True, False]]), NDArray[np.float64])
    assert_type(metrics.coverage([[0, 1]], 2), float)
    assert_type(metrics.novelty([[0, 1]], [3, 4], 5), NDArray[np.float64])
    return assert_type(metrics.rmse(rating, predicted) + metrics.mae(rating, predicted), float)


def recommended(frame: pd.DataFrame, path: Path) -> minicf.Recommender:
    recommender = assert_type(minicf.Recommender(n_factors=8, epochs=1).fit(frame), minicf.Recommender)
    assert_type(recommender.predict(frame), NDArray[np.float32])
    assert_type(recommender.predict(frame, return_known=True), tuple[NDArray[np.float32], NDArray[np.bool_]])
    assert_type(recommender.recommend(["ann"], n=5), pd.DataFrame)
    assert_type(list(recommender.recommend_all(3)), list[pd.DataFrame])
    assert_type(recommender.partial_fit(frame, epochs=2), minicf.Recommender)
    assert_type(recommender.recommend("ann", candidates={"ann": ["x", "y"]}, exclude=["z"]), pd.DataFrame)
    assert_type(recommender.predict_user("ann"), NDArray[np.float32])
    assert_type((recommender.duplicates, recommender.unknown), tuple[str, str])
    assert_type(recommender.n_threads, int | None)
    assert_type(recommender.similar_items(["x"], candidates=["y"]), pd.DataFrame)
    assert_type(recommender.similar_users("ann", metric="dot"), pd.DataFrame)
    assert_type(recommender.fold_in({"x": 4.5}, id="bob"), pd.DataFrame)
    assert_type(recommender.recalculate({"x": 4.5}, id="bob"), pd.DataFrame)
    assert_type(recommender.factors("item"), pd.DataFrame)
    assert_type(recommender.nearest([0.0] * 8), pd.DataFrame)
    assert_type((recommender.users_, recommender.items_), tuple[minicf.Vocabulary, minicf.Vocabulary])
    assert_type(recommender.model_, minicf.Model)
    assert_type(recommender.weights_, dict[str, np.ndarray])
    assert_type(recommender.titles_, np.ndarray | None)
    assert_type(recommender.seen_, minicf.Bags | None)
    assert_type(recommender.n_features_in_, int)
    assert_type(recommender.history_, pd.DataFrame)
    assert_type(recommender.r_hat_, pd.DataFrame)
    assert_type(recommender.solver_, minicf.Solver)
    assert_type(recommender.posterior_, Posterior | None)
    assert_type(recommender.preference_, Preference | None)
    assert_type(recommender.score_kind_, str)
    assert_type(recommender.explain("ann", "x"), pd.DataFrame)
    assert_type(recommender.recommend(["ann"], by="rating"), pd.DataFrame)
    assert_type(recommender.rating_range_, tuple[float, float])
    assert_type((recommender.mean_, recommender.std_, recommender.deviation_), tuple[float, float, float])
    assert_type(recommender.vocabulary("user"), minicf.Vocabulary)
    assert_type(recommender.inputs.ratings(frame), minicf.Ratings)
    assert_type(recommender.scores.pairs(np.array([0]), np.array([-1])), NDArray[np.float32])
    measures = recommender.evaluate(frame)
    assert_type((measures["ndcg"], measures.most_popular), tuple[float, dict[str, float]])
    assert_type(measures.frame(), pd.DataFrame)
    assert_type(recommender.list_scores.pairs(np.array([0]), np.array([1])), NDArray[np.float32])
    assert_type(recommender.evaluate_users(frame, auc=True), pd.DataFrame)
    assert_type(recommender.score(frame[["userId", "movieId"]], frame["rating"]), float)
    assert_type(recommender.get_params(), dict[str, Any])
    assert_type(recommender.trainer_, minicf.Trainer)
    assert_type(minicf.cross_validate(recommender, frame), pd.DataFrame)
    assert_type(minicf.cross_validate(recommender, frame, cv=[(0, 1)], return_train_score=True), pd.DataFrame)
    assert_type(explain.bias_table(recommender, minicf.load_movielens()), pd.DataFrame)
    assert_type(explain.learning_curves(recommender), pd.DataFrame)
    recommender.save(path)
    return assert_type(minicf.load(path), minicf.Recommender)


def searched(frame: pd.DataFrame) -> minicf.ItemKNN:
    assert_type(minicf.MostPopular().fit(frame).recommend("ann"), pd.DataFrame)
    assert_type(minicf.Biases(item_damping=3.0).fit(frame).evaluate(frame)["rmse"], float)
    assert_type(minicf.RatingFolds(3).get_n_splits(), int)
    knn = minicf.ItemKNN(n_neighbors=5)
    assert_type(minicf.ranking_scorer("ndcg", k=5)(knn.fit(frame), frame), float)
    assert_type(minicf.tune(knn, frame, n=3).table, pd.DataFrame)
    return assert_type(knn.fit(frame), minicf.ItemKNN)


# Alone on a line, after the imports above.
RIGHT = (
    "ratings = minicf.load_movielens()",
    "trainer = minicf.Trainer(minicf.DotBias(3), minicf.Adam(0.1))",
    "recommender = minicf.Recommender()",
    "recommender.fit(ratings).recommend([1])",
    "trainer.fit(ratings, schedule=minicf.Cosine(3))",
    "minicf.Trainer(minicf.Dot(3), minicf.Gradient(minicf.SGD(0.1), minicf.Logistic()))",
    "explain.bias_table(trainer, ratings).head()",
    "minicf.load('x').predict(ratings).mean()",
)
WRONG = (
    "minicf.Tranier",
    "minicf.Dot('3')",
    "minicf.Adam('0.1')",
    "minicf.Trainer(minicf.Dot(3), minicf.Dot(3))",
    "minicf.Trainer(minicf.Dot(3), minicf.SGD(0.1), loss=minicf.SGD(0.1))",
    "minicf.Gradient(minicf.Logistic())",
    "minicf.Dot(3).predict({}, 0, 0)",
    "trainer.optimizer = minicf.SGD(0.1)",
    "trainer.fit(ratings, schedule=3)",
    "trainer.fitt(ratings)",
    "trainer.predict(1, 2).mean()",
    "recommender.recomend([1])",
    "recommender.fit(ratings).recommend([1]).hed()",
    "recommender.predict(ratings, return_known=True).mean()",
    "minicf.load(3)",
    "ratings.users.index(3).append(2)",
    "ratings.spilt()",
    "explain.bias_table(trainer, ratings).hed()",
)
