"""Schedules, and what follows an error: boundary values of minicf and its peers, by hand.

A test's first word is its peer; what we share and where we differ is in the table of `tests.peers`. A factor at t is
what multiplies the learning rate of the step that begins when t epochs are over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

import minicf
from minicf.schedules import Pace
from tests.peers.toys import biases


def factors(schedule, *times, epochs=None):
    schedule = schedule if epochs is None else schedule.for_fit(epochs)
    return schedule.factor(np.array(times, float))


HALF_WAY = (1 + math.sqrt(0.5)) / 2
"""Half a cosine after a quarter of its way: 0.854."""

# --- steps and powers -------------------------------------------------------------------------------------------------


def test_pytorch_step_lr_falls_at_multiples_of_its_step():
    """step_size=2, gamma=1/2."""
    got = factors(minicf.Step(every=2, gamma=0.5), 0, 1, 2, 3, 4, 5)
    assert got.tolist() == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_pytorch_multi_step_lr_is_piecewise():
    """Milestones 2 and 3, gamma=1/2."""
    got = factors(minicf.Piecewise((2, 3), (1.0, 0.5, 0.25)), 0, 1, 2, 3, 4)
    assert got.tolist() == [1, 1, 0.5, 0.25, 0.25]


def test_pytorch_exponential_lr_has_our_values_at_whole_epochs():
    assert factors(minicf.Exponential(0.5), 0, 1, 2).tolist() == [1, 0.5, 0.25]


def test_pytorch_exponential_lr_stands_still_within_an_epoch_ours_moves():
    """sqrt(1/4) after half an epoch, 1 there."""
    assert factors(minicf.Exponential(0.25), 0.5).tolist() == [0.5]


def test_keras_exponential_decay_moves_at_every_step():
    """decay_steps of one epoch, decay_rate=1/4."""
    assert factors(minicf.Exponential(0.25), 0.0, 0.5, 1.0, 1.5).tolist() == [1, 0.5, 0.25, 0.125]


def test_keras_exponential_decay_in_a_staircase_is_step():
    assert factors(minicf.Step(1, 0.25), 0.0, 0.99, 1.0, 1.99).tolist() == [1, 1, 0.25, 0.25]


def test_keras_piecewise_keeps_a_value_through_the_boundary_ours_and_pytorchs_end_before_it():
    assert minicf.Piecewise((1,), (1.0, 0.5)).factor(np.array([0.9, 1.0])).tolist() == [1.0, 0.5]


def test_keras_polynomial_decay_of_power_1_is_linear_and_stays_at_its_end():
    """From 1 to 1/2 in 4 epochs."""
    assert factors(minicf.Linear(1, 0.5, 4), 0, 1, 4, 9).tolist() == [1, 0.875, 0.5, 0.5]


def test_keras_inverse_time_decay_is_three_lines_of_ones_own():
    """1 / (1 + t / 2)."""

    @dataclass(frozen=True)
    class InverseTime(minicf.Schedule):
        rate: float = 0.5

        def factor(self, t):
            return 1 / (1 + self.rate * t)

    assert factors(InverseTime(), 0, 2, 6).tolist() == [1, 0.5, 0.25]


def test_pytorch_linear_lr_starts_from_a_share():
    """start_factor=1/4, total_iters=3: steps of 1/4."""
    assert factors(minicf.Linear(0.25, 1.0, 3), 0, 1, 2, 3, 4).tolist() == [0.25, 0.5, 0.75, 1, 1]


# --- cosines ----------------------------------------------------------------------------------------------------------


def test_pytorch_cosine_annealing_lr_shared_up_to_its_end():
    """T_max=4: quarters of half a cosine."""
    assert factors(minicf.Cosine(4), 0, 1, 2, 3, 4) == pytest.approx([1, HALF_WAY, 0.5, 1 - HALF_WAY, 0])


def test_pytorch_cosine_annealing_lr_rises_again_after_its_end_ours_stays():
    assert factors(minicf.Cosine(4), 5, 8) == pytest.approx([0, 0])


def test_pytorch_eta_min_is_a_rate_ours_a_share_of_it():
    """eta_min=0.01 at lr 0.1: low=0.1; half way (0.1 + 0.01) / 2 = 0.055."""
    assert 0.1 * factors(minicf.Cosine(4, low=0.1), 2, 4) == pytest.approx([0.055, 0.01])


def test_keras_cosine_decay_shared_alpha_is_our_low():
    """alpha=0.2: 0.2 + 0.8 / 2, then stays."""
    assert factors(minicf.Cosine(2, low=0.2), 1, 2, 3) == pytest.approx([0.6, 0.2, 0.2])


def test_keras_cosine_decay_with_warm_up():
    """From 1/2 to 1 in 2 epochs, then down in 4."""
    schedule = minicf.WarmUp(minicf.Cosine(4), epochs=2, start=0.5)
    assert factors(schedule, 0, 1, 2, 4, 6) == pytest.approx([0.5, 0.75, 1, 0.5, 0])


def test_pytorch_warm_restarts_begin_at_1_3_7():
    """T_0=1, T_mult=2: at full rate there, half way down at 2 and 5."""
    schedule = minicf.CosineRestarts(cycle=1, mult=2)
    assert factors(schedule, 0, 1, 3, 7) == pytest.approx([1, 1, 1, 1])
    assert factors(schedule, 0.5, 2, 5) == pytest.approx([0.5, 0.5, 0.5])


def test_keras_cosine_restarts_do_not_shrink_unless_asked_ours_never():
    """m_mul=1: each cycle begins at 1; of equal cycles, at 0, 2, 4."""
    assert factors(minicf.CosineRestarts(cycle=2), 0, 1, 2, 3, 4) == pytest.approx([1, 0.5, 1, 0.5, 1])


def test_fastai_sgdr_is_restarts_of_double_length():
    """fit_sgdr(n_cycles=3, cycle_len=1) takes 1 + 2 + 4 epochs: just before the end of each it is nearly 0."""
    got = factors(minicf.CosineRestarts(1, 2), 1 - 1e-6, 3 - 1e-6, 7 - 1e-6)
    assert got == pytest.approx([0, 0, 0], abs=1e-10)


def test_fastai_flat_cos_is_a_chain():
    """Flat for 3/4 of 8 epochs, then half a cosine of 2."""
    schedule = minicf.Chain((minicf.Constant(), minicf.Cosine()), at=(6,))
    assert factors(schedule, 0, 5.9, 6, 7, 8, epochs=8) == pytest.approx([1, 1, 1, 0.5, 0])


def test_pytorch_sequential_lr_starts_each_part_from_its_beginning():
    """Exponential for 2 epochs, then again from 1."""
    schedule = minicf.Chain((minicf.Exponential(0.5), minicf.Exponential(0.5)), at=(2,))
    assert factors(schedule, 0, 1, 2, 3).tolist() == [1, 0.5, 1, 0.5]


# --- one cycle --------------------------------------------------------------------------------------------------------


def test_fastai_one_cycle_rises_from_a_25th_in_a_quarter_of_the_way():
    """8 epochs: 0.04 at 0, (1 + 0.04) / 2 at 1, 1 at 2."""
    assert factors(minicf.OneCycle(8), 0, 1, 2) == pytest.approx([0.04, 0.52, 1])


def test_fastai_one_cycle_ends_at_1e_5_ours_at_1e_4():
    assert factors(minicf.OneCycle(8), 5, 8) == pytest.approx([(1 + 1e-4) / 2, 1e-4])
    assert factors(minicf.OneCycle(8, end=1e-5), 8) == pytest.approx([1e-5])


def test_pytorch_one_cycle_takes_longer_to_rise_and_ends_lower():
    """pct_start 0.3 and 1 / (25 * 1e4) there, both arguments here. Its peak is one step before 0.3 of the way."""
    schedule = minicf.OneCycle(10, up=0.3, end=1 / 25e4)
    assert factors(schedule, 0, 3, 10) == pytest.approx([0.04, 1, 4e-6])
    assert factors(minicf.OneCycle(10), 2.5).tolist() == [1]


def test_pytorch_one_cycle_refuses_to_go_beyond_its_end_ours_stays():
    assert factors(minicf.OneCycle(2), 2, 5) == pytest.approx([1e-4, 1e-4])


# --- steps of an epoch ------------------------------------------------------------------------------------------------


def test_pytorch_first_step_has_the_first_rate_and_no_step_the_last():
    """Four steps from 1 towards 0."""
    assert Pace(1.0, minicf.Linear(1, 0, 1)).rates(0, 4, 4).tolist() == [1, 0.75, 0.5, 0.25]


def test_fastai_rates_move_with_every_batch_pytorchs_examples_with_every_epoch():
    """Two ratings, a step each, at 1/4 and 1/8: b = 1/2, then error 1/2 moves it by 1/8."""
    trainer = biases(minicf.SGD(0.0), [(0, 0, 0), (0, 1, 0)])
    trainer.lr = 0.25
    rows = minicf.Ratings(np.array([0, 0]), np.array([0, 1]), np.array([1.0, 1.0]))
    trainer.fit(rows, schedule=minicf.Linear(1, 0, 1), progress=False)
    assert trainer.weights["user_bias"].tolist() == [0.5 + 0.125]


def test_pytorch_loader_keeps_the_last_smaller_batch():
    """Five rows in batches of 2: three steps."""
    steps = []

    class Counting(minicf.SGD):
        def step(self, w, grads, state, t, lr, counts, batch):
            steps.append(batch)

    biases(Counting(0.1), [(0, i, 1) for i in range(5)], batch_size=2)
    assert steps == [2, 2, 1]


def test_pytorch_loader_shuffles_anew_each_epoch():
    """Ratings 1 … 8 of one user, lr 0.1, batches of one: orders show in the weights after each epoch."""
    rows = [(0, 0, rating) for rating in range(1, 9)]
    ordered = biases(minicf.SGD(0.1), rows, epochs=2).weights["user_bias"][0]
    shuffled = biases(minicf.SGD(0.1), rows, epochs=2, shuffle=True).weights["user_bias"][0]
    again = biases(minicf.SGD(0.1), rows, epochs=2, shuffle=True).weights["user_bias"][0]
    assert shuffled == again != ordered


def test_fastai_lr_find_goes_up_geometrically_and_leaves_the_weights():
    trainer = biases(minicf.SGD(0.25), [(0, 0, 1), (0, 1, 3)])
    before = trainer.weights
    found = trainer.lr_find(minicf.Ratings(np.array([0, 0]), np.array([0, 1]), np.ones(2)), 1e-4, 1e-2, steps=5)
    assert found.frame.lr.to_numpy() == pytest.approx([1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2])
    assert all(np.array_equal(before[name], w) for name, w in trainer.weights.items())


def test_fastai_lr_find_minimum_is_a_tenth_of_the_best_rate_its_default_is_the_valley():
    trainer = biases(minicf.SGD(0.25), [(0, 0, 1), (0, 1, 3)])
    found = trainer.lr_find(minicf.Ratings(np.array([0, 0]), np.array([0, 1]), np.ones(2)), 1e-4, 1e-2, steps=5)
    assert found.suggestion == pytest.approx(found.frame.lr[found.frame.loss.idxmin()] / 10)


# --- plateaus ---------------------------------------------------------------------------------------------------------


def rates(errors, **settings):
    """The rate after each epoch of these errors, from 1, halved on a plateau."""
    trainer = SimpleNamespace(lr=1.0, history=SimpleNamespace(metric="mse"))
    callback, found = minicf.ReduceLROnPlateau(0.5, **settings), []
    for error in errors:
        callback.on_epoch_end(trainer, {"valid_mse": error})
        found.append(trainer.lr)
    return found


def test_keras_plateau_waits_for_patience_epochs():
    """The best, then two that are no better."""
    assert rates([1, 1, 1, 1], patience=2) == [1, 1, 0.5, 0.5]


def test_pytorch_plateau_waits_for_one_epoch_more():
    """Its patience=1 is our 2: it falls at the second epoch without a new best."""
    assert rates([1, 1, 1], patience=1 + 1) == [1, 1, 0.5]


def test_keras_plateau_waits_anew_after_a_new_best():
    assert rates([1, 1, 0.9, 0.9, 0.9], patience=2) == [1, 1, 1, 1, 0.5]


def test_keras_min_delta_is_a_difference_pytorchs_threshold_a_share_by_default():
    """0.95 is no new best where 0.1 is asked for; 0.85 is."""
    assert rates([1, 0.95, 0.85], patience=1, min_delta=0.1) == [1, 0.5, 0.5]


def test_pytorch_cooldown_leaves_out_that_many_epochs():
    """Falls at 2; 3 and 4 are not counted, 5 is."""
    assert rates([1, 1, 1, 1, 1], patience=1, cooldown=2) == [1, 0.5, 0.5, 0.5, 0.25]


def test_keras_cooldown_leaves_out_one_epoch_fewer():
    """Falls at 2; its cooldown=3 leaves out 3 and 4, as our 2 does; ours of 1 leaves out 3."""
    assert rates([1, 1, 1, 1], patience=1, cooldown=1) == [1, 0.5, 0.5, 0.25]


def test_pytorch_min_lr_is_the_lowest_rate():
    assert rates([1, 1, 1, 1], patience=1, min_lr=0.3) == [1, 0.5, 0.3, 0.3]


def test_keras_plateau_keeps_the_best_after_a_fall():
    """A fall forgets no best: 1.5 is not better than 1."""
    assert rates([1, 2, 1.5], patience=1) == [1, 0.5, 0.25]


def rising(patience=2):
    """A bias climbs to 5 while the validation row stays at 0: the error is lowest after the first epoch."""
    trainer = biases(minicf.SGD(0.0), [(0, 0, 1)])
    trainer.lr = 0.01
    train = minicf.Ratings(np.array([0]), np.array([0]), np.array([5.0]))
    valid = minicf.Ratings(np.array([0]), np.array([0]), np.array([0.0]))
    trainer.fit(train, valid, epochs=9, callbacks=[minicf.EarlyStopping(patience)], progress=False)
    return trainer


def test_keras_early_stopping_waits_for_patience_epochs():
    """One of `biases`, the best, and two that are no better."""
    assert rising(2).epoch == 1 + 1 + 2


def test_keras_early_stopping_restores_the_best_only_if_asked_ours_always():
    """After one epoch each bias is 0.01 * 2 * 5 = 0.1."""
    assert rising().weights["user_bias"] == pytest.approx([0.1])


def test_fastai_early_stopping_is_shared_but_saves_the_best_by_another_callback():
    """patience=1: it stops at the first epoch that is no better."""
    assert rising(1).epoch == 1 + 1 + 1


def test_lightfm_fit_partial_goes_on_as_a_further_fit():
    """Two epochs at once, or one and one: the same bits, also of the optimizer's state."""
    rows = [(0, 0, 1), (0, 1, 3)]
    twice = biases(minicf.Adam(0.1), rows)
    twice.fit(minicf.Ratings(np.array([0, 0]), np.array([0, 1]), np.array([1.0, 3.0])), progress=False)
    once = biases(minicf.Adam(0.1), rows, epochs=2)
    assert twice.weights["user_bias"].tolist() == once.weights["user_bias"].tolist()


def test_keras_second_fit_goes_on_but_starts_its_history_anew_ours_goes_on_too():
    trainer = biases(minicf.SGD(0.1), [(0, 0, 1)], epochs=2)
    trainer.fit(minicf.Ratings(np.array([0]), np.array([0]), np.array([1.0])), progress=False)
    assert [row["epoch"] for row in trainer.history] == [1, 2, 3]
