"""Each checker passes the solution, and tells a beginner which mistake it was."""

import numpy as np
import pytest
from checking import *  # noqa: F403
from lab_answers import answers, cells
from scipy import stats

from distill_lib.analysis import mean_interval, paired_interval, paired_power
from distill_lib.checks import comparison as check

CHAPTER = "17-comparison"
EXERCISES = ("paired", "together", "adjusted", "report_winner", "seeds_needed")


# ---- typical mistakes: what a student wrote, and what the message says


def _t(probability, n):
    return stats.t.ppf(probability, n - 1)


def _paired(a, b, quantile=None, ddof=1, root=True):
    d = np.array(a) - np.array(b)
    quantile = _t(0.975, len(d)) if quantile is None else quantile
    half = quantile * np.std(d, ddof=ddof) / (np.sqrt(len(d)) if root else 1)
    return d.mean(), d.mean() - half, d.mean() + half


def _unpaired(a, b):
    mean = np.mean(a) - np.mean(b)
    half = _t(0.975, len(a)) * np.hypot(stats.sem(a), stats.sem(b))
    return mean, mean - half, mean + half


def _together(d, probability, axis=1, times=1):
    half = times * _t(probability, d.shape[axis]) * stats.sem(d, axis=axis)
    return np.stack([d.mean(axis=axis) - half, d.mean(axis=axis) + half], axis=1)


def _normally(d):
    half = stats.norm.isf(0.025 / len(d)) * d.std(axis=1, ddof=1) / d.shape[1] ** 0.5
    return np.stack([d.mean(axis=1) - half, d.mean(axis=1) + half], axis=1)


def _holm(p, factors=None, carry=True, cap=True, back="right"):
    order = np.argsort(p)
    scaled = p[order] * (np.arange(len(p), 0, -1) if factors is None else factors)
    scaled = np.maximum.accumulate(scaled) if carry else scaled
    scaled = scaled.clip(max=1) if cap else scaled
    result = scaled.copy()
    if back == "right":
        result[order] = scaled
    if back == "wrong":
        result = scaled[order]
    return result


def _search(effect, spread, confidence, power=0.8, start=2):
    n = start
    while paired_power(effect, spread, n, confidence=confidence) < power:
        n += 1
    return n


def _look_up(c, f, winners):
    return np.mean(c[range(len(c)), winners]), np.mean(f[range(len(f)), winners])


