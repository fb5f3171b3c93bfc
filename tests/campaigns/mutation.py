"""Small mistakes put into the source, one at a time; the tests have to notice each.

    python -m tests.campaigns.mutation [--files ops.py losses.py ...] [--sample N] [--seed S] [--compiled]

Mistakes: flipped operators, comparisons and conditions, constants off by one or twice as large, the user's side taken
for the item's, two arguments swapped, a statement left out. Left out are what cannot change a result: annotations,
texts of errors, logging; and class-level lines and defaults of arguments, which tests compare with the published ones.

The tests of a module are collected and run once; each mistake is then made in a fork of that process, by exchanging the
code of the one function concerned, and the tests run until one fails. Memory and CPU time are limited: a hang is
noticed too. No file is touched.

Kernels that Numba would compile for seconds run in the interpreter instead, with stand-ins for the few operations that
are written for LLVM (`interpret`): the same lines, the same tests. ``--compiled`` tries mistakes in compiled code
instead, each in a copy of the tree, with a cache of its own: about a minute each.
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import importlib
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Installed, it is not beside the tests. Found, not imported, which would start BLAS's threads before the forks.
PACKAGE = Path(str(importlib.util.find_spec("minicf").origin)).parent

# --- which tests see a module ---------------------------------------------------------------------------------------

_PASSES = ("test_models", "test_gradients", "test_golden", "test_train")

_TRAININGS = ("test_torch_parity", "test_numba", "test_train", "test_model_files")
_KERNELS = ("adam", "epoch", "loss", "nets", "program", "sgd", "tiles", "vectors")

TESTS: dict[str, tuple[str, ...]] = {
    "ops.py": _PASSES,
    "losses.py": (*_PASSES, "test_extensions"),
    **dict.fromkeys((f"models/{name}.py" for name in ("dot", "net", "hybrid")), (*_PASSES, "test_model_files")),
    "solvers/gradient.py": (*_PASSES, "test_optim_arguments"),
    "optim.py": ("test_optim_arguments", "test_golden", "test_train", "test_model_files"),
    "schedules.py": ("test_schedules",),
    "rng.py": ("test_rng", "test_models", "test_train"),
    "tiles.py": ("test_numba",),
    "metrics.py": ("test_metrics", "test_recommender"),
    "evaluation.py": ("test_recommender",),
    "scoring.py": ("test_topn", "test_recommender", "test_fold_in"),
    "recommender/fold_in.py": ("test_fold_in", "test_recommender"),
    "backends/numba/top.py": ("test_topn",),
    "backends/numba/passes.py": ("test_rng", "test_numba"),
    **dict.fromkeys((f"backends/numba/{name}.py" for name in _KERNELS), _TRAININGS),
}
"""Files of tests in the order in which they are tried."""

COMPILED = tuple(module for module in TESTS if module.startswith("backends/numba/"))
"""Modules whose functions Numba compiles, and the one that calls them."""

LONG = (
    "sabotage", "any_number_of_threads", "float32_rounds", "ctrl_c", "fresh_process", "float32-",
    "compiling_is_said", "scikit_learns_checks", "search_of_scikit", "the_script_writes", "defaults_are_good",
    "without_a_folder",
)  # fmt: skip
"""Tests that are not tried: too long, in processes of their own, or about compiling."""

NOT_INTERPRETED = (
    "_run", "exchange_mxcsr", "Vector", "_VectorModel", "_address", "load", "load_invariant", "store", "_splat",
    "_binary", "_write_as", "plus", "zero_vector", "horizontal_sum", "inverse_root", "count_lanes", "atomic_add",
    "yield_thread", "prefetch", "compile",
)  # fmt: skip
"""Functions for which the interpreter has stand-ins, or that serve compiling: only ``--compiled`` tries them."""

# --- mistakes that change nothing -----------------------------------------------------------------------------------

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "ops.py", "p -> q",
        "return namespace(p).concatenate([p, q], axis=1)",
    ): "both live on the same device",
    (
        "optim.py", "arguments of xp.maximum swapped",
        "v = xp.maximum(v - m * m, 0.0)  # (U14)",
    ): "the larger of two is the larger of two",
    (
        "backends/numba/loss.py", ">= -> >",
        "probability = (one if y >= 0 else e) / (one + e)",
    ): "at y = 0, e is one",
    (
        "backends/numba/loss.py", "> -> >=",
        "value = (y if y > 0 else one - one) + math.log1p(e) - r * y",
    ): "at y = 0, y is zero",
    (
        "ops.py", "arguments of namespace(a).maximum swapped",
        "return namespace(a).maximum(a, 0)",
    ): "the larger of two is the larger of two",
    (
        "models/net.py", "1 -> 2",
        "masks = masks or (None,) * (len(self.hidden) + 1)",
    ): "one more that is not read",
    (
        "models/hybrid.py", "0 -> 1",
        "return namespace(outputs[0]).stack(outputs), caches",
    ): "all heads live on the same device",
    (
        "solvers/gradient.py", "1 -> 2",
        "return np.array([float(x) for x in losses.reshape(-1)]), model.backward(w, cache, d_y)  # … (B1)",
    ): "NumPy takes any negative number for the one that it finds itself",
    (
        "models/net.py", "True -> False",
        "return list(zip(names, widths[:-1], widths[1:], strict=True))",
    ): "all three are as long by construction; it documents",
    (
        "backends/numba/adam.py", "> -> >= #2",
        "usable = sums[steps, 6] > 1e-200 and beta1 > 0.0",
    ): "with beta1 = 0 the sums are 0, and idle rows do not move: a replay does the same at length",
    (
        "backends/numba/tiles.py", "users -> items",
        "score = zero_vector(users)",
    ): "only the dtype is read, and both tables have the same",
    (
        "backends/numba/program.py", "1 -> 2",
        "dot, place, dot_weight, nets = None, -1, 0.0, []",
    ): "any number that is no place says that there is no dot head",
    (
        "backends/numba/program.py", "2 -> 3",
        "self._W = -(-(self._K + 2 * self._biases) // line) * line",
    ): "more zeros behind the columns that count",
    (
        "backends/numba/program.py", "1 -> 0",
        "return {name: views[name] for name in self.model.shapes(1, 1)}",
    ): "only the names are read",
    (
        "backends/numba/program.py", "arguments of self.model.shapes swapped",
        'slots += [(1 + i, name, state[f"{slot}.{name}"]) for name in self.model.shapes(1, 1)]',
    ): "only the names are read",
    (
        "backends/numba/program.py", "1 -> 2 #2",
        "self._K + 1 - i if self._biases else -1,",
    ): "any negative number says that there is no such column",
    (
        "backends/numba/program.py", "1 -> 2",
        "return max(1, min((4 << 20) // batch_size, 1 << 15))",
    ): "how often a call comes back changes no step (test_the_number_of_steps_a_call_does_not_matter)",
    (
        "backends/numba/program.py", "0.0 -> 1.0",
        "real(dot.global_mean if dot else 0.0),",
    ): "read where there is a dot head",
    (
        "backends/numba/program.py", "15 -> 14",
        "return max(1, min((4 << 20) // batch_size, 1 << 15))",
    ): "how often a call comes back changes no step",
    (
        "backends/numba/program.py", "not left out",
        "if not self.optimizer.sparse:  # sparse rows are never behind",
    ): "without the sums rows are replayed, to the same result at length; sparse rows never read them",
    (
        "backends/numba/program.py", "1 -> 2",
        "block = max(1, _BLOCK // batch_size)",
    ): "how many steps lie between two replays changes none of them",
    (
        "backends/numba/sgd.py", "arguments of plus swapped",
        "plus(early[1], late[0] * early[1] + late[1] * early[3]),",
    ): "a sum",
    (
        "backends/numba/sgd.py", "arguments of plus swapped",
        "store(w, s, k, plus(wk, a * wk + b * load(table, row, W + k)))",
    ): "a sum",
    (
        "backends/numba/epoch.py", "0 -> 1",
        "if one >= 0:",
    ): "the column behind the factors is 1 at least, and -1 where there is none",
    (
        "backends/numba/adam.py", "2 -> 3 #2",
        "b1, b2, more1, more2 = powers[gap, 0], powers[gap, 1], powers[gap, 2], powers[gap, 3]",
    ): "float64 rounds nothing off that would be left there; in float32 it is a last place, once a call",
    (
        "rng.py", "18 -> 17",
        "_CHUNK = 1 << 18",
    ): "bounds memory alone",
    (
        "rng.py", "1 -> 0 #2",
        "position_bits = np.uint64((1 << max(n - 1, 0).bit_length()) - 1)",
    ): "a power of 2 spends one bit more on the position: the same order but for one chance in 2^50",
    (
        "metrics.py", "arguments of _errors swapped",
        "return float(np.sqrt(np.mean(_errors(rating, predicted) ** 2)))",
    ): "the sign is squared away",
    (
        "metrics.py", "arguments of np.minimum swapped",
        "return (at * found).sum(axis=1) / np.minimum(total, k)",
    ): "the smaller of two is the smaller of two",
    (
        "schedules.py", "1e-09 -> 2e-09",
        "_NUDGE = 1e-9",
    ): "both are far below a step and far above rounding",
    (
        "schedules.py", "1.0 -> 2.0 #2",
        "return self.low + (1.0 - self.low) * _half_cosine(np.clip((t - start) / length, 0.0, 1.0))",
    ): "a cycle ends at 1 but for rounding",
    (
        "schedules.py", "1.0 -> 2.0",
        "rise = middle + (start - middle) * _half_cosine(np.minimum(x / self.up, 1.0))",
    ): "the rise is not taken beyond `up`",
    (
        "schedules.py", "arguments of np.maximum swapped",
        "fall = end + (middle - end) * _half_cosine(np.maximum(x - self.up, 0.0) / (1.0 - self.up))",
    ): "the larger of two is the larger of two",
    (
        "backends/numba/top.py", "512 -> 513",
        "_GROUPS = 512",
    ): "how many groups there are changes the work alone",
    (
        "backends/numba/top.py", "512 -> 511",
        "_GROUPS = 512",
    ): "how many groups there are changes the work alone",
    (
        "backends/numba/top.py", "1000 -> 1001",
        "_LONG = 1000",
    ): "both ways give the same lists",
    (
        "backends/numba/top.py", "1000 -> 999",
        "_LONG = 1000",
    ): "both ways give the same lists",
    (
        "backends/numba/top.py", "arguments of min swapped",
        "part = values[lo : min(lo + groups, columns)]",
    ): "the smaller of two is the smaller of two",
    (
        "backends/numba/top.py", "- left out #2",
        "top[:], where[:] = -np.inf, -1",
    ): "the first pass is after a bound: places of a tie are not read",
    (
        "backends/numba/top.py", "1 -> 2",
        "top[:], where[:] = -np.inf, -1",
    ): "the first pass is after a bound: places of a tie are not read",
    (
        "backends/numba/top.py", "1 -> 0",
        "top[:], where[:] = -np.inf, -1",
    ): "the first pass is after a bound: places of a tie are not read",
    (
        "backends/numba/top.py", "1 -> 2",
        "if highest[group] > top[n - 1]:",
    ): "a lower bound lets more groups be gone through, and finds the same",
    (
        "backends/numba/top.py", "left out",
        "_insert(highest[group], group, top, where, n)",
    ): "a lower bound lets more groups be gone through, and finds the same",
    (
        "backends/numba/top.py", "< -> <=",
        "if values[j] > worst or (values[j] == worst and worst > -np.inf and j < where[n - 1]):",
    ): "no item is met twice",
    (
        "tiles.py", "4096 -> 4097",
        "_ROWS = 4096",
    ): "how large a tile is, is a matter of caches",
    (
        "tiles.py", "4096 -> 4095",
        "_ROWS = 4096",
    ): "how large a tile is, is a matter of caches",
    (
        "tiles.py", "1024 -> 1025",
        "_TILE = 1024",
    ): "from how many ratings on a tile is worth a thread is a matter of speed",
    (
        "tiles.py", "1024 -> 1023",
        "_TILE = 1024",
    ): "from how many ratings on a tile is worth a thread is a matter of speed",
    (
        "tiles.py", "arguments of max swapped",
        "return max(1, min(wanted, 255, int((n_ratings / _TILE) ** 0.5), n_users, n_items))",
    ): "the larger of two is the larger of two",
    (
        "tiles.py", "arguments of min swapped",
        "return max(1, min(wanted, 255, int((n_ratings / _TILE) ** 0.5), n_users, n_items))",
    ): "the smallest of all is the smallest of all",
    (
        "tiles.py", "left out",
        "del turn",
    ): "frees memory alone",
    (
        "scoring.py", "<< -> >>",
        "BLOCK_BYTES = 8 << 20",
    ): "how many users are scored at once changes memory and time",
    (
        "scoring.py", "8 -> 7",
        "BLOCK_BYTES = 8 << 20",
    ): "how many users are scored at once changes memory and time",
    (
        "scoring.py", "8 -> 9",
        "MIN_ROWS = 8",
    ): "how many users are scored at once changes memory and time",
    (
        "scoring.py", "8 -> 7",
        "MIN_ROWS = 8",
    ): "how many users are scored at once changes memory and time",
    (
        "scoring.py", "1 -> 0",
        "if workers == 1:",
    ): "a pool of one thread does the same",
    (
        "tiles.py", "arguments of max swapped",
        "wanted = max(8, -(-(n_users + n_items) // _ROWS))",
    ): "the larger of two is the larger of two",
    (
        "recommender/fold_in.py", "20 -> 21",
        "STEPS = 20",
    ): "the descent has ended before",
    (
        "recommender/fold_in.py", "20 -> 19",
        "STEPS = 20",
    ): "the descent has ended before",
    (
        "recommender/fold_in.py", "sides of @ swapped",
        "return float(((y - rating) ** 2).sum() + (x - x0) @ a @ (x - x0))",
    ): "a is symmetric",
    (
        "recommender/fold_in.py", "sides of @ swapped #2",
        "return float(((y - rating) ** 2).sum() + (x - x0) @ a @ (x - x0))",
    ): "a is symmetric",
    (
        "recommender/fold_in.py", "<= -> <",
        "if (new := objective(x + step, y)) <= value or damping > 1e6:",
    ): "a step that gains nothing is the last either way",
    (
        "recommender/fold_in.py", "> -> >=",
        "if (new := objective(x + step, y)) <= value or damping > 1e6:",
    ): "another way down to the same bottom",
    (
        "recommender/fold_in.py", "arguments of max swapped",
        "damping = max(1e-3, 10.0 * damping)",
    ): "the larger of two is the larger of two",
    (
        "recommender/fold_in.py", "0.001 -> 0.002",
        "damping = max(1e-3, 10.0 * damping)",
    ): "another way down to the same bottom",
    (
        "recommender/fold_in.py", "10.0 -> 20.0",
        "gain, value, damping = value - new, new, damping / 10.0",
    ): "another way down to the same bottom",
    (
        "recommender/fold_in.py", "<= -> <",
        "if gain <= 1e-9 * (1.0 + value):",
    ): "no gain is exactly so large",
    (
        "recommender/fold_in.py", "1.0 -> 2.0",
        "if gain <= 1e-9 * (1.0 + value):",
    ): "both are far below what a rating can tell",
    (
        "recommender/fold_in.py", "left out #3",
        "break",
    ): "a descent that gains nothing more ends where it is, later",
}  # fmt: skip
"""(module, mistake, line without blanks around it): why no result changes."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One mistake: bytes `start` to `end` of a module's source become `new`."""

    module: str
    line: int
    text: str
    """The line, without blanks around it."""
    change: str
    start: int
    end: int
    new: str
    owner: tuple[str, ...]
    """The function or method to exchange; empty for a constant of the module."""
    first: int
    """Line on which it begins, decorators included."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.module, self.change, self.text

    def source(self, source: str) -> str:
        raw = source.encode()
        return (raw[: self.start] + self.new.encode() + raw[self.end :]).decode()

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.text}   [{self.change}]"


_BINARY: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip
_COMPARED: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_PAIRS = [("p", "q"), ("user", "item"), ("users", "items"), ("nu", "ni"), ("u", "i"), ("u", "v"), ("uc", "ic"),
          ("uo", "io"), ("ucf", "icf"), ("ucb", "icb"), ("gu", "gi"), ("wu", "wi"), ("n_users", "n_items")]  # fmt: skip
_SILENT = {"log", "print", "warnings"}


def _other_side(name: str, known: set[str]) -> str | None:
    """The name of the other side's twin, if it exists."""
    for a, b in [*_PAIRS, *((b, a) for a, b in _PAIRS)]:
        if name == a and b in known:
            return b
    for a, b in (("user", "item"), ("item", "user"), ("u_", "i_"), ("i_", "u_"), ("_u", "_i"), ("_i", "_u"),
                 ("d_p", "d_q"), ("d_q", "d_p")):  # fmt: skip
        if a in name and (other := name.replace(a, b)) in known:
            return other
    return None


