"""Ratings made from a known model: their noise, their pairs, their numbers."""

from __future__ import annotations

import numpy as np
import pytest

import minicf
from minicf.datasets import make_ratings


def test_the_noise_is_the_error_of_the_signal():
    planted = make_ratings(noise=0.5)
    error = planted.ratings.rating - planted.signal
    n = len(error)
    assert n == 50_000
    assert abs(error.std() - 0.5) < 4 * 0.5 / (2 * n) ** 0.5  # four standard errors of a standard deviation
    assert abs(error.mean()) < 4 * 0.5 / n**0.5
    np.testing.assert_array_equal(planted.signal, planted.predict(planted.ratings.user, planted.ratings.item))


def test_the_weights_are_those_of_a_model():
    planted = make_ratings(40, 30, 600, n_factors=3, noise=0.0)
    model = minicf.DotBias(3, global_mean=planted.mean)
    trainer = minicf.Trainer(model, minicf.SGD(0.1), backend="numpy", dtype="float64", weights=planted.weights)
    found = trainer.predict(planted.ratings.user, planted.ratings.item)
    np.testing.assert_allclose(found, planted.signal, rtol=1e-12)
    np.testing.assert_allclose(planted.ratings.rating, planted.signal, rtol=1e-6)  # float32


def test_parts_of_the_variance():
    planted = make_ratings(3000, 2000, 100_000, n_factors=5, noise=0.1, bias=0.3, interaction=0.6, mean=2.0, skew=0.0)
    w = planted.weights
    for side, n in (("user", 3000), ("item", 2000)):
        assert abs(w[f"{side}_bias"].std() - 0.3) < 4 * 0.3 / (2 * n) ** 0.5
    products = planted.predict(planted.ratings.user, planted.ratings.item) - 2.0
    products -= w["user_bias"][planted.ratings.user] + w["item_bias"][planted.ratings.item]
    assert products.std() == pytest.approx(0.6, rel=0.1)  # of 2,000 x 5 factors: their variance is off by some 3 %


def test_no_pair_twice_and_counts_as_asked():
    for size in ((5, 4, 20), (5, 4, 1), (5, 4, 19), (300, 200, 9000), (7, 1, 7), (1, 9, 4), (50, 3, 40)):
        planted = make_ratings(*size)
        ratings = planted.ratings
        assert (ratings.n_users, ratings.n_items, len(ratings)) == size
        assert len(np.unique(ratings.user.astype(np.int64) * ratings.n_items + ratings.item)) == len(ratings)
        if size[2] >= size[0]:
            assert ratings.user_counts().min() >= 1


def test_skew():
    even = make_ratings(400, 300, 12_000, skew=0.0).ratings
    assert np.ptp(even.user_counts()) <= 1
    uneven = make_ratings(400, 300, 12_000, skew=1.0).ratings
    assert uneven.user_counts().max() > 5 * 30
    assert uneven.item_counts().max() > 4 * even.item_counts().max()


def test_a_seed_is_one_table():
    one, same, other = (make_ratings(50, 40, 500, seed=seed) for seed in (3, 3, 4))
    for name in ("user", "item", "rating"):
        np.testing.assert_array_equal(getattr(one.ratings, name), getattr(same.ratings, name))
    assert (one.ratings.rating != other.ratings.rating).mean() > 0.9
    # The numbers by counter, once for all: a change of them changes every figure made of such tables.
    assert one.ratings.rating[:3].tolist() == pytest.approx(FIRST, rel=1e-6)


FIRST = [3.8003855, 2.4628162, 3.9521945]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_users": 0}, "n_users is 0"),
        ({"n_ratings": 100, "n_users": 9, "n_items": 11}, "n_ratings is 100; 9 users and 11 items have fewer pairs"),
        ({"noise": -1}, "noise is -1"),
        ({"skew": np.nan}, "skew is nan"),
        ({"n_factors": 2.5}, r"n_factors is 2\.5"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_ratings(**arguments)
