"""Each checker passes the solution, and tells a beginner which mistake it was."""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from checking import *  # noqa: F403
from lab_answers import answers
from scipy import stats
from torch.nn import functional as F

from distill_lib.analysis import paired_interval
from distill_lib.checks import student as check

CHAPTER = "09-student"
EXERCISES = ("interval_widths", "seeds_needed", "inherited", "sign_flip_p", "many_logits")
ALIKE = 1  # message, at most, for two mistakes


# ---- typical mistakes: what a student wrote, and what the message says


def _width(a, b, *, level=0.95, ddof=1):
    d = a - b
    return 2 * stats.t.ppf((1 + level) / 2, len(d) - 1) * d.std(ddof=ddof) / len(d) ** 0.5


def _welch(a, b, *, level=0.95, pooled=False):
    low, high = stats.ttest_ind(a, b, equal_var=pooled).confidence_interval(level)
    return high - low


def _normal_widths(a, b, quantile=None):
    quantile = stats.norm.ppf(0.975) if quantile is None else quantile
    apart = np.hypot(stats.sem(a), stats.sem(b))
    return 2 * quantile / len(a) ** 0.5 * (a - b).std(ddof=1), 2 * quantile * apart


def _count(half_width_of, *, first=2, off=0):
    def seeds_needed(s, half_width):
        n = first
        while half_width_of(n, s) > half_width and n < 5000:
            n += 1
        return n + off

    return seeds_needed


_quantile = cache(stats.t.ppf)


def _half(n, s, df=-1, tail=0.975):
    return _quantile(tail, n + df) * s / np.sqrt(n)


def _masks(teacher, student, y):
    t, s = teacher.argmax(dim=1), student.argmax(dim=1)
    return t != y, s != y, t == s


def _flips(d):
    return np.array([np.dot(signs, d) for signs in product((1, -1), repeat=len(d))])


def _forward(x, w1, b1, w2, b2, *, relu=True, axis=True):
    first, second = (b1[:, None], b2[:, None]) if axis else (b1, b2)
    hidden = x @ w1.transpose(1, 2) + first
    return (hidden.relu() if relu else hidden) @ w2.transpose(1, 2) + second


def _in_a_loop(x, w1, b1, w2, b2):
    return torch.stack(
        [F.linear(F.linear(x, w1[i], b1[i]).relu(), w2[i], b2[i]) for i in range(len(w1))]
    )


def _mixed(x, w1, b1, w2, b2):
    hidden = (torch.einsum("bd,nhd->nbh", x, w1) + b1[:, None]).relu()
    return torch.einsum("mbh,nkh->nbk", hidden, w2) + b2[:, None]


