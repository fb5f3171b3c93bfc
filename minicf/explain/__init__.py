"""Explain a trained model: tables and pictures of its weights and predictions, and a page for the browser.

Functions of a model take a `Trainer`, a fitted `Recommender`, or an object with one of these as ``trainer_``, and
return data. With ``ax=``, matplotlib axes or True for a new figure, they also draw and return the pair
``(data, axes)``. matplotlib, plotly and scikit-learn are imported only when they are needed.
"""

from minicf.explain.page import explore
from minicf.explain.pictures import short_title
from minicf.explain.tables import (
    Components,
    ScoreParts,
    bias_table,
    components,
    item_map,
    learning_curves,
    nearest_items,
    score_parts,
)

__all__ = [
    "Components",
    "ScoreParts",
    "bias_table",
    "components",
    "explore",
    "item_map",
    "learning_curves",
    "nearest_items",
    "score_parts",
    "short_title",
]
