"""Run the command line: ``minicf train``, ``evaluate``, ``recommend``, ``similar``, ``explore``, ``doctor``.

Tables are CSV, in and out; ``-`` is standard input or output. Only results go to standard output, all messages to
standard error. The exit code is 0, 1 for an error (one line), 2 for invalid arguments, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import logging
import os
import platform
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from minicf import tables
from minicf.data import Vocabulary
from minicf.data.checks import plural
from minicf.texts import harmless

DUPLICATES = ("warn", "mean", "last", "error")
COLUMNS = {"user": "userId", "item": "movieId", "rating": "rating"}


class _Failure(Exception):
    """Report an error that the user can correct."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    if sys.stderr is None:  # closed: messages are not to end up in the output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
    options = _parser().parse_args(arguments)
    for name in TYPED.intersection(vars(options)):
        given = getattr(options, name)
        setattr(options, name, [*map(_decoded, given)] if isinstance(given, list) else given and _decoded(given))
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, handlers=[_Log()])
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {_in_options(str(message))}")
    try:
        if getattr(options, "encoding", None) is not None:
            tables.check_encoding(options.encoding)
        options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has stopped (`| head`)
        _drop_output()
    except KeyboardInterrupt:
        path = getattr(options, "output", "-")
        unchanged = "" if path == "-" else f"; {path} was not written, an earlier file is unchanged"
        _say(f"interrupted{unchanged}")
        return 130
    except (
        _Failure, ValueError, KeyError, TypeError, OSError, ImportError, ArithmeticError, MemoryError, RecursionError
    ) as error:  # fmt: skip
        if options.traceback:
            print("\n".join(map(harmless, traceback.format_exc().splitlines())), file=sys.stderr)
        if isinstance(error, OSError):
            _drop_output()
        text = str(error)
        if isinstance(error, MemoryError):
            text = f"there is not enough memory{f': {text}' if text else ''}"
        _say(f"error: {_in_options(text.strip() or repr(error))}")
        return 1
    return 0


TYPED = {"user", "item", "title", "user_column", "item_column", "rating_column", "weight_column"}
"""Options whose values occur in files; those of names of files stay as the system gave them."""


def _decoded(text: str) -> str:
    """Return an argument as UTF-8, as files are read, where the locale could not decode its bytes."""
    try:
        return os.fsencode(text).decode() if not text.isascii() and re.search("[\udc80-\udcff]", text) else text
    except UnicodeError:
        return text


def _drop_output() -> None:
    """Let what is left of the output go nowhere: Python would report the same error again when it closes the stream."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_options(text: str) -> str:
    """Return a message of the library with the names of the command line's options for its arguments."""
    for pattern, option in OPTIONS.items():
        text = re.sub(pattern, option, text)
    return text


OPTIONS = {
    r"\bn_factors\b": "--factors",
    r"\brandom_state is\b": "--seed is",
    r"^(epochs|backend|model|duplicates|encoding) is\b": r"--\1 is",
    r"^([kn]) is\b": r"-\1 is",
    r'say duplicates="last" or duplicates="mean", or drop them': "say --duplicates last or --duplicates mean",
    r'Say duplicates="mean" or "last"(.*), "error"': r"Say --duplicates mean or last\1, or --duplicates error",
    r"\bexclude_seen=False": "--with-seen",
    r"; use recalculate$": "",
    r"\b(item|user)_features\b": r"--\1-features",
}


