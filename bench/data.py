"""Ratings to measure on: MovieLens from disk, and synthetic tables of any size with a known best error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minicf import Ratings, load_movielens

SHAPES = {
    "ml-1m": (6_040, 3_706, 1_000_209),
    "ml-10m": (71_567, 10_681, 10_000_054),
    "ml-25m": (162_541, 59_047, 25_000_095),
}
"""Users, items and ratings as the readme files of these MovieLens sets count them."""

USER_TAIL, ITEM_TAIL = 1.2, 2.0
"""Standard deviations of the logarithm of a user's and an item's popularity: in MovieLens 10M the mean user has twice
the ratings of the median user, the mean item seven times those of the median item, and a log-normal distribution has
mean / median = exp(sigma^2 / 2)."""

MEAN, USER_BIAS, ITEM_BIAS, TASTE = 3.5, 0.4, 0.45, 0.4
"""The planted score: its mean, and the standard deviations of biases and of the dot product, in stars."""


class Synthetic(NamedTuple):
    """Ratings with what is known of how they came about."""

    ratings: Ratings
    floor: float
    """Mean squared error of the best predictor there is, which knows the planted weights, in stars squared."""


def synthetic(
    n_users: int, n_items: int, n_ratings: int, n_factors: int = 8, noise: float = 0.75, seed: int = 0
) -> Synthetic:
    """A table of distinct (user, item) pairs in random order, rated in half stars by planted factors and biases.

    Users and items have log-normal popularity. A pair is drawn with the product of both and kept once, so that the
    most popular items saturate, as they do in a real table. Each user and each item occurs at least once.

    Parameters
    ----------
    n_users, n_items, n_ratings : int
        At most a third of all pairs can be asked for.
    n_factors : int
        Of the planted dot product.
    noise : float
        Standard deviation of what is added to the score before rounding, in stars.
    seed : int

    Returns
    -------
    Synthetic

    Notes
    -----
    With score s, r = round(2 (s + noise e)) / 2 within 0.5 … 5, e standard normal. The best prediction is E[r | s], its
    error Var[r | s], a function of s alone: it is tabulated and averaged over the ratings' scores.
    """
    if not max(n_users, n_items) <= n_ratings <= n_users * n_items // 3:
        raise ValueError(
            f"{n_ratings:,} ratings of {n_users:,} users and {n_items:,} items: between {max(n_users, n_items):,} "
            f"(one each) and {n_users * n_items // 3:,} (a third of all pairs) can be made"
        )
    random = np.random.default_rng(seed)
    user, item = _pairs(random, n_users, n_items, n_ratings)
    b = random.normal(0.0, USER_BIAS, n_users).astype(np.float32)
    c = random.normal(0.0, ITEM_BIAS, n_items).astype(np.float32)
    p = random.normal(0.0, 1.0, (n_users, n_factors)).astype(np.float32)
    q = random.normal(0.0, TASTE / math.sqrt(n_factors), (n_items, n_factors)).astype(np.float32)
    rating = np.empty(n_ratings, np.float32)
    table_s, table_variance = _variances(noise)
    variance = 0.0
    for start in range(0, n_ratings, 1 << 20):  # bounds the memory
        part = slice(start, start + (1 << 20))
        u, i = user[part], item[part]
        s = np.float32(MEAN) + b[u] + c[i] + np.einsum("nk,nk->n", p[u], q[i])
        variance += float(np.interp(s, table_s, table_variance).sum())
        s += random.standard_normal(len(s), np.float32) * np.float32(noise)
        rating[part] = np.clip(np.rint(s * 2) / 2, 0.5, 5.0)
    return Synthetic(Ratings(user, item, rating, n_users, n_items), variance / n_ratings)


def _pairs(random: np.random.Generator, n_users: int, n_items: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """n distinct pairs in random order, every user and every item among them."""
    users, items = (_popularity(random, *side) for side in ((n_users, USER_TAIL), (n_items, ITEM_TAIL)))
    # One of each: a permutation of the longer side against one of the shorter, repeated.
    most = max(n_users, n_items)
    u, i = (np.resize(random.permutation(size), most) for size in (n_users, n_items))
    first = u * np.int64(n_items) + i
    # An item is looked up, not searched for: a table in which each has its share of 4 million places.
    places = np.repeat(np.arange(n_items, dtype=np.int32), np.maximum(1, np.rint(items * (1 << 22))).astype(np.int64))
    keys = first
    draws = _draws(users, items, n)
    while True:
        user = np.repeat(np.arange(n_users, dtype=np.int64), random.multinomial(draws, users))
        keys = np.concatenate([keys, user * n_items + places[random.integers(0, len(places), draws, np.int32)]])
        keys.sort()
        keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
        if len(keys) >= n:
            break
        draws = draws // 4  # seldom: `_draws` asks for 2 % too many
    optional = np.ones(len(keys), bool)
    optional[np.searchsorted(keys, first)] = False
    keys = np.delete(keys, random.choice(np.flatnonzero(optional), len(keys) - n, replace=False, shuffle=False))
    random.shuffle(keys)
    return (keys // n_items).astype(np.int32), (keys % n_items).astype(np.int32)


def _popularity(random: np.random.Generator, n: int, tail: float) -> np.ndarray:
    """n log-normal weights that add up to 1."""
    weights = np.exp(random.normal(0.0, tail, n))
    return weights / weights.sum()


def _draws(users: np.ndarray, items: np.ndarray, n: int) -> int:
    """How many pairs to draw so that about 1.02 n distinct ones come out.

    Pair (u, i) of d draws occurs with probability 1 - exp(-d w_u v_i); the sum over all pairs is taken over 200 groups
    of users and of items of like popularity.
    """
    groups = [np.array_split(np.sort(weights), 200) for weights in (users, items)]
    sizes, means = ([np.array([f(group) for group in side if len(group)]) for side in groups] for f in (len, np.mean))
    product, count = np.outer(*means), np.outer(*sizes)
    draws = 1.02 * n
    for _ in range(200):
        distinct = float((count * -np.expm1(-draws * product)).sum())
        if distinct >= 1.02 * n:
            break
        draws *= 1.02
    return int(draws)


def _variances(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores from -3 to 9 and the variance of the half stars that each gives."""
    s = np.linspace(-3.0, 9.0, 1201)
    stars = np.arange(0.5, 5.01, 0.5)
    edges = np.concatenate([[-np.inf], stars[:-1] + 0.25, [np.inf]])
    z = (edges[None, :] - s[:, None]) / (noise * math.sqrt(2.0))
    below = 0.5 * (1.0 + np.vectorize(math.erf)(z))
    share = np.diff(below, axis=1)
    mean = share @ stars
    return s, share @ stars**2 - mean**2


