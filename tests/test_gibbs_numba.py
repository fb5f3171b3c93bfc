"""Gibbs sampling in compiled code beside its reference, the same bits everywhere, and what samples say together."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import stats

from minicf import Dot, DotBias, Ratings, Recommender, Trainer, rng
from minicf.backends import numpy as plain
from minicf.backends.numba import gibbs as sweeps_of_chains
from minicf.backends.numba import normals
from minicf.backends.numba import program as compiled
from minicf.backends.numba.gibbs import GibbsProgram
from minicf.data import Batch
from minicf.registry import from_config, to_config
from minicf.solvers import Gibbs, Posterior, Solver
from minicf.solvers.gibbs import Chain
from tests import test_gibbs

SWEEPS = 4

CLOSE = 1e-9
"""Of the largest number in a table, after a few sweeps in float64. Sums in another order differ by some 1e-15, and a
sweep multiplies what differs by the condition of its matrices, hundreds at most in these tables."""


def table(n_users: int = 37, n_items: int = 23, n: int = 300, seed: int = 0) -> Ratings:
    """Ratings of most users and items; some of either have none."""
    random = np.random.RandomState(seed)
    cells = random.choice(n_users * n_items, min(n, n_users * n_items), replace=False)
    user, item = cells // n_items, cells % n_items
    biases = random.normal(size=n_users)[user] + random.normal(size=n_items)[item]
    stars = np.clip(np.round(2 * (3.0 + 0.7 * biases + 0.5 * random.normal(size=len(cells)))) / 2, 0.5, 5.0)
    return Ratings(user, item, stars, n_users, n_items)


def timed(n_users: int = 37, n_items: int = 23, n: int = 300, seed: int = 0) -> Ratings:
    """The same ratings, on one of six days each, in no order."""
    ratings = table(n_users, n_items, n, seed)
    seconds = np.random.RandomState(seed).randint(0, 6 * 86_400, size=len(ratings))
    return Ratings(ratings.user, ratings.item, ratings.rating, n_users, n_items, seconds)


def run(
    module: Any,
    model: Dot,
    solver: Gibbs,
    ratings: Ratings,
    sweeps: int = SWEEPS,
    dtype: str = "float64",
    **options: Any,
) -> Any:
    """A program after some sweeps."""
    weights = model.init_weights(ratings.n_users, ratings.n_items, 3)
    program = module.compile(model, solver, weights, 5, dtype, **options)
    data = solver.prepare(ratings)
    for epoch in range(sweeps):
        for part in solver.parts(data, 5, epoch, program):
            program.last = program.run(data, part)
    return program


def values(program: Any) -> dict[str, np.ndarray]:
    return program.state() | program.weights()


def assert_equal_to_reference(model: Dot, solver: Gibbs, ratings: Ratings) -> None:
    programs = [run(module.BACKEND, model, solver, ratings) for module in (plain, compiled)]
    assert [type(p) is GibbsProgram for p in programs] == [False, True]
    expected, got = map(values, programs)
    assert set(got) == set(expected)
    for name, value in expected.items():
        # Samples are kept in fewer digits, and may be rounded to neighbors.
        limit = {2: 2e-3, 4: 1e-6, 8: CLOSE}[value.dtype.itemsize]
        if value.size:
            assert abs(got[name].astype(float) - value).max() <= limit * max(1.0, abs(value).max()), name
    losses = [p.last.loss[0] for p in programs]
    assert losses[1] == pytest.approx(losses[0], rel=CLOSE)


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 127, 128, 129, 5000])
def test_normal_numbers_are_those_of_the_reference(n):
    got, shared = np.empty(n), np.zeros(1, np.int64)
    key = rng.key(1, rng.GIBBS, n)
    normals.normals_kernel(np.uint64(key), got, shared)
    # 2 pi u is rounded in one of them, by 4e-16, and deviations go to 8.
    np.testing.assert_allclose(got, rng.normal(key, n), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [1.0, 1.5, 6.0, 5000.0])
def test_gamma_numbers_are_those_of_the_reference(shape):
    shapes, rates = np.full(20_000, shape), np.full(20_000, 2.0)
    key = rng.key(1, rng.GIBBS)
    np.testing.assert_allclose(normals.gamma(key, shapes, rates), rng.gamma(key, shapes) / 2.0, rtol=1e-11)


@pytest.mark.parametrize("bags", ["both", "user", "item", None])
@pytest.mark.parametrize("noise", ["both", "user", "item", None])
def test_chains_equal_the_reference_with_every_switch(bags, noise):
    solver = Gibbs(2, 1, noise=noise, bags=bags, nu=4.0)
    assert_equal_to_reference(DotBias(3, global_mean=3.0), solver, table())


@pytest.mark.parametrize(
    ("kind", "k"), [(Dot, 1), (Dot, 8), (Dot, 17), (DotBias, 1), (DotBias, 7), (DotBias, 15), (DotBias, 33)]
)
def test_chains_equal_the_reference_at_every_width(kind, k):
    """Below, at and above the width of a vector, with and without biases."""
    assert_equal_to_reference(kind(k, global_mean=3.0), Gibbs(2, 1, n_chains=2), table())


@pytest.mark.parametrize(
    ("n_users", "n_items", "n"), [(1, 1, 1), (1, 30, 20), (30, 1, 20), (2, 2, 1), (16, 17, 200), (700, 300, 900)]
)
def test_chains_equal_the_reference_at_every_size(n_users, n_items, n):
    assert_equal_to_reference(DotBias(2, global_mean=3.0), Gibbs(2, 1), table(n_users, n_items, n))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(DotBias, {"n_chains": 2}), (DotBias, {"noise": None, "bags": None}), (Dot, {"noise": "item"})],
)
def test_chains_with_effects_of_days_equal_the_reference(kind, options):
    assert_equal_to_reference(kind(3, global_mean=3.0), Gibbs(2, 1, time="user_day", **options), timed())


def test_ratings_that_are_all_alike():
    assert_equal_to_reference(DotBias(2), Gibbs(2, 1), Ratings([0, 1, 1], [0, 0, 1], [3.0, 3.0, 3.0]))


def test_a_pair_that_is_rated_twice_counts_twice():
    ratings = Ratings([0, 0, 1, 0], [0, 0, 0, 1], [1.0, 5.0, 2.0, 3.0])
    assert_equal_to_reference(DotBias(2, global_mean=3.0), Gibbs(2, 1), ratings)


def test_a_chain_in_float32_is_near():
    """One sweep: rounding separates two chains in time."""
    solver, ratings = Gibbs(2, 0), table()
    expected, got = (
        values(run(compiled.BACKEND, DotBias(7, global_mean=3.0), solver, ratings, 1, dtype))
        for dtype in ("float64", "float32")
    )
    for name in ("x.user", "x.item", "weights.user", "weights.item", "noise.user", "alpha"):
        assert abs(got[name] - expected[name]).max() < 1e-4 * max(1.0, abs(expected[name]).max()), name


# --- the same bits ----------------------------------------------------------------------------------------------------


def digest(program: Any) -> str:
    found = hashlib.sha256()
    for name, value in sorted(values(program).items()):
        found.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return found.hexdigest()


FRESH = """
from tests.test_gibbs_numba import *
print(digest(run(compiled.BACKEND, DotBias(7, global_mean=3.0), Gibbs(2, 1, n_chains=2), table(700, 300, 9000), 3,
                 "float32", n_threads=2)))
