"""Tables of a trained model: biases, components, map, nearest items, parts of a score, learning curves.

Each function returns data. With ``ax=`` it also draws them (`minicf.explain.pictures`) and returns (data, axes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import pandas as pd

from minicf.arguments import check_int
from minicf.data import Ratings
from minicf.explain import pictures
from minicf.explain.source import (
    Source,
    check_index,
    evenly_spaced,
    formula,
    item_directions,
    item_factors,
    item_frame,
    levels,
    mean_predictions,
    mean_ratings,
    most_rated,
    predict,
    prediction_blocks,
    sizes,
    source,
    source_and_ratings,
    titles,
)
from minicf.models import Dot
from minicf.ops import rating_range

# --- biases -----------------------------------------------------------------------------------------------------------


@overload
def bias_table(model: Any, ratings: Ratings, top: int | None = 2000, ax: None = None) -> pd.DataFrame: ...
@overload
def bias_table(model: Any, ratings: Ratings, top: int | None = 2000, *, ax: Any) -> tuple[pd.DataFrame, Any]: ...
def bias_table(model: Any, ratings: Ratings, top: int | None = 2000, ax: Any = None) -> Any:
    """List items by bias, the best first: the part of a rating that an item gets from every user.

    Parameters
    ----------
    model : Trainer, fitted Recommender, or object with one of these as ``trainer_``
    ratings : Ratings
        For titles and counts. For a Trainer, the ratings that it was trained on, or a split of them. For a Recommender
        any table with ids that it knows: ratings of other users and items are left out (logged at level INFO).
    top : int, optional
        Number of items, the most rated: the bias of an item with two ratings says little. None takes all.
    ax : matplotlib axes or True, optional
        Draw the 15 best and the 15 worst, and return (table, axes); True makes a new figure.

    Returns
    -------
    DataFrame
        Index item_id; columns item (its index in `ratings`), title, bias (``mean_prediction`` for a model without
        biases), ratings (their number) and mean_rating. Unlike the mean, a bias is corrected for how generous an
        item's raters are.

    Raises
    ------
    TypeError
        If `model` or `ratings` is something else.
    ValueError
        If the ratings are not of the model's users and items.
    RuntimeError
        If a Trainer has no weights yet.
    """
    trained, aligned = source_and_ratings(model, ratings)
    items = most_rated(aligned.ratings, top)
    name, values = levels(trained, items)
    table = item_frame(aligned, items, **{name: values})
    table["mean_rating"] = mean_ratings(aligned.ratings, items)
    table = table.sort_values(name, ascending=False, kind="stable")
    return table if ax is None else (table, pictures.draw_biases(ax, table, name))


# --- components -------------------------------------------------------------------------------------------------------


class Components(NamedTuple):
    """Principal components of the item factors, as `components` returns them."""

    scores: pd.DataFrame
    """Index item_id; columns item (its index in the ratings), title, pc1, pc2, … and ratings (their number)."""
    explained: np.ndarray
    """Share of the factors' variance along each component, float64 (n,)."""
    ends: pd.DataFrame
    """Columns component (from 1), end ("high" or "low"), title and score: the items at either end, outermost first."""


