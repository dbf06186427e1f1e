"""Each checker passes the solution, and tells a beginner which mistake it was."""

import math

import numpy as np
import pytest
from checking import *  # noqa: F403
from lab_answers import answers
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from distill_lib.checks import teacher as check
from distill_lib.information import entropy
from distill_lib.models import CNN, count_parameters

CHAPTER = "07-teacher"
EXERCISES = (
    "n_parameters",
    "double_softmax_loss",
    "top_errors",
    "calibrating_temperature",
    "doubt_kept",
)
FEWEST = 6  # messages for an exercise


# ---- typical mistakes: what a student wrote, and what the message says


def _count(*, bias=1, window=25, joined=True, places=16, last=True, channels=None, hidden=None):
    """A student's formula, right but for what is passed."""

    def n_parameters(c, h):
        a, b = channels or c
        h = hidden or h
        n = a * (window + bias) + b * (window * (a if joined else 1) + bias)
        n += h * (places * b + bias)
        return n + 10 * (h + bias) if last else n

    return n_parameters


def _multiplications(c, h):
    a, b = c
    return a * 24 * 24 * 25 + b * 8 * 8 * 25 * a + h * 16 * b + 10 * h


def _best(z, k):
    return np.argsort(z, axis=1)[:, -k:]


def _top(count):
    def top_errors(z, y, k):
        return count(_best(z, k) != y[:, None])

    return top_errors


def _mean_nll(z, y, beta):
    return (logsumexp(beta * z, axis=1) - beta * z[np.arange(len(y)), y]).mean()


def _naive_nll(z, y, beta):
    e = np.exp(beta * z)
    return -np.log((e / e.sum(axis=1, keepdims=True))[np.arange(len(y)), y]).mean()


def _search(nll=_mean_nll, *, answer=lambda beta: 1 / beta, bounds=(0.1, 10)):
    def calibrating_temperature(z, y):
        options = {"xatol": 1e-6}
        best = minimize_scalar(
            lambda beta: nll(z, y, beta), bounds=bounds, method="bounded", options=options
        )
        return answer(best.x)

    return calibrating_temperature


def _grid(z, y):
    betas = np.geomspace(0.1, 10, 30)
    return 1 / betas[np.argmin([_mean_nll(z, y, beta) for beta in betas])]


def _certain_as_right(z, y):
    accuracy = (z.argmax(axis=1) == y).mean()

    def gap(beta):
        return abs(softmax(beta * z, axis=1).max(axis=1).mean() - accuracy)

    best = minimize_scalar(gap, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-6})
    return 1 / best.x


def _doubt(z, tau, axis=1):
    return np.asarray(entropy(softmax(z / tau, axis=axis)))


def _naive_doubt(z, tau):
    p = softmax(z / tau, axis=1)
    return -(p * np.log(p)).sum(axis=1)


