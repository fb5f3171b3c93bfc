"""What a trained model has learned, as tables and as pictures.

Every function takes a trained model, a `Trainer` or anything that holds one as ``trainer_``, and returns data. With
``ax=``, matplotlib axes or True for a new figure, it draws them too and returns the pair ``(data, axes)``.
matplotlib and scikit-learn are imported when they are needed and not before.

A model with biases is asked for them. One without, a `Net` or a `Dot`, is asked the same questions by its
predictions: an item's level is its mean prediction over the users.
"""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pandas as pd

from minicf import files
from minicf.arguments import check_whole
from minicf.data import Ratings
from minicf.models import Dot, Hybrid, Model, Net
from minicf.ops import rating_range
from minicf.train import Trainer

SAMPLE = 1000
"""Means over all users or items take at most so many of them, evenly spread: enough for two digits, and bounded."""

BLUE, RED, GREY = "#2f6db5", "#c44536", "#9aa0a6"
COLORS = (BLUE, RED, "#3a8f5c", "#8a5fb0", "#c78a1e", "#4aa3a2")


# --- what everything here starts from -----------------------------------------------------------------------------


def _trained(model: Any, ratings: Any = None) -> Trainer:
    """The trainer behind `model`; checks that `ratings` are of its users and items."""
    trainer = getattr(model, "trainer_", model)
    if not isinstance(trainer, Trainer):
        raise TypeError(f"model is a {type(model).__name__}; it must be a trained Trainer, or hold one as trainer_")
    if ratings is not None:
        if not isinstance(ratings, Ratings):
            raise TypeError(f"ratings is a {type(ratings).__name__}; it must be Ratings, they have the titles")
        known = _sizes(trainer)
        if known != (ratings.n_users, ratings.n_items):
            raise ValueError(
                f"the model knows {known[0]} users and {known[1]} items, the ratings have {ratings.n_users} and "
                f"{ratings.n_items}; give the ratings that it was trained on"
            )
    return trainer


def _sizes(trainer: Trainer) -> tuple[int, int]:
    weights = trainer.weights
    return len(weights["user_factors"]), len(weights["item_factors"])


def _head(trainer: Trainer) -> Dot | Net:
    """The model itself, or the head of a hybrid whose prediction is the hybrid's."""
    model: Model = trainer.model
    head = model.members[model.output][0] if isinstance(model, Hybrid) else model
    assert isinstance(head, Dot | Net)
    return head


def _index(name: str, value: Any, n: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}; it must be an index, ratings.{name}s.index(id) finds it")
    if not 0 <= value < n:
        raise IndexError(f"{name} is {value}; the model has {n} {name}s, 0 … {n - 1}")
    return int(value)


def _most_rated(ratings: Ratings, top: int | None) -> np.ndarray:
    """Indices of the items with most ratings, most first; equal counts by id. None takes all that have any."""
    counts = ratings.item_counts()
    rated = int((counts > 0).sum())
    n = rated if top is None else min(check_whole("top", top, 1), rated)
    return np.argsort(-counts, kind="stable")[:n]


def _titles(ratings: Ratings, items: np.ndarray) -> np.ndarray:
    """Titles, and ids where there is none."""
    titles = np.array([str(i) for i in ratings.items.ids[items].tolist()], object)
    if ratings.titles is not None:
        known = ratings.titles[items]
        there = np.array([title is not None for title in known], bool)
        titles[there] = known[there]
    return titles


def _item_frame(ratings: Ratings, items: np.ndarray, **columns: Any) -> pd.DataFrame:
    """A table of items: item_id as its index, then item, title, the given columns, and the number of ratings."""
    data = {"item": items, "title": _titles(ratings, items), **columns, "ratings": ratings.item_counts()[items]}
    return pd.DataFrame(data, index=pd.Index(ratings.items.ids[items], name="item_id"))


