"""Tables of text: which files are read, as what, and that every other is refused by name, line and remedy."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import socket
import sys
import zipfile

import pandas as pd
import pytest

from minicf import tables
from minicf.data import Vocabulary
from minicf.tables import TableError

COLUMNS = ["userId", "movieId", "rating"]
TEXT = "userId,movieId,rating\nZoë,1,3\nŁukasz,2,4.5\n"
ROWS = [["Zoë", "1", "3"], ["Łukasz", "2", "4.5"]]


def rows(path, data: bytes | str, columns=COLUMNS, **options):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return tables.read(str(path), columns, **options).to_numpy().tolist()


def refused(path, data: bytes | str, message: str, columns=COLUMNS, **options):
    with pytest.raises(TableError, match=message) as caught:
        rows(path, data, columns, **options)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_utf_is_known_by_its_mark(tmp_path, encoding):
    assert rows(tmp_path / "t.csv", TEXT.encode(encoding)) == ROWS
    big = {"utf-16": b"\xfe\xff" + TEXT.encode("utf-16-be"), "utf-32": b"\0\0\xfe\xff" + TEXT.encode("utf-32-be")}
    assert rows(tmp_path / "t.csv", big.get(encoding, TEXT.encode())) == ROWS


def test_another_encoding_is_named_and_a_mark_says_more(tmp_path):
    assert rows(tmp_path / "t.csv", TEXT.replace("Ł", "L").encode("cp1252"), encoding="cp1252")[0][0] == "Zoë"
    assert rows(tmp_path / "t.csv", TEXT.encode("utf-16-le"), encoding="utf-16-le") == ROWS
    assert rows(tmp_path / "t.csv", TEXT.encode("utf-8-sig"), encoding="cp1252") == ROWS


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"userId,movieId,rating\na,1,3\nZo\xeb,1,3\n", {}, "UTF-8: line 3, byte 3 is 0xeb; .* --encoding cp1252"),
        (b"userId,movieId,rating\r\na,1,3\r\xff", {}, "line 3, byte 1 is 0xff"),
        (b"\xff\xfea\0\0\xd8b", {}, "UTF-16-LE: line 1, byte 3 is 0x00; give its right --encoding"),
        (TEXT.encode("utf-16-le"), {}, "is not in UTF-8: line 2|line 1 holds a null character.*utf-16-le"),
        (b"userId,movieId,rating\na,1,3\nb\0,1,3\n", {}, "line 3 holds a null character"),
        (TEXT.encode(), {"encoding": "ascii"}, "ASCII: line 2, byte 3 is 0xc3; give its right --encoding"),
    ],
)
def test_bytes_that_are_no_text_are_refused_by_line_and_byte(tmp_path, data, options, message):
    refused(tmp_path / "t.csv", data, message, **options)


@pytest.mark.parametrize("name", ["klingon", "rot13", "", "hex", "a\0b", "undefined"])
def test_encodings_that_are_none(name):
    with pytest.raises(TableError, match=r"^encoding is .* it must be one that Python knows"):
        tables.check_encoding(name)


def test_a_pipe_is_utf8_whatever_the_locale(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode()), encoding="cp1252"))
    assert tables.read("-", COLUMNS).to_numpy().tolist() == ROWS
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out := io.BytesIO(), encoding="cp1252"))
    tables.write(pd.DataFrame({"userId": ["Łukasz"]}), "-")
    assert out.getvalue().decode() == "userId\nŁukasz\n"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TableError, match="standard input is closed"):
        tables.read("-", COLUMNS)


# --- compression ------------------------------------------------------------------------------------------------------


def zipped(**names: str) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        for name, text in names.items():
            archive.writestr(name.replace("__slash__", "/"), text)
    return file.getvalue()


PACKED = {
    "gz": gzip.compress(TEXT.encode()),
    "bz2": bz2.compress(TEXT.encode()),
    "xz": lzma.compress(TEXT.encode()),
    "zip": zipped(**{"ratings.csv": TEXT, "__MACOSX/._ratings.csv": "x", "folder/": "", ".DS_Store": "x"}),
}


@pytest.mark.parametrize("kind", list(PACKED))
def test_compressed_files_are_known_by_what_they_hold(tmp_path, kind, monkeypatch):
    for name in (f"t.csv.{kind}", f"t.csv.{kind.upper()}", "t.csv", "t.csv.gz"):
        assert rows(tmp_path / name, PACKED[kind]) == ROWS
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PACKED[kind])))
    assert tables.read("-", COLUMNS).to_numpy().tolist() == ROWS


@pytest.mark.parametrize("kind", list(PACKED))
def test_damaged_compressed_files(tmp_path, kind):
    data = PACKED[kind]
    for end in (len(data) // 2, len(data) - 3, 12):
        refused(tmp_path / f"t.csv.{kind}", data[:end], f"is a damaged {kind[:2]}.* file, or cut short")
    refused(tmp_path / f"t.{kind}", TEXT, "is named like a .* file and is none; name it after what it holds")


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("r.json", b'[{"userId": 1}]', "JSON"),
        ("r.csv", b'{"userId": 1}\n', "JSON"),
        ("r.csv", b"<html>404", "HTML or XML"),
        ("r.parquet", b"PAR1\x15\0", "Parquet"),
        ("r.csv", b"%PDF-1.4", "PDF"),
        ("r.csv", b"SQLite format 3\0", "SQLite"),
        ("r.csv", b"\x80\x04\x95", "pickle"),
        ("r.7z", b"7z\xbc\xaf\x27\x1c", "7z"),
        ("r.rar", b"Rar!\x1a\x07\0", "RAR"),
        ("r.csv.gz", gzip.compress(gzip.compress(b"a,b", mtime=0), mtime=0), "gzip"),
        ("r.lzma", lzma.compress(b"a", lzma.FORMAT_ALONE), "LZMA"),
        ("r.tar.gz", gzip.compress(b"r.csv".ljust(257, b"\0") + b"ustar", mtime=0), "tar"),
        ("r.csv.Z", b"\x1f\x9d\x90", "compress"),
    ],
)
def test_files_of_other_formats_are_called_by_name(tmp_path, name, data, kind):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TableError, match=rf"{name} holds a {kind} file; it must be a CSV file"):
        tables.read(str(tmp_path / name), ["userId"])


def test_a_sheet_of_excel_is_called_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "r.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(TableError, match="is an Excel file; save the sheet as CSV"):
        tables.read(str(tmp_path / "r.xlsx"), ["userId"])


def test_archives_of_another_number_of_files(tmp_path):
    refused(tmp_path / "t.zip", zipped(a=TEXT, b=TEXT), "holds 2 files: 'a', 'b'; it must hold one CSV file")
    refused(tmp_path / "t.zip", zipped(), "holds 0 files; it must hold one")
    refused(tmp_path / "t.csv.zst", b"\x28\xb5\x2f\xfdxx", "is compressed with zstd; decompress it first: zstd -d")
    refused(tmp_path / "t.csv.zst", TEXT, "is named like a zstd file and is none")


# --- places -----------------------------------------------------------------------------------------------------------


def test_only_local_files(tmp_path):
    for path in ("http://localhost:1/r.csv", "https://a.b/r.csv", "s3://b/r.csv", "file:///r.csv"):
        with pytest.raises(TableError, match="is an address; only local files are read: download it"):
            tables.read(path, COLUMNS)
    with pytest.raises(TableError, match="does not exist"):
        tables.read(str(tmp_path / "no.csv"), COLUMNS)
    with pytest.raises(TableError, match="is a folder; it must be a CSV file"):
        tables.read(str(tmp_path), COLUMNS)
    if os.path.exists("/dev/zero"):
        with pytest.raises(TableError, match="is a device; it must be a CSV file"):
            tables.read("/dev/zero", COLUMNS)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(TableError, match="is a device"):
            tables.read(str(tmp_path / "socket"), COLUMNS)


@pytest.mark.parametrize("name", ["l.csv", "l.CSV", "l.tsv", "l.csv.gz", "lists", ".hidden", "a.b.csv"])
def test_names_that_tables_may_have(tmp_path, name):
    tables.check_output(str(tmp_path / name), tables.TABLES)
    frame = pd.DataFrame({"a": ["x,y", 'say "hi"', "tab\there"], "b": [1, 2, 3]})
    tables.write(frame, str(tmp_path / name))
    assert tables.read(str(tmp_path / name), ["a", "b"]).a.tolist() == frame.a.tolist()
    data = (tmp_path / name).read_bytes()
    assert data.startswith(b"\x1f\x8b") is name.endswith(".gz")
    assert (b"a\tb" in data) is name.endswith(".tsv")


@pytest.mark.parametrize("name", ["l.parquet", "l.xlsx", "l.json", "l.gz", "l.csv.zip", "l.csv.bak", "l.npz"])
def test_names_of_other_formats(tmp_path, name):
    with pytest.raises(TableError, match=re.escape(name) + " has the suffix of another format; it must end in .csv or"):
        tables.check_output(str(tmp_path / name), tables.TABLES)


def test_outputs_that_are_no_files(tmp_path):
    with pytest.raises(TableError, match="is an address; the output must be a local file"):
        tables.check_output("http://a/l.csv", tables.TABLES)
    with pytest.raises(IsADirectoryError):
        tables.check_output(str(tmp_path), tables.TABLES)
    with pytest.raises(OSError, match="too long"):
        tables.check_output(str(tmp_path / ("n" * 300)), tables.TABLES)
    tables.check_output(str(tmp_path / ("n" * 251 + ".csv")), tables.TABLES)
    tables.check_output(os.devnull, tables.TABLES)
    tables.write(pd.DataFrame({"a": [1]}), os.devnull)
    assert not os.path.isfile(os.devnull)


# --- lines, quotes, headers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('userId\tmovieId\trating\tnote\na\t1\t3\t"\nb\t2\t4\tx\nc\t3\t5\t"\n', 2),
        ('userId\tmovieId\trating\tnote\na\t1\t3\tx\nb\t2\t4\t"open\n', 3),
        ('userId,movieId,rating,note\na,1,3,"two\nlines"\n', 2),
        ('userId,movieId,rating,note\na,1,3,"say \\"hi\\""\n', 2),
        ('userId,movieId,rating,note\r\na,1,3,x\r\n"b"c,1,3,x\r\n', 3),
        ('userId,movieId,rating\n\n"a,1,3\n', 3),
        ('"userId,movieId,rating\na,1,3\n', 1),
    ],
)
def test_quotes_that_would_swallow_something_are_refused_by_line(tmp_path, text, line):
    refused(tmp_path / "t.csv", text, rf'line {line}: a value that begins with a quote .* as "" \(not as')


def test_quotes_that_are_right(tmp_path):
    text = 'userId,movieId,rating\n"a, b",1,3\n"say ""hi""",2,4\n"",3,5\n12" disk,4,1\n"C:\\",5,2\n'
    users = [row[0] for row in rows(tmp_path / "t.csv", text)]
    assert users == ["a, b", 'say "hi"', "", '12" disk', "C:\\"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_one_row_for_each_line(tmp_path, end, mark):
    text = end.join(mark.join(row) for row in [COLUMNS, ["a", "1", "3"], ["b\u2028\x0b\x85", "2", "4"], ["c", "3", ""]])
    assert rows(tmp_path / "t.csv", text) == [["a", "1", "3"], ["b\u2028\x0b\x85", "2", "4"], ["c", "3", ""]]
    assert rows(tmp_path / "t.csv", end + text + end + end) == rows(tmp_path / "t.csv", text)


def test_separators(tmp_path):
    assert rows(tmp_path / "t.csv", "sep=;\nuserId;movieId;rating\na;1;3\n") == [["a", "1", "3"]]
    assert rows(tmp_path / "t.csv", '"sep=|"\r\nuserId|movieId|rating\r\na|1|3\r\n') == [["a", "1", "3"]]
    assert rows(tmp_path / "t.csv", "userId;movieId;rating;a,b\na;1;3;x,y\n") == [["a", "1", "3"]]
    refused(tmp_path / "t.csv", "sep=;\n", "is empty")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("196,242,3\n1,2,3\n", "no column .*its first line is '196', '242', '3': if that is a rating and no header"),
        ("alice,matrix,5\nbob,matrix,3\n", "if that is a rating and no header, write one above it"),
        ("userId,movieId,rating,rating\na,1,3,4\n", "has 2 columns 'rating'; rename or drop all but one"),
        ("userId,userId,movieId,rating\na,b,1,3\n", "has 2 columns 'userId'"),
        ("userId,movieId\na,1\n", "has no column 'rating'; it has 'userId', 'movieId'; do this"),
        ("", "is empty; it must have a header"),
        ("\n \n", "is empty"),
        ("userId,movieId,rating\n\n", "has no rows"),
        ("userId,movieId,rating\na,1,3\n\nb,1,3,4\n", "Expected 3 fields in line 4, saw 4"),
        ("userId,movieId,rating\na,1,3,4\nb,1,3,4\n", "rows longer than its header; quote values that contain ','"),
    ],
)  # fmt: skip
def test_headers_and_lengths(tmp_path, text, message):
    refused(tmp_path / "t.csv", text, message, remedy="do this")


