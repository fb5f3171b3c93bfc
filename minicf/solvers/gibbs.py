"""Posterior averaging by Gibbs sampling: biased matrix factorization whose prior means come from bags, derived by hand.

Ratings are standardized: less their mean, divided by their standard deviation. A row is x = [bias, factors], D = K + 1
numbers, and h = [1, factors] is what the other side multiplies it with (Salakhutdinov and Mnih 2008; side information
after Simm et al. 2015; noise by user and item is ours). Without biases (`Dot`) x = h = factors and c = 0. The model,
from the data down:

    (P0)  r_ui ~ N(x_u . h_i + c_i, 1 / (alpha a_u g_i)),   x_u . h_i + c_i = b_u + c_i + p_u . q_i
          x_u = m + sum_j F_uj Y_j + N(0, diag(lam)^-1),    m_k ~ N(0, 1/lam_k),   lam_k ~ Gamma(1, 1)
          Y_jk ~ N(0, 1/rho_k),                             rho_k ~ Gamma(1, 1)
          alpha ~ Gamma(1, 1),                              a_u ~ Gamma(nu/2, nu/2)

with shape and rate of each Gamma, and the items alike: their own m, lam, F, Y, rho, g. F_uj weights the features of a
row: for a bag, 1 / sqrt(number of its entries).

As an option, each user has an effect of each day on all ratings of that day (Koren 2009, "Collaborative filtering with
temporal dynamics", has such effects). The mean of r_ui is then x_u . h_i + c_i + t_d, d the user's day of the rating:

          t_d ~ N(0, 1/tau),  tau ~ Gamma(1, 1)

One sweep draws each unknown given all others. A conditional is what is left of log (P0) when only one unknown varies:
a quadratic is a normal, log and linear term together are a Gamma. `log_joint` is (P0) itself, and a test compares each
conditional with it.

A chain may hold arrays of NumPy or of CuPy. What goes over all ratings or all features one row after the other is
NumPy's; a backend gives its own `Steps` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from minicf import rng
from minicf.data.bags import Bags
from minicf.ops import namespace

ROWS, MEANS, PRECISIONS, FEATURES, FEATURE_PRECISIONS, NOISE, SHARED_NOISE = range(7)
"""What a stream of random numbers is for; a side's own streams follow each other."""
EFFECTS, EFFECT_PRECISION, START = 8, 9, 10
"""Those of user-days, and of where a chain starts; 7 would be a stream of the same number as the chains' own seeds."""


class Features(NamedTuple):
    """Hold the weights F of the features of each row, column by column."""

    columns: Bags
    """For each feature the rows that have it."""
    value: np.ndarray
    """(entries,) float64, F_uj of each entry of ``columns.index``."""

    @classmethod
    def of(cls, row: np.ndarray, feature: np.ndarray, n_rows: int, n_features: int) -> Features:
        """Take pairs as bags: every entry weighs 1 / sqrt(number of entries of its row)."""
        columns = Bags.of(feature, row, n_features)
        sizes = np.bincount(columns.index, minlength=n_rows)
        return cls(columns, sizes[columns.index] ** -0.5)

    def beside(self, row: np.ndarray, feature: np.ndarray, value: np.ndarray, n_features: int) -> Features:
        """Add columns of further features after these: their entries F_uj, in any order, each pair once."""
        order = np.lexsort((row, feature))
        ends = self.columns.start[-1] + np.cumsum(np.bincount(feature, minlength=n_features))
        columns = Bags(
            np.concatenate([self.columns.start, ends]).astype(np.int64),
            np.concatenate([self.columns.index, row[order]]).astype(np.int32),
            self.columns.side,
        )
        return Features(columns, np.concatenate([self.value, value[order]]))

    def product(self, y: np.ndarray, n_rows: int) -> np.ndarray:
        """Compute F Y, shape (rows, D)."""
        out = np.zeros((n_rows, y.shape[1]))
        feature = np.repeat(np.arange(len(y)), np.diff(self.columns.start))
        np.add.at(out, self.columns.index, self.value[:, None] * y[feature])
        return out


@dataclass
class Side:
    """Hold the unknowns of one side, users or items, all in float64."""

    x: np.ndarray
    """(rows, D): bias and factors."""
    mean: np.ndarray
    """(D,), m."""
    precision: np.ndarray
    """(D,), lam."""
    noise: np.ndarray
    """(rows,), a: how exact the ratings of a row are beside others'."""
    features: Features
    weights: np.ndarray
    """(features, D), Y."""
    weight_precision: np.ndarray
    """(D,), rho."""

    @property
    def prior_mean(self) -> np.ndarray:
        """(rows, D), m + F Y."""
        return self.mean + self.features.product(self.weights, len(self.x))


