"""Estimators of mutual information, for when there are samples and no table of probabilities.

All answers are in nats. Two families, and what each needs to be right:

- `plug_in_mutual_information` takes frequencies for probabilities: discrete variables with many
  samples for each cell of the table. `equal_mass_bins` makes a continuous variable discrete.
- `ksg_mutual_information` compares distances to neighbours: continuous variables of few dimensions.

For lower bounds that a network raises, in any dimension, see `distill_lib.bounds`; for
distributions that are known exactly `distill_lib.information`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import digamma, ndtri
from scipy.stats import rankdata

from distill_lib._validate import same_length, samples, whole_number
from distill_lib.information import entropy

Array = NDArray[np.float64]

_MANY_COLUMNS = 10
_NEARER = 1 - 1e-12  # nearer by more than rounding, also where values lie on a grid


# ---- tables of frequencies


def plug_in_mutual_information(x: ArrayLike, y: ArrayLike) -> float:
    """I(X;Y) of the table of frequencies: the plug-in, or maximum-likelihood, estimate.

    Parameters
    ----------
    x, y : array_like, shape (n,) or (n, d)
        Outcomes of discrete variables, of any type; with two axes each row is one outcome.

    Returns
    -------
    float
        At least 0, and on average too large: for independent variables of K_x and K_y values by
        about (K_x - 1)(K_y - 1) / 2n (Miller 1955).

    Raises
    ------
    ValueError
        No samples, NaN, more than two axes, or lengths that differ.
    """
    x_index, y_index = _outcomes(x, "x"), _outcomes(y, "y")
    same_length(x_index, y_index)
    pair_index = x_index * (y_index.max() + 1) + y_index
    h_x, h_y, h_xy = (
        entropy(np.unique(index, return_counts=True)[1] / len(index))
        for index in (x_index, y_index, pair_index)
    )
    return float(np.maximum(h_x + h_y - h_xy, 0.0))


def equal_mass_bins(x: ArrayLike, n_bins: int) -> NDArray[np.int64]:
    """Put each value into one of `n_bins` bins that hold the same number of samples.

    It looks at ranks alone, so no increasing function of `x` changes it. Equal values share a bin.

    Parameters
    ----------
    x : array_like, shape (n,)
    n_bins : int
        From 1 to n.

    Returns
    -------
    ndarray of int, shape (n,)
        From 0 to ``n_bins - 1``, in the order of the values.

    Raises
    ------
    ValueError
        If `x` is not one finite column, or `n_bins` is not a whole number from 1 to n.
    """
    column = samples(x, "x")
    if column.shape[1] != 1:
        raise ValueError(f"x: expected one column to bin, got shape {column.shape}")
    n = len(column)
    whole_number(n_bins, "n_bins", f"a whole number from 1 to n = {n}", 1, n)
    below: NDArray[np.int64] = rankdata(column[:, 0], method="min").astype(np.int64) - 1
    return below * n_bins // n


def gaussian_ranks(x: ArrayLike) -> Array:
    """Replace each column's values by the Gaussian quantiles of their ranks.

    An increasing function of one column changes no mutual information, and this is the one that
    makes the column Gaussian: heavy tails are gone, dependence stays.

    Parameters
    ----------
    x : array_like, shape (n,) or (n, d)

    Returns
    -------
    ndarray, of the shape of `x`
        Φ⁻¹(rank / (n + 1)); equal values get equal ranks.

    Raises
    ------
    ValueError
        As `ksg_mutual_information`.
    """
    columns = samples(x, "x")
    ranks: Array = ndtri(rankdata(columns, axis=0) / (len(columns) + 1))
    return ranks.reshape(np.shape(x))


# ---- distances to neighbours


def ksg_mutual_information(x: ArrayLike, y: ArrayLike, *, k: int = 3) -> float:
    """I(X;Y) from nearest neighbours: algorithm 1 of Kraskov, Stögbauer & Grassberger (2004).

    ψ(k) + ψ(n) - mean[ψ(n_x + 1) + ψ(n_y + 1)], where n_x counts the samples nearer in x alone
    than the k-th neighbour is in x and y together (maximum norm). X and Y are first divided by a
    standard deviation each, one number for all columns of X and one for those of Y, so the units
    that they come in do not matter.

    Parameters
    ----------
    x, y : array_like, shape (n,) or (n, d_x) and (n, d_y)
        Samples of *continuous* variables. A few repeated values do no harm.
    k : int
        Neighbours: more of them give less variance and more bias.

    Returns
    -------
    float
        Not clipped: for independent variables it is negative about as often as positive.

    Raises
    ------
    ValueError
        `k` is not a whole number from 1 up, n <= k, lengths that differ, NaN or infinity, a
        variable that never changes, or a point that more than `k` samples share: such data are not
        continuous. No noise is added.

    References
    ----------
    Kraskov, Stögbauer & Grassberger (2004), https://doi.org/10.1103/PhysRevE.69.066138
    """
    x, y = _standardised(samples(x, "x"), "x"), _standardised(samples(y, "y"), "y")
    same_length(x, y)
    n = len(x)
    whole_number(k, "k", "a whole number of neighbours, 1 or more", 1)
    if n <= k:
        raise ValueError(f"x, y: expected more than k = {k} samples, got {n}")
    counts = _neighbours if x.shape[1] + y.shape[1] <= _MANY_COLUMNS else _neighbours_directly
    distance, n_x, n_y = counts(x, y, k)
    if (ties := int((distance == 0).sum())) > 0:
        raise ValueError(
            f"x, y: {ties} of {n} samples share their point with {k} others or more, which "
            f"continuous variables do not. For discrete ones use plug_in_mutual_information; for "
            f"rounded ones undo the rounding with noise of its size, and say so."
        )
    return float(digamma(k) + digamma(n) - np.mean(digamma(n_x) + digamma(n_y)))


def _neighbours(x: Array, y: Array, k: int) -> tuple[Array, Array, Array]:
    """Each sample's distance to its k-th neighbour, and n_x + 1 and n_y + 1, by trees."""
    both = np.hstack([x, y])
    tree = cKDTree(both, balanced_tree=False)
    distance = tree.query(both, k=[k + 1], p=np.inf)[0][:, 0]  # the first neighbour is the point
    return distance, _count_nearer(x, distance), _count_nearer(y, distance)


