"""Schedules: values against formulas written out by hand, at every step, and how they go on over several fits."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minicf
from minicf import registry, schedules
from minicf.schedules import (
    Chain,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Linear,
    OneCycle,
    Piecewise,
    Schedule,
    Step,
    WarmUp,
)
from tests import cases
from tests.cases import Problem

ALL = [
    Constant(),
    Step(2, 0.5),
    Exponential(0.8),
    Cosine(6),
    Cosine(6, low=0.1),
    CosineRestarts(1, 2),
    CosineRestarts(1.5, low=0.2),
    OneCycle(6),
    Linear(1.0, 0.1, 6),
    Piecewise((1, 2.5), (1.0, 0.5, 0.1)),
    Chain((Linear(0.2, 1.0), Constant(), Cosine(4)), at=(1, 2)),
    WarmUp(Cosine(5), epochs=1, start=0.25),
]


def times(epochs: float, steps: int) -> np.ndarray:
    """The times at which the trainer asks, in epochs."""
    whole = math.ceil(epochs)
    return np.concatenate([epoch + np.arange(steps) / steps for epoch in range(whole)])


# --- values -------------------------------------------------------------------------------------------------------


def test_constant():
    assert Constant().factor(times(3, 4)).tolist() == [1.0] * 12


def test_step():
    got = Step(every=2, gamma=0.1).factor(times(6, 2))
    assert got == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])


def test_exponential():
    t = times(4, 5)
    assert Exponential(0.5).factor(t) == pytest.approx([math.exp(x * math.log(0.5)) for x in t])
    assert Exponential(0.5).factor(np.array([0.0, 1.0, 3.0])).tolist() == [1.0, 0.5, 0.125]


@pytest.mark.parametrize("low", [0.0, 0.1])
def test_cosine(low):
    t = times(4, 7)
    expected = [low + (1 - low) * (1 + math.cos(math.pi * x / 4)) / 2 for x in t]
    got = Cosine(4, low=low).factor(t)
    assert got == pytest.approx(expected)
    assert got[0] == 1.0
    assert (np.diff(got) < 0).all()
    assert Cosine(4, low=low).factor(np.array([4.0, 5.0, 100.0])) == pytest.approx([low] * 3)


def test_one_cycle():
    schedule = OneCycle(8, up=0.25, start=0.1, end=0.01)
    t = times(8, 4)
    expected = [
        0.1 + 0.9 * (1 - math.cos(math.pi * x / 2)) / 2
        if x < 2
        else 0.01 + 0.99 * (1 + math.cos(math.pi * (x - 2) / 6)) / 2
        for x in t
    ]
    got = schedule.factor(t)
    assert got == pytest.approx(expected)
    assert got[0] == pytest.approx(0.1)
    assert got.argmax() == 8  # two epochs of four steps
    assert got.max() == 1.0
    assert schedule.factor(np.array([8.0, 20.0])) == pytest.approx([0.01] * 2)


def restarts_by_walking(cycle_steps: int, mult: int, n: int, low: float = 0.0) -> list[float]:
    """Factors of `n` steps, a step at a time, counting in whole numbers."""
    out, at, length = [], 0, cycle_steps
    for _ in range(n):
        if at == length:
            at, length = 0, length * mult
        out.append(low + (1 - low) * (1 + math.cos(math.pi * at / length)) / 2)
        at += 1
    return out


@pytest.mark.parametrize("mult", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 3, 7, 10, 30, 49, 1251])
@pytest.mark.parametrize("cycle_in_steps", [1, 2, 3, 7, 30])
def test_restarts_fall_on_the_right_step(mult, steps, cycle_in_steps):
    # Cycles that are a fraction of an epoch, too: 3/10 and its like have no exact binary form.
    schedule = CosineRestarts(cycle=cycle_in_steps / steps, mult=mult)
    t = times(max(1, 3000 // steps), steps)
    # 1e-9: a step to the wrong side of a restart errs by about 1; rounding in t is 1e-16 of some 1e3 epochs.
    assert schedule.factor(t) == pytest.approx(restarts_by_walking(cycle_in_steps, mult, len(t)), abs=1e-9)


@pytest.mark.parametrize("steps", [1, 7, 1251])
def test_restarts_of_the_lesson(steps):
    got = CosineRestarts(cycle=1, mult=2).factor(times(7, steps))
    starts = np.flatnonzero(got == 1.0)
    assert starts.tolist() == [0, steps, 3 * steps]  # cycles of 1, 2 and 4 epochs
    assert got == pytest.approx(restarts_by_walking(steps, 2, 7 * steps), abs=1e-9)


def test_restarts_with_a_floor_and_a_broken_mult():
    assert CosineRestarts(2, low=0.5).factor(np.array([0, 1, 2, 3, 4.0])) == pytest.approx([1, 0.75, 1, 0.75, 1])
    # Cycles of 1, 1.5 and 2.25 epochs.
    got = CosineRestarts(1, mult=1.5).factor(np.array([0, 0.5, 1, 1.75, 2.5, 3.625]))
    assert got == pytest.approx([1, 0.5, 1, 0.5, 1, 0.5])


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 30, 49])
@pytest.mark.parametrize("every_in_steps", [1, 2, 3, 7])
def test_steps_fall_on_the_right_step(steps, every_in_steps):
    t = times(9, steps)
    expected = [0.9 ** (i // every_in_steps) for i in range(len(t))]
    assert Step(every_in_steps / steps, 0.9).factor(t) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_factors_are_between_0_and_1_and_part_by_part_the_same(schedule):
    t = times(9, 11)
    whole = schedule.factor(t)
    assert whole.shape == t.shape
    assert whole.dtype == np.float64
    assert ((whole >= 0) & (whole <= 1)).all()
    parts = np.concatenate([schedule.factor(t[:40]), schedule.factor(t[40:])])
    assert (parts == whole).all()


@pytest.mark.parametrize("steps", [1, 3, 7, 10])
def test_values_are_pytorchs(steps):
    """A step of ours is a step of torch's scheduler; OneCycle ends after its last step, torch's at it."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; other tests have the values by hand")
    optim = torch.optim.lr_scheduler

    def theirs(make, n=6 * steps):
        sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = make(sgd)
        rates = []
        for _ in range(n):
            rates.append(sgd.param_groups[0]["lr"])
            sgd.step()
            scheduler.step()
        return np.array(rates)

    pairs = {
        Linear(0.3, 0.9, 4): lambda o: optim.LinearLR(o, 0.3, 0.9, 4 * steps),
        Piecewise((1, 3), (1.0, 0.5, 0.25)): lambda o: optim.MultiStepLR(o, [steps, 3 * steps], 0.5),
        Step(2, 0.3): lambda o: optim.StepLR(o, 2 * steps, 0.3),
        Exponential(0.5): lambda o: optim.ExponentialLR(o, 0.5 ** (1 / steps)),
        Cosine(6, low=0.1): lambda o: optim.CosineAnnealingLR(o, 6 * steps, 0.1),
        CosineRestarts(2, 2, 0.1): lambda o: optim.CosineAnnealingWarmRestarts(o, 2 * steps, 2, 0.1),
        WarmUp(Cosine(4), 2, 0.25): lambda o: optim.SequentialLR(
            o, [optim.LinearLR(o, 0.25, 1.0, 2 * steps), optim.CosineAnnealingLR(o, 4 * steps)], [2 * steps]
        ),
        OneCycle(6, 0.5, 0.04, 1e-4): lambda o: optim.OneCycleLR(
            o, 1.0, 6 * steps + 1, pct_start=(3 * steps + 1) / (6 * steps + 1), final_div_factor=400.0
        ),
    }
    for schedule, make in pairs.items():
        assert schedule.factor(times(6, steps)) == pytest.approx(theirs(make), abs=1e-12), schedule


