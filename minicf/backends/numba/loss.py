"""Losses of one rating: from a head's score to the loss and its slope.

A kernel is compiled for one of them. Each is called as

    value, d_s = loss(s, r, scale, ranged, low, high, one)

with the score s before the rating range, the mean already added; the target r; `scale`, the factor of the rating in
the step times the loss's constant in `FACTORS`: the head's weight in the loss / B, times the learning rate where a
kernel folds the update in (online SGD, batch size 1); the rating range, used if `ranged`; and `one`, 1 in the dtype of
the computation. `value` is the loss of this rating alone, and d_s its slope dvalue/ds times the rating's factor.

They are macros: as functions of their own they would be optimized before they become part of a kernel, with other
roundings than those of the same lines in the kernel.
"""

from __future__ import annotations

import math

from minicf.backends.numba.jit import inline, macro


@inline
def _residual(s, r, ranged, low, high, one):
    """Compute y - r and the slope dy/ds of the model's output y (F4, B4)."""
    if ranged:
        g = one / (one + math.exp(-s))
        return low + (high - low) * g - r, (high - low) * g * (one - g)
    return s - r, one


@macro
def squared_error(s, r, scale, ranged, low, high, one):
    """Compute the squared error (y - r)^2 and its slope 2 (y - r) dy/ds (F9, B9); the 2 is in `scale`."""
    e, slope = _residual(s, r, ranged, low, high, one)
    return e * e, scale * e * slope


@macro
def logistic(s, r, scale, ranged, low, high, one):
    """Compute the logistic loss log(1 + exp(y)) - r y of a target r in 0 … 1, and its slope (F11, B11).

    exp is taken of -|y| alone, so nothing overflows.
    """
    y, slope = _residual(s, one - one, ranged, low, high, one)
    e = math.exp(-abs(y))
    probability = (one if y >= 0 else e) / (one + e)
    value = (y if y > 0 else one - one) + math.log1p(e) - r * y
    return value, scale * (probability - r) * slope


FACTORS = {squared_error: 2.0, logistic: 1.0}
"""The constant factor of each loss's slope: kernels put it into what does not change from rating to rating."""
