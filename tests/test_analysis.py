"""Measures against scikit-learn and scipy, and intervals against their definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from distill_lib.analysis import (
    Interval,
    accuracy,
    agreement,
    brier_score,
    crossed_interval,
    error_count,
    kl_to_teacher,
    mcnemar,
    mean_interval,
    negative_log_likelihood,
    paired_interval,
    paired_power,
)
from distill_lib.calibration import expected_calibration_error


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


def test_labels_of_any_integer_type_give_the_same_figures(logits, labels):
    for measure in (negative_log_likelihood, brier_score, expected_calibration_error):
        assert measure(logits, labels.int()) == measure(logits, labels)


PROBABILITIES = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
ZERO = torch.zeros(3).long()


def test_answers_can_be_counted_in_probabilities_too():
    assert error_count(PROBABILITIES, ZERO) == 1
    assert agreement(PROBABILITIES, PROBABILITIES.log()) == 1


LOST = torch.tensor([[1.0, 0.0], [0.0, torch.nan], [2.0, 1.0]])  # of a network that diverged


def test_an_interval_of_small_numbers_is_printed_with_digits_that_say_something():
    assert str(Interval(12.34, 10.0, 14.68)) == "12.3 [10.0, 14.7]"
    assert str(Interval(0.004, -0.001, 0.009)) == "0.0040 [-0.0010, 0.0090]"
    assert str(mean_interval([0.985] * 3)) == "0.9850 [0.9850, 0.9850]", "runs that agree"
    assert str(Interval(0.25, 0.25 - 1e-16, 0.25 + 1e-16)) == "0.2500 [0.2500, 0.2500]"
    assert str(Interval(2e-6, 1e-6, 3e-6)) == "0.0000020 [0.0000010, 0.0000030]"
    assert str(Interval(0.5, 0.2, 0.8)) == "0.5 [0.2, 0.8]"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mean_interval([1.0]), ValueError, r"values: expected two or more"),
        (lambda: mean_interval([1.0, np.nan]), ValueError, r"values: expected finite"),
        (lambda: mean_interval([1.0, 2.0], confidence=95), ValueError, r"confidence: expected"),
        (lambda: paired_interval([1.0, 2.0], [1.0]), ValueError, r"a and b: expected one value"),
        (lambda: paired_power(1, 1, 1), ValueError, r"n and spread: .* got 1 and 1"),
        (lambda: paired_power(1, 0, 5), ValueError, r"spread > 0, got 5 and 0"),
        (lambda: paired_power(1, 1, 5, confidence=1), ValueError, r"confidence: expected"),
        (lambda: crossed_interval([[1, 2]], [[1, 2]]), ValueError, r"n_seeds, N.*\(1, 2\)"),
        (lambda: crossed_interval([1, 2], [1, 2]), ValueError, r"a and b: expected one shape"),
        (
            lambda: mcnemar(torch.zeros(3, 2), torch.zeros(2, 2), torch.zeros(3).long()),
            ValueError,
            r"two networks: expected one shape",
        ),
        (
            lambda: mcnemar(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(2).long()),
            ValueError,
            r"logits and y: expected",
        ),
        (lambda: brier_score(torch.zeros(3, 2), torch.zeros(2).long()), ValueError, r"\(2,\)"),
        (lambda: accuracy(torch.zeros(3, 2), torch.zeros(2).long()), ValueError, r"\(3, 2\)"),
        (lambda: accuracy(torch.zeros(3, 2), torch.zeros(3)), TypeError, r"y: expected integer"),
        (lambda: agreement(torch.zeros(3, 2), torch.zeros(3, 4)), ValueError, r"\(3, 4\)"),
        (lambda: accuracy(LOST, torch.zeros(3).long()), ValueError, r"logits: .* got NaN"),
        (lambda: agreement(torch.zeros(3, 2), LOST), ValueError, r"logits: .* got NaN"),
        (lambda: accuracy(torch.zeros(3, 2), ZERO - 100), ValueError, r"y: .*0 to 1, got -100 to"),
        (lambda: accuracy(torch.zeros(3, 2), ZERO + 2), ValueError, r"y: .*0 to 1, got 2 to 2"),
        (lambda: accuracy(torch.zeros(0, 2), ZERO[:0]), ValueError, r"at least one sample"),
        (lambda: agreement(torch.zeros(0, 2), torch.zeros(0, 2)), ValueError, r"at least one sa"),
        (lambda: brier_score(PROBABILITIES, ZERO), ValueError, r"logits: .* got probabilities"),
        (
            lambda: kl_to_teacher(torch.zeros(3, 2), PROBABILITIES),
            ValueError,
            r"teacher_logits: .*got p",
        ),
        (lambda: kl_to_teacher(PROBABILITIES, 2 * PROBABILITIES), ValueError, r"student_logits: "),
        (
            lambda: crossed_interval([[1, 2], [np.nan, 2]], np.zeros((2, 2))),
            ValueError,
            r"a and b: expected finite numbers",
        ),
        (
            lambda: expected_calibration_error(LOST, torch.zeros(3).long()),
            ValueError,
            r"logits: .* got NaN: did the training diverge",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- McNemar's test


def two_networks(both_wrong, only_a, only_b, both_right):
    """Logits of two networks of two classes with these counts, and labels that are all 0."""
    a = [1] * both_wrong + [1] * only_a + [0] * only_b + [0] * both_right
    b = [1] * both_wrong + [0] * only_a + [1] * only_b + [0] * both_right
    answers = torch.tensor([a, b])
    return *torch.nn.functional.one_hot(answers, 2).float(), torch.zeros(len(a)).long()


def test_mcnemar_by_hand():
    found = mcnemar(*two_networks(both_wrong=3, only_a=1, only_b=5, both_right=11))
    assert found[:2] == (1, 5)
    # of 6 tosses at most 1, or at least 5, is one kind: 2 (1 + 6) of 64 outcomes
    assert found.p_value == pytest.approx(14 / 64, rel=1e-12)


@given(*[st.integers(0, 30)] * 4, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_mcnemar_is_the_binomial_tail_and_sees_the_discordant_alone(both, a, b, neither, more):
    found = mcnemar(*two_networks(both, a, b, neither + 1))
    tail = 2 * stats.binom.cdf(min(a, b), a + b, 0.5)
    assert found.p_value == pytest.approx(min(1, tail), rel=1e-9)
    assert mcnemar(*two_networks(both + more, a, b, neither + 2 * more)) == found
    assert mcnemar(*two_networks(both, b, a, neither + 1)).p_value == pytest.approx(found.p_value)


def test_mcnemar_errs_as_often_as_it_says_at_most():
    """Two equally good networks on fresh images: p < 0.05 in no more than one of twenty."""
    rng = np.random.default_rng(0)
    rejected = []
    for _ in range(500):
        counts = rng.multinomial(1000, [0.02, 0.02, 0.02, 0.94])
        rejected.append(mcnemar(*two_networks(*counts)).p_value < 0.05)
    assert 0.01 < np.mean(rejected) < 0.055  # exact tests on counts are a little cautious


# ---- Brier score


def test_brier_score_by_hand_and_by_scikit_learn(logits, labels):
    certain = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
    assert brier_score(certain, torch.tensor([0, 1])) == pytest.approx(1.0)  # of 0 and 2
    assert brier_score(torch.zeros(1, 4), torch.tensor([2])) == pytest.approx(0.75**2 + 3 / 16)
    expected = brier_score_loss(
        labels, logits.double().softmax(dim=1).numpy(), labels=range(7), scale_by_half=False
    )
    assert brier_score(logits, labels) == pytest.approx(expected, rel=1e-9)


# ---- seeds and samples together


def test_a_crossed_interval_by_hand():
    a = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    b = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    # d = [[1, 0, 1], [0, -1, 1]]: the seeds' means 2/3 and 0, the samples' 1/2, -1/2 and 1
    of_seeds, of_samples = (2 / 9) / 2, (7 / 6 / 2) / 3
    of_rest = (1 / 3) / 2 / 6  # residuals ±1/6, ±1/6, ∓1/3: their squares add up to 1/3
    half = 1.959963985 * np.sqrt(of_seeds + of_samples - of_rest)
    assert crossed_interval(a, b) == pytest.approx((1 / 3, 1 / 3 - half, 1 / 3 + half))


def test_a_crossed_interval_covers_other_seeds_and_other_samples():
    rng = np.random.default_rng(0)
    covered, by_seeds_alone = [], []
    for _ in range(600):
        seed, sample = rng.normal(0, 0.1, (20, 1)), rng.normal(0, 1, (1, 60))
        d = 0.5 + seed + sample + rng.normal(0, 1, (20, 60))
        both, seeds = crossed_interval(d, 0 * d), mean_interval(d.mean(axis=1))
        covered.append(both.low <= 0.5 <= both.high)
        by_seeds_alone.append(seeds.low <= 0.5 <= seeds.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)
    assert np.mean(by_seeds_alone) < 0.7  # it never saw another sample


def test_a_crossed_interval_is_no_narrower_than_that_of_either():
    rng = np.random.default_rng(1)
    for _ in range(20):
        d = rng.normal(0, 1, (4, 30))
        both = crossed_interval(d, 0 * d)
        widest = max(stats.sem(d.mean(axis=0)), stats.sem(d.mean(axis=1)))
        assert both.high - both.mean >= 1.9599 * widest


# ---- power


def test_power_against_simulated_experiments():
    rng = np.random.default_rng(0)
    for effect, spread, n in ((10, 14, 8), (10, 14, 20), (-5, 14, 40)):
        d = rng.normal(effect, spread, (4000, n))
        half = stats.t.ppf(0.975, n - 1) * stats.sem(d, axis=1)
        found = np.mean(np.abs(d.mean(axis=1)) > half)
        assert paired_power(effect, spread, n) == pytest.approx(found, abs=0.025)


def test_power_of_no_effect_is_the_rate_of_false_alarms():
    assert paired_power(0, 3, 5) == pytest.approx(0.05)
    assert paired_power(0, 3, 5, confidence=0.8) == pytest.approx(0.2)
    assert paired_power(4, 3, 9) == pytest.approx(paired_power(-4, 3, 9))
    powers = [paired_power(4, 3, n) for n in (2, 4, 8, 16)]
    assert powers == sorted(powers) and powers[-1] > 0.99


def test_power_of_an_effect_that_cannot_be_missed_is_one():
    """Where scipy has nan for the tail on the wrong side."""
    for n in (2, 12, 50, 399):
        for effect in (100.0, 1000.0):
            assert paired_power(effect, 1, n) == pytest.approx(1, abs=1e-6)
