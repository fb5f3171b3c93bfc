"""Alternating least squares: the reference beside its objective (A1) … (A8), and what training promises of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minicf import Dot, DotBias, EarlyStopping, HeldOutRecall, Model, Net, Ratings, Trainer
from minicf.data import Bags
from minicf.data.ratings import Vocabulary
from minicf.registry import from_config, to_config
from minicf.solvers import ALS, Solver
from minicf.solvers.als import Basis, Pairs, objective, shares, solve_rows
from minicf.train.held_out import recall

SOLVERS = {
    "implicit": (Dot(4), ALS(0.03, 0.2, 0.7)),
    "more factors than events": (Dot(12), ALS(0.02, 0.05, 1.0)),
    "stars": (Dot(3, global_mean=0.4), ALS(0.1, 0.0, 0.5)),
    "stars, biases": (DotBias(3, global_mean=0.4), ALS(0.1, 0.0, 1.0)),
}


def table(weighted: bool = True, n_users: int = 14, n_items: int = 11, n: int = 70, seed: int = 1) -> Ratings:
    """Pairs with targets 0 and 1; the last user and the last item have none, and one weight is 0."""
    random = np.random.RandomState(seed)
    cells = random.permutation((n_users - 1) * (n_items - 1))[:n]
    weight = random.choice([0.5, 1.0, 2.0, 3.0], n)
    weight[3] = 0.0
    target = (random.uniform(size=n) < 0.9).astype(np.float32)
    user, item = np.divmod(cells, n_items - 1)
    return Ratings(user, item, target, n_users, n_items, weight=weight if weighted else None)


def fit(model: Model, solver: ALS, ratings: Ratings, epochs: int = 2, **options: Any) -> Trainer:
    trainer = Trainer(model, solver, **{"backend": "numpy", "dtype": "float64", "seed": 3} | options)
    trainer.fit(ratings, epochs=epochs)
    return trainer


def by_hand(solver: ALS, w: dict[str, np.ndarray], ratings: Ratings, mean: float) -> float:
    """(A1) pair by pair."""
    p, q = w["user_factors"], w["item_factors"]
    b, c = (w.get(f"{side}_bias", np.zeros(len(x))) for side, x in (("user", p), ("item", q)))
    weight = np.ones(len(ratings)) if ratings.weight is None else ratings.weight
    total, sums = 0.0, (np.zeros(len(p)), np.zeros(len(q)))
    for u, i, t, x in zip(ratings.user, ratings.item, ratings.rating, weight, strict=True):
        total += x * (float(t) - mean - b[u] - c[i] - p[u] @ q[i]) ** 2
        sums[0][u] += x
        sums[1][i] += x
    total += solver.unobserved * sum((p[u] @ q[i]) ** 2 for u in range(len(p)) for i in range(len(q)))
    for n, rows, bias, n_other in ((sums[0], p, b, len(q)), (sums[1], q, c, len(p))):
        for r in range(len(rows)):
            weighs = solver.regularization * (n[r] + solver.unobserved * n_other) ** solver.exponent
            total += weighs * (rows[r] @ rows[r] + bias[r] ** 2)
    return total


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("weighted", [True, False])
def test_objective_and_history_are_a1(name, weighted):
    model, solver = SOLVERS[name]
    ratings = table(weighted)
    trainer = fit(model, solver, ratings)
    true = by_hand(solver, trainer.weights, ratings, model.global_mean)
    assert objective(solver, trainer.weights, ratings, model.global_mean) == pytest.approx(true, rel=1e-12)
    row = trainer.history[-1]
    assert (row["train_mse"] + row["penalty"]) * len(ratings) == pytest.approx(true, rel=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_half_an_iteration_is_at_the_minimum(name):
    """(A2) is 0, by finite differences of (A1), for the side that was solved last, and not for the other."""
    model, solver = SOLVERS[name]
    ratings = table()
    w = fit(model, solver, ratings).weights

    def slope(name: str, at: tuple[int, ...]) -> float:
        step, found = 1e-4, []
        for sign in (1, -1):
            moved = w | {name: w[name].copy()}
            moved[name][at] += sign * step
            found.append(objective(solver, moved, ratings, model.global_mean))
        return (found[0] - found[1]) / (2 * step)

    items = [slope("item_factors", (row, -1)) for row in range(10)]
    items += [slope("item_bias", (0,))] if "item_bias" in w else []
    users = [slope("user_factors", (row, -1)) for row in range(10)]
    assert np.abs(items).max() < 1e-8 < 1e-4 < np.abs(users).max()


def test_slope_is_a2():
    """(A2) at weights that are no minimum."""
    _, solver = SOLVERS["implicit"]
    ratings = table()
    w = Dot(4, init=("normal", 0.0, 1.0)).init_weights(14, 11, 5)
    p, q = w["user_factors"], w["item_factors"]
    pairs, u = Pairs.of(ratings, "user"), 2
    at = slice(pairs.start[u], pairs.start[u + 1])
    h, c, t = q[pairs.index[at]], pairs.weight[at], pairs.target[at]
    slope = 2 * (h.T @ (c * (h @ p[u] - t)) + solver.unobserved * q.T @ q @ p[u] + solver.ridge(c.sum(), 11) * p[u])
    for k in range(4):
        values = []
        for step in (1e-4, -1e-4):
            moved = w | {"user_factors": p.copy()}
            moved["user_factors"][u, k] += step
            values.append(objective(solver, moved, ratings))
        assert (values[0] - values[1]) / 2e-4 == pytest.approx(slope[k], rel=1e-7)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_objective_never_rises(name):
    model, solver = SOLVERS[name]
    ratings = table()
    trainer = fit(model, solver, ratings, epochs=1)
    program, data, found = trainer.program, solver.prepare(ratings), []
    for epoch in range(4):
        for part in solver.parts(data, 3, epoch, program):
            found.append(objective(solver, program.w, ratings, model.global_mean))
            program.run(data, part)
    assert (np.diff(found) < 1e-12 * found[0]).all()
    assert found[-1] < 0.9999 * found[0]


def test_rows_are_those_of_a_dense_solve():
    """(A3) as it stands, without the eigenbasis, for rows on both sides of n = K, one without pairs and one of weight
    0."""
    solver, random = ALS(0.03, 0.2, 0.7), np.random.RandomState(0)
    q = random.normal(size=(30, 6))
    sizes = [2, 0, 6, 7, 20, 1]
    index = np.concatenate([random.permutation(30)[:n] for n in sizes]).astype(np.int32)
    bags = Bags(np.concatenate([[0], np.cumsum(sizes)]), index)
    target, weight = random.normal(size=len(index)), random.uniform(0.5, 2.0, len(index))
    weight[-1] = 0.0
    found = solve_rows(solver, q, bags, target, weight)
    for row, (lo, hi) in enumerate(zip(bags.start[:-1], bags.start[1:], strict=True)):
        h, c = q[index[lo:hi]], weight[lo:hi]
        dense = solver.unobserved * q.T @ q + solver.ridge(c.sum(), 30) * np.eye(6) + (h.T * c) @ h
        assert found[row] == pytest.approx(np.linalg.solve(dense, h.T @ (c * target[lo:hi])), rel=1e-10, abs=1e-12)
    assert not found[[1, 5]].any()
    again = solve_rows(solver, q, bags, target, weight, Basis.of(q, 0.2))
    assert np.array_equal(again, found)


@pytest.mark.parametrize("n", [3, 6, 15])
@pytest.mark.parametrize("unobserved", [0.0, 0.2])
def test_shares_add_up_to_the_score_and_are_linear(n, unobserved):
    solver, random = ALS(0.03, unobserved), np.random.RandomState(n)
    q, index = random.normal(size=(30, 6)), random.permutation(30)[:n]
    target, weight = random.normal(size=n), random.uniform(0.5, 2.0, n)
    found = shares(solver, q, 7, index, target, weight)
    bags = Bags(np.array([0, n]), index)
    assert found.sum() == pytest.approx(q[7] @ solve_rows(solver, q, bags, target, weight)[0], rel=1e-10)
    for j in range(n):  # the share of an event is what the score loses without its target
        without = solve_rows(solver, q, bags, np.where(np.arange(n) == j, 0.0, target), weight)[0]
        assert found.sum() - q[7] @ without == pytest.approx(found[j], rel=1e-8, abs=1e-12)
    assert shares(solver, q, 7, index[:0], target[:0]).shape == (0,)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_weight_is_a_number_of_events(name):
    model, solver = SOLVERS[name]
    ratings = table()
    times = np.random.RandomState(0).randint(1, 4, len(ratings))
    weighted = Ratings(ratings.user, ratings.item, ratings.rating, 14, 11, weight=times)
    rows = np.repeat(np.arange(len(ratings)), times)
    repeated = Ratings(ratings.user[rows], ratings.item[rows], ratings.rating[rows], 14, 11)
    a, b = fit(model, solver, weighted).weights, fit(model, solver, repeated).weights
    for key, value in a.items():
        assert b[key] == pytest.approx(value, rel=1e-9, abs=1e-12), key


def test_permuted_users_have_permuted_rows():
    solver, ratings = ALS(0.03, 0.2, start=None), table()
    order = np.random.RandomState(0).permutation(14)
    moved = Ratings(order[ratings.user], ratings.item, ratings.rating, 14, 11, weight=ratings.weight)
    w = Dot(4, init=("normal", 0.0, 0.1)).init_weights(14, 11, 5)
    a = fit(Dot(4), solver, ratings, weights=w).weights
    b = fit(Dot(4), solver, moved, weights=w).weights
    # Signs of eigenvectors are fixed, so that not only scores are the same.
    assert b["user_factors"][order] == pytest.approx(a["user_factors"], rel=1e-8, abs=1e-10)
    assert b["item_factors"] == pytest.approx(a["item_factors"], rel=1e-8, abs=1e-10)


def test_start_is_by_counter_and_not_the_models():
    ratings = table()
    first = fit(Dot(4), ALS(), ratings, epochs=1).weights
    far = fit(Dot(4, init=("normal", 5.0, 1.0)), ALS(), ratings, epochs=1).weights
    assert all(np.array_equal(first[key], far[key]) for key in first)
    other_seed = fit(Dot(4), ALS(), ratings, epochs=1, seed=4).weights
    assert not np.allclose(other_seed["item_factors"], first["item_factors"])
    trainer = Trainer(Dot(400), ALS(start=0.2), backend="numpy", seed=3)
    trainer.fit(ratings, epochs=0)
    program = trainer.program
    program.solver.begin(program, program.solver.prepare(ratings))
    assert program.w["item_factors"].std() == pytest.approx(0.2 / 20, rel=0.05)


def test_rows_without_events_are_zero_and_training_in_float32_is_as_good():
    model, solver = SOLVERS["implicit"]
    w = fit(model, solver, table(), dtype="float32").weights
    assert w["user_factors"].dtype == np.float32
    assert not w["user_factors"][-1].any()
    assert not w["item_factors"][-1].any()
    exact = fit(model, solver, table()).weights
    scores = [x["user_factors"] @ x["item_factors"].T for x in (w, exact)]
    assert scores[0] == pytest.approx(scores[1], abs=2e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_checkpoint_goes_on_bit_for_bit(name, tmp_path):
    model, solver = SOLVERS[name]
    whole = fit(model, solver, table(), epochs=4)
    part = fit(model, solver, table(), epochs=2)
    part.save(tmp_path / "c.npz")
    back = Trainer.load(tmp_path / "c.npz", backend="numpy")
    back.fit(table(), epochs=2)
    assert all(np.array_equal(back.weights[key], value) for key, value in whole.weights.items())
    assert [row["train_mse"] for row in back.history.rows] == [row["train_mse"] for row in whole.history.rows]


def test_settings_are_checked_and_kept():
    solver = ALS(0.5, 0, 0.25, None)
    assert from_config(to_config(solver), Solver, "solver") == solver
    for arguments, message in (
        ({"regularization": 0}, "regularization is 0; it must be above 0"),
        ({"unobserved": -0.1}, "unobserved is -0.1; it must be at least 0"),
        ({"exponent": "1"}, "exponent is '1'; it must be a number"),
        ({"start": 0.0}, "start is 0; it must be above 0"),
        ({"regularization": None}, "regularization is None"),
    ):
        with pytest.raises(ValueError, match=message):
            ALS(**arguments)


@pytest.mark.parametrize(
    ("model", "unobserved", "message"),
    [
        (Net(4), 0.0, "ALS solves for a Dot or a DotBias without rating_range"),
        (Dot(4, rating_range=(0.0, 5.0)), 0.0, "without rating_range"),
        (DotBias(4), 0.1, r"it must be a Dot with global_mean=0 where unobserved is above 0 \(0.1\)"),
        (Dot(4, global_mean=3.0), 0.1, "unobserved=0 fits ratings"),
    ],
)
def test_models_that_it_does_not_solve_for(model, unobserved, message):
    with pytest.raises(ValueError, match=message):
        Trainer(model, ALS(unobserved=unobserved), backend="numpy")


def test_ids_stay_with_the_trainer():
    ratings = table()
    trainer = fit(Dot(4), ALS(), ratings, epochs=1)
    assert isinstance(trainer.users, Vocabulary)
    with pytest.raises(ValueError, match="has no learning rate"):
        trainer.lr = 0.1


# --- when to stop -----------------------------------------------------------------------------------------------------


def groups(seed: int = 0) -> tuple[Ratings, Ratings]:
    """Users who take most items of their own of four groups, in two parts."""
    random = np.random.RandomState(seed)
    user, item = np.nonzero((np.arange(80)[:, None] % 4 == np.arange(40) % 4) & (random.uniform(size=(80, 40)) < 0.8))
    more = random.randint(0, 40, 80)
    ratings = Ratings(np.append(user, np.arange(80)), np.append(item, more), np.ones(len(user) + 80), 80, 40)
    return ratings.split(0.2, seed=seed)


def test_recall_of_lists_by_hand():
    held = Bags(np.array([0, 2, 3]), np.array([4, 9, 0]))
    assert recall(np.array([[9, 1, 2], [3, 5, -1]]), held) == 0.25
    assert recall(np.array([[9, 4], [0, -1]]), held) == 1.0


def test_training_stops_where_lists_are_best_and_keeps_those_weights():
    train, valid = groups()
    measured = HeldOutRecall(train, valid, k=5)
    best = EarlyStopping(1, monitor="valid_recall", mode="max")
    trainer = Trainer(Dot(16), ALS(0.001, 0.01), backend="numpy", seed=1)
    rows = trainer.fit(train, valid, epochs=12, callbacks=[measured, best]).rows
    column = [row["valid_recall"] for row in rows]
    assert len(rows) == best.best_epoch + 1 < 12
    assert best.best == max(column) == column[best.best_epoch - 1] > column[-1] - 1e-12
    scores = trainer.weights["user_factors"] @ trainer.weights["item_factors"].T
    scores[train.user, train.item] = -np.inf
    lists, held = np.argsort(-scores, axis=1)[:, :5], Bags.history(valid, "user")
    each = [np.isin(held.index[a:b], lists[u]).mean()
            for u, (a, b) in enumerate(zip(held.start[:-1], held.start[1:], strict=True)) if b > a]  # fmt: skip
    assert np.mean(each) == pytest.approx(best.best, rel=1e-12)


def test_recall_of_some_users_and_what_is_refused():
    train, valid = groups()
    assert len(HeldOutRecall(train, valid, n_users=7)._users) == 7
    with pytest.raises(ValueError, match="valid has no row with a rating above 0"):
        HeldOutRecall(train, Ratings([0], [0], [0.0], train.users, train.items))
    with pytest.raises(ValueError, match="mode is 'highest'"):
        EarlyStopping(mode="highest")
