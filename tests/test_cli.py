"""The command line: from a CSV with ids of text to lists, through pipes, with exit codes and one-line errors."""

from __future__ import annotations

import csv
import io
import logging
import os
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from minicf import cli
from minicf.recommender import Recommender, load
from tests.campaigns import fuzz_cli
from tests.test_recommender import SEEN, table


@pytest.fixture
def ratings(tmp_path):
    path = tmp_path / "ratings.csv"
    frame = table()
    frame["userId"] = "u" + frame.userId.astype(str)
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def model(tmp_path, ratings, capsys):
    path = tmp_path / "model.npz"
    titles = tmp_path / "titles.csv"
    items = table().movieId.unique()
    pd.DataFrame({"movieId": items, "title": [f"Film {item} (1999)" for item in items]}).to_csv(titles, index=False)
    assert run("train", ratings, "-o", path, "--epochs", 5, "--factors", 3, "--titles", titles) == 0
    capsys.readouterr()
    return path


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def out(capsys) -> pd.DataFrame:
    captured = capsys.readouterr()
    assert captured.err == ""
    return pd.read_csv(io.StringIO(captured.out))


def test_train_saves_what_the_recommender_learns(tmp_path, ratings, capsys):
    assert run("train", ratings, "-o", tmp_path / "m.npz", "--epochs", 5, "--factors", 3, "--seed", 4) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "97 ratings, 12 users, 15 items" in captured.err
    frame = pd.read_csv(ratings)
    expected = Recommender(n_factors=3, epochs=5, random_state=4).fit(frame)
    np.testing.assert_array_equal(load(tmp_path / "m.npz").predict(frame), expected.predict(frame))


def test_recommend(model, capsys):
    assert run("recommend", model, "--user", "u100", "--user", "u107", "-n", 3) == 0
    expected = load(model).recommend(["u100", "u107"], 3)
    got = out(capsys)
    assert got.columns.tolist() == ["userId", "rank", "movieId", "title", "score"]
    assert got.movieId.tolist() == expected.movieId.tolist()
    assert got.userId.tolist() == expected.userId.tolist()
    assert run("recommend", model, "--all", "-n", 2) == 0
    assert len(out(capsys)) == 24
    assert run("recommend", model, "--user", "u100", "-n", 100, "--with-seen") == 0
    assert len(out(capsys)) == 15


def test_recommend_to_a_file(model, tmp_path, capsys):
    assert run("recommend", model, "--all", "-n", 2, "-o", tmp_path / "lists.csv") == 0
    assert len(pd.read_csv(tmp_path / "lists.csv")) == 24
    assert capsys.readouterr().out == ""


def test_recommend_to_someone_new(model, tmp_path, capsys, monkeypatch):
    new = "movieId,rating\n1000,5\n994,1\n"
    (tmp_path / "new.csv").write_text(new)
    assert run("recommend", model, "--new", tmp_path / "new.csv", "-n", 20) == 0
    from_file = out(capsys)
    assert len(from_file) == 13
    assert not set(from_file.movieId) & {1000, 994}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(new.encode())))
    assert run("recommend", model, "--new", "-", "-n", 20) == 0
    pd.testing.assert_frame_equal(out(capsys), from_file)


def test_candidates_and_exclusions_from_files(model, tmp_path, capsys):
    pairs = pd.DataFrame({"userId": ["u100", "u107", "u107", "new"], "movieId": [1000, 994, 988, 5]})
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    users = ["--user", "u107", "--user", "u100", "--user", "u114"]
    for option in ("candidates", "exclude"):
        chosen = f"--{option}", tmp_path / "pairs.csv"
        expected = load(model).recommend(["u107", "u100", "u114"], 20, False, **{option: pairs})
        assert run("recommend", model, *users, "-n", 20, "--with-seen", *chosen) == 0
        got = out(capsys)
        assert got[["userId", "movieId"]].values.tolist() == expected[["userId", "movieId"]].values.tolist()
        assert run("recommend", model, "--all", "-n", 20, "--with-seen", *chosen) == 0
        assert len(out(capsys)) == (3 if option == "candidates" else 12 * 15 - 3)
    (tmp_path / "new.csv").write_text("movieId,rating\n1000,5\n")
    pairs[["movieId"]].to_csv(tmp_path / "items.csv", index=False)
    assert run("recommend", model, "--new", tmp_path / "new.csv", "--candidates", tmp_path / "items.csv") == 0
    assert set(out(capsys).movieId) == {994, 988}
    assert run("recommend", model, "--user", "u100", "--exclude", tmp_path / "items.csv") == 1
    assert "items.csv has no column 'userId'" in capsys.readouterr().err
    (tmp_path / "odd.csv").write_text("userId,movieId\nu107,994\nu107,film\n")
    assert run("recommend", model, "--user", "u107", "--with-seen", "--candidates", tmp_path / "odd.csv") == 0
    captured = capsys.readouterr()
    assert "odd.csv, row 2 (from 1, without the header): item 'film' is not an integer" in captured.err
    assert pd.read_csv(io.StringIO(captured.out)).movieId.tolist() == [994]


