"""Full disks, read-only folders, signals, dying workers, a GPU that goes away: what the user had is intact, and the
message says what to do."""

from __future__ import annotations

import errno
import io
import os
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minicf
from minicf import files
from minicf.data import Ratings
from minicf.models import DotBias
from minicf.optim import SGD, Adam
from minicf.recommender import load
from minicf.train import Checkpoint, CSVLog, Trainer
from tests.campaigns import interrupted_training
from tests.campaigns.models import trained
from tests.cuda import emulator, standin

ROOT = Path(__file__).parents[1]
POSIX = pytest.mark.skipif(os.name != "posix" or not hasattr(os, "fork"), reason="signals and limits of POSIX")


def ratings(n: int = 300) -> Ratings:
    random = np.random.RandomState(0)
    return Ratings(random.randint(0, 20, n), random.randint(0, 30, n), random.randint(1, 6, n).astype(float), 20, 30)


def trainer(backend: str = "numpy") -> Trainer:
    return Trainer(DotBias(3), Adam(0.01), backend=backend, batch_size=32)


def bits(t: Trainer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in (t.weights | t.program.state()).items()}


FITTED = trainer()
FITTED.fit(ratings())
MODEL = trained(12)
WEIGHTS = FITTED.weights

SAVES: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "weights": (lambda path: minicf.save_weights(path, WEIGHTS), minicf.load_weights),
    "checkpoint": (FITTED.save, Trainer.load),
    "recommender": (MODEL.save, load),
}
"""What writes a file, and what reads it."""


