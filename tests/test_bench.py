"""The benchmark itself: its data, its referee, its records and tables. No speed is asserted."""

from __future__ import annotations

import importlib
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from bench import cases, data, measure, report, search, settings
from bench.measure import Case, Record
from bench.rivals import CONTENDERS, Task, Turn
from bench.rivals.minicf_itself import MiniCF
from bench.rivals.per_rating import write_text
from minicf import SGD, Adam, DotBias, Net, Trainer

# --- data ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return data.synthetic(300, 200, 12_000, seed=3)


def test_synthetic_table_has_the_asked_size_and_distinct_pairs(made):
    r = made.ratings
    assert (r.n_users, r.n_items, len(r)) == (300, 200, 12_000)
    assert len(set(zip(r.user.tolist(), r.item.tolist(), strict=True))) == 12_000
    assert r.user_counts().min() >= 1
    assert r.item_counts().min() >= 1


def test_synthetic_ratings_are_half_stars_and_use_the_scale(made):
    stars = np.unique(made.ratings.rating)
    assert np.array_equal(stars, np.arange(0.5, 5.01, 0.5))
    assert 3.0 < made.ratings.rating.mean() < 4.0


def test_synthetic_rows_are_in_random_order(made):
    # A sorted column, or one of long runs, has few changes of direction; a random one has 2 of 3.
    for column in (made.ratings.user, made.ratings.item):
        turns = np.diff(np.sign(np.diff(column.astype(np.int64))))
        assert (turns != 0).mean() > 0.5


def test_synthetic_popularity_has_long_tails():
    r = data.synthetic(3_000, 2_000, 60_000).ratings
    for counts, least in ((r.user_counts(), 1.4), (r.item_counts(), 2.5)):
        assert counts.mean() / np.median(counts) > least  # 1 for equal shares


def test_synthetic_is_a_function_of_its_seed():
    one, same, other = (data.synthetic(100, 80, 1_500, seed=s) for s in (1, 1, 2))
    for name in ("user", "item", "rating"):
        assert np.array_equal(getattr(one.ratings, name), getattr(same.ratings, name))
    assert one.floor == same.floor
    assert not np.array_equal(one.ratings.user, other.ratings.user)


def test_synthetic_refuses_what_cannot_be_made():
    with pytest.raises(ValueError, match="a third of all pairs"):
        data.synthetic(10, 10, 50)
    with pytest.raises(ValueError, match="one each"):
        data.synthetic(10, 20, 15)


def test_variance_of_rounded_ratings_is_that_of_a_simulation():
    s, variance = data._variances(0.75)
    random = np.random.RandomState(0)
    for score in (0.2, 2.9, 3.5, 5.4):
        drawn = np.clip(np.rint(2 * (score + 0.75 * random.standard_normal(400_000))) / 2, 0.5, 5.0)
        # 400,000 draws leave a relative standard error of 0.0022 sqrt(kurtosis); 2 % is beyond five of them.
        assert np.interp(score, s, variance) == pytest.approx(drawn.var(), rel=0.02)


def test_no_training_beats_the_floor_and_a_good_one_comes_near():
    # 200 ratings a row suffice for biases and a taste of two factors to be learnt.
    made = data.synthetic(400, 300, 38_000, n_factors=2)
    train, valid = made.ratings.split()
    model = DotBias(2, global_mean=3.5, init=("normal", 0.0, 0.1))
    trainer = Trainer(model, SGD(0.5, weight_decay=1e-4), backend="numpy")
    trainer.fit(train, epochs=25, progress=False)
    error = trainer.evaluate(valid)["mse"]
    assert made.floor < error < 1.25 * made.floor
    assert np.var(valid.rating) > 1.5 * made.floor


