"""The Numba backend: whole epochs in compiled code, dense results at sparse cost.

Every number equals the reference's (`base.py`) up to rounding. All compiled code is in this file, because Numba's
cache does not notice changes in another.

Layout
------
A table and what the optimiser keeps of it are one array. A row is ``[weights | slot 1 | slot 2]``, each part W numbers
wide: K factors, the bias, a column for the other side's bias, zeros up to a multiple of 64 bytes. During a step the
rows that the batch names are copied into small buffers, where the user's row reads ``[p, b_u, 1, 0…]`` and the item's
``[q, 1, c_i, 0…]``: one dot product of W numbers gives p . q + b_u + c_i (F2, F3), and adding d_s times the other row
gives every gradient (B2, B3). W is a constant of the compiled code, so that these loops become a few wide
instructions.

Catch-up
--------
With dense semantics a row that no rating of a batch names moves all the same: momentum carries it on, weight decay
shrinks it. But it moves alone, by equations in which nothing of the batch occurs. So it is left where it is and
caught up when it is next read, and at the end of a call.

*SGD.* An idle step is linear in (w, v). With g = lambda w ("l2"; else 0) and f = 1 - lr lambda ("decoupled"; else 1),
(U4) and (U5) read

    (C1)  v' = mu v + lambda w,   w' = f w - lr v'        so (w', v') = M (w, v),  M = [[f - lr lambda, -lr mu],
                                                                                        [lambda,            mu]]
    (C2)  Nesterov: w' = f w - lr (lambda w + mu v'),      M = [[f - lr lambda (1 + mu), -lr mu^2], [lambda, mu]]

n idle steps are a product of n such matrices, and a step with gradient g adds g (-lr, 1) to the idle one's result
((-lr (1 + mu), 1) with Nesterov's look-ahead). With one learning rate the products are powers, from a table. With a
changing one a product over steps a … b-1 comes from a disjoint sparse table: level l holds, for each block of 2^(l+1)
steps, products from each step to the block's middle and from the middle to each step; any range is one of the first
times one of the second. (Prefix products with inverses would lose all digits: det M is about mu at every step.)

*Adam, AdamW.* Without l2 the moments only fade: after j idle steps m beta1^j and v beta2^j. With r = sqrt(v),
t the step of the j-th move, c_t = sqrt(1 - beta2^t), a_t = lr_t / (1 - beta1^t) and f_t = 1 - lr_t lambda, (U8) sums to

    (C3)  w' = F (w - m S),  F = prod f_t,
          S = sum_j A_j / (r + eps e_j),  e_j = c_t beta2^(-j/2),
          A_j = a_t c_t (beta1 / sqrt beta2)^j / prod_(i<=j) f_i

e_j hardly changes over the few dozen steps in which A_j counts. Around their mean E (weights A_j), with
x = eps E / (r + eps E) <= 1 and C_p the central moments of e_j / E,

    (C4)  S = (sum A_j) / (r + eps E) * (1 + C_2 x^2 - C_3 x^3 + C_4 x^4 - C_5 x^5 + …)

one square root and one division an element, however long the gap. The remainder is at most C_6, largest where r = 0;
a table of C_6 by step says from where on it is below `_TOLERANCE` (from about step 200 for the default betas: the
bias correction c_t must have calmed down); before that, the steps are replayed. The raw moments of all later steps
follow from a backward recurrence over the steps of a call,

    (C5)  M_p(s) = (beta1 beta2^(-(p+1)/2) / f_s) (a_s c_s c_s^p + M_p(s + 1)),

and those of a range s … t-1 are M_p(s) - (beta1 beta2^(-(p+1)/2))^(t-s) / F(s, t) M_p(t).

*Adam with l2.* Not linear, no sum: idle steps are replayed, row by row, with the row in the fastest cache.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import operator
import os
import platform
import threading
import time
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.extending import intrinsic, overload, register_model

from minicf import rng
from minicf.backends import base
from minicf.backends.base import Progress
from minicf.backends.numba_cache import kept
from minicf.blas import one_blas_thread
from minicf.models import Dot, Hybrid, Model, Net, Weights
from minicf.optim import SGD, Adam, Optimizer
from minicf.tiles import Tiles

log = logging.getLogger("minicf")
_told: set[str] = set()  # what was said once

NAME = "numba"

_FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Never plain fastmath: it lets the compiler assume that no NaN exists, and divergence would go unseen."""

_options: dict[str, Any] = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}


def _jit(function: Any) -> Any:
    return kept(function, **_options)


_inline = njit(forceinline=True, **_options)
"""Parts of the kernels become part of them, where sizes are constants. It also keeps results the same to the last bit
whether a process compiles a kernel or takes it from the cache: linked parts would be compiled anew beside it."""

_TOLERANCE = 3e-8
"""Largest relative truncation error of (C4): half a unit in the last place of float32."""

_TERMS = 6
"""Raw moments M_0 … M_5 of (C5) that a catch-up uses; M_6 bounds the error."""


def unavailable() -> str | None:
    """Why this backend cannot run here; None if it can."""
    return None


# --- what the kernels are told about the optimiser -----------------------------------------------------------------


class Linear(NamedTuple):
    """SGD: products of idle steps (C1, C2), and what a gradient adds."""

    products: Any  # (classes, levels, steps + 1 or steps, 4): powers in level 0 if constant, else the sparse table
    constant: Any  # 1 if the learning rate is the same at every step
    logs: Any  # (steps,) uint8: position of the highest bit
    inject: Any  # (steps,): lr, or lr (1 + mu) with Nesterov's look-ahead
    rate: Any  # (steps,): lr
    momentum: Any
    nesterov: Any


class Moments(NamedTuple):
    """Adam: scalars of each step of the call, and the tables of (C3) … (C5)."""

    scalars: Any  # (steps, 4): lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), eps of tables ((U9) if sparse), lr
    betas: Any  # (4,): beta1, beta2, 1 - beta1, 1 - beta2
    powers: Any  # (steps + 2, 2): beta1^n, beta2^n
    sums: Any  # (classes, steps + 1, 7) float64: M_0 … M_5, and the product of f over the steps before
    fades: Any  # (steps + 2, 2) float64: (beta1 / sqrt beta2)^n, beta2^(-n/2)
    good: Any  # (classes, steps + 1) bool: (C4) is exact enough from here on
    eps: Any


class Heads(NamedTuple):
    """The model: the dot head, if any, and what all of it needs."""

    has_dot: Any
    biases: Any
    n_factors: Any
    mean: Any
    ranged: Any
    low: Any
    high: Any
    weight: Any
    dot_index: Any  # its place among the heads


class Nets(NamedTuple):
    """The dense layers of all net heads, in flat arrays."""

    layers: Any  # (n_layers, 7) int64: inputs, outputs, weight at, bias at, input at, dropout threshold, stream
    heads: Any  # (n_nets, 3) int64: first layer, layers, place among the heads
    options: Any  # (n_nets, 5) float64: mean, ranged, low, high, weight
    scales: Any  # (n_layers,): 1 / (1 - rate)
    w: Any  # (n,)
    d_w: Any  # (n,)
    slot1: Any  # (n,) or (0,)
    slot2: Any
    decay: Any  # (n,): lambda of each number
    kind: Any  # 0 none, 1 added to the gradient, 2 decoupled
    x: Any  # inputs of every layer, batch x width each
    factor: Any  # what each input was multiplied by: dropout mask, relu's 0 or 1
    d_x: Any


class Side(NamedTuple):
    """A table with all that belongs to it: users or items."""

    arrays: Any
    """table (rows, slots * W); last (rows,), the step of the call up to which a row stands; slot (rows,), a row's place
    in the batch's buffers, -1 if none; rows (buffer,), the row of each place; count (buffer,), ratings of the batch
    that name it; w, g (buffer, W); place (batch,), the place of each rating's row; decay (2, W), lambda of each column
    with "l2" and with "decoupled", one of them 0; named (rows,), 1 for rows that a block of steps names. Indices are
    int32."""
    factors: Any  # class of weight decay of the factors, and of the bias
    bias: Any
    column: Any  # of the bias
    one: Any  # of the 1 that meets the other side's bias, -1 if there are no biases
    share_factors: Any  # lambda of "per_rating"
    share_bias: Any


# --- denormals --------------------------------------------------------------------------------------------------------


@intrinsic
def _exchange_mxcsr(context, value):
    """Set the processor's floating-point control word, return the old one; nothing, and 0, where there is none."""

    def generate(context, builder, signature, arguments):
        i32 = ir.IntType(32)
        if platform.machine() not in ("x86_64", "AMD64"):
            return i32(0)
        word = cgutils.alloca_once(builder, i32)
        pointer = builder.bitcast(word, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type])
        module = builder.module
        builder.call(cgutils.get_or_insert_function(module, kind, "llvm.x86.sse.stmxcsr"), [pointer])
        old = builder.load(word)
        builder.store(arguments[0], word)
        builder.call(cgutils.get_or_insert_function(module, kind, "llvm.x86.sse.ldmxcsr"), [pointer])
        return old

    return types.uint32(types.uint32), generate


_FLUSH = np.uint32(0x1F80 | 0x8040)
"""All exceptions masked, as usual, and denormal numbers taken for 0: with l2 a row that is never rated shrinks to
nothing, and its second moment sooner; arithmetic on denormals is a hundredfold slower."""


# --- vectors --------------------------------------------------------------------------------------------------------
#
# A value of 64 bytes: 16 numbers of float32 or 8 of float64, one register where the processor has AVX-512, two or four
# elsewhere. Left to itself the compiler unrolls short rows into single numbers, and guards long ones against overlaps
# that cannot be.


class _Vector(types.Type):
    def __init__(self, element: Any) -> None:
        self.element, self.lanes = element, 512 // element.bitwidth
        super().__init__(f"minicf.vector({element})")


@register_model(_Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, manager: Any, kind: _Vector) -> None:
        element = manager.lookup(kind.element).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.lanes))


_FLAGS = ("reassoc", "contract", "nsz", "arcp")
_AVX512 = platform.machine() in ("x86_64", "AMD64") and bool(llvm.get_host_cpu_features().get("avx512f"))