# --- a child in trouble ----------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> BaseException | None:
    """Call it in a forked child; what it raised there."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: none of them is at work
        child = os.fork()
    if child == 0:
        raised: BaseException | None = None
        try:
            work()
        except BaseException as error:
            raised = error
        os.write(write, pickle.dumps(raised))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return pickle.loads(data)


def full_disk(path: Path) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # beyond it writing fails; Python ignores the signal


def read_only_folder(path: Path) -> None:
    path.parent.chmod(0o555)
    if os.getuid() == 0:  # who may write everywhere
        for folder in (path.parent, *path.parent.parents):  # pytest's temporary folders are the user's alone
            if folder.stat().st_uid == 0 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o055)
        os.setuid(65534)


def no_handles(path: Path) -> None:
    import resource

    lowest = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))


TROUBLES = {
    "full disk": (full_disk, OSError, errno.EFBIG),
    "read-only folder": (read_only_folder, PermissionError, None),
    "no handles left": (no_handles, OSError, errno.EMFILE),
}


@POSIX
@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("name", SAVES)
def test_a_save_that_fails_leaves_what_was_there(name, trouble, existing, tmp_path):
    save, read = SAVES[name]
    begin, kind, number = TROUBLES[trouble]
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "file.npz"
    if existing:
        save(path)
    before = {x.name: x.read_bytes() for x in folder.iterdir()}

    def work() -> None:
        begin(path)
        save(path)

    error = in_child(work)
    folder.chmod(0o755)
    assert isinstance(error, kind)
    assert str(path) in str(error)
    if number is not None:
        assert error.errno == number
        assert "the earlier file is unchanged" in str(error)
    assert {x.name: x.read_bytes() for x in folder.iterdir()} == before
    save(path)  # as soon as the trouble is over
    read(path)


class Filling(io.BufferedWriter):
    """A file on a disk that is full after so many bytes."""

    left = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if size > self.left:
            super().write(memoryview(data).cast("B")[: self.left])
            self.left = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= size
        return super().write(data)


def fill_disk_after(monkeypatch: pytest.MonkeyPatch, bytes_left: int) -> None:
    def fdopen(handle: int, mode: str) -> Filling:
        file = Filling(io.FileIO(handle, mode))
        file.left = bytes_left
        return file

    monkeypatch.setattr(files.os, "fdopen", fdopen)


@pytest.mark.parametrize("name", SAVES)
def test_a_disk_that_is_full_at_any_byte(name, tmp_path, monkeypatch):
    save, read = SAVES[name]
    path = tmp_path / "file.npz"
    save(path)
    before = path.read_bytes()
    for share in np.linspace(0, 0.999, 40):
        with monkeypatch.context() as patch:
            fill_disk_after(patch, int(share * len(before)))
            with pytest.raises(OSError, match="No space left on device; it was not written; the earlier") as caught:
                save(path)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
    read(path)


def test_training_goes_on_after_a_checkpoint_that_failed(tmp_path, monkeypatch):
    path, data = tmp_path / "checkpoint.npz", ratings()
    undisturbed = trainer()
    undisturbed.fit(data, epochs=5)

    class Fill(minicf.Callback):
        def on_epoch_end(self, t, row):
            if row["epoch"] == 3:
                fill_disk_after(monkeypatch, 2000)

    t = trainer()
    with pytest.raises(OSError, match="No space left"):
        t.fit(data, epochs=5, callbacks=[Checkpoint(path), Fill()])
    assert len(t.history) == t.epoch == 3
    saved = Trainer.load(path, "numpy")
    assert saved.epoch == 2
    monkeypatch.undo()
    for each in (t, saved):  # the trainer at hand has lost nothing, and the file no more than the epoch that failed
        each.fit(data, epochs=5 - each.epoch, callbacks=[Checkpoint(path)])
        assert bits(each) == bits(undisturbed)


@pytest.mark.parametrize("kind", [Checkpoint, CSVLog])
def test_a_path_that_cannot_be_written_is_said_before_the_first_epoch(kind, tmp_path):
    (tmp_path / "file").write_text("x")
    for path, error in [
        (tmp_path / "no" / "x", FileNotFoundError),
        (tmp_path / "file" / "x", NotADirectoryError),
        (tmp_path, IsADirectoryError),
    ]:
        t = trainer()
        with pytest.raises(error, match=r"name another|name a file in it"):
            t.fit(ratings(), epochs=5, callbacks=[kind(path)])
        assert t.epoch == 0


@POSIX
def test_half_a_row_of_a_log_is_taken_back(tmp_path):
    path, data = tmp_path / "log.csv", ratings()
    trainer().fit(data, epochs=3, callbacks=[CSVLog(path)])
    before = path.read_text()

    def work() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, len(before) + 10))
        trainer().fit(data, callbacks=[CSVLog(path)])

    error = in_child(work)
    assert isinstance(error, OSError)
    assert error.errno == errno.EFBIG
    assert path.read_text() == before


# --- files beside files ----------------------------------------------------------------------------------------------


@POSIX
def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / "model-1.npz", tmp_path / "latest.npz"
    link.symlink_to(Path("store") / "model-1.npz")
    for _ in range(2):  # while it leads nowhere, and when it leads to a file
        minicf.save_weights(link, WEIGHTS)
        assert link.is_symlink()
        assert os.readlink(link) == "store/model-1.npz"
        assert real.read_bytes() == link.read_bytes()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["latest.npz", "store"]
    assert [x.name for x in (tmp_path / "store").iterdir()] == ["model-1.npz"]


@POSIX
def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "w[1].npz"  # a pattern for glob, unless it is escaped
    others = [tmp_path / ".w[1].npz.notes.tmp", tmp_path / ".w1.npz.abcdefgh.tmp", tmp_path / "w[1].npz.tmp"]
    for other in others:
        other.write_text("another's")

    def killed() -> None:
        with files.atomic(path) as file:
            file.write(b"half")
            file.flush()
            os._exit(0)

    pid = _fork_and_run(killed)
    os.waitpid(pid, 0)
    left = [x for x in tmp_path.iterdir() if x not in others]
    assert len(left) == 1
    with files.atomic(path) as file:
        file.write(b"one")
        own = {x for x in tmp_path.iterdir() if x not in others}
        assert len(own) == 1
        assert left[0] not in own
        with files.atomic(path) as second:  # another writer, meanwhile
            second.write(b"two")
            assert len([x for x in tmp_path.iterdir() if x not in others]) == 2
        assert path.read_bytes() == b"two"
    assert path.read_bytes() == b"one"
    assert set(tmp_path.iterdir()) == {path, *others}


def _fork_and_run(work: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


# --- signals ---------------------------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_few_trainings_stopped_at_random(backend, tmp_path):
    found = interrupted_training.run(6, tmp_path, backend, seed=3)
    assert sum(found[which.name] for which in interrupted_training.SIGNALS) == 6


# --- a worker that dies ----------------------------------------------------------------------------------------------

GRID = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from sklearn.model_selection import GridSearchCV
    from tests.test_faults import Dying, frame

    if __name__ == "__main__":
        table = frame()
        before = table.copy()
        search = GridSearchCV(Dying(epochs=1, backend="numpy"), {"n_factors": [2, 3]}, cv=2, n_jobs=2)
        try:
            search.fit(table[["userId", "movieId"]], table["rating"])
        except Exception as error:
            print(type(error).__name__)
        assert table.equals(before)
        Dying.n_fatal = 0
        print(Dying(n_factors=3, epochs=1, backend="numpy", verbose=False).fit(table).predict(table).shape)
"""


