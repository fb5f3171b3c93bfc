"""Losses with sampled negatives: their derivatives, what is drawn, the same in every place and after a resume."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minicf
from minicf import BPR, SGD, Adam, Dot, DotBias, Hybrid, Logistic, Net, Ratings, SVDpp, Trainer, UnitDot
from minicf.checking import check_gradients
from minicf.data import Batch, Candidates, Draw
from minicf.solvers import Gradient
from minicf.tiles import Tiles
from tests import cases
from tests.cuda import emulator, standin

RANKING = {"logistic": Logistic(3, 0.7), "bpr": BPR(), "bpr-4": BPR(4)}

MODELS = {
    "dot": Dot(3),
    "bias": DotBias(3, rating_range=(-2.0, 3.0), global_mean=0.2),
    "unit": UnitDot(3, scale=2.0),
    "net": Net(3, hidden=(5,), dropout=(0.2, 0.3)),
    "hybrid": Hybrid({"a": (DotBias(3), 0.3), "b": (Net(3, hidden=(4,)), 1.0)}),
    "svdpp": SVDpp(3, history="user"),
}


def events(n_users: int = 30, n_items: int = 40, share: float = 0.15, seed: int = 0, weighted: bool = False) -> Ratings:
    """A table of events: some users with many, one with none, one with all but one item."""
    random = np.random.RandomState(seed)
    taken = random.uniform(size=(n_users, n_items)) < share * random.uniform(0.2, 1.8, (n_users, 1))
    taken[0], taken[1] = False, True
    taken[1, 7] = False
    user, item = np.nonzero(taken)
    shuffled = random.permutation(len(user))
    weight = random.uniform(0.1, 2.0, len(user)) if weighted else None
    return Ratings(user[shuffled], item[shuffled], np.ones(len(user)), n_users, n_items, weight=weight)


def candidates(table: Ratings) -> Candidates:
    return Candidates.of(table, table.n_users, table.n_items)


def trained(model, solver=None, table=None, epochs=2, **arguments) -> Trainer:
    arguments = {"backend": "numpy", "dtype": "float64", "seed": 3, "loss": BPR(2)} | arguments
    trainer = Trainer(model, SGD(0.05) if solver is None else solver, **arguments)
    trainer.fit(events() if table is None else table, epochs=epochs, progress=False)
    return trainer


# --- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("loss", RANKING)
def test_gradients_of_every_model(loss, model):
    report = check_gradients(MODELS[model], loss=RANKING[loss], method="full")
    assert report.ok, report
    assert report.frame().largest.max() > 1e-3, "a dead model proves nothing"


def test_losses_by_hand():
    """An event of output 1 and target r beside negatives of outputs 2 and -1."""
    y, sigma = np.array([[1.0, 2.0, -1.0]]), lambda x: 1 / (1 + math.exp(-x))
    soft = lambda x: math.log(1 + math.exp(x))  # noqa: E731
    for r in (1.0, 0.25, 0.0):
        value, slope = Logistic(2, 0.5).compare(y, np.array([r]))
        assert math.isclose(value[0], soft(1) - r + 0.25 * (soft(2) + soft(-1)), rel_tol=1e-14)  # (F11)
        np.testing.assert_allclose(slope[0], [sigma(1) - r, 0.25 * sigma(2), 0.25 * sigma(-1)], rtol=1e-14)  # (B11)
        value, slope = BPR(2).compare(y, np.array([r]))
        assert math.isclose(value[0], r / 2 * (soft(1) + soft(-2)), rel_tol=1e-14)  # (F12)
        np.testing.assert_allclose(slope[0, 1:], [r / 2 * sigma(1), r / 2 * sigma(-2)], rtol=1e-14)  # (B12)
        assert slope[0, 0] == -slope[0, 1:].sum()
        assert (Logistic(2).compare(y, np.array([0.0]))[1] > 0).all(), "a dislike pushes nothing up"
    with np.errstate(all="raise", under="ignore"):
        assert BPR().compare(np.array([[1e4, -1e4], [-1e4, 1e4]]), np.ones(2))[0].tolist() == [0.0, 2e4]


def test_measures_by_hand():
    y, target = np.array([[2.0, 1.0, 2.0], [0.0, 1.0, -1.0], [5.0, 9.0, 9.0]]), np.array([1.0, 1.0, 0.0])
    found = BPR(2).measures(y, target)
    assert found["auc"] == (1 + 0.5 + 0 + 1) / 4  # ties a half; a dislike is none of the lists' business
    assert found["bpr"] == BPR(2).compare(y, target)[0].mean()
    assert set(Logistic(2).measures(y, target)) == {"log_loss", "auc"}
    assert set(Logistic().measures(y[:, 0], target)) == {"log_loss", "accuracy"}
    assert math.isnan(BPR(2).measures(y[2:], target[2:])["auc"])


def test_length_has_no_influence_on_a_unit_dot():
    model, w = UnitDot(3), UnitDot(3).init_weights(4, 5, seed=1)
    pairs = Batch(np.array([0, 1, 3]), np.array([4, 4, 0]))
    y = model.predict(w, pairs)
    longer = {"user_factors": 3 * w["user_factors"], "item_factors": 0.5 * w["item_factors"]}
    np.testing.assert_allclose(model.predict(longer, pairs), y, rtol=1e-12)
    assert (np.abs(y) <= 10).all()
    p, q = w["user_factors"][0], w["item_factors"][4]
    assert math.isclose(y[0], 10 * p @ q / np.linalg.norm(p) / np.linalg.norm(q))
    scores = np.empty((4, 5), np.float32)
    model.scorer(w)(np.arange(4), scores)
    np.testing.assert_allclose(scores[[0, 1, 3], [4, 4, 0]], y, rtol=1e-5)
    zero = {name: 0 * x for name, x in w.items()}
    assert (model.predict(zero, pairs) == 0).all()


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_no_seen_item_is_drawn_and_unseen_ones_are_alike():
    """20,000 draws for each of three users; chi-square of I - n_u - 1 degrees of freedom, at most its mean + 4 sd.

    The bound is passed by chance once in 10^4 (the statistic is normal enough there), and the seed is fixed. They have
    seen a tenth at most, so that the last of 8 tries is seen once in 10^8.
    """
    table = events(n_items=100, share=0.06)
    which, n = np.array([5, 9, 20], np.int32), 20_000
    batch = Batch(np.repeat(which, n // 4), np.zeros(3 * n // 4, np.int32))
    drawn = Draw(7, 1, candidates(table)).negatives(batch, 4)
    assert drawn.dtype == np.int32
    for user in which:
        seen = table.item[table.user == user]
        counts = np.bincount(drawn[batch.user == user].ravel(), minlength=table.n_items)
        assert 3 < len(seen) <= 10
        assert (counts[seen] == 0).all()
        unseen = np.delete(counts, seen)
        expected, free = n / len(unseen), len(unseen) - 1
        assert ((unseen - expected) ** 2 / expected).sum() < free + 4 * math.sqrt(2 * free)


def test_a_user_who_has_seen_nearly_all_or_all_is_given_something():
    table = events()
    batch = Batch(np.full(500, 1, np.int32), np.zeros(500, np.int32))
    drawn = Draw(0, 1, candidates(table)).negatives(batch, 4).ravel()  # all but item 7
    assert np.isclose((drawn == 7).mean(), 1 - (39 / 40) ** 8, atol=0.04)  # 8 tries; 4 sd of 2000 draws
    everything = Ratings([0, 0, 0], [0, 1, 2], np.ones(3), 1, 3)
    assert np.isfinite(trained(Dot(2), table=everything).weights["item_factors"]).all()


def test_negatives_are_those_of_the_counter():
    """The formula, number by number, with rejected ones from the next stream."""
    table, m, seed, step = events(), 3, 11, 5
    found = candidates(table)
    batch = Batch(table.user[:50], table.item[:50])
    pairs = set(zip(table.user.tolist(), table.item.tolist(), strict=True))
    expected = []
    for b, user in enumerate(batch.user.tolist()):
        for j in range(m):
            for attempt in range(8):
                bits = int(minicf.rng.bits(minicf.rng.key(seed, minicf.rng.NEGATIVE, attempt, step),
                                           np.array([b * m + j], np.uint64))[0])  # fmt: skip
                item = ((bits >> 32) * table.n_items) >> 32
                if (user, item) not in pairs:
                    break
            expected.append(item)
    assert Draw(seed, step, found).negatives(batch, m).ravel().tolist() == expected
    assert Draw(seed, step + 1, found).negatives(batch, m).ravel().tolist() != expected


def test_holds_finds_what_lists_have():
    table = events()
    seen = candidates(table).seen
    user, item = (x.ravel() for x in np.mgrid[: table.n_users, : table.n_items])
    expected = np.zeros((table.n_users, table.n_items), bool)
    expected[table.user, table.item] = True
    np.testing.assert_array_equal(seen.holds(user, item), expected.ravel())
    assert not minicf.Bags.empty(3).holds(np.arange(3), np.arange(3)).any()


def test_in_tiles_they_come_from_the_block_of_the_event():
    table = events(60, 90, 0.3)
    tiles = Tiles(table, 4)
    start, blocks = tiles.candidates.start, []
    assert start[0] == 0
    assert start[-1] == 90
    drawn = Draw(0, 1, tiles.candidates).negatives(tiles.table, 2)
    of_event = np.searchsorted(start, tiles.item, side="right") - 1
    np.testing.assert_array_equal(
        np.searchsorted(start, drawn, side="right") - 1, np.repeat(of_event, 2).reshape(-1, 2)
    )
    for r in range(4):
        blocks += [set(of_event[tiles.start[r, b] : tiles.start[r, b + 1]]) for b in range(4)]
    assert all(len(block) <= 1 for block in blocks), "a tile has the items of one block"
    assert len(np.unique(drawn)) > 60


def test_the_module_of_the_arrays_does_not_matter():
    if emulator.missing():
        pytest.skip(str(emulator.missing()))
    table = events()
    batch = Batch(table.user, table.item, table.rating)
    expected = Draw(2, 9, candidates(table)).negatives(batch, 5)
    with standin.emulated():
        import cupy

        there = Draw(2, 9, candidates(table).on(cupy)).negatives(
            Batch(cupy.asarray(batch.user), cupy.asarray(batch.item)), 5
        )
        assert type(there) is not np.ndarray
        np.testing.assert_array_equal(there.get(), expected)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["dot", "bias", "net", "hybrid"])
@pytest.mark.parametrize("loss", RANKING)
def test_steps_are_those_of_pytorch(loss, model):
    """Adam with l2, weighted events, the negatives handed to PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; check_gradients compares derivatives")
    from tests import torch_twins

    kind, model, table = RANKING[loss], MODELS[model], events(weighted=True)
    start = model.init_weights(table.n_users, table.n_items, seed=2)
    start = {name: 20 * w for name, w in start.items()} if type(model) in (Dot, DotBias) else start
    trainer = trained(model, Adam(0.02, weight_decay=0.01), table, epochs=0, loss=kind, weights=start, batch_size=16)
    trainer.fit(table, epochs=2, shuffle=False, progress=False)
    twin = torch_twins.Twin(model, start)
    steps = torch.optim.Adam(twin.parameters(), lr=0.02, weight_decay=0.01)
    soft, weight = torch.nn.functional.softplus, torch.as_tensor(table.weight.astype(np.float64))
    sums, t = np.zeros(2), 0
    for epoch in range(2):
        for first in range(0, len(table), 16):
            t += 1
            part = slice(first, first + 16)
            user, item = table.user[part], table.item[part]
            drawn = Draw(3, t, candidates(table)).negatives(Batch(user, item), kind.negatives)
            users = torch.as_tensor(np.repeat(user, 1 + kind.negatives))
            items = torch.as_tensor(np.concatenate([item[:, None], drawn], 1).ravel())
            masks = model.dropout_masks(3, t, len(users), np.float64)
            objective = 0.0
            for share, y in zip(model.head_weights, twin(users, items, masks), strict=True):
                s = y.reshape(len(user), -1)
                if loss == "logistic":
                    values = soft(-s[:, 0]) + 0.7 / 3 * soft(s[:, 1:]).sum(1)
                else:
                    values = soft(s[:, 1:] - s[:, :1]).mean(1)
                of_head = (weight[part] * values).mean()
                objective = objective + share * of_head
            sums[epoch] += of_head.item() * len(user)
            steps.zero_grad()
            objective.backward()
            steps.step()
    far = {name: cases.distance(w, twin.weights()[name]) for name, w in trainer.weights.items()}
    # A bias that cancels in differences has a gradient of rounding alone, which Adam divides by its own size.
    still = (
        {"user_bias", "output.bias", "b.output.bias"} if kind.negatives != 3 and model.rating_range is None else set()
    )
    assert max(d for name, d in far.items() if name not in still) < cases.TOLERANCE
    np.testing.assert_allclose(trainer.history.frame()[f"train_{kind.metric}"], sums / len(table), rtol=1e-9)


