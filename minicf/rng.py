"""Random numbers by counter: a number is a function of where it is used, not of earlier draws.

Every draw is keyed by (seed, purpose, step) and indexed within that. The same seed therefore gives the same
initial weights, the same order of ratings and the same dropout masks on every backend, at any number of
threads, and a run that stops and goes on needs to remember nothing but its step.

The generator is SplitMix64 (Steele, Lea and Flood 2014) read at a position: ``mix(key + (index + 1) * GOLDEN)``.
The Numba and CUDA kernels repeat `bits` in a line each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

INIT, SHUFFLE, DROPOUT, SPLIT, NEGATIVE, GIBBS, PLANTED = range(1, 8)
"""Purposes. Two draws for different purposes never share a stream."""

GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF
_CHUNK = 1 << 18
_PIECE = 1 << 13


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX2) & _MASK
    return z ^ (z >> 31)


def key(seed: int, purpose: int, stream: int = 0, step: int = 0) -> int:
    """Return the 64-bit key of one stream of numbers.

    Parameters
    ----------
    seed : int
        The user's seed; any Python integer, taken modulo 2**64.
    purpose : int
        One of the constants above.
    stream : int
        Which weight, or which dropout layer.
    step : int
        The epoch (order of ratings) or the training step (dropout).
    """
    k = _mix(seed & _MASK)
    for part in (purpose, stream, step):
        k = _mix((k + (part & _MASK) * GOLDEN + GOLDEN) & _MASK)
    return k


def bits(stream_key: int, index: Any) -> Any:
    """Return the 64 random bits at each position of a stream.

    Parameters
    ----------
    stream_key : int
        From `key`.
    index : array of uint64
        Positions, of any shape, NumPy or CuPy.

    Returns
    -------
    array of uint64, the shape of `index`
    """
    z = index + np.uint64(1)
    z *= np.uint64(GOLDEN)
    z += np.uint64(stream_key)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_MIX1)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_MIX2)
    z ^= z >> np.uint64(31)
    return z


def uniform(stream_key: int, n: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Draw `n` float64 numbers, uniform in [low, high), in steps of 2**-53 of that range."""
    out = np.empty(n)
    for part in _parts(n):
        u = _uniform(stream_key, part.start, part.stop)
        u *= high - low
        np.add(u, low, out=out[part])
    return out


def normal(stream_key: int, n: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    """Draw `n` normal float64 numbers, by Box and Muller's transform of two uniforms each."""
    out = np.empty(n)
    for part in _parts(n):
        z = _uniform(stream_key, part.start, part.stop)
        np.log1p(np.negative(z, out=z), out=z)
        z *= -2.0
        np.sqrt(z, out=z)
        turn = _uniform(stream_key, n + part.start, n + part.stop)
        turn *= 2.0 * np.pi
        z *= np.cos(turn, out=turn)
        z *= std
        np.add(z, mean, out=out[part])
    return out


def gamma(stream_key: int, shape: np.ndarray) -> np.ndarray:
    """Draw a Gamma float64 number of rate 1 for each shape, all at least 1.

    By Marsaglia and Tsang (2000): with d = shape - 1/3, c = (9 d)^-1/2, z normal and u uniform, d (1 + c z)^3 is taken
    where log u < z^2/2 + d - d v + d log v with v = (1 + c z)^3 > 0: at least 95 of 100 are. What is left tries again.
    """
    shape = np.asarray(shape, np.float64)
    if not (shape >= 1.0).all():
        raise ValueError(f"shape is {float(shape.min())}; it must be at least 1")
    d = shape - 1.0 / 3.0
    out, left, trial = np.empty(len(d)), np.arange(len(d)), 0
    while len(left):
        # A trial draws for all, so that a number does not depend on how many trials the others needed.
        z = normal(key(stream_key, GIBBS, trial, 0), len(d))[left]
        u = uniform(key(stream_key, GIBBS, trial, 1), len(d))[left]
        v = (1.0 + z / np.sqrt(9.0 * d[left])) ** 3
        with np.errstate(divide="ignore", invalid="ignore"):  # u = 0 is taken, v < 0 is not
            taken = np.log(u) < 0.5 * z * z + d[left] * (1.0 - v + np.log(v))
        out[left[taken]] = d[left[taken]] * v[taken]
        left, trial = left[~taken], trial + 1
    return out


def _uniform(stream_key: int, start: int, stop: int) -> np.ndarray:
    z = bits(stream_key, np.arange(start, stop, dtype=np.uint64))
    z >>= np.uint64(11)
    return z.view(np.int64) * 2.0**-53  # 53 bits: as a signed number it is the same, and sooner a float64


def _parts(n: int) -> list[slice]:
    """Cut 0 … n-1 into pieces whose temporary arrays stay in the cache."""
    return [slice(start, min(start + _PIECE, n)) for start in range(0, n, _PIECE)]


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Return the order of an epoch: the numbers 0 … n-1, shuffled.

    Each position gets a random key whose low bits are replaced by the position itself: sorting the keys sorts
    the positions at random, no two keys are ever equal, and any sort on any device gives the same answer.

    Returns
    -------
    array of int32, shape (n,)
    """
    position_bits = np.uint64((1 << max(n - 1, 0).bit_length()) - 1)
    stream = key(seed, SHUFFLE, 0, epoch)
    keys = np.empty(n, np.uint64)
    for start in range(0, n, _CHUNK):  # so that temporary arrays stay small
        position = np.arange(start, min(start + _CHUNK, n), dtype=np.uint64)
        number = bits(stream, position)
        number &= ~position_bits
        np.bitwise_or(number, position, out=keys[start : start + _CHUNK])
    keys.sort()
    keys &= position_bits
    return keys.astype(np.int32)


def dropout_threshold(rate: float) -> int:
    """Return the least top 24 bits of a unit that is kept: integers, so equal on every backend."""
    return int(np.ceil(rate * 2**24))


def dropout_mask(seed: int, layer: int, step: int, shape: tuple[int, int], rate: float, dtype: Any) -> np.ndarray:
    """Return the factors of inverted dropout (F6): 0 with probability `rate`, else 1 / (1 - rate).

    Unit (row, column) of the batch's layer reads position ``row * width + column``.
    """
    index = np.arange(shape[0] * shape[1], dtype=np.uint64).reshape(shape)
    kept = (bits(key(seed, DROPOUT, layer, step), index) >> np.uint64(40)) >= np.uint64(dropout_threshold(rate))
    return kept.astype(dtype) * np.asarray(1.0 / (1.0 - rate), dtype)
