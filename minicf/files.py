"""Files that can be trusted: one `.npz`, written whole or not at all, read without pickle.

A file holds named arrays and a header, a JSON text under the name ``header``. Its ``format`` says what the file is,
its ``version`` which layout it has.
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

VERSION = 2

READERS = {
    "minicf recommender": "minicf.load",
    "minicf checkpoint": "minicf.Trainer.load",
    "minicf weights": "minicf.load_weights",
}


class FileError(ValueError):
    """Report a file that minicf did not write, or that is damaged: the message names the file and the reason."""


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise what writing to `path` would raise for its folder or for a folder in its place, with a remedy."""
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        kind = NotADirectoryError if path.parent.exists() else FileNotFoundError
        raise kind(f"{path} cannot be written: {path.parent} is not a directory; make it, or name another")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; name a file in it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: {path.parent} is read-only; name another folder")


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Any:
    """Open a binary file that takes the place of `path` when the block ends well, and leaves it alone otherwise.

    The data go to a temporary file in the same folder, are synced to the disk and renamed: whatever happens,
    `path` is the old file or the new one. A symbolic link stays one; the file that it points to is replaced.

    A process that is killed outright leaves its temporary file behind. The next one that writes to `path` removes it:
    a writer holds a lock on its own, which ends with the process.
    """
    path = Path(os.path.realpath(path))
    check_folder(path)
    _sweep(path)
    temporary = None
    try:
        handle, temporary = _temporary(path)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes files that only the owner reads; a saved model is an ordinary file.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno:
            text = f"{error.strerror or error}; it was not written; the earlier file is unchanged"
            raise OSError(error.errno, text, str(path)) from error
        raise
    with contextlib.suppress(OSError):  # the rename itself, where the system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _temporary(path: Path) -> tuple[int, str]:
    """Make a new file beside `path`, locked."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        _lock(handle, wait=True)
        if os.path.exists(name):  # a sweep may have come between
            return handle, name
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove the temporary files of `path` that no living process holds."""
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
            with left.open("rb") as file:
                if _lock(file.fileno(), wait=False):
                    left.unlink()