def _address(context: Any, builder: Any, kind: Any, arguments: Any) -> Any:
    """Of (array, row, column), as a pointer to a vector."""
    array = context.make_array(kind)(context, builder, arguments[0])
    stride = builder.extract_value(array.strides, 0)
    wide = stride.type
    row, column = (builder.sext(x, wide) if x.type.width < wide.width else x for x in arguments[1:3])
    size = kind.dtype.bitwidth // 8
    offset = builder.add(builder.mul(row, stride), builder.mul(column, wide(size)))
    byte = builder.gep(builder.bitcast(array.data, ir.IntType(8).as_pointer()), [offset])
    return builder.bitcast(byte, context.get_value_type(_Vector(kind.dtype)).as_pointer())


@intrinsic
def _lanes(context, array):
    """Numbers of a vector of this array's kind, a constant of the compiled code.

    ``64 // array.itemsize`` is not: it is read at run time, and no loop over the columns of a row could be unrolled.
    """
    count = 512 // array.dtype.bitwidth
    return types.intp(array), lambda context, builder, signature, arguments: ir.IntType(64)(count)


@intrinsic
def _load(context, array, row, column):
    """The vector at (row, column) of a table."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, signature.args[0], arguments), align=4)

    return _Vector(array.dtype)(array, types.intp, types.intp), generate


@intrinsic
def _store(context, array, row, column, vector):
    """Put a vector at (row, column) of a table."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[3], _address(context, builder, signature.args[0], arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), generate


def _splat(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    if isinstance(value.type, ir.VectorType):
        return value
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), lanes)


def _binary(name: str) -> Any:
    """An operation on two vectors, or a vector and a number of its element type."""

    @intrinsic
    def operation(context, a, b):
        vector = a if isinstance(a, _Vector) else b
        kinds = [x if isinstance(x, _Vector) else vector.element for x in (a, b)]

        def generate(context, builder, signature, arguments):
            kind = context.get_value_type(signature.return_type)
            x, y = (_splat(builder, value, kind) for value in arguments)
            return getattr(builder, name)(x, y, flags=_FLAGS)

        return vector(*kinds), generate

    return operation


def _write_as(sign: Any, operation: Any) -> None:
    """Let ``a sign b`` mean an operation on vectors."""

    @overload(sign, inline="always")
    def implement(a, b):
        if isinstance(a, _Vector) or isinstance(b, _Vector):
            return lambda a, b: operation(a, b)
        return None


_write_as(operator.add, _binary("fadd"))
_write_as(operator.sub, _binary("fsub"))
_write_as(operator.mul, _binary("fmul"))


@intrinsic
def _zero(context, array):
    """A vector of zeros, of the array's dtype."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(signature.return_type), None)

    return _Vector(array.dtype)(array), generate


@intrinsic
def _sum(context, vector):
    """The sum of a vector's numbers."""

    def generate(context, builder, signature, arguments):
        element, whole = (context.get_value_type(kind) for kind in (vector.element, vector))
        name = f"llvm.vector.reduce.fadd.v{vector.lanes}f{vector.element.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(element, [element, whole]), name)
        return builder.call(function, [element(0.0), arguments[0]], fastmath=_FLAGS)

    return vector.element(vector), generate


@intrinsic
def _inverse_root(context, vector, root, eps):
    """1 / (sqrt(v) root + eps), as Adam divides (U8).

    Root and division share one slow unit of the processor. With AVX-512 and float32 the division is left to the
    estimate of 1/x, good to 14 bits, and a step of Newton's method, which doubles them: as exact as float32 is.
    """

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(vector)
        v, (root, eps) = arguments[0], (_splat(builder, x, kind) for x in arguments[1:])
        bits = vector.element.bitwidth

        def call(name: str, *values: Any) -> Any:
            signature = ir.FunctionType(kind, [x.type for x in values])
            return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), values)

        def times(a: Any, b: Any) -> Any:
            return builder.fmul(a, b, flags=_FLAGS)

        s = call(f"llvm.sqrt.v{vector.lanes}f{bits}", v)
        d = builder.fadd(times(s, root), eps, flags=_FLAGS)
        if not (_AVX512 and bits == 32):
            return builder.fdiv(ir.Constant(kind, [1.0] * vector.lanes), d, flags=_FLAGS)
        zero, all_lanes = ir.Constant(kind, None), ir.IntType(16)(0xFFFF)
        x = call("llvm.x86.avx512.rcp14.ps.512", d, zero, all_lanes)
        two = ir.Constant(kind, [2.0] * vector.lanes)
        return times(x, builder.fsub(two, times(d, x), flags=_FLAGS))

    return vector(vector, vector.element, vector.element), generate


# --- threads ----------------------------------------------------------------------------------------------------------


@intrinsic
def _add(context, counters, index, amount):
    """Add to one of the counters that threads share, int64 (n,), and return what it was.

    Whoever sees the sum also sees what the adder had written before.
    """

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        return builder.atomic_rmw("add", place, arguments[2], "acq_rel")

    return types.int64(counters, types.int64, types.int64), generate


@intrinsic
def _let_others(context):
    """Let another thread have this core, where the system has a call for that."""

    def generate(context, builder, signature, arguments):
        if hasattr(os, "sched_yield"):
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


# --- SGD ------------------------------------------------------------------------------------------------------------


@_jit
def _power_table(matrix, out):
    """Powers 0 … n of a 2 x 2 matrix, in float64, rounded once."""
    a, b, c, d = 1.0, 0.0, 0.0, 1.0
    for n in range(out.shape[0]):
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = a, b, c, d
        a, b, c, d = (
            matrix[0] * a + matrix[1] * c,
            matrix[0] * b + matrix[1] * d,
            matrix[2] * a + matrix[3] * c,
            matrix[2] * b + matrix[3] * d,
        )


@_jit
def _range_table(matrices, out):
    """The disjoint sparse table over matrices (steps, 4): out (levels, steps, 4)."""
    n = matrices.shape[0]
    for level in range(out.shape[0]):
        half = 1 << level
        for middle in range(half, n + half, 2 * half):
            a, b, c, d = 1.0, 0.0, 0.0, 1.0
            for i in range(middle - 1, middle - half - 1, -1):  # from step i to the middle
                if i < n:
                    m = matrices[i]
                    a, b, c, d = (
                        a * m[0] + b * m[2],
                        a * m[1] + b * m[3],
                        c * m[0] + d * m[2],
                        c * m[1] + d * m[3],
                    )
                    out[level, i, 0], out[level, i, 1], out[level, i, 2], out[level, i, 3] = a, b, c, d
            a, b, c, d = 1.0, 0.0, 0.0, 1.0
            for i in range(middle, min(middle + half, n)):  # from the middle to step i
                m = matrices[i]
                a, b, c, d = (
                    m[0] * a + m[1] * c,
                    m[0] * b + m[1] * d,
                    m[2] * a + m[3] * c,
                    m[2] * b + m[3] * d,
                )
                out[level, i, 0], out[level, i, 1], out[level, i, 2], out[level, i, 3] = a, b, c, d


@_inline
def _product(table, constant, logs, which, start, stop):
    """M of the steps start … stop-1, the last one leftmost."""
    if constant:
        n = stop - start
        return table[which, 0, n, 0], table[which, 0, n, 1], table[which, 0, n, 2], table[which, 0, n, 3]
    one, zero = table.dtype.type(1), table.dtype.type(0)
    if stop <= start:
        return one, zero, zero, one
    i, j = start, stop - 1
    if i == j:
        return table[which, 0, i, 0], table[which, 0, i, 1], table[which, 0, i, 2], table[which, 0, i, 3]
    early, late = table[which, logs[i ^ j], i], table[which, logs[i ^ j], j]
    return (
        late[0] * early[0] + late[1] * early[2],
        late[0] * early[1] + late[1] * early[3],
        late[2] * early[0] + late[3] * early[2],
        late[2] * early[1] + late[3] * early[3],
    )


@_inline
def _linear_gather(W, SLOTS, n, rows, table, last, w, t, sparse, products, constant, logs, factors, bias, column):
    """The batch's rows as they stand before step t, into the buffers (C1)."""
    lanes = _lanes(table)
    for s in range(n):
        row = rows[s]
        start = t if sparse else last[row]
        a, b, _, _ = _product(products, constant, logs, factors, start, t)
        for k in range(0, W, lanes):
            if SLOTS == 2:
                _store(w, s, k, a * _load(table, row, k) + b * _load(table, row, W + k))
            else:
                _store(w, s, k, a * _load(table, row, k))
        if bias != factors:
            a, b, _, _ = _product(products, constant, logs, bias, start, t)
            w[s, column] = a * table[row, column]
            if SLOTS == 2:
                w[s, column] += b * table[row, W + column]


@_inline
def _linear_scatter(
    W, SLOTS, n, rows, table, last, g, t, sparse, products, constant, logs, factors, bias, column, inject
):
    """Step t of the batch's rows: the idle step's result, and the gradient's addition (U4, U5)."""
    lanes = _lanes(table)
    lr = inject[t]
    for s in range(n):
        row = rows[s]
        start = t if sparse else last[row]
        old_w = table[row, column]
        old_v = table[row, W + column] if SLOTS == 2 else old_w
        a, b, c, d = _product(products, constant, logs, factors, start, t + 1)
        for k in range(0, W, lanes):
            wk, gk = _load(table, row, k), _load(g, s, k)
            if SLOTS == 2:
                vk = _load(table, row, W + k)
                _store(table, row, k, a * wk + b * vk - lr * gk)
                _store(table, row, W + k, c * wk + d * vk + gk)
            else:
                _store(table, row, k, a * wk - lr * gk)
        if bias != factors:
            a, b, c, d = _product(products, constant, logs, bias, start, t + 1)
            if SLOTS == 2:
                table[row, column] = a * old_w + b * old_v - lr * g[s, column]
                table[row, W + column] = c * old_w + d * old_v + g[s, column]
            else:
                table[row, column] = a * old_w - lr * g[s, column]
        last[row] = t + 1