def test_similar(model, capsys):
    assert run("similar", model, "--item", 1000, "-n", 2) == 0
    by_id = out(capsys)
    assert by_id.similar_movieId.tolist() == load(model).similar_items(1000, 2).similar_movieId.tolist()
    for title in ("Film 1000 (1999)", "film 1000", "1000"):
        assert run("similar", model, "--title", title, "-n", 2) == 0
        pd.testing.assert_frame_equal(out(capsys), by_id)


@SEEN
def test_evaluate(model, ratings, capsys):
    assert run("evaluate", model, ratings, "-k", 5) == 0
    got = out(capsys).set_index("measure").value
    expected = load(model).evaluate(pd.read_csv(ratings), k=5)
    assert got.index.tolist() == list(expected)
    np.testing.assert_allclose(got, list(expected.values()), rtol=1e-12)
    assert {"mrr", "hit_rate", "ndcg_graded"} < set(got.index)
    assert run("evaluate", model, ratings, "-k", 5, "--auc", "--with-seen") == 0
    got = out(capsys).set_index("measure").value
    expected = load(model).evaluate(pd.read_csv(ratings), k=5, exclude_seen=False, auc=True)
    assert 0.5 < got["auc"] == pytest.approx(expected["auc"], rel=1e-12)


def test_explore(tmp_path, ratings, model, capsys):
    assert run("explore", model, ratings, "-o", tmp_path / "map.html") == 0
    assert (tmp_path / "map.html").read_text().lstrip().lower().startswith("<!doctype html")
    assert capsys.readouterr().out == ""


def test_doctor(capsys):
    assert run("doctor") == 0
    text = capsys.readouterr().out
    for word in (
        "python",
        "numpy",
        "numba",
        "blas",
        "OMP_NUM_THREADS",
        "cupy packages",
        "gpu",
        "backend auto",
        "takes",
    ):
        assert word in text


def test_ids_are_text_unless_all_are_plain_numbers(tmp_path):
    for ids, expected in (
        (["1", "2"], [1, 2]),
        (["007", "8"], ["007", "8"]),
        (["1", "x"], ["1", "x"]),
        (["-0", "1"], ["-0", "1"]),
        (["-3", "0"], [-3, 0]),
        (["1e3", "2"], ["1e3", "2"]),
        (["99999999999999999999", "2"], ["99999999999999999999", "2"]),
    ):
        path = tmp_path / "t.csv"
        pd.DataFrame({"userId": ids, "movieId": 1, "rating": 3}).to_csv(path, index=False)
        assert cli._table(str(path), cli.COLUMNS).userId.tolist() == expected


