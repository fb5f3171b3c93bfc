"""Random numbers by counter: known values, streams that do not meet, and the right distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minicf import rng

ALL = 2**64


def splitmix(seed: int, n: int) -> list[int]:
    """SplitMix64 as its authors run it, from a running state, in Python's whole numbers."""
    out = []
    for _ in range(n):
        seed = (seed + 0x9E3779B97F4A7C15) % ALL
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % ALL
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % ALL
        out.append(z ^ (z >> 31))
    return out


def test_bits_are_those_of_splitmix64():
    # The first number from state 0 is printed in many places; it pins the constants of the loop above too.
    assert splitmix(0, 1) == [0xE220A8397B1DCDAF]
    for state in (0, 1, 12345, ALL - 1):
        got = rng.bits(state, np.arange(20, dtype=np.uint64))
        assert got.dtype == np.uint64
        assert got.tolist() == splitmix(state, 20)


def test_bits_depend_on_the_position_alone_and_keep_its_shape():
    whole = rng.bits(7, np.arange(24, dtype=np.uint64))
    part = rng.bits(7, np.arange(24, dtype=np.uint64).reshape(4, 6)[1:3])
    assert part.tolist() == whole.reshape(4, 6)[1:3].tolist()


def test_keys_tell_seed_purpose_stream_and_step_apart():
    keys = [
        rng.key(*parts) for parts in itertools.product((0, 1, -1, 2**63), (rng.INIT, rng.SHUFFLE), range(3), range(3))
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= k < ALL for k in keys)
    assert rng.key(5, 1) == rng.key(5 + ALL, 1)  # modulo 2**64, as documented
    assert rng.key(-1, 1) == rng.key(ALL - 1, 1)


def test_a_key_is_a_number_of_a_stream_of_a_stream():
    """Each part picks a number of the stream that the parts before it gave."""
    for seed, purpose, stream, step in [(0, rng.INIT, 0, 0), (5, rng.DROPOUT, 2, 700), (-1, rng.SHUFFLE, 0, 2**40)]:
        expected = splitmix(seed - 0x9E3779B97F4A7C15, 1)[0]
        for part in (purpose, stream, step):
            expected = splitmix(expected + part * 0x9E3779B97F4A7C15, 1)[0]
        assert rng.key(seed, purpose, stream, step) == expected


@pytest.mark.parametrize("n", [1, 5, 1000])
def test_an_order_sorts_positions_by_their_numbers(n):
    numbers = rng.bits(rng.key(17, rng.SHUFFLE, 0, 8), np.arange(n, dtype=np.uint64))
    expected = np.argsort(numbers >> np.uint64((n - 1).bit_length()), kind="stable")
    np.testing.assert_array_equal(rng.permutation(17, 8, n), expected)


def test_a_mask_is_by_seed_layer_and_step():
    numbers = rng.bits(rng.key(17, rng.DROPOUT, 2, 8), np.arange(40, dtype=np.uint64)).reshape(5, 8)
    expected = np.where(numbers / 2.0**64 < 0.4, 0.0, 1 / 0.6)  # no number is within 2**-24 of the rate
    np.testing.assert_allclose(rng.dropout_mask(17, 2, 8, (5, 8), 0.4, "float64"), expected)


def test_the_purposes_differ():
    purposes = (rng.INIT, rng.SHUFFLE, rng.DROPOUT, rng.SPLIT)
    assert len(set(purposes)) == 4


def test_uniform_fills_the_unit_interval_evenly():
    n = 40_000
    u = rng.uniform(rng.key(3, rng.INIT), n)
    assert u.dtype == np.float64
    assert 0.0 <= u.min()
    assert u.max() < 1.0
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * n)  # five standard errors
    counts = np.bincount((u * 20).astype(int), minlength=20)
    assert ((counts - n / 20) ** 2 / (n / 20)).sum() < 60  # chi-square of 19 degrees: 60 has p = 4e-6
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 5 / np.sqrt(n)