# --- what the cases name ---------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """Ratings to train on and to validate on, as plain arrays."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    valid_user: np.ndarray
    valid_item: np.ndarray
    valid_rating: np.ndarray
    n_users: int
    n_items: int
    floor: float
    """Best possible mean squared error; NaN where it is not known."""

    def ratings(self) -> tuple[Ratings, Ratings]:
        """(train, valid) as minicf takes them."""
        size = self.n_users, self.n_items
        return (
            Ratings(self.user, self.item, self.rating, *size),
            Ratings(self.valid_user, self.valid_item, self.valid_rating, *size),
        )


def make(name: str) -> Table:
    """The table called `name`, split into training and validation ratings.

    ``movielens`` (the packaged set, fast.ai's split), ``movielens:PATH`` (a local folder or zip, the same split), or
    ``synthetic:USERS:ITEMS:RATINGS`` (so many to train on, and a ninth of that, at most a million, to validate on).
    """
    kind, _, rest = name.partition(":")
    if kind == "movielens":
        train, valid = load_movielens(rest or None).split(valid=0.2, seed=42)
        floor = math.nan
    elif kind == "synthetic":
        n_users, n_items, n = (int(part) for part in rest.split(":"))
        held = min(n // 9 + 1, 1_000_000)
        made = synthetic(n_users, n_items, n + held)
        rows = np.arange(n + held)  # they are in random order
        train, valid, floor = made.ratings.take(rows[:n]), made.ratings.take(rows[n:]), made.floor
    else:
        raise ValueError(f"no data called {name!r}: 'movielens', 'movielens:PATH' or 'synthetic:USERS:ITEMS:RATINGS'")
    return Table(
        train.user, train.item, train.rating, valid.user, valid.item, valid.rating,
        train.n_users, train.n_items, floor,
    )  # fmt: skip


def stored(name: str, folder: Path) -> Path:
    """The folder of the table called `name`, made at the first need: arrays that every process maps from disk."""
    path = folder / "".join(c if c.isalnum() else "-" for c in name)
    if not path.exists():
        table = make(name)
        part = path.with_suffix(".part")
        part.mkdir(parents=True)
        for field, value in table._asdict().items():
            np.save(part / f"{field}.npy", np.asarray(value))
        part.rename(path)
    return path


def load(path: Path) -> Table:
    """The table that `stored` put there."""
    arrays = {field: np.load(path / f"{field}.npy", mmap_mode="r") for field in Table._fields}
    n_users, n_items, floor = (arrays.pop(field).item() for field in ("n_users", "n_items", "floor"))
    return Table(**arrays, n_users=n_users, n_items=n_items, floor=floor)
