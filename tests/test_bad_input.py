"""Every public function with what it should not be given: an error that names the argument, or the right answer.

Never a crash, a hang, a changed array of the caller, or a wrong result without a word. Each table below is gone through
by one test; a new argument is a line in one of them.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest

import minicf
from minicf import metrics
from minicf.data import Ratings, Vocabulary
from minicf.datasets import load_movielens
from minicf.models import Dot, DotBias, Hybrid, Net
from minicf.optim import SGD, Adam
from minicf.recommender import Recommender, load
from minicf.train import Trainer

USERS, ITEMS, ROWS = 9, 11, 60

random = np.random.RandomState(0)
PAIRS = random.permutation(USERS * ITEMS)[:ROWS]
USER, ITEM = PAIRS // ITEMS, PAIRS % ITEMS
STARS = random.randint(1, 6, ROWS).astype(np.float64)
FRAME = pd.DataFrame({"userId": USER, "movieId": ITEM, "rating": STARS})
RATINGS = Ratings(USER, ITEM, STARS, USERS, ITEMS)


def trainer(**arguments) -> Trainer:
    return Trainer(DotBias(2), SGD(0.01), backend="numpy", **arguments)


def fit(**arguments):
    return trainer().fit(RATINGS, **({"epochs": 1} | arguments))


def recommender(**arguments) -> Recommender:
    return Recommender(**({"n_factors": 2, "epochs": 1, "batch_size": 64, "backend": "numpy"} | arguments))


def cross_validate(**arguments):
    return minicf.cross_validate(recommender(), FRAME, **({"cv": 2} | arguments))


FITTED = trainer()
FITTED.fit(RATINGS)
MODEL = recommender().fit(FRAME)
"""Neither is changed by a test."""

# --- what is no number, no whole number, no flag, no word ------------------------------------------------------------

ODD = {
    "None": None, "nan": np.nan, "text": "0.1", "empty text": "", "bytes": b"1", "complex": 1j, "list": [0.1],
    "dict": {}, "set": set(), "array": np.array([0.1, 0.2]), "NA": pd.NA, "date": pd.Timestamp("2020"),
    "object": object(),
}  # fmt: skip
NOT_A_NUMBER = ODD | {"inf": np.inf, "-inf": -np.inf, "10**400": 10**400, "True": True}
NOT_WHOLE = ODD | {"inf": np.inf, "True": True, "1.5": 1.5, "2.0": 2.0, "-1": -1}
NOT_A_SEED = NOT_WHOLE | {"2**32": 2**32}
NOT_A_FLAG = ODD | {"no": "no", "1": 1, "0.0": 0.0}
NOT_A_WORD = ODD | {"True": True, "3": 3}
del NOT_A_WORD["array"], NOT_A_WORD["NA"]
"""Compared with a word, these two are no truth, as NumPy and pandas say themselves."""

NUMBERS = {
    "SGD(lr)": ("lr", lambda v: SGD(v)),
    "SGD(momentum)": ("momentum", lambda v: SGD(0.1, momentum=v)),
    "SGD(weight_decay)": ("weight_decay", lambda v: SGD(0.1, weight_decay=v)),
    "SGD(weight_decay by name)": ("user_bias", lambda v: SGD(0.1, weight_decay={"user_bias": v})),
    "Adam(betas)": ("betas", lambda v: Adam(betas=(0.9, v))),
    "Adam(eps)": ("eps", lambda v: Adam(eps=v)),
    "Dot(rating_range)": ("rating_range", lambda v: Dot(2, rating_range=(v, 6))),
    "Dot(init)": ("init", lambda v: Dot(2, init=("normal", 0, v))),
    "Dot(global_mean)": ("global_mean", lambda v: Dot(2, global_mean=v)),
    "Net(dropout)": ("dropout", lambda v: Net(2, dropout=(v, 0.1))),
    "Hybrid(weight)": ("weight", lambda v: Hybrid({"a": (Dot(2), v)})),
    "Step(every)": ("every", lambda v: minicf.Step(v)),
    "Step(gamma)": ("gamma", lambda v: minicf.Step(1, v)),
    "Exponential(gamma)": ("gamma", lambda v: minicf.Exponential(v)),
    "Cosine(epochs)": ("epochs", lambda v: minicf.Cosine(v)),
    "Cosine(low)": ("low", lambda v: minicf.Cosine(3, v)),
    "CosineRestarts(cycle)": ("cycle", lambda v: minicf.CosineRestarts(v)),
    "CosineRestarts(mult)": ("mult", lambda v: minicf.CosineRestarts(1, v)),
    "OneCycle(epochs)": ("epochs", lambda v: minicf.OneCycle(v)),
    "OneCycle(up)": ("up", lambda v: minicf.OneCycle(3, up=v)),
    "OneCycle(start)": ("start", lambda v: minicf.OneCycle(3, start=v)),
    "OneCycle(end)": ("end", lambda v: minicf.OneCycle(3, end=v)),
    "Trainer.lr": ("lr", lambda v: setattr(trainer(), "lr", v)),
    "lr_find(low)": ("low", lambda v: FITTED.lr_find(RATINGS, low=v)),
    "lr_find(high)": ("high", lambda v: FITTED.lr_find(RATINGS, high=v)),
    "EarlyStopping(min_delta)": ("min_delta", lambda v: minicf.EarlyStopping(min_delta=v)),
    "evaluate(relevant)": ("relevant", lambda v: MODEL.evaluate(FRAME, relevant=v)),
    "check_gradients(tolerance)": ("tolerance", lambda v: minicf.check_gradients(Dot(2), tolerance=v)),
    "from_frame(rating)": ("rating", lambda v: Ratings.from_frame(FRAME.assign(rating=[3.0, v] * (ROWS // 2)))),
    "Ratings(rating)": ("rating", lambda v: Ratings([1, 2], [1, 2], np.array([1.0, v], object))),
    "Recommender(learning_rate)": ("learning_rate", lambda v: recommender(learning_rate=v).fit(FRAME)),
    "Recommender(regularization)": ("regularization", lambda v: recommender(regularization=v).fit(FRAME)),
    "fold_in(rating)": ("rating", lambda v: recommender().fit(FRAME).fold_in({1: v}, 99)),
}  # fmt: skip
NONE_MEANS = {
    "Cosine(epochs)", "OneCycle(epochs)", "evaluate(relevant)",
    "Recommender(learning_rate)", "Recommender(regularization)",
}  # fmt: skip
"""None is an answer here, and a documented one."""

WHOLE = {
    "Dot(n_factors)": ("n_factors", lambda v: Dot(v)),
    "Net(hidden)": ("hidden", lambda v: Net(2, hidden=(v,), dropout=0.1)),
    "summary(n_users)": ("n_users", lambda v: Dot(2).summary(v, 3)),
    "init_weights(n_items)": ("n_items", lambda v: Dot(2).init_weights(3, v)),
    "Trainer(batch_size)": ("batch_size", lambda v: trainer(batch_size=v)),
    "Gradient(batch_size)": ("batch_size", lambda v: minicf.Gradient(SGD(0.1), batch_size=v)),
    "shapes(n_users)": ("n_users", lambda v: Dot(2).shapes(v, 3)),
    "Trainer(n_threads)": ("n_threads", lambda v: trainer(n_threads=v)),
    "fit(epochs)": ("epochs", lambda v: fit(epochs=v)),
    "lr_find(steps)": ("steps", lambda v: FITTED.lr_find(RATINGS, steps=v)),
    "EarlyStopping(patience)": ("patience", lambda v: minicf.EarlyStopping(v)),
    "Checkpoint(every)": ("every", lambda v: minicf.Checkpoint("x", v)),
    "top(n_users)": ("n_users", lambda v: RATINGS.top(v)),
    "Recommender(n_factors)": ("n_factors", lambda v: recommender(n_factors=v).fit(FRAME)),
    "Recommender(n_samples)": ("n_samples", lambda v: recommender(n_samples=v).fit(FRAME)),
    "Recommender(n_chains)": ("n_chains", lambda v: recommender(n_chains=v).fit(FRAME)),
    "Recommender(epochs)": ("epochs", lambda v: recommender(epochs=v).fit(FRAME)),
    "Recommender(batch_size)": ("batch_size", lambda v: recommender(batch_size=v).fit(FRAME)),
    "Recommender(n_threads)": ("n_threads", lambda v: recommender(n_threads=v).fit(FRAME)),
    "Recommender(early_stopping)": ("early_stopping", lambda v: recommender(early_stopping=v).fit(FRAME)),
    "recommend(n)": ("n", lambda v: MODEL.recommend(1, n=v)),
    "recommend_all(block)": ("block", lambda v: list(MODEL.recommend_all(block=v))),
    "similar_items(n)": ("n", lambda v: MODEL.similar_items(1, n=v)),
    "similar_users(n)": ("n", lambda v: MODEL.similar_users(1, n=v)),
    "nearest(n)": ("n", lambda v: MODEL.nearest([0.1, 0.2], n=v)),
    "evaluate(k)": ("k", lambda v: MODEL.evaluate(FRAME, k=v)),
    "partial_fit(epochs)": ("epochs", lambda v: recommender().fit(FRAME).partial_fit(FRAME, epochs=v)),
    "cross_validate(cv)": ("cv", lambda v: cross_validate(cv=v)),
    "cross_validate(k)": ("k", lambda v: cross_validate(k=v)),
    "check_gradients(n_users)": ("n_users", lambda v: minicf.check_gradients(Dot(2), n_users=v)),
    "check_gradients(directions)": ("directions", lambda v: minicf.check_gradients(Dot(2), directions=v)),
    "coverage(n_items)": ("n_items", lambda v: metrics.coverage([0], v)),
}  # fmt: skip
NONE_MEANS |= {
    "Trainer(batch_size)", "Trainer(n_threads)",
    "Recommender(n_threads)", "Recommender(n_factors)", "Recommender(epochs)", "Recommender(batch_size)",
    "cross_validate(k)", "Recommender(early_stopping)", "partial_fit(epochs)",
}  # fmt: skip

SEEDS = {
    "split(seed)": ("seed", lambda v: RATINGS.split(0.2, v)),
    "cross_validate(seed)": ("seed", lambda v: cross_validate(seed=v)),
    "Recommender(random_state)": ("", lambda v: recommender(random_state=v).fit(FRAME)),
}
NONE_MEANS |= {"Recommender(random_state)"}

FLAGS = {
    "SGD(nesterov)": ("nesterov", lambda v: SGD(0.1, momentum=0.5, nesterov=v)),
    "SGD(sparse)": ("sparse", lambda v: SGD(0.1, sparse=v)),
    "Adam(sparse)": ("sparse", lambda v: Adam(sparse=v)),
    "fit(progress)": ("progress", lambda v: fit(progress=v)),
    "Recommender(verbose)": ("verbose", lambda v: recommender(verbose=v).fit(FRAME)),
    "recommend(exclude_seen)": ("exclude_seen", lambda v: MODEL.recommend(1, exclude_seen=v)),
    "evaluate(exclude_seen)": ("exclude_seen", lambda v: MODEL.evaluate(FRAME, exclude_seen=v)),
    "evaluate(auc)": ("auc", lambda v: MODEL.evaluate(FRAME, auc=v)),
    "cross_validate(return_train_score)": ("return_train_score", lambda v: cross_validate(return_train_score=v)),
    "predict(return_std)": ("return_std", lambda v: MODEL.predict(FRAME, return_std=v)),
    "save(samples)": ("samples", lambda v: MODEL.save("never written", samples=v)),
    "save(seen)": ("seen", lambda v: MODEL.save("never written", seen=v)),
}
NONE_MEANS |= {"fit(progress)"}

WORDS = {
    "SGD(decay)": ("decay", lambda v: SGD(0.1, decay=v)),
    "Net(dense_init)": ("dense_init", lambda v: Net(2, dense_init=v)),
    "Hybrid(output)": ("output", lambda v: Hybrid({"a": (Dot(2), 1.0)}, v)),
    "Trainer(backend)": ("backend", lambda v: Trainer(Dot(2), SGD(0.1), backend=v)),
    "Trainer(dtype)": ("dtype", lambda v: trainer(dtype=v)),
    "fit(shuffle)": ("shuffle", lambda v: fit(shuffle=v)),
    "Gradient(shuffle)": ("shuffle", lambda v: minicf.Gradient(SGD(0.1), shuffle=v)),
    "from_frame(duplicates)": ("duplicates", lambda v: Ratings.from_frame(FRAME, duplicates=v)),
    "from_frame(user)": ("", lambda v: Ratings.from_frame(FRAME, user=v)),
    "split(by)": ("by", lambda v: RATINGS.split(by=v)),
    "index(missing)": ("missing", lambda v: RATINGS.users.index(1, missing=v)),
    "Recommender(model)": ("model", lambda v: recommender(model=v).fit(FRAME)),
    "Recommender(backend)": ("backend", lambda v: recommender(backend=v).fit(FRAME)),
    "Recommender(unknown)": ("unknown", lambda v: recommender(unknown=v).fit(FRAME)),
    "Recommender(duplicates)": ("duplicates", lambda v: recommender(duplicates=v).fit(FRAME)),
    "Recommender(solver)": ("solver", lambda v: recommender(solver=v).fit(FRAME)),
    "Recommender(schedule)": ("schedule", lambda v: recommender(schedule=v).fit(FRAME)),
    "Recommender(user)": ("", lambda v: recommender(user=v).fit(FRAME)),
    "similar_items(metric)": ("metric", lambda v: MODEL.similar_items(1, metric=v)),
    "similar_items(index)": ("index", lambda v: MODEL.similar_items(1, index=v)),
    "nearest(side)": ("side", lambda v: MODEL.nearest([0.1, 0.2], side=v)),
    "factors(side)": ("side", lambda v: MODEL.factors(v)),
    "fold_in(side)": ("side", lambda v: recommender().fit(FRAME).fold_in({1: 3.0}, 99, v)),
    "predict(head)": ("head", lambda v: FITTED.predict(0, 0, head=v)),
    "check_gradients(method)": ("method", lambda v: minicf.check_gradients(Dot(2), method=v)),
}
NONE_MEANS |= {"similar_items(index)", "predict(head)", "fit(shuffle)"}  # the solver's order
MEANS = {
    "empty text": {"Hybrid(output)", "predict(head)"},  # the default
    "True": {"fit(shuffle)", "Gradient(shuffle)"},
    "dict": {"SGD(weight_decay)"},  # of no weight
}
"""Other answers."""

OBJECTS = {
    "Trainer(model)": lambda v: Trainer(v, SGD(0.1)),
    "Trainer(solver)": lambda v: Trainer(Dot(2), v),
    "Trainer(loss)": lambda v: trainer(loss=v),
    "Gradient(optimizer)": lambda v: minicf.Gradient(v),
    "Gradient(loss)": lambda v: minicf.Gradient(SGD(0.1), v),
    "check_gradients(loss)": lambda v: minicf.check_gradients(Dot(2), loss=v),
    "register": lambda v: minicf.register(v),
    "Trainer(weights)": lambda v: trainer(weights=v),
    "Trainer(weights by name)": lambda v: trainer(weights={"user_bias": v}),
    "fit(train)": lambda v: trainer().fit(v),
    "fit(valid)": lambda v: fit(valid=v),
    "fit(schedule)": lambda v: fit(schedule=v),
    "fit(callbacks)": lambda v: fit(callbacks=v),
    "fit(a callback)": lambda v: fit(callbacks=[v]),
    "predict(user)": lambda v: FITTED.predict(v, 1),
    "predict(item)": lambda v: FITTED.predict([1], [v]),
    "evaluate(ratings)": lambda v: FITTED.evaluate(v),
    "lr_find(train)": lambda v: FITTED.lr_find(v),
    "Hybrid(members)": lambda v: Hybrid(v),
    "SGD(weight_decay's names)": lambda v: SGD(0.1, weight_decay={id(v) if v.__hash__ is None else v: 0.1}),
    "Vocabulary": lambda v: Vocabulary(v),
    "Ratings(user)": lambda v: Ratings(v, [1], [1.0]),
    "Ratings(timestamp)": lambda v: Ratings([1], [1], [1.0], timestamp=v),
    "Ratings(users)": lambda v: Ratings([1], [1], [1.0], users=v),
    "Ratings(titles)": lambda v: Ratings([0], [0], [1.0], titles=v),
    "from_frame(frame)": lambda v: Ratings.from_frame(v),
    "from_frame(titles)": lambda v: Ratings.from_frame(FRAME, titles=v),
    "take": lambda v: RATINGS.take(v),
    "split(valid)": lambda v: RATINGS.split(v),
    "Recommender(optimizer)": lambda v: recommender(optimizer=v).fit(FRAME),
    "Recommender.fit": lambda v: recommender().fit(v),
    "Recommender.fit(y)": lambda v: recommender().fit(FRAME[["userId", "movieId"]], v),
    "Recommender.fit(titles)": lambda v: recommender().fit(FRAME, titles=v),
    "Recommender.fit(item_features)": lambda v: Recommender().fit(FRAME, item_features=v),
    "Recommender.predict": lambda v: MODEL.predict(v),
    "Recommender.evaluate": lambda v: MODEL.evaluate(v),
    "partial_fit": lambda v: recommender().fit(FRAME).partial_fit(v),
    "fold_in": lambda v: recommender().fit(FRAME).fold_in(v, 99),
    "nearest": lambda v: MODEL.nearest(v),
    "recommend(filter)": lambda v: MODEL.recommend(1, filter=v),
    "recommend(filter's answer)": lambda v: MODEL.recommend(1, filter=lambda _: v),
    "cross_validate(recommender)": lambda v: minicf.cross_validate(v, FRAME),
    "check_gradients(model)": lambda v: minicf.check_gradients(v),
    "rmse": lambda v: metrics.rmse(v, v),
    "precision(hits)": lambda v: metrics.precision(v, [1]),
    "precision(relevant)": lambda v: metrics.precision([[1, 0]], v),
    "graded_ndcg(gains)": lambda v: metrics.graded_ndcg(v, [[2, 1]]),
    "graded_ndcg(ideal)": lambda v: metrics.graded_ndcg([[1, 0]], v),
    "auc(scores)": lambda v: metrics.auc(v, [[1, 0]]),
    "auc(relevant)": lambda v: metrics.auc([[2, 1]], v),
    "auc(candidates)": lambda v: metrics.auc([[2, 1]], [[1, 0]], [v]),
    "coverage(items)": lambda v: metrics.coverage(v, 3),
    "save_weights": lambda v: minicf.save_weights("never written", v),
    "save_weights by name": lambda v: minicf.save_weights("never written", {"a": v}),
    "load_weights": lambda v: minicf.load_weights(v),
    "load": lambda v: load(v),
    "Trainer.load": lambda v: Trainer.load(v),
    "Trainer.save": lambda v: FITTED.save(v),
    "Recommender.save": lambda v: MODEL.save(v),
    "load_movielens": lambda v: load_movielens(v),
    "Checkpoint(path)": lambda v: fit(callbacks=[minicf.Checkpoint(v)]),
    "CSVLog(path)": lambda v: fit(callbacks=[minicf.CSVLog(v)]),
}  # fmt: skip
RIGHT = {
    "Trainer(weights)": {"None"},
    "Trainer(weights by name)": {"list", "array"},  # biases of one user, of two
    "Trainer(loss)": {"None"},
    "check_gradients(loss)": {"None"},
    "fit(valid)": {"None"},
    "fit(schedule)": {"None"},
    "fit(callbacks)": {"dict", "set"},  # empty ones
    "SGD(weight_decay's names)": {"text", "empty text"},  # the trainer knows the model's names, and refuses these
    "Ratings(timestamp)": {"None"},
    "Ratings(users)": {"None"},
    "Ratings(titles)": {"None"},
    "Vocabulary": {"set"},  # an empty one
    "from_frame(titles)": {"None"},
    "Recommender(optimizer)": {"None"},
    "Recommender.fit(titles)": {"None"},
    "Recommender.fit(item_features)": {"None"},
    "nearest": {"array"},
    "recommend(filter)": {"None"},
    "rmse": {"list", "array"},
    "save_weights": {"dict"},
    "save_weights by name": {"nan", "list", "array"},  # NumPy's numbers; the trainer refuses what is not finite
    "load_movielens": {"None"},
    "Checkpoint(path)": {"text"},
    "CSVLog(path)": {"text"},
    "Trainer.save": {"text"},
    "Recommender.save": {"text"},
}
"""What is no mistake."""

CLEAR = (ValueError, TypeError, KeyError, IndexError, OSError)


def cases(table, values):
    """Each argument with each value that it must refuse."""
    for name, (argument, call) in table.items():
        for label, value in values.items():
            means = NONE_MEANS if value is None else MEANS.get(label, ())
            if name not in means:
                yield pytest.param(argument, call, value, id=f"{name}-{label}")


@pytest.mark.parametrize(
    ("argument", "call", "value"),
    [
        *cases(NUMBERS, NOT_A_NUMBER),
        *cases(WHOLE, NOT_WHOLE),
        *cases(SEEDS, NOT_A_SEED),
        *cases(FLAGS, NOT_A_FLAG),
        *cases(WORDS, NOT_A_WORD),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(argument, call, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError)) as caught:
        call(value)
    assert argument in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_of_the_wrong_kind_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accepted = set()
    for label, value in ODD.items():
        try:
            OBJECTS[name](value)
        except CLEAR as error:
            accepted |= set() if str(error) else {f"{label}: without a word"}
        else:
            accepted.add(label)
    assert accepted == RIGHT.get(name, set())


def test_plain_and_numpy_numbers_are_numbers():
    for value in (1, 0.5, np.float32(0.5), np.int8(1), np.array(0.5)):
        for _, call in (NUMBERS[name] for name in ("SGD(lr)", "Step(gamma)", "Dot(global_mean)", "Hybrid(weight)")):
            call(value)
    assert type(minicf.Step(np.float32(0.5)).every) is float  # and can be written to a file
    assert minicf.Step(3).every == 3
    assert SGD(0.1, sparse=np.bool_(True)).sparse is True


def test_a_class_in_place_of_a_callback_is_no_callback():
    with pytest.raises(TypeError, match="EarlyStopping"):
        fit(callbacks=[minicf.EarlyStopping])
    with pytest.raises(TypeError, match="must be a list"):
        fit(callbacks=minicf.EarlyStopping())


# --- arrays of every make --------------------------------------------------------------------------------------------


def _readonly(a, _):
    a = a.copy()
    a.flags.writeable = False
    return a


def _strided(a, _):
    wide = np.full((len(a), 3), 77, a.dtype)
    wide[:, 1] = a
    return wide[:, 1]


def _fortran(a, _):
    wide = np.asfortranarray(np.stack([a, a, a]))
    return wide[1]


def _mapped(a, folder):
    path = folder / f"{len(list(folder.iterdir()))}.bin"
    a.tofile(path)
    return np.memmap(path, a.dtype, "r")


MAKES = {
    "plain": lambda a, _: a.copy(),
    "read-only": _readonly,
    "strided": _strided,
    "backwards": lambda a, _: a[::-1].copy()[::-1],
    "Fortran": _fortran,
    "memory map": _mapped,
    "list": lambda a, _: a.tolist(),
    "tuple": lambda a, _: tuple(a.tolist()),
    "other byte order": lambda a, _: a.astype(a.dtype.newbyteorder()),
    "int8": lambda a, _: a.astype(np.int8),
    "uint64": lambda a, _: a.astype(np.uint64),
    "Series with an index": lambda a, _: pd.Series(a, index=np.arange(len(a))[::-1]),
    "nullable": lambda a, _: pd.array(a.astype(int), dtype="Int64"),
    "category": lambda a, _: pd.Series(a).astype("category"),
    "objects": lambda a, _: a.astype(object),
    "unmasked": lambda a, _: np.ma.array(a),
    "masked": lambda a, _: np.ma.array(a, mask=np.arange(len(a)) == 3),
    "float16": lambda a, _: a.astype(np.float16),
    "column": lambda a, _: a[:, None],
    "text": lambda a, _: a.astype(str),
    "bytes": lambda a, _: a.astype(bytes),
    "complex": lambda a, _: a.astype(complex),
    "booleans": lambda a, _: a > 2,
    "one missing": lambda a, _: np.where(np.arange(len(a)) == 3, np.nan, a),
    "one infinite": lambda a, _: np.where(np.arange(len(a)) == 3, np.inf, a),
    "one huge": lambda a, _: [*a[:3].tolist(), 10**400, *a[4:].tolist()],
    "one negative": lambda a, _: np.where(np.arange(len(a)) == 3, -1, a),
    "one too large": lambda a, _: np.where(np.arange(len(a)) == 3, 2.0**62, a).astype(np.int64),
    "empty": lambda a, _: a[:0],
}  # fmt: skip


def _arrays(ratings: Ratings) -> tuple:
    return ratings.user.tobytes(), ratings.item.tobytes(), ratings.rating.tobytes(), len(ratings.users)


def _column_frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"userId": USER, "movieId": ITEM, "rating": STARS} | columns)


TAKERS = {
    "Ratings(user)": lambda a: _arrays(Ratings(a(USER), ITEM, STARS, USERS, ITEMS)),
    "Ratings(rating)": lambda a: _arrays(Ratings(USER, ITEM, a(STARS), USERS, ITEMS)),
    "Ratings(timestamp)": lambda a: Ratings(USER, ITEM, STARS, timestamp=a(ITEM)).timestamp.tobytes(),
    "from_frame(user)": lambda a: _arrays(Ratings.from_frame(_column_frame(userId=a(USER)))),
    "from_frame(rating)": lambda a: _arrays(Ratings.from_frame(_column_frame(rating=a(STARS)))),
    "take": lambda a: _arrays(RATINGS.take(a(USER))),
    "index": lambda a: RATINGS.users.index(a(USER)).tobytes(),
    "Trainer.predict": lambda a: FITTED.predict(a(USER), ITEM).tobytes(),
    "Trainer(weights)": lambda a: trainer(weights={"user_bias": a(STARS)})._given["user_bias"].tobytes(),
    "Recommender.fit(y)": lambda a: recommender().fit(FRAME.iloc[:, :2], a(STARS)).weights_["user_bias"].tobytes(),
    "rmse": lambda a: metrics.rmse(a(STARS), STARS + 1),
    "coverage": lambda a: metrics.coverage(a(USER), USERS),
}  # fmt: skip
TAKEN = {"plain", "read-only", "strided", "backwards", "Fortran", "memory map", "list", "tuple", "other byte order",
         "int8", "uint64", "Series with an index", "nullable", "unmasked"}  # fmt: skip
"""By all of them, with the same result."""
ALSO = {
    "Ratings(user)": {"category"},
    "Ratings(rating)": {"category", "objects", "float16"},
    "Ratings(timestamp)": {"category", "float16"},
    "from_frame(user)": {"category", "objects", "float16", "text"},
    "from_frame(rating)": {"objects", "float16"},
    "take": {"category"},
    "index": {"category", "objects", "float16"},
    "Trainer.predict": {"category"},
    "Trainer(weights)": {"category", "float16"},
    "Recommender.fit(y)": {"category", "objects", "float16", "column"},  # the last with scikit-learn's warning
    "rmse": {"category", "float16"},
    "coverage": {"category", "column"},
}
OTHERS = {
    "Ratings(rating)": {"one negative", "one too large"},
    "Ratings(timestamp)": {"one negative", "one too large"},
    "from_frame(user)": {"one negative", "one too large"},  # other ids
    "from_frame(rating)": {"one negative", "one too large"},
    "take": {"booleans"},
    "index": {"empty"},
    "Trainer(weights)": {"one negative", "one too large", "empty"},
    "Recommender.fit(y)": {"one negative", "one too large"},
    "rmse": {"booleans", "one missing", "one infinite", "one negative", "one too large"},
    "coverage": {"empty"},
}
"""Values that are right, but not those of the plain array: another result."""


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@pytest.mark.filterwarnings("ignore:outliers")  # 2^62 among ratings from 1 to 5
@pytest.mark.parametrize("name", TAKERS)
def test_arrays_of_every_make(name, tmp_path):
    taker = TAKERS[name]
    expected = taker(lambda a: a)
    same, other = set(), set()
    for make, change in MAKES.items():
        given = []

        def make_it(a, change=change, given=given):
            made = change(a, tmp_path)
            given.append((made, repr(np.asarray(made).tolist())))
            return made

        try:
            result = taker(make_it)
        except CLEAR as error:
            other |= set() if str(error) else {f"{make}: without a word"}
        else:
            (same if result == expected else other).add(make)
        for made, before in given:
            assert repr(np.asarray(made).tolist()) == before, f"{make}: the caller's array was changed"
    assert same == TAKEN | ALSO.get(name, set())
    assert other == OTHERS.get(name, set())


# --- ids -------------------------------------------------------------------------------------------------------------


IDS = {
    "huge": [2**63 - 1, -(2**63), 0, 2**53 + 1],
    "negative": [-1, -2, -3, -4],
    "unicode": ["é", "e\u0301", "日本", "🎬"],  # two ways to write é are two ids
    "long": ["x" * 10_000, "x" * 10_001, "", " "],
    "look alike": ["1", "01", "1.0", "１"],
    "lone surrogates": ["\ud800", "\udfff", "a", "b"],
}


@pytest.mark.parametrize("name", IDS)
def test_odd_ids_live_through_everything(name, tmp_path):
    ids = IDS[name]
    frame = pd.DataFrame({"userId": pd.Series(ids * 2, dtype=object), "movieId": [1] * 4 + [2] * 4, "rating": range(8)})
    model = recommender().fit(frame)
    assert sorted(model.users_.ids.tolist()) == sorted(ids)
    model.save(tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    for side in (model, again):
        scores, known = side.predict(frame, return_known=True)
        assert known.all()
        for i, user in enumerate(ids):  # one by one: each keeps its own row
            alone = side.predict(frame[frame.userId == user])
            assert alone.tolist() == scores[[i, i + 4]].tolist()
            if name != "lone surrogates":  # where Arrow is installed, pandas can make no table of these
                assert side.recommend(user, 2, exclude_seen=False)["userId"].tolist() == [user] * 2
    assert model.predict(frame).tolist() == again.predict(frame).tolist()


def test_timestamps_beyond_int64_do_not_wrap():
    late = np.array([5, 2**63 + 5], np.uint64)
    with pytest.raises(ValueError, match=r"9223372036854775813 is above 2\*\*63 - 1"):
        Ratings([0, 1], [0, 1], [1.0, 2.0], timestamp=late)


# --- tables of odd shapes --------------------------------------------------------------------------------------------


def test_a_column_that_is_there_twice():
    twice = pd.concat([FRAME, FRAME[["movieId"]]], axis=1)
    for call in (Ratings.from_frame, recommender().fit, MODEL.predict, MODEL.evaluate):
        with pytest.raises(ValueError, match='2 columns are called "movieId"'):
            call(twice)


def test_more_rows_than_int32_counts_are_refused_before_they_are_touched():
    """Arrays and frames that claim 2**31 rows, and hold one."""
    n = 2**31
    zeros, ones = np.broadcast_to(np.int32(0), n), np.broadcast_to(np.float32(1), n)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="2,147,483,648 ratings: at most 2,147,483,647"):
            Ratings(zeros, zeros, ones)
        frame = pd.DataFrame(np.broadcast_to(np.int32(0), (n, 3)), columns=["userId", "movieId", "rating"], copy=False)
        with pytest.raises(ValueError, match="2,147,483,648 ratings: at most 2,147,483,647"):
            Ratings.from_frame(frame)
        with pytest.raises(ValueError, match="2,147,483,648 ratings: at most 2,147,483,647"):
            recommender().fit(frame)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_an_index_far_beyond_the_rows_is_probably_an_id():
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"item, row 1 .* index 987654321 in 2 ratings.*use Ratings\.from_frame"):
            Ratings([0, 1], [3, 987_654_321], [1.0, 2.0])
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert Ratings([0, 1], [3, 999_999], [1.0, 2.0]).n_items == 1_000_000


def test_counts_of_parameters_do_not_overflow(capsys):
    assert Dot(2**40).summary(2**31, 1).parameters.tolist() == [2**71, 2**40]


def test_lists_that_end_early_do_not_count_as_an_item():
    with pytest.raises(ValueError, match=r"items has \[-1, 2\]; it must hold indices from 0 to 2"):
        metrics.coverage([[0, 1], [2, -1]], 3)
    with pytest.raises(ValueError, match="True or False"):
        metrics.precision([[0.5, 0]], [1])


def test_a_check_that_nothing_can_fail_is_refused():
    with pytest.raises(ValueError, match="tolerance is inf"):
        minicf.check_gradients(Dot(2), tolerance=np.inf)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("size", [ROWS + 1, 2**31, 2**63, 10**30])
def test_batches_larger_than_any_integer_are_one_batch(backend, size):
    weights = []
    for batch_size in (ROWS, size):
        t = Trainer(DotBias(2), Adam(0.01), backend=backend, batch_size=batch_size)
        t.fit(RATINGS, epochs=2)
        weights.append(t.weights)
    for name, w in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], w)
