"""Mistakes put into the kernels one at a time: the tests of the kernels must see each of them.

``MINICF_EMULATE=race python -m tests.cuda.mutants [NAME …]`` prints how each was caught.
"""

# ruff: noqa: E501 - a table of source lines
from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from typing import Any

from minicf.backends.cuda import device


@dataclass(frozen=True)
class Mutant:
    """`old`, which stands in the source exactly `times` times, becomes `new` in place number `which` (or all)."""

    old: str
    new: str
    which: int | None = 0
    seen: bool = True
    """False: only weak memory order could show it, which a CPU has not."""

    def apply(self, source: str) -> str:
        parts = source.split(self.old)
        if len(parts) < 2 or (self.which is not None and self.which + 1 >= len(parts)):
            raise ValueError(f"the kernels have no {self.old!r} number {self.which}")
        if self.which is None:
            return self.new.join(parts)
        i = self.which + 1
        return self.old.join(parts[:i]) + self.new + self.old.join(parts[i:])


MUTANTS = {
    # barriers
    "arrive-without-block": Mutant("GRID_ARRIVED();\n    __syncthreads();", "GRID_ARRIVED();"),
    "wait-without-block": Mutant("    }\n    __syncthreads();\n    GRID_PASSED();", "    }\n    GRID_PASSED();"),
    "barrier-too-low": Mutant("grid_wait(barrier, passed += blocks);", "grid_wait(barrier, (passed += blocks) - 1);", None),
    "barrier-counts-plainly": Mutant("atomicAdd(barrier, 1u);", "*barrier = *barrier + 1;"),
    "rows-unwaited": Mutant("resident_stamps[i] = 0;\n        __syncthreads();", "resident_stamps[i] = 0;"),
    "sweep-unwaited": Mutant("                __syncthreads();\n                for (int i = threadIdx.x; i < own;", "                for (int i = threadIdx.x; i < own;"),
    "sum-unwaited": Mutant("shared[threadIdx.x] = x;\n    __syncthreads();", "shared[threadIdx.x] = x;"),
    "layer-unwaited": Mutant("            __syncthreads();\n            real* swap = now;", "            real* swap = now;"),
    "layer-unwaited-back": Mutant("                }\n            }\n            __syncthreads();\n        }\n    }\n}", "                }\n            }\n        }\n    }\n}"),
    "group-unwaited": Mutant("                    d_pairs[x] = 0;\n                }\n                __syncthreads();", "                    d_pairs[x] = 0;\n                }"),
    "stamp-unwaited": Mutant("                __syncwarp();  // every lane has read the stamp\n", ""),
    "no-fence": Mutant("__threadfence();", "", None, seen=False),
    # warps
    "half-a-warp": Mutant("x += __shfl_xor_sync(ALL_LANES, x, flip)", "x += __shfl_xor_sync(0x0000ffffu, x, flip)"),
    "sum-of-half-a-warp": Mutant("for (int flip = 16; flip; flip >>= 1)", "for (int flip = 8; flip; flip >>= 1)"),
    "ragged-warp": Mutant("int count = min(32, to - e0);", "int count = has ? min(32, to - e0) : 0;"),
    # duplicates
    "lost-duplicate": Mutant("for (int j = 0; j < count; ++j) {", "for (int j = 0; j < min(count, 1); ++j) {"),
    "lost-duplicate-of-items": Mutant("for (int j = 0; j < count; ++j) {", "for (int j = 0; j < min(count, 1); ++j) {", 2),
    "lost-last": Mutant("to = work.begin[segment + 1];", "to = max(from + 1, work.begin[segment + 1] - 1);"),
    "lost-beyond-a-warp": Mutant("e0 < to; e0 += 32", "e0 < min(to, from + 32); e0 += 32", None),
    "share-forgotten": Mutant("(real)(to - from) / size", "(real)1 / size"),
    # widths
    "bias-as-factor": Mutant("first_column(c, lane) + i < a.factors ? x * y : x + y", "first_column(c, lane) + i <= a.factors ? x * y : x + y"),
    "last-columns-unread": Mutant("        if (column < stride)\n            out[c]", "        if (column < stride - 4)\n            out[c]"),
    "last-columns-unwritten": Mutant("        if (column < stride) put(to + column, from[c]);", "        if (column < stride - 4) put(to + column, from[c]);"),
    "columns-beyond": Mutant("        if (column < stride) put(to + column, from[c]);", "        if (column <= stride) put(to + column, from[c]);"),
    "one-chunk": Mutant("return (chunk * 32 + lane) * 4", "return lane * 4"),
    # owners
    "wrong-owner": Mutant("(int64)(row % p.parts) * rows_per_part(p)", "(int64)((row + 1) % p.parts) * rows_per_part(p)"),
    "wrong-slot": Mutant("(is_item ? 0 : p.n) + (int64)place[e]", "(is_item ? p.n : 0) + (int64)place[e]"),
    "own-one-less": Mutant("(rows - block + blocks - 1) / blocks : 0", "(rows - block - 1) / blocks : 0"),
    "every-block-all-weights": Mutant("for (int x = block * blockDim.x + threadIdx.x; x < nets.n_dense; x += blocks * blockDim.x)", "for (int x = threadIdx.x; x < nets.n_dense; x += blockDim.x)"),
    # stale reads
    "old-exchange": Mutant("real* published = exchange + (step & 1) * half", "real* published = exchange + (~step & 1) * half"),
    "one-exchange": Mutant("(step & 1) * half", "0", None),
    "not-published-again": Mutant("if (next >= 0) store_vec", "if (next > 0) store_vec"),
    "published-before-moved": Mutant("slot_in(p, keys, ordinal, step + 1, target)", "slot_in(p, keys, ordinal, step + 2, target)"),
    "all-fresh": Mutant("slot_in(p, keys, ordinal, step - 1, target) < 0", "1"),
    "not-caught-up": Mutant("if (!SPARSE && stamp < step) {", "if (!SPARSE && stamp < step - 1) {"),
    "stamp-forgotten": Mutant("if (!SPARSE && lane == 0) stamp_of(row) = step + 1;", ""),
    "users-moved-first": Mutant("store_vec(before + (int64)(segment - part[0]) * a.stride, r.w, a.stride, lane);\n        clear(g);", "clear(g);\n        store_vec(before + (int64)(segment - part[0] + 1) * a.stride, r.w, a.stride, lane);"),
    "items-behind": Mutant("if (stamp >= step) continue;", "if (stamp >= step - 1) continue;"),
    "old-inputs": Mutant("inputs_of(nets, h, l, batch, first + r)[i] > 0", "now[i] > 0"),
    # catching up
    "products-swapped": Mutant("then(all[(int64)level * steps + last], all[(int64)level * steps + from])", "then(all[(int64)level * steps + from], all[(int64)level * steps + last])"),
    "level-off": Mutant("int level = 31 - __clz(from ^ last);", "int level = 30 - __clz(from ^ last);"),
    "one-step-less": Mutant("int last = to - 1;", "int last = max(from, to - 2);"),
    "stops-too-soon": Mutant("bool mine = every || !a.fading;", "bool mine = false; if (t > from) break;"),
    "moments-not-faded": Mutant("row.v[c].x[i] = times(row.v[c].x[i], second);", ""),
    "sum-not-faded": Mutant("row.m[c].x[i] = times(row.m[c].x[i], fade.first);", ""),
    "sum-of-another-range": Mutant("(steps + 1)))[to - t];", "(steps + 1)))[to - t - 1];"),
    "sum-to-the-end": Mutant("m0 = begin.m[0] - factor * end.m[0];", "m0 = begin.m[0];"),
    "moments-one-step-late": Mutant("m = by[j] * (x[j] + m);", "m = by[j] * m + x[j];"),
    "summed-too-soon": Mutant("exact = sixth < a.expand * e2 * e2 * e2;", "exact = 1;"),
    "moments-unwaited": Mutant("        __syncthreads();\n        const bool usable", "        const bool usable"),
    "sum-not-shrunk": Mutant("w + (s.less * w - row.m", "w + (-row.m"),
    "series-cut-off": Mutant("const double e = (begin.m[1] - factor * end.m[1]) / m0, u = 1 / e;", "const double e = 1.01 * (begin.m[1] - factor * end.m[1]) / m0, u = 1 / e;"),
    # the order
    "order-of-the-next": Mutant("mix(stream + ((uint64)i + 1) * GOLDEN)", "mix(stream + (uint64)i * GOLDEN)"),
    "order-without-position": Mutant(">> bits << bits | (uint64)i;", "| (uint64)i;"),
    "order-of-a-bit-less": Mutant("order[i] = (int)(keys[i] & (((uint64)1 << bits) - 1));", "order[i] = (int)(keys[i] & (((uint64)1 << (bits - 1)) - 1));"),
    # the best items
    "top-ties-turned": Mutant("score[x + lane] >= new_score", "score[x + lane] > new_score"),
    "top-worse-enters": Mutant("if (!(new_score > last)) continue;", ""),
    "top-item-of-the-first": Mutant("which[keep] = i0 + 32 * k + from;", "which[keep] = i0 + from;"),
    "top-last-seen-again": Mutant("x < begin[u + 1]; x += 32", "x < begin[u + 1] - 1; x += 32"),
    "top-unwaited": Mutant("mine[seen[x]] = worst;\n        __syncwarp();", "mine[seen[x]] = worst;"),
    "top-moved-unwaited": Mutant("int moved_which = moves ? which[at] : 0;\n                        __syncwarp();", "int moved_which = moves ? which[at] : 0;"),
    # rating by rating
    "tiles-unwaited": Mutant("grid_wait(barrier, (unsigned)(round + 1) * gridDim.x);", ""),
    "tiles-of-one-round": Mutant("starts + (int64)round * (workers + 1) + tile", "starts + tile"),
    "tile-ends-late": Mutant("keys[middle] >> bits < (uint64)tile", "keys[middle] >> bits <= (uint64)tile"),
    "old-user": Mutant("add_gradient(a, g, old_p, loss.slope, lane);", "add_gradient(a, g, r.w, loss.slope, lane);"),
    # sums and sizes
    "last-batch-full": Mutant("const int size = min(batch, n - step * batch);", "const int size = batch;", None),
    "plan-bound": Mutant("if (keys[middle] < key)", "if (keys[middle] <= key)"),
    "gradient-less-one": Mutant("for (int j = 0; j < size; ++j) g += i[", "for (int j = 0; j + 1 < size; ++j) g += i["),
    "mask-of-another-layer": Mutant("dropout(h, l + 1, t, (first + r) * units + m)", "dropout(h, l, t, (first + r) * units + m)"),
    "mask-of-another-step": Mutant("at, nets.t[0] + step + 1,", "at, nets.t[0] + step,"),
}  # fmt: skip