def _spread(n: int) -> np.ndarray:
    """At most `SAMPLE` of n indices, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).round().astype(np.int64))


def _grid(trainer: Trainer, users: np.ndarray, items: np.ndarray) -> Iterator[np.ndarray]:
    """Predictions of every item for every user, a block of rows (items, users) at a time."""
    rows = max(1, (1 << 18) // len(users))  # bounds the memory
    for start in range(0, len(items), rows):
        part = items[start : start + rows]
        block = trainer.predict(np.tile(users, len(part)), np.repeat(part, len(users)))
        yield block.reshape(len(part), len(users)).astype(np.float64)


def _mean_predictions(trainer: Trainer, items: np.ndarray) -> np.ndarray:
    """Mean prediction of each item over the users."""
    users = _spread(_sizes(trainer)[0])
    return np.concatenate([block.mean(axis=1) for block in _grid(trainer, users, items)])


def _levels(trainer: Trainer, items: np.ndarray) -> tuple[str, np.ndarray]:
    """How good each item is to everyone, and the name of that: its bias, or its mean prediction."""
    head = _head(trainer)
    if isinstance(head, Dot) and head.biases:
        return "bias", trainer.weights["item_bias"][items].astype(np.float64)
    return "mean_prediction", _mean_predictions(trainer, items)


# --- biases ---------------------------------------------------------------------------------------------------------


@overload
def bias_table(model: Any, ratings: Ratings, top: int | None = 2000, ax: None = None) -> pd.DataFrame: ...
@overload
def bias_table(model: Any, ratings: Ratings, top: int | None = 2000, *, ax: Any) -> tuple[pd.DataFrame, Any]: ...
def bias_table(model: Any, ratings: Ratings, top: int | None = 2000, ax: Any = None) -> Any:
    """Items by bias, the best first: what they get whoever rates them.

    Parameters
    ----------
    model : Trainer, or an object that holds one
    ratings : Ratings
        For titles and counts.
    top : int, optional
        Only so many of the most rated items: the bias of an item with two ratings says little. None takes all.
    ax : matplotlib axes or True, optional
        Draw the 15 best and the 15 worst, and return (table, axes).

    Returns
    -------
    DataFrame
        Index item_id; columns item (index), title, bias (``mean_prediction`` for a model without biases), ratings
        (how many) and mean_rating, which a bias corrects for how generous an item's raters are.
    """
    trainer = _trained(model, ratings)
    items = _most_rated(ratings, top)
    name, levels = _levels(trainer, items)
    sums = np.bincount(ratings.item, weights=ratings.rating, minlength=ratings.n_items)[items]
    table = _item_frame(ratings, items, **{name: levels})
    table["mean_rating"] = sums / table.ratings
    table = table.sort_values(name, ascending=False, kind="stable")
    if ax is None:
        return table
    ax = _axes(ax, (8, 8))
    shown = pd.concat([table.head(15), table.tail(15)]) if len(table) > 30 else table
    zero = 0.0 if name == "bias" else float(table[name].mean())
    heights = np.arange(len(shown), 0, -1.0)
    heights[len(shown) // 2 :] -= 0.8 * (len(table) > 30)  # a gap where the middle is left out
    ax.barh(heights, shown[name] - zero, left=zero, color=[BLUE if x >= zero else RED for x in shown[name]])
    ax.set_yticks(heights, [short_title(title, 44) for title in shown.title])
    ax.set_ylim(heights[-1] - 0.8, heights[0] + 0.8)
    ax.axvline(zero, color="0.3", linewidth=0.8)
    ax.set_xlabel("bias" if name == "bias" else "mean prediction over users")
    ax.set_title(f"Best and worst of the {len(table):,} most rated")
    _clean(ax)
    return table, ax


# --- components -----------------------------------------------------------------------------------------------------


class Components(NamedTuple):
    """What `components` found."""

    scores: pd.DataFrame
    """Index item_id; columns item, title, pc1, pc2, … and ratings: where each item lies."""
    explained: np.ndarray
    """Share of the factors' variance that each component holds."""
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
    """Principal components of the item factors: the directions in which items differ most.

    Items are the samples and factors the variables: each component is a direction among the factors, and an item's
    score is how far it lies along it. (Most write-ups of the lesson fit PCA on the transposed table. That leaves the
    mean item in, which then takes the first component's place: ``examples/transposed_pca.py``.)

    Parameters
    ----------
    model : Trainer, or an object that holds one
    ratings : Ratings
    n : int
        Number of components.
    top : int, optional
        Only so many of the most rated items; None takes all that have a rating.
    ends : int
        Items at either end of each component.
    ax : matplotlib axes or True, optional
        Draw the share of variance by component, and return (components, axes).

    Returns
    -------
    Components
    """
    trainer = _trained(model, ratings)
    items = _most_rated(ratings, top)
    points, explained, _ = _components(trainer.weights["item_factors"][items], check_whole("n", n, 1))
    scores = _item_frame(ratings, items, **{f"pc{k + 1}": points[:, k] for k in range(n)})
    rows = []
    for k in range(n):
        order = np.argsort(-points[:, k], kind="stable")
        for end, outermost in (("high", order), ("low", order[::-1])):
            rows += [(k + 1, end, scores.title.iloc[i], points[i, k]) for i in outermost[:ends]]
    result = Components(scores, explained, pd.DataFrame(rows, columns=["component", "end", "title", "score"]))
    if ax is None:
        return result
    ax = _axes(ax, (6, 4))
    ax.bar(np.arange(1, n + 1), 100 * result.explained, color=BLUE, width=0.6)
    ax.set_xticks(np.arange(1, n + 1))
    ax.set_xlabel("principal component")
    ax.set_ylabel("share of the factors' variance, %")
    ax.set_title(f"Item factors of the {len(items):,} most rated")
    _clean(ax)
    return result, ax