@pytest.mark.parametrize("place", ["numpy", "numba", "cupy"])
@pytest.mark.parametrize("shuffle", [True, "tiles", "sides"])
def test_every_place_trains_alike_and_goes_on_to_the_same_bits(shuffle, place, tmp_path):
    if place == "cupy" and emulator.missing():
        pytest.skip(str(emulator.missing()))
    model = SVDpp(3) if shuffle == "sides" else DotBias(3)
    solver = Gradient(SGD(0.05, weight_decay=0.01, sparse=True), BPR(2), 8 if shuffle is True else 1, shuffle)
    table = events(weighted=True)
    reference = trained(model, solver, table, epochs=3, loss=None)
    with standin.emulated() if place == "cupy" else pytest.MonkeyPatch.context():
        if place == "numba":
            cases.backend("numba")
        whole = trained(model, solver, table, epochs=3, loss=None, backend=place)
        assert whole.backend == place
        for name, w in reference.weights.items():
            assert cases.distance(whole.weights[name], w) < cases.TOLERANCE, name
        np.testing.assert_allclose(whole.history.frame().train_bpr, reference.history.frame().train_bpr, rtol=1e-9)
        half = trained(model, solver, table, epochs=1, loss=None, backend=place)
        half.save(tmp_path / "half.npz")
        again = Trainer.load(tmp_path / "half.npz", backend=place)
        assert again.solver == solver
        again.fit(table, epochs=2, progress=False)
        assert all(np.array_equal(again.weights[name], w) for name, w in whole.weights.items())
        assert again.weights.keys() == whole.weights.keys()