"""


@pytest.mark.parametrize(("dtype", "k"), [("float32", 7), ("float64", 33)])
def test_the_same_bits_at_any_number_of_threads(dtype, k):
    ratings = table(700, 300, 9000)
    for chains in (1, 2):
        found = {
            digest(
                run(compiled.BACKEND, DotBias(k, global_mean=3.0), Gibbs(2, 1, chains), ratings, 3, dtype, n_threads=n)
            )
            for n in (1, 2, 3, 5)
        }
        assert len(found) == 1


def test_the_same_bits_of_effects_of_days_at_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(sweeps_of_chains, "PER_THREAD", 1)  # else so few ratings have one thread
    model, ratings = DotBias(7, global_mean=3.0), timed(700, 300, 9000)
    solver = Gibbs(2, 1, time="user_day")
    assert len({digest(run(compiled.BACKEND, model, solver, ratings, 3, "float32", n_threads=n)) for n in (1, 3)}) == 1


def test_the_same_bits_in_another_process():
    program = run(
        compiled.BACKEND, DotBias(7, global_mean=3.0), Gibbs(2, 1, n_chains=2), table(700, 300, 9000), 3, "float32"
    )
    printed = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == digest(program)


def test_chains_and_seeds_differ():
    program = run(compiled.BACKEND, DotBias(2), Gibbs(2, 1, n_chains=2), table())
    x = program.slots["x.user"]
    assert abs(x[0] - x[1]).max() > 0.01
    one = run(compiled.BACKEND, DotBias(2), Gibbs(2, 1), table())
    np.testing.assert_array_equal(one.slots["x.user"][0], x[0])  # a chain does not depend on how many there are


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("module", [plain, compiled])
def test_a_chain_goes_on_from_a_saved_state_to_the_same_bits(module, dtype):
    model, solver, ratings = DotBias(3, global_mean=3.0), Gibbs(3, 2), table()
    whole = run(module.BACKEND, model, solver, ratings, 5, dtype)
    first = run(module.BACKEND, model, solver, ratings, 3, dtype)
    second = module.BACKEND.compile(model, solver, model.init_weights(37, 23, 9), 5, dtype)
    second.load(first.weights(), first.state())
    before, data = second.snapshot(), solver.prepare(ratings)
    for _ in range(2):  # and again after it went back
        for epoch in (3, 4):
            for part in solver.parts(data, 5, epoch, second):
                second.run(data, part)
        assert digest(second) == digest(whole)
        second.restore(before)


@pytest.mark.parametrize("module", [plain, compiled])
def test_a_chain_with_effects_of_days_goes_on_from_a_saved_state_to_the_same_bits(module):
    model, solver, ratings = DotBias(3, global_mean=3.0), Gibbs(3, 1, 2, time="user_day"), timed()
    whole = run(module.BACKEND, model, solver, ratings, 4)
    first = run(module.BACKEND, model, solver, ratings, 2)
    second = module.BACKEND.compile(model, solver, model.init_weights(37, 23, 3), 5, "float64")
    fresh, data = second.snapshot(), solver.prepare(ratings)
    second.load(first.weights(), first.state())
    for epochs in ((2, 3), (0, 1, 2, 3)):  # and from the beginning, after it went back there
        for epoch in epochs:
            for part in solver.parts(data, 5, epoch, second):
                second.run(data, part)
        assert digest(second) == digest(whole)
        second.restore(fresh)


def test_a_checkpoint_has_effects_of_days(tmp_path):
    model, solver, ratings = DotBias(3, global_mean=3.0), Gibbs(3, 1, time="user_day"), timed()
    whole, first = (Trainer(model, solver, backend="numba", seed=5, dtype="float64") for _ in range(2))
    whole.fit(ratings, epochs=4)
    first.fit(ratings, epochs=2)
    first.save(tmp_path / "chain.npz")
    later = Trainer.load(tmp_path / "chain.npz", "numba")
    later.fit(ratings, epochs=2)
    assert later.solver == solver
    assert digest(later.program) == digest(whole.program)
    a, b = (Posterior.of(t.program).predict(ratings.user, ratings.item, ratings.timestamp) for t in (later, whole))
    np.testing.assert_array_equal(a, b)


def test_it_trains_by_the_trainer():
    solver = Gibbs(4, 2)
    trainer = Trainer(DotBias(2, global_mean=3.0), solver, backend="numba", seed=5)
    trainer.fit(table(), table(seed=1), epochs=solver.n_sweeps)
    assert isinstance(trainer.program, GibbsProgram)
    assert trainer.program.t == 6
    assert len(trainer.history) == 6


@pytest.mark.parametrize("module", [plain, compiled])
def test_where_chains_start(module):
    ratings, model = table(1000, 50, 2000), DotBias(4, global_mean=3.0)
    weights = model.init_weights(1000, 50, 3) | {"user_bias": np.full(1000, 0.5)}
    begun = []
    for solver in (Gibbs(2, 1, n_chains=2, start=0.25), Gibbs(2, 1, n_chains=2, start=None)):
        program = module.BACKEND.compile(model, solver, weights, 5, "float64")
        solver.begin(program, solver.prepare(ratings))
        begun.append(program.slots["x.user"])
    drawn, given = begun
    scale = ratings.rating.std(dtype=np.float64)
    assert (drawn[:, :, 0] == 0).all()
    assert drawn[:, :, 1:].std(axis=(1, 2)) == pytest.approx([0.25, 0.25], rel=4 / np.sqrt(2 * 4000))  # four deviations
    assert abs(np.corrcoef(drawn[0, :, 1:].ravel(), drawn[1, :, 1:].ravel())[0, 1]) < 4 / np.sqrt(4000)
    np.testing.assert_allclose(given[:, :, 0], 0.5 / scale)
    np.testing.assert_allclose(given[1, :, 1:], weights["user_factors"] / np.sqrt(scale))


# --- the distribution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [None, "user_day"])
def test_the_compiled_sweep_leaves_the_joint_distribution_as_it_is(time):
    """Geweke's test with the sweep of the kernels, from the chains and by the functions of the reference's test."""
    model, solver, programs = DotBias(1), Gibbs(1, 0, time=time), []

    def sweep(chain: Chain, seed: int, number: int) -> None:
        if not programs:
            programs.append(compiled.BACKEND.compile(model, solver, model.init_weights(4, 3), 0, "float64"))
        program = programs[0]
        names = ("x", "mean", "precision", "noise", "weights", "weight_precision")
        program.t, program.seed, program.slots["alpha"][0] = 1, 7 * seed + 1, chain.alpha
        for side, unknowns in chain.sides.items():
            for name in names:
                program.slots[f"{name}.{side}"][0] = getattr(unknowns, name)
        data = solver.prepare(
            Ratings(test_gibbs.USER, test_gibbs.ITEM, chain.rating, 4, 3, 86_400 * test_gibbs.DAY),
        )
        data = dataclasses.replace(data, rating=chain.rating)  # in float64
        if time is not None:
            solver.resize(program.slots, {"days": data.days})
            program.slots["days"][:] = data.days
            program.slots["effect"][0], program.slots["effect_precision"][0] = chain.effect, chain.effect_precision
        for part in solver.parts(data, 0, number, program):
            program.run(data, part)
        chain.alpha = float(program.slots["alpha"][0])
        if time is not None:
            chain.effect = program.slots["effect"][0].copy()
            chain.effect_precision = float(program.slots["effect_precision"][0])
        for side, unknowns in chain.sides.items():
            for name in names:
                setattr(unknowns, name, program.slots[f"{name}.{side}"][0].copy())

    assert test_gibbs.geweke(1000, 2, sweep, timed=time is not None) < test_gibbs.LIMIT


RARE = 40
"""Users with a fifth of the others' ratings."""