def test_tables_are_stored_once_and_read_back(tmp_path):
    name = "synthetic:60:50:500"
    path = data.stored(name, tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in path.iterdir()}
    assert data.stored(name, tmp_path) == path
    assert {p.name: p.stat().st_mtime_ns for p in path.iterdir()} == before
    table, direct = data.load(path), data.make(name)
    for got, made in zip(table, direct, strict=True):
        assert np.array_equal(got, made)
    assert (len(table.user), len(table.valid_user)) == (500, 56)
    train, valid = table.ratings()
    assert (len(train), valid.n_users, valid.n_items) == (500, 60, 50)


def test_movielens_is_split_as_the_lessons_split_it():
    table = data.make("movielens")
    assert (len(table.user), len(table.valid_user), table.n_users, table.n_items) == (80_004, 20_000, 671, 9_066)
    assert math.isnan(table.floor)


def test_unknown_data_is_refused():
    with pytest.raises(ValueError, match="no data called 'netflix'"):
        data.make("netflix")


def test_text_for_libmf_says_what_the_arrays_say(tmp_path):
    random = np.random.RandomState(0)
    user, item = random.randint(0, 12_345, 999), random.randint(0, 7, 999)
    rating = random.randint(1, 11, 999) / 2
    write_text(tmp_path / "text", user, item, rating)
    read = pd.read_csv(tmp_path / "text", sep=" ", header=None)
    assert np.array_equal(read.to_numpy(), np.stack([user, item, rating], axis=1))
    with pytest.raises(ValueError, match="half stars"):
        write_text(tmp_path / "text", user, item, rating + 0.1)


@pytest.fixture(scope="module")
def made_table():
    return data.make("synthetic:60:50:640")


# --- the referee -----------------------------------------------------------------------------------------------------


class Wrong(MiniCF):
    """A rival whose learning rate is 1 % off."""

    def __init__(self, task, table):
        super().__init__(task, table)
        self.rates = self.rates * 1.01


class Slow(MiniCF):
    """A rival that says it took longer."""

    def turn(self):
        seconds, ratings = super().turn()
        return Turn(seconds + 0.02, ratings)


class NotInstalled(MiniCF):
    """A rival whose engine is not there."""

    def prepare(self):
        import an_engine_that_nobody_has  # noqa: F401


class Dies(MiniCF):
    """A rival whose process ends in the middle of its first turn."""

    def turn(self):
        os._exit(3)


@pytest.fixture
def task():
    return Task(
        "synthetic:60:50:640", 640, DotBias(4), SGD(0.05, momentum=0.9, weight_decay=1e-3), 64,
        turn_seconds=0.01, options={"backend": "numpy", "quick": True},
    )  # fmt: skip


def test_wrong_absent_and_dying_rivals_are_recorded_as_what_they_are(task, tmp_path, monkeypatch):
    for name in ("Wrong", "NotInstalled", "Dies"):
        monkeypatch.setitem(CONTENDERS, name, f"tests.test_bench:{name}")
    who = ("minicf", "Wrong", "NotInstalled", "Dies", "minicf fit")
    case = Case("try", "a try", "a", task, cases.named(*who), "weights", cases.SAME_WEIGHTS, unit=0, turns=3)
    said: list[str] = []
    out = tmp_path / "records.csv"
    records = {r.provider: r for r in measure.Bench(out, tmp_path, said.append).measure(case)}
    assert tuple(records) == who

    ours = records["minicf"]
    assert (ours.status, ours.turns, ours.n_ratings, ours.batch, ours.check) == ("ok", 3, 640, 64, "weights")
    assert 0 < ours.check_error < 1e-5  # float32 against the float64 reference
    assert 0 < ours.q1_s <= ours.median_s <= ours.q3_s
    assert ours.ratings_per_s == pytest.approx(640 / ours.median_s)
    assert ours.times_minicf == 1.0
    assert ours.memory_mib > ours.memory_own_mib > 0
    assert records["minicf fit"].times_minicf > 0

    assert records["Wrong"].status.startswith("refused: its result is not the same")
    # Less than 0.01 where training is about to settle: what is learnt does not depend on the rate any more.
    assert cases.SAME_WEIGHTS < records["Wrong"].check_error < 0.02
    assert records["NotInstalled"].status.startswith("absent: ModuleNotFoundError: No module named 'an_engine")
    assert records["Dies"].status == "failed: its process died"
    for name in ("Wrong", "NotInstalled", "Dies"):
        assert math.isnan(records[name].median_s)  # absent, never zero
        assert any(name in line and records[name].status in line for line in said)
    # What is read back is what was measured, to the digits that are written.
    again = {r.provider: r for r in measure.read(out)}
    assert tuple(again) == who
    assert again["minicf"].median_s == pytest.approx(ours.median_s, rel=1e-5)
    assert again["Dies"].status == records["Dies"].status
    assert math.isnan(again["Dies"].median_s)


