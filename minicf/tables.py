"""Tables of text, in and out: CSV files and pipes, read strictly. What is refused is named by file and line.

A table is one header line and one line for each row; a value with a separator or a quote in it is quoted, as RFC 4180
says, and holds no line break. The text is UTF-8, UTF-16 or UTF-32 where a byte order mark says so, or in the encoding
that the caller names: never in the locale's. Files may be compressed (gzip, bzip2, xz, or a zip of one file).
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import lzma
import os
import re
import stat
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from minicf import files
from minicf.data import Vocabulary
from minicf.data.checks import plural
from minicf.texts import harmless


class TableError(ValueError):
    """Report a table that cannot be read or written: the message names the file, the line and the remedy."""


# --- bytes ------------------------------------------------------------------------------------------------------------

MAGIC = {
    "gzip": rb"\x1f\x8b",
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\0",
    "zip": rb"PK(\x03\x04|\x05\x06|\x07\x08)",
    "zstd": rb"\x28\xb5\x2f\xfd",
}
OTHERS = {
    "Parquet": rb"PAR1",
    "JSON": rb"(\xef\xbb\xbf)?\s*[\[{]\s*[\[{\"]",
    "HTML or XML": rb"(\xef\xbb\xbf)?\s*<[!?A-Za-z]",
    "PDF": rb"%PDF-",
    "SQLite": rb"SQLite format 3\0",
    "HDF5": rb"\x89HDF",
    "Arrow": rb"ARROW1",
    "pickle": rb"\x80[\x02-\x05]",
    "NumPy": rb"\x93NUMPY",
    "old Excel": rb"\xd0\xcf\x11\xe0",
    "7z": rb"7z\xbc\xaf",
    "RAR": rb"Rar!",
    "LZ4": rb"\x04\x22\x4d\x18",
    "LZMA": rb"\x5d\0\0",
    "compress": rb"\x1f\x9d",
    "tar": rb"[^\0]{1,100}\0(?s:.){0,256}?ustar",
}
"""How files that are no table of text begin: said by name, before their bytes are found to be no UTF-8."""

SUFFIX = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zip": "zip", ".zst": "zstd", ".zstd": "zstd"}

DAMAGE = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, IndexError)
"""What the decompressors of the standard library raise; NotImplementedError is a RuntimeError."""


def _content(path: str) -> bytes:
    """Return the bytes of a file, or of standard input for "-", decompressed."""
    if path == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise TableError("standard input is closed; give the name of a file, or a pipe")
        data = sys.stdin.buffer.read()
    else:
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            address = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path)
            raise TableError(
                f"{path} is an address; only local files are read: download it first, or use a pipe and -"
                if address
                else f"{path} does not exist"
            ) from None
        if stat.S_ISDIR(mode) or stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode):
            raise TableError(f"{path} is a {'folder' if stat.S_ISDIR(mode) else 'device'}; it must be a CSV file")
        with open(path, "rb") as file:
            data = file.read()
    packed = next((name for name, start in MAGIC.items() if re.match(start, data)), None)
    named = SUFFIX.get(os.path.splitext(path)[1].lower())
    if packed is None:
        if named and data:
            raise TableError(f"{path} is named like a {named} file and is none; name it after what it holds, .csv")
        return _table_of_text(data, path)
    if packed == "zstd":
        raise TableError(f"{path} is compressed with zstd; decompress it first: zstd -d")
    try:
        return _table_of_text(_unzipped(data, path) if packed == "zip" else _DECOMPRESS[packed](data), path)
    except TableError:
        raise
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TableError(f"{path} is a damaged {packed} file, or cut short: {reason}") from None


def _table_of_text(data: bytes, path: str) -> bytes:
    """Return decompressed data, unless they begin as another format does."""
    if kind := next((name for name, start in (OTHERS | MAGIC).items() if re.match(start, data)), None):
        raise TableError(f"{path} holds a {kind} file; it must be a CSV file, compressed once or not at all")
    return data


_DECOMPRESS: dict[str, Any] = {"gzip": gzip.decompress, "bzip2": bz2.decompress, "xz": lzma.decompress}


def _unzipped(data: bytes, path: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        # What a Mac puts beside the files.
        hidden = re.compile(r"(.*/)?(__MACOSX/.*|\._[^/]*|\.DS_Store)|.*/")
        names = [name for name in archive.namelist() if not hidden.fullmatch(name)]
        if "[Content_Types].xml" in names:
            raise TableError(f"{path} is an Excel file; save the sheet as CSV")
        if len(names) != 1:
            listed = ": " + ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "") if names else ""
            raise TableError(f"{path} holds {plural(len(names), 'file')}{listed}; it must hold one CSV file")
        return archive.read(names[0])


# --- text -------------------------------------------------------------------------------------------------------------

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def check_encoding(name: str) -> None:
    """Raise a ValueError unless Python knows the encoding as one of text."""
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise TableError(f"encoding is {name!r}; it must be one that Python knows, such as cp1252 or utf-16") from None


def _text(data: bytes, path: str, encoding: str | None) -> str:
    """Decode bytes: by their byte order mark, else by `encoding`, else as UTF-8."""
    mark, name = next(((m, n) for m, n in MARKS if data.startswith(m)), (b"", encoding or "utf-8"))
    data = data[len(mark) :]
    try:
        text = data.decode(name)
        text.encode()  # some encodings make lone surrogates, which no other file could hold
    except UnicodeDecodeError as error:
        line = 1 + len(re.findall(rb"\r\n|\r|\n", data[: error.start]))
        byte = error.start - max(data.rfind(b"\n", 0, error.start), data.rfind(b"\r", 0, error.start))
        guess = "utf-16-le" if b"\0" in data[:100] else "cp1252"
        remedy = "give its right --encoding" if encoding or mark else f"save it as UTF-8, or say --encoding {guess}"
        raise TableError(
            f"{path} is not in {name.upper()}: line {line}, byte {byte} is 0x{data[error.start]:02x}; {remedy}"
        ) from None
    except UnicodeError as error:
        raise TableError(f"{path} is not in {name}: {error}; give its right --encoding") from None
    if (at := text.find("\0")) >= 0:
        line = 1 + len(re.findall("\r\n|\r|\n", text[:at]))
        raise TableError(
            f"{path}, line {line} holds a null character; take it out, or say --encoding utf-16-le if it is in that"
        )
    return text.removeprefix("\ufeff")


# --- reading ----------------------------------------------------------------------------------------------------------


def read(
    path: str, columns: Sequence[str], encoding: str | None = None, remedy: str = "", rest: bool = False
) -> pd.DataFrame:
    """Read columns of a CSV file as text.

    Parameters
    ----------
    path : str
        Of a file; "-" for standard input.
    columns : sequence of str
        Each must be in the header, once.
    encoding : str, optional
        Of a file without a byte order mark; UTF-8 by default.
    remedy : str
        Ends the message where a column is missing.
    rest : bool
        Also read all other columns that have a name.

    Returns
    -------
    DataFrame of str
        The columns, in this order. What a short line lacks is "".

    Raises
    ------
    TableError
        The file cannot be read, decompressed, decoded, or split into one row for each line.
    """
    text = _text(_content(path), path, encoding)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Not str.splitlines, which splits at other characters too.
    head = ((number, line[1]) for number, line in enumerate(re.finditer("([^\n]*)(\n|$)", text)))
    number, header = next(((at, line) for at, line in head if line.strip()), (0, ""))
    separator = None
    if given := re.fullmatch(r'"?sep=([,;\t|])"?', header, re.IGNORECASE):  # how Excel says it
        separator = given[1]
        number, header = next(((at, line) for at, line in head if line.strip()), (0, ""))
    if not header:
        raise TableError(f"{path} is empty; it must have a header with the names of its columns, and rows")
    separator = separator or _separator(header, columns)
    _check_quotes(text, separator, path)
    names = _split(header, separator, path)
    _check_header(names, columns, path, remedy)
    if rest:
        columns = [*columns, *(name for name in names if name.strip() and name not in columns)]
    _check_once(names, columns, path)
    try:
        with warnings.catch_warnings():
            # Rows that are all longer than the header: pandas would take their first values for an index, and
            # `a,b,4,5` under `userId,movieId,rating` for user b, item 4, rating 5.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.BytesIO(text.encode()), sep=separator, header=None, names=range(len(names)), skiprows=number + 1,
                index_col=False, dtype=str, na_filter=False, skipinitialspace=False,
            )  # fmt: skip
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame(columns=range(len(names)), dtype=str)
    except pd.errors.ParserWarning:
        raise TableError(f"{path} has rows longer than its header; quote values that contain {separator!r}") from None
    except ValueError as error:
        reason = " ".join(str(error).removeprefix("Error tokenizing data. C error: ").split())
        raise TableError(
            f"{path} cannot be read as CSV: {reason}; values with {_NAMES[separator]} must be quoted"
        ) from None
    if not len(frame):
        raise TableError(f"{path} has no rows")
    return pd.DataFrame({name: frame[names.index(name)] for name in columns})


_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def _separator(header: str, columns: Sequence[str]) -> str:
    """Return the first of comma, semicolon and tab that finds all columns, else the one that is there."""
    for mark in ",;\t":
        if set(columns) <= {name.strip('"') for name in header.split(mark)}:
            return mark
    return next((mark for mark in ";\t" if "," not in header and mark in header), ",")


def _check_quotes(text: str, separator: str, path: str) -> None:
    """Refuse a line that a CSV reader would join with the next one, or take apart in another way than its writer."""
    if '"' not in text:
        return
    mark = re.escape(separator)
    field = f'(?:"(?:[^"]|"")*+"|(?!")[^{mark}]*+)'
    good = re.compile(f"{field}(?:{mark}{field})*+")
    for number, line in enumerate(text.split("\n"), 1):
        if '"' in line and not good.fullmatch(line):
            raise TableError(
                f"{path}, line {number}: a value that begins with a quote must end with one, on the same line; write a "
                'quote in it as "" (not as \\")'
            )


def _split(header: str, separator: str, path: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=separator))
    except csv.Error as error:
        raise TableError(f"{path} has a header that cannot be read: {error}") from None


def _check_header(names: list[str], columns: Sequence[str], path: str, remedy: str) -> None:
    shown = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
    missing = [name for name in columns if name not in names]
    # Names of numbers are 0, 1, 2 where pandas made them up; else they are the values of a first row.
    if any(map(_number, names if missing else columns)) and names != [str(at) for at in range(len(names))]:
        problem = f"has no column {', '.join(map(repr, missing))}; " if missing else ""
        raise TableError(
            f"{path} {problem}its first line is {shown}: if that is a rating and no header, write one above it, such "
            "as " + ",".join(columns if missing else ("userId", "movieId", "rating")[-len(columns) :])
        )
    if missing:
        raise TableError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has {shown}" + (f"; {remedy}" if remedy else "")
        )


def _check_once(names: list[str], columns: Sequence[str], path: str) -> None:
    for name in columns:
        if (copies := names.count(name)) > 1:
            raise TableError(f"{path} has {copies} columns {name!r}; rename or drop all but one")


def _number(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]+)?\s*", text) is not None


# --- ids --------------------------------------------------------------------------------------------------------------


def ids_of(texts: pd.Series) -> pd.Series:
    """Return ids as integers if all of them are plain integers, else as text (so "007" stays "007")."""
    if texts.str.fullmatch(r"0|-?[1-9][0-9]{0,17}").all():
        return texts.astype("int64")
    return texts


def integer_of(text: str) -> int | None:
    """Return the integer id that a text stands for, None if it stands for none.

    Space around it and a decimal part of zeros, as spreadsheets and frames write them, do not count: "1 " and "1.0"
    are 1. Zeros before it do, as in training: "02" is another id than "2", so it is not the integer 2.
    """
    text = text.strip()
    if not re.fullmatch(r"(0|-?[1-9][0-9]{0,18})(\.0*)?", text, re.ASCII):
        return None
    value = int(text.partition(".")[0])
    return value if -(2**63) <= value < 2**63 else None


def values_of(texts: pd.Series) -> pd.Series:
    """Return the values of a column: numbers if all of them are, else text; None where there is none.

    Texts with a zero before other digits, such as codes of places, are no numbers.
    """
    there = texts.str.strip() != ""
    numbers = pd.to_numeric(texts.where(there), errors="coerce")
    coded = texts.str.fullmatch(r"\s*[+-]?0[0-9]+\s*")
    if (np.isfinite(numbers.to_numpy(dtype=float)) & ~coded)[there].all():
        return numbers
    return texts.astype(object).where(there, None)


def ids_like(texts: pd.Series, known: Vocabulary) -> tuple[pd.Series, np.ndarray]:
    """Return ids in the type of the known ids, and which of them had to be made up.

    Where integers are known, a text that is none gets an integer that is neither known nor in the table: the row has
    an unknown id, and the other rows keep theirs.

    Returns
    -------
    ids : Series of str or int64, shape (n,)
    strange : array of bool, shape (n,)
    """
    if known.ids.dtype == object:
        return texts.reset_index(drop=True), np.zeros(len(texts), bool)
    codes, distinct = pd.factorize(texts)
    values = [integer_of(text) for text in distinct]
    strange = np.array([value is None for value in values], bool)
    taken = {value for value in values if value is not None}
    unused = unused_integers(known, taken)
    ids = np.array([next(unused) if value is None else value for value in values], np.int64)
    return pd.Series(ids[codes]), strange[codes]


def unused_integers(known: Vocabulary, taken: Set[int] = frozenset()) -> Iterator[int]:
    """Yield integers that are neither known nor taken: from one above the largest known id, then from -1 down."""
    for value in itertools.chain(range(int(known.ids[-1]) + 1, 2**63), range(-1, -(2**63), -1)):
        if value not in taken and known.index(value, missing=-1) < 0:
            yield value


# --- writing ----------------------------------------------------------------------------------------------------------

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")


def check_output(path: str, suffixes: Sequence[str]) -> None:
    """Refuse a path that cannot be written, or whose suffix names another format, before the work.

    Raises
    ------
    TableError
        The name ends in none of the suffixes. A name without a suffix, a device and a pipe take what comes.
    OSError
        As `minicf.files.check_writable` says.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) and not os.path.isdir(os.path.dirname(path)):
        raise TableError(f"{path} is an address; the output must be a local file")
    files.check_writable(path)
    name = os.path.basename(path)
    if (
        (not os.path.exists(path) or os.path.isfile(path))
        and "." in name[1:]
        and not name.lower().endswith(tuple(suffixes))
    ):
        raise TableError(f"{path} has the suffix of another format; it must end in {' or '.join(suffixes)}")