@pytest.mark.parametrize("mark", [";", "\t", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_separates_is_found_in_the_header(tmp_path, mark, encoding, monkeypatch):
    rows = [["userId", "movieId", "rating"], ["Łukasz", "茶; red, blue", "4.5"], ["نور", "10", "3"]]
    path = tmp_path / "t.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=mark).writerows(rows)
    expected = pd.DataFrame(rows[1:], columns=rows[0]).astype({"rating": float})
    pd.testing.assert_frame_equal(cli._table(str(path), cli.COLUMNS), expected)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    pd.testing.assert_frame_equal(cli._table("-", cli.COLUMNS), expected)


@pytest.fixture
def numbered(tmp_path, capsys):
    """A model with integer ids, and its file of ratings."""
    table().to_csv(tmp_path / "numbers.csv", index=False)
    assert run("train", tmp_path / "numbers.csv", "-o", tmp_path / "n.npz", "--epochs", 5, "--factors", 3) == 0
    capsys.readouterr()
    return tmp_path / "n.npz", tmp_path / "numbers.csv"


def measures(capsys) -> tuple[pd.Series, str]:
    captured = capsys.readouterr()
    return pd.read_csv(io.StringIO(captured.out)).set_index("measure").value, captured.err


@SEEN
def test_one_foreign_id_is_one_unknown_row(numbered, tmp_path, capsys):
    model, path = numbered
    assert run("evaluate", model, path) == 0
    before, _ = measures(capsys)
    lines = path.read_text().splitlines()
    (tmp_path / "odd.csv").write_text("\n".join([*lines, "guest,1000,3"]))
    assert run("evaluate", model, tmp_path / "odd.csv") == 0
    after, said = measures(capsys)
    assert (after["rows"], after.rows_unknown, after.users_unknown) == (98, 1, 1)
    known = load(model).predict(pd.read_csv(path)) - pd.read_csv(path).rating
    assert before.rmse == pytest.approx(float((known**2).mean() ** 0.5), rel=1e-6)  # predictions are float32
    assert after.rmse**2 * 98 - before.rmse**2 * 97 == pytest.approx(
        float(load(model).predict(pd.DataFrame({"userId": [-1], "movieId": [1000]}))[0] - 3) ** 2, rel=1e-4
    )
    assert said.count("\n") == 1
    assert (
        "row 98 (from 1, without the header): user 'guest' is not an integer, as the known ids are (1 of 98 rows)"
        in said
    )
    # Spaces and a decimal part of zeros do not count; zeros in front do, as in training.
    spelled = [
        lines[0],
        *(",".join([f"{a}.0", f" {b} ", c]) for a, b, c, *_ in (line.split(",") for line in lines[1:])),
    ]
    (tmp_path / "spelled.csv").write_text("\n".join(spelled))
    assert run("evaluate", model, tmp_path / "spelled.csv") == 0
    again, said = measures(capsys)
    pd.testing.assert_series_equal(again, before)
    assert said == ""


def test_ids_of_new_users_and_titles_have_the_type_of_training(numbered, tmp_path, capsys):
    model, path = numbered
    (tmp_path / "new.csv").write_text("movieId,rating\n1000,5\nguest,1\n994.0,1\n")
    assert run("recommend", model, "--new", tmp_path / "new.csv", "-n", 20) == 0
    captured = capsys.readouterr()
    assert not set(pd.read_csv(io.StringIO(captured.out)).movieId) & {1000, 994}
    assert "item 'guest' is not an integer" in captured.err
    assert "1 of 3 ratings in" in captured.err
    (tmp_path / "titles.csv").write_text("movieId,title\n1000,First\nguest,Nobody\n994.0,Second\n")
    words = ("-o", tmp_path / "t.npz", "--epochs", 1, "--factors", 2, "--titles", tmp_path / "titles.csv")
    assert run("train", path, *words) == 0
    assert "1 of 3 titles in" in capsys.readouterr().err
    recommender = load(tmp_path / "t.npz")
    assert recommender.titles_[recommender.items_.index([1000, 994])].tolist() == ["First", "Second"]
    first = recommender.users_.ids[0]
    assert run("recommend", model, "--user", f" {first}.0") == 0
    assert run("recommend", model, "--user", f"0{first}") == 1
    assert f"user is '0{first}'; it must be an integer" in capsys.readouterr().err


def test_arguments_are_utf8_where_the_locale_is_none(tmp_path):
    rows = [f"Zoë{u},İ{i},{(u + i) % 5 + 1}" for u in range(4) for i in range(4)]
    (tmp_path / "r.csv").write_text("\n".join(["usér,itém,rating", *rows]), "utf-8")
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for words in (
        ["train", "r.csv", "-o", "m.npz", "--user-column", "usér", "--item-column", "itém", "--backend", "numpy"],
        ["recommend", "m.npz", "--user", "Zoë1", "-n", "1", "--with-seen"],
        ["similar", "m.npz", "--item", "İ2", "-n", "1"],
    ):
        command = [os.fsencode(word) for word in (sys.executable, "-m", "minicf", *words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().startswith("itém,rank,similar_itém,score\nİ2,1,İ")


@pytest.mark.parametrize("name", ["-0zEx", "02", "-5", "--x", "-n5"])
def test_ids_that_look_like_options(tmp_path, name, capsys):
    path = tmp_path / "r.csv"
    path.write_text(f"userId,movieId,rating\n{name},1,3\n{name},2,5\nother,1,4\nother,3,1\n")
    assert run("train", path, "-o", tmp_path / "m.npz", "--epochs", 1, "--factors", 2) == 0
    capsys.readouterr()
    assert run("recommend", tmp_path / "m.npz", "--user", name) == 0
    assert pd.read_csv(io.StringIO(capsys.readouterr().out), dtype=str).userId.tolist() == [name]
    assert run("recommend", tmp_path / "m.npz", f"--user={name}", "--with-seen") == 0


@SEEN
def test_a_model_without_seen_items(ratings, tmp_path, capsys):
    assert run("train", ratings, "-o", tmp_path / "m.npz", "--epochs", 2, "--factors", 2, "--no-seen") == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "m.npz", ratings, "-k", 15) == 0
    without, said = measures(capsys)
    assert "saved without seen items" in said
    assert run("recommend", tmp_path / "m.npz", "--user", "u100") == 1
    assert capsys.readouterr().err.endswith("use --with-seen\n")
    assert run("train", ratings, "-o", tmp_path / "s.npz", "--epochs", 2, "--factors", 2) == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "s.npz", ratings, "-k", 15, "--with-seen") == 0
    seen, said = measures(capsys)
    assert np.isnan(without[["rows_seen", "novelty"]]).all()
    pd.testing.assert_series_equal(seen, without.fillna({"rows_seen": 97.0, "novelty": seen.novelty}))
    assert said == ""
    assert seen.ndcg > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--factors", 100000000000), "--factors is 100,000,000,000; for 27 users and items"),
        (("--factors", 10**30), "--factors is 1,000,"),
        (("--epochs", 0), "--epochs is 0"),
        (("--seed", -1), "--seed is -1"),
        (("--backend", "abacus"), "--backend is 'abacus'"),
        (("--encoding", "klingon"), "--encoding is 'klingon'"),
        (("--user-column", "rating"), "--user-column, --item-column and --rating-column are ['rating',"),
    ],
)  # fmt: skip
def test_errors_name_options_of_the_command_line(ratings, tmp_path, capsys, words, message):
    assert run("train", ratings, "-o", tmp_path / "m.npz", *words) == 1
    assert f"minicf: error: {message}" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1


