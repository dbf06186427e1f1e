"""Did it work? Measures of logits, and intervals over seeds and images."""

from __future__ import annotations

import math
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
    check_labels(logits, y)
    return int((logits.argmax(dim=-1) != y).sum())


def accuracy(logits: Tensor, y: Tensor) -> float:
    """The fraction of samples whose largest logit is their label's."""
    return 1 - error_count(logits, y) / len(y)


def negative_log_likelihood(logits: Tensor, y: Tensor) -> float:
    """The mean cross-entropy with the labels, in nats a sample.

    It is not looked whether they are logits: `evaluate` takes networks that end in a softmax, too,
    for their errors.
    """
    check_labels(logits, y)
    return float(F.cross_entropy(logits.float(), y.long()))


def agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """The fraction of samples on which two networks have the same top answer, right or wrong."""
    _check_same(logits_a, logits_b)
    return int((logits_a.argmax(dim=-1) == logits_b.argmax(dim=-1)).sum()) / len(logits_a)


def kl_to_teacher(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Mean KL(teacher ‖ student) in nats a sample, at temperature 1."""
    _check_same(student_logits, teacher_logits)
    refuse_probabilities("student_logits", student_logits)
    refuse_probabilities("teacher_logits", teacher_logits)
    log_p = teacher_logits.cpu().double().log_softmax(dim=-1)  # MPS has no float64
    log_q = student_logits.cpu().double().log_softmax(dim=-1)
    return float(F.kl_div(log_q, log_p, reduction="batchmean", log_target=True))


def brier_score(logits: Tensor, y: Tensor) -> float:
    """The mean squared distance of probabilities and one-hot labels, summed over the classes.

    From 0 (certain and right) to 2 (certain and wrong). Brier (1950), *Monthly Weather Review* 78.
    """
    p = probabilities(logits, y)
    return float((p - F.one_hot(y.cpu().long(), p.shape[1])).square().sum(dim=1).mean())


class McNemar(NamedTuple):
    """The samples that only one of two networks gets wrong, and how surprising their split is."""

    only_a_wrong: int
    only_b_wrong: int
    p_value: float


def mcnemar(logits_a: Tensor, logits_b: Tensor, y: Tensor) -> McNemar:
    """McNemar's exact test of whether two networks err equally often on samples like these.

    It covers the luck of the samples, for these two networks. It does not cover that of the seeds.

    Parameters
    ----------
    logits_a, logits_b : Tensor, shape (N, K)
        Of two networks on the same samples.
    y : Tensor, int64, shape (N,)

    Returns
    -------
    McNemar
        Its two-sided p-value is 1 if no sample tells the networks apart.

    Raises
    ------
    ValueError
        Shapes that don't fit, no samples, NaN, or labels of no class.

    References
    ----------
    McNemar (1947), *Psychometrika* 12, https://doi.org/10.1007/BF02295996
    """
    _check_same(logits_a, logits_b)
    check_labels(logits_a, y)
    a_wrong, b_wrong = logits_a.argmax(dim=1) != y, logits_b.argmax(dim=1) != y
    only_a, only_b = int((a_wrong & ~b_wrong).sum()), int((b_wrong & ~a_wrong).sum())
    differ = only_a + only_b
    p_value = float(stats.binomtest(only_a, differ).pvalue) if differ else 1.0
    return McNemar(only_a, only_b, p_value)


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        half = (self.high - self.low) / 2
        digits = 1 - math.floor(math.log10(half)) if 1e-9 < half < 0.1 else 4 if half < 0.1 else 1
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


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
    _check_confidence(confidence)
    half = stats.t.ppf((1 + confidence) / 2, len(v) - 1) * stats.sem(v)
    return Interval(float(v.mean()), float(v.mean() - half), float(v.mean() + half))


def paired_interval(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """The mean of ``a - b`` over seeds, with Student's t interval.

    Seed i of `a` and seed i of `b` share what is random (initial weights, order), so their
    difference varies less than either.

    Raises
    ------
    ValueError
        Shapes that differ, fewer than two pairs, or a figure that is not finite.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"a and b: expected one value of each a seed, got {a.shape} and {b.shape}")
    return mean_interval(a - b, confidence=confidence)