# --- arguments and configs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Step(every=0), "every is 0"),
        (lambda: Step(gamma=-1), "gamma is -1"),
        (lambda: Exponential(gamma=0), "gamma is 0"),
        (lambda: Exponential(gamma=math.nan), "gamma is nan"),
        (lambda: Cosine(0), "epochs is 0"),
        (lambda: Cosine(math.inf), "epochs is inf"),
        (lambda: Cosine(3, low=-0.1), "low is -0.1"),
        (lambda: Cosine(3, low=math.nan), "low is nan"),
        (lambda: CosineRestarts(cycle=0), "cycle is 0"),
        (lambda: CosineRestarts(mult=0.5), "mult is 0.5"),
        (lambda: CosineRestarts(mult=math.inf), "mult is inf"),
        (lambda: CosineRestarts(low=-1), "low is -1"),
        (lambda: Linear(-1), "start is -1"),
        (lambda: Linear(1, math.nan), "end is nan"),
        (lambda: Linear(epochs=0), "epochs is 0"),
        (lambda: Piecewise((2, 1), (1, 1, 1)), "each time must be later"),
        (lambda: Piecewise((1,), (1,)), "it must be 2 numbers"),
        (lambda: Piecewise((1,), (1, -1)), r"factors\[1\] is -1"),
        (lambda: Piecewise("1", (1, 1)), "at is '1'"),
        (lambda: Chain((Constant(),), at=(1,)), "it must be 2 schedules"),
        (lambda: Chain((Constant(), 0.5), at=(1,)), "it must be 2 schedules"),
        (lambda: Chain((Constant(), Cosine()), at=(3,)).for_fit(3), "epochs is 3; it must be above 3"),
        (lambda: WarmUp(then=0.1), "then is 0.1; it must be a Schedule"),
        (lambda: WarmUp(epochs=0), "epochs is 0"),
        (lambda: WarmUp(Cosine(), 2).for_fit(1), "epochs is 1; it must be above 2"),
        (lambda: OneCycle(-1), "epochs is -1"),
        (lambda: OneCycle(3, up=0), "up is 0"),
        (lambda: OneCycle(3, up=1), "up is 1"),
        (lambda: OneCycle(3, start=-1), "start is -1"),
        (lambda: OneCycle(3, end=math.nan), "end is nan"),
    ],
)
def test_bad_arguments_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_config_round_trip(schedule):
    assert registry.from_config(registry.to_config(schedule), Schedule, "schedule") == schedule


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"unknown schedule 'Cubic'; known are \['Chain'"):
        registry.from_config({"kind": "Cubic"}, Schedule, "schedule")


