"""Damage model files in every way: each is refused by a `FileError`, or it works, with the weights unchanged if the
damage is no forgery.

``python -m tests.campaigns.damaged_files [files]``; 10,000 by default. Bits are flipped, ends cut off, pieces
overwritten, doubled and taken out; under right checksums, headers are forged, arrays claim other shapes and types and
other contents, pickles lie in wait, entries are missing, doubled, compressed or foreign. Memory and time of each are
watched.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from minicf.files import FileError
from minicf.recommender import load
from tests.campaigns.models import trained

FORGED = ("header", "array")
"""Under right checksums: what is well formed and finite is taken for what it says."""

MEGABYTES = 200
SECONDS = 5.0

Entries = dict[str, bytes]


class Trap:
    """Unpickling this would be seen."""

    sprung = False

    def __reduce__(self) -> Any:
        return spring, ()


def spring() -> None:
    Trap.sprung = True


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


def claimed(dtype: str, shape: str, data: bytes) -> bytes:
    """An array that says of itself what it wants."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zipped(entries: Entries, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, float("nan"), float("inf"), "", "x", "dot_bias", "text",
    "int", [], {}, [1, 2], [[]], {"kind": "DotBias"}, {"kind": "Net", "n_factors": 10**12}, "a" * 1000, [0] * 100,
    {"kind": "SGD", "lr": "fast"}, {"kind": "Cosine", "epochs": -1},
]  # fmt: skip
DTYPES = [
    "'|O'",
    "'<f8'",
    "'<f4'",
    "'<i8'",
    "'|u1'",
    "'<U9'",
    "'|V9'",
    "'<c16'",
    "[('a', '<f4')]",
    "'<M8[s]'",
    "'f4'*9",
]
SHAPES = ["(1000000000000,)", "(-1,)", "()", "(0,)", "(3,)", "(2, 2)", "(10**9, 10**9)", "(99999999999999999999,)", "5",
          "(1.5,)", "(True,)", "(" * 50 + ")" * 50]  # fmt: skip


def changed_header(random: np.random.RandomState, entries: Entries) -> Entries:
    header = json.loads(entries["header.npy"][128:].decode())
    at: Any = header
    while True:
        key = list(at)[random.randint(len(at))] if isinstance(at, dict) else random.randint(len(at))
        if isinstance(at[key], dict | list) and len(at[key]) and random.uniform() < 0.7:
            at = at[key]
            continue
        if random.uniform() < 0.2:
            del at[key]
        else:
            at[key] = VALUES[random.randint(len(VALUES))]
        break
    return entries | {"header.npy": npy(np.frombuffer(json.dumps(header).encode(), np.uint8))}


