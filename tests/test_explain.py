"""What `minicf.explain` says about a model, against brute force, and what its pictures show."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from minicf import (
    SGD,
    Adam,
    CosineRestarts,
    Dot,
    DotBias,
    Hybrid,
    Net,
    Ratings,
    Recommender,
    Trainer,
    explain,
    load_movielens,
)
from minicf.data import Batch, UnknownIdError
from minicf.explain import pictures, source
from minicf.models import Model, Parameter
from minicf.texts import harmless
from minicf.train import History

SIDES = ("user", "item")
N_USERS, N_ITEMS = 23, 31
RANGE = (0.5, 5.0)
MODELS = {
    "dot": Dot(4),
    "bias": DotBias(4, rating_range=RANGE, global_mean=0.3),
    "bias-plain": DotBias(4),
    "net": Net(4, hidden=(5,), dropout=(0.0, 0.0), rating_range=RANGE),
    "hybrid-dot": Hybrid({"net": (Net(4, hidden=(), dropout=0.0), 0.2), "dot": (DotBias(4), 1.0)}),
    "hybrid-net": Hybrid({"net": (Net(4, hidden=(), dropout=0.0), 1.0), "dot": (DotBias(4), 0.2)}),
}
WITH_BIASES = ("bias", "bias-plain", "hybrid-dot")


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    """Ids with gaps, uneven counts, one item without a title, one title as long as they come."""
    rng = np.random.default_rng(7)
    pairs = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if rng.random() < 0.2 + 0.7 * i / N_ITEMS]
    user, item = np.array(pairs).T
    frame = pd.DataFrame({"userId": 10 + 3 * user, "movieId": 100 + 7 * item})
    frame["rating"] = rng.integers(1, 11, len(frame)) / 2
    titles = {100 + 7 * i: f"Movie {i} ({1960 + i})" for i in range(N_ITEMS) if i != 4}
    titles[100] = "Raiders of the Lost Ark (Indiana Jones and the Raiders of the Lost Ark) (1981)"
    return Ratings.from_frame(frame, titles=titles)


@pytest.fixture
def pyplot() -> Any:
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="pictures need matplotlib")
    pyplot.switch_backend("agg")
    yield pyplot
    pyplot.close("all")


def trained(name: str, seed: int = 0) -> Trainer:
    """A trainer with random weights, large enough that every term of a prediction counts."""
    model = MODELS[name]
    rng = np.random.default_rng(seed)
    weights = {key: rng.normal(0, 0.7, shape) for key, shape in model.shapes(N_USERS, N_ITEMS).items()}
    return Trainer(model, SGD(0.1), backend="numpy", dtype="float64", weights=weights)


def predictions(trainer: Trainer) -> np.ndarray:
    """All of them, (users, items)."""
    user, item = np.divmod(np.arange(N_USERS * N_ITEMS), N_ITEMS)
    return trainer.predict(user, item).reshape(N_USERS, N_ITEMS)


# --- biases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_BIASES)
def test_bias_table_lists_items_by_their_bias(name: str, ratings: Ratings) -> None:
    trainer = trained(name)
    table = explain.bias_table(trainer, ratings, top=None)
    assert sorted(table.item) == list(range(N_ITEMS))
    np.testing.assert_array_equal(table.bias, trainer.weights["item_bias"][table.item])
    assert all(a >= b for a, b in pairwise(table.bias))
    frame = ratings.frame().groupby("movieId").rating
    pd.testing.assert_series_equal(table.ratings, frame.count().loc[table.index], check_names=False)
    np.testing.assert_allclose(table.mean_rating, frame.mean().loc[table.index], rtol=1e-6)  # ratings are float32
    assert table.index.name == "item_id"
    assert table.title[100 + 7 * 6] == "Movie 6 (1966)"
    assert table.title[100 + 7 * 4] == "128"  # the id stands in for a missing title


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(WITH_BIASES)))
def test_a_model_without_biases_is_asked_by_its_predictions(name: str, ratings: Ratings) -> None:
    trainer = trained(name)
    table = explain.bias_table(trainer, ratings, top=None)
    np.testing.assert_allclose(table.mean_prediction, predictions(trainer).mean(axis=0)[table.item], rtol=1e-12)
    assert all(a >= b for a, b in pairwise(table.mean_prediction))


def test_means_over_many_users_take_a_sample(monkeypatch: pytest.MonkeyPatch, ratings: Ratings) -> None:
    monkeypatch.setattr(source, "SAMPLE", 5)
    trainer = trained("net")
    users = [0, 6, 11, 16, 22]  # evenly spread, both ends included (5.5 rounds to even)
    table = explain.bias_table(trainer, ratings, top=None)
    np.testing.assert_allclose(table.mean_prediction, predictions(trainer)[users].mean(axis=0)[table.item])


def test_only_the_most_rated_are_listed(ratings: Ratings) -> None:
    counts = ratings.item_counts()
    table = explain.bias_table(trained("bias"), ratings, top=9)
    assert len(table) == 9
    assert table.ratings.min() >= np.delete(counts, table.item).max()
    # An item without ratings is never among them, however many are asked for.
    rated = ratings.take(ratings.item != 3)
    assert 3 not in set(explain.bias_table(trained("bias"), rated, top=None).item)
    assert len(explain.bias_table(trained("bias"), rated, top=1000)) == N_ITEMS - 1


# The 15 worst of the 2,000 or 3,000 most rated by write-up 000, 002 or 004, all three of them united.
PUBLISHED_WORST = {
    "2 Fast 2 Furious (Fast and the Furious 2, The) (2003)", "Anaconda (1997)", "Batman & Robin (1997)",
    "Battlefield Earth (2000)", "Bedazzled (2000)", "Blade: Trinity (2004)", "Congo (1995)", "Flintstones, The (1994)",
    "Haunting, The (1999)", "House on Haunted Hill (1999)", "Howard the Duck (1986)", "Inspector Gadget (1999)",
    "Jaws 3-D (1983)", "Little Nicky (2000)", "Message in a Bottle (1999)",
    "Mighty Morphin Power Rangers: The Movie (1995)", "Police Academy 3: Back in Training (1986)",
    "Police Academy 4: Citizens on Patrol (1987)", "Police Academy 5: Assignment: Miami Beach (1988)",
    "Police Academy 6: City Under Siege (1989)", "Road to Wellville, The (1994)", "Showgirls (1995)",
    "Speed 2: Cruise Control (1997)", "Spice World (1997)", "Super Mario Bros. (1993)", "Superman III (1983)",
    "Superman IV: The Quest for Peace (1987)", "Wild Wild West (1999)",
}  # fmt: skip


@pytest.mark.slow
def test_biases_on_real_ratings_are_those_of_the_lessons() -> None:
    ratings = load_movielens()
    train, valid = ratings.split(0.2, seed=42)
    trainer = Trainer(DotBias(50, rating_range=RANGE), Adam(0.01, weight_decay=2e-4))
    trainer.fit(train, valid, 3, CosineRestarts(1, 2))
    table = explain.bias_table(trainer, ratings, top=2000)
    assert len(PUBLISHED_WORST.intersection(table.title.tail(15))) >= 8
    assert "Shawshank Redemption, The (1994)" in set(table.title.head(15))


# --- components -----------------------------------------------------------------------------------------------------


def test_components_are_those_of_items_by_factors(ratings: Ratings) -> None:
    trainer = trained("bias")
    found = explain.components(trainer, ratings, n=3, top=None, ends=4)
    q = trainer.weights["item_factors"][found.scores.item]
    pca = PCA(3, svd_solver="full").fit(q)  # items are the samples: the mean item is taken away
    np.testing.assert_allclose(found.explained, pca.explained_variance_ratio_, rtol=1e-10)
    scores = found.scores[["pc1", "pc2", "pc3"]].to_numpy()
    np.testing.assert_allclose(np.abs(scores), np.abs(pca.transform(q)), atol=1e-12)
    centred = q - q.mean(axis=0)
    # The sign is fixed by the largest loading, so that two runs agree.
    loadings = np.linalg.lstsq(centred, scores, rcond=None)[0]
    assert (loadings[np.abs(loadings).argmax(axis=0), np.arange(3)] > 0).all()


def test_ends_are_the_outermost_items(ratings: Ratings) -> None:
    found = explain.components(trained("net"), ratings, n=2, ends=4)
    for component in (1, 2):
        by_score = found.scores.sort_values(f"pc{component}", ascending=False)
        for end, rows in (("high", by_score[:4]), ("low", by_score[::-1][:4])):
            part = found.ends[(found.ends.component == component) & (found.ends.end == end)]
            assert list(part.title) == list(rows.title)
            np.testing.assert_array_equal(part.score, rows[f"pc{component}"])
    assert len(found.ends) == 16


def test_more_components_than_factors_are_refused(ratings: Ratings) -> None:
    with pytest.raises(ValueError, match="n is 5; 31 items with 4 factors"):
        explain.components(trained("bias"), ratings, n=5)


def test_item_map_holds_the_components_asked_for(ratings: Ratings) -> None:
    trainer = trained("bias")
    table = explain.item_map(trainer, ratings, x=3, y=1, top=20)
    scores = explain.components(trainer, ratings, n=3, top=20).scores
    assert list(table.columns) == ["item", "title", "pc3", "pc1", "ratings"]
    pd.testing.assert_frame_equal(table, scores[table.columns.to_list()])


# --- neighbours and parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dot", "bias", "hybrid-dot"])
def test_nearest_items_by_cosine(name: str, ratings: Ratings) -> None:
    trainer = trained(name)
    q = trainer.weights["item_factors"]
    cosine = q @ q[5] / np.linalg.norm(q, axis=1) / np.linalg.norm(q[5])
    table = explain.nearest_items(trainer, ratings, 5, n=6, top=None)
    assert list(table.item) == [i for i in np.argsort(-cosine) if i != 5][:6]
    np.testing.assert_allclose(table.similarity, cosine[table.item], rtol=1e-12)
    rare = int(ratings.item_counts().argmin())  # an item need not be among the most rated itself
    among = explain.nearest_items(trainer, ratings, rare, n=6, top=10)
    assert set(among.item) <= set(np.argsort(-ratings.item_counts(), kind="stable")[:10])


def test_nearest_items_of_a_net_by_its_predictions(ratings: Ratings) -> None:
    trainer = trained("net")
    y = predictions(trainer)
    left = y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean()  # neither the item's mean nor the user's
    cosine = left.T @ left[:, 5] / np.linalg.norm(left, axis=0) / np.linalg.norm(left[:, 5])
    table = explain.nearest_items(trainer, ratings, 5, n=6, top=None)
    assert list(table.item) == [i for i in np.argsort(-cosine) if i != 5][:6]
    np.testing.assert_allclose(table.similarity, cosine[table.item], rtol=1e-9)


def test_a_sum_of_user_and_item_has_no_neighbours(ratings: Ratings) -> None:
    """A net without hidden layers is such a sum: what rounding leaves of it must not become a similarity."""
    assert (explain.nearest_items(trained("hybrid-net"), ratings, 5).similarity == 0).all()


def test_an_item_without_factors_is_like_nothing(ratings: Ratings) -> None:
    weights = trained("dot").weights
    weights["item_factors"][5] = 0
    trainer = Trainer(MODELS["dot"], SGD(0.1), backend="numpy", weights=weights)
    assert (explain.nearest_items(trainer, ratings, 5).similarity == 0).all()


@pytest.mark.parametrize("name", ["dot", "bias", "bias-plain", "hybrid-dot"])
def test_parts_of_a_dot_product_add_up(name: str) -> None:
    trainer = trained(name)
    w = trainer.weights
    for user, item in ((0, 0), (3, 17), (22, 30)):
        found = explain.score_parts(trainer, user, item)
        values = found.parts.set_index("part").value
        assert (
            abs(values.sum() - found.score) < 1e-14 * np.abs(values).sum()
        )  # pandas' sum rounds, the score's does not
        assert found.prediction == pytest.approx(trainer.predict(user, item), rel=1e-12)
        assert values["factor 2"] == w["user_factors"][user, 1] * w["item_factors"][item, 1]
        if name != "dot":
            assert values["user bias"] == w["user_bias"][user]
            assert values["item bias"] == w["item_bias"][item]
        inner = getattr(MODELS[name], "members", {}).get("dot", (MODELS[name],))[0]
        assert values["global mean"] == inner.global_mean
        if inner.rating_range is None:
            assert found.prediction == found.score
        else:  # F4, backwards
            share = (found.prediction - RANGE[0]) / (RANGE[1] - RANGE[0])
            assert np.log(share / (1 - share)) == pytest.approx(found.score, rel=1e-10)


@pytest.mark.parametrize("name", ["net", "hybrid-net"])
def test_parts_of_a_net_add_up(name: str) -> None:
    trainer = trained(name)
    y = predictions(trainer)
    found = explain.score_parts(trainer, 3, 17)
    values = found.parts.set_index("part").value
    expected = {"mean": y.mean(), "user": y[3].mean() - y.mean(), "item": y[:, 17].mean() - y.mean()}
    for part, value in expected.items():
        assert values[part] == pytest.approx(value, abs=1e-12)
    assert values.sum() == pytest.approx(y[3, 17], rel=1e-12)
    assert found.score == found.prediction == pytest.approx(y[3, 17], rel=1e-12)
    if name == "hybrid-net":  # no hidden layer: a sum of the user's and the item's share, nothing in common
        assert values["user and item"] == pytest.approx(0, abs=1e-12)


# --- training -------------------------------------------------------------------------------------------------------


def test_learning_curves_are_the_history(ratings: Ratings, pyplot: Any) -> None:
    train, valid = ratings.split(0.2)
    trainer = Trainer(DotBias(3), SGD(0.05), backend="numpy")
    trainer.fit(train, valid, 2)
    trainer.lr = 0.01
    trainer.fit(train, valid, 1)
    table = explain.learning_curves(trainer)
    pd.testing.assert_frame_equal(table.drop(columns="run"), trainer.history.frame())
    other = Trainer(Dot(3), SGD(0.05), backend="numpy")
    other.fit(train, epochs=2)
    table, ax = explain.learning_curves({"with": trainer, "without": other}, ax=True)
    assert list(table.run) == ["with"] * 3 + ["without"] * 2
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert set(lines) == {"with training", "with validation", "without training"}  # the other has no validation
    np.testing.assert_array_equal(lines["with validation"], trainer.history.frame().valid_mse)
    assert ax.get_xlabel() == "epoch"
    assert ax.get_ylabel() == "mean squared error"
    steps = ax.figure.axes[1].lines[0]
    np.testing.assert_array_equal(steps.get_xdata(), [0.5, 1.5, 2.5, 3.5])
    np.testing.assert_array_equal(steps.get_ydata(), [0.05, 0.05, 0.01, 0.01])
    _, ax = explain.learning_curves(other, ax=True)
    assert ax.get_title() == "Learning rate 0.05"
    assert len(ax.figure.axes) == 1, "a rate that stays needs no axis"
    table, ax = explain.learning_curves({"one": [other, trainer]}, training=False, ax=True)
    assert list(table.epoch) == [1, 2, 3, 4, 5], "a list is one run, its epochs go on"
    assert [line.get_label() for line in ax.lines] == ["one"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata()[2:], trainer.history.frame().valid_mse)
    with pytest.raises(ValueError, match="history is empty"):
        explain.learning_curves(trained("bias"))


# --- pictures -------------------------------------------------------------------------------------------------------


CALLS = {
    "bias_table": lambda trainer, ratings, ax: explain.bias_table(trainer, ratings, ax=ax),
    "components": lambda trainer, ratings, ax: explain.components(trainer, ratings, ax=ax),
    "item_map": lambda trainer, ratings, ax: explain.item_map(trainer, ratings, ax=ax),
    "nearest_items": lambda trainer, ratings, ax: explain.nearest_items(trainer, ratings, 2, ax=ax),
    "score_parts": lambda trainer, ratings, ax: explain.score_parts(trainer, 1, 2, ax=ax),
}


ODD = (
    "$x$", "$", "$$", "$\\frac{$", "\\$a\\$", "\\frac{", "5$ & 6$", "a_b^c", "{", "}", "%", "#", "~", "_hidden",
    "$\\alpha$ (1999)", "\x1b[31mred", "\0", "two\nlines", "\r", "\u2028", "\u202eabc", "", " ", "<b>", "No $ (1999)",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["titles", "ids"])
def test_titles_ids_and_names_are_drawn_as_they_are(kind: str, pyplot: Any) -> None:
    """matplotlib would typeset what stands between two $, or raise where that is no mathematics."""
    names = [name for name in ODD if kind == "titles" or (name and "\0" not in name)]
    item, user = np.tile(np.arange(len(names)), 6), np.repeat(np.arange(6), len(names))
    frame = pd.DataFrame({"userId": user, "movieId": item, "rating": (user + item) % 5 + 1.0})
    if kind == "ids":
        frame["movieId"] = [names[i] for i in item]
    table = Ratings.from_frame(frame, titles=dict(enumerate(names)) if kind == "titles" else None)
    weights = {
        key: np.random.default_rng(0).normal(size=shape) for key, shape in DotBias(3).shapes(6, len(names)).items()
    }
    trainer = Trainer(DotBias(3), SGD(0.1), backend="numpy", weights=weights)
    fitted = Trainer(DotBias(3), SGD(0.1), backend="numpy")
    fitted.fit(table, table, 2)

    def texts(drawn: Any, written: Any) -> set[str]:
        drawn.figure.canvas.draw()
        assert not any(text.get_parse_math() or text.get_usetex() for text in written)
        return {text.get_text() for text in written}

    expected = {harmless(name) for name in names}
    _, drawn = explain.bias_table(trainer, table, ax=True)
    assert texts(drawn, drawn.get_yticklabels()) == expected
    _, drawn = explain.item_map(trainer, table, ax=True)
    assert texts(drawn, drawn.texts) & expected
    _, drawn = explain.learning_curves(dict.fromkeys(names, fitted), training=False, ax=True)
    assert texts(drawn, drawn.get_legend().get_texts()) == expected
    for place in range(len(names)):
        _, drawn = explain.nearest_items(trainer, table, place, ax=True)
        assert texts(drawn, [drawn.title, *drawn.get_yticklabels()]) <= expected | {
            f"Nearest to {name}" for name in expected
        }
        pyplot.close("all")


@pytest.mark.parametrize("name", ["bias", "net"])
@pytest.mark.parametrize("call", sorted(CALLS))
def test_pictures_are_drawn_where_asked_and_nothing_is_clipped(
    call: str, name: str, ratings: Ratings, pyplot: Any
) -> None:
    trainer = trained(name)
    data = CALLS[call](trainer, ratings, None)
    assert not pyplot.get_fignums(), "no picture was asked for"
    figure, mine = pyplot.subplots(layout="constrained", figsize=(9, 7))
    same, ax = CALLS[call](trainer, ratings, mine)
    assert ax is mine
    assert type(same) is type(data)
    _, new = CALLS[call](trainer, ratings, True)
    assert new.figure is not figure
    for drawn in (ax, new):
        assert drawn.get_xlabel()
        assert drawn.get_title()
        whole = drawn.figure
        whole.draw_without_rendering()
        low, high = drawn.get_ylim()
        ticks = [text for text in drawn.get_yticklabels() if low <= text.get_position()[1] <= high]
        texts = [drawn.title, drawn.xaxis.label, drawn.yaxis.label, *ticks, *drawn.texts]
        for text in texts:
            if text.get_text():
                box = text.get_window_extent()
                assert box.x0 >= -1, text
                assert box.x1 <= whole.bbox.width + 1, text
                assert box.y0 >= -1, text
                assert box.y1 <= whole.bbox.height + 1, text


def test_many_factors_are_drawn_as_the_largest_and_the_rest(pyplot: Any) -> None:
    rng = np.random.default_rng(0)
    weights = {"user_factors": rng.normal(size=(2, 30)), "item_factors": rng.normal(size=(3, 30))}
    found, ax = explain.score_parts(Trainer(Dot(30), SGD(0.1), backend="numpy", weights=weights), 1, 2, ax=True)
    assert len(found.parts) == 1 + 30
    widths = [bar.get_width() for bar in ax.patches]
    assert len(widths) == 12
    assert sum(widths) == pytest.approx(found.score, rel=1e-12)
    terms = sorted(found.parts.value[1:], key=abs, reverse=True)
    np.testing.assert_allclose(widths[1:-1], terms[:10], rtol=1e-12)


@pytest.mark.parametrize("labels", [12, N_ITEMS])
def test_labels_of_the_map_do_not_overlap(labels: int, ratings: Ratings, pyplot: Any) -> None:
    figure, ax = pyplot.subplots(figsize=(5, 4), layout="constrained")  # small: not all will fit
    table, _ = explain.item_map(trained("bias"), ratings, labels=labels, ax=ax)
    figure.canvas.draw()
    texts = [text for text in ax.texts if text.get_text()]
    assert 6 <= len(texts) <= labels
    assert {text.get_text() for text in texts} <= {explain.short_title(title, 38) for title in table.title}
    frame = ax.get_window_extent()
    boxes = [text.get_window_extent() for text in texts]
    for a, b in combinations(boxes, 2):
        assert not a.overlaps(b)
    for box in boxes:
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert frame.y0 <= box.y0
        assert box.y1 <= frame.y1
    # Each label stands nearer to its own point than to most: it points at the right one.
    points = {
        explain.short_title(t, 38): xy for t, xy in zip(table.title, table[["pc1", "pc2"]].to_numpy(), strict=True)
    }
    for text in texts:
        np.testing.assert_array_equal(text.xy, points[text.get_text()])


def test_half_of_the_labels_go_to_the_best_known(ratings: Ratings, pyplot: Any) -> None:
    x, y = np.array([0.0, 0.1, 0.2, 5.0, -4.0]), np.array([0.0, 0.1, 0.0, 0.2, 0.1])
    np.testing.assert_array_equal(pictures.points_to_label(x, y, 4), [0, 1, 3, 4])
    np.testing.assert_array_equal(pictures.points_to_label(x, y, 99), [0, 1, 2, 3, 4])
    assert len(pictures.points_to_label(x, y, 0)) == 0
    _, ax = explain.item_map(trained("bias"), ratings, labels=0, ax=True)
    assert not ax.texts


@pytest.mark.parametrize(
    ("title", "width", "short"),
    [
        ("Heat (1995)", 20, "Heat (1995)"),
        ("Seven (a.k.a. Se7en) (1995)", 20, "Seven (1995)"),
        ("Star Wars: Episode IV - A New Hope (1977)", 30, "Star Wars: Episode IV… (1977)"),
        ("A very long title without any year", 12, "A very long…"),
    ],
)
def test_short_titles_keep_the_year(title: str, width: int, short: str) -> None:
    assert explain.short_title(title, width) == short
    assert len(short) <= width


# --- whose ratings --------------------------------------------------------------------------------------------------


def fitted(ratings: Ratings, **options: Any) -> Recommender:
    return Recommender(n_factors=3, epochs=2, backend="numpy", **options).fit(ratings)


def rated(user: list[int], item: list[int]) -> Ratings:
    """Ratings of these ids, each item's title its id in words."""
    frame = pd.DataFrame({"userId": user, "movieId": item, "rating": 1.0 + np.arange(len(user)) % 5})
    return Ratings.from_frame(frame, titles={i: f"Movie {i}" for i in sorted(set(item))})


