"""Whether chains have forgotten where they began: split R-hat of what samples say.

Each chain of S samples is cut into halves of n = floor(S / 2), which gives m sequences of one number psi, 2 a chain, so
that one chain too can differ from itself. With the sequences' means psi_j and variances s_j^2,

    (P16) B = n / (m - 1) sum_j (psi_j - mean psi_j)^2,  W = 1/m sum_j s_j^2
          R-hat = sqrt(((n - 1) / n W + B / n) / W)

(Gelman et al. 2013, Bayesian Data Analysis, 3rd edition, (11.4)). It falls to 1 as the sequences come to sample one
distribution. Halves of one chain tell a drift, but not a mode that the chain has never left: that takes several chains.
The factors themselves turn from sweep to sweep and differ between chains, so psi are what has a meaning: alpha and
predictions.
"""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from minicf.solvers.posterior import Posterior

log = logging.getLogger("minicf")

LIMIT = 1.1
"""The R-hat above which Gelman et al. advise to sample on."""


def split_r_hat(draws: np.ndarray) -> np.ndarray:
    """Compute split R-hat (P16).

    Parameters
    ----------
    draws : array, shape (chains, S, ...)

    Returns
    -------
    array of float64, shape (...)
        NaN with fewer than 4 samples a chain; 1 of what never changes. Of an odd number the middle sample is left out.
    """
    draws = np.asarray(draws, np.float64)
    n = draws.shape[1] // 2
    if n < 2:
        return np.full(draws.shape[2:], np.nan)
    halves = np.concatenate([draws[:, :n], draws[:, -n:]])
    between = n * halves.mean(axis=1).var(axis=0, ddof=1)
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    still = np.where(between > 0, np.inf, 1.0)
    return np.where(within > 0, np.sqrt((n - 1) / n + between / (n * np.where(within > 0, within, 1.0))), still)


def r_hat(posterior: Posterior, n_chains: int, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Compute split R-hat of alpha, first, and of the predictions of pairs of rows: float64 (1 + n,)."""
    x, w = posterior.samples["user"][:, user], posterior.samples["item"][:, item]
    x, w = x.astype(np.float32), w.astype(np.float32)
    if posterior.biases:
        y = x[:, :, 0] + w[:, :, 0] + np.einsum("snk,snk->sn", x[:, :, 1:], w[:, :, 1:])
    else:
        y = np.einsum("snk,snk->sn", x, w)
    draws = np.column_stack([posterior.alpha, y])
    return split_r_hat(draws.reshape(n_chains, -1, draws.shape[1]))


def report(table: pd.DataFrame, burn_in: int) -> None:
    """Log the R-hat of a table that has alpha's in its first row; warn where the predictions' median is above `LIMIT`.

    Alpha settles slowest, and has 1.35 after the default sweeps on MovieLens, whose predictions are good by then; and
    the largest of many R-hat is large by chance.
    """
    alpha, median = float(table.r_hat.iloc[0]), float(table.r_hat.iloc[1:].median())
    if np.isnan(median):
        return
    text = "R-hat is %.3f of alpha, and its median over predictions %.3f"
    if median > LIMIT:
        text += f"; above {LIMIT:g} the chain had not settled: take a burn_in of more than {burn_in} sweeps"
    log.log(logging.WARNING if median > LIMIT else logging.INFO, text, alpha, median)
