"""Measures against scikit-learn and scipy, and intervals against their definition."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss

from distill_lib.analysis import (
    accuracy,
    agreement,
    error_count,
    kl_to_teacher,
    mean_interval,
    negative_log_likelihood,
    paired_interval,
)


@pytest.fixture
def logits():
    return 3 * torch.randn(500, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.randint(0, 7, (500,), generator=torch.Generator().manual_seed(1))


def test_accuracy_and_errors(logits, labels):
    assert accuracy(logits, labels) == pytest.approx(
        accuracy_score(labels, logits.argmax(dim=1)), abs=1e-12
    )
    assert error_count(logits, labels) == int((logits.argmax(dim=1) != labels).sum())
    assert accuracy(logits, logits.argmax(dim=1)) == 1.0


def test_nll_is_the_mean_over_samples_of_the_labels_own_logit(logits, labels):
    # the bug this catches: [..., targets].mean() averages an N×N matrix
    expected = log_loss(labels, logits.softmax(dim=1).numpy(), labels=range(7))
    assert negative_log_likelihood(logits, labels) == pytest.approx(expected, rel=1e-5)


def test_agreement(logits):
    other = logits.clone()
    other[:50] = -other[:50]
    assert agreement(logits, logits) == 1.0
    assert agreement(logits, other) == pytest.approx(0.9, abs=1e-12)
    assert agreement(logits, logits + 5) == 1.0  # a common shift changes no answer


def test_kl_is_from_the_teacher_to_the_student(logits):
    teacher = logits.roll(1, dims=0) / 2
    p, q = teacher.double().softmax(1).numpy(), logits.double().softmax(1).numpy()
    expected = stats.entropy(p, q, axis=1).mean()
    assert kl_to_teacher(logits, teacher) == pytest.approx(expected, rel=1e-9)
    assert kl_to_teacher(teacher, logits) != pytest.approx(expected, rel=1e-3)
    assert kl_to_teacher(logits, logits) == pytest.approx(0, abs=1e-12)


def test_kl_survives_a_teacher_that_is_certain():
    teacher = torch.tensor([[200.0, 0.0, -200.0]])
    assert np.isfinite(kl_to_teacher(torch.zeros(1, 3), teacher))


def test_mean_interval_is_student_t():
    values = [3.0, 5.0, 4.0, 8.0]
    got = mean_interval(values, confidence=0.9)
    low, high = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert got == pytest.approx((5.0, low, high))


def test_a_t_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    runs = rng.normal(10, 3, (2000, 5))
    covered = [mean_interval(r).low <= 10 <= mean_interval(r).high for r in runs]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_paired_interval_uses_the_pairs():
    rng = np.random.default_rng(0)
    common = rng.normal(100, 20, 8)
    a, b = common + rng.normal(3, 0.5, 8), common
    got = paired_interval(a, b)
    assert got.low > 2
    assert got.high < 4
    assert got == pytest.approx(mean_interval(a - b))
    assert str(got) == f"{got.mean:.1f} [{got.low:.1f}, {got.high:.1f}]"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mean_interval([1.0]), ValueError, r"values: expected two or more"),
        (lambda: mean_interval([1.0, np.nan]), ValueError, r"values: expected finite"),
        (lambda: mean_interval([1.0, 2.0], confidence=95), ValueError, r"confidence: expected"),
        (lambda: paired_interval([1.0, 2.0], [1.0]), ValueError, r"a and b: expected one value"),
        (lambda: accuracy(torch.zeros(3, 2), torch.zeros(2).long()), ValueError, r"\(3, 2\)"),
        (lambda: accuracy(torch.zeros(3, 2), torch.zeros(3)), TypeError, r"y: expected integer"),
        (lambda: agreement(torch.zeros(3, 2), torch.zeros(3, 4)), ValueError, r"\(3, 4\)"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
