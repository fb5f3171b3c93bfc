"""What is measured. A case is one task that several contenders do in turns; see `bench.measure.Case`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Case
from bench.rivals import Task
from bench.settings import MEAN
from minicf import SGD, Adam, DotBias, Net
from minicf.models import Model
from minicf.optim import Optimizer

TRAINING_ROWS = 80_000
"""Of the 80,004 in ml-latest-small: whole batches of 64 for everybody."""

SAME_WEIGHTS = 1e-3
"""Limit of the check: differences of weights over how far training moved them. Where a gradient is near 0, rounding
decides the sign of Adam's first step, and the float32 runs of all engines stand up to some 1e-4 from the float64
reference; a learning rate that is wrong by 1 % is 4e-3 … 1e-2 off."""

SAME_NETS = 1e-2
"""The same limit for nets, against the reference in float32: a unit whose input is all but 0 is on in one rounding and
off in another, and from there training takes another path. The deep net in float32, the reference's own and PyTorch's
alike, is 1 % off the one in float64 after 40 steps, and JAX half of that off both."""

KERAS_ADAM = 0.05
"""The same limit for Adam in Keras, which adds eps before the correction of the second moment and not after it: with
factors that start near 0, elements with gradients of the size of eps move differently, and 2 % come of that. (With l2
on every row all idle rows have such gradients: there Keras is 27 % off, another optimiser, and not in the case.)"""

SAME_ERROR = 0.1
"""Limit where the algorithms differ: validation errors within 10 %. On the synthetic table of the shape of MovieLens 1M
the engines come to 0.59 … 0.63 after 8 epochs, and biases alone would leave 0.70."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    threads: int = 1
    quick: bool = False
    libmf: str = ""
    local: str = ""
    """A local MovieLens folder, instead of the packaged set."""
    search: Path = Path()
    """The CSV of the search for the best settings of (e)."""

    @property
    def movielens(self) -> str:
        return f"movielens:{self.local}" if self.local else "movielens"


def named(*names: str) -> dict[str, str]:
    """Contenders whose name in the record is their key."""
    return {name: name for name in names}


OPTIMIZERS: dict[str, tuple[str, Optimizer, dict[str, Any]]] = {
    "sgd": ("SGD, momentum 0.9, l2", SGD(0.05, momentum=0.9, weight_decay=1e-4), {}),
    "sgd-falling": (
        "SGD, momentum 0.9, l2, rate changing every step",
        SGD(0.05, momentum=0.9, weight_decay=1e-4),
        {"falling": True},
    ),
    "adam": ("Adam", Adam(0.001), {}),
    "adamw": ("AdamW", Adam(0.001, weight_decay=0.01, decay="decoupled"), {}),
    "adam-l2": ("Adam, l2 on all tables", Adam(0.001, weight_decay=1e-4), {}),
    "adam-sparse": ("Adam, sparse", Adam(0.001, sparse=True), {}),
}

FLOORS: dict[str, dict[str, float]] = {
    "sgd-64": {"PyTorch": 60, "JAX": 8},
    "sgd-falling-64": {"PyTorch": 50},
    "adam-64": {"PyTorch": 25, "JAX": 10},
    "adamw-64": {"PyTorch": 25},
    "adam-l2-64": {"PyTorch": 4, "JAX": 2},
    "adam-sparse-64": {"PyTorch": 25},
    "net-64": {"PyTorch": 9},
    "rating-64-threads-1": {"LIBMF": 2},
    "rating-64-threads-2": {"LIBMF": 2},
    "top10": {"implicit": 3},
}
"""What minicf aims at: how many times its time each rival takes."""


def every(options: Options) -> Iterator[Case]:
    """All cases, the most telling first."""
    small = [*batches(options, (64,)), *nets(options, (64,))]
    yield from ceilings(options)
    yield from small
    yield from per_rating(options)
    yield from top(options)
    yield from cold(options)
    yield from reach(options)
    yield from growth(options)
    yield from batches(options, (1024, 8192))
    yield from nets(options, (1024,))


