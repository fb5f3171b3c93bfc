"""Make lists: a model of what users take, from stars or from events, by alternating least squares.

Squared errors of stars ask how much a user likes what the user rated. A list asks what the user would take next and
like, among all items: a pair without a rating says something too. So lists have a model of their own, `ALS` (A1) with
every pair in it, whose targets and weights are read from the table:

    (L1) stars   t = max(0, 1 + `STEEPNESS` z),  c = the rating's weight,  z = (r - mean) / std, at most `FARTHEST`
    (L2) events  t = 1, 0 for a dislike,         c = log2(1 + w / m),      w the pair's weight, m their median

By (L1) who rated what counts, more where it was liked; standardized, so that any scale of stars will do. By (L2) a
pair of the median weight counts 1, and a thousand plays count as 10 and not as 1000.

    (L3) a = `OVERALL` n / (U I)

for n pairs: all unobserved pairs together weigh `OVERALL` times as much as the observed ones, in a dense table as in a
sparse one. After the last pass users are solved once more for the final items. So a row is what `Preference.rows` makes
of the user's pairs, to rounding, and a score is the sum of what they add to it (A8): `Preference.parts`. The choice is
recorded in ``bench/search_lists.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from minicf.arguments import check_int, check_number
from minicf.backends import get_backend
from minicf.data import Bags, Ratings
from minicf.models import Dot, DotBias, Model, Weights
from minicf.recommender.fold_in import Rows
from minicf.recommender.growth import Growth
from minicf.recommender.inputs import SIDES, of_side, opposite
from minicf.solvers import ALS, Part
from minicf.solvers.als import Pairs, shares, solve_rows
from minicf.train import Trainer

STEEPNESS, FARTHEST = 0.35, 3.0
"""Of (L1): a rating one standard deviation above the mean has the target 1.35; those beyond three count as three."""

OVERALL, REGULARIZATION = 20.0, 0.01
"""Of (L3), and reg in (A1)."""

FACTORS, EPOCHS, LATER_EPOCHS = 128, 4, 2
"""K, passes of `fit` and of `partial_fit`."""

ON_HOST = ("numba", "numpy")
"""Backends of ALS."""

NOT_ALS = ("optimizer", "batch_size", "learning_rate", "early_stopping")
"""Arguments of `Recommender` that say nothing to ALS."""


@dataclass(frozen=True)
class Reading:
    """Read pairs as targets and weights, by (L1) or (L2).

    Parameters
    ----------
    stars : bool
        Whether values are ratings.
    center, scale : float
        Mean and standard deviation of ratings; of events 0 and the median weight.
    """

    stars: bool
    center: float
    scale: float

    @classmethod
    def of(cls, ratings: Ratings, mean: float, std: float) -> Reading:
        """Choose for a table of training."""
        if not ratings.implicit:
            return cls(True, mean, std)
        weight = ratings.weight
        return cls(False, 0.0, 1.0 if weight is None else float(np.median(weight[weight > 0])))

    def targets(self, value: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return t and c; None where every c is 1."""
        if self.stars:
            z = np.clip((value.astype(np.float64) - self.center) / self.scale, -FARTHEST, FARTHEST)
            return np.maximum(0.0, 1.0 + STEEPNESS * z).astype(np.float32), weight
        if weight is None and self.scale == 1.0:
            return value, None
        size = np.ones(len(value)) if weight is None else weight.astype(np.float64)
        return value, np.log2(1.0 + size / self.scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Preference:
    """Hold the model that lists are made by.

    Parameters
    ----------
    solver : ALS
    reading : Reading
    weights : dict of float32 arrays
        Of `model`.
    pairs : Pairs or None
        What the rows were made of: the items of each user, ascending, with value (a rating; of events 1, or 0 for a
        dislike) and weight as they were given. None if that was not saved.
    """

    solver: ALS
    reading: Reading
    weights: Weights
    pairs: Pairs | None

    @property
    def model(self) -> Dot:
        """The model of the weights."""
        return Dot(self.weights["user_factors"].shape[1])

    @classmethod
    def train(
        cls,
        ratings: Ratings,
        reading: Reading,
        solver: ALS,
        epochs: int,
        options: Mapping[str, Any],
        n_factors: int = FACTORS,
        weights: Weights | None = None,
        callbacks: Iterable[Any] = (),
    ) -> tuple[Preference, pd.DataFrame]:
        """Train on the pairs of a table, and return the history too.

        Parameters
        ----------
        ratings : Ratings
            A pair once, at most.
        reading : Reading
        solver : ALS
        epochs : int
        options : dict
            Of the trainer: ``backend``, ``seed``, ``n_threads``; and ``verbose``.
        n_factors : int
        weights : dict of arrays, optional
            Where training goes on.
        callbacks : iterable of Callback
        """
        t, c = reading.targets(ratings.rating, ratings.weight)
        table = Ratings._trusted(ratings.user, ratings.item, t, None, ratings.users, ratings.items, None, None, c)
        going_on = solver if weights is None else replace(solver, start=None)
        k = n_factors if weights is None else weights["user_factors"].shape[1]
        trainer = Trainer(
            Dot(k), going_on, backend=host_backend(options["backend"]), seed=options["seed"], weights=weights,
            n_threads=options["n_threads"],
        )  # fmt: skip
        trainer.fit(
            table, epochs=epochs, schedule=None, callbacks=callbacks, shuffle=None,
            progress=None if options["verbose"] else False,
        )  # fmt: skip
        program = trainer.program
        program.run(going_on.prepare(table), Part("user", np.array([trainer.epoch])))
        found = {name: np.array(w, np.float32) for name, w in program.w.items()}
        return cls(solver, reading, found, pairs_of(ratings)), trainer.history.frame()

    def rows(self, side: str, ids: np.ndarray, other: np.ndarray, value: np.ndarray, weight: np.ndarray | None) -> Rows:
        """Solve the row of each new id from its own pairs, as `FoldIn.rows` does."""
        unique, group = np.unique(ids, return_inverse=True)
        order = np.argsort(group, kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(unique)))])
        t, c = self.reading.targets(value[order], None if weight is None else weight[order])
        theirs = self.weights["item_factors" if side == "user" else "user_factors"]
        return Rows(unique, solve_rows(self.solver, theirs, Bags(start, other[order]), t, c))

    def joined(
        self,
        growth: Growth,
        solved: Mapping[str, Rows],
        user: np.ndarray,
        item: np.ndarray,
        value: np.ndarray,
        weight: np.ndarray | None,
        replaced: tuple[str, np.ndarray] | None = None,
    ) -> Preference:
        """Return the model with more rows and pairs.

        Parameters
        ----------
        growth : Growth
        solved : dict of Rows, by side
        user, item : arrays of int, shape (n,)
            New rows of the pairs.
        value, weight : arrays, shape (n,)
            Ratings take the place of earlier ones, events are added to them.
        replaced : (str, array of int), optional
            A side and rows of it whose earlier pairs go.
        """
        pairs = self.pairs
        if pairs is not None:
            old = growth.places["user"][Bags(pairs.start, pairs.index).row], growth.places["item"][pairs.index]
            kept = np.ones(len(old[0]), bool)
            if replaced is not None:
                kept = ~np.isin(old[0 if replaced[0] == "user" else 1], replaced[1])
            sizes = [np.ones(len(x)) if w is None else w for x, w in ((pairs.target, pairs.weight), (value, weight))]
            pairs = _merged(
                np.concatenate([old[0][kept], user]), np.concatenate([old[1][kept], item]),
                np.concatenate([pairs.target[kept], value]), np.concatenate([sizes[0][kept], sizes[1]]),
                len(growth.vocabularies["user"]), self.reading.stars,
            )  # fmt: skip
        return replace(self, weights=growth.weights(self.model, self.weights, solved), pairs=pairs)

    def later(
        self,
        growth: Growth,
        new: Ratings,
        known: Mapping[str, np.ndarray],
        options: Mapping[str, Any],
        callbacks: Iterable[Any] = (),
    ) -> Preference:
        """Return the model after `LATER_EPOCHS` passes over the earlier pairs and more of them.

        Parameters
        ----------
        growth : Growth
        new : Ratings
            The further pairs, in the larger vocabularies. New ids start from the row that their own pairs with known
            ids make.
        known : dict of arrays of int, shape (n,), by side
            The row of each pair before; -1 for a new id.
        options, callbacks
            As `train` has them.

        Notes
        -----
        Without the earlier pairs, which were not saved, that start is all that changes.
        """
        solved = {}
        for side in SIDES:
            ids, other = of_side(new, side), known[opposite(side)]
            at = np.flatnonzero((known[side] < 0) & (other >= 0))
            weight = None if new.weight is None else new.weight[at]
            solved[side] = self.rows(side, ids[0].ids[ids[1][at]], other[at], new.rating[at], weight)
        joined = self.joined(growth, solved, new.user, new.item, new.rating, new.weight)
        if (pairs := joined.pairs) is None:
            return joined
        table = Ratings._trusted(
            Bags(pairs.start, pairs.index).row.astype(np.int32), pairs.index, pairs.target, None, new.users, new.items,
            None, None, pairs.weight,
        )  # fmt: skip
        return Preference.train(
            table, self.reading, self.solver, LATER_EPOCHS, options, weights=joined.weights, callbacks=callbacks
        )[0]

    def check_later(self, epochs: Any) -> None:
        """Raise a ValueError where a recommender of events cannot go on."""
        if epochs is not None:
            raise ValueError(f"epochs is {epochs!r}; partial_fit of events makes {LATER_EPOCHS} passes: leave it out")
        if self.pairs is None:
            raise ValueError(
                "this recommender was saved with seen=False, and partial_fit of events needs what users have; save it "
                "with seen=True, or fit all events anew"
            )

    def parts(self, user: int, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Divide a score among the user's pairs by (A8): rows of items, values (weights, of events), and parts."""
        assert self.pairs is not None
        at = slice(int(self.pairs.start[user]), int(self.pairs.start[user + 1]))
        index, value = self.pairs.index[at], self.pairs.target[at]
        weight = None if self.pairs.weight is None else self.pairs.weight[at]
        t, c = self.reading.targets(value, weight)
        found = shares(self.solver, self.weights["item_factors"], item, index, t, c)
        signed = (2.0 * value - 1.0) * (1.0 if weight is None else weight)
        return index, value if self.reading.stars else signed, found


def host_backend(backend: str) -> str:
    """Return the backend that ALS runs on: Numba where another one has been chosen."""
    name = get_backend(backend).name
    return name if name in ON_HOST else "numba"


def pairs_of(ratings: Ratings) -> Pairs:
    """Return the pairs of each user, items ascending."""
    weight = np.ones(len(ratings)) if ratings.weight is None else ratings.weight
    return _merged(ratings.user, ratings.item, ratings.rating, weight, ratings.n_users, True)


def _merged(
    user: np.ndarray, item: np.ndarray, value: np.ndarray, weight: np.ndarray, n_users: int, last: bool
) -> Pairs:
    """Return pairs, of which a repeated one has the last value, or the sum of all, signed by likes and dislikes."""
    order = np.lexsort((item, user))  # stable: the last of a pair stays last
    user, item, value, weight = user[order], item[order], value[order], weight[order].astype(np.float64)
    ends = np.append((user[1:] != user[:-1]) | (item[1:] != item[:-1]), True)
    if not last:
        total = np.add.reduceat((2.0 * value - 1.0) * weight, np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1]))
        value, weight = (total >= 0).astype(np.float32), np.abs(total)
    else:
        value, weight = value[ends], weight[ends]
    start = np.concatenate([[0], np.cumsum(np.bincount(user[ends], minlength=n_users))]).astype(np.int64)
    return Pairs(
        start, item[ends].astype(np.int32), value.astype(np.float32),
        None if (weight == 1).all() else weight.astype(np.float32),
    )  # fmt: skip


