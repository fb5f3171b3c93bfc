"""Write the golden trajectories from PyTorch: ``python -m tests.golden.make``.

Each is the outcome of 20 steps of a twin (`tests.torch_twins`) in float64, as one row of numbers
(`tests.cases.Outcome.flat`): squared errors of each epoch, weights, optimiser state. With them minicf is compared with
PyTorch where PyTorch is absent.
The inputs are not stored, as they come from frozen random streams; dropout masks come from `minicf.rng`, which the
files therefore pin: write them anew if that is ever changed on purpose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests import cases

FILE = Path(__file__).with_name("trajectories.npz")


def trajectories() -> dict[str, np.ndarray]:
    """All golden trajectories, by ``model/optimiser``."""
    from tests import torch_twins

    return {
        f"{model}/{name}": torch_twins.run(
            cases.GOLDEN_MODELS[model], cases.optimizer(name, cases.GOLDEN_MODELS[model]), cases.GOLDEN_PROBLEM
        ).flat()
        for model, name in cases.GOLDEN
    }


if __name__ == "__main__":
    arrays = trajectories()
    np.savez(FILE, allow_pickle=False, **arrays)
    print(f"{len(arrays)} trajectories, {FILE.stat().st_size:,} bytes")