def test_large_lengths_of_lists(model, ratings, capsys):
    assert run("recommend", model, "--user", "u100", "-n", 10**30, "--with-seen") == 0
    assert len(out(capsys)) == 15
    assert run("evaluate", model, ratings, "-k", 10**11) == 1
    assert "error: -k is 100,000,000,000; it must be at most 1,000" in capsys.readouterr().err
    assert run("evaluate", model, ratings, "-k", 0) == 1
    assert "error: -k is 0" in capsys.readouterr().err


@SEEN
@pytest.mark.filterwarnings("always:.*rows repeat a user")
def test_duplicates_are_said_and_have_an_option_wherever_they_are_read(model, ratings, tmp_path, capsys):
    ratings.write_text(ratings.read_text() + ratings.read_text().split("\n", 1)[1])
    (tmp_path / "new.csv").write_text("movieId,rating\n1000,5\n1000,1\n")
    for words in (("train", ratings, "-o", tmp_path / "d.npz", "--epochs", 1), ("evaluate", model, ratings),
                  ("recommend", model, "--new", tmp_path / "new.csv")):  # fmt: skip
        assert run(*words) == 0
        said = capsys.readouterr().err
        assert "rows repeat a user and an item of another row; each pair has the mean of its ratings" in said
        assert "Say --duplicates mean or last if such rows are meant, or --duplicates error to refuse them" in said
        assert run(*words, "--duplicates", "error") == 1
        assert "say --duplicates last or --duplicates mean" in capsys.readouterr().err
        for policy in ("mean", "last"):
            assert run(*words, "--duplicates", policy) == 0
            assert "repeat" not in capsys.readouterr().err


def test_a_rating_with_a_comma(tmp_path, capsys):
    for value, remedy in (("1,234", "without a separator of thousands"), ("4,5", "write a decimal point, 4.5")):
        (tmp_path / "r.csv").write_text(f'userId,movieId,rating\na,1,"{value}"\n')
        assert run("train", tmp_path / "r.csv", "-o", tmp_path / "m.npz") == 1
        assert remedy in (said := capsys.readouterr().err)
        assert "1.234" not in said