def test_every_schedule_is_tested_and_known():
    kinds = {x for x in vars(schedules).values() if isinstance(x, type) and issubclass(x, Schedule)} - {Schedule}
    assert {type(schedule) for schedule in ALL} == kinds
    assert all(hasattr(minicf, kind.__name__) for kind in kinds)


def test_a_missing_length_is_that_of_the_fit():
    assert Cosine().for_fit(5) == Cosine(5)
    assert Cosine(3).for_fit(5) == Cosine(3)
    assert OneCycle(up=0.5).for_fit(4) == OneCycle(4, up=0.5)
    assert CosineRestarts().for_fit(5) == CosineRestarts()
    assert WarmUp(Cosine(), 2).for_fit(5) == WarmUp(Cosine(3), 2)
    assert Chain((Linear(), Cosine()), at=(2,)).for_fit(5) == Chain((Linear(epochs=2), Cosine(3)), at=(2,))
    assert (WarmUp(Cosine(3), 2).horizon, WarmUp().horizon) == (5, None)
    assert (Cosine(3).horizon, OneCycle(4).horizon, CosineRestarts().horizon) == (3, 4, None)


def test_the_base_has_no_factor():
    with pytest.raises(NotImplementedError):
        schedules.Schedule().factor(np.zeros(1))


# --- in a trainer -----------------------------------------------------------------------------------------------------