MISTAKES = {
    "paired": [
        (lambda a, b: _paired(b, a), "The sign is the wrong one"),
        (lambda a, b: np.array(_paired(a, b))[[0, 2, 1]], "Low and high are exchanged"),
        (lambda a, b: _paired(a, b, _t(0.95, len(a))), "an interval of 90 %"),
        (lambda a, b: _paired(a, b, stats.norm.ppf(0.975)), "The quantile is that of the normal"),
        (lambda a, b: _paired(a, b, 1.96), "The quantile 1.96"),
        (lambda a, b: _paired(a, b, root=False), "how far one difference may lie"),
        (lambda a, b: _paired(a, b, ddof=0), "divides by n"),
        (lambda a, b: _paired(a, b, _t(0.975, len(a) + 1)), "one too many"),
        (_unpaired, "not used as pairs"),
        (lambda a, b: (1.0, 0.0, 2.0), "is not right yet.* It returns"),
        (lambda a, b: np.subtract(a, b), "returns an array of shape"),
    ],
    "together": [
        (lambda d: _together(d, 0.975), "holds by itself"),
        (lambda d: _together(d, 1 - 0.05 / len(d)), "all of it lies on one side"),
        (_normally, "The quantile is that of the normal"),
        (lambda d: _together(d, 1 - 0.025 / d.shape[1]), "the number of seeds"),
        (lambda d: _together(d, 0.975, times=len(d)), "as many times longer"),
        (lambda d: _together(d, 1 - 0.025 / len(d)).T, "The ends stand in two rows"),
        (lambda d: np.zeros((len(d), 2)), "is not right yet.* It returns"),
    ],
    "adjusted": [
        (lambda p: (len(p) * p).clip(max=1), "that is Bonferroni. Holm"),
        (lambda p: len(p) * p, "some come out above 1"),
        (lambda p: _holm(p, carry=False), "A later value is smaller"),
        (lambda p: _holm(p, carry=False, cap=False), "Two things are missing"),
        (lambda p: _holm(p, cap=False), "Some values are above 1"),
        (lambda p: _holm(p, back="not"), "The values are right, but sorted"),
        (lambda p: _holm(p, back="wrong"), "went to the wrong places"),
        (lambda p: _holm(p, np.arange(len(p)) + 1, carry=False), "The factors run the wrong way"),
        (stats.false_discovery_control, "share of false discoveries"),
        (lambda p: p, "is not right yet.* It returns"),
    ],
    "report_winner": [
        (lambda c, f: (c.min(1).mean(), f.min(1).mean()), "a winner of their own"),
        (lambda c, f: _look_up(c, f, c.argmax(1)), "has the most errors"),
        (
            lambda c, f: tuple(np.array(_look_up(c.T, f.T, c.T.argmin(1)))),
            "a winner in every column",
        ),
        (
            lambda c, f: (c[:, c.mean(0).argmin()].mean(), f[:, c.mean(0).argmin()].mean()),
            "One winner for all repeats",
        ),
        (
            lambda c, f: (c[:, c.argmin(1)].mean(), f[:, c.argmin(1)].mean()),
            "takes these columns in every row",
        ),
        (lambda c, f: _look_up(c, f, c.argmin(1))[::-1], "the wrong way round: first"),
        (lambda c, f: (c.min(1).mean(), f.mean()), "the mean of all methods"),
        (lambda c, f: _look_up(f, c, f.argmin(1)), "The fresh numbers choose"),
        (lambda c, f: (188.0, 200.0), "is not right yet.* It returns"),
        (lambda c, f: c.argmin(1), "returns an array of shape"),
    ],
    "seeds_needed": [
        (lambda e, s, m: _search(e, s, 0.95), "for a single comparison"),
        (lambda e, s, m: _search(e, s, 1 - 0.05 / m) - 1, "one seed too few"),
        (lambda e, s, m: _search(e, s, 1 - 0.05 / m) + 1, "one seed too many"),
        (lambda e, s, m: _search(e, s, 1 - 0.1 / m), "a one-sided 95 %"),
        (lambda e, s, m: _search(e, s, 1 - 0.025 / m), "halved for the two sides"),
        (lambda e, s, m: _search(e, s, 0.95, 1 - 0.2 / m), "the 5 % that the comparisons share"),
        (lambda e, s, m: _search(e, s, 1 - 0.05 / m, 0.95), "are both set to 95 %"),
        (lambda e, s, m: _search(e, s, 1 - 0.05 / m, start=3), "begin with two seeds"),
        (lambda e, s, m: 44, "is not right yet.* It returns 44"),
        (lambda e, s, m: print(m), "returns nothing"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    def by_scipy(a, b):
        found = stats.ttest_rel(a, b)
        ends = found.confidence_interval()
        return np.mean(a) - np.mean(b), ends.low, ends.high

    def one_by_one(p):
        result, largest = [None] * len(p), 0.0
        for i, place in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
            largest = max(largest, (len(p) - i) * p[place])
            result[place] = min(1.0, largest)
        return result

    check.paired(by_scipy)
    check.paired(paired_interval)
    check.together(lambda d: [mean_interval(r, confidence=1 - 0.05 / len(d))[1:] for r in d])
    check.adjusted(one_by_one)
    check.report_winner(
        lambda c, f: (c.min(1).mean(), np.take_along_axis(f, c.argmin(1)[:, None], 1).mean())
    )
    check.seeds_needed(
        lambda e, s, m: next(
            n for n in range(2, 9999) if paired_power(e, s, n, confidence=1 - 0.05 / m) >= 0.8
        )
    )


def test_a_student_cannot_spoil_the_inputs():
    def student(p):
        found = _holm(p)
        p[...] = 0
        return found

    check.adjusted(student)


# ---- what the chapter writes out is what the library, and the literature, does


@pytest.fixture(scope="module")
def chapter():
    defined = {"np": np, "stats": stats, "mean_interval": mean_interval}
    for name in ("curse", "simultaneous", "holm"):
        exec(cells(CHAPTER)[f"define-{name}"].source, defined)
    return defined


def test_holm_steps_down(chapter):
    """Against the definition: step down through the sorted p-values, stop at the first failure."""
    random = np.random.default_rng(0)
    for _ in range(300):
        p = random.random(int(random.integers(1, 12))) ** 4
        rejected = set()
        for i, place in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
            if p[place] > 0.05 / (len(p) - i):
                break
            rejected.add(place)
        assert set(np.flatnonzero(chapter["holm"](p))) == rejected


def test_simultaneous_intervals_and_the_exercise_agree(chapter):
    d = np.random.default_rng(0).normal(1, 3, size=(7, 5))
    ends = [interval[1:] for interval in chapter["simultaneous"](d, 7)]
    np.testing.assert_allclose(answers(CHAPTER, cut=False)["together"](d), ends)


@pytest.mark.parametrize("k", [2, 3, 17])
def test_the_curse_is_the_mean_of_a_largest_normal(chapter, k):
    """E max of k normals, by quadrature."""
    x = np.linspace(-9, 9, 20_001)
    exact = np.trapezoid(x * k * stats.norm.pdf(x) * stats.norm.cdf(x) ** (k - 1), x)
    found = chapter["winners_curse"](k, 5, 15, np.random.default_rng(0), repeats=50_000)
    assert found == pytest.approx(15 / np.sqrt(5) * exact, rel=0.02)