MISTAKES = {
    "n_parameters": [
        (_count(bias=0), "biases are missing"),
        (_count(joined=False), "all maps before it"),
        (_count(places=1), "a whole 4 × 4 square"),
        (_count(places=64), "not 8 × 8"),
        (_count(last=False), "last layer is missing"),
        (_count(window=9), "5 × 5, not 3 × 3"),
        (_multiplications, "multiplications of one image"),
        (_count(channels=(16, 32), hidden=128), "same for every network"),
        (lambda c, h: c[0] * 26 + c[1] * (25 * c[0] + 1) + h * 17 + 10 * (h + 1), "every channel"),
        (lambda c, h: sum(c) + h, "is not right yet"),
        (lambda c, h: print(c), "returns nothing: is there a `return`"),
    ],
    "double_softmax_loss": [
        (lambda k: 0.0, "right with one softmax"),
        (lambda k: np.log(k), "knows nothing"),
        (lambda k: math.e / (math.e + k - 1), "the probability of the label"),
        (lambda k: math.log(math.e / (math.e + k - 1)), "sign is wrong"),
        (lambda k: math.log(1 + k / math.e), "One class too many"),
        (lambda k: math.log2(1 + (k - 1) / math.e), "in bits"),
        (lambda k: math.log(math.e + k - 1), "certain of a wrong class"),
        (lambda k: 1.4611501717, "for ten classes alone"),
        (lambda k: 1.0, "is not right yet.* It returns 1.0"),
    ],
    "top_errors": [
        (lambda z, y, k: len(z) - _top(lambda m: m.all(axis=1).sum())(z, y, k), "the hits"),
        (_top(lambda m: m.all(axis=1).mean()), "a share of the images"),
        (lambda z, y, k: (z.argmax(axis=1) != y).sum(), "`k` is not used"),
        (lambda z, y, k: (np.argsort(z, axis=1)[:, -k] != y).sum(), "place k is compared"),
        (
            lambda z, y, k: (np.argsort(z, axis=1)[:, :k] != y[:, None]).all(axis=1).sum(),
            "smallest first",
        ),
        (_top(lambda m: m.any(axis=1).sum()), r"if \*any\* of the k"),
        (_top(lambda m: m.sum()), "count images"),
        (
            lambda z, y, k: (np.argsort(z, axis=1)[:, -k - 1 :] != y[:, None]).all(axis=1).sum(),
            "one class too many",
        ),
        (
            lambda z, y, k: (np.argsort(z, axis=1)[:, -k + 1 :] != y[:, None]).all(axis=1).sum(),
            "one class too few",
        ),
        (lambda z, y, k: 17, "is not right yet.* It returns 17"),
        (_top(lambda m: m.all(axis=1)), "an array of shape"),
    ],
    "calibrating_temperature": [
        (lambda z, y: None, "returns nothing: is there a `return`"),
        (lambda z, y: "warm", "returns a str"),
        (lambda z, y: -1.0, "number above zero"),
        (lambda z, y: float("nan"), "number above zero"),
        (lambda z, y: 1.0, "always returns 1, whatever"),
        (_search(answer=lambda beta: beta), r"This is 1/τ"),
        (_search(_naive_nll), "an exponential overflows"),
        (_grid, "not right to three digits"),
        (_certain_as_right, "another rule"),
        (_search(lambda *inputs: -_mean_nll(*inputs)), "always returns 0.1, whatever"),
        (lambda z, y: np.ptp(z), "Is it the NLL that you minimise"),
    ],
    "doubt_kept": [
        (lambda a, b, tau: _doubt(b, tau).mean() / _doubt(a, tau).mean(), "other way round"),
        (lambda a, b, tau: _doubt(a, 1).mean() / _doubt(b, 1).mean(), "temperature is not used"),
        (lambda a, b, tau: _doubt(a, 1 / tau).mean() / _doubt(b, 1 / tau).mean(), "multiplied by"),
        (lambda a, b, tau: _doubt(a, tau).mean() - _doubt(b, tau).mean(), "a difference"),
        (
            lambda a, b, tau: (
                entropy(softmax(a / tau, axis=1).mean(axis=0))
                / entropy(softmax(b / tau, axis=1).mean(axis=0))
            ),
            "the entropy of the mean target",
        ),
        (lambda a, b, tau: _doubt(a, tau).sum() / _doubt(b, tau).sum(), "These are sums"),
        (
            lambda a, b, tau: (
                softmax(a / tau, axis=1).max(axis=1).mean()
                / softmax(b / tau, axis=1).max(axis=1).mean()
            ),
            "how sure the network is",
        ),
        (
            lambda a, b, tau: (
                entropy(softmax(a / tau, axis=0), axis=0).mean()
                / entropy(softmax(b / tau, axis=0), axis=0).mean()
            ),
            "runs over the images",
        ),
        (lambda a, b, tau: 0.5, "is not right yet.* It returns 0.5"),
        (lambda a, b, tau: _naive_doubt(a, tau).mean() / _naive_doubt(b, tau).mean(), "NaN"),
        (lambda a, b, tau: _doubt(a, tau), "an array of shape"),
    ],
}


def test_a_right_answer_by_another_way_passes():
    check.n_parameters(lambda channels, hidden: count_parameters(CNN(channels, hidden)))
    check.double_softmax_loss(lambda k: math.log(math.e + k - 1) - 1)
    check.top_errors(
        lambda z, y, k: int(((z > z[np.arange(len(y)), y][:, None]).sum(axis=1) >= k).sum())
    )
    check.calibrating_temperature(_search(lambda z, y, tau: _mean_nll(z, y, 1 / tau), answer=float))
    check.doubt_kept(
        lambda a, b, tau: (
            entropy(softmax(a / tau, axis=1), base=2).mean()
            / entropy(softmax(b / tau, axis=1), base=2).mean()
        )
    )


def test_inputs_are_drawn_afresh():
    """So that answers learnt by heart fail."""
    solution = answers(CHAPTER, cut=False)["calibrating_temperature"]
    seen = []

    def student(logits, labels):
        seen.append(logits.copy())
        return solution(logits, labels)

    check.calibrating_temperature(student)
    check.calibrating_temperature(student)
    half = len(seen) // 2
    assert not any(np.array_equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


def test_checkers_are_stable():
    """Random inputs never fail a right answer, nor pass a wrong one."""
    right = answers(CHAPTER, cut=False)
    for _ in range(20):
        for name in EXERCISES:
            getattr(check, name)(right[name])
            for student, message in MISTAKES[name][:6]:
                with np.errstate(all="ignore"), pytest.raises(AssertionError, match=message):
                    getattr(check, name)(student)