class _Finder:
    """Goes through a module and lists its mutants."""

    def __init__(self, module: str, source: str) -> None:
        self.module, self.source = module, source
        self.lines = source.split("\n")
        self.offsets = [0]
        for line in self.lines:
            self.offsets.append(self.offsets[-1] + len(line.encode()) + 1)
        self.found: list[Mutant] = []
        self.owner: tuple[str, ...] = ()
        self.first = 0
        self.known: set[str] = set()

    def add(self, node: Any, new: ast.AST | str, change: str) -> None:
        start = self.offsets[node.lineno - 1] + node.col_offset
        end = self.offsets[node.end_lineno - 1] + node.end_col_offset
        text = new if isinstance(new, str) else ast.unparse(new)
        if isinstance(node, ast.expr) and not isinstance(new, str):
            text = f"({text})"
        line = self.lines[node.lineno - 1].strip()
        self.found.append(
            Mutant(self.module, node.lineno, line, change, start, end, text, self.owner, self.first)
        )  # fmt: skip

    def run(self) -> list[Mutant]:
        for node in ast.parse(self.source).body:
            if isinstance(node, ast.FunctionDef):
                self.function(node, (node.name,))
            elif isinstance(node, ast.ClassDef):
                for child in node.body:
                    if isinstance(child, ast.FunctionDef):
                        self.function(child, (node.name, child.name))
            elif isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) for t in node.targets):
                self.owner, self.first, self.known = (), 0, set()
                if not any(isinstance(x, ast.Call) for x in ast.walk(node.value)):
                    self.visit(node.value)
        return self.numbered()

    def numbered(self) -> list[Mutant]:
        """The same change several times in a line: #2, #3, ..."""
        seen: dict[tuple[str, str, str], int] = {}
        result = []
        for mutant in self.found:
            n = seen[mutant.key] = seen.get(mutant.key, 0) + 1
            result.append(mutant if n == 1 else dataclasses.replace(mutant, change=f"{mutant.change} #{n}"))
        return result

    def function(self, node: ast.FunctionDef, owner: tuple[str, ...]) -> None:
        self.owner = owner
        self.first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        self.known = {x.id for x in ast.walk(node) if isinstance(x, ast.Name)}
        self.known |= {x.arg for x in ast.walk(node) if isinstance(x, ast.arg)}
        self.body(node.body)

    def body(self, statements: list[ast.stmt], assigned: set[str] | None = None) -> None:
        assigned = set() if assigned is None else assigned
        for node in statements:
            self.statement(node, assigned)

    def statement(self, node: ast.stmt, assigned: set[str]) -> None:
        if isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.Pass | ast.Global):
            return
        if isinstance(node, ast.Expr):
            called = node.value.func if isinstance(node.value, ast.Call) else None
            root = called
            while isinstance(root, ast.Attribute):
                root = root.value
            if called is None or (isinstance(root, ast.Name) and root.id in _SILENT):
                return
        if self.droppable(node, assigned):
            self.add(node, "pass", "left out")
        if isinstance(node, ast.FunctionDef):
            outer, self.known = self.known, self.known | {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
            self.body(node.body)
            self.known = outer
            return
        if isinstance(node, ast.If | ast.While):
            self.negate(node.test)
        if isinstance(node, ast.AugAssign) and type(node.op) in _BINARY:
            new = copy.deepcopy(node)
            new.op = _BINARY[type(node.op)]()
            self.add(node, new, f"{_sign(node.op)}= -> {_sign(new.op)}=")
        if isinstance(node, ast.Assign):
            assigned |= {x.id for t in node.targets for x in ast.walk(t) if isinstance(x, ast.Name)}
            for target in node.targets:
                if isinstance(target, ast.Subscript | ast.Tuple):
                    self.visit(target)
            self.visit(node.value)
            return
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "decorator_list", "returns", "target") and not isinstance(node, ast.AugAssign):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.stmt):
                    self.statement(child, assigned)
                elif isinstance(child, ast.ExceptHandler):
                    self.body(child.body, assigned)
                elif isinstance(child, ast.withitem):
                    self.visit(child.context_expr)
                elif isinstance(child, ast.expr):
                    self.visit(child)

    @staticmethod
    def droppable(node: ast.stmt, assigned: set[str]) -> bool:
        if isinstance(node, ast.Expr | ast.AugAssign | ast.Continue | ast.Break | ast.Delete):
            return True
        if isinstance(node, ast.Assign):
            first = node.targets[0]
            names = [x.id for t in node.targets for x in ast.walk(t) if isinstance(x, ast.Name)]
            return isinstance(first, ast.Subscript | ast.Attribute) or all(name in assigned for name in names)
        return False

    def negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.Constant):  # a comparison has mutants of its own
            self.add(test, ast.UnaryOp(ast.Not(), test), "negated")

    def visit(self, node: Any) -> None:
        if isinstance(node, ast.JoinedStr):
            return
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            new = copy.deepcopy(node)
            new.op = _BINARY[type(node.op)]()
            self.add(node, new, f"{_sign(node.op)} -> {_sign(new.op)}")
        elif isinstance(node, ast.BinOp):
            self.add(node, ast.BinOp(node.right, node.op, node.left), f"sides of {_sign(node.op)} swapped")
        elif isinstance(node, ast.Compare):
            for k, op in enumerate(node.ops):
                new = copy.deepcopy(node)
                new.ops[k] = _COMPARED[type(op)]()
                self.add(node, new, f"{_sign(op)} -> {_sign(new.ops[k])}")
        elif isinstance(node, ast.BoolOp):
            new = copy.deepcopy(node)
            new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            self.add(node, new, f"{_sign(node.op)} -> {_sign(new.op)}")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
            self.add(node, node.operand, f"{_sign(node.op)} left out")
        elif isinstance(node, ast.IfExp):
            self.negate(node.test)
        elif isinstance(node, ast.Constant):
            self.constant(node)
            return
        elif (
            isinstance(node, ast.Call)
            and len(node.args) > 1
            and not any(isinstance(a, ast.Starred) for a in node.args[:2])
        ):
            new = copy.deepcopy(node)
            new.args[0], new.args[1] = new.args[1], new.args[0]
            if ast.dump(new) != ast.dump(node):  # two that are alike make no mutant
                self.add(node, new, f"arguments of {ast.unparse(node.func)} swapped")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            if other := _other_side(node.id, self.known):
                self.add(node, other, f"{node.id} -> {other}")
            return
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.comprehension):
                self.visit(child.iter)
                for test in child.ifs:
                    self.visit(test)
            elif isinstance(child, ast.keyword):
                self.visit(child.value)
            elif isinstance(child, ast.expr):
                self.visit(child)
            elif isinstance(child, ast.arguments):
                pass

    def constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.add(node, repr(not value), f"{value} -> {not value}")
        elif isinstance(value, int):
            for other in [value + 1] + [value - 1] * (value > 0):
                self.add(node, repr(other), f"{value} -> {other}")
        elif isinstance(value, float):
            other = 2 * value if value else 1.0
            self.add(node, repr(other), f"{value} -> {other}")
        elif isinstance(value, str):
            other = {"user": "item", "item": "user"}.get(value)
            for a, b in (("user_", "item_"), ("item_", "user_")):
                if value.startswith(a):
                    other = b + value.removeprefix(a)
            if other:
                self.add(node, repr(other), f"{value!r} -> {other!r}")


