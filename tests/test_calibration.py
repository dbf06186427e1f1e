"""Calibration by hand, against scikit-learn, and on networks whose calibration is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve

from distill_lib.analysis import error_count, negative_log_likelihood
from distill_lib.calibration import expected_calibration_error, fit_temperature, reliability


def logits_of(confidences):
    """Two classes: the first gets the confidence given."""
    c = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([c, 1 - c], dim=1).log()


def random(seed, n=400, k=5, scale=3.0):
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, k, generator=g)
    return logits, torch.randint(0, k, (n,), generator=g)


def honest(seed, n=3000, k=5, scale=2.0):
    """Logits, and labels drawn from their softmax: calibrated by construction."""
    logits, _ = random(seed, n, k, scale)
    g = torch.Generator().manual_seed(seed + 1)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=g)[:, 0]


def test_by_hand():
    logits, y = logits_of([0.9, 0.8, 0.95, 0.6]), torch.tensor([0, 1, 0, 0])
    bins = reliability(logits, y, n_bins=4)  # edges 0.25, 0.5, 0.75
    assert bins.samples.tolist() == [0, 0, 1, 3]
    np.testing.assert_allclose(bins.confidence[2:], [0.6, (0.9 + 0.8 + 0.95) / 3])
    np.testing.assert_allclose(bins.accuracy[2:], [1, 2 / 3])
    assert np.isnan(bins.confidence[:2]).all() and np.isnan(bins.accuracy[:2]).all()
    gap = (1 * 0.4 + 3 * (2.65 / 3 - 2 / 3)) / 4
    assert expected_calibration_error(logits, y, n_bins=4) == pytest.approx(gap, rel=1e-12)


def test_one_bin_is_the_gap_of_the_means():
    logits, y = random(0)
    confidence = float(logits.softmax(dim=1).max(dim=1).values.mean())
    accuracy = 1 - error_count(logits, y) / len(y)
    assert expected_calibration_error(logits, y, n_bins=1) == pytest.approx(
        abs(confidence - accuracy), abs=1e-6
    )


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_bins_are_scikit_learns(seed, n_bins):
    logits, y = random(seed, n=120)
    p = logits.double().softmax(dim=1)
    confidence, right = p.max(dim=1).values.numpy(), (p.argmax(dim=1) == y).numpy()
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=n_bins)
    bins = reliability(logits, y, n_bins=n_bins)
    filled = bins.samples > 0
    np.testing.assert_allclose(bins.accuracy[filled], accuracy, rtol=1e-12)
    np.testing.assert_allclose(bins.confidence[filled], mean_confidence, rtol=1e-12)
    assert bins.samples.sum() == len(y)
    ece = expected_calibration_error(logits, y, n_bins=n_bins)
    assert ece == pytest.approx(bins.samples[filled] @ abs(accuracy - mean_confidence) / len(y))


def test_a_confidence_on_an_edge_belongs_below():
    logits = torch.zeros(1, 2)  # confidence exactly 1/2
    assert reliability(logits, torch.tensor([0]), n_bins=2).samples.tolist() == [1, 0]
    sure = torch.tensor([[1000.0, 0.0]])
    assert reliability(sure, torch.tensor([0]), n_bins=2).samples.tolist() == [0, 1]


def test_more_bins_score_an_honest_network_worse():
    scores = [expected_calibration_error(*honest(3), n_bins=n) for n in (1, 15, 1000)]
    assert 0 < scores[0] < scores[1] < scores[2]


# ---- temperature


@pytest.mark.parametrize("tau", [0.03, 0.5, 1.0, 4.0, 200.0])
def test_the_temperature_of_an_honest_network_is_found_again(tau):
    logits, y = honest(0, n=20_000)
    assert fit_temperature(logits * tau, y) == pytest.approx(tau, rel=0.03)


@given(st.integers(0, 10_000), st.floats(0.2, 5))
@settings(max_examples=25, deadline=None)
def test_no_other_temperature_has_a_smaller_nll(seed, scale):
    logits, y = honest(seed, n=300)
    logits = scale * logits.double()
    tau = fit_temperature(logits, y)

    def nll(t):
        return float(torch.nn.functional.cross_entropy(logits / t, y))

    assert nll(tau) <= min(nll(1.0), nll(0.999 * tau), nll(1.001 * tau)) + 1e-12
    best = minimize_scalar(lambda s: nll(np.exp(s)), bounds=(-4, 4), method="bounded")
    assert nll(tau) <= best.fun + 1e-9


def test_scaling_changes_no_answer_and_never_hurts_on_what_it_was_fitted_on():
    logits, y = honest(5)
    overconfident = 3 * logits
    tau = fit_temperature(overconfident, y)
    assert tau > 2
    assert error_count(overconfident / tau, y) == error_count(overconfident, y)
    assert negative_log_likelihood(overconfident / tau, y) < negative_log_likelihood(
        overconfident, y
    )
    ece = [expected_calibration_error(z, y) for z in (overconfident, overconfident / tau)]
    assert ece[1] < ece[0] / 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reliability(torch.zeros(3, 2), torch.zeros(3).long(), n_bins=0), "n_bins: .*0"),
        (lambda: reliability(torch.zeros(3, 2), torch.zeros(2).long()), r"\(3, 2\) and \(2,\)"),
        (lambda: fit_temperature(torch.eye(3), torch.arange(3)), "a sample that is wrong"),
        (
            lambda: fit_temperature(random(0)[0].softmax(dim=1), random(0)[0].argmax(dim=1) // 2),
            "logits: expected logits, got probabilities",
        ),
        (
            lambda: expected_calibration_error(random(0)[0].softmax(dim=1), random(0)[1]),
            "logits: expected logits, got probabilities",
        ),
        (lambda: fit_temperature(-torch.eye(3), torch.arange(3)), "do they belong to y"),
        (lambda: fit_temperature(torch.zeros(3, 2), torch.zeros(2).long()), "logits and y"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
