"""The simplest model: a vector of 50 numbers for each user and each movie, and their dot product.

It has nothing that says "this user is generous" or "this movie is good", and pays for it: compare `bias.py`.
The write-up trains it in stages of hand-set learning rates; its published losses are those of a rate that never
changed. Both are run here. And one write-up looks movies up by the user's number: that is run too.
"""

from __future__ import annotations

import argparse

import numpy as np

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

    # Keras' tables start within 0.05; its l2(1e-4) on a table is a weight decay of 2e-4.
    model = minicf.Dot(50, init=("uniform", -0.05, 0.05))
    adam = minicf.Adam(0.001, weight_decay=2e-4)
    model.summary(ratings.n_users, ratings.n_items)

    def fit(stages: list[tuple[int, float]], train: minicf.Ratings, valid: minicf.Ratings) -> minicf.Trainer:
        trainer = minicf.Trainer(model, adam, backend=args.backend, batch_size=64, seed=args.seed)
        for epochs, rate in stages:
            trainer.lr = rate
            trainer.fit(train, valid, min(epochs, args.epochs or epochs), callbacks=[minicf.PrintEpochs()])
        return trainer

    print("\nAs the text says, rates of 0.001, 0.01 and 0.001:\n")
    staged = fit([(1, 0.001), (3, 0.01), (6, 0.001)], train, valid)
    print("\nAs it ran, a rate of 0.001 throughout (published losses 4.3560, then 2.5811, at the end 2.5894):\n")
    constant = fit([(10, 0.001)], train, valid)
    for name, trainer in (("as the text says", staged), ("as it ran", constant)):
        last = trainer.history[-1]
        error, penalty = last["valid_mse"], last["penalty"]
        print(f"\n{name}: error {error:.4f} + penalty {penalty:.4f} = loss {error + penalty:.4f}", end="")

    # A slip: the movies' table looked up by the user's number. Whatever the movie, the prediction is the same.
    print("\n\nWith movies looked up by the user's number, as one write-up has it:\n")
    blind = fit([(10, 0.001)], by_user(train), by_user(valid))
    means = valid.rating - train_means(train)[valid.user]
    print(f"\nThat model never sees a movie: error {blind.history[-1]['valid_mse']:.4f}, while", end=" ")
    print(f"each user's mean rating has {(means**2).mean():.4f}.")


def by_user(ratings: minicf.Ratings) -> minicf.Ratings:
    """The ratings with the user in the movie's place."""
    return minicf.Ratings(ratings.user, ratings.user, ratings.rating, users=ratings.users, items=ratings.users)


def train_means(train: minicf.Ratings) -> np.ndarray:
    """Mean rating of each user, the mean of all for users without any."""
    counts = train.user_counts()
    sums = np.bincount(train.user, weights=train.rating, minlength=train.n_users)
    return np.where(counts > 0, sums / np.maximum(counts, 1), train.mean)


if __name__ == "__main__":
    main()