_SIGNS = {
    "Add": "+", "Sub": "-", "Mult": "*", "Div": "/", "FloorDiv": "//", "Mod": "%", "Pow": "**", "LShift": "<<",
    "RShift": ">>", "BitAnd": "&", "BitOr": "|", "BitXor": "^", "MatMult": "@", "Lt": "<", "LtE": "<=", "Gt": ">",
    "GtE": ">=", "Eq": "==", "NotEq": "!=", "Is": "is", "IsNot": "is not", "In": "in", "NotIn": "not in", "And": "and",
    "Or": "or", "USub": "-", "Not": "not", "Invert": "~",
}  # fmt: skip


def _sign(op: ast.AST) -> str:
    return _SIGNS[type(op).__name__]


def mutants(module: str) -> list[Mutant]:
    """All mutants of a module of the package, in the order of its lines."""
    return _Finder(module, (PACKAGE / module).read_text(encoding="utf-8")).run()


def sample(found: list[Mutant], n: int | None, seed: int) -> list[Mutant]:
    """Some of them, at random, in order."""
    if n is None or len(found) <= n:
        return found
    chosen = set(random.Random(seed).sample(range(len(found)), n))
    return [m for i, m in enumerate(found) if i in chosen]


# --- making a mistake in this process ---------------------------------------------------------------------------------


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes(constant)