def chosen(options: Options, patterns: Iterable[str]) -> list[Case]:
    """Cases by name, by the beginning of a name, or by the letter of their group; all without patterns."""
    cases, patterns = list(every(options)), list(patterns)
    if not patterns:
        return cases
    for pattern in patterns:
        if not any(_matches(case, pattern) for case in cases):
            names = sorted({case.name for case in cases})
            raise SystemExit(f"no case {pattern!r}; there are the groups a … h, and {', '.join(names)}")
    return [case for case in cases if any(_matches(case, pattern) for pattern in patterns)]


def _matches(case: Case, pattern: str) -> bool:
    return pattern == case.group or case.name == pattern or case.name.startswith(f"{pattern}-")


def _batch_case(
    options: Options, name: str, title: str, group: str, model: Model, optimizer: Optimizer, batch: int,
    contenders: tuple[str, ...], **more: Any,
) -> Case:  # fmt: skip
    rows = TRAINING_ROWS if not options.local else 0
    if options.quick:
        rows = max(64 * 20, batch * 3)
        contenders = tuple(c for c in contenders if c != "PyTorch compiled")
    task = Task(
        options.movielens, rows, model, optimizer, batch, threads=options.threads,
        turn_seconds=0.05 if options.quick else 0.6 if batch == 64 else 0.3,
        options={"quick": options.quick, "truth": "float32" if isinstance(model, Net) else "float64"}, **more,
    )  # fmt: skip
    return Case(
        name, f"{title}, batch {batch:,}", group, task, named(*contenders), "weights",
        SAME_NETS if isinstance(model, Net) else SAME_WEIGHTS, unit=0,
        limits={"Keras": KERAS_ADAM} if isinstance(optimizer, Adam) else {}, plain={"PyTorch": "PyTorch plain"},
        turns=2 if options.quick else 7, floors=FLOORS.get(name, {}),
    )  # fmt: skip


def batches(options: Options, sizes: Iterable[int]) -> Iterator[Case]:
    """(a) Exact mini-batch training of DotBias, K = 50."""
    for batch in sizes:
        for key, (title, optimizer, more) in OPTIMIZERS.items():
            who: tuple[str, ...] = ("minicf", "minicf fit", "PyTorch", "JAX")
            if batch > 64:
                who = ("minicf", "PyTorch", "JAX")
            if key == "adam-sparse":
                who = ("minicf", "PyTorch")
            elif batch == 64 and key in ("sgd", "adam"):
                who = ("minicf", "minicf fit", "PyTorch", "PyTorch compiled", "JAX", "Keras")
            elif batch > 64 and key == "sgd-falling":
                continue
            yield _batch_case(options, f"{key}-{batch}", title, "a", DotBias(50), optimizer, batch, who, **more)


NETS = {
    "net": ("Net 50 + 50 → 70 → 1, dropouts, Adam", Net(50)),
    "deep": (
        "Deep net 50 + 50 → 100 → 100 → 50 → 1, dropouts, Adam",
        Net(50, hidden=(100, 100, 50), dropout=(0.0, 0.5, 0.6, 0.7)),
    ),
}


def nets(options: Options, sizes: Iterable[int]) -> Iterator[Case]:
    """(b) Nets."""
    for batch in sizes:
        for key, (title, model) in NETS.items():
            who: tuple[str, ...] = ("minicf", "PyTorch", "JAX")
            if (key, batch) == ("net", 64):
                who = ("minicf", "PyTorch", "PyTorch compiled", "JAX", "Keras")
            yield _batch_case(options, f"{key}-{batch}", title, "b", model, Adam(0.001), batch, who)


def per_rating(options: Options) -> Iterator[Case]:
    """(c) SGD a rating at a time with biases, on synthetic tables of the shapes of MovieLens 10M and 1M."""
    large = (500, 400, 20_000) if options.quick else (71_567, 10_681, 9_000_000)
    small = (500, 400, 20_000) if options.quick else (6_040, 3_706, 900_000)
    for k, shape, who in (
        (64, large, {"LIBMF": "LIBMF"}),
        (64, small, named("LIBMF", "Surprise", "cornac", "Spotlight")),
        (32, large, {"LIBMF": "LIBMF"}),
        (128, large, {"LIBMF": "LIBMF"}),
    ):
        users, items, rows = shape
        for threads in sorted({1, options.threads}) if k == 64 else [options.threads]:
            if threads > 1 and "Surprise" in who:
                who = named("cornac", "LIBMF")  # Surprise has one thread
            name = f"rating-{k}{'-1m' if shape is small and not options.quick else ''}-threads-{threads}"
            task = Task(
                f"synthetic:{users}:{items}:{rows}", rows,
                DotBias(k, init=("normal", 0.0, 0.1), global_mean=MEAN),
                SGD(0.01, weight_decay=0.1, decay="per_rating"), 1, threads=threads,
                options={"libmf": options.libmf, "iterations": 3 if options.quick else 12 * threads},
            )  # fmt: skip
            yield Case(
                name, f"per-rating SGD with biases, K = {k}, {rows:,} ratings, threads {threads}", "c", task,
                {"minicf": "minicf per rating"} | who, "error", SAME_ERROR, unit=rows,
                turns=2 if options.quick else 7, floors=FLOORS.get(name, {}),
            )  # fmt: skip


