"""The page to explore: every item on a map, with search, neighbors and predictions, in one file without a network.

``explore.html``, beside this file, is the page; this module makes its data. The page predicts as the model does and so
repeats the model's formula in JavaScript: it has those of `Dot`, `DotBias` and `Net`, and of no other model.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from minicf import files
from minicf.arguments import check_int
from minicf.data import Ratings
from minicf.explain.source import (
    Aligned,
    Source,
    evenly_spaced,
    formula,
    item_directions,
    item_factors,
    item_frame,
    levels,
    mean_predictions,
    mean_ratings,
    most_rated,
    prediction_blocks,
    sizes,
    source_and_ratings,
)
from minicf.explain.tables import nearest, principal_components
from minicf.models import Dot, Hybrid, Model, Net


def explore(
    model: Any,
    ratings: Ratings,
    path: str | os.PathLike[str],
    *,
    layout: str = "pca",
    title: str = "A map of the rated items",
    top: int | None = 10_000,
    users: int = 1000,
    seed: int = 0,
) -> Path:
    """Write a page that shows every item on a map, to be opened in a browser without a network.

    The pointer shows an item's title; a click, or a search by title, lists its nearest items and the parts of a user's
    prediction for it. plotly draws the map: ``pip install 'minicf[explore]'``.

    Parameters
    ----------
    model : Trainer, fitted Recommender, or object with one of these as ``trainer_``
        Its model must be a `Dot`, `DotBias` or `Net`, or a `Hybrid` of these: the page repeats the model's formula.
    ratings : Ratings
        As for `bias_table`.
    path : path
        The HTML file; replaced if it exists.
    layout : "pca" or "tsne"
        Two principal components of the item factors, or scikit-learn's t-SNE of them, by cosine: it keeps neighbors
        together and takes a minute or two for 10,000 items.
    title : str
    top : int, optional
        Number of items, the most rated; None takes all that have a rating. 10,000 move without stutter.
    users : int
        Number of users to choose from, the most active.
    seed : int
        Seed of t-SNE.

    Returns
    -------
    Path
        The path of the page.

    Raises
    ------
    TypeError
        If the model is another one, also a subclass of these, and as for `bias_table`.
    ValueError
        If the ratings are not of the model's users and items.
    ImportError
        If plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError("the page needs plotly: pip install 'minicf[explore]'") from error
    if layout not in ("pca", "tsne"):
        raise ValueError(f"layout is {layout!r}; it must be 'pca' or 'tsne'")
    trained, aligned = source_and_ratings(model, ratings)
    head, known = _known_formula(trained.model), aligned.ratings
    items, counts = most_rated(known, top), known.user_counts()
    people = np.argsort(-counts, kind="stable")[: check_int("users", users, 1)]
    data = _model_data(trained, head, people, items) | _item_data(trained, aligned, items, layout, seed)
    data |= _user_data(known, people, items)
    data["about"] = (
        f"{len(items):,} items, {len(known):,} ratings by {int((counts > 0).sum()):,} users. Drag to move, turn the "
        "wheel to zoom, click for neighbors."
    )
    page = resources.files("minicf.explain").joinpath("explore.html").read_text(encoding="utf-8")
    fill = {
        "TITLE": html.escape(title.replace("\0", "\ufffd")),  # no HTML can hold a null character
        "LIBRARY": _zipped(get_plotlyjs()),
        "DATA": _zipped(json.dumps(data, allow_nan=False)),
    }
    page = re.sub(r"\$([A-Z]+)\b", lambda match: fill.get(match[1], match[0]), page)
    path = Path(path)
    with files.atomic(path) as file:
        file.write(page.encode(errors="xmlcharrefreplace"))
    return path


def _known_formula(model: Model) -> Dot | Net:
    """Return the Dot, DotBias or Net that gives the predictions; refuse any other model."""
    head = formula(model)
    if head is None:
        name = type(model).__name__
        if type(model) is Hybrid:
            name = f"Hybrid with the output head {type(model.members[model.output][0]).__name__}"
        raise TypeError(
            f"model is a {name}; it must be a Dot, DotBias or Net, or a Hybrid of these, and no subclass: the page "
            "repeats the model's formula in JavaScript, and has only theirs"
        )
    return head


