"""Join features of users and items to ratings: an id that is described is known, whether it has ratings or not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from minicf.data import Features, Ratings, Vocabulary
from minicf.data.checks import plural, shown
from minicf.data.item_texts import aligned_texts
from minicf.recommender.inputs import Inputs, of_side, warn

log = logging.getLogger("minicf")


def described(
    ratings: Ratings, frames: Mapping[str, Any], inputs: Inputs, titles: Any = None
) -> tuple[Ratings, dict[str, Features]]:
    """Return ratings whose vocabularies also have the ids of some tables of features, and these features.

    Parameters
    ----------
    ratings : Ratings
        With vocabularies of the ids that have ratings.
    frames : dict of DataFrame or None, by side
    inputs : Inputs
    titles : mapping or Series from item id to text, optional
        Those of the ratings, also of items that have none.

    Returns
    -------
    ratings : Ratings
    features : dict of Features, by side
        In the order of the vocabularies; an id without a row in its table has no entries.

    Raises
    ------
    ValueError
        The ids of a table are of another type than those of the ratings, or `Features.from_frame` refuses it.
    """
    vocabularies, rows = {"user": ratings.users, "item": ratings.items}, {"user": ratings.user, "item": ratings.item}
    features, known = {}, ratings.titles
    for side, frame in frames.items():
        if frame is None:
            continue
        found, ids = Features.from_frame(frame, inputs.column(side), f"{side}_features")
        rated, index = of_side(ratings, side)
        if rated.ids.dtype != ids.ids.dtype:
            kinds = ["text" if x.ids.dtype == object else "integers" for x in (ids, rated)]
            raise ValueError(f"ids of {side}_features are {kinds[0]}; they must be {kinds[1]}, like those of X")
        there = ids.index(rated.ids, missing=-1) >= 0
        log.info(
            "%s_features: %d of %d %ss with ratings have a row; %d others are known by it alone",
            side, there.sum(), len(rated), side, len(ids) - there.sum(),
        )  # fmt: skip
        if not there.any():
            warn(
                f"{side}_features has {plural(len(ids), 'row')}, none of them of the {plural(len(rated), side)} with "
                f"ratings, so that nothing is learnt from it: its first id is {shown(ids.ids[0])}, that of X "
                f"{shown(rated.ids[0])}"
            )
        both = Vocabulary._trusted(np.unique(np.concatenate([rated.ids, ids.ids])))
        place = both.index(rated.ids)
        vocabularies[side], rows[side] = both, place[index].astype(np.int32)
        features[side] = found.take(ids.index(both.ids, missing=-1))
        if side == "item":
            known = aligned_texts(titles, both, "titles")
    joined = Ratings._trusted(
        rows["user"], rows["item"], ratings.rating, ratings.timestamp, vocabularies["user"], vocabularies["item"],
        known, None, ratings.weight, ratings.implicit,
    )  # fmt: skip
    return joined, features