def planted(n_users: int, n_items: int, n: int, k: int, seed: int) -> tuple[Ratings, Ratings, float]:
    """Ratings drawn from (P0) without bags, some of them kept back, and the variance of their noise."""
    random = np.random.RandomState(seed)
    cells = random.choice(n_users * n_items, n, replace=False)
    user, item = cells // n_items, cells % n_items
    kept = (user >= RARE) | (random.uniform(size=n) < 0.2)
    user, item, n = user[kept], item[kept], int(kept.sum())
    p, q = random.normal(size=(n_users, k)), random.normal(size=(n_items, k))
    truth = 3.0 + 0.5 * random.normal(size=n_users)[user] + 0.5 * random.normal(size=n_items)[item]
    truth += 0.6 / np.sqrt(k) * (p[user] * q[item]).sum(axis=1)
    stars = truth + 0.5 * random.normal(size=n)
    train, valid = Ratings(user, item, stars, n_users, n_items).split(0.2, seed=1)
    return train, valid, 0.25


@pytest.fixture(scope="module")
def found() -> Any:
    train, valid, floor = planted(400, 200, 20_000, 2, 0)
    solver = Gibbs(100, 40)
    program = run(compiled.BACKEND, DotBias(3, global_mean=train.mean), solver, train, solver.n_sweeps, "float32")
    return Posterior.of(program), program, train, valid, floor