def _neighbours_directly(x: Array, y: Array, k: int) -> tuple[Array, Array, Array]:
    """The same from all distances: faster in many columns, where trees find nothing to skip."""
    found = []
    for rows in np.array_split(np.arange(len(x)), math.ceil(len(x) / 256)):
        x_apart, y_apart = cdist(x[rows], x, "chebyshev"), cdist(y[rows], y, "chebyshev")
        distance = np.partition(np.maximum(x_apart, y_apart), k, axis=1)[:, k]
        nearer = [(apart < _NEARER * distance[:, None]).sum(axis=1) for apart in (x_apart, y_apart)]
        found.append((distance, *nearer))
    distance, n_x, n_y = (np.concatenate(part) for part in zip(*found, strict=True))
    return distance, n_x, n_y


def _count_nearer(x: Array, distance: Array) -> Array:
    """For each sample the number of samples, itself among them, nearer than its distance."""
    if x.shape[1] > 1:
        radius = distance * _NEARER
        counts: Array = cKDTree(x).query_ball_point(x, radius, p=np.inf, return_length=True)
        return counts
    # On a line they are a stretch of the sorted values. What lies at the distance itself does not
    # count, and must not slip in when x ± distance is rounded.
    line = x[:, 0]
    order = np.argsort(line)  # looking up values in order is several times faster
    ordered, radius = line[order], distance[order]
    radius = radius - 4 * np.finfo(np.float64).eps * (np.abs(ordered) + radius)
    last = np.searchsorted(ordered, ordered + radius, side="right")
    return np.maximum(last - np.searchsorted(ordered, ordered - radius, side="left"), 1)


# ---- what the estimators are given


def _outcomes(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Number the different outcomes from 0 up."""
    values = np.asarray(values)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"{name}: expected shape (n,) or (n, d), got {values.shape}")
    if values.dtype.kind in "fc" and np.isnan(values).any():
        raise ValueError(f"{name}: expected outcomes, got NaN among them")
    axis = 0 if values.ndim == 2 else None
    return np.unique(values, axis=axis, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _standardised(columns: Array, name: str) -> Array:
    centred: Array = columns - columns.mean(axis=0)
    largest = np.abs(centred).max()
    if largest == 0:
        raise ValueError(f"{name}: all {len(columns)} samples are equal; expected them to vary")
    centred /= largest  # so that no square is too large or too small for a float
    return centred / math.sqrt(np.square(centred).mean())
