"""The Gibbs sampler's reference: conditionals against the joint density, their draws, and the whole sweep (Geweke)."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from minicf import rng
from minicf.solvers import gibbs
from minicf.solvers.gibbs import Chain, Features, Side

SIZES = {"user": 4, "item": 3}
USER, ITEM = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 1, 2])  # user 3 has no ratings
DAY = np.array([0, 0, 1, 2, 2, 3])
"""The user-day of each."""


def prior_draw(
    random: np.random.RandomState,
    k: int = 1,
    nu: float = 10.0,
    biases: bool = True,
    noise=("user", "item"),
    timed: bool = False,
) -> Chain:
    """Every unknown and the ratings, drawn from the top of (P0) down."""
    d, index = k + biases, {"user": USER, "item": ITEM}
    sides = {}
    for side, n in SIZES.items():
        features = Features.of(index[side], index[gibbs.other(side)], n, SIZES[gibbs.other(side)])
        lam, rho = random.gamma(1.0, size=d), random.gamma(1.0, size=d)
        mean = random.normal(size=d) / np.sqrt(lam)
        weights = random.normal(size=(SIZES[gibbs.other(side)], d)) / np.sqrt(rho)
        a = random.gamma(nu / 2, size=n) / (nu / 2) if side in noise else np.ones(n)
        made = Side(np.zeros((n, d)), mean, lam, a, features, weights, rho)
        made.x = made.prior_mean + random.normal(size=(n, d)) / np.sqrt(lam)
        sides[side] = made
    chain = Chain(index, np.zeros(len(USER)), sides, random.gamma(1.0), nu, noise, biases)
    if timed:
        tau = random.gamma(1.0)
        chain.day, chain.effect, chain.effect_precision = DAY, random.normal(size=4) / np.sqrt(tau), tau
    draw_ratings(chain, random)
    return chain


def draw_ratings(chain: Chain, random: np.random.RandomState) -> None:
    chain.rating = chain.predict() + random.normal(size=len(chain.rating)) / np.sqrt(chain.rating_precision())


def normal(x, mean, precision):
    """Log density up to a constant, of independent normals or of one with a matrix of precisions."""
    return -0.5 * (x - mean) @ np.atleast_2d(precision) @ (x - mean)


def log_gamma(x, shape, rate):
    return float(np.sum((shape - 1) * np.log(x) - rate * x))


def conditionals(chain: Chain):
    """Each unknown: its name, how to set it, two values, and the log of its conditional density."""
    random = np.random.RandomState(5)

    def changed(change):
        other = copy.deepcopy(chain)
        change(other)
        return other

    for name, side in chain.sides.items():
        for row in range(len(side.x)):
            a, v = gibbs.row_conditional(chain, name, row, side.prior_mean[row])
            new = random.normal(size=side.x.shape[1])
            yield (f"(P1) {name} {row}", changed(lambda c, n=name, r=row, new=new: c.sides[n].x.__setitem__(r, new)),
                   normal(new, np.linalg.solve(a, v), a) - normal(side.x[row], np.linalg.solve(a, v), a))  # fmt: skip
        mean, variance = gibbs.mean_conditional(side)
        new = random.normal(size=len(mean))
        yield (f"(P2) {name}", changed(lambda c, n=name, new=new: setattr(c.sides[n], "mean", new)),
               normal(new, mean, np.diag(1 / variance)) - normal(side.mean, mean, np.diag(1 / variance)))  # fmt: skip
        new = random.gamma(2.0, size=len(mean))
        shape, rate = gibbs.precision_conditional(side)
        yield (f"(P3) {name}", changed(lambda c, n=name, new=new: setattr(c.sides[n], "precision", new)),
               log_gamma(new, shape, rate) - log_gamma(side.precision, shape, rate))  # fmt: skip
        for j in range(len(side.weights)):
            mean, t = gibbs.feature_conditional(side, j, side.x - side.prior_mean)
            new = random.normal(size=len(mean))
            yield (f"(P4) {name} {j}",
                   changed(lambda c, n=name, j=j, new=new: c.sides[n].weights.__setitem__(j, new)),
                   normal(new, mean, np.diag(t)) - normal(side.weights[j], mean, np.diag(t)))  # fmt: skip
        new = random.gamma(2.0, size=side.weights.shape[1])
        shape, rate = gibbs.weight_precision_conditional(side)
        yield (f"(P5) {name}", changed(lambda c, n=name, new=new: setattr(c.sides[n], "weight_precision", new)),
               log_gamma(new, shape, rate) - log_gamma(side.weight_precision, shape, rate))  # fmt: skip
        new = random.gamma(2.0, size=len(side.noise))
        shape, rate = gibbs.noise_conditional(chain, name)
        yield (f"(P7) {name}", changed(lambda c, n=name, new=new: setattr(c.sides[n], "noise", new)),
               log_gamma(new, shape, rate) - log_gamma(side.noise, shape, rate))  # fmt: skip
    if chain.day is not None:
        mean, variance = gibbs.effect_conditional(chain)
        for d, new in enumerate(random.normal(size=len(mean))):
            yield (f"(P17) {d}", changed(lambda c, d=d, new=new: c.effect.__setitem__(d, new)),
                   ((chain.effect[d] - mean[d]) ** 2 - (new - mean[d]) ** 2) / (2 * variance[d]))  # fmt: skip
        shape, rate = gibbs.effect_precision_conditional(chain.effect)
        yield ("(P18)", changed(lambda c: setattr(c, "effect_precision", 1.7)),
               log_gamma(1.7, shape, rate) - log_gamma(chain.effect_precision, shape, rate))  # fmt: skip
    shape, rate = gibbs.alpha_conditional(chain)
    yield ("(P6)", changed(lambda c: setattr(c, "alpha", 2.5)),
           log_gamma(2.5, shape, rate) - log_gamma(chain.alpha, shape, rate))  # fmt: skip


def wrong_conditionals(chain: Chain) -> list[str]:
    """Where a conditional's log density does not change as that of everything together does."""
    before = gibbs.log_joint(chain)
    return [
        name
        for name, other, change in conditionals(chain)
        # Rounding of some hundred terms of this size.
        if abs(gibbs.log_joint(other) - before - change) > 1e-9 * max(1.0, abs(before), abs(change))
    ]


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_each_conditional_is_what_is_left_of_the_joint_density(k, timed):
    for seed in range(5):
        chain = prior_draw(np.random.RandomState(seed), k, timed=timed)
        assert len(list(conditionals(chain))) == 2 * 4 + 7 + 7 + 1 + (4 + 1) * timed
        assert wrong_conditionals(chain) == []