def suite() -> None:
    """What a kernel has to get right; raises where it does not."""
    import numpy as np

    from minicf import rng, scoring
    from minicf.backends import numpy as plain
    from minicf.backends.cuda import top
    from minicf.backends.cuda.per_rating import PerRating
    from minicf.data import Bags
    from minicf.models import DotBias, Hybrid, Net
    from minicf.optim import SGD, Adam
    from tests import cases
    from tests.cuda import standin

    few = cases.Problem(n_users=7, n_items=9, n_ratings=41, batch=6, epochs=2)
    long = cases.Problem(n_users=9, n_items=9, n_ratings=60, batch=2, epochs=2)
    many = cases.Problem(n_users=4, n_items=4, n_ratings=100, batch=70, epochs=1)
    hybrid = Hybrid({"net": (Net(7, hidden=(9, 6), dropout=(0.2, 0.0, 0.4)), 0.2), "dot": (DotBias(7), 1.0)})
    momentum = SGD(0.01, momentum=0.9, weight_decay=0.02)
    per_rating = SGD(0.01, weight_decay=0.1, decay="per_rating")
    runs = [
        (DotBias(7, rating_range=(0.5, 5.0)), momentum, few),
        (DotBias(7), Adam(0.01, betas=(0.3, 0.999), decay="decoupled", weight_decay=0.01), few),
        (DotBias(50), Adam(0.001, weight_decay=0.01), few),
        (DotBias(65), per_rating, few),
        (DotBias(3), momentum, many),
        (hybrid, Adam(0.01), few),
        (DotBias(2), Adam(0.01, betas=(0.0, 0.9)), few),
        # With such a beta the expansion takes over from the replay after 20 steps.
        (DotBias(2), Adam(0.05, betas=(0.05, 0.999), eps=0.1, decay="decoupled", weight_decay=0.5), long),
    ]
    wide = [(DotBias(130), SGD(0.001), few)]
    for path in ("resident", "touched", "large"):
        with standin.emulated(path, processors=3, threads=64) as module:
            for model, optimizer, problem in runs + wide * (path == "resident"):
                expected = cases.run(plain, model, optimizer, problem)
                result = cases.run(module, model, optimizer, problem)
                worst = max(cases.distances(result, expected).values())
                if not worst < cases.TOLERANCE:
                    raise AssertionError(f"{path}: {model} with {optimizer} is {worst:.2g} away from the reference")
    with standin.emulated(processors=3, threads=64) as module:
        program = module.compile(DotBias(2), momentum, few.weights(DotBias(2)))
        if not np.array_equal(program.order(3, 1, 300).get(), rng.permutation(3, 1, 300)):
            raise AssertionError("another order than the host's")
        import cupy

        user, item, rating = many.ratings()
        weights, order = many.weights(DotBias(3)), many.orders()[0]
        program = PerRating(DotBias(3), per_rating, weights, "float64", 3)
        tiled = program.tiled(cupy.asarray(user), cupy.asarray(item), cupy.asarray(order))[0].get()
        errors = program.train_cut(user, item, rating, order, 0.01).loss
        expected = plain.compile(DotBias(3), per_rating, weights, 0, "float64")
        reference = cases.train(expected, user, item, rating, tiled, 1, 0.01).loss
        if not np.allclose(errors, reference, rtol=1e-9) or not np.allclose(
            program.weights()["item_factors"], expected.weights()["item_factors"], rtol=1e-9
        ):
            raise AssertionError("the tiles are not the ratings one after the other")
        random = np.random.RandomState(0)
        scores = random.randint(0, 40, (5, 200)).astype(np.float32)
        skip = Bags.of(*np.nonzero(random.uniform(size=scores.shape) < 0.2), 5)
        lists = []
        for select, given in ((scoring.select, scores.copy()), (top.select, cupy.asarray(scores))):
            index, best = np.empty((5, 40), np.int32), np.empty((5, 40), np.float32)
            select(given, skip, 40, index, best)
            lists.append((index, best))
        if not all(np.array_equal(a, b) for a, b in zip(*lists, strict=True)):
            raise AssertionError("other lists than the reference's")