def test_a_first_row_is_not_taken_for_a_header(tmp_path):
    refused(tmp_path / "t.csv", "196,242,3\n1,2,3\n", "if that is a rating and no header", ["196", "242", "3"])
    assert rows(tmp_path / "t.csv", "0,1,2\na,b,3\n", ["0", "1", "2"]) == [["a", "b", "3"]]  # made up by pandas


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("1.0", 1), ("1 ", 1), ("\t1\u00a0", 1), ("1.", 1), ("-3", -3), ("0", 0), ("16777217.0", 2**24 + 1),
        ("9007199254740993", 2**53 + 1), ("9223372036854775807", 2**63 - 1),
        ("02", None), ("-0", None), ("+1", None), ("1_0", None), ("٣", None), ("1e3", None), ("1.5", None), ("", None),
        ("guest", None), ("9223372036854775808", None), ("9" * 5000, None), ("0x1", None), ("nan", None),
    ],
)  # fmt: skip
def test_integer_ids(text, value):
    assert tables.integer_of(text) == value


def test_what_is_no_integer_is_one_unknown_id():
    known = Vocabulary([1, 2, 7])
    ids, strange = tables.ids_like(pd.Series(["1", "guest", "7.0", "8", "guest", "02"], dtype=str), known)
    assert ids.tolist() == [1, 9, 7, 8, 9, 10]
    assert strange.tolist() == [False, True, False, False, True, True]
    ids, strange = tables.ids_like(pd.Series(["02", "1.0"], dtype=str), Vocabulary(["02", "1"]))
    assert ids.tolist() == ["02", "1.0"]
    assert not strange.any()
    top = Vocabulary([-1, 2**63 - 1])
    assert tables.ids_like(pd.Series(["x", "-2"], dtype=str), top)[0].tolist() == [-3, -2]


# --- terminals and spreadsheets ---------------------------------------------------------------------------------------


def test_no_control_character_reaches_a_terminal(capsys):
    title = "\x1b[31mRed\x9b2J\r\n\u202eevil\u2028茶 é"
    safe = r"\x1b[31mRed\x9b2J\r\n\u202eevil\u2028茶 é"
    assert tables.harmless(title) == safe
    assert tables.harmless("Amélie — 茶 👩‍🚀") == "Amélie — 茶 👩‍🚀"
    tables.write(pd.DataFrame({"title": [title, None]}), "-")
    assert capsys.readouterr().out == f'title\n{safe}\n""\n'


def test_formulas():
    frame = pd.DataFrame({"title": ["=1+1", "+x", "-y", "@z", "a=b", None], "score": [-1.0] * 6})
    safe, count = tables.formulas(frame)
    assert count == 4
    assert safe.title.tolist()[:5] == ["'=1+1", "'+x", "'-y", "'@z", "a=b"]
    assert safe.score.tolist() == [-1.0] * 6