class _Parser(argparse.ArgumentParser):
    """Take what follows an option of one text for its value, even if it begins with "-": ids and names do."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        joined: list[str] = []
        while words:
            word = words.pop(0)
            action = self._option_string_actions.get(word)
            text = action is not None and action.nargs is None and action.type is None
            if (
                text
                and words
                and words[0] not in ("-", "--", *self._option_string_actions)
                and words[0].startswith("-")
            ):
                word += ("=" if word.startswith("--") else "") + words.pop(0)
            if word.startswith("-") and word.endswith("=--"):  # argparse would hand on an empty list
                self.error(f"{word.removesuffix('=--')} is '--'; it must be another text")
            joined.append(word)
        return super().parse_known_args(joined, namespace)

    def error(self, message: str) -> NoReturn:
        super().error(harmless(message))


def _parser() -> argparse.ArgumentParser:
    from minicf import __version__

    parser = _Parser(
        "minicf",
        description="Collaborative filtering from a file of ratings.",
        epilog="First train a model, `minicf train ratings.csv -o model.npz`, then use it: "
        "`minicf recommend model.npz --user ID`. `minicf COMMAND --help` describes each command.",
    )
    parser.add_argument("--version", action="version", version=f"minicf {__version__}")
    commands = parser.add_subparsers(required=True, dest="command")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--verbose", action="store_true", help="show more messages on standard error")
        sub.add_argument("--traceback", action="store_true", help="show the traceback of an error")
        return sub

    def encoding(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--encoding", metavar="NAME", help="of CSV files without a byte order mark, such as cp1252 (utf-8)"
        )

    def duplicates(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--duplicates", choices=DUPLICATES, help="as for train (what the model was trained with)")

    def lists(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("-n", type=int, default=10, help="items in a list (10)")
        sub.add_argument(
            "-o", "--output", default="-", metavar="FILE", help=".csv, .tsv, .csv.gz or .tsv.gz (standard output)"
        )
        sub.add_argument(
            "--safe", action="store_true",
            help="put ' before texts that begin with =, +, - or @, which a spreadsheet takes for formulas",
        )  # fmt: skip

    def columns(sub: argparse.ArgumentParser) -> None:
        for role, name in COLUMNS.items():
            sub.add_argument(f"--{role}-column", default=name, metavar="NAME", help=f"column of {role}s ({name})")

    sub = command("train", _train, "Train on a CSV file of ratings and save the model.")
    sub.add_argument(
        "ratings",
        help="CSV file, separated by commas, semicolons or tabs; - for standard input; "
        "'movielens' for the packaged data set",
    )
    encoding(sub)
    sub.add_argument("-o", "--output", required=True, metavar="FILE", help="file for the model, .npz")
    columns(sub)
    sub.add_argument("--titles", metavar="CSV", help="CSV file of items with the item column and 'title'")
    for side in ("item", "user"):
        sub.add_argument(
            f"--{side}-features", metavar="CSV",
            help=f"CSV file with a row for each {side}: the {side} column, and numbers or categories (A|B is two) in "
            f"others; {side}s without ratings are predicted by them",
        )  # fmt: skip
    sub.add_argument(
        "--model", default="dot_bias", choices=("dot_bias", "dot", "svd++", "net", "hybrid"), help="(dot_bias)"
    )
    sub.add_argument("--factors", type=int, metavar="K", help="length of an embedding (128)")
    sub.add_argument("--epochs", type=int, metavar="N", help="passes through the ratings (40; net and hybrid 10)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of weights and order of ratings (0)")
    sub.add_argument(
        "--backend", default="auto", metavar="NAME", help="auto (the fastest that runs here), numpy, numba or cupy"
    )
    sub.add_argument(
        "--duplicates", default="warn", choices=DUPLICATES,
        help="repeated ratings of an item by a user: the mean (warn: and say how many), the last, or refuse (warn)",
    )  # fmt: skip
    sub.add_argument(
        "--implicit", action="store_true",
        help="rows are events (views, plays, purchases), without a column of ratings; repeated ones are summed",
    )  # fmt: skip
    sub.add_argument(
        "--weight-column", metavar="NAME", help="with --implicit: column of counts, seconds, …; below 0 for a dislike"
    )
    sub.add_argument("--no-seen", action="store_true", help="do not save the seen items of each user")

    sub = command(
        "evaluate",
        _evaluate,
        "Measure the errors of a model on a CSV file of ratings, and its lists beside the most popular items.",
    )
    sub.add_argument("model")
    sub.add_argument(
        "ratings",
        help="CSV file of held-out ratings (lists leave the seen items of training out, so they would find none); "
        "- for standard input",
    )
    encoding(sub)
    sub.add_argument("-k", "--k", type=int, default=10, help="length of the lists (10)")
    sub.add_argument("--with-seen", action="store_true", help="also recommend seen items")
    sub.add_argument("--auc", action="store_true", help="also the AUC, which scores every item for each user")
    duplicates(sub)

    sub = command("recommend", _recommend, "Recommend the best items to users.")
    sub.add_argument("model")
    who = sub.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", action="append", metavar="ID", help="may be given several times")
    who.add_argument("--all", action="store_true", help="all known users")
    who.add_argument(
        "--new", metavar="CSV", help="ratings of a new user: item and rating columns; - for standard input"
    )
    for name, text in (("--candidates", "recommend to each user only these"), ("--exclude", "leave these out")):
        sub.add_argument(name, metavar="CSV", help=f"{text}: user and item columns (with --new, the item column)")
    encoding(sub)
    duplicates(sub)
    sub.add_argument("--with-seen", action="store_true", help="also recommend seen items")
    sub.add_argument(
        "--by", choices=("preference", "rating"), help="what lists are sorted by (preference, where the model has it)"
    )
    lists(sub)

    sub = command("similar", _similar, "Find the items most similar to an item.")
    sub.add_argument("model")
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--item", metavar="ID")
    what.add_argument("--title", help="the title, or a part of it that no other title contains")
    lists(sub)

    sub = command("explore", _explore, "Write a page with a map of the items, for a browser.")
    sub.add_argument("model")
    sub.add_argument("ratings", help="the CSV file of training; 'movielens' for the packaged data set")
    encoding(sub)
    sub.add_argument("-o", "--output", required=True, metavar="FILE", help="file for the page, .html")

    command("doctor", _doctor, "Show the installation and the backend that 'auto' takes.")
    return parser


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(
    path: str,
    columns: dict[str, str],
    needed: Sequence[str] = ("user", "item", "rating"),
    encoding: str | None = None,
    recommender: Any = None,
) -> pd.DataFrame:
    """Read ratings; their ids have the type of the known ids, or without a recommender the type that they look like."""
    remedy = "its columns must have the names of the training file"
    if recommender is None:
        remedy = "see " + " ".join(f"--{role}-column" for role in needed)
    frame = tables.read(path, [columns[role] for role in needed], encoding, remedy)
    table = {}
    for role in needed:
        text = frame[columns[role]]
        if role in ("rating", "weight"):
            table[columns[role]] = pd.to_numeric(text, errors="coerce")
            bad, problem = ~np.isfinite(table[columns[role]].to_numpy(dtype=float)), "is not a finite number"
        else:
            bad, problem = (text.str.strip() == "").to_numpy(dtype=bool), "is empty"
        if bad.any():
            value = text.iloc[line := int(bad.argmax())]
            remedy = _decimal(value) if role in ("rating", "weight") else "correct or drop such rows"
            raise _Failure(
                f"{path}, row {line + 1} (from 1, without the header): {role} {value!r} {problem} "
                f"({bad.sum():,} of {len(bad):,} rows); {remedy}"
            )
        if role not in ("rating", "weight"):
            table[columns[role]] = _known_ids(text, path, recommender, role) if recommender else tables.ids_of(text)
    return pd.DataFrame(table)


def _decimal(value: str) -> str:
    """Return the remedy for a rating that is not a number."""
    if re.fullmatch(r"[+-]?[0-9]{1,3}(,[0-9]{3})+", value):
        return "write numbers without a separator of thousands, and with a decimal point"
    if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", value):
        return f"write a decimal point, {value.replace(',', '.')}"
    return "correct or drop such rows"


def _known_ids(text: pd.Series, path: str, recommender: Any, side: str) -> pd.Series:
    ids, strange = tables.ids_like(text, recommender.vocabulary(side))
    if strange.any():
        row = int(strange.argmax())
        said = (
            f"{path}, row {row + 1} (from 1, without the header): {side} {text.iloc[row]!r} is not an integer, as the "
            f"known ids are ({strange.sum():,} of {len(text):,} rows)"
        )
        if recommender.unknown == "raise":
            raise _Failure(f"{said}; the model takes no unknown ids")
        _say(f"{said}: unknown")
    return ids


def _titles(path: str, column: str, encoding: str | None, items: Vocabulary) -> pd.Series:
    frame = tables.read(path, [column, "title"], encoding, "see --item-column")
    ids, strange = tables.ids_like(frame[column], items)
    if strange.any():
        _say(
            f"{strange.sum():,} of {len(ids):,} titles in {path} are of items that are no integers, such as "
            f"{frame[column][strange].iloc[0]!r}, and were left out"
        )
    ids, title = ids[~strange], frame["title"][~strange]
    if not (items.index(ids, missing=-1) >= 0).any():
        raise _Failure(f"{path} has no title of an item with a rating: column {column!r} must hold the items' ids")
    if (repeated := ids.duplicated()).any():
        raise _Failure(f"{path} has the item {ids[repeated].tolist()[0]!r} more than once; keep one")
    return pd.Series(title.to_numpy(dtype=object), index=ids)


def _features(path: str, side: str, column: str, encoding: str | None, known: Vocabulary) -> pd.DataFrame:
    frame = tables.read(path, [column], encoding, f"see --{side}-column", rest=True)
    ids, strange = tables.ids_like(frame[column], known)
    if known.ids.dtype == object:
        strange = (ids.str.strip() == "").to_numpy(dtype=bool)
    if strange.any():
        what = "no id" if known.ids.dtype == object else "no integer"
        _say(
            f"{strange.sum():,} of {plural(len(ids), 'row')} in {path} have {what} for the {side}, such as "
            f"{frame[column][strange].iloc[0]!r}, and were left out"
        )
    values = {name: tables.values_of(texts) for name, texts in frame.items() if name != column}
    return pd.DataFrame({column: ids.to_numpy(), **values})[~strange]


def _names(recommender: Any) -> dict[str, str]:
    return {role: getattr(recommender, role) for role in COLUMNS}


def _as_known(recommender: Any, side: str, text: str) -> Any:
    """Return an id of the command line in the type of the known ids."""
    vocabulary = recommender.vocabulary(side)
    value: Any = text
    if vocabulary.ids.dtype != object and (value := tables.integer_of(text)) is None:
        raise _Failure(f"{side} is {text!r}; it must be an integer, like the known ids")
    if vocabulary.index(value, missing=-1) < 0:
        some = ", ".join(map(repr, vocabulary.ids[:3].tolist()))
        new = "; use --new with the ratings of a new user" if side == "user" else ""
        raise _Failure(f"unknown {side} {value!r}; there are {len(vocabulary):,} known {side}s, such as {some}{new}")
    return value


def _check_output(options: argparse.Namespace, *suffixes: str) -> None:
    """Before any work: whether its result can be written."""
    if options.output == "-" and suffixes != tables.TABLES:
        raise _Failure(f"--output is '-'; it must be a file, {suffixes[0]}")
    if options.output == "-":
        if sys.stdout is None:
            raise _Failure("standard output is closed; write to a file with --output")
    else:
        tables.check_output(options.output, suffixes)


def _write(frame: pd.DataFrame, options: argparse.Namespace, header: bool = True) -> None:
    safe, count = tables.formulas(frame)
    if count and not options.safe:
        _say(
            f"{count:,} cells begin with =, +, - or @: a spreadsheet takes them for formulas; --safe puts ' before them"
        )
    tables.write(safe if options.safe else frame, options.output, header)


# --- commands ---------------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> None:
    from minicf.datasets import load_movielens
    from minicf.recommender import Recommender
    from minicf.train import DivergenceError

    _check_output(options, ".npz")
    columns = {role: getattr(options, f"{role}_column") for role in COLUMNS}
    if options.weight_column is not None and not options.implicit:
        raise _Failure(f"--weight-column is {options.weight_column!r}; it is for events: say --implicit")
    if len(set(columns.values())) < 3:
        raise _Failure(f"--user-column, --item-column and --rating-column are {[*columns.values()]}; they must differ")
    arguments: dict[str, Any] = {} if options.factors is None else {"n_factors": options.factors}
    recommender = Recommender(
        options.model,
        epochs=options.epochs,
        random_state=options.seed,
        backend=options.backend,
        duplicates=options.duplicates,
        feedback="implicit" if options.implicit else "explicit",
        verbose=True,
        **columns,
        **arguments,
    )
    ratings, weight = load_movielens(), None  # type: Any, Any
    if options.ratings != "movielens":
        names = columns | {"weight": options.weight_column}
        ratings = _table(options.ratings, names, _needed(options.implicit, options.weight_column), options.encoding)
        weight = ratings[options.weight_column] if options.weight_column is not None else None
    ratings = recommender.inputs.ratings(ratings, sample_weight=weight)
    if options.factors is not None:
        _check_memory(options.factors, ratings.n_users + ratings.n_items)
    titles = None
    if options.titles:
        titles = _titles(options.titles, columns["item"], options.encoding, ratings.items)
    features = {
        f"{side}_features": _features(path, side, columns[side], options.encoding, known)
        for side, known in (("item", ratings.items), ("user", ratings.users))
        if (path := getattr(options, f"{side}_features"))
    }
    try:
        recommender.fit(ratings, titles=titles, **features)
    except DivergenceError as error:
        low, high = ratings.rating.min(), ratings.rating.max()
        raise _Failure(
            f"training diverged in epoch {error.epoch}: ratings are {low:g} … {high:g}, {ratings.mean:g} on average; "
            "correct or drop outliers, or give their logarithms"
        ) from None
    recommender.save(options.output, seen=not options.no_seen)
    last = recommender.history_.iloc[-1]
    _say(
        f"{recommender.n_ratings_:,} {'pairs' if options.implicit else 'ratings'}, {len(recommender.users_):,} users, "
        f"{len(recommender.items_):,} items; "
        f"{(n := len(recommender.history_))} epoch{'s' * (n > 1)} in {recommender.history_.seconds.sum():.1f} s, "
        f"training rmse {last.train_mse**0.5:.4f}; saved to {options.output}"
    )


def _needed(implicit: bool, weight: str | None = None) -> tuple[str, ...]:
    """Return the columns of a table of ratings, or of events."""
    if not implicit:
        return ("user", "item", "rating")
    return ("user", "item") if weight is None else ("user", "item", "weight")


def _check_memory(factors: int, rows: int) -> None:
    """Refuse tables that exceed the machine's memory: the system would grant them, and end the process later."""
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = memory // (3 * 4 * rows)  # weights, the weights before, a copy: float32
    if factors > most:
        raise _Failure(f"--factors is {factors:,}; for {rows:,} users and items, this machine's memory holds {most:,}")


