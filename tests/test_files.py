"""Files: they come back as they were, are written whole or not at all, and anything else is refused quickly."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile

import numpy as np
import pytest

import minicf
from minicf import files, registry
from minicf.files import FileError, load_weights, save_weights
from tests.cases import ALL_MODELS, Problem


@pytest.fixture
def weights():
    return minicf.DotBias(3).init_weights(4, 5)


@pytest.fixture
def saved(tmp_path, weights):
    path = tmp_path / "weights.npz"
    save_weights(path, weights)
    return path


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


def npy(array) -> bytes:
    """An array as NumPy writes it."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


def raw_npy(header: str, data: bytes = b"", version=(1, 0)) -> bytes:
    """An array file with any header."""
    text = header.encode()
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


def zipped(path, entries, compression=zipfile.ZIP_STORED):
    """A zip of entries, its checksums right."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def header(**changes) -> bytes:
    values = {"format": "minicf weights", "version": files.VERSION} | changes
    return npy(np.frombuffer(json.dumps(values).encode(), np.uint8))


# --- there and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", ALL_MODELS.values(), ids=ALL_MODELS)
def test_weights_come_back_bit_for_bit(tmp_path, model, dtype):
    weights = {name: w.astype(dtype) for name, w in model.init_weights(4, 5).items()}
    save_weights(tmp_path / "w.npz", weights)
    assert same(load_weights(tmp_path / "w.npz"), weights)


def test_odd_arrays_come_back(tmp_path):
    arrays = {
        "empty": np.zeros((0, 3), np.float32),
        "nothing": np.zeros(0),
        "number": np.array(3.5),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(20.0)[::3],
        "big-endian": np.arange(3, dtype=">i4"),
        "text": np.array(["a", "Ünï"]),
        "special": np.array([np.nan, np.inf, -0.0, 5e-324]),
        "bool": np.array([True, False]),
    }
    files.write(tmp_path / "x", "thing", {"a": [1, None, "ü"]}, arrays)
    head, back = files.read(tmp_path / "x", "thing")
    assert head == {"a": [1, None, "ü"], "format": "minicf thing", "version": files.VERSION}
    assert back.keys() == arrays.keys()
    for name, value in arrays.items():
        assert back[name].dtype == value.dtype, name
        assert back[name].shape == value.shape, name
        assert back[name].tobytes() == value.tobytes(), name
        assert back[name].flags.writeable


def test_the_file_is_a_plain_npz_without_pickle(saved, weights):
    with np.load(saved, allow_pickle=False) as archive:
        assert set(archive.files) == {"header"} | {f"weights.{name}" for name in weights}
        assert json.loads(archive["header"].tobytes())["format"] == "minicf weights"


def test_the_path_is_taken_as_it_is(tmp_path, weights):
    for path in (tmp_path / "model", str(tmp_path / "modèle.weights")):
        save_weights(path, weights)
        assert same(load_weights(path), weights)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "modèle.weights"]


def test_a_weights_file_starts_a_trainer(saved, weights):
    trainer = minicf.Trainer(minicf.DotBias(3), minicf.SGD(0.1), backend="numpy", weights=load_weights(saved))
    assert same(trainer.weights, {name: w.astype(np.float32) for name, w in weights.items()})


def test_arrays_of_objects_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"objects cannot be written without pickle: \['weights.b'\]"):
        save_weights(tmp_path / "w.npz", {"a": np.zeros(2), "b": np.array([None, 1])})
    with pytest.raises(TypeError):
        files.write(tmp_path / "w.npz", "thing", {"x": object()}, {})
    assert list(tmp_path.iterdir()) == []


# --- whole or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_failure_midway_keeps_the_old_file(tmp_path, saved, weights, monkeypatch, error):
    before = saved.read_bytes()

    def half(file, **arrays):
        file.write(b"PK\x03\x04 and then")
        raise error

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(type(error)):
        save_weights(saved, weights)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize("function", ["replace", "fsync", "fchmod"])
def test_a_failure_at_the_end_keeps_the_old_file(tmp_path, saved, monkeypatch, function):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="no"):
        save_weights(saved, {"a": np.zeros(3)})
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]


def test_the_old_file_is_there_until_the_new_one_is_whole(saved, monkeypatch):
    before, replace = saved.read_bytes(), os.replace
    seen = []

    def look(source, target):
        seen.append((saved.read_bytes(), set(load_weights(source))))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    save_weights(saved, {"a": np.zeros(3)})
    assert seen == [(before, {"a"})]
    assert set(load_weights(saved)) == {"a"}


def test_a_folder_that_is_not_there(tmp_path, weights):
    with pytest.raises(FileNotFoundError):
        save_weights(tmp_path / "no" / "w.npz", weights)
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "w.npz")


def test_a_folder_in_the_way(tmp_path, weights):
    (tmp_path / "w.npz").mkdir()
    with pytest.raises(OSError, match="directory"):
        save_weights(tmp_path / "w.npz", weights)
    with pytest.raises(OSError, match="directory"):
        load_weights(tmp_path / "w.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["w.npz"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_an_ordinary_file(tmp_path, weights, mask):
    before = os.umask(mask)
    try:
        save_weights(tmp_path / "w.npz", weights)
        (tmp_path / "plain").write_bytes(b"")
        assert os.umask(mask) == mask  # put back
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes["w.npz"] == modes["plain"] == 0o666 & ~mask


POSIX = pytest.mark.skipif(os.name != "posix", reason="FIFOs, devices, owners and modes of POSIX")


@POSIX
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400, 0o444])
def test_a_file_that_is_saved_over_keeps_its_mode(saved, mode):
    saved.chmod(mode)
    with files.atomic(saved) as file:
        (temporary,) = saved.parent.glob(".*.tmp")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600  # nobody reads it in the meantime
        file.write(b"new")
    assert saved.read_bytes() == b"new"
    assert stat.S_IMODE(saved.stat().st_mode) == mode


@POSIX
def test_a_file_that_is_saved_over_keeps_its_owner(saved, weights):
    if os.geteuid():
        pytest.skip("only root gives files away")
    os.chown(saved, 65534, 65533)
    saved.chmod(0o640)
    save_weights(saved, weights)
    status = saved.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65533, 0o640)


@POSIX
def test_rights_of_a_group_that_cannot_be_kept_are_dropped(saved, weights, monkeypatch):
    old = os.stat(saved)
    saved.chmod(0o664)

    def another(handle):
        return os.stat_result([*old[:5], old.st_gid + 1, *old[6:]])

    def fail(*_):
        raise PermissionError("not yours")

    monkeypatch.setattr(os, "fstat", another)
    monkeypatch.setattr(os, "fchown", fail)
    save_weights(saved, weights)
    monkeypatch.undo()
    assert stat.S_IMODE(saved.stat().st_mode) == 0o604


@POSIX
def test_saving_never_touches_the_umask(tmp_path, saved, weights, monkeypatch):
    """It belongs to the whole process: another thread's files would have another mode in the meantime."""

    calls = []
    monkeypatch.setattr(os, "umask", calls.append)
    save_weights(saved, weights)
    save_weights(tmp_path / "new", weights)
    assert not calls


