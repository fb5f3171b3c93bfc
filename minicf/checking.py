"""Check gradients: compare hand-derived derivatives with finite differences, which do not know how they were derived.

Model and loss are looked at from outside: the model's list of parameters, its dropout masks, and one pass there and
back, which gives the loss of each head and the gradient of their weighted sum (F10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from minicf.arguments import check_int, check_number
from minicf.data.bags import BAGS, Bags, Batch
from minicf.data.negatives import Candidates, Draw
from minicf.losses import SQUARED_ERROR, Loss
from minicf.models import Model, Parameter, Weights
from minicf.solvers import loss_and_gradients

STEP = 2.0**-17
"""h, 7.6e-6: near eps^(1/3), where truncation and rounding of central differences balance for numbers around 1.
A power of two, so that w + h is exact to the last place of w."""

FULL_LIMIT = 2000
"""Number of parameters up to which ``method="auto"`` checks every one."""

ROUNDING = 16 * np.finfo(np.float64).eps
"""Largest analytic derivative, over the loss, that counts as 0: that of terms which cancel but for rounding."""

KINKS_ALLOWED = 3
"""Number of elements near a kink that are left out of a weight of any size without alarm."""


@dataclass(frozen=True)
class WeightCheck:
    """The outcome for one weight."""

    weight: str
    error: float
    """Largest difference of numeric and analytic derivative, over `largest`."""
    checked: int
    """Elements (or random directions) compared."""
    skipped: int
    """Elements (or random directions) left out because a kink of relu is within reach of the step."""
    largest: float
    """Largest numeric derivative: the scale of `error`."""
    problem: str
    """What is wrong, or ""."""


@dataclass(frozen=True)
class GradientReport:
    """The outcome of `check_gradients`; ``print(report)`` for people, `ok` for tests, `frame` for tables."""

    model: str
    method: str
    tolerance: float
    checks: tuple[WeightCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether no weight has a problem."""
        return not any(check.problem for check in self.checks)

    @property
    def error(self) -> float:
        """The largest relative error of all weights."""
        return max(check.error for check in self.checks)

    def frame(self) -> pd.DataFrame:
        """A row for each weight: weight, error, checked, skipped, largest, problem."""
        return pd.DataFrame([vars(check) for check in self.checks])

    def __str__(self) -> str:
        unit = "elements" if self.method == "full" else "directions"
        lines = [
            f"gradients of {self.model}: {'right' if self.ok else 'WRONG'} "
            f"({self.method} differences, relative errors below {self.tolerance:g} asked for)",
            f"  {'weight':<24} {'error':>9} {unit:>10} {'kinks':>6}",
        ]
        for check in self.checks:
            line = f"  {check.weight:<24} {check.error:>9.1e} {check.checked:>10,} {check.skipped:>6,}"
            lines.append(f"{line}  {check.problem}".rstrip())
        return "\n".join(lines)