def _zipped(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _packed(values: np.ndarray, dtype: str) -> dict[str, Any]:
    """Pack an array for the page: its bytes, and for int16 the scale by which its integers are multiplied."""
    scale = 0.0
    if dtype == "int16":  # five digits of the largest: a prediction keeps four
        scale = float(np.abs(values).max(initial=0.0)) / 32767 or 1.0
        values = np.rint(values / scale)
    little = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
    packed: dict[str, Any] = {"type": dtype, "data": base64.b64encode(little.tobytes()).decode()}
    return packed | {"scale": scale} if scale else packed


def _model_data(trained: Source, head: Dot | Net, users: np.ndarray, items: np.ndarray) -> dict[str, Any]:
    """Collect the numbers by which the page predicts as the model does, and splits predictions as `score_parts` does.

    For a dot product the factors are rotated to their principal axes v around the mean item m: with s the scores of
    item q, p . q = p . m + sum_k (p . v_k) s_k. Components have a meaning, on the map too; single factors have none.
    """
    w = {name: value.astype(np.float64) for name, value in trained.weights.items()}
    p, q = w["user_factors"][users], w["item_factors"][items]
    data: dict[str, Any] = {"range": head.rating_range, "mean": head.global_mean, "layers": []}
    if isinstance(head, Dot):
        scores, _, axes = principal_components(q, min(q.shape))
        of_user, of_item, p, q = p @ q.mean(axis=0), np.zeros(len(items)), p @ axes.T, scores
        if head.biases:
            of_user, of_item = of_user + w["user_bias"][users], w["item_bias"][items]
        data |= {"kind": "dot", "biases": head.biases}
    else:
        sample = evenly_spaced(sizes(trained)[1])
        of_item = mean_predictions(trained, items)
        of_user = sum(block.sum(axis=0) for block in prediction_blocks(trained, users, sample)) / len(sample)
        data |= {"kind": "net", "grand": float(mean_predictions(trained, sample).mean())}
        for name, _, _ in head.layers():
            full = f"{trained.model.output}.{name}" if isinstance(trained.model, Hybrid) else name
            data["layers"].append({part: _packed(w[f"{full}.{part}"], "float32") for part in ("weight", "bias")})
    data |= {"n_factors": p.shape[1], "user_table": _packed(p, "int16"), "item_table": _packed(q, "int16")}
    return data | {"user_level": _packed(of_user, "float32"), "item_level": _packed(of_item, "float32")}


def _item_data(trained: Source, aligned: Aligned, items: np.ndarray, layout: str, seed: int) -> dict[str, Any]:
    """Collect titles, genres, places, levels and neighbors of the items."""
    factors, genre_texts = item_factors(trained, items), aligned.ratings.genres
    if layout == "pca":
        places, explained, _ = principal_components(factors, min(2, *factors.shape))
        axes = [f"principal component {k + 1} ({share:.1%} of the variance)" for k, share in enumerate(explained)]
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(items) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, metric="cosine", init="pca", random_state=seed)
        places, axes = tsne.fit_transform(factors), ["t-SNE 1", "t-SNE 2"]
    if places.shape[1] == 1:
        places, axes = np.column_stack([places, np.zeros(len(items))]), [*axes, ""]
    name, level = levels(trained, items)
    table = item_frame(aligned, items)
    near, similar = nearest(item_directions(trained, items), min(8, len(items) - 1), 2000)
    listed = [[] if genre_texts is None else str(genre_texts[i] or "").split("|") for i in items]
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
        "means": _packed(mean_ratings(aligned.ratings, items), "float32"),
        "near": _packed(near.ravel(), "int32"),
        "similar": _packed(similar.ravel(), "float32"),
    }


def _user_data(ratings: Ratings, users: np.ndarray, items: np.ndarray) -> dict[str, Any]:
    """Collect the ids of the users and their ratings: positions in `items`, stars, and where each user's begin."""
    person, place = np.full(ratings.n_users, -1), np.full(ratings.n_items, -1)
    person[users], place[items] = np.arange(len(users)), np.arange(len(items))
    who, what = person[ratings.user], place[ratings.item]
    rows = np.flatnonzero((who >= 0) & (what >= 0))
    rows = rows[np.argsort(who[rows], kind="stable")]
    begins = np.concatenate([[0], np.cumsum(np.bincount(who[rows], minlength=len(users)))])
    return {
        "user_ids": [str(id) for id in ratings.users.ids[users].tolist()],  # JavaScript rounds integers above 2^53
        "rated_from": _packed(begins, "int32"),
        "rated_item": _packed(what[rows], "int32"),
        "rated_stars": _packed(ratings.rating[rows], "float32"),
    }
