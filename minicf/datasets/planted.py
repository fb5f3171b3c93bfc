"""Ratings made from a known model, so that the best possible error is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicf import rng
from minicf.arguments import check_int, check_number, check_seed
from minicf.data import Ratings

_USER_BIAS, _ITEM_BIAS, _USER_FACTORS, _ITEM_FACTORS, _ACTIVITY, _POPULARITY, _CHOICE, _NOISE = range(8)
"""Streams of random numbers."""

_BLOCK = 1 << 22
"""Pairs of a user and an item that are looked at together."""


class Planted(NamedTuple):
    """Hold ratings and the model that made them."""

    ratings: Ratings
    signal: NDArray[np.float64]
    """(n,) the ratings without noise, row by row."""
    noise: float
    """Standard deviation of the noise: the root mean squared error that no prediction beats on average."""
    mean: float
    weights: dict[str, NDArray[np.float64]]
    """user_factors (U, K), item_factors (I, K), user_bias (U,), item_bias (I,), as `DotBias` has them."""

    def predict(self, user: NDArray[np.integer], item: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the ratings without noise of any pairs of indices, shape (n,)."""
        w = self.weights
        products = (w["user_factors"][user] * w["item_factors"][item]).sum(axis=1)
        return self.mean + w["user_bias"][user] + w["item_bias"][item] + products


def make_ratings(
    n_users: int = 1000,
    n_items: int = 500,
    n_ratings: int = 50_000,
    n_factors: int = 4,
    noise: float = 0.5,
    seed: int = 0,
    *,
    mean: float = 3.5,
    bias: float = 0.4,
    interaction: float = 0.5,
    skew: float = 0.7,
) -> Planted:
    """Make ratings whose best possible error is known: r = mean + b_u + c_i + p_u . q_i + noise.

    Parameters
    ----------
    n_users, n_items, n_ratings : int
        U, I and n; no pair of a user and an item occurs twice.
    n_factors : int
        K.
    noise : float
        Standard deviation of the normal noise, above or equal to 0.
    seed : int
    mean : float
    bias : float
        Standard deviation of each side's biases.
    interaction : float
        Standard deviation of p_u . q_i.
    skew : float
        How uneven the numbers of ratings are: the r-th most active user, or most popular item, weighs r^-skew. 0 makes
        all alike.

    Returns
    -------
    Planted
        ``ratings`` (not rounded and not cut to a range, for the error's sake), ``signal``, ``noise``, ``weights``.

    Notes
    -----
    A user's items are drawn without replacement by an exponential race: those with the smallest e_i / weight_i, e_i
    exponential (Efraimidis and Spirakis 2006). The time grows with U I.

    Examples
    --------
    >>> from minicf.datasets import make_ratings
    >>> planted = make_ratings(200, 100, 4000, noise=0.3)
    >>> rmse = float(((planted.ratings.rating - planted.signal) ** 2).mean() ** 0.5)
    >>> abs(rmse - planted.noise) < 0.02
    True
    """
    n_users, n_items = check_int("n_users", n_users, 1), check_int("n_items", n_items, 1)
    n_ratings, k = check_int("n_ratings", n_ratings, 1), check_int("n_factors", n_factors, 1)
    noise, mean, skew = check_number("noise", noise, 0.0), check_number("mean", mean), check_number("skew", skew, 0.0)
    bias, interaction = check_number("bias", bias, 0.0), check_number("interaction", interaction, 0.0)
    seed = check_seed("seed", seed)
    if n_ratings > n_users * n_items:
        raise ValueError(f"n_ratings is {n_ratings:,}; {n_users:,} users and {n_items:,} items have fewer pairs")

    def draw(stream: int, rows: int, columns: int, std: float) -> NDArray[np.float64]:
        numbers = rng.normal(rng.key(seed, rng.PLANTED, stream), rows * columns, 0.0, std)
        return np.asarray(numbers.reshape(rows, columns), np.float64)

    weights = {
        "user_factors": draw(_USER_FACTORS, n_users, k, 1.0),
        "item_factors": draw(_ITEM_FACTORS, n_items, k, interaction / k**0.5),
        "user_bias": draw(_USER_BIAS, n_users, 1, bias)[:, 0],
        "item_bias": draw(_ITEM_BIAS, n_items, 1, bias)[:, 0],
    }
    counts = _counts(_weights(seed, _ACTIVITY, n_users, skew), n_ratings, n_items)
    user = np.repeat(np.arange(n_users, dtype=np.int32), counts)
    item = _items(seed, _weights(seed, _POPULARITY, n_items, skew), counts)
    planted = Planted(Ratings([0], [0], [0.0]), np.zeros(0), noise, mean, weights)
    signal = planted.predict(user, item)
    rating = signal + rng.normal(rng.key(seed, rng.PLANTED, _NOISE), n_ratings, 0.0, noise)
    return planted._replace(ratings=Ratings(user, item, rating, n_users, n_items), signal=signal)


def _weights(seed: int, stream: int, n: int, skew: float) -> NDArray[np.float64]:
    """Return r^-skew of ranks r = 1 … n in a random order, as shares."""
    rank = np.argsort(rng.uniform(rng.key(seed, rng.PLANTED, stream), n), kind="stable")
    weight = (1.0 + rank) ** -skew
    return weight / weight.sum()


def _counts(weight: NDArray[np.float64], total: int, most: int) -> NDArray[np.int64]:
    """Share `total` among rows by weight, at least 1 where it suffices, and at most `most` each."""
    counts = np.zeros(len(weight), np.int64)
    if total >= len(weight):
        counts += 1
    while left := total - int(counts.sum()):
        room = most - counts
        share = np.where(room > 0, weight, 0.0)
        more = np.minimum(room, np.floor(left * share / share.sum()).astype(np.int64))
        if not more.any():  # fewer are left than rows: one each, the heaviest first
            heaviest = np.argsort(-share, kind="stable")
            more[heaviest[room[heaviest] > 0][:left]] = 1
        counts += more
    return counts


def _items(seed: int, weight: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Draw so many different items for each user."""
    n_items, out = len(weight), []
    block = max(1, _BLOCK // n_items)
    for lo in range(0, len(counts), block):
        own = counts[lo : lo + block]
        u = rng.uniform(rng.key(seed, rng.PLANTED, _CHOICE, lo // block), len(own) * n_items).reshape(-1, n_items)
        time = -np.log1p(-u) / weight
        last = np.take_along_axis(np.sort(time, axis=1), np.maximum(own - 1, 0)[:, None], axis=1)
        out.append(np.nonzero((time <= last) & (own > 0)[:, None])[1])
    return np.concatenate(out).astype(np.int32)
