"""Dot product with biases, from a table of ratings to a model that can be read.

The lesson: give each user and each movie a vector of 50 numbers and a bias; a rating is the vectors' dot product plus
the two biases. Train it as the Keras write-up does, in stages of hand-set learning rates, then as the fast.ai one
does, with predictions squeezed into the range of the stars; and look at what it found.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import minicf
from minicf import explain

# Validation losses that the write-ups print, by epoch; for the others they print none.
KERAS = {1: 3.5627, 18: 1.2613, 19: 1.2293, 20: 1.2012, 21: 1.1759, 22: 1.1518}
FASTAI = {1: 0.8107, 2: 0.7808, 3: 0.7650}
STAGES = [(1, 0.001), (6, 0.01), (10, 0.001), (5, 0.001)]  # epochs, learning rate


class Lines(minicf.Callback):
    """A line an epoch, the published loss beside minicf's."""

    def __init__(self, published: dict[int, float], with_penalty: bool) -> None:
        self.published, self.with_penalty = published, with_penalty
        loss = f"{'+ penalty':>11}{'= loss':>9}" if with_penalty else ""
        print(f"  {'epoch':>5}{'rate':>8}{'train mse':>11}{'valid mse':>11}{loss}{'published':>11}{'seconds':>9}")

    def on_epoch_end(self, trainer: minicf.Trainer, row: dict[str, Any]) -> None:
        line = f"  {row['epoch']:>5}{row['lr']:>8.3g}{row['train_mse']:>11.4f}{row['valid_mse']:>11.4f}"
        if self.with_penalty:
            line += f"{row['penalty']:>11.4f}{row['valid_mse'] + row['penalty']:>9.4f}"
        published = self.published.get(row["epoch"])
        print(f"{line}{'' if published is None else f'{published:.4f}':>11}{row['seconds']:>9.2f}", flush=True)


def side_by_side(left: Any, right: Any, heads: tuple[str, str]) -> None:
    """Two lists of (number, title), in two columns."""
    print(f"  {heads[0]:<50}{heads[1]}".rstrip())
    for (a, first), (b, second) in zip(left, right, strict=True):
        first, second = explain.short_title(first, 40), explain.short_title(second, 40)
        print(f"  {a:>6.2f}  {first:<42}{b:>6.2f}  {second}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", metavar="PATH", help="a MovieLens folder or zip (default: the set in the package)")
    parser.add_argument("--backend", default="auto", help="auto (the fastest that runs here), numpy, numba or cupy")
    parser.add_argument("--epochs", type=int, metavar="N", help="at most N epochs in each stage, for a quick look")
    parser.add_argument("--factors", type=int, default=50, metavar="K", help="numbers in a vector (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order; the split is fixed (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="for files (default: out)")
    args = parser.parse_args(arguments)
    begin = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)

    # The data: everything at once, the most active corner of it, and a fifth put aside.
    ratings = minicf.load_movielens(args.ratings)
    print(f"{ratings}\n\nThe most active users by the most rated movies, in stars (· not rated):\n")
    print(ratings.top(15, 15).to_string(na_rep="·", float_format="{:g}".format, justify="right"))
    train, valid = ratings.split(valid=0.2, seed=42)
    print(f"\nTraining on {len(train):,} ratings, validating on {len(valid):,}.\n")
    comparable = args.ratings is None and args.epochs is None and args.factors == 50

    # First lesson. Keras' l2(1e-4) on a table is a weight decay of 2e-4; its tables start within 0.05.
    model = minicf.DotBias(args.factors, init=("uniform", -0.05, 0.05))
    model.summary(ratings.n_users, ratings.n_items)
    decay = {"user_factors": 2e-4, "item_factors": 2e-4}
    trainer = minicf.Trainer(
        model, minicf.Adam(0.001, weight_decay=decay), backend=args.backend, batch_size=64, seed=args.seed
    )
    print(f"\nAdam in stages, L2 on the factors, backend {trainer.backend}; the first epoch may have to compile:\n")
    lines = Lines(KERAS if comparable else {}, with_penalty=True)
    for epochs, rate in STAGES:
        trainer.lr = rate
        trainer.fit(train, valid, min(epochs, args.epochs or epochs), callbacks=[lines], progress=False)
    if comparable:
        print("\n  The published losses are those of a rate of 0.001 throughout: see examples/README.md.")

    # Second lesson: the same model inside the range of the stars, a rate that falls along cosines.
    model = minicf.DotBias(args.factors, rating_range=(0.5, 5.0))
    trainer = minicf.Trainer(
        model, minicf.Adam(0.01, weight_decay=2e-4), backend=args.backend, batch_size=64, seed=args.seed
    )
    print("\nPredictions between 0.5 and 5 stars, L2 on all weights, cosine restarts:\n")
    trainer.fit(
        train, valid, min(3, args.epochs or 3), minicf.CosineRestarts(cycle=1, mult=2),
        callbacks=[Lines(FASTAI if comparable else {}, with_penalty=False)], progress=False,
    )  # fmt: skip

    # Weights out and in again, and one prediction.
    path = args.out / "bias.npz"
    minicf.save_weights(path, trainer.weights)
    trainer = minicf.Trainer(model, trainer.optimizer, backend=args.backend, weights=minicf.load_weights(path))
    user, item, stars = valid.user[0], valid.item[0], valid.rating[0]
    print(f"\nSaved {path} and loaded it again.", end=" ")
    print(f"User {ratings.users.ids[user]} would give “{title(ratings, item)}” ", end="")
    print(f"{trainer.predict(user, item):.2f} stars, and gave {stars:g}.")

    # What it found: biases, and the directions in which movies differ.
    table = explain.bias_table(trainer, ratings, top=2000)
    best, worst = table.head(15), table.tail(15)[::-1]
    print(f"\nOf the {len(table):,} most rated movies, those with the best and the worst bias:\n")
    side_by_side(zip(best.bias, best.title, strict=True), zip(worst.bias, worst.title, strict=True), ("best", "worst"))
    found = explain.components(trainer, ratings, n=min(3, args.factors), top=2000)
    print("\nThe principal components of their factors, from one end to the other:\n")
    for component, ends in found.ends.groupby("component"):
        high, low = (ends[ends.end == end] for end in ("high", "low"))
        heads = f"component {component}, {found.explained[component - 1]:.1%} of the variance", ""
        side_by_side(zip(high.score, high.title, strict=True), zip(low.score, low.title, strict=True), heads)
    picture = args.out / "bias.png"
    try:
        _, axes = explain.item_map(trainer, ratings, x=1, y=min(2, args.factors), ax=True)
        axes.figure.savefig(picture, dpi=100)
        print(f"\nThe map of these components: {picture}", end="")
    except ImportError as error:
        print(f"\nNo map of these components: {error}", end="")
    error = trainer.evaluate(valid)
    print(
        f"\nValidation: mse {error['mse']:.4f}, rmse {error['rmse']:.4f}. {time.perf_counter() - begin:.1f} s in all."
    )


def title(ratings: minicf.Ratings, item: np.integer) -> str:
    """An item's title, or its id."""
    known = None if ratings.titles is None else ratings.titles[item]
    return str(ratings.items.ids[item]) if known is None else known


if __name__ == "__main__":
    main()
