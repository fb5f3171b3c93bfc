"""Iterations of implicit's ALS for `bench.ranking`, run by an interpreter that has it: ``implicit_turns.py PATH K``.

A request a line on standard input: "cholesky" or "conjugate gradients", for one more iteration of a training that goes
on, answered by its seconds; "fit …", for five iterations from the start, answered by two files of factors; "stop".
"""

import json
import sys
import tempfile
import time

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix


def model(k: int, way: str, iterations: int):
    # Its loss is alpha * c for what is seen and 1 elsewhere: (A1) with a = 0.01 and c = 1 - a, over a. Its
    # regularization is one number for all rows: that of (A1) at a mean row.
    return AlternatingLeastSquares(
        factors=k, regularization=1.3 / 0.01, alpha=1.0, use_cg=way != "cholesky", iterations=iterations,
        num_threads=1, dtype=np.float32, random_state=0,
    )  # fmt: skip


def main() -> None:
    path, k = sys.argv[1], int(sys.argv[2])
    with np.load(path) as arrays:
        start, item = arrays["train_start"], arrays["train_item"]
        shape = len(start) - 1, 1 + int(max(item.max(), arrays["test_item"].max()))
    seen = csr_matrix((np.full(len(item), 101.0, np.float32), item, start), shape=shape)
    models = {}
    for way in ("cholesky", "conjugate gradients"):
        models[way] = model(k, way, 1)
        models[way].fit(seen, show_progress=False)
    transposed = seen.T.tocsr()
    for line in sys.stdin:
        what = line.strip()
        if what == "stop":
            return
        if what.startswith("fit "):
            done = model(k, what[4:], 5)
            done.fit(seen, show_progress=False)
            names = [tempfile.mkstemp(suffix=".npy")[1] for _ in range(2)]
            np.save(names[0], done.user_factors)
            np.save(names[1], done.item_factors)
            print(json.dumps(names), flush=True)
            continue
        it = models[what]
        begin, cpu = time.perf_counter(), time.process_time()
        for pairs, mine, other in (
            (seen, it.user_factors, it.item_factors), (transposed, it.item_factors, it.user_factors)
        ):  # fmt: skip
            it.solver(pairs, mine, other, it.regularization, num_threads=1)
        took = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - begin}
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
