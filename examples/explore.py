"""Write a page to explore in a browser: every movie on a map, with search, neighbours and predictions.

It is one file, opens without a network, and needs the extra `explore`: pip install 'minicf[explore]'.
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
    parser.add_argument("--layout", choices=["pca", "tsne"], default="pca", help="of the map (default: pca)")
    parser.add_argument("--net", action="store_true", help="explore a net instead of a dot product with biases")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="for files (default: out)")
    args = parser.parse_args(arguments)
    ratings = minicf.load_movielens(args.ratings)
    train, valid = ratings.split(valid=0.2, seed=42)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.net:
        model = minicf.Net(50, (10,), dropout=(0.05, 0.5), rating_range=(0.0, 5.5), dense_init="torch")
        trainer = minicf.Trainer(model, minicf.Adam(0.001, weight_decay=1e-5), backend=args.backend, seed=args.seed)
        schedule = None
    else:
        model = minicf.DotBias(50, rating_range=(0.5, 5.0))
        trainer = minicf.Trainer(model, minicf.Adam(0.01, weight_decay=2e-4), backend=args.backend, seed=args.seed)
        schedule = minicf.CosineRestarts(cycle=1, mult=2)
    trainer.fit(train, valid, min(3, args.epochs or 3), schedule, callbacks=[minicf.PrintEpochs()])
    path = explain.explore(trainer, ratings, args.out / "movies.html", layout=args.layout, title="A map of movies")
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB: open it in a browser.")


if __name__ == "__main__":
    main()
