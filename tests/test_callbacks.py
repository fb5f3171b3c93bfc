"""Callbacks: early stopping at every end, resuming in a fresh process bit for bit, checkpoints, logs."""

from __future__ import annotations

import csv
import io
import math
import os
import signal

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf import SGD, Adam, Checkpoint, CSVLog, EarlyStopping, PrintEpochs, Ratings, Trainer
from tests import cases
from tests.cases import MODELS
from tests.test_train import HYBRID, ITEMS, USERS, Raise, everything, run_python, same, timeless, trainer, where

__all__ = ["where"]  # a fixture

# With these the best epoch is neither the first nor the last, and patience 4 ends a run after epoch 5: see below.
OPTIMIZERS = {
    "sgd": SGD(0.2, momentum=0.9, weight_decay=1e-3),
    "adam": Adam(0.05, weight_decay=1e-3),
}


def learnable_split() -> tuple[Ratings, Ratings]:
    """Ratings that users and items explain, with noise to overfit."""
    random, n = np.random.RandomState(3), 300
    user, item = random.randint(0, USERS, n), random.randint(0, ITEMS, n)
    score = 3 + random.standard_normal(USERS)[user] + random.standard_normal(ITEMS)[item]
    score += 0.5 * random.standard_normal(n)
    return Ratings(user, item, np.clip(np.round(2 * score) / 2, 0.5, 5), USERS, ITEMS).split(valid=0.3, seed=1)


@pytest.fixture(scope="module")
def split():
    return learnable_split()


class Scripted(minicf.Callback):
    """Puts numbers of its own in place of the validation error, for callbacks after it; notes the weights."""

    def __init__(self, values):
        self.values, self.seen = list(values), {}

    def on_epoch_end(self, trainer, row):
        trainer.history.rows[-1]["valid_mse"] = self.values[row["epoch"] - 1]
        self.seen[row["epoch"]] = everything(trainer)


# --- early stopping ----------------------------------------------------------------------------------------------


def test_it_stops_after_so_many_epochs_without_a_new_best_and_restores_it(where, split):
    script, stop = Scripted([5, 3, 4, 3, 3.5, 1, 1, 1]), EarlyStopping(patience=3)
    t = trainer(where)
    history = t.fit(*split, epochs=8, callbacks=[script, stop])
    assert len(history) == t.epoch == 5  # 3 again is no new best
    assert (stop.best, stop.best_epoch, stop.stopped) == (3, 2, True)
    assert same(everything(t), script.seen[2])
    assert not same(everything(t), script.seen[5])


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "epochs", "best"),
    [
        ([1, 2, 3, 4], 1, 0.0, 2, 1),
        ([4, 3, 2, 1], 1, 0.0, 4, 4),
        ([4, 3.95, 3.9, 3.85], 3, 0.1, 4, 4),  # 3.85 is more than 0.1 below 4, if only at the end
        ([4, 3.95, 3.92, 3.91], 2, 0.1, 3, 1),
        ([4, 5, 3, 5, 2, 5, 5], 2, 0.0, 7, 5),
    ],
)
def test_when_it_stops(split, values, patience, min_delta, epochs, best):
    script, stop = Scripted(values), EarlyStopping(patience=patience, min_delta=min_delta)
    t = trainer()
    assert len(t.fit(*split, epochs=len(values), callbacks=[script, stop])) == epochs
    assert stop.best_epoch == best
    assert same(everything(t), script.seen[best])


def test_the_best_is_restored_at_a_normal_end(where, split):
    script, stop = Scripted([5, 1, 2, 3]), EarlyStopping(patience=10)
    t = trainer(where)
    t.fit(*split, epochs=4, callbacks=[script, stop])
    assert len(t.history) == 4
    assert not stop.stopped
    assert same(everything(t), script.seen[2])


def fail_in(epoch):
    def action(trainer, row):
        if row["epoch"] == epoch:
            raise RuntimeError("a callback failed")

    callback = minicf.Callback()
    callback.on_epoch_end = action
    return callback


@pytest.mark.parametrize("first", [True, False])
def test_the_best_is_restored_when_another_callback_fails(where, split, first):
    script, stop = Scripted([5, 1, 2, 3]), EarlyStopping(patience=10)
    callbacks = [script, fail_in(3), stop] if first else [script, stop, fail_in(3)]
    t = trainer(where)
    with pytest.raises(RuntimeError, match="a callback failed"):
        t.fit(*split, epochs=4, callbacks=callbacks)
    assert len(t.history) == 3
    assert same(everything(t), script.seen[2])


