"""Compiled code on disk: what it depends on, processes that share it, damage, strangers' files and folders, and folders
that cannot be written."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import io
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from minicf.backends.numba import jit

ROOT = Path(__file__).parents[1]
POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes of POSIX")

MODULE = """
SCALE = 2

def inner(x):
    return x + 1

def outer(x):
    return inner(x) * SCALE

def power(K):
    def f(x):
        y = 1.0
        for _ in range(K):
            y *= x
        return y
    return f
"""


class Processes:
    """Functions of a module, as new processes would see them."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.path = folder / "cache", folder / "some_kernels.py"
        self.path.write_text(MODULE)

    def module(self) -> Any:
        spec = importlib.util.spec_from_file_location("some_kernels", self.path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["some_kernels"] = module
        spec.loader.exec_module(module)
        return module

    def __call__(self) -> tuple[int, bool]:
        """The answer of `outer(3)`, and whether it was compiled here."""
        module = self.module()
        module.inner = jit.cached_njit(module.inner)
        outer = jit.cached_njit(module.outer)
        return outer(3), bool(outer.stats.cache_misses)

    def files(self) -> list[Path]:
        return sorted((self.cache / "minicf").iterdir())


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    processes = Processes(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(processes.cache))
    monkeypatch.setattr(jit, "_warned", set())
    monkeypatch.setitem(sys.modules, "some_kernels", None)
    return processes


def run(code: str, path: Path = ROOT, **environment: str) -> str:
    """What a process prints that imports the package at `path`."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300, cwd=path,
        env=os.environ | {"PYTHONPATH": str(path)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- damage -----------------------------------------------------------------------------------------------------------

DAMAGES = {
    "garbage": lambda data: np.random.RandomState(0).bytes(len(data)),
    "a bit": lambda data: data[:-900] + bytes([data[-900] ^ 1]) + data[-899:],
    "cut short": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "another pickle": lambda data: hashlib.sha256(pickle.dumps(3)).digest() + pickle.dumps(3),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_compiled_code_is_compiled_anew(damage, process, caplog):
    assert process() == (8, True)
    assert process() == (8, False)
    assert caplog.text == ""
    assert len(process.files()) == 2
    for file in process.files():
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert process() == (8, True)
    assert f"compiled code in {process.cache / 'minicf'}" in caplog.text
    assert "is damaged" in caplog.text
    assert process() == (8, False)  # mended


# --- folders that cannot be written -----------------------------------------------------------------------------------

LISTS = """
    import logging, sys
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    import numpy as np
    from minicf import scoring
    from minicf.backends import get_backend
    from minicf.models.scorers import by_products
    logging.getLogger("minicf").setLevel(logging.WARNING)  # which backend "auto" takes is not the matter here
    select = get_backend("auto").select
    logging.getLogger("minicf").setLevel(logging.INFO)
    eye, items = np.eye(5, dtype=np.float32), np.arange(20, dtype=np.float32).reshape(4, 5)
    print(scoring.top_n(by_products(eye, items), np.arange(5), 4, 2, select=select)[0].ravel().tolist())
"""


def test_a_folder_that_cannot_be_made_is_said_once():
    told = run(LISTS, NUMBA_CACHE_DIR=os.devnull).splitlines()
    assert told[-1] == str([3, 2] * 5)
    assert ["no folder for compiled code" in line and "NUMBA_CACHE_DIR" in line for line in told] == [True, False]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EMFILE])
def test_a_disk_that_cannot_be_written_is_said_once(number, process, caplog, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(jit.tempfile, "mkstemp", fail)
    assert [process(), process()] == [(8, True)] * 2
    assert caplog.text.count("cannot be kept") == 1
    assert os.strerror(number) in caplog.text


def test_a_disk_that_is_full_leaves_no_half_file(process, caplog, monkeypatch):
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(jit.os, "fdopen", Full)
        assert process() == (8, True)
    assert process.files() == []
    assert "No space left" in caplog.text
    assert process() == (8, True)
    assert process() == (8, False)


@POSIX
def test_training_goes_on_when_files_reach_the_limit(tmp_path):
    told = run(
        """
        import logging, resource, sys
        logging.basicConfig(stream=sys.stdout)
        import minicf
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        ratings = minicf.Ratings([0, 1, 0, 2], [0, 1, 2, 0], [1.0, 2.0, 3.0, 4.0])
        trainer = minicf.Trainer(minicf.Dot(2), minicf.SGD(0.1), batch_size=1, backend="numba")
        trainer.fit(ratings, epochs=2, shuffle="tiles", progress=False)
        print(len(trainer.history))
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    ).splitlines()
    assert told[-1] == "2"
    assert sum("cannot be kept" in line for line in told) == 1
    assert list((tmp_path / "minicf").iterdir()) == []


