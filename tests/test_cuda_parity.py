"""The CUDA backend equals the reference: its kernels under the emulator, CuPy by its stand-in (tests/cuda).

`test_cuda_modes.py` runs this file again under sanitizers, with shuffled threads, and under the race checker.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicf import rng
from minicf.backends import numpy as plain
from minicf.backends.cuda import device, nets
from minicf.backends.cuda.composed import Composed
from minicf.models import Dot, DotBias, Hybrid, Model, Net
from minicf.optim import SGD, Adam
from tests import cases
from tests.cuda import emulator, standin

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))

PATHS = ("resident", "touched", "large")


@pytest.fixture(params=PATHS)
def gpu(request):
    with standin.emulated(request.param) as module:
        yield module


def check(module, model, optimizer, problem, dtype="float64"):
    expected = cases.run(plain, model, optimizer, problem, dtype)
    result = cases.run(module, model, optimizer, problem, dtype)
    assert result.weights.keys() == expected.weights.keys()
    far = {name: d for name, d in cases.distances(result, expected).items() if not d <= cases.TOLERANCE}
    assert not far


SHORT = cases.Problem(epochs=4)


@pytest.mark.parametrize("optimizer", cases.OPTIMIZERS + cases.EPS_OPTIMIZERS)
@pytest.mark.parametrize("model", ["dot", "bias", "hybrid"])
def test_every_optimizer(gpu, model, optimizer):
    check(gpu, cases.MODELS[model], cases.optimizer(optimizer, cases.MODELS[model]), SHORT)


@pytest.mark.parametrize("optimizer", cases.FEW_OPTIMIZERS)
@pytest.mark.parametrize("model", list(cases.ALL_MODELS))
def test_every_model(gpu, model, optimizer):
    check(gpu, cases.ALL_MODELS[model], cases.optimizer(optimizer, cases.ALL_MODELS[model]), SHORT)


def test_many_steps(gpu):
    check(gpu, cases.MODELS["bias"], cases.optimizer("adam-decoupled-dense", cases.MODELS["bias"]), cases.Problem())


# Small tables, hence many repeats; numbers of factors around the widths of a lane, a warp and a chunk.
@pytest.mark.parametrize("k", [1, 7, 31, 50, 64, 65, 127, 128, 130, 512])
def test_any_number_of_factors(gpu, k):
    problem = cases.Problem(n_users=5, n_items=4, n_ratings=30, batch=11, epochs=2)
    for model in (Dot(k), DotBias(k, rating_range=cases.RANGE)):
        check(gpu, model, Adam(0.001, weight_decay=0.01), problem)
        check(gpu, model, SGD(0.001, momentum=0.9, weight_decay=0.01), problem)


@pytest.mark.parametrize("k", [7, 65])
def test_any_width_of_layers(gpu, k):
    problem = cases.Problem(n_users=5, n_items=4, n_ratings=30, batch=11, epochs=2)
    check(gpu, Net(k, hidden=(70, 33), dropout=(0.3, 0.0, 0.75)), Adam(0.001, weight_decay=0.01), problem)


# A batch of one; segments longer than a warp; one batch in all; a last batch of one.
@pytest.mark.parametrize(("batch", "n"), [(1, 20), (80, 200), (200, 150), (7, 36)])
def test_any_batch(gpu, batch, n):
    problem = cases.Problem(n_users=4, n_items=3, n_ratings=n, batch=batch, epochs=2)
    for model in (cases.MODELS["bias"], cases.MODELS["hybrid"]):
        check(gpu, model, cases.optimizer("momentum-per_rating-dense", model), problem)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(2, 40), st.integers(2, 40), st.integers(1, 90), st.integers(1, 40), st.integers(0, 99),
    st.sampled_from(cases.OPTIMIZERS),
)  # fmt: skip
def test_drawn_sizes(gpu, users, items, ratings, batch, seed, optimizer):
    model = cases.MODELS["bias"]
    problem = cases.Problem(max(users, 3), max(items, 3), ratings, batch, 3, seed)
    check(gpu, model, cases.optimizer(optimizer, model), problem)


def rms(a, b):
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize("optimizer", ["momentum-l2-dense", "adam-none-dense", "adam-l2-dense", "adam-none-sparse"])
def test_float32_is_as_near_to_float64_as_the_reference_is(gpu, optimizer):
    model = cases.MODELS["bias"]
    optimizer = cases.optimizer(optimizer, model)
    exact = cases.run(plain, model, optimizer, cases.Problem(), "float64")
    single = cases.run(plain, model, optimizer, cases.Problem(), "float32")
    result = cases.run(gpu, model, optimizer, cases.Problem(), "float32")
    for name, value in exact.arrays().items():
        if name != "step" and name in single.arrays():
            # Twice as far at most: rounding, not another computation; plus a last place for arrays that are near exact.
            allowed = 2 * rms(single.arrays()[name], value) + 1e-7 * float(np.abs(value).max())
            assert result.arrays()[name].dtype == (np.float64 if name == "squared_error" else np.float32)
            assert rms(result.arrays()[name], value) <= allowed, name
            if name.startswith("second"):
                # As independent roundings add up; that of beta2 itself, the same at every step, would be 2e-6.
                assert rms(result.arrays()[name], value) < 2**-24 * 200**0.5 * rms(value, 0.0), name


# --- Adam's idle rows, by the expansion -------------------------------------------------------------------------------

LONG = cases.Problem(n_users=40, n_items=50, n_ratings=150, batch=3, epochs=2)
"""Most rows idle for dozens of steps, some for all."""


def late(module, model, optimizer, dtype, step=3000):
    """Training that goes on at a step from which on (C4) is exact; moments are of all sizes, down to none."""
    program = module.compile(model, optimizer, LONG.weights(model), cases.SEED, dtype)
    random, state = np.random.RandomState(1), program.state()
    for name, x in state.items():
        if name != "step":
            x[...] = random.standard_normal(x.shape) * 10.0 ** random.uniform(-6, -1, x.shape)
            x[random.uniform(size=x.shape) < 0.1] = 0
            # A second moment is no smaller than what the first one says of recent gradients.
            x[...] = x if name.startswith("first") else 2 * state[name.replace("second", "first")] ** 2 + x**2
    program.load(program.weights(), state | {"step": np.array(step)})
    user, item, rating = LONG.ratings()
    errors = []
    for order, rates in zip(LONG.orders(), LONG.rates(optimizer.lr), strict=True):
        errors.append(cases.train(program, user, item, rating, order, LONG.batch, rates).loss)
    return cases.Outcome(np.array(errors), program.weights(), program.state()), program


LATE = {
    "adam": Adam(0.02),
    "adamw": Adam(0.02, weight_decay={"user_factors": 0.5, "item_bias": 2.0}, decay="decoupled"),
    "short": Adam(0.02, betas=(0.3, 0.99), weight_decay=0.3, decay="decoupled"),
    "eps": Adam(0.02, eps=1e-2),
}


@pytest.mark.parametrize("path", ["touched", "large"])
@pytest.mark.parametrize("model", ["bias", "hybrid"])
@pytest.mark.parametrize("name", list(LATE))
def test_idle_rows_of_adam_by_the_expansion(path, model, name):
    model, optimizer = cases.MODELS[model], LATE[name]
    exact, _ = late(plain, model, optimizer, "float64")
    single, _ = late(plain, model, optimizer, "float32")
    with standin.emulated(path) as module:
        # What rounding does to the one bias of an output unit says little: in float32, tables alone.
        for dtype in ("float64", "float32") if isinstance(model, DotBias) else ("float64",):
            result, program = late(module, model, optimizer, dtype)
            # The expansion is what was tested: the table says it is exact, nearly from the first step to the last.
            (plan,) = program._plans.values()
            moments = plan.idle.get()[: 8 * program.tables * (plan.steps + 1)].reshape(program.tables, -1, 8)
            assert moments[:, :-1, 7].all()
            if dtype == "float64":
                far = {name: d for name, d in cases.distances(result, exact).items() if not d <= cases.TOLERANCE}
                assert not far
                continue
            for key, value in exact.arrays().items():
                if key in single.arrays() and key != "step":
                    allowed = 2 * rms(single.arrays()[key], value) + 1e-7 * float(np.abs(value).max())
                    assert rms(result.arrays()[key], value) <= allowed, key


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.95), (0.99, 0.9), (0.05, 0.999)])
def test_from_the_first_step_on_the_expansion_takes_over(betas):
    """Replayed until (C4) is exact enough, which is at another step for each beta, or never; then summed."""
    model = cases.MODELS["bias"]
    optimizer = Adam(0.01, betas=betas, weight_decay=0.1, decay="decoupled")
    problem = cases.Problem(n_users=9, n_items=9, n_ratings=300, batch=2, epochs=2)
    for path in ("touched", "large"):
        with standin.emulated(path) as module:
            check(module, model, optimizer, problem)


def test_the_moments_are_the_sums_they_stand_for():
    """(C5) against (C3) added up term by term, at the last step of a call and long before it."""
    optimizer = Adam(0.01, betas=(0.9, 0.999), weight_decay={"user_factors": 0.3}, decay="decoupled")
    model = cases.MODELS["bias"]
    with standin.emulated("touched") as module:
        _, program = late(module, model, optimizer, "float64", 70)
        (plan,) = program._plans.values()
        moments = plan.idle.get()[: 8 * 4 * (plan.steps + 1)].reshape(4, -1, 8)
        lr = LONG.rates(optimizer.lr)[-1]
        t = 70 + plan.steps + 1 + np.arange(plan.steps, dtype=np.longdouble)
        c, a = np.sqrt(1 - np.longdouble(0.999) ** t), lr / (1 - np.longdouble(0.9) ** t)
        for table, decay in ((0, 0.3), (1, 0.0)):
            f = 1 - lr * decay
            for first in (0, 17, plan.steps - 1):
                j = np.arange(1, plan.steps - first + 1)
                weight = a[first:] * c[first:] * (0.9 / np.sqrt(np.longdouble(0.999))) ** j / np.cumprod(f[first:])
                e = c[first:] * np.longdouble(0.999) ** (-j / 2)
                for p in range(6):
                    assert moments[table, first, p] == pytest.approx(float((weight * e**p).sum()), rel=1e-12)
            np.testing.assert_allclose(moments[table, 1:, 6], np.cumprod(f), rtol=1e-12)
        # From step 70 on, (C4) is not yet good to 1e-11 with these betas: c_t still changes too fast.
        assert not moments[:, 0, 7].any()


# --- nothing depends on the launch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["bias", "hybrid"])
@pytest.mark.parametrize(
    "optimizer", ["momentum-l2-dense", "adam-l2-dense", "adam-none-sparse", "adam-decoupled-dense"]
)
def test_the_same_bits_from_any_geometry(model, optimizer):
    model = cases.MODELS[model]
    optimizer = cases.optimizer(optimizer, model)
    for path in PATHS:
        outcomes = []
        for processors, threads in ((3, 64), (3, 64), (1, 32), (7, 96), (40, 32)):
            with standin.emulated(path, processors, threads) as module:
                outcomes.append(cases.run(module, model, optimizer, SHORT, "float32").flat())
        for other in outcomes[1:]:
            np.testing.assert_array_equal(outcomes[0], other)


# --- predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", list(cases.ALL_MODELS))
@pytest.mark.parametrize("k", [None, 50])
def test_predictions(model, k):
    model = cases.ALL_MODELS[model]
    if k and not isinstance(model, Hybrid):
        model = type(model)(k, rating_range=cases.RANGE)
    problem = cases.Problem()
    user, item, _ = problem.ratings()
    weights = problem.weights(model)
    with standin.emulated() as module:
        program = module.compile(model, SGD(0.1), weights, 0, "float64")
        reference = plain.compile(model, SGD(0.1), weights, 0, "float64")
        for head in (None, *(model.heads if isinstance(model, Hybrid) else ())):
            np.testing.assert_allclose(
                cases.predict(program, user, item, head), cases.predict(reference, user, item, head), rtol=1e-12
            )
        assert cases.predict(program, user[:0], item[:0]).shape == (0,)


# --- the seam ---------------------------------------------------------------------------------------------------------


def setting(model: Model, path="resident", optimizer=None, dtype="float64"):
    problem = cases.Problem()
    return problem, problem.weights(model), optimizer or SGD(0.01, momentum=0.9, weight_decay=0.01)


@pytest.mark.parametrize("model", ["bias", "hybrid"])
def test_a_step_that_fails_is_not_taken(gpu, model):
    model = cases.MODELS[model]
    problem, weights, optimizer = setting(model)
    user, item, rating = problem.ratings()
    rating = rating.copy()
    order = np.arange(problem.n_ratings, dtype=np.int32)
    rating[3 * problem.batch + 2] = np.nan
    outcomes = []
    for module in (plain, gpu):
        program = module.compile(model, optimizer, weights, 3, "float64")
        progress = cases.train(program, user, item, rating, order, problem.batch, 0.01)
        assert progress.failed_step == 3
        outcomes.append(cases.Outcome(progress.loss, program.weights(), program.state()))
    assert max(cases.distances(outcomes[1], outcomes[0]).values()) < cases.TOLERANCE
    assert outcomes[1].state["step"] == 3


def test_the_first_step_fails(gpu):
    model = cases.MODELS["bias"]
    problem, weights, optimizer = setting(model)
    user, item, rating = problem.ratings()
    program = gpu.compile(model, optimizer, weights, 3, "float64")
    progress = cases.train(program, user, item, np.full_like(rating, np.inf), np.arange(20, dtype=np.int32), 8, 0.01)
    assert progress.failed_step == 0
    assert not progress.loss.any()
    np.testing.assert_array_equal(program.weights()["item_factors"], weights["item_factors"])
    assert program.finite()


@pytest.mark.parametrize("model", ["bias", "net", "hybrid"])
def test_stopping_and_going_on(gpu, model):
    model = cases.MODELS[model]
    problem, weights, _ = setting(model)
    optimizer = Adam(0.01)
    user, item, rating = problem.ratings()
    one, other = (gpu.compile(model, optimizer, weights, 3, "float32") for _ in range(2))
    orders = problem.orders()
    cases.train(one, user, item, rating, orders[0], 8, 0.01)
    kept = one.snapshot()
    other.load(one.weights(), one.state())
    for program in (one, other):
        cases.train(program, user, item, rating, orders[1], 8, 0.01)
    for a, b in ((one.weights(), other.weights()), (one.state(), other.state())):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)
    one.restore(kept)
    cases.train(one, user, item, rating, orders[1], 8, 0.01)
    assert all(np.array_equal(value, other.weights()[name]) for name, value in one.weights().items())


def test_nothing_given_is_changed(gpu):
    model = cases.MODELS["hybrid"]
    problem, weights, optimizer = setting(model)
    arrays = [*problem.ratings(), problem.orders()[0], *weights.values()]
    copies = [x.copy() for x in arrays]
    program = gpu.compile(model, optimizer, weights, 3, "float64")
    cases.train(program, *arrays[:4], problem.batch, 0.01)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))


def test_an_empty_call(gpu):
    model = cases.MODELS["bias"]
    problem, weights, optimizer = setting(model)
    program = gpu.compile(model, optimizer, weights)
    progress = cases.train(program, *problem.ratings(), np.zeros(0, np.int32), 8, 0.01)
    assert progress.failed_step == -1
    assert progress.loss.tolist() == [0.0]


def test_one_synchronisation_and_one_upload_of_what_cannot_change(gpu):
    model = cases.MODELS["bias"]
    problem, weights, optimizer = setting(model)
    data = problem.ratings()
    for array in data:
        array.setflags(write=False)
    program = gpu.compile(model, optimizer, weights)
    counts = []
    for order in problem.orders()[:4]:
        standin.log.clear()
        cases.train(program, *data, order, problem.batch, 0.01)
        counts.append({kind: sum(1 for k, _ in standin.log if k == kind) for kind in ("get", "set")})
    assert counts[0] == {"get": 1, "set": 5}  # users, items, ratings; and each time the order and the rates
    assert counts[1:] == [{"get": 1, "set": 2}] * 3
    # What may change is looked at again.
    changing = tuple(array.copy() for array in data)
    cases.train(program, *changing, problem.orders()[0], problem.batch, 0.01)
    before = program.weights()["user_bias"]
    changing[2][:] += 1
    cases.train(program, *changing, problem.orders()[0], problem.batch, 0.01)
    standin.log.clear()
    cases.train(program, *changing, problem.orders()[0], problem.batch, 0.01)
    assert sum(1 for k, _ in standin.log if k == "set") == 5
    assert not np.array_equal(before, program.weights()["user_bias"])


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 1000, 1025])
def test_the_order_of_an_epoch_is_that_of_rng(n):
    model = cases.MODELS["bias"]
    _, weights, optimizer = setting(model)
    with standin.emulated() as module:
        program = module.compile(model, optimizer, weights)
        for seed, epoch in ((0, 0), (-5, 1), (2**64 + 3, 2**33)):
            order = program.order(seed, epoch, n)
            assert order.dtype == np.int32
            np.testing.assert_array_equal(order.get(), rng.permutation(seed, epoch, n))


def test_small_batches_take_one_launch_and_large_ones_a_graph():
    model = cases.MODELS["bias"]
    problem, weights, optimizer = setting(model)
    for path, steps_launched in (("resident", "epoch_resident"), ("touched", "epoch_touched")):
        with standin.emulated(path) as module:
            program = module.compile(model, optimizer, weights)
            standin.log.clear()
            cases.train(program, *problem.ratings(), problem.orders()[0], problem.batch, 0.01)
            names = [name for kind, name in standin.log if kind == "launch"]
            assert [name for name in names if not name.startswith(("plan_", "build_"))] == [
                steps_launched, "step_losses", "call_loss",
            ]  # fmt: skip
    with standin.emulated("large") as module:
        program = module.compile(model, optimizer, weights)
        data = problem.ratings()
        for array in data:
            array.setflags(write=False)
        graphs = []
        for order in problem.orders()[:3]:
            standin.log.clear()
            cases.train(program, *data, order, problem.batch, 0.01)
            kinds = [kind for kind, _ in standin.log]
            graphs.append((kinds.count("capture"), kinds.count("graph")))
        assert graphs == [(0, 0), (1, 1), (0, 1)]


def test_what_has_no_kernel_is_composed():
    model = DotBias(600)
    problem = cases.Problem(epochs=2)
    with standin.emulated() as module:
        program = module.compile(model, SGD(0.001), problem.weights(model), 1, "float64")
        assert isinstance(program, Composed)
        check(module, model, SGD(0.0001), problem)
        deep = Net(3, hidden=(4,) * 12, dropout=0.1)
        assert isinstance(module.compile(deep, SGD(0.1), problem.weights(deep)), Composed)
        check(module, deep, SGD(0.001), problem)


def test_wide_nets_go_through_matrix_products():
    model = Net(3, hidden=(40,), dropout=0.2)
    problem = cases.Problem(epochs=3)
    with standin.emulated() as module:
        nets.FUSED_WEIGHTS, before = 50, nets.FUSED_WEIGHTS
        try:
            standin.log.clear()
            check(module, model, Adam(0.01), problem)
            assert ("launch", "net_activate") in standin.log
        finally:
            nets.FUSED_WEIGHTS = before


def test_memory_that_does_not_suffice():
    model = cases.MODELS["bias"]
    problem, weights, optimizer = setting(model)
    with standin.emulated() as module:
        program = module.compile(model, optimizer, weights)
        standin.limit_bytes[0], before = 100, standin.limit_bytes[0]
        try:
            with pytest.raises(MemoryError, match=r"GiB free: a call of about [\d,]+ ratings would fit"):
                cases.train(program, *problem.ratings(), problem.orders()[0], problem.batch, 0.01)
            for dtype in ("float32", "float16"):
                with pytest.raises(MemoryError, match="try fewer factors, SGD instead of Adam, or float32"):
                    module.compile(model, SGD(0.1), weights, dtype=dtype)
        finally:
            standin.limit_bytes[0] = before


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["bias", "hybrid", "composed", "half"])
def test_a_program_stays_on_its_device(kind, path):
    """Made while device 1 was the current one, used while device 0 is: arrays of one are no other's."""
    model = {"composed": DotBias(600), "hybrid": cases.MODELS["hybrid"]}.get(kind, cases.MODELS["bias"])
    problem = cases.Problem(epochs=4)
    weights, (user, item, rating), batch = problem.weights(model), problem.ratings(), 1 if kind == "half" else 8
    for array in (user, item, rating):
        array.setflags(write=False)
    outcomes = []
    with standin.emulated(path) as module:
        import cupy

        for device in (0, 1):
            with cupy.cuda.Device(device):
                program = module.compile(
                    model,
                    SGD(1e-4, weight_decay=0.1, decay="per_rating"),
                    weights,
                    1,
                    "float16" if kind == "half" else "float64",
                )
            for epoch, order in enumerate(problem.orders()):
                if hasattr(program, "order"):
                    order = program.order(1, epoch, len(user))
                progress = cases.train(program, user, item, rating, order, batch, 1e-4)
                assert progress.failed_step == -1
            kept = program.snapshot()
            program.load(program.weights(), program.state())
            program.restore(kept)
            assert program.finite()
            counts = np.bincount(user, minlength=problem.n_users), np.bincount(item, minlength=problem.n_items)
            numbers = np.array([cases.penalty(program, *counts), *cases.predict(program, user, item)])
            outcomes.append(cases.Outcome(numbers, program.weights(), program.state()))
    np.testing.assert_array_equal(outcomes[0].flat(), outcomes[1].flat())