TABLES = {
    "bias_table": lambda model, ratings: explain.bias_table(model, ratings),
    "components": lambda model, ratings: explain.components(model, ratings, n=2).scores,
    "item_map": lambda model, ratings: explain.item_map(model, ratings),
    "nearest_items": lambda model, ratings: explain.nearest_items(model, ratings, int(ratings.item[0])),
}


def test_ids_are_asked_and_not_counts(caplog: pytest.LogCaptureFixture) -> None:
    """Users 1, 2 and 3 against users 2, 3 and 4, items likewise: as many, and only some of them the same."""
    mine = rated([1, 1, 1, 2, 2, 3], [10, 20, 30, 20, 30, 30])
    other = rated([2, 2, 2, 3, 3, 4], [20, 30, 40, 20, 30, 30])
    assert (mine.n_users, mine.n_items) == (other.n_users, other.n_items)
    model = fitted(mine)
    bias = model.factors("item").set_index("movieId").bias
    with caplog.at_level(logging.INFO, "minicf"):
        table = explain.bias_table(model, other, top=None)
    assert set(table.index) == {20, 30}, "40 is not known"
    for item in (20, 30):
        assert table.title[item] == f"Movie {item}"
        assert table.bias[item] == bias[item]
        assert table.item[item] == other.items.index(item), "the index is that of the ratings given"
    assert table.ratings.to_dict() == {20: 2, 30: 2}, "user 4 is not known"
    assert [record.getMessage() for record in caplog.records if "left out" in record.getMessage()] == [
        "2 of 6 ratings left out: of users or items that the model does not know"
    ]


