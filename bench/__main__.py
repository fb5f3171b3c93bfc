"""`python -m bench`: measure, write the records, make the tables and plots of them."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks; see bench/README.md.")
    parser.add_argument("--only", metavar="CASE", action="append", default=[],
                        help="a case, the beginning of its name, or the letter of a group; with --search an engine; "
                        "repeatable")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--quick", action="store_true",
                        help="tiny sizes and two turns: whether all runs, not how fast")  # fmt: skip
    parser.add_argument("--turns", type=int, metavar="N", help="another number of turns than a case has")
    parser.add_argument("--threads", type=int, metavar="N", default=min(2, os.cpu_count() or 1),
                        help="threads for every contender (default: 2, or 1 on one core)")  # fmt: skip
    parser.add_argument("--libmf", metavar="PATH", default="", help="LIBMF's mf-train, built by you")
    parser.add_argument("--data", metavar="PATH", default="",
                        help="a MovieLens folder or zip, instead of ml-latest-small; an .npz for ranking")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="CSV", help="records (default: bench/results/cpu.csv)")
    parser.add_argument("--search", action="store_true", help="search anew for each engine's best settings of (e)")
    parser.add_argument("--report", action="store_true", help="make tables and plots from the records and stop")
    parser.add_argument("--gpu", action="store_true",
                        help="the GPU's cases instead; --gpu --help names their arguments")  # fmt: skip
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--gpu" in given:  # which has arguments of its own
        from bench import gpu

        given.remove("--gpu")
        given = [part for argument in given for part in (["--turns", "2"] if argument == "--quick" else [argument])]
        raise SystemExit(gpu.main(given))
    args = parser.parse_args(given)

    from bench import cases, report
    from bench.measure import Bench
    from bench.search import TRIALS, search

    if args.report:
        report.main()
        return
    if args.only == ["ranking"]:  # whose records and data are its own
        from bench import ranking

        out = ["--out", str(args.out)] if args.out else []
        seeds = ["--seeds", str(args.turns)] if args.turns else []
        ranking.main(["--data", args.data, "--threads", str(args.threads), *seeds, *out])
        return
    searched = RESULTS / "search.csv"
    options = cases.Options(
        args.threads, args.quick, os.path.abspath(args.libmf) if args.libmf else "", args.data, searched
    )
    with tempfile.TemporaryDirectory(prefix="minicf-bench-") as folder:
        if args.search:
            out = args.out or searched
            within = tuple(target - cases.MARGIN for target in cases.TARGETS)
            trials, engines = 6 if args.quick else TRIALS, tuple(args.only or ())
            search(out, Path(folder), within, trials, args.threads, options.libmf, engines=engines)
            return
        todo = cases.chosen(options, args.only)
        if args.list:
            for case in todo:
                print(f"{case.group}  {case.name:<32} {case.title}")
            return
        begin = time.perf_counter()
        out = args.out or (Path(folder) / "quick.csv" if args.quick else RESULTS / "cpu.csv")
        bench = Bench(out, Path(folder))
        for case in todo:
            bench.measure(replace(case, turns=args.turns) if args.turns else case)
        print(f"{len(todo)} cases in {(time.perf_counter() - begin) / 60:.1f} minutes; records in {out}")
        if not args.quick and args.out is None:
            report.main()


if __name__ == "__main__":
    main()