def _components(factors: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (items, n), shares of variance (n,) and axes (n, factors), the sign fixed so that two runs agree."""
    if n > min(factors.shape):
        raise ValueError(f"n is {n}; {factors.shape[0]} items with {factors.shape[1]} factors have fewer components")
    centred = factors.astype(np.float64)
    centred -= centred.mean(axis=0)
    # NumPy's, for importing scikit-learn takes longer than all of this; a test holds it against PCA there.
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    variance, axes = np.square(singular), axes[:n]
    axes *= np.sign(axes[np.arange(n), np.abs(axes).argmax(axis=1)])[:, None]
    return centred @ axes.T, variance[:n] / max(variance.sum(), np.finfo(float).tiny), axes


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
    """Where items lie along two principal components.

    Parameters
    ----------
    model, ratings, top
        As for `components`.
    x, y : int
        The components, counted from 1.
    labels : int
        Label so many: half of them the most rated, half the outermost. One without a free place is left out.
    ax : matplotlib axes or True, optional
        Draw the map, and return (table, axes).

    Returns
    -------
    DataFrame
        Index item_id; columns item, title, the two components (such as pc1 and pc2) and ratings, most rated first.
    """
    x, y = check_whole("x", x, 1), check_whole("y", y, 1)
    found = components(model, ratings, max(x, y), top)
    table = found.scores[list(dict.fromkeys(["item", "title", f"pc{x}", f"pc{y}", "ratings"]))]
    if ax is None:
        return table
    ax = _axes(ax, (12, 9))
    across, up = table[f"pc{x}"].to_numpy(), table[f"pc{y}"].to_numpy()
    chosen = _to_label(across, up, check_whole("labels", labels, 0))
    ax.scatter(across, up, s=6, color=GREY, alpha=0.35, linewidths=0)
    for axis, k in ((ax.xaxis, x), (ax.yaxis, y)):
        axis.set_label_text(f"principal component {k} ({100 * found.explained[k - 1]:.1f} % of the variance)")
    ax.set_title(f"The {len(table):,} most rated items, and the titles of the best known and of the outermost")
    _clean(ax)
    titles = [short_title(title, 38) for title in table.title.iloc[chosen]]
    chosen = chosen[_label(ax, across[chosen], up[chosen], titles)]
    ax.scatter(across[chosen], up[chosen], s=18, color=BLUE, linewidths=0, zorder=3)
    return table, ax


def _to_label(x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    """Positions of n points: the first half of them as they come, then those farthest from the middle."""
    spread = np.array([x.std(), y.std()]) + np.finfo(float).tiny
    outwards = np.argsort(-np.hypot((x - x.mean()) / spread[0], (y - y.mean()) / spread[1]), kind="stable")
    return np.array(list(dict.fromkeys([*range(min(len(x), (n + 1) // 2)), *outwards.tolist()]))[:n], np.int64)


# --- neighbours -----------------------------------------------------------------------------------------------------


@overload
def nearest_items(
    model: Any, ratings: Ratings, item: int, n: int = 10, top: int | None = 2000, ax: None = None
) -> pd.DataFrame: ...
@overload
def nearest_items(
    model: Any, ratings: Ratings, item: int, n: int = 10, top: int | None = 2000, *, ax: Any
) -> tuple[pd.DataFrame, Any]: ...
def nearest_items(model: Any, ratings: Ratings, item: int, n: int = 10, top: int | None = 2000, ax: Any = None) -> Any:
    """Items that the model takes for most like one item.

    Parameters
    ----------
    model : Trainer, or an object that holds one
    ratings : Ratings
    item : int
        Its index; ``ratings.items.index(item_id)`` finds it.
    n : int
        How many neighbours.
    top : int, optional
        Only among so many of the most rated items; None takes all that have a rating.
    ax : matplotlib axes or True, optional
        Draw the similarities, and return (table, axes).

    Returns
    -------
    DataFrame
        Index item_id; columns item, title, similarity (-1 … 1) and ratings, the most similar first. The similarity
        is the cosine between the items' factors; for a `Net`, which may use factors in any way, it is the cosine
        between the items' predictions over the users, less the item's and the user's means.
    """
    trainer = _trained(model, ratings)
    item = _index("item", item, ratings.n_items)
    others = _most_rated(ratings, top)
    others = others[others != item]
    rows = np.concatenate([[item], others])
    vectors = _vectors(trainer, rows)
    similarity = vectors[1:] @ vectors[0]
    best = np.argsort(-similarity, kind="stable")[: check_whole("n", n, 1)]
    table = _item_frame(ratings, others[best], similarity=similarity[best])
    if ax is None:
        return table
    ax = _axes(ax, (8, 0.32 * len(table) + 1.2))
    ax.barh(np.arange(len(table), 0, -1), table.similarity, color=BLUE)
    ax.set_yticks(np.arange(len(table), 0, -1), [short_title(title, 44) for title in table.title])
    ax.set_xlabel("similarity")
    ax.set_title(f"Nearest to {short_title(_titles(ratings, rows[:1])[0], 44)}")
    _clean(ax)
    return table, ax


def _vectors(trainer: Trainer, items: np.ndarray) -> np.ndarray:
    """A vector of length 1 for each item, such that similarities are dot products."""
    if isinstance(_head(trainer), Dot):
        vectors = trainer.weights["item_factors"][items].astype(np.float64)
    else:
        predicted = np.concatenate(list(_grid(trainer, _spread(_sizes(trainer)[0]), items)))
        vectors = predicted - predicted.mean(axis=1, keepdims=True)
        vectors -= vectors.mean(axis=0)
        # What is left by rounding alone, where item and user have nothing to do with one another, is no direction.
        vectors[np.abs(vectors).max(axis=1) < 1e-5 * np.abs(predicted).max()] = 0.0
    # An item whose vector is 0 is like nothing: the smallest number above 0 keeps 0 / 0 away.
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + np.finfo(vectors.dtype).tiny)


def _nearest(vectors: np.ndarray, n: int, among: int) -> tuple[np.ndarray, np.ndarray]:
    """For each vector the n most similar others among the first so many: positions and similarities, (items, n)."""
    near, similar = np.empty((len(vectors), n), np.int64), np.empty((len(vectors), n))
    for start in range(0, len(vectors), 1024):  # bounds the memory
        part = vectors[start : start + 1024] @ vectors[:among].T
        own = np.arange(start, min(start + len(part), part.shape[1]))
        part[own - start, own] = -np.inf
        order = np.argsort(-part, axis=1, kind="stable")[:, :n]
        near[start : start + 1024] = order
        similar[start : start + 1024] = np.take_along_axis(part, order, axis=1)
    return near, similar


# --- one prediction -------------------------------------------------------------------------------------------------


class ScoreParts(NamedTuple):
    """What `score_parts` found."""

    parts: pd.DataFrame
    """Columns part (its name) and value; the values add up to the score."""
    score: float
    """The sum of the parts: the prediction before the rating range."""
    prediction: float
    """The predicted rating."""


@overload
def score_parts(model: Any, user: int, item: int, ax: None = None) -> ScoreParts: ...
@overload
def score_parts(model: Any, user: int, item: int, *, ax: Any) -> tuple[ScoreParts, Any]: ...
def score_parts(model: Any, user: int, item: int, ax: Any = None) -> Any:
    """What one prediction is made of.

    Parameters
    ----------
    model : Trainer, or an object that holds one
    user, item : int
        Indices; ``ratings.users.index(user_id)`` finds those of ids.
    ax : matplotlib axes or True, optional
        Draw the parts, and return (parts, axes).

    Returns
    -------
    ScoreParts
        For a dot product: the global mean, the user's bias, the item's bias, and each factor's term p_k q_k, in
        float64; their sum is the score before the rating range. For a `Net`, which has no such sum inside: the mean
        prediction over all users and items, how far the user's and the item's mean predictions lie from it, and
        what is left, which this user and this item have to do with one another; their sum is the prediction.
    """
    trainer = _trained(model)
    n_users, n_items = _sizes(trainer)
    user, item = _index("user", user, n_users), _index("item", item, n_items)
    head = _head(trainer)
    if isinstance(head, Dot):
        w = {name: value.astype(np.float64) for name, value in trainer.weights.items()}
        named = [("global mean", head.global_mean)]
        if head.biases:
            named += [("user bias", float(w["user_bias"][user])), ("item bias", float(w["item_bias"][item]))]
        terms = w["user_factors"][user] * w["item_factors"][item]
        named += [(f"factor {k + 1}", float(term)) for k, term in enumerate(terms)]
    else:
        items = _spread(n_items)
        mean = float(np.mean(_mean_predictions(trainer, items)))
        of_user = float(np.mean(next(_grid(trainer, np.array([user]), items)))) - mean
        of_item = float(_mean_predictions(trainer, np.array([item]))[0]) - mean
        predicted = float(trainer.predict(user, item))
        named = [("mean", mean), ("user", of_user), ("item", of_item)]
        named += [("user and item", predicted - math.fsum(value for _, value in named))]
    score = math.fsum(value for _, value in named)
    prediction = score
    if isinstance(head, Dot) and head.rating_range is not None:
        prediction = float(rating_range(np.array(score), *head.rating_range))
    result = ScoreParts(pd.DataFrame(named, columns=["part", "value"]), score, prediction)
    if ax is None:
        return result
    shown = _largest(result.parts, 12)
    ax = _axes(ax, (7, 0.32 * len(shown) + 1.2))
    heights = np.arange(len(shown), 0, -1)
    ends = shown.value.cumsum()
    ax.barh(heights, shown.value, left=ends - shown.value, color=[BLUE if x >= 0 else RED for x in shown.value])
    ax.set_yticks(heights, shown.part)
    ax.axvline(score, color="0.3", linewidth=0.8, linestyle=":")
    ax.set_xlabel("score" if prediction != score else "predicted rating")
    ax.set_title(f"Parts of a prediction: {score:.2f}" + (f" → {prediction:.2f} stars" if prediction != score else ""))
    _clean(ax)
    return result, ax


def _largest(parts: pd.DataFrame, n: int) -> pd.DataFrame:
    """The parts, of the factors' terms only the largest by magnitude and the sum of the others."""
    factor = parts.part.str.startswith("factor ")
    if len(parts) <= n:
        return parts
    room = n - int((~factor).sum()) - 1
    terms = parts[factor].sort_values("value", key=abs, ascending=False, kind="stable")
    rest = pd.DataFrame({"part": [f"other {len(terms) - room} factors"], "value": [terms.value.iloc[room:].sum()]})
    return pd.concat([parts[~factor], terms.iloc[:room], rest])


# --- training -------------------------------------------------------------------------------------------------------


@overload
def learning_curves(models: Any, training: bool = True, ax: None = None) -> pd.DataFrame: ...
@overload
def learning_curves(models: Any, training: bool = True, *, ax: Any) -> tuple[pd.DataFrame, Any]: ...
def learning_curves(models: Any, training: bool = True, ax: Any = None) -> Any:
    """Training and validation error by epoch, and the learning rate where it changes.

    Parameters
    ----------
    models : Trainer or an object that holds one, or a mapping of name to such
        Several are drawn into one picture. A list of models, trained one after another, counts as one run whose
        epochs go on: pre-training and what came of it.
    training : bool
        Draw the training error too, dashed.
    ax : matplotlib axes or True, optional
        Draw the curves, and return (table, axes).

    Returns
    -------
    DataFrame
        The models' histories below one another, with the name of the run in the column run.
    """
    runs = models if isinstance(models, Mapping) else {"": models}
    frames = {name: _history(steps if isinstance(steps, list | tuple) else [steps]) for name, steps in runs.items()}
    if not frames or any(frame.empty for frame in frames.values()):
        raise ValueError("nothing to draw: the history is empty, train with fit first")
    table = pd.concat([frame.assign(run=name) for name, frame in frames.items()], ignore_index=True)
    if ax is None:
        return table
    ax = _axes(ax, (9, 5.5))
    for (name, frame), color in zip(frames.items(), itertools.cycle(COLORS)):
        if frame.valid_mse.notna().any():
            label = f"{name} validation".strip() if training else name
            ax.plot(frame.epoch, frame.valid_mse, ".-", color=color, linewidth=1.6, label=label)
        if training:
            ax.plot(frame.epoch, frame.train_mse, "--", color=color, linewidth=1, label=f"{name} training".strip())
    ax.set_xlabel("epoch")
    ax.set_ylabel("mean squared error" if training else "validation error (mean squared)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    _clean(ax)
    ax.legend(frameon=False)
    if table.lr.nunique() == 1:
        ax.set_title(f"Learning rate {table.lr.iloc[0]:g}")
    else:
        ax.set_title("Errors, and the learning rate as thin steps")
        _draw_rates(ax, frames)
    return table, ax


def _history(steps: Sequence[Any]) -> pd.DataFrame:
    """The histories of models trained one after another, their epochs counted on."""
    frames = [_trained(step).history.frame() for step in steps]
    before = np.cumsum([0, *(len(frame) for frame in frames)])
    return pd.concat([frame.assign(epoch=frame.epoch + n) for frame, n in zip(frames, before, strict=False)])


def _draw_rates(ax: Any, frames: Mapping[str, pd.DataFrame]) -> None:
    """Learning rates as thin steps on an axis of their own, on the right."""
    rates = ax.twinx()
    for frame, color in zip(frames.values(), itertools.cycle(COLORS if len(frames) > 1 else [GREY])):
        ends = [*(frame.epoch - 0.5), frame.epoch.iloc[-1] + 0.5]
        rates.step(ends, [*frame.lr, frame.lr.iloc[-1]], where="post", color=color, alpha=0.6, linewidth=0.9)
    rates.set_yscale("log")
    rates.set_ylabel("learning rate at the epoch's start")
    rates.spines[["top"]].set_visible(False)
    rates.margins(y=0.6)  # away from the curves' ends


# --- a page to explore ----------------------------------------------------------------------------------------------


def explore(
    model: Any,
    ratings: Ratings,
    path: str | os.PathLike[str],
    *,
    layout: str = "pca",
    title: str = "A map of what was rated",
    top: int | None = 10_000,
    users: int = 1000,
    seed: int = 0,
) -> Path:
    """Write a page that shows every item on a map, to be opened in a browser without any network.

    Hovering names an item; a click, or a search by title, lists its nearest items and the parts of a user's
    prediction for it. plotly draws the map: ``pip install 'minicf[explore]'``.

    Parameters
    ----------
    model : Trainer, or an object that holds one
    ratings : Ratings
    path : path
        Of the HTML file; replaced if it exists.
    layout : "pca" or "tsne"
        Two principal components of the item factors, or scikit-learn's t-SNE of them, by cosine: it keeps neighbours
        together and takes a minute or two for 10,000 items.
    title : str
    top : int, optional
        So many of the most rated items; None takes all that have a rating. 10,000 move without stutter.
    users : int
        So many of the most active users to choose from.
    seed : int
        Of t-SNE.

    Returns
    -------
    Path
        Of the page.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError("the page needs plotly: pip install 'minicf[explore]'") from error
    if layout not in ("pca", "tsne"):
        raise ValueError(f"layout is {layout!r}; it must be 'pca' or 'tsne'")
    trainer = _trained(model, ratings)
    items = _most_rated(ratings, top)
    people = np.argsort(-ratings.user_counts(), kind="stable")[: check_whole("users", users, 1)]
    data = _model_data(trainer, people, items) | _item_data(trainer, ratings, items, layout, seed)
    data |= _user_data(ratings, people, items)
    data["about"] = (
        f"{len(items):,} items, {len(ratings):,} ratings by {ratings.n_users:,} users. Drag to move, turn the wheel to "
        "zoom, click for neighbours."
    )
    page = resources.files("minicf").joinpath("explore.html").read_text(encoding="utf-8")
    fill = {
        "TITLE": html.escape(title),
        "LIBRARY": _zipped(get_plotlyjs()),
        "DATA": _zipped(json.dumps(data, allow_nan=False, ensure_ascii=False)),
    }
    page = re.sub(r"\$([A-Z]+)\b", lambda match: fill.get(match[1], match[0]), page)
    path = Path(path)
    with files.atomic(path) as file:
        file.write(page.encode())
    return path


def _zipped(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _packed(values: np.ndarray, dtype: str) -> dict[str, Any]:
    """An array for the page: its bytes, and for int16 the scale by which the whole numbers are to be multiplied."""
    scale = 0.0
    if dtype == "int16":  # five digits of the largest: a prediction keeps four
        scale = float(np.abs(values).max(initial=0.0)) / 32767 or 1.0
        values = np.rint(values / scale)
    little = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
    packed: dict[str, Any] = {"type": dtype, "data": base64.b64encode(little.tobytes()).decode()}
    return packed | {"scale": scale} if scale else packed


def _model_data(trainer: Trainer, users: np.ndarray, items: np.ndarray) -> dict[str, Any]:
    """What the page needs to predict as the model does, and to take the prediction apart as `score_parts` does.

    For a dot product the factors are turned to their principal axes v around the mean item m: with s the scores of
    item q, p . q = p . m + sum_k (p . v_k) s_k. Components have a meaning, on the map too; single factors have none.
    """
    head, w = _head(trainer), {name: value.astype(np.float64) for name, value in trainer.weights.items()}
    p, q = w["user_factors"][users], w["item_factors"][items]
    data: dict[str, Any] = {"range": head.rating_range, "mean": head.global_mean, "layers": []}
    if isinstance(head, Dot):
        scores, _, axes = _components(q, min(q.shape))
        of_user, of_item, p, q = p @ q.mean(axis=0), np.zeros(len(items)), p @ axes.T, scores
        if head.biases:
            of_user, of_item = of_user + w["user_bias"][users], w["item_bias"][items]
        data |= {"kind": "dot", "biases": head.biases}
    else:
        sample = _spread(_sizes(trainer)[1])
        of_item = _mean_predictions(trainer, items)
        of_user = sum(block.sum(axis=0) for block in _grid(trainer, users, sample)) / len(sample)
        data |= {"kind": "net", "grand": float(_mean_predictions(trainer, sample).mean())}
        for name, _, _ in head.layers():
            full = Hybrid.full_name(trainer.model.output, name) if isinstance(trainer.model, Hybrid) else name
            data["layers"].append({part: _packed(w[f"{full}.{part}"], "float32") for part in ("weight", "bias")})
    data |= {"n_factors": p.shape[1], "user_table": _packed(p, "int16"), "item_table": _packed(q, "int16")}
    return data | {"user_level": _packed(of_user, "float32"), "item_level": _packed(of_item, "float32")}


def _item_data(trainer: Trainer, ratings: Ratings, items: np.ndarray, layout: str, seed: int) -> dict[str, Any]:
    """Names, places, levels and neighbours of the items."""
    factors = trainer.weights["item_factors"][items].astype(np.float64)
    if layout == "pca":
        places, explained, _ = _components(factors, min(2, *factors.shape))
        axes = [f"principal component {k + 1} ({share:.1%} of the variance)" for k, share in enumerate(explained)]
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(items) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, metric="cosine", init="pca", random_state=seed)
        places, axes = tsne.fit_transform(factors), ["t-SNE 1", "t-SNE 2"]
    if places.shape[1] == 1:
        places, axes = np.column_stack([places, np.zeros(len(items))]), [*axes, ""]
    name, level = _levels(trainer, items)
    table = _item_frame(ratings, items)
    sums = np.bincount(ratings.item, weights=ratings.rating, minlength=ratings.n_items)[items]
    near, similar = _nearest(_vectors(trainer, items), min(8, len(items) - 1), 2000)
    listed = [[] if ratings.genres is None else str(ratings.genres[i] or "").split("|") for i in items]
    listed = [[genre for genre in genres if genre and not genre.startswith("(")] for genres in listed]
    names = sorted({genre for genres in listed for genre in genres})
    number = {genre: i for i, genre in enumerate(names)}
    return {
        "titles": table.title.tolist(),
        "genre_names": names,
        "genres": [[number[genre] for genre in genres] for genres in listed],
        "axes": axes,
        "x": _packed(places[:, 0], "float32"),
        "y": _packed(places[:, 1], "float32"),
        "level_name": name.replace("_", " "),
        "level": _packed(level, "float32"),
        "middle": float(level.mean()),
        "counts": _packed(table.ratings.to_numpy(), "int32"),
        "means": _packed(sums / table.ratings, "float32"),
        "near": _packed(near.ravel(), "int32"),
        "similar": _packed(similar.ravel(), "float32"),
    }


def _user_data(ratings: Ratings, users: np.ndarray, items: np.ndarray) -> dict[str, Any]:
    """Ids of the users and what they rated: a list of positions among `items`, and where each user's begin in it."""
    person, place = np.full(ratings.n_users, -1), np.full(ratings.n_items, -1)
    person[users], place[items] = np.arange(len(users)), np.arange(len(items))
    who, what = person[ratings.user], place[ratings.item]
    rows = np.flatnonzero((who >= 0) & (what >= 0))
    rows = rows[np.argsort(who[rows], kind="stable")]
    begins = np.concatenate([[0], np.cumsum(np.bincount(who[rows], minlength=len(users)))])
    return {
        "user_ids": ratings.users.ids[users].tolist(),
        "rated_from": _packed(begins, "int32"),
        "rated_item": _packed(what[rows], "int32"),
        "rated_stars": _packed(ratings.rating[rows], "float32"),
    }


# --- pictures -------------------------------------------------------------------------------------------------------


def _axes(ax: Any, size: tuple[float, float]) -> Any:
    """The given axes, or new ones for True."""
    if ax is not True:
        if not hasattr(ax, "annotate"):
            raise TypeError(f"ax is {ax!r}; it must be matplotlib axes, or True for a new figure")
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'minicf[plot]'") from error
    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _clean(ax: Any) -> None:
    """Less ink: no box around the data."""
    ax.spines[["top", "right"]].set_visible(False)


def short_title(title: str, width: int) -> str:
    """A title in at most `width` characters: without its other names, then cut short, but with its year."""
    if len(title) <= width:
        return title
    match = re.search(r" \(\d{4}\)$", title)
    name, year = (title[: match.start()], match.group()) if match else (title, "")
    name = re.sub(r" \(.*", "", name)
    room = max(1, width - len(year))
    return (name if len(name) <= room else name[: room - 1].rstrip(" ,:-") + "…") + year


def _label(ax: Any, x: np.ndarray, y: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Write each text beside its point, in order of importance, where it covers no label, line or labelled point.

    Places are tried on growing circles around the point; a thin line leads to the point from farther ones. A text
    for which no place is free is left out; what comes back says which were written.
    """
    figure = ax.figure.canvas.figure  # the whole figure, also where the axes are in a part of one
    figure.draw_without_rendering()  # settles the layout, and with it where points are
    points = ax.transData.transform(np.column_stack([x, y]))
    scale = figure.dpi / 72.0  # pixels a point of type
    inside = ax.get_window_extent()
    taken = np.column_stack([points - 3 * scale, points + 3 * scale])  # left, low, right, high
    written = np.zeros(len(points), bool)
    for i, (point, text, at) in enumerate(zip(points, texts, zip(x, y, strict=True), strict=True)):
        label = ax.annotate(text, at, (0, 0), textcoords="offset points", fontsize=8, color="0.1", zorder=4)
        extent = label.get_window_extent()
        for dx, dy in _places():
            # Left of the point a text ends there, right of it it begins there, above and below it is centred.
            end = point + np.array([dx, dy]) * scale
            low = end - np.array([extent.width * (1 - np.sign(dx)) / 2, extent.height / 2])
            box = np.concatenate([low - 2 * scale, low + np.array([extent.width, extent.height]) + 2 * scale])
            if box[0] < inside.x0 or box[1] < inside.y0 or box[2] > inside.x1 or box[3] > inside.y1:
                continue
            led = math.hypot(dx, dy) > 14
            line = point + np.linspace(0.3 if led else 1.0, 1.0, 12)[:, None] * (end - point)
            if not (_meets(box, taken).any() or any(_meets(np.tile(dot, 2), taken).any() for dot in line[:-1])):
                break
        else:
            label.remove()
            continue
        label.set(position=(dx, dy), ha={1: "left", 0: "center", -1: "right"}[int(np.sign(dx))], va="center")
        taken = np.vstack([taken, box])
        if led:
            thin = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            ax.annotate("", at, (dx, dy), textcoords="offset points", arrowprops=thin)
            taken = np.vstack([taken, np.tile(line, 2)])
        written[i] = True
    return written


def _places() -> Iterator[tuple[float, float]]:
    """Offsets from a point, in points of type: sides first, then circles."""
    for radius in (6.0, 10.0, 15.0, 21.0, 28.0, 36.0, 45.0):
        for angle in (0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240):
            dx, dy = radius * math.cos(math.radians(angle)), radius * math.sin(math.radians(angle))
            yield (0.0 if abs(dx) < 1e-9 else dx), (1.4 * dy if abs(dx) < 1e-9 else dy)


def _meets(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the others (left, low, right, high) the box meets."""
    return (box[0] < others[:, 2]) & (others[:, 0] < box[2]) & (box[1] < others[:, 3]) & (others[:, 1] < box[3])
