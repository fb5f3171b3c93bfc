"""Tables of features of users and items: what each kind of column becomes, what is refused, rows that come later."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from minicf.data import Features, Vocabulary


def dense(features: Features) -> pd.DataFrame:
    out = np.zeros((len(features), len(features.names)))
    out[features.rows, features.index] = features.value
    return pd.DataFrame(out, columns=features.names)


def read(column, ids=None, index="movieId"):
    frame = pd.DataFrame({"movieId": range(len(column)) if ids is None else ids, "x": column})
    return Features.from_frame(frame, index)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1, 2, 3], {"x": [-(1.5**0.5), 0, 1.5**0.5]}),
        ([1.0, None, 3.0], {"x": [-1, 0, 1]}),
        (pd.array([1, None, 3], "Int64"), {"x": [-1, 0, 1]}),
        ([True, False, True], {"x=False": [0, 1, 0], "x=True": [1, 0, 1]}),
        (pd.array([True, None, True], "boolean"), {"x=True": [1, 0, 1]}),
        (["a", "b", "a"], {"x=a": [1, 0, 1], "x=b": [0, 1, 0]}),
        (["b|a", " a ", None], {"x=a": [0.5**0.5, 1, 0], "x=b": [0.5**0.5, 0, 0]}),
        (["a|a|", "a", ""], {"x=a": [1, 1, 0]}),
        ([["a", "b"], {"a"}, None], {"x=a": [0.5**0.5, 1, 0], "x=b": [0.5**0.5, 0, 0]}),
        ([("a",), (), np.array(["a"])], {"x=a": [1, 0, 1]}),
        ([[7, 9], [7], []], {"x=7": [0.5**0.5, 1, 0], "x=9": [0.5**0.5, 0, 0]}),
        (pd.Categorical(["u", "v", "u"]), {"x=u": [1, 0, 1], "x=v": [0, 1, 0]}),
        (pd.Categorical([7, 9, 7]), {"x=7": [1, 0, 1], "x=9": [0, 1, 0]}),
        (pd.array(["a", None, "a"], "string"), {"x=a": [1, 0, 1]}),
    ],
)
def test_a_column_becomes_features(column, expected):
    features, ids = read(column)
    assert ids == Vocabulary([0, 1, 2])
    pd.testing.assert_frame_equal(
        dense(features), pd.DataFrame(expected, dtype=float), check_column_type=False, rtol=1e-6
    )


def test_rows_are_in_the_order_of_the_ids():
    features, ids = read([10, 30, 20], ids=["b", "c", "a"])
    assert ids == Vocabulary(["a", "b", "c"])
    assert np.argsort(dense(features).x).tolist() == [1, 0, 2]
    by_index, same = Features.from_frame(pd.DataFrame({"x": [10, 30, 20]}, index=["b", "c", "a"]), "movieId")
    assert same == ids
    pd.testing.assert_frame_equal(dense(by_index), dense(features))
    named = pd.DataFrame({"x": [10, 30, 20]}, index=pd.RangeIndex(3, name="movieId"))
    assert Features.from_frame(named, "movieId")[1] == Vocabulary([0, 1, 2])


def test_columns_side_by_side():
    frame = pd.DataFrame({"movieId": [2, 1, 3], "genres": ["A|B", "B", None], "year": [2000, 1990, 2010]})
    before = frame.copy(deep=True)
    features, _ = Features.from_frame(frame, "movieId")
    pd.testing.assert_frame_equal(frame, before)
    assert features.names.tolist() == ["genres=A", "genres=B", "year"]
    assert features.start.tolist() == [0, 2, 5, 6]
    np.testing.assert_allclose(
        dense(features).to_numpy(), [[0, 1, -(1.5**0.5)], [0.5**0.5, 0.5**0.5, 0], [0, 0, 1.5**0.5]], rtol=1e-6
    )
    y = np.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(features.product(y), dense(features).to_numpy() @ y)
    np.testing.assert_allclose(features.product(y[:, 0]), dense(features).to_numpy() @ y[:, 0])
    picked = features.take(np.array([2, -1, 0]))
    np.testing.assert_array_equal(dense(picked), dense(features).to_numpy()[[2, 0, 0]] * [[1], [0], [1]])


def test_what_says_nothing_is_left_out(caplog):
    frame = pd.DataFrame(
        {
            "movieId": [1, 2, 3],
            "one": [5, 5, 5],
            "same": "a",
            "title": ["u", "v", "w"],
            "none": [None] * 3,
            "x": [1, 2, 4],
        }
    )
    with caplog.at_level(logging.INFO, "minicf"):
        features, _ = Features.from_frame(frame, "movieId")
    assert features.names.tolist() == ["x"]
    assert sorted(record.args[1] for record in caplog.records) == ["none", "one", "same", "title"]
    with pytest.raises(ValueError, match="item_features has no column that tells rows apart"):
        Features.from_frame(frame.drop(columns="x"), "movieId", "item_features")


def test_an_outlier_does_not_say_all():
    features, _ = read([0.0] * 999 + [1e30])
    assert features.value.max() == 8
    assert np.isfinite(features.value).all()


def test_later_rows_are_read_as_the_first():
    frame = pd.DataFrame(
        {"movieId": [1, 2, 3], "genres": ["A|B", "B", "A"], "year": [1990, 2000, 2010], "title": list("uvw")}
    )
    features, _ = Features.from_frame(frame, "movieId")
    later = pd.DataFrame({"year": [2010, None], "genres": ["B|C", "C"], "other": 1}, index=[7, 8])
    more, ids = features.read(later, "movieId")
    assert ids == Vocabulary([7, 8])
    assert (more.names == features.names).all()
    np.testing.assert_allclose(dense(more).to_numpy(), [[0, 1, 1.5**0.5], [0, 0, 0]], rtol=1e-6)
    again, _ = features.read(frame, "movieId")
    pd.testing.assert_frame_equal(dense(again), dense(features))
    with pytest.raises(ValueError, match="has no column 'year'"):
        features.read(later.drop(columns="year"), "movieId")
    with pytest.raises(ValueError, match=r"'year' has .* values; it must have numbers, as before"):
        features.read(later.assign(year=["x", "y"]), "movieId")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"movieId": [1, 1], "x": [1, 2]}, "the id 1 more than once"),
        ({"movieId": ["a", None], "x": [1, 2]}, "missing id"),
        ({"movieId": [1, 2], "x": [1, np.inf]}, "column 'x', row 1: inf is no finite number"),
        (
            {"movieId": [1, 2], "x": pd.to_datetime(["2020", "2021"])},
            "'x' has datetime64 values; .*turn dates into numbers",
        ),
        ({"movieId": [1, 2], "x": [object(), object()]}, "'x' has mixed values"),
        ({"movieId": [1, 2], "x": [1j, 2j]}, "'x' has complex values"),
        ({"movieId": [1, 2]}, "no column that tells rows apart"),
        ({"movieId": [], "x": []}, "has no rows"),
        ({"x": [1, 2]}, "no column 'movieId', and its index has no ids"),
    ],
)
def test_bad_tables_are_refused(frame, message):
    with pytest.raises(ValueError, match=message):
        Features.from_frame(pd.DataFrame(frame), "movieId")


def test_what_is_no_table_is_refused():
    with pytest.raises(TypeError, match="features is a dict; it must be a pandas DataFrame"):
        Features.from_frame({"movieId": [1]}, "movieId")
    twice = pd.DataFrame([[1, 2, 3], [2, 3, 4]], columns=["movieId", "x", "x"])
    with pytest.raises(ValueError, match="the column 'x' more than once"):
        Features.from_frame(twice, "movieId")
    with pytest.raises(ValueError, match="columns of 2 levels"):
        Features.from_frame(pd.concat({"a": twice}, axis=1), "movieId")