@_inline
def _linear_flush(W, SLOTS, table, last, steps, products, constant, logs, factors, bias, column):
    """Bring every row to the end of the call, where counting starts again."""
    lanes = _lanes(table)
    for row in range(table.shape[0]):
        start = last[row]
        last[row] = 0
        if start == steps:
            continue
        old_w = table[row, column]
        old_v = table[row, W + column] if SLOTS == 2 else old_w
        a, b, c, d = _product(products, constant, logs, factors, start, steps)
        for k in range(0, W, lanes):
            wk = _load(table, row, k)
            if SLOTS == 2:
                vk = _load(table, row, W + k)
                _store(table, row, k, a * wk + b * vk)
                _store(table, row, W + k, c * wk + d * vk)
            else:
                _store(table, row, k, a * wk)
        if bias != factors:
            a, b, c, d = _product(products, constant, logs, bias, start, steps)
            table[row, column] = a * old_w
            if SLOTS == 2:
                table[row, column] += b * old_v
                table[row, W + column] = c * old_w + d * old_v


# --- Adam -----------------------------------------------------------------------------------------------------------


@_jit
def _moment_tables(lr, first_step, beta1, beta2, shrink, sums, good, tolerance):
    """(C5) backwards over the steps of a call, and from where on (C4) is exact enough.

    `lr` (steps,), `first_step` the step before the call's first; `sums` (steps + 1, 7) and `good` (steps + 1,) are
    filled.
    """
    steps = len(lr)
    sums[0, 6] = 1.0
    for s in range(steps):
        sums[s + 1, 6] = sums[s, 6] * (1.0 - lr[s] * shrink)
    h = beta2**-0.5
    m = np.zeros(7)
    nu = np.zeros(7)
    for p in range(6):
        sums[steps, p] = 0.0
    good[steps] = True
    usable = sums[steps, 6] > 1e-200 and beta1 > 0.0
    for s in range(steps - 1, -1, -1):
        t = first_step + s + 1
        c = math.sqrt(-math.expm1(t * math.log(beta2))) if beta2 > 0.0 else 1.0
        a = lr[s] * c / -math.expm1(t * math.log(beta1)) if beta1 > 0.0 else lr[s] * c
        factor = beta1 * h / (1.0 - lr[s] * shrink)
        for p in range(7):
            m[p] = factor * (a + m[p])
            a *= c
            factor *= h
        for p in range(6):
            sums[s, p] = m[p]
        good[s] = False
        if usable and m[0] > 0.0 and m[6] < 1e100:
            for p in range(7):
                nu[p] = m[p] / m[0]
            e = nu[1]
            e2 = e * e
            sixth = (
                nu[6] - 6 * e * nu[5] + 15 * e2 * nu[4] - 20 * e2 * e * nu[3] + 15 * e2 * e2 * nu[2] - 5 * e2 * e2 * e2
            )
            good[s] = sixth < tolerance * e2 * e2 * e2
        elif usable and m[0] == 0.0:
            good[s] = True  # learning rates of 0: nothing moves


@_inline
def _replay_step(w, m, v, l2, f, b1, b2, c1, c2, rate, root, eps):
    """One idle step of a vector (U6, U7, U8)."""
    g = l2 * w
    m = b1 * m + c1 * g
    v = b2 * v + c2 * g * g
    return f * w - rate * m * _inverse_root(v, root, eps), m, v


@_inline
def _adam_replay(W, table, row, scalars, betas, decay, start, stop):
    """Idle steps start … stop-1 of a row, one by one, in registers; four vectors at once, so that none waits."""
    lanes = _lanes(table)
    b1, b2, c1, c2 = betas[0], betas[1], betas[2], betas[3]
    one = table.dtype.type(1)
    whole = W // (4 * lanes) * 4 * lanes
    for k in range(0, whole, 4 * lanes):
        k1, k2, k3 = k + lanes, k + 2 * lanes, k + 3 * lanes
        w0, m0, v0 = _load(table, row, k), _load(table, row, W + k), _load(table, row, 2 * W + k)
        w1, m1, v1 = _load(table, row, k1), _load(table, row, W + k1), _load(table, row, 2 * W + k1)
        w2, m2, v2 = _load(table, row, k2), _load(table, row, W + k2), _load(table, row, 2 * W + k2)
        w3, m3, v3 = _load(table, row, k3), _load(table, row, W + k3), _load(table, row, 2 * W + k3)
        l0, l1, l2, l3 = _load(decay, 0, k), _load(decay, 0, k1), _load(decay, 0, k2), _load(decay, 0, k3)
        s0, s1, s2, s3 = _load(decay, 1, k), _load(decay, 1, k1), _load(decay, 1, k2), _load(decay, 1, k3)
        for t in range(start, stop):
            rate, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
            w0, m0, v0 = _replay_step(w0, m0, v0, l0, one - lr * s0, b1, b2, c1, c2, rate, root, eps)
            w1, m1, v1 = _replay_step(w1, m1, v1, l1, one - lr * s1, b1, b2, c1, c2, rate, root, eps)
            w2, m2, v2 = _replay_step(w2, m2, v2, l2, one - lr * s2, b1, b2, c1, c2, rate, root, eps)
            w3, m3, v3 = _replay_step(w3, m3, v3, l3, one - lr * s3, b1, b2, c1, c2, rate, root, eps)
        for j, w, m, v in ((k, w0, m0, v0), (k1, w1, m1, v1), (k2, w2, m2, v2), (k3, w3, m3, v3)):
            _store(table, row, j, w)
            _store(table, row, W + j, m)
            _store(table, row, 2 * W + j, v)
    twos = whole + (W - whole) // (2 * lanes) * 2 * lanes
    for k in range(whole, twos, 2 * lanes):
        k1 = k + lanes
        w0, m0, v0 = _load(table, row, k), _load(table, row, W + k), _load(table, row, 2 * W + k)
        w1, m1, v1 = _load(table, row, k1), _load(table, row, W + k1), _load(table, row, 2 * W + k1)
        l0, l1, s0, s1 = _load(decay, 0, k), _load(decay, 0, k1), _load(decay, 1, k), _load(decay, 1, k1)
        for t in range(start, stop):
            rate, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
            w0, m0, v0 = _replay_step(w0, m0, v0, l0, one - lr * s0, b1, b2, c1, c2, rate, root, eps)
            w1, m1, v1 = _replay_step(w1, m1, v1, l1, one - lr * s1, b1, b2, c1, c2, rate, root, eps)
        for j, w, m, v in ((k, w0, m0, v0), (k1, w1, m1, v1)):
            _store(table, row, j, w)
            _store(table, row, W + j, m)
            _store(table, row, 2 * W + j, v)
    for k in range(twos, W, lanes):
        w, m, v = _load(table, row, k), _load(table, row, W + k), _load(table, row, 2 * W + k)
        l0, s0 = _load(decay, 0, k), _load(decay, 1, k)
        for t in range(start, stop):
            rate, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
            w, m, v = _replay_step(w, m, v, l0, one - lr * s0, b1, b2, c1, c2, rate, root, eps)
        _store(table, row, k, w)
        _store(table, row, W + k, m)
        _store(table, row, 2 * W + k, v)


@_inline
def _adam_replay_rows(W, table, r0, r1, r2, r3, r4, r5, r6, r7, scalars, betas, decay, start, stop):
    """The same for eight rows with "l2": eight vectors to choose from hide how long a root and a division take.

    One row may stand in several places: it is then moved several times from the same values to the same.
    """
    lanes = _lanes(table)
    b1, b2, c1, c2 = betas[0], betas[1], betas[2], betas[3]
    one = table.dtype.type(1)
    for k in range(0, W, lanes):
        d = _load(decay, 0, k)
        w0, m0, v0 = _load(table, r0, k), _load(table, r0, W + k), _load(table, r0, 2 * W + k)
        w1, m1, v1 = _load(table, r1, k), _load(table, r1, W + k), _load(table, r1, 2 * W + k)
        w2, m2, v2 = _load(table, r2, k), _load(table, r2, W + k), _load(table, r2, 2 * W + k)
        w3, m3, v3 = _load(table, r3, k), _load(table, r3, W + k), _load(table, r3, 2 * W + k)
        w4, m4, v4 = _load(table, r4, k), _load(table, r4, W + k), _load(table, r4, 2 * W + k)
        w5, m5, v5 = _load(table, r5, k), _load(table, r5, W + k), _load(table, r5, 2 * W + k)
        w6, m6, v6 = _load(table, r6, k), _load(table, r6, W + k), _load(table, r6, 2 * W + k)
        w7, m7, v7 = _load(table, r7, k), _load(table, r7, W + k), _load(table, r7, 2 * W + k)
        for t in range(start, stop):
            rate, root, eps = scalars[t, 0], scalars[t, 1], scalars[t, 2]
            w0, m0, v0 = _replay_step(w0, m0, v0, d, one, b1, b2, c1, c2, rate, root, eps)
            w1, m1, v1 = _replay_step(w1, m1, v1, d, one, b1, b2, c1, c2, rate, root, eps)
            w2, m2, v2 = _replay_step(w2, m2, v2, d, one, b1, b2, c1, c2, rate, root, eps)
            w3, m3, v3 = _replay_step(w3, m3, v3, d, one, b1, b2, c1, c2, rate, root, eps)
            w4, m4, v4 = _replay_step(w4, m4, v4, d, one, b1, b2, c1, c2, rate, root, eps)
            w5, m5, v5 = _replay_step(w5, m5, v5, d, one, b1, b2, c1, c2, rate, root, eps)
            w6, m6, v6 = _replay_step(w6, m6, v6, d, one, b1, b2, c1, c2, rate, root, eps)
            w7, m7, v7 = _replay_step(w7, m7, v7, d, one, b1, b2, c1, c2, rate, root, eps)
        for row, w, m, v in ((r0, w0, m0, v0), (r1, w1, m1, v1), (r2, w2, m2, v2), (r3, w3, m3, v3)):
            _store(table, row, k, w)
            _store(table, row, W + k, m)
            _store(table, row, 2 * W + k, v)
        for row, w, m, v in ((r4, w4, m4, v4), (r5, w5, m5, v5), (r6, w6, m6, v6), (r7, w7, m7, v7)):
            _store(table, row, k, w)
            _store(table, row, W + k, m)
            _store(table, row, 2 * W + k, v)