def test_the_posterior_mean_finds_what_was_planted(found):
    posterior, program, _, valid, floor = found
    mean, _ = posterior.predict(valid.user, valid.item)
    error = float(np.mean((mean - valid.rating) ** 2))
    # Some 3,700 squared errors of normal noise have a deviation of 2.3 % of the floor. What 15,000 ratings leave
    # unknown of 2,400 numbers adds some 2,400 / 15,000 = 16 %.
    assert floor * (1 - 3 * np.sqrt(2 / len(mean))) < error < floor * 1.25
    last = program.predict(Batch(valid.user, valid.item))
    assert error < float(np.mean((last - valid.rating) ** 2)), "the mean is better than a sample"


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_intervals_cover_their_share(found, share):
    posterior, _, _, valid, _ = found
    mean, deviation = posterior.predict(valid.user, valid.item)
    inside = np.mean(abs(valid.rating - mean) < stats.norm.ppf(0.5 + share / 2) * deviation)
    # Four deviations of a binomial share.
    assert abs(inside - share) < 4 * np.sqrt(share * (1 - share) / len(mean))


def test_a_pair_of_less_known_rows_is_less_certain(found):
    posterior, _, _, valid, _ = found
    _, deviation = posterior.predict(valid.user, valid.item)
    rare = valid.user < RARE
    assert deviation[rare].mean() > 1.1 * deviation[~rare].mean()