def crossed_interval(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Mean difference over seeds and samples, for other seeds *and* other samples like these.

    In the model ``d[s, i] = mean + seed[s] + sample[i] + rest[s, i]`` the variances of the seeds'
    means and of the samples' means add up, less that of the rest, which is in both.

    Parameters
    ----------
    a, b : array_like, shape (n_seeds, N), n_seeds and N ≥ 2
        One figure for each seed and sample (1 for an error, else 0); equal places are pairs.
    confidence : float
        Between 0 and 1; the quantile is the normal one, so with a handful of seeds the interval is
        too short, as it takes their spread for known.

    Raises
    ------
    ValueError
        Shapes that differ or are too small, a figure that is not finite, or a confidence that is
        not between 0 and 1.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim != 2 or min(a.shape) < 2:
        raise ValueError(
            f"a and b: expected one shape (n_seeds, N), both 2 or more, got {a.shape} and {b.shape}"
        )
    _check_confidence(confidence)
    d = a - b
    if not np.isfinite(d).all():
        raise ValueError(f"a and b: expected finite numbers, got {d[~np.isfinite(d)]}")
    by_seed, by_sample = d.mean(axis=1), d.mean(axis=0)
    rest = d - by_seed[:, None] - by_sample + d.mean()
    of_rest = (rest**2).sum() / ((d.shape[0] - 1) * (d.shape[1] - 1) * d.size)
    of_seeds, of_samples = stats.sem(by_seed) ** 2, stats.sem(by_sample) ** 2
    variance = max(of_seeds + of_samples - of_rest, of_seeds, of_samples)
    half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance)
    return Interval(float(d.mean()), float(d.mean() - half), float(d.mean() + half))


def paired_power(effect: float, spread: float, n: int, *, confidence: float = 0.95) -> float:
    """How probably an interval over n pairs excludes 0, if the mean difference is `effect`.

    Parameters
    ----------
    effect, spread : float
        Mean and standard deviation of the pairs' differences (normal), in one unit.
    n : int
        2 or more.
    confidence : float
        Of the t interval, between 0 and 1.

    Raises
    ------
    ValueError
        A spread that is not above 0, fewer than two pairs, a confidence not between 0 and 1.
    """
    if n < 2 or spread <= 0:
        raise ValueError(f"n and spread: expected n ≥ 2 and spread > 0, got {n} and {spread}")
    _check_confidence(confidence)
    edge, shift = stats.t.ppf((1 + confidence) / 2, n - 1), abs(effect) / spread * np.sqrt(n)
    wrong_side = np.nan_to_num(stats.nct.cdf(-edge, n - 1, shift))  # nan where it is below 1e-15
    return float(stats.nct.sf(edge, n - 1, shift) + wrong_side)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")


def probabilities(logits: Tensor, y: Tensor) -> Tensor:
    """The softmax of logits that fit the labels, in float64 on the CPU (MPS has no float64)."""
    check_labels(logits, y)
    refuse_probabilities("logits", logits)
    return logits.cpu().double().softmax(dim=1)


def check_labels(logits: Tensor, y: Tensor) -> None:
    """Raise unless there is one label of a class, an integer, for each row of logits."""
    if logits.ndim != 2 or y.shape != logits.shape[:1]:
        raise ValueError(
            f"logits and y: expected shapes (N, K) and (N,), "
            f"got {tuple(logits.shape)} and {tuple(y.shape)}"
        )
    if torch.is_floating_point(y):
        raise TypeError(f"y: expected integer labels, got {y.dtype}")
    _check_numbers(logits)
    low, high, k = int(y.min()), int(y.max()), logits.shape[1]
    if low < 0 or high >= k:
        raise ValueError(f"y: expected labels from 0 to {k - 1}, got {low} to {high}")


def refuse_probabilities(name: str, logits: Tensor) -> None:
    """Raise ValueError if every row is nowhere negative and sums to one: it waits for the device.

    The sum is that of a softmax in bfloat16, too, which is off by up to 0.003.
    """
    sums_to_one = (logits.sum(dim=-1) - 1).abs() < 1e-2
    if bool(((logits >= 0).all(dim=-1) & sums_to_one).all()):
        raise ValueError(
            f"{name}: expected logits, got probabilities (no value is negative and every row sums "
            f"to 1): remove the softmax at the end of the network"
        )


def _check_same(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"logits of two networks: expected one shape (N, K), "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    _check_numbers(a)
    _check_numbers(b)


def _check_numbers(logits: Tensor) -> None:
    if not len(logits):
        raise ValueError("logits: expected at least one sample, got none")
    if bool(logits.isnan().any()):  # else argmax would take the first of them for an answer
        raise ValueError("logits: expected numbers, got NaN: did the training diverge?")
