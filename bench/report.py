"""Tables and plots of the records, put between markers in the texts that show them.

A text holds ``<!-- bench:NAME -->`` and, later, ``<!-- /bench -->``; what stands between them is made anew. NAME is a
table in `TABLES`. Nothing between the markers is typed by hand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.measure import Record, read

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TEXTS = (HERE.parent / "README.md", HERE / "README.md", HERE / "profile.md")

_MARKED = re.compile(r"(<!-- bench:([\w-]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def main(results: Path = RESULTS, texts: Iterable[Path] = TEXTS) -> list[str]:
    """Draw the plots, fill the texts; the names of the tables that were filled."""
    records = read(results / "cpu.csv")
    if not records:
        raise SystemExit(f"no records in {results / 'cpu.csv'}: run python -m bench")
    growth_plot(records, results / "growth.svg")
    items_plot(records, results / "items.svg")
    filled: list[str] = []
    for text in texts:
        if not text.exists():
            continue

        def fill(match: re.Match[str]) -> str:
            name = match[2]
            if name not in TABLES:
                return match[0]  # another report's
            filled.append(name)
            return f"{match[1]}{TABLES[name](records)}\n{match[3]}"

        old = text.read_text()
        new = _MARKED.sub(fill, old)
        if new != old:
            text.write_text(new)
    return filled


# --- how numbers are written -----------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    """Three digits and the unit that fits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 0.9995:
            return f"{_digits(value * factor)} {unit}"
    return f"{value * 1e9:.3g} ns"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times(record: Record) -> str:
    if not math.isfinite(record.times_minicf):
        return ""
    return f" · {record.times_minicf:.3g}×"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- tables ----------------------------------------------------------------------------------------------------------


def _pivot(records: list[Record], group: str, cell: Callable[[Record], str], skip: Callable[[Record], bool]) -> str:
    """Cases down, contenders across."""
    own = [r for r in records if r.group == group and not skip(r)]
    if not own:
        return "Not measured yet."
    providers = list(dict.fromkeys(r.provider for r in own if r.status == "ok"))
    rows = []
    for case in dict.fromkeys(r.case for r in own):
        here = {r.provider: r for r in own if r.case == case}
        title = next(iter(here.values())).title
        cells = [cell(here[p]) if p in here and here[p].status == "ok" else _why(here.get(p)) for p in providers]
        rows.append([title, *cells])
    return table(["", *providers], rows)


def _why(record: Record | None) -> str:
    return "–" if record is None else record.status.partition(":")[0]


def _never(record: Record) -> bool:
    return False


def _plain(record: Record) -> str:
    scaled = "\\*" if record.share < 0.999 and record.unit == "epoch" else ""
    return seconds(record.median_s) + scaled + _times(record)


def batches(records: list[Record]) -> str:
    """(a)"""
    return _pivot(records, "a", _plain, _never)


def nets(records: list[Record]) -> str:
    """(b)"""
    return _pivot(records, "b", _plain, _never)


def rating(records: list[Record]) -> str:
    """(c)"""

    def cell(r: Record) -> str:
        return f"{_digits(r.ratings_per_s / 1e6)} M/s{_times(r)} · error {r.check_value:.3f}"

    return _pivot(records, "c", cell, _never)


def top(records: list[Record]) -> str:
    """(d)"""
    return _pivot(records, "d", _plain, _never)


def reach(records: list[Record]) -> str:
    """(e)"""
    return _pivot(records, "e", _plain, _never)


def reach_settings(records: list[Record]) -> str:
    """The settings of (e)."""
    own = [r for r in records if r.group == "e" and r.status == "ok"]
    rows = [[r.title, r.provider, f"{r.check_value:.4f}", r.note] for r in own]
    return table(["", "engine", "error", "settings"], rows) if rows else "Not measured yet."


def cold(records: list[Record]) -> str:
    """(f)"""
    return _pivot(records, "f", _plain, _never)


def checks(records: list[Record]) -> str:
    """How far each contender was from the truth."""
    rows = [
        [r.title, r.provider, r.check, f"{r.check_error:.1e}"]
        for r in records
        if math.isfinite(r.check_error) and r.check == "weights"
    ]
    return table(["", "engine", "compared", "off by"], rows) if rows else "Not measured yet."