def check_gradients(
    model: Model,
    *,
    loss: Loss | None = None,
    n_users: int = 5,
    n_items: int = 7,
    batch: int = 12,
    seed: int = 0,
    method: str = "auto",
    directions: int = 8,
    tolerance: float = 1e-6,
) -> GradientReport:
    """Compare a model's gradients with finite differences of its loss, in float64.

    Parameters
    ----------
    model : Model
    loss : Loss, optional
        `SquaredError` by default.
    n_users, n_items : int
        Rows of the tables, at least 2. About a third of them are untouched by the batch: their gradient must be 0.
    batch : int
        Number of examples, at least 2. Users and items repeat: at most half as many different ones of each.
    seed : int
        For weights, batch, dropout masks and directions.
    method : "auto", "full" or "project"
        Every element of every weight, or `directions` random directions of each weight. "auto" takes "full" for
        models of up to 2,000 parameters.
    directions : int
        How many directions "project" takes.
    tolerance : float
        The largest relative error that passes.

    Returns
    -------
    GradientReport
        With `ok`, `frame()` and a readable `str`. Wrong gradients are reported, not raised.

    Raises
    ------
    ValueError
        For sizes that are too small, an unknown method or a tolerance that is not positive.

    Notes
    -----
    With L the objective (F10), w a weight and d an element of it (method "full") or a random direction in its space
    ("project": normal, with the standard deviation of w itself), the numeric derivative is
    C(h) = (L(w + h d) - L(w - h d)) / 2h with h = 2^-17. Its truncation is h^2/6 of L's third derivative along d,
    about 1e-11 of it; its rounding error is a few eps L / h, about 1e-10 for a loss around 4 in float64. Weights are
    normal with layers' outputs around 1, so that derivatives are too, and errors come out between 1e-11 and 1e-8,
    far below the tolerance; a mistake in a derivation is far above it. A direction sees every element at once: a
    mistake in one is drowned only where it is below `tolerance` of the whole.

    The error of a weight is relative to its own largest numeric derivative. There is no absolute tolerance through
    which small wrong gradients could escape: where the numeric derivative is 0 throughout, as for a head of
    weight 0, the analytic one has to be exactly 0; with a loss that compares outputs, in whose differences a user's
    bias cancels, 0 but for the rounding of sums. Weights without a gradient, gradients without a weight, wrong
    shapes, numbers that are not finite and weights changed by the call are problems too.

    relu has a kink at 0. Where one is at distance x < h along d, C(h) is off by J/2 (1 - x/h), with J the jump in
    slope, and C(h/2) by J/2 (1 - 2x/h) or, beyond h/2, not at all; so |C(h) - C(h/2)| is J/2 times the smaller of
    x/h and 1 - x/h, while for a smooth function it is about as small as the truncation. An element where it exceeds
    a tenth of the tolerance (and rounding) is left out and counted. The analytic gradient has no say in that, so
    that a wrong one cannot excuse itself; and more than 1 % (and more than 3) left out is a problem.

    Examples
    --------
    >>> from minicf.checking import check_gradients
    >>> from minicf.models import Net
    >>> report = check_gradients(Net(n_factors=4, hidden=(6,), rating_range=(0.5, 5)))
    >>> report.ok, report.error < 1e-7, len(report.frame())
    (True, True, 6)
    """
    if not isinstance(model, Model):
        raise TypeError(f"model is {model!r}; it must be a minicf model such as DotBias(50)")
    loss = SQUARED_ERROR if loss is None else loss
    if not isinstance(loss, Loss):
        raise TypeError(f"loss is {loss!r}; it must be a Loss such as SquaredError() or Logistic()")
    n_users, n_items = check_int("n_users", n_users, 2), check_int("n_items", n_items, 2)
    batch, directions = check_int("batch", batch, 2), check_int("directions", directions, 1)
    if method not in ("auto", "full", "project"):
        raise ValueError(f"method is {method!r}; it must be 'auto', 'full' or 'project'")
    tolerance = check_number("tolerance", tolerance, above=0.0)  # anything is below an infinite one
    random = np.random.default_rng(check_int("seed", seed, 0))
    bags, sizes = _bags(model, {"user": n_users, "item": n_items})
    parameters = model.parameters(sizes)
    if method == "auto":
        method = "full" if sum(int(np.prod(p.shape)) for p in parameters.values()) <= FULL_LIMIT else "project"

    w = {name: _scale(parameter) * random.normal(size=parameter.shape) for name, parameter in parameters.items()}
    user, item = _batch(random, n_users, batch), _batch(random, n_items, batch)
    target = random.uniform(1.0, 5.0, batch)
    try:
        loss.check_targets(target)
    except ValueError:  # a loss of targets from 0 to 1
        target = (target - 1.0) / 4.0
    events = Batch(user, item, target, None, bags)
    examples = loss.examples(events, Draw(seed, 1, Candidates.of(events, n_users, n_items)))
    masks = model.dropout_masks(seed, 1, examples.size, np.float64)
    shares = model.head_weights

    def objective(name: str, value: np.ndarray) -> float:
        losses, _ = loss_and_gradients(model, loss, w | {name: value}, examples, masks)
        return sum(share * float(part) for share, part in zip(shares, losses, strict=True))  # (F10)

    given = {name: value.copy() for name, value in w.items()}
    _, grads = loss_and_gradients(model, loss, given, examples, masks)
    checks = []
    for name, value in w.items():
        problem = _misfit(name, value, grads, given)
        if problem:
            checks.append(WeightCheck(name, np.inf, 0, 0, np.nan, problem))
            continue
        if method == "full":
            along = _elements(value.shape)
        else:
            along = (_scale(parameters[name]) * random.normal(size=value.shape) for _ in range(directions))
        checks.append(_check(name, value, grads[name], objective, along, tolerance, bool(loss.negatives)))
    extra = [name for name in grads if name not in w]
    checks += [WeightCheck(name, np.inf, 0, 0, np.nan, "not a weight of the model") for name in extra]
    return GradientReport(str(model), method, tolerance, tuple(checks))


