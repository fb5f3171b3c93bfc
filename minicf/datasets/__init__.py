"""Data sets: MovieLens, packaged or from a file, and made ones. Terms of use and citation: ``MOVIELENS.txt``."""

from minicf.datasets.movielens import load_movielens
from minicf.datasets.planted import Planted, make_ratings

__all__ = ["Planted", "load_movielens", "make_ratings"]
