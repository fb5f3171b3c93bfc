"""A small neural network on the two vectors, where the dot product was.

The vectors of user and movie go side by side through dropout and one layer of 70 units. A net has no biases to read,
so it is asked by its predictions: how good is a movie, on the mean over all users? What makes up one prediction?
"""

from __future__ import annotations

import argparse
from pathlib import Path

import minicf
from minicf import explain


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", metavar="PATH", help="a MovieLens folder or zip (default: the set in the package)")
    parser.add_argument("--backend", default="auto", help="auto (the fastest that runs here), numpy, numba or cupy")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument("--epochs", type=int, metavar="N", help="at most N epochs in each stage, for a quick look")
    parser.add_argument("--deep", action="store_true", help="three hidden layers: 100, 100 and 50 units")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="for files (default: out)")
    args = parser.parse_args(arguments)
    ratings = minicf.load_movielens(args.ratings)
    train, valid = ratings.split(valid=0.2, seed=42)
    args.out.mkdir(parents=True, exist_ok=True)

    if args.deep:
        model = minicf.Net(50, (100, 100, 50), dropout=(0.0, 0.5, 0.6, 0.7), init=("uniform", -0.05, 0.05))
        stages = [(6, 0.001), (2, 0.0001)]  # its write-up does not train it
    else:
        model = minicf.Net(50, (70,), dropout=(0.3, 0.75), init=("uniform", -0.05, 0.05))
        stages = [(8, 0.001)]
    model.summary(ratings.n_users, ratings.n_items)
    adam = minicf.Adam(0.001, weight_decay={"user_factors": 2e-4, "item_factors": 2e-4})
    trainer = minicf.Trainer(model, adam, backend=args.backend, batch_size=64, seed=args.seed)
    print()
    for epochs, rate in stages:
        trainer.lr = rate
        trainer.fit(train, valid, min(epochs, args.epochs or epochs), callbacks=[minicf.PrintEpochs()])
    last = trainer.history[-1]
    print(f"\nerror {last['valid_mse']:.4f} + penalty {last['penalty']:.4f}", end=" ")
    print(f"= loss {last['valid_mse'] + last['penalty']:.4f}", end="\n" if args.deep else "; published 0.8334\n")
    print(f"Its root is {last['valid_mse'] ** 0.5:.4f}: the benchmarks of 0.9 that the write-up names are such roots.")

    table = explain.bias_table(trainer, ratings, top=2000)
    shown = table[["title", "mean_prediction", "mean_rating", "ratings"]].round(2)
    print("\nBy mean prediction over the users, best and worst of the most rated:\n")
    print(shown.head(8).to_string(index=False), shown.tail(8).to_string(index=False, header=False), sep="\n  …\n")
    item = int(table.item.iloc[0])
    print("\nNearest to the first, by what users and movies have to do with one another:\n")
    print(explain.nearest_items(trainer, ratings, item, n=8)[["title", "similarity"]].to_string(index=False))
    user = int(valid.user[0])
    found = explain.score_parts(trainer, user, item)
    print(f"\nWhat user {ratings.users.ids[user]} would give it, {found.prediction:.2f} stars, is the sum of:\n")
    print(found.parts.round(3).to_string(index=False, header=False))

    try:
        _, axes = explain.learning_curves(trainer, ax=True)
        axes.figure.savefig(args.out / "net.png", dpi=150)
        print(f"\nThe learning curves: {args.out / 'net.png'}")
    except ImportError as error:
        print(f"\nNo learning curves: {error}")


if __name__ == "__main__":
    main()
