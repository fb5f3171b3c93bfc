"""The trainer: same seed same bits, going on, pre-training, errors, divergence, Ctrl-C, and what it reports."""

from __future__ import annotations

import _thread
import inspect
import io
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf import SGD, Adam, Dot, DotBias, Hybrid, Net, Ratings, Trainer, rng
from minicf.data import Batch
from minicf.losses import SquaredError
from minicf.solvers import loss_and_gradients
from tests import cases
from tests.cases import BACKENDS, MODELS, TOLERANCE, Problem, backend, distance

USERS, ITEMS = Problem.n_users, Problem.n_items
NET = Net(3, hidden=(4,), dropout=(0.2, 0.4), dense_init="torch")
HYBRID = Hybrid({"net": (NET, 0.2), "dot": (DotBias(3), 1.0)})


def make_ratings(n=150, seed=5) -> Ratings:
    return Ratings(*Problem(n_ratings=n, seed=seed).ratings(), USERS, ITEMS)


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return make_ratings()


@pytest.fixture(scope="module")
def split(ratings):
    return ratings.split(valid=0.2, seed=1)


@pytest.fixture(params=BACKENDS)
def where(request) -> str:
    """The name of a backend that can run here."""
    backend(request.param)
    return request.param


def trainer(where="numpy", model=None, optimizer=None, **arguments) -> Trainer:
    defaults = {"batch_size": 16, "seed": 3, "backend": where}
    return Trainer(model or DotBias(3), optimizer or SGD(0.05, momentum=0.9), **(defaults | arguments))


def everything(t: Trainer) -> dict[str, np.ndarray]:
    return t.program.weights() | t.program.state()


def same(a: dict, b: dict) -> bool:
    """Equal names, dtypes and bits."""
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


def differ(a: dict, b: dict) -> bool:
    """No float array of the two has anything in common but zeros."""
    return a.keys() == b.keys() and all(not np.array_equal(a[k], b[k]) for k in a)


def timeless(history) -> list[dict]:
    """The history without what a clock says."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "ratings_per_second")} for row in history.rows]


def run_python(code: str, *arguments, **environment) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=os.path.dirname(os.path.dirname(__file__)),
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- import ------------------------------------------------------------------------------------------------------


def test_import_is_light():
    code = """
        import sys
        import minicf
        heavy = ("numba", "cupy", "matplotlib", "sklearn", "scipy", "torch", "tqdm")
        print([name for name in heavy if name in sys.modules])
    """
    assert run_python(code).strip() == "[]"


def test_the_public_names_are_there():
    assert all(hasattr(minicf, name) for name in minicf.__all__)
    assert len(set(minicf.__all__)) == len(minicf.__all__)


def test_signatures_are_the_published_ones():
    def arguments(function):
        return {name: p.default for name, p in list(inspect.signature(function).parameters.items())[1:]}

    made = arguments(Trainer.__init__)
    published = ["model", "solver", "loss", "backend", "batch_size", "dtype", "seed", "weights"]
    assert list(made)[:8] == published  # more may follow
    assert [made[k] for k in published[2:]] == [None, "auto", None, "float32", 0, None]
    assert Trainer(DotBias(2), SGD(0.1)).solver == minicf.Gradient(SGD(0.1), SquaredError(), 64, True)  # what None is
    fit = arguments(Trainer.fit)
    assert list(fit) == ["train", "valid", "epochs", "schedule", "shuffle", "callbacks", "progress"]
    assert [fit[k] for k in list(fit)[1:]] == [None, 1, None, None, (), None]


# --- the same bits -----------------------------------------------------------------------------------------------

FRESH = """
    import hashlib
    import sys
    sys.path.insert(0, ".")
    from tests.test_train import NET, HYBRID, Adam, DotBias, everything, make_ratings, trainer
    where, dtype = sys.argv[1:]
    for model in (DotBias(3), NET, HYBRID):
        t = trainer(where, model, Adam(0.01, weight_decay=1e-3), dtype=dtype)
        t.fit(make_ratings(), epochs=2)
        digest = hashlib.sha256()
        for name, value in everything(t).items():
            digest.update(name.encode() + value.tobytes())
        print(digest.hexdigest())
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_seed_same_bits_in_fresh_processes(where, dtype):
    first = run_python(FRESH, where, dtype, PYTHONHASHSEED="1")
    assert len(set(first.split())) == 3
    assert run_python(FRESH, where, dtype, PYTHONHASHSEED="2", OMP_NUM_THREADS="1") == first


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.campaign), "float64"])
def test_a_process_that_compiles_gives_the_bits_of_one_that_finds_compiled_code(where, dtype, tmp_path):
    """With fast arithmetic two compilations of one function may round differently: only one of them may be in use."""
    first = run_python(FRESH, where, dtype, NUMBA_CACHE_DIR=str(tmp_path))
    assert run_python(FRESH, where, dtype, NUMBA_CACHE_DIR=str(tmp_path)) == first


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_same_seed_same_bits_twice_and_another_seed_others(where, split, model):
    results = []
    for seed in (3, 3, 4):
        t = trainer(where, model, Adam(0.01), seed=seed)
        t.fit(*split, epochs=2)
        results.append((t.weights, timeless(t.history)))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert differ(results[0][0], results[2][0])


@pytest.mark.parametrize("optimizer", [SGD(0.05, momentum=0.9, weight_decay=1e-3), Adam(0.01)], ids=repr)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_three_epochs_are_one_and_then_two(where, split, model, optimizer):
    whole, parts = (trainer(where, model, optimizer) for _ in range(2))
    whole.fit(*split, epochs=3)
    parts.fit(*split, epochs=1)
    history = parts.fit(*split, epochs=2)
    assert same(everything(whole), everything(parts))
    assert timeless(history) == timeless(whole.history)
    assert history is parts.history
    assert [row["epoch"] for row in history.rows] == [1, 2, 3]