def test_numbers_are_drawn_in_a_range_and_at_a_scale():
    key, n = rng.key(3, rng.INIT), 10_000  # more than a piece
    np.testing.assert_array_equal(rng.uniform(key, n, -0.3, 0.5), -0.3 + (0.5 - -0.3) * rng.uniform(key, n))
    np.testing.assert_array_equal(rng.normal(key, n, 2.0, 0.5), 2.0 + 0.5 * rng.normal(key, n))
    assert rng.normal(key, 3, 2.0, 0.0).tolist() == [2.0, 2.0, 2.0]


def test_compiled_numbers_are_the_same_to_the_last_bit():
    passes = pytest.importorskip("minicf.backends.numba.passes", exc_type=ImportError)
    for n, low, high in ((1, 0.0, 1.0), (7, -0.01, 0.01), (20_000, 0.3, 5.7)):
        for stream in range(3):
            key = rng.key(n, rng.INIT, stream)
            np.testing.assert_array_equal(passes.uniform(key, n, low, high), rng.uniform(key, n, low, high))


def test_normal_has_the_moments_of_a_standard_normal():
    n = 40_000
    z = rng.normal(rng.key(3, rng.INIT), n)
    assert z.shape == (n,)
    assert np.isfinite(z).all()
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.std() - 1) < 5 / np.sqrt(2 * n)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)  # the variance of z^4 is 96
    assert abs((np.abs(z) < 1).mean() - 0.6827) < 5 * np.sqrt(0.22 / n)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 64, 65, 1000])
def test_a_permutation_holds_each_number_once(n):
    order = rng.permutation(1, 0, n)
    assert order.dtype == np.int32
    assert sorted(order.tolist()) == list(range(n))


def test_permutations_differ_by_seed_and_epoch_and_repeat():
    orders = {(s, e): rng.permutation(s, e, 100).tolist() for s in range(3) for e in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 9
    assert orders[1, 2] == rng.permutation(1, 2, 100).tolist()


def test_all_orders_of_four_are_equally_frequent():
    n = 6000
    counts: dict[tuple[int, ...], int] = {}
    for epoch in range(n):
        order = tuple(rng.permutation(0, epoch, 4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    expected = n / 24
    assert sum((c - expected) ** 2 / expected for c in counts.values()) < 68  # 23 degrees of freedom: p = 2e-6


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.75, 0.99])
def test_dropout_keeps_the_right_share_and_the_mean(rate):
    mask = rng.dropout_mask(0, 0, 1, (400, 100), rate, "float64")
    assert set(np.unique(mask)) == {0.0, 1.0 / (1.0 - rate)}
    dropped = (mask == 0).mean()
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / mask.size)


def test_dropout_of_rate_zero_drops_nothing():
    assert (rng.dropout_mask(0, 0, 1, (50, 20), 0.0, "float32") == 1).all()
    assert rng.dropout_threshold(0.0) == 0
    assert rng.dropout_threshold(0.5) == 2**23


def test_dropout_masks_differ_by_seed_layer_and_step_and_agree_between_dtypes():
    def mask(seed, layer, step, dtype="float64"):
        return rng.dropout_mask(seed, layer, step, (30, 10), 0.5, dtype)

    base = mask(0, 0, 1)
    for other in (mask(1, 0, 1), mask(0, 1, 1), mask(0, 0, 2)):
        assert 0.3 < (base != other).mean() < 0.7  # independent masks of rate 1/2 differ in half their places
    single = mask(0, 0, 1, "float32")
    assert single.dtype == np.float32
    assert ((single == 0) == (base == 0)).all()


def test_a_shorter_batch_has_the_first_rows_of_the_mask():
    long = rng.dropout_mask(0, 0, 1, (30, 10), 0.5, "float32")
    assert (rng.dropout_mask(0, 0, 1, (7, 10), 0.5, "float32") == long[:7]).all()
