"""The Numba backend: whole epochs in compiled code, dense results at sparse cost.

Every number equals the reference's (`base.py`) up to rounding.

    program   weights and state in tables; hands whole epochs to the kernels
    epoch     the training loop of mini-batches, replay of idle rows, predictions
    tiles     online SGD (batch size 1)
    bagged    SVDpp, user by user and item by item
    bags      its kernels
    loss      from a score to the loss and its slope
    nets      dropout and dense layers
    sgd       idle steps of SGD as products of matrices (C1, C2)
    adam      idle steps of Adam in closed form (C3 … C5), or replayed
    als       alternating least squares
    solves    its kernels
    gibbs     sweeps of Gibbs sampling
    rows      draws of rows, 16 Cholesky factorizations at once
    sweeps    the other kernels of a sweep
    normals   normal and Gamma numbers by counter
    passes    tables, and random numbers and sums over whole ones
    top       the best n of each row
    vectors   operations that Numba lacks: vectors, denormal numbers, threads, caches
    jit       decorators; compiled code on disk

Catch-up
--------
With dense semantics a row without a rating in the batch moves all the same: momentum carries it on, weight decay
shrinks it. But it moves alone, by equations that do not depend on the batch. So it is left where it is and caught up
when it is next read, and at the end of a call.

Rounding
--------
1 - lr lambda and beta2 are near 1, where float32 has few digits left for the difference: 0.999 is off by 1.3e-8, which
moves every second moment by 1.3e-5 of itself, and 1 - 5e-6 is off by the same 1e-8 at every step. So such factors are
kept as their difference from 1, and a row moves by w + (d w + …), rounded once at the size of w.
"""
