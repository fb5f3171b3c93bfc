"""Gibbs sampling as a solver: a sweep of each chain an epoch, and samples of what comes after the burn-in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minicf import rng
from minicf.arguments import check_choice, check_int, check_number
from minicf.data.features import Features as Description
from minicf.data.ratings import Ratings
from minicf.losses import SQUARED_ERROR, Loss
from minicf.models import Dot, DotBias, Model, Weights
from minicf.registry import register
from minicf.solvers import gibbs
from minicf.solvers.base import Part, Progress, Solver
from minicf.solvers.gibbs import Chain, Features, Side

if TYPE_CHECKING:
    from minicf.backends.base import Program

SIDES = ("user", "item")
_UNKNOWNS = ("x", "mean", "precision", "noise", "weights", "weight_precision")
"""Of a side, by their names in `Side` and in the program's slots."""
_CHAIN = 2 * gibbs.SHARED_NOISE + 2
"""The stream of the chains' own seeds, behind those of a sweep."""
DAY = 86_400
"""Seconds."""


@dataclass(frozen=True, eq=False)
class Table:
    """Hold the ratings of a training, and the features of each side."""

    index: dict[str, np.ndarray]
    """(n,) int32, user and item of each rating, by "user" and "item"."""
    rating: np.ndarray
    """(n,) in the data's units."""
    features: dict[str, Features]
    day: np.ndarray | None = None
    """(n,) int32, of each rating the column of `days`; None without effects of days."""
    days: np.ndarray = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    """(2, user-days) int64: users, and days since 1970, in ascending order."""