@pytest.mark.parametrize("call", sorted(TABLES))
def test_a_table_of_other_ids_is_refused(call: str) -> None:
    mine, other = rated([1, 1, 2, 2], [10, 20, 20, 30]), rated([3, 3, 4, 4], [40, 50, 50, 60])
    with pytest.raises(ValueError, match="none of the 4 ratings is of a user and an item that the model knows"):
        TABLES[call](fitted(mine), other)
    text = Ratings.from_frame(mine.frame().astype({"userId": str, "movieId": str}))
    with pytest.raises(ValueError, match="the first user and item are '1' and '10', in the model 1 and 10"):
        TABLES[call](fitted(mine), text)


@pytest.mark.parametrize(
    ("user", "item", "words"),
    [
        ([2, 2, 3, 3], [10, 20, 20, 30], "user ids of the ratings .* index 0 is id 2, in the model 1;"),
        ([1, 1, 2, 2], [10, 20, 20, 40], "item ids of the ratings .* index 2 is id 40, in the model 30;"),
        ([1, 1, 2, 3], [10, 20, 20, 30], "user ids of the ratings .* there are 3, in the model 2;"),
    ],
)
def test_a_trainer_that_knows_ids_refuses_others(user: list[int], item: list[int], words: str) -> None:
    mine, model = rated([1, 1, 2, 2], [10, 20, 20, 30]), DotBias(2)
    weights = model.init_weights(2, 3)
    trainer = SimpleNamespace(model=model, weights=weights, history=History(), users=mine.users, items=mine.items)
    table = explain.bias_table(trainer, mine)
    pd.testing.assert_frame_equal(explain.bias_table(SimpleNamespace(trainer_=trainer), mine), table)
    assert list(explain.bias_table(trainer, mine.take([0, 1])).title.sort_values()) == ["Movie 10", "Movie 20"]
    with pytest.raises(ValueError, match=words):
        explain.bias_table(trainer, rated(user, item))


