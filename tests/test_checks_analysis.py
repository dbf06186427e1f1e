"""Each checker passes the solution, and tells a beginner which mistake it was."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from checking import *  # noqa: F403
from lab_answers import answers, cells
from scipy import stats

from distill_lib import analysis, calibration
from distill_lib.checks import analysis as check

CHAPTER = "10-did-it-work"
EXERCISES = ("mlp_flops", "mcnemar_p", "agreement_range", "standard_errors", "ece")


# ---- typical mistakes: what a student wrote, and what the message says


def _layers(sizes):
    return [a * b for a, b in pairwise(sizes)]


def _counts(a, b):
    return int((a & ~b).sum()), int((~a & b).sum())


def _test(a, b, **options):
    only_a, only_b = _counts(a, b)
    return stats.binomtest(only_a, only_a + only_b, **options).pvalue


def _chi(correction):
    def mcnemar_p(a, b):
        only_a, only_b = _counts(a, b)
        return stats.chi2.sf((abs(only_a - only_b) - correction) ** 2 / (only_a + only_b), 1)

    return mcnemar_p


def _errors(a, b, ddof=1, pick=lambda unpaired, paired: (unpaired, paired)):
    n = len(a)
    unpaired = np.sqrt(np.var(a, ddof=ddof) / n + np.var(b, ddof=ddof) / n)
    return pick(unpaired, np.std(a * 1.0 - b * 1.0, ddof=ddof) / np.sqrt(n))


def _by_bin(combine, *, skip_empty=True, upper=True):
    def ece(confidence, right, n_bins):
        edges = np.linspace(0, 1, n_bins + 1)
        gaps, shares = [], []
        for low, high in pairwise(edges):
            if upper:
                here = (confidence > low) & (confidence <= high)
            else:
                here = (confidence >= low) & (confidence < high)
            if here.any() or not skip_empty:
                gaps.append(right[here].mean() - confidence[here].mean())
                shares.append(here.mean())
        return combine(np.array(gaps), np.array(shares), n_bins)

    return ece


MISTAKES = {
    "mlp_flops": [
        (lambda sizes, batch: batch * sum(_layers(sizes)), "This counts multiply-adds. As"),
        (lambda sizes, batch: 2 * sum(_layers(sizes)), "the work for one image"),
        (lambda sizes, batch: sum(_layers(sizes)), "two things are missing"),
        (lambda sizes, batch: sum(_layers(sizes)) + sum(sizes[1:]), "the number of parameters"),
        (
            lambda sizes, batch: 2 * batch * (sum(_layers(sizes)) + sum(sizes[1:])),
            "biases are counted too. The counter",
        ),
        (
            lambda sizes, batch: batch * (2 * sum(_layers(sizes)) + sum(sizes[1:])),
            "biases are counted too, once",
        ),
        (lambda sizes, batch: 2 * batch * _layers(sizes)[0], "the first layer alone"),
        (lambda sizes, batch: 2 * batch * int(np.prod(sizes)), "multiplied with each other"),
        (lambda sizes, batch: 50_816, "is not right yet.* It returns 50816"),
        (lambda sizes, batch: print(sizes), "returns nothing"),
    ],
    "mcnemar_p": [
        (lambda a, b: _test(a, b) / 2, "one tail"),
        (lambda a, b: _test(a, b, alternative="less"), "in one direction only: either"),
        (lambda a, b: _test(a, b, alternative="greater"), "in one direction only, the other"),
        (
            lambda a, b: stats.binomtest(int(a.sum()), int(a.sum() + b.sum())).pvalue,
            "All errors of the two",
        ),
        (lambda a, b: stats.binomtest(_counts(a, b)[0], len(a)).pvalue, "not all samples, but"),
        (_chi(0), "by chi squared; the exact"),
        (_chi(1), "with a correction"),
        (
            lambda a, b: stats.fisher_exact([[a.sum(), (~a).sum()], [b.sum(), (~b).sum()]]).pvalue,
            "samples of its own",
        ),
        (lambda a, b: _test(a, b) if sum(_counts(a, b)) else 0.0, "cannot be told apart"),
        (_test, "stopped with ValueError"),
        (lambda a, b: 0.035, "is not right yet.* It returns 0.035"),
    ],
    "agreement_range": [
        (lambda a, b: (1 - a - b, 1 - abs(a - b)), "below zero in one case"),
        (lambda a, b: (max(0, 1 - a - b), 1 - max(a, b)), "agree on a wrong answer too"),
        (lambda a, b: (1 - abs(a - b), max(0, 1 - a - b)), "the wrong way round"),
        (lambda a, b: ((1 - a) * (1 - b), 1 - abs(a - b)), "of independent errors"),
        (lambda a, b: (1 - max(a, b), 1 - abs(a - b)), "The least is too large"),
        (lambda a, b: (max(0, 1 - a - b), 1.0), "The most is too large"),
        (lambda a, b: (abs(a - b), min(1, a + b)), "how often they disagree"),
        (lambda a, b: (0.96, 0.98), "is not right yet.* It returns"),
        (lambda a, b: 1 - a - b, "returns an array of shape"),
    ],
    "standard_errors": [
        (lambda a, b: _errors(a, b)[::-1], "the wrong way round"),
        (lambda a, b: np.array(_errors(a, b)) * np.sqrt(len(a)), "standard deviations of one"),
        (lambda a, b: np.array(_errors(a, b)) * len(a), "for the number of errors"),
        (lambda a, b: np.array(_errors(a, b)) ** 2, "These are variances"),
        (
            lambda a, b: (
                np.std(a, ddof=1) / len(a) ** 0.5 + np.std(b, ddof=1) / len(a) ** 0.5,
                _errors(a, b)[1],
            ),
            "it is their squares that add",
        ),
        (lambda a, b: _errors(a, b, ddof=0), r"`ddof=1` divides by N - 1"),
        (lambda a, b: (_errors(a, b)[0], (a != b).sum() ** 0.5 / len(a)), "equally good networks"),
        (
            lambda a, b: (_errors(a, b)[0], np.std(a != b, ddof=1) / len(a) ** 0.5),
            "a difference has a sign",
        ),
        (lambda a, b: (_errors(a, b)[0],) * 2, "as if the samples were not shared: the second"),
        (lambda a, b: (0.02, 0.01), "is not right yet.* It returns"),
    ],
    "ece": [
        (_by_bin(lambda g, s, n: np.abs(g).mean()), "All bins count the same"),
        (_by_bin(lambda g, s, n: np.abs(g).sum() / n), "divided by the number of bins"),
        (_by_bin(lambda g, s, n: np.abs(g).max()), "the largest gap"),
        (_by_bin(lambda g, s, n: s @ g), "what is left is accuracy less mean confidence"),
        (_by_bin(lambda g, s, n: -(s @ g)), "what is left is mean confidence less accuracy"),
        (_by_bin(lambda g, s, n: abs(s @ g)), "take the size of each gap"),
        (lambda c, r, n: np.abs(c - r).mean(), "sample by sample"),
        (_by_bin(lambda g, s, n: np.sqrt(s @ g**2)), "squared"),
        (_by_bin(lambda g, s, n: s @ np.abs(g), skip_empty=False), "An empty bin made NaN"),
        (_by_bin(lambda g, s, n: s @ np.abs(g), upper=False), "confidence 1 is lost"),
        (
            lambda c, r, n: _by_bin(lambda g, s, n: s @ np.abs(g), upper=False)(
                np.minimum(c, 1 - 1e-12), r, n
            ),
            "went into the bin above",
        ),
        (lambda c, r, n: 0.1, "is not right yet.* It returns 0.1"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    def by_counting(sizes, batch):
        from distill_lib.efficiency import count_flops
        from distill_lib.models import MLP

        return count_flops(MLP(*sizes), torch.zeros(batch, 1, 1, sizes[0]))

    def tail(a, b):
        only_a, only_b = _counts(a, b)
        return min(1, 2 * stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5))

    def from_counts(a, b):
        n, (only_a, only_b) = len(a), _counts(a, b)
        p, q, d = a.mean(), b.mean(), (only_a - only_b) / n
        paired = ((only_a + only_b) / n - d**2) / (n - 1)
        return np.sqrt([(p * (1 - p) + q * (1 - q)) / (n - 1), paired])

    check.mlp_flops(by_counting)
    check.mcnemar_p(tail)
    check.agreement_range(lambda a, b: np.array([max(0, 1 - a - b), min(1 - a, 1 - b) + min(a, b)]))
    check.standard_errors(from_counts)
    check.ece(_by_bin(lambda g, s, n: s @ np.abs(g)))


def test_a_student_cannot_spoil_the_inputs():
    solution = answers(CHAPTER, cut=False)["ece"]

    def student(confidence, right, n_bins):
        found = solution(confidence, right, n_bins)
        confidence[...] = 0
        return found

    check.ece(student)


# ---- what the chapter writes out is what the library does


@pytest.fixture(scope="module")
def chapter():
    defined = {}
    exec(
        "import numpy as np\nimport torch\nfrom scipy import stats\n"
        "from scipy.optimize import minimize_scalar\n"
        "from torch.nn import functional as F\n",
        defined,
    )
    for name in ("mcnemar", "crossed", "power", "reliability", "temperature"):
        exec(cells(CHAPTER)[f"define-{name}"].source, defined)
    return defined


@pytest.fixture
def networks():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 6, (800,), generator=g)
    near = 2.5 * torch.nn.functional.one_hot(y, 6)
    return *(near + 1.5 * torch.randn(800, 6, generator=g) for _ in range(2)), y


def test_mcnemar(chapter, networks):
    assert chapter["mcnemar"](*networks) == pytest.approx(tuple(analysis.mcnemar(*networks)))


def test_intervals_and_power(chapter):
    random = np.random.default_rng(0)
    a, b = (random.random((2, 5, 80)) < 0.2).astype(float)
    mean, half = chapter["crossed_interval"](a - b)
    assert (mean, mean - half, mean + half) == pytest.approx(analysis.crossed_interval(a, b))
    for n in (2, 7, 30):
        assert chapter["paired_power"](5, 14, n) == pytest.approx(analysis.paired_power(5, 14, n))


@pytest.mark.parametrize("n_bins", [5, 15, 100])
def test_calibration(chapter, networks, n_bins):
    logits, _, y = networks
    ours = chapter["reliability"](logits, y, n_bins)
    library = calibration.reliability(logits, y, n_bins=n_bins)
    filled = library.samples > 0
    for mine, theirs in zip(ours, library, strict=True):
        np.testing.assert_allclose(mine, theirs[filled], rtol=1e-5)
    assert chapter["ece"](logits, y, n_bins) == pytest.approx(
        calibration.expected_calibration_error(logits, y, n_bins=n_bins), rel=1e-4
    )


def test_temperature(chapter, networks):
    logits, _, y = networks
    assert chapter["fit_temperature"](logits, y) == pytest.approx(
        calibration.fit_temperature(logits, y), rel=1e-3
    )