def apart(records: list[Record]) -> str:
    """What is not in the times: preparing, compiling, memory."""
    own = [r for r in records if r.status == "ok" and r.group in "abcd"]

    def cell(value: float, kind: Callable[[float], str]) -> str:
        return kind(value) if math.isfinite(value) and value > 5e-4 else "–"

    rows = [
        [r.title, r.provider, cell(r.prepare_s, seconds), cell(r.compile_s, seconds), cell(r.first_s, seconds),
         f"{r.memory_own_mib:,.0f} MiB", r.note]
        for r in own
    ]  # fmt: skip
    return table(["", "engine", "preparing", "compiling", "first epoch", "memory", "note"], rows)


def absent(records: list[Record]) -> str:
    """Who did not take part, and why."""
    out: dict[tuple[str, str], list[str]] = {}
    for r in records:
        if r.status != "ok":
            out.setdefault((r.provider, r.status), []).append(r.case)
    if not out:
        return "Everybody took part."
    return "\n".join(f"- {who}: {why} ({', '.join(cases)})" for (who, why), cases in out.items())


def aims(records: list[Record]) -> str:
    """Ratios that minicf aims at, and those measured."""
    rows = [
        [r.title, r.provider, f"≥ {r.aim:g}×",
         f"{r.times_minicf:.3g}×" if math.isfinite(r.times_minicf) else r.status,
         "yes" if r.times_minicf >= r.aim else "**no**"]
        for r in records
        if math.isfinite(r.aim)
    ]  # fmt: skip
    return table(["", "against", "aim", "measured", "met"], rows) if rows else "Not measured yet."


def machine(records: list[Record]) -> str:
    """Where, when, with what."""
    versions: dict[str, str] = {}
    for r in records:
        versions |= json.loads(r.versions or "{}")
    places = sorted({r.device for r in records})
    dates = sorted(r.date for r in records)
    commits = sorted({r.commit for r in records})
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return f"{'; '.join(places)}. {dates[0][:10]} … {dates[-1][:10]}, commit {', '.join(commits)}. {listed}."


def growth(records: list[Record]) -> str:
    """(g) Time per rating along each axis, and the largest over the smallest."""
    rows = []
    for name in dict.fromkeys(r.x_name for r in records if r.x_name):
        for who in dict.fromkeys(r.provider for r in records if r.x_name == name):
            points = _curve(records, name, who)
            if len(points) > 1:
                each = ", ".join(f"{x:,.0f}: {seconds(y)}" for x, y in points)
                ratio = max(y for _, y in points) / min(y for _, y in points)
                rows.append([name, who, each, f"{ratio:.2f}×"])
    return table(["axis", "engine", "time per rating", "largest / smallest"], rows) if rows else "Not measured yet."


def _curve(records: list[Record], name: str, who: str) -> list[tuple[float, float]]:
    own = [r for r in records if r.x_name == name and r.provider == who and r.status == "ok"]
    return sorted((r.x, 1.0 / r.ratings_per_s) for r in own)


# --- floors ----------------------------------------------------------------------------------------------------------


def ceilings(records: list[Record]) -> str:
    """(h) What the machine does at best."""
    rows = [[r.title, f"{1.0 / r.median_s:.3g} G/s"] for r in records if r.group == "h" and r.status == "ok"]
    return table(["", "measured"], rows) if rows else "Not measured yet."


def _rate(records: list[Record], case: str) -> float:
    """Units a second of a ceiling; NaN if it is not measured."""
    return next((1e9 / r.median_s for r in records if r.case == case and r.status == "ok"), math.nan)


def floors(records: list[Record]) -> str:
    """Floor, measured time and their ratio for each hot path, a rating each (a user for top-N)."""
    rows = []
    measured = {r.case: r for r in records if r.provider == "minicf" and r.status == "ok"}
    for case, (what, amount, ceiling) in HOT_PATHS.items():
        r = measured.get(case)
        rate = _rate(records, ceiling)
        if r is None or not math.isfinite(rate):
            continue
        n = r.n_users if r.group == "d" else r.n_ratings // r.batch * r.batch
        floor, took = amount / rate, r.median_s / n
        rows.append([r.title, what, seconds(floor), seconds(took), f"{took / floor:.2f}×"])
    header = ["hot path", "bound by", "floor", "measured", "measured / floor"]
    return table(header, rows) if rows else "Not measured yet."


def _rows_bytes(width: int, slots: int, passes: int) -> float:
    """Bytes of a rating's two rows: `passes` times all of their parts, a read and a write being two."""
    return 2.0 * width * slots * 4 * passes


HOT_PATHS: dict[str, tuple[str, float, str]] = {
    # DotBias(50): a part of a row is 64 numbers (50 + 2, in whole cache lines). Gathered: a read. Scattered: a read
    # and a write. The tables of ml-latest-small are 5 MB with momentum.
    "sgd-64": ("rows: 3 passes over 2 × 512 bytes", _rows_bytes(64, 2, 3), "ceiling-rows-5"),
    "sgd-falling-64": ("rows: 3 passes over 2 × 512 bytes", _rows_bytes(64, 2, 3), "ceiling-rows-5"),
    # Adam: a root and a division an element when a row is caught up, and again when it is stepped.
    "adam-64": ("roots: 2 for each of 2 × 64 elements", 4.0 * 64, "ceiling-roots"),
    "adamw-64": ("roots: 2 for each of 2 × 64 elements", 4.0 * 64, "ceiling-roots"),
    # Every element of every row at every step, which 64 ratings share, and two threads.
    "adam-l2-64": ("roots: half of all 9,737 × 64 elements a step", 9_737 * 64 / 64 / 2, "ceiling-roots"),
    "adam-sparse-64": ("roots: one for each of 2 × 64 elements", 2.0 * 64, "ceiling-roots"),
    # Three products (forward, and two backward) with 100 × 70 weights, two operations each.
    "net-64": ("products: 6 × 100 × 70 operations", 6.0 * 7_000, "ceiling-product-1"),
    # K = 64 and the biases: rows of 80 numbers, read and written. The item's comes from the second cache; the users' of
    # four strands stay in the first.
    "rating-64-threads-1": ("rows: the item's 320 bytes read and written", _rows_bytes(80, 1, 1), "ceiling-rows-1"),
    # All items by 64 factors.
    "top10": ("products: 2 × 64 × 10,681 operations a user", 2.0 * 64 * 10_681, "ceiling-product-2"),
}


TABLES: dict[str, Callable[[list[Record]], str]] = {
    "batches": batches, "nets": nets, "rating": rating, "top": top, "reach": reach, "reach-settings": reach_settings,
    "cold": cold, "checks": checks, "apart": apart, "absent": absent, "aims": aims, "machine": machine,
    "growth": growth, "ceilings": ceilings, "floors": floors,
}  # fmt: skip


# --- plots -----------------------------------------------------------------------------------------------------------

_COLOURS = ("#2a78d6", "#d6552a", "#2f9e5b", "#8a4fc7")


def growth_plot(records: list[Record], path: Path) -> None:
    """Time per rating along each axis, a panel each."""
    names = {
        "ratings": "ratings, K = 8: tables in the cache", "ratings-large": "ratings, K = 64: tables beyond it",
        "factors": "factors", "batch": "batch size",
    }  # fmt: skip
    _panels(path, [[(name, curves(records, name)) for name in names]], names)


def items_plot(records: list[Record], path: Path) -> None:
    """Time per rating against the number of items, dense and caught up."""
    _panels(path, [[("items", curves(records, "items"))]], {"items": "items in the table"})


def curves(records: list[Record], axis: str) -> dict[str, list[tuple[float, float]]]:
    """The points of each curve along an axis; minicf's by their name, others with theirs in front."""
    found = {}
    for r in records:
        name, _, curve = r.x_name.partition(": ")
        if name == axis:
            label = curve if r.provider == "minicf" and axis != "items" else f"{r.provider}, {curve}"
            found[label] = _curve(records, r.x_name, r.provider)
    return {label: points for label, points in found.items() if points}


def _panels(
    path: Path, rows: list[list[tuple[str, dict[str, list[tuple[float, float]]]]]], names: dict[str, str]
) -> None:
    if not any(lines for row in rows for _, lines in row):
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # The same records give the same file, to the byte.
    with plt.rc_context(
        {"svg.hashsalt": "minicf", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        wide = max(len(row) for row in rows)
        figure, axes = plt.subplots(len(rows), wide, figsize=(3.6 * wide + 0.6, 3.2), squeeze=False, sharey=True)
        for ax, (name, lines) in zip(axes.flat, (panel for row in rows for panel in row), strict=True):
            for colour, (label, points) in zip(_COLOURS, lines.items(), strict=False):
                x, y = zip(*points, strict=True)
                ax.plot(x, [1e9 * value for value in y], "o-", color=colour, label=label, markersize=3.5, linewidth=1.4)
            ax.set(xscale="log", yscale="log", xlabel=names[name])
            ax.grid(axis="y", color="#dddddd", linewidth=0.6)
            if lines:
                ax.legend(frameon=False)
        axes[0, 0].set_ylabel("nanoseconds per rating")
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
