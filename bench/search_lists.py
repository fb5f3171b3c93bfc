"""The search behind the lists of `minicf.Recommender`: ``python -m bench.search_lists [--wide]``.

Targets and weights of pairs (A1), and the settings of `ALS`, are compared inside training rows: three splits
(seeds 1, 2, 3) of the training rows of ml-latest-small's ``split(0.2, seed=42)``, whose validation rows are never
looked at. An item is relevant if its rating is at least the mean; all items are ranked but the seen ones. ``--wide``
also asks what the chosen setting does on made tables of other shapes and scales, where what users rate says nothing of
what they like, so that there is nothing for it to find.

NDCG@10, mean of the three splits; popular items have 0.105, and lists by predicted stars 0.02. K = 128, four passes,
a = 0.30 (20 … 28 n / (U I)), reg = 0.008 … 0.01, nu = 1 where nothing else is said; z are standardized ratings:

    ============================================================  ======
    all ratings as events                                          0.182
    those from mean - 1.5, 1.0, 0.75 deviations up (t = 1)         0.184, 0.190, 0.193
    lower ones than mean - 1.0, 0.5 deviations as t = 0            0.191, 0.187
    the same with a weight of 0.3                                  0.190, 0.192
    t = 1 + b z, b = 0.2, 0.3, 0.35, 0.4, 0.5, 0.7                 0.198, 0.203, 0.205, 0.204, 0.202, 0.195
    t = 1 + 0.3 z with the user's damped mean                      0.202
    t by the range of ratings, 0 … 1, and its root                 0.197, 0.197
    c = 1 + b z, b = 0.3, 0.5                                      0.195, 0.200
    t = 1 + 0.2 z with c = 1 + 0.3 z; 0.4 z with 0.3 z             0.202, 0.197
    from mean - 1 deviation up, t = 1 + 0.35 z                     0.204
    t = 1 + 0.4 z, plus 0.05, 0.1, 0.2 of the predicted z          0.204, 0.203, 0.199
    K = 32, 64, 128, 256 (five passes)                             0.196, 0.199, 0.203, 0.202
    3, 4, 5, 7, 10 passes                                          0.204, 0.204, 0.203, 0.200, 0.200
    a = 0.1, 0.2, 0.3, 0.5 (reg = 0.008)                           0.184, 0.195, 0.203, 0.196
    reg = 0.005, 0.008, 0.012, 0.016 (a = 0.3)                     0.182, 0.203, 0.199, 0.164
    nu = 0.5 (reg = 0.3, a = 0.1, 0.2, 0.3); nu = 0 (reg = 10)     0.204, 0.204, 0.202; 0.199
    ============================================================  ======

Any slope b of 0.3 … 0.5 will do; a threshold on top of it, weights, users' means and predicted stars add less than
0.002, and were left out. a and reg move together: what counts is their product. As a = `OVERALL` n / (U I) it has the
same place on other tables: on a tenth of the training events of Gowalla (K = 128; 16 times sparser), `OVERALL` 20 and
reg 0.008, 0.01 have NDCG@20 0.100, 0.097, and the best found 0.101; nu = 0.5 is not as good there (0.081 with reg 0.3).
Parts of the training rows, one split each, NDCG@10 with reg 0.0085, 0.01, 0.012 (popular items):

    ==========================================  =====================  =======
    items of 20 ratings or more                 0.215, 0.209, 0.196    (0.106)
    items of 50 ratings or more                 0.248, 0.251, 0.226    (0.139)
    items of 100 ratings or more                0.333, 0.350, 0.340    (0.216)
    every third user                            0.162, 0.165, 0.166    (0.109)
    ==========================================  =====================  =======

On the made tables of ``--wide`` the popular items are ahead: who rates what is drawn there by popularity alone.
"""

from __future__ import annotations

import sys

import numpy as np

from bench.search_defaults import SHAPES, synthetic
from minicf import MostPopular, Ratings, Recommender, load_movielens
from minicf.recommender import preference

SEEDS = (1, 2, 3)
CHOSEN = {
    "STEEPNESS": preference.STEEPNESS,
    "OVERALL": preference.OVERALL,
    "EPOCHS": preference.EPOCHS,
    "regularization": preference.REGULARIZATION,
    "k": preference.FACTORS,
}
VARIANTS: tuple[dict[str, float], ...] = (
    {},
    {"STEEPNESS": 0.0}, {"STEEPNESS": 0.2}, {"STEEPNESS": 0.5},
    {"OVERALL": 10.0}, {"OVERALL": 40.0}, {"regularization": 0.005}, {"regularization": 0.02},
    {"EPOCHS": 2}, {"EPOCHS": 8}, {"k": 64},
)  # fmt: skip


def ndcg(train: Ratings, test: Ratings, setting: dict[str, float]) -> float:
    """Return NDCG@10 of lists by a model of preferences alone, trained on ratings by some settings."""
    chosen = CHOSEN | setting
    preference.STEEPNESS = chosen["STEEPNESS"]
    preference.OVERALL = chosen["OVERALL"]
    recommender = Recommender(feedback="implicit").fit(train)  # for its ids and its lists
    known = recommender.inputs.__class__("userId", "movieId", "rating").ratings(train)
    reading = preference.Reading.of(known, train.mean, float(train.rating.std(dtype=np.float64)))
    solver = preference.usual_solver(known, chosen["regularization"])
    options = {"backend": "auto", "seed": 0, "n_threads": None, "verbose": False}
    found, _ = preference.Preference.train(known, reading, solver, int(chosen["EPOCHS"]), options, int(chosen["k"]))
    recommender._set_preference(found)
    recommender.model_ = found.model
    return recommender.score(test.take(test.rating >= train.mean))


def main() -> None:
    """Print the table."""
    train = load_movielens().split(0.2, seed=42)[0]
    splits = [train.split(0.2, seed=seed) for seed in SEEDS]
    for setting in VARIANTS:
        found = [ndcg(*split, setting) for split in splits]
        print(f"{setting or 'chosen'!s:28} {np.mean(found):.4f}  {np.round(found, 4)}", flush=True)
    for name, shape in SHAPES.items() if "--wide" in sys.argv else ():
        part, test = synthetic(*shape, seed=0).split(0.2, seed=1)
        popular = MostPopular().fit(part).evaluate(test)["ndcg"]
        print(f"{name:28} {ndcg(part, test, {}):.4f}  popular {popular:.4f}", flush=True)


if __name__ == "__main__":
    main()