@overload
def components(
    model: Any, ratings: Ratings, n: int = 3, top: int | None = 2000, ends: int = 10, ax: None = None
) -> Components: ...
@overload
def components(
    model: Any, ratings: Ratings, n: int = 3, top: int | None = 2000, ends: int = 10, *, ax: Any
) -> tuple[Components, Any]: ...
def components(model: Any, ratings: Ratings, n: int = 3, top: int | None = 2000, ends: int = 10, ax: Any = None) -> Any:
    """Find the principal components of the item factors: the directions in which items differ most.

    Items are the samples and factors the variables: a component is a direction in the space of the factors, and an
    item's score is its position along that direction. (Most write-ups of the lesson fit PCA to the transposed table.
    Then the mean item is not subtracted and takes the place of the first component: ``examples/transposed_pca.py``.)

    Parameters
    ----------
    model, ratings
        As for `bias_table`; a model of the caller's own needs a table ``item_factors``.
    n : int
        Number of components.
    top : int, optional
        Number of items, the most rated; None takes all that have a rating.
    ends : int
        Number of items at either end of each component.
    ax : matplotlib axes or True, optional
        Draw the share of variance by component, and return (components, axes); True makes a new figure.

    Returns
    -------
    Components

    Raises
    ------
    ValueError
        If there are fewer items or factors than `n`, and as for `bias_table`.
    """
    n, ends = check_int("n", n, 1), check_int("ends", ends, 0)
    trained, aligned = source_and_ratings(model, ratings)
    items = most_rated(aligned.ratings, top)
    points, explained, _ = principal_components(item_factors(trained, items), n)
    scores = item_frame(aligned, items, **{f"pc{k + 1}": points[:, k] for k in range(n)})
    rows = []
    for k in range(n):
        order = np.argsort(-points[:, k], kind="stable")
        for end, outermost in (("high", order), ("low", order[::-1])):
            rows += [(k + 1, end, scores.title.iloc[i], points[i, k]) for i in outermost[:ends]]
    result = Components(scores, explained, pd.DataFrame(rows, columns=["component", "end", "title", "score"]))
    return result if ax is None else (result, pictures.draw_variance(ax, explained, len(items)))