class Recorder:
    """Stands for a trainer's program: notes the learning rates and trains nothing."""

    def steps_per_call(self, batch_size):
        return 3

    def __init__(self):
        self.rates = []

    def hold(self, bags):
        assert not bags

    def order(self, seed, epoch, n):
        return np.arange(n)

    def run(self, data, part):
        steps = -(-len(part.rows) // 8)
        self.rates += np.broadcast_to(part.rates, (steps,)).tolist()
        return minicf.Progress(np.zeros(1), len(part.rows), steps)

    def penalty(self, *counts):
        return 0.0

    def finite(self):
        return True

    def snapshot(self):
        return None


def recorded(fits, lr=0.5):
    """Learning rates of all steps of a trainer after some fits, each (epochs, schedule)."""
    problem = Problem()
    ratings = minicf.Ratings(*problem.ratings(), problem.n_users, problem.n_items)
    trainer = minicf.Trainer(minicf.Dot(2), minicf.SGD(lr), backend="numpy", batch_size=8)
    cases.program(trainer, problem.n_users, problem.n_items)
    recorder = trainer._program = Recorder()
    for epochs, schedule in fits:
        if callable(schedule):
            schedule = schedule(trainer)
        trainer.fit(ratings, epochs=epochs, schedule=schedule)
    assert len(recorder.rates) == sum(epochs for epochs, _ in fits) * problem.steps
    lr_column = trainer.history.frame().lr.tolist()
    assert lr_column == recorder.rates[:: problem.steps]
    return recorder.rates


STEPS = Problem().steps


def test_no_schedule_is_the_plain_rate():
    assert recorded([(2, None)]) == [0.5] * 2 * STEPS


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_the_trainer_asks_at_every_step(schedule):
    assert recorded([(3, schedule)]) == pytest.approx(0.5 * schedule.factor(times(3, STEPS)), rel=1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_an_equal_schedule_goes_on_over_fits(schedule):
    again = registry.from_config(registry.to_config(schedule), Schedule, "schedule")
    assert recorded([(1, schedule), (2, schedule), (2, again)]) == recorded([(5, schedule)])


def test_a_schedule_that_is_over_starts_again():
    once = recorded([(3, Cosine(3))])
    assert recorded([(3, Cosine(3)), (3, Cosine(3))]) == once + once
    # ... and only then: with one epoch left, the second fit runs it out and stays low.
    assert recorded([(2, Cosine(3)), (2, Cosine(3))]) == recorded([(4, Cosine(3))])


def test_one_without_a_length_starts_again_at_every_fit():
    assert recorded([(2, Cosine()), (3, Cosine())]) == recorded([(2, Cosine(2))]) + recorded([(3, Cosine(3))])


def test_another_schedule_starts_from_its_beginning():
    got = recorded([(1, Cosine(4)), (2, Exponential(0.5)), (1, None), (1, Exponential(0.5))])
    parts = [recorded([(1, Cosine(4))]), recorded([(2, Exponential(0.5))]), [0.5] * STEPS]
    assert got == [*parts[0], *parts[1], *parts[2], *recorded([(1, Exponential(0.5))])]


def test_the_schedule_is_a_factor_on_a_rate_that_may_change():
    def halve(trainer):
        trainer.lr = 0.25
        return Cosine(4)

    got = recorded([(2, Cosine(4)), (2, halve)])
    whole = recorded([(4, Cosine(4))])
    assert got[: 2 * STEPS] == whole[: 2 * STEPS]
    assert got[2 * STEPS :] == pytest.approx([rate / 2 for rate in whole[2 * STEPS :]], rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", 0.1, Cosine, lambda t: t])
def test_other_things_are_no_schedule(schedule):
    problem = Problem()
    ratings = minicf.Ratings(*problem.ratings(), problem.n_users, problem.n_items)
    trainer = minicf.Trainer(minicf.Dot(2), minicf.SGD(0.1), backend="numpy")
    with pytest.raises(TypeError, match="it must be a Schedule"):
        trainer.fit(ratings, schedule=schedule)
