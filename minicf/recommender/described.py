"""Join features of users and items to ratings: an id that is described is known, whether it has ratings or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf.data import Features, Ratings, Vocabulary
from minicf.recommender.inputs import Inputs, of_side


def described(ratings: Ratings, frames: Mapping[str, Any], inputs: Inputs) -> tuple[Ratings, dict[str, Features]]:
    """Return ratings whose vocabularies also have the ids of some tables of features, and these features.

    Parameters
    ----------
    ratings : Ratings
        With vocabularies of the ids that have ratings.
    frames : dict of DataFrame or None, by side
    inputs : Inputs

    Returns
    -------
    ratings : Ratings
        Titles are those of before; other items have None.
    features : dict of Features, by side
        In the order of the vocabularies; an id without a row in its table has no entries.
    """
    vocabularies, rows = {"user": ratings.users, "item": ratings.items}, {"user": ratings.user, "item": ratings.item}
    features, titles = {}, ratings.titles
    for side, frame in frames.items():
        if frame is None:
            continue
        found, ids = Features.from_frame(frame, inputs.column(side), f"{side}_features")
        rated, index = of_side(ratings, side)
        if rated.ids.dtype != ids.ids.dtype:
            kinds = ["text" if x.ids.dtype == object else "integers" for x in (ids, rated)]
            raise ValueError(f"ids of {side}_features are {kinds[0]}; they must be {kinds[1]}, like those of X")
        both = Vocabulary._trusted(np.unique(np.concatenate([rated.ids, ids.ids])))
        place = both.index(rated.ids)
        vocabularies[side], rows[side] = both, place[index].astype(np.int32)
        features[side] = found.take(ids.index(both.ids, missing=-1))
        if side == "item" and titles is not None:
            wide = np.full(len(both), None, object)
            wide[place] = titles
            titles = wide
    joined = Ratings._trusted(
        rows["user"], rows["item"], ratings.rating, ratings.timestamp, vocabularies["user"], vocabularies["item"],
        titles, None, ratings.weight,
    )  # fmt: skip
    return joined, features