def test_a_folder_that_is_removed_meanwhile_is_no_obstacle(process, caplog):
    assert process() == (8, True)
    shutil.rmtree(process.cache)
    assert process() == (8, True)
    assert "cannot be kept" in caplog.text


def test_without_the_variable_the_folder_is_beside_the_sources_or_the_users(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(jit, "AppDirs", lambda **_: type("Dirs", (), {"user_cache_dir": str(tmp_path / "user")}))
    monkeypatch.setattr(jit, "_HERE", tmp_path / "package")
    assert jit._folder.__wrapped__("") == tmp_path / "package" / "__pycache__" / "minicf"
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(jit, "_HERE", tmp_path / "file")  # as a zip would be
    assert jit._folder.__wrapped__("") == tmp_path / "user" / "minicf"
    assert caplog.text == ""
    monkeypatch.setattr(jit, "AppDirs", lambda **_: type("Dirs", (), {"user_cache_dir": str(tmp_path / "file" / "x")}))
    assert jit._folder.__wrapped__("") is None
    assert caplog.text.count(str(tmp_path / "file")) == 2


def test_a_folder_that_can_only_be_read_is_read(process, monkeypatch, caplog):
    assert process() == (8, True)
    monkeypatch.setattr(jit.os, "access", lambda *_: False)
    jit._folder.cache_clear()
    assert process() == (8, False)
    assert caplog.text == ""


# --- strangers --------------------------------------------------------------------------------------------------------


@POSIX
def test_the_folder_and_its_files_are_the_users_alone(process):
    before = os.umask(0)
    try:
        process()
    finally:
        os.umask(before)
    assert stat.S_IMODE((process.cache / "minicf").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in process.files()} == {0o600}


class Planted:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def give_to_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
    else:
        me = os.geteuid()
        monkeypatch.setattr(jit.os, "geteuid", lambda: me + 1)


STRANGERS = {
    "another user's": give_to_another,
    "writable by the group": lambda path, _: path.chmod(0o660),
    "writable by all": lambda path, _: path.chmod(0o602),
    "mine": lambda path, _: None,
}


@POSIX
@pytest.mark.parametrize("whose", STRANGERS)
def test_files_that_others_could_have_written_are_not_read(whose, process, monkeypatch, tmp_path, caplog):
    process()
    data = pickle.dumps(Planted(tmp_path / "planted"))
    for file in process.files():
        file.write_bytes(hashlib.sha256(data).digest() + data)
        STRANGERS[whose](file, monkeypatch)
    assert process() == (8, True)
    assert (tmp_path / "planted").exists() == (whose == "mine")  # what is this user's own is trusted
    if whose != "mine":
        assert caplog.text.count("cannot be read") == 1
        assert "writable by other users" in caplog.text or "owned by another user" in caplog.text


@POSIX
@pytest.mark.parametrize("whose", [name for name in STRANGERS if name != "mine"])
def test_folders_that_others_could_have_filled_are_not_used(whose, process, monkeypatch, caplog):
    process()
    jit._folder.cache_clear()
    folder = process.cache / "minicf"
    STRANGERS[whose](folder, monkeypatch)
    folder.chmod(folder.stat().st_mode | 0o700)
    before = process.files()
    assert [process(), process()] == [(8, True)] * 2
    assert process.files() == before
    assert caplog.text.count("no folder for compiled code") == 1
    assert str(folder) in caplog.text


@POSIX
def test_a_link_that_another_user_put_there_is_not_followed(process, tmp_path, caplog):
    if os.geteuid():
        pytest.skip("only root makes links of other users")
    (tmp_path / "own").mkdir(mode=0o700)
    process.cache.mkdir()
    (process.cache / "minicf").symlink_to(tmp_path / "own")
    jit._folder.cache_clear()
    assert process() == (8, True)
    assert process() == (8, False)  # one's own link is followed
    before = sorted((tmp_path / "own").iterdir())
    os.chown(process.cache / "minicf", 65534, -1, follow_symlinks=False)
    jit._folder.cache_clear()
    assert process() == (8, True)
    assert sorted((tmp_path / "own").iterdir()) == before
    assert "minicf: a link of another user" in caplog.text


# --- what compiled code depends on ------------------------------------------------------------------------------------


def test_a_change_in_any_source_is_noticed(tmp_path):
    folder = tmp_path / "numba"
    shutil.copytree(jit._HERE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    sources = sorted(folder.glob("*.py"))
    assert len(sources) > 10
    plain = jit.source_stamp(sources)
    assert jit.source_stamp(sources) == plain
    stamps = {plain}
    for source in sources:
        text = source.read_text()
        source.write_text(text + "#")
        stamps.add(jit.source_stamp(sources))
        source.write_text(text)
    assert len(stamps) == 1 + len(sources)
    assert jit.source_stamp(sources) == plain
    assert jit.source_stamp([*sources, folder / "gone.py"]) is None


def test_a_constant_that_is_frozen_in_compiled_code_is_noticed(tmp_path):
    """The generator's constant lies in another folder than the code that has it."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "minicf", tree / "minicf", ignore=shutil.ignore_patterns("__pycache__"))
    code = """
        from minicf import rng
        from minicf.backends.numba import passes
        print((passes.uniform(5, 100) == rng.uniform(5, 100)).all(), bool(passes._fill.stats.cache_misses))
    """
    path = tree / "minicf" / "rng.py"
    text = path.read_text()
    said = []
    for constant in ("0x9E3779B97F4A7C15", "0x9E3779B97F4A7C17", "0x9E3779B97F4A7C15"):
        path.write_text(text.replace("0x9E3779B97F4A7C15", constant))
        said.append(run(code, path=tree, NUMBA_CACHE_DIR=str(tmp_path / "cache")).strip())
    assert said == ["True True", "True True", "True False"]


def test_code_whose_sources_cannot_be_read_is_not_kept(process, monkeypatch, caplog):
    monkeypatch.setattr(jit, "_STAMP", None)
    assert [process(), process()] == [(8, True)] * 2
    assert not process.cache.exists()
    assert caplog.text.count("cannot be read") == 1


def test_constants_of_a_closure_and_options_have_files_of_their_own(process):
    module = process.module()

    def of(K: Any, **options: Any) -> tuple[float, bool]:
        f = jit.cached_njit(module.power(K), **options)
        return f(2.0), bool(f.stats.cache_misses)

    for first in (True, False):
        assert [of(K) for K in range(4)] == [(2.0**K, first) for K in range(4)]
        assert of(3, fastmath={"nsz", "reassoc"}) == (8.0, first)
        assert of(np.int8(3)) == (8.0, first)
    assert len(process.files()) == 6


def test_functions_in_a_closure_are_described_by_what_they_are(process):
    module = process.module()

    def applied(function: Any) -> Any:
        return lambda x: function(x)

    plain = [jit._described(applied(module.power(K))) for K in (2, 3)]
    compiled = [jit._described(applied(numba.njit(module.power(K)))) for K in (2, 3)]  # pickled, a random name
    assert plain == compiled
    assert len(set(plain)) == 2
    with pytest.raises(TypeError, match=r"array\(\[1.\]\) is a constant of compiled code; it must be a function"):
        jit._described(applied(np.ones(1)))


# --- files in the course of time --------------------------------------------------------------------------------------


def test_files_that_nobody_reads_are_removed(process):
    process()
    used, unused = process.files()
    old = time.time() - 86400.0 * (jit._KEPT_DAYS + 1)
    left = process.cache / "minicf" / "tmpabc.tmp"
    notes = process.cache / "minicf" / "notes.txt"
    for path in (left, notes):
        path.write_text("")
    for path in (used, unused, left, notes):
        os.utime(path, (old, old))
    used_by = jit._read(used)
    assert used_by
    jit._remove_unused.cache_clear()
    jit._write(process.cache / "minicf" / "new.nbc", b"x")
    assert {path.name for path in process.files()} == {used.name, notes.name, "new.nbc"}


# --- processes at once ------------------------------------------------------------------------------------------------

RACE = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from minicf import SGD, Dot
    from minicf.backends.numba import program
    from minicf.data import Batch

    folder, me, n, widths = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

    def together(step):
        (folder / f"{n}-{step}-{me}").touch()
        while len(list(folder.glob(f"{n}-{step}-*"))) < n:
            time.sleep(0.0005)

    user, item = np.repeat(np.arange(3, dtype=np.int32), 4), np.tile(np.arange(4, dtype=np.int32), 3)
    wrong, misses = [], 0
    for k in range(1 + me, 1 + widths, n):
        together(k - me)
        model = Dot(k)
        weights = {name: np.full(shape, 1.0) for name, shape in model.shapes(3, 4).items()}
        found = program.compile(model, SGD(0.1), weights).predict(Batch(user, item))
        wrong += [(k, x) for x in found.tolist() if x != k]
        misses += sum(program.predict_kernel(k).stats.cache_misses.values())
    print(wrong, misses)
"""


def compile_at_once(folder: Path, n: int, widths: int, timeout: float = 300) -> None:
    """Each width is a kernel of its own, all of one factory; at each step the processes compile different ones."""
    (folder / "ready").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(folder / "cache")}

    def start(me: int, n: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", textwrap.dedent(RACE), *map(str, (folder / "ready", me, n, widths))]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)

    for each in [start(me, n) for me in range(n)]:
        assert each.communicate(timeout=timeout)[0] == f"[] {widths // n}\n".encode()
        assert each.returncode == 0
    later = start(0, 1)
    assert later.communicate(timeout=timeout)[0] == b"[] 0\n"  # every kernel was there, and was its own
    assert {path.suffix for path in (folder / "cache" / "minicf").iterdir()} == {".nbc"}


def test_processes_that_compile_at_once_read_no_others_kernel(tmp_path):
    compile_at_once(tmp_path, 4, 24)


# --- killed amid writing ----------------------------------------------------------------------------------------------

KILLED = """
    import os, sys
    from minicf.backends.numba import jit

    def die(function, before):
        def wrapped(*arguments, **options):
            if before:
                os._exit(9)
            function(*arguments, **options)
            os._exit(9)
        return wrapped

    if sys.argv[1]:
        setattr(os, sys.argv[1], die(getattr(os, sys.argv[1]), sys.argv[2] == "before"))
    sys.path.insert(0, sys.argv[3])
    import kernels_of_a_user as kernels
    print(jit.cached_njit(kernels.of(3))(2.0))
"""
KERNELS = "def of(K):\n    def f(x):\n        return x * K + VERSION\n    return f\n"


@pytest.mark.parametrize(("what", "when"), [("fdopen", "after"), ("replace", "before"), ("replace", "after")])
def test_a_process_that_is_killed_while_it_writes_misleads_no_later_one(what, when, tmp_path):
    """After an upgrade, with the old version's code in the folder."""
    command = [sys.executable, "-B", "-c", textwrap.dedent(KILLED)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def start(version: int, *killed: str) -> tuple[int, str]:
        (tmp_path / "kernels_of_a_user.py").write_text(KERNELS.replace("VERSION", str(version)))
        arguments = [*(killed or ("", "")), str(tmp_path)]
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout.strip()

    assert start(0) == (0, "6.0")
    assert start(1, what, when) == (9, "")
    assert start(1) == (0, "7.0")


# --- without compiling ------------------------------------------------------------------------------------------------


def test_with_numba_disable_jit_numpy_takes_over():
    told = run(
        """
        import minicf
        ratings = minicf.Ratings([0, 1, 0, 2], [0, 1, 2, 0], [1.0, 2.0, 3.0, 4.0])
        trainer = minicf.Trainer(minicf.DotBias(2), minicf.Adam(0.1), batch_size=2)
        trainer.fit(ratings, epochs=2, progress=False)
        print(trainer.backend)
        recommender = minicf.Recommender(n_factors=2, epochs=1, verbose=False).fit(ratings)
        print(len(recommender.recommend([0], n=2)))
        try:
            minicf.Trainer(minicf.DotBias(2), minicf.Adam(0.1), backend="numba")
        except ImportError as error:
            print(error)
        """,
        NUMBA_DISABLE_JIT="1",
    ).splitlines()
    assert told == [
        "numpy", "1", "backend 'numba' cannot run here: NUMBA_DISABLE_JIT is set, and its kernels must be compiled",
    ]  # fmt: skip
    assert run(LISTS, NUMBA_DISABLE_JIT="1").splitlines()[-1] == str([3, 2] * 5)