def _evaluate(options: argparse.Namespace) -> None:
    if sys.stdout is None:
        raise _Failure("standard output is closed; it is where the measures go")
    recommender = _load(options.model)
    recommender.duplicates = options.duplicates or recommender.duplicates
    if recommender.seen_ is None and not options.with_seen:
        _say("the model was saved without seen items: lists may hold items of training")
    needed = _needed(recommender.feedback_ == "implicit")
    frame = _table(options.ratings, _names(recommender), needed, options.encoding, recommender)
    if options.k > (most := max(1000, len(recommender.items_))):  # each user has a list of this length
        raise _Failure(
            f"-k is {options.k:,}; it must be at most {most:,} for a model of {len(recommender.items_):,} items"
        )
    exclude_seen = recommender.seen_ is not None and not options.with_seen
    result = recommender.evaluate(frame, k=options.k, exclude_seen=exclude_seen, auc=options.auc)
    tables.write(result.frame(), "-")


def _recommend(options: argparse.Namespace) -> None:
    _check_output(options, *tables.TABLES)
    recommender = _load(options.model)
    recommender.duplicates = options.duplicates or recommender.duplicates
    options.n = min(options.n, len(recommender.items_))
    choice: dict[str, Any] = {"exclude_seen": not options.with_seen, "by": options.by}
    for name in ("candidates", "exclude"):
        if path := getattr(options, name):
            needed = ("item",) if options.new else ("user", "item")
            pairs = _table(path, _names(recommender), needed, options.encoding, recommender)
            choice[name] = pairs[recommender.item] if options.new else pairs
    if options.all:
        frames = (frame.drop(columns="known") for frame in recommender.recommend_all(options.n, **choice))
        if options.output != "-":
            return _write(pd.concat(frames), options)
        for at, frame in enumerate(frames):
            _write(frame, options, header=at == 0)
        return None
    if options.new:
        names = _names(recommender)
        own = _needed(recommender.feedback_ == "implicit")[1:]
        table = _table(options.new, names, own, options.encoding, recommender)
        new: Any = "new"
        if recommender.users_.ids.dtype != object:
            new = next(tables.unused_integers(recommender.users_))
        while recommender.users_.index(new, missing=-1) >= 0:
            new = f"{new}'"
        unknown = int((recommender.items_.index(table[recommender.item], missing=-1) < 0).sum())
        recommender.fold_in(table, id=new)
        if unknown:
            _say(f"{unknown} of {len(table)} ratings in {options.new} are of unknown items and were left out")
        users = [new]
    else:
        users = [_as_known(recommender, "user", text) for text in options.user]
    frame = recommender.recommend(users, options.n, **choice)
    return _write(frame.drop(columns="known"), options)


