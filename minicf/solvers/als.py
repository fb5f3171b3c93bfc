"""Alternating least squares: each half of the weights in closed form, the other half held. Derived by hand.

A table has observed pairs O of a user and an item, each with a target t and a weight c: t = 1 for an event, 0 for a
dislike, and c how much it counts; or stars. With a > 0 every pair, observed or not, is also drawn to 0: a model of
what was taken and not how much it was liked (Hu, Koren and Volinsky 2008; this loss and its scaling after Rendle,
Krichene, Zhang and Koren 2022). With a = 0 it is the factorization of ratings with weighted lambda (Zhou, Wilkinson,
Schreiber and Pan 2008). Items i and users u alike:

    (A1)  L = sum_O c (t - p_u . q_i)^2 + a sum_{all u, i} (p_u . q_i)^2 + sum_u l_u |p_u|^2 + sum_i l_i |q_i|^2,
          l_u = reg (n_u + a I)^nu,  n_u = sum of c over the pairs of u

n_u sums weights, so that an event of weight w is an event that occurred w times. The sum over all pairs needs no
loop over them: with G = Q^T Q, sum_i (p . q_i)^2 = p^T G p. Hence the slope, and where it is 0, with Q_u the rows of
Q that u has, C their weights in a diagonal matrix and t their targets:

    (A2)  d_p_u = 2 [ sum_O c (p . q_i - t) q_i + a G p + l_u p ]
    (A3)  (a G + l_u 1 + Q_u^T C Q_u) p = Q_u^T C t

K equations for each row, K^3 operations. But G is one for all rows. Its eigenvectors V are a rotation, and a rotation
of both tables changes no score:

    (A4)  G = V diag(g) V^T;  Q <- Q V, P <- P V  makes  D_u = a diag(g) + l_u 1  diagonal for every u

P need not be turned when it is about to be solved for. What is left is (D_u + Q_u^T C Q_u) p = Q_u^T C t, of K
equations, or of as many as there are pairs n_u: with A = C^1/2 Q_u D_u^-1/2 (n, K), and the identity
(1 + A^T A)^-1 A^T = A^T (1 + A A^T)^-1,

    (A5)  n > K:   (D + Q_u^T C Q_u) p = Q_u^T C t
    (A6)  n <= K:  (1 + A A^T) y = C^1/2 t,  p = D^-1/2 A^T y

Most rows have few pairs: no K^3. By (A6), A A^T y = C^1/2 t - y is C^1/2 Q_u p, the weighted scores. So

    (A7)  y = C^1/2 (t - Q_u p),  sum_O c (t - p . q)^2 = |y|^2

costs nothing. p is linear in t, and so is a score: the part of pair j in the score of an item with the vector v is

    (A8)  s_j = c_j t_j q_j . z,  (D + Q_u^T C Q_u) z = v;    sum_j s_j = v . p

By push-through again, C^1/2 Q_u z = (1 + A A^T)^-1 A D^-1/2 v. After both halves of an epoch P^T P = diag(g), by (A4),
so that the second sum of (A1) is sum_k a g_k sum_i q_ik^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from minicf import rng
from minicf.arguments import check_number
from minicf.data.bags import Bags, example_weights
from minicf.data.ratings import Ratings
from minicf.losses import SQUARED_ERROR, Loss
from minicf.models import Dot, DotBias, Model, Weights
from minicf.ops import namespace
from minicf.registry import register
from minicf.solvers.base import Part, Progress, Solver
from minicf.threads import one_blas_thread

if TYPE_CHECKING:
    from minicf.backends.base import Program

SIDES = ("user", "item")
_START = 1
"""The step of the stream of initial weights that a start is drawn from; the model draws its own at step 0."""


def other(side: str) -> str:
    return "item" if side == "user" else "user"


class Pairs(NamedTuple):
    """Hold the observed pairs of a table, row by row of one side."""

    start: np.ndarray
    """(rows + 1,) int64: row r has the pairs start[r] … start[r + 1]."""
    index: np.ndarray  # type: ignore[assignment]
    """(n,) int32, rows of the other side."""
    target: np.ndarray
    """(n,) float32, t."""
    weight: np.ndarray | None
    """(n,) float32, c; None for 1 each."""

    @property
    def total(self) -> np.ndarray:
        """(rows,) float64, n_u: the sum of the weights of each row."""
        row = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
        return np.bincount(row, self.weight, len(self.start) - 1).astype(np.float64)

    @classmethod
    def of(cls, ratings: Ratings, side: str) -> Pairs:
        """Lay out a table by users, or by items; those of a row in the order of the table."""
        rows, index = getattr(ratings, side), getattr(ratings, other(side))
        order = np.argsort(rows, kind="stable")
        counts = np.bincount(rows, minlength=getattr(ratings, f"n_{side}s"))
        weight = example_weights(ratings)
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(start, index[order], ratings.rating[order], None if weight is None else weight[order])


class Basis(NamedTuple):
    """Hold what a half-iteration knows of the other side's table: D without l, and how to get where it is diagonal."""

    d: np.ndarray
    """(K,) float64, a g."""
    vectors: np.ndarray | None = None
    """(K, K) float64, V; None where the table is turned already."""

    @classmethod
    def of(cls, theirs: np.ndarray, unobserved: float) -> Basis:
        """Compute V and a g of (A4), ascending; the largest component of each vector is positive.

        Parameters
        ----------
        theirs : array, shape (rows, K)
            Q for users, P for items.
        unobserved : float
            a. With 0 any basis will do, and nothing is turned.
        """
        if not unobserved:
            return cls(np.zeros(theirs.shape[1]))
        with one_blas_thread():  # the same bits on any machine with the same BLAS, and no waiting on small matrices
            wide = theirs.astype(np.float64)
            g, v = diagonalized(wide.T @ wide)
        return cls(unobserved * g, v)