def test_outputs_are_checked_before_the_work(ratings, model, tmp_path, capsys, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("the work began")

    monkeypatch.setattr(Recommender, "fit", never)
    monkeypatch.setattr(Recommender, "recommend", never)
    for words, message in (
        (("train", ratings, "-o", tmp_path / "m.csv"), "m.csv has the suffix of another format; it must end in .npz"),
        (("train", ratings, "-o", tmp_path), "is a directory"),
        (("train", ratings, "-o", "-"), "--output is '-'; it must be a file, .npz"),
        (("train", ratings, "-o", tmp_path / ("n" * 256)), "File name too long"),
        (("recommend", model, "--user", "u100", "-o", tmp_path / "l.parquet"), "it must end in .csv"),
        (("recommend", model, "--user", "u100", "-o", tmp_path / "no" / "l.csv"), "is not a directory"),
        (("explore", model, ratings, "-o", tmp_path / "page.npz"), "it must end in .html"),
    ):
        assert run(*words) == 1
        assert message in capsys.readouterr().err


def test_outputs_of_other_kinds(model, ratings, tmp_path, capsys):
    for name in ("n" * 251 + ".csv", "n" * 255, "l.csv.gz"):
        assert run("recommend", model, "--user", "u100", "-o", tmp_path / name) == 0
    assert len(pd.read_csv(tmp_path / "l.csv.gz")) == 5
    for name in ("n" * 251 + ".npz", "x" * 255):
        assert run("train", ratings, "-o", tmp_path / name, "--epochs", 1, "--factors", 2) == 0
    if os.path.exists("/dev/null"):
        before = os.stat("/dev/null")
        assert run("recommend", model, "--user", "u100", "-o", "/dev/null") == 0
        assert run("train", ratings, "-o", "/dev/null", "--epochs", 1, "--factors", 2) == 0
        assert os.stat("/dev/null").st_rdev == before.st_rdev


def test_titles_in_terminals_and_spreadsheets(tmp_path, ratings, capsys):
    (tmp_path / "titles.csv").write_text("movieId,title\n1000,=cmd()\n994,\x1b[31mRed\n988,\x1b[31mRed too\n")
    model = tmp_path / "m.npz"
    words = ("--epochs", 1, "--factors", 2, "--titles", tmp_path / "titles.csv")
    assert run("train", ratings, "-o", model, *words) == 0
    capsys.readouterr()
    assert run("recommend", model, "--user", "u100", "-n", 99, "--with-seen") == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert r"\x1b[31mRed" in captured.out
    assert "1 cells begin with =, +, - or @" in captured.err
    assert run("recommend", model, "--user", "u100", "-n", 99, "--with-seen", "--safe") == 0
    captured = capsys.readouterr()
    assert ",'=cmd()," in captured.out
    assert captured.err == ""
    assert run("similar", model, "--title", "Red") == 1
    assert "\x1b" not in (said := capsys.readouterr().err)
    assert "2 titles match" in said


def test_no_escape_sequence_reaches_a_terminal(tmp_path, capsys, monkeypatch):
    """Neither from names of columns and ids, nor from messages, logs and the environment."""
    (tmp_path / "r.csv").write_text(
        "\x1b[1mu,i\x9b1m,rating\n"
        + "".join(f"\x1b]0;{u}\x07,{i}\x1b[2J,{(u + i) % 5 + 1}\n" for u in range(5) for i in range(4))
    )
    model = tmp_path / "m.npz"
    columns = ("--user-column", "\x1b[1mu", "--item-column", "i\x9b1m")
    assert (
        run(
            "train",
            tmp_path / "r.csv",
            "-o",
            model,
            "--epochs",
            1,
            "--factors",
            2,
            *columns,
            "--verbose",
            "--no-seen",
            "--backend",
            "numpy",
        )
        == 0
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "\x1b[31m1")
    for words in (
        ("recommend", model, "--all", "--with-seen"),
        ("recommend", model, "--user", "\x1b]0;1\x07", "--with-seen"),
        ("recommend", model, "--user", "\x1b]0;9\x07"),
        ("similar", model, "--item", "1\x1b[2J"),
        ("similar", model, "--title", "\x1b[2J"),
        ("evaluate", model, tmp_path / "r.csv"),
        ("evaluate", model, tmp_path / "\x1b[2J.csv"),
        ("evaluate", model, tmp_path / "\x1b[2J.csv", "--traceback"),
        ("train", tmp_path / "r.csv", "-o", tmp_path / "\x1b[2J.csv"),
        ("train", tmp_path / "r.csv", "-o", model, "--rating-column", "\x1b[2J"),
        ("explore", model, "\x1b[2J", "-o", "x.html"),
        ("doctor",),
    ):
        run(*words)
    with pytest.raises(SystemExit):
        run("train", "\x1b[2J", "-o", model, "--model", "\x1b[2J")
    cli._Log().emit(logging.makeLogRecord({"msg": "a file called %s", "args": ("\x1b[2J",)}))
    captured = capsys.readouterr()
    assert not [
        mark for mark in captured.out + captured.err if unicodedata.category(mark) == "Cc" and mark not in "\r\n"
    ]
    assert r"\x1b]0;1\x07,1," in captured.out
    assert r"minicf: a file called \x1b[2J" in captured.err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "> /dev/full"])