def top(options: Options) -> Iterator[Case]:
    """(d) The ten best items of every user, rated ones left out."""
    users, items, rows = (500, 400, 20_000) if options.quick else (71_567, 10_681, 9_000_000)
    task = Task(
        f"synthetic:{users}:{items}:{rows}", threads=options.threads,
        options={"k": 64} | ({"quick": True} if options.quick else {}),
    )  # fmt: skip
    yield Case(
        "top10", f"top-10 of {users:,} × {items:,}, rated ones excluded, K = 64", "d", task,
        {"minicf": "minicf top", "implicit": "implicit", "PyTorch": "PyTorch top", "LightFM": "LightFM"},
        "scores", 1e-4, unit=users, unit_name="run",
        turns=2 if options.quick else 7, floors=FLOORS["top10"],
    )  # fmt: skip


def cold(options: Options) -> Iterator[Case]:
    """(f) From the start of a process to its end."""
    engines = ("minicf", "PyTorch", "JAX", "Keras")

    def case(name: str, title: str, what: str, rows: dict[str, dict[str, Any]], **more: Any) -> Case:
        task = Task(options.movielens, threads=options.threads, options={"quick": options.quick})
        own = {who: {"what": what, **given} for who, given in rows.items()}
        who = dict.fromkeys(rows, "command")
        turns = 1 if options.quick else 7 if what == "import" else 3
        return Case(name, title, "f", task, who, unit_name="run", turns=turns, own=own, **more)

    yield case("cold-import", "import", "import", {e: {"engine": e} for e in engines})
    yield case(
        "cold-epoch", "import, MovieLens, first epoch of DotBias with Adam, batch 64", "epoch",
        {e: {"engine": e} for e in engines} | {"minicf, empty cache": {"engine": "minicf", "cold": True}},
        check="error", limit=0.2,
    )  # fmt: skip
    yield case(
        "cold-bias", "examples/bias.py", "bias",
        {"minicf": {"engine": "minicf"}, "minicf, empty cache": {"engine": "minicf", "cold": True}},
        check="error", limit=0.0,
    )  # fmt: skip


TARGETS = (0.80, 0.77, 0.755)
REACH = {
    "minicf": "minicf reach", "PyTorch": "PyTorch reach", "JAX": "JAX reach",
    "Surprise": "Surprise", "cornac": "cornac", "LIBMF": "LIBMF",
}  # fmt: skip
MARGIN = 0.002
"""A setting counts as reaching a target when the search saw it this much below: another order of the ratings moves the
error by about a thousandth."""


def reach(options: Options) -> Iterator[Case]:
    """(e) Seconds of a training, warm, to a validation error on ml-latest-small, at each engine's best settings."""
    from bench.search import best

    for target in TARGETS:
        found = best(options.search, target - MARGIN)
        if not found:
            continue
        own: dict[str, dict[str, Any]] = {who: {"setting": setting.plain()} for who, setting in found.items()}
        for name in own:
            own[name]["libmf"] = options.libmf
        task = Task(options.movielens, threads=options.threads)
        who = {name: REACH[name] for name in own}
        yield Case(
            f"reach-{target:g}", f"validation error {target:g} on ml-latest-small", "e", task, who, "target", target,
            unit_name="training", turns=2 if options.quick else 7, own=own,
        )  # fmt: skip