MISTAKES = {
    "interval_widths": [
        (lambda a, b: (_welch(a, b), _width(a, b)), "the wrong way round"),
        (lambda a, b: (_width(a, b) / 2, _welch(a, b) / 2), "half-widths"),
        (_normal_widths, "The quantile is that of the normal distribution"),
        (lambda a, b: _normal_widths(a, b, 1.96), "The quantile 1.96"),
        (lambda a, b: (_width(a, b, level=0.9), _welch(a, b, level=0.9)), "5 % on each side"),
        (lambda a, b: (_width(a, b, ddof=0), _welch(a, b)), r"`ddof=1` divides by n - 1"),
        (lambda a, b: (_width(a, b), _welch(a, b, pooled=True)), "both arms vary equally"),
        (lambda a, b: (_width(a, b) * len(a) ** 0.5, _welch(a, b)), "lost its √n"),
        (lambda a, b: (_width(a, b),) * 2, "Both are computed with pairs"),
        (lambda a, b: (_welch(a, b),) * 2, "Both are computed without pairs"),
        (lambda a, b: (18.0, 30.0), "is not right yet.* It returns"),
        (lambda a, b: _width(a, b), "returns an array of shape"),
    ],
    "seeds_needed": [
        (
            lambda s, h: max(2, int(np.ceil((stats.norm.ppf(0.975) * s / h) ** 2))),
            "too sure of a spread",
        ),
        (_count(lambda n, s: _half(n, s, df=0)), "n - 1 degrees of freedom"),
        (_count(lambda n, s: _half(n, s, tail=0.95)), "5 % on one side"),
        (_count(lambda n, s: 2 * _half(n, s)), "the whole width"),
        (_count(_half, off=-1), "one pair too few"),
        (_count(_half, off=1), "one pair too many"),
        (lambda s, h: 2 * _count(_half)(s, h), "counts students"),
        (_count(_half, first=1), "one pair too few|is not right yet"),  # t with 0 degrees is NaN
        (lambda s, h: float(_count(_half)(s, h)), "should be an integer"),
        (lambda s, h: 18, "is not right yet.* It returns 18"),
    ],
    "inherited": [
        (lambda t, s, y: (_masks(t, s, y)[1][_masks(t, s, y)[0]]).float().mean(), "both are wrong"),
        (
            lambda t, s, y: (_masks(t, s, y)[0] & _masks(t, s, y)[2]).float().mean(),
            "the share of all images",
        ),
        (
            lambda t, s, y: _masks(t, s, y)[2][_masks(t, s, y)[1]].float().mean(),
            "a share of the student's mistakes",
        ),
        (
            lambda t, s, y: (
                _masks(t, s, y)[2][_masks(t, s, y)[0] & _masks(t, s, y)[1]].float().mean()
            ),
            "images on which both are wrong: the student may",
        ),
        (lambda t, s, y: _masks(t, s, y)[2].float().mean(), "agreement on all images"),
        (
            lambda t, s, y: 1 - _masks(t, s, y)[2][_masks(t, s, y)[0]].float().mean(),
            r"does \*not\* repeat",
        ),
        (
            lambda t, s, y: (~_masks(t, s, y)[1])[_masks(t, s, y)[0]].float().mean(),
            "puts right",
        ),
        (
            lambda t, s, y: int((_masks(t, s, y)[0] & _masks(t, s, y)[2]).sum()),
            "This is a count",
        ),
        (lambda t, s, y: _masks(t, s, y)[1].float().mean(), "the student's error rate"),
        (lambda t, s, y: 1 / 3, "is not right yet.* It returns 0.3333"),
        (lambda t, s, y: None, "returns nothing"),
    ],
    "sign_flip_p": [
        (lambda d: np.mean(_flips(d) >= abs(d.sum())), "one-sided"),
        (lambda d: np.mean(_flips(d) <= d.sum()), "on one side. Compare sizes"),
        (lambda d: np.mean(abs(_flips(d)) > abs(d.sum())), "belong to it"),
        (
            lambda d: (np.sum(abs(_flips(d)) >= abs(d.sum())) - 1) / (2 ** len(d) - 1),
            "leave none out",
        ),
        (lambda d: stats.binomtest(int((d > 0).sum()), int((d != 0).sum())).pvalue, "sign test"),
        (lambda d: stats.ttest_1samp(d, 0).pvalue, "t test"),
        (lambda d: np.mean(abs(_flips(d)) < abs(d.sum())), "the complement"),
        (lambda d: np.sum(abs(_flips(d)) >= abs(d.sum())), "how many ways"),
        (lambda d: 0.0625, "is not right yet.* It returns 0.0625"),
        (lambda d: _flips(d), "returns an array of shape"),
    ],
    "many_logits": [
        (lambda *w: _forward(*w, relu=False), "There is no ReLU"),
        (lambda *w: _forward(*w).relu(), "may be negative"),
        (lambda *w: _forward(*w).softmax(dim=-1), "These are probabilities"),
        (lambda x, w1, b1, w2, b2: _forward(x, w1, 0 * b1, w2, 0 * b2), "biases are missing"),
        (lambda *w: _forward(*w, axis=False), "went to image i"),
        (lambda *w: _forward(*w).transpose(0, 1), "the networks come first"),
        (lambda *w: _forward(*w).transpose(1, 2), "The last two axes"),
        (lambda *w: _forward(*w).mean(dim=0), "an ensemble"),
        (_mixed, "The networks are mixed"),
        (_in_a_loop, "there is a loop over the networks"),
        (lambda x, w1, b1, w2, b2: F.linear(x, w1), "stopped with RuntimeError"),
        (lambda x, w1, *w: torch.zeros(len(w1), len(x), w[-1].shape[1]), "is not right yet"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    def from_the_library(a, b):
        return np.ptp(paired_interval(a, b)[1:]), _welch(a, b)

    def by_permutation(d):
        """SciPy's exact test of paired samples."""
        found = stats.permutation_test(
            (d, np.zeros(len(d))),
            lambda a, b: abs((a - b).sum()),
            permutation_type="samples",
            n_resamples=np.inf,
            alternative="greater",
        )
        return found.pvalue

    def by_bmm(x, w1, b1, w2, b2):
        hidden = torch.baddbmm(b1[:, None], x.expand(len(w1), -1, -1), w1.mT).relu()
        return torch.baddbmm(b2[:, None], hidden, w2.mT)

    check.interval_widths(from_the_library)
    check.sign_flip_p(by_permutation)
    check.many_logits(by_bmm)
    check.many_logits(_forward)
    check.inherited(
        lambda t, s, y: float(np.mean((t.argmax(1) == s.argmax(1))[t.argmax(1) != y].numpy()))
    )
    check.seeds_needed(lambda s, h: np.int64(next(n for n in range(2, 999) if _half(n, s) <= h)))


def test_a_student_cannot_spoil_the_inputs():
    solutions = answers(CHAPTER, cut=False)

    def widths(a, b):
        found = solutions["interval_widths"](a, b)
        a[...] = 0
        return found

    def logits(x, *weights):
        found = solutions["many_logits"](x, *weights)
        x[...] = 0
        return found

    check.interval_widths(widths)
    check.many_logits(logits)


def test_inputs_are_drawn_afresh():
    """So that answers learnt by heart fail."""
    seen = []

    def student(d):
        seen.append(d.tolist())
        return np.mean(abs(_flips(d)) >= abs(d.sum()))

    check.sign_flip_p(student)
    check.sign_flip_p(student)
    half = len(seen) // 2
    assert seen[:half] != seen[half:]


def test_checkers_are_stable():
    """Random inputs never fail a right answer, nor pass a wrong one."""
    solutions = answers(CHAPTER, cut=False)
    for repeat in range(20):
        for name in EXERCISES:
            getattr(check, name)(solutions[name])
            for student, message in MISTAKES[name][repeat % 4 :: 4]:  # each five times
                with np.errstate(all="ignore"), pytest.raises(AssertionError, match=message):
                    getattr(check, name)(student)