def test_launches_are_checked():
    import numpy

    with standin.emulated():
        import cupy

        kernels = device.Kernels(("-DREAL=double", "-DCHUNKS=1", "-DTHREADS=64"))
        good = cupy.zeros((4, 4), np.float64)
        for bad in (3, 1.5, good[:, :2], numpy.zeros(3)):
            with pytest.raises(TypeError, match="argument 1"):
                kernels.launch("net_clear", (good, bad), 1)


def test_the_dropout_stream_is_that_of_rng():
    with standin.emulated():
        for seed, layer, step in ((0, 0, 1), (-3, 2, 900), (2**70, 5, 2**40)):
            partial = nets.dropout_stream(seed, layer)
            key = rng._mix((partial + step * rng.GOLDEN + rng.GOLDEN) & rng._MASK)
            assert key == rng.key(seed, rng.DROPOUT, layer, step)


def test_why_it_cannot_run_here(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cupy", None)
    for version, words in ((None, "no NVIDIA driver"), (12080, r"minicf\[cuda12x\]"), (13000, r"minicf\[cuda13x\]")):
        monkeypatch.setattr(device, "_driver_version", lambda version=version: version)
        assert __import__("re").search(words, str(device.unavailable()))
    with standin.installed() as cupy:
        assert device.unavailable() is None
        cupy.cuda.runtime.getDeviceCount = lambda: 0
        assert "no GPU" in str(device.unavailable())

        def mismatched():
            raise RuntimeError("cudaErrorInsufficientDriver")

        cupy.cuda.runtime.getDeviceCount = mismatched
        assert "cudaErrorInsufficientDriver" in str(device.unavailable())


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [("bias", "adam-l2-dense"), ("bias", "nesterov-decoupled-dense"), ("hybrid", "sgd-per_rating-sparse")],
)
def test_constants_compiled_in(monkeypatch, model, optimizer):
    """On a device the optimiser is a constant of the kernels; most tests leave it open, to share one build."""
    monkeypatch.setattr(standin, "keep_specialisation", [True])
    for path in PATHS:
        with standin.emulated(path) as module:
            check(module, cases.MODELS[model], cases.optimizer(optimizer, cases.MODELS[model]), SHORT)


