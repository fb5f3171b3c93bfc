"""How a case is measured: each contender in a process of its own, checked equal first, then turns A B C A B C …

A process of its own gives every engine its own pools of threads, its own peak memory, and a way to be absent: the
import error of a rival that is not installed is its record. Between its turns a process waits and computes nothing.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import math
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bench import data
from bench.rivals import CONTENDERS, SEED, Absent, Task

TURNS = 7
"""At least; contenders whose turn lasts longer than `LONG` seconds take part in the first `FEW` rounds alone."""
LONG, FEW = 2.5, 3

PLAIN = ", plain loop"
"""Ends the names of the seats of plain loops."""

PATIENCE = 400.0
"""Seconds that one answer of a contender may take before it is given up."""

PAUSE = 0.03
"""Seconds before each turn: threads of the turn before may still be spinning, waiting for more work."""


@dataclass(frozen=True)
class Case:
    """What is measured: one task, and who does it.

    Parameters
    ----------
    name, title, group : str
        For ``--only``, for the tables, and the letter of the group of cases.
    task : Task
    contenders : dict
        From the name in the record to the key in `CONTENDERS`; the first is minicf's, and ratios are to that one.
    check : "weights", "error", "scores", "target" or "none"
        How a contender is compared: weights after the same steps with the reference's, as the root mean square of the
        differences over that of how far training moved them; validation errors, relative to the first contender's;
        scores, relative to their spread; the validation error itself; or nothing.
    limit : float
        A contender farther off than this is refused: it does something else, and its time is not shown.
    unit : float
        Ratings (or users, or runs) that the reported seconds are for; 0 for an epoch of whole batches.
    floors : dict of float by contender
        The ratio that minicf aims at, for the report.
    plain : dict
        From a rival's name to the key of the plainest well-written loop in its engine. It is checked and takes turns
        as the rival does, and the faster of the two is what the rival's record holds; see `settled`.
    x : dict
        Where the case stands on a curve: axis and value.
    """

    name: str
    title: str
    group: str
    task: Task
    contenders: Mapping[str, str]
    check: str = "none"
    limit: float = math.inf
    unit: float = 1.0
    unit_name: str = "epoch"
    turns: int = TURNS
    floors: Mapping[str, float] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of single contenders' tasks, by name."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Other limits for single contenders, for a reason that their records' note gives."""
    plain: Mapping[str, str] = field(default_factory=dict)
    x: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Record:
    """A row of the CSV: one contender in one case. Seconds are for `unit`; what was not measured is empty."""

    case: str = ""
    group: str = ""
    title: str = ""
    provider: str = ""
    status: str = "ok"
    """ok; absent: …; refused: …; failed: …"""
    data: str = ""
    n_users: int = 0
    n_items: int = 0
    n_ratings: int = 0
    model: str = ""
    optimizer: str = ""
    n_factors: int = 0
    batch: int = 0
    dtype: str = "float32"
    threads: int = 0
    unit: str = ""
    turns: int = 0
    share: float = math.nan
    """Part of the unit that a turn worked through; what is below 1 was scaled up."""
    median_s: float = math.nan
    q1_s: float = math.nan
    q3_s: float = math.nan
    ratings_per_s: float = math.nan
    times_minicf: float = math.nan
    """Median over rounds of this contender's seconds over those of the case's first contender in the same round."""
    aim: float = math.nan
    prepare_s: float = math.nan
    compile_s: float = math.nan
    first_s: float = math.nan
    memory_mib: float = math.nan
    """Peak of the contender's process."""
    memory_own_mib: float = math.nan
    """That, less what the process held before it prepared: interpreter, libraries, no ratings yet."""
    check: str = ""
    check_error: float = math.nan
    check_value: float = math.nan
    """The validation error, where that is what was compared."""
    x_name: str = ""
    x: float = math.nan
    note: str = ""
    load: float = math.nan
    """Cores that other programs kept busy when the case began: above about 0.2 its times say little."""
    device: str = ""
    versions: str = ""
    commit: str = ""
    date: str = ""


# --- the contender's side --------------------------------------------------------------------------------------------


_RSS_UNIT = 1 << 20 if sys.platform == "darwin" else 1 << 10
"""A Mac counts bytes, Linux kibibytes."""