def test_effects_of_days_that_were_planted_are_found():
    train, valid, floor = planted(100, 100, 8000, 1, 0)
    random = np.random.RandomState(1)
    days, effect = random.randint(0, 4, size=(100, 100)), 0.7 * random.normal(size=(100, 4))

    def dated(r: Ratings) -> Ratings:
        d = days[r.user, r.item]
        return Ratings(r.user, r.item, r.rating + effect[r.user, d], 100, 100, 86_400 * d + 7)

    train, valid = dated(train), dated(valid)
    solver = Gibbs(100, 40, time="user_day")
    program = run(compiled.BACKEND, DotBias(2, global_mean=train.mean), solver, train, solver.n_sweeps, "float32")
    posterior = Posterior.of(program)
    errors = []
    for timestamp in (valid.timestamp, None):
        mean, deviation = posterior.predict(valid.user, valid.item, timestamp)
        errors.append(float(np.mean((mean - valid.rating) ** 2)))
        inside = np.mean(abs(valid.rating - mean) < stats.norm.ppf(0.95) * deviation)
        assert abs(inside - 0.9) < 4 * np.sqrt(0.9 * 0.1 / len(mean))  # four deviations of a share
    # A user-day has some 12 ratings of noise 0.25, which leave 0.02 of its effect unknown, a row as much; 0.07 of the
    # few that have a fifth. Without timestamps all of the effects' variance, 0.49, is error.
    assert errors[0] < 1.4 * floor
    assert errors[1] > floor + 0.8 * 0.49
    # tau, in the unit of deviation: four deviations of a variance of 400 numbers.
    assert np.mean(posterior.effect_precision) == pytest.approx(posterior.scale**2 / 0.49, rel=4 * np.sqrt(2 / 400))
    unknown = posterior.predict(valid.user, valid.item, np.full(len(valid), 86_400 * 99))
    np.testing.assert_array_equal(unknown, posterior.predict(valid.user, valid.item))
    np.testing.assert_array_equal(  # users that moved have their days with them
        posterior.grown("user", np.arange(100)[::-1] + 3, 110).predict(102 - valid.user, valid.item, valid.timestamp),
        posterior.predict(valid.user, valid.item, valid.timestamp),
    )


# --- the small model --------------------------------------------------------------------------------------------------


def every_pair(posterior: Posterior) -> np.ndarray:
    """(users, items): the mean (P8), from its definition."""
    total: Any = 0.0
    for x, w in zip(*(posterior.samples[side].astype(np.float64) for side in ("user", "item")), strict=True):
        total = total + (x[:, 1:] @ w[:, 1:].T + x[:, :1] + w[:, 0] if posterior.biases else x @ w.T)
    return posterior.mean + posterior.scale * total / len(posterior.alpha)


def score(model: DotBias, weights: dict[str, np.ndarray]) -> np.ndarray:
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    return model.global_mean + w["user_factors"] @ w["item_factors"].T + w["user_bias"][:, None] + w["item_bias"]


def best(mean: np.ndarray, rank: int) -> float:
    """The least error of biases and a matrix of some rank: what is left of the table without its means."""
    rest = mean - mean.mean(axis=0) - mean.mean(axis=1, keepdims=True) + mean.mean()
    return float(np.sqrt((np.linalg.svd(rest)[1][rank:] ** 2).sum()))