def _function(holder: Any, owner: tuple[str, ...]) -> types.FunctionType:
    for name in owner:
        holder = vars(holder)[name]
    while not isinstance(holder, types.FunctionType):
        if isinstance(holder, property):
            holder = holder.fget
        else:
            holder = getattr(holder, "__wrapped__", None) or holder.__func__
    return holder


def apply(mutant: Mutant, source: str | None = None) -> Any:
    """Make the mistake in the imported module; a function that takes it back."""
    name = "minicf." + mutant.module.removesuffix(".py").replace("/", ".")
    module = importlib.import_module(name)
    path = PACKAGE / mutant.module
    changed = mutant.source(source if source is not None else path.read_text(encoding="utf-8"))
    code = compile(changed, str(path), "exec")
    for other in [m for key, m in sys.modules.items() if key.startswith("minicf") and m is not None]:
        for value in vars(other).values():  # kernels that were made of the code before
            if hasattr(value, "cache_clear"):
                value.cache_clear()
    if mutant.owner:
        function = _function(module, mutant.owner)
        old = function.__code__
        (new,) = (
            c for c in _codes(code) if c.co_qualname == ".".join(mutant.owner) and c.co_firstlineno == mutant.first
        )
        if new.co_freevars != old.co_freevars:
            raise AssertionError(f"{mutant} closes over {new.co_freevars}")
        function.__code__ = new

        def back() -> None:
            function.__code__ = old

        return back
    space: dict[str, Any] = {"__name__": name + ".mutated"}
    sys.modules[name + ".mutated"] = types.ModuleType(name + ".mutated")
    exec(code, space)
    changes = []
    plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | tuple | str) and k[:2] != "__"}
    for other in [m for key, m in sys.modules.items() if key.startswith(("minicf", "tests")) and m is not None]:
        for key, value in plain.items():
            same = key in vars(other) and type(vars(other)[key]) is type(value) and vars(other)[key] == value
            if same and space.get(key) != value:
                changes.append((other, key, value, space[key]))
    for other, key, _, new_value in changes:
        setattr(other, key, new_value)

    def put_back() -> None:
        for other, key, old_value, _ in changes:
            setattr(other, key, old_value)

    return put_back


