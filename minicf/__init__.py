"""minicf: collaborative filtering from scratch, derived by hand, fast on CPU and GPU."""

from minicf.callbacks import Callback, Checkpoint, CSVLog, EarlyStopping, PrintEpochs
from minicf.checking import check_gradients
from minicf.data import Ratings, Vocabulary, load_movielens
from minicf.files import FileError, load_weights, save_weights
from minicf.models import Dot, DotBias, Hybrid, Net
from minicf.optim import SGD, Adam
from minicf.schedules import Constant, Cosine, CosineRestarts, Exponential, OneCycle, Step
from minicf.train import DivergenceError, History, Trainer

__version__ = "0.1.0"

__all__ = [
    "Adam",
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
    "History",
    "Hybrid",
    "Net",
    "OneCycle",
    "PrintEpochs",
    "Ratings",
    "SGD",
    "Step",
    "Trainer",
    "Vocabulary",
    "check_gradients",
    "load_movielens",
    "load_weights",
    "save_weights",
]