@_inline
def _adam_coefficients(sums, fades, eps, which, start, stop):
    """What (C3) and (C4) need of the steps start … stop-1: F, sum A, eps E, C_2 … C_5."""
    n = stop - start
    keep = sums[which, stop, 6] / sums[which, start, 6]
    grow = fades[n, 1]
    factor = fades[n, 0] / keep
    m0 = sums[which, start, 0] - factor * sums[which, stop, 0]
    if m0 <= 0.0:
        return keep, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0
    factor *= grow
    e = (sums[which, start, 1] - factor * sums[which, stop, 1]) / m0
    # In units of e, so that the central moments below are of numbers around 1.
    u = 1.0 / e
    factor *= grow
    scale = u * u / m0
    n2 = (sums[which, start, 2] - factor * sums[which, stop, 2]) * scale
    factor *= grow
    scale *= u
    n3 = (sums[which, start, 3] - factor * sums[which, stop, 3]) * scale
    factor *= grow
    scale *= u
    n4 = (sums[which, start, 4] - factor * sums[which, stop, 4]) * scale
    factor *= grow
    scale *= u
    n5 = (sums[which, start, 5] - factor * sums[which, stop, 5]) * scale
    c2 = n2 - 1.0
    c3 = n3 - 3.0 * n2 + 2.0
    c4 = n4 - 4.0 * n3 + 6.0 * n2 - 3.0
    c5 = n5 - 5.0 * n4 + 10.0 * n3 - 10.0 * n2 + 4.0
    return keep, m0, eps * e, c2, c3, c4, c5


@_inline
def _adam_move_row(one, w, m, v, keep, total, e, c2, c3, c4, c5):
    """(C3), (C4) for a vector; `one` is 1 in the dtype of the rest."""
    d = _inverse_root(v, one, e)
    x = e * d
    return keep * (w - total * m * d * (one + x * x * (c2 - x * (c3 - x * (c4 - x * c5)))))


@_inline
def _adam_move(one, w, m, v, keep, total, e, c2, c3, c4, c5):
    """(C3), (C4) for one element; `one` is 1 in the dtype of the rest."""
    d = one / (math.sqrt(v) + e)
    x = e * d
    return keep * (w - m * total * d * (one + x * x * (c2 - x * (c3 - x * (c4 - x * c5)))))


@_inline
def _adam_caught_up(W, table, last, row, scalars, betas, decay, good, factors, bias, stop):
    """Replay what cannot be summed; return the step up to which the row then stands."""
    start = last[row]
    if start == stop or (good[factors, start] and good[bias, start]):
        return start
    until = start + 1  # up to the first step from which both sums are exact enough
    while until < stop and not (good[factors, until] and good[bias, until]):
        until += 1
    _adam_replay(W, table, row, scalars, betas, decay, start, until)
    last[row] = until
    return until


@_inline
def _adam_gather(
    W, n, rows, table, last, w, t, sparse, scalars, betas, decay, sums, fades, good, eps, factors, bias, column
):
    """The batch's rows as they stand before step t, into the buffers. Moments stay behind, see `_adam_scatter`."""
    lanes = _lanes(table)
    real = table.dtype.type
    for s in range(n):
        row = rows[s]
        start = t if sparse else _adam_caught_up(W, table, last, row, scalars, betas, decay, good, factors, bias, t)
        if start == t:
            for k in range(0, W, lanes):
                _store(w, s, k, _load(table, row, k))
            continue
        keep, total, e, c2, c3, c4, c5 = _adam_coefficients(sums, fades, eps, factors, start, t)
        keep, total, e = real(keep), real(total), real(e)
        c2, c3, c4, c5 = real(c2), real(c3), real(c4), real(c5)
        for k in range(0, W, lanes):
            m, v = _load(table, row, W + k), _load(table, row, 2 * W + k)
            moved = _adam_move_row(real(1), _load(table, row, k), m, v, keep, total, e, c2, c3, c4, c5)
            _store(w, s, k, moved)
        if bias != factors:
            keep, total, e, c2, c3, c4, c5 = _adam_coefficients(sums, fades, eps, bias, start, t)
            keep, total, e = real(keep), real(total), real(e)
            c2, c3, c4, c5 = real(c2), real(c3), real(c4), real(c5)
            old_m, old_v = table[row, W + column], table[row, 2 * W + column]
            w[s, column] = _adam_move(real(1), table[row, column], old_m, old_v, keep, total, e, c2, c3, c4, c5)


@_inline
def _adam_scatter(W, n, rows, table, last, w, g, t, sparse, scalars, betas, decay, powers, one):
    """Step t of the batch's rows (U6, U7, U8): the moments fade over the missed steps and this one at once."""
    lanes = _lanes(table)
    c1, c2, unit = betas[2], betas[3], table.dtype.type(1)
    rate, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
    for s in range(n):
        row = rows[s]
        gap = 1 if sparse else t + 1 - last[row]
        b1, b2 = powers[gap, 0], powers[gap, 1]
        for k in range(0, W, lanes):
            wk = _load(w, s, k)
            gk = _load(g, s, k) + _load(decay, 0, k) * wk
            m = b1 * _load(table, row, W + k) + c1 * gk
            v = b2 * _load(table, row, 2 * W + k) + c2 * gk * gk
            f = unit - lr * _load(decay, 1, k)
            _store(table, row, k, f * wk - rate * m * _inverse_root(v, root, eps))
            _store(table, row, W + k, m)
            _store(table, row, 2 * W + k, v)
        if one >= 0:
            for slot in range(3):
                table[row, slot * W + one] = 0
        last[row] = t + 1


@_inline
def _adam_flush(
    W, table, last, first, beyond, steps, scalars, betas, decay, powers, sums, fades, good, eps, factors, bias, column
):
    """Bring rows first … beyond-1 to the end of the call, where counting starts again."""
    lanes = _lanes(table)
    real = table.dtype.type
    for row in range(first, beyond):
        start = _adam_caught_up(W, table, last, row, scalars, betas, decay, good, factors, bias, steps)
        last[row] = 0
        if start == steps:
            continue
        w, m, v = table[row, column], table[row, W + column], table[row, 2 * W + column]
        b1, b2 = powers[steps - start, 0], powers[steps - start, 1]
        keep, total, e, c2, c3, c4, c5 = _adam_coefficients(sums, fades, eps, factors, start, steps)
        keep, total, e = real(keep), real(total), real(e)
        c2, c3, c4, c5 = real(c2), real(c3), real(c4), real(c5)
        for k in range(0, W, lanes):
            mk, vk = _load(table, row, W + k), _load(table, row, 2 * W + k)
            moved = _adam_move_row(real(1), _load(table, row, k), mk, vk, keep, total, e, c2, c3, c4, c5)
            _store(table, row, k, moved)
            _store(table, row, W + k, b1 * mk)
            _store(table, row, 2 * W + k, b2 * vk)
        if bias != factors:
            keep, total, e, c2, c3, c4, c5 = _adam_coefficients(sums, fades, eps, bias, start, steps)
            keep, total, e = real(keep), real(total), real(e)
            c2, c3, c4, c5 = real(c2), real(c3), real(c4), real(c5)
            table[row, column] = _adam_move(real(1), w, m, v, keep, total, e, c2, c3, c4, c5)


# --- the passes -----------------------------------------------------------------------------------------------------


@_inline
def _place(index, order, lo, batch, slot, rows, count, place):
    """Give each row that the batch names a place in the buffers; return how many there are."""
    n = 0
    for j in range(batch):
        row = index[order[lo + j]]
        s = slot[row]
        if s < 0:
            s = n
            slot[row] = s
            rows[s] = row
            count[s] = 0
            n += 1
        count[s] += 1
        place[j] = s
    return n


@_inline
def _begin(W, n, w, g, count, batch, share_factors, share_bias, column, one):
    """Gradients start at 0, or at the decay of "per_rating" (U2); the other side's bias meets a 1."""
    lanes = _lanes(w)
    real = w.dtype.type
    for s in range(n):
        if share_factors != 0 or share_bias != 0:
            named = real(count[s]) / batch
            share = share_factors * named
            for k in range(0, W, lanes):
                _store(g, s, k, share * _load(w, s, k))
            if one >= 0:
                g[s, column] = share_bias * named * w[s, column]
        else:
            for k in range(0, W, lanes):
                _store(g, s, k, _zero(g))
        if one >= 0:
            w[s, one] = 1


@_inline
def _end(n, slot, rows, g, one):
    """Places are free again; the gradient of the constant 1 is nobody's."""
    for s in range(n):
        slot[rows[s]] = -1
        if one >= 0:
            g[s, one] = 0


@_inline
def _head_error(s, r, ranged, low, high, one):
    """From a score to the error and the slope dy/ds (F4, B4)."""
    if ranged:
        g = one / (one + math.exp(-s))
        return low + (high - low) * g - r, (high - low) * g * (one - g)
    return s - r, one


@_inline
def _dot_pass(W, wu, wi, gu, gi, place_u, place_i, rating, order, lo, batch, mean, ranged, low, high, weight):
    """(F2) … (F9) and (B9) … (B2) of the dot head, rating by rating; the sum of squared errors."""
    lanes = _lanes(wu)
    real = wu.dtype.type
    total = 0.0
    scale = real(weight * 2.0 / batch)
    for j in range(batch):
        p, q = place_u[j], place_i[j]
        score = _zero(wu)
        for k in range(0, W, lanes):
            score = score + _load(wu, p, k) * _load(wi, q, k)
        e, slope = _head_error(_sum(score) + mean, real(rating[order[lo + j]]), ranged, low, high, real(1))
        total += e * e
        d = scale * e * slope
        for k in range(0, W, lanes):
            _store(gu, p, k, _load(gu, p, k) + d * _load(wi, q, k))
            _store(gi, q, k, _load(gi, q, k) + d * _load(wu, p, k))
    return total