def principal_components(factors: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores (items, n), shares of variance (n,) and axes (n, factors), the sign fixed so that two runs agree.

    `factors` is float64 of shape (items, factors).
    """
    if n > min(factors.shape):
        raise ValueError(f"n is {n}; {factors.shape[0]} items with {factors.shape[1]} factors have fewer components")
    centered = factors - factors.mean(axis=0)
    # NumPy's: importing scikit-learn takes longer than all of this. A test compares it with scikit-learn's PCA.
    _, singular, axes = np.linalg.svd(centered, full_matrices=False)
    variance, axes = np.square(singular), axes[:n]
    axes *= np.sign(axes[np.arange(n), np.abs(axes).argmax(axis=1)])[:, None]
    return centered @ axes.T, variance[:n] / max(variance.sum(), np.finfo(float).tiny), axes


@overload
def item_map(
    model: Any, ratings: Ratings, x: int = 1, y: int = 2, labels: int = 50, top: int | None = 2000, ax: None = None
) -> pd.DataFrame: ...
@overload
def item_map(
    model: Any, ratings: Ratings, x: int = 1, y: int = 2, labels: int = 50, top: int | None = 2000, *, ax: Any
) -> tuple[pd.DataFrame, Any]: ...
def item_map(
    model: Any,
    ratings: Ratings,
    x: int = 1,
    y: int = 2,
    labels: int = 50,
    top: int | None = 2000,
    ax: Any = None,
) -> Any:
    """Place items along two principal components.

    Parameters
    ----------
    model, ratings, top
        As for `components`.
    x, y : int
        The components, counted from 1.
    labels : int
        Number of labels: half of them for the most rated items, half for the outermost. A label without a free place
        is left out.
    ax : matplotlib axes or True, optional
        Draw the map, and return (table, axes); True makes a new figure.

    Returns
    -------
    DataFrame
        Index item_id; columns item (its index in `ratings`), title, the two components (such as pc1 and pc2) and
        ratings (their number), most rated first.

    Raises
    ------
    ValueError
        As for `components`.
    """
    x, y, labels = check_int("x", x, 1), check_int("y", y, 1), check_int("labels", labels, 0)
    found = components(model, ratings, max(x, y), top)
    table = found.scores[list(dict.fromkeys(["item", "title", f"pc{x}", f"pc{y}", "ratings"]))]
    return table if ax is None else (table, pictures.draw_map(ax, table, found.explained, x, y, labels))


# --- neighbors --------------------------------------------------------------------------------------------------------


@overload
def nearest_items(
    model: Any, ratings: Ratings, item: int, n: int = 10, top: int | None = 2000, ax: None = None
) -> pd.DataFrame: ...
@overload
def nearest_items(
    model: Any, ratings: Ratings, item: int, n: int = 10, top: int | None = 2000, *, ax: Any
) -> tuple[pd.DataFrame, Any]: ...
def nearest_items(model: Any, ratings: Ratings, item: int, n: int = 10, top: int | None = 2000, ax: Any = None) -> Any:
    """Find the items that are most similar to one item, to the model.

    Parameters
    ----------
    model, ratings
        As for `bias_table`.
    item : int
        Its index in `ratings`, which is the model's where the ratings are those that it was trained on;
        ``ratings.items.index(item_id)`` finds it.
    n : int
        Number of neighbors.
    top : int, optional
        Number of items to choose from, the most rated; None takes all that have a rating.
    ax : matplotlib axes or True, optional
        Draw the similarities, and return (table, axes); True makes a new figure.

    Returns
    -------
    DataFrame
        Index item_id; columns item (its index in `ratings`), title, similarity (-1 … 1) and ratings (their number), the
        most similar first. The similarity is the cosine between the items' factors for `Dot` and `DotBias`. Other
        models may use factors in any way: theirs is the cosine between the items' predictions over the users, less the
        item's and the user's means.

    Raises
    ------
    TypeError, IndexError
        If `item` is not an index of the ratings.
    UnknownIdError
        If a Recommender does not know the item: it has no rating in training.
    ValueError
        As for `bias_table`.
    """
    trained, aligned = source_and_ratings(model, ratings)
    own = aligned.model_item("item", item, ratings)
    others = most_rated(aligned.ratings, top)
    others = others[others != own]
    rows = np.concatenate([[own], others])
    vectors = item_directions(trained, rows)
    similarity = vectors[1:] @ vectors[0]
    best = np.argsort(-similarity, kind="stable")[: check_int("n", n, 1)]
    table = item_frame(aligned, others[best], similarity=similarity[best])
    if ax is None:
        return table
    return table, pictures.draw_similarities(ax, table, titles(aligned.ratings, rows[:1])[0])


def nearest(vectors: np.ndarray, n: int, among: int) -> tuple[np.ndarray, np.ndarray]:
    """Find for each vector the n most similar others among the first `among`.

    Returns
    -------
    positions : array of int64, shape (items, n)
    similarities : array of float64, shape (items, n)
    """
    near, similar = np.empty((len(vectors), n), np.int64), np.empty((len(vectors), n))
    for start in range(0, len(vectors), 1024):  # bounds the memory
        part = vectors[start : start + 1024] @ vectors[:among].T
        own = np.arange(start, min(start + len(part), part.shape[1]))
        part[own - start, own] = -np.inf
        order = np.argsort(-part, axis=1, kind="stable")[:, :n]
        near[start : start + 1024] = order
        similar[start : start + 1024] = np.take_along_axis(part, order, axis=1)
    return near, similar


# --- one prediction ---------------------------------------------------------------------------------------------------


class ScoreParts(NamedTuple):
    """Parts of one prediction, as `score_parts` returns them."""

    parts: pd.DataFrame
    """Columns part (its name) and value; the values add up to the score."""
    score: float
    """Sum of the parts: the prediction before the rating range."""
    prediction: float
    """The model's output: the predicted rating, or a log-odds with the logistic loss.
    (`Recommender.predict` also clips it to the ratings seen in training.)"""


@overload
def score_parts(model: Any, user: int, item: int, ax: None = None) -> ScoreParts: ...
@overload
def score_parts(model: Any, user: int, item: int, *, ax: Any) -> tuple[ScoreParts, Any]: ...
def score_parts(model: Any, user: int, item: int, ax: Any = None) -> Any:
    """Split one prediction into the parts that add up to it.

    Parameters
    ----------
    model : Trainer, fitted Recommender, or object with one of these as ``trainer_``
    user, item : int
        Indices of the model. Of a Trainer they are those of its ratings (``ratings.users.index(user_id)``), of a
        Recommender those of its vocabularies (``recommender.users_.index(user_id)``).
    ax : matplotlib axes or True, optional
        Draw the parts, and return (parts, axes); True makes a new figure.

    Returns
    -------
    ScoreParts
        For `Dot` and `DotBias`: the global mean, the user's bias, the item's bias, and the term p_k q_k of each factor,
        in float64; their sum is the score before the rating range. Other models have no such sum inside. Their parts
        are the mean prediction over users and items (at most 1,000 of each, evenly spaced), the differences of the
        user's and the item's mean predictions from it, and the rest: the interaction of this user and this item. Their
        sum is the prediction.

    Raises
    ------
    TypeError, IndexError
        If `model` is something else, or `user` or `item` is not an index of the model.
    RuntimeError
        If a Trainer has no weights yet.
    """
    trained = source(model)
    n_users, n_items = sizes(trained)
    user, item = check_index("user", user, n_users, "model"), check_index("item", item, n_items, "model")
    head = formula(trained.model)
    named = _dot_parts(trained, head, user, item) if isinstance(head, Dot) else _mean_parts(trained, user, item)
    score = math.fsum(value for _, value in named)
    prediction = score
    if isinstance(head, Dot) and head.rating_range is not None:
        prediction = float(rating_range(np.array(score), *head.rating_range))
    result = ScoreParts(pd.DataFrame(named, columns=["part", "value"]), score, prediction)
    return result if ax is None else (result, pictures.draw_parts(ax, *result))


def _dot_parts(trained: Source, head: Dot, user: int, item: int) -> list[tuple[str, float]]:
    w = {name: value.astype(np.float64) for name, value in trained.weights.items()}
    parts = [("global mean", head.global_mean)]
    if head.biases:
        parts += [("user bias", float(w["user_bias"][user])), ("item bias", float(w["item_bias"][item]))]
    terms = w["user_factors"][user] * w["item_factors"][item]
    return parts + [(f"factor {k + 1}", float(term)) for k, term in enumerate(terms)]


def _mean_parts(trained: Source, user: int, item: int) -> list[tuple[str, float]]:
    items = evenly_spaced(sizes(trained)[1])
    mean = float(np.mean(mean_predictions(trained, items)))
    of_user = float(np.mean(next(prediction_blocks(trained, np.array([user]), items)))) - mean
    of_item = float(mean_predictions(trained, np.array([item]))[0]) - mean
    predicted = float(predict(trained, np.array([user]), np.array([item]))[0])
    parts = [("mean", mean), ("user", of_user), ("item", of_item)]
    return [*parts, ("user and item", predicted - math.fsum(value for _, value in parts))]


# --- training ---------------------------------------------------------------------------------------------------------


@overload
def learning_curves(models: Any, training: bool = True, ax: None = None) -> pd.DataFrame: ...
@overload
def learning_curves(models: Any, training: bool = True, *, ax: Any) -> tuple[pd.DataFrame, Any]: ...
def learning_curves(models: Any, training: bool = True, ax: Any = None) -> Any:
    """Return training and validation error by epoch, and the learning rate.

    Parameters
    ----------
    models : Trainer, fitted Recommender, object with one of these as ``trainer_``, or a mapping of name to such
        The models of a mapping are drawn into one picture. A list of models, trained one after another, counts as one
        run with consecutive epochs: pre-training and the training after it.
    training : bool
        Draw the training error too, dashed.
    ax : matplotlib axes or True, optional
        Draw the curves, and return (table, axes); True makes a new figure.

    Returns
    -------
    DataFrame
        The histories of the models, one after another; column run holds the name of the run.

    Raises
    ------
    ValueError
        If there is no model, or one has no epoch in its history.
    TypeError, RuntimeError
        As for `bias_table`.
    """
    runs = models if isinstance(models, Mapping) else {"": models}
    steps = {name: run if isinstance(run, list | tuple) else [run] for name, run in runs.items()}
    if not steps or not all(steps.values()):
        raise ValueError(f"models is {models!r}; it must hold at least one model per run")
    frames = {name: _history(run) for name, run in steps.items()}
    if any(frame.empty for frame in frames.values()):
        raise ValueError("the history is empty; train the model with fit first")
    table = pd.concat([frame.assign(run=name) for name, frame in frames.items()], ignore_index=True)
    return table if ax is None else (table, pictures.draw_curves(ax, frames, training))


def _history(steps: Sequence[Any]) -> pd.DataFrame:
    """Return the histories of models trained one after another, with consecutive epochs."""
    frames = [source(step).history for step in steps]
    before = np.cumsum([0, *(len(frame) for frame in frames)])
    return pd.concat([frame.assign(epoch=frame.epoch + n) for frame, n in zip(frames, before, strict=False)])
