"""Training: the trainer, its history and its callbacks."""

from minicf.train.averaging import WeightAverage
from minicf.train.callbacks import Callback, Checkpoint, CSVLog, EarlyStopping, PrintEpochs
from minicf.train.held_out import HeldOutRecall
from minicf.train.history import DivergenceError, History, LRFind
from minicf.train.plateau import ReduceLROnPlateau
from minicf.train.trainer import Trainer

__all__ = [
    "CSVLog", "Callback", "Checkpoint", "DivergenceError", "EarlyStopping", "HeldOutRecall", "History", "LRFind",
    "PrintEpochs", "ReduceLROnPlateau", "Trainer", "WeightAverage",
]  # fmt: skip
