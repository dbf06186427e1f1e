"""Calibration: is a network right as often as it says, and the temperature that repairs it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from distill_lib.analysis import check_labels, probabilities, refuse_probabilities

Array = NDArray[np.float64]


class Reliability(NamedTuple):
    """Of the samples in each bin of confidence: mean confidence, fraction right, and how many."""

    confidence: Array
    accuracy: Array
    samples: NDArray[np.int64]


def reliability(logits: Tensor, y: Tensor, *, n_bins: int = 15) -> Reliability:
    """The figures of a reliability diagram: is a network as often right as it says.

    The confidence is the largest probability; the bins have equal widths from 0 to 1, each with
    its upper end.

    Returns
    -------
    Reliability
        Arrays of shape (n_bins,); an empty bin has confidence and accuracy NaN.

    References
    ----------
    Guo et al. (2017), https://arxiv.org/abs/1706.04599
    """
    if n_bins < 1:
        raise ValueError(f"n_bins: expected 1 or more, got {n_bins}")
    largest, answer = probabilities(logits, y).max(dim=1)
    confidence, right = largest.numpy(), (answer == y.cpu()).numpy()
    place = np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], confidence, side="left")
    samples = np.bincount(place, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            np.bincount(place, weights=confidence, minlength=n_bins) / samples,
            np.bincount(place, weights=right, minlength=n_bins) / samples,
            samples,
        )


def expected_calibration_error(logits: Tensor, y: Tensor, *, n_bins: int = 15) -> float:
    """ECE: the gap of confidence and accuracy in each bin, weighted by the samples in it.

    It depends on `n_bins`, and even a perfectly calibrated network scores above 0: compare only
    figures with the same bins and the same N.

    References
    ----------
    Guo et al. (2017), https://arxiv.org/abs/1706.04599
    """
    bins = reliability(logits, y, n_bins=n_bins)
    gap = np.abs(bins.confidence - bins.accuracy)
    return float(np.nansum(bins.samples * gap) / bins.samples.sum())


def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """The temperature by which to divide logits so that their NLL on `y` is smallest.

    Fit it on validation samples. It changes no answer. Above 1 the network was overconfident.

    Raises
    ------
    ValueError
        No temperature is best: each label has the largest logit of its sample (the NLL falls as
        the temperature goes to 0), or the labels' logits are no larger than the mean (it falls as
        the temperature grows).

    References
    ----------
    Guo et al. (2017), https://arxiv.org/abs/1706.04599
    """
    check_labels(logits, y)
    z = logits.cpu().double()
    of_label = z.gather(1, y.cpu().long()[:, None])[:, 0]
    if bool((z.max(dim=1).values == of_label).all()):
        raise ValueError(
            "logits: expected a sample that is wrong; with none, no temperature is best"
        )
    if float((z.mean(dim=1) - of_label).mean()) >= 0:
        raise ValueError("logits: expected the labels' logits above the mean: do they belong to y?")

    refuse_probabilities("logits", logits)

    def slope(log_beta: float) -> float:  # of the NLL, by the inverse temperature beta; it rises
        p = (z * np.exp(log_beta)).softmax(dim=1)
        return float(((p * z).sum(dim=1) - of_label).mean())

    low, high = -1.0, 1.0
    while slope(low) >= 0:
        low *= 2
    while slope(high) <= 0:
        high *= 2
    return float(np.exp(-optimize.brentq(slope, low, high, xtol=1e-10)))
