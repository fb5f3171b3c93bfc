"""Every lesson of the five write-ups, run again, beside what was published.

Each row trains one model by one protocol on MovieLens ml-latest-small, validates on the same fifth of it, and gives
error and L2 penalty apart: Keras prints their sum as the loss, PyTorch the error alone. "as run" rows do what the
code of a write-up did where that was not what its text says; examples/README.md tells how that is known.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import minicf
from minicf import SGD, Adam, CosineRestarts, Dot, DotBias, Hybrid, Net
from minicf.models import Model
from minicf.optim import Optimizer
from minicf.schedules import Schedule


@dataclass(frozen=True)
class Phase:
    """One model and one optimiser, through stages of (epochs, learning rate)."""

    model: Model
    optimizer: Optimizer
    stages: tuple[tuple[int, float], ...]
    batch_size: int = 64
    schedule: Schedule | None = None
    zero_biases: bool = False

    def __str__(self) -> str:
        stages = " + ".join(f"{epochs} at {rate:g}" for epochs, rate in self.stages)
        schedule = ", cosine restarts" if self.schedule else ""
        return f"{type(self.optimizer).__name__}, batch {self.batch_size}: {stages}{schedule}"


@dataclass(frozen=True)
class Lesson:
    """A row of the table: phases one after another, the tables handed on, and what was published of the last."""

    name: str
    source: str
    title: str
    phases: tuple[Phase, ...]
    measure: str = ""
    published: dict[int, float] = field(default_factory=dict)
    """By epoch of the last phase."""
    seeds: float = 0.0
    """How far another seed moves the published number, where split and code are known: the tolerance."""


# Keras: tables start within 0.05, and l2(1e-4) on a table is a weight decay of 2e-4 on it and on nothing else.
KERAS = ("uniform", -0.05, 0.05)
ADAM = Adam(0.001, weight_decay={"user_factors": 2e-4, "item_factors": 2e-4})
WEAK = Adam(0.001, weight_decay={"user_factors": 2e-6, "item_factors": 2e-6})
DOT = Dot(50, init=KERAS)
BIAS = DotBias(50, init=KERAS)
NET = Net(50, hidden=(70,), dropout=(0.3, 0.75), init=KERAS)
DEEP = Net(50, hidden=(100, 100, 50), dropout=(0.0, 0.5, 0.6, 0.7), init=KERAS)
HEAD = Net(50, hidden=(100,), dropout=0.0, init=KERAS)
LINEAR = Net(50, hidden=(), dropout=0.0, init=KERAS)
INTENDED = Hybrid({"net": (LINEAR, 0.2), "dot": (BIAS, 1.0)})
AS_RUN = Hybrid({"net": (LINEAR, 1.0), "dot": (BIAS, 1.0)})
# fast.ai: tables start within 0.01, weight decay is on everything.
RANGED = DotBias(50, rating_range=(0.5, 5.0))
MINI = Net(50, hidden=(10,), dropout=(0.05, 0.5), rating_range=(0.0, 5.5), dense_init="torch")
UP_DOWN = (3, 0.1), (3, 0.01)

LOSS, ERROR, TRAINING = "validation loss", "validation error", "training loss"
STAGED = (3, 0.001), (6, 0.01), (10, 0.001), (15, 0.0001)

LESSONS = (
    Lesson("dot", "000", "Dot", (Phase(DOT, ADAM, ((1, 0.001), (3, 0.01), (6, 0.001))),)),
    Lesson("dot-run", "000", "Dot, as run", (Phase(DOT, ADAM, ((10, 0.001),)),),
           LOSS, {1: 4.3560, 4: 2.5811, 10: 2.5894}),
    Lesson("bias", "000", "DotBias", (Phase(BIAS, ADAM, ((1, 0.001), (6, 0.01), (15, 0.001))),)),
    Lesson("bias-run", "000", "DotBias, as run", (Phase(BIAS, ADAM, ((22, 0.001),)),),
           LOSS, {1: 3.5627, 18: 1.2613, 22: 1.1518}),
    Lesson("net", "000", "Net", (Phase(NET, ADAM, ((8, 0.001),)),), LOSS, {1: 0.9320, 8: 0.8334}),
    Lesson("deep", "001", "Deep net", (Phase(DEEP, ADAM, ((6, 0.001), (2, 0.0001))),)),
    Lesson("bias-10", "001", "DotBias, K = 10, L2 1e-6", (Phase(DotBias(10, init=KERAS), WEAK, STAGED),)),
    Lesson("bias-staged", "001", "DotBias", (Phase(BIAS, ADAM, STAGED, zero_biases=True),)),
    Lesson("hybrid", "001", "Hybrid, weights 0.2 and 1", (Phase(INTENDED, ADAM, ((5, 0.001),), 32, None, True),)),
    Lesson("hybrid-run", "001", "Hybrid, 1 and 1 as run", (Phase(AS_RUN, ADAM, ((5, 0.001),), 32, None, True),),
           TRAINING, {1: 8.2223, 5: 0.9438}),
    Lesson("cold", "001", "DotBias, no pre-training", (Phase(BIAS, ADAM, ((5, 0.001),), 64, None, True),)),
    Lesson("pretrained", "001", "Net, then DotBias",
           (Phase(HEAD, ADAM, ((1, 0.001),)), Phase(BIAS, ADAM, ((5, 0.001),), 64, None, True)),
           TRAINING, {1: 7.6557, 5: 1.7504}),
    Lesson("pretrained-hybrid", "001", "Hybrid 0.2 and 1, then DotBias",
           (Phase(INTENDED, ADAM, ((15, 0.001),), 32, None, True), Phase(BIAS, ADAM, ((5, 0.001),)))),
    Lesson("pretrained-hybrid-run", "001", "Hybrid 1 and 1 as run, then DotBias",
           (Phase(AS_RUN, ADAM, ((15, 0.001),), 32, None, True), Phase(BIAS, ADAM, ((5, 0.001),))),
           TRAINING, {1: 0.8495, 5: 0.6592}),
    Lesson("range", "002", "DotBias with a range",
           (Phase(RANGED, Adam(0.01, weight_decay=2e-4), ((3, 0.01),), schedule=CosineRestarts(1, 2)),),
           ERROR, {1: 0.8107, 2: 0.7808, 3: 0.7650}, 0.006),
    Lesson("dot-sgd", "002", "Dot, SGD",
           (Phase(Dot(50, init=("uniform", 0.0, 0.05)), SGD(0.1, 0.9, weight_decay=1e-5), UP_DOWN),),
           ERROR, {3: 1.2192, 6: 1.1292}, 0.006),
    Lesson("range-sgd", "002", "DotBias with a range, SGD", (Phase(RANGED, SGD(0.1, 0.9, weight_decay=2e-4), UP_DOWN),),
           ERROR, {3: 0.8109, 6: 0.8004}, 0.006),
    Lesson("mini", "002", "Mini net with a range", (Phase(MINI, Adam(0.001, weight_decay=1e-5), ((6, 0.001),)),),
           ERROR, {3: 0.7914, 6: 0.7941}, 0.008),
    Lesson("mean", "none", "DotBias given the mean rating",
           (Phase(DotBias(50, init=KERAS, global_mean=3.54), ADAM, ((10, 0.001),), zero_biases=True),)),
)  # fmt: skip

COLUMNS = ("lesson", "model", "protocol", "published", "minicf", "error", "penalty", "seconds", "verdict")


def run(lesson: Lesson, train: minicf.Ratings, valid: minicf.Ratings, args: argparse.Namespace) -> tuple[str, ...]:
    """Train a lesson; what its row of the table says."""
    weights: dict[str, np.ndarray] = {}
    seconds = 0.0
    for phase in lesson.phases:
        if phase.zero_biases:
            zeros = {"user_bias": np.zeros(train.n_users), "item_bias": np.zeros(train.n_items)}
            weights = zeros | weights
        trainer = minicf.Trainer(
            phase.model, phase.optimizer, backend=args.backend, batch_size=phase.batch_size, seed=args.seed,
            weights=weights or None,
        )  # fmt: skip
        for epochs, rate in phase.stages:
            trainer.lr = rate
            trainer.fit(train, valid, 1 if args.fast else epochs, phase.schedule)
        weights = trainer.weights
        seconds += sum(row["seconds"] for row in trainer.history.rows)
    last = trainer.history[-1]
    published, found, verdict = "", "", ""
    if lesson.published and not args.fast:
        ours = {epoch: measured(lesson, trainer, epoch) for epoch in lesson.published}
        published = f"{lesson.measure} {' → '.join(f'{x:.4f}' for x in lesson.published.values())}"
        found = " → ".join(f"{x:.4f}" for x in ours.values())
        verdict = judged(lesson, trainer, train if lesson.measure == TRAINING else valid, ours)
    return (
        lesson.name, f"{lesson.title} ({lesson.source})", "; ".join(map(str, lesson.phases)), published, found,
        f"{last['valid_mse']:.4f}", f"{last['penalty']:.4f}", f"{seconds:.2f}", verdict,
    )  # fmt: skip


def measured(lesson: Lesson, trainer: minicf.Trainer, epoch: int) -> float:
    """minicf's value of what was published."""
    row = trainer.history[epoch - 1]
    if lesson.measure == ERROR:
        return row["valid_mse"]
    if lesson.measure == LOSS:
        return row["valid_mse"] + row["penalty"]
    if isinstance(trainer.model, Hybrid):  # Keras prints the heads' errors apart, without the penalty
        return row["train_mse"]
    before = trainer.history[max(epoch - 2, 0)]["penalty"]
    return row["train_mse"] + (before + row["penalty"]) / 2  # Keras averages it over the epoch


