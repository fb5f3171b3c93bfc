"""Tables of ratings: ids, indices, splits; batches of examples and bags of rows."""

from minicf.data.bags import Bags, Batch
from minicf.data.features import Features
from minicf.data.ids import UnknownIdError, Vocabulary
from minicf.data.negatives import Candidates, Draw
from minicf.data.ratings import Ratings

__all__ = ["Bags", "Batch", "Candidates", "Draw", "Features", "Ratings", "UnknownIdError", "Vocabulary"]