@pytest.mark.parametrize("call", sorted(TABLES))
@pytest.mark.parametrize("model", ["dot_bias", "net"])
def test_a_recommender_takes_the_table_that_it_was_fitted_on(model: str, call: str, ratings: Ratings) -> None:
    """The whole table, of which it knows what its split rated; the split; a subset; also with users folded in later."""
    train = ratings.take((ratings.item != 4) & (ratings.user != 0))  # item 4 and user 0 stay unknown
    recommender = fitted(train, model=model)
    assert len(recommender.items_) < ratings.n_items
    expected = TABLES[call](recommender, Ratings.from_frame(train.frame()))
    first = dict(zip(ratings.items.ids.tolist(), ratings.titles, strict=True))
    for given in (train, ratings, ratings.take(np.arange(0, len(ratings), 2))):
        table = TABLES[call](recommender, given)
        assert set(table.index) <= set(recommender.items_.ids.tolist())
        assert (ratings.items.ids[table.item] == table.index).all()
        for id, title in table.title.items():
            assert title == (first[id] or str(id))
    same = TABLES[call](recommender, train)
    if call == "nearest_items":
        pd.testing.assert_series_equal(same.similarity, expected.similarity)
    else:
        columns = [name for name in expected.columns if name not in ("item", "title")]
        pd.testing.assert_frame_equal(same[columns], expected[columns])
    if model == "dot_bias":
        recommender.fold_in({100 + 7 * 9: 4.0, 100 + 7 * 12: 2.0}, id=1)  # comes first: all rows move
        pd.testing.assert_frame_equal(TABLES[call](recommender, train), same)


