"""Updates, initial values and models: what minicf and its peers mean by the same word, with numbers by hand.

A test's first word is its peer; what we share and where we differ is in the table of `tests.peers`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import minicf
from minicf import ops
from minicf.data import Batch
from tests.peers.toys import biases


def moved(optimizer, gradients, rates=None, w=0.0, table=True):
    """One element of a table, or of a dense layer, after some steps."""
    weights = {"w": np.array([w])}
    state = optimizer.init_state(weights)
    for t, g in enumerate(gradients, 1):
        lr = optimizer.lr if rates is None else rates[t - 1]
        counts = {"w": np.array([1])} if table else {}
        optimizer.step(weights, {"w": np.array([g])}, state, t, lr, counts, 1)
    return float(weights["w"][0])


def two_rows(optimizer):
    """Two rows at 0: both are read at the first step, of slope 1, the first alone at the second."""
    weights = {"w": np.zeros(2)}
    state = optimizer.init_state(weights)
    for t, read in enumerate(([1, 1], [1, 0]), 1):
        optimizer.step(weights, {"w": np.array(read, float)}, state, t, optimizer.lr, {"w": np.array(read)}, 1)
    return weights["w"].tolist()


# --- Adam ------------------------------------------------------------------------------------------------------------


def test_pytorch_adam_adds_eps_after_the_correction():
    """First step: both moments are corrected to g and g^2, so that it is lr g / (g + eps)."""
    assert moved(minicf.Adam(1.0, eps=1e-4), [1e-4]) == pytest.approx(-0.5)


def test_keras_adam_adds_eps_before_the_correction_ours_only_with_sparse():
    """lr g / (g + eps / sqrt(1 - beta2)) = 1 / (1 + 31.6228)."""
    assert moved(minicf.Adam(1.0, eps=1e-4, sparse=True), [1e-4]) == pytest.approx(-1 / 32.6228, rel=1e-5)


@pytest.mark.parametrize("g", [1000.0, 0.001])
def test_pytorch_adam_first_step_is_the_rate_whatever_the_slope(g):
    assert moved(minicf.Adam(0.1, eps=1e-12), [g]) == pytest.approx(-0.1)


def test_pytorch_adam_goes_on_when_the_slope_ends():
    """Betas 1/2: after slopes 1, 0 both moments are 1/4, corrected 1/3: a step of (1/3) / sqrt(1/3)."""
    got = moved(minicf.Adam(1.0, betas=(0.5, 0.5), eps=1e-12), [1.0, 0.0])
    assert got == pytest.approx(-1 - math.sqrt(1 / 3))


def test_pytorch_amsgrad_keeps_the_largest_second_moment_before_its_correction():
    """Beta2 1/2: v = 2, then 1.5 and the largest stays 2: a step of 1 / sqrt(2 / (3/4))."""
    got = moved(minicf.Adam(1.0, betas=(0.0, 0.5), eps=1e-12, amsgrad=True), [2.0, 1.0])
    assert got == pytest.approx(-1 - 1 / math.sqrt(8 / 3))


def test_keras_amsgrad_shared_up_to_the_place_of_eps_adam_would_step_farther():
    """Without the largest: 1 / sqrt(1.5 / (3/4)), and 0.61 < 0.71."""
    plain = moved(minicf.Adam(1.0, betas=(0.0, 0.5), eps=1e-12), [2.0, 1.0])
    assert plain == pytest.approx(-1 - 1 / math.sqrt(2))
    assert moved(minicf.Adam(1.0, betas=(0.0, 0.5), eps=1e-12, amsgrad=True), [2.0, 1.0]) > plain


def test_pytorch_adam_defaults_shared():
    adam = minicf.Adam()
    assert (adam.lr, adam.betas, adam.eps) == (0.001, (0.9, 0.999), 1e-8)


def test_keras_adam_default_eps_is_ten_times_ours():
    assert minicf.Adam().eps * 10 == pytest.approx(1e-7)


def test_fastai_adam_default_forgets_squares_faster_and_has_a_larger_eps():
    """0.99 and 1e-5 there: a slope of 1e-5 moves by lr / 2 there, by lr here, to 1e-3."""
    assert moved(minicf.Adam(1.0, betas=(0.9, 0.99), eps=1e-5), [1e-5]) == pytest.approx(-0.5)
    assert moved(minicf.Adam(1.0), [1e-5]) == pytest.approx(-1.0, rel=2e-3)


def test_pytorch_sparse_adam_leaves_untouched_rows_and_adam_moves_them():
    """Untouched, the second row has m = 1/4, v = 1/4, corrected 1/3: sqrt(1/3) more, or nothing."""
    adam = {"lr": 1.0, "betas": (0.5, 0.5), "eps": 1e-12}
    assert two_rows(minicf.Adam(**adam)) == pytest.approx([-2.0, -1 - math.sqrt(1 / 3)])
    assert two_rows(minicf.Adam(**adam, sparse=True)) == pytest.approx([-2.0, -1.0])


# --- SGD -------------------------------------------------------------------------------------------------------------


def test_pytorch_sgd_moves_by_rate_times_slope():
    assert moved(minicf.SGD(0.1), [2.0, -1.0]) == pytest.approx(-0.1)


def test_pytorch_momentum_keeps_gradients():
    """Rates 0.1 then 0.01, mu = 1/2, g = 1: v is 1, then 1.5."""
    assert moved(minicf.SGD(0.1, momentum=0.5), [1.0, 1.0], [0.1, 0.01]) == pytest.approx(-0.115)


def test_keras_momentum_keeps_moves_the_same_at_a_constant_rate():
    """-0.1, then -0.05 - 0.1; at rates 0.1, 0.01 it were -0.16 there, -0.115 here."""
    assert moved(minicf.SGD(0.1, momentum=0.5), [1.0, 1.0]) == pytest.approx(-0.1 + (-0.05 - 0.1))


def test_pytorch_first_velocity_is_the_gradient_without_dampening():
    assert moved(minicf.SGD(0.1, momentum=0.9), [1.0]) == pytest.approx(-0.1)


def test_pytorch_nesterov_looks_one_step_ahead():
    """v = 1: a first step of lr (g + mu v) = 0.1 (1 + 1/2)."""
    assert moved(minicf.SGD(0.1, momentum=0.5, nesterov=True), [1.0]) == pytest.approx(-0.15)


def test_keras_nesterov_shared():
    """Slopes 1, 0: v = 1, then 1/2: 0.15 and 0.1 (0 + 1/4)."""
    assert moved(minicf.SGD(0.1, momentum=0.5, nesterov=True), [1.0, 0.0]) == pytest.approx(-0.15 - 0.025)


def test_pytorch_dense_momentum_carries_untouched_rows_ours_not_with_sparse():
    """mu = 1/2, lr = 1: rows 1 + 1.5 and 1 + 0.5."""
    assert two_rows(minicf.SGD(1.0, momentum=0.5)) == [-2.5, -1.5]
    assert two_rows(minicf.SGD(1.0, momentum=0.5, sparse=True)) == [-2.5, -1.0]


# --- AdaGrad and RMSProp ---------------------------------------------------------------------------------------------


def test_pytorch_adagrad_adds_eps_outside_the_root():
    """g = 1, eps = 3: 1 / (1 + 3)."""
    assert moved(minicf.AdaGrad(1.0, eps=3.0), [1.0]) == pytest.approx(-0.25)


def test_keras_adagrad_adds_eps_inside_the_root_and_starts_from_a_tenth():
    """1 / sqrt(1 + 3) = 1/2 there; a start of 0.1 is an argument here: 1 / sqrt(0.1 + 1)."""
    assert minicf.AdaGrad().initial == 0.0
    assert moved(minicf.AdaGrad(1.0, initial=0.1), [1.0]) == pytest.approx(-1 / math.sqrt(1.1))


def test_pytorch_adagrad_divides_by_all_slopes_so_far():
    """3 / 3, then 4 / sqrt(9 + 16)."""
    assert moved(minicf.AdaGrad(1.0, eps=1e-12), [3.0, 4.0]) == pytest.approx(-1.8)


def test_lightfm_adagrad_starts_its_sums_from_1_ours_from_an_argument():
    """3 / sqrt(1 + 9)."""
    assert moved(minicf.AdaGrad(1.0, eps=1e-12, initial=1.0), [3.0]) == pytest.approx(-3 / math.sqrt(10))


def test_pytorch_rmsprop_adds_eps_outside_the_root():
    """v = (1 - 1/2) 18 = 9, eps = 3: sqrt(18) / (3 + 3)."""
    assert moved(minicf.RMSProp(1.0, alpha=0.5, eps=3.0), [math.sqrt(18)]) == pytest.approx(-math.sqrt(18) / 6)


def test_keras_rmsprop_adds_eps_inside_the_root_and_forgets_faster():
    """v = 1: 2 / sqrt(1 + 3) = 1 there, 2 / (1 + 3) here; its memory is 0.9."""
    assert moved(minicf.RMSProp(1.0, alpha=0.75, eps=3.0), [2.0]) == pytest.approx(-0.5)
    assert minicf.RMSProp().alpha == 0.99


def test_pytorch_centered_rmsprop_divides_by_the_deviation():
    """alpha = 1/2, g = 2: v = 2, m = 1, v - m^2 = 1: a step of 2 / 1."""
    assert moved(minicf.RMSProp(0.1, alpha=0.5, eps=1e-12, centered=True), [2.0]) == pytest.approx(-0.2)


def test_pytorch_rmsprop_momentum_sums_what_is_divided_already():
    """alpha = 0: each slope is 1 once divided; 1, then 1/2 + 1."""
    got = moved(minicf.RMSProp(0.1, alpha=0.0, eps=1e-12, momentum=0.5), [4.0, 9.0])
    assert got == pytest.approx(-0.1 * (1 + 1.5))


# --- weight decay ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", ["l2", "decoupled"], ids=["torch.optim.SGD", "AdamW's"])
def test_pytorch_weight_decay_of_sgd(decay):
    """Without momentum both are w (1 - lr lambda)."""
    assert moved(minicf.SGD(0.1, weight_decay=0.2, decay=decay), [0.0], w=1.0) == pytest.approx(0.98)


def test_pytorch_adam_with_l2_normalizes_the_decay_and_adamw_does_not():
    """g = 0: all of Adam's gradient is the decay, so that a step is lr; AdamW's is lr lambda w."""
    assert moved(minicf.Adam(0.1, weight_decay=0.2), [0.0], w=1.0) == pytest.approx(0.9)
    assert moved(minicf.Adam(0.1, weight_decay=0.2, decay="decoupled"), [0.0], w=1.0) == pytest.approx(0.98)


def test_keras_l2_is_twice_ours():
    """l2(a) adds a w^2, of slope 2 a w: lambda = 2 a."""
    a, w, lr = 0.3, 2.0, 0.1
    assert moved(minicf.SGD(lr, weight_decay=2 * a), [0.0], w=w) == pytest.approx(w - lr * 2 * a * w)


def test_keras_adamw_multiplies_the_decay_by_the_rate():
    """lr 1/2, lambda 0.1, g = 0: w (1 - 0.05)."""
    assert moved(minicf.Adam(0.5, weight_decay=0.1, decay="decoupled"), [0.0], w=2.0) == pytest.approx(1.9)


def test_fastai_wd_of_its_adam_is_decoupled():
    """wd = 0.1 at lr 5e-3: w (1 - 5e-4), before a step of lr g / |g|."""
    got = moved(minicf.Adam(5e-3, weight_decay=0.1, decay="decoupled", eps=1e-12), [1.0], w=1.0)
    assert got == pytest.approx(1 - 5e-4 - 5e-3)


def test_fastai_lesson_adds_wd_times_the_squares_twice_ours():
    """loss + wd w^2 has slope 2 wd w: lambda = 2 wd."""
    assert moved(minicf.SGD(0.1, weight_decay=2 * 0.5), [0.0], w=3.0) == pytest.approx(3 - 0.1 * 2 * 0.5 * 3)


def test_pytorch_parameter_groups_are_a_dict_by_weight_name():
    """Ratings of 0 leave a slope of 0: only the named bias shrinks, from 1 by 1/10 of 1/2 of itself."""
    weights = {"user_bias": np.ones(1), "item_bias": -np.ones(1)}
    optimizer = minicf.SGD(0.1, weight_decay={"user_bias": 0.5})
    optimizer.step(weights, {name: np.zeros(1) for name in weights}, {}, 1, 0.1, {n: np.ones(1) for n in weights}, 1)
    assert (weights["user_bias"][0], weights["item_bias"][0]) == (pytest.approx(0.95), -1.0)


def test_pytorch_rates_of_parameter_groups_are_multiples_of_one_rate():
    """Rating 1: slope -2 of both biases; lr 1/4 moves the user's by 1/2, the item's by a tenth of it."""
    solver = minicf.Gradient(minicf.SGD(0.25), batch_size=1, lr_factors={"item_bias": 0.1})
    w = biases(solver, [(0, 0, 1)]).weights
    assert (w["user_bias"][0], w["item_bias"][0]) == (0.5, pytest.approx(0.05))


def test_fastai_frozen_parameters_have_rate_0():
    w = biases(minicf.Gradient(minicf.SGD(0.25), batch_size=1, lr_factors={"item_bias": 0.0}), [(0, 0, 1)]).weights
    assert (w["user_bias"][0], w["item_bias"][0]) == (0.5, 0.0)


# --- clipping --------------------------------------------------------------------------------------------------------


def clipped(rating, **clip):
    """Biases of one rating after one step of lr 1: its slopes, of -2 rating each, are clipped."""
    w = biases(minicf.Gradient(minicf.SGD(1.0), batch_size=1, **clip), [(0, 0, rating)]).weights
    return [float(w["user_bias"][0]), float(w["item_bias"][0])]


def test_pytorch_clip_grad_norm_is_of_all_weights_together():
    """Slopes (-6, -6), of length 6 sqrt(2), cut to 1: 1 / sqrt(2) each."""
    assert clipped(3, clip_norm=1.0) == pytest.approx([math.sqrt(0.5)] * 2, rel=1e-6)


def test_pytorch_clip_grad_norm_leaves_a_shorter_gradient():
    """Slopes (-1, -1), of length 1.41, below 2."""
    assert clipped(0.5, clip_norm=2.0) == [1.0, 1.0]


def test_keras_clipnorm_is_of_each_weight_its_global_clipnorm_is_ours():
    """Each slope is 6 long by itself, and were cut to 1: 1 there, 0.71 here."""
    assert clipped(3, clip_norm=1.0)[0] == pytest.approx(math.sqrt(0.5), rel=1e-6)


def test_pytorch_clip_grad_value_cuts_each_element():
    assert clipped(3, clip_value=1.0) == [1.0, 1.0]


def test_keras_clipvalue_leaves_smaller_elements():
    assert clipped(0.25, clip_value=1.0) == [0.5, 0.5]


# --- Surprise's SVD --------------------------------------------------------------------------------------------------


def test_surprise_svd_step_shared_with_half_the_rate_and_twice_the_decay():
    """p = 1, q = 2, rating 5, error 3: both sides move from the values before, p by 0.1 (3 q - 0.02 p)."""
    start = {"user_factors": np.array([[1.0]]), "item_factors": np.array([[2.0]])}
    optimizer = minicf.SGD(0.1 / 2, weight_decay=2 * 0.02, decay="per_rating")
    trainer = minicf.Trainer(
        minicf.Dot(1), optimizer, batch_size=1, backend="numpy", dtype="float64", weights=start
    )  # fmt: skip
    trainer.fit(minicf.Ratings(np.array([0]), np.array([0]), np.array([5.0]), 1, 1), progress=False)
    assert trainer.weights["user_factors"][0, 0] == pytest.approx(1.598)
    assert trainer.weights["item_factors"][0, 0] == pytest.approx(2.296)


def test_surprise_svd_biases_move_by_rate_times_error_less_decay():
    """Mean 3, rating 5, biases 1/2 and 1/4: error 1.25; b += 0.1 (1.25 - 0.02 b)."""
    start = {
        "user_factors": np.zeros((1, 1)), "item_factors": np.zeros((1, 1)),
        "user_bias": np.array([0.5]), "item_bias": np.array([0.25]),
    }  # fmt: skip
    trainer = minicf.Trainer(
        minicf.DotBias(1, global_mean=3.0), minicf.SGD(0.1 / 2, weight_decay=2 * 0.02, decay="per_rating"),
        batch_size=1, backend="numpy", dtype="float64", weights=start,
    )  # fmt: skip
    trainer.fit(minicf.Ratings(np.array([0]), np.array([0]), np.array([5.0]), 1, 1), progress=False)
    assert trainer.weights["user_bias"][0] == pytest.approx(0.5 + 0.1 * (1.25 - 0.01))
    assert trainer.weights["item_bias"][0] == pytest.approx(0.25 + 0.1 * (1.25 - 0.005))


def test_surprise_decays_a_row_once_a_rating_of_it():
    """Two ratings of user 0, both predicted rightly (0), in one batch of 2: n_r / B = 1, and item rows 1/2."""
    weights = {"user_bias": np.ones(1), "item_bias": np.ones(2)}
    optimizer = minicf.SGD(0.1, weight_decay=1.0, decay="per_rating")
    counts = {"user_bias": np.array([2]), "item_bias": np.array([1, 1])}
    optimizer.step(weights, {n: np.zeros(len(w)) for n, w in weights.items()}, {}, 1, 0.1, counts, 2)
    assert weights["user_bias"] == pytest.approx([0.9])
    assert weights["item_bias"] == pytest.approx([0.95, 0.95])


def test_surprise_svd_baseline_of_one_user_two_items_by_hand():
    """Ratings 1 and 3 in turn, lr 1/4, no decay: b_u = c_0 = 1/2, then error 5/2 moves b_u and c_1 by 5/4."""
    w = biases(minicf.SGD(0.25), [(0, 0, 1), (0, 1, 3)]).weights
    assert w["user_bias"].tolist() == [0.5 + 1.25]
    assert w["item_bias"].tolist() == [0.5, 1.25]


def test_surprise_biases_start_at_0_ours_are_drawn_like_the_factors():
    """N(0, 0.1): of 20,000 numbers the deviation is known to 0.0005 (one standard error)."""
    w = minicf.DotBias(20, init=("normal", 0.0, 0.1)).init_weights(1000, 10)
    assert w["user_factors"].std() == pytest.approx(0.1, abs=0.002)
    assert w["user_factors"].mean() == pytest.approx(0.0, abs=0.003)
    assert w["user_bias"].std() > 0.05


# --- initial values --------------------------------------------------------------------------------------------------


def test_keras_embedding_starts_within_a_twentieth_ours_within_a_hundredth():
    """Uniform: the largest of 10,000 comes near the limit."""
    largest = np.abs(minicf.Dot(10).init_weights(1000, 10)["user_factors"]).max()
    assert 0.0099 < largest <= 0.01


def test_spotlight_embeddings_have_deviation_1_by_k_ours_by_an_argument():
    w = minicf.Dot(16, init=("normal", 0.0, 1 / 16)).init_weights(1000, 10)
    assert w["user_factors"].std() == pytest.approx(1 / 16, rel=0.03)


def test_keras_dense_starts_glorot_uniform_with_biases_of_0():
    """2 x 8 inputs, 70 units: sqrt(6 / 86)."""
    w = minicf.Net(8).init_weights(10, 10)
    limit = math.sqrt(6 / 86)
    assert 0.99 * limit < np.abs(w["hidden.0.weight"]).max() <= limit
    assert not w["hidden.0.bias"].any()


def test_pytorch_linear_starts_within_1_by_root_of_inputs_biases_too():
    """16 inputs: 1/4."""
    w = minicf.Net(8, dense_init="torch").init_weights(10, 10)
    assert 0.24 < np.abs(w["hidden.0.weight"]).max() <= 0.25
    assert 0.2 < np.abs(w["hidden.0.bias"]).max() <= 0.25


# --- models ----------------------------------------------------------------------------------------------------------


PAIR = Batch(np.array([0]), np.array([0]))
ONE = {
    "user_factors": np.array([[1.0, 2.0]]), "item_factors": np.array([[3.0, -1.0]]),
    "user_bias": np.array([0.5]), "item_bias": np.array([0.25]),
}  # fmt: skip


def test_cornac_mf_is_mean_plus_biases_plus_product():
    """3 + 1/2 + 1/4 + (3 - 2)."""
    assert minicf.DotBias(2, global_mean=3.0).predict(ONE, PAIR).tolist() == [4.75]


def test_spotlight_bilinear_net_has_no_mean():
    """1/2 + 1/4 + 1."""
    assert minicf.DotBias(2).predict(ONE, PAIR).tolist() == [1.75]


def test_fastai_dot_bias_squeezes_products_and_biases_together():
    """A score of ln 3 is 3/4 of the way from 0 to 5.5."""
    w = ONE | {"item_bias": np.array([math.log(3) - 1.5])}
    assert minicf.DotBias(2, rating_range=(0.0, 5.5)).predict(w, PAIR) == pytest.approx([4.125])


def test_fastai_y_range_of_a_score_of_0_is_its_middle_and_its_ends_are_not_reached():
    assert ops.rating_range(np.array([0.0]), 0.5, 5.0).tolist() == [2.75]
    low, high = ops.rating_range(np.array([-20.0, 20.0]), 0.5, 5.0)
    assert 0.5 < low < high < 5.0


def test_fastai_sigmoid_range_has_a_quarter_of_its_width_as_slope_in_the_middle():
    """(5.5 - 0) g (1 - g), g = 1/2."""
    assert ops.rating_range_backward(np.ones(1), np.zeros(1), 0.0, 5.5).tolist() == [1.375]


def test_myfm_pairs_of_two_one_hot_groups_are_a_product_of_rows():
    """1/2 sum_k ((p + q)^2 - p^2 - q^2) = (16 - 1 - 9 + 1 - 4 - 1) / 2 = 1, the p . q here; then w0, w_u, w_i."""
    p, q = ONE["user_factors"][0], ONE["item_factors"][0]
    pairs = 0.5 * ((p + q) ** 2 - p**2 - q**2).sum()
    assert pairs == 1.0
    assert minicf.DotBias(2, global_mean=3.0).predict(ONE, PAIR).tolist() == [3 + 0.5 + 0.25 + pairs]


def test_myfm_one_hot_times_table_is_a_row():
    table = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    one_hot = np.array([[0, 0, 1], [1, 0, 0]])
    assert ops.gather(table, np.array([2, 0])).tolist() == (one_hot @ table).tolist() == [[5, 6], [1, 2]]


def test_pytorch_embedding_sums_the_slopes_of_a_repeated_row():
    """Rows 0, 0, 2 of slopes 1, 2, 4."""
    got = ops.gather_backward(np.array([1.0, 2.0, 4.0]), np.array([0, 0, 2]), np.zeros(3))
    assert got.tolist() == [3.0, 0.0, 4.0]


def test_pytorch_relu_has_slope_0_at_0():
    assert ops.relu_backward(np.ones(3), np.array([-1.0, 0.0, 1.0])).tolist() == [0.0, 0.0, 1.0]


def test_keras_dropout_divides_by_what_is_kept():
    """Rate 1/2 on ones: 0 or 2, about half of each; nothing is dropped when predicting."""
    from minicf.rng import dropout_mask

    values, counts = np.unique(dropout_mask(0, 0, 1, (100, 100), 0.5, np.float64), return_counts=True)
    assert values.tolist() == [0.0, 2.0]
    assert counts[0] == pytest.approx(5000, abs=200)  # four standard deviations
    x = np.ones((1, 2))
    assert ops.dropout(x, None) is x


def test_pytorch_linear_has_its_weight_the_other_way_round():
    """Inputs (1, 2), units 3 x + 4 y + 1 and 5 x + 6 y - 1: W is (inputs, units) as in Keras, (units, inputs) there."""
    got = ops.dense(np.array([[1.0, 2.0]]), np.array([[3.0, 5.0], [4.0, 6.0]]), np.array([1.0, -1.0]))
    assert got.tolist() == [[12.0, 16.0]]
