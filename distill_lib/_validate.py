"""Checks of what the information measures are given, and errors that say what to do about it."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = NDArray[np.float64]

SUM_TOLERANCE = 1e-5  # a float32 softmax over 100,000 classes keeps within it


def distribution(p: ArrayLike, name: str, axis: int | None, variables: int | None = None) -> Array:
    """Return `p` in float64, its sum along `axis` made exactly one.

    `name` is what the error calls it, and `variables` the number of axes it must have, if any.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.size == 0 or p.ndim == 0:
        raise ValueError(f"{name} must be a non-empty array of probabilities; got shape {p.shape}.")
    if variables is not None and p.ndim != variables:
        raise ValueError(f"{name} must have {variables} axes, one a variable; got shape {p.shape}.")
    if axis is not None:
        axes(axis, "axis", p, name)
    if not np.isfinite(p).all():
        raise ValueError(f"{name} contains NaN or infinity; probabilities lie between 0 and 1.")
    if p.min() < 0:
        logarithms = np.allclose(np.exp(p).sum(axis=axis), 1.0, rtol=0, atol=SUM_TOLERANCE)
        cure = (
            "These are log-probabilities: take their exponential first."
            if logarithms
            else "If these are logits, apply a softmax first."
        )
        raise ValueError(
            f"{name} contains {p.min():.6g}; probabilities lie between 0 and 1. {cure}"
        )
    total = p.sum(axis=axis, keepdims=True)
    worst = total.flat[np.abs(total - 1).argmax()]
    if abs(worst - 1) > SUM_TOLERANCE:
        where = "as a whole" if axis is None else f"along axis={axis}"
        cure = _cure_for_sum(p, name, axis)
        raise ValueError(f"{name} sums to {worst:.6g} {where}, not to 1. {cure}")
    normalised: Array = p / total
    return normalised


def pair(p: ArrayLike, q: ArrayLike, axis: int | None) -> tuple[Array, Array]:
    """Return two distributions of one shape."""
    p, q = distribution(p, "p", axis), distribution(q, "q", axis)
    if p.shape != q.shape:
        raise ValueError(f"p has shape {p.shape} but q has shape {q.shape}: they must be equal.")
    return p, q


def axes(given: int | Iterable[int], name: str, p: Array, of: str = "p") -> set[int]:
    """Return the axes as numbers from zero up."""
    given = tuple(given) if isinstance(given, Iterable) else (given,)
    if not given or not all(-p.ndim <= axis < p.ndim for axis in given):
        listed = ", ".join(map(str, given))
        raise ValueError(f"{name}={listed} does not name axes of {of}, whose shape is {p.shape}.")
    return {axis % p.ndim for axis in given}


def mean(mu: ArrayLike, name: str, d: int) -> Array:
    """Return a mean as a vector of `d` numbers."""
    mu = np.atleast_1d(np.asarray(mu, dtype=np.float64))
    if mu.shape != (d,) or not np.isfinite(mu).all():
        raise ValueError(f"{name} must be {d} finite numbers, as its covariance is {d} by {d}.")
    return mu


def covariance(sigma: ArrayLike, name: str) -> Array:
    """Return a covariance as a matrix."""
    sigma = np.atleast_2d(np.asarray(sigma, dtype=np.float64))
    if sigma.ndim != 2 or sigma.shape[0] != sigma.shape[1] or sigma.size == 0:
        raise ValueError(f"{name} must be a variance or a square matrix; got shape {sigma.shape}.")
    if not np.isfinite(sigma).all() or not np.allclose(sigma, sigma.T):
        raise ValueError(f"{name} must be finite and symmetric.")
    smallest = np.linalg.eigvalsh(sigma)[0]
    if smallest <= 0:
        raise ValueError(
            f"{name} must be positive definite; its smallest eigenvalue is {smallest:.6g}."
        )
    return sigma


def _cure_for_sum(p: Array, name: str, axis: int | None) -> str:
    """Say what may have been meant by a `p` that does not sum to one along `axis`."""
    if axis is not None and abs(p.sum() - 1) <= SUM_TOLERANCE:
        return f"The whole of {name} does: for its joint distribution pass axis=None."
    for other in range(p.ndim):
        if np.allclose(p.sum(axis=other), 1.0, rtol=0, atol=SUM_TOLERANCE):
            if axis is None:
                return f"It does along axis {other}: is it conditional, and not joint?"
            return f"It does along axis={other}."
    return "If these are logits, apply a softmax first; if they are counts, divide by their sum."


def samples(values: ArrayLike | Tensor, name: str) -> Array:
    """Return samples as float64 of shape (n, d)."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    columns = np.asarray(values, dtype=np.float64)
    if columns.ndim not in (1, 2) or columns.size == 0:
        raise ValueError(f"{name}: expected samples of shape (n,) or (n, d), got {columns.shape}")
    if not np.isfinite(columns).all():
        bad = int((~np.isfinite(columns)).sum())
        raise ValueError(f"{name}: expected finite numbers, got {bad} that are NaN or infinite")
    return columns.reshape(len(columns), -1)


def whole_number(
    value: object, name: str, expected: str, low: int, high: int | None = None
) -> None:
    """Raise ValueError if `value` is not a whole number from `low` to `high`."""
    if (
        not isinstance(value, int | np.integer)
        or value < low
        or (high is not None and value > high)
    ):
        raise ValueError(f"{name}: expected {expected}, got {value}")


def same_length(x: NDArray[np.generic], y: NDArray[np.generic]) -> None:
    """Raise ValueError if `x` and `y` cannot be pairs."""
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} samples but y has {len(y)}: expected pairs")