@pytest.mark.parametrize("kind", [Dot, DotBias])
@pytest.mark.parametrize(("n_users", "n_items", "n", "rank"), [(37, 23, 300, 4), (23, 37, 300, 16), (90, 80, 900, 4)])
def test_the_small_model_is_the_nearest(kind, n_users, n_items, n, rank):
    """Fewer rows than columns of samples, and more."""
    solver = Gibbs(12, 8, n_chains=2)
    ratings = table(n_users, n_items, n)
    posterior = Posterior.of(run(compiled.BACKEND, kind(3, global_mean=3.0), solver, ratings, 20))
    assert len(posterior.alpha) == 24
    mean = every_pair(posterior)
    error = float(np.sqrt(((score(*posterior.compress(rank)) - mean) ** 2).sum()))
    # Weights in float32 have 7 digits.
    assert error == pytest.approx(best(mean, rank), rel=1e-5, abs=1e-5 * np.sqrt(mean.size))


def test_a_rank_that_is_not_to_be_had_is_filled_up_with_zeros():
    posterior = Posterior.of(run(compiled.BACKEND, DotBias(1, global_mean=3.0), Gibbs(2, 1), table(5, 40, 60), 3))
    model, weights = posterior.compress(16)
    assert weights["user_factors"].shape == (5, 16)
    assert not weights["user_factors"][:, 2:].any()
    np.testing.assert_allclose(score(model, weights), every_pair(posterior), atol=1e-5)


def test_one_user_or_one_item_can_be_compressed():
    for sizes in ((1, 8), (8, 1), (1, 1)):
        posterior = Posterior.of(run(compiled.BACKEND, DotBias(2, global_mean=3.0), Gibbs(3, 1), table(*sizes, 8), 4))
        np.testing.assert_allclose(score(*posterior.compress()), every_pair(posterior), atol=1e-5)


def test_predictions_are_means_and_deviations_over_samples():
    posterior = Posterior.of(run(compiled.BACKEND, DotBias(2, global_mean=3.0), Gibbs(5, 1), table(), 6))
    user, item = (x.ravel() for x in np.indices((37, 23)))
    mean, deviation = posterior.predict(user, item)
    each, noise = [], []
    for s in range(5):
        x, w = (posterior.samples[side][s].astype(np.float64) for side in ("user", "item"))
        each.append(3.0 + posterior.scale * (x[:, 1:] @ w[:, 1:].T + x[:, :1] + w[:, 0]))
        precision = posterior.alpha[s] * np.outer(posterior.noise["user"][s], posterior.noise["item"][s])
        noise.append(posterior.scale**2 / precision)
    np.testing.assert_allclose(mean, np.clip(each, posterior.low, posterior.high).mean(axis=0).ravel(), rtol=1e-5)
    expected = np.sqrt(np.var(each, axis=0) + np.mean(noise, axis=0)).ravel()
    np.testing.assert_allclose(deviation, expected, rtol=1e-5)