@pytest.mark.parametrize("timed", [False, True])
def test_the_joint_density_is_that_of_its_parts(timed):
    """By densities of SciPy, and no line of ours."""
    chain = prior_draw(np.random.RandomState(3), 2, timed=timed)

    def from_scipy(c):
        users, items = c.sides["user"], c.sides["item"]
        x, w = users.x[USER], items.x[ITEM]
        precision = c.alpha * users.noise[USER] * items.noise[ITEM]
        y = x[:, 0] + w[:, 0] + np.einsum("nk,nk->n", x[:, 1:], w[:, 1:])
        if timed:
            y = y + c.effect[DAY]
        total = stats.norm.logpdf(c.rating, y, precision**-0.5).sum() + stats.expon.logpdf(c.alpha)
        if timed:
            total += stats.norm.logpdf(c.effect, 0, c.effect_precision**-0.5).sum()
            total += stats.expon.logpdf(c.effect_precision)
        for name, side in c.sides.items():
            rated = np.zeros((len(side.x), SIZES[gibbs.other(name)]))
            rated[c.index[name], c.index[gibbs.other(name)]] = 1
            f = rated / np.sqrt(np.maximum(rated.sum(axis=1, keepdims=True), 1))
            total += stats.norm.logpdf(side.x, side.mean + f @ side.weights, side.precision**-0.5).sum()
            total += stats.norm.logpdf(side.mean, 0, side.precision**-0.5).sum()
            total += stats.norm.logpdf(side.weights, 0, side.weight_precision**-0.5).sum()
            total += stats.expon.logpdf(side.precision).sum() + stats.expon.logpdf(side.weight_precision).sum()
            total += stats.gamma.logpdf(side.noise, c.nu / 2, scale=2 / c.nu).sum()
        return total

    second = prior_draw(np.random.RandomState(4), 2, timed=timed)
    difference = gibbs.log_joint(second) - gibbs.log_joint(chain)
    assert difference == pytest.approx(from_scipy(second) - from_scipy(chain), rel=1e-10)


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [1.0, 1.5, 6.0, 5000.0])
def test_gamma_numbers(shape):
    drawn = rng.gamma(rng.key(1, rng.GIBBS), np.full(20_000, shape))
    assert stats.kstest(drawn, stats.gamma(shape).cdf).pvalue > 0.01  # of a fixed seed: no luck in it


