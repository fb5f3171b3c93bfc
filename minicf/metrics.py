"""Measure predictions and lists: errors of ratings, and the relevant items that a list of k holds.

For lists, ``hits`` (users, k) flags the relevant items in each user's list, best first; a shorter list ends in False.
``relevant`` (users,) is the number of relevant items of each user, in the list or not, at least 1. Places i count
from 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minicf.arguments import check_int, check_unmasked

Array = NDArray[np.float64]


def rmse(rating: ArrayLike, predicted: ArrayLike) -> float:
    """Return the root mean squared error.

    Parameters
    ----------
    rating, predicted : array of numbers, shape (n,)

    Raises
    ------
    ValueError
        Shapes that differ, no rows, or no numbers.
    """
    return float(np.sqrt(np.mean(_errors(rating, predicted) ** 2)))


def mae(rating: ArrayLike, predicted: ArrayLike) -> float:
    """Return the mean absolute error.

    Parameters
    ----------
    rating, predicted : array of numbers, shape (n,)

    Raises
    ------
    ValueError
        Shapes that differ, no rows, or no numbers.
    """
    return float(np.mean(np.abs(_errors(rating, predicted))))


def precision(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return the share of the k places that hold a relevant item: P@k = sum_i hit_i / k.

    Parameters
    ----------
    hits : array of bool, shape (users, k)
    relevant : array of int, shape (users,)

    Returns
    -------
    array of float64, shape (users,)

    Raises
    ------
    ValueError
        Other shapes, hits that are not 0 or 1, or `relevant` that is not whole, below 1, or below the number of hits.

    Examples
    --------
    Hits in places 1 and 3 of three:

    >>> precision([[True, False, True]], [5]).tolist() == [2 / 3]
    True
    """
    found, _ = _lists(hits, relevant)
    return found.mean(axis=1)