def test_the_number_of_steps_a_call_does_not_matter(where, split):
    results = []
    for n in (1, 3, 1 << 20):
        t = trainer(where, NET, Adam(0.01), dtype="float64")
        cases.program(t, USERS, ITEMS).steps_per_call = lambda batch_size, n=n: n
        t.fit(*split, epochs=2, schedule=minicf.CosineRestarts(1, 2))
        results.append((everything(t), [row["train_mse"] for row in t.history.rows]))
    for arrays, losses in results[1:]:
        # Not to the bit: a backend may catch idle rows up at the end of a call, in other portions then.
        assert all(distance(arrays[name], value) < TOLERANCE for name, value in results[0][0].items())
        assert losses == pytest.approx(results[0][1], rel=TOLERANCE)


def test_each_epoch_has_an_order_of_its_own(where, ratings):
    """What `fit` does, done by hand with the orders that the generator gives."""
    t, by_hand = (trainer(where) for _ in range(2))
    t.fit(ratings, epochs=2)
    program = cases.program(by_hand, USERS, ITEMS)
    for epoch in range(2):
        order = rng.permutation(3, epoch, len(ratings))
        cases.train(program, ratings.user, ratings.item, ratings.rating, order, 16, 0.05)
    assert same(everything(t), everything(by_hand))


def test_without_shuffling_rows_come_as_given(where, ratings):
    t, by_hand, shuffled = (trainer(where) for _ in range(3))
    t.fit(ratings, epochs=2, shuffle=False)
    program = cases.program(by_hand, USERS, ITEMS)
    for _ in range(2):
        order = np.arange(len(ratings), dtype=np.int32)
        cases.train(program, ratings.user, ratings.item, ratings.rating, order, 16, 0.05)
    assert same(everything(t), everything(by_hand))
    shuffled.fit(ratings, epochs=2)
    assert differ(t.weights, shuffled.weights)


def test_the_order_of_rows_matters_only_without_shuffling(where, ratings):
    backwards = ratings.take(np.arange(len(ratings))[::-1])
    forth, back = (trainer(where) for _ in range(2))
    forth.fit(ratings, shuffle=False)
    back.fit(backwards, shuffle=False)
    assert differ(forth.weights, back.weights)


def test_fitting_leaves_the_ratings_alone(where, split):
    before = [(r.user.copy(), r.item.copy(), r.rating.copy()) for r in split]
    trainer(where, HYBRID, Adam(0.1)).fit(*split, epochs=2)
    for r, (user, item, rating) in zip(split, before, strict=True):
        assert np.array_equal(r.user, user)
        assert np.array_equal(r.item, item)
        assert np.array_equal(r.rating, rating)


# --- learning rate -----------------------------------------------------------------------------------------------


def test_changing_the_rate_keeps_the_optimisers_state(where, ratings):
    t = trainer(where, optimizer=Adam(0.01))
    assert t.lr == 0.01
    t.fit(ratings)
    before = everything(t)
    t.lr = 0.001
    assert same(everything(t), before)
    t.fit(ratings)
    program = cases.program(trainer(where, optimizer=Adam(0.01)), USERS, ITEMS)
    for epoch, lr in enumerate((0.01, 0.001)):
        order = rng.permutation(3, epoch, len(ratings))
        cases.train(program, ratings.user, ratings.item, ratings.rating, order, 16, lr)
    assert same(everything(t), program.weights() | program.state())
    assert t.history.frame().lr.tolist() == [0.01, 0.001]


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_impossible_rates_are_refused(value):
    t = trainer()
    with pytest.raises(ValueError, match="lr is"):
        t.lr = value
    assert t.lr == 0.05


@pytest.mark.parametrize("decay", ["l2", "decoupled", "per_rating"])
@pytest.mark.parametrize("kind", [SGD, Adam])
@pytest.mark.parametrize("model", [DotBias(3), HYBRID], ids=["bias", "hybrid"])
def test_learning_rate_zero_changes_nothing(where, split, model, kind, decay):
    t = trainer(where, model, kind(0.0, weight_decay=0.1, decay=decay))
    before = model.init_weights(USERS, ITEMS, 3)
    t.fit(*split, epochs=2)
    assert same(t.weights, {name: w.astype(np.float32) for name, w in before.items()})


# --- starting weights --------------------------------------------------------------------------------------------


def test_untrained_weights_are_the_models_own(where):
    t = trainer(where, NET)
    with pytest.raises(RuntimeError, match="call fit first"):
        t.weights  # noqa: B018
    with pytest.raises(RuntimeError, match="call fit first"):
        t.predict(0, 0)
    t.evaluate(make_ratings())
    assert same(t.weights, {n: w.astype(np.float32) for n, w in NET.init_weights(USERS, ITEMS, 3).items()})


def test_pre_training_a_net_for_biases(where, split, caplog):
    net = trainer(where, NET)
    net.fit(*split)
    given = net.weights
    with caplog.at_level(logging.INFO, "minicf"):
        t = trainer(where, DotBias(3), weights=given)
    assert "hidden.0.weight" in caplog.text
    t.evaluate(split[0])  # makes the rest
    start = DotBias(3).init_weights(USERS, ITEMS, 3)
    for name, w in t.weights.items():
        assert np.array_equal(w, given[name] if name in given else start[name].astype(np.float32))
    t.fit(*split)
    assert same(net.weights, given)  # it has its own copies