class Here:
    """A seat in this process."""

    def __init__(self, contender: str, task: Task, path: Path) -> None:
        module, _, name = CONTENDERS[contender].partition(":")
        self.it = getattr(importlib.import_module(module), name)(task, data.load(path))

    def begin(self) -> dict[str, str]:
        self.it.prepare()
        return {}

    def ask(self, request: str) -> Any:
        return {"note": self.it.note} if request == "facts" else getattr(self.it, request)()

    def close(self) -> None:
        pass


def test_a_rival_slower_than_its_plain_loop_is_refused_and_the_plain_loop_is_reported(task, tmp_path, monkeypatch):
    for name in ("Wrong", "Slow"):
        monkeypatch.setitem(CONTENDERS, name, f"tests.test_bench:{name}")
    who = {"minicf": "minicf", "sluggish": "Slow", "brisk": "minicf"}
    plain = {"sluggish": "minicf", "brisk": "Wrong"}
    monkeypatch.setattr(measure, "Seat", Here)
    case = Case("try", "a try", "a", task, who, "weights", cases.SAME_WEIGHTS, unit=0, turns=3, plain=plain)
    said: list[str] = []
    records = measure.Bench(tmp_path / "records.csv", tmp_path, said.append).measure(case)
    assert [r.provider for r in records] == list(who)  # a row for each, whoever was faster
    _, sluggish, brisk = records
    assert sluggish.status == "ok"
    assert sluggish.median_s < 0.02  # the time of the plain loop
    assert sluggish.note.startswith("the plain loop; the chosen one refused, ")
    assert any(sluggish.note in line for line in said)
    # The plain loop is checked like anybody: a wrong one is no floor.
    assert brisk.status == "ok"
    assert "no plain loop beside it: refused: its result is not the same" in brisk.note


def test_the_faster_of_a_rival_and_its_plain_loop_is_settled_by_their_medians_and_quartiles():
    mine = Record(provider="PyTorch", median_s=1.0, q1_s=0.9, q3_s=1.1, aim=25.0, note="fused")
    floor = replace(mine, median_s=0.8, q1_s=0.7, q3_s=0.85, note="plain")
    assert measure.settled(mine, None) is mine
    found = measure.settled(mine, floor)
    assert found == replace(floor, note="the plain loop; plain; the chosen one refused, 1.25 of its time: fused")
    within = measure.settled(mine, replace(floor, q3_s=0.95))  # quartiles meet: the faster one, nobody refused
    assert (within.median_s, "refused" in within.note) == (0.8, False)
    ahead = measure.settled(mine, replace(floor, median_s=2.0))
    assert ahead == replace(mine, note="fused; a plain loop takes 2.00 of its time")
    broken = replace(mine, status="failed: it died", median_s=math.nan)
    assert measure.settled(broken, floor) == replace(
        floor, note="the plain loop; plain; the chosen one failed: it died"
    )
    assert measure.settled(broken, broken).status == "failed: it died"


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        (DotBias(4), SGD(0.05, momentum=0.9, weight_decay=1e-3)),
        (DotBias(4), Adam(0.01)),
        (DotBias(4), Adam(0.01, weight_decay=1e-3)),
        (DotBias(4), Adam(0.01, weight_decay=0.1, decay="decoupled")),
        (DotBias(4), Adam(0.01, sparse=True)),
        (Net(4, hidden=(6, 5), dropout=(0.2, 0.5, 0.5)), Adam(0.01)),
    ],
    ids=["sgd", "adam", "adam-l2", "adamw", "adam-sparse", "net"],
)
def test_both_loops_of_pytorch_take_the_reference_steps(task, made_table, model, optimizer):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from bench.rivals import minicf_itself, pytorch, pytorch_plain

    truth = {"truth": "float32" if isinstance(model, Net) else "float64"}
    task = replace(task, model=model, optimizer=optimizer, falling=True, options={**task.options, **truth})
    start = model.init_weights(made_table.n_users, made_table.n_items, 0)
    reference = minicf_itself.Reference(task, made_table)
    reference.prepare()
    true = reference.check()
    chosen, plain = pytorch.Eager(task, made_table), pytorch_plain.Loop(task, made_table)
    ways = chosen.lookups
    chosen.updates, chosen.lookups = chosen.updates[-1:], ways[:1]  # which is fastest is no matter here
    chosen.prepare()
    plain.prepare()
    for lookup in ways:
        chosen.lookup = lookup
        assert measure.difference("weights", chosen.check(), true, start) < 1e-4
    assert measure.difference("weights", plain.check(), true, start) < 1e-4
    for loop in (chosen, plain):
        loop.build(model)
        loop.forward(12)  # with dropout, and on into a second epoch
        assert all(np.isfinite(value).all() for value in loop.weights().values())


