"""Normal and Gamma random numbers by counter: those of `rng.normal` and `rng.gamma` up to rounding.

Box and Muller's transform takes a logarithm and a cosine, which NumPy and LLVM compute one at a time. Here they are
polynomials without branches, which the compiler turns into vectors. Both are those of fdlibm (Sun Microsystems 1993):

    log v = e log 2 + log m,  v = 2^e m,  m in [2^-1/2, 2^1/2),  f = m - 1,  s = f / (2 + f),
                              log m = f - s (f - R(s^2))
    cos 2 pi u:   4 u = k + t,  t in [-1/2, 1/2]: a cosine or a sine of t pi/2, by k mod 4

rng.normal rounds 2 pi u before it takes the cosine, these do not: results differ by some 1e-15.
"""

from __future__ import annotations

import math

import numpy as np

from minicf import rng
from minicf.backends.numba.jit import inline, kernel
from minicf.backends.numba.passes import GOLDEN, mix
from minicf.backends.numba.vectors import atomic_add

_ROOT_HALF = np.int64(0x3FE6A09E667F3BCD)
_LOG2 = math.log(2.0)
_QUARTER = 0.5 * math.pi
BLOCK = 128
"""Numbers that `fill_normals` makes in one go, in scratch arrays that stay in the first cache."""


@inline
def fill_normals(key, n, start, out, bits, turn):
    """Fill `out` with numbers start … of the stream ``rng.normal(key, n)``.

    `out` float64, at most `BLOCK` long; `bits` uint64 and `turn` float64 are scratch of `BLOCK`. Numbers from n on are
    of no use.
    """
    count = len(out)
    # u1: v = 1 - u1 is exact, and so is its logarithm's argument.
    for j in range(count):
        z = mix(key + (np.uint64(start + j) + np.uint64(1)) * GOLDEN)
        out[j] = 1.0 - np.float64(np.int64(z >> np.uint64(11))) * 2.0**-53
    for j in range(count):
        z = mix(key + (np.uint64(n + start + j) + np.uint64(1)) * GOLDEN)
        turn[j] = np.float64(np.int64(z >> np.uint64(11))) * 2.0**-51  # in quarters
    exponents, mantissas = bits.view(np.int64), out.view(np.int64)
    for j in range(count):
        whole = mantissas[j] - _ROOT_HALF  # in the bits of a float64: from 2^-1/2 on
        e = whole >> np.int64(52)
        mantissas[j] = mantissas[j] - (e << np.int64(52))
        exponents[j] = e
    for j in range(count):
        f = out[j] - 1.0
        s = f / (2.0 + f)
        z = s * s
        r = 1.531383769920937332e-01 + z * 1.479819860511658591e-01
        r = 1.818357216161805012e-01 + z * r
        r = 2.222219843214978396e-01 + z * r
        r = 2.857142874366239149e-01 + z * r
        r = 3.999999999940941908e-01 + z * r
        r = z * (6.666666666666735130e-01 + z * r)
        log = np.float64(exponents[j]) * _LOG2 + (f - s * (f - r))
        k = np.floor(turn[j] + 0.5)
        x = (turn[j] - k) * _QUARTER
        y = x * x
        sine = -2.50507602534068634195e-08 + y * 1.58969099521155010221e-10
        sine = 2.75573137070700676789e-06 + y * sine
        sine = -1.98412698298579493134e-04 + y * sine
        sine = 8.33333333332248946124e-03 + y * sine
        sine = x + x * y * (-1.66666666666666324348e-01 + y * sine)
        cosine = 2.08757232129817482790e-09 - y * 1.13596475577881948265e-11
        cosine = -2.75573143513906633035e-07 + y * cosine
        cosine = 2.48015872894767294178e-05 + y * cosine
        cosine = -1.38888888888741095749e-03 + y * cosine
        cosine = 1.0 - y * (0.5 - y * (4.16666666666666019037e-02 + y * cosine))
        # Quadrants: cos, -sin, -cos, sin.
        quadrant = np.int64(k) & np.int64(3)
        value = sine if (quadrant & np.int64(1)) == np.int64(1) else cosine
        value = -value if quadrant == np.int64(1) or quadrant == np.int64(2) else value
        out[j] = math.sqrt(max(-2.0 * log, 0.0)) * value


@kernel
def normals_kernel(key, out, shared):
    """Fill `out` with ``rng.normal(key, len(out))``; threads take pieces from `shared`."""
    bits, turn = np.empty(BLOCK, np.uint64), np.empty(BLOCK)
    while True:
        first = atomic_add(shared, 0, 16 * BLOCK)
        if first >= len(out):
            break
        for at in range(first, min(len(out), first + 16 * BLOCK), BLOCK):
            fill_normals(key, len(out), at, out[at : min(at + BLOCK, len(out))], bits, turn)


_GIBBS = np.uint64(rng.GIBBS)


@inline
def trial_key(key, trial, which):
    """Compute ``rng.key(key, rng.GIBBS, trial, which)``."""
    key = mix(mix(key) + _GIBBS * GOLDEN + GOLDEN)
    key = mix(key + np.uint64(trial) * GOLDEN + GOLDEN)
    return mix(key + np.uint64(which) * GOLDEN + GOLDEN)


@kernel
def _gamma_kernel(key, shape, rate, out):
    n = len(out)
    first_z, first_u = trial_key(key, 0, 0), trial_key(key, 0, 1)
    z, bits, turn = np.empty(BLOCK), np.empty(BLOCK, np.uint64), np.empty(BLOCK)
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        fill_normals(first_z, n, start, z[:count], bits, turn)
        for j in range(count):
            at, trial, normal, of_u = start + j, 0, z[j], first_u
            d = shape[at] - 1.0 / 3.0
            while True:
                u = np.float64(np.int64(mix(of_u + np.uint64(at + 1) * GOLDEN) >> np.uint64(11))) * 2.0**-53
                v = 1.0 + normal / math.sqrt(9.0 * d)
                v = v * v * v
                square = normal * normal
                # What the first accepts the second would: no logarithm for most.
                if u < 1.0 - 0.0331 * square * square or (
                    v > 0.0 and math.log(u) < 0.5 * square + d * (1.0 - v + math.log(v))
                ):
                    break
                trial += 1
                of_u = trial_key(key, trial, 1)
                fill_normals(trial_key(key, trial, 0), n, at, z[j : j + 1], bits, turn)
                normal = z[j]
            out[at] = d * v / rate[at]


def gamma(stream_key: int, shape: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Draw the numbers of `rng.gamma`, divided by their rates."""
    out = np.empty(len(shape))
    _gamma_kernel(np.uint64(stream_key), shape, rate, out)
    return out
