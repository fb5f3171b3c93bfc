"""Solvers: methods of training, as sequences of parts that any backend can run."""

from minicf.solvers.als import ALS
from minicf.solvers.base import Part, Progress, Solver
from minicf.solvers.gradient import Gradient, loss_and_gradients
from minicf.solvers.posterior import Posterior
from minicf.solvers.sampler import Gibbs

__all__ = ["ALS", "Gibbs", "Gradient", "Part", "Posterior", "Progress", "Solver", "loss_and_gradients"]