def write(frame: pd.DataFrame, path: str, header: bool = True) -> None:
    """Write a table as UTF-8: to standard output for "-", tabs for .tsv, compressed for .gz."""
    if path != "-":
        name = path.lower()
        data = frame.to_csv(index=False, sep="\t" if name.endswith((".tsv", ".tsv.gz")) else ",").encode()
        with files.atomic(path) as file:
            file.write(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
        return
    if sys.stdout is None or sys.stdout.closed:
        raise TableError("standard output is closed; write to a file with --output")
    shown = frame.copy()
    for name in shown.columns:
        # Ids go on into pipes as they are; a title is only read.
        if name == "title" or (sys.stdout.isatty() and not is_numeric_dtype(shown[name])):
            shown[name] = [harmless(cell) if isinstance(cell, str) else cell for cell in shown[name]]
    if sys.stdout.isatty():
        shown.columns = [harmless(name) for name in shown.columns]
    sys.stdout.flush()
    sys.stdout.buffer.write(shown.to_csv(index=False, header=header).encode())
    sys.stdout.buffer.flush()


def formulas(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return a table in which no text begins as a formula of a spreadsheet does, and the number of those that did.

    They get an apostrophe in front, which a spreadsheet takes for "this is text" and hides.
    """
    frame, count = frame.copy(), 0
    for name in frame.columns:
        if not is_numeric_dtype(frame[name]):
            found = [isinstance(cell, str) and cell.startswith(tuple("=+-@\t\r")) for cell in frame[name]]
            count += sum(found)
            frame[name] = [f"'{cell}" if bad else cell for cell, bad in zip(frame[name], found, strict=True)]
    return frame, count