def ceilings(options: Options) -> Iterator[Case]:
    """(h) What the machine can do: bytes, operations, roots and matrix products a second."""

    def case(name: str, title: str, threads: int, **given: Any) -> Case:
        task = Task(options.movielens, threads=threads, options=given)
        turns = 2 if options.quick else 7
        return Case(name, title, "h", task, {"machine": "ceiling"}, unit=1e9, unit_name="1e9", turns=turns)

    for size in (1 << 20, 5 << 20, 25 << 20, 200 << 20):
        title = f"rows of 512 bytes read and written at random in {size >> 20} MiB, bytes"
        yield case(f"ceiling-rows-{size >> 20}", title, 1, what="rows", bytes=size)
    yield case("ceiling-copy", "copy of 256 MiB, bytes read and written", 1, what="copy")
    yield case("ceiling-multiply-add", "float32 multiply-adds in cache, operations", 1, what="multiply-add")
    yield case("ceiling-roots", "float32 sqrt(v) + eps, elements", 1, what="roots")
    for threads in sorted({1, options.threads}):
        yield case(
            f"ceiling-product-{threads}", f"matrix products, operations, threads {threads}", threads, what="gemm"
        )


def growth(options: Options) -> Iterator[Case]:
    """(g) Time per rating as one size grows and the others stay: ratings, factors, batch, threads, items."""
    quick = options.quick
    sgd, adam = SGD(0.01, momentum=0.9, weight_decay=1e-4), Adam(0.001)
    one_by_one = SGD(0.01, weight_decay=0.05, decay="per_rating")
    # Tables about as large as the second cache of a core: 6,000 rows of 48 numbers are 1.2 MB an array.
    users, items, n, k, batch = (300, 200, 5_000, 16, 64) if quick else (4_000, 2_000, 1_000_000, 32, 64)

    def case(curve: str, axis: str, value: float, optimizer: Optimizer, **changed: Any) -> Case:
        at: dict[str, Any] = {"users": users, "items": items, "n": n, "k": k, "batch": batch, "threads": 1} | changed
        who = named(*changed.get("who", ["minicf"]))
        table = f"synthetic:{at['users']}:{at['items']}:{at['n']}"
        if optimizer is one_by_one:
            at["batch"], who = 1, {"minicf": "minicf per rating"}
        task = Task(
            table, at["n"], DotBias(at["k"], global_mean=MEAN), optimizer, at["batch"],
            threads=at["threads"], turn_seconds=0.05 if quick else 0.15,
        )  # fmt: skip
        name = f"growth-{axis}-{curve}-{value:g}"
        title = f"{curve}, {axis} {value:,.0f}, threads {at['threads']}"
        return Case(
            name, title, "g", task, who, unit=at["n"], turns=2 if quick else 7,
            x={"name": f"{axis}: {curve}", "value": value},
        )  # fmt: skip

    curves = (("SGD", sgd), ("Adam", adam), ("per rating", one_by_one))
    # 21,000 rows of 64 bytes, 1.3 MB an array, with 30 million pairs to rate in a third of all; and 22 MB an array.
    small: dict[str, Any] = {} if quick else {"users": 14_500, "items": 6_500, "k": 8}
    large: dict[str, Any] = {} if quick else {"users": 60_000, "items": 10_000, "k": 64}
    for curve, optimizer in curves:
        for size in (1_000, 5_000) if quick else (100_000, 1_000_000, 10_000_000, 30_000_000):
            yield case(curve, "ratings", size, optimizer, n=size, **small)
            if size <= 10_000_000 or optimizer is one_by_one:
                yield case(curve, "ratings-large", size, optimizer, n=size, **large)
        for factors in (8, 16) if quick else (16, 32, 64, 128, 256):
            yield case(curve, "factors", factors, optimizer, k=factors)
        if optimizer is not one_by_one:
            for b in (1, 64) if quick else (1, 8, 64, 512, 4_096, 65_536):
                yield case(curve, "batch", b, optimizer, batch=b)
    for threads in sorted({1, options.threads}):
        yield case("per rating", "threads", threads, one_by_one, threads=threads)
    for curve, optimizer in curves[:2]:
        for many in (200, 400) if quick else (1_000, 10_000, 100_000, 1_000_000):
            rated = 20_000 if quick else max(200_000, many)
            yield case(curve, "items", many, optimizer, who=("minicf", "PyTorch"), users=1_000, items=many, n=rated)
