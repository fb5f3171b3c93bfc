"""bench/gpu.py does what it says, on the emulator and in small: it stands ready for a machine with a GPU."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from tests.cuda import emulator, standin

gpu = pytest.importorskip("bench.gpu", reason="the benchmarks are not part of an installed minicf")
pytestmark = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))


@pytest.mark.parametrize("name", ["adam-l2-64", "momentum-l2-64", "adam-sparse-8192", "net-64"])
def test_contenders_agree_and_are_timed(monkeypatch, name):
    pytest.importorskip("torch")
    case = replace(gpu.CASES[name], users=20, items=30, ratings=400, batch=16, steps=10)
    monkeypatch.setattr(gpu.Torch, "device", "cpu")
    monkeypatch.setattr(gpu, "CONTENDERS", (gpu.MiniCF, gpu.Torch))
    with standin.emulated():
        rows = gpu.run_case(case, 2)
    assert [row["contender"] for row in rows] == ["minicf", "PyTorch eager"]
    for row in rows:
        assert row["distance"] < gpu.NEAR
        assert 0 < row["step_q1"] <= row["step_median"] <= row["step_q3"]


def test_one_that_computes_something_else_is_not_timed(monkeypatch):
    case = replace(gpu.CASES["momentum-l2-64"], users=20, items=30, ratings=400, batch=16, steps=10)

    class Wrong(gpu.MiniCF):
        def train(self, order):
            super().train(order[:-16])

    monkeypatch.setattr(gpu, "CONTENDERS", (Wrong,))
    with standin.emulated():
        (row,) = gpu.run_case(case, 2)
    assert "step_median" not in row
    assert row["note"].startswith("not timed")


def test_the_command(monkeypatch, tmp_path, capsys):
    case = replace(gpu.CASES["adam-64"], users=20, items=30, ratings=400, batch=16, steps=10)
    monkeypatch.setattr(gpu, "CASES", {"adam-64": case})
    monkeypatch.setattr(gpu, "CONTENDERS", (gpu.MiniCF,))
    monkeypatch.setattr(gpu.TorchTop, "device", "cpu")
    monkeypatch.setattr(gpu.copy_bandwidth, "__defaults__", (1,))
    monkeypatch.setattr(gpu.barrier_seconds, "__defaults__", (10,))
    monkeypatch.setattr(gpu.per_rating, "__defaults__", (3000, 40, 60, 8, 6))
    monkeypatch.setattr(gpu.top_ten, "__defaults__", (60, 300, 8))
    with standin.emulated():
        chosen = [x for name in ("adam-64", "per-rating", "top-10") for x in ("--case", name)]
        assert gpu.main([*chosen, "--turns", "1", "--out", str(tmp_path / "x.csv")]) == 0
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["adam-64", *4 * ["per-rating"], "top-10", "top-10"]
    assert all(float(row["epoch_median"]) > 0 for row in rows[1:] if row["contender"] != "PyTorch eager")
    assert rows[-1]["epoch_median"] or "PyTorch" in rows[-1]["note"] or "torch" in rows[-1]["note"]
    assert [row["contender"] for row in rows[1:5]] == [
        f"minicf {storage} {way}" for storage in ("float32", "float16") for way in ("tiles", "racing")
    ]
    for row in rows[1:5]:
        assert abs(float(row["rmse"]) - float(row["rmse_cpu"])) < 0.05  # two epochs, in other orders
    assert float(rows[0]["copy_bandwidth"]) > 0
    assert float(rows[0]["barrier_seconds"]) > 0
    assert gpu.main(["--list"]) == 0
    monkeypatch.setattr(gpu.cuda, "unavailable", lambda: "no GPU")
    assert gpu.main([]) == 1
    assert "nothing was measured: no GPU" in capsys.readouterr().out


def test_the_command_of_all_benchmarks_hands_over(monkeypatch, capsys):
    from bench import __main__ as bench

    monkeypatch.setattr(gpu.cuda, "unavailable", lambda: "no GPU")
    with pytest.raises(SystemExit) as end:
        bench.main(["--gpu", "--case", "adam-l2-64"])
    assert end.value.code == 1
    assert "nothing was measured: no GPU" in capsys.readouterr().out


def test_the_cases_are_the_ones_that_were_promised():
    """Each row of what is to be shown on a GPU has its case, each with all rivals."""
    assert [kind.name for kind in gpu.CONTENDERS] == ["minicf", "PyTorch eager", "PyTorch CUDA graph", "JAX scan"]
    shapes = {(type(case.optimizer).__name__, case.model.n_factors, case.batch) for case in gpu.CASES.values()}
    assert shapes >= {("Adam", 50, 64), ("SGD", 50, 64), ("Adam", 64, 8192), ("Adam", 64, 65536), ("Adam", 50, 8192)}
    assert gpu.CASES["adam-l2-64"].optimizer.weight_decay
    assert gpu.CASES["momentum-l2-64"].optimizer.momentum
    assert gpu.CASES["adam-sparse-8192"].optimizer.sparse
    assert not gpu.CASES["adam-dense-65536"].optimizer.sparse
