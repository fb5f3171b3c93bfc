"""minicf: collaborative filtering from scratch, derived by hand, fast on CPU and GPU."""

from typing import TYPE_CHECKING, Any

from minicf import ops
from minicf.data import Bags, Batch, Ratings, Vocabulary
from minicf.files import FileError, load_weights, save_weights
from minicf.losses import Logistic, Loss, SquaredError
from minicf.models import Dot, DotBias, Hybrid, Model, Net, Parameter, SVDpp
from minicf.optim import SGD, AdaGrad, Adam, Optimizer, RMSProp
from minicf.registry import register
from minicf.schedules import (
    Chain,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Linear,
    OneCycle,
    Piecewise,
    Schedule,
    Step,
    WarmUp,
)
from minicf.solvers import Gradient, Part, Progress, Solver

if TYPE_CHECKING:
    from minicf.baselines import Biases, ItemKNN, MostPopular
    from minicf.checking import check_gradients
    from minicf.datasets import load_movielens
    from minicf.evaluation import RatingFolds, cross_validate, ranking_scorer
    from minicf.recommender import Recommender, load
    from minicf.train import (
        Callback,
        Checkpoint,
        CSVLog,
        DivergenceError,
        EarlyStopping,
        HeldOutRecall,
        History,
        PrintEpochs,
        ReduceLROnPlateau,
        Trainer,
        WeightAverage,
    )
    from minicf.tuning import tune

__version__ = "0.2.0"

# Imported at first use, for a quick start. Whatever a file can name (see `registry`) is imported above.
_LATER = {
    "baselines": ("Biases", "ItemKNN", "MostPopular"),
    "checking": ("check_gradients",),
    "datasets": ("load_movielens",),
    "evaluation": ("RatingFolds", "cross_validate", "ranking_scorer"),
    "recommender": ("Recommender", "load"),
    "train": (
        "CSVLog",
        "Callback",
        "Checkpoint",
        "DivergenceError",
        "EarlyStopping",
        "HeldOutRecall",
        "History",
        "PrintEpochs",
        "ReduceLROnPlateau",
        "Trainer",
        "WeightAverage",
    ),
    "tuning": ("tune",),
}


if not TYPE_CHECKING:  # to a type checker, every name would be one of minicf's, misspelt ones too

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        for room, names in _LATER.items():
            if name == room:
                return import_module(f"minicf.{room}")
            if name in names:
                value = globals()[name] = getattr(import_module(f"minicf.{room}"), name)
                return value
        raise AttributeError(f"module 'minicf' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "AdaGrad",
    "Adam",
    "Bags",
    "Batch",
    "Biases",
    "CSVLog",
    "Callback",
    "Chain",
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
    "HeldOutRecall",
    "History",
    "Hybrid",
    "ItemKNN",
    "Linear",
    "Logistic",
    "Loss",
    "Model",
    "MostPopular",
    "Net",
    "OneCycle",
    "Optimizer",
    "Parameter",
    "Part",
    "Piecewise",
    "PrintEpochs",
    "Progress",
    "RMSProp",
    "RatingFolds",
    "Ratings",
    "Recommender",
    "ReduceLROnPlateau",
    "SGD",
    "SVDpp",
    "Schedule",
    "Solver",
    "SquaredError",
    "Step",
    "Trainer",
    "Vocabulary",
    "WarmUp",
    "WeightAverage",
    "check_gradients",
    "cross_validate",
    "load",
    "load_movielens",
    "load_weights",
    "ops",
    "ranking_scorer",
    "register",
    "save_weights",
    "tune",
]