def diagonalized(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return g and V of (A4); of a matrix that is not finite NaN, which the trainer takes for a divergence."""
    if not np.isfinite(gram).all():
        return np.full(len(gram), np.nan), np.eye(len(gram))
    g, v = np.linalg.eigh(gram)
    largest = v[np.abs(v).argmax(axis=0), np.arange(len(v))]  # a vector's sign is free: this is positive
    return np.maximum(g, 0.0), v * np.where(largest < 0, -1.0, 1.0)


# --- a row ------------------------------------------------------------------------------------------------------------


def solve_row(q: np.ndarray, target: np.ndarray, weight: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Solve (A5) or (A6), whichever is smaller, for p (K,); q (n, K), d (K,) the diagonal of D_u, float64."""
    if len(q) > q.shape[1]:
        return np.linalg.solve(np.diag(d) + (q.T * weight) @ q, q.T @ (weight * target))  # (A5)
    root, scale = np.sqrt(weight), d**-0.5
    a = root[:, None] * q * scale
    return scale * (a.T @ np.linalg.solve(np.eye(len(q)) + a @ a.T, root * target))  # (A6)


def _part_of_each(q: np.ndarray, target: np.ndarray, weight: np.ndarray, d: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Compute s_j of (A8) for each pair of a row."""
    if len(q) > q.shape[1]:
        return weight * target * (q @ np.linalg.solve(np.diag(d) + (q.T * weight) @ q, v))
    root, scale = np.sqrt(weight), d**-0.5
    a = root[:, None] * q * scale
    return root * target * np.linalg.solve(np.eye(len(q)) + a @ a.T, a @ (scale * v))


def _rows(theirs: np.ndarray, bags: Bags | Pairs, target: Any, weight: Any, basis: Basis) -> Iterator[Any]:
    """Yield number, q, t and c of each row that has a weight above 0."""
    target = np.asarray(target, np.float64)
    weight = np.ones(len(target)) if weight is None else np.asarray(weight, np.float64)
    for row, (lo, hi) in enumerate(zip(bags.start[:-1], bags.start[1:], strict=True)):
        if weight[lo:hi].any():
            q = theirs[bags.index[lo:hi]].astype(np.float64)
            yield row, q if basis.vectors is None else q @ basis.vectors, target[lo:hi], weight[lo:hi]


def solve_rows(
    solver: ALS,
    theirs: np.ndarray,
    bags: Bags | Pairs,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    basis: Basis | None = None,
) -> np.ndarray:
    """Solve rows of one side given the other's table: a fold-in of new users is this, and so is half an iteration.

    Parameters
    ----------
    solver : ALS
    theirs : array, shape (n, K)
        All of the other side's factors, `item_factors` for users. For `DotBias`: [1, item_factors], with targets less
        the items' biases; a row is [bias, factors] then.
    bags : Bags
        The pairs of each row: their rows in `theirs`.
    target : array of float, shape (entries,)
        t of each pair, less the model's `global_mean`.
    weight : array of float, shape (entries,), optional
        c of each pair; 1 by default.
    basis : Basis, optional
        ``Basis.of(theirs, solver.unobserved)``, for many calls; the costlier part of a small one.

    Returns
    -------
    array of float64, shape (rows, K)
        In the basis of `theirs`; 0 for a row without pairs.
    """
    basis = Basis.of(theirs, solver.unobserved) if basis is None else basis
    out = np.zeros((len(bags.start) - 1, theirs.shape[1]))
    with one_blas_thread():
        for row, q, t, c in _rows(theirs, bags, target, weight, basis):
            p = solve_row(q, t, c, basis.d + solver.ridge(c.sum(), len(theirs)))
            out[row] = p if basis.vectors is None else basis.vectors @ p
    return out


def shares(
    solver: ALS,
    theirs: np.ndarray,
    item: int,
    index: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    basis: Basis | None = None,
) -> np.ndarray:
    """Divide the score of an item for a user among the user's pairs, exactly: "because you took …" (A8).

    Parameters
    ----------
    solver, theirs, target, weight, basis
        As `solve_rows` has them, for one user.
    item : int
        Whose score: a row of `theirs`. Its own bias, and the model's `global_mean`, are not in it.
    index : array of int, shape (n,)
        The items that the user has.

    Returns
    -------
    array of float64, shape (n,)
        They sum to ``theirs[item] . p`` with the user's p by `solve_rows`.
    """
    basis = Basis.of(theirs, solver.unobserved) if basis is None else basis
    bags = Bags(np.array([0, len(index)]), np.asarray(index))
    v = theirs[item].astype(np.float64)
    with one_blas_thread():
        v = v if basis.vectors is None else v @ basis.vectors
        for _, q, t, c in _rows(theirs, bags, target, weight, basis):
            return _part_of_each(q, t, c, basis.d + solver.ridge(c.sum(), len(theirs)), v)
    return np.zeros(len(index))


# --- the solver -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """Hold the observed pairs of a training, by users and by items."""

    user: Pairs
    item: Pairs


@register
@dataclass(frozen=True)
class ALS(Solver):
    """Solve for all users, then for all items, exactly, (A1) … (A7); see `minicf.solvers.als`.

    Parameters
    ----------
    regularization : float
        reg in (A1), above 0.
    unobserved : float
        a in (A1), how much a pair weighs that is not in the table, beside 1 for one that is; its target is 0. Such a
        model ranks items by what is taken. 0 fits the observed pairs alone: ratings.
    exponent : float
        nu in (A1): how much more the rows are held down that have more events.
    start : float or None
        Standard deviation of the factors times sqrt(K) that training starts from, whatever the model's `init`; biases
        start at 0. None starts from the trainer's weights.

    Notes
    -----
    An epoch is two halves, users and items. In its row of the history ``train_mse`` is the first sum of (A1), at the
    end of the epoch, over the number of ratings n, and ``penalty`` is all the rest over n: their sum times n is L,
    which never rises. Targets are the table's `rating`, weights its `weight`; with a = 0 ratings are counted from the
    model's `global_mean`, and biases are factors that the other side multiplies with 1.

    Four or five epochs are enough with a > 0; more of them fit the training events better and rank held-out ones worse.
    ``valid_mse`` does not show that: follow `minicf.train.HeldOutRecall`.

    The result does not depend on the number of threads. Weights are turned from one half to the next, by (A4).
    """

    regularization: float = 0.01
    unobserved: float = 0.1
    exponent: float = 1.0
    start: float | None = 0.1
    loss: Loss = field(default=SQUARED_ERROR, init=False)
    lr: ClassVar[Any] = None

    def __post_init__(self) -> None:
        for name, limits in (
            ("regularization", {"above": 0.0}), ("unobserved", {"low": 0.0}), ("exponent", {}),
            ("start", {"above": 0.0}),
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None or name != "start":
                object.__setattr__(self, name, check_number(name, value, **limits))

    def ridge(self, total: Any, n_other: int) -> Any:
        """Compute l of (A1) for rows whose weights sum to `total`, with `n_other` rows on the other side."""
        return self.regularization * (total + self.unobserved * n_other) ** self.exponent

    def check(self, model: Model) -> None:
        if type(model) not in (Dot, DotBias) or model.rating_range is not None:
            raise ValueError(f"model is {model!r}; ALS solves for a Dot or a DotBias without rating_range")
        if self.unobserved and (type(model) is DotBias or model.global_mean):
            raise ValueError(
                f"model is {model!r}; it must be a Dot with global_mean=0 where unobserved is above 0 "
                f"({self.unobserved:g}), for the scores of unobserved pairs are drawn to 0; unobserved=0 fits ratings"
            )

    def prepare(self, ratings: Ratings) -> Table:
        self.loss.check_targets(ratings.rating)
        return Table(Pairs.of(ratings, "user"), Pairs.of(ratings, "item"))

    def init_state(self, w: Weights) -> Weights:
        """Make "ridge.user" and "ridge.item" (rows,), l; and "unobserved" (K,), a g of the half before, all float64."""
        if any(namespace(x) is not np for x in w.values()):
            raise NotImplementedError("ALS runs on a CPU; the backend must be 'numba' or 'numpy'")
        sizes = {side: len(w[f"{side}_factors"]) for side in SIDES}
        return {f"ridge.{side}": np.zeros(n) for side, n in sizes.items()} | {
            "unobserved": np.zeros(w["user_factors"].shape[1] + ("user_bias" in w))
        }

    def parts(self, data: Any, seed: int, epoch: int, program: Program) -> Iterator[Part]:
        for side in SIDES:
            yield Part(side, np.array([epoch]))

    def begin(self, program: Program, data: Table) -> None:
        """Set l for the table, and before the program's first half the weights: only the items' are read."""
        w = program.w
        for side in SIDES:
            program.slots[f"ridge.{side}"][:] = self.ridge(getattr(data, side).total, len(w[f"{other(side)}_factors"]))
        if program.t or self.start is None:
            return
        for value in w.values():
            value[:] = 0.0
        q = w["item_factors"]
        key = rng.key(program.seed, rng.INIT, 0, _START)
        q[:] = rng.normal(key, q.size, 0.0, self.start / np.sqrt(q.shape[1])).reshape(q.shape)

    def turned(self, program: Program, side: str) -> tuple[np.ndarray, np.ndarray]:
        """Turn a table by (A4), in place; return it, or [1, factors] with a bias, and its a g."""
        w = program.w[f"{side}_factors"]
        basis = Basis.of(w, self.unobserved)
        if basis.vectors is not None:
            with one_blas_thread():
                w[:] = w.astype(np.float64) @ basis.vectors
        if f"{side}_bias" not in program.w:
            return w, basis.d
        return np.column_stack([np.ones(len(w), w.dtype), w]), np.concatenate([[0.0], basis.d])

    def residuals(self, program: Program, pairs: Pairs, theirs: str) -> np.ndarray:
        """Return t less the mean and the biases of the other side, float64."""
        target = pairs.target.astype(np.float64) - program.model.global_mean
        if (bias := program.w.get(f"{theirs}_bias")) is not None:
            target -= bias[pairs.index]
        return target

    def run(self, program: Program, data: Table, part: Part) -> Progress:
        """Solve for one side, in float64."""
        side, theirs = part.kind, other(part.kind)
        pairs: Pairs = getattr(data, side)
        self.begin(program, data)
        q, d = self.turned(program, theirs)
        target = self.residuals(program, pairs, theirs)
        x = solve_rows(self, q, pairs, target, pairs.weight, Basis(d))
        error = 0.0
        for row, h, t, c in _rows(q, pairs, target, pairs.weight, Basis(d)) if side == "item" else ():
            error += float(c @ (t - h @ x[row]) ** 2)
        return self.end(program, side, x, d, error, len(target))

    def end(self, program: Program, side: str, x: np.ndarray, d: np.ndarray, error: float, n: int) -> Progress:
        """Put the rows of a side into the program; return the first sum of (A1) after the second half."""
        factors = program.w[f"{side}_factors"]
        factors[:] = x[:, x.shape[1] - factors.shape[1] :]
        if f"{side}_bias" in program.w:
            program.w[f"{side}_bias"][:] = x[:, 0]
        program.slots["unobserved"][:] = d
        program.t += 1
        return Progress(np.array([error]), n if side == "item" else 0)

    def penalty(self, program: Program, counts: Mapping[str, np.ndarray]) -> float:
        """Return all but the first sum of (A1), over the number of ratings."""
        total = 0.0
        for side in SIDES:
            for name in (f"{side}_factors", f"{side}_bias"):
                if name in program.w:
                    w = program.w[name].reshape(len(program.w[name]), -1)
                    total += float(program.slots[f"ridge.{side}"] @ np.einsum("rk,rk->r", w, w, dtype=np.float64))
        q = program.w["item_factors"]
        d = program.slots["unobserved"][-q.shape[1] :]
        total += float(d @ np.einsum("rk,rk->k", q, q, dtype=np.float64))
        return total / max(int(counts["user"].sum()), 1)


def objective(solver: ALS, w: Weights, ratings: Ratings, global_mean: float = 0.0) -> float:
    """Compute (A1) at any weights, in float64, without a sum over unobserved pairs: theirs is <P^T P, Q^T Q>."""
    wide = {name: value.astype(np.float64) for name, value in w.items()}
    p, q = wide["user_factors"], wide["item_factors"]
    score = np.einsum("nk,nk->n", p[ratings.user], q[ratings.item]) + global_mean
    total = solver.unobserved * float(((p.T @ p) * (q.T @ q)).sum())
    for side, n_other in (("user", len(q)), ("item", len(p))):
        ridge = solver.ridge(Pairs.of(ratings, side).total, n_other)
        total += float(ridge @ (wide[f"{side}_factors"] ** 2).sum(axis=1))
        if (bias := wide.get(f"{side}_bias")) is not None:
            score += bias[getattr(ratings, side)]
            total += float(ridge @ bias**2)
    weight = 1.0 if ratings.weight is None else ratings.weight.astype(np.float64)
    return total + float((weight * (ratings.rating - score) ** 2).sum())