def _similar(options: argparse.Namespace) -> None:
    _check_output(options, *tables.TABLES)
    recommender = _load(options.model)
    options.n = min(options.n, len(recommender.items_))
    if options.title is None:
        item = _as_known(recommender, "item", options.item)
    else:
        item = recommender.items_.ids[_titled(recommender, options.title)]
    _write(recommender.similar_items(item, options.n).drop(columns="known"), options)


def _titled(recommender: Any, title: str) -> int:
    """Return the row of the item with a title: equal, else equal up to a year at the end, else containing it."""
    if recommender.titles_ is None:
        raise _Failure("the model has no titles; train with --titles, or use --item")
    titles = [(text or "").casefold() for text in recommender.titles_]
    wanted = title.casefold()
    for found in (
        [i for i, text in enumerate(titles) if text == wanted],
        [i for i, text in enumerate(titles) if text.startswith(f"{wanted} (") and text.count("(") == 1],
        [i for i, text in enumerate(titles) if wanted in text],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            shown = "; ".join(f"{recommender.items_.ids[i]}: {recommender.titles_[i]}" for i in found[:5])
            raise _Failure(
                f"{len(found)} titles match {title!r} ({shown}{'; ...' if len(found) > 5 else ''}); use --item"
            )
    raise _Failure(f"no title contains {title!r}")


def _explore(options: argparse.Namespace) -> None:
    from minicf.datasets import load_movielens
    from minicf.explain import explore

    _check_output(options, ".html", ".htm")
    recommender = _load(options.model)
    ratings: Any = load_movielens()
    if options.ratings != "movielens":
        ratings = _table(options.ratings, _names(recommender), encoding=options.encoding, recommender=recommender)
    inputs = recommender.inputs
    table = inputs.ratings(ratings)
    if table.titles is None and recommender.titles_ is not None and len(table.items) == len(recommender.items_):
        table = inputs.ratings(ratings, titles=pd.Series(recommender.titles_, index=recommender.items_.ids))
    if table.users != recommender.users_ or table.items != recommender.items_:
        raise _Failure(f"{options.ratings} has other users or items than the model; it must be the file of training")
    explore(recommender, table, options.output)
    _say(f"written to {options.output}")


def _load(path: str) -> Any:
    from minicf.recommender import load

    try:
        return load(path)
    except FileNotFoundError:
        raise _Failure(f"{path} does not exist; `minicf train` makes a model") from None


def _doctor(options: argparse.Namespace) -> None:
    from threadpoolctl import threadpool_info

    from minicf import backends
    from minicf.threads import count_threads

    packages = ("minicf", "numpy", "pandas", "scikit-learn", "scipy", "numba", "threadpoolctl")
    lines = [
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        *((name, _version(name) or "not installed") for name in packages),
        ("cores", f"{os.cpu_count()} in the machine; number of threads: {count_threads()}"),
        *((name, os.environ.get(name, "not set")) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")),
        *(
            (pool["user_api"], f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads")
            for pool in threadpool_info()
        ),
    ]
    cupy = [
        dist.metadata["Name"]
        for dist in importlib.metadata.distributions()
        if (dist.metadata["Name"] or "").lower().startswith("cupy")
    ]
    lines.append(("cupy packages", ", ".join(sorted(cupy)) or "none"))
    if len(cupy) > 1:
        lines.append(("warning", "several cupy packages are installed and conflict; keep one"))
    lines.append(("gpu", _gpu()))
    for name in backends.NAMES:
        try:
            backends.get_backend(name)
            state = "can run"
        except Exception as error:  # this command is for broken installations
            state = f"cannot run: {error}"
        lines.append((f"backend {name}", " ".join(state.split())))
    try:
        chosen = backends.get_backend("auto").name
        lines.append(("backend auto", f"takes {chosen}, the first that runs here of {', '.join(backends.PREFERENCE)}"))
    except Exception as error:
        lines.append(("backend auto", f"fails: {error}"))
    width = max(len(name) for name, _ in lines)
    print("\n".join(harmless(f"{name:<{width}}  {text}") for name, text in lines))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> str:
    try:
        import cupy
    except ImportError:
        return "not looked for: CuPy is not installed (pip install 'minicf[cuda12x]' or 'minicf[cuda13x]')"
    try:
        device = cupy.cuda.runtime.getDeviceProperties(0)
        driver = cupy.cuda.runtime.driverGetVersion()
        cuda = f"{driver // 1000}.{driver % 1000 // 10}"
        return f"{device['name'].decode()}, {device['totalGlobalMem'] >> 20} MiB, driver for CUDA {cuda}"
    except Exception as error:  # CuPy's own, of many kinds
        return f"none that CuPy can use: {error}"


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


def _say(text: str) -> None:
    """Print one line for a person."""
    text = harmless(" ".join(text.split()))
    print(f"minicf: {text if len(text) <= 1000 else f'{text[:700]} … {text[-290:]}'}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