# --- kernels in the interpreter ---------------------------------------------------------------------------------------


def interpret() -> None:
    """Let what comes after run the Numba backend's kernels in the interpreter."""
    import numba
    import numba.extending
    import numpy as np

    def load(array: Any, row: int, column: int) -> Any:
        return array[row, column : column + 64 // array.itemsize].copy()

    def store(array: Any, row: int, column: int, vector: Any) -> None:
        array[row, column : column + 64 // array.itemsize] = vector

    turn = threading.Lock()

    def add(counters: Any, index: int, amount: int) -> int:
        with turn:
            before = int(counters[index])
            counters[index] += amount
        return before

    stand_ins = {
        "exchange_mxcsr": lambda value: value,
        "count_lanes": lambda array: 64 // array.itemsize,
        "atomic_add": add,
        "yield_thread": lambda: time.sleep(0),
        "prefetch": lambda array, index: None,
        "load": load,
        "load_invariant": load,
        "store": store,
        "zero_vector": lambda array: np.zeros(64 // array.itemsize, array.dtype),
        "plus": lambda a, b: a + b,
        "horizontal_sum": lambda vector: vector.sum(),
        "inverse_root": lambda v, root, eps: 1 / (np.sqrt(v) * root + eps),
        "operation": None,  # arrays have their own
    }

    def njit(*functions: Any, **options: Any) -> Any:
        def plain(function: Any) -> Any:
            function.signatures = ["interpreted"]
            return function

        return plain(*functions) if functions else plain

    numba.njit = njit
    numba.extending.intrinsic = lambda function: stand_ins[function.__name__]
    numba.extending.overload = lambda *sign, **options: lambda function: function
    np.seterr(all="ignore")  # as compiled code does


# --- trying -----------------------------------------------------------------------------------------------------------


class _Campaign:
    """A plugin for pytest: runs the tests once as they are, and then for each mutant until one fails."""

    def __init__(
        self, chosen: list[Mutant], files: tuple[str, ...], compiled: bool, budget: float, match: list[str], report: Any
    ) -> None:
        self.chosen, self.files, self.compiled, self.report = chosen, files, compiled, report
        self.budget, self.match = budget, match

    @staticmethod
    def pytest_configure(config: Any) -> None:
        from hypothesis import Phase, settings

        # Without looking for the smallest counter-example.
        settings.register_profile("campaign", phases=(Phase.explicit, Phase.generate), database=None, derandomize=True)
        settings.load_profile("campaign")

    def wanted(self, item: Any) -> bool:
        name = item.nodeid
        if not any(part in name for part in self.match):
            return False
        if item.get_closest_marker("slow") or item.get_closest_marker("gpu") or any(part in name for part in LONG):
            return False
        if "test_torch_parity" in name and "test_float32" in name:
            return False
        about_numba = "numba" in name.partition("::")[2]
        return about_numba or item.path.stem in ("test_numba", "test_topn") if self.compiled else not about_numba

    def pytest_runtestloop(self, session: Any) -> bool:
        place = {name: k for k, name in enumerate(self.files)}
        items = [item for item in session.items if self.wanted(item)]
        random.Random(0).shuffle(items)
        items.sort(key=lambda item: place[item.path.stem])
        seconds = {}
        for k, item in enumerate(items):
            begin = time.process_time()
            if self.passes(item, items[k + 1] if k + 1 < len(items) else None):
                seconds[item] = time.process_time() - begin
            else:
                self.report(f"# left out, it fails without a mistake: {item.nodeid}")
        spent = sum(seconds.values())
        for item in sorted(seconds, key=lambda item: -seconds[item]):
            if spent > self.budget:
                spent -= seconds.pop(item)
        kept = list(seconds)
        again = self.attempt(None, kept, 1000.0)  # a test that remembers what was is none that can be tried twice
        for name in (again or "").splitlines():
            self.report(f"# left out, it fails when run again: {name}")
        kept = [item for item in kept if item.nodeid not in (again or "").splitlines()]
        self.report(f"# {len(kept)} of {len(items)} tests, {spent:.0f} s")
        for mutant in self.chosen:
            begin = time.time()
            how = self.attempt(mutant, kept, spent)
            self.report(json.dumps([dataclasses.asdict(mutant), how, round(time.time() - begin, 1)]))
        return True

    @staticmethod
    def passes(item: Any, following: Any) -> bool:
        from _pytest.runner import runtestprotocol

        item._initrequest()
        return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=following))

    def attempt(self, mutant: Mutant | None, items: list[Any], spent: float) -> str | None:
        """How the mutant was noticed; None if it was not. Without one, all tests that fail."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            seconds = int(10 + 2 * spent)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
            signal.alarm(20 * seconds)
            try:
                failed = []
                if mutant is not None:
                    apply(mutant)
                for k, item in enumerate(items):
                    if not self.passes(item, items[k + 1] if k + 1 < len(items) else None):
                        failed.append(item.nodeid)
                        if mutant is not None:
                            break
                os.write(write, ("\n".join(failed) or "none").encode())
            except BaseException as error:
                os.write(write, f"{type(error).__name__}: {error}".encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            how = pipe.read()
        _, status = os.waitpid(child, 0)
        return None if how == "none" else how or f"died of status {status}"


def try_in_forks(module: str, chosen: list[Mutant], budget: float, match: list[str], report: Any) -> None:
    """Try mutants of one module, in a process of its own."""
    out = os.dup(1)
    child = os.fork()
    if child == 0:
        os.environ["OMP_NUM_THREADS"] = "1"  # a fork has none of its parent's threads
        if module in COMPILED:
            interpret()
        import pytest

        files = TESTS[module]

        def line(text: str) -> None:
            os.write(out, f"{text}\n".encode())

        plugin = _Campaign(chosen, files, module in COMPILED, budget, match, line)
        arguments = [
            "-o",
            "addopts=",
            "-p",
            "no:terminal",
            "-p",
            "no:cacheprovider",
            *(str(ROOT / "tests" / f"{f}.py") for f in files),
        ]
        code = pytest.main(arguments, plugins=[plugin])
        os._exit(int(code))
    os.close(out)
    _, status = os.waitpid(child, 0)
    if status:
        report(f"# pytest ended with status {status}")


def try_compiled(chosen: list[Mutant], report: Any) -> None:
    """Try mutants of the compiled modules as users have them: compiled."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "__pycache__"))
        for k, mutant in enumerate(chosen):
            cache = Path(folder, f"cache{k}")
            source = (PACKAGE / mutant.module).read_text(encoding="utf-8")
            (tree / "minicf" / mutant.module).write_text(mutant.source(source), encoding="utf-8")
            begin = time.time()
            names = [f"tests/{name}.py" for name in TESTS[mutant.module][:2]]
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *names,
                 "-k", "not numpy and not said"],
                cwd=tree, capture_output=True, text=True, timeout=3000, check=False,
                env=os.environ | {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(cache),
                                  "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
            failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            how = None if done.returncode == 0 else (failed or [f"status {done.returncode}"])[0]
            report(json.dumps([dataclasses.asdict(mutant), how, round(time.time() - begin, 1)]))
            shutil.rmtree(cache, ignore_errors=True)
            (tree / "minicf" / mutant.module).write_text(source, encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", default=list(TESTS))
    parser.add_argument("--sample", type=int, help="of each module, at random; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="mutants of these functions, or lines")
    parser.add_argument("--match", nargs="+", default=[""], help="only tests that have one of these in their names")
    parser.add_argument("--budget", type=float, default=12.0, help="seconds of the tests; the longest are left out")
    parser.add_argument("--survivors", type=Path, help="those that survived in a file that --out wrote")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--list", action="store_true", help="only list them")
    parser.add_argument("--out", type=Path, help="append a line of JSON a mutant to this file")
    asked = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    survivors = 0
    rows = []
    for name in asked.files:
        module = next((m for m in TESTS if m.rpartition("/")[2] == name or m == name), None)
        if module is None:
            parser.error(f"no module {name}; there are {', '.join(TESTS)}")
        everything = mutants(module)
        if module in COMPILED and not asked.compiled:
            everything = [m for m in everything if m.owner[:1] not in [(name,) for name in NOT_INTERPRETED]]
        chosen = sample(everything, asked.sample, asked.seed)
        for key in sorted(set(EQUIVALENT) - {m.key for m in everything}):
            if key[0] == module:
                print("said to be equivalent, but not there any more:", *key, sep="\n    ")
        if asked.only:
            some = [m for m in everything if {*m.owner, str(m.line)} & set(asked.only)]
            chosen = sample(some, asked.sample, asked.seed)
        if asked.survivors:
            before = [json.loads(line) for line in asked.survivors.read_text().splitlines()]
            names = {text.split(":", 2)[2] for text, kind, *_ in before if kind == "survivors"}
            chosen = [m for m in everything if str(m).split(":", 2)[2] in names]
        if asked.list:
            print(*chosen, sep="\n")
            continue
        counts = {"caught": 0, "equivalent": 0, "survivors": 0}

        read, write = os.pipe()
        runner = os.fork()
        if runner == 0:
            os.close(read)
            os.dup2(write, 1)

            def report(text: str) -> None:
                os.write(1, f"{text}\n".encode())

            if asked.compiled:
                try_compiled(chosen, report)
            else:
                try_in_forks(module, chosen, asked.budget, asked.match, report)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as lines:
            for line in lines:
                if not line.startswith("["):
                    print(line, end="", flush=True)
                    continue
                given, how, seconds = json.loads(line)
                mutant = Mutant(**given | {"owner": tuple(given["owner"])})
                reason = EQUIVALENT.get(mutant.key)
                kind = "caught" if how is not None else "equivalent" if reason else "survivors"
                counts[kind] += 1
                if how is not None and reason:
                    print(f"said to be equivalent, but caught by {how}: {mutant}", flush=True)
                if kind == "survivors":
                    print(f"survives ({seconds} s): {mutant}", flush=True)
                if asked.out:
                    with asked.out.open("a") as file:
                        file.write(json.dumps([str(mutant), kind, how, seconds]) + "\n")
        os.waitpid(runner, 0)
        survivors += counts["survivors"]
        rows.append((module, len(everything), sum(counts.values()), *counts.values()))
        print(rows[-1], flush=True)
    for row in [("module", "mutants", "tried", "caught", "equivalent", "survivors"), *rows]:
        print("| " + " | ".join(map(str, row)) + " |")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