def test_the_way_that_takes_least_in_turns_is_chosen(task, made_table, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from bench.rivals import pytorch

    loop = pytorch.Eager(task, made_table)
    seconds = {"plain": 3.0, "foreach": 2.0, "fused": 1.0}
    slower = {pytorch.embedding: 0.2, pytorch.index_select: 0.1, pytorch.index: 0.3}
    # The machine is ten times as slow while the last of the updates, the fastest, has its first turns.
    asked: list[str] = []

    def timed(work):
        asked.append(loop.update)
        return (seconds[loop.update] + slower[loop.lookup]) * (10 if 8 < len(asked) <= 12 else 1)

    monkeypatch.setattr(pytorch, "timed", timed)
    loop.prepare()
    assert (loop.update, loop.lookup) == ("fused", pytorch.index_select)
    assert loop.note == "the fastest of its ways: fused, index_select"


def test_difference_counts_every_array():
    start = {"a": np.zeros(4), "b": np.zeros(2)}
    true = {"a": np.array([3.0, 0, 0, 0]), "b": np.array([0.0, 4.0])}
    off = {"a": true["a"], "b": np.array([0.0, 4.5])}
    assert measure.difference("weights", true, true, start) == 0
    assert measure.difference("weights", off, true, start) == pytest.approx(0.1)  # 0.5 of a movement of 5
    assert measure.difference("weights", {"a": true["a"]}, true, start) == math.inf
    assert measure.difference("weights", off | {"b": np.array([np.nan, 4.0])}, true, start) == math.inf
    assert measure.difference("weights", off | {"b": np.array([4.0])}, true, start) == math.inf
    assert measure.difference("error", {"mse": 0.9}, {"mse": 0.8}, {}) == pytest.approx(0.125)
    assert measure.difference("target", {"mse": 0.77}, {"mse": 0.5}, {}) == 0.77
    scores = np.array([[3.0, 1.0]])
    assert measure.difference("scores", {"scores": scores + 0.1}, {"scores": scores}, {}) == pytest.approx(0.1)
    assert measure.difference("scores", {"scores": scores[:, :1]}, {"scores": scores}, {}) == math.inf


def test_threads_are_told_to_every_engine_and_forgotten_after(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with measure._environment(2):
        assert {os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")} == {"2"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


# --- cases and settings ----------------------------------------------------------------------------------------------


def test_every_case_is_named_once_and_asks_known_contenders(tmp_path):
    trials = tmp_path / "search.csv"
    write_trials(trials)
    every = list(cases.every(cases.Options(threads=2, search=trials)))
    names = [case.name for case in every]
    assert len(set(names)) == len(names)
    assert {case.group for case in every} == set("abcdefgh")
    for case in every:
        assert set(case.contenders.values()) <= set(CONTENDERS)
        assert set(case.floors) <= set(case.contenders)
        assert set(case.plain) <= set(case.contenders)
        assert set(case.plain.values()) <= set(CONTENDERS)
        # Rows by which PyTorch is judged have its plainest loop beside them.
        assert case.group not in "ab" or set(case.plain) == {"PyTorch"}
    assert set(cases.FLOORS) <= set(names)
    assert set(report.HOT_PATHS) <= set(names)
    assert {ceiling for _, _, ceiling in report.HOT_PATHS.values()} <= set(names)


def test_cases_are_chosen_by_name_beginning_or_group():
    options = cases.Options(threads=1)
    assert [c.name for c in cases.chosen(options, ["adam-64"])] == ["adam-64"]
    assert {c.name for c in cases.chosen(options, ["net"])} == {"net-64", "net-1024"}
    assert {c.group for c in cases.chosen(options, ["d", "b"])} == {"b", "d"}
    with pytest.raises(SystemExit, match="no case 'sdg'"):
        cases.chosen(options, ["sdg"])


@pytest.mark.parametrize("family", settings.FAMILIES)
def test_settings_are_drawn_alike_every_time_and_can_be_built(family):
    def some() -> list[settings.Setting]:
        random = np.random.default_rng(3)
        drawn = [settings.draw(family, random) for _ in range(40)]
        return drawn + [settings.near(family, setting, random) for setting in drawn]

    drawn = some()
    assert drawn == some()
    assert len(set(drawn)) == len(drawn)
    assert {s.kind for s in drawn} == ({"adam", "adamw", "sgd"} if family == "mini-batch" else {"rating"})
    assert len({s.schedule for s in drawn}) == (3 if family in ("mini-batch", "per rating") else 1)
    for setting in drawn:
        assert 1 <= setting.epochs <= settings.most_epochs(family)
        assert setting.k in settings.FACTORS
        assert setting.batch in settings.BATCHES or setting.kind == "rating"
        rates = setting.rates(7)
        assert rates.shape == (7 * setting.epochs,)
        assert rates.max() <= setting.lr * (1 + 1e-12)
        assert setting.model().n_factors == setting.k
        assert setting.optimizer().lr == setting.lr
        weights = setting.model().init_weights(400, 300)["user_factors"]
        assert weights.std() == pytest.approx(setting.spread, rel=0.1)  # of 400 numbers and more
        assert search.setting_of({name: str(value) for name, value in setting.plain().items()}) == setting


def test_more_epochs_factors_or_steps_are_more_work():
    setting = settings.Setting("adam", 0.01, 1e-4, 64, 8, 4)
    for family in settings.FAMILIES:
        for more in ({"epochs": 5}, {"k": 24}):
            assert settings.work(family, replace(setting, **more)) > settings.work(family, setting)
    few, many = (settings.work("mini-batch", replace(setting, batch=batch)) for batch in (64, 32))
    assert many > few


class FakeSeat:
    """An engine whose error falls with the epochs, is lowest at a rate of 0.05, and is not a number above 0.13."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, contender: str, task: Any, path: Path) -> None:
        self.contender, self.setting = contender, settings.Setting(**task.options["setting"])

    def begin(self) -> None:
        if self.contender == "LIBMF":
            raise measure.Out("absent: no build of it")

    def ask(self, request: str, *arguments: Any) -> Any:
        self.asked.append((self.contender, request))
        setting = arguments[0] if arguments else self.setting
        mse = 0.7 + 0.2 / (1 + setting.epochs) + 0.05 * np.log(setting.lr / 0.05) ** 2
        if request == "turn":
            return Turn(0.001 * setting.epochs * setting.k * (3 if setting.spread > 0.02 else 1), 1)
        return {"mse": mse} if request == "check" else math.nan if setting.lr > 0.13 else mse

    def close(self) -> None:
        self.asked.append((self.contender, "close"))


def test_a_search_gives_every_engine_as_many_trials_and_times_what_came_far_enough(tmp_path):
    out, said = tmp_path / "search.csv", []
    FakeSeat.asked.clear()
    search.search(out, tmp_path, (0.8, 0.75), 40, 1, "", said.append, FakeSeat)
    found = pd.read_csv(out)
    # The trials of PyTorch hold for JAX, and those of JAX for PyTorch.
    assert dict(found.engine.value_counts()) == {"minicf": 40, "PyTorch": 80, "JAX": 80, "Surprise": 40, "cornac": 40}
    assert not found.duplicated(["engine", "trial"]).any()
    assert "LIBMF: absent: no build of it" in said
    shared = {engine: found[found.engine == engine].drop(columns=["engine", "seconds", "timed_mse"]).values.tolist()
              for engine in ("PyTorch", "JAX", "Surprise", "cornac")}  # fmt: skip
    assert str(shared["PyTorch"]) == str(shared["JAX"])
    timed = found[found.seconds.notna()]
    assert (timed.mse <= 0.8).all()
    assert set(timed.engine) == set(found.engine)
    assert timed.engine.value_counts().max() <= 2 * search.TIMED
    # What is chosen is the fastest that was timed, and near the best trials there are better ones.
    for engine, setting in search.best(out, 0.8).items():
        able = timed[timed.engine == engine]
        assert setting == search.setting_of(able.loc[able.seconds.idxmin()].to_dict())
    for engine in ("PyTorch", "Surprise"):
        trials = found[(found.engine == engine) & (found.trial < 40)]
        assert trials.mse[trials.trial >= 10].median() < trials.mse[trials.trial < 10].median()
    closed = [contender for contender, request in FakeSeat.asked if request == "close"]
    assert len(closed) == len(search.HUNTS) + len(timed)
    # Anew for one engine: what is known of the others stays.
    FakeSeat.asked.clear()
    search.search(out, tmp_path, (0.8,), 8, 1, "", said.append, FakeSeat, ("cornac",))
    again = pd.read_csv(out)
    assert dict(again.engine.value_counts()) == {"minicf": 40, "PyTorch": 80, "JAX": 80, "Surprise": 40, "cornac": 8}
    pd.testing.assert_frame_equal(again[again.engine == "JAX"], found[found.engine == "JAX"], check_index_type=False)
    assert {contender for contender, _ in FakeSeat.asked} == {"cornac"}


def write_trials(path: Path) -> None:
    """A search with three trials: the fast one does not come far, the third is the faster of those that do."""
    rows = []
    for trial, (mse, seconds) in enumerate([(0.79, 0.1), (0.75, 3.0), (0.751, 2.0)]):
        for engine in ("minicf", "PyTorch"):
            setting = settings.Setting("adam", 0.01, 1e-4, 64, 8, trial + 1, ranged=trial == 2)
            slower = 10 if engine == "PyTorch" else 1
            known = {"engine": engine, "trial": trial, "mse": mse, "timed_mse": mse, "seconds": slower * seconds}
            rows.append(known | setting.plain())
    pd.DataFrame(rows).to_csv(path, index=False)


def test_best_setting_is_the_fastest_that_came_to_the_target(tmp_path):
    path = tmp_path / "search.csv"
    write_trials(path)
    assert {engine: s.epochs for engine, s in search.best(path, 0.755).items()} == {"minicf": 3, "PyTorch": 3}
    assert search.best(path, 0.755)["minicf"].ranged is True
    assert {s.epochs for s in search.best(path, 0.8).values()} == {1}
    assert search.best(path, 0.7) == {}
    assert search.best(tmp_path / "missing.csv", 0.8) == {}


# --- records and tables ----------------------------------------------------------------------------------------------


def record(who: str, times: float, **more: Any) -> Record:
    made = Record(
        case="adam-64", group="a", title="Adam, batch 64", provider=who, unit="epoch", turns=7, share=1.0,
        n_ratings=80_000, batch=64, median_s=0.03 * times, q1_s=0.029 * times, q3_s=0.031 * times,
        ratings_per_s=8e4 / (0.03 * times), times_minicf=times,
        device="a machine", commit="abc", date="2026-01-02 10:00",
    )  # fmt: skip
    return replace(made, **more)


@pytest.fixture
def records():
    return [
        record("minicf", 1.0, versions='{"minicf": "0.1.0"}'),
        record("PyTorch", 26.5, aim=25.0, share=0.4),
        record("JAX", math.nan, status="absent: ModuleNotFoundError: No module named 'jax'", median_s=math.nan),
        record("minicf", 1.0, case="ceiling-roots", group="h", provider="machine", title="roots", median_s=0.5),
        *(record("minicf", 1.0, case=f"growth-{x}", group="g", x_name="ratings: SGD", x=x, ratings_per_s=1e7 / k)
          for x, k in ((1e5, 1.0), (1e6, 1.25))),
    ]  # fmt: skip


def test_records_of_a_case_replace_its_old_ones(records, tmp_path):
    path = tmp_path / "cpu.csv"
    measure.write(path, records)
    measure.write(path, [record("minicf", 1.0, median_s=0.5)])
    again = measure.read(path)
    assert [r.median_s for r in again if r.case == "adam-64"] == [0.5]
    assert {r.case for r in again} == {r.case for r in records}
    assert measure.read(tmp_path / "none.csv") == []


def test_report_fills_what_stands_between_its_markers(records, tmp_path):
    measure.write(tmp_path / "cpu.csv", records)
    text = tmp_path / "README.md"
    around = "Before.\n<!-- bench:{} -->\n{}<!-- /bench -->\nAfter.\n"
    text.write_text(around.format("batches", "old\n") + around.format("absent", "") + around.format("of-others", "x\n"))
    assert report.main(tmp_path, [text, tmp_path / "missing.md"]) == ["batches", "absent"]
    filled = text.read_text()
    assert filled.count("Before.") == filled.count("After.") == 3
    assert "old" not in filled
    assert "| Adam, batch 64 | 30.0 ms · 1× | 795 ms\\* · 26.5× |" in filled
    assert "JAX: absent: ModuleNotFoundError: No module named 'jax' (adam-64)" in filled
    assert around.format("of-others", "x\n") in filled
    assert report.main(tmp_path, [text]) == ["batches", "absent"]
    assert text.read_text() == filled


def test_every_table_can_be_made_of_some_records_and_of_none(records):
    for name, make in report.TABLES.items():
        assert make(records), name
        if name != "machine":
            assert make([]), name
    assert "26.5×" in report.aims(records)
    assert "yes" in report.aims(records)
    assert "**no**" in report.aims([replace(records[1], times_minicf=24.0)])
    assert "1.25×" in report.growth(records)
    # 4 x 64 roots at 2 G/s are 128 ns; 0.03 s for 80,000 ratings are 375 ns.
    assert "| 128 ns | 375 ns | 2.93× |" in report.floors(records)


def test_plots_are_drawn_and_the_same_from_the_same_records(records, tmp_path):
    pytest.importorskip("matplotlib")
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    report.growth_plot(records, one)
    report.growth_plot(records, two)
    assert one.read_bytes() == two.read_bytes()
    assert b"ratings in the table" in one.read_bytes() or b"<path" in one.read_bytes()
    report.items_plot(records, tmp_path / "items.svg")
    assert not (tmp_path / "items.svg").exists()  # no record of it


@pytest.mark.parametrize(
    ("value", "text"), [(12.34, "12.3 s"), (0.5, "500 ms"), (0.00123, "1.23 ms"), (4.5e-6, "4.50 µs"), (2e-8, "20 ns")]
)
def test_seconds_are_written_with_a_unit(value, text):
    assert report.seconds(value) == text