def test_an_index_is_that_of_the_ratings_given(ratings: Ratings) -> None:
    train = ratings.take(ratings.item != 4)
    recommender = fitted(train)
    table = explain.nearest_items(recommender, ratings, 5, n=3, top=None)
    similar = recommender.similar_items(ratings.items.ids[5], n=3)
    assert list(table.index) == list(similar.similar_movieId)
    assert list(table.item) == list(ratings.items.index(similar.similar_movieId))
    with pytest.raises(UnknownIdError, match=r"item is 4 \(id 128\); it must be an item that the model was trained on"):
        explain.nearest_items(recommender, ratings, 4)
    with pytest.raises(IndexError, match="item is 31; the ratings have 31 items, 0 … 30"):
        explain.nearest_items(recommender, ratings, 31)
    # Of the model where no ratings are given.
    user, item = (int(x.ids[3]) for x in (recommender.users_, recommender.items_))
    pair = pd.DataFrame({"userId": [user], "movieId": [item]})
    assert explain.score_parts(recommender, 3, 3).prediction == pytest.approx(recommender.predict(pair)[0], rel=1e-5)
    with pytest.raises(IndexError, match="item is 30; the model has 30 items, 0 … 29"):
        explain.score_parts(recommender, 0, 30)


def test_learning_curves_of_a_recommender_are_its_history(ratings: Ratings, pyplot: Any) -> None:
    recommender = fitted(ratings)
    table, ax = explain.learning_curves({"mine": recommender}, ax=True)
    pd.testing.assert_frame_equal(table.drop(columns="run"), recommender.history_)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), recommender.history_.train_mse)
    holder = SimpleNamespace(trainer_=recommender)
    assert len(explain.learning_curves([recommender, holder])) == 4
    with pytest.raises(ValueError, match="it must hold at least one model per run"):
        explain.learning_curves({"none": []})