def test_tables_of_other_ids_are_refused_where_only_the_counts_agree(where, tmp_path):
    """Users 1, 2 are not users 2, 3: version 0.1 took one for the other, without a word."""
    frame = pd.DataFrame({"userId": [1, 1, 2], "movieId": [5, 6, 6], "rating": [1.0, 2.0, 3.0]})
    ratings = minicf.Ratings.from_frame(frame)
    others = {
        "user": minicf.Ratings.from_frame(frame.assign(userId=frame.userId + 1)),
        "item": minicf.Ratings.from_frame(frame.assign(movieId=frame.movieId.map({5: "a", 6: "b"}))),
    }
    t = trainer(where)
    t.fit(ratings)
    assert t.users is ratings.users
    assert t.items is ratings.items
    t.save(tmp_path / "t.npz")
    for again in (t, Trainer.load(tmp_path / "t.npz", backend=where)):
        before = again.weights
        for side, other in others.items():
            for call in (again.fit, again.evaluate, again.lr_find):
                with pytest.raises(ValueError, match=f"the {side} ids of these ratings are not those"):
                    call(other)
            with pytest.raises(ValueError, match="train and valid have other ids"):
                again.fit(ratings, other)
        assert same(again.weights, before)
        equal = minicf.Ratings.from_frame(frame.copy())  # another object, the same ids
        assert again.fit(equal, equal)[-1]["epoch"] == again.epoch


def test_fingerprints_of_ids():
    ids = [minicf.Vocabulary(x) for x in ([1, 2], [1, 3], ["1", "2"], ["1", "2", "3"], ["12"], ["1\n2"], [12])]
    assert len({vocabulary.fingerprint for vocabulary in ids}) == len(ids)
    assert minicf.Vocabulary(np.array([1, 2], np.int16)).fingerprint == ids[0].fingerprint
    assert ids[0].matches(minicf.Vocabulary([1, 2]))
    assert not ids[0].matches(ids[2])


def test_pre_training_a_hybrid_for_biases(where, split):
    hybrid = trainer(where, HYBRID)
    hybrid.fit(*split)
    t = trainer(where, DotBias(3), weights=hybrid.weights)
    assert same(
        t.weights,
        {name: w for name, w in hybrid.weights.items() if "." not in name},
    )
    assert t.predict(1, 2) == hybrid.predict(1, 2, head="dot")


def test_weights_that_are_all_given_need_no_ratings(where):
    weights = DotBias(3).init_weights(4, 5, 9)
    t = trainer(where, weights=weights, dtype="float64")
    assert same(t.weights, weights)
    (expected,) = DotBias(3).predict(weights, Batch(np.array([3]), np.array([4])))
    assert t.predict(3, 4) == pytest.approx(expected, rel=TOLERANCE)
    with pytest.raises(ValueError, match=r"weights are for|made for 4 users and 5 items"):
        t.fit(make_ratings())


def test_given_and_returned_weights_are_copies(where, ratings):
    weights = DotBias(3).init_weights(USERS, ITEMS, 9)
    before = {name: w.copy() for name, w in weights.items()}
    t = trainer(where, weights=weights, dtype="float64")
    for w in t.weights.values():
        w[:] = 100
    assert same(t.weights, before)
    t.fit(ratings)
    assert same(weights, before)


def test_wrong_weights_are_refused(ratings):
    good = DotBias(3).init_weights(USERS, ITEMS)

    def with_(**changes):
        return lambda: trainer(weights=good | changes)

    for make, match in (
        (lambda: trainer(weights={}), "none of them is a weight of this model"),
        (lambda: trainer(weights={"factors": np.zeros(3)}), r"\['factors'\]; none of them"),
        (with_(user_bias=np.zeros(USERS + 1)), r"weights\['user_bias'\] has shape \(14,\); it must be \(13,\)"),
        (with_(user_bias=np.zeros((USERS, 1))), "user_bias"),
        (with_(user_factors=np.zeros((USERS, 4))), r"weights\['user_factors'\] has shape \(13, 4\)"),
        (with_(user_factors=np.zeros(())), "user_factors|user_bias"),
        (with_(item_bias=np.full(ITEMS, np.nan)), r"weights\['item_bias'\] holds NaN"),
        (with_(item_bias=np.full(ITEMS, np.inf)), r"weights\['item_bias'\] holds NaN or inf"),
        (with_(item_bias=["x"] * ITEMS), r"weights\['item_bias'\] has dtype <U1"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
    with pytest.raises(ValueError, match="given weights are for 9 users and 17 items"):
        trainer(weights={"user_bias": np.zeros(9)}).fit(ratings)


# --- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Trainer("DotBias", SGD(0.1)), TypeError, "model is 'DotBias'"),
        (lambda: Trainer(DotBias, SGD(0.1)), TypeError, "must be a minicf model"),
        (lambda: Trainer(DotBias(2), "adam"), TypeError, "solver is 'adam'; it must be an optimizer"),
        (lambda: Trainer(DotBias(2), SGD(0.1), dtype="float16"), ValueError, "dtype is 'float16'"),
        (lambda: Trainer(DotBias(2), SGD(0.1), dtype="int32"), ValueError, "dtype is 'int32'"),
        (lambda: Trainer(DotBias(2), SGD(0.1), seed=0.5), ValueError, "seed is 0.5"),
        (lambda: Trainer(DotBias(2), SGD(0.1), seed=None), ValueError, "seed is None"),
        (lambda: Trainer(DotBias(2), SGD(0.1), batch_size=0), ValueError, "batch_size is 0"),
        (lambda: Trainer(DotBias(2), SGD(0.1), batch_size=1.5), ValueError, "batch_size is 1.5"),
        (lambda: Trainer(DotBias(2), SGD(0.1), backend="abacus"), ValueError, "backend is 'abacus'"),
        (lambda: Trainer(Dot(2), SGD(0.1, weight_decay={"user_bias": 1})), ValueError, r"names \['user_bias'\]"),
        (lambda: Trainer(DotBias(2), SGD(0.1), "numpy"), TypeError, "positional"),
        (lambda: trainer().fit([1, 2, 3]), TypeError, "train is a list; it must be Ratings"),
        (lambda: trainer().fit(make_ratings(), "x"), TypeError, "valid is a str"),
        (lambda: trainer().fit(make_ratings(), epochs=-1), ValueError, "epochs is -1"),
        (lambda: trainer().fit(make_ratings(), epochs=1.5), ValueError, "epochs is 1.5"),
        (lambda: trainer().evaluate(3), TypeError, "ratings is a int"),
        (lambda: trainer().lr_find(None), TypeError, "train is a NoneType"),
        (lambda: trainer().lr_find(make_ratings(), low=0), ValueError, "0 < low < high"),
        (lambda: trainer().lr_find(make_ratings(), low=1, high=0.1), ValueError, "0 < low < high"),
        (lambda: trainer().lr_find(make_ratings(), high=math.inf), ValueError, "high is inf"),
        (lambda: trainer().lr_find(make_ratings(), steps=1), ValueError, "steps is 1"),
    ],
)
def test_bad_arguments_are_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_ratings_of_another_size_are_refused(ratings):
    other = Ratings([0], [1], [2.0], 3, 4)
    t = trainer()
    with pytest.raises(
        ValueError, match="train has 13 users and 17 items, valid has 3 and 4; both must come from one split"
    ):
        t.fit(ratings, other)
    t.fit(ratings)
    for call in (t.fit, t.evaluate, t.lr_find):
        with pytest.raises(ValueError, match="made for 13 users and 17 items, the ratings have 3 and 4"):
            call(other)


