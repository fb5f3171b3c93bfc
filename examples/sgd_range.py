"""From scratch with plain SGD, and what a range for the predictions does.

The fast.ai lesson: a dot product without biases by SGD with momentum; then biases, and a sigmoid that keeps
predictions between half a star and five; the same by Adam with cosine restarts; and a net of ten hidden units. Their
split can be repeated exactly, so the published errors are what is to come out.
"""

from __future__ import annotations

import argparse

import minicf
from minicf.models import Model
from minicf.optim import Optimizer
from minicf.schedules import Schedule

Stages = list[tuple[int, float]]  # epochs, learning rate


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", metavar="PATH", help="a MovieLens folder or zip (default: the set in the package)")
    parser.add_argument("--backend", default="auto", help="auto (the fastest that runs here), numpy, numba or cupy")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument("--epochs", type=int, metavar="N", help="at most N epochs in each stage, for a quick look")
    args = parser.parse_args(arguments)
    ratings = minicf.load_movielens(args.ratings)
    train, valid = ratings.split(valid=0.2, seed=42)

    def fit(
        model: Model, optimizer: Optimizer, stages: list[tuple[int, float]], schedule: Schedule | None = None
    ) -> None:
        """Train through stages of (epochs, rate); momentum and the like go on from one to the next."""
        print(f"{model}\n{optimizer}\n")
        trainer = minicf.Trainer(model, optimizer, backend=args.backend, batch_size=64, seed=args.seed)
        for epochs, rate in stages:
            trainer.lr = rate
            trainer.fit(train, valid, min(epochs, args.epochs or epochs), schedule, callbacks=[minicf.PrintEpochs()])

    print("No biases, published 1.2192 after the third epoch and 1.1292 after the last:\n")
    dot = minicf.Dot(50, init=("uniform", 0.0, 0.05))
    fit(dot, minicf.SGD(0.1, momentum=0.9, weight_decay=1e-5), [(3, 0.1), (3, 0.01)])

    print("\nBiases and a range, published 0.8109 and 0.8004:\n")
    ranged = minicf.DotBias(50, rating_range=(0.5, 5.0))
    fit(ranged, minicf.SGD(0.1, momentum=0.9, weight_decay=2e-4), [(3, 0.1), (3, 0.01)])

    print("\nThe same by Adam, published 0.8107, 0.7808 and 0.7650:\n")
    fit(ranged, minicf.Adam(0.01, weight_decay=2e-4), [(3, 0.01)], minicf.CosineRestarts(cycle=1, mult=2))

    print("\nA net of ten hidden units, published 0.7914 and 0.7941:\n")
    net = minicf.Net(50, (10,), dropout=(0.05, 0.5), rating_range=(0.0, 5.5), dense_init="torch")
    fit(net, minicf.Adam(0.001, weight_decay=1e-5), [(3, 0.001), (3, 0.001)])


if __name__ == "__main__":
    main()