@dataclass
class Chain:
    """Hold one state of the chain with the standardized ratings that it is conditioned on."""

    index: dict[str, np.ndarray]
    """User and item of each rating, by "user" and "item"."""
    rating: np.ndarray
    sides: dict[str, Side]
    alpha: float = 1.0
    nu: float = 10.0
    """How alike the noise of rows is held."""
    noise: tuple[str, ...] = ("user", "item")
    """Sides whose rows have a noise of their own; a_u = 1 on others."""
    biases: bool = True
    """Whether column 0 is a bias."""
    day: np.ndarray | None = None
    """Of each rating the row of `effect`, its user's day; None without effects of days."""
    effect: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(user-days,), t."""
    effect_precision: float = 1.0
    """tau."""
    ratings_of: Any = None
    """Positions of the ratings of each row, by side: `Bags`, made here where there are none."""

    def __post_init__(self) -> None:
        if self.ratings_of is not None:
            return
        positions = np.arange(len(self.rating))
        self.ratings_of = {
            side: Bags.of(rows, positions, len(self.sides[side].x), side) for side, rows in self.index.items()
        }

    def predict(self, part: slice = slice(None)) -> np.ndarray:
        """Compute the mean of each rating, b + c + p . q + t, given all unknowns."""
        x, w = (self.sides[side].x[rows[part]] for side, rows in self.index.items())
        h, c = self.split(w)
        return (x * h).sum(axis=1) + c + self.day_effect(part)

    def day_effect(self, at: np.ndarray | slice = slice(None)) -> np.ndarray | float:
        """Return t of ratings, by their positions; 0 without effects of days."""
        return 0.0 if self.day is None else self.effect[self.day[at]]

    def split(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return h and c of rows: what the other side is multiplied with, and what is added."""
        if not self.biases:
            return x, namespace(x).zeros(len(x))
        return namespace(x).concatenate([namespace(x).ones((len(x), 1)), x[:, 1:]], axis=1), x[:, 0]

    def rating_precision(self) -> np.ndarray:
        """Return alpha a_u g_i of each rating."""
        a, g = (self.sides[side].noise[rows] for side, rows in self.index.items())
        return self.alpha * a * g


def other(side: str) -> str:
    return "item" if side == "user" else "user"


# --- the conditionals -------------------------------------------------------------------------------------------------


