"""Did it work? Measures of logits, and intervals over seeds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor
from torch.nn import functional as F


def error_count(logits: Tensor, y: Tensor) -> int:
    """How many of the N samples get their label wrong.

    Parameters
    ----------
    logits : Tensor, shape (N, K)
    y : Tensor, int64, shape (N,)
    """
    _check_labels(logits, y)
    return int((logits.argmax(dim=-1) != y).sum())


def accuracy(logits: Tensor, y: Tensor) -> float:
    """The fraction of samples whose largest logit is their label's."""
    return 1 - error_count(logits, y) / len(y)


def negative_log_likelihood(logits: Tensor, y: Tensor) -> float:
    """The mean cross-entropy with the labels, in nats a sample."""
    _check_labels(logits, y)
    return float(F.cross_entropy(logits.float(), y))


def agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """The fraction of samples on which two networks have the same top answer, right or wrong."""
    _check_same(logits_a, logits_b)
    return int((logits_a.argmax(dim=-1) == logits_b.argmax(dim=-1)).sum()) / len(logits_a)


def kl_to_teacher(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Mean KL(teacher ‖ student) in nats a sample, at temperature 1."""
    _check_same(student_logits, teacher_logits)
    log_p = teacher_logits.cpu().double().log_softmax(dim=-1)  # MPS has no float64
    log_q = student_logits.cpu().double().log_softmax(dim=-1)
    return float(F.kl_div(log_q, log_p, reduction="batchmean", log_target=True))


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """The mean of independent runs with Student's t interval.

    Parameters
    ----------
    values : array_like, shape (n,), n ≥ 2
        One figure for each seed.
    confidence : float
        Between 0 and 1.

    Raises
    ------
    ValueError
        Fewer than two values, or one that is not finite.
    """
    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or len(v) < 2:
        raise ValueError(f"values: expected two or more, one for each seed, got shape {v.shape}")
    if not np.isfinite(v).all():
        raise ValueError(f"values: expected finite numbers, got {v[~np.isfinite(v)]}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
    half = stats.t.ppf((1 + confidence) / 2, len(v) - 1) * stats.sem(v)
    return Interval(float(v.mean()), float(v.mean() - half), float(v.mean() + half))


def paired_interval(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """The mean of ``a - b`` over seeds, with Student's t interval.

    Seed i of `a` and seed i of `b` share what is random (initial weights, order), so their
    difference varies less than either.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"a and b: expected one value of each a seed, got {a.shape} and {b.shape}")
    return mean_interval(a - b, confidence=confidence)


def _check_labels(logits: Tensor, y: Tensor) -> None:
    if logits.ndim != 2 or y.shape != logits.shape[:1]:
        raise ValueError(
            f"logits and y: expected shapes (N, K) and (N,), "
            f"got {tuple(logits.shape)} and {tuple(y.shape)}"
        )
    if torch.is_floating_point(y):
        raise TypeError(f"y: expected integer labels, got {y.dtype}")


def _check_same(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"logits of two networks: expected one shape (N, K), "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
