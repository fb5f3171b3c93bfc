"""On a real GPU: what test_cuda_parity.py and test_cuda_ratings.py show under emulation, and sizes that fill a device.

One command: ``pytest -m gpu``. A short run under compute-sanitizer:
``compute-sanitizer --tool memcheck python -m pytest -m gpu -k "any_batch or tiles_are"`` (and ``--tool racecheck``).
"""

from __future__ import annotations

import numpy as np
import pytest

from minicf.backends import cuda
from minicf.backends import numpy as plain
from minicf.models import DotBias, Hybrid, Net
from minicf.optim import SGD, Adam
from tests import cases
from tests.cuda import standin
from tests.test_cuda_parity import (  # noqa: F401 - collected here
    gpu,
    test_a_step_that_fails_is_not_taken,
    test_an_empty_call,
    test_any_batch,
    test_any_number_of_factors,
    test_any_width_of_layers,
    test_every_model,
    test_every_optimizer,
    test_float32_is_as_near_to_float64_as_the_reference_is,
    test_from_the_first_step_on_the_expansion_takes_over,
    test_idle_rows_of_adam_by_the_expansion,
    test_many_steps,
    test_nothing_given_is_changed,
    test_predictions,
    test_stopping_and_going_on,
    test_the_first_step_fails,
    test_the_moments_are_the_sums_they_stand_for,
    test_the_order_of_an_epoch_is_that_of_rng,
    test_the_same_bits_from_any_geometry,
    test_what_has_no_kernel_is_composed,
)
from tests.test_cuda_ratings import (  # noqa: F401 - collected here
    test_half_precision_learns_as_well_and_so_does_racing,
    test_the_order_given_is_kept,
    test_the_tiles_of_the_trainer,
    test_the_trainer_in_half_precision,
    test_tiles_are_the_ratings_one_after_the_other,
    test_tiles_give_the_same_bits_from_any_geometry,
)
from tests.test_cuda_top import (  # noqa: F401 - collected here
    test_the_lists_are_the_cpu_s,
    test_the_recommender_s_lists,
    test_the_selection_is_the_reference_s,
)

REASON = cuda.unavailable()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=f"no GPU test was run: {REASON}")]


@pytest.fixture(autouse=True)
def real(monkeypatch):
    monkeypatch.setattr(standin, "on_device", [True])


# Sizes at which every multiprocessor has rows and several warps meet each barrier.
LARGE = cases.Problem(n_users=671, n_items=9066, n_ratings=20_000, batch=64, epochs=2)


@pytest.mark.parametrize("path", ["resident", "touched", "large", "as it comes"])
@pytest.mark.parametrize(
    "optimizer",
    [SGD(0.05, momentum=0.9, weight_decay=1e-4), Adam(0.003, weight_decay=1e-4), Adam(0.003, decay="decoupled"),
     Adam(0.003, sparse=True)],
)  # fmt: skip
def test_the_shape_of_movielens(path, optimizer):
    model = DotBias(50, rating_range=cases.RANGE)
    weights = {name: 0.05 * w for name, w in LARGE.weights(model).items()}
    user, item, rating = LARGE.ratings()
    outcomes = []
    for which in ("numpy", "cupy", "cupy"):
        context = standin.emulated(path, processors=0, threads=256) if path != "as it comes" else None
        module = plain if which == "numpy" else cuda
        if context is not None and which == "cupy":
            with context:
                outcomes.append(trained(module, model, optimizer, weights, user, item, rating))
        else:
            outcomes.append(trained(module, model, optimizer, weights, user, item, rating))
    far = cases.distances(outcomes[1], outcomes[0])
    assert max(far.values()) < 1e-6, far  # Adam divides by roots of squares: 300 steps spread rounding that far
    np.testing.assert_array_equal(outcomes[1].flat(), outcomes[2].flat())


def trained(module, model, optimizer, weights, user, item, rating):
    program = module.compile(model, optimizer, weights, 5, "float64")
    errors = [
        cases.train(program, user, item, rating, order, LARGE.batch, optimizer.lr).loss for order in LARGE.orders()
    ]
    return cases.Outcome(np.array(errors), program.weights(), program.state())


@pytest.mark.parametrize("batch", [64, 8192])
def test_nets_of_a_usual_size(batch):
    model = Hybrid({"net": (Net(50, hidden=(70,), dropout=(0.3, 0.75)), 0.2), "dot": (DotBias(50), 1.0)})
    problem = cases.Problem(n_users=671, n_items=2000, n_ratings=9000, batch=batch, epochs=1)
    weights = {name: 0.1 * w for name, w in problem.weights(model).items()}
    user, item, rating = problem.ratings()
    outcomes = []
    for module in (plain, cuda):
        program = module.compile(model, Adam(0.001), weights, 5, "float64")
        progress = cases.train(program, user, item, rating, problem.orders()[0], batch, 0.001)
        outcomes.append(cases.Outcome(progress.loss, program.weights(), program.state()))
    assert max(cases.distances(outcomes[1], outcomes[0]).values()) < 1e-6


def test_streams_are_respected():
    import cupy

    model = cases.MODELS["bias"]
    problem = cases.Problem(epochs=3)
    expected = cases.run(plain, model, SGD(0.01), problem)
    with cupy.cuda.Stream(non_blocking=True):
        result = cases.run(cuda, model, SGD(0.01), problem)
    assert max(cases.distances(result, expected).values()) < cases.TOLERANCE