def user_days(user: np.ndarray, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the different pairs of a user and a day: return the number of each (n,) int32, and the pairs."""
    order = np.lexsort((day, user))
    pairs = np.stack([user[order], day[order]]).astype(np.int64)
    first = np.append(True, (pairs[:, 1:] != pairs[:, :-1]).any(axis=0))
    number = np.empty(len(order), np.int32)
    number[order] = np.cumsum(first) - 1
    return number, pairs[:, first]


@register
@dataclass(frozen=True)
class Gibbs(Solver):
    """Draw the weights of `Dot` or `DotBias` from their posterior distribution (P0) … (P7); see `minicf.solvers.gibbs`.

    An epoch is a sweep: ``Trainer.fit(ratings, epochs=solver.n_sweeps)``. The trainer's weights are those of the last
    sweep, one sample of many; `Posterior.of` gives their mean.

    Parameters
    ----------
    n_samples : int
        S, how many sweeps are kept of each chain, the last ones.
    burn_in : int
        Sweeps before the first that is kept.
    n_chains : int
        Independent chains, which threads can share.
    nu : float
        How alike the noise of different users, and of different items, is held: (P7).
    noise : "both", "user", "item" or None
        Whose ratings may be noisier for some than for others.
    bags : "both", "user", "item" or None
        Whose prior mean comes from a bag: that of a user from the items rated, that of an item from its raters.
    start : float or None
        Standard deviation of the factors, of ratings of deviation 1, that each chain starts from; its biases start at
        0. None: all chains start from the trainer's weights.
    time : "user_day" or None
        With "user_day" a rating has a further term, an effect of its user's day in UTC: (P17), (P18). Training reads
        the ratings' timestamps, one set of ratings from the first sweep on. The effect of a day is known only from
        other ratings of that user on that day: it takes moods and moving standards out of the factors, and
        `Posterior.predict` adds it only where it is given timestamps. The weights, and errors on other ratings in the
        history, are without it; the error of training ratings is with it. A `Recommender` does not take it.

    Notes
    -----
    Ratings are counted from the model's `global_mean`. Random numbers are functions of the program's seed, the chain,
    the sweep and the row: the same at any number of threads.
    """

    n_samples: int = 100
    burn_in: int = 20
    n_chains: int = 1
    nu: float = 10.0
    noise: str | None = "both"
    bags: str | None = "both"
    # Chosen on splits inside the training rows of MovieLens' small set: from factors of 0.01 the chain is long in
    # leaving a prior that is as narrow as these, and from 0.2 on it is worse with bags.
    start: float | None = 0.1
    time: str | None = None
    features: Mapping[str, Description] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By side, what is known of its rows beside ratings; see `described`."""
    loss: Loss = field(default=SQUARED_ERROR, init=False)
    lr: ClassVar[Any] = None

    def __post_init__(self) -> None:
        for name, low in (("n_samples", 1), ("burn_in", 0), ("n_chains", 1)):
            object.__setattr__(self, name, check_int(name, getattr(self, name), low))
        object.__setattr__(self, "nu", check_number("nu", self.nu, above=0.0))
        # (P7) draws from Gamma(nu/2 + …), which `rng.gamma` does from shape 1 on, also for a row without ratings.
        if self.nu < 2.0:
            raise ValueError(f"nu is {self.nu:g}; it must be at least 2")
        if self.start is not None:
            object.__setattr__(self, "start", check_number("start", self.start, above=0.0))
        for name in ("noise", "bags"):
            if (value := getattr(self, name)) is not None:
                check_choice(name, value, (*SIDES, "both"))
        if self.time is not None:
            check_choice("time", self.time, ("user_day",))

    def described(self, features: Mapping[str, Description]) -> Gibbs:
        """Return the solver with features of users or items, by side, in the order of the rows of its tables.

        They are further columns of F in (P0), behind those of the bags, and their weights have the same precision rho.
        """
        new = replace(self)
        object.__setattr__(new, "features", dict(features))
        return new

    def _n_features(self, side: str, n_other: int) -> tuple[int, int]:
        """Return the number of columns of F that are a bag, and that are features."""
        own = len(self.features[side].names) if side in self.features else 0
        return n_other if side in self.sides(self.bags) else 0, own

    @property
    def n_sweeps(self) -> int:
        """Burn-in and samples: the epochs of a training."""
        return self.burn_in + self.n_samples

    @staticmethod
    def sides(value: str | None) -> tuple[str, ...]:
        """Return the sides that `noise` or `bags` names."""
        return () if value is None else SIDES if value == "both" else (value,)

    def check(self, model: Model) -> None:
        if type(model) not in (Dot, DotBias) or model.rating_range is not None:
            raise ValueError(f"model is {model!r}; Gibbs draws a Dot or a DotBias without rating_range")

    def prepare(self, ratings: Ratings) -> Table:
        self.loss.check_targets(ratings.rating)
        index, sizes = {"user": ratings.user, "item": ratings.item}, {"user": ratings.n_users, "item": ratings.n_items}
        features = {}
        for side, other in zip(SIDES, SIDES[::-1], strict=True):
            some = slice(None) if side in self.sides(self.bags) else slice(0)
            n_bag, n_own = self._n_features(side, sizes[other])
            features[side] = Features.of(index[side][some], index[other][some], sizes[side], n_bag)
            if side in self.features:
                own = self.features[side]
                if len(own) != sizes[side]:
                    raise ValueError(f"features are of {len(own)} {side}s; they must be of all {sizes[side]}")
                value = own.value.astype(np.float64)
                features[side] = features[side].beside(own.rows, own.index, value, n_own)
        if self.time is None:
            return Table(index, ratings.rating, features)
        if ratings.timestamp is None:
            raise ValueError(
                f"timestamp is None; Gibbs(time={self.time!r}) needs the time of each rating: "
                "Ratings(..., timestamp=seconds), or leave time out"
            )
        return Table(index, ratings.rating, features, *user_days(ratings.user, ratings.timestamp // DAY))

    def init_state(self, w: Weights) -> Weights:
        """Make the chains' unknowns, "of chain" first, and room for the samples.

        Of each side: "x" (chains, rows, D), "mean", "precision" and "weight_precision" (chains, D), "noise" (chains,
        rows), "weights" (chains, features, D); "samples" (chains, S, rows, D) float16 and "sampled_noise" (chains, S,
        rows) float32. Of all: "alpha" (chains,), "sampled_alpha" (chains, S), and "scale" (3,), the deviation of the
        ratings, the lowest and the highest one. With `time`, those of `_day_slots`, "effect_precision" (chains,) and
        "sampled_effect_precision" (chains, S). All are NumPy's, whatever the weights are.
        """
        c, s, (n_users, k) = self.n_chains, self.n_samples, w["user_factors"].shape
        d, dtype = k + ("user_bias" in w), w["user_factors"].dtype
        n = {"user": n_users, "item": len(w["item_factors"])}
        state: Weights = {"alpha": np.ones(c), "sampled_alpha": np.zeros((c, s)), "scale": np.array([1.0, 0.0, 0.0])}
        for side, other in zip(SIDES, SIDES[::-1], strict=True):
            n_features = sum(self._n_features(side, n[other]))
            state |= {
                f"x.{side}": np.zeros((c, n[side], d), dtype),
                f"mean.{side}": np.zeros((c, d)),
                f"precision.{side}": np.ones((c, d)),
                f"noise.{side}": np.ones((c, n[side])),
                f"weights.{side}": np.zeros((c, n_features, d), dtype),
                f"weight_precision.{side}": np.ones((c, d)),
                f"samples.{side}": np.zeros((c, s, n[side], d), np.float16),
                f"sampled_noise.{side}": np.zeros((c, s, n[side]), np.float32),
            }
        if self.time is not None:
            state |= self._day_slots(0, dtype)
            state |= {"effect_precision": np.ones(c), "sampled_effect_precision": np.zeros((c, s))}
        return state

    def _day_slots(self, n: int, dtype: Any) -> Weights:
        """Make what there is of each user-day: which it is, its effect in each chain, and samples of that."""
        c, s = self.n_chains, self.n_samples
        return {
            "days": np.zeros((2, n), np.int64),
            "effect": np.zeros((c, n), dtype),
            "samples.effect": np.zeros((c, s, n), np.float16),
        }

    def resize(self, slots: Weights, state: Mapping[str, Any]) -> None:
        if self.time is not None and "days" in state:
            shape = np.shape(state["days"])
            if len(shape) != 2:
                raise ValueError(f"'days' has shape {shape}; it must be (2, user-days)")
            if shape[1] != slots["days"].shape[1]:
                slots |= self._day_slots(shape[1], slots["effect"].dtype)

    def parts(self, data: Any, seed: int, epoch: int, program: Program) -> Iterator[Part]:
        yield Part("sweep", np.array([epoch]))

    def chain_seed(self, seed: int, chain: int) -> int:
        """Return the seed of the sweeps of one of the chains."""
        return rng.key(seed, rng.GIBBS, _CHAIN, chain)

    def standardized(self, program: Program, data: Table) -> np.ndarray:
        """Return the ratings as (P0) has them, float64."""
        return (data.rating.astype(np.float64) - program.model.global_mean) / program.slots["scale"][0]

    def begin(self, program: Program, data: Table) -> None:
        """Let the chains start, before the program's first sweep."""
        slots = program.slots
        if program.t:
            if self.time is not None and not np.array_equal(slots["days"], data.days):
                raise ValueError(
                    f"the ratings have {data.days.shape[1]} user-days, others than the {slots['days'].shape[1]} of "
                    "this chain; they must be those that it began with"
                )
            return
        if self.time is not None:
            self.resize(slots, {"days": data.days})
            slots["days"][:] = data.days
        rating = data.rating.astype(np.float64)
        slots["scale"][:] = float(rating.std()) or 1.0, rating.min(), rating.max()
        scale, w = float(slots["scale"][0]), program.weights()
        for side in SIDES:
            x, k = slots[f"x.{side}"], w[f"{side}_factors"].shape[1]
            factors = x[:, :, x.shape[2] - k :]
            if self.start is None:
                factors[:] = w[f"{side}_factors"] / math.sqrt(scale)
                if f"{side}_bias" in w:
                    x[:, :, 0] = w[f"{side}_bias"] / scale
                continue
            for c, chain in enumerate(factors):
                key = rng.key(self.chain_seed(program.seed, c), rng.GIBBS, 2 * gibbs.START + SIDES.index(side))
                chain[:] = self.start * rng.normal(key, chain.size).reshape(chain.shape)

    def end(self, program: Program, data: Table, number: int, squares: float) -> Progress:
        """Keep the sweep if it is a sample, and put the first chain's weights into the program."""
        slots, at = program.slots, number - self.burn_in
        scale = float(slots["scale"][0])
        if at >= 0:
            at %= self.n_samples
            slots["sampled_alpha"][:, at] = slots["alpha"]
            if self.time is not None:
                slots["samples.effect"][:, at] = slots["effect"]
                slots["sampled_effect_precision"][:, at] = slots["effect_precision"]
        for side in SIDES:
            x, factors = slots[f"x.{side}"], program.w[f"{side}_factors"]
            if at >= 0:
                slots[f"samples.{side}"][:, at] = x
                slots[f"sampled_noise.{side}"][:, at] = slots[f"noise.{side}"]
            factors[...] = program.xp.asarray(x[0, :, x.shape[2] - factors.shape[1] :] * math.sqrt(scale))
            if f"{side}_bias" in program.w:
                program.w[f"{side}_bias"][...] = program.xp.asarray(x[0, :, 0] * scale)
        program.t += 1
        return Progress(np.array([squares * scale**2]), len(data.rating))

    def chain(self, program: Program, c: int, table: Table, rating: Any, xp: Any = np, ratings_of: Any = None) -> Chain:
        """Return chain c with copies of its unknowns, in float64 arrays of `xp` as `table` and `rating` are."""
        slots = program.slots
        sides = {
            side: Side(
                features=table.features[side],
                **{name: xp.array(slots[f"{name}.{side}"][c], dtype=np.float64) for name in _UNKNOWNS},
            )
            for side in SIDES
        }
        biases, noise = "user_bias" in program.w, self.sides(self.noise)
        chain = Chain(
            table.index, rating, sides, float(slots["alpha"][c]), self.nu, noise, biases, ratings_of=ratings_of
        )
        if self.time is not None:
            chain.day, chain.effect = table.day, xp.array(slots["effect"][c], dtype=np.float64)
            chain.effect_precision = float(slots["effect_precision"][c])
        return chain

    def take(self, program: Program, c: int, chain: Chain) -> None:
        """Put the unknowns of chain c into the program."""
        slots = program.slots
        slots["alpha"][c] = chain.alpha
        if self.time is not None:
            slots["effect"][c], slots["effect_precision"][c] = chain.effect, chain.effect_precision
        for side in SIDES:
            for name in _UNKNOWNS:
                value = getattr(chain.sides[side], name)
                slots[f"{name}.{side}"][c] = value if isinstance(value, np.ndarray) else value.get()

    def run(self, program: Program, data: Table, part: Part) -> Progress:
        """Draw every unknown of each chain once, as `gibbs.sweep` does, in float64."""
        self.begin(program, data)
        number, squares = int(part.rows[0]), 0.0
        rating = self.standardized(program, data)
        for c in range(self.n_chains):
            chain = self.chain(program, c, data, rating)
            gibbs.sweep(chain, self.chain_seed(program.seed, c), number)
            self.take(program, c, chain)
            squares += float(((rating - chain.predict()) ** 2).sum()) / self.n_chains
        return self.end(program, data, number, squares)