def test_explaining_does_not_change_a_recommender(ratings: Ratings) -> None:
    recommender = fitted(ratings)
    before = {name: value.copy() for name, value in recommender.weights_.items()}
    for call in TABLES.values():
        call(recommender, ratings)
    curves = explain.learning_curves(recommender)
    curves["train_mse"] = 0.0
    explain.score_parts(recommender, 0, 0)
    assert (recommender.history_.train_mse > 0).all()
    for name, value in recommender.weights_.items():
        np.testing.assert_array_equal(value, before[name])


# --- models of the caller's own ---------------------------------------------------------------------------------------


class Distance(Model):
    """Predicts by the distance between user and item; of no kind that the package knows."""

    def parameters(self, sizes: Mapping[str, int]) -> dict[str, Parameter]:
        return {f"{side}_factors": Parameter((sizes[side], 4), side) for side in SIDES}

    def forward(self, w: Any, batch: Batch, masks: Any = None) -> Any:
        return 5.0 - np.square(w["user_factors"][batch.user] - w["item_factors"][batch.item]).sum(axis=1), None


class Only(Distance):
    """Nothing but a number for each user and each item."""

    def parameters(self, sizes: Mapping[str, int]) -> dict[str, Parameter]:
        return {f"{side}_bias": Parameter((sizes[side],), side) for side in SIDES}

    def forward(self, w: Any, batch: Batch, masks: Any = None) -> Any:
        return w["user_bias"][batch.user] * w["item_bias"][batch.item], None