@_inline
def _mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_inline
def _stream_key(seed, purpose, stream, step):
    """`minicf.rng.key`."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    k = _mix(seed)
    k = _mix(k + purpose * golden + golden)
    k = _mix(k + stream * golden + golden)
    return _mix(k + step * golden + golden)


@_inline
def _dropout(x, seed, stream, step, threshold, scale):
    """`minicf.rng.dropout_mask`, multiplied into x (n,)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    z = _stream_key(seed, np.uint64(rng.DROPOUT), stream, step)
    zero = x.dtype.type(0)
    for i in range(len(x)):
        z += golden
        x[i] *= scale if (_mix(z) >> np.uint64(40)) >= threshold else zero


@_inline
def _matrix(flat, at, rows, columns):
    """A part of a flat array as a matrix."""
    return flat[at : at + rows * columns].reshape((rows, columns))


@_inline
def _net_pass(nets, wu, wi, gu, gi, place_u, place_i, K, rating, order, lo, batch, squared, seed, step):
    """All net heads of a batch, there and back: (F5) … (F9), (B9) … (B5)."""
    x, factor, d_x, w, d_w = nets.x, nets.factor, nets.d_x, nets.w, nets.d_w
    layers, heads, options, scales = nets.layers, nets.heads, nets.options, nets.scales
    real = x.dtype.type
    one, zero = real(1), real(0)
    for net in range(heads.shape[0]):
        first, count, index = heads[net, 0], heads[net, 1], heads[net, 2]
        mean, ranged = real(options[net, 0]), options[net, 1] != 0.0
        low, high, weight = real(options[net, 2]), real(options[net, 3]), options[net, 4]
        x_in = _matrix(x, layers[first, 4] * batch, batch, 2 * K)
        for j in range(batch):  # (F5)
            p, q = place_u[j], place_i[j]
            for k in range(K):
                x_in[j, k] = wu[p, k]
            for k in range(K):
                x_in[j, K + k] = wi[q, k]
        _matrix(factor, layers[first, 4] * batch, batch, 2 * K)[:] = one
        for layer in range(first, first + count):
            n_in, n_out, at = layers[layer, 0], layers[layer, 1], layers[layer, 4] * batch
            x_in = _matrix(x, at, batch, n_in)
            x_out = _matrix(x, at + batch * n_in, batch, n_out)
            threshold = np.uint64(layers[layer, 5])
            if threshold > np.uint64(0):  # (F6), as a factor of its own for the way back
                f = factor[at : at + batch * n_in]
                _dropout(f, seed, np.uint64(layers[layer, 6]), step, threshold, scales[layer])
                flat = x[at : at + batch * n_in]
                for i in range(len(f)):
                    flat[i] *= f[i]
            bias = w[layers[layer, 3] : layers[layer, 3] + n_out]
            np.dot(x_in, _matrix(w, layers[layer, 2], n_in, n_out), x_out)  # (F7)
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
            e, slope = _head_error(x[out + j] + mean, real(rating[order[lo + j]]), ranged, low, high, one)
            total += e * e
            d_x[out + j] = real(weight * 2.0 / batch * e * slope)
        squared[index] = total
        for layer in range(first + count - 1, first - 1, -1):
            n_in, n_out, at = layers[layer, 0], layers[layer, 1], layers[layer, 4] * batch
            d_out = _matrix(d_x, at + batch * n_in, batch, n_out)
            d_in = _matrix(d_x, at, batch, n_in)
            weights = _matrix(w, layers[layer, 2], n_in, n_out)
            np.dot(_matrix(x, at, batch, n_in).T, d_out, _matrix(d_w, layers[layer, 2], n_in, n_out))  # (B7)
            d_bias = d_w[layers[layer, 3] : layers[layer, 3] + n_out]
            d_bias[:] = zero
            for j in range(batch):
                for k in range(n_out):
                    d_bias[k] += d_out[j, k]
            np.dot(d_out, weights.T, d_in)
            f, flat = factor[at : at + batch * n_in], d_x[at : at + batch * n_in]
            for i in range(len(f)):  # (B6), (B8)
                flat[i] *= f[i]
        d_in = _matrix(d_x, layers[first, 4] * batch, batch, 2 * K)
        for j in range(batch):  # (B5), (B1)
            p, q = place_u[j], place_i[j]
            for k in range(K):
                gu[p, k] += d_in[j, k]
            for k in range(K):
                gi[q, k] += d_in[j, K + k]


@_inline
def _linear_dense(w, g, v, decay, kind, lr, mu, nesterov):
    """The optimiser's step on the dense layers: (U1) … (U5)."""
    real = w.dtype.type
    for i in range(len(w)):
        old, gi = w[i], g[i]
        if kind == 1:
            gi += decay[i] * old
        elif kind == 2:
            old *= real(1) - lr * decay[i]
        if mu != 0:
            vi = mu * v[i] + gi
            v[i] = vi
            gi = gi + mu * vi if nesterov else vi
        w[i] = old - lr * gi


@_inline
def _adam_dense(w, g, m, v, decay, kind, scalars, betas, eps, t):
    """The optimiser's step on the dense layers: (U1) … (U3), (U6) … (U8)."""
    real = w.dtype.type
    rate, root, lr, eps = scalars[t, 0], scalars[t, 1], scalars[t, 3], real(eps)
    b1, b2, c1, c2 = betas[0], betas[1], betas[2], betas[3]
    added = decay.dtype.type(1 if kind == 1 else 0)
    apart = lr if kind == 2 else real(0)
    for i in range(len(w)):
        old = w[i]
        gi = g[i] + added * decay[i] * old
        mi = b1 * m[i] + c1 * gi
        vi = b2 * v[i] + c2 * gi * gi
        m[i], v[i] = mi, vi
        w[i] = (real(1) - apart * decay[i]) * old - rate * mi / (math.sqrt(vi) * root + eps)


@functools.cache
def _epoch_kernel(W: int, SLOTS: int, NET: bool) -> Any:
    """The training loop, compiled for a padded width, an optimiser (1: SGD, 2: momentum, 3: Adam) and nets or not."""
    ADAM = SLOTS == 3

    @_jit
    def train(user, item, rating, order, batch_size, users, items, heads, nets, opt, sparse, flush, seed, t0, total):
        # Taken apart once: reading an array out of a tuple counts references, which costs more than the work.
        u_table, u_last, u_slot, u_rows, u_count, u_w, u_g, u_place, u_decay, _ = users.arrays
        i_table, i_last, i_slot, i_rows, i_count, i_w, i_g, i_place, i_decay, _ = items.arrays
        ucf, ucb, uc, uo = users.factors, users.bias, users.column, users.one
        icf, icb, ic, io = items.factors, items.bias, items.column, items.one
        if ADAM:
            scalars, betas, powers = opt.scalars, opt.betas, opt.powers
            sums, fades, good, eps = opt.sums, opt.fades, opt.good, opt.eps
        else:
            products, constant, logs, inject = opt.products, opt.constant, opt.logs, opt.inject
        real = u_w.dtype.type
        control = _exchange_mxcsr(_FLUSH)
        n = len(order)
        steps = (n + batch_size - 1) // batch_size
        squared = np.zeros(len(total))
        done = steps
        for t in range(steps):
            lo = t * batch_size
            batch = min(batch_size, n - lo)
            nu = _place(user, order, lo, batch, u_slot, u_rows, u_count, u_place)
            ni = _place(item, order, lo, batch, i_slot, i_rows, i_count, i_place)
            if ADAM:
                _adam_gather(
                    W, nu, u_rows, u_table, u_last, u_w, t, sparse, scalars, betas, u_decay, sums, fades, good,
                    eps, ucf, ucb, uc,
                )  # fmt: skip
                _adam_gather(
                    W, ni, i_rows, i_table, i_last, i_w, t, sparse, scalars, betas, i_decay, sums, fades, good,
                    eps, icf, icb, ic,
                )  # fmt: skip
            else:
                _linear_gather(
                    W, SLOTS, nu, u_rows, u_table, u_last, u_w, t, sparse, products, constant, logs, ucf, ucb, uc
                )
                _linear_gather(
                    W, SLOTS, ni, i_rows, i_table, i_last, i_w, t, sparse, products, constant, logs, icf, icb, ic
                )
            _begin(W, nu, u_w, u_g, u_count, real(batch), users.share_factors, users.share_bias, uc, uo)
            _begin(W, ni, i_w, i_g, i_count, real(batch), items.share_factors, items.share_bias, ic, io)
            if heads.has_dot:
                squared[heads.dot_index] = _dot_pass(
                    W, u_w, i_w, u_g, i_g, u_place, i_place, rating, order, lo, batch,
                    heads.mean, heads.ranged, heads.low, heads.high, heads.weight,
                )  # fmt: skip
            if NET:
                _net_pass(
                    nets, u_w, i_w, u_g, i_g, u_place, i_place, heads.n_factors, rating, order, lo, batch, squared,
                    seed, np.uint64(t0 + t + 1),
                )  # fmt: skip
            _end(nu, u_slot, u_rows, u_g, uo)
            _end(ni, i_slot, i_rows, i_g, io)
            if not np.isfinite(squared).all():
                done = t
                break
            if ADAM:
                _adam_scatter(W, nu, u_rows, u_table, u_last, u_w, u_g, t, sparse, scalars, betas, u_decay, powers, uo)
                _adam_scatter(W, ni, i_rows, i_table, i_last, i_w, i_g, t, sparse, scalars, betas, i_decay, powers, io)
            else:
                _linear_scatter(
                    W, SLOTS, nu, u_rows, u_table, u_last, u_g, t, sparse, products, constant, logs,
                    ucf, ucb, uc, inject,
                )  # fmt: skip
                _linear_scatter(
                    W, SLOTS, ni, i_rows, i_table, i_last, i_g, t, sparse, products, constant, logs,
                    icf, icb, ic, inject,
                )  # fmt: skip
            if NET:
                if ADAM:
                    _adam_dense(nets.w, nets.d_w, nets.slot1, nets.slot2, nets.decay, nets.kind, scalars, betas, eps, t)
                else:
                    _linear_dense(
                        nets.w, nets.d_w, nets.slot1, nets.decay, nets.kind, opt.rate[t], opt.momentum, opt.nesterov
                    )
            for h in range(len(squared)):
                total[h] += squared[h]
        if sparse:
            u_last[:] = 0
            i_last[:] = 0
        elif ADAM:
            if flush:
                _adam_flush(
                    W, u_table, u_last, 0, len(u_table), done, scalars, betas, u_decay, powers, sums, fades, good, eps,
                    ucf, ucb, uc,
                )  # fmt: skip
                _adam_flush(
                    W, i_table, i_last, 0, len(i_table), done, scalars, betas, i_decay, powers, sums, fades, good, eps,
                    icf, icb, ic,
                )  # fmt: skip
        else:
            _linear_flush(W, SLOTS, u_table, u_last, done, products, constant, logs, ucf, ucb, uc)
            _linear_flush(W, SLOTS, i_table, i_last, done, products, constant, logs, icf, icb, ic)
        _exchange_mxcsr(control)
        return -1 if done == steps else done

    return train