def memory(name: str) -> float:
    """Of this process in MiB: VmRSS now, VmHWM at most so far."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_UNIT  # elsewhere than on Linux: the peak alone


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def _serve(connection: Any, where: str, task: Task, path: Path) -> None:
    """What a contender's process does: answer until told to stop."""
    try:
        with contextlib.suppress(AttributeError):  # Linux alone
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.threads])
        module, _, name = where.partition(":")
        kind = getattr(importlib.import_module(module), name)
        base = memory("VmRSS")
        it = kind(task, data.load(path))
        connection.send(("ok", {package: metadata.version(package) for package in it.packages}))
        while (received := connection.recv()) != "stop":
            request, *arguments = received
            if request == "facts":
                peak = memory("VmHWM")
                own = peak - base
                if it.program_of_its_own:
                    own = peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / _RSS_UNIT
                answer: Any = {
                    "prepare_s": it.prepare_s, "compile_s": it.compile_s, "first_s": it.first_s, "note": it.note,
                    "memory_mib": peak, "memory_own_mib": own,
                }  # fmt: skip
            else:
                answer = getattr(it, request)(*arguments)
            connection.send(("ok", answer))
    except Absent as reason:
        connection.send(("absent", str(reason)))
    except (ImportError, NotImplementedError) as error:
        connection.send(("absent", f"{type(error).__name__}: {error}"))
    except EOFError:
        pass
    except BaseException as error:  # whatever it is, the others go on
        connection.send(("failed", f"{type(error).__name__}: {error}"))


# --- the referee's side ----------------------------------------------------------------------------------------------


class Out(Exception):
    """A contender is out; the message is its status."""


class Seat:
    """A contender's process as the referee sees it."""

    def __init__(self, contender: str, task: Task, path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.contender, self.task = contender, task
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, CONTENDERS[contender], task, path), daemon=False)
        with _environment(task.threads):
            self.process.start()
        theirs.close()

    def begin(self) -> dict[str, str]:
        """Wait until the process has its libraries, then let it prepare; the versions of its libraries.

        Processes that were started together load their libraries together, and prepare one after another.
        """
        versions = self._answer()
        self.ask("prepare")
        return versions

    def ask(self, request: str, *arguments: Any) -> Any:
        self.connection.send((request, *arguments))
        return self._answer()

    def _answer(self) -> Any:
        if not self.connection.poll(PATIENCE):
            raise Out(f"failed: no answer within {PATIENCE:.0f} s")
        try:
            status, answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise Out("failed: its process died") from None
        if status != "ok":
            raise Out(f"{status}: {_one_line(answer)}")
        return answer

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send("stop")
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()
        self.process.close()


@contextlib.contextmanager
def _environment(threads: int) -> Any:
    """The variables by which engines are told their number of threads, for the process that starts now."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM")
    ours = {f"{name}_NUM_THREADS": str(threads) for name in names} | {"BENCH_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())[:300]


def difference(check: str, got: Mapping[str, Any], true: Mapping[str, Any], start: Mapping[str, Any]) -> float:
    """How far a contender's result is from what it should be; see `Case.check`."""
    if check == "target":
        return float(got["mse"])
    if check == "error":
        return abs(got["mse"] / true["mse"] - 1.0)
    if check == "scores":
        a, b = (np.asarray(x["scores"], np.float64) for x in (got, true))
        return float(np.abs(a - b).max() / b.std()) if a.shape == b.shape else math.inf
    if set(got) != set(true):
        return math.inf
    off = moved = 0.0
    for name, truth in true.items():
        if np.shape(got[name]) != np.shape(truth):
            return math.inf
        off += float(np.square(np.asarray(got[name], np.float64) - truth).sum())
        moved += float(np.square(truth - start[name]).sum())
    return math.sqrt(off / moved) if math.isfinite(off) else math.inf


def settled(contender: Record, plain: Record | None) -> Record:
    """The faster of a rival's loop and the plainest one in its engine; the note names it.

    A rival that is slower than what its users would write in 20 lines makes minicf look better than it is. Whoever has
    the lower median is taken; the contender is refused when even its lower quartile is above the other's upper one.
    """
    if plain is None:
        return contender
    if plain.status != "ok":
        return replace(contender, note=_joined(contender.note, f"no plain loop beside it: {plain.status}"))
    if contender.status != "ok":
        return replace(plain, note=_joined("the plain loop", plain.note, f"the chosen one {contender.status}"))
    times = contender.median_s / plain.median_s
    if times <= 1.0:
        return replace(contender, note=_joined(contender.note, f"a plain loop takes {1.0 / times:.2f} of its time"))
    refused = "refused, " if contender.q1_s > plain.q3_s else ""
    slower = f"the chosen one {refused}{times:.2f} of its time: {contender.note}"
    return replace(plain, note=_joined("the plain loop", plain.note, slower))


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


