"""Net heads: dropout, dense layers and relu of a batch, forward and backward."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minicf import rng
from minicf.backends.numba.jit import inline
from minicf.backends.numba.loss import FACTORS
from minicf.backends.numba.passes import GOLDEN, mix
from minicf.backends.numba.vectors import times


class Nets(NamedTuple):
    """The dense layers of all net heads, in flat arrays."""

    layers: Any  # (n_layers, 7) int64: inputs, outputs, offsets of weight, bias and input, dropout threshold, stream
    heads: Any  # (n_nets, 3) int64: first layer, number of layers, index of the head
    options: Any  # (n_nets, 5) float64: mean, ranged, low, high, weight
    scales: Any  # (n_layers,): 1 / (1 - rate)
    w: Any  # (n,)
    d_w: Any  # (n,)
    slot1: Any  # (n,) or (0,)
    slot2: Any
    decay: Any  # (n,): lambda of each number
    kind: Any  # 0 none, 1 added to the gradient, 2 decoupled
    x: Any  # inputs of every layer, batch x width each
    factor: Any  # the factor of each input: dropout mask, relu's 0 or 1
    d_x: Any


@inline
def stream_key(seed, purpose, stream, step):
    """Compute the key of a stream of random numbers, as `rng.key`."""
    k = mix(seed)
    k = mix(k + purpose * GOLDEN + GOLDEN)
    k = mix(k + stream * GOLDEN + GOLDEN)
    return mix(k + step * GOLDEN + GOLDEN)


@inline
def apply_dropout(x, seed, stream, step, threshold, scale):
    """Multiply x (n,) by a dropout mask, that of `rng.dropout_mask`."""
    z = stream_key(seed, np.uint64(rng.DROPOUT), stream, step)
    zero = x.dtype.type(0)
    for i in range(len(x)):
        z += GOLDEN
        x[i] *= scale if (mix(z) >> np.uint64(40)) >= threshold else zero


@inline
def matrix_view(flat, at, rows, columns):
    """View a part of a flat array as a matrix."""
    return flat[at : at + rows * columns].reshape((rows, columns))


@functools.cache
def net_pass(LOSS: Any, WEIGHTED: bool) -> Any:
    """Make the pass of all net heads over a batch, with a function of `loss`, and weights of examples or not."""
    FACTOR = FACTORS[LOSS]

    @inline
    def run(nets, wu, wi, gu, gi, place_u, place_i, K, rating, weights, order, lo, batch, totals, seed, step):
        """Run all net heads on a batch, forward and backward: (F5) … (F9), (B9) … (B5); sum the loss of each."""
        x, factor, d_x, w, d_w = nets.x, nets.factor, nets.d_x, nets.w, nets.d_w
        layers, heads, options, scales = nets.layers, nets.heads, nets.options, nets.scales
        real = x.dtype.type
        one, zero = real(1), real(0)
        for net in range(heads.shape[0]):
            first, count, index = heads[net, 0], heads[net, 1], heads[net, 2]
            mean, ranged = real(options[net, 0]), options[net, 1] != 0.0
            low, high, weight = real(options[net, 2]), real(options[net, 3]), options[net, 4]
            x_in = matrix_view(x, layers[first, 4] * batch, batch, 2 * K)
            for j in range(batch):  # (F5)
                p, q = place_u[j], place_i[j]
                for k in range(K):
                    x_in[j, k] = wu[p, k]
                for k in range(K):
                    x_in[j, K + k] = wi[q, k]
            matrix_view(factor, layers[first, 4] * batch, batch, 2 * K)[:] = one
            for layer in range(first, first + count):
                n_in, n_out, at = layers[layer, 0], layers[layer, 1], layers[layer, 4] * batch
                x_in = matrix_view(x, at, batch, n_in)
                x_out = matrix_view(x, at + batch * n_in, batch, n_out)
                threshold = np.uint64(layers[layer, 5])
                if threshold > np.uint64(0):  # (F6), as a factor that the backward pass reads
                    f = factor[at : at + batch * n_in]
                    apply_dropout(f, seed, np.uint64(layers[layer, 6]), step, threshold, scales[layer])
                    flat = x[at : at + batch * n_in]
                    for i in range(len(f)):
                        flat[i] *= f[i]
                bias = w[layers[layer, 3] : layers[layer, 3] + n_out]
                np.dot(x_in, matrix_view(w, layers[layer, 2], n_in, n_out), x_out)  # (F7)
                for j in range(batch):
                    for k in range(n_out):
                        x_out[j, k] += bias[k]
                if layer < first + count - 1:  # (F8)
                    f = factor[at + batch * n_in : at + batch * (n_in + n_out)]
                    flat = x[at + batch * n_in : at + batch * (n_in + n_out)]
                    for i in range(len(f)):
                        f[i] = one if flat[i] > zero else zero
                        flat[i] *= f[i]
            total = 0.0
            out = (layers[first + count - 1, 4] + layers[first + count - 1, 0]) * batch
            for j in range(batch):  # (F4), (F9), (B9), (B4)
                r = real(rating[order[lo + j]])
                value, d_s = LOSS(x[out + j] + mean, r, weight * FACTOR / batch, ranged, low, high, one)
                if WEIGHTED:
                    value, d_s = times(real(weights[order[lo + j]]), value), times(real(weights[order[lo + j]]), d_s)
                total += value
                d_x[out + j] = real(d_s)
            totals[index] = total
            for layer in range(first + count - 1, first - 1, -1):
                n_in, n_out, at = layers[layer, 0], layers[layer, 1], layers[layer, 4] * batch
                d_out = matrix_view(d_x, at + batch * n_in, batch, n_out)
                d_in = matrix_view(d_x, at, batch, n_in)
                matrix = matrix_view(w, layers[layer, 2], n_in, n_out)
                np.dot(
                    matrix_view(x, at, batch, n_in).T, d_out, matrix_view(d_w, layers[layer, 2], n_in, n_out)
                )  # (B7)
                d_bias = d_w[layers[layer, 3] : layers[layer, 3] + n_out]
                d_bias[:] = zero
                for j in range(batch):
                    for k in range(n_out):
                        d_bias[k] += d_out[j, k]
                np.dot(d_out, matrix.T, d_in)
                f, flat = factor[at : at + batch * n_in], d_x[at : at + batch * n_in]
                for i in range(len(f)):  # (B6), (B8)
                    flat[i] *= f[i]
            d_in = matrix_view(d_x, layers[first, 4] * batch, batch, 2 * K)
            for j in range(batch):  # (B5), (B1)
                p, q = place_u[j], place_i[j]
                for k in range(K):
                    gu[p, k] += d_in[j, k]
                for k in range(K):
                    gi[q, k] += d_in[j, K + k]

    return run