@functools.cache
def _replay_kernel(W: int) -> Any:
    """Idle steps of Adam with l2 up to the end of a block of steps, for a padded width."""

    @_jit
    def replay(users, items, named, steps, opt, claims):
        """Of the rows that the block names, or of all others; chunk by chunk, as long as `claims` has one left."""
        control = _exchange_mxcsr(_FLUSH)
        scalars, betas, powers, sums, fades = opt.scalars, opt.betas, opt.powers, opt.sums, opt.fades
        good, eps = opt.good, opt.eps
        n_users, n_items = len(users.arrays[0]), len(items.arrays[0])
        first_of_items = (n_users + _CHUNK - 1) // _CHUNK
        group = np.zeros(8, np.int64)  # rows that stand at the beginning of the block
        chunks = first_of_items + (n_items + _CHUNK - 1) // _CHUNK
        while True:
            chunk = _add(claims, 0, 1)
            if chunk >= chunks:
                break
            of_users = chunk < first_of_items
            arrays = users.arrays if of_users else items.arrays
            factors, bias = (users.factors, users.bias) if of_users else (items.factors, items.bias)
            column = users.column if of_users else items.column
            table, last, decay, marks = arrays[0], arrays[1], arrays[8], arrays[9]
            first = (chunk if of_users else chunk - first_of_items) * _CHUNK
            beyond = min(first + _CHUNK, len(table))
            summed = good[factors, steps] and good[bias, steps]  # a table without decay beside one that has
            n = 0
            for row in range(first, beyond):
                if marks[row] == named:
                    if last[row] > 0 or summed:
                        _adam_flush(
                            W, table, last, row, row + 1, steps, scalars, betas, decay, powers, sums, fades, good, eps,
                            factors, bias, column,
                        )  # fmt: skip
                    else:
                        group[n] = row
                        n += 1
                if n == 8 or (n > 0 and row == beyond - 1):
                    group[n:] = group[n - 1]
                    _adam_replay_rows(
                        W, table, group[0], group[1], group[2], group[3], group[4], group[5], group[6], group[7],
                        scalars, betas, decay, 0, steps,
                    )  # fmt: skip
                    n = 0
        _exchange_mxcsr(control)

    return replay


@_inline
def _train_tile(
    K, WHOLE, W, user, item, rating, start, stop, users, items, lr, decay, tail, biases, mean, ranged, low, high
):
    """Per-rating SGD on ratings start … stop-1: (F2) … (F4), (B4) … (B2), (U2), (U5) with B = 1.

    Columns up to WHOLE are factors. In those behind, `tail` says for both sides by what a weight is multiplied, what
    of the other row counts, and where a bias gets its 1. Returns the sum of squared errors.
    """
    lanes = _lanes(users)
    real = users.dtype.type
    keep = real(1) - lr * decay[0]
    keep_i = real(1) - lr * decay[1]
    keep_b, keep_c = real(1) - lr * decay[2], real(1) - lr * decay[3]
    total = 0.0
    for j in range(start, stop):
        u, i = user[j], item[j]
        score = _zero(users)
        for k in range(0, W if K > WHOLE else K, lanes):  # in the tail a bias meets a 0
            score = score + _load(users, u, k) * _load(items, i, k)
        s = _sum(score)
        if biases:
            s += users[u, K] + items[i, K + 1]
        e, slope = _head_error(s + mean, real(rating[j]), ranged, low, high, real(1))
        total += e * e
        g = real(2) * lr * e * slope
        for k in range(0, WHOLE, lanes):
            p, q = _load(users, u, k), _load(items, i, k)
            _store(users, u, k, keep * p - g * q)
            _store(items, i, k, keep_i * q - g * p)
        if K == WHOLE:
            if biases:
                users[u, K] = keep_b * users[u, K] - g
                items[i, K + 1] = keep_c * items[i, K + 1] - g
        else:
            for k in range(WHOLE, W, lanes):
                p, q, at = _load(users, u, k), _load(items, i, k), k - WHOLE
                to_user = _load(tail, 1, at) * q + _load(tail, 2, at)
                to_item = _load(tail, 4, at) * p + _load(tail, 5, at)
                _store(users, u, k, _load(tail, 0, at) * p - g * to_user)
                _store(items, i, k, _load(tail, 3, at) * q - g * to_item)
    return total


@functools.cache
def _tile_kernel(K: int, WHOLE: int, W: int) -> Any:
    """`_train_tile` for a number of factors, over tiles that threads share."""

    @_jit
    def train(
        user,
        item,
        rating,
        bounds,
        rounds,
        shared,
        squared,
        users,
        items,
        lr,
        decay,
        tails,
        biases,
        mean,
        ranged,
        low,
        high,
    ):
        """Tiles in the order of the rounds. A tile waits for those that had its users or its items in the round before,
        not for the whole round; as they are taken in order, the first that is not done never waits."""
        control = _exchange_mxcsr(_FLUSH)
        n_rounds, n_blocks = squared.shape
        while True:
            next_tile = _add(shared, 0, 1)
            if next_tile >= n_rounds * n_blocks:
                break
            r, b = next_tile // n_blocks, next_tile % n_blocks
            # Rounds done by this block of users, and by this block of items.
            of_users, of_items = 1 + b, 1 + n_blocks + (b + rounds[r]) % n_blocks
            while _add(shared, of_users, 0) < r or _add(shared, of_items, 0) < r:
                _let_others()
            squared[r, b] = _train_tile(
                K, WHOLE, W, user, item, rating, bounds[r, b], bounds[r, b + 1], users, items, lr[r], decay, tails[r],
                biases, mean, ranged, low, high,
            )  # fmt: skip
            _add(shared, of_users, 1)
            _add(shared, of_items, 1)
        _exchange_mxcsr(control)

    return train


@functools.cache
def _predict_kernel(W: int) -> Any:
    """Predictions of the dot head for pairs."""

    @_jit
    def predict(user, item, users, items, heads, column_u, column_i, out):
        real = out.dtype.type
        K = heads.n_factors
        for j in range(len(user)):
            u, v = user[j], item[j]
            s = real(0)
            for k in range(W):
                s += users[u, k] * items[v, k]
            if heads.biases:
                s += users[u, column_u] + items[v, column_i]
            s += heads.mean
            out[j] = heads.low + (heads.high - heads.low) / (real(1) + math.exp(-s)) if heads.ranged else s
        return K

    return predict


# --- threads --------------------------------------------------------------------------------------------------------

_BLOCK = 8192
"""Ratings between two rounds of replaying: long enough for a thread to be worth its start, short enough that the rows
which they name, and which one thread replays alone, are few."""

_CHUNK = 64
"""Rows that a thread takes to replay at a time."""

_WORTH_A_THREAD = 8_000_000
"""Weights that a call in tiles reads of one side: below, a thread takes longer to start than it saves."""


_MOST_THREADS = 256
"""More than any machine keeps busy; a number that was mistyped must not start a million."""


def threads_by_default() -> int:
    """As many as there are cores to run on; fewer where the usual variables say so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit():
            cores = min(cores, max(1, int(os.environ[name])))
    return cores


def _share(work: Any, n_threads: int, before: Any = None) -> None:
    """Call ``work()`` in this thread, after ``before()``, and at once in each of ``n_threads - 1`` others.

    Compiled code runs without the interpreter's lock, so plain threads suffice; each takes what is left
    to do. They live as long as the call: there is no pool that spins beside other work, or that a fork would find dead.
    What one of them raises is raised here, after all have ended: none goes on writing behind the caller's back.
    """
    raised: list[BaseException] = []

    def watched() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    others = []
    try:
        for _ in range(n_threads - 1):
            thread = threading.Thread(target=watched)
            thread.start()
            others.append(thread)
        if before is not None:
            before()
        work()
    finally:
        for thread in others:
            thread.join()
    if raised:
        raise raised[0]


# --- the program ----------------------------------------------------------------------------------------------------


def _aligned(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Zeros that start at a cache line."""
    size = shape[0] * shape[1] * dtype.itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _read_only(array: np.ndarray, dtype: Any) -> np.ndarray:
    """A contiguous view that may not be written: one signature for the compiler, whatever the caller holds."""
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


def _parts(model: Model) -> tuple[Dot | None, int, float, list[tuple[str, Net, int, float]]] | None:
    """The dot head, its place and weight, and the nets (prefix, net, place, weight); None if there is no kernel."""
    if isinstance(model, Dot):
        return model, 0, 1.0, []
    if isinstance(model, Net):
        return None, -1, 0.0, [("", model, 0, 1.0)]
    if not isinstance(model, Hybrid):
        return None
    dot, place, dot_weight, nets = None, -1, 0.0, []
    for i, (name, (head, weight)) in enumerate(model.members.items()):
        if isinstance(head, Net):
            nets.append((f"{name}.", head, i, weight))
        elif isinstance(head, Dot) and dot is None:
            dot, place, dot_weight = head, i, weight
        else:
            return None
    return dot, place, dot_weight, nets