def test_no_epochs_is_no_training(where, ratings):
    t = trainer(where)
    history = t.fit(ratings, epochs=0)
    assert len(history) == 0
    assert list(history.frame().columns)[:2] == ["epoch", "lr"]
    assert t.program.t == 0


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_any_batch_size(where, ratings, batch_size):
    t = trainer(where, batch_size=batch_size, optimizer=SGD(0.01))
    history = t.fit(ratings, epochs=2)
    assert t.program.t == 2 * -(-len(ratings) // batch_size)
    assert history[1]["train_mse"] < history[0]["train_mse"]


def test_auto_is_a_backend_that_runs_and_says_which(ratings, caplog):
    with caplog.at_level(logging.INFO, "minicf"):
        t = trainer("auto")
    assert t.backend in minicf.backends.NAMES
    assert f"backend {t.backend}" in caplog.text
    t.fit(ratings)
    assert np.isfinite(t.predict(0, 0))


def test_a_backend_that_cannot_run_is_refused_by_name_and_passed_over_by_auto(monkeypatch, caplog):
    from minicf import backends

    class Missing:
        BACKEND = backends.Backend("missing", unavailable=lambda: "no such device; install one")

    monkeypatch.setitem(sys.modules, "minicf.backends.missing", Missing)
    monkeypatch.setitem(backends._MODULES, "missing", "minicf.backends.missing")
    monkeypatch.setattr(backends, "PREFERENCE", ("missing", "numpy"))
    with pytest.raises(ImportError, match="backend 'missing' cannot run here: no such device; install one"):
        backends.get_backend("missing")
    with caplog.at_level(logging.INFO, "minicf"):
        assert backends.get_backend("auto").name == "numpy"
    assert "no missing: no such device" in caplog.text


# --- history and errors ------------------------------------------------------------------------------------------


def test_history_columns(where, split):
    t = trainer(where, optimizer=Adam(0.01, weight_decay=0.1))
    t.fit(*split, epochs=2)
    frame = t.fit(split[0]).frame()
    assert frame.columns.tolist() == [
        "epoch",
        "lr",
        "train_mse",
        "penalty",
        "valid_mse",
        "seconds",
        "ratings_per_second",
    ]
    assert frame.epoch.tolist() == [1, 2, 3]
    assert frame.valid_mse.isna().tolist() == [False, False, True]
    assert (frame.penalty > 0).all()
    assert (frame.seconds > 0).all()
    assert frame.ratings_per_second.to_numpy() == pytest.approx(len(split[0]) / frame.seconds.to_numpy())
    assert "3 epochs" in repr(t.history)


def test_the_training_error_is_the_mean_over_the_epoch_while_weights_move(ratings):
    """With a rate of 0 it is the error at rest; otherwise, that of each batch before its step."""
    still = trainer(optimizer=SGD(0.0), dtype="float64")
    assert still.fit(ratings)[0]["train_mse"] == pytest.approx(still.evaluate(ratings)["mse"], rel=1e-12)
    t = trainer(optimizer=SGD(0.1), dtype="float64")
    t.fit(ratings, shuffle=False)
    model, w, total = DotBias(3), DotBias(3).init_weights(USERS, ITEMS, 3), 0.0
    for start in range(0, len(ratings), 16):
        part = slice(start, start + 16)
        batch = Batch(ratings.user[part], ratings.item[part], ratings.rating[part].astype(float))
        (loss,), grads = loss_and_gradients(model, SquaredError(), w, batch)
        total += loss * batch.size
        w = {name: w[name] - 0.1 * grads[name] for name in w}
    assert t.history[0]["train_mse"] == pytest.approx(total / len(ratings), rel=1e-12)
    assert t.history[0]["valid_mse"] != t.history[0]["valid_mse"]  # NaN


def test_evaluate_by_hand(where, split):
    t = trainer(where, dtype="float64")
    t.fit(*split, epochs=2)
    error = t.predict(split[1].user, split[1].item) - split[1].rating.astype(np.float64)
    got = t.evaluate(split[1])
    assert got.keys() == {"mse", "rmse", "mae"}
    assert got["mse"] == pytest.approx((error**2).sum() / len(error), rel=1e-12)
    assert got["rmse"] == pytest.approx(np.sqrt((error**2).sum() / len(error)), rel=1e-12)
    assert got["mae"] == pytest.approx(np.abs(error).sum() / len(error), rel=1e-12)
    assert got["mse"] == t.history[-1]["valid_mse"]
    assert all(type(value) is float for value in got.values())


def test_a_hybrid_reports_each_head(where, split):
    t = trainer(where, HYBRID, dtype="float64")
    t.fit(*split, epochs=2)
    row = t.history[-1]
    assert row["train_mse"] == row["train_mse_dot"] != row["train_mse_net"]
    assert row["valid_mse"] == row["valid_mse_dot"] != row["valid_mse_net"]
    user, item, rating = split[1].user, split[1].item, split[1].rating.astype(np.float64)
    for head in ("net", "dot"):
        mse = ((t.predict(user, item, head=head) - rating) ** 2).mean()
        assert row[f"valid_mse_{head}"] == pytest.approx(mse, rel=1e-12)
        assert t.evaluate(split[1])[f"mse_{head}"] == pytest.approx(mse, rel=1e-12)
    assert np.array_equal(t.predict(user, item), t.predict(user, item, head="dot"))


def test_each_heads_training_error_is_its_own(ratings):
    t = trainer(model=HYBRID, optimizer=SGD(0.0), dtype="float64")
    t.fit(ratings, epochs=1)
    row, w = t.history[0], HYBRID.init_weights(USERS, ITEMS, 3)
    total = np.zeros(2)
    order = rng.permutation(3, 0, len(ratings))
    for i in range(-(-len(ratings) // 16)):
        rows = order[i * 16 : (i + 1) * 16]
        masks = HYBRID.dropout_masks(3, i + 1, len(rows), "float64")
        y, _ = HYBRID.forward(w, Batch(ratings.user[rows], ratings.item[rows]), masks)
        total += [((y[HYBRID.heads.index(head)] - ratings.rating[rows]) ** 2).sum() for head in ("net", "dot")]
    assert [row["train_mse_net"], row["train_mse_dot"]] == pytest.approx(total / len(ratings), rel=1e-12)


@pytest.mark.parametrize("decays", [0.3, {"user_factors": 0.2, "output.bias": 0.5, "hidden.0.weight": 0.1}], ids=repr)
def test_penalties_by_hand(where, ratings, decays):
    def of(name):
        return decays.get(name, 0.0) if isinstance(decays, dict) else decays

    reported = {}
    for decay in ("l2", "per_rating", "decoupled"):
        t = trainer(where, NET, SGD(0.01, weight_decay=decays, decay=decay), dtype="float64")
        t.fit(ratings)
        expected, n = 0.0, len(ratings)
        for name, w in t.weights.items():
            for row in range(len(w)):
                share = 1.0
                if decay == "per_rating" and name == "user_factors":
                    share = (ratings.user == row).sum() / n
                elif decay == "per_rating" and name == "item_factors":
                    share = (ratings.item == row).sum() / n
                expected += 0.5 * of(name) * share * (w[row] ** 2).sum()
        if decay == "decoupled":
            expected = 0.0
        reported[decay] = t.history[0]["penalty"]
        assert reported[decay] == pytest.approx(expected, rel=1e-12)
    assert reported["l2"] > reported["per_rating"] > reported["decoupled"] == 0


@pytest.mark.parametrize("decay", ["l2", "per_rating"])
def test_the_penalty_is_what_the_decay_descends(ratings, decay):
    """One step on all ratings at once goes down the gradient of error plus penalty."""
    optimizer = SGD(1.0, weight_decay=0.3, decay=decay)
    t = trainer(optimizer=optimizer, dtype="float64", batch_size=len(ratings))
    counts = ratings.user_counts, ratings.item_counts
    counts = tuple(c() if callable(c) else c for c in counts)
    program = cases.program(t, USERS, ITEMS)
    before = program.weights()
    batch = Batch(ratings.user, ratings.item, ratings.rating.astype(float))
    _, grads = loss_and_gradients(DotBias(3), SquaredError(), before, batch)
    t.fit(ratings)
    after = program.weights()
    step = 1e-5
    for name, place in (("user_factors", (0, 1)), ("item_factors", (2, 0)), ("user_bias", (5,)), ("item_bias", (0,))):
        values = []
        for sign in (1, -1):
            moved = {k: w.copy() for k, w in before.items()}
            moved[name][place] += sign * step
            program.load(moved, program.state())
            values.append(cases.penalty(program, *counts))
        slope = (values[0] - values[1]) / (2 * step)
        moved_by = before[name][place] - after[name][place]
        # A quadratic has exact central differences: what remains is rounding of the penalty over the step.
        assert moved_by - grads[name][place] == pytest.approx(slope, abs=1e-9)
        assert abs(slope) > 1e-6 or name == "user_bias"


# --- predicting --------------------------------------------------------------------------------------------------


@pytest.fixture
def fitted(ratings) -> Trainer:
    t = trainer()
    t.fit(ratings)
    return t


def test_predict_takes_numbers_lists_and_arrays(where, ratings):
    t = trainer(where)
    t.fit(ratings)
    y = t.predict([0, 3, 3], np.array([1, 16, 16], np.uint8))
    assert y.dtype == np.float32
    assert y.shape == (3,)
    assert y[1] == y[2] == t.predict(3, 16)
    assert type(t.predict(np.int64(3), 16)) is float
    assert t.predict([3], [16]).shape == (1,)
    assert t.predict([], []).shape == (0,)
    w = {name: value.astype(np.float64) for name, value in t.weights.items()}
    expected = DotBias(3).predict(w, Batch(np.array([0, 3, 3]), np.array([1, 16, 16])))
    assert y == pytest.approx(expected, rel=1e-5)  # a handful of float32 roundings of 6e-8


def test_predicting_many_pairs_is_predicting_each(where, ratings):
    t = trainer(where)
    t.fit(ratings)
    pairs = np.arange(70_000) % USERS, np.arange(70_000) % ITEMS  # more than one block
    y = t.predict(*pairs)
    part = slice(65_500, 65_600)
    assert np.array_equal(y[part], t.predict(pairs[0][part], pairs[1][part]))


def test_predict_drops_nothing(where, ratings):
    t = trainer(where, NET)
    t.fit(ratings)
    assert t.predict(1, 2) == t.predict(1, 2)
    w = {name: value.astype(np.float64) for name, value in t.weights.items()}
    assert t.predict(1, 2) == pytest.approx(NET.predict(w, Batch(np.array([1]), np.array([2])))[0], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (([0, 1], [0]), ValueError, "user has 2 indices and item 1"),
        ((0, [0, 1]), ValueError, "user has 1 indices and item 2"),
        ((-1, 0), IndexError, "user index -1 is out of range: the table has 13 rows, 0 … 12"),
        (([0, 13], [0, 0]), IndexError, "user index 13"),
        ((0, 17), IndexError, "item index 17 is out of range: the table has 17 rows"),
        ((2**40, 0), IndexError, "user index 1099511627776"),
        ((0.0, 0), TypeError, "user must be an index"),
        ((0, "a"), TypeError, "item must be an index"),
        ((True, 0), TypeError, "user must be an index"),
        (([[0]], [[0]]), TypeError, "one-dimensional"),
        ((None, 0), TypeError, "user must be an index"),
        ((0, 0, "net"), ValueError, r"head is 'net'; it must be one of \[''\]"),
    ],
)
def test_predict_refuses(fitted, arguments, error, match):
    with pytest.raises(error, match=match):
        fitted.predict(*arguments)


def test_predict_refuses_an_unknown_head(ratings):
    t = trainer(model=HYBRID)
    t.fit(ratings)
    with pytest.raises(ValueError, match=r"head is 'x'; it must be one of \['net', 'dot'\]"):
        t.predict(0, 0, head="x")


# --- divergence --------------------------------------------------------------------------------------------------


def test_divergence_keeps_the_last_good_weights(where, split):
    t = trainer(where)
    t.fit(*split, epochs=2)
    good, rows = everything(t), timeless(t.history)
    t.lr = 1e6
    with pytest.raises(minicf.DivergenceError) as caught:
        t.fit(*split, epochs=5)
    error = caught.value
    assert error.epoch == 3
    assert 1 < error.step <= -(-len(split[0]) // 16)
    assert error.lr == 1e6
    assert math.isfinite(error.last_loss)
    assert error.last_loss > rows[-1]["train_mse"]
    for part in ("epoch 3", f"step {error.step}", "learning rate 1e+06", f"{error.last_loss:.6g}", "smaller"):
        assert part in str(error)
    assert same(everything(t), good)
    assert timeless(t.history) == rows
    t.lr = 0.05
    t.fit(*split)
    assert t.epoch == 3
    assert np.isfinite(t.history[-1]["train_mse"])


def test_after_divergence_training_goes_on_as_if_nothing_had_been(where, split):
    calm, wild = (trainer(where) for _ in range(2))
    calm.fit(*split, epochs=2)
    wild.fit(*split)
    wild.lr = 1e6
    with pytest.raises(minicf.DivergenceError):
        wild.fit(*split)
    wild.lr = 0.05
    wild.fit(*split)
    assert same(everything(wild), everything(calm))


def test_divergence_says_which_step_and_which_rate(where, ratings):
    """The rate jumps in the second epoch's fourth step of ten; the loss of the step after it overflows."""

    class Jump(minicf.schedules.Schedule):
        def factor(self, t):
            return np.where(t > 1.25, 1e30, 1.0)

    t = trainer(where, optimizer=SGD(0.05))
    with pytest.raises(minicf.DivergenceError) as caught:
        t.fit(ratings, epochs=3, schedule=Jump())
    error = caught.value
    assert (error.epoch, error.step) == (2, 5)
    assert error.lr == 0.05 * 1e30
    quiet = trainer(where, optimizer=SGD(0.05))
    quiet.fit(ratings)
    assert same(everything(t), everything(quiet))
    # The mean over the four steps that were taken.
    model, w = DotBias(3), {k: v.astype(np.float64) for k, v in quiet.weights.items()}
    order, total = rng.permutation(3, 1, len(ratings))[:64], 0.0
    for i in range(4):
        u, v, r = (x[order[16 * i : 16 * i + 16]] for x in (ratings.user, ratings.item, ratings.rating))
        (loss,), grads = loss_and_gradients(model, SquaredError(), w, Batch(u, v, r.astype(np.float64)))
        total += loss * 16
        w = {name: w[name] - 0.05 * grads[name] for name in w}
    assert error.last_loss == pytest.approx(total / 64, rel=1e-4)  # float32 over some 15 steps


HUGE = {"user_bias": np.full(USERS, 3e38), "item_bias": np.full(ITEMS, 3e38)}
"""Their sum is beyond float32."""


def test_divergence_at_the_very_first_step(where, ratings):
    t = trainer(where, weights=HUGE)
    with pytest.raises(minicf.DivergenceError) as caught:
        t.fit(ratings)
    assert (caught.value.epoch, caught.value.step) == (1, 1)
    assert math.isnan(caught.value.last_loss)
    assert t.weights["user_bias"].tolist() == [np.float32(3e38)] * USERS


def test_divergence_of_weights_alone(where):
    """The only step of an epoch has a finite loss and makes weights infinite: that is found before it is kept."""
    one = Ratings([0], [0], [5.0], 1, 1)
    t = trainer(where, optimizer=SGD(1.0))
    t.fit(one)
    good = everything(t)
    t.lr = 1e38
    with pytest.raises(minicf.DivergenceError) as caught:
        t.fit(one)
    error = caught.value
    assert (error.epoch, error.step, error.lr) == (2, 1, 1e38)
    assert math.isfinite(error.last_loss)
    assert same(everything(t), good)


def test_every_head_of_a_hybrid_must_stay_finite(where, ratings):
    heads = Hybrid({"dot": (Dot(3), 1.0), "bias": (DotBias(3), 0.0)})
    t = trainer(where, heads, SGD(0.01), weights=HUGE)
    with pytest.raises(minicf.DivergenceError):
        t.fit(ratings)


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(minicf.DivergenceError(2, 3, 0.5, 1.25)))
    assert (error.epoch, error.step, error.lr, error.last_loss) == (2, 3, 0.5, 1.25)


# --- Ctrl-C ------------------------------------------------------------------------------------------------------


def interrupt_soon(t: Trainer, seconds: float = 0.05) -> None:
    """Send this process a SIGINT once training is under way."""

    def wait():
        while t._program is None or t._program.t < 3:
            time.sleep(0.001)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def test_ctrl_c_leaves_a_usable_model(where, split, caplog):
    t = trainer(where, NET, Adam(0.01))
    interrupt_soon(t)
    with pytest.raises(KeyboardInterrupt):
        t.fit(*split, epochs=1_000_000)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert f"after {t.epoch} whole epochs" in caplog.text
    assert len(t.history) == t.epoch < 1_000_000
    steps = -(-len(split[0]) // 16)
    assert t.epoch * steps <= t.program.t < (t.epoch + 1) * steps
    assert np.isfinite(t.predict(1, 2))
    epoch = t.epoch
    t.fit(*split)
    assert t.epoch == epoch + 1


def test_ctrl_c_stops_between_calls_and_at_a_whole_step(where, ratings):
    """In the middle of an epoch: the state is that of a number of whole steps."""
    t = trainer(where, batch_size=1, optimizer=SGD(0.05))
    program = cases.program(t, USERS, ITEMS)
    program.steps_per_call = lambda batch_size: 10
    run = program.run

    def run_then_interrupt(data, part):
        done = run(data, part)
        if program.t == 40:
            _thread.interrupt_main()
        return done

    program.run = run_then_interrupt
    with pytest.raises(KeyboardInterrupt):
        t.fit(ratings, epochs=2)
    assert program.t == 40
    assert len(t.history) == t.epoch == 0
    by_hand = cases.program(trainer(where, batch_size=1, optimizer=SGD(0.05)), USERS, ITEMS)
    order = rng.permutation(3, 0, len(ratings))[:40]
    cases.train(by_hand, ratings.user, ratings.item, ratings.rating, order, 1, 0.05)
    assert same(everything(t), by_hand.weights() | by_hand.state())


def test_ctrl_c_in_the_last_call_of_an_epoch_keeps_the_epoch(ratings):
    t = trainer()
    program = cases.program(t, USERS, ITEMS)
    run = program.run

    def run_then_interrupt(data, part):
        done = run(data, part)
        _thread.interrupt_main()
        return done

    program.run = run_then_interrupt
    with pytest.raises(KeyboardInterrupt):
        t.fit(ratings, epochs=5)
    assert len(t.history) == t.epoch == 1


def test_a_second_ctrl_c_does_not_wait(ratings):
    t = trainer()
    program = cases.program(t, USERS, ITEMS)

    def stuck(*_):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one was swallowed")

    program.run = stuck
    with pytest.raises(KeyboardInterrupt):
        t.fit(ratings)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_in_a_thread_and_under_a_foreign_handler(ratings):
    results = []
    thread = threading.Thread(target=lambda: results.append(len(trainer().fit(ratings, epochs=2))))
    thread.start()
    thread.join(60)
    assert results == [2]

    asked = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    try:
        t = trainer()
        t.fit(ratings, callbacks=[Raise(lambda: signal.raise_signal(signal.SIGINT))])
        assert asked == [1]  # the caller's own handler was left in place
    finally:
        signal.signal(signal.SIGINT, before)


class Raise(minicf.Callback):
    """Does something at the end of an epoch."""

    def __init__(self, action):
        self.action = action

    def on_epoch_end(self, trainer, row):
        self.action()


CTRL_C = """
    import sys, threading
    sys.path.insert(0, ".")
    import numpy as np
    from tests.test_train import make_ratings, trainer
    t = trainer(sys.argv[1])

    class Say:
        said = False
        def on_epoch_end(self, trainer, row):
            if not self.said:
                print("training", flush=True)
            self.said = True

    try:
        t.fit(make_ratings(), epochs=10**9, callbacks=[Say()])
    except KeyboardInterrupt:
        t.fit(make_ratings())
        print("usable", np.isfinite(t.predict(0, 0)), len(t.history) > 1)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGINT cannot be sent to one process elsewhere")
def test_a_real_ctrl_c(where):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CTRL_C), where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(os.path.dirname(__file__)),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert out == "usable True True\n", err
    assert "Traceback" not in err
    assert process.returncode == 0


# --- the bar -----------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("progress", "terminal", "shown"),
    [(None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_the_bar_is_silent_off_a_terminal(ratings, monkeypatch, progress, terminal, shown):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    trainer().fit(ratings, epochs=2, progress=progress)
    assert ("ratings" in stream.getvalue()) == shown
    assert bool(stream.getvalue()) == shown


def test_fit_prints_nothing(split, capfd):
    trainer().fit(*split, epochs=2)
    assert capfd.readouterr() == ("", "")


# --- lr_find -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [DotBias(3), HYBRID], ids=["bias", "hybrid"])
def test_lr_find_leaves_everything_as_before(where, split, model):
    plain, searched = (trainer(where, model, Adam(0.01)) for _ in range(2))
    schedule = minicf.Cosine(4)
    for t in (plain, searched):
        t.fit(*split, epochs=2, schedule=schedule)
    before = everything(searched), timeless(searched.history), searched.lr, searched.epoch
    found = searched.lr_find(split[0])
    assert same(everything(searched), before[0])
    assert (timeless(searched.history), searched.lr, searched.epoch) == before[1:]
    for t in (plain, searched):
        t.fit(*split, epochs=2, schedule=schedule)
    assert same(everything(plain), everything(searched))
    assert found.frame.columns.tolist() == ["lr", "loss"]


def test_lr_find_before_the_first_fit(where, split):
    plain, searched = (trainer(where) for _ in range(2))
    searched.lr_find(split[0])
    for t in (plain, searched):
        t.fit(*split)
    assert same(everything(plain), everything(searched))


def test_lr_find_goes_up_and_stops_when_the_loss_does(where, split):
    found = trainer(where, optimizer=SGD(0.01)).lr_find(split[0], low=1e-4, high=1e3, steps=100)
    rates, losses = found.frame.lr.to_numpy(), found.frame.loss.to_numpy()
    assert rates == pytest.approx(np.geomspace(1e-4, 1e3, 100)[: len(rates)])
    assert 20 < len(rates) < 100  # it diverges long before 1000
    assert np.isfinite(losses).all()
    lowest = rates[losses.argmin()]
    assert found.suggestion == pytest.approx(lowest / 10)
    t = trainer(where, optimizer=SGD(found.suggestion))
    t.fit(split[0], epochs=10)
    assert t.history[-1]["train_mse"] < t.history[0]["train_mse"]


def test_lr_find_smooths_the_loss(ratings):
    """At rates that change nothing the loss is that of each batch at rest."""
    t = trainer(optimizer=SGD(0.1), dtype="float64")
    found = t.lr_find(ratings, low=1e-30, high=1e-29, steps=25)
    order = np.concatenate([rng.permutation(3, epoch, len(ratings)) for epoch in range(3)])
    w, smooth, expected = DotBias(3).init_weights(USERS, ITEMS, 3), 0.0, []
    for i in range(25):
        rows = order[16 * i : 16 * i + 16]
        y = DotBias(3).predict(w, Batch(ratings.user[rows], ratings.item[rows]))
        smooth = 0.9 * smooth + 0.1 * ((y - ratings.rating[rows]) ** 2).mean()
        expected.append(smooth / (1 - 0.9 ** (i + 1)))
    assert found.frame.loss.to_numpy() == pytest.approx(expected, rel=1e-9)


def test_lr_find_that_fails_at_once(ratings):
    found = trainer(weights=HUGE).lr_find(ratings, low=1e-3)
    assert len(found.frame) == 0
    assert found.suggestion == pytest.approx(1e-4)


# --- the program's own checks ------------------------------------------------------------------------------------


def test_a_program_loads_only_arrays_that_fit(where, ratings):
    t = trainer(where)
    t.fit(ratings)
    weights, state = t.program.weights(), t.program.state()
    for bad, match in (
        ({"user_bias": np.zeros(1)}, r"'user_bias' has shape \(1,\); it must be \(13,\)"),
        ({"user_factors": np.zeros((1, 3))}, r"'user_factors' has shape \(1, 3\); it must be \(13, 3\)"),
    ):
        with pytest.raises(ValueError, match=match):
            t.program.load(weights | bad, state)
    with pytest.raises(ValueError, match=r"'velocity.item_bias' has shape \(\); it must be \(17,\)"):
        t.program.load(weights, state | {"velocity.item_bias": np.zeros(())})
    assert same(everything(t), weights | state)


def test_an_overflow_is_one_error_and_no_warnings(where, ratings, recwarn):
    with pytest.raises(minicf.DivergenceError):
        trainer(where, optimizer=Adam(1e25)).fit(ratings, epochs=5)
    assert len(recwarn) == 0


def test_the_old_name_of_the_solver():
    with pytest.warns(DeprecationWarning, match="optimizer is now called solver"):
        assert Trainer(Dot(2), optimizer=SGD(0.1), backend="numpy").optimizer == SGD(0.1)
    with pytest.raises(ValueError, match="beside a solver"):
        Trainer(Dot(2), SGD(0.1), optimizer=SGD(0.1), backend="numpy")