@pytest.mark.parametrize(
    ("kind", "model", "weighted"),
    [(BPR(2), DotBias(3), True), (BPR(2), Dot(8), True), (Logistic(3, 0.7), DotBias(3), True)],
    ids=["bpr", "bpr-dot", "logistic"],
)
def test_compiled_steps_are_the_reference(kind, model, weighted):
    """Batches of 1 in both orders, with both decays of touched rows, and mini-batches; some negatives repeat."""
    cases.backend("numba")
    table = events(12, 15, 0.4, weighted=weighted)
    decays = ({}, {"weight_decay": 0.1, "sparse": True}, {"weight_decay": 0.2, "decay": "per_rating"})
    for i, (size, shuffle) in enumerate(((1, True), (1, "tiles"), (8, True))):
        solver = Gradient(SGD(0.05, **decays[i if weighted else (i + 1) % 3]), kind, size, shuffle)
        one, other = (trained(model, solver, table, 2, loss=None, backend=place) for place in ("numba", "numpy"))
        for name, w in other.weights.items():
            assert cases.distance(one.weights[name], w) < cases.TOLERANCE, (name, size, shuffle)
        assert one.program.t == other.program.t
        metric = f"train_{kind.metric}"
        np.testing.assert_allclose(one.history.frame()[metric], other.history.frame()[metric], rtol=1e-9)