@pytest.mark.parametrize("first", [True, False])
def test_the_best_is_restored_when_another_callback_fails_at_the_end(split, first):
    class Late(minicf.Callback):
        def on_fit_end(self, trainer):
            raise RuntimeError("at the end")

    script, stop = Scripted([5, 1, 2, 3]), EarlyStopping(patience=10)
    t = trainer()
    with pytest.raises(RuntimeError, match="at the end"):
        t.fit(*split, epochs=4, callbacks=[script, Late(), stop] if first else [script, stop, Late()])
    assert same(everything(t), script.seen[2])


@pytest.mark.parametrize("first", [True, False])
def test_the_best_is_restored_when_another_callback_fails_at_the_beginning(split, first):
    class Early(minicf.Callback):
        def on_fit_begin(self, trainer):
            raise RuntimeError("at the beginning")

    script, stop = Scripted([5, 1, 2, 3]), EarlyStopping(patience=10)
    whole, t = trainer(), trainer()
    t.fit(*split, epochs=3, callbacks=[script, stop])
    with pytest.raises(RuntimeError, match="at the beginning"):
        t.fit(*split, callbacks=[Early(), stop] if first else [stop, Early()])
    assert same(everything(t), script.seen[2])
    t.fit(*split, callbacks=[Scripted([5, 1, 2, 0]), stop])  # goes on from the third epoch all the same
    whole.fit(*split, epochs=4)
    assert same(everything(t), everything(whole))


def test_the_best_is_restored_after_ctrl_c(where, split):
    script, stop = Scripted([5, 1, 2, 3]), EarlyStopping(patience=10)
    interrupt = minicf.Callback()
    interrupt.on_epoch_end = lambda trainer, row: row["epoch"] == 3 and signal.raise_signal(signal.SIGINT)
    t = trainer(where)
    with pytest.raises(KeyboardInterrupt):
        t.fit(*split, epochs=4, callbacks=[script, stop, interrupt])
    assert len(t.history) == 3
    assert same(everything(t), script.seen[2])


def test_the_best_is_restored_after_ctrl_c_midway(where, split):
    script, stop = Scripted([5, 1, 2, 3]), EarlyStopping(patience=10)
    t = trainer(where)
    program = cases.program(t, split[0].n_users, split[0].n_items)
    program.steps_per_call = lambda batch_size: 2
    run = program.run

    def run_and_interrupt(data, part):
        done = run(data, part)
        if t.epoch == 3:
            signal.raise_signal(signal.SIGINT)
        return done

    program.run = run_and_interrupt
    with pytest.raises(KeyboardInterrupt):
        t.fit(*split, epochs=4, callbacks=[script, stop])
    assert len(t.history) == 3
    assert same(everything(t), script.seen[2])


def test_the_best_is_restored_after_divergence(where, split):
    script, stop = Scripted([5, 1, 2, 3]), EarlyStopping(patience=10)
    t = trainer(where)
    spoil = minicf.Callback()
    spoil.on_epoch_end = lambda trainer, row: setattr(trainer, "lr", 1e6) if row["epoch"] == 3 else None
    with pytest.raises(minicf.DivergenceError):
        t.fit(*split, epochs=4, callbacks=[script, stop, spoil])
    assert len(t.history) == 3
    assert same(everything(t), script.seen[2])


def test_a_second_fit_goes_on_from_the_latest_not_from_the_best(where, split):
    script, stop = Scripted([5, 1, 2, 3, 0.5, 4]), EarlyStopping(patience=10)
    t, plain = trainer(where), trainer(where)
    t.fit(*split, epochs=3, callbacks=[script, stop])
    assert stop.waited == 1
    t.fit(*split, epochs=3, callbacks=[script, stop])
    plain.fit(*split, epochs=6)
    assert same(script.seen[6], everything(plain))
    assert stop.best_epoch == 5
    assert same(everything(t), script.seen[5])