@pytest.mark.parametrize("noise", [(), ("user",), ("item",)])
def test_conditionals_without_biases_and_with_noise_of_one_side(noise):
    chain = prior_draw(np.random.RandomState(7), 2, biases=False, noise=noise)
    # The noise of a side that has none of its own is no unknown, and not in the joint density.
    left_out = {f"(P7) {side}" for side in SIZES} - {f"(P7) {side}" for side in noise}
    assert set(wrong_conditionals(chain)) == left_out


def wrong_scale() -> bool:
    """Whether numbers of given means, variances, shapes and rates have others; of a fixed seed."""
    n = np.ones(20_000)
    standard = (gibbs.normal(5, (3 * n, 4 * n)) - 3) / 2
    unit = gibbs.gamma(6, (2 * n, 4 * n)) * 4
    return min(stats.kstest(standard, "norm").pvalue, stats.kstest(unit, stats.gamma(2).cdf).pvalue) < 0.01


def test_numbers_have_their_scale():
    assert not wrong_scale()


def test_gamma_refuses_what_its_method_cannot_draw():
    with pytest.raises(ValueError, match=r"shape is 0\.5; it must be at least 1"):
        rng.gamma(1, np.array([2.0, 0.5]))


def test_rows_are_drawn_with_the_mean_and_covariance_of_their_conditional():
    chain = prior_draw(np.random.RandomState(1), 2)
    a, v = gibbs.row_conditional(chain, "user", 2, chain.sides["user"].prior_mean[2])
    n, drawn = 4000, []
    for number in range(n):
        copied = copy.copy(chain)
        copied.sides = {name: copy.copy(side) for name, side in chain.sides.items()}
        copied.sides["user"].x = chain.sides["user"].x.copy()
        means = gibbs.draw_rows(copied, "user", rng.key(7, rng.GIBBS, 0, number))
        drawn.append(copied.sides["user"].x[2])
    np.testing.assert_allclose(means[2], np.linalg.solve(a, v), rtol=1e-12)
    # Whitened by L^T, where A = L L^T, they are standard normal: five standard errors of their mean and covariance.
    white = (np.array(drawn) - np.linalg.solve(a, v)) @ np.linalg.cholesky(a)
    assert abs(white.mean(axis=0)).max() < 5 / np.sqrt(n)
    assert abs(np.cov(white.T) - np.eye(3)).max() < 5 * np.sqrt(2 / n)


def wrong_features(chain: Chain) -> bool:
    """Whether (P4) is drawn otherwise than feature by feature, with residuals that are computed anew each time."""
    apart = copy.deepcopy(chain)
    side, key = chain.sides["user"], rng.key(3, rng.GIBBS)
    gibbs.draw_features(side, key)
    mine = apart.sides["user"]
    z = rng.normal(key, mine.weights.size).reshape(mine.weights.shape)
    for j in range(len(mine.weights)):
        mean, t = gibbs.feature_conditional(mine, j, mine.x - mine.prior_mean)
        mine.weights[j] = mean + z[j] / np.sqrt(t)
    return not np.allclose(side.weights, mine.weights, rtol=1e-9)


def test_features_are_drawn_one_after_the_other():
    assert not wrong_features(prior_draw(np.random.RandomState(2), 2))