@pytest.mark.parametrize("length", [1, 100, 101, 241, 242, 250, 255])
@pytest.mark.parametrize("letter", ["x", "ü", "日"])
def test_names_as_long_as_a_folder_holds(tmp_path, weights, length, letter):
    name = (letter * length).encode()[:length].decode(errors="ignore")
    path = tmp_path / (name + "x" * (length - len(name.encode())))
    for _ in range(2):
        files.check_writable(path)
        save_weights(path, weights)
        assert same(load_weights(path), weights)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("length", [256, 300, 5000])
def test_names_that_no_folder_holds_are_refused_before(tmp_path, weights, length):
    for write in (files.check_writable, lambda path: save_weights(path, weights)):
        with pytest.raises(OSError, match="name too long; name another file"):
            write(tmp_path / ("x" * length))
    assert list(tmp_path.iterdir()) == []


def reader(path) -> tuple[list[bytes], threading.Thread]:
    """What arrives at a FIFO."""
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(path.read_bytes()))
    thread.start()
    return found, thread


@POSIX
def test_a_fifo_gets_the_file_and_stays_one(tmp_path, saved, weights):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    link = tmp_path / "link"
    link.symlink_to("fifo")
    for target in (path, link):
        files.check_writable(target)
        found, thread = reader(path)
        save_weights(target, weights)
        thread.join(60)
        assert stat.S_ISFIFO(path.stat().st_mode)
        (tmp_path / "copy").write_bytes(found[0])
        assert same(load_weights(tmp_path / "copy"), weights)
    assert not list(tmp_path.glob(".*"))