def changed_array(random: np.random.RandomState, entries: Entries) -> Entries:
    """Another array, whole and with a right checksum, in the place of one."""
    name = [n for n in entries if n != "header.npy"][random.randint(len(entries) - 1)]
    array = np.load(io.BytesIO(entries[name]))
    kind = random.randint(7)
    if kind == 0:
        data = claimed(DTYPES[random.randint(len(DTYPES))], SHAPES[random.randint(len(SHAPES))], array.tobytes())
    elif kind == 1:
        data = npy(np.array([Trap()], object))
    elif kind == 2:
        data = pickle.dumps(Trap())
    elif kind == 3:
        data = npy(array[: len(array) // 2])
    elif kind == 4:
        data = npy(array.astype(random.choice(["f8", "i4", "i2", "c8", "U3", "?"])))
    elif kind == 5:
        data = npy(np.resize(array, random.randint(1, 9, size=random.randint(1, 4))))
    else:
        flat = array.copy().reshape(-1)
        if not flat.size:
            return entries | {name: b""}
        extreme = (
            [np.nan, np.inf, -np.inf, 1e38] if array.dtype.kind == "f" else [-1, 2**31 - 1, np.iinfo(array.dtype).max]
        )
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            flat[random.randint(flat.size)] = np.array(extreme[random.randint(len(extreme))]).astype(array.dtype)
        data = npy(flat.reshape(array.shape))
    return entries | {name: data}


def changed_entries(random: np.random.RandomState, entries: Entries) -> bytes:
    names = list(entries)
    name = names[random.randint(len(names))]
    kind = random.randint(6)
    rest = {n: data for n, data in entries.items() if n != name}
    if kind == 0:
        return zipped(rest)
    if kind == 1:
        return zipped(entries, zipfile.ZIP_DEFLATED)
    if kind == 2:
        return (
            zipped(entries | {"more.npy": npy(np.zeros(3))})
            if random.uniform() < 0.5
            else zipped(entries | {"a.txt": b"a"})
        )
    if kind == 3:
        return zipped(rest | {f"{name}x": entries[name]})
    if kind == 4:  # a bomb: little to read, much to unpack
        return zipped(rest | {name: npy(np.zeros(10_000_000))}, zipfile.ZIP_DEFLATED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of the double name
        file = io.BytesIO(zipped(entries))
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(name, entries[name])
    return file.getvalue()


def damaged(random: np.random.RandomState, whole: bytes, entries: Entries) -> tuple[str, bytes]:
    """A kind of damage and its result."""
    kind = ("bits", "cut", "piece", "header", "array", "entries", "foreign")[random.randint(7)]
    data = bytearray(whole)
    if kind == "bits":
        for _ in range(random.randint(1, 9)):
            data[random.randint(len(data))] ^= 1 << random.randint(8)
    elif kind == "cut":
        data = data[: random.randint(len(data))]
    elif kind == "piece":
        at, size = random.randint(len(data)), random.randint(1, 400)
        piece = [random.bytes(size), b"", bytes(data[at : at + size]) * 2, b"\0" * size, b"\xff" * size][
            random.randint(5)
        ]
        data[at : at + size] = piece
    elif kind == "header":
        data = bytearray(zipped(changed_header(random, entries)))
    elif kind == "array":
        data = bytearray(zipped(changed_array(random, entries)))
    elif kind == "entries":
        data = bytearray(changed_entries(random, entries))
    else:
        others = [pickle.dumps(Trap()), npy(np.array([Trap()], object)), zipped({"a.npy": npy(np.zeros(3))})]
        others += [b"", b"PK", b"\x93NUMPY", random.bytes(1000), whole[::-1]]
        data = bytearray(others[random.randint(len(others))])
    return kind, bytes(data)


def run(files: int, folder: Path, seed: int = 0) -> Counter:
    """Load so many damaged files; count "kind refused" and "kind harmless"."""
    random = np.random.RandomState(seed)
    counts: Counter = Counter()
    sources = []
    weights = []
    for text in (True, False):
        model = trained(12, text=text)
        weights.append({name: w.tobytes() for name, w in model.weights_.items()})
        path = folder / "whole.npz"
        model.save(path)
        with zipfile.ZipFile(path) as archive:
            sources.append((path.read_bytes(), {name: archive.read(name) for name in archive.namelist()}))
    path = folder / "damaged.npz"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(files):
        which = random.randint(2)
        kind, data = damaged(random, *sources[which])
        path.write_bytes(data)
        begin = time.perf_counter()
        try:
            model = load(path)
        except FileError as error:
            if str(path) not in str(error):
                raise AssertionError(f"{error} does not name the file") from error
            counts[f"{kind} refused"] += 1
        else:
            # What loads must work.
            ids = {model.user: model.users_.ids[:3], model.item: model.items_.ids[:3]}
            scores = model.predict(pd.DataFrame(ids))
            if not np.isfinite(scores).all():
                raise AssertionError("it loads, and predicts nonsense")
            model.recommend(model.users_.ids[:1], 3, exclude_seen=model.seen_ is not None)
            if kind not in FORGED and {name: w.tobytes() for name, w in model.weights_.items()} != weights[which]:
                raise AssertionError(f"{kind}: it loads, and the weights are others")
            counts[f"{kind} harmless"] += 1
        if Trap.sprung:
            raise AssertionError("a pickle was executed")
        if (seconds := time.perf_counter() - begin) > SECONDS:
            raise AssertionError(f"it took {seconds:.1f} s")
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if megabytes > MEGABYTES:
        raise AssertionError(f"memory grew by {megabytes:.0f} MB")
    counts["megabytes"] = round(megabytes)
    return counts


if __name__ == "__main__":
    warnings.simplefilter("error")
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as where:
        result = run(count, Path(where))
    for what, number in sorted(result.items()):
        print(f"{what:<20} {number:>6}")
