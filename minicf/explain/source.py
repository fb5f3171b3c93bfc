"""Read a trained model: its weights, history and vocabularies; translate ratings to its indices; ask it about items.

Every function of the package takes a `Trainer`, a fitted `Recommender`, or an object that holds one of them as
``trainer_``. `source` reads them by their attributes; `source_and_ratings` also translates ratings, id by id, to the
indices of the model. The level of an item is its bias, or for a model without biases its mean prediction over the
users, which needs only the forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from minicf.arguments import check_int
from minicf.data import Batch, Ratings, UnknownIdError, Vocabulary
from minicf.models import Dot, DotBias, Hybrid, Model, Net

log = logging.getLogger("minicf")

SAMPLE = 1000
"""Largest number of users, or items, in a mean prediction, evenly spaced: right to two digits, in bounded time."""

FITTED = ("model_", "weights_", "history_", "users_", "items_")
"""Attributes of a fitted `Recommender`."""


# --- the model --------------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """A trained model as plain data."""

    model: Model
    weights: dict[str, np.ndarray]
    """Arrays by name, not to be changed."""
    history: pd.DataFrame
    """One row per epoch; no row if nothing was trained."""
    users: Vocabulary | None
    """Ids of the rows of user tables; None where only their number is known. `items` likewise."""
    items: Vocabulary | None


def source(model: Any) -> Source:
    """Read model, weights, history and vocabularies from a trained object.

    Parameters
    ----------
    model : Trainer, fitted Recommender, or object with one of these as ``trainer_``
        Known by its attributes: ``model``, ``weights``, ``history`` and, if there, ``users`` and ``items`` of a
        trainer; those in `FITTED` of a recommender.

    Raises
    ------
    TypeError
        If the attributes are missing.
    RuntimeError
        If a Trainer has no weights yet.
    """
    holder = _holder(model)
    if _is_fitted_recommender(holder):
        holder = getattr(holder, "_snapshot", lambda: holder)()  # another thread may fit it meanwhile
        return Source(*(getattr(holder, name) for name in FITTED))
    inner, history = getattr(holder, "model", None), getattr(holder, "history", None)
    if not isinstance(inner, Model) or history is None or (weights := getattr(holder, "weights", None)) is None:
        raise TypeError(
            f"model is a {type(model).__name__}; it must be a trained Trainer, a fitted Recommender, or an object that "
            "holds one of them as trainer_"
        )
    frame = history if isinstance(history, pd.DataFrame) else history.frame()
    return Source(inner, weights, frame, getattr(holder, "users", None), getattr(holder, "items", None))


def _holder(model: Any) -> Any:
    """Return the recommender or trainer itself: the object, or its ``trainer_``."""
    return model if _is_fitted_recommender(model) else getattr(model, "trainer_", model)


def _is_fitted_recommender(model: Any) -> bool:
    return all(hasattr(model, name) for name in FITTED)


def sizes(trained: Source) -> tuple[int, int]:
    """Return the numbers of users and of items: the rows of the first table of each side."""
    for side in ("user", "item"):
        if not trained.model.tables(side):
            raise ValueError(f"model is {trained.model!r}; it must have a table with one row per {side}")
    found = trained.model.sizes_of(trained.weights)
    return found["user"], found["item"]


def formula(model: Model) -> Dot | Net | None:
    """Return the Dot, DotBias or Net that gives the predictions: the model, or the output head of a hybrid.

    None for any other model, also for a subclass of these: it may predict in another way.
    """
    head = model.members[model.output][0] if type(model) is Hybrid else model
    return head if isinstance(head, Dot | Net) and type(head) in (Dot, DotBias, Net) else None


def predict(trained: Source, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Return the model's predictions (n,) for pairs of its indices, in float64, by its forward pass in NumPy.

    The only place of the package that calls the model.
    """
    y = np.empty(len(user))
    for start in range(0, len(user), 1 << 16):  # bounds the memory; the batches of the reference, hence its bits
        part = slice(start, start + (1 << 16))
        y[part] = trained.model.predict(trained.weights, Batch(user[part], item[part]))
    return y


# --- ratings ----------------------------------------------------------------------------------------------------------


class Aligned(NamedTuple):
    """Ratings in the indices of the model."""

    ratings: Ratings
    given: np.ndarray
    """For each item of the model its index in the ratings as they were given, -1 if they lack it."""

    def model_item(self, name: str, index: Any, given: Ratings) -> int:
        """Translate an item index of the given ratings to one of the model.

        Raises
        ------
        TypeError, IndexError
            As `check_index`.
        UnknownIdError
            If the model does not know the item.
        """
        index = check_index(name, index, given.n_items, "ratings")
        found = np.flatnonzero(self.given == index)
        if not len(found):
            id = given.items.ids[[index]].tolist()[0]
            raise UnknownIdError(f"{name} is {index} (id {id!r}); it must be an item that the model was trained on")
        return int(found[0])