def test_only_exact_types_have_kernels_and_threads_change_no_bit(monkeypatch):
    from minicf.backends.numba import program

    class Own(BPR):
        """A subclass may compare in another way."""

    cases.backend("numba")
    makes = [(Dot(2), BPR()), (DotBias(2), Logistic(2)), (Net(2, (3,)), Logistic(2)), (Dot(2), Own()),
             (Net(2, (3,)), BPR()), (DotBias(2, rating_range=(0.0, 1.0)), BPR()), (UnitDot(2), BPR())]  # fmt: skip
    found = [program.fused(model, Gradient(SGD(0.1), loss), np.dtype("float32")) for model, loss in makes]
    assert found == [program.Program] * 3 + [None] * 4
    monkeypatch.setattr(program, "_WORTH_A_THREAD", 1)
    table = events(60, 90, 0.3, weighted=True)
    monkeypatch.setitem(__import__("minicf.tiles", fromlist=["_KEPT"])._KEPT, table, Tiles(table, 4))
    solver = Gradient(SGD(0.05), BPR(2), 1, "tiles")
    runs = [trained(DotBias(3), solver, table, loss=None, backend="numba", n_threads=n) for n in (1, 2, 8)]
    for name, w in runs[0].weights.items():
        assert all(np.array_equal(run.weights[name], w) for run in runs[1:]), name


@pytest.mark.parametrize("loss", RANKING)
def test_weights_of_1_are_no_weights_and_a_weight_is_a_factor(loss):
    table = events()
    ones = Ratings(table.user, table.item, table.rating, table.n_users, table.n_items, weight=np.ones(len(table)))
    halves = Ratings(
        table.user, table.item, table.rating, table.n_users, table.n_items, weight=np.full(len(table), 0.5)
    )
    plain, same, half = (
        trained(Dot(3), SGD(rate), one, loss=RANKING[loss]).weights["item_factors"]
        for rate, one in ((0.1, table), (0.1, ones), (0.2, halves))
    )
    np.testing.assert_array_equal(plain, same)
    assert cases.distance(half, plain) < 1e-12


