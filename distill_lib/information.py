"""Exact information measures of distributions that are known.

The discrete measures take tables of probabilities, the Gaussian ones covariance matrices; all
compute in float64. For what has to be estimated from samples see `distill_lib.estimators`.

Throughout, 0 ln 0 = 0. Definitions and theorem numbers are those of Cover & Thomas, *Elements of
Information Theory*, 2nd edition (2006), called CT below.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr, xlogy

from distill_lib import _validate

Array = NDArray[np.float64]


def entropy(p: ArrayLike, *, axis: int | None = -1, base: float | None = None) -> float | Array:
    """Entropy H(p) = -Σ p ln p: the average surprise (Shannon 1948, section 6; CT 2.1).

    Parameters
    ----------
    p : array_like
        Probabilities that sum to one along `axis`. Sums within 1e-5 of one, as float32 gives,
        are accepted and divided out.
    axis : int or None
        Axis of the outcomes; the others are kept. None takes the whole table as one distribution,
        which gives a joint entropy.
    base : float, optional
        Base of the logarithm: 2 for bits. Nats if None.

    Returns
    -------
    float or ndarray
        Between 0 and ln K for K outcomes, shaped as `p` without `axis`.

    Raises
    ------
    ValueError
        If `p` is not a distribution along `axis`, or `base` is not above one.
    """
    p = _validate.distribution(p, "p", axis)
    return _in_base(-xlogy(p, p).sum(axis=axis), base)


def conditional_entropy(
    p: ArrayLike, *, given: int | tuple[int, ...], base: float | None = None
) -> float:
    """Conditional entropy -Σ p(all) ln p(others|given): the surprise that is left (CT 2.2).

    Parameters
    ----------
    p : array_like
        Joint table with one axis a variable; the whole of it sums to one.
    given : int or tuple of int
        Axes of the variables that are known: for ``p[x, y]``, ``given=0`` is H(Y|X) and
        ``given=1`` is H(X|Y).
    base : float, optional
        As in `entropy`.

    Returns
    -------
    float
        Between 0 and the entropy of the others.

    Raises
    ------
    ValueError
        If `p` is not a joint distribution, or `given` names no axis of it, or every one.
    """
    p = _validate.distribution(p, "p", None)
    known = _validate.axes(given, "given", p)
    others = tuple(axis for axis in range(p.ndim) if axis not in known)
    if not others:
        raise ValueError(f"given={given} names every axis of p: no variable is left to be unknown.")
    return float(_in_base(-rel_entr(p, p.sum(axis=others, keepdims=True)).sum(), base))


def cross_entropy(
    p: ArrayLike, q: ArrayLike, *, axis: int | None = -1, base: float | None = None
) -> float | Array:
    """Cross-entropy H(p, q) = -Σ p ln q = H(p) + KL(p‖q) (CT 5.4.3).

    Parameters
    ----------
    p, q : array_like
        Distributions along `axis`, of one shape: what happens, and what was expected.
    axis, base
        As in `entropy`.

    Returns
    -------
    float or ndarray
        At least H(p); ``inf`` where `q` rules out what `p` allows. Shaped as `p` without `axis`.

    Raises
    ------
    ValueError
        As `entropy`, and if the shapes differ.
    """
    p, q = _validate.pair(p, q, axis)
    return _in_base(-xlogy(p, q).sum(axis=axis), base)


def kl_divergence(
    p: ArrayLike, q: ArrayLike, *, axis: int | None = -1, base: float | None = None
) -> float | Array:
    """Kullback-Leibler divergence KL(p‖q) = Σ p ln(p/q) (Kullback & Leibler 1951; CT 2.3).

    Parameters
    ----------
    p, q : array_like
        Distributions along `axis`, of one shape. In distillation `p` is the teacher's.
    axis, base
        As in `entropy`.

    Returns
    -------
    float or ndarray
        At least 0, and 0 only if `p` equals `q`; ``inf`` where `q` rules out what `p` allows.
        Shaped as `p` without `axis`.

    Raises
    ------
    ValueError
        As `entropy`, and if the shapes differ.
    """
    p, q = _validate.pair(p, q, axis)
    return _in_base(_kl(p, q, axis), base)


def js_divergence(
    p: ArrayLike, q: ArrayLike, *, axis: int | None = -1, base: float | None = None
) -> float | Array:
    """Jensen-Shannon divergence: the mean KL of `p` and of `q` to their mean (Lin 1991).

    Parameters
    ----------
    p, q : array_like
        Distributions along `axis`, of one shape; their order does not matter.
    axis, base
        As in `entropy`.

    Returns
    -------
    float or ndarray
        Between 0 and ln 2, which is one bit. Its square root is a distance. Shaped as `p` without
        `axis`.

    Raises
    ------
    ValueError
        As `entropy`, and if the shapes differ.
    """
    p, q = _validate.pair(p, q, axis)
    middle = (p + q) / 2
    return _in_base((_kl(p, middle, axis) + _kl(q, middle, axis)) / 2, base)


def mutual_information(p_xy: ArrayLike, *, base: float | None = None) -> float:
    """Mutual information I(X;Y) = KL(p_xy ‖ p_x p_y) (CT 2.3).

    Parameters
    ----------
    p_xy : array_like, shape (n_x, n_y)
        Joint table; the whole of it sums to one.
    base : float, optional
        As in `entropy`.

    Returns
    -------
    float
        Between 0, for independent variables, and the smaller of H(X) and H(Y).

    Raises
    ------
    ValueError
        If `p_xy` is not a two-dimensional joint distribution.
    """
    p = _validate.distribution(p_xy, "p_xy", None, variables=2)
    independent = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    return float(_in_base(_kl(p, independent, None), base))


def conditional_mutual_information(p_xyz: ArrayLike, *, base: float | None = None) -> float:
    """Conditional mutual information I(X;Y|Z) = E_z KL(p_xy|z ‖ p_x|z p_y|z) (CT 2.5).

    Parameters
    ----------
    p_xyz : array_like, shape (n_x, n_y, n_z)
        Joint table, the known variable on the last axis; the whole of it sums to one.
    base : float, optional
        As in `entropy`.

    Returns
    -------
    float
        At least 0. It can be smaller than I(X;Y), or larger: think of Z = X xor Y.

    Raises
    ------
    ValueError
        If `p_xyz` is not a three-dimensional joint distribution.
    """
    p = _validate.distribution(p_xyz, "p_xyz", None, variables=3)
    p_z = p.sum(axis=(0, 1))
    p_y_given_z = p.sum(axis=0) / np.where(p_z > 0, p_z, 1)
    independent = p.sum(axis=1)[:, None] * p_y_given_z  # p(x, z) p(y | z)
    return float(_in_base(_kl(p, independent, None), base))


def gaussian_entropy(covariance: ArrayLike, *, base: float | None = None) -> float:
    """Differential entropy ½ ln((2πe)^d |Σ|) of N(μ, Σ), whatever μ (CT 8.4.1).

    Parameters
    ----------
    covariance : array_like, shape (d, d) or scalar
        Σ; a scalar is a variance.
    base : float, optional
        As in `entropy`.

    Returns
    -------
    float
        Of either sign: it depends on the unit that the variable is measured in.

    Raises
    ------
    ValueError
        If `covariance` is not symmetric and positive definite.
    """
    sigma = _validate.covariance(covariance, "covariance")
    return float(_in_base((len(sigma) * math.log(2 * math.pi * math.e) + _logdet(sigma)) / 2, base))


def gaussian_kl_divergence(
    mean_p: ArrayLike,
    covariance_p: ArrayLike,
    mean_q: ArrayLike,
    covariance_q: ArrayLike,
    *,
    base: float | None = None,
) -> float:
    """KL(N(μ_p, Σ_p) ‖ N(μ_q, Σ_q)), in closed form (Kullback 1959, chapter 9).

    Parameters
    ----------
    mean_p, mean_q : array_like, shape (d,) or scalar
        Means.
    covariance_p, covariance_q : array_like, shape (d, d) or scalar
        Covariances; a scalar is a variance.
    base : float, optional
        As in `entropy`.

    Returns
    -------
    float
        ½ [tr(Σ_q⁻¹ Σ_p) + (μ_q - μ_p)ᵀ Σ_q⁻¹ (μ_q - μ_p) - d + ln(|Σ_q| / |Σ_p|)], at least 0.

    Raises
    ------
    ValueError
        If a covariance is not symmetric and positive definite, or the dimensions disagree.
    """
    sigma_p = _validate.covariance(covariance_p, "covariance_p")
    sigma_q = _validate.covariance(covariance_q, "covariance_q")
    d = len(sigma_p)
    if len(sigma_q) != d:
        raise ValueError(f"covariance_p is {d}-dimensional but covariance_q is {len(sigma_q)}.")
    step = _validate.mean(mean_q, "mean_q", d) - _validate.mean(mean_p, "mean_p", d)
    spread = np.trace(np.linalg.solve(sigma_q, sigma_p))
    offset = step @ np.linalg.solve(sigma_q, step)
    nats = (spread + offset - d + _logdet(sigma_q) - _logdet(sigma_p)) / 2
    return float(_in_base(np.maximum(nats, 0.0), base))


def gaussian_mutual_information(
    covariance: ArrayLike, *, n_x: int, base: float | None = None
) -> float:
    """I(X;Y) = ½ ln(|Σ_x| |Σ_y| / |Σ|) of jointly Gaussian X and Y (CT 8.5).

    Parameters
    ----------
    covariance : array_like, shape (d, d)
        Σ of X and Y together, or their correlation matrix, which gives the same.
    n_x : int
        X is the first `n_x` coordinates and Y the rest. With ``n_x=1`` and two coordinates of
        correlation ρ the answer is -½ ln(1 - ρ²).
    base : float, optional
        As in `entropy`.

    Returns
    -------
    float
        At least 0.

    Raises
    ------
    ValueError
        If `covariance` is not symmetric and positive definite, or `n_x` leaves X or Y empty.
    """
    sigma = _validate.covariance(covariance, "covariance")
    if not 0 < n_x < len(sigma):
        raise ValueError(f"n_x={n_x} leaves X or Y empty: the matrix has {len(sigma)} coordinates.")
    nats = (_logdet(sigma[:n_x, :n_x]) + _logdet(sigma[n_x:, n_x:]) - _logdet(sigma)) / 2
    return float(_in_base(np.maximum(nats, 0.0), base))


def _kl(p: Array, q: Array, axis: int | None) -> Array:
    # Rounding may leave -1e-17 where p equals q, but no divergence is negative.
    divergence: Array = np.maximum(rel_entr(p, q).sum(axis=axis), 0.0)
    return divergence


def _logdet(sigma: Array) -> float:
    return float(np.linalg.slogdet(sigma)[1])


def _in_base(nats: ArrayLike, base: float | None) -> float | Array:
    """Nats in the unit of `base`: a float where it is one number."""
    if base is not None and not 1 < base < math.inf:
        raise ValueError(
            f"base={base} must be above 1: 2 for bits, 10 for hartleys, None for nats."
        )
    answer = np.asarray(nats) / (1.0 if base is None else math.log(base)) + 0.0  # no minus zero
    return answer if answer.ndim else float(answer)