def _lock(handle: int, wait: bool) -> bool:
    """Lock a file; return whether this process holds it now, never where files cannot be locked."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


def write(path: str | os.PathLike[str], kind: str, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write named arrays and a header.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    kind : str
        What the file is; `read` asks for it.
    header : mapping that JSON can hold
    arrays : mapping of name to array, none of dtype object
    """
    text = json.dumps({**header, "format": f"minicf {kind}", "version": VERSION})
    content = {name: np.asarray(value) for name, value in arrays.items()}
    if objects := [name for name, value in content.items() if value.dtype.hasobject]:
        raise TypeError(f"arrays of objects cannot be written without pickle: {objects}")
    with atomic(path) as file:
        content["header"] = np.frombuffer(text.encode(), np.uint8)
        np.savez(file, **content)  # type: ignore[arg-type]


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write` wrote.

    Returns
    -------
    header : dict
    arrays : dict of arrays

    Raises
    ------
    FileNotFoundError
        No such file.
    FileError
        Damaged, cut short, of another kind, made by a newer version, or holding pickled objects. Nothing is
        executed, and nothing larger than the file itself is allocated.
    """
    path = Path(path)
    size = path.stat().st_size
    file = path.open("rb")  # after this, whatever goes wrong lies in what it holds
    try:
        with file, zipfile.ZipFile(file) as archive:
            # np.savez stores without compression: entries that are larger than the file are a forgery.
            if sum(info.file_size for info in archive.infolist()) > size:
                raise FileError(f"{path}: its entries claim more bytes than it has")
            arrays = {}
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise FileError(f"{path}: entry {info.filename!r} is not as minicf writes it")
                if not info.filename.endswith(".npy") or info.filename[:-4] in arrays:
                    raise FileError(f"{path}: unexpected entry {info.filename!r}")
                arrays[info.filename[:-4]] = _array(archive.read(info), path, info.filename)
    except FileError:
        raise
    except Exception as error:  # zipfile, and NumPy's parser of array headers, fail in a dozen ways
        raise FileError(
            f"{path} is damaged, or not a minicf file: {error}; take another copy, or save it again"
        ) from error
    if "header" not in arrays:
        raise FileError(f"{path} is a .npz file, but not of minicf: it has no header")
    try:
        header = json.loads(arrays.pop("header").tobytes().decode())
        if not isinstance(header, dict):
            raise ValueError("it is not an object")
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged: its header cannot be read ({error})") from error
    if header.get("format") != f"minicf {kind}":
        reader = READERS.get(str(header.get("format")))
        hint = f"; {reader} reads this one" if reader else ""
        raise FileError(f"{path} is a {header.get('format')!r} file; a 'minicf {kind}' file is needed here{hint}")
    version = header.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise FileError(
            f"{path} has format version {version}, this minicf reads up to {VERSION}: install a newer minicf"
        )
    return header, arrays


def _array(data: bytes, path: Path, name: str) -> np.ndarray:
    """Read one `.npy` entry, its claims checked against its bytes before anything is allocated."""
    file: BinaryIO = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise FileError(f"{path}: entry {name!r} has array format {version}")
    if dtype.hasobject:
        raise FileError(f"{path}: entry {name!r} holds pickled objects, which minicf never reads")
    count = 1
    for n in shape:
        count *= n
    if count < 0 or count * dtype.itemsize != len(data) - file.tell():
        raise FileError(f"{path}: entry {name!r} claims shape {shape}, but holds {len(data) - file.tell()} bytes")
    array = np.frombuffer(data, dtype, count, file.tell()).reshape(shape, order="F" if fortran else "C")
    return array.copy()


def save_weights(path: str | os.PathLike[str], weights: Mapping[str, Any]) -> None:
    """Write a dict of weights (names and shapes as in `Trainer.weights`) to one `.npz`."""
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights is a {type(weights).__name__}; it must be a dict of arrays by name")
    for name, value in weights.items():
        if not isinstance(name, str) or np.asarray(value).dtype.kind not in "iufO":
            raise TypeError(f"weights[{name!r}] is {np.asarray(value).dtype}; it must be an array of numbers")
    write(path, "weights", {}, {f"weights.{name}": value for name, value in weights.items()})


def load_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the dict that `save_weights` wrote, for ``Trainer(weights=...)``."""
    return section(read(path, "weights")[1], "weights")


def section(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names start with ``prefix.``, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in arrays.items() if name.startswith(f"{prefix}.")}


def pack_texts(texts: Iterable[str | None]) -> dict[str, np.ndarray]:
    """Pack texts into two arrays: ``bytes`` (UTF-8, one after another) and ``ends`` (int64; -1 for None)."""
    encoded = [None if text is None else text.encode("utf-8", "surrogatepass") for text in texts]
    ends, at = np.full(len(encoded), -1, np.int64), 0
    for i, data in enumerate(encoded):
        if data is not None:
            at += len(data)
            ends[i] = at
    return {"bytes": np.frombuffer(b"".join(filter(None, encoded)), np.uint8), "ends": ends}


def unpack_texts(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the texts that `pack_texts` packed, an array of objects; ValueError for other arrays."""
    data, ends = arrays["bytes"], arrays["ends"]
    if data.dtype != np.uint8 or ends.dtype != np.int64 or data.ndim != 1 or ends.ndim != 1:
        raise ValueError("texts are not stored as bytes and ends")
    stored, texts, at = data.tobytes(), np.full(len(ends), None, object), 0
    for i, end in enumerate(ends.tolist()):
        if end != -1:
            if not at <= end <= len(stored):
                raise ValueError(f"text {i} ends at {end}, after {at} of {len(stored)} bytes")
            texts[i] = stored[at:end].decode("utf-8", "surrogatepass")
            at = end
    if at != len(stored):
        raise ValueError(f"{len(stored) - at} bytes are left after the last text")
    return texts
