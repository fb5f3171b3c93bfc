"""Solvers: how weights are found, as sequences of parts that any backend can do."""

from minicf.solvers.base import Part, Progress, Solver
from minicf.solvers.gradient import Gradient, loss_and_gradients

__all__ = ["Gradient", "Part", "Progress", "Solver", "loss_and_gradients"]