@POSIX
def test_a_device_stays_one(tmp_path, weights):
    before = os.stat(os.devnull)
    link = tmp_path / "link"
    link.symlink_to(os.devnull)
    for target in (os.devnull, link):
        files.check_writable(target)
        save_weights(target, weights)
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
        assert os.stat(os.devnull).st_rdev == before.st_rdev
    assert link.is_symlink()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_device_that_is_full_is_an_error(weights):
    with pytest.raises(OSError, match=r"No space left.*it was not written, or in part") as caught:
        save_weights("/dev/full", weights)
    assert caught.value.filename == "/dev/full"


@POSIX
def test_nothing_reaches_a_fifo_from_a_block_that_fails(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # without a reader: opening it would wait
    block = files.atomic(tmp_path / "fifo")
    block.__enter__().write(b"half")
    with pytest.raises(ValueError, match="no"):
        block.gen.throw(ValueError("no"))


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no sockets among files")
def test_a_socket_is_refused_before(tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("socket")
        for write in (files.check_writable, lambda path: save_weights(path, weights)):
            with pytest.raises(OSError, match="it is a socket, not a file"):
                write("socket")
        refused("socket", "is a socket; it must be a regular file")
    assert stat.S_ISSOCK(os.stat("socket").st_mode)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="handles have no names here")
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("kind", ["file", "pipe", "deleted file"])
def test_the_output_of_a_process_is_written_where_it_stands(tmp_path, name, kind):
    """The shell's `(echo a; command; echo b) > file`, and `command | other`."""
    code = (
        "import os, sys; from minicf import files; files.check_writable(sys.argv[1]); os.write(1, b'a')\n"
        "if sys.argv[2]: os.unlink(sys.argv[2])\n"
        "with files.atomic(sys.argv[1]) as file: file.write(b'data')\n"
        "os.write(1, b'b')"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, name, str(out) if kind == "deleted file" else ""]
    with out.open("w+b") as file:
        output = subprocess.PIPE if kind == "pipe" else file
        done = subprocess.run(command, stdout=output, timeout=60)
        assert done.returncode == 0
        file.seek(0)
        assert (done.stdout if kind == "pipe" else file.read()) == b"adatab"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("exists", [True, False])
def test_a_check_leaves_nothing_behind(tmp_path, saved, exists):
    path = saved if exists else tmp_path / "new"
    before = {x.name: (x.read_bytes(), x.stat().st_mtime_ns) for x in tmp_path.iterdir()}
    files.check_writable(path)
    files.check_writable(str(path))
    assert {x.name: (x.read_bytes(), x.stat().st_mtime_ns) for x in tmp_path.iterdir()} == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_check_tries_the_folder(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match=f"{os.strerror(number)}; name another file") as caught:
        files.check_writable(tmp_path / "x")
    assert caught.value.errno == number


def test_a_check_refuses_what_is_no_place_for_a_file(tmp_path, saved):
    for path, error in [
        (tmp_path / "no" / "x", FileNotFoundError),
        (saved / "x", NotADirectoryError),
        (tmp_path, IsADirectoryError),
        (f"{tmp_path}/new/", IsADirectoryError),
        ("", IsADirectoryError),
    ]:
        with pytest.raises(error, match=r"name another|name a file in it"):
            files.check_writable(path)


@POSIX
@pytest.mark.parametrize("load", [load_weights, minicf.Trainer.load, minicf.load])
def test_only_regular_files_are_read(tmp_path, load):
    """A FIFO would wait for a writer, and /dev/zero has no end."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for path, kind in [(tmp_path / "fifo", "FIFO"), (tmp_path / "link", "FIFO"), ("/dev/zero", "device")]:
        with pytest.raises(FileError, match=f"is a {kind}; it must be a regular file"):
            load(path)
    with pytest.raises(IsADirectoryError, match="is a directory"):
        load(tmp_path)


# --- refused --------------------------------------------------------------------------------------------------------


def refused(path, match, kind="weights"):
    with pytest.raises(FileError, match=match) as caught:
        files.read(path, kind)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"P", b"PK\x05\x06", b"hello" * 1000, bytes(10_000)], ids=lambda d: repr(d[:5]))
def test_other_bytes_are_refused(tmp_path, data):
    path = tmp_path / "x"
    path.write_bytes(data)
    refused(path, "damaged, or not a minicf file")


def test_every_truncation_is_refused(saved, tmp_path):
    data = saved.read_bytes()
    path = tmp_path / "cut"
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        refused(path, "damaged|is not as minicf|claim")


def test_random_damage_is_refused_or_harmless(saved, weights, tmp_path):
    """Flipped, overwritten, cut out and doubled bytes: either nothing that counts was hit, or it is a FileError."""
    data = saved.read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "damaged"
    refusals = 0
    for _ in range(500):
        damaged = bytearray(data)
        at, n = int(random.integers(len(data))), int(random.integers(1, 20))
        match random.integers(4):
            case 0:
                damaged[at] ^= 1 << int(random.integers(8))
            case 1:
                damaged[at : at + n] = random.bytes(n)
            case 2:
                del damaged[at : at + n]
            case 3:
                damaged[at:at] = damaged[at : at + n]
        path.write_bytes(damaged)
        try:
            assert same(load_weights(path), weights)
        except FileError:
            refusals += 1
    assert refusals > 300  # most of the file is data under a checksum


def test_random_damage_under_right_checksums_is_refused_or_harmless(saved, tmp_path):
    """The damage is inside an array's own header, and the zip around it is made anew."""
    with zipfile.ZipFile(saved) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    random = np.random.default_rng(1)
    path = tmp_path / "damaged"
    refusals = 0
    for _ in range(500):
        name = list(entries)[random.integers(len(entries))]
        damaged = bytearray(entries[name])
        for _ in range(random.integers(1, 4)):
            damaged[int(random.integers(min(128, len(damaged))))] = int(random.integers(256))
        zipped(path, entries | {name: bytes(damaged)})
        try:
            load_weights(path)
        except FileError:
            refusals += 1
    assert refusals > 300


def test_a_foreign_npz_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    refused(tmp_path / "x.npz", "it has no header")


def test_another_kind_is_refused(saved, tmp_path):
    refused(saved, "is a 'minicf weights' file; a 'minicf checkpoint' file is needed", "checkpoint")
    with pytest.raises(FileError, match="'minicf checkpoint' file is needed"):
        minicf.Trainer.load(saved)
    refused(zipped(tmp_path / "x", {"header.npy": header(format=None)}), "is a None file")


@pytest.mark.parametrize("version", [files.VERSION + 1, 1000, "1", None, 1.5, []])
def test_a_newer_or_strange_version_is_refused(tmp_path, version):
    refused(zipped(tmp_path / "x", {"header.npy": header(version=version)}), "install a newer minicf")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"format": "minicf weights"'], ids=lambda t: t[:9]
)
def test_a_broken_header_is_refused(tmp_path, text):
    refused(zipped(tmp_path / "x", {"header.npy": npy(np.frombuffer(text, np.uint8))}), "header cannot be read")


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, (Trap.folder,))

    folder = ""