def test_a_dislike_is_pushed_down_or_left_and_never_drawn():
    """User 2 has one event, of target 0."""
    table = Ratings([0, 0, 1, 2], [0, 1, 2, 3], [1, 1, 1, 0], 3, 5)
    start = {"user_factors": np.ones((3, 2)), "item_factors": np.full((5, 2), 0.1)}
    batch = Batch(np.full(100, 2, np.int32), np.full(100, 3, np.int32))
    assert not (Draw(1, 1, candidates(table)).negatives(batch, 3) == 3).any()
    for loss in (Logistic(2), BPR(2)):
        trainer = Trainer(Dot(2), SGD(0.1), loss=loss, backend="numpy", weights=start, dtype="float64")
        only = Ratings([2], [3], [0], 3, 5)
        trainer.fit(only, epochs=1, progress=False)
        moved = trainer.weights["item_factors"] - start["item_factors"]
        assert (moved[3] < 0).all() if isinstance(loss, Logistic) else not moved.any()
        assert (moved <= 0).all()


def test_the_history_has_the_loss_with_negatives_on_both_tables(tmp_path):
    table = events(60, 50, 0.06)
    train, valid = table.split(valid=0.2, seed=1)
    trainer = Trainer(DotBias(4), Adam(0.01), loss=BPR(3), backend="numpy")
    frame = trainer.fit(train, valid, epochs=3, progress=False).frame()
    assert math.isclose(frame.train_bpr[0], math.log(2), abs_tol=0.02)  # untrained: every order is even
    assert math.isclose(frame.valid_bpr[0], math.log(2), abs_tol=0.02)
    found = trainer.evaluate(valid)
    assert found == trainer.evaluate(valid)
    assert found["bpr"] == frame.valid_bpr[2]
    drawn = trainer._ranked.of(valid, trainer._seen, BPR(3), 0).item.reshape(len(valid), -1)[:, 1:]
    taken = set(zip(table.user.tolist(), table.item.tolist(), strict=True))
    pairs = np.stack([np.repeat(valid.user, 3), drawn.ravel()], 1)[np.repeat(valid.user != 1, 3)]
    assert not any(pair in taken for pair in map(tuple, pairs.tolist())), "neither of train nor of valid"
    y = trainer.predict(np.repeat(valid.user, 3), drawn.ravel()).reshape(-1, 3)
    above = np.sign(trainer.predict(valid.user, valid.item)[:, None] - y)
    assert math.isclose(found["auc"], 0.5 + 0.5 * above.mean(dtype=np.float64))
    trainer.save(tmp_path / "run.npz")
    assert set(Trainer.load(tmp_path / "run.npz").evaluate(valid)) == {"bpr", "auc"}
    hybrid = Trainer(MODELS["hybrid"], Adam(0.01), loss=Logistic(2), backend="numpy")
    hybrid.fit(train, valid, epochs=1, progress=False)
    assert {"valid_log_loss", "valid_log_loss_a", "train_log_loss_b"} <= set(hybrid.history.frame())


def test_lists_become_better_than_chance():
    """Blocks of users take half of blocks of items: the held-out ones come before other blocks'.

    A fifth of the negatives are of the own block, and as good: the best AUC is 0.8 + 0.2 / 2.
    """
    random = np.random.RandomState(0)
    user, item = np.nonzero(
        (random.uniform(size=(60, 60)) < 0.5) & (np.arange(60)[:, None] // 20 == np.arange(60) // 20)
    )
    train, valid = Ratings(user, item, np.ones(len(user)), 60, 60).split(valid=0.2, seed=0)
    for loss, model in ((BPR(), Dot(4)), (Logistic(4), DotBias(4)), (Logistic(4), UnitDot(4))):
        trainer = Trainer(model, Adam(0.05), loss=loss, backend="numpy", batch_size=32)
        trainer.fit(train, epochs=15, progress=False)
        assert trainer.evaluate(valid)["auc"] > 0.75


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Logistic(-1), "negatives is -1; it must be a whole number of at least 0"),
        (lambda: Logistic(2, 0.0), "weight is 0; it must be above 0"),
        (lambda: Logistic(1.5), "negatives is 1.5; it must be a whole number"),
        (lambda: BPR(0), "negatives is 0; it must be a whole number of at least 1"),
        (lambda: UnitDot(0), "n_factors is 0"),
        (lambda: UnitDot(2, scale=-1.0), "scale is -1; it must be above 0"),
        (lambda: UnitDot(2, init=("normal", 0.0)), "init is"),
        (lambda: trained(Dot(2), table=Ratings([0], [0], [4.0])), "a target is 4; the BPR loss takes targets from 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_loss_that_forgets_to_say_that_it_draws():
    with pytest.raises(RuntimeError, match="a loss that draws negatives says so"):
        Draw(1, 1).negatives(Batch(np.zeros(1, np.int32), np.zeros(1, np.int32)), 2)
