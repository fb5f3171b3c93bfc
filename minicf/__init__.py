"""minicf: collaborative filtering from scratch, derived by hand, fast on CPU and GPU."""

from typing import TYPE_CHECKING, Any

from minicf import ops
from minicf.checking import check_gradients
from minicf.data import Bags, Batch, Ratings, Vocabulary
from minicf.datasets import load_movielens
from minicf.files import FileError, load_weights, save_weights
from minicf.losses import Logistic, Loss, SquaredError
from minicf.models import Dot, DotBias, Hybrid, Model, Net, Parameter
from minicf.optim import SGD, Adam, Optimizer
from minicf.registry import register
from minicf.schedules import Constant, Cosine, CosineRestarts, Exponential, OneCycle, Schedule, Step
from minicf.solvers import Gradient, Part, Progress, Solver
from minicf.train import (
    Callback,
    Checkpoint,
    CSVLog,
    DivergenceError,
    EarlyStopping,
    History,
    PrintEpochs,
    Trainer,
)

if TYPE_CHECKING:
    from minicf.evaluation import cross_validate
    from minicf.recommender import Recommender, load

__version__ = "0.2.0"

# Made at first use: they are scikit-learn's, which takes longer to import than all of this.
_LATER = {"Recommender": "recommender", "load": "recommender", "cross_validate": "evaluation"}


if not TYPE_CHECKING:  # to a type checker, every name would be one of minicf's, misspelt ones too

    def __getattr__(name: str) -> Any:
        if name in _LATER:
            from importlib import import_module

            return getattr(import_module(f"minicf.{_LATER[name]}"), name)
        raise AttributeError(f"module 'minicf' has no attribute {name!r}")


__all__ = [
    "Adam",
    "Bags",
    "Batch",
    "CSVLog",
    "Callback",
    "Checkpoint",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "DivergenceError",
    "Dot",
    "DotBias",
    "EarlyStopping",
    "Exponential",
    "FileError",
    "Gradient",
    "History",
    "Hybrid",
    "Logistic",
    "Loss",
    "Model",
    "Net",
    "OneCycle",
    "Optimizer",
    "Parameter",
    "Part",
    "PrintEpochs",
    "Progress",
    "Ratings",
    "Recommender",
    "SGD",
    "Schedule",
    "Solver",
    "SquaredError",
    "Step",
    "Trainer",
    "Vocabulary",
    "check_gradients",
    "cross_validate",
    "load",
    "load_movielens",
    "load_weights",
    "ops",
    "register",
    "save_weights",
]
