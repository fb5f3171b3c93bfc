"""A few mistakes put into the passes and the optimisers are noticed; `campaigns/mutation.py` makes the many."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import numpy as np
import pytest

from minicf import checking
from tests import cases, test_golden
from tests.campaigns import mutation

MODULES = ("ops.py", "models.py", "optim.py")

# What computes: arguments and texts are the business of tests that take longer.
PASSES = {
    "models.py": ("forward", "backward", "loss_and_gradients", "_finish", "_finish_backward"),
    "optim.py": ("_move", "_decayed", "scalars", "step", "slots"),
}


def check() -> None:
    """Derivatives by finite differences, and trajectories of PyTorch's; raises where something is wrong."""
    for name in ("bias", "net", "hybrid"):
        assert checking.check_gradients(cases.MODELS[name], method="project").ok
    for kind in ("sgd", "nesterov", "adam", "adam-eps"):
        for decay, rows in (("l2", "dense"), ("decoupled", "sparse"), ("per_rating", "sparse")):
            if (kind, decay) != ("adam-eps", "per_rating"):
                assert not test_golden.far("numpy", "small-bias", f"{kind}-{decay}-{rows}")
    assert not test_golden.far("numpy", "small-hybrid", "momentum-by_name-dense")
    assert not test_golden.far("numpy", "net-3", cases.FEW_OPTIMIZERS[0])


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
    assert len(found) > 20
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