def attempt(name: str, report: int) -> None:
    """In a child process: run the suite on a mutant and write how it was caught, if it was."""
    source = device.source()
    text = source if name == "none" else MUTANTS[name].apply(source)
    module: Any = device
    module.source = lambda: text
    try:
        suite()
    except Exception as error:
        words = (str(error) or "without a word").splitlines()[0][:300]
        os.write(report, f"{type(error).__name__}: {words}".encode())
        os._exit(1)
    os._exit(0)


def main(names: list[str]) -> int:
    """Try mutants, two at a time, each in a process of its own; print name and how as a line of JSON each."""
    import tests.cases  # noqa: F401 - children share what is imported here

    waiting, running = list(names or MUTANTS), {}
    while waiting or running:
        while waiting and len(running) < 2:
            name = waiting.pop(0)
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                signal.setitimer(signal.ITIMER_PROF, 120)  # of work: a busy machine is no failure
                attempt(name, write)
            os.close(write)
            running[child] = name, read
        child, status = os.wait()
        name, read = running.pop(child)
        with os.fdopen(read) as pipe:
            how = pipe.read()
        print(json.dumps([name, (how or f"died of status {status}") if status else None]), flush=True)
    return 0


def try_all(names: list[str]) -> dict[str, str | None]:
    """How each mutant was caught; None for those that were not."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "MINICF_EMULATE": "race", "MINICF_EMULATE_SEED": "7", "MINICF_EMULATE_CACHE": cache,
            "MINICF_EMULATE_OPTIMISE": "-O0",
        }  # fmt: skip
        root = Path(__file__).parents[2]
        done = run(
            [sys.executable, "-m", "tests.cuda.mutants", *names], env=environment | {"PYTHONPATH": str(root)},
            capture_output=True, text=True, cwd=root, check=True,
        )  # fmt: skip
    return dict(json.loads(line) for line in done.stdout.splitlines())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