def test_closed_and_full_streams(model, ratings, tmp_path, closed):
    if "full" in closed and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    for words in (f"recommend {model} --user u100", f"recommend {model} --new -", f"evaluate {model} -"):
        done = subprocess.run(
            f"{sys.executable} -m minicf {words} {closed}", shell=True, capture_output=True, text=True,
            env=environment, cwd=tmp_path, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == (0 if "--user" in words and closed in ("<&-", "2>&-") else 1)
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == (done.returncode and "2>" not in closed)


def test_a_share_of_the_fuzzing():
    counts = fuzz_cli.run(100, seed=1)
    assert sum(counts.values()) == 100
    assert sum(count for key, count in counts.items() if key.endswith(" done")) > 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    text = "userId;movieId;rating\na;1;3\n"
    with ThreadPoolExecutor() as pool:
        pool.submit(path.write_text, text)
        assert cli._table(str(path), cli.COLUMNS).to_numpy().tolist() == [["a", 1, 3]]


@pytest.mark.filterwarnings("always")  # not as an error: it is to be shown
def test_what_is_left_out_of_a_new_list_is_said(model, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("movieId,rating\n1000,5\n7,1\n")
    assert run("recommend", model, "--new", tmp_path / "new.csv") == 0
    assert "1 of 2 ratings in" in capsys.readouterr().err
    (tmp_path / "new.csv").write_text("movieId,rating\n1000,50\n")
    assert run("recommend", model, "--new", tmp_path / "new.csv") == 0
    assert "warning: ratings are 50 … 50; they must be on the scale of training, 1 … 5" in capsys.readouterr().err


def test_ctrl_c_while_training_leaves_the_file(ratings, tmp_path, capsys, monkeypatch):
    path = tmp_path / "m.npz"
    path.write_text("what was there")

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recommender, "fit", interrupted)
    assert run("train", ratings, "-o", path) == 130
    assert "interrupted; " in (said := capsys.readouterr().err)
    assert "m.npz was not written" in said
    assert path.read_text() == "what was there"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recommend", "MODEL", "--user", "u1"), "unknown user 'u1'"),
        (("recommend", "nowhere.npz", "--user", "u1"), "nowhere.npz does not exist"),
        (("recommend", "RATINGS", "--user", "u1"), "is damaged, or not a minicf file"),
        (("similar", "MODEL", "--item", "x"), "item is 'x'; it must be an integer"),
        (("similar", "MODEL", "--title", "Film"), "15 titles match 'Film'"),
        (("similar", "MODEL", "--title", "Movie"), "no title contains 'Movie'"),
        (("train", "nowhere.csv", "-o", "m.npz"), "nowhere.csv does not exist"),
        (("train", "RATINGS", "-o", "no/folder/m.npz"), "no/folder is not a directory; make it"),
        (
            ("train", "RATINGS", "-o", "OUT", "--user-column", "uid"),
            "no column 'uid'; it has 'userId', 'movieId', 'rating'; see --user-column",
        ),
        (("train", "RATINGS", "-o", "OUT", "--factors", "0"), "--factors is 0"),
        (("train", "TWICE", "-o", "OUT", "--duplicates", "error"), "are both ratings of item"),
        (
            ("train", "WORDS", "-o", "OUT"),
            "row 2 (from 1, without the header): rating 'good' is not a finite number",
        ),
        (
            ("train", "COMMA", "-o", "OUT"),
            "rating '4,5' is not a finite number (1 of 1 rows); write a decimal point, 4.5",
        ),
        (("train", "NOBODY", "-o", "OUT"), "row 2 (from 1, without the header): user '' is empty (1 of 2 rows)"),
        (("train", "LONG", "-o", "OUT"), "has rows longer than its header; quote values that contain ','"),
        (("train", "LONGER", "-o", "OUT"), "Expected 3 fields in line 3, saw 4; values with commas must be quoted"),
        (
            ("evaluate", "MODEL", "SPACE"),
            "no column 'movieId'; it has 'userId', ' movieId', 'rating'; its columns must have the names",
        ),
        (("train", "SPACE", "-o", "OUT"), "no column 'movieId'; it has 'userId', ' movieId'"),
        (("train", "EMPTY", "-o", "OUT"), "has no rows"),
        (("train", "NOTHING", "-o", "OUT"), "is empty; it must have a header"),
        (
            ("train", "LATIN", "-o", "OUT"),
            "is not in UTF-8: line 2, byte 3 is 0xeb; save it as UTF-8, or say --encoding",
        ),
        (("recommend", "MODEL", "--user", "u1"), "such as 'u100', 'u107', 'u114'; use --new"),
        (("similar", "MODEL", "--item", "7"), "unknown item 7; there are 15 known items"),
        (("evaluate", "MODEL", "WORDS"), "is not a finite number"),
        (("explore", "MODEL", "EMPTY", "-o", "PAGE"), "has no rows"),
    ],
)
def test_errors_are_one_line(model, ratings, tmp_path, capsys, arguments, message):
    texts = {
        "TWICE": "userId,movieId,rating\na,1,3\na,1,4\n",
        "WORDS": "userId,movieId,rating\na,1,3\na,2,good\n",
        "COMMA": 'userId,movieId,rating\na,1,"4,5"\n',
        "NOBODY": "userId,movieId,rating\na,1,3\n,2,4\n",
        "SPACE": "userId, movieId,rating\na,1,3\n",
        "LONG": "userId,movieId,rating\na,b,4,5\nc,d,3,5\n",
        "LONGER": "userId,movieId,rating\na,b,4\nc,d,3,5\n",
        "LATIN": "userId,movieId,rating\nZoë,1,3\n",
        "NOTHING": "",
        "EMPTY": "userId,movieId,rating\n",
    }
    paths = {"MODEL": model, "RATINGS": ratings, "OUT": tmp_path / "out.npz", "PAGE": tmp_path / "page.html"}
    for name, text in texts.items():
        paths[name] = tmp_path / f"{name}.csv"
        paths[name].write_text(text, encoding="latin-1" if name == "LATIN" else "utf-8")
    assert run(*(paths.get(argument, argument) for argument in arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("minicf: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    "arguments", [(), ("recommend",), ("recommend", "m.npz"), ("bake",), ("train", "x", "--model", "svd")]
)
def test_arguments_that_make_no_sense(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_the_traceback_on_request(capsys):
    assert run("recommend", "\x1b[31mnowhere.npz", "--user", "u1", "--traceback") == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):\n")
    assert said.splitlines()[-1] == r"minicf: error: \x1b[31mnowhere.npz does not exist; `minicf train` makes a model"
    assert "\x1b" not in said


def test_as_a_process_with_pipes(ratings, tmp_path):
    """Ids of text in, a model, lists of three users and of a new one out: each step a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.getcwd()}

    def minicf(*arguments, **options):
        command = [sys.executable, "-m", "minicf", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False, **options
        )

    done = minicf("train", "-", "-o", "m.npz", "--epochs", "5", input=ratings.read_text())
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    done = minicf("recommend", "m.npz", "--user", "u100", "--user", "u107", "--user", "u114", "-n", "10")
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(io.StringIO(done.stdout)).userId.nunique() == 3
    done = minicf("recommend", "m.npz", "--new", "-", input="movieId,rating\n1000,5\n")
    assert len(pd.read_csv(io.StringIO(done.stdout))) == 10
    done = minicf("recommend", "m.npz", "--user", "nobody")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert minicf("--version").stdout.startswith("minicf ")
    # A reader that stops early is no error.
    shell = f"{sys.executable} -m minicf recommend m.npz --all -n 10 | head -1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    assert done.stderr == ""
