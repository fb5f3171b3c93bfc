"""Models: which parameters there are, and how a pair of a user and an item becomes a prediction."""

from minicf.models.bagged import SVDpp
from minicf.models.base import Model
from minicf.models.dot import Dot, DotBias
from minicf.models.hybrid import Hybrid
from minicf.models.net import Net
from minicf.models.scorers import Score
from minicf.models.unit import UnitDot
from minicf.models.weights import Parameter, Weights

__all__ = ["Dot", "DotBias", "Hybrid", "Model", "Net", "Parameter", "SVDpp", "Score", "UnitDot", "Weights"]
