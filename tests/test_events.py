"""Tables of events: `Ratings.from_events`, sums of what is repeated, dislikes, and that they stay events."""

from __future__ import annotations

import copy
import logging
import pickle
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicf import Ratings
from minicf.recommender.inputs import rated_only


def plays() -> pd.DataFrame:
    rows = [("ann", 3, 2.0, 50), ("bob", 3, 1.0, 10), ("ann", 9, -1.0, 20), ("ann", 3, 4.0, 30), ("bob", 9, 0.5, 40),
            ("bob", 9, -0.5, 60)]  # fmt: skip
    return pd.DataFrame(rows, columns=["who", "song", "n", "when"])


def events(**given) -> Ratings:
    return Ratings.from_events(plays(), **{"user": "who", "item": "song"} | given)


def test_events_without_weights_count_repeats():
    found = events()
    assert found.frame().drop(columns="rating").to_numpy().tolist() == [
        ["bob", 3, 1.0], ["ann", 9, 1.0], ["ann", 3, 2.0], ["bob", 9, 2.0]
    ]  # fmt: skip
    assert found.rating.tolist() == [1.0] * 4
    assert found.implicit
    once = Ratings.from_events(plays().iloc[:3], user="who", item="song")
    assert once.weight is None, "1 each"


def test_weights_are_summed_with_their_sign(caplog):
    with caplog.at_level(logging.INFO, "minicf"):
        found = events(weight="n", timestamp="when", titles={3: "Three"})
    assert re.findall(r"events: .*", caplog.text) == [
        "events: 6 rows summed into 4 pairs", "events: left out 1 pair with a sum of 0"
    ]  # fmt: skip
    assert found.frame().to_numpy().tolist() == [
        ["bob", 3, 1.0, 10, 1.0], ["ann", 9, 0.0, 20, 1.0], ["ann", 3, 1.0, 50, 6.0]
    ]  # fmt: skip
    assert found.titles.tolist() == ["Three", None]
    assert repr(found) == "Ratings(3 events, 2 users, 2 items, 1 dislike, weights 1.0 … 6.0)"


def test_what_rounding_leaves_of_a_sum_is_no_event():
    frame = pd.DataFrame({"userId": [0, 0, 0, 1], "movieId": 5, "w": [0.1, 0.2, -0.3, 1e-30]})
    found = Ratings.from_events(frame, weight="w")
    assert found.frame()["userId"].tolist() == [1]
    assert found.weight.tolist() == [np.float32(1e-30)], "small is not nothing"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(-2, 3)), min_size=1))
@settings(max_examples=60, deadline=None)
def test_sums_equal_groupby(rows):
    frame = pd.DataFrame(rows, columns=["userId", "movieId", "w"])
    total = frame.groupby(["userId", "movieId"])["w"].sum()
    total = total[total != 0]
    if not len(total):
        with pytest.raises(ValueError, match="add up to 0: nothing is left"):
            Ratings.from_events(frame, weight="w")
        return
    found = Ratings.from_events(frame, weight="w")
    out = found.frame().set_index(["userId", "movieId"])
    size = out.get("weight", 1.0)
    assert (size * np.where(out["rating"] == 1, 1, -1) * pd.Series(1, out.index)).to_dict() == total.to_dict()
    assert set(out["rating"]) <= {0.0, 1.0}


def test_they_stay_events():
    whole = events(weight="n")
    parts = [whole.take([0, 1]), *whole.split(1, by="random"), rated_only(whole), pickle.loads(pickle.dumps(whole)),
             copy.copy(whole)]  # fmt: skip
    assert all(part.implicit for part in parts)
    assert "event" in repr(parts[0])
    stars = Ratings.from_frame(plays(), user="who", item="song", rating="n", duplicates="mean")
    assert not any(x.implicit for x in (stars, stars.take([0]), rated_only(stars), pickle.loads(pickle.dumps(stars))))


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        ({}, {"weight": "clicks"}, r"no column 'clicks'.*from_events\(\.\.\., weight=\.\.\.\)"),
        ({"n": np.nan}, {"weight": "n"}, "missing weight"),
        ({"n": "3"}, {"weight": "n"}, "is not a number"),
        ({"n": 0.0}, {"weight": "n"}, "add up to 0: nothing is left"),
        ({"n": 3e38}, {"weight": "n"}, r"add up to 6e\+38; it must be finite in float32"),
        ({"song": None}, {}, "missing id"),
    ],
)
def test_refused(change, given, message):
    with pytest.raises(ValueError, match=message):
        Ratings.from_events(plays().assign(**change), **{"user": "who", "item": "song"} | given)


def test_refused_frames():
    with pytest.raises(TypeError, match="frame is a list; it must be a pandas DataFrame"):
        Ratings.from_events([1])
    with pytest.raises(ValueError, match="no rows"):
        Ratings.from_events(plays().iloc[:0], user="who", item="song")