class Negative(DotBias):
    """A dot product that predicts in another way: its biases and factors mean the contrary."""

    def forward(self, w: Any, batch: Batch, masks: Any = None) -> Any:
        y, cache = super().forward(w, batch, masks)
        return -y, cache


OWN: dict[str, Model] = {"distance": Distance(), "only": Only(), "negative": Negative(4)}


def own(name: str) -> Trainer:
    rng = np.random.default_rng(3)
    weights = {key: rng.normal(0, 0.7, shape) for key, shape in OWN[name].shapes(N_USERS, N_ITEMS).items()}
    return Trainer(OWN[name], SGD(0.1), backend="numpy", dtype="float64", weights=weights)


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_model_of_ones_own_is_asked_by_its_predictions(name: str, ratings: Ratings) -> None:
    trainer = own(name)
    y = predictions(trainer)
    table = explain.bias_table(trainer, ratings, top=None)
    np.testing.assert_allclose(table.mean_prediction, y.mean(axis=0)[table.item], rtol=1e-12)
    left = y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean()
    cosine = left.T @ left[:, 5] / np.linalg.norm(left, axis=0) / np.linalg.norm(left[:, 5])
    near = explain.nearest_items(trainer, ratings, 5, top=None)
    np.testing.assert_allclose(near.similarity, cosine[near.item], rtol=1e-9)
    found = explain.score_parts(trainer, 3, 17)
    assert found.score == found.prediction == pytest.approx(y[3, 17], rel=1e-12)
    assert list(found.parts.part) == ["mean", "user", "item", "user and item"]
    if name == "only":
        with pytest.raises(
            ValueError, match=r"must have a table item_factors .* \(its weights are user_bias, item_bias"
        ):
            explain.components(trainer, ratings)
    else:
        assert len(explain.item_map(trainer, ratings)) == N_ITEMS


