"""Every example runs to its end, and says and writes what it promises; on few ratings and epochs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import minicf

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MovieLens folder with the ratings of 60 users of the real set."""
    ratings = minicf.load_movielens()
    frame = ratings.take(ratings.user < 60).frame()
    folder = tmp_path_factory.mktemp("few")
    frame.to_csv(folder / "ratings.csv", index=False)
    assert ratings.titles is not None
    assert ratings.genres is not None
    known = np.isin(ratings.items.ids, frame.movieId)
    columns = {"movieId": ratings.items.ids, "title": ratings.titles, "genres": ratings.genres}
    pd.DataFrame(columns)[known].to_csv(folder / "movies.csv", index=False)
    return folder


@pytest.fixture
def run(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run an example in this process; what it printed."""
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="the pictures of examples need matplotlib")
    pyplot.switch_backend("agg")

    def call(name: str, *options: str) -> str:
        arguments = ["--ratings", str(few), "--backend", "numpy", *options]
        if name not in ("dot", "hybrid", "sgd_range", "lessons", "transposed_pca"):
            arguments += ["--out", str(tmp_path)]
        load(name).main(arguments)
        pyplot.close("all")
        return capsys.readouterr().out

    return call


def epochs(text: str) -> list[float]:
    """Validation errors of the lines that PrintEpochs prints."""
    return [float(x) for x in re.findall(r"^epoch +\d+ .* valid mse ([\d.]+)", text, re.MULTILINE)]


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("name", NAMES)
def test_help_reads_well(name: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--help"], capture_output=True, text=True, check=True
    )
    assert load(name).__doc__.strip().splitlines()[0] in done.stdout
    for option in re.findall(r"^  (--\w+)", done.stdout, re.MULTILINE):
        line = done.stdout.split(f"\n  {option}", 1)[1].split("\n  --")[0]
        assert len(line.split()) >= 4, f"{option} is not explained"


def test_bias(run: Any, few: Path, tmp_path: Path) -> None:
    out = run("bias", "--epochs", "2", "--factors", "3", "--seed", "1")
    train, valid = minicf.load_movielens(few).split()
    assert f"Training on {len(train):,} ratings, validating on {len(valid):,}" in out
    lines = re.findall(r"^ +\d+ +[\d.]+ +[\d.]+ +([\d.]+)(?: +([\d.]+) +([\d.]+))? +[\d.]+$", out, re.MULTILINE)
    assert len(lines) == 1 + 2 + 2 + 2 + 2, "a line an epoch: four stages, and the second lesson"
    for error, penalty, loss in lines[:7]:
        assert float(error) + float(penalty) == pytest.approx(float(loss), abs=2e-4)  # of rounding to 4 places
    assert "published" in out
    assert "0.7650" not in out, "published losses are of the whole set, with all epochs and factors"
    # The weights that it saved are those that it shows.
    weights = minicf.load_weights(tmp_path / "bias.npz")
    model = minicf.DotBias(3, rating_range=(0.5, 5.0))
    trainer = minicf.Trainer(model, minicf.SGD(0.1), backend="numpy", weights=weights)
    assert f"{trainer.predict(valid.user[0], valid.item[0]):.2f} stars, and gave {valid.rating[0]:g}" in out
    assert f"Validation: mse {trainer.evaluate(valid)['mse']:.4f}" in out
    table = minicf.explain.bias_table(trainer, minicf.load_movielens(few))
    first = re.split("^  best +worst$", out, flags=re.MULTILINE)[1].splitlines()[1]
    assert minicf.explain.short_title(table.title.iloc[0], 40) in first
    assert minicf.explain.short_title(table.title.iloc[-1], 40) in first
    assert out.count("of the variance") == 3
    assert is_png(tmp_path / "bias.png")


def test_bias_without_matplotlib_does_everything_else(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ["--backend", "numpy", "--epochs", "1", "--factors", "2"]
    load("bias").main(["--ratings", str(few), "--out", str(tmp_path), *options])
    out = capsys.readouterr().out
    assert "pip install 'minicf[plot]'" in out
    assert "Validation: mse" in out
    assert (tmp_path / "bias.npz").exists()
    assert not (tmp_path / "bias.png").exists()


def test_dot(run: Any) -> None:
    out = run("dot", "--epochs", "1")
    assert len(epochs(out)) == 3 + 1 + 1
    means = re.search(r"error ([\d.]+), while each user's mean rating has ([\d.]+)", out)
    assert means is not None
    assert float(means[1]) == epochs(out)[-1]


@pytest.mark.parametrize("deep", [False, True])
def test_net(deep: bool, run: Any, tmp_path: Path) -> None:
    out = run("net", "--epochs", "1", *(["--deep"] if deep else []))
    assert len(epochs(out)) == (2 if deep else 1)
    parts = re.search(r"would give it, ([\d.]+) stars, is the sum of:\n\n((?:.*\n){4})", out)
    assert parts is not None
    values = [float(line.split()[-1]) for line in parts[2].splitlines()]
    assert sum(values) == pytest.approx(float(parts[1]), abs=0.0075)  # four values of 3 places, one of 2
    assert is_png(tmp_path / "net.png")


def test_hybrid(run: Any) -> None:
    out = run("hybrid", "--epochs", "1")
    errors = epochs(out)
    assert len(errors) == 2
    for name, error in (("0.2 and 1, as intended", errors[0]), ("1 and 1, as run", errors[1])):
        row = re.search(rf"^  {name} +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", out, re.MULTILINE)
        assert row is not None
        assert float(row[2]) == error, "the hybrid's prediction is the dot product's"
    assert errors[0] != errors[1]


def test_pretrained(run: Any, tmp_path: Path) -> None:
    out = run("pretrained", "--epochs", "2")
    tables = out.split("(1)")[2::2]  # the first (1) of each names the run, the second heads its column
    rows = [[line.split() for line in table.splitlines()[1:] if re.match(r"\d", line)] for table in tables]
    assert [len(row) for row in rows[0]] == [1 + 4, 1 + 4, 1 + 3, 1 + 2], "the preparation's epochs count"
    assert [len(row) for row in rows[1]] == [1 + 3, 1 + 3]
    assert rows[0][0][2] != rows[0][0][1], "the net's first epoch"
    assert is_png(tmp_path / "pretrained.png")


def test_sgd_range(run: Any) -> None:
    out = run("sgd_range", "--epochs", "1")
    assert len(epochs(out)) == 2 + 2 + 1 + 2


def test_transposed_pca(run: Any) -> None:
    out = run("transposed_pca", "--epochs", "1")
    rows = re.findall(r"^  ([123]) +([\d.]+)% +([\d.]+)% +([\d.]+) +([\d.]+) +([\d.]+)%$", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "2", "3"] * 2
    assert all(0 <= float(x) <= 1 for row in rows for x in row[3:5])
    assert all(50 <= float(row[5]) <= 100 for row in rows)


def test_lessons(run: Any, tmp_path: Path) -> None:
    lessons = load("lessons").LESSONS
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- lessons -->\nremoved\n<!-- end of lessons -->\nafter\n")
    out = run("lessons", "--fast", "--markdown", str(page))
    for lesson in lessons:
        start = rf"^{lesson.name} +{re.escape(lesson.title)} "
        row = re.search(start + r"\(\w+\) +([\d.]+) +([\d.]+) +([\d.]+)", out, re.MULTILINE)
        assert row is not None, lesson.name
        assert 0 < float(row[1]) < 20
        assert float(row[2]) > 0
    text = page.read_text()
    assert text.startswith("before\n<!-- lessons -->\n\n| lesson |")
    assert text.endswith("<!-- end of lessons -->\nafter\n")
    assert "removed" not in text
    assert text.count("\n| ") == 1 + len(lessons)
    assert "| Adam, batch 64: 1 at 0.001; Adam, batch 64: 5 at 0.001 |" in text
    assert "seed 0, backend numpy" in text


def test_lessons_compares_what_was_published(run: Any) -> None:
    """The three kinds of published numbers, each against the history that it is taken from."""
    lessons = load("lessons")
    only = {lesson.name: lesson for lesson in lessons.LESSONS}
    out = run("lessons", "--only", "range-sgd")
    values = r"validation error 0.8109 → 0.8004 +([\d.]+) → ([\d.]+) +([\d.]+) +[\d.]+ +[\d.]+ +(\w+)"
    row = re.search(values, out)
    assert row is not None
    assert row[2] == row[3]
    assert row[4] == ("same" if abs(float(row[2]) - 0.8004) <= 0.006 else "lower" if float(row[2]) < 0.8 else "higher")
    trainer = minicf.Trainer(lessons.BIAS, lessons.ADAM, backend="numpy")
    trainer.history.rows += [
        {"epoch": 1, "train_mse": 5.0, "valid_mse": 3.0, "penalty": 0.2},
        {"epoch": 2, "train_mse": 4.0, "valid_mse": 2.0, "penalty": 0.4},
    ]
    assert lessons.measured(only["range"], trainer, 2) == 2.0
    assert lessons.measured(only["bias-run"], trainer, 2) == 2.4
    assert lessons.measured(only["pretrained"], trainer, 2) == pytest.approx(4.3)
    hybrid = minicf.Trainer(lessons.AS_RUN, lessons.ADAM, backend="numpy")
    hybrid.history.rows += trainer.history.rows
    assert lessons.measured(only["hybrid-run"], hybrid, 2) == 4.0


def test_explore(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the page needs plotly")
    out = run("explore", "--epochs", "1")
    page = (tmp_path / "movies.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert f"movies.html, {len(page.encode()) / 1e6:.1f} MB" in out