def recall(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return the share of the user's relevant items that the list holds: R@k = sum_i hit_i / relevant.

    Parameters, result and errors are those of `precision`.

    Examples
    --------
    Two of five relevant items in a list of three:

    >>> recall([[True, False, True]], [5]).tolist()
    [0.4]
    """
    found, total = _lists(hits, relevant)
    return found.sum(axis=1) / total


def recall_min(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return the hits over the most that a list of k could have: sum_i hit_i / min(k, relevant).

    Parameters, result and errors are those of `precision`.

    Notes
    -----
    Of a user with more than k relevant items, `recall` is below 1 whatever the list; published tables of recall are
    often of this form, which is 1 for the best list (Liang et al., Variational autoencoders for collaborative
    filtering, WWW 2018).

    Examples
    --------
    Two of five relevant items in a list of three: 2 / 3, where `recall` is 2 / 5.

    >>> recall_min([[True, False, True]], [5]).tolist() == [2 / 3]
    True
    """
    found, total = _lists(hits, relevant)
    return found.sum(axis=1) / np.minimum(total, found.shape[1])


def hit_rate(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return 1 where the list holds a relevant item, otherwise 0 (Deshpande and Karypis 2004).

    Parameters, result and errors are those of `precision`. The mean over users is the hit rate at k.

    Examples
    --------
    >>> hit_rate([[False, True, False], [False, False, False]], [5, 5]).tolist()
    [1.0, 0.0]
    """
    found, _ = _lists(hits, relevant)
    return found.max(axis=1)


def reciprocal_rank(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return 1 / (the place of the first hit), 0 without one (Voorhees 1999).

    Parameters, result and errors are those of `precision`. The mean over users is MRR at k.

    Examples
    --------
    >>> reciprocal_rank([[False, True, True], [False, False, False]], [5, 5]).tolist()
    [0.5, 0.0]
    """
    found, _ = _lists(hits, relevant)
    return np.where(found.any(axis=1), 1.0 / (found.argmax(axis=1) + 1), 0.0)


def ndcg(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return the discounted cumulative gain, relative to that of the best possible list.

    Parameters, result and errors are those of `precision`.

    Notes
    -----
    `graded_ndcg` with a gain of 1 for a relevant item, which is also 2^1 - 1 [1]_: DCG = sum_i hit_i / log2(i + 1).
    The best list starts with min(relevant, k) hits. The first definition [2]_ leaves the first two places undiscounted.

    References
    ----------
    .. [1] Burges et al., Learning to rank using gradient descent, ICML 2005.
    .. [2] Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 20(4), 2002.

    Examples
    --------
    Hits in places 1 and 3, of two relevant items: 1 + 1/2, over 1 + 1 / log2(3) = 1.6309.

    >>> ndcg([[True, False, True]], [2]).round(4).tolist()
    [0.9197]
    """
    found, total = _lists(hits, relevant)
    return graded_ndcg(found, np.arange(found.shape[1]) < total[:, None])


def graded_ndcg(gains: ArrayLike, ideal: ArrayLike) -> Array:
    """Return the discounted cumulative gain of items that are more or less relevant, relative to the best list's.

    Parameters
    ----------
    gains : array of numbers, shape (users, k)
        Of the item at each place, best place first; 0 for an item that is not relevant, and where a list has ended.
    ideal : array of numbers, shape (users, k)
        Gains of the best possible list: the k largest of all items of the user, largest first, then 0.

    Returns
    -------
    array of float64, shape (users,)

    Raises
    ------
    ValueError
        Other shapes, gains below 0 or not finite, an ideal that does not fall or is 0, or gains whose sorted list is
        better than the ideal at a place.

    Notes
    -----
    DCG = sum_i gain_i / log2(i + 1), over the same sum of the ideal gains. The gain is the grade itself (Järvelin and
    Kekäläinen 2002), which may be the rating, or 2^grade - 1 (Burges et al. 2005), which weighs the best items more.
    """
    gain, best = _numbers("gains", gains), _numbers("ideal", ideal)
    if gain.ndim != 2 or gain.shape[1] == 0 or best.shape != gain.shape:
        raise ValueError(f"gains has shape {gain.shape}, ideal {best.shape}; both must be (users, k)")
    for name, values in (("gains", gain), ("ideal", best)):
        if not ((values >= 0) & (values < np.inf)).all():
            raise ValueError(f"{name} has {values.min():g} … {values.max():g}; gains must be finite and at least 0")
    if (np.diff(best, axis=1) > 0).any():
        raise ValueError("ideal must hold the largest gains first")
    if not (best[:, 0] > 0).all():
        raise ValueError("ideal must have a gain above 0 for each user; leave out users without a relevant item")
    if (np.sort(gain, axis=1)[:, ::-1] > best).any():
        raise ValueError("gains has a list that is better than the ideal; ideal must hold the k largest of all gains")
    discount = 1.0 / np.log2(np.arange(2, gain.shape[1] + 2))
    return (gain @ discount) / (best @ discount)


def average_precision(hits: ArrayLike, relevant: ArrayLike) -> Array:
    """Return the sum of the precisions at the hits, over the most hits possible.

    Parameters, result and errors are those of `precision`.

    Notes
    -----
    AP@k = sum_i hit_i P@i / min(relevant, k): a list of hits alone has 1. The mean over users is MAP@k. Over
    `relevant` instead, as for whole rankings (Buckley and Voorhees 2000), a list of k < relevant hits had k / relevant.

    Examples
    --------
    Hits in places 1 and 3: precisions there of 1 and 2/3, over min(5, 3) = 3.

    >>> average_precision([[True, False, True]], [5]).round(4).tolist()
    [0.5556]
    """
    found, total = _lists(hits, relevant)
    k = found.shape[1]
    at = np.cumsum(found, axis=1) / np.arange(1, k + 1)
    return (at * found).sum(axis=1) / np.minimum(total, k)


def auc(scores: ArrayLike, relevant: ArrayLike, candidates: ArrayLike | None = None) -> Array:
    """Return the share of pairs (relevant, not relevant) of a user's candidates that the scores put in that order.

    Parameters
    ----------
    scores : array of numbers, shape (users, items)
    relevant : array of bool, shape (users, items)
    candidates : array of bool, shape (users, items), optional
        The items that are compared; by default all.

    Returns
    -------
    array of float64, shape (users,)
        NaN for a user without such a pair: with no relevant candidate, or no other.

    Raises
    ------
    ValueError
        Other shapes, scores of candidates that are NaN, or flags that are not 0 or 1.

    Notes
    -----
    AUC = sum over pairs of ([s_r > s_n] + [s_r = s_n] / 2) / pairs, ties a half: the area under the ROC curve (Hanley
    and McNeil 1982), here one for each user (Rendle et al. 2009). Counts are whole numbers: only the last division
    rounds.

    Examples
    --------
    Of the pairs (3, 2), (3, 1), (1, 2), (1, 1), two and a half are in order:

    >>> auc([[3, 2, 1, 1]], [[True, False, True, False]]).tolist()
    [0.625]
    """
    score, good = _numbers("scores", scores), _flags("relevant", relevant)
    among = np.ones(good.shape, bool) if candidates is None else _flags("candidates", candidates)
    if score.ndim != 2 or not score.shape == good.shape == among.shape:
        raise ValueError(
            f"scores has shape {score.shape}, relevant {good.shape} and candidates {among.shape}; "
            "they must be (users, items)"
        )
    if np.isnan(score[among]).any():
        raise ValueError("scores has NaN; a candidate must have a score")
    out = np.full(len(score), np.nan)
    for user in range(len(score)):
        above, below = (np.sort(score[user, among[user] & flags]) for flags in (good[user], ~good[user]))
        if above.size and below.size:
            twice = sum(int(np.searchsorted(below, above, side).sum()) for side in ("left", "right"))
            out[user] = twice / (2 * above.size * below.size)
    return out


def coverage(items: ArrayLike, n_items: int) -> float:
    """Return the share of all items that are in at least one list.

    Parameters
    ----------
    items : array of int
        Indices of the items in all lists, of any shape.
    n_items : int
        Of all items.

    Raises
    ------
    ValueError
        An index that is not from 0 to ``n_items - 1``, or `n_items` below 1.

    Examples
    --------
    Two lists of two hold three of eight items:

    >>> coverage([[0, 1], [1, 2]], 8)
    0.375
    """
    n_items = check_int("n_items", n_items, 1)
    check_unmasked("items", items)
    found = np.unique(np.asarray(items))
    if found.size and not (found.dtype.kind in "iu" and 0 <= found[0] and found[-1] < n_items):
        raise ValueError(f"items has {found[[0, -1]].tolist()}; it must hold indices from 0 to {n_items - 1}")
    return len(found) / n_items


def novelty(items: ArrayLike, counts: ArrayLike, n_users: int) -> Array:
    """Return how little known the items of each list are: the mean of -log2(counts / n_users), in bits.

    Parameters
    ----------
    items : array of int, shape (lists, k)
        Indices of items; -1 where a list has ended.
    counts : array of int, shape (n_items,)
        The users who have each item in training. An item of none counts as one of a single user.
    n_users : int

    Returns
    -------
    array of float64, shape (lists,)
        0 for items that all users have; NaN for a list without items.

    Raises
    ------
    ValueError
        Indices outside of `counts`, or counts that are below 0 or above `n_users`.

    Notes
    -----
    The self-information of an item that a user has at random (Zhou et al., PNAS 107(10), 2010), in the mean over
    the list, without a discount of places.

    Examples
    --------
    Items that one user of two has, and one of eight: (1 + 3) / 2 bits.

    >>> novelty([[0, 1]], [4, 1], 8).tolist()
    [2.0]
    """
    n_users = check_int("n_users", n_users, 1)
    listed, count = _numbers("items", items), _numbers("counts", counts)
    if listed.ndim != 2 or count.ndim != 1:
        raise ValueError(
            f"items has shape {listed.shape}, counts {count.shape}; they must be (lists, k) and (n_items,)"
        )
    if not ((count >= 0) & (count <= n_users)).all():
        raise ValueError(f"counts has {count.min():g} … {count.max():g}; it must be from 0 to n_users, {n_users}")
    if not ((listed >= -1) & (listed < len(count)) & (listed == np.floor(listed))).all():
        raise ValueError(f"items has {listed.min():g} … {listed.max():g}; it must be from -1 to {len(count) - 1}")
    there = listed >= 0
    bits = np.log2(n_users / np.append(np.maximum(count, 1.0), n_users))[listed.astype(np.int64)]  # 0 where it ended
    size = there.sum(axis=1)
    return np.where(size > 0, bits.sum(axis=1) / np.maximum(size, 1), np.nan)


def _numbers(name: str, values: ArrayLike) -> Array:
    check_unmasked(name, values)
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {array.dtype}; it must hold numbers")
    return array.astype(np.float64)


def _flags(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    numbers = _numbers(name, values)
    if not ((numbers == 0) | (numbers == 1)).all():
        raise ValueError(f"{name} must be True or False, 1 or 0")
    return numbers == 1


def _errors(rating: ArrayLike, predicted: ArrayLike) -> Array:
    a, b = _numbers("rating", rating), _numbers("predicted", predicted)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"rating has shape {a.shape} and predicted {b.shape}; they must be (n,), n above 0")
    return b - a


def _lists(hits: ArrayLike, relevant: ArrayLike) -> tuple[Array, Array]:
    found, total = _flags("hits", hits).astype(np.float64), _numbers("relevant", relevant)
    if found.ndim != 2 or found.shape[1] == 0 or total.shape != found.shape[:1]:
        raise ValueError(f"hits has shape {found.shape}, relevant {total.shape}; they must be (users, k) and (users,)")
    if not ((total >= np.maximum(found.sum(axis=1), 1)) & (total < np.inf) & (total == np.floor(total))).all():
        raise ValueError("relevant must be whole, at least 1, and at least the number of hits, for each user")
    return found, total
