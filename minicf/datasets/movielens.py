"""MovieLens files of every release, and the set that comes with minicf."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from minicf.data.checks import frozen
from minicf.data.ids import Vocabulary
from minicf.data.ratings import Ratings, encode

# Ratings file, movies file. What comes first wins where a folder holds several.
MOVIELENS_FILES = (
    ("ratings.csv", "movies.csv"),  # latest, 20M, 25M, 32M
    ("ratings.dat", "movies.dat"),  # 1M, 10M
    ("u.data", "u.item"),  # 100K
)
COLUMN_TYPES = {"userId": "int64", "movieId": "int64", "rating": "float32", "timestamp": "int64"}
# The flags at the end of a line of u.item.
U_ITEM_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def load_movielens(path: str | PathLike[str] | None = None) -> Ratings:
    """Read MovieLens ratings with timestamps, titles and genres.

    Parameters
    ----------
    path : str or path, optional
        A folder or a zip file of any MovieLens set, or the ratings file in such a folder:
        ``ratings.csv`` (latest, 20M, 25M, 32M), ``ratings.dat`` (1M, 10M) or ``u.data`` (100K),
        with ``movies.csv``, ``movies.dat`` or ``u.item`` beside it. Without a path: the set that
        comes with minicf, ml-latest-small of October 2016 (100,004 ratings, 671 users, 9,066
        movies), in the order of the original file. Its terms of use, research only, and its
        citation are in ``minicf/datasets/MOVIELENS.txt``.

    Returns
    -------
    Ratings
        ``titles`` read "Title (year)", ``genres`` are joined by "|".

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`, or no ratings file in it.
    ValueError
        If a file is damaged or not of its format.
    """
    if path is None:
        return _load_packaged()
    source = Path(path).expanduser()
    if source.is_dir():
        return _load_from_names(source, [p for d in ("*", "*/*") for p in sorted(source.glob(d))])
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; it must be a folder or zip file of MovieLens")
    if any(source.name == ratings for ratings, _ in MOVIELENS_FILES):
        movies = dict(MOVIELENS_FILES)[source.name]
        return _load_from_names(source.parent, [source, source.with_name(movies)])
    try:
        with zipfile.ZipFile(source) as archive:
            names = [n for n in archive.namelist() if not n.startswith("__MACOSX/")]
            entries = [zipfile.Path(archive, n) for n in sorted(names, key=lambda n: n.count("/"))]
            return _load_from_names(source, entries)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{source} is not a zip file, or damaged ({error}); download it again") from error


def _load_packaged() -> Ratings:
    stored = resources.files("minicf.datasets") / "movielens.npz"
    with stored.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    user, users = encode(pd.Series(data["user_id"]), "userId")
    return Ratings._trusted(
        user,
        data["movie"].astype(np.int32),
        data["half_stars"].astype(np.float32) / 2,
        data["timestamp"].astype(np.int64),
        users,
        Vocabulary._trusted(data["movie_id"].astype(np.int64)),
        frozen(np.array(data["titles"].tobytes().decode().split("\n"), object)),
        frozen(np.array(data["genres"].tobytes().decode().split("\n"), object)),
    )


AnyPath = Path | zipfile.Path


def _load_from_names(source: Path, files: Iterable[AnyPath]) -> Ratings:
    """Load from the first known ratings file; files come with the outermost first."""
    by_name: dict[str, AnyPath] = {}
    for file in files:
        if file.is_file():
            by_name.setdefault(file.name, file)
    for ratings_name, movies_name in MOVIELENS_FILES:
        if ratings_name not in by_name:
            continue
        file = by_name[ratings_name]
        frame = _read_ratings(file)
        # A movies file from elsewhere would give wrong titles.
        movies = by_name.get(movies_name)
        beside = movies is not None and str(movies.parent) == str(file.parent)
        titles, genres = _read_movies(movies) if movies is not None and beside else (None, None)
        return Ratings.from_frame(
            frame,
            timestamp="timestamp" if "timestamp" in frame.columns else None,
            titles=titles,
            genres=genres,
        )
    expected = ", ".join(ratings for ratings, _ in MOVIELENS_FILES)
    present = ", ".join(sorted(by_name)[:8]) or "no files"
    raise FileNotFoundError(f"{source} holds none of {expected}; it holds {present}")


def _open(file: AnyPath) -> IO[bytes]:
    return file.open("rb")


def _read_ratings(file: AnyPath) -> pd.DataFrame:
    columns = list(COLUMN_TYPES)
    options: dict[str, Any]
    if file.name == "ratings.csv":
        with _open(file) as stream:
            header = stream.readline().decode("utf-8-sig", "replace").rstrip("\r\n")
        present = [name.strip('"') for name in header.split(",")]
        if not {"userId", "movieId", "rating"} <= set(present):
            raise ValueError(
                f"{file}: expected the columns userId, movieId, rating and timestamp, present: "
                f"{', '.join(present)[:200]}; read it with pandas and use Ratings.from_frame"
            )
        options = {"usecols": [name for name in columns if name in present]}
    else:
        # "::" as two separators of one character, so that pandas' fast parser can read it.
        colons = file.name == "ratings.dat"
        names = ["userId", "_1", "movieId", "_2", "rating", "_3", "timestamp"] if colons else columns
        options = {"sep": ":" if colons else "\t", "header": None, "names": names, "usecols": columns}
    try:
        with _open(file) as stream:
            return pd.read_csv(stream, dtype=COLUMN_TYPES, **options)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{file}: {_first_bad(file, options) or error}") from error


def _first_bad(file: AnyPath, options: Mapping[str, Any]) -> str | None:
    """Find the first value of a ratings file that is not a number; read again, slowly, as text."""
    try:
        with _open(file) as stream:
            text = pd.read_csv(stream, dtype=str, keep_default_na=False, **options)
    except ValueError:
        return None
    for name in text.columns:
        number = pd.to_numeric(text[name], errors="coerce")
        real = name == "rating"
        bad = (number.isna() if real else ~(number % 1 == 0)).to_numpy()
        if bad.any():
            row = int(bad.argmax())
            kind = "number" if real else "whole number"
            value = text[name].iloc[row]
            return f"rating {row} (from 0), {name}: {value!r} is not a {kind}; mend or drop it"
    return None


def _read_movies(file: AnyPath) -> tuple[pd.Series, pd.Series]:
    """Return titles and genres by movie id."""
    with _open(file) as stream:
        raw = stream.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # 100K and 1M are in latin-1
        text = raw.decode("latin-1")
    rows = list(_movie_rows(file, text))
    ids = [row[0] for row in rows]
    return (
        pd.Series([row[1] for row in rows], index=ids, dtype=object),
        pd.Series([row[2] for row in rows], index=ids, dtype=object),
    )


def _movie_rows(file: AnyPath, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield movie id, title and genres of each movie."""
    lines: Iterable[list[str]]
    if file.name == "movies.csv":
        lines = list(csv.reader(io.StringIO(text, newline="")))[1:]
    else:
        # Not splitlines(): it also cuts at characters that latin-1 has inside titles.
        separator = "::" if file.name == "movies.dat" else "|"
        lines = (line.rstrip("\r").split(separator) for line in text.split("\n"))
    for number, fields in enumerate(lines):
        if not any(fields):
            continue
        try:
            if file.name == "u.item":
                flags = fields[-len(U_ITEM_GENRES) :]
                genres = [g for g, flag in zip(U_ITEM_GENRES, flags, strict=True) if int(flag)]
                yield int(fields[0]), fields[1], "|".join(genres)
            else:
                movie_id, title, genre = fields
                yield int(movie_id), title, genre
        except (ValueError, IndexError) as error:
            raise ValueError(f"{file}: entry {number} (from 0) is not a movie: {'|'.join(fields)[:80]!r}") from error