def source_and_ratings(model: Any, ratings: Any) -> tuple[Source, Aligned]:
    """Read a trained object as `source` does, and translate the ratings to its indices.

    A recommender knows the ids that were rated in training, and those folded in: ratings are translated id by id, and
    those of a user or an item that it does not know are left out, which is logged at level INFO. A trainer works in the
    indices of its ratings, so that theirs must be the same.

    Raises
    ------
    TypeError
        If `ratings` are not Ratings, and as `source`.
    ValueError
        If the ids, or for a trainer without ids their numbers, are not those of the model.
    """
    trained = source(model)
    if not isinstance(ratings, Ratings):
        raise TypeError(f"ratings is a {type(ratings).__name__}; it must be Ratings, which have the titles")
    users, items, known = trained.users, trained.items, sizes(trained)
    same = Aligned(ratings, np.arange(ratings.n_items))
    if users is None or items is None:
        if known != (ratings.n_users, ratings.n_items):
            raise ValueError(
                f"the model knows {known[0]} users and {known[1]} items, the ratings have {ratings.n_users} and "
                f"{ratings.n_items}; they must be the ratings that it was trained on, or a split of them"
            )
        return trained, same
    if users == ratings.users and items == ratings.items:
        return trained, same
    if _is_fitted_recommender(_holder(model)):
        return trained, _aligned(ratings, users, items)
    side, own, given = ("user", users, ratings.users) if users != ratings.users else ("item", items, ratings.items)
    raise ValueError(
        f"{side} ids of the ratings are not those of the model: {_difference(own, given)}; they must be the ratings "
        "that it was trained on, or a split of them"
    )


def _aligned(ratings: Ratings, users: Vocabulary, items: Vocabulary) -> Aligned:
    """Translate ratings id by id, without those of a user or an item that the model does not know."""
    user_of = users.index(ratings.users.ids, missing=-1)
    item_of = items.index(ratings.items.ids, missing=-1)
    user, item = user_of[ratings.user], item_of[ratings.item]
    known = (user >= 0) & (item >= 0)
    if not known.any():
        raise ValueError(
            f"none of the {len(ratings):,} ratings is of a user and an item that the model knows: the first user and "
            f"item are {_first(ratings.users)} and {_first(ratings.items)}, in the model {_first(users)} and "
            f"{_first(items)}; they must be ratings of ids that it was trained on"
        )
    if left_out := int((~known).sum()):
        log.info("%s of %s ratings left out: of users or items that the model does not know",
                 f"{left_out:,}", f"{len(ratings):,}")  # fmt: skip
    given = np.full(len(items), -1, np.int64)
    shared = np.flatnonzero(item_of >= 0)
    given[item_of[shared]] = shared
    texts: list[np.ndarray | None] = []
    for column in (ratings.titles, ratings.genres):
        moved = None
        if column is not None:
            moved = np.full(len(items), None, object)
            moved[item_of[shared]] = column[shared]
        texts.append(moved)
    stars = ratings.rating[known]
    own = Ratings(user[known], item[known], stars, users, items, titles=texts[0], genres=texts[1])
    return Aligned(own, given)


def _difference(own: Vocabulary, given: Vocabulary) -> str:
    """Describe how two vocabularies differ: by their first other id, or by their sizes."""
    n = min(len(own), len(given))
    at = int(np.argmax(own.ids[:n] != given.ids[:n])) if n else 0
    if n and own.ids[at] != given.ids[at]:
        ids = [vocabulary.ids[[at]].tolist()[0] for vocabulary in (given, own)]
        return f"index {at} is id {ids[0]!r}, in the model {ids[1]!r}"
    return f"there are {len(given):,}, in the model {len(own):,}"


def _first(vocabulary: Vocabulary) -> str:
    return repr(vocabulary.ids[:1].tolist()[0]) if len(vocabulary) else "none"


