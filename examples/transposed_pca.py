"""Principal components the right way round, and as most of the write-ups have them.

PCA of the table of items by factors asks in which directions items differ. Fitted to the transposed table it takes
factors for samples: it does not subtract the mean item, so that what all items have in common becomes a component.
How much that matters depends on how far the mean item is from 0; two trained models show both cases.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.decomposition import PCA

import minicf
from minicf import explain


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", metavar="PATH", help="a MovieLens folder or zip (default: the set in the package)")
    parser.add_argument("--backend", default="auto", help="auto (the fastest that runs here), numpy, numba or cupy")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument("--epochs", type=int, metavar="N", help="at most N epochs, for a quick look")
    args = parser.parse_args(arguments)
    ratings = minicf.load_movielens(args.ratings)
    train, valid = ratings.split(valid=0.2, seed=42)

    keras = minicf.Trainer(
        minicf.DotBias(50, init=("uniform", -0.05, 0.05)),
        minicf.Adam(0.001, weight_decay={"user_factors": 2e-4, "item_factors": 2e-4}),
        backend=args.backend, seed=args.seed,
    )  # fmt: skip
    keras.fit(train, valid, min(22, args.epochs or 22))
    fastai = minicf.Trainer(
        minicf.DotBias(50, rating_range=(0.5, 5.0)), minicf.Adam(0.01, weight_decay=2e-4),
        backend=args.backend, seed=args.seed,
    )  # fmt: skip
    fastai.fit(train, valid, min(3, args.epochs or 3), minicf.CosineRestarts(cycle=1, mult=2))

    for name, trainer in (("DotBias as the Keras write-up ran it", keras), ("DotBias with a range", fastai)):
        found = explain.components(trainer, ratings, n=3, top=2000)
        factors = trainer.weights["item_factors"][found.scores.item].astype(np.float64)
        mean = factors.mean(axis=0)
        transposed = PCA(3).fit(factors.T)
        size = np.linalg.norm(factors, axis=1).mean()
        print(f"\n{name}: the mean item has length {np.linalg.norm(mean):.2f}, items have {size:.2f} on the mean\n")
        heads = f"{'component':<11}{'right: variance':>16}{'transposed: variance':>22}"
        print(f"  {heads}{'alike':>8}{'mean item':>11}{'one sign':>10}")
        for k in range(3):
            wrong = transposed.components_[k]
            alike = abs(np.corrcoef(wrong, found.scores[f"pc{k + 1}"])[0, 1])
            common = abs(np.corrcoef(wrong, factors @ mean)[0, 1])
            shares = f"{found.explained[k]:>16.1%}{transposed.explained_variance_ratio_[k]:>22.1%}"
            sided = max((wrong > 0).mean(), (wrong < 0).mean())
            print(f"  {k + 1:<11}{shares}{alike:>8.2f}{common:>11.2f}{sided:>10.0%}")
    print("\nalike: correlation of the right component with the transposed one; mean item: of the transposed one with")
    print("how much of the mean item is in each; one sign: the items on the larger side of the transposed one.")


if __name__ == "__main__":
    main()
