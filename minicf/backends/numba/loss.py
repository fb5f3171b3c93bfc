"""Losses of one rating: from a head's score to the loss and its slope.

A kernel is compiled for one of them. Each is called as

    value, d_s = loss(s, r, share, ranged, low, high, one)

with the score s before the rating range, the mean already added; the target r; `share`, the factor of the rating in
the step: the head's weight in the loss / B, times the learning rate where a kernel folds the update in (online SGD,
batch size 1); the rating range, used if `ranged`; and `one`, 1 in the dtype of the computation. `value` is the loss of
this rating alone, and d_s = share dvalue/ds.

They are macros: as functions of their own they would be optimized before they become part of a kernel, with other
roundings than those of the same lines in the kernel.
"""

from __future__ import annotations

import math

from minicf.backends.numba.jit import inline, macro
from minicf.backends.numba.vectors import plus


@inline
def _residual(s, r, ranged, low, high, one):
    """Compute y - r and the slope dy/ds of the model's output y (F4, B4)."""
    if ranged:
        g = one / (one + math.exp(-s))
        return low + (high - low) * g - r, (high - low) * g * (one - g)
    return s - r, one


@macro
def squared_error(s, r, share, ranged, low, high, one):
    """Compute the squared error (y - r)^2 and its slope (F9, B9)."""
    e, slope = _residual(s, r, ranged, low, high, one)
    return e * e, plus(share, share) * e * slope


@macro
def logistic(s, r, share, ranged, low, high, one):
    """Compute the logistic loss log(1 + exp(y)) - r y of a label r in 0 … 1, and its slope.

    exp is taken of -|y| alone, so nothing overflows.
    """
    y, slope = _residual(s, one - one, ranged, low, high, one)
    e = math.exp(-abs(y))
    probability = (one if y >= 0 else e) / (one + e)
    value = (y if y > 0 else one - one) + math.log1p(e) - r * y
    return value, share * (probability - r) * slope
