"""Two heads on the same tables: a linear layer on the two vectors, and their dot product with biases.

Both heads' errors are trained at once, the linear one with weight 0.2. The write-up means so, but misspells the
argument, so that both had weight 1; both are run here. And its validation looks movies up in the users' column, so
that what it prints there means nothing: that is done here on purpose, to see by how much.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

import minicf


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", metavar="PATH", help="a MovieLens folder or zip (default: the set in the package)")
    parser.add_argument("--backend", default="auto", help="auto (the fastest that runs here), numpy, numba or cupy")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument("--epochs", type=int, metavar="N", help="at most N epochs in each stage, for a quick look")
    args = parser.parse_args(arguments)
    ratings = minicf.load_movielens(args.ratings)
    train, valid = ratings.split(valid=0.2, seed=42)

    start = ("uniform", -0.05, 0.05)
    linear = minicf.Net(50, hidden=(), dropout=0.0, init=start)
    dot = minicf.DotBias(50, init=start)
    adam = minicf.Adam(0.001, weight_decay={"user_factors": 2e-4, "item_factors": 2e-4})
    # The write-up starts biases at 0; weights that are not given start as the model says.
    zeros = {"user_bias": np.zeros(ratings.n_users), "item_bias": np.zeros(ratings.n_items)}

    trainers = {}
    for name, weight in (("0.2 and 1, as intended", 0.2), ("1 and 1, as run", 1.0)):
        model = minicf.Hybrid({"net": (linear, weight), "dot": (dot, 1.0)}, output="dot")
        if not trainers:
            model.summary(ratings.n_users, ratings.n_items)
        trainer = minicf.Trainer(model, adam, backend=args.backend, batch_size=32, seed=args.seed, weights=zeros)
        print(f"\nWeights {name}; the dot product's errors:\n")
        trainer.fit(train, valid, min(5, args.epochs or 5), callbacks=[minicf.PrintEpochs()])
        trainers[name] = trainer

    print("\nValidation errors of the heads, and of a movie in the users' column instead of the one rated:\n")
    print(f"  {'weights':<24}{'linear':>10}{'dot':>10}{'linear, wrong movie':>22}{'dot, wrong movie':>20}")
    # Its movies are numbered as they first appear among the ratings.
    wrong = pd.unique(ratings.item)[valid.user % len(pd.unique(ratings.item))]
    for name, trainer in trainers.items():
        right = trainer.evaluate(valid)
        errors = {
            head: np.mean((trainer.predict(valid.user, wrong, head) - valid.rating) ** 2) for head in ("net", "dot")
        }
        print(f"  {name:<24}{right['mse_net']:>10.4f}{right['mse_dot']:>10.4f}", end="")
        print(f"{errors['net']:>22.4f}{errors['dot']:>20.4f}")
    print(f"  {'published, 1 and 1':<24}{'':>20}{1.1157:>22.4f}{1.4603:>20.4f}")


if __name__ == "__main__":
    main()