def row_conditional(chain: Chain, side: str, row: int, prior_mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return A and v of (P1), x_u ~ N(A^-1 v, A^-1); ``prior_mean`` is the row of m + F Y.

    In -2 log (P0), x_u stands in (x - prior)^T diag(lam) (x - prior) + sum_i alpha a g_i (r - c_i - x . h_i)^2. The
    terms in x x^T give A, those in x give v. With effects of days, r is r - t here.

        (P1)  A = diag(lam) + alpha a_u sum_i g_i h_i h_i^T
              v = lam (m + F_u Y) + alpha a_u sum_i g_i (r_ui - c_i) h_i
    """
    mine, theirs = chain.sides[side], chain.sides[other(side)]
    ratings = chain.ratings_of[side]
    at = ratings.index[ratings.start[row] : ratings.start[row + 1]]
    rated = chain.index[other(side)][at]
    h, c = chain.split(theirs.x[rated])
    weight = chain.alpha * mine.noise[row] * theirs.noise[rated]
    a = np.diag(mine.precision) + (h.T * weight) @ h
    v = mine.precision * prior_mean + h.T @ (weight * (chain.rating[at] - c - chain.day_effect(at)))
    return a, v


def mean_conditional(side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of (P2), for all m_k: the rows and the prior are N + 1 numbers of one precision.

    (P2)  m_k ~ N(s_k / (N + 1), 1 / (lam_k (N + 1))),  s = sum_u (x_u - F_u Y)
    """
    n = len(side.x) + 1
    s = (side.x - side.features.product(side.weights, len(side.x))).sum(axis=0)
    return s / n, 1.0 / (side.precision * n)


def precision_conditional(side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Return shape and rate of (P3), for all lam_k; m shares the rows' precision.

    (P3)  lam_k ~ Gamma(1 + (N + 1)/2, 1 + (sum_u (x_uk - (F Y)_uk - m_k)^2 + m_k^2) / 2)
    """
    residual = side.x - side.prior_mean
    rate = 1.0 + 0.5 * ((residual**2).sum(axis=0) + side.mean**2)
    return np.full(len(rate), 1.0 + 0.5 * (len(side.x) + 1)), rate


def feature_conditional(side: Side, feature: int, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and precision of (P4), for all k of one feature; ``residual`` is R = x - m - F Y.

    (P4)  Y_jk ~ N(lam_k sum_u F_uj (R_uk + F_uj Y_jk) / t_k, 1 / t_k),  t_k = rho_k + lam_k sum_u F_uj^2
    """
    start, stop = side.features.columns.start[feature : feature + 2]
    rows, f = side.features.columns.index[start:stop], side.features.value[start:stop]
    squares = (f**2).sum()
    t = side.weight_precision + side.precision * squares
    return side.precision * (f @ residual[rows] + squares * side.weights[feature]) / t, t


def weight_precision_conditional(side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Return shape and rate of (P5), for all rho_k.

    (P5)  rho_k ~ Gamma(1 + J/2, 1 + sum_j Y_jk^2 / 2)
    """
    rate = 1.0 + 0.5 * (side.weights**2).sum(axis=0)
    return np.full(len(rate), 1.0 + 0.5 * len(side.weights)), rate


def effect_conditional(chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of (P17), for all user-days: a rating is of one, so that none stands in another's.

    With e_ui = r_ui - x_u . h_i - c_i, t_d stands in tau t_d^2 + alpha a_u sum_(i in d) g_i (e_ui - t_d)^2.

        (P17) t_d ~ N(v / A, 1 / A),  A = tau + alpha a_u sum_(i in d) g_i,  v = alpha a_u sum_(i in d) g_i e_ui
    """
    assert chain.day is not None
    n, precision = len(chain.effect), chain.rating_precision()
    residual = chain.rating - (chain.predict() - chain.day_effect())
    a = chain.effect_precision + np.bincount(chain.day, precision, n)
    return np.bincount(chain.day, precision * residual, n) / a, 1.0 / a


def effect_precision_conditional(effect: np.ndarray) -> tuple[float, float]:
    """Return shape and rate of (P18).

    (P18) tau ~ Gamma(1 + n/2, 1 + sum_d t_d^2 / 2),  n user-days
    """
    return 1.0 + 0.5 * len(effect), 1.0 + 0.5 * float((effect.astype(np.float64) ** 2).sum())


def alpha_conditional(chain: Chain) -> tuple[float, float]:
    """Return shape and rate of (P6), with e the errors of `Chain.predict`.

    (P6)  alpha ~ Gamma(1 + n/2, 1 + sum a_u g_i e_ui^2 / 2)
    """
    squares = (chain.rating - chain.predict()) ** 2
    return 1.0 + 0.5 * len(squares), 1.0 + 0.5 * float((chain.rating_precision() * squares).sum()) / chain.alpha


def noise_conditional(chain: Chain, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return shape and rate of (P7), for all rows of a side.

    (P7)  a_u ~ Gamma((nu + n_u)/2, (nu + alpha sum_i g_i e_ui^2) / 2)
    """
    rows, mine = chain.index[side], chain.sides[side]
    squares = (chain.rating - chain.predict()) ** 2 * chain.rating_precision() / mine.noise[rows]
    counts = np.bincount(rows, minlength=len(mine.x))
    return 0.5 * (chain.nu + counts), 0.5 * (chain.nu + np.bincount(rows, squares, len(mine.x)))


# --- a sweep ----------------------------------------------------------------------------------------------------------


def draw_rows(chain: Chain, side: str, key: int) -> np.ndarray:
    """Draw all rows of a side by (P1), in place; return their means A^-1 v.

    With A = L L^T and z standard normal, A^-1 v + L^-T z has the covariance L^-T L^-1 = A^-1. No row of a side stands
    in the conditional of another, so their order is free.
    """
    x, prior_mean = chain.sides[side].x, chain.sides[side].prior_mean
    z = rng.normal(key, x.size).reshape(x.shape)
    means = np.empty_like(x)
    for row in range(len(x)):
        a, v = row_conditional(chain, side, row, prior_mean[row])
        lower = np.linalg.cholesky(a)
        means[row] = np.linalg.solve(a, v)
        x[row] = means[row] + np.linalg.solve(lower.T, z[row])
    return means


def draw_features(side: Side, key: int, residual: np.ndarray | None = None) -> None:
    """Draw the weights of one feature after the other by (P4), in place; R follows at once."""
    residual = side.x - side.prior_mean if residual is None else residual
    z = rng.normal(key, side.weights.size).reshape(side.weights.shape)
    for j in range(len(side.weights)):
        mean, t = feature_conditional(side, j, residual)
        new = mean + z[j] / np.sqrt(t)
        start, stop = side.features.columns.start[j : j + 2]
        rows, f = side.features.columns.index[start:stop], side.features.value[start:stop]
        residual[rows] += f[:, None] * (side.weights[j] - new)
        side.weights[j] = new


class Steps(NamedTuple):
    """Hold the steps of a sweep whose work grows with the ratings."""

    rows: Callable[[Chain, str, int], np.ndarray] = draw_rows
    features: Callable[[Side, int], None] = draw_features
    alpha: Callable[[Chain], tuple[float, float]] = alpha_conditional
    noise: Callable[[Chain, str], tuple[np.ndarray, np.ndarray]] = noise_conditional


def sweep(chain: Chain, seed: int, number: int, steps: Steps = Steps()) -> dict[str, np.ndarray]:  # noqa: B008
    """Draw every unknown once, in place.

    Parameters
    ----------
    chain : Chain
    seed : int
    number : int
        Which sweep: random numbers are a function of it, and of nothing drawn before.
    steps : Steps
        Those of this module, or the same conditionals computed elsewhere.

    Returns
    -------
    dict of arrays
        The means A^-1 v of the rows of each side, given the rows of the other that were current then.
    """

    def key(purpose: int, side: str = "user") -> int:
        return rng.key(seed, rng.GIBBS, 2 * purpose + (side == "item"), number)

    for name, side in chain.sides.items():
        side.mean = normal(key(MEANS, name), mean_conditional(side))
        side.precision = gamma(key(PRECISIONS, name), precision_conditional(side))
    means = {name: steps.rows(chain, name, key(ROWS, name)) for name in chain.sides}
    for name, side in chain.sides.items():
        if len(side.weights):
            steps.features(side, key(FEATURES, name))
            side.weight_precision = gamma(key(FEATURE_PRECISIONS, name), weight_precision_conditional(side))
    if chain.day is not None:
        chain.effect = normal(key(EFFECTS), effect_conditional(chain))
        shape, rate = effect_precision_conditional(chain.effect)
        chain.effect_precision = float(rng.gamma(key(EFFECT_PRECISION), np.array([shape]))[0] / rate)
    shape, rate = steps.alpha(chain)
    chain.alpha = float(rng.gamma(key(SHARED_NOISE), np.array([shape]))[0] / rate)
    for name in chain.noise:
        chain.sides[name].noise = gamma(key(NOISE, name), steps.noise(chain, name))
    return means


def normal(key: int, mean_and_variance: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Draw normal numbers of given means and variances."""
    mean, variance = mean_and_variance
    xp = namespace(mean)
    return mean + xp.sqrt(variance) * xp.asarray(rng.normal(key, len(mean)))


def gamma(key: int, shape_and_rate: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Draw Gamma numbers of given shapes, of NumPy, and rates."""
    shape, rate = shape_and_rate
    return namespace(rate).asarray(rng.gamma(key, shape)) / rate


def log_joint(chain: Chain) -> float:
    """Compute the logarithm of (P0), of all unknowns and the ratings together, up to a constant."""
    precision = chain.rating_precision()
    total = 0.5 * np.log(precision).sum() - 0.5 * (precision * (chain.rating - chain.predict()) ** 2).sum()
    total -= chain.alpha
    if chain.day is not None:
        total += 0.5 * len(chain.effect) * np.log(chain.effect_precision) - chain.effect_precision
        total -= 0.5 * chain.effect_precision * (chain.effect**2).sum()
    for name, side in chain.sides.items():
        n, (j, _) = len(side.x), side.weights.shape
        total += 0.5 * n * np.log(side.precision).sum()
        total -= 0.5 * (side.precision * (side.x - side.prior_mean) ** 2).sum()
        total += (0.5 * np.log(side.precision) - 0.5 * side.precision * side.mean**2 - side.precision).sum()
        total += 0.5 * j * np.log(side.weight_precision).sum()
        total -= 0.5 * (side.weight_precision * side.weights**2).sum() + side.weight_precision.sum()
        if name in chain.noise:
            total += ((0.5 * chain.nu - 1.0) * np.log(side.noise) - 0.5 * chain.nu * side.noise).sum()
    return float(total)