def test_predictions_have_the_effect_of_a_known_day_and_the_doubt_of_another():
    ratings, solver = timed(), Gibbs(5, 1, time="user_day")
    posterior = Posterior.of(run(compiled.BACKEND, DotBias(2, global_mean=3.0), solver, ratings, 6))
    user, item = np.array([*ratings.user[[0, 5]], -1, 4]), np.array([1, 2, 3, 22])
    time = np.array([*ratings.timestamp[[0, 5]] // 86_400 * 86_400 + 5, 0, 86_400 * 6])
    place = [
        np.flatnonzero((posterior.days == [[u], [t // 86_400]]).all(axis=0)) for u, t in zip(user, time, strict=True)
    ]
    assert [len(p) for p in place] == [1, 1, 0, 0]
    free = dataclasses.replace(posterior, low=-99.0, high=99.0)
    with_days, without = free.predict(user, item, time), free.predict(user, item)
    plain_samples = dataclasses.replace(free, days=None, effect=None, effect_precision=None).predict(user, item)
    np.testing.assert_array_equal(without[0], plain_samples[0])
    doubt = posterior.scale**2 * np.mean(1 / posterior.effect_precision)
    np.testing.assert_allclose(without[1] ** 2, plain_samples[1] ** 2 + doubt, rtol=1e-9)
    np.testing.assert_array_equal(np.array(with_days)[:, 2:], np.array(without)[:, 2:])
    for pair in range(2):
        t = posterior.effect[:, place[pair][0]].astype(np.float64)
        x, w = posterior.samples["user"][:, user[pair]], posterior.samples["item"][:, item[pair]]
        x, w = x.astype(np.float64), w.astype(np.float64)
        y = posterior.scale * (x[:, 0] + w[:, 0] + (x[:, 1:] * w[:, 1:]).sum(axis=1) + t)
        noise = posterior.noise["user"][:, user[pair]] * posterior.noise["item"][:, item[pair]] * posterior.alpha
        assert with_days[0][pair] == pytest.approx(3.0 + y.mean(), rel=1e-5)
        assert with_days[1][pair] == pytest.approx(np.sqrt(y.var() + posterior.scale**2 * np.mean(1 / noise)), rel=1e-5)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n_samples": 0}, "n_samples is 0; it must be a whole number of at least 1"),
        ({"burn_in": -1}, "burn_in is -1; it must be a whole number of at least 0"),
        ({"n_chains": 1.5}, "n_chains is 1.5; it must be a whole number of at least 1"),
        ({"nu": 1}, "nu is 1; it must be at least 2"),
        ({"nu": None}, "nu is None; it must be a number"),
        ({"noise": "users"}, "noise is 'users'; it must be one of"),
        ({"bags": True}, "bags is True; it must be one of"),
        ({"start": 0.0}, "start is 0; it must be"),
        ({"time": "day"}, "time is 'day'; it must be one of"),
    ],
)
def test_wrong_arguments_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Gibbs(**options)


@pytest.mark.parametrize("model", ["net", "range"])
def test_a_model_that_it_cannot_draw_is_refused(model):
    from minicf import Net

    made = Net(2, hidden=3) if model == "net" else DotBias(2, rating_range=(1, 5))
    with pytest.raises(ValueError, match="Gibbs draws a Dot or a DotBias without rating_range"):
        Trainer(made, Gibbs())


def test_effects_of_days_need_timestamps():
    solver, ratings = Gibbs(2, 1, time="user_day"), timed()
    with pytest.raises(ValueError, match=r"timestamp is None; .* needs the time of each rating"):
        solver.prepare(table())
    program = run(plain.BACKEND, DotBias(2), solver, ratings, 2)
    with pytest.raises(ValueError, match="they must be those that it began with"):
        program.run(solver.prepare(timed(seed=1)), next(solver.parts(None, 5, 2, program)))
    posterior = Posterior.of(program)
    user, item = ratings.user[:2], ratings.item[:2]
    for timestamp in (np.array([1.5, 2.5]), np.array([1, 2, 3])):
        with pytest.raises(ValueError, match=r"it must be whole seconds, of shape \(2,\)"):
            posterior.predict(user, item, timestamp)
    without = Posterior.of(run(plain.BACKEND, DotBias(2), Gibbs(2, 1), ratings, 2))
    with pytest.raises(ValueError, match="these samples have no effects of days"):
        without.predict(user, item, np.array([1, 2]))


def test_a_recommender_refuses_effects_of_days():
    with pytest.raises(ValueError, match="a Recommender does not know the day of a rating that it predicts"):
        Recommender(solver=Gibbs(time="user_day")).fit(timed())


def test_samples_before_the_burn_in_has_ended_are_refused():
    program = run(compiled.BACKEND, DotBias(2), Gibbs(3, 2), table(), 2)
    with pytest.raises(ValueError, match="2 sweeps were drawn; it must be more than burn_in, 2"):
        Posterior.of(program)


def test_samples_of_an_interrupted_chain_are_those_drawn():
    ratings, model = table(), DotBias(2, global_mean=3.0)
    short = Posterior.of(run(compiled.BACKEND, model, Gibbs(9, 2), ratings, 5))
    assert short.samples["user"].shape == (3, 37, 3)
    longer = Posterior.of(run(compiled.BACKEND, model, Gibbs(3, 2), ratings, 5))
    np.testing.assert_array_equal(short.samples["item"], longer.samples["item"])


def test_a_file_can_name_it():
    solver = Gibbs(7, 3, 2, 5.0, "user", None, None, "user_day")
    assert from_config(to_config(solver), Solver, "solver") == solver