@pytest.mark.parametrize("name", ["header.npy", "weights.a.npy"])
def test_pickles_are_refused_and_never_run(tmp_path, name):
    Trap.folder = str(tmp_path / "sprung")
    trap = npy(np.array([Trap()], object))
    refused(
        zipped(tmp_path / "x", {"header.npy": header()} | {name: trap}), "pickled objects, which minicf never reads"
    )
    inside = raw_npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}\n", bytes(8))
    refused(zipped(tmp_path / "x", {"header.npy": header()} | {name: inside}), "pickled objects")
    bare = trap[trap.index(b"\n") + 1 :]
    refused(zipped(tmp_path / "x", {"header.npy": header()} | {name: bare}), "damaged")
    assert not os.path.exists(Trap.folder)
    with np.load(zipped(tmp_path / "x", {"a.npy": trap}), allow_pickle=True) as archive:
        archive["a"]
    assert os.path.exists(Trap.folder)  # the trap works


FORGED = {
    "huge": "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}",
    "huge product": "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296)}",
    "overflow to zero": "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
    "huge and empty": "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2)}",
    "negative": "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
    "two negatives": "{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -1)}",
    "no width": "{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000000,)}",
    "wide": "{'descr': '|V1000000000000', 'fortran_order': False, 'shape': (1,)}",
    "not a shape": "{'descr': '<f8', 'fortran_order': False, 'shape': 2}",
    "not a number": "{'descr': '<f8', 'fortran_order': False, 'shape': ('a',)}",
    "no dtype": "{'descr': 'what', 'fortran_order': False, 'shape': (2,)}",
    "odd dtype": "{'descr': (1, 2, 3), 'fortran_order': False, 'shape': (2,)}",
    "more keys": "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 'x': 1}",
    "no dict": "[1, 2]",
    "no python": "{'descr': '<f8', 'fortran_order': False, 'shape': (2,",
    "unclosed": "{'descr': '''",
    "indented": "  {\n 'a'\n  :\n    1",
    "a call": "__import__('os').getcwd()",
    "deep": "(" * 5000,
    "python 2": "{'descr': '<f8', 'fortran_order': False, 'shape': (2L,)}",
    "long": "{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}" + " " * 20_000,
}


