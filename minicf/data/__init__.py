"""Tables of ratings: ids, indices, splits."""

from minicf.data.ids import UnknownIdError, Vocabulary
from minicf.data.ratings import Ratings

__all__ = ["Ratings", "UnknownIdError", "Vocabulary"]
