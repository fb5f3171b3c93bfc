"""A few mistakes put into the passes and the optimizers are noticed; `campaigns/mutation.py` makes the many."""

from __future__ import annotations

import ast
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

import minicf
from minicf import checking, ops
from minicf.data import Batch
from tests import cases, test_golden
from tests.campaigns import mutation

MODULES = (
    "ops.py",
    "losses.py",
    "models/dot.py",
    "models/net.py",
    "models/hybrid.py",
    "solvers/gradient.py",
    "optim.py",
)

# What computes: arguments and texts are the business of tests that take longer.
PASSES = {
    **dict.fromkeys(("models/dot.py", "models/net.py", "models/hybrid.py"), ("forward", "backward")),
    "losses.py": ("value_and_slope", "__call__"),
    "solvers/gradient.py": ("loss_and_gradients",),
    "optim.py": ("update", "_decayed", "scalars", "step", "slots"),
}


def two_steps(optimizer: minicf.Optimizer) -> float:
    """The weight 1 after two gradients, 2 and 4."""
    w = {"x": np.ones(1)}
    slots = optimizer.init_state(w)
    for t, g in ((1, 2.0), (2, 4.0)):
        optimizer.step(w, {"x": np.array([g])}, slots, t, optimizer.lr, {}, 1)
    return float(w["x"][0])


def check() -> None:
    """Derivatives by finite differences, and trajectories of PyTorch's; raises where something is wrong."""
    for name in ("bias", "net", "hybrid"):
        assert checking.check_gradients(cases.MODELS[name], method="project").ok
    assert checking.check_gradients(minicf.DotBias(3), method="project", loss=minicf.Logistic()).ok
    assert checking.check_gradients(cases.BAGGED["svdpp-all"], method="project").ok
    assert checking.check_gradients(cases.FOR_LISTS["unit"], method="project").ok
    for listed in (minicf.Logistic(2, weight=0.5), minicf.BPR(2)):
        assert checking.check_gradients(cases.MODELS["hybrid"], method="project", loss=listed).ok
    batch = Batch(*np.zeros((2, 2), int), target=np.array([1.0, 2.0]), weight=np.array([2.0, 3.0]))
    value, slope = minicf.SquaredError()(np.array([3.0, 3.0]), batch)
    assert (value.tolist(), slope.tolist()) == ([8.0, 3.0], [8.0, 6.0])
    assert ops.relu_backward(np.ones(1), np.zeros(1)) == 0  # no derivative by differences there
    for kind in ("sgd", "nesterov", "adam", "adam-eps"):
        for decay, rows in (("l2", "dense"), ("decoupled", "sparse"), ("per_rating", "sparse")):
            if (kind, decay) != ("adam-eps", "per_rating"):
                assert not test_golden.far("numpy", "small-bias", f"{kind}-{decay}-{rows}")
    assert not test_golden.far("numpy", "small-hybrid", "momentum-by_name-dense")
    assert not test_golden.far("numpy", "small-hybrid", "sgd-per_rating-sparse")
    assert not test_golden.far("numpy", "net-3", cases.FEW_OPTIMIZERS[0])
    root = math.sqrt
    adagrad = minicf.AdaGrad(0.1, eps=0.25, initial=1.0)
    centered = minicf.RMSProp(0.1, alpha=0.25, eps=0.25, momentum=0.5, centered=True)
    first = 2 / (root(0.75) + 0.25)  # 0.75 = 0.75 * 2^2 - (0.75 * 2)^2
    second = 4 / (root(1.359375) + 0.25)  # 12.75 - 3.375^2
    assert two_steps(adagrad) == pytest.approx(1 - 0.1 * (2 / (root(5) + 0.25) + 4 / (root(21) + 0.25)))
    assert two_steps(centered) == pytest.approx(1 - 0.1 * (1.5 * first + second))
    plain_rates = minicf.RMSProp(0.1, alpha=0.25, eps=0.25)
    assert two_steps(plain_rates) == pytest.approx(1 - 0.1 * (2 / (root(3) + 0.25) + 4 / (root(12.75) + 0.25)))
    shifted, plain = (minicf.Net(2, hidden=(), dropout=0.0, global_mean=mean) for mean in (1.0, 0.0))
    w = plain.init_weights(1, 1)
    assert shifted.predict(w, batch) == pytest.approx(plain.predict(w, batch) + 1)


def test_without_a_mistake_nothing_is_noticed():
    check()


@pytest.mark.parametrize("module", MODULES)
def test_mistakes_are_noticed(module):
    found = [
        m
        for m in mutation.mutants(module)
        if m.key not in mutation.EQUIVALENT and m.owner and m.owner[-1] in PASSES.get(module, (m.owner[-1],))
    ]
    survivors = []
    for mutant in mutation.sample(found, 8, seed=2):
        back = mutation.apply(mutant)
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check()
        except Exception:  # whatever it is, it is noticed
            pass
        else:
            survivors.append(str(mutant))
        finally:
            back()
    assert not survivors
    check()


@pytest.mark.parametrize("module", mutation.TESTS)
def test_mutants_are_python_and_differ(module):
    source = (mutation.PACKAGE / module).read_text(encoding="utf-8")
    found = mutation.mutants(module)
    assert len(found) > 5
    assert len({m.key for m in found}) == len({(m.line, *m.key) for m in found}) or module not in MODULES
    plain = ast.dump(ast.parse(source))
    for mutant in mutation.sample(found, 20, seed=0):
        assert ast.dump(ast.parse(mutant.source(source))) != plain, mutant


def test_what_is_said_to_be_equivalent_is_still_there():
    """An entry for a line that was changed says nothing any more."""
    plain = [module for module in mutation.TESTS if module not in mutation.COMPILED]
    keys = {m.key for module in plain for m in mutation.mutants(module)}
    assert {key for key in mutation.EQUIVALENT if key[0] in plain} <= keys
    assert all((Path(mutation.ROOT) / "tests" / f"{name}.py").exists() for name in sum(mutation.TESTS.values(), ()))