def judged(lesson: Lesson, trainer: minicf.Trainer, ratings: minicf.Ratings, ours: dict[int, float]) -> str:
    """Whether the last epoch's value is the published one, and how near that is to ask for."""
    tolerance = lesson.seeds
    if not tolerance:
        # Their split cannot be repeated. Two random splits differ by sqrt(2) standard errors of the mean; twice that.
        squared = np.square(trainer.predict(ratings.user, ratings.item) - ratings.rating, dtype=np.float64)
        tolerance = 2 * math.sqrt(2) * squared.std() / math.sqrt(len(ratings))
    difference = ours[max(ours)] - lesson.published[max(ours)]
    word = "same" if abs(difference) <= tolerance else "lower" if difference < 0 else "higher"
    return f"{word} (±{tolerance:.3f})"


def markdown(rows: list[tuple[str, ...]], caption: str) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---|---|---|---|---|--:|--:|--:|---|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
    yield caption


def write(path: Path, text: str) -> None:
    """Put the table between the two marks of a page; a page without them becomes the table."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    marks = "<!-- lessons -->", "<!-- end of lessons -->"
    block = f"{marks[0]}\n\n{text}\n\n{marks[1]}"
    page, n = re.subn(f"{marks[0]}.*{marks[1]}", lambda _: block, page, flags=re.DOTALL)
    path.write_text(page if n else f"{block}\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", choices=[x.name for x in LESSONS],
                        help="this lesson alone; may be given several times. The names: %(choices)s")  # fmt: skip
    parser.add_argument("--ratings", metavar="PATH", help="a MovieLens folder or zip (default: the set in the package)")
    parser.add_argument("--backend", default="auto", help="auto (the fastest that runs here), numpy, numba or cupy")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and dropout (default: 0)")
    parser.add_argument("--fast", action="store_true", help="one epoch a stage, to see that everything runs")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="also write the table into this page")
    args = parser.parse_args(arguments)
    ratings = minicf.load_movielens(args.ratings)
    train, valid = ratings.split(valid=0.2, seed=42)
    rows = []
    widths = (22, 43, 0, 43, 26, 8, 8, 8, 0)  # the protocol is for the page alone
    shown = [i for i in range(len(COLUMNS)) if i != 2]
    print("  ".join(f"{COLUMNS[i]:<{widths[i]}}" for i in shown))
    for lesson in LESSONS:
        if args.only is None or lesson.name in args.only:
            rows.append(run(lesson, train, valid, args))
            print("  ".join(f"{rows[-1][i]:<{widths[i]}}" for i in shown), flush=True)
    if args.markdown:
        options = " ".join(sys.argv[1:] if arguments is None else arguments)
        used = minicf.Trainer(DOT, ADAM, backend=args.backend).backend
        caption = f"Written by `python examples/lessons.py {options}`: seed {args.seed}, backend {used}."
        write(args.markdown, "\n".join(markdown(rows, caption)))


if __name__ == "__main__":
    main()
