"""minicf equals trajectories that PyTorch wrote (tests/golden/make.py); and wrong optimisers do not.

The second half is a test of the first: each entry of `SABOTAGES` puts one plausible mistake into the reference and at
least one trajectory has to notice.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from minicf import ops
from minicf.backends import base
from minicf.models import DotBias, Model, Net
from minicf.ops import namespace
from minicf.optim import SGD, Adam, Optimizer
from minicf.solvers import Gradient, gradient
from tests import cases
from tests.golden import make


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(make.FILE, allow_pickle=False) as file:
        return dict(file)


def split(model: Model, optimizer: Optimizer, row: np.ndarray) -> cases.Outcome:
    """A stored row as the arrays that it was made of."""
    shapes = model.shapes(cases.GOLDEN_PROBLEM.n_users, cases.GOLDEN_PROBLEM.n_items)
    layout = {"errors": (cases.GOLDEN_PROBLEM.epochs, len(model.heads)), **shapes, "step": ()}
    layout |= {f"{slot}.{name}": shape for slot in optimizer.slots() for name, shape in shapes.items()}
    ends = np.cumsum([int(np.prod(shape)) for shape in layout.values()])
    assert ends[-1] == len(row)
    parts = np.split(row, ends[:-1])
    arrays = {name: part.reshape(shape) for (name, shape), part in zip(layout.items(), parts, strict=True)}
    weights = {name: arrays[name] for name in shapes}
    state = {name: x for name, x in arrays.items() if name not in shapes and name != "errors"}
    return cases.Outcome(arrays["errors"], weights, state)


def far(backend: str, model_name: str, optimizer_name: str) -> dict[str, float]:
    """The arrays of one trajectory that differ, with their distance."""
    model = cases.GOLDEN_MODELS[model_name]
    optimizer = cases.optimizer(optimizer_name, model)
    expected = split(model, optimizer, golden()[f"{model_name}/{optimizer_name}"])
    result = cases.run(cases.backend(backend), model, optimizer, cases.GOLDEN_PROBLEM)
    return {name: d for name, d in cases.distances(result, expected).items() if not d <= cases.TOLERANCE}


@pytest.mark.parametrize("backend", cases.BACKENDS)
@pytest.mark.parametrize(("model", "optimizer"), cases.GOLDEN)
def test_golden(backend, model, optimizer):
    assert not far(backend, model, optimizer)


def test_the_file_holds_what_the_list_says_and_is_small():
    assert set(golden()) == {f"{model}/{optimizer}" for model, optimizer in cases.GOLDEN}
    assert make.FILE.stat().st_size < 300_000


def test_every_array_of_every_trajectory_is_alive():
    """An array that stays 0 would hide mistakes; hidden units must not have died."""
    for model_name, optimizer_name in cases.GOLDEN:
        model = cases.GOLDEN_MODELS[model_name]
        row = golden()[f"{model_name}/{optimizer_name}"]
        arrays = split(model, cases.optimizer(optimizer_name, model), row).arrays()
        assert all(np.any(array) for array in arrays.values()), (model_name, optimizer_name)


def test_the_script_writes_the_file_again():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its trajectories cannot be made again")
    torch.set_num_threads(1)
    fresh = make.trajectories()
    assert fresh.keys() == golden().keys()
    # Another processor's vector instructions may round otherwise.
    assert max(cases.distance(fresh[name], golden()[name]) for name in fresh) < cases.TOLERANCE


# --- sabotages -------------------------------------------------------------------------------------------------------


def sgd(
    *, dampened=False, no_lookahead=False, old_velocity=False, old_lookahead=False, forgets=False, lr_inside=False,
    constructor_lr=False,
):  # fmt: skip
    """`SGD.update` again, with mistakes to order; without any it must be right."""

    def update(self, w, g, slots, t, lr, table):
        if constructor_lr:
            lr = self.lr
        step = lr * g
        if self.momentum:
            before = slots["velocity"].copy()
            fresh = (1 - self.momentum) * g if dampened else lr * g if lr_inside else g
            v = fresh if forgets else self.momentum * before + fresh
            slots["velocity"] = v
            used = before if old_velocity else v
            if self.nesterov and not no_lookahead:
                used = (lr * g if lr_inside else g) + self.momentum * (before if old_lookahead else used)
            step = used if lr_inside else lr * used
        return w - step

    return update


def decay_after(self, w, grads, state, t, lr, counts, batch):
    """`Optimizer.step` with decoupled decay after the step, not before."""
    plain = replace(self, weight_decay=0.0) if self.decay == "decoupled" else self
    original_step(plain, w, grads, state, t, lr, counts, batch)
    if self.decay == "decoupled":
        for name in w:
            n = counts.get(name)
            at = slice(None) if n is None or not self.sparse else n.nonzero()[0]
            w[name][at] = w[name][at] * (1 - lr * self.decay_of(name))


def decayed_out(self, w, grads, state, t, lr, counts, batch):
    """`Optimizer.step` whose l2 is left out of the second moment."""
    before = {name: state[f"second.{name}"].copy() for name in w if f"second.{name}" in state}
    original_step(self, w, grads, state, t, lr, counts, batch)
    for name, second in before.items():
        n = counts.get(name)
        at = slice(None) if n is None or not self.sparse else n.nonzero()[0]
        state[f"second.{name}"][at] = (self.betas[1] * second + (1 - self.betas[1]) * grads[name] ** 2)[at]


def adam(
    *, eps_in_root=False, swapped_betas=False, no_square=False, undamped=False, no_root=False, constructor_lr=False,
    max_moment=False,
):  # fmt: skip
    """`Adam.update` again, with mistakes to order."""

    def update(self, w, g, slots, t, lr, table):
        lr = self.lr if constructor_lr else lr
        beta1, beta2 = self.betas[::-1] if swapped_betas else self.betas
        m = beta1 * slots["first"] + (1.0 if undamped else 1.0 - beta1) * g
        square = np.abs(g) if no_square else g * g
        v = beta2 * slots["second"] + (1.0 - beta2) * square
        v = np.maximum(v, slots["second"]) if max_moment else v
        slots["first"], slots["second"] = m, v
        rate, root, eps = self.scalars(t, lr, table)
        if eps_in_root:
            below = namespace(v).sqrt(v / root**2 + eps)
        else:
            below = (v / root**2 if no_root else namespace(v).sqrt(v) / root) + eps
        return w - rate * m / below

    return update


def decayed(
    *, sign=1.0, factor=1.0, l2_as_decoupled=False, decoupled_as_l2=False, without_lr=False, once=False,
    undivided=False, dense_share=False, as_l2=False,
):  # fmt: skip
    """`Optimizer._decayed` again, with mistakes to order."""

    def _decayed(self, name, at, w, g, lr, n, batch):
        decay = sign * factor * self.decay_of(name)
        w, g = w[at], g[at]
        kind = self.decay
        if kind == "l2" and l2_as_decoupled:
            kind = "decoupled"
        elif (kind == "decoupled" and decoupled_as_l2) or (kind == "per_rating" and as_l2):
            kind = "l2"
        if kind == "l2":
            g = g + decay * w
        elif kind == "per_rating":
            if n is None:
                share = 1.0 / batch if dense_share else 1.0
            else:
                share = (np.minimum(n[at], 1) if once else n[at]) / (1.0 if undivided else batch)
                share = share[:, None] if w.ndim == 2 else share
            g = g + decay * share * w
        else:
            w = w * (1.0 - (1.0 if without_lr else lr) * decay)
        return w, g

    return _decayed


def scalars(t=lambda t: t, result=lambda self, lr, rate, root, eps: (rate, root, eps), table=lambda table: table):
    original = Adam.scalars

    def wrong(self, step, lr, table_):
        return result(self, lr, *original(self, t(step), lr, table(table_)))

    return lambda self, t, lr, table: wrong(self, t, lr, table)


def step(at):
    """`Optimizer.step` with another choice of rows: at(self, counts of the weight or None)."""

    def wrong(self, w, grads, state, t, lr, counts, batch):
        for name in w:
            n = counts.get(name)
            rows = at(self, n)
            old, g = self._decayed(name, rows, w[name], grads[name], lr, n, batch)
            slots = {slot: state[f"{slot}.{name}"][rows] for slot in self.slots()}
            w[name][rows] = self.update(old, g, slots, t, lr, n is not None)
            for slot, value in slots.items():
                state[f"{slot}.{name}"][rows] = value

    return wrong


def decay_of(choose):
    """`Optimizer.decay_of` by a wrong rule: choose(self, name, right answer by name)."""
    original = Optimizer.decay_of
    return lambda self, name: choose(self, name, lambda other: original(self, other))


def run(change):
    """`Gradient.run` with a changed part, or something done before: change(program, part)."""
    original = Gradient.run
    return lambda self, program, data, part: original(self, program, data, change(program, part))


def forget_state(program, part):
    for array in program.slots.values():
        array[...] = 0
    return part


def forget_step(program, part):
    program.t = 0
    return part


def averaged_over_the_full_size(model, loss, w, batch, masks=None):
    found, grads = original_passes(model, loss, w, batch, masks)
    return found, {name: g * (batch.size / cases.GOLDEN_PROBLEM.batch) for name, g in grads.items()}


def decay_idle_state(self, w, grads, state, t, lr, counts, batch):
    """Sparse rows stay, but their state goes on without them."""
    original_step(self, w, grads, state, t, lr, counts, batch)
    if self.sparse:
        for name, n in counts.items():
            for slot in self.slots():
                state[f"{slot}.{name}"][n == 0] *= 0.9


original_step = Optimizer.step
original_passes = gradient.loss_and_gradients
original_forward = Net.forward
original_dot_forward = DotBias.forward

EVERY_ROW = slice(None)
SWAP = {"user_factors": "item_factors", "item_factors": "user_factors", "user_bias": "item_bias",
        "item_bias": "user_bias"}  # fmt: skip

SABOTAGES = {
    "momentum: dampened by 1 - mu": (SGD, "update", sgd(dampened=True)),
    "momentum: velocity updated after use": (SGD, "update", sgd(old_velocity=True)),
    "momentum: velocity forgets": (SGD, "update", sgd(forgets=True)),
    "momentum: learning rate inside the velocity": (SGD, "update", sgd(lr_inside=True)),
    "nesterov: ignored": (SGD, "update", sgd(no_lookahead=True)),
    "nesterov: looks ahead with the old velocity": (SGD, "update", sgd(old_lookahead=True)),
    "sgd: schedule ignored": (SGD, "update", sgd(constructor_lr=True)),
    "sgd: decoupled decay after the step": (Optimizer, "step", decay_after),
    "adam: stuck step counter": (Adam, "scalars", scalars(t=lambda t: 1)),
    "adam: step counter one ahead": (Adam, "scalars", scalars(t=lambda t: t + 1)),
    "adam: step counter starts anew each call": (Gradient, "run", run(forget_step)),
    "adam: no correction of the first moment": (
        Adam, "scalars", scalars(result=lambda self, lr, rate, root, eps: (lr, root, eps))),
    "adam: no correction of the second moment": (
        Adam, "scalars", scalars(result=lambda self, lr, rate, root, eps: (rate, 1.0, eps))),
    "adam: no bias correction": (Adam, "scalars", scalars(result=lambda self, lr, rate, root, eps: (lr, 1.0, eps))),
    "adam: eps inside the root": (Adam, "update", adam(eps_in_root=True)),
    "adam: eps forgotten": (Adam, "scalars", scalars(
        result=lambda self, lr, rate, root, eps: (rate, root, 1e-30))),
    "adam: (U9) missing on sparse tables": (Adam, "scalars", scalars(table=lambda table: False)),
    "adam: (U9) on dense layers too": (Adam, "scalars", scalars(table=lambda table: True)),
    "adam: betas swapped": (Adam, "update", adam(swapped_betas=True)),
    "adam: second moment not squared": (Adam, "update", adam(no_square=True)),
    "adam: first moment without 1 - beta1": (Adam, "update", adam(undamped=True)),
    "adam: root forgotten": (Adam, "update", adam(no_root=True)),
    "adam: l2 left out of the second moment": (Optimizer, "step", decayed_out),
    "adam: second moment never shrinks": (Adam, "update", adam(max_moment=True)),
    "adam: schedule ignored": (Adam, "update", adam(constructor_lr=True)),
    "decay: sign": (Optimizer, "_decayed", decayed(sign=-1.0)),
    "decay: factor 2": (Optimizer, "_decayed", decayed(factor=2.0)),
    "decay: forgotten": (Optimizer, "_decayed", decayed(factor=0.0)),
    "decay: l2 taken as decoupled": (Optimizer, "_decayed", decayed(l2_as_decoupled=True)),
    "decay: decoupled taken as l2": (Optimizer, "_decayed", decayed(decoupled_as_l2=True)),
    "decay: decoupled without the learning rate": (Optimizer, "_decayed", decayed(without_lr=True)),
    "decay: on the other side's tables": (
        Optimizer, "decay_of", decay_of(lambda self, name, right: right(SWAP.get(name, name)))),
    "decay: one weight's lambda for all": (
        Optimizer, "decay_of", decay_of(lambda self, name, right: right("user_factors"))),
    "decay: none on biases": (
        Optimizer, "decay_of", decay_of(lambda self, name, right: 0.0 if name.endswith("bias") else right(name))),
    "decay: none on dense layers": (
        Optimizer, "decay_of", decay_of(lambda self, name, right: right(name) if name in SWAP else 0.0)),
    "per_rating: rows counted once": (Optimizer, "_decayed", decayed(once=True)),
    "per_rating: not divided by B": (Optimizer, "_decayed", decayed(undivided=True)),
    "per_rating: dense layers by 1/B": (Optimizer, "_decayed", decayed(dense_share=True)),
    "per_rating: taken as l2": (Optimizer, "_decayed", decayed(as_l2=True)),
    "rows: sparse moves untouched rows": (Optimizer, "step", step(lambda self, n: EVERY_ROW)),
    "rows: dense leaves untouched rows": (
        Optimizer, "step", step(lambda self, n: EVERY_ROW if n is None else n.nonzero()[0])),
    "rows: sparse skips rows named once": (
        Optimizer, "step",
        step(lambda self, n: EVERY_ROW if n is None or not self.sparse else (n > 1).nonzero()[0])),
    "rows: state of untouched rows decays": (Optimizer, "step", decay_idle_state),
    "program: state forgotten between calls": (Gradient, "run", run(forget_state)),
    "program: first learning rate for the whole call": (
        Gradient, "run", run(lambda _, part: part._replace(rates=np.full_like(part.rates, part.rates[0])))),
    "program: short batch dropped": (
        Gradient, "run", run(lambda _, part: part._replace(rows=part.rows[:18], rates=part.rates[:3]))),
    "program: order ignored": (Gradient, "run", run(lambda _, part: part._replace(rows=np.sort(part.rows)))),
    "program: same dropout mask at every step": (
        base.Program, "masks", lambda self, batch: self.model.dropout_masks(self.seed, 1, batch, self.dtype)),
    "program: no dropout": (base.Program, "masks", lambda self, batch: None),
    "loss: short batch averaged over the full size": (
        gradient, "loss_and_gradients", averaged_over_the_full_size),
    # Mistakes that forward and backward share: the gradient checks cannot see them, being true to a wrong function.
    "forward: mean forgotten": (
        DotBias, "forward",
        lambda self, w, batch, m=None: original_dot_forward(DotBias(2, self.rating_range), w, batch, m)),
    "forward: range forgotten": (
        DotBias, "forward",
        lambda self, w, batch, m=None: original_dot_forward(DotBias(2, global_mean=self.global_mean), w, batch, m)),
    "forward: item looked up with the user's index": (
        DotBias, "forward",
        lambda self, w, batch, m=None: original_dot_forward(self, w, batch._replace(item=batch.user), m)),
    "forward: dropout without 1 / (1 - rate)": (
        ops, "dropout", lambda x, mask: x if mask is None else x * (mask > 0)),
    "forward: input dropout forgotten": (
        Net, "forward",
        lambda self, w, batch, m=None: original_forward(self, w, batch, (None, *m[1:]) if m else m)),
}  # fmt: skip


def noticed_by() -> str | None:
    """The first trajectory that differs."""
    return next((f"{model}/{name}" for model, name in cases.GOLDEN if far("numpy", model, name)), None)


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotage_is_noticed(name, monkeypatch):
    target, attribute, wrong = SABOTAGES[name]
    assert hasattr(target, attribute)
    monkeypatch.setattr(target, attribute, wrong)
    assert noticed_by() is not None


@pytest.mark.parametrize(
    ("target", "attribute", "again"),
    [
        (SGD, "update", sgd()),
        (Adam, "update", adam()),
        (Adam, "scalars", scalars()),
        (Optimizer, "_decayed", decayed()),
        (Optimizer, "decay_of", decay_of(lambda self, name, right: right(name))),
        (Gradient, "run", run(lambda program, part: part)),
        (
            Optimizer,
            "step",
            step(lambda self, n: EVERY_ROW if n is None or not self.sparse else n.nonzero()[0]),
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_without_the_mistake_nothing_is_noticed(target, attribute, again, monkeypatch):
    """What the sabotages are made of is right when no mistake is ordered: the mistake is what was noticed."""
    monkeypatch.setattr(target, attribute, again)
    assert noticed_by() is None
