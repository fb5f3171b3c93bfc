"""The losses of the kernels, a value and a slope from a score, against NumPy; under the emulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minicf.backends import numpy as plain
from minicf.backends.cuda import device
from minicf.backends.cuda.per_rating import PerRating
from minicf.losses import Logistic, SquaredError
from minicf.optim import SGD, Adam
from minicf.solvers import Gradient
from tests import cases
from tests.cuda import emulator, standin

pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))

PROBE = """
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    probe_loss(const Setup a, const real* s, const real* rating, real* value, real* slope, int batch, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        Loss loss = loss_of(a, s[i], RANGE, a.low, a.high, rating[i], batch);
        value[i] = loss.value, slope[i] = loss.slope;
    }
}
"""
BATCH = 7
RANGES = (None, (0.5, 5.0), (-4.0, 4.0))


def probe(loss: type, reach: tuple[float, float] | None, s: np.ndarray, rating: np.ndarray) -> list[np.ndarray]:
    low, high = reach or (0.0, 0.0)
    fields = {"loss": device.LOSSES[loss], "range": reach is not None, "low": low, "high": high, "stride": 4}
    setup = device.make_struct(device.SETUP, fields)
    with standin.emulated():
        import cupy

        options = device.options(setup, s.dtype, device.THREADS, nets=False)
        kernel = cupy.RawModule(code=device.source() + PROBE, options=options).get_function("probe_loss")
        value, slope = cupy.empty(len(s), s.dtype), cupy.empty(len(s), s.dtype)
        arguments = (setup, cupy.asarray(s), cupy.asarray(rating), value, slope, np.int32(BATCH), np.int32(len(s)))
        kernel((2,), (device.THREADS,), arguments)
        return [value.get(), slope.get()]


def sigmoid(s: np.ndarray) -> np.ndarray:
    """In another form than the kernels', which also does not overflow."""
    return np.exp(-np.logaddexp(0, -s))


def expected(loss: type, reach: tuple[float, float] | None, s: np.ndarray, rating: np.ndarray) -> list[np.ndarray]:
    s, r = s.astype(np.longdouble), rating.astype(np.longdouble)
    g = sigmoid(s)
    y, d_y = s, np.ones_like(s)
    if reach is not None:
        low, high = reach
        y, d_y = low + (high - low) * g, (high - low) * g * (1 - g)
    if loss is Logistic:
        value, slope = np.logaddexp(0, y) - r * y, sigmoid(y) - r
    else:
        value, slope = (y - r) ** 2, 2 * (y - r)
    return [value, slope * d_y / BATCH]


def scores() -> tuple[np.ndarray, np.ndarray]:
    """Each score with each rating; exp of the largest would overflow in float64."""
    s = np.array([0.0, 1e-8, 0.3, 1.0, 5.0, 20.0, 40.0, 90.0, 800.0, 5000.0])
    pairs = np.array([(x, r) for x in (*s, *-s) for r in (0.0, 0.25, 1.0)])
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reach", RANGES)
@pytest.mark.parametrize("loss", [SquaredError, Logistic])
def test_value_and_slope_of_each_loss(monkeypatch, loss, reach, dtype, constant):
    monkeypatch.setattr(standin, "keep_specialisation", [constant])
    s, rating = (x.astype(dtype) for x in scores())
    eps = np.finfo(dtype).eps
    for found, exact in zip(probe(loss, reach, s, rating), expected(loss, reach, s, rating), strict=True):
        assert found.dtype == dtype
        assert np.isfinite(found).all()
        # A sigmoid is exact to an eps of 1, an output within a range to an eps of the range's ends.
        np.testing.assert_allclose(found, exact.astype(np.float64), rtol=20 * eps, atol=20 * eps)


@pytest.mark.parametrize("path", ["resident", "touched", "large"])
@pytest.mark.parametrize("model", ["bias", "net", "hybrid"])
def test_every_kernel_that_trains_takes_its_loss_from_there(path, model):
    model, problem = cases.MODELS[model], cases.Problem(epochs=3)
    runs = [(Adam(0.01, weight_decay=0.02), problem)]
    if model is cases.MODELS["bias"]:
        runs.append((SGD(0.01), replace(problem, batch=1)))
    with standin.emulated(path) as module:
        for optimizer, each in runs:
            solver = Gradient(optimizer, Logistic())
            far = cases.distances(cases.run(module, model, solver, each), cases.run(plain, model, solver, each))
            assert max(far.values()) < cases.TOLERANCE, far
        if path == "resident" and len(runs) == 2:
            (user, item, rating), weights, order = problem.ratings(), problem.weights(model), problem.orders()[0]
            ours = PerRating(model, Gradient(SGD(0.01), Logistic(), 1), weights, "float64")
            theirs = plain.compile(model, Gradient(SGD(0.01), Logistic(), 1), weights, 0, "float64")
            progress = [cases.train(program, user, item, rating, order, 1, 0.01) for program in (ours, theirs)]
            np.testing.assert_allclose(progress[0].loss, progress[1].loss, rtol=1e-12)
            for name, value in theirs.weights().items():
                assert cases.distance(ours.weights()[name], value) < cases.TOLERANCE