def _scale(parameter: Parameter) -> float:
    """Return a standard deviation that keeps scores and activations around 1, whatever the widths."""
    shape = parameter.shape
    if len(shape) == 1:
        return 0.5
    return shape[1] ** -0.25 if parameter.rows is not None else (2.0 / shape[0]) ** 0.5


def _batch(random: np.random.Generator, n: int, batch: int) -> np.ndarray:
    """Draw indices: rows repeat (pigeonhole: at most batch/2 different ones) and a third of them never occur."""
    named = random.permutation(n)[: max(1, min(2 * n // 3, batch // 2))]
    return random.choice(named, batch).astype(np.int32)


def _bags(model: Model, sizes: dict[str, int]) -> tuple[dict[str, Bags], dict[str, int]]:
    """Return bags for a model, and the sizes with theirs: row r has every (r mod 3 + 1)-th entry, row 0 none.

    An entry is in several bags, and the last one in none.
    """
    bags: dict[str, Bags] = {}
    for name in model.bags:
        if name not in BAGS:
            raise ValueError(f"{model} has the bag {name!r}; known are {list(BAGS)}")
        side = BAGS[name]
        other = "item" if side == "user" else "user"
        n = sizes[other] if name.endswith("history") else 6
        row, index = np.nonzero(np.arange(n - 1) % (np.arange(sizes[side])[:, None] % 3 + 1) == 0)
        found = Bags.of(row[row > 0], index[row > 0], sizes[side], side)
        if name.endswith("features"):
            found = found._replace(weight=np.cos(np.arange(len(found.index)) + 1.0))
        bags[name], sizes = found, sizes | {name: n}
    return bags, sizes


def _elements(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield the unit vectors of a weight's space."""
    for index in np.ndindex(*shape):
        d = np.zeros(shape)
        d[index] = 1.0
        yield d


def _misfit(name: str, value: np.ndarray, grads: Weights, given: Weights) -> str:
    """Say what makes a comparison of numbers pointless, or ""."""
    if not np.array_equal(given[name], value):
        return "the call changed the weight"
    if name not in grads:
        return "no gradient"
    if grads[name].shape != value.shape:
        return f"the gradient has shape {grads[name].shape}, the weight {value.shape}"
    if not np.isfinite(grads[name]).all():
        return "the gradient is not finite"
    return ""


def _check(
    name: str,
    w: np.ndarray,
    d_w: np.ndarray,
    loss: Callable[[str, np.ndarray], float],
    along: Iterator[np.ndarray],
    tolerance: float,
    cancels: bool,
) -> WeightCheck:
    """Compare numeric with analytic derivatives of one weight, along each of the given directions.

    `cancels` says that the loss is of differences: the analytic derivative of what cancels is the rounding of sums.
    """

    def central(d: np.ndarray, h: float) -> float:
        return (loss(name, w + h * d) - loss(name, w - h * d)) / (2.0 * h)

    rows = [(central(d, STEP), central(d, STEP / 2), float((d_w * d).sum())) for d in along]
    numeric, finer, analytic = np.array(rows).T
    largest = float(np.abs(numeric).max())
    noise = 4.0 * np.finfo(np.float64).eps * abs(loss(name, w)) / STEP
    kink = np.abs(numeric - finer) > max(0.1 * tolerance * largest, noise)
    skipped = int(kink.sum())
    smooth = ~kink
    difference = float(np.abs(analytic - numeric)[smooth].max(initial=0.0))
    error = difference / largest if largest else (np.inf if difference else 0.0)
    if cancels and largest <= noise:
        error = 0.0 if float(np.abs(analytic).max()) <= ROUNDING * max(1.0, abs(loss(name, w))) else np.inf
    problem = ""
    if not np.isfinite(numeric).all():
        error, problem = np.inf, "the loss is not finite"
    elif skipped > max(KINKS_ALLOWED, len(rows) // 100) or not smooth.any():
        problem = f"too many kinks ({skipped} of {len(rows)}): try another seed, or more and smaller layers"
    elif not error < tolerance:
        worst = np.argmax(np.where(smooth, np.abs(analytic - numeric), -1.0))
        problem = f"numeric {numeric[worst]:.6g}, analytic {analytic[worst]:.6g}"
    return WeightCheck(name, error, int(smooth.sum()), skipped, largest, problem)