class Bench:
    """Measures cases and writes their records.

    Parameters
    ----------
    out : path
        The CSV; rows of cases that are measured anew take the place of their old ones.
    folder : path
        For the tables of ratings.
    say : callable
        Told a line at a time what goes on.
    """

    def __init__(self, out: Path, folder: Path, say: Callable[[str], None] = print) -> None:
        self.out, self.folder, self.say = out, folder, say
        self.device, self.commit = device(), commit()

    def measure(self, case: Case) -> list[Record]:
        """One case; its records are also written."""
        begin = time.perf_counter()
        load = busy()
        if load > 0.3:
            self.say(f"the machine is busy (load {load:.1f}): engines with several threads suffer most from it")
        path = data.stored(case.task.table, self.folder)
        table = data.load(path)
        contenders = dict(case.contenders) | {f"{name}{PLAIN}": plain for name, plain in case.plain.items()}
        records = {name: self._blank(case, name.removesuffix(PLAIN), table) for name in contenders}
        for record in records.values():
            record.load = load
        if not case.unit:
            rows = case.task.rows or len(table.user)
            case = replace(case, unit=rows // case.task.batch * case.task.batch)
        seats: dict[str, Seat] = {}
        try:
            for name, contender in contenders.items():
                seats[name] = Seat(contender, self._task(case, name), path)
            for name in list(seats):
                with self._may_drop_out(name, records, seats):
                    versions = {"python": platform.python_version(), "minicf": metadata.version("minicf")}
                    records[name].versions = json.dumps(versions | seats[name].begin())
            if case.check != "none" and seats:
                self._check(case, seats, records, path)
            for name in list(seats):
                with self._may_drop_out(name, records, seats):
                    seats[name].ask("warm")
            self._turns(case, seats, records)
            for name in list(seats):
                with self._may_drop_out(name, records, seats):
                    for key, value in seats[name].ask("facts").items():
                        setattr(records[name], key, value)
        finally:
            for seat in seats.values():
                seat.close()
        found = [settled(records[name], records.get(f"{name}{PLAIN}")) for name in case.contenders]
        write(self.out, found)
        self._tell(case, found, time.perf_counter() - begin)
        return found

    @staticmethod
    def _task(case: Case, name: str) -> Task:
        return replace(case.task, options={**case.task.options, **case.own.get(name.removesuffix(PLAIN), {})})

    @contextlib.contextmanager
    def _may_drop_out(self, name: str, records: dict[str, Record], seats: dict[str, Seat]) -> Any:
        """A contender that fails is out of the case, and the others go on."""
        try:
            yield
        except Out as reason:
            records[name].status = str(reason)
            if name in seats:
                seats.pop(name).close()

    def _check(self, case: Case, seats: dict[str, Seat], records: dict[str, Record], path: Path) -> None:
        start: Mapping[str, Any] = {}
        true: Mapping[str, Any] | None = None
        if case.check == "weights":
            reference = Seat("reference", case.task, path)
            try:
                reference.begin()
                true = reference.ask("check")
            finally:
                reference.close()
            assert case.task.model is not None
            table = data.load(path)
            start = case.task.model.init_weights(table.n_users, table.n_items, SEED)
        for name in list(seats):
            record = records[name]
            with self._may_drop_out(name, records, seats):
                got = seats[name].ask("check")
                if not got:
                    continue
                if true is None:
                    true = got
                record.check = case.check
                record.check_error = difference(case.check, got, true, start)
                record.check_value = float(got["mse"]) if "mse" in got else math.nan
                limit = case.limits.get(name.removesuffix(PLAIN), case.limit)
                if not record.check_error <= limit:
                    off = f"{record.check_error:.2g}, more than {limit:g}"
                    raise Out(f"refused: its result is not the same ({case.check} off by {off})")

    def _turns(self, case: Case, seats: dict[str, Seat], records: dict[str, Record]) -> None:
        seconds: dict[str, list[float]] = {name: [] for name in seats}
        lasted: dict[str, float] = {}
        for _ in range(case.turns):
            for name in list(seats):
                if len(seconds[name]) >= FEW and lasted[name] > LONG:
                    continue
                with self._may_drop_out(name, records, seats):
                    time.sleep(PAUSE)
                    begin = time.perf_counter()
                    turn = seats[name].ask("turn")
                    lasted[name] = time.perf_counter() - begin
                    seconds[name].append(turn.seconds / turn.ratings * case.unit)
                    records[name].share = turn.ratings / case.unit
        first = next(iter(case.contenders))
        for name in seats:
            record, took = records[name], seconds[name]
            record.turns = len(took)
            record.q1_s, record.median_s, record.q3_s = np.percentile(took, [25, 50, 75]).tolist()
            if case.unit_name == "epoch":
                record.ratings_per_s = case.unit / record.median_s
            if first in seats:
                ratios = [a / b for a, b in zip(took, seconds[first], strict=False)]
                record.times_minicf = float(np.median(ratios))

    def _blank(self, case: Case, name: str, table: data.Table) -> Record:
        task = case.task
        return Record(
            case=case.name, group=case.group, title=case.title, provider=name, data=task.table.partition(":")[0],
            n_users=table.n_users, n_items=table.n_items, n_ratings=task.rows or len(table.user),
            model="" if task.model is None else str(task.model),
            optimizer="" if task.optimizer is None else str(task.optimizer),
            n_factors=getattr(task.model, "n_factors", 0) or int(task.options.get("k", 0)),
            batch=task.batch, threads=task.threads, unit=case.unit_name, aim=case.floors.get(name, math.nan),
            x_name=str(case.x.get("name", "")), x=float(case.x.get("value", math.nan)),
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), device=self.device, commit=self.commit,
        )  # fmt: skip

    def _tell(self, case: Case, records: Iterable[Record], seconds: float) -> None:
        self.say(f"{case.group}  {case.name}: {case.title}  ({seconds:.0f} s)")
        for r in records:
            if r.status != "ok":
                self.say(f"      {r.provider:<20} {r.status}")
                continue
            spread = f"{_seconds(r.median_s)} ({_seconds(r.q1_s)} … {_seconds(r.q3_s)}) a {r.unit}"
            times = f"  {r.times_minicf:7.2f} x" if math.isfinite(r.times_minicf) else ""
            aim = f" (aim {r.aim:g})" if math.isfinite(r.aim) else ""
            off = f"  off {r.check_error:.1e}" if math.isfinite(r.check_error) else ""
            note = f"  {r.note}" if r.provider in case.plain else ""
            self.say(f"      {r.provider:<20} {spread}{times}{aim}{off}  {r.memory_own_mib:.0f} MiB{note}")


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