# --- doors ----------------------------------------------------------------------------------------------------------


def test_whatever_holds_a_trainer_will_do(ratings: Ratings) -> None:
    trainer = trained("bias")
    holder = SimpleNamespace(trainer_=trainer)
    pd.testing.assert_frame_equal(explain.bias_table(holder, ratings), explain.bias_table(trainer, ratings))


def test_bad_arguments_are_named(ratings: Ratings, pyplot: Any) -> None:
    trainer = trained("bias")
    with pytest.raises(TypeError, match="model is a DotBias; it must be a trained Trainer"):
        explain.bias_table(MODELS["bias"], ratings)
    with pytest.raises(RuntimeError, match="call fit first"):
        explain.bias_table(Trainer(MODELS["bias"], SGD(0.1)), ratings)
    with pytest.raises(TypeError, match="ratings is a DataFrame"):
        explain.bias_table(trainer, ratings.frame())
    with pytest.raises(ValueError, match="knows 23 users and 31 items, the ratings have 2 and 1"):
        explain.bias_table(trainer, Ratings([0, 1], [0, 0], [1.0, 2.0]))
    with pytest.raises(ValueError, match="top is 0"):
        explain.bias_table(trainer, ratings, top=0)
    with pytest.raises(TypeError, match=r"model is a Recommender; it must be .* a fitted Recommender"):
        explain.bias_table(Recommender(), ratings)
    with pytest.raises(IndexError, match="item is 31; the model has 31 items, 0 … 30"):
        explain.score_parts(trainer, 0, 31)
    with pytest.raises(TypeError, match=r"user is True; it must be an index, the Vocabulary of users\.index"):
        explain.score_parts(trainer, True, 3)
    with pytest.raises(ValueError, match="ends is -1"):
        explain.components(trainer, ratings, ends=-1)
    with pytest.raises(TypeError, match=r"item is '100'; it must be an index, ratings\.items\.index"):
        explain.nearest_items(trainer, ratings, "100")
    with pytest.raises(TypeError, match="ax is 'new'; it must be matplotlib axes"):
        explain.bias_table(trainer, ratings, ax="new")


def test_libraries_are_imported_when_needed() -> None:
    code = "import sys; from minicf import explain; print([m for m in ('matplotlib', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_matplotlib_a_picture_says_what_to_install(monkeypatch: pytest.MonkeyPatch, ratings: Ratings) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert len(explain.item_map(trained("bias"), ratings)) == N_ITEMS
    with pytest.raises(ImportError, match=r"pip install 'minicf\[plot\]'"):
        explain.item_map(trained("bias"), ratings, ax=True)


def test_nothing_that_is_given_is_changed(ratings: Ratings) -> None:
    trainer = trained("bias")
    before = trainer.weights
    for call in CALLS.values():
        call(trainer, ratings, None)
    for name, value in trainer.weights.items():
        np.testing.assert_array_equal(value, before[name])
