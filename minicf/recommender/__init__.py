"""The recommender: fit, predict, recommend, fold in and save, all in the ids of its users."""

from minicf.recommender.estimator import Recommender, load

__all__ = ["Recommender", "load"]
