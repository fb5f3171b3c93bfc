"""Does it help to train the tables in one model first, and go on with another?

The idea: a net learns fast and then stands still, a dot product with biases learns long and gets far; so let the
first prepare the tables of the second. Weights are handed on by name. Each run is drawn against one of the same
length without the preparation, all at a learning rate of 0.001.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import minicf
from minicf import explain
from minicf.models import Model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", metavar="PATH", help="a MovieLens folder or zip (default: the set in the package)")
    parser.add_argument("--backend", default="auto", help="auto (the fastest that runs here), numpy, numba or cupy")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument("--epochs", type=int, metavar="N", help="at most N epochs in each stage, for a quick look")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="for files (default: out)")
    args = parser.parse_args(arguments)
    ratings = minicf.load_movielens(args.ratings)
    train, valid = ratings.split(valid=0.2, seed=42)
    args.out.mkdir(parents=True, exist_ok=True)

    start = ("uniform", -0.05, 0.05)
    dot = minicf.DotBias(50, init=start)
    net = minicf.Net(50, hidden=(100,), dropout=0.0, init=start)
    linear = minicf.Net(50, hidden=(), dropout=0.0, init=start)
    hybrid = minicf.Hybrid({"net": (linear, 0.2), "dot": (dot, 1.0)})
    adam = minicf.Adam(0.001, weight_decay={"user_factors": 2e-4, "item_factors": 2e-4})
    zeros = {"user_bias": np.zeros(ratings.n_users), "item_bias": np.zeros(ratings.n_items)}

    def fit(model: Model, epochs: int, start: Any, batch_size: int = 64) -> minicf.Trainer:
        trainer = minicf.Trainer(
            model, adam, backend=args.backend, batch_size=batch_size, seed=args.seed, weights=start
        )
        trainer.fit(train, valid, min(epochs, args.epochs or epochs))
        return trainer

    # As in the write-up. The hybrid's 15 epochs train the dot product too: beside it, as many of that alone.
    prepared = fit(net, 1, None)
    both = fit(hybrid, 15, zeros, batch_size=32)
    same = fit(dot, 15, zeros, batch_size=32)
    runs = {
        "DotBias": [fit(dot, 20, zeros)],
        "net 1, then DotBias": [prepared, fit(dot, 19, zeros | prepared.weights)],
        "DotBias 15 in batches of 32, then 64": [same, fit(dot, 5, same.weights)],
        "hybrid 15 in batches of 32, then DotBias": [both, fit(dot, 5, both.weights)],
    }
    print("Validation error by epoch, those of the preparation included:\n")
    show(runs)

    # What takes long is to learn that ratings are about 3.5, which the net's tables do not say. Given the mean rating
    # from the start, DotBias is much better, and the preparation shows in its first epoch.
    mean = minicf.DotBias(50, init=start, global_mean=train.mean)
    longer = fit(net, 3, None)
    given = {
        "DotBias": fit(mean, 10, zeros),
        "DotBias on the tables of 1 epoch of a net": fit(mean, 10, zeros | prepared.weights),
        "DotBias on the tables of 3 epochs of a net": fit(mean, 10, zeros | longer.weights),
    }
    print("\nWith the mean rating given, by epoch of DotBias:\n")
    show(given)

    try:
        from matplotlib import pyplot
    except ImportError:
        print("\nNo picture: pip install 'minicf[plot]' draws one.")
        return
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(14, 5.5), layout="constrained")
    explain.learning_curves(runs, training=False, ax=left)
    left.set(title="As in the write-up, epochs of the preparation included", ylim=(0.74, 1.66))
    explain.learning_curves(given, training=False, ax=right)
    right.set_title("With the mean rating given, epochs of DotBias")
    figure.savefig(args.out / "pretrained.png", dpi=150)
    print(f"\nThe curves: {args.out / 'pretrained.png'}")


def show(runs: Any) -> None:
    """Validation errors side by side."""
    table = explain.learning_curves(runs).pivot(index="epoch", columns="run", values="valid_mse")
    for number, name in enumerate(runs, 1):
        print(f"  ({number}) {name}")
    numbered = table[list(runs)].set_axis([f"({number})" for number in range(1, len(runs) + 1)], axis=1)
    print(numbered.rename_axis(index=None).to_string(float_format="{:.4f}".format, na_rep=""))


if __name__ == "__main__":
    main()