def shared_streams(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether two of the draws of three sweeps read the same random numbers."""
    used: list[int] = []
    for name in ("normal", "gamma"):
        real = getattr(rng, name)

        def recorded(key, *arguments, real=real):
            used.append(key)
            return real(key, *arguments)

        monkeypatch.setattr(gibbs.rng, name, recorded)
    for number in range(3):
        gibbs.sweep(chain, 1, number)
    monkeypatch.undo()
    return len(set(used)) != len(used)


def test_no_two_draws_share_random_numbers(monkeypatch):
    assert not shared_streams(prior_draw(np.random.RandomState(2), 2, timed=True), monkeypatch)


# --- Geweke's joint-distribution test (2004) --------------------------------------------------------------------------


def functions(chain: Chain) -> np.ndarray:
    """Bounded or logarithmic, since a normal whose precision is Gamma(1, 1) has no variance."""
    found = [np.log(chain.alpha)]
    for side in chain.sides.values():
        x, weights = np.arctan(side.x), np.arctan(side.weights)
        found += [*np.log(side.precision), *np.log(side.weight_precision), *np.log(side.noise)]
        found += [*np.arctan(side.mean), *np.arctan(side.mean) ** 2, *x.ravel(), *(x**2).ravel()]
        found += [*weights.ravel(), *(weights**2).ravel(), *(x[:-1] * x[1:]).ravel(), *(x[0] * weights[0])]
        found += [*(np.log(side.precision) * x[0] ** 2), *(np.log(side.noise) * np.log(chain.alpha))]
    x, w = np.arctan(chain.sides["user"].x), np.arctan(chain.sides["item"].x)
    if chain.day is not None:
        t, tau = np.arctan(chain.effect), np.log(chain.effect_precision)
        found += [tau, *t, *t**2, *(tau * t**2), *(t * x[[0, 1, 2, 2], 0]), *(t * np.log(chain.alpha))]
    return np.array([*found, *(x[:3] * w).ravel()])


def geweke(chains: int, sweeps: int, sweep=None, timed: bool = False) -> float:
    """The largest z of any function: the prior's draws against those after some sweeps, each with new ratings between.

    A chain that starts from the prior stays there, if and only if the sweep leaves (P0) as it is. Chains are
    independent of each other, so that their means have plain standard errors.
    """
    random = np.random.RandomState(11)
    before, after = [], []
    for number in range(chains):
        before.append(functions(prior_draw(random, timed=timed)))
        chain = prior_draw(random, timed=timed)
        for i in range(sweeps):
            (sweep or gibbs.sweep)(chain, number, i)
            draw_ratings(chain, random)
        after.append(functions(chain))
    a, b = np.array(before), np.array(after)
    return float(abs((a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / chains)).max())


LIMIT = 4.5
"""Of some 150 functions, one is beyond it by chance in a thousand seeds; the seed is fixed."""


def test_the_sweep_leaves_the_joint_distribution_as_it_is():
    assert geweke(1500, 2) < LIMIT


def test_the_sweep_with_effects_of_days_leaves_the_joint_distribution_as_it_is():
    assert geweke(1000, 2, timed=True) < LIMIT


@pytest.mark.parametrize("noise", [(), ("user",), ("item",)])
def test_the_sweep_leaves_rows_without_noise_of_their_own_alone(noise):
    chain = prior_draw(np.random.RandomState(7), 2, biases=False, noise=noise)
    before = {name: side.noise.copy() for name, side in chain.sides.items()}
    gibbs.sweep(chain, 1, 0)
    assert {name for name, side in chain.sides.items() if (side.noise != before[name]).any()} == set(noise)


# --- the tests above are tested ---------------------------------------------------------------------------------------

BY_DENSITY = {
    "no prior precision": ("a = np.diag(mine.precision) + ", "a = "),
    "the other side's bias left in": ("(chain.rating[at] - c - ", "(chain.rating[at] - "),
    "prior mean without precision": ("v = mine.precision * prior_mean", "v = prior_mean"),
    "prior mean without bag": ("return self.mean + self.features.product(self.weights, len(self.x))",
                               "return self.mean + 0 * self.x"),
    "noise of the other side left out": ("mine.noise[row] * theirs.noise[rated]", "mine.noise[row] * np.ones(len(h))"),
    "the bias multiplied": ("namespace(x).ones((len(x), 1)), x[:, 1:]", "x[:, :1], x[:, 1:]"),
    "m without its prior": ("n = len(side.x) + 1", "n = len(side.x)"),
    "m from rows with their bags": ("s = (side.x - side.features.product(side.weights, len(side.x)))", "s = side.x"),
    "precision without m": ("((residual**2).sum(axis=0) + side.mean**2)", "(residual**2).sum(axis=0)"),
    "precision of one row fewer": ("0.5 * (len(side.x) + 1)), rate", "0.5 * len(side.x)), rate"),
    "a feature counted twice": ("squares * side.weights[feature]", "0 * side.weights[feature]"),
    "weights of features not squared": ("squares = (f**2).sum()", "squares = f.sum()"),
    "features without their own precision": ("t = side.weight_precision + ", "t = "),
    "rate not halved": ("1.0 + 0.5 * (side.weights**2)", "1.0 + (side.weights**2)"),
    "alpha in its own rate": (".sum()) / chain.alpha", ".sum())"),
    "noise without counts": ("0.5 * (chain.nu + counts)", "0.5 * chain.nu + 0 * counts"),
    "effects left in the rows": (" - c - chain.day_effect(at))", " - c)"),
    "effects in their own residual": ("(chain.predict() - chain.day_effect())", "chain.predict()"),
    "effects without their precision": ("a = chain.effect_precision + np.b", "a = np.b"),
    "effects of every rating alike": ("np.bincount(chain.day, precision * residual, n)",
                                      "np.bincount(chain.day, residual, n)"),
    "precision of effects without their squares": ("1.0 + 0.5 * float((effect.", "1.0 + 0.0 * float((effect."),
    "precision of effects without their number": ("1.0 + 0.5 * len(effect)", "1.0 + 0.0 * len(effect)"),
    "noise in its own rate": ("chain.rating_precision() / mine.noise[rows]", "chain.rating_precision()"),
}  # fmt: skip

BY_DRAWS = {
    "L for its transpose": ("np.linalg.solve(lower.T, z[row])", "np.linalg.solve(lower, z[row])"),
    "precision for deviation": ("z[j] / np.sqrt(t)", "z[j] / t"),
    "no noise in the effects": (
        "chain.effect = normal(key(EFFECTS), effect_conditional(chain))",
        "chain.effect = effect_conditional(chain)[0]",
    ),
    "precision of effects upside down": (
        "EFFECT_PRECISION), np.array([shape]))[0] / rate",
        "EFFECT_PRECISION), np.array([shape]))[0] * rate",
    ),
    "no noise in the rows": ("x[row] = means[row] + np.linalg.solve(lower.T, z[row])", "x[row] = means[row]"),
}


def sabotaged(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Put a mistake into a copy of the module, and the copy into the tests."""
    text = Path(gibbs.__file__).read_text(encoding="utf-8")
    assert text.count(old) == 1, "the line of the mistake is not there any more"
    module = types.ModuleType("sabotaged_gibbs")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(text.replace(old, new), gibbs.__file__, "exec"), vars(module))
    for name in ("Chain", "Features", "Side"):
        monkeypatch.setitem(globals(), name, getattr(module, name))
    monkeypatch.setitem(globals(), "gibbs", module)