def usual_solver(ratings: Ratings, regularization: float = REGULARIZATION) -> ALS:
    """Return `ALS` with the weight of unobserved pairs by (L3)."""
    density = len(ratings) / (ratings.n_users * ratings.n_items)
    return ALS(regularization, unobserved=OVERALL * density)


def of_events(arguments: Mapping[str, Any], ratings: Ratings, asked: Mapping[str, bool]) -> tuple[ALS, int, int]:
    """Return solver, K and passes of a recommender of events, from the constructor's arguments.

    Parameters
    ----------
    arguments : dict
    ratings : Ratings
    asked : dict of bool
        By name, whether `Recommender.fit` was given what ALS does not have.

    Raises
    ------
    ValueError
        For what only ratings have.
    """
    model, solver = arguments["model"], arguments["solver"]
    named = isinstance(model, str) and model in ("dot", "dot_bias")
    if not named and not (isinstance(model, Model) and type(model) in (Dot, DotBias)):
        raise ValueError(
            f"model is {model!r}; of events ALS trains a 'dot' (the default): leave model out, or train another by "
            "minicf.Trainer with loss=minicf.BPR() or minicf.Logistic(negatives=8)"
        )
    if not isinstance(solver, ALS) and not (isinstance(solver, str) and solver == "auto"):
        raise ValueError(
            f"solver is {solver!r}; of events it must be 'auto' or an ALS: squared errors of events, which are all 1, "
            "learn nothing"
        )
    wrong = [name for name in NOT_ALS if arguments[name] is not None]
    wrong += [name for name, given in asked.items() if given]
    if wrong:
        raise ValueError(f"{wrong[0]} is given; ALS of events has no {wrong[0]}: leave it out")
    decay = arguments["regularization"]
    if isinstance(solver, ALS):
        if decay is not None:
            raise ValueError(f"regularization is {decay!r} beside a solver; give it to the solver itself")
        if not solver.unobserved:
            raise ValueError("solver is an ALS with unobserved=0; of events it must be above 0, or all scores are 1")
    else:
        solver = usual_solver(
            ratings, REGULARIZATION if decay is None else check_number("regularization", decay, above=0.0)
        )
    k, epochs = arguments["n_factors"], arguments["epochs"]
    width = FACTORS if isinstance(model, str) else model.n_factors
    return (
        solver,
        width if k is None or not isinstance(model, str) else check_int("n_factors", k, 1),
        EPOCHS if epochs is None else check_int("epochs", epochs, 1),
    )
