"""What the samples of a chain say together: the mean prediction, its uncertainty, and a small model of that mean.

With samples s = 1 … S of (P0), in the ratings' unit of deviation:

    (P8)  mean  m_ui = 1/S sum_s y_sui,  y_sui = b_su + c_si + p_su . q_si
    (P9)  variance  v_ui = 1/S sum_s (y_sui - m_ui)^2 + 1/S sum_s 1 / (alpha_s a_su g_si)

The second term of (P9) is the noise of a rating, the first the doubt about its mean: together the variance of a new
rating, by the law of total variance. With effects of days (P17), y_sui has that of the pair's user-day where it is
known; where not, its mean is 0, and 1/S sum_s 1/tau_s comes to (P9). A row that no rating is known of is any row of its
side: to (P9) comes the spread of the rows, with the covariances C_s of the users' rows x and D_s of the items' rows,
h = [1, factors],

    (P12) spread_ui = 1/S sum_s h_si^T C_s h_si           of an unknown user, that of an unknown item likewise,
          h_s^T C_s h_s + h_s^T D_s h_s + tr(C~_s D~_s)   of both, each h at its mean, ~ of factors alone

The mean over samples of P_s Q_s^T has rank S K, and no users x items table is needed to find its best part of rank R.
First what biases say exactly is taken out. With p~_s, q~_s the factors less their means p-_s, q-_s over the rows:

    (P10) p_su . q_si = p~_su . q~_si + p~_su . q-_s + p-_s . q~_si + p-_s . q-_s
          b_u = 1/S sum_s (b_su + p~_su . q-_s),  c_i likewise,  and a constant 1/S sum_s p-_s . q-_s

What is left is M = A B^T with A = [p~_1 … p~_S] / sqrt(S), one row a user, S K columns, and B of the items. The nearest
matrix of rank R is L L^T M (Eckart and Young 1936), with L the eigenvectors of the R largest eigenvalues of
M M^T = A (B^T B) A^T. With A = O T, O orthonormal, these are O times those of a matrix of at most S K rows:

    (P11) T (B^T B) T^T = E diag(sigma^2) E^T,   L = O E,   L L^T M = (L sigma^1/2) (B A^T L sigma^-1/2)^T
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from minicf.arguments import check_int
from minicf.models import DotBias, Weights
from minicf.solvers.sampler import DAY, SIDES, Gibbs, user_days
from minicf.threads import one_blas_thread

if TYPE_CHECKING:
    from minicf.backends.base import Program

_PAIRS = 1 << 14
_ROWS = 1 << 12
_NEGLIGIBLE = 1e-7
"""Of the largest singular value: smaller ones are rounding, since their squares were computed."""


@dataclass(frozen=True)
class Posterior:
    """Hold samples of a chain, or of several.

    Parameters
    ----------
    samples : dict of float16 arrays (S, rows, D) by side
        Bias (with `biases`) and factors, in the ratings' unit of deviation.
    noise : dict of float32 arrays (S, rows) by side
        a and g.
    alpha : float64 array (S,)
    biases : bool
    mean, scale : float
        What is added to a prediction after it is multiplied.
    low, high : float
        The lowest and the highest rating: samples are cut off there.
    days : int64 array (2, user-days), optional
        Users, and days since 1970: those of effects, with ``Gibbs(time="user_day")``.
    effect : float16 array (S, user-days), optional
    effect_precision : float64 array (S,), optional
        tau.
    """

    samples: dict[str, np.ndarray]
    noise: dict[str, np.ndarray]
    alpha: np.ndarray
    biases: bool
    mean: float
    scale: float
    low: float
    high: float
    days: np.ndarray | None = None
    effect: np.ndarray | None = None
    effect_precision: np.ndarray | None = None

    @classmethod
    def of(cls, program: Program) -> Posterior:
        """Take the samples of a program of `Gibbs`, all chains together.

        Raises
        ------
        ValueError
            None was drawn yet.
        """
        solver, slots = program.solver, program.slots
        if not isinstance(solver, Gibbs):
            raise ValueError(f"solver is {solver!r}; it must be a Gibbs")
        n = min(program.t - solver.burn_in, solver.n_samples)
        if n < 1:
            raise ValueError(f"{program.t} sweeps were drawn; it must be more than burn_in, {solver.burn_in}")

        def flat(name: str) -> np.ndarray:
            values = slots[name][:, :n]
            return values.reshape(-1, *values.shape[2:])

        scale, low, high = (float(x) for x in slots["scale"])
        timed = solver.time is not None
        return cls(
            {side: flat(f"samples.{side}") for side in SIDES},
            {side: flat(f"sampled_noise.{side}") for side in SIDES},
            flat("sampled_alpha"),
            "user_bias" in program.w,
            program.model.global_mean,
            scale,
            low,
            high,
            *((slots["days"].copy(), flat("samples.effect"), flat("sampled_effect_precision")) if timed else ()),
        )

    def predict(
        self, user: np.ndarray, item: np.ndarray, timestamp: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the mean and the standard deviation of ratings of pairs (n,), by (P8), (P9) and (P12).

        Row -1 is a row that nothing is known of: its mean is that of all rows of its side.

        Parameters
        ----------
        user, item : (n,) int
        timestamp : (n,) int, optional
            Seconds since 1970, UTC, of samples of ``Gibbs(time="user_day")``: the effects of the users' days are added
            where training had ratings of the same user on the same day. That is the day of the rating which is
            predicted: it tells which other ratings it stands beside, some of them perhaps later ones, and a recommender
            does not know it ahead. So errors with timestamps are not to be compared with those of anything without.

        Returns
        -------
        mean, deviation : (n,) float64
            Of the mean, each sample is cut off at the lowest and the highest rating; the deviation knows no limits.

        Raises
        ------
        ValueError
            Timestamps that are no whole numbers, one for each pair, or that these samples have no effects for.
        """
        place = self._day_places(user, timestamp)
        means, deviations = np.empty(len(user)), np.empty(len(user))
        low, high = (self.low - self.mean) / self.scale, (self.high - self.mean) / self.scale
        n = len(self.alpha)
        new = {side: rows < 0 for side, rows in zip(SIDES, (user, item), strict=True)}
        some = {side: bool(new[side].any()) for side in SIDES}
        for at in range(0, len(user), _PAIRS):
            part = slice(at, at + _PAIRS)
            total, plain, squares, within = np.zeros((4, len(user[part])))
            for s in range(n):
                rows, noise = {}, {}
                for side, index in zip(SIDES, (user, item), strict=True):
                    table, own = self.samples[side][s].astype(np.float32), self.noise[side][s]
                    if some[side]:
                        table = np.concatenate([table, table.mean(axis=0, keepdims=True, dtype=np.float64)])
                        own = np.append(own, 1.0 / np.mean(1.0 / own.astype(np.float64)))
                    rows[side], noise[side] = table[index[part]], own[index[part]]
                x, w = rows["user"], rows["item"]
                if self.biases:
                    y = x[:, 0] + w[:, 0] + np.einsum("bk,bk->b", x[:, 1:], w[:, 1:])
                else:
                    y = np.einsum("bk,bk->b", x, w)
                if self.effect is not None and self.effect_precision is not None:
                    y = y + np.append(self.effect[s], np.float16(0.0))[place[part]].astype(np.float32)
                    within += np.where(place[part] < 0, 1.0 / self.effect_precision[s], 0.0)
                total += np.clip(y, low, high)
                plain += y
                squares += y.astype(np.float64) ** 2
                within += 1.0 / (self.alpha[s] * noise["user"] * noise["item"])
                if some["user"] or some["item"]:
                    within += self._spread(s, rows, {side: new[side][part] for side in SIDES})
            means[part] = self.mean + self.scale * total / n
            variance = np.maximum(squares / n - (plain / n) ** 2, 0.0) + within / n
            deviations[part] = self.scale * np.sqrt(variance)
        return means, deviations

    def _day_places(self, user: np.ndarray, timestamp: np.ndarray | None) -> np.ndarray:
        """Return which effect is that of each pair, (n,) int64; -1 where it is not known."""
        if timestamp is None:
            return np.full(len(user), -1)
        time = np.asarray(timestamp)
        if self.days is None:
            raise ValueError("timestamp is given, and these samples have no effects of days: Gibbs(time='user_day')")
        if time.shape != (len(user),) or time.dtype.kind not in "iu":
            raise ValueError(
                f"timestamp is {time.dtype} of shape {time.shape}; it must be whole seconds, of shape {(len(user),)}"
            )
        n = self.days.shape[1]
        pairs = np.column_stack([self.days, np.stack([user, time.astype(np.int64) // DAY])])
        number, found = user_days(*pairs)
        place = np.full(found.shape[1], -1)
        place[number[:n]] = np.arange(n)
        return place[number[n:]]

    def moments(self, side: str, s: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (D,) and covariance (D, D) of the rows of a side in sample s, float64."""
        x = self.samples[side][s].astype(np.float64)
        mean = x.mean(axis=0)
        x -= mean
        return mean, x.T @ x / len(x)

    def _spread(self, s: int, rows: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> np.ndarray:
        """Compute the terms of (P12) of sample s; ``new`` says which rows are unknown."""
        first, spread = int(self.biases), np.zeros(len(new["user"]))
        covariances = {}
        for side, other in zip(SIDES, SIDES[::-1], strict=True):
            covariance = covariances[side] = self.moments(side, s)[1]
            h = rows[other][new[side]].astype(np.float64)
            if self.biases:
                h[:, 0] = 1.0
            spread[new[side]] += ((h @ covariance) * h).sum(axis=1)
        both = new["user"] & new["item"]
        spread[both] += (covariances["user"][first:, first:] * covariances["item"][first:, first:]).sum()
        return spread

    def grown(self, side: str, places: np.ndarray, n_rows: int) -> Posterior:
        """Move the rows of a side to their places in a larger table; other rows are any row's (`Posterior.moments`)."""
        table, noise = self.samples[side], self.noise[side]
        samples = np.empty((len(table), n_rows, table.shape[2]), table.dtype)
        samples[...] = table.mean(axis=1, keepdims=True, dtype=np.float64)
        noises = np.empty((len(noise), n_rows), noise.dtype)
        noises[...] = 1.0 / (1.0 / noise.astype(np.float64)).mean(axis=1, keepdims=True)
        samples[:, places], noises[:, places] = table, noise
        days = self.days
        if side == "user" and days is not None:
            days = np.stack([places[days[0]], days[1]])
        return replace(self, samples=self.samples | {side: samples}, noise=self.noise | {side: noises}, days=days)

    def compress(self, rank: int = 16) -> tuple[DotBias, Weights]:
        """Make the model of some rank that is nearest to the mean (P8) over all pairs, by (P10) and (P11).

        Returns
        -------
        model : DotBias
            Of `rank` factors.
        weights : dict of float32 arrays
        """
        rank = check_int("rank", rank, 1)
        with one_blas_thread():
            return self._compress(rank)

    def _compress(self, rank: int) -> tuple[DotBias, Weights]:
        n, first = len(self.alpha), int(self.biases)
        centers = {side: self.samples[side][:, :, first:].mean(axis=1, dtype=np.float64) for side in SIDES}

        def columns(side: str, rows: slice) -> np.ndarray:
            """Rows of A or B."""
            x = self.samples[side][:, rows, first:].transpose(1, 2, 0).astype(np.float64)
            x -= centers[side].T
            x /= np.sqrt(n)
            return x.reshape(len(x), -1)

        biases = {}
        for side, other in zip(SIDES, SIDES[::-1], strict=True):
            bias = np.zeros(self.samples[side].shape[1])
            for x, mine, theirs in zip(self.samples[side], centers[side], centers[other], strict=True):
                bias += (x[:, first:].astype(np.float64) - mine) @ theirs  # (P10)
                bias += x[:, 0] if self.biases else 0.0
            biases[side] = bias / n
        biases["user"] += np.einsum("sk,sk->", centers["user"], centers["item"]) / n

        few, many = sorted(SIDES, key=lambda side: self.samples[side].shape[1])
        blocks = [slice(at, at + _ROWS) for at in range(0, self.samples[many].shape[1], _ROWS)]
        a = columns(few, slice(None))
        gram = np.zeros((a.shape[1], a.shape[1]))
        for block in blocks:
            b = columns(many, block)
            gram += b.T @ b
        basis, t = np.linalg.qr(a)
        values, vectors = np.linalg.eigh(t @ gram @ t.T)  # (P11), ascending
        values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
        sigma = np.sqrt(np.maximum(values, 0.0))
        kept = sigma > _NEGLIGIBLE * sigma[0]
        sigma, left = sigma[kept], basis @ vectors[:, kept]
        left *= np.sign(left[abs(left).argmax(axis=0), range(left.shape[1])])  # an eigenvector's sign is anyone's
        right = a.T @ left
        factors = {
            few: left * np.sqrt(sigma),
            many: np.concatenate([columns(many, block) @ right for block in blocks]) / np.sqrt(sigma),
        }
        weights: Weights = {}
        for side in SIDES:
            wide = np.zeros((len(factors[side]), rank))  # where there are fewer than `rank` to be had
            wide[:, : factors[side].shape[1]] = np.sqrt(self.scale) * factors[side]
            weights[f"{side}_factors"] = wide.astype(np.float32)
        for side in SIDES:
            weights[f"{side}_bias"] = (self.scale * biases[side]).astype(np.float32)
        return DotBias(rank, global_mean=self.mean), weights
