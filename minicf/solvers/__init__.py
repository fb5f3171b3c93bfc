"""Solvers: methods of training, as sequences of parts that any backend can run."""

from minicf.solvers.base import Part, Progress, Solver
from minicf.solvers.gradient import Gradient, loss_and_gradients

__all__ = ["Gradient", "Part", "Progress", "Solver", "loss_and_gradients"]
