"""Operations that Numba lacks, written for LLVM: vectors, denormal numbers, threads and caches."""

from __future__ import annotations

import operator
import os
import platform
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.extending import intrinsic, overload, register_model

from minicf.backends.numba.jit import FASTMATH

# --- denormals --------------------------------------------------------------------------------------------------------


@intrinsic
def exchange_mxcsr(context, value):
    """Set the processor's floating-point control word and return the old one; return 0 where there is none."""

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


FLUSH_DENORMALS = np.uint32(0x1F80 | 0x8040)
"""Mask all exceptions, as usual, and take denormal numbers for 0: with l2 a row without ratings shrinks to nothing, and
its second moment sooner; arithmetic on denormals is a hundredfold slower."""


# --- vectors --------------------------------------------------------------------------------------------------------
#
# A vector is a value of 64 bytes: 16 numbers of float32 or 8 of float64, one register where the processor has AVX-512,
# two or four elsewhere. Left to itself the compiler unrolls short rows into single numbers, and guards long ones
# against overlaps that cannot occur.


class Vector(types.Type):
    def __init__(self, element: Any) -> None:
        self.element, self.lanes = element, 512 // element.bitwidth
        super().__init__(f"minicf.vector({element})")


@register_model(Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        element = manager.lookup(kind.element).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.lanes))


_AVX512 = platform.machine() in ("x86_64", "AMD64") and bool(llvm.get_host_cpu_features().get("avx512f"))


def _address(context: Any, builder: Any, kind: Any, arguments: Any) -> Any:
    """Compute the address of (array, row, column), as a pointer to a vector."""
    array = context.make_array(kind)(context, builder, arguments[0])
    stride = builder.extract_value(array.strides, 0)
    wide = stride.type
    row, column = (builder.sext(x, wide) if x.type.width < wide.width else x for x in arguments[1:3])
    size = kind.dtype.bitwidth // 8
    offset = builder.add(builder.mul(row, stride), builder.mul(column, wide(size)))
    byte = builder.gep(builder.bitcast(array.data, ir.IntType(8).as_pointer()), [offset])
    return builder.bitcast(byte, context.get_value_type(Vector(kind.dtype)).as_pointer())


@intrinsic
def count_lanes(context, array):
    """Return the count of numbers in a vector of this array's dtype, a constant of the compiled code.

    ``64 // array.itemsize`` is not: it is read at run time, and no loop over the columns of a row could be unrolled.
    """
    count = 512 // array.dtype.bitwidth
    return types.intp(array), lambda context, builder, signature, arguments: ir.IntType(64)(count)


@intrinsic
def load(context, array, row, column):
    """Load the vector at (row, column) of a table."""

    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, signature.args[0], arguments), align=4)

    return Vector(array.dtype)(array, types.intp, types.intp), generate


@intrinsic
def load_invariant(context, array, row, column):
    """Load a vector of a table that does not change during a loop: the loop may read it before it begins."""

    def generate(context, builder, signature, arguments):
        vector = builder.load(_address(context, builder, signature.args[0], arguments), align=4)
        vector.set_metadata("invariant.load", builder.module.add_metadata([]))
        return vector

    return Vector(array.dtype)(array, types.intp, types.intp), generate


