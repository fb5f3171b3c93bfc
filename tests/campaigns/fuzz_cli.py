"""Give the command line mutated files, options and ids: each command ends with its result or with one clear line.

``python -m tests.campaigns.fuzz_cli [inputs] [seed]``; 2,000 inputs by default. Files of ratings, titles and models are
changed in bytes, encoding, separators, quotes and compression, and arrive by name or through a pipe; options get values
of every kind. Commands run in this process: exit code 0, or 1 with one line of an error, or 2 with argparse's usage;
any other exception fails, as does a file that a failed command left behind.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import logging
import lzma
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from minicf import cli

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1", "cp500", "utf-7"]
COMMANDS = ["train", "evaluate", "recommend", "similar", "explore", "doctor"]
SUFFIXES = [".csv", ".tsv", ".txt", "", ".csv.gz", ".csv.bz2", ".csv.xz", ".zip", ".csv.zst", ".CSV.GZ", ".parquet"]
IDS = ["1", "01", "1.0", " 1", "1 ", "guest", "", "-0zEx", "-1", "--", "--all", "=1+1", "nan", "u3", "Zoë", "茶", "1e3",
       "٣", "1_0", "9" * 25, "9" * 5000, "\x1b[31m", "a\0b", "\udcff", "9223372036854775807", "-n", "a,b"]  # fmt: skip
NUMBERS = ["0", "-1", "1", "2", "3", "100000000000", "1" + "0" * 30, "x", "", "1.5", "٣", "1_0", "nan", "9" * 5000]
PIECES = [b'"', b'""', b'\\"', b",", b";", b"\t", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe",
          b"=", b"sep=;\n", b"1,2,3\n", b"\n\n", b" ", b"'", b"\x1b[2J", b"nan", b"inf", b"1e999", b"-0", b"007",
          b"4,5", b"1,234", "é".encode(), "\u2028".encode(), b"\x0b", b"\x85", b"userId,", b"rating"]  # fmt: skip

FOREIGN = [
    b'[{"userId": 1, "movieId": 2, "rating": 3}]', b'{"userId": 1, "movieId": 2, "rating": 3}\n', b"PAR1\x15\0",
    b"<!DOCTYPE html>\n<html>404</html>", b"%PDF-1.4\n", b"SQLite format 3\0", b"\x80\x04\x95\x10\0", b"7z\xbc\xaf",
    b"ratings.csv".ljust(257, b"\0") + b"ustar\x0000", b"\x28\xb5\x2f\xfd\x04", b"\x93NUMPY\x01\0", b"%%MatrixMarket\n",
]  # fmt: skip


def table(random: np.random.RandomState, text: bool, titles: bool) -> list[list[str]]:
    users, items = (random.permutation(9) + 1 for _ in range(2))
    name = "u{}" if text else "{}"
    if titles:
        words = ["A film", "Crouching, Hidden", '"Quoted"', "=cmd()", "\x1b[31mRed", "Zoë", "", "$x$"]
        return [["movieId", "title"]] + [[name.format(i), words[random.randint(len(words))]] for i in range(1, 10)]
    rows = [[name.format(u), name.format(i), str(random.randint(1, 11) / 2)] for u in users for i in items[: 2 + u % 7]]
    if random.uniform() < 0.2:
        return [["userId", "movieId", "rating", "note"]] + [[*row, 'say "hi", all'] for row in rows]
    return [["userId", "movieId", "rating"], *rows]


def written(random: np.random.RandomState, rows: list[list[str]]) -> str:
    mark = ",,,,;;\t\t|"[random.randint(9)]
    end = ["\n", "\n", "\r\n", "\r"][random.randint(4)]
    kind = random.uniform()

    def cell(value: str) -> str:
        if kind < 0.1:
            return value  # without any quoting
        if kind < 0.2:
            return '"' + value.replace('"', '\\"') + '"'
        quoted = kind < 0.3 or any(x in value for x in f'{mark}"\n')
        return '"' + value.replace('"', '""') + '"' if quoted else value

    return end.join(mark.join(map(cell, row)) for row in rows) + end * random.randint(3)


def odd_rows(random: np.random.RandomState, rows: list[list[str]]) -> list[list[str]]:
    rows = [list(row) for row in rows]
    for _ in range(random.randint(1, 4)):
        row = random.randint(len(rows))
        column = random.randint(len(rows[row]) or 1)
        kind = random.randint(6)
        if kind == 0:
            rows[row][column:column] = [IDS[random.randint(len(IDS))]]
        elif kind == 1 and len(rows[row]) > 1:
            del rows[row][column]
        elif kind == 2:
            rows.insert(row, rows[random.randint(len(rows))])
        elif kind == 3 and len(rows) > 1:
            del rows[row]
        elif kind == 4:
            rows = [[*r, r[-1] if r else ""] for r in rows]
        elif rows[row]:
            rows[row][min(column, len(rows[row]) - 1)] = IDS[random.randint(len(IDS))]
    return rows


def damaged(random: np.random.RandomState, data: bytes) -> bytes:
    for _ in range(random.randint(1, 4)):
        at, to = sorted(random.randint(len(data) + 1, size=2))
        kind = random.randint(6)
        if kind == 0:
            data = data[:at] + PIECES[random.randint(len(PIECES))] + data[at:]
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + data[to:]
        elif kind == 3:
            data = data[:to] + data[at:]
        elif kind == 4 and data:
            data = data[:at] + bytes([random.randint(256)]) + data[at + 1 :]
        else:
            data = data[:at] + random.bytes(random.randint(1, 9)) + data[to:]
    return data


def packed(random: np.random.RandomState, data: bytes) -> bytes:
    kind = random.randint(5)
    if kind < 3:
        return (gzip.compress, bz2.compress, lzma.compress)[kind](data)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED][random.randint(2)]) as archive:
        for name in ["ratings.csv", "__MACOSX/._ratings.csv", "folder/", "other.csv"][: random.randint(5)]:
            archive.writestr(name, data)
    return file.getvalue()


def file_of(random: np.random.RandomState, folder: Path, text: bool, titles: bool = False) -> tuple[str, bytes]:
    """Write a file, whole or mutated; return its path, or "-", and its bytes."""
    rows = table(random, text, titles)
    if random.uniform() < 0.25:
        rows = odd_rows(random, rows)
    content = written(random, rows)
    encoding = ENCODINGS[random.randint(len(ENCODINGS))] if random.uniform() < 0.2 else "utf-8"
    data = content.encode(encoding, "replace")
    if random.uniform() < 0.2:
        data = damaged(random, data)
    suffix = SUFFIXES[random.randint(len(SUFFIXES))] if random.uniform() < 0.15 else ".csv"
    if random.uniform() < 0.03:
        data = FOREIGN[random.randint(len(FOREIGN))] + data * random.randint(2)
    if random.uniform() < 0.2:
        data = packed(random, packed(random, data) if random.uniform() < 0.1 else data)
        if random.uniform() < 0.5:
            data = damaged(random, data)
    path = folder / f"input{'-titles' if titles else ''}{suffix}"
    path.write_bytes(data)
    return ("-" if random.uniform() < 0.1 and not titles else str(path)), data


def command(random: np.random.RandomState, folder: Path, models: list[tuple[str, bool]]) -> tuple[list[str], bytes]:
    """Return arguments and standard input."""

    def one(values: Any) -> Any:
        return values[random.randint(len(values))]

    model, text = one(models)
    if random.uniform() < 0.05:
        path = folder / "damaged.npz"
        path.write_bytes(damaged(random, Path(model).read_bytes()))
        model = str(path)
    path, data = file_of(random, folder, text)
    name = one(["train", "train", "evaluate", "evaluate", "recommend", "new", "new", "similar", "all", "other"])
    if name == "train":
        words = ["train", path, "-o", one([str(folder / "out.npz")] * 9 + ["/dev/null", "-", str(folder), "no/x.npz",
                 str(folder / "x.csv"), str(folder / ("n" * 300))])]  # fmt: skip
        words += ["--backend", "numpy", "--epochs", "1", "--factors", one(["2"] * 60 + NUMBERS)]
        if random.uniform() < 0.3:
            words += ["--titles", file_of(random, folder, text, titles=True)[0]]
        if random.uniform() < 0.2:
            words += [one(["--user-column", "--item-column", "--rating-column"]), one([*IDS, "rating", "note", "5"])]
        if random.uniform() < 0.3:
            words += ["--duplicates", one(["last", "mean", "error", "first"])]
        if random.uniform() < 0.1:
            words += ["--seed", one(NUMBERS)]
        if random.uniform() < 0.1:
            words += ["--model", one(["dot", "net", "svd"])]
    elif name == "evaluate":
        words = ["evaluate", model, path, "-k", one(["3"] * 50 + NUMBERS)]
        words += [["--with-seen"], ["--duplicates", "mean"], [], []][random.randint(4)]
    elif name == "new":
        words = ["recommend", model, "--new", path, "-n", one(["3"] * 50 + NUMBERS)]
    elif name == "similar":
        words = ["similar", model, one(["--item", "--title"]), one(IDS), "-n", one(["3"] * 50 + NUMBERS)]
    elif name == "other":
        words = ["recommend", model, "--user", one(IDS), "--user", one(IDS)]
        if random.uniform() < 0.2:
            words = [
                "explore",
                model,
                path,
                "-o",
                one([str(folder / "out.html")] * 3 + ["/dev/null", str(folder / "x.csv")]),
            ]
        elif random.uniform() < 0.1:
            words = ["doctor"]
    else:
        words = ["recommend", model, *([] if name == "all" else ["--user", one(IDS)])]
        words += ["--all"] * (name == "all") + ["--with-seen"] * random.randint(2) + ["-n", one(["3"] * 50 + NUMBERS)]
    if words[0] in ("recommend", "similar"):
        words += one(
            [[], [], ["--safe"], ["-o", str(folder / one(["l.csv", "l.tsv", "l.csv.gz", "l.parquet", "l", ""]))]]
        )
    if words[0] in ("train", "evaluate") and random.uniform() < 0.15:
        words += ["--encoding", one([*ENCODINGS, "rot13", "klingon", "", "idna", "unicode_escape", "hex"])]
    if random.uniform() < 0.05:
        words.insert(random.randint(len(words) + 1), one([*IDS, *NUMBERS, "-o", "--titles"]))
    return words, data


def outcome(words: list[str], data: bytes) -> tuple[str, str]:
    """Run a command; return how it ended, and what it said if that is not right."""
    before = sys.stdin, sys.stdout, sys.stderr, warnings.showwarning
    sys.stdin, sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(x), "utf-8") for x in (data, b"", b""))
    said = sys.stderr
    code: Any
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            code = cli.main(words)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        return "crash", traceback.format_exc()
    finally:
        said.flush()
        text = said.buffer.getvalue().decode()  # type: ignore[attr-defined]
        sys.stdin, sys.stdout, sys.stderr, warnings.showwarning = before
    lines = text.splitlines()
    if code == 0:
        good = all(
            line.startswith("minicf: ") and not line.startswith("minicf: error") for line in text.split("\n")[:-1]
        )
    elif code == 1:
        good = all(line.startswith("minicf: ") for line in text.split("\n")[:-1]) and lines[-1].startswith(
            "minicf: error: "
        )
        good = good and text.count("minicf: error") == 1 and len(lines[-1]) < 2000
    else:
        good = code == 2 and lines[0].startswith("usage: ")
    good = good and not any(ord(mark) < 32 and mark != "\n" for mark in text)
    return ("done", "error", "usage")[code] if good else "unclear", text


def run(n: int, seed: int = 0) -> Counter[str]:
    """Try n inputs; raise at the first that ends in no clear way."""
    counts: Counter[str] = Counter()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        folder = Path(name)
        models = trained(folder)
        for number in range(n):
            own = np.random.RandomState([seed, number])
            words, data = command(own, folder, models)
            for output in ("out.npz", "out.html"):
                (folder / output).unlink(missing_ok=True)
            how, text = outcome(words, data)
            assert how not in ("crash", "unclear"), (
                f"input {number} of seed {seed}, {how}: {words}\n{data[:500]!r}\n{text}"
            )
            for output in ("out.npz", "out.html"):
                assert how == "done" or not (folder / output).exists(), f"input {number}: a file was left by {words}"
            counts[f"{words[0] if words[0] in COMMANDS else 'other'} {how}"] += 1
    return counts


def trained(folder: Path) -> list[tuple[str, bool]]:
    """Save models with ids of integers and of text, with titles and without, with seen items and without."""
    models = []
    for text in (False, True):
        random = np.random.RandomState(int(text))
        paths = []
        for titles in (False, True):
            path = folder / f"whole-{text}-{titles}.csv"
            rows = [row[:3] for row in table(random, text, titles)]
            path.write_text("\n".join(",".join('"' + x.replace('"', '""') + '"' for x in row) for row in rows), "utf-8")
            paths.append(str(path))
        for seen in (True, False):
            model = str(folder / f"model-{text}-{seen}.npz")
            words = ["train", paths[0], "-o", model, "--backend", "numpy", "--epochs", "2", "--factors", "2"]
            words += ["--titles", paths[1]] if seen else ["--no-seen"]
            how, said = outcome(words, b"")
            assert how == "done", said
            models.append((model, text))
    return models


if __name__ == "__main__":
    start = time.perf_counter()
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    found = run(total, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for key, count in sorted(found.items()):
        print(f"{key:<20} {count:>6,}")
    print(f"{total:,} inputs in {time.perf_counter() - start:.0f} s")