# --- what a record says of where it was made -------------------------------------------------------------------------


def device() -> str:
    """Processor, cores and memory."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    memory = ""
    with contextlib.suppress(ValueError, OSError):
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    return f"{name}, {os.cpu_count()} cores{memory}"


def busy(seconds: float = 0.5) -> float:
    """Cores that other processes kept busy over the last moments; NaN where that cannot be seen."""

    def ticks() -> tuple[int, int]:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]]
        return sum(fields), fields[3] + fields[4]

    try:
        total, idle = ticks()
        time.sleep(seconds)
        later, idle_later = ticks()
    except (OSError, ValueError, IndexError):
        return math.nan
    passed = max(1, later - total)
    return (1.0 - (idle_later - idle) / passed) * (os.cpu_count() or 1)


def commit() -> str:
    """The commit that is measured, with a plus sign if files differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "..", ":!../bench/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# --- files -----------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Record]:
    """The records in a CSV."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [_record(row) for row in csv.DictReader(file)]


def _record(row: Mapping[str, str]) -> Record:
    record = Record()
    for name, text in row.items():
        kind = type(getattr(record, name))
        setattr(record, name, kind(text) if text else math.nan if kind is float else kind())
    return record


def write(path: Path, records: Iterable[Record]) -> None:
    """Put records into a CSV, in the place of those of the same cases."""
    records = list(records)
    new = {r.case for r in records}
    together = [r for r in read(path) if r.case not in new] + records
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Record)])
        writer.writeheader()
        for record in together:
            row = {k: _cell(v) for k, v in asdict(record).items()}
            writer.writerow(row)
    part.replace(path)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