def check_index(name: str, value: Any, n: int, owner: str) -> int:
    """Return an index of a user or an item (`name`) of the model or the ratings (`owner`), from 0 to n - 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        ids = f"ratings.{name}s" if owner == "ratings" else f"the Vocabulary of {name}s"
        raise TypeError(f"{name} is {value!r}; it must be an index, {ids}.index(id) finds it")
    if not 0 <= value < n:
        verb = "have" if owner == "ratings" else "has"
        raise IndexError(f"{name} is {value}; the {owner} {verb} {n} {name}s, 0 … {n - 1}")
    return int(value)


def most_rated(ratings: Ratings, top: int | None) -> np.ndarray:
    """Return the indices of the `top` items with most ratings, most first, equal counts by id; None for all rated."""
    counts = ratings.item_counts()
    rated = int((counts > 0).sum())
    n = rated if top is None else min(check_int("top", top, 1), rated)
    return np.argsort(-counts, kind="stable")[:n]


def mean_ratings(ratings: Ratings, items: np.ndarray) -> np.ndarray:
    """Return the mean rating of each of the items, which must be rated, in float64."""
    sums = np.bincount(ratings.item, weights=ratings.rating, minlength=ratings.n_items)
    return sums[items] / ratings.item_counts()[items]


def titles(ratings: Ratings, items: np.ndarray) -> np.ndarray:
    """Return the titles of the items; the id as text for an item without a title."""
    texts = np.array([str(i) for i in ratings.items.ids[items].tolist()], object)
    if ratings.titles is not None:
        known = ratings.titles[items]
        there = np.array([title is not None for title in known], bool)
        texts[there] = known[there]
    return texts


def item_frame(aligned: Aligned, items: np.ndarray, **columns: Any) -> pd.DataFrame:
    """Make a table of items: item_id as its index, then item (as given), title, the columns, number of ratings."""
    ratings = aligned.ratings
    data = {"item": aligned.given[items], "title": titles(ratings, items), **columns}
    data["ratings"] = ratings.item_counts()[items]
    return pd.DataFrame(data, index=pd.Index(ratings.items.ids[items], name="item_id"))


# --- levels, factors and directions of items --------------------------------------------------------------------------


def evenly_spaced(n: int) -> np.ndarray:
    """Return at most `SAMPLE` of the indices 0 … n - 1, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).round().astype(np.int64))


def prediction_blocks(trained: Source, users: np.ndarray, items: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the predictions of every item for every user, in float64, as blocks of rows (items, users)."""
    rows = max(1, (1 << 18) // len(users))  # bounds the memory
    for start in range(0, len(items), rows):
        part = items[start : start + rows]
        block = predict(trained, np.tile(users, len(part)), np.repeat(part, len(users)))
        yield block.reshape(len(part), len(users))


def mean_predictions(trained: Source, items: np.ndarray) -> np.ndarray:
    """Return the mean prediction of each item over the users, of whom at most `SAMPLE` are asked."""
    users = evenly_spaced(sizes(trained)[0])
    return np.concatenate([block.mean(axis=1) for block in prediction_blocks(trained, users, items)])


def levels(trained: Source, items: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the level of each item, how good it is to everyone, and its name: "bias" or "mean_prediction"."""
    head = formula(trained.model)
    if isinstance(head, Dot) and head.biases:
        return "bias", trained.weights["item_bias"][items].astype(np.float64)
    return "mean_prediction", mean_predictions(trained, items)


def item_factors(trained: Source, items: np.ndarray) -> np.ndarray:
    """Return the factors of the items (items, K) in float64.

    Raises
    ------
    ValueError
        If the model, one of the caller's own, has no table ``item_factors``.
    """
    table = trained.weights.get("item_factors")
    if table is None or table.ndim != 2:
        raise ValueError(
            f"model is {trained.model!r}; it must have a table item_factors with one row per item, of which components "
            f"are made (its weights are {', '.join(trained.weights)})"
        )
    return table[items].astype(np.float64)


def item_directions(trained: Source, items: np.ndarray) -> np.ndarray:
    """Return a vector of length 1 for each item, whose dot products are similarities.

    The item's factors for a dot product; for other models, which may use factors in any way, its predictions over the
    users less the item's and the user's means.
    """
    if isinstance(formula(trained.model), Dot):
        vectors = item_factors(trained, items)
    else:
        users = evenly_spaced(sizes(trained)[0])
        predicted = np.concatenate(list(prediction_blocks(trained, users, items)))
        vectors = predicted - predicted.mean(axis=1, keepdims=True)
        vectors -= vectors.mean(axis=0)
        # Where user and item do not interact, rounding alone is left, which must not become a direction.
        vectors[np.abs(vectors).max(axis=1) < 1e-5 * np.abs(predicted).max()] = 0.0
    # An item whose vector is 0 is similar to none: the smallest number above 0 keeps 0 / 0 away.
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + np.finfo(vectors.dtype).tiny)