class Dying(minicf.Recommender):
    """Killed by the system, as for its memory, when it has 3 factors."""

    n_fatal = 3

    def fit(self, X, y=None, titles=None):
        if self.n_factors == self.n_fatal:
            os.kill(os.getpid(), 9)
        return super().fit(X, y, titles)


def frame():
    return ratings().frame().drop_duplicates(["userId", "movieId"])


@POSIX
def test_a_worker_that_is_killed_is_an_error_and_no_hang(tmp_path):
    script = tmp_path / "grid.py"
    script.write_text(textwrap.dedent(GRID))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(ROOT)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:1] == ["TerminatedWorkerError"]
    assert done.stdout.split("\n")[1].startswith("(")


# --- a GPU ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))
@pytest.mark.parametrize("what", ["launch", "memory"])
def test_a_gpu_that_goes_away_amid_training(what, tmp_path, monkeypatch):
    """Its memory is gone, and the checkpoint goes on without it."""
    data, path = ratings(), tmp_path / "checkpoint.npz"
    undisturbed = trainer()
    undisturbed.fit(data, epochs=4)
    with standin.emulated("resident") as module:
        t = Trainer(DotBias(3), Adam(0.01), backend="numpy", batch_size=32)
        t._backend = module.BACKEND

        class Unplug(minicf.Callback):
            def on_epoch_end(self, t, row):
                def gone(*_: Any, **__: Any) -> None:
                    raise lost

                if row["epoch"] == 2 and what == "memory":
                    monkeypatch.setattr(standin, "limit_bytes", [100])
                elif row["epoch"] == 2:
                    monkeypatch.setattr(module.device.Kernels, "launch", gone)
                    monkeypatch.setattr(module.device.Kernels, "over", gone)

        lost: Exception = RuntimeError("cudaErrorDevicesUnavailable: device lost")
        with pytest.raises((RuntimeError, MemoryError), match=r"device lost|GiB free"):
            t.fit(data, epochs=4, callbacks=[Checkpoint(path), Unplug()])
        assert len(t.history) == t.epoch == 2
        monkeypatch.undo()
        if what == "memory":  # the GPU is there, and so is the trainer
            t.fit(data, epochs=2)
            _close(t, undisturbed)
    again = Trainer.load(path, "numpy")
    again.fit(data, epochs=4 - again.epoch)
    _close(again, undisturbed)


def _close(a: Trainer, b: Trainer) -> None:
    """float32 on two backends: rounding, times the steps."""
    assert a.epoch == b.epoch
    for name, w in b.weights.items():
        np.testing.assert_allclose(a.weights[name], w, rtol=1e-4, atol=1e-5)


def test_divergence_is_no_fault_of_the_callbacks(tmp_path):
    """The checkpoint of the last good epoch stays, and what is raised names a remedy."""
    path, data = tmp_path / "checkpoint.npz", ratings()
    t = Trainer(DotBias(3), SGD(0.01), backend="numpy", batch_size=32)
    t.fit(data, epochs=2, callbacks=[Checkpoint(path)])
    before = path.read_bytes()
    t.lr = 1e30
    with pytest.raises(minicf.DivergenceError, match="smaller learning rate"):
        t.fit(data, epochs=2, callbacks=[Checkpoint(path)])
    assert path.read_bytes() == before
    assert bits(Trainer.load(path, "numpy")) == bits(t)