class Program(base.Program):
    """A model and an optimiser in compiled code. See the top of this file."""

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        weights: Weights,
        seed: int = 0,
        dtype: Any = "float32",
        n_threads: int | None = None,
    ) -> None:
        parts = _parts(model)
        assert parts is not None
        self.n_threads = min(n_threads or threads_by_default(), _MOST_THREADS)
        self.model, self.optimizer, self.seed, self.dtype = model, optimizer, seed, np.dtype(dtype)
        self.t = 0
        self._dot, self._dot_index, self._dot_weight, self._net_heads = parts
        self._K = model.n_factors
        self._biases = "user_bias" in weights
        self._lanes = line = 64 // self.dtype.itemsize  # rows start at a cache line
        self._W = -(-(self._K + 2 * self._biases) // line) * line
        self._slot_names = optimizer.slots()
        self._SLOTS = 1 + len(self._slot_names)
        self._tables = tuple(
            _aligned((len(weights[f"{side}_factors"]), self._SLOTS * self._W), self.dtype) for side in ("user", "item")
        )
        self._last = tuple(np.zeros(len(table), np.int32) for table in self._tables)
        self._slot = tuple(np.full(len(table), -1, np.int32) for table in self._tables)
        self._buffers: tuple[int, Any] = (0, None)
        self._dense_shapes = {
            name: value.shape for name, value in weights.items() if not name.startswith(("user_", "item_"))
        }
        self._dense_at, n = {}, 0
        for name, shape in self._dense_shapes.items():
            self._dense_at[name] = n
            n += int(np.prod(shape))
        self._dense = np.zeros((3, n if self._dense_shapes else 0), self.dtype)
        self._set(0, weights)
        self._heads = self._describe_heads()
        self._prepare_decay()
        self._constant: tuple[float, int, Any] | None = None

    # --- weights in and out ----------------------------------------------------------------------------------

    def _views(self, slot: int) -> dict[str, np.ndarray]:
        """The weights (slot 0) or an optimiser's arrays (1, 2) by the weights' names, as views."""
        at = slot * self._W
        views = {}
        for i, side in enumerate(("user", "item")):
            views[f"{side}_factors"] = self._tables[i][:, at : at + self._K]
            if self._biases:
                views[f"{side}_bias"] = self._tables[i][:, at + self._K + i]
        for name, shape in self._dense_shapes.items():
            start = self._dense_at[name]
            views[name] = self._dense[slot, start : start + int(np.prod(shape))].reshape(shape)
        return {name: views[name] for name in self.model.shapes(1, 1)}

    def _set(self, slot: int, values: Weights) -> None:
        for name, view in self._views(slot).items():
            view[...] = values[name]

    def weights(self) -> dict[str, np.ndarray]:
        return {name: view.copy() for name, view in self._views(0).items()}

    def _looked_at(self) -> Weights:
        return self._views(0)

    def state(self) -> dict[str, np.ndarray]:
        state: dict[str, np.ndarray] = {"step": np.array(self.t, np.int64)}
        for i, slot in enumerate(self._slot_names):
            state |= {f"{slot}.{name}": view.copy() for name, view in self._views(1 + i).items()}
        return state

    def load(self, weights: Weights, state: Weights) -> None:
        slots = [(0, name, weights[name]) for name in self.model.shapes(1, 1)]
        for i, slot in enumerate(self._slot_names):
            slots += [(1 + i, name, state[f"{slot}.{name}"]) for name in self.model.shapes(1, 1)]
        arrays = [(name, self._views(slot)[name], value) for slot, name, value in slots]
        base._check_shapes(arrays)
        self.t = int(state["step"])
        for _, view, value in arrays:
            view[...] = value

    def snapshot(self) -> Any:
        return self.t, tuple(table.copy() for table in self._tables), self._dense.copy()

    def restore(self, snapshot: Any) -> None:
        self.t = snapshot[0]
        for table, saved in zip(self._tables, snapshot[1], strict=True):
            table[...] = saved
        self._dense[...] = snapshot[2]

    def finite(self) -> bool:
        return all(bool(np.isfinite(table[:, : self._W]).all()) for table in self._tables) and bool(
            np.isfinite(self._dense[0]).all()
        )

    # --- what the kernels are told ---------------------------------------------------------------------------

    def _describe_heads(self) -> Heads:
        real = self.dtype.type
        dot = self._dot
        low, high = (dot and dot.rating_range) or (0.0, 1.0)
        return Heads(
            dot is not None,
            self._biases,
            self._K,
            real(dot.global_mean if dot else 0.0),
            dot is not None and dot.rating_range is not None,
            real(low),
            real(high),
            real(self._dot_weight),
            self._dot_index,
        )

    def _prepare_decay(self) -> None:
        """Classes of weight decay: tables that share a lambda share their products."""
        idle = self.optimizer.decay != "per_rating"  # that one leaves idle rows alone
        names = ["user_factors", "item_factors"] + (["user_bias", "item_bias"] if self._biases else [])
        lambdas = {name: self.optimizer.decay_of(name) if idle else 0.0 for name in names}
        self._classes = sorted(set(lambdas.values()))
        self._class_of = {name: self._classes.index(value) for name, value in lambdas.items()}

    def _nets(self, batch: int) -> Nets:
        optimizer = self.optimizer
        layers: list[tuple[int, ...]] = []
        heads: list[tuple[int, int, int]] = []
        options: list[tuple[float, ...]] = []
        scales: list[float] = []
        x_at = drop_stream = 0
        for prefix, net, place, weight in self._net_heads:
            heads.append((len(layers), len(net.layers()), place))
            low, high = net.rating_range or (0.0, 1.0)
            options.append((net.global_mean, net.rating_range is not None, low, high, weight))
            for (name, n_in, n_out), rate in zip(net.layers(), net.dropout, strict=True):
                at = self._dense_at[f"{prefix}{name}.weight"], self._dense_at[f"{prefix}{name}.bias"]
                layers.append((n_in, n_out, *at, x_at, rng.dropout_threshold(rate), drop_stream))
                scales.append(1.0 / (1.0 - rate))
                x_at += n_in
                drop_stream += 1
            x_at += 1  # the output
        decay = np.zeros(self._dense.shape[1], self.dtype)
        for name, shape in self._dense_shapes.items():
            start = self._dense_at[name]
            decay[start : start + int(np.prod(shape))] = optimizer.decay_of(name)
        kind = 0 if not decay.any() else 2 if optimizer.decay == "decoupled" else 1
        work = [np.zeros(x_at * batch, self.dtype) for _ in range(3)]
        return Nets(
            np.array(layers, np.int64).reshape(-1, 7),
            np.array(heads, np.int64).reshape(-1, 3),
            np.array(options, np.float64).reshape(-1, 5),
            np.array(scales, self.dtype),
            self._dense[0],
            np.zeros_like(self._dense[0]),
            self._dense[1],
            self._dense[2],
            decay,
            kind,
            *work,
        )

    def _sides(self, batch: int) -> tuple[Side, Side, Nets]:
        """The tables with buffers for a batch size."""
        if self._buffers[0] == batch:
            return self._buffers[1]
        real = self.dtype.type
        per_rating = self.optimizer.decay == "per_rating"
        sides = []
        for i, name in enumerate(("user", "item")):
            table = self._tables[i]
            places = min(batch, len(table))
            shares = [
                real(self.optimizer.decay_of(f"{name}_{part}") if per_rating else 0.0) for part in ("factors", "bias")
            ]
            factors = self._class_of[f"{name}_factors"]
            bias = self._class_of.get(f"{name}_bias", factors)
            column = self._K + i if self._biases else 0
            decay = _aligned((2, self._W), self.dtype)
            kind = 1 if self.optimizer.decay == "decoupled" else 0
            decay[kind] = self._classes[factors]
            decay[kind, column] = self._classes[bias]
            sides.append(
                Side(
                    (
                        table,
                        self._last[i],
                        self._slot[i],
                        np.zeros(places, np.int32),
                        np.zeros(places, np.int32),
                        _aligned((places, self._W), self.dtype),
                        _aligned((places, self._W), self.dtype),
                        np.zeros(batch, np.int32),
                        decay,
                        np.zeros(len(table), np.uint8),
                    ),
                    factors,
                    bias,
                    column,
                    self._K + 1 - i if self._biases else -1,
                    *shares,
                )
            )
        self._buffers = batch, (sides[0], sides[1], self._nets(batch))
        return self._buffers[1]

    def _linear(self, rates: np.ndarray) -> Linear:
        assert isinstance(self.optimizer, SGD)
        mu, nesterov = self.optimizer.momentum, self.optimizer.nesterov
        steps = len(rates)
        decoupled = self.optimizer.decay == "decoupled"
        matrices = np.empty((len(self._classes), steps, 4))
        for i, decay in enumerate(self._classes):
            l2, f = (0.0, 1.0 - rates * decay) if decoupled else (decay, 1.0)
            look = rates * (1.0 + mu) if nesterov else rates
            matrices[i, :, 0] = f - look * l2
            matrices[i, :, 1] = -rates * mu * (mu if nesterov else 1.0)
            matrices[i, :, 2] = l2
            matrices[i, :, 3] = mu
        constant = bool((rates == rates[0]).all())
        if constant:
            if self._constant is None or self._constant[0] != rates[0] or self._constant[1] < steps + 2:
                products = np.empty((len(self._classes), 1, steps + 2, 4), self.dtype)
                for i in range(len(self._classes)):
                    _power_table(matrices[i, 0], products[i, 0])
                self._constant = float(rates[0]), steps + 2, products
            products = self._constant[2]
            logs = np.zeros(1, np.uint8)
        else:
            levels = max(1, (steps - 1).bit_length())
            products = np.empty((len(self._classes), levels, steps, 4), self.dtype)
            for i in range(len(self._classes)):
                _range_table(matrices[i], products[i])
            logs = np.zeros(1 << levels, np.uint8)
            for level in range(levels):
                logs[1 << level : 2 << level] = level
        real = self.dtype.type
        inject = rates * (1.0 + mu) if nesterov else rates
        with np.errstate(over="ignore"):  # a rate beyond float32: training diverges, and says so
            inject, rates = inject.astype(self.dtype), rates.astype(self.dtype)
        return Linear(products, constant, logs, inject, rates, real(mu), nesterov)

    def _moments(self, rates: np.ndarray) -> Moments:
        assert isinstance(self.optimizer, Adam)
        (beta1, beta2), eps, decay = self.optimizer.betas, self.optimizer.eps, self.optimizer.decay
        steps, classes = len(rates), np.array(self._classes)
        l2 = classes if decay == "l2" else np.zeros_like(classes)
        shrink = classes if decay == "decoupled" else np.zeros_like(classes)
        t = np.arange(self.t + 1, self.t + steps + 1, dtype=np.float64)
        correction1, correction2 = (-np.expm1(t * math.log(b)) if b else np.ones_like(t) for b in (beta1, beta2))
        root = np.sqrt(correction2)
        sums = np.zeros((len(classes), steps + 1, _TERMS + 1))
        good = np.zeros((len(classes), steps + 1), np.bool_)
        n = np.arange(steps + 2, dtype=np.float64)
        if not self.optimizer.sparse:  # where no row is ever behind
            for side in ("user", "item"):
                of_side = {i for name, i in self._class_of.items() if name.startswith(side)}
                if not l2[list(of_side)].any():  # else its rows are replayed
                    for i in of_side:
                        if not good[i].any():  # not yet, for the other side
                            _moment_tables(rates, self.t, beta1, beta2, shrink[i], sums[i], good[i], _TOLERANCE)
        eps_table = eps / root if self.optimizer.sparse else np.full_like(root, eps)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            fades = np.stack([(beta1 / math.sqrt(beta2)) ** n, beta2 ** (-0.5 * n)] if beta2 else [n, n], axis=1)
        fades[:, 1] = np.minimum(fades[:, 1], 1e50)  # times what has faded to 0: an infinity would make it NaN
        return Moments(
            np.stack([rates / correction1, 1.0 / root, eps_table, rates], axis=1).astype(self.dtype),
            np.array([beta1, beta2, 1.0 - beta1, 1.0 - beta2], self.dtype),
            np.stack([_fading(beta1, n), _fading(beta2, n)], axis=1).astype(self.dtype),
            sums,
            fades,
            good,
            eps,
        )

    # --- training and predicting -----------------------------------------------------------------------------

    def steps_per_call(self, batch_size: int) -> int:
        return max(1, min((4 << 20) // batch_size, 1 << 15))

    def train(
        self,
        user: np.ndarray,
        item: np.ndarray,
        rating: np.ndarray,
        order: np.ndarray,
        batch_size: int,
        learning_rates: np.ndarray | float,
    ) -> Progress:
        total = np.zeros(len(self.model.heads))
        if len(order) == 0:
            return Progress(total, -1)
        batch_size = min(batch_size, len(order))
        steps = -(-len(order) // batch_size)
        rates = np.ascontiguousarray(np.broadcast_to(np.asarray(learning_rates, np.float64), (steps,)))
        data = _read_only(user, np.int32), _read_only(item, np.int32), _read_only(rating, np.float32)
        order = _read_only(order, np.int32)
        sides = self._sides(batch_size)
        if isinstance(self.optimizer, SGD):
            failed = self._run(data, order, batch_size, sides, self._linear(rates), True, total)
        elif self.optimizer.sparse or self.optimizer.decay != "l2" or not any(self._classes):
            failed = self._run(data, order, batch_size, sides, self._moments(rates), True, total)
        else:
            failed = self._train_replaying(data, order, batch_size, sides, self._moments(rates), total)
        return Progress(total, failed)

    def _run(
        self, data: Any, order: np.ndarray, batch_size: int, sides: Any, opt: Any, flush: bool, total: np.ndarray
    ) -> int:
        """Some steps in one call of the kernel; the step that failed, or -1."""
        users, items, nets = sides
        kernel = _epoch_kernel(self._W, self._SLOTS, bool(self._net_heads))
        seed = np.uint64(self.seed & 0xFFFFFFFFFFFFFFFF)
        with one_blas_thread() if self._net_heads else contextlib.nullcontext():
            failed = _run(
                kernel, *data, order, batch_size, users, items, self._heads, nets, opt, self.optimizer.sparse, flush,
                seed, self.t, total,
            )  # fmt: skip
        self.t += -(-len(order) // batch_size) if failed < 0 else failed
        return failed

    def _train_replaying(
        self, data: Any, order: np.ndarray, batch_size: int, sides: Any, opt: Moments, total: np.ndarray
    ) -> int:
        """Adam with l2: every row is replayed step by step, the steps of `_BLOCK` ratings at a time.

        A row replays many steps in the fastest cache, where a dense pass would fetch it for each. One thread takes
        the block's steps, while the others replay the rows that no rating of the block names; then it joins them.
        After a failed step these rows are further than the others: the weights are of no use then.
        """
        replay, users, items = _replay_kernel(self._W), sides[0], sides[1]
        steps = len(opt.scalars)
        failed = -1
        block = max(1, _BLOCK // batch_size)
        for first in range(0, steps, block):
            last = min(first + block, steps)
            part = opt._replace(
                scalars=opt.scalars[first:last],
                sums=np.ascontiguousarray(opt.sums[:, first : last + 1]),
                good=np.ascontiguousarray(opt.good[:, first : last + 1]),
            )
            rows = order[first * batch_size : last * batch_size]
            for side, index in ((users, data[0]), (items, data[1])):
                side.arrays[9][:] = 0
                side.arrays[9][index[rows]] = 1
            shared, own = np.zeros(1, np.int64), np.zeros(1, np.int64)

            def steps_of_block(rows: np.ndarray = rows, part: Moments = part, own: np.ndarray = own) -> None:
                nonlocal failed
                failed = self._run(data, rows, batch_size, sides, part, False, total)
                replay(users, items, 1, len(part.scalars) if failed < 0 else failed, part, own)

            def others(part: Moments = part, shared: np.ndarray = shared) -> None:
                replay(users, items, 0, len(part.scalars), part, shared)

            _share(others, self.n_threads, steps_of_block)
            if failed >= 0:
                return first + failed
        return -1

    def train_tiles(self, tiles: Tiles, rounds: np.ndarray, learning_rates: np.ndarray) -> Progress:
        opt = self.optimizer
        alone = isinstance(opt, SGD) and not opt.momentum and isinstance(self.model, Dot)
        # With one rating a step, "l2" on the rows named is "per_rating"; "decoupled" is not quite.
        names = ("user_factors", "item_factors", "user_bias", "item_bias")
        lambdas = np.array([opt.decay_of(name) for name in names])
        named_only = opt.decay == "per_rating" or (opt.decay == "l2" and opt.sparse)
        if not alone or (lambdas.any() and not named_only):
            return super().train_tiles(tiles, rounds, learning_rates)
        heads, W, K = self._heads, self._W, self._K
        whole = K // self._lanes * self._lanes
        n_rounds, n_blocks = len(rounds), tiles.n_blocks
        lr, decays = np.asarray(learning_rates, self.dtype), lambdas.astype(self.dtype)
        tails = np.zeros((n_rounds, 6, W - whole), self.dtype)
        for side in range(2):
            keep, other, one = (tails[:, 3 * side + i] for i in range(3))
            keep[:, : K - whole] = (1 - lr * decays[side])[:, None]
            other[:, : K - whole] = 1
            if self._biases:
                keep[:, K - whole + side] = 1 - lr * decays[2 + side]
                one[:, K - whole + side] = 1
        bounds = tiles.start[rounds]
        n = int((bounds[:, -1] - bounds[:, 0]).sum())
        squared, shared = np.zeros((n_rounds, n_blocks)), np.zeros(1 + 2 * n_blocks, np.int64)
        arguments = (
            _read_only(tiles.user, np.int32), _read_only(tiles.item, np.int32), _read_only(tiles.rating, np.float32),
            bounds, np.asarray(rounds, np.int64), shared, squared, *self._tables, lr, decays, tails, self._biases,
            heads.mean, heads.ranged, heads.low, heads.high,
        )  # fmt: skip
        kernel = _tile_kernel(K, whole, W)
        _share(lambda: kernel(*arguments), min(self.n_threads, n_blocks) if n * W >= _WORTH_A_THREAD else 1)
        good = np.isfinite(squared).ravel()
        if good.all():
            self.t += n
            return Progress(np.array([float(squared.sum())]), -1)
        first = int(np.argmin(good))  # the tile in which it was: as near as this goes
        visited = np.cumsum(np.diff(bounds, axis=1).ravel())
        return Progress(np.array([float(squared.ravel()[:first].sum())]), int(visited[first - 1]) if first else 0)

    def predict(self, user: np.ndarray, item: np.ndarray, head: str | None = None) -> np.ndarray:
        index = self.model.heads.index(head if head is not None else getattr(self.model, "output", ""))
        if index != self._dot_index:
            self._w = self._views(0)
            return super().predict(user, item, head)
        out = np.empty(len(user), self.dtype)
        _predict_kernel(self._K)(
            _read_only(user, np.int32),
            _read_only(item, np.int32),
            self._tables[0],
            self._tables[1],
            self._heads,
            self._K,
            self._K + 1,
            out,
        )
        return out


def _run(kernel: Any, *arguments: Any) -> Any:
    """Call a kernel; say so if that meant compiling it, which takes seconds."""
    if kernel.signatures:
        return kernel(*arguments)
    start = time.perf_counter()
    result = kernel(*arguments)
    if kernel.stats.cache_misses:
        log.info(
            "compiled a kernel, %.1f s with its first call; later processes start from the cache",
            time.perf_counter() - start,
        )
    return result


def _fading(beta: float, n: np.ndarray) -> np.ndarray:
    """beta^n, 0 where it is too small to matter: a product with it would be a denormal number, a hundredfold slower."""
    power = beta**n
    power[power < 1e-30] = 0.0
    return power


def compile(
    model: Model,
    optimizer: Optimizer,
    weights: Weights,
    seed: int = 0,
    dtype: Any = "float32",
    n_threads: int | None = None,
) -> base.Program:
    """A compiled program; the reference, with a word in the log, where there is no kernel for the model."""
    if _parts(model) is None:
        if repr(model) not in _told:
            _told.add(repr(model))
            log.info("no compiled kernel for %s: it runs composed of NumPy operations", model)
        return base.Program(model, optimizer, weights, seed, dtype, n_threads)
    return Program(model, optimizer, weights, seed, dtype, n_threads)