@intrinsic
def store(context, array, row, column, vector):
    """Store a vector at (row, column) of a table."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[3], _address(context, builder, signature.args[0], arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), generate


def _splat(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """Repeat a number in every place of a vector; vectors stay as they are."""
    if isinstance(value.type, ir.VectorType):
        return value
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), lanes)


def _binary(name: str) -> Any:
    """Make the operation on two vectors, or on a vector and a number of its element type."""

    @intrinsic
    def operation(context, a, b):
        vector = a if isinstance(a, Vector) else b
        kinds = [x if isinstance(x, Vector) else vector.element for x in (a, b)]

        def generate(context, builder, signature, arguments):
            kind = context.get_value_type(signature.return_type)
            x, y = (_splat(builder, value, kind) for value in arguments)
            return getattr(builder, name)(x, y, flags=FASTMATH)

        return vector(*kinds), generate

    return operation


@intrinsic
def plus(context, a, b):
    """Add vectors or numbers in exactly this order.

    A factor near 1 is kept as its difference d from 1, and w + (d w + …) rounds once, at the size of w. With
    `jit.FASTMATH` the compiler might turn the sum into (1 + d) w, and round d away.
    """

    def generate(context, builder, signature, arguments):
        return builder.fadd(*arguments, flags=("contract",))

    return a(a, b), generate


@intrinsic
def times(context, a, b):
    """Multiply numbers after all that makes them: with a weight of 1 a slope stays what it is to the last bit."""

    def generate(context, builder, signature, arguments):
        return builder.fmul(*arguments)

    return b(b, b), generate


def _write_as(sign: Any, operation: Any) -> None:
    """Let ``a sign b`` mean an operation on vectors."""

    @overload(sign, inline="always")
    def implement(a, b):
        if isinstance(a, Vector) or isinstance(b, Vector):
            return lambda a, b: operation(a, b)
        return None


_write_as(operator.add, _binary("fadd"))
_write_as(operator.sub, _binary("fsub"))
_write_as(operator.mul, _binary("fmul"))


@intrinsic
def zero_vector(context, array):
    """Return a vector of zeros, of the array's dtype."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(signature.return_type), None)

    return Vector(array.dtype)(array), generate


@intrinsic
def horizontal_sum(context, vector):
    """Sum the numbers of a vector."""

    def generate(context, builder, signature, arguments):
        element, whole = (context.get_value_type(kind) for kind in (vector.element, vector))
        name = f"llvm.vector.reduce.fadd.v{vector.lanes}f{vector.element.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(element, [element, whole]), name)
        return builder.call(function, [element(0.0), arguments[0]], fastmath=FASTMATH)

    return vector.element(vector), generate


@intrinsic
def inverse_root(context, vector, root, eps):
    """Compute 1 / (sqrt(v) root + eps), Adam's division (U8).

    Root and division share one slow unit of the processor. With AVX-512 and float32 the division is replaced by the
    estimate of 1/x, exact to 14 bits, and a step of Newton's method, which doubles them: as exact as float32 is.
    """

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(vector)
        v, (root, eps) = arguments[0], (_splat(builder, x, kind) for x in arguments[1:])
        bits = vector.element.bitwidth

        def call(name: str, *values: Any) -> Any:
            signature = ir.FunctionType(kind, [x.type for x in values])
            return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), values)

        def times(a: Any, b: Any) -> Any:
            return builder.fmul(a, b, flags=FASTMATH)

        s = call(f"llvm.sqrt.v{vector.lanes}f{bits}", v)
        d = builder.fadd(times(s, root), eps, flags=FASTMATH)
        if not (_AVX512 and bits == 32):
            return builder.fdiv(ir.Constant(kind, [1.0] * vector.lanes), d, flags=FASTMATH)
        zero, all_lanes = ir.Constant(kind, None), ir.IntType(16)(0xFFFF)
        x = call("llvm.x86.avx512.rcp14.ps.512", d, zero, all_lanes)
        two = ir.Constant(kind, [2.0] * vector.lanes)
        return times(x, builder.fsub(two, times(d, x), flags=FASTMATH))

    return vector(vector, vector.element, vector.element), generate


# --- threads and caches -----------------------------------------------------------------------------------------------


@intrinsic
def atomic_add(context, counters, index, amount):
    """Add to one of the counters that threads share, int64 (n,), and return its value before.

    A thread that reads the sum also sees everything that the adding thread had written before.
    """

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        return builder.atomic_rmw("add", place, arguments[2], "acq_rel")

    return types.int64(counters, types.int64, types.int64), generate


@intrinsic
def yield_thread(context):
    """Let another thread run on this core, where the system has a call for it."""

    def generate(context, builder, signature, arguments):
        if hasattr(os, "sched_yield"):
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def prefetch(context, array, index):
    """Start to fetch array[index] into the second cache."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        i8, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), i8)
        kind = ir.FunctionType(ir.VoidType(), [i8, i32, i32, i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [place, i32(0), i32(2), i32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate
