"""Files that can be trusted: one `.npz`, written whole or not at all, read without pickle.

A file holds named arrays and a header, a JSON text under the name ``header``. Its ``format`` says what the file is,
its ``version`` which layout it has.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import json
import os
import secrets
import stat
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


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise what writing to `path` would raise, with a remedy, before the work whose result is to go there.

    A file is made beside `path` and removed again; `path` itself is not touched. A FIFO or a character device (a
    terminal, ``/dev/null``) is written to straight away and passes.

    Raises
    ------
    OSError
        FileNotFoundError, NotADirectoryError, IsADirectoryError or PermissionError where they fit: there is no such
        folder, something else is in the way, the name is too long, nothing can be written there.
    """
    direct, old = _inspect(path)
    if not direct:
        real = Path(os.path.realpath(path))
        try:
            handle, temporary = _temporary(real, old)
            os.close(handle)
            os.unlink(temporary)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; name another file", str(real)) from error


def _inspect(path: str | os.PathLike[str]) -> tuple[bool, os.stat_result | None]:
    """Return whether `path` is written to as it stands, and the status of the file that is there; refuse the rest."""
    real, given = Path(os.path.realpath(path)), os.fspath(path)
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    except NotADirectoryError:
        old = None  # said below
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; name another file", given) from error
    if not given or given.endswith(os.sep) or (old is not None and stat.S_ISDIR(old.st_mode)):
        raise IsADirectoryError(f"{given!r} is a directory; name a file in it")
    if old is not None and (_own_handle(path) is not None or stat.S_ISFIFO(old.st_mode) or stat.S_ISCHR(old.st_mode)):
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} cannot be written; name another file")
        return True, old
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, f"it is a {_kind(old)}, not a file; name another", given)
    if not real.parent.is_dir():
        kind = NotADirectoryError if real.parent.exists() else FileNotFoundError
        raise kind(f"{real} cannot be written: {real.parent} is not a directory; make it, or name another")
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{real} cannot be written: {real.parent} is read-only; name another folder")
    return False, old


def _kind(status: os.stat_result) -> str:
    kinds = {"directory": stat.S_ISDIR, "FIFO": stat.S_ISFIFO, "block device": stat.S_ISBLK, "socket": stat.S_ISSOCK}
    return next((name for name, holds in kinds.items() if holds(status.st_mode)), "device")


def _own_handle(path: str | os.PathLike[str]) -> int | None:
    """Return the handle of this process that `path` stands for, as /dev/stdout and the shell's >(command) do.

    Where it leads to a file, somebody is amid writing there: one put in its place would lose the rest.
    """
    at = os.path.abspath(path)
    for _ in range(40):  # the system's own limit on links
        folder, name = os.path.realpath(os.path.dirname(at)), os.path.basename(at)
        if folder == f"/proc/{os.getpid()}/fd" and name.isdecimal():
            return int(name)
        if not os.path.islink(at):
            break
        at = os.path.join(folder, os.readlink(at))
    return None


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Any:
    """Open a binary file that takes the place of `path` when the block ends well, and leaves it alone otherwise.

    The data go to a temporary file in the same folder, are synced to the disk and renamed: whatever happens,
    `path` is the old file or the new one, and the new one has the old one's mode and, where the system allows it,
    owner. A symbolic link stays one; the file that it points to is replaced. A FIFO or a character device takes all
    the data at the end of the block.

    A process that is killed outright leaves its temporary file behind. The next one that writes to `path` removes it:
    a writer holds a lock on its own, which ends with the process.
    """
    direct, old = _inspect(path)
    if direct:
        data = io.BytesIO()
        yield data
        _write_straight(path, data)
        return
    path = Path(os.path.realpath(path))
    _sweep(path)
    temporary = None
    try:
        handle, temporary = _temporary(path, old)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if old is not None:
                _keep_owner_and_mode(file.fileno(), old)
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


def _write_straight(path: str | os.PathLike[str], data: io.BytesIO) -> None:
    own = _own_handle(path)
    try:
        with os.fdopen(os.dup(own), "wb") if own is not None else open(path, "wb") as file:
            file.write(data.getbuffer())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; it was not written, or in part", os.fspath(path)) from error


def _keep_owner_and_mode(handle: int, old: os.stat_result) -> None:
    if not hasattr(os, "fchown"):
        return
    mode, new = stat.S_IMODE(old.st_mode), os.fstat(handle)
    if new.st_uid != old.st_uid:
        with contextlib.suppress(OSError):  # only root may give files away
            os.fchown(handle, old.st_uid, -1)
    if new.st_gid != old.st_gid:
        try:
            os.fchown(handle, -1, old.st_gid)
        except OSError:
            mode &= ~0o070  # they were another group's rights
    os.fchmod(handle, mode)


def _temporary(path: Path, old: os.stat_result | None) -> tuple[int, str]:
    """Make a new file beside `path`, locked; what takes the place of an old file is the owner's alone until then."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        name = str(path.parent / f".{_stem(path)}.{secrets.token_hex(4)}.tmp")
        try:
            handle = os.open(name, flags, 0o666 if old is None else 0o600)
        except FileExistsError:
            continue
        _lock(handle, wait=True)
        if os.path.exists(name):  # a sweep may have come between
            return handle, name
        os.close(handle)


def _stem(path: Path) -> str:
    """The name of `path` within the names of its temporary files, which must not exceed what a folder can hold."""
    data = os.fsencode(path.name)
    return path.name if len(data) <= 100 else hashlib.sha256(data).hexdigest()


def _sweep(path: Path) -> None:
    """Remove the temporary files of `path` that no living process holds."""
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f".{glob.escape(_stem(path))}.????????.tmp"):
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
        No regular file (a FIFO, a device), damaged, cut short, of another kind, made by a newer version, or holding
        pickled objects. Nothing is executed, and nothing larger than the file itself is allocated.
    """
    path = Path(path)
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path} is a directory; name a file in it")
    if not stat.S_ISREG(status.st_mode):  # one without an end, or without a beginning to go back to
        raise FileError(f"{path} is a {_kind(status)}; it must be a regular file: copy what it gives to one")
    size = status.st_size
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
