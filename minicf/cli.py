"""Run the command line: ``minicf train``, ``evaluate``, ``recommend``, ``similar``, ``explore``, ``doctor``.

Tables are CSV, in and out; ``-`` is standard input or output. Only results go to standard output, all messages to
standard error. The exit code is 0, 1 for an error (one line), 2 for invalid arguments, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import logging
import os
import platform
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = {"user": "userId", "item": "movieId", "rating": "rating"}


class _Failure(Exception):
    """Report an error that the user can correct."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="minicf: %(message)s")
    warnings.showwarning = lambda message, *_, **__: print(f"minicf: warning: {message}", file=sys.stderr)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has stopped (`| head`). Python would report it again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        path = getattr(options, "output", "-")
        unchanged = "" if path == "-" else f"; {path} was not written, an earlier file is unchanged"
        print(f"minicf: interrupted{unchanged}", file=sys.stderr)
        return 130
    except (_Failure, ValueError, KeyError, TypeError, OSError, ImportError, ArithmeticError) as error:
        if options.traceback:
            raise
        text = " ".join(str(error).split()) or repr(error)
        print(f"minicf: error: {text}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    from minicf import __version__

    parser = argparse.ArgumentParser(
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

    def columns(sub: argparse.ArgumentParser) -> None:
        for role, name in COLUMNS.items():
            sub.add_argument(f"--{role}-column", default=name, metavar="NAME", help=f"column of {role}s ({name})")

    sub = command("train", _train, "Train on a CSV file of ratings and save the model.")
    sub.add_argument(
        "ratings",
        help="CSV file in UTF-8, separated by commas, semicolons or tabs; - for standard input; "
        "'movielens' for the packaged data set",
    )
    sub.add_argument("-o", "--output", required=True, metavar="FILE", help="file for the model, .npz")
    columns(sub)
    sub.add_argument("--titles", metavar="CSV", help="CSV file of items with the item column and 'title'")
    sub.add_argument("--model", default="dot_bias", choices=("dot_bias", "dot", "net", "hybrid"), help="(dot_bias)")
    sub.add_argument("--factors", type=int, metavar="K", help="length of an embedding (128)")
    sub.add_argument("--epochs", type=int, metavar="N", help="passes through the ratings (40; net and hybrid 10)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of weights and order of ratings (0)")
    sub.add_argument(
        "--backend", default="auto", metavar="NAME", help="auto (the fastest that runs here), numpy, numba or cupy"
    )
    sub.add_argument(
        "--duplicates", default="error", choices=("error", "last", "mean"),
        help="repeated ratings of an item by a user: refuse, take the last, or the mean (error)",
    )  # fmt: skip
    sub.add_argument("--no-seen", action="store_true", help="do not save the seen items of each user")

    sub = command("evaluate", _evaluate, "Measure the errors of a model on a CSV file of ratings, and its lists.")
    sub.add_argument("model")
    sub.add_argument(
        "ratings",
        help="CSV file of held-out ratings (lists leave the seen items of training out, so they would find none); "
        "- for standard input",
    )
    sub.add_argument("-k", type=int, default=10, help="length of the lists (10)")

    sub = command("recommend", _recommend, "Recommend the best items to users.")
    sub.add_argument("model")
    who = sub.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", action="append", metavar="ID", help="may be given several times")
    who.add_argument("--all", action="store_true", help="all known users")
    who.add_argument(
        "--new", metavar="CSV", help="ratings of a new user: item and rating columns; - for standard input"
    )
    sub.add_argument("-n", type=int, default=10, help="items per user (10)")
    sub.add_argument("--with-seen", action="store_true", help="also recommend seen items")
    sub.add_argument("-o", "--output", default="-", help="CSV file (standard output)")

    sub = command("similar", _similar, "Find the items most similar to an item.")
    sub.add_argument("model")
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--item", metavar="ID")
    what.add_argument("--title", help="the title, or a part of it that no other title contains")
    sub.add_argument("-n", type=int, default=10)
    sub.add_argument("-o", "--output", default="-", help="CSV file (standard output)")

    sub = command("explore", _explore, "Write a page with a map of the items, for a browser.")
    sub.add_argument("model")
    sub.add_argument("ratings", help="the CSV file of training; 'movielens' for the packaged data set")
    sub.add_argument("-o", "--output", required=True, help="file for the page, .html")

    command("doctor", _doctor, "Show the installation and the backend that 'auto' takes.")
    return parser


# --- tables -----------------------------------------------------------------------------------------------------------


def _read(path: str) -> pd.DataFrame:
    """Read a CSV file as a frame of text.

    It has at least two columns: if its header has no comma, the separator is the semicolon or tab in it.
    """
    text = None
    try:
        if path == "-":
            text = sys.stdin.read()
        elif os.path.exists(path) and not os.path.isfile(path):  # a pipe can be read only once
            with open(path, encoding="utf-8") as file:
                text = file.read()

        def table(**options: Any) -> pd.DataFrame:
            source: Any = path if text is None else io.StringIO(text.removeprefix("\ufeff"))
            return pd.read_csv(source, dtype=str, keep_default_na=False, **options)

        header = table(nrows=0).columns
        separator = next((mark for mark in ";\t" if len(header) == 1 and mark in header[0]), ",")
        with warnings.catch_warnings():
            # Rows that are all longer than the header: pandas would take their first values for an index, and
            # `a,b,4,5` under `userId,movieId,rating` for user b, item 4, rating 5.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return table(sep=separator, index_col=False)
    except FileNotFoundError:
        raise _Failure(f"{path} does not exist") from None
    except pd.errors.EmptyDataError:
        raise _Failure(f"{path} is empty; it must have a header with the names of its columns, and rows") from None
    except UnicodeDecodeError as error:
        raise _Failure(f"{path} is not in UTF-8 ({error}); it must be saved as UTF-8") from None
    except pd.errors.ParserWarning:
        raise _Failure(f"{path} has rows longer than its header; quote values that contain {separator!r}") from None
    except ValueError as error:
        reason = " ".join(str(error).removeprefix("Error tokenizing data. C error: ").split())
        raise _Failure(f"{path} cannot be read as CSV: {reason}; values with commas must be quoted") from None


def _ids(values: pd.Series) -> pd.Series:
    """Return ids as integers if all of them are plain integers, else as text (so "007" stays "007")."""
    if values.str.fullmatch(r"-?(0|[1-9][0-9]{0,17})").all() and not (values == "-0").any():
        return values.astype("int64")
    return values


def _table(
    path: str, columns: dict[str, str], needed: Sequence[str] = ("user", "item", "rating"), training: bool = False
) -> pd.DataFrame:
    frame = _read(path)
    if missing := [columns[role] for role in needed if columns[role] not in frame.columns]:
        remedy = "its columns must have the names of the training file"
        if training:
            remedy = "see " + " ".join(f"--{role}-column" for role in needed if columns[role] in missing)
        lacks, has = (", ".join(map(repr, names)) for names in (missing, frame.columns))
        raise _Failure(f"{path} has no column {lacks}; it has {has}; {remedy}")
    if not len(frame):
        raise _Failure(f"{path} has no rows")
    table = {}
    for role in needed:
        text = frame[columns[role]]
        if role == "rating":
            table[columns[role]] = pd.to_numeric(text, errors="coerce")
            bad, problem = ~np.isfinite(table[columns[role]].to_numpy(dtype=float)), "is not a finite number"
        else:
            table[columns[role]] = _ids(text)
            bad, problem = (text == "").to_numpy(), "is empty"
        if bad.any():
            value = text.iloc[line := int(bad.argmax())]
            comma = role == "rating" and re.fullmatch(r"[+-]?[0-9]+,[0-9]+", value)
            remedy = f"write a decimal point, {value.replace(',', '.')}" if comma else "correct or drop such rows"
            raise _Failure(
                f"{path}, row {line + 1} (from 1, without the header): {role} {value!r} {problem} "
                f"({bad.sum():,} of {len(bad):,} rows); {remedy}"
            )
    return pd.DataFrame(table)


def _names(recommender: Any) -> dict[str, str]:
    return {role: getattr(recommender, role) for role in COLUMNS}


def _as_known(recommender: Any, side: str, text: str) -> Any:
    """Return an id of the command line in the type of the known ids."""
    vocabulary = recommender.vocabulary(side)
    value: Any = text
    if vocabulary.ids.dtype != object:
        try:
            value = int(text)
        except ValueError:
            raise _Failure(f"{side} is {text!r}; it must be an integer, like the known ids") from None
    if vocabulary.index(value, missing=-1) < 0:
        some = ", ".join(map(repr, vocabulary.ids[:3].tolist()))
        new = "; use --new with the ratings of a new user" if side == "user" else ""
        raise _Failure(f"unknown {side} {value!r}; there are {len(vocabulary):,} known {side}s, such as {some}{new}")
    return value


def _match(recommender: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its ids in the type of the known ids: 10 becomes "10" where these are text."""
    frame = frame.copy()
    for side in ("user", "item"):
        name = getattr(recommender, side)
        if name in frame and recommender.vocabulary(side).ids.dtype == object:
            frame[name] = frame[name].astype(str)
    return frame


def _write(frame: pd.DataFrame, path: str, header: bool = True) -> None:
    if path == "-":
        sys.stdout.write(frame.to_csv(index=False, header=header))
        return
    from minicf import files

    with files.atomic(path) as file:
        file.write(frame.to_csv(index=False).encode())


# --- commands ---------------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> None:
    from minicf.datasets import load_movielens
    from minicf.recommender import Recommender

    columns = {role: getattr(options, f"{role}_column") for role in COLUMNS}
    folder = os.path.dirname(options.output) or "."
    if not os.path.isdir(folder):
        raise _Failure(f"{folder} is not a folder; --output must be a file in an existing one")
    titles = None
    if options.titles:
        items = _read(options.titles)
        if not {columns["item"], "title"} <= set(items.columns):
            raise _Failure(
                f"{options.titles} has the columns {list(items.columns)}; it must have {columns['item']!r} and 'title'"
            )
        titles = pd.Series(items["title"].to_numpy(), index=_ids(items[columns["item"]]))
    arguments: dict[str, Any] = {} if options.factors is None else {"n_factors": options.factors}
    recommender = Recommender(
        options.model,
        epochs=options.epochs,
        random_state=options.seed,
        backend=options.backend,
        duplicates=options.duplicates,
        verbose=True,
        **columns,
        **arguments,
    )
    ratings: Any = (
        load_movielens() if options.ratings == "movielens" else _table(options.ratings, columns, training=True)
    )
    recommender.fit(ratings, titles=titles)
    recommender.save(options.output, seen=not options.no_seen)
    last = recommender.history_.iloc[-1]
    _say(
        f"{recommender.n_ratings_:,} ratings, {len(recommender.users_):,} users, {len(recommender.items_):,} items; "
        f"{(n := len(recommender.history_))} epoch{'s' * (n > 1)} in {recommender.history_.seconds.sum():.1f} s, "
        f"training rmse {last.train_mse**0.5:.4f}; saved to {options.output}"
    )


def _evaluate(options: argparse.Namespace) -> None:
    recommender = _load(options.model)
    frame = _match(recommender, _table(options.ratings, _names(recommender)))
    result = recommender.evaluate(frame, k=options.k)
    _write(pd.DataFrame({"measure": list(result), "value": list(result.values())}), "-")


def _recommend(options: argparse.Namespace) -> None:
    recommender = _load(options.model)
    if options.all:
        frames = recommender.recommend_all(options.n, exclude_seen=not options.with_seen)
        if options.output != "-":
            return _write(pd.concat(frames), options.output)
        for at, frame in enumerate(frames):
            _write(frame.drop(columns="known"), "-", header=at == 0)
        return None
    if options.new:
        names = _names(recommender)
        table = _match(recommender, _table(options.new, names, ("item", "rating")))
        text = recommender.users_.ids.dtype == object
        new: Any = "new" if text else (int(recommender.users_.ids[-1]) + 1)
        while recommender.users_.index(new, missing=-1) >= 0:
            new = f"{new}'"
        unknown = int((recommender.items_.index(table[recommender.item], missing=-1) < 0).sum())
        recommender.fold_in(table, id=new)
        if unknown:
            _say(f"{unknown} of {len(table)} ratings in {options.new} are of unknown items and were left out")
        users = [new]
    else:
        users = [_as_known(recommender, "user", text) for text in options.user]
    frame = recommender.recommend(users, options.n, exclude_seen=not options.with_seen)
    return _write(frame.drop(columns="known"), options.output)


def _similar(options: argparse.Namespace) -> None:
    recommender = _load(options.model)
    if options.title is None:
        item = _as_known(recommender, "item", options.item)
    else:
        item = recommender.items_.ids[_titled(recommender, options.title)]
    _write(recommender.similar_items(item, options.n).drop(columns="known"), options.output)


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

    recommender = _load(options.model)
    ratings: Any = load_movielens()
    if options.ratings != "movielens":
        ratings = _match(recommender, _table(options.ratings, _names(recommender)))
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
    print("\n".join(f"{name:<{width}}  {text}" for name, text in lines))


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


def _say(text: str) -> None:
    print(f"minicf: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