@pytest.mark.parametrize("path", PATHS)
def test_the_trainer(monkeypatch, path):
    import pandas as pd

    from minicf import Ratings, Trainer, backends

    user, item, rating = cases.Problem().ratings()
    frame = pd.DataFrame({"userId": user, "movieId": item, "rating": rating})
    train, valid = Ratings.from_frame(frame, duplicates="last").split(valid=0.2)
    monkeypatch.setitem(backends._MODULES, "cupy", "minicf.backends.cuda")
    with standin.emulated(path):
        outcomes = []
        for backend in ("numpy", "cupy"):
            trainer = Trainer(
                cases.MODELS["hybrid"], Adam(0.01), backend=backend, batch_size=8, dtype="float64", seed=2
            )
            standin.log.clear()
            trainer.fit(train, valid, epochs=3)
            if backend == "cupy":  # no order was uploaded
                sizes = [size for kind, size in standin.log if kind == "set"]
                assert [kind for kind, name in standin.log if name == "order_of"] == ["launch"] * 3
                assert sizes.count(4 * len(train)) == 3  # users, items and ratings, once
                # Each epoch fetches its losses, its predictions of `valid`, whether weights are finite, the penalty.
                fetched = [size for kind, size in standin.log if kind == "get"]
                assert sorted(fetched) == sorted(3 * [3 * 8, 8 * len(valid), 8 * len(valid), 8 * len(valid), 1, 8])
            outcomes.append((trainer.history.frame(), trainer.weights, trainer.evaluate(valid)))
            if backend == "cupy":
                trainer.lr = 1e200
                with pytest.raises(ArithmeticError, match="diverged in epoch 4"):
                    trainer.fit(train, epochs=1)
                assert all(np.array_equal(w, outcomes[1][1][name]) for name, w in trainer.weights.items())
        for column in ("train_mse", "valid_mse", "penalty"):
            np.testing.assert_allclose(outcomes[1][0][column], outcomes[0][0][column], rtol=1e-9)
        assert outcomes[1][2] == pytest.approx(outcomes[0][2], rel=1e-9)