@pytest.mark.parametrize("mistake", BY_DENSITY)
def test_a_wrong_conditional_is_noticed(mistake, monkeypatch):
    sabotaged(monkeypatch, *BY_DENSITY[mistake])
    try:
        assert wrong_conditionals(prior_draw(np.random.RandomState(0), 2, timed=True))
    except (np.linalg.LinAlgError, RuntimeWarning):  # of a row without ratings, a feature without rows
        assert mistake in {"no prior precision", "features without their own precision"}


@pytest.mark.parametrize("mistake", BY_DRAWS)
def test_a_wrong_draw_is_noticed(mistake, monkeypatch):
    sabotaged(monkeypatch, *BY_DRAWS[mistake])
    assert geweke(400, 3, timed="effects" in mistake) > LIMIT


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("xp.sqrt(variance) * xp", "variance * xp"),
        ("rng.gamma(key, shape)) / rate", "rng.gamma(key, shape)) * rate"),
    ],
    ids=["variance for deviation", "scale for rate"],
)
def test_a_wrong_scale_is_noticed(old, new, monkeypatch):
    sabotaged(monkeypatch, old, new)
    assert wrong_scale()


def test_a_stale_residual_is_noticed(monkeypatch):
    sabotaged(monkeypatch, "residual[rows] += f[:, None]", "residual[rows] += 0 * f[:, None]")
    assert wrong_features(prior_draw(np.random.RandomState(2), 2))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('2 * purpose + (side == "item")', "2 * purpose"),
        ('+ (side == "item"), number)', '+ (side == "item"), 0)'),
        ("2 * purpose + (side", "0 * purpose + (side"),
        ("EFFECTS, EFFECT_PRECISION, START = 8, 9", "EFFECTS, EFFECT_PRECISION, START = SHARED_NOISE, 9"),
    ],
    ids=["by users and items", "by sweeps", "by purposes", "by effects and noise"],
)
def test_shared_random_numbers_are_noticed(old, new, monkeypatch):
    sabotaged(monkeypatch, old, new)
    with pytest.MonkeyPatch.context() as inner:
        assert shared_streams(prior_draw(np.random.RandomState(2), 2, timed=True), inner)