@pytest.mark.parametrize("claim", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_forged_arrays_are_refused_without_allocating_them(tmp_path, claim, version):
    forged = raw_npy(claim + "\n", bytes(8), version)
    path = zipped(tmp_path / "x", {"header.npy": header(), "weights.a.npy": forged})
    tracemalloc.start()
    try:
        refused(path, "damaged|claims shape")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_an_array_version_of_the_future_is_refused(tmp_path):
    entry = raw_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}\n", bytes(8), (3, 0))
    refused(zipped(tmp_path / "x", {"header.npy": header(), "weights.a.npy": entry}), r"array format \(3, 0\)")


def test_a_compressed_bomb_is_refused_unread(tmp_path):
    bomb = npy(np.zeros(10_000_000, np.uint8))
    path = zipped(tmp_path / "x", {"header.npy": header(), "weights.a.npy": bomb}, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        refused(path, "claim more bytes|is not as minicf writes it")
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    small = zipped(tmp_path / "y", {"header.npy": header()}, zipfile.ZIP_DEFLATED)
    refused(small, "is not as minicf writes it")


def test_entries_that_claim_more_than_the_file_are_refused(tmp_path):
    path = zipped(tmp_path / "x", {"header.npy": header(), "weights.a.npy": npy(np.zeros(1000))})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24  # the last entry's size in the directory
    data[at : at + 4] = struct.pack("<I", 3_000_000_000)
    path.write_bytes(data)
    refused(path, "claim more bytes")


def test_odd_entries_are_refused(tmp_path):
    for name in ("readme.txt", "folder/", "../weights.a"):
        refused(zipped(tmp_path / "x", {"header.npy": header(), name: b""}), "unexpected entry")
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("header.npy", header())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("header.npy", header())
    refused(tmp_path / "x", "unexpected entry")


def test_an_entry_with_trailing_bytes_is_refused(tmp_path):
    refused(zipped(tmp_path / "x", {"header.npy": header(), "weights.a.npy": npy(np.zeros(3)) + b"x"}), "claims shape")


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    problem = Problem()
    ratings = minicf.Ratings(*problem.ratings(), problem.n_users, problem.n_items)
    trainer = minicf.Trainer(minicf.DotBias(3), minicf.Adam(0.01), backend="numpy", seed=4, batch_size=8)
    trainer.fit(ratings, ratings, epochs=2, schedule=minicf.Cosine(4), callbacks=[minicf.EarlyStopping()])
    trainer.save(tmp_path / "c.npz")
    return tmp_path / "c.npz"


def changed(path, header_changes=None, arrays_changes=None):
    """The checkpoint with another header or other arrays, well-formed."""
    head, arrays = files.read(path, "checkpoint")
    head = {k: v for k, v in (head | (header_changes or {})).items() if v is not ...}
    arrays = {k: v for k, v in (arrays | (arrays_changes or {})).items() if v is not ...}
    new = path.with_name("changed.npz")
    files.write(new, "checkpoint", head, arrays)
    return new


def test_an_unchanged_checkpoint_is_read(checkpoint):
    assert minicf.Trainer.load(changed(checkpoint), backend="numpy").epoch == 2


SGD_CONFIG = {"kind": "SGD", "lr": 0.1, "momentum": 0.9}
ADAM_CONFIG = {"kind": "Adam", "lr": 0.01}
DOT_CONFIG = {"kind": "Dot", "n_factors": 3}
GRADIENT_CONFIG = {"kind": "Gradient", "optimizer": ADAM_CONFIG, "loss": {"kind": "SquaredError"}, "batch_size": 8}
ROW = {
    "lr": 0.1, "train_mse": 1.0, "penalty": 0.0, "valid_mse": 1.0, "seconds": 1.0, "ratings_per_second": 1.0,
}  # fmt: skip
STOP = {"best": 1.0, "best_epoch": 1, "waited": 0, "stopped": False}
HEADERS = {
    "no model": {"model": ...},
    "another model": {"model": {"kind": "Dot", "n_factors": 4}},
    "a larger model": {"model": {"kind": "Net", "n_factors": 3, "hidden": [10**9], "dropout": [0, 0]}},
    "a model of nonsense": {"model": {"kind": "Dot", "n_factors": "three"}},
    "a model that is none": {"model": 7},
    "unknown model": {"model": {"kind": "Tower"}},
    "hybrid of nothing": {"model": {"kind": "Hybrid", "members": {}, "output": ""}},
    "hybrid of a number": {"model": {"kind": "Hybrid", "members": 7, "output": ""}},
    "hybrid of an optimizer": {"model": {"kind": "Hybrid", "members": {"a": [SGD_CONFIG, 1.0]}, "output": ""}},
    "0.1: hybrid of nothing": {"model": {"kind": "Hybrid", "members": [], "output": ""}},
    "0.1: hybrid of halves": {"model": {"kind": "Hybrid", "members": [["dot", DOT_CONFIG]], "output": "dot"}},
    "another optimizer": {"solver": GRADIENT_CONFIG | {"optimizer": SGD_CONFIG}},
    "optimizer with other arguments": {"solver": GRADIENT_CONFIG | {"optimizer": {"kind": "SGD", "lr": 1, "rho": 2}}},
    "no optimizer": {"solver": GRADIENT_CONFIG | {"optimizer": None}},
    "an optimizer as solver": {"solver": SGD_CONFIG},
    "a solver with other arguments": {"solver": GRADIENT_CONFIG | {"x": 1}},
    "a loss as optimizer": {"solver": GRADIENT_CONFIG | {"optimizer": {"kind": "Logistic"}}},
    "an optimizer as loss": {"solver": GRADIENT_CONFIG | {"loss": SGD_CONFIG}},
    "unknown loss": {"solver": GRADIENT_CONFIG | {"loss": {"kind": "Hinge"}}},
    "unknown order": {"solver": GRADIENT_CONFIG | {"shuffle": "circles"}},
    "unknown solver": {"solver": {"kind": "Annealing"}},
    "a solver that is none": {"solver": None},
    "no solver": {"solver": ...},
    "0.1: another optimizer": {"solver": ..., "optimizer": SGD_CONFIG, "batch_size": 8},
    "0.1: optimizer with other arguments": {
        "solver": ...,
        "optimizer": {"kind": "SGD", "lr": 1, "rho": 2},
        "batch_size": 8,
    },
    "0.1: no optimizer": {"solver": ..., "optimizer": None, "batch_size": 8},
    "0.1: negative batch": {"solver": ..., "optimizer": ADAM_CONFIG, "batch_size": -1},
    "0.1: no batch": {"solver": ..., "optimizer": ADAM_CONFIG},
    "no lr": {"lr": ...},
    "lr of text": {"lr": "fast"},
    "negative lr": {"lr": -1},
    "negative batch": {"solver": GRADIENT_CONFIG | {"batch_size": -1}},
    "unknown dtype": {"dtype": "float128x"},
    "integer dtype": {"dtype": "int32"},
    "seed of text": {"seed": "x"},
    "endless epoch": {"epoch": float("inf")},
    "epoch of text": {"epoch": "x"},
    "history of nothing": {"history": None},
    "history of numbers": {"history": [1, 2]},
    "history without rows": {"history": []},
    "history of empty rows": {"history": [{}, {}]},
    "history of texts": {"history": [ROW | {"epoch": 1}, ROW | {"epoch": 2, "train_mse": "low"}]},
    "history of other epochs": {"history": [ROW | {"epoch": 2}, ROW | {"epoch": 3}]},
    "history of another loss": {"history": [{"epoch": 1, "train_log_loss": 0.5}, {"epoch": 2}]},
    "negative epoch": {"epoch": -1, "history": []},
    "broken epoch": {"epoch": 2.5},
    "another epoch": {"epoch": 3},
    "ids of numbers": {"ids": {"user": 3}},
    "ids of others": {"ids": {"movie": "abc"}},
    "negative epochs of a schedule": {"schedule": [{"kind": "Cosine", "epochs": 4}, -1]},
    "epochs of a schedule as text": {"schedule": [{"kind": "Cosine", "epochs": 4}, "1"]},
    "callback of nothing": {"callbacks": {"EarlyStopping0": None}},
    "callback without values": {"callbacks": {"EarlyStopping0": {}}},
    "callback with text": {"callbacks": {"EarlyStopping0": STOP | {"best": "low"}}},
    "callback with a broken count": {"callbacks": {"EarlyStopping0": STOP | {"waited": 0.5}}},
    "unknown schedule": {"schedule": [{"kind": "Cubic"}, 1]},
    "schedule of nonsense": {"schedule": [{"kind": "Cosine", "epochs": -1}, 1]},
    "schedule with other arguments": {"schedule": [{"kind": "Cosine", "x": -1}, 1]},
    "half a schedule": {"schedule": [1]},
    "callbacks of nothing": {"callbacks": None},
}
ARRAYS = {
    "no weight": {"weights.user_bias": ...},
    "a weight of another shape": {"weights.user_bias": np.zeros(3)},
    "a weight that broadcasts": {"weights.user_bias": np.zeros(1)},
    "a weight of text": {"weights.user_bias": np.array(["x"] * 13)},
    "a weight that is NaN": {"weights.user_bias": np.full(13, np.nan)},
    "no state": {"state.first.user_bias": ...},
    "state that broadcasts": {"state.first.user_bias": np.zeros(1)},
    "state that broadcasts to a table": {"state.second.user_factors": np.zeros((1, 3))},
    "state that is NaN": {"state.second.user_bias": np.full(13, np.nan)},
    "state of another name": {"state.third.user_bias": np.zeros(13)},
    "state of text": {"state.first.user_bias": np.array(["1"] * 13)},
    "a broken step": {"state.step": np.array(1.5)},
    "a negative step": {"state.step": np.array(-1)},
    "best weights of another shape": {"callback.EarlyStopping0._best.weights.user_bias": np.zeros(3)},
    "best weights without one": {"callback.EarlyStopping0._best.weights.user_bias": ...},
    "best state without one": {"callback.EarlyStopping0._best.state.first.user_bias": ...},
    "no step": {"state.step": ...},
    "a step of two": {"state.step": np.array([1, 2])},
}


def test_the_headers_that_the_wrong_ones_are_made_of_are_right(checkpoint):
    """What is refused below is refused for the change."""
    rows = files.read(checkpoint, "checkpoint")[0]["history"]
    logistic = [{name.replace("mse", "log_loss"): x for name, x in row.items()} for row in rows]
    for changes in (
        {"solver": GRADIENT_CONFIG},
        {"solver": ..., "optimizer": ADAM_CONFIG, "batch_size": 8},
        {"solver": GRADIENT_CONFIG | {"loss": {"kind": "Logistic"}, "shuffle": False}, "history": logistic},
    ):
        trainer = minicf.Trainer.load(changed(checkpoint, changes), backend="numpy")
        assert (trainer.optimizer, trainer.batch_size, trainer.epoch) == (minicf.Adam(0.01), 8, 2)


HYBRID = minicf.Hybrid({
    "net": (minicf.Net(3, hidden=(4,), dropout=(0.1, 0.2)), 0.2),
    "dot": (minicf.DotBias(3, global_mean=3.0), 1.0),
})  # fmt: skip
V1_HYBRID = {
    "kind": "Hybrid",
    "members": [
        ["net", {
            "kind": "Net", "n_factors": 3, "hidden": [4], "dropout": [0.1, 0.2], "rating_range": None,
            "init": ["uniform", -0.01, 0.01], "global_mean": 0.0, "dense_init": "glorot",
        }, 0.2],
        ["dot", {
            "kind": "DotBias", "n_factors": 3, "rating_range": None, "init": ["uniform", -0.01, 0.01],
            "global_mean": 3.0,
        }, 1.0],
    ],
    "output": "dot",
}  # fmt: skip
"""`HYBRID` as version 0.1 wrote it."""


def test_a_checkpoint_of_version_0_1_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    problem = Problem()
    ratings = minicf.Ratings(*problem.ratings(), problem.n_users, problem.n_items)
    optimizer = minicf.Adam(0.01, weight_decay={"user_factors": 0.1})
    trainer = minicf.Trainer(HYBRID, optimizer, backend="numpy", seed=4, batch_size=8)
    trainer.fit(ratings, ratings, 2, minicf.Cosine(4), callbacks=[minicf.EarlyStopping()])
    trainer.save(tmp_path / "new.npz")
    new, arrays = files.read(tmp_path / "new.npz", "checkpoint")
    header = {
        "model": V1_HYBRID,
        "optimizer": {
            "kind": "Adam", "lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-08, "weight_decay": {"user_factors": 0.1},
            "decay": "l2", "sparse": False,
        },
        "batch_size": 8, "dtype": "float32", "seed": 4, "lr": 0.01, "epoch": 2, "history": new["history"],
        "callbacks": {"EarlyStopping0": {
            "best": new["history"][1]["valid_mse"], "best_epoch": 2, "waited": 0, "stopped": False,
        }},
        "schedule": [{"kind": "Cosine", "epochs": 4, "low": 0.0}, 2],
    }  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(files, "VERSION", 1)
        files.write(tmp_path / "old.npz", "checkpoint", header, arrays)
    assert files.read(tmp_path / "old.npz", "checkpoint")[0] == {
        **header, "format": "minicf checkpoint", "version": 1,
    }  # fmt: skip
    old = minicf.Trainer.load(tmp_path / "old.npz", backend="numpy")
    assert (old.model, old.optimizer, old.batch_size, old.lr, old.epoch) == (HYBRID, optimizer, 8, 0.01, 2)
    assert old.solver == trainer.solver
    assert list(old.model.heads) == ["net", "dot"]
    assert old.history.rows == trainer.history.rows
    assert same(old.weights, trainer.weights)
    stops = minicf.EarlyStopping(), minicf.EarlyStopping()
    for one, stop in zip((trainer, old), stops, strict=True):
        one.fit(ratings, ratings, 2, minicf.Cosine(4), callbacks=[stop])
    assert stops[0].best_epoch == stops[1].best_epoch
    assert same(old.weights, trainer.weights)
    assert same(old.program.state(), trainer.program.state())
    assert [row["lr"] for row in old.history.rows] == [row["lr"] for row in trainer.history.rows]


def test_an_entry_called_kind_is_no_class(tmp_path):
    """A head of a hybrid, and a weight with a decay, may have the name that stands for classes in a header."""
    model = minicf.Hybrid({"kind": (minicf.Dot(3), 1.0), "net": (minicf.Net(3), 0.5)})
    problem = Problem()
    ratings = minicf.Ratings(*problem.ratings(), problem.n_users, problem.n_items)
    trainer = minicf.Trainer(model, minicf.SGD(0.1), backend="numpy")
    trainer.fit(ratings)
    trainer.save(tmp_path / "c.npz")
    assert minicf.Trainer.load(tmp_path / "c.npz", backend="numpy").model == model
    optimizer = minicf.SGD(0.1, weight_decay={"kind": 0.5})
    config = json.loads(json.dumps(registry.to_config(optimizer)))
    assert registry.from_config(config, minicf.Optimizer, "optimizer") == optimizer


@pytest.mark.parametrize("changes", HEADERS.values(), ids=HEADERS)
def test_a_checkpoint_with_a_wrong_header_is_refused(checkpoint, changes):
    with pytest.raises(FileError, match="is not a valid checkpoint"):
        minicf.Trainer.load(changed(checkpoint, changes), backend="numpy")


@pytest.mark.parametrize("changes", ARRAYS.values(), ids=ARRAYS)
def test_a_checkpoint_with_wrong_arrays_is_refused(checkpoint, changes):
    with pytest.raises(FileError, match="is not a valid checkpoint"):
        minicf.Trainer.load(changed(checkpoint, arrays_changes=changes), backend="numpy")


def test_a_wrong_backend_is_not_the_files_fault(checkpoint):
    with pytest.raises(ValueError, match="backend is 'abacus'") as caught:
        minicf.Trainer.load(checkpoint, backend="abacus")
    assert not isinstance(caught.value, FileError)


def test_random_damage_to_a_checkpoint_is_refused_or_harmless(checkpoint):
    data = checkpoint.read_bytes()
    random = np.random.default_rng(2)
    path = checkpoint.with_name("damaged")
    whole = minicf.Trainer.load(checkpoint, backend="numpy").weights
    refusals = 0
    for _ in range(200):
        damaged = bytearray(data)
        damaged[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            assert same(minicf.Trainer.load(path, backend="numpy").weights, whole)
        except FileError:
            refusals += 1
    assert refusals > 100
