"""The compiled kernels of the Numba backend: whole epochs, dense results at sparse cost.

Every number equals the reference's (`base.py`) up to rounding. All compiled training is in this file, because Numba's
cache does not notice changes in another; `numba_cpu.py` has the program that calls it.

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
a table of C_6 by step says from where on it is below `TOLERANCE` (from about step 200 for the default betas: the
bias correction c_t must have calmed down); before that, the steps are replayed. The raw moments of all later steps
follow from a backward recurrence over the steps of a call,

    (C5)  M_p(s) = (beta1 beta2^(-(p+1)/2) / f_s) (a_s c_s c_s^p + M_p(s + 1)),

and those of a range s … t-1 are M_p(s) - (beta1 beta2^(-(p+1)/2))^(t-s) / F(s, t) M_p(t).

*Adam with l2.* Not linear, no sum: idle steps are replayed, row by row, with the row in the fastest cache.

Rounding
--------
1 - lr lambda and beta2 are near 1, where float32 has few digits left for what matters, the difference: 0.999 is off by
1.3e-8, which moves every second moment by 1.3e-5 of itself, and 1 - 5e-6 is off by the same 1e-8 at every step. So such
factors are kept as their difference from 1, and a row moves by w + (d w + …), rounded once at the size of w.
"""

from __future__ import annotations

import functools
import math
import operator
import os
import platform
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.extending import intrinsic, overload, register_model

from minicf import rng
from minicf.backends.numba_cache import kept

_FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Never plain fastmath: it lets the compiler assume that no NaN exists, and divergence would go unseen."""

_options: dict[str, Any] = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}


def _jit(function: Any) -> Any:
    return kept(function, **_options)


_inline = njit(forceinline=True, **_options)
"""Parts of the kernels become part of them, where sizes are constants. It also keeps results the same to the last bit
whether a process compiles a kernel or takes it from the cache: linked parts would be compiled anew beside it."""

TOLERANCE = 3e-8
"""Largest relative truncation error of (C4): half a unit in the last place of float32."""

CHUNK = 64
"""Rows that a thread takes to replay at a time."""

_AHEAD = 1024
"""Ratings of the next batch that are fetched at most: more would push the rows out of the cache."""

TERMS = 6
"""Raw moments M_0 … M_5 of (C5) that a catch-up uses; M_6 bounds the error."""


# --- what the kernels are told about the optimiser -----------------------------------------------------------------


class Linear(NamedTuple):
    """SGD: products of idle steps (C1, C2), and what a gradient adds."""

    products: Any  # (classes, levels, steps + 1 or steps, 4): powers in level 0 if constant, else the sparse table;
    # of each the upper left number less 1
    constant: Any  # 1 if the learning rate is the same at every step
    logs: Any  # (steps,) uint8: position of the highest bit
    inject: Any  # (steps,): lr, or lr (1 + mu) with Nesterov's look-ahead
    rate: Any  # (steps,): lr
    momentum: Any
    nesterov: Any


class Moments(NamedTuple):
    """Adam: scalars of each step of the call, and the tables of (C3) … (C5)."""

    scalars: Any  # (steps, 4): -lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), eps of tables ((U9) if sparse), -lr
    fresh: Any  # (2,): 1 - beta1, 1 - beta2: how much of the new goes into a moment
    powers: Any  # (steps + 2, 4): beta1^n, beta2^n, and what rounding took off each
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
def _load_once(context, array, row, column):
    """The same of a table that does not change meanwhile: a loop may read it before it begins."""

    def generate(context, builder, signature, arguments):
        vector = builder.load(_address(context, builder, signature.args[0], arguments), align=4)
        vector.set_metadata("invariant.load", builder.module.add_metadata([]))
        return vector

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


@intrinsic
def _plus(context, a, b):
    """a + b of vectors or numbers, and of nothing else that is equal in exact arithmetic alone.

    What is near 1 is kept as its difference d from 1, and w + (d w + …) rounds once, at the size of w. Were the sum
    left to `_FAST`, the compiler might make (1 + d) w of it, and round d away.
    """

    def generate(context, builder, signature, arguments):
        return builder.fadd(*arguments, flags=("contract",))

    return a(a, b), generate


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


# --- threads and caches -----------------------------------------------------------------------------------------------


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


@intrinsic
def _fetch(context, array, index):
    """Ask for array[index] to be brought into the second cache, and go on."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        i8, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), i8)
        kind = ir.FunctionType(ir.VoidType(), [i8, i32, i32, i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [place, i32(0), i32(2), i32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


# --- SGD ------------------------------------------------------------------------------------------------------------


@_jit
def power_table(matrix, out):
    """Powers 0 … n of a 2 x 2 matrix, in float64, rounded once; the upper left number less 1."""
    a, b, c, d = 1.0, 0.0, 0.0, 1.0
    for n in range(out.shape[0]):
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = a - 1.0, b, c, d
        a, b, c, d = (
            matrix[0] * a + matrix[1] * c,
            matrix[0] * b + matrix[1] * d,
            matrix[2] * a + matrix[3] * c,
            matrix[2] * b + matrix[3] * d,
        )


@_jit
def range_table(matrices, out):
    """The disjoint sparse table over matrices (steps, 4): out (levels, steps, 4), the upper left numbers less 1."""
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
                    out[level, i, 0], out[level, i, 1], out[level, i, 2], out[level, i, 3] = a - 1.0, b, c, d
            a, b, c, d = 1.0, 0.0, 0.0, 1.0
            for i in range(middle, min(middle + half, n)):  # from the middle to step i
                m = matrices[i]
                a, b, c, d = (
                    m[0] * a + m[1] * c,
                    m[0] * b + m[1] * d,
                    m[2] * a + m[3] * c,
                    m[2] * b + m[3] * d,
                )
                out[level, i, 0], out[level, i, 1], out[level, i, 2], out[level, i, 3] = a - 1.0, b, c, d


@_inline
def _product(table, constant, logs, which, start, stop):
    """M of the steps start … stop-1, the last one leftmost; its upper left number less 1."""
    if constant:
        n = stop - start
        return table[which, 0, n, 0], table[which, 0, n, 1], table[which, 0, n, 2], table[which, 0, n, 3]
    one, zero = table.dtype.type(1), table.dtype.type(0)
    if stop <= start:
        return zero, zero, zero, one
    i, j = start, stop - 1
    if i == j:
        return table[which, 0, i, 0], table[which, 0, i, 1], table[which, 0, i, 2], table[which, 0, i, 3]
    early, late = table[which, logs[i ^ j], i], table[which, logs[i ^ j], j]
    return (
        _plus(late[0], _plus(early[0], late[0] * early[0] + late[1] * early[2])),
        _plus(early[1], late[0] * early[1] + late[1] * early[3]),
        _plus(late[2], late[2] * early[0] + late[3] * early[2]),
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
            wk = _load(table, row, k)
            if SLOTS == 2:
                _store(w, s, k, _plus(wk, a * wk + b * _load(table, row, W + k)))
            else:
                _store(w, s, k, _plus(wk, a * wk))
        if bias != factors:
            a, b, _, _ = _product(products, constant, logs, bias, start, t)
            w[s, column] = _plus(table[row, column], a * table[row, column])
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
                _store(table, row, k, _plus(wk, a * wk + b * vk - lr * gk))
                _store(table, row, W + k, c * wk + d * vk + gk)
            else:
                _store(table, row, k, _plus(wk, a * wk - lr * gk))
        if bias != factors:
            a, b, c, d = _product(products, constant, logs, bias, start, t + 1)
            if SLOTS == 2:
                table[row, column] = _plus(old_w, a * old_w + b * old_v - lr * g[s, column])
                table[row, W + column] = c * old_w + d * old_v + g[s, column]
            else:
                table[row, column] = _plus(old_w, a * old_w - lr * g[s, column])
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
                _store(table, row, k, _plus(wk, a * wk + b * vk))
                _store(table, row, W + k, c * wk + d * vk)
            else:
                _store(table, row, k, _plus(wk, a * wk))
        if bias != factors:
            a, b, c, d = _product(products, constant, logs, bias, start, steps)
            table[row, column] = _plus(old_w, a * old_w)
            if SLOTS == 2:
                table[row, column] += b * old_v
                table[row, W + column] = c * old_w + d * old_v


# --- Adam -----------------------------------------------------------------------------------------------------------


@_jit
def moment_tables(lr, first_step, beta1, beta2, shrink, sums, good, tolerance):
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
def _idle_step(w, m, v, l2, c1, c2, step, root, eps):
    """One idle step of a vector: the move (U8), and the moments (U6, U7) as m + (1 - beta1) (g - m), likewise v."""
    g = l2 * w
    m = _plus(m, c1 * (g - m))
    v = _plus(v, c2 * (g * g - v))
    return step * m * _inverse_root(v, root, eps), m, v


@_inline
def _adam_replay(W, table, row, scalars, fresh, decay, start, stop):
    """Idle steps start … stop-1 of a row, one by one, in registers; four vectors at once, so that none waits."""
    lanes = _lanes(table)
    c1, c2 = fresh[0], fresh[1]
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
            step, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
            move0, m0, v0 = _idle_step(w0, m0, v0, l0, c1, c2, step, root, eps)
            w0 = _plus(w0, lr * s0 * w0 + move0)
            move1, m1, v1 = _idle_step(w1, m1, v1, l1, c1, c2, step, root, eps)
            w1 = _plus(w1, lr * s1 * w1 + move1)
            move2, m2, v2 = _idle_step(w2, m2, v2, l2, c1, c2, step, root, eps)
            w2 = _plus(w2, lr * s2 * w2 + move2)
            move3, m3, v3 = _idle_step(w3, m3, v3, l3, c1, c2, step, root, eps)
            w3 = _plus(w3, lr * s3 * w3 + move3)
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
            step, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
            move0, m0, v0 = _idle_step(w0, m0, v0, l0, c1, c2, step, root, eps)
            w0 = _plus(w0, lr * s0 * w0 + move0)
            move1, m1, v1 = _idle_step(w1, m1, v1, l1, c1, c2, step, root, eps)
            w1 = _plus(w1, lr * s1 * w1 + move1)
        for j, w, m, v in ((k, w0, m0, v0), (k1, w1, m1, v1)):
            _store(table, row, j, w)
            _store(table, row, W + j, m)
            _store(table, row, 2 * W + j, v)
    for k in range(twos, W, lanes):
        w, m, v = _load(table, row, k), _load(table, row, W + k), _load(table, row, 2 * W + k)
        l0, s0 = _load(decay, 0, k), _load(decay, 1, k)
        for t in range(start, stop):
            step, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
            move, m, v = _idle_step(w, m, v, l0, c1, c2, step, root, eps)
            w = _plus(w, lr * s0 * w + move)
        _store(table, row, k, w)
        _store(table, row, W + k, m)
        _store(table, row, 2 * W + k, v)


@_inline
def _adam_replay_rows(W, table, r0, r1, r2, r3, r4, r5, r6, r7, scalars, fresh, decay, start, stop):
    """The same for eight rows with "l2": eight vectors to choose from hide how long a root and a division take.

    One row may stand in several places: it is then moved several times from the same values to the same.
    """
    lanes = _lanes(table)
    c1, c2 = fresh[0], fresh[1]
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
            step, root, eps = scalars[t, 0], scalars[t, 1], scalars[t, 2]
            move0, m0, v0 = _idle_step(w0, m0, v0, d, c1, c2, step, root, eps)
            move1, m1, v1 = _idle_step(w1, m1, v1, d, c1, c2, step, root, eps)
            move2, m2, v2 = _idle_step(w2, m2, v2, d, c1, c2, step, root, eps)
            move3, m3, v3 = _idle_step(w3, m3, v3, d, c1, c2, step, root, eps)
            move4, m4, v4 = _idle_step(w4, m4, v4, d, c1, c2, step, root, eps)
            move5, m5, v5 = _idle_step(w5, m5, v5, d, c1, c2, step, root, eps)
            move6, m6, v6 = _idle_step(w6, m6, v6, d, c1, c2, step, root, eps)
            move7, m7, v7 = _idle_step(w7, m7, v7, d, c1, c2, step, root, eps)
            w0, w1, w2, w3 = _plus(w0, move0), _plus(w1, move1), _plus(w2, move2), _plus(w3, move3)
            w4, w5, w6, w7 = _plus(w4, move4), _plus(w5, move5), _plus(w6, move6), _plus(w7, move7)
        for row, w, m, v in ((r0, w0, m0, v0), (r1, w1, m1, v1), (r2, w2, m2, v2), (r3, w3, m3, v3)):
            _store(table, row, k, w)
            _store(table, row, W + k, m)
            _store(table, row, 2 * W + k, v)
        for row, w, m, v in ((r4, w4, m4, v4), (r5, w5, m5, v5), (r6, w6, m6, v6), (r7, w7, m7, v7)):
            _store(table, row, k, w)
            _store(table, row, W + k, m)
            _store(table, row, 2 * W + k, v)


@_inline
def _adam_coefficients(real, sums, fades, eps, which, start, stop):
    """What (C3) and (C4) need of the steps start … stop-1: F - 1, -F sum A, eps E, C_2 … C_5, in the table's dtype."""
    n = stop - start
    keep = sums[which, stop, 6] / sums[which, start, 6]
    grow = fades[n, 1]
    factor = fades[n, 0] / keep
    m0 = sums[which, start, 0] - factor * sums[which, stop, 0]
    zero = real(0)
    if m0 <= 0.0:
        return real(keep - 1.0), zero, real(1), zero, zero, zero, zero
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
    return real(keep - 1.0), real(-keep * m0), real(eps * e), real(c2), real(c3), real(c4), real(c5)


@_inline
def _adam_move_row(one, w, m, v, less, total, e, c2, c3, c4, c5):
    """(C3), (C4) for a vector; `one` is 1 in the dtype of the rest."""
    d = _inverse_root(v, one, e)
    x = e * d
    return _plus(w, less * w + total * m * d * (one + x * x * (c2 - x * (c3 - x * (c4 - x * c5)))))


@_inline
def _adam_move(one, w, m, v, less, total, e, c2, c3, c4, c5):
    """(C3), (C4) for one element; `one` is 1 in the dtype of the rest."""
    d = one / (math.sqrt(v) + e)
    x = e * d
    return _plus(w, less * w + total * m * d * (one + x * x * (c2 - x * (c3 - x * (c4 - x * c5)))))


@_inline
def _adam_caught_up(W, table, last, row, scalars, fresh, decay, good, factors, bias, stop):
    """Replay what cannot be summed; return the step up to which the row then stands."""
    start = last[row]
    if start == stop or (good[factors, start] and good[bias, start]):
        return start
    until = start + 1  # up to the first step from which both sums are exact enough
    while until < stop and not (good[factors, until] and good[bias, until]):
        until += 1
    _adam_replay(W, table, row, scalars, fresh, decay, start, until)
    last[row] = until
    return until


@_inline
def _adam_gather(
    W, n, rows, table, last, w, t, sparse, scalars, fresh, decay, sums, fades, good, eps, factors, bias, column
):
    """The batch's rows as they stand before step t, into the buffers. Moments stay behind, see `_adam_scatter`."""
    lanes = _lanes(table)
    real = table.dtype.type
    for s in range(n):
        row = rows[s]
        start = t if sparse else _adam_caught_up(W, table, last, row, scalars, fresh, decay, good, factors, bias, t)
        if start == t:
            for k in range(0, W, lanes):
                _store(w, s, k, _load(table, row, k))
            continue
        less, total, e, c2, c3, c4, c5 = _adam_coefficients(real, sums, fades, eps, factors, start, t)
        for k in range(0, W, lanes):
            m, v = _load(table, row, W + k), _load(table, row, 2 * W + k)
            moved = _adam_move_row(real(1), _load(table, row, k), m, v, less, total, e, c2, c3, c4, c5)
            _store(w, s, k, moved)
        if bias != factors:
            less, total, e, c2, c3, c4, c5 = _adam_coefficients(real, sums, fades, eps, bias, start, t)
            old_m, old_v = table[row, W + column], table[row, 2 * W + column]
            w[s, column] = _adam_move(real(1), table[row, column], old_m, old_v, less, total, e, c2, c3, c4, c5)


@_inline
def _adam_scatter(W, n, rows, table, last, w, g, t, sparse, scalars, fresh, decay, powers, one):
    """Step t of the batch's rows (U6, U7, U8): the moments fade over the missed steps and this one at once."""
    lanes = _lanes(table)
    c1, c2 = fresh[0], fresh[1]
    step, root, eps, lr = scalars[t, 0], scalars[t, 1], scalars[t, 2], scalars[t, 3]
    for s in range(n):
        row = rows[s]
        gap = 1 if sparse else t + 1 - last[row]
        b1, b2, more1, more2 = powers[gap, 0], powers[gap, 1], powers[gap, 2], powers[gap, 3]
        for k in range(0, W, lanes):
            wk = _load(w, s, k)
            gk = _load(g, s, k) + _load(decay, 0, k) * wk
            mk, vk = _load(table, row, W + k), _load(table, row, 2 * W + k)
            m = _plus(b1 * mk, more1 * mk + c1 * gk)
            v = _plus(b2 * vk, more2 * vk + c2 * gk * gk)
            _store(table, row, k, _plus(wk, lr * _load(decay, 1, k) * wk + step * m * _inverse_root(v, root, eps)))
            _store(table, row, W + k, m)
            _store(table, row, 2 * W + k, v)
        if one >= 0:
            for slot in range(3):
                table[row, slot * W + one] = 0
        last[row] = t + 1


@_inline
def _adam_flush(
    W, table, last, first, beyond, steps, scalars, fresh, decay, powers, sums, fades, good, eps, factors, bias, column
):
    """Bring rows first … beyond-1 to the end of the call, where counting starts again."""
    lanes = _lanes(table)
    real = table.dtype.type
    for row in range(first, beyond):
        start = _adam_caught_up(W, table, last, row, scalars, fresh, decay, good, factors, bias, steps)
        last[row] = 0
        if start == steps:
            continue
        w, m, v = table[row, column], table[row, W + column], table[row, 2 * W + column]
        gap = steps - start
        b1, b2, more1, more2 = powers[gap, 0], powers[gap, 1], powers[gap, 2], powers[gap, 3]
        less, total, e, c2, c3, c4, c5 = _adam_coefficients(real, sums, fades, eps, factors, start, steps)
        for k in range(0, W, lanes):
            mk, vk = _load(table, row, W + k), _load(table, row, 2 * W + k)
            moved = _adam_move_row(real(1), _load(table, row, k), mk, vk, less, total, e, c2, c3, c4, c5)
            _store(table, row, k, moved)
            _store(table, row, W + k, _plus(b1 * mk, more1 * mk))
            _store(table, row, 2 * W + k, _plus(b2 * vk, more2 * vk))
        if bias != factors:
            less, total, e, c2, c3, c4, c5 = _adam_coefficients(real, sums, fades, eps, bias, start, steps)
            table[row, column] = _adam_move(real(1), w, m, v, less, total, e, c2, c3, c4, c5)


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
def _dot_pass(
    W, wu, wi, gu, gi, place_u, place_i, user, item, rating, order, lo, batch, mean, ranged, low, high, weight
):
    """(F2) … (F9) and (B9) … (B2) of the dot head, rating by rating; the sum of squared errors.

    Meanwhile the ratings of the next batch are fetched: they lie anywhere in a table that may be larger than any cache.
    """
    lanes = _lanes(wu)
    real = wu.dtype.type
    total = 0.0
    scale = real(weight * 2.0 / batch)
    for j in range(batch):
        if j < _AHEAD and lo + batch + j < len(order):
            ahead = order[lo + batch + j]
            _fetch(user, ahead)
            _fetch(item, ahead)
            _fetch(rating, ahead)
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
    for i in range(len(w)):
        old, gi = w[i], g[i]
        if kind == 1:
            gi += decay[i] * old
        elif kind == 2:
            old = _plus(old, -lr * decay[i] * old)
        if mu != 0:
            vi = mu * v[i] + gi
            v[i] = vi
            gi = gi + mu * vi if nesterov else vi
        w[i] = old - lr * gi


@_inline
def _adam_dense(w, g, m, v, decay, kind, scalars, fresh, eps, t):
    """The optimiser's step on the dense layers: (U1) … (U3), (U6) … (U8)."""
    real = w.dtype.type
    step, root, lr, eps = scalars[t, 0], scalars[t, 1], scalars[t, 3], real(eps)
    c1, c2 = fresh[0], fresh[1]
    added = decay.dtype.type(1 if kind == 1 else 0)
    apart = lr if kind == 2 else real(0)
    for i in range(len(w)):
        old = w[i]
        gi = g[i] + added * decay[i] * old
        mi = _plus(m[i], c1 * (gi - m[i]))
        vi = _plus(v[i], c2 * (gi * gi - v[i]))
        m[i], v[i] = mi, vi
        w[i] = _plus(old, apart * decay[i] * old + step * mi / (math.sqrt(vi) * root + eps))


@functools.cache
def epoch_kernel(W: int, SLOTS: int, NET: bool) -> Any:
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
            scalars, fresh, powers = opt.scalars, opt.fresh, opt.powers
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
                    W, nu, u_rows, u_table, u_last, u_w, t, sparse, scalars, fresh, u_decay, sums, fades, good,
                    eps, ucf, ucb, uc,
                )  # fmt: skip
                _adam_gather(
                    W, ni, i_rows, i_table, i_last, i_w, t, sparse, scalars, fresh, i_decay, sums, fades, good,
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
                    W, u_w, i_w, u_g, i_g, u_place, i_place, user, item, rating, order, lo, batch,
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
                _adam_scatter(W, nu, u_rows, u_table, u_last, u_w, u_g, t, sparse, scalars, fresh, u_decay, powers, uo)
                _adam_scatter(W, ni, i_rows, i_table, i_last, i_w, i_g, t, sparse, scalars, fresh, i_decay, powers, io)
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
                    _adam_dense(nets.w, nets.d_w, nets.slot1, nets.slot2, nets.decay, nets.kind, scalars, fresh, eps, t)
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
                    W, u_table, u_last, 0, len(u_table), done, scalars, fresh, u_decay, powers, sums, fades, good, eps,
                    ucf, ucb, uc,
                )  # fmt: skip
                _adam_flush(
                    W, i_table, i_last, 0, len(i_table), done, scalars, fresh, i_decay, powers, sums, fades, good, eps,
                    icf, icb, ic,
                )  # fmt: skip
        else:
            _linear_flush(W, SLOTS, u_table, u_last, done, products, constant, logs, ucf, ucb, uc)
            _linear_flush(W, SLOTS, i_table, i_last, done, products, constant, logs, icf, icb, ic)
        _exchange_mxcsr(control)
        return -1 if done == steps else done

    return train


@functools.cache
def replay_kernel(W: int) -> Any:
    """Idle steps of Adam with l2 up to the end of a block of steps, for a padded width."""

    @_jit
    def replay(users, items, named, steps, opt, claims):
        """Of the rows that the block names, or of all others; chunk by chunk, as long as `claims` has one left."""
        control = _exchange_mxcsr(_FLUSH)
        scalars, fresh, powers, sums, fades = opt.scalars, opt.fresh, opt.powers, opt.sums, opt.fades
        good, eps = opt.good, opt.eps
        n_users, n_items = len(users.arrays[0]), len(items.arrays[0])
        first_of_items = (n_users + CHUNK - 1) // CHUNK
        group = np.zeros(8, np.int64)  # rows that stand at the beginning of the block
        chunks = first_of_items + (n_items + CHUNK - 1) // CHUNK
        while True:
            chunk = _add(claims, 0, 1)
            if chunk >= chunks:
                break
            of_users = chunk < first_of_items
            arrays = users.arrays if of_users else items.arrays
            factors, bias = (users.factors, users.bias) if of_users else (items.factors, items.bias)
            column = users.column if of_users else items.column
            table, last, decay, marks = arrays[0], arrays[1], arrays[8], arrays[9]
            first = (chunk if of_users else chunk - first_of_items) * CHUNK
            beyond = min(first + CHUNK, len(table))
            summed = good[factors, steps] and good[bias, steps]  # a table without decay beside one that has
            n = 0
            for row in range(first, beyond):
                if marks[row] == named:
                    if last[row] > 0 or summed:
                        _adam_flush(
                            W, table, last, row, row + 1, steps, scalars, fresh, decay, powers, sums, fades, good, eps,
                            factors, bias, column,
                        )  # fmt: skip
                    else:
                        group[n] = row
                        n += 1
                if n == 8 or (n > 0 and row == beyond - 1):
                    group[n:] = group[n - 1]
                    _adam_replay_rows(
                        W, table, group[0], group[1], group[2], group[3], group[4], group[5], group[6], group[7],
                        scalars, fresh, decay, 0, steps,
                    )  # fmt: skip
                    n = 0
        _exchange_mxcsr(control)

    return replay


@_inline
def _train_tile(WHOLE, W, RANGED, user, item, rating, start, stop, users, items, lr, decay, tail, mean, low, high):
    """Per-rating SGD on ratings start … stop-1: (F2) … (F4), (B4) … (B2), (U2), (U5) with B = 1.

    Columns up to WHOLE are factors. In those behind, `tail` says for both sides lambda, what of the other row counts,
    and where a bias gets its 1. Returns the sum of squared errors.
    """
    lanes = _lanes(users)
    real = users.dtype.type
    back = -lr
    fall, fall_i = back * decay[0], back * decay[1]
    total = 0.0
    for j in range(np.uint64(start), np.uint64(stop)):  # unsigned: no index counts from the end
        u, i = user[j], item[j]
        score = _zero(users)
        for k in range(0, WHOLE, lanes):
            score = score + _load(users, u, k) * _load(items, i, k)
        for k in range(WHOLE, W, lanes):  # there each bias meets a 1
            q, at = _load(items, i, k), k - WHOLE
            to_user = _load_once(tail, 1, at) * q + _load_once(tail, 2, at)
            score = score + (_load(users, u, k) * to_user + _load_once(tail, 5, at) * q)
        e, slope = _head_error(_sum(score) + mean, real(rating[j]), RANGED, low, high, real(1))
        total += e * e
        g = real(2) * lr * e * slope
        for k in range(0, WHOLE, lanes):
            p, q = _load(users, u, k), _load(items, i, k)
            _store(users, u, k, _plus(p, fall * p) - g * q)
            _store(items, i, k, _plus(q, fall_i * q) - g * p)
        for k in range(WHOLE, W, lanes):
            p, q, at = _load(users, u, k), _load(items, i, k), k - WHOLE
            to_user = _load_once(tail, 1, at) * q + _load_once(tail, 2, at)
            to_item = _load_once(tail, 4, at) * p + _load_once(tail, 5, at)
            _store(users, u, k, _plus(p, back * _load_once(tail, 0, at) * p) - g * to_user)
            _store(items, i, k, _plus(q, back * _load_once(tail, 3, at) * q) - g * to_item)
    return total


@functools.cache
def tile_kernel(WHOLE: int, W: int, RANGED: bool) -> Any:
    """`_train_tile` for a width of rows, over tiles that threads share."""

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
        tail,
        mean,
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
                WHOLE, W, RANGED, user, item, rating, bounds[r, b], bounds[r, b + 1], users, items, lr[r], decay,
                tail, mean, low, high,
            )  # fmt: skip
            _add(shared, of_users, 1)
            _add(shared, of_items, 1)
        _exchange_mxcsr(control)

    return train


@functools.cache
def predict_kernel(W: int) -> Any:
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
