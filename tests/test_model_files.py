"""Model files: they come back whole, in another process, and nothing else is ever loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from minicf import SGD, Adam, Cosine, DotBias, Hybrid, Net
from minicf import files as storage
from minicf.files import FileError, load_weights
from minicf.recommender import Recommender, load
from tests.campaigns import damaged_files, kill_save
from tests.campaigns.models import trained

ARGUMENTS = [
    {},
    {"model": "net"},
    {"model": "hybrid"},
    {"model": DotBias(4, rating_range=(0.5, 5.5)), "optimizer": Adam(0.01), "schedule": Cosine(low=0.1)},
    {"model": Net(3, hidden=(5, 4), dropout=0.1), "optimizer": SGD(0.01, weight_decay={"output.weight": 0.1})},
    {"unknown": "nan", "random_state": np.int64(7), "user": "userId", "n_threads": 1},
]


def pairs(recommender):
    users, items = recommender.users_.ids, recommender.items_.ids
    return pd.DataFrame({"userId": np.repeat(users[:7], len(items)), "movieId": np.tile(items, 7)})


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_there_and_back(tmp_path, arguments, text):
    first = trained(30, text=text, **arguments)
    first.save(tmp_path / "model.npz")
    again = load(tmp_path / "model.npz")
    asked = pairs(first)
    np.testing.assert_array_equal(again.predict(asked), first.predict(asked))
    assert again.get_params() == first.get_params() | {"random_state": again.random_state}
    assert again.model_ == first.model_
    assert again.users_ == first.users_
    assert again.titles_.tolist() == first.titles_.tolist()
    users = first.users_.ids
    pd.testing.assert_frame_equal(again.recommend(users, 4), first.recommend(users, 4))
    pd.testing.assert_frame_equal(again.history_, first.history_)
    new = {1: 5.0, 2: 1.0}
    row = again.fold_in(new, id="zz" if text else 999)
    pd.testing.assert_frame_equal(row, first.fold_in(new, id="zz" if text else 999))
    frame = pd.DataFrame({"userId": users[:5], "movieId": 1, "rating": 4.0})
    np.testing.assert_array_equal(again.partial_fit(frame).predict(asked), first.partial_fit(frame).predict(asked))


IN_A_FRESH_PROCESS = """
import sys
import numpy as np, pandas as pd
from minicf.recommender import load
path, backend = sys.argv[1:]
model = load(path, backend)
users, items = model.users_.ids, model.items_.ids
frame = pd.DataFrame({"userId": np.repeat(users[:7], len(items)), "movieId": np.tile(items, 7)})
np.save(path + ".out.npy", model.predict(frame))
lists = model.recommend(users[:3], 10)
lists.to_csv(path + ".csv", index=False)
"""


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_fresh_process_predicts_the_same(tmp_path, backend):
    first = trained(30)
    path = tmp_path / "model.npz"
    first.save(path)
    subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, str(path), backend],
        check=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    there, here = np.load(f"{path}.out.npy"), first.predict(pairs(first))
    if backend == "numpy":
        np.testing.assert_array_equal(there, here)
    else:
        np.testing.assert_allclose(there, here, rtol=1e-6)  # float32, sums of 10 terms in another order
    lists = pd.read_csv(f"{path}.csv", dtype={"userId": str})
    assert lists.movieId.tolist() == first.recommend(first.users_.ids[:3], 10).movieId.tolist()


def test_odd_ids_and_titles(tmp_path):
    users = ["", " ", "a\nb", "é", "🎬", "x" * 1000, "\ud800"]
    # As objects: a lone surrogate is no text for Arrow, which pandas would take where it is installed.
    ids = pd.Series(users * 2, dtype=object)
    frame = pd.DataFrame({"userId": ids, "movieId": [1] * 7 + [2] * 7, "rating": [1.0, 5.0] * 7})
    first = Recommender(n_factors=2, epochs=1, backend="numpy").fit(frame, titles={1: "\n", 2: "“,”"})
    first.save(tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    assert again.users_.ids.tolist() == sorted(users)
    assert again.titles_.tolist() == ["\n", "“,”"]


def test_without_what_users_have_seen(tmp_path):
    first = trained(30)
    first.save(tmp_path / "all.npz")
    first.save(tmp_path / "m.npz", seen=False)
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        assert not [name for name in archive.namelist() if "seen" in name]
    again = load(tmp_path / "m.npz")
    user = again.users_.ids[0]
    with pytest.raises(ValueError, match="saved without seen items; use exclude_seen=False"):
        again.recommend(user)
    pd.testing.assert_frame_equal(again.recommend(user, 3, False), first.recommend(user, 3, False))
    again.fold_in({1: 5.0}, id="zz")
    again.save(tmp_path / "again.npz")
    assert load(tmp_path / "again.npz").seen_ is None


def test_what_the_file_says(tmp_path):
    first = trained(30)
    first.save(tmp_path / "m.npz")
    header, arrays = storage.read(tmp_path / "m.npz", "recommender")
    assert {"minicf", "python", "numpy", "pandas"} <= set(header["versions"])
    assert header["version"] == storage.VERSION
    # The keys of version 0.1, whose files load here, and those that came later.
    assert header.keys() == {
        "format", "version", "arguments", "model", "mean", "deviation", "unit", "rating_range", "n_ratings",
        "n_features_in", "history", "ids", "titles", "seen", "versions", "solver", "posterior",
        "described", "feedback", "preference",
    }  # fmt: skip
    assert header["deviation"] == first.std_
    assert arrays.keys() == {
        *(f"weights.{name}" for name in first.weights_), "user_ids.bytes", "user_ids.ends", "item_ids.ids",
        "titles.bytes", "titles.ends", "seen.start", "seen.items", "preference.user_factors",
        "preference.item_factors", "preference_pairs.value",
    }  # fmt: skip
    assert not any(array.dtype.hasobject for array in arrays.values())
    json.dumps(header, allow_nan=True)
    with np.load(tmp_path / "m.npz", allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["weights.item_factors"], first.weights_["item_factors"])


@pytest.mark.parametrize("side", ["user", "item"])
def test_tables_in_parquet(tmp_path, side):
    pytest.importorskip("pyarrow")
    first = trained(30)
    first.factors(side).to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), first.factors(side), check_dtype=False)


def test_a_file_of_version_0_1(tmp_path, monkeypatch):
    hybrid = Hybrid({"net": (Net(3, hidden=(4,), dropout=(0.1, 0.2)), 0.2), "dot": (DotBias(3), 1.0)})
    first = trained(
        30, model=hybrid, optimizer=SGD(0.01, weight_decay={"user_bias": 0.1}), schedule=Cosine(low=0.1),
        duplicates="error",
    )  # fmt: skip
    first.save(tmp_path / "new.npz")
    new, arrays = storage.read(tmp_path / "new.npz", "recommender")

    def members(mean):
        factors = {"n_factors": 3, "rating_range": None, "init": ["uniform", -0.01, 0.01], "global_mean": mean}
        net = {"kind": "Net", "hidden": [4], "dropout": [0.1, 0.2], "dense_init": "glorot", **factors}
        return [["net", net, 0.2], ["dot", {"kind": "DotBias", **factors}, 1.0]]

    header = {
        "arguments": {
            "backend": "numpy", "batch_size": 64, "duplicates": "error", "early_stopping": None, "epochs": 2,
            "item": "movieId", "model": {"kind": "Hybrid", "members": members(0.0), "output": "dot"}, "n_factors": 8,
            "n_threads": None, "random_state": 0, "rating": "rating", "unknown": "bias", "user": "userId",
            "validation_fraction": 0.1, "verbose": False, "schedule": {"kind": "Cosine", "epochs": None, "low": 0.1},
            "optimizer": {
                "kind": "SGD", "lr": 0.01, "momentum": 0.0, "nesterov": False, "weight_decay": {"user_bias": 0.1},
                "decay": "l2", "sparse": False,
            },
        },
        "model": {"kind": "Hybrid", "members": members(first.mean_), "output": "dot"},
        "mean": first.mean_, "deviation": first.std_, "unit": first.unit_, "rating_range": [1.0, 5.0],
        "n_ratings": first.n_ratings_, "n_features_in": first.n_features_in_, "history": new["history"],
        "ids": {"user": "text", "item": "int"}, "titles": True, "seen": True,
        "versions": {"minicf": "0.1.0", "python": "3.11.7", "numpy": "2.4.6", "pandas": "3.1.1"},
    }  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(storage, "VERSION", 1)
        storage.write(tmp_path / "old.npz", "recommender", header, arrays)
    assert storage.read(tmp_path / "old.npz", "recommender")[0]["version"] == 1
    old = load(tmp_path / "old.npz")
    assert old.get_params() == first.get_params()
    assert old.model_ == first.model_
    assert list(old.model_.heads) == ["net", "dot"]
    assert (old.mean_, old.std_, old.unit_, old.n_ratings_) == (first.mean_, first.std_, first.unit_, first.n_ratings_)
    np.testing.assert_array_equal(old.predict(pairs(first)), first.predict(pairs(first)))
    users = first.users_.ids
    pd.testing.assert_frame_equal(old.recommend(users, 4), first.recommend(users, 4, by="rating"))
    frame = pd.DataFrame({"userId": users[:5], "movieId": 1, "rating": 4.0})
    ours, theirs = old.partial_fit(frame), first.partial_fit(frame)
    np.testing.assert_array_equal(ours.predict(pairs(first)), theirs.predict(pairs(first)))
    old.save(tmp_path / "again.npz")
    assert storage.read(tmp_path / "again.npz", "recommender")[0]["version"] == storage.VERSION


def test_refusals_name_the_file_and_the_reason(tmp_path):
    path = tmp_path / "m.npz"
    with pytest.raises(FileNotFoundError):
        load(path)
    first = trained(30)
    first.save(path)
    header, arrays = storage.read(path, "recommender")
    whole = {k: v for k, v in header.items() if k not in ("format", "version")}
    with pytest.raises(FileError, match=r"m\.npz is a 'minicf recommender' file; a 'minicf weights' file"):
        load_weights(path)
    for changes, reason in (
        ({"weights.item_factors": arrays["weights.item_factors"][:-1]}, "weight 'item_factors'"),
        ({"weights.item_bias": arrays["weights.item_bias"] * np.float32(np.nan)}, "not finite"),
        ({"seen.items": arrays["seen.items"] + np.int32(50)}, "seen items do not fit"),
        ({"item_ids.ids": arrays["item_ids.ids"][::-1]}, "unique ascending"),
        ({"titles.ends": arrays["titles.ends"][:-1]}, "titles for"),
        ({"user_ids.ends": arrays["user_ids.ends"] + 1}, "text"),
    ):
        storage.write(path, "recommender", whole, arrays | changes)
        with pytest.raises(FileError, match=rf"m\.npz is not a valid recommender file.*{reason}"):
            load(path)
    for changes in ({"mean": "x"}, {"unit": 0}, {"model": {"kind": "Dot", "n_factors": 2}}, {"rating_range": [5, 1]}):
        storage.write(path, "recommender", whole | changes, arrays)
        with pytest.raises(FileError, match="not a valid recommender file"):
            load(path)
    first.save(path)
    with pytest.raises(ValueError, match="backend is 'jax'"):  # not the file's fault
        load(path, backend="jax")


def test_some_damaged_files(tmp_path):
    counts = damaged_files.run(300, tmp_path, seed=1)
    refused = sum(number for what, number in counts.items() if what.endswith("refused"))
    assert refused > 200
    kinds = {what.split()[0] for what in counts if what.endswith("refused")}
    assert kinds == {"bits", "cut", "piece", "header", "array", "entries", "foreign"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="killing a process amid a save needs fork")
def test_some_kills_amid_saving(tmp_path):
    # A process of its own: forking beside the threads of this one would not be safe.
    found = subprocess.run(
        [sys.executable, "-m", "tests.campaigns.kill_save", "10"], check=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert found.stdout.startswith("10 times a file that loads")
    assert kill_save.__doc__