def test_after_a_stop_it_starts_anew_from_the_best(split):
    script, stop = Scripted([5, 1, 2, 3, 9, 10]), EarlyStopping(patience=2)
    t = trainer()
    t.fit(*split, epochs=6, callbacks=[script, stop])
    assert t.epoch == 4
    t.fit(*split, epochs=1, callbacks=[script, stop])
    assert (stop.best, stop.best_epoch, stop.stopped) == (9, 5, False)
    assert t.program.t == 3 * -(-len(split[0]) // 16)  # two epochs to the best, one more


def test_training_without_it_in_between_is_not_thrown_away(where, split):
    t, stop = trainer(where), EarlyStopping(patience=10)
    t.fit(*split, epochs=3, callbacks=[stop])
    t.fit(*split, epochs=4)
    before = t.program.t
    seen = []
    note = minicf.Callback()
    note.on_epoch_end = lambda trainer, row: seen.append(trainer.program.t)
    t.fit(*split, callbacks=[note, stop])
    assert seen == [before + -(-len(split[0]) // 16)]
    assert stop.best_epoch == 8


def test_one_object_does_not_carry_weights_to_another_trainer(split):
    stop = EarlyStopping(patience=10)
    trainer().fit(*split, epochs=3, callbacks=[stop])
    other, plain = trainer(seed=9), trainer(seed=9)
    note = Scripted([1000.0])
    other.fit(*split, callbacks=[note, stop])
    plain.fit(*split)
    assert same(note.seen[1], everything(plain))
    assert stop.best == 1000.0


def test_any_column_can_be_monitored(split):
    t, stop = trainer(model=HYBRID), EarlyStopping(patience=50, monitor="valid_mse_net")
    t.fit(*split, epochs=5, callbacks=[stop])
    column = t.history.frame().valid_mse_net
    assert (stop.best, stop.best_epoch) == (column.min(), column.argmin() + 1)
    assert t.evaluate(split[1])["mse_net"] == stop.best


def test_early_stopping_refuses(split):
    with pytest.raises(ValueError, match="patience is 0"):
        EarlyStopping(patience=0)
    with pytest.raises(ValueError, match=r"monitor is 'auc'; it must be one of \['epoch'"):
        trainer().fit(*split, callbacks=[EarlyStopping(monitor="auc")])
    with pytest.raises(ValueError, match=r"early stopping needs fit\(..., valid=ratings\)"):
        trainer().fit(split[0], callbacks=[EarlyStopping()])


# --- going on in a fresh process ---------------------------------------------------------------------------------

RESUME = """
    import sys
    sys.path.insert(0, ".")
    from minicf import Checkpoint, Cosine, EarlyStopping, Trainer
    from tests.test_callbacks import learnable_split
    source, target, where, epochs, patience = sys.argv[1:]
    t = Trainer.load(source, backend=where)
    stop = EarlyStopping(patience=int(patience))
    t.fit(*learnable_split(), epochs=int(epochs), schedule=Cosine(10), callbacks=[stop])
    t.save(target)
"""


@pytest.mark.parametrize("patience", [20, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("model", ["bias", "hybrid"])
def test_ten_epochs_are_five_a_file_a_fresh_process_and_five(where, split, tmp_path, model, optimizer, patience):
    schedule = minicf.Cosine(10)
    whole, half = (trainer(where, MODELS[model], optimizer) for _ in range(2))
    stop, half_stop = EarlyStopping(patience), EarlyStopping(patience)
    whole.fit(*split, epochs=10, schedule=schedule, callbacks=[stop])
    half.fit(*split, epochs=5, schedule=schedule, callbacks=[half_stop])
    half.save(tmp_path / "half.npz")
    run_python(RESUME, tmp_path / "half.npz", tmp_path / "whole.npz", where, 5, patience)
    resumed = Trainer.load(tmp_path / "whole.npz", backend=where)
    assert same(everything(resumed), everything(whole))
    assert timeless(resumed.history) == timeless(whole.history)
    # What the callback holds goes on as well: both go on for two more epochs.
    again = EarlyStopping(patience)
    resumed.fit(*split, epochs=2, callbacks=[again])
    whole.fit(*split, epochs=2, callbacks=[stop])
    assert same(everything(resumed), everything(whole))
    assert (again.best, again.best_epoch, again.waited) == (stop.best, stop.best_epoch, stop.waited)


def test_the_cases_above_do_restore_and_do_stop(split):
    """Else the test before would compare less than it says."""
    ends = {}
    for name, optimizer in OPTIMIZERS.items():
        for model in ("bias", "hybrid"):
            stop = EarlyStopping(patience=4)
            t = trainer(model=MODELS[model], optimizer=optimizer)
            t.fit(*split, epochs=10, schedule=minicf.Cosine(10), callbacks=[stop])
            ends[name, model] = stop.best_epoch, t.epoch, stop.stopped
    assert all(1 < best < last and 5 < last and stopped for best, last, stopped in ends.values()), ends
    assert len(set(ends.values())) > 2


# --- checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_a_checkpoint_of_a_run_that_broke_off_goes_on_to_the_same_end(where, split, tmp_path, order):
    path, schedule = tmp_path / "c.npz", minicf.CosineRestarts(1, 2)
    whole, broken = (trainer(where, MODELS["bias"], OPTIMIZERS["adam"]) for _ in range(2))
    stop = EarlyStopping(patience=3)
    whole.fit(*split, epochs=8, schedule=schedule, callbacks=[stop])
    # In either order: a checkpoint is written after the other callbacks have seen the epoch.
    callbacks = [Checkpoint(path), EarlyStopping(patience=3)][::order]
    with pytest.raises(RuntimeError, match="a callback failed"):
        broken.fit(*split, epochs=8, schedule=schedule, callbacks=[*callbacks, fail_after(Checkpoint(path), 3)])
    resumed = Trainer.load(path, backend=where)
    assert resumed.epoch == 3
    again = EarlyStopping(patience=3)
    resumed.fit(*split, epochs=5, schedule=schedule, callbacks=[again])
    assert same(everything(resumed), everything(whole))
    assert timeless(resumed.history) == timeless(whole.history)
    assert (again.best, again.best_epoch, again.waited) == (stop.best, stop.best_epoch, stop.waited)


def fail_after(checkpoint, epoch):
    """A checkpoint that fails once it has written: nothing is written after it."""
    write = checkpoint.on_epoch_end

    def on_epoch_end(trainer, row):
        write(trainer, row)
        if row["epoch"] == epoch:
            raise RuntimeError("a callback failed")

    checkpoint.on_epoch_end = on_epoch_end
    return checkpoint


def test_a_checkpoint_every_few_epochs_replaces_the_last(split, tmp_path):
    path, seen = tmp_path / "c.npz", []
    look = minicf.Callback()
    look.on_fit_begin = lambda t: seen.append(path.exists())
    count = Raise(lambda: seen.append(Trainer.load(path, "numpy").epoch if path.exists() else None))
    t = trainer()
    t.fit(*split, epochs=5, callbacks=[Checkpoint(path, every=2), look, count])
    # Others are called before the checkpoint of the same epoch.
    assert seen == [False, None, None, 2, 2, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]
    with pytest.raises(ValueError, match="every is 0"):
        Checkpoint(path, every=0)


def test_a_checkpoint_that_cannot_be_written_keeps_the_one_before(split, tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    t = trainer()
    t.fit(*split, callbacks=[Checkpoint(path)])
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        t.fit(*split, callbacks=[Checkpoint(path)])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert np.isfinite(t.predict(0, 0))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saving_and_loading_gives_an_equal_trainer(where, split, tmp_path, model, dtype):
    optimizer = Adam(0.02, weight_decay={"user_factors": 0.1}, decay="decoupled", sparse=True)
    t = trainer(where, model, optimizer, dtype=dtype, batch_size=9, seed=2**40)
    t.fit(*split, epochs=2, schedule=minicf.OneCycle(5))
    t.lr = 0.015
    t.save(tmp_path / "t")
    again = Trainer.load(tmp_path / "t", backend=where)
    for name in ("model", "optimizer", "batch_size", "dtype", "seed", "lr", "epoch", "backend"):
        assert getattr(again, name) == getattr(t, name), name
    assert again.history.rows == t.history.rows
    assert same(everything(again), everything(t))
    for each in (t, again):
        each.fit(*split, epochs=2, schedule=minicf.OneCycle(5))
    assert same(everything(again), everything(t))


def test_loading_and_saving_again_loses_nothing(split, tmp_path):
    t, stop, script = trainer(), EarlyStopping(patience=10), Scripted([2, 1, 4, 3, 5])
    t.fit(*split, epochs=3, callbacks=[script, stop])
    t.save(tmp_path / "a")
    Trainer.load(tmp_path / "a", "numpy").save(tmp_path / "b")
    resumed, again = Trainer.load(tmp_path / "b", "numpy"), EarlyStopping(patience=10)
    for each, callback in ((t, stop), (resumed, again)):
        each.fit(*split, epochs=2, callbacks=[script, callback])
        assert (callback.best, callback.best_epoch, callback.waited) == (1, 2, 3)
        assert same(everything(each), script.seen[2])


def test_two_of_a_kind_are_told_apart(split, tmp_path):
    def make():
        return [EarlyStopping(50, "valid_mse_net"), EarlyStopping(50, "valid_mse_dot")]

    t, both = trainer(model=HYBRID), make()
    t.fit(*split, epochs=3, callbacks=both)
    t.save(tmp_path / "t")
    resumed, again = Trainer.load(tmp_path / "t", "numpy"), make()
    resumed.fit(*split, epochs=1, callbacks=again)
    rows = resumed.history.frame()
    assert again[0].best == rows.valid_mse_net.min()
    assert again[1].best == rows.valid_mse_dot.min()


def test_nothing_to_save_before_training(tmp_path):
    with pytest.raises(RuntimeError, match="call fit first"):
        trainer().save(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_fresh_stopper_has_an_empty_state():
    stop = EarlyStopping()
    header, arrays = stop.state()
    assert header == {"best": None, "best_epoch": 0, "waited": 0, "stopped": False}
    assert arrays == {}
    other = EarlyStopping()
    other.best = 3.0
    other.load_state(header, arrays)
    assert (other.best, other.best_epoch) == (math.inf, 0)


# --- what a callback is ------------------------------------------------------------------------------------------


def test_callbacks_are_called_in_order_and_can_stop(split):
    calls = []

    class Note:  # any object with some of the methods
        def __init__(self, name, stop_at=0):
            self.name, self.stop_at = name, stop_at

        def on_fit_begin(self, trainer):
            calls.append((self.name, "begin", trainer.epoch))

        def on_epoch_end(self, trainer, row):
            calls.append((self.name, row["epoch"], trainer.epoch))
            return row["epoch"] == self.stop_at

    class End:
        def on_fit_end(self, trainer):
            calls.append(("c", "end", trainer.epoch))

    trainer().fit(*split, epochs=5, callbacks=(c for c in (Note("a", stop_at=2), Note("b"), End())))
    assert calls == [
        ("a", "begin", 0),
        ("b", "begin", 0),
        ("a", 1, 1),
        ("b", 1, 1),
        ("a", 2, 2),
        ("b", 2, 2),
        ("c", "end", 2),
    ]


@pytest.mark.parametrize("answer", [0, 1, 0.5, math.nan, np.float32(0.7), "no", [], [1], np.ones(2)])
def test_a_callback_that_returns_anything_but_true_or_false_is_refused(answer, split):
    """A metric that it returns would stop training, or not, by chance."""
    callback = minicf.Callback()
    callback.on_epoch_end = lambda trainer, row: answer
    with pytest.raises(TypeError, match=r"on_epoch_end of Callback returned .*; it must return True to stop training"):
        trainer().fit(*split, epochs=3, callbacks=[callback])


@pytest.mark.parametrize(("answer", "epochs"), [(None, 3), (False, 3), (np.False_, 3), (True, 1), (np.True_, 1)])
def test_true_alone_stops_training(answer, epochs, split):
    callback = minicf.Callback()
    callback.on_epoch_end = lambda trainer, row: answer
    assert len(trainer().fit(*split, epochs=3, callbacks=[callback])) == epochs


def test_hooks_of_epochs_and_parts(where, split):
    calls = []

    class Note(minicf.Callback):
        def on_epoch_begin(self, trainer):
            calls.append(("begin", trainer.epoch))

        def on_part_end(self, trainer, n):
            calls.append(("part", n))

        def on_epoch_end(self, trainer, row):
            calls.append(("end", trainer.epoch))

    plain, noted = trainer(where), trainer(where)
    plain.fit(*split, epochs=2)
    noted.fit(*split, epochs=2, callbacks=[Note()])
    assert same(everything(plain), everything(noted))
    assert [call for call in calls if call[0] != "part"] == [("begin", 0), ("end", 1), ("begin", 1), ("end", 2)]
    assert sum(call[1] for call in calls if call[0] == "part") == 2 * len(split[0])


def test_early_stopping_without_validation_is_refused_before_the_first_epoch(split, tmp_path):
    for callback in (
        EarlyStopping(),
        EarlyStopping(monitor="valid_mse"),
        Checkpoint(tmp_path / "best.npz", best=True),
    ):
        t = trainer()
        with pytest.raises(ValueError, match=r"valid_mse is not known: .* needs fit\(..., valid=ratings\)"):
            t.fit(split[0], epochs=3, callbacks=[callback])
        assert t.epoch == 0
        t.fit(*split, callbacks=[callback])
    hybrid = trainer(model=HYBRID)
    with pytest.raises(ValueError, match="valid_mse_net is not known"):
        hybrid.fit(split[0], callbacks=[EarlyStopping(monitor="valid_mse_net")])
    assert hybrid.epoch == 0
    t = trainer()
    t.fit(split[0], epochs=2, callbacks=[EarlyStopping(monitor="train_mse")])
    assert t.epoch == 2


def test_numbered_checkpoints(split, tmp_path):
    t = trainer()
    t.fit(*split, epochs=4, callbacks=[Checkpoint(tmp_path / "m-{epoch:03}.npz", 2), Checkpoint(tmp_path / "{epoch}")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "4", "m-002.npz", "m-004.npz"]
    assert [Trainer.load(tmp_path / str(n), "numpy").epoch for n in (1, 2, 3, 4)] == [1, 2, 3, 4]
    t.fit(*split, callbacks=[Checkpoint(tmp_path / "{other}")])
    assert (tmp_path / "{other}").exists()
    with pytest.raises(ValueError, match=r"path is .*; \{epoch:…\} must have a format of whole numbers"):
        Checkpoint(tmp_path / "{epoch:x.3}")


def test_the_best_checkpoint_alone(split, tmp_path):
    path, values = tmp_path / "best.npz", [5, 3, 4, 3, 2, 6]
    t = trainer()
    t.fit(*split, epochs=4, callbacks=[Scripted(values), Checkpoint(path, best=True)])
    again = Trainer.load(path, "numpy")
    assert again.epoch == 2
    again.fit(*split, epochs=2, callbacks=[Scripted(values), Checkpoint(path, best=True)])
    assert Trainer.load(path, "numpy").epoch == 2  # 4 and 3 are no better than 3, which the file remembers
    again.fit(*split, epochs=2, callbacks=[Scripted(values), Checkpoint(path, best=True, monitor="train_mse")])
    assert Trainer.load(path, "numpy").epoch == 6
    with pytest.raises(ValueError, match="monitor is 'train_mse'; it goes with best=True"):
        Checkpoint(path, monitor="train_mse")
    with pytest.raises(ValueError, match=r"monitor is 'auc'; it must be one of \['epoch'"):
        t.fit(*split, callbacks=[Checkpoint(path, best=True, monitor="auc")])


def test_a_best_checkpoint_that_could_not_be_written_is_tried_again(split, tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "best.npz", best=True)
    t = trainer()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Trainer, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        t.fit(*split, callbacks=[checkpoint])
    monkeypatch.undo()
    t.history.rows.clear()
    t.fit(*split, callbacks=[Scripted([1, 1e9]), checkpoint])
    assert (tmp_path / "best.npz").exists()


def test_a_state_that_no_callback_can_take_is_refused(split, tmp_path):
    t = trainer()
    t.fit(*split, callbacks=[Checkpoint(tmp_path / "a", best=True)])
    again = Trainer.load(tmp_path / "a", "numpy")
    again._resumed["Checkpoint0"] = {"lowest": "low"}, {}
    with pytest.raises(minicf.files.FileError, match="holds no state of Checkpoint0"):
        again.fit(*split, callbacks=[Checkpoint(tmp_path / "a", best=True)])


def test_a_callback_cannot_spoil_the_history(split):
    spoil = minicf.Callback()
    spoil.on_epoch_end = lambda trainer, row: row.clear()
    t = trainer()
    t.fit(*split, callbacks=[spoil])
    assert t.history[0]["epoch"] == 1


def test_a_callback_may_change_the_learning_rate(split):
    halve = minicf.Callback()
    halve.on_epoch_end = lambda trainer, row: setattr(trainer, "lr", trainer.lr / 2)
    t = trainer(optimizer=SGD(0.1))
    t.fit(*split, epochs=3, callbacks=[halve])
    assert t.history.frame().lr.tolist() == [0.1, 0.05, 0.025]


def test_the_base_does_nothing(split):
    plain, called = trainer(), trainer()
    plain.fit(*split)
    called.fit(*split, callbacks=[minicf.Callback()])
    assert same(everything(plain), everything(called))
    assert minicf.Callback().state() is None
    minicf.Callback().load_state({}, {})


# --- logs --------------------------------------------------------------------------------------------------------


def test_csv_log(split, tmp_path):
    path = tmp_path / "log.csv"
    t = trainer(model=HYBRID)
    t.fit(*split, epochs=2, callbacks=[CSVLog(path)])
    t.fit(*split, epochs=1, callbacks=[CSVLog(str(path))])
    pd.testing.assert_frame_equal(pd.read_csv(path), t.history.frame())
    with path.open(newline="") as file:
        assert len(list(csv.reader(file))) == 4


def test_csv_log_into_an_empty_file_has_a_header(split, tmp_path):
    path = tmp_path / "log.csv"
    path.touch()
    trainer().fit(*split, callbacks=[CSVLog(path)])
    assert pd.read_csv(path).epoch.tolist() == [1]


def test_csv_log_refuses_a_file_with_other_columns(split, tmp_path):
    path = tmp_path / "log.csv"
    trainer().fit(*split, callbacks=[CSVLog(path)])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="log to a new file"):
        trainer(model=HYBRID).fit(*split, callbacks=[CSVLog(path)])
    assert path.read_bytes() == before


@pytest.mark.parametrize("every", [1, 2])
def test_csv_log_has_each_epoch_once_after_a_kill_and_a_resumed_run(split, tmp_path, every):
    """The row of an epoch is there before its checkpoint: a kill between them leaves one too many."""
    log, saved = tmp_path / "log.csv", tmp_path / "c.npz"
    t = trainer()
    t.fit(*split, epochs=4, callbacks=[CSVLog(log), Checkpoint(saved, every)])
    t.fit(*split, epochs=1, callbacks=[CSVLog(log)])  # and no checkpoint
    with log.open("a") as file:
        file.write("6,0.1")  # killed amid the row
    again = Trainer.load(saved, "numpy")
    again.fit(*split, epochs=2, callbacks=[CSVLog(log), Checkpoint(saved, every)])
    pd.testing.assert_frame_equal(pd.read_csv(log), again.history.frame())
    assert again.epoch == 6


def test_csv_log_takes_back_no_rows_of_another_run(split, tmp_path):
    log = tmp_path / "log.csv"
    trainer().fit(*split, epochs=3, callbacks=[CSVLog(log)])
    other = trainer()
    other.fit(*split)
    other.fit(*split, callbacks=[CSVLog(log)])
    assert pd.read_csv(log).epoch.tolist() == [1, 2, 3, 2]
    trainer().fit(*split, callbacks=[CSVLog(log)])
    assert pd.read_csv(log).epoch.tolist() == [1, 2, 3, 2, 1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_csv_log_into_a_device_or_a_fifo_is_refused(split, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", os.devnull):
        with pytest.raises(ValueError, match="is not a regular file; log to one"):
            trainer().fit(*split, callbacks=[CSVLog(path)])


def test_print_epochs(split, capsys):
    t = trainer(optimizer=SGD(0.05, weight_decay=0.1))
    t.fit(*split, epochs=2, callbacks=[PrintEpochs()])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    row = t.history[1]
    for part in (
        "epoch   2",
        f"train mse {row['train_mse']:.4f}",
        f"penalty {row['penalty']:.4f}",
        f"valid mse {row['valid_mse']:.4f}",
        "lr 0.05",
    ):
        assert part in lines[1]
    file = io.StringIO()
    trainer().fit(split[0], callbacks=[PrintEpochs(file)])
    assert "epoch   1" in file.getvalue()
    assert "valid" not in file.getvalue()
    assert "penalty" not in file.getvalue()


def test_everything_public_is_tested_here():
    from minicf.train import callbacks

    kinds = {c for c in vars(callbacks).values() if isinstance(c, type) and issubclass(c, callbacks.Callback)}
    assert kinds == {minicf.Callback, EarlyStopping, Checkpoint, CSVLog, PrintEpochs}
    assert os.path.exists(__file__)
