"""Data sets: MovieLens, packaged or from a file. Terms of use and citation: ``MOVIELENS.txt``."""

from minicf.datasets.movielens import load_movielens

__all__ = ["load_movielens"]
